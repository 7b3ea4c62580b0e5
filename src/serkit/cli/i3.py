"""Verbs that write and read results as the i3 programs for speech emotion recognition keep them, and compare runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app
from serkit.errors import InputError


class OutputFormat(StrEnum):
    """How ``serkit outputs`` writes."""

    i3 = "i3"


class Score(StrEnum):
    """What ``serkit quickstats`` counts."""

    accuracy = "accuracy"
    uar = "uar"


@app.command()
def outputs(
    runs: Annotated[list[str], typer.Argument(help="run folders, or NAME=FOLDER: runs of one name are one model")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for MODEL/DATASET/SEED")],
    format: Annotated[OutputFormat, typer.Option(help="whose layout")] = OutputFormat.i3,
    dataset: Annotated[str | None, typer.Option(help="name of the test data; their corpus when left out")] = None,
    figures: Annotated[bool, typer.Option(help="draw confusion matrices, which takes most of the time")] = True,
) -> None:
    """Write what another program writes about tests: reports, accuracies by gender, confusion matrices."""
    from serkit.evaluation.i3 import format_statistics, quick_statistics
    from serkit.evaluation.i3_outputs import accuracies_of, judge_runs, write_outputs

    judged = judge_runs(runs, dataset)
    for remark in write_outputs(judged, output, figures):
        typer.echo(f"note: {remark}", err=True)
    typer.echo(format_statistics(quick_statistics(accuracies_of(judged))))
    typer.echo(output)


@app.command()
def quickstats(
    folders: Annotated[list[str], typer.Argument(help="folders of MODEL/DATASET/SEED/accuracies.json, or runs")],
    metric: Annotated[Score, typer.Option(help="accuracy, or mean recall of the classes")] = Score.accuracy,
) -> None:
    """Print mean and spread over seeds, overall and by gender, and test whether the genders differ."""
    from serkit.evaluation.i3 import format_statistics, quick_statistics, read_accuracies
    from serkit.evaluation.i3_outputs import accuracies_of, judge_runs, name_run

    runs = [name for name in folders if (name_run(name)[1] / "predictions.parquet").is_file()]
    results = quick_statistics(accuracies_of(judge_runs(runs), metric.value))
    for folder in folders:
        if folder not in runs:
            results += quick_statistics(read_accuracies(folder, metric.value))
    typer.echo(format_statistics(results, metric.value))


@app.command()
def curves(
    runs: Annotated[list[str], typer.Argument(help="run folders, or NAME=FOLDER")],
    output: Annotated[Path, typer.Option("--output", "-o", help="figure to write: .png or .svg")],
    metric: Annotated[str, typer.Option(help="of the dev part, as the history names it")] = "uar",
    seed: Annotated[int | None, typer.Option(help="only this seed; the mean of all when left out")] = None,
) -> None:
    """Draw the learning curves of runs over each other: dev metric, dev loss and training loss."""
    from serkit.evaluation.curves import draw_run_comparison, read_history, save_figure
    from serkit.evaluation.i3_outputs import name_run

    named = [name_run(run) for run in runs]
    names = [name for name, _ in named]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two runs are called {twice[0]!r}: name them NAME=FOLDER")
    histories = {name: read_history(folder) for name, folder in named}
    save_figure(draw_run_comparison(histories, f"dev_{metric.removeprefix('dev_')}", seed), output)
    typer.echo(output)
