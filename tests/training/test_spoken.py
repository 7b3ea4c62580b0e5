"""Fusion heads through recipes: words and frames from a manifest to predictions, leaks refused, runs resumed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.training.experiment import plan_experiment
from serkit.training.given import read_given
from serkit.training.material import load_data, load_material
from serkit.training.recipe import Recipe, list_recipes, load_recipe, load_variants
from serkit.training.run import train
from serkit.training.sections import EncoderSection
from serkit.training.spoken import read_words

GOOD, BAD, FILL = ["fine", "great", "lovely"], ["awful", "nasty", "poor"], ["it", "was", "a", "day", "you", "know"]
SMALL = ("mat/mosi-given", "mat/meld-words")
CLASSES = ["warm", "ironic", "worried", "cold"]
"""By what is said and how: good and high, good and low, bad and high, bad and low."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Utterances whose class neither words nor frames tell alone; files of frames beside it."""
    folder, rng = tmp_path_factory.mktemp("spoken"), np.random.default_rng(0)
    rows, frames = [], {}
    for number in range(160):
        kind = number % 4
        words = [*rng.choice(FILL, rng.integers(1, 6)), str(rng.choice(BAD if kind > 1 else GOOD))]
        values = rng.normal(-1 if kind % 2 else 1, 1, (int(rng.integers(2, 9)), 5)).astype(np.float32)
        id = f"u{number:03d}"
        frames[id] = values
        part = "test" if number >= 120 else "dev" if number >= 96 else "train"
        row = {"id": id, "audio": None, "text": " ".join(rng.permutation(words)), "emotion": CLASSES[kind]}
        row |= {"part": part, "speaker": part, "corpus": "made", "features": f"{folder}/frames.npz#{id}"}
        rows.append({**row, "tone": "low" if kind % 2 else "high"})
    np.savez(folder / "frames.npz", **frames)
    Manifest.from_rows(rows).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def recipe_of(manifest, **changes) -> Recipe:
    tree = {
        "name": "spoken",
        "data": {"manifest": str(manifest)},
        "labels": {"classes": CLASSES},
        "protocol": {"name": "part"},
        "encoder": {"name": "given"},
        "fusion": {"hidden": 16, "feedforward": 24, "attention_heads": 2, "layers": 1, "dropout_output": 0.1},
        "text": {"dim": 8, "max_words": 6},
        "features": {"max_frames": 8},
        "training": {"epochs": 12, "batch_size": 8, "lr": 1e-2, "balance": "none", "label_smoothing": 0.0},
        "seeds": [0],
    }
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return Recipe.model_validate(tree)


def accuracy(path) -> float:
    table = pl.read_parquet(path).filter(part="test")
    return float((table["truth"] == table["prediction"]).mean())


@pytest.mark.parametrize("kind", ["mat", "mnt"])
def test_words_and_frames_together_tell_what_neither_does(kind, manifest, tmp_path):
    found = {}
    for name, modalities in {"both": ["text", "audio"], "text": ["text"], "audio": ["audio"]}.items():
        recipe = recipe_of(manifest, fusion={"kind": kind, "modalities": modalities})
        found[name] = accuracy(train(recipe, tmp_path / name, tmp_path / "cache", workers=1))
    assert found["both"] > 0.85 and 0.35 < found["text"] < 0.7 and 0.35 < found["audio"] < 0.7, found


def test_the_vocabulary_is_that_of_the_training_part_and_is_kept(manifest, tmp_path):
    recipe = recipe_of(manifest, training={"epochs": 1})
    table = pl.read_parquet(manifest)
    odd = table.with_columns(text=pl.when(pl.col("part") == "test").then(pl.lit("unheard of")).otherwise("text"))
    odd.write_parquet(other := manifest.with_name("odd.parquet"))
    train(recipe_of(other, training={"epochs": 1}), tmp_path / "run", tmp_path / "cache", workers=1)
    (file,) = (tmp_path / "run" / "models").glob("*.safetensors")
    material = load_material(recipe, load_data(recipe), [])
    head = material.restore((), load_file(file)).heads[0]
    assert set(GOOD + BAD + FILL) == set(head.vocabulary.words[2:])
    assert head.encode_words([["unheard", "great"]])[0, :2].tolist() == [1, head.vocabulary.ids["great"]]


def test_an_interrupted_run_goes_on_to_the_same_predictions(manifest, tmp_path):
    options = {"schedule": "reload", "patience": 2, "epochs": 8, "monitor": "accuracy", "reduction": "sum"}
    recipe = recipe_of(manifest, training={**options, "lr": 1e-3}, seeds=[0, 1])
    whole = train(recipe, tmp_path / "whole", tmp_path / "cache", workers=1)
    train(recipe, tmp_path / "part", tmp_path / "cache", workers=1)
    for file in (tmp_path / "part" / "models").glob("*seed1*"):
        file.unlink()
    again = train(recipe, tmp_path / "part", tmp_path / "cache", workers=2)
    assert pl.read_parquet(whole).equals(pl.read_parquet(again))


def test_labels_may_be_another_column(manifest, tmp_path):
    recipe = recipe_of(manifest, labels={"classes": ["high", "low"], "column": "tone"}, fusion={"modalities": ["text"]})
    assert set(load_data(recipe).table["emotion"]) == {"high", "low"}
    with pytest.raises(InputError, match="labels.column names 'mood'"):
        load_data(recipe_of(manifest, labels={"column": "mood"}))


