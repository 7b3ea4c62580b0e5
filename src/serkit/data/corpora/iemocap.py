"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database (audio, transcripts and annotations)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings
from serkit.data.labels import LabelScheme
from serkit.errors import InputError

EMOTIONS = {
    "ang": "angry",
    "dis": "disgusted",
    "exc": "excited",
    "fea": "fearful",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "oth": "other",
    "sad": "sad",
    "sur": "surprised",
    "xxx": "undecided",  # no label had a majority
}
IEMOCAP4 = LabelScheme(
    "iemocap4",
    ("angry", "happy", "neutral", "sad"),
    merge={"excited": "happy"},
    drop=("disgusted", "fearful", "frustrated", "other", "surprised", "undecided"),
)
"""The 5531 utterances of most papers: 1103 angry, 1636 happy or excited, 1708 neutral, 1084 sad."""

# Ses01F_impro01_F000: the first letter is who wears the markers, the last is who talks.
NAME = re.compile(r"(Ses0([1-5])[FM])_(impro|script)\w*_([FM])[\dX]+")
HEAD = re.compile(r"\[[\d.]+ - [\d.]+\]\s+(Ses\w+)\s+(\w+)\s+\[([\d.]+), ([\d.]+), ([\d.]+)\]")
VOTE = re.compile(r"C-\w+:\s*((?:[A-Za-z ]+;\s*)+)")
TEXT = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]:?\s*(.+)")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield every utterance that has a recording; ``recording``, ``scenario`` and ``agreement`` are extra columns.

    ``speaker`` is who talks (``01F``: session and sex), not who wears the markers, which is what the file name begins
    with (``recording``, ``Ses01F``): both talkers are heard in both recordings of a session. ``emotion`` is the
    majority label, ``votes`` the first choice of each annotator, the actors' own included; ``agreement`` is "full" when
    the first three annotators gave the same labels, all choices counted, otherwise "partial". Affect is (x - 1) / 4 of
    the mean on the 1-5 scale, clipped to [0, 1].

    A recording without annotation has no emotion; annotated utterances without a recording are left out with a
    warning that counts them. Raises ``InputError`` for a session without ``dialog/EmoEvaluation``.
    """
    found: dict[str, tuple[Path, re.Match[str]]] = {}
    for path in recordings(root):
        if match := NAME.fullmatch(path.stem):
            found.setdefault(path.stem, (path, match))
    if not found:
        return
    files = sorted(root.rglob("dialog/EmoEvaluation/Ses*.txt"))
    sessions = {file.name[:5] for file in files}
    annotations = {id: row for file in files for id, row in _read_annotations(file)}
    texts = {
        id: text for file in sorted(root.rglob("dialog/transcriptions/Ses*.txt")) for id, text in _read_texts(file)
    }
    lost = sorted(annotations.keys() - found.keys())
    if lost:
        warnings.warn(
            f"{root}: {len(lost)} annotated utterances have no recording, the first is {lost[0]}", stacklevel=2
        )
    for id, (path, match) in found.items():
        if id[:5] not in sessions:
            raise InputError(
                f"{path.parent}: no dialog/EmoEvaluation/{id[:5]}*.txt below {root}: session {id[4]} has no labels"
            )
        yield {"id": id, "audio": str(path), "text": texts.get(id), **_facts(match), **annotations.get(id, {})}


def read_name(id: str) -> dict[str, str]:
    """Return the speaker, session, gender, recording and scenario that an utterance's name tells; empty for others."""
    match = NAME.fullmatch(id)
    return _facts(match) if match else {}


def _facts(match: re.Match[str]) -> dict[str, str]:
    recording, session, scenario, talker = match.groups()
    return {
        "speaker": f"0{session}{talker}",
        "session": session,
        "gender": "female" if talker == "F" else "male",
        "recording": recording,
        "scenario": scenario,
    }


def _read_annotations(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    row: dict[str, Any] = {}
    choices: list[set[str]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if head := HEAD.match(line):
            valence, arousal, dominance = (min(max((float(x) - 1) / 4, 0.0), 1.0) for x in head.groups()[2:])
            row = {
                "emotion": _class_name(head[2], file),
                "valence": valence,
                "arousal": arousal,
                "dominance": dominance,
                "votes": [],
            }
            choices = []
            yield head[1], row
        elif row and (vote := VOTE.match(line)):
            names = [_class_name(word.strip(), file) for word in vote[1].split(";") if word.strip()]
            row["votes"].append(names[0])
            choices.append(set(names))
            row["agreement"] = "full" if all(each == choices[0] for each in choices[:3]) else "partial"


def _class_name(word: str, file: Path) -> str:
    name = EMOTIONS.get(word[:3].lower())
    if name is None:
        raise InputError(f"{file}: unknown label {word!r} (known: {', '.join(EMOTIONS)})")
    return name


def _read_texts(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := TEXT.match(line):
            yield match[1], match[2].strip()


CORPUS = Corpus(
    name="iemocap",
    title="IEMOCAP",
    language="en",
    utterances=10039,
    speakers=10,
    licence="USC licence agreement, research use",
    source="Busso et al. 2008, https://doi.org/10.1007/s10579-008-9076-6",
    layout="Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav and Session1/dialog/EmoEvaluation/*.txt",
    read=read,
)
