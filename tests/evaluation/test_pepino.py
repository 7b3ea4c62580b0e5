"""Our runs beside the published figures: a seed, a fold or a sign that slips shows in the tables."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from serkit.errors import InputError
from serkit.evaluation import curves
from serkit.evaluation.pepino import create_comparison, find_runs, judge, read_published
from serkit.evaluation.pepino_page import format_comparison, render_markdown, write_comparison
from serkit.evaluation.statistics.bootstrap import bootstrap

CLASSES = ("angry", "happy", "neutral", "sad")
FOLDS = {"fold_1": (12, 8, 12, 8), "fold_2": (4, 4, 2, 10), "fold_10": (8, 4, 8, 4)}
"""Test utterances of each class; unequal, so that merged folds and the mean over folds differ."""


def create_rows(seed, corpus="iemocap", folds=FOLDS, wrong=0):
    """Predictions of one seed: of every class and fold, the first utterances are wrong, more of them in later folds."""
    rows = []
    for place, (fold, sizes) in enumerate(folds.items()):
        for target, size in enumerate(sizes):
            for number in range(size):
                truth = CLASSES[target]
                missed = number < wrong + place * (target % 2)
                guess = CLASSES[(target + 1) % 4] if missed else truth
                rows.append(
                    {
                        "id": f"{fold}-{truth}-{number}",
                        "fold": fold,
                        "seed": seed,
                        "part": "test",
                        "truth": truth,
                        "prediction": guess,
                        **{f"p_{name}": 0.7 if name == guess else 0.1 for name in CLASSES},
                        "speaker": f"{fold}-{'FM'[number % 2]}",
                        "gender": None,
                        "corpus": corpus,
                    }
                )
    return rows


def write_run(folder: Path, rows, name="pepino/w2v2PT-alllayers", history=(), monitor="loss", recipe="", **provenance):
    folder.mkdir(parents=True)
    pl.DataFrame(rows, schema_overrides={"gender": pl.String}).write_parquet(folder / "predictions.parquet")
    (folder / "recipe.toml").write_text(f'name = "{name}"\n{recipe}\n[training]\nmonitor = "{monitor}"\n')
    facts = {"protocol": "pepino/iemocap", "stamp": "speakers shared: 0", "normalise": "speaker", **provenance}
    (folder / "provenance.json").write_text(json.dumps(facts))
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    return folder


def merged_uar(rows):
    table = pl.DataFrame(rows, schema_overrides={"gender": pl.String})
    each = [table.filter(pl.col("truth") == name) for name in CLASSES]
    return np.mean([(part["truth"] == part["prediction"]).mean() for part in each])


SEEDS = {123: 1, 1234: 0, 2345: 2}
"""Seed to how many are wrong, so that every seed scores differently."""


@pytest.fixture
def runs(tmp_path):
    rows = [row for seed, wrong in SEEDS.items() for row in create_rows(seed, wrong=wrong)]
    write_run(tmp_path / "runs" / "a", rows)
    return tmp_path / "runs"


def test_a_figure_is_the_mean_over_seeds_of_merged_folds(runs):
    found, unfinished = find_runs(runs)
    assert list(found) == [("w2v2PT-alllayers", "iemocap")] and unfinished == []
    published = read_published().experiments["w2v2PT-alllayers", "iemocap"]
    made = judge(found["w2v2PT-alllayers", "iemocap"], published, resamples=200)
    each = [merged_uar(create_rows(seed, wrong=wrong)) for seed, wrong in SEEDS.items()]
    assert made["seeds"] == list(SEEDS) and made["uar"]["seeds"] == pytest.approx(each)
    assert made["uar"]["value"] == pytest.approx(np.mean(each))
    assert made["uar"]["sd_over_seeds"] == pytest.approx(np.std(each, ddof=1))
    assert made["difference"] == pytest.approx(np.mean(each) - published.uar.mean)
    assert made["n"] == sum(sum(sizes) for sizes in FOLDS.values())
    averaged = np.mean([fold["uar"] for fold in made["folds"]])
    assert abs(averaged - made["uar"]["value"]) > 0.01  # the two conventions are told apart by these data
    rows = found["w2v2PT-alllayers", "iemocap"].rows
    columns = (rows[name].to_list() for name in ("truth", "prediction"))
    others = (rows[name].to_list() for name in ("speaker", "id", "seed"))
    expected = bootstrap(*columns, CLASSES, *others, resamples=200)
    for name in ("uar", "accuracy", "f1_macro"):
        assert (made[name]["low"], made[name]["high"]) == (expected[name].low, expected[name].high)
    assert "6 speakers" in made["uar"]["method"]


def test_every_fold_stands_apart_in_order(runs):
    made = judge(find_runs(runs)[0]["w2v2PT-alllayers", "iemocap"], resamples=10)
    assert [(fold["fold"], fold["n"]) for fold in made["folds"]] == [("fold_1", 40), ("fold_2", 20), ("fold_10", 24)]
    for place, fold in enumerate(made["folds"]):
        sizes = FOLDS[fold["fold"]]
        each = []
        for wrong in SEEDS.values():
            misses = [min(size, wrong + place * (target % 2)) for target, size in enumerate(sizes)]
            each.append(np.mean([1 - miss / size for miss, size in zip(misses, sizes, strict=True)]))
        assert fold["uar"] == pytest.approx(np.mean(each)) and fold["sd"] == pytest.approx(np.std(each, ddof=1))


def cells(page, label, corpus, nth=0):
    """Return the cells of the ``nth`` Markdown row that begins with ``label`` and ``corpus``."""
    found = [line for line in page.splitlines() if line.startswith(f"| {label} | {corpus} |")]
    return [cell.strip() for cell in found[nth].strip("|").split("|")]


def test_the_page_shows_ours_beside_the_published_figure(runs, tmp_path):
    comparison = write_comparison(runs, tmp_path / "out", resamples=100)
    assert json.loads((tmp_path / "out" / "pepino.json").read_text()) == json.loads(json.dumps(comparison))
    page = (tmp_path / "out" / "pepino.md").read_text()
    each = [100 * merged_uar(create_rows(seed, wrong=wrong)) for seed, wrong in SEEDS.items()]
    value, sd = np.mean(each), np.std(each, ddof=1)
    row = cells(page, "wav2vec 2.0 PT, all layers", "IEMOCAP")
    assert row[2] == f"{value:.1f} ± {sd:.1f}" and row[4] == "67.2 ± 0.7"
    low, high = (float(bound) for bound in row[3].split(" to "))
    assert low < value < high
    assert float(row[5]) == pytest.approx(value - 67.23, abs=0.06) and row[5].startswith("+")
    assert row[6:8] == ["84", "3"] and "speakers shared: 0" in row[9] and "pepino/iemocap" in row[9]
    assert cells(page, "Dense, speaker", "IEMOCAP")[2:8] == row[2:8]
    assert cells(page, "wav2vec 2.0 PT, all layers", "RAVDESS")[2:6] == ["not run", "–", "84.3 ± 1.7", "–"]
    assert page.count("not run") == 16 + 8 + 2 - 2
    assert "judged on 84 utterances, published on 5473: not the same test" in page
    others = cells(page, "wav2vec 2.0 PT, all layers", "IEMOCAP", 1)
    ours = comparison["tables"][0]["rows"][8]["ours"]
    assert others[2] == f"{100 * ours['accuracy']['value']:.1f} ± {100 * ours['accuracy']['sd_over_seeds']:.1f}"
    assert others[3:] == ["66.5 ± 0.5", others[4], "67.0 ± 0.5", "–"]
    assert others[4] == f"{100 * ours['f1_macro']['value']:.1f} ± {100 * ours['f1_macro']['sd_over_seeds']:.1f}"
    terminal = format_comparison(comparison)
    line = next(line for line in terminal.splitlines() if line.startswith("wav2vec 2.0 PT, all layers  IEMOCAP"))
    assert f"{value:.1f} ± {sd:.1f}" in line and row[3] in line and row[5] in line


def test_a_worse_run_has_a_negative_difference(tmp_path):
    write_run(tmp_path / "a", create_rows(0, wrong=6))
    comparison = create_comparison(find_runs(tmp_path)[0], resamples=10)
    row = cells(render_markdown(comparison), "wav2vec 2.0 PT, all layers", "IEMOCAP")
    assert float(row[2]) < 67.2 and row[5].startswith("-")
    assert float(row[5]) == pytest.approx(float(row[2]) - 67.23, abs=0.06)
    assert row[7] == "1"


def test_folds_stand_beside_the_published_ones_where_there_are_as_many(tmp_path):
    five = {f"Session{number}": (6, 6, 6, 6) for number in range(1, 6)}
    write_run(tmp_path / "a", create_rows(0, folds=five, wrong=1))
    page = render_markdown(create_comparison(find_runs(tmp_path)[0], resamples=10))
    rows = [line for line in page.splitlines() if "| Session" in line]
    assert len(rows) == 5
    published = read_published().experiments["w2v2PT-alllayers", "iemocap"].folds
    assert [row.split("|")[-2].strip() for row in rows] == [f"{100 * value:.1f}" for value in published]
    assert [row.split("|")[3].strip() for row in rows] == list(five)


def test_random_folds_are_counted_per_seed(tmp_path):
    """With folds drawn anew for every seed, a fold's n is not the number of different utterances in it."""
    rows = create_rows(0) + [
        {**row, "fold": {"fold_1": "fold_2", "fold_2": "fold_1"}.get(row["fold"], row["fold"])}
        for row in create_rows(1)
    ]
    write_run(tmp_path / "a", rows)
    made = judge(next(iter(find_runs(tmp_path)[0].values())), resamples=10)
    assert [fold["n"] for fold in made["folds"]] == [30, 30, 24] and made["n"] == 84


