"""A recipe from recordings to predictions, on a small generated corpus with a tiny encoder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from speech import write_tiny_whisper

from serkit.errors import InputError
from serkit.evaluation.report import write_report
from serkit.models.tasks import prediction_columns
from serkit.progress import no_steps
from serkit.training import material as material_module
from serkit.training.material import encode_all, load_data, load_material
from serkit.training.recipe import load_recipe
from serkit.training.run import predictions_table, train

torch.set_num_threads(1)

SPEAKERS = ["01", "02", "03", "04"]
CODES = {"03": 120, "04": 220, "05": 400}  # happy, sad, angry: each has a pitch of its own
RECIPE = """
name = "small"
seeds = [0, 1]
[data]
corpora = {{ ravdess = "speech" }}
root = "{root}"
[labels]
classes = ["sad", "happy", "angry"]
[protocol]
name = "leave-one-speaker-out"
dev = 0.34
[encoder]
name = "whisper"
layers = [0, 2]
level = -23
options = {{ weights = "{root}/tiny.safetensors" }}
stride = 2
[augment]
copies = 1
chain = [{{ name = "gain" }}, {{ name = "noise", snr = [20, 30] }}]
[head]
kind = "frames"
frame_hidden = [16]
dropout = 0.1
[training]
epochs = 8
batch_size = 6
lr = 0.01
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for speaker in SPEAKERS:
        folder = root / "speech" / f"Actor_{speaker}"
        folder.mkdir(parents=True)
        for code, pitch in CODES.items():
            for repetition in ("01", "02"):
                time = np.arange(int(rng.integers(4800, 8000))) / 16_000
                phase = 2 * np.pi * pitch * (1 + 0.03 * int(speaker)) * time
                wave = sum(np.sin(k * phase) / k for k in range(1, 6)) * 0.1 + rng.normal(0, 0.003, len(time))
                soundfile.write(folder / f"03-01-{code}-01-01-{repetition}-{speaker}.wav", wave, 16_000)
    write_tiny_whisper(root / "tiny.safetensors", 200)
    (root / "small.toml").write_text(RECIPE.format(root=root), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def go(root):
    """Train the small recipe with overrides; the cache is shared, as it is between runs of a user."""

    def run(folder, *overrides, step=no_steps):
        return train(load_recipe(root / "small.toml", overrides), folder, root / "cache", step, workers=1)

    return run


def load_all(recipe, root):
    manifest = load_data(recipe)
    return load_material(recipe, manifest, encode_all(recipe, manifest, root / "cache", workers=1))


@pytest.fixture
def fits(monkeypatch):
    """Every call of ``fit`` as (training ids, dev ids)."""
    calls, fit = [], material_module.fit

    def counting(head, train_set, dev_set, *rest):
        calls.append((train_set.ids, dev_set.ids if dev_set else ()))
        assert dev_set is None or dev_set.copies == 1
        return fit(head, train_set, dev_set, *rest)

    monkeypatch.setattr(material_module, "fit", counting)
    return calls


def test_from_recordings_to_predictions(go, root, tmp_path, fits):
    table = pl.read_parquet(go(tmp_path / "run"))
    probabilities = [f"p_{name}" for name in ("sad", "happy", "angry")]
    assert set(table.columns) == {
        "id", "fold", "seed", "part", "truth", "prediction", "speaker", "gender", "corpus", *probabilities,
    }  # fmt: skip
    assert table["fold"].unique().sort().to_list() == SPEAKERS and table["seed"].unique().sort().to_list() == [0, 1]
    sums = table.select(pl.sum_horizontal(probabilities)).to_series()
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    best = table.select(probabilities).to_numpy().argmax(1)
    assert table["prediction"].to_list() == [("sad", "happy", "angry")[index] for index in best]
    names = {"03": "happy", "04": "sad", "05": "angry"}
    assert table["truth"].to_list() == [names[id.split("-")[2]] for id in table["id"]]
    assert table["speaker"].to_list() == [id.split("-")[-1] for id in table["id"]]
    runs = list(table.partition_by("seed", "fold", maintain_order=True))
    assert len(runs) == len(fits) == 8
    for part, (train_ids, dev_ids) in zip(runs, fits, strict=True):
        test, dev = (part.filter(pl.col("part") == name) for name in ("test", "dev"))
        assert test["speaker"].unique().to_list() == [part["fold"][0]] and len(test) == 6
        assert dev["id"].to_list() == list(dev_ids) and len(dev_ids) == 6
        speakers = [{id.split("-")[-1] for id in ids} for ids in (train_ids, dev_ids, test["id"])]
        assert [len(names) for names in speakers] == [2, 1, 1] and len(set.union(*speakers)) == 4
    tests = table.filter(pl.col("part") == "test")
    assert sorted(tests.filter(pl.col("seed") == 0)["id"]) == sorted(tests.filter(pl.col("seed") == 1)["id"])
    zero, one = (tests.filter(pl.col("seed") == seed).sort("id") for seed in (0, 1))
    assert not np.array_equal(zero[probabilities[0]], one[probabilities[0]])

    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["stamp"] == "speakers shared: 0" and facts["seeds"] == [0, 1] and len(facts["folds"]) == 4
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(lines) == 8 * 8 and {"seed", "fold", "epoch", "loss", "dev_uar", "dev_loss"} <= set(lines[0])
    assert load_recipe(tmp_path / "run" / "recipe.toml") == load_recipe(root / "small.toml")
    assert len(list((tmp_path / "run" / "models").glob("*.safetensors"))) == 8


def test_the_same_seed_gives_the_same_bytes(go, tmp_path):
    one, two = go(tmp_path / "one", "training.epochs=2"), go(tmp_path / "two", "training.epochs=2")
    assert one.read_bytes() == two.read_bytes()
    other = go(tmp_path / "three", "training.epochs=2", "seeds=[7, 8]")
    assert other.read_bytes() != one.read_bytes()


def test_a_seed_does_not_depend_on_the_others(go, tmp_path):
    both = pl.read_parquet(go(tmp_path / "both", "training.epochs=2"))
    only = pl.read_parquet(go(tmp_path / "only", "training.epochs=2", "seeds=[1]"))
    assert both.filter(pl.col("seed") == 1).equals(only)


def test_a_finished_run_trains_nothing_and_an_interrupted_one_the_rest(go, tmp_path, fits):
    options = ["training.epochs=2", "seeds=[3]"]
    whole = go(tmp_path / "whole", *options).read_bytes()
    assert len(fits) == 4

    def interrupt(what, done, total):
        if what.startswith("training") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "again", *options, step=interrupt)
    assert len(fits) == 6 and not (tmp_path / "again" / "predictions.parquet").exists()
    assert go(tmp_path / "again", *options).read_bytes() == whole
    # whole 4, interrupted 2, resumed 2; a fourth call has nothing to train
    assert len(fits) == 8
    assert go(tmp_path / "again", *options).read_bytes() == whole
    assert len(fits) == 8


