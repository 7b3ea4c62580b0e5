"""From a run to a bundle: one ONNX graph that takes waveforms, checked against PyTorch before it is written."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from serkit.data.audio import SAMPLING_RATE, read_audio
from serkit.data.corpora import find_corpus
from serkit.data.files import write_json
from serkit.data.manifest import Manifest
from serkit.encoders.base import Encoder
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint
from serkit.errors import InputError, SerkitError
from serkit.evaluation.calibration import fit_temperature
from serkit.evaluation.predictions import classes_of, judged_rows, probabilities_of, read_predictions
from serkit.inference.bundle import Bundle, Card
from serkit.models.cai import load_cai
from serkit.models.emotion2vec import load_emotion2vec
from serkit.models.graph import TASK_OUTPUTS, BundleGraph, Graph, describe_tasks, graph_of
from serkit.progress import Step, no_steps
from serkit.training.material import encoder_spec, load_data
from serkit.training.recipe import Recipe, load_recipe
from serkit.training.stores import load, store

MIN_SECONDS, WINDOW_SECONDS = 0.25, 15.0
LONGEST_TEXT = 10_000
"""The most words that a graph can be given; how many of them count is another matter."""
WHOLE_SECONDS = 40.0
"""The window of bundles that write text, which is longer than any utterance of IEMOCAP: a cut may divide a word."""
EMOTION2VEC_SECONDS = 30.0
"""The window of emotion2vec's bundles: longer than nearly all utterances; its attention grows with the square."""
TOLERANCE = {False: 1e-4, True: 0.15}
"""Largest difference of a probability from PyTorch's that an export accepts, by whether it is int8."""


def export_run(
    run: str | Path, output: str | Path, cache: str | Path, step: Step = no_steps, int8: bool = False
) -> dict[str, float]:
    """Train the recipe of a finished ``run`` on all its speakers and write the bundle ``output``.

    The temperature comes from the run's test predictions: every one was made by a model that had not seen the speaker.
    It trains as long as the run's folds did on average when they stopped at their best. Returns how ONNX and PyTorch
    agree. Raises ``InputError`` when the run is unfinished or not to be exported (:func:`check_exportable`).
    """
    run = Path(run)
    if not (run / "predictions.parquet").is_file():
        raise InputError(f"{run}: is not a finished run (no predictions.parquet): finish it with serkit train")
    recipe = load_recipe(run / "recipe.toml")
    encoder = encoder_spec(recipe.encoder).create()
    check_exportable(run, recipe, encoder)
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
    temperature = run_temperature(run)
    rows = manifest.table.sample(min(64, len(manifest)), seed=0, shuffle=True)
    waveforms = [read_audio(*row) for row in rows.select("audio", "start", "end").iter_rows()]
    long_enough = [waveform for waveform in waveforms if len(waveform) >= MIN_SECONDS * SAMPLING_RATE]
    if not long_enough:
        raise InputError(f"{run}: no recording of {MIN_SECONDS} s or more to compare ONNX with PyTorch on")
    return write_bundle(output, graph, describe_bundle(recipe, manifest, graph, temperature), long_enough, int8)


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


def check_exportable(run: Path, recipe: Recipe, encoder: Encoder) -> None:
    """Raise ``InputError`` unless one ONNX graph can do what ``recipe`` does, on windows of a single recording."""
    section, limits = recipe.encoder, []
    if recipe.labels is None:
        raise InputError(f"{run}: learned ratings alone, and a bundle recognises classes: give the recipe labels")
    if recipe.multi:
        raise InputError(f"{run}: learned several labels at once, and a bundle recognises one: leave out labels.multi")
    if recipe.features.normalise == "speaker":
        raise InputError(f"{run}: features are normalised by speaker, which a single recording does not allow")
    if recipe.streams:
        names = " and ".join(stream.name for stream in recipe.streams)
        raise InputError(f"{run}: also uses {names}, which an ONNX graph cannot compute")
    if encoder.native_rate:
        raise InputError(f"{run}: its encoder takes recordings at their own rate, bundles take 16 kHz")
    if section.zero_tail:
        raise InputError(f"{run}: encoder.zero_tail is for repeating experiments: train without it to export")
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


def run_temperature(run: Path) -> float:
    """Return the temperature that makes the run's test probabilities most likely (Guo et al. 2017)."""
    table = read_predictions(run / "predictions.parquet")
    rows = judged_rows(table)
    classes = classes_of(table)
    truth = np.array([classes.index(label) for label in rows["truth"]])
    return float(fit_temperature(np.log(np.clip(probabilities_of(rows), 1e-12, 1)), truth))


def describe_bundle(recipe: Recipe, manifest: Manifest, graph: Graph, temperature: float) -> dict[str, Any]:
    """Return the fields of the bundle's card."""
    corpora = [
        find_corpus(name) for name in sorted(set(manifest.table["corpus"].drop_nulls())) if name in recipe.data.corpora
    ]
    tasks = describe_tasks(graph.others)
    return {
        "name": recipe.name,
        "classes": recipe.classes,
        "temperature": temperature,
        "min_seconds": MIN_SECONDS,
        "window_seconds": min(longest_seconds(graph.encoder), graph.encoder.limit or np.inf)
        if "ctc" in tasks
        else WINDOW_SECONDS,
        "tasks": tasks,
        "frame_rate": graph.encoder.frame_rate,
        "training_data": "; ".join(f"{corpus.title} ({corpus.licence}; {corpus.source})" for corpus in corpora),
        "licence": "; ".join(sorted({corpus.licence for corpus in corpora})),
        "details": {
            "encoder": recipe.encoder.model_dump(mode="json"),
            "utterances": len(manifest),
            "manifest_fingerprint": manifest.fingerprint(),
        },
    }


