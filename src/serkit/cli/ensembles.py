"""The verb that asks a run's models together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app
from serkit.errors import InputError


class Average(StrEnum):
    """What an ensemble takes the mean of."""

    logits = "logits"
    probabilities = "probabilities"


class Order(StrEnum):
    """How members are put in order."""

    dev = "dev"
    seed = "seed"


class Monitor(StrEnum):
    """What members are put in order by."""

    uar = "uar"
    accuracy = "accuracy"
    loss = "loss"


@app.command()
def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="run folders on the same folds; every seed is a member")],
    index: Annotated[int | None, typer.Option(min=1, help="show and keep the ensemble of the first K members")] = None,
    average: Annotated[Average, typer.Option(help="what the mean is taken of")] = Average.logits,
    order: Annotated[Order, typer.Option(help="members by their dev part, best first, or by seed")] = Order.dev,
    monitor: Annotated[Monitor | None, typer.Option(help="of the dev part; the recipe's when left out")] = None,
    names: Annotated[bool, typer.Option("--names", help="classes by name in the report, not by number")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; RUN/ensemble when left out")] = None,
) -> None:
    """Average the models of all seeds, one after another; honest figures beside the best number of them on test."""
    from serkit.evaluation.ensemble_report import (
        create_ensembles,
        create_ladder,
        format_classes,
        format_ensembles,
        write_ensembles,
    )

    if output is None and len(runs) > 1:
        raise InputError("several runs are one ensemble: name its folder with --output")
    ladder = create_ladder(runs, average.value, order.value, None if monitor is None else monitor.value)
    made = create_ensembles(ladder, index)
    written = write_ensembles(ladder, made, output or runs[0] / "ensemble")
    typer.echo(format_ensembles(made, None if index is None else format_classes(ladder, index, names)))
    for folder in written:
        typer.echo(folder)