def test_another_recipe_in_the_same_folder_is_refused(go, tmp_path):
    options = ["training.epochs=1", "seeds=[0]"]
    go(tmp_path / "run", *options)
    with pytest.raises(InputError, match=r"run: holds a run of another recipe"):
        go(tmp_path / "run", "training.epochs=2", "seeds=[0]")
    go(tmp_path / "run", *options)


@pytest.mark.parametrize(
    "overrides",
    [
        ["head.kind=pooled", "head.mix=concat", "training.optimizer=lbfgs", "training.epochs=30"],
        ["features.normalise=speaker", "protocol.dev=0", "augment.copies=0"],
        ["features.normalise=none", "head.pooling=attention", "head.members=2", "training.crop=0.5"],
    ],
)
def test_other_heads_and_normalisations_run(overrides, go, tmp_path):
    table = pl.read_parquet(go(tmp_path / "run", "training.epochs=5", "seeds=[0]", *overrides))
    tests = table.filter(pl.col("part") == "test")
    assert len(tests) == 24 and tests.select(pl.col("^p_.*$").is_finite().all()).to_numpy().all()
    # Eighteen utterances teach a linear head the pitch of each class.
    assert overrides[0] != "head.kind=pooled" or (tests["truth"] == tests["prediction"]).mean() > 0.6
    assert len(table) == (24 if "protocol.dev=0" in overrides else 48)


def test_material_lines_up_with_the_manifest(root):
    recipe = load_recipe(root / "small.toml")
    material = load_all(recipe, root)
    assert list(material.features.ids) == material.manifest.ids and len(material.features) == 24
    classes = [recipe.labels.classes[target] for target in material.features.targets]
    assert classes == material.manifest.table["emotion"].to_list()
    assert material.features.streams[0].statistics.shape == (2, 24, 2, 2, 64) and material.shapes == ((2, 64),)
    copies = material.features.streams[0].copies
    assert [a.shape for a in copies[0]] == [b.shape for b in copies[1]]
    assert not any(torch.equal(a, b) for a, b in zip(*copies, strict=True))


