"""Poolings: from the frames of each utterance to one vector. Padding never counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from serkit.models.layers import EPSILON, Segments, Windows
from serkit.models.norms import BatchNorm


class Pooling(nn.Module):
    """From frames ``(F, D)`` to one vector of width ``dim`` per segment."""

    dim: int

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        raise NotImplementedError


class MeanPooling(Pooling):
    """The mean over time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        return segments.moments(x, torch.ones_like(x[:, :1]))[0]


class MeanStdPooling(Pooling):
    """Mean and population standard deviation over time, concatenated."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = 2 * dim

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        mean, variance = segments.moments(x, torch.ones_like(x[:, :1]))
        return torch.cat([mean, (variance + EPSILON**2).sqrt()], 1)


class AttentivePooling(Pooling):
    """Attentive statistics (Okabe et al. 2018, https://arxiv.org/abs/1803.10963): weighted mean and deviation."""

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim = 2 * dim
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        # The tanh bounds the scores, so the exponential needs no maximum taken off.
        mean, variance = segments.moments(x, self.score(x).exp())
        return torch.cat([mean, (variance + EPSILON**2).sqrt()], 1)


class SumPooling(Pooling):
    """The sum over time: it grows with the length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        return segments.sum(x)


class MaxPooling(Pooling):
    """The largest value over time of each dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        return segments.max(x)


class ChannelAttention(nn.Module):
    """Mean and deviation over time ``(B, 2D)``, every dimension with weights of its own (ECAPA-TDNN, section 3.3).

    What attends to a frame sees mean and deviation of the whole utterance beside the frame itself.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.dim = 2 * dim
        self.hidden, self.norm = nn.Linear(3 * dim, channels), BatchNorm(channels)
        self.score = nn.Linear(channels, dim, bias=False)  # a constant changes no share of the time

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        """Pool frames ``(F, D)`` over ``segments``; the context is that of the whole utterances."""
        whole, own = segments.whole, x.shape[1]
        context = _joined(*whole.moments(x, torch.ones_like(x[:, :1])))
        # The context is the same for all frames of an utterance: its share of the map is computed once.
        shared = nn.functional.linear(context, self.hidden.weight[:, own:], self.hidden.bias)
        hidden = nn.functional.linear(x, self.hidden.weight[:, :own]) + whole.spread(shared)
        scores = self.score(self.norm(hidden.relu()).tanh()).to(x.dtype)
        # Padding may score higher than the highest: it is masked later, and must not overflow before.
        shares = (scores - whole.spread(whole.max(scores.detach()))).clamp(max=0).exp()
        return _joined(*segments.moments(x, shares))


class AttentiveStatisticsPooling(Pooling):
    """:class:`ChannelAttention`, batch normalisation and a linear map back to the width of a frame.

    Okabe et al. 2018 (https://arxiv.org/abs/1803.10963) as Desplanques et al. 2020 (https://arxiv.org/abs/2005.07143)
    extended it and SpeechBrain built it.
    """

    def __init__(self, dim: int, channels: int = 128) -> None:
        super().__init__()
        self.dim = dim
        self.attend = ChannelAttention(dim, channels)
        self.norm, self.map = BatchNorm(2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        if self.training:
            x, segments = segments.whole.pack(x)
        return self.map(self.norm(self.attend(x, segments)))


def _joined(mean: Tensor, variance: Tensor) -> Tensor:
    """Return mean and deviation, concatenated; least variance as in SpeechBrain."""
    return torch.cat([mean, variance.clamp(min=1e-12).sqrt()], 1)


class Convolution(nn.Module):
    """A convolution over time, ReLU and batch normalisation of packed frames ``(F, D)``.

    Time reflects at the ends of every utterance. It is a linear map of each frame and its neighbours, gathered: there
    is no padding to see.
    """

    def __init__(self, dim: int, channels: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.offsets = [dilation * (tap - kernel // 2) for tap in range(kernel)]
        self.linear, self.norm = nn.Linear(kernel * dim, channels), BatchNorm(channels)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        taps = [x.index_select(0, segments.neighbours(offset)) if offset else x for offset in self.offsets]
        return self.norm(self.linear(torch.cat(taps, 1)).relu())


class SqueezeExcitation(nn.Module):
    """Factors in [0, 1] on channels, from their mean over the utterance (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        mean = segments.sum(x) / segments.lengths[:, None]
        return x * segments.spread(self.excite(self.squeeze(mean).relu()).sigmoid())


class Res2NetBlock(nn.Module):
    """An SE-Res2Net block: channels in ``scale`` groups, each but the first convolved together with the one before."""

    def __init__(self, channels: int, squeezed: int, scale: int, dilation: int) -> None:
        super().__init__()
        width = channels // scale
        self.enter, self.leave = Convolution(channels, channels), Convolution(channels, channels)
        self.groups = nn.ModuleList(Convolution(width, width, 3, dilation) for _ in range(scale - 1))
        self.weigh = SqueezeExcitation(channels, squeezed)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        first, *others = self.enter(x, segments).chunk(len(self.groups) + 1, 1)
        done, last = [first], None
        for group, part in zip(self.groups, others, strict=True):
            last = group(part if last is None else part + last, segments)
            done.append(last)
        return x + self.weigh(self.leave(torch.cat(done, 1), segments), segments)


class EcapaPooling(Pooling):
    """ECAPA-TDNN (Desplanques et al. 2020, https://arxiv.org/abs/2005.07143), back to the width of a frame.

    ``channels`` of its convolutions (three times as many where its three blocks are joined), ``attention`` and
    ``squeezed`` channels in between: the sizes of the paper, and SpeechBrain's. Frame by frame it hears the whole
    utterance; over :class:`~serkit.models.layers.Windows` the statistics alone are those of each window.
    """

    def __init__(
        self, dim: int, channels: int = 512, attention: int = 128, squeezed: int = 128, scale: int = 8
    ) -> None:
        super().__init__()
        self.dim = dim
        self.enter = Convolution(dim, channels, 5)
        self.blocks = nn.ModuleList(Res2NetBlock(channels, squeezed, scale, dilation) for dilation in (2, 3, 4))
        self.join = Convolution(3 * channels, 3 * channels)
        self.attend = ChannelAttention(3 * channels, attention)
        self.norm, self.map = BatchNorm(6 * channels), nn.Linear(6 * channels, dim)

    def forward(self, x: Tensor, segments: Segments | Windows) -> Tensor:
        if self.training:  # batch normalisation must not see padding
            x, segments = segments.whole.pack(x)
        whole, found = segments.whole, []
        x = self.enter(x, whole)
        for block in self.blocks:
            x = block(x, whole)
            found.append(x)
        return self.map(self.norm(self.attend(self.join(torch.cat(found, 1), whole), segments)))


POOLINGS: dict[str, Callable[[int], Pooling]] = {
    "mean": MeanPooling,
    "sum": SumPooling,
    "max": MaxPooling,
    "mean+std": MeanStdPooling,
    "attention": AttentivePooling,
    "attentive-statistics": AttentiveStatisticsPooling,
    "ecapa": EcapaPooling,
}
