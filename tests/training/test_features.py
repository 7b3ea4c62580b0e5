"""Features as training sees them: the right rows, copies and crops, and statistics of the right utterances."""

from __future__ import annotations

from dataclasses import replace

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
    StreamSet,
    array_statistics,
    fit_standardisation,
    load_stream,
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
    stream = StreamSet.of_arrays(arrays)
    stream = stream if frames else replace(stream, copies=())
    targets, weights = torch.arange(count) % 2, torch.arange(count) + 1.0
    return FeatureSet(tuple(f"u{row}" for row in range(count)), (stream,), targets, weights)


def test_take_keeps_rows_together():
    whole, taken = feature_set().streams[0], feature_set().take([3, 1])
    assert taken.ids == ("u3", "u1") and len(taken) == 2
    assert taken.targets.tolist() == [1, 1] and taken.weights.tolist() == [4, 2]
    (stream,) = taken.streams
    assert stream.statistics.shape == (3, 2, 2, LAYERS, DIM)
    for copy in range(3):
        for place, row in enumerate((3, 1)):
            assert torch.equal(stream.copies[copy][place], whole.copies[copy][row])
            torch.testing.assert_close(stream.statistics[copy, place], whole.statistics[copy, row])
            assert stream.lengths[copy, place] == 4 + row


def test_take_only_the_first_copies_and_other_weights():
    taken = feature_set().take([0, 2], copies=1, weights=torch.tensor([7.0, 8.0]))
    assert len(taken.streams[0].copies) == taken.copies == 1 and taken.weights.tolist() == [7, 8]
    assert feature_set(frames=False).take([4]).streams[0].copies == ()


@pytest.mark.parametrize("frames", [True, False])
def test_a_batch_is_the_recordings_themselves(frames):
    features = feature_set(frames=frames)
    batch, (stream,) = features.batch([4, 0]), features.streams
    assert torch.equal(batch.streams[0].statistics, stream.statistics[0, [4, 0]])
    if frames:
        packed = torch.cat(list(batch.streams[0].arrays), 1)
        assert torch.equal(packed, torch.cat([stream.copies[0][4], stream.copies[0][0]], 1))
        assert batch.segments.index.tolist() == [0] * 8 + [1] * 4
    else:
        assert batch.streams[0].arrays == () and batch.segments is None


def test_all_copies_come_copy_after_copy():
    batch = feature_set().all_copies()
    means = batch.streams[0].statistics[:, 0].mean((1, 2))
    expected = torch.tensor([value_of(copy, row) for copy in range(3) for row in range(5)])
    torch.testing.assert_close(means, expected, atol=2.0, rtol=0)
    assert batch.segments.count == 15 and torch.cat(list(batch.streams[0].arrays), 1).shape[1] == 3 * sum(range(4, 9))


@pytest.mark.parametrize("frames", [True, False])
def test_augmented_batches_draw_a_copy_of_each_row(frames):
    features, rng = feature_set(frames=frames), np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        batch = features.augmented_batch([2, 4], rng, crop=1.0)
        means = batch.streams[0].statistics[:, 0].mean((1, 2))
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
    position, packed = 0, torch.cat(list(batch.streams[0].arrays), 1)
    for place, row in enumerate((2, 0)):
        size = int((batch.segments.index == place).sum())
        whole, piece = features.streams[0].copies[0][row], packed[:, position : position + size]
        assert size >= max(1, round(crop * whole.shape[1])) - 1
        starts = [
            start for start in range(whole.shape[1] - size + 1) if torch.equal(whole[:, start : start + size], piece)
        ]
        assert starts, "not a stretch of the recording"
        torch.testing.assert_close(batch.streams[0].statistics[place], array_statistics(piece))
        position += size


def test_large_arrays_are_not_joined():
    size = SMALL // (2 * LAYERS * DIM) + 1
    array = torch.zeros(LAYERS, size, DIM, dtype=torch.float16)
    features = FeatureSet(("a",), (StreamSet.of_arrays([[array]]),), torch.zeros(1), torch.ones(1))
    assert features.batch([0]).streams[0].arrays[0] is array


