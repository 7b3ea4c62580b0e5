"""ESD, the Emotional Speech Dataset: ten speakers of Mandarin and ten of English say the same in five emotions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, decode, recordings
from serkit.errors import InputError

EMOTIONS = {
    "Neutral": "neutral",
    "Angry": "angry",
    "Happy": "happy",
    "Sad": "sad",
    "Surprise": "surprised",
}
SENTENCES = 350  # per speaker: utterances 1 to 350 are neutral, 351 to 700 angry, and so on
PARTS = {"train": "train", "evaluation": "dev", "test": "test"}
MEN = ("0004", "0005", "0006", "0008", "0010", "0011", "0012", "0013", "0014", "0020")
# speaker - number of the utterance
NAME = re.compile(r"(00(?:0[1-9]|1\d|20))_(\d{6})")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (1 to 350, those of a language say the same) is an extra column.

    The emotion follows from the number in the file name; ``InputError`` is raised for a file that lies in the folder
    of another emotion. ``language`` is zh for speakers 0001 to 0010 and en for the others. ``part`` is set where there
    are the folders train, evaluation and test: it separates sentences, and every speaker is in all three. ``text`` is
    from ``0001/0001.txt``, which come in several encodings; broken lines give none.
    """
    texts = {id: text for speaker in sorted(root.rglob("00??.txt")) for id, text in _read_texts(speaker)}
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        number = int(match[2]) - 1 if match else -1
        if match is None or not 0 <= number < SENTENCES * len(EMOTIONS):
            continue
        folders = path.relative_to(root).parts[:-1]
        emotion = list(EMOTIONS)[number // SENTENCES]
        other = [name for name in folders if name in EMOTIONS and name != emotion]
        if other:
            raise InputError(f"{path}: lies in {other[0]}, but by its number it is {emotion}")
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": match[1],
            "gender": "male" if match[1] in MEN else "female",
            "language": "zh" if match[1] <= "0010" else "en",
            "text": texts.get(path.stem),
            "emotion": EMOTIONS[emotion],
            "part": next((PARTS[name] for name in reversed(folders) if name in PARTS), None),
            "sentence": str(number % SENTENCES + 1),
        }


def _read_texts(file: Path) -> Iterator[tuple[str, str]]:
    for line in decode(file.read_bytes(), "gb18030" if file.stem <= "0010" else "cp1252").splitlines():
        words = [word.strip() for word in line.split("\t")]
        if len(words) == 3 and NAME.fullmatch(words[0]) and words[1]:
            yield words[0], words[1]


CORPUS = Corpus(
    name="esd",
    title="ESD",
    language="en",
    utterances=35_000,
    speakers=20,
    licence="research use, on a signed licence",
    source="Zhou et al. 2021, https://doi.org/10.1109/ICASSP39728.2021.9413391",
    layout="0001/Angry/0001_000351.wav, or 0001/Angry/train/0001_000351.wav, and 0001/0001.txt",
    read=read,
)
