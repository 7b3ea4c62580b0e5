"""What was trained on against what was tested on: one metric for every pair of corpora, from finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.patches
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from serkit.data.files import read_object, write_json, write_text
from serkit.errors import InputError
from serkit.evaluation.curves import new_figure, write_figure
from serkit.evaluation.plots import PALETTE
from serkit.evaluation.predictions import classes_of, distinguish_speakers, judged_rows, read_predictions
from serkit.evaluation.statistics.bootstrap import RESAMPLES, bootstrap
from serkit.evaluation.wording import write_columns, write_interval, write_markdown_table, write_number

Numbers = dict[str, Any]

WITHIN = "folds"
"""How a run was tested on its own corpus: by its folds, never with models that know the speaker."""


def create_matrix(
    folders: Sequence[str | Path], metric: str = "uar", resamples: int = RESAMPLES, seed: int = 0
) -> Numbers:
    """Judge every run among ``folders`` (or below them) on its own corpora and on each of its tests ``on/NAME``.

    Returns ``cells``, one for each pair, with ``train``, ``test``, ``value`` of ``metric`` and its interval ``low`` to
    ``high`` (bootstrap over speakers of the tested corpus), ``n``, ``models``, ``classes`` and ``chance`` (one over
    the classes); ``train`` and ``test`` list the names in order. Raises ``InputError`` when there is no run, or when
    two runs were trained on the same corpora: the matrix would have two values for a cell.
    """
    cells: dict[tuple[str, str], Numbers] = {}
    for run in find_runs(folders):
        facts = read_object(run / "provenance.json")
        train = "+".join(facts.get("corpora") or [run.name])
        for place in (run, *sorted((run / "on").glob("*/"))):
            if not (place / "predictions.parquet").is_file():
                continue
            test = train if place is run else place.name
            if (train, test) in cells:
                other = cells[train, test]["folder"]
                raise InputError(f"{other} and {place}: both are trained on {train} and tested on {test}: name one")
            cells[train, test] = _judge(place, train, test, metric, resamples, seed)
    if not cells:
        raise InputError(f"{', '.join(map(str, folders))}: holds no finished run (no predictions.parquet)")
    trains = list(dict.fromkeys(train for train, _ in cells))
    tests = [*trains, *(test for test in dict.fromkeys(test for _, test in cells) if test not in trains)]
    return {"metric": metric, "train": trains, "test": tests, "cells": list(cells.values())}


def find_runs(folders: Sequence[str | Path]) -> list[Path]:
    """Return the finished runs among ``folders`` and below them; their tests and ensembles are not runs."""
    found = []
    for folder in map(Path, folders):
        if (folder / "predictions.parquet").is_file():
            found.append(folder)
        else:
            below = sorted(path.parent for path in folder.rglob("predictions.parquet"))
            found += [path for path in below if path.parent.name not in ("on", "ensemble")]
    return found


def _judge(place: Path, train: str, test: str, metric: str, resamples: int, seed: int) -> Numbers:
    try:
        rows = distinguish_speakers(judged_rows(read_predictions(place / "predictions.parquet")))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    classes = classes_of(rows)
    truth, prediction, speakers, ids, seeds = (
        rows[name].to_list() for name in ("truth", "prediction", "speaker", "id", "seed")
    )
    figure = bootstrap(truth, prediction, classes, speakers, ids, seeds, resamples, seed)[metric]
    present = rows["truth"].n_unique()
    return {
        "train": train,
        "test": test,
        "folder": str(place),
        **figure.as_dict(),
        "models": rows.n_unique(["fold", "seed"]),
        "speakers": rows["speaker"].drop_nulls().n_unique(),
        "classes": list(classes),
        "chance": 1 / present,
        "stamp": read_object(place / "provenance.json").get("stamp"),
        "within": train == test,
    }


def format_matrix(made: Mapping[str, Any]) -> str:
    """Return the matrix as lines for a terminal: trained on in rows, tested on in columns."""
    lines = write_columns([("trained on \\ tested on", *made["test"]), *_rows(made)])
    return "\n".join([*lines, "", *_remarks(made)])


def write_matrix(made: Mapping[str, Any], folder: str | Path) -> None:
    """Write ``matrix.json``, ``matrix.md`` and ``matrix.svg`` and ``matrix.png``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = write_markdown_table(("trained on \\ tested on", *made["test"]), _rows(made))
    write_json(folder / "matrix.json", made)
    write_text(folder / "matrix.md", "\n".join([*table, "", *_remarks(made)]) + "\n")
    write_figure(draw_matrix(made), folder / "matrix")


