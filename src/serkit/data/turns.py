"""Who speaks when: speaker turns from RTTM and from tables."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.errors import InputError

RTTM_TYPES = frozenset(
    "A/P CB EDIT FILLER IP LEXEME NO_RT_METADATA NON-LEX NON-SPEECH NOSCORE SEGMENT SPEAKER SPKR-INFO SU".split()
)
"""Record types of NIST's RTTM; only SPEAKER says who speaks when."""

NOTHING = "<NA>"
LONGEST = 1e9
"""Seconds, 32 years; times beyond are a slip, and their samples may be beyond any number."""
DELIMITERS = "\t;,"


@dataclass(frozen=True, order=True)
class Turn:
    """Somebody speaks from ``start`` to ``end``, in seconds of the recording."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True)
class Row:
    """A line of a table or of an RTTM file: its number (from 1), recording and fields by name, with its times."""

    line: int
    id: str
    start: float
    end: float
    fields: Mapping[str, str]


def read_turns(path: str | Path) -> dict[str, tuple[Turn, ...]]:
    """Read the turns of every recording, in order of time; those of different speakers may overlap.

    The file is RTTM (NIST, RT-09 evaluation plan, appendix A: lines ``SPEAKER file channel start duration <NA> <NA>
    name ...``; comments begin with ``;;``; other record types are skipped, and channels are not told apart) or a table
    with a head: ``start``, ``end`` or ``duration`` (seconds), ``speaker`` and, where there are several recordings,
    ``id`` or ``recording``; separated by commas, semicolons or tabs. Which of them it is is seen from its content. A
    file that names no recording has its turns under ``""``. Turns of no length are left out.

    Raises ``InputError`` naming file and line for a time that is no number, not finite or negative, an end before its
    start, and a missing speaker.
    """
    return _collect(read_rows(path, "speaker"))


def parse_turns(text: str, name: str) -> dict[str, tuple[Turn, ...]]:
    """Return the same of the ``text`` of such a file; messages call it ``name``."""
    return _collect(parse_rows(text, Path(name), "speaker"))


def _collect(rows: Iterable[Row]) -> dict[str, tuple[Turn, ...]]:
    turns: dict[str, list[Turn]] = defaultdict(list)
    for row in rows:
        if row.end > row.start:
            turns[row.id].append(Turn(row.start, row.end, row.fields["speaker"]))
    return {id: tuple(sorted(found)) for id, found in turns.items()}


def read_rows(path: str | Path, name: str) -> Iterator[Row]:
    """Yield the timed lines of an RTTM file or a table; ``name`` is the field that says who, or what (never empty).

    Of RTTM the fields are ``name``, ``confidence`` and ``orthography``; of a table, its columns. Errors as
    :func:`read_turns`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not a text file: give RTTM, or a table with start, end and {name}") from error
    return parse_rows(text, path, name)


def parse_rows(text: str, path: Path, name: str) -> Iterator[Row]:
    """Yield the same of the ``text`` of such a file."""
    lines = text.splitlines()
    first = next((line.split() for line in lines if line.strip() and not line.startswith(";;")), None)
    if first is None:
        return iter(())
    return _read_rttm(path, lines, name) if first[0] in RTTM_TYPES else _read_table(path, text, name)


def _read_rttm(path: Path, lines: Iterable[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.lstrip().startswith(";;"):
            continue
        place = f"{path}:{number}"
        if words[0] not in RTTM_TYPES:
            raise InputError(f"{place}: {words[0]!r} is no record type of RTTM: begin the line with SPEAKER or ;;")
        if words[0] != "SPEAKER":
            continue
        if len(words) < 8:
            raise InputError(
                f"{place}: has {len(words)} fields, not 9: SPEAKER file channel start duration <NA> <NA> name <NA>"
            )
        words += [NOTHING] * (10 - len(words))
        if words[7] == NOTHING:
            raise InputError(f"{place}: names no speaker: put the name into the eighth field")
        start = _number(place, "start", words[3])
        length = _number(place, "duration", words[4])
        fields = {name: words[7], "confidence": words[8], "orthography": words[5]}
        known = {key: "" if value == NOTHING else value for key, value in fields.items()}
        yield Row(number, "" if words[1] == NOTHING else words[1], start, start + length, known)


def _read_table(path: Path, text: str, name: str) -> Iterator[Row]:
    reader = _open_table(path, text, name)
    columns = set(reader.fieldnames or ())
    end = "end" if "end" in columns else "duration"
    recording = next((column for column in ("id", "recording") if column in columns), None)
    for fields in reader:
        place = f"{path}:{reader.line_num}"
        if None in fields or None in fields.values():
            raise InputError(f"{place}: has more or fewer fields than the head: quote fields that hold a separator")
        fields = {column: value.strip() for column, value in fields.items()}
        if not fields[name]:
            raise InputError(f"{place}: {name} is empty: fill it in, or leave the line out")
        start, last = _number(place, "start", fields["start"]), _number(place, end, fields[end])
        last += start if end == "duration" else 0.0
        if last < start:
            raise InputError(f"{place}: ends at {last:g} s, before it starts at {start:g} s: exchange start and end")
        yield Row(reader.line_num, fields[recording] if recording else "", start, last, fields)


def _open_table(path: Path, text: str, name: str) -> csv.DictReader[Any]:
    """Return a reader of the lines below the head, whose names are in lower case; comments become empty lines."""
    lines = ["" if line.startswith(";;") else line for line in text.splitlines(keepends=True)]
    head = next(line for line in lines if line.strip())
    mark = next((mark for mark in DELIMITERS if mark in head), ",")
    reader = csv.DictReader(io.StringIO("".join(lines), newline=""), delimiter=mark)
    columns = [column.strip().lower() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    missing = [column for column in ("start", name) if column not in columns]
    missing += ["end (or duration)"] if not {"end", "duration"} & set(columns) else []
    if missing:
        raise InputError(
            f"{path}:{reader.line_num}: neither RTTM nor a table with {' and '.join(missing)}: "
            f"write a head such as id,start,end,{name}"
        )
    return reader


def _number(place: str, what: str, text: str) -> float:
    """Return seconds, or raise naming the line."""
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{place}: {what} {text!r} is not a number: write seconds, such as 12.34") from None
    if not 0 <= value < LONGEST:
        told = f"below {LONGEST:g}" if 0 <= value < math.inf else "finite and not negative"
        raise InputError(f"{place}: {what} {text} must be {told}, in seconds of the recording")
    return value
