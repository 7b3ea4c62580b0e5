"""Heads that Pepino, Riera and Ferrer 2021 (https://arxiv.org/abs/2104.03502) released, as heads of serkit.

Their authors saved trained heads as joblib files of a Keras wrapper (``.../RavdessModel/out``,
``.../IEMOCAPModel/out``); the same arrays are also read from ``.npz`` files. Two kinds were released: dense heads on
all 13 layers of wav2vec 2.0 base, and their fusion with the 25 low-level descriptors of eGeMAPS.

The files carry no normalisation statistics and no class names. A head expects features that were standardised per
layer and dimension as in training, with statistics of the training part or of each speaker: take them of your own
recordings (:meth:`ReleasedHead.fit_statistics`). The class names here follow from the order of its authors' labels.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkit.data.files import replace_atomically, write_json
from serkit.errors import InputError
from serkit.models.heads import Batch, Ensemble, HeadConfig, Shape, Stream, create_head
from serkit.models.joblib_files import Record, read_joblib
from serkit.models.layers import Segments

CLASSES = {
    4: ("angry", "happy", "neutral", "sad"),
    7: ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"),
    8: ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised"),
}
"""The classes by their number: IEMOCAP, RAVDESS with calm as neutral, RAVDESS as in Issa et al. 2020."""

CONFIG = HeadConfig(
    kind="frames",
    mix="absolute",
    pooling="mean",
    frame_hidden=(128, 128),
    activation="relu",
    dropout=0.2,
    drop="elements",
    drop_last=False,
    init="glorot",
)
"""The paper's head: dropout before the maps per frame, none before the classifier."""

MODEL = "dienen.core.model.Model"
SETTINGS = "kahnfigh.Config"
FORMAT = 1

DENSE = {"hidden_layer_1.Conv1D": "streams.0.linear", "hidden_layer_2.Conv1D": "per_frame.0"}
FUSION = {
    "hidden_layer_w2v.Conv1D": "streams.0.linear",
    "hidden_layer_os.Conv1D": "streams.1.linear",
    "hidden_layer_merged.Conv1D": "per_frame.0",
}
"""Keras layer to module, for the two kinds; the merged layer takes wav2vec 2.0 first, then eGeMAPS."""


@dataclass(frozen=True)
class ReleasedHead:
    """A head with what it needs to be used: layers and width ``(N, D)`` of each stream, and class names in order.

    A recording is one array of frames ``(T, N, D)`` per stream, 50 a second: the 13 layers of wav2vec 2.0 base and, for
    fusion heads, eGeMAPS descriptors ``(T, 1, 25)`` averaged over pairs of frames.
    """

    head: Ensemble
    config: HeadConfig
    shapes: tuple[Shape, ...]
    classes: tuple[str, ...]

    def fit_statistics(self, recordings: Iterable[Sequence[ArrayLike]]) -> None:
        """Standardise from now on by mean and deviation over all frames; :func:`write_head` keeps them."""
        totals: list[tuple[int, Any, Any]] = [(0, 0.0, 0.0) for _ in self.shapes]
        for recording in recordings:
            for number, frames in enumerate(self._check(recording)):
                n, mean, squares = totals[number]
                x = frames.astype(np.float64)
                more, delta = len(x), x.mean(0) - mean
                squares = squares + ((x - x.mean(0)) ** 2).sum(0) + delta**2 * n * more / (n + more)
                totals[number] = (n + more, mean + delta * more / (n + more), squares)
        for stream, (n, mean, squares) in zip(self._streams(), totals, strict=True):
            if not n:
                raise InputError("there is no recording to take statistics of")
            stream.standardise.fit(mean.astype(np.float32), np.sqrt(squares / n).astype(np.float32))

    @torch.no_grad()
    def probabilities(self, recording: Sequence[ArrayLike]) -> dict[str, float]:
        """Return the probability of every class; streams that differ in length are cut to the shortest."""
        arrays = self._check(recording)
        length = min(map(len, arrays))
        packed = [torch.from_numpy(array[:length]).float().transpose(0, 1).contiguous() for array in arrays]
        empty = [torch.zeros(1, 2, *shape) for shape in self.shapes]
        streams = tuple(Stream(none, [array]) for none, array in zip(empty, packed, strict=True))
        scores = self.head(Batch(streams, Segments.packed(torch.tensor([length]))))
        return dict(zip(self.classes, scores.softmax(-1)[0].tolist(), strict=True))

    def _streams(self) -> Any:
        return self.head.heads[0].streams

    def standardises(self) -> bool:
        """Return whether the head holds normalisation statistics."""
        return any(bool((stream.standardise.sd != 1).any()) for stream in self._streams())

    def _check(self, recording: Sequence[ArrayLike]) -> list[np.ndarray]:
        arrays = [np.asarray(frames) for frames in recording]
        if [array.shape[1:] for array in arrays] != list(self.shapes) or not all(map(len, arrays)):
            wanted = " and ".join(f"(T, {layers}, {dim})" for layers, dim in self.shapes)
            raise InputError(f"the head takes frames {wanted}, got {[array.shape for array in arrays]}")
        return arrays


