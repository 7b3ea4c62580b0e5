"""What FunASR's ``generate`` takes as input, as recordings with keys: paths, lists of them, bytes, arrays, lists.

Keys are FunASR's: the name of a file without folder and ending, the id of a list, and ``rand_key_`` with 13 letters or
digits for what has no name. Three things differ, because there they are mistakes: every nameless recording of a list
gets a key of its own, a line of a list without an id gets the name of its file, and JSON is read as JSON.
"""

from __future__ import annotations

import io
import json
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.audio import SAMPLING_RATE, Source, stream_audio, to_mono
from serkit.errors import AudioError, InputError

LISTS = (".scp", ".txt", ".text", ".json", ".jsonl")
MOST_CHANNELS = 8
"""An array with so many rows or columns at most, and 25 ms of samples along the other axis, is channels of sound."""
CONTAINERS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"\x1aE\xdf\xa3")
"""How files in a container begin; MP3 frames and MP4 boxes are recognised beside them."""


@dataclass(frozen=True)
class Recording:
    """One thing to recognise: ``audio`` is a path, an open file or an array at ``sampling_rate``, under its ``key``."""

    key: str
    audio: Source | np.ndarray
    sampling_rate: int = SAMPLING_RATE
    start: float | None = None
    end: float | None = None

    def blocks(self, rate: int = SAMPLING_RATE) -> Iterator[np.ndarray]:
        """Yield mono float32 blocks at ``rate`` Hz; raises ``AudioError`` naming the file or the key."""
        if not isinstance(self.audio, np.ndarray):
            yield from stream_audio(self.audio, self.start, self.end, sampling_rate=rate)
            return
        try:
            yield to_mono(self.audio, self.sampling_rate, rate)
        except AudioError as error:
            raise AudioError(str(error).replace("array", self.key, 1)) from error


def read_inputs(source: Any, key: Any = None, rate: int = SAMPLING_RATE) -> Iterator[Recording]:
    """Yield the recordings of ``source`` in order; arrays and raw bytes are at ``rate`` Hz.

    ``key`` is the key of a single recording, or those of a list. Raises ``InputError`` for lists that cannot be read
    and for things that are no recordings.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() in LISTS:
        yield from _read_list(Path(source))
    elif isinstance(source, list | tuple):
        keys = [None] * len(source) if key is None else [key] if isinstance(key, str) else list(key)
        if len(keys) != len(source):
            raise InputError(f"key: {len(keys)} keys for {len(source)} recordings: give one for each")
        for number, (each, name) in enumerate(zip(source, keys, strict=True), 1):
            if isinstance(each, bool | int | float | list | tuple | dict | None):
                raise InputError(f"input: item {number} is no recording: give numbers as one array")
            yield _read_one(each, name, rate)
    else:
        yield _read_one(source, key, rate)


def _read_one(source: Any, key: str | None, rate: int) -> Recording:
    if isinstance(source, str | Path):
        if str(source).startswith(("http://", "https://")):
            raise InputError(f"{source}: is an address, and nothing is downloaded here: give a file")
        return Recording(key or _stem(source), str(source))
    key = key or "rand_key_" + "".join(random.Random().choices(string.ascii_letters + string.digits, k=13))
    if isinstance(source, bytes | bytearray):
        return Recording(key, _from_bytes(bytes(source), key), rate)
    if hasattr(source, "read"):
        return Recording(key, source)
    if hasattr(source, "detach"):  # a tensor, without PyTorch being imported here
        source = source.detach().cpu().numpy()
    if not hasattr(source, "__array__"):
        raise InputError(f"input: {type(source).__name__} is no recording: give a path, bytes, an array or a list")
    return Recording(key, to_columns(np.asarray(source), key), rate)


def to_columns(array: np.ndarray, key: str = "array") -> np.ndarray:
    """Return sound ``(S,)`` or ``(S, channels)``, whichever axis of ``array`` is time: FunASR puts them end to end.

    Raises ``AudioError`` where it is not clear.
    """
    array = array.reshape([size for size in array.shape if size != 1] or [-1])
    if array.ndim == 1:
        return array
    if array.ndim == 2 and min(array.shape) <= MOST_CHANNELS and max(array.shape) >= SAMPLING_RATE // 40:
        return array if array.shape[0] > array.shape[1] else array.T
    raise AudioError(f"{key}: an array of shape {array.shape} is no recording: give (S,) or (channels, S)")


def _from_bytes(data: bytes, key: str) -> io.BytesIO | np.ndarray:
    boxes = data[4:8] == b"ftyp"
    frames = len(data) > 2 and data[0] == 0xFF and data[1] & 0xE6 in (0xE2, 0xE4, 0xE6) and data[2] >> 4 not in (0, 15)
    if data.startswith(CONTAINERS) or boxes or frames:
        file = io.BytesIO(data)
        file.name = key
        return file
    if len(data) % 2 or not data:
        raise AudioError(f"{key}: {len(data)} bytes are neither a file nor 16-bit samples")
    return np.frombuffer(data, "<i2")


def _stem(path: Any) -> str:
    return Path(str(path)).stem


def _read_list(path: Path) -> Iterator[Recording]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_json_rows(text) if path.suffix.lower() in (".json", ".jsonl") else _scp_rows(text))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not rows:
        raise InputError(f"{path}: lists no recording")
    for source, key in rows:
        beside = path.parent / source
        place = str(beside) if not Path(source).exists() and beside.exists() else source
        yield _read_one(place, key, SAMPLING_RATE)


def _scp_rows(text: str) -> Iterator[tuple[str, str | None]]:
    for line in text.splitlines():
        fields = line.split(maxsplit=1)
        if fields:
            yield fields[-1].strip(), fields[0] if fields[1:] else None


def _json_rows(text: str) -> Iterator[tuple[str, str | None]]:
    try:
        whole = json.loads(text)
        rows = whole if isinstance(whole, list) else [whole]
    except ValueError:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        row = {"source": row} if isinstance(row, str) else row
        if not isinstance(row, dict) or not isinstance(row.get("source"), str):
            raise ValueError(f'entry {number} names no recording: write {{"source": PATH, "key": ID}}')
        yield row["source"], None if row.get("key") is None else str(row["key"])
