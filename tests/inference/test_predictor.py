"""Predictor: one answer for a recording, however it comes in and whatever else is recognised."""

from __future__ import annotations

import io
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import serkit
from serkit.data.clips import Clip
from serkit.errors import AudioError, InputError
from serkit.inference import predictor as module
from serkit.inference.bundle import Outputs
from serkit.inference.predictor import Prediction, Predictor
from serkit.inference.windows import cut

from .conftest import CLASSES

RATE = 16_000
WINDOW = 2 * RATE


def values(prediction):
    return np.array(list(prediction.probabilities.values()))


def write(path, waveform, rate=RATE, **options):
    soundfile.write(path, waveform, rate, **options)
    return path


@pytest.fixture
def seen(predictor, monkeypatch):
    """The windows that reach the model, which answers with their loudness."""
    windows = []

    def run(waveform, keep=None, frames=False):
        windows.append(waveform.copy())
        first = float(np.abs(waveform).max())
        return Outputs(np.array([first, 1 - first, 0, 0]), np.full(3, first), np.zeros((1, 4)))

    monkeypatch.setattr(predictor.bundle, "run", run)
    return windows


# One recording


def test_file_array_and_open_file_give_the_same_answer(predictor, make_speech, tmp_path):
    path = write(tmp_path / "a.wav", make_speech(1.2), subtype="FLOAT")
    from_file, from_array = predictor.predict(path), predictor.predict(make_speech(1.2))
    with path.open("rb") as file:
        from_open = predictor.predict(file)
    from_bytes = predictor.predict(io.BytesIO(path.read_bytes()))
    from_text = predictor.predict(str(path))
    assert from_file.probabilities == from_array.probabilities == from_open.probabilities == from_bytes.probabilities
    assert from_file == from_text
    assert (from_file.id, from_array.id, from_open.id, from_bytes.id) == (str(path), "array", str(path), "stream")


def test_lossless_containers_give_the_same_answer(predictor, make_speech, tmp_path):
    waveform = (make_speech() * 32_767).astype(np.int16)
    answers = [
        predictor.predict(write(tmp_path / name, waveform, subtype="PCM_16")).probabilities
        for name in ("a.wav", "a.flac", "a.aiff")
    ]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(("rate", "tolerance"), [(48_000, 0.03), (44_100, 0.03), (8_000, 0.2)])
def test_other_rates_and_stereo_give_nearly_the_same_answer(predictor, make_tone, tmp_path, rate, tolerance):
    tone = {"seconds": 1.0, "frequency": 300, "level": 0.3, "noise": 0}
    expected = predictor.predict(make_tone(rate=RATE, **tone))
    path = write(tmp_path / "a.wav", make_tone(rate=rate, channels=2, **tone), rate)
    found = predictor.predict(path)
    np.testing.assert_allclose(values(found), values(expected), atol=tolerance)
    assert found.end == pytest.approx(1.0, abs=1e-3)
    from_array = predictor.predict(make_tone(rate=rate, channels=2, **tone), sampling_rate=rate)
    np.testing.assert_allclose(values(from_array), values(found), atol=1e-3)


def test_a_span_is_recognised_as_if_it_were_the_whole_file(predictor, make_speech, tmp_path):
    both = np.concatenate([make_speech(1.0, seed=1), make_speech(1.5, seed=4)])
    path = write(tmp_path / "a.wav", both, subtype="FLOAT")
    first, second = predictor.predict(path, end=1.0), predictor.predict(path, start=1.0)
    assert first.probabilities == predictor.predict(both[:RATE]).probabilities
    assert second.probabilities == predictor.predict(both[RATE:]).probabilities
    assert first.probabilities != second.probabilities
    assert [(found.start, found.end) for found in (first, second)] == [(0.0, 1.0), (1.0, 2.5)]


def test_an_array_with_a_span_is_refused_instead_of_taken_whole(predictor, make_speech):
    with pytest.raises(InputError, match="slice the array instead"):
        predictor.predict(make_speech(), start=0.5)


def test_probabilities_follow_the_classes_and_the_label_is_the_most_probable(predictor, make_speech):
    for seed in range(4):
        found = predictor.predict(make_speech(seed=seed))
        assert tuple(found.probabilities) == CLASSES
        assert values(found).sum() == pytest.approx(1)
        assert found.label == CLASSES[int(values(found).argmax())]
        assert found.confidence == values(found).max()
        assert (found.model, found.segments, found.embedding) == ("tiny", (), None)


