"""nEMO, emotional speech in Polish."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, find_table, read_rows, recordings

EMOTIONS = {
    "anger": "angry",
    "fear": "fearful",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprised": "surprised",
}
GENDERS = {
    **dict.fromkeys(("EB0", "IC0", "KD0", "MK0"), "female"),
    **dict.fromkeys(("KS0", "MP0", "SM0", "TP0", "WR0"), "male"),
}
# speaker - emotion - sentence
NAME = re.compile(rf"({'|'.join(GENDERS)})_({'|'.join(EMOTIONS)})_(\d+)")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (1 to 90) is an extra column.

    Where ``data.tsv`` is there, it gives the ``text`` and the extra columns ``normalized_text`` and ``age``. Raises
    ``InputError`` when it lacks them.
    """
    table = find_table(root, "data.tsv")
    rows = read_rows(table, "file_id", "raw_text", "normalized_text", "age", separator="\t") if table else []
    facts = {row["file_id"].removesuffix(".wav"): row for row in rows}
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        speaker, emotion, sentence = match.groups()
        fact = facts.get(path.stem, {})
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": speaker,
            "gender": GENDERS[speaker],
            "text": fact.get("raw_text"),
            "emotion": EMOTIONS[emotion],
            "sentence": sentence,
            "normalized_text": fact.get("normalized_text"),
            "age": fact.get("age"),
        }


CORPUS = Corpus(
    name="nemo",
    title="nEMO",
    language="pl",
    utterances=4481,
    speakers=9,
    licence="CC BY-NC-SA 4.0",
    source="Christop 2024, https://aclanthology.org/2024.lrec-main.1059",
    layout="samples/EB0_anger_1.wav, with data.tsv where at hand",
    read=read,
)
