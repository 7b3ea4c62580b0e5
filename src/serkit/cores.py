"""How many processors this process may use."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Return the number of cores that the scheduler grants, which in a container may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
