"""TESS, the Toronto Emotional Speech Set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprised",
    "pleasant_surprise": "surprised",
    "pleasant_surprised": "surprised",
    "sad": "sad",
}
# speaker - word - emotion; folders are spelled in several ways (OAF_Fear, YAF_pleasant_surprised), file names in one,
# but for OA_bite_neutral.
NAME = re.compile(rf"(OAF?|YAF)_([a-z]+)_({'|'.join(EMOTIONS)})", re.IGNORECASE)


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``word`` is an extra column.

    The archive that circulates holds the whole set twice, one folder inside the other: the second copy is left out.
    """
    seen = set()
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None or path.stem in seen:
            continue
        seen.add(path.stem)
        speaker, word, emotion = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": "YAF" if speaker.upper() == "YAF" else "OAF",
            "gender": "female",
            "text": f"Say the word {word.lower()}.",
            "emotion": EMOTIONS[emotion.lower()],
            "word": word.lower(),
        }


CORPUS = Corpus(
    name="tess",
    title="TESS",
    language="en",
    utterances=2800,
    speakers=2,
    licence="CC BY-NC-ND 4.0",
    source="Pichora-Fuller and Dupuis 2020, https://doi.org/10.5683/SP2/E8H2MF",
    layout="OAF_angry/OAF_back_angry.wav, in folders or flat",
    read=read,
)
