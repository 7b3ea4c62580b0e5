"""Find an encoder's weights: a local file or folder, those packaged with serkit, or a Hugging Face repository.

Only safetensors are read: a pickle runs code, so it is refused with a word on how to convert it.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

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
    if str(source).count("/") == 1 and path.suffix != ".safetensors":
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
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if index_file.is_file():
        shards = sorted(set(json.loads(index_file.read_text(encoding="utf-8"))["weight_map"].values()))
        state = {key: tensor for shard in shards for key, tensor in _load_file(folder / shard).items()}
        return state, config
    files = [folder / "model.safetensors", *sorted(folder.glob("*.safetensors"))]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise InputError(f"{folder}: holds no .safetensors file")
    return _load_file(found), config


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
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