def longest_seconds(encoder: Encoder) -> float:
    """Return the longest window that a bundle with ``encoder`` may have."""
    return min(WHOLE_SECONDS, (encoder.max_samples or np.inf) / encoder.sampling_rate)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks about themselves; what they raise still comes through."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@_quiet()
def export_graph(graph: BundleGraph, path: Path) -> None:
    """Write ``graph`` as float32 ONNX with batch, time and words dynamic."""
    graph.eval()
    example, shapes = example_of(graph)
    program = torch.onnx.export(
        graph,
        kwargs=example,
        input_names=list(example),
        output_names=graph.outputs,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    given = {id(value) for value in program.model.graph.outputs}
    for value in (value for node in program.model.graph for value in node.outputs):
        if value.name in graph.outputs and id(value) not in given:
            value.name += "_inside"  # the exporter calls what comes of an Embedding "embedding" as well
    program.save(str(path), external_data=False)


def example_of(graph: BundleGraph) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, Any]]]:
    """Return inputs by name to trace ``graph`` with, and which of their axes are dynamic."""
    batch = torch.export.Dim("batch", min=1, max=64)
    example, shapes = {}, {}
    if graph.encoder is not None:
        rate = graph.encoder.sampling_rate
        longest = round(longest_seconds(graph.encoder) * rate)
        example = {"waveforms": torch.randn(2, 2 * rate) * 0.1, "lengths": torch.tensor([2 * rate, 3 * rate // 2])}
        samples = torch.export.Dim("samples", min=rate // 10, max=longest)
        shapes = {"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}}
    if "words" in graph.inputs:
        example["words"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        shapes["words"] = {0: batch, 1: torch.export.Dim("count", min=1, max=LONGEST_TEXT)}
    return example, shapes


@_quiet()
def quantise(source: Path, path: Path) -> None:
    """Turn the encoder's matrix products into int8 with dynamic activations, per channel; all else stays float32."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    model.graph.ClearField("value_info")  # shapes noted by the exporter contradict onnx's own inference
    weights = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:  # the quantiser transposes a Gemm's weight in place, so each needs its own copy
        if node.op_type == "Gemm" and node.input[1] in weights:
            copy = model.graph.initializer.add()
            copy.CopyFrom(weights[node.input[1]])
            copy.name = node.input[1] = f"{node.name}.weight"
            weights[copy.name] = copy
    large = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and any(name in weights and np.prod(weights[name].dims) >= 256 * 256 for name in node.input)
    ]
    quantize_dynamic(
        model, path, nodes_to_quantize=large, per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )  # fmt: skip


def write_bundle(
    folder: str | Path, graph: BundleGraph, card: dict[str, Any], waveforms: Sequence[np.ndarray], int8: bool = False
) -> dict[str, float]:
    """Export ``graph`` and its ``card`` to ``folder``, after ONNX and PyTorch agree on ``waveforms``.

    Returns the largest difference of a probability and the share of equal labels. Raises ``SerkitError``, leaving
    ``folder`` as it was, when the difference exceeds :data:`TOLERANCE`.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        work = Path(name)
        export_graph(graph, work / "float.onnx")
        if int8:
            quantise(work / "float.onnx", work / "model.onnx")
        else:
            (work / "float.onnx").rename(work / "model.onnx")
        packages = ("serkit", "torch", "onnx", "onnxruntime")
        facts = {**card, "versions": {package: version(package) for package in packages}}
        facts["details"] = {**card.get("details", {}), "precision": "int8" if int8 else "float32"}
        write_json(work / "serkit.json", Card(**facts).dump())
        agreement = compare(Bundle(work), graph, waveforms)
        if not agreement["max_probability_difference"] <= TOLERANCE[int8]:  # NaN must not pass
            difference = agreement["max_probability_difference"]
            raise SerkitError(f"{folder}: not written: probabilities of ONNX and PyTorch differ by {difference:.2g}")
        folder.mkdir(exist_ok=True)
        for file in ("model.onnx", "serkit.json"):
            shutil.move(work / file, folder / file)
    return agreement


@torch.no_grad()
def compare(bundle: Bundle, graph: BundleGraph, waveforms: Sequence[np.ndarray]) -> dict[str, float]:
    """Return how a bundle's probabilities differ from PyTorch's on ``waveforms``, and the share of equal labels.

    The difference is that of any task, the share that of emotion. Of a bundle without classes it is that of the
    embedding, in parts of its largest number.
    """
    differences, equal = [], 0
    for waveform in waveforms:
        outputs = bundle.run(waveform)
        found = graph(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        named = dict(zip(graph.outputs, found, strict=True))
        if not bundle.card.classes:
            embedding = named["embedding"][0].numpy()
            differences.append(np.abs(outputs.embedding - embedding).max() / np.abs(embedding).max())
            continue
        ours = outputs.probabilities
        theirs = (named["logits"][0].double() / bundle.card.temperature).softmax(0).numpy()
        differences.append(np.abs(ours - theirs).max())
        equal += int(ours.argmax() == theirs.argmax())
        for name, values in outputs.others.items():
            wanted = named[TASK_OUTPUTS.get(name, f"{name}_logits")][0].double()
            wanted = wanted if name in TASK_OUTPUTS else wanted.softmax(-1)
            differences.append(np.abs(values - wanted.numpy()[: len(values)]).max())
    share = equal / len(waveforms) if bundle.card.classes else 1.0
    return {"max_probability_difference": float(np.max(differences)), "equal_labels": share}
