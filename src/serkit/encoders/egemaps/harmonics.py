"""Harmonics of voiced frames: harmonics-to-noise ratio, harmonic differences and levels at the formants."""

from __future__ import annotations

import numpy as np

from serkit.encoders.egemaps.formants import FORMANTS
from serkit.encoders.egemaps.frames import LONG_FFT, LONG_HERTZ, in_blocks

MOST = 100
"""Harmonics looked at, the fundamental included."""
FLOOR = -201.0
"""dB; the level of a harmonic that is not there, and of everything harmonic in unvoiced frames."""
NEAR_FORMANT = 0.2
"""A harmonic belongs to a formant when it is at most this share of the formant's frequency away."""
RATIO_RANGE = 1e-9, 1e11

BIN = LONG_HERTZ[1]


def harmonic_descriptors(magnitude: np.ndarray, pitch: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Return ``(T, 6)`` in dB: harmonics-to-noise ratio, H1-H2, H1-A3, and the levels of formants 1-3 over F0.

    Takes the spectra ``(T, 513)`` and the pitch ``(T,)`` of the long frames, and formants ``(T, 6)`` as frequency and
    bandwidth. In the reference H1 is the second harmonic, H2 the third, and so on; that is kept.
    """
    described = np.full((len(pitch), 6), FLOOR)
    described[:, :3] = 0
    voiced = pitch > 0
    if voiced.any():
        described[voiced] = in_blocks(_describe, magnitude[voiced], pitch[voiced], formants[voiced, ::2])
    return described


def _describe(magnitude: np.ndarray, pitch: np.ndarray, formants: np.ndarray) -> np.ndarray:
    magnitude = magnitude.astype(float)
    hertz, peak, level = find_harmonics(magnitude, pitch)
    row = np.arange(len(pitch))
    amplitudes = np.zeros((len(pitch), FORMANTS))
    for number in range(FORMANTS):
        centre = formants[:, number, None]
        near = (hertz >= (1 - NEAR_FORMANT) * centre) & (hertz <= (1 + NEAR_FORMANT) * centre)
        heights = np.where(near, peak, 0.0)
        highest = heights.argmax(1)
        present = heights[row, highest] > 0
        amplitudes[:, number] = np.where(present, level[row, highest], 0.0)
    third = np.where(present, amplitudes[:, -1], -FLOOR)
    differences = np.clip([level[:, 1] - level[:, 2], level[:, 1] - third], FLOOR, -FLOOR)
    return np.column_stack([noise_ratio(magnitude, pitch), *differences, amplitudes])


def find_harmonics(magnitude: np.ndarray, pitch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frequency (Hz), magnitude and level over the fundamental (dB) of each harmonic, ``(T, H)`` each.

    A harmonic is the spectral peak nearest to its place and at most half a fundamental away. Where there is none,
    frequency and magnitude are 0.
    """
    number = np.arange(1, min(MOST, int(LONG_HERTZ[-1] / pitch.min()) + 1) + 1)
    peak = _choose_peak(magnitude, pitch, number)
    row = np.arange(len(pitch))[:, None]
    there = peak > 0
    inside = np.where(there, peak, 1)
    before, here, after = magnitude[row, inside - 1], magnitude[row, inside], magnitude[row, inside + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = (before - after) / (2 * (before + after - 2 * here))
        height = here + (after - before) * shift / 4
        level = 20 * np.log10(height / np.where(there[:, :1], here[:, :1], 0))
    hertz = np.where(there, (inside + shift) * BIN, 0.0)
    level = np.where(there & np.isfinite(level), np.maximum(level, FLOOR + 1), FLOOR + 1)
    level[~there[:, 0]] = FLOOR
    level[:, 0] = 0
    twice = np.zeros_like(there)
    twice[:, 1:] = there[:, 1:] & (peak[:, 1:] == peak[:, :-1])
    level[twice] = FLOOR
    return np.where(twice, 0, hertz), np.where(there & ~twice, here, 0), level


def _choose_peak(magnitude: np.ndarray, pitch: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return the bin ``(T, H)`` of the peak nearest to each harmonic, 0 where there is none."""
    last = magnitude.shape[1] - 1
    rising = magnitude[:, 1:] > magnitude[:, :-1]
    falling = magnitude[:, 1:] < magnitude[:, :-1]
    peak = np.ones(magnitude.shape, bool)
    peak[:, 1:] &= rising
    peak[:, :-1] &= falling
    index = np.arange(last + 1)
    left = np.maximum.accumulate(np.where(peak, index, -MOST), axis=1)
    right = np.minimum.accumulate(np.where(peak, index, last + MOST)[:, ::-1], axis=1)[:, ::-1]
    place, low, high = (_nearest_bin(pitch[:, None] * (number + half)) for half in (0, -0.5, 0.5))
    row = np.arange(len(pitch))[:, None]
    left, right = left[row, place], right[row, place]
    left = np.where(left >= low, left, -last)
    right = np.where((right <= high) | (right == place), right, 2 * last)
    chosen = np.where(right - place <= place - left, right, left)
    first = _nearest_bin(pitch[:, None] / 2)
    return np.where((place > 0) & (chosen >= first) & (chosen < last), chosen, 0)


def _nearest_bin(hertz: np.ndarray) -> np.ndarray:
    """Return the spectrum's bin nearest to ``hertz``, 0 beyond its end."""
    return np.where(hertz < LONG_HERTZ[-1], np.floor(hertz / BIN + 0.5), 0).astype(np.intp)


def noise_ratio(magnitude: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Return the harmonics-to-noise ratio ``(T,)`` in dB: what of the autocorrelation is left after one period.

    The period is the peak of the autocorrelation's magnitude nearest to that of ``pitch``.
    """
    correlation = np.abs(np.fft.irfft(magnitude**2, LONG_FFT)[:, : magnitude.shape[1]])
    size = correlation.shape[1]
    peak = np.zeros(correlation.shape, bool)
    peak[:, 1:-1] = (correlation[:, 1:-1] > correlation[:, :-2]) & (correlation[:, 1:-1] > correlation[:, 2:])
    index, row = np.arange(size), np.arange(len(pitch))
    place = (16_000 / pitch).astype(np.intp)
    distance = np.where(peak, np.abs(index - place[:, None]), size)
    nearest = distance.argmin(1)  # the shorter period of two that are equally near
    period = correlation[row, np.where(distance[row, nearest] < size, nearest, place)]
    noise = correlation[:, 0] - period
    ratio = np.divide(period, noise, out=np.full_like(period, RATIO_RANGE[1]), where=noise != 0)
    return 10 * np.log10(np.clip(ratio, *RATIO_RANGE))
