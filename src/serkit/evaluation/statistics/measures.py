"""What can be compared: figures of emotion and of the tasks beside it, as functions of sums over utterances.

Each :class:`Measure` turns rows into additive statistics and sums of those into its value, so that resampling and
swapping whole speakers costs no second look at the utterances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import polars as pl
from scipy import sparse

from serkit.errors import InputError, nearest
from serkit.evaluation.calibration import mean_of_sums
from serkit.evaluation.metrics import (
    FROM_CONFUSION,
    Floats,
    ccc_of_sums,
    confusion_cells,
    edit_counts,
    mae_of_sums,
    moments,
    mse_of_sums,
)
from serkit.evaluation.multilabel import EXACT, OF_ALL, OF_CLASS, exact_hits, known_rows, label_cells, write_truth
from serkit.evaluation.predictions import classes_of, label_columns, labels_of
from serkit.evaluation.statistics.bootstrap import Metric
from serkit.evaluation.tasks import TASKS, answered_rows, hits_by_class, hits_by_speaker, list_ratings, recall_of_hits

LABELS = "labels"
SIDES = (("truth", False), ("prediction", True))
Statistics: TypeAlias = "Floats | sparse.csr_array"


@dataclass(frozen=True)
class Measure:
    """A figure that runs are compared by.

    ``statistics`` turns rows (n) with ``truth`` and ``prediction`` into additive statistics (n, M) and the shape that M
    unfolds to; ``value`` turns sums of them (..., *shape) into the figure (...). ``task`` is None for emotion, "labels"
    for several labels at once, of which ``label`` is the one that is looked at, None for all.
    """

    name: str
    task: str | None
    statistics: Callable[[pl.DataFrame], tuple[Statistics, tuple[int, ...]]]
    value: Metric
    lower_is_better: bool = False
    label: str | None = None

    def rows_of(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return id, seed, speaker, truth, prediction (and what else there is) of the utterances that it judges.

        ``table`` holds judged rows; of a task beside emotion, rows without reference or answer are left out. Raises
        ``InputError`` where the run has not learned the task.
        """
        if self.task is None:
            if "prediction" not in table.columns:
                raise InputError(f"{self.name}: the run has learned no classes: name a figure of what it has learned")
            return table
        if self.task == LABELS:
            return self._labelled(table)
        if f"{self.task}_truth" not in table.columns:
            raise InputError(f"{self.name}: the run has not learned the task {self.task!r}")
        rows = answered_rows(table, self.task)[0]
        if not rows.height:
            raise InputError(f"{self.name}: no utterance has both a reference and an answer of the task {self.task!r}")
        return rows

    def _labelled(self, table: pl.DataFrame) -> pl.DataFrame:
        classes = labels_of(table)
        if not classes:
            raise InputError(f"{self.name}: the run has not learned several labels at once")
        if self.label is not None and self.label not in classes:
            raise InputError(f"{self.name}: the run has no class {self.label!r}{nearest(self.label, classes)}")
        classes = classes if self.label is None else (self.label,)
        rows = known_rows(table, classes)
        if not rows.height:
            raise InputError(f"{self.name}: it is not known of any utterance")
        truth, prediction = (write_truth(rows, classes, said).alias(name) for name, said in SIDES)
        return rows.select("id", "fold", "seed", "speaker", *label_columns(classes)).with_columns(truth, prediction)


def measure_of(name: str) -> Measure:
    """Return the measure of that name: ``uar``, ``accuracy``, ... of emotion, ``text.wer``, ``arousal.ccc``, ...

    ``labels.accuracy``, ... are those of several labels at once, ``labels.sad.f1``, ... those of one of them.

    Raises ``InputError`` with the nearest known name.

    >>> measure_of("text.wer").lower_is_better
    True
    """
    task, _, figure = name.rpartition(".")
    if task.startswith(f"{LABELS}.") and figure in OF_CLASS:
        return Measure(name, LABELS, _cells, partial(_value_of_one, OF_CLASS[figure]), False, task[len(LABELS) + 1 :])
    if task not in (*TASKS, "") and figure in RATED:
        return Measure(name, task, _moments, *RATED[figure])
    if name not in MEASURES:
        raise InputError(f"no metric {name!r}{nearest(name, [*MEASURES, *(f'arousal.{figure}' for figure in RATED)])}")
    return MEASURES[name]


