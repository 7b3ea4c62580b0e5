"""The verb that searches for better values of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import Cache, app, cache_folder
from serkit.progress import show_steps


@app.command()
def search(
    recipe: Annotated[str, typer.Argument(help="recipe with a [search] section (see: serkit list recipes) or file")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="section.key=value, such as data.root=DIR search.trials=40 search.space.training.lr={...}"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; searches/NAME when left out")] = None,
    storage: Annotated[
        str,
        typer.Option(help="database that workers share, postgresql://USER@HOST/DATABASE; a file when left out"),
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="processes that share the study")] = 1,
    cache: Cache = None,
    device: Annotated[str, typer.Option(help="where encoders run or are fine-tuned: cpu or cuda")] = "cpu",
) -> None:
    """Search for better values of a recipe's keys on the dev parts; call again to go on, or elsewhere to help."""
    from serkit.evaluation.searches import format_search, write_figures
    from serkit.training.recipe import load_recipe
    from serkit.training.searching.search import search

    loaded = load_recipe(recipe, overrides or [])
    folder = output or Path("searches") / loaded.name
    with show_steps() as step:
        facts = search(loaded, folder, cache or cache_folder(), storage, step, workers, device)
    write_figures(folder)
    typer.echo(format_search(facts, folder))
