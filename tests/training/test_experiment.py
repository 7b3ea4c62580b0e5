"""Experiments from a file to a matrix: levels, tests on other corpora, resuming, and how much work is left."""

from __future__ import annotations

import csv
import json

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from speech import write_tiny_whisper

from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.evaluation.matrix import create_matrix, format_matrix, write_matrix
from serkit.evaluation.predictions import read_predictions
from serkit.training import experiment, transfer
from serkit.training.estimate import describe_plan, estimate
from serkit.training.experiment import plan_experiment, run_all, write_runs
from serkit.training.recipe import CorpusTest, load_recipe
from serkit.training.run import read_provenance, train
from serkit.training.transfer import evaluate_on, match_labels, restrict

torch.set_num_threads(1)

PITCH = {"sad": 120, "happy": 220, "angry": 400, "bored": 700}
RECIPE = """
name = "small"
seeds = [0, 1]
[data]
manifest = "{root}/one.csv"
[labels]
classes = ["sad", "happy", "angry"]
merge = {{ cross = "angry" }}
[protocol]
name = "speaker-k-fold"
k = 2
dev = 0
[encoder]
name = "whisper"
layers = [1, 2]
options = {{ weights = "{root}/tiny.safetensors" }}
[head]
kind = "pooled"
mix = "concat"
dropout = 0
[training]
optimizer = "lbfgs"
epochs = 10
label_smoothing = 0
"""
FACTORS = """
[factors.decay.weak]
training.weight_decay = 0.01
[factors.decay.strong]
training.weight_decay = 10.0
[tests.two]
manifest = "{root}/two.csv"
merge = {{ joyful = "happy" }}
"""


