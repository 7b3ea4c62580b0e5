"""emotion2vec computed plainly from a published state dict, one utterance at a time: what ours is compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

AUDIO = "modality_encoders.AUDIO."


def slopes_of(heads):
    """As Press et al. 2022 give them."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    closest = 2 ** math.floor(math.log2(heads))
    return slopes_of(closest) + slopes_of(2 * closest)[0::2][: heads - closest]


def positions_of(state, x, groups):
    """What the positional convolutions make of ``x (B, T, D)``."""
    layer = 1
    while (key := f"{AUDIO}relative_positional_encoder.{layer}.0.weight") in state:
        bias = state[key.replace("weight", "bias")]
        y = F.conv1d(x.transpose(1, 2), state[key], bias, padding=state[key].shape[2] // 2, groups=groups)
        x = F.gelu(F.layer_norm(y.transpose(1, 2), y.shape[1:2]))
        layer += 1
    return x


def block(state, name, x, bias, heads):
    """Return the output of a block on ``x (B, T, D)`` and the feed-forward's alone."""
    get = lambda part: (state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])  # noqa: E731
    q, k, v = F.linear(x, *get("attn.qkv")).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = F.layer_norm(x + F.linear(mixed, *get("attn.proj")), x.shape[2:], *get("norm1"))
    result = F.linear(F.gelu(F.linear(x, *get("mlp.fc1"))), *get("mlp.fc2"))
    return F.layer_norm(x + result, x.shape[2:], *get("norm2")), result


@torch.no_grad()
def states_of(state, config, waveform):
    """Return layer 0, then the output of every block, each ``(1, T, D)`` without the tokens."""
    x = F.layer_norm(waveform, waveform.shape)[None, None]
    for number, stride in enumerate(config.conv_stride):
        name = f"{AUDIO}local_encoder.conv_layers.{number}"
        x = F.conv1d(x, state[f"{name}.0.weight"], stride=stride).transpose(1, 2)
        x = F.layer_norm(x, x.shape[2:], state[f"{name}.2.1.weight"], state[f"{name}.2.1.bias"]).transpose(1, 2)
        x = F.gelu(x)
    name = f"{AUDIO}project_features"
    x = F.layer_norm(x.transpose(1, 2), x.shape[1:2], state[f"{name}.1.weight"], state[f"{name}.1.bias"])
    x = F.linear(x, state[f"{name}.2.weight"], state[f"{name}.2.bias"])
    states, tokens = [x], state[f"{AUDIO}extra_tokens"]
    x = torch.cat([tokens, x + positions_of(state, x, config.position_groups)], 1)
    name = f"{AUDIO}context_encoder"
    x = F.layer_norm(x, x.shape[2:], state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    steps, extra = torch.arange(states[0].shape[1]), tokens.shape[1]
    bias = torch.zeros(1, config.heads, x.shape[1], x.shape[1])
    away = (steps[None] - steps[:, None]).abs()
    bias[..., extra:, extra:] = -away * torch.tensor(slopes_of(config.heads))[:, None, None]
    bias = bias * state[f"{AUDIO}alibi_scale"].clamp(min=0).reshape(1, -1, 1, 1)
    names = [f"{name}.blocks.{number}" for number in range(config.prenet)]
    names += [f"blocks.{number}" for number in range(config.blocks - config.prenet)]
    for name in names:
        x, _ = block(state, name, x, bias, config.heads)
        states.append(x[:, extra:])
    return states
