"""Analysis of variance: equal to statsmodels on values, and to a paper's printed table within its rounding."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
import statsmodels.api as sm
from statsmodels.formula.api import ols

from serkit.errors import InputError
from serkit.evaluation.statistics.anova import analyse, cells_from_values, cells_of, compare_cells, compare_levels
from serkit.evaluation.statistics.significance import t_from_summaries, t_welch

FACTORS = ("arch", "pre_finetuning", "test")
NAMES = {"pre_finetuning": "pre"}
HALF = 0.00005  # of the last of four decimals


def draw(balanced: bool):
    generator = np.random.default_rng(3)
    rows = []
    for a in "xyz":
        for b in ("p", "q"):
            for c in ("1", "2"):
                count = 4 if balanced else int(generator.integers(2, 7))
                level = {"x": 0, "y": 0.5, "z": 0.2}[a] + (b == "q") * (a == "y") + 0.3 * (c == "2")
                rows += [(level + generator.normal(), a, b, c) for _ in range(count)]
    return pandas.DataFrame(rows, columns=["value", "a", "b", "c"])


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("kind", [2, 3])
def test_agrees_with_statsmodels(balanced, kind):
    table = draw(balanced)
    model = ols("value ~ C(a, Sum) * C(b, Sum) * C(c, Sum)", table).fit()
    reference = sm.stats.anova_lm(model, typ=kind)
    reference.index = [name.replace("C(", "").replace(", Sum)", "") for name in reference.index]
    made = analyse(cells_from_values(table["value"], {name: table[name].tolist() for name in "abc"}), kind)
    assert [effect.name for effect in made] == ["a", "b", "c", "a:b", "a:c", "b:c", "a:b:c", "residual"]
    for effect in made[:-1]:
        row = reference.loc[effect.name]
        assert (effect.sum_squares, effect.df, effect.f, effect.p) == pytest.approx(
            (row["sum_sq"], row["df"], row["F"], row["PR(>F)"])
        )
    assert made[-1].sum_squares == pytest.approx(model.ssr) and made[-1].df == model.df_resid


def test_effect_sizes_by_their_formulas():
    table = draw(True)
    made = analyse(cells_from_values(table["value"], {name: table[name].tolist() for name in "abc"}))
    whole = ((table["value"] - table["value"].mean()) ** 2).sum()
    inner = made[-1].sum_squares
    assert sum(effect.sum_squares for effect in made) == pytest.approx(whole)
    for effect in made[:-1]:
        assert effect.eta2 == pytest.approx(effect.sum_squares / whole)
        assert effect.partial_eta2 == pytest.approx(effect.sum_squares / (effect.sum_squares + inner))
        error = inner / made[-1].df
        assert effect.omega2 == pytest.approx((effect.sum_squares - effect.df * error) / (whole + error))


def paper(reference_file):
    return json.loads(reference_file("i3/paper_results.json").read_text())


def cells_of_paper(found, shift=0.0, signs=0.0, wider=0.0, population=True):
    rows = found["table2"]
    means = np.array([row["mean"] for row in rows]) + shift * np.asarray(signs)
    return cells_of(
        {name: [row[name] for row in rows] for name in FACTORS},
        means.tolist(),
        [row["std"] + wider for row in rows],
        [row["n"] for row in rows],
        population=population,
    )


def contrast(found, factors):
    """+1 or -1 for every cell, so that an effect is the mean of the cells' means times these."""
    first = {name: found["table2"][0][name] for name in FACTORS}
    return np.prod([[1.0 if row[name] == first[name] else -1.0 for row in found["table2"]] for name in factors], axis=0)


@pytest.mark.parametrize(
    "factors",
    [
        ("arch",),
        ("test",),
        ("pre_finetuning",),
        ("arch", "pre_finetuning"),
        ("arch", "test"),
        ("pre_finetuning", "test"),
        FACTORS,
    ],
    ids=":".join,
)
def test_the_papers_f_values_recompute_from_its_table(factors, reference_file):
    # F = n (contrast)^2 / error rises with the contrast's size and falls with every deviation, so the F of all tables
    # that round to the printed one lie between those of two corners.
    found = paper(reference_file)
    signs, name = contrast(found, factors), ":".join(factors)
    printed = found["anova"][":".join(NAMES.get(factor, factor) for factor in factors)]
    printed = printed["F"] if isinstance(printed, dict) else printed
    side = np.sign(signs @ [row["mean"] for row in found["table2"]])
    low, high = (
        next(
            effect.f
            for effect in analyse(cells_of_paper(found, toward * HALF, side * signs, -toward * HALF))
            if effect.name == name
        )
        for toward in (-1, 1)
    )
    assert low <= printed <= high
    if factors == ("test",):  # the one that rounding leaves sharp enough to tell how deviations were computed
        sample = analyse(cells_of_paper(found, HALF, -side * signs, HALF, population=False))
        assert next(effect.f for effect in sample if effect.name == name) > printed


