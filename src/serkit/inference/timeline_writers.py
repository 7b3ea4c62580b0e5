"""How timelines are written: for people, for programs, for diarization scorers, for editors and players."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import TextIO

from serkit.data.audio import EXTENSIONS
from serkit.data.files import write_text
from serkit.errors import InputError
from serkit.inference.timeline import Timeline, TimelineSegment

NOTHING = "<NA>"


def clock(seconds: float, decimals: int = 0, mark: str = ".") -> str:
    """Return a time as h:mm:ss, with so many ``decimals`` behind ``mark``.

    >>> clock(3723.4567), clock(59.9996, 3, ","), clock(59.6)
    ('1:02:03', '0:01:00,000', '0:01:00')
    """
    units = round(seconds * 10**decimals)
    whole, rest = divmod(units, 10**decimals)
    text = f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{text}{mark}{rest:0{decimals}}" if decimals else text


def write_table(timelines: Iterable[Timeline], classes: tuple[str, ...], file: TextIO) -> None:
    """Write a table for people: a line for every recording, and below it one for every segment."""
    for timeline in timelines:
        print(f"{timeline.id}  {clock(timeline.seconds)}  {timeline.model}", file=file)
        width = max((len(segment.speaker or "") for segment in timeline.segments), default=0)
        for segment in timeline.segments:
            order = sorted(segment.probabilities, key=segment.probabilities.__getitem__, reverse=True)
            second = order[1] if order[0] == segment.label and len(order) > 1 else order[0]
            shown = f"{second} {segment.probabilities[second]:.2f}" if segment.probabilities[second] > 0 else ""
            times = f"{clock(segment.start, 1):>9} - {clock(segment.end, 1):<9}"
            speaker = f"  {segment.speaker or '':<{width}}" if width else ""
            print(f"  {times}{speaker}  {segment.label:<10} {segment.confidence:>5.2f}  {shown}".rstrip(), file=file)
        if not timeline.segments:
            print("  no speech found", file=file)
        file.flush()


def write_json(timelines: Iterable[Timeline], classes: tuple[str, ...], file: TextIO) -> None:
    """Write one JSON object a line, with the curve."""
    for timeline in timelines:
        print(json.dumps(timeline.as_dict(), ensure_ascii=False), file=file, flush=True)


def write_csv(timelines: Iterable[Timeline], classes: tuple[str, ...], file: TextIO) -> None:
    """Write comma-separated values, one segment a row; ``seconds`` is the length of the recording."""
    writer = csv.writer(file, lineterminator="\n")
    names = ["id", "utterance", "start", "end", "speaker", "label", "confidence"]
    writer.writerow([*names, *(f"p_{name}" for name in classes), "seconds"])
    for timeline in timelines:
        for segment in timeline.segments:
            row = {"id": timeline.id, "speaker": "", **segment.as_dict()}
            values = [row["probabilities"].get(name, "") for name in classes]
            writer.writerow([*(row[name] for name in names), *values, round(timeline.seconds, 3)])
        file.flush()


def write_rttm(timelines: Iterable[Timeline], classes: tuple[str, ...], file: TextIO) -> None:
    """Write NIST's RTTM, a SPEAKER line for every segment.

    The second field is the name of the recording without folder and ending, unless another one had it before. The
    eighth, the speaker's name, is the label, so that scorers of speaker diarization measure emotions; the ninth is its
    probability. Who speaks stands in the sixth, the orthography, which such scorers do not read and which is <NA> where
    no turns were given. Fields cannot hold blanks: they become underscores.
    """
    named: set[str] = set()
    for timeline in timelines:
        bare = PurePath(_bare(timeline.id)).name
        id = _word(bare if bare not in named else timeline.id)
        named.add(bare)
        for segment in timeline.segments:
            speaker, label = _word(segment.speaker or NOTHING), _word(segment.label)
            start, end = round(segment.start, 3), round(segment.end, 3)
            times = f"{start:.3f} {end - start:.3f}"
            print(
                f"SPEAKER {id} 1 {times} {speaker} {NOTHING} {label} {segment.confidence:.4f} {NOTHING}",
                file=file,
                flush=True,
            )


def write_audacity(timelines: Iterable[Timeline], classes: tuple[str, ...], file: TextIO) -> None:
    """Write a label track of Audacity, for one recording: start, end (seconds) and label, separated by tabs."""
    for timeline in _only_one(timelines, "audacity"):
        for segment in timeline.segments:
            print(f"{segment.start:.6f}\t{segment.end:.6f}\t{_line(_named(segment))}", file=file)


def write_srt(timelines: Iterable[Timeline], classes: tuple[str, ...], file: TextIO) -> None:
    """Write SubRip subtitles, for one recording: "speaker: label (probability)"."""
    for timeline in _only_one(timelines, "srt"):
        for number, segment in enumerate(timeline.segments, 1):
            start, end = (clock(seconds, 3, ",").rjust(12, "0") for seconds in (segment.start, segment.end))
            text = f"{_line(_named(segment))} ({segment.confidence:.2f})"
            print(f"{number}\n{start} --> {end}\n{text}\n", file=file)


TimelineWriter = Callable[[Iterable[Timeline], tuple[str, ...], TextIO], None]

TIMELINE_WRITERS: dict[str, TimelineWriter] = {
    "table": write_table,
    "json": write_json,
    "csv": write_csv,
    "rttm": write_rttm,
    "audacity": write_audacity,
    "srt": write_srt,
}
"""By name of the format; each takes timelines, all classes and where to write."""

ENDINGS = {"table": ".txt", "json": ".json", "csv": ".csv", "rttm": ".rttm", "audacity": ".txt", "srt": ".srt"}
"""How the files of :func:`write_folder` end."""


def write_folder(timelines: Iterable[Timeline], classes: tuple[str, ...], folder: Path, format: str) -> list[Path]:
    """Write a file for every recording into ``folder`` (made where missing) and return their paths.

    A file is called as the recording, with the format's ending for its own; where two recordings differ in theirs
    alone, the later keeps it. Folders in names stay. Raises ``InputError`` for two recordings of one name.
    """
    written: list[Path] = []
    for timeline in timelines:
        path = free_path(folder, timeline.id, ENDINGS[format], written)
        made = io.StringIO(newline="")
        TIMELINE_WRITERS[format]([timeline], classes, made)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, made.getvalue())
        written.append(path)
    return written


def free_path(folder: Path, id: str, ending: str, taken: Sequence[Path]) -> Path:
    """Return the file of recording ``id`` in ``folder`` that is not ``taken``, as :func:`write_folder` names them."""
    name = Path(*[part for part in PurePath(id).parts if part not in ("..", "/", "\\")] or ["recording"])
    for bare in (_bare(str(name)), name):
        path = folder / f"{bare}{ending}"
        if path not in taken:
            return path
    raise InputError(f"{id}: two recordings have this name, and each needs a file: give them ids")


def _bare(id: str) -> str:
    """Return ``id`` without the ending of an audio file."""
    return str(PurePath(id).with_suffix("")) if PurePath(id).suffix.lower() in EXTENSIONS else id


def _only_one(timelines: Iterable[Timeline], format: str) -> list[Timeline]:
    found = list(islice(timelines, 2))
    if len(found) > 1:
        remedy = "name an output folder, which gets a file for every recording, or take json, csv or rttm"
        raise InputError(f"--format {format} is for one recording a file: {remedy}")
    return found


def _named(segment: TimelineSegment) -> str:
    return segment.label if segment.speaker is None else f"{segment.speaker}: {segment.label}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _word(text: str) -> str:
    return "_".join(text.split()) or NOTHING
