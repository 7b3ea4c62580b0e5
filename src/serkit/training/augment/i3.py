"""The augmentations of experiments for wilke0818/i3_speech_emotion_recognition, as chain entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serkit.data.audio import SAMPLING_RATE
from serkit.errors import InputError, nearest
from serkit.training.augment.registry import list_registered

MODULES = ("torch_audiomentations", "audiomentations", "augmentations.custom_augmentations")
BIN = SAMPLING_RATE / 400
"""Hz; the original masks bins of a spectrogram of 400 points."""


def from_i3_augmentations(augmentations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn ``{label: {"module", "class", "tensors", ...}}`` into entries of a chain, in order.

    The original makes of each entry a copy of the training part: ``union = [[entry] for entry in entries]``.
    Parameters are kept, ``tensors`` means nothing here. A class of another module must be registered under its name
    (:func:`~serkit.training.augment.registry.register_transform`). Raises ``InputError`` naming what is missing.

    >>> from_i3_augmentations({"quiet": {"module": "audiomentations", "class": "Gain", "p": 1.0, "tensors": False}})
    [{'name': 'audiomentations.Gain', 'p': 1.0}]
    """
    return [_entry(f"augmentations.{label}", dict(options)) for label, options in augmentations.items()]


def _entry(where: str, options: dict[str, Any]) -> dict[str, Any]:
    absent = [key for key in ("module", "class") if key not in options]
    if absent:
        raise InputError(f"{where}: has no {absent[0]!r}")
    module, kind = options.pop("module"), options.pop("class")
    options.pop("tensors", None)
    if module in MODULES[:2]:
        return {"name": f"{module}.{kind}", **options}
    if module == MODULES[2] and kind == "FrequencyMask":
        return _frequency_mask(where, options)
    if kind in list_registered():
        return {"name": kind, **options}
    raise InputError(f"{where}: {module}.{kind} is not known here{nearest(module, MODULES)} or register_transform it")


def _frequency_mask(where: str, options: dict[str, Any]) -> dict[str, Any]:
    """Its width is drawn between nothing and ``freq_mask_param`` bins."""
    for key in options:
        if key not in ("freq_mask_param", "p"):
            raise InputError(f"{where}: FrequencyMask has no parameter {key!r}")
    bins = options.get("freq_mask_param")
    if not isinstance(bins, int | float) or bins <= 0:
        raise InputError(f"{where}: freq_mask_param must be a number above 0, not {bins!r}")
    widest = min(float(bins) * BIN, SAMPLING_RATE / 2)
    return {"name": "frequency_mask", "width": [0.0, widest], "probability": options.get("p", 1.0)}
