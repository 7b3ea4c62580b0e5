"""Names and settings of checkpoints of emotion2vec, and of data2vec 2.0 for speech, in serkit's terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from serkit.encoders.emotion2vec.encoder import Emotion2vecConfig
from serkit.encoders.fairseq import parse_convolutions
from serkit.errors import InputError

_AUDIO = r"^modality_encoders\.AUDIO\."
_PARTS = [
    (_AUDIO + r"local_encoder\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (_AUDIO + r"local_encoder\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (_AUDIO + r"project_features\.1\.", "feature_projection.layer_norm."),
    (_AUDIO + r"project_features\.2\.", "feature_projection.projection."),
    (_AUDIO + r"context_encoder\.norm\.", "encoder.layer_norm."),
    (_AUDIO + r"decoder\.blocks\.(\d+)\.0\.", r"decoder.layers.\1."),
    (_AUDIO + r"decoder\.", "decoder."),
]
_BLOCK = {
    "norm1": "layer_norm",
    "norm2": "final_layer_norm",
    "attn.proj": "attention.out_proj",
    "mlp.fc1": "feed_forward.intermediate_dense",
    "mlp.fc2": "feed_forward.output_dense",
}


def convert_state(original: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the names of :class:`~serkit.encoders.emotion2vec.Emotion2vecEncoder`.

    Keys begin with ``modality_encoders.AUDIO.`` or ``blocks.``. Those of the decoder become ``decoder.*``; what is
    neither, such as the head ``proj.*``, keeps its name.
    """
    numbers = (re.match(_AUDIO + r"context_encoder\.blocks\.(\d+)\.", key) for key in original)
    prenet = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    state: dict[str, Tensor] = {}
    for key, tensor in original.items():
        state |= _convert(key, tensor, prenet)
    return state


def _convert(key: str, tensor: Tensor, prenet: int) -> dict[str, Tensor]:
    if key == "modality_encoders.AUDIO.extra_tokens":
        return {"utterance_tokens": tensor.flatten(0, -2)}
    if key == "modality_encoders.AUDIO.alibi_scale":
        return {"alibi_scale": tensor.flatten()}
    if found := re.match(_AUDIO + r"relative_positional_encoder\.(\d+)\.0\.(.+)", key):  # counted from 1
        return {f"encoder.pos_conv_embed.layers.{int(found[1]) - 1}.conv.{found[2]}": tensor}
    if found := re.match(r"^(modality_encoders\.AUDIO\.context_encoder\.)?blocks\.(\d+)\.(.+)\.(weight|bias)$", key):
        block = f"encoder.layers.{int(found[2]) + (0 if found[1] else prenet)}"
        if found[3] == "attn.qkv":
            parts = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{block}.attention.{part}_proj.{found[4]}": values.clone() for part, values in parts}
        if found[3] in _BLOCK:
            return {f"{block}.{_BLOCK[found[3]]}.{found[4]}": tensor}
    for pattern, name in _PARTS:
        renamed, changed = re.subn(pattern, name, key)
        if changed:
            return {renamed: tensor}
    return {key: tensor}


_FIXED = {
    "extractor_mode": "layer_norm",
    "layer_norm_first": False,
    "norm_affine": True,
    "use_alibi_encoder": True,
    "learned_alibi": False,
    "learned_alibi_scale": True,
    "learned_alibi_scale_per_head": True,
    "learned_alibi_scale_per_layer": False,
    "alibi_scale": 1.0,
    "conv_pos_pre_ln": False,
}
"""Settings of which only one value is computed here, that of every published model."""


def read_model_conf(conf: Mapping[str, Any], source: str = "model_conf") -> Emotion2vecConfig:
    """Turn ``model_conf`` of FunASR's ``config.yaml`` (fairseq's ``model`` settings) into sizes.

    Raises ``InputError`` naming ``source`` for a setting that is missing or asks for another kind of network.
    """
    audio = conf.get("modalities", {}).get("audio", {})
    flat = {**audio, **conf}
    for name, value in _FIXED.items():
        if flat.get(name, value) != value:
            raise InputError(f"{source}: {name} = {flat[name]!r} is not supported: emotion2vec has {value!r}")
    try:
        convolutions = parse_convolutions(audio["feature_encoder_spec"])
        dim, prenet = int(flat["embed_dim"]), int(audio["prenet_depth"])
        return Emotion2vecConfig(
            dim=dim,
            blocks=prenet + int(flat["depth"]),
            heads=int(flat["num_heads"]),
            ffn=int(dim * flat["mlp_ratio"]),
            conv_dim=tuple(width for width, _, _ in convolutions),
            conv_kernel=tuple(kernel for _, kernel, _ in convolutions),
            conv_stride=tuple(stride for _, _, stride in convolutions),
            position_kernel=max(3, int(audio["conv_pos_width"]) // int(audio["conv_pos_depth"])),
            position_groups=int(audio["conv_pos_groups"]),
            position_layers=int(audio["conv_pos_depth"]),
            eps=float(flat["norm_eps"]),
            normalise=bool(conf.get("normalize", True)),
            prenet=prenet,
            tokens=int(audio["num_extra_tokens"]),
        )
    except KeyError as error:
        raise InputError(f"{source}: lacks {error}, so the sizes of the model are unknown") from error
