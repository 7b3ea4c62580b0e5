"""Tests of a difference: paired by utterance and clustered by speaker, or of the values that seeds gave.

Every test returns a :class:`Test`: a p-value with the effect behind it. p-values are two-sided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.stats import binom, ttest_ind_from_stats

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats

PERMUTATIONS = 10_000
CONFIDENCE = 0.95

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Test:
    """What a test found.

    ``p`` is two-sided. ``difference`` is second minus first with its 95 % interval ``low`` to ``high``, in the unit of
    the values, where the test has one; ``effect`` is free of units and ``effect_name`` says what it is. ``n`` counts
    what the test takes as independent. What does not exist is None and ``method`` says why.
    """

    __test__ = False  # pytest shall not collect it

    method: str
    p: float | None
    n: int
    statistic: float | None = None
    df: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    effect_name: str | None = None
    smallest: float | None = None
    """The smallest p that so few units can give."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are known, for JSON; ``p`` always."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "p"}


def permute_clusters(
    first: ArrayLike,
    second: ArrayLike,
    metric: Statistic,
    repeats: ArrayLike | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Test:
    """Test a difference of ``metric`` by swapping the two runs for whole speakers.

    ``first`` and ``second`` are (U, ...): additive statistics, such as confusions, that each run has of each of U
    speakers, ``repeats`` (U,) how often a row counts; ``metric`` makes values (...) of sums. If the runs do not differ,
    a speaker's two results are exchangeable, so swapping them changes the difference by chance alone: with additive
    values these are the sign flips of the speakers' differences. All 2^U ways are gone through when there are no more
    than ``permutations``, so p is exact; otherwise that many are drawn and the observed way counts as one of them.
    Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005, ch. 3; Phipson & Smyth, Stat. Appl. Genet.
    Mol. Biol. 9 (2010), art. 39.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape or not len(one):
        raise InputError(f"both runs need the same speakers, got statistics of shape {one.shape} and {two.shape}")
    shape, flat = one.shape[1:], (two - one).reshape(len(one), -1)
    counts = np.ones(len(one), dtype=np.int64) if repeats is None else np.asarray(repeats, dtype=np.int64)
    total = np.tensordot(counts.astype(np.float64), one + two, axes=1)

    def differences(signed: Floats) -> Floats:
        halves = signed.reshape(-1, *shape)
        return metric((total + halves) / 2) - metric((total - halves) / 2)

    observed = float(differences(counts @ flat)[0])
    moved = np.any(flat != 0, axis=1)
    flat, counts = flat[moved], counts[moved]
    units = int(counts.sum())
    exact = 2.0**units <= permutations
    size = 2**units if exact else permutations
    text = (
        f"swapping runs for whole units, {units} of {int(np.sum(repeats) if repeats is not None else len(one))} differ"
    )
    if not units or np.isnan(observed):
        return Test(f"permutation: {text}", 1.0 if not units else None, units, difference=observed)
    reach = abs(observed) - 1e-12
    extreme = 0
    for signs in _sign_blocks(counts, exact, size, flat.shape[1], seed):
        extreme += int((np.abs(differences(signs @ flat)) >= reach).sum())
    p = extreme / size if exact else (extreme + 1) / (size + 1)
    method = f"permutation: {text}, " + (f"all {size} ways" if exact else f"{size} ways drawn")
    return Test(method, p, units, difference=observed, smallest=2.0 / size if exact else 1.0 / (size + 1))


def _sign_blocks(counts: NDArray[np.int64], exact: bool, size: int, width: int, seed: int) -> Any:
    """Yield sums of signs of rows (P, U): every combination once, or ``size`` random ones."""
    block = max(1, 4_000_000 // max(width, len(counts)))
    if exact:
        owner = np.repeat(np.eye(len(counts)), counts, axis=0)
        ways = np.array(list(product((-1.0, 1.0), repeat=int(counts.sum()))))
        yield from (ways[start : start + block] @ owner for start in range(0, size, block))
        return
    generator = np.random.default_rng(seed)
    for start in range(0, size, block):
        rows = min(block, size - start)
        yield 2.0 * generator.binomial(counts, 0.5, size=(rows, len(counts))) - counts


def mcnemar(only_first: int, only_second: int, mid: bool = True) -> Test:
    """Test whether two runs are right equally often, from the utterances that only one of them gets right.

    Given the discordant utterances, those that only the second run gets right are binomial with one half. ``mid``
    counts the observed outcome half (mid-p), which is less conservative than the exact test and as safe in practice;
    otherwise p is exact. ``effect`` is the odds ratio ``only_second / only_first`` with its exact (Clopper-Pearson)
    interval ``low`` to ``high``. Utterances are taken as independent: speakers do not count here. McNemar,
    Psychometrika 12 (1947); Fagerland, Lydersen & Laake, BMC Med. Res. Methodol. 13 (2013), art. 91.

    >>> round(mcnemar(4, 14, mid=False).p, 4), round(mcnemar(4, 14).p, 4)
    (0.0309, 0.0192)
    """
    if min(only_first, only_second) < 0:
        raise InputError(f"counts must not be negative, got {only_first} and {only_second}")
    n = int(only_first + only_second)
    kind = "mid-p" if mid else "exact"
    if not n:
        return Test(f"McNemar, {kind}: no utterance is right in one run only", 1.0, 0)
    tail = int(min(only_first, only_second))
    p = 2 * float(binom.cdf(tail, n, 0.5)) - (float(binom.pmf(tail, n, 0.5)) if mid else 0.0)
    share = stats.binomtest(int(only_second), n).proportion_ci(CONFIDENCE, "exact")
    odds = [None if value == 1 else float(value / (1 - value)) for value in (share.low, share.high)]
    ratio = float(only_second / only_first) if only_first else None
    return Test(
        f"McNemar, {kind}", min(p, 1.0), n, tail, low=odds[0], high=odds[1], effect=ratio, effect_name="odds ratio"
    )


def combine_dependent(p: Sequence[float]) -> float:
    """Return twice the median of p-values, at most 1: a p-value however they depend on each other.

    Seeds share their test utterances, so their p-values must not be multiplied as if they were new evidence.
    Meinshausen, Meier & Bühlmann, J. Am. Stat. Assoc. 104 (2009), quantile 1/2; one p-value is returned as it is.

    >>> combine_dependent([0.01, 0.02, 0.2]), combine_dependent([0.01])
    (0.04, 0.01)
    """
    if not len(p):
        raise InputError("there is no p-value to combine")
    # By Markov's inequality for the count of p-values below half the level: no mean of two middle values.
    return float(p[0]) if len(p) == 1 else min(1.0, 2 * float(np.sort(p)[(len(p) - 1) // 2]))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for being several: the chance of any false finding stays below the level.

    Holm, Scand. J. Stat. 6 (1979). None stays None and is not counted.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    known = [place for place, value in enumerate(p) if value is not None]
    if not known:
        return list(p)
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests([p[place] for place in known], method="holm")[1]
    result: list[float | None] = [None] * len(p)
    for place, value in zip(known, adjusted, strict=True):
        result[place] = float(value)
    return result


def t_welch(first: ArrayLike, second: ArrayLike) -> Test:
    """Test a difference of means of independent values with variances of their own; effect: Hedges' g.

    Welch, Biometrika 34 (1947); Hedges, J. Educ. Stat. 6 (1981).
    """
    return _independent(_describe(first), _describe(second), equal=False)


def t_independent(first: ArrayLike, second: ArrayLike) -> Test:
    """Test a difference of means of independent values with one variance (Student 1908); effect: Hedges' g."""
    return _independent(_describe(first), _describe(second), equal=True)


def t_from_summaries(
    first: tuple[float, float, int], second: tuple[float, float, int], equal: bool = False, population: bool = False
) -> Test:
    """Test a difference of means from (mean, standard deviation, n) of both sides.

    ``equal`` takes one variance for both (Student), otherwise Welch's test. ``population`` says that the deviations
    were divided by n (as ``numpy.std`` does), not by n - 1.

    >>> made = t_from_summaries((0.5492, 0.0436, 440), (0.7714, 0.0206, 440), equal=True, population=True)
    >>> round(made.statistic, 2), made.df
    (96.55, 878.0)
    """
    sides: list[tuple[float, float, int]] = []
    for mean, sd, n in (first, second):
        if n < 2 or sd < 0:
            raise InputError(f"a summary needs n of 2 or more and a deviation of 0 or more, got n {n} and {sd}")
        sides.append((mean, sd * float(np.sqrt(n / (n - 1)) if population else 1.0), int(n)))
    return _independent(sides[0], sides[1], equal)


def _describe(values: ArrayLike, least: int = 2) -> tuple[float, float, int]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        raise InputError(f"a t-test needs {least} or more finite values a side, got {array.tolist()[:5]}")
    return float(array.mean()), float(array.std(ddof=1)), len(array)


def _independent(first: tuple[float, float, int], second: tuple[float, float, int], equal: bool) -> Test:
    (mean1, sd1, n1), (mean2, sd2, n2) = first, second
    name = "t-test, independent, equal variances" if equal else "Welch's t-test, independent"
    difference = mean2 - mean1
    if sd1 == sd2 == 0:
        return Test(f"{name}: no spread on either side", None if difference else 1.0, n1 + n2, difference=difference)
    found = ttest_ind_from_stats(mean2, sd2, n2, mean1, sd1, n1, equal_var=equal)
    pooled = ((n1 - 1) * sd1**2 + (n2 - 1) * sd2**2) / (n1 + n2 - 2)
    parts = sd1**2 / n1, sd2**2 / n2
    df = float(n1 + n2 - 2) if equal else sum(parts) ** 2 / (parts[0] ** 2 / (n1 - 1) + parts[1] ** 2 / (n2 - 1))
    error = np.sqrt(pooled * (1 / n1 + 1 / n2)) if equal else np.sqrt(sum(parts))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, df) * error)
    effect = difference / np.sqrt(pooled) * (1 - 3 / (4 * (n1 + n2) - 9))
    return Test(
        name, float(found.pvalue), n1 + n2, float(found.statistic), float(df), difference, difference - reach,
        difference + reach, float(effect), "Hedges' g",
    )  # fmt: skip


