"""The space of a search on the recipe it belongs to: what each key can be, what it is, and every combination."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial

from serkit.errors import InputError
from serkit.training.recipe import Recipe, change_recipe, takes_fractions, value_of
from serkit.training.searching.space import Dimension, Scalar


@dataclass(frozen=True, eq=False)
class Axis:
    """A key, the values it may take, whether these are whole numbers, and the recipe's ``own`` value."""

    key: str
    dimension: Dimension
    whole: bool
    own: Any

    def suggest(self, trial: Trial) -> Scalar | None:
        """Return the value of the key in ``trial``, as the study knows it."""
        made = self.dimension
        if made.choices is not None:
            return trial.suggest_categorical(self.key, [made.label(value) for value in made.choices])
        assert made.low is not None
        if self.whole:
            return trial.suggest_int(self.key, int(made.low), int(made.top), step=int(made.step or 1), log=made.log)
        return trial.suggest_float(self.key, made.low, made.top, step=made.step, log=made.log)

    def read(self, label: Any) -> Any:
        """Return the value that a study knows as ``label``."""
        if self.dimension.choices is None:
            return label
        return next(value for value in self.dimension.choices if self.dimension.label(value) == label)

    @property
    def label(self) -> Scalar:
        """What the recipe's own value is called in a study."""
        if self.dimension.choices is None:
            return self.own
        return self.dimension.label(next(value for value in self.dimension.choices if value == self.own))

    def values(self) -> tuple[Any, ...] | None:
        """Return all values, or None where there is no end of them."""
        return self.dimension.values(self.whole)


def create_axes(recipe: Recipe) -> list[Axis]:
    """Return the axes of the recipe's search.

    Raises ``InputError`` for a key that the recipe does not know, a value that it does not take, and where its own
    value is not among those searched: it is the first trial, which all others are compared with.
    """
    if recipe.search is None:
        raise InputError(
            f"recipe {recipe.name}: says nothing of a search: set "
            "search.space.training.lr={low=1e-4, high=1e-2, log=true}, or another key"
        )
    plain, axes = recipe.model_copy(update={"search": None}), []
    for key, dimension in recipe.search.space.items():
        fractions = takes_fractions(key)
        numbers = [value for value in (dimension.low, dimension.high, dimension.step) if value is not None]
        integers = all(isinstance(value, int) for value in numbers)
        whole = bool(numbers) and (integers if fractions is None else not fractions)
        for value in dimension.choices or (dimension.low, dimension.high):
            change_recipe(plain, dict.fromkeys((key, *dimension.also), value))
        axes.append(Axis(key, dimension, whole, _own(plain, key, dimension, whole)))
    return axes


def _own(recipe: Recipe, key: str, dimension: Dimension, whole: bool) -> Any:
    own = value_of(recipe, key)
    if own is None:
        raise InputError(f"search.space.{key}: recipe {recipe.name} says nothing of {key}: set it, as the first trial")
    for other in dimension.also:
        if value_of(recipe, other) != own:
            raise InputError(
                f"search.space.{key}: the recipe's own value {json.dumps(own)} is not that of {other}, which always "
                "gets the same: set both"
            )
    if not dimension.contains(own, whole):
        among = f"{dimension.low} to {dimension.high}" + (f" in steps of {dimension.step}" if dimension.step else "")
        among = among if dimension.choices is None else json.dumps(dimension.choices)
        raise InputError(
            f"search.space.{key}: the recipe's own value {json.dumps(own)} is not among {among}: add it, or set {key}; "
            "it is the first trial"
        )
    return own


def first_trials(axes: Sequence[Axis], sampler: str, trials: int) -> list[dict[str, Scalar]]:
    """Return what is tried first, as a study knows it: the recipe's own values, and for a grid all the others."""
    own = {axis.key: axis.label for axis in axes}
    if sampler != "grid":
        return [own]
    grids = []
    for axis in axes:
        values = axis.values()
        if values is None:
            raise InputError(f"search.space.{axis.key}: a grid takes step or choices, not all numbers of a range")
        grids.append([axis.dimension.label(value) for value in values])
    points = [dict(zip(own, point, strict=True)) for point in itertools.product(*grids)]
    if len(points) != trials:
        raise InputError(f"search.sampler: the grid has {len(points)} points, search.trials is {trials}: make it that")
    return [own, *(point for point in points if point != own)]


def read_values(axes: Sequence[Axis], labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a trial's parameters, with those of the keys that share them."""
    found = {axis: axis.read(labels[axis.key]) for axis in axes if axis.key in labels}
    return {key: value for axis, value in found.items() for key in (axis.key, *axis.dimension.also)}
