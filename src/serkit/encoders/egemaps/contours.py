"""The 25 low-level descriptors of eGeMAPSv02, raw and smoothed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serkit.encoders.egemaps.formants import formants
from serkit.encoders.egemaps.frames import Frames, cut_frames, smooth, smooth_nonzero
from serkit.encoders.egemaps.harmonics import harmonic_descriptors
from serkit.encoders.egemaps.periods import jitter_shimmer
from serkit.encoders.egemaps.pitch import pitch
from serkit.encoders.egemaps.spectral import spectral_descriptors

SPECTRAL = (
    "alphaRatio",
    "hammarbergIndex",
    "slope0-500",
    "slope500-1500",
    "spectralFlux",
    *(f"mfcc{i}" for i in (1, 2, 3, 4)),
)
VOICE = (
    "jitterLocal", "shimmerLocaldB", "HNRdBACF", "logRelF0-H1-H2", "logRelF0-H1-A3",
    *(f"F{number}{what}" for number in (1, 2, 3) for what in ("frequency", "bandwidth", "amplitudeLogRelF0")),
)  # fmt: skip
PITCH = "F0semitoneFrom27.5Hz"

LLD_NAMES: tuple[str, ...] = (
    "Loudness_sma3",
    *(f"{name}_sma3" for name in SPECTRAL),
    f"{PITCH}_sma3nz",
    *(f"{name}_sma3nz" for name in VOICE),
)
"""Names of the low-level descriptors, in openSMILE's order."""


@dataclass(frozen=True)
class Contours:
    """Raw descriptors, one row per frame.

    ``loudness (T + 4, 1)``, ``spectral (T + 4, 9)``, ``pitch (T, 1)`` in semitones over 27.5 Hz (0: unvoiced) and
    ``voice (T, 14)``; the mean ``power`` of the waveform's short frames; and how many of the ``T`` frames are
    ``decided`` before the recording's end is known.
    """

    loudness: np.ndarray
    spectral: np.ndarray
    pitch: np.ndarray
    voice: np.ndarray
    power: float
    decided: int

    @property
    def voiced(self) -> np.ndarray:
        """True ``(T, 1)`` where a frame has a pitch."""
        return self.pitch > 0


def trace(waveform: np.ndarray, sampling_rate: int, only_voiced_formants: bool) -> Contours:
    """Compute every raw contour of ``waveform (S,)``; formants may be left out (0) where there is no pitch."""
    frames = cut_frames(waveform, sampling_rate)
    spectral = spectral_descriptors(frames)
    hertz, decided = pitch(frames)
    chosen = np.flatnonzero(hertz) if only_voiced_formants else np.arange(frames.count)
    resonances = np.zeros((frames.count, 6))
    resonances[chosen] = formants(frames.short_spectrum[chosen])
    return Contours(
        loudness=spectral[:, :1],
        spectral=spectral[:, 1:],
        pitch=np.where(hertz > 0, 12 * np.log2(np.where(hertz > 0, hertz, 27.5) / 27.5), 0.0)[:, None],
        voice=_voice(frames, hertz, resonances),
        power=float((frames.short**2).mean()),
        decided=decided,
    )


def _voice(frames: Frames, hertz: np.ndarray, resonances: np.ndarray) -> np.ndarray:
    """Join the descriptors that need a pitch, formant by formant: frequency, bandwidth, amplitude."""
    harmonic = harmonic_descriptors(frames.long_magnitude, hertz, resonances)
    by_formant = np.concatenate([resonances.reshape(-1, 3, 2), harmonic[:, 3:, None]], 2).reshape(-1, 9)
    return np.concatenate([jitter_shimmer(frames.samples, hertz), harmonic[:, :3], by_formant], 1)


def low_level_descriptors(waveform: np.ndarray, sampling_rate: int = 16_000) -> np.ndarray:
    """Return eGeMAPSv02's 25 low-level descriptors of ``waveform``, float32 ``(T, 25)``, 100 frames per second.

    ``waveform`` is ``(S,)`` or ``(S, channels)`` in [-1, 1] at ``sampling_rate`` (Hz); channels are averaged, and any
    rate is brought to 16 kHz first, so that values do not depend on it. ``T`` is ``(S - 960) // 160 + 2`` of the
    samples at 16 kHz. Columns are :data:`LLD_NAMES`, smoothed over three frames; what needs a pitch is 0 (levels of
    formants: -201 dB) in unvoiced frames. Units: loudness without one, dB, dB/Hz, semitones over 27.5 Hz, Hz, share of
    the period (jitter). Raises :class:`~serkit.errors.AudioError` for less than 60 ms.

    Eyben et al. 2016, https://doi.org/10.1109/TAFFC.2015.2457417

    >>> low_level_descriptors(np.sin(np.arange(16_000) * 0.06)).shape
    (96, 25)
    """
    contours = trace(waveform, sampling_rate, only_voiced_formants=False)
    short = smooth(np.concatenate([contours.loudness, contours.spectral], 1))
    long = smooth_nonzero(np.concatenate([contours.pitch, contours.voice], 1), contours.decided)
    return np.concatenate([short[: len(long)], long], 1).astype(np.float32)
