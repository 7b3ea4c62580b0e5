"""The command line: every verb is a thin call into the package. See ``serkit --help``.

Exit status: 0 done, 1 work failed, 2 bad input. Errors are one line on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from serkit.errors import InputError, SerkitError, missing_extra
from serkit.processes import leads
from serkit.progress import show_steps

app = typer.Typer(
    help="Speech emotion recognition: recognise, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How predictions are written."""

    table = "table"
    json = "json"
    csv = "csv"
    cai = "cai"


class Kind(StrEnum):
    """What ``serkit list`` shows."""

    encoders = "encoders"
    corpora = "corpora"
    protocols = "protocols"
    recipes = "recipes"
    models = "models"


class Metric(StrEnum):
    """What ``serkit compare`` compares."""

    uar = "uar"
    accuracy = "accuracy"
    f1_macro = "f1_macro"
    f1_weighted = "f1_weighted"


class System(StrEnum):
    """A published system whose figures ``serkit report`` knows."""

    cai = "cai"
    pepino = "pepino"


class FoldFormat(StrEnum):
    """How ``serkit split`` writes manifests; cai is the CSV ``file,emotion,text``."""

    parquet = "parquet"
    csv = "csv"
    jsonl = "jsonl"
    cai = "cai"


Root = Annotated[Path | None, typer.Option(help="folder of the recordings, where the manifest does not say")]


def main() -> None:
    """Run the command line; known errors become one line and an exit status."""
    try:
        app()
    except SerkitError as error:
        typer.echo(f"serkit: {error}", err=True)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # a full disk, or a place that cannot be written
        name = error.filename2 or error.filename
        typer.echo(f"serkit: {f'{name}: {error.strerror}' if name else error}", err=True)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in TRAIN_PACKAGES:
            raise
        typer.echo(f"serkit: {missing_extra(str(error.name), 'train')}", err=True)
        raise SystemExit(2) from None


TRAIN_PACKAGES = {
    "accelerate", "huggingface_hub", "jinja2", "jiwer", "matplotlib", "onnx", "onnxscript", "polars", "pydantic",
    "safetensors", "scipy", "sklearn", "tomli_w", "torch",
}  # fmt: skip


@app.command()
def predict(
    audio: Annotated[list[str], typer.Argument(help="recordings, folders, globs, wav.scp, .csv, .jsonl, .parquet")],
    model: Annotated[Path | None, typer.Option(help="a bundle folder; the packaged model when left out")] = None,
    labels: Annotated[str | None, typer.Option(help="candidate classes, separated by commas")] = None,
    format: Annotated[
        Format, typer.Option(help="table for people, json lines or csv for programs, cai: lines of Cai et al. 2021")
    ] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to write instead of stdout")] = None,
    embedding: Annotated[bool, typer.Option(help="add the utterance embedding (json only)")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="recordings at a time; one per core when left out")] = None,
    root: Annotated[Path | None, typer.Option(help="folder of the recordings that lists name")] = None,
) -> None:
    """Recognise the emotion expressed in recordings.

    A recording that cannot be used is reported on stderr, the others go on, and the exit status is 2.
    """
    from serkit.data.clips import find_clips
    from serkit.data.files import replace_atomically
    from serkit.inference.bundle import DEFAULT
    from serkit.inference.predictor import Predictor
    from serkit.inference.writers import WRITERS

    names = None if labels is None else [name.strip() for name in labels.split(",") if name.strip()]
    if embedding and format is not Format.json:
        raise InputError("--embedding needs --format json")
    predictor = Predictor(model or DEFAULT)
    found = predictor.predict_many(find_clips(audio, root), workers=workers, labels=names, embedding=embedding)
    failed: list[InputError] = []

    def good() -> Iterable[Any]:
        for clip, result in found:
            if isinstance(result, InputError):
                failed.append(result)
                typer.echo(f"serkit: {result}", err=True)
            else:
                yield replace(result, id=Path(clip.audio).name) if format is Format.cai else result

    write = WRITERS[format.value]
    if output is None:
        write(good(), predictor.card.classes, sys.stdout)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(output) as part, part.open("w", encoding="utf-8", newline="") as file:
            write(good(), predictor.card.classes, file)
    if failed:
        raise SystemExit(2)


