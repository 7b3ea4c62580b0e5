"""Two runs compared: paired, so what both runs find hard cancels; runs on different tests are refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from serkit.errors import InputError
from serkit.evaluation.compare import compare_folders, compare_runs, mix_folders
from serkit.evaluation.metrics import accuracy, uar
from serkit.evaluation.report import create_report
from serkit.evaluation.statistics.bootstrap import bootstrap
from serkit.evaluation.statistics.planning import plan_runs
from serkit.evaluation.statistics.significance import holm, mcnemar
from serkit.evaluation.verdict import format_mixed, format_pair, format_plan, say_difference, say_power

CLASSES = ["happy", "sad"]


def create_run(right: np.ndarray, seeds=(0,), order=None) -> pl.DataFrame:
    """A table from ``right`` (seeds, speakers, utterances): booleans."""
    order = order or CLASSES
    rows = []
    for seed, table in zip(seeds, right, strict=True):
        for speaker, answers in enumerate(table):
            for number, good in enumerate(answers.tolist()):
                truth = CLASSES[number % 2]
                guess = truth if good else CLASSES[1 - number % 2]
                rows.append(
                    {
                        "id": f"{speaker}-{number}",
                        "fold": str(speaker % 2),
                        "seed": seed,
                        "part": "test",
                        "truth": truth,
                        "prediction": guess,
                        **{f"p_{name}": 0.8 if name == guess else 0.2 for name in order},
                        "speaker": f"s{speaker}",
                        "gender": None,
                        "corpus": "demo",
                    }
                )
    return pl.DataFrame(rows, schema_overrides={"gender": pl.String})


def draw(seeds=1, speakers=16, each=20, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Two runs with the same hard speakers, the second one better by 0.08 for each."""
    generator = np.random.default_rng(seed)
    hard = generator.uniform(0.3, 0.85, (speakers, 1))
    luck = generator.random((seeds, speakers, each))
    return luck < hard, luck < hard + 0.08


def score(table: pl.DataFrame, metric) -> float:
    values = [
        metric(rows["truth"].to_list(), rows["prediction"].to_list(), CLASSES) for _, rows in table.group_by("seed")
    ]
    return float(np.mean(values))


@pytest.mark.parametrize(("name", "metric"), [("uar", uar), ("accuracy", accuracy)])
def test_difference_of_means_over_seeds(name, metric):
    first, second = draw(seeds=3)
    a, b = create_run(first, (0, 1, 2)), create_run(second[:2], (5, 9))
    made = compare_runs(a, b, name)
    assert made["a"]["value"] == pytest.approx(score(a, metric)) and made["a"]["seeds"] == 3
    assert made["b"]["value"] == pytest.approx(score(b, metric)) and made["b"]["seeds"] == 2
    assert made["difference"] == pytest.approx(score(b, metric) - score(a, metric))
    assert made["low"] < made["difference"] < made["high"]
    assert (made["n"], made["speakers"]) == (320, 16)
    assert made["method"] == ("paired; means over 3 and 2 seeds; percentile bootstrap over 16 speakers, 2000 resamples")


def test_pairing_takes_away_what_both_runs_find_hard():
    first, second = draw(each=40)
    a, b = create_run(first), create_run(second)
    made = compare_runs(a, b)
    columns = [a[name].to_list() for name in ("truth", "prediction")]
    alone = bootstrap(*columns, CLASSES, a["speaker"].to_list())["uar"]
    assert made["high"] - made["low"] < 0.5 * (alone.high - alone.low)
    assert made["low"] > 0 and made["below_zero"] == 0.0


