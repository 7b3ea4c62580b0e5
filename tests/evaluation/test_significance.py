"""Tests of differences: against scipy, statsmodels, textbooks and brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from serkit.errors import InputError
from serkit.evaluation.metrics import FROM_CONFUSION
from serkit.evaluation.statistics.significance import (
    combine_dependent,
    holm,
    mann_whitney,
    mcnemar,
    permute_clusters,
    t_from_summaries,
    t_independent,
    t_paired,
    t_welch,
    wilcoxon,
)

# Student's sleep data (Biometrika 6, 1908): hours gained with two drugs by the same ten patients.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def total(sums):
    return sums[..., 0]


def test_permutation_is_the_sign_flip_test_when_values_add_up():
    gains = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    made = permute_clusters(np.zeros((10, 1)), gains[:, None], total)
    flips = np.array([np.dot(signs, gains) for signs in product((-1, 1), repeat=10)])
    assert made.p == pytest.approx(np.mean(np.abs(flips) >= gains.sum() - 1e-9))
    assert made.difference == pytest.approx(gains.sum()) and made.n == 9 and "all 512 ways" in made.method
    assert made.smallest == 2 / 512


def test_permutation_swaps_whole_speakers_of_a_metric_that_does_not_add_up():
    generator = np.random.default_rng(0)
    one, two = generator.integers(0, 9, (2, 6, 3, 3)).astype(float)
    made = permute_clusters(one, two, FROM_CONFUSION["uar"])
    found = []
    for swap in product((False, True), repeat=6):
        keep = np.array(swap)[:, None, None]
        sides = [np.where(keep, a, b).sum(axis=0) for a, b in ((two, one), (one, two))]
        found.append(float(FROM_CONFUSION["uar"](sides[1]) - FROM_CONFUSION["uar"](sides[0])))
    observed = found[-1]
    assert abs(made.difference) == pytest.approx(abs(observed))
    assert made.p == pytest.approx(np.mean(np.abs(found) >= abs(observed) - 1e-12))
    assert permute_clusters(two, one, FROM_CONFUSION["uar"]).difference == pytest.approx(-made.difference)


def test_repeats_stand_for_equal_units_drawn_or_enumerated():
    few = permute_clusters(np.zeros((2, 1)), np.array([[1.0], [-1.0]]), total, [6, 2])
    assert few.p == pytest.approx(stats.binomtest(2, 8).pvalue)
    many = permute_clusters(np.zeros((2, 1)), np.array([[1.0], [-1.0]]), total, [60, 40], permutations=20_000)
    assert many.p == pytest.approx(stats.binomtest(40, 100).pvalue, abs=0.01)
    assert many.smallest == pytest.approx(1 / 20_001)


def test_permutation_keeps_its_level_and_no_difference_is_none():
    generator = np.random.default_rng(1)
    gains = generator.normal(0, 1, (400, 8, 1))
    found = [permute_clusters(np.zeros((8, 1)), each, total).p for each in gains]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert permute_clusters(np.ones((4, 1)), np.ones((4, 1)), total).p == 1.0
    with pytest.raises(InputError, match="same speakers"):
        permute_clusters(np.ones((4, 1)), np.ones((3, 1)), total)


@pytest.mark.parametrize(("first", "second"), [(4, 14), (10, 10), (0, 7), (121, 59), (1, 0)])
def test_mcnemar_agrees_with_statsmodels_and_the_definition_of_mid_p(first, second):
    exact = mcnemar(first, second, mid=False)
    assert exact.p == pytest.approx(reference_mcnemar([[0, first], [second, 0]], exact=True).pvalue)
    tail = stats.binom.pmf(min(first, second), first + second, 0.5)
    assert mcnemar(first, second).p == pytest.approx(
        min(1.0, 2 * stats.binom.cdf(min(first, second), first + second, 0.5) - tail)
    )
    assert mcnemar(second, first).p == mcnemar(first, second).p


def test_mcnemar_effect_is_the_odds_of_the_second():
    made = mcnemar(10, 20)
    low, high = stats.binomtest(20, 30).proportion_ci(0.95, "exact")
    assert made.effect == 2.0 and (made.low, made.high) == pytest.approx((low / (1 - low), high / (1 - high)))
    assert mcnemar(0, 5).effect is None and mcnemar(0, 5).high is None and mcnemar(0, 0).p == 1.0
    with pytest.raises(InputError, match="negative"):
        mcnemar(-1, 5)


def test_p_values_of_seeds_are_combined_however_they_depend():
    generator = np.random.default_rng(0)
    shared = generator.random((4000, 1))
    for depends in (shared.repeat(5, axis=1), generator.random((4000, 5)), generator.random((4000, 2))):
        assert np.mean([combine_dependent(row) <= 0.05 for row in depends]) < 0.06
    assert combine_dependent([0.5]) == 0.5 and combine_dependent([0.01, 0.9]) == 0.02
    assert combine_dependent([0.9, 0.02, 0.01]) == 0.04
    with pytest.raises(InputError):
        combine_dependent([])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.6, 0.7]) == [None, 1.0, 1.0] and holm([None]) == [None]


def test_t_tests_on_the_sleep_data():
    paired = t_paired(FIRST, SECOND)
    assert (paired.statistic, paired.p) == pytest.approx((4.0621, 0.00283), abs=5e-5)
    assert (paired.difference, paired.low, paired.high) == pytest.approx((1.58, 0.7001, 2.4599), abs=5e-5)
    assert paired.effect == pytest.approx(4.0621 / np.sqrt(10), abs=1e-4)
    welch = t_welch(FIRST, SECOND)
    assert (welch.statistic, welch.df, welch.p) == pytest.approx((1.8608, 17.776, 0.07939), abs=5e-4)
    assert (welch.low, welch.high) == pytest.approx((-0.2055, 3.3655), abs=5e-5)
    student = t_independent(FIRST, SECOND)
    assert (student.df, student.p) == pytest.approx((18, 0.07919), abs=5e-5)
    assert t_welch(SECOND, FIRST).difference == pytest.approx(-1.58)


@pytest.mark.parametrize("equal", [True, False])
def test_summaries_say_what_the_values_say(equal):
    one, two = np.random.default_rng(2).normal(0, [[1], [3]], (2, 12))
    values = (t_independent if equal else t_welch)(one, two[:7])
    for population in (False, True):
        sides = [(v.mean(), v.std(ddof=0 if population else 1), len(v)) for v in (one, two[:7])]
        made = t_from_summaries(*sides, equal=equal, population=population)
        assert (made.p, made.statistic, made.df, made.low, made.effect) == pytest.approx(
            (values.p, values.statistic, values.df, values.low, values.effect)
        )
    reference = stats.ttest_ind(two[:7], one, equal_var=equal)
    assert (values.statistic, values.p, values.df) == pytest.approx(
        (reference.statistic, reference.pvalue, reference.df)
    )
    assert (values.low, values.high) == pytest.approx(tuple(reference.confidence_interval()))


def test_rank_tests():
    made = wilcoxon(FIRST, SECOND)
    assert made.p == pytest.approx(stats.wilcoxon(np.subtract(SECOND, FIRST)[np.subtract(SECOND, FIRST) != 0]).pvalue)
    assert made.effect == 1.0 and made.n == 9 and wilcoxon(SECOND, FIRST).effect == -1.0
    ranks = mann_whitney([1, 2, 3], [2.5, 4, 5])
    assert ranks.effect == pytest.approx(8 / 9) and ranks.p == pytest.approx(0.2)
    assert mann_whitney([2.5, 4, 5], [1, 2, 3]).effect == pytest.approx(1 / 9)
    assert wilcoxon([1, 2], [1, 2]).p == 1.0


def test_too_few_values_are_refused():
    for call in (lambda: t_welch([1], [1, 2]), lambda: t_paired([1, 2], [1]), lambda: mann_whitney([], [1])):
        with pytest.raises(InputError):
            call()
    with pytest.raises(InputError, match="n of 2 or more"):
        t_from_summaries((0, 1, 1), (0, 1, 5))
    assert t_welch([1, 1], [1, 1]).p == 1.0 and t_welch([1, 1], [2, 2]).p is None
