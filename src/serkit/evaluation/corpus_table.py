"""Encoders against corpora, as papers on speech representations show them: accuracy, mean recall and weighted F1.

Figures are fractions in [0, 1]; only text for people is in percent. "WA" is accuracy, "UA" the mean recall over classes
(uar), "WF1" the mean of the classes' F1, each counted by its utterances.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.data.files import read_object
from serkit.errors import InputError, nearest
from serkit.evaluation.matrix import find_runs
from serkit.evaluation.metrics import FROM_CONFUSION
from serkit.evaluation.predictions import classes_of, distinguish_speakers, judged_rows, read_predictions
from serkit.evaluation.statistics.bootstrap import RESAMPLES, figures, one, tally_confusions
from serkit.evaluation.wording import write_columns, write_markdown_table, write_words

METRICS = {"accuracy": "WA", "uar": "UA", "f1_weighted": "WF1"}
CONVENTION = (
    "Percent of the test utterances of all folds counted together, with 95 % intervals (bootstrap over speakers); "
    "published figures have no intervals and are means where there are folds: the same test only where the protocol is "
    "the same."
)
PUBLISHED = ("emotion2vec", "mat")
"""Papers whose figures :func:`read_published` knows."""

Numbers = dict[str, Any]


def read_published(paper: str) -> Numbers:
    """Return the figures shipped in ``published/PAPER.toml``; raises ``InputError`` for a paper without any.

    >>> read_published("emotion2vec")["corpora"]["emodb"]["figures"]["emotion2vec"]
    [0.8434, 0.8485, 0.8432]
    """
    if paper not in PUBLISHED:
        raise InputError(f"no published figures of {paper!r}{nearest(paper, PUBLISHED)}")
    file = resources.files("serkit.evaluation") / "published" / f"{paper}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def create_table(
    runs: Sequence[tuple[str | Path, str | None]], paper: str | None = None, resamples: int = RESAMPLES
) -> Numbers:
    """Judge ``runs`` (a run folder or a folder of runs, and the label of its row or None) corpus by corpus.

    Returns ``rows`` and ``corpora`` in order (lists of names) and ``cells``, one for each row, corpus and metric:
    ``value``, ``low``, ``high``, ``fold_mean`` (the mean of the folds' own figures, as papers have it), ``n``,
    ``speakers``, ``folds``, ``seeds``, ``protocol``, ``stamp`` and ``source``. Without a label a row is called after
    its encoder; where two runs would share a cell, the second has a row with its folder's name. With a ``paper`` its
    figures on these corpora come before. Raises ``InputError`` where there is no finished run.
    """
    cells: list[Numbers] = []
    for folder, label in runs:
        for run in find_runs([folder]):
            made = _judge(run, resamples)
            row, taken = label or _encoder(run), {(cell["row"], cell["corpus"]) for cell in cells}
            if any((row, cell["corpus"]) in taken for cell in made):
                row = f"{row} ({run.name})"
            cells += [{"row": row, **cell} for cell in made]
    if not cells:
        raise InputError(f"{', '.join(str(folder) for folder, _ in runs)}: holds no finished run")
    corpora = list(dict.fromkeys(cell["corpus"] for cell in cells))
    published = _published_cells(paper, corpora) if paper else []
    every = [*published, *cells]
    rows = list(dict.fromkeys(cell["row"] for cell in every))
    return {"convention": CONVENTION, "rows": rows, "corpora": corpora, "cells": every}


def _encoder(run: Path) -> str:
    """Return what tells a run's encoder: its name, and the weights where they were named."""
    facts = read_object(run / "provenance.json")
    sections = [facts.get("encoder") or {}, *(facts.get("streams") or [])]
    names = []
    for section in sections:
        options = section.get("options") or {}
        told = [str(options[key]) for key in ("weights", "form") if key in options]
        names.append(" ".join([str(section.get("name") or run.name), *told]))
    return " + ".join(names)


def _judge(run: Path, resamples: int) -> list[Numbers]:
    """Return the cells of a run, without their row."""
    path = run / "predictions.parquet"
    try:
        table = distinguish_speakers(judged_rows(read_predictions(path)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    facts, classes, cells = read_object(run / "provenance.json"), classes_of(table), []
    for (corpus,), rows in table.group_by("corpus", maintain_order=True):
        columns = (rows[name].to_list() for name in ("id", "speaker", "seed"))
        of = tally_confusions(rows["truth"].to_list(), rows["prediction"].to_list(), classes, *columns)
        draws = of.resample(resamples)
        shared = {
            "n": of.n,
            "speakers": of.speakers,
            "folds": rows["fold"].n_unique(),
            "seeds": rows["seed"].n_unique(),
            "protocol": write_words(facts.get("protocol"), missing="not recorded"),
            "stamp": write_words(facts.get("stamp"), missing="not recorded"),
            "source": str(run),
        }
        for metric in METRICS:
            figure = figures(of, one(FROM_CONFUSION[metric]), [of.n], draws, "pooled; ")[0].as_dict()
            own = {name: figure[name] for name in ("value", "low", "high")}
            place = {"corpus": str(corpus or run.name), "metric": metric}
            cells.append({**place, **own, "fold_mean": _fold_mean(rows, classes, metric), **shared})
    return cells


def _fold_mean(rows: pl.DataFrame, classes: tuple[str, ...], metric: str) -> float | None:
    values = []
    for _, part in rows.group_by("seed", "fold", maintain_order=True):
        columns = (part[name].to_list() for name in ("id", "speaker", "seed"))
        of = tally_confusions(part["truth"].to_list(), part["prediction"].to_list(), classes, *columns)
        values.append(float(FROM_CONFUSION[metric](of.total)[0]))
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None


def _published_cells(paper: str, corpora: Sequence[str]) -> list[Numbers]:
    published, cells = read_published(paper), []
    for corpus in corpora:
        section = published["corpora"].get(corpus, {"figures": {}})
        for name, values in section["figures"].items():
            facts = {"protocol": section["protocol"], "stamp": "not recorded", "source": published["paper"]}
            none, counts = dict.fromkeys(("low", "high")), dict.fromkeys(("n", "speakers", "folds", "seeds"))
            named = values if isinstance(values, dict) else dict(zip(published["metrics"], values, strict=False))
            for metric, value in named.items():
                cell = {"row": f"{name} (paper)", "corpus": corpus, "metric": metric, "value": value}
                cells.append({**cell, **none, "fold_mean": value, **counts, **facts})
    return cells


def format_table(table: Mapping[str, Any], form: str = "text") -> str:
    """Return the table as ``text`` for a terminal, ``markdown``, or ``csv`` with a line for every figure."""
    if form == "csv":
        return pl.DataFrame(table["cells"], infer_schema_length=None).write_csv()
    head, rows, notes = _head(table), _rows(table), _notes(table)
    if form == "markdown":
        lines = [*write_markdown_table(head, rows), "", table["convention"], "", *(f"- {note}" for note in notes)]
    elif form == "text":
        lines = [*write_columns([head, *rows]), "", table["convention"], *(f"note: {note}" for note in notes)]
    else:
        raise InputError(f"no form {form!r} of a table{nearest(form, ('text', 'markdown', 'csv'))}")
    return "\n".join(lines)


def _head(table: Mapping[str, Any]) -> tuple[str, ...]:
    return ("", *(f"{corpus} {short}" for corpus in table["corpora"] for short in METRICS.values()))


def _rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found = {(cell["row"], cell["corpus"], cell["metric"]): cell for cell in table["cells"]}
    places = [(corpus, metric) for corpus in table["corpora"] for metric in METRICS]
    return [(row, *(_points(found.get((row, *place))) for place in places)) for row in table["rows"]]


def _points(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["value"] is None:
        return "–"
    interval = "" if cell["low"] is None else f" ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
    return f"{100 * cell['value']:.2f}{interval}"


def _notes(table: Mapping[str, Any]) -> list[str]:
    """Return how every cell was come by; what is published says it corpus by corpus."""
    notes: dict[str, None] = {}
    for cell in table["cells"]:
        if cell["n"] is None:
            notes[f"{cell['corpus']}, published ({cell['source']}): {cell['protocol']}"] = None
            continue
        seeds = f", {cell['seeds']} seeds" if cell["seeds"] > 1 else ""
        made = f"n {cell['n']}, {cell['speakers']} speakers, {cell['folds']} folds{seeds}"
        notes[f"{cell['corpus']}, {cell['row']}: {made}, {cell['protocol']}, {cell['stamp']}"] = None
    return list(notes)
