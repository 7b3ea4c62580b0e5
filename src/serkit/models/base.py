"""What every task is: a head on what an encoder says of a batch, and a loss per utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from serkit.data.manifest import Manifest
from serkit.encoders.base import FrameFeatures
from serkit.models.heads import Batch
from serkit.models.layers import Standardise


class TaskConfig(BaseModel):
    """A task's ``weight`` in the sum of losses; with 0 it is not learned and costs nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(1.0, ge=0)


@dataclass(frozen=True)
class View:
    """What heads see of ``B`` utterances: ``batch`` as heads on cached features do, and the ``frames`` of one layer.

    ``frames (B, T, D)`` are zero past an utterance's ``lengths (B,)``.
    """

    batch: Batch
    frames: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, batch: Batch, features: FrameFeatures, layer: int, standardise: Standardise) -> View:
        """Show ``batch``, and the frames of a ``layer`` of the same utterances standardised."""
        frames = standardise(features.layers[:, layer]) * features.mask()[:, :, None]
        return cls(batch, frames, features.lengths)

    @cached_property
    def mean(self) -> Tensor:
        """The mean over time ``(B, D)``."""
        return self.frames.sum(1) / self.lengths[:, None]


class Task(nn.Module):
    """One thing to learn: a head, a loss per utterance, and the columns that it adds to the predictions table."""

    name: str
    weight: float
    whole_steps = False
    """Whether the loss needs all utterances of a step at a time; it is then one of output and targets alone."""

    def targets(self, manifest: Manifest) -> list[Any]:
        """Return what is to be learned for every utterance of ``manifest``, in row order."""
        raise NotImplementedError

    def forward(self, view: View) -> Tensor:
        """Return the head's output."""
        raise NotImplementedError

    def losses(self, output: Tensor, view: View | None, targets: Sequence[Any]) -> Tensor:
        """Return the loss of each utterance ``(B,)``; 0 where the target is unknown.

        With ``whole_steps`` it follows from ``output`` alone, and ``view`` may be None.
        """
        raise NotImplementedError

    def columns(self, output: Tensor, view: View, targets: Sequence[Any]) -> dict[str, list[Any]]:
        """Return columns of the predictions table, ``B`` values each."""
        raise NotImplementedError
