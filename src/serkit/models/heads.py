"""Heads: from the layers of one or several encoders to class scores.

Two families. ``pooled`` sees only mean and standard deviation over time of each layer, so it trains in seconds from
cached statistics. ``frames`` mixes the layers, transforms every frame and pools afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from serkit.encoders.base import FrameFeatures
from serkit.errors import InputError
from serkit.models.layers import (
    ElementDropout,
    LayerMix,
    Segments,
    Standardise,
    Windows,
    scaled_layer_sum,
    stride_mean,
)
from serkit.models.norms import BatchNorm
from serkit.models.poolings import POOLINGS, EcapaPooling, Pooling


class HeadConfig(BaseModel):
    """How a head is built; ``members`` heads are averaged.

    ``dropout`` acts on the input of every linear map, of the last one only with ``drop_last``. ``drop`` tells what a
    frames head drops: whole channels of an utterance, or single elements. ``lstm`` units of a unidirectional LSTM may
    follow the maps per frame. ``init`` "glorot" draws matrices as Keras does (Glorot and Bengio 2010), biases zero.

    A frames head mixes the layers of each frame, or with ``mix_position`` "pooled" pools every layer and mixes what
    comes of them; a pooled head always does the latter. ``channels`` are those of the pooling "ecapa". What was pooled
    goes through ``pooled_activation``, ``batch_norm``, dropout and linear maps, in this order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["pooled", "frames"] = "frames"
    mix: Literal["softmax", "absolute", "sum", "concat"] = "softmax"
    mix_position: Literal["frames", "pooled"] = "frames"
    pooling: Literal["mean", "sum", "max", "mean+std", "attention", "attentive-statistics", "ecapa"] = "mean+std"
    channels: int = Field(512, ge=8, multiple_of=8)
    pooled_activation: Literal["none", "relu", "gelu"] = "none"
    batch_norm: bool = False
    frame_hidden: tuple[int, ...] = (128,)
    lstm: int = Field(0, ge=0)
    hidden: tuple[int, ...] = ()
    activation: Literal["relu", "gelu"] = "gelu"
    dropout: float = Field(0.3, ge=0, lt=1)
    drop: Literal["channels", "elements"] = "channels"
    drop_last: bool = True
    init: Literal["default", "glorot", "normal"] = "default"
    statistics: bool = False
    members: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> HeadConfig:
        if self.kind == "pooled" and self.pooling not in ("mean", "mean+std"):
            raise ValueError(f'a pooled head sees mean and deviation: pooling "{self.pooling}" needs head.kind=frames')
        if self.kind == "pooled" and self.lstm:
            raise ValueError("a pooled head sees no frames: head.lstm needs head.kind=frames")
        if self.kind == "frames" and self.mix == "concat":
            raise ValueError("a frames head mixes layers: mix is softmax, absolute or sum, not concat")
        if self.kind == "frames" and self.mix_position == "pooled" and (self.frame_hidden or self.lstm):
            raise ValueError('head.mix_position "pooled" has no maps per frame: set head.frame_hidden=[] and no lstm')
        return self


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
TINY = 1e-12
"""Least variance: the gradient of a deviation does not exist at zero."""
Shape = tuple[int, int]
"""Layers and width of one stream of features: ``(N, D)``."""