def test_the_papers_p_values_and_degrees_of_freedom(reference_file):
    found = paper(reference_file)
    made = {effect.name: effect for effect in analyse(cells_of_paper(found))}
    assert [made["arch"].df, made["residual"].df] == found["anova"]["df"]
    assert made["arch"].p < 0.001 and made["test"].p < 0.001 and made["arch:test"].p < 0.001
    assert 0.001 < made["pre_finetuning"].p < 0.01 and 0.05 < made["arch:pre_finetuning:test"].p < 0.06
    assert [effect.p for effect in analyse(cells_of_paper(found), 3)] == pytest.approx(
        [effect.p for effect in made.values()]
    )


def test_the_papers_t_tests_recompute_from_its_summaries(reference_file):
    found = paper(reference_file)
    for row in found["ttests"]:
        n = row["N"] // 2
        sign = np.sign(row["mean2"] - row["mean1"])
        bounds = [
            abs(
                t_from_summaries(
                    (row["mean1"] - toward * sign * HALF, row["std1"] - toward * HALF, n),
                    (row["mean2"] + toward * sign * HALF, row["std2"] - toward * HALF, n),
                    equal=True,
                    population=True,
                ).statistic
            )
            for toward in (-1, 1)
        ]
        assert bounds[0] <= abs(row["t"]) <= bounds[1], row


def test_levels_merge_cells_into_the_papers_margins(reference_file):
    found = paper(reference_file)
    cells = cells_of_paper(found)
    for row, factor in zip(found["ttests"], ("test", "arch", "pre_finetuning"), strict=True):
        for side in "12":
            mean, sd, n = cells.select(factor, row[f"c{side}"]).merge()
            assert mean == pytest.approx(row[f"mean{side}"], abs=2.1 * HALF)
            assert sd * np.sqrt((n - 1) / n) == pytest.approx(row[f"std{side}"], abs=2.1 * HALF)
    pairs = {pair.factor: pair for pair in compare_levels(cells, equal=True)}
    assert len(pairs) == 3 and pairs["pre_finetuning"].p_holm == pytest.approx(pairs["pre_finetuning"].test.p)
    assert pairs["arch"].p_holm == pytest.approx(2 * pairs["arch"].test.p)
    assert pairs["arch"].test.difference == pytest.approx(0.6415 - 0.6791, abs=1e-4)  # second level minus first


def test_post_hoc_tests_are_those_of_the_values():
    table = draw(False)
    cells = cells_from_values(table["value"], {name: table[name].tolist() for name in "ab"})
    pairs = compare_levels(cells)
    assert [(pair.factor, pair.first, pair.second) for pair in pairs] == [
        ("a", "x", "y"), ("a", "x", "z"), ("a", "y", "z"), ("b", "p", "q"),
    ]  # fmt: skip
    x, y = (table["value"][table["a"] == level] for level in "xy")
    assert pairs[0].test.p == pytest.approx(t_welch(x, y).p) and pairs[0].means == pytest.approx((x.mean(), y.mean()))
    assert len(compare_cells(cells)) == 15 and compare_cells(cells)[0].first == "x, p"
    ordered = sorted(pair.test.p for pair in compare_cells(cells))
    assert min(pair.p_holm for pair in compare_cells(cells)) == pytest.approx(min(1.0, 15 * ordered[0]))


@pytest.mark.parametrize(
    ("factors", "sd", "n", "message"),
    [
        ({}, [1, 1], [2, 2], "needs a factor"),
        ({"a": ["x", "x"]}, [1, 1], [2, 2], "one level only"),
        ({"a": ["x", "y", "x"]}, [1] * 3, [2] * 3, "x stands more than once"),
        ({"a": ["x", "y", "x"], "b": ["p", "p", "q"]}, [1] * 3, [2] * 3, "no value for y, q"),
        ({"a": ["x", "y"]}, [0, 0], [1, 1], "some need two"),
        ({"a": ["x", "y"]}, [1, -1], [2, 2], "deviations are 0 or more"),
    ],
)
def test_designs_that_cannot_be_analysed(factors, sd, n, message):
    with pytest.raises(InputError, match=message):
        cells_of(factors, [0.0] * len(sd), sd, n)


def test_bad_values_and_types():
    with pytest.raises(InputError, match="has 1 levels for 2 values"):
        cells_from_values([1, 2], {"a": ["x"]})
    with pytest.raises(InputError, match="type 2 or 3"):
        analyse(cells_of({"a": ["x", "y"]}, [0, 1], [1, 1], [2, 2]), 1)
