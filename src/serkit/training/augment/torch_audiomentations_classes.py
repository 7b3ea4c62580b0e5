"""Classes of torch-audiomentations by name, carried out without it: it needs torchaudio, which serkit does not.

Names, parameters, defaults (``p`` is 0.5) and meanings are those of its version 0.12; the random numbers are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.signal import fftconvolve, firwin

from serkit.data.audio import SAMPLING_RATE
from serkit.errors import InputError, nearest
from serkit.training.augment.binding import Change, bind
from serkit.training.augment.levels import rms
from serkit.training.augment.recorded import Folder, draw_background, draw_response, list_recordings
from serkit.training.augment.transforms import gain, pitch

IGNORED = ("mode", "p_mode", "output_type", "target_rate")
"""Parameters that are about batches, channels, targets and types of results: here is one waveform."""

UNSUPPORTED = {
    "Compose": "a chain is one",
    "OneOf": "use audiomentations.OneOf",
    "SomeOf": "use audiomentations.SomeOf",
    "ShuffleChannels": "there is one channel",
    "Mix": "it mixes utterances and their labels",
}


def create(kind: str, options: Mapping[str, Any]) -> Change:
    """Return what the class ``kind`` does with its parameters; raises ``InputError`` where there is no equivalent."""
    name = f"torch_audiomentations.{kind}"
    if kind in UNSUPPORTED:
        raise InputError(f"augment: {name} has no equivalent here: {UNSUPPORTED[kind]}")
    if kind not in CLASSES:
        known = [f"torch_audiomentations.{each}" for each in CLASSES]
        raise InputError(f"augment: no transform named {name!r}{nearest(name, known)}")
    own = dict(options)
    for key in IGNORED:
        own.pop(key, None)
    p, rate = own.pop("p", 0.5), own.pop("sample_rate", None)
    if rate not in (None, SAMPLING_RATE):
        raise InputError(f"augment: {name}: sample_rate is {rate!r}: recordings are at 16000 Hz here")
    if not isinstance(p, int | float) or not 0 <= p <= 1:
        raise InputError(f"augment: {name}: p must be between 0 and 1, not {p!r}")
    for key in own:
        lowest, highest = own.get(key), own.get(f"max_{key.removeprefix('min_')}")
        if key.startswith("min_") and highest is not None and lowest > highest:
            raise InputError(f"augment: {name}: {key} must not be above max_{key.removeprefix('min_')}")
    return Sometimes(p, bind(name, CLASSES[kind], own, ("p", "sample_rate", *IGNORED)))


class Sometimes:
    """A change that is made with probability ``p``."""

    def __init__(self, p: float, change: Change) -> None:
        self.p, self.change = p, change

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return ``x``, changed or not."""
        return self.change(x, rng) if rng.random() < self.p else x


class AddBackgroundNoise:
    """Recorded noise; the ratio is to the root mean square of the whole recording, pauses included."""

    def __init__(self, background_paths: Folder, min_snr_in_db: float = 3.0, max_snr_in_db: float = 30.0) -> None:
        self.files, self.snr = list_recordings(background_paths), (min_snr_in_db, max_snr_in_db)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the noisy waveform ``(S,)``."""
        return _add(x, draw_background(self.files, len(x), rng), rng.uniform(*self.snr))


class ApplyImpulseResponse:
    """Convolve with a recorded response as it is, its delay included unless it is compensated for."""

    def __init__(
        self,
        ir_paths: Folder,
        convolve_mode: Literal["full"] = "full",
        compensate_for_propagation_delay: bool = False,
    ) -> None:
        if convolve_mode != "full":
            raise ValueError(f"convolve_mode {convolve_mode!r} has no equivalent here: use 'full'")
        self.files, self.compensate = list_recordings(ir_paths), compensate_for_propagation_delay

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the waveform ``(S,)`` in the room."""
        response = draw_response(self.files, rng)
        start = int(np.abs(response).argmax()) if self.compensate else 0
        return fftconvolve(x, response)[start : start + len(x)]


