"""Losses and gradients that PyTorch does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def concordance_loss(predictions: Tensor, targets: Tensor, sample: bool = False) -> Tensor:
    """Return one minus the concordance correlation (Lin 1989) of ``(B, A)`` tensors, averaged over dimensions.

    NaN in ``targets`` marks what is unknown; a dimension with fewer than two known values counts nothing. Where both
    sides are constant the correlation does not exist: the squared difference of the means then is the loss. Variances
    and covariance are those of the population, or with ``sample`` estimated from a sample.
    """
    known = ~targets.isnan()
    count = known.sum(0).clamp(min=1)
    wanted = torch.where(known, targets, 0.0)
    given = torch.where(known, predictions, 0.0)
    mean_wanted, mean_given = wanted.sum(0) / count, given.sum(0) / count
    from_wanted = (wanted - mean_wanted) * known
    from_given = (given - mean_given) * known
    pairs = (count - 1).clamp(min=1) if sample else count
    apart = (mean_wanted - mean_given).square()
    spread = (from_wanted.square().sum(0) + from_given.square().sum(0)) / pairs
    shared = 2 * (from_wanted * from_given).sum(0) / pairs
    # 1 - ccc, written so that the numerator does not cancel.
    losses = (spread - shared + apart) / (spread + apart).clamp(min=1e-8)
    losses = torch.where(spread > 1e-8, losses, apart)
    return (losses * (known.sum(0) > 1)).mean()


def presence_losses(scores: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the loss ``(..., B)`` of log-odds ``(..., B, C)`` of several labels at once: a sum over the classes.

    It is the binary cross-entropy of each cell of ``targets (B, C)``, 0 or 1, times its ``weights (B, C)``. NaN marks
    cells that are not known: they count nothing.
    """
    known = ~targets.isnan()
    wanted = torch.where(known, targets, 0.0).expand_as(scores)
    each = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
    return (each * (known if weights is None else known * weights)).sum(-1)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """Return ``x``; its gradient comes back with the other sign (Ganin et al. 2016)."""
    return _Reversal.apply(x)
