"""Read what ``torch.save`` wrote without running any of it: tensors and plain values come through, all else is inert.

PyTorch's own restricted reader (``weights_only=True``) does the work. It calls only what it knows to be harmless, and a
name it does not know it refuses; here every such name is first given an empty class that keeps what it is handed and
does nothing. So the configuration objects inside old checkpoints (argparse, omegaconf, fairseq) can be read without
their packages, and the name of a function that would do harm is just a name: nothing is imported or called.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from serkit.errors import InputError


class Inert:
    """Stands for an object of a class that is not loaded; keeps its ``arguments`` and its ``state``."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Inert:
        new = super().__new__(cls)
        new.arguments, new.state = arguments, None
        return new

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load_pickle(path: Path) -> Any:
    """Return what the ``torch.save`` file ``path`` holds, tensors on the CPU, foreign objects as :class:`Inert`.

    Reads the zip format and the one before PyTorch 1.6. Raises ``InputError`` for TorchScript archives, for pickles
    that name ``os`` or ``sys``, and for anything damaged.
    """
    try:
        names = list_names(path)
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in sorted(names)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        raise InputError(
            f"{path}: cannot be read safely as a PyTorch checkpoint ({_reason(error)}): convert it to safetensors"
        ) from error


def _reason(error: Exception) -> str:
    """Say in a few words what PyTorch says in many, among them advice to read the file without care."""
    text = " ".join(str(error).split())
    if name := re.search(r"GLOBAL (\S+)", text):
        return f"it names {name[1]}"
    said = text.partition("WeightsUnpickler error: ")[2] or ("" if "weights_only" in text else text)
    return said.partition(" Please ")[0].partition(" Check the doc")[0][:150] or "its pickle holds more than tensors"


def list_names(path: Path) -> set[str]:
    """Return every class and function that the pickles in ``path`` name, as ``module.name``; nothing is executed."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return {name for _ in range(5) for name in _names(file)}  # four headers and the object itself
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(members) != 1:
            raise ValueError("no data.pkl inside")
        with archive.open(members[0]) as member:
            return set(_names(member))


def _names(file: IO[bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield f"{module}.{name}"
            module, name = NAME_MAPPING.get((module, name), (module, name))  # protocol 2 has the names of Python 2
            yield f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _stand_in(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":
        return lambda *arguments: {}  # its items may only be put into a real dict
    return type(name, (Inert,), {})


def plain(value: Any) -> Any:
    """Turn settings as :func:`load_pickle` returns them into dicts, lists and numbers; what has no such form is None.

    Knows omegaconf's containers and nodes, ``argparse.Namespace`` and enumerations (their value).
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, Inert):
        return value if isinstance(value, str | int | float | bool) else None
    state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
    if isinstance(state, dict):
        for key in ("_content", "_val"):
            if key in state:
                return plain(state[key])
        return plain(state) if type(value).__name__ == "argparse.Namespace" else None
    return plain(value.arguments[0]) if len(value.arguments) == 1 else None
