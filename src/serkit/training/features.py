"""Cached features as training sees them: packed batches, copies and crops for augmentation, normalisation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from serkit.encoders.cache import FeatureCache
from serkit.models.heads import Batch, Stream
from serkit.models.layers import Segments, Standardise, divisor, stride_mean

Normalise = Literal["none", "global", "speaker"]


@dataclass(frozen=True)
class StreamSet:
    """The features that one encoder gives for ``U`` utterances.

    ``statistics (copies, U, 2, N, D)``: mean and deviation over the ``lengths (copies, U)`` frames of each copy of the
    audio (the first is the recording itself, the others are augmented). ``copies`` holds one list of arrays
    ``(N, T, D)`` per copy, or none when the head only needs statistics. ``scaling (U, 2, N, D)``: see
    :class:`~serkit.models.heads.Stream`. With ``scalar`` all dimensions of a layer are standardised alike.
    """

    statistics: Tensor
    lengths: Tensor
    copies: tuple[tuple[Tensor, ...], ...] = field(repr=False)
    scaling: Tensor | None = None
    scalar: bool = False

    @classmethod
    def of_arrays(cls, copies: Sequence[Sequence[Tensor]], scalar: bool = False) -> StreamSet:
        """Take statistics of ``copies`` of arrays ``(N, T, D)``."""
        statistics = torch.stack([torch.stack([array_statistics(array) for array in copy]) for copy in copies])
        lengths = torch.tensor([[array.shape[1] for array in copy] for copy in copies])
        return cls(statistics, lengths, tuple(tuple(copy) for copy in copies), None, scalar)

    def take(self, rows: Sequence[int], copies: int | None) -> StreamSet:
        """Return the utterances at ``rows`` (and only the first ``copies``)."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return replace(
            self,
            statistics=self.statistics[:copies, index],
            lengths=self.lengths[:copies, index],
            copies=tuple(tuple(copy[row] for row in rows) for copy in self.copies[:copies]),
            scaling=None if self.scaling is None else self.scaling[index],
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation ``(N, D)`` over all frames of all utterances and copies."""
        statistics = self.statistics.flatten(0, 1).double()
        shares = self.lengths.flatten().double()[:, None, None]
        shares = shares / shares.sum()
        means, sds = statistics.unbind(1)
        mean = (shares * means).sum(0)
        variance = (shares * (sds.square() + (means - mean).square())).sum(0)
        if self.scalar:
            whole = mean.mean(1, keepdim=True).expand_as(mean)
            variance = (variance + (mean - whole).square()).mean(1, keepdim=True).expand_as(mean)
            mean = whole
        return mean.float(), divisor(variance.sqrt().float())

    def stream(self, copies: Sequence[int], rows: Sequence[int], spans: Sequence[slice], cropped: bool) -> Stream:
        """Return the copy of each of ``rows`` that ``copies`` says, frames cut to ``spans``.

        Statistics are those of the whole recording, and of what is kept when it is ``cropped``.
        """
        index = torch.as_tensor(rows)
        scaling = None if self.scaling is None else self.scaling[index]
        statistics = self.statistics[torch.as_tensor(copies), index]
        if not self.copies:
            return Stream(statistics)
        arrays = [self.copies[copy][row] for copy, row in zip(copies, rows, strict=True)]
        arrays = [
            array if span == slice(0, array.shape[1]) else array[:, span]
            for array, span in zip(arrays, spans, strict=True)
        ]
        if cropped:
            statistics = scaled(torch.stack([array_statistics(array) for array in arrays]), scaling)
        if scaling is None and arrays[0].nbytes < SMALL:
            arrays = [torch.cat(arrays, 1)]
        return Stream(statistics, arrays, scaling)


@dataclass(frozen=True)
class FeatureSet:
    """The features of ``U`` utterances, one :class:`StreamSet` per encoder.

    ``targets (U,)`` are class numbers, ``weights (U,)`` what an utterance counts in the loss; of several labels at once
    both are ``(U, C)`` (:mod:`~serkit.training.presence`). ``words (U, L)`` are the ids of what is said where a head
    reads. A head sees at most ``max_frames`` frames, the first ones. In a ``union`` every
    copy of an utterance is an example of its own; otherwise an utterance is one, of which a copy is drawn.
    """

    ids: tuple[str, ...]
    streams: tuple[StreamSet, ...]
    targets: Tensor
    weights: Tensor
    max_frames: int | None = None
    union: bool = False
    words: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def copies(self) -> int:
        """Copies of every recording, itself included."""
        return len(self.streams[0].statistics) if self.streams else 1

    @property
    def examples(self) -> int:
        """What an epoch goes through; in a union copy after copy."""
        return len(self) * (self.copies if self.union else 1)

    def take(self, rows: Sequence[int], copies: int | None = None, weights: Tensor | None = None) -> FeatureSet:
        """Return the utterances at ``rows`` (and only the first ``copies``)."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            streams=tuple(stream.take(rows, copies) for stream in self.streams),
            targets=self.targets[index],
            words=None if self.words is None else self.words[index],
            weights=self.weights[index] if weights is None else weights,
        )

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the recordings at ``rows``, as much of them as a head sees."""
        return self._batch([0] * len(rows), list(rows), None)

    def all_copies(self) -> Batch:
        """Return every copy of every utterance as one batch, copy after copy."""
        copies = [copy for copy in range(self.copies) for _ in range(len(self))]
        return self._batch(copies, list(range(len(self))) * self.copies, None)

    def augmented_batch(self, numbers: Sequence[int], rng: np.random.Generator, crop: float) -> Batch:
        """Return a stretch of at least ``crop`` of the length of each of the examples ``numbers``."""
        rows = self.rows(numbers)
        if self.union:
            copies = [number // len(self) for number in numbers]
        else:
            copies = rng.integers(self.copies, size=len(rows)).tolist()
        return self._batch(copies, rows, None if crop == 1 else lambda size: draw_crop(size, rng, crop))

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Return the utterances of the examples ``numbers``."""
        return [number % len(self) for number in numbers]

    def _batch(self, copies: list[int], rows: list[int], cut: Callable[[int], slice] | None) -> Batch:
        words = None if self.words is None else self.words[torch.as_tensor(rows)]
        if not self.streams or not self.streams[0].copies:
            return Batch(tuple(stream.stream(copies, rows, (), False) for stream in self.streams), words=words)
        sizes = [
            min(self.max_frames or sys.maxsize, *(stream.copies[copy][row].shape[1] for stream in self.streams))
            for copy, row in zip(copies, rows, strict=True)  # streams may differ by a frame
        ]
        spans = [slice(0, size) if cut is None else cut(size) for size in sizes]
        lengths = torch.tensor([span.stop - span.start for span in spans])
        streams = tuple(stream.stream(copies, rows, spans, cut is not None) for stream in self.streams)
        return Batch(streams, Segments.packed(lengths), words)