@dataclass(frozen=True)
class Stream:
    """Layers of one encoder for ``B`` utterances, packed.

    ``statistics (B, 2, N, D)``: mean and standard deviation over time. ``arrays``: hidden states whose concatenation
    along time is ``(N, F, D)``, float16 or float32 (empty for heads that only need statistics). ``scaling``
    ``(B, 2, N, D)``: means and deviations by which each array is still to be standardised, as the statistics are.
    """

    statistics: Tensor
    arrays: Sequence[Tensor] = ()
    scaling: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Streams of features of the same ``B`` utterances; ``segments`` says whose each of the ``F`` frames is.

    ``words (B, L)`` are ids of what is said, 0 past its end; heads that do not read have no use for them.
    """

    streams: tuple[Stream, ...]
    segments: Segments | Windows | None = None
    words: Tensor | None = None

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
        statistics = torch.stack([mean, variance.clamp(min=TINY).sqrt()], 1).unflatten(
            2, (packed.shape[0], packed.shape[2])
        )
        return cls((Stream(statistics, [packed]),), segments)


def mlp(dim: int, hidden: Sequence[int], out: int, config: HeadConfig) -> nn.Sequential:
    """Dropout, linear map and activation per entry of ``hidden``; then dropout and a linear map to ``out``.

    Before it all, activation and batch normalisation of what was pooled, where ``config`` wants them.
    """
    layers: list[nn.Module] = []
    if config.pooled_activation != "none":
        layers.append(ACTIVATIONS[config.pooled_activation]())
    if config.batch_norm:
        layers.append(BatchNorm(dim))
    for size in hidden:
        layers += [nn.Dropout(config.dropout), nn.Linear(dim, size), ACTIVATIONS[config.activation]()]
        dim = size
    last = [nn.Dropout(config.dropout)] if config.drop_last else []
    return nn.Sequential(*layers, *last, nn.Linear(dim, out))


class PooledStream(nn.Module):
    """Standardised statistics of one stream, layers mixed or concatenated: ``(B, dim)``."""

    def __init__(self, config: HeadConfig, shape: Shape, number: int) -> None:
        super().__init__()
        num_layers, dim = shape
        self.mix = None if config.mix == "concat" or num_layers == 1 else LayerMix(num_layers, config.mix)
        self.kept = 1 if config.pooling == "mean" else 2
        self.standardise = Standardise(2, num_layers, dim, stream=number)
        self.dim = self.kept * dim * (1 if self.mix else num_layers)

    def forward(self, stream: Stream) -> Tensor:
        x = self.standardise(stream.statistics)[:, : self.kept]
        if self.mix is not None:
            x = torch.einsum("n,bsnd->bsd", self.mix.weights(), x)
        return x.flatten(1)


class PooledHead(nn.Module):
    """Statistics over time of every stream, joined, through an MLP."""

    needs_frames = False

    def __init__(self, config: HeadConfig, shapes: Sequence[Shape], classes: int) -> None:
        super().__init__()
        streams = [PooledStream(config, shape, number) for number, shape in enumerate(shapes)]
        self.streams = nn.ModuleList(streams)
        self.decide = mlp(sum(stream.dim for stream in streams), config.hidden, classes, config)

    def forward(self, batch: Batch) -> Tensor:
        parts = [part(stream) for part, stream in zip(self.streams, batch.streams, strict=True)]
        return self.decide(torch.cat(parts, 1))


class FrameStream(nn.Module):
    """One stream of a frames head: its layers standardised and mixed; ``linear`` is its own first map per frame."""

    def __init__(self, config: HeadConfig, shape: Shape, number: int) -> None:
        super().__init__()
        num_layers, dim = shape
        assert config.mix != "concat"
        self.mix = LayerMix(num_layers, config.mix) if num_layers > 1 else None
        self.standardise = Standardise(num_layers, dim, stream=number)
        self.linear = nn.Linear(dim, config.frame_hidden[0]) if config.frame_hidden else None
        self.dim = config.frame_hidden[0] if config.frame_hidden else dim

    def forward(self, stream: Stream, segments: Segments | Windows) -> Tensor:
        """Return the mixed frames ``(F, D)``, each layer standardised first."""
        return self._combined(stream, segments, slice(None), None if self.mix is None else self.mix.weights())

    def layers(self, stream: Stream, segments: Segments | Windows) -> Iterator[Tensor]:
        """Yield the frames ``(F, D)`` of every layer, standardised."""
        for layer in range(len(self.standardise.mean)):
            yield self._combined(stream, segments, slice(layer, layer + 1), None)

    def _combined(self, stream: Stream, segments: Segments | Windows, chosen: slice, weights: Tensor | None) -> Tensor:
        """Add up the ``chosen`` layers, standardised, times their ``weights``."""
        mean, sd = self.standardise.mean[chosen], self.standardise.sd[chosen]
        scale = (1 / sd if weights is None else weights[:, None] / sd)[None]
        arrays = stream.arrays if chosen == slice(None) else [array[chosen] for array in stream.arrays]
        if stream.scaling is None:
            return scaled_layer_sum(scale, arrays) - (scale * mean).sum(1)
        own_mean, own_sd = stream.scaling[:, :, chosen].unbind(1)
        scale = scale / own_sd
        shift = (scale * (own_mean + own_sd * mean)).sum(1)
        return scaled_layer_sum(scale, arrays) - shift[segments.index]  # type: ignore[union-attr]


class FrameHead(nn.Module):
    """Standardised layers, mixed; linear maps per frame; pooling; a classifier.

    Several streams have a first map each and are joined after it (the fusion of Pepino et al. 2021,
    https://arxiv.org/abs/2104.03502). With ``statistics`` a linear map of the layers' statistics is added to the
    scores: the part that a linear probe finds need not be learned again through the frames.
    """

    needs_frames = True

    def __init__(self, config: HeadConfig, shapes: Sequence[Shape], classes: int) -> None:
        super().__init__()
        streams = [FrameStream(config, shape, number) for number, shape in enumerate(shapes)]
        self.streams = nn.ModuleList(streams)
        sizes = (sum(stream.dim for stream in streams), *config.frame_hidden[1:])
        self.per_frame = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.lstm = CausalLSTM(sizes[-1], config.lstm) if config.lstm else None
        self.activation = ACTIVATIONS[config.activation]()
        self.drop_elements = ElementDropout(config.dropout) if config.drop == "elements" else None
        self.drop = nn.Dropout(config.dropout)
        self.mixes_pooled = config.mix_position == "pooled"
        if self.mixes_pooled and len(streams) > 1:
            raise InputError('head.mix_position: "pooled" takes one encoder: leave out streams, or mix frames')
        self.pool = create_pooling(config, config.lstm or sizes[-1])
        self.decide = mlp(self.pool.dim, config.hidden, classes, config)
        plain = {"hidden": (), "lstm": 0, "pooled_activation": "none", "batch_norm": False}
        linear = config.model_copy(update={"mix": "concat", "pooling": "mean+std", **plain})
        self.linear = PooledHead(linear, shapes, classes) if config.statistics else None

    def forward(self, batch: Batch) -> Tensor:
        segments = batch.segments
        assert segments is not None, "a frames head needs frames"
        pooled = (
            self._pooled_layers(batch, segments)
            if self.mixes_pooled
            else self.pool(self._frames(batch, segments), segments)
        )
        scores = self.decide(pooled)
        return scores if self.linear is None else scores + self.linear(batch)

    def _pooled_layers(self, batch: Batch, segments: Segments | Windows) -> Tensor:
        """Pool every layer and mix: ``(B, D)``."""
        (part,) = self.streams
        assert isinstance(part, FrameStream)
        pooled = [self.pool(frames, segments) for frames in part.layers(batch.streams[0], segments)]
        return pooled[0] if part.mix is None else torch.einsum("n,nbd->bd", part.mix.weights(), torch.stack(pooled))

    def _frames(self, batch: Batch, segments: Segments | Windows) -> Tensor:
        """Return what is pooled: ``(F, D)``."""
        parts = []
        for part, stream in zip(self.streams, batch.streams, strict=True):
            assert isinstance(part, FrameStream)
            x = part(stream, segments)
            parts.append(x if part.linear is None else self._map(part.linear, x, segments))
        x = torch.cat(parts, 1)
        for layer in self.per_frame:
            x = self._map(layer, x, segments)
        if self.lstm is not None:
            x = self.activation(segments.along_time(self._drop_channels(x, segments), self.lstm.states))
        return x

    def _map(self, layer: nn.Module, x: Tensor, segments: Segments | Windows) -> Tensor:
        dropped = self._drop_channels(x, segments) if self.drop_elements is None else self.drop_elements(x)
        return self.activation(layer(dropped))

    def _drop_channels(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        """Drop whole channels of an utterance: its frames are too alike for dropout frame by frame to regularise."""
        if not (self.training and isinstance(segments, Segments)):
            return x
        keep = self.drop(x.new_ones(segments.count + 1, x.shape[1]))
        return x * keep[segments.index]


def create_pooling(config: HeadConfig, dim: int) -> Pooling:
    """Build the pooling of ``config`` for frames of width ``dim``."""
    return EcapaPooling(dim, config.channels) if config.pooling == "ecapa" else POOLINGS[config.pooling](dim)


class CausalLSTM(nn.LSTM):
    """A unidirectional LSTM over ``(B, T, D)``, begun as in Keras: one bias per gate, that of the forget gate one."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__(dim, units, batch_first=True)
        weight_ih, weight_hh, bias_ih, bias_hh = self.parameters()
        nn.init.xavier_uniform_(weight_ih)
        nn.init.orthogonal_(weight_hh)
        with torch.no_grad():
            bias_hh.zero_().requires_grad_(False)
            bias_ih.zero_()[units : 2 * units] = 1

    def states(self, rows: Tensor) -> Tensor:
        """Return the hidden state after every frame."""
        return self(rows)[0]


class Ensemble(nn.Module):
    """Heads that differ in their initialisation and dropout only; their log-probabilities are averaged.

    Where several labels are learned at once (``multi``), scores are the log-odds of each class, and those are averaged.
    """

    multi = False

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.needs_frames = bool(heads[0].needs_frames)

    def each(self, batch: Batch) -> Tensor:
        """Return the scores of every member, ``(members, B, C)``: training takes the mean of their losses."""
        return torch.stack([head(batch) for head in self.heads])

    def forward(self, batch: Batch) -> Tensor:
        """Return log-probabilities ``(B, C)`` up to a constant per utterance, or log-odds."""
        scores = self.each(batch)
        return (scores if self.multi else scores.log_softmax(-1)).mean(0)


def create_head(config: HeadConfig, shapes: Sequence[Shape], classes: int) -> Ensemble:
    """Build a head for streams of ``shapes``: layers and width ``(N, D)`` of each."""
    kind = {"pooled": PooledHead, "frames": FrameHead}[config.kind]
    head = Ensemble([kind(config, shapes, classes) for _ in range(config.members)])
    begin(head, config.init)
    return head


def begin(module: nn.Module, init: str) -> None:
    """Draw the linear maps of ``module`` as ``HeadConfig.init`` says; "default" leaves them as PyTorch drew them."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and init != "default":
            if init == "glorot":
                nn.init.xavier_uniform_(part.weight)
            else:
                nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)


def parameters_behind_pooling(head: Ensemble) -> list[nn.Parameter]:
    """Return the parameters of batch normalisation and linear maps behind the pooling, of all members."""
    members: list[Any] = list(head.heads)
    return [weight for member in members for weight in member.decide.parameters()]


def layer_weights(head: Ensemble) -> list[list[float]]:
    """Return the weights of the layers ``(N,)`` of each stream, averaged over members; empty for unmixed streams."""
    members: list[Any] = list(head.heads)
    mixes = [[member.streams[number].mix for member in members] for number in range(len(members[0].streams))]
    return [torch.stack([mix.weights() for mix in each]).mean(0).tolist() if each[0] else [] for each in mixes]
