"""An encoder and a head as one trainable model, for fine-tuning from waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serkit.encoders.base import Encoder
from serkit.models.heads import Batch, Ensemble


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


class Model(nn.Module):
    """Waveforms to class scores; trained by :func:`serkit.training.fit.fit` like a head on cached features.

    ``layers`` of the encoder reach the head, averaged over ``stride`` frames. What is frozen, is frozen by
    ``requires_grad`` on its parameters; the encoder's own learning rate is ``TrainingOptions.encoder_lr``.
    """

    needs_frames = True

    def __init__(self, encoder: Encoder, head: Ensemble, layers: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        self.encoder, self.head, self.layers, self.stride = encoder, head, tuple(layers), stride

    @property
    def heads(self) -> nn.ModuleList:
        """The members of the head."""
        return self.head.heads

    def _batch(self, audio: Waveforms) -> Batch:
        return Batch.of_frames(self.encoder(audio.waveforms, audio.lengths), self.layers, self.stride)

    def each(self, audio: Waveforms) -> Tensor:
        """Return the scores of every member, ``(members, B, C)``."""
        return self.head.each(self._batch(audio))

    def forward(self, audio: Waveforms) -> Tensor:
        """Return log-probabilities ``(B, C)`` up to a constant per utterance."""
        return self.head(self._batch(audio))