def load_released(path: str | Path) -> ReleasedHead:
    """Read a released head from its joblib file or from ``.npz``; nothing in the file is executed.

    Raises ``InputError`` naming the file when it is neither, names anything but such a model, holds arrays of objects
    or values that are not finite, or is not one of the two kinds.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    layers = _read_npz(path) if zipfile.is_zipfile(path) else _read_model(path)
    kind = next(
        (kind for kind in (DENSE, FUSION) if {"activations_wa", "predictions.Dense", *kind} == set(layers)), None
    )
    if kind is None:
        raise InputError(
            f"{path}: holds the layers {', '.join(sorted(layers)) or 'none'}: this is neither a dense nor a fusion head"
        )
    if len(layers["activations_wa"]) != 1:
        raise InputError(f"{path}: layer activations_wa must be one array, the weights of the layers")
    tensors = {"streams.0.mix.k": torch.from_numpy(layers["activations_wa"][0].reshape(-1).copy())}
    for keras, name in {**kind, "predictions.Dense": "decide"}.items():
        tensors |= _linear(path, keras, layers[keras], name)
    first = [tensors[name] for name in ("streams.0.linear.weight", "streams.1.linear.weight") if name in tensors]
    shapes = tuple((len(tensors["streams.0.mix.k"]) if not n else 1, w.shape[1]) for n, w in enumerate(first))
    classes = CLASSES.get(len(tensors["decide.bias"]))
    if classes is None:
        raise InputError(f"{path}: has {len(tensors['decide.bias'])} classes; the released heads have 4, 7 or 8")
    head = create_head(CONFIG, shapes, len(classes))
    _fill(path, head, tensors)
    return ReleasedHead(head.eval(), CONFIG, shapes, classes)


def _read_npz(path: Path) -> dict[str, list[np.ndarray]]:
    """Return kernel and bias of every layer; the arrays are named ``layer.kernel`` and ``layer.bias``."""
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                layer, _, part = name.rpartition(".")
                found.setdefault(layer, {})[part] = file[name]
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as arrays: {str(error).splitlines()[0]}") from error
    return {layer: [parts[part] for part in ("kernel", "bias") if part in parts] for layer, parts in found.items()}


def _read_model(path: Path) -> dict[str, list[np.ndarray]]:
    """Return kernel and bias of every layer that has weights."""
    model = read_joblib(path, {MODEL, SETTINGS})
    state = model.state if isinstance(model, Record) and model.name == MODEL else None
    weights = state.get("weights") if isinstance(state, dict) else None
    if not isinstance(weights, dict):
        raise InputError(f"{path}: holds no {MODEL} with weights")
    found = {}
    for name, entry in weights.items():
        for part, arrays in (entry if isinstance(entry, dict) else {"": entry}).items():
            if not isinstance(arrays, list) or not all(isinstance(array, np.ndarray) for array in arrays):
                raise InputError(f"{path}: layer {name} holds no list of arrays")
            if arrays:
                found[f"{name}/{part}".rstrip("/").replace("/", ".")] = arrays
    return found


def _linear(path: Path, layer: str, arrays: list[np.ndarray], name: str) -> dict[str, Tensor]:
    """Turn a Keras kernel ``(1, in, out)`` or ``(in, out)`` and a bias ``(out,)`` into a linear map's."""
    sizes = [array.shape for array in arrays]
    if len(arrays) != 2 or len(sizes[0]) not in (2, 3) or len(sizes[1]) != 1 or sizes[0][:-2] not in ((), (1,)):
        raise InputError(f"{path}: layer {layer} is no linear map with a bias: its arrays are {sizes}")
    kernel, bias = arrays[0].reshape(sizes[0][-2:]), arrays[1]
    return {f"{name}.weight": torch.from_numpy(kernel.T.copy()), f"{name}.bias": torch.from_numpy(bias.copy())}


def _fill(path: Path, head: Ensemble, tensors: dict[str, Tensor]) -> None:
    """Put ``tensors`` into ``head``; what standardises stays at mean 0 and deviation 1."""
    state = head.state_dict()
    last = next(name.removesuffix(".weight") for name in state if ".decide." in name and name.endswith(".weight"))
    for name, tensor in tensors.items():
        full = f"{last}.{name.removeprefix('decide.')}" if name.startswith("decide.") else f"heads.0.{name}"
        if state[full].shape != tensor.shape:
            raise InputError(f"{path}: {name} is {tuple(tensor.shape)}, the head has {tuple(state[full].shape)}")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} holds values that are not finite")
        state[full] = tensor.float()
    head.load_state_dict(state)


def write_head(made: ReleasedHead, folder: str | Path, source: str = "") -> Path:
    """Write ``model.safetensors`` and ``head.json`` (config, shapes, classes) into ``folder``; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder / "model.safetensors") as part:
        save_file({name: tensor.contiguous() for name, tensor in made.head.state_dict().items()}, part)
    facts = {
        "format": FORMAT,
        "source": source,
        "paper": "https://arxiv.org/abs/2104.03502",
        "classes": made.classes,
        "shapes": made.shapes,
        "config": made.config.model_dump(mode="json"),
        "normalisation": "stored"
        if made.standardises()
        else "none stored: fit_statistics on your own recordings first",
    }
    write_json(folder / "head.json", facts)
    return folder


def read_head(folder: str | Path) -> ReleasedHead:
    """Read what :func:`write_head` wrote; raises ``InputError`` naming the file that is missing or damaged."""
    folder = Path(folder)
    try:
        facts: dict[str, Any] = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise InputError(f"{folder / 'head.json'}: is of format {facts['format']}, this serkit reads {FORMAT}")
        config = HeadConfig(**facts["config"])
        shapes = tuple((int(layers), int(dim)) for layers, dim in facts["shapes"])
        head = create_head(config, shapes, len(facts["classes"]))
        head.load_state_dict(load_file(folder / "model.safetensors"))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file: give a folder made by serkit convert") from error
    except InputError:
        raise
    except Exception as error:  # pydantic, safetensors and torch each raise their own
        raise InputError(f"{folder}: is damaged: {str(error).splitlines()[0]}") from error
    return ReleasedHead(head.eval(), config, shapes, tuple(facts["classes"]))
