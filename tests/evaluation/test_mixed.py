"""The mixed model: its likelihood against brute-force integration, its estimates against known effects."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import binom, norm

from serkit.errors import InputError
from serkit.evaluation.statistics.mixed import fit_mixed
from serkit.evaluation.statistics.systems import judge_systems


def small(seed=0, clusters=12, each=6):
    """Answers of clusters with a random effect each: design, right, trials, cluster."""
    generator = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(clusters), each)
    x = np.tile(np.arange(each) % 2, clusters).astype(float)
    trials = generator.integers(1, 9, len(x))
    right = generator.binomial(trials, expit(-0.3 + 0.9 * x + generator.normal(0, 1.2, clusters)[cluster]))
    return {"intercept": np.ones_like(x), "x": x}, right, trials, cluster


def exact_likelihood(beta, spread, design, right, trials, cluster):
    """Integrate the effect of each cluster with scipy's adaptive quadrature."""
    base = beta[0] * design["intercept"] + beta[1] * design["x"]
    whole = 0.0
    for name in np.unique(cluster):
        own = cluster == name

        def joint(effect, own=own):
            return norm.pdf(effect) * binom.pmf(right[own], trials[own], expit(base[own] + spread * effect)).prod()

        whole += np.log(quad(joint, -8, 8, limit=200, points=[-2, 0, 2])[0])
    return whole


def test_quadrature_is_the_exact_likelihood_at_its_maximum():
    design, right, trials, cluster = small()
    fit = fit_mixed(right, trials, design, {"cluster": cluster}, integrate="cluster")
    beta, spread = list(fit.coefficient.values()), fit.deviations["cluster"]
    best = exact_likelihood(beta, spread, design, right, trials, cluster)
    assert fit.log_likelihood == pytest.approx(best, abs=1e-7)
    for step in ((0.05, 0, 0), (0, 0.05, 0), (0, 0, 0.05)):
        for sign in (1, -1):
            moved = [beta[0] + sign * step[0], beta[1] + sign * step[1]]
            assert exact_likelihood(moved, spread + sign * step[2], design, right, trials, cluster) < best
    # The error of x is the curvature of the profile: twice the fall at one error away is 1, when the others follow.
    fall = best - exact_likelihood([beta[0], beta[1] + fit.error["x"]], spread, design, right, trials, cluster)
    assert fall >= 0.5


def test_quadrature_is_exact_where_clusters_hardly_vary():
    # Answers of two systems with several seeds agree so often that log odds of utterances spread by ten and more.
    generator = np.random.default_rng(6)
    cluster = np.repeat(np.arange(60), 2)
    trials, x = np.full(120, 7), np.tile([0.0, 1.0], 60)
    right = generator.binomial(7, expit(2 + x + generator.normal(0, 12, 60)[cluster]))
    design = {"intercept": np.ones(120), "x": x}
    fit = fit_mixed(right, trials, design, {"cluster": cluster}, integrate="cluster")
    beta, spread = list(fit.coefficient.values()), fit.deviations["cluster"]
    assert 8 < spread < 18
    base, points = beta[0] + beta[1] * x, np.linspace(-9, 9, 20_001)
    whole = 0.0
    for name in range(60):
        own = cluster == name
        log_odds = base[own, None] + spread * points
        whole += np.log(
            np.trapezoid(norm.pdf(points) * binom.pmf(right[own, None], 7, expit(log_odds)).prod(axis=0), points)
        )
    assert fit.log_likelihood == pytest.approx(whole, abs=1e-5)


