"""Read arrays out of uncompressed joblib files without running anything that the files say.

The stream is a pickle, followed on paper (:mod:`serkit.data.pickles`). joblib puts the bytes of an array into it right
after the record that describes it (``joblib.numpy_pickle.NumpyArrayWrapper``), since joblib 1.2 after a byte count and
as many bytes of padding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.pickles import ARRAY, DTYPE, SCALARS, PickleReader, Record
from serkit.errors import InputError

__all__ = ["ARRAYS", "LARGEST", "Record", "read_joblib"]

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"

ARRAYS = frozenset({WRAPPER, ARRAY, DTYPE, *SCALARS})
"""What a joblib file of numpy arrays and numbers names."""

LARGEST = 256 * 2**20
"""Bytes: larger files are refused, heads are a hundred times smaller."""


class JoblibReader(PickleReader):
    """Follow one joblib file: a pickle of plain data, numbers and ``allowed`` records, with arrays in its stream."""

    what = "an uncompressed joblib file"
    kinds = re.compile(r"b1|[iu][1248]|f[248]")
    only = "only numbers are read"

    def _built(self, record: Record) -> Any:
        return self._array(record.state) if record.name == WRAPPER else super()._built(record)

    def _array(self, facts: Any) -> np.ndarray:
        """Read the bytes of the array that the wrapper just described."""
        subclass, shape = facts["subclass"], facts["shape"]
        if getattr(subclass, "text", None) != ARRAY:
            raise TypeError("only plain arrays are read")
        kind = self._dtype(facts["dtype"])
        if facts.get("numpy_array_alignment_bytes") is not None:
            self.file.read(self.file.read(1)[0])
        wanted = math.prod(shape) * kind.itemsize
        if not 0 <= wanted <= self.size - self.file.tell():
            raise InputError(f"{self.path}: ends inside an array of shape {shape}")
        return self._shaped(self.file.read(wanted), kind, shape, facts["order"])


def read_joblib(path: str | Path, allowed: Collection[str] = ()) -> Any:
    """Return the content of an uncompressed joblib file: plain data and numpy arrays.

    The names in ``allowed`` (``module.name``) may occur besides those of arrays (:data:`ARRAYS`) and become
    :class:`Record` objects. Nothing is imported or called. Raises ``InputError`` naming the file for any other name,
    for arrays of objects, and for files that are compressed, damaged or too large.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: is larger than {LARGEST // 2**20} MiB, which no head is")
    return JoblibReader(path.read_bytes(), path, ARRAYS | set(allowed)).read()
