"""The verb that brings recordings to one loudness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serkit.cli.app import Root, app
from serkit.errors import InputError

if TYPE_CHECKING:
    from serkit.data.loudness import Levelled
    from serkit.data.manifest import Manifest


@app.command()
def normalise(
    source: Annotated[Path, typer.Argument(help="manifest, or folder of recordings")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the recordings and manifest.parquet")],
    corpus: Annotated[str | None, typer.Option(help="the folder is this corpus: see serkit list corpora")] = None,
    lufs: Annotated[float, typer.Option(help="integrated loudness, EBU R128")] = -23.0,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; one per core unless given")] = None,
    once: Annotated[bool, typer.Option(help="no second measurement of quiet recordings, as audiomentations")] = False,
    root: Root = None,
) -> None:
    """Write recordings at one loudness, in a tree like theirs with a manifest; goes on where it stopped."""
    from serkit.data.loudness import normalise_loudness
    from serkit.progress import show_steps

    manifest, base = _read(source, output, corpus, root)
    with show_steps() as step:
        levelled, lines = normalise_loudness(manifest, output, lufs, base, workers, step, once)
    levelled.write(output / "manifest.parquet")
    _report(lines, output / "manifest.parquet", lufs)


def _read(source: Path, output: Path, corpus: str | None, root: Path | None) -> tuple[Manifest, Path | None]:
    """Return the manifest, and the folder that paths are relative to."""
    from serkit.data.corpora import prepare_corpus, recordings
    from serkit.data.manifest import Manifest

    if not source.is_dir():
        if corpus:
            raise InputError(f"{source}: is not a folder, which --corpus is for")
        manifest, folder = Manifest.read(source, root), (root or source.parent).expanduser().resolve()
        inside = all(Path(name).is_relative_to(folder) for name in manifest.table["audio"].drop_nulls())
        return manifest, folder if inside else None
    if root:
        raise InputError(f"{source}: is a folder, --root is for manifests")
    folder = source.resolve()
    if output.resolve().is_relative_to(folder):
        raise InputError(f"{output}: lies in the folder of the recordings: choose another output")
    if corpus:
        return prepare_corpus(corpus, source), folder
    rows = [{"id": str(path.relative_to(folder).with_suffix("")), "audio": str(path)} for path in recordings(folder)]
    if not rows:
        raise InputError(f"{source}: holds no recordings")
    return Manifest.from_rows(rows), folder


def _report(lines: list[Levelled], path: Path, lufs: float) -> None:
    for line in lines:
        if line.kept:
            typer.echo(f"kept as it is, {line.kept}: {line.recording}")
    changed = {line.recording: line.gain for line in lines if line.gain is not None}
    typer.echo(f"{path}: {len(changed)} of {len(lines)} recordings brought to {lufs:g} LUFS")
    if changed:
        most = max(changed, key=lambda name: changed[name])
        typer.echo(
            f"largest gain {changed[most]:+.1f} dB ({os.path.basename(most)}), smallest {min(changed.values()):+.1f} dB"
        )
    if loud := sum(line.beyond_full_scale for line in lines):
        typer.echo(f"beyond full scale: {loud}, written as WAV files of 32-bit floats, so nothing is clipped")