def test_laplace_is_the_formula_at_its_maximum():
    design, right, trials, cluster = small(1)
    fit = fit_mixed(right, trials, design, {"cluster": cluster})
    beta, spread = list(fit.coefficient.values()), fit.deviations["cluster"]
    base, whole = beta[0] + beta[1] * design["x"], 0.0
    for name in np.unique(cluster):
        own, at = cluster == name, 0.0
        for _ in range(50):
            chance = expit(base[own] + spread * at)
            bend = 1 + spread**2 * (trials[own] * chance * (1 - chance)).sum()
            at += (spread * (right[own] - trials[own] * chance).sum() - at) / bend
        whole += (
            binom.logpmf(right[own], trials[own], expit(base[own] + spread * at)).sum() - at**2 / 2 - np.log(bend) / 2
        )
    assert fit.log_likelihood == pytest.approx(whole, abs=1e-6)
    exact = fit_mixed(right, trials, design, {"cluster": cluster}, integrate="cluster")
    assert fit.coefficient["x"] == pytest.approx(exact.coefficient["x"], abs=0.02)
    assert "by Laplace" in fit.method and "by quadrature" in exact.method


def test_crossed_effects_against_a_grid():
    generator = np.random.default_rng(2)
    rows, columns = np.divmod(np.arange(60), 3)  # 20 utterances, 3 judges who meet all of them
    base = generator.normal(0, 1, 20)[rows] + np.array([-0.8, 0.1, 0.9])[columns]
    right = (generator.random(60) < expit(0.3 + base)).astype(float)
    fit = fit_mixed(right, np.ones(60), {"one": np.ones(60)}, {"row": rows, "column": columns}, integrate="row")
    points, weights = np.polynomial.hermite_e.hermegauss(31)
    weights = weights / weights.sum()
    level, across = fit.deviations["row"], fit.deviations["column"]
    whole = 0.0
    inner, inner_weights = np.polynomial.hermite_e.hermegauss(41)
    inner_weights = inner_weights / inner_weights.sum()
    for one, two, three in np.ndindex(31, 31, 31):
        effect = across * points[[one, two, three]]
        log_odds = fit.coefficient["one"] + effect[:, None] + level * inner
        sign = (2 * right.reshape(20, 3) - 1)[..., None]
        whole += np.prod(expit(sign * log_odds).prod(axis=1) @ inner_weights) * weights[[one, two, three]].prod()
    assert fit.log_likelihood == pytest.approx(np.log(whole), abs=0.05)
    assert fit.levels == {"row": 20, "column": 3}


