"""The tensors of emotion2vec as published: their names and shapes from a configuration, and sizes from tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from serkit.encoders.emotion2vec.encoder import Emotion2vecConfig
from serkit.errors import InputError

AUDIO = "modality_encoders.AUDIO."
ANCHOR = f"{AUDIO}local_encoder.conv_layers.0.0.weight"
"""A key of every checkpoint; what stands before it stands before every key of the encoder."""
DECODER = f"{AUDIO}decoder."
STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""What all published models have; no tensor tells them."""

Shapes = dict[str, tuple[int, ...]]


def encoder_shapes(config: Emotion2vecConfig) -> Shapes:
    """Return name and shape of every tensor of the encoder, without decoder and head."""
    dim, group = config.dim, config.dim // config.position_groups
    shapes: Shapes = {f"{AUDIO}extra_tokens": (1, config.tokens, dim)} if config.tokens else {}
    shapes[f"{AUDIO}alibi_scale"] = (1, 1, config.heads, 1, 1)
    width = 1
    for number, (channels, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        stem = f"{AUDIO}local_encoder.conv_layers.{number}"
        shapes[f"{stem}.0.weight"] = (channels, width, kernel)
        shapes |= _both(f"{stem}.2.1", channels)
        width = channels
    shapes |= _both(f"{AUDIO}project_features.1", width)
    shapes |= _linear(f"{AUDIO}project_features.2", width, dim)
    for number in range(1, config.position_layers + 1):
        stem = f"{AUDIO}relative_positional_encoder.{number}.0"
        shapes[f"{stem}.weight"], shapes[f"{stem}.bias"] = (dim, group, config.position_kernel), (dim,)
    shapes |= _both(f"{AUDIO}context_encoder.norm", dim)
    for number in range(config.prenet):
        shapes |= _block(f"{AUDIO}context_encoder.blocks.{number}", dim, config.ffn)
    for number in range(config.blocks - config.prenet):
        shapes |= _block(f"blocks.{number}", dim, config.ffn)
    return shapes


def _both(stem: str, size: int) -> Shapes:
    return {f"{stem}.weight": (size,), f"{stem}.bias": (size,)}


def _linear(stem: str, inputs: int, outputs: int) -> Shapes:
    return {f"{stem}.weight": (outputs, inputs), f"{stem}.bias": (outputs,)}


def _block(stem: str, dim: int, ffn: int) -> Shapes:
    shapes = {**_both(f"{stem}.norm1", dim), **_linear(f"{stem}.attn.qkv", dim, 3 * dim)}
    shapes |= {**_linear(f"{stem}.attn.proj", dim, dim), **_both(f"{stem}.norm2", dim)}
    return shapes | _linear(f"{stem}.mlp.fc1", dim, ffn) | _linear(f"{stem}.mlp.fc2", ffn, dim)


def decoder_shapes(settings: Mapping[str, Any], dim: int, source: str) -> Shapes:
    """Return name and shape of every tensor of the decoder that ``settings`` (``modalities.audio.decoder``) describe.

    The decoder is a stack of grouped convolutions over time and a linear map back to ``dim``; only pretraining uses it.
    """
    try:
        names = ("decoder_dim", "decoder_layers", "decoder_groups", "decoder_kernel")
        inner, layers, groups, kernel = (int(settings[name]) for name in names)
    except KeyError as error:
        raise InputError(f"{source}: lacks {error}, so the sizes of its decoder are unknown") from error
    width = dim
    shapes: Shapes = {}
    for number in range(layers):
        stem = f"{DECODER}blocks.{number}.0"
        shapes |= {f"{stem}.weight": (inner, width // groups, kernel), f"{stem}.bias": (inner,)}
        width = inner
    return shapes | _linear(f"{DECODER}proj", inner, dim)


def sizes_of(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the ``model_conf`` that the tensors ``state`` (published names) tell; the rest is as in all publications.

    Assumed, because no shape tells it: strides 5, 2, 2, 2, 2, 2, 2, normalised waveforms, the normalisation after each
    block, an epsilon of 1e-5. Raises ``InputError`` when a tensor that tells a size is not there.
    """
    try:
        return _sizes(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{source}: {said}: its sizes cannot be told without a configuration: put the model's config.yaml beside it"
        ) from error


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    front = [state[f"{AUDIO}local_encoder.conv_layers.{n}.0.weight"] for n in range(_count(state, f"{AUDIO}local_"))]
    if len(front) != len(STRIDES):
        raise ValueError(f"{len(front)} convolutions instead of {len(STRIDES)}")
    scale, tokens = state[f"{AUDIO}alibi_scale"], state.get(f"{AUDIO}extra_tokens")
    if scale.ndim != 5 or scale.shape[0] != 1 or scale.shape[2] == 1:
        raise ValueError(f"alibi_scale {tuple(scale.shape)} is not one number for each head")
    positions, hidden = state[f"{AUDIO}relative_positional_encoder.1.0.weight"], state["blocks.0.mlp.fc1.weight"]
    dim, stack = state[f"{AUDIO}project_features.2.weight"].shape[0], _count(state, f"{AUDIO}relative_") - 1
    spec = [(w.shape[0], w.shape[2], stride) for w, stride in zip(front, STRIDES, strict=True)]
    audio: dict[str, Any] = {
        "type": "AUDIO",
        "prenet_depth": _count(state, f"{AUDIO}context_encoder.blocks"),
        "num_extra_tokens": 0 if tokens is None else tokens.shape[1],
        "num_alibi_heads": scale.shape[2],
        "use_alibi_encoder": True,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "learned_alibi_scale_per_layer": False,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": " + ".join(f"[{sizes}]" for sizes in spec),
        "conv_pos_width": positions.shape[2] * stack,
        "conv_pos_groups": dim // positions.shape[1],
        "conv_pos_depth": stack,
        "conv_pos_pre_ln": False,
    }
    if f"{DECODER}proj.weight" in state:
        audio["decoder"] = _decoder_sizes(state, dim)
    depth = _count(state, "blocks")
    return {
        "embed_dim": dim,
        "depth": depth,
        "num_heads": scale.shape[2],
        "mlp_ratio": _ratio(hidden.shape[0], dim),
        "norm_eps": 1e-5,
        "norm_affine": True,
        "layer_norm_first": False,
        "extractor_mode": "layer_norm",
        "normalize": True,
        "modalities": {"audio": {**audio, "model_depth": depth}},
    }


def _ratio(hidden: int, dim: int) -> float:
    """Return a number that, times ``dim`` and rounded down, is ``hidden``."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _decoder_sizes(state: Mapping[str, Tensor], dim: int) -> dict[str, int]:
    first = state[f"{DECODER}blocks.0.0.weight"]
    return {
        "decoder_dim": first.shape[0],
        "decoder_groups": dim // first.shape[1],
        "decoder_kernel": first.shape[2],
        "decoder_layers": _count(state, f"{DECODER}blocks"),
    }


def _count(state: Mapping[str, Tensor], group: str) -> int:
    """Return how many numbered modules (from 0) follow ``group``."""
    matches = (re.match(rf"{re.escape(group)}[a-z_.]*?\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)
