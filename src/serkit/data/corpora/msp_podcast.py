"""MSP-Podcast: turns from podcasts, judged by many listeners."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, decode, find_table, look_up, read_rows, recordings
from serkit.errors import InputError

EMOTIONS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprised",
    "F": "fearful",
    "D": "disgusted",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": "undecided",  # no label had a majority
}
PARTS = {
    "Train": "train",
    "Development": "dev",
    "Validation": "dev",  # what releases before 1.9 call it
    "Test1": "test",
    "Test2": "test",
    "Test3": "test",
}
AFFECT = {"arousal": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}
# early releases spell concensus
TABLES = ("labels_consensus.csv", "labels_consensus.json", "labels_concensus.csv", "labels_concensus.json")
PARTITIONS = ("Partitions.txt", "Partition.txt", "partitions.txt")
NAME = re.compile(r"MSP-PODCAST_\d+_\d+(?:_\d+)?")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield every turn that has a recording; ``partition`` (Train, Development, Test1, ...) is an extra column.

    ``part`` is train, dev or test; all test sets are test, so choose by ``partition``. They share speakers with one
    another. Affect is (x - 1) / 6 of the mean on the 1-7 scale, clipped to [0, 1]. Speakers and genders that are
    "Unknown" are empty, ``text`` is from ``Transcripts``. Recordings that only ``Partitions.txt`` names (the labels of
    Test3 are not public) have no labels; those in neither are left out, as are labelled turns without a recording:
    warnings count them. Raises ``InputError`` when the labels are missing, or for an unknown label or partition.
    """
    found = {path.stem: path for path in recordings(root) if NAME.fullmatch(path.stem)}
    if not found:
        return
    table = find_table(root, *TABLES)
    if table is None:
        raise InputError(f"{root}: no Labels/labels_consensus.csv or .json below: {len(found)} turns have no labels")
    labels = dict(_read_labels(table))
    listed = find_table(root, *PARTITIONS)
    partitions = dict(_read_partitions(listed)) if listed else {}
    texts = {path.stem: path for path in sorted(root.rglob("MSP-PODCAST_*.txt")) if NAME.fullmatch(path.stem)}
    _warn(root, "labelled turns have no recording", labels.keys() - found.keys())
    _warn(root, f"recordings are not in {table.name}", found.keys() - labels.keys() - partitions.keys())
    for id, path in sorted(found.items()):
        if id not in labels and id not in partitions:
            continue
        row = labels.get(id, {})
        partition = row.get("Split_Set") or partitions[id]
        yield {
            "id": id,
            "audio": str(path),
            "speaker": _known(row.get("SpkrID")),
            "gender": (_known(row.get("Gender")) or "").lower() or None,
            "text": decode(texts[id].read_bytes(), "cp1252").strip() if id in texts else None,
            "emotion": look_up(EMOTIONS, row["EmoClass"], table) if row else None,
            **{name: _affect(row, column, id, table) for name, column in AFFECT.items()},
            "part": look_up(PARTS, partition, table if row else listed or table, "partition"),
            "partition": partition,
        }


def _read_labels(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    columns = ("EmoClass", *AFFECT.values(), "SpkrID", "Gender", "Split_Set")
    if table.suffix == ".csv":
        for row in read_rows(table, "FileName", *columns):
            yield Path(row["FileName"]).stem, row
        return
    try:
        turns = json.loads(table.read_text(encoding="utf-8"))
        rows = {Path(name).stem: {key: str(value).strip() for key, value in row.items()} for name, row in turns.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f"{table}: is not a JSON object of turns") from error
    for id, row in rows.items():
        lost = [name for name in columns if name not in row]
        if lost:
            raise InputError(f"{table}: turn {id} has no {lost[0]!r}")
        yield id, row


def _read_partitions(file: Path) -> Iterator[tuple[str, str]]:
    for line in decode(file.read_bytes(), "cp1252").splitlines():
        partition, separator, name = line.partition(";")
        if separator:
            yield Path(name.strip()).stem, partition.strip()


def _known(value: str | None) -> str | None:
    return None if value in (None, "", "Unknown") else value


def _affect(row: dict[str, str], column: str, id: str, table: Path) -> float | None:
    if not row.get(column):
        return None
    try:
        return min(max((float(row[column]) - 1) / 6, 0.0), 1.0)
    except ValueError as error:
        raise InputError(f"{table}: turn {id} has {column} {row[column]!r}, not a number") from error


def _warn(root: Path, what: str, ids: set[str]) -> None:
    if ids:
        warnings.warn(f"{root}: {len(ids)} {what}, the first is {min(ids)}", stacklevel=3)


CORPUS = Corpus(
    name="msppodcast",
    title="MSP-Podcast",
    language="en",
    # Release 1.11: speakers of Train, Development and Test1; the other test sets share speakers with Test1.
    utterances=151_654,
    speakers=1409 + 454 + 237,
    licence="UTD licence agreement, academic or commercial",
    source="Lotfian and Busso 2019, https://doi.org/10.1109/TAFFC.2017.2736999",
    layout="Audios/MSP-PODCAST_0001_0008.wav and Labels/labels_consensus.csv or .json",
    read=read,
)
