"""``serkit predict --timeline``: formats, turns, pictures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serkit.data.turns import read_turns
from serkit.inference.predictor import Predictor

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP = EXAMPLES / "sad-dumped.flac"


@pytest.fixture(scope="module")
def timeline():
    """The timeline of the clip, from Python."""
    return Predictor().timeline(str(CLIP), id=str(CLIP))


def test_json_is_what_python_says(serkit, timeline):
    ran = serkit("predict", CLIP, "--timeline", "--format", "json")
    assert ran.code == 0 and ran.err == ""
    assert json.loads(ran.out) == timeline.as_dict()
    assert timeline.segments and timeline.curve


def test_options_reach_the_timeline(serkit):
    run = ["predict", CLIP, "--timeline", "--format", "json", "--labels", "sad,happy"]
    ran = serkit(*run, "--no-speech", "--window", 1, "--hop", 0.5)
    found = json.loads(ran.out)
    assert (found["segments"][0]["start"], found["segments"][-1]["end"]) == (0, found["seconds"])
    assert len(found["curve"]) == round(found["seconds"] / 0.5)
    assert {segment["label"] for segment in found["segments"]} <= {"sad", "happy"}


def test_turns_by_name_of_the_recording(serkit, tmp_path):
    turns = tmp_path / "turns.rttm"
    turns.write_text("SPEAKER sad-dumped 1 0.2 1.5 <NA> <NA> anna <NA> <NA>\n")
    ran = serkit("predict", CLIP, "--timeline", "--turns", turns, "--format", "rttm", "-o", tmp_path / "out.rttm")
    assert ran.code == 0
    (found,) = read_turns(tmp_path / "out.rttm").values()
    assert found[0].start >= 0.2 and found[-1].end <= 1.7
    ran = serkit("predict", EXAMPLES / "angry-furious.flac", "--timeline", "--turns", turns)
    assert ran.code == 2 and "--turns names no turns of it, only of sad-dumped" in ran.err


def test_a_folder_gets_a_file_and_a_picture_for_each(serkit, tmp_path):
    pytest.importorskip("matplotlib")
    two = (CLIP, EXAMPLES / "angry-furious.flac")
    ran = serkit("predict", *two, "--timeline", "--format", "srt", "-o", tmp_path / "srt")
    assert ran.code == 0
    assert sorted(path.name for path in (tmp_path / "srt").rglob("*.srt")) == ["angry-furious.srt", "sad-dumped.srt"]
    ran = serkit("predict", CLIP, "--timeline", "--plot", tmp_path / "picture.svg")
    assert ran.code == 0 and (tmp_path / "picture.svg").read_text().lstrip().startswith("<?xml")
    ran = serkit("predict", *two, "--timeline", "--plot", tmp_path / "pictures")
    assert ran.code == 0 and len(list((tmp_path / "pictures").rglob("*.png"))) == 2


def test_bad_recordings_are_told_and_the_others_go_on(serkit, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing of the kind")
    ran = serkit("predict", bad, CLIP, "--timeline", "--format", "csv")
    assert ran.code == 2
    assert ran.err.startswith(f"serkit: {bad}: ") and len(ran.err.splitlines()) == 1
    assert ran.out.splitlines()[0].startswith("id,utterance,start,end,speaker,label,confidence,p_angry")
    assert str(CLIP) in ran.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timeline", "--format", "cai"], "--format cai knows no timelines: take one of table, json"),
        (["--timeline", "--window", "30"], "window: default/speakers judges 0.25 to 15 s at a time, not 30 s"),
        (["--timeline", "--hop", "0"], "hop: is at least 0.02 s"),
        (["--timeline", "--segment", "1"], "--segment is not for --timeline: leave it out"),
        (["--timeline", "--text", "hello"], "--text is not for --timeline: leave it out"),
        (["--timeline", "--embedding"], "--embedding is not for --timeline: leave it out"),
        (["--window", "3"], "--window is for --timeline: leave it out"),
        (["--no-speech"], "--no-speech is for --timeline: leave it out"),
        (["--format", "srt"], "--format srt is for --timeline"),
        (["--timeline", "--turns", "nowhere.rttm"], "nowhere.rttm: cannot be read: No such file"),
    ],
)
def test_what_does_not_go_together(serkit, options, message):
    ran = serkit("predict", CLIP, *options)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err and len(ran.err.splitlines()) == 1


def test_one_file_for_several_recordings(serkit, tmp_path):
    ran = serkit("predict", CLIP, CLIP, "--timeline", "--format", "srt")
    assert ran.code == 2 and "--format srt is for one recording a file" in ran.err
    ran = serkit("predict", CLIP, EXAMPLES / "angry-furious.flac", "--timeline", "--plot", tmp_path / "one.png")
    assert ran.code == 2 and "is one picture, and there are several recordings" in ran.err
