"""Annotations and answers of every kind become the same tracks, and the verb judges them."""

import json

import pytest

from serkit.cli import app
from serkit.errors import InputError
from serkit.evaluation.timelines import Stretch, Track, pair_tracks, read_tracks
from serkit.inference.timeline import Timeline, TimelineSegment
from serkit.inference.timeline_writers import TIMELINE_WRITERS

STRETCHES = (Stretch(0.0, 1.0, "neutral"), Stretch(1.0, 2.5, "angry"))
CLASSES = ("neutral", "angry")


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path

    return write


def timeline(id, speaker=None):
    segments = [
        TimelineSegment(1, each.start, each.end, each.label, dict.fromkeys(CLASSES, 0.5), speaker) for each in STRETCHES
    ]
    return Timeline(id, 4.0, "m", CLASSES, tuple(segments))


ZED = {
    "emotion": [{"emo": "angry", "start": 1.0, "end": 2.5}, {"emo": "neutral", "start": 0, "end": "1.0"}],
    "duration": "4.0",
    "wav": "datafolder/a.wav",
}
KINDS = {
    "zed.json": ({"a": {**ZED, "speaker": "ann"}}, 4.0, "ann"),
    "answer.json": (
        {"a": [{"start": 0.0, "end": 1.0, "emotion": "n"}, {"start": 1.0, "end": 2.5, "emotion": "a"}]},
        None,
        None,
    ),
    "one.json": (timeline("a", "ann").as_dict(), 4.0, "ann"),
    "lines.json": ("\n".join([json.dumps(timeline("a").as_dict(curve=False)), ""]), 4.0, None),
    "list.json": ([timeline("a").as_dict()], 4.0, None),
    "table.csv": ("id,start,end,label\na,0,1,neutral\na,1,2.5,angry\na,3,3,angry\n", None, None),
    "table.tsv": (
        "start\tduration\tlabel\tid\tseconds\tspeaker\n0\t1\tneutral\ta\t4\tann\n1\t1.5\tangry\ta\t4\tann\n",
        4.0,
        "ann",
    ),
    "x.rttm": ("SPEAKER a 1 0 1 <NA> <NA> neutral <NA>\nSPEAKER a 1 1 1.5 <NA> <NA> angry <NA> <NA>\n", None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_read(name, write):
    text, seconds, speaker = KINDS[name]
    assert read_tracks(write(name, text)) == {"a": Track("a", STRETCHES, seconds, speaker)}


@pytest.mark.parametrize("format", ["json", "csv", "rttm"])
def test_what_is_predicted_can_be_judged(format, tmp_path):
    path = tmp_path / f"x.{format}"
    with path.open("w", newline="") as file:
        TIMELINE_WRITERS[format]([timeline("a", "ann"), timeline("b")], CLASSES, file)
    known = None if format == "rttm" else 4.0
    assert read_tracks(path) == {"a": Track("a", STRETCHES, known, "ann"), "b": Track("b", STRETCHES, known, None)}


def test_a_recording_of_several_speakers_is_of_none(write):
    found = read_tracks(write("x.csv", "id,start,end,label,speaker\na,0,1,sad,ann\na,1,2,sad,bert\n"))
    assert found["a"].speaker is None


def test_a_table_that_names_no_recording_is_of_the_one_it_is_called_after(write):
    assert list(read_tracks(write("talk.csv", "start,end,label\n0,1,sad\n"))) == ["talk"]


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("x.json", '{"a": \n', ":1", "is not JSON"),
        ("x.json", "3", "", "no list of segments"),
        ("x.json", {"a": 3}, ": a", "no list of segments"),
        ("x.json", [{"id": "a"}], "", "no list of segments"),
        ("x.json", {"a": [{"start": 0, "end": 1}]}, ": a: stretch 1", "has no label"),
        ("x.json", {"a": [{"start": 2, "end": 1, "emotion": "n"}]}, ": a: stretch 1", "before it starts"),
        ("x.json", {"a": [{"start": "x", "end": 1, "emotion": "n"}]}, ": a: stretch 1", "start 'x' is not a number"),
        ("x.json", {"a": [{"start": 0, "emotion": "n"}]}, ": a: stretch 1", "end None is not a number"),
        ("x.json", {"a": {"emotion": [], "duration": -1}}, ": a", "not negative"),
        ("x.json", '{"id": "a", "segments": []}\n{"id": "a", "segments": []}\n', ":2: a", "is there twice"),
        ("x.csv", "id,start,end\na,0,1\n", ":1", "label"),
        ("x.csv", "id,start,end,label,seconds\na,0,1,sad,long\n", ":2", "seconds 'long'"),
    ],
)
def test_errors_say_where(write, name, text, where, what):
    path = write(name, text)
    with pytest.raises(InputError) as told:
        read_tracks(path)
    assert str(told.value).startswith(f"{path}{where}: ") and what in str(told.value)


def test_a_missing_file():
    with pytest.raises(InputError, match="no.json: cannot be read"):
        read_tracks("no.json")


def tracks(*ids):
    return {id: Track(id, STRETCHES, 4.0) for id in ids}


def test_pairs_by_id_or_by_stem():
    made = pair_tracks(tracks("a", "b.x", "c.wav"), tracks("c", "folder/a.flac", "b.x", "more"))
    assert [(one.id, other.id) for one, other in made] == [("a", "folder/a.flac"), ("b.x", "b.x"), ("c.wav", "c")]
    with pytest.raises(InputError, match="a: may be x/a.wav or y/a.wav"):
        pair_tracks(tracks("a"), tracks("x/a.wav", "y/a.wav"))


def test_a_reference_without_hypothesis_is_told():
    with pytest.raises(
        InputError, match="1 of 2 recordings have no hypothesis, the first is 'bb'.*--absent-is-neutral"
    ):
        pair_tracks(tracks("a", "bb"), tracks("a"))
    made = pair_tracks(tracks("a", "bb"), tracks("a"), absent_is_neutral=True)
    assert made[1][1] == Track("bb", ())
    for absent in (False, True):
        with pytest.raises(InputError, match="did you mean 'take1'"):
            pair_tracks(tracks("take_1"), tracks("take1"), absent)
    with pytest.raises(InputError, match="no reference"):
        pair_tracks({}, tracks("a"))


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        app(["eder", *map(str, arguments)], standalone_mode=True)
    return stop.value.code, capsys.readouterr()


def test_the_verb(write, capsys, tmp_path):
    reference = write("zed.json", {"a": {**ZED, "duration": 4}, "b": {**ZED, "duration": 4}})
    hypothesis = write("x.json", "\n".join(json.dumps(timeline(f"calls/{id}.wav").as_dict()) for id in "ab"))
    code, told = run(capsys, reference, hypothesis, "--json", tmp_path / "out.json")
    made = json.loads((tmp_path / "out.json").read_text())
    assert code == 0 and made["eder"]["value"] == 0 and made["seconds"] == 8
    assert "2 recordings, 8.0 s; exact times; neutral: neutral" in told.out
    assert told.err == ""
    code, told = run(capsys, reference, hypothesis, "--neutral", "neutral,angry", "--json", "-")
    assert json.loads(told.out)["classes"] == ["neutral"]
    late = write("late.csv", "id,start,end,label\na,1.5,2.5,angry\n")
    code, told = run(capsys, reference, late, "--absent-is-neutral", "--collar", "0.6", "--frame", "0.02")
    # of 8 seconds: half a second of one recording and 1.5 of the other are missed
    assert "EDER                        0.250" in told.out and "frames of 0.02 s" in told.out
    assert "1 of 2 recordings have no hypothesis" in told.err
