"""Corpora: one leaf per corpus, from the folder as its authors ship it to a manifest.

A leaf is a module of this package with a :class:`Corpus` named ``CORPUS``; being there is all it takes to be found.
"""

from __future__ import annotations

import csv
import importlib
import io
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from serkit.data.audio import EXTENSIONS
from serkit.data.manifest import Manifest
from serkit.errors import InputError, nearest


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus before one has it.

    ``read`` takes the root folder and yields one dictionary per utterance with manifest columns; file names may have
    any audio extension. ``utterances`` and ``speakers`` are those of the complete corpus. ``source`` is its paper.
    """

    name: str
    title: str
    language: str
    utterances: int
    speakers: int
    licence: str
    source: str
    layout: str
    read: Callable[[Path], Iterator[dict[str, Any]]]


@cache
def _corpora() -> dict[str, Corpus]:
    found = [importlib.import_module(f"{__name__}.{leaf.name}").CORPUS for leaf in pkgutil.iter_modules(__path__)]
    return {corpus.name: corpus for corpus in found}


def list_corpora() -> list[Corpus]:
    """Return every corpus that serkit reads, by name."""
    return [corpus for _, corpus in sorted(_corpora().items())]


def find_corpus(name: str) -> Corpus:
    """Return the corpus called ``name``; raise ``InputError`` with the nearest name otherwise."""
    if name in _corpora():
        return _corpora()[name]
    raise InputError(f"no corpus named {name!r}{nearest(name, sorted(_corpora()))}")


def prepare_corpus(name: str, root: str | Path) -> Manifest:
    """Read the corpus ``name`` from its folder ``root`` into a manifest, sorted by id.

    Raises ``InputError`` when the folder is missing or holds nothing of that corpus.
    """
    corpus, root = find_corpus(name), Path(root).expanduser().resolve()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {corpus.title} is expected as {corpus.layout}")
    rows = [{"corpus": corpus.name, "language": corpus.language, **row} for row in corpus.read(root)]
    if not rows:
        raise InputError(f"{root}: holds no utterance of {corpus.title}, expected as {corpus.layout}")
    return Manifest.from_rows(sorted(rows, key=lambda row: row["id"]))


def recordings(root: Path) -> Iterator[Path]:
    """Yield every recording below ``root``, sorted, whatever its audio extension; hidden files are left out."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            yield path


def find_table(root: Path, *names: str) -> Path | None:
    """Return the file below ``root`` with the first of ``names`` that is there; of several, the one least deep."""
    for name in names:
        found = sorted(root.rglob(name), key=lambda path: (len(path.parts), path))
        if found:
            return found[0]
    return None


def read_rows(path: Path, *columns: str, separator: str = ",") -> list[dict[str, str]]:
    """Read a table with a header, every value as text without blanks around it; raise unless it has ``columns``.

    The text is UTF-8, with or without a byte order mark, or else Windows-1252.
    """
    reader = csv.DictReader(io.StringIO(decode(path.read_bytes(), "cp1252"), newline=""), delimiter=separator)
    found = [name.strip() for name in reader.fieldnames or ()]
    lost = [name for name in columns if name not in found]
    if lost:
        raise InputError(f"{path}: has no column {lost[0]!r} (columns: {', '.join(found)[:200]})")
    return [{str(name).strip(): (value or "").strip() for name, value in row.items() if name} for row in reader]


def decode(data: bytes, otherwise: str) -> str:
    """Decode UTF-8 or, by their byte order mark, UTF-16; what is neither is taken for ``otherwise``."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode(otherwise, errors="replace")


def look_up(names: Mapping[str, str], label: str, file: Path, what: str = "label") -> str:
    """Return ``names[label]``; raise an ``InputError`` that names ``file`` when there is no such label."""
    if label not in names:
        raise InputError(f"{file}: unknown {what} {label!r} (known: {', '.join(names)})")
    return names[label]
