"""Find an encoder's weights: a local file or folder, those packaged with serkit, or a Hugging Face repository.

A pickle may run code when it is read. :func:`load_weights` takes safetensors only; :func:`load_checkpoint`, for models
whose authors published nothing else, also reads what ``torch.save`` wrote, but never executes any of it (see
:mod:`serkit.encoders.pickles`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from serkit.encoders.fairseq import convert_checkpoint
from serkit.encoders.pickles import load_pickle
from serkit.errors import InputError

PACKAGED = Path(str(resources.files("serkit") / "pretrained"))
"""Folder of the weights that are installed with serkit."""


def load_weights(source: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the ``config.json`` (empty when there is none) behind ``source``.

    ``source`` is a ``.safetensors`` file, a folder with ``model.safetensors`` (sharded or not), the name of packaged
    weights, or a Hugging Face id such as ``openai/whisper-base``, taken from the local cache first. Raises
    ``InputError`` when nothing is found, offline or not, and for weights that are not safetensors.
    """
    path = Path(source).expanduser()
    packaged = PACKAGED / f"{source}.safetensors"
    if packaged.is_file():
        return load_file(packaged), {}
    if path.is_file():
        return _load_file(path), {}
    if path.is_dir():
        return _load_folder(path)
    if is_hub_name(str(source)):
        return _load_folder(_from_hub(str(source)))
    names = ", ".join(sorted(file.stem for file in PACKAGED.glob("*.safetensors")))
    raise InputError(f"{source}: no such weights: give a .safetensors file, a folder, owner/name, or one of {names}")


def _load_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: weights load from safetensors only: convert them first")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own untyped errors
        raise InputError(f"{path}: is not a readable safetensors file ({error})") from error


def _load_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config_file, index_file = folder / "config.json", folder / "model.safetensors.index.json"
    config = _read_json(config_file)
    if index_file.is_file():
        shards = sorted(set(_read_json(index_file)["weight_map"].values()))
        state = {key: tensor for shard in shards for key, tensor in _load_file(folder / shard).items()}
        return state, config
    files = [folder / "model.safetensors", *sorted(folder.glob("*.safetensors"))]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(f"{folder}: holds no .safetensors file")
    return _load_file(found), config


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and settings in Hugging Face's terms: ``config.json`` and ``preprocessor_config.json`` (empty: none)."""

    source: str
    state: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)


def load_checkpoint(source: str | Path) -> Checkpoint:
    """Read the checkpoint behind ``source`` with its settings.

    ``source`` is a folder in Hugging Face's format (safetensors, or ``pytorch_model.bin``; sharded or not), one of its
    files with ``config.json`` beside it, a checkpoint of fairseq or unilm (``.pt``), or a Hugging Face id. Raises
    ``InputError`` when nothing is found, offline or not, or nothing can be read without running code.
    """
    path = Path(source).expanduser()
    if not path.exists() and is_hub_name(str(source)):
        path = _checkpoint_from_hub(str(source))
    if path.is_dir():
        return Checkpoint(str(source), _load_shards(path), *_settings(path))
    if not path.is_file():
        raise InputError(f"{source}: no such checkpoint: give a folder, a file or owner/name")
    if path.suffix == ".safetensors":
        return Checkpoint(str(source), _load_file(path), *_settings(path.parent))
    content = load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return Checkpoint(str(source), *convert_checkpoint(content, str(source)))
    return Checkpoint(str(source), _tensors(content, path), *_settings(path.parent))


def _settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return _read_json(folder / "config.json"), _read_json(folder / "preprocessor_config.json")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{file}: is not valid JSON ({error}): fetch it again") from error


