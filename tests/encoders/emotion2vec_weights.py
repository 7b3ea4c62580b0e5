"""Weights that need no file: random numbers seeded by the name of each tensor."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from serkit.encoders.emotion2vec import Emotion2vecEncoder
from serkit.encoders.emotion2vec.state import convert_state

AUDIO = "modality_encoders.AUDIO."


def seeded(text, shape):
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode()))).standard_normal(shape)


def weight_of(key, shape):
    """The tensor of a key, with which the reference values were computed."""
    noise = seeded(key, shape)
    if key.endswith("alibi_scale"):
        value = np.abs(1 + 0.3 * noise)
    elif key.endswith("extra_tokens"):
        value = noise
    elif len(shape) == 1:
        value = 1 + 0.1 * noise if key.endswith("weight") else 0.05 * noise
    else:
        value = noise / np.sqrt(np.prod(shape[1:]))
    return torch.tensor(value, dtype=torch.float32)


def read_shapes(path):
    """The names and shapes of a list with one ``name<TAB>[shape]`` a line."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    pairs = (line.split("\t") for line in lines)
    return {name: [int(size) for size in shape.strip("[]").split(",")] for name, shape in pairs}


def seeded_state(path):
    """A checkpoint with the names of a list, as published."""
    return {key: weight_of(key, shape) for key, shape in read_shapes(path).items()}


def create_seeded(path, config, **options):
    """The encoder of a list of names."""
    encoder = Emotion2vecEncoder("emotion2vec", config, **options).eval()
    state = convert_state(seeded_state(path))
    encoder.load_state_dict({key: state[key] for key in encoder.state_dict()})
    return encoder, state


def shapes_of(config):
    """The published names of an encoder of these sizes, with their shapes."""
    dim, wide, conv = config.dim, config.ffn, config.conv_dim
    shapes = {f"{AUDIO}extra_tokens": [1, config.tokens, dim], f"{AUDIO}alibi_scale": [1, 1, config.heads, 1, 1]}
    for number, (inputs, outputs, kernel) in enumerate(zip((1, *conv), conv, config.conv_kernel, strict=False)):
        name = f"{AUDIO}local_encoder.conv_layers.{number}"
        shapes |= {f"{name}.0.weight": [outputs, inputs, kernel]} | affine(f"{name}.2.1", [outputs])
    shapes |= affine(f"{AUDIO}project_features.1", [conv[-1]]) | affine(f"{AUDIO}project_features.2", [dim, conv[-1]])
    for number in range(1, config.position_layers + 1):
        shape = [dim, dim // config.position_groups, config.position_kernel]
        shapes |= affine(f"{AUDIO}relative_positional_encoder.{number}.0", shape)
    shapes |= affine(f"{AUDIO}context_encoder.norm", [dim])
    names = [f"{AUDIO}context_encoder.blocks.{number}" for number in range(config.prenet)]
    for name in names + [f"blocks.{number}" for number in range(config.blocks - config.prenet)]:
        sizes = {"norm1": [dim], "attn.qkv": [3 * dim, dim], "attn.proj": [dim, dim], "norm2": [dim]}
        for part, shape in {**sizes, "mlp.fc1": [wide, dim], "mlp.fc2": [dim, wide]}.items():
            shapes |= affine(f"{name}.{part}", shape)
    return shapes


def affine(name, shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def original_state(config, seed=0):
    """A checkpoint of these sizes, as published."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes_of(config).items():
        noise = torch.randn(shape, generator=generator)
        scale = 0.2 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        state[key] = noise * scale + key.endswith(("norm1.weight", "norm2.weight", "2.1.weight", "norm.weight"))
        if key.endswith(("extra_tokens", "alibi_scale")):
            state[key] = noise + 1
    return state