def test_vectors_begin_the_embedding(manifest, tmp_path):
    words = [*GOOD, *BAD]
    np.savez(tmp_path / "v.npz", words=np.array(words), vectors=np.eye(6, 7, dtype=np.float32))
    recipe = recipe_of(manifest, text={"vectors": str(tmp_path / "v.npz")})
    labelled = load_data(recipe)
    material = load_material(recipe, labelled, [])
    head = material._new_head(labelled.ids[:96]).heads[0]
    weight = head.embedding.weight
    assert weight.shape[1] == 7
    assert weight[head.vocabulary.ids["lovely"]].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert not weight[head.vocabulary.ids["was"]].any() and not weight[:2].any()


def test_legacy_numbering_gives_unknown_words_the_first_word(manifest):
    recipe = recipe_of(manifest, text={"numbering": "legacy"})
    labelled = load_data(recipe)
    head = load_material(recipe, labelled, [])._new_head(labelled.ids[:96]).heads[0]
    first = labelled.table["text"][0].split()[0]
    assert head.encode_words([[first, "unheard"]])[0, :2].tolist() == [1, 1]


def test_given_features_come_in_three_forms(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    np.savez(tmp_path / "b.npz", one=np.zeros((2, 2)), vector=np.full(2, 5.0), many=np.arange(8.0).reshape(4, 2))
    places = ["a.npy", "b.npz#one", "b.npz#vector", "b.npz#many[3]"]
    rows = [{"id": str(i), "audio": None, "features": f"{tmp_path}/{each}"} for i, each in enumerate(places)]
    found = read_given(Manifest.from_rows(rows), EncoderSection(name="given"))
    assert [tuple(each.shape) for each in found] == [(1, 3, 2), (1, 2, 2), (1, 1, 2), (1, 1, 2)]
    assert found[3].flatten().tolist() == [6, 7] and all(each.dtype == torch.float32 for each in found)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("b.npz#lost", "b.npz#lost: cannot be read"),
        ("b.npz#one[7]", "cannot be read"),
        ("b.npz", "write FILE.npy"),
        ("lost.npy", "cannot be read"),
        ("b.npz#wide", "3 wide"),
        ("b.npz#none", "finite"),
    ],
)
def test_wrong_features_are_told(place, message, tmp_path):
    np.savez(tmp_path / "b.npz", one=np.zeros((2, 2)), wide=np.zeros((2, 3)), none=np.full((2, 2), np.nan))
    rows = [
        {"id": str(i), "audio": None, "features": f"{tmp_path}/{each}"} for i, each in enumerate(["b.npz#one", place])
    ]
    with pytest.raises(InputError, match=message):
        read_given(Manifest.from_rows(rows), EncoderSection(name="given"))


def test_features_learned_from_test_labels_are_refused(manifest, tmp_path):
    table = pl.read_parquet(manifest).with_columns(text_cnn="features", split_bclstm=pl.lit("train"))
    file = manifest.with_name("learned.parquet")  # files of features are named from where the manifest is
    table.write_parquet(file)
    recipe = recipe_of(file, training={"epochs": 1}, encoder={"options": {"column": "text_cnn"}})
    with pytest.raises(InputError, match="text_cnn was learned from the labels of 64 utterances"):
        train(recipe, tmp_path / "run", tmp_path / "cache")
    table.with_columns(split_bclstm=pl.col("part").replace("dev", "test")).write_parquet(file)
    train(recipe, tmp_path / "run", tmp_path / "cache", workers=1)


def test_text_is_needed_where_it_is_read(manifest):
    recipe = recipe_of(manifest)
    silent = Manifest(load_data(recipe).table.with_columns(text=pl.lit(None, pl.String)))
    with pytest.raises(InputError, match="no utterance has text"):
        read_words(recipe, silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": {"kind": "mta"}}, "did you mean"),
        ({"head": {"dropout": 0.1}}, "in place of head"),
        ({"finetune": {"freeze": "none"}}, "leave out finetune"),
        ({"fusion": {"modalities": ["text"]}, "augment": {"copies": 1}}, "no audio is read"),
        ({"fusion": {"reference": True}, "features": {"max_frames": None}}, "max_frames"),
        ({"training": {"class_weights": {"warm": 1}, "balance": "class"}}, "in place of balance"),
    ],
)
def test_settings_that_do_not_fit_are_told(changes, message, manifest):
    with pytest.raises(ValueError, match=message):
        recipe_of(manifest, **changes)


def test_text_without_a_fusion_head_is_told(manifest):
    with pytest.raises(ValueError, match="set fusion.kind"):
        recipe_of(manifest, fusion=None)


def test_published_recipes_are_the_published_settings():
    names = [name for name in list_recipes() if name.startswith("mat/") and name not in SMALL]
    assert len(names) == 10
    for name in names:
        variants = load_variants(name, ["data.root=corpora"])
        assert [variant.name for variant in variants] == ["mat", "mnt"]
        for variant in variants:
            fusion, training = variant.recipe.fusion, variant.recipe.training
            sizes = fusion.hidden, fusion.feedforward, fusion.attention_heads, fusion.layers
            assert fusion.kind == variant.name and sizes == (512, 1024, 4, 2)
            assert (training.lr, training.batch_size, training.decays, training.patience) == (1e-4, 32, 2, 3)
            assert len(variant.recipe.seeds) == 10


def test_one_command_plans_both_models(manifest, tmp_path):
    runs = plan_experiment("mat/mosi", tmp_path, ["data.root=corpora"], ["mnt"])
    assert [run.folder.name for run in runs] == ["mnt"]
    with pytest.raises(InputError, match="name one recipe"):
        load_recipe("mat/mosi", ["data.root=corpora"])


def test_audio_is_needed_where_it_is_heard(manifest, tmp_path):
    recipe = recipe_of(manifest, encoder={"name": "mat-mel"})
    with pytest.raises(InputError, match="utterance u000: has no recording: fill the manifest's column audio"):
        train(recipe, tmp_path / "run", tmp_path / "cache", workers=1)
