"""Several labels at once, as the six emotions of CMU-MOSEI: each class is present or absent, whatever the others are.

A class counts as predicted where its chance is above 0.5 (a logit above 0): thresholds are fixed, not tuned. The cells
that are judged are utterances times classes; those whose truth is not known are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from serkit.evaluation.calibration import mean_of_sums
from serkit.evaluation.metrics import FROM_CONFUSION, Floats, precisions, ratio, recalls
from serkit.evaluation.predictions import labels_of
from serkit.evaluation.ranking import rank
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Figure, Metric, Tally, figures, mean_over, one, tally

THRESHOLD = 0.5

Numbers = dict[str, Any]


def _f1(sums: Floats) -> Floats:
    return ratio(2 * sums[..., 1, 1], sums[..., 1, :].sum(axis=-1) + sums[..., :, 1].sum(axis=-1))


def _share(axis: int) -> Metric:
    return lambda sums: ratio(sums.sum(axis=axis)[..., 1], sums.sum(axis=(-2, -1)))


OF_CLASS: dict[str, Metric] = {
    "accuracy": FROM_CONFUSION["accuracy"],
    "balanced_accuracy": lambda sums: recalls(sums).mean(axis=-1),
    "precision": lambda sums: precisions(sums)[..., 1],
    "recall": lambda sums: recalls(sums)[..., 1],
    "f1": _f1,
    "f1_weighted": FROM_CONFUSION["f1_weighted"],
    "prevalence": _share(-1),
    "predicted": _share(-2),
}
"""Figures of one class as functions of its summed 2 x 2 counts (..., truth, prediction): (...), NaN where undefined.

