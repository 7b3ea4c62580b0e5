"""Timelines: where windows lie, how they are smoothed, and that neither chunks nor workers change anything."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.data.turns import Turn
from serkit.errors import AudioError, InputError
from serkit.inference.bundle import Card
from serkit.inference.cuts import Cut, Cutter, TimelineOptions
from serkit.inference.speech import Edge
from serkit.inference.timeline import Follower

CARD = Card("made", ("angry", "happy", "sad"), 1.0, 0.25, 15.0, 50.0, sampling_rate=100)
"""100 samples a second, so that everything below can be counted by hand."""


class Scripted:
    """Hears speech in given ``spans`` of samples, and is sure of them ``delay`` samples later."""

    def __init__(self, spans, delay=0):
        self.edges = [edge for start, end in spans for edge in (Edge(start, True), Edge(end, False))]
        self.heard, self.known, self.delay = 0, 0, delay

    def push(self, samples):
        self.heard += len(samples)
        self.known = max(0, self.heard - self.delay)
        return self._until(self.known)

    def finish(self):
        self.known = self.heard
        edges = self._until(self.known)
        return [*edges, Edge(self.known, False)] if len(self.edges) % 2 else edges

    def _until(self, position):
        number = sum(edge.position <= position for edge in self.edges)
        now, self.edges = self.edges[:number], self.edges[number:]
        return now


def cut(length, spans, chunks=(), delay=0, turns=None, live=False, **options):
    """The cuts of a ramp of ``length`` samples, in which the value of a sample is its position."""
    cutter = Cutter(CARD, TimelineOptions(**{"window": 4, "hop": 1, "speech": False, **options}), turns, live)
    if spans is not None:
        cutter.detector = Scripted(spans, delay)
    ramp, cuts = np.arange(length, dtype=np.float32), []
    for piece in np.split(ramp, np.unique([c for c in chunks if 0 < c < length])):
        cuts += cutter.push(piece)
        assert cutter.origin + len(cutter.buffer) == cutter.samples
    cuts += cutter.finish()
    for each in cuts:
        if each.waveform is not None:
            assert np.array_equal(each.waveform, ramp[each.start : each.end])
    return cuts


def shape(cuts):
    """What of cuts is told in tests."""
    return [(each.kind, each.utterance, each.start, each.end) for each in cuts]


def test_windows_of_an_utterance():
    assert shape(cut(2000, [(100, 730)])) == [
        ("start", 1, 100, 100),
        ("window", 1, 100, 500),
        ("window", 1, 200, 600),
        ("window", 1, 300, 700),
        ("window", 1, 330, 730),
        ("end", 1, 100, 730),
    ]


def test_a_short_utterance_is_one_window_and_a_shorter_one_is_none():
    cuts = cut(1000, [(100, 180), (300, 324), (400, 425)])
    assert shape(cuts) == [
        ("start", 1, 100, 100),
        ("window", 1, 100, 180),
        ("end", 1, 100, 180),
        ("start", 2, 400, 400),
        ("window", 2, 400, 425),
        ("end", 2, 400, 425),
    ]


def test_a_window_that_ends_with_the_utterance_is_not_judged_twice():
    assert [kind for kind, *_ in shape(cut(1000, [(0, 600)]))] == ["start", *["window"] * 3, "end"]


def test_without_speech_detection_the_recording_is_one_utterance():
    cuts = shape(cut(550, None))
    assert cuts[0] == ("start", 1, 0, 0)
    assert cuts[1:-1] == [("window", 1, 0, 400), ("window", 1, 100, 500), ("window", 1, 150, 550)]
    assert cuts[-1] == ("end", 1, 0, 550)


def test_glimpses_are_there_only_live_and_before_the_first_window():
    spans = [(100, 730)]
    cuts, live = cut(1000, spans), cut(1000, spans, live=True)
    assert shape([each for each in live if each.kind == "glimpse"]) == [
        ("glimpse", 1, 100, stop) for stop in (200, 300, 400)
    ]
    assert shape([each for each in live if each.kind != "glimpse"]) == shape(cuts)


def test_turns_are_tracks_of_their_own():
    turns = [Turn(1, 3, "b"), Turn(2, 5, "a"), Turn(3, 4, "b"), Turn(8, 8.1, "a"), Turn(30, 40, "a")]
    cuts = cut(1000, [(150, 450), (700, 900)], turns=turns)
    told = [(each.kind, each.speaker, each.utterance, each.start, each.end) for each in cuts if each.kind == "end"]
    assert sorted(told, key=lambda item: item[2]) == [("end", "b", 1, 150, 400), ("end", "a", 2, 200, 450)]


@st.composite
def recordings(draw):
    points = sorted(draw(st.lists(st.integers(0, 3000), max_size=12, unique=True)))
    spans = list(zip(points[::2], points[1::2], strict=False))
    turns = [
        Turn(start / 100, (start + length) / 100, speaker)
        for start, length, speaker in draw(
            st.lists(st.tuples(st.integers(0, 2900), st.integers(1, 900), st.sampled_from("ab")), max_size=5)
        )
    ]
    return spans, turns or None, draw(st.lists(st.integers(1, 2999), max_size=20)), draw(st.integers(0, 60))


@settings(max_examples=200, deadline=None)
@given(recordings(), st.booleans(), st.sampled_from([(4, 1), (2, 2), (3, 0.7)]))
def test_chunks_change_nothing(recording, live, sizes):
    spans, turns, chunks, delay = recording
    chosen = {"turns": turns, "live": live, "window": sizes[0], "hop": sizes[1]}
    whole = cut(3000, spans, **chosen)
    split = cut(3000, spans, chunks, delay, **chosen)
    # Two speakers' cuts may come in another order, each one's own may not.
    for speaker in {each.speaker for each in whole}:
        mine = [shape([each for each in cuts if each.speaker == speaker]) for cuts in (whole, split)]
        assert mine[0] == mine[1]
    assert len(whole) == len(split)


@settings(max_examples=100, deadline=None)
@given(recordings(), st.sampled_from([(4, 1), (2, 2), (3, 0.7)]))
def test_every_sample_of_speech_is_judged_and_no_other(recording, sizes):
    spans, turns, _, _ = recording
    cuts = cut(3000, spans, turns=turns, window=sizes[0], hop=sizes[1])
    for speaker in {turn.speaker for turn in turns or ()} or {None}:
        wanted = np.zeros(3000, bool)
        for start, end in spans:
            wanted[start:end] = True
        if speaker is not None:
            said = np.zeros(3000, bool)
            for turn in turns:
                if turn.speaker == speaker:
                    said[round(100 * turn.start) : round(100 * turn.end)] = True
            wanted &= said
        edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(int)))
        for start, end in edges.reshape(-1, 2):
            if end - start < 25:
                wanted[start:end] = False
        judged = np.zeros(3000, bool)
        for each in cuts:
            if each.kind == "window" and each.speaker == speaker:
                judged[each.start : each.end] = True
        assert np.array_equal(judged, wanted)


@settings(max_examples=50, deadline=None)
@given(recordings())
def test_utterances_are_numbered_by_their_beginning(recording):
    spans, turns, chunks, delay = recording
    starts = {each.utterance: each.start for each in cut(3000, spans, chunks, delay, turns) if each.kind == "start"}
    assert sorted(starts) == list(range(1, len(starts) + 1))
    assert [starts[number] for number in sorted(starts)] == sorted(starts.values())


def test_memory_does_not_grow():
    cutter = Cutter(CARD, TimelineOptions(window=4, hop=1, speech=False))
    for _ in range(200):
        cutter.push(np.zeros(1000, np.float32))
        assert len(cutter.buffer) <= 400 + 100


def follow(windows, end, start=0, card=CARD, sizes=(4, 1)):
    """The cells and segments of one utterance, of ``windows`` ``(start, end, probabilities)``."""
    follower = Follower(card, TimelineOptions(*sizes))
    points, segments = [], []
    follower.tell(Cut("start", 1, start, start), None)
    for low, high, probabilities in windows:
        told = follower.tell(
            Cut("window", 1, low, high), None if probabilities is None else np.array(probabilities, float)
        )
        points += told.points
        segments += told.segments
    told = follower.tell(Cut("end", 1, start, end), None)
    assert not follower.utterances
    return points + told.points, segments + told.segments, told.overall


def test_one_window_is_one_segment():
    points, segments, overall = follow([(0, 260, [0.2, 0.7, 0.1])], 260)
    assert [(point.start, point.end) for point in points] == [(0, 1), (1, 2), (2, 2.6)]
    assert [(each.start, each.end, each.label) for each in segments] == [(0, 2.6, "happy")]
    assert segments[0].confidence == pytest.approx(0.7)
    assert overall == pytest.approx({"angry": 0.2, "happy": 0.7, "sad": 0.1})


def test_cells_by_hand():
    """Windows of 4 s at 0, 1 and 1.4 s: of the last cell the second hears a part, and the third all."""
    a, b, c = np.eye(3)
    points, segments, overall = follow([(0, 400, a), (100, 500, b), (140, 540, c)], 540)
    assert [(point.start, point.end) for point in points] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5.4)]
    first = points[0].probabilities
    assert first == pytest.approx({"angry": 1, "happy": 0, "sad": 0})
    # The last cell, 4 to 5.4 s with its middle at 4.7: of the second window 1 s, 1.7 from its middle; of the third
    # 1.4 s, 1.3 from its middle.
    second, third = 1 * (1 - 1.7 / 4), 1.4 * (1 - 1.3 / 4)
    assert points[-1].probabilities == pytest.approx(
        {"angry": 0, "happy": second / (second + third), "sad": third / (second + third)}
    )
    assert [each.label for each in segments] == ["angry", "sad"]
    lengths = [point.end - point.start for point in points]
    mean = np.average([list(point.probabilities.values()) for point in points], axis=0, weights=lengths)
    assert list(overall.values()) == pytest.approx(mean.tolist())


def test_silent_windows_leave_holes():
    points, segments, _overall = follow(
        [(0, 100, [1, 0, 0]), (100, 200, None), (200, 300, [1, 0, 0])], 300, sizes=(1, 1)
    )
    assert [(point.start, point.end) for point in points] == [(0, 1), (2, 3)]
    assert [(each.start, each.end) for each in segments] == [(0, 1), (2, 3)]
    assert follow([(0, 100, None)], 100, sizes=(1, 1)) == ([], [], None)


def test_models_that_average_logits_do_so_here():
    card = replace(CARD, average="logits")
    windows = [(0, 400, [0.9, 0.05, 0.05]), (100, 500, [0.1, 0.2, 0.7])]
    (_, _, overall), (_, _, plain) = follow(windows, 500, card=card), follow(windows, 500)
    assert overall != pytest.approx(plain)
    assert sum(overall.values()) == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.integers(30, 2000), st.integers(0, 2**32 - 1), st.sampled_from([(4, 1), (2, 2), (3, 0.7)]))
def test_segments_and_cells_tile_the_utterance(length, seed, sizes):
    rng = np.random.default_rng(seed)
    cuts = [each for each in cut(length, [(0, length)], window=sizes[0], hop=sizes[1]) if each.kind == "window"]
    windows = [(each.start, each.end, rng.dirichlet(np.ones(3) / 3)) for each in cuts]
    points, segments, overall = follow(windows, length, sizes=sizes)
    for pieces in (points, segments):
        assert pieces[0].start == 0 and pieces[-1].end == length / 100
        assert [each.end for each in pieces[:-1]] == [each.start for each in pieces[1:]]
        total = sum((each.end - each.start) * np.array(list(each.probabilities.values())) for each in pieces)
        assert total / (length / 100) == pytest.approx(list(overall.values()), abs=1e-9)
    assert all(one.label != two.label for one, two in itertools.pairwise(segments))
    assert all(each.label == max(each.probabilities, key=each.probabilities.get) for each in segments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 20}, "window: made judges 0.25 to 15 s at a time, not 20 s"),
        ({"window": 0.1}, "window: "),
        ({"window": 4, "hop": 5}, "hop: is at least 0.02 s and at most the window of 4 s, not 5 s"),
        ({"hop": 0}, "hop: "),
        ({"window": float("nan")}, "window: "),
        ({"hop": float("nan")}, "hop: "),
    ],
)
def test_windows_that_no_model_judges(options, message):
    with pytest.raises(InputError, match=message):
        TimelineOptions(**options).sizes(CARD)
    with pytest.raises(InputError, match="reads words alone"):
        TimelineOptions().sizes(replace(CARD, window_seconds=0.0, min_seconds=0.0))


FIXED = TimelineOptions(window=1, hop=0.5, speech=False)


CHOSEN = ("angry", "neutral", "sad")


@pytest.fixture(scope="module")
def recording(make_tone):
    """Nine seconds: a tone, which the tiny bundle calls angry among those chosen, and noise, neutral, in turns."""
    parts = [make_tone(1.5, frequency=400, level=0.1, noise=0.5 * (number % 2))[:, 0] for number in range(6)]
    return np.concatenate(parts).astype(np.float32)


def write(path, samples, rate):
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def test_stream_is_the_timeline(predictor, recording):
    timeline = predictor.timeline(recording, options=FIXED, labels=CHOSEN)
    assert len({segment.label for segment in timeline.segments}) > 1
    for seed in range(3):
        stream, events, rng, position = predictor.stream(FIXED, labels=CHOSEN), [], np.random.default_rng(seed), 0
        while position < len(recording):
            size = int(rng.integers(1, 9000))
            events += stream.push(recording[position : position + size])
            position += size
        events += stream.finish()
        final = [event for event in events if event.type == "segment"]
        assert [(each.start, each.end, each.probabilities) for each in final] == [
            (each.start, each.end, each.probabilities) for each in timeline.segments
        ]
        assert {event.type for event in events} == {"start", "update", "segment", "end"}
        assert stream.seconds == timeline.seconds == len(recording) / 16_000


def test_updates_come_with_bounded_delay(predictor, recording):
    stream, updates = predictor.stream(FIXED), []
    for position in range(0, len(recording), 1600):
        chunk = recording[position : position + 1600]
        updates += [
            (event.end, (position + len(chunk)) / 16_000) for event in stream.push(chunk) if event.type == "update"
        ]
    assert updates and all(now - end <= 0.1 for end, now in updates)
    assert max(np.diff([end for end, _ in updates])) <= 2.0  # silent stretches have none


def test_events_in_json(predictor, recording):
    stream = predictor.stream(FIXED)
    events = [event.as_dict() for event in (*stream.push(recording), *stream.finish())]
    assert events[0] == {"type": "start", "utterance": 1, "start_ms": 0, "end_ms": 0}
    for event in events[1:]:
        assert event["label"] in event["probabilities"] and event["end_ms"] > event["start_ms"]
        assert event["confidence"] == max(event["probabilities"].values())
    json.dumps(events)


def test_workers_and_files_change_nothing(predictor, recording, tmp_path):
    path = write(tmp_path / "long.wav", recording, 16_000)
    one, two = (predictor.timeline(path, options=FIXED, workers=number, id="a") for number in (1, 2))
    array = predictor.timeline(recording, options=FIXED, id="a")
    assert one.as_dict() == two.as_dict() == array.as_dict()
    assert one.as_dict(curve=False).keys() == {"id", "seconds", "model", "classes", "segments"}


def test_span_of_a_file(predictor, recording, tmp_path):
    path = write(tmp_path / "long.wav", recording, 16_000)
    turns = [Turn(0.5, 4.0, "a"), Turn(3.5, 5.5, "b")]
    span = predictor.timeline(path, start=3.0, end=6.0, options=FIXED, turns=turns)
    assert (span.segments[0].speaker, span.segments[0].start) == ("a", 3.0)
    assert max(each.end for each in span.segments) <= 5.5
    assert {each.speaker for each in span.curve} == {"a", "b"}


def test_turns_that_do_not_meet_the_span_leave_nothing(predictor, recording):
    assert predictor.timeline(recording, options=FIXED, turns=[]).segments == ()
    late = [Turn(100, 101, "a")]
    assert predictor.timeline(recording, options=FIXED, turns=late).segments == ()


def test_turns_before_the_span_leave_nothing(predictor, recording, tmp_path):
    path = write(tmp_path / "long.wav", recording, 16_000)
    assert predictor.timeline(path, start=3.0, options=FIXED, turns=[Turn(0, 3, "a")]).segments == ()


def test_labels_restrict(predictor, recording):
    timeline = predictor.timeline(recording, options=FIXED, labels=["sad", "happy"])
    assert {segment.label for segment in timeline.segments} <= {"sad", "happy"}
    assert all(point.probabilities["angry"] == 0 for point in timeline.curve)


def test_other_rates_stream_as_files_do(predictor, recording, tmp_path):
    high = soxr.resample(recording, 16_000, 44_100).astype(np.float32)
    path = write(tmp_path / "high.wav", high, 44_100)
    timeline = predictor.timeline(path, options=FIXED)
    stream = predictor.stream(FIXED, sampling_rate=44_100)
    events = [event for start in range(0, len(high), 4410) for event in stream.push(high[start : start + 4410])]
    final = [event for event in (*events, *stream.finish()) if event.type == "segment"]
    assert [(each.start, each.end) for each in final] == [(each.start, each.end) for each in timeline.segments]
    for one, two in zip(final, timeline.segments, strict=True):
        assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)


def test_silence_and_nothing(predictor):
    quiet = np.zeros(32_000, np.float32)
    assert predictor.timeline(quiet).segments == ()
    assert predictor.timeline(quiet, options=FIXED).segments == ()
    with pytest.raises(AudioError):
        predictor.timeline(np.zeros(0, np.float32))
    stream = predictor.stream()
    assert stream.push(np.zeros(0, np.float32)) == [] and stream.finish() == []
