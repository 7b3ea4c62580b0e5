"""EMOVO, an Italian emotional speech database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

# disgusto, gioia, neutro, paura, rabbia, sorpresa, tristezza
EMOTIONS = {
    "dis": "disgusted",
    "gio": "happy",
    "neu": "neutral",
    "pau": "fearful",
    "rab": "angry",
    "sor": "surprised",
    "tri": "sad",
}
# emotion - speaker - sentence
NAME = re.compile(r"(dis|gio|neu|pau|rab|sor|tri)-([fm][123])-(\w+)")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (b1-3, l1-4, n1-5, d1-2) is an extra column."""
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        emotion, speaker, sentence = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": speaker,
            "gender": "female" if speaker[0] == "f" else "male",
            "emotion": EMOTIONS[emotion],
            "sentence": sentence,
        }


CORPUS = Corpus(
    name="emovo",
    title="EMOVO",
    language="it",
    utterances=588,
    speakers=6,
    licence="research use",
    source="Costantini et al. 2014, LREC",
    layout="f1/dis-f1-b1.wav",
    read=read,
)
