"""Jitter and shimmer: lengths and amplitudes of single periods, found by correlating each with the next one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from serkit.encoders.egemaps.frames import HOP

SEARCH = 0.1
"""A period is sought within this share of that of the pitch."""
LEAST_CORRELATION = 0.5
RATE = 16_000


def jitter_shimmer(samples: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Return ``(T, 2)``: local jitter (a share, at most 1) and local shimmer (dB) of each frame; 0 in unvoiced ones.

    ``samples (S,)`` are at 16 kHz, ``pitch (T,)`` in Hz, 10 ms apart. A voiced frame without a period keeps the values
    of the frame before.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a stretch of equal samples correlates with nothing
        owner, start, length, exact, similarity = find_periods(samples, pitch)
    amplitude, change = _amplitudes(samples, start, length)
    # A period that two frames find must differ by exactly nothing, as smoothing leaves out zeros: hence float32.
    seconds = (exact / RATE).astype(np.float32).astype(float)
    return _contours(pitch, owner, seconds, amplitude, change, similarity > LEAST_CORRELATION)


def find_periods(samples: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, ...]:
    """Follow the periods through each voiced stretch.

    Returns one entry per period ``(P,)``: frame, first sample, length in whole samples, exact length, and correlation
    with the period after it.
    """
    sums = np.concatenate([[0.0], np.cumsum(samples)])
    squares = np.concatenate([[0.0], np.cumsum(samples**2)])
    found = []
    behind = 0  # samples before the frame that are not yet done
    for frame, hertz in enumerate(pitch.tolist()):
        if hertz == 0:
            behind = 0
            continue
        period = RATE / hertz
        shortest, longest = int((1 - SEARCH) * period), int(np.ceil((1 + SEARCH) * period))
        step = HOP + behind
        size = max(step, 2 * longest + 2)
        first = frame * HOP - behind
        start = done = 0
        while start < size - 2 * longest - 1:
            best = _best_length(samples, sums, squares, first + start, shortest, longest)
            if best is None:
                start += int(period + 0.5)
            else:
                found.append((frame, first + start, *best))
                start += best[0]
            if start < step - 1:
                done = start
        behind = step - done
    table = np.array(found).reshape(-1, 5).T
    return table[0].astype(np.intp), table[1].astype(np.intp), table[2].astype(np.intp), table[3], table[4]


@lru_cache(maxsize=256)
def _growth(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``count`` steps, and which products a window gains from step to step: their places and 1 or 0."""
    steps = np.arange(count)
    return steps, steps[:, None] + steps[:-1], np.tri(count, count - 1, -1)


def _best_length(
    samples: np.ndarray, sums: np.ndarray, squares: np.ndarray, start: int, shortest: int, longest: int
) -> tuple[int, float, float] | None:
    """Return length, interpolated length and correlation of the period at ``start``, or None without a peak."""
    steps, places, gained = _growth(longest - shortest + 1)
    length = steps + shortest
    near, far, end = start + shortest, start + longest, start + 2 * shortest
    product = np.correlate(samples[near : far + shortest], samples[start:near])
    product = product + (samples[end:][places] * gained) @ samples[near:far]
    until, until_end = slice(near, far + 1), slice(end, start + 2 * longest + 1, 2)
    one, one_square = sums[until], squares[until]
    two, two_square = sums[until_end] - one, squares[until_end] - one_square
    one, one_square = one - sums[start], one_square - squares[start]
    energies = (one_square - one * one / length) * (two_square - two * two / length)
    value = (product - one * two / length) / np.sqrt(energies)
    inner = value[1:-2]
    peak = np.where((value[:-3] < inner) & (inner > value[2:-1]), inner, -2.0)
    top = int(peak.argmax()) + 1
    before, here, after = value[top - 1 : top + 2].tolist()
    if not before < here > after:
        return None
    shift = (before - after) / (2 * (before + after - 2 * here))
    return shortest + top, shortest + top + shift, here + (after - before) * shift / 4


def _amplitudes(samples: np.ndarray, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and difference of the peak-to-peak amplitudes of each period and the one after it."""
    if not len(start):
        return np.zeros(0), np.zeros(0)
    ranges = []
    for first in (start, start + length):
        edges = np.stack([first + 1, first + length - 1], 1).ravel()
        ranges.append(np.maximum.reduceat(samples, edges)[::2] - np.minimum.reduceat(samples, edges)[::2])
    return (ranges[0] + ranges[1]) / 2, np.abs(ranges[0] - ranges[1])


def _contours(
    pitch: np.ndarray,
    owner: np.ndarray,
    seconds: np.ndarray,
    amplitude: np.ndarray,
    change: np.ndarray,
    good: np.ndarray,
) -> np.ndarray:
    """Average the good periods of each frame; jitter compares each with the good one before it in the same stretch."""
    count = len(pitch)
    owner, seconds, amplitude, change = owner[good], seconds[good], amplitude[good], change[good]
    stretch = np.cumsum(pitch == 0)[owner]
    difference = np.abs(np.diff(seconds, prepend=0.0))
    follows = np.zeros(len(owner), bool)
    follows[1:] = stretch[1:] == stretch[:-1]
    periods, pairs = np.bincount(owner, minlength=count), np.bincount(owner, follows, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        jitter = (np.bincount(owner, difference * follows, count) / pairs) / (
            np.bincount(owner, seconds, count) / periods
        )
        shimmer = np.bincount(owner, change, count) / np.bincount(owner, amplitude, count)
    contours = np.zeros((count, 2))
    last_jitter = last_shimmer = 0.0
    for frame in range(count):
        if pitch[frame] == 0:
            last_jitter = last_shimmer = 0.0
            continue
        if periods[frame]:
            last_shimmer = min(shimmer[frame], 1.0)
            if pairs[frame]:
                last_jitter = min(jitter[frame], 1.0)
        contours[frame] = (last_jitter if pairs[frame] or not periods[frame] else 0.0), last_shimmer
    contours[:, 1] = 20 * np.log10(1 + contours[:, 1])
    return contours
