"""Verbs that recognise, and that list what exists."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from serkit.cli.app import app
from serkit.errors import InputError


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    csv = "csv"
    cai = "cai"


class Kind(StrEnum):
    """What ``serkit list`` shows."""

    encoders = "encoders"
    corpora = "corpora"
    protocols = "protocols"
    recipes = "recipes"
    models = "models"


@app.command()
def predict(
    audio: Annotated[list[str], typer.Argument(help="recordings, folders, globs, wav.scp, .csv, .jsonl, .parquet")],
    model: Annotated[Path | None, typer.Option(help="a bundle folder; the packaged model when left out")] = None,
    labels: Annotated[str | None, typer.Option(help="candidate classes, separated by commas")] = None,
    format: Annotated[
        Format, typer.Option(help="table for people, json lines or csv for programs, cai: lines of Cai et al. 2021")
    ] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to write instead of stdout")] = None,
    embedding: Annotated[bool, typer.Option(help="add the utterance embedding (json only)")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="recordings at a time; one per core when left out")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the recordings that lists name")] = None,
) -> None:
    """Recognise the emotion expressed in recordings.

    A recording that cannot be used is reported on stderr, the others go on, and the exit status is 2.
    """
    from serkit.data.clips import find_clips
    from serkit.data.files import replace_atomically
    from serkit.inference.bundle import DEFAULT
    from serkit.inference.predictor import Predictor
    from serkit.inference.writers import WRITERS

    names = None if labels is None else [name.strip() for name in labels.split(",") if name.strip()]
    if embedding and format is not Format.json:
        raise InputError("--embedding needs --format json")
    predictor = Predictor(model or DEFAULT)
    found = predictor.predict_many(find_clips(audio, root), workers=workers, labels=names, embedding=embedding)
    failed: list[InputError] = []

    def good() -> Iterable[Any]:
        for clip, result in found:
            if isinstance(result, InputError):
                failed.append(result)
                typer.echo(f"serkit: {result}", err=True)
            else:
                yield replace(result, id=Path(clip.audio).name) if format is Format.cai else result

    write = WRITERS[format.value]
    if output is None:
        write(good(), predictor.card.classes, sys.stdout)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(output) as part, part.open("w", encoding="utf-8", newline="") as file:
            write(good(), predictor.card.classes, file)
    if failed:
        raise SystemExit(2)


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