def t_paired(first: ArrayLike, second: ArrayLike) -> Test:
    """Test a mean of paired differences; effect: d_z, the mean over the standard deviation of the differences.

    Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, sec. 2.3.5.
    """
    gaps = _gaps(first, second)
    mean, sd, n = _describe(gaps)
    if sd == 0:
        return Test("t-test, paired: all differences are equal", None if mean else 1.0, n, difference=mean)
    found = stats.ttest_1samp(gaps, 0.0)
    low, high = found.confidence_interval(CONFIDENCE)
    p, statistic = float(found.pvalue), float(found.statistic)
    return Test("t-test, paired", p, n, statistic, n - 1.0, mean, float(low), float(high), mean / sd, "d_z")


def wilcoxon(first: ArrayLike, second: ArrayLike) -> Test:
    """Test whether paired differences lie evenly around 0, by their signed ranks; exact where there are few.

    ``effect`` is the matched-pairs rank-biserial correlation, -1 to 1. Wilcoxon, Biometrics Bull. 1 (1945); Kerby,
    Compr. Psychol. 3 (2014).
    """
    gaps = _gaps(first, second)
    gaps = gaps[gaps != 0]
    if not len(gaps):
        return Test("Wilcoxon signed rank: no difference in any pair", 1.0, 0)
    found = stats.wilcoxon(gaps)
    ranks = stats.rankdata(np.abs(gaps))
    effect = float((ranks * np.sign(gaps)).sum() / ranks.sum())
    least = 2.0 ** (1 - len(gaps))
    p, statistic = float(found.pvalue), float(found.statistic)
    return Test(
        "Wilcoxon signed rank", p, len(gaps), statistic, difference=float(np.median(_gaps(first, second))),
        effect=effect, effect_name="rank-biserial correlation", smallest=least,
    )  # fmt: skip


def mann_whitney(first: ArrayLike, second: ArrayLike) -> Test:
    """Test whether values of one side tend to be larger, by their ranks; exact where there are few and no ties.

    ``effect`` is the chance that a value of the second side is larger than one of the first (ties count half). Mann &
    Whitney, Ann. Math. Stat. 18 (1947); McGraw & Wong, Psychol. Bull. 111 (1992).
    """
    one, two = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if not len(one) or not len(two):
        raise InputError("the Mann-Whitney test needs a value or more on each side")
    found = stats.mannwhitneyu(two, one, alternative="two-sided")
    size = len(one) * len(two)
    p, statistic = float(found.pvalue), float(found.statistic)
    return Test(
        "Mann-Whitney U", p, len(one) + len(two), statistic, difference=float(np.median(two) - np.median(one)),
        effect=statistic / size, effect_name="chance that the second is larger",
    )  # fmt: skip


def _gaps(first: ArrayLike, second: ArrayLike) -> Floats:
    one, two = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if one.shape != two.shape or one.ndim != 1:
        raise InputError(f"paired values must be as many on both sides, got {one.shape} and {two.shape}")
    return two - one