def test_probabilities_are_those_of_the_scores(root):
    manifest = load_data(load_recipe(root / "small.toml"))
    ids = manifest.ids[:2]
    scores = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
    table = predictions_table(manifest.select(ids), prediction_columns(scores, ["a", "b", "c"]))
    assert table["prediction"].to_list() == ["c", "a"] and table["id"].to_list() == ids
    np.testing.assert_allclose(table.select("p_a", "p_b", "p_c"), scores.double().softmax(1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root="], "set data.root=DIR"),
        (["data.corpora={}"], "says no data"),
        (["data.where={ chanel = 'speech' }"], "names 'chanel', which the manifest lacks"),
        (["data.where={ channel = 'song' }"], "no utterance is left"),
        (["encoder.layers=[0, 3]"], "0 to 2"),
        (["encoder.layers=[]"], "0 to 2"),
        (["encoder.name=wisper"], "did you mean 'whisper'"),
        (["labels.classes=['sad', 'happy']"], "angry"),
        (["protocol.name=leave-one-speker-out"], "did you mean 'leave-one-speaker-out'"),
        (["augment.chain=[{ name = 'nois' }]"], "did you mean 'noise'"),
    ],
)
def test_what_is_missing_is_named(overrides, message, go, tmp_path):
    with pytest.raises(InputError, match=message):
        go(tmp_path / "run", *overrides)
    assert not (tmp_path / "run" / "recipe.toml").exists()


# Several encoders, and what a recipe may leave out


STREAMS = "streams=[{name='spectrogram', stride=2, zero_tail=true, scalar=true, options={n_fft=512}}]"


@pytest.mark.parametrize("normalise", ["global", "speaker"])
@pytest.mark.parametrize("kind", ["frames", "pooled"])
def test_two_encoders_feed_one_head(go, root, tmp_path, normalise, kind):
    changes = [STREAMS, f"features.normalise={normalise}", f"head.kind={kind}", "features.max_frames=20", "seeds=[0]"]
    table = pl.read_parquet(go(tmp_path / "run", *changes, "training.epochs=12"))
    material = load_all(load_recipe(root / "small.toml", changes), root)
    assert material.shapes == ((2, 64), (1, 257)) and "+" in material.fingerprint
    assert (material.features.streams[0].scaling is not None) == (normalise == "speaker" and kind == "frames")
    test = table.filter(pl.col("part") == "test")
    assert test.height == 24 and (test["truth"] == test["prediction"]).mean() > 0.5
    (line,) = [line for line in _history(tmp_path / "run") if line["fold"] == "01" and "layer_weights" in line]
    if kind == "frames":
        assert len(line["layer_weights"][0]) == 2 and sum(line["layer_weights"][0]) == pytest.approx(1)
        assert line["layer_weights"][1] == []


def _history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_excluded_utterances_are_left_out_and_must_exist(root):
    load = lambda ids: load_data(load_recipe(root / "small.toml", [f"data.exclude={json.dumps(ids)}"]))  # noqa: E731
    everything = load([]).ids
    assert load(everything[3:5]).ids == everything[:3] + everything[5:]
    with pytest.raises(InputError, match="data.exclude names 'nobody', which the manifest lacks"):
        load(["nobody"])


def test_every_seed_may_draw_its_own_folds(go, tmp_path):
    table = pl.read_parquet(
        go(tmp_path / "run", "protocol={name='random-k-fold', k=3, seed='run'}", "training.epochs=1")
    ).filter(pl.col("part") == "test")
    folds = [
        {name: frozenset(rows["id"]) for (name,), rows in table.filter(pl.col("seed") == seed).group_by("fold")}
        for seed in (0, 1)
    ]
    assert all(sum(map(len, each.values())) == 24 for each in folds) and folds[0] != folds[1]
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(facts["folds"]) == 3 and facts["stamp"] == "speakers shared: 4"