@app.command(name="list")
def list_things(kind: Annotated[Kind, typer.Argument(help="what to list")]) -> None:
    """List encoders, corpora, protocols, recipes or models."""
    rows: list[tuple[str, str]]
    if kind is Kind.encoders:
        from serkit.encoders import list_encoders, list_presets

        rows = [(entry.name, entry.summary) for entry in list_encoders()]
        rows += [(preset.name, preset.summary) for preset in list_presets()]
    elif kind is Kind.corpora:
        from serkit.data.corpora import list_corpora

        rows = [
            (
                item.name,
                f"{item.title}: {item.utterances} utterances, {item.speakers} speakers; {item.licence}",
            )
            for item in list_corpora()
        ]
    elif kind is Kind.protocols:
        from serkit.data.protocols import PROTOCOLS

        rows = [(name, protocol.summary) for name, protocol in PROTOCOLS.items()]
    elif kind is Kind.recipes:
        from serkit.training.recipe import list_recipes, load_recipe

        rows = [(name, load_recipe(name).summary) for name in list_recipes()]
    else:
        from serkit.inference.bundle import DEFAULT, read_card

        card = read_card(DEFAULT)
        rows = [("default", f"{card.name}: {', '.join(card.classes)}; {card.licence}")]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}")


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="see: serkit list corpora")],
    root: Annotated[Path, typer.Argument(help="the corpus folder as its authors ship it")],
    output: Annotated[Path, typer.Option("--output", "-o", help="manifest to write: .parquet, .csv or .jsonl")],
) -> None:
    """Turn a corpus folder into a validated manifest."""
    from serkit.data.corpora import find_corpus, prepare_corpus

    manifest = prepare_corpus(corpus, root)
    problems = manifest.validate()
    _report_problems(problems)
    if problems:
        raise InputError(f"{root}: {len(problems)} problems, nothing written")
    manifest.write(output)
    complete = find_corpus(corpus).utterances
    typer.echo(f"{output}: {len(manifest)} of the {complete} utterances known, fingerprint {manifest.fingerprint()}")


@app.command()
def check(
    manifest: Annotated[Path, typer.Argument(help="manifest to judge")],
    protocol: Annotated[str | None, typer.Option(help="also split it and look for leaks")] = None,
    audio: Annotated[bool, typer.Option(help="decode every recording instead of reading headers")] = False,
    root: Root = None,
) -> None:
    """Count, and look for missing or corrupt files, duplicates and leaks."""
    from serkit.data.manifest import Manifest
    from serkit.data.protocols import create_folds, stamp

    table = Manifest.read(manifest, root)
    facts = table.describe()
    typer.echo(
        "{utterances} utterances, {hours:.2f} h, {speakers} speakers, fingerprint {fingerprint}".format_map(facts)
    )
    for column, counts in facts["counts"].items():
        shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:12])
        typer.echo(f"  {column}: {shown}{' ...' if len(counts) > 12 else ''}")
    problems = table.validate(read_audio=audio)
    _report_problems(problems)
    if protocol:
        folds = create_folds(table, protocol)
        typer.echo(f"protocol {protocol}: {len(folds)} folds, {stamp(folds)}")
        for fold in folds:
            typer.echo(f"  {fold.name}: train {len(fold.train)}, dev {len(fold.dev)}, test {len(fold.test)}")
    if problems:
        raise InputError(f"{manifest}: {len(problems)} problems")
    typer.echo("no problems found")


