"""Where a recording is judged: stretches of speech, and the overlapping windows of each, while the audio comes in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from serkit.data.turns import Turn
from serkit.errors import InputError
from serkit.inference.bundle import Card
from serkit.inference.speech import Edge, SpeechDetector, SpeechOptions

WINDOW, HOP = 2.0, 1.0
"""Seconds; see docs/timeline.md for what they were chosen on."""


@dataclass(frozen=True)
class TimelineOptions:
    """How emotion is followed over time; in seconds.

    Each utterance, a stretch of speech, is judged in windows of ``window`` that begin ``hop`` apart, the last one ends
    with it, and a shorter utterance is one window. Left out, they are 2 s and 1 s, or of that proportion where the
    model judges less than 2 s. Without ``speech`` the whole recording counts as one utterance.
    """

    window: float | None = None
    hop: float | None = None
    speech: bool = True
    detection: SpeechOptions = field(default_factory=SpeechOptions)

    def sizes(self, card: Card) -> tuple[int, int]:
        """Return window and hop in samples; raises ``InputError`` unless a model with ``card`` judges such windows."""
        if not card.hears:
            raise InputError(
                f"{card.name}: reads words alone, and a timeline is of recordings: take a model that hears"
            )
        most = card.judged_seconds or card.window_seconds
        window = min(WINDOW, most) if self.window is None else self.window
        if not card.min_seconds <= window <= most:
            raise InputError(
                f"window: {card.name} judges {card.min_seconds:g} to {most:g} s at a time, not {window:g} s"
            )
        hop = window * HOP / WINDOW if self.hop is None else self.hop
        if not 0.02 <= hop <= window:
            raise InputError(f"hop: is at least 0.02 s and at most the window of {window:g} s, not {hop:g} s")
        return round(window * card.sampling_rate), round(hop * card.sampling_rate)


Kind = Literal["start", "window", "glimpse", "end"]


@dataclass(frozen=True)
class Cut:
    """A step through a recording: samples ``start`` to ``end`` of utterance number ``utterance``.

    "start" and "end" tell where an utterance begins (``end`` is ``start``) and where it was; a "window" is there to be
    judged, its samples in ``waveform``; so is a "glimpse", which only a live stream has: what was heard so far of an
    utterance that does not fill a window yet.
    """

    kind: Kind
    utterance: int
    start: int
    end: int
    speaker: str | None = None
    waveform: np.ndarray | None = field(default=None, repr=False)


class Detector(Protocol):
    """What tells speech from the rest; see :class:`~serkit.inference.speech.SpeechDetector`."""

    @property
    def known(self) -> int: ...  # noqa: D102

    def push(self, samples: np.ndarray) -> list[Edge]: ...  # noqa: D102

    def finish(self) -> list[Edge]: ...  # noqa: D102


class Everything:
    """Takes all for speech."""

    def __init__(self) -> None:
        self.known = 0

    def push(self, samples: np.ndarray) -> list[Edge]:
        """Return the one edge, at the beginning."""
        first, self.known = self.known == 0 and len(samples) > 0, self.known + len(samples)
        return [Edge(0, True)] if first else []

    def finish(self) -> list[Edge]:
        """Return the edge at the end."""
        return [Edge(self.known, False)] if self.known else []


@dataclass
class Track:
    """What one speaker says, or everyone: ``spans`` in samples where they may speak, and the stretch that is open.

    That begins at ``start``, has been heard to ``heard``, its next window begins at ``next``, the next glimpse ends at
    ``glimpse``, and ``utterance`` is its number once it is long enough for the model.
    """

    speaker: str | None
    spans: list[tuple[int, float]]
    open: bool = False
    utterance: int | None = None
    start: int = 0
    heard: int = 0
    next: int = 0
    glimpse: int = 0

    def inside(self, position: int) -> bool:
        """Tell whether one of the spans covers ``position``; positions only grow."""
        while self.spans and self.spans[0][1] <= position:
            self.spans.pop(0)
        return bool(self.spans) and self.spans[0][0] <= position

    def change(self, position: int, least: int) -> float:
        """Return where after ``position`` something begins or ends, or an utterance gets its number."""
        marks = [*(self.spans[0] if self.spans else ()), self.start + least if self.open else 0]
        return min((mark for mark in marks if mark > position), default=math.inf)


class Cutter:
    """Cuts a recording that comes in chunks at the card's rate; what it gives does not depend on the chunks.

    With ``turns`` each speaker is a track of its own, and what nobody's turn covers is not judged; with speech
    detection, only the speech of each turn is. ``live`` adds glimpses. An utterance too short for the model is left
    out. Samples are kept from the beginning of the last window on.
    """

    def __init__(
        self, card: Card, options: TimelineOptions, turns: Sequence[Turn] | None = None, live: bool = False
    ) -> None:
        rate = card.sampling_rate
        self.window, self.hop = options.sizes(card)
        self.detector: Detector = SpeechDetector(rate, options.detection) if options.speech else Everything()
        self.least, self.live = math.ceil(card.min_seconds * rate), live
        self.tracks = [Track(None, [(0, math.inf)])] if turns is None else list_tracks(turns, rate)
        self.buffer, self.origin = np.zeros(0, np.float32), 0
        self.known, self.speaking, self.count = 0, False, 0

    @property
    def samples(self) -> int:
        """How many samples have come."""
        return self.origin + len(self.buffer)

    def push(self, samples: np.ndarray) -> list[Cut]:
        """Take ``samples (S,)`` float32 and return the cuts that are sure by now."""
        self.buffer = np.concatenate([self.buffer, samples])
        edges = self.detector.push(samples)
        cuts = [cut for edge in edges for cut in (*self._go(edge.position), *self._turn(edge.speech))]
        cuts += self._go(self.detector.known)
        self._forget()
        return cuts

    def finish(self) -> list[Cut]:
        """Return the last cuts: the recording is over."""
        edges = self.detector.finish()
        cuts = [cut for edge in edges for cut in (*self._go(edge.position), *self._turn(edge.speech))]
        return [*cuts, *self._go(self.samples), *self._turn(False)]

    def _turn(self, speaking: bool) -> list[Cut]:
        """Speech begins or ends here."""
        self.speaking = speaking
        return [] if speaking else [cut for track in self.tracks for cut in self._close(track)]

    def _go(self, end: int) -> list[Cut]:
        """Go on to sample ``end``, in steps during which no track changes, so that utterances are numbered in order."""
        cuts = []
        while self.known < end:
            inside = [self.speaking and track.inside(self.known) for track in self.tracks]
            for track, heard in zip(self.tracks, inside, strict=True):
                if heard and not track.open:
                    track.open, track.start, track.next = True, self.known, self.known
                    track.glimpse = self.known + self.hop
            stop = int(min([end, *(track.change(self.known, self.least) for track in self.tracks)]))
            for track, heard in zip(self.tracks, inside, strict=True):
                cuts += self._hear(track, stop) if heard else self._close(track)
            self.known = stop
        return cuts

    def _hear(self, track: Track, end: int) -> list[Cut]:
        """``track`` speaks up to sample ``end``."""
        cuts, track.heard = [], end
        if track.utterance is None:
            if end - track.start < self.least:
                return []
            self.count += 1
            track.utterance = self.count
            cuts.append(self._cut("start", track, track.start, track.start))
        while self.live and track.glimpse <= min(end, track.start + self.window - 1):
            if track.glimpse - track.start >= self.least:
                cuts.append(self._cut("glimpse", track, track.start, track.glimpse))
            track.glimpse += self.hop
        while track.next + self.window <= end:
            cuts.append(self._cut("window", track, track.next, track.next + self.window))
            track.next += self.hop
        return cuts

    def _close(self, track: Track) -> list[Cut]:
        """``track`` speaks no more: the last window ends where the utterance does."""
        cuts = []
        if track.open and track.utterance is not None:
            judged = track.next - self.hop + self.window if track.next > track.start else track.start
            if judged < track.heard:
                cuts.append(self._cut("window", track, max(track.start, track.heard - self.window), track.heard))
            cuts.append(self._cut("end", track, track.start, track.heard))
        track.open, track.utterance = False, None
        return cuts

    def _cut(self, kind: Kind, track: Track, start: int, end: int) -> Cut:
        assert track.utterance is not None
        waveform = self.buffer[start - self.origin : end - self.origin] if kind in ("window", "glimpse") else None
        return Cut(kind, track.utterance, start, end, track.speaker, waveform)

    def _forget(self) -> None:
        """Let go of samples that no cut to come can have."""
        wanted = [max(track.start, track.next - self.hop) for track in self.tracks if track.open]
        first = min(self.known, *wanted) if wanted else self.known
        self.buffer, self.origin = self.buffer[first - self.origin :], first


def list_tracks(turns: Sequence[Turn], rate: int) -> list[Track]:
    """Return a track for each speaker of ``turns``, by name; turns of one speaker that touch or overlap are one."""
    tracks: dict[str, list[tuple[int, float]]] = {}
    for turn in sorted(turns, key=lambda turn: (turn.speaker, turn.start)):
        start, end = round(turn.start * rate), round(turn.end * rate)
        spans = tracks.setdefault(turn.speaker, [])
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return [Track(speaker, spans) for speaker, spans in tracks.items()]
