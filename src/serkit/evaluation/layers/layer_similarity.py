"""Every layer against every other: of one source, of several, and against a reference such as eGeMAPS.

Davari et al. 2023, https://arxiv.org/abs/2210.16156, on what CKA does not see; Murphy et al. 2024,
https://arxiv.org/abs/2405.01012, on why its estimator without bias is needed where ``n`` is not far above the width.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy import stats

from serkit.data.files import write_json, write_text
from serkit.data.protocols import Fold
from serkit.data.representation import ALWAYS, Representation
from serkit.errors import InputError, nearest
from serkit.evaluation.layers.similarity import (
    FEWEST,
    align,
    canonical_correlations,
    centre,
    linear_gram,
    orthonormal,
    principal_directions,
    rbf_gram,
    standardise,
    weighted_hsic,
    without_diagonal,
)
from serkit.evaluation.metrics import Floats
from serkit.evaluation.statistics.bootstrap import CONFIDENCE, Figure

Measure = Literal["cka", "cka-biased", "cka-rbf", "cca", "svcca"]
MEASURES: tuple[str, ...] = get_args(Measure)
"""Linear CKA without bias, with it, with Gaussian kernels without bias, mean squared CCA, and SVCCA."""

Layer = tuple[str, int]
"""A source by name and a layer of it."""


@dataclass(frozen=True)
class LayerSimilarity:
    """``pairs`` maps two layers to their likeness: every two layers of ``layers`` (source to layer numbers)."""

    measure: str
    layers: Mapping[str, tuple[int, ...]]
    pairs: Mapping[tuple[Layer, Layer], Figure]
    n: int
    stamp: str

    def figure(self, one: Layer, other: Layer) -> Figure:
        """Return the likeness of two layers, in either order."""
        return self.pairs[(one, other) if (one, other) in self.pairs else (other, one)]

    def matrix(self, one: str, other: str) -> Floats:
        """Return the values ``(N, M)`` of the layers of two sources, NaN where there is none."""
        rows = [
            [self.figure((one, row), (other, column)).value for column in self.layers[other]]
            for row in self.layers[one]
        ]
        return np.array(rows, np.float64)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each pair of layers, ready for JSON or CSV."""
        for (one, other), figure in self.pairs.items():
            names = {"source": one[0], "layer": one[1], "other": other[0], "other_layer": other[1]}
            yield {**names, "value": figure.value, "low": figure.low, "high": figure.high}


def compare_layers(
    sources: Sequence[Representation],
    ids: Sequence[str],
    speakers: Mapping[str, str],
    folds: Sequence[Fold] = (),
    measure: str = "cka",
    step: Callable[[int, int], None] = lambda done, total: None,
    scale: bool = True,
) -> LayerSimilarity:
    """Compare every two layers of ``sources``, whose rows are the utterances ``ids``.

    With ``scale`` columns are standardised first: as they are, those with the largest unit decide alone.
    Without ``folds`` all utterances are compared at once. With folds each is compared on its own test part, whose
    speakers trained sources have not seen, and a value is the mean over folds. Intervals (95 %) leave out one speaker
    at a time and take Student's t (Efron & Tibshirani 1993, ch. 11); where a fold tests a single speaker, one fold at
    a time. Raises ``InputError`` for an unknown ``measure`` or too few utterances.
    """
    if measure not in MEASURES:
        raise InputError(f"no measure {measure!r}{nearest(measure, MEASURES)}")
    place = {id: row for row, id in enumerate(ids)}
    blocks = [(fold.name, [place[id] for id in fold.test]) for fold in folds] or [(ALWAYS, list(range(len(ids))))]
    units = [np.unique([speakers[ids[row]] for row in rows], return_inverse=True)[1] for _, rows in blocks]
    values: dict[tuple[Layer, Layer], list[Floats]] = {}
    for number, ((fold, rows), unit) in enumerate(zip(blocks, units, strict=True)):
        if len(rows) < FEWEST + 1:
            raise InputError(f"{len(rows)} utterances{f' in fold {fold}' if fold else ''} are too few to compare")
        adapt: Any = standardise if scale else centre
        prepare: Any = _OfKernels if measure.startswith("cka") else _OfDirections
        made = {
            (source.name, layer): prepare(adapt(source.of(fold)[place_of][rows]), unit, measure)
            for source in sources
            for place_of, layer in enumerate(source.layers)
        }
        pairs = list(combinations_with_replacement(made, 2))
        for done, (one, other) in enumerate(pairs, 1):
            values.setdefault((one, other), []).append(made[one].against(made[other]))
            step(number * len(pairs) + done, len(blocks) * len(pairs))
    count = len({row for _, rows in blocks for row in rows})
    figures = {pair: _judge(found, count) for pair, found in values.items()}
    stamp = f"{count} utterances, {sum(int(unit.max()) + 1 for unit in units)} speakers"
    stamp += f", mean over the test parts of {len(blocks)} folds" if folds else ""
    return LayerSimilarity(measure, {source.name: source.layers for source in sources}, figures, count, stamp)