def test_two_processes_give_the_bits_of_one(root, tmp_path):
    recipe = load_recipe(root / "small.toml", ["training.epochs=2"])
    paths = [train(recipe, tmp_path / str(workers), root / "cache", workers=workers) for workers in (1, 2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert torch.get_num_threads() == 1


# Manifests of one's own


@pytest.fixture
def lists(root, tmp_path):
    """``lists(train=rows, test=rows)`` writes file,emotion lists of the corpus without folders, and names them."""
    manifest = load_data(load_recipe(root / "small.toml"))
    names = [
        f"/path_to_wavs/{name.rpartition('/')[2]},{label}" for name, label in manifest.table["audio", "emotion"].rows()
    ]

    def write(**parts):
        for part, rows in parts.items():
            (tmp_path / f"{part}.csv").write_text("\n".join(["file,emotion", *names[rows]]) + "\n")
        files = ", ".join(f"{part} = '{tmp_path}/{part}.csv'" for part in parts)
        return [f"data.parts={{{files}}}"]

    return write


def test_lists_of_recordings_without_speakers_train_and_claim_nothing_about_them(go, lists, tmp_path):
    parts = lists(train=slice(0, 16), dev=slice(16, 18), test=slice(18, None))
    path = go(tmp_path / "run", *parts, "protocol={name='part', group='none'}", "seeds=[0]", "training.epochs=1")
    table = pl.read_parquet(path)
    assert sorted(table["part"].value_counts().rows()) == [("dev", 2), ("test", 6)]
    assert table["speaker"].null_count() == table.height
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["stamp"] == "speakers unknown" and facts["folds"][0]["shared"] is None
    assert write_report(tmp_path / "run")["stamp"] == "speakers unknown"


def test_an_utterance_in_two_lists_is_named(root, lists):
    recipe = load_recipe(root / "small.toml", lists(train=slice(0, 16), test=slice(14, None)))
    with pytest.raises(InputError, match=r"utterance '.*' is in data.parts.train and data.parts.test \(2 are\)"):
        load_data(recipe)


def test_a_recording_under_two_ids_is_named(root, lists, tmp_path):
    changes = lists(train=slice(0, 4), test=slice(4, 8))
    rows = (tmp_path / "train.csv").read_text().splitlines()[1:]
    for part in ("train", "test"):
        lines = ["file,emotion,id", *(f"{row},{part}{number}" for number, row in enumerate(rows))]
        (tmp_path / f"{part}.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"recording '/.*\.wav' is in data.parts.train and data.parts.test \(4 are\)"):
        load_data(load_recipe(root / "small.toml", changes))


def test_a_placeholder_without_root_is_named(root, lists):
    (parts,) = lists(train=slice(0, 16), test=slice(16, None))
    with pytest.raises(InputError, match=r"train\.csv says /path_to_wavs: set data\.root=DIR"):
        load_data(load_recipe(root / "small.toml", [parts, "data.root="]))


def test_a_manifest_takes_its_recordings_from_root_and_is_not_set_beside_parts(root, lists, tmp_path):
    (parts,) = lists(train=slice(0, 24))
    manifest = load_data(load_recipe(root / "small.toml", [f"data.manifest={tmp_path}/train.csv"]))
    assert manifest.table["audio"].sort().to_list() == sorted(map(str, root.rglob("*.wav")))
    with pytest.raises(InputError, match=r"sets both data\.manifest and data\.parts"):
        load_data(load_recipe(root / "small.toml", [parts, f"data.manifest={tmp_path}/train.csv"]))


@pytest.mark.parametrize("work", ["encode", "train"])
def test_processes_end_with_the_run_that_started_them(work, root, tmp_path):
    """A run that is killed leaves nobody behind who still computes and writes."""
    options = ["training.epochs=100000", "training.checkpoint_seconds=0", "seeds=[0]"]
    command = [sys.executable, "-m", "serkit.cli", "train", str(root / "small.toml"), *options, "--workers", "2"]
    run = subprocess.Popen([*command, "-o", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")])
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.exists():
        pytest.skip("only Linux lists the children of a process")
    if work == "train":
        wait_for(lambda: list(tmp_path.glob("run/checkpoints/*/*.safetensors")), run)
    workers = wait_for(lambda: [pid for pid in children.read_text().split() if b"spawn_main" in command_of(pid)], run)
    run.kill()
    run.wait()
    wait_for(lambda: not any(b"spawn_main" in command_of(pid) for pid in workers))


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(condition, run=None):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if found := condition():
            return found
        assert run is None or run.poll() is None, "the run ended too early"
        time.sleep(0.2)
    raise AssertionError("nothing happened in two minutes")
