"""The manifest: one row per utterance, and the only form in which a corpus reaches the rest of serkit."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from serkit.data.audio import is_silent, read_audio, read_info
from serkit.data.fairseq_tsv import is_fairseq, read_fairseq, read_root, write_fairseq
from serkit.data.feature_columns import FEATURE_COLUMNS, split_feature, with_feature_files
from serkit.data.files import replace_atomically
from serkit.data.i3_csv import from_i3, is_i3, sniff_delimiter
from serkit.data.labels import LabelScheme
from serkit.data.published_csv import from_published, is_published
from serkit.data.recordings import find_recordings
from serkit.errors import AudioError, InputError

SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),  # unique in the manifest
    "audio": pl.String(),  # absolute path in memory; relative to the manifest's folder in files, where possible
    "start": pl.Float64(),  # seconds; null: from the beginning
    "end": pl.Float64(),  # seconds; null: to the end
    "corpus": pl.String(),
    "speaker": pl.String(),  # unique inside the corpus
    "session": pl.String(),
    "gender": pl.String(),  # female, male or null
    "language": pl.String(),  # ISO 639-1
    "text": pl.String(),
    "emotion": pl.String(),  # lower-case English class name
    "arousal": pl.Float64(),  # affect in [0, 1]
    "valence": pl.Float64(),
    "dominance": pl.Float64(),
    "part": pl.String(),  # train, dev, test or null
    "votes": pl.List(pl.String()),  # one label per annotator
}


@dataclass(frozen=True)
class Problem:
    """One finding of :meth:`Manifest.validate`: ``kind`` (a fixed word), the utterance ``id`` and a sentence."""

    kind: str
    id: str
    message: str

    def __str__(self) -> str:
        return f"{self.id}: {self.message}"


class Manifest:
    """A Polars table with the columns of :data:`SCHEMA` (extra columns are kept) and what one does with it.

    >>> manifest = Manifest.from_rows([{"id": "a", "audio": "a.wav", "emotion": "happy"}])
    >>> len(manifest), manifest.table["emotion"][0]
    (1, 'happy')
    """

    def __init__(self, table: pl.DataFrame) -> None:
        for column in ("id", "audio"):
            if column not in table.columns:
                raise InputError(f"manifest: has no column {column!r} (columns: {', '.join(table.columns)})")
        missing = [pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in table.columns]
        table = table.with_columns(missing)
        try:
            table = table.with_columns(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
        except pl.exceptions.PolarsError as error:
            raise InputError(f"manifest: a column has the wrong type: {str(error).splitlines()[0]}") from error
        self.table = table.select(*SCHEMA, *(name for name in table.columns if name not in SCHEMA))

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]]) -> Manifest:
        """Build a manifest from dictionaries; keys that a row lacks are null."""
        rows = list(rows)
        wrong = [row["votes"] for row in rows if not isinstance(row.get("votes"), list | tuple | None)]
        if wrong:  # Polars would make it null
            raise InputError(f"manifest: votes is {wrong[0]!r}, not a list of labels")
        known = {name: dtype for name, dtype in SCHEMA.items() if any(name in row for row in rows)}
        if not rows:
            return cls(pl.DataFrame(schema=SCHEMA))
        try:
            return cls(pl.DataFrame(rows, schema_overrides=known, infer_schema_length=None))
        except (pl.exceptions.PolarsError, TypeError) as error:
            raise InputError(f"manifest: {str(error).splitlines()[0]}") from error

    def __len__(self) -> int:
        return self.table.height

    @property
    def ids(self) -> list[str]:
        """The utterance ids, in row order."""
        return self.table["id"].to_list()

    # Reading and writing

    @classmethod
    def read(cls, path: str | Path, root: str | Path | None = None) -> Manifest:
        """Read Parquet, CSV (ours or a published one), TSV, JSONL (ours or EmoBox's) or a Kaldi ``wav.scp``.

        Published CSVs are known by their columns: ``file,emotion,text`` and ``path,class_id,actor,gender``. A TSV may
        be fairseq's list: ids are the stems of its paths, its counts the column ``samples``.
        Relative paths of audio and features are taken from the manifest's folder. With ``root`` the recordings are
        there instead: under the same relative path, or anywhere below it by file name. Raises ``InputError`` naming the
        file.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such manifest")
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path}: unknown manifest format {path.suffix!r} (known: {', '.join(_READERS)})")
        try:
            manifest = reader(path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (pl.exceptions.PolarsError, ValueError, OSError) as error:
            raise InputError(f"{path}: cannot be read as a manifest: {str(error).splitlines()[0]}") from error
        if root is None:
            base = path.parent.resolve() / read_root(path)
            audio = [os.path.normpath(base / name) if name else name for name in manifest.table["audio"]]
        else:
            audio = find_recordings(manifest.table["audio"], root, path)
        folder = path.parent.resolve()
        table = with_feature_files(manifest.table, lambda name: os.path.normpath(folder / name))
        return cls(table.with_columns(pl.Series("audio", audio, dtype=pl.String)))

    def write(self, path: str | Path) -> None:
        """Write Parquet, CSV, JSONL or fairseq's TSV (audio alone) by file name ending, atomically.

        Audio and features below the folder of the file become relative.
        """
        path = Path(path)
        root = path.parent.resolve()
        audio = [_relative(name, root) if name is not None else None for name in self.table["audio"]]
        table = with_feature_files(self.table, lambda name: _relative(name, root))
        table = table.with_columns(pl.Series("audio", audio, dtype=pl.String))
        writers: dict[str, Callable[[Path], object]] = {
            ".parquet": table.write_parquet,
            ".csv": lambda part: _with_votes_as_text(table).write_csv(part),
            ".jsonl": table.write_ndjson,
            ".tsv": lambda part: write_fairseq(part, self.table.iter_rows(named=True)),
        }
        if path.suffix.lower() not in writers:
            raise InputError(f"{path}: unknown manifest format {path.suffix!r} (known: {', '.join(writers)})")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as part:
            writers[path.suffix.lower()](part)

    # Selecting

    def select(self, ids: Iterable[str]) -> Manifest:
        """Return the utterances with these ids, in the order of ``ids``."""
        order = pl.DataFrame({"id": list(ids)}, schema={"id": pl.String})
        table = order.join(self.table, on="id", how="left", maintain_order="left")
        known = set(self.ids)
        lost = [id for id in order["id"] if id not in known]
        if lost:
            raise InputError(
                f"manifest: has no utterance {lost[0]!r}" + (f" (and {len(lost) - 1} more)" if lost[1:] else "")
            )
        return Manifest(table)

    def with_labels(self, scheme: LabelScheme) -> Manifest:
        """Apply ``scheme``: merge, drop, and raise ``InputError`` on labels that it does not know."""
        mapping = {raw: scheme.resolve(raw) for raw in self.table["emotion"].unique()}
        emotion = pl.Series("emotion", [mapping[raw] for raw in self.table["emotion"]], dtype=pl.String)
        return Manifest(self.table.with_columns(emotion).filter(pl.col("emotion").is_not_null()))

    @staticmethod
    def concat(manifests: Iterable[Manifest]) -> Manifest:
        """Stack manifests; columns that one lacks are null there."""
        return Manifest(pl.concat([manifest.table for manifest in manifests], how="diagonal_relaxed"))

    # Judging

    def describe(self) -> dict[str, Any]:
        """Return counts: utterances, hours (of spans or headers that can be read), speakers, and per column value."""
        seconds = [_seconds(row) for row in self.table.select("audio", "start", "end").iter_rows(named=True)]
        known = [value for value in seconds if value is not None]
        counts = {
            column: {str(key): count for key, count in self.table[column].value_counts().sort(column).iter_rows()}
            for column in ("emotion", "speaker", "session", "gender", "language", "part", "corpus")
            if self.table[column].null_count() < len(self)
        }
        speakers = self.table.filter(pl.col("speaker").is_not_null()).n_unique(["corpus", "speaker"])
        return {
            "utterances": len(self),
            "hours": sum(known) / 3600,
            "unreadable": len(seconds) - len(known),
            "speakers": speakers,
            "fingerprint": self.fingerprint(),
            "counts": counts,
        }

    def validate(self, read_audio: bool = False, scheme: LabelScheme | None = None) -> list[Problem]:
        """Return everything wrong with the manifest, in row order; an empty list means it is sound.

        Kinds: ``duplicate-id``, ``duplicate-audio`` (same file and span), ``missing-file``, ``unreadable``, ``span``,
        ``unknown-label``, ``affect`` (outside [0, 1]) and ``part``. Headers are always read; with ``read_audio`` every
        recording is decoded as well, which also finds truncated, non-finite and silent ones. An utterance without a
        recording is a problem unless :attr:`without_audio`, where it needs text or features instead.
        """
        seen: dict[str, int] = {}
        spans: dict[tuple, str] = {}
        unknown = set(scheme.unknown(self.table["emotion"])) if scheme else set()
        problems: list[Problem] = []
        given = [name for name in FEATURE_COLUMNS if name in self.table.columns]
        bare, instead = self.without_audio, ("text", *given)
        there: dict[str, bool] = {}

        for row in self.table.iter_rows(named=True):

            def report(kind: str, message: str, id: str = row["id"]) -> None:
                problems.append(Problem(kind, id, message))

            seen[row["id"]] = seen.get(row["id"], 0) + 1
            if seen[row["id"]] == 2:
                report("duplicate-id", "the id stands more than once: ids must be unique")
            span = (row["audio"], row["start"], row["end"])
            if row["audio"] is not None and span in spans:
                report("duplicate-audio", f"{row['audio']}: same file and span as utterance {spans[span]}")
            spans.setdefault(span, row["id"])
            if scheme and row["emotion"] in unknown:
                report("unknown-label", f"label {row['emotion']!r} is not in the scheme {scheme.name!r}")
            for name in ("arousal", "valence", "dominance"):
                if row[name] is not None and not 0 <= row[name] <= 1:
                    report("affect", f"{name} is {row[name]}, outside [0, 1]")
            if row["part"] not in (None, "train", "dev", "test"):
                report("part", f"part is {row['part']!r}: use train, dev, test or nothing")
            for name in given:
                file = split_feature(row[name])[0] if isinstance(row[name], str) else None
                if file is not None and not there.setdefault(file, Path(file).exists()):
                    report("missing-file", f"{name}: {file}: no such file")
            if not (bare and any(row[name] is not None for name in instead)):
                _check_audio(row, read_audio, report)
        return problems

    @property
    def without_audio(self) -> bool:
        """Whether no utterance has a recording: then the manifest is one of text, of features, or of both."""
        return self.table["audio"].null_count() == len(self)

    def fingerprint(self) -> str:
        """Return a short hash of every row and column, file names in place of paths: it names the data of a run."""
        table = with_feature_files(self.table, lambda name: re.split(r"[/\\]", name)[-1])
        rows = table.with_columns(pl.col("audio").str.extract(r"([^/\\]+)$", 1)).iter_rows(named=True)
        lines = sorted(json.dumps(row, sort_keys=True, default=str, ensure_ascii=False) for row in rows)
        return hashlib.blake2b("".join(lines).encode(), digest_size=8).hexdigest()


def _check_audio(row: dict[str, Any], decode: bool, report: Callable[[str, str], None]) -> None:
    start, end = row["start"] or 0.0, row["end"]
    if row["audio"] is None:
        return report("missing-file", "has no audio")
    if not Path(row["audio"]).exists():
        return report("missing-file", f"{row['audio']}: no such file")
    if start < 0 or (end is not None and end <= start):
        return report("span", f"{row['audio']}: the span {start}-{end} s is not a span")
    try:
        seconds = read_info(row["audio"]).seconds
        if seconds is not None and (start >= seconds or (end or 0.0) > seconds + 0.01):
            return report(
                "span", f"{row['audio']}: the span {start}-{end} s lies outside the file, which has {seconds:.3f} s"
            )
        if decode and is_silent(read_audio(row["audio"], row["start"], end)):
            report("silent", f"{row['audio']}: is silent")
    except AudioError as error:
        report("unreadable", str(error))
    return None


def _seconds(row: dict[str, Any]) -> float | None:
    if row["end"] is not None:
        return row["end"] - (row["start"] or 0.0)
    if row["audio"] is None:
        return None
    try:
        seconds = read_info(row["audio"]).seconds
    except AudioError:
        return None
    return None if seconds is None else seconds - (row["start"] or 0.0)


def _relative(name: str, root: Path) -> str:
    path = Path(os.path.abspath(name))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _with_votes_as_text(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col("votes").list.join(";"))


def _read_table(separator: str) -> Callable[[Path], Manifest]:
    def read(path: Path) -> Manifest:
        # Ids and speakers such as 01 are names, not numbers: everything is read as text and cast by the schema.
        table = pl.read_csv(path, separator=sniff_delimiter(path, separator), infer_schema=False)
        if "votes" in table.columns:
            table = table.with_columns(pl.col("votes").str.split(";").list.filter(pl.element() != ""))
        if is_i3(table.columns):
            return Manifest(from_i3(table))
        return Manifest(from_published(table) if is_published(table) else table)

    return read


def _read_jsonl(path: Path) -> Manifest:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise InputError(f"line {number} is not a JSON object")
        rows.append(_from_emobox(row) if "key" in row and "wav" in row else row)
    return Manifest.from_rows(rows)


def _from_emobox(row: dict[str, Any]) -> dict[str, Any]:
    """Translate one line of EmoBox (key, dataset, wav, emo, ...) into ours; what has no column of ours is kept."""
    names = {"key": "id", "wav": "audio", "dataset": "corpus", "emo": "emotion"}
    renamed = {names.get(key, key): value for key, value in row.items()}
    if isinstance(renamed.get("emotion"), str):
        renamed["emotion"] = EMOBOX_CLASSES.get(renamed["emotion"], renamed["emotion"].lower())
    return renamed


EMOBOX_CLASSES = {
    "Angry": "angry",
    "Boredom": "bored",
    "Calm": "calm",
    "Disgust": "disgusted",
    "Excited": "excited",
    "Fear": "fearful",
    "Frustration": "frustrated",
    "Happy": "happy",
    "Neutral": "neutral",
    "Other": "other",
    "Sad": "sad",
    "Surprise": "surprised",
}
"""EmoBox's common labels in our class names."""


def _read_scp(path: Path) -> Manifest:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        id, *audio = line.strip().split(maxsplit=1)
        if not audio:
            raise InputError(f"line {number}: expected 'id path', got {id!r}")
        if audio[0].endswith("|"):
            raise InputError(f"line {number}: pipes are not run: convert {id!r} to a file first")
        rows.append({"id": id, "audio": audio[0]})
    return Manifest.from_rows(rows)


_READERS: dict[str, Callable[[Path], Manifest]] = {
    ".parquet": lambda path: Manifest(pl.read_parquet(path)),
    ".csv": _read_table(","),
    ".tsv": lambda path: Manifest.from_rows(read_fairseq(path)) if is_fairseq(path) else _read_table("\t")(path),
    ".jsonl": _read_jsonl,
    ".scp": _read_scp,
}

MANIFEST_SUFFIXES = frozenset(_READERS)
"""File name endings that :meth:`Manifest.read` knows."""
