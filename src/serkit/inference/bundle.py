"""Bundles: a folder with ``model.onnx`` and ``serkit.json``, all that is needed to recognise.

The graph takes ``waveforms (B, S)`` float32 at 16 kHz and ``lengths (B,)`` int64 in samples, and returns ``logits
(B, C)`` before calibration, ``embedding (B, D)``, ``frame_logits (B, T, C)`` and ``frame_lengths (B,)``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from serkit.errors import InputError

FORMAT = 1
DEFAULT = Path(str(resources.files("serkit") / "pretrained" / "default"))


@dataclass(frozen=True)
class Card:
    """What ``serkit.json`` says of a bundle. Times are in seconds, ``frame_rate`` in frames per second."""

    name: str
    classes: tuple[str, ...]
    temperature: float
    min_seconds: float
    window_seconds: float
    frame_rate: float
    sampling_rate: int = 16_000
    training_data: str = ""
    licence: str = ""
    intended_use: str = "expressed emotion in a recording, not a person's inner state"
    versions: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def dump(self) -> dict[str, Any]:
        """Return the card as JSON-ready values."""
        return {**asdict(self), "classes": list(self.classes)}


@dataclass(frozen=True)
class Outputs:
    """What a graph says: ``probabilities (C,)``, ``embedding (D,)`` and ``frame_probabilities (T, C)``."""

    probabilities: np.ndarray
    embedding: np.ndarray
    frame_probabilities: np.ndarray


class Bundle:
    """A loaded bundle; safe to call from several threads.

    ``threads`` is the number of threads inside one call: 1 is best when several recordings are recognised at once.
    Raises ``InputError`` naming the file when the folder is not a bundle of this format.
    """

    def __init__(self, folder: str | Path = DEFAULT, threads: int = 1) -> None:
        folder = Path(folder)
        self.card = read_card(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # the arena keeps the largest window's memory for ever
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises untyped errors of its own
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{folder / 'model.onnx'}: cannot be loaded: {reason}") from error
        self._check_graph(folder / "model.onnx")

    def _check_graph(self, path: Path) -> None:
        takes = {item.name for item in self.session.get_inputs()}
        gives = {item.name: item.shape for item in self.session.get_outputs()}
        if takes != {"waveforms", "lengths"} or not {"logits", "embedding", "frame_logits"} <= set(gives):
            raise InputError(f"{path}: is not a model of a serkit bundle: give a folder made by serkit export")
        known, named = gives["logits"][-1], len(self.card.classes)
        if isinstance(known, int) and known != named:
            raise InputError(f"{path}: knows {known} classes, but serkit.json names {named}: export it again")

    def run(self, waveform: np.ndarray, keep: np.ndarray | None = None) -> Outputs:
        """Recognise one ``waveform (S,)`` float32 at 16 kHz; ``keep (C,)`` booleans restrict the candidate classes."""
        feed = {"waveforms": waveform[None], "lengths": np.array([len(waveform)], np.int64)}
        logits, embedding, frame_logits = self.session.run(["logits", "embedding", "frame_logits"], feed)
        return Outputs(self._calibrate(logits[0], keep), embedding[0], self._calibrate(frame_logits[0], keep))

    def _calibrate(self, logits: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        scaled = logits.astype(np.float64) / self.card.temperature
        if keep is not None:
            scaled = np.where(keep, scaled, -np.inf)
        scaled = np.exp(scaled - scaled.max(-1, keepdims=True))
        return scaled / scaled.sum(-1, keepdims=True)


def read_card(folder: Path) -> Card:
    """Read ``serkit.json``; raises ``InputError`` naming the file when it is not a card of this format."""
    path = folder / "serkit.json"
    if not path.is_file():
        raise InputError(f"{folder}: is not a bundle (no serkit.json): give a folder made by serkit export")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TypeError("it holds no object")
        if fields.get("format") != FORMAT:
            raise InputError(
                f"{path}: is of format {fields.get('format')}, this serkit reads {FORMAT}: export it again"
            )
        card = Card(**{**fields, "classes": tuple(fields["classes"])})
        if not (card.temperature > 0 and 0 < card.min_seconds <= card.window_seconds):
            raise ValueError("temperature and times must be positive, min_seconds at most window_seconds")
        return card
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is damaged: {error}") from error
