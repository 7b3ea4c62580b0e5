"""One trial of a search: a recipe with some values changed, trained fold after fold and judged on the dev parts.

What is judged here has a training part and a dev part. Test parts are left behind by :func:`dev_folds`, and
utterances that are in no training or dev part are neither encoded nor loaded.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from serkit.data.files import write_json
from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold, create_folds
from serkit.errors import InputError, SerkitError
from serkit.progress import Step, no_report, no_steps
from serkit.training.material import Material
from serkit.training.recipe import Recipe
from serkit.training.recordings import Recordings
from serkit.training.run import set_threads
from serkit.training.searching.space import SearchSection
from serkit.training.stores import Stored, load, store


@dataclass(frozen=True)
class DevFold:
    """A fold of a protocol as a search sees it, for one ``seed``: there is no test part."""

    name: str
    seed: int
    train: tuple[str, ...]
    dev: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """All utterances that may be read."""
        return self.train + self.dev


def dev_folds(recipe: Recipe, section: SearchSection, manifest: Manifest) -> list[DevFold]:
    """Return what a trial is judged on, seed after seed; raises ``InputError`` where a fold has no dev part."""
    made = []
    for seed in section.seeds or recipe.seeds:
        folds = create_folds(manifest, recipe.protocol.name, **recipe.protocol.options(seed))
        if section.folds is not None and section.folds > len(folds):
            raise InputError(f"search.folds is {section.folds}, but protocol {recipe.protocol.name} has {len(folds)}")
        for number, fold in enumerate(folds[: section.folds]):
            if not fold.dev:
                raise InputError(
                    f"recipe {recipe.name}: fold {fold.name} has no dev part, and a search never sees test parts: "
                    "set protocol.dev=0.2"
                )
            if fold.dev_is_test:
                raise InputError(
                    f"recipe {recipe.name}: the dev part of fold {fold.name} is its test part, and a search never sees "
                    "those: set protocol.dev_by=group"
                )
            rng = np.random.default_rng([section.seed, seed, number])
            made.append(DevFold(fold.name, seed, _draw(fold, manifest, section.amount, rng), fold.dev))
    return made


def _draw(fold: Fold, manifest: Manifest, amount: float, rng: np.random.Generator) -> tuple[str, ...]:
    """Return the utterances of ``amount`` of the training speakers."""
    if amount == 1:
        return fold.train
    groups = sorted({fold.groups[id] for id in fold.train})
    chosen = {groups[place] for place in rng.permutation(len(groups))[: max(1, round(amount * len(groups)))]}
    kept = tuple(id for id in fold.train if fold.groups[id] in chosen)
    labels = dict(manifest.table.select("id", "emotion").iter_rows())
    lost = sorted({labels[id] for id in fold.train} - {labels[id] for id in kept})
    if lost:
        raise InputError(f"search.amount: {amount} of the speakers of fold {fold.name} never speak {lost[0]}: raise it")
    return kept


Tell = Callable[[float, list[dict[str, Any]]], None]
"""Called with how many folds are trained, a fraction within one, and the results of each so far."""


class Examiner:
    """Trains and judges recipes that differ in what a search changes; what they share is read once.

    ``manifest`` may hold more utterances than ``folds`` name: only these are encoded. ``folder`` holds checkpoints.
    ``cores`` encode and fine-tune; heads train on one.
    """

    def __init__(
        self,
        manifest: Manifest,
        folds: Sequence[DevFold],
        cache: Path,
        folder: Path,
        device: str = "cpu",
        cores: int = 1,
        step: Step = no_steps,
    ) -> None:
        self.folds, self.cache, self.folder = folds, cache, folder
        self.device, self.cores, self.step = device, cores, step
        wanted = {id for fold in folds for id in fold.ids}
        self.manifest = manifest.select([id for id in manifest.ids if id in wanted])
        self._stored: dict[str, Stored] = {}
        self._loaded: tuple[str, Material | Recordings] | None = None

    def prepare(self, recipe: Recipe) -> Stored:
        """Encode what ``recipe`` needs and is not in the cache yet, or decode what it fine-tunes on."""
        key = _key(recipe, recipe.encoder, *recipe.streams, recipe.augment)
        if key not in self._stored:
            self._stored[key] = store(recipe, self.manifest, self.cache, self.step, self.cores, self.device)
        return self._stored[key]

    def judge(self, recipe: Recipe, name: str, tell: Tell) -> list[dict[str, Any]]:
        """Train ``recipe`` on every fold; return for each the dev part's scores in the epoch that is kept.

        ``tell`` is called after every fold, and after every epoch of fine-tuning; what it raises ends the trial. What
        is finished is kept under ``name``: a killed trial that is judged again goes on from there. Raises
        ``SerkitError`` when the loss of a dev part is not a number.
        """
        place = self.folder / name
        finished = place / "finished.json"
        results = json.loads(finished.read_text(encoding="utf-8")) if finished.is_file() else []
        for number, fold in enumerate(self.folds):
            if number >= len(results):
                results.append(self._train(recipe, fold, place, results, tell))
                if not math.isfinite(results[-1]["dev_loss"]):
                    raise SerkitError(f"the dev loss of fold {fold.name} is not a number")
                place.mkdir(parents=True, exist_ok=True)
                write_json(finished, results)
            tell(number + 1, results[: number + 1])
        return results

    def forget(self, name: str) -> None:
        """Remove what :meth:`judge` kept."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        with suppress(OSError):  # others are unfinished, or there is none
            self.folder.rmdir()

    def _train(
        self, recipe: Recipe, fold: DevFold, place: Path, results: list[dict[str, Any]], tell: Tell
    ) -> dict[str, Any]:
        history: list[dict[str, Any]] = []
        facts = {"fold": fold.name, "seed": fold.seed}

        def report(line: dict[str, Any]) -> None:
            history.append(line)
            share = line["epoch"] / recipe.training.epochs
            if share < 1:
                tell(len(results) + share, [*results, {**facts, **kept_epoch(history, recipe)}])

        tuned = recipe.finetune is not None
        place = place / f"{fold.name.replace('/', '-')}-seed{fold.seed}"
        with set_threads(self.cores if tuned else 1):
            material = self._material(recipe, fold)
            _, lines = material.fit(fold.train, fold.dev, fold.seed, place, report if tuned else no_report)
        return {**facts, **kept_epoch(lines, recipe)}

    def _material(self, recipe: Recipe, fold: DevFold) -> Any:
        """Return features or recordings; statistics of speakers are those of the fold's own utterances."""
        stored, manifest = self.prepare(recipe), self.manifest
        key = _key(recipe, recipe.encoder, *recipe.streams, recipe.features, recipe.augment)
        if isinstance(stored, list) and recipe.features.normalise == "speaker":
            rows = {id: row for row, id in enumerate(manifest.ids)}
            stored = [encoded.take([rows[id] for id in fold.ids]) for encoded in stored]
            manifest = manifest.select(fold.ids)
            key += f"{fold.name}-{fold.seed}"
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # not two at a time in memory
            self._loaded = key, load(recipe, manifest, stored, self.device)
        return replace(self._loaded[1], recipe=recipe)


def _key(recipe: Recipe, *sections: BaseModel) -> str:
    """Return what tells apart recipes that need other features: ``sections``, and what is kept of an encoder."""
    kept = "waveforms" if recipe.finetune is not None else recipe.head.kind
    return json.dumps([kept, *(section.model_dump(mode="json") for section in sections)])


def kept_epoch(history: list[dict[str, Any]], recipe: Recipe) -> dict[str, Any]:
    """Return the number, dev loss and dev UAR of the epoch whose weights training keeps."""
    best = max(history, key=recipe.training.score)  # the first of equals
    return {name: best[name] for name in ("epoch", "dev_uar", "dev_loss")}
