"""An encoder and its heads as a bundle's ``model.onnx`` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from serkit.encoders.base import Encoder
from serkit.encoders.front import frame_mask
from serkit.models.affect import AffectTask
from serkit.models.heads import Batch, Ensemble
from serkit.models.layers import Standardise
from serkit.models.model import Model
from serkit.models.tasks import ClassTask, CtcTask, Task, View

FRAME_RADIUS_SECONDS = 1.0
"""A frame's probabilities come from the frames up to this far away."""
FRAME_STEP_SECONDS = 0.1
"""Frames share their probabilities with their neighbours for this long: sliding finer costs more than the encoder."""
TASK_OUTPUTS = {"affect": "affect"}
"""Outputs that are no logits."""


class BundleGraph(nn.Module):
    """What a bundle's ``model.onnx`` computes: :attr:`inputs` to :attr:`outputs`.

    They are ``waveforms (B, S)`` at the rate of ``encoder`` and ``lengths (B,)`` where there is one, ``words (B, L)``
    where it reads.
    """

    encoder: Encoder | None

    @property
    def inputs(self) -> list[str]:
        """The names of what :meth:`forward` takes."""
        return ["waveforms", "lengths"]

    @property
    def others(self) -> list[Task]:
        """The tasks beside emotion."""
        return []

    @property
    def outputs(self) -> list[str]:
        """The names of what :meth:`forward` returns."""
        raise NotImplementedError


class MeanGraph(BundleGraph):
    """The highest layer of ``encoder``, its mean over time, and a linear ``head`` on it; None: features alone.

    The logits of a frame are those of the frame itself: averaged over any span they are what the head says of the
    span's mean, so that windows and segments add up exactly.
    """

    encoder: Encoder

    def __init__(self, encoder: Encoder, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @property
    def outputs(self) -> list[str]:
        """The names of what :meth:`forward` returns."""
        features = ["embedding", "frame_lengths", "frames"]
        return features if self.head is None else ["logits", *features, "frame_logits"]

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return ``logits (B, C)``, ``embedding (B, D)``, ``frame_lengths (B,)``, ``frames (B, T, D)``.

        ``frame_logits (B, T, C)`` follow; like frames they are zero past an utterance's end. Without a head there are
        no logits.
        """
        features = self.encoder(waveforms, lengths)
        frames = features.layers[:, -1]
        embedding = frames.sum(1) / features.lengths[:, None]
        given = embedding, features.lengths, frames
        if self.head is None:
            return given
        return self.head(embedding), *given, self.head(frames) * features.mask()[:, :, None]


class Graph(BundleGraph):
    """What a bundle's ``model.onnx`` computes: waveforms to logits, embedding and logits around every frame.

    ``tasks`` are those beside emotion, whose outputs follow; they see frames standardised by ``standardise``.
    """

    encoder: Encoder

    def __init__(
        self,
        encoder: Encoder,
        head: Ensemble,
        layers: Sequence[int],
        stride: int,
        tasks: Sequence[Task] = (),
        standardise: Standardise | None = None,
    ) -> None:
        super().__init__()
        self.standardise = standardise or Standardise(encoder.dim)
        self.encoder, self.head, self.layers, self.stride = encoder, head, tuple(layers), stride
        self.tasks = nn.ModuleList(tasks)
        self.group = max(1, round(FRAME_STEP_SECONDS * encoder.frame_rate / stride))
        self.radius = max(1, round(FRAME_RADIUS_SECONDS * encoder.frame_rate / stride / self.group))

    @property
    def others(self) -> list[Task]:
        """The tasks beside emotion."""
        return [cast(Task, task) for task in self.tasks]

    @property
    def outputs(self) -> list[str]:
        """The names of what :meth:`forward` returns."""
        names = ["logits", "embedding", "frame_logits", "frame_lengths"]
        for task in self.others:
            names += [TASK_OUTPUTS.get(task.name, f"{task.name}_logits")]
            names += ["ctc_lengths"] if task.name == "ctc" else []
        return names

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return ``logits (B, C)``, ``embedding (B, D)``, ``frame_logits (B, T, C)`` and ``frame_lengths (B,)``.

        The embedding is the time average of the highest layer that the head uses. Where there are such tasks, the
        scores of symbols ``ctc_logits (B, T, V)`` with the frames ``ctc_lengths (B,)`` that count, ``speaker_logits
        (B, K)``, ``gender_logits (B, K)`` and ``affect (B, A)`` follow in the order of the tasks.
        """
        features = self.encoder(waveforms, lengths)
        batch = Batch.of_frames(features, self.layers, self.stride)
        logits = self.head(batch)
        around = self.head(Batch.of_frames(features, self.layers, self.stride, self.radius, self.group))
        frame_lengths = self.encoder.frame_lengths(lengths)
        size: Any = self.encoder.frame_lengths(waveforms.shape[1])  # type: ignore[arg-type]  # a number does as well
        steps = torch.arange(size, device=waveforms.device)[None, :]
        if features.start is not None:
            steps = steps - features.start[:, None]
        step = self.stride * self.group
        held = (features.lengths + step - 1) // step
        index = torch.minimum((steps.clamp(min=0) // step).expand(waveforms.shape[0], size), held[:, None] - 1)
        groups = (batch.streams[0].arrays[0].shape[1] // waveforms.shape[0] + self.group - 1) // self.group
        rows = around.unflatten(0, (waveforms.shape[0], groups))
        frames = rows.gather(1, index[:, :, None].expand(-1, -1, around.shape[1]))
        frames = frames * frame_mask(frame_lengths, size)[:, :, None]
        embedding = batch.streams[0].statistics[:, 0, -1]
        others: list[Tensor] = []
        for task in self.others:
            view = View.of(batch, features, self.layers[-1], self.standardise)
            if isinstance(task, ClassTask):  # the linear map itself: an adversarial task only turns gradients around
                others.append(task.linear(view.mean))
            else:
                others.append(task.rate(task(view)) if isinstance(task, AffectTask) else task(view))
            others += [features.lengths] if task.name == "ctc" else []
        return logits, embedding, frames, frame_lengths, *others


def graph_of(model: Model) -> Graph:
    """Return what a bundle of a fine-tuned model computes."""
    others = [task for task in model.each() if task.name != "emotion"]
    return Graph(model.encoder, model.emotion.head, model.layers, model.stride, others, model.standardise)


def describe_tasks(tasks: Sequence[Task]) -> dict[str, dict[str, list[str]]]:
    """Return what a bundle's card says of tasks beside emotion: symbols, classes or dimensions in order."""
    told: dict[str, dict[str, list[str]]] = {}
    for task in tasks:
        if isinstance(task, CtcTask):
            told[task.name] = {"symbols": list(task.tokenizer.symbols)}
        elif isinstance(task, ClassTask):
            told[task.name] = {"classes": list(task.classes)}
        elif isinstance(task, AffectTask):
            told[task.name] = {"dimensions": list(task.dimensions)}
    return told
