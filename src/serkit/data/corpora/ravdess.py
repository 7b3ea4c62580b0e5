"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song (audio only)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
CHANNELS = {"01": "speech", "02": "song"}
# modality - vocal channel - emotion - intensity - statement - repetition - actor
NAME = re.compile(r"03-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances, speech and song; ``channel``, ``intensity`` and ``repetition`` are extra columns."""
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        channel, emotion, intensity, statement, repetition, actor = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": actor,
            "gender": "male" if int(actor) % 2 else "female",
            "text": STATEMENTS[int(statement) - 1],
            "emotion": EMOTIONS[int(emotion) - 1],
            "channel": CHANNELS[channel],
            "intensity": "normal" if intensity == "01" else "strong",
            "repetition": repetition,
        }


CORPUS = Corpus(
    name="ravdess",
    title="RAVDESS",
    language="en",
    utterances=1440 + 1012,
    speakers=24,
    licence="CC BY-NC-SA 4.0",
    source="Livingstone and Russo 2018, https://doi.org/10.1371/journal.pone.0196391",
    layout="Actor_*/03-01-05-01-01-01-01.wav, speech (1440) and song (1012) folders in any arrangement",
    read=read,
)
