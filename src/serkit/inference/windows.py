"""A recording of any length through a bundle, in windows of bounded size, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from serkit.data.audio import SILENCE_PEAK
from serkit.errors import AudioError, InputError
from serkit.inference.bundle import Bundle, Card, Outputs, softmax


@dataclass(frozen=True)
class Window:
    """Samples ``start`` to ``end`` of a recording, of which the model said ``outputs``; ``count`` frames."""

    start: int
    end: int
    count: int
    outputs: Outputs


@dataclass(frozen=True)
class Hearing:
    """What a bundle says of one recording: ``windows`` in order, of ``samples`` in all; ``peak`` is its loudest."""

    card: Card
    windows: tuple[Window, ...]
    samples: int
    peak: float

    @property
    def long(self) -> bool:
        """Whether the recording was cut into windows."""
        if self.card.whole:
            return False
        size, _, overlap = sizes(self.card)
        return self.samples > size + overlap

    @property
    def shares(self) -> np.ndarray:
        """What each window counts ``(W,)``: its part of the length, or of the frames where logits are averaged."""
        if self.card.whole:
            return np.ones(len(self.windows))
        by_frames = self.card.average == "logits"
        counts = np.array([window.count if by_frames else window.end - window.start for window in self.windows])
        return counts / counts.sum()

    @property
    def probabilities(self) -> np.ndarray:
        """The probabilities ``(C,)`` of the whole recording."""
        return combine(self.card, np.array([window.outputs.probabilities for window in self.windows]), self.shares)

    @property
    def embedding(self) -> np.ndarray:
        """The embedding ``(D,)`` of the whole recording."""
        return self.shares @ np.array([window.outputs.embedding for window in self.windows])

    @property
    def frames(self) -> np.ndarray:
        """The embeddings ``(T, D)`` of frames; they must have been asked for."""
        parts = [window.outputs.frames for window in self.windows if window.outputs.frames is not None]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def frame_probabilities(self) -> np.ndarray:
        """The probabilities ``(T, C)`` around every frame; they must have been asked for."""
        return np.concatenate([window.outputs.frame_probabilities for window in self.windows])

    @property
    def frame_times(self) -> np.ndarray:
        """Where every frame begins ``(T,)``, in seconds of the recording."""
        samples, frames = self.card.sampling_rate, self.card.frame_rate
        return np.concatenate([each.start / samples + np.arange(each.count) / frames for each in self.windows])

    def segments(self, seconds: float) -> list[tuple[float, float, np.ndarray]]:
        """Return start and end in seconds and the probabilities ``(C,)`` of every ``seconds`` of the recording.

        A segment's are averaged over the frames whose middle lies in it. The last one is shorter, or a little longer
        where the rest would be too short for the bundle. There is none where the recording is silent for a window.
        """
        length = self.samples / self.card.sampling_rate
        number = max(1, int(length / seconds + 1e-9))
        number += length - number * seconds >= self.card.min_seconds
        middles = self.frame_times + 0.5 / self.card.frame_rate
        places = np.minimum(np.floor(middles / seconds + 1e-9).astype(int), number - 1)
        cuts = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
        found, rows = [], self.frame_probabilities
        for first, last in pairwise(cuts):
            place, share = int(places[first]), np.full(last - first, 1 / (last - first))
            end = length if place == number - 1 else (place + 1) * seconds
            found.append((place * seconds, end, combine(self.card, rows[first:last], share)))
        return found

    def refuse(self, name: str) -> AudioError:
        """Return the error for a recording of which no window could be heard."""
        seconds = self.samples / self.card.sampling_rate
        if seconds < self.card.min_seconds:
            least = f"at least {self.card.min_seconds:g} s are needed"
            return AudioError(f"{name}: is too short ({seconds:.3f} s, {self.samples} samples): {least}")
        return AudioError(f"{name}: is silent (peak {20 * np.log10(max(self.peak, 1e-12)):.0f} dB full scale)")


def combine(card: Card, rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Average probabilities ``rows (W, C)`` by ``shares (W,)`` as ``card`` says: themselves, or their logarithms."""
    if card.average != "logits" or not rows.shape[1]:
        return shares @ rows
    with np.errstate(divide="ignore"):  # classes that are no candidates
        return softmax(shares @ np.log(rows))


def check_segment(card: Card, seconds: float | None) -> None:
    """Raise ``InputError`` unless segments may last ``seconds``."""
    if seconds is not None and card.whole:
        raise InputError(f"segments: {card.name} judges an utterance as a whole and says nothing of its parts")
    if seconds is not None and not 1 / card.frame_rate <= seconds < math.inf:
        raise InputError(f"segments last at least {1 / card.frame_rate:g} s, which is one frame, not {seconds:g} s")


def hear(
    bundle: Bundle,
    blocks: Iterable[np.ndarray],
    keep: np.ndarray | None = None,
    *,
    silence: bool = False,
    scores: bool = False,
    frames: bool = False,
) -> Hearing:
    """Run ``bundle`` on the windows of a recording that comes in ``blocks (S,)`` of float32 at the card's rate.

    A recording longer than the bundle's window is cut into windows of equal length. Silent ones are left out unless
    ``silence``, and so is one that is too short. ``keep (C,)`` are the candidate classes. Memory is that of two windows
    and of what is asked for: the probabilities around every frame with ``scores``, their embeddings with ``frames``.
    """
    card = bundle.card
    windows, position, peak = [], 0, 0.0
    for waveform, own in cut(blocks, card):
        begin, position = position, position + own
        loudest = float(np.abs(waveform).max(initial=0.0))
        peak = max(peak, loudest)
        if (loudest < SILENCE_PEAK and not silence) or len(waveform) < card.min_seconds * card.sampling_rate:
            continue
        said = bundle.run(waveform, keep, True) if frames else bundle.run(waveform, keep)
        count = len(said.frame_probabilities)
        if not scores:
            said = replace(said, frame_probabilities=said.frame_probabilities[:0].copy())
        windows.append(Window(begin, position, count, said))
    return Hearing(card, tuple(windows), position, peak)


def sizes(card: Card) -> tuple[int, int, int]:
    """Return the samples of a window, the step of which it must be a multiple, and by how much windows overlap."""
    size = round(card.window_seconds * card.sampling_rate)
    if card.average == "probabilities":
        return size, 1, 0
    hop = round(card.sampling_rate / card.frame_rate)
    return max(1, size // hop) * hop, hop, max(0, round(card.min_seconds * card.sampling_rate) - hop)


def cut(blocks: Iterable[np.ndarray], card: Card) -> Iterator[tuple[np.ndarray, int]]:
    """Cut a stream of blocks into windows ``(S,)``; yields each with the number of samples up to the next one.

    A rest shorter than half a window is shared with the one before it. Where logits are averaged, windows begin a whole
    number of frames apart and overlap by what the last frame of each hears of the next.
    """
    size, hop, overlap = sizes(card)
    buffer = np.zeros(0, np.float32)
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= 2 * size + overlap:
            yield buffer[: size + overlap], size
            buffer = buffer[size:]
    if len(buffer) <= size + overlap:
        yield buffer, len(buffer)
    else:
        half = ((len(buffer) + 1) // 2 + hop - 1) // hop * hop
        yield buffer[: half + overlap], half
        yield buffer[half:], len(buffer) - half
