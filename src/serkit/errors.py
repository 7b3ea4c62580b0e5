"""Errors that a user can act on: one line that names the file or key, what is wrong, and what to do."""


class SerkitError(Exception):
    """Work that failed; the command line exits with 1."""


class InputError(SerkitError):
    """Input that cannot be used as given; the command line exits with 2."""


class AudioError(InputError):
    """A recording that cannot be decoded or holds nothing to recognise."""


def missing_extra(package: str, extra: str) -> InputError:
    """Return the error for an optional dependency that is not installed."""
    return InputError(f"{package} is not installed: run pip install 'serkit[{extra}]'")
