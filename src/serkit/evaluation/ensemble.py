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
from serkit.evaluation.metrics import FROM_CONFUSION, Floats, encode
from serkit.evaluation.predictions import (
    COLUMNS,
    classes_of,
    has_classes,
    judged_rows,
    label_columns,
    labelled_rows,
    labels_of,
    probabilities_of,
)

AVERAGES = ("logits", "probabilities")
MONITORS = ("uar", "accuracy", "loss")
"""What a dev part can say of a member; runs name theirs as ``training.monitor``."""

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""The least probability that a run's float32 softmax can tell from 0: what a 0 is counted as among logits."""

NEXT_TO_ONE = 2.0**-54
"""How far at least a chance of several labels is counted as from 1, which a float64 cannot tell from it."""

FACTS = ("id", "fold", "truth", "speaker", "gender", "corpus")

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """What every member answers about the utterances of all folds.

    ``rows`` (U) say which utterances these are and what is true of them. They are N = U questions, each with one answer
    of A classes; with several labels at once N = U * C, utterance by utterance, each absent (0) or present (1).
    ``probabilities`` is (M, N, A), ``answers`` (M, N) what the members say, ``truth`` (N,) what is so, -1 where it is
    not known, ``fold`` (N,) the number of the fold.
    """

    rows: pl.DataFrame
    probabilities: Floats
    answers: Integers
    truth: Integers
    fold: Integers

    def share_right(self, answers: Integers) -> float:
        """Return the share of ``answers`` (N,) that are right, of those whose truth is known."""
        return float((answers == self.truth).sum() / (self.truth >= 0).sum())


@dataclass(frozen=True)
class Members:
    """Trained models that can be asked together: ``names`` are (run, seed); ``dev`` is None where there is none.

    ``several``: the classes are labels of which an utterance may have several at once.
    """

    names: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    several: bool
    folds: tuple[str, ...]
    test: Part
    dev: Part | None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def questions(self) -> int:
        """How many questions an utterance is: 1, or with several labels at once one for each."""
        return len(self.classes) if self.several else 1

    def write_answers(self, part: Part, probabilities: Floats, answers: Integers) -> pl.DataFrame:
        """Return the rows of ``part`` with the columns of ``probabilities`` (N, A) and ``answers`` (N,)."""
        if self.several:
            chances = probabilities[:, 1].reshape(-1, len(self.classes))
            given = {f"{name}_chance": chances[:, place] for place, name in enumerate(self.classes)}
            kept = [name for name in part.rows.columns if name not in label_columns(self.classes)]
            return part.rows.with_columns(**_series(given)).select(*kept, *label_columns(self.classes))
        said = pl.Series("prediction", np.array(self.classes)[answers])
        given = {f"p_{name}": probabilities[:, place] for place, name in enumerate(self.classes)}
        return part.rows.with_columns(said, **_series(given))


def _series(values: Mapping[str, Floats]) -> dict[str, pl.Series]:
    return {name: pl.Series(name, column) for name, column in values.items()}


def pool_members(tables: Mapping[str, pl.DataFrame], dev: bool = True) -> Members:
    """Return every seed of every run {name: predictions table} as a member, seeds of all runs in turn.

    Without ``dev`` the dev rows are not looked at. Raises ``InputError`` naming the run where the members do not judge
    the same utterances in the same folds, know other truths or have other classes. Dev parts must be the same too, but
    may all be missing.
    """
    if not tables:
        raise InputError("an ensemble needs a run folder")
    pairs = [(name, _checked(name, table)) for name, table in tables.items()]
    classes, several = _classes(pairs[0][1])
    for name, table in pairs[1:]:
        others, also = _classes(table)
        if set(others) != set(classes) or also != several:
            both = f"{_describe(classes, several)} and {_describe(others, also)}"
            raise InputError(f"{pairs[0][0]} and {name}: the runs have different classes: {both}")
    found = {
        (name, seed): part for name, table in pairs for (seed,), part in table.group_by("seed", maintain_order=True)
    }
    members = {key: found[key] for key in sorted(found, key=lambda key: key[1])}  # stable: runs as they were named
    folds = tuple(pairs[0][1].filter(pl.col("part") == "test")["fold"].unique().sort().to_list())
    test = _part(members, "test", classes, several, folds)
    held = _part(members, "dev", classes, several, folds) if dev else None
    if held is not None and len(np.unique(held.fold)) < len(folds):
        held = None  # some folds have nothing to choose by
    assert test is not None
    return Members(tuple(members), classes, several, folds, test, held)


