"""What the student does not see: data2vec 2.0's two ways to draw masks of frames (https://arxiv.org/abs/2212.07525)."""

from __future__ import annotations

import numpy as np


def block_masks(
    frames: int, count: int, probability: float, length: int, adjust: float, rng: np.random.Generator
) -> np.ndarray:
    """Return ``count`` masks ``(count, frames)``, each with exactly ``int(frames * probability)`` True.

    Spans of ``length`` frames around centres drawn with replacement, as many as would cover ``probability + adjust``
    if none overlapped, cut off at the ends; then frames drawn at random are added or taken away.
    """
    centres = rng.integers(0, frames, (count, int(frames * (probability + adjust) / length)))
    spans = centres[:, :, None] + np.arange(length) - length // 2
    masks = np.zeros((count, frames), bool)
    masks[np.arange(count)[:, None], spans.clip(0, frames - 1).reshape(count, -1)] = True
    target = int(frames * probability)
    for mask in masks:
        surplus = int(mask.sum()) - target
        changed = rng.choice(np.flatnonzero(mask == (surplus > 0)), abs(surplus), replace=False)
        mask[changed] = surplus < 0
    return masks


def span_masks(frames: int, count: int, probability: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` masks ``(count, frames)`` with equally many True, fewer than ``probability`` as spans overlap.

    Spans of ``length`` frames begin at different places; there are ``probability * frames / length`` of them, rounded
    up or down at random. Masks with more frames than the smallest give some up at random.
    """
    length = min(length, frames)
    masks = np.zeros((count, frames), bool)
    for mask in masks:
        spans = min(int(probability * frames / length + rng.random()), max(frames - length, 1))
        starts = rng.choice(max(frames - length, 1), spans, replace=False)
        mask[(starts[:, None] + np.arange(length)).reshape(-1)] = True
    least = int(masks.sum(1).min())
    for mask in masks:
        mask[rng.choice(np.flatnonzero(mask), int(mask.sum()) - least, replace=False)] = False
    return masks
