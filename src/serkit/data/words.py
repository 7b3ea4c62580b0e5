"""Words of transcripts: cleaned as MAT and MNT (Delbrouck et al. 2020, https://doi.org/10.18653/v1/2020.nlpbt-1.1) did,
and numbered so that a number means the same word for good.

A token is what stands between white space. It is lowercased and loses ``. , ' ! ? " ( ) * # : ;``; ``-`` and ``/``
become a space inside the token, which stays *one* word ("well known"); a token of which nothing is left is dropped.

Manifests hold free text. Corpora that come as lists of words are joined with single spaces by their readers, so a
listed token that itself holds a space ("new york") becomes two words; :func:`clean_words` takes such lists as they are.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from serkit.data.files import write_text
from serkit.errors import InputError

PADDING, UNKNOWN, LEGACY_UNKNOWN = "<pad>", "<unk>", "UNK"
UNKNOWN_ID = 1
"""The id of words that training never saw, in either numbering; in legacy numbering also that of the first word."""

PAUSES = frozenset({"sp"})
"""How word files of the CMU Multimodal SDK (MOSI, MOSEI) write a pause between words: not a word, drop it."""

_DELETED = dict.fromkeys(map(ord, ".,'!?\"()*#:;"))
_SPACED = dict.fromkeys(map(ord, "-/"), " ")
_PLAIN = {
    **dict.fromkeys(map(ord, "’‘ʼ‛`´′＇\x91\x92"), "'"),
    **dict.fromkeys(map(ord, "“”„‟«»‹›″＂\x93\x94"), '"'),
    **dict.fromkeys(map(ord, "‐‑‒–—―−\x96\x97"), "-"),
    **dict.fromkeys(map(ord, "…\x85"), "..."),
    **dict.fromkeys(map(ord, "\ufeff\u00ad\u200b\u200c\u200d\u2060")),
}
"""What typographic characters are written as; those below U+00A0 are theirs in text that was decoded as Latin-1."""


def clean_word(token: str, legacy: bool = False) -> str:
    """Return ``token`` as a word, empty where nothing is left.

    Typographic apostrophes, quotes, dashes and ellipses count as the plain ones, letters are composed (Unicode NFC) and
    the spaces that ``-`` and ``/`` leave are single and never at the ends. ``legacy`` does none of that: exactly the
    eleven characters of the original are deleted, so "you’ve" keeps its apostrophe and "-- no" its spaces.

    >>> clean_word("Well-known,"), clean_word("you’ve"), clean_word("--")
    ('well known', 'youve', '')
    """
    if legacy:
        return token.lower().translate(_DELETED).translate(_SPACED)
    plain = unicodedata.normalize("NFC", token.translate(_PLAIN).lower())
    return " ".join(plain.translate(_DELETED).translate(_SPACED).split())


def clean_words(tokens: Iterable[str], legacy: bool = False, drop: Collection[str] = ()) -> list[str]:
    """Return a list of tokens as cleaned words, without those of which nothing is left.

    ``drop`` names words that are left out (:data:`PAUSES` for word files of the CMU Multimodal SDK). A token such as
    "--" has nothing left; only ``legacy`` keeps it, as the original did: a word of two spaces.
    """
    words = (clean_word(token, legacy) for token in tokens)
    return [word for word in words if word and word not in drop]


def split_words(text: str | None, legacy: bool = False, drop: Collection[str] = ()) -> list[str]:
    """Return the cleaned words of free text, the tokens between white space; no text has no words.

    >>> split_words("Well-known, isn't it?")
    ['well known', 'isnt', 'it']
    """
    return clean_words(text.split(), legacy, drop) if isinstance(text, str) else []


@dataclass(frozen=True)
class Vocabulary:
    """The words of a training part, each at the place of its id.

    ``words[0]`` is the padding, ``words[1]`` stands for unknown words, the others follow in the order in which they
    first appeared. ``legacy`` numbers as the original did: ``words[0]`` is "UNK", whose vector stands in the padding
    row, and ``words[1]`` the first word of training, whose id unknown words share. Raises ``InputError`` for words that
    are empty or stand twice, and where the first are not as said.

    >>> vocabulary = Vocabulary.build([["so", "good"], ["so", "bad"]])
    >>> vocabulary.words, vocabulary.encode(["so", "very", "bad"], most=30)
    (('<pad>', '<unk>', 'so', 'good', 'bad'), [2, 1, 4])
    """

    words: tuple[str, ...]
    legacy: bool = False

    def __post_init__(self) -> None:
        first = (LEGACY_UNKNOWN,) if self.legacy else (PADDING, UNKNOWN)
        if self.words[: len(first)] != first or len(self.words) < 2:
            numbering = "legacy" if self.legacy else "plain"
            raise InputError(f"vocabulary: in {numbering} numbering {' and '.join(first)} come first, then words")
        if len(self.ids) < len(self.words) or "" in self.ids:
            twice = next(word for id, word in enumerate(self.words) if not word or self.ids[word] != id)
            raise InputError(f"vocabulary: word {twice!r} is empty or stands more than once")

    def __len__(self) -> int:
        """The number of rows V of an embedding for this vocabulary."""
        return len(self.words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of every word, names of padding and unknown words among them."""
        return {word: id for id, word in enumerate(self.words)}

    @cached_property
    def _said(self) -> dict[str, int]:
        """The ids of what can be said: a text that spells "<pad>" is not padding."""
        return {word: id for word, id in self.ids.items() if word not in (PADDING, UNKNOWN, LEGACY_UNKNOWN)}

    def encode(self, words: Sequence[str], most: int | None = None) -> list[int]:
        """Return the ids of the first ``most`` cleaned words (all when None): (L,), 1 for unknown ones, never 0."""
        return [self._said.get(word, UNKNOWN_ID) for word in words[:most]]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of ``ids`` (L,) without the padding."""
        return [self.words[id] for id in ids if id != 0]

    @classmethod
    def build(cls, utterances: Iterable[Sequence[str]], legacy: bool = False) -> Vocabulary:
        """Return the vocabulary of the training part's cleaned words; raises ``InputError`` where there are none."""
        names = (PADDING, UNKNOWN, LEGACY_UNKNOWN)
        seen = dict.fromkeys(word for words in utterances for word in words if word not in names)
        if not seen:
            raise InputError("vocabulary: the training part has no words: give its utterances text, or leave text out")
        return cls((*((LEGACY_UNKNOWN,) if legacy else (PADDING, UNKNOWN)), *seen), legacy)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"words": [...], "legacy": bool}``, which :meth:`from_dict` takes."""
        return {"words": list(self.words), "legacy": self.legacy}

    @classmethod
    def from_dict(cls, value: Any, name: str = "vocabulary") -> Vocabulary:
        """Return the vocabulary that ``value`` describes; errors say ``name``, the file or field it stands in."""
        words, legacy = (value.get("words"), value.get("legacy", False)) if isinstance(value, dict) else (None, None)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or type(legacy) is not bool:
            raise InputError(f'{name}: a vocabulary is {{"words": [texts in the order of their ids], "legacy": false}}')
        try:
            return cls(tuple(words), legacy)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the words and the numbering as JSON, atomically."""
        write_text(Path(path), json.dumps(self.to_dict(), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what :meth:`save` wrote."""
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a vocabulary: {str(error).splitlines()[0]}") from error
        return cls.from_dict(value, str(path))
