"""Frames, spectra and smoothing that every descriptor shares.

Two frame lengths, both every 10 ms and aligned at their left edge: 20 ms under a Hamming window for everything
spectral, 60 ms under a Gaussian window for everything that needs pitch. There are four more short frames than long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from serkit.data.audio import SAMPLING_RATE, to_mono
from serkit.encoders.egemaps.single import spectrum
from serkit.errors import AudioError

HOP = 160
"""Samples from one frame to the next."""
SHORT, SHORT_FFT = 320, 512
LONG, LONG_FFT = 960, 1024
SHORT_HERTZ = np.arange(SHORT_FFT // 2 + 1) * (SAMPLING_RATE / SHORT_FFT)
LONG_HERTZ = np.arange(LONG_FFT // 2 + 1) * (SAMPLING_RATE / LONG_FFT)

BLOCK = 512
"""Frames that are worked on at once, so that memory stays bounded and arrays stay in the cache."""

FULL_SCALE = 32768, 32767
"""openSMILE takes 16-bit samples and divides them by 32767."""


@dataclass(frozen=True)
class Frames:
    """A waveform ``samples (S,)`` at 16 kHz, cut into frames, with the spectra that the descriptors read.

    ``short (T + 4, 320)`` are the raw frames of 20 ms; ``short_spectrum`` and ``short_magnitude (T + 4, 257)`` and
    ``long_magnitude (T, 513)`` are the spectra of the windowed frames in single precision, and ``rms (T,)`` that of the
    windowed long frames.
    """

    samples: np.ndarray
    short: np.ndarray
    short_spectrum: np.ndarray
    short_magnitude: np.ndarray
    long_magnitude: np.ndarray
    rms: np.ndarray

    @property
    def count(self) -> int:
        """Long frames (``T``)."""
        return len(self.long_magnitude)


@cache
def hamming() -> np.ndarray:
    """Return the window of the short frames ``(320,)``."""
    return np.hamming(SHORT)


@cache
def gaussian(sigma: float = 0.4) -> np.ndarray:
    """Return the window of the long frames ``(960,)``; ``sigma`` is in half windows."""
    middle = (LONG - 1) / 2
    return np.exp(-0.5 * ((np.arange(LONG) - middle) / (sigma * middle)) ** 2)


def in_blocks(describe: Callable[..., np.ndarray], *rows: np.ndarray) -> np.ndarray:
    """Return what ``describe`` makes of ``rows (T, ...)``, a block of frames at a time."""
    starts = range(0, max(len(rows[0]), 1), BLOCK)
    return np.concatenate([describe(*(row[start : start + BLOCK] for row in rows)) for start in starts])


def cut(samples: np.ndarray, size: int) -> np.ndarray:
    """Return every whole frame of ``size`` samples as a read-only view ``(T, size)``."""
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::HOP]


def cut_frames(waveform: np.ndarray, sampling_rate: int) -> Frames:
    """Resample ``waveform (S,)`` to 16 kHz, cut it and transform it. Raises ``AudioError`` when it is below 60 ms."""
    waveform = to_mono(waveform, sampling_rate)
    if len(waveform) < LONG:
        least = f"{LONG} samples at 16 kHz ({LONG / SAMPLING_RATE:.3f} s)"
        raise AudioError(f"array: eGeMAPS needs at least {least}, got {len(waveform)}")
    samples = waveform.astype(np.float64) * FULL_SCALE[0] / FULL_SCALE[1]
    short, long = cut(samples, SHORT), cut(samples, LONG)
    bins = in_blocks(_short_spectrum, short)
    return Frames(
        samples,
        short,
        bins,
        np.sqrt(bins.real * bins.real + bins.imag * bins.imag),
        in_blocks(lambda rows: np.abs(np.fft.rfft(rows * gaussian(), LONG_FFT)).astype(np.float32), long),
        np.sqrt(in_blocks(lambda rows: rows**2 @ gaussian() ** 2 / LONG, long)),
    )


def _short_spectrum(frames: np.ndarray) -> np.ndarray:
    """Transform frames ``(T, 320)``, centred among 512 points."""
    padded = np.zeros((SHORT_FFT, len(frames)), np.float32)
    start = (SHORT_FFT - SHORT) // 2
    padded[start : start + SHORT] = (frames.astype(np.float32) * hamming().astype(np.float32)).T
    return spectrum(padded).T


def smooth(contours: np.ndarray) -> np.ndarray:
    """Average ``(T, D)`` over three frames; the last frame is repeated once, so ``(T + 1, D)`` come back."""
    padded = np.concatenate([contours[:1], contours, contours[-1:], contours[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def smooth_nonzero(contours: np.ndarray, paused: int = 0) -> np.ndarray:
    """Like :func:`smooth`, but zeros mean "no value": they stay zero and do not enter their neighbours' averages.

    With ``paused``, the smoother ran out of input after so many frames and repeated the last of them, as the reference
    does where pitch is not decided when a recording ends.
    """
    padded = np.concatenate([contours[:1], contours, contours[-1:], contours[-1:]])
    smoothed = _mean_nonzero(padded[:-2], padded[1:-1], padded[2:])
    if paused:
        last = padded[paused : paused + 1]
        smoothed[paused - 1 : paused] = _mean_nonzero(padded[paused - 1 : paused], last, last)
        smoothed[paused] = last
    return smoothed


def _mean_nonzero(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    count = (before != 0).astype(int) + (here != 0) + (after != 0)
    return np.where(here != 0, (before + here + after) / np.maximum(count, 1), 0.0)
