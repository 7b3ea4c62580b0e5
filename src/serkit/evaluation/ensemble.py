"""Trained models asked together: the mean of what they say, from one model to all of them.

A *member* is one seed of one run; in every fold it is a model of its own. Members are put in order within each fold,
and ensemble k is the first k of a fold's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from serkit.errors import InputError, nearest
from serkit.evaluation.metrics import FROM_CONFUSION, Floats, confusion, encode
from serkit.evaluation.predictions import (
    COLUMNS,
    classes_of,
    has_classes,
    judged_rows,
    probabilities_of,
)

AVERAGES = ("logits", "probabilities")
MONITORS = ("uar", "accuracy", "loss")
"""What a dev part can say of a member; runs name theirs as ``training.monitor``."""

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""The least probability that a run's float32 softmax can tell from 0: what a 0 is counted as among logits."""

FACTS = ("id", "fold", "truth", "speaker", "gender", "corpus")

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The utterances of all folds that every member judges, and what each says of them.

    ``rows`` (U rows) has the columns ``FACTS``; ``probabilities`` is (M, U, C), ``predictions`` (M, U) and ``truth``
    (U,) count classes from 0, and ``fold`` (U,) counts the folds.
    """

    rows: pl.DataFrame
    probabilities: Floats
    predictions: Integers
    truth: Integers
    fold: Integers


@dataclass(frozen=True)
class Members:
    """Trained models that can be asked together: ``names`` are (run, seed); ``dev`` is None where there is none."""

    names: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    folds: tuple[str, ...]
    test: Part
    dev: Part | None

    def __len__(self) -> int:
        return len(self.names)


def pool_members(tables: Mapping[str, pl.DataFrame], dev: bool = True) -> Members:
    """Return every seed of every run {name: predictions table} as a member, seeds of all runs in turn.

    Without ``dev`` the dev rows are not looked at. Raises ``InputError`` naming the run where the members do not judge
    the same utterances in the same folds, know other truths or have other classes. Dev parts must be the same too, but
    may all be missing.
    """
    if not tables:
        raise InputError("an ensemble needs a run folder")
    pairs = [(name, _checked(name, table)) for name, table in tables.items()]
    classes = classes_of(pairs[0][1])
    for name, table in pairs[1:]:
        if set(classes_of(table)) != set(classes):
            both = f"{', '.join(classes)} and {', '.join(classes_of(table))}"
            raise InputError(f"{pairs[0][0]} and {name}: the runs have different classes: {both}")
    found = {
        (name, seed): part for name, table in pairs for (seed,), part in table.group_by("seed", maintain_order=True)
    }
    members = {key: found[key] for key in sorted(found, key=lambda key: key[1])}  # stable: runs as they were named
    test = _part(members, "test", classes)
    assert test is not None
    folds = tuple(test.rows["fold"].unique().sort().to_list())
    held = _part(members, "dev", classes) if dev else None
    if held is not None and set(held.rows["fold"]) != set(folds):
        held = None  # some folds have nothing to choose by
    test = _number(test, folds)
    return Members(tuple(members), classes, folds, test, None if held is None else _number(held, folds))


def _checked(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return the test and dev rows of a run, checked."""
    several = [column for column in table.columns if column.endswith("_present")]
    if several:
        raise InputError(f"{name}: has several labels at once ({several[0]}): ensembles are for runs with classes")
    if not has_classes(table):
        raise InputError(f"{name}: learned no classes (no p_<class> columns): ensembles are for runs with classes")
    try:
        columns = [*COLUMNS, *(f"p_{label}" for label in classes_of(table))]
        test = judged_rows(table).select(columns)
        dev = table.filter(pl.col("part") == "dev").with_columns(part=pl.lit("test"))  # checked as that is, by fold
        held = [judged_rows(rows).select(columns).with_columns(part=pl.lit("dev")) for rows in dev.partition_by("fold")]
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return pl.concat([test, *held])


def _part(members: Mapping[tuple[str, int], pl.DataFrame], part: str, classes: tuple[str, ...]) -> Part | None:
    """Return what all members say of a part, None where no member has it; ``fold`` is not counted yet."""
    tables = {key: rows.filter(pl.col("part") == part).sort("fold", "id") for key, rows in members.items()}
    if not any(table.height for table in tables.values()):
        return None
    first, base = next(iter(tables.items()))
    for key, table in tables.items():
        _check_same(first, base, key, table, part)
    columns = [f"p_{name}" for name in classes]  # the order of the first run, whatever the others have
    return Part(
        base.select(FACTS),
        np.stack([probabilities_of(table.select(columns)) for table in tables.values()]),
        np.stack([encode(table["prediction"].to_list(), classes) for table in tables.values()]),
        encode(base["truth"].to_list(), classes),
        np.empty(0, np.int64),
    )


