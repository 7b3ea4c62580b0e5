"""Text as the target of connectionist temporal classification (CTC): normalised transcripts and character ids.

Two ways of normalising. ``"legacy"`` is what Cai et al. 2021 (https://doi.org/10.21437/Interspeech.2021-1852) did, kept
for comparison: characters are deleted after whitespace was collapsed, so that ``"YES ."`` ends in a word delimiter and
the letters of a tag such as ``{LG}`` are learnt as if they had been said. ``"clean"`` is for everything else.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

from serkit.data.files import write_text
from serkit.errors import InputError, nearest

TextMode = Literal["legacy", "clean"]

DELIMITER = "|"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", DELIMITER)
BLANKS, UNKNOWNS = ("<pad>", "[PAD]"), ("<unk>", "[UNK]")
MISSING = "NULL"
"""What the legacy mode makes of an utterance without text."""

TAG = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<[^<>]*>")
APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ`´′＇"), "'")


@dataclass(frozen=True)
class CharTokenizer:
    """The symbols of a CTC head, in the order of its outputs: text to ids and back.

    Symbols of one character stand for themselves, ``|`` for the space between words; longer ones (``<s>``) are never
    written. ``blank`` is the id of ``<pad>`` (0 in vocabularies made here). Raises ``InputError`` for symbols that
    stand twice, and where ``<pad>`` or ``|`` is missing.

    >>> WAV2VEC2.encode("OH NO")
    [8, 11, 4, 9, 8]
    >>> WAV2VEC2.decode([8, 8, 0, 11, 4, 4, 9, 0, 8, 8], merge=True)
    'OH NO'
    """

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if twice or "" in self.symbols:
            raise InputError(f"vocabulary: symbol {twice[0] if twice else ''!r} is empty or stands more than once")
        if not set(BLANKS) & set(self.symbols) or DELIMITER not in self.symbols:
            raise InputError(f"vocabulary: needs <pad> (the blank) and {DELIMITER} (between words)")

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def blank(self) -> int:
        """The id of the CTC blank, which is also the padding."""
        return next(self.symbols.index(symbol) for symbol in BLANKS if symbol in self.symbols)

    @cached_property
    def characters(self) -> dict[str, int]:
        """The ids of symbols of one character, the word delimiter among them."""
        return {symbol: id for id, symbol in enumerate(self.symbols) if len(symbol) == 1}

    @cached_property
    def case(self) -> Literal["upper", "lower", "both"]:
        """Which letters there are: a vocabulary without lower-case letters takes its text in upper case."""
        upper = any(symbol != symbol.lower() for symbol in self.characters)
        lower = any(symbol != symbol.upper() for symbol in self.characters)
        return "both" if upper == lower else "upper" if upper else "lower"

    def encode(self, text: str) -> list[int]:
        """Return one id per character of normalised ``text``: (L,); what is not a symbol becomes ``<unk>``."""
        unknown = next((self.symbols.index(symbol) for symbol in UNKNOWNS if symbol in self.symbols), None)
        ids = (self.characters.get(DELIMITER if character == " " else character, unknown) for character in text)
        return [id for id in ids if id is not None]

    def targets(self, text: object, mode: TextMode = "clean") -> list[int]:
        """Return the ids of a transcript as it stands in a manifest: :func:`normalise`, then :meth:`encode`."""
        return self.encode(normalise(text, mode, self))

    def decode(self, ids: Iterable[int], merge: bool) -> str:
        """Return the text of ``ids`` (L,) or (T,): blanks, special symbols and negative ids are left out.

        ``merge`` (for frames, the best symbol of each): repeats count once, unless a blank stands between them.
        References, whose repeats are real, are decoded without.
        """
        kept = [int(id) for id in ids]
        if merge:
            kept = [id for id, _ in groupby(kept)]
        written = (self.symbols[id] for id in kept if id >= 0)
        return "".join(symbol for symbol in written if len(symbol) == 1).replace(DELIMITER, " ").strip()

    def save(self, path: str | Path) -> None:
        """Write the symbols as a JSON list, atomically."""
        write_text(Path(path), json.dumps(self.symbols, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> CharTokenizer:
        """Read a JSON list of symbols, or the ``vocab.json`` (symbol to id) of a Hugging Face checkpoint."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a vocabulary: {error}") from error
        if isinstance(found, dict):
            if sorted(found.values(), key=str) != sorted(range(len(found)), key=str):
                raise InputError(f"{path}: the ids of a vocabulary are 0 to {len(found) - 1}, each once")
            found = sorted(found, key=found.__getitem__)
        if not isinstance(found, list) or not all(isinstance(symbol, str) for symbol in found):
            raise InputError(f"{path}: a vocabulary is a list of symbols, or symbols with their ids")
        try:
            return cls(tuple(found))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


