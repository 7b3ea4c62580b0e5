"""The one path from a recording to a prediction: the command line, servers and notebooks all come through here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.audio import SAMPLING_RATE, Source, source_name, stream_audio, to_mono
from serkit.data.clips import Clip
from serkit.data.text import CharTokenizer
from serkit.data.turns import Turn
from serkit.errors import InputError, nearest
from serkit.inference.bundle import DEFAULT, TASKS, Bundle
from serkit.inference.cuts import Cut, TimelineOptions
from serkit.inference.spoken import Judgement, judge
from serkit.inference.stream import Stream
from serkit.inference.timeline import Timeline
from serkit.inference.transcribers import Transcriber, load_transcriber
from serkit.inference.windows import Hearing, check_segment, hear
from serkit.inference.workers import each_in_order

TIMELINE = TimelineOptions()


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

    Of models that read, ``words`` is the text that was judged, None where there was none; ``start`` and ``end`` are 0
    where nothing was heard. Models that judge an utterance as a whole judge its beginning: ``cut`` tells that the
    recording or the text goes on.
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
    words: str | None = None
    cut: bool = False

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
        """Return JSON-ready values; what only some models or questions have is there where there is any."""
        whole = Segment(self.start, self.end, self.label, self.probabilities)
        found: dict[str, Any] = {"id": self.id, **whole.as_dict(), "model": self.model}
        if self.text is not None:
            found["text"] = self.text
        found |= {"words": self.words} if self.words is not None else {}
        found |= {"cut": True} if self.cut else {}
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
    A model that judges an utterance as a whole hears its beginning. For a model that reads, ``transcriber`` (a function
    or a name, :mod:`serkit.inference.transcribers`) writes down the recordings that come without a text.
    Raises ``InputError`` for a bundle without classes, which gives features alone, and for a transcriber that cannot be
    loaded, or that nothing would read.
    """

    def __init__(self, bundle: str | Path = DEFAULT, transcriber: str | Transcriber | None = None) -> None:
        self.bundle = Bundle(bundle)
        self.card = self.bundle.card
        if transcriber is not None and not self.card.reads:
            raise InputError(f"{self.card.name}: reads no text, so a transcriber is of no use: leave it out")
        self.transcriber = None if transcriber is None else load_transcriber(transcriber)
        if not self.card.classes:
            remedy = "take a model with a head, or serkit predict --format funasr"
            raise InputError(f"{bundle}: knows no classes and gives features alone: {remedy}")
        symbols = self.card.tasks.get("ctc", {}).get("symbols")
        self.tokenizer = CharTokenizer(tuple(symbols)) if symbols else None
        self.decode: Callable[..., Iterator[np.ndarray]] | None = None

    def through(self, bundle: Bundle, decode: Callable[..., Iterator[np.ndarray]]) -> Predictor:
        """Return the same predictor with its windows judged by ``bundle`` and its files decoded by ``decode``.

        So a server queues windows and bounds what it decodes; ``decode`` takes what :func:`stream_audio` does.
        """
        other = copy(self)
        other.bundle, other.decode = bundle, decode
        return other

    def predict(
        self,
        audio: Source | np.ndarray | None = None,
        *,
        text: str | None = None,
        sampling_rate: int = SAMPLING_RATE,
        start: float | None = None,
        end: float | None = None,
        labels: Iterable[str] | None = None,
        embedding: bool = False,
        segment: float | None = None,
        id: str | None = None,
    ) -> Prediction:
        """Recognise a file (path or open, from ``start`` to ``end`` seconds) or an array at ``sampling_rate``.

        A model that reads takes the ``text`` that is said there; one that does nothing else takes no recording. Without
        a text the recording is judged alone. ``labels`` restricts the candidate classes: the others get probability
        zero. With ``segment`` the prediction has a segment for every so many seconds, from the probabilities around
        each frame; models that judge an utterance as a whole have none. Raises
        :class:`~serkit.errors.AudioError` for a recording that cannot be decoded, is silent, or is shorter than the
        bundle's ``min_seconds``; ``InputError`` for a recording or text that the model needs, or a text it cannot read.
        """
        keep = self._candidates(labels)
        check_segment(self.card, segment)
        name = id or _name(audio)
        self._check_given(name, audio, text)

        def blocks(rate: int) -> Iterator[np.ndarray]:
            assert audio is not None
            return self._blocks(audio, start, end, sampling_rate, rate)

        if text is None and audio is not None and self.transcriber is not None:
            text = self.transcriber(np.concatenate(list(blocks(SAMPLING_RATE))))
        rate = self.card.sampling_rate
        if self.card.whole:
            judged = judge(self.bundle, blocks(rate) if self.card.hears else None, text, keep)
        else:
            judged = Judgement(hear(self.bundle, blocks(rate), keep, scores=segment is not None), None, False)
        heard, origin = judged.heard, start or 0.0 if self.card.hears else 0.0
        if not self.card.hears and judged.words is None:
            raise InputError(f"{name}: holds no word, and {self.card.name} reads words alone")
        if not heard.windows:
            raise heard.refuse(name)
        told = [window.outputs.others for window in heard.windows]
        probabilities = self._named(heard.probabilities)
        return Prediction(
            id=name,
            start=origin,
            end=origin + heard.samples / rate,
            label=max(probabilities, key=probabilities.__getitem__),
            probabilities=probabilities,
            model=self.card.name,
            segments=self._segments(heard, origin, segment),
            embedding=heard.embedding if embedding else None,
            text=self._decode(told),
            others=self._average(told, heard.shares),
            words=judged.words,
            cut=judged.cut,
        )

    def stream(
        self,
        options: TimelineOptions = TIMELINE,
        *,
        labels: Iterable[str] | None = None,
        sampling_rate: int = SAMPLING_RATE,
    ) -> Stream:
        """Return a live stream, to push mono float32 samples at ``sampling_rate`` to.

        Its segments are those of :meth:`timeline` of the same audio. Raises ``InputError`` for windows that the bundle
        cannot judge.
        """
        return Stream(self.bundle, options, self._candidates(labels), sampling_rate)

    def timeline(
        self,
        audio: Source | np.ndarray,
        *,
        options: TimelineOptions = TIMELINE,
        turns: Sequence[Turn] | None = None,
        sampling_rate: int = SAMPLING_RATE,
        start: float | None = None,
        end: float | None = None,
        labels: Iterable[str] | None = None,
        id: str | None = None,
        workers: int | None = None,
    ) -> Timeline:
        """Follow the emotion expressed in a recording of any length: where there is speech, in overlapping windows.

        With ``turns`` (seconds of the file) every speaker is followed for themselves, and nobody else. The recording is
        decoded as a stream while ``workers`` threads judge (one for each core): memory does not grow with its length
        but for the answer. Models that read judge the recording alone. Raises ``AudioError`` for a recording that
        cannot be decoded, ``InputError`` for windows that the bundle cannot judge.
        """
        keep, origin = self._candidates(labels), start or 0.0
        if turns is not None:
            turns = [replace(turn, start=turn.start - origin, end=turn.end - origin) for turn in turns]
        stream = Stream(self.bundle, options, keep, turns=turns, live=False)
        rate, points, segments = self.card.sampling_rate, [], []

        def cuts() -> Iterator[Cut]:
            for block in self._blocks(audio, start, end, sampling_rate, rate):
                yield from stream.cut(block)
            yield from stream.last_cuts()

        for cut, probabilities in each_in_order(stream.judge, cuts(), workers):
            told = stream.follower.tell(cut, probabilities)
            points += [replace(each, start=origin + each.start, end=origin + each.end) for each in told.points]
            segments += [replace(each, start=origin + each.start, end=origin + each.end) for each in told.segments]
        return Timeline(
            id or _name(audio),
            stream.seconds,
            self.card.name,
            self.card.classes,
            tuple(sorted(segments, key=lambda each: (each.start, each.utterance))),
            tuple(sorted(points, key=lambda each: each.start)),
        )

    def _blocks(
        self, audio: Source | np.ndarray, start: float | None, end: float | None, given: int, wanted: int
    ) -> Iterator[np.ndarray]:
        """Return a recording in blocks ``(S,)`` at the ``wanted`` rate; ``given`` is that of an array."""
        if isinstance(audio, np.ndarray):
            if start is not None or end is not None:
                raise InputError("start and end are for files: slice the array instead")
            return iter([to_mono(audio, given, wanted)])
        return (self.decode or stream_audio)(audio, start, end, False, wanted)

    def _check_given(self, name: str, audio: Source | np.ndarray | None, text: str | None) -> None:
        """Raise ``InputError`` unless there is what the model hears and reads, and nothing it cannot read."""
        if text is not None and not self.card.reads:
            raise InputError(
                f"{name}: {self.card.name} reads no text: leave the text out, or take a model of text and audio"
            )
        if audio is None and self.card.hears:
            raise InputError(f"{name}: no recording, and {self.card.name} needs one")
        if text is None and not self.card.hears and (audio is None or self.transcriber is None):
            raise InputError(f"{name}: no text, and {self.card.name} reads words alone: give a text or a transcriber")

    def _named(self, probabilities: np.ndarray) -> dict[str, float]:
        return dict(zip(self.card.classes, probabilities.tolist(), strict=True))

    def _segments(self, heard: Hearing, origin: float, seconds: float | None) -> tuple[Segment, ...]:
        """Return segments of that many ``seconds``; None: the windows, where the recording has several."""
        if seconds is not None:
            parts = heard.segments(seconds)
        elif heard.long:
            parts = [
                (each.start / self.card.sampling_rate, each.end / self.card.sampling_rate, each.outputs.probabilities)
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
        chosen |= {"text": clip.text} if self.card.reads else {}  # manifests of any model may have transcripts
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


def split_labels(text: str | None) -> list[str] | None:
    """Return the class names in ``text``, which commas separate; None without a text."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _name(audio: Source | np.ndarray | None) -> str:
    """Return how a recording is called in predictions and messages."""
    if audio is None:
        return "text"
    return "array" if isinstance(audio, np.ndarray) else source_name(audio)
