"""The mixed model on predictions tables: how the odds of being right differ from system to system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from serkit.errors import InputError
from serkit.evaluation.predictions import UNKNOWN
from serkit.evaluation.statistics.mixed import fit_mixed

COVARIATES = ("gender", "corpus")

Numbers = dict[str, Any]


def judge_systems(tables: Mapping[str, pl.DataFrame], covariates: Sequence[str] = COVARIATES) -> Numbers:
    """Fit the mixed model of ``statistics.mixed`` to the judged rows of systems on the same utterances.

    ``tables`` {name: rows with id, seed, truth, prediction, speaker, gender, corpus}; the first is the one to which the
    others are compared. Random are utterances, speakers, what a speaker does to a system, and, where every system has
    two seeds or more, the seeds of each system, so that an interval holds for new speakers, utterances and seeds.
    ``systems`` and ``covariates`` hold ``odds_ratio, low, high, p, log_odds, error`` of each system against the first,
    and of each level against the commonest one (``gender: male``); ``deviations`` and ``levels`` describe what is
    random. An odds ratio is that for one utterance, not for averages over them: it lies further from 1 than the ratio
    of the odds of two accuracies.
    """
    if len(tables) < 2:
        raise InputError("a mixed model of systems needs two or more of them")
    names = list(tables)
    keep = ["id", "seed", "speaker", *covariates]
    rows = pl.concat(
        table.select(*keep, right=pl.col("truth") == pl.col("prediction")).with_columns(system=pl.lit(name))
        for name, table in tables.items()
    )
    design: dict[str, Any] = {"intercept": np.ones(rows.height)}
    design |= {f"system {name}": (rows["system"] == name).to_numpy() for name in names[1:]}
    levels = {f"{column}: {level}": (rows[column] == level).to_numpy() for column, level in _levels(rows, covariates)}
    groups = _groups(rows, min(table["seed"].n_unique() for table in tables.values()))
    right = rows["right"].to_numpy()
    for name in names:
        if right[(rows["system"] == name).to_numpy()].all():
            raise InputError(f"{name} is always right: the odds of that are not finite, so there is no mixed model")
    fit = fit_mixed(right, np.ones(rows.height), design | levels, groups, "utterance")
    return {
        "base": names[0],
        "systems": {name: fit.odds(f"system {name}") for name in names[1:]},
        "covariates": {name: fit.odds(name) for name in levels},
        "deviations": fit.deviations,
        "levels": fit.levels,
        "answers": fit.answers,
        "log_likelihood": fit.log_likelihood,
        "method": fit.method,
    }


def _levels(rows: pl.DataFrame, covariates: Sequence[str]) -> list[tuple[str, str]]:
    """Return the levels of covariates that have two or more, without the commonest, which is what they are held to.

    A level that one speaker alone has says nothing beyond that speaker, so such a covariate is left out.
    """
    found = []
    for column in covariates:
        counts = rows.group_by(column).agg(pl.len(), pl.col("speaker").n_unique().alias("speakers"))
        counts = counts.filter(pl.col(column).is_not_null() & (pl.col(column) != UNKNOWN)).sort(
            "len", column, descending=[True, False]
        )
        whole = int(counts["len"].sum()) == rows.height
        if counts.height >= 2 and whole and counts["speakers"].min() >= 2:  # type: ignore[operator]
            found += [(column, level) for level in counts[column].to_list()[1:]]
    return found


def _groups(rows: pl.DataFrame, seeds: int) -> dict[str, list[str]]:
    groups = {"utterance": rows["id"].to_list()}
    systems = rows["system"].to_list()
    known = [name for name in rows["speaker"].unique().to_list() if name is not None]
    if len(known) >= 2:
        speakers = [
            f"s{name}" if name is not None else f"u{id}" for name, id in rows.select("speaker", "id").iter_rows()
        ]
        groups["speaker"] = speakers
        groups["speaker of a system"] = [f"{one}|{two}" for one, two in zip(speakers, systems, strict=True)]
    if seeds >= 2:
        groups["seed of a system"] = [f"{one}|{two}" for one, two in zip(rows["seed"].to_list(), systems, strict=True)]
    return groups
