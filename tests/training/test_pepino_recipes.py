"""Every recipe of Pepino et al. 2021 runs from recordings to predictions, with the parts that it says it uses."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import soundfile
import torch

from serkit.export import export_run
from serkit.inference.predictor import Predictor
from serkit.training.recipe import list_recipes, load_recipe
from serkit.training.run import train

torch.set_num_threads(1)
transformers = pytest.importorskip("transformers", reason="writes the small checkpoint")

NAMES = [name for name in list_recipes() if name.startswith("pepino/")]
ACTORS = tuple(f"{actor:02d}" for actor in range(1, 25))
LABELS = {"ang": "Anger", "hap": "Happiness", "exc": "Excited", "neu": "Neutral", "sad": "Sadness"}


def tone(rng, pitch, path, rate):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(rng.integers(9, 14) * rate / 20)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6)) * 0.1
    soundfile.write(path, wave + rng.normal(0, 0.003, len(time)), rate)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """RAVDESS at 48 kHz and IEMOCAP in their layouts, a few generated clips each."""
    root, rng = tmp_path_factory.mktemp("corpora"), np.random.default_rng(0)
    for number, actor in enumerate(ACTORS):
        for code in range(1, 9):
            name = f"03-01-{code:02d}-01-01-01-{actor}.wav"
            tone(rng, 90 + 40 * code + number, root / "ravdess" / f"Actor_{actor}" / name, 48_000)
    for session in range(1, 6):
        lines = []
        for who in "FM":
            for number, (code, word) in enumerate(LABELS.items()):
                id = f"Ses0{session}F_impro01_{who}{number:03d}"
                place = root / "iemocap" / f"Session{session}"
                tone(rng, 120 + 60 * number, place / "sentences/wav/Ses_impro01" / f"{id}.wav", 16_000)
                lines.append(f"[0.0 - 1.0]\t{id}\t{code}\t[3.0, 3.0, 3.0]\n")
                lines += [f"C-E{voter}:\t{word};\t()\n" for voter in (1, 2, 3)]
        evaluation = place / f"dialog/EmoEvaluation/Ses0{session}F_impro01.txt"
        evaluation.parent.mkdir(parents=True)
        evaluation.write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights")
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name, corpora, weights, tmp_path, tmp_path_factory):
    corpus = "iemocap" if "iemocap" in name else "ravdess"
    changes = [f"data.root={corpora / corpus}", "data.exclude=[]", "training.epochs=2", "seeds=[123, 1234]"]
    if load_recipe(name).encoder.name.startswith("wav2vec2"):
        changes += [f"encoder.options.weights={weights}"]
    cache = tmp_path_factory.getbasetemp() / "cache"
    table = pl.read_parquet(train(load_recipe(name, changes), tmp_path, cache, workers=1)).filter(part="test")
    facts = json.loads((tmp_path / "provenance.json").read_text())
    per_seed = [table.filter(seed=seed) for seed in (123, 1234)]
    if name == "pepino/issa-setup-ravdess":
        assert all(sorted(each["id"]) == sorted(set(each["id"])) and each.height == 192 for each in per_seed)
        assert facts["stamp"] == "speakers shared: 24" and len(facts["folds"]) == 5
        assert [column for column in table.columns if column.startswith("p_")][:2] == ["p_neutral", "p_calm"]
    elif corpus == "ravdess":
        assert [set(each["speaker"]) for each in per_seed] == [{"23", "24"}] * 2 and table.height == 2 * 16
        assert table.filter(truth="neutral").height == 2 * 4, "calm counts as neutral"
    else:
        assert all(each.height == 50 and each["fold"].n_unique() == 5 for each in per_seed)
        assert table.filter(truth="happy").height == 2 * 20, "excited counts as happy"
    assert facts["stamp"] == "speakers shared: 0" or "issa-setup-ravdess" in name
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    told = [line["layer_weights"] for line in lines if "layer_weights" in line]
    assert len(told) == 2 * len(facts["folds"]) and all(np.isfinite(line["loss"]) for line in lines)
    mixed = 3 if any(part in name for part in ("alllayers", "fusion", "issa")) else 0
    assert {len(each[0]) for each in told} == {mixed} and len(told[0]) == 1 + name.endswith("fusion")


def test_a_head_on_wav2vec2_becomes_a_bundle(corpora, weights, tmp_path):
    changes = [f"data.root={corpora / 'ravdess'}", "training.epochs=2", "seeds=[1]", "features.max_frames=750"]
    recipe = load_recipe("pepino/w2v2PT-alllayers-global", [*changes, f"encoder.options.weights={weights}"])
    train(recipe, tmp_path / "run", tmp_path / "cache", workers=1)
    agreement = export_run(tmp_path / "run", tmp_path / "bundle", tmp_path / "cache")
    assert agreement["max_probability_difference"] < 1e-4
    clip = next((corpora / "ravdess").rglob("*.wav"))
    assert set(Predictor(tmp_path / "bundle").predict(clip).probabilities) == set(recipe.labels.classes)
