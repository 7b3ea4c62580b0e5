"""Heads: from an encoder's layers to class scores.

Two families. ``pooled`` sees only mean and standard deviation over time of each layer, so it trains in seconds from
cached statistics. ``frames`` mixes the layers, transforms every frame and pools afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from serkit.encoders.base import FrameFeatures
from serkit.models.layers import (
    POOLINGS,
    LayerMix,
    Pooling,
    Segments,
    Standardise,
    Windows,
    scaled_layer_sum,
    stride_mean,
)


class HeadConfig(BaseModel):
    """How a head is built. ``dropout`` acts on the input of every linear map, ``members`` heads are averaged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["pooled", "frames"] = "frames"
    mix: Literal["softmax", "absolute", "concat"] = "softmax"
    pooling: Literal["mean", "mean+std", "attention"] = "mean+std"
    frame_hidden: tuple[int, ...] = (128,)
    hidden: tuple[int, ...] = ()
    activation: Literal["relu", "gelu"] = "gelu"
    dropout: float = Field(0.3, ge=0, lt=1)
    statistics: bool = False
    members: int = Field(1, ge=1)


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class Batch:
    """Layers of ``B`` utterances, packed.

    ``statistics (B, 2, N, D)``: mean and standard deviation over time. ``arrays``: hidden states whose concatenation
    along time is ``(N, F, D)``, float16 or float32 (empty for heads that only need statistics). ``segments`` says which
    utterance each of the ``F`` frames belongs to.
    """

    statistics: Tensor
    arrays: Sequence[Tensor] = ()
    segments: Segments | Windows | None = None

    @classmethod
    def of_frames(
        cls, features: FrameFeatures, layers: Sequence[int], stride: int, radius: int | None = None, group: int = 1
    ) -> Batch:
        """Take ``layers`` of an encoder's output, averaged over ``stride`` frames.

        With ``radius`` there is one row per ``group`` strides instead of one per utterance: it and ``radius`` groups
        on either side.
        """
        chosen = features.layers[:, list(layers)]
        pooled, lengths = stride_mean(chosen, features.lengths, stride)
        size = pooled.shape[2]
        packed = pooled.transpose(0, 1).flatten(1, 2)  # (N, B * T, D)
        segments = Segments.padded(lengths, size) if radius is None else Windows(lengths, size, radius, group)
        wide = packed.transpose(0, 1).flatten(1)  # (B * T, N * D)
        mean, variance = segments.moments(wide, torch.ones_like(wide[:, :1]))
        statistics = torch.stack([mean, variance.sqrt()], 1).unflatten(2, (packed.shape[0], packed.shape[2]))
        return cls(statistics, [packed], segments)


def mlp(dim: int, hidden: Sequence[int], out: int, config: HeadConfig) -> nn.Sequential:
    """Dropout, linear map and activation per entry of ``hidden``; then dropout and a linear map to ``out``."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Dropout(config.dropout), nn.Linear(dim, size), ACTIVATIONS[config.activation]()]
        dim = size
    return nn.Sequential(*layers, nn.Dropout(config.dropout), nn.Linear(dim, out))


class PooledHead(nn.Module):
    """Standardised statistics of each layer, mixed or concatenated, through an MLP."""

    needs_frames = False

    def __init__(self, config: HeadConfig, num_layers: int, dim: int, classes: int) -> None:
        super().__init__()
        self.mix = None if config.mix == "concat" else LayerMix(num_layers, config.mix)
        width = 2 * dim if self.mix else 2 * num_layers * dim
        if config.pooling == "mean":
            width //= 2
        self.mean_only = config.pooling == "mean"
        self.standardise = Standardise(2, num_layers, dim)
        self.decide = mlp(width, config.hidden, classes, config)

    def forward(self, batch: Batch) -> Tensor:
        x = self.standardise(batch.statistics)
        if self.mean_only:
            x = x[:, :1]
        if self.mix is not None:
            x = torch.einsum("n,bsnd->bsd", self.mix.weights(), x)
        return self.decide(x.flatten(1))


class FrameHead(nn.Module):
    """Standardised layers, mixed; a linear map and activation per frame; pooling; a classifier.

    With ``statistics`` a linear map of the layers' statistics is added to the scores: the part that a linear probe
    finds need not be learned again through the frames.
    """

    needs_frames = True

    def __init__(self, config: HeadConfig, num_layers: int, dim: int, classes: int) -> None:
        super().__init__()
        if config.mix == "concat":
            raise ValueError("a frames head mixes layers: mix is softmax or absolute, not concat")
        self.mix = LayerMix(num_layers, config.mix)
        self.standardise = Standardise(num_layers, dim)
        sizes = (dim, *config.frame_hidden)
        self.per_frame = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.activation = ACTIVATIONS[config.activation]()
        self.drop = nn.Dropout(config.dropout)
        self.pool: Pooling = POOLINGS[config.pooling](sizes[-1])
        self.decide = mlp(self.pool.dim, config.hidden, classes, config)
        linear = config.model_copy(update={"mix": "concat", "hidden": (), "pooling": "mean+std"})
        self.linear = PooledHead(linear, num_layers, dim, classes) if config.statistics else None

    def forward(self, batch: Batch) -> Tensor:
        scale = self.mix.weights()[:, None] / self.standardise.sd
        x = scaled_layer_sum(scale, batch.arrays) - (scale * self.standardise.mean).sum(0)
        for layer in self.per_frame:
            x = self.activation(layer(self._drop_channels(x, batch)))
        scores = self.decide(self.pool(x, batch.segments))
        return scores if self.linear is None else scores + self.linear(batch)

    def _drop_channels(self, x: Tensor, batch: Batch) -> Tensor:
        """Drop whole channels of an utterance: its frames are too alike for dropout frame by frame to regularise."""
        if not (self.training and isinstance(batch.segments, Segments)):
            return x
        keep = self.drop(x.new_ones(batch.statistics.shape[0] + 1, x.shape[1]))
        return x * keep[batch.segments.index]


class Ensemble(nn.Module):
    """Heads that differ in their initialisation and dropout only; their log-probabilities are averaged."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.needs_frames = bool(heads[0].needs_frames)

    def each(self, batch: Batch) -> Tensor:
        """Return the scores of every member, ``(members, B, C)``: training takes the mean of their losses."""
        return torch.stack([head(batch) for head in self.heads])

    def forward(self, batch: Batch) -> Tensor:
        """Return log-probabilities ``(B, C)`` up to a constant per utterance."""
        return self.each(batch).log_softmax(-1).mean(0)


def create_head(config: HeadConfig, num_layers: int, dim: int, classes: int) -> Ensemble:
    """Build a head for ``num_layers`` layers of width ``dim``."""
    kind = {"pooled": PooledHead, "frames": FrameHead}[config.kind]
    return Ensemble([kind(config, num_layers, dim, classes) for _ in range(config.members)])
