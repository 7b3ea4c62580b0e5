"""The verb that learns an encoder from speech without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serkit.cli.app import app
from serkit.processes import leads
from serkit.progress import no_steps, print_steps, show_steps


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="recipe name (see: serkit list recipes) or .toml file")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, such as data.root=DIR training.epochs=50")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder; runs/NAME when left out")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="tell what would be done and how long it takes")] = False,
    draw: Annotated[bool, typer.Option("--draw", help="draw the curves of a run that goes on, and end")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="of a processor; one per core when left out")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Pretrain emotion2vec on speech without labels; call again to go on after an interruption.

    Writes OUTPUT/encoder and OUTPUT/teacher, which every recipe takes: encoder=emotion2vec
    encoder.options.weights=OUTPUT/encoder.
    """
    from serkit.evaluation.pretraining import draw_run, read_pretraining
    from serkit.training.pretraining.recipe import load_pretraining

    loaded = load_pretraining(recipe, overrides or [])
    folder = output or Path("runs") / loaded.name
    if draw:
        typer.echo(folder / draw_run(folder))
        return
    if plan:
        from serkit.training.pretraining.plan import describe_plan

        for line in describe_plan(loaded, threads, device):
            typer.echo(line)
        return
    from serkit.training.pretraining.run import run_pretraining

    with show_steps() as step:
        quiet = step is print_steps or not leads()  # a line a history line says more than one a tenth
        shown = no_steps if quiet else step

        def report(line: dict[str, Any]) -> None:
            shown("pretraining", line["update"], line["updates"])
            if leads() and quiet:
                typer.echo(describe(line), err=True)

        run_pretraining(loaded, folder, device, threads, report)
    if leads():
        draw_run(folder)
        last = read_pretraining(folder)[-1]
        typer.echo(
            f"{folder}: {last['update']} updates, {last['hours']:.1f} h of audio seen, loss {last['loss']:.4f}; "
            f"use it as encoder=emotion2vec encoder.options.weights={folder / 'encoder'}"
        )


def describe(line: dict[str, Any]) -> str:
    """Return a line of history in words."""
    return (
        f"update {line['update']} of {line['updates']}: loss {line['loss']:.4f} (frames {line['loss_frame']:.4f}, "
        f"utterance {line['loss_utterance']:.4f}), variance {line['target_variance']:.3f} and "
        f"{line['prediction_variance']:.3f}, lr {line['lr']:.2e}, {line['hours_per_hour']:.1f} h of audio an hour"
    )
