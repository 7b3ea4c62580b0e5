"""Emozionalmente, crowd-sourced emotional speech in Italian."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, find_table, look_up, read_rows, recordings
from serkit.data.i3_csv import WORDS
from serkit.errors import InputError

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}
PART_COLUMNS = ("split", "set", "part", "partition")
TAKEN = ("file_name", "sentence", "actor", "emotion_expressed", "username", "gender")  # columns of ours
TABLES = ("samples.csv", "users.csv", "evaluations.csv", "metadata.csv")
SPLITS = "train_test_validation"  # where the code of Wilke et al. keeps splits of its own, one for each seed
MADE = ("new_file_name", "path", "class_id", *PART_COLUMNS)  # columns that say again what others say
# gender - actor - emotion - file, where the set-up of Wilke et al. renamed it; otherwise the time it was made
NAME = re.compile(r"(?:([a-z]+)____(\w+?)____([a-z]+)____)?(\d{13})")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; the other columns of the tables (age, mother_tongue, ...) are extra columns.

    Labels are what the actors meant; ``votes`` is what the listeners of ``evaluations.csv`` heard. They come from
    ``metadata/samples.csv`` and ``users.csv``, or, for recordings that are named
    ``<gender>____<actor>____<emotion>____<file>``, from their names and the tab-separated ``metadata.csv`` beside them.

    ``part`` is the split by speakers that version 1.1 ships. What is known of it is that it is one CSV table for each
    part; their names could not be seen, so any table counts whose name has one of train, dev (val) and test in it, or
    that has a column split, set, part or partition, if one of its columns names recordings or actors. Such a column of
    samples.csv or users.csv counts as well. Version 1.0 has no split, and its tables were read in full.

    Raises ``InputError`` naming the table for an unknown label, actor or part, a recording in two parts, and a
    recording that no table names.
    """
    found: dict[str, tuple[Path, re.Match[str]]] = {}
    for path in recordings(root):
        if match := NAME.fullmatch(path.stem):
            found.setdefault(match[4], (path, match))
    if not found:
        return
    table, samples = _read_samples(root)
    users_table = find_table(root, "users.csv")
    users = {row["username"]: row for row in read_rows(users_table, "username", "gender")} if users_table else {}
    votes = _read_votes(root)
    parts = _read_parts(root, samples, {row["actor"] for row in samples.values()})
    for id, (path, match) in found.items():
        row = {**_named(match), **samples.get(id, {})}
        if "actor" not in row:
            where = f"not in {table}" if table else f"no metadata/samples.csv below {root}"
            raise InputError(f"{path}: {where}: it has no label")
        if users_table and row["actor"] not in users:
            raise InputError(f"{users_table}: has no actor {row['actor']!r}, who speaks {path.name}")
        row |= users.get(row["actor"], {})
        part = next((row[name].lower() for name in PART_COLUMNS if row.get(name)), None)
        yield {
            "id": id,
            "audio": str(path),
            "speaker": row["actor"],
            "gender": row["gender"] if row.get("gender") in ("female", "male") else None,
            "text": row.get("sentence"),
            "emotion": look_up(WORDS, row["emotion_expressed"], table or path),
            "part": look_up(PARTS, part, table or path, "part") if part else parts.get(id) or parts.get(row["actor"]),
            "votes": votes.get(id),
            **{name: value for name, value in row.items() if name not in TAKEN + MADE},
        }


def _named(match: re.Match[str]) -> dict[str, str]:
    gender, actor, emotion, _ = match.groups()
    return {"gender": gender, "actor": actor, "emotion_expressed": emotion} if actor else {}


def _read_samples(root: Path) -> tuple[Path | None, dict[str, dict[str, str]]]:
    """Return the table of the recordings and its rows by the recordings' names."""
    columns = ("file_name", "actor", "emotion_expressed")
    if table := find_table(root, "samples.csv"):
        rows = read_rows(table, *columns)
    elif table := find_table(root, "metadata.csv"):
        rows = read_rows(table, *columns, separator="\t")
    else:
        return None, {}
    return table, {Path(row["file_name"]).stem: row for row in rows}


def _read_votes(root: Path) -> dict[str, list[str]]:
    votes: dict[str, list[str]] = {}
    if table := find_table(root, "evaluations.csv"):
        for row in read_rows(table, "file_name", "emotion_recognized"):
            heard = look_up(WORDS, row["emotion_recognized"], table)
            votes.setdefault(Path(row["file_name"]).stem, []).append(heard)
    return votes


def _read_parts(root: Path, samples: dict[str, Any], actors: set[str]) -> dict[str, str]:
    """Return the part of each recording or actor, by the tables that have such a column or are named after a part."""
    parts: dict[str, str] = {}
    for table in sorted(root.rglob("*.csv")):
        if table.name in TABLES or SPLITS in table.parts:
            continue
        named = {PARTS[word] for word in re.split(r"[^a-z]+", table.stem.lower()) if word in PARTS}
        rows = read_rows(table)
        columns = list(rows[0]) if rows else []
        said = next((name for name in PART_COLUMNS if name in columns), None)
        if said is None and len(named) != 1:
            continue
        keys = [name for name in columns if {Path(row[name]).stem for row in rows} <= samples.keys() | actors]
        if not keys:
            raise InputError(f"{table}: no column names the recordings or the actors of its parts")
        for row in rows:
            name = Path(row[keys[0]]).stem
            part = look_up(PARTS, row[said].lower(), table, "part") if said else min(named)
            if parts.setdefault(name, part) != part:
                raise InputError(f"{table}: {name} is in the part {part}, but elsewhere in {parts[name]}")
    return parts


CORPUS = Corpus(
    name="emozionalmente",
    title="Emozionalmente",
    language="it",
    utterances=6902,
    speakers=431,
    licence="CC BY 4.0",
    source="Catania et al. 2025, https://doi.org/10.1109/TASLPRO.2025.3540662",
    layout="audio/1612871026347.wav with metadata/samples.csv and metadata/users.csv",
    read=read,
)
