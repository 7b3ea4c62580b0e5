"""Calibration scores equal hand-computed values, and a known temperature is found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from serkit.errors import InputError
from serkit.evaluation.calibration import (
    best_threshold,
    best_thresholds,
    brier,
    calibrate,
    ece,
    fit_temperature,
    reliability_bins,
    softmax,
)


def sample(seed: int, rows: int = 20000, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (rows, classes) and truth drawn from their softmax: calibrated by construction."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (rows, classes))
    truth = (softmax(logits).cumsum(axis=1) < generator.random((rows, 1))).sum(axis=1)
    return logits, truth.clip(max=classes - 1)


def test_ece_and_bins_by_hand():
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.45, 0.55]]
    truth = [0, 1, 1, 1]
    # Of 10 bins: (0.8, 0.9] accuracy 1/2, (0.6, 0.7] accuracy 1, (0.5, 0.6] accuracy 1.
    assert ece(probabilities, truth, bins=10) == pytest.approx((2 * 0.4 + 0.3 + 0.45) / 4)
    bins = reliability_bins(probabilities, truth, bins=10)
    assert [made.n for made in bins] == [0, 0, 0, 0, 0, 1, 1, 0, 2, 0]
    assert (bins[8].confidence, bins[8].accuracy) == pytest.approx((0.9, 0.5))
    assert bins[0].confidence is None and bins[0].accuracy is None
    assert (bins[0].low, bins[-1].high) == (0.0, 1.0)


def test_certain_and_right_is_perfect():
    assert ece(np.eye(3), [0, 1, 2]) == 0
    assert brier(np.eye(3), [0, 1, 2]) == 0
    assert ece(np.eye(3), [1, 2, 0]) == 1
    assert brier(np.eye(3), [1, 2, 0]) == 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10000), st.integers(1, 50), st.integers(3, 6))
def test_scores_equal_their_definitions(seed: int, rows: int, classes: int):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), rows)
    truth = generator.integers(0, classes, rows)
    labels = np.arange(classes)
    expected = brier_score_loss(truth, probabilities, labels=labels, scale_by_half=False)
    assert brier(probabilities, truth) == pytest.approx(expected)
    bins = reliability_bins(probabilities, truth)
    assert sum(made.n for made in bins) == rows
    gaps = sum(made.n * abs(made.confidence - made.accuracy) for made in bins if made.n) / rows
    assert ece(probabilities, truth) == pytest.approx(gaps)
    order = generator.permutation(rows)
    assert ece(probabilities[order], truth[order]) == pytest.approx(gaps)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float):
    logits, truth = sample(0)
    assert fit_temperature(logits * temperature, truth) == pytest.approx(temperature, rel=0.05)


def test_temperature_repairs_calibration_and_keeps_the_decision():
    logits, truth = sample(1)
    sharp = logits * 3
    found = fit_temperature(sharp, truth)
    assert ece(softmax(sharp, found), truth) < 0.02 < 0.1 < ece(softmax(sharp), truth)
    assert (softmax(sharp, found).argmax(axis=1) == sharp.argmax(axis=1)).all()
    assert fit_temperature(np.log(softmax(sharp)), truth) == pytest.approx(found, rel=1e-3)


def test_temperature_stays_within_its_bounds():
    separated = np.eye(4) * 10
    assert 0.02 <= fit_temperature(separated, np.arange(4)) < 0.5
    assert fit_temperature(separated, np.roll(np.arange(4), 1)) == pytest.approx(50, rel=0.01)


def test_softmax():
    assert softmax([[1000.0, 0.0]]).tolist() == [[1.0, 0.0]]
    assert softmax([0.0, np.log(3)], 1.0) == pytest.approx([0.25, 0.75])
    assert softmax([[1.0, 2.0, 3.0]], 0.5).sum() == pytest.approx(1)
    with pytest.raises(InputError, match="temperature"):
        softmax([1.0], 0)


@pytest.mark.parametrize("score", [ece, brier, reliability_bins, fit_temperature, best_thresholds])
def test_bad_input_is_refused(score):
    for probabilities, truth in (
        (np.zeros((0, 2)), np.zeros(0, int)),
        ([[0.5, 0.5]], [0, 1]),
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[0.5, 0.5]], [0.5]),
        ([[np.nan, 0.5]], [0]),
        ([0.5, 0.5], [0, 1]),
    ):
        with pytest.raises(InputError):
            score(np.array(probabilities), np.array(truth))


def test_thresholds_by_hand():
    # F1 at each cut: 2/3, 1/2, 4/5, 2/3
    assert best_threshold([0.9, 0.8, 0.6, 0.2], [True, False, True, False]) == pytest.approx(0.4)
    # 2/3 at each of the first two cuts is best: the higher one is taken
    assert best_threshold([0.9, 0.5, 0.5, 0.1], [True, False, True, False]) == pytest.approx(0.3)
    assert best_threshold([0.9, 0.7, 0.5, 0.3], [True, False, False, True]) == pytest.approx(0.8)
    # everything is present: halfway to 0; equal scores cannot be told apart
    assert best_threshold([0.8, 0.6], [True, True]) == pytest.approx(0.3)
    assert best_threshold([0.4, 0.4, 0.4], [False, True, False]) == pytest.approx(0.2)
    assert 0 < best_threshold([0.0, 0.0], [False, True]) < 1e-3
    assert 0.999 < best_threshold([1.0, np.nextafter(1, 0)], [True, False]) < 1


def f1_from(scores: np.ndarray, present: np.ndarray, threshold: float) -> float:
    claimed = scores >= threshold
    return 2 * (claimed & present).sum() / (claimed.sum() + present.sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10000), st.integers(2, 40), st.integers(1, 20))
def test_no_threshold_has_a_better_f1(seed: int, rows: int, steps: int):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, steps + 1, rows) / steps  # coarse, so that many are equal
    present = generator.random(rows) < 0.4
    present[0] = True
    found = best_threshold(scores, present)
    assert 0 < found < 1
    best = f1_from(scores, present, found)
    assert best == pytest.approx(max(f1_from(scores, present, level) for level in np.linspace(0.001, 0.999, 400)))
    higher = np.unique(scores[scores >= found])[1:]  # from the first of them on, the same are claimed
    assert all(f1_from(scores, present, level) < best - 1e-9 for level in higher)
    order = generator.permutation(rows)
    assert best_threshold(scores[order], present[order]) == found


def test_a_tiny_class_gets_the_common_threshold():
    generator = np.random.default_rng(4)
    probabilities = generator.dirichlet(np.ones(3), 200)
    truth = np.where(generator.random(200) < 0.7, probabilities.argmax(axis=1), 0)
    truth[truth == 2] = 0
    truth[:9] = 2
    common = best_threshold(probabilities.ravel(), np.eye(3)[truth].ravel())
    alone = [best_threshold(probabilities[:, place], truth == place) for place in range(3)]
    assert best_thresholds(probabilities, truth) == (alone[0], alone[1], common)
    assert best_thresholds(probabilities, truth, few=9) == tuple(alone)
    assert alone[2] != common
    assert best_thresholds([[0.9, 0.1], [0.8, 0.2]], [0, 0]) == (0.5, 0.5)


def test_thresholds_are_of_calibrated_probabilities():
    logits, truth = sample(3, rows=4000)
    found = calibrate(softmax(logits * 3), truth)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.thresholds == pytest.approx(best_thresholds(softmax(logits * 3, found.temperature), truth))
    assert found.thresholds != pytest.approx(best_thresholds(softmax(logits * 3), truth))


@pytest.mark.parametrize(
    ("scores", "present"),
    [([0.5], [False]), ([], []), ([0.5, 0.4], [True]), ([[0.5]], [[True]]), ([1.5], [True]), ([np.nan], [True])],
)
def test_no_threshold_without_scores_and_something_present(scores, present):
    with pytest.raises(InputError, match="a threshold needs"):
        best_threshold(scores, present)
