"""Baselines of words alone: the figures known of MOSI and MELD, and run folders that pair with trained runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from serkit.data.manifest import Manifest
from serkit.evaluation.compare import compare_folders
from serkit.evaluation.report import write_report

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def baseline():
    path = Path(__file__).parents[2] / "benchmarks" / "text_baseline.py"
    spec = importlib.util.spec_from_file_location("text_baseline", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def mosi(reference_file, tmp_path):
    """MOSI's table as a manifest: standard folds, speakers are videos, audio features by their row."""
    table = pl.read_csv(reference_file("mosi/mosi_utterances.csv"))
    features = reference_file("mosi/mosi_features.npz")
    part = pl.col("split_cmu").replace("valid", "dev")
    Manifest(
        table.select(
            "id", "text", part=part, speaker="video", corpus=pl.lit("mosi"), audio=pl.lit(None, pl.String),
            sentiment=pl.col("label").replace_strict({0: "negative", 1: "positive"}),
            audio_features=pl.lit(f"{features}#audio[") + pl.int_range(pl.len()).cast(pl.String) + pl.lit("]"),
        )
    ).write(tmp_path / "mosi.parquet")  # fmt: skip
    return tmp_path / "mosi.parquet"


def results(capsys):
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    return made["test"], {name: 100 * value for name, value in made["accuracy"].items()}


def test_the_known_figures_of_mosi(baseline, mosi, tmp_path, capsys):
    baseline([str(mosi), "--label", "sentiment", "-o", str(tmp_path / "words")])
    n, found = results(capsys)
    assert n == 686 and found == pytest.approx({"majority": 44.75, "tfidf": 67.06, "tfidf-dev": 66.62}, abs=0.3)
    options = ["--features", "audio_features", "--strength", "0.01", "-o", str(tmp_path / "sound")]
    baseline([str(mosi), "--label", "sentiment", *options])
    _, found = results(capsys)
    assert found["given"] == pytest.approx(51.02, abs=0.5)
    report = write_report(tmp_path / "words" / "tfidf")
    assert report["stamp"] == "speakers shared: 0" and report["speakers"] == 31
    assert report["metrics"]["accuracy"]["n"] == 686
    (pair,) = compare_folders(
        [tmp_path / "words" / "majority", tmp_path / "words" / "tfidf"], "accuracy", resamples=200
    )
    assert pair["n"] == 686 and pair["verdict"] == "higher" and not pair["protocol_differences"]


def test_the_known_figure_of_meld(baseline, reference_file, tmp_path, capsys):
    parts = [pl.read_csv(reference_file(f"meld/{part}_sent_emo.csv")).select("Utterance", "Emotion", "Speaker",
             "Dialogue_ID", "Utterance_ID", part=pl.lit(part)) for part in ("train", "dev", "test")]  # fmt: skip
    id = pl.format("dia{}_utt{}-{}", "Dialogue_ID", "Utterance_ID", "part")
    table = pl.concat(parts).select(id.alias("id"), "part", text="Utterance", emotion="Emotion", speaker="Speaker",
                                    corpus=pl.lit("meld"), audio=pl.lit(None, pl.String))  # fmt: skip
    Manifest(table).write(tmp_path / "meld.parquet")
    baseline([str(tmp_path / "meld.parquet"), "--strength", "3", "-o", str(tmp_path / "words")])
    n, found = results(capsys)
    assert n == 2610 and found["tfidf"] == pytest.approx(52.22, abs=0.2)
    assert found["majority"] == pytest.approx(100 * 1256 / 2610)
    assert "speakers shared" in json.loads((tmp_path / "words" / "tfidf" / "provenance.json").read_text())["stamp"]


@pytest.fixture
def made(tmp_path):
    """Twelve words that tell the class in most texts, of 6 speakers; "meh" is neutral."""
    rng, rows = np.random.default_rng(0), []
    for number in range(180):
        label = ("bad", "good", "meh")[rng.integers(3)]
        words = [f"{label if rng.random() < 0.7 else 'meh'}{rng.integers(4)}" for _ in range(4)]
        part = ("train", "train", "train", "dev", "test", "test")[number % 6]
        rows.append({"id": f"u{number:03d}", "audio": None, "text": " ".join(words), "speaker": f"s{number % 6}",
                     "corpus": "made", "part": part, "opinion": label})  # fmt: skip
    rows[4]["text"] = None  # a test utterance without words
    Manifest.from_rows(rows).write(tmp_path / "made.parquet")
    return tmp_path / "made.parquet"


def test_labels_are_merged_and_dropped_and_the_dev_part_chooses(baseline, made, tmp_path, capsys):
    arguments = [str(made), "--label", "opinion", "--strength", "1e-6", "3", "--classes", "good", "bad"]
    baseline([*arguments, "--drop", "meh", "-o", str(tmp_path / "two")])
    n, found = results(capsys)
    tables = {name: pl.read_parquet(tmp_path / "two" / name / "predictions.parquet") for name in found}
    assert tables["tfidf"].columns[-2:] == ["p_good", "p_bad"]
    assert n == tables["tfidf"].filter(pl.col("part") == "test").height < 60
    assert set(tables["tfidf"]["part"]) == {"dev", "test"} and set(tables["tfidf-dev"]["part"]) == {"test"}
    assert found["tfidf"] > 80 > found["majority"]
    facts = json.loads((tmp_path / "two" / "tfidf-dev" / "provenance.json").read_text())["baseline"]
    assert facts["strength"] == 3 and facts["fitted_on_dev"]
    baseline([*arguments, "--merge", "meh=good", "-o", str(tmp_path / "merged")])
    assert results(capsys)[0] == 60


def test_what_is_wrong_is_one_line(baseline, made, tmp_path):
    for arguments, message in (
        (["--label", "mood"], "labels.column names 'mood'"),
        (["--label", "opinion", "--classes", "good", "bad"], "'meh' is not in the scheme"),
        (["--label", "opinion", "--features", "sound"], "no column 'sound'"),
    ):
        with pytest.raises(SystemExit, match=message):
            baseline([str(made), *arguments, "-o", str(tmp_path / "out")])
