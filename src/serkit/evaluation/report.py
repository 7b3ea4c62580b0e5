"""The report of a run: every figure with its interval, its n and its method, from the predictions table alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.data.files import read_object, write_json, write_text
from serkit.errors import InputError
from serkit.evaluation import calibration
from serkit.evaluation.fairness import judge_fairness
from serkit.evaluation.metrics import FROM_CONFUSION, Floats, encode, precisions, recalls
from serkit.evaluation.multilabel import judge_labels
from serkit.evaluation.page import EXPRESSED, render_page
from serkit.evaluation.predictions import (
    UNKNOWN,
    classes_of,
    distinguish_speakers,
    has_classes,
    judged_rows,
    probabilities_of,
    read_predictions,
    rows_to_judge,
    sorted_names,
)
from serkit.evaluation.statistics.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Tally,
    figures,
    one,
    over_seeds,
    tally,
    tally_confusions,
)
from serkit.evaluation.tasks import judge_tasks
from serkit.evaluation.wording import (
    note_labels,
    write_columns,
    write_fairness,
    write_interval,
    write_labels,
    write_metrics,
    write_number,
    write_task,
    write_words,
)

FEW_SPEAKERS = 10

Numbers = dict[str, Any]


def create_report(
    table: pl.DataFrame, provenance: Mapping[str, Any] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Judge the test rows of a predictions table; the result is ready for JSON and never holds NaN.

    ``table`` has the columns ``id, fold, seed, part, truth, prediction, p_<class>..., speaker, gender, corpus``;
    ``provenance`` says where it comes from (``recipe, protocol, stamp, encoder, ...``). Scores are fractions in [0, 1].
    ``metrics``, ``classes``, ``groups``, ``confusion`` and ``calibration`` are pooled: computed once over all test
    utterances of a seed, then averaged over seeds. ``folds`` is computed per fold and kept apart. ``tasks`` holds what
    was learned beside emotion (:func:`~serkit.evaluation.tasks.judge_tasks`), ``fairness`` how genders and speakers are
    served (:func:`~serkit.evaluation.fairness.judge_fairness`). Where no classes were learned (the table has no
    ``prediction``) there is nothing but tasks and counts, or ``labels``: several labels at once
    (:func:`~serkit.evaluation.multilabel.judge_labels`). A figure that does not exist is null, with its ``reason``.
    Raises ``InputError`` naming the column or utterance that is unsound.
    """
    if not has_classes(table):
        return _report_others(table, _plain(dict(provenance or {})), resamples, seed)
    rows = distinguish_speakers(judged_rows(table))
    classes = classes_of(rows)
    provenance = _plain(dict(provenance or {}))
    pooled = _tally(rows, classes)
    draws = pooled.resample(resamples, seed)

    def judge(group: pl.DataFrame) -> Numbers:
        return _judge_group(group, classes, resamples, seed)

    return {
        "protocol": provenance.get("protocol"),
        "stamp": provenance.get("stamp"),
        "utterances": pooled.n,
        "speakers": pooled.speakers,
        "confidence": CONFIDENCE,
        "metrics": {name: {"kind": "pooled", **made} for name, made in _metrics(pooled, draws, "pooled; ").items()},
        "folds": _folds(rows, classes, resamples, seed),
        "classes": _classes(pooled, draws, classes),
        "groups": {name: _groups(rows, name, judge) for name in ("gender", "speaker", "corpus")},
        "fairness": judge_fairness(rows, classes, resamples, seed),
        "confusion": _confusion(pooled, classes),
        "calibration": _calibration(rows, classes, resamples, seed),
        "labels": {},
        "tasks": judge_tasks(rows, resamples, seed),
        "seeds": _seeds(rows, pooled),
        "notes": _notes(table, rows, pooled, classes),
        "provenance": provenance,
    }


def _report_others(table: pl.DataFrame, provenance: Numbers, resamples: int, seed: int) -> dict[str, Any]:
    """Return the report of a run that learned no classes: ratings, or several labels at once."""
    rows = distinguish_speakers(rows_to_judge(table))
    labels, tasks = judge_labels(rows, resamples, seed), judge_tasks(rows, resamples, seed)
    if not tasks and not labels:
        raise InputError("predictions: needs a column p_<class> for each of two or more classes, or ratings")
    speakers = rows["speaker"].drop_nulls().n_unique()
    few = f"{speakers} speakers are few: intervals are likely to be too narrow"
    notes = [*([few] if 2 <= speakers < FEW_SPEAKERS else []), *(note_labels(labels) if labels else [])]
    return {
        "protocol": provenance.get("protocol"),
        "stamp": provenance.get("stamp"),
        "utterances": rows["id"].n_unique(),
        "speakers": speakers,
        "confidence": CONFIDENCE,
        "metrics": {},
        "folds": {"count": rows["fold"].n_unique()},
        "fairness": {},
        "labels": labels,
        "tasks": tasks,
        "seeds": [{"seed": value, "n": n} for value, n in rows.group_by("seed").len().sort("seed").iter_rows()],
        "notes": [*notes, *_leaks(table, rows)],
        "provenance": provenance,
    }


