"""Utterances as points in a plane: principal components, or UMAP where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from serkit.data.files import write_json, write_text
from serkit.data.representation import ALWAYS, Representation
from serkit.errors import InputError, missing_extra, nearest
from serkit.evaluation.layers.arousal import derive_arousal
from serkit.evaluation.layers.similarity import standardise
from serkit.evaluation.metrics import Floats

Method = Literal["pca", "umap"]
METHODS: tuple[str, ...] = get_args(Method)
NEIGHBOURS = 15


def project(features: ArrayLike, method: str = "pca", seed: int = 0) -> tuple[Floats, tuple[str, str]]:
    """Return ``features (n, D)``, columns standardised, as points ``(n, 2)``, and what the two axes are called.

    ``pca``: the two directions with most variance, named with their shares. ``umap``: McInnes et al. 2018,
    https://arxiv.org/abs/1802.03426, with 15 neighbours (fewer of fewer utterances); neighbours mean something,
    distances and directions do not. Raises ``InputError`` for an unknown method, without umap-learn, or for fewer than
    four utterances.
    """
    if method not in METHODS:
        raise InputError(f"no map by {method!r}{nearest(method, METHODS)}")
    matrix = standardise(features)
    if len(matrix) < 4:
        raise InputError(f"{len(matrix)} utterances are too few for a map")
    if method == "pca":
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        if values[0] == 0:
            raise InputError("the representation is the same for all utterances: there is nothing to map")
        points = np.zeros((len(matrix), 2))
        count = min(2, len(values))
        points[:, :count] = left[:, :count] * values[:count]
        points *= np.where(np.abs(points.min(axis=0)) > points.max(axis=0), -1, 1)  # the sign is arbitrary: settle it
        shares = np.append(values**2 / np.sum(values**2), 0.0)
        return points, (f"component 1 ({shares[0]:.0%})", f"component 2 ({shares[1]:.0%})")
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise missing_extra("umap-learn", "umap") from error
    neighbours = min(NEIGHBOURS, len(matrix) - 1)
    found = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1, init="pca").fit_transform(matrix)
    return np.asarray(found, np.float64), ("UMAP 1", "UMAP 2")


def check_columns(table: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Return the columns that colour a map; raises ``InputError`` for one that is not there or is empty.

    Without ratings, "arousal" is what the class says of it (:mod:`serkit.evaluation.layers.arousal`).
    """
    rated = "arousal" in table.columns and table["arousal"].null_count() < table.height
    if "arousal" in names and not rated and "emotion" in table.columns and table["emotion"].null_count() < table.height:
        table = table.with_columns(derive_arousal(table["emotion"]))
    for name in names:
        if name not in table.columns or table[name].null_count() == table.height:
            full = [column for column in table.columns if table[column].null_count() < table.height]
            raise InputError(f"no column {name!r} with values to colour by{nearest(name, full)}")
    return table.select(list(dict.fromkeys(names)))


@dataclass(frozen=True)
class Map:
    """Points ``(n, 2)`` of the utterances in one ``layer`` of a source, and what the two axes are called.

    ``of_many`` says whether the source has other layers.
    """

    source: str
    layer: int
    points: Floats
    axes: tuple[str, str]
    of_many: bool = True


def map_layers(
    sources: Sequence[Representation], layer: int, method: str, rows: Sequence[int], fold: str = ALWAYS
) -> list[Map]:
    """Project ``rows`` of one ``layer`` (negative: from the last) of every source; a source of one layer has only it.

    ``fold`` says whose model speaks for trained sources. Raises ``InputError`` for a layer that a source lacks.
    """
    made = []
    for source in sources:
        count = len(source.layers)
        if count > 1 and not -count <= layer < count:
            raise InputError(f"{source.name}: has no layer {layer} (there are 0 to {count - 1}, or -1 for the last)")
        place = layer % count if count > 1 else 0
        points, axes = project(source.of(fold)[place][list(rows)], method)
        made.append(Map(source.name, source.layers[place], points, axes, count > 1))
    return made


def write_maps(
    maps: Sequence[Map], ids: Sequence[str], columns: pl.DataFrame, facts: Mapping[str, Any], folder: Path
) -> None:
    """Write ``map.csv``, a row for each source and utterance with its ``columns``, and ``map.json`` with ``facts``."""
    parts = [
        columns.select(
            pl.lit(each.source).alias("source"), pl.lit(each.layer).alias("layer"), pl.Series("id", ids),
            pl.Series("x", each.points[:, 0]), pl.Series("y", each.points[:, 1]), pl.all(),
        )
        for each in maps
    ]  # fmt: skip
    write_text(folder / "map.csv", pl.concat(parts).write_csv())
    layers = [{"source": each.source, "layer": each.layer, "axes": list(each.axes)} for each in maps]
    write_json(folder / "map.json", {**facts, "n": len(ids), "maps": layers})
