"""Which clips an update sees, in which batches: clips of similar length, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEP = 1600
"""Samples, 0.1 s: clips whose lengths differ by less change places at random from epoch to epoch."""

Batch = list[int]


def plan_updates(
    samples: Sequence[int], batch_samples: int, update_batches: int, rng: np.random.Generator
) -> list[list[Batch]]:
    """Return the updates of an epoch over all clips, each a list of up to ``update_batches`` batches of row numbers."""
    batches = plan_batches(samples, batch_samples, rng)
    order = rng.permutation(len(batches))
    return [
        [batches[number] for number in order[first : first + update_batches]]
        for first in range(0, len(batches), update_batches)
    ]


def plan_batches(samples: Sequence[int], batch_samples: int, rng: np.random.Generator) -> list[Batch]:
    """Cut clips of ``samples``, sorted by length, into batches of at most ``batch_samples``, padding included.

    Lengths count rounded up to :data:`STEP`; within it the order is random. A clip too long for a batch is one by
    itself. How many batches there are does not depend on ``rng``.
    """
    sizes = -(-np.asarray(samples) // STEP) * STEP
    batches: list[Batch] = []
    for row in np.lexsort([rng.permutation(len(sizes)), sizes]).tolist():
        if batches and (len(batches[-1]) + 1) * sizes[row] <= batch_samples:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def count_updates(samples: Sequence[int], batch_samples: int, update_batches: int) -> int:
    """Return how many updates an epoch has."""
    return -(-len(plan_batches(samples, batch_samples, np.random.default_rng(0))) // update_batches)
