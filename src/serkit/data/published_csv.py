"""The CSV ``file,emotion,text`` of Cai et al. 2021, https://github.com/TideDancer/interspeech21_emotion, both ways."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import polars as pl

from serkit.data.files import write_text
from serkit.data.recordings import PLACEHOLDER
from serkit.errors import InputError

if TYPE_CHECKING:
    from serkit.data.manifest import Manifest

EMOTIONS = {"e0": "neutral", "e1": "happy", "e2": "angry", "e3": "sad"}
"""The paper's codes; happy takes excited in."""


def is_published(table: pl.DataFrame) -> bool:
    """Say whether a table has the columns of the published CSV, and none of ours in their place."""
    return {"file", "emotion"} <= set(table.columns) and "audio" not in table.columns


def from_published(table: pl.DataFrame) -> pl.DataFrame:
    """Turn a published table (all text) into manifest columns.

    The id is the file's stem, unless there is a column ``id``; codes become class names, names stay. Names of IEMOCAP
    (``Ses01F_impro01_F000``) tell the speaker, who is who talks, not who wears the markers as the file name says first,
    and session, gender, ``recording`` and ``scenario``; of other files nothing is known, not even the corpus, except
    what further columns say. Raises ``InputError`` for two files of one name.
    """
    from serkit.data.corpora.iemocap import CORPUS, read_name

    table = table.rename({"file": "audio"})
    if "id" not in table.columns:
        table = table.with_columns(pl.col("audio").str.extract(r"([^/\\]+?)(?:\.\w+)?$", 1).alias("id"))
        clash = table.unique(["id", "audio"]).filter(pl.col("id").is_duplicated())["audio"].sort()
        if len(clash):
            raise InputError(f"{clash[0]} and {clash[1]} have one name: add a column id")
    facts = [
        {**known, "corpus": CORPUS.name, "language": CORPUS.language} if (known := read_name(id or "")) else {}
        for id in table["id"]
    ]
    for name in sorted({name for known in facts for name in known}):
        column = pl.Series(name, [known.get(name) for known in facts], dtype=pl.String)
        given = name in table.columns
        table = table.with_columns(pl.coalesce(pl.col(name), column).alias(name) if given else column)
    return table.with_columns(pl.col("emotion").replace(EMOTIONS))


def write_published_csv(manifest: Manifest, path: str | Path, prefix: str = PLACEHOLDER) -> None:
    """Write the three columns of the published CSV, byte for byte as its authors do; recordings are named flat.

    Class names that have a code become codes. Raises ``InputError`` for what the format cannot say: an utterance
    without recording, a span of a recording, two recordings of one name.
    """
    codes, seen = {name: code for code, name in EMOTIONS.items()}, dict[str, str]()
    lines = ["file,emotion,text\n"]
    for row in manifest.table.select("id", "audio", "start", "end", "emotion", "text").iter_rows(named=True):
        if row["audio"] is None or row["start"] is not None or row["end"] is not None:
            why = "has no recording" if row["audio"] is None else "is a part of a recording"
            raise InputError(f"{path}: utterance {row['id']!r} {why}, which file,emotion,text cannot say")
        name = PurePosixPath(row["audio"]).name
        if seen.setdefault(name, row["audio"]) != row["audio"]:
            raise InputError(f"{path}: {seen[name]} and {row['audio']} have one name, and folders are not written")
        text = "" if row["text"] is None else _quoted(row["text"])
        emotion = codes.get(row["emotion"], row["emotion"] or "")
        lines.append(f"{_cell(f'{prefix}/{name}')},{_cell(emotion)},{text}\n")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(Path(path), "".join(lines))


def _cell(text: str) -> str:
    return _quoted(text) if set(text) & set(',"\r\n') else text


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
