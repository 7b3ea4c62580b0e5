"""ShEMO, the Sharif Emotional Speech Database of Persian."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, decode, recordings

EMOTIONS = {
    "A": "angry",
    "F": "fearful",
    "H": "happy",
    "N": "neutral",
    "S": "sad",
    "W": "surprised",
}
# speaker - emotion - number of the utterance
NAME = re.compile(r"([FM]\d\d)([AFHNSW])\d+")
MARKS = str.maketrans("", "", "\u200e\u200f")  # which way the text runs


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``text`` is the orthographic transcript, from ``transcript/final text/*.ort`` if there.

    The release has 3000 utterances. EmoBox lists 2838 of them, those of the corrected transcripts of 2022.
    """
    texts = {path.stem: path for path in sorted(root.rglob("*.ort")) if NAME.fullmatch(path.stem)}
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        speaker, emotion = match.groups()
        text = decode(texts[path.stem].read_bytes(), "cp1256").translate(MARKS).strip() if path.stem in texts else None
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": speaker,
            "gender": "female" if speaker[0] == "F" else "male",
            "text": text,
            "emotion": EMOTIONS[emotion],
        }


CORPUS = Corpus(
    name="shemo",
    title="ShEMO",
    language="fa",
    utterances=3000,
    speakers=87,
    licence="free for academic use, no formal licence",
    source="Mohamad Nezami et al. 2019, https://doi.org/10.1007/s10579-018-9427-x",
    layout="female/F01A01.wav and male/M01A01.wav, with transcript/final text/F01A01.ort where at hand",
    read=read,
)
