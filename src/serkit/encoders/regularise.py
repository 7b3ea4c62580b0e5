"""What keeps an encoder from learning its few training utterances by heart: dropout, layer drop and SpecAugment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

SWITCHES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "projection_dropout",
    "layer_drop",
    "mask_time",
    "mask_features",
)
"""The settings that are off at zero; the others only say how."""


class Regularisation(BaseModel):
    """What happens inside an encoder while it is trained; nothing of it acts in evaluation.

    Dropout (shares of numbers set to zero, 0 to 1): ``dropout`` of the input of the first block and of what attention
    and feed-forward add in each block, ``attention_dropout`` of attention weights, ``activation_dropout`` between the
    two layers of the feed-forward, ``projection_dropout`` of the projected output of the convolutions. ``layer_drop``
    is the share of blocks that are skipped (Fan et al. 2020, https://arxiv.org/abs/1909.11556).

    SpecAugment (Park et al. 2019, https://arxiv.org/abs/1904.08779), on latent frames as in wav2vec 2.0 (Baevski et
    al. 2020, https://arxiv.org/abs/2006.11477): of an utterance of T frames about ``mask_time * T / mask_time_length``
    spans of ``mask_time_length`` frames are masked, at least ``min_masks``, and of D features about
    ``mask_features * D / mask_features_length`` spans. Spans may overlap, so shares are upper bounds. Frames are those
    of 20 ms after the projection, or Whisper's of 10 ms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    projection_dropout: float = Field(0.0, ge=0, lt=1)
    layer_drop: float = Field(0.0, ge=0, lt=1)
    mask_time: float = Field(0.0, ge=0, le=1)
    mask_time_length: int = Field(10, ge=1)
    mask_features: float = Field(0.0, ge=0, le=1)
    mask_features_length: int = Field(10, ge=1)
    min_masks: int = Field(2, ge=0)

    def switched_on(self) -> list[str]:
        """Return the names of the settings that do something."""
        return [name for name in SWITCHES if getattr(self, name) > 0]


class Regularised(nn.Module):
    """A module that obeys a :class:`Regularisation` in ``train()`` mode; all is off until it is given one."""

    regularisation: Regularisation = Regularisation()

    def acting(self, rate: float) -> float:
        """Return ``rate`` in training, otherwise 0."""
        return rate if self.training else 0.0

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """Return ``x``, in training with a share of ``rate`` of its numbers set to zero and the others scaled up."""
        return F.dropout(x, rate) if self.training and rate > 0 else x

    def time_mask(self, lengths: Tensor, size: int) -> Tensor | None:
        """Return the frames to mask, ``(B, size)`` booleans for utterances of ``lengths (B,)`` frames; None: none."""
        chosen = self.regularisation
        if not self.acting(chosen.mask_time):
            return None
        return span_mask(lengths, size, chosen.mask_time, chosen.mask_time_length, chosen.min_masks)

    def feature_mask(self, batch: int, size: int, device: torch.device) -> Tensor | None:
        """Return the features to mask in all frames of an utterance, ``(batch, size)`` booleans; None: none."""
        chosen = self.regularisation
        if not self.acting(chosen.mask_features):
            return None
        lengths = torch.full((batch,), size)
        return span_mask(lengths, size, chosen.mask_features, chosen.mask_features_length, 0).to(device)


def span_mask(lengths: Tensor, size: int, probability: float, length: int, min_masks: int) -> Tensor:
    """Return ``(B, size)`` booleans, True in random spans of ``length`` within the first ``lengths (B,)`` places.

    An utterance of T places gets ``probability * T / length`` spans, rounded up or down at random such that the mean
    is kept, at least ``min_masks`` and at most as many as fit side by side; none if it is shorter than a span. Spans
    begin at different places and may overlap. This is the distribution of wav2vec 2.0, but each utterance has random
    numbers of its own, seeded from PyTorch's global generator on the CPU: neither padding nor the lengths of its
    neighbours change its mask.
    """
    mask = torch.zeros(len(lengths), size, dtype=torch.bool)
    seeds = torch.randint(2**32, (len(lengths),)).tolist()
    for row, count, seed in zip(mask, lengths.tolist(), seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        spans = int(probability * count / length + float(torch.rand((), generator=generator)))
        spans = min(max(spans, min_masks), count // length)
        if spans > 0:
            starts = torch.randperm(count - length + 1, generator=generator)[:spans]
            row[starts[:, None] + torch.arange(length)] = True
    return mask.to(lengths.device)
