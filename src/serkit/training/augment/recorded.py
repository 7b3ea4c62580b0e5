"""Transforms that take recordings from a folder: background noise and the responses of rooms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import fftconvolve

from serkit.data.audio import EXTENSIONS, SAMPLING_RATE, read_audio, read_info
from serkit.errors import InputError
from serkit.training.augment.levels import Range, active_rms, rms

Folder = str | Path | Sequence[str | Path]
"""A folder, searched with its sub-folders, or a recording, or a list of those."""

PATHS = {"folder", "sounds_path", "ir_path", "background_paths", "ir_paths"}
"""Parameters, of serkit and of the libraries, that name recordings."""


class Background:
    """Add recorded noise ``snr`` dB below the speech: stretches of recordings of ``folder``, joined to the length."""

    def __init__(self, folder: Folder, snr: Range = (5, 30)) -> None:
        self.files = list_recordings(folder)
        self.snr = snr

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the noisy waveform ``(S,)``."""
        added = draw_background(self.files, len(x), rng)
        return x + added * active_rms(x) * 10 ** (-rng.uniform(*self.snr) / 20)


class Room:
    """Put it into a recorded room: an impulse response of ``folder``, whose largest peak is the direct sound.

    The direct sound stays where it is and as loud as it is.
    """

    def __init__(self, folder: Folder) -> None:
        self.files = list_recordings(folder)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the waveform ``(S,)`` in the room."""
        response = draw_response(self.files, rng)
        peak = int(np.abs(response).argmax())
        return fftconvolve(x, response / (response[peak] or 1.0))[peak : peak + len(x)]


def list_recordings(folder: Folder) -> list[Path]:
    """Return the recordings of ``folder``, sorted. Raises ``InputError`` when there are none."""
    names = [folder] if isinstance(folder, str | Path) else list(folder)
    found: list[Path] = []
    for name in map(Path, names):
        inside = sorted(name.rglob("*")) if name.is_dir() else [name] if name.is_file() else []
        inside = [path for path in inside if path.suffix.lower() in EXTENSIONS and path.is_file()]
        if not inside:
            raise InputError(f"augment: {name}: no recordings there: name a folder that has some")
        found += inside
    if not found:
        raise InputError("augment: an empty list of folders: name one that has recordings")
    return found


def path_facts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with a hash of names and sizes in place of recordings: where a folder is decides nothing."""
    return {key: _hash(value) if key in PATHS else _nested_facts(value) for key, value in options.items()}


def _nested_facts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return path_facts(value)
    return [_nested_facts(each) for each in value] if isinstance(value, list | tuple) else value


def _hash(folder: Folder) -> str:
    facts = []
    for name in [folder] if isinstance(folder, str | Path) else folder:
        for path in list_recordings(name):
            own = path.relative_to(name).as_posix() if Path(name).is_dir() else path.name
            facts.append((own, path.stat().st_size))
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def draw_background(files: Sequence[Path], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``(samples,)`` of level one (root mean square) from recordings drawn at random, each at level one."""
    pieces, missing = [], samples
    while missing > 0:
        path = files[int(rng.integers(len(files)))]
        seconds, needed = _seconds(path), missing / SAMPLING_RATE + 0.01
        if seconds is not None and seconds > needed:
            start = rng.uniform(0, seconds - needed)
            piece = read_audio(path, start, start + needed)[:missing].astype(np.float64)
        else:
            piece = read_audio(path)[:missing].astype(np.float64)
        pieces.append(piece / max(rms(piece), 1e-8))
        missing -= len(piece)
    joined = np.concatenate(pieces)
    return joined / max(rms(joined), 1e-8)


def draw_response(files: Sequence[Path], rng: np.random.Generator) -> np.ndarray:
    """Return one of ``files``, drawn at random, as ``(S,)`` at 16 kHz."""
    return _read_response(files[int(rng.integers(len(files)))]).astype(np.float64)


@lru_cache(256)
def _read_response(path: Path) -> np.ndarray:
    return read_audio(path)


@lru_cache(None)
def _seconds(path: Path) -> float | None:
    return read_info(path).seconds
