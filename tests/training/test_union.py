"""Unions: every epoch sees all recordings and one copy of each per chain, of the training part and of no other."""

from __future__ import annotations

import itertools
import tomllib
from collections import Counter

import numpy as np
import pytest
import torch
from speech import FOUR, write_corpus, write_tiny_whisper

from serkit.encoders.extract import list_jobs
from serkit.errors import InputError
from serkit.models.heads import HeadConfig, create_head
from serkit.training import augment as augment_module
from serkit.training import material as material_module
from serkit.training.augment import Augmentation, register_transform
from serkit.training.augment import registry as registry_module
from serkit.training.features import FeatureSet, StreamSet
from serkit.training.fit import TrainingOptions, fit
from serkit.training.material import encode_all, list_changes, load_data, load_material
from serkit.training.recipe import AugmentSection, dump_recipe, load_recipe
from serkit.training.run import train
from serkit.training.stores import load, store

torch.set_num_threads(1)

NOISE, GAIN = {"name": "noise", "snr": [20, 30]}, {"name": "gain"}
UNION = "augment.union=[[{name='noise', snr=[20, 30]}], [{name='pitch'}, {name='gain'}]]"
RECIPE = """
name = "union"
seeds = [0]
[data]
manifest = "{root}/manifest.parquet"
[labels]
classes = ["sad", "happy"]
[protocol]
name = "leave-one-speaker-out"
dev = 0.34
[encoder]
layers = [1, 2]
options = {{ weights = "{root}/tiny.safetensors" }}
[head]
kind = "pooled"
[training]
epochs = 3
batch_size = 5
lr = 0.01
"""
HALVES = "protocol={name='group-k-fold', k=2, dev=0}"
TUNED = ["finetune={lr=0.001, batches={micro_seconds=1.5}}", "head.kind=frames", "training.epochs=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("union")
    write_corpus(root, 2, FOUR).write(root / "manifest.parquet")
    write_tiny_whisper(root / "tiny.safetensors")
    (root / "union.toml").write_text(RECIPE.format(root=root), encoding="utf-8")
    return root


def recipe_of(root, *overrides):
    return load_recipe(root / "union.toml", overrides)


def parts_of(manifest):
    """Ids of training, dev and test utterances of a fold."""
    speakers = dict(zip(manifest.ids, manifest.table["speaker"], strict=True))
    groups = {"f1": "test", "f2": "dev"}
    return [
        [id for id in manifest.ids if groups.get(speakers[id], "train") == part] for part in ("train", "dev", "test")
    ]


# Cached features


def feature_set(count, copies, union=True):
    """Utterance ``row`` of copy ``copy`` is the number ``100 copy + row``."""
    arrays = [[torch.full((1, 3, 2), 100.0 * copy + row) for row in range(count)] for copy in range(copies)]
    ids, targets = tuple(f"u{row}" for row in range(count)), torch.arange(count) % 2
    return FeatureSet(ids, (StreamSet.of_arrays(arrays),), targets, torch.arange(count) + 1.0, None, union)


def test_examples_of_a_union_are_all_copies_of_all_utterances():
    whole = feature_set(4, 3)
    assert whole.examples == 12 and feature_set(4, 3, union=False).examples == 4 == len(whole)
    rng = np.random.default_rng(0)
    batch = whole.augmented_batch([0, 5, 11, 3], rng, 1)
    assert batch.streams[0].statistics[:, 0, 0, 0].tolist() == [0, 101, 203, 3]
    assert whole.rows([0, 5, 11, 3]) == [0, 1, 3, 3]
    assert rng.random() == np.random.default_rng(0).random()  # nothing is drawn
    part = whole.take([2, 1])
    assert part.examples == 6 and part.augmented_batch([3], rng, 1).streams[0].statistics[0, 0, 0, 0] == 101
    assert whole.take([2, 1], copies=1).examples == 2


@pytest.mark.parametrize("frames", [True, False])
def test_an_epoch_sees_every_copy_once_with_its_own_target_and_weight(frames, monkeypatch):
    whole, seen = feature_set(7, 3), []
    head = create_head(HeadConfig(kind="frames" if frames else "pooled", frame_hidden=(), hidden=()), [(1, 2)], 2)
    forward = head.each

    def each(batch):
        seen.append(batch.streams[0].statistics[:, 0, 0, 0].tolist())
        return forward(batch)

    losses = []
    monkeypatch.setattr(head, "each", each)
    monkeypatch.setattr(
        "serkit.training.fit._loss",
        lambda scores, targets, weights, *_: losses.append((targets.tolist(), weights.tolist())) or scores.sum(),
    )
    fit(head, whole, None, TrainingOptions(epochs=2, batch_size=4), 0)
    assert len(seen) == 2 * 6  # 21 examples in steps of 4
    wanted = sorted(100.0 * copy + row for copy in range(3) for row in range(7))
    for epoch in (seen[:6], seen[6:]):
        assert sorted(itertools.chain(*epoch)) == wanted
    assert seen[:6] != seen[6:]
    for values, (targets, weights) in zip(seen, losses, strict=True):
        assert targets == [int(value) % 100 % 2 for value in values]
        assert weights == [value % 100 + 1 for value in values]


def test_copies_have_the_keys_of_their_chains(root):
    """So what is cached already, in another order or as the copies of a recipe, is not encoded again."""
    manifest = load_data(recipe_of(root))

    def keys(section):
        return [
            [job.key for job in list_jobs(manifest, number, change.description())]
            for change, number in list_changes(section)
        ]

    copies = keys(AugmentSection(copies=2, chain=(NOISE,)))
    assert keys(AugmentSection(union=((NOISE,), (NOISE,)))) == copies
    one, other = keys(AugmentSection(union=((GAIN,), (NOISE,))))
    assert other == copies[0] and not set(one) & set(other)
    assert keys(AugmentSection(union=((NOISE,), (GAIN,)))) == [other, one]
    assert list_changes(AugmentSection(chain=(NOISE,))) == []


def encoded(root, recipe, tmp_path, monkeypatch):
    """Encode; return the material and the jobs of every call, with the chain that changes them."""
    calls, extract = [], material_module.extract

    def spy(jobs, spec, cache, frames, augment, *rest):
        calls.append((jobs, augment))
        return extract(jobs, spec, cache, frames, augment, *rest)

    monkeypatch.setattr(material_module, "extract", spy)
    manifest = load_data(recipe)
    return load_material(recipe, manifest, encode_all(recipe, manifest, tmp_path / "cache", workers=1)), calls


def test_every_chain_gives_a_copy_of_the_cache(root, tmp_path, monkeypatch):
    recipe = recipe_of(root, UNION)
    material, calls = encoded(root, recipe, tmp_path, monkeypatch)
    assert [augment and [step.name for step in augment.steps] for _, augment in calls] == [
        None, ["noise"], ["pitch", "gain"],
    ]  # fmt: skip
    assert all(job.seed is None for job in calls[0][0])
    assert [job.seed for job in calls[1][0]] == [f"1/{id}" for id in material.manifest.ids]
    features = material.features
    assert features.union and features.copies == 3 and features.examples == 3 * len(material.manifest)
    statistics = features.streams[0].statistics
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.isclose(statistics[one], statistics[other]).flatten(1).all(1).any()
    again, _ = encoded(root, recipe, tmp_path, monkeypatch)
    assert torch.equal(again.features.streams[0].statistics, statistics)


@pytest.mark.parametrize("optimizer", ["adamw", "lbfgs"])
@pytest.mark.parametrize("augment", [[UNION], ["augment.copies=2", "augment.chain=[{name='noise'}]"]])
def test_copies_of_dev_and_test_utterances_are_never_heard(root, tmp_path, monkeypatch, optimizer, augment):
    """Poison them: nothing changes. Poison those of the training part: everything does."""
    recipe = recipe_of(root, *augment, f"training.optimizer={optimizer}", "head.hidden=[]")
    material, _ = encoded(root, recipe, tmp_path, monkeypatch)
    parts = parts_of(material.manifest)

    def scores():
        head, history = material.fit(*parts[:2], 0, None)
        return [material.columns(head, ids) for ids in parts[1:]], [line["dev_loss"] for line in history]

    clean = scores()
    assert np.isfinite(clean[1]).all()
    material.features.streams[0].statistics[1:, material.rows(parts[1] + parts[2])] = np.nan
    assert scores() == clean
    material.features.streams[0].statistics[1:, material.rows(parts[0])] += 1
    assert scores() != clean


# Fine-tuning


@pytest.fixture
def heard(monkeypatch):
    """(names of the chain, seed) of every call."""
    calls, change = [], Augmentation.__call__

    def spy(self, waveform, seed):
        calls.append(("+".join(step.name for step in self.steps), seed))
        return change(self, waveform, seed)

    monkeypatch.setattr(augment_module.Augmentation, "__call__", spy)
    return calls


def recordings(root, tmp_path, *overrides):
    recipe = recipe_of(root, *TUNED, *overrides)
    manifest = load_data(recipe)
    return load(recipe, manifest, store(recipe, manifest, tmp_path / "cache", workers=1))


def test_fine_tuning_repeats_the_training_part_with_the_same_copies_every_epoch(root, tmp_path, heard, monkeypatch):
    material = recordings(root, tmp_path, UNION)
    parts = parts_of(material.manifest)
    model, history = material.fit(*parts[:2], 0, None)
    wanted = Counter({(name, f"1/{id}"): 2 for name in ("noise", "pitch+gain") for id in parts[0]})
    assert Counter(heard) == wanted  # two epochs
    heard.clear()
    material.columns(model, parts[2])
    assert heard == [] and len(history) == 2
    part = material._set(model, parts[0]).with_copies(list_changes(material.recipe.augment))
    count = len(parts[0])
    assert len(part) == 3 * count and part.seconds[:count] * 3 == part.seconds
    assert part.weights.tolist() == part.weights[:count].tolist() * 3
    for number in (0, 5):
        original, noisy, higher = (
            part.batch([number + copy * count], (1, 2)).waveforms[0].numpy() for copy in range(3)
        )
        np.testing.assert_array_equal(original, material.store.read(part.rows[number]))
        chains = list_changes(material.recipe.augment)
        np.testing.assert_array_equal(noisy, chains[0][0](original, f"1/{parts[0][number]}"))
        np.testing.assert_array_equal(higher, chains[1][0](original, f"1/{parts[0][number]}"))
        again = part.batch([number + count], (7, 8)).waveforms[0].numpy()
        np.testing.assert_array_equal(noisy, again)  # in every epoch alike
    plain = part.plain()
    assert plain.ids == tuple(parts[0]) and plain.rows == part.rows[:count] and not plain.changes
    assert {name: len(values) for name, values in plain.targets.items()} == {"emotion": count}


def test_on_the_fly_only_the_training_part_changes(root, tmp_path, heard):
    material = recordings(root, tmp_path, "augment.chain=[{name='noise'}]")
    parts = parts_of(material.manifest)
    model, _ = material.fit(*parts[:2], 0, None)
    material.columns(model, parts[2])
    assert len(heard) == 2 * len(parts[0]) == len(set(heard))  # two epochs, never the same again


def test_crops_differ_where_copies_do_not(root, tmp_path):
    material = recordings(root, tmp_path, UNION, "training.crop=0.5")
    part = material._set(material._new_model(parts_of(material.manifest)[0]), material.manifest.ids[:4], None, 0.5)
    part = part.with_copies(list_changes(material.recipe.augment))
    lengths = {int(part.batch([5], (0, epoch)).lengths[0]) for epoch in range(5)}
    assert len(lengths) > 1


# From recipe to predictions


@pytest.mark.parametrize("tuned", [False, True])
def test_a_union_trains_from_the_command_down(root, tmp_path, tuned):
    recipe = recipe_of(root, UNION, *(TUNED if tuned else []), HALVES, "training.epochs=1")
    path = train(recipe, tmp_path / "run", tmp_path / "cache", workers=1)
    assert len(load_data(recipe)) == len(material_module.pl.read_parquet(path))
    assert load_recipe(tmp_path / "run" / "recipe.toml") == recipe


def backwards(x, rng):
    return x[::-1]


def test_registered_transforms_reach_the_processes_of_fine_tuning(root, tmp_path, monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", {})
    register_transform("backwards", backwards)
    recipe = recipe_of(root, *TUNED, "augment.chain=[{name='backwards'}]", "training.epochs=1", HALVES)
    train(recipe, tmp_path / "run", tmp_path / "cache", workers=2)
    assert len(list((tmp_path / "run" / "models").glob("*.safetensors"))) == 2


def test_a_recording_that_a_transform_cannot_take_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", {"void": (lambda x, rng: x[:0], 1)})
    material = recordings(root, tmp_path, "augment.union=[[{name='void'}]]")
    with pytest.raises(InputError, match="utterance 'u.*': augment: void gives no finite waveform"):
        material.fit(*parts_of(material.manifest)[:2], 0, None)


def test_recipes_without_a_union_say_nothing_of_it(root):
    """A run folder is compared with the text of its recipe: an added key would make it one of another recipe."""
    assert list(tomllib.loads(dump_recipe(recipe_of(root, "augment.copies=1")))["augment"]) == ["copies", "chain"]
    assert tomllib.loads(dump_recipe(recipe_of(root, UNION)))["augment"]["union"][0] == [NOISE]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([UNION, "augment.copies=1"], "augment: union is a training part of its own: leave out copies and chain"),
        ([UNION, "augment.chain=[{name='gain'}]"], "augment: union is a training part of its own"),
        (["augment.union=[[{name='gain'}], []]"], "augment: a chain of union is empty"),
        (["augment.union=[{name='gain'}]"], "augment.union.0"),
        (["augment.unoin=[]"], "unknown key 'augment.unoin': did you mean 'union'"),
    ],
)
def test_unions_that_make_no_sense_are_refused(root, overrides, message):
    with pytest.raises(InputError, match=message):
        recipe_of(root, *overrides)


@pytest.mark.parametrize("tuned", [False, True])
def test_an_unknown_transform_is_named_before_recordings_are_read(root, tmp_path, tuned, monkeypatch):
    monkeypatch.setattr("serkit.training.waveforms.read_audio", None)
    monkeypatch.setattr("serkit.encoders.extract.read_audio", None)
    recipe = recipe_of(root, *(TUNED if tuned else []), "augment.union=[[{name='audiomentations.Gian'}]]")
    with pytest.raises(InputError, match=r"did you mean 'audiomentations\.Gain'"):
        train(recipe, tmp_path / "run", tmp_path / "cache", workers=1)
