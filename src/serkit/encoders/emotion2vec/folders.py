"""Where the files of an emotion2vec checkpoint are: folders of ModelScope, FunASR and Hugging Face, hub names, files.

The folders hold ``configuration.json`` (which names the others under ``file_path_metas``), ``config.yaml`` with
``model_conf``, the weights and, for models that recognise, ``tokens.txt`` with one class a line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from serkit.data.files import read_object
from serkit.encoders.emotion2vec.sizes import ANCHOR
from serkit.encoders.fairseq import mappings
from serkit.encoders.presets import PRESETS
from serkit.encoders.weights import from_hub, is_hub_name
from serkit.errors import InputError

FAMILY = "emotion2vec"
PICKLES = (".pt", ".pth", ".bin")
WEIGHTS = (".safetensors", *PICKLES)
PATTERNS = ["configuration.json", "config.yaml", "config.json", "tokens.txt", "*.pt", "*.safetensors"]
ARCHITECTURE = {"depth", "embed_dim", "modalities"}
"""Keys by which a ``model_conf`` is known, wherever it stands."""


@dataclass(frozen=True)
class Emotion2vecFiles:
    """One file of ``weights`` with what stands beside it: ``model_conf`` and class names (None: not there), notes."""

    weights: Path
    conf: dict[str, Any] | None = None
    tokens: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def find_files(source: str | Path) -> Emotion2vecFiles:
    """Return the files behind ``source``: a folder, a file of weights, a preset's name or a hub's ``owner/name``.

    Names are looked for in the local caches of Hugging Face and ModelScope, then on the Hugging Face hub. Raises
    ``InputError`` when there is nothing, or more than one file of weights to choose from.
    """
    if str(source) in PRESETS and PRESETS[str(source)].family == FAMILY:
        source = PRESETS[str(source)].options["weights"]
    path = Path(source).expanduser()
    if not path.exists() and is_hub_name(str(source)):
        path = _modelscope_folder(str(source)) or _from_hub(str(source))
    if path.is_dir():
        return _read_folder(path, None)
    if path.is_file() and path.suffix in WEIGHTS:
        return _read_folder(path.parent, path)
    known = ", ".join(preset.name for preset in PRESETS.values() if preset.family == FAMILY)
    raise InputError(f"{source}: no such checkpoint: give a folder, a .pt or .safetensors file, owner/name or {known}")


def is_emotion2vec(source: str | Path) -> bool:
    """Tell from names and headers, without reading tensors, whether ``source`` looks like such a checkpoint."""
    name, path = str(source), Path(source).expanduser()
    if not path.exists():
        return (name in PRESETS and PRESETS[name].family == FAMILY) or (is_hub_name(name) and FAMILY in name)
    if path.is_dir():
        own = any(path.glob("*.pt")) or any(_is_ours(file) for file in path.glob("*.safetensors"))
        return own or _model_conf(path, {})[0] is not None
    return path.suffix in (".pt", ".pth") or (path.suffix == ".safetensors" and _is_ours(path))


def _is_ours(file: Path) -> bool:
    """Tell whether the header of a safetensors file names emotion2vec's tensors, serkit's names or the published."""
    try:
        with safe_open(file, "pt") as opened:
            return FAMILY in (opened.metadata() or {}) or any(key.endswith(ANCHOR) for key in opened.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def _from_hub(name: str) -> Path:
    if name.startswith("iic/"):
        raise InputError(
            f"{name}: not in ModelScope's local cache: download it there, or use emotion2vec/{name[4:]} of Hugging Face"
        )
    folder = from_hub(name, PATTERNS, WEIGHTS)
    if not any(file.suffix in WEIGHTS for file in folder.iterdir()):
        raise InputError(
            f"{name}: the local Hugging Face cache holds no weights of it, and neither does the hub or it cannot be "
            "reached: download it where there is a network, or give a local folder"
        )
    return folder


def _modelscope_folder(name: str) -> Path | None:
    """Return where ModelScope's client has put ``name``, by its old layout or its new one."""
    root = Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope")
    places = [root / part / name for part in ("hub/models", "hub", "models", ".")]
    return next((place for place in places if place.is_dir()), None)


def _read_folder(folder: Path, weights: Path | None) -> Emotion2vecFiles:
    metas = read_object(folder / "configuration.json").get("file_path_metas")
    metas = metas if isinstance(metas, dict) else {}
    conf, notes = _model_conf(folder, metas)
    tokenizer = metas.get("tokenizer_conf")
    listed = _inside(folder, tokenizer.get("token_list") if isinstance(tokenizer, dict) else None)
    tokens = next((file for file in (listed, folder / "tokens.txt") if file and file.is_file()), None)
    found = weights or _weights(folder, metas)
    return Emotion2vecFiles(found, conf, None if tokens is None else _read_tokens(tokens), notes)


def _inside(folder: Path, name: Any) -> Path | None:
    """Return the file called ``name`` in ``folder``; None when a file of settings names something elsewhere."""
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    return folder / name


def _weights(folder: Path, metas: Mapping[str, Any]) -> Path:
    named = [_inside(folder, metas.get("init_param")), folder / "model.safetensors", folder / "model.pt"]
    for file in named:
        if file is not None and file.is_file():
            return file
    files = [file for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS]
    if not files:
        raise InputError(f"{folder}: holds no weights: model.pt, another .pt file or .safetensors belongs there")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder}: holds {names}: say which file of weights to read")
    return files[0]


def _read_tokens(file: Path) -> tuple[str, ...]:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        names = json.loads(text)
    except ValueError as error:
        raise InputError(f"{file}: is not valid JSON ({error}): fetch it again") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: must be a list of class names")
    return tuple(names)


def _model_conf(folder: Path, metas: Mapping[str, Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the ``model_conf`` of a folder (None: there is none) and notes on files that look like one and are not."""
    notes: list[str] = []
    for file in (_inside(folder, metas.get("config")), folder / "config.yaml", folder / "config.json"):
        if file is None or not file.is_file():
            continue
        tree = read_object(file) if file.suffix == ".json" else _read_yaml(file)
        conf = find_model_conf(tree)
        if conf is not None:
            return conf, tuple(notes)
        if tree.get("model_type") != FAMILY:
            notes.append(f"{file.name} is no configuration of emotion2vec: not used")
    return None, tuple(dict.fromkeys(notes))


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: cannot be read as plain YAML ({reason}): fetch it again") from error
    return tree if isinstance(tree, dict) else {}


def find_model_conf(tree: Any) -> dict[str, Any] | None:
    """Return the ``model_conf`` inside ``tree``, plain settings: references resolved, numbers as numbers."""
    conf = next((item for item in mappings(tree) if set(item) >= ARCHITECTURE), None)
    return None if conf is None else _mend(conf, tree)


NUMBER = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def _mend(value: Any, root: Any, depth: int = 0) -> Any:
    """Resolve ``${model.depth}`` from ``root`` (None when it leads nowhere) and read ``1e-05``, a text to PyYAML."""
    if isinstance(value, dict):
        return {str(key): _mend(item, root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_mend(item, root, depth) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    value = str(value)
    if NUMBER.fullmatch(value):
        return float(value)
    reference = REFERENCE.fullmatch(value)
    if reference is None:
        return value
    found = root
    for part in reference[1].split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return _mend(found, root, depth + 1) if depth < 5 else None