def write_report(run_folder: str | Path) -> dict[str, Any]:
    """Read ``predictions.parquet`` (and ``provenance.json``) of a run; write ``report.json`` and ``report.html`` there.

    Returns the report of :func:`create_report`. Files are replaced atomically, both only when all went well. Raises
    ``InputError`` naming the file that is missing or unsound.
    """
    folder = Path(run_folder)
    path = folder / "predictions.parquet"
    table = read_predictions(path)
    try:
        report = create_report(table, read_object(folder / "provenance.json"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    page = render_page(report)
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", page)
    return report


def format_summary(report: Mapping[str, Any]) -> str:
    """Return the report's main figures as plain text for a terminal, about 90 columns wide."""
    protocol, stamp = (write_words(report[key], missing="not recorded") for key in ("protocol", "stamp"))
    lines = [
        f"protocol: {protocol}    stamp: {stamp}",
        f"{report['utterances']} test utterances, {report['speakers']} speakers, "
        f"{report['folds']['count']} folds, {len(report['seeds'])} seeds",
    ]
    if report["metrics"]:
        lines += _summarise_classes(report)
    if report["labels"]:
        lines += ["", *write_labels(report["labels"], missing="-")]
    if report["tasks"]:
        lines += ["", *(write_task(name, task, missing="-") for name, task in report["tasks"].items())]
    if report["fairness"]:
        lines += ["", *write_fairness(report["fairness"], missing="-")]
    lines += ["", *(f"note: {note}" for note in report["notes"]), EXPRESSED]
    return "\n".join(lines)


def _summarise_classes(report: Mapping[str, Any]) -> list[str]:
    metrics, classes = report["metrics"], report["classes"]
    number, interval = partial(write_number, missing="-"), partial(write_interval, missing="-")
    lines = [
        "",
        *write_metrics(metrics, missing="-"),
        "",
        *write_columns(
            [("class", "recall", "95 % interval", "n", "precision")]
            + [
                (
                    name,
                    number(made["recall"]["value"]),
                    interval(made["recall"]),
                    made["n"],
                    number(made["precision"]["value"]),
                )
                for name, made in classes.items()
            ]
        ),
    ]
    per_fold = report["folds"]["mean"]["uar"]
    if per_fold["sd"] is not None:
        shown = f"{per_fold['value']:.3f} +- {per_fold['sd']:.3f}"
        lines += ["", f"per fold (not pooled): uar {shown}, {per_fold['method']}"]
    return lines


def _tally(rows: pl.DataFrame, classes: tuple[str, ...]) -> Tally:
    columns = (rows[name].to_list() for name in ("id", "speaker", "seed"))
    return tally_confusions(rows["truth"].to_list(), rows["prediction"].to_list(), classes, *columns)


def _metrics(of: Tally, draws: Floats | None, prefix: str = "") -> dict[str, Numbers]:
    return {
        name: figures(of, one(metric), [of.n], draws, prefix)[0].as_dict() for name, metric in FROM_CONFUSION.items()
    }


def _support(of: Tally, axis: int) -> list[int]:
    """Return per class the utterances that are (axis -1) or are called (axis -2) so, as a mean over seeds."""
    counts = of.total.sum(axis=axis)
    judged = np.maximum((of.total.sum(axis=(-2, -1)) > 0).sum(), 1)
    return [round(value) for value in (counts.sum(axis=0) / judged).tolist()]


def _classes(of: Tally, draws: Floats, classes: tuple[str, ...]) -> dict[str, Numbers]:
    recall = figures(of, recalls, _support(of, -1), draws, "pooled; ")
    precision = figures(of, precisions, _support(of, -2), draws, "pooled; ")
    return {
        name: {"n": one_recall.n, "recall": one_recall.as_dict(), "precision": one_precision.as_dict()}
        for name, one_recall, one_precision in zip(classes, recall, precision, strict=True)
    }


def _confusion(of: Tally, classes: tuple[str, ...]) -> Numbers:
    counts = of.total.sum(axis=0).astype(int).tolist()
    return {"classes": list(classes), "counts": counts, "kind": "pooled", "note": "rows are truth; summed over seeds"}


def _folds(rows: pl.DataFrame, classes: tuple[str, ...], resamples: int, seed: int) -> Numbers:
    made: dict[str, Numbers] = {}
    for name in sorted_names(rows["fold"]):
        of = _tally(rows.filter(pl.col("fold") == name), classes)
        draws = of.resample(resamples, seed) if of.clustered else None
        made[name] = {"n": of.n, "speakers": of.speakers, "metrics": _metrics(of, draws, "per fold; ")}
    mean = {}
    for metric in FROM_CONFUSION:
        value, sd = over_seeds([fold["metrics"][metric]["value"] for fold in made.values()])
        text = f"mean and sample sd over {len(made)} folds"
        text += " of the mean over seeds" if rows["seed"].n_unique() > 1 else ""
        mean[metric] = {"value": value, "sd": sd, "n": len(made), "method": text}
        if sd is None:
            mean[metric]["reason"] = "one fold has no spread"
    return {"kind": "per_fold", "count": len(made), "each": made, "mean": mean}


def _groups(rows: pl.DataFrame, column: str, judge: Callable[[pl.DataFrame], Numbers]) -> dict[str, Numbers]:
    filled = rows.with_columns(pl.col(column).fill_null(UNKNOWN).alias("group"))
    return {name: judge(rows.filter(filled["group"] == name)) for name in sorted_names(filled["group"])}


def _judge_group(rows: pl.DataFrame, classes: tuple[str, ...], resamples: int, seed: int) -> Numbers:
    of = _tally(rows, classes)
    draws = of.resample(resamples, seed) if of.clustered else None
    recall = zip(classes, figures(of, recalls, _support(of, -1), draws), strict=True)
    keys = ("value", "low", "high", "n", "reason")
    occurring = int((of.total.sum(axis=0).sum(axis=-1) > 0).sum())
    return {
        "n": of.n,
        "speakers": of.speakers,
        "classes": occurring,
        "uar": figures(of, one(FROM_CONFUSION["uar"]), [of.n], draws)[0].as_dict(),
        "recall": {
            name: {key: made[key] for key in keys if key in made}
            for name, made in ((name, figure.as_dict()) for name, figure in recall)
        },
    }


def _calibration(rows: pl.DataFrame, classes: tuple[str, ...], resamples: int, seed: int) -> Numbers:
    probabilities, truth = probabilities_of(rows), encode(rows["truth"].to_list(), classes)
    ids, speakers, seeds = (rows[name].to_list() for name in ("id", "speaker", "seed"))

    def figure(statistics: Floats, shape: tuple[int, ...], metric: Callable[[Floats], Floats], prefix: str) -> Numbers:
        of = tally(statistics.reshape(rows.height, -1), ids, speakers, seeds, shape)
        return figures(of, one(metric), [of.n], of.resample(resamples, seed), prefix)[0].as_dict()

    bins = calibration.bin_statistics(probabilities, truth)
    errors = calibration.squared_errors(probabilities, truth)
    pairs = np.stack([errors, np.ones_like(errors)], axis=1)
    text = f"pooled; top label, {calibration.BINS} bins of equal width; resampling biases it upwards; "
    return {
        "ece": figure(bins, bins.shape[1:], calibration.ece_of_sums, text),
        "brier": figure(pairs, (2,), calibration.mean_of_sums, "pooled; squared error summed over classes, 0 to 2; "),
        "bins": [asdict(made) for made in calibration.reliability_bins(probabilities, truth)],
    }


def _seeds(rows: pl.DataFrame, pooled: Tally) -> list[Numbers]:
    total = pooled.total
    values = {name: metric(total).tolist() for name, metric in FROM_CONFUSION.items()}
    return [
        {"seed": seed, "n": int(total[place].sum()), **{name: made[place] for name, made in values.items()}}
        for place, seed in enumerate(rows["seed"].unique().sort().to_list())
    ]


def _notes(table: pl.DataFrame, rows: pl.DataFrame, pooled: Tally, classes: tuple[str, ...]) -> list[str]:
    notes = []
    absent = [name for name, n in zip(classes, _support(pooled, -1), strict=True) if not n]
    if absent:
        notes.append(f"no test utterance is {', '.join(absent)}: uar leaves them out, f1_macro counts them as 0")
    if 2 <= pooled.speakers < FEW_SPEAKERS:
        notes.append(f"{pooled.speakers} speakers are few: intervals are likely to be too narrow")
    if not pooled.clustered:
        notes.append(
            "intervals take utterances as independent (fewer than two speakers known): they are likely too narrow"
        )
    if rows["seed"].n_unique() > 1 and rows.group_by("id").len()["len"].n_unique() > 1:
        notes.append("the seeds do not judge the same utterances")
    top = probabilities_of(rows)
    chosen = top[np.arange(rows.height), encode(rows["prediction"].to_list(), classes)]
    other = int((chosen < top.max(axis=1) - 1e-6).sum())
    if other:
        notes.append(f"{other} of {rows.height} predictions are not the most probable class")
    return notes + _leaks(table, rows)


def _leaks(table: pl.DataFrame, rows: pl.DataFrame) -> list[str]:
    keys = ["id", "fold", "seed"]
    seen = table.filter(pl.col("part") != "test").select(pl.col("id", "fold").cast(pl.String), "seed")
    both = rows.select(keys).join(seen, on=keys, how="semi").height
    return [f"LEAK: {both} of {rows.height} test rows are in another part of the same fold too"] if both else []


def _plain(value: Any) -> Any:
    """Return what JSON can hold: numbers that are not finite become null, other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