def test_interval_agrees_with_a_loop_over_speakers():
    first, second = draw(seeds=2)
    made = compare_runs(create_run(first, (0, 1)), create_run(second, (0, 1)), "accuracy", resamples=4000)
    gain = (second.astype(float) - first).mean(axis=(0, 2))
    drawn = gain[np.random.default_rng(1).integers(0, 16, (4000, 16))].mean(axis=1)
    assert (made["low"], made["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)


def test_the_other_way_round_is_the_negative():
    first, second = draw(speakers=6, each=6, seed=4)
    a, b = create_run(first), create_run(second)
    forth, back = compare_runs(a, b), compare_runs(b, a)
    assert back["difference"] == pytest.approx(-forth["difference"])
    # Units with the same sums are drawn in another order, so the intervals agree but for chance.
    assert (back["low"], back["high"]) == pytest.approx((-forth["high"], -forth["low"]), abs=0.02)
    assert compare_runs(a, b) == forth
    assert compare_runs(a, b.sample(fraction=1.0, shuffle=True, seed=1)) == forth


def test_a_run_does_not_differ_from_itself():
    first, _ = draw(seeds=2)
    made = compare_runs(create_run(first, (0, 1)), create_run(first[::-1], (0, 1), order=CLASSES[::-1]))
    assert made["difference"] == pytest.approx(0) and made["low"] == pytest.approx(0) == made["high"]
    assert made["below_zero"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.filter(pl.col("id") != "0-2"), "only the first run judges utterance '0-2'"),
        (lambda table: table.with_columns(id="x" + pl.col("id")), "only the first run judges utterance '0-0'"),
        (
            lambda table: table.with_columns(
                truth=pl.when(pl.col("id") == "1-2").then(pl.lit("sad")).otherwise("truth")
            ),
            "about utterance '1-2': happy of speaker s1 and sad of speaker s1",
        ),
        (
            lambda table: table.with_columns(speaker=pl.lit(None, pl.String)),
            "'0-0': happy of speaker s0 and happy of speaker unknown",
        ),
        (lambda table: table.with_columns(p_angry=pl.lit(0.0)), "different classes: happy, sad and happy, sad, angry"),
    ],
)
def test_runs_on_different_tests_are_refused(change, message):
    table = create_run(draw(speakers=3, each=4)[0])
    with pytest.raises(InputError, match=message):
        compare_runs(table, change(table))


def test_bad_arguments_are_refused():
    table = create_run(draw(speakers=3, each=4)[0])
    with pytest.raises(InputError, match="no metric 'ua': did you mean 'uar'"):
        compare_runs(table, table, "ua")
    again = table.with_columns(seed=pl.lit(1, pl.Int64), speaker=pl.lit("other"))
    with pytest.raises(InputError, match="more than one truth or speaker"):
        compare_runs(pl.concat([table, again]), table)


def write_runs(folder):
    first, second = draw(each=40)
    for name, right in (("a", first), ("b", second), ("c", first)):
        (folder / name).mkdir()
        create_run(right).write_parquet(folder / name / "predictions.parquet")
    (folder / "b" / "provenance.json").write_text('{"stamp": "speakers shared: 0"}')
    return [folder / name for name in "abc"]


def test_folders_are_compared_with_the_first(tmp_path):
    a, b, c = write_runs(tmp_path)
    better, same = compare_folders([a, b, c])
    assert (better["base"], better["run"], same["run"]) == (str(a), str(b), str(c))
    line, *details = format_pair(better).split("\n")
    assert len(details) == 3 and f"{b} {better['b']['value']:.3f}, {a} {better['a']['value']:.3f}" in line
    assert f"{better['difference']:+.3f} (95 % interval {better['low']:+.3f} to {better['high']:+.3f}" in line
    assert f"{a} speakers shared: not recorded, {b} speakers shared: 0" in details[0]
    assert f"{b} is higher (better): the interval lies above 0, p " in line
    assert f"{a} is lower (worse): the interval lies below 0, p " in format_pair(compare_folders([b, a])[0])
    assert "no difference shown: the interval contains 0 (and excludes differences larger than 0.000)" in format_pair(
        same
    )


def test_folders_name_what_is_wrong(tmp_path):
    a, b, _ = write_runs(tmp_path)
    with pytest.raises(InputError, match="two run folders or more"):
        compare_folders([a])
    with pytest.raises(InputError, match="none/predictions.parquet: no such"):
        compare_folders([a, tmp_path / "none"])
    table = pl.read_parquet(b / "predictions.parquet")
    table.filter(pl.col("id") != "0-1").write_parquet(b / "predictions.parquet")
    with pytest.raises(InputError, match=f"{a} and {b}: only the first run judges utterance '0-1'"):
        compare_folders([a, b])
    table.drop("gender").write_parquet(b / "predictions.parquet")
    with pytest.raises(InputError, match="b/predictions.parquet: predictions: has no column 'gender'"):
        compare_folders([a, b])


def test_few_speakers_are_mentioned():
    few = create_run(draw(speakers=3, each=4)[0])
    pair = {"base": "a", "run": "b", "stamps": [None, None], "protocol_differences": [], **compare_runs(few, few)}
    assert "few speakers: it is likely too narrow" in format_pair(pair)


