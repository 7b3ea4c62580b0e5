"""fairseq's ``.tsv`` lists of recordings: the root on the first line, then ``relative path<TAB>number of samples``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serkit.data.audio import read_audio, read_info
from serkit.data.recordings import short_names
from serkit.errors import InputError


def is_fairseq(path: Path) -> bool:
    """Tell whether ``path`` is such a list: a table has tabs in its first line, this has none."""
    with path.open(encoding="utf-8-sig") as file:
        first, second = file.readline().strip("\r\n"), file.readline().strip("\r\n").split("\t")
    return "\t" not in first and len(second) == 2 and second[1].strip().isdecimal()


def read_root(path: Path) -> str:
    """Return the folder that the paths of a list are relative to; "", its own, where it is not fairseq's."""
    if path.suffix.lower() != ".tsv" or not is_fairseq(path):
        return ""
    with path.open(encoding="utf-8-sig") as file:
        return file.readline().strip()


def read_fairseq(path: Path) -> list[dict[str, Any]]:
    """Return ``id`` (the stem), ``audio`` (relative to the root) and ``samples`` of every recording.

    Raises ``ValueError`` naming the line that is none.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines()[1:], 2):
        name, tab, samples = line.partition("\t")
        if name and tab and samples.strip().isdecimal():
            rows.append({"audio": name, "samples": int(samples)})
        elif line.strip():
            raise ValueError(f"line {number}: expected 'path<TAB>samples', got {line!r}")
    ids = short_names([row["audio"] for row in rows])
    return [{"id": id, **row} for id, row in zip(ids, rows, strict=True)]


def write_fairseq(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """List the recordings of manifest ``rows``, with the samples that each file has, below the folder that holds all.

    The format has neither ids nor labels nor spans. Raises ``InputError`` for a span and for an unreadable recording.
    """
    lines, names = [], []
    for row in rows:
        if row["start"] or row["end"] is not None or row["audio"] is None:
            raise InputError(f"utterance {row['id']} is no whole recording: write .parquet, .csv or .jsonl")
        info = read_info(row["audio"])
        count = (
            len(read_audio(row["audio"], native=True)) if info.seconds is None else info.seconds * info.sampling_rate
        )
        names.append(os.path.abspath(row["audio"]))
        lines.append(round(count))
    root = os.path.commonpath([os.path.dirname(name) for name in names]) if names else str(path.parent.resolve())
    text = "".join(f"{os.path.relpath(name, root)}\t{count}\n" for name, count in zip(names, lines, strict=True))
    path.write_text(f"{root}\n{text}", encoding="utf-8")
