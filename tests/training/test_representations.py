"""Representations of encoders and of fine-tuned runs, and the verbs that analyse them, end to end."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from speech import FOUR, write_corpus, write_tiny_whisper

from serkit.data.manifest import Manifest
from serkit.encoders.extract import EncoderSpec
from serkit.errors import InputError
from serkit.training.recipe import load_recipe
from serkit.training.representations import (
    DESCRIPTORS,
    acoustic_targets,
    load_trained_encoder,
    represent,
    represent_run,
    run_folds,
)
from serkit.training.run import train
from serkit.training.sources import choose_utterances, folds_of_runs, gather, parse_encoder, parse_run

torch.set_num_threads(1)

RECIPE = """
name = "tuned"
seeds = [0]
[data]
manifest = "{root}/manifest.parquet"
[labels]
classes = ["sad", "happy"]
[protocol]
name = "group-k-fold"
k = 2
dev = 0
[encoder]
name = "{encoder}"
options = {{ weights = "{weights}" }}
[head]
frame_hidden = []
[training]
epochs = 1
lr = 0.01
warmup = 0
[finetune]
lr = 0.003
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("analysed")
    made = write_corpus(root, 3, FOUR)
    gender = made.table["speaker"].replace_strict({"f1": "female", "f2": "female", "m1": "male", "m2": "male"})
    Manifest(made.table.with_columns(gender=gender)).write(root / "manifest.parquet")
    write_tiny_whisper(root / "tiny.safetensors")
    return root


@pytest.fixture(scope="module")
def make_run(root, tmp_path_factory):
    """``make_run(*overrides)``: the folder of a finished run with two folds."""

    def make(*overrides, encoder="whisper", weights=None):
        path = tmp_path_factory.mktemp("run") / "tuned.toml"
        path.write_text(RECIPE.format(root=root, encoder=encoder, weights=weights or root / "tiny.safetensors"))
        folder = path.parent / "run"
        train(load_recipe(path, overrides), folder, root / "cache", workers=1)
        return folder

    return make


@pytest.fixture(scope="module")
def run(make_run):
    return make_run()


@pytest.fixture(scope="module")
def manifest(root):
    return Manifest.read(root / "manifest.parquet")


def weights_of(run, fold="fold_1"):
    return run / "models" / f"{fold}-seed0.safetensors"


def encode(encoder, seed=0):
    torch.manual_seed(seed)
    with torch.inference_mode():
        return encoder(torch.randn(1, 8000) * 0.1, torch.tensor([8000])).layers[0].mean(1)


def test_means_over_time_of_every_layer(manifest, root):
    spec = EncoderSpec("whisper", {"weights": str(root / "tiny.safetensors")})
    made = represent(manifest, spec, "tiny", root / "cache", workers=1)
    assert made.layers == (0, 1, 2) and made.of().shape == (3, 24, 64) and not made.trained
    from serkit.data.audio import read_audio

    waveform = torch.from_numpy(read_audio(manifest.table["audio"][5]))[None]
    with torch.inference_mode():
        features = spec.create()(waveform, torch.tensor([waveform.shape[1]]))
    np.testing.assert_allclose(made.of()[:, 5], features.layers[0].mean(1), atol=1e-5)
    assert made.seconds[5] == pytest.approx(int(features.lengths) / 50)


def test_egemaps_has_named_columns_and_acoustic_targets(manifest, root):
    made = represent(manifest, EncoderSpec("egemaps-functionals"), "eGeMAPS", root / "cache", workers=1)
    assert made.layers == (0,) and made.width == 88 and made.seconds is None
    targets = acoustic_targets(made, np.arange(24.0))
    assert list(targets) == [*DESCRIPTORS.values(), "duration"]
    column = made.columns.index("jitterLocal_sma3nz_amean")
    assert targets["jitterLocal_sma3nz_amean"] == pytest.approx(made.of()[0][:, column])
    assert "duration" not in acoustic_targets(made, None)


def test_a_fine_tuned_encoder_is_what_its_run_left(run):
    state = load_file(weights_of(run))
    encoder = load_trained_encoder(run, weights_of(run))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, state[f"encoder.{name}"]), name
    original = load_recipe(run / "recipe.toml").encoder
    before = EncoderSpec(original.name, original.options).create()
    assert encoder.fingerprint() != before.fingerprint()
    assert not torch.allclose(encode(encoder), encode(before), atol=1e-3)


