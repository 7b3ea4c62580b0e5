"""Whether probabilities mean what they say: reliability, Brier score, temperature scaling, thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats, ratio

BINS = 15
TEMPERATURES = (0.02, 50.0)
FEW = 10
"""A class with fewer utterances than this, or with fewer of all other classes, gets no threshold of its own."""
EDGES = (1e-6, 1 - 1e-6)
"""The least and the largest threshold."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Utterances with a top probability in (low, high]: their mean ``confidence`` and ``accuracy``, None if n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """What makes scores mean something: the ``temperature`` that divides them, and a threshold for every class."""

    temperature: float
    thresholds: tuple[float, ...]


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return probabilities of logits (..., C) divided by ``temperature`` (> 0); they sum to 1 over the last axis."""
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def bin_statistics(probabilities: ArrayLike, truth_index: ArrayLike, bins: int = BINS) -> Floats:
    """Return per utterance (n, bins, 3): 1, top probability and 1-if-right in its bin, zeros elsewhere.

    Sums of these over any utterances are what :func:`ece_of_sums` needs.
    """
    probability, truth = _check(probabilities, truth_index)
    top = probability.argmax(axis=1)
    rows = np.arange(len(truth))
    confidence = probability[rows, top]
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    result = np.zeros((len(truth), bins, 3))
    result[rows, place] = np.stack([np.ones(len(truth)), confidence, top == truth], axis=1)
    return result


def ece_of_sums(sums: Floats) -> Floats:
    """Return the expected calibration error of summed :func:`bin_statistics` (..., bins, 3): (...), NaN without any."""
    gaps = np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1)
    return ratio(gaps, sums[..., 0].sum(axis=-1))


def ece(probabilities: ArrayLike, truth_index: ArrayLike, bins: int = BINS) -> float:
    """Return the top-label expected calibration error with bins of equal width, in [0, 1].

    ``probabilities`` is (n, C) and ``truth_index`` (n,) holds class positions. It is biased upwards for small n. Raises
    ``InputError`` on shapes or values that do not fit. Guo et al., ICML 2017.

    >>> round(ece([[0.8, 0.2], [0.8, 0.2]], [0, 1]), 6)
    0.3
    """
    return float(ece_of_sums(bin_statistics(probabilities, truth_index, bins).sum(axis=0)))


