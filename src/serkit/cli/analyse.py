"""Verbs that look into representations: how alike layers are, what can be read off them, how utterances lie in them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serkit.cli.app import Cache, Root, Workers, app, cache_folder
from serkit.errors import InputError
from serkit.progress import show_steps

if TYPE_CHECKING:
    from serkit.training.sources import Gathered

Table = Annotated[Path, typer.Argument(help="manifest of utterances with speakers")]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder for tables (JSON, CSV) and pictures (PNG, SVG)")]
Encoders = Annotated[
    list[str] | None,
    typer.Option("--encoder", help="'NAME key=value as=LABEL', repeatable; see: serkit list encoders"),
]
Runs = Annotated[list[str] | None, typer.Option("--run", help="folder of a fine-tuned run: 'FOLDER seed=0 as=LABEL'")]
Where = Annotated[list[str] | None, typer.Option(help="keep the rows with column=value, repeatable")]
Level = Annotated[float | None, typer.Option(help="bring speech to this level, dB full scale; runs have their own")]
Trim = Annotated[float | None, typer.Option(help="cut silence at both ends first, dB below the loudest frame")]
Most = Annotated[int, typer.Option(min=5, help="take this many utterances at random where there are more")]
Reference = Annotated[bool, typer.Option("--egemaps/--no-egemaps", help="add eGeMAPS functionals to the sources")]

EGEMAPS = "eGeMAPS"


@app.command()
def similarity(
    manifest: Table,
    output: Output,
    encoder: Encoders = None,
    run: Runs = None,
    measure: Annotated[str, typer.Option(help="cka (debiased), cka-biased, cka-rbf, cca or svcca")] = "cka",
    scale: Annotated[bool, typer.Option(help="bring every column to mean 0 and deviation 1 first")] = True,
    egemaps: Reference = True,
    where: Where = None,
    level: Level = None,
    trim: Trim = None,
    most: Most = 2000,
    cache: Cache = None,
    workers: Workers = None,
    root: Root = None,
) -> None:
    """Compare every layer with every other: of one source, of several, and with eGeMAPS; encoded work is kept."""
    from serkit.evaluation.curves import write_figure
    from serkit.evaluation.layers.layer_plots import draw_drift, draw_reference, draw_similarity, drifted
    from serkit.evaluation.layers.layer_similarity import compare_layers, layer_pairs, write_similarity

    with show_steps() as step:
        found = _gather(manifest, root, where, most, encoder, run, level, trim, egemaps, cache, workers, step)
        told = partial(step, "comparing layers")
        made = compare_layers(found.representations, found.ids, found.speakers, found.folds, measure, told, scale)
    output.mkdir(parents=True, exist_ok=True)
    write_similarity(made, {**found.facts, "scaled": scale}, output)
    if layer_pairs(made):
        write_figure(draw_similarity(made), output / "layers")
        if egemaps:
            write_figure(draw_reference(made, EGEMAPS), output / "egemaps")
        first = next(name for name, layers in made.layers.items() if len(layers) > 1)
        if drifted(made, first):
            write_figure(draw_drift(made, first), output / "drift")
    for row in made.rows():
        if row["other"] == EGEMAPS != row["source"]:
            typer.echo(f"{row['source']} layer {row['layer']} and {EGEMAPS}: {_interval(row)}")
    typer.echo(f"{output}: {measure} of {len(made.pairs)} pairs of layers; {made.stamp}")


@app.command()
def probe(
    manifest: Table,
    output: Output,
    encoder: Encoders = None,
    run: Runs = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="emotion, gender, speaker, acoustic or a column, repeatable; those four when left out"),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="folds (see: serkit list protocols); those of the runs, or group-k-fold")
    ] = None,
    egemaps: Reference = True,
    where: Where = None,
    level: Level = None,
    trim: Trim = None,
    cache: Cache = None,
    workers: Workers = None,
    root: Root = None,
) -> None:
    """Read emotion, speaker, gender and acoustic descriptors off every layer with linear models, for new speakers."""
    from serkit.data.protocols import create_folds
    from serkit.evaluation.curves import write_figure
    from serkit.evaluation.layers.layer_plots import draw_probes
    from serkit.evaluation.layers.probe_targets import ACOUSTIC, DEFAULT, create_targets
    from serkit.evaluation.layers.probes import probe, write_probes
    from serkit.training.representations import DESCRIPTORS, acoustic_targets

    if run and protocol:
        raise InputError("--protocol: runs bring their own folds: leave it out")
    wanted = target or list(DEFAULT)
    described = egemaps or ACOUSTIC in wanted
    with show_steps() as step:
        found = _gather(manifest, root, where, None, encoder, run, level, trim, described, cache, workers, step)
        folds = found.folds or create_folds(found.manifest, protocol or "group-k-fold", dev=0)
        seconds = next((each.seconds for each in found.representations if each.seconds is not None), None)
        acoustic = acoustic_targets(found.representations[-1], seconds) if described else {}
        targets = create_targets(found.manifest, wanted, folds, acoustic, bool(run))
        sources = found.representations[: None if egemaps or not described else -1]
        made = probe(sources, targets, found.ids, found.speakers, step=partial(step, "probing"))
    output.mkdir(parents=True, exist_ok=True)
    write_probes(made, {**found.facts, "protocol": "of the runs" if run else protocol or "group-k-fold"}, output)
    titles = {**{name: words for words, name in DESCRIPTORS.items()}, "duration": "duration"}
    for name, chosen in (
        ("probes", [each for each in made if each.target not in titles]),
        ("acoustic", [each for each in made if each.target in titles and each.source != EGEMAPS]),
    ):
        if chosen:
            write_figure(draw_probes(chosen, titles), output / name)
    for each in made:
        typer.echo(f"{each.source} layer {each.layer}, {each.target}: {each.metric} {_interval(each.row())}")
    typer.echo(f"{output}: {len(made)} probes on {len(found.ids)} utterances")


@app.command(name="map")
def map_utterances(
    manifest: Table,
    output: Output,
    encoder: Encoders = None,
    run: Runs = None,
    layer: Annotated[int, typer.Option(help="layer of every source; negative: counted from the last")] = -1,
    method: Annotated[str, typer.Option(help="pca, or umap (pip install 'serkit[umap]')")] = "pca",
    colour: Annotated[
        list[str] | None,
        typer.Option(help="column, repeatable; emotion, speaker, gender; arousal: rated or told by class"),
    ] = None,
    fold: Annotated[str | None, typer.Option(help="with --run: whose test part is shown; the first one's")] = None,
    egemaps: Reference = False,
    where: Where = None,
    level: Level = None,
    trim: Trim = None,
    most: Most = 2000,
    cache: Cache = None,
    workers: Workers = None,
    root: Root = None,
) -> None:
    """Draw utterances as points in a plane, coloured by emotion, arousal, speaker or any other column."""
    from serkit.evaluation.curves import write_figure
    from serkit.evaluation.layers.layer_plots import draw_maps
    from serkit.evaluation.layers.projection import check_columns, map_layers, write_maps

    with show_steps() as step:
        found = _gather(manifest, root, where, most, encoder, run, level, trim, egemaps, cache, workers, step)
    shown, name = found.part(fold)
    columns = check_columns(found.manifest.select(shown).table, colour or ["emotion", "speaker", "gender"])
    place = {id: row for row, id in enumerate(found.ids)}
    maps = map_layers(found.representations, layer, method, [place[id] for id in shown], name)
    output.mkdir(parents=True, exist_ok=True)
    write_maps(maps, shown, columns, {**found.facts, "method": method, "fold": name or None}, output)
    write_figure(draw_maps(maps, columns), output / "map")
    typer.echo(f"{output}: {len(shown)} utterances by {method}")


def _gather(
    manifest: Path,
    root: Path | None,
    where: list[str] | None,
    most: int | None,
    encoders: list[str] | None,
    runs: list[str] | None,
    level: float | None,
    trim: float | None,
    egemaps: bool,
    cache: Path | None,
    workers: int | None,
    step: Any,
) -> Gathered:
    """Return the sources that the options name, eGeMAPS the last of them."""
    from serkit.data.manifest import Manifest
    from serkit.training.sources import choose_utterances, gather, parse_encoder, parse_run

    sources = [parse_encoder(text, level, trim) for text in encoders or []] + [parse_run(text) for text in runs or []]
    if sources and egemaps:
        sources.append(parse_encoder(f"egemaps-functionals as={EGEMAPS}", level, trim))
    chosen = choose_utterances(Manifest.read(manifest, root), where or [], most)
    return gather(chosen, sources, cache or cache_folder(), step, workers)


def _interval(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "not computed"
    return f"{row['value']:.3f}" + ("" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]")