def test_layers_above_the_heads_and_frozen_parts_are_those_of_the_original(make_run, tiny_wav2vec2, manifest, root):
    """The run computes layers 0 and 1 only; all of those are shown, and LoRA has been merged."""
    lora = "finetune.lora.rank=2"
    run = make_run("encoder.options.layers=[1]", lora, encoder="wav2vec2", weights=tiny_wav2vec2)
    encoder = load_trained_encoder(run, weights_of(run))
    assert encoder.num_layers == 2 and not any("lora" in name for name in encoder.state_dict())
    before = EncoderSpec("wav2vec2", {"weights": str(tiny_wav2vec2), "layers": [0, 1]}).create()
    changed = {
        name for name, value in encoder.state_dict().items() if not torch.equal(value, before.state_dict()[name])
    }
    assert changed and all(name.split(".")[-2] in ("q_proj", "v_proj") for name in changed)
    folds = run_folds(run, manifest, 0)
    made = represent_run(manifest, run, 0, folds, "tuned", root / "cache", workers=1)
    assert made.layers == (0, 1) and made.trained and set(made.values) == {"fold_1", "fold_2"}


def test_every_fold_has_its_own_model_and_new_speakers(run, manifest, root):
    folds = run_folds(run, manifest, 0)
    assert sorted(id for fold in folds for id in fold.test) == sorted(manifest.ids)
    assert all(fold.shared == 0 for fold in folds)
    made = represent_run(manifest, run, 0, folds, "tuned", root / "cache", workers=1)
    assert not np.allclose(made.of("fold_1"), made.of("fold_2"), atol=1e-4)
    with pytest.raises(InputError, match="has no seed 3"):
        run_folds(run, manifest, 3)
    named = Manifest(manifest.table.with_columns(speaker=pl.lit("same")))
    with pytest.raises(InputError, match="is in training and test"):
        run_folds(run, named, 0)


