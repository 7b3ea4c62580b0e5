"""From a run to a bundle: one ONNX graph that takes waveforms, checked against PyTorch before it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.torch import load_file

from serkit.bundling import write_bundle
from serkit.data.audio import SAMPLING_RATE, read_audio
from serkit.data.corpora import find_corpus
from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold
from serkit.encoders.base import Encoder
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint
from serkit.errors import InputError, nearest
from serkit.evaluation.calibration import Calibration, calibrate
from serkit.evaluation.metrics import accuracy, uar
from serkit.evaluation.predictions import classes_of, judged_rows, probabilities_of, read_predictions
from serkit.models.cai import load_cai
from serkit.models.emotion2vec import load_emotion2vec
from serkit.models.fusion import FusionHead
from serkit.models.fusion_graph import FusionGraph
from serkit.models.graph import Graph, describe_tasks, graph_of
from serkit.models.onnx_files import WHOLE_SECONDS, longest_seconds
from serkit.progress import Step, no_steps
from serkit.training.given import GIVEN
from serkit.training.material import encoder_spec, load_data
from serkit.training.recipe import Recipe, load_recipe
from serkit.training.run import list_work, weights_file
from serkit.training.spoken import Spoken
from serkit.training.stores import load, store

MIN_SECONDS, WINDOW_SECONDS = 0.25, 15.0
EMOTION2VEC_SECONDS = 30.0
"""The window of emotion2vec's bundles: longer than nearly all utterances; its attention grows with the square."""


def export_run(
    run: str | Path,
    output: str | Path,
    cache: str | Path,
    step: Step = no_steps,
    int8: bool = False,
    fold: str | None = None,
    seed: int | None = None,
) -> dict[str, float]:
    """Train the recipe of a finished ``run`` on all its speakers and write the bundle ``output``.

    A fusion head is not trained again: :func:`export_fused` takes that of ``fold`` and ``seed``.

    Temperature and thresholds come from the run's test predictions: every one was made by a model that had not seen the
    speaker.
    It trains as long as the run's folds did on average when they stopped at their best. Returns how ONNX and PyTorch
    agree. Raises ``InputError`` when the run is unfinished or not to be exported (:func:`check_exportable`).
    """
    run = Path(run)
    if not (run / "predictions.parquet").is_file():
        raise InputError(f"{run}: is not a finished run (no predictions.parquet): finish it with serkit train")
    recipe = load_recipe(run / "recipe.toml")
    if recipe.fusion is not None:
        return export_fused(run, recipe, output, int8, fold, seed)
    if fold is not None or seed is not None:
        raise InputError(f"{run}: is trained again on all its speakers to be exported: leave out --fold and --seed")
    check_exportable(run, recipe)
    encoder = encoder_spec(recipe.encoder).create()
    check_encoder(run, encoder)
    check_windows(run, recipe, encoder)
    recipe, manifest = with_usual_epochs(run, recipe), load_data(recipe)
    material: Any = load(recipe, manifest, store(recipe, manifest, Path(cache), step))
    model, _ = material.fit(manifest.ids, (), recipe.seeds[0], None)
    model = material.restore(manifest.ids, material.state(model))
    section = recipe.encoder
    if recipe.finetune is None:
        stride = section.stride if model.needs_frames else 1  # cached statistics are those of single frames
        graph = Graph(encoder, model.eval(), section.chosen(encoder.num_layers), stride)
    else:
        graph = graph_of(model.eval())
    calibration = run_calibration(run)
    waveforms, _ = sample_inputs(run, manifest, encoder, MIN_SECONDS)
    return write_bundle(output, graph, describe_bundle(recipe, manifest, graph, calibration), waveforms, int8)


