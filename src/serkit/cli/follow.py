"""``serkit predict --timeline``: emotion over time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from serkit.errors import InputError

if TYPE_CHECKING:
    from serkit.data.clips import Clip
    from serkit.data.turns import Turn
    from serkit.inference.cuts import TimelineOptions
    from serkit.inference.predictor import Predictor
    from serkit.inference.timeline import Timeline

BINS = 2000
"""Points of a picture's waveform."""


def follow(
    model: Path,
    clips: Iterable[Clip],
    options: TimelineOptions,
    labels: list[str] | None,
    turns: Path | None,
    workers: int | None,
    format: str,
    output: Path | None,
    plot: Path | None,
) -> int:
    """Write the timelines of ``clips``, and pictures of them; returns how many recordings could not be used."""
    from serkit.data.files import replace_atomically
    from serkit.data.turns import read_turns
    from serkit.inference.predictor import Predictor
    from serkit.inference.timeline_writers import TIMELINE_WRITERS, write_folder

    if format not in TIMELINE_WRITERS:
        raise InputError(f"--format {format} knows no timelines: take one of {', '.join(TIMELINE_WRITERS)}")
    known = None if turns is None else read_turns(turns)
    predictor = Predictor(model)
    options.sizes(predictor.card)
    failed: list[InputError] = []
    drawn: list[Path] = []

    def good() -> Iterator[Timeline]:
        clip: Clip
        for number, clip in enumerate(clips):
            try:
                if plot is not None and number and plot.suffix:
                    raise InputError(f"--plot {plot}: is one picture, and there are several recordings: name a folder")
                timeline = predict(predictor, clip, options, labels, known, workers)
            except InputError as error:
                failed.append(error)
                typer.echo(f"serkit: {error}", err=True)
                continue
            if plot is not None:
                drawn.append(draw(timeline, clip, plot, drawn))
            yield timeline

    classes = predictor.card.classes
    if output is None:
        TIMELINE_WRITERS[format](good(), classes, sys.stdout)
    elif output.is_dir() or not output.suffix:
        write_folder(good(), classes, output, format)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(output) as part, part.open("w", encoding="utf-8", newline="") as file:
            TIMELINE_WRITERS[format](good(), classes, file)
    return len(failed)


def predict(
    predictor: Predictor,
    clip: Clip,
    options: TimelineOptions,
    labels: list[str] | None,
    turns: Mapping[str, tuple[Turn, ...]] | None,
    workers: int | None,
) -> Timeline:
    """Return the timeline of ``clip``; raises ``InputError`` where turns were given, but none for it."""
    if clip.audio is None:
        raise InputError(f"{clip.id}: no recording, and a timeline needs one")
    chosen: tuple[Turn, ...] | None = None
    if turns is not None:
        names = (clip.id, Path(clip.id).name, Path(clip.id).stem, Path(clip.audio).stem, "")
        chosen = next((turns[name] for name in names if name in turns), ())
        if not chosen:
            named = ", ".join(list(turns)[:5]) or "nothing"
            raise InputError(f"{clip.id}: --turns names no turns of it, only of {named}")
    return predictor.timeline(
        clip.audio,
        options=options,
        turns=chosen,
        start=clip.start,
        end=clip.end,
        labels=labels,
        id=clip.id,
        workers=workers,
    )


def draw(timeline: Timeline, clip: Clip, plot: Path, drawn: list[Path]) -> Path:
    """Draw ``timeline`` with the outline of its recording; ``plot`` is a picture, or a folder. Returns the picture."""
    from serkit.data.audio import stream_audio
    from serkit.inference.envelope import envelope
    from serkit.inference.timeline_plot import plot_timeline
    from serkit.inference.timeline_writers import free_path

    path = plot if plot.suffix else free_path(plot, clip.id, ".png", drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert clip.audio is not None
    plot_timeline(timeline, path, envelope(stream_audio(clip.audio, clip.start, clip.end), BINS))
    return path
