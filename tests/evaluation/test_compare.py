"""Two runs compared: paired, so what both runs find hard cancels; runs on different tests are refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from serkit.errors import InputError
from serkit.evaluation.compare import compare_folders, compare_runs
from serkit.evaluation.metrics import accuracy, uar
from serkit.evaluation.stats import bootstrap
from serkit.evaluation.verdict import format_pair

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
