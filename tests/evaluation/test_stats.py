"""Bootstrap intervals: clustered by speaker, reproducible, joint over seeds, and about as wide as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from serkit.errors import InputError
from serkit.evaluation.metrics import FROM_CONFUSION, recalls, uar
from serkit.evaluation.statistics.bootstrap import Figure, bootstrap, figures, one, over_seeds, tally_confusions

CLASSES = ["happy", "sad"]


def simulate(generator: np.random.Generator, speakers: int, each: int, spread: float) -> tuple[list, list, list]:
    """Return truth, prediction and speaker; a speaker's chance of being recognised is 0.6 give or take ``spread``."""
    chance = np.clip(generator.normal(0.6, spread, speakers), 0.02, 0.98)
    truth = np.tile(np.arange(each) % 2, (speakers, 1))
    right = generator.random((speakers, each)) < chance[:, None]
    names = np.repeat([f"speaker {number}" for number in range(speakers)], each)
    labels = np.array(CLASSES)
    return labels[truth.ravel()].tolist(), labels[np.where(right, truth, 1 - truth).ravel()].tolist(), names.tolist()


def width(figure: Figure) -> float:
    assert figure.low is not None and figure.high is not None
    return figure.high - figure.low


def test_clustered_interval_is_wider_when_speakers_differ():
    truth, prediction, speakers = simulate(np.random.default_rng(1), 20, 40, spread=0.25)
    clustered = bootstrap(truth, prediction, CLASSES, speakers)["uar"]
    independent = bootstrap(truth, prediction, CLASSES, [str(row) for row in range(len(truth))])["uar"]
    assert clustered.value == independent.value == pytest.approx(uar(truth, prediction, CLASSES))
    # Speakers explain about a fifth of the variance: a design effect of 1 + 39 * 0.2, so about 3 times, give or take
    # what 20 speakers leave to chance.
    assert width(clustered) > 1.5 * width(independent)


def test_value_n_and_method():
    truth, prediction, speakers = simulate(np.random.default_rng(2), 24, 10, spread=0.1)
    made = bootstrap(truth, prediction, CLASSES, speakers)
    assert list(made) == ["uar", "accuracy", "f1_macro", "f1_weighted"]
    for figure in made.values():
        assert figure.method == "percentile bootstrap over 24 speakers, 2000 resamples"
        assert figure.n == 240 and figure.sd_over_seeds is None
        assert 0 <= figure.low < figure.value < figure.high <= 1


def test_same_seed_same_interval_in_any_row_order():
    truth, prediction, speakers = simulate(np.random.default_rng(3), 12, 20, spread=0.2)
    made = bootstrap(truth, prediction, CLASSES, speakers, seed=7)
    order = np.random.default_rng(0).permutation(len(truth))
    shuffled = [[column[row] for row in order] for column in (truth, prediction, speakers)]
    assert bootstrap(shuffled[0], shuffled[1], CLASSES, shuffled[2], seed=7) == made
    assert bootstrap(truth, prediction, CLASSES, speakers, seed=8) != made


@pytest.mark.parametrize("speaker", ["only", None])
def test_one_speaker_falls_back_to_utterances_and_says_so(speaker):
    truth, prediction, _ = simulate(np.random.default_rng(4), 1, 100, spread=0.0)
    made = bootstrap(truth, prediction, CLASSES, [speaker] * 100)["accuracy"]
    assert "100 utterances" in made.method and "too narrow" in made.method
    # The utterance bootstrap of a proportion is the binomial: compare with its standard error.
    assert width(made) == pytest.approx(2 * 1.96 * np.sqrt(made.value * (1 - made.value) / 100), rel=0.15)


def test_utterances_without_a_speaker_are_units_of_their_own():
    truth, prediction, speakers = simulate(np.random.default_rng(5), 6, 10, spread=0.1)
    made = bootstrap(truth, prediction, CLASSES, [None if row < 10 else name for row, name in enumerate(speakers)])
    assert "5 speakers and 10 utterances without one" in made["uar"].method


