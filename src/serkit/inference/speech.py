"""Where speech begins and ends in a recording, while it is still coming in.

The probabilities of Silero's network (:mod:`serkit.inference.silero`) become stretches of speech by the rules of
Silero's ``get_speech_timestamps``, one window of 32 ms at a time, with these differences:

- A silence lasts from the first window below the lower threshold until one reaches the upper, so windows between the
  two thresholds do not put off the end of speech for ever.
- Speech that has fallen silent when the recording ends, ends where it fell silent, not where the recording does.
- The network answers late, more so where speech ends than where it begins: edges are moved by a fixed time each. Where
  the surroundings of an edge are quiet enough to see it, it is put where the loudness rises or falls instead.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import soxr

from serkit.errors import AudioError, InputError
from serkit.inference.silero import RATE, WINDOW, Silero

BLOCK_SECONDS = 10
"""Longer pieces are worked off in blocks of this length, so memory stays bounded."""
FRAME = 128
"""Samples from one frame of loudness to the next, 8 ms; each looks at three times that."""
BEFORE, AFTER_START, AFTER_END = 0.25, 0.1, 0.2
"""Seconds around the network's edge in which loudness looks for a better one."""
QUIET = 4.0
"""The quietest eighth of these surroundings must be this many dB below the level that counts as speech."""


