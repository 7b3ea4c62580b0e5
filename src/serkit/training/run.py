"""Run a recipe: every fold and seed, into a run folder that can be resumed and judged.

recipe.toml  provenance.json  history.jsonl  models/<fold>-<seed>.safetensors  predictions.parquet
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file

from serkit.cores import count_cores
from serkit.data.files import read_object, replace_atomically, write_json, write_text
from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold, create_folds, stamp
from serkit.errors import InputError, nearest
from serkit.processes import count_processes, distributed, end_with_parent, leads, wait_for_all
from serkit.progress import Step, no_steps
from serkit.training.augment.registry import Registered, list_registered, restore_registered
from serkit.training.given import check_learned
from serkit.training.material import load_data
from serkit.training.presence import check_presence, presence_targets
from serkit.training.recipe import Recipe, dump_recipe, load_recipe
from serkit.training.stores import Materials, StoredFolds, load_folds, store_folds

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
    their number; on a GPU there is one. Fine-tuning of fewer folds than workers shares the threads out among them.
    ``device`` is where encoders run and are fine-tuned. Fine-tuning may be spread over processes by ``torchrun`` or
    ``accelerate launch``: all of them call this, one writes. Returns the predictions table's path. Raises
    ``InputError`` when ``folder`` holds a run of another recipe.
    """
    folder = Path(folder)
    step = step if leads() else no_steps
    begun = any(folder.rglob("*.safetensors"))  # nothing is lost where nothing was trained
    if begun and (folder / "recipe.toml").exists() and not holds_recipe(folder, recipe):
        raise InputError(f"{folder}: holds a run of another recipe or other overrides: choose another folder")
    manifest = load_data(recipe)
    work = list_work(recipe, manifest)
    for section in recipe.encoders:
        check_learned(manifest, section, [fold for _, fold in work])
    if recipe.multi:
        for train_ids in {fold.train for _, fold in work}:
            targets = presence_targets(manifest.select(train_ids), recipe.classes)
            check_presence(targets, recipe.classes, f"recipe {recipe.name}")
    if distributed() and recipe.finetune is None:
        raise InputError(f"recipe {recipe.name}: heads on cached features train on one process: leave out the launcher")
    pending = [each for each in work if not is_trained(folder, *each)]
    names = list(dict.fromkeys(fold.name for _, fold in work))
    stored = store_folds(recipe, manifest, names, Path(cache), step, workers, device)
    material = load_folds(recipe, manifest, stored, device)
    if leads():
        (folder / "models").mkdir(parents=True, exist_ok=True)
        write_text(folder / "recipe.toml", dump_recipe(as_trained(recipe)))
        write_json(folder / "provenance.json", _provenance(material, [fold for _, fold in work]))
    trained = _train_folds(material, stored, pending, folder, 1 if device == "cuda" else workers or count_cores())
    for done, _ in enumerate(trained, len(work) - len(pending) + 1):
        step("training folds and seeds", done, len(work))
    wait_for_all(device)
    with set_threads(1):
        parts = [_predict_fold(material, fold, seed, folder) for seed, fold in work]
    path = folder / "predictions.parquet"
    if leads():
        with replace_atomically(path) as part:
            pl.concat(parts, how="diagonal_relaxed").write_parquet(part)
        lines = [line for seed, fold in work for line in _read_history(folder, fold, seed)]
        write_text(folder / "history.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    wait_for_all(device)
    return path


def list_work(recipe: Recipe, manifest: Manifest) -> list[Work]:
    """Return every seed and fold of ``recipe``; raises ``InputError`` when ``protocol.only`` names no fold."""
    section = recipe.protocol
    work = [
        (seed, fold) for seed in recipe.seeds for fold in create_folds(manifest, section.name, **section.options(seed))
    ]
    if section.only is None:
        return work
    names = {fold.name for _, fold in work}
    for name in section.only:
        if name not in names:
            raise InputError(f"recipe {recipe.name}: protocol.only names {name!r}{nearest(name, sorted(names))}")
    return [(seed, fold) for seed, fold in work if fold.name in section.only]


def is_trained(folder: Path, seed: int, fold: Fold) -> bool:
    """Whether a run folder holds the model of a seed and fold."""
    return all(file.exists() for file in _files(folder, fold, seed))


def as_trained(recipe: Recipe) -> Recipe:
    """Return ``recipe`` without what does not change the models: later tests on other corpora, and searches."""
    return recipe.model_copy(update={"tests": None, "search": None})


def holds_recipe(folder: Path, recipe: Recipe) -> bool:
    """Whether a run folder was made by ``recipe``, of any of its folds.

    Options that did not exist then have their defaults.
    """
    recorded = _recorded(folder)
    return recorded is not None and _of_all_folds(recorded) == _of_all_folds(recipe)


def holds_predictions(folder: Path, recipe: Recipe) -> bool:
    """Whether a run folder holds the predictions of ``recipe``, of just its folds."""
    recorded = _recorded(folder)
    same = recorded is not None and as_trained(recorded) == as_trained(recipe)
    return same and (folder / "predictions.parquet").is_file()


def _recorded(folder: Path) -> Recipe | None:
    """Return the recipe that a run folder was made by, None where none can be read."""
    file = folder / "recipe.toml"
    try:
        return load_recipe(file) if file.is_file() else None
    except InputError:
        return None


def _of_all_folds(recipe: Recipe) -> Recipe:
    protocol = recipe.protocol.model_copy(update={"only": None})
    return as_trained(recipe).model_copy(update={"protocol": protocol})


@contextmanager
def set_threads(count: int) -> Iterator[None]:
    """Compute in ``count`` threads; with 1, the same bits on any number of cores and no waiting for a busy one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_folds(
    material: Materials, stored: StoredFolds, pending: list[Work], folder: Path, workers: int
) -> Iterator[None]:
    """Train what is pending, in processes when there are several, and yield after each."""
    processes = 1 if distributed() else min(workers, len(pending))
    # A fold of fine-tuning takes long enough to be given the cores that no other fold needs.
    threads = 1 if distributed() or material.recipe.finetune is None else max(1, workers // max(1, processes))
    if processes < 2:
        for seed, fold in pending:
            with set_threads(threads):
                _train_fold(material, fold, seed, folder)
            yield
        return
    context = multiprocessing.get_context("spawn")
    given = (material.recipe, material.manifest, stored, threads, list_registered())
    with ProcessPoolExecutor(processes, context, _start_worker, given) as pool:
        futures = [pool.submit(_run_work, seed, fold, folder) for seed, fold in pending]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


_worker: dict[str, Materials] = {}


def _start_worker(
    recipe: Recipe, manifest: Manifest, stored: StoredFolds, threads: int, registered: dict[str, Registered]
) -> None:
    end_with_parent()
    restore_registered(registered)
    torch.set_num_threads(threads)
    # The processes share the pages of the mapped caches.
    _worker["material"] = load_folds(recipe, manifest, stored)


def _run_work(seed: int, fold: Fold, folder: Path) -> None:
    _train_fold(_worker["material"], fold, seed, folder)


def _train_fold(material: Any, fold: Fold, seed: int, folder: Path) -> None:
    weights_file, history_file = _files(folder, fold, seed)
    work = folder / "checkpoints" / weights_file.stem
    material = material.of_fold(fold.name)
    model, history = material.fit(fold.train, fold.dev, seed, work)
    if not leads():
        return
    history[-1]["layer_weights"] = material.layer_weights(model)
    write_json(history_file, [{"seed": seed, "fold": fold.name, **line} for line in history])
    with replace_atomically(weights_file) as part:
        save_file({key: value.contiguous() for key, value in material.state(model).items()}, part)
    (work / "checkpoint.safetensors").unlink(missing_ok=True)


def _predict_fold(material: Any, fold: Fold, seed: int, folder: Path) -> pl.DataFrame:
    material = material.of_fold(fold.name)
    model = material.restore(fold.train, load_file(_files(folder, fold, seed)[0]))
    tables = [
        predictions_table(material.manifest.select(ids), material.columns(model, ids)).with_columns(
            fold=pl.lit(fold.name), seed=pl.lit(seed, pl.Int64), part=pl.lit(part)
        )
        for part, ids in (("dev", fold.dev), ("test", fold.test))
        if ids
    ]
    return pl.concat(tables, how="diagonal_relaxed")  # a column may be null in one part


def predictions_table(manifest: Manifest, columns: dict[str, list[Any]]) -> pl.DataFrame:
    """Return one row per utterance: who speaks, the truth, and the ``columns`` that a model gives.

    Those of several labels at once bring their own truths.
    """
    several = any(name.endswith("_chance") for name in columns)
    truth = {} if several else {"truth": "emotion"}
    table = manifest.table.select("id", "speaker", "gender", "corpus", **truth)
    return table.with_columns(pl.Series(name, values) for name, values in columns.items())


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return what ``provenance.json`` of a run says; empty where there is none."""
    return read_object(folder / "provenance.json")


def _read_history(folder: Path, fold: Fold, seed: int) -> list[dict[str, Any]]:
    return json.loads(_files(folder, fold, seed)[1].read_text(encoding="utf-8"))


def weights_file(folder: Path, fold: Fold, seed: int) -> Path:
    """Return where a run keeps the weights of a fold and seed."""
    return _files(folder, fold, seed)[0]


def _files(folder: Path, fold: Fold, seed: int) -> tuple[Path, Path]:
    """Return where the weights and the history of a fold and seed are."""
    name = f"{fold.name.replace('/', '-')}-seed{seed}"
    return folder / "models" / f"{name}.safetensors", folder / "models" / f"{name}.json"


def _tell_fusion(recipe: Recipe) -> dict[str, Any]:
    """Return what a fusion head hears and reads; without audio there is no encoder."""
    assert recipe.fusion is not None
    told: dict[str, Any] = {"fusion": recipe.fusion.model_dump(mode="json")}
    told |= {"text": recipe.text.model_dump(mode="json")} if recipe.fusion.reads else {}
    return told if recipe.fusion.hears else {**told, "encoder": None}


def _provenance(material: Materials, folds: list[Fold]) -> dict[str, Any]:
    recipe = material.recipe
    packages = ("serkit", "torch", "numpy", "polars", "soundfile", "soxr")
    return {
        "recipe": recipe.name,
        "protocol": recipe.protocol.name,
        "stamp": stamp(folds),
        "normalise": recipe.features.normalise,
        "encoder": recipe.encoder.model_dump(mode="json"),
        "streams": [stream.model_dump(mode="json") for stream in recipe.streams],
        **({} if recipe.fusion is None else _tell_fusion(recipe)),
        "encoder_fingerprint": material.fingerprint,
        "corpora": sorted({str(name) for name in material.manifest.table["corpus"]}),
        "manifest_fingerprint": material.manifest.fingerprint(),
        "seeds": list(recipe.seeds),
        "processes": count_processes(),
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
