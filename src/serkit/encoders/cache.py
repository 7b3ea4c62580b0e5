"""The feature cache: frames of any encoder, computed once, read back memory-mapped and without padding.

A cache folder has one sub-folder per encoder fingerprint. Every process that adds features writes a shard of its own:
``<shard>.pooled`` (float32 records ``(2, N, D)``: mean and standard deviation over time), ``<shard>.frames`` (records
``(N, T, D)``, when frames are wanted: float16, or float32 where the encoder's ``precision`` says so, and then its index
lines as well) and ``<shard>.index``, one JSON line per utterance, written after its data. Nothing is ever changed in
place: writers cannot disturb each other, and a killed one loses only its last record.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.encoders.base import Precision
from serkit.errors import SerkitError


@dataclass(frozen=True)
class Record:
    """Where an utterance lies: ``shard``, ``number`` in its pooled file, ``offset`` in its frames file or None."""

    shard: str
    number: int
    frames: int
    offset: int | None
    pooled_crc: int
    frames_crc: int | None
    dtype: str = "float16"


def start_key(audio: bytes = b"") -> Any:
    """Return the hash that becomes a :func:`feature_key`; a long file's bytes may be given to it piece by piece."""
    return hashlib.blake2b(audio, digest_size=16)


def feature_key(audio: Any, start: float | None, end: float | None, recipe: str = "") -> str:
    """Return the content address of an utterance: its file's bytes, its span, and what was done to the waveform.

    ``audio`` is those bytes, or the :func:`start_key` that has taken them.
    """
    digest = start_key(audio) if isinstance(audio, bytes) else audio.copy()
    digest.update(f"|{start}|{end}|{recipe}".encode())
    return digest.hexdigest()


