"""How loud a waveform is."""

from __future__ import annotations

import numpy as np
import pyloudnorm

from serkit.data.audio import SAMPLING_RATE

Range = tuple[float, float]
"""Lowest and highest value; what is used is drawn between them."""


def rms(x: np.ndarray) -> float:
    """Return the root mean square of all samples."""
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def frame_powers(x: np.ndarray) -> np.ndarray:
    """Return the mean square of every whole 20 ms frame; of the whole when it is shorter than one."""
    frames = x[: len(x) // 320 * 320].reshape(-1, 320) if len(x) >= 320 else x[None]
    return np.square(frames, dtype=np.float64).mean(1)


def active_rms(x: np.ndarray) -> float:
    """Return the level of the speech: over the frames within 30 dB of the loudest."""
    powers = frame_powers(x)
    return float(np.sqrt(powers[powers >= powers.max() * 1e-3].mean()))


def integrated_loudness(x: np.ndarray) -> float:
    """Return the gated loudness of ITU-R BS.1770-4 in LUFS, of shorter recordings than its 0.4 s over the whole.

    Below -70 LUFS it is minus infinity.
    """
    meter = pyloudnorm.Meter(SAMPLING_RATE, block_size=min(0.4, len(x) / SAMPLING_RATE))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(meter.integrated_loudness(np.asarray(x, np.float64)))
