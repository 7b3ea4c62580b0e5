"""Read plain data out of pickles without running anything that they say.

A pickle is a program for a small stack machine; loading one calls whatever it names. Here the same program is followed
on paper: strings, numbers, lists, dicts and arrays of numpy are built, and no function or class is ever looked up or
called. A name that plain data does not need is refused, so that a file that wants more is noticed.

Every protocol from 0 to 5 is read, those of Python 2 too, whose strings become text by Latin-1.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serkit.errors import InputError

ARRAY, DTYPE = "numpy.ndarray", "numpy.dtype"
# numpy 2 renamed numpy.core
SCALARS = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
FROM_BUFFER = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
# bytes in protocols that have no instruction for them
ENCODE, BYTES = "_codecs.encode", {"__builtin__.bytes", "builtins.bytes", "builtins.bytearray", "__builtin__.bytearray"}

PLAIN = frozenset({ARRAY, DTYPE, *SCALARS, *RECONSTRUCT, *FROM_BUFFER, ENCODE, *BYTES})
"""What pickles of text, numbers, lists, dicts and numpy arrays name."""


@dataclass(eq=False)
class Record:
    """A thing that a pickle names, kept as data: ``name``, constructor ``arguments``, ``state`` and ``items``."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    places: list[int] = field(default_factory=list, repr=False)  # in the memo of the reader


@dataclass(frozen=True)
class _Name:
    """A global that the stream named and nothing has been made of yet."""

    text: str


class _Mark:
    """Where a run of stack entries begins."""