def line_of(seed, fold, epoch, **values):
    return {"seed": seed, "fold": fold, "epoch": epoch, "loss": 1 / epoch, "seconds": 0.1, **values}


HISTORY = [
    line_of(0, "a", 1, dev_loss=1.0, dev_uar=0.4),
    line_of(0, "a", 2, dev_loss=0.6, dev_uar=0.6),
    line_of(0, "a", 3, dev_loss=0.8, dev_uar=0.7, layer_weights=[[0.2, 0.3, 0.5], [0.9, 0.1]]),
    line_of(0, "b", 1, dev_loss=0.9, dev_uar=0.5),
    line_of(0, "b", 2, dev_loss=1.1, dev_uar=0.4, layer_weights=[[0.4, 0.5, 0.1], [1.0]]),
]


@pytest.mark.parametrize(("monitor", "kept"), [("loss", {"a": 2, "b": 1}), ("uar", {"a": 3, "b": 1})])
def test_kept_epochs_and_layer_weights_come_from_the_history(tmp_path, monitor, kept):
    write_run(tmp_path / "a", create_rows(0), history=HISTORY, monitor=monitor)
    run = next(iter(find_runs(tmp_path)[0].values()))
    assert run.kept_epochs() == {(0, fold): epoch for fold, epoch in kept.items()}
    assert run.layer_weights().tolist() == [[0.2, 0.3, 0.5], [0.4, 0.5, 0.1]]
    made = judge(run, resamples=10)
    assert made["layer_weights"]["mean"] == pytest.approx([0.3, 0.4, 0.3])
    assert made["layer_weights"]["sd"] == pytest.approx([np.sqrt(0.02), np.sqrt(0.02), np.sqrt(0.08)])
    page = render_markdown(create_comparison(find_runs(tmp_path)[0], resamples=10))
    shown = cells(page, "wav2vec 2.0 PT, all layers", "IEMOCAP", 1)[-1]
    assert shown == f"{min(kept.values())} to {max(kept.values())}"
    assert made["kept_epochs"] == {"least": min(kept.values()), "most": max(kept.values()), "of": 2}


