"""Verbs that judge runs and compare them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import Root, app, cache_folder, split_pair
from serkit.progress import show_steps


class Metric(StrEnum):
    """What ``serkit compare`` compares."""

    uar = "uar"
    accuracy = "accuracy"
    f1_macro = "f1_macro"
    f1_weighted = "f1_weighted"


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="run folder with predictions.parquet")],
    on: Annotated[list[str] | None, typer.Option(help="apply its models to a manifest, or to CORPUS=DIR")] = None,
    merge: Annotated[list[str] | None, typer.Option(help="with --on: LABEL=CLASS for labels of that corpus")] = None,
    root: Root = None,
    cache: Annotated[Path | None, typer.Option(help="feature cache")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one per core when left out")] = None,
    device: Annotated[str, typer.Option(help="where encoders run: cpu or cuda")] = "cpu",
) -> None:
    """Judge a run: report.json, report.html and a summary with intervals; with --on, its models on another corpus."""
    if on is None:
        return print_report(run)
    from serkit.data.corpora import prepare_corpus
    from serkit.data.manifest import Manifest
    from serkit.training.recipe import CorpusTest
    from serkit.training.transfer import evaluate_on

    section = CorpusTest(merge=dict(split_pair(each, "--merge", "LABEL=CLASS") for each in merge or []))
    folders = []
    for each in on:
        if "=" in each and not Path(each).exists():
            name, place = split_pair(each, "--on", "CORPUS=DIR")
            manifest = prepare_corpus(name, place)
        else:
            name, manifest = Path(each).stem, Manifest.read(each, root)
        with show_steps() as step:
            folders.append(evaluate_on(run, manifest, name, cache or cache_folder(), section, step, workers, device))
    return print_report(*folders)


@app.command()
def matrix(
    runs: Annotated[list[Path], typer.Argument(help="run folders with tests in on/, or a folder of them")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the table, the JSON and the figure")],
    metric: Annotated[Metric, typer.Option(help="what to show")] = Metric.uar,
) -> None:
    """Show what was trained on against what was tested on: a table and a figure, with intervals."""
    from serkit.evaluation.matrix import create_matrix, format_matrix, write_matrix

    made = create_matrix(runs, metric.value)
    write_matrix(made, output)
    typer.echo(format_matrix(made))
    typer.echo(output / "matrix.md")


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


def print_report(*folders: Path) -> None:
    """Judge runs and print their summaries."""
    from serkit.evaluation.report import format_summary, write_report

    for number, folder in enumerate(folders):
        typer.echo("\n" * (number > 0) + format_summary(write_report(folder)))
        typer.echo(f"{folder / 'report.html'}")
