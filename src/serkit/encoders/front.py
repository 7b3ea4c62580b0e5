"""What may happen to a waveform before any encoder: trimming of silence at both ends, and levelling.

Both are plain tensor operations per utterance, so they run inside exported graphs and ignore padding and neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FRAME = 320
"""Samples per energy frame: 20 ms at 16 kHz."""
PAD = 800
"""Samples kept on either side of the trimmed speech: 50 ms."""


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """Return ``(B, size)`` booleans, True before each of ``lengths (B,)``."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def frame_powers(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean square of every whole 20 ms frame ``(B, S // 320)``, S >= 320; zero past an utterance's end."""
    powers = F.avg_pool1d(waveforms.square()[:, None, :], FRAME)[:, 0, :]
    return powers.masked_fill(~frame_mask(lengths // FRAME, waveforms.shape[1] // FRAME), 0.0)


def level_gain(waveforms: Tensor, lengths: Tensor, level: float) -> Tensor:
    """Return the factors ``(B, 1)`` that bring the speech in ``waveforms (B, S)`` to ``level`` dB full scale.

    The level of speech is the root mean square over the 20 ms frames within 30 dB of the loudest one, so that pauses do
    not count. The gain is at most 60 dB.
    """
    powers = frame_powers(waveforms, lengths)
    active = powers > powers.amax(1, keepdim=True) * 1e-3
    rms = ((powers * active).sum(1) / active.sum(1).clamp(min=1)).sqrt()
    target = 10 ** (level / 20)
    return (target / rms.clamp(min=target * 1e-3))[:, None]


def trim_silence(waveforms: Tensor, lengths: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Cut what lies before the first and after the last 20 ms frame within ``threshold`` dB of the loudest one.

    50 ms stay on either side. Returns waveforms ``(B, S)`` moved to the front, their ``lengths (B,)`` and the number of
    samples cut at the start ``(B,)``, a multiple of 320. An utterance shorter than a frame or silent stays whole.
    """
    powers = frame_powers(waveforms, lengths)
    active = (powers > powers.amax(1, keepdim=True) * 10 ** (-threshold / 10)).long()
    count = powers.shape[1]
    first = active.argmax(1) * FRAME - PAD
    last = (count - active.flip(1).argmax(1)) * FRAME + PAD
    spoken = active.amax(1) > 0
    start = torch.where(spoken, first.clamp(min=0) // FRAME * FRAME, 0)
    end = torch.where(spoken, torch.minimum(last, lengths), lengths)
    index = torch.arange(waveforms.shape[1], device=waveforms.device)[None, :] + start[:, None]
    moved = waveforms.gather(1, index.clamp(max=waveforms.shape[1] - 1))
    return moved * frame_mask(end - start, waveforms.shape[1]), end - start, start
