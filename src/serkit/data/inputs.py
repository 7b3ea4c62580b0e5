"""Manifests, recordings and folders, as they are named on a command line, as one manifest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from serkit.data.clips import Clip, find_clips
from serkit.data.manifest import MANIFEST_SUFFIXES, Manifest
from serkit.data.recordings import short_names


def gather(names: Iterable[str | Path], root: str | Path | None = None) -> Manifest:
    """Return what is behind ``names`` in one manifest, in order.

    Manifests are those of :meth:`~serkit.data.manifest.Manifest.read`, with their ids; everything else is what
    :func:`~serkit.data.clips.find_clips` finds, under the stems of its file names, or as much of the path as tells them
    apart. Raises ``InputError`` for what cannot be read, empty folders and globs that match nothing.
    """
    parts: list[Manifest | list[Clip]] = []
    for name in map(str, names):
        path = Path(name).expanduser()
        if path.suffix.lower() in MANIFEST_SUFFIXES and path.is_file():
            parts.append(Manifest.read(path, root))
        else:
            parts.append(list(find_clips([name], root)))
    nameless = [clip.audio for part in parts if isinstance(part, list) for clip in part if clip.id == clip.audio]
    ids = dict(zip(nameless, short_names(nameless), strict=True))
    return Manifest.concat(
        part
        if isinstance(part, Manifest)
        else Manifest.from_rows({**vars(clip), "id": ids.get(clip.id, clip.id)} for clip in part)
        for part in parts
    )
