"""Features as training sees them: the right rows, copies and crops, and statistics of the right utterances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.encoders.cache import FeatureCache
from serkit.models.heads import HeadConfig, create_head
from serkit.training.features import (
    SMALL,
    FeatureSet,
    array_statistics,
    fit_standardisation,
    load_features,
    normalise_by_speaker,
)

torch.set_num_threads(1)

LAYERS, DIM = 2, 3


def value_of(copy, row):
    return 100.0 * copy + row


def feature_set(count=5, copies=3, frames=True, spread=1.0):
    """Utterance ``row`` of copy ``copy`` lies about ``value_of(copy, row)``, so that a mixed-up row shows."""
    generator = torch.Generator().manual_seed(0)
    arrays = tuple(
        tuple(
            (value_of(copy, row) + spread * torch.randn(LAYERS, 4 + row, DIM, generator=generator)).half()
            for row in range(count)
        )
        for copy in range(copies)
    )
    statistics = torch.stack([torch.stack([array_statistics(array) for array in copy]) for copy in arrays])
    targets, weights = torch.arange(count) % 2, torch.arange(count) + 1.0
    return FeatureSet(tuple(f"u{row}" for row in range(count)), statistics, arrays if frames else (), targets, weights)


def test_take_keeps_rows_together():
    taken = feature_set().take([3, 1])
    assert taken.ids == ("u3", "u1") and len(taken) == 2
    assert taken.targets.tolist() == [1, 1] and taken.weights.tolist() == [4, 2]
    assert taken.statistics.shape == (3, 2, 2, LAYERS, DIM)
    for copy in range(3):
        for place, row in enumerate((3, 1)):
            assert torch.equal(taken.copies[copy][place], feature_set().copies[copy][row])
            torch.testing.assert_close(taken.statistics[copy, place], feature_set().statistics[copy, row])


def test_take_only_the_first_copies_and_other_weights():
    taken = feature_set().take([0, 2], copies=1, weights=torch.tensor([7.0, 8.0]))
    assert len(taken.copies) == len(taken.statistics) == 1 and taken.weights.tolist() == [7, 8]
    assert feature_set(frames=False).take([4]).copies == ()


@pytest.mark.parametrize("frames", [True, False])
def test_a_batch_is_the_recordings_themselves(frames):
    features = feature_set(frames=frames)
    batch = features.batch([4, 0])
    assert torch.equal(batch.statistics, features.statistics[0, [4, 0]])
    if frames:
        packed = torch.cat(list(batch.arrays), 1)
        assert torch.equal(packed, torch.cat([features.copies[0][4], features.copies[0][0]], 1))
        assert batch.segments.index.tolist() == [0] * 8 + [1] * 4
    else:
        assert batch.arrays == () and batch.segments is None


def test_all_copies_come_copy_after_copy():
    batch = feature_set().all_copies()
    means = batch.statistics[:, 0].mean((1, 2))
    expected = torch.tensor([value_of(copy, row) for copy in range(3) for row in range(5)])
    torch.testing.assert_close(means, expected, atol=2.0, rtol=0)
    assert batch.segments.count == 15 and torch.cat(list(batch.arrays), 1).shape[1] == 3 * sum(range(4, 9))


@pytest.mark.parametrize("frames", [True, False])
def test_augmented_batches_draw_a_copy_of_each_row(frames):
    features, rng = feature_set(frames=frames), np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        batch = features.augmented_batch([2, 4], rng, crop=1.0)
        means = batch.statistics[:, 0].mean((1, 2))
        copies = ((means - torch.tensor([2.0, 4.0])) / 100).round()
        torch.testing.assert_close(means, copies * 100 + torch.tensor([2.0, 4.0]), atol=2.0, rtol=0)
        seen.add(tuple(copies.int().tolist()))
        if frames:
            assert batch.segments.index.tolist() == [0] * 6 + [1] * 8
    assert len(seen) == 9


@settings(max_examples=25)
@given(crop=st.floats(0.1, 0.99), seed=st.integers(0, 1000))
def test_crops_are_stretches_of_at_least_that_share(crop, seed):
    features = feature_set(count=3, copies=1)
    batch = features.augmented_batch([2, 0], np.random.default_rng(seed), crop)
    position, packed = 0, torch.cat(list(batch.arrays), 1)
    for place, row in enumerate((2, 0)):
        size = int((batch.segments.index == place).sum())
        whole, piece = features.copies[0][row], packed[:, position : position + size]
        assert size >= max(1, round(crop * whole.shape[1])) - 1
        starts = [
            start for start in range(whole.shape[1] - size + 1) if torch.equal(whole[:, start : start + size], piece)
        ]
        assert starts, "not a stretch of the recording"
        torch.testing.assert_close(batch.statistics[place], array_statistics(piece))
        position += size


def test_large_arrays_are_not_joined():
    size = SMALL // (2 * LAYERS * DIM) + 1
    array = torch.zeros(LAYERS, size, DIM, dtype=torch.float16)
    features = FeatureSet(("a",), array_statistics(array)[None, None], ((array,),), torch.zeros(1), torch.ones(1))
    assert features.batch([0]).arrays[0] is array


@pytest.mark.parametrize("stride", [1, 3])
def test_features_come_from_the_cache_by_key_layer_and_copy(stride, tmp_path):
    cache = FeatureCache(tmp_path, "print", 4, DIM)
    rng = np.random.default_rng(0)
    stored = {key: rng.normal(size=(4, 7, DIM)).astype(np.float16) for key in ("a", "b", "a'", "b'")}
    for key, array in stored.items():
        cache.add(key, array.astype(np.float32))
    keys, targets = [["b", "a"], ["b'", "a'"]], torch.tensor([1, 0])
    features = load_features(cache, keys, ["B", "A"], targets, (3, 1), stride, frames=True)
    assert features.ids == ("B", "A") and features.targets.tolist() == [1, 0]
    for copy, names in enumerate(keys):
        for row, name in enumerate(names):
            values = stored[name][[3, 1]].astype(np.float32)
            groups = [values[:, start : start + stride].mean(1) for start in range(0, 7, stride)]
            expected = torch.tensor(np.stack(groups, 1))
            torch.testing.assert_close(features.copies[copy][row].float(), expected, atol=2e-3, rtol=0)
            torch.testing.assert_close(features.statistics[copy, row], array_statistics(expected), atol=2e-3, rtol=0)
    pooled = load_features(cache, keys, ["B", "A"], targets, (3, 1), stride, frames=False)
    assert pooled.copies == () and pooled.statistics.shape == (2, 2, 2, 2, DIM)
    expected = np.stack([stored["b"][[3, 1]].mean(1, dtype=float), stored["b"][[3, 1]].std(1, dtype=float)])
    np.testing.assert_allclose(pooled.statistics[0, 0], expected, atol=1e-3)


def test_standardisation_is_that_of_numpy_over_all_copies():
    features = feature_set()
    head = create_head(HeadConfig(kind="frames", statistics=True, members=2), LAYERS, DIM, 2)
    fit_standardisation(head, features)
    frames = np.concatenate([array.float().numpy() for copy in features.copies for array in copy], 1)
    rows = features.statistics.flatten(0, 1).numpy()
    for member in head.heads:
        np.testing.assert_allclose(member.standardise.mean, frames.mean(1), rtol=1e-4)
        np.testing.assert_allclose(member.standardise.sd, frames.std(1), rtol=1e-4)
        np.testing.assert_allclose(member.linear.standardise.mean, rows.mean(0), rtol=1e-4)
        np.testing.assert_allclose(member.linear.standardise.sd, rows.std(0), rtol=1e-4)


def test_what_does_not_vary_is_only_centred():
    features = feature_set(copies=1, frames=False)
    features.statistics[:, :, 0, 0, 0] = 4.0
    head = create_head(HeadConfig(kind="pooled"), LAYERS, DIM, 2)
    fit_standardisation(head, features)
    standardise = head.heads[0].standardise
    assert standardise.mean[0, 0, 0] == 4 and standardise.sd[0, 0, 0] == 1 and standardise.sd[0, 0, 1] > 1


def test_every_speaker_is_normalised_by_their_own_recordings():
    speakers = ["x", "y", "x", "y", "x"]
    features = normalise_by_speaker(feature_set(frames=False), speakers)
    for rows in ([0, 2, 4], [1, 3]):
        own = features.statistics[0, rows]
        torch.testing.assert_close(own.mean(0), torch.zeros_like(own[0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(own.std(0, correction=0), torch.ones_like(own[0]), atol=1e-3, rtol=0)
    means = features.statistics[1:, :, 0].abs().amin()
    assert means > 5  # augmented copies lie 100 away from the recordings, by whose statistics they are measured


def test_frames_are_normalised_by_speaker_too():
    raw, speakers = feature_set(spread=2.0), ["x", "y", "x", "y", "y"]
    features = normalise_by_speaker(raw, speakers)
    for rows in ([0, 2], [1, 3, 4]):
        own = torch.cat([features.copies[0][row].float() for row in rows], 1)
        torch.testing.assert_close(own.mean(1), torch.zeros(LAYERS, DIM), atol=5e-3, rtol=0)
        torch.testing.assert_close(own.std(1, correction=0), torch.ones(LAYERS, DIM), atol=5e-3, rtol=0)
    for copy in range(3):
        for row in range(5):
            own = array_statistics(features.copies[copy][row])
            torch.testing.assert_close(features.statistics[copy, row], own)


def test_one_speaker_does_not_touch_another():
    raw = feature_set(copies=1)
    both, only = normalise_by_speaker(raw, list("xxxyy")), normalise_by_speaker(raw.take([0, 1, 2]), list("xxx"))
    assert torch.equal(both.statistics[:, :3], only.statistics)
    assert all(torch.equal(a, b) for a, b in zip(both.copies[0], only.copies[0], strict=False))
    assert torch.equal(raw.statistics, feature_set(copies=1).statistics), "the input was changed"
