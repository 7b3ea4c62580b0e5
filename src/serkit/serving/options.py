"""Options of requests: typed, and refused where they are not known."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from serkit.errors import nearest
from serkit.inference.predictor import split_labels
from serkit.serving.problems import Problem

MOST_PEAKS = 10_000


def read_flag(value: Any) -> Any:
    """Take "true" and "false"; what else could be meant is asked back."""
    if isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"write true or false, not {value[:40]!r}")
        return value.lower() == "true"
    return value


Unset = SkipJsonSchema[None]
Flag = Annotated[bool, BeforeValidator(read_flag)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NoOptions(BaseModel):
    """There are none."""

    model_config = ConfigDict(extra="forbid")


class ModelOptions(NoOptions):
    """What every recording may be sent with."""

    labels: str | Unset = Field(None, description="candidate classes, separated by commas; the others get zero")
    model: str | Unset = Field(None, description="a name from /v1/models; the first one when left out")

    @property
    def names(self) -> list[str] | None:
        """The candidate classes."""
        return split_labels(self.labels)


class PredictOptions(ModelOptions):
    """Options of ``/v1/predict``."""

    embedding: Flag = Field(False, description="add the embedding of the recording")
    segment: Seconds | Unset = Field(None, description="add probabilities of every so many seconds")


class TimelineQuery(ModelOptions):
    """Options of ``/v1/timeline``; ``window`` and ``hop`` are in seconds."""

    speech: Flag = Field(True, description="find speech first; false: windows over everything")
    window: Seconds | Unset = Field(None, description="how much is judged at once, in seconds")
    hop: Seconds | Unset = Field(None, description="from one window to the next, in seconds")
    curve: Flag = Field(True, description="give the smoothed probabilities of every hop too")
    peaks: Annotated[int, Field(ge=1, le=MOST_PEAKS)] | Unset = Field(
        None, description="give the waveform's outline in so many numbers in [0, 1]"
    )


def explain(error: dict[str, Any], known: list[str]) -> Problem:
    """Return the problem of an option that FastAPI refused; ``known`` are the options of the route."""
    name, text = str([*error["loc"], ""][1])[:80], error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        told = nearest(name, known) if known else " (none are taken)"
        return Problem("bad_option", f"there is no option {name!r}{told}")
    return Problem("bad_option", f"{name}: {text[:1].lower()}{text[1:]}")


async def once(request: Request) -> None:
    """Raise ``Problem`` for an option that is given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise Problem("bad_option", f"{name[:80]}: is given {names.count(name)} times")
