"""Verbs that train models and carry them elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import Root, app, cache_folder
from serkit.cli.judge import print_report
from serkit.errors import InputError
from serkit.processes import leads
from serkit.progress import show_steps


@app.command()
def extract(
    manifest: Annotated[Path, typer.Argument(help="manifest of utterances")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for one .npy per utterance")],
    options: Annotated[list[str] | None, typer.Argument(help="the encoder's own, such as weights=DIR")] = None,
    encoder: Annotated[str, typer.Option(help="see: serkit list encoders")] = "whisper",
    granularity: Annotated[
        str, typer.Option(help="utterance: (2, N, D) mean and deviation; frame: (N, T, D)")
    ] = "utterance",
    level: Annotated[float | None, typer.Option(help="bring speech to this level, dB full scale")] = None,
    trim: Annotated[float | None, typer.Option(help="cut silence at both ends, dB below the loudest frame")] = None,
    cache: Annotated[Path | None, typer.Option(help="feature cache")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda in bfloat16")] = "cpu",
    root: Root = None,
) -> None:
    """Write an encoder's features; what is cached is not computed again, so interrupted work goes on."""
    from serkit.data.manifest import Manifest
    from serkit.encoders.extract import EncoderSpec, extract, list_jobs, write_features
    from serkit.training.recipe import parse_options

    if granularity not in ("utterance", "frame"):
        raise InputError(f"--granularity is utterance or frame, not {granularity!r}")
    jobs = list_jobs(Manifest.read(manifest, root))
    spec = EncoderSpec(encoder, {**parse_options(options or []), "level": level, "trim": trim})
    frames = granularity == "frame"
    with show_steps() as step:
        told = partial(step, "encoding")
        features = extract(jobs, spec, cache or cache_folder(), frames, progress=told, device=device)
    write_features(jobs, features, output, frames)
    typer.echo(f"{output}: {len(jobs)} files, encoder fingerprint {features.folder.name}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="recipe name (see: serkit list recipes) or .toml file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, such as data.root=DIR")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder; runs/NAME when left out")] = None,
    cache: Annotated[Path | None, typer.Option(help="feature cache")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one per core when left out")] = None,
    device: Annotated[str, typer.Option(help="where encoders run or are fine-tuned: cpu or cuda")] = "cpu",
) -> None:
    """Train and test every fold and seed of a recipe, then evaluate; call again to go on after an interruption."""
    from serkit.training.recipe import load_recipe
    from serkit.training.run import train

    loaded = load_recipe(recipe, overrides or [])
    folder = output or Path("runs") / loaded.name
    with show_steps() as step:
        train(loaded, folder, cache or cache_folder(), step, workers, device)
    if leads():
        print_report(folder)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="bundle folder to write")],
    int8: Annotated[bool, typer.Option(help="8-bit matrix products: twice as fast, a quarter of the size")] = False,
    cache: Annotated[Path | None, typer.Option(help="feature cache")] = None,
) -> None:
    """Train the run's recipe on all its speakers and write a bundle that runs without PyTorch."""
    from serkit.export import export_run

    with show_steps() as step:
        agreement = export_run(run, output, cache or cache_folder(), step, int8)
    typer.echo(
        f"{output}: written; probabilities differ from PyTorch's by at most "
        f"{agreement['max_probability_difference']:.2g}, {agreement['equal_labels']:.1%} of labels equal"
    )


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="a head of Pepino et al. 2021 (joblib file or .npz) or a checkpoint folder of Cai et al. 2021"
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="folder to write: for a head model.safetensors and head.json, for a checkpoint a bundle",
        ),
    ],
) -> None:
    """Turn a foreign head into safetensors and JSON, a checkpoint into a bundle; nothing in the source is executed."""
    from serkit.models.cai import is_cai_checkpoint
    from serkit.models.pepino import load_released, write_head

    if is_cai_checkpoint(source):
        from serkit.export import export_checkpoint

        agreement = export_checkpoint(source, output)
        difference = agreement["max_probability_difference"]
        typer.echo(f"{output}: written; probabilities differ from PyTorch's by at most {difference:.2g} on noise")
        return
    made = load_released(source)
    write_head(made, output, source.name)
    streams = ", ".join(f"{layers} x {dim}" for layers, dim in made.shapes)
    typer.echo(f"{output}: head for {streams} features; classes {', '.join(made.classes)}; no normalisation statistics")
