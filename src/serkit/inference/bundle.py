"""Bundles: a folder with ``model.onnx`` and ``serkit.json``, all that is needed to recognise.

The graph takes ``waveforms (B, S)`` float32 at the card's rate and ``lengths (B,)`` int64 in samples, and returns
``logits (B, C)`` before calibration, ``embedding (B, D)``, ``frame_logits (B, T, C)`` and ``frame_lengths (B,)``. The
graph of a model with other ``tasks`` also returns, of these what it has: ``ctc_logits (B, T, V)``, scores of symbols,
and ``ctc_lengths (B,)``, the frames of them that count; ``speaker_logits (B, K)``, ``gender_logits (B, K)``; ``affect
(B, A)`` in the units of the manifest: arousal, valence and dominance in [0, 1].

A model that judges an utterance as a whole, from frames and words together, has no frame probabilities: its graph
returns ``logits`` and ``embedding``. One that reads takes ``words (B, L)`` int64 as well, numbers of the card's words,
0 where there is none; one that reads alone takes nothing else. An utterance without words has one slot of padding.

Where the head is a linear map of the mean over time, as in emotion2vec, the graph may also return ``frames (B, T, D)``,
the embeddings of single frames, and a card without classes is allowed: such a bundle gives features alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from serkit.data.words import Vocabulary, split_words
from serkit.errors import InputError

FORMAT = 1
TASKS = {"ctc": "symbols", "speaker": "classes", "gender": "classes", "affect": "dimensions"}
"""Tasks beside emotion, and what ``serkit.json`` names of them."""
AVERAGES = ("probabilities", "logits", "nothing")
"""What may be averaged over the windows and the frames of a recording; nothing: it is judged as a whole."""
LISTS = ("classes", "tokens", "thresholds")
"""Fields of ``serkit.json`` that are lists, one entry for each class."""
DEFAULT = Path(str(resources.files("serkit") / "pretrained" / "default"))


@dataclass(frozen=True)
class Card:
    """What ``serkit.json`` says of a bundle. Times are in seconds, ``frame_rate`` in frames per second.

    ``tasks`` are those beside emotion: ``ctc`` with its ``symbols``, ``speaker`` and ``gender`` with their ``classes``,
    ``affect`` with its ``dimensions``. ``average`` is what of windows and segments is averaged: probabilities, or the
    logits of their frames where the head is linear in the mean over time; windows of such a bundle overlap by so much
    that together they have the frames of the whole recording. With "nothing" there are no windows: what comes after
    ``window_seconds`` is not heard, and of what the encoder hears the first ``judged_seconds`` count (0: all).
    ``tokens`` are the classes in the spelling of the system that the model comes from. ``text`` is there where the
    model reads: its ``words`` in the order of their numbers, whether that order is ``legacy``, and ``max_words``, how
    many words of an utterance count. A model that reads alone has times of 0. ``thresholds`` are the probabilities from
    which a class counts as present, in the order of the classes; none where nobody knows them.
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
    average: str = "probabilities"
    tokens: tuple[str, ...] = ()
    text: dict[str, Any] = field(default_factory=dict)
    judged_seconds: float = 0.0
    thresholds: tuple[float, ...] = ()

    @property
    def named_thresholds(self) -> dict[str, float]:
        """The probability from which each class counts as present, by class; empty where it is not known."""
        return dict(zip(self.classes, self.thresholds, strict=True)) if self.thresholds else {}

    @property
    def whole(self) -> bool:
        """Whether an utterance is judged as a whole: no windows, no frame probabilities."""
        return self.average == "nothing"

    @property
    def hears(self) -> bool:
        """Whether the model takes recordings."""
        return self.window_seconds > 0

    @property
    def reads(self) -> bool:
        """Whether the model takes words."""
        return bool(self.text)

    def dump(self) -> dict[str, Any]:
        """Return the card as JSON-ready values; what came later than the format only where it says something."""
        values = {**asdict(self), **{name: list(getattr(self, name)) for name in LISTS}}
        unsaid = {"tasks": {}, "average": "probabilities", "tokens": [], "text": {}, "judged_seconds": 0.0}
        unsaid |= {"thresholds": []}
        return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}

    def check(self) -> None:
        """Raise ``ValueError`` for values that do not fit each other."""
        deaf = self.reads and self.min_seconds == self.window_seconds == 0
        if not (self.temperature > 0 and (deaf or 0 < self.min_seconds <= self.window_seconds)):
            raise ValueError("temperature and times must be positive, min_seconds at most window_seconds")
        for task, told in self.tasks.items():
            if list(told) != [TASKS.get(task)] or not told[TASKS[task]]:
                raise ValueError(f"task {task!r} is not known, or does not name its {TASKS.get(task, 'outputs')}")
        if self.average not in AVERAGES:
            raise ValueError(f"average is {' or '.join(AVERAGES)}, not {self.average!r}")
        if self.tokens and len(self.tokens) != len(self.classes):
            raise ValueError(f"{len(self.tokens)} tokens for {len(self.classes)} classes")
        if self.thresholds and len(self.thresholds) != len(self.classes):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.classes)} classes")
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError("thresholds must lie between 0 and 1")
        if self.reads:
            Vocabulary.from_dict(self.text, "text")
            most = self.text.get("max_words")
            if not (self.whole and isinstance(most, int) and most > 0):
                raise ValueError("text also says max_words, of a model that averages nothing")


