"""Blocks of the modulated fusion transformers: normalisation, attention between sequences, reduction over time.

After Delbrouck et al. 2020 (https://aclanthology.org/2020.nlpbt-1.1). Sequences are packed, so that linear maps see no
padding: the frames of all utterances one after the other, ``(F, D)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from serkit.models.layers import ElementDropout, Segments

HIDDEN = -1e9
"""What scores of padding are; where everything is padding, all of it weighs the same."""

Offsets = tuple[Tensor, Tensor]
"""What is added to the gain and to the bias of a :class:`Norm`, ``(B, D)`` each."""


@dataclass(frozen=True)
class Track:
    """One modality of ``B`` utterances: ``x (F, D)``, whose each frame is, and which are ``seen (B, T)``, True = real.

    What is not seen counts neither as a key of attention nor in the reduction over time.
    """

    x: Tensor
    segments: Segments
    seen: Tensor

    def with_frames(self, x: Tensor) -> Track:
        """Return the same places with other contents."""
        return replace(self, x=x)

    def rows(self, x: Tensor) -> Tensor:
        """Return frames ``(F, D)`` as sequences ``(B, T, D)``."""
        return self.segments.rows(x)


class Norm(nn.Module):
    """``gain * (x - mean) / (sd + 1e-6) + bias`` over the last axis, with the *sample* standard deviation."""

    def __init__(self, dim: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.gain, self.bias, self.epsilon = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim)), epsilon

    def forward(self, x: Tensor, offsets: Offsets | None = None) -> Tensor:
        """Return ``x (..., D)`` normalised; ``offsets`` broadcast against it."""
        centred = x - x.mean(-1, keepdim=True)
        sd = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
        scaled = centred / (sd + self.epsilon)
        if offsets is None:
            return self.gain * scaled + self.bias
        return (self.gain + offsets[0]) * scaled + (self.bias + offsets[1])


class Feedforward(nn.Sequential):
    """``D`` to ``inner`` with ReLU and dropout, then to ``out``."""

    def __init__(self, dim: int, inner: int, out: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, inner), nn.ReLU(), ElementDropout(dropout), nn.Linear(inner, out))


class Attention(nn.Module):
    """Multi-head attention with one linear map each for queries, keys, values and what comes out."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, ElementDropout(dropout)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, asking: Track, asked: Track) -> Tensor:
        """Return for each frame of ``asking`` what it finds in ``asked``: ``(F, D)``."""
        query = self._split(asking.rows(self.query(asking.x)))
        key, value = (self._split(asked.rows(part(asked.x))) for part in (self.key, self.value))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = self.drop(scores.masked_fill(~asked.seen[:, None, None], HIDDEN).softmax(3))
        return self.out(asking.segments.frames((weights @ value).transpose(1, 2).flatten(2)))

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)


class SelfBlock(nn.Module):
    """Self-attention, then a feed-forward map; each is added to its input and normalised after."""

    def __init__(self, dim: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.feedforward = Feedforward(dim, inner, dim, dropout)
        self.drop = ElementDropout(dropout)
        self.norm_attention, self.norm_feedforward = Norm(dim), Norm(dim)

    def forward(self, track: Track, offsets: tuple[Offsets, Offsets] | None = None) -> Track:
        """Return the changed track; ``offsets`` modulate the two norms, a pair of ``(B, D)`` each."""
        first, second = (None, None) if offsets is None else (_spread(track, each) for each in offsets)
        x = self.norm_attention(track.x + self.drop(self.attention(track, track)), first)
        return track.with_frames(self.norm_feedforward(x + self.drop(self.feedforward(x)), second))


class GuidedBlock(SelfBlock):
    """A self block that between its parts attends to another track."""

    def __init__(self, dim: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__(dim, inner, heads, dropout)
        self.guidance, self.norm_guidance = Attention(dim, heads, dropout), Norm(dim)

    def guide(self, track: Track, guide: Track) -> Track:
        """Return ``track`` changed by itself and by what it finds in ``guide``."""
        x = self.norm_attention(track.x + self.drop(self.attention(track, track)))
        x = self.norm_guidance(x + self.drop(self.guidance(track.with_frames(x), guide)))
        return track.with_frames(self.norm_feedforward(x + self.drop(self.feedforward(x))))


class AttentionReduce(nn.Module):
    """A sequence as one vector: a learned score for every frame, softmax over time, weighted sum, linear map."""

    def __init__(self, dim: int, inner: int, out: int, dropout: float) -> None:
        super().__init__()
        self.score, self.out = Feedforward(dim, inner, 1, dropout), nn.Linear(dim, out)

    def forward(self, track: Track) -> Tensor:
        """Return ``(B, out)``."""
        scores = track.rows(self.score(track.x)).masked_fill(~track.seen[:, :, None], HIDDEN)
        return self.out((scores.softmax(1) * track.rows(track.x)).sum(1))


def _spread(track: Track, offsets: Offsets) -> Offsets:
    return track.segments.spread(offsets[0]), track.segments.spread(offsets[1])
