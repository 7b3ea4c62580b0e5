"""CKA and CCA: the reference implementation's values, and what each must not be moved by."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ortho_group

from serkit.data.folds import Fold
from serkit.data.representation import Representation
from serkit.errors import InputError
from serkit.evaluation.layers import similarity
from serkit.evaluation.layers.layer_similarity import MEASURES, compare_layers, write_similarity
from serkit.evaluation.layers.similarity import (
    cka,
    hsic,
    linear_cka,
    linear_cka_of_features,
    linear_gram,
    mean_squared_cca,
    minibatch_cka,
    principal_directions,
    pwcca,
    rbf_cka,
    rbf_gram,
    standardise,
    svcca,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def golden(reference_file):
    inputs = np.load(reference_file("i3/golden_cka_inputs.npz"))
    return inputs["X"], inputs["Y"], json.loads(reference_file("i3/golden_cka.json").read_text())


def test_the_values_of_the_reference_implementation_are_reproduced(golden):
    x, y, expected = golden
    found = {
        "cka_linear_examples": linear_cka(x, y),
        "cka_linear_features": linear_cka_of_features(x, y),
        "cka_linear_examples_debiased": linear_cka(x, y, debiased=True),
        "cka_linear_features_debiased": linear_cka_of_features(x, y, debiased=True),
        "cka_rbf_0_5": rbf_cka(x, y, share=0.5),
        "cca_mean_sq": mean_squared_cca(x, y, centred=False),
    }
    assert found == pytest.approx(expected, abs=1e-12)


seeds = st.integers(0, 10_000)
sizes = st.tuples(st.integers(6, 40), st.integers(1, 12), st.integers(1, 12))


@given(seeds, sizes, st.booleans())
def test_both_forms_of_linear_cka_are_one_and_symmetric(seed, size, debiased):
    count, one, other = size
    x, y = normal(count, one, seed=seed), normal(count, other, seed=seed + 1)
    by_examples = linear_cka(x, y, debiased)
    assert by_examples == pytest.approx(linear_cka_of_features(x, y, debiased), abs=1e-8, nan_ok=True)
    assert by_examples == pytest.approx(linear_cka(y, x, debiased), abs=1e-8, nan_ok=True)
    assert np.isnan(by_examples) or -1 - 1e-9 <= by_examples <= 1 + 1e-9
    assert debiased or by_examples >= 0


@given(seeds, st.integers(2, 10), st.floats(0.01, 100), st.sampled_from([linear_cka, rbf_cka]), st.booleans())
def test_rotation_shift_and_scale_change_nothing(seed, width, scale, measure, debiased):
    x, y = normal(30, width, seed=seed), normal(30, 4, seed=seed + 1) + normal(30, 1, seed=seed)
    turned = scale * x @ ortho_group.rvs(width, random_state=seed) + 3
    assert measure(turned, y, debiased=debiased) == pytest.approx(measure(x, y, debiased=debiased), abs=1e-7)
    assert measure(turned, x, debiased=debiased) == pytest.approx(1, abs=1e-7)


@given(seeds, st.integers(2, 6))
def test_cca_is_not_changed_by_any_invertible_map_where_cka_is(seed, width):
    x, y = normal(60, width, seed=seed), normal(60, 5, seed=seed + 1)
    y[:, 0] += x[:, 0]
    mapped = x @ (normal(width, width, seed=seed + 2) + 3 * np.eye(width))
    assert mean_squared_cca(mapped, y) == pytest.approx(mean_squared_cca(x, y), abs=1e-6)
    stretched = x * np.linspace(1, 9, width)
    assert mean_squared_cca(stretched, x) == pytest.approx(1) and linear_cka(stretched, x) < 0.999


def test_only_the_debiased_estimator_is_zero_for_independent_representations():
    pairs = [(normal(50, 40, seed=2 * seed), normal(50, 30, seed=2 * seed + 1)) for seed in range(40)]
    biased, debiased = ([linear_cka(x, y, way) for x, y in pairs] for way in (False, True))
    assert min(biased) > 0.3 and abs(np.mean(debiased)) < 0.01 < np.std(debiased)


def test_debiased_hsic_is_the_u_statistic_over_quadruples():
    """Song et al. 2012, written out over all ordered quadruples of different utterances."""
    from itertools import permutations

    k, l = (linear_gram(normal(7, 2, seed=seed)) for seed in (1, 2))  # noqa: E741
    total = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(7), 4)]
    assert hsic(k, l, debiased=True) / (7 * 4) == pytest.approx(np.mean(total))
    h = np.eye(7) - 1 / 7
    assert hsic(k, l) == pytest.approx(np.trace(k @ h @ l @ h))


def test_the_bandwidth_is_a_share_of_the_median_distance():
    x = np.array([[0.0], [1.0], [3.0], [7.0]])
    squared = (x - x.T) ** 2
    assert rbf_gram(x, 0.7) == pytest.approx(np.exp(-squared / (2 * 0.49 * np.median(squared))))
    with pytest.raises(InputError, match="positive share"):
        rbf_gram(x, 0)
    with pytest.raises(InputError, match="no bandwidth"):
        rbf_gram(np.ones((6, 2)))


def test_minibatches_estimate_what_all_utterances_give_at_once():
    x = normal(4000, 10)
    y = x[:, :6] + normal(4000, 6, seed=1)
    batches = [(x[start : start + 100], y[start : start + 100]) for start in range(0, 4000, 100)]
    assert minibatch_cka(batches) == pytest.approx(linear_cka_of_features(x, y, debiased=True), abs=0.01)
    assert minibatch_cka([(x[:50], y[:50])]) == pytest.approx(linear_cka(x[:50], y[:50], debiased=True))
    with pytest.raises(InputError, match="no batch"):
        minibatch_cka([])


def test_means_that_are_left_in_look_like_a_common_direction():
    x, y = normal(400, 3), normal(400, 3, seed=1)
    assert mean_squared_cca(x, y) < 0.05
    assert mean_squared_cca(x + 5, y + 5) == pytest.approx(mean_squared_cca(x, y))
    assert mean_squared_cca(x + 5, y + 5, centred=False) > 0.3


def test_directions_that_are_not_there_do_not_count():
    x, y = normal(80, 3), normal(80, 2, seed=1)
    doubled = np.concatenate([x, x @ normal(3, 4, seed=2)], axis=1)
    assert mean_squared_cca(doubled, y) == pytest.approx(mean_squared_cca(x, y))
    with pytest.raises(InputError, match="same for all"):
        mean_squared_cca(np.ones((9, 2)), y[:9])


def test_svcca_drops_what_varies_little_and_pwcca_weighs_it_lightly():
    x, noise = normal(500, 2), normal(500, 3, seed=1)
    y = np.concatenate([x, 1e-3 * normal(500, 3, seed=2)], axis=1)
    whole = np.concatenate([x, 1e-3 * noise], axis=1)
    assert svcca(whole, y) == pytest.approx(1, abs=1e-3)
    assert mean_squared_cca(whole, y) < 0.5 < 0.95 < pwcca(whole, y) <= 1
    assert principal_directions(whole, 1.0).shape == (500, 5) and principal_directions(whole).shape == (500, 2)
    with pytest.raises(InputError, match="share up to 1"):
        principal_directions(whole, 99)


@given(arrays(np.float64, (8, 3), elements=st.floats(-1e6, 1e6)))
def test_standardised_columns_have_mean_0_and_deviation_1_or_nothing(x):
    made = standardise(x)
    assert np.abs(made.mean(axis=0)).max() < 1e-6
    assert all(deviation == pytest.approx(1, abs=1e-6) or deviation == 0 for deviation in made.std(axis=0))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: linear_cka(normal(5, 2), normal(6, 2)), "5 and 6 utterances"),
        (lambda: linear_cka(normal(3, 2), normal(3, 2)), "at least 4"),
        (lambda: linear_cka(np.zeros(4), normal(4, 2)), "is a matrix"),
        (lambda: linear_cka(np.full((4, 2), np.nan), normal(4, 2)), "not finite"),
        (lambda: cka(normal(4, 2), normal(4, 2)), "square"),
    ],
)
def test_what_cannot_be_compared_is_said(call, said):
    with pytest.raises(InputError, match=said):
        call()


# Layers and intervals


def sources(count=60, speakers=6, seed=0):
    ids = [f"u{number}" for number in range(count)]
    who = {id: f"s{number % speakers}" for number, id in enumerate(ids)}
    base = normal(count, 8, seed=seed)
    layers = np.stack([base, base + normal(count, 8, seed=seed + 1)]).astype(np.float32)
    reference = (base[:, :3] + 0.5 * normal(count, 3, seed=seed + 2))[None].astype(np.float32)
    made = [Representation("net", (0, 1), {"": layers}), Representation("ref", (0,), {"": reference})]
    return made, ids, who


@pytest.mark.parametrize("measure", MEASURES)
def test_layers_have_the_values_and_the_jackknife_of_the_plain_functions(measure):
    made, ids, who = sources()
    found = compare_layers(made, ids, who, measure=measure)
    plain = {
        "cka": lambda x, y: linear_cka(x, y, True),
        "cka-biased": linear_cka,
        "cka-rbf": lambda x, y: rbf_cka(x, y, debiased=True),
        "cca": mean_squared_cca,
        "svcca": svcca,
    }[measure]
    x, y = standardise(made[0].of()[1]), standardise(made[1].of()[0])
    figure = found.figure(("ref", 0), ("net", 1))
    assert figure.value == pytest.approx(plain(x, y), abs=1e-9)
    assert found.figure(("net", 0), ("net", 0)).value == pytest.approx(1)
    assert figure.low < figure.value < figure.high and "6 speakers, t(5)" in figure.method and figure.n == 60
    if measure == "cka-rbf":
        return  # its bandwidth stays that of all speakers
    left = np.array([plain(*(each[[who[id] != f"s{one}" for id in ids]] for each in (x, y))) for one in range(6)])
    error = np.sqrt(5 / 6 * np.sum((left - left.mean()) ** 2))
    assert figure.high - figure.value == pytest.approx(2.570582 * error, rel=1e-4)


def test_folds_are_compared_on_their_own_test_parts_with_their_own_models():
    made, ids, who = sources()
    parts = [[id for id in ids if who[id] in names] for names in (("s0", "s1", "s2"), ("s3", "s4", "s5"))]
    folds = [Fold(name, tuple(parts[1 - n]), (), tuple(parts[n]), who) for n, name in enumerate("ab")]
    broken = normal(1, 60, 3, seed=9).astype(np.float32)
    trained = Representation("tuned", (0,), {"a": made[1].of(), "b": broken})
    found = compare_layers([*made, trained], ids, who, folds)
    rows = [[ids.index(id) for id in part] for part in parts]
    x, y = made[0].of()[0], made[1].of()[0]
    for name, second in (("ref", {"a": y, "b": y}), ("tuned", {"a": y, "b": broken[0]})):
        values = [
            linear_cka(standardise(x[r]), standardise(second[fold][r]), True)
            for r, fold in zip(rows, "ab", strict=True)
        ]
        figure = found.figure(("net", 0), (name, 0))
        assert figure.value == pytest.approx(np.mean(values)) and "6 speakers, t(4)" in figure.method
    assert "2 folds" in found.stamp
    alone = []
    for name in ("s0", "s1", "s2"):
        own = tuple(id for id in ids if who[id] == name)
        alone.append(Fold(name, tuple(id for id in ids if who[id] != name), (), own, who))
    assert "3 folds, t(2)" in compare_layers(made, ids, who, alone).figure(("net", 0), ("ref", 0)).method


def test_what_has_no_value_or_no_interval_says_why(tmp_path):
    made, ids, who = sources()
    flat = Representation("flat", (0,), {"": np.ones((1, 60, 4), np.float32)})
    found = compare_layers([made[1], flat], ids, dict.fromkeys(ids, "one"))
    assert found.figure(("ref", 0), ("flat", 0)).reason and found.figure(("ref", 0), ("flat", 0)).value is None
    assert found.figure(("ref", 0), ("ref", 0)).reason == "fewer than two speakers"
    write_similarity(found, {"note": 1}, tmp_path)
    assert json.loads((tmp_path / "similarity.json").read_text())["pairs"][1]["value"] is None
    assert len((tmp_path / "similarity.csv").read_text().splitlines()) == 4
    with pytest.raises(InputError, match="did you mean 'svcca'"):
        compare_layers(made, ids, who, measure="svca")
    with pytest.raises(InputError, match="take measure svcca"):
        wide = Representation("wide", (0,), {"": normal(1, 60, 70).astype(np.float32)})
        compare_layers([wide, made[1]], ids, who, measure="cca")


def test_intervals_of_speakers_cover_the_truth():
    """24 speakers whose voices move both representations: 60 draws, the population's value from 20000 speakers."""

    def draw(rng, speakers, each):
        ways = [np.random.default_rng(n).normal(size=(3, width)) for n, width in enumerate((10, 8))]
        voice = np.repeat(rng.normal(size=(speakers, 3)), each, axis=0)
        return [voice @ way + 2 * rng.normal(size=(len(voice), way.shape[1])) for way in ways]

    truth = linear_cka_of_features(*draw(np.random.default_rng(99), 20_000, 2), debiased=True)
    rng, covered = np.random.default_rng(0), 0
    ids = [str(number) for number in range(24 * 6)]
    who = {id: str(number // 6) for number, id in enumerate(ids)}
    for _ in range(60):
        x, y = draw(rng, 24, 6)
        pair = [Representation(name, (0,), {"": part[None]}) for name, part in (("x", x), ("y", y))]
        figure = compare_layers(pair, ids, who, scale=False).figure(("x", 0), ("y", 0))
        covered += figure.low <= truth <= figure.high
    assert 53 <= covered <= 60  # 57 expected; an interval over utterances covers fewer than 45


def test_similarity_needs_numpy_alone():
    source = similarity.__loader__.get_source(similarity.__name__)
    assert "scipy" not in source and "torch" not in source
