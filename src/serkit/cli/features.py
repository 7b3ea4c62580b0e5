"""The verb that writes an encoder's features to files."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serkit.cli.app import Cache, Root, Workers, app, cache_folder
from serkit.errors import InputError
from serkit.progress import show_steps

if TYPE_CHECKING:
    from serkit.data.manifest import Manifest
    from serkit.encoders.windows import Windows


class Layout(StrEnum):
    """What ``serkit extract`` writes."""

    serkit = "serkit"
    emotion2vec = "emotion2vec"
    corpus = "corpus"


@app.command()
def extract(
    inputs: Annotated[
        list[str],
        typer.Argument(help="manifests (.parquet .csv .tsv .jsonl .scp), recordings, folders; options: weights=DIR"),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write to")],
    encoder: Annotated[str, typer.Option(help="see: serkit list encoders")] = "whisper",
    layout: Annotated[
        Layout,
        typer.Option(
            help="serkit: all layers, from the cache; emotion2vec: float32 (T, D) or (D,) per recording; "
            "corpus: PART.npy, PART.lengths, PART.emo"
        ),
    ] = Layout.serkit,
    granularity: Annotated[
        str | None,
        typer.Option(help="frame, or utterance: the mean (serkit: mean and deviation); corpus has frames only"),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="6, -1 (the last), mean4 (of the last 4); several with commas, a folder each")
    ] = None,
    part: Annotated[str, typer.Option(help="name of the files of a corpus")] = "train",
    window: Annotated[
        float | None,
        typer.Option(min=0, help="cut longer recordings into windows of so many seconds; 0: never; 30 beyond a minute"),
    ] = None,
    overlap: Annotated[float, typer.Option(min=0, help="seconds that neighbouring windows share")] = 4.0,
    level: Annotated[float | None, typer.Option(help="bring speech to this level, dB full scale")] = None,
    trim: Annotated[float | None, typer.Option(help="cut silence at both ends, dB below the loudest frame")] = None,
    cache: Cache = None,
    workers: Workers = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda in bfloat16")] = "cpu",
    root: Root = None,
) -> None:
    """Write an encoder's features; what is finished is not computed again, so interrupted work goes on.

    An utterance that cannot be encoded is told on stderr, the others go on, and the exit status is 2.
    """
    from serkit.data.inputs import gather
    from serkit.encoders.extract import EncoderSpec, list_jobs
    from serkit.encoders.features import Wanted, extract_all, extract_clips, extract_corpus
    from serkit.training.recipe import parse_options

    if granularity not in (None, "utterance", "frame"):
        raise InputError(f"--granularity is utterance or frame, not {granularity!r}")
    if layout is Layout.corpus and granularity == "utterance":
        raise InputError("--granularity utterance: a corpus has frames: choose --layout emotion2vec")
    if layout is Layout.serkit and layer is not None:
        raise InputError("--layer: the layout serkit has all layers: choose --layout emotion2vec, or say layers=[6]")
    names, options = split_options(inputs)
    manifest = gather(names, root)
    labels = find_labels(manifest) if layout is Layout.corpus else None
    failed: list[str] = []
    jobs = list_jobs(manifest, failed=failed)
    spec = EncoderSpec(encoder, {**parse_options(options), "level": level, "trim": trim})
    layers = tuple((layer or "-1").replace(" ", "").split(",")) if layout is not Layout.serkit else ()
    wanted = Wanted(granularity == "frame" or layout is Layout.corpus, layers, choose_windows(window, overlap))
    with show_steps() as step:
        told = partial(step, "encoding")
        if layout is Layout.serkit:
            failed += extract_all(jobs, spec, output, wanted, cache or cache_folder(), workers, told, device)
        elif layout is Layout.emotion2vec:
            failed += extract_clips(jobs, spec, output, wanted, workers, told, device)
        else:
            failed += extract_corpus(
                jobs, spec, output, wanted, part, labels, workers, told, device, complete=not failed
            )
    for line in failed:
        typer.echo(f"serkit: {line}", err=True)
    if failed and layout is Layout.corpus:
        typer.echo(f"serkit: {len(failed)} failed, nothing is stacked: mend or leave them out, call it again", err=True)
    if failed:
        raise SystemExit(2)
    typer.echo(f"{output}: {len(jobs)} utterances")


def split_options(inputs: list[str]) -> tuple[list[str], list[str]]:
    """Divide what stands on the command line into inputs, and the encoder's options such as ``weights=DIR``."""
    options = [text for text in inputs if text.partition("=")[0].isidentifier() and "=" in text]
    options = [text for text in options if not Path(text).exists()]
    names = [text for text in inputs if text not in options]
    if not names:
        raise InputError("name a manifest, a recording or a folder before the encoder's options")
    return names, options


def choose_windows(seconds: float | None, overlap: float) -> Windows | None:
    """Return how long recordings are cut: as asked, never for 0, by default beyond a minute."""
    from dataclasses import replace

    from serkit.encoders.windows import DEFAULT, Windows

    if seconds is None:
        return replace(DEFAULT, overlap=overlap)
    return Windows(seconds, overlap) if seconds else None


def find_labels(manifest: Manifest) -> list[tuple[str, str]] | None:
    """Return id and emotion of every utterance, None where none has one; raises ``InputError`` where some have none."""
    rows = list(manifest.table.select("id", "emotion").iter_rows())
    missing = [id for id, emotion in rows if emotion is None]
    if missing and len(missing) < len(rows):
        raise InputError(f"{len(missing)} utterances have no emotion, such as {missing[0]}: leave them out of a corpus")
    return rows if rows and not missing else None