@pytest.mark.parametrize("stride", [1, 3])
def test_features_come_from_the_cache_by_key_layer_and_copy(stride, tmp_path):
    cache = FeatureCache(tmp_path, "print", 4, DIM)
    rng = np.random.default_rng(0)
    stored = {key: rng.normal(size=(4, 7, DIM)).astype(np.float16) for key in ("a", "b", "a'", "b'")}
    for key, array in stored.items():
        cache.add(key, array.astype(np.float32))
    keys = [["b", "a"], ["b'", "a'"]]
    features = load_stream(cache, keys, (3, 1), stride, frames=True)
    for copy, names in enumerate(keys):
        for row, name in enumerate(names):
            values = stored[name][[3, 1]].astype(np.float32)
            groups = [values[:, start : start + stride].mean(1) for start in range(0, 7, stride)]
            expected = torch.tensor(np.stack(groups, 1))
            torch.testing.assert_close(features.copies[copy][row].float(), expected, atol=2e-3, rtol=0)
            torch.testing.assert_close(features.statistics[copy, row], array_statistics(expected), atol=2e-3, rtol=0)
            assert features.lengths[copy, row] == len(groups)
    pooled = load_stream(cache, keys, (3, 1), stride, frames=False)
    assert pooled.copies == () and pooled.statistics.shape == (2, 2, 2, 2, DIM)
    expected = np.stack([stored["b"][[3, 1]].mean(1, dtype=float), stored["b"][[3, 1]].std(1, dtype=float)])
    np.testing.assert_allclose(pooled.statistics[0, 0], expected, atol=1e-3)


def test_standardisation_is_that_of_numpy_over_all_copies():
    features = feature_set()
    head = create_head(HeadConfig(kind="frames", statistics=True, members=2), [(LAYERS, DIM)], 2)
    fit_standardisation(head, features)
    frames = np.concatenate([array.float().numpy() for copy in features.streams[0].copies for array in copy], 1)
    rows = features.streams[0].statistics.flatten(0, 1).numpy()
    for member in head.heads:
        np.testing.assert_allclose(member.streams[0].standardise.mean, frames.mean(1), rtol=1e-4)
        np.testing.assert_allclose(member.streams[0].standardise.sd, frames.std(1), rtol=1e-4)
        np.testing.assert_allclose(member.linear.streams[0].standardise.mean, rows.mean(0), rtol=1e-4)
        np.testing.assert_allclose(member.linear.streams[0].standardise.sd, rows.std(0), rtol=1e-4)


def test_what_does_not_vary_is_only_centred():
    features = feature_set(copies=1, frames=False)
    features.streams[0].statistics[:, :, 0, 0, 0] = 4.0
    head = create_head(HeadConfig(kind="pooled"), [(LAYERS, DIM)], 2)
    fit_standardisation(head, features)
    standardise = head.heads[0].streams[0].standardise
    assert standardise.mean[0, 0, 0] == 4 and standardise.sd[0, 0, 0] == 1 and standardise.sd[0, 0, 1] > 1


