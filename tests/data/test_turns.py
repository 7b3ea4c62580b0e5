"""Speaker turns as other programs write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.turns import Turn, read_turns
from serkit.errors import InputError

RTTM = """;; made by hand
SPKR-INFO meeting 1 <NA> <NA> <NA> adult_female anna <NA> <NA>
SPEAKER meeting 1 4.50 1.25 <NA> <NA> bert <NA> <NA>
SPEAKER meeting 1 0.00 5.00 <NA> <NA> anna 0.93 <NA>

LEXEME meeting 1 0.10 0.20 hello lex anna 1.0
NON-SPEECH meeting 1 9.00 1.00 <NA> noise <NA> <NA>
SPEAKER  other\t1 1 2 <NA> <NA> anna <NA>
SPEAKER meeting 1 7.0 0.0 <NA> <NA> anna <NA> <NA>
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="turns.txt"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_rttm(write):
    assert read_turns(write(RTTM)) == {
        "meeting": (Turn(0.0, 5.0, "anna"), Turn(4.5, 5.75, "bert")),
        "other": (Turn(1.0, 3.0, "anna"),),
    }


@pytest.mark.parametrize(
    "text",
    [
        "start,end,speaker\n4,6,B\n0,5,A\n",
        "\ufeffSTART;Duration;Speaker\r\n4;2;B\r\n0;5;A\r\n",
        "speaker\tend\tstart\tnote\nA\t5\t0\tx\nB\t6\t4.0\t\n",
        ';; from a tool\nstart,end,speaker\n0,5, A \n\n4,6,"B"\n',
    ],
)
def test_tables_without_a_recording(write, text):
    assert read_turns(write(text)) == {"": (Turn(0.0, 5.0, "A"), Turn(4.0, 6.0, "B"))}


@pytest.mark.parametrize("column", ["id", "recording"])
def test_tables_of_several_recordings(write, column):
    text = f'{column},start,end,speaker\n"a, b.wav",0,1,A\nc,2,3,B\n"a, b.wav",1,2,B\n'
    assert read_turns(write(text)) == {"a, b.wav": (Turn(0, 1, "A"), Turn(1, 2, "B")), "c": (Turn(2, 3, "B"),)}


def test_a_file_without_turns_is_empty(write):
    assert read_turns(write(";; nothing\n\n")) == {}
    assert read_turns(write("start,end,speaker\n")) == {}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("start,end,speaker\n0,1,A\n3,2,A\n", 3, "before it starts"),
        ("start,end,speaker\n0,one,A\n", 2, "not a number"),
        ("start,end,speaker\n-1,1,A\n", 2, "not negative"),
        ("start,duration,speaker\n1,-1,A\n", 2, "not negative"),
        ("start,end,speaker\n0,nan,A\n", 2, "finite"),
        ("start,end,speaker\n0,1,\n", 2, "speaker is empty"),
        ("start,end,speaker\n0,1\n", 2, "fields than the head"),
        ("start,end,speaker\n0,1,A,B\n", 2, "fields than the head"),
        ("start,speaker\n0,A\n", 1, "end (or duration)"),
        ("hello\n", 1, "neither RTTM nor a table"),
        ("SPEAKER a 1 0 1 <NA> <NA> A <NA>\nSPEAKER a 1 x 1 <NA> <NA> A <NA>\n", 2, "not a number"),
        ("SPEAKER a 1 0 -1 <NA> <NA> A <NA>\n", 1, "not negative"),
        ("SPEAKER a 1 inf 1 <NA> <NA> A <NA>\n", 1, "finite"),
        ("SPEAKER a 1 0 1 A\n", 1, "6 fields"),
        ("SPEAKER a 1 0 1 <NA> <NA> <NA> <NA>\n", 1, "names no speaker"),
        (";; x\nSPEAKER a 1 0 1 <NA> <NA> A <NA>\nTALKER a 1 0 1 <NA> <NA> A <NA>\n", 3, "'TALKER'"),
    ],
)
def test_errors_name_file_and_line(write, text, line, what):
    path = write(text)
    with pytest.raises(InputError) as told:
        read_turns(path)
    assert str(told.value).startswith(f"{path}:{line}: ")
    assert what in str(told.value) and "\n" not in str(told.value)


def test_what_cannot_be_read(write, tmp_path):
    with pytest.raises(InputError, match="no.rttm: cannot be read"):
        read_turns(tmp_path / "no.rttm")
    with pytest.raises(InputError, match="is not a text file"):
        read_turns(write(b"RIFF\xff\xfe\x00"))


words = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=8)


@given(
    turns=st.lists(st.tuples(words, st.integers(0, 10**7), st.integers(1, 10**6), words), min_size=1, max_size=9),
)
def test_what_is_written_as_rttm_is_read_again(tmp_path_factory, turns):
    path = tmp_path_factory.mktemp("rttm") / "x.rttm"
    turns = [turn for turn in turns if "<NA>" not in (turn[0], turn[3])]
    path.write_text(
        ";;\n"
        + "".join(
            f"SPEAKER {id} 1 {s / 1e3:.3f} {d / 1e3:.3f} <NA> <NA> {name} <NA> <NA>\n" for id, s, d, name in turns
        ),
        encoding="utf-8",
    )
    found = read_turns(path)
    assert sum(map(len, found.values())) == len(turns)
    for id, start, length, name in turns:
        assert any(
            turn.speaker == name
            and abs(turn.start - start / 1e3) < 1e-9
            and abs(turn.end - (start + length) / 1e3) < 1e-9
            for turn in found[id]
        )
