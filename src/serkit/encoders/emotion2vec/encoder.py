"""emotion2vec (Ma et al. 2024, https://aclanthology.org/2024.findings-acl.931): speech emotion learned without labels.

The network of data2vec-audio, whose blocks also see a few learned utterance tokens before the frames and are told
distances by ALiBi (Press et al. 2022, https://arxiv.org/abs/2108.12409) with a learned scale per head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.base import EncoderEntry, FrameFeatures, register
from serkit.encoders.blocks import Attention, Wav2Vec2Config
from serkit.encoders.wav2vec2 import Wav2Vec2Encoder

if TYPE_CHECKING:
    from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint

WHOLE_BIAS = 1500
"""Frames (30 s) up to which ALiBi is computed once for all blocks, on a CPU without gradients; 104 MiB at base size."""


@dataclass(frozen=True)
class Emotion2vecConfig(Wav2Vec2Config):
    """Sizes; the defaults are those of emotion2vec base. ``blocks`` counts the ``prenet`` and those that follow it."""

    front_norm: str = "layer"
    position_kernel: int = 19
    position_layers: int = 5
    normalise: bool = True
    prenet: int = 4
    tokens: int = 10


class BiasedAttention(Attention):
    """Attention whose scores get a bias ``(heads, T, T)`` or ``(B, heads, T, T)``, -inf for what is not attended to."""

    def scores(self, x: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
        return bias if bias is None or bias.ndim == 4 else bias[None]  # PyTorch has no fast attention with three axes


class Emotion2vecEncoder(Wav2Vec2Encoder):
    """emotion2vec base, large and the emotion2vec+ models; layers as in the wav2vec 2.0 encoder, frames only.

    Block ``i`` gives layer ``i``, the prenet's blocks first. With ``reference`` frames of padding enter the positional
    convolutions, as in FunASR: then answers depend on the batch, and only then they equal FunASR's batched ones.
    Attention needs memory for ``heads * T * T`` numbers per utterance, but on a CPU without gradients it grows with
    ``T`` alone from 30 s on.
    """

    attention = BiasedAttention
    normalise_eps = 1e-5
    config: Emotion2vecConfig
    slopes: Tensor

    def __init__(
        self,
        name: str,
        config: Emotion2vecConfig,
        layers: Sequence[int | str] | None = None,
        precision: str = "fp32",
        reference: bool = False,
    ) -> None:
        super().__init__(name, config, layers, precision=precision)
        self.reference, self.prefixed = reference, config.tokens
        self.settings += "|reference" if reference else ""
        tokens = torch.randn(config.tokens, config.dim)
        tokens[:1] = 0
        self.utterance_tokens = nn.Parameter(tokens)
        self.alibi_scale = nn.Parameter(torch.ones(config.heads))
        self.register_buffer("slopes", alibi_slopes(config.heads), persistent=False)
        self.mask_vector = torch.zeros(config.dim)  # what masked frames were in pretraining

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        return self.encode_padded(waveforms, lengths) if self.reference else super().encode(waveforms, lengths)

    def position(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return super().position(x, None if self.reference else mask)

    def position_bias(self, size: int) -> Tensor | None:
        return self.alibi(torch.arange(size, device=self.alibi_scale.device))

    def position_bias_rows(self, size: int) -> Callable[[slice], Tensor] | None:
        if size <= WHOLE_BIAS:
            return None
        positions = torch.arange(-self.prefixed, size, dtype=torch.float32)
        scale = self.alibi_scale.clamp(min=0) * self.slopes

        def rows(part: slice) -> Tensor:
            away = (positions[part, None] - positions).abs()
            away.masked_fill_((positions[part, None] < 0) | (positions < 0), 0)
            return away * -scale[:, None, None]

        return rows

    def alibi(self, positions: Tensor) -> Tensor:
        """Return what is added to attention scores between tokens and frames at ``positions (..., T)``.

        ``(..., heads, K + T, K + T)``: minus the distance times the head's slope and scale between frames, otherwise 0.
        """
        away = (positions[..., :, None] - positions[..., None, :]).abs()
        scale = self.alibi_scale.clamp(min=0) * self.slopes
        bias = -away[..., None, :, :] * scale[:, None, None]
        return F.pad(bias, (self.prefixed, 0, self.prefixed, 0))

    def prefix(self, x: Tensor) -> Tensor:
        """Put the normalised utterance tokens before ``x (B, T, D)``: ``(B, K + T, D)``."""
        assert self.encoder is not None and self.encoder.layer_norm is not None
        tokens = self.encoder.layer_norm(self.utterance_tokens).expand(x.shape[0], -1, -1)
        return torch.cat([self.drop(tokens, self.regularisation.dropout).to(x.dtype), x], 1)

    def run_blocks(
        self, x: Tensor, mask: Tensor | None, bias: Tensor | None, sizes: list[int] | None = None
    ) -> dict[int | str, Tensor]:
        return super().run_blocks(x, None, self.mask_bias(bias, mask))

    def mask_bias(self, bias: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Return ``bias`` of attention scores such that only frames of ``mask (B, T)`` are attended to, and tokens."""
        if bias is None or mask is None:
            return bias
        keys = F.pad(mask, (self.prefixed, 0), value=True)
        return bias.masked_fill(~keys[:, None, None, :], -torch.inf)  # once for all blocks


def alibi_slopes(heads: int) -> Tensor:
    """Return how much ALiBi takes off per frame of distance for each head, ``(heads,)``.

    A geometric sequence that ends at 2^-8 where ``heads`` is a power of two; otherwise that of the next lower power,
    and then every other slope of the next higher one.
    """

    def sequence(count: int) -> list[float]:
        return [2.0 ** (-8.0 * number / count) for number in range(1, count + 1)]

    lower = 2 ** int(math.log2(heads))
    return torch.tensor(sequence(lower) + sequence(2 * lower)[::2][: heads - lower])


TINY = Emotion2vecConfig(
    dim=36, blocks=2, heads=6, ffn=48, conv_dim=(16,) * 7, position_groups=4, position_layers=2, prenet=1, tokens=3
)  # fmt: skip


def create_tiny() -> Emotion2vecEncoder:
    """Return a small encoder with random weights, for tests."""
    return Emotion2vecEncoder("emotion2vec", TINY).eval()


def create(
    weights: str | Emotion2vecCheckpoint,
    layers: Sequence[int | str] | None = None,
    precision: str = "fp32",
    reference: bool = False,
) -> Emotion2vecEncoder:
    """Load emotion2vec from ``weights``; ``layers``, ``precision`` and ``reference`` as for the class.

    ``weights`` is anything that :func:`~serkit.encoders.emotion2vec.files.read_emotion2vec` reads, or what it returned.
    """
    from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint, read_emotion2vec  # which needs the sizes above

    if isinstance(weights, Emotion2vecCheckpoint):  # its owner keeps it: what is trained is a copy
        state = {key: tensor.clone() for key, tensor in weights.state.items()}
        checkpoint = replace(weights, state=state)
    else:
        checkpoint = read_emotion2vec(weights)
    with torch.device("meta"):  # shapes only: no time for random numbers that are replaced at once
        built = Emotion2vecEncoder("emotion2vec", checkpoint.config, layers, precision, reference)
    built.slopes, built.mask_vector = alibi_slopes(checkpoint.config.heads), torch.zeros(built.dim)
    built.load_state_dict({key: checkpoint.state[key] for key in built.state_dict()}, assign=True)
    return built.eval()


register(EncoderEntry("emotion2vec", "emotion2vec and emotion2vec+ from weights=", create, create_tiny))
