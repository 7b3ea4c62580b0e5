"""Emotion over time: the windows of every utterance, smoothed, and the segments of one emotion that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from serkit.inference.bundle import Card
from serkit.inference.cuts import Cut, TimelineOptions
from serkit.inference.windows import combine


@dataclass(frozen=True)
class CurvePoint:
    """Smoothed probabilities of a short piece of a recording; times in seconds."""

    start: float
    end: float
    probabilities: dict[str, float]
    speaker: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, times with three decimals, probabilities with four."""
        return spanned(self.start, self.end, self.speaker) | {"probabilities": rounded(self.probabilities)}


@dataclass(frozen=True)
class TimelineSegment:
    """A stretch of an utterance in which one emotion is the most probable; times in seconds.

    ``utterance`` counts from 1. ``probabilities`` are the means over the stretch. ``speaker`` is there where turns were
    given.
    """

    utterance: int
    start: float
    end: float
    label: str
    probabilities: dict[str, float]
    speaker: str | None = None

    @property
    def confidence(self) -> float:
        """The probability of ``label``."""
        return self.probabilities[self.label]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, times with three decimals, probabilities with four."""
        found = {"utterance": self.utterance, **spanned(self.start, self.end, self.speaker), "label": self.label}
        return found | {"confidence": round(self.confidence, 4), "probabilities": rounded(self.probabilities)}


@dataclass(frozen=True)
class Timeline:
    """What is expressed in a recording of ``seconds``, and when: ``segments`` and ``curve``, in order of their start.

    Nothing is said of what is no speech. Segments of several speakers may overlap.
    """

    id: str
    seconds: float
    model: str
    classes: tuple[str, ...]
    segments: tuple[TimelineSegment, ...]
    curve: tuple[CurvePoint, ...] = field(default=(), repr=False)

    def as_dict(self, curve: bool = True) -> dict[str, Any]:
        """Return JSON-ready values, without the curve if that is not wanted."""
        found: dict[str, Any] = {"id": self.id, "seconds": round(self.seconds, 3), "model": self.model}
        found |= {"classes": list(self.classes), "segments": [segment.as_dict() for segment in self.segments]}
        return found | ({"curve": [point.as_dict() for point in self.curve]} if curve else {})


def spanned(start: float, end: float, speaker: str | None) -> dict[str, Any]:
    """Return times with three decimals, and the speaker where there is one."""
    found: dict[str, Any] = {"start": round(start, 3), "end": round(end, 3)}
    return found if speaker is None else found | {"speaker": speaker}


def rounded(probabilities: dict[str, float]) -> dict[str, float]:
    """Return probabilities with four decimals."""
    return {name: round(p, 4) for name, p in probabilities.items()}


@dataclass(frozen=True)
class Span:
    """Samples ``start`` to ``end``, and the probabilities ``(C,)`` there; None where nothing could be judged."""

    start: int
    end: int
    probabilities: np.ndarray | None


class Mean:
    """A running mean of probabilities, of the kind that windows of this model are averaged by."""

    def __init__(self, card: Card) -> None:
        self.card, self.weight = card, 0
        self.mean: np.ndarray | None = None

    def add(self, span: Span) -> None:
        """Count ``span`` by its length."""
        assert span.probabilities is not None
        length = span.end - span.start
        self.weight += length
        share = length / self.weight
        rows = np.array([span.probabilities if self.mean is None else self.mean, span.probabilities])
        self.mean = combine(self.card, rows, np.array([1 - share, share]))


class Utterance:
    """The judged windows of one utterance: cells of one hop each, and segments of cells that have one label.

    A cell's probabilities are averaged over the windows that cover it. Each counts by its part of the cell, times
    how near their middles are: a triangle, zero at one window's distance. A cell is sure as soon as a window begins at
    its end, so that what is told does not depend on when it is asked.
    """

    def __init__(self, card: Card, start: int, window: int, hop: int) -> None:
        self.card, self.window, self.hop, self.sure = card, window, hop, start
        self.windows: list[Span] = []
        self.overall = Mean(card)
        self.open: Span | None = None
        self.inside = Mean(card)

    def add(self, window: Span) -> list[Span]:
        """Take the next window and return the cells that are sure now."""
        cells = []
        while self.sure + self.hop <= window.start:
            cells.append(self._cell(self.sure + self.hop))
        self.windows = [each for each in self.windows if each.end > self.sure] + [window]
        return cells

    def finish(self, end: int) -> list[Span]:
        """Return the last cells of an utterance that ends at sample ``end``; a rest under half a hop joins the last."""
        count = max(1, math.floor((end - self.sure) / self.hop + 0.5))
        cells = [self._cell(self.sure + self.hop) for _ in range(count - 1)]
        return [*cells, self._cell(end)]

    def _cell(self, end: int) -> Span:
        start, self.sure = self.sure, end
        rows, weights = [], []
        for window in self.windows:
            shared = min(end, window.end) - max(start, window.start)
            apart = abs((start + end) - (window.start + window.end)) / 2
            weight = shared * max(1 - apart / self.window, 1e-6)
            if shared > 0 and window.probabilities is not None:
                rows.append(window.probabilities)
                weights.append(weight)
        shares = np.array(weights) / sum(weights) if rows else np.zeros(0)
        return Span(start, end, combine(self.card, np.array(rows), shares) if rows else None)

    def join(self, cells: list[Span], last: bool) -> list[Span]:
        """Return the segments that ``cells`` end, and with ``last`` the one that is open."""
        ended = []
        for cell in cells:
            if self.open is not None and label_of(cell) != label_of(self.open):
                ended.append(self._segment(self.open))
            if cell.probabilities is not None:
                self.open = Span(cell.start if self.open is None else self.open.start, cell.end, cell.probabilities)
                self.inside.add(cell)
                self.overall.add(cell)
        if last and self.open is not None:
            ended.append(self._segment(self.open))
        return ended

    def _segment(self, span: Span) -> Span:
        found = replace(span, probabilities=self.inside.mean)
        self.open, self.inside = None, Mean(self.card)
        return found


def label_of(span: Span) -> int | None:
    """Return the number of the most probable class."""
    return None if span.probabilities is None else int(span.probabilities.argmax())


@dataclass(frozen=True)
class Told:
    """What a cut made sure: pieces of the curve, segments, and at its end the probabilities of an utterance."""

    points: list[CurvePoint] = field(default_factory=list)
    segments: list[TimelineSegment] = field(default_factory=list)
    overall: dict[str, float] | None = None


class Follower:
    """Follows the cuts of a recording, in their order, with what the model said of each window."""

    def __init__(self, card: Card, options: TimelineOptions) -> None:
        self.card, self.rate = card, card.sampling_rate
        self.window, self.hop = options.sizes(card)
        self.utterances: dict[int, Utterance] = {}

    def tell(self, cut: Cut, probabilities: np.ndarray | None) -> Told:
        """Return what is sure now; ``probabilities (C,)`` are None for cuts that are not judged, and for silence."""
        if cut.kind == "start":
            self.utterances[cut.utterance] = Utterance(self.card, cut.start, self.window, self.hop)
        if cut.kind in ("start", "glimpse"):
            return Told()
        if cut.kind == "window":
            utterance = self.utterances[cut.utterance]
            cells = utterance.add(Span(cut.start, cut.end, probabilities))
        else:
            utterance = self.utterances.pop(cut.utterance)
            cells = utterance.finish(cut.end)
        segments = utterance.join(cells, last=cut.kind == "end")
        mean = utterance.overall.mean if cut.kind == "end" else None
        return Told(
            [
                CurvePoint(*self._times(cell), self.named(cell.probabilities), cut.speaker)
                for cell in cells
                if cell.probabilities is not None
            ],
            [self._segment(cut, span) for span in segments],
            None if mean is None else self.named(mean),
        )

    def named(self, probabilities: np.ndarray) -> dict[str, float]:
        """Return probabilities by class."""
        return dict(zip(self.card.classes, probabilities.tolist(), strict=True))

    def _times(self, span: Span) -> tuple[float, float]:
        return span.start / self.rate, span.end / self.rate

    def _segment(self, cut: Cut, span: Span) -> TimelineSegment:
        assert span.probabilities is not None
        named = self.named(span.probabilities)
        label = max(named, key=named.__getitem__)
        return TimelineSegment(cut.utterance, *self._times(span), label, named, cut.speaker)
