"""The verb that recognises while it listens."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from serkit.cli.app import app
from serkit.errors import InputError

if TYPE_CHECKING:
    from rich.text import Text

    from serkit.cli.sound import Sound

BAR = 6
EIGHTHS = " ▏▎▍▌▋▊▉█"


class ListenFormat(StrEnum):
    """How events are written."""

    live = "live"
    json = "json"


@app.command()
def listen(
    audio: Annotated[
        str | None,
        typer.Argument(help="a recording, or - for raw 16-bit mono sound on stdin; the microphone when left out"),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="a bundle folder; the packaged model when left out")] = None,
    labels: Annotated[str | None, typer.Option(help="candidate classes, separated by commas")] = None,
    window: Annotated[float | None, typer.Option(help="seconds that are judged together")] = None,
    hop: Annotated[float | None, typer.Option(help="seconds between one judgement and the next")] = None,
    sampling_rate: Annotated[
        int | None, typer.Option(help="Hz of raw sound on stdin (16000 when left out), or of the microphone")
    ] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="take a recording at the pace of its time")] = False,
    device: Annotated[str | None, typer.Option(help="the microphone: its number or a part of its name")] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="list microphones and end")] = False,
    format: Annotated[
        ListenFormat, typer.Option(help="a line that moves and lines that stay, or json: one event a line")
    ] = ListenFormat.live,
) -> None:
    """Recognise the emotion expressed in live sound, while it is spoken.

    Ctrl-C ends it; the last segment is told. What is judged here does not leave this machine.
    """
    from serkit.cli.sound import each_block, list_microphones, stopping

    if list_devices:
        for line in list_microphones():
            typer.echo(line)
        return
    from serkit.inference.bundle import DEFAULT
    from serkit.inference.cuts import TimelineOptions
    from serkit.inference.predictor import Predictor, split_labels

    predictor = Predictor(model or DEFAULT)
    rate = predictor.card.sampling_rate
    sound = open_sound(audio, rate, sampling_rate, realtime, device)
    stream = predictor.stream(
        options=TimelineOptions(window, hop),
        labels=split_labels(labels),
        sampling_rate=sound.sampling_rate,
    )
    typer.echo(f"serkit: {sound.name}, {sound.sampling_rate} Hz, {predictor.card.name}; Ctrl-C ends", err=True)
    with stopping() as stopped, open_teller(format, sys.stdout, predictor.card.classes) as teller:
        for block in each_block(sound, stopped):
            for event in stream.push(block):
                teller.tell(event.as_dict())
        for event in stream.finish():
            teller.tell(event.as_dict())


def open_sound(
    audio: str | None, model_rate: int, sampling_rate: int | None, realtime: bool, device: str | None
) -> Sound:
    """Return what is to be heard; raises ``InputError`` for options that do not fit it."""
    from serkit.cli.sound import check_rate, open_file, open_microphone, open_stdin

    if device is not None and audio is not None:
        raise InputError("--device is for the microphone: leave out the recording, or --device")
    if realtime and audio in (None, "-"):
        raise InputError("--realtime is for a recording: live sound comes at its own pace")
    if audio is None:
        return open_microphone(device, None if sampling_rate is None else check_rate(sampling_rate))
    if audio == "-":
        return open_stdin(sampling_rate or 16_000)
    if sampling_rate is not None:
        raise InputError("--sampling-rate is for raw sound: a recording says its own")
    return open_file(audio, model_rate, realtime)


def open_teller(format: ListenFormat, file: TextIO, classes: Iterable[str]) -> Teller:
    """Return what tells events on ``file``."""
    if format is ListenFormat.json:
        return JsonTeller(file)
    return LiveTeller(file, classes) if file.isatty() else Teller(file)


class Teller:
    """Writes a line for every final segment."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.flush()

    def tell(self, event: dict[str, Any]) -> None:
        """Write what ``event`` says."""
        if event["type"] == "segment":
            print(describe(event), file=self.file, flush=True)


class JsonTeller(Teller):
    """Writes every event as one JSON object a line."""

    def tell(self, event: dict[str, Any]) -> None:
        """Write ``event``."""
        print(json.dumps(event, ensure_ascii=False), file=self.file, flush=True)


class LiveTeller(Teller):
    """Keeps one line on a terminal up to date with what is expressed right now; segments stay above it."""

    def __init__(self, file: TextIO, classes: Iterable[str]) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        from serkit.inference.palette import class_colours

        super().__init__(file)
        self.colours = class_colours(classes)
        self.console = Console(file=file, highlight=False)
        self.live = Live(Text("listening", "dim"), console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveTeller:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(None, None, None)

    def tell(self, event: dict[str, Any]) -> None:
        """Show what ``event`` says."""
        from rich.text import Text

        kind = event["type"]
        if kind == "segment":
            self.console.print(Text.assemble(("■", self.colours[event["label"]]), describe(event)))
        elif kind == "start":
            self.live.update(Text(f"{clock(event['start_ms'])}  speech", "dim"), refresh=True)
        elif kind == "update":
            self.live.update(draw(event, self.colours), refresh=True)
        elif kind == "end":
            self.live.update(Text(f"{clock(event['end_ms'])}  silence", "dim"), refresh=True)


def clock(milliseconds: int) -> str:
    """Return a time as people read it: 1:02.3."""
    minutes, rest = divmod(round(milliseconds / 100), 600)
    return f"{minutes}:{rest / 10:04.1f}"


def describe(event: dict[str, Any]) -> str:
    """Return the line of a final segment: times, label, its probability, and the runner-up."""
    order = sorted(event["probabilities"], key=event["probabilities"].__getitem__, reverse=True)
    second = [f"{name} {event['probabilities'][name]:.2f}" for name in order[1:2] if event["probabilities"][name] > 0]
    times = f"{clock(event['start_ms']):>8} - {clock(event['end_ms']):>8}"
    return "  ".join([times, f"{event['label']:<10}", f"{event['confidence']:.2f}", *second])


def draw(event: dict[str, Any], colours: dict[str, str]) -> Text:
    """Return the line that moves: the time, the label, and a bar for the probability of every class."""
    from rich.text import Text

    line = Text(f"{clock(event['end_ms'])}  ", no_wrap=True, overflow="ellipsis")
    line.append(f"{event['label']:<10}", "bold")
    for name, value in event["probabilities"].items():
        line.append(f" {name} ", "bold" if name == event["label"] else "dim")
        line.append(bar(value), colours[name])
    return line


def bar(value: float, width: int = BAR) -> str:
    """Return ``value`` in [0, 1] as a bar of ``width`` characters, to an eighth of a character."""
    full, rest = divmod(round(value * width * 8), 8)
    return ("█" * full + EIGHTHS[rest] * (rest > 0)).ljust(width)
