"""serkit's own transforms: functions of a waveform ``(S,)`` at 16 kHz, a generator, and parameters.

A parameter that is a :data:`~serkit.training.augment.levels.Range` is drawn between its ends, for every utterance.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import python_stretch
import soxr
from scipy.signal import ShortTimeFFT, fftconvolve

from serkit.data.audio import SAMPLING_RATE
from serkit.training.augment.levels import Range, active_rms, frame_powers, integrated_loudness


def gain(x: np.ndarray, rng: np.random.Generator, decibels: Range = (-12, 12)) -> np.ndarray:
    """Change the level."""
    return x * 10 ** (rng.uniform(*decibels) / 20)


def speed(x: np.ndarray, rng: np.random.Generator, factor: Range = (0.85, 1.15)) -> np.ndarray:
    """Play faster or slower, pitch included (Ko et al. 2015, https://doi.org/10.21437/Interspeech.2015-711)."""
    return soxr.resample(x, SAMPLING_RATE, SAMPLING_RATE / rng.uniform(*factor))


def noise(x: np.ndarray, rng: np.random.Generator, snr: Range = (5, 30), slope: Range = (0, 2)) -> np.ndarray:
    """Add noise whose power falls as ``1 / f ** slope`` (0 white, 1 pink, 2 brown) at ``snr`` dB below the speech."""
    spectrum = np.fft.rfft(rng.standard_normal(len(x)))
    spectrum[0] = 0  # an offset is no noise, and the standard deviation below would not count it
    frequency = np.maximum(np.arange(len(spectrum)), 1)
    added = np.fft.irfft(spectrum / frequency ** (rng.uniform(*slope) / 2), len(x))
    added *= active_rms(x) / max(added.std(), 1e-12) * 10 ** (-rng.uniform(*snr) / 20)
    return x + added


def tilt(x: np.ndarray, rng: np.random.Generator, slope: Range = (-4, 4), bumps: float = 6) -> np.ndarray:
    """Colour the spectrum: ``slope`` dB per octave about 1 kHz and two bumps of up to ``bumps`` dB."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(x), 1 / SAMPLING_RATE), 60) / 1000)
    curve = rng.uniform(*slope) * octaves
    for _ in range(2):
        curve += rng.uniform(-bumps, bumps) * np.exp(-(((octaves - rng.uniform(-3, 3)) / 0.7) ** 2))
    return np.fft.irfft(np.fft.rfft(x) * 10 ** (np.clip(curve, -20, 20) / 20), len(x))


def lowpass(x: np.ndarray, rng: np.random.Generator, cutoff: Range = (3000, 8000)) -> np.ndarray:
    """Remove what lies above ``cutoff`` Hz, as telephones, codecs and old recordings do."""
    spectrum = np.fft.rfft(x)
    spectrum[np.fft.rfftfreq(len(x), 1 / SAMPLING_RATE) > rng.uniform(*cutoff)] = 0
    return np.fft.irfft(spectrum, len(x))


def reverb(x: np.ndarray, rng: np.random.Generator, seconds: Range = (0.15, 0.7), ratio: Range = (0, 12)) -> np.ndarray:
    """Put it into a room: decaying noise of ``seconds`` T60, at a direct-to-reverberant ``ratio`` in dB."""
    decay = rng.uniform(*seconds)
    time = np.arange(int(decay * SAMPLING_RATE)) / SAMPLING_RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    response[: int(0.002 * SAMPLING_RATE)] = 0
    response *= 10 ** (-rng.uniform(*ratio) / 20) / np.sqrt((response**2).sum() + 1e-12)
    response[0] = 1
    return fftconvolve(x, response)[: len(x)]


def trim(x: np.ndarray, rng: np.random.Generator, decibels: float = 35) -> np.ndarray:
    """Cut the ends that are ``decibels`` below the loudest 20 ms frame, but for 50 ms, before noise hides them."""
    powers = frame_powers(x)
    active = np.flatnonzero(powers > powers.max() * 10 ** (-decibels / 10))
    return x if not len(active) else x[max(0, active[0] * 320 - 800) : (active[-1] + 1) * 320 + 800]


def codec(
    x: np.ndarray, rng: np.random.Generator, kinds: Sequence[str] = ("opus", "mp3", "mulaw"), kilobits: Range = (8, 32)
) -> np.ndarray:
    """Pass it through a lossy codec: opus or mp3 at ``kilobits`` per second, or 8 kHz telephone mu-law."""
    kind = kinds[int(rng.integers(len(kinds)))]
    peak = max(float(np.abs(x).max()), 1e-6)
    if kind == "mulaw":
        narrow = np.clip(soxr.resample(x / peak, SAMPLING_RATE, 8000), -1, 1)
        coded = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
        wide = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
        decoded = soxr.resample(wide.astype(np.float32), 8000, SAMPLING_RATE)
    else:
        decoded = _transcode(x / peak * 0.9, kind, int(1000 * rng.uniform(*kilobits))) / 0.9
    return np.pad(decoded[: len(x)], (0, max(0, len(x) - len(decoded)))) * peak


def pitch(x: np.ndarray, rng: np.random.Generator, semitones: Range = (-3, 3)) -> np.ndarray:
    """Shift the pitch, formants with it, and keep the length (the spectral method of Signalsmith Stretch)."""
    stretch = python_stretch.Signalsmith.Stretch(0)
    stretch.preset(1, SAMPLING_RATE)
    stretch.setTransposeSemitones(rng.uniform(*semitones))
    return np.asarray(stretch.process(np.ascontiguousarray(x[None], np.float32)))[0].astype(np.float64)


def loudness(x: np.ndarray, rng: np.random.Generator, lufs: Range = (-31, -13)) -> np.ndarray:
    """Bring it to a loudness by ITU-R BS.1770-4, in LUFS; what is below -70 LUFS stays as it is."""
    wanted, found = rng.uniform(*lufs), integrated_loudness(x)
    return x if found == -np.inf else x * 10 ** ((wanted - found) / 20)


def time_mask(
    x: np.ndarray, rng: np.random.Generator, share: Range = (0.05, 0.15), count: int = 1, fade: float = 0.005
) -> np.ndarray:
    """Silence ``count`` stretches, each a ``share`` of the length, with ramps of ``fade`` seconds at its ends."""
    masked = x.copy()
    for _ in range(count):
        size = min(len(x), round(len(x) * rng.uniform(*share)))
        start = int(rng.integers(len(x) - size + 1))
        distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
        masked[start : start + size] *= 1 - np.minimum(1, distance / max(1, round(fade * SAMPLING_RATE)))
    return masked


def frequency_mask(x: np.ndarray, rng: np.random.Generator, width: Range = (0, 2000), count: int = 1) -> np.ndarray:
    """Remove ``count`` bands, each ``width`` Hz wide, from the short-time spectrum; phases and length stay.

    SpecAugment for waveforms (Park et al. 2019, https://arxiv.org/abs/1904.08779).
    """
    transform = ShortTimeFFT(np.hanning(513)[:512], 128, SAMPLING_RATE)
    spectrum = transform.stft(np.pad(x, (0, max(0, 512 - len(x)))))
    for _ in range(count):
        size = rng.uniform(*width)
        low = rng.uniform(0, max(0.0, SAMPLING_RATE / 2 - size))
        spectrum[(transform.f >= low) & (transform.f < low + size)] = 0
    return transform.istft(spectrum, k1=max(512, len(x)))[: len(x)]


def _transcode(x: np.ndarray, kind: str, bit_rate: int) -> np.ndarray:
    name, container = {"opus": ("libopus", "ogg"), "mp3": ("libmp3lame", "mp3")}[kind]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(name, rate=SAMPLING_RATE, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray((x * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = SAMPLING_RATE, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            output.mux(packet)
    buffer.seek(0)
    with av.open(buffer, "r") as source:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLING_RATE)
        frames = [*source.decode(audio=0), None]
        return np.concatenate([piece.to_ndarray().ravel() for frame in frames for piece in resampler.resample(frame)])
