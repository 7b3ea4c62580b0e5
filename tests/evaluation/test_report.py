"""The report: judged from the predictions table alone, nothing pooled by mistake, no NaN, no bare number, safe HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from serkit.errors import InputError
from serkit.evaluation import metrics
from serkit.evaluation.page import shared_speakers
from serkit.evaluation.report import create_report, format_summary, write_report

CLASSES = ["neutral", "happy", "sad"]
PROVENANCE = {"recipe": "demo", "protocol": "three folds", "stamp": "speakers shared: 0", "versions": {"serkit": "0.1"}}


def create_predictions(
    speakers: int = 6, each: int = 9, seeds: int = 2, folds: int = 3, names: list[str] | None = None
) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    rows = []
    for speaker in range(speakers):
        lean = generator.normal(0, 0.7, 3)
        for number in range(each):
            truth = number % 3
            clear = generator.normal(0, 1, 3) + lean + 1.5 * np.eye(3)[truth]
            for seed in range(seeds):
                raised = np.exp(clear + generator.normal(0, 0.5, 3))
                probability = (raised / raised.sum()).tolist()
                rows.append(
                    {
                        "id": f"{speaker}-{number}",
                        "fold": str(speaker % folds + 1),
                        "seed": seed,
                        "part": "test",
                        "truth": CLASSES[truth],
                        "prediction": CLASSES[int(np.argmax(probability))],
                        **{f"p_{name}": value for name, value in zip(CLASSES, probability, strict=True)},
                        "speaker": names[speaker] if names else f"s{speaker}",
                        "gender": "female" if speaker % 2 else "male",
                        "corpus": "demo",
                    }
                )
    return pl.DataFrame(rows)


def write_run(folder: Path, table: pl.DataFrame, provenance: dict[str, Any] | None = PROVENANCE) -> Path:
    table.write_parquet(folder / "predictions.parquet")
    if provenance is not None:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def find_figures(value: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return every object with a value, a low and a high, however deep."""
    if isinstance(value, list):
        return [found for place, entry in enumerate(value) for found in find_figures(entry, f"{path}[{place}]")]
    if not isinstance(value, dict):
        return []
    here = [(path, value)] if {"value", "low", "high"} <= set(value) else []
    return here + [found for key, entry in value.items() for found in find_figures(entry, f"{path}.{key}")]


def test_schema():
    report = create_report(create_predictions(), PROVENANCE)
    assert list(report["metrics"]) == ["uar", "accuracy", "f1_macro", "f1_weighted"]
    assert set(report["metrics"]["uar"]) == {"kind", "value", "low", "high", "n", "method", "sd_over_seeds"}
    assert (report["protocol"], report["stamp"]) == ("three folds", "speakers shared: 0")
    assert (report["utterances"], report["speakers"]) == (54, 6)
    assert list(report["classes"]) == CLASSES
    assert {"n", "recall", "precision"} == set(report["classes"]["happy"])
    assert list(report["groups"]) == ["gender", "speaker", "corpus"]
    assert report["confusion"]["classes"] == CLASSES
    assert np.sum(report["confusion"]["counts"]) == 2 * 54
    assert {"ece", "brier", "bins"} == set(report["calibration"]) and len(report["calibration"]["bins"]) == 15
    assert [made["seed"] for made in report["seeds"]] == [0, 1]
    assert report["provenance"] == PROVENANCE
    json.dumps(report, allow_nan=False)


def test_every_figure_has_interval_n_and_method_or_a_reason():
    found = find_figures(create_report(create_predictions(), PROVENANCE))
    assert len(found) > 50
    for path, figure in found:
        assert isinstance(figure["n"], int), path
        if figure["low"] is None:
            assert figure["reason"], path
        else:
            gap = path.startswith((".fairness.gender.uar_gap", ".fairness.gender.opportunity"))  # signed
            assert (-1 if gap else 0) <= figure["low"] <= figure["high"] <= 2, path
        if ".recall." not in path or path.startswith((".classes", ".fairness.gender")):
            assert figure["method"], path


def test_pooled_values_are_means_over_seeds_of_the_metrics():
    table = create_predictions()
    report = create_report(table)
    for name in ("uar", "accuracy", "f1_macro", "f1_weighted"):
        each = [
            getattr(metrics, name)(rows["truth"].to_list(), rows["prediction"].to_list(), CLASSES)
            for _, rows in table.group_by("seed", maintain_order=True)
        ]
        assert report["metrics"][name]["value"] == pytest.approx(np.mean(each))
        assert report["metrics"][name]["sd_over_seeds"] == pytest.approx(np.std(each, ddof=1))
        assert [made[name] for made in report["seeds"]] == pytest.approx(each)
    assert report["metrics"]["uar"]["n"] == 54
    assert "6 speakers" in report["metrics"]["uar"]["method"]