def _classes(table: pl.DataFrame) -> tuple[tuple[str, ...], bool]:
    """Return the classes of a run and whether an utterance may have several."""
    return (classes_of(table), False) if has_classes(table) else (labels_of(table), True)


def _describe(classes: tuple[str, ...], several: bool) -> str:
    return ", ".join(classes) + (" (several at once)" if several else "")


def _checked(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return the test and dev rows of a run, checked."""
    classes, several = _classes(table)
    if not classes and not has_classes(table):
        raise InputError(f"{name}: learned no classes (no p_<class> columns): ensembles are for runs with classes")
    check = labelled_rows if several else judged_rows
    answers = label_columns(classes) if several else [f"p_{label}" for label in classes]
    columns = [*(each for each in COLUMNS if not several or each not in ("truth", "prediction")), *answers]
    try:
        test = check(table).select(columns)
        dev = table.filter(pl.col("part") == "dev").with_columns(part=pl.lit("test"))  # checked as that is, by fold
        held = [check(rows).select(columns).with_columns(part=pl.lit("dev")) for rows in dev.partition_by("fold")]
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return pl.concat([test, *held])


def _part(
    members: Mapping[tuple[str, int], pl.DataFrame],
    part: str,
    classes: tuple[str, ...],
    several: bool,
    folds: tuple[str, ...],
) -> Part | None:
    """Return what all members say of a part, None where no member has it."""
    tables = {key: rows.filter(pl.col("part") == part).sort("fold", "id") for key, rows in members.items()}
    if not any(table.height for table in tables.values()):
        return None
    first, base = next(iter(tables.items()))
    truths = [f"{name}_present" for name in classes] if several else ["truth"]
    for key, table in tables.items():
        _check_same(first, base, key, table, part, [*truths, "speaker"])
    place = {name: number for number, name in enumerate(folds)}
    fold = np.array([place[name] for name in base["fold"].to_list()], np.int64)
    rows = base.select(*(name for name in FACTS if name in base.columns), *(truths if several else []))
    if several:
        chances = np.stack([_chances(table, classes) for table in tables.values()])
        present = base.select(pl.col(name).cast(pl.Int64).fill_null(-1) for name in truths).to_numpy()
        return Part(rows, chances, chances.argmax(axis=2), present.ravel(), np.repeat(fold, len(classes)))
    columns = [f"p_{name}" for name in classes]  # the order of the first run, whatever the others have
    return Part(
        rows,
        np.stack([probabilities_of(table.select(columns)) for table in tables.values()]),
        np.stack([encode(table["prediction"].to_list(), classes) for table in tables.values()]),
        encode(base["truth"].to_list(), classes),
        fold,
    )


def _chances(table: pl.DataFrame, classes: tuple[str, ...]) -> Floats:
    """Return the probabilities that every label is absent and present: (U * C, 2)."""
    present = table.select(f"{name}_chance" for name in classes).to_numpy().ravel()
    return np.stack([np.maximum(1 - present, NEXT_TO_ONE), present], axis=1)


def _check_same(
    one: tuple[str, int], a: pl.DataFrame, two: tuple[str, int], b: pl.DataFrame, part: str, columns: list[str]
) -> None:
    said = " and ".join(f"{run} seed {seed}" for run, seed in (one, two))
    remedy = " (or leave the dev parts out: --order seed)" if part == "dev" else ""
    for here, there in ((a, b), (b, a)):
        alone = here.join(there, on=["fold", "id"], how="anti")
        if alone.height:
            fold, id = alone.select("fold", "id").row(0)
            raise InputError(
                f"{said}: only one has utterance {id!r} in part {part!r} of fold {fold!r}: members need the same folds "
                f"of the same utterances{remedy}"
            )
    for column in columns:
        differ = a.filter(a[column].ne_missing(b[column]))
        if differ.height:
            raise InputError(f"{said}: differ in the {column} of utterance {differ['id'][0]!r}")


def judge_members(members: Members, part: Part, monitor: str) -> Floats:
    """Return how good every member is on ``part`` in every fold, (M, F), higher is better.

    ``monitor`` is ``uar`` (over the classes that occur; with several labels at once balanced accuracy, a mean over
    labels), ``accuracy`` or ``loss`` (minus the cross-entropy, a mean over utterances and a sum over labels).
    """
    if monitor not in MONITORS:
        raise InputError(f"no monitor {monitor!r} of dev parts{nearest(monitor, MONITORS)}")
    each, size = members.questions, part.probabilities.shape[2]
    made = np.empty((len(members), len(members.folds)))
    for member, fold in np.ndindex(made.shape):
        rows = part.fold == fold
        truth, said, known = part.truth[rows], part.answers[member][rows], part.truth[rows] >= 0
        if monitor == "loss":
            chances = np.maximum(part.probabilities[member][rows], SMALLEST)[np.arange(len(truth)), truth]
            made[member, fold] = np.log(chances[known]).sum() / (len(truth) / each)
        elif monitor == "accuracy":
            made[member, fold] = (said == truth).sum() / known.sum()
        else:
            cells = np.where(known, truth * size + said, size * size).reshape(-1, each)
            counts = [np.bincount(column, minlength=size * size + 1)[:-1] for column in cells.T]
            values = FROM_CONFUSION["uar"](np.array(counts, np.float64).reshape(each, size, size))
            made[member, fold] = np.nanmean(values)
    return made


def rank_members(scores: Floats) -> Integers:
    """Return the place of every member in every fold's order, from scores (M, F): 0 is best, equals as they come."""
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.argsort(order, axis=0, kind="stable").astype(np.int64)


def average(probabilities: Floats, chosen: NDArray[np.bool_], way: str = "logits") -> Floats:
    """Return the mean of what the ``chosen`` (M, N) members say, from (M, N, A) to (N, A), summing to 1.

    ``logits``: the softmax of the mean of the members' logits. A member's log-probabilities are its logits minus one
    number an utterance (their log-sum-exp), so the mean of log-probabilities is the mean of logits minus one number as
    well, and the softmax of both is the same: the table's probabilities suffice. Of one label, absent or present, it is
    the sigmoid of the mean of log-odds. A probability of 0 has no logarithm; it is counted as ``SMALLEST``, so that one
    member cannot forbid what all others believe. ``probabilities``: their mean. The members' order does not matter.
    """
    if way not in AVERAGES:
        raise InputError(f"no average {way!r}{nearest(way, AVERAGES)}")
    share = chosen / chosen.sum(axis=0)
    if way == "probabilities":
        mean = np.einsum("mn,mna->na", share, probabilities)
    else:
        logits = np.einsum("mn,mna->na", share, np.log(np.maximum(probabilities, SMALLEST)))
        mean = np.exp(logits - logits.max(axis=1, keepdims=True))
    return mean / mean.sum(axis=1, keepdims=True)


def first_members(places: Integers, part: Part, k: int | Integers) -> NDArray[np.bool_]:
    """Return which members ensemble ``k`` (one number, or one for each fold) asks: (M, N)."""
    return (places < np.broadcast_to(k, places.shape[1]))[:, part.fold]


def choose_k(part: Part, places: Integers, way: str = "logits") -> Integers:
    """Return for each fold the smallest k whose ensemble is right most often on the fold's own dev ``part``.

    Each fold chooses alone: another fold's dev part may hold this fold's test speakers.
    """
    folds = places.shape[1]
    right = np.empty((len(places), folds))
    for k in range(1, len(places) + 1):
        said = average(part.probabilities, first_members(places, part, k), way).argmax(axis=1)
        right[k - 1] = np.bincount(part.fold, said == part.truth, folds)
    return right.argmax(axis=0).astype(np.int64) + 1
