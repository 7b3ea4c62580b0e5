"""The one path from a recording to a prediction: the command line, servers and notebooks all come through here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.audio import SAMPLING_RATE, Source, source_name, stream_audio, to_mono
from serkit.data.clips import Clip
from serkit.data.text import CharTokenizer
from serkit.errors import InputError, nearest
from serkit.inference.bundle import DEFAULT, TASKS, Bundle
from serkit.inference.windows import Hearing, check_segment, hear
from serkit.inference.workers import each_in_order


@dataclass(frozen=True)
class Segment:
    """A part of a recording; times in seconds."""

    start: float
    end: float
    label: str
    probabilities: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, times with three decimals, probabilities with four."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "label": self.label,
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
        }


@dataclass(frozen=True)
class Prediction:
    """What is expressed in a recording.

    ``probabilities`` are calibrated and add up to one; ``label`` is the most probable class. ``start`` and ``end`` are
    in seconds of the file. ``segments`` has one entry per window of a recording longer than the bundle's window, or per
    so many seconds as were asked for, and ``embedding (D,)`` is there when asked for. What models with further tasks
    say: ``text`` is what they hear, one window's after the other's; ``others`` has the probabilities of "speaker" and
    "gender" and the dimensions of "affect", averaged over windows by length.
    """

    id: str
    start: float
    end: float
    label: str
    probabilities: dict[str, float]
    model: str
    segments: tuple[Segment, ...] = ()
    embedding: np.ndarray | None = field(default=None, repr=False)
    text: str | None = None
    others: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def speaker(self) -> str | None:
        """The most probable speaker; None where the model knows none."""
        return self._best("speaker")

    @property
    def gender(self) -> str | None:
        """The most probable gender; None where the model was not trained on it."""
        return self._best("gender")

    def _best(self, task: str) -> str | None:
        found = self.others.get(task)
        return max(found, key=found.__getitem__) if found else None

    @property
    def confidence(self) -> float:
        """The probability of ``label``."""
        return self.probabilities[self.label]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; ``segments``, ``embedding``, ``text`` and other tasks only where there are any."""
        whole = Segment(self.start, self.end, self.label, self.probabilities)
        found: dict[str, Any] = {"id": self.id, **whole.as_dict(), "model": self.model}
        if self.text is not None:
            found["text"] = self.text
        for task, values in self.others.items():
            rounded = {name: round(value, 4) for name, value in values.items()}
            found |= {task: rounded} if task == "affect" else {task: self._best(task), f"{task}_probabilities": rounded}
        if self.segments:
            found["segments"] = [segment.as_dict() for segment in self.segments]
        if self.embedding is not None:
            found["embedding"] = [round(float(value), 5) for value in self.embedding]
        return found


