"""The ``[search]`` section of a recipe: which keys are searched, over which values, how long, judged by what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FIXED = ("name", "summary", "seeds", "data", "labels", "protocol", "search", "tests")
"""What no search changes: trials that are judged on different utterances or classes cannot be compared."""

Scalar = str | bool | int | float


class Dimension(BaseModel):
    """The values of one key: the numbers from ``low`` to ``high``, both included, or one of ``choices``.

    ``log`` draws numbers evenly on a logarithmic scale; ``step`` allows only ``low + n step``. Where a recipe takes
    whole numbers only these are drawn. ``also`` are keys that always get the same value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = Field(None, gt=0)
    choices: tuple[Any, ...] | None = None
    also: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Dimension:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.step is not None:
                raise ValueError("choices stand alone, without low, high, log and step")
            if len({self.label(value) for value in self.choices}) < max(2, len(self.choices)):
                raise ValueError("choices are two or more different values")
            return self
        if self.low is None or self.high is None:
            raise ValueError("write {low = ..., high = ...} or {choices = [...]}")
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}, which is not below high, {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log takes a low above 0 and no step")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step is {self.step}, larger than the range")
        return self

    @staticmethod
    def label(value: Any) -> Scalar:
        """Return what stands for a choice in studies and tables: itself, or its JSON when it is a list or a table."""
        return value if isinstance(value, str | bool | int | float) else json.dumps(value)

    @property
    def top(self) -> float:
        """The highest value: the last step, where ``high`` lies between two."""
        assert self.low is not None and self.high is not None
        return self.high if self.step is None else self.low + self._steps * self.step

    @property
    def _steps(self) -> int:
        assert self.low is not None and self.high is not None and self.step is not None
        return int((self.high - self.low) / self.step + 1e-9)

    def contains(self, value: Any, whole: bool) -> bool:
        """Tell whether ``value`` is one of the values."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        if not isinstance(value, int | float) or not self.low <= value <= self.top or (whole and value != int(value)):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8

    def values(self, whole: bool) -> tuple[Any, ...] | None:
        """Return all values, or None where there is no end of them; ``whole`` numbers have a step of 1."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None and self.high is not None
        if self.step is None and (self.log or not whole):
            return None
        step, count = (1, int(self.high - self.low)) if self.step is None else (self.step, self._steps)
        return tuple(self.low + number * step for number in range(count + 1))


class SearchSection(BaseModel):
    """A search over the keys in ``space``: ``trials`` of them, each the mean over ``folds`` and ``seeds``.

    A trial is judged by ``objective`` on the dev parts: the mean recall of classes (``uar``), or the ``loss``. It sees
    the first ``folds`` of the protocol (all when left out), the ``seeds`` of the recipe or those given here, and
    ``amount`` of the training speakers. ``sampler`` "grid" tries every combination; "tpe" (Bergstra et al. 2011,
    https://proceedings.neurips.cc/paper/2011/hash/86e8f7ab32cfd12577bc2619bc635690-Abstract.html) and "random" draw
    from ``seed`` and the number of the trial. ``pruner`` ends trials that fall behind: below the "median" of the others
    at the same point, or by "hyperband" (Li et al. 2018, https://arxiv.org/abs/1603.06560). No trial begins after
    ``seconds``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: dict[str, Dimension]
    trials: int = Field(20, ge=1, description="the recipe's own values included")
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    objective: Literal["uar", "loss"] = "uar"
    folds: int | None = Field(None, ge=1)
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    amount: float = Field(1.0, gt=0, le=1)
    seconds: float | None = Field(None, gt=0)
    seed: int = Field(0, ge=0)

    @field_validator("space", mode="before")
    @classmethod
    def _flat(cls, space: Any) -> Any:
        return _flatten(space, "") if isinstance(space, dict) else space

    @model_validator(mode="after")
    def _check(self) -> SearchSection:
        if not self.space:
            raise ValueError("space names no key: write search.space.training.lr={low=1e-4, high=1e-2, log=true}")
        keys = [each for key, dimension in self.space.items() for each in (key, *dimension.also)]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"space names {key!r} twice")
            if key.partition(".")[0] in FIXED:
                raise ValueError(f"space names {key!r}, which says what trials are judged on: it cannot be searched")
        return self


def _flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Turn nested tables into dotted keys: ``training.lr = {...}`` and ``"training.lr" = {...}`` are the same."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and bool(value) and all(isinstance(part, dict) for part in value.values())
        flat |= _flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
