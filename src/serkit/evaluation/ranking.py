"""How well chances rank utterances that have a class above those that have not, at no threshold.

Curves are no sums over utterances, so a resample is a weight of every utterance, with which they are made anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from serkit.evaluation.metrics import Floats
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Figure, create_figure, list_units, mean_over

RANKINGS = ("roc_auc", "average_precision")
"""The area under the ROC curve, and the mean precision at the recall of every threshold (no interpolation)."""

BLOCK = 4_000_000
"""Weights that are held at a time."""


def rank(
    rows: pl.DataFrame, classes: Sequence[str], n: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[Figure]]:
    """Return :data:`RANKINGS` of every class, then their means over classes, as pooled figures with intervals.

    ``rows`` have ``<class>_present`` (null: left out) and ``<class>_chance``; ``n`` are the utterances of which each
    class is known. Units are resampled as in ``statistics.bootstrap``; an area does not exist in a resample without
    utterances that have the class, or without those that have not.
    """
    names, _, _, text = list_units(rows["id"].to_list(), rows["speaker"].to_list())
    _, unit = np.unique(names, return_inverse=True)
    count = int(unit.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = np.concatenate([np.ones((1, count)), drawn]).astype(np.float32)  # the first: every unit once
    seeds = [(rows["seed"] == value).to_numpy() for value in rows["seed"].unique().sort()]
    made = np.full((len(RANKINGS), len(weights), len(seeds), len(classes)), np.nan)
    for column, name in enumerate(classes):
        present, chance = rows[f"{name}_present"], rows[f"{name}_chance"].to_numpy()
        known, truth = present.is_not_null().to_numpy(), present.fill_null(False).to_numpy()
        for place, inside in enumerate(seeds):
            chosen = inside & known
            if chosen.any():
                made[:, :, place, column] = rank_weighted(truth[chosen], chance[chosen], weights, unit[chosen])
    found: dict[str, list[Figure]] = {}
    for metric, values in zip(RANKINGS, made, strict=True):
        values = np.concatenate([values, mean_over(values, axis=-1)[..., None]], axis=-1)
        replicates = mean_over(values[1:], axis=1)
        found[metric] = [
            create_figure(values[0, :, column], replicates[:, column], count, text, "pooled; ")
            for column, count in enumerate([*n, rows["id"].n_unique()])
        ]
    return found


def rank_weighted(
    truth: NDArray[np.bool_], chance: Floats, weights: NDArray[np.float32], unit: NDArray[np.int64]
) -> Floats:
    """Return area and average precision (2, R) of utterances (n); ties share a threshold.

    Each counts the ``weights`` (R, U) of its ``unit`` (n).

    >>> once = np.ones((1, 1), np.float32)
    >>> rank_weighted(np.array([True, False]), np.array([0.9, 0.5]), once, np.array([0, 0])).tolist()
    [[1.0], [1.0]]
    """
    order = np.argsort(-chance, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(chance[order]) != 0, True))
    has = truth[order].astype(np.float32)
    size = max(1, BLOCK // len(order))
    starts, owner = range(0, len(weights), size), unit[order]
    return np.concatenate([_rank_block(has, ends, weights[start : start + size][:, owner]) for start in starts], axis=1)


def _rank_block(has: NDArray[np.float32], ends: NDArray[np.int64], weights: NDArray[np.float32]) -> Floats:
    # Sums of whole numbers are exact in float32 up to 2**24.
    hits = np.cumsum(weights * has, axis=1)[:, ends]
    said = np.cumsum(weights, axis=1)[:, ends]
    gained, missed = np.diff(hits, axis=1, prepend=0), np.diff(said - hits, axis=1, prepend=0)
    present = hits[:, -1].astype(np.float64)
    absent = (said - hits)[:, -1].astype(np.float64)
    pairs = ((hits - gained / 2) * missed).sum(axis=1, dtype=np.float64)
    precise = np.divide(hits, said, out=np.zeros_like(hits), where=said > 0)
    found = np.stack([pairs, (gained * precise).sum(axis=1, dtype=np.float64)])
    below = np.stack([present * absent, present])
    return np.divide(found, below, out=np.full_like(found, np.nan), where=below > 0)
