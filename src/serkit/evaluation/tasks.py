"""What a run learned beside emotion: transcripts, speakers, genders and affect, judged from the predictions table.

Optional columns, null where an utterance has no reference for a task or its model does not know the reference (a test
speaker who is not among the training speakers): ``text_truth, text_prediction``; ``speaker_truth, speaker_prediction,
speaker_p_<name>`` and the same for ``gender``; ``arousal_truth, arousal_prediction`` and the same for any other rating.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from serkit.errors import InputError
from serkit.evaluation.calibration import mean_of_sums
from serkit.evaluation.metrics import Floats, ccc_of_sums, edit_counts, mae_of_sums, moments, mse_of_sums, ratio
from serkit.evaluation.predictions import TOLERANCE, sorted_names
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Figure, Metric, figures, mean_over, one, over_seeds, tally

TASKS = {
    "text": ("wer", "cer"),
    "speaker": ("accuracy", "uar"),
    "gender": ("accuracy", "uar"),
}
RATINGS = ("ccc", "mae", "mse")
"""Figures: error rates of words and characters, accuracy and UAR; of ratings CCC, mean absolute and square error."""
ABSENT = {
    "text": "no test utterance has a transcript",
    "speaker": "no test speaker was among the training speakers",
    "gender": "no test utterance has a gender that was learned",
}
SILENT = "all references are empty"

Numbers = dict[str, Any]


def judge_tasks(rows: pl.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Numbers]:
    """Return the figures of every task that ``rows`` has columns of, ready for JSON; empty where there is none.

    ``rows`` are the test rows of :func:`~serkit.evaluation.predictions.judged_rows`. A task has ``n`` judged
    utterances, those left out ``without_truth`` and ``without_prediction`` (a class that its model does not know counts
    as without), and ``metrics``: pooled over all folds, means over seeds, with 95 % bootstrap intervals over speakers.
    ``text`` also has ``words`` of reference a seed and ``folds`` with the mean of the folds' error rates; ``speaker``
    and ``gender`` have ``classes``, the different truths, and ``choices``, the most that one model chose from. A figure
    that does not exist is null with its ``reason``. Raises ``InputError`` naming the column or utterance.
    """
    judges = {"text": _judge_text, "speaker": _judge_classes, "gender": _judge_classes}
    found = {}
    for task in (*TASKS, *list_ratings(rows)):
        columns = [f"{task}_{kind}" for kind in ("truth", "prediction")]
        missing = [name for name in columns if name not in rows.columns]
        if len(missing) == len(columns):
            continue
        if missing:
            raise InputError(f"predictions: has no column {missing[0]!r} beside the other column of its task")
        found[task] = _judge(rows, task, judges.get(task, _judge_affect), resamples, seed)
    return found


def list_ratings(rows: pl.DataFrame) -> list[str]:
    """Return the names of numbers that were learned, in the order of the table."""
    named = (re.fullmatch(r"(.+)_(?:truth|prediction)", column) for column in rows.columns)
    return list(dict.fromkeys(found[1] for found in named if found and found[1] not in TASKS))


def answered_rows(rows: pl.DataFrame, task: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the rows of ``task`` that can be judged, those without a reference, and those without an answer.

    Each has ``id, fold, seed, speaker, truth, prediction`` and ``p_<name>`` of the task. Raises ``InputError`` for
    columns of the wrong type, probabilities that are none, and ratings that are not finite.
    """
    rows = _cast(rows, task)
    lacking = rows.filter(pl.col("truth").is_null())
    rows = rows.filter(pl.col("truth").is_not_null())
    answered = pl.col("prediction").is_not_null() & _is_choice(rows, task)
    silent, rows = rows.filter(~answered), rows.filter(answered)
    if task not in TASKS:
        unsound = rows.filter(~(pl.col("truth").is_finite() & pl.col("prediction").is_finite()))
        if unsound.height:
            raise InputError(f"predictions: {task} of utterance {unsound['id'][0]!r} is not finite")
    return rows, lacking, silent


def _judge(rows: pl.DataFrame, task: str, judge: Callable[..., Numbers], resamples: int, seed: int) -> Numbers:
    rows, lacking, silent = answered_rows(rows, task)
    made: Numbers = {
        "n": rows["id"].n_unique(),
        "without_truth": lacking["id"].n_unique(),
        "without_prediction": silent["id"].n_unique(),
    }
    if rows.height:
        return {**made, **judge(rows, task, resamples, seed)}
    reason = ABSENT.get(task, f"no test utterance has a rating of {task}")
    if silent.height and task not in ("speaker", "gender"):
        reason = "no utterance that has a reference has a prediction"
    nothing = Figure(None, None, None, 0, "pooled; not computed", reason=reason).as_dict()
    return {**made, "metrics": {name: dict(nothing) for name in TASKS.get(task, RATINGS)}}


