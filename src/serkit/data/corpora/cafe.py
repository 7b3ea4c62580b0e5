"""CaFE, the Canadian French Emotional speech dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

# colère, dégoût, joie, neutre, peur, surprise, tristesse
EMOTIONS = {
    "C": "angry",
    "D": "disgusted",
    "J": "happy",
    "N": "neutral",
    "P": "fearful",
    "S": "surprised",
    "T": "sad",
}
TEXTS = {
    "1": "Un cheval fou dans mon jardin",
    "2": "Deux ânes aigris au pelage brun",
    "3": "Trois cygnes aveugles au bord du lac",
    "4": "Quatre vieilles truies éléphantesques",
    "5": "Cinq pumas fiers et passionnés",
    "6": "Six ours aimants domestiqués",
}
# actor - emotion - intensity - sentence
NAME = re.compile(r"(0[1-9]|1[0-2])-([CDJNPST])-([12])-([1-6])")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` and ``intensity`` (mild, strong; neutral is always mild) are extra columns.

    Only file names count: archives unpack the accents of the folder names in several ways. Where both the 48 kHz WAV
    and the 192 kHz AIFF recordings are at hand, the WAV is taken. Odd actors are men, even ones women.
    """
    found: dict[str, Path] = {}
    for path in recordings(root):
        if NAME.fullmatch(path.stem) and (path.stem not in found or path.suffix.lower() == ".wav"):
            found[path.stem] = path
    for id, path in found.items():
        actor, emotion, intensity, sentence = id.split("-")
        yield {
            "id": id,
            "audio": str(path),
            "speaker": actor,
            "gender": "male" if int(actor) % 2 else "female",
            "text": TEXTS[sentence],
            "emotion": EMOTIONS[emotion],
            "sentence": sentence,
            "intensity": "mild" if intensity == "1" else "strong",
        }


CORPUS = Corpus(
    name="cafe",
    title="CaFE",
    language="fr",
    utterances=936,
    speakers=12,
    licence="CC BY-NC-SA 4.0",
    source="Gournay et al. 2018, https://doi.org/10.1145/3204949.3208121",
    layout="CaFE_48k/Colère/Faible/01-C-1-1.wav",
    read=read,
)
