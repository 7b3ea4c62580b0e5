"""The recordings of a pretraining: which there are, how long they are, and their samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE, read_audio, read_info
from serkit.data.manifest import Manifest
from serkit.data.protocols import PROTOCOLS, create_folds
from serkit.data.published import PUBLISHED
from serkit.errors import InputError, nearest
from serkit.models.model import Waveforms
from serkit.training.material import read_data
from serkit.training.pretraining.options import PretrainData, PretrainRecipe, TestFold

Span = tuple[str, float | None, float | None]
"""A recording, and where in it an utterance begins and ends, in seconds."""


@dataclass(frozen=True)
class Clips:
    """``U`` utterances without labels; ``samples`` is how long they are at 16 kHz, as their headers say.

    ``manifest`` has a row for each of them, ``short`` counts those that were left out because they are too short.
    ``excluded`` are the speakers left out. With ``kept``, what was decoded stays in memory in half precision; without,
    it goes through half precision as well, so that it makes no difference.
    """

    manifest: Manifest
    samples: tuple[int, ...] = field(repr=False)
    kept: bool
    short: int = 0
    excluded: tuple[str, ...] = ()
    held: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def hours(self) -> float:
        """How much audio there is."""
        return sum(self.samples) / SAMPLING_RATE / 3600

    def read(self, row: int) -> Tensor:
        """Return the waveform ``(S,)`` of a row, float16."""
        if row in self.held:
            return self.held[row]
        audio, start, end = self.manifest.table.select("audio", "start", "end").row(row)
        # A peak of half a recording's range would still have 11 bits there: quiet speech keeps its details.
        waveform = torch.from_numpy(read_audio(audio, start, end)).half()
        if self.kept:
            self.held[row] = waveform
        return waveform

    def batch(
        self,
        rows: Sequence[int],
        most: int,
        padding: bool,
        seed: Sequence[int],
        each: Callable[[Callable[[int], Tensor], Iterable[int]], Iterable[Tensor]] = map,
    ) -> Waveforms:
        """Return the utterances ``rows``, each cropped at random to ``most`` samples, or to the shortest of them.

        With ``padding`` the shorter ones stay whole. ``seed`` and the row decide where a crop begins. ``each`` is what
        applies the reading to every row, such as the ``map`` of a pool of threads.
        """
        waveforms = list(each(self.read, rows))
        sizes = [min(len(waveform), most) for waveform in waveforms]
        sizes = sizes if padding else [min(sizes)] * len(sizes)
        cut = []
        for row, waveform, size in zip(rows, waveforms, sizes, strict=True):
            start = int(np.random.default_rng([*seed, row]).integers(len(waveform) - size + 1))
            cut.append(waveform[start : start + size].float())
        return Waveforms.pad(cut)


def load_clips(recipe: PretrainRecipe, workers: int | None = None) -> Clips:
    """Return the recordings of ``recipe`` without its excluded speakers; reads headers, and no audio.

    Raises ``InputError`` naming what is missing: data, a speaker or fold that does not exist, or anything long enough.
    """
    whose, data = f"recipe {recipe.name}", recipe.data
    manifest = read_data(data, whose)
    excluded = excluded_speakers(manifest, data, whose)
    manifest = Manifest(manifest.table.filter(~_speakers(manifest).is_in(sorted(excluded)).fill_null(False)))
    spans = manifest.table.select("audio", "start", "end").rows()
    with ThreadPoolExecutor(workers or count_cores()) as pool:
        samples = list(pool.map(_count_samples, spans, chunksize=64))
    fits = [count >= data.min_seconds * SAMPLING_RATE for count in samples]
    left = tuple(count for count, fit in zip(samples, fits, strict=True) if fit)
    if not left:
        raise InputError(f"{whose}: no recording is left: change data.where, exclusions or data.min_seconds")
    kept = sum(left) <= data.memory_hours * 3600 * SAMPLING_RATE
    chosen = Manifest(manifest.table.filter(pl.Series(fits)))
    return Clips(chosen, left, kept, len(samples) - len(left), tuple(sorted(excluded)))


def _speakers(manifest: Manifest) -> pl.Series:
    return manifest.table.select(pl.concat_str("corpus", "speaker", separator="/")).to_series()


def _count_samples(span: Span) -> int:
    audio, start, end = span
    if end is None:
        end = read_info(audio).seconds
        if end is None:
            return len(read_audio(audio, start))
    return round((end - (start or 0.0)) * SAMPLING_RATE)


def excluded_speakers(manifest: Manifest, data: PretrainData, whose: str) -> set[str]:
    """Return the speakers, as "corpus/speaker", that a recipe's data leave out."""
    known, excluded = set(_speakers(manifest).drop_nulls()), set(data.exclude_speakers)
    absent = sorted(excluded - known)
    if absent:
        raise InputError(f"{whose}: data.exclude_speakers names {absent[0]!r}{nearest(absent[0], sorted(known))}")
    return excluded.union(*map(partial(_test_speakers, manifest, whose), data.exclude_tests))


def _test_speakers(manifest: Manifest, whose: str, test: TestFold) -> set[str]:
    """Return who is tested in a fold; a published protocol looks at its own corpus alone."""
    if test.protocol not in PROTOCOLS:
        raise InputError(
            f"{whose}: data.exclude_tests: no protocol {test.protocol!r}{nearest(test.protocol, PROTOCOLS)}"
        )
    if test.protocol in PUBLISHED:
        corpus = PUBLISHED[test.protocol].corpus
        manifest = Manifest(manifest.table.filter(pl.col("corpus") == corpus))
        if not len(manifest):
            raise InputError(f"{whose}: data.exclude_tests: {test.protocol} is of {corpus}, which the data lack")
    folds = {fold.name: fold for fold in create_folds(manifest, test.protocol, dev=0)}
    if test.fold not in folds:
        near = nearest(test.fold, folds)
        raise InputError(f"{whose}: data.exclude_tests: {test.protocol} has no fold {test.fold!r}{near}")
    return set(_speakers(manifest.select(folds[test.fold].test)).drop_nulls())