def _cells(made: Mapping[str, Any]) -> dict[tuple[str, str], Numbers]:
    return {(cell["train"], cell["test"]): cell for cell in made["cells"]}


def _rows(made: Mapping[str, Any]) -> list[tuple[str, ...]]:
    cells = _cells(made)

    def show(cell: Numbers | None) -> str:
        if cell is None:
            return ""
        return f"{write_number(cell['value'], missing='-')} ({write_interval(cell, missing='no interval')})"

    return [(train, *(show(cells.get((train, test))) for test in made["test"])) for train in made["train"]]


def _remarks(made: Mapping[str, Any]) -> list[str]:
    cells = made["cells"]
    classes = {tuple(cell["classes"]) for cell in cells}
    counts = ", ".join(f"{cell['train']} on {cell['test']} {cell['n']} ({cell['models']} models)" for cell in cells)
    remarks = [
        f"{made['metric']} with 95 % interval (bootstrap over the speakers of the tested corpus); n {counts}",
        "where a corpus is tested by models trained on it, speakers are held out by the run's folds",
    ]
    if len(classes) == 1:
        remarks.append(f"classes: {', '.join(next(iter(classes)))}")
    else:
        remarks.append("the cells differ in their classes, so compare within a column only where these are the same:")
        remarks += [f"  {cell['train']} on {cell['test']}: {', '.join(cell['classes'])}" for cell in cells]
    stamps = {str(cell["stamp"]) for cell in cells} - {"speakers shared: 0"}
    return remarks + ([f"stamps: {'; '.join(sorted(stamps))}"] if stamps else [])


def draw_matrix(made: Mapping[str, Any]) -> Figure:
    """Draw the matrix: the darker, the further above chance; the dashed frame marks the corpora's own folds."""
    trains, tests, cells = made["train"], made["test"], _cells(made)
    figure = new_figure(1.9 + 1.45 * len(tests), 1.2 + 0.95 * len(trains))
    axes = figure.subplots()
    for row, train in enumerate(trains):
        for column, test in enumerate(tests):
            cell = cells.get((train, test))
            if cell is None or cell["value"] is None:
                axes.text(column, row, "–", ha="center", va="center", color="0.5")
                continue
            share = float(np.clip((cell["value"] - cell["chance"]) / (1 - cell["chance"]), 0, 1))
            look: Numbers = {"edgecolor": "0.25", "linestyle": "--", "linewidth": 1.4} if cell["within"] else {}
            patch = matplotlib.patches.Rectangle(
                (column - 0.47, row - 0.45), 0.94, 0.9, facecolor=to_rgba(PALETTE[0], 0.08 + 0.8 * share), **look
            )
            axes.add_patch(patch)
            axes.text(column, row - 0.1, f"{cell['value']:.3f}", ha="center", va="center", fontsize=12)
            interval = write_interval(cell, missing="no interval").replace(" to ", "–")
            axes.text(column, row + 0.24, interval, ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.5, len(tests) - 0.5), ylim=(len(trains) - 0.5, -0.5), xlabel="tested on", ylabel="trained on")
    axes.set_xticks(range(len(tests)), tests)
    axes.set_yticks(range(len(trains)), trains)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{made['metric']} (95 % interval)", fontsize=10)
    return figure
