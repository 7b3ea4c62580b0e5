"""One colour for every class, the same in figures and on the web page."""

from __future__ import annotations

from collections.abc import Iterable

COLOURS = {
    "angry": "#c64710",
    "happy": "#f5aa00",
    "sad": "#1a71ff",
    "neutral": "#b8b7a9",
    "fearful": "#73308d",
    "disgusted": "#17593b",
    "surprised": "#22cdee",
    "calm": "#8fcf8a",
    "bored": "#8a6d4b",
    "excited": "#ffd97a",
    "frustrated": "#e88aa8",
    "contempt": "#5b6b2f",
    "positive": "#f5aa00",
    "negative": "#1a71ff",
    "other": "#6f7479",
    "unknown": "#d9dadc",
}
"""Hex colour by class name. The first seven are at least 30 apart (CIE76, Lab) for normal, protanope, deuteranope and
tritanope vision (Machado et al. 2009) and have a contrast of at least 1.9 with white and with #121519; classes that
rarely stand beside them are told apart by their names, which stand wherever there is room."""

FALLBACK = ("#a3456b", "#4f8f8b", "#9a7fd1", "#b58b2a", "#3f4f8a", "#7fb3d5", "#c98f6b", "#44663a")
"""For classes without a colour of their own, in their order; after eight they begin again."""


def class_colours(classes: Iterable[str]) -> dict[str, str]:
    """Return the hex colour of every class: its own, else the next of :data:`FALLBACK`.

    >>> class_colours(["happy", "sarcastic"])
    {'happy': '#f5aa00', 'sarcastic': '#a3456b'}
    """
    found: dict[str, str] = {}
    others = 0
    for name in dict.fromkeys(classes):
        if name in COLOURS:
            found[name] = COLOURS[name]
        else:
            found[name] = FALLBACK[others % len(FALLBACK)]
            others += 1
    return found