def _load_shards(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder: safetensors when there are any, otherwise ``pytorch_model.bin``."""
    if (folder / "model.safetensors.index.json").is_file() or any(folder.glob("*.safetensors")):
        return _load_folder(folder)[0]
    index = folder / "pytorch_model.bin.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else ["pytorch_model.bin"]
    if not (folder / names[0]).is_file():
        raise InputError(f"{folder}: holds neither .safetensors nor {names[0]}")
    files = [folder / name for name in names]
    return {key: tensor for file in files for key, tensor in _tensors(load_pickle(file), file).items()}


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no tensors by name")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def is_hub_name(source: str) -> bool:
    """Tell whether ``source`` reads like ``owner/name`` on the Hugging Face hub, and not like a file of weights."""
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source)
    return named is not None and Path(source).suffix not in (".safetensors", ".bin", ".pt", ".pth")


def from_hub(name: str, patterns: list[str], weights: tuple[str, ...]) -> Path:
    """Return the folder of ``name``: the local cache if it has files ending in ``weights``, or a download.

    Only files that ``patterns`` fit are fetched. Raises ``InputError`` when the hub refuses or cannot be reached.
    """
    folder = _cached(name)
    if folder is not None and any(file.suffix in weights for file in folder.iterdir()):
        return folder
    return _download(name, patterns)


def _from_hub(name: str) -> Path:
    return _cached(name) or _download(name, ["config.json", "*.safetensors", "*.safetensors.index.json"])


def _checkpoint_from_hub(name: str) -> Path:
    """Return the folder of ``name``: what is in the local cache, then safetensors, then ``pytorch_model.bin``."""
    settings = ["config.json", "preprocessor_config.json"]
    safe = [*settings, "model*.safetensors", "model.safetensors.index.json"]
    folder = from_hub(name, safe, (".safetensors", ".bin"))
    if any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir()):
        return folder
    return _download(name, [*settings, "pytorch_model*.bin", "pytorch_model.bin.index.json"])


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HfHubHTTPError as error:
        raise InputError(
            f"{name}: the hub refused it ({error.response.status_code}): check the name and your token"
        ) from error
    except Exception as error:  # no network shows itself as one of many exception types
        raise InputError(
            f"{name}: not in the local Hugging Face cache, and the hub cannot be reached ({type(error).__name__}): "
            "download it where there is a network, or give a local folder"
        ) from error


IGNORED = (
    "masked_spec_embed",
    "quantizer.",
    "project_q.",
    "project_hid.",
    "lm_head.",
    "projector.",
    "classifier.",
    "layer_weights",
    "adapter.",
    "tdnn.",
    "objective.",
    "feature_extractor.weight",
    "feature_extractor.bias",
    "final_proj.",
    "label_embs_concat",
    "target_glu.",
    "proj.",
    "w2v_encoder.proj.",
    "_ema",
)
"""Beginnings of keys that belong to pretraining and to heads (the two ``feature_extractor`` ones to x-vectors)."""


def encoder_state(checkpoint: Checkpoint, anchor: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 tensors of ``checkpoint`` under the keys of ``expected``, an encoder's state.

    ``anchor`` is a key of every encoder: what stands before it in the checkpoint is cut off every key. Weight
    normalisation is folded into plain weights; what is in :data:`IGNORED` is left out. Raises ``InputError`` listing
    every other key that is missing, unexpected or of another shape.
    """
    prefix = next((key.removesuffix(anchor) for key in checkpoint.state if key.endswith(anchor)), "")
    state = {}
    for key, tensor in checkpoint.state.items():
        inner = key.removeprefix(prefix)
        if not inner.startswith(IGNORED) and not key.startswith(IGNORED):
            state[inner] = tensor.detach().float()
    state = fold_weight_norm(state)
    check_shapes(checkpoint.source, state, {key: tuple(tensor.shape) for key, tensor in expected.items()})
    return state


def check_shapes(source: str, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``InputError`` listing every tensor of ``state`` that is missing, unexpected or of another shape."""
    wrong = [f"missing {key}" for key in expected if key not in state]
    wrong += [f"unexpected {key}" for key in state if key not in expected]
    wrong += [
        f"{key} {tuple(state[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if wrong:
        raise InputError(f"{source}: does not fit its configuration: {', '.join(wrong)}")


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of magnitude and direction (Salimans & Kingma 2016) by their product, the weight itself."""
    folded = dict(state)
    for magnitude, direction in (("weight_g", "weight_v"), (f"{PARAMETRIZED}0", f"{PARAMETRIZED}1")):
        for key in [key for key in state if key.endswith(f".{magnitude}")]:
            stem = key.removesuffix(magnitude)
            if stem + direction in state:
                g, v = folded.pop(key), folded.pop(stem + direction)
                summed = [axis for axis, size in enumerate(g.shape) if size == 1 and v.shape[axis] != 1]
                folded[f"{stem}weight"] = v * (g / v.norm(dim=summed, keepdim=True))
    return folded


PARAMETRIZED = "parametrizations.weight.original"