def test_folds_are_kept_apart_from_pooled_figures():
    table = create_predictions(speakers=5, folds=2)
    folds = create_report(table)["folds"]
    assert folds["kind"] == "per_fold" and list(folds["each"]) == ["1", "2"]
    assert [made["n"] for made in folds["each"].values()] == [27, 18]
    values = [made["metrics"]["uar"]["value"] for made in folds["each"].values()]
    assert folds["mean"]["uar"]["value"] == pytest.approx(np.mean(values))
    assert folds["mean"]["uar"]["sd"] == pytest.approx(np.std(values, ddof=1))
    report = create_report(table)
    assert all(made["kind"] == "pooled" and made["method"].startswith("pooled") for made in report["metrics"].values())
    assert all(made["metrics"]["uar"]["method"].startswith("per fold") for made in folds["each"].values())


def test_folds_are_in_natural_order():
    assert list(create_report(create_predictions(speakers=12, folds=12))["folds"]["each"])[8:] == [
        "9",
        "10",
        "11",
        "12",
    ]


def test_groups():
    report = create_report(create_predictions())
    gender, speaker = report["groups"]["gender"], report["groups"]["speaker"]
    assert {name: (made["n"], made["speakers"]) for name, made in gender.items()} == {
        "female": (27, 3),
        "male": (27, 3),
    }
    assert gender["female"]["uar"]["low"] is not None
    assert speaker["s0"]["uar"]["low"] is None and "two speakers" in speaker["s0"]["uar"]["reason"]
    assert speaker["s0"]["recall"]["sad"]["n"] == 3


def test_speakers_of_different_corpora_are_different_speakers():
    one = create_predictions()
    two = one.with_columns(id="other " + pl.col("id"), corpus=pl.lit("other"))
    report = create_report(pl.concat([one, two]))
    assert report["speakers"] == 12
    assert {"demo/s0", "other/s0"} <= set(report["groups"]["speaker"])


def test_only_test_rows_count():
    table = create_predictions()
    dev = table.with_columns(part=pl.lit("dev"), prediction=pl.lit("sad"), id="dev " + pl.col("id"))
    again = pl.concat([table, dev, dev.with_columns(fold=pl.lit("9"))])
    assert create_report(again) == create_report(table)
    leaky = pl.concat([table, table.with_columns(part=pl.lit("dev"))])
    assert any(note.startswith("LEAK") for note in create_report(leaky)["notes"])


def test_order_of_rows_does_not_matter():
    table = create_predictions()
    assert create_report(table.sample(fraction=1.0, shuffle=True, seed=3)) == create_report(table)


def test_class_absent_in_truth():
    table = create_predictions().filter(pl.col("truth") != "sad")
    report = create_report(table)
    recall = report["classes"]["sad"]["recall"]
    assert recall["value"] is None and recall["n"] == 0 and recall["reason"]
    assert report["metrics"]["uar"]["value"] > 0.5
    assert any("sad" in note for note in report["notes"])


def test_one_speaker_and_unknown_speakers():
    for table in (
        create_predictions(speakers=1),
        create_predictions().with_columns(speaker=pl.lit(None, pl.String), gender=pl.lit(None, pl.String)),
    ):
        report = create_report(table)
        assert "utterances" in report["metrics"]["uar"]["method"]
        assert any("too narrow" in note for note in report["notes"])
        json.dumps(report, allow_nan=False)
    assert list(report["groups"]["gender"]) == ["unknown"]


def test_provenance_becomes_plain_json():
    report = create_report(create_predictions(), {"path": Path("x"), "loss": float("nan"), "folds": (1, 2)})
    assert report["provenance"] == {"path": "x", "loss": None, "folds": [1, 2]}
    assert report["protocol"] is None and report["stamp"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop("gender"), "no column 'gender'"),
        (lambda table: table.drop("p_happy", "p_sad"), "two or more classes"),
        (lambda table: table.with_columns(part=pl.lit("dev")), "nothing to judge"),
        (lambda table: pl.concat([table, table.filter(pl.col("id") == "1-2")]), "'1-2' stands more than once"),
        (lambda table: _at(table, "p_sad", 0.9), "'2-1' has probabilities that do not sum to 1"),
        (lambda table: _at(table, "p_sad", float("nan")), "'2-1' has a probability that is NaN"),
        (lambda table: _at(table, "p_sad", None), "'2-1' has a probability that is NaN"),
        (lambda table: _at(table, "p_sad", -0.1), "'2-1' has a negative probability"),
        (lambda table: _at(table, "truth", None), "'2-1' has no truth"),
        (lambda table: _at(table, "prediction", "bored"), "prediction 'bored' of utterance '2-1' is not a class"),
    ],
)
def test_unsound_tables_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        create_report(change(create_predictions()))


