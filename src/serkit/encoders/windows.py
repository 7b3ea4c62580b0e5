"""Encode recordings of any length in bounded memory: in windows that overlap, on the frame grid of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serkit.encoders.base import Encoder
from serkit.errors import InputError


@dataclass(frozen=True)
class Windows:
    """How a recording is cut: windows of ``seconds`` that share ``overlap`` seconds, if it lasts longer than ``above``.

    ``above`` is None for "as soon as it does not fit one window". Neighbouring windows meet in the middle of what they
    share, so that a frame at their border has ``overlap / 2`` seconds of context on either side. An overlap too small
    for the samples that one frame sees is raised to those.
    """

    seconds: float = 30.0
    overlap: float = 4.0
    above: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0 <= self.overlap < self.seconds):
            raise InputError(
                f"windows of {self.seconds} s that share {self.overlap} s: the overlap must be >= 0 and shorter"
            )


DEFAULT = Windows(30.0, 4.0, above=60.0)
"""Recordings of up to a minute are encoded whole, as the published scripts do; attention needs memory in T squared."""


@dataclass(frozen=True)
class Plan:
    """Windows in frames of an encoder: they have ``size`` times ``hop`` samples and begin every ``step`` frames.

    A window gives its frames up to ``half`` behind the beginning of the next. ``above`` is in samples.
    """

    size: int
    step: int
    half: int
    above: int


def plan_windows(encoder: Encoder, windows: Windows) -> Plan | None:
    """Return how ``encoder`` cuts; None for one that is ``whole`` or gives one frame per utterance.

    A window longer than the encoder takes at a time is made as long as that, and then shares at most half. Raises
    ``InputError`` for windows that are too short for the encoder or for their overlap.
    """
    if encoder.whole:
        return None
    hop, rate = encoder.hop, encoder.sampling_rate
    size, overlap = round(windows.seconds * rate / hop), round(windows.overlap * rate / hop)
    if encoder.max_samples is not None and encoder.max_samples < size * hop:
        size = encoder.max_samples // hop
        overlap = min(overlap, size // 2)
    least = -(-encoder.min_samples // hop) + 1
    if size < least:
        raise InputError(f"encoder {encoder.name}: windows last at least {least * hop / rate:.3f} s")
    frames, next_frames = encoder.frame_lengths(torch.tensor([size * hop, (size + 1) * hop])).tolist()
    if next_frames != frames + 1:
        return None
    gap = max(0, size - frames)  # frames that begin in a window and end behind it
    overlap = max(overlap, 2 * gap)
    if overlap >= size:
        raise InputError(
            f"encoder {encoder.name}: windows of {size * hop / rate:.2f} s cannot share {overlap * hop / rate:.2f} s"
        )
    above = max(size * hop, round((windows.above or 0.0) * rate))
    if encoder.max_samples is not None:
        above = min(above, encoder.max_samples)
    return Plan(size, size - overlap, overlap // 2, above)


def encode_stream(
    encoder: Encoder, blocks: Iterable[np.ndarray], windows: Windows | None = DEFAULT
) -> Iterator[Tensor]:
    """Yield the hidden states ``(N, t, D)`` of a recording on the CPU, first frames first.

    ``blocks`` are its samples, such as :func:`~serkit.data.audio.stream_audio` yields. Together there are
    ``encoder.frame_lengths`` of all samples many frames, and frame ``i`` is where frame ``i`` of the uncut recording
    is. At most two windows and a block of samples are held. A recording that is not longer than ``windows.above``, or
    any with ``windows`` None, is encoded whole, exactly as the encoder does by itself.

    What an encoder does over all samples it does over a window: normalising a waveform, attending. Raises
    ``ValueError`` for recordings that the encoder cannot take, and for those to be cut when it trims or levels, which
    are defined on whole recordings.
    """
    plan = None if windows is None else plan_windows(encoder, windows)
    limit = None if encoder.limit is None else round(encoder.limit * encoder.sampling_rate)
    held = _Samples(blocks, limit)
    if plan is None or not held.reach(plan.above + 1):
        held.reach(None)
        yield encode_samples(encoder, held.between(0, held.total))
        return
    if encoder.trim is not None or encoder.level is not None:
        raise ValueError("trim and level need the whole recording: leave them out, or encode it whole (--window 0)")
    hop, start, given = encoder.hop, 0, 0
    while held.reach((start + plan.size) * hop + 1):
        states = encode_samples(encoder, held.between(start * hop, (start + plan.size) * hop))
        stop = start + plan.step + plan.half
        yield states[:, given - start : stop - start]
        held.forget(start * hop)  # the last window may begin before the next
        start, given = start + plan.step, stop
    start = max(0, -(-(held.total - plan.size * hop) // hop))  # as long as the others, so that it sees as much
    last = encode_samples(encoder, held.between(start * hop, held.total))[:, given - start :]
    if last.shape[1]:  # a rest shorter than a frame has none of its own
        yield last


@torch.inference_mode()
def encode_samples(encoder: Encoder, waveform: np.ndarray) -> Tensor:
    """Return the hidden states ``(N, T, D)`` of ``waveform (S,)`` on the CPU; away from it computed in bfloat16."""
    device = next(iter((*encoder.parameters(), *encoder.buffers(), torch.empty(0)))).device
    half = device.type != "cpu" and encoder.precision == "float16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        features = encoder(torch.from_numpy(waveform)[None].to(device), torch.tensor([len(waveform)], device=device))
    return features.layers[0, :, : int(features.lengths[0])].float().cpu()


class _Samples:
    """The samples of a stream between what was forgotten and what was read."""

    def __init__(self, blocks: Iterable[np.ndarray], limit: int | None) -> None:
        self.blocks, self.limit = iter(blocks), math.inf if limit is None else limit
        self.pieces: list[np.ndarray] = []
        self.first = self.total = 0

    def reach(self, samples: int | None) -> bool:
        """Read until there are ``samples`` from the beginning (None: to the end) and tell whether there are."""
        while (samples is None or self.total < samples) and self.total < self.limit:
            block = next(self.blocks, None)
            if block is None:
                break
            block = block[: int(min(len(block), self.limit - self.total))]
            self.pieces.append(block)
            self.total += len(block)
        return samples is not None and self.total >= samples

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the samples from ``start`` up to ``stop``, counted from the beginning."""
        self.pieces = [np.concatenate(self.pieces)] if len(self.pieces) != 1 else self.pieces
        return self.pieces[0][start - self.first : stop - self.first]

    def forget(self, start: int) -> None:
        """Let go of the samples before ``start``."""
        self.pieces = [self.between(start, self.total).copy()]
        self.first = start
