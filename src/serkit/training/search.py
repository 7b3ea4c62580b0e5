"""Search for better values of a recipe's keys: trials on the dev parts, by several workers, resumable.

study.db  trials.csv  best.toml  search.json
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import Trial

from serkit.cores import count_cores
from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.processes import distributed, end_with_parent
from serkit.progress import Step, no_steps
from serkit.training.axes import Axis, create_axes, first_trials
from serkit.training.material import load_data
from serkit.training.outcome import write_outcome
from serkit.training.recipe import Recipe, change_recipe, dump_recipe
from serkit.training.space import SearchSection
from serkit.training.study import (
    counted,
    create_pruner,
    create_sampler,
    fail_left,
    give_again,
    identity,
    open_storage,
    open_study,
    readable_errors,
    storage_url,
    wants_more,
)
from serkit.training.trials import DevFold, Examiner, dev_folds


class UnusableValues(Exception):
    """Values of a trial that do not go together: the trial fails, and the search goes on."""


def search(
    recipe: Recipe,
    folder: str | Path,
    cache: str | Path,
    storage: str = "",
    step: Step = no_steps,
    workers: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Try what the recipe's ``search`` says and write ``folder``; return what ``search.json`` holds.

    ``storage`` is the address of a database that workers on several machines can reach, otherwise a file in ``folder``
    is the study. Called again, or elsewhere at the same time, it joins the study of that recipe: finished trials are
    kept, trials whose worker was killed are begun again, and ``search.trials`` is the number of all. One worker draws
    the same values every time, interrupted or not. Raises ``InputError`` where folds have no dev part.
    """
    folder = Path(folder)
    axes, section = create_axes(recipe), _section(recipe)
    first = first_trials(axes, section.sampler, section.trials)
    if distributed():
        raise InputError("search: workers are started by --workers, or one by one: leave out the launcher")
    url = storage_url(storage, folder)
    manifest = load_data(recipe)
    folds = dev_folds(recipe, section, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = Task(recipe, manifest, tuple(folds), Path(cache), folder, url, device, max(1, count_cores() // workers))
    until = math.inf if section.seconds is None else time.time() + section.seconds
    with readable_errors(url):
        study, _ = open_study(url, recipe.name, section, study_facts(recipe, manifest), first)
        if wants_more(study, section.trials):
            examiner = task.create_examiner(count_cores(), step)
            examiner.prepare(task.plain)
            _run(task, examiner, workers, until)
        return write_outcome(study, recipe, axes, manifest, folds, folder, url, storage)


def study_facts(recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Return what must be the same for all workers of a study; folders and the number of trials may differ."""
    section = _section(recipe)
    same = recipe.model_copy(update={"search": None, "data": recipe.data.model_copy(update={"root": ""})})
    return {
        "recipe": hashlib.blake2b(dump_recipe(same).encode(), digest_size=8).hexdigest(),
        "data": manifest.fingerprint(),
        "search": section.model_dump(mode="json", exclude={"trials", "seconds"}),
    }


def _section(recipe: Recipe) -> SearchSection:
    assert recipe.search is not None
    return recipe.search


@dataclass(frozen=True)
class Task:
    """What every worker of this call is given."""

    recipe: Recipe
    manifest: Manifest
    folds: tuple[DevFold, ...]
    cache: Path
    folder: Path
    url: str = field(repr=False)
    device: str
    cores: int

    @property
    def plain(self) -> Recipe:
        """The recipe itself, of which trials change values."""
        return self.recipe.model_copy(update={"search": None})

    def create_examiner(self, cores: int, step: Step = no_steps) -> Examiner:
        """Return what judges trials."""
        return Examiner(self.manifest, self.folds, self.cache, self.folder / "unfinished", self.device, cores, step)


def _run(task: Task, examiner: Examiner, workers: int, until: float) -> None:
    if workers == 1:
        Worker(task, examiner).work(until)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        futures = [pool.submit(_work, task, until) for _ in range(workers)]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _work(task: Task, until: float) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with readable_errors(task.url):
        Worker(task, task.create_examiner(task.cores)).work(until)


class Worker:
    """Takes one trial after the other from the study."""

    def __init__(self, task: Task, examiner: Examiner) -> None:
        self.task, self.examiner, self.section = task, examiner, _section(task.recipe)
        self.axes: list[Axis] = create_axes(task.recipe)
        self.epochs = task.plain.training.epochs if task.plain.finetune is not None else 1
        pruner = create_pruner(self.section, self.epochs * len(task.folds))
        storage = open_storage(task.url)
        self.study = optuna.load_study(study_name=task.recipe.name, storage=storage, pruner=pruner)

    def work(self, until: float) -> None:
        """Run trials till there are enough, none beginning after ``until``."""
        while time.time() < until:
            fail_left(self.study)
            if not wants_more(self.study, self.section.trials):
                break
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # silent for so long that others took the trial
                self.study.optimize(self._run_trial, n_trials=1, catch=(UnusableValues,))

    def _run_trial(self, trial: Trial) -> float:
        trial.set_user_attr("worker", identity())
        if sum(other.number < trial.number for other in counted(self.study)) >= self.section.trials:
            trial.set_user_attr("surplus", True)  # several workers began the last trial at once
            raise UnusableValues
        self.study.sampler = create_sampler(self.section, trial.number)
        values = {axis.key: axis.suggest(trial) for axis in self.axes}
        name = f"trial-{trial.user_attrs.get('again', trial.number)}"
        began = time.monotonic()
        own = bool(trial.user_attrs.get("recipe"))
        try:
            recipe = self.task.plain if own else change_recipe(self.task.plain, values)
            results = self.examiner.judge(recipe, name, partial(self._tell, trial, own))
            value = self._value(results)
            if not math.isfinite(value):
                raise UnusableValues(f"the dev {self.section.objective} is not a number")
        except KeyboardInterrupt:
            give_again(self.study, self.study.trials[trial.number])
            raise
        except optuna.TrialPruned:
            self._finish(trial, name, began, values, "pruned")
            raise
        except (InputError, UnusableValues, torch.OutOfMemoryError) as error:
            if own:
                raise
            trial.set_user_attr("error", str(error))
            self._finish(trial, name, began, values, f"failed: {error}")
            raise UnusableValues from error
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise
        self._finish(trial, name, began, values, f"dev {self.section.objective} {value:.4f}")
        return value

    def _value(self, results: list[dict[str, Any]]) -> float:
        return float(np.mean([result[f"dev_{self.section.objective}"] for result in results]))

    def _tell(self, trial: Trial, own: bool, done: float, results: list[dict[str, Any]]) -> None:
        """Record what a trial has come to, and end it when it is behind."""
        trial.set_user_attr("results", results)
        value, step = self._value(results), round(done * self.epochs)
        if not math.isfinite(value):
            return
        trial.report(value, step)
        if not own and done < len(self.task.folds) and trial.should_prune():
            raise optuna.TrialPruned

    def _finish(self, trial: Trial, name: str, began: float, values: dict[str, Any], end: str) -> None:
        seconds = time.monotonic() - began
        trial.set_user_attr("seconds", round(seconds, 3))
        self.examiner.forget(name)
        shown = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
        print(f"trial {trial.number}: {end}, {seconds:.0f} s: {shown}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