def _at(table: pl.DataFrame, column: str, value: Any) -> pl.DataFrame:
    return table.with_columns(pl.when(pl.col("id") == "2-1").then(pl.lit(value)).otherwise(column).alias(column))


def test_write_report(tmp_path: Path):
    report = write_report(write_run(tmp_path, create_predictions()))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.parquet",
        "provenance.json",
        "report.html",
        "report.json",
    ]


def test_write_report_names_the_file_that_is_wrong(tmp_path: Path):
    with pytest.raises(InputError, match="predictions.parquet: no such"):
        write_report(tmp_path)
    write_run(tmp_path, create_predictions(), None)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(InputError, match="provenance.json"):
        write_report(tmp_path)
    (tmp_path / "provenance.json").unlink()
    (tmp_path / "predictions.parquet").write_text("nonsense")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        write_report(tmp_path)
    assert not (tmp_path / "report.json").exists()


class Page(HTMLParser):
    """Collects the tags of a page, what they would load, their ids and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_self_contained_and_accessible(tmp_path: Path):
    write_run(tmp_path, create_predictions())
    report = write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert all(target.startswith("#") for target in page.loads)
    assert "http" not in html and "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == page.tags.count("figure") == 4
    assert page.tags.count("table") == page.tags.count("caption")
    assert all('scope="' in tag for tag in re.findall(r"<th\b[^>]*>", html))
    assert len(page.ids) == len(set(page.ids))
    text = " ".join(page.text)
    assert "speakers shared: 0" in text and "Expressed, not felt" in text and "three folds" in text
    assert "nan" not in text.lower().split()
    fairness = report["fairness"]["gender"]
    assert "Fairness" in page.text and f"{fairness['uar_gap']['value']:.3f}" in page.text
    assert fairness["opportunity_gap"]["class"] in text.split("(equal opportunity):")[1].split(",")[0]


def test_page_escapes_hostile_names(tmp_path: Path):
    hostile = ["<script>alert(1)</script>", "</svg><b>", "$x^{2}$ & \\frac", '" onload="x', "日本 é", "x" * 300]
    provenance = {"recipe": "<script>recipe</script>", "protocol": "<i>p</i>", "stamp": "<u>speakers shared: 0"}
    run = write_run(tmp_path, create_predictions(names=hostile), provenance)
    write_report(run)
    html = (run / "report.html").read_text()
    page = Page(html)
    assert not {"script", "b", "i", "u"} & set(page.tags)
    assert "&lt;script&gt;" in html and "日本 é" in html and "$x^{2}$" in html
    assert not re.search(r"<[^>]*\sonload=", html)


@pytest.mark.parametrize(
    ("stamp", "shared", "words"),
    [
        ("speakers shared: 0", 0, None),
        ("speakers shared: 12", 12, "12 speakers are in training and test alike"),
        (None, None, "does not say how many speakers"),
        ({"speakers_shared": 3}, 3, "3 speakers are in training"),
    ],
)
def test_the_stamp_is_prominent(tmp_path: Path, stamp, shared, words):
    assert shared_speakers(stamp) == shared
    write_report(write_run(tmp_path, create_predictions(), {"stamp": stamp}))
    html = (tmp_path / "report.html").read_text()
    assert ("in training and test alike" in html) == (words is not None)
    assert words is None or words in html


def test_summary():
    summary = format_summary(create_report(create_predictions(), PROVENANCE))
    assert "speakers shared: 0" in summary and "percentile bootstrap over 6 speakers" in summary
    assert re.search(r"uar +0\.\d{3} +0\.\d{3} to 0\.\d{3} +54 ", summary)
    assert "per fold (not pooled)" in summary and "Expressed, not felt" in summary
    assert re.search(r"fairness: uar female 0\.\d{3}, male 0\.\d{3}: gap 0\.\d{3} \(", summary)
    assert re.search(r"speakers: lowest uar s\d 0\.\d{3} \(.*of 6 below chance \(0\.333\)", summary)
    absent = format_summary(create_report(create_predictions(seeds=1).filter(pl.col("truth") != "sad")))
    assert re.search(r"sad +- +- +0 ", absent) and "not recorded" in absent


def test_many_speakers_make_a_readable_figure(tmp_path: Path):
    write_report(write_run(tmp_path, create_predictions(speakers=90, each=3, seeds=1)))
    assert "50 more" in (tmp_path / "report.html").read_text()
