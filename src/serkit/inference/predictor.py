"""The one path from a recording to a prediction: the command line, servers and notebooks all come through here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE, SILENCE_PEAK, Source, source_name, stream_audio, to_16k_mono
from serkit.data.clips import Clip
from serkit.data.text import CharTokenizer
from serkit.errors import AudioError, InputError, nearest
from serkit.inference.bundle import DEFAULT, TASKS, Bundle


@dataclass(frozen=True)
class Segment:
    """One window of a long recording; times in seconds."""

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
    in seconds of the file. ``segments`` has one entry per window of a recording longer than the bundle's window, and
    ``embedding (D,)`` is there when asked for. What models with further tasks say: ``text`` is what they hear, one
    window's after the other's; ``others`` has the probabilities of "speaker" and "gender" and the dimensions of
    "affect", averaged over windows by length.
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
    """

    def __init__(self, bundle: str | Path = DEFAULT) -> None:
        self.bundle = Bundle(bundle)
        self.card = self.bundle.card
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
        id: str | None = None,
    ) -> Prediction:
        """Recognise a file (path or open, from ``start`` to ``end`` seconds) or an array at ``sampling_rate``.

        ``labels`` restricts the candidate classes: the others get probability zero. Raises
        :class:`~serkit.errors.AudioError` for a recording that cannot be decoded, is silent, or is shorter than the
        bundle's ``min_seconds``.
        """
        keep = self._candidates(labels)
        if isinstance(audio, np.ndarray):
            if start is not None or end is not None:
                raise InputError("start and end are for files: slice the array instead")
            name, blocks = id or "array", iter([to_16k_mono(audio, sampling_rate)])
        else:
            name, blocks = id or source_name(audio), stream_audio(audio, start, end)
        origin = start or 0.0
        segments, vectors, weights, position = [], [], [], 0
        told: list[dict[str, np.ndarray]] = []
        peak = 0.0
        for window in self._windows(blocks):
            begin, position = position, position + len(window)
            loudest = float(np.abs(window).max(initial=0.0))
            peak = max(peak, loudest)
            if loudest < SILENCE_PEAK or len(window) < self.card.min_seconds * SAMPLING_RATE:
                continue
            outputs = self.bundle.run(window, keep)
            probabilities = dict(zip(self.card.classes, outputs.probabilities.tolist(), strict=True))
            times = (origin + begin / SAMPLING_RATE, origin + position / SAMPLING_RATE)
            segments.append(Segment(*times, max(probabilities, key=probabilities.__getitem__), probabilities))
            weights.append(len(window))
            told.append(outputs.others)
            if embedding:
                vectors.append(outputs.embedding)
        if not segments:
            self._refuse(name, position / SAMPLING_RATE, peak)
        share = np.array(weights) / sum(weights)
        mean = share @ np.array([list(segment.probabilities.values()) for segment in segments])
        probabilities = dict(zip(self.card.classes, mean.tolist(), strict=True))
        return Prediction(
            id=name,
            start=origin,
            end=origin + position / SAMPLING_RATE,
            label=max(probabilities, key=probabilities.__getitem__),
            probabilities=probabilities,
            model=self.card.name,
            segments=tuple(segments) if position > self._window else (),
            embedding=share @ np.array(vectors) if embedding else None,
            text=self._decode(told),
            others=self._average(told, share),
        )

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
    ) -> Iterator[tuple[Clip, Prediction | InputError]]:
        """Recognise many recordings on all cores; yields each with its prediction, or its error, in the order given.

        At most a few clips per worker are under way at once, so a million files need no more memory than ten.
        """
        workers = workers or count_cores()
        names = None if labels is None else list(labels)
        self._candidates(names)
        with ThreadPoolExecutor(workers) as pool:
            pending: list[tuple[Clip, Future[Prediction | InputError]]] = []
            for clip in clips:
                pending.append((clip, pool.submit(self._predict_clip, clip, names, embedding)))
                if len(pending) >= 4 * workers:
                    first, future = pending.pop(0)
                    yield first, future.result()
            for clip, future in pending:
                yield clip, future.result()

    def _predict_clip(self, clip: Clip, labels: list[str] | None, embedding: bool) -> Prediction | InputError:
        try:
            return self.predict(
                clip.audio, start=clip.start, end=clip.end, labels=labels, embedding=embedding, id=clip.id
            )
        except InputError as error:
            return error

    @property
    def _window(self) -> int:
        return round(self.card.window_seconds * SAMPLING_RATE)

    def _windows(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Cut a stream of blocks into windows; a rest shorter than half a window is shared with the one before it."""
        buffer = np.zeros(0, np.float32)
        for block in blocks:
            buffer = np.concatenate([buffer, block])
            while len(buffer) >= 2 * self._window:
                yield buffer[: self._window]
                buffer = buffer[self._window :]
        if len(buffer) <= self._window:
            yield buffer
        else:
            half = (len(buffer) + 1) // 2
            yield buffer[:half]
            yield buffer[half:]

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

    def _refuse(self, name: str, seconds: float, peak: float) -> None:
        if seconds < self.card.min_seconds:
            raise AudioError(f"{name}: is too short ({seconds:.3f} s): at least {self.card.min_seconds:g} s are needed")
        raise AudioError(f"{name}: is silent (peak {20 * np.log10(max(peak, 1e-12)):.0f} dB full scale)")