def test_the_embedding_comes_on_request(predictor, bundle, make_speech):
    waveform = make_speech()
    found = predictor.predict(waveform, embedding=True).embedding
    assert found.shape == (256,)
    np.testing.assert_allclose(found, bundle.run(waveform).embedding)


def test_as_dict_is_ready_for_json(predictor, make_speech):
    found = predictor.predict(make_speech(5.0), embedding=True, id="x")
    row = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert list(row) == ["id", "start", "end", "label", "probabilities", "model", "segments", "embedding"]
    assert (row["id"], row["start"], row["end"], row["model"]) == ("x", 0.0, 5.0, "tiny")
    assert len(row["embedding"]) == 256
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert [set(segment) for segment in row["segments"]] == [{"start", "end", "label", "probabilities"}] * 3
    assert "segments" not in predictor.predict(make_speech()).as_dict()
    assert "embedding" not in predictor.predict(make_speech()).as_dict()


def test_the_public_names_lead_here(bundle_folder, make_speech, predictor):
    found = serkit.load(bundle_folder).predict(make_speech())
    assert (
        isinstance(found, serkit.Prediction) and found.probabilities == predictor.predict(make_speech()).probabilities
    )


# Candidate classes


def test_candidates_share_the_probability_in_the_same_proportions_whatever_their_order(predictor, make_speech):
    whole = predictor.predict(make_speech()).probabilities
    some = predictor.predict(make_speech(), labels=["sad", "angry"])
    assert some == predictor.predict(make_speech(), labels=iter(("angry", "sad", "angry")))
    assert tuple(some.probabilities) == CLASSES
    assert some.probabilities["happy"] == some.probabilities["neutral"] == 0
    expected = whole["sad"] / (whole["sad"] + whole["angry"])
    assert some.probabilities["sad"] == pytest.approx(expected)
    assert some.label == max(("sad", "angry"), key=whole.__getitem__)


def test_a_single_candidate_is_certain(predictor, make_speech):
    found = predictor.predict(make_speech(), labels=["sad"])
    assert (found.label, found.confidence) == ("sad", 1.0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["happi"], "no class 'happi': did you mean 'happy'"),
        (["xyz"], r"no class 'xyz' \(known: angry, happy, neutral, sad\)"),
        (["sad", "Sad"], "no class 'Sad': did you mean 'sad'"),
        ([], "name at least one class"),
    ],
)
def test_unknown_and_missing_candidates_are_refused(predictor, make_speech, labels, message):
    with pytest.raises(InputError, match=message):
        predictor.predict(make_speech(), labels=labels)
    with pytest.raises(InputError, match=message):
        list(predictor.predict_many([], labels=labels))


# Recordings that cannot be used


def bad_files(folder, tone):
    return {
        "short": write(folder / "short.wav", tone[: RATE // 4 - 1]),
        "silent": write(folder / "silent.wav", tone * 1e-5, subtype="FLOAT"),
        "nan": write(folder / "nan.wav", np.where(np.arange(len(tone)) == 9, np.nan, tone), subtype="FLOAT"),
        "no samples": write(folder / "nothing.wav", tone[:0]),
        "empty": (folder / "empty.wav"),
        "text": (folder / "text.wav"),
        "missing": (folder / "missing.wav"),
        "folder": folder,
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"is too short \(0.250 s, 3999 samples\): at least 0.25 s are needed"),
        ("silent", r"is silent \(peak -1\d\d dB full scale\)"),
        ("nan", "holds NaN or infinite samples"),
        ("no samples", "holds no audio"),
        ("empty", r"is empty \(0 bytes\)"),
        ("text", "is not a recording in a known format"),
        ("missing", "no such file"),
        ("folder", "is a folder, not a recording"),
    ],
)
def test_an_unusable_recording_is_refused_by_name(predictor, make_tone, tmp_path, kind, message):
    path = bad_files(tmp_path, make_tone(1.0)[:, 0])[kind]
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no recording, though it says so\n" * 9)
    with pytest.raises(AudioError, match=f"^{path}: {message}") as caught:
        predictor.predict(path)
    assert "\n" not in str(caught.value)


def test_the_shortest_recording_that_is_long_enough_is_recognised(predictor, make_tone):
    assert predictor.predict(make_tone(0.25)[:, 0]).end == 0.25
    with pytest.raises(AudioError, match="too short"):
        predictor.predict(make_tone(0.25)[:-1, 0])


