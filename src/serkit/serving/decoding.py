"""Decoding for a request: stopped when its time is up, bounded in seconds, with the peaks of the waveform."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from serkit.data.audio import SAMPLING_RATE, Source, read_info, stream_audio
from serkit.inference.envelope import Envelope
from serkit.serving.engine import Place
from serkit.serving.metrics import Metrics
from serkit.serving.problems import Problem

GATHER = 5.0
"""Blocks are handed on in pieces of about so many seconds: some decoders give 20 ms at a time."""


class Decoder:
    """Takes the place of :func:`stream_audio` for one request.

    ``max_seconds`` holds for what is decoded, whatever the header says. With ``peaks`` it keeps the waveform's
    outline in that many numbers.
    """

    def __init__(self, place: Place, metrics: Metrics, max_seconds: float, peaks: int | None = None) -> None:
        self.place, self.metrics, self.max_seconds = place, metrics, max_seconds
        self.outline = None if peaks is None else Envelope(peaks)

    def __call__(
        self,
        source: Source,
        start: float | None = None,
        end: float | None = None,
        native: bool = False,
        sampling_rate: int = SAMPLING_RATE,
    ) -> Iterator[np.ndarray]:
        """Yield mono blocks ``(S,)``; raises ``Problem`` when the time is up or the recording too long."""
        self.place.check()
        self.check_header(source)
        parts: list[np.ndarray] = []
        gathered = total = 0
        for block in stream_audio(source, start, end, native, sampling_rate):
            self.place.check()
            parts.append(block)
            gathered, total = gathered + len(block), total + len(block)
            if total > self.max_seconds * sampling_rate:
                raise self.too_long()
            if gathered >= GATHER * sampling_rate:
                yield self.hand_on(parts, sampling_rate)
                parts, gathered = [], 0
        if parts:
            yield self.hand_on(parts, sampling_rate)

    def hand_on(self, parts: list[np.ndarray], rate: int) -> np.ndarray:
        """Return ``parts`` as one, counted."""
        block = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.metrics.audio.inc(len(block) / rate)
        if self.outline is not None:
            self.outline.push(block)
        return block

    def check_header(self, source: Source) -> None:
        """Refuse at once what says itself that it is too long."""
        seconds = read_info(source).seconds
        if seconds is not None and seconds > self.max_seconds + 1:
            raise self.too_long()

    def too_long(self) -> Problem:
        """Return the problem of a recording that is too long."""
        return Problem("too_long", f"the recording is longer than {self.max_seconds:g} s: send it in parts")
