"""Cached features as training sees them: packed batches, copies and crops for augmentation, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from serkit.encoders.cache import FeatureCache
from serkit.models.heads import Batch
from serkit.models.layers import Segments, Standardise, divisor, stride_mean

Normalise = Literal["none", "global", "speaker"]


@dataclass(frozen=True)
class FeatureSet:
    """The features of ``U`` utterances.

    ``copies`` holds one list of arrays ``(N, T, D)`` per copy of the audio (the first is the recording itself, the
    others are augmented), or none when the head only needs ``statistics (copies, U, 2, N, D)``. ``targets (U,)`` are
    class numbers, ``weights (U,)`` what an utterance counts in the loss.
    """

    ids: tuple[str, ...]
    statistics: Tensor
    copies: tuple[tuple[Tensor, ...], ...] = field(repr=False)
    targets: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int], copies: int | None = None, weights: Tensor | None = None) -> FeatureSet:
        """Return the utterances at ``rows`` (and only the first ``copies``)."""
        index = torch.as_tensor(rows, dtype=torch.long)
        arrays = tuple(tuple(copy[row] for row in rows) for copy in self.copies[:copies])
        return FeatureSet(
            tuple(self.ids[row] for row in rows),
            self.statistics[:copies, index],
            arrays,
            self.targets[index],
            self.weights[index] if weights is None else weights,
        )

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the recordings at ``rows``, whole."""
        arrays = [self.copies[0][row] for row in rows] if self.copies else []
        return _packed(self.statistics[0, torch.as_tensor(rows)], arrays)

    def all_copies(self) -> Batch:
        """Return every copy of every utterance as one batch of statistics, copy after copy."""
        arrays = [array for copy in self.copies for array in copy]
        return _packed(self.statistics.flatten(0, 1), arrays)

    def augmented_batch(self, rows: Sequence[int], rng: np.random.Generator, crop: float) -> Batch:
        """Return, for each of ``rows``, a stretch of at least ``crop`` of the length of a copy drawn at random."""
        chosen = rng.integers(len(self.statistics), size=len(rows))
        index = torch.as_tensor(rows)
        arrays = [self.copies[copy][row] for copy, row in zip(chosen, rows, strict=True)] if self.copies else []
        if crop == 1 or not arrays:
            return _packed(self.statistics[torch.as_tensor(chosen), index], arrays)
        arrays = [array[:, draw_crop(array.shape[1], rng, crop)] for array in arrays]
        return _packed(torch.stack([array_statistics(array) for array in arrays]), arrays)


def load_features(
    cache: FeatureCache,
    keys: Sequence[Sequence[str]],
    ids: Sequence[str],
    targets: Tensor,
    layers: Sequence[int],
    stride: int,
    frames: bool,
) -> FeatureSet:
    """Read from the cache: ``keys`` has one list of cache keys per copy, in the order of ``ids``.

    With ``stride`` 1 the frames stay in the mapped files; otherwise means over ``stride`` frames are kept in memory.
    """
    listed = list(layers)
    adjacent = listed == list(range(listed[0], listed[-1] + 1))
    # Adjacent layers are a view of the mapped file, where a list would make a copy.
    chosen = slice(listed[0], listed[-1] + 1) if adjacent else listed
    copies: tuple[tuple[Tensor, ...], ...] = ()
    if frames:
        copies = tuple(tuple(_load_array(cache.frames(key)[chosen], stride) for key in copy) for copy in keys)
    if stride == 1 or not frames:
        pooled = np.stack([[cache.pooled(key)[:, chosen] for key in copy] for copy in keys])
        statistics = torch.from_numpy(pooled)
    else:
        statistics = torch.stack([torch.stack([array_statistics(array) for array in copy]) for copy in copies])
    return FeatureSet(tuple(ids), statistics, copies, targets, torch.ones(len(ids)))


def normalise_by_speaker(features: FeatureSet, speakers: Sequence[str]) -> FeatureSet:
    """Standardise every speaker's features by that speaker's own (unlabelled) data: transductive, so say so.

    Statistics are those of the recordings themselves, over utterances for statistics and over frames for arrays.
    """
    statistics = features.statistics.clone()
    copies = [list(copy) for copy in features.copies]
    for speaker in sorted(set(speakers)):
        rows = torch.as_tensor([row for row, name in enumerate(speakers) if name == speaker])
        part = features.statistics[0, rows]
        statistics[:, rows] = (features.statistics[:, rows] - part.mean(0)) / divisor(part.std(0, correction=0))
        if copies:
            mean, sd = frame_moments([features.copies[0][row] for row in rows])
            for copy in copies:
                for row in rows.tolist():
                    copy[row] = ((copy[row].float() - mean[:, None]) / sd[:, None]).half()
    if copies:
        statistics = torch.stack([torch.stack([array_statistics(array) for array in copy]) for copy in copies])
    return replace(features, statistics=statistics, copies=tuple(tuple(copy) for copy in copies))


def fit_standardisation(head: nn.Module, features: FeatureSet) -> None:
    """Set the statistics of every :class:`Standardise` in ``head`` from the training part, all copies together."""
    flat = features.statistics.flatten(0, 1)
    mean, sd = flat.mean(0), flat.std(0, correction=0)
    frames = frame_moments([array for copy in features.copies for array in copy]) if features.copies else None
    for module in head.modules():
        if isinstance(module, Standardise):
            if module.mean.ndim == 3:
                module.fit(mean, sd)
            elif frames is not None:
                module.fit(*frames)


def frame_moments(arrays: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation ``(N, D)`` over all frames of ``arrays (N, T, D)``."""
    total = sum(array.shape[1] for array in arrays)
    mean = torch.stack([array.float().sum(1) for array in arrays]).sum(0) / total
    squares = torch.stack([(array.float() - mean[:, None]).square().sum(1) for array in arrays]).sum(0)
    return mean, divisor((squares / total).sqrt())


def array_statistics(array: Tensor) -> Tensor:
    """Return mean and population standard deviation over time ``(2, N, D)`` of one utterance ``(N, T, D)``."""
    values = array.float()
    mean = values.mean(1)
    # Not Tensor.std: over a dimension that is not the last it takes ten times as long.
    return torch.stack([mean, (values - mean[:, None]).square().mean(1).sqrt()])


SMALL = 1 << 20
"""Bytes below which arrays are joined: then the calls cost more than the copy."""


def _packed(statistics: Tensor, arrays: Sequence[Tensor]) -> Batch:
    if not arrays:
        return Batch(statistics)
    segments = Segments.packed(torch.tensor([array.shape[1] for array in arrays]))
    if arrays[0].nbytes < SMALL:
        arrays = [torch.cat(list(arrays), 1)]
    return Batch(statistics, arrays, segments)


def draw_crop(size: int, rng: np.random.Generator, crop: float, shortest: int = 1) -> slice:
    """Draw a stretch of at least ``crop`` of ``size`` and at least ``shortest``, or all when there is less."""
    kept = min(size, max(shortest, round(size * rng.uniform(crop, 1))))
    start = int(rng.integers(size - kept + 1))
    return slice(start, start + kept)


def _load_array(frames: np.ndarray, stride: int) -> Tensor:
    array = torch.from_numpy(np.asarray(frames))
    if stride == 1:
        return array
    return stride_mean(array.float()[None], torch.tensor([array.shape[1]]), stride)[0][0].half()