def _number(part: Part, folds: tuple[str, ...]) -> Part:
    place = {name: number for number, name in enumerate(folds)}
    fold = np.array([place[name] for name in part.rows["fold"].to_list()], np.int64)
    return Part(part.rows, part.probabilities, part.predictions, part.truth, fold)


def _check_same(one: tuple[str, int], a: pl.DataFrame, two: tuple[str, int], b: pl.DataFrame, part: str) -> None:
    said = " and ".join(f"{run} seed {seed}" for run, seed in (one, two))
    remedy = " (or leave the dev parts out: --order seed)" if part == "dev" else ""
    if b.select("fold", "id").is_duplicated().any():
        raise InputError(f"{two[0]}: an utterance stands more than once in part {part!r} of a fold, seed {two[1]}")
    for here, there in ((a, b), (b, a)):
        alone = here.join(there, on=["fold", "id"], how="anti")
        if alone.height:
            fold, id = alone.select("fold", "id").row(0)
            raise InputError(
                f"{said}: only one has utterance {id!r} in part {part!r} of fold {fold!r}: members need the same folds "
                f"of the same utterances{remedy}"
            )
    for column in ("truth", "speaker"):
        differ = a.filter(a[column].ne_missing(b[column]))
        if differ.height:
            raise InputError(f"{said}: differ in the {column} of utterance {differ['id'][0]!r}")


def judge_members(part: Part, classes: tuple[str, ...], folds: int, monitor: str) -> Floats:
    """Return how good every member is in every fold, (M, F), higher is better.

    ``monitor`` is ``uar`` (over the classes that occur), ``accuracy`` or ``loss`` (minus the mean cross-entropy).
    """
    if monitor not in MONITORS:
        raise InputError(f"no monitor {monitor!r} of dev parts{nearest(monitor, MONITORS)}")
    made = np.empty((len(part.probabilities), folds))
    for fold in range(folds):
        rows = part.fold == fold
        truth = part.truth[rows]
        for member, (chances, found) in enumerate(zip(part.probabilities, part.predictions, strict=True)):
            if monitor == "loss":
                made[member, fold] = np.log(np.maximum(chances[rows][np.arange(len(truth)), truth], SMALLEST)).mean()
                continue
            labels = np.array(classes)
            counts = confusion(labels[truth], labels[found[rows]], classes).astype(np.float64)
            made[member, fold] = FROM_CONFUSION[monitor](counts)
    return made


def rank_members(scores: Floats) -> Integers:
    """Return the place of every member in every fold's order, from scores (M, F): 0 is best, equals as they come."""
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.argsort(order, axis=0, kind="stable").astype(np.int64)


def average(probabilities: Floats, chosen: NDArray[np.bool_], way: str = "logits") -> Floats:
    """Return the mean of what the ``chosen`` (M, U) members say of utterances, from (M, U, C) to (U, C), summing to 1.

    ``logits``: the softmax of the mean of the members' logits. A member's log-probabilities are its logits minus one
    number an utterance (their log-sum-exp), so the mean of log-probabilities is the mean of logits minus one number as
    well, and the softmax of both is the same: the table's probabilities suffice. A probability of 0 has no logarithm;
    it is counted as ``SMALLEST``, so that one member cannot forbid what all others believe. ``probabilities``: their
    mean. The members' order does not matter.
    """
    if way not in AVERAGES:
        raise InputError(f"no average {way!r}{nearest(way, AVERAGES)}")
    share = chosen / chosen.sum(axis=0)
    if way == "probabilities":
        mean = np.einsum("mu,muc->uc", share, probabilities)
    else:
        logits = np.einsum("mu,muc->uc", share, np.log(np.maximum(probabilities, SMALLEST)))
        mean = np.exp(logits - logits.max(axis=1, keepdims=True))
    return mean / mean.sum(axis=1, keepdims=True)


def first_members(places: Integers, part: Part, k: int | Integers) -> NDArray[np.bool_]:
    """Return which members ensemble ``k`` (one number, or one for each fold) asks about every utterance: (M, U)."""
    return (places < np.broadcast_to(k, places.shape[1]))[:, part.fold]


def choose_k(part: Part, places: Integers, way: str = "logits") -> Integers:
    """Return for each fold the smallest k whose ensemble is right most often on the fold's own dev ``part``.

    Each fold chooses alone: another fold's dev part may hold this fold's test speakers.
    """
    folds = places.shape[1]
    right = np.empty((len(places), folds))
    for k in range(1, len(places) + 1):
        found = average(part.probabilities, first_members(places, part, k), way).argmax(axis=1) == part.truth
        right[k - 1] = np.bincount(part.fold, found, folds)
    return right.argmax(axis=0).astype(np.int64) + 1
