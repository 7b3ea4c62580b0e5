"""A transform with its parameters checked and bound: a change, which is ready to be applied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from serkit.errors import InputError, nearest

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Takes a waveform ``(S,)``, float64, at 16 kHz and a generator for all that it draws; returns the changed waveform."""


def bind(name: str, transform: Callable[..., Any], options: Mapping[str, Any], extra: Iterable[str] = ()) -> Change:
    """Give ``transform`` its parameters; ``extra`` names further ones that its users may give, for error messages."""
    kind = inspect.isclass(transform)
    every = list(inspect.signature(transform).parameters.values())[0 if kind else 2 :]
    known = {parameter.name: parameter for parameter in every if parameter.kind is not parameter.VAR_KEYWORD}
    open_ended = len(known) < len(every)
    for key in options:
        if key not in known and not open_ended:
            raise InputError(f"augment: {name} has no parameter {key!r}{nearest(key, [*known, *extra])}")
    for parameter in known.values():
        if parameter.default is parameter.empty and parameter.name not in options:
            raise InputError(f"augment: {name} needs the parameter {parameter.name!r}")
    if not kind:
        return partial(_call, transform, dict(options))
    try:
        return transform(**options)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"augment: {name}: {str(error) or 'a parameter is out of range'}") from error


def _call(
    transform: Callable[..., np.ndarray], options: dict[str, Any], x: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    return transform(x, rng, **options)
