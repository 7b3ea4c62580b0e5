"""Processes that train one model together: who they are, and how their gradients become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from serkit.errors import InputError


def create_accelerator(device: str) -> Accelerator:
    """Return the processes that train together: one, or those that ``accelerate launch`` started."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no GPU here")
    return Accelerator(cpu=device == "cpu")


def draw_seed(*numbers: int) -> int:
    """Return a seed that these ``numbers`` decide."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def add_up(weights: Sequence[Tensor], sums: Tensor, accelerator: Accelerator) -> None:
    """Add up gradients and loss sums over the processes, in place; what got no gradient gets zeros."""
    for weight in weights:
        if weight.grad is None:  # a dropped block, or a process without work in this step
            weight.grad = torch.zeros_like(weight)
    if accelerator.num_processes == 1:
        return
    parts = [*(weight.grad for weight in weights), sums]
    flat = torch.cat([part.flatten() for part in parts if part is not None])
    flat = accelerator.reduce(flat, "sum")
    for part, values in zip(parts, flat.split([part.numel() for part in parts if part is not None]), strict=True):
        assert part is not None
        part.copy_(values.view_as(part))
