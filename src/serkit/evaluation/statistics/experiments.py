"""Tables of experiments: which factors each run, value or summary belongs to, judged by analysis of variance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.errors import InputError
from serkit.evaluation.predictions import distinguish_speakers, read_predictions, rows_to_judge
from serkit.evaluation.statistics.anova import (
    Cells,
    analyse,
    cells_from_values,
    cells_of,
    compare_cells,
    compare_levels,
)
from serkit.evaluation.statistics.bootstrap import tally
from serkit.evaluation.statistics.measures import measure_of
from serkit.evaluation.wording import write_columns

SUMMARY = ("mean", "std", "n")
IGNORED = ("min", "max")

Numbers = dict[str, Any]


def read_experiments(path: str | Path, metric: str = "uar", population: bool = False) -> Cells:
    """Read a CSV table of experiments into the cells of a factorial design.

    One of three forms, told by its columns; every other column is a factor (``min`` and ``max`` are left out):

    - ``run``: a run folder on each line, relative to the table; each of its seeds gives a value of ``metric``;
    - ``value``: a value on each line;
    - ``mean, std, n``: a summary of values on each line, such as a paper's table; with ``population`` the deviations
      were divided by n.

    Raises ``InputError`` naming file and line or column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such table")
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: cannot be read as CSV: {str(error).splitlines()[0]}") from error
    table = table.rename({name: name.strip() for name in table.columns}).with_columns(pl.all().str.strip_chars())
    kinds = [name for name in ("run", "value", "mean") if name in table.columns]
    if len(kinds) != 1:
        raise InputError(f"{path}: needs a column 'run', a column 'value', or the columns mean, std and n")
    own = SUMMARY if kinds[0] == "mean" else (kinds[0],)
    missing = [name for name in own if name not in table.columns]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r} beside 'mean'")
    factors = [name for name in table.columns if name not in (*own, *IGNORED)]
    try:
        if kinds[0] == "run":
            return _cells_of_runs(path, table, factors, metric)
        numbers = [_numbers(path, table, name) for name in own]
        labels = {name: table[name].to_list() for name in factors}
        if kinds[0] == "value":
            return cells_from_values(numbers[0], labels)
        return cells_of(labels, numbers[0].tolist(), numbers[1].tolist(), numbers[2].astype(int).tolist(), population)
    except InputError as error:
        raise InputError(str(error) if str(path.parent) in str(error) else f"{path}: {error}") from error


def _numbers(path: Path, table: pl.DataFrame, name: str) -> np.ndarray:
    values = table[name].cast(pl.Float64, strict=False)
    if values.null_count():
        line = int(np.flatnonzero(values.is_null().to_numpy())[0])
        raise InputError(f"{path}: {name} of line {line + 2} is no number: {table[name][line]!r}")
    return values.to_numpy()


def _cells_of_runs(path: Path, table: pl.DataFrame, factors: list[str], metric: str) -> Cells:
    values: list[float] = []
    labels: dict[str, list[str]] = {name: [] for name in factors}
    for row in table.iter_rows(named=True):
        made = seed_values(path.parent / row["run"], metric)
        values += made
        for name in factors:
            labels[name] += [row[name]] * len(made)
    return cells_from_values(values, labels)


def seed_values(folder: str | Path, metric: str = "uar") -> list[float]:
    """Return the value of ``metric`` of every seed of a run folder, over its pooled test utterances."""
    place, measure = Path(folder) / "predictions.parquet", measure_of(metric)
    try:
        rows = measure.rows_of(distinguish_speakers(rows_to_judge(read_predictions(place))))
    except InputError as error:
        raise InputError(str(error) if str(place) in str(error) else f"{place}: {error}") from error
    statistics, shape = measure.statistics(rows)
    ids, speakers, seeds = (rows[name].to_list() for name in ("id", "speaker", "seed"))
    of = tally(statistics, ids, speakers, seeds, shape)
    values = measure.value(of.total)
    return values[~np.isnan(values)].tolist()


def judge_experiments(cells: Cells, kind: int = 2, pairs: str = "levels", equal: bool = False) -> Numbers:
    """Return the analysis of variance of ``cells``, post-hoc t-tests and the cells themselves, ready for JSON.

    ``effects`` are the rows of ``anova.analyse`` with sums of squares of type ``kind``;
    ``pairs`` is ``levels`` (of every factor, over all others) or ``cells``: t-tests of all of them, with p adjusted by
    Holm.
    """
    if pairs not in ("levels", "cells"):
        raise InputError(f"the pairs to test are those of levels or of cells, not {pairs!r}")
    found = compare_levels(cells, equal) if pairs == "levels" else compare_cells(cells, equal)
    return {
        "factors": {name: list(levels) for name, levels in zip(cells.factors, cells.levels, strict=True)},
        "type": kind,
        "effects": [effect.as_dict() for effect in analyse(cells, kind)],
        "pairs": [pair.as_dict() for pair in found],
        "cells": [
            {
                "cell": cells.name(row),
                "mean": float(cells.mean[row]),
                "sd": float(cells.sd[row]),
                "n": int(cells.n[row]),
            }
            for row in range(len(cells.n))
        ],
    }


def format_experiments(made: Mapping[str, Any]) -> str:
    """Return the tables of :func:`judge_experiments` for a terminal."""

    def show(value: float | None, digits: int = 4) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    def show_p(value: float | None) -> str:
        return "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"

    rows: list[tuple] = [("effect", "df", "sum of squares", "F", "p", "eta2", "partial eta2", "omega2")]
    rows += [
        (
            effect["name"], effect["df"], f"{effect['sum_squares']:.6g}", show(effect["f"]), show_p(effect["p"]),
            show(effect["eta2"]), show(effect["partial_eta2"]), show(effect["omega2"]),
        )
        for effect in made["effects"]
    ]  # fmt: skip
    pairs: list[tuple] = [("pair", "means", "difference", "t", "df", "p", "Holm", "g")]
    for pair in made["pairs"]:
        test = pair["test"]
        pairs.append(
            (
                f"{pair['factor']}: {pair['second']} - {pair['first']}",
                f"{pair['means'][1]:.4f} - {pair['means'][0]:.4f}",
                f"{test['difference']:+.4f}", show(test.get("statistic")), show(test.get("df"), 1), show_p(test["p"]),
                show_p(pair["p_holm"]), show(test.get("effect"), 3),
            )
        )  # fmt: skip
    return "\n".join([*write_columns(rows), "", *write_columns(pairs)])
