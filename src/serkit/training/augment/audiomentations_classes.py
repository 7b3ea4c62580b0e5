"""Classes of audiomentations by name, drawing from a seed of their own.

They draw from the generators that Python and NumPy share among all; these are put back as they were. Other threads
that draw from them meanwhile would be disturbed: serkit's own code does not.
"""

from __future__ import annotations

import inspect
import random
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import python_stretch

from serkit.data.audio import SAMPLING_RATE
from serkit.errors import AudioError, InputError, missing_extra, nearest
from serkit.training.augment.binding import Change, bind
from serkit.training.augment.levels import integrated_loudness
from serkit.training.augment.recorded import PATHS, list_recordings

_lock = threading.RLock()


def create(kind: str, options: Mapping[str, Any]) -> tuple[Change, str]:
    """Return the class ``kind`` with its parameters, and the version of the package.

    Parameters that are transforms themselves (``transforms`` of ``OneOf``, ``noise_transform``) are entries with a
    ``name``. Raises ``InputError`` with the nearest name.
    """
    return Seeded(f"audiomentations.{kind}", dict(options)), _package().__version__


class Seeded:
    """An instance of an audiomentations class as a change."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, options
        self.transform = _create(name, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return Seeded, (self.name, self.options)

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the changed waveform ``(S,)``."""
        with seeded_globals(int(rng.integers(2**32))):
            try:
                changed = self.transform(x.astype(np.float32), SAMPLING_RATE)
            except ImportError as error:
                package = str(error.name).replace("_", "-")
                raise InputError(f"augment: {self.name} needs a package more: run pip install {package}") from error
            except Exception as error:
                raise AudioError(f"augment: {self.name}: {str(error) or type(error).__name__}") from error
        return np.asarray(changed, np.float64)


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed the generators of ``random`` and ``numpy.random``, and put them back as they were."""
    with _lock:
        before, numpy_before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)


def _create(name: str, options: Mapping[str, Any]) -> Any:
    kind = name.removeprefix("audiomentations.")
    found = _classes().get(kind)
    if found is None:
        known = [f"audiomentations.{each}" for each in _classes()]
        raise InputError(f"augment: no transform named {name!r}{nearest(name, known)}")
    given = {}
    for key, value in options.items():
        if key in PATHS:
            given[key] = [str(path) for path in list_recordings(value)]
        else:
            given[key] = _create_inner(value)
    if "transform" in inspect.signature(found).parameters:  # Lambda
        raise InputError(f"augment: {name} takes a function: use register_transform")
    return bind(name, found, given)


def _create_inner(value: Any) -> Any:
    """Return ``value`` with entries in it replaced by transforms."""
    if isinstance(value, Mapping) and "name" in value:
        options = {key: each for key, each in value.items() if key != "name"}
        if not str(value["name"]).startswith("audiomentations."):
            raise InputError(f"augment: {value['name']!r} stands in a class of audiomentations: it takes its own only")
        return _create(str(value["name"]), options)
    if not isinstance(value, list | tuple):
        return value
    every = [_create_inner(each) for each in value]
    return every if any(isinstance(each, Mapping) for each in value) else tuple(every)  # SomeOf wants (1, 2)


@cache
def _package() -> Any:
    try:
        import audiomentations
    except ImportError as error:
        raise missing_extra("audiomentations", "train") from error
    warnings.filterwarnings("ignore", ".* had to be resampled from", module="audiomentations")
    return audiomentations


@cache
def _classes() -> dict[str, type]:
    package = _package()
    every = {name: value for name, value in vars(package).items() if inspect.isclass(value)}
    own = {name: value for name, value in sorted(every.items()) if value.__module__.startswith("audiomentations.")}
    return {
        **own,
        "LoudnessNormalization": _measured_by_pyloudnorm(package.LoudnessNormalization),
        "TimeStretch": _seeded(package.TimeStretch),
    }


def _measured_by_pyloudnorm(normalisation: type) -> type:
    """Return a class that needs no package beyond those of serkit to do what ``LoudnessNormalization`` does."""

    class LoudnessNormalization(normalisation):
        def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
            self.parameters["should_apply"] = random.random() < self.p
            if self.parameters["should_apply"]:
                self.parameters["loudness"] = integrated_loudness(samples)
                self.parameters["lufs"] = random.uniform(self.min_lufs, self.max_lufs)

    return LoudnessNormalization


def _seeded(stretching: type) -> type:
    """Return a ``TimeStretch`` whose stretcher is seeded: to below half the speed it draws, from the system."""

    class TimeStretch(stretching):
        def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
            if self.method != "signalsmith_stretch":
                return super().apply(samples, sample_rate)
            stretch = python_stretch.Signalsmith.Stretch(random.getrandbits(31))
            stretch.preset(1, sample_rate)
            stretch.setTimeFactor(self.parameters["rate"])
            stretched = np.asarray(stretch.process(samples[None]))[0]
            if not self.leave_length_unchanged:
                return stretched
            return np.pad(stretched[: len(samples)], (0, max(0, len(samples) - len(stretched))))

    return TimeStretch
