"""Published checkpoints of Cai et al. 2021 (https://doi.org/10.21437/Interspeech.2021-1852) judged on their folds.

Nothing is trained: each checkpoint recognises the test part of the fold that it is named after.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch

from serkit.data.files import replace_atomically, write_json
from serkit.data.folds import Fold, stamp
from serkit.data.labels import LabelScheme
from serkit.data.manifest import Manifest
from serkit.data.protocols import create_folds, group_of
from serkit.data.published import IEMOCAP_TEN, PUBLISHED
from serkit.errors import InputError
from serkit.models.cai import CLASSES, load_cai
from serkit.models.model import Model
from serkit.progress import Step, no_steps
from serkit.training.finetune import create_accelerator, predict
from serkit.training.material import load_data
from serkit.training.recipe import load_recipe
from serkit.training.run import predictions_table, set_threads
from serkit.training.tuning import FinetuneOptions
from serkit.training.waveforms import WaveformSet, store_waveforms

RECIPE = "cai/base-alpha0.1"
"""Says what the labels are and how IEMOCAP is split."""


@dataclass(frozen=True)
class FoldResult:
    """What a checkpoint gets right in the test part of a fold."""

    fold: str
    correct: int
    total: int


def find_checkpoints(folder: str | Path) -> dict[str, Path]:
    """Return the checkpoints below ``folder`` by fold: sub-folders 01F, 01M, ..., 05M, any of them."""
    found = {fold: Path(folder) / fold for fold in IEMOCAP_TEN if (Path(folder) / fold).is_dir()}
    if not found:
        raise InputError(f"{folder}: holds no checkpoint: they are folders named {', '.join(IEMOCAP_TEN)}")
    return found


def load_folds(names: Sequence[str], root: str | Path, lists: str | Path | None = None) -> dict[str, tuple]:
    """Return a manifest and a :class:`~serkit.data.folds.Fold` (None: no training list) for each fold of ``names``.

    They come from IEMOCAP in ``root``, or from ``iemocap_<fold>.test.csv`` (and ``.train.csv``, which only tells whose
    voices were trained on) in ``lists``, with the recordings anywhere below ``root``.
    """
    if lists is None:
        recipe = load_recipe(RECIPE, [f"data.root={root}"])
        manifest = load_data(recipe)
        folds = {fold.name: fold for fold in create_folds(manifest, recipe.protocol.name, dev=0)}
        return {name: (manifest.select(folds[name].test), folds[name]) for name in names}
    return {name: _read_lists(name, Path(lists), root) for name in names}


def _read_lists(name: str, lists: Path, root: str | Path) -> tuple[Manifest, Fold | None]:
    scheme = LabelScheme("cai", CLASSES, {"excited": "happy"})
    test = Manifest.read(lists / f"iemocap_{name}.test.csv", root).with_labels(scheme)
    path = lists / f"iemocap_{name}.train.csv"
    if not path.is_file():
        return test, None
    train = Manifest.read(path).with_labels(scheme)  # its recordings are not heard
    groups = group_of(Manifest.concat([test, train]), "speaker")
    shared = PUBLISHED["recording10"].shared
    return test, Fold(name, tuple(train.ids), (), tuple(test.ids), groups, declares_shared=True, note=shared)


def judge_checkpoints(
    checkpoints: str | Path,
    root: str | Path,
    output: str | Path,
    cache: str | Path,
    lists: str | Path | None = None,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> Iterator[FoldResult]:
    """Recognise every fold's test part with its checkpoint and yield what is right.

    Afterwards ``output`` is a run folder: ``predictions.parquet`` and ``provenance.json``. Raises ``InputError`` for a
    checkpoint that does not fit, for recordings that are missing, and where ``output`` holds a run of a recipe.
    """
    folder = Path(output)
    if (folder / "recipe.toml").exists():
        raise InputError(f"{folder}: holds a run of a recipe: choose another folder")
    found = find_checkpoints(checkpoints)
    parts = load_folds(list(found), root, lists)
    tables, prints = [], {}
    for name, source in found.items():
        manifest, _ = parts[name]
        model = load_cai(source)
        prints[name] = model.encoder.fingerprint()
        with set_threads(1):
            columns = recognise(model, manifest, Path(cache), step, workers, device)
        table = predictions_table(manifest, columns).with_columns(
            fold=pl.lit(name), seed=pl.lit(0, pl.Int64), part=pl.lit("test")
        )
        tables.append(table)
        yield FoldResult(name, int((table["truth"] == table["prediction"]).sum()), table.height)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder / "predictions.parquet") as part:
        pl.concat(tables, how="diagonal").write_parquet(part)
    folds = {name: fold for name, (_, fold) in parts.items()}
    write_json(folder / "provenance.json", _provenance(checkpoints, folds, tables, prints))


def recognise(
    model: Model,
    manifest: Manifest,
    cache: Path,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> dict[str, list[Any]]:
    """Return what ``model`` says of every utterance of ``manifest``, as columns of the predictions table."""
    accelerator = create_accelerator(device)
    store = store_waveforms(manifest, model.encoder, cache, step, workers)
    targets = {task.name: task.targets(manifest) for task in model.each()}
    rows = tuple(range(len(manifest)))
    examples = WaveformSet(tuple(manifest.ids), store, rows, targets, torch.ones(len(rows)))
    return predict(model.to(accelerator.device), examples, FinetuneOptions(), accelerator)[0]


def _provenance(
    checkpoints: str | Path, folds: dict[str, Fold | None], tables: Sequence[pl.DataFrame], prints: dict[str, str]
) -> dict[str, Any]:
    known = [fold for fold in folds.values() if fold is not None]
    return {
        "recipe": "cai/checkpoints",
        "protocol": "recording10",
        "stamp": stamp(known) if len(known) == len(folds) else "speakers unknown (no training list)",
        "checkpoints": str(checkpoints),
        "encoder_fingerprints": prints,
        "seeds": [0],
        "folds": [
            {"name": name, "train": len(fold.train) if fold else None, "test": table.height}
            for (name, fold), table in zip(folds.items(), tables, strict=True)
        ],
        "versions": {name: version(name) for name in ("serkit", "torch", "numpy", "polars")},
        "command": " ".join(["serkit", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
