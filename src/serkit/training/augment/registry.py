"""Transforms by name: serkit's own, those of two libraries, and those that others add."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from multiprocessing.reduction import ForkingPickler
from typing import Any

from serkit.errors import InputError, nearest
from serkit.training.augment import transforms
from serkit.training.augment.binding import Change, bind
from serkit.training.augment.recorded import Background, Room, path_facts

TRANSFORMS: dict[str, Callable[..., Any]] = {
    transform.__name__: transform
    for transform in (
        transforms.trim,
        transforms.gain,
        transforms.speed,
        transforms.noise,
        transforms.tilt,
        transforms.lowpass,
        transforms.reverb,
        transforms.codec,
        transforms.pitch,
        transforms.loudness,
        transforms.time_mask,
        transforms.frequency_mask,
    )
} | {"background": Background, "room": Room}
"""serkit's own: functions of waveform, generator and parameters, or classes that make a :data:`Change`."""

GROUP = "serkit.transforms"
"""Entry points of installed packages: name to function or class."""

Registered = tuple[Callable[..., Any], int]
"""A transform and the revision of its code."""

_registered: dict[str, Registered] = {}


@dataclass(frozen=True)
class Step:
    """One transform of a chain: ``facts`` are the parameters that decide its result, ``version`` that of its code."""

    name: str
    probability: float
    facts: dict[str, Any]
    change: Change
    version: str | int | None = None


def register_transform(name: str, transform: Callable[..., Any], revision: int = 1) -> None:
    """Make ``transform`` known to chains as ``name``.

    A function takes a waveform ``(S,)`` at 16 kHz, a ``numpy.random.Generator`` and its parameters; a class takes its
    parameters, and its instances take waveform and generator. Both return the changed waveform and draw from the
    generator alone. Raise ``revision`` when the code changes: cached copies are then computed again. Raises
    ``InputError`` for names that are taken and for what cannot be sent to worker processes.
    """
    if name in TRANSFORMS or not name or "." in name:
        raise InputError(f"register_transform: {name!r} is taken, empty or has a dot: choose another name")
    try:
        ForkingPickler.dumps(transform)  # as it is sent to worker processes
    except Exception as error:  # of several kinds, all meaning that it has no name that a process could find
        raise InputError(f"register_transform: {name} must be defined at the top of a module: {error}") from error
    _registered[name] = (transform, revision)


def list_registered() -> dict[str, Registered]:
    """Return what :func:`register_transform` has added: name to transform and revision."""
    return dict(_registered)


def restore_registered(registered: Mapping[str, Registered]) -> None:
    """Register in this process what :func:`list_registered` returned in another."""
    _registered.update(registered)


def create_step(entry: Mapping[str, Any]) -> Step:
    """Turn an entry of a chain into a step; raises ``InputError`` naming what is unknown, missing or wrong."""
    options = dict(entry)
    name, probability = options.pop("name", ""), options.pop("probability", 1.0)
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise InputError(f"augment: {name}: probability must be between 0 and 1, not {probability!r}")
    change, version = _create_change(str(name), options)
    facts = path_facts(options) if name in TRANSFORMS or "." in name else options
    try:
        json.dumps(facts)
    except TypeError as error:
        raise InputError(f"augment: {name}: parameters are numbers, strings, lists and tables: {error}") from error
    return Step(name, probability, facts, change, version)


def _create_change(name: str, options: dict[str, Any]) -> tuple[Change, str | int | None]:
    """Return the change, and the version of code that is not serkit's."""
    library, _, kind = name.partition(".")
    if kind and library == "audiomentations":
        from serkit.training.augment import audiomentations_classes

        return audiomentations_classes.create(kind, options)
    if kind and library == "torch_audiomentations":
        from serkit.training.augment import torch_audiomentations_classes

        return torch_audiomentations_classes.create(kind, options), None
    if name in TRANSFORMS:
        return bind(name, TRANSFORMS[name], options), None
    if name in _registered:
        transform, revision = _registered[name]
        return bind(name, transform, options), revision
    added = {point.name: point for point in entry_points(group=GROUP)}
    if name in added:
        package = added[name].dist
        return bind(name, _load(added[name]), options), None if package is None else package.version
    raise InputError(f"augment: no transform named {name!r}{nearest(name, [*TRANSFORMS, *_registered, *added])}")


def _load(point: EntryPoint) -> Callable[..., Any]:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"augment: {point.name}: entry point {point.value!r} cannot be loaded: {error}") from error