def test_the_permutation_test_flips_speakers():
    first, second = draw(seeds=2, speakers=8, each=12, seed=1)
    made = compare_runs(create_run(first, (0, 1)), create_run(second, (0, 1)), "accuracy")
    gain = (second.astype(float) - first).mean(axis=0).sum(axis=1)
    flips = np.array([np.dot(signs, gain) for signs in product((-1, 1), repeat=8)])
    assert made["p"] == pytest.approx(np.mean(np.abs(flips) >= abs(gain.sum()) - 1e-9))
    assert made["permutation"]["difference"] == pytest.approx(made["difference"])


def test_swapping_the_runs_swaps_everything_but_p():
    first, second = draw(seeds=5, speakers=8, each=12, seed=1)
    a, b = create_run(first, range(5)), create_run(second, range(5))
    forth, back = compare_runs(a, b), compare_runs(b, a)
    assert forth["p"] == back["p"] and forth["mcnemar"]["p"] == pytest.approx(back["mcnemar"]["p"])
    assert forth["mcnemar"]["only_b"] == back["mcnemar"]["only_a"] > forth["mcnemar"]["only_a"]
    for name in ("welch", "paired", "wilcoxon"):
        assert forth["over_seeds"][name]["effect"] == pytest.approx(-back["over_seeds"][name]["effect"])
        assert forth["over_seeds"][name]["p"] == pytest.approx(back["over_seeds"][name]["p"])


def test_mcnemar_counts_pairs_of_seeds_and_does_not_take_them_for_new_utterances():
    first, second = draw(seeds=3, speakers=8, each=20, seed=2)
    made = compare_runs(create_run(first, (0, 1, 2)), create_run(second, (0, 1, 2)))["mcnemar"]
    counts = [((a & ~b).sum(), (b & ~a).sum()) for a, b in zip(first, second, strict=True)]
    assert (made["only_a"], made["only_b"]) == pytest.approx(tuple(np.mean(counts, axis=0)))
    assert made["each"] == pytest.approx([mcnemar(*map(int, both)).p for both in counts])
    assert made["p"] == pytest.approx(min(1.0, 2 * sorted(made["each"])[1]))
    alone = compare_runs(create_run(first[:1]), create_run(second[:1]))["mcnemar"]
    assert alone["p"] == made["each"][0] and "pairs of seeds" not in alone["method"]


def test_seeds_are_tested_when_there_are_enough_and_each_one_counts():
    first, second = draw(seeds=6, speakers=8, each=12, seed=3)
    assert compare_runs(create_run(first[:4], range(4)), create_run(second, range(6)))["over_seeds"] is None
    made = compare_runs(create_run(first, range(6)), create_run(second, range(6)), "accuracy")["over_seeds"]
    values = [right.reshape(6, -1).mean(axis=1) for right in (first, second)]
    assert made["welch"]["p"] == pytest.approx(stats.ttest_ind(*values, equal_var=False).pvalue)
    assert made["wilcoxon"]["p"] == pytest.approx(stats.wilcoxon(*values).pvalue)
    other = compare_runs(create_run(first, range(6)), create_run(second, range(1, 7)), "accuracy")["over_seeds"]
    assert set(other) == {"welch", "mann_whitney"}  # other seeds make no pairs
    fewer = compare_runs(create_run(first, range(6)), create_run(second[:5], range(5)), "accuracy")["over_seeds"]
    assert fewer["welch"]["p"] != made["welch"]["p"]


def test_power_of_a_comparison():
    first, second = draw(speakers=16, each=40)
    made = compare_runs(create_run(first), create_run(second), "accuracy", matters=0.05)
    gain = (second.astype(float) - first)[0].mean(axis=1)
    plan = made["power"]
    assert plan["standard_error"] == pytest.approx(gain.std(ddof=1) / 4, rel=0.06)
    assert plan["smallest"] == pytest.approx(2.8016 * plan["standard_error"], rel=1e-3)
    assert (plan["difference"], plan["units"], plan["have"]) == (0.05, "speakers", 16)
    assert plan["mcnemar"]["discordant"] == pytest.approx((first != second).mean())
    assert plan["seeds"] is None and "80% power for differences of" in say_power(made)
    nothing = {**made, "verdict": "no difference shown", "power": {**plan, "power": 0.4}}
    assert f"{plan['mcnemar']['utterances']} utterances (have 640) for McNemar's test" in say_power(nothing)
    assert f"{plan['needed']} speakers (have 16)" in say_power(nothing)


