"""The emotion diarization error rate: by hand, by its properties, and as SpeechBrain computes it."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.errors import InputError
from serkit.evaluation.diarization import frame_eder, judge_tracks
from serkit.evaluation.pieces import put_to_frames, spread_frames
from serkit.evaluation.timelines import LETTERS, Stretch, Track

# From speechbrain/utils/EDER.py (commit 9c826ef, version 1.1.2), run on these frames: n, a, h, s; duration, emotion,
# its start and end, window and stride of the frames; what EDER returned.
SPEECHBRAIN = [
    ("nnnaaa", 1.22, "angry", 0.39, 1.1, 0.2, 0.2, 0.2704918032786885),
    ("nnnnn", 1.0, "happy", 0.2, 0.9, 0.2, 0.2, 0.7),
    ("hhhhh", 1.0, "happy", 0.0, 1.0, 0.2, 0.2, 0.0),
    ("nnsssn", 1.22, "angry", 0.39, 1.1, 0.2, 0.2, 0.598360655737705),
    ("nnaa", 1.22, "angry", 0.39, 1.1, 0.2, 0.2, 0.35245901639344257),
    ("nnaannaan", 2.0, "angry", 0.5, 1.5, 0.4, 0.2, 0.30000000000000004),
    ("nahsnahs", 3.0, "sad", 0.25, 2.5, 1.0, 0.3, 0.8000000000000002),
    ("nnaan", 2.5, "angry", 0.9, 2.0, 0.3, 0.5, 0.4),
    ("a", 0.7, "angry", 0.1, 0.6, 1.0, 0.5, 0.2857142857142857),
    ("nnnnaaaaaannnnnsss", 4.648, "angry", 2.19, 4.044, 0.625, 0.25, 0.6374784853700516),
    ("ssnnssannaaaaahhaaaaaahhhhhaahhhhnnnnn", 0.769, "sad", 0.157, 0.455, 0.02, 0.02, 0.7958387516254877),
    ("aaaassssssahhhhhnnnnnss", 0.454, "happy", 0.069, 0.385, 0.05, 0.02, 0.669603524229075),
    ("aaaaahhhhhhhhhhhhhhnnnnnhhhnnnnnnhhhhhh", 0.762, "happy", 0.069, 0.745, 0.01, 0.02, 0.7178477690288712),
    ("nnnnnnaaaaaahhhhaaa", 4.656, "angry", 0.738, 2.741, 0.25, 0.25, 0.5749570446735395),
    ("hhhhssn", 1.516, "angry", 0.561, 1.019, 0.125, 0.25, 0.9894459102902374),
]


def track(*stretches, id="x", seconds=None, speaker=None):
    return Track(id, tuple(Stretch(*each) for each in stretches), seconds, speaker)


def judge(reference, hypothesis, **options):
    return judge_tracks([(reference, hypothesis)], resamples=50, **options)


def values(made):
    return [made[name]["value"] for name in ("eder", "missed", "false_alarm", "confusion")]


@pytest.mark.parametrize("case", SPEECHBRAIN, ids=lambda case: case[0][:9])
def test_frames_give_what_speechbrain_gives(case):
    letters, seconds, emotion, start, end, window, stride, eder = case
    labels = [LETTERS[letter] for letter in letters]
    assert frame_eder(labels, window, stride, [Stretch(start, end, emotion)], seconds) == pytest.approx(eder, abs=1e-12)


@pytest.mark.parametrize(
    "case",
    [case for case in SPEECHBRAIN if (len(case[0]) - 1) * case[6] + case[5] >= case[1] and case[5] >= case[6]],
    ids=lambda case: case[0][:9],
)
def test_frames_that_cover_the_recording_give_the_same_as_exact_times(case):
    letters, seconds, emotion, start, end, window, stride, eder = case
    stretches = spread_frames([LETTERS[letter] for letter in letters], window, stride)
    made = judge(track((start, end, emotion), seconds=seconds), Track("x", stretches))
    assert made["eder"]["value"] == pytest.approx(eder, abs=1e-12)


def test_by_hand():
    # 0    1    2    3    4    5    6    7    8    9    10
    # .    angry angry angry .   .   sad  sad  sad  .        reference
    # .    .    angry angry angry .  happy sad .    sad      hypothesis
    reference = track((1, 4, "angry"), (6, 9, "sad"), seconds=10)
    hypothesis = track((0, 2, "neutral"), (2, 5, "angry"), (6, 7, "happy"), (7, 8, "sad"), (9, 10, "sad"))
    made = judge(reference, hypothesis, collar=1.0)
    # missed: 1-2 angry, 8-9 sad; false alarm: 4-5 angry, 9-10 sad; confusion: 6-7 sad as happy
    assert values(made) == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert made["mean_eder"]["value"] == pytest.approx(0.5)
    assert made["classes"] == ["neutral", "angry", "happy", "sad"]
    assert np.allclose(made["cells"], [[2, 1, 0, 1], [1, 2, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]])
    by_class = {each["class"]: each for each in made["by_class"]}
    assert [by_class["angry"][f"{side}_seconds"] for side in ("reference", "hypothesis", "correct")] == [3, 3, 2]
    assert by_class["angry"]["f1"]["value"] == pytest.approx(2 / 3)
    assert by_class["sad"]["recall"]["value"] == pytest.approx(1 / 3)
    assert by_class["sad"]["precision"]["value"] == pytest.approx(1 / 2)
    assert by_class["happy"]["recall"]["value"] is None and by_class["happy"]["precision"]["value"] == 0
    # Angry is a second late at both ends. Of the two hypotheses of sad only the first shares time with the reference:
    # its onset is one second late, its offset one second early.
    bounds = made["boundaries"]
    assert [bounds[f"{name}_events"] for name in ("reference", "hypothesis", "matched")] == [2, 4, 2]
    assert [bounds[name]["value"] for name in ("onset", "offset", "recall", "precision")] == [1, 1, 1, 0.5]
    assert bounds["f1"]["value"] == pytest.approx(2 * 2 / 6)
    assert [bounds[name]["value"] for name in ("onset_error", "offset_error")] == [1, 1]
    strict = judge(reference, hypothesis, collar=0.5)["boundaries"]
    assert [strict[name]["value"] for name in ("onset", "offset", "recall")] == [0, 0, 0]


def test_onset_and_offset_are_told_apart():
    made = judge(track((1, 4, "angry"), seconds=5), track((1.1, 3.0, "angry")), collar=0.2)["boundaries"]
    assert [made[name]["value"] for name in ("onset", "offset", "recall")] == [1, 0, 0]
    assert [made[name]["value"] for name in ("onset_error", "offset_error")] == pytest.approx([0.1, 1.0])


def test_an_event_is_matched_once_and_with_what_it_shares_most():
    # Two references, one long hypothesis over both and a short one in the second: long-first, short-second shares most.
    made = judge(track((0, 4, "sad"), (5, 6, "sad"), seconds=8), track((0, 4.5, "sad"), (5.5, 6, "sad")), collar=0.5)
    assert made["boundaries"]["matched_events"] == 2
    assert made["boundaries"]["onset_error"]["value"] == pytest.approx(0.25)
    pieces = judge(track((0, 4, "sad"), seconds=8), track((0, 1, "sad"), (1.5, 4, "sad")))["boundaries"]
    assert pieces["matched_events"] == 1 and pieces["onset_error"]["value"] == pytest.approx(1.5)


def test_overlapping_speakers():
    # 0-2: angry and sad are both expressed, the hypothesis hears angry and happy: one right, one confused. 2-4: both
    # again, only sad is heard: one missed. 4-5: nothing, two are heard: two false alarms of a second each.
    reference = track((0, 4, "angry"), (0, 4, "sad"), seconds=5)
    hypothesis = track((0, 2, "angry"), (0, 2, "happy"), (2, 4, "sad"), (4, 5, "angry"), (4, 5, "sad"))
    made = judge(reference, hypothesis)
    assert values(made) == pytest.approx([6 / 5, 2 / 5, 2 / 5, 2 / 5])
    cells = np.array(made["cells"])
    names = made["classes"]
    assert cells[names.index("sad"), names.index("happy")] == pytest.approx(2)
    assert cells[names.index("angry"), 0] == pytest.approx(2)


def test_two_emotions_taken_for_two_others():
    # 0-2: two for two, both confused; 2-3: two for one other, one confused and one missed.
    reference = track((0, 3, "angry"), (0, 3, "sad"), seconds=3)
    made = judge(reference, track((0, 3, "happy"), (0, 2, "fearful")))
    assert values(made) == pytest.approx([2, 1 / 3, 0, 5 / 3])


def test_several_names_of_neutral():
    made = judge(
        track((1, 2, "calm"), (2, 4, "sad"), seconds=5),
        track((0, 3, "other"), (3, 4, "sad")),
        neutral=["neutral", "calm", "other"],
    )
    assert values(made) == pytest.approx([0.2, 0.2, 0, 0])
    assert made["classes"] == ["neutral", "sad"]
    assert values(judge(track((1, 2, "calm"), seconds=5), track()))[:2] == pytest.approx([0.2, 0.2])


def test_hypotheses_are_cut_at_the_end_and_references_are_not():
    made = judge(track((1, 2.03, "sad"), seconds=2), track((1, 9, "sad"), (9, 10, "angry")))
    assert made["eder"]["value"] == 0 and made["seconds"] == 2
    with pytest.raises(InputError, match="x: the reference goes on until 3 s, but the recording ends at 2 s"):
        judge(track((1, 3, "sad"), seconds=2), track())


def test_lengths():
    assert judge(track((1, 2, "sad")), track((0, 4, "sad"), seconds=8))["seconds"] == 8
    made = judge(track((1, 2, "sad")), track((0, 4, "sad")))
    assert (made["seconds"], made["lengths_assumed"], made["eder"]["value"]) == (4, 1, 0.75)
    with pytest.raises(InputError, match="x: has no length"):
        judge(track(), track())


def test_intervals_are_over_recordings_or_speakers():
    pairs = [
        (track((0, 1, "sad"), id=f"r{n}", seconds=4, speaker=f"s{n // 2}"), track((0, n / 4, "sad"))) for n in range(8)
    ]
    made = judge_tracks(pairs)
    assert made["eder"]["method"] == "percentile bootstrap over 4 speakers, 2000 resamples"
    assert made["eder"]["n"] == 8 and made["eder"]["low"] < made["eder"]["value"] < made["eder"]["high"]
    anonymous = [(track((0, 1, "sad"), id=f"r{n}", seconds=4), hypothesis) for n, (_, hypothesis) in enumerate(pairs)]
    told = judge_tracks(anonymous)["eder"]
    assert told["value"] == made["eder"]["value"]
    assert "8 recordings (speakers unknown" in told["method"]
    alone = judge_tracks(pairs[:1])["eder"]
    assert alone["low"] is None and "nothing to resample" in alone["reason"]
    json.dumps(made, allow_nan=False)


def test_the_mean_over_recordings_is_what_speechbrain_reports():
    made = judge_tracks(
        [
            (track((0, 1, "sad"), id="a", seconds=1), track(id="a")),
            (track((0, 1, "sad"), id="b", seconds=9), track((0, 1, "sad"), id="b")),
        ]
    )
    assert made["eder"]["value"] == pytest.approx(0.1)
    assert made["mean_eder"]["value"] == pytest.approx(0.5)
    assert [each["eder"] for each in made["by_recording"]] == [1.0, 0.0]


def test_frames_round_times_and_reach_the_end():
    made = put_to_frames([Stretch(0.24, 0.64, "sad")], 1.03, 0.1, "neutral")
    assert [(each.label, round(each.start, 9), round(each.end, 9)) for each in made] == [
        ("neutral", 0, 0.2),
        ("sad", 0.2, 0.6),
        ("neutral", 0.6, 1.1),
    ]
    exact = judge(track((0.2, 0.6, "sad"), seconds=1.03), track((0.24, 0.64, "sad")))
    framed = judge(track((0.2, 0.6, "sad"), seconds=1.03), track((0.24, 0.64, "sad")), frame=0.1)
    assert exact["eder"]["value"] == pytest.approx(0.08 / 1.03) and framed["eder"]["value"] == pytest.approx(
        0, abs=1e-12
    )
    assert (exact["method"], framed["method"]) == ("exact times", "frames of 0.1 s")


@pytest.mark.parametrize("options", [{"frame": 0}, {"collar": -1}, {"neutral": []}])
def test_bad_options(options):
    with pytest.raises(InputError):
        judge(track((0, 1, "sad")), track(), **options)


LABELS = st.sampled_from(["neutral", "angry", "sad", "happy"])


@st.composite
def tracks(draw, alone=True):
    """Stretches one after the other (``alone``) or anyhow, within ten seconds."""
    if not alone:
        raw = draw(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10), LABELS), max_size=6))
        return track(*((min(a, b), max(a, b), label) for a, b, label in raw if a != b), seconds=10)
    times = sorted(draw(st.lists(st.floats(0, 10), max_size=8, unique=True)))
    return track(*((a, b, draw(LABELS)) for a, b in itertools.pairwise(times) if draw(st.booleans())), seconds=10)


def rates(reference, hypothesis):
    return values(judge_tracks([(reference, hypothesis)], resamples=1))


@settings(max_examples=60, deadline=None)
@given(tracks(alone=False))
def test_identical_is_without_error(one):
    assert rates(one, one) == pytest.approx([0, 0, 0, 0], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(tracks(), tracks())
def test_exchanging_the_sides_exchanges_missed_and_false_alarm(one, other):
    there, back = rates(one, other), rates(other, one)
    assert there == pytest.approx([back[0], back[2], back[1], back[3]], abs=1e-9)
    assert all(part >= 0 for part in there) and there[0] <= 1 + 1e-9
    assert there[0] == pytest.approx(sum(there[1:]))


@settings(max_examples=40, deadline=None)
@given(tracks(alone=False), tracks(alone=False))
def test_it_is_what_a_fine_ruler_measures(one, other):
    """By definition, at many points of time: max(|R|, |H|) - |R and H|, for sets of emotions."""
    points = (np.arange(4000) + 0.5) / 400

    def sets(side):
        return [
            {each.label for each in side.stretches if each.start <= time < each.end} - {"neutral"} for time in points
        ]

    errors = [max(len(a), len(b)) - len(a & b) for a, b in zip(sets(one), sets(other), strict=True)]
    borders = 4 * (len(one.stretches) + len(other.stretches)) / 4000
    assert rates(one, other)[0] == pytest.approx(np.mean(errors), abs=borders + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(tracks(), tracks()), min_size=1, max_size=4))
def test_recordings_add_up(pairs):
    pairs = [(Track(f"r{n}", a.stretches, 10), b) for n, (a, b) in enumerate(pairs)]
    made = judge_tracks(pairs, resamples=1)
    each = [judge_tracks([pair], resamples=1) for pair in pairs]
    assert values(made) == pytest.approx(np.mean([values(alone) for alone in each], axis=0), abs=1e-9)
    assert made["mean_eder"]["value"] == pytest.approx(made["eder"]["value"])  # all are of one length
    total = np.zeros((len(made["classes"]),) * 2)
    for alone in each:
        at = [made["classes"].index(name) for name in alone["classes"]]
        total[np.ix_(at, at)] += alone["cells"]
    assert np.allclose(made["cells"], total)
    assert math.isclose(np.sum(made["cells"]), 10 * len(pairs))
