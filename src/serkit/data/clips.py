"""What the user named on the command line as single clips: files, folders, globs, wav.scp lists and manifests.

Works in the base installation: only Parquet manifests need Polars.
"""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.data.audio import EXTENSIONS
from serkit.data.fairseq_tsv import is_fairseq, read_fairseq, read_root
from serkit.data.recordings import find_recordings
from serkit.errors import InputError, missing_extra


@dataclass(frozen=True)
class Clip:
    """A recording, or the part of it from ``start`` to ``end`` seconds, under an ``id``; ``text`` is what is said.

    ``audio`` is None where there is a text alone.
    """

    id: str
    audio: str | None
    start: float | None = None
    end: float | None = None
    text: str | None = None


def find_clips(names: Iterable[str | Path], root: str | Path | None = None) -> Iterator[Clip]:
    """Yield the clips behind ``names``, in order; folders are searched for recordings, in sorted order.

    The recordings of a list are below ``root`` when it is given (:func:`~serkit.data.recordings.find_recordings`). Its
    column ``text`` says what is spoken; where there is a text, there need be no recording.
    A missing file is yielded as a clip, so that it is reported beside the others. Raises ``InputError`` for a list that
    cannot be read, an empty folder and a glob that matches nothing.
    """
    for name in map(str, names):
        path = Path(name).expanduser()
        if path.is_dir():
            yield from _from_folder(path)
        elif path.suffix.lower() in _LISTS:
            if not path.is_file():
                raise InputError(f"{path}: no such file")
            yield from _from_list(path, root)
        elif not path.exists() and glob.has_magic(name):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise InputError(f"{name}: matches no file")
            yield from find_clips(matches, root)
        else:
            yield Clip(str(path), str(path))


def _from_folder(folder: Path) -> Iterator[Clip]:
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise InputError(f"{folder}: holds no recording")
    yield from (Clip(str(path), str(path)) for path in found)


def _from_list(path: Path, root: str | Path | None) -> Iterator[Clip]:
    try:
        rows = list(_LISTS[path.suffix.lower()](path))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not rows:
        raise InputError(f"{path}: lists no recording")
    named = [row.get("audio") or row.get("wav") or row.get("file") or row.get("path") for row in rows]
    places = [audio and str(path.parent / read_root(path) / str(audio)) for audio in named]
    if root is not None:
        places = find_recordings([str(audio) if audio else None for audio in named], root, path)
    for number, (row, audio, place) in enumerate(zip(rows, named, places, strict=True), 1):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            text = None
        if not audio and text is None:
            raise InputError(f"{path}: row {number} names no recording (expected a column audio)")
        id = row.get("id") or row.get("key") or audio or f"{path.name}:{number}"
        try:
            start, end = (None if row.get(key) in (None, "") else float(row[key]) for key in ("start", "end"))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: row {number}: start and end are seconds: {error}") from error
        yield Clip(str(id), str(place) if audio else None, start, end, text)


def _read_tsv(path: Path) -> Iterable[dict[str, Any]]:
    return read_fairseq(path) if is_fairseq(path) else _read_csv(path)


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            row = json.loads(line)
            yield row if isinstance(row, dict) else {}


def _read_scp(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=1)
        if fields:
            yield {"id": fields[0], "audio": fields[1].strip() if fields[1:] else None}


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import polars
    except ImportError as error:
        raise missing_extra("polars", "train") from error
    try:
        yield from polars.read_parquet(path).iter_rows(named=True)
    except polars.exceptions.PolarsError as error:
        raise ValueError(str(error)) from error


_LISTS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, ".scp": _read_scp, ".parquet": _read_parquet}
