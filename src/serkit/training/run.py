"""Run a recipe: every fold and seed, into a run folder that can be resumed and judged.

recipe.toml  provenance.json  history.jsonl  models/<fold>-<seed>.safetensors  predictions.parquet
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkit.data.corpora import prepare_corpus
from serkit.data.files import replace_atomically, write_json, write_text
from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold, create_folds, group_of, stamp
from serkit.encoders.cache import FeatureCache
from serkit.encoders.extract import EncoderSpec, Job, extract, list_jobs
from serkit.errors import InputError
from serkit.models.heads import Ensemble, Shape, create_head, layer_weights
from serkit.progress import Step, no_steps
from serkit.training.augment import Augmentation
from serkit.training.features import FeatureSet, StreamSet, fit_standardisation, load_stream, normalise_by_speaker
from serkit.training.fit import balance_weights, fit, predict
from serkit.training.recipe import EncoderSection, Recipe, dump_recipe


@dataclass(frozen=True)
class Material:
    """What all folds of a run share: the labelled manifest and its features, row by row."""

    manifest: Manifest
    features: FeatureSet
    fingerprint: str
    shapes: tuple[Shape, ...]

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Return the rows of utterances in ``features``."""
        return [self._row[id] for id in ids]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.features.ids)}


def load_data(recipe: Recipe) -> Manifest:
    """Return the recipe's utterances with its labels applied; raises ``InputError`` naming what is missing."""
    data = recipe.data
    if data.manifest:
        manifest = Manifest.read(data.manifest)
    elif not data.corpora:
        raise InputError(f"recipe {recipe.name}: says no data: set data.manifest, or data.corpora and data.root")
    elif not data.root:
        raise InputError(f"recipe {recipe.name}: set data.root=DIR, the folder of {' and '.join(data.corpora)}")
    else:
        manifest = Manifest.concat(prepare_corpus(name, Path(data.root) / sub) for name, sub in data.corpora.items())
    for column, value in data.where.items():
        if column not in manifest.table.columns:
            raise InputError(f"recipe {recipe.name}: data.where names {column!r}, which the manifest lacks")
        manifest = Manifest(manifest.table.filter(pl.col(column) == value))
    absent = sorted(set(data.exclude) - set(manifest.ids))
    if absent:
        raise InputError(f"recipe {recipe.name}: data.exclude names {absent[0]!r}, which the manifest lacks")
    manifest = Manifest(manifest.table.filter(~pl.col("id").is_in(data.exclude)))
    labelled = manifest.with_labels(recipe.scheme())
    if not len(labelled):
        raise InputError(f"recipe {recipe.name}: no utterance is left after data.where and labels")
    return labelled


def prepare_material(
    recipe: Recipe, manifest: Manifest, cache: Path, step: Step = no_steps, workers: int | None = None
) -> Material:
    """Encode what is not cached yet of ``manifest`` (:func:`load_data`) and its copies; load what the head needs."""
    description = Augmentation(recipe.augment.chain).description()
    copies = [list_jobs(manifest, copy, description) for copy in range(1 + recipe.augment.copies)]
    sections = (recipe.encoder, *recipe.streams)
    caches = [_encode(recipe, section, copies, cache, step, workers) for section in sections]
    streams = [_load_stream(recipe, section, copies, found) for section, found in zip(sections, caches, strict=True)]
    if recipe.features.normalise == "speaker":
        speakers = group_of(manifest, recipe.features.speaker)
        streams = [normalise_by_speaker(stream, [speakers[id] for id in manifest.ids]) for stream in streams]
    classes = recipe.labels.classes
    targets = torch.tensor([classes.index(label) for label in manifest.table["emotion"]])
    weights, ids = torch.ones(len(manifest)), tuple(manifest.ids)
    features = FeatureSet(ids, tuple(streams), targets, weights, recipe.features.max_frames)
    shapes = tuple((stream.statistics.shape[3], stream.statistics.shape[4]) for stream in streams)
    return Material(manifest, features, "+".join(found.folder.name for found in caches), shapes)


def _encode(
    recipe: Recipe, section: EncoderSection, copies: list[list[Job]], cache: Path, step: Step, workers: int | None
) -> FeatureCache:
    augmentation = Augmentation(recipe.augment.chain)
    for copy, jobs in enumerate(copies):
        what = "recordings" if copy == 0 else f"augmented copy {copy} of {len(copies) - 1}"
        told = partial(step, f"encoding {what}" + (f" ({section.name})" if recipe.streams else ""))
        frames = recipe.head.kind == "frames"
        found = extract(jobs, encoder_spec(section), cache, frames, augmentation, workers, told)
    return found


def _load_stream(recipe: Recipe, section: EncoderSection, copies: list[list[Job]], cache: FeatureCache) -> StreamSet:
    try:
        layers = section.chosen(cache.shape[0])
    except InputError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error
    keys = [[job.key for job in jobs] for jobs in copies]
    frames = recipe.head.kind == "frames"
    return load_stream(cache, keys, layers, section.stride, frames, section.zero_tail, section.scalar)


def encoder_spec(section: EncoderSection) -> EncoderSpec:
    """Return the encoder that a section of a recipe names, with its options."""
    front = {name: value for name in ("trim", "level", "limit") if (value := getattr(section, name)) is not None}
    return EncoderSpec(section.name, {**section.options, **front})


