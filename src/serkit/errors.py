"""Errors that a user can act on: one line that names the file or key, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SerkitError(Exception):
    """Work that failed; the command line exits with 1."""


class InputError(SerkitError):
    """Input that cannot be used as given; the command line exits with 2."""


class AudioError(InputError):
    """A recording that cannot be decoded or holds nothing to recognise."""


def missing_extra(package: str, extra: str) -> InputError:
    """Return the error for an optional dependency that is not installed."""
    return InputError(f"{package} is not installed: run pip install 'serkit[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown ``name``: the nearest known one, or all of them."""
    known = list(known)
    near = get_close_matches(name, known, 1)
    return f": did you mean {near[0]!r}?" if near else f" (known: {', '.join(known)})"
