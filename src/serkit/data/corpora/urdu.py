"""The URDU dataset: utterances from Urdu talk shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}
# speaker - number of the file for that speaker - emotion and number of the file for that emotion
NAME = re.compile(r"(S([FM])\d+)_F\d+_([AHNS])\d+")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances. The authors count 38 speakers; their file names tell 29 apart, and so does this."""
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        speaker, gender, emotion = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": speaker,
            "gender": "female" if gender == "F" else "male",
            "emotion": EMOTIONS[emotion],
        }


CORPUS = Corpus(
    name="urdu",
    title="URDU",
    language="ur",
    utterances=400,
    speakers=29,
    licence="research use, no formal licence",
    source="Latif et al. 2018, https://arxiv.org/abs/1812.10411",
    layout="Angry/SM1_F10_A010.wav",
    read=read,
)
