"""Tasks beside emotion: every figure is checked by hand or by a loop, and what is not known is left out and counted."""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.errors import InputError
from serkit.evaluation.metrics import (
    ccc,
    ccc_of_sums,
    character_error_rate,
    edit_counts,
    mae,
    mae_of_sums,
    moments,
    word_error_rate,
)
from serkit.evaluation.report import create_report, format_summary, write_report
from serkit.evaluation.tasks import judge_tasks


def create_rows(**columns) -> pl.DataFrame:
    """Test rows, one speaker for two utterances and one fold for two speakers unless given; tasks as columns."""
    count = len(next(iter(columns.values())))
    numbers = range(count)
    base = {
        "id": [f"u{number}" for number in numbers],
        "fold": [str(number // 4 + 1) for number in numbers],
        "seed": [0] * count,
        "part": ["test"] * count,
        "truth": ["happy", "sad"] * (count // 2) + ["happy"] * (count % 2),
        "prediction": ["happy"] * count,
        "p_happy": [0.75] * count,
        "p_sad": [0.25] * count,
        "speaker": [f"s{number // 2}" for number in numbers],
        "gender": ["female"] * count,
        "corpus": ["demo"] * count,
    }
    return pl.DataFrame({**base, **columns}, strict=False)


# transcripts


def test_edits_by_hand():
    truth = ["the cat sat on the mat", "one two", "", "", "yes"]
    prediction = ["the cat sit on mat", "one two three four", "hm hm", "", ""]
    # A substitution and a deletion; two insertions; two words for nothing; nothing; all deleted.
    assert edit_counts(truth, prediction).tolist() == [[2, 6], [2, 2], [2, 0], [0, 0], [1, 1]]
    assert word_error_rate(truth, prediction) == pytest.approx(7 / 9)
    assert word_error_rate(["a"], ["b c d"]) == 3.0


def test_characters_by_hand():
    assert edit_counts(["kitten", "", "a b"], ["sitting", "ab", "ab"], characters=True).tolist() == [
        [3, 6],
        [2, 0],
        [1, 3],
    ]
    assert character_error_rate(["kitten"], ["sitting"]) == 0.5


def test_white_space_counts_for_nothing():
    assert edit_counts([" a  b\t", "  "], ["a b", " "]).tolist() == [[0, 2], [0, 0]]
    assert edit_counts([" a  b "], ["a b"], characters=True).tolist() == [[0, 3]]


def test_no_reference_at_all_has_no_rate():
    for rate in (word_error_rate, character_error_rate):
        for truth, prediction in (([""], ["a"]), ([], [])):
            with pytest.raises(InputError, match="does not exist"):
                rate(truth, prediction)
    with pytest.raises(InputError, match="2 texts and prediction has 1"):
        word_error_rate(["a", "b"], ["a"])


def test_without_jiwer_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(InputError, match=r"jiwer is not installed: run pip install 'serkit\[train\]'"):
        edit_counts(["a"], ["a"])


words = st.lists(st.sampled_from("ab"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_edits_are_the_fewest(pairs):
    def distance(a, b):
        row = list(range(len(b) + 1))
        for i, left in enumerate(a, 1):
            before, row[0] = row[0], i
            for j, right in enumerate(b, 1):
                before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (left != right))
        return row[-1]

    truth, prediction = ([" ".join(side) for side in sides] for sides in zip(*pairs, strict=True))
    assert edit_counts(truth, prediction).tolist() == [[distance(a, b), len(a)] for a, b in pairs]


def test_pooled_rate_is_not_the_mean_of_folds():
    # Fold 1: 1 edit in 1 word; fold 2: 1 edit in 9 words.
    rows = create_rows(
        text_truth=["a", None, "", None, "a b c", "d e f", "g h i", None],
        text_prediction=["b", "x", "", None, "a b c", "d e f", "g h", "x"],
    )
    text = judge_tasks(rows)["text"]
    assert text["metrics"]["wer"]["value"] == pytest.approx(2 / 10)
    assert text["folds"]["each"] == {"1": {"n": 2, "wer": 1.0, "cer": 1.0}, "2": {"n": 3, "wer": 1 / 9, "cer": 2 / 15}}
    assert text["folds"]["mean"]["wer"]["value"] == pytest.approx((1 + 1 / 9) / 2)
    assert text["folds"]["mean"]["wer"]["sd"] == pytest.approx(np.std([1, 1 / 9], ddof=1))
    assert (text["n"], text["words"], text["without_truth"], text["without_prediction"]) == (5, 10, 3, 0)


def test_empty_references_only_have_no_rate_but_a_reason():
    text = judge_tasks(create_rows(text_truth=[""] * 4, text_prediction=["a", "", "", ""]))["text"]
    assert text["metrics"]["wer"]["value"] is None and text["metrics"]["wer"]["reason"] == "all references are empty"
    assert text["folds"]["mean"]["cer"]["value"] is None and text["folds"]["mean"]["cer"]["reason"]


def test_interval_of_the_rate_agrees_with_a_loop_over_speakers():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 12, 48)
    wrong = [generator.random(length) < 0.1 + 0.05 * (row // 4) for row, length in enumerate(lengths)]
    rows = create_rows(
        text_truth=[" ".join("a" * length) for length in lengths],
        text_prediction=[" ".join("ab"[int(miss)] for miss in missed) for missed in wrong],
        speaker=[f"s{row // 4}" for row in range(48)],
    )
    made = judge_tasks(rows, resamples=4000)["text"]["metrics"]["wer"]
    edits = np.array([missed.sum() for missed in wrong]).reshape(12, 4).sum(axis=1)
    drawn = generator.integers(0, 12, (4000, 12))
    looped = edits[drawn].sum(axis=1) / lengths.reshape(12, 4).sum(axis=1)[drawn].sum(axis=1)
    assert made["value"] == pytest.approx(edits.sum() / lengths.sum())
    assert (made["low"], made["high"]) == pytest.approx(np.percentile(looped, [2.5, 97.5]), abs=0.012)
    assert "over 12 speakers, 4000 resamples" in made["method"]


def test_seeds_are_averaged_and_share_their_speakers():
    columns = {"text_truth": ["a b", "c d", "e f", "g h"]}
    first = create_rows(**columns, text_prediction=["a b", "c d", "e x", "g h"])
    second = create_rows(**columns, text_prediction=["x y", "c d", "e x", "g h"], seed=[7] * 4)
    made = judge_tasks(pl.concat([first, second]))["text"]
    wer = made["metrics"]["wer"]
    assert wer["value"] == pytest.approx((1 / 8 + 3 / 8) / 2)
    assert wer["sd_over_seeds"] == pytest.approx(np.std([1 / 8, 3 / 8], ddof=1))
    assert wer["n"] == made["n"] == 4 and made["words"] == 8
    assert made["folds"]["each"]["1"]["wer"] == pytest.approx(wer["value"])
    alone = judge_tasks(first)["text"]["metrics"]["wer"]
    twice = judge_tasks(pl.concat([first, first.with_columns(seed=pl.lit(7, pl.Int64))]))["text"]["metrics"]["wer"]
    assert (twice["value"], twice["low"], twice["high"]) == (alone["value"], alone["low"], alone["high"])


# speakers and genders


def test_classes_by_hand():
    rows = create_rows(
        gender_truth=["female", "female", "female", "male", None, "male"],
        gender_prediction=["female", "female", "male", "male", "male", None],
    )
    made = judge_tasks(rows)["gender"]
    assert made["metrics"]["accuracy"]["value"] == pytest.approx(3 / 4)
    assert made["metrics"]["uar"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert (made["n"], made["classes"], made["choices"]) == (4, 2, None)
    assert (made["without_truth"], made["without_prediction"]) == (1, 1)


def test_speakers_that_a_model_does_not_know_are_left_out():
    # Fold 1 knows s0 and s1, fold 2 knows s0 and s2, as a diagonal concatenation leaves them; s3 is nobody's.
    one = create_rows(
        speaker_truth=["s0", "s0", "s1", "s2"],
        speaker_prediction=["s0", "s1", "s1", "s0"],
        speaker_p_s0=[0.9, 0.2, 0.0, 0.6],
        speaker_p_s1=[0.1, 0.8, 1.0, 0.4],
    )
    two = create_rows(
        speaker_truth=["s2", "s3"],
        speaker_prediction=["s0", "s0"],
        speaker_p_s0=[0.6, 0.7],
        speaker_p_s2=[0.4, 0.3],
        fold=["2", "2"],
        speaker=["s2", "s3"],
        id=["v0", "v1"],
    )
    made = judge_tasks(pl.concat([one, two], how="diagonal"))["speaker"]
    assert (made["n"], made["without_prediction"], made["classes"], made["choices"]) == (4, 2, 3, 2)
    assert made["metrics"]["accuracy"]["value"] == pytest.approx(2 / 4)
    assert made["metrics"]["uar"]["value"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_no_known_speaker_is_a_reason_and_not_a_number():
    nobody = pl.Series([None] * 4, dtype=pl.String)
    made = judge_tasks(create_rows(speaker_truth=nobody, speaker_prediction=nobody))["speaker"]
    for figure in made["metrics"].values():
        assert figure["value"] is None and figure["low"] is None and figure["n"] == 0
        assert figure["reason"] == "no test speaker was among the training speakers"


def test_interval_over_speakers_is_as_wide_as_their_recalls_say():
    generator = np.random.default_rng(3)
    recalls = generator.uniform(0.1, 0.9, 40)
    right = (np.arange(50) < np.round(recalls * 50)[:, None]).ravel()
    names = np.repeat([f"s{number}" for number in range(40)], 50)
    rows = create_rows(
        speaker_truth=names.tolist(),
        speaker_prediction=np.where(right, names, "nobody").tolist(),
        speaker=names.tolist(),
    )
    made = judge_tasks(rows)["speaker"]["metrics"]["uar"]
    expected = 2 * 1.96 * right.reshape(40, 50).mean(axis=1).std() / np.sqrt(40)
    assert made["high"] - made["low"] == pytest.approx(expected, rel=0.08)


def test_speakers_weigh_the_same_however_much_they_say():
    rows = create_rows(
        speaker_truth=["a", "a", "a", "a", "b", "c"],
        speaker_prediction=["a", "a", "a", "b", "c", "c"],
        speaker=["a", "a", "a", "a", "b", "c"],
    )
    metrics = judge_tasks(rows)["speaker"]["metrics"]
    assert metrics["uar"]["value"] == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert metrics["accuracy"]["value"] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"gender_p_male": [0.5, 0.6]}, "utterance 'u1' are not probabilities"),
        ({"gender_p_male": [0.5, float("nan")]}, "utterance 'u1' are not probabilities"),
        ({"gender_prediction": ["Male", "male"]}, "gender 'Male' of utterance 'u0' has no probability gender_p_Male"),
        ({"gender_p_male": ["much", "little"]}, "a column of gender has the wrong type"),
    ],
)
def test_unsound_classes_are_refused(columns, message):
    sound = {
        "gender_truth": ["male", "female"],
        "gender_prediction": ["male", "male"],
        "gender_p_male": [0.5, 0.5],
        "gender_p_female": [0.5, 0.5],
    }
    judge_tasks(create_rows(**sound))
    with pytest.raises(InputError, match=message):
        judge_tasks(create_rows(**{**sound, **columns}))


def test_half_a_task_is_refused():
    with pytest.raises(InputError, match="no column 'text_prediction'"):
        judge_tasks(create_rows(text_truth=["a", "b"]))


# affect


def test_affect_by_hand():
    rows = create_rows(
        arousal_truth=[1.0, 2.0, 3.0, None],
        arousal_prediction=[2.0, 2.0, 5.0, 1.0],
        valence_truth=[3.0] * 4,
        valence_prediction=[1.0, 2.0, 3.0, 4.0],
    )
    made = judge_tasks(rows)
    assert list(made) == ["arousal", "valence"]
    # Population variances 2/3 and 2, covariance 1, means 2 and 3.
    assert made["arousal"]["metrics"]["ccc"]["value"] == pytest.approx(2 / (2 / 3 + 2 + 1))
    assert made["arousal"]["metrics"]["mae"]["value"] == pytest.approx(1.0)
    assert (made["arousal"]["n"], made["arousal"]["without_truth"]) == (3, 1)
    assert made["valence"]["metrics"]["ccc"]["value"] == 0.0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30), st.sampled_from([0.0, 1e6]))
def test_sums_of_moments_give_the_same_figures(pairs, offset):
    truth, prediction = np.array(pairs).T + offset
    sums = moments(truth, prediction).sum(axis=0)
    if min(np.ptp(truth), np.ptp(prediction)) > 1e-3 or 0 in (np.ptp(truth), np.ptp(prediction)):
        assert float(ccc_of_sums(sums)) == pytest.approx(ccc(truth, prediction), abs=1e-6)
    assert float(mae_of_sums(sums)) == pytest.approx(mae(truth, prediction), abs=1e-9)


def test_figures_of_no_utterance_are_not_numbers():
    assert np.isnan(ccc_of_sums(np.zeros(7))) and np.isnan(mae_of_sums(np.zeros(7)))
    with pytest.raises(InputError):
        mae([], [])


def test_an_affect_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="arousal of utterance 'u1' is not finite"):
        judge_tasks(create_rows(arousal_truth=[1.0, float("nan")], arousal_prediction=[1.0, 1.0]))


