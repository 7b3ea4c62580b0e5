"""Columns of a manifest that name features which others computed.

They say ``FILE.npy``, ``FILE.npz#NAME`` or, for a row of an array, ``FILE.npz#NAME[ROW]``. Their files are absolute in
memory and relative to the manifest's folder in files, as audio is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import polars as pl

FEATURE_COLUMNS = ("features", "audio_features", "visual_features", "text_cnn")
"""The columns, as far as a manifest has them, whose files move with it."""


def split_feature(value: str) -> tuple[str, str]:
    """Divide what a feature column says into the file and, from ``#``, what of it.

    >>> split_feature("data/all.npz#audio[7]"), split_feature("one.npy")
    (('data/all.npz', '#audio[7]'), ('one.npy', ''))
    """
    match = re.match(r"(.*?\.np[yz])(#.*)?$", value, re.DOTALL)
    return (match[1], match[2] or "") if match else (value, "")


def with_feature_files(table: pl.DataFrame, change: Callable[[str], str]) -> pl.DataFrame:
    """Return ``table`` with the files of its feature columns changed."""
    for name in [name for name in FEATURE_COLUMNS if table.schema.get(name) == pl.String]:
        parts = {value: split_feature(value) for value in table[name].drop_nulls().unique()}
        files = {file: change(file) for file, _ in parts.values()}
        new = [None if value is None else files[parts[value][0]] + parts[value][1] for value in table[name]]
        table = table.with_columns(pl.Series(name, new, dtype=pl.String))
    return table
