"""Whisper's encoder (Radford et al. 2022, https://arxiv.org/abs/2212.04356) as a feature extractor for emotion.

Own module, equal to the reference implementation, with three differences that matter here: clips are not padded to
30 s (the position table is sliced instead), every hidden state is returned, and padding inside a batch changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.base import Encoder, EncoderEntry, FrameFeatures, register
from serkit.encoders.front import frame_mask
from serkit.encoders.regularise import SWITCHES, Regularised
from serkit.encoders.spectrogram import PowerSpectrum, mel_filters
from serkit.encoders.weights import load_weights
from serkit.errors import InputError

N_FFT, HOP = 400, 160


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes of a Whisper encoder; the defaults are those of ``base``."""

    mels: int = 80
    dim: int = 512
    heads: int = 8
    blocks: int = 6
    ffn: int = 2048
    positions: int = 1500
    final_norm: bool = True


class LogMel(nn.Module):
    """Whisper's log-mel front end: ``(B, S)`` waveforms to ``(B, mels, S // 160)``, 100 frames per second.

    Each clip is scaled by its own maximum, not by the batch's.
    """

    filters: Tensor

    def __init__(self, mels: int) -> None:
        super().__init__()
        self.power = PowerSpectrum(N_FFT, N_FFT, HOP)
        self.register_buffer("filters", torch.tensor(mel_filters(mels), dtype=torch.float32), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        power = self.power(waveforms, lengths)[:, : waveforms.shape[1] // HOP]
        logarithm = (power @ self.filters).clamp(min=1e-10).log10()  # (B, T, mels)
        mask = frame_mask(lengths // HOP, logarithm.shape[1])[:, :, None]
        peak = logarithm.masked_fill(~mask, -10.0).amax(dim=(1, 2), keepdim=True)
        scaled = (torch.maximum(logarithm, peak - 8.0) + 4.0) / 4.0
        return (scaled * mask).transpose(1, 2)


class Attention(Regularised):
    """Multi-head self-attention with the key names of the published checkpoints."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        split = (x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads)
        q, k, v = (proj(x).view(split).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.acting(self.regularisation.attention_dropout)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))


class Block(Regularised):
    """One pre-norm transformer block."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.dim, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        chosen = self.regularisation
        x = x + self.drop(self.self_attn(self.self_attn_layer_norm(x), mask), chosen.dropout)
        inner = self.drop(F.gelu(self.fc1(self.final_layer_norm(x))), chosen.activation_dropout)
        return x + self.drop(self.fc2(inner), chosen.dropout)


class WhisperEncoder(Encoder):
    """Log-mel, two convolutions (50 frames per second) and ``blocks`` transformer blocks.

    Layer 0 is the output of the convolutions plus positions, layer ``i`` that of block ``i``; the last one is after
    the final normalisation when the checkpoint has it, as in the reference implementation.
    """

    hop = 2 * HOP
    min_samples = N_FFT
    possible = frozenset(SWITCHES) - {"projection_dropout"}

    def __init__(self, name: str, config: WhisperConfig) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.dim, self.num_layers = config.dim, config.blocks + 1
        self.max_samples = config.positions * self.hop
        self.log_mel = LogMel(config.mels)
        self.conv1 = nn.Conv1d(config.mels, config.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.positions, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.layer_norm = nn.LayerNorm(config.dim) if config.final_norm else None

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths // HOP + 1) // 2

    def depth(self, name: str) -> int:
        block = re.match(r"layers\.(\d+)\.", name)
        if block:
            return 2 + int(block[1])
        return 1 + len(self.layers) if name.startswith("layer_norm.") else 0

    def hide(self, mels: Tensor, mel_lengths: Tensor) -> Tensor:
        """Set spans of frames and bands of ``mels (B, mels, T)`` to zero: SpecAugment, in training when asked for."""
        time = self.time_mask(mel_lengths, mels.shape[2])
        if time is not None:
            mels = mels.masked_fill(time[:, None, :], 0.0)
        bands = self.feature_mask(mels.shape[0], mels.shape[1], mels.device)
        return mels if bands is None else mels.masked_fill(bands[:, :, None], 0.0)

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        mels = self.log_mel(waveforms, lengths)
        return self.encode_mels(mels, lengths // HOP)

    def encode_mels(self, mels: Tensor, mel_lengths: Tensor) -> FrameFeatures:
        """Encode log-mel ``(B, mels, T)`` whose padding is zero; also the entry for spectrogram augmentation."""
        mels = self.hide(mels, mel_lengths)
        x = F.gelu(self.conv1(mels)) * frame_mask(mel_lengths, mels.shape[2])[:, None, :]
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        lengths = (mel_lengths + 1) // 2
        mask = frame_mask(lengths, x.shape[1])
        x = self.drop(x + self.embed_positions.weight[: x.shape[1]], self.regularisation.dropout)
        states = [x]
        alone = not torch.compiler.is_compiling() and x.shape[0] == 1 and int(lengths[0]) == x.shape[1]
        attend = None if alone else mask[:, None, None, :]
        for block in self.layers:
            x = self.run_block(block, x, attend)
            states.append(x)
        if self.layer_norm is not None:
            states[-1] = self.layer_norm(x)
        return FrameFeatures(torch.stack(states, 1) * mask[:, None, :, None], lengths, self.frame_rate)


def convert_state(state: dict[str, Tensor]) -> tuple[WhisperConfig, dict[str, Tensor]]:
    """Read the sizes of a checkpoint off its tensors and strip the prefixes that whole models put before the encoder.

    Takes the key names of Hugging Face's ``WhisperModel``, ``WhisperForConditionalGeneration`` and ``WhisperEncoder``.
    """
    prefix = next((p for p in ("model.encoder.", "encoder.") if f"{p}conv1.weight" in state), "")
    state = {key.removeprefix(prefix): value.float() for key, value in state.items() if key.startswith(prefix)}
    if "conv1.weight" not in state:
        raise ValueError("not a Whisper encoder: the checkpoint has no conv1.weight")
    dim, mels, _ = state["conv1.weight"].shape
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    config = WhisperConfig(
        mels=mels,
        dim=dim,
        heads=dim // 64,
        blocks=blocks,
        ffn=state["layers.0.fc1.weight"].shape[0],
        positions=state["embed_positions.weight"].shape[0],
        final_norm="layer_norm.weight" in state,
    )
    return config, state


def create(weights: str = "whisper-base-3blocks", blocks: int | None = None) -> WhisperEncoder:
    """Load a Whisper encoder from ``weights`` (see :func:`serkit.encoders.weights.load_weights`), cut after ``blocks``.

    The packaged weights are the convolutions and the first three blocks of OpenAI's multilingual ``base`` model.
    """
    state, _ = load_weights(weights)
    try:
        config, state = convert_state(state)
    except ValueError as error:
        raise InputError(f"{weights}: {error}") from error
    if blocks is not None and blocks < config.blocks:
        config = replace(config, blocks=blocks, final_norm=False)
        kept = tuple(f"layers.{block}." for block in range(blocks))
        state = {k: v for k, v in state.items() if k.startswith(kept) or not k.startswith(("layers.", "layer_norm."))}
    encoder = WhisperEncoder("whisper", config)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{weights}: does not fit a Whisper encoder: {' '.join(str(error).split())}") from error
    return encoder.eval()


def create_tiny() -> WhisperEncoder:
    """Return a small encoder with random weights, for tests."""
    return WhisperEncoder("whisper", WhisperConfig(mels=20, dim=32, heads=4, blocks=2, ffn=48, positions=200)).eval()


register(EncoderEntry("whisper", "Whisper's encoder; packaged: base, first 3 of 6 blocks", create, create_tiny))
