"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset (audio only)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from serkit.data.corpora import Corpus, recordings
from serkit.errors import InputError

EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
TEXTS = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
# actor - sentence - emotion - intensity; one file of the release ends in a single X
NAME = re.compile(r"(1\d{3})_([A-Z]{3})_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)")
VOICE_ONLY = "1"  # queryType: 2 is face only, 3 is both


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (the text code) and ``intensity`` (LO, MD, HI, XX) are extra columns.

    Where the root holds them, ``VideoDemographics.csv`` gives the genders and ``finishedResponses.csv`` the ``votes``
    of those who only heard the voice. Of a recording in both AudioWAV and AudioMP3, the WAV is taken. Raises
    ``InputError`` for a table without its columns, such as a Git LFS pointer.
    """
    found: dict[str, Path] = {}
    for path in recordings(root):
        if NAME.fullmatch(path.stem) and (path.stem not in found or path.suffix.lower() == ".wav"):
            found[path.stem] = path
    genders = {actor: sex.lower() for actor, sex in _table(root / "VideoDemographics.csv", "ActorID", "Sex")}
    votes: dict[str, list[str]] = {}
    for kind, clip, letter in _table(root / "finishedResponses.csv", "queryType", "clipName", "respEmo"):
        if kind == VOICE_ONLY and letter in LETTERS:
            votes.setdefault(clip, []).append(LETTERS[letter])
    for id, path in found.items():
        actor, sentence, emotion, intensity = id.split("_")
        yield {
            "id": id,
            "audio": str(path),
            "speaker": actor,
            "gender": genders.get(actor),
            "text": TEXTS.get(sentence),
            "emotion": EMOTIONS[emotion],
            "votes": votes.get(id),
            "sentence": sentence,
            "intensity": "XX" if intensity == "X" else intensity,
        }


LETTERS = {code[0]: label for code, label in EMOTIONS.items()}


def _table(path: Path, *columns: str) -> Iterator[tuple[str, ...]]:
    if not path.exists():
        return iter(())
    try:
        table = pl.read_csv(path, columns=list(columns), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: is not CREMA-D's table with the columns {', '.join(columns)}") from error
    return table.select(columns).drop_nulls().iter_rows()


CORPUS = Corpus(
    name="cremad",
    title="CREMA-D",
    language="en",
    utterances=7442,
    speakers=91,
    licence="ODbL 1.0",
    source="Cao et al. 2014, https://doi.org/10.1109/TAFFC.2014.2336244",
    layout="AudioWAV/1001_DFA_ANG_XX.wav, with VideoDemographics.csv and finishedResponses.csv where at hand",
    read=read,
)