@dataclass(frozen=True)
class Outputs:
    """What a graph says: ``probabilities (C,)``, ``embedding (D,)`` and ``frame_probabilities (T, C)``.

    ``others`` are the tasks beside emotion by name: probabilities of symbols ``(T, V)`` for "ctc", of classes ``(K,)``
    for "speaker" and "gender"; the dimensions ``(A,)`` of "affect". ``frames (T, D)`` are there when asked for. Without
    classes ``C`` is 0.
    """

    probabilities: np.ndarray
    embedding: np.ndarray
    frame_probabilities: np.ndarray
    others: dict[str, np.ndarray] = field(default_factory=dict)
    frames: np.ndarray | None = None


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
        self.vocabulary = Vocabulary.from_dict(self.card.text) if self.card.reads else None

    def _check_graph(self, path: Path) -> None:
        takes = {item.name for item in self.session.get_inputs()}
        gives = {item.name: item.shape for item in self.session.get_outputs()}
        wanted = {"logits", "embedding"} if self.card.classes else {"embedding", "frames"}
        wanted |= {"frame_logits"} if self.card.classes and not self.card.whole else set()
        due = {"waveforms", "lengths"} if self.card.hears else set()
        due |= {"words"} if self.card.reads else set()
        if takes != due or not wanted <= set(gives):
            raise InputError(f"{path}: is not a model of a serkit bundle: give a folder made by serkit export")
        self.gives_frames = "frames" in gives
        sizes = {output: len(names) for output, names in self._named().items()}
        sizes |= {"logits": len(self.card.classes)} if self.card.classes or "logits" in gives else {}
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

    def number(self, text: str | None) -> tuple[list[int], bool]:
        """Return the numbers of the words of ``text`` that count, and whether there are more; none without words."""
        if self.vocabulary is None:
            return [], False
        words, most = split_words(text, self.vocabulary.legacy), self.card.text["max_words"]
        return self.vocabulary.encode(words, most), len(words) > most

    def feed(self, waveform: np.ndarray | None, words: Sequence[int] = ()) -> dict[str, np.ndarray]:
        """Return the graph's inputs for one ``waveform (S,)`` and the numbers of its ``words``."""
        given: dict[str, np.ndarray] = {}
        if self.card.hears:
            assert waveform is not None
            given = {"waveforms": waveform[None], "lengths": np.array([len(waveform)], np.int64)}
        if self.card.reads:
            given["words"] = np.array([list(words) or [0]], np.int64)
        return given

    def run(
        self,
        waveform: np.ndarray | None,
        keep: np.ndarray | None = None,
        frames: bool = False,
        words: Sequence[int] = (),
    ) -> Outputs:
        """Recognise one ``waveform (S,)`` float32 at the card's rate, and the numbers of its ``words``.

        ``keep (C,)`` booleans restrict the candidate classes. With ``frames`` the embeddings of frames come too; raises
        ``InputError`` where the bundle has none.
        """
        if frames and not self.gives_frames:
            raise InputError(f"{self.card.name}: the bundle gives no embeddings of frames, only of utterances")
        names = ["embedding", *self._named(), *(["frames"] if frames else [])]
        names += ["logits"] if self.card.classes else ["frame_lengths"]
        names += ["frame_logits"] if self.card.classes and not self.card.whole else []
        names += ["ctc_lengths"] if "ctc" in self.card.tasks else []
        given = dict(zip(names, self.session.run(names, self.feed(waveform, words)), strict=True))
        others = {}
        for task, output in zip(self.card.tasks, self._named(), strict=True):
            values = given[output][0].astype(np.float64)
            values = values[: int(given["ctc_lengths"][0])] if task == "ctc" else values
            others[task] = values if task == "affect" else softmax(values)
        embedding, every = given["embedding"][0], given["frames"][0] if frames else None
        if not self.card.classes:
            return Outputs(np.zeros(0), embedding, np.zeros((int(given["frame_lengths"][0]), 0)), others, every)
        probabilities = self._calibrate(given["logits"][0], keep)
        nothing = np.zeros((0, len(probabilities)))
        around = nothing if self.card.whole else self._calibrate(given["frame_logits"][0], keep)
        return Outputs(probabilities, embedding, around, others, every)

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
        named = {name: tuple(fields[name]) for name in LISTS if name == "classes" or name in fields}
        card = Card(**{**fields, **named})
        card.check()
        return card
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is damaged: {error}") from error