def test_a_run_against_itself_needs_nothing():
    table = create_run(draw(speakers=6, each=6)[0])
    made = compare_runs(table, table, matters=0.0)
    assert made["p"] == 1.0 and made["mcnemar"]["p"] == 1.0 and made["power"]["mcnemar"]["power"] is None
    assert made["power"]["smallest"] == 0.0 and made["verdict"] == "no difference shown"


def test_holm_over_pairs_and_metrics_decides(tmp_path):
    folders = write_runs(tmp_path)
    made = compare_folders(folders, ["uar", "accuracy"], every=True)
    assert [(Path(one["base"]).name, Path(one["run"]).name, one["metric"]) for one in made] == [
        (base, run, metric) for metric in ("uar", "accuracy") for base, run in ("ab", "ac", "bc")
    ]
    assert [one["p_holm"] for one in made] == holm([one["p"] for one in made]) and made[0]["comparisons"] == 6
    assert "Holm over 6 comparisons" in format_pair(made[0])
    assert [one["verdict"] for one in made[:3]] == ["higher", "no difference shown", "lower"]
    assert len(compare_folders(folders, "all")) == 8


def test_an_interval_beside_0_is_not_enough():
    few = draw(speakers=4, each=60, seed=8)
    made = compare_runs(*(create_run(right | (number > 0)) for number, right in enumerate(few)))
    assert made["low"] > 0 and made["permutation"]["smallest"] == 0.125
    assert made["verdict"] == "no difference shown"
    assert "the interval lies above 0, but p 0.125 (so few speakers cannot give one below 0.125)" in say_difference(
        made
    )


def test_protocols_that_differ_are_named(tmp_path):
    a, b, c = write_runs(tmp_path)
    for folder, protocol in ((a, "loso"), (b, "random"), (c, "loso")):
        text = {"protocol": protocol, "stamp": "speakers shared: 0", "manifest_fingerprint": "x"}
        (folder / "provenance.json").write_text(json.dumps(text))
    other, same = compare_folders([a, b, c])
    assert other["protocol_differences"] == ["protocol: loso and random"] and same["protocol_differences"] == []
    assert format_pair(other).splitlines()[-1].endswith("NOT THE SAME PROTOCOL: protocol: loso and random")
    assert "PROTOCOL" not in format_pair(same)


def with_tasks(table: pl.DataFrame, drop: float, offset: float) -> pl.DataFrame:
    """Transcripts that lose their last word where the emotion is wrong, and ratings that are ``offset`` off."""
    right = pl.col("truth") == pl.col("prediction")
    number = pl.col("id").str.split("-").list.last().cast(pl.Float64)
    return table.with_columns(
        text_truth=pl.lit("one two three four"),
        text_prediction=pl.when(right).then(pl.lit("one two three four")).otherwise(pl.lit("one two three")),
        arousal_truth=number / 10,
        arousal_prediction=number / 10 * drop + offset,
        gender_truth=pl.when(pl.col("speaker").str.ends_with("1")).then(pl.lit("male")).otherwise(pl.lit("female")),
        gender_prediction=pl.when(right).then(pl.lit("female")).otherwise(pl.lit("male")),
    )


@pytest.mark.parametrize(
    "metric", ["text.wer", "text.cer", "arousal.ccc", "arousal.mae", "gender.accuracy", "gender.uar"]
)
def test_tasks_beside_emotion_are_compared_on_the_same_utterances(metric):
    first, second = draw(speakers=8, each=20)
    a, b = with_tasks(create_run(first), 0.9, 0.3), with_tasks(create_run(second), 0.95, 0.1)
    made = compare_runs(a, b, metric)
    task, figure = metric.split(".")
    reports = [create_report(table)["tasks"][task]["metrics"][figure]["value"] for table in (a, b)]
    assert (made["a"]["value"], made["b"]["value"]) == pytest.approx(tuple(reports))
    assert made["difference"] == pytest.approx(reports[1] - reports[0]) and made["left_out"] == 0
    assert made["lower_is_better"] == (figure in ("wer", "cer", "mae"))
    assert (made["mcnemar"] is None) == (task != "gender")
    lost = pl.when(pl.col("id") == "0-3").then(None).otherwise(f"{task}_prediction").alias(f"{task}_prediction")
    fewer = compare_runs(a.with_columns(lost), b, metric)
    assert fewer["left_out"] == 1 and fewer["n"] == made["n"] - 1
    both = compare_runs(a.filter(pl.col("id") != "0-3"), b.filter(pl.col("id") != "0-3"), metric)
    assert fewer["difference"] == pytest.approx(both["difference"]) and fewer["p"] == both["p"]