def train(
    recipe: Recipe, folder: str | Path, cache: str | Path, step: Step = no_steps, workers: int | None = None
) -> Path:
    """Run every seed and fold of ``recipe`` into ``folder``; what is finished is kept when it is called again.

    Returns the predictions table's path. Raises ``InputError`` when ``folder`` holds a run of another recipe.
    """
    folder = Path(folder)
    resolved = dump_recipe(recipe)
    recorded = folder / "recipe.toml"
    if recorded.exists() and recorded.read_text(encoding="utf-8") != resolved:
        raise InputError(f"{folder}: holds a run of another recipe or other overrides: choose another folder")
    manifest = load_data(recipe)
    work = [
        (seed, fold)
        for seed in recipe.seeds
        for fold in create_folds(manifest, recipe.protocol.name, **recipe.protocol.options(seed))
    ]
    material = prepare_material(recipe, manifest, Path(cache), step, workers)
    (folder / "models").mkdir(parents=True, exist_ok=True)
    write_text(recorded, resolved)
    write_json(folder / "provenance.json", _provenance(recipe, material, [fold for _, fold in work]))
    parts = []
    for done, (seed, fold) in enumerate(work, 1):
        parts.append(_run_fold(recipe, material, fold, seed, folder))
        step("training folds and seeds", done, len(work))
    path = folder / "predictions.parquet"
    with replace_atomically(path) as part:
        pl.concat(parts).write_parquet(part)
    lines = [line for seed, fold in work for line in _read_history(folder, fold, seed)]
    write_text(folder / "history.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return path


def fit_fold(
    recipe: Recipe, material: Material, train_ids: Sequence[str], dev_ids: Sequence[str], seed: int, folder: Path | None
) -> tuple[Ensemble, list[dict[str, Any]]]:
    """Build a head and train it on ``train_ids``, watching ``dev_ids`` when there are any."""
    train_rows = material.rows(train_ids)
    corpora = [str(name) for name in material.manifest.table["corpus"]]
    targets = material.features.targets[torch.tensor(train_rows)]
    weights = balance_weights(targets, [corpora[row] for row in train_rows], recipe.training.balance)
    train_set = material.features.take(train_rows, weights=weights)
    dev_set = material.features.take(material.rows(dev_ids), copies=1) if dev_ids else None
    torch.manual_seed(seed)
    head = _new_head(recipe, material)
    if recipe.features.normalise != "none":
        fit_standardisation(head, train_set)
    return head, fit(head, train_set, dev_set, recipe.training, seed, folder)


def _new_head(recipe: Recipe, material: Material) -> Ensemble:
    return create_head(recipe.head, material.shapes, len(recipe.labels.classes))


def _run_fold(recipe: Recipe, material: Material, fold: Fold, seed: int, folder: Path) -> pl.DataFrame:
    name = _name(fold, seed)
    weights_file, history_file = folder / "models" / f"{name}.safetensors", folder / "models" / f"{name}.json"
    if weights_file.exists() and history_file.exists():
        head = _new_head(recipe, material)
        head.load_state_dict(load_file(weights_file))
    else:
        work = folder / "checkpoints" / name
        head, history = fit_fold(recipe, material, fold.train, fold.dev, seed, work)
        history[-1]["layer_weights"] = layer_weights(head)
        write_json(history_file, [{"seed": seed, "fold": fold.name, **line} for line in history])
        with replace_atomically(weights_file) as part:
            save_file({key: value.contiguous() for key, value in head.state_dict().items()}, part)
        (work / "checkpoint.safetensors").unlink(missing_ok=True)
    tables = [_predict_part(recipe, material, head, part, getattr(fold, part), fold, seed) for part in ("dev", "test")]
    return pl.concat(tables)


def _predict_part(
    recipe: Recipe, material: Material, head: Ensemble, part: str, ids: Sequence[str], fold: Fold, seed: int
) -> pl.DataFrame:
    classes = list(recipe.labels.classes)
    scores = predict(head, material.features.take(material.rows(ids), 1)) if ids else torch.zeros(0, len(classes))
    return predictions_table(material.manifest.select(ids), scores, classes).with_columns(
        fold=pl.lit(fold.name), seed=pl.lit(seed, pl.Int64), part=pl.lit(part)
    )


def predictions_table(manifest: Manifest, scores: Tensor, classes: Sequence[str]) -> pl.DataFrame:
    """Return one row per utterance with truth, prediction and the probability of each class; ``scores (U, C)``."""
    probabilities = scores.double().softmax(1)
    best = probabilities.argmax(1).tolist() if len(scores) else []
    table = manifest.table.select("id", "speaker", "gender", "corpus", truth="emotion")
    return table.with_columns(
        pl.Series("prediction", [classes[index] for index in best], dtype=pl.String),
        *(pl.Series(f"p_{name}", probabilities[:, index].numpy()) for index, name in enumerate(classes)),
    )


def _read_history(folder: Path, fold: Fold, seed: int) -> list[dict[str, Any]]:
    return json.loads((folder / "models" / f"{_name(fold, seed)}.json").read_text(encoding="utf-8"))


def _name(fold: Fold, seed: int) -> str:
    return f"{fold.name.replace('/', '-')}-seed{seed}"


def _provenance(recipe: Recipe, material: Material, folds: list[Fold]) -> dict[str, Any]:
    packages = ("serkit", "torch", "numpy", "polars", "soundfile", "soxr")
    return {
        "recipe": recipe.name,
        "protocol": recipe.protocol.name,
        "stamp": stamp(folds),
        "normalise": recipe.features.normalise,
        "encoder": recipe.encoder.model_dump(mode="json"),
        "streams": [stream.model_dump(mode="json") for stream in recipe.streams],
        "encoder_fingerprint": material.fingerprint,
        "manifest_fingerprint": material.manifest.fingerprint(),
        "seeds": list(recipe.seeds),
        "folds": [
            {
                "name": fold.name,
                "train": len(fold.train),
                "dev": len(fold.dev),
                "test": len(fold.test),
                "shared": fold.shared,
            }
            for fold in folds[: len(folds) // len(recipe.seeds)]
        ],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "command": " ".join(["serkit", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
