"""The CSV ``path,class_id,actor,gender`` of https://github.com/wilke0818/i3_speech_emotion_recognition, both ways."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from serkit.data.files import replace_atomically
from serkit.errors import InputError

if TYPE_CHECKING:
    from serkit.data.manifest import Manifest

WORDS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "joy": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
}
"""The classes of Emozionalmente and EMOVO as the format names them, in ours."""

ITALIAN = {
    "rabbia": "angry",
    "disgusto": "disgusted",
    "paura": "fearful",
    "gioia": "happy",
    "neutralità": "neutral",
    "neutro": "neutral",
    "tristezza": "sad",
    "sorpresa": "surprised",
}
"""Italian class names in ours; written again they become the English words of the format."""

COLUMNS = {"path": "audio", "class_id": "emotion", "actor": "speaker", "gender": "gender"}
"""The format's columns and ours, in the order in which they are written."""

DELIMITERS = ";,\t"

SPLIT_FILES = {"train": "train.csv", "dev": "val.csv", "test": "test.csv"}
"""What the files of a split are called."""


def is_i3(columns: Iterable[str]) -> bool:
    """Say whether a table with ``columns`` is of this format; the class may stand in ``emotion``, as for EMOVO."""
    names = set(columns)
    return {"path", "actor", "gender"} <= names and bool({"class_id", "emotion"} & names) and "audio" not in names


def sniff_delimiter(path: Path, otherwise: str) -> str:
    """Return which of ``; , TAB`` makes the head of the file that of this format; ``otherwise`` where none does."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
    return next((mark for mark in DELIMITERS if is_i3(next(csv.reader([head], delimiter=mark), ()))), otherwise)


def from_i3(table: pl.DataFrame) -> pl.DataFrame:
    """Turn a table of this format (all text) into manifest columns; further columns are kept.

    The id is the file's stem, unless there is a column ``id``. Known class names become ours, others stay. A gender is
    ``female``, ``male`` (in any case) or null: the original leaves other speakers out, here they stay. Of the corpus
    nothing is known unless a column says it. Raises ``InputError`` for two files of one name.
    """
    kind = "class_id" if "class_id" in table.columns else "emotion"
    names = {"path": "audio", kind: "emotion", "actor": "speaker"}
    given = [name for name in ("emotion", "speaker") if name in table.columns and name not in names]
    table = table.rename({name: f"{name}_given" for name in given} | names)
    if "id" not in table.columns:
        table = table.with_columns(_stem(pl.col("audio")).alias("id"))
        clash = table.unique(["id", "audio"]).filter(pl.col("id").is_duplicated())["audio"].sort()
        if len(clash):
            raise InputError(f"{clash[0]} and {clash[1]} have one name: add a column id")
    word, gender = pl.col("emotion").str.strip_chars(), pl.col("gender").str.strip_chars().str.to_lowercase()
    known = word.str.to_lowercase().replace_strict({**WORDS, **ITALIAN}, default=None, return_dtype=pl.String)
    return table.with_columns(
        emotion=pl.coalesce(known, word), gender=pl.when(gender.is_in(["female", "male"])).then(gender)
    )


def word_of(emotion: str) -> str:
    """Return a class of ours in the format's words; one that it does not know stays."""
    return {ours: word for word, ours in WORDS.items()}.get(emotion, emotion)


def write_i3_csv(manifest: Manifest, path: str | Path, delimiter: str = "\t", base: str | Path | None = None) -> None:
    """Write the format's four columns, then whatever else the manifest knows; classes in the format's words.

    Paths are absolute, because the original takes them from where it is started; recordings below ``base`` are named
    relative to it. What is not known is empty. Raises ``InputError`` for what the format cannot say: an utterance
    without recording, a span of a recording; and for another delimiter than ``; , TAB``.
    """
    if delimiter not in tuple(DELIMITERS):
        raise InputError(f"{path}: the delimiter is one of ; , TAB, got {delimiter!r}")
    _write(manifest.table, Path(path), _further(manifest.table), delimiter, base)


def write_split(manifest: Manifest, parts: Mapping[str, Sequence[str]], folder: str | Path) -> list[Path]:
    """Write the ids of ``parts`` (train, dev, test) into ``folder`` as train.csv, val.csv and test.csv; return them.

    All three have the same columns. A part without utterances is a file with a head only, because the original opens
    all three.
    """
    further, paths = _further(manifest.table), []
    for part, name in SPLIT_FILES.items():
        paths.append(Path(folder) / name)
        _write(manifest.select(parts[part]).table, paths[-1], further)
    return paths


def _further(table: pl.DataFrame) -> list[str]:
    """Return the columns beside the format's own that say something; ids that the names of files tell do not."""
    told = table["id"].to_list() == table.select(_stem(pl.col("audio")))["audio"].to_list()
    unsaid = {*COLUMNS.values(), "start", "end", "part", *(["id"] if told else [])}
    return [name for name in table.columns if name not in unsaid and table[name].null_count() < table.height]


def _write(
    table: pl.DataFrame, path: Path, further: list[str], delimiter: str = "\t", base: str | Path | None = None
) -> None:
    unsaid = table.filter(pl.col("audio").is_null() | pl.col("start").is_not_null() | pl.col("end").is_not_null())
    if unsaid.height:
        why = "has no recording" if unsaid["audio"][0] is None else "is a part of a recording"
        raise InputError(f"{path}: utterance {unsaid['id'][0]!r} {why}, which path,class_id,actor,gender cannot say")
    root = None if base is None else Path(base).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*COLUMNS, *further])
        for row in table.iter_rows(named=True):
            fields = (_place(row["audio"], root), word_of(row["emotion"] or ""), row["speaker"], row["gender"])
            writer.writerow([*fields, *(_cell(row[name]) for name in further)])


def _stem(column: pl.Expr) -> pl.Expr:
    return column.str.extract(r"([^/\\]+?)(?:\.\w+)?$", 1)


def _place(name: str, root: Path | None) -> str:
    return Path(name).relative_to(root).as_posix() if root is not None and Path(name).is_relative_to(root) else name


def _cell(value: Any) -> Any:
    return ";".join(value) if isinstance(value, list) else value
