"""Recordings as training sees them when the encoder is trained too: decoded on demand, augmented on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from serkit.data.audio import SAMPLING_RATE, read_audio
from serkit.models.model import Waveforms
from serkit.training.augment import Augmentation
from serkit.training.features import draw_crop

SHORTEST = SAMPLING_RATE // 4
"""Samples that a crop keeps at least."""


@dataclass(frozen=True)
class WaveformSet:
    """The counterpart of :class:`~serkit.training.features.FeatureSet` for fine-tuning.

    ``spans`` are (file, start, end) in seconds, ``targets (U,)`` class numbers, ``weights (U,)`` what an utterance
    counts in the loss. ``augmentation`` is applied anew every time, seeded by the training step's generator.
    """

    ids: tuple[str, ...]
    spans: tuple[tuple[str, float | None, float | None], ...]
    targets: Tensor
    weights: Tensor
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Sequence[int]) -> Waveforms:
        """Return the recordings at ``rows``, whole."""
        return Waveforms.pad([torch.from_numpy(read_audio(*self.spans[row])) for row in rows])

    def augmented_batch(self, rows: Sequence[int], rng: np.random.Generator, crop: float) -> Waveforms:
        """Return the recordings at ``rows``, augmented, of each a stretch of at least ``crop`` of its length."""
        return Waveforms.pad([torch.from_numpy(self._change(row, rng, crop)) for row in rows])

    def _change(self, row: int, rng: np.random.Generator, crop: float) -> np.ndarray:
        waveform = read_audio(*self.spans[row])
        seed = str(rng.integers(2**63))
        if self.augmentation is not None:
            waveform = self.augmentation(waveform, seed)
        return waveform[draw_crop(len(waveform), rng, crop, SHORTEST)]