def test_lower_errors_are_better(tmp_path):
    for name, right in zip("ab", draw(each=40), strict=True):
        (tmp_path / name).mkdir()
        with_tasks(create_run(right), 0.9, 0.1).write_parquet(tmp_path / name / "predictions.parquet")
    made = compare_folders([tmp_path / "a", tmp_path / "b"], "text.wer")[0]
    assert (
        made["difference"] < 0
        and made["verdict"] == "lower"
        and f"{tmp_path / 'b'} is lower (better)" in format_pair(made)
    )
    with pytest.raises(InputError, match="has not learned the task 'valence'"):
        compare_folders([tmp_path / "a", tmp_path / "b"], "valence.ccc")


def test_runs_that_learned_no_classes_are_compared_by_what_they_learned(tmp_path):
    for name, drop in (("a", 0.8), ("b", 0.9)):
        (tmp_path / name).mkdir()
        table = with_tasks(create_run(draw(speakers=6, each=10)[0]), drop, 0.0)
        table = table.drop("truth", "prediction", "p_happy", "p_sad")
        table.write_parquet(tmp_path / name / "predictions.parquet")
    names = [made["metric"] for made in compare_folders([tmp_path / "a", tmp_path / "b"], "all")]
    assert "arousal.ccc" in names and "uar" not in names
    for call in (compare_folders, mix_folders):
        with pytest.raises(InputError, match="has learned no classes"):
            call([tmp_path / "a", tmp_path / "b"])


def test_other_truths_of_a_task_are_refused():
    table = with_tasks(create_run(draw(speakers=3, each=4)[0]), 1.0, 0.0)
    with pytest.raises(InputError, match="the runs differ about utterance '0-0'"):
        compare_runs(table, table.with_columns(arousal_truth=pl.col("arousal_truth") + 1), "arousal.ccc")


def test_a_mixed_model_over_folders(tmp_path):
    a, b, _ = write_runs(tmp_path)
    create_run(draw(each=40, seed=7)[1]).write_parquet(b / "predictions.parquet")  # its luck is its own
    made = mix_folders([a, b])
    assert made["systems"][str(b)]["log_odds"] > 0 and "odds ratio" in format_mixed(made)
    table = pl.read_parquet(b / "predictions.parquet")
    table.filter(pl.col("id") != "0-1").write_parquet(b / "predictions.parquet")
    with pytest.raises(InputError, match="only the first run judges"):
        mix_folders([a, b])


def test_plans_from_one_run_and_from_two():
    first, second = draw(seeds=4, speakers=8, each=20)
    a, b = create_run(first, range(4)), create_run(second, range(4))
    two = plan_runs([a, b], "accuracy", 0.05)
    assert two["standard_error"] == pytest.approx(compare_runs(a, b, "accuracy")["power"]["standard_error"])
    sd = np.sqrt(np.mean([right.reshape(4, -1).mean(axis=1).var(ddof=1) for right in (first, second)]))
    assert two["seeds"]["sd"] == pytest.approx(sd) and two["seeds"]["have"] == 4
    assert "8 speakers; from two runs" in format_plan(two) and "McNemar" in format_plan(two)
    one = plan_runs([a], "accuracy", 0.05)
    halves = plan_runs([create_run(first[:2], (0, 1)), create_run(first[2:], (2, 3))], "accuracy", 0.05)
    assert one["standard_error"] == pytest.approx(halves["standard_error"]) and "first 2 seeds" in one["from"]
    with pytest.raises(InputError, match="name a second run"):
        plan_runs([create_run(first[:1])])
    with pytest.raises(InputError, match="seeds judge different utterances"):
        plan_runs([a.filter((pl.col("seed") > 0) | (pl.col("speaker") != a["speaker"][0]))])
