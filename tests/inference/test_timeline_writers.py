"""What is written is read back: by Python's own readers, by ours, and by parsers of this file."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from serkit.data.turns import Turn, read_turns
from serkit.errors import InputError
from serkit.inference.timeline import CurvePoint, Timeline, TimelineSegment
from serkit.inference.timeline_writers import ENDINGS, TIMELINE_WRITERS, clock, write_folder

CLASSES = ("neutral", "angry", "sad")


def segment(number, start, end, label, p, speaker=None):
    rest = [name for name in CLASSES if name != label]
    named = {label: p, rest[0]: round((1 - p) * 0.75, 4), rest[1]: round((1 - p) * 0.25, 4)}
    return TimelineSegment(number, start, end, label, {name: named[name] for name in CLASSES}, speaker)


@pytest.fixture
def talk():
    """Two speakers, one of them with a blank in the name, who overlap; one segment beyond the first hour."""
    return Timeline(
        "calls/team talk.wav",
        3725.5,
        "m",
        CLASSES,
        (
            segment(1, 0.5, 2.25, "neutral", 0.8, "Ann Lee"),
            segment(2, 2.0, 3.5, "angry", 0.6, "bert"),
            segment(3, 3723.4567, 3725.0, "sad", 0.5, "Ann Lee"),
        ),
    )


@pytest.fixture
def note():
    return Timeline(
        "note.wav", 4.0, "m", CLASSES, (segment(1, 0.0, 4.0, "sad", 0.7),), (CurvePoint(0.0, 4.0, {"sad": 1.0}),)
    )


@pytest.fixture
def silence():
    return Timeline("silence.wav", 2.0, "m", CLASSES, ())


def write(format, *timelines):
    file = io.StringIO(newline="")
    TIMELINE_WRITERS[format](iter(timelines), CLASSES, file)
    return file.getvalue()


def read_srt(text):
    """After the SubRip description: number, times, lines of text, a blank line."""
    found = []
    for block in text.strip().split("\n\n"):
        number, times, *lines = block.split("\n")
        match = re.fullmatch(r"(\d\d):(\d\d):(\d\d),(\d{3}) --> (\d\d):(\d\d):(\d\d),(\d{3})", times)
        h1, m1, s1, f1, h2, m2, s2, f2 = map(int, match.groups())
        found.append((int(number), (h1 * 60 + m1) * 60 + s1 + f1 / 1000, (h2 * 60 + m2) * 60 + s2 + f2 / 1000, lines))
    return found


def test_json_is_one_object_a_line(talk, note, silence):
    lines = [json.loads(line) for line in write("json", talk, note, silence).splitlines()]
    assert lines == [talk.as_dict(), note.as_dict(), silence.as_dict()]


def test_csv_has_a_row_for_every_segment(talk, note, silence):
    rows = list(csv.DictReader(io.StringIO(write("csv", talk, silence, note))))
    assert [row["id"] for row in rows] == ["calls/team talk.wav"] * 3 + ["note.wav"]
    assert list(rows[0])[:7] == ["id", "utterance", "start", "end", "speaker", "label", "confidence"]
    first = rows[0]
    assert (first["speaker"], first["label"], float(first["start"]), float(first["end"])) == (
        "Ann Lee",
        "neutral",
        0.5,
        2.25,
    )
    assert {name: float(first[f"p_{name}"]) for name in CLASSES} == talk.segments[0].probabilities
    assert rows[3]["speaker"] == "" and float(rows[3]["seconds"]) == 4.0


def test_rttm_is_read_by_our_reader_with_labels_as_names(talk, note, tmp_path):
    text = write("rttm", talk, note)
    (tmp_path / "x.rttm").write_text(text)
    assert read_turns(tmp_path / "x.rttm") == {
        "team_talk": (Turn(0.5, 2.25, "neutral"), Turn(2.0, 3.5, "angry"), Turn(3723.457, 3725.0, "sad")),
        "note": (Turn(0.0, 4.0, "sad"),),
    }
    fields = [line.split(" ") for line in text.splitlines()]
    assert all(len(words) == 10 and words[0] == "SPEAKER" and words[2] == "1" for words in fields)
    assert [words[5] for words in fields] == ["Ann_Lee", "bert", "Ann_Lee", "<NA>"]
    assert [float(words[8]) for words in fields] == [0.8, 0.6, 0.5, 0.7]


def test_rttm_tells_recordings_of_one_name_apart(note):
    same = replace(note, id="more/note.flac")
    assert [line.split()[1] for line in write("rttm", note, same).splitlines()] == ["note", "more/note.flac"]


def test_audacity_labels(talk):
    rows = [line.split("\t") for line in write("audacity", talk).splitlines()]
    assert [(float(start), float(end), label) for start, end, label in rows] == [
        (0.5, 2.25, "Ann Lee: neutral"),
        (2.0, 3.5, "bert: angry"),
        (3723.4567, 3725.0, "Ann Lee: sad"),
    ]


def test_subtitles(talk, note):
    assert read_srt(write("srt", talk)) == [
        (1, 0.5, 2.25, ["Ann Lee: neutral (0.80)"]),
        (2, 2.0, 3.5, ["bert: angry (0.60)"]),
        (3, 3723.457, 3725.0, ["Ann Lee: sad (0.50)"]),
    ]
    assert write("srt", note) == "1\n00:00:00,000 --> 00:00:04,000\nsad (0.70)\n\n"


def test_table(talk, note, silence):
    assert write("table", talk, note, silence).splitlines() == [
        "calls/team talk.wav  1:02:06  m",
        "  0:00:00.5 - 0:00:02.2  Ann Lee  neutral     0.80  angry 0.15",
        "  0:00:02.0 - 0:00:03.5  bert     angry       0.60  neutral 0.30",
        "  1:02:03.5 - 1:02:05.0  Ann Lee  sad         0.50  neutral 0.38",
        "note.wav  0:00:04  m",
        "  0:00:00.0 - 0:00:04.0  sad         0.70  neutral 0.23",
        "silence.wav  0:00:02  m",
        "  no speech found",
    ]


@pytest.mark.parametrize("format", TIMELINE_WRITERS)
def test_no_recordings_and_no_speech(format, silence):
    write(format)
    write(format, silence)


@pytest.mark.parametrize("format", ["srt", "audacity"])
def test_one_recording_a_file_and_nothing_half_written(format, talk, note):
    file = io.StringIO()
    with pytest.raises(InputError, match="output folder"):
        TIMELINE_WRITERS[format](iter([talk, note]), CLASSES, file)
    assert file.getvalue() == ""


@pytest.mark.parametrize("format", TIMELINE_WRITERS)
def test_a_folder_has_a_file_for_every_recording(format, talk, note, tmp_path):
    same = Timeline("note.mp3", 1.0, "m", CLASSES, ())
    out = Timeline("/a/../../b.wav", 1.0, "m", CLASSES, ())
    paths = write_folder(iter([talk, note, same, out]), CLASSES, tmp_path / "out", format)
    ending = ENDINGS[format]
    names = [f"calls/team talk{ending}", f"note{ending}", f"note.mp3{ending}", f"a/b{ending}"]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in paths] == names
    assert paths[0].read_text() == write(format, talk)
    assert paths[1].read_text() == write(format, note)
    with pytest.raises(InputError, match="note.wav: two recordings"):
        write_folder(iter([note, note, note]), CLASSES, tmp_path / "again", format)


def test_names_that_only_look_like_endings_stay(tmp_path):
    made = write_folder(
        [Timeline("take.1", 1.0, "m", CLASSES, ()), Timeline("take.2", 1.0, "m", CLASSES, ())], CLASSES, tmp_path, "srt"
    )
    assert [path.name for path in made] == ["take.1.srt", "take.2.srt"]


@pytest.mark.parametrize(
    ("seconds", "decimals", "shown"),
    [(0, 0, "0:00:00"), (59.9996, 3, "0:01:00.000"), (3599.5, 0, "1:00:00"), (360000, 1, "100:00:00.0")],
)
def test_clock(seconds, decimals, shown):
    assert clock(seconds, decimals) == shown
