"""What CMU's multimodal corpora share: computational sequences (``.csd``), lists of folds, spans of recordings."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path
from typing import Any

from serkit.data.audio import read_info
from serkit.data.corpora import find_table, recordings
from serkit.errors import AudioError, InputError

Segment = tuple[float, float, tuple[float, ...]]  # from and to in seconds, and its scores

FOLD_FILES = ("cmu_mosei_std_folds.py", "standard_folds.json", "folds.json")
PARTS = {"train": "train", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}


def read_csd(path: Path) -> dict[str, list[Segment]]:
    """Return the segments of every video in a computational sequence, which is HDF5: in order, with their scores.

    Raises ``InputError`` where h5py is not installed, and for a file that is no such sequence.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: is HDF5, which needs h5py: pip install h5py, or give the labels as CSV") from error
    try:
        with h5py.File(path, "r") as file:
            (sequence,) = (group for group in file.values() if "data" in group)
            return {
                video: [
                    (float(start), float(end), tuple(float(value) for value in scores))
                    for (start, end), scores in zip(entry["intervals"], entry["features"], strict=True)
                ]
                for video, entry in sequence["data"].items()
            }
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is not a computational sequence of labels ({error})") from error


def read_folds(root: Path) -> dict[str, str]:
    """Return the part of every video that a list of folds below ``root`` names; empty where there is none.

    The list is the SDK's ``cmu_mosei_std_folds.py``, whose lists are read without running it, or
    ``standard_folds.json`` or ``folds.json``, an object of such lists. Their names have train, valid (val, dev) or test
    in them. Raises ``InputError`` for a video in two parts, and where a part has no list.
    """
    path = find_table(root, *FOLD_FILES)
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        lists = json.loads(text) if path.suffix == ".json" else _assigned(text)
        parts: dict[str, str] = {}
        for name, videos in lists.items():
            part = next((part for word, part in PARTS.items() if word in name.lower().split("_")), None)
            for video in videos if part else ():
                if parts.setdefault(str(video), str(part)) != part:
                    raise InputError(f"{path}: video {video!r} is in {parts[video]} and in {part}")
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as lists of videos: {error}") from error
    if set(parts.values()) != {"train", "dev", "test"}:
        raise InputError(f"{path}: needs a list of videos for each of train, valid and test")
    return parts


def _assigned(text: str) -> dict[str, Any]:
    """Return the lists that a Python file assigns to names."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.List | ast.Tuple)
    }


def find_speech(root: Path) -> dict[str, Path]:
    """Return the recordings below ``root`` by their stems; a sound track is taken before a video."""
    found: dict[str, Path] = {}
    for path in recordings(root):
        if path.stem not in found or found[path.stem].suffix.lower() == ".mp4":
            found[path.stem] = path
    return found


class Spans:
    """Where segments lie in full recordings; a span that leaves its recording is cut to it."""

    def __init__(self) -> None:
        self._seconds: dict[Path, float | None] = {}

    def cut(self, path: Path, start: float, end: float) -> dict[str, Any] | None:
        """Return ``audio``, ``start`` and ``end`` of a segment; None where nothing of it lies in the recording."""
        if path not in self._seconds:
            try:
                self._seconds[path] = read_info(path).seconds
            except AudioError:
                self._seconds[path] = None  # the manifest's own check tells of it
        seconds = self._seconds[path]
        start, end = max(0.0, start), end if seconds is None else min(end, seconds)
        return {"audio": str(path), "start": start, "end": end} if start < end else None
