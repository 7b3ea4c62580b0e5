"""Two runs on the same utterances: the difference of a metric with an interval that knows they are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.errors import InputError
from serkit.evaluation.metrics import FROM_CONFUSION, Floats
from serkit.evaluation.predictions import classes_of, distinguish_speakers, judged_rows, read_predictions
from serkit.evaluation.report import FEW_SPEAKERS, read_provenance
from serkit.evaluation.stats import RESAMPLES, Tally, figures, mean_over, over_seeds, tally_confusions
from serkit.evaluation.wording import write_words

ROUNDING = 1e-12
"""Means over seeds in another order differ by this little."""

Numbers = dict[str, Any]


def compare_runs(
    table_a: pl.DataFrame, table_b: pl.DataFrame, metric: str = "uar", resamples: int = RESAMPLES, seed: int = 0
) -> Numbers:
    """Compare two predictions tables by a paired bootstrap over speakers; the result is ready for JSON.

    ``difference`` is b minus a of ``metric`` (``uar, accuracy, f1_macro, f1_weighted``), each a mean over its own
    seeds, with the 95 % interval ``low`` to ``high``; ``below_zero`` is the share of resamples in which it is negative.
    Every resample draws the same speakers for both runs and all seeds. ``a`` and ``b`` hold each run's ``value``,
    ``sd_over_seeds`` and number of ``seeds``. Raises ``InputError`` naming the first utterance that only one table
    judges, or that has another truth or speaker in the other. Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 8.
    """
    if metric not in FROM_CONFUSION:
        raise InputError(f"metric must be one of {', '.join(FROM_CONFUSION)}, not {metric!r}")
    runs = [distinguish_speakers(judged_rows(table)) for table in (table_a, table_b)]
    of, seeds = _tally_pair(*runs)

    def values(sums: Floats) -> list[Floats]:
        return np.split(FROM_CONFUSION[metric](sums), [seeds], axis=-1)

    def difference(sums: Floats) -> Floats:
        a, b = (mean_over(each, axis=-1) for each in values(sums))
        return (b - a)[..., None, None]

    draws = of.resample(resamples, seed)
    a, b = (_side(each) for each in values(of.total))
    made = figures(of, difference, [of.n], draws, f"paired; means over {a['seeds']} and {b['seeds']} seeds; ")[0]
    drawn = difference(draws).ravel()
    return {
        "metric": metric,
        "a": a,
        "b": b,
        "difference": made.value,
        "low": made.low,
        "high": made.high,
        "below_zero": float((drawn[~np.isnan(drawn)] < -ROUNDING).mean()),
        "n": of.n,
        "speakers": of.speakers,
        "method": made.method,
    }


def _side(values: Floats) -> Numbers:
    value, sd = over_seeds(values)
    return {"value": value, "sd_over_seeds": sd, "seeds": len(values)}


def _tally_pair(a: pl.DataFrame, b: pl.DataFrame) -> tuple[Tally, int]:
    """Return the confusions of both runs as if they were seeds, a's first, and how many of them are a's."""
    classes, others = classes_of(a), classes_of(b)
    if set(classes) != set(others):
        raise InputError(f"the runs have different classes: {', '.join(classes)} and {', '.join(others)}")
    _check_same(_facts(a), _facts(b))
    seeds = a["seed"].n_unique()
    keep = ["id", "speaker", "truth", "prediction", pl.col("seed").rank("dense").cast(pl.Int64)]
    rows = pl.concat([a.select(keep), b.select(keep).with_columns(pl.col("seed") + seeds)])
    columns = (rows[name].to_list() for name in ("id", "speaker", "seed"))
    of = tally_confusions(rows["truth"].to_list(), rows["prediction"].to_list(), classes, *columns)
    return of, seeds


def _facts(rows: pl.DataFrame) -> dict[str, tuple[str, str | None]]:
    """Return truth and speaker of every utterance."""
    facts: dict[str, tuple[str, str | None]] = {}
    for id, truth, speaker in rows.select("id", "truth", "speaker").unique(maintain_order=True).iter_rows():
        if id in facts:
            raise InputError(f"utterance {id!r} has more than one truth or speaker in one run")
        facts[id] = truth, speaker
    return facts


def _check_same(a: dict[str, tuple[str, str | None]], b: dict[str, tuple[str, str | None]]) -> None:
    for here, there, which in ((a, b, "first"), (b, a, "second")):
        alone = next((id for id in here if id not in there), None)
        if alone is not None:
            raise InputError(
                f"only the {which} run judges utterance {alone!r}: compare runs on the same test utterances"
            )
    for id, (truth, speaker) in a.items():
        if b[id] != (truth, speaker):
            said = " and ".join(f"{name} of speaker {who or 'unknown'}" for name, who in (a[id], b[id]))
            raise InputError(f"the runs differ about utterance {id!r}: {said}")


def compare_folders(
    folders: Sequence[str | Path], metric: str = "uar", resamples: int = RESAMPLES, seed: int = 0
) -> list[Numbers]:
    """Compare every run folder with the first one: :func:`compare_runs` with ``run``, ``base`` and their ``stamp`` s.

    Raises ``InputError`` naming the folder, and for fewer than two of them.
    """
    if len(folders) < 2:
        raise InputError("name two run folders or more: each is compared with the first")
    runs = [(str(folder), *_read(Path(folder))) for folder in folders]
    base, table, stamp = runs[0]
    made = []
    for name, other, other_stamp in runs[1:]:
        try:
            compared = compare_runs(table, other, metric, resamples, seed)
        except InputError as error:
            raise InputError(f"{base} and {name}: {error}") from error
        made.append({"base": base, "run": name, "stamps": [stamp, other_stamp], **compared})
    return made


def _read(folder: Path) -> tuple[pl.DataFrame, Any]:
    path = folder / "predictions.parquet"
    try:
        rows = judged_rows(read_predictions(path))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return rows, read_provenance(folder / "provenance.json").get("stamp")


def format_pair(pair: Mapping[str, Any]) -> str:
    """Return one line on a pair of :func:`compare_folders`: figures, difference with interval, what that shows."""
    stamps = [write_words(stamp, missing="speakers shared: not recorded") for stamp in pair["stamps"]]
    stamp = stamps[0] if stamps[0] == stamps[1] else f"{pair['base']} {stamps[0]}, {pair['run']} {stamps[1]}"
    return (
        f"{pair['run']} {pair['b']['value']:.3f}, {pair['base']} {pair['a']['value']:.3f}: "
        f"{pair['metric']} differs by {pair['difference']:+.3f} (95 % interval {pair['low']:+.3f} to "
        f"{pair['high']:+.3f}, {pair['below_zero']:.1%} of resamples below 0), n {pair['n']}, "
        f"{pair['speakers']} speakers; {stamp}; {say_difference(pair)}"
    )


def say_difference(pair: Mapping[str, Any]) -> str:
    """Return in words what the interval of :func:`compare_runs` shows, and how far it can be trusted."""
    name = pair.get("run", "the second run")
    if pair["low"] > 0:
        said = f"{name} is higher: the interval lies above 0"
    elif pair["high"] < 0:
        said = f"{name} is lower: the interval lies below 0"
    else:
        said = "no difference shown: the interval contains 0"
    few = pair["speakers"] < FEW_SPEAKERS
    return said + (" (few speakers: it is likely too narrow)" if few else "")