# the report


def create_multitask() -> pl.DataFrame:
    return create_rows(
        text_truth=["a b", "c", "d e", "f", "g", "h"],
        text_prediction=["a x", "c", "d e", "f", "g", ""],
        speaker_truth=pl.Series([None] * 6, dtype=pl.String),
        speaker_prediction=pl.Series([None] * 6, dtype=pl.String),
        arousal_truth=[1.0, 2.0, 3.0, 4.0, 5.0, 4.0],
        arousal_prediction=[1.5, 2.0, 3.0, 4.0, 4.0, 4.5],
    )


def test_report_page_and_summary_show_tasks(tmp_path):
    create_multitask().write_parquet(tmp_path / "predictions.parquet")
    report = write_report(tmp_path)
    assert list(report["tasks"]) == ["text", "speaker", "arousal"]
    json.dumps(report, allow_nan=False)
    summary = format_summary(report).splitlines()
    text, speaker, arousal = (line for line in summary if line.startswith("task "))
    assert text.startswith("task text: wer 0.250 (") and "mean of 2 folds (not pooled): wer 0.333" in text
    assert speaker.startswith("task speaker: n 0; no test speaker was among the training speakers")
    assert f"ccc {report['tasks']['arousal']['metrics']['ccc']['value']:.3f} (" in arousal
    page = (tmp_path / "report.html").read_text()
    for words in (
        "text: word error rate",
        "0.250",
        "speaker: UAR",
        "arousal: mean absolute error",
        "no test speaker was",
    ):
        assert words in page


def test_runs_without_tasks_show_none(tmp_path):
    rows = create_multitask()
    plain = rows.select(name for name in rows.columns if not name.startswith(("text_", "speaker_", "arousal_")))
    plain.write_parquet(tmp_path / "predictions.parquet")
    report = write_report(tmp_path)
    assert report["tasks"] == {}
    assert "task" not in format_summary(report)
    assert "Tasks beside emotion" not in (tmp_path / "report.html").read_text()
    judged = create_report(rows)
    assert {**judged, "tasks": {}} == report
