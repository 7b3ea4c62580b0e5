"""Calibration scores equal hand-computed values, and a known temperature is found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from serkit.errors import InputError
from serkit.evaluation.calibration import brier, ece, fit_temperature, reliability_bins, softmax


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


@pytest.mark.parametrize("score", [ece, brier, reliability_bins, fit_temperature])
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
