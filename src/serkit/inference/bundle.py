"""Bundles: a folder with ``model.onnx`` and ``serkit.json``, all that is needed to recognise.

The graph takes ``waveforms (B, S)`` float32 at 16 kHz and ``lengths (B,)`` int64 in samples, and returns ``logits
(B, C)`` before calibration, ``embedding (B, D)``, ``frame_logits (B, T, C)`` and ``frame_lengths (B,)``. The graph of a
model with other ``tasks`` also returns, of these what it has: ``ctc_logits (B, T, V)``, scores of symbols, and
``ctc_lengths (B,)``, the frames of them that count; ``speaker_logits (B, K)``, ``gender_logits (B, K)``; ``affect
(B, A)`` in the units of the manifest: arousal, valence and dominance in [0, 1].
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
TASKS = {"ctc": "symbols", "speaker": "classes", "gender": "classes", "affect": "dimensions"}
"""Tasks beside emotion, and what ``serkit.json`` names of them."""
DEFAULT = Path(str(resources.files("serkit") / "pretrained" / "default"))


@dataclass(frozen=True)
class Card:
    """What ``serkit.json`` says of a bundle. Times are in seconds, ``frame_rate`` in frames per second.

    ``tasks`` are those beside emotion: ``ctc`` with its ``symbols``, ``speaker`` and ``gender`` with their ``classes``,
    ``affect`` with its ``dimensions``.
    """

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
    tasks: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Return the card as JSON-ready values; ``tasks`` only where there are any."""
        values = {**asdict(self), "classes": list(self.classes)}
        return values if self.tasks else {name: value for name, value in values.items() if name != "tasks"}


@dataclass(frozen=True)
class Outputs:
    """What a graph says: ``probabilities (C,)``, ``embedding (D,)`` and ``frame_probabilities (T, C)``.

    ``others`` are the tasks beside emotion by name: probabilities of symbols ``(T, V)`` for "ctc", of classes ``(K,)``
    for "speaker" and "gender"; the dimensions ``(A,)`` of "affect".
    """

    probabilities: np.ndarray
    embedding: np.ndarray
    frame_probabilities: np.ndarray
    others: dict[str, np.ndarray] = field(default_factory=dict)


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
        sizes = {"logits": len(self.card.classes)} | {output: len(names) for output, names in self._named().items()}
        for output, named in sizes.items():
            if output not in gives:
                raise InputError(f"{path}: has no output {output}, which serkit.json names: export it again")
            known, what = gives[output][-1], "classes" if output == "logits" else f"values in {output}"
            if isinstance(known, int) and known != named:
                raise InputError(f"{path}: knows {known} {what}, but serkit.json names {named}: export it again")

    def _named(self) -> dict[str, list[str]]:
        """Return the output of every task beside emotion, with the names of what is in it."""
        return {
            "affect" if name == "affect" else f"{name}_logits": next(iter(told.values()))
            for name, told in self.card.tasks.items()
        }

    def run(self, waveform: np.ndarray, keep: np.ndarray | None = None) -> Outputs:
        """Recognise one ``waveform (S,)`` float32 at 16 kHz; ``keep (C,)`` booleans restrict the candidate classes."""
        feed = {"waveforms": waveform[None], "lengths": np.array([len(waveform)], np.int64)}
        names = ["logits", "embedding", "frame_logits", *self._named()]
        names += ["ctc_lengths"] if "ctc" in self.card.tasks else []
        given = dict(zip(names, self.session.run(names, feed), strict=True))
        others = {}
        for task, output in zip(self.card.tasks, self._named(), strict=True):
            values = given[output][0].astype(np.float64)
            values = values[: int(given["ctc_lengths"][0])] if task == "ctc" else values
            others[task] = values if task == "affect" else softmax(values)
        frames = self._calibrate(given["frame_logits"][0], keep)
        return Outputs(self._calibrate(given["logits"][0], keep), given["embedding"][0], frames, others)

    def _calibrate(self, logits: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        scaled = logits.astype(np.float64) / self.card.temperature
        if keep is not None:
            scaled = np.where(keep, scaled, -np.inf)
        return softmax(scaled)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return ``scores (..., C)`` as probabilities."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


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
        for task, told in card.tasks.items():
            if list(told) != [TASKS.get(task)] or not told[TASKS[task]]:
                raise ValueError(f"task {task!r} is not known, or does not name its {TASKS.get(task, 'outputs')}")
        return card
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is damaged: {error}") from error
