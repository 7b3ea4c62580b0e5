"""Verbs that recognise, and that list what exists."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serkit.cli.app import app
from serkit.cli.follow import follow
from serkit.errors import InputError

if TYPE_CHECKING:
    from serkit.data.clips import Clip


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    csv = "csv"
    cai = "cai"
    funasr = "funasr"
    rttm = "rttm"
    audacity = "audacity"
    srt = "srt"


class Kind(StrEnum):
    """What ``serkit list`` shows."""

    encoders = "encoders"
    corpora = "corpora"
    protocols = "protocols"
    recipes = "recipes"
    models = "models"


@app.command()
def predict(
    audio: Annotated[
        list[str] | None, typer.Argument(help="recordings, folders, globs, wav.scp, .csv, .jsonl, .parquet")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="a bundle folder; the packaged model when left out")] = None,
    labels: Annotated[str | None, typer.Option(help="candidate classes, separated by commas")] = None,
    format: Annotated[
        Format,
        typer.Option(
            help="table for people, json lines or csv for programs; lines as of Cai et al. 2021 or of FunASR; "
            "rttm, audacity (labels) and srt (subtitles) are for timelines"
        ),
    ] = Format.table,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="file to write instead of stdout; of timelines, or a folder")
    ] = None,
    embedding: Annotated[bool, typer.Option(help="add the utterance embedding (json and funasr only)")] = False,
    segment: Annotated[
        float | None, typer.Option(help="add probabilities of every so many seconds (json and funasr only)")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="recordings at a time; one per core when left out")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the recordings that lists name")] = None,
    text: Annotated[
        str | None, typer.Option(help="what is said in the one recording; lists have a column text")
    ] = None,
    transcriber: Annotated[
        str | None,
        typer.Option(help="writes down what comes without a text: faster-whisper:SIZE_OR_FOLDER, bundle:FOLDER"),
    ] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="emotion over time: segments of recordings")] = False,
    speech: Annotated[bool, typer.Option(help="timeline: judge speech only, or fixed windows all the way")] = True,
    window: Annotated[float | None, typer.Option(help="timeline: seconds of a window")] = None,
    hop: Annotated[float | None, typer.Option(help="timeline: seconds from one window to the next")] = None,
    turns: Annotated[Path | None, typer.Option(help="timeline: who speaks when, RTTM or a table")] = None,
    plot: Annotated[Path | None, typer.Option(help="timeline: picture to draw, .png or .svg, or a folder")] = None,
) -> None:
    """Recognise the emotion expressed in recordings, in what is said in them, or in texts alone.

    A recording that cannot be used is reported on stderr, the others go on, and the exit status is 2.
    """
    from serkit.data.files import replace_atomically
    from serkit.inference.bundle import DEFAULT
    from serkit.inference.cuts import TimelineOptions
    from serkit.inference.predictor import split_labels
    from serkit.inference.writers import WRITERS

    names = split_labels(labels)
    of_clips = {"--text": text, "--transcriber": transcriber, "--segment": segment, "--embedding": embedding or None}
    of_time = {"--window": window, "--hop": hop, "--turns": turns, "--plot": plot, "--no-speech": not speech or None}
    for option, given in (of_clips if timeline else of_time).items():
        if given is not None:
            raise InputError(f"{option} is {'not ' if timeline else ''}for --timeline: leave it out")
    clips = list_clips(audio or [], root, text)
    if timeline:
        options = TimelineOptions(window, hop, speech)
        if follow(model or DEFAULT, clips, options, names, turns, workers, format.value, output, plot):
            raise SystemExit(2)
        return
    if format.value not in WRITERS:
        raise InputError(f"--format {format.value} is for --timeline")
    for option, wanted in (("--embedding", embedding), ("--segment", segment is not None)):
        if wanted and format not in (Format.json, Format.funasr):
            raise InputError(f"{option} needs --format json or funasr")
    if format is Format.funasr:
        if text is not None or transcriber is not None:
            raise InputError(
                "--format funasr knows no text: leave out --text and --transcriber, or take another format"
            )
        classes, found = answer(model or DEFAULT, clips, workers, names, embedding, segment)
    else:
        classes, found = predict_all(model or DEFAULT, clips, workers, names, embedding, segment, text, transcriber)
    failed: list[InputError] = []

    def good() -> Iterable[Any]:
        for clip, result in found:
            if isinstance(result, InputError):
                failed.append(result)
                typer.echo(f"serkit: {result}", err=True)
            else:
                yield replace(result, id=Path(clip.audio or clip.id).name) if format is Format.cai else result

    write = WRITERS[format.value]
    if output is None:
        write(good(), classes, sys.stdout)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(output) as part, part.open("w", encoding="utf-8", newline="") as file:
            write(good(), classes, file)
    if failed:
        raise SystemExit(2)


def list_clips(names: list[str], root: Path | None, text: str | None) -> Iterable[Clip]:
    """Return what is to be recognised; ``text`` is that of the one recording, or of none."""
    from serkit.data.clips import Clip, find_clips

    if not names and text is None:
        raise InputError("name recordings, folders or lists; or give --text to a model that reads")
    if not names:
        return [Clip("text", None, text=text)]
    clips = find_clips(names, root)
    if text is None:
        return clips
    few = list(islice(clips, 2))
    if len(few) > 1:
        raise InputError(
            "--text is for one recording: of several, list them with a column text (.csv, .jsonl, .parquet)"
        )
    return [replace(few[0], text=text)]


def predict_all(
    model: Path,
    clips: Iterable[Clip],
    workers: int | None,
    labels: list[str] | None,
    embedding: bool,
    segment: float | None,
    text: str | None,
    transcriber: str | None,
) -> tuple[tuple[str, ...], Iterable[tuple[Clip, Any]]]:
    """Return the classes of ``model``, and every clip with its prediction or error.

    At the end it is told on stderr how many had no text to read, and how many went on longer than the model judges.
    """
    from serkit.inference.predictor import Predictor

    predictor = Predictor(model, transcriber)
    card = predictor.card
    if text is not None and not card.reads:
        raise InputError(f"{card.name}: reads no text: leave out --text, or take a model of text and audio")
    chosen: dict[str, Any] = {"labels": labels, "embedding": embedding, "segment": segment}

    def each() -> Iterable[tuple[Clip, Any]]:
        count = silent = long = 0
        for clip, result in predictor.predict_many(clips, workers=workers, **chosen):
            yield clip, result
            if not isinstance(result, InputError):
                count, silent, long = count + 1, silent + (result.words is None), long + result.cut
        if card.reads and silent:
            remedy = "judged by the recording alone: give --text, lists with a column text, or --transcriber"
            typer.echo(f"serkit: no text for {silent} of {count} recordings: {remedy}", err=True)
        if long:
            limits = [f"{card.judged_seconds or card.window_seconds:.1f} s"] * card.hears
            limits += [f"{card.text['max_words']} words"] if card.reads else []
            told = f"of them only the first {' and '.join(limits)} were judged"
            typer.echo(f"serkit: {long} of {count} go on for longer than the model judges: {told}", err=True)

    return card.classes, each()


def answer(
    model: Path,
    clips: Iterable[Clip],
    workers: int | None,
    labels: list[str] | None,
    embedding: bool,
    segment: float | None,
) -> tuple[tuple[str, ...], Iterable[tuple[Any, Any]]]:
    """Return the classes of ``model``, and every clip with FunASR's answer or its error."""
    from serkit.inference.funasr import AutoModel, Wanted
    from serkit.inference.funasr_inputs import Recording

    known = AutoModel(model)
    recordings = (
        Recording(
            Path(clip.id).stem if clip.id == clip.audio else clip.id,
            clip.audio or clip.id,
            start=clip.start,
            end=clip.end,
        )
        for clip in clips
    )
    wanted = Wanted(extract_embedding=embedding, candidates=None if labels is None else tuple(labels), segments=segment)
    return known.card.classes, known.each(recordings, wanted, workers)


