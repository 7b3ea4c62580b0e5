"""The parts that wav2vec 2.0 and its relatives are built of, with the parameter names of ``transformers``.

None of them lets padding act: the first normalisation counts real frames only, attention is masked, and the encoder
zeroes what lies past an utterance's end before every convolution over time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.front import frame_mask
from serkit.encoders.regularise import Regularised
from serkit.encoders.rows import convolve, suits


@dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes and variants; the defaults are those of wav2vec 2.0 base.

    ``front_norm`` is "group" (base models) or "layer"; ``pre_norm`` puts the normalisation before attention and
    feed-forward (large models); ``position_layers`` 0 is one positional convolution, 5 the stack of data2vec.
    ``normalise`` brings each waveform to mean 0 and variance 1. ``buckets`` and ``distance`` are WavLM's.
    """

    dim: int = 768
    blocks: int = 12
    heads: int = 12
    ffn: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    front_norm: str = "group"
    projection_norm: bool = True
    pre_norm: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    position_layers: int = 0
    eps: float = 1e-5
    normalise: bool = False
    buckets: int = 320
    distance: int = 800


class ConvLayer(nn.Module):
    """One convolution of the front end with its normalisation ("group", "layer" or None) and GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, bias=bias)
        self.layer_norm: nn.Module | None = None
        if norm is not None:
            self.layer_norm = nn.GroupNorm(outputs, outputs) if norm == "group" else nn.LayerNorm(outputs)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Turn ``x (B, C, S)`` into ``(B, C', T)``, of which ``lengths (B,)`` frames are real (None: all)."""
        x = self.conv(x)
        if isinstance(self.layer_norm, nn.GroupNorm):
            x = channel_norm(x, self.layer_norm, lengths)
        elif self.layer_norm is not None:
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


def channel_norm(x: Tensor, norm: nn.GroupNorm, lengths: Tensor | None) -> Tensor:
    """Normalise every channel of ``x (B, C, T)`` over its first ``lengths (B,)`` frames; what follows is finite."""
    if lengths is None:
        return norm(x)
    mask, count = frame_mask(lengths, x.shape[2])[:, None, :], lengths[:, None, None]
    wide = x.float()  # sums over thousands of frames
    centred = wide - (wide * mask).sum(2, keepdim=True) / count
    variance = (centred * mask).square().sum(2, keepdim=True) / count
    scale = (variance + norm.eps).rsqrt() * norm.weight[:, None]
    return torch.addcmul(norm.bias[:, None], centred, scale).to(x.dtype)


class FrontEnd(nn.Module):
    """Seven convolutions without padding: ``(B, S)`` waveforms to ``(B, T, C)``, 50 frames per second."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        sizes = zip((1, *config.conv_dim), config.conv_dim, config.conv_kernel, config.conv_stride, strict=False)
        self.conv_layers = nn.ModuleList(
            ConvLayer(
                *size, config.conv_bias, config.front_norm if number == 0 or config.front_norm == "layer" else None
            )
            for number, size in enumerate(sizes)
        )
        self.strides = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        if suits(self.conv_layers, self.strides, waveforms):
            return convolve(self.conv_layers, self.strides, waveforms)
        x = waveforms[:, None, :]
        for layer, (kernel, stride) in zip(self.conv_layers, self.strides, strict=True):
            if lengths is not None:
                lengths = (lengths - kernel) // stride + 1
            x = layer(x, lengths)
        return x.transpose(1, 2)


class Projection(Regularised):
    """Front-end features to the width of the transformer."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        width = config.conv_dim[-1]
        self.layer_norm = nn.LayerNorm(width, eps=config.eps) if config.projection_norm else nn.Identity()
        self.projection = nn.Linear(width, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.projection(self.layer_norm(x)), self.regularisation.projection_dropout)


class PositionLayer(nn.Module):
    """A wide grouped convolution over time with GELU; in data2vec's stack it is normalised before."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        kernel = config.position_kernel
        self.conv = nn.Conv1d(config.dim, config.dim, kernel, padding=kernel // 2, groups=config.position_groups)
        self.normalised = config.position_layers > 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)[:, :, : x.shape[2]]  # an even kernel gives one frame too many
        if self.normalised:
            x = F.layer_norm(x.transpose(1, 2), x.shape[1:2]).transpose(1, 2)
        return F.gelu(x)


class PositionStack(nn.Module):
    """data2vec's positional convolutions, one after the other."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PositionLayer(config) for _ in range(config.position_layers))


