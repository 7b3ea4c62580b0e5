"""The data folders of MAT and MNT (Delbrouck et al. 2020, https://doi.org/10.18653/v1/2020.nlpbt-1.1) as a manifest.

For each part a folder such as ``data/MOSI`` holds pickles of dicts by utterance: ``<part>_sentences.p`` (lists of
words), ``<part>_mels.p`` (frames ``(T, 80)``) and labels in ``_emotions.p``, ``_emotion.p`` or ``_sentiment.p``. They
are read by :mod:`serkit.data.pickles`, which runs nothing.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.corpora.iemocap import read_name
from serkit.data.corpora.mosi import STANDARD_FOLDS
from serkit.data.files import replace_atomically
from serkit.data.manifest import Manifest
from serkit.data.pickles import read_plain
from serkit.data.sentiment import MOSEI_EMOTIONS, name_sentiment, name_sentiment7, round_sentiment7
from serkit.errors import InputError

SENTENCES, MELS = "_sentences.p", "_mels.p"
PARTS = {
    **dict.fromkeys(("train", "traindev", "trainval"), "train"),
    **dict.fromkeys(("valid", "val", "dev"), "dev"),
    "test": "test",
}
IEMOCAP = ("neutral", "happy", "sad", "angry")  # the happy ones with the excited
MELD = ("neutral", "surprised", "fearful", "sad", "happy", "disgusted", "angry")
MELD_SENTIMENT = ("neutral", "positive", "negative")
SEGMENT = re.compile(r"(.+?)(?:_\d+|\[\d+\])")  # <video>_<n> or <video>[<n>]

Row = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What a data set has: ``labels`` turn an entry of a label file into columns, ``facts`` are those of an id."""

    corpus: str
    labels: dict[str, Callable[[Any], Row]]
    facts: Callable[[str], Row]


def is_sentence_folder(source: str | Path) -> bool:
    """Whether ``source`` is a folder with ``<part>_sentences.p``."""
    return Path(source).is_dir() and any(Path(source).glob(f"*{SENTENCES}"))


def convert_sentences(source: str | Path, output: str | Path) -> Manifest:
    """Write ``manifest.parquet`` and ``mels.npz`` into ``output``, and return the manifest.

    Utterances are those that have words, frames and a label, in the order of the label file. ``text`` is the words with
    single spaces between; a blank inside a word becomes a hyphen, so that splitting and cleaning the text gives the
    same words again. ``features`` names the frames, ``mels.npz#ID``, where ``[n]`` of an id is ``(n)``. traindev and
    trainval are train. Ids that stand in several parts (MELD's do) get the part behind them. A part without labels is
    left out with a warning. Raises ``InputError`` naming the file for anything but plain data, and for other data sets
    than IEMOCAP, MOSI, MOSEI and MELD.
    """
    source, output = Path(source), Path(output)
    parts = _find_parts(source)
    layout: Layout | None = None
    rows: list[Row] = []
    frames: list[np.ndarray] = []
    for name in parts:
        words, mels, labels, layout = _read_part(source, name, layout)
        for id, row in labels.items():
            if id in words and id in mels:
                part = PARTS[name]
                facts = {"id": id, "corpus": layout.corpus, "language": "en", "part": part, **layout.facts(id)}
                rows.append({**facts, "text": _join(words[id], source / f"{name}{SENTENCES}", id), **row})
                frames.append(_frames(mels[id], source / f"{name}{MELS}", id))
    if not rows:
        raise InputError(f"{source}: no utterance has words, frames and a label")
    _tell_apart(rows)
    file = output.resolve() / "mels.npz"
    names = [re.sub(r"\[(\d+)\]", r"(\1)", row["id"]) for row in rows]
    for row, name in zip(rows, names, strict=True):
        row |= {"audio": None, "features": f"{file}#{name}"}
    output.mkdir(parents=True, exist_ok=True)
    _write_arrays(file, names, frames)
    manifest = Manifest.from_rows(rows)
    manifest.write(output / "manifest.parquet")
    return manifest


def _find_parts(source: Path) -> list[str]:
    """Return the parts that have labels, by the names of their files, train first."""
    found = sorted(path.name.removesuffix(SENTENCES) for path in source.glob(f"*{SENTENCES}"))
    unlabelled = [name for name in found if not _label_files(source, name)]
    if unlabelled:
        warnings.warn(f"{source}: {', '.join(unlabelled)} has no labels and is left out", stacklevel=3)
    known = [name for name in found if name in PARTS and name not in unlabelled]
    unknown = sorted(set(found) - set(known) - set(unlabelled))
    if unknown or not known:
        raise InputError(f"{source}: part {(unknown or found)[0]!r} is none of {', '.join(PARTS)} with labels")
    return sorted(known, key=lambda name: ("train", "dev", "test").index(PARTS[name]))


def _label_files(source: Path, name: str) -> list[Path]:
    paths = [source / f"{name}_{kind}.p" for kind in ("emotions", "sentiment", "emotion")]
    return [path for path in paths if path.is_file()]


