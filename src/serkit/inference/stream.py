"""Emotion while it is heard: chunks of audio go in, events with a bounded delay come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import soxr

from serkit.data.audio import is_silent
from serkit.data.turns import Turn
from serkit.inference.bundle import Bundle
from serkit.inference.cuts import Cut, Cutter, TimelineOptions
from serkit.inference.timeline import Follower, rounded


@dataclass(frozen=True)
class Event:
    """Something that a stream tells; times in seconds since its first sample.

    "start": an utterance begins (no probabilities). "update": what is expressed right now, for show: it may be revised.
    "segment": a stretch of one emotion, for good; these are the segments of the timeline of the same audio. "end": an
    utterance is over, with the means over all of it, or none where it was silent.
    """

    type: Literal["start", "update", "segment", "end"]
    utterance: int
    start: float
    end: float
    probabilities: dict[str, float] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """The most probable class, where there are probabilities."""
        return max(self.probabilities, key=self.probabilities.__getitem__) if self.probabilities else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, times in whole milliseconds, probabilities with four decimals."""
        found: dict[str, Any] = {"type": self.type, "utterance": self.utterance}
        found |= {"start_ms": round(1000 * self.start), "end_ms": round(1000 * self.end)}
        if self.label is not None:
            found |= {"label": self.label, "confidence": round(self.probabilities[self.label], 4)}
            found |= {"probabilities": rounded(self.probabilities), "thresholds": rounded(self.thresholds)}
        return found


class Stream:
    """Follows one live recording of mono float32 at ``sampling_rate``; see :meth:`Predictor.stream`.

    ``push`` and ``finish`` do all there is to do. A server takes the steps apart: ``cut`` is cheap and in order,
    ``judge`` runs the model and may be called from any thread, ``tell`` takes the cuts in the order they were made.
    What is final does not depend on the size of the chunks. An update is told at most one hop and the delay of
    speech detection after what it is about was pushed, a segment one window after its end.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: TimelineOptions,
        keep: np.ndarray | None = None,
        sampling_rate: int | None = None,
        turns: Sequence[Turn] | None = None,
        live: bool = True,
    ) -> None:
        self.bundle, self.keep = bundle, keep
        rate = bundle.card.sampling_rate
        self.resampler = (
            None if sampling_rate in (None, rate) else soxr.ResampleStream(sampling_rate, rate, 1, "float32", "HQ")
        )
        self.cutter = Cutter(bundle.card, options, turns, live)
        self.follower = Follower(bundle.card, options)

    @property
    def seconds(self) -> float:
        """How much was heard."""
        return self.cutter.samples / self.bundle.card.sampling_rate

    def cut(self, samples: np.ndarray) -> list[Cut]:
        """Take ``samples (S,)`` and return what is there to be judged and told."""
        return self.cutter.push(self._resample(samples, False))

    def last_cuts(self) -> list[Cut]:
        """Return the last of what is there to be judged and told: the recording is over."""
        return [*self.cutter.push(self._resample(np.zeros(0, np.float32), True)), *self.cutter.finish()]

    def _resample(self, samples: np.ndarray, last: bool) -> np.ndarray:
        return samples if self.resampler is None else np.asarray(self.resampler.resample_chunk(samples, last=last))

    def judge(self, cut: Cut) -> np.ndarray | None:
        """Return the probabilities ``(C,)`` of what is in ``cut``; None where there is nothing, or silence."""
        if cut.waveform is None or is_silent(cut.waveform):
            return None
        return self.bundle.run(cut.waveform, self.keep).probabilities

    def tell(self, cut: Cut, probabilities: np.ndarray | None) -> list[Event]:
        """Return the events that follow from a cut and what ``judge`` said of it."""
        told = self.follower.tell(cut, probabilities)
        thresholds = self.bundle.card.named_thresholds
        rate, events = self.bundle.card.sampling_rate, []
        times = cut.start / rate, cut.end / rate
        if cut.kind == "start":
            events.append(Event("start", cut.utterance, *times))
        elif cut.kind != "end" and probabilities is not None:
            events.append(Event("update", cut.utterance, *times, self.follower.named(probabilities), thresholds))
        for segment in told.segments:
            named = segment.probabilities
            events.append(Event("segment", cut.utterance, segment.start, segment.end, named, thresholds))
        if cut.kind == "end":
            events.append(Event("end", cut.utterance, *times, told.overall or {}, thresholds))
        return events

    def push(self, samples: np.ndarray) -> list[Event]:
        """Take ``samples (S,)`` float32 and return the events that follow."""
        return self._events(self.cut(samples))

    def finish(self) -> list[Event]:
        """Return the last events: the recording is over."""
        return self._events(self.last_cuts())

    def _events(self, cuts: list[Cut]) -> list[Event]:
        return [event for cut in cuts for event in self.tell(cut, self.judge(cut))]