def _judge(replicates: Sequence[Floats], count: int) -> Figure:
    """Return the mean over blocks of the first of ``replicates (1 + S,)``; the others left out a speaker each."""
    values = np.array([each[0] for each in replicates])
    if np.isnan(values).any():
        return Figure(None, None, None, count, "not computed", reason="a layer says nothing of these utterances")
    blocks, value = len(values), float(values.mean())
    left_out = [each[1:] for each in replicates]
    if all(len(each) > 1 and not np.isnan(each).any() for each in left_out):
        spread = [(len(each) - 1) / len(each) * np.sum((each - each.mean()) ** 2) for each in left_out]
        error, freedom = float(np.sqrt(np.sum(spread))) / blocks, sum(len(each) - 1 for each in left_out)
        method = f"jackknife over {freedom + blocks} speakers, t({freedom})"
    elif blocks > 1:
        error, freedom = float(values.std(ddof=1) / np.sqrt(blocks)), blocks - 1
        method = f"jackknife over {blocks} folds, t({freedom})"
    else:
        return Figure(value, None, None, count, "no interval", reason="fewer than two speakers")
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Figure(value, max(-1.0, value - reach), min(1.0, value + reach), count, method)


class _OfKernels:
    """The Gram matrix of a layer, and its own HSIC with all speakers and without each of them."""

    def __init__(self, features: Floats, unit: np.ndarray, measure: str) -> None:
        self.debiased = measure != "cka-biased"
        gram = rbf_gram(features) if measure == "cka-rbf" else linear_gram(features)
        self.gram = without_diagonal(gram) if self.debiased else gram
        self.weights = _without_each(unit).astype(np.float64)
        self.rows = self.weights @ self.gram
        self.own = self._hsic(self)

    def against(self, other: _OfKernels) -> Floats:
        """Return the CKA with all speakers, then without each: ``(1 + S,)``."""
        return align(self._hsic(other), self.own, other.own)

    def _hsic(self, other: _OfKernels) -> Floats:
        return weighted_hsic(self.gram * other.gram, self.rows, other.rows, self.weights, self.debiased)


class _OfDirections:
    """Orthonormal directions of a layer with all speakers, and without each of them."""

    def __init__(self, features: Floats, unit: np.ndarray, measure: str) -> None:
        self.squared = measure == "cca"
        kept = _without_each(unit)
        find = orthonormal if self.squared else principal_directions
        self.directions = [find(features[rows]) for rows in kept]
        if self.squared and any(found.shape[1] >= len(found) - 1 for found in self.directions):
            raise InputError(f"CCA needs more utterances than dimensions, got {features.shape}: take measure svcca")

    def against(self, other: _OfDirections) -> Floats:
        """Return the mean (squared) correlation with all speakers, then without each: ``(1 + S,)``."""
        found = (canonical_correlations(*pair) for pair in zip(self.directions, other.directions, strict=True))
        return np.array([np.mean(each**2 if self.squared else each) for each in found])


def _without_each(unit: np.ndarray) -> np.ndarray:
    """Return which utterances (n,) are kept when none, then each speaker is left out: ``(1 + S, n)``, or ``(1, n)``."""
    speakers = int(unit.max()) + 1
    return np.stack([np.ones(len(unit), bool), *(unit != one for one in range(speakers) if speakers > 1)])


def write_similarity(similarity: LayerSimilarity, facts: Mapping[str, Any], folder: Path) -> None:
    """Write ``similarity.json`` (with ``facts``) and ``similarity.csv``, a row for each pair of layers."""
    rows = list(similarity.rows())
    methods = sorted({figure.method for figure in similarity.pairs.values()})
    head = {"measure": similarity.measure, "n": similarity.n, "stamp": similarity.stamp, "methods": methods}
    write_json(folder / "similarity.json", {**head, **facts, "layers": dict(similarity.layers), "pairs": rows})
    write_text(folder / "similarity.csv", to_csv(rows))


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as CSV, the keys of the first as the header; None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def layer_pairs(similarity: LayerSimilarity) -> list[tuple[str, str]]:
    """Return the pairs of sources that have more than one layer each, in order."""
    names = [name for name, layers in similarity.layers.items() if len(layers) > 1]
    return [(one, other) for one, other in product(names, names) if names.index(one) >= names.index(other)]
