"""Two runs on the same utterances, laid side by side: rows that are checked to be comparable, and their sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats
from serkit.evaluation.predictions import classes_of, label_columns, labels_of
from serkit.evaluation.statistics.bootstrap import Tally, tally
from serkit.evaluation.statistics.measures import LABELS, Measure


@dataclass(frozen=True)
class Pair:
    """The judged rows of two runs on the same utterances, and their sums by speaker as if both runs were one.

    ``rows`` have a column ``run`` (0 or 1) and ``seed`` counted within it from 0. ``of`` has the seeds of the first
    run, ``split`` of them, before those of the second. ``left_out`` counts utterances that only one run judges.
    """

    measure: Measure
    rows: pl.DataFrame
    of: Tally
    split: int
    same_seeds: bool
    left_out: int

    def values(self, sums: Floats) -> tuple[Floats, Floats]:
        """Return the figure of every seed of the first and of the second run, from sums (..., S, *shape)."""
        made = self.measure.value(sums)
        return made[..., : self.split], made[..., self.split :]

    def right(self) -> pl.DataFrame:
        """Return which answers are right: ``id, speaker, run, seed, right``."""
        return self.rows.select("id", "speaker", "run", "seed", right=pl.col("truth") == pl.col("prediction"))


def pair_rows(table_a: pl.DataFrame, table_b: pl.DataFrame, measure: Measure) -> Pair:
    """Pair the judged rows of two runs for a measure.

    Raises ``InputError`` naming the first utterance that has another truth or speaker in the other run. Figures of
    emotion and of several labels at once need all utterances judged by both; a task beside them is compared where both
    have a reference and an answer.
    """
    a, b = (measure.rows_of(table) for table in (table_a, table_b))
    left_out = 0
    names: list[str] = []
    if measure.task in (None, LABELS):
        classes, others = (_classes_of(rows, measure) for rows in (a, b))
        if set(classes) != set(others):
            raise InputError(f"the runs have different classes: {', '.join(classes)} and {', '.join(others)}")
        _check_same(_facts(a), _facts(b))
        names = [f"p_{name}" for name in classes] if measure.task is None else label_columns(classes)
    else:
        shared = sorted(set(a["id"]) & set(b["id"]))
        left_out = len(set(a["id"]) ^ set(b["id"]))
        if not shared:
            raise InputError(f"{measure.name}: the runs judge no utterance both")
        a, b = (rows.filter(pl.col("id").is_in(shared)) for rows in (a, b))
        _check_same(_facts(a), _facts(b))
    keep = ["id", "speaker", "truth", "prediction", *names]
    rank = pl.col("seed").rank("dense").cast(pl.Int64) - 1
    parts = [rows.select(*keep, seed=rank).with_columns(run=pl.lit(run)) for run, rows in enumerate((a, b))]
    rows, split = pl.concat(parts), a["seed"].n_unique()
    place = rows.select(pl.col("seed") + split * pl.col("run")).to_series().to_list()
    statistics, shape = measure.statistics(rows)
    of = tally(statistics, rows["id"].to_list(), rows["speaker"].to_list(), place, shape)
    return Pair(measure, rows, of, split, set(a["seed"]) == set(b["seed"]), left_out)


def _classes_of(rows: pl.DataFrame, measure: Measure) -> tuple[str, ...]:
    return classes_of(rows) if measure.task is None else labels_of(rows)


def discordant(pair: Pair) -> list[tuple[int, int]]:
    """Return for each pair of seeds how many utterances only the first and only the second run gets right."""
    right = pair.right()
    counts = []
    for seed in range(min(pair.split, pair.of.sums.shape[1] - pair.split)):
        one, two = (right.filter((pl.col("run") == run) & (pl.col("seed") == seed)) for run in (0, 1))
        both = one.join(two, on="id", suffix="_two")
        first, second = both["right"].to_numpy(), both["right_two"].to_numpy()
        counts.append((int((first & ~second).sum()), int((~first & second).sum())))
    return counts


def gains(pair: Pair) -> tuple[Floats, list[str]]:
    """Return per utterance the share of right answers, second minus first run, and its speaker (or the utterance)."""
    means = (
        pair.right()
        .group_by("id", "speaker", "run")
        .agg(pl.col("right").mean())
        .pivot("run", index=["id", "speaker"], values="right")
        .sort("id")
    )
    units = [name if name is not None else f"utterance {id}" for id, name in means.select("id", "speaker").iter_rows()]
    return (means["1"] - means["0"]).to_numpy().astype(np.float64), units


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
