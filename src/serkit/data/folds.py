"""Folds: three disjoint lists of utterances, how many speakers training and test share, and folds as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from serkit.data.i3_csv import write_split
from serkit.data.manifest import Manifest
from serkit.data.published_csv import write_published_csv
from serkit.errors import InputError, nearest

UNKNOWN = "none"
"""In place of a column that groups utterances: each is a group of its own, because nobody knows better."""


@dataclass(frozen=True)
class Fold:
    """Three disjoint lists of utterance ids, and the proof that they share no group.

    ``groups`` maps every id to its speaker (or session, or corpus: see ``group``). Raises ``InputError``
    when ids overlap, when the training or test part is empty, or when a group of the test part is also in train or dev,
    unless the protocol says so with ``declares_shared``; ``note`` tells why. ``shared`` counts those groups;
    ``dev_shared`` counts groups that train and dev have in common, which happens only when the training part has a
    single speaker or every speaker is to be seen in training. With ``group`` "none" nothing is known of speakers:
    utterances are disjoint, ``shared`` is None, and no number says that speakers are. ``place`` is the folder in which
    the format "i3" keeps this split.

    ``dev_is_test`` is for repeating what was chosen on the test part: dev and test then are the same utterances.
    ``dev_by_chance`` says that the dev part was drawn from all training utterances, whoever speaks.
    """

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]
    groups: Mapping[str, str] = field(repr=False)
    group: str = "speaker"
    declares_shared: bool = False
    note: str = ""
    place: str = ""
    dev_is_test: bool = False
    dev_by_chance: bool = False

    def __post_init__(self) -> None:
        if self.dev_is_test and self.dev != self.test:
            raise InputError(f"fold {self.name}: dev_is_test, but the dev part is another")
        count = Counter((*self.train, *(() if self.dev_is_test else self.dev), *self.test))
        twice = [id for id, n in count.items() if n > 1]
        if twice:
            raise InputError(f"fold {self.name}: utterance {twice[0]!r} stands in more than one part ({len(twice)} do)")
        for part in ("train", "test"):
            if not getattr(self, part):
                raise InputError(f"fold {self.name}: the {part} part is empty")
        seen = self._groups(self.train) if self.dev_is_test else self._groups(self.train, self.dev)
        both = sorted(seen & self._groups(self.test))
        if both and not self.declares_shared:
            raise InputError(
                f"fold {self.name}: {self.group} {both[0]!r} is in training and test "
                f"({len(both)} of them are): the numbers would not hold for new {self.group}s"
            )

    def _groups(self, *parts: Sequence[str]) -> set[str]:
        return {self.groups[id] for part in parts for id in part}

    @property
    def shared(self) -> int | None:
        """Groups that are in the test part and also in train or dev; None where they are unknown."""
        if self.group == UNKNOWN:
            return None
        return len(self._groups(self.train, self.dev) & self._groups(self.test))

    @property
    def train_shared(self) -> int | None:
        """Groups that are in the test part and also in train, whether or not in dev; None where they are unknown."""
        return None if self.group == UNKNOWN else len(self._groups(self.train) & self._groups(self.test))

    @property
    def dev_shared(self) -> int:
        """Groups that are in both train and dev."""
        return len(self._groups(self.train) & self._groups(self.dev))


def stamp(folds: Iterable[Fold]) -> str:
    """Return what every number made with ``folds`` carries: ``speakers shared: N``, the largest over the folds.

    A note of the protocol follows in brackets, and how many are in train where dev has more of them; where no speaker
    is known it is ``speakers unknown``. What was chosen with utterances of the test part, or of training speakers, is
    said behind.
    """
    folds = list(folds)
    return _shared(folds) + _chosen(folds)


def _most(counts: Iterable[int | None]) -> int:
    return max(count or 0 for count in counts)


def _chosen(folds: Sequence[Fold]) -> str:
    if any(fold.dev_is_test for fold in folds):
        return f"; chosen on the test part, {folds[0].group}s shared with train: {_most(f.train_shared for f in folds)}"
    shared = max(fold.dev_shared for fold in folds if fold.dev_by_chance) if folds[0].dev_by_chance else 0
    return f"; dev utterances drawn by chance, {folds[0].group}s shared by train and dev: {shared}" if shared else ""


def _shared(folds: Sequence[Fold]) -> str:
    known = [fold.shared for fold in folds if fold.shared is not None]
    if not known:
        return "speakers unknown"
    note = folds[0].note if max(known) else ""
    trained = _most(fold.train_shared for fold in folds)
    if note and trained < max(known):
        note += f"; {trained} of them with train"
    return f"{folds[0].group}s shared: {max(known)}" + (f" ({note})" if note else "")


def group_of(manifest: Manifest, column: str) -> dict[str, str]:
    """Map ids to their ``column``; speakers and sessions of different corpora differ even when they are named alike.

    With ``column`` "none" every utterance is a group of its own.
    """
    if column == UNKNOWN:
        column = "id"
    if column not in manifest.table.columns:
        raise InputError(f"manifest: has no column {column!r}{nearest(column, manifest.table.columns)}")
    table = manifest.table.select("id", *dict.fromkeys(("corpus", column)) if column != "id" else ("corpus",))
    missing = table.filter(table[column].is_null())["id"].to_list()
    if missing:
        raise InputError(
            f"manifest: utterance {missing[0]!r} has no {column} ({len(missing)} lack it): name it, or use a protocol "
            f'that takes group="{UNKNOWN}" (part, group-k-fold, random-k-fold)'
        )
    if table["id"].is_duplicated().any():
        raise InputError(
            f"manifest: the id {table.filter(table['id'].is_duplicated())['id'][0]!r} stands more than once"
        )
    prefixed = table["corpus"].n_unique() > 1 and column not in ("corpus", "id")
    return {
        row["id"]: f"{row['corpus']}/{row[column]}" if prefixed else row[column] for row in table.iter_rows(named=True)
    }


def hold_out_dev(
    ids: Sequence[str],
    groups: Mapping[str, str],
    labels: Mapping[str, str | None],
    share: float,
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide training ``ids`` into train and dev by group; with a single group, by utterance, stratified by label."""
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise InputError(f"protocol: dev is a share in [0, 1), got {share!r}")
    if share == 0:
        return tuple(ids), ()
    names = sorted({groups[id] for id in ids})
    if len(names) > 1:
        count = min(len(names) - 1, max(1, round(share * len(names))))
        chosen = {names[index] for index in rng.permutation(len(names))[:count]}
        return tuple(id for id in ids if groups[id] not in chosen), tuple(id for id in ids if groups[id] in chosen)
    dev: set[str] = set()
    for label in sorted({str(labels[id]) for id in ids}):
        same = sorted(id for id in ids if str(labels[id]) == label)
        count = min(len(same) - 1, round(share * len(same)))  # no class may leave the training part
        dev.update(same[index] for index in rng.permutation(len(same))[:count])
    return tuple(id for id in ids if id not in dev), tuple(id for id in ids if id in dev)