@dataclass(frozen=True)
class SpeechOptions:
    """What counts as speech; times are in seconds.

    Speech begins with a window whose probability reaches ``threshold`` and ends with one more than ``hysteresis``
    below, if none reaches ``threshold`` again within ``min_silence``. Speech of ``min_speech`` or less is dropped. Its
    edges are moved by ``start_shift`` and ``end_shift``, negative for earlier, or, where it is quiet enough, to where
    the loudness passes ``level`` dB below the peak of the stretch (None: never). Raises ``InputError`` out of range.

    ``SpeechOptions(min_silence=0.1, start_shift=-0.03, end_shift=0.03, level=None)`` are Silero's defaults.
    """

    threshold: float = 0.5
    hysteresis: float = 0.15
    min_speech: float = 0.25
    min_silence: float = 0.3
    start_shift: float = -0.07
    end_shift: float = -0.075
    level: float | None = 33.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"speech: threshold is a probability above 0, got {self.threshold}")
        for name in ("hysteresis", "min_speech", "min_silence"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"speech: {name} is a number from 0 on, got {getattr(self, name)}")
        if not -1 <= self.start_shift <= 0 or not -1 <= self.end_shift <= 1:
            raise InputError(
                "speech: start_shift is between -1 and 0 s and end_shift between -1 and 1 s, "
                f"got {self.start_shift} and {self.end_shift}"
            )
        if self.end_shift - self.start_shift > self.min_silence:
            raise InputError(
                f"speech: with start_shift {self.start_shift:g} s and end_shift {self.end_shift:g} s stretches would "
                f"overlap: min_silence must be at least {self.end_shift - self.start_shift:g} s"
            )
        if self.level is not None and not 0 < self.level < math.inf:
            raise InputError(f"speech: level is a positive number of dB, or None, got {self.level}")


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
    nothing. What is ``known`` is at most ``BEFORE + min_speech + min_silence + 0.1`` seconds behind at 16 kHz, and up
    to 0.12 s more at other rates, which are resampled. A detector serves one recording and one thread at a time;
    several work side by side. Raises ``InputError`` for a rate outside 1 kHz to 1 MHz.
    """

    def __init__(self, sampling_rate: int = RATE, options: SpeechOptions = SpeechOptions()) -> None:
        if not 1000 <= sampling_rate <= 1_000_000 or sampling_rate != int(sampling_rate):
            raise InputError(f"speech: a sampling rate is a whole number from 1000 to 1000000 Hz, got {sampling_rate}")
        self.sampling_rate = int(sampling_rate)
        self.options = options
        self._resampler = None
        if self.sampling_rate != RATE:
            self._resampler = soxr.ResampleStream(self.sampling_rate, RATE, 1, "float32", "HQ")
        self._silero = Silero()
        self._rules = _Rules(options)
        self._rest = np.zeros(0, np.float32)
        self._pushed = 0
        self._known = 0
        self._finished = False

    @property
    def known(self) -> int:
        """Everything before this sample is decided: until there, what the last edge says holds."""
        return self._known

    def push(self, samples: np.ndarray) -> list[Edge]:
        """Hear the next ``samples (S,)``, floats in [-1, 1], and return the edges that are decided by now, in order.

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
        self._known = max(self._known, min(self._position(self._rules.known), self._pushed))
        return found

    def finish(self) -> list[Edge]:
        """End the recording, and speech that is going on with it; return the edges that were left to decide."""
        if self._finished:
            return []
        self._finished, found = True, []
        if self._resampler is not None and self._pushed:
            found = self._hear(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        length = self._rules.heard + len(self._rest)
        if len(self._rest):
            found += self._hear(np.zeros(WINDOW - len(self._rest), np.float32))
        found += self._edges(self._rules.finish(length))
        self._known = self._pushed
        return found

    def _hear(self, samples: np.ndarray) -> list[Edge]:
        samples = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        found, used = [], len(samples) // WINDOW * WINDOW
        for window in samples[:used].reshape(-1, WINDOW):
            found += self._edges(self._rules.push(window, self._silero.push(window)))
        self._rest = samples[used:].copy()
        return found

    def _edges(self, found: list[tuple[int, bool]]) -> list[Edge]:
        return [Edge(min(self._position(position), self._pushed), speech) for position, speech in found]

    def _position(self, position: int) -> int:
        return (position * self.sampling_rate + RATE // 2) // RATE


class _Rules:
    """Makes stretches of speech of the probabilities of windows; positions count samples at 16 kHz."""

    def __init__(self, options: SpeechOptions) -> None:
        self.options = options
        self.release = max(options.threshold - options.hysteresis, 0.01)
        self.shifts = int(options.start_shift * RATE), int(options.end_shift * RATE)
        looks = 0 if options.level is None else round(BEFORE * RATE)
        self.reaches = max(looks, -self.shifts[0]), max(looks, -self.shifts[1]) if looks else -self.shifts[1]
        longest = BEFORE + options.min_speech + options.min_silence
        self.loudness = _Loudness(round(longest * RATE) + 4 * WINDOW)
        self.heard = 0
        self.start: int | None = None
        """Where the present speech begins for the network."""
        self.silent: int | None = None
        """Where it fell silent, if it has."""
        self.told = False
        """Whether its beginning has been returned."""
        self.edge = 0
        """Where the last edge is."""

    @property
    def known(self) -> int:
        """Everything before this sample is decided."""
        if self.start is not None and self.told:
            earliest = (self.heard if self.silent is None else self.silent) - self.reaches[1]
        else:
            earliest = (self.heard if self.start is None else self.start) - self.reaches[0]
        return max(earliest, self.edge)

    def push(self, window: np.ndarray, probability: float) -> list[tuple[int, bool]]:
        """Judge the next window; return positions where speech begins (True) and ends (False)."""
        here = self.heard
        self.heard += WINDOW
        if probability >= self.options.threshold:
            self.silent = None
            if self.start is None:
                self.start = here
                self.loudness.begin()
        elif self.start is not None and self.silent is None and probability < self.release:
            self.silent = here
        self.loudness.push(window)
        found = self._begin(self.heard)
        if self.silent is not None and here - self.silent >= self.options.min_silence * RATE:
            found += self._end(self.silent, self.heard)
        return found

    def finish(self, length: int) -> list[tuple[int, bool]]:
        """End the recording after ``length`` samples; the last window may have been padded beyond."""
        if self.start is None:
            return []
        found = self._begin(length)
        if self.silent is not None and self.silent < length:
            return found + self._end(self.silent, length)
        return [*found, (length, False)] if self.told else []

    def _begin(self, until: int) -> list[tuple[int, bool]]:
        """Return the beginning of speech once it is certain that it lasts long enough."""
        if self.start is None or self.told:
            return []
        sure = until if self.silent is None else min(self.silent, until)
        if sure - self.start <= self.options.min_speech * RATE:
            return []
        self.told = True
        after = min(self.start + round(AFTER_START * RATE), until)
        rise = self._passing(self.start, after, first=True)
        position = self.start + self.shifts[0] if rise is None else rise
        self.edge = max(position, self.edge)
        return [(self.edge, True)]

    def _end(self, silent: int, until: int) -> list[tuple[int, bool]]:
        """Return the end of the speech that fell ``silent`` there, if its beginning was worth telling."""
        told, self.told, self.start, self.silent = self.told, False, None, None
        if not told:
            return []
        fall = self._passing(silent, min(silent + round(AFTER_END * RATE), until), first=False)
        position = silent + self.shifts[1] if fall is None else fall
        self.edge = min(max(position, self.edge + 1), until)
        return [(self.edge, False)]

    def _passing(self, around: int, after: int, first: bool) -> int | None:
        """Return where loudness first rises or last falls between ``BEFORE`` and ``after``; None: it cannot be seen."""
        if self.options.level is None:
            return None
        before = max(around - round(BEFORE * RATE), self.edge)
        return self.loudness.passing(before, after, self.loudness.peak - self.options.level, first)


class _Loudness:
    """Remembers how loud the last ``samples`` were, in frames of :data:`FRAME`, and the peak of the present speech."""

    def __init__(self, samples: int) -> None:
        self._powers: deque[float] = deque(maxlen=-(-samples // FRAME))
        self._frames = 0
        self._highest = 0.0

    @property
    def peak(self) -> float:
        """The loudest frame since :meth:`begin`, in dB full scale."""
        return 10 * math.log10(self._highest + 1e-12)

    def begin(self) -> None:
        """Let speech begin with the next window."""
        self._highest = 0.0

    def push(self, window: np.ndarray) -> None:
        """Hear the next window."""
        powers = np.square(window.reshape(-1, FRAME)).mean(axis=1).tolist()
        self._frames += len(powers)
        self._powers.extend(powers)
        recent = list(self._powers)[-len(powers) - 2 :] if self._frames > len(powers) else powers
        smooth = [sum(recent[i : i + 3]) / 3 for i in range(len(recent) - 2)]
        self._highest = max(self._highest, *smooth)

    def passing(self, before: int, after: int, level: float, first: bool) -> int | None:
        """Return the middle of the first or last frame above ``level`` dB between the samples ``before`` and ``after``.

        It counts when its two neighbours inwards are above as well, and something quiet lies beyond. None: there is no
        such frame, or these surroundings are not quiet enough.
        """
        oldest = self._frames - len(self._powers)
        low, high = max(-(-before // FRAME), oldest), min(after // FRAME, self._frames)
        if high - low < 5:
            return None
        powers = np.array([self._powers[frame - oldest] for frame in range(low, high)])
        levels = 10 * np.log10(np.convolve(powers, np.full(3, 1 / 3), "valid") + 1e-12)
        if np.sort(levels)[len(levels) // 8] > level - QUIET:
            return None
        loud = levels > level
        runs = np.flatnonzero(loud[:-2] & loud[1:-1] & loud[2:])
        if not len(runs):
            return None
        frame = int(runs[0] if first else runs[-1] + 2)
        if frame == (0 if first else len(loud) - 1):
            return None
        return (low + 1 + frame) * FRAME + FRAME // 2


def _checked(samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise InputError(f"speech: samples are mono, of shape (S,), got {samples.shape}")
    if samples.dtype.kind != "f":
        raise InputError(f"speech: samples are floats in [-1, 1], got {samples.dtype}")
    if not np.isfinite(samples).all():
        raise AudioError("speech: the recording holds NaN or infinite samples")
    return samples.astype(np.float32, copy=False)
