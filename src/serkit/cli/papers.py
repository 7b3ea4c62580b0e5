"""Verbs that reproduce published systems."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from serkit.cli.app import Cache, Workers, app, cache_folder, split_pair
from serkit.cli.learn import fail_if, run_planned
from serkit.errors import InputError
from serkit.processes import leads
from serkit.progress import show_steps


class System(StrEnum):
    """A published system whose figures ``serkit report`` knows."""

    cai = "cai"
    pepino = "pepino"


@app.command()
def report(
    system: Annotated[System, typer.Argument(help="the published system")],
    runs: Annotated[Path, typer.Argument(help="folder with run folders of its recipes, at any depth")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the page, the JSON and the figures")],
) -> None:
    """Show our runs beside the figures a paper published: tables, layer weights, learning curves."""
    _compare(system, runs, output)


@app.command()
def reproduce(
    system: Annotated[System, typer.Argument(help="the published system")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, for every recipe")] = None,
    root: Annotated[list[str] | None, typer.Option(help="CORPUS=DIR; recipes on other corpora are left out")] = None,
    encoder: Annotated[str | None, typer.Option(help="in place of the encoder that most recipes name")] = None,
    only: Annotated[list[str] | None, typer.Option(help="pattern of recipes to run, such as 'none-*'")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="pattern of recipes to leave out")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="runs; runs/SYSTEM when left out")] = None,
    cache: Cache = None,
    workers: Workers = None,
    device: Annotated[str, typer.Option(help="where encoders run: cpu, or cuda in bfloat16")] = "cpu",
    checkpoints: Annotated[
        Path | None, typer.Option(help="cai: judge published checkpoints in folders 01F to 05M instead of training")
    ] = None,
    lists: Annotated[
        Path | None, typer.Option("--csv", help="with --checkpoints: folder of iemocap_<fold>.test.csv")
    ] = None,
) -> None:
    """Run a whole paper: every recipe, fold and seed, then its tables; call again to go on after an interruption."""
    from serkit.training.reproduce import plan

    roots = dict(split_pair(each, "--root", "CORPUS=DIR") for each in root or [])
    if checkpoints is not None:
        folder = output or Path("runs") / f"{system.value}-checkpoints"
        if system is not System.cai or "iemocap" not in roots:
            raise InputError("--checkpoints judges those of cai: give --root iemocap=DIR with it")
        return _judge_checkpoints(checkpoints, roots["iemocap"], folder, cache, lists, workers, device)
    folder = output or Path("runs") / system.value
    experiments = plan(system.value, roots, folder, encoder, only or (), skip or (), overrides or ())
    failed = run_planned(experiments, cache, workers, device)
    if failed < len(experiments) and leads():
        _compare(system, folder, folder)
    fail_if(failed, len(experiments))


def _judge_checkpoints(
    checkpoints: Path,
    root: str,
    folder: Path,
    cache: Path | None,
    lists: Path | None,
    workers: int | None,
    device: str,
) -> None:
    from serkit.evaluation.cai import format_result
    from serkit.training.cai import judge_checkpoints

    results = []
    with show_steps() as step:
        each = judge_checkpoints(checkpoints, root, folder, cache or cache_folder(), lists, step, workers, device)
        for result in each:
            results.append(result)
            typer.echo(f"{result.fold}:", err=True)
            typer.echo(format_result(result.correct, result.total))
    typer.echo(f"{len(results)} folds:", err=True)
    typer.echo(format_result(sum(each.correct for each in results), sum(each.total for each in results)))
    typer.echo(f"{folder}: judge it with serkit evaluate {folder}", err=True)


def _compare(system: System, runs: Path, output: Path) -> None:
    from serkit.evaluation import cai, pepino_page

    page: Any = cai if system is System.cai else pepino_page
    typer.echo(page.format_comparison(page.write_comparison(runs, output)))
    typer.echo(f"{output / f'{system.value}.md'}")
