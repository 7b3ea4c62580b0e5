"""How fast this processor can multiply, which the other scripts compare with."""

from __future__ import annotations

import time

import torch


def measure_peak(kind: torch.dtype) -> float:
    """Return operations per second of processor time in a product of two matrices of 2048 rows, best of three."""
    a, b = torch.randn(2, 2048, 2048).to(kind).unbind()
    times = []
    for _ in range(4):
        began = time.process_time()
        a @ b
        times.append(time.process_time() - began)
    return 2 * 2048**3 / min(times[1:])
