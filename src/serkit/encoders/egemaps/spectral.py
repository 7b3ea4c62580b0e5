"""Loudness, spectral balance, spectral flux and MFCC of the short frames (Eyben et al. 2016, section 3.3).

Sources: HTK's mel filter bank and cepstra (Young et al. 2006, The HTK Book), the equal-loudness curve and compression
of perceptual linear prediction (Hermansky 1990), alpha ratio and Hammarberg index (Hammarberg et al. 1980).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from serkit.encoders.egemaps.frames import SHORT_HERTZ, Frames, in_blocks

BANDS = 26
LOWEST, HIGHEST = 20.0, 8000.0
COMPRESSION = 0.33
MEL_FLOOR = 9.3e-10
POWER_FLOOR = 1e-14
"""-140 dB: the level that a bin without energy is given."""
SLOPES = ((0, 500), (500, 1500))
LIFTER, CEPSTRA = 22, 4
FLUX_LIMIT = 5000.0


def to_mel(hertz: np.ndarray) -> np.ndarray:
    """Map Hz to HTK's mel."""
    return 1127 * np.log(1 + np.asarray(hertz) / 700)


def mel_edges() -> np.ndarray:
    """Return where the triangular filters start, peak and end: 28 points from 20 to 8000 Hz, evenly spaced in mel."""
    low, high = to_mel(np.array([LOWEST, HIGHEST])).tolist()
    return np.linspace(low, high, BANDS + 2)


@cache
def mel_weights() -> np.ndarray:
    """Return the triangular filters ``(257, 26)``."""
    edges = mel_edges()
    mel = to_mel(SHORT_HERTZ)[:, None]
    rise = (mel - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - mel) / np.diff(edges)[1:]
    weights = np.maximum(0, np.minimum(rise, fall))
    weights[: round(LOWEST / SHORT_HERTZ[1]) + 1] = 0
    weights[-1] = 0
    return weights


@cache
def equal_loudness() -> np.ndarray:
    """Return the ear's sensitivity to power at each band's centre ``(26,)``, at most about 1."""
    omega = 2 * np.pi * 700 * (np.exp(mel_edges()[1:-1] / 1127) - 1)
    square = omega**2
    numerator = 1e32 * (square + 56.8e6) * square**2
    return numerator / ((square + 6.3e6) ** 2 * (square + 0.38e9) * (square**3 * omega + 1.7e31))


@cache
def cosines() -> np.ndarray:
    """Return the liftered cosine transform ``(26, 4)`` from log mel power to MFCC 1-4."""
    order = np.arange(1, CEPSTRA + 1)
    basis = np.cos(np.pi * np.outer(np.arange(BANDS) + 0.5, order) / BANDS)
    return basis * np.sqrt(2 / BANDS) * (1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER))


@cache
def slope_weights() -> np.ndarray:
    """Return ``(257, 2)``: what each bin's level adds to the regression slope of a band, in dB per Hz.

    The reference counts one bin less than it sums, which is kept.
    """
    weights = np.zeros((len(SHORT_HERTZ), len(SLOPES)))
    for column, (low, high) in enumerate(SLOPES):
        inside = (low <= SHORT_HERTZ) & (high >= SHORT_HERTZ)
        hertz, count = SHORT_HERTZ[inside], inside.sum() - 1
        weights[inside, column] = (count * hertz - hertz.sum()) / (count * (hertz**2).sum() - hertz.sum() ** 2)
    return weights


def spectral_descriptors(frames: Frames) -> np.ndarray:
    """Return ``(T + 4, 10)``: loudness, alpha ratio, Hammarberg index, two slopes, flux, MFCC 1-4."""
    described = in_blocks(_describe, frames.short_magnitude)
    return np.insert(described, 5, _flux(frames.short_magnitude), axis=1)


def _describe(magnitude: np.ndarray) -> np.ndarray:
    power = magnitude.astype(float) ** 2
    mel = power @ mel_weights()
    loudness = ((np.maximum(mel, MEL_FLOOR) * equal_loudness()) ** COMPRESSION).mean(1)
    cepstra = np.log(np.maximum(mel * 32767.0**2, 1.0)) @ cosines()
    slopes = 10 * np.log10(np.maximum(power, POWER_FLOOR)) @ slope_weights()
    return np.column_stack([loudness, _balance(power), slopes, cepstra])


def _balance(power: np.ndarray) -> np.ndarray:
    """Alpha ratio (1-5 kHz over 0-1 kHz) and Hammarberg index (peak of 0-2 kHz over that of 2-5 kHz) in dB."""
    one, two, five = (int(np.searchsorted(SHORT_HERTZ, hertz)) for hertz in (1000, 2000, 5000))
    low, high = power[:, :one].sum(1), power[:, one : five + 1].sum(1)
    below, above = power[:, :two].max(1), power[:, two : five + 1].max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = 10 * np.log10(np.maximum(high, POWER_FLOOR) / low)
        hammarberg = 10 * np.log10(np.maximum(below, POWER_FLOOR) / above)
    return np.column_stack([np.where(low > 0, alpha, 0.0), np.where(above > 0, hammarberg, 0.0)])


def _flux(magnitude: np.ndarray) -> np.ndarray:
    """Root mean square change of the magnitudes below 5 kHz since the previous frame; 0 for the first."""
    change = np.diff(magnitude[:, SHORT_HERTZ < FLUX_LIMIT], axis=0)
    return np.concatenate([[0.0], np.sqrt((change**2).mean(1, dtype=float))])