def sample_inputs(
    run: Path, manifest: Manifest, encoder: Encoder | None, least: float
) -> tuple[list[np.ndarray | None], list[str | None]]:
    """Return recordings of ``least`` seconds or more to compare ONNX with PyTorch on, and their texts.

    Without ``encoder`` there are texts alone. Raises ``InputError`` where there is nothing to compare on.
    """
    rows = manifest.table.sample(min(64, len(manifest)), seed=0, shuffle=True)
    texts = rows["text"].to_list()
    if encoder is None:
        return [None] * len(texts), texts
    rate = encoder.sampling_rate
    spans = rows.select("audio", "start", "end").iter_rows()
    waveforms = [read_audio(audio, start, end, sampling_rate=rate) for audio, start, end in spans]
    fit = [number for number, waveform in enumerate(waveforms) if len(waveform) >= least * rate]
    if not fit:
        raise InputError(f"{run}: no recording of {least:g} s or more to compare ONNX with PyTorch on")
    return [waveforms[number] for number in fit], [texts[number] for number in fit]


def export_fused(
    run: Path, recipe: Recipe, output: str | Path, int8: bool = False, fold: str | None = None, seed: int | None = None
) -> dict[str, float]:
    """Write the fusion head of ``fold`` and ``seed`` of a finished ``run`` as the bundle ``output``, as it was trained.

    Without them it is that of the first fold and the first seed. So what the run says of this fold's test part holds
    for the bundle, and its card tells it. Temperature and thresholds come from the dev part
    (:func:`fold_calibration`). Returns how ONNX and PyTorch agree. Raises ``InputError`` for a fold or seed that the
    run lacks, and for what a bundle cannot do.
    """
    check_exportable(run, recipe)
    manifest = load_data(recipe)
    number, chosen = choose_fold(run, list_work(recipe, manifest), fold, seed)
    recipe = recipe.of_fold(chosen.name)
    section = recipe.encoder
    encoder = encoder_spec(section).create() if recipe.encoders else None
    check_encoder(run, encoder)
    layers = () if encoder is None else section.chosen(encoder.num_layers)
    shapes = [] if encoder is None else [(len(layers), encoder.dim)]
    state = load_file(weights_file(run, chosen, number))
    head = Spoken(recipe, (), None).restore(shapes, state).heads[0]
    assert isinstance(head, FusionHead)
    graph = FusionGraph(head.eval(), encoder, layers, section.stride)
    table = read_predictions(run / "predictions.parquet").filter(fold=chosen.name, seed=number)
    card = describe_origin(recipe, manifest, fold_calibration(table)) | fused_fields(graph)
    card["details"] |= {"fold": chosen.name, "seed": number, "test": test_figures(table)}
    waveforms, texts = sample_inputs(run, manifest.select(chosen.test), encoder, card["min_seconds"])
    return write_bundle(output, graph, card, waveforms, int8, texts)


def choose_fold(run: Path, work: Sequence[tuple[int, Fold]], fold: str | None, seed: int | None) -> tuple[int, Fold]:
    """Return the seed and fold that are asked for, the first ones otherwise; raises ``InputError`` for unknown ones."""
    names = list(dict.fromkeys(each.name for _, each in work))
    seeds = list(dict.fromkeys(number for number, _ in work))
    if fold is not None and fold not in names:
        raise InputError(f"{run}: has no fold {fold!r}{nearest(fold, names)}")
    if seed is not None and seed not in seeds:
        raise InputError(f"{run}: has no seed {seed} (known: {', '.join(map(str, seeds))})")
    wanted = seeds[0] if seed is None else seed, names[0] if fold is None else fold
    return next((number, each) for number, each in work if (number, each.name) == wanted)


def fused_fields(graph: FusionGraph) -> dict[str, Any]:
    """Return the fields of the card that tell what a fused model hears and reads."""
    head, encoder = graph.head, graph.encoder
    fields: dict[str, Any] = {"average": "nothing"}
    if head.vocabulary is not None:
        fields["text"] = {**head.vocabulary.to_dict(), "max_words": head.max_words}
    if encoder is None:
        return fields | {"min_seconds": 0.0, "window_seconds": 0.0, "frame_rate": 0.0}
    rate = encoder.frame_rate / graph.stride
    window = min(longest_seconds(encoder), encoder.limit or np.inf)
    fields |= {"frame_rate": rate, "window_seconds": window, "sampling_rate": encoder.sampling_rate}
    fields["min_seconds"] = max(MIN_SECONDS, encoder.min_samples / encoder.sampling_rate)
    if head.max_frames is not None and head.max_frames / rate < window:
        fields["judged_seconds"] = head.max_frames / rate
    return fields


