"""What probes look for: columns of a manifest, who speaks, acoustic descriptors; each with the folds it is fair on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from serkit.data.folds import Fold, group_of
from serkit.data.manifest import Manifest
from serkit.errors import InputError, nearest
from serkit.evaluation.layers.probes import Target, known_rows

ACOUSTIC = "acoustic"
"""Stands for all acoustic descriptors."""
MOST_PARTS = 5
DEFAULT = ("emotion", "gender", "speaker", ACOUSTIC)


def create_targets(
    manifest: Manifest,
    names: Sequence[str],
    folds: Sequence[Fold],
    acoustic: Mapping[str, ArrayLike],
    trained: bool = False,
) -> list[Target]:
    """Return a target for each of ``names``: "acoustic" (all of ``acoustic``), "speaker", or a column of ``manifest``.

    Text is probed as classes, numbers as numbers, under ``folds``, whose test speakers are new. Speakers are told apart
    by :func:`speaker_folds`: all of them, or, where a source was ``trained`` in those folds, the ones that each fold
    tests. Raises ``InputError`` for a column that is not there or has fewer than two values.
    """
    groups = group_of(manifest, "speaker")
    speakers = [groups[id] for id in manifest.ids]
    targets = []
    for name in names:
        if name == ACOUSTIC:
            targets += [
                Target(column, np.asarray(values, np.float64).tolist(), folds, speakers)
                for column, values in acoustic.items()
            ]
        elif name == "speaker":
            parts = {fold.name: fold.test for fold in folds} if trained else {"all": tuple(manifest.ids)}
            targets.append(
                Target(name, speakers, speaker_folds(manifest, parts), [str(text) for text in manifest.table["text"]])
            )
        else:
            targets.append(Target(name, _column(manifest, name), folds, speakers))
    return targets


def _column(manifest: Manifest, name: str) -> list:
    if name not in manifest.table.columns:
        raise InputError(f"no target {name!r}{nearest(name, [ACOUSTIC, *manifest.table.columns])}")
    column = manifest.table[name]
    values = column.cast(pl.Float64 if column.dtype.is_numeric() else pl.String).to_list()
    if len({values[row] for row in known_rows(values)}) < 2:
        raise InputError(f"target {name}: the manifest has fewer than two values of it: leave it out")
    return values


def speaker_folds(manifest: Manifest, within: Mapping[str, Sequence[str]]) -> list[Fold]:
    """Return folds that tell apart the speakers of each list of ids in ``within``, named like it.

    What is tested is a sentence (column ``text``) that the probe did not hear from anyone, where speakers said two or
    more; otherwise utterances drawn at random. Every fold says that it shares speakers, and how it was made.
    """
    speakers, texts = group_of(manifest, "speaker"), dict(manifest.table.select("id", "text").iter_rows())
    made = []
    for name, ids in within.items():
        if len({speakers[id] for id in ids}) < 2:
            raise InputError(f"target speaker: {name} has a single speaker: leave the target out")
        parts, note = _parts(list(ids), speakers, texts)
        for part in parts:
            train = tuple(id for id in ids if id not in part)
            test = tuple(id for id in ids if id in part)
            made.append(Fold(name, train, (), test, speakers, "speaker", True, note))
    return made


def _parts(ids: list[str], speakers: Mapping[str, str], texts: Mapping[str, str | None]) -> tuple[list[set[str]], str]:
    """Return disjoint test parts of ``ids`` such that every speaker is also outside of each."""
    sentences = sorted({str(texts[id]) for id in ids})
    everyone = {speakers[id] for id in ids}
    if len(sentences) > 1 and None not in {texts[id] for id in ids}:
        number = {text: place % MOST_PARTS for place, text in enumerate(sentences)}
        parts = [
            {id for id in ids if number[str(texts[id])] == part} for part in range(min(MOST_PARTS, len(sentences)))
        ]
        if all({speakers[id] for id in ids if id not in part} == everyone for part in parts):
            return parts, f"{len(parts)} parts by sentence"
    order = sorted(np.random.default_rng(0).permutation(np.array(sorted(ids))).tolist(), key=lambda id: speakers[id])
    sizes = {name: len(list(group)) for name, group in groupby(order, lambda id: speakers[id])}
    lonely = min(sizes, key=lambda name: sizes[name])
    if sizes[lonely] < 2:
        raise InputError(f"target speaker: {lonely!r} has a single utterance: leave the target or the speaker out")
    count = min(MOST_PARTS, min(sizes.values()))
    places = {id: place for name in sizes for place, id in enumerate(each for each in order if speakers[each] == name)}
    return [{id for id in ids if places[id] % count == part} for part in range(count)], f"{count} parts at random"
