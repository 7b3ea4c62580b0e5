"""Changes to a waveform that leave the expressed emotion alone: a list of transforms, as data, seeded per utterance.

>>> chain = Augmentation([{"name": "gain", "decibels": [-6, 6]}])
>>> chain(np.ones(4, np.float32), seed="1/clip").shape
(4,)
"""

from __future__ import annotations

import inspect
import io
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import av
import numpy as np
import soxr
from scipy.signal import fftconvolve

from serkit.data.audio import SAMPLING_RATE
from serkit.errors import InputError, nearest

Range = tuple[float, float]


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
    added *= _active_rms(x) / max(added.std(), 1e-12) * 10 ** (-rng.uniform(*snr) / 20)
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
    powers = _frame_powers(x)
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


TRANSFORMS: dict[str, Callable[..., np.ndarray]] = {
    transform.__name__: transform for transform in (trim, gain, speed, noise, tilt, lowpass, reverb, codec)
}


REVISION = 1
"""Raised when a transform's code changes what it does: then cached copies are computed again."""


class Augmentation:
    """A chain of transforms; each entry has a ``name``, a ``probability`` (1 when left out) and its own parameters.

    The result depends on the waveform and on ``seed`` alone. Raises ``InputError`` for unknown names and parameters.
    """

    def __init__(self, chain: Sequence[dict[str, Any]]) -> None:
        self.chain = []
        for entry in chain:
            options = dict(entry)
            name, probability = options.pop("name", ""), options.pop("probability", 1.0)
            if name not in TRANSFORMS:
                raise InputError(f"augment: no transform named {name!r}{nearest(name, TRANSFORMS)}")
            known = list(inspect.signature(TRANSFORMS[name]).parameters)[2:]
            for key in options:
                if key not in known:
                    raise InputError(f"augment: {name} has no parameter {key!r}{nearest(key, known)}")
            self.chain.append((name, probability, options))

    def __call__(self, waveform: np.ndarray, seed: str) -> np.ndarray:
        """Return the changed waveform ``(S,)``, float32."""
        rng = np.random.default_rng(zlib.crc32(f"{seed}|{self.description()}".encode()))
        x = waveform.astype(np.float64)
        for name, probability, options in self.chain:
            if rng.random() < probability:
                x = TRANSFORMS[name](x, rng, **options)
        return np.ascontiguousarray(x, dtype=np.float32)

    def description(self) -> str:
        """Return the chain as canonical JSON: part of the feature cache's keys."""
        return json.dumps([REVISION, self.chain], sort_keys=True)


def _frame_powers(x: np.ndarray) -> np.ndarray:
    """Return the mean square of every whole 20 ms frame; of the whole when it is shorter than one."""
    frames = x[: len(x) // 320 * 320].reshape(-1, 320) if len(x) >= 320 else x[None]
    return np.square(frames, dtype=np.float64).mean(1)


def _active_rms(x: np.ndarray) -> float:
    """Return the level of the speech: over the frames within 30 dB of the loudest."""
    powers = _frame_powers(x)
    return float(np.sqrt(powers[powers >= powers.max() * 1e-3].mean()))


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
