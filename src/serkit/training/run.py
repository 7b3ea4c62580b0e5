"""Run a recipe: every fold and seed, into a run folder that can be resumed and judged.

recipe.toml  provenance.json  history.jsonl  models/<fold>-<seed>.safetensors  predictions.parquet
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkit.cores import count_cores
from serkit.data.files import replace_atomically, write_json, write_text
from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold, create_folds, stamp
from serkit.errors import InputError
from serkit.models.heads import Ensemble, create_head, layer_weights
from serkit.progress import Step, no_steps
from serkit.training.features import fit_standardisation
from serkit.training.fit import balance_weights, fit, predict
from serkit.training.material import Encoded, Material, encode_all, load_data, load_material
from serkit.training.recipe import Recipe, dump_recipe

Work = tuple[int, Fold]
"""A seed and a fold: what is trained at a time."""


def train(
    recipe: Recipe,
    folder: str | Path,
    cache: str | Path,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> Path:
    """Run every seed and fold of ``recipe`` into ``folder``; what is finished is kept when it is called again.

    There are ``workers`` processes (one per core when None) with one thread each, so the answer does not depend on
    their number. ``device`` is where the encoders run. Returns the predictions table's path. Raises ``InputError`` when
    ``folder`` holds a run of another recipe.
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
    encoded = encode_all(recipe, manifest, Path(cache), step, workers, device)
    material = load_material(recipe, manifest, encoded)
    (folder / "models").mkdir(parents=True, exist_ok=True)
    write_text(recorded, resolved)
    write_json(folder / "provenance.json", _provenance(recipe, material, [fold for _, fold in work]))
    pending = [(seed, fold) for seed, fold in work if not all(file.exists() for file in _files(folder, fold, seed))]
    trained = _train_folds(recipe, material, encoded, pending, folder, workers or count_cores())
    for done, _ in enumerate(trained, len(work) - len(pending) + 1):
        step("training folds and seeds", done, len(work))
    with one_thread():
        parts = [_predict_fold(recipe, material, fold, seed, folder) for seed, fold in work]
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: the same bits on any number of cores, and no waiting for a core that is busy elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_folds(
    recipe: Recipe, material: Material, encoded: list[Encoded], pending: list[Work], folder: Path, workers: int
) -> Iterator[None]:
    """Train what is pending, in processes when there are several, and yield after each."""
    if min(workers, len(pending)) < 2:
        for seed, fold in pending:
            with one_thread():
                _train_fold(recipe, material, fold, seed, folder)
            yield
        return
    context, given = multiprocessing.get_context("spawn"), (recipe, material.manifest, encoded)
    with ProcessPoolExecutor(min(workers, len(pending)), context, _start_worker, given) as pool:
        futures = [pool.submit(_run_work, seed, fold, folder) for seed, fold in pending]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(recipe: Recipe, manifest: Manifest, encoded: list[Encoded]) -> None:
    torch.set_num_threads(1)
    # The processes share the pages of the mapped caches.
    _worker.update(recipe=recipe, material=load_material(recipe, manifest, encoded))


def _run_work(seed: int, fold: Fold, folder: Path) -> None:
    _train_fold(_worker["recipe"], _worker["material"], fold, seed, folder)


def _train_fold(recipe: Recipe, material: Material, fold: Fold, seed: int, folder: Path) -> None:
    weights_file, history_file = _files(folder, fold, seed)
    work = folder / "checkpoints" / weights_file.stem
    head, history = fit_fold(recipe, material, fold.train, fold.dev, seed, work)
    history[-1]["layer_weights"] = layer_weights(head)
    write_json(history_file, [{"seed": seed, "fold": fold.name, **line} for line in history])
    with replace_atomically(weights_file) as part:
        save_file({key: value.contiguous() for key, value in head.state_dict().items()}, part)
    (work / "checkpoint.safetensors").unlink(missing_ok=True)


def _predict_fold(recipe: Recipe, material: Material, fold: Fold, seed: int, folder: Path) -> pl.DataFrame:
    head = _new_head(recipe, material)
    head.load_state_dict(load_file(_files(folder, fold, seed)[0]))
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
    return json.loads(_files(folder, fold, seed)[1].read_text(encoding="utf-8"))


def _files(folder: Path, fold: Fold, seed: int) -> tuple[Path, Path]:
    """Return where the weights and the history of a fold and seed are."""
    name = f"{fold.name.replace('/', '-')}-seed{seed}"
    return folder / "models" / f"{name}.safetensors", folder / "models" / f"{name}.json"


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