def test_coverage_is_near_95_percent():
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(200):
        truth, prediction, speakers = simulate(generator, 30, 12, spread=0.12)
        made = bootstrap(truth, prediction, CLASSES, speakers, resamples=400)["accuracy"]
        covered += made.low <= 0.6 <= made.high
    assert 0.88 <= covered / 200 <= 0.99


def test_seeds_share_their_resampled_speakers():
    truth, prediction, speakers = simulate(np.random.default_rng(8), 15, 20, spread=0.2)
    ids = [str(row) for row in range(len(truth))]
    alone = bootstrap(truth, prediction, CLASSES, speakers, ids)["uar"]
    doubled = bootstrap(truth * 2, prediction * 2, CLASSES, speakers * 2, ids * 2, [0] * len(ids) + [1] * len(ids))[
        "uar"
    ]
    # Identical seeds add nothing: neither n, nor a narrower interval, nor a spread.
    assert (doubled.value, doubled.low, doubled.high, doubled.n) == pytest.approx(
        (alone.value, alone.low, alone.high, alone.n)
    )
    assert doubled.sd_over_seeds == 0.0
    assert doubled.method.endswith("jointly over 2 seeds")


def test_several_seeds_give_mean_and_spread():
    first = simulate(np.random.default_rng(9), 10, 20, spread=0.2)
    second = simulate(np.random.default_rng(10), 10, 20, spread=0.2)
    ids = [str(row) for row in range(200)]
    made = bootstrap(first[0] * 2, first[1] + second[1], CLASSES, first[2] * 2, ids * 2, [3] * 200 + [5] * 200)["uar"]
    each = [uar(made_by[0], made_by[1], CLASSES) for made_by in (first, second)]
    assert made.value == pytest.approx(np.mean(each))
    assert made.sd_over_seeds == pytest.approx(np.std(each, ddof=1))
    assert made.n == 200


def test_interval_agrees_with_a_plain_loop_over_speakers():
    truth, prediction, speakers = simulate(np.random.default_rng(11), 8, 10, spread=0.2)
    made = bootstrap(truth, prediction, CLASSES, speakers, resamples=4000)["uar"]
    rows = np.arange(80).reshape(8, 10)
    generator = np.random.default_rng(0)
    looped = []
    for _ in range(2000):
        drawn = rows[generator.integers(0, 8, 8)].ravel()
        looped.append(uar([truth[row] for row in drawn], [prediction[row] for row in drawn], CLASSES))
    assert (made.low, made.high) == pytest.approx(np.percentile(looped, [2.5, 97.5]), abs=0.02)


def test_class_absent_in_truth_or_in_a_resample():
    truth = ["happy"] * 9 + ["sad"]
    made = tally_confusions(truth, truth, ["happy", "sad", "angry"], list("abcdefghij"), list("abcdefghij"), [0] * 10)
    happy, sad, angry = figures(made, recalls, [9, 1, 0], made.resample())
    assert happy.value == sad.value == 1.0
    assert "undefined and left out" in sad.method
    assert angry.value is None and angry.low is None and angry.reason
    assert figures(made, one(FROM_CONFUSION["uar"]), [10], made.resample())[0].value == 1.0


def test_over_seeds():
    assert over_seeds([0.5, 0.7]) == (pytest.approx(0.6), pytest.approx(np.std([0.5, 0.7], ddof=1)))
    assert over_seeds([0.5]) == (0.5, None)
    assert over_seeds([]) == (None, None)


def test_bad_input_is_refused():
    with pytest.raises(InputError):
        bootstrap([], [], CLASSES, [])
    with pytest.raises(InputError):
        bootstrap(["happy"], ["happy"], CLASSES, ["a", "b"])
    with pytest.raises(InputError):
        bootstrap(["happy"], ["happy", "sad"], CLASSES, ["a"])


def test_figure_as_dict_has_a_reason_only_where_something_is_missing():
    assert "reason" not in Figure(0.5, 0.4, 0.6, 10, "method").as_dict()
    assert Figure(None, None, None, 0, "method", reason="none").as_dict()["reason"] == "none"
