"""Encoders against corpora: figures by hand and by scikit-learn, rows and notes, the paper's figures as they are."""

from __future__ import annotations

import io
import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from serkit.errors import InputError
from serkit.evaluation.corpus_table import create_table, format_table, read_published

CLASSES = ("angry", "happy", "sad")


@pytest.fixture
def write_run(tmp_path):
    """``write_run(name, corpora, encoder, seed)`` writes a run folder of random predictions and returns it."""

    def write(name, corpora=("emodb",), encoder=None, seed=0, right=0.6):
        rng, rows = np.random.default_rng(seed), []
        for corpus in corpora:
            for number in range(60):
                truth = CLASSES[rng.choice(3, p=(0.6, 0.3, 0.1))]
                found = truth if rng.random() < right else CLASSES[rng.integers(3)]
                chances = {f"p_{label}": 0.8 if label == found else 0.1 for label in CLASSES}
                rows.append({"id": f"{corpus}-{number}", "fold": str(number % 3), "seed": 0, "part": "test",
                             "truth": truth, "prediction": found, "speaker": f"s{number % 6}", "gender": None,
                             "corpus": corpus, **chances})  # fmt: skip
        folder = tmp_path / name
        folder.mkdir(parents=True)
        pl.DataFrame(rows).with_columns(pl.col("gender").cast(pl.String)).write_parquet(folder / "predictions.parquet")
        facts = {"protocol": "group-k-fold", "stamp": "speakers shared: 0", "encoder": encoder or {"name": "whisper"}}
        (folder / "provenance.json").write_text(json.dumps(facts))
        return folder

    return write


def cell_of(table, row, corpus, metric):
    (cell,) = [c for c in table["cells"] if (c["row"], c["corpus"], c["metric"]) == (row, corpus, metric)]
    return cell


def test_figures_are_those_of_scikit_learn(write_run):
    folder = write_run("run")
    table, rows = create_table([(folder, None)]), pl.read_parquet(folder / "predictions.parquet")

    def scores(part):
        truth, found = part["truth"].to_list(), part["prediction"].to_list()
        weighted = f1_score(truth, found, average="weighted")
        return {"accuracy": accuracy_score(truth, found), "uar": balanced_accuracy_score(truth, found),
                "f1_weighted": weighted}  # fmt: skip

    whole, folds = scores(rows), [scores(part) for part in rows.partition_by("fold")]
    for metric, value in whole.items():
        cell = cell_of(table, "whisper", "emodb", metric)
        assert cell["value"] == pytest.approx(value) and cell["low"] < cell["value"] < cell["high"]
        assert cell["fold_mean"] == pytest.approx(np.mean([fold[metric] for fold in folds]))
        assert (cell["n"], cell["speakers"], cell["folds"], cell["seeds"]) == (60, 6, 3, 1)


def test_rows_are_encoders_and_columns_corpora(write_run, tmp_path):
    tiny = {"name": "emotion2vec", "options": {"weights": "runs/tiny-{fold}/encoder"}}
    write_run("runs/a", ("emodb", "emovo"))
    write_run("runs/b", ("emovo",), tiny)
    write_run("runs/c", ("emodb",), seed=3)
    table = create_table([(tmp_path / "runs", None)])
    assert table["corpora"] == ["emodb", "emovo"]
    assert table["rows"] == ["whisper", "emotion2vec runs/tiny-{fold}/encoder", "whisper (c)"]
    text = format_table(table).splitlines()
    assert text[0].split() == [
        "emodb",
        "WA",
        "emodb",
        "UA",
        "emodb",
        "WF1",
        "emovo",
        "WA",
        "emovo",
        "UA",
        "emovo",
        "WF1",
    ]
    cell = cell_of(table, "whisper", "emodb", "uar")
    assert f"{100 * cell['value']:.2f} ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})" in text[2]
    assert text[3].count("–") == 3  # the tiny one was not run on emodb
    notes = [line for line in text if line.startswith("note:")]
    assert len(notes) == 4
    assert "note: emodb, whisper: n 60, 6 speakers, 3 folds, group-k-fold, speakers shared: 0" in notes
    labelled = create_table([(tmp_path / "runs" / "a", "ours")])
    assert labelled["rows"] == ["ours"]


def test_published_figures_stand_beside_ours_and_are_not_of_other_corpora(write_run):
    table = create_table([(write_run("run"), None)], "emotion2vec")
    paper = [row for row in table["rows"] if row.endswith("(paper)")]
    assert paper == [f"{name} (paper)" for name in read_published("emotion2vec")["corpora"]["emodb"]["figures"]]
    assert table["rows"][-1] == "whisper" and {cell["corpus"] for cell in table["cells"]} == {"emodb"}
    cell = cell_of(table, "emotion2vec (paper)", "emodb", "f1_weighted")
    assert cell["value"] == 0.8432 and cell["low"] is None and cell["n"] is None
    assert "published (Ma et al. 2024" in format_table(table) and "random leave-one-out" in format_table(table)


