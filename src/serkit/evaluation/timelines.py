"""What was said to be expressed when: annotations and answers of any kind, read as tracks of labelled stretches."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.data.audio import EXTENSIONS
from serkit.data.turns import read_rows
from serkit.errors import InputError, nearest

LETTERS = {"n": "neutral", "h": "happy", "a": "angry", "s": "sad"}
"""What the single letters of SpeechBrain's emotion diarization mean."""

TABLES = (".csv", ".tsv", ".rttm", ".txt")


@dataclass(frozen=True, order=True)
class Stretch:
    """``label`` from ``start`` to ``end``, in seconds of the recording."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Track:
    """The stretches of one recording, in order, which may overlap; ``seconds`` and ``speaker`` are None if unknown."""

    id: str
    stretches: tuple[Stretch, ...]
    seconds: float | None = None
    speaker: str | None = None


def read_tracks(path: str | Path) -> dict[str, Track]:
    """Read the tracks of every recording, by its id. Known are, told apart by their content:

    - JSON by id as of the Zaion Emotion Dataset: ``{id: {"duration", "emotion": [{"emo", "start", "end"}]}}``, whose
      recordings may name their ``speaker``;
    - JSON as SpeechBrain answers: ``{id: [{"start", "end", "emotion"}]}``, where n, h, a and s are spelt out;
    - timelines of ``serkit predict --timeline``, as JSON (one, a list, or one a line) or CSV;
    - tables with ``id``, ``start``, ``end`` (or ``duration``) and ``label``; ``seconds``, the length of the recording,
      and ``speaker`` if there;
    - RTTM, in whose SPEAKER lines the label stands for the name.

    Stretches of no length are left out. Raises ``InputError`` naming the file and the line or recording.
    """
    path = Path(path)
    if path.suffix.lower() in TABLES:
        return _read_table(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not a text file'}") from error
    found: dict[str, Track] = {}
    for place, id, entry in _entries(path, text):
        if id in found:
            raise InputError(f"{place}: the recording {id!r} is there twice: leave one of them out")
        found[id] = _track(place, id, entry)
    return found


def pair_tracks(
    references: Mapping[str, Track], hypotheses: Mapping[str, Track], absent_is_neutral: bool = False
) -> list[tuple[Track, Track]]:
    """Return each reference with the hypothesis of its id; a path of a recording is as good as its stem.

    Raises ``InputError`` for a reference without hypothesis, unless ``absent_is_neutral`` takes it for silent.
    """
    by_stem: dict[str, list[Track]] = defaultdict(list)
    for track in hypotheses.values():
        by_stem[_stem(track.id)].append(track)
    pairs, lost = [], []
    for id, reference in references.items():
        like = by_stem.get(_stem(id), [])
        if id in hypotheses:
            pairs.append((reference, hypotheses[id]))
        elif len(like) == 1:
            pairs.append((reference, like[0]))
        elif like:
            raise InputError(
                f"{id}: may be {like[0].id} or {like[1].id} of the hypotheses: give both sides the same ids"
            )
        else:
            lost.append(id)
            pairs.append((reference, Track(id, ())))
    if not pairs:
        raise InputError("there is no reference: give one recording or more")
    if lost and (not absent_is_neutral or len(lost) == len(pairs)):
        near = nearest(lost[0], list(hypotheses)[:20]) if hypotheses else ""
        count = f"{len(lost)} of {len(pairs)} recordings have no hypothesis, the first is {lost[0]!r}"
        raise InputError(f"{count}{near}; give both sides the same ids, or --absent-is-neutral")
    return pairs


def _stem(id: str) -> str:
    name = id.replace("\\", "/").rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in EXTENSIONS else name


def _read_table(path: Path) -> dict[str, Track]:
    stretches: dict[str, list[Stretch]] = defaultdict(list)
    seconds: dict[str, float] = {}
    speakers: dict[str, set[str]] = defaultdict(set)
    for row in read_rows(path, "label"):
        id = row.id or path.stem
        speakers[id].add(row.fields.get("speaker") or row.fields.get("orthography") or "")
        stretches[id] += [Stretch(row.start, row.end, row.fields["label"])] if row.end > row.start else []
        if row.fields.get("seconds"):
            seconds[id] = _seconds(f"{path}:{row.line}", row.fields["seconds"], "seconds")
    return {
        id: Track(id, tuple(sorted(found)), seconds.get(id), _alone(speakers[id])) for id, found in stretches.items()
    }


def _alone(speakers: Iterable[str | None]) -> str | None:
    found = set(speakers)
    return next(iter(found)) or None if len(found) == 1 else None


def _entries(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (where, id, entry) of whatever kind of JSON this is."""
    try:
        whole: Any = json.loads(text)
        lines = [(f"{path}", whole)]
    except ValueError:
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                lines += [(f"{path}:{number}", json.loads(line))] if line.strip() else []
            except ValueError as error:
                remedy = "give an object, one object a line, a table (.csv, .tsv) or RTTM (.rttm)"
                raise InputError(f"{path}:{number}: is not JSON ({error}): {remedy}") from None
    for place, value in lines:
        if isinstance(value, dict) and "segments" not in value:
            yield from ((f"{place}: {id}", id, entry) for id, entry in value.items())
            continue
        for number, entry in enumerate(value if isinstance(value, list) else [value], 1):
            if not isinstance(entry, dict) or not isinstance(entry.get("segments"), list):
                raise InputError(f"{place}: entry {number} is no timeline: it has no list of segments")
            id = str(entry.get("id") or path.stem)
            yield f"{place}: {id}", id, entry


def _track(place: str, id: str, entry: Any) -> Track:
    """Return one entry of JSON as a track."""
    if isinstance(entry, list):
        entry = {"emotion": entry}
    rows = entry.get("segments", entry.get("emotion")) if isinstance(entry, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{place}: has no list of segments, or of emotion as {{emo, start, end}}")
    length = entry.get("seconds", entry.get("duration"))
    stretches = []
    for number, row in enumerate(rows, 1):
        where = f"{place}: stretch {number}"
        label = row.get("label", row.get("emo", row.get("emotion")))
        if not isinstance(label, str) or not label:
            raise InputError(f"{where}: has no label, emo or emotion")
        label = LETTERS.get(label, label) if "emotion" in row else label
        start, end = _seconds(where, row.get("start"), "start"), _seconds(where, row.get("end"), "end")
        if end < start:
            raise InputError(f"{where}: ends at {end:g} s, before it starts at {start:g} s: exchange start and end")
        stretches += [Stretch(start, end, label)] if end > start else []
    speaker = entry.get("speaker") or _alone(str(row.get("speaker") or "") for row in rows)
    seconds = None if length is None else _seconds(place, length, "the length")
    return Track(id, tuple(sorted(stretches)), seconds, None if speaker is None else str(speaker))


def _seconds(place: str, value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{place}: {what} {value!r} is not a number: write seconds, such as 12.34") from None
    if not math.isfinite(number) or number < 0:
        raise InputError(f"{place}: {what} {value} must be finite and not negative, in seconds")
    return number
