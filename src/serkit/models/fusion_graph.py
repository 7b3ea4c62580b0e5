"""A fusion head, with the encoder of what it hears, as a bundle's ``model.onnx`` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from serkit.encoders.base import Encoder
from serkit.models.fusion import FusionHead
from serkit.models.graph import BundleGraph
from serkit.models.heads import Batch


class FusionGraph(BundleGraph):
    """What the bundle of a fused model computes: recordings, words or both to one answer for the utterance.

    ``layers`` of ``encoder`` reach the ``head``, averaged over ``stride`` frames. Both are left out where the head
    reads alone.
    """

    def __init__(
        self, head: FusionHead, encoder: Encoder | None = None, layers: Sequence[int] = (), stride: int = 1
    ) -> None:
        super().__init__()
        assert (encoder is not None) == head.config.hears
        self.encoder, self.head, self.layers, self.stride = encoder, head, tuple(layers), stride

    @property
    def inputs(self) -> list[str]:
        """The names of what :meth:`forward` takes."""
        config = self.head.config
        return ["waveforms", "lengths"] * config.hears + ["words"] * config.reads

    @property
    def outputs(self) -> list[str]:
        """The names of what :meth:`forward` returns."""
        return ["logits", "embedding"]

    def forward(
        self, waveforms: Tensor | None = None, lengths: Tensor | None = None, words: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return ``logits (B, C)`` and ``embedding (B, W)`` of what :attr:`inputs` names.

        Of ``words (B, L)`` the first ``max_words`` count. What is 0 among them is at the end and no word, as of frames
        what is past the utterance's end.
        """
        batch = Batch(())
        if self.encoder is not None:
            features = self.encoder(waveforms, lengths)
            batch = Batch.of_frames(features, self.layers, self.stride)
        if words is not None:
            words = words[:, : self.head.max_words]
            if self.head.config.reference:  # where all is padding, there its length acts on the answer
                words = nn.functional.pad(words, (0, self.head.max_words - words.shape[1]))
            batch = replace(batch, words=words)
        embedding = self.head.embed(batch)
        return self.head.judge(embedding), embedding
