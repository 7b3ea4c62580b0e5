"""Features that a manifest brings, computed by others: ``encoder.name = "given"``.

A column says for each utterance where its features are: ``FILE.npy`` of shape ``(T, D)``, ``FILE.npz#NAME`` of shape
``(T, D)`` or ``(D,)``, or ``FILE.npz#NAME[ROW]``, a row of a matrix ``(U, D)`` or ``(U, T, D)``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serkit.data.feature_columns import split_feature
from serkit.data.folds import Fold
from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.training.sections import EncoderSection

GIVEN = "given"
PART = re.compile(r"(?:#(?P<name>.+?)(?:\[(?P<row>\d+)\])?)?")
LEARNED = "text_cnn"
"""A column of CMU-MOSI's features that was itself learned from labels: those of bc-LSTM's training part."""


def column_of(section: EncoderSection) -> str:
    """Return the column that says where features are; raises ``InputError`` for other options."""
    options = dict(section.options)
    column = options.pop("column", "features")
    if options or section.trim is not None or section.level is not None or section.limit is not None:
        raise InputError("encoder given: takes the option column alone, and neither trim, level nor limit")
    return str(column)


def read_given(manifest: Manifest, section: EncoderSection) -> list[Tensor]:
    """Return the features of every utterance as one layer, ``(1, T, D)`` float32.

    Raises ``InputError`` naming the utterance or the file.
    """
    column = column_of(section)
    if column not in manifest.table.columns:
        raise InputError(f"encoder given: the manifest has no column {column!r} that says where features are")
    files: dict[str, Any] = {}
    arrays: dict[tuple[str, str], np.ndarray] = {}
    found: list[Tensor] = []
    for id, place in manifest.table.select("id", column).iter_rows():
        values = _read(id, column, place, files, arrays)
        if values.ndim == 1:
            values = values[None]
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            raise InputError(f"utterance {id}: {place}: features are (T, D) finite numbers, got shape {values.shape}")
        if found and values.shape[1] != found[0].shape[2]:
            widths = f"{values.shape[1]} wide, those before {found[0].shape[2]}"
            raise InputError(f"utterance {id}: {place}: features are {widths}")
        found.append(torch.from_numpy(np.array(values, np.float32))[None])
    return found


def mark_given(arrays: Sequence[Tensor]) -> str:
    """Return a short hash of features: it stands for an encoder's fingerprint."""
    digest = hashlib.blake2b(b"given", digest_size=8)
    for array in arrays:
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def check_learned(manifest: Manifest, section: EncoderSection, folds: Sequence[Fold]) -> None:
    """Raise ``InputError`` where features were learned from the labels of utterances that a fold tests or watches."""
    table = manifest.table
    if section.name != GIVEN or column_of(section) != LEARNED or "split_bclstm" not in table.columns:
        return
    learned = {id for id, part in table.select("id", "split_bclstm").iter_rows() if part == "train"}
    for fold in folds:
        both = learned & {*fold.dev, *fold.test}
        if both:
            raise InputError(
                f"encoder given: {LEARNED} was learned from the labels of {len(both)} utterances that fold {fold.name} "
                f"tests or watches, such as {min(both)}: its figures would be leaks: take text with word vectors"
            )


def _read(
    id: str, column: str, place: str | None, files: dict[str, Any], arrays: dict[tuple[str, str], np.ndarray]
) -> np.ndarray:
    file, part = split_feature(place or "")
    match = PART.fullmatch(part)
    if match is None or not (file.endswith(".npy") or (file.endswith(".npz") and match["name"])):
        raise InputError(f"utterance {id}: {column} is {place!r}: write FILE.npy, FILE.npz#NAME or FILE.npz#NAME[ROW]")
    name, row = match["name"] or "", match["row"]
    try:
        if file not in files:
            files[file] = np.load(file, allow_pickle=False)
        if not name:
            return files[file]
        if row is None:
            return files[file][name]
        if (file, name) not in arrays:  # a member of an archive is read anew every time it is named
            arrays[file, name] = files[file][name]
        return arrays[file, name][int(row)]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"utterance {id}: {place}: cannot be read: {error}") from error
