"""Every fold with an encoder of its own: ``{fold}`` in an encoder's options, and runs of some folds only."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from speech import FOUR, write_corpus

from serkit.encoders import whisper
from serkit.errors import InputError
from serkit.training.estimate import estimate
from serkit.training.experiment import plan_experiment
from serkit.training.recipe import load_recipe
from serkit.training.run import list_work, train
from serkit.training.transfer import evaluate_on

torch.set_num_threads(1)

RECIPE = """
name = "own"
seeds = [0]
[data]
manifest = "{root}/manifest.parquet"
[labels]
classes = ["sad", "happy"]
[protocol]
name = "leave-one-speaker-out"
dev = 0
[encoder]
name = "whisper"
options = {{ weights = "{root}/tiny-{{fold}}.safetensors" }}
[head]
kind = "pooled"
mix = "concat"
dropout = 0
[training]
optimizer = "lbfgs"
epochs = 10
weight_decay = 0.1
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    write_corpus(root / "audio", 2, FOUR).write(root / "manifest.parquet")
    for seed, speaker in enumerate(FOUR):
        torch.manual_seed(seed)
        config = whisper.WhisperConfig(mels=20, dim=64, heads=1, blocks=2, ffn=48, positions=400)
        save_file(whisper.WhisperEncoder("whisper", config).state_dict(), root / f"tiny-{speaker}.safetensors")
    (root / "own.toml").write_text(RECIPE.format(root=root))
    return root


@pytest.fixture(scope="module")
def go(root):
    def run(folder, *overrides, workers=1):
        return train(load_recipe(root / "own.toml", overrides), folder, root / "cache", workers=workers)

    return run


def one_fold(path, name):
    return pl.read_parquet(path).filter(pl.col("fold") == name)


def test_every_fold_sees_the_features_of_its_own_encoder(go, root, tmp_path):
    own = go(tmp_path / "own")
    seen = []
    for speaker in FOUR:
        alone = go(tmp_path / speaker, f"encoder.options.weights={root}/tiny-{speaker}.safetensors")
        assert one_fold(own, speaker).equals(one_fold(alone, speaker)), speaker
        seen.append(one_fold(alone, "f1")["p_sad"].to_list())
    assert all(one != other for number, one in enumerate(seen) for other in seen[:number])  # encoders do differ
    facts = json.loads((tmp_path / "own" / "provenance.json").read_text())
    assert list(facts["encoder_fingerprint"]) == list(FOUR) and len(set(facts["encoder_fingerprint"].values())) == 4
    assert "{fold}" in facts["encoder"]["options"]["weights"]


def test_several_processes_give_the_bits_of_one(go, tmp_path):
    assert (
        go(tmp_path / "one", "seeds=[0, 1]").read_bytes()
        == go(tmp_path / "two", "seeds=[0, 1]", workers=2).read_bytes()
    )


def test_some_folds_are_run_and_the_others_later(go, root, tmp_path):
    first = pl.read_parquet(go(tmp_path / "run", 'protocol.only=["f2"]'))
    assert first["fold"].unique().to_list() == ["f2"] and first["speaker"].unique().to_list() == ["f2"]
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert [fold["name"] for fold in facts["folds"]] == ["f2"] and list(facts["encoder_fingerprint"]) == ["f2"]
    model = tmp_path / "run" / "models" / "f2-seed0.safetensors"
    written = model.stat().st_mtime_ns
    (planned,) = plan_experiment(root / "own.toml", tmp_path / "run")
    assert (
        not planned.trained
        and plan_experiment(root / "own.toml", tmp_path / "run", ['protocol.only=["f2"]'])[0].trained
    )
    every = go(tmp_path / "run")
    assert planned.trained
    assert model.stat().st_mtime_ns == written and one_fold(every, "f2").equals(first)
    assert every.read_bytes() == go(tmp_path / "whole").read_bytes()


def test_what_cannot_be_is_said(go, root, tmp_path):
    with pytest.raises(InputError, match=r"protocol.only names 'f3'; did you mean 'f[12]'|protocol.only names 'f3'"):
        go(tmp_path / "run", 'protocol.only=["f3"]')
    with pytest.raises(InputError, match=r"nowhere/f1"):
        go(tmp_path / "run", f"encoder.options.weights={root}/nowhere/{{fold}}")
    with pytest.raises(InputError, match=r"\{fold\} needs the same folds for every seed"):
        load_recipe(root / "own.toml", ["protocol.seed=run"])
    path = go(tmp_path / "run")
    manifest = write_corpus(tmp_path / "other", 1, ("g1", "g2"))
    with pytest.raises(InputError, match="encoder whisper: is another in every fold"):
        evaluate_on(path.parent, manifest, "other", root / "cache")


def test_slashes_in_a_folds_name_do_not_make_folders(root):
    section = load_recipe(root / "own.toml").encoder
    assert section.of_fold("emodb/03").options["weights"].endswith("tiny-emodb-03.safetensors")


def test_the_plan_counts_the_recordings_of_every_encoder(root, tmp_path):
    (run,) = plan_experiment(str(root / "own.toml"), tmp_path / "run", [], ())
    (fixed,) = plan_experiment(
        str(root / "own.toml"), tmp_path / "run", [f"encoder.options.weights={root}/tiny-f1.safetensors"], ()
    )
    each, one = (estimate(plan, tmp_path / "cache") for plan in (run, fixed))
    assert each.encode_hours == pytest.approx(4 * one.encode_hours) and each.models == one.models == 4
    assert len(list_work(run.recipe, write_corpus(tmp_path / "audio", 2, FOUR))) == 4