class Attention(Regularised):
    """Multi-head self-attention over padded ``(B, T, D)`` or packed ``(F, D)`` frames."""

    def __init__(self, config: Wav2Vec2Config, first: bool) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(config.dim, config.dim) for _ in range(4))

    def scores(self, x: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
        """Return what is added to or masks the attention scores of ``x (B, T, D)``; ``bias`` is for subclasses."""
        return None if mask is None else mask[:, None, None, :]

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None, sizes: list[int] | None = None) -> Tensor:
        """``mask (B, T)`` tells real frames (None: all); ``sizes`` splits packed frames into utterances."""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.acting(self.regularisation.attention_dropout)
        if sizes is None:
            mixed = attend(q, k, v, self.scores(x, mask, bias), dropout)
        elif bias is None and not dropout and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
            mixed = attend_packed(q, k, v, sizes)
        else:
            each = (part[None].split(sizes, 1) for part in (x, q, k, v))
            mixed = torch.cat(
                [attend(b, c, d, self.scores(a, None, bias), dropout)[0] for a, b, c, d in zip(*each, strict=True)]
            )
        return self.out_proj(mixed.flatten(-2))


def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention of ``(B, T, heads, D / heads)`` tensors; ``scores`` is a mask or is added to the scores.

    ``dropout`` is the share of attention weights that are set to zero.
    """
    if scores is not None and scores.dtype != torch.bool:
        scores = scores.to(q.dtype)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=scores, dropout_p=dropout).transpose(1, 2)
    # Which memory layout attention leaves depends on its kernel, and an exported graph may get another one.
    return mixed.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else mixed


def attend_packed(q: Tensor, k: Tensor, v: Tensor, sizes: list[int]) -> Tensor:
    """Attention of half-precision ``(F, heads, D / heads)`` tensors inside each utterance, one kernel for all."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *sizes], device=q.device).cumsum(0, dtype=torch.int32)
    mixed = varlen_attn(q, k, v, ends, ends, max(sizes), max(sizes))
    assert isinstance(mixed, Tensor)  # statistics come with it on request only
    return mixed


class FeedForward(Regularised):
    """Two linear layers with GELU between."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.dim, config.ffn)
        self.output_dense = nn.Linear(config.ffn, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.gelu(self.intermediate_dense(x)), self.regularisation.activation_dropout)
        return self.drop(self.output_dense(x), self.regularisation.dropout)


class Block(Regularised):
    """One transformer block, normalised after (base) or before (large) attention and feed-forward."""

    def __init__(self, config: Wav2Vec2Config, attention: Attention) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = attention
        self.layer_norm = nn.LayerNorm(config.dim, eps=config.eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=config.eps)

    def forward(self, x: Tensor, mask: Tensor | None, bias: Tensor | None, sizes: list[int] | None = None) -> Tensor:
        if self.pre_norm:
            x = x + self.drop(self.attention(self.layer_norm(x), mask, bias, sizes), self.regularisation.dropout)
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.mix(x, mask, bias, sizes)
        return self.final_layer_norm(x + self.feed_forward(x))

    def mix(self, x: Tensor, mask: Tensor | None, bias: Tensor | None, sizes: list[int] | None = None) -> Tensor:
        """Return what feed-forward takes in a block that is normalised after."""
        return self.layer_norm(x + self.drop(self.attention(x, mask, bias, sizes), self.regularisation.dropout))


class Transformer(nn.Module):
    """What follows the projection, as far as it is needed: positions, ``depth`` blocks and the normalisation."""

    def __init__(self, config: Wav2Vec2Config, depth: int, attention: type[Attention]) -> None:
        super().__init__()
        self.pos_conv_embed = PositionStack(config) if config.position_layers else PositionLayer(config)
        self.layer_norm = None
        if not config.pre_norm or depth == config.blocks:
            self.layer_norm = nn.LayerNorm(config.dim, eps=config.eps)
        self.layers = nn.ModuleList(Block(config, attention(config, number == 0)) for number in range(depth))
