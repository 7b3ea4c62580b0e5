"""Batch normalisation whose result does not depend on how a step was cut or dealt to processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from serkit.models.layers import EPSILON


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167) of rows ``(R, D)``, no padding.

    In training by the mean and variance of the rows at hand, but for a single row, which has no variance; otherwise by
    running ones. These do not move with every forward pass but with :func:`settle_norms`, once a step.
    """

    mean: Tensor
    variance: Tensor
    MOMENTUM = 0.1

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x, arguments = x.to(self.weight.dtype), (self.weight, self.bias)
        if not self.training or len(x) < 2:
            return nn.functional.batch_norm(x, self.mean, self.variance, *arguments, eps=EPSILON)
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        # Momentum 1 leaves the batch's own mean and unbiased variance in what is passed.
        out = nn.functional.batch_norm(x, mean, variance, *arguments, training=True, momentum=1.0, eps=EPSILON)
        self.seen.append(torch.cat([mean, variance, mean.new_ones(1)]))
        return out

    def moved(self, total: Tensor) -> None:
        """Move the running statistics to those seen: ``total (2D + 1,)`` is their sum, and how many there are."""
        count = total[-1]
        mean, variance = (total[:-1] / count.clamp(min=1)).chunk(2)
        share = 1 - (1 - self.MOMENTUM) ** count
        self.mean.lerp_(mean, share)
        self.variance.lerp_(variance, share)
        self.seen.clear()


def settle_norms(module: nn.Module, add_up: Callable[[Tensor], Tensor] = lambda total: total) -> None:
    """Move the running statistics of every :class:`BatchNorm` in ``module`` by what it saw since the last time.

    Several forward passes of a step, in several processes whose sums ``add_up`` adds, count as their mean: the order in
    which they came does not matter.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    if not norms:
        return
    totals = [sum(norm.seen, norm.mean.new_zeros(2 * len(norm.mean) + 1)) for norm in norms]
    added = add_up(torch.cat(totals)).split([len(total) for total in totals])
    for norm, total in zip(norms, added, strict=True):
        norm.moved(total)
