"""AESDD, the Acted Emotional Speech Dynamic Database of Greek."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

EMOTIONS = {"a": "angry", "d": "disgusted", "f": "fearful", "h": "happy", "s": "sad"}
# emotion - utterance - speaker, in parentheses, at times with a zero - take, where there are several
NAME = re.compile(r"([adfhs])(\d\d) \(0?([1-9])\)([a-z]?)")
BROKEN = "s05 (3)"  # in the release, but cannot be decoded


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` is an extra column, and the id of ``a06 (5)b`` is ``a06-5b``.

    Utterance 20 is improvised, by each actor in another way. Which speakers are women is not said in the release
    (the first five are three women and two men), so ``gender`` is empty. ``s05 (3)``, whose file is broken, is left
    out. "Dynamic" means that speakers may be added: the sixth is not in the paper.
    """
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None or path.stem == BROKEN:
            continue
        emotion, sentence, speaker, _ = match.groups()
        yield {
            "id": re.sub(r"[()]", "", path.stem.replace(" ", "-")),
            "audio": str(path),
            "speaker": speaker,
            "emotion": EMOTIONS[emotion],
            "sentence": sentence,
        }


CORPUS = Corpus(
    name="aesdd",
    title="AESDD",
    language="el",
    utterances=604,
    speakers=6,
    licence="public, no formal licence",
    source="Vryzas et al. 2018, https://doi.org/10.17743/jaes.2018.0036",
    layout="anger/a01 (1).wav",
    read=read,
)