def reliability_bins(probabilities: ArrayLike, truth_index: ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """Return the ``bins`` intervals of equal width of the top probability, lowest first. Guo et al., ICML 2017."""
    edges = np.linspace(0, 1, bins + 1).tolist()
    result = []
    sums = bin_statistics(probabilities, truth_index, bins).sum(axis=0)
    for low, high, (n, confidence, right) in zip(edges[:-1], edges[1:], sums.tolist(), strict=True):
        known = (confidence / n, right / n) if n else (None, None)
        result.append(ReliabilityBin(low, high, int(n), *known))
    return result


def squared_errors(probabilities: ArrayLike, truth_index: ArrayLike) -> Floats:
    """Return per utterance (n,) the squared distance of its probabilities from the truth, in [0, 2]."""
    probability, truth = _check(probabilities, truth_index)
    right = probability[np.arange(len(truth)), truth]
    return (probability**2).sum(axis=1) - 2 * right + 1


def mean_of_sums(sums: Floats) -> Floats:
    """Return sum / count of (..., 2) pairs of sum and count: (...), NaN where the count is 0."""
    return ratio(sums[..., 0], sums[..., 1])


def brier(probabilities: ArrayLike, truth_index: ArrayLike) -> float:
    """Return the Brier score, the mean over utterances of squared errors summed over classes: 0 perfect, 2 worst.

    ``probabilities`` is (n, C), ``truth_index`` (n,). Brier, Monthly Weather Review 78 (1950).

    >>> round(brier([[0.8, 0.2]], [0]), 6)
    0.08
    """
    return float(squared_errors(probabilities, truth_index).mean())


def fit_temperature(logits: ArrayLike, truth_index: ArrayLike) -> float:
    """Return the temperature with the least negative log likelihood of ``truth_index`` (n,) under ``logits`` (n, C).

    Fit it on dev, never on test. Log probabilities serve as logits. The search is bounded to [0.02, 50]: data that the
    logits separate perfectly have no optimum and get a small temperature, data that contradict them the largest. Raises
    ``InputError`` on shapes or values that do not fit. Guo et al., ICML 2017.
    """
    values = np.asarray(logits, dtype=np.float64)
    _check(softmax(values) if values.ndim == 2 and values.size else values, truth_index)
    values = values - values.max(axis=1, keepdims=True)
    right = values[np.arange(len(values)), np.asarray(truth_index)]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(np.log(np.exp(values * inverse).sum(axis=1)) - right * inverse))

    bounds = tuple(np.log(TEMPERATURES).tolist())
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def best_threshold(scores: ArrayLike, present: ArrayLike) -> float:
    """Return the threshold in (0, 1) with the best F1 of ``scores`` (n,) at or above it against ``present`` (n,).

    It lies midway between the lowest score at or above it and the next lower one, halfway to 0 where there is none. Of
    equally good thresholds the highest is taken: as good, and claimed of fewer utterances. Raises ``InputError`` on
    shapes that do not fit, scores that are not in [0, 1], and where nothing is present.

    >>> best_threshold([0.9, 0.8, 0.6, 0.2], [True, False, True, False])
    0.4
    """
    score, truth = np.asarray(scores, dtype=np.float64), np.asarray(present, dtype=bool)
    if score.ndim != 1 or truth.shape != score.shape or not truth.any():
        raise InputError("a threshold needs scores (n,) and as many answers, one of them yes")
    if not ((score >= 0) & (score <= 1)).all():
        raise InputError("a threshold needs scores from 0 to 1")
    order = np.argsort(-score, kind="stable")
    score, right = score[order], truth[order].cumsum()
    last = np.append(score[:-1] > score[1:], True)  # equal scores are on the same side of any threshold
    f1 = np.where(last & (score > EDGES[0]), 2 * right / (np.arange(1, len(score) + 1) + truth.sum()), -1.0)
    best = int(f1.argmax())
    below = score[best + 1] if best + 1 < len(score) else 0.0
    return float(np.clip((score[best] + below) / 2, *EDGES))


def best_thresholds(probabilities: ArrayLike, truth_index: ArrayLike, few: int = FEW) -> tuple[float, ...]:
    """Return for every class the threshold of :func:`best_threshold`, class against rest.

    ``probabilities`` is (n, C), calibrated; ``truth_index`` (n,). Choose on dev, never on test. Where a class, or the
    rest, has fewer than ``few`` utterances, its own best threshold would be chance: it gets the one that is best for
    the decisions on all classes together. Raises ``InputError`` on shapes or values that do not fit.
    """
    probability, truth = _check(probabilities, truth_index)
    present = truth[:, None] == np.arange(probability.shape[1])
    common = best_threshold(probability.ravel(), present.ravel())
    found = []
    for scores, there in zip(probability.T, present.T, strict=True):
        enough = few <= there.sum() <= len(there) - few
        found.append(best_threshold(scores, there) if enough else common)
    return tuple(found)


def calibrate(probabilities: ArrayLike, truth_index: ArrayLike) -> Calibration:
    """Return the temperature that fits probabilities (n, C) and truth (n,) best, and the thresholds after it."""
    logits = np.log(np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1))
    temperature = fit_temperature(logits, truth_index)
    return Calibration(temperature, best_thresholds(softmax(logits, temperature), truth_index))


def _check(probabilities: ArrayLike, truth_index: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    probability, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(truth_index)
    if probability.ndim != 2 or truth.shape != probability.shape[:1]:
        raise InputError(f"expected probabilities (n, C) and truth (n,), got {probability.shape} and {truth.shape}")
    if not len(truth):
        raise InputError("there are no utterances to judge")
    if not np.isfinite(probability).all():
        raise InputError("probabilities hold a value that is not finite")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= probability.shape[1]:
        raise InputError(f"truth must hold class positions from 0 to {probability.shape[1] - 1}")
    return probability, truth.astype(np.int64)