def test_the_published_figures_are_those_of_the_paper(reference_file):
    source = json.loads(reference_file("emotion2vec/paper_results.json").read_text())
    corpora = read_published("emotion2vec")["corpora"]
    models = {"wavlm_base": "WavLM base", "wavlm_base_plus": "WavLM base+", "data2vec": "data2vec",
              "data2vec2": "data2vec 2.0", "emotion2vec": "emotion2vec"}  # fmt: skip
    tables = {**source["table3"], **source["table4_languages"]}
    for name, rows in tables.items():
        ours = corpora[name.split("_")[0].lower()]["figures"]
        expected = {models[model]: [row[metric] for metric in ("WA", "UA", "WF1")] for model, row in rows.items()}
        assert {model: pytest.approx([100 * value for value in values]) for model, values in ours.items()} == expected
    iemocap = {round(100 * value, 2) for (value,) in corpora["iemocap"]["figures"].values()}
    assert iemocap == set(source["iemocap_WA_table2"].values()) and len(corpora) == len(tables) + 2


def test_csv_and_markdown(write_run):
    table = create_table([(write_run("run"), "a|b")], "emotion2vec")
    read = pl.read_csv(io.StringIO(format_table(table, "csv")))
    assert read.columns[:4] == ["row", "corpus", "metric", "value"] and read.height == len(table["cells"]) == 18
    ours = read.filter(pl.col("row") == "a|b")
    assert ours["n"].to_list() == [60] * 3 and ours["value"].to_list() == [c["value"] for c in table["cells"][-3:]]
    assert "a\\|b" in format_table(table, "markdown")
    with pytest.raises(InputError, match="no form 'latex'"):
        format_table(table, "latex")


def test_the_verb(serkit, write_run, tmp_path):
    folder = write_run("run")
    ran = serkit(
        "table", f"{folder} as='tiny one'", "--paper", "emotion2vec", "--format", "markdown", "-o", tmp_path / "t.md"
    )
    assert ran.code == 0 and "| tiny one |" in (tmp_path / "t.md").read_text()
    lines = serkit("table", folder, "--format", "json").out.splitlines()
    assert [json.loads(line)["metric"] for line in lines] == ["accuracy", "uar", "f1_weighted"]
    assert "write FOLDER, or 'FOLDER as=ROW'" in serkit("table", f"{folder} is=this").err
    assert "holds no finished run" in serkit("table", tmp_path / "nothing").err
    with pytest.raises(InputError, match="no published figures of 'emotion3vec': did you mean 'emotion2vec'"):
        create_table([(folder, None)], "emotion3vec")


def test_the_figures_of_mat_are_those_of_its_reports():
    """A report's totals follow from its classes, as far as two decimals tell."""
    published = read_published("mat")
    for section in published["corpora"].values():
        report, figures = section["report"], next(iter(section["figures"].values()))
        n = np.array(report["support"])
        totals = {"accuracy": np.average(report["recall"], weights=n), "uar": np.mean(report["recall"]),
                  "f1_weighted": np.average(report["f1"], weights=n)}  # fmt: skip
        for metric, value in totals.items():
            assert figures[metric] == pytest.approx(value, abs=0.0101), (section["title"], metric)
        p, r = np.array(report["precision"]), np.array(report["recall"])
        assert np.abs(2 * p * r / (p + r) - report["f1"]).max() < 0.0101
        assert f"({n.sum()} " in section["protocol"] or f"({n.sum()}, " in section["protocol"]
    right = {name: section["figures"].get("released, best number of them, chosen on the test part", {})
             for name, section in published["corpora"].items()}  # fmt: skip
    counts = {name: made["accuracy"] * sum(published["corpora"][name]["report"]["support"])
              for name, made in right.items() if made}  # fmt: skip
    assert counts == pytest.approx({"iemocap": 787, "mosi": 520, "mosei": 3830}, abs=1e-9)


def test_figures_of_mat_that_were_not_published_stay_empty(write_run):
    text = format_table(create_table([(write_run("run", ("mosi",)), "ours")], "mat")).splitlines()
    best = next(line for line in text if line.startswith("released, best number"))
    assert best.split()[-3:] == ["79.27", "–", "–"]
    assert [line.split()[-3:] for line in text if line.startswith("index (paper)")] == [["–", "–", "80.00"]]
    assert any(line.startswith("note: mosi, published (Delbrouck et al. 2020") for line in text)