def _cast(rows: pl.DataFrame, task: str) -> pl.DataFrame:
    """Return id, fold, seed, speaker and the task's columns as ``truth``, ``prediction`` and ``p_<name>``."""
    kind = pl.String if task in TASKS else pl.Float64
    prefix = f"{task}_p_"
    own = [pl.col(f"{task}_{name}").cast(kind).alias(name) for name in ("truth", "prediction")]
    chances = [
        pl.col(name).cast(pl.Float64).alias(name[len(task) + 1 :]) for name in rows.columns if name.startswith(prefix)
    ]
    try:
        return rows.select("id", "fold", "seed", "speaker", *own, *chances)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"predictions: a column of {task} has the wrong type: {str(error).splitlines()[0]}") from error


def _names(rows: pl.DataFrame) -> list[str]:
    return [name for name in rows.columns if name.startswith("p_")]


def _is_choice(rows: pl.DataFrame, task: str) -> pl.Series:
    """Return where the model can answer with the truth (n,): everywhere, if the table holds no probabilities."""
    names = _names(rows)
    if not names or not rows.height:
        return pl.Series([True] * rows.height, dtype=pl.Boolean)
    offered = rows.select(pl.col(names).is_not_null()).to_numpy()
    _check_chances(rows, task, names, offered)
    place = {name.removeprefix("p_"): column for column, name in enumerate(names)}

    def is_offered(labels: pl.Series) -> NDArray[np.bool_]:
        columns = np.array([place.get(label, -1) for label in labels.to_list()])
        return (columns >= 0) & offered[np.arange(rows.height), columns]

    strange = rows["prediction"].is_not_null().to_numpy() & ~is_offered(rows["prediction"])
    if strange.any():
        id, label = rows.filter(strange).select("id", "prediction").row(0)
        raise InputError(f"predictions: {task} {label!r} of utterance {id!r} has no probability {task}_p_{label}")
    return pl.Series(is_offered(rows["truth"]))


def _check_chances(rows: pl.DataFrame, task: str, names: list[str], offered: NDArray[np.bool_]) -> None:
    values = np.where(offered, rows.select(names).to_numpy(), 0.0)
    wrong = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1)
    wrong |= offered.any(axis=1) & (np.abs(values.sum(axis=1) - 1) > TOLERANCE)
    if wrong.any():
        where = rows["id"][int(np.flatnonzero(wrong)[0])]
        raise InputError(f"predictions: {task}_p_ columns of utterance {where!r} are not probabilities that sum to 1")


class _Sums:
    """Statistics (n, M) of judged rows: figures with intervals from their sums by speaker and seed."""

    def __init__(self, rows: pl.DataFrame, statistics: Any, shape: tuple[int, ...], resamples: int, seed: int) -> None:
        ids, speakers, seeds = (rows[name].to_list() for name in ("id", "speaker", "seed"))
        self.of = tally(statistics, ids, speakers, seeds, shape)
        self.draws = self.of.resample(resamples, seed)

    def figure(self, metric: Metric, reason: str = "no utterance to judge") -> Numbers:
        return figures(self.of, one(metric), [self.of.n], self.draws, "pooled; ", reason)[0].as_dict()


def _judge_text(rows: pl.DataFrame, task: str, resamples: int, seed: int) -> Numbers:
    texts = rows["truth"].to_list(), rows["prediction"].to_list()
    counts = np.stack([edit_counts(*texts), edit_counts(*texts, characters=True)], axis=1)
    sums = _Sums(rows, counts.reshape(-1, 4).astype(np.float64), (2, 2), resamples, seed)

    def rate(place: int) -> Numbers:
        return sums.figure(lambda sums: mean_of_sums(sums[..., place, :]), reason=SILENT)

    return {
        "words": round(float(sums.of.total[:, 0, 1].mean())),
        "metrics": {name: rate(place) for place, name in enumerate(TASKS["text"])},
        "folds": _fold_rates(rows, counts),
    }