def write_folds(manifest: Manifest, folds: Iterable[Fold], folder: str | Path, format: str = "parquet") -> list[Path]:
    """Write every part of every fold into ``folder`` as a manifest with its ``part`` column, and return the files.

    They are named ``FOLD.PART.FORMAT``. Format "cai" writes the CSV of Cai et al. 2021 instead, as
    ``CORPUS_FOLD.PART.csv`` (``iemocap_01F.train.csv``); "i3" writes :mod:`serkit.data.i3_csv` where its authors'
    program looks for a split of ``FOLDER.csv``: ``train_test_validation/SEED/speaker_ind_True_100_80/`` with train.csv,
    val.csv and test.csv, the number of the fold in place of a seed where the protocol names none. Raises
    ``InputError`` for an unknown format.
    """
    if format not in FORMATS:
        raise InputError(f"no format {format!r} of folds{nearest(format, FORMATS)}")
    corpora = manifest.table["corpus"].unique().to_list()
    prefix = f"{corpora[0]}_" if format == "cai" and len(corpora) == 1 and corpora[0] else ""
    written = []
    for number, fold in enumerate(folds):
        parts = {"train": fold.train, "dev": fold.dev, "test": fold.test}
        if format == "i3":
            place = fold.place or i3_place(number)
            written += write_split(manifest, parts, Path(folder) / "train_test_validation" / place)
            continue
        stem = prefix + fold.name.replace("/", "-")
        for part, ids in parts.items():
            if not ids:
                continue
            path = Path(folder) / f"{stem}.{part}.{'csv' if format == 'cai' else format}"
            chosen = manifest.select(ids)
            if format == "cai":
                write_published_csv(chosen, path)
            else:
                Manifest(chosen.table.with_columns(part=pl.lit(part))).write(path)
            written.append(path)
    return written


def i3_place(seed: int, amount: float = 1.0, train: float = 0.8) -> str:
    """Return the folder of a split in the format "i3": ``amount`` of the data, ``train`` of them not tested."""
    return f"{seed}/speaker_ind_True_{int(100 * amount)}_{int(100 * train)}"  # truncated there too: .29 is 28


FORMATS = ("parquet", "csv", "jsonl", "cai", "i3")
"""How :func:`write_folds` writes."""