WAV2VEC2 = CharTokenizer((*SPECIAL, *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"))
"""The 32 symbols of facebook/wav2vec2-base-960h, which the paper's models share."""


def normalise(text: object, mode: TextMode = "clean", tokenizer: CharTokenizer = WAV2VEC2) -> str:
    """Return ``text`` with only spaces and the characters of ``tokenizer`` left.

    "clean": Unicode NFC and the case of the vocabulary; tags (``{LG}``, ``[LAUGHTER]``, ``<unk>``) go; a character that
    the vocabulary lacks becomes the plain form that it has (É to E), nothing (letters, marks, digits, apostrophes) or a
    space (other punctuation); whitespace is collapsed last. Without text the result is empty: there is no target.

    "legacy": whitespace is collapsed, then what the vocabulary lacks is deleted, its case as it stands; anything that
    is no string is "NULL". The result may end in a space or hold two in a row.

    >>> normalise("Yes. {LG} I'm  fine-ish ."), normalise("YES {LG} .", "legacy")
    ("YES I'M FINE ISH", 'YES LG ')
    """
    _check_mode(mode)
    known = tokenizer.characters
    if mode == "legacy":
        joined = " ".join(text.split()) if isinstance(text, str) else MISSING
        return "".join(character for character in joined if character == " " or character in known)
    if not isinstance(text, str):
        return ""
    text = TAG.sub(" ", unicodedata.normalize("NFC", text))
    if tokenizer.case != "both":
        text = unicodedata.normalize("NFC", text.upper() if tokenizer.case == "upper" else text.lower())
    text = "".join(_known_form(character, known) for character in text)
    return " ".join(word for word in text.split() if word.strip("'"))


def build_tokenizer(texts: Iterable[object], mode: TextMode = "clean") -> CharTokenizer:
    """Return the vocabulary of a language: the special symbols, then the characters of ``texts`` by code point.

    Give it the training part's transcripts; values that are no strings are passed over. "clean" takes letters, marks,
    digits and the apostrophe of text in Unicode NFC and lower case, without tags. A combining mark that has no composed
    form (a vowel sign of Devanagari, say) is a symbol of its own; so is every ideograph and syllable, so that a text
    written without spaces has no word delimiter, and a vocabulary of Chinese is as large as its training text makes it.
    "legacy" takes every character as it stands. Raises ``InputError`` where no character is found.
    """
    _check_mode(mode)
    found: set[str] = set()
    for text in texts:
        if not isinstance(text, str):
            continue
        if mode == "clean":
            text = TAG.sub(" ", unicodedata.normalize("NFC", text)).translate(APOSTROPHES)
            text = unicodedata.normalize("NFC", text.lower())
            found.update(character for character in text if character == "'" or _is_spoken(character))
        else:
            found.update("".join(text.split()))
    found.discard(DELIMITER)
    if not any(_is_spoken(character) for character in found):
        raise InputError("vocabulary: the training part has no text: give its utterances transcripts, or drop the task")
    return CharTokenizer((*SPECIAL, *sorted(found)))


def _check_mode(mode: str) -> None:
    if mode not in get_args(TextMode):
        raise InputError(f"no text mode {mode!r}{nearest(mode, get_args(TextMode))}")


def _is_spoken(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _known_form(character: str, known: dict[str, int]) -> str:
    """Return what stands for ``character`` in clean text."""
    if character in known and character != DELIMITER:
        return character
    plain = APOSTROPHES.get(ord(character), character)
    parts = unicodedata.normalize("NFKD", plain)
    form = "".join(part for part in parts if part in known and part != DELIMITER)
    if form or plain == "'" or _is_spoken(character) or unicodedata.category(character) == "Cf":
        return form
    return " "