def add_colored_noise(
    x: np.ndarray,
    rng: np.random.Generator,
    min_snr_in_db: float = 3.0,
    max_snr_in_db: float = 30.0,
    min_f_decay: float = -2.0,
    max_f_decay: float = 2.0,
) -> np.ndarray:
    """Noise whose amplitudes, not powers, fall as ``1 / (1 + 0.0111 f) ** f_decay``, f in Hz, as there.

    So 1 falls by 6 dB an octave far above 90 Hz and 2 by 12. There one second of noise is repeated, here it is not.
    """
    spectrum = np.fft.rfft(rng.standard_normal(len(x)))
    ramp = np.linspace(1, np.sqrt(SAMPLING_RATE / 2), len(spectrum))
    shaped = np.fft.irfft(spectrum / ramp ** rng.uniform(min_f_decay, max_f_decay), len(x))
    return _add(x, shaped / max(rms(shaped), 1e-12), rng.uniform(min_snr_in_db, max_snr_in_db))


def change_gain(
    x: np.ndarray, rng: np.random.Generator, min_gain_in_db: float = -18.0, max_gain_in_db: float = 6.0
) -> np.ndarray:
    """Change the level."""
    return gain(x, rng, (min_gain_in_db, max_gain_in_db))


def shift_pitch(
    x: np.ndarray,
    rng: np.random.Generator,
    min_transpose_semitones: float = -4.0,
    max_transpose_semitones: float = 4.0,
) -> np.ndarray:
    """Shift the pitch by any amount in the range, where there it is one of a few fast ratios."""
    return pitch(x, rng, (min_transpose_semitones, max_transpose_semitones))


def normalise_peak(
    x: np.ndarray, rng: np.random.Generator, apply_to: Literal["all", "only_too_loud_sounds"] = "all"
) -> np.ndarray:
    """Bring the largest sample to one."""
    if apply_to not in ("all", "only_too_loud_sounds"):
        raise InputError(f"augment: torch_audiomentations.PeakNormalization: apply_to cannot be {apply_to!r}")
    peak = float(np.abs(x).max())
    return x / peak if peak > (0 if apply_to == "all" else 1) else x