def test_runs_without_layer_weights_or_dev_part_are_judged_too(tmp_path):
    write_run(tmp_path / "a", create_rows(0), history=[line_of(0, "a", 1), line_of(0, "a", 2)])
    comparison = write_comparison(tmp_path, tmp_path / "out", resamples=10)
    ours = next(row["ours"] for row in comparison["tables"][0]["rows"] if row["ours"])
    assert ours["layer_weights"] is None and ours["kept_epochs"] is None


def test_figures_are_files_that_can_be_shown(tmp_path):
    write_run(tmp_path / "a", create_rows(0), history=HISTORY)
    write_run(tmp_path / "b", create_rows(0), "pepino/w2v2PT-fusion", history=HISTORY, normalise="global")
    write_comparison(tmp_path, tmp_path / "out", resamples=10)
    page = (tmp_path / "out" / "pepino.md").read_text()
    names = re.findall(r"\]\((.*?)\)", page)
    assert names == [
        "layer-weights.svg",
        "layer-weights-others.svg",
        "learning-w2v2PT-alllayers-iemocap.svg",
        "learning-w2v2PT-fusion-iemocap.svg",
    ]
    for name in names:
        xml.etree.ElementTree.parse(tmp_path / "out" / name)
        assert (tmp_path / "out" / name).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "IEMOCAP, ours (2 runs)" in (tmp_path / "out" / "layer-weights.svg").read_text()


def test_layer_weights_are_drawn_at_their_layers():
    published = read_published().layer_weights["w2v2PT-alllayers", "ravdess"]
    mean, sd = np.linspace(0.05, 0.1, 13), np.full(13, 0.01)
    panels = {"A": [curves.Curve("paper", 1, published, published=True), curves.Curve("ours", 1, mean, sd)]}
    axes = curves.draw_layer_weights(panels).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["paper"].get_ydata().tolist() == list(published) and drawn["paper"].get_linestyle() == "--"
    assert drawn["ours"].get_ydata().tolist() == mean.tolist() and drawn["ours"].get_linestyle() == "-"
    assert drawn["ours"].get_xdata().tolist() == list(range(13))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.04) and band.max() == pytest.approx(0.11)