``f1_weighted`` is the mean F1 of present and absent weighted by utterances, which papers on CMU-MOSEI report.
``prevalence`` is the share of utterances that have the class, ``predicted`` the share that are said to.
"""

OF_ALL: dict[str, Metric] = {
    "accuracy": lambda sums: FROM_CONFUSION["accuracy"](sums.sum(axis=-3)),
    "balanced_accuracy": lambda sums: mean_over(OF_CLASS["balanced_accuracy"](sums), axis=-1),
    "f1_macro": lambda sums: np.where(sums.sum(axis=(-3, -2, -1)) > 0, np.nan_to_num(_f1(sums)).mean(axis=-1), np.nan),
    "f1_weighted": lambda sums: mean_over(OF_CLASS["f1_weighted"](sums), axis=-1),
}
"""Figures over all classes, of counts (..., C, 2, 2): (...). ``accuracy`` is the share of cells that are right."""

EXACT = "exact_match"
"""Share of utterances all of whose classes are right, among those of which all are known."""

REASONS = {
    "balanced_accuracy": "needs utterances with and without the class",
    "precision": "it is never predicted",
    "recall": "no test utterance has it",
    "f1": "no test utterance has it, and it is never predicted",
    "roc_auc": "needs utterances with and without the class",
    "average_precision": "no test utterance has it",
}
UNKNOWN_CLASS = "it is not known of any test utterance"


def label_cells(rows: pl.DataFrame, classes: Sequence[str]) -> Floats:
    """Return per utterance (n, C * 4) in which of the 2 x 2 cells (truth, prediction) each class is; zeros: unknown."""
    present, known = _truths(rows, classes)
    predicted = _chances(rows, classes) > THRESHOLD
    cells = np.eye(4)[2 * present.astype(int) + predicted] * known[:, :, None]
    return cells.reshape(rows.height, -1)


def exact_hits(rows: pl.DataFrame, classes: Sequence[str]) -> Floats:
    """Return per utterance (n, 2) whether all classes are right, and 1; zeros where one of them is not known."""
    present, known = _truths(rows, classes)
    wrong = (present ^ (_chances(rows, classes) > THRESHOLD)).any(axis=1)
    whole = known.all(axis=1)
    return np.stack([whole & ~wrong, whole], axis=1).astype(np.float64)


def known_rows(rows: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """Return the rows of which at least one of ``classes`` is known."""
    return rows.filter(pl.any_horizontal(pl.col(f"{name}_present").is_not_null() for name in classes))


def judge_labels(rows: pl.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> Numbers:
    """Return the figures of several labels at once, ready for JSON; empty where ``rows`` have none.

    ``rows`` are :func:`~serkit.evaluation.predictions.labelled_rows`. ``metrics`` are those over all ``classes``:
    :data:`OF_ALL`, :data:`EXACT` and the means over classes of :data:`~serkit.evaluation.ranking.RANKINGS`; ``each``
    class has the utterances ``n`` of which it is known, how many have it (``present``) and ``metrics``:
    :data:`OF_CLASS` and rankings. All are pooled, means over seeds, with 95 % bootstrap intervals over speakers;
    one that does not exist is null with its ``reason``. ``without_truth`` counts utterances of which nothing is known,
    ``always_absent`` is the accuracy of saying that no class is ever present, which is high where classes are rare.
    ``seeds`` has the figures over all classes of every seed, ``absent`` and ``never_predicted`` name classes.
    """
    classes = labels_of(rows)
    if not classes:
        return {}
    judged = known_rows(rows, classes)
    of = _tally(judged, label_cells(judged, classes), (len(classes), 2, 2))
    draws = of.resample(resamples, seed)
    counts = [judged.filter(pl.col(f"{name}_present").is_not_null())["id"].n_unique() for name in classes]
    whole = judged.drop_nulls([f"{name}_present" for name in classes])["id"].n_unique()
    exact = _tally(judged, exact_hits(judged, classes), (2,))
    ranked = rank(judged, classes, counts, resamples, seed)
    metrics = {name: figures(of, one(metric), [of.n], draws, "pooled; ")[0] for name, metric in OF_ALL.items()}
    metrics[EXACT] = figures(
        exact, one(mean_of_sums), [whole], exact.resample(resamples, seed), "pooled; ", "no utterance has all known"
    )[0]
    each = {name: figures(of, metric, counts, draws, "pooled; ") for name, metric in OF_CLASS.items()}
    each |= {name: found[:-1] for name, found in ranked.items()}
    metrics |= {name: found[-1] for name, found in ranked.items()}
    total = of.total.sum(axis=0)
    return {
        "threshold": THRESHOLD,
        "classes": list(classes),
        "metrics": {name: made.as_dict() for name, made in metrics.items()},
        "each": {
            name: {
                "n": counts[place],
                "present": judged.filter(pl.col(f"{name}_present"))["id"].n_unique(),
                "metrics": {key: _explain(key, made[place]).as_dict() for key, made in each.items()},
            }
            for place, name in enumerate(classes)
        },
        "always_absent": float(1 - total[:, 1].sum() / total.sum()),
        "without_truth": rows["id"].n_unique() - judged["id"].n_unique(),
        "absent": [name for name, cells in zip(classes, total, strict=True) if cells.sum() and not cells[1].sum()],
        "never_predicted": [name for name, cells in zip(classes, total, strict=True) if not cells[:, 1].sum()],
        "seeds": _seeds(judged, of, exact),
    }


def _explain(metric: str, made: Figure) -> Figure:
    if made.value is not None:
        return made
    return replace(made, reason=REASONS.get(metric, UNKNOWN_CLASS) if made.n else UNKNOWN_CLASS)


def _seeds(rows: pl.DataFrame, of: Tally, exact: Tally) -> list[Numbers]:
    """Return the figures of every seed; NaN becomes None."""
    values = {name: metric(of.total) for name, metric in OF_ALL.items()} | {EXACT: mean_of_sums(exact.total)}
    counts = rows.group_by("seed").len().sort("seed").iter_rows()
    return [
        {"seed": seed, "n": n, **{name: _or_none(made[place]) for name, made in values.items()}}
        for place, (seed, n) in enumerate(counts)
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _tally(rows: pl.DataFrame, statistics: Floats, shape: tuple[int, ...]) -> Tally:
    ids, speakers, seeds = (rows[name].to_list() for name in ("id", "speaker", "seed"))
    return tally(statistics, ids, speakers, seeds, shape)


def _truths(rows: pl.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return which classes are present (n, C), and of which that is known."""
    truths = rows.select(f"{name}_present" for name in classes)
    return truths.fill_null(False).to_numpy(), truths.select(pl.all().is_not_null()).to_numpy()


def _chances(rows: pl.DataFrame, classes: Sequence[str]) -> Floats:
    return rows.select(f"{name}_chance" for name in classes).to_numpy()


def write_truth(rows: pl.DataFrame, classes: Sequence[str], predicted: bool = False) -> pl.Series:
    """Return in words which classes an utterance has, or is said to have: ``happy+sad``, ``?fear`` where unknown."""
    kind: Callable[[str], pl.Expr] = (
        (lambda name: pl.col(f"{name}_chance") > THRESHOLD) if predicted else (lambda name: pl.col(f"{name}_present"))
    )
    words = [
        pl.when(kind(name)).then(pl.lit(name)).when(kind(name).is_null()).then(pl.lit(f"?{name}"))
        for name in sorted(classes)
    ]
    return rows.select(pl.concat_str(words, separator="+", ignore_nulls=True).replace("", "none")).to_series()