def test_runs_that_cannot_be_analysed_are_said(run, make_run, manifest, tmp_path):
    (tmp_path / "recipe.toml").write_text((run / "recipe.toml").read_text().split("[finetune]")[0])
    with pytest.raises(InputError, match="stayed as it was: name that"):
        load_trained_encoder(tmp_path, weights_of(run))
    state = load_file(weights_of(run))
    save_file({"head.x": torch.ones(1)}, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="holds no encoder"):
        load_trained_encoder(run, tmp_path / "none.safetensors")
    save_file(
        {name: value for name, value in state.items() if "layers.0.fc1.weight" not in name}, tmp_path / "w.safetensors"
    )
    with pytest.raises(InputError, match=r"layers\.0\.fc1\.weight"):
        load_trained_encoder(run, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no such table"):
        run_folds(tmp_path, manifest, 0)
    other = make_run("protocol.seed=5")
    sources = [parse_run(str(run)), parse_run(f"{other} as=other")]
    with pytest.raises(InputError, match="has other folds"):
        folds_of_runs(manifest, sources)


def test_sources_are_named_and_read_from_words(manifest, tmp_path):
    source = parse_encoder("whisper blocks=2 level=-20 as=short", level=-23, trim=30)
    assert source.describe() == {
        "name": "short", "encoder": "whisper", "options": {"level": -20, "trim": 30, "blocks": 2}
    }  # fmt: skip
    assert parse_run("runs/x seed=2").describe() == {"name": "x", "run": "runs/x", "seed": 2}
    with pytest.raises(InputError, match="no option 'fold'"):
        parse_run("runs/x fold=1")
    with pytest.raises(InputError, match="seed is a whole number"):
        parse_run("runs/x seed=a")
    with pytest.raises(InputError, match="nothing to analyse"):
        gather(manifest, [], tmp_path)
    with pytest.raises(InputError, match="two sources are called whisper"):
        gather(manifest, [parse_encoder("whisper")] * 2, tmp_path)


def test_utterances_are_chosen_by_column_and_number(manifest):
    assert set(choose_utterances(manifest, ["speaker=f1"]).table["speaker"]) == {"f1"}
    few = choose_utterances(manifest, most=7)
    assert len(few) == 7 and few.ids == choose_utterances(manifest, most=7).ids
    assert few.ids == [id for id in manifest.ids if id in few.ids]
    for where, said in ((["speker=f1"], "did you mean 'speaker'"), (["speaker"], "write column=value"),
                        (["speaker=x"], "no utterance has speaker=x")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            choose_utterances(manifest, where)


# The verbs


@pytest.fixture
def analyse(serkit, root, tmp_path):
    """``analyse(verb, ...)`` runs it on the corpus: what it came to, and the folder it wrote."""

    def go(verb, *options, encoders=("tiny",)):
        named = [f"--encoder=whisper weights={root / 'tiny.safetensors'} as={name}" for name in encoders]
        ran = serkit(verb, root / "manifest.parquet", *named, *options, "--workers", 1, "--cache", root / "cache",
                     "-o", tmp_path / verb)  # fmt: skip
        return ran, tmp_path / verb

    return go


def files(folder):
    return {path.name for path in folder.iterdir()}


def is_picture(path):
    svg = path.with_suffix(".svg").read_text()
    return path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG" and "<svg" in svg and len(svg) > 2000


def test_similarity_of_an_encoder_a_run_and_egemaps(analyse, run):
    ran, folder = analyse("similarity", "--run", f"{run} as=tuned")
    assert ran.code == 0, ran.err
    assert all(is_picture(folder / name) for name in ("layers.png", "egemaps.png", "drift.png"))
    found = json.loads((folder / "similarity.json").read_text())
    assert found["layers"] == {"tiny": [0, 1, 2], "tuned": [0, 1, 2], "eGeMAPS": [0]} and len(found["pairs"]) == 28
    assert found["n"] == 24 and "2 folds" in found["stamp"] and found["sources"][1]["run"] == str(run)
    drift = [row["value"] for row in found["pairs"] if (row["source"], row["other"]) == ("tiny", "tuned")]
    assert all(0 < value < 1 for value in drift)
    assert "tuned layer 2 and eGeMAPS:" in ran.out and ran.out.count("[") == 6
    again, _ = analyse("similarity", "--no-egemaps", "--measure", "svcca", "--no-scale")
    assert again.code == 0 and "encoding" not in again.err  # everything was kept


def test_probes_of_an_encoder_and_a_run(analyse, run):
    ran, folder = analyse("probe", "--run", f"{run} as=tuned", "--target", "emotion", "--target", "speaker",
                          "--target", "acoustic")  # fmt: skip
    assert ran.code == 0, ran.err
    assert is_picture(folder / "probes.png") and is_picture(folder / "acoustic.png")
    table = pl.read_csv(folder / "probes.csv")
    assert table.filter(target="emotion", source="tuned").height == 3
    assert set(table.filter(target="duration")["source"]) == {"tiny", "tuned", "eGeMAPS"}
    assert set(table.filter(pl.col("target") == "F1frequency_sma3nz_amean")["source"]) == {"tiny", "tuned"}
    assert table.filter(target="duration", source="tiny")["value"].max() > 0.9
    assert set(table.filter(target="speaker")["folds"]) == {"speakers shared: 1 (4 parts by sentence)"}
    assert set(table.filter(target="emotion")["folds"]) == {"speakers shared: 0"}


def test_probes_of_new_speakers_by_a_protocol(analyse, run):
    ran, folder = analyse("probe", "--target", "gender", "--target", "arousal", "--protocol", "leave-one-speaker-out",
                          "--no-egemaps")  # fmt: skip
    assert ran.code == 0, ran.err
    assert files(folder) == {"probes.csv", "probes.json", "probes.png", "probes.svg"}
    assert json.loads((folder / "probes.json").read_text())["protocol"] == "leave-one-speaker-out"
    ran, _ = analyse("probe", "--run", run, "--protocol", "part")
    assert ran.code == 2 and "runs bring their own folds" in ran.err


def test_maps_of_utterances(analyse, run):
    ran, folder = analyse("map", "--run", f"{run} as=tuned", "--layer", 1, "--colour", "emotion", "--colour", "valence")
    assert ran.code == 0, ran.err
    assert is_picture(folder / "map.png") and files(folder) == {"map.csv", "map.json", "map.png", "map.svg"}
    table = pl.read_csv(folder / "map.csv")
    assert table.columns == ["source", "layer", "id", "x", "y", "emotion", "valence"] and table.height == 24
    assert json.loads((folder / "map.json").read_text())["fold"] == "fold_1"
    for options, said in (
        (("--colour", "emotoin"), "did you mean 'emotion'"), (("--layer", 9), "has no layer 9"),
        (("--fold", "a"), "only runs have folds"), (("--method", "tsne"), "no map by 'tsne'"),
        (("--where", "speaker=f9"), "no utterance has"),
    ):  # fmt: skip
        ran, _ = analyse("map", *options)
        assert ran.code == 2 and said in ran.err and len(ran.err.strip().splitlines()) == 1
