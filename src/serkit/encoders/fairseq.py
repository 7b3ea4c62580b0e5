"""Checkpoints of fairseq (wav2vec 2.0, XLSR, HuBERT, data2vec-audio) and unilm (WavLM) in Hugging Face's terms.

The key names, ``config.json`` and ``preprocessor_config.json`` that the converted checkpoints on the hub have are made
from the tensors and from the training configuration in the file, so that one loader reads both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from serkit.encoders.pickles import plain
from serkit.errors import InputError

ANCHOR = "feature_extractor.conv_layers.0.0.weight"
"""A key of every such checkpoint; what stands before it stands before every key of the encoder."""

RENAMED = [
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^encoder\.pos_conv\.(\d+)\.0\.", r"encoder.pos_conv_embed.layers.\1.conv."),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.layer_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.feed_forward.intermediate_dense."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.feed_forward.output_dense."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.grep_linear\.", r"\1.attention.gru_rel_pos_linear."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.grep_a$", r"\1.attention.gru_rel_pos_const"),
    (r"^(encoder\.layers\.\d+)\.self_attn\.relative_attention_bias\.", r"\1.attention.rel_attn_embed."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
]


def convert_checkpoint(
    content: dict[str, Any], source: str
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Return tensors, ``config.json`` and ``preprocessor_config.json`` of ``content`` (with "model", "cfg" or "args").

    Raises ``InputError`` when it is another kind of model or lacks a setting that its tensors cannot tell.
    """
    tensors = {key: value for key, value in content["model"].items() if isinstance(value, Tensor)}
    prefix = next((key.removesuffix(ANCHOR) for key in tensors if key.endswith(ANCHOR)), None)
    if prefix is None:
        raise InputError(f"{source}: is not a checkpoint of the wav2vec 2.0 family: no key ends in {ANCHOR}")
    state = {}
    for key, tensor in tensors.items():
        key = key.removeprefix(prefix)
        for pattern, name in RENAMED:
            key, changed = re.subn(pattern, name, key)
            if changed:
                break
        state[key] = tensor
    found = plain({"cfg": content.get("cfg"), "args": content.get("args")})
    settings = next((item for item in mappings(found) if {"conv_feature_layers", "layer_norm_first"} <= set(item)), {})
    normalise = next((item["normalize"] for item in mappings(found) if isinstance(item.get("normalize"), bool)), None)
    preprocessor = {} if normalise is None else {"do_normalize": normalise}
    try:
        return state, _config(state, settings), preprocessor
    except KeyError as error:
        raise InputError(f"{source}: lacks {error}: convert it to Hugging Face's format first") from error


def _config(state: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Any]:
    """Read ``config.json`` off the tensors; only what they cannot tell comes from ``settings``."""
    front = [state[f"feature_extractor.conv_layers.{number}.conv.weight"] for number in range(_count(state, "feature"))]
    stack = "encoder.pos_conv_embed.layers.0.conv.weight" in state
    positions = state[f"encoder.pos_conv_embed.{'layers.0.conv.weight' if stack else 'conv.weight_v'}"]
    buckets = state.get("encoder.layers.0.attention.rel_attn_embed.weight")
    config = {
        "model_type": "data2vec-audio" if stack else "wav2vec2" if buckets is None else "wavlm",
        "hidden_size": positions.shape[0],
        "num_hidden_layers": _count(state, "encoder.layers"),
        "num_attention_heads": settings["encoder_attention_heads"],
        "intermediate_size": state["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        "hidden_act": settings.get("activation_fn", "gelu"),
        "conv_dim": [weight.shape[0] for weight in front],
        "conv_kernel": [weight.shape[2] for weight in front],
        "conv_stride": [stride for _, _, stride in parse_convolutions(settings["conv_feature_layers"])],
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in state,
        "feat_extract_norm": "layer" if "feature_extractor.conv_layers.1.layer_norm.weight" in state else "group",
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in state,
        "do_stable_layer_norm": bool(settings["layer_norm_first"]),
        "num_conv_pos_embeddings": _count(state, "encoder.pos_conv_embed.layers") if stack else positions.shape[2],
        "num_conv_pos_embedding_groups": positions.shape[0] // positions.shape[1],
    }
    if stack:
        config["conv_pos_kernel_size"] = positions.shape[2]
    if buckets is not None:
        config |= {"num_buckets": buckets.shape[0], "max_bucket_distance": settings["max_distance"]}
    return config


def _count(state: dict[str, Tensor], group: str) -> int:
    """Return how many numbered modules follow ``group``."""
    matches = (re.match(rf"{group}[a-z_.]*?\.(\d+)\.", key) for key in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def parse_convolutions(text: str) -> list[tuple[int, int, int]]:
    """Read fairseq's ``[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2``: width, kernel and stride of each layer."""
    layers: list[tuple[int, int, int]] = []
    for group, times in re.findall(r"\[([^\]]*)\]\s*(?:\*\s*(\d+))?", text):
        sizes = [(int(a), int(b), int(c)) for a, b, c in re.findall(r"\(\s*(\d+),\s*(\d+),\s*(\d+)\s*,?\)", group)]
        layers += sizes * int(times or 1)
    return layers


def mappings(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict inside ``tree``, outer ones first."""
    level = [tree]
    while level:
        yield from (item for item in level if isinstance(item, dict))
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