def test_a_recording_just_above_the_limit_of_silence_is_recognised(predictor, make_tone):
    tone = make_tone(1.0, level=1.0, noise=0)[:, 0]
    assert predictor.predict(tone * 1.1e-4).label in CLASSES
    with pytest.raises(AudioError, match="silent"):
        predictor.predict(tone * 0.9e-4)


# Long recordings


@pytest.mark.parametrize(
    ("seconds", "pieces"),
    [
        (1.0, [1.0]),
        (2.0, [2.0]),
        (2.5, [1.25, 1.25]),
        (3.99, [1.995, 1.995]),
        (4.0, [2.0, 2.0]),
        (5.0, [2.0, 1.5, 1.5]),
        (6.0, [2.0, 2.0, 2.0]),
        (8.1, [2.0, 2.0, 2.0, 1.05, 1.05]),
    ],
)
def test_windows_follow_one_another_without_gap_or_overlap(predictor, seen, make_tone, seconds, pieces):
    waveform = make_tone(seconds)[:, 0]
    found = predictor.predict(waveform)
    assert [len(window) / RATE for window in seen] == pieces
    np.testing.assert_array_equal(np.concatenate(seen), waveform)
    assert (found.start, found.end) == (0.0, seconds)
    edges = [0.0, *itertools.accumulate(pieces)] if len(pieces) > 1 else [0.0]
    assert [segment.start for segment in found.segments] == pytest.approx(edges[:-1])
    assert [segment.end for segment in found.segments] == pytest.approx(edges[1:])


def test_an_odd_number_of_samples_loses_none(predictor, seen, make_tone):
    waveform = make_tone(3.0)[:-1, 0]
    predictor.predict(waveform)
    assert [len(window) for window in seen] == [24_000, 23_999]
    np.testing.assert_array_equal(np.concatenate(seen), waveform)


def test_segment_times_are_those_of_the_file_when_a_span_is_recognised(predictor, make_speech, tmp_path):
    path = write(tmp_path / "a.wav", np.tile(make_speech(2.0), 4))
    found = predictor.predict(path, start=1.5, end=6.5)
    assert [(segment.start, segment.end) for segment in found.segments] == [(1.5, 3.5), (3.5, 5.0), (5.0, 6.5)]
    assert (found.start, found.end) == (1.5, 6.5)


def test_segments_are_averaged_by_their_length(predictor, seen):
    waveform = np.concatenate([np.full(WINDOW, 0.2), np.full(3 * RATE, 0.8)]).astype(np.float32)
    found = predictor.predict(waveform, embedding=True)
    assert found.probabilities["angry"] == pytest.approx((2 * 0.2 + 3 * 0.8) / 5)
    np.testing.assert_allclose(found.embedding, (2 * 0.2 + 3 * 0.8) / 5, rtol=1e-6)
    assert [segment.label for segment in found.segments] == ["happy", "angry", "angry"]
    assert values(found).sum() == pytest.approx(1)


def test_silent_windows_are_left_out_of_the_answer_but_not_of_the_time(predictor, make_speech):
    speech, silence = make_speech(2.0, seed=1), np.zeros(WINDOW, np.float32)
    found = predictor.predict(np.concatenate([silence, speech, silence, silence]))
    assert [(segment.start, segment.end) for segment in found.segments] == [(2.0, 4.0)]
    assert found.probabilities == pytest.approx(predictor.predict(speech).probabilities)
    assert (found.start, found.end) == (0.0, 8.0)


def test_a_long_silent_recording_is_refused(predictor):
    with pytest.raises(AudioError, match="array: is silent"):
        predictor.predict(np.zeros(5 * WINDOW, np.float32))


@settings(max_examples=40)
@given(samples=st.integers(RATE // 4, 5 * WINDOW), data=st.data())
def test_windows_do_not_depend_on_how_the_file_is_read(predictor, samples, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, samples), max_size=12)))
    waveform = np.arange(samples, dtype=np.float32)
    pieces = [piece for piece, _ in cut(np.split(waveform, cuts), predictor.card)]
    whole = list(cut([waveform], predictor.card))
    assert [len(piece) for piece in pieces] == [len(piece) for piece, _ in whole] == [own for _, own in whole]
    np.testing.assert_array_equal(np.concatenate(pieces), waveform)
    assert all(0 < len(piece) <= WINDOW for piece in pieces)
    assert min(map(len, pieces)) >= WINDOW // 2 or samples < WINDOW


