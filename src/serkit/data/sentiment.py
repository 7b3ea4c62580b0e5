"""Sentiment and emotion scores of MOSI and MOSEI as class names.

A segment's sentiment is the mean of its annotators on a scale from -3 to 3. Two classes are made of it by merging
"neutral" into one of the others or dropping it, as the label scheme of an experiment says.
"""

from __future__ import annotations

import math

from serkit.errors import InputError

SENTIMENT = ("negative", "neutral", "positive")
SENTIMENT7 = (
    "strongly negative",
    "negative",
    "weakly negative",
    "neutral",
    "weakly positive",
    "positive",
    "strongly positive",
)
"""The seven classes in order, -3 to 3."""

MOSEI_EMOTIONS = ("happy", "sad", "angry", "surprised", "disgusted", "fearful")
"""MOSEI's emotions in the order of its labels; each has a score from 0 to 3 and is present where it is above 0."""


def name_sentiment(score: float) -> str:
    """Return "negative", "neutral" (exactly 0) or "positive"."""
    return SENTIMENT[(_checked(score) > 0) - (score < 0) + 1]


def name_sentiment7(score: float) -> str:
    """Return one of :data:`SENTIMENT7` as the CMU Multimodal SDK divides MOSEI: scores are rounded away from 0.

    >>> [name_sentiment7(score) for score in (-2.01, -2, -1, 0, 1, 1.01)]
    ['strongly negative', 'negative', 'weakly negative', 'neutral', 'weakly positive', 'positive']
    """
    return SENTIMENT7[(math.floor if _checked(score) < 0 else math.ceil)(score) + 3]


def round_sentiment7(score: float) -> str:
    """Return one of :data:`SENTIMENT7` as MOSI is divided: by the nearest whole number, halves to the even one."""
    return SENTIMENT7[round(_checked(score)) + 3]


def _checked(score: float) -> float:
    if not -3 <= score <= 3:
        raise InputError(f"sentiment is {score}, outside -3 to 3")
    return score