class FeatureCache:
    """Features of one encoder in ``folder / fingerprint``.

    ``num_layers`` (``N``), ``dim`` (``D``) and ``dtype`` (its ``precision``) must be those of the encoder. Reading
    verifies each record once; a damaged or cut file raises :class:`~serkit.errors.SerkitError` with its name.
    """

    def __init__(
        self, folder: str | Path, fingerprint: str, num_layers: int, dim: int, dtype: Precision = "float16"
    ) -> None:
        self.folder = Path(folder) / fingerprint
        self.shape = (num_layers, dim)
        self.dtype: Precision = dtype
        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer: _Writer | None = None
        self._maps: dict[str, np.memmap] = {}
        self._verified: set[tuple[str, int, str]] = set()
        self.records: dict[str, Record] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the index files again, to see what other processes have added."""
        self._maps.clear()
        for index in sorted(self.folder.glob("*.index")):
            # The index first: another process may be writing, and its data files are always ahead of its index.
            lines = index.read_text(encoding="utf-8").split("\n")[:-1]
            sizes = {suffix: _size(index.with_suffix(suffix)) for suffix in (".pooled", ".frames")}
            for line in lines:
                key, record = _parse(line, index)
                if record.dtype != self.dtype:
                    raise SerkitError(
                        f"{index}: holds frames of {record.dtype}, not {self.dtype}: delete {index.stem}.* to recompute"
                    )
                complete = (record.number + 1) * self._pooled_bytes <= sizes[".pooled"] and (
                    record.offset is None or record.offset + self._frame_bytes(record.frames) <= sizes[".frames"]
                )
                if not complete:
                    raise SerkitError(
                        f"{index}: its data files are shorter than it says: delete {index.stem}.* to recompute"
                    )
                if key not in self.records or record.offset is not None:
                    self.records[key] = record

    @property
    def _pooled_bytes(self) -> int:
        return 2 * self.shape[0] * self.shape[1] * 4

    def _frame_bytes(self, frames: int) -> int:
        return self.shape[0] * frames * self.shape[1] * np.dtype(self.dtype).itemsize

    def has(self, key: str, frames: bool = False) -> bool:
        """Tell whether ``key`` is cached, with its ``frames`` when those are needed."""
        record = self.records.get(key)
        return record is not None and (not frames or record.offset is not None)

    def add(self, key: str, frames: np.ndarray, keep_frames: bool = True) -> None:
        """Store the hidden states ``frames (N, T, D)`` of an utterance: pooled always, as frames on request."""
        if frames.ndim != 3 or (frames.shape[0], frames.shape[2]) != self.shape or frames.shape[1] == 0:
            raise ValueError(f"expected frames of shape ({self.shape[0]}, T, {self.shape[1]}), got {frames.shape}")
        if self._writer is None:
            self._writer = _Writer(self.folder, self.dtype)
        pooled = np.stack([_statistics(layer) for layer in frames], 1)
        self.records[key] = self._writer.write(
            key, pooled, frames.astype(self.dtype) if keep_frames else None, frames.shape[1]
        )

    def pooled(self, key: str) -> np.ndarray:
        """Return mean and standard deviation over time, float32 ``(2, N, D)``."""
        record = self._record(key)
        raw = self._read(record.shard, ".pooled", record.number * self._pooled_bytes, self._pooled_bytes)
        self._verify(key, ".pooled", raw, record.pooled_crc, record)
        return raw.view(np.float32).reshape(2, *self.shape)

    def frames(self, key: str) -> np.ndarray:
        """Return the hidden states as a view ``(N, T, D)`` of the file, which writing to it does not change."""
        record = self._record(key)
        if record.offset is None:
            raise KeyError(f"{key}: only pooled statistics are cached")
        raw = self._read(record.shard, ".frames", record.offset, self._frame_bytes(record.frames))
        self._verify(key, ".frames", raw, record.frames_crc, record)
        return raw.view(self.dtype).reshape(self.shape[0], record.frames, self.shape[1])

    def lengths(self, keys: list[str]) -> np.ndarray:
        """Return the number of frames of each key, int64."""
        return np.array([self._record(key).frames for key in keys], dtype=np.int64)

    def _record(self, key: str) -> Record:
        if key not in self.records:
            raise KeyError(f"{key}: is not in the cache {self.folder}")
        return self.records[key]

    def _read(self, shard: str, suffix: str, offset: int, size: int) -> np.ndarray:
        name = shard + suffix
        if name not in self._maps or offset + size > len(self._maps[name]):
            # Copy on write: torch wants writable memory, and the file must not change.
            self._maps[name] = np.memmap(self.folder / name, np.uint8, "c")
        return self._maps[name][offset : offset + size]

    def _verify(self, key: str, suffix: str, raw: np.ndarray, crc: int | None, record: Record) -> None:
        place = (record.shard, record.number, suffix)  # not the key: frames added later are a record of their own
        if place in self._verified:
            return
        if zlib.crc32(raw.data) != crc:
            raise SerkitError(
                f"{self.folder / record.shard}{suffix}: is damaged (at {key}): delete {record.shard}.* to recompute"
            )
        self._verified.add(place)


def _statistics(layer: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation ``(2, D)`` of ``layer (T, D)``; one layer fits the processor's cache."""
    wide = layer.astype(np.float64)  # the statistics must not depend on how long the clip is
    mean = wide.mean(0)
    wide -= mean
    return np.stack([mean, np.sqrt(np.einsum("td,td->d", wide, wide) / len(wide))]).astype(np.float32)


class _Writer:
    """One process's shard; its files are opened when the first utterance comes."""

    def __init__(self, folder: Path, dtype: Precision) -> None:
        self.shard, self.dtype = uuid.uuid4().hex[:12], dtype
        self.pooled, self.frames, self.index = (
            (folder / f"{self.shard}{suffix}").open("ab") for suffix in (".pooled", ".frames", ".index")
        )
        self.number = 0

    def write(self, key: str, pooled: np.ndarray, frames: np.ndarray | None, length: int) -> Record:
        self.pooled.write(pooled.tobytes())
        self.pooled.flush()
        offset = crc = None
        if frames is not None:
            data = np.ascontiguousarray(frames).data.cast("B")
            offset, crc = self.frames.tell(), zlib.crc32(data)
            self.frames.write(data)
            self.frames.flush()
        record = Record(self.shard, self.number, length, offset, zlib.crc32(pooled.tobytes()), crc, self.dtype)
        line: dict[str, Any] = {"key": key, **vars(record)}
        if self.dtype == "float16":
            del line["dtype"]  # as it was before there was another
        self.index.write((json.dumps(line) + "\n").encode())
        self.index.flush()
        self.number += 1
        return record


def _parse(line: str, index: Path) -> tuple[str, Record]:
    try:
        fields = json.loads(line)
        return fields.pop("key"), Record(**fields)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise SerkitError(f"{index}: is damaged: delete {index.stem}.* to recompute") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