def test_learning_curves_have_a_line_a_run_and_a_dot_at_the_kept_epoch():
    losses, scores = curves.draw_learning_curves(HISTORY, "title", {(0, "a"): 2, (0, "b"): 1}).axes
    lines = [line for line in losses.lines if line.get_marker() == "None"]
    expected = [[1, 1 / 2, 1 / 3], [1, 1 / 2], [1, 0.6, 0.8], [0.9, 1.1]]  # training, then dev
    assert [list(line.get_ydata()) for line in lines] == expected
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in scores.lines if line.get_marker() == "o"]
    assert dots == [(2, 0.6), (1, 0.5)]
    assert len(curves.draw_learning_curves([line_of(0, "a", 1)], "no dev part").axes) == 1


@pytest.mark.parametrize(
    "name", ["none-egemaps", "iemocap/none-egemaps", "none-egemaps/iemocap", "none-egemaps-iemocap"]
)
def test_a_recipe_may_name_its_corpus(tmp_path, name):
    write_run(tmp_path / "a", create_rows(0), f"pepino/{name}")
    assert list(find_runs(tmp_path)[0]) == [("none-egemaps", "iemocap")]


def test_what_is_not_in_the_paper_is_listed_apart(tmp_path):
    write_run(tmp_path / "a", create_rows(0), "pepino/w2v2PT-alllayers-normless", normalise="none")
    write_run(tmp_path / "b", create_rows(0, corpus="ravdess"), "pepino/w2v2PT-alllayers-ravdess", normalise="global")
    write_run(tmp_path / "c", create_rows(0), "emodb/loso")
    unfinished = write_run(tmp_path / "d", create_rows(0), "pepino/none-egemaps")
    (unfinished / "predictions.parquet").unlink()
    found = find_runs(tmp_path)
    assert set(found[0]) == {("w2v2PT-alllayers-normless", "iemocap"), ("w2v2PT-alllayers", "ravdess")}
    comparison = create_comparison(*found, resamples=10)
    assert [made["id"] for made in comparison["others"]] == ["w2v2PT-alllayers-normless"]
    page = render_markdown(comparison)
    assert cells(page, "w2v2PT-alllayers-normless", "IEMOCAP")[4:6] == ["–", "–"]
    assert f"unfinished, left out: {unfinished}" in page
    assert "normalise is global, published with speaker: w2v2PT-alllayers on RAVDESS" in page


W2V = '[encoder]\nname = "wav2vec2"\n'


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            W2V + 'layers = [0, 1, 2, 3]\noptions = { weights = "w.safetensors" }',
            "wav2vec2 (w.safetensors), layers 0-3",
        ),
        (W2V + "layers = [-1]", "wav2vec2, layer -1"),
        (W2V + 'layers = "all"\n[[streams]]\nname = "egemaps"', "wav2vec2, all layers; egemaps, all layers"),
        (W2V + "layers = [0, 4]", "wav2vec2, layers 0, 4"),
    ],
)
def test_the_encoders_are_named(tmp_path, recipe, words):
    write_run(tmp_path / "a", create_rows(0), recipe=recipe)
    comparison = create_comparison(find_runs(tmp_path)[0], resamples=10)
    assert cells(render_markdown(comparison), "wav2vec 2.0 PT, all layers", "IEMOCAP")[8] == words


def test_what_speakers_are_told_apart_by_is_said(tmp_path):
    write_run(tmp_path / "a", create_rows(0), recipe='[features]\nspeaker = "recording"')
    page = render_markdown(create_comparison(find_runs(tmp_path)[0], resamples=10))
    assert cells(page, "wav2vec 2.0 PT, all layers", "IEMOCAP")[9].endswith("normalised: recording")


def test_unsound_folders(tmp_path):
    with pytest.raises(InputError, match="holds no run of a recipe pepino/"):
        find_runs(tmp_path)
    first = write_run(tmp_path / "a", create_rows(0))
    second = write_run(tmp_path / "b" / "deep", create_rows(0))
    with pytest.raises(InputError, match=f"{first} and {second} are both w2v2PT-alllayers on iemocap"):
        find_runs(tmp_path)
    write_run(tmp_path / "c" / "run", create_rows(0) + create_rows(1, corpus="ravdess"))
    with pytest.raises(InputError, match="iemocap, ravdess"):
        find_runs(tmp_path / "c")
    (first / "history.jsonl").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        find_runs(tmp_path / "a")
    (first / "recipe.toml").write_text("name =")
    with pytest.raises(InputError, match=r"recipe\.toml: is not TOML"):
        find_runs(tmp_path / "a")
