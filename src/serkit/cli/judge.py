"""Verbs that judge runs and compare them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app


class Metric(StrEnum):
    """What ``serkit compare`` compares."""

    uar = "uar"
    accuracy = "accuracy"
    f1_macro = "f1_macro"
    f1_weighted = "f1_weighted"


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(help="run folder with predictions.parquet")]) -> None:
    """Judge a run: report.json, report.html and a summary with intervals."""
    print_report(run)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="run folders; each is compared with the first")],
    metric: Annotated[Metric, typer.Option(help="what to compare")] = Metric.uar,
) -> None:
    """Compare runs on the same test utterances: paired bootstrap over speakers, one line per pair."""
    from serkit.evaluation.compare import compare_folders, format_pair

    pairs = compare_folders(runs, metric.value)
    for pair in pairs:
        typer.echo(format_pair(pair))
    for method in dict.fromkeys(pair["method"] for pair in pairs):
        typer.echo(f"method: {method}", err=True)


def print_report(run: Path) -> None:
    """Judge a run and print the summary."""
    from serkit.evaluation.report import format_summary, write_report

    typer.echo(format_summary(write_report(run)))
    typer.echo(f"{run / 'report.html'}")
