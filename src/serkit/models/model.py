"""An encoder and the heads of its tasks as one trainable model, from waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from serkit.encoders.base import Encoder
from serkit.models.heads import Batch, Ensemble
from serkit.models.layers import Standardise
from serkit.models.tasks import EmotionTask, Task, View


@dataclass(frozen=True)
class Waveforms:
    """A padded batch of recordings: ``waveforms (B, S)`` at 16 kHz, of which ``lengths (B,)`` samples are real."""

    waveforms: Tensor
    lengths: Tensor

    @classmethod
    def pad(cls, items: Sequence[Tensor]) -> Waveforms:
        """Pad waveforms ``(S,)`` with zeros to the longest."""
        lengths = torch.tensor([len(item) for item in items])
        return cls(nn.utils.rnn.pad_sequence(list(items), batch_first=True), lengths)

    def to(self, device: torch.device) -> Waveforms:
        """Return the batch on ``device``."""
        return Waveforms(self.waveforms.to(device, non_blocking=True), self.lengths.to(device, non_blocking=True))


class Model(nn.Module):
    """Waveforms that the encoder's front (trim, level) has been through, to the output of every task.

    ``layers`` of the encoder reach the heads, averaged over ``stride`` frames for emotion; the other tasks see the last
    one of them, standardised by ``standardise``. ``dropout`` acts on what the heads see.
    """

    def __init__(
        self, encoder: Encoder, tasks: Sequence[Task], layers: Sequence[int], stride: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder, self.tasks = encoder, nn.ModuleDict({task.name: task for task in tasks})
        self.layers, self.stride, self.dropout = tuple(layers), stride, dropout
        self.standardise = Standardise(encoder.dim)

    @property
    def emotion(self) -> EmotionTask:
        """The task that every model has, but for those that learn ratings alone."""
        return cast(EmotionTask, self.tasks["emotion"])

    @property
    def head(self) -> Ensemble:
        """The head of emotion, or of affect where there is no emotion."""
        return cast(Any, self.tasks["emotion" if "emotion" in self.tasks else "affect"]).head

    def each(self) -> list[Task]:
        """Return the tasks."""
        return [cast(Task, task) for task in self.tasks.values()]

    def view(self, audio: Waveforms) -> View:
        """Return what the heads see of a batch of prepared recordings."""
        features = self.encoder.encode(audio.waveforms, audio.lengths)
        if self.training and self.dropout:
            dropped = nn.functional.dropout(features.layers, self.dropout)
            features = type(features)(dropped, features.lengths, features.frame_rate)
        batch = Batch.of_frames(features, self.layers, self.stride)
        return View.of(batch, features, self.layers[-1], self.standardise)

    def forward(self, audio: Waveforms) -> dict[str, Tensor]:
        """Return the output of every task by name."""
        view = self.view(audio)
        return {task.name: task(view) for task in self.each()}