class Predictor:
    """Recognises with one bundle. Answers do not depend on what else is recognised, nor on the number of workers.

    A recording longer than the bundle's window is cut into windows of equal length that do not overlap; silent ones are
    left out, and the rest are averaged by length. It is decoded as a stream, so memory does not grow with its length.
    Raises ``InputError`` for a bundle without classes, which gives features alone.
    """

    def __init__(self, bundle: str | Path = DEFAULT) -> None:
        self.bundle = Bundle(bundle)
        self.card = self.bundle.card
        if not self.card.classes:
            remedy = "take a model with a head, or serkit predict --format funasr"
            raise InputError(f"{bundle}: knows no classes and gives features alone: {remedy}")
        symbols = self.card.tasks.get("ctc", {}).get("symbols")
        self.tokenizer = CharTokenizer(tuple(symbols)) if symbols else None

    def predict(
        self,
        audio: Source | np.ndarray,
        *,
        sampling_rate: int = SAMPLING_RATE,
        start: float | None = None,
        end: float | None = None,
        labels: Iterable[str] | None = None,
        embedding: bool = False,
        segment: float | None = None,
        id: str | None = None,
    ) -> Prediction:
        """Recognise a file (path or open, from ``start`` to ``end`` seconds) or an array at ``sampling_rate``.

        ``labels`` restricts the candidate classes: the others get probability zero. With ``segment`` the prediction has
        a segment for every so many seconds, from the probabilities around each frame. Raises
        :class:`~serkit.errors.AudioError` for a recording that cannot be decoded, is silent, or is shorter than the
        bundle's ``min_seconds``.
        """
        keep = self._candidates(labels)
        check_segment(self.card, segment)
        if isinstance(audio, np.ndarray):
            if start is not None or end is not None:
                raise InputError("start and end are for files: slice the array instead")
            name, blocks = id or "array", iter([to_mono(audio, sampling_rate)])
        else:
            name, blocks = id or source_name(audio), stream_audio(audio, start, end)
        origin = start or 0.0
        heard = hear(self.bundle, blocks, keep, scores=segment is not None)
        if not heard.windows:
            raise heard.refuse(name)
        told = [window.outputs.others for window in heard.windows]
        probabilities = self._named(heard.probabilities)
        return Prediction(
            id=name,
            start=origin,
            end=origin + heard.samples / SAMPLING_RATE,
            label=max(probabilities, key=probabilities.__getitem__),
            probabilities=probabilities,
            model=self.card.name,
            segments=self._segments(heard, origin, segment),
            embedding=heard.embedding if embedding else None,
            text=self._decode(told),
            others=self._average(told, heard.shares),
        )

    def _named(self, probabilities: np.ndarray) -> dict[str, float]:
        return dict(zip(self.card.classes, probabilities.tolist(), strict=True))

    def _segments(self, heard: Hearing, origin: float, seconds: float | None) -> tuple[Segment, ...]:
        """Return segments of that many ``seconds``; None: the windows, where the recording has several."""
        if seconds is not None:
            parts = heard.segments(seconds)
        elif heard.long:
            parts = [
                (each.start / SAMPLING_RATE, each.end / SAMPLING_RATE, each.outputs.probabilities)
                for each in heard.windows
            ]
        else:
            parts = []
        found = []
        for start, end, values in parts:
            named = self._named(values)
            found.append(Segment(origin + start, origin + end, max(named, key=named.__getitem__), named))
        return tuple(found)

    def _decode(self, told: Sequence[dict[str, np.ndarray]]) -> str | None:
        """Return what was heard: the best symbol of every frame, repeats merged, windows joined by a space."""
        if self.tokenizer is None:
            return None
        texts = [self.tokenizer.decode(outputs["ctc"].argmax(-1).tolist(), merge=True) for outputs in told]
        return " ".join(text for text in texts if text)

    def _average(self, told: Sequence[dict[str, np.ndarray]], share: np.ndarray) -> dict[str, dict[str, float]]:
        """Return every other task's values by name, averaged over windows by their ``share`` of the length."""
        averaged = {}
        for task, names in self.card.tasks.items():
            if task != "ctc":
                mean = share @ np.array([outputs[task] for outputs in told])
                averaged[task] = dict(zip(names[TASKS[task]], mean.tolist(), strict=True))
        return averaged

    def predict_many(
        self,
        clips: Iterable[Clip],
        *,
        workers: int | None = None,
        labels: Iterable[str] | None = None,
        embedding: bool = False,
        segment: float | None = None,
    ) -> Iterator[tuple[Clip, Prediction | InputError]]:
        """Recognise many recordings on all cores; yields each with its prediction, or its error, in the order given.

        At most a few clips per worker are under way at once, so a million files need no more memory than ten.
        """
        names = None if labels is None else list(labels)
        self._candidates(names)
        check_segment(self.card, segment)
        work = partial(self._predict_clip, labels=names, embedding=embedding, segment=segment)
        return each_in_order(work, clips, workers)

    def _predict_clip(
        self, clip: Clip, labels: list[str] | None, embedding: bool, segment: float | None
    ) -> Prediction | InputError:
        chosen: dict[str, Any] = {"labels": labels, "embedding": embedding, "segment": segment}
        try:
            return self.predict(clip.audio, start=clip.start, end=clip.end, id=clip.id, **chosen)
        except InputError as error:
            return error

    def _candidates(self, labels: Iterable[str] | None) -> np.ndarray | None:
        if labels is None:
            return None
        names = list(labels)
        if not names:
            raise InputError("labels: name at least one class")
        for name in names:
            if name not in self.card.classes:
                raise InputError(f"labels: the model has no class {name!r}{nearest(name, self.card.classes)}")
        return np.array([name in names for name in self.card.classes])