def test_figures(table: pl.DataFrame) -> dict[str, float]:
    """Return how many utterances of one fold were tested, and how well they were recognised."""
    rows, classes = judged_rows(table), classes_of(table)
    truth, prediction = rows["truth"].to_list(), rows["prediction"].to_list()
    return {
        "utterances": len(rows),
        "accuracy": round(accuracy(truth, prediction, classes), 4),
        "uar": round(uar(truth, prediction, classes), 4),
    }


def fold_calibration(table: pl.DataFrame) -> Calibration:
    """Return temperature and thresholds that fit the dev probabilities of one fold; without a dev part, the test's.

    The dev part chose the epoch, so the model is surer of it than of others; the test part stays untouched.
    """
    dev = table.filter(pl.col("part") == "dev")
    return table_calibration(dev.with_columns(part=pl.lit("test")) if len(dev) else table)


def export_checkpoint(source: str | Path, output: str | Path, int8: bool = False) -> dict[str, float]:
    """Turn a checkpoint of Cai et al. 2021 into the bundle ``output``; returns how ONNX and PyTorch agree on noise.

    Its probabilities are not calibrated. Raises ``InputError`` as :func:`~serkit.models.cai.load_cai` does.
    """
    model = load_cai(source)
    graph = graph_of(model)
    card = {
        "name": f"cai/{Path(source).resolve().name}",
        "classes": model.emotion.classes,
        "temperature": 1.0,
        "min_seconds": MIN_SECONDS,
        "window_seconds": WHOLE_SECONDS,
        "frame_rate": graph.encoder.frame_rate,
        "tasks": describe_tasks(graph.others),
        "details": {"encoder_fingerprint": model.encoder.fingerprint()},
    }
    return write_bundle(output, graph, card, _noises(), int8)


def export_emotion2vec(
    source: str | Path | Emotion2vecCheckpoint, output: str | Path, int8: bool = False
) -> dict[str, float]:
    """Turn a checkpoint of emotion2vec into the bundle ``output``; returns how ONNX and PyTorch agree on noise.

    Without a head the bundle gives features alone; "unused" classes are left out. Its probabilities are those of the
    checkpoint, not calibrated. Raises ``InputError`` as :func:`~serkit.models.emotion2vec.load_emotion2vec` does.
    """
    found = load_emotion2vec(source)
    encoder = found.graph.encoder
    card = {
        "name": f"emotion2vec/{Path(found.source).resolve().name}",
        "classes": found.classes,
        "tokens": found.tokens,
        "temperature": 1.0,
        "min_seconds": encoder.min_samples / SAMPLING_RATE,
        "window_seconds": EMOTION2VEC_SECONDS,
        "frame_rate": encoder.frame_rate,
        "average": "logits",
        "details": {"encoder_fingerprint": encoder.fingerprint(), "notes": list(found.notes)},
    }
    return write_bundle(output, found.graph, card, _noises(), int8)


def _noises() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, level, size).astype(np.float32) for level, size in ((0.01, 16_000), (0.1, 50_000))]


def check_exportable(run: Path, recipe: Recipe) -> None:
    """Raise ``InputError`` unless one ONNX graph can do what ``recipe`` does on the recording of a single utterance."""
    if any(section.name == GIVEN for section in recipe.encoders):
        raise InputError(f"{run}: learned from features that its manifest brings, and a bundle hears recordings")
    if recipe.labels is None:
        raise InputError(f"{run}: learned ratings alone, and a bundle recognises classes: give the recipe labels")
    if recipe.multi:
        raise InputError(f"{run}: learned several labels at once, and a bundle recognises one: leave out labels.multi")
    if recipe.features.normalise == "speaker":
        raise InputError(f"{run}: features are normalised by speaker, which a single recording does not allow")
    if recipe.streams:
        names = " and ".join(stream.name for stream in recipe.streams)
        raise InputError(f"{run}: also uses {names}, which an ONNX graph cannot compute")
    if recipe.encoder.zero_tail:
        raise InputError(f"{run}: encoder.zero_tail is for repeating experiments: train without it to export")


