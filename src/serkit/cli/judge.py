"""Verbs that judge runs and compare them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import Cache, Root, Workers, app, cache_folder, split_pair
from serkit.progress import show_steps


class Metric(StrEnum):
    """What ``serkit matrix`` shows."""

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
    cache: Cache = None,
    workers: Workers = None,
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
    metric: Annotated[
        list[str] | None,
        typer.Option(help="uar (default), text.wer, arousal.ccc, labels.accuracy, ...; repeatable; or all"),
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
    if output is not None:
        write_json(output, {"pairs": pairs, "mixed": None})
    model = mix_folders(runs) if mixed else None
    if model is not None:
        typer.echo(format_mixed(model))
        if output is not None:
            write_json(output, {"pairs": pairs, "mixed": model})
    methods = [text for pair in pairs for text in (pair["method"], pair["permutation"]["method"])]
    for method in dict.fromkeys([*methods, *([model["method"]] if model else [])]):
        typer.echo(f"method: {method}", err=True)


def print_report(*folders: Path) -> None:
    """Judge runs and print their summaries."""
    from serkit.evaluation.report import format_summary, write_report

    for number, folder in enumerate(folders):
        typer.echo("\n" * (number > 0) + format_summary(write_report(folder)))
        typer.echo(f"{folder / 'report.html'}")
