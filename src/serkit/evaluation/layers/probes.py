"""Linear probes: what can be read off the time mean of every layer by a linear model, for speakers not heard before.

Alain & Bengio 2016, https://arxiv.org/abs/1610.01644. Nothing of a probe sees its test part: columns are standardised
and the strength of regularisation is chosen on the training part alone, by an inner split of its speakers.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.data.files import write_json, write_text
from serkit.data.folds import Fold, stamp
from serkit.data.representation import Representation
from serkit.errors import InputError
from serkit.evaluation.layers.layer_similarity import to_csv
from serkit.evaluation.metrics import FROM_CONFUSION, Floats
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Figure, figures, one, tally, tally_confusions

COSTS = tuple(10.0 ** np.arange(-4, 2))
"""Values of C for logistic regression, the most regularised first."""
PENALTIES = tuple(10.0 ** np.arange(-1, 6))
"""Penalties of ridge regression."""
INNER = 3
"""Parts of the inner split."""

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows to train on and to test on."""


@dataclass(frozen=True)
class Target:
    """What a probe looks for: ``truth (U,)``, strings for classes or floats, None or NaN where it is not known.

    ``folds`` are tested one after the other; ``groups (U,)`` are kept together by the inner split.
    """

    name: str
    truth: Sequence[Any] = field(repr=False)
    folds: Sequence[Fold] = field(repr=False)
    groups: Sequence[str] = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, sorted; empty for numbers."""
        return tuple(sorted({each for each in self.truth if isinstance(each, str)}))

    @property
    def metric(self) -> str:
        """The name of the score."""
        return "uar" if self.classes else "r2"


@dataclass(frozen=True)
class Probe:
    """The score of one layer of a source for one target; ``chosen`` are the regularisations, a fold each.

    ``chance`` is the score of guessing: one over the classes that a probe learned, or 0.
    """

    source: str
    layer: int
    target: str
    metric: str
    figure: Figure
    chance: float
    stamp: str
    chosen: tuple[float, ...]

    def row(self) -> dict[str, Any]:
        """Return the fields for a table."""
        facts = {"source": self.source, "layer": self.layer, "target": self.target, "metric": self.metric}
        facts |= {"value": self.figure.value, "low": self.figure.low, "high": self.figure.high, "n": self.figure.n}
        return {**facts, "chance": self.chance, "folds": self.stamp}


def probe(
    sources: Sequence[Representation],
    targets: Sequence[Target],
    ids: Sequence[str],
    speakers: Mapping[str, str],
    resamples: int = RESAMPLES,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Probe]:
    """Probe every layer of ``sources`` for every target; rows are the utterances ``ids``.

    Classes are read off by logistic regression and scored by UAR, numbers by ridge regression and scored by R^2, both
    over the predictions of all folds together, with 95 % bootstrap intervals clustered by speaker. A source is not
    asked for its own columns. Numbers that have the same folds and are known of all utterances share their work.
    """
    place = {id: row for row, id in enumerate(ids)}
    work = [(source, number, group) for group in _grouped(targets) for source in sources for number in _layers(source)]
    made = []
    for done, (source, number, group) in enumerate(work, 1):
        asked = [target for target in group if target.name not in source.columns]
        if asked:
            made += _probe_layer(source, number, asked, ids, place, speakers, resamples)
        step(done, len(work))
    return made


def _layers(source: Representation) -> range:
    return range(len(source.layers))


def _grouped(targets: Sequence[Target]) -> list[list[Target]]:
    """Put numbers with the same folds and utterances together, so that one decomposition serves them all."""
    groups: dict[Any, list[Target]] = {}
    for target in targets:
        key: Any = target.name
        if target.metric == "r2":
            key = (tuple(map(id, target.folds)), tuple(known_rows(target.truth)))
        groups.setdefault(key, []).append(target)
    return list(groups.values())


def known_rows(truth: Sequence[Any]) -> list[int]:
    """Return the rows whose truth is known."""
    return [row for row, each in enumerate(truth) if each is not None and each == each]


def _probe_layer(
    source: Representation,
    number: int,
    targets: Sequence[Target],
    ids: Sequence[str],
    place: Mapping[str, int],
    speakers: Mapping[str, str],
    resamples: int,
) -> list[Probe]:
    first = targets[0]
    known = set(known_rows(first.truth))
    groups = np.array(first.groups)
    rows, predictions, chosen, choices = [], [], [], []
    for fold in first.folds:
        train = np.array([place[id] for id in (*fold.train, *fold.dev) if place[id] in known])
        test = np.array([place[id] for id in fold.test if place[id] in known])
        if not len(test):
            continue
        values = source.of(fold.name)[number].astype(np.float64)
        x, unseen = _standardised(values[train], values[test])
        if first.metric == "uar":
            truth = np.array([str(first.truth[row]) for row in train])
            found, strength = fit_classes(x, truth, groups[train], unseen)
            chosen.append([strength])
            choices.append(len(set(truth.tolist())))
        else:
            truths = np.array([[target.truth[row] for target in targets] for row in train], np.float64)
            found, strengths = fit_numbers(x, truths, groups[train], unseen)
            chosen.append(strengths)
        rows.append(test)
        predictions.append(found)
    if not rows:
        raise InputError(f"probe of {first.name}: no utterance with a known value is in a test part")
    tested, said = np.concatenate(rows), np.concatenate(predictions)
    judged = ids, speakers, tested, resamples
    layer, note, chance = source.layers[number], stamp(first.folds), 0.0
    made = []
    for column, target in enumerate(targets):
        asked = [target.truth[row] for row in tested]
        if target.metric == "uar":
            figure = _judge_classes(asked, said, target.classes, *judged)
            chance = float(np.mean([1 / count for count in choices]))
        else:
            figure = _judge_numbers(np.array(asked, np.float64), said[:, column], *judged)
        strengths_of = tuple(float(each[column]) for each in chosen)
        made.append(Probe(source.name, layer, target.name, target.metric, figure, chance, note, strengths_of))
    return made


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 1e-9 * (1 + np.abs(mean)), deviation, np.inf)
    return (train - mean) / scale, (test - mean) / scale


def inner_splits(labels: NDArray, groups: NDArray) -> list[Split]:
    """Split training rows into :data:`INNER` parts whose groups differ, or whose rows do where groups are too few."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    names, classes = len(set(groups.tolist())), labels.dtype.kind in "US"
    rows = np.arange(len(labels))
    options = {"n_splits": INNER, "shuffle": True, "random_state": 0}
    with warnings.catch_warnings():  # a rare class cannot be in every part
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if names >= INNER:
            splitter = (StratifiedGroupKFold if classes else GroupKFold)(**options)
        elif len(rows) < INNER or (classes and max(Counter(labels.tolist()).values()) < INNER):
            return []
        else:
            splitter = (StratifiedKFold if classes else KFold)(**options)
        found = list(splitter.split(rows, labels if classes else None, groups if names >= INNER else None))
    return [(train, test) for train, test in found if not classes or len(set(labels[train].tolist())) > 1]


