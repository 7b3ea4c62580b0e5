"""Runs on the same utterances: differences with intervals, tests, and how much could have been seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.data.files import read_object
from serkit.errors import InputError
from serkit.evaluation.metrics import Floats
from serkit.evaluation.predictions import distinguish_speakers, read_predictions, rows_to_judge
from serkit.evaluation.statistics.bootstrap import RESAMPLES, figures, mean_over, over_seeds
from serkit.evaluation.statistics.measures import measure_of, measures_of
from serkit.evaluation.statistics.paired import Pair, discordant, pair_rows
from serkit.evaluation.statistics.planning import plan_pair
from serkit.evaluation.statistics.significance import (
    PERMUTATIONS,
    Test,
    combine_dependent,
    holm,
    mann_whitney,
    mcnemar,
    permute_clusters,
    t_paired,
    t_welch,
    wilcoxon,
)
from serkit.evaluation.statistics.systems import judge_systems

ROUNDING = 1e-12
"""Means over seeds in another order differ by this little."""

LEVEL = 0.05
FEWEST_SEEDS = 5
"""With fewer, a test over seeds cannot tell luck from difference: Wilcoxon's smallest p with 5 pairs is 0.06."""

PROTOCOL = ("protocol", "stamp", "manifest_fingerprint", "folds")
"""What provenance must agree on for a comparison of systems and not of protocols."""

Numbers = dict[str, Any]


def compare_runs(
    table_a: pl.DataFrame,
    table_b: pl.DataFrame,
    metric: str = "uar",
    resamples: int = RESAMPLES,
    seed: int = 0,
    matters: float = 0.02,
    permutations: int = PERMUTATIONS,
) -> Numbers:
    """Compare two predictions tables by a metric (see ``statistics.measures``); the result is ready for JSON.

    ``difference`` is b minus a, each a mean over its own seeds, with the 95 % interval ``low`` to ``high`` of a paired
    bootstrap: every resample draws the same speakers for both runs and all seeds; ``below_zero`` is the share of
    resamples in which it is negative (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8). ``a`` and
    ``b`` hold each run's ``value``, ``sd_over_seeds`` and number of ``seeds``. ``p`` is that of ``permutation``
    (``statistics.significance.permute_clusters``, runs swapped for whole speakers). ``mcnemar`` counts the
    utterances that one run alone gets right (None for figures that do not count right answers), ``over_seeds`` tests
    the seeds' values where both runs have five or more. ``power`` says what could have been seen, for a difference that
    ``matters`` (``statistics.planning.plan_pair``); ``verdict`` is ``higher``, ``lower`` or ``no difference
    shown``. ``left_out`` counts utterances that only one run judges (tasks beside emotion). Raises ``InputError`` for
    the first utterance that only one table judges, or that has another truth or speaker in the other.
    """
    measure = measure_of(metric)
    a_rows, b_rows = (distinguish_speakers(rows_to_judge(table)) for table in (table_a, table_b))
    pair = pair_rows(a_rows, b_rows, measure)
    of = pair.of

    def difference(sums: Floats) -> Floats:
        a, b = (mean_over(each, axis=-1) for each in pair.values(sums))
        return (b - a)[..., None, None]

    draws = of.resample(resamples, seed)
    a, b = (_side(each) for each in pair.values(of.total))
    made = figures(of, difference, [of.n], draws, f"paired; means over {a['seeds']} and {b['seeds']} seeds; ")[0]
    if made.value is None or made.low is None or made.high is None:
        raise InputError(f"{metric}: {made.reason}")
    drawn = difference(draws).ravel()
    drawn = drawn[~np.isnan(drawn)]
    test = _permute(pair, permutations, seed)
    found = {
        "metric": metric,
        "lower_is_better": measure.lower_is_better,
        "a": a,
        "b": b,
        "difference": made.value,
        "low": made.low,
        "high": made.high,
        "below_zero": float((drawn < -ROUNDING).mean()),
        "n": of.n,
        "left_out": pair.left_out,
        "speakers": of.speakers,
        "method": made.method,
        "p": test.p,
        "permutation": test.as_dict(),
        "mcnemar": _mcnemar(pair),
        "over_seeds": _over_seeds(pair),
        "power": plan_pair(pair, float(drawn.std(ddof=1)), matters),
    }
    return {**found, "verdict": judge_difference(found)}


def judge_difference(found: Mapping[str, Any]) -> str:
    """Return ``higher`` or ``lower`` where the interval leaves out 0 and p (Holm's, if there is one) is below 0.05."""
    p = found.get("p_holm", found["p"])
    if p is None or p >= LEVEL or found["low"] <= 0 <= found["high"]:
        return "no difference shown"
    return "higher" if found["low"] > 0 else "lower"


def _side(values: Floats) -> Numbers:
    value, sd = over_seeds(values)
    return {"value": value, "sd_over_seeds": sd, "seeds": len(values)}


