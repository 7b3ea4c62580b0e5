"""Power: against statsmodels, the tables of textbooks and G*Power, and simulated experiments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from serkit.errors import InputError
from serkit.evaluation.statistics import power
from serkit.evaluation.statistics.significance import mcnemar


@pytest.mark.parametrize(
    ("difference", "sd", "n"), [(0.5, 1.0, 20), (0.02, 0.017, 5), (0.01, 0.02, 110), (0.1, 0.05, 3)]
)
def test_seeds_agree_with_statsmodels(difference, sd, n):
    assert power.power_of_seeds(difference, sd, n) == pytest.approx(
        TTestIndPower().power(difference / sd, n, 0.05), abs=1e-6
    )
    assert power.power_of_seeds(difference, sd, n, paired=True) == pytest.approx(
        TTestPower().power(difference / sd, n, 0.05), abs=1e-6
    )
    assert power.power_of_seeds(-difference, sd, n) == power.power_of_seeds(difference, sd, n)


@pytest.mark.parametrize(
    ("d", "wanted", "independent", "paired"),
    # Cohen 1988, table 2.4.1, and G*Power 3: two-sided, alpha 0.05
    [(0.2, 0.8, 394, 199), (0.5, 0.8, 64, 34), (0.8, 0.8, 26, 15), (0.5, 0.95, 105, 54)],
)
def test_seeds_needed_are_those_of_the_textbooks(d, wanted, independent, paired):
    assert power.seeds_needed(d, 1.0, wanted) == independent
    assert power.seeds_needed(d, 1.0, wanted, paired=True) == paired
    assert power.power_of_seeds(d, 1.0, independent) >= wanted > power.power_of_seeds(d, 1.0, independent - 1)


def test_seeds_without_spread_or_difference():
    assert power.seeds_needed(0.0, 1.0) is None and power.seeds_needed(1e-5, 1.0) is None
    assert power.seeds_needed(0.1, 0.0) == 2 and power.power_of_seeds(0.0, 0.0, 5) == 0.05
    assert power.sd_of_differences(3.0, 4.0, 0.0) == 5.0 and power.sd_of_differences(2.0, 2.0, 1.0) == 0.0
    for call in (lambda: power.power_of_seeds(1, 1, 1), lambda: power.sd_of_differences(1, 1, 2)):
        with pytest.raises(InputError):
            call()


def test_mcnemar_agrees_with_g_power_and_the_approximation():
    # G*Power's example after O'Brien 2002: odds ratio 0.25, discordant share 0.4, 50 pairs, one side at 0.05: 0.839343;
    # two sides at 0.1 add the chance of rejecting on the wrong side.
    assert power.power_of_mcnemar(0.24, 0.4, 50, mid=False, alpha=0.1) == pytest.approx(0.839343, abs=1e-4)
    # Connor 1987: n = (z sqrt(d) + z' sqrt(d - delta^2))^2 / delta^2 = 155 for d 0.45, delta 0.15
    assert power.utterances_needed(0.15, 0.45) == pytest.approx(155, abs=5)
    assert power.utterances_needed(0.02, 0.1) == pytest.approx(1953, rel=0.02)


def test_mcnemars_power_is_the_sum_over_all_outcomes():
    n, discordant, difference = 40, 0.3, 0.15
    better = (discordant + difference) / 2
    whole = 0.0
    for first in range(n + 1):
        for second in range(n + 1 - first):
            if mcnemar(first, second).p <= 0.05:
                rest = stats.multinomial.pmf(
                    [first, second, n - first - second], n, [better, discordant - better, 1 - discordant]
                )
                whole += rest
    assert power.power_of_mcnemar(difference, discordant, n) == pytest.approx(whole, abs=1e-8)
    assert power.power_of_mcnemar(-difference, discordant, n) == pytest.approx(whole, abs=1e-8)
    assert power.power_of_mcnemar(difference, discordant, 2 * n, design_effect=2.0) == pytest.approx(whole, abs=1e-8)


def test_utterances_needed_grow_with_the_design_effect():
    alone = power.utterances_needed(0.1, 0.3)
    assert power.power_of_mcnemar(0.1, 0.3, alone) >= 0.8
    assert power.utterances_needed(0.1, 0.3, design_effect=1.5) == int(np.ceil(1.5 * alone))
    assert power.utterances_needed(0.0, 0.3) is None
    with pytest.raises(InputError, match="discordant share"):
        power.power_of_mcnemar(0.4, 0.3, 50)


def test_intraclass_correlation_and_design_effect():
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(200), 10)
    values = generator.normal(0, 1, 200)[speakers] + generator.normal(0, 2, 2000)
    assert power.intraclass_correlation(values, speakers) == pytest.approx(0.2, abs=0.05)
    assert power.intraclass_correlation(np.repeat([1.0, 2.0, 4.0], 3), np.repeat([0, 1, 2], 3)) == pytest.approx(1.0)
    # By hand: means 2 and 4, mean squares 6 between and 1 within
    assert power.intraclass_correlation([1, 2, 3, 3, 4, 5], list("aaabbb")) == pytest.approx((6 - 1) / (6 + 2 * 1))
    assert power.intraclass_correlation([1, 2], ["a", "b"]) is None
    assert power.design_effect([10, 10, 10], 0.2) == pytest.approx(2.8)
    assert power.design_effect([1, 19], 0.1) == pytest.approx(1 + (362 / 20 - 1) * 0.1)
    assert power.design_effect([10], -0.3) == 1.0


def test_design_effect_is_the_inflation_of_the_variance_in_simulation():
    generator = np.random.default_rng(1)
    sizes = np.array([4, 8, 12, 16])
    owner = np.repeat(np.arange(4), sizes)
    values = generator.normal(0, 0.5, (20_000, 4))[:, owner] + generator.normal(0, 1.0, (20_000, 40))
    correlation = 0.25 / 1.25
    assert values.mean(axis=1).var() / (1.25 / 40) == pytest.approx(power.design_effect(sizes, correlation), rel=0.05)


def test_power_of_a_standard_error():
    smallest = power.smallest_difference(0.01)
    assert smallest == pytest.approx(0.0280, abs=1e-4)
    assert power.power_of_error(smallest, 0.01) == pytest.approx(0.8, abs=1e-4)
    assert power.power_of_error(0.0, 0.01) == pytest.approx(0.05)
    assert power.speakers_needed(smallest, 0.01, 24) in (24, 25)
    assert power.speakers_needed(smallest / 2, 0.01, 24) == pytest.approx(96, abs=1)
    generator = np.random.default_rng(2)
    drawn = generator.normal(0.02, 0.01, 20_000)
    assert np.mean(np.abs(drawn) > 1.96 * 0.01) == pytest.approx(power.power_of_error(0.02, 0.01), abs=0.01)


def test_seeds_power_in_simulation():
    generator = np.random.default_rng(3)
    a, b = generator.normal(0, 1, (2, 4000, 8))
    p = stats.ttest_ind(a, b + 1.2, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(power.power_of_seeds(1.2, 1.0, 8), abs=0.025)
