"""Affect: ratings on a scale, such as arousal and valence, learned as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl
import torch
from pydantic import model_validator
from torch import Tensor, nn

from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.models.base import Task, TaskConfig, View
from serkit.models.heads import Ensemble
from serkit.models.losses import concordance_loss

AFFECT = ("arousal", "valence", "dominance")
"""The columns of every manifest, in [0, 1]."""
Range = tuple[float, float]


class AffectConfig(TaskConfig):
    """Regression of ``dimensions``: columns of numbers of the manifest, arousal, valence and dominance or any other.

    ``range`` is the lowest and the highest rating, which the head learns as 0 and 1; where it is not given, that of the
    training part for columns beside those three. ``bounded`` heads cannot leave it (a sigmoid), others are linear.
    ``loss`` is one minus the concordance correlation averaged over dimensions, by population variances ("ccc", Lin
    1989) or sample variances ("sample-ccc"), or the mean square error of what the head learns ("mse").

    Concordance is a property of many utterances: all of a step go through the encoder at a time.
    """

    dimensions: tuple[str, ...] = AFFECT
    loss: Literal["ccc", "sample-ccc", "mse"] = "ccc"
    range: Range | None = None
    bounded: bool = True

    @model_validator(mode="after")
    def _check(self) -> AffectConfig:
        taken = {"text", "speaker", "gender"} & set(self.dimensions)
        if taken or not self.dimensions or len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("dimensions names different columns of numbers, not text, speaker or gender")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError("range is the lowest and the highest rating, in this order")
        return self


class AffectTask(Task):
    """Ratings ``(A,)`` from the mean over time, or by a ``head``; targets are in [0, 1] of ``ranges`` or NaN."""

    name = "affect"

    def __init__(
        self, config: AffectConfig, dim: int, ranges: Sequence[Range] | None = None, head: Ensemble | None = None
    ) -> None:
        super().__init__()
        self.weight, self.dimensions, self.config = config.weight, config.dimensions, config
        self.ranges = tuple(ranges or [(0.0, 1.0)] * len(self.dimensions))
        self.whole_steps = config.loss != "mse"
        self.head = head
        self.linear = nn.Linear(dim, len(self.dimensions)) if head is None else None

    def targets(self, manifest: Manifest) -> list[Tensor]:
        rows = ratings(manifest, self.dimensions).iter_rows()
        return [torch.tensor([self._inside(value, place) for place, value in enumerate(row)]) for row in rows]

    def _inside(self, value: float | None, place: int) -> float:
        low, high = self.ranges[place]
        return torch.nan if value is None else (value - low) / (high - low)

    def forward(self, view: View) -> Tensor:
        """Return the dimensions ``(B, A)``, those of a head's members averaged."""
        if self.head is not None:
            scores = self.head.each(view.batch).float().mean(0)
        else:
            assert self.linear is not None
            scores = self.linear(view.mean).float()
        return scores.sigmoid() if self.config.bounded else scores

    def losses(self, output: Tensor, view: View | None, targets: Sequence[Tensor]) -> Tensor:
        wanted = torch.stack(list(targets)).to(output.device)
        if self.config.loss == "mse":
            known = ~wanted.isnan()
            errors = torch.where(known, output - torch.where(known, wanted, 0.0), 0.0).square()
            return errors.sum(1) / known.sum(1).clamp(min=1)
        return concordance_loss(output, wanted, self.config.loss == "sample-ccc").expand(len(output))

    def rate(self, output: Tensor) -> Tensor:
        """Return what is in [0, 1] of the ranges as ratings ``(B, A)``."""
        low, high = torch.tensor(self.ranges, dtype=output.dtype, device=output.device).unbind(1)
        return low + (high - low) * output

    def columns(self, output: Tensor, view: View, targets: Sequence[Tensor]) -> dict[str, list[Any]]:
        truths, predictions = self.rate(torch.stack(list(targets)).double()), self.rate(output.double())
        columns: dict[str, list[Any]] = {}
        for index, name in enumerate(self.dimensions):
            columns[f"{name}_truth"] = [None if value != value else value for value in truths[:, index].tolist()]
            columns[f"{name}_prediction"] = predictions[:, index].tolist()
        return columns


def create_affect(config: AffectConfig, dim: int, train: Manifest, head: Ensemble | None = None) -> AffectTask:
    """Build the task for frames of width ``dim``; ranges that are not given are those of ``train``, the training part.

    Raises ``InputError`` where ``train`` has no ratings, or all alike.
    """
    table, ranges = ratings(train, config.dimensions), []
    for name in config.dimensions:
        if table[name].null_count() == len(train):
            raise InputError(f"tasks.affect: no utterance of the training part has {name}: name others")
        if config.range is not None or name in AFFECT:
            ranges.append(config.range or (0.0, 1.0))
            continue
        low, high = table.select(low=pl.col(name).min(), high=pl.col(name).max()).row(0)
        if not low < high:
            raise InputError(f"tasks.affect: all utterances of the training part have the same {name}: leave it out")
        ranges.append((low, high))
    return AffectTask(config, dim, ranges, head)


def ratings(manifest: Manifest, dimensions: Sequence[str]) -> pl.DataFrame:
    """Return the columns ``dimensions`` of ``manifest`` as numbers; raises ``InputError`` naming one that has none."""
    for name in dimensions:
        if name not in manifest.table.columns:
            raise InputError(f"tasks.affect: the manifest has no column {name!r}")
    try:
        return manifest.table.select(pl.col(dimensions).cast(pl.Float64).fill_nan(None))
    except pl.exceptions.PolarsError as error:
        said = str(error).splitlines()[0]
        raise InputError(f"tasks.affect: {', '.join(dimensions)} must be columns of numbers: {said}") from error
