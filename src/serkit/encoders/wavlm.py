"""WavLM (Chen et al. 2022, https://arxiv.org/abs/2110.13900): wav2vec 2.0 with gated relative position bias."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from serkit.encoders.base import EncoderEntry, register
from serkit.encoders.blocks import Attention, Block, Wav2Vec2Config
from serkit.encoders.wav2vec2 import TINY, Wav2Vec2Encoder, build


class GatedAttention(Attention):
    """Attention whose scores get a learned bias by distance, scaled by a gate computed from each frame."""

    def __init__(self, config: Wav2Vec2Config, first: bool) -> None:
        super().__init__(config, first)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(config.dim // config.heads, 8)
        if first:  # the first block's table serves all of them
            self.rel_attn_embed = nn.Embedding(config.buckets, config.heads)

    def scores(self, x: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        assert bias is not None
        bias = bias[:, : x.shape[1], : x.shape[1]]
        heads = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        gates = self.gru_rel_pos_linear(heads).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        scale = gates[..., :1] * (gates[..., 1:] * self.gru_rel_pos_const - 1.0) + 2.0
        scores = scale * bias  # (B, heads, T, T)
        return scores if mask is None else scores.masked_fill(~mask[:, None, None, :], -torch.inf)


def distance_buckets(size: int, buckets: int, distance: int, device: torch.device) -> Tensor:
    """Return the bucket of each offset from ``1 - size`` to ``size - 1`` frames, ``(2 * size - 1,)``.

    Half of the ``buckets`` are for what lies ahead. Each half counts near frames one by one and far ones on a
    logarithmic scale up to ``distance`` (Raffel et al. 2020, https://arxiv.org/abs/1910.10683).
    """
    offsets = torch.arange(1 - size, size, device=device)
    half = buckets // 2
    exact = half // 2
    away = offsets.abs()
    far = torch.log(away.clamp(min=1).float() / exact) / math.log(distance / exact) * (half - exact)
    far = (exact + far).long().clamp(max=half - 1)
    return (offsets > 0).long() * half + torch.where(away < exact, away, far)


class WavLMEncoder(Wav2Vec2Encoder):
    """WavLM base, base+ and large; layers as in :class:`~serkit.encoders.wav2vec2.Wav2Vec2Encoder`.

    The gated bias differs from frame to frame, so attention needs memory for ``heads * T * T`` numbers per utterance.
    """

    attention = GatedAttention
    spared = 1  # as in the reference, whose first block computes the bias of all

    def position_bias(self, size: int) -> Tensor | None:
        assert self.encoder is not None
        if not len(self.encoder.layers):
            return None
        attention = cast(Block, self.encoder.layers[0]).attention
        table = cast(GatedAttention, attention).rel_attn_embed
        device = table.weight.device
        buckets = distance_buckets(size, self.config.buckets, self.config.distance, device)
        steps = torch.arange(size, device=device)
        return table(buckets)[steps[None, :] - steps[:, None] + size - 1].permute(2, 0, 1)


create = partial(build, WavLMEncoder, ("wavlm",))
"""Load WavLM: see :func:`serkit.encoders.wav2vec2.build`."""


def create_tiny() -> WavLMEncoder:
    """Return a small encoder with random weights, for tests."""
    return WavLMEncoder("wavlm", replace(TINY, buckets=32, distance=60)).eval()


register(EncoderEntry("wavlm", "WavLM from weights=", create, create_tiny))
