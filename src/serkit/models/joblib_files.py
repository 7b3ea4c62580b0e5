"""Read arrays out of uncompressed joblib files without running anything that the files say.

A pickle is a program for a small stack machine; loading one calls whatever it names. Here the same program is followed
on paper: strings, numbers, lists and dicts are built, named things become inert :class:`Record` objects, and no
function or class is ever looked up or called. Names that the caller does not expect are refused all the same, so that a
file that wants more than arrays is noticed.

joblib puts the bytes of an array into the stream right after the record that describes it
(``joblib.numpy_pickle.NumpyArrayWrapper``), since joblib 1.2 after a byte count and as many bytes of padding.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serkit.errors import InputError

WRAPPER, ARRAY, DTYPE = "joblib.numpy_pickle.NumpyArrayWrapper", "numpy.ndarray", "numpy.dtype"
SCALARS = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
"""The name of numpy's scalars before and since numpy 2."""

ARRAYS = frozenset({WRAPPER, ARRAY, DTYPE, *SCALARS})
"""What a joblib file of numpy arrays and numbers names."""

LARGEST = 256 * 2**20
"""Bytes: larger files are refused, heads are a hundred times smaller."""


@dataclass(eq=False)
class Record:
    """A thing that a pickle names, kept as data: ``name``, constructor ``arguments``, ``state`` and ``items``."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A global that the stream named and nothing has been made of yet."""

    text: str


class _Mark:
    """Where a run of stack entries begins."""


class PickleReader:
    """Follow one pickle; raises ``InputError`` naming ``path`` for what is not plain data, arrays or ``allowed``."""

    def __init__(self, content: bytes, path: Path, allowed: Collection[str]) -> None:
        self.file, self.size, self.path, self.allowed = io.BytesIO(content), len(content), path, allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Return what the pickle describes."""
        try:
            for code, argument, _ in pickletools.genops(self.file):
                if code.name == "STOP":
                    return self.stack.pop()
                self._step(code.name, argument)
        except InputError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{self.path}: is not an uncompressed joblib file, or a damaged one (at byte {self.file.tell()})"
            ) from error
        raise InputError(f"{self.path}: ends before its pickle does")

    def _step(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in STEPS:
            STEPS[name](self, argument)
        elif name not in IGNORED:
            raise InputError(f"{self.path}: uses the pickle instruction {name}, which arrays and settings never need")

    def _pop_mark(self) -> list[Any]:
        place = max(index for index, entry in enumerate(self.stack) if isinstance(entry, _Mark))
        entries = self.stack[place + 1 :]
        del self.stack[place:]
        return entries

    def _tuple(self, count: int | None) -> None:
        entries = self._pop_mark() if count is None else self.stack[len(self.stack) - count :]
        if count:
            del self.stack[-count:]
        self.stack.append(tuple(entries))

    def _append(self, entries: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("only lists are appended to")
        self.stack[-1].extend(entries)

    def _set_items(self, entries: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Record) else target
        if not isinstance(items, dict):
            raise TypeError("only dicts have items")
        items.update(zip(entries[::2], entries[1::2], strict=True))

    def _memoize(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def _name(self, text: str) -> None:
        if text not in self.allowed:
            raise InputError(f"{self.path}: names {text!r}, which is not among what this reader allows: refused")
        self.stack.append(_Name(text))

    def _stack_name(self) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        self._name(f"{module}.{name}")

    def _make(self) -> None:
        made, arguments = self.stack[-2:]
        if not isinstance(made, _Name) or not isinstance(arguments, tuple):
            raise TypeError("only what is named can be made")
        del self.stack[-2:]
        scalar = made.text in SCALARS
        self.stack.append(self._scalar(*arguments) if scalar else Record(made.text, arguments))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Record):
            raise TypeError("only records have a state")
        target.state = state
        if target.name == WRAPPER:
            self.stack[-1] = self._array(state)

    def _dtype(self, record: Any) -> np.dtype:
        """Return the type that a record of ``numpy.dtype`` describes: integers, floats and booleans only."""
        if not isinstance(record, Record) or record.name != DTYPE:
            raise TypeError("a dtype is expected")
        kind = record.arguments[0]
        if not isinstance(kind, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", kind):
            raise InputError(f"{self.path}: holds an array of type {kind!r}: only numbers are read")
        order = record.state[1] if isinstance(record.state, tuple) else "="
        if order not in ("<", ">", "|", "="):
            raise TypeError("unknown byte order")
        return np.dtype(order + kind)

    def _scalar(self, kind: Any, content: Any) -> int | float | bool:
        return np.frombuffer(content, self._dtype(kind), 1)[0].item()

    def _array(self, facts: Any) -> np.ndarray:
        """Read the bytes of the array that the wrapper just described."""
        if not isinstance(facts["subclass"], _Name) or facts["subclass"].text != ARRAY:
            raise TypeError("only plain arrays are read")
        kind, shape = self._dtype(facts["dtype"]), facts["shape"]
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise TypeError("a shape is a tuple of sizes")
        if facts["order"] not in ("C", "F"):
            raise TypeError("order is C or F")
        if facts.get("numpy_array_alignment_bytes") is not None:
            self.file.read(self.file.read(1)[0])
        wanted = math.prod(shape) * kind.itemsize
        if wanted > self.size - self.file.tell():
            raise InputError(f"{self.path}: ends inside an array of shape {shape}")
        flat = np.frombuffer(self.file.read(wanted), kind)
        return flat.reshape(shape, order=facts["order"]).astype(kind.newbyteorder("="))


CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
LITERALS = set("BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES".split())
IGNORED = {"PROTO", "FRAME"}
STEPS: dict[str, Callable[[PickleReader, Any], None]] = {
    "MARK": lambda reader, _: reader.stack.append(_Mark()),
    "TUPLE": lambda reader, _: reader._tuple(None),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "APPEND": lambda reader, _: reader._append([reader.stack.pop()]),
    "APPENDS": lambda reader, _: reader._append(reader._pop_mark()),
    "SETITEM": lambda reader, _: reader._set_items([reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader, _: reader._set_items(reader._pop_mark()),
    "MEMOIZE": lambda reader, _: reader._memoize(None),
    "BINPUT": lambda reader, place: reader._memoize(place),
    "LONG_BINPUT": lambda reader, place: reader._memoize(place),
    "BINGET": lambda reader, place: reader.stack.append(reader.memo[place]),
    "LONG_BINGET": lambda reader, place: reader.stack.append(reader.memo[place]),
    "GLOBAL": lambda reader, text: reader._name(text.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda reader, _: reader._stack_name(),
    "REDUCE": lambda reader, _: reader._make(),
    "NEWOBJ": lambda reader, _: reader._make(),
    "BUILD": lambda reader, _: reader._build(),
}


def read_joblib(path: str | Path, allowed: Collection[str] = ()) -> Any:
    """Return the content of an uncompressed joblib file: plain data and numpy arrays.

    The names in ``allowed`` (``module.name``) may occur besides those of arrays (:data:`ARRAYS`) and become
    :class:`Record` objects. Nothing is imported or called. Raises ``InputError`` naming the file for any other name,
    for arrays of objects, and for files that are compressed, damaged or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: is larger than {LARGEST // 2**20} MiB, which no head is")
    return PickleReader(path.read_bytes(), path, ARRAYS | set(allowed)).read()