def measures_of(table: pl.DataFrame) -> list[str]:
    """Return the names of all measures that a predictions table has columns for."""
    if labels_of(table):
        return [name for name, each in MEASURES.items() if each.task == LABELS]
    column = {name: "prediction" if each.task is None else f"{each.task}_truth" for name, each in MEASURES.items()}
    known = [name for name in MEASURES if column[name] in table.columns]
    return known + [f"{task}.{figure}" for task in list_ratings(table) for figure in RATED]


def _confusions(rows: pl.DataFrame) -> tuple[Statistics, tuple[int, ...]]:
    classes = classes_of(rows)
    cells = confusion_cells(rows["truth"].to_list(), rows["prediction"].to_list(), classes)
    return _one_hot(cells, len(classes) ** 2), (len(classes), len(classes))


def _one_hot(places: np.ndarray, size: int) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(places)), (np.arange(len(places)), places)), shape=(len(places), size))


def _edits(rows: pl.DataFrame, characters: bool) -> tuple[Statistics, tuple[int, ...]]:
    return edit_counts(rows["truth"].to_list(), rows["prediction"].to_list(), characters).astype(np.float64), (2,)


def _hits(rows: pl.DataFrame) -> tuple[Statistics, tuple[int, ...]]:
    right = _right(rows)
    return np.stack([right, np.ones_like(right)], axis=1), (2,)


def _right(rows: pl.DataFrame) -> Floats:
    return (rows["truth"] == rows["prediction"]).to_numpy().astype(np.float64)


def _moments(rows: pl.DataFrame) -> tuple[Statistics, tuple[int, ...]]:
    return moments(rows["truth"].to_numpy(), rows["prediction"].to_numpy()), (7,)


def _cells(rows: pl.DataFrame) -> tuple[Statistics, tuple[int, ...]]:
    classes = labels_of(rows)
    return label_cells(rows, classes), (len(classes), 2, 2)


def _exact(rows: pl.DataFrame) -> tuple[Statistics, tuple[int, ...]]:
    return exact_hits(rows, labels_of(rows)), (2,)


def _value_of_one(metric: Metric, sums: Floats) -> Floats:
    return metric(sums)[..., 0]


def _task_measures() -> dict[str, Measure]:
    makers: dict[tuple[str, str], tuple[Callable, Metric, bool]] = {
        ("text", "wer"): (lambda rows: _edits(rows, False), mean_of_sums, True),
        ("text", "cer"): (lambda rows: _edits(rows, True), mean_of_sums, True),
        ("speaker", "accuracy"): (_hits, mean_of_sums, False),
        ("speaker", "uar"): (lambda rows: hits_by_speaker(rows, _right(rows)), mean_of_sums, False),
        ("gender", "accuracy"): (_hits, mean_of_sums, False),
        ("gender", "uar"): (lambda rows: hits_by_class(rows, _right(rows)), recall_of_hits, False),
    }
    return {
        f"{task}.{name}": Measure(f"{task}.{name}", task, *makers[task, name]) for task in TASKS for name in TASKS[task]
    }


RATED: dict[str, tuple[Metric, bool]] = {
    "ccc": (ccc_of_sums, False),
    "mae": (mae_of_sums, True),
    "mse": (mse_of_sums, True),
}
"""Figures of ratings, and whether lower is better."""

MEASURES: dict[str, Measure] = {
    **{name: Measure(name, None, _confusions, value) for name, value in FROM_CONFUSION.items()},
    **_task_measures(),
    **{f"{LABELS}.{name}": Measure(f"{LABELS}.{name}", LABELS, _cells, value) for name, value in OF_ALL.items()},
    f"{LABELS}.{EXACT}": Measure(f"{LABELS}.{EXACT}", LABELS, _exact, mean_of_sums),
}
"""Every measure by name but those of ratings and of single labels.

Those of emotion have no prefix, those of other tasks are called ``<task>.<figure>``.
"""
