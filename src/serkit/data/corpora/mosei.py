"""CMU-MOSEI, sentences of monologues in English videos: audio, transcripts, sentiment and six emotions.

Of the speakers it is only known that they are about a thousand: ``speaker`` is the video.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.data.cmu import PARTS, Spans, find_speech, read_csd, read_folds
from serkit.data.corpora import Corpus, decode, find_table, look_up, read_rows
from serkit.data.sentiment import MOSEI_EMOTIONS, SENTIMENT, SENTIMENT7, name_sentiment, name_sentiment7
from serkit.errors import InputError

STANDARD_PARTS = {"train": 16_327, "dev": 1_871, "test": 4_662}
"""Labelled segments of the standard folds, by the labels and folds of the CMU Multimodal SDK."""

SEQUENCE, TABLES = "CMU_MOSEI_Labels.csd", ("CMU_MOSEI_Labels.csv", "mosei_labels.csv")
LINE = re.compile(r"(.+?)___(\d+)___(-?[\d.]+)___(-?[\d.]+)___(.*)")
# What tables call what is ours; the batches of the annotators call it Input.VIDEO_ID, Answer.anger and so on.
COLUMNS = {
    "video": ("video", "video_id", "file"),
    "clip": ("clip", "clip_id", "segment"),
    "index": ("index",),
    "start": ("start",),
    "end": ("end",),
    "sentiment": ("sentiment", "sentiment_score"),
    "class3": ("label2b",),
    "class7": ("label7",),
    "part": ("split", "part", "mode"),
    "happy": ("happy", "happiness"),
    "sad": ("sad", "sadness"),
    "angry": ("angry", "anger"),
    "surprised": ("surprised", "surprise"),
    "disgusted": ("disgusted", "disgust"),
    "fearful": ("fearful", "fear"),
}
SPLITS = {**PARTS, "0": "train", "1": "dev", "2": "test"}  # s3prl counts them; 3 is in none

Values = dict[str, Any]


@dataclass
class Sentence:
    """A segment with labels or text: ``clip`` is its number in the transcripts, ``index`` its place in the labels."""

    video: str
    clip: str | None
    index: str | None
    span: tuple[float, float] | None
    values: Values

    @property
    def id(self) -> str:
        """Return what tells it from others."""
        return f"{self.video}_{self.clip}" if self.clip is not None else f"{self.video}[{self.index}]"


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield every labelled segment as a span of its video's recording; ``speaker`` is the video.

    Transcripts are ``Transcript/Segmented/Combined/<video>.txt``, lines ``<video>___<n>___<from>___<to>___<text>``;
    recordings ``Audio/Full/WAV_16000/<video>.wav``, or else ``<video>_<n>.wav``. A span is cut to its recording. Labels
    are the first there is of: ``CMU_MOSEI_Labels.csd`` (with h5py); ``CMU_MOSEI_Labels.csv`` or ``mosei_labels.csv``
    (video, clip or start and end, sentiment, happy, ...; also the table that s3prl makes, which has classes in place of
    scores); the mean of the annotators' batches in ``Labels``, which nobody compared with the others. Labels and texts
    are joined by the segment's number or its times. Without transcripts the id is ``<video>[<place in the labels>]``.

    Extra columns: ``sentiment`` (negative, neutral where exactly 0, positive), ``sentiment7``, ``sentiment_score``
    (-3 to 3) and, 0 to 3, happy, sad, angry, surprised, disgusted and fearful: present where above 0.

    ``part`` is the fold of a list below ``root`` (:func:`serkit.data.cmu.read_folds`) or of the table. Segments without
    labels are left out, so are labels without a text where there are transcripts, and segments without a recording
    where there are recordings; warnings count them. Raises ``InputError`` for transcripts without labels.
    """
    texts = _read_texts(root)
    labels = _read_labels(root, bool(texts))
    found = list(_join(root, texts, labels)) if texts else labels
    folds, speech, spans = read_folds(root), find_speech(root) if found else {}, Spans()
    places = [_place(sentence, speech, spans) for sentence in found]
    lost = []
    for sentence, place in zip(found, places, strict=True):
        if place is None and any(places):
            lost.append(sentence.id)
            continue
        part = folds.get(sentence.video) if folds else sentence.values.pop("part", None)
        values = {name: value for name, value in sentence.values.items() if name != "part"}
        yield {"id": sentence.id, "audio": None, "speaker": sentence.video, "part": part, **values, **(place or {})}
    _warn(root, "segments have no recording", lost)


def _place(sentence: Sentence, speech: dict[str, Path], spans: Spans) -> dict[str, Any] | None:
    if sentence.video in speech and sentence.span:
        return spans.cut(speech[sentence.video], *sentence.span)
    return {"audio": str(speech[sentence.id])} if sentence.id in speech else None


def _join(root: Path, texts: list[Sentence], labels: list[Sentence]) -> Iterator[Sentence]:
    """Yield the transcribed segments that have labels, with them."""
    by_clip: dict[tuple[str, str | None], Sentence] = {
        (label.video, label.clip): label for label in labels if label.clip is not None
    }
    by_span = {(label.video, _milliseconds(label)): label for label in labels if label.clip is None}
    used, bare = set(), []
    for text in texts:
        label = by_clip.get((text.video, text.clip)) or by_span.get((text.video, _milliseconds(text)))
        if label is None:
            bare.append(text.id)
            continue
        used.add(label.id)
        yield Sentence(text.video, text.clip, None, text.span, {**text.values, **label.values})
    _warn(root, "transcribed segments have no labels", bare)
    _warn(root, "labels have no text", [label.id for label in labels if label.id not in used])


