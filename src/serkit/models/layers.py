"""Parts of heads: packed frames, layer mixes, normalisation; :mod:`serkit.models.poolings` reduces over time.

A packed batch is the frames of its utterances one after the other, ``(F, D)``, with ``lengths (B,)`` that add up to
``F``. Reductions run over segments, so an utterance's result cannot depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

Mix = Literal["softmax", "absolute", "sum"]
EPSILON = 1e-5
LEAST = 1e-30
"""Least sum of weights: a segment without frames has none, one of frames that nothing attends to very little."""


class Segments:
    """Which utterance each of ``F`` frames belongs to: ``index (F,)`` from 0; ``count`` itself marks padding."""

    def __init__(self, index: Tensor, count: int) -> None:
        self.index, self.count = index, count

    @classmethod
    def packed(cls, lengths: Tensor) -> Segments:
        """Frames of utterances one after the other, ``lengths (B,)`` each."""
        return cls(torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths), len(lengths))

    @classmethod
    def padded(cls, lengths: Tensor, size: int) -> Segments:
        """Frames of a padded batch ``(B, size)``, flattened."""
        return _PaddedSegments(lengths, size)

    @property
    def whole(self) -> Segments:
        """Whole utterances, which these segments are."""
        return self

    @cached_property
    def lengths(self) -> Tensor:
        """The frames of each utterance ``(B,)``."""
        return torch.bincount(self.index, minlength=self.count)[: self.count]

    def along_time(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a causal ``change`` of sequences ``(B, T, D)``, zeros after their ends, to the frames ``(F, D)``."""
        return self.frames(change(self.rows(x)))

    def rows(self, x: Tensor) -> Tensor:
        """Return the frames ``(F, D)`` as sequences ``(B, T, D)``; what follows their ends may be anything finite."""
        rows = x.new_zeros(self.count, int(self.lengths.max()), x.shape[1])
        return rows.index_put((self.index, self._places[1]), x)

    def frames(self, rows: Tensor) -> Tensor:
        """Return sequences ``(B, T, D)`` as frames ``(F, D)``: what :meth:`rows` took apart."""
        return rows[self.index, self._places[1]]

    def pack(self, x: Tensor) -> tuple[Tensor, Segments]:
        """Return the frames ``(F, D)`` without padding, and whose they are."""
        return x, self

    def spread(self, values: Tensor) -> Tensor:
        """Give every frame the values ``(B, D)`` of its utterance: ``(F, D)``; padding gets anything."""
        return values.index_select(0, self.index)

    def neighbours(self, offset: int) -> Tensor:
        """Return the number of the frame ``offset`` after each frame, ``(F,)``; time reflects at its ends.

        It turns around at the first and the last frame of an utterance, as often as it takes where that is short.
        """
        start, place, length = self._places
        last = length - 1
        folded = (place + offset).abs().remainder((2 * last).clamp(min=1))
        return start + last - (folded - last).abs()

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each frame ``(F,)``: the number of its utterance's first frame, its place in it, and the length of it."""
        start = (self.lengths.cumsum(0) - self.lengths)[self.index]
        return start, torch.arange(len(self.index), device=self.index.device) - start, self.lengths[self.index]

    def max(self, x: Tensor) -> Tensor:
        """Return the largest values among the frames ``(F, D)`` of each utterance: ``(B, D)``."""
        return torch.stack([part.amax(0) for part in x.split(self.lengths.tolist())])

    def sum(self, x: Tensor) -> Tensor:
        """Add up the frames ``(F, D)`` of each utterance: ``(B, D)``."""
        return x.new_zeros(self.count + 1, x.shape[1]).index_add(0, self.index, x)[: self.count]

    def moments(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return weighted mean and variance over the frames of each utterance, both ``(B, D)``.

        ``x`` is ``(F, D)``; ``weights (F, 1)`` are positive and need not add up to one.
        """
        total = self.sum(weights)
        mean = self.sum(weights * x) / total
        # Centred first: E[x^2] - E[x]^2 loses all digits in dimensions with a large mean.
        centred = x - torch.cat([mean, mean.new_zeros(1, mean.shape[1])])[self.index]
        return mean, self.sum(weights * centred.square()) / total


class _PaddedSegments(Segments):
    """The same over rows of equal size, with masked sums: an exported graph then needs no scatter."""

    def __init__(self, lengths: Tensor, size: int) -> None:
        rows = torch.arange(lengths.shape[0], device=lengths.device)[:, None]
        real = torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]
        super().__init__(torch.where(real, rows, lengths.shape[0]).flatten(), lengths.shape[0])
        self.size, self.real = size, real[:, :, None].float()
        self.lengths = lengths

    def rows(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.count, self.size))

    def frames(self, rows: Tensor) -> Tensor:
        return rows.flatten(0, 1)

    def pack(self, x: Tensor) -> tuple[Tensor, Segments]:
        return x[self.real.flatten() > 0], Segments.packed(self.lengths)

    def spread(self, values: Tensor) -> Tensor:
        return values[:, None].expand(-1, self.size, -1).flatten(0, 1)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        steps = torch.arange(self.size, device=self.lengths.device)
        starts = torch.arange(self.count, device=self.lengths.device)[:, None] * self.size
        shape = (self.count, self.size)
        each = starts.expand(shape), steps[None].expand(shape), self.lengths[:, None].expand(shape)
        return each[0].flatten(), each[1].flatten(), each[2].flatten()

    def max(self, x: Tensor) -> Tensor:
        return self.rows(x).masked_fill(self.real == 0, -torch.inf).amax(1)

    def sum(self, x: Tensor) -> Tensor:
        return (self.rows(x) * self.real).sum(1)

    def moments(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        rows, shares = self.rows(x), self.rows(weights) * self.real
        total = shares.sum(1)
        mean = (shares * rows).sum(1) / total
        return mean, (shares * (rows - mean[:, None]).square()).sum(1) / total


class Windows:
    """Like :class:`Segments`, with one segment per ``group`` frames of a padded batch ``(B, size)``.

    A segment is the group and the ``radius`` groups on either side of it; there are ``ceil(size / group)`` per row.
    """

    def __init__(self, lengths: Tensor, size: int, radius: int, group: int = 1) -> None:
        self.batch, self.size, self.radius, self.group = lengths.shape[0], size, radius, group
        self.whole: Segments = _PaddedSegments(lengths, size)
        self.real = (torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]).float()

    def along_time(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a causal ``change`` to whole utterances, as :meth:`Segments.along_time` does."""
        return self.whole.along_time(x, change)

    def _groups(self, x: Tensor, filling: float) -> Tensor:
        """Return the frames ``(F, D)`` as ``(B, D, groups, group)``, ``filling`` where there is none."""
        rows = torch.where(self.real[:, :, None] > 0, x.unflatten(0, (self.batch, self.size)), filling).transpose(1, 2)
        groups = (self.size + self.group - 1) // self.group
        padded = nn.functional.pad(rows, (0, groups * self.group - self.size), value=filling)
        return padded.unfold(2, self.group, self.group)

    def sum(self, x: Tensor) -> Tensor:
        """Add up the frames ``(F, D)`` of each segment: ``(B * ceil(size / group), D)``."""
        width, spread = 2 * self.radius + 1, self._groups(x, 0.0).sum(-1)
        sums = nn.functional.avg_pool1d(spread, width, 1, self.radius, count_include_pad=True) * width
        return sums.transpose(1, 2).flatten(0, 1)

    def max(self, x: Tensor) -> Tensor:
        """Return the largest values of each segment, 0 where it has no frames; the shape is that of :meth:`sum`."""
        best = self._groups(x, -torch.inf).amax(-1)
        width = (1, 2 * self.radius + 1)
        best = nn.functional.max_pool2d(best[:, :, None], width, 1, (0, self.radius))[:, :, 0]  # 1d: no dynamic export
        return torch.where(best == -torch.inf, 0.0, best).transpose(1, 2).flatten(0, 1)

    def moments(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return weighted mean and variance of each segment, both ``(B * ceil(size / group), D)``."""
        total = self.sum(weights).clamp(min=LEAST)
        mean = self.sum(weights * x) / total
        square = self.sum(weights * x.square()) / total
        return mean, (square - mean.square()).clamp(min=0)


class _ScaledLayerSum(torch.autograd.Function):
    """``out = sum_n scale[n] * x[n]`` over float16 layers, one utterance at a time.

    The float32 copies of a layer live in the processor's cache and are made again in the backward pass: the sum of 13
    layers is bound by memory traffic, and this reads each float16 value once per pass.
    """

    @staticmethod
    def forward(ctx: Any, scale: Tensor, arrays: Sequence[Tensor]) -> Tensor:
        ctx.arrays, ctx.rows = arrays, len(scale)
        out = scale.new_zeros(sum(array.shape[1] for array in arrays), scale.shape[-1])
        position = 0
        for number, array in enumerate(arrays):
            rows = out[position : position + array.shape[1]]
            for layer, factor in zip(array, scale[number if len(scale) > 1 else 0], strict=True):
                rows.addcmul_(layer.float(), factor)
            position += array.shape[1]
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.new_zeros(len(ctx.arrays), ctx.arrays[0].shape[0], gradient.shape[1])
        position = 0
        for utterance, array in zip(total, ctx.arrays, strict=True):
            rows = gradient[position : position + array.shape[1]]
            for number, layer in enumerate(array):
                utterance[number] = (layer.float() * rows).sum(0)  # ten times as fast as einsum
            position += array.shape[1]
        return (total if ctx.rows > 1 else total.sum(0, keepdim=True)), None


def scaled_layer_sum(scale: Tensor, arrays: Sequence[Tensor]) -> Tensor:
    """Sum layers: ``scale (1, N, D)`` or one per array ``(B, N, D)`` and arrays ``(N, T, D)`` give frames ``(F, D)``.

    The arrays, float16 or float32, are those of utterances one after the other.
    """
    if torch.compiler.is_compiling():
        return torch.einsum("nd,nfd->fd", scale[0], torch.cat([array.float() for array in arrays], 1))
    if any(array.requires_grad for array in arrays):  # fine-tuning: gradients flow into the encoder as well
        factors = scale.expand(len(arrays), -1, -1)
        return torch.cat([(factor[:, None] * array).sum(0) for factor, array in zip(factors, arrays, strict=True)])
    return _ScaledLayerSum.apply(scale, arrays)


def stride_mean(layers: Tensor, lengths: Tensor, stride: int, zero_tail: bool = False) -> tuple[Tensor, Tensor]:
    """Average groups of ``stride`` frames of ``(B, N, T, D)``, whose padding is zero; the last may be shorter.

    ``zero_tail`` fills the last group with zeros, and adds a group of zeros alone where it is full: so Pepino et al.
    (2021) halve the last odd frame of a pair.
    """
    if stride == 1:
        return layers, lengths
    size = layers.shape[2]
    groups = size // stride + 1 if zero_tail else (size + stride - 1) // stride
    padded = nn.functional.pad(layers, (0, 0, 0, groups * stride - size))
    sums = padded.unfold(2, stride, stride).sum(-1)
    if zero_tail:
        return sums / stride, lengths // stride + 1
    starts = torch.arange(groups, device=layers.device)[None, :] * stride
    held = (lengths[:, None] - starts).clamp(1, stride)
    return sums / held[:, None, :, None], (lengths + stride - 1) // stride


class LayerMix(nn.Module):
    """A learned combination of ``N`` layers, convex but for "sum".

    ``softmax``: weights are the softmax of the parameters, as in SUPERB (https://arxiv.org/abs/2105.01051).
    ``absolute``: ``|k_i| / sum |k_j|``, starting from ones (Pepino et al. 2021, https://arxiv.org/abs/2104.03502).
    ``sum``: the parameters themselves, of any sign and sum, drawn from a normal distribution of deviation one.
    """

    def __init__(self, num_layers: int, form: Mix = "softmax") -> None:
        super().__init__()
        self.form = form
        begin = {"softmax": torch.zeros, "absolute": torch.ones, "sum": torch.randn}[form]
        self.k = nn.Parameter(begin(num_layers))

    def weights(self) -> Tensor:
        """Return the weights ``(N,)``: not negative and adding up to one, but for "sum"."""
        if self.form == "sum":
            return self.k
        if self.form == "softmax":
            return self.k.softmax(0)
        return self.k.abs() / self.k.abs().sum()


class ElementDropout(nn.Dropout):
    """Dropout of single elements; on a CPU a fifth of the time of PyTorch's, by drawing four elements at once.

    The share dropped is ``p`` rounded to 1/65536.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        low = torch.iinfo(torch.int64).min
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(low, None)
        quarters = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = quarters >= round(self.p * 65536) + torch.iinfo(torch.int16).min
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


def divisor(sd: Tensor) -> Tensor:
    """Return standard deviations to divide by: one where a dimension does not vary."""
    return torch.where(sd > EPSILON, sd, 1.0)


class Standardise(nn.Module):
    """``(x - mean) / sd`` with statistics of the training part: buffers, so that they travel with the weights.

    ``stream`` is the number of the stream of a batch whose statistics these are.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, *shape: int, stream: int = 0) -> None:
        super().__init__()
        self.stream = stream
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("sd", torch.ones(shape))

    def fit(self, mean: ArrayLike, sd: ArrayLike) -> None:
        """Take over statistics; a dimension that does not vary is only centred."""
        self.mean.copy_(torch.as_tensor(mean))
        self.sd.copy_(divisor(torch.as_tensor(sd)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.sd
