"""JL corpus, emotional New Zealand English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, decode, recordings

PRIMARY = ("angry", "excited", "happy", "neutral", "sad")
SECONDARY = ("anxious", "apologetic", "assertive", "concerned", "encouraging")
# speaker - emotion - sentence, and which of its four recordings
NAME = re.compile(rf"((?:fe)?male)([12])_({'|'.join(PRIMARY + SECONDARY)})_(\d+)([ab]_[12])")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (1 to 15) and ``take`` (a_1 to b_2) are extra columns.

    ``text`` is from the .txt beside the recording. The five secondary emotions are classes of their own (anxious,
    apologetic, assertive, concerned, encouraging). The archive may hold a recording more than once: the first copy is
    taken.
    """
    texts = {path.stem: path for path in sorted(root.rglob("*.txt")) if NAME.fullmatch(path.stem)}
    seen = set()
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None or path.stem in seen:
            continue
        seen.add(path.stem)
        gender, number, emotion, sentence, take = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": f"{gender}{number}",
            "gender": gender,
            "text": decode(texts[path.stem].read_bytes(), "cp1252").strip() if path.stem in texts else None,
            "emotion": emotion,
            "sentence": sentence,
            "take": take,
        }


CORPUS = Corpus(
    name="jl",
    title="JL corpus",
    language="en",
    utterances=2400,
    speakers=4,
    licence="CC0 1.0",
    source="James et al. 2018, https://doi.org/10.21437/Interspeech.2018-1349",
    layout="Raw JL corpus (unchecked and unannotated)/JL(wav+txt)/female1_angry_10a_1.wav",
    read=read,
)