def speak(path, pitch, rng):
    time = np.arange(int(rng.integers(4800, 8000))) / 16_000
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6)) * 0.1
    soundfile.write(path, wave + rng.normal(0, 0.003, len(time)), 16_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("experiment"), np.random.default_rng(0)
    for corpus, labels, speakers in (
        ("one", {"sad": "sad", "happy": "happy", "cross": "angry"}, "abcd"),
        ("two", {"sad": "sad", "joyful": "happy", "bored": "bored"}, "abx"),
    ):
        rows = []
        for speaker in speakers:
            for label, emotion in labels.items():
                for take in range(2):
                    id = f"{corpus}-{speaker}-{label}-{take}"
                    speak(root / f"{id}.wav", PITCH[emotion] * (1 + 0.03 * "abcdx".index(speaker)), rng)
                    rows.append(
                        {"id": id, "audio": f"{id}.wav", "speaker": speaker, "emotion": label, "corpus": corpus}
                    )
        with (root / f"{corpus}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    write_tiny_whisper(root / "tiny.safetensors", 200)
    (root / "lone.toml").write_text(RECIPE.format(root=root))
    (root / "experiment.toml").write_text((RECIPE + FACTORS).format(root=root))
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(load_recipe(root / "lone.toml"), folder, root / "cache", workers=1)
    return folder


def test_an_experiment_runs_tests_and_goes_on_where_it_stopped(root, tmp_path, monkeypatch):
    runs = plan_experiment(root / "experiment.toml", tmp_path)
    assert [each.folder.name for each in runs] == ["weak", "strong"] and not any(each.finished for each in runs)
    assert [error for _, error in run_all(runs[:1], root / "cache", workers=1)] == [None]
    assert runs[0].finished and not runs[1].finished
    recipe = (tmp_path / "weak/recipe.toml").read_text()
    assert "[tests" not in recipe, "what is tested afterwards does not change the models"

    def forbid(*arguments):
        raise AssertionError("what is finished is not done again")

    monkeypatch.setattr(experiment, "train", forbid)
    monkeypatch.setattr(experiment, "evaluate_on", forbid)
    assert [error for _, error in run_all(runs[:1], root / "cache", workers=1)] == [None]
    monkeypatch.undo()
    changed = plan_experiment(root / "experiment.toml", tmp_path, ["tests.two.merge={}"])
    assert changed[0].trained and changed[0].untested == ["two"]
    assert [error for _, error in run_all(runs, root / "cache", workers=1)] == [None, None]
    path = write_runs(runs, tmp_path)
    assert path.read_text().splitlines() == [
        "run,decay,test", "weak,weak,folds", "weak/on/two,weak,two", "strong,strong,folds", "strong/on/two,strong,two",
    ]  # fmt: skip
    made = create_matrix([tmp_path / "weak"])
    assert [(cell["train"], cell["test"]) for cell in made["cells"]] == [("one", "one"), ("one", "two")]
    with pytest.raises(InputError, match="both are trained on one and tested on one: name one"):
        create_matrix([tmp_path])


def test_only_some_recipes_of_an_experiment(root, tmp_path):
    assert [each.folder.name for each in plan_experiment(root / "experiment.toml", tmp_path, only=["st*"])] == [
        "strong"
    ]
    with pytest.raises(InputError, match="--only x: matches none of weak, strong"):
        plan_experiment(root / "experiment.toml", tmp_path, only=["x"])


def test_the_plan_counts_what_is_left(root, tmp_path):
    runs = plan_experiment(root / "experiment.toml", tmp_path)
    before = estimate(runs[0], tmp_path / "cache", 1)
    assert (before.models, before.all_models) == (4, 4)
    assert before.utterances == 24 + 12, "two has 18 utterances, 6 of them of a class that the run lacks"
    seconds = sum(soundfile.info(path).duration for path in root.glob("*.wav") if "bored" not in path.name)
    assert before.hours == pytest.approx(seconds / 3600) == before.encode_hours and before.seconds > 0
    list(run_all(runs[:1], tmp_path / "cache", workers=1))
    after = estimate(runs[0], tmp_path / "cache", 1)
    assert (after.models, after.encode_hours, after.seconds) == (0, 0, 0)
    lines = describe_plan(runs, [after, before])
    assert "all models trained" in lines[0] and "4 of 4 models to train, 2 seeds, then on two" in lines[1]
    assert lines[2].startswith("plan: 2 runs, 4 models to train, 0.00 h of audio to encode")


def test_models_judge_another_corpus_on_the_classes_both_have(root, run, tmp_path):
    other = Manifest.read(root / "two.csv")
    section = CorpusTest(merge={"joyful": "happy"})
    folder = evaluate_on(run, other, "two", root / "cache", section, workers=1)
    assert folder == run / "on" / "two"
    table = read_predictions(folder / "predictions.parquet")
    assert set(table["truth"]) == {"sad", "happy"} == set(table["prediction"]) | {"sad", "happy"}
    assert [name for name in table.columns if name.startswith("p_")] == ["p_sad", "p_happy"]
    assert table.select(pl.sum_horizontal("p_sad", "p_happy")).to_series().to_list() == pytest.approx([1] * len(table))
    assert table.n_unique("id") == 12 and sorted(set(table["seed"])) == [0, 1, 2, 3], "every model judges everything"
    assert set(table["fold"]) == {"fold_1", "fold_2"} and set(table["part"]) == {"test"}
    facts = read_provenance(folder)
    assert facts["left_out"] == {"bored": 6} and facts["stamp"] == "speakers shared: 0" and facts["models"] == 4
    assert facts["trained_on"] == ["one"] and facts["classes"] == ["sad", "happy"]


def test_what_models_say_there_is_what_they_say_here(root, run):
    """The models of a run, applied to its own utterances under another corpus's name, repeat its predictions."""
    same = Manifest(Manifest.read(root / "one.csv").table.with_columns(corpus=pl.lit("another")))
    table = read_predictions(evaluate_on(run, same, "same", root / "cache", workers=1) / "predictions.parquet")
    own = read_predictions(run / "predictions.parquet")
    order = sorted(own.select("seed", "fold").unique().rows())
    numbered = own.with_columns(seed=pl.Series([order.index(pair) for pair in own.select("seed", "fold").rows()]))
    both = numbered.join(table, on=["id", "fold", "seed"], suffix="_there")
    assert len(both) == len(own)
    for name in ("p_sad", "p_happy", "p_angry"):
        assert both[name].to_numpy() == pytest.approx(both[f"{name}_there"].to_numpy(), abs=1e-6)


def test_speakers_of_the_training_part_are_refused(root, run):
    own = Manifest.read(root / "one.csv")
    with pytest.raises(InputError, match="was trained on speaker 'a' \\(4 are in both\\): its own folds test them"):
        evaluate_on(run, own, "one", root / "cache")
    new = Manifest(own.table.with_columns(pl.concat_str(pl.lit("new-"), "speaker").alias("speaker")))
    assert read_provenance(evaluate_on(run, new, "new", root / "cache", workers=1))["stamp"] == "speakers shared: 0"


def test_a_run_that_is_not_finished_is_named(root, tmp_path):
    with pytest.raises(InputError, match="is not a finished run"):
        evaluate_on(tmp_path, Manifest.read(root / "two.csv"), "two", root / "cache")


def test_labels_are_matched_by_name(root):
    recipe = load_recipe(root / "lone.toml")
    rows = [{"id": str(n), "audio": "a.wav", "emotion": label} for n, label in enumerate(["cross", "sad", "odd", None])]
    kept, left_out = match_labels(Manifest.from_rows(rows), recipe, {})
    assert kept.table["emotion"].to_list() == ["angry", "sad"] and left_out == {"no label": 1, "odd": 1}
    with pytest.raises(InputError, match="merge leads to 'anrgy', which the run does not know: did you mean 'angry'"):
        match_labels(Manifest.from_rows(rows), recipe, {"odd": "anrgy"})
    with pytest.raises(InputError, match="fewer than two are shared"):
        match_labels(Manifest.from_rows(rows[1:]), recipe, {})


def test_probabilities_are_restricted_to_shared_classes():
    columns = {"prediction": ["c", "c", "a"], "p_a": [0.1, 0.0, 0.6], "p_b": [0.3, 0.0, 0.2], "p_c": [0.6, 1.0, 0.2]}
    made = restrict(columns, ["a", "b", "c"], ["a", "b"])
    assert made["prediction"] == ["b", "a", "a"]
    assert made["p_a"] == pytest.approx([0.25, 0.5, 0.75]) and made["p_b"] == pytest.approx([0.75, 0.5, 0.25])
    assert set(made) == {"prediction", "p_a", "p_b"}


def test_the_matrix_shows_every_pair_with_its_interval(root, run, tmp_path):
    for name in ("two", "same"):
        if not (run / "on" / name).exists():
            section = CorpusTest(merge={"joyful": "happy"})
            evaluate_on(run, Manifest.read(root / "two.csv"), name, root / "cache", section, workers=1)
    made = create_matrix([run], "accuracy")
    write_matrix(made, tmp_path)
    text = format_matrix(made)
    assert "accuracy with 95 % interval" in text and "the cells differ in their classes" in text
    assert json.loads((tmp_path / "matrix.json").read_text()) == made
    assert {"matrix.md", "matrix.png", "matrix.svg", "matrix.json"} <= {path.name for path in tmp_path.iterdir()}
    (own,) = (cell for cell in made["cells"] if cell["within"])
    rows = read_predictions(run / "predictions.parquet")
    assert own["value"] == pytest.approx((rows["truth"] == rows["prediction"]).mean())
    assert own["low"] <= own["value"] <= own["high"] and own["n"] == 24 and own["chance"] == pytest.approx(1 / 3)


def test_a_fine_tuned_run_is_tested_on_another_corpus_too(root, tmp_path):
    changes = [
        "head.kind=frames", "head.mix=softmax", "head.frame_hidden=[]", "training.optimizer=adamw", "training.epochs=1",
        "finetune.lr=1e-3", "seeds=[0]", "tasks.speaker.weight=0.1",
    ]  # fmt: skip
    train(load_recipe(root / "lone.toml", changes), tmp_path, root / "cache", workers=1)
    other = Manifest.read(root / "two.csv")
    folder = evaluate_on(tmp_path, other, "two", root / "cache", CorpusTest(merge={"joyful": "happy"}), workers=1)
    table = read_predictions(folder / "predictions.parquet")
    assert table.n_unique("id") == 12 and set(table["truth"]) == {"sad", "happy"}
    assert transfer.read_provenance(folder)["models"] == 2


def test_the_command_line_plans_trains_and_shows_the_matrix(root, tmp_path, serkit):
    options = ["--cache", root / "cache", "--workers", "1"]
    planned = serkit("train", root / "experiment.toml", "--plan", "-o", tmp_path / "runs", *options)
    assert planned.code == 0 and "plan: 2 runs, 8 models to train" in planned.out
    assert not (tmp_path / "runs").exists()
    done = serkit("train", root / "experiment.toml", "-o", tmp_path / "runs", *options)
    assert done.code == 0 and "[2/2] small/strong: finished" in done.err and "plan: 2 runs" in done.err
    assert (tmp_path / "runs/strong/on/two/report.html").is_file() and (tmp_path / "runs/runs.csv").is_file()
    page = tmp_path / "runs/weak/on/two/report.json"
    assert json.loads(page.read_text())["utterances"] == 12
    fewer = 'tests.two.exclude=["two-a-sad-0"]'
    assert serkit("train", root / "experiment.toml", fewer, "-o", tmp_path / "runs", *options).code == 0
    assert json.loads(page.read_text())["utterances"] == 11, "what is tested anew is judged anew"
    matrix = serkit("matrix", tmp_path / "runs/weak", "-o", tmp_path / "matrix")
    assert matrix.code == 0 and "trained on \\ tested on" in matrix.out and (tmp_path / "matrix/matrix.md").is_file()
    on = ["evaluate", tmp_path / "runs/weak", "--on", root / "two.csv", *options]
    judged = serkit(*on, "--merge", "joyful=happy")
    assert judged.code == 0 and "trained on one (speaker-k-fold), tested on two" in judged.out
    wrong = serkit(*on, "--merge", "joyful")
    assert wrong.code == 2 and "--merge 'joyful': write LABEL=CLASS" in wrong.err