def test_every_speaker_is_normalised_by_their_own_recordings():
    speakers = ["x", "y", "x", "y", "x"]
    features = normalise_by_speaker(feature_set(frames=False).streams[0], speakers)
    for rows in ([0, 2, 4], [1, 3]):
        own = features.statistics[0, rows]
        torch.testing.assert_close(own.mean(0), torch.zeros_like(own[0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(own.std(0, correction=0), torch.ones_like(own[0]), atol=1e-3, rtol=0)
    means = features.statistics[1:, :, 0].abs().amin()
    assert means > 5  # augmented copies lie 100 away from the recordings, by whose statistics they are measured


def test_frames_are_normalised_by_speaker_too():
    raw, speakers = feature_set(spread=2.0), ["x", "y", "x", "y", "y"]
    stream = normalise_by_speaker(raw.streams[0], speakers)

    def normalised(copy, row):
        mean, sd = stream.scaling[row]
        return (stream.copies[copy][row] - mean[:, None]) / sd[:, None]

    for rows in ([0, 2], [1, 3, 4]):
        own = torch.cat([normalised(0, row) for row in rows], 1)
        torch.testing.assert_close(own.mean(1), torch.zeros(LAYERS, DIM), atol=5e-3, rtol=0)
        torch.testing.assert_close(own.std(1, correction=0), torch.ones(LAYERS, DIM), atol=5e-3, rtol=0)
    for copy in range(3):
        for row in range(5):
            own = array_statistics(normalised(copy, row))
            torch.testing.assert_close(stream.statistics[copy, row], own, atol=2e-3, rtol=1e-3)
    batch = replace(raw, streams=(stream,)).augmented_batch([4, 0], np.random.default_rng(1), 0.5)
    (part,) = batch.streams
    for place, array in enumerate(part.arrays):
        mean, sd = part.scaling[place]
        torch.testing.assert_close(
            part.statistics[place], array_statistics((array - mean[:, None]) / sd[:, None]), atol=2e-3, rtol=1e-3
        )


def test_one_speaker_does_not_touch_another():
    raw = feature_set(copies=1)
    both = normalise_by_speaker(raw.streams[0], list("xxxyy"))
    only = normalise_by_speaker(raw.take([0, 1, 2]).streams[0], list("xxx"))
    assert torch.equal(both.statistics[:, :3], only.statistics) and torch.equal(both.scaling[:3], only.scaling)
    assert torch.equal(raw.streams[0].statistics, feature_set(copies=1).streams[0].statistics), "the input was changed"


@pytest.mark.parametrize("scalar", [False, True])
def test_moments_are_those_of_all_frames(scalar):
    stream = replace(feature_set(spread=3.0).streams[0], scalar=scalar)
    frames = np.concatenate([array.double().numpy() for copy in stream.copies[:2] for array in copy], 1)
    over = (1, 2) if scalar else (1,)
    mean, sd = (getattr(np, name)(frames, over, keepdims=True) for name in ("mean", "std"))
    for found, expected in zip(stream.take(range(5), 2).moments(), (mean, sd), strict=True):
        np.testing.assert_allclose(found, np.broadcast_to(expected, (LAYERS, 1, DIM))[:, 0], rtol=1e-4)


def test_a_head_sees_the_first_frames_only_and_streams_end_together():
    one = feature_set(copies=1).streams[0]
    two = StreamSet.of_arrays([[torch.randn(1, 9 - row, 2) for row in range(5)]])
    features = FeatureSet(tuple("abcde"), (one, two), torch.zeros(5), torch.ones(5), max_frames=6)
    batch = features.batch([4, 0, 1])
    lengths = [min(5, 6), min(4, 6, 9), min(5, 6, 8)]
    assert batch.segments.index.bincount().tolist() == lengths
    for stream, part in zip((one, two), batch.streams, strict=True):
        expected = [stream.copies[0][row][:, :size] for row, size in zip((4, 0, 1), lengths, strict=True)]
        assert torch.equal(torch.cat(list(part.arrays), 1), torch.cat(expected, 1))
        assert torch.equal(part.statistics, stream.statistics[0, [4, 0, 1]])


def test_pairs_with_a_zero_tail_keep_the_statistics_of_single_frames(tmp_path):
    cache = FeatureCache(tmp_path, "print", 1, 2)
    stored = {
        key: np.arange(2.0 * size, dtype=np.float32).reshape(1, size, 2) + 1 for key, size in (("a", 5), ("b", 4))
    }
    for key, array in stored.items():
        cache.add(key, array)
    stream = load_stream(cache, [["a", "b"]], (0,), 2, frames=True, zero_tail=True)
    odd, even = stream.copies[0]
    assert odd[0].tolist() == [[2, 3], [6, 7], [4.5, 5]] and even[0].tolist() == [[2, 3], [6, 7], [0, 0]]
    assert stream.lengths.tolist() == [[5, 4]]
    np.testing.assert_allclose(stream.statistics[0, 0, 0, 0], stored["a"][0].mean(0))
