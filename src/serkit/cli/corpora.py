"""Verbs from a corpus folder to folds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import Root, app, report_problems
from serkit.errors import InputError


class FoldFormat(StrEnum):
    """How ``serkit split`` writes manifests; cai and i3 are published CSVs."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"
    cai = "cai"
    i3 = "i3"


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="see: serkit list corpora")],
    root: Annotated[Path, typer.Argument(help="the corpus folder as its authors ship it")],
    output: Annotated[Path, typer.Option("--output", "-o", help="manifest to write: .parquet, .csv or .jsonl")],
) -> None:
    """Turn a corpus folder into a validated manifest."""
    from serkit.data.corpora import find_corpus, prepare_corpus

    manifest = prepare_corpus(corpus, root)
    problems = manifest.validate()
    report_problems(problems)
    if problems:
        raise InputError(f"{root}: {len(problems)} problems, nothing written")
    manifest.write(output)
    complete = find_corpus(corpus).utterances
    typer.echo(f"{output}: {len(manifest)} of the {complete} utterances known, fingerprint {manifest.fingerprint()}")


@app.command()
def check(
    manifest: Annotated[Path, typer.Argument(help="manifest to judge")],
    protocol: Annotated[str | None, typer.Option(help="also split it and look for leaks")] = None,
    audio: Annotated[bool, typer.Option(help="decode every recording instead of reading headers")] = False,
    root: Root = None,
) -> None:
    """Count, and look for missing or corrupt files, duplicates and leaks."""
    from serkit.data.manifest import Manifest
    from serkit.data.protocols import create_folds, stamp

    table = Manifest.read(manifest, root)
    facts = table.describe()
    typer.echo(
        "{utterances} utterances, {hours:.2f} h, {speakers} speakers, fingerprint {fingerprint}".format_map(facts)
    )
    for column, counts in facts["counts"].items():
        shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:12])
        typer.echo(f"  {column}: {shown}{' ...' if len(counts) > 12 else ''}")
    if table.without_audio and len(table):
        typer.echo("  no utterance has a recording: what can be used is text and given features")
    problems = table.validate(read_audio=audio)
    report_problems(problems)
    if protocol:
        folds = create_folds(table, protocol)
        typer.echo(f"protocol {protocol}: {len(folds)} folds, {stamp(folds)}")
        for fold in folds:
            typer.echo(f"  {fold.name}: train {len(fold.train)}, dev {len(fold.dev)}, test {len(fold.test)}")
    if problems:
        raise InputError(f"{manifest}: {len(problems)} problems")
    typer.echo("no problems found")


@app.command()
def split(
    manifest: Annotated[Path, typer.Argument(help="manifest of utterances")],
    protocol: Annotated[str, typer.Option(help="see: serkit list protocols")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for FOLD.PART.FORMAT")],
    options: Annotated[list[str] | None, typer.Argument(help="the protocol's own, such as dev=0 seed=1")] = None,
    format: Annotated[
        FoldFormat,
        typer.Option(
            help="cai: file,emotion,text as IEMOCAP is published with; "
            "i3: path,class_id,actor,gender below DIR/train_test_validation, where DIR.csv is the original's metadata"
        ),
    ] = FoldFormat.parquet,
    root: Root = None,
) -> None:
    """Write the parts of every fold of a protocol as manifests."""
    from serkit.data.folds import write_folds
    from serkit.data.manifest import Manifest
    from serkit.data.protocols import create_folds, stamp
    from serkit.training.recipe import parse_options

    table = Manifest.read(manifest, root)
    folds = create_folds(table, protocol, **parse_options(options or []))
    for path in write_folds(table, folds, output, format.value):
        typer.echo(path)
    typer.echo(f"protocol {protocol}: {len(folds)} folds, {stamp(folds)}")