class PickleReader:
    """Follow one pickle; raises ``InputError`` naming ``path`` for what is not plain data, arrays or ``allowed``.

    Arrays are those whose type ``kinds`` matches (``U8``: text; ``O8``: objects, which can only be plain data here).
    ``what`` says in errors what the file should be.
    """

    what = "a pickle of plain data"
    kinds = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d*|O[48]?")
    only = "only numbers and text are read"

    def __init__(self, content: bytes, path: Path, allowed: Collection[str]) -> None:
        self.file, self.size, self.path, self.allowed = io.BytesIO(content), len(content), path, allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        """Return what the pickle describes."""
        try:
            for name, argument in self._instructions():
                if name == "STOP":
                    return self.stack.pop()
                self._step(name, argument)
        except InputError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
            raise InputError(
                f"{self.path}: is not {self.what}, or a damaged one (at byte {self.file.tell()})"
            ) from error
        raise InputError(f"{self.path}: ends before its pickle does")

    def _instructions(self) -> Iterator[tuple[str, Any]]:
        while code := self.file.read(1):
            if code == b"S":
                yield "STRING", self._string()
                continue
            instruction = INSTRUCTIONS[code]
            yield instruction.name, instruction.arg.reader(self.file) if instruction.arg else None

    def _string(self) -> str:
        """Return a quoted string of Python 2, whose escapes pickletools takes for ASCII."""
        line = self.file.readline()
        if len(line) < 3 or line[:1] not in (b"'", b'"') or line[-2:] != line[:1] + b"\n":
            raise ValueError("a string has quotes")
        return codecs.escape_decode(line[1:-2])[0].decode("latin-1")

    def _step(self, name: str, argument: Any) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in LITERALS:
            self.stack.append(argument)
        elif name in STEPS:
            STEPS[name](self, argument)
        elif name not in IGNORED:
            raise InputError(f"{self.path}: uses the pickle instruction {name}, which plain data never needs")

    def _pop_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while not isinstance(self.stack[place], _Mark):
            place -= 1  # below the stack it ends in an IndexError
        entries = self.stack[place + 1 :]
        del self.stack[place:]
        return entries

    def _tuple(self, count: int | None) -> None:
        entries = self._pop_mark() if count is None else self.stack[len(self.stack) - count :]
        if count:
            del self.stack[-count:]
        self.stack.append(tuple(entries))

    def _dict(self) -> None:
        entries = self._pop_mark()
        self.stack.append(dict(zip(entries[::2], entries[1::2], strict=True)))

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
        place, entry = len(self.memo) if place is None else place, self.stack[-1]
        self.memo[place] = entry
        if isinstance(entry, Record):
            entry.places.append(place)

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
        self.stack.append(self._value(made.text, arguments))

    def _value(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return what comes of calling ``name``: a value, or a record of the call that a state may follow."""
        if name in SCALARS:
            return self._scalar(*arguments)
        if name in FROM_BUFFER:
            content, kind, shape, order = arguments
            return self._shaped(content, self._dtype(kind), shape, order)
        if name == ENCODE:
            return _encoded(*arguments)
        if name in BYTES:
            return b"".join(_content(each) for each in arguments)
        return Record(name, arguments)

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Record):
            raise TypeError("only records have a state")
        target.state = state
        made = self._built(target)
        if made is not target:
            self.stack[-1] = made
            self.memo |= {place: made for place in target.places if self.memo[place] is target}

    def _built(self, record: Record) -> Any:
        """Return what a record is once it has its state."""
        if record.name not in RECONSTRUCT:
            return record
        if not isinstance(record.arguments[0], _Name) or record.arguments[0].text != ARRAY:
            raise TypeError("only plain arrays are read")
        shape, kind, fortran, content = record.state[-4:]
        return self._shaped(content, self._dtype(kind), shape, "F" if fortran else "C")

    def _dtype(self, record: Any) -> np.dtype:
        """Return the type that a record of ``numpy.dtype`` describes, if ``kinds`` has it."""
        if not isinstance(record, Record) or record.name != DTYPE:
            raise TypeError("a dtype is expected")
        kind = record.arguments[0]
        if not isinstance(kind, str) or not self.kinds.fullmatch(kind):
            raise InputError(f"{self.path}: holds an array of type {kind!r}: {self.only}")
        order = record.state[1] if isinstance(record.state, tuple) else "="
        if order not in ("<", ">", "|", "="):
            raise TypeError("unknown byte order")
        return np.dtype("O") if kind.startswith("O") else np.dtype(order + kind)

    def _scalar(self, kind: Any, content: Any) -> Any:
        dtype = self._dtype(kind)
        if dtype.hasobject:
            raise TypeError("a scalar is no object")
        return np.frombuffer(_content(content), dtype, 1)[0].item()

    def _shaped(self, content: Any, kind: np.dtype, shape: Any, order: str) -> np.ndarray:
        """Return the array of these bytes, or of this list of plain data, in the byte order of this machine."""
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise TypeError("a shape is a tuple of sizes")
        if order not in ("C", "F"):
            raise TypeError("order is C or F")
        if kind.hasobject:
            if not isinstance(content, list):
                raise TypeError("an array of objects has a list of them")
            flat = np.empty(len(content), object)
            for place, entry in enumerate(content):
                flat[place] = entry
        else:
            content = _content(content)
            if len(content) != math.prod(shape) * kind.itemsize:
                raise ValueError("an array has other bytes than its shape says")
            flat = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
        return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def _content(value: Any) -> bytes:
    """Return the bytes of an array; Python 2 wrote them as a string."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if not isinstance(value, bytes | bytearray):
        raise TypeError("bytes are expected")
    return bytes(value)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("only Latin-1 stands for bytes")
    return text.encode("latin-1")


INSTRUCTIONS = {instruction.code.encode("latin-1"): instruction for instruction in pickletools.opcodes}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
LITERALS = set(
    "INT LONG BININT BININT1 BININT2 LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
IGNORED = {"PROTO", "FRAME"}
STEPS: dict[str, Callable[[PickleReader, Any], None]] = {
    "MARK": lambda reader, _: reader.stack.append(_Mark()),
    "TUPLE": lambda reader, _: reader._tuple(None),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "LIST": lambda reader, _: reader.stack.append(reader._pop_mark()),
    "DICT": lambda reader, _: reader._dict(),
    "APPEND": lambda reader, _: reader._append([reader.stack.pop()]),
    "APPENDS": lambda reader, _: reader._append(reader._pop_mark()),
    "SETITEM": lambda reader, _: reader._set_items([reader.stack.pop(-2), reader.stack.pop()]),
    "SETITEMS": lambda reader, _: reader._set_items(reader._pop_mark()),
    "MEMOIZE": lambda reader, _: reader._memoize(None),
    **{code: lambda reader, place: reader._memoize(int(place)) for code in ("PUT", "BINPUT", "LONG_BINPUT")},
    **{
        code: lambda reader, place: reader.stack.append(reader.memo[int(place)])
        for code in ("GET", "BINGET", "LONG_BINGET")
    },
    "GLOBAL": lambda reader, text: reader._name(text.replace(" ", ".", 1)),
    "STACK_GLOBAL": lambda reader, _: reader._stack_name(),
    "REDUCE": lambda reader, _: reader._make(),
    "NEWOBJ": lambda reader, _: reader._make(),
    "BUILD": lambda reader, _: reader._build(),
}


def read_plain(path: str | Path) -> Any:
    """Return the text, numbers, lists, dicts and numpy arrays of a pickle; nothing in it is imported or called.

    Bytes of Python 2 become text by Latin-1. Raises ``InputError`` naming the file and the name for a pickle that wants
    anything else, and for damaged files.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    value = PickleReader(path.read_bytes(), path, PLAIN).read()
    left = next((entry for entry in _inside(value) if isinstance(entry, Record | _Name | _Mark)), None)
    if left is not None:
        raise InputError(f"{path}: holds {getattr(left, 'name', getattr(left, 'text', 'a mark'))}, which is no data")
    return value


def _inside(value: Any) -> Iterator[Any]:
    """Yield ``value`` and all that is in it, every container once."""
    left, seen = [value], set()
    while left:
        entry = left.pop()
        yield entry
        if not isinstance(entry, list | tuple | dict | np.ndarray) or id(entry) in seen:
            continue
        seen.add(id(entry))
        if isinstance(entry, dict):
            left += [*entry.keys(), *entry.values()]
        elif not isinstance(entry, np.ndarray) or entry.dtype.hasobject:
            left += list(entry.ravel() if isinstance(entry, np.ndarray) else entry)
