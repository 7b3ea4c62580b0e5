"""Metrics equal hand-computed values and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from serkit.errors import InputError
from serkit.evaluation.metrics import (
    FROM_CONFUSION,
    accuracy,
    ccc,
    confusion,
    f1_macro,
    f1_weighted,
    precision_macro,
    precision_weighted,
    precisions,
    recall_per_class,
    recalls,
    uar,
)

CLASSES = ["neutral", "happy", "sad", "angry"]
TRUTH = ["neutral", "neutral", "neutral", "happy", "happy", "sad"]
PREDICTION = ["neutral", "neutral", "sad", "happy", "neutral", "sad"]

pairs = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=60)


def test_by_hand():
    assert confusion(TRUTH, PREDICTION, CLASSES).tolist() == [[2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert recall_per_class(TRUTH, PREDICTION, CLASSES) == {
        "neutral": pytest.approx(2 / 3),
        "happy": 0.5,
        "sad": 1.0,
        "angry": None,
    }
    assert uar(TRUTH, PREDICTION, CLASSES) == pytest.approx((2 / 3 + 0.5 + 1) / 3)
    assert accuracy(TRUTH, PREDICTION, CLASSES) == pytest.approx(4 / 6)
    f1 = [2 / 3, 2 / 3, 2 / 3, 0.0]
    assert f1_macro(TRUTH, PREDICTION, CLASSES) == pytest.approx(np.mean(f1))
    assert f1_macro(TRUTH, PREDICTION, CLASSES[:3]) == pytest.approx(2 / 3)
    assert f1_weighted(TRUTH, PREDICTION, CLASSES) == pytest.approx(2 / 3)


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_equal_to_scikit_learn(rows: list[tuple[str, str]]):
    truth, prediction = [list(column) for column in zip(*rows, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        balanced = sk.balanced_accuracy_score(truth, prediction)
    options = {"labels": CLASSES, "zero_division": 0}
    assert (
        confusion(truth, prediction, CLASSES).tolist()
        == sk.confusion_matrix(truth, prediction, labels=CLASSES).tolist()
    )
    assert uar(truth, prediction, CLASSES) == pytest.approx(balanced)
    assert accuracy(truth, prediction, CLASSES) == pytest.approx(sk.accuracy_score(truth, prediction))
    assert f1_macro(truth, prediction, CLASSES) == pytest.approx(
        sk.f1_score(truth, prediction, average="macro", **options)
    )
    assert f1_weighted(truth, prediction, CLASSES) == pytest.approx(
        sk.f1_score(truth, prediction, average="weighted", **options)
    )
    for average, mine in (("macro", precision_macro), ("weighted", precision_weighted)):
        expected = sk.precision_score(truth, prediction, average=average, **options)
        assert mine(truth, prediction, CLASSES) == pytest.approx(expected)
    matrix = confusion(truth, prediction, CLASSES)
    for mine, theirs in ((recalls, sk.recall_score), (precisions, sk.precision_score)):
        expected = theirs(truth, prediction, average=None, **options)
        assert np.nan_to_num(mine(matrix)) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(pairs, st.randoms())
def test_order_of_rows_and_of_classes_never_matters(rows: list[tuple[str, str]], random):
    shuffled, classes = rows.copy(), CLASSES.copy()
    random.shuffle(shuffled)
    random.shuffle(classes)
    for metric in (uar, accuracy, f1_macro, f1_weighted):
        one = metric([t for t, _ in rows], [p for _, p in rows], CLASSES)
        assert metric([t for t, _ in shuffled], [p for _, p in shuffled], classes) == pytest.approx(one)
        assert 0 <= one <= 1


def test_confusions_are_judged_in_stacks():
    matrices = np.random.default_rng(0).integers(0, 9, (3, 2, 4, 4)).astype(float)
    for metric in FROM_CONFUSION.values():
        stacked = metric(matrices)
        assert stacked.shape == (3, 2)
        assert stacked[1, 1] == pytest.approx(float(metric(matrices[1, 1])))


@pytest.mark.parametrize("metric", [confusion, uar, accuracy, f1_macro, f1_weighted, recall_per_class])
def test_bad_input_is_refused(metric):
    with pytest.raises(InputError, match="empty"):
        metric([], [], CLASSES)
    with pytest.raises(InputError, match="2 labels and prediction has 1"):
        metric(["happy", "sad"], ["happy"], CLASSES)
    with pytest.raises(InputError, match="'bored' is not among the classes"):
        metric(["happy"], ["bored"], CLASSES)
    with pytest.raises(InputError, match="'None' is not among"):
        metric(np.array([None, "sad"], dtype=object), ["sad", "sad"], CLASSES)
    with pytest.raises(InputError, match="different"):
        metric(["happy"], ["happy"], ["happy", "happy"])


def test_ccc_by_hand():
    truth, prediction = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0])
    # Population variances 2/3 and 2, covariance 1, means 2 and 3.
    assert ccc(truth, prediction) == pytest.approx(2 * 1 / (2 / 3 + 2 + 1))
    assert ccc(truth, truth) == pytest.approx(1)
    assert ccc(truth, -truth + 4) == pytest.approx(-1)
    assert ccc(truth, truth + 10) < 0.1


@pytest.mark.parametrize("other", [[0.1] * 3, [0.7] * 3, [0.0, 0.5, 1.0]])
def test_ccc_of_a_constant_is_zero(other):
    assert ccc([0.1] * 3, other) == 0.0
    assert ccc(other, [0.1] * 3) == 0.0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40))
def test_ccc_is_symmetric_and_no_larger_than_the_correlation(rows):
    truth, prediction = np.array(rows).T
    value = ccc(truth, prediction)
    assert value == pytest.approx(ccc(prediction, truth))
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    if truth.std() > 1e-3 and prediction.std() > 1e-3:
        assert abs(value) <= abs(np.corrcoef(truth, prediction)[0, 1]) + 1e-9


def test_ccc_refuses_bad_input():
    for truth, prediction in (([], []), ([1.0], [1.0, 2.0]), ([1.0, np.nan], [1.0, 2.0])):
        with pytest.raises(InputError):
            ccc(truth, prediction)