def _milliseconds(sentence: Sentence) -> tuple[int, ...]:
    return tuple(round(time * 1000) for time in sentence.span or ())


def _warn(root: Path, what: str, ids: Sequence[str]) -> None:
    if ids:
        warnings.warn(f"{root}: {len(ids)} {what}, the first is {ids[0]}", stacklevel=3)


def _read_texts(root: Path) -> list[Sentence]:
    found: dict[str, Sentence] = {}
    for path in sorted(root.rglob("*.txt")):
        for line in decode(path.read_bytes(), "cp1252").splitlines():
            if match := LINE.fullmatch(line.strip()):
                video, clip, start, end, text = match.groups()
                span = (float(start), float(end))
                sentence = Sentence(video, str(int(clip)), None, span, {"text": text.strip("_ ")})
                found.setdefault(sentence.id, sentence)
    return list(found.values())


def _read_labels(root: Path, required: bool) -> list[Sentence]:
    table = find_table(root, *TABLES)
    sequence = find_table(root, SEQUENCE)
    if sequence is not None and (table is None or importlib.util.find_spec("h5py")):
        return list(_from_sequence(sequence))
    if table is not None:
        return [_from_row(row, table) for row in read_rows(table)]
    labels = list(_from_batches(root))
    if required and not labels:
        raise InputError(f"{root}: no {SEQUENCE}, {TABLES[0]} or batches of annotators below: its texts have no labels")
    return labels


def _from_sequence(path: Path) -> Iterator[Sentence]:
    for video, segments in read_csd(path).items():
        for index, (start, end, scores) in enumerate(segments):
            if len(scores) != 7:
                raise InputError(f"{path}: {video} has {len(scores)} scores, not sentiment and six emotions")
            emotions = dict(zip(MOSEI_EMOTIONS, scores[1:], strict=True))
            yield Sentence(video, None, str(index), (start, end), {**_named(scores[0], path), **emotions})


def _named(score: float, file: Path) -> Values:
    try:
        return {
            "sentiment": name_sentiment(score),
            "sentiment7": name_sentiment7(score),
            "sentiment_score": float(score),
        }
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _from_row(row: dict[str, str], table: Path) -> Sentence:
    """Return what a row of a table says, by any of the names that :data:`COLUMNS` knows."""
    known = {name: next((row[alias] for alias in aliases if row.get(alias)), None) for name, aliases in COLUMNS.items()}
    if known["video"] is None or (known["clip"] or known["end"]) is None:
        raise InputError(f"{table}: needs the columns video and clip, or video, start and end")
    try:
        span = (float(known["start"]), float(known["end"])) if known["start"] and known["end"] else None
        emotions = {name: float(value) for name in MOSEI_EMOTIONS if (value := known[name]) is not None}
        values = _named(float(known["sentiment"]), table) if known["sentiment"] is not None else {}
        if not values and known["class7"] is not None and known["class3"] is not None:
            three, seven = int(float(known["class3"])), int(float(known["class7"]))
            values = {"sentiment": SENTIMENT[three + 1], "sentiment7": SENTIMENT7[seven + 3]}
    except (ValueError, IndexError) as error:
        raise InputError(f"{table}: segment of {known['video']}: {error}") from error
    if not values:
        raise InputError(f"{table}: needs the column sentiment, or label2b and label7")
    part = known["part"]
    if part is not None and part != "3":
        values["part"] = look_up(SPLITS, part.lower(), table, "part")
    return Sentence(known["video"], known["clip"], known["index"], span, {**values, **emotions})


def _from_batches(root: Path) -> Iterator[Sentence]:
    """Yield the mean of the annotators for each segment that ``Labels/*.csv`` judges."""
    names = ("sentiment", *MOSEI_EMOTIONS)
    columns = {name: COLUMNS[name][-1] for name in MOSEI_EMOTIONS} | {"sentiment": "sentiment"}
    answers: dict[tuple[str, str], list[list[float]]] = {}
    for table in sorted(root.rglob("Labels/*.csv")):
        rows = read_rows(table)
        if not rows or "Input.VIDEO_ID" not in rows[0]:
            continue
        for row in rows:
            try:
                given = [float(row[f"Answer.{columns[name]}"] or 0) for name in names]
                key = (row["Input.VIDEO_ID"].strip('"'), str(int(row["Input.CLIP"].strip('"'))))
            except (KeyError, ValueError) as error:
                raise InputError(f"{table}: has no answer {error} for a segment of {row['Input.VIDEO_ID']}") from error
            answers.setdefault(key, []).append(given)
    for (video, clip), judged in answers.items():
        means = [sum(column) / len(judged) for column in zip(*judged, strict=True)]
        emotions = dict(zip(MOSEI_EMOTIONS, means[1:], strict=True))
        yield Sentence(video, clip, None, None, {**_named(means[0], table), **emotions})


CORPUS = Corpus(
    name="mosei",
    title="CMU-MOSEI",
    language="en",
    utterances=sum(STANDARD_PARTS.values()),
    speakers=3225,  # videos with a label and a standard fold
    licence="CMU, research use",
    source="Zadeh et al. 2018, https://doi.org/10.18653/v1/P18-1208",
    layout="CMU_MOSEI_Labels.csd with Audio/Full/WAV_16000/-3g5yACwYnA.wav and "
    "Transcript/Segmented/Combined/-3g5yACwYnA.txt",
    read=read,
)
