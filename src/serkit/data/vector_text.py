"""Word vectors as text: one word and its E numbers a line, parted by single spaces or tabs.

GloVe writes nothing else, word2vec and fastText a first line "V E". A word may itself hold spaces (". . ." in GloVe
840B): it is what stands before the last E numbers.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from serkit.errors import InputError

FIRST_LINES = 100
LONGEST = 2**20
"""Bytes: no line of word vectors is longer."""

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Head:
    """What the first lines say: ``dim`` (E) numbers a word, after ``header`` (0 or 1) lines of another kind."""

    dim: int
    header: int


def read_head(path: Path) -> Head:
    """Find out how many numbers stand on a line: as many as on most of the first hundred.

    Raises ``InputError`` for archives, binary files and texts of another kind.
    """
    lines: list[bytes] = []
    with open_vectors(path) as file:
        while len(lines) < FIRST_LINES and (line := file.readline(LONGEST)):
            if b"\0" in line or len(line) == LONGEST:
                raise InputError(f"{path}: is not text: unpack an archive, save word2vec's binary format as text")
            lines.append(_trim(line))
    widths = [_count_numbers(line.split(b" ")) for line in lines]
    first = lines[0].split(b" ") if lines else []
    if len(first) == 2 and all(field.isdigit() for field in first) and _most_common(widths[1:]) == int(first[1]):
        return Head(int(first[1]), 1)
    if not _most_common(widths):
        raise InputError(f"{path}: holds no word vectors: expected a word and its numbers on every line")
    return Head(_most_common(widths), 0)


def find_rows(path: Path, head: Head, words: Collection[str]) -> dict[str, np.ndarray]:
    """Return the vectors (E,) float32 of those ``words`` that stand in the file; of equal words the first counts.

    Raises ``InputError`` naming the first line that holds too few or too many numbers, or, where its word is asked for,
    something that is no number.
    """
    wanted = {word.encode(): word for word in words}
    beginnings = {word.partition(b" ")[0] for word in wanted}
    found: dict[str, np.ndarray] = {}
    with open_vectors(path) as file:
        for number, line in enumerate(file, 1):
            line = _trim(line)
            spaces = line.count(b" ")
            if number <= head.header or not line:
                continue
            if spaces != head.dim:
                _check_width(path, number, line, head.dim)
            if line[: line.find(b" ")] not in beginnings:
                continue
            fields = line.rsplit(b" ", head.dim)
            word = wanted.get(fields[0])
            if word is not None and word not in found:
                found[word] = _parse(path, number, fields[1:])
    return found


@contextmanager
def open_vectors(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, or the content of a gzipped one, after a byte order mark; damage raises ``InputError``."""
    try:
        with path.open("rb") as file:
            content: Any = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
            if content.peek(3)[:3] == BOM:
                content.read(3)
            yield content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as word vectors: {error}") from error


def _trim(line: bytes) -> bytes:
    return line.replace(b"\t", b" ").rstrip()


def _count_numbers(fields: list[bytes]) -> int:
    """Return how many fields at the end are numbers; the first is a word, whatever it looks like."""
    count = 0
    while count < len(fields) - 1 and _is_number(fields[-1 - count]):
        count += 1
    return count


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _most_common(widths: list[int]) -> int:
    return Counter(filter(None, widths)).most_common(1)[0][0] if any(widths) else 0


def _check_width(path: Path, number: int, line: bytes, dim: int) -> None:
    """Refuse a line with another count of numbers; a word with spaces is followed by the right count."""
    count = _count_numbers(line.split(b" "))
    if count != dim:
        raise InputError(f"{path}: line {number}: {count} numbers after the word, other lines have {dim}")


def _parse(path: Path, number: int, fields: list[bytes]) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            row = np.array([float(field) for field in fields], np.float32)
    except ValueError as error:
        raise InputError(f"{path}: line {number}: {error}") from error
    if not np.isfinite(row).all():
        raise InputError(f"{path}: line {number}: a number is not finite")
    return row
