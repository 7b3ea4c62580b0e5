"""Pickles on paper: plain data of every protocol arrives as pickle itself reads it, everything else is refused."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serkit.data.pickles import read_plain
from serkit.errors import InputError

SHARED = np.arange(6, dtype=np.float32).reshape(2, 3)
VALUES = {
    "words": ["so", "é", "well-known", "'quoted'", "a\nb"],
    "numbers": [0, -1, 255, 70_000, 2**40, -(2**70), 1.5, float("inf"), True, False, None],
    "bytes": [b"", b"plain", bytes(range(256)), bytearray(b"x")],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "arrays": [SHARED, np.asfortranarray(SHARED), SHARED[:, ::2], np.arange(3, dtype=">i8"), np.zeros((0, 80))],
    "small": [np.array(2.5), np.array([True, False]), np.arange(4, dtype=np.float16)],
    "text": [np.array(["so", "good"]), np.array([b"so", b"good"]), np.array([["a"], ["bcd"]])],
    "objects": [np.array(["so", None, 2], object), np.array([["a", "b"]], object)],
    "scalars": [np.float32(0.5), np.int64(-3), np.float64(2), np.bool_(True), np.str_("word")],
    "again": [SHARED, SHARED],
    ("a", 1): {"nested": [{"deep": (SHARED,)}]},
}


def same(mine, theirs):
    if isinstance(theirs, np.ndarray):
        return mine.dtype == theirs.dtype.newbyteorder("=") and mine.shape == theirs.shape and (mine == theirs).all()
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(same(mine[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return type(mine) is type(theirs) and len(mine) == len(theirs) and all(map(same, mine, theirs))
    return mine == (theirs.item() if isinstance(theirs, np.generic) else theirs)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_arrives(tmp_path, protocol):
    path = tmp_path / "values.p"
    path.write_bytes(pickle.dumps(VALUES, protocol))
    read = read_plain(path)
    assert same(read, VALUES)
    assert read["again"][0] is read["again"][1] is read["arrays"][0]
    assert type(read["scalars"][0]) is float


@pytest.mark.parametrize("protocol", [2, 5])
def test_the_module_names_of_old_and_new_numpy_are_known(tmp_path, protocol):
    content = pickle.dumps([SHARED, np.float32(2)], protocol)
    assert b"numpy._core" in content
    old = content.replace(b"numpy._core", b"numpy.core")
    if protocol == 5:  # there the length of a name stands before it
        old = old.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
        old = old.replace(b"\x8c\x13numpy.core", b"\x8c\x12numpy.core").replace(
            b"\x8c\x15numpy.core.n", b"\x8c\x12numpy.core.n"
        )
        old = old[:2] + old[11:]  # without the frame, whose length would be wrong
    (tmp_path / "old.p").write_bytes(old)
    assert same(read_plain(tmp_path / "old.p"), [SHARED, np.float32(2)])


PYTHON2 = rb"""(dp0
S'caf\xe9[1]'
p1
cnumpy.core.multiarray
_reconstruct
p2
(cnumpy
ndarray
p3
(I0
tp4
S'b'
p5
tp6
Rp7
(I1
(I2
I2
tp8
cnumpy
dtype
p9
(S'f4'
p10
I0
I1
tp11
Rp12
(I3
S'<'
p13
NNNI-1
I-1
I0
tp14
bI00
S'\x00\x00\x80?\x00\x00\x00\xc0\x00\x00@A\n\'\xff\xbe'
p15
tp16
bsS"it's"
p17
(lp18
V\u00e9t\u00e9
p19
aL12L
aI01
aF1.5
asg17
g18
s."""


def test_a_pickle_of_python_2_is_read_with_latin_1(tmp_path):
    (tmp_path / "two.p").write_bytes(PYTHON2)
    read, theirs = read_plain(tmp_path / "two.p"), pickle.loads(PYTHON2, encoding="latin1")
    assert list(read) == ["café[1]", "it's"] and read["it's"] == ["été", 12, True, 1.5]
    assert same(read, theirs)
    assert read["café[1]"][0].tolist() == [1.0, -2.0]


def test_binary_strings_of_python_2_are_text(tmp_path):
    content = b"\x80\x02}q\x00U\x03a\xe9bq\x01T\x02\x00\x00\x00xyq\x02s."
    (tmp_path / "two.p").write_bytes(content)
    assert read_plain(tmp_path / "two.p") == {"aéb": "xy"} == pickle.loads(content, encoding="latin1")


class Attack:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (Attack(os.system, "touch harmed"), "system"),
        (Attack(eval, "open('harmed', 'w')"), "eval"),
        (Attack(getattr, "text", "upper"), "getattr"),
        (Attack(np.load, "harmed", None, True), "numpy.load"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (Path("harmed"), "pathlib"),
        ({1, 2}, "set|ADDITEMS|EMPTY_SET"),
        (1j, "complex"),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in an array of objects"])
def test_everything_else_is_refused_and_nothing_is_run(tmp_path, monkeypatch, protocol, attack, named, inside):
    monkeypatch.chdir(tmp_path)
    value = attack
    if inside:
        value = np.empty(1, object)
        value[0] = attack
    path = tmp_path / "test_sentences.p"
    path.write_bytes(pickle.dumps({"a": value}, protocol))
    with pytest.raises(InputError, match=named) as caught:
        read_plain(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch harmed'\ntR.",
        b"(S'touch harmed'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch harmed'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch harmed\x85R.",
        b"\x80\x02\x82\x01.",  # the extension registry
        b"P1\n.",  # persistent ids
        b"\x80\x05\x97.",  # a buffer out of band
        b"cnumpy\nndarray\n.",  # a name is no data
        b"]cnumpy\nndarray\na.",
        b"cnumpy\nndarray\n((I9999999999999\ntI0\ntR.",
        b"cnumpy\ndtype\n(S'f4'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
        b"c__builtin__\nbytes\n(I99999999999\ntR.",
        b"\x80\x04]\x94h\x07.",  # a memo that does not exist
        b"\x80\x04K\x01K\x02b.",  # a state for a number
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes without end
        b"\x80\x04].]",
        b"",
        b"(.",
        b"t.",
        b"S'open\n.",
        b"a text that is no pickle\n",
        b"\x78\x9c compressed",
    ],
)
def test_hand_written_programs_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    Path("out.p").write_bytes(program)
    if program == b"\x80\x04].]":  # what stands after the end is not read
        assert read_plain("out.p") == []
        return
    with pytest.raises(InputError, match=r"^out\.p: "):
        read_plain("out.p")
    assert not Path("harmed").exists()


@pytest.mark.parametrize("kind", ["M8[s]", "c8", "V4", [("a", "f4")]])
def test_arrays_of_other_types_are_refused(tmp_path, kind):
    (tmp_path / "out.p").write_bytes(pickle.dumps(np.zeros(2, kind)))
    with pytest.raises(InputError, match="only numbers and text are read"):
        read_plain(tmp_path / "out.p")


def test_an_array_whose_bytes_are_cut_is_refused(tmp_path):
    content = pickle.dumps(np.zeros(40, np.float32), 2)
    assert content.count(b"K(\x85") == 1  # the shape (40,)
    (tmp_path / "out.p").write_bytes(content.replace(b"K(\x85", b"K)\x85"))
    with pytest.raises(InputError, match="damaged"):
        read_plain(tmp_path / "out.p")
    with pytest.raises(InputError, match="no such file"):
        read_plain(tmp_path / "none.p")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_an_error_or_plain_data(tmp_path, data):
    content = bytearray(pickle.dumps(VALUES, data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.p").write_bytes(bytes(content))
    try:
        read_plain(tmp_path / "damaged.p")
    except InputError as error:
        assert str(error).startswith(str(tmp_path / "damaged.p")) and "\n" not in str(error)
