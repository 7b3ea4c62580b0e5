"""SAVEE, the Surrey Audio-Visual Expressed Emotion database (audio only)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = {
    "a": "angry",
    "d": "disgusted",
    "f": "fearful",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprised",
}
SPEAKERS = ("DC", "JE", "JK", "KL")
# speaker, where the folder does not name it - emotion - number of the sentence
NAME = re.compile(r"(?:(DC|JE|JK|KL)_)?(sa|su|[adfhn])(\d\d)")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; the id carries the speaker (``DC_a01``), whichever of the two layouts the folder has."""
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        speaker = match and (match[1] or path.parent.name)
        if match is None or speaker not in SPEAKERS:
            continue
        yield {
            "id": f"{speaker}_{match[2]}{match[3]}",
            "audio": str(path),
            "speaker": speaker,
            "gender": "male",
            "emotion": EMOTIONS[match[2]],
        }


CORPUS = Corpus(
    name="savee",
    title="SAVEE",
    language="en",
    utterances=480,
    speakers=4,
    licence="research use, on registration",
    source="Haq and Jackson 2009, AVSP",
    layout="AudioData/DC/a01.wav, or flat as DC_a01.wav",
    read=read,
)
