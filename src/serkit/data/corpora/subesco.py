"""SUBESCO, the SUST Bangla Emotional Speech Corpus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = {
    "ANGRY": "angry",
    "DISGUST": "disgusted",
    "FEAR": "fearful",
    "HAPPY": "happy",
    "NEUTRAL": "neutral",
    "SAD": "sad",
    "SURPRISE": "surprised",
}
# gender and number of the speaker - name - sentence - emotion - take; one file of the release ends in a bracket
NAME = re.compile(rf"([FM])_(\d\d)_[A-Z]+_S_(\d+)_({'|'.join(EMOTIONS)})_([1-5])\]?")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (1 to 10) and ``take`` (1 to 5) are extra columns.

    Numbers of speakers begin at 01 for women and for men, so a speaker is ``F01`` or ``M01``.
    """
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        gender, number, sentence, emotion, take = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": f"{gender}{number}",
            "gender": "female" if gender == "F" else "male",
            "emotion": EMOTIONS[emotion],
            "sentence": sentence,
            "take": take,
        }


CORPUS = Corpus(
    name="subesco",
    title="SUBESCO",
    language="bn",
    utterances=7000,
    speakers=20,
    licence="CC BY 4.0",
    source="Sultana et al. 2021, https://doi.org/10.1371/journal.pone.0250173",
    layout="F_01_OISHI_S_10_ANGRY_1.wav",
    read=read,
)
