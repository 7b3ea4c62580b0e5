"""Figures as words, the same in the terminal and on the page; ``missing`` stands for what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def write_number(value: float | None, digits: int = 3, *, missing: str) -> str:
    """Return ``value`` with ``digits`` decimals."""
    return missing if value is None else f"{value:.{digits}f}"


def write_interval(made: Mapping[str, Any], *, missing: str) -> str:
    """Return the interval of a figure: ``low to high``."""
    return missing if made["low"] is None else f"{made['low']:.3f} to {made['high']:.3f}"


def write_words(value: Any, *, missing: str) -> str:
    """Return text, numbers, lists and tables of provenance on one line."""
    if value is None:
        return missing
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {write_words(entry, missing=missing)}" for key, entry in value.items())
    return ", ".join(write_words(entry, missing=missing) for entry in value) if isinstance(value, list) else str(value)