@app.command(name="list")
def list_things(kind: Annotated[Kind, typer.Argument(help="what to list")]) -> None:
    """List encoders, corpora, protocols, recipes or models."""
    rows: list[tuple[str, str]]
    if kind is Kind.encoders:
        from serkit.encoders import list_encoders, list_presets

        rows = [(entry.name, entry.summary) for entry in list_encoders()]
        rows += [(preset.name, preset.summary) for preset in list_presets()]
    elif kind is Kind.corpora:
        from serkit.data.corpora import list_corpora

        rows = [
            (
                item.name,
                f"{item.title}: {item.utterances} utterances, {item.speakers} speakers; {item.licence}",
            )
            for item in list_corpora()
        ]
    elif kind is Kind.protocols:
        from serkit.data.protocols import PROTOCOLS

        rows = [(name, protocol.summary) for name, protocol in PROTOCOLS.items()]
    elif kind is Kind.recipes:
        from serkit.training.pretraining.recipe import read_summary as read_pretraining_summary
        from serkit.training.recipe import list_recipes, read_summary

        rows = [(name, read_summary(name)) for name in list_recipes()]
        rows += [(name, f"pretrain: {read_pretraining_summary(name)}") for name in list_recipes("pretrain")]
    else:
        from serkit.inference.bundle import DEFAULT, read_card

        card = read_card(DEFAULT)
        rows = [("default", f"{card.name}: {', '.join(card.classes)}; {card.licence}")]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}")
