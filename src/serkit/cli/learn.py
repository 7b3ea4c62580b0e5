"""Verbs that train models and carry them elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serkit.cli.app import Cache, Workers, app, cache_folder
from serkit.cli.judge import print_report
from serkit.errors import InputError, SerkitError
from serkit.processes import leads
from serkit.progress import show_steps

if TYPE_CHECKING:
    from serkit.training.experiment import PlannedRun


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="recipe name (see: serkit list recipes) or .toml file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as data.root=DIR")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder; runs/NAME when left out")] = None,
    only: Annotated[list[str] | None, typer.Option(help="pattern of an experiment's recipes, such as '*plain'")] = None,
    low_seed: Annotated[int | None, typer.Option(min=0, help="first seed, in place of those of the recipe")] = None,
    high_seed: Annotated[int | None, typer.Option(min=0, help="last seed, itself included")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="tell what would be done and how long it takes")] = False,
    cache: Cache = None,
    workers: Workers = None,
    device: Annotated[str, typer.Option(help="where encoders run or are fine-tuned: cpu or cuda")] = "cpu",
) -> None:
    """Train and test every fold and seed of a recipe, then evaluate; call again to go on after an interruption.

    A recipe may have factors: then it is an experiment of several recipes, whose plan is told first.
    """
    from serkit.training.experiment import plan_experiment, seed_range, write_runs
    from serkit.training.recipe import load_variants

    changes = overrides or []
    first = load_variants(recipe, changes)[0]
    if low_seed is not None or high_seed is not None:
        changes = [*changes, f"seeds={seed_range(len(first.recipe.seeds), low_seed, high_seed)}"]
    folder = output or Path("runs") / first.recipe.name.removesuffix(f"/{first.name}")
    runs = plan_experiment(recipe, folder, changes, only or ())
    if plan or (len(runs) > 1 and leads()):
        from serkit.training.estimate import describe_plan, estimate

        for line in describe_plan(runs, [estimate(run, cache or cache_folder(), workers) for run in runs]):
            typer.echo(line, err=not plan)
    if plan:
        return
    if len(runs) == 1:
        ((_, error),) = run_all_shown(runs, cache, workers, device)
        if error is not None:
            raise error
        if leads():
            print_report(*runs[0].folders)
        return
    failed = run_planned(runs, cache, workers, device)
    if leads():
        typer.echo(write_runs(runs, folder))
    fail_if(failed, len(runs))


def run_planned(runs: Sequence[PlannedRun], cache: Path | None, workers: int | None, device: str) -> int:
    """Do what is left of ``runs``, judge each and tell of it on stderr; return how many failed."""
    from serkit.evaluation.report import write_report

    failed = 0
    for number, (run, error) in enumerate(run_all_shown(runs, cache, workers, device), 1):
        failed += error is not None
        if not leads():
            continue
        for folder in run.folders if error is None else []:
            page = folder / "report.html"
            if not page.exists() or page.stat().st_mtime < (folder / "predictions.parquet").stat().st_mtime:
                write_report(folder)
        typer.echo(f"[{number}/{len(runs)}] {run.recipe.name}: {error or 'finished'}", err=True)
    return failed


def run_all_shown(
    runs: Sequence[PlannedRun], cache: Path | None, workers: int | None, device: str
) -> Iterator[tuple[PlannedRun, SerkitError | None]]:
    """Do what is left of ``runs`` and show how far it is."""
    from serkit.training.experiment import run_all

    with show_steps() as step:
        yield from run_all(runs, cache or cache_folder(), step, workers, device)


def fail_if(failed: int, count: int) -> None:
    """Raise when some of ``count`` runs failed."""
    if failed:
        raise SerkitError(f"{failed} of {count} runs failed: mend the cause and call it again")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="bundle folder to write")],
    int8: Annotated[bool, typer.Option(help="8-bit matrix products: twice as fast, a quarter of the size")] = False,
    fold: Annotated[str | None, typer.Option(help="of a fusion head: the fold; the first when left out")] = None,
    seed: Annotated[int | None, typer.Option(help="of a fusion head: the seed; the first when left out")] = None,
    cache: Cache = None,
) -> None:
    """Write a bundle that runs without PyTorch: the run's recipe trained on all its speakers.

    A fusion head is written as it was trained for one fold, so the run's figures for that fold are the bundle's.
    """
    from serkit.export import export_run

    with show_steps() as step:
        agreement = export_run(run, output, cache or cache_folder(), step, int8, fold, seed)
    typer.echo(
        f"{output}: written; probabilities differ from PyTorch's by at most "
        f"{agreement['max_probability_difference']:.2g}, {agreement['equal_labels']:.1%} of labels equal"
    )


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="a head of Pepino et al. 2021 (joblib file or .npz), a checkpoint folder of Cai et al. 2021, "
            "emotion2vec (folder, .pt file, hub name or preset), or a data folder of MAT (*_sentences.p)"
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="folder to write: model.safetensors with head.json or config.json; for Cai et al. a bundle, "
            "for data manifest.parquet and mels.npz",
        ),
    ],
    bundle: Annotated[
        bool, typer.Option("--bundle", help="emotion2vec: write a bundle, which recognises without PyTorch")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="a bundle with 8-bit matrix products: smaller and faster")
    ] = False,
) -> None:
    """Turn a foreign model into safetensors and JSON, or into a bundle; nothing in the source is executed."""
    from serkit.data.sentence_pickles import convert_sentences, is_sentence_folder

    if is_sentence_folder(source):
        typer.echo(f"{output}: manifest.parquet and mels.npz of {len(convert_sentences(source, output))} utterances")
        return
    from serkit.encoders.emotion2vec.folders import is_emotion2vec
    from serkit.models.cai import is_cai_checkpoint
    from serkit.models.pepino import load_released, write_head

    if is_emotion2vec(source):
        convert_emotion2vec(source, output, bundle or int8, int8)
        return
    if is_cai_checkpoint(source):
        from serkit.export import export_checkpoint

        tell_agreement(output, export_checkpoint(source, output, int8))
        return
    if bundle or int8:
        raise InputError(f"{source}: is a head without an encoder, and a bundle takes recordings: leave out --bundle")
    made = load_released(source)
    write_head(made, output, Path(source).name)
    streams = ", ".join(f"{layers} x {dim}" for layers, dim in made.shapes)
    typer.echo(f"{output}: head for {streams} features; classes {', '.join(made.classes)}; no normalisation statistics")


def tell_agreement(output: Path, agreement: dict[str, float]) -> None:
    """Tell that a bundle was written, and how it agrees with PyTorch."""
    difference = agreement["max_probability_difference"]
    typer.echo(f"{output}: written; probabilities differ from PyTorch's by at most {difference:.2g} on noise")


def convert_emotion2vec(source: str, output: Path, bundle: bool, int8: bool) -> None:
    """Write a checkpoint of emotion2vec as serkit's own folder, or as a bundle, and tell what was found in it."""
    from serkit.encoders.emotion2vec.files import read_emotion2vec, write_emotion2vec

    checkpoint = read_emotion2vec(source)
    if bundle:
        from serkit.export import export_emotion2vec

        tell_agreement(output, export_emotion2vec(checkpoint, output, int8))
    else:
        write_emotion2vec(output, checkpoint)
        typer.echo(f"{output}: written")
    for line in checkpoint.describe():
        typer.echo(f"  {line}")
