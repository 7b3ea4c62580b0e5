"""Verbs of statistics: analysis of variance over experiments, and how much data a comparison needs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app
from serkit.errors import InputError


class Pairs(StrEnum):
    """What post-hoc tests compare."""

    levels = "levels"
    cells = "cells"


@app.command()
def anova(
    table: Annotated[Path, typer.Argument(help="CSV: factors, and run (a folder), value, or mean, std and n")],
    metric: Annotated[str, typer.Option(help="of runs: uar, accuracy, text.wer, ...")] = "uar",
    kind: Annotated[int, typer.Option("--type", min=2, max=3, help="type of the sums of squares")] = 2,
    pairs: Annotated[Pairs, typer.Option(help="post-hoc t-tests: levels of each factor, or all cells")] = Pairs.levels,
    equal: Annotated[bool, typer.Option("--equal-variances", help="Student's t-tests instead of Welch's")] = False,
    population: Annotated[bool, typer.Option("--population-sd", help="std was divided by n, not n - 1")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="file for all numbers")] = None,
) -> None:
    """Test what factors do to the values of seeds: n-way analysis of variance, effect sizes, post-hoc tests."""
    from serkit.data.files import write_json
    from serkit.evaluation.statistics.experiments import format_experiments, judge_experiments, read_experiments

    made = judge_experiments(read_experiments(table, metric, population), kind, pairs.value, equal)
    typer.echo(format_experiments(made))
    if output is not None:
        write_json(output, made)


@app.command()
def power(
    runs: Annotated[list[Path], typer.Argument(help="two run folders, or one with several seeds")],
    metric: Annotated[str, typer.Option(help="uar, accuracy, text.wer, ...")] = "uar",
    difference: Annotated[float, typer.Option(help="that would matter")] = 0.02,
    wanted: Annotated[float, typer.Option("--power", help="chance of showing it")] = 0.8,
    output: Annotated[Path | None, typer.Option("--json", help="file for all numbers")] = None,
) -> None:
    """Plan a comparison: how likely a difference is shown, and how many speakers, utterances or seeds that takes."""
    from serkit.data.files import write_json
    from serkit.evaluation.predictions import read_predictions
    from serkit.evaluation.statistics.planning import plan_runs
    from serkit.evaluation.verdict import format_plan

    if not 0 < wanted < 1 or difference <= 0:
        raise InputError("--power must lie between 0 and 1 and --difference above 0")
    made = plan_runs([read_predictions(run / "predictions.parquet") for run in runs], metric, difference, wanted)
    typer.echo(format_plan(made))
    if output is not None:
        write_json(output, made)