def test_the_answer_does_not_depend_on_how_the_file_is_read(predictor, make_speech, monkeypatch):
    waveform = np.concatenate([make_speech(2.0, seed=seed) for seed in range(3)])
    answers = []
    for cuts in ([], [1], [100, 31_999, 32_000, 32_001], range(0, len(waveform), 4097)):
        monkeypatch.setattr(module, "stream_audio", lambda *_, cuts=cuts: iter(np.split(waveform, list(cuts))))
        answers.append(predictor.predict("x.wav"))
    assert all(answer == answers[0] for answer in answers)


def test_a_long_recording_is_not_held_as_a_whole(predictor, seen, monkeypatch):
    waiting = []  # seconds read that no window has used yet, each time that another second is read

    def blocks(*_):
        for number in range(400):
            waiting.append(number - sum(map(len, seen)) / RATE)
            yield np.full(RATE, 0.3, np.float32)

    monkeypatch.setattr(module, "stream_audio", blocks)
    assert predictor.predict("long.wav").end == 400.0
    assert max(waiting) <= 4


# Many recordings


def clips_of(folder, make_speech, count=6):
    return [
        Clip(f"u{n}", str(write(folder / f"{n}.wav", make_speech(0.5 + 0.4 * (n * 7 % 5), seed=n % 4))))
        for n in range(count)
    ]


def test_many_recordings_come_back_in_order_with_the_answers_they_get_alone(predictor, make_speech, tmp_path):
    clips = clips_of(tmp_path, make_speech)
    alone = [predictor.predict(clip.audio, id=clip.id, embedding=True) for clip in clips]
    for workers in (1, 4):
        found = list(predictor.predict_many(clips, workers=workers, embedding=True))
        assert [clip for clip, _ in found] == clips
        for (_, prediction), expected in zip(found, alone, strict=True):
            assert prediction.as_dict() == expected.as_dict()
            assert prediction.probabilities == expected.probabilities


def test_spans_and_candidates_reach_every_recording(predictor, make_speech, tmp_path):
    path = str(write(tmp_path / "a.wav", np.tile(make_speech(1.0), 3)))
    clips = [Clip(f"{n}", path, n * 1.0, n + 1.0) for n in range(3)]
    found = [prediction for _, prediction in predictor.predict_many(clips, workers=2, labels=iter(["sad", "happy"]))]
    assert [(prediction.start, prediction.end) for prediction in found] == [(0, 1), (1, 2), (2, 3)]
    assert all(prediction.probabilities["angry"] == 0 for prediction in found)


def test_a_bad_recording_among_good_ones_yields_its_error_in_its_place(predictor, make_speech, tmp_path):
    clips = clips_of(tmp_path, make_speech, 3)
    clips.insert(1, Clip("bad", str(tmp_path / "none.wav")))
    found = list(predictor.predict_many(clips, workers=2))
    assert [type(result) for _, result in found] == [Prediction, AudioError, Prediction, Prediction]
    assert "none.wav: no such file" in str(found[1][1])


@pytest.mark.parametrize("workers", [1, 3])
def test_an_endless_list_is_read_only_a_little_ahead(predictor, make_speech, tmp_path, workers):
    (clip,) = clips_of(tmp_path, make_speech, 1)
    taken = []
    endless = (taken.append(n) or clip for n in itertools.count())
    found = predictor.predict_many(endless, workers=workers)
    for _ in range(5):
        next(found)
    assert len(taken) <= 5 + 4 * workers
    found.close()


def test_nothing_to_recognise_gives_nothing(predictor):
    assert list(predictor.predict_many([])) == []


def test_one_predictor_serves_several_threads(predictor, make_speech):
    waveforms = [make_speech(0.5 + 0.2 * n, seed=n % 3) for n in range(8)]
    expected = [predictor.predict(waveform).probabilities for waveform in waveforms]
    barrier = threading.Barrier(4)

    def work(order):
        barrier.wait()
        return {n: predictor.predict(waveforms[n]).probabilities for n in order}

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, [range(8), range(7, -1, -1), range(0, 8, 2), range(1, 8, 2)]):
            assert all(found[n] == expected[n] for n in found)


def test_a_predictor_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a bundle"):
        Predictor(tmp_path)
