"""Verbs that judge runs and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(help="run folder with predictions.parquet")]) -> None:
    """Judge a run: report.json, report.html and a summary with intervals."""
    print_report(run)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="run folders; each is compared with the first")],
    metric: Annotated[
        list[str] | None, typer.Option(help="uar (default), accuracy, text.wer, arousal.ccc, ...; repeatable; or all")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="every pair, not only against the first")] = False,
    mixed: Annotated[bool, typer.Option(help="add a mixed model: odds of being right, of all runs at once")] = False,
    difference: Annotated[float, typer.Option(min=0, help="that would matter: how likely it was to be seen")] = 0.02,
    output: Annotated[Path | None, typer.Option("--json", help="file for all numbers")] = None,
) -> None:
    """Judge runs on the same test utterances: difference, interval, tests, and what could have been seen."""
    from serkit.data.files import write_json
    from serkit.evaluation.compare import compare_folders, mix_folders
    from serkit.evaluation.verdict import format_mixed, format_pair

    pairs = compare_folders(runs, metric or ["uar"], every=every, matters=difference)
    for pair in pairs:
        typer.echo(format_pair(pair))
    model = mix_folders(runs) if mixed else None
    if model is not None:
        typer.echo(format_mixed(model))
    if output is not None:
        write_json(output, {"pairs": pairs, "mixed": model})
    methods = [text for pair in pairs for text in (pair["method"], pair["permutation"]["method"])]
    for method in dict.fromkeys([*methods, *([model["method"]] if model else [])]):
        typer.echo(f"method: {method}", err=True)


def print_report(run: Path) -> None:
    """Judge a run and print the summary."""
    from serkit.evaluation.report import format_summary, write_report

    typer.echo(format_summary(write_report(run)))
    typer.echo(f"{run / 'report.html'}")
