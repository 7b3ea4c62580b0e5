"""What answers look like, for the OpenAPI document; they are written by the types of ``serkit.inference``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from serkit.serving.problems import STATUS

Probability = float
Thresholds = Field(description="probability from which a class counts as present; empty where unknown")


class Part(BaseModel):
    """A part of a recording; times in seconds."""

    start: float
    end: float
    label: str = Field(description="the most probable class")
    probabilities: dict[str, Probability] = Field(description="calibrated, they add up to one")


class PredictionAnswer(Part):
    """What is expressed in a recording: a judgement of the recording, not of a person's inner state."""

    id: str = Field(description="the file name that was sent, or 'recording'")
    model: str
    thresholds: dict[str, float] = Thresholds
    segments: list[Part] | None = Field(None, description="of long recordings, or per so many seconds as were asked")
    embedding: list[float] | None = Field(None, description="when asked for")
    text: str | None = Field(None, description="of models that transcribe")
    words: str | None = None
    cut: bool | None = Field(None, description="the recording goes on for longer than the model judges")
    speaker: str | None = None
    speaker_probabilities: dict[str, Probability] | None = None
    gender: str | None = None
    gender_probabilities: dict[str, Probability] | None = None
    affect: dict[str, float] | None = Field(None, description="arousal, valence and dominance")


class Utterance(BaseModel):
    """A segment of a timeline; ``confidence`` is the probability of its label."""

    utterance: int
    start: float
    end: float
    label: str
    confidence: Probability
    probabilities: dict[str, Probability]
    speaker: str | None = None


class Point(BaseModel):
    """The smoothed probabilities of one hop of time."""

    start: float
    end: float
    probabilities: dict[str, Probability]
    speaker: str | None = None


class TimelineAnswer(BaseModel):
    """Who speaks when, and what is expressed: segments in order, and the curve they come from."""

    id: str
    seconds: float
    model: str
    classes: list[str]
    segments: list[Utterance]
    curve: list[Point] | None = None
    thresholds: dict[str, float] = Thresholds
    peaks: list[float] | None = Field(None, description="the waveform's outline: so many numbers as were asked for")


class ModelCard(BaseModel):
    """A model that the server has."""

    name: str = Field(description="what the option model takes")
    classes: list[str]
    sampling_rate: int
    window_seconds: float
    min_seconds: float
    training_data: str
    licence: str
    intended_use: str
    thresholds: dict[str, float] = Thresholds


class Limits(BaseModel):
    """What a recording may have at most."""

    max_bytes: int
    max_seconds: float


class ModelList(BaseModel):
    """All models; the first one answers where none is named."""

    models: list[ModelCard]
    limits: Limits


class Health(BaseModel):
    """Whether the server takes requests; with status 503 it is about to stop."""

    status: Literal["ok", "shutting_down"]
    version: str
    models: list[str]


class ErrorDetail(BaseModel):
    """A code for programs, and one line for people."""

    code: Literal[tuple(STATUS)]  # type: ignore[valid-type]
    message: str


class ErrorAnswer(BaseModel):
    """Why a request was not answered."""

    error: ErrorDetail


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the entries of an OpenAPI document for problems of these ``codes``."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        entry = found.setdefault(STATUS[code], {"model": ErrorAnswer, "description": ""})
        entry["description"] += (", " if entry["description"] else "") + code
        if code == "busy":
            entry["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found
