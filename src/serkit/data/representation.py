"""What an encoder says of every utterance of a manifest, layer by layer: the material of analyses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serkit.errors import InputError

ALWAYS = ""
"""Key of values that are the same in all folds."""


@dataclass(frozen=True)
class Representation:
    """One vector per utterance and layer of the source called ``name``.

    ``values`` maps a fold's name to ``(N, U, D)``, layers by utterances by width; under :data:`ALWAYS` are those of a
    source that no fold has trained. ``layers`` are the N layers' numbers. ``columns`` name the D columns where they
    mean something. ``seconds (U,)`` is how much of each utterance was encoded, None where that is not known.
    """

    name: str
    layers: tuple[int, ...]
    values: Mapping[str, NDArray[np.float32]] = field(repr=False)
    columns: tuple[str, ...] = ()
    seconds: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def trained(self) -> bool:
        """Whether folds have values of their own."""
        return ALWAYS not in self.values

    @property
    def width(self) -> int:
        """The width ``D``."""
        return next(iter(self.values.values())).shape[2]

    def of(self, fold: str = ALWAYS) -> NDArray[np.float32]:
        """Return the values ``(N, U, D)`` that hold in ``fold``."""
        found = self.values.get(fold, self.values.get(ALWAYS))
        if found is None:
            raise InputError(f"{self.name}: has no model of fold {fold!r} (folds: {', '.join(self.values)})")
        return found
