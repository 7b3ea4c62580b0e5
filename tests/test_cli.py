"""The command line: every verb, its output for programs, and one line for every mistake."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from serkit.encoders.whisper import WhisperConfig, WhisperEncoder

CLASSES = ("angry", "happy", "neutral", "sad")
LETTERS = dict(zip("WFNT", CLASSES, strict=True))  # EmoDB's letters
SPEAKERS = ("03", "08", "09")
RECIPE = """
name = "tiny"
summary = "made for tests"
seeds = [0]
[data]
corpora = {{ emodb = "." }}
root = "{root}"
[labels]
classes = ["angry", "happy", "neutral", "sad"]
[protocol]
name = "leave-one-speaker-out"
dev = 0
[encoder]
name = "whisper"
layers = [1]
options = {{ weights = "{weights}" }}
stride = 4
[head]
kind = "pooled"
[training]
epochs = 2
"""


def is_one_line(result, code=2):
    return result.code == code and result.err.startswith("serkit: ") and result.err.count("\n") == 1


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, make_tone):
    """A folder that looks like EmoDB: three speakers, four emotions, pitch by emotion and level by speaker."""
    folder = tmp_path_factory.mktemp("emodb") / "wav"
    folder.mkdir()
    for number, speaker in enumerate(SPEAKERS):
        for letter, frequency in zip(LETTERS, (150, 400, 1000, 2500), strict=True):
            for version in "ab":
                tone = make_tone(0.5, frequency=frequency, level=0.1 + 0.2 * number, noise=0.02, seed=ord(version))
                soundfile.write(folder / f"{speaker}a01{letter}{version}.wav", tone, 16_000)
    return folder.parent


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Random weights of a tiny Whisper encoder, as ``encoder.options.weights`` takes them."""
    torch.manual_seed(0)
    encoder = WhisperEncoder("whisper", WhisperConfig(mels=20, dim=64, heads=1, blocks=1, ffn=64, final_norm=False))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(encoder.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def recipe(corpus, weights, tmp_path_factory):
    """A recipe that trains in a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE.format(root=corpus, weights=weights))
    return path


def run_apart(*arguments, **options):
    """Run ``serkit`` as a process of its own."""
    command = [sys.executable, "-m", "serkit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture(scope="session")
def trained(recipe, tmp_path_factory):
    """A finished run, and what ``serkit train`` printed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done = run_apart("train", recipe, "-o", folder, "--cache", folder.parent / "cache", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, out=done.stdout, cache=folder.parent / "cache")


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """The run's bundle, and what ``serkit export`` printed."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    done = run_apart("export", trained.folder, "-o", folder, "--cache", trained.cache)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, out=done.stdout)


@pytest.fixture(scope="session")
def model(exported):
    """The folder of a tiny bundle."""
    return exported.folder


@pytest.fixture
def clips(tmp_path, write_wav):
    """Three recordings of half a second."""
    return [
        write_wav(tmp_path / f"{name}.wav", seconds=0.5, frequency=f)
        for name, f in (("a", 200), ("b", 900), ("c", 3000))
    ]


# predict


def test_the_table_has_one_line_per_recording(serkit, model, clips):
    result = serkit("predict", *clips, "--model", model)
    head, *rows = result.out.splitlines()
    assert (result.code, result.err, len(rows)) == (0, "", 3)
    assert head.split() == ["recording", "seconds", "label", "p", "runner-up"]
    for row, path in zip(rows, clips, strict=True):
        name, seconds, label, p, second, rest = row.split()
        assert str(path).endswith(name.removeprefix("..."))
        assert seconds == "0.50"
        assert {label, second} < set(CLASSES)
        assert 1 >= float(p) >= float(rest) >= 0


def test_json_is_one_object_a_line(serkit, model, clips):
    result = serkit("predict", *clips, "--model", model, "--format", "json", "--embedding")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["id"] for row in rows] == list(map(str, clips))
    for row in rows:
        assert tuple(row["probabilities"]) == CLASSES
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert len(row["embedding"]) == 64


def test_csv_has_the_same_numbers_in_class_order(serkit, model, clips):
    rows = list(csv.DictReader(io.StringIO(serkit("predict", *clips, "--model", model, "--format", "csv").out)))
    lines = serkit("predict", *clips, "--model", model, "--format", "json").out.splitlines()
    assert list(rows[0]) == ["id", "start", "end", "label", *(f"p_{name}" for name in CLASSES), "model"]
    for row, line in zip(rows, lines, strict=True):
        expected = json.loads(line)
        assert (row["id"], row["label"], row["model"]) == (expected["id"], expected["label"], expected["model"])
        assert {name: float(row[f"p_{name}"]) for name in CLASSES} == expected["probabilities"]


def test_a_folder_a_glob_and_a_list_give_the_same(serkit, model, clips):
    folder = clips[0].parent
    (folder / "wav.scp").write_text("".join(f"{path} {path.name}\n" for path in clips))
    answers = [
        serkit("predict", name, "--model", model, "--format", "json").out
        for name in (folder, f"{folder}/*.wav", folder / "wav.scp")
    ]
    assert answers[0] == answers[1] == answers[2] != ""


def test_output_goes_to_a_file_that_is_never_half_written(serkit, model, clips, tmp_path):
    target = tmp_path / "new" / "out.csv"
    result = serkit("predict", *clips, "--model", model, "--format", "csv", "-o", target)
    assert (result.code, result.out) == (0, "")
    before = target.read_text()
    assert before.count("\n") == 4
    assert is_one_line(serkit("predict", clips[0], tmp_path / "none.csv", "--model", model, "-o", target))
    assert target.read_text() == before
    assert [path.name for path in target.parent.iterdir()] == ["out.csv"]


def test_an_output_that_cannot_be_written_is_one_line(serkit, model, clips, tmp_path):
    assert is_one_line(serkit("predict", clips[0], "--model", model, "-o", tmp_path), code=1)
    assert is_one_line(serkit("predict", clips[0], "--model", model, "-o", clips[0] / "out.csv"), code=1)


def test_a_bad_file_among_good_ones_is_one_line_and_the_others_go_on(serkit, model, clips, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_text("no recording at all")
    result = serkit("predict", clips[0], bad, clips[1], "--model", model, "--format", "json")
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == [str(clips[0]), str(clips[1])]
    assert is_one_line(result)
    assert str(bad) in result.err


def test_labels_restrict_the_classes(serkit, model, clips):
    result = serkit("predict", clips[0], "--model", model, "--labels", " sad, happy ,", "--format", "json")
    probabilities = json.loads(result.out)["probabilities"]
    assert probabilities["angry"] == probabilities["neutral"] == 0
    assert probabilities["sad"] + probabilities["happy"] == pytest.approx(1, abs=1e-3)
    assert serkit("predict", clips[0], "--model", model, "--labels", "sad").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{clip}", "--model", "{tmp}/none"], "none: is not a bundle"),
        (["{clip}", "--labels", "happi"], "no class 'happi': did you mean 'happy'?"),
        (["{clip}", "--labels", ","], "name at least one class"),
        (["{tmp}/empty"], "empty: holds no recording"),
        (["{tmp}/none.wav"], "none.wav: no such file"),
        (["{tmp}/*.mp3"], "*.mp3: matches no file"),
        (["{tmp}/none.scp"], "none.scp: no such file"),
        (["{clip}", "--embedding"], "--embedding needs --format json"),
    ],
)
def test_mistakes_in_predict_are_one_line(serkit, model, clips, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    arguments = [text.format(clip=clips[0], tmp=tmp_path) for text in arguments]
    result = serkit("predict", *([] if "--model" in arguments else ["--model", model]), *arguments)
    assert is_one_line(result)
    assert message in result.err


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_a_reader_that_stops_early_sees_no_traceback(model, clips, format):
    names = " ".join(map(str, clips * 200 if format == "csv" else clips * 5))
    command = f"{sys.executable} -m serkit.cli predict --model {model} --format {format} {names} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


# list


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("encoders", {"whisper"}),
        ("corpora", {"ravdess", "emodb", "iemocap"}),
        ("protocols", {"leave-one-speaker-out", "emobox/ravdess"}),
        ("recipes", {"emodb/loso", "default/speakers"}),
    ],
)
def test_list_shows_names_with_a_word_on_each(serkit, kind, names):
    result = serkit("list", kind)
    found = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert result.code == 0
    assert names <= set(found)


def test_list_models_shows_the_packaged_model(serkit, model, monkeypatch, tmp_path):
    from serkit.inference import bundle

    monkeypatch.setattr(bundle, "DEFAULT", model)
    assert serkit("list", "models").out.startswith("default  tiny: angry, happy, neutral, sad; free to use")
    monkeypatch.setattr(bundle, "DEFAULT", tmp_path)
    assert is_one_line(serkit("list", "models"))


def test_an_unknown_kind_or_verb_is_a_usage_error(serkit):
    for arguments in (["list", "emotions"], ["predikt"], ["predict"], ["predict", "x.wav", "--format", "xml"]):
        result = serkit(*arguments)
        assert result.code == 2
        assert "Traceback" not in result.err


# prepare, check, extract


def test_prepare_writes_a_manifest_that_check_finds_sound(serkit, corpus, tmp_path):
    manifest = tmp_path / "sub" / "m.parquet"
    result = serkit("prepare", "emodb", corpus, "-o", manifest)
    assert result.code == 0
    assert "24 of the 535 utterances known" in result.out
    assert set(pl.read_parquet(manifest)["emotion"]) == set(CLASSES)
    result = serkit("check", manifest, "--protocol", "leave-one-speaker-out", "--audio")
    assert (result.code, result.err) == (0, "")
    assert "24 utterances, 0.00 h, 3 speakers" in result.out
    assert "emotion: angry 6, happy 6, neutral 6, sad 6" in result.out
    assert "protocol leave-one-speaker-out: 3 folds, speakers shared: 0" in result.out
    assert "  08: train 8, dev 8, test 8" in result.out
    assert result.out.endswith("no problems found\n")


def test_check_reports_every_problem_and_fails(serkit, corpus, tmp_path):
    broken = shutil.copytree(corpus, tmp_path / "corpus")
    serkit("prepare", "emodb", broken, "-o", tmp_path / "m.csv")
    (broken / "wav" / "03a01Wa.wav").unlink()
    (broken / "wav" / "03a01Wb.wav").write_text("text")
    result = serkit("check", tmp_path / "m.csv")
    assert result.code == 2
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["missing-file", "unreadable", "serkit"]
    assert "no problems" not in result.out


def test_prepare_writes_nothing_when_a_recording_is_damaged(serkit, corpus, tmp_path):
    broken = shutil.copytree(corpus, tmp_path / "corpus")
    (broken / "wav" / "03a01Wb.wav").write_text("text")
    result = serkit("prepare", "emodb", broken, "-o", tmp_path / "m.csv")
    assert result.code == 2
    assert result.err.splitlines()[-1] == f"serkit: {broken}: 1 problems, nothing written"
    assert not (tmp_path / "m.csv").exists()


def test_split_writes_the_parts_of_every_fold(serkit, corpus, tmp_path):
    serkit("prepare", "emodb", corpus, "-o", tmp_path / "m.parquet")
    folds = tmp_path / "folds"
    done = serkit("split", tmp_path / "m.parquet", "dev=0", "--protocol", "leave-one-speaker-out", "-o", folds)
    assert (done.code, done.err) == (0, "")
    shown = [f"{folds}/{speaker}.{part}.parquet" for speaker in SPEAKERS for part in ("train", "test")]
    assert done.out.splitlines() == [*shown, "protocol leave-one-speaker-out: 3 folds, speakers shared: 0"]
    assert set(pl.read_parquet(folds / "08.test.parquet")["speaker"]) == {"08"}
    assert set(pl.read_parquet(folds / "08.train.parquet")["speaker"]) == {"03", "09"}


def test_split_and_check_read_the_published_csv_with_a_root(serkit, corpus, tmp_path):
    serkit("prepare", "emodb", corpus, "-o", tmp_path / "m.parquet")
    options = ["group=none", "k=3", "dev=0", "--protocol", "group-k-fold"]
    assert serkit("split", tmp_path / "m.parquet", *options, "--format", "cai", "-o", tmp_path / "out").code == 0
    path = tmp_path / "out" / "emodb_fold_1.test.csv"
    assert path.read_text().startswith("file,emotion,text\n/path_to_wavs/")
    assert serkit("check", path).code == 2
    result = serkit("check", path, "--root", corpus)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_extract_writes_one_file_per_utterance(serkit, corpus, weights, tmp_path, monkeypatch, granularity):
    serkit("prepare", "emodb", corpus, "-o", tmp_path / "m.parquet")
    arguments = ["extract", tmp_path / "m.parquet", f"weights={weights}", "-o", tmp_path / "out"]
    arguments += ["--cache", tmp_path / "cache"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    first = serkit(*arguments, "--granularity", granularity)
    assert first.code == 0, first.err
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 24
    assert np.load(files[0]).shape == {"utterance": (2, 2, 64), "frame": (2, 25, 64)}[granularity]
    assert "encoding: 24/24" in first.err
    again = serkit(*arguments, "--granularity", granularity)
    assert again.code == 0
    assert "encoding" not in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "emodbb", "{tmp}", "-o", "{tmp}/m.csv"], "no corpus named 'emodbb': did you mean 'emodb'?"),
        (["prepare", "emodb", "{tmp}/none", "-o", "{tmp}/m.csv"], "none: no such folder"),
        (["prepare", "emodb", "{tmp}", "-o", "{tmp}/m.csv"], "holds no utterance of Berlin EmoDB"),
        (["prepare", "emodb", "{corpus}", "-o", "{tmp}/m.txt"], "m.txt: unknown manifest format"),
        (["check", "{tmp}/none.csv"], "none.csv: no such manifest"),
        (["check", "{tmp}/bad.parquet"], "bad.parquet: cannot be read"),
        (["check", "{tmp}/good.csv", "--protocol", "loso"], "no protocol named 'loso'"),
        (["check", "{tmp}/good.csv", "--protocol", "emobox/ravdess"], "is for ravdess"),
        (["extract", "{tmp}/good.csv", "-o", "{tmp}/o", "--granularity", "word"], "utterance or frame, not 'word'"),
        (["extract", "{tmp}/good.csv", "blocs=2", "-o", "{tmp}/o"], "encoder whisper: "),
        (["extract", "{tmp}/good.csv", "-o", "{tmp}/o", "--device", "cuda"], "PyTorch finds no such device here"),
        (["extract", "{tmp}/good.csv", "-o", "{tmp}/o", "--encoder", "wisper"], "did you mean 'whisper'?"),
        (["extract", "{tmp}/lost.csv", "-o", "{tmp}/o"], "lost.wav: cannot be read"),
        (["split", "{tmp}/good.csv", "k=1", "--protocol", "part", "-o", "{tmp}/o"], "no option 'k'"),
        (["train", "emodb/lose"], "no recipe named 'emodb/lose': did you mean 'emodb/loso'?"),
        (["train", "emodb/loso"], "set data.root=DIR"),
        (["train", "emodb/loso", "training.lrr=1"], "unknown key 'training.lrr'"),
        (["train", "emodb/loso", "data.root={tmp}/none"], "none: no such folder"),
        (["evaluate", "{tmp}"], "predictions.parquet: no such predictions table"),
        (["export", "{tmp}", "-o", "{tmp}/b"], "is not a finished run"),
    ],
)
def test_mistakes_are_one_line_that_names_what_is_wrong(serkit, corpus, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path / "cache"))
    name = next(corpus.rglob("*.wav"))
    (tmp_path / "bad.parquet").write_text("no table")
    (tmp_path / "good.csv").write_text(f"id,audio,corpus,speaker,emotion\n1,{name},emodb,03,sad\n")
    (tmp_path / "lost.csv").write_text("id,audio\n1,lost.wav\n")
    result = serkit(*(text.format(tmp=tmp_path, corpus=corpus) for text in arguments))
    assert is_one_line(result), result.err
    assert message in result.err


# train, evaluate, export


def test_train_writes_a_run_with_one_prediction_per_utterance(trained):
    table = pl.read_parquet(trained.folder / "predictions.parquet")
    assert table.height == table["id"].n_unique() == 24
    assert sorted(table["fold"].unique()) == list(SPEAKERS)
    assert (table["fold"] == table["speaker"]).all()
    assert {"recipe.toml", "provenance.json", "history.jsonl", "report.json", "report.html"} <= {
        path.name for path in trained.folder.iterdir()
    }
    assert "speakers shared: 0" in trained.out


def test_training_again_keeps_what_is_there_and_another_recipe_is_refused(serkit, trained, recipe):
    before = {path: path.stat().st_mtime_ns for path in (trained.folder / "models").rglob("*.safetensors")}
    again = serkit("train", recipe, "-o", trained.folder, "--cache", trained.cache, "--workers", 1)
    assert again.code == 0
    assert len(before) == 3
    assert {path: path.stat().st_mtime_ns for path in (trained.folder / "models").rglob("*.safetensors")} == before
    other = serkit("train", recipe, "training.epochs=1", "-o", trained.folder, "--cache", trained.cache)
    assert is_one_line(other)
    assert "holds a run of another recipe" in other.err


def test_export_says_how_well_onnx_agrees(exported):
    assert "probabilities differ from PyTorch's by at most" in exported.out
    card = json.loads((exported.folder / "serkit.json").read_text())
    assert (card["classes"], card["name"], card["details"]["utterances"]) == (list(CLASSES), "tiny", 24)
    assert card["training_data"].startswith("Berlin EmoDB (free to use")
    assert len(card["thresholds"]) == len(CLASSES) and card["thresholds"] != [0.5] * len(CLASSES)


def test_export_refuses_features_normalised_by_speaker(serkit, trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "run")
    text = (run / "recipe.toml").read_text().replace('normalise = "global"', 'normalise = "speaker"')
    (run / "recipe.toml").write_text(text)
    result = serkit("export", run, "-o", tmp_path / "b")
    assert is_one_line(result)
    assert "normalised by speaker" in result.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["streams=[{name='egemaps'}]"], "also uses egemaps"),
        (["encoder.limit=3", "features.max_frames=50"], "with encoder.limit=15 features.max_frames=187"),
        (["encoder.zero_tail=true"], "encoder.zero_tail is for repeating experiments"),
        (["encoder={name='spectrogram', options={native=true}}"], "at their own rate"),
    ],
)
def test_export_refuses_what_a_bundle_cannot_do(serkit, trained, tmp_path, changes, said):
    from serkit.training.recipe import dump_recipe, load_recipe

    run = shutil.copytree(trained.folder, tmp_path / "run")
    (run / "recipe.toml").write_text(dump_recipe(load_recipe(run / "recipe.toml", changes)))
    result = serkit("export", run, "-o", tmp_path / "b")
    assert is_one_line(result)
    assert said in result.err


def test_the_last_training_lasts_as_long_as_the_folds_did_at_their_best(trained, tmp_path):
    from serkit.export import with_usual_epochs
    from serkit.training.recipe import load_recipe

    recipe = load_recipe(trained.folder / "recipe.toml", ["training.epochs=50", "training.monitor=loss"])
    losses = {(0, "a"): [3, 1, 2], (0, "b"): [3, 2, 1, 0, 5, 6], (1, "a"): [9, 8, 7, 6, 5, 4, 3]}
    lines = [
        {"seed": seed, "fold": fold, "epoch": epoch, "dev_loss": loss, "dev_uar": loss / 10}
        for (seed, fold), values in losses.items()
        for epoch, loss in enumerate(values, 1)
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert with_usual_epochs(tmp_path, recipe).training.epochs == round((2 + 4 + 7) / 3)
    by_uar = load_recipe(trained.folder / "recipe.toml", ["training.epochs=50", "training.monitor=uar"])
    assert with_usual_epochs(tmp_path, by_uar).training.epochs == round((1 + 6 + 1) / 3)
    (tmp_path / "history.jsonl").write_text(json.dumps({"seed": 0, "fold": "a", "epoch": 1, "loss": 2}) + "\n")
    assert with_usual_epochs(tmp_path, recipe) == recipe


def test_export_needs_a_recording_to_compare_on(serkit, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("serkit.export.MIN_SECONDS", 99)
    result = serkit("export", trained.folder, "--cache", trained.cache, "-o", tmp_path / "b")
    assert result.err.splitlines()[-1].startswith("serkit: ")
    assert "no recording of 99 s or more" in result.err


def judged(folder, wrong=0):
    rows = []
    for number in range(24):
        truth = CLASSES[number % 4]
        guess = CLASSES[(number + 1) % 4] if number < wrong else truth
        p = {f"p_{name}": 0.7 if name == guess else 0.1 for name in CLASSES}
        facts = {"id": f"u{number}", "fold": "1", "seed": 0, "part": "test", "truth": truth, "prediction": guess}
        rows.append({**facts, "speaker": f"s{number % 6}", "gender": None, "corpus": "made", **p})
    folder.mkdir(exist_ok=True)
    pl.DataFrame(rows, schema_overrides={"gender": pl.String}).write_parquet(folder / "predictions.parquet")
    return folder


def test_evaluate_judges_a_table_of_predictions(serkit, tmp_path):
    result = serkit("evaluate", judged(tmp_path / "run", wrong=6))
    assert result.code == 0, result.err
    assert any(line.startswith("accuracy") and "0.750" in line for line in result.out.splitlines())
    assert (tmp_path / "run" / "report.html").is_file()
    assert json.loads((tmp_path / "run" / "report.json").read_text())


def test_compare_prints_one_line_a_pair(serkit, tmp_path):
    first, second = judged(tmp_path / "a", wrong=6), judged(tmp_path / "b", wrong=2)
    result = serkit("compare", first, second, first, "--metric", "accuracy")
    assert result.code == 0, result.err
    better, same = (line for line in result.out.splitlines() if not line.startswith(" "))
    assert f"{second} 0.917, {first} 0.750: accuracy differs by +0.167 (95 % interval" in better
    assert "no difference shown: the interval contains 0" in same
    assert "paired" in result.err


def test_mistakes_in_compare_are_one_line(serkit, tmp_path):
    first, second = judged(tmp_path / "a", wrong=6), judged(tmp_path / "b", wrong=2)
    pl.read_parquet(second / "predictions.parquet")[1:].write_parquet(second / "predictions.parquet")
    for arguments, said in (([first], "two run folders"), ([first, second], "only the first run judges utterance")):
        result = serkit("compare", *arguments)
        assert is_one_line(result) and said in result.err


# report and convert


def paper_run(folder, name="pepino/w2v2PT-alllayers"):
    judged(folder, wrong=6)
    table = pl.read_parquet(folder / "predictions.parquet").with_columns(corpus=pl.lit("iemocap"))
    table.write_parquet(folder / "predictions.parquet")
    (folder / "recipe.toml").write_text(f'name = "{name}"\n')
    return folder


def test_report_shows_runs_beside_the_paper(serkit, tmp_path):
    paper_run(tmp_path / "run")
    result = serkit("report", "pepino", tmp_path, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    line = next(line for line in result.out.splitlines() if line.startswith("wav2vec 2.0 PT, all layers  IEMOCAP"))
    assert " 75.0 " in line and " 67.2 ± 0.7 " in line and " +7.8 " in line
    assert result.out.splitlines()[-1] == str(tmp_path / "out" / "pepino.md")
    assert (tmp_path / "out" / "pepino.json").is_file() and (tmp_path / "out" / "layer-weights.svg").is_file()


def test_report_reads_what_train_writes(serkit, trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "runs" / "one")
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace('name = "tiny"', 'name = "pepino/none-egemaps"', 1))
    table = pl.read_parquet(run / "predictions.parquet")
    table.with_columns(corpus=pl.lit("ravdess")).write_parquet(run / "predictions.parquet")
    result = serkit("report", "pepino", tmp_path, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "pepino.md").read_text()
    assert re.search(
        r"\| eGeMAPS \| RAVDESS \| \d+\.\d .*whisper \(.*tiny.safetensors\), layer 1 \| leave-one-speaker", page
    )
    assert "normalised: global" in page and "speakers shared: 0" in page
    assert (tmp_path / "out" / "learning-none-egemaps-ravdess.png").is_file()


def test_report_of_a_folder_without_runs(serkit, tmp_path):
    result = serkit("report", "pepino", tmp_path, "-o", tmp_path / "out")
    assert is_one_line(result) and "holds no run" in result.err
    assert not (tmp_path / "out").exists()


def test_convert_writes_safetensors(serkit, tmp_path):
    arrays = {"activations_wa.kernel": np.ones((1, 1, 1, 13)), "predictions.Dense.kernel": np.ones((128, 4))}
    for number, dim in ((1, 768), (2, 128)):
        arrays[f"hidden_layer_{number}.Conv1D.kernel"] = np.ones((1, dim, 128))
        arrays[f"hidden_layer_{number}.Conv1D.bias"] = np.zeros(128)
    np.savez(tmp_path / "head.npz", **arrays, **{"predictions.Dense.bias": np.zeros(4)})
    result = serkit("convert", tmp_path / "head.npz", "-o", tmp_path / "head")
    assert (result.code, result.err) == (0, "")
    assert "13 x 768" in result.out and "angry, happy, neutral, sad" in result.out
    assert json.loads((tmp_path / "head" / "head.json").read_text())["source"] == "head.npz"
    assert "heads.0.streams.0.mix.k" in load_file(tmp_path / "head" / "model.safetensors")


def test_convert_refuses_what_runs_code(serkit, tmp_path):
    (tmp_path / "out").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    result = serkit("convert", tmp_path / "out", "-o", tmp_path / "head")
    assert is_one_line(result) and "'os.system'" in result.err
    assert not (tmp_path / "head").exists()


# The base installation

BLOCKED = "torch polars sklearn scipy matplotlib onnx onnxscript safetensors jinja2 tomli_w accelerate".split()
BASE = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); from serkit.cli import main; main()"


def run_base(*arguments):
    command = [sys.executable, "-c", BASE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def test_the_base_installation_recognises(model, clips):
    result = run_base("predict", *clips, "--model", model, "--format", "json")
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) == 3


@pytest.mark.parametrize("verb", ["train", "prepare", "list"])
def test_the_base_installation_says_what_to_install(tmp_path, verb):
    arguments = {
        "train": ["emodb/loso"],
        "prepare": ["emodb", tmp_path, "-o", tmp_path / "m.csv"],
        "list": ["encoders"],
    }
    result = run_base(verb, *arguments[verb])
    assert is_one_line(result)
    assert "is not installed: run pip install 'serkit[train]'" in result.err