@app.command()
def split(
    manifest: Annotated[Path, typer.Argument(help="manifest of utterances")],
    protocol: Annotated[str, typer.Option(help="see: serkit list protocols")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for FOLD.PART.FORMAT")],
    options: Annotated[list[str] | None, typer.Argument(help="the protocol's own, such as dev=0 seed=1")] = None,
    format: Annotated[FoldFormat, typer.Option(help="cai: file,emotion,text as IEMOCAP is published with")] = (
        FoldFormat.parquet
    ),
    root: Root = None,
) -> None:
    """Write the parts of every fold of a protocol as manifests."""
    from serkit.data.folds import write_folds
    from serkit.data.manifest import Manifest
    from serkit.data.protocols import create_folds, stamp
    from serkit.training.recipe import parse_options

    table = Manifest.read(manifest, root)
    folds = create_folds(table, protocol, **parse_options(options or []))
    for path in write_folds(table, folds, output, format.value):
        typer.echo(path)
    typer.echo(f"protocol {protocol}: {len(folds)} folds, {stamp(folds)}")


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
        features = extract(jobs, spec, cache or _cache_folder(), frames, progress=told, device=device)
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
        train(loaded, folder, cache or _cache_folder(), step, workers, device)
    if leads():
        _evaluate(folder)


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(help="run folder with predictions.parquet")]) -> None:
    """Judge a run: report.json, report.html and a summary with intervals."""
    _evaluate(run)


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
        agreement = export_run(run, output, cache or _cache_folder(), step, int8)
    typer.echo(
        f"{output}: written; probabilities differ from PyTorch's by at most "
        f"{agreement['max_probability_difference']:.2g}, {agreement['equal_labels']:.1%} of labels equal"
    )


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
    cache: Annotated[Path | None, typer.Option(help="feature cache")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one per core when left out")] = None,
    device: Annotated[str, typer.Option(help="where encoders run: cpu, or cuda in bfloat16")] = "cpu",
    checkpoints: Annotated[
        Path | None, typer.Option(help="cai: judge published checkpoints in folders 01F to 05M instead of training")
    ] = None,
    lists: Annotated[
        Path | None, typer.Option("--csv", help="with --checkpoints: folder of iemocap_<fold>.test.csv")
    ] = None,
) -> None:
    """Run a whole paper: every recipe, fold and seed, then its tables; call again to go on after an interruption."""
    from serkit.evaluation.report import write_report
    from serkit.training.reproduce import plan, run_all

    roots = {name: place for name, _, place in (each.partition("=") for each in root or [])}
    if checkpoints is not None:
        folder = output or Path("runs") / f"{system.value}-checkpoints"
        if system is not System.cai or "iemocap" not in roots:
            raise InputError("--checkpoints judges those of cai: give --root iemocap=DIR with it")
        return _judge_checkpoints(checkpoints, roots["iemocap"], folder, cache, lists, workers, device)
    folder = output or Path("runs") / system.value
    experiments = plan(system.value, roots, folder, encoder, only or (), skip or (), overrides or ())
    failed = 0
    with show_steps() as step:
        results = run_all(experiments, cache or _cache_folder(), step, workers, device)
        for number, (experiment, error) in enumerate(results, 1):
            failed += error is not None
            if not leads():
                continue
            if error is None and not (experiment.folder / "report.html").exists():
                write_report(experiment.folder)
            said = "finished" if error is None else str(error)
            typer.echo(f"[{number}/{len(experiments)}] {experiment.recipe.name}: {said}", err=True)
    if failed < len(experiments) and leads():
        _compare(system, folder, folder)
    if failed:
        raise SerkitError(f"{failed} of {len(experiments)} experiments failed: mend the cause and call it again")


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
        each = judge_checkpoints(checkpoints, root, folder, cache or _cache_folder(), lists, step, workers, device)
        for result in each:
            results.append(result)
            typer.echo(f"{result.fold}:", err=True)
            typer.echo(format_result(result.correct, result.total))
    typer.echo(f"{len(results)} folds:", err=True)
    typer.echo(format_result(sum(each.correct for each in results), sum(each.total for each in results)))
    typer.echo(f"{folder}: judge it with serkit evaluate {folder}", err=True)


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


def _evaluate(run: Path) -> None:
    from serkit.evaluation.report import format_summary, write_report

    typer.echo(format_summary(write_report(run)))
    typer.echo(f"{run / 'report.html'}")


def _compare(system: System, runs: Path, output: Path) -> None:
    from serkit.evaluation import cai, pepino_page

    page: Any = cai if system is System.cai else pepino_page
    typer.echo(page.format_comparison(page.write_comparison(runs, output)))
    typer.echo(f"{output / f'{system.value}.md'}")


def _report_problems(problems: list[Any]) -> None:
    for problem in problems[:20]:
        typer.echo(f"{problem.kind}: {problem}", err=True)
    if problems[20:]:
        typer.echo(f"and {len(problems) - 20} more problems", err=True)


def _cache_folder() -> Path:
    """Return the feature cache: ``SERKIT_CACHE``, or ``serkit`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SERKIT_CACHE") or Path(home) / "serkit")


if __name__ == "__main__":
    main()
