"""The outline of a stream is that of the whole recording, in bounded memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.errors import InputError
from serkit.inference.envelope import FINENESS, Envelope, envelope


def cut(samples, sizes):
    blocks, at = [], 0
    for size in sizes:
        blocks.append(samples[at : at + size])
        at += size
    return [*blocks, samples[at:]]


def exact(samples, bins):
    """By definition, with fractions of samples counted whole."""
    found = np.zeros(bins, dtype=np.float32)
    for index in range(bins):
        low, high = index * len(samples) // bins, -(-(index + 1) * len(samples) // bins)
        part = samples[low : max(high, low + 1)]
        found[index] = min(1.0, np.abs(part).max()) if len(part) else 0.0
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 700), st.integers(1, 20), st.lists(st.integers(0, 90), max_size=9), st.integers(0, 99))
def test_short_streams_are_exact(length, bins, sizes, seed):
    samples = np.random.default_rng(seed).normal(0, 0.4, min(length, 2 * FINENESS * bins)).astype(np.float32)
    assert envelope(cut(samples, sizes), bins).tolist() == exact(samples, bins).tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90_000), st.integers(1, 40), st.lists(st.integers(0, 30_000), max_size=6), st.integers(0, 99))
def test_long_streams_lose_no_peak_and_move_none_far(length, bins, sizes, seed):
    samples = np.random.default_rng(seed).normal(0, 0.4, length).astype(np.float32)
    found = envelope(cut(samples, sizes), bins)
    assert (found >= exact(samples, bins)).all()
    reach = length / bins / FINENESS
    for index in range(bins):
        low, high = index * length / bins - reach, (index + 1) * length / bins + reach
        wider = samples[max(0, int(np.floor(low))) : int(np.ceil(high)) + 1]
        assert found[index] <= min(1.0, np.abs(wider).max())


def test_the_way_it_is_cut_does_not_matter():
    samples = np.random.default_rng(1).normal(0, 0.2, 50_000).astype(np.float32)
    whole = envelope([samples], 30)
    assert envelope(np.array_split(samples, 371), 30).tolist() == whole.tolist()


def test_memory_does_not_grow_and_a_click_is_found():
    following = Envelope(100)
    before = following.cells.nbytes
    block = np.zeros(16_000, dtype=np.float32)
    for second in range(3 * 3600):
        block[5] = -0.75 if second == 7000 else 0.0
        following.push(block)
    assert following.cells.nbytes == before == 4 * 2 * FINENESS * 100
    assert np.flatnonzero(following.peaks()).tolist() == [7000 * 100 // (3 * 3600)]
    assert following.peaks().max() == 0.75


def test_nothing_and_too_loud_and_no_bins():
    assert envelope([], 3).tolist() == [0, 0, 0]
    assert envelope([np.float32([2.0, -3.0])], 1).tolist() == [1.0]
    with pytest.raises(InputError, match="one bin or more"):
        envelope([], 0)
