"""The front end of MAT and MNT written out with librosa and numpy, all frames in double precision, then every 16th."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

MODES = {"reflect": "reflect", "zeros": "constant"}


def librosa() -> Any:
    return pytest.importorskip("librosa", reason="the reference implementation is librosa")


def edges_of(wave: np.ndarray, padding: str = "reflect", top_db: float = 60.0) -> tuple[int, int]:
    """Where the part of a recording begins and ends that ``librosa.effects.trim`` keeps, under the old padding too."""
    power = librosa().feature.rms(y=wave.astype(np.float64), pad_mode=MODES[padding])[0] ** 2
    decibels = 10 * np.log10(np.maximum(power, 1e-10) / max(power.max(), 1e-10))
    loud = np.flatnonzero(decibels > -top_db)
    return int(loud[0]) * 512, min(len(wave), int(loud[-1] + 1) * 512)


def mel_decibels(
    wave: np.ndarray, rate: int = 22_050, reduction: int = 16, padding: str = "reflect", top_db: float = 60.0
) -> np.ndarray:
    """Frames ``(T, 80)`` of a recording ``(S,)`` at ``rate``, float64."""
    wave = wave.astype(np.float64)
    if top_db:
        start, end = edges_of(wave, padding, top_db)
        wave = wave[start:end]
    sharp = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
    around = np.pad(sharp, 1024, mode=MODES[padding])
    step, window = int(rate * 0.0125), int(rate * 0.05)
    magnitude = np.abs(librosa().stft(around, n_fft=2048, hop_length=step, win_length=window, center=False))
    bands = librosa().filters.mel(sr=rate, n_fft=2048, n_mels=80, dtype=np.float64) @ magnitude
    decibels = 20 * np.log10(np.maximum(1e-5, bands))
    return np.clip((decibels - 20 + 100) / 100, 1e-8, 1).T[::reduction]