def check_encoder(run: Path, encoder: Encoder | None) -> None:
    """Raise ``InputError`` for an encoder that takes every recording at another rate."""
    if encoder is not None and encoder.native_rate:
        raise InputError(f"{run}: its encoder takes recordings at their own rate, bundles take one rate")


def check_windows(run: Path, recipe: Recipe, encoder: Encoder) -> None:
    """Raise ``InputError`` where ``recipe`` hears less of an utterance than a window of its bundle has."""
    section, limits = recipe.encoder, []
    if section.limit is not None and section.limit < WINDOW_SECONDS:
        limits.append(f"encoder.limit={WINDOW_SECONDS:g}")
    whole = int(WINDOW_SECONDS * encoder.frame_rate / section.stride)
    if recipe.features.max_frames is not None and recipe.features.max_frames < whole:
        limits.append(f"features.max_frames={whole}")
    if limits:
        raise InputError(f"{run}: hears less than the {WINDOW_SECONDS:g} s of a bundle: train with {' '.join(limits)}")


def with_usual_epochs(run: Path, recipe: Recipe) -> Recipe:
    """Return ``recipe`` with the epochs after which folds with a dev part were at their best, on average."""
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    best: dict[tuple[int, str], tuple[float, int]] = {}
    for line in (line for line in lines if "dev_loss" in line):
        score = recipe.training.score(line)
        if (key := (line["seed"], line["fold"])) not in best or score > best[key][0]:
            best[key] = score, line["epoch"]
    if not best or recipe.training.optimizer == "lbfgs":
        return recipe
    epochs = round(float(np.mean([epoch for _, epoch in best.values()])))
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": epochs})})


def run_calibration(run: Path) -> Calibration:
    """Return temperature (Guo et al. 2017) and thresholds that fit the run's test probabilities best."""
    return table_calibration(read_predictions(run / "predictions.parquet"))


def table_calibration(table: pl.DataFrame) -> Calibration:
    """Return temperature and thresholds that fit the test probabilities of a predictions table best."""
    rows = judged_rows(table)
    classes = classes_of(table)
    truth = np.array([classes.index(label) for label in rows["truth"]])
    return calibrate(probabilities_of(rows), truth)


def describe_bundle(recipe: Recipe, manifest: Manifest, graph: Graph, calibration: Calibration) -> dict[str, Any]:
    """Return the fields of the bundle's card."""
    tasks = describe_tasks(graph.others)
    whole = min(longest_seconds(graph.encoder), graph.encoder.limit or np.inf)
    return describe_origin(recipe, manifest, calibration) | {
        "min_seconds": MIN_SECONDS,
        "window_seconds": whole if "ctc" in tasks else WINDOW_SECONDS,
        "tasks": tasks,
        "frame_rate": graph.encoder.frame_rate,
        "sampling_rate": graph.encoder.sampling_rate,
    }


def describe_origin(recipe: Recipe, manifest: Manifest, calibration: Calibration) -> dict[str, Any]:
    """Return what a bundle's card says of where the model comes from, its classes and its calibration."""
    corpora = [
        find_corpus(name) for name in sorted(set(manifest.table["corpus"].drop_nulls())) if name in recipe.data.corpora
    ]
    return {
        "name": recipe.name,
        "classes": recipe.classes,
        "temperature": calibration.temperature,
        "thresholds": calibration.thresholds,
        "training_data": "; ".join(f"{corpus.title} ({corpus.licence}; {corpus.source})" for corpus in corpora),
        "licence": "; ".join(sorted({corpus.licence for corpus in corpora})),
        "details": {
            "encoder": recipe.encoder.model_dump(mode="json"),
            "utterances": len(manifest),
            "manifest_fingerprint": manifest.fingerprint(),
        },
    }