def _read_part(source: Path, name: str, layout: Layout | None) -> tuple[dict, dict, dict[str, Row], Layout]:
    """Return words, frames and label columns by id, and how they were told."""
    words, mels = _read_dict(source / f"{name}{SENTENCES}"), _read_dict(source / f"{name}{MELS}")
    labels: dict[str, Row] = {}
    for path in _label_files(source, name):
        given = _read_dict(path)
        layout = layout or _layout(source, given, path)
        translate = layout.labels.get(path.stem.rpartition("_")[2])
        if translate is None:
            raise InputError(f"{path}: {layout.corpus} has no such labels")
        for id, value in given.items():
            try:
                labels.setdefault(id, {}).update(translate(value))
            except (ValueError, InputError) as error:
                raise InputError(f"{path}: label of {id}: {error}") from error
    if layout is None:
        raise InputError(f"{source}: {name} has no labels")
    return words, mels, labels, layout


def _read_dict(path: Path) -> dict[str, Any]:
    found = read_plain(path)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{path}: is not a dict of utterances")
    return found


def _layout(source: Path, labels: dict[str, Any], path: Path) -> Layout:
    """Return the data set, by the folder's name or else by its ids."""
    id = next(iter(labels), "")
    named = source.resolve().name.upper()
    if named in LAYOUTS:
        return LAYOUTS[named]
    if read_name(id):
        return LAYOUTS["IEMOCAP"]
    if re.fullmatch(r"dia\d+_utt\d+", id):
        return LAYOUTS["MELD"]
    if _video(id) in STANDARD_FOLDS:
        return LAYOUTS["MOSI"]
    if (path.parent / path.name.replace("_sentiment", "_emotion")).is_file() and "_sentiment" in path.name:
        return LAYOUTS["MOSEI"]
    raise InputError(f"{source}: ids such as {id!r} are none of IEMOCAP, MOSI, MOSEI or MELD: name the folder after it")


def _video(id: str) -> str:
    match = SEGMENT.fullmatch(id)
    return match[1] if match else id


def _class(names: Sequence[str], column: str = "emotion") -> Callable[[Any], Row]:
    def name(value: Any) -> Row:
        number = _number(value)
        if number not in range(len(names)):
            raise ValueError(f"class {number:g} is none of 0 to {len(names) - 1}")
        return {column: names[int(number)]}

    return name


def _score(seven: Callable[[float], str]) -> Callable[[Any], Row]:
    def name(value: Any) -> Row:
        score = _number(value)
        return {"sentiment": name_sentiment(score), "sentiment_score": score, "sentiment7": seven(score)}

    return name


def _emotions(value: Any) -> Row:
    return dict(zip(MOSEI_EMOTIONS, _numbers(value, len(MOSEI_EMOTIONS)), strict=True))


def _number(value: Any) -> float:
    return _numbers(value, 1)[0]


def _numbers(value: Any, count: int) -> list[float]:
    """Return the ``count`` numbers of a label: a number, a list or an array."""
    entries = value.ravel().tolist() if isinstance(value, np.ndarray) else value if isinstance(value, list) else [value]
    if len(entries) != count or not all(isinstance(entry, int | float) for entry in entries):
        raise ValueError(f"expected {'a number' if count == 1 else f'{count} numbers'}")
    return [float(entry) for entry in entries]


def _segment(id: str) -> Row:
    return {"speaker": _video(id)}


def _turn(id: str) -> Row:
    dialogue, _, turn = id.partition("_utt")
    return {"dialogue": dialogue, "turn": turn}


LAYOUTS = {
    "IEMOCAP": Layout("iemocap", {"emotions": _class(IEMOCAP)}, read_name),
    "MOSI": Layout("mosi", {"sentiment": _score(round_sentiment7)}, _segment),
    "MOSEI": Layout("mosei", {"sentiment": _score(name_sentiment7), "emotion": _emotions}, _segment),
    "MELD": Layout("meld", {"sentiment": _class(MELD_SENTIMENT, "sentiment"), "emotion": _class(MELD)}, _turn),
}


def _join(words: Any, file: Path, id: str) -> str:
    """Return words as one text; a blank inside one becomes a hyphen, which cleaning turns back into a blank."""
    return " ".join(re.sub(r"\s", "-", word) for word in _words(words, file, id) if word)


def _words(words: Any, file: Path, id: str) -> Iterator[str]:
    if not isinstance(words, list | tuple | np.ndarray):
        raise InputError(f"{file}: {id} is no list of words")
    for word in words.ravel().tolist() if isinstance(words, np.ndarray) else words:
        if not isinstance(word, str | bytes):
            raise InputError(f"{file}: {id} holds {type(word).__name__}, which is no word")
        yield word.decode("utf-8", errors="replace") if isinstance(word, bytes) else word


def _frames(values: Any, file: Path, id: str) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise InputError(f"{file}: {id} has no frames (T, D)")
    return values.astype(np.float32)


def _tell_apart(rows: list[Row]) -> None:
    """Put the part behind the ids of a data set in which one stands more than once."""
    count = Counter(row["id"] for row in rows)
    if rows[0]["corpus"] == "meld" or max(count.values()) > 1:
        for row in rows:
            row["id"] = f"{row['id']}-{row['part']}"
            row |= {"dialogue": f"{row['dialogue']}-{row['part']}"} if "dialogue" in row else {}


def _write_arrays(file: Path, names: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
    """Write one array after the other; ``numpy.savez`` would take some names for its own arguments."""
    with replace_atomically(file) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in zip(names, arrays, strict=True):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
