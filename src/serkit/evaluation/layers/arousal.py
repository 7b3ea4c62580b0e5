"""Low and high arousal as colours: red and blue tones, as in the maps of emotion2vec's paper."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from serkit.evaluation.predictions import UNKNOWN, sorted_names

LEVELS = {
    "angry": "high",
    "excited": "high",
    "fearful": "high",
    "frustrated": "high",
    "happy": "high",
    "surprised": "high",
    "bored": "low",
    "calm": "low",
    "sad": "low",
    "neutral": "middle",
    "disgusted": "middle",
}
"""Arousal of classes: the upper and the lower half of Russell's circumplex (1980, https://doi.org/10.1037/h0077714).

There afraid stands for fearful and astonished for surprised; happy lies only just in the upper half. Neutral is its
centre, and disgusted is not among its words. It is a convention of the words, not what a recording sounds like.
"""
TONES = {
    "low": ("#a50f15", "#e34a33", "#fc8d62", "#7f2704"),
    "high": ("#08306b", "#2171b5", "#41a0d8", "#5e4fa2", "#1c9099", "#9ecae1"),
    "middle": ("#7a7a7a", "#b0b0b0"),
    UNKNOWN: ("#d9d9d9",),
}
"""Colours of the classes of a level, one after the other."""
SCALE = ("#b2182b", "#b8b8b8", "#2166ac")
"""Low, middle and high of rated arousal."""


def derive_arousal(emotions: pl.Series) -> pl.Series:
    """Return the column ``arousal`` of classes: the level, and the class in brackets.

    >>> derive_arousal(pl.Series(["angry", "sad", None, "proud"])).to_list()
    ['high (angry)', 'low (sad)', None, 'unknown (proud)']
    """
    named = [None if name is None else f"{LEVELS.get(name, UNKNOWN)} ({name})" for name in emotions]
    return pl.Series("arousal", named, dtype=pl.String)


def is_derived(column: pl.Series) -> bool:
    """Whether a column is one of :func:`derive_arousal`."""
    return column.name == "arousal" and column.dtype == pl.String


def level_of(name: str) -> str:
    """Return the level of a value of :func:`derive_arousal`."""
    return name.partition(" ")[0]


def tones(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Return the colour of values of :func:`derive_arousal` and their place in their level; low ones come first."""
    order = ["low", "middle", "high", UNKNOWN]
    found: dict[str, tuple[str, int]] = {}
    for level in order:
        same = [name for name in sorted_names(pl.Series(list(names))) if level_of(name) == level]
        for place, name in enumerate(same):
            found[name] = TONES[level][place % len(TONES[level])], place
    return found
