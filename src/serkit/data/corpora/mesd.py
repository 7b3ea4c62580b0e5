"""MESD, the Mexican Emotional Speech Database: single words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = {
    "Anger": "angry",
    "Disgust": "disgusted",
    "Fear": "fearful",
    "Happiness": "happy",
    "Neutral": "neutral",
    "Sadness": "sad",
}
VOICES = {"C": "child", "F": "female", "M": "male"}
# emotion - voice - list of words - word
NAME = re.compile(rf"({'|'.join(EMOTIONS)})_([CFM])_([AB])_(\w+)")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``voice`` (child, female, male) and ``words`` (list A or B) are extra columns.

    Eleven people talk (three women, two men, six children), but file names only tell the kind of voice: ``speaker``
    is that kind, as in EmoBox, so that folds without a common speaker cannot share a talker either. ``gender`` is
    empty for children. ``text`` is the word as file names spell it, without accents. The paper counts 864
    recordings, the release has 862.
    """
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        emotion, letter, words, word = match.groups()
        voice = VOICES[letter]
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": voice,
            "gender": None if voice == "child" else voice,
            "text": word.replace("_", " "),
            "emotion": EMOTIONS[emotion],
            "voice": voice,
            "words": words,
        }


CORPUS = Corpus(
    name="mesd",
    title="MESD",
    language="es",
    utterances=862,
    speakers=3,
    licence="CC BY 4.0",
    source="Duville et al. 2021, https://pubmed.ncbi.nlm.nih.gov/34891601",
    layout="Anger_C_A_abajo.wav",
    read=read,
)
