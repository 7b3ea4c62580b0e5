"""Figures as words, the same in the terminal and on the page; ``missing`` stands for what is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def write_columns(rows: Sequence[tuple]) -> list[str]:
    """Return the lines of a table for a terminal: the first row is its head, the first column stands left."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in text) for column in range(len(text[0]))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in text)
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