def load_stream(
    cache: FeatureCache,
    keys: Sequence[Sequence[str]],
    layers: Sequence[int],
    stride: int,
    frames: bool,
    zero_tail: bool = False,
    scalar: bool = False,
) -> StreamSet:
    """Read one encoder's features from the cache: ``keys`` has one list of cache keys per copy.

    With ``stride`` 1 the frames stay in the mapped files; otherwise means over ``stride`` frames are kept in memory,
    and statistics are those of the means; with ``zero_tail`` (see ``stride_mean``) those of the single frames.
    """
    listed = list(layers)
    adjacent = listed == list(range(listed[0], listed[-1] + 1))
    # Adjacent layers are a view of the mapped file, where a list would make a copy.
    chosen = slice(listed[0], listed[-1] + 1) if adjacent else listed
    copies: tuple[tuple[Tensor, ...], ...] = ()
    if frames:
        copies = tuple(
            tuple(_load_array(cache.frames(key)[chosen], stride, zero_tail) for key in copy) for copy in keys
        )
    if frames and stride > 1 and not zero_tail:
        return StreamSet.of_arrays(copies, scalar)
    pooled = np.stack([[cache.pooled(key)[:, chosen] for key in copy] for copy in keys])
    lengths = np.stack([cache.lengths(list(copy)) for copy in keys])
    return StreamSet(torch.from_numpy(pooled), torch.from_numpy(lengths), copies, None, scalar)


def normalise_by_speaker(stream: StreamSet, speakers: Sequence[str]) -> StreamSet:
    """Standardise every speaker's features by that speaker's own (unlabelled) data: transductive, so say so.

    Statistics are those of the recordings themselves, over utterances for statistics and over frames for arrays, which
    stay as they are: ``scaling`` says by what each is to be standardised.
    """
    members = [[row for row, name in enumerate(speakers) if name == speaker] for speaker in sorted(set(speakers))]
    if stream.copies:
        scaling = torch.empty_like(stream.statistics[0])
        for rows in members:
            scaling[rows] = torch.stack(stream.take(rows, 1).moments())
        return replace(stream, statistics=scaled(stream.statistics, scaling), scaling=scaling)
    statistics = stream.statistics.clone()
    for rows in members:
        part = stream.statistics[0, rows]
        statistics[:, rows] = (stream.statistics[:, rows] - part.mean(0)) / divisor(part.std(0, correction=0))
    return replace(stream, statistics=statistics)


def scaled(statistics: Tensor, scaling: Tensor | None) -> Tensor:
    """Return what ``statistics (..., U, 2, N, D)`` become when the frames are standardised by ``scaling``."""
    if scaling is None:
        return statistics
    mean, sd = scaling.unbind(1)
    return torch.stack([(statistics[..., 0, :, :] - mean) / sd, statistics[..., 1, :, :] / sd], -3)


def fit_standardisation(head: nn.Module, features: FeatureSet) -> None:
    """Set the statistics of every :class:`Standardise` in ``head`` from the training part, all copies together."""
    for module in head.modules():
        if isinstance(module, Standardise):
            stream = features.streams[module.stream]
            if module.mean.ndim == 3:
                flat = stream.statistics.flatten(0, 1)
                module.fit(flat.mean(0), flat.std(0, correction=0))
            else:
                module.fit(*stream.moments())


def array_statistics(array: Tensor) -> Tensor:
    """Return mean and population standard deviation over time ``(2, N, D)`` of one utterance ``(N, T, D)``."""
    values = array.float()
    mean = values.mean(1)
    # Not Tensor.std: over a dimension that is not the last it takes ten times as long.
    return torch.stack([mean, (values - mean[:, None]).square().mean(1).sqrt()])


SMALL = 1 << 20
"""Bytes below which arrays are joined: then the calls cost more than the copy."""


def draw_crop(size: int, rng: np.random.Generator, crop: float, shortest: int = 1) -> slice:
    """Draw a stretch of at least ``crop`` of ``size`` and at least ``shortest``, or all when there is less."""
    kept = min(size, max(shortest, round(size * rng.uniform(crop, 1))))
    start = int(rng.integers(size - kept + 1))
    return slice(start, start + kept)


def _load_array(frames: np.ndarray, stride: int, zero_tail: bool) -> Tensor:
    array = torch.from_numpy(np.asarray(frames))
    if stride == 1:
        return array
    means = stride_mean(array.float()[None], torch.tensor([array.shape[1]]), stride, zero_tail)[0][0]
    return means.to(array.dtype)
