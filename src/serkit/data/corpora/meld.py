"""MELD, the Multimodal EmotionLines Dataset: dialogues of the television series Friends."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.audio import read_info
from serkit.data.corpora import Corpus, find_table, look_up, read_rows, recordings
from serkit.errors import AudioError, InputError

EMOTIONS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprised",
}
GENDERS = {
    **dict.fromkeys(("Chandler", "Joey", "Ross"), "male"),
    **dict.fromkeys(("Monica", "Phoebe", "Rachel"), "female"),
}
PARTS = ("train", "dev", "test")
BROKEN = frozenset([("train", "dia125_utt3")])  # clips of the release that cannot be decoded
NAME = re.compile(r"(?:(train|dev|test)_)?(dia\d+_utt\d+)")
# The first release had punctuation of Windows-1252 (an apostrophe is 0x92) as if it were Unicode.
PUNCTUATION = {code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")

Clip = tuple[str, str]  # part and name: names begin again in every part


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances of ``{train,dev,test}_sent_emo.csv`` that have a clip, or all where there is no clip at all.

    The id is the clip and its part (``dia0_utt0-dev``): names begin again in every part. A clip's part is told by the
    folder it is in (``train_splits``, ``dev_splits_complete``, ``output_repeated_splits_test``, or another with train,
    dev or test in its name); of a video and its sound track, the sound track is taken. The official split shares
    speakers. ``gender`` is known of the six friends. ``sentiment``, ``dialogue``, ``turn``, ``season`` and ``episode``
    are extra columns.

    Utterances without a clip that can be read (in the release dev dia110_utt7 and train dia125_utt3) are left out with
    a warning that counts them; with the tables alone every utterance has its text and no audio, which one warning says.
    Raises ``InputError`` for a part with clips and no table.
    """
    clips = _find_clips(root)
    lost, told = [], bool(clips)
    for part in PARTS:
        table = find_table(root, f"{part}_sent_emo.csv")
        if table is None:
            if here := [path for (where, _), path in clips.items() if where == part]:
                raise InputError(f"{here[0].parent}: no {part}_sent_emo.csv below {root}: its clips have no labels")
            continue
        if not told:
            warnings.warn(f"{root}: holds no clip: audio is empty, the texts are there", stacklevel=2)
            told = True
        for row in read_rows(table, *COLUMNS):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            if not clips or (part, name) in clips:
                yield _row(part, name, clips.get((part, name)), row, table)
            else:
                lost.append(f"{part} {name}")
    if lost:
        shown = ", ".join(lost[:3]) + (", ..." if lost[3:] else "")
        warnings.warn(f"{root}: {len(lost)} utterances have no clip that can be read: {shown}", stacklevel=2)


def _find_clips(root: Path) -> dict[Clip, Path]:
    clips: dict[Clip, Path] = {}
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        part = match and (match[1] or _part(path.relative_to(root)))
        if match is None or part is None:
            continue
        clip = (part, match[2])
        if (clip not in clips or path.suffix.lower() != ".mp4") and not (clip in BROKEN and _broken(path)):
            clips[clip] = path
    return clips


def _part(path: Path) -> str | None:
    """Return the part that the nearest folder names."""
    for folder in reversed(path.parts[:-1]):
        for part in PARTS:
            if part in re.split(r"[^a-z]+", folder.lower()):
                return part
    return None


def _broken(path: Path) -> bool:
    try:
        read_info(path)
    except AudioError:
        return True
    return False


def _row(part: str, name: str, path: Path | None, row: dict[str, str], table: Path) -> dict[str, Any]:
    speaker = row["Speaker"].translate(PUNCTUATION)
    return {
        "id": f"{name}-{part}",
        "audio": str(path) if path else None,
        "speaker": speaker,
        "gender": GENDERS.get(speaker),
        "text": row["Utterance"].translate(PUNCTUATION),
        "emotion": look_up(EMOTIONS, row["Emotion"].lower(), table),
        "part": part,
        "sentiment": row["Sentiment"].lower(),
        "dialogue": f"dia{row['Dialogue_ID']}-{part}",
        "turn": row["Utterance_ID"],
        "season": row.get("Season"),
        "episode": row.get("Episode"),
    }


CORPUS = Corpus(
    name="meld",
    title="MELD",
    language="en",
    utterances=13_708,  # two of them without a clip that can be read
    speakers=304,
    licence="GPL 3.0",
    source="Poria et al. 2019, https://doi.org/10.18653/v1/P19-1050",
    layout="train_sent_emo.csv and train_splits/dia0_utt0.mp4, and so on for dev and test",
    read=read,
)
