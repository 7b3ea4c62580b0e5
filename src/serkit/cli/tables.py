"""The verb that puts runs on many corpora into one table, as papers do."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app
from serkit.errors import InputError


class Form(StrEnum):
    """How ``serkit table`` writes."""

    text = "text"
    markdown = "markdown"
    csv = "csv"
    json = "json"


class Paper(StrEnum):
    """A paper whose figures ``serkit table`` knows."""

    emotion2vec = "emotion2vec"
    mat = "mat"


@app.command()
def table(
    runs: Annotated[list[str], typer.Argument(help="run folders, or folders of them: 'FOLDER as=ROW'")],
    paper: Annotated[Paper | None, typer.Option(help="add the figures that it published on these corpora")] = None,
    form: Annotated[Form, typer.Option("--format", help="csv and json: a line for every figure, as fractions")] = (
        Form.text
    ),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file; the terminal when left out")] = None,
) -> None:
    """Show encoders against corpora: accuracy (WA), mean recall (UA), weighted F1 (WF1), with intervals."""
    import json

    from serkit.data.files import write_text
    from serkit.evaluation.corpus_table import create_table, format_table

    made = create_table([_parse(text) for text in runs], None if paper is None else paper.value)
    if form is Form.json:
        text = "\n".join(json.dumps(cell, ensure_ascii=False) for cell in made["cells"])
    else:
        text = format_table(made, form.value)
    if output is None:
        typer.echo(text)
    else:
        write_text(output, text.rstrip("\n") + "\n")
        typer.echo(output)


def _parse(text: str) -> tuple[str, str | None]:
    folder, *rest = shlex.split(text) or [""]
    if rest and not (len(rest) == 1 and rest[0].startswith("as=") and rest[0] != "as="):
        raise InputError(f"{text!r}: write FOLDER, or 'FOLDER as=ROW'")
    return folder, rest[0].removeprefix("as=") if rest else None
