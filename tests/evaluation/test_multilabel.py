"""Several labels at once: every figure against scikit-learn or by hand; what is not known is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from serkit.errors import InputError
from serkit.evaluation.compare import compare_folders, compare_runs
from serkit.evaluation.multilabel import judge_labels
from serkit.evaluation.predictions import labelled_rows, labels_of
from serkit.evaluation.ranking import rank_weighted
from serkit.evaluation.report import create_report, format_summary, write_report
from serkit.evaluation.statistics.experiments import seed_values
from serkit.evaluation.statistics.measures import measure_of, measures_of
from serkit.evaluation.verdict import format_pair

CLASSES = ("happy", "sad", "fear")


def create_table(present, chance, speakers=None, seeds=(0,), classes=CLASSES, part="test") -> pl.DataFrame:
    """A table from ``present`` (n, C), None where unknown, and ``chance`` (S, n, C)."""
    chance = np.asarray(chance, dtype=float).reshape(len(seeds), len(present), len(classes))
    rows = [
        {
            "id": f"u{number}", "fold": str(number % 2), "seed": seed, "part": part,
            "speaker": f"s{number // 2}" if speakers is None else speakers[number], "gender": None, "corpus": "demo",
            **{f"{name}_present": present[number][place] for place, name in enumerate(classes)},
            **{f"{name}_chance": chance[turn, number, place] for place, name in enumerate(classes)},
        }
        for turn, seed in enumerate(seeds)
        for number in range(len(present))
    ]  # fmt: skip
    booleans = {f"{name}_present": pl.Boolean for name in classes}
    return pl.DataFrame(rows, schema_overrides={"gender": pl.String, "speaker": pl.String, **booleans})


def draw_table(count=60, seeds=(0, 1), unknown=0.0, skill=1.0, seed=0) -> pl.DataFrame:
    """Classes of unlike prevalence, with chances that know something of them."""
    generator = np.random.default_rng(seed)
    truth = generator.random((count, 3)) < (0.5, 0.3, 0.12)
    lost = generator.random((count, 3)) < unknown
    present = [[None if gone else bool(is_) for is_, gone in zip(*both, strict=True)]
               for both in zip(truth, lost, strict=True)]  # fmt: skip
    made = np.random.default_rng(99)  # the same luck for systems of any skill
    logits = skill * (truth - 0.4) + made.normal(0, 1, (len(seeds), count, 3))
    return create_table(present, 1 / (1 + np.exp(-logits)), [f"s{n // 5}" for n in range(count)], seeds)


def known(table: pl.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows = table.drop_nulls(f"{name}_present")
    return rows[f"{name}_present"].to_numpy(), rows[f"{name}_chance"].to_numpy()


SCORES = {
    "accuracy": lambda truth, chance: sk.accuracy_score(truth, chance > 0.5),
    "balanced_accuracy": lambda truth, chance: sk.balanced_accuracy_score(truth, chance > 0.5),
    "precision": lambda truth, chance: sk.precision_score(truth, chance > 0.5),
    "recall": lambda truth, chance: sk.recall_score(truth, chance > 0.5),
    "f1": lambda truth, chance: sk.f1_score(truth, chance > 0.5),
    "f1_weighted": lambda truth, chance: sk.f1_score(truth, chance > 0.5, average="weighted"),
    "roc_auc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "prevalence": lambda truth, chance: truth.mean(),
    "predicted": lambda truth, chance: (chance > 0.5).mean(),
}


@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_classes_are_judged_as_scikit_learn_does(unknown):
    table = draw_table(unknown=unknown)
    labels = create_report(table)["labels"]
    assert labels["classes"] == list(CLASSES) and labels["threshold"] == 0.5
    for name in CLASSES:
        made = labels["each"][name]
        assert set(made["metrics"]) == set(SCORES)
        truth, _ = known(table.filter(pl.col("seed") == 0), name)
        assert (made["n"], made["present"]) == (len(truth), truth.sum())
        for metric, score in SCORES.items():
            wanted = [score(*known(rows, name)) for _, rows in table.group_by("seed")]
            figure = made["metrics"][metric]
            assert figure["value"] == pytest.approx(np.mean(wanted)), (name, metric)
            assert figure["sd_over_seeds"] == pytest.approx(np.std(wanted, ddof=1))
            assert figure["low"] <= figure["value"] <= figure["high"] and figure["n"] == made["n"]
            assert "12 speakers, 2000 resamples, jointly over 2 seeds" in figure["method"]


def test_all_classes_are_judged_as_scikit_learn_does():
    table = draw_table(seeds=(0,))
    made = {name: figure["value"] for name, figure in create_report(table)["labels"]["metrics"].items()}
    truth = table.select(f"{name}_present" for name in CLASSES).to_numpy()
    chance = table.select(f"{name}_chance" for name in CLASSES).to_numpy()
    said = chance > 0.5
    each = [(truth[:, place], said[:, place]) for place in range(3)]
    assert made == {
        "accuracy": pytest.approx(1 - sk.hamming_loss(truth, said)),
        "balanced_accuracy": pytest.approx(np.mean([sk.balanced_accuracy_score(*both) for both in each])),
        "f1_macro": pytest.approx(sk.f1_score(truth, said, average="macro")),
        "f1_weighted": pytest.approx(np.mean([sk.f1_score(*both, average="weighted") for both in each])),
        "exact_match": pytest.approx(sk.accuracy_score(truth, said)),
        "roc_auc": pytest.approx(sk.roc_auc_score(truth, chance, average="macro")),
        "average_precision": pytest.approx(sk.average_precision_score(truth, chance, average="macro")),
    }


def test_cells_by_hand():
    present = [[True, False, None], [True, None, None], [False, False, True], [None, None, None]]
    chance = [[0.9, 0.5, 0.9], [0.2, 0.9, 0.9], [0.51, 0.1, 0.8], [0.9, 0.9, 0.9]]
    report = create_report(create_table(present, chance, ["a", "b", "c", "d"]))
    labels = report["labels"]
    # A chance of just 0.5 is absent. Right: happy 1 of 3, sad 2 of 2, fear 1 of 1; only u2 has all known, and is wrong.
    assert labels["metrics"]["accuracy"]["value"] == pytest.approx(4 / 6)
    assert labels["metrics"]["exact_match"]["value"] == 0 and labels["metrics"]["exact_match"]["n"] == 1
    assert labels["metrics"]["accuracy"]["n"] == 3 and labels["without_truth"] == 1
    assert labels["metrics"]["f1_macro"]["value"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert labels["each"]["happy"]["metrics"]["precision"]["value"] == 0.5
    assert (labels["absent"], labels["never_predicted"]) == (["sad"], ["sad"])
    sad = labels["each"]["sad"]["metrics"]
    assert sad["recall"]["value"] is None and "no test utterance has it" in sad["recall"]["reason"]
    assert sad["precision"]["value"] is None and "never predicted" in sad["precision"]["reason"]
    assert sad["roc_auc"]["value"] is None and sad["accuracy"]["value"] == 1
    notes = " ".join(report["notes"])
    assert "never predicted at a chance above 0.5 (fixed, not tuned): sad" in notes
    assert "1 utterances left out" in notes and "no test utterance has sad" in notes
    assert [made["accuracy"] for made in labels["seeds"]] == pytest.approx([4 / 6])
    json.dumps(report, allow_nan=False)


def test_an_emotion_that_is_always_said_to_be_absent_is_accurate_and_worth_nothing():
    present = [[number == 0] for number in range(10)]
    rows = create_table(present, np.full((10, 1), 0.1), classes=("fear",))
    made = judge_labels(labelled_rows(rows))["each"]["fear"]["metrics"]
    assert made["accuracy"]["value"] == 0.9 and made["balanced_accuracy"]["value"] == 0.5
    assert judge_labels(labelled_rows(rows))["always_absent"] == pytest.approx(0.9)
    assert made["f1"]["value"] == 0 and made["predicted"]["value"] == 0 and made["roc_auc"]["value"] == 0.5


def test_classes_change_places_with_their_columns():
    table = draw_table()
    slipped = table.rename({"happy_chance": "sad_chance", "sad_chance": "happy_chance"})
    right, wrong = (create_report(each)["labels"]["metrics"]["accuracy"]["value"] for each in (table, slipped))
    assert right > wrong + 0.05
    turned = create_report(table.select(reversed(table.columns)))["labels"]
    assert turned["classes"] == ["fear", "sad", "happy"]
    plain = create_report(table)["labels"]
    for name in CLASSES:
        for metric, figure in plain["each"][name]["metrics"].items():
            assert turned["each"][name]["metrics"][metric]["value"] == pytest.approx(figure["value"])


# Curves


cells = st.tuples(st.booleans(), st.sampled_from([0.1, 0.5, 0.7, 0.9]), st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(cells, min_size=2, max_size=25))
def test_weighted_curves_are_those_of_scikit_learn(drawn):
    truth, chance = np.array([cell[0] for cell in drawn]), np.array([cell[1] for cell in drawn])
    each = np.array([[1] * len(drawn), [cell[2] for cell in drawn]], dtype=np.float32)
    made = rank_weighted(truth, chance, each, np.arange(len(drawn)))
    for row, weights in enumerate(each):
        has, lacks = weights[truth].sum(), weights[~truth].sum()
        area, precision = made[:, row]
        assert np.isnan(area) == (not has or not lacks) and np.isnan(precision) == (not has)
        if has and lacks:
            assert area == pytest.approx(sk.roc_auc_score(truth, chance, sample_weight=weights), abs=1e-6)
            wanted = sk.average_precision_score(truth, chance, sample_weight=weights)
            assert precision == pytest.approx(wanted, abs=1e-6)


def test_intervals_of_curves_are_those_of_whole_speakers():
    """Ten speakers of equal utterances: as uncertain as ten utterances, not as a hundred."""
    generator = np.random.default_rng(1)
    truth, chance = np.tile([True, False], 5), generator.random(10)
    repeats = np.repeat(np.arange(10), 10)

    def width(speakers) -> float:
        table = create_table([[bool(truth[n])] for n in repeats], chance[repeats], speakers, classes=("fear",))
        made = judge_labels(labelled_rows(table))["each"]["fear"]["metrics"]["roc_auc"]
        return made["high"] - made["low"]

    clustered, single = width([f"s{n}" for n in repeats]), width([None] * 100)
    assert clustered > 2 * single > 0


# Tables


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.floats(0, 1)), min_size=1, max_size=12))
def test_any_table_of_a_class_gives_figures_in_range(drawn):
    table = create_table([[cell[0]] for cell in drawn], [cell[1] for cell in drawn], classes=("fear",))
    if all(cell[0] is None for cell in drawn):
        with pytest.raises(InputError, match="not known of any test utterance"):
            create_report(table)
        return
    report = create_report(table, resamples=50)
    labels = report["labels"]
    right = [cell[0] == (cell[1] > 0.5) for cell in drawn if cell[0] is not None]
    assert labels["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert labels["metrics"]["exact_match"]["value"] == pytest.approx(np.mean(right))
    for made in [*labels["metrics"].values(), *labels["each"]["fear"]["metrics"].values()]:
        assert (made["value"] is None and made["reason"]) or 0 <= made["low"] <= made["high"] <= 1
    json.dumps(report, allow_nan=False)


def test_classes_of_a_table():
    table = draw_table()
    assert labels_of(table) == CLASSES
    assert (
        labels_of(table.rename({"sad_present": "very_sad_present", "sad_chance": "very_sad_chance"}))[1] == "very_sad"
    )
    assert not labels_of(pl.DataFrame({"id": ["a"], "truth": ["sad"], "p_sad": [1.0]}))


def at(column: str, value) -> pl.Expr:
    return pl.when(pl.col("id") == "u1").then(pl.lit(value)).otherwise(column).alias(column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop("sad_present"), "no column 'sad_present' beside the other column of its class"),
        (lambda table: table.drop("sad_chance"), "no column 'sad_chance' beside"),
        (lambda table: table.drop("speaker"), "no column 'speaker'"),
        (lambda table: table.with_columns(pl.col("sad_present").cast(pl.Int64)), "sad_present is Int64: true, false"),
        (lambda table: table.with_columns(sad_chance=pl.lit("high")), "sad_chance is String: a probability"),
        (lambda table: table.with_columns(at("sad_chance", 1.2)), "sad_chance of utterance 'u1' is 1.2, not in"),
        (lambda table: table.with_columns(at("sad_chance", float("nan"))), "of utterance 'u1' is nan"),
        (lambda table: table.with_columns(at("sad_chance", None)), "of utterance 'u1' is None"),
        (lambda table: table.with_columns(part=pl.lit("dev")), "nothing to judge"),
        (lambda table: pl.concat([table, table.head(1)]), "'u0' stands more than once"),
    ],
)
def test_unsound_tables_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        create_report(change(draw_table()))


def test_dev_rows_are_not_looked_at():
    table = draw_table(seeds=(0,))
    dev = table.with_columns(part=pl.lit("dev"), id="dev" + pl.col("id"), sad_chance=1 - pl.col("sad_chance"))
    assert create_report(pl.concat([table, dev])) == create_report(table)
    leaky = create_report(pl.concat([table, table.with_columns(part=pl.lit("dev"))]))
    assert any(note.startswith("LEAK") for note in leaky["notes"])


def test_report_of_a_folder(tmp_path: Path):
    draw_table(unknown=0.1).write_parquet(tmp_path / "predictions.parquet")
    report = write_report(tmp_path)
    html, summary = (tmp_path / "report.html").read_text(), format_summary(report)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    for figure in (report["labels"]["metrics"]["f1_weighted"], report["labels"]["each"]["fear"]["metrics"]["roc_auc"]):
        assert f"{figure['value']:.3f}" in html and f"{figure['low']:.3f} to {figure['high']:.3f}" in html
        assert f"{figure['value']:.3f}" in summary
    assert "thresholds are fixed, not tuned" in html and "Expressed, not felt" in html
    assert "above 0.5" in summary and "12 speakers, 2000 resamples" in summary
    assert "nan" not in html.lower().split() and html.count("<table") == html.count("<caption")


# Comparisons


def test_runs_are_compared_as_pairs(tmp_path: Path):
    folders = [tmp_path / name for name in ("weak", "strong")]
    for folder, skill in zip(folders, (0.5, 3.0), strict=True):
        folder.mkdir()
        draw_table(count=120, skill=skill, seeds=(0, 1)).write_parquet(folder / "predictions.parquet")
    names = ["labels.accuracy", "labels.f1_macro", "labels.exact_match", "labels.sad.f1"]
    for made in compare_folders(folders, names):
        assert made["verdict"] == "higher" and made["low"] > 0, made["metric"]
        for side, folder in (("a", folders[0]), ("b", folders[1])):
            labels = create_report(pl.read_parquet(folder / "predictions.parquet"))["labels"]
            figures = labels["each"]["sad"]["metrics"] if "sad" in made["metric"] else labels["metrics"]
            assert made[side]["value"] == pytest.approx(figures[made["metric"].split(".")[-1]]["value"])
        assert made["mcnemar"] is None and made["metric"] in format_pair(made)
    assert (
        {made["metric"] for made in compare_folders(folders, "all")}
        == set(measures_of(draw_table()))
        == {f"labels.{name}" for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "exact_match")}
    )
    wanted = create_report(draw_table(count=120, skill=3.0, seeds=(0, 1)))["labels"]["seeds"]
    assert seed_values(folders[1], "labels.accuracy") == pytest.approx([made["accuracy"] for made in wanted])


def test_runs_that_order_classes_otherwise_are_compared_by_name():
    table = draw_table()
    turned = table.select(reversed(table.columns))
    made = compare_runs(table, turned, "labels.f1_macro", resamples=50)
    assert made["difference"] == 0 and made["low"] == made["high"] == 0


def test_runs_that_differ_in_truth_or_classes_are_not_compared():
    table = draw_table()
    with pytest.raises(InputError, match="differ about utterance 'u1'.*none of speaker s0"):
        compare_runs(
            table.with_columns(at("happy_present", False), at("sad_present", False), at("fear_present", False)),
            table.with_columns(at("happy_present", False), at("sad_present", True), at("fear_present", False)),
            "labels.accuracy",
        )
    with pytest.raises(InputError, match="different classes"):
        compare_runs(table, table.drop("fear_present", "fear_chance"), "labels.accuracy")
    with pytest.raises(InputError, match="only the first run judges utterance 'u0'"):
        compare_runs(table, table.filter(pl.col("id") != "u0"), "labels.accuracy")


def test_measures_that_do_not_exist():
    table = draw_table()
    with pytest.raises(InputError, match="no metric 'labels.uar'"):
        measure_of("labels.uar")
    with pytest.raises(InputError, match="has no class 'sat'.*sad"):
        compare_runs(table, table, "labels.sat.f1")
    with pytest.raises(InputError, match="uar: the run has learned no classes"):
        compare_runs(table, table, "uar")
    plain = pl.DataFrame({"id": ["a"], "prediction": ["sad"]})
    with pytest.raises(InputError, match="has not learned several labels"):
        measure_of("labels.accuracy").rows_of(plain)
