"""EmoDB, the Berlin Database of Emotional Speech."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serkit.data.corpora import Corpus, recordings

# The letter is the German name: Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
EMOTIONS = {
    "W": "angry",
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
GENDERS = {
    **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
    **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
}
TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
# speaker - text - emotion - version
NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-f])")


def read(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the utterances; ``sentence`` (the text code) is an extra column."""
    for path in recordings(root):
        match = NAME.fullmatch(path.stem)
        if match is None:
            continue
        speaker, sentence, emotion, _ = match.groups()
        yield {
            "id": path.stem,
            "audio": str(path),
            "speaker": speaker,
            "gender": GENDERS.get(speaker),
            "text": TEXTS.get(sentence),
            "emotion": EMOTIONS[emotion],
            "sentence": sentence,
        }


CORPUS = Corpus(
    name="emodb",
    title="Berlin EmoDB",
    language="de",
    utterances=535,
    speakers=10,
    licence="free to use, no formal licence",
    source="Burkhardt et al. 2005, https://doi.org/10.21437/Interspeech.2005-446",
    layout="wav/03a01Fa.wav",
    read=read,
)
