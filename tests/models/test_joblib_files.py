"""The joblib reader: arrays arrive bit by bit, and no file can make it do anything."""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serkit.errors import InputError
from serkit.models.joblib_files import Record, read_joblib

joblib = pytest.importorskip("joblib")
NAMES = {"dienen.core.model.Model", "kahnfigh.Config"}

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    np.arange(5, dtype=">i4"),
    np.array([True, False]),
    np.zeros((0, 3), np.float16),
    np.array(7, np.uint8),
]


def dumped(path: Path, value) -> Path:
    joblib.dump(value, path, compress=0, protocol=4)
    return path


@pytest.mark.parametrize("aligned", [True, False], ids=["joblib 1.2 and later", "before"])
def test_everything_in_a_model_file_arrives(dump_model, old_scalar, tmp_path, aligned):
    weights = {"input": [], "layer": ARRAYS, "other": {"kernel": [ARRAYS[0] + 1]}}
    numbers = [np.float32(0.5), np.int64(-3), old_scalar(np.float32(2.5)), 10**12, 1.5, "text", b"bytes", None, True]
    path = dump_model(tmp_path / "out", weights, aligned, numbers=numbers, again=weights["input"])
    assert b"numpy.core.multiarray" in path.read_bytes()
    model = read_joblib(path, NAMES)
    assert isinstance(model, Record) and model.name == "dienen.core.model.Model"
    assert set(model.state) == {"weights", "original_config", "optimizer_state", "numbers", "again"}
    assert model.state["original_config"].name == "kahnfigh.Config"
    assert model.state["original_config"].state["store"]["Model"] == {"name": "mlp", "rate": 0.2, "sizes": (13, 768)}
    assert model.state["numbers"] == [0.5, -3, 2.5, 10**12, 1.5, "text", b"bytes", None, True]
    read = model.state["weights"]
    assert read["input"] == [] and read["input"] is model.state["again"]
    for mine, theirs in zip([*read["layer"], read["other"]["kernel"][0]], [*ARRAYS, ARRAYS[0] + 1], strict=True):
        assert mine.dtype == theirs.dtype.newbyteorder("=") and mine.shape == theirs.shape
        assert (mine == theirs).all()
    assert not {"dienen.core.model", "kahnfigh"} & set(sys.modules)


def test_what_joblib_itself_reads_is_the_same(tmp_path):
    value = {"a": [ARRAYS[0], ARRAYS[0].T], "b": (1, "x", {"c": ARRAYS[2]})}
    path = dumped(tmp_path / "value", value)
    mine, theirs = read_joblib(path), joblib.load(path)
    assert (mine["a"][1] == theirs["a"][1]).all() and (mine["b"][2]["c"] == theirs["b"][2]["c"]).all()
    assert mine["b"][:2] == theirs["b"][:2] == (1, "x")


class Attack:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (Attack(os.system, "touch harmed"), f"{os.system.__module__}.system"),
        (Attack(eval, "open('harmed', 'w')"), "builtins.eval"),
        (Attack(getattr, "text", "upper"), "builtins.getattr"),
        (Attack(np.load, "harmed"), "numpy.load"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (Path("harmed"), "pathlib"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a model"])
def test_other_names_are_refused(dump_model, tmp_path, monkeypatch, attack, named, inside):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    path = dump_model(out, {"layer": [ARRAYS[0]]}, more=attack) if inside else dumped(out, attack)
    with pytest.raises(InputError, match=named.replace(".", r"\.")) as caught:
        read_joblib(path, NAMES)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_arrays_of_objects_are_refused(dump_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attack = np.array([Attack(os.system, "touch harmed"), 1], dtype=object)
    path = dump_model(tmp_path / "out", {"layer": [attack]})
    with pytest.raises(InputError, match="'O8': only numbers"):
        read_joblib(path, NAMES)
    assert not (tmp_path / "harmed").exists()
    for array in (np.array(["text"]), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]"), np.zeros(2, np.complex64)):
        with pytest.raises(InputError):
            read_joblib(dumped(tmp_path / "other", [array]))


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch harmed'\ntR.",
        b"(S'touch harmed'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch harmed\x85R.",
        b"\x80\x02\x82\x01.",  # the extension registry
        b"P1\n.",  # persistent ids
        b"\x80\x04\x95\x00",
        b"\x80\x04]\x94h\x07.",  # a memo that does not exist
        b"\x80\x04K\x01K\x02b.",  # a state for a number
        b"\x80\x04]K\x01K\x02s.",  # an item for a list
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes without end
        b"",
        b"\x78\x9c compressed",
        b"a text that is no pickle\n",
    ],
)
def test_hand_written_programs_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").write_bytes(program)
    with pytest.raises(InputError, match="out"):
        read_joblib("out", NAMES)
    assert not (tmp_path / "harmed").exists()


def test_an_allowed_name_is_still_only_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").write_bytes(pickle.dumps(Attack(os.system, "touch harmed"), 4))
    made = read_joblib("out", {f"{os.system.__module__}.system"})
    assert isinstance(made, Record) and made.arguments == ("touch harmed",)
    assert not (tmp_path / "harmed").exists()


def test_compressed_files_are_refused_with_a_word(tmp_path):
    joblib.dump({"a": ARRAYS[0]}, tmp_path / "out", compress=3)
    with pytest.raises(InputError, match="not an uncompressed joblib file"):
        read_joblib(tmp_path / "out")


def test_an_array_larger_than_the_file_is_refused(tmp_path):
    content = dumped(tmp_path / "out", [np.zeros(40, np.float32)]).read_bytes()
    (tmp_path / "cut").write_bytes(content[:-60])
    with pytest.raises(InputError, match="ends inside an array"):
        read_joblib(tmp_path / "cut")
    assert content.count(b"\x4b\x28\x85") == 1  # the shape (40,)
    (tmp_path / "huge").write_bytes(content.replace(b"\x4b\x28\x85", b"\x8a\x06\0\0\0\0\0\x7f\x85"))
    with pytest.raises(InputError, match="ends inside an array"):
        read_joblib(tmp_path / "huge")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_an_error_and_nothing_else(dump_model, tmp_path, data):
    path = tmp_path / "sound"
    if not path.exists():
        dump_model(path, {"layer": [ARRAYS[0], ARRAYS[2]]}, rate=np.float32(2))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(
        bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    )
    try:
        read_joblib(damaged, NAMES)
    except InputError as error:
        assert str(error).startswith(str(damaged)) and "\n" not in str(error)


def test_missing_and_huge_files(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        read_joblib(tmp_path / "out")
    monkeypatch.setattr("serkit.models.joblib_files.LARGEST", 10)
    with pytest.raises(InputError, match="is larger"):
        read_joblib(dumped(tmp_path / "out", [1] * 20))
