"""Fixtures for the tests of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_files() -> Callable[[Path, Iterable[str]], Path]:
    """``make_files(root, names)`` makes empty files, all that a corpus is read from, and returns the root."""

    def make(root: Path, names: Iterable[str]) -> Path:
        made = set()
        for name in names:
            path = root / name
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            path.touch()
        return root

    return make
