"""Recordings that a manifest names, found in another folder, and names for those that have none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from serkit.data.audio import EXTENSIONS
from serkit.errors import InputError

PLACEHOLDER = "/path_to_wavs"
"""What published manifests write for the folder that only the reader knows."""


def find_recordings(names: Iterable[str | None], root: str | Path, manifest: str | Path) -> list[str | None]:
    """Return where the recordings ``names`` are in ``root``, absolute; None stays None.

    A name is taken relative to ``root``, less the placeholder ``/path_to_wavs``. One that is not there is looked up by
    its file name anywhere below ``root`` (corpora are nested in different ways), then by its stem with any audio
    extension. Raises ``InputError``, which names ``manifest``, for the first that is missing or stands more than once.
    """
    root, names = Path(root).expanduser().resolve(), list(names)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: the recordings of {manifest} were expected there")
    wanted = {
        name: root / (name.removeprefix(PLACEHOLDER).lstrip("/") if _placed(name) else name) for name in names if name
    }
    found = {name: os.path.normpath(path) for name, path in wanted.items() if path.is_file()}
    lost = [name for name in wanted if name not in found]
    if lost:
        index = _index(root)
        places = {name: index.get(wanted[name].name) or index.get(wanted[name].stem) or [] for name in lost}
        missing = [name for name in lost if not places[name]]
        if missing:
            more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
            raise InputError(f"{manifest}: no recording {wanted[missing[0]].name} below {root}{more}")
        for name in lost:
            if len(places[name]) > 1:
                raise InputError(f"{manifest}: {Path(name).name} is both {places[name][0]} and {places[name][1]}")
        found |= {name: str(places[name][0]) for name in lost}
    return [found[name] if name else name for name in names]


def short_names(paths: Sequence[str]) -> list[str]:
    """Return an id for every path: its stem, with as many folders before it as tell it from the others.

    Where only the extension does, it stays. A path that is there twice has the same id twice.

    >>> short_names(["x/a/1.wav", "x/b/1.wav", "x/2.wav"])
    ['a/1', 'b/1', '2']
    """
    found: dict[str, str] = {}
    left = list(dict.fromkeys(paths))
    for parts in ({path: Path(path).with_suffix("").parts for path in left}, {path: Path(path).parts for path in left}):
        for depth in range(1, max((len(parts[path]) for path in left), default=0) + 1):
            names = {path: "/".join(parts[path][-depth:]) for path in left}
            taken = Counter(names.values())
            found |= {path: name for path, name in names.items() if taken[name] == 1}
            left = [path for path in left if path not in found]
    return [found.get(path, path) for path in paths]


def _placed(name: str) -> bool:
    return name.startswith(f"{PLACEHOLDER}/")


def _index(root: Path) -> dict[str, list[Path]]:
    """Return every recording below ``root``, by file name and by stem."""
    index: dict[str, list[Path]] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            if path.suffix.lower() in EXTENSIONS and not file.startswith("."):
                for key in (path.name, path.stem):
                    index.setdefault(key, []).append(path)
    return index