def _fold_rates(rows: pl.DataFrame, counts: NDArray[np.int64]) -> Numbers:
    """Return the error rates of every fold, a mean over seeds, and their mean over folds, which is not the pooled one.

    Cai et al., INTERSPEECH 2021, report the mean of fold error rates.
    """
    several = rows["seed"].n_unique() > 1
    each: dict[str, Numbers] = {}
    for fold in sorted_names(rows["fold"]):
        inside = (rows["fold"] == fold).to_numpy()
        seeds = rows["seed"].to_numpy()[inside]
        sums = np.array([counts[inside][seeds == value].sum(axis=0) for value in np.unique(seeds)], dtype=np.float64)
        wer, cer = (over_seeds(rate)[0] for rate in mean_of_sums(sums).T)
        each[fold] = {"n": rows.filter(inside)["id"].n_unique(), "wer": wer, "cer": cer}
    mean = {}
    for name in TASKS["text"]:
        rates = [made[name] for made in each.values() if made[name] is not None]
        value, sd = over_seeds(rates)
        text = f"mean and sample sd over {len(rates)} folds" + (" of the mean over seeds" if several else "")
        mean[name] = {"value": value, "sd": sd, "n": len(rates), "method": text}
        if sd is None:
            mean[name]["reason"] = SILENT if value is None else "one fold has no spread"
    return {"kind": "per_fold", "count": len(each), "each": each, "mean": mean}


def _judge_classes(rows: pl.DataFrame, task: str, resamples: int, seed: int) -> Numbers:
    right = (rows["truth"] == rows["prediction"]).to_numpy().astype(np.float64)
    accuracy = _Sums(rows, np.stack([right, np.ones_like(right)], axis=1), (2,), resamples, seed)
    recall = _speaker_recall if task == "speaker" else _class_recall
    names = _names(rows)
    return {
        "classes": rows["truth"].n_unique(),
        "choices": int(rows.select(pl.sum_horizontal(pl.col(names).is_not_null()).max()).item()) if names else None,
        "metrics": {"accuracy": accuracy.figure(mean_of_sums), "uar": recall(rows, right, resamples, seed)},
    }


def _class_recall(rows: pl.DataFrame, right: Floats, resamples: int, seed: int) -> Numbers:
    return _Sums(rows, *hits_by_class(rows, right), resamples, seed).figure(recall_of_hits)


def hits_by_class(rows: pl.DataFrame, right: Floats) -> tuple[sparse.csr_array, tuple[int, ...]]:
    """Return hits and utterances of every true class (n, 2K): confusions of many classes would not fit in memory."""
    _, code = np.unique(rows["truth"].to_list(), return_inverse=True)
    size, each = int(code.max()) + 1, np.arange(len(code))
    where = np.tile(each, 2), np.concatenate([code, code + size])
    shape = (len(code), 2 * size)
    return sparse.csr_array((np.concatenate([right, np.ones_like(right)]), where), shape=shape), (2, size)


def recall_of_hits(sums: Floats) -> Floats:
    """Return the mean over classes of hits over utterances, from summed :func:`hits_by_class` (..., 2, K): (...)."""
    return mean_over(ratio(sums[..., 0, :], sums[..., 1, :]), axis=-1)


def _speaker_recall(rows: pl.DataFrame, right: Floats, resamples: int, seed: int) -> Numbers:
    return _Sums(rows, *hits_by_speaker(rows, right), resamples, seed).figure(mean_of_sums)


def hits_by_speaker(rows: pl.DataFrame, right: Floats) -> tuple[Floats, tuple[int, ...]]:
    """Return hits and utterances (n, 2) for the UAR over speakers: a speaker who is drawn twice counts twice.

    Taken class by class, one drawn twice would count once: that is an average over a subset drawn without replacement,
    and its interval is a quarter too narrow. So every speaker's utterances have the same weight in sum.
    """
    size = rows.select(pl.len().over("truth", "seed")).to_series().to_numpy().astype(np.float64)
    return np.stack([right / size, 1 / size], axis=1), (2,)


def _judge_affect(rows: pl.DataFrame, task: str, resamples: int, seed: int) -> Numbers:
    truth, prediction = rows["truth"].to_numpy(), rows["prediction"].to_numpy()
    sums = _Sums(rows, moments(truth, prediction), (7,), resamples, seed)
    of_sums = (ccc_of_sums, mae_of_sums, mse_of_sums)
    return {"metrics": {name: sums.figure(metric) for name, metric in zip(RATINGS, of_sums, strict=True)}}
