"""How many seeds, utterances or speakers show a difference, and how likely a given number is to show it.

Power is the chance of p below ``alpha`` (two-sided) if the difference is real. It belongs to a difference that would
matter, chosen beforehand: power at the difference that was observed only repeats its p-value (Hoenig & Heisey, Am.
Stat. 55, 2001).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, nct, norm, t

from serkit.errors import InputError

ALPHA = 0.05
POWER = 0.8
MOST = 10_000_000
"""More seeds or utterances than anyone has: beyond it a number needed is None."""


def power_of_seeds(difference: float, sd: float, seeds: int, paired: bool = False, alpha: float = ALPHA) -> float:
    """Return the power of a t-test on the values of ``seeds`` seeds a side.

    ``sd`` is the standard deviation over seeds of one side, or with ``paired`` that of the paired differences
    (:func:`sd_of_differences`). From the noncentral t distribution: Cohen, Statistical Power Analysis for the
    Behavioral Sciences, 1988, ch. 2.

    >>> round(power_of_seeds(0.5, 1.0, 64), 4)
    0.8015
    """
    _check(sd >= 0, "sd must be 0 or more")
    _check(seeds >= 2, "a t-test needs two or more seeds a side")
    if sd == 0:
        return 1.0 if difference else alpha
    df = seeds - 1 if paired else 2 * seeds - 2
    shift = abs(difference) / sd * math.sqrt(seeds if paired else seeds / 2)
    bound = float(t.ppf(1 - alpha / 2, df))
    upper, lower = float(nct.sf(bound, df, shift)), float(nct.cdf(-bound, df, shift))
    # The far tail is lost in scipy for large shifts, where it is 0.
    return min(1.0, (upper if math.isfinite(upper) else 1.0) + (lower if math.isfinite(lower) else 0.0))


def seeds_needed(
    difference: float, sd: float, power: float = POWER, paired: bool = False, alpha: float = ALPHA
) -> int | None:
    """Return the fewest seeds a side with at least ``power``; None where no number is enough.

    >>> seeds_needed(0.5, 1.0), seeds_needed(0.5, 1.0, paired=True)
    (64, 34)
    """
    _check(0 < power < 1, "power must lie between 0 and 1")
    return _fewest(lambda n: power_of_seeds(difference, sd, n, paired, alpha), power, 2) if difference else None


def sd_of_differences(sd_first: float, sd_second: float, correlation: float) -> float:
    """Return the standard deviation of paired differences of values with ``correlation`` between the sides."""
    _check(-1 <= correlation <= 1, "correlation must lie between -1 and 1")
    return math.sqrt(max(0.0, sd_first**2 + sd_second**2 - 2 * correlation * sd_first * sd_second))


def power_of_mcnemar(
    difference: float, discordant: float, n: float, mid: bool = True, design_effect: float = 1.0, alpha: float = ALPHA
) -> float:
    """Return the power of McNemar's test on ``n`` utterances.

    ``discordant`` is the share of utterances that only one run gets right, ``difference`` the difference of their
    accuracies: the shares of either kind differ by it. The number of discordant utterances varies too, so this is the
    unconditional power of the mid-p (or exact) test, summed over it (Connor, Biometrics 43, 1987, gives the
    approximation). With ``design_effect`` above 1 (:func:`design_effect`) n utterances are worth ``n / design_effect``
    independent ones.

    >>> round(power_of_mcnemar(0.24, 0.4, 50, mid=False, alpha=0.1), 3)
    0.839
    """
    _check(0 < discordant <= 1, "the discordant share must lie between 0 and 1")
    _check(abs(difference) <= discordant, "the difference cannot exceed the discordant share")
    _check(design_effect > 0 and n > 0, "n and the design effect must be above 0")
    size = round(n / design_effect)
    low, high = (int(binom.ppf(tail, size, discordant)) for tail in (1e-10, 1 - 1e-10))
    counts = np.arange(max(low, 1), high + 1)
    share = (discordant + abs(difference)) / 2 / discordant
    bound = _critical(counts, mid, alpha)
    reject = binom.cdf(bound, counts, 1 - share) + binom.cdf(bound, counts, share)
    return float(binom.pmf(counts, size, discordant) @ np.where(bound >= 0, reject, 0.0))


def _critical(counts: np.ndarray, mid: bool, alpha: float) -> np.ndarray:
    """Return the largest smaller count with p of ``alpha`` or less among so many discordant ones, -1 for none."""

    def significant(bound: np.ndarray) -> np.ndarray:
        p = 2 * binom.cdf(bound, counts, 0.5) - (binom.pmf(bound, counts, 0.5) if mid else 0.0)
        return (p <= alpha) & (bound >= 0) & (2 * bound < counts)

    bound = binom.ppf(alpha / 2, counts, 0.5) + 1
    for _ in range(4):
        bound = np.where(significant(bound), bound, bound - 1)
    return np.where(significant(bound), bound, -1)


def utterances_needed(
    difference: float,
    discordant: float,
    power: float = POWER,
    mid: bool = True,
    design_effect: float = 1.0,
    alpha: float = ALPHA,
) -> int | None:
    """Return about the fewest utterances with at least ``power`` for McNemar's test; None where no number is enough.

    Power rises in small steps, not evenly: a few utterances fewer may have it too.
    """
    _check(0 < power < 1, "power must lie between 0 and 1")
    if not difference:
        return None
    fewest = _fewest(lambda n: power_of_mcnemar(difference, discordant, n, mid, 1.0, alpha), power, 4)
    return None if fewest is None else math.ceil(fewest * design_effect)


def intraclass_correlation(values: ArrayLike, clusters: ArrayLike) -> float | None:
    """Return how alike ``values`` (n,) are within ``clusters`` (n,), such as speakers: 1 for equal, 0 for unrelated.

    The estimator of one-way analysis of variance for clusters of different sizes, which may be negative; None for
    fewer than two clusters, one value each, or no spread. Donner, Int. Stat. Rev. 54 (1986).
    """
    array = np.asarray(values, dtype=np.float64)
    names, place, sizes = np.unique(np.asarray(clusters).astype(str), return_inverse=True, return_counts=True)
    groups, n = len(names), len(array)
    if groups < 2 or n <= groups:
        return None
    means = np.bincount(place, array) / sizes
    between = float(sizes @ (means - array.mean()) ** 2) / (groups - 1)
    within = float(((array - means[place]) ** 2).sum()) / (n - groups)
    typical = (n - float((sizes**2).sum()) / n) / (groups - 1)
    whole = between + (typical - 1) * within
    return (between - within) / whole if whole > 0 else None


def design_effect(sizes: ArrayLike, correlation: float) -> float:
    """Return by how much clusters of ``sizes`` (U,) inflate the variance of a mean: 1 + (m - 1) * ``correlation``.

    m is the size of the cluster of a typical utterance, the mean square over the mean. A negative correlation counts as
    0. Kish, Survey Sampling, 1965, sec. 8.2; Kerry & Bland, Stat. Med. 20 (2001).
    """
    counts = np.asarray(sizes, dtype=np.float64)
    _check(len(counts) > 0 and bool((counts > 0).all()), "cluster sizes must be above 0")
    return float(1 + ((counts**2).sum() / counts.sum() - 1) * max(0.0, correlation))


def speakers_needed(
    difference: float, standard_error: float, speakers: int, power: float = POWER, alpha: float = ALPHA
) -> int | None:
    """Return how many speakers like these show a ``difference`` of any metric with ``power``.

    ``standard_error`` is that of the difference with ``speakers`` speakers, such as the bootstrap's: it falls with the
    root of their number. Normal approximation: Cochran, Sampling Techniques, 1977, ch. 4.
    """
    _check(0 < power < 1, "power must lie between 0 and 1")
    if not difference:
        return None
    reach = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    return max(2, math.ceil(speakers * (reach * standard_error / difference) ** 2))


def power_of_error(difference: float, standard_error: float, alpha: float = ALPHA) -> float:
    """Return the power for a ``difference`` of any metric whose estimate has this standard error (normal)."""
    if not standard_error:
        return 1.0 if difference else alpha
    bound, shift = float(norm.ppf(1 - alpha / 2)), abs(difference) / standard_error
    return float(norm.sf(bound - shift) + norm.cdf(-bound - shift))


def smallest_difference(standard_error: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """Return the difference that an estimate with this standard error shows with ``power`` (normal approximation)."""
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power)) * standard_error


def _fewest(reaches: Callable[[int], float], power: float, least: int) -> int | None:
    high = least
    while reaches(high) < power:
        high *= 2
        if high > MOST:
            return None
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) >= power else (middle + 1, high)
    return high


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
