"""Waveforms to frames. An encoder is a module of this package that registers itself; being there is enough."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from serkit.encoders.base import ENCODERS, Encoder, EncoderEntry, FrameFeatures
from serkit.encoders.presets import PRESETS, Preset
from serkit.errors import InputError, nearest

__all__ = ["Encoder", "EncoderEntry", "FrameFeatures", "Preset", "create_encoder", "list_encoders", "list_presets"]


def list_encoders() -> list[EncoderEntry]:
    """Return every registered encoder, by name."""
    for leaf in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{leaf.name}")
    return [entry for _, entry in sorted(ENCODERS.items())]


def list_presets() -> list[Preset]:
    """Return the names of published encoders that :func:`create_encoder` takes as well, by family."""
    return list(PRESETS.values())


def create_encoder(
    name: str, trim: float | None = None, level: float | None = None, limit: float | None = None, **options: Any
) -> Encoder:
    """Build the encoder or preset called ``name`` with its own ``options`` (see ``create`` in its module).

    A preset is an encoder with some options given; ``options`` go before them, so that ``weights`` may be a local copy.
    ``trim`` (dB below the loudest frame, such as 35) cuts silence at both ends, ``level`` (dB full scale, such as -23)
    levels the speech, ``limit`` (seconds) keeps the beginning only; None leaves the recordings as they are.
    """
    entries = {entry.name: entry for entry in list_encoders()}
    if name not in entries and name not in PRESETS:
        raise InputError(f"no encoder named {name!r}{nearest(name, [*entries, *PRESETS])}")
    family, given = name, {}
    if name in PRESETS:
        family, given = PRESETS[name].family, PRESETS[name].options
    try:
        encoder = entries[family].create(**{**given, **options})
    except TypeError as error:
        raise InputError(f"encoder {name}: {error}") from error
    encoder.trim = None if trim is None else float(trim)
    encoder.level = None if level is None else float(level)
    encoder.limit = None if limit is None else float(limit)
    return encoder