def _permute(pair: Pair, permutations: int, seed: int) -> Test:
    """Swap runs; with several seeds, figures of sums averaged over them, as runs may differ in their number."""
    sums = pair.of.sums
    sides = sums[:, : pair.split].mean(axis=1), sums[:, pair.split :].mean(axis=1)
    return permute_clusters(*sides, pair.measure.value, pair.of.repeats, permutations, seed)


def _mcnemar(pair: Pair) -> Numbers | None:
    """Test every pair of seeds; their p-values depend on each other, as they share the utterances."""
    if pair.measure.task not in (None, "speaker", "gender"):
        return None
    counts = discordant(pair)
    each = [mcnemar(*both).p for both in counts]
    only = np.mean(counts, axis=0).tolist()
    several = f"; twice the median p of {len(each)} pairs of seeds" if len(each) > 1 else ""
    method = f"McNemar, mid-p, utterances taken as independent{several}"
    p = combine_dependent([value for value in each if value is not None])
    return {"p": p, "only_a": only[0], "only_b": only[1], "each": each, "method": method}


def _over_seeds(pair: Pair) -> Numbers | None:
    """Test the values of seeds: whether training luck explains the difference on these utterances."""
    a, b = (values[~np.isnan(values)] for values in pair.values(pair.of.total))
    if min(len(a), len(b)) < FEWEST_SEEDS:
        return None
    tests = {"welch": t_welch(a, b), "mann_whitney": mann_whitney(a, b)}
    if pair.same_seeds and len(a) == len(b):
        tests |= {"paired": t_paired(a, b), "wilcoxon": wilcoxon(a, b)}
    return {name: test.as_dict() for name, test in tests.items()}


def compare_folders(
    folders: Sequence[str | Path],
    metric: str | Sequence[str] = "uar",
    resamples: int = RESAMPLES,
    seed: int = 0,
    every: bool = False,
    matters: float = 0.02,
) -> list[Numbers]:
    """Compare run folders with the first one, or with ``every`` other: :func:`compare_runs` for each pair and metric.

    ``metric`` is one or several, or ``all`` that every run has. Each result also names ``run`` and ``base``, their
    ``stamps``, the ``protocol_differences`` of what provenance records, and ``p_holm``: p adjusted for all pairs and
    metrics compared here (``comparisons`` of them), on which its ``verdict`` rests. Raises ``InputError`` naming the
    folder, and for fewer than two of them.
    """
    if len(folders) < 2:
        raise InputError("name two run folders or more: each is compared with the first")
    runs = [(str(folder), *_read(Path(folder))) for folder in folders]
    pairs = list(combinations(runs, 2)) if every else [(runs[0], other) for other in runs[1:]]
    made = []
    for name in _metrics(metric, [table for _, table, _ in runs]):
        for (base, table, origin), (run, other, other_origin) in pairs:
            try:
                compared = compare_runs(table, other, name, resamples, seed, matters)
            except InputError as error:
                raise InputError(f"{base} and {run}: {error}") from error
            stamps = [origin.get("stamp"), other_origin.get("stamp")]
            apart = _protocol_differences(origin, other_origin)
            made.append({"base": base, "run": run, "stamps": stamps, "protocol_differences": apart, **compared})
    for found, p in zip(made, holm([found["p"] for found in made]), strict=True):
        found |= {"p_holm": p, "comparisons": len(made)}
        found["verdict"] = judge_difference(found)
    return made


def _metrics(metric: str | Sequence[str], tables: list[pl.DataFrame]) -> list[str]:
    names = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
    if "all" not in names:
        return [measure_of(name).name for name in names]
    return [name for name in measures_of(tables[0]) if all(name in measures_of(table) for table in tables[1:])]


def _protocol_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return in words where the records of two runs say that they were trained or tested differently."""
    apart = []
    for key in PROTOCOL:
        one, two = a.get(key), b.get(key)
        if one is None or two is None or one == two:
            continue
        shown = f"{len(one)} and {len(two)}, or of other sizes" if key == "folds" else f"{one} and {two}"
        apart.append(f"{key.replace('_', ' ')}: {shown}")
    return apart


def mix_folders(folders: Sequence[str | Path]) -> Numbers:
    """Fit one mixed model of being right to the emotions that run folders recognise, the first one being the base.

    Returns what ``statistics.systems.judge_systems`` does. Raises ``InputError`` for runs on different
    utterances.
    """
    tables = {str(folder): distinguish_speakers(_read(Path(folder))[0]) for folder in folders}
    base, *others = tables
    for other in others:
        try:
            pair_rows(tables[base], tables[other], measure_of("accuracy"))
        except InputError as error:
            raise InputError(f"{base} and {other}: {error}") from error
    return judge_systems(tables)


def _read(folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    path = folder / "predictions.parquet"
    try:
        rows = rows_to_judge(read_predictions(path))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    return rows, read_object(folder / "provenance.json")