def invert_polarity(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn every sample's sign."""
    return -x


def invert_time(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play it backwards."""
    return x[::-1]


def keep(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change nothing."""
    return x


def shift_time(
    x: np.ndarray,
    rng: np.random.Generator,
    min_shift: float = -0.5,
    max_shift: float = 0.5,
    shift_unit: Literal["fraction", "samples", "seconds"] = "fraction",
    rollover: bool = True,
) -> np.ndarray:
    """Shift in time; what leaves at one end comes in at the other, or with ``rollover`` false silence does."""
    units = {"fraction": len(x), "samples": 1, "seconds": SAMPLING_RATE}
    if shift_unit not in units:
        raise InputError(f"augment: torch_audiomentations.Shift: shift_unit cannot be {shift_unit!r}")
    lowest, highest = (round(end * units[shift_unit]) for end in (min_shift, max_shift))
    places = int(rng.integers(lowest, highest + 1))
    shifted = np.roll(x, places)
    if not rollover and places:
        shifted[slice(0, places) if places > 0 else slice(places, None)] = 0
    return shifted


def pass_low(
    x: np.ndarray, rng: np.random.Generator, min_cutoff_freq: float = 150.0, max_cutoff_freq: float = 7500.0
) -> np.ndarray:
    """Remove what lies above a cutoff, drawn evenly on the mel scale as all frequencies here."""
    return _lowpass(x, _draw_frequency(rng, min_cutoff_freq, max_cutoff_freq))


def pass_high(
    x: np.ndarray, rng: np.random.Generator, min_cutoff_freq: float = 20.0, max_cutoff_freq: float = 2400.0
) -> np.ndarray:
    """Remove what lies below a cutoff."""
    return x - pass_low(x, rng, min_cutoff_freq, max_cutoff_freq)


def pass_band(
    x: np.ndarray,
    rng: np.random.Generator,
    min_center_frequency: float = 200,
    max_center_frequency: float = 4000,
    min_bandwidth_fraction: float = 0.5,
    max_bandwidth_fraction: float = 1.99,
) -> np.ndarray:
    """Keep a band; its width is a fraction of its centre."""
    centre = _draw_frequency(rng, min_center_frequency, max_center_frequency)
    half = centre * rng.uniform(min_bandwidth_fraction, max_bandwidth_fraction) / 2
    low = max(centre - half, 1.0)
    return _lowpass(x, centre + half, low) - _lowpass(x, low)


def stop_band(
    x: np.ndarray,
    rng: np.random.Generator,
    min_center_frequency: float = 200,
    max_center_frequency: float = 4000,
    min_bandwidth_fraction: float = 0.5,
    max_bandwidth_fraction: float = 1.99,
) -> np.ndarray:
    """Remove a band; its width is a fraction of its centre."""
    band = (min_center_frequency, max_center_frequency, min_bandwidth_fraction, max_bandwidth_fraction)
    return x - pass_band(x, rng, *band)


def splice_out(
    x: np.ndarray, rng: np.random.Generator, num_time_intervals: int = 8, max_width: float = 400
) -> np.ndarray:
    """Fade ``num_time_intervals`` stretches of up to ``max_width`` ms to half their length; silence fills the end.

    Jain et al. 2021, https://arxiv.org/abs/2110.00046. Stretches that do not fit into what is left are not taken.
    """
    kept = x
    for size in rng.integers(0, max(1, round(max_width * SAMPLING_RATE / 1000)), num_time_intervals):
        half = (int(size) + 1) // 2
        if half == 0 or 2 * half >= len(kept):
            continue
        start = int(rng.integers(len(kept) - 2 * half))
        rising = np.sin(np.pi / 2 * np.arange(half) / half) ** 2
        faded = kept[start : start + half] * (1 - rising) + kept[start + half : start + 2 * half] * rising
        kept = np.concatenate([kept[:start], faded, kept[start + 2 * half :]])
    return np.pad(kept, (0, len(x) - len(kept)))


CLASSES: dict[str, Callable[..., Any]] = {
    "AddBackgroundNoise": AddBackgroundNoise,
    "AddColoredNoise": add_colored_noise,
    "ApplyImpulseResponse": ApplyImpulseResponse,
    "BandPassFilter": pass_band,
    "BandStopFilter": stop_band,
    "Gain": change_gain,
    "HighPassFilter": pass_high,
    "Identity": keep,
    "LowPassFilter": pass_low,
    "PeakNormalization": normalise_peak,
    "PitchShift": shift_pitch,
    "PolarityInversion": invert_polarity,
    "Shift": shift_time,
    "SpliceOut": splice_out,
    "TimeInversion": invert_time,
}


def _add(x: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    return x + noise * rms(x) * 10 ** (-decibels / 20)


def _draw_frequency(rng: np.random.Generator, lowest: float, highest: float) -> float:
    if lowest == highest:
        return float(lowest)
    mels = rng.uniform(*(2595 * np.log10(1 + frequency / 700) for frequency in (lowest, highest)))
    return float(700 * (10 ** (mels / 2595) - 1))


def _lowpass(x: np.ndarray, cutoff: float, sharpness: float | None = None) -> np.ndarray:
    """Filter with a sinc of eight zeros a side at the cutoff (or at ``sharpness`` Hz) under a Hann window."""
    if cutoff >= SAMPLING_RATE / 2:
        return x
    half = int(4 * SAMPLING_RATE / (sharpness or cutoff))
    kernel = firwin(2 * half + 1, cutoff, window="hann", fs=SAMPLING_RATE)
    return fftconvolve(np.pad(x, half, mode="edge"), kernel, mode="valid")