def fit_classes(x: Floats, truth: NDArray, groups: NDArray, unseen: Floats) -> tuple[NDArray, float]:
    """Return the classes ``(V,)`` that logistic regression on ``x (U, D)`` gives ``unseen (V, D)``, and its C.

    C is the one of :data:`COSTS` with the best recall, averaged over classes, in the inner split.
    """
    if len(set(truth.tolist())) < 2:
        raise InputError(f"a probe needs two classes to train on, got only {truth[0]!r}")
    splits = inner_splits(truth, groups)
    best = COSTS[len(COSTS) // 2]
    if splits:
        said = np.concatenate([_paths(x[train], truth[train], x[test], COSTS) for train, test in splits], axis=1)
        asked = np.concatenate([truth[test] for _, test in splits])
        # Over all parts together: of a part with one class, a constant answer would look perfect.
        recalls = [(said == name)[:, asked == name].mean(axis=1) for name in np.unique(asked)]
        best = COSTS[int(np.mean(recalls, axis=0).argmax())]
    return _paths(x, truth, unseen, [best])[0], float(best)


def _paths(x: Floats, truth: NDArray, unseen: Floats, costs: Sequence[float]) -> NDArray:
    """Return the predictions ``(C, V)`` for each of ascending ``costs``, each fit starting from the last.

    Classes weigh alike, as they do in UAR.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True, class_weight="balanced")
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties are rarely the chosen ones
        for cost in costs:
            found.append(model.set_params(C=cost).fit(x, truth).predict(unseen))
    return np.stack(found)


def fit_numbers(x: Floats, truths: Floats, groups: NDArray, unseen: Floats) -> tuple[Floats, list[float]]:
    """Return what ridge regression on ``x (U, D)`` gives ``unseen (V, D)`` for ``truths (U, M)``: ``(V, M)``.

    With it the M penalties, each the one of :data:`PENALTIES` with the least squared error in the inner split.
    """
    errors = np.zeros((len(PENALTIES), truths.shape[1]))
    for train, test in inner_splits(truths[:, 0], groups):
        errors += ((_ridge(x[train], truths[train], x[test]) - truths[test]) ** 2).sum(axis=1)
    best = errors.argmin(axis=0)
    return _ridge(x, truths, unseen)[best, :, np.arange(len(best))].T, [PENALTIES[number] for number in best]


def _ridge(x: Floats, truths: Floats, unseen: Floats) -> Floats:
    """Return the predictions ``(P, V, M)`` for every penalty, from one decomposition."""
    middle, mean = x.mean(axis=0), truths.mean(axis=0)
    left, values, right = np.linalg.svd(x - middle, full_matrices=False)
    targets, seen = left.T @ (truths - mean), (unseen - middle) @ right.T
    shrunk = [seen @ ((values / (values**2 + penalty))[:, None] * targets) for penalty in PENALTIES]
    return np.stack(shrunk) + mean


def _judge_classes(
    truth: Sequence[str], said: NDArray, classes: Sequence[str], ids: Sequence[str], speakers: Mapping[str, str],
    rows: NDArray, resamples: int,
) -> Figure:  # fmt: skip
    names = [ids[row] for row in rows]
    of = tally_confusions(truth, said, classes, names, [speakers[name] for name in names], [0] * len(rows))
    return figures(of, one(FROM_CONFUSION["uar"]), [of.n], of.resample(resamples))[0]


def _judge_numbers(
    truth: Floats, said: Floats, ids: Sequence[str], speakers: Mapping[str, str], rows: NDArray, resamples: int
) -> Figure:
    names, centred = [ids[row] for row in rows], truth - truth.mean()
    sums = np.stack([np.ones(len(rows)), centred, centred**2, (truth - said) ** 2], axis=1)
    of = tally(sums, names, [speakers[name] for name in names], [0] * len(rows), (4,))
    return figures(of, one(_r2), [of.n], of.resample(resamples), reason="all values are the same")[0]


def _r2(sums: Floats) -> Floats:
    """Return R^2 of sums (..., 4): utterances, truths, their squares, squared errors."""
    count, total, squares, errors = np.moveaxis(sums, -1, 0)
    spread = squares - total**2 / count
    return np.where(spread > 1e-12 * squares, 1 - errors / np.where(spread > 0, spread, 1), np.nan)


def write_probes(probes: Sequence[Probe], facts: Mapping[str, Any], folder: Path) -> None:
    """Write ``probes.json`` (with ``facts``) and ``probes.csv``, a row for each source, layer and target."""
    rows = [each.row() for each in probes]
    full = [
        {**row, "regularisation": list(each.chosen), "method": each.figure.method}
        for row, each in zip(rows, probes, strict=True)
    ]
    write_json(folder / "probes.json", {**facts, "probes": full})
    write_text(folder / "probes.csv", to_csv(rows))
