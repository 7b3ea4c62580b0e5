"""A chain of transforms, as data."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from serkit.errors import AudioError
from serkit.training.augment.registry import create_step

REVISION = 1
"""Raised when a transform's code changes what it does: then cached copies are computed again."""


class Augmentation:
    """A chain of transforms; each entry has a ``name``, a ``probability`` (1 when left out) and its own parameters.

    The result depends on the waveform and on ``seed`` alone. Raises ``InputError`` for unknown names and parameters.

    >>> chain = Augmentation([{"name": "gain", "decibels": [-6, 6]}])
    >>> chain(np.ones(4, np.float32), seed="1/clip").shape
    (4,)
    """

    def __init__(self, chain: Sequence[dict[str, Any]]) -> None:
        self.steps = [create_step(entry) for entry in chain]

    def __call__(self, waveform: np.ndarray, seed: str) -> np.ndarray:
        """Return the changed waveform ``(S,)``, float32. Raises ``AudioError`` naming the transform that fails."""
        rng = np.random.default_rng(zlib.crc32(f"{seed}|{json.dumps(self._facts(), sort_keys=True)}".encode()))
        x = waveform.astype(np.float64)
        for step in self.steps:
            if rng.random() < step.probability:
                x = np.asarray(step.change(x, rng))
                if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
                    raise AudioError(f"augment: {step.name} gives no finite waveform (S,): shape {x.shape}")
        return np.ascontiguousarray(x, dtype=np.float32)

    def description(self) -> str:
        """Return the chain as canonical JSON: part of the feature cache's keys.

        What stands for a folder of recordings is what is in it, not where it is. The versions of packages count here,
        but not in what is drawn.
        """
        versions = {step.name: step.version for step in self.steps if step.version is not None}
        return json.dumps([*self._facts(), *([versions] if versions else [])], sort_keys=True)

    def _facts(self) -> list[Any]:
        return [REVISION, [[step.name, step.probability, step.facts] for step in self.steps]]