def test_without_random_differences_it_is_plain_logistic_regression():
    generator = np.random.default_rng(5)
    x = np.tile([0.0, 1.0], 400)
    right = (generator.random(800) < expit(0.2 + 0.7 * x)).astype(float)
    fit = fit_mixed(right, np.ones(800), {"intercept": np.ones(800), "x": x}, {"group": np.arange(800) // 40})
    counts = [right[x == value].sum() for value in (0, 1)]
    odds = [np.log(count / (400 - count)) for count in counts]
    assert fit.deviations["group"] == 0
    assert fit.coefficient["x"] == pytest.approx(odds[1] - odds[0], abs=1e-3)
    assert fit.error["x"] == pytest.approx(np.sqrt(sum(1 / count + 1 / (400 - count) for count in counts)), rel=1e-3)


def draw_tables(effect=0.8, speakers=30, each=20, seeds=1, gender=-0.7, seed=0):
    """Predictions of two systems, b better by ``effect``; men are worse by ``gender``; utterances differ by 1.5."""
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(speakers), each)
    hard = generator.normal(0, 0.8, speakers)[who] + generator.normal(0, 1.5, len(who)) + gender * (who % 2)
    tables = {}
    for name, better in (("a", 0.0), ("b", effect)):
        chance = expit(0.8 + better + hard + generator.normal(0, 0.2, speakers)[who])
        parts = []
        for number in range(seeds):
            right = generator.random(len(who)) < chance
            parts.append(
                pl.DataFrame(
                    {
                        "id": [str(place) for place in range(len(who))],
                        "seed": number,
                        "speaker": [f"s{place}" for place in who],
                        "gender": ["male" if place % 2 else "female" for place in who],
                        "corpus": "made",
                        "truth": "yes",
                        "prediction": np.where(right, "yes", "no").tolist(),
                    }
                )
            )
        tables[name] = pl.concat(parts)
    return tables


def test_known_effects_are_recovered():
    made = judge_systems(draw_tables())
    found = made["systems"]["b"]
    assert found["log_odds"] == pytest.approx(0.8, abs=2.5 * found["error"]) and found["error"] < 0.3
    assert found["low"] < np.exp(0.8) < found["high"] and found["p"] < 0.01
    men = made["covariates"]["gender: male"]
    assert men["log_odds"] == pytest.approx(-0.7, abs=2 * men["error"]) and men["odds_ratio"] < 1
    assert made["deviations"]["utterance"] == pytest.approx(1.5, abs=0.6)
    assert made["levels"] == {"utterance": 600, "speaker": 30, "speaker of a system": 60}
    assert made["answers"] == 1200 and made["base"] == "a"


def test_the_other_way_round_is_the_inverse_and_order_does_not_matter():
    tables = draw_tables(speakers=10, each=10)
    forth, back = judge_systems(tables), judge_systems({"b": tables["b"], "a": tables["a"]})
    assert back["systems"]["a"]["log_odds"] == pytest.approx(-forth["systems"]["b"]["log_odds"], abs=2e-3)
    assert back["systems"]["a"]["p"] == pytest.approx(forth["systems"]["b"]["p"], rel=0.02)
    shuffled = {name: table.sample(fraction=1.0, shuffle=True, seed=3) for name, table in tables.items()}
    assert judge_systems(shuffled)["systems"]["b"]["odds_ratio"] == pytest.approx(
        forth["systems"]["b"]["odds_ratio"], rel=1e-3
    )


def test_seeds_are_random_and_every_one_counts():
    tables = draw_tables(speakers=8, each=8, seeds=3)
    made = judge_systems(tables)
    assert made["levels"]["seed of a system"] == 6 and made["answers"] == 2 * 3 * 64
    fewer = {name: table.filter(pl.col("seed") < 2) for name, table in tables.items()}
    assert judge_systems(fewer)["systems"]["b"]["log_odds"] != pytest.approx(made["systems"]["b"]["log_odds"], abs=1e-3)


def test_agrees_with_a_variational_fit_of_statsmodels():
    from scipy import sparse
    from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM

    design, right, trials, cluster = small(4, clusters=40)
    rows = np.repeat(np.arange(len(right)), trials)
    answers = np.concatenate([np.arange(n) < k for k, n in zip(right, trials, strict=True)]).astype(float)
    fixed = np.stack(list(design.values()), axis=1)[rows]
    member = sparse.csr_matrix((np.ones(len(rows)), (np.arange(len(rows)), cluster[rows])))
    theirs = BinomialBayesMixedGLM(answers, fixed, member, np.zeros(40, dtype=int), vcp_p=2, fe_p=5).fit_map()
    ours = fit_mixed(right, trials, design, {"cluster": cluster}, integrate="cluster")
    assert ours.coefficient["x"] == pytest.approx(theirs.params[1], abs=0.1)


def test_models_that_do_not_exist():
    tables = draw_tables(speakers=4, each=6)
    always = tables["b"].with_columns(prediction=pl.lit("yes"))
    with pytest.raises(InputError, match="b is always right"):
        judge_systems({"a": tables["a"], "b": always})
    with pytest.raises(InputError, match="two or more"):
        judge_systems({"a": tables["a"]})
    with pytest.raises(InputError, match="hardly vary within 'utterance'"):
        judge_systems({"a": tables["a"], "b": tables["a"], "c": tables["a"]})
    ones = np.ones(4)
    with pytest.raises(InputError, match="explain each other"):
        fit_mixed([0, 1, 1, 0], ones, {"a": ones, "b": ones}, {"g": [0, 0, 1, 1]})
    with pytest.raises(InputError, match="right and wrong"):
        fit_mixed(ones, ones, {"a": ones}, {"g": [0, 0, 1, 1]})
