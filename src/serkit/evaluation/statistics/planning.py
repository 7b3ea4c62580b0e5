"""What a comparison could have seen, and how many speakers, utterances or seeds the next one needs."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import polars as pl

from serkit.errors import InputError
from serkit.evaluation.predictions import distinguish_speakers, rows_to_judge
from serkit.evaluation.statistics import power
from serkit.evaluation.statistics.bootstrap import RESAMPLES, mean_over
from serkit.evaluation.statistics.measures import measure_of
from serkit.evaluation.statistics.paired import Pair, discordant, gains, pair_rows

Numbers = dict[str, Any]


def plan_pair(pair: Pair, standard_error: float, difference: float, wanted: float = power.POWER) -> Numbers:
    """Return the power of a pair for a ``difference`` that matters, and what ``wanted`` power needs.

    ``standard_error`` is the bootstrap's of the difference. ``smallest`` is the difference shown with ``wanted``
    power, ``power`` that for ``difference``, ``speakers`` (or ``utterances``, where whole speakers cannot be resampled)
    how many like these it takes. ``seeds`` compares means over seeds on these same utterances: ``sd``, ``power`` and
    ``needed`` a side, where both runs have two or more. ``mcnemar`` counts right answers: ``discordant`` share,
    ``correlation`` of gains within speakers, their ``design_effect``, ``power`` and ``utterances`` needed.
    """
    of = pair.of
    units = int(of.repeats.sum())
    # The bootstrap takes the units for the population, so its variance is too small by this factor.
    error = standard_error * sqrt(units / (units - 1)) if units > 1 else standard_error
    kind = "speakers" if of.clustered else "utterances"
    return {
        "difference": difference,
        "wanted": wanted,
        "standard_error": error,
        "smallest": power.smallest_difference(error, wanted),
        "power": power.power_of_error(difference, error),
        "units": kind,
        "have": units,
        "needed": power.speakers_needed(difference, error, units, wanted),
        "seeds": _plan_seeds(pair, difference, wanted),
        "mcnemar": _plan_mcnemar(pair, difference, wanted),
    }


def _plan_seeds(pair: Pair, difference: float, wanted: float) -> Numbers | None:
    a, b = (values[~np.isnan(values)] for values in pair.values(pair.of.total))
    if min(len(a), len(b)) < 2:
        return None
    sd = sqrt((float(a.var(ddof=1)) + float(b.var(ddof=1))) / 2)
    have = min(len(a), len(b))
    return {
        "sd": sd,
        "have": have,
        "power": power.power_of_seeds(difference, sd, have),
        "needed": power.seeds_needed(difference, sd, wanted),
    }


def _plan_mcnemar(pair: Pair, difference: float, wanted: float) -> Numbers | None:
    if pair.measure.task not in (None, "speaker", "gender"):
        return None
    share = float(np.mean([sum(both) for both in discordant(pair)])) / pair.of.n
    values, units = gains(pair)
    correlation = power.intraclass_correlation(values, units)
    _, sizes = np.unique(units, return_counts=True)
    effect = power.design_effect(sizes, correlation or 0.0)
    found: Numbers = {"discordant": share, "correlation": correlation, "design_effect": effect}
    if not share or abs(difference) > share:
        return {
            **found,
            "power": None,
            "utterances": None,
            "reason": "fewer utterances differ than the difference asks",
        }
    chance = power.power_of_mcnemar(difference, share, pair.of.n, design_effect=effect)
    return {**found, "power": chance, "utterances": power.utterances_needed(difference, share, wanted, True, effect)}


def plan_runs(
    tables: Sequence[pl.DataFrame],
    metric: str = "uar",
    difference: float = 0.02,
    wanted: float = power.POWER,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Numbers:
    """Return :func:`plan_pair` for a comparison like that of two runs, or of one run with another like it.

    From one run, its seeds take the part of two runs that do not differ: they tell how far two trainings of equal
    systems lie apart on these utterances. ``from`` says which. Raises ``InputError`` for one run with one seed, or
    whose seeds judge different utterances.
    """
    measure = measure_of(metric)
    rows = [distinguish_speakers(rows_to_judge(table)) for table in tables]
    if len(rows) == 1:
        seeds = rows[0]["seed"].unique().sort().to_list()
        if len(seeds) < 2:
            raise InputError(
                "one run with one seed does not say how far two runs lie apart: name a second run, or train more seeds"
            )
        if rows[0].group_by("id").len()["len"].n_unique() > 1:
            raise InputError(
                "the run's seeds judge different utterances, so they are no two runs on the same ones: name two"
            )
        half = len(seeds) // 2
        rows = [rows[0].filter(pl.col("seed").is_in(part)) for part in (seeds[:half], seeds[half:])]
        source = f"one run, its first {half} seeds against its other {len(seeds) - half}"
    elif len(rows) == 2:
        source = "two runs"
    else:
        raise InputError(f"name one run or two, not {len(rows)}")
    pair = pair_rows(rows[0], rows[1], measure)
    a, b = (mean_over(each, axis=-1) for each in pair.values(pair.of.resample(resamples, seed)))
    drawn = b - a
    error = float(drawn[~np.isnan(drawn)].std(ddof=1))
    return {"metric": metric, "n": pair.of.n, "from": source, **plan_pair(pair, error, difference, wanted)}
