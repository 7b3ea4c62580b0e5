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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import Trial

from serkit.cores import count_cores
from serkit.data.manifest import Manifest
from serkit.errors import InputError, SerkitError
from serkit.processes import distributed, end_with_parent
from serkit.progress import Step, no_steps
from serkit.training.material import load_data
from serkit.training.recipe import Recipe, change_recipe, dump_recipe
from serkit.training.run import as_trained
from serkit.training.searching.axes import Axis, create_axes, first_trials, read_values
from serkit.training.searching.outcome import write_outcome
from serkit.training.searching.space import SearchSection
from serkit.training.searching.study import (
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
from serkit.training.searching.trials import DevFold, Examiner, dev_folds


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
        return write_outcome(study, recipe, axes, folds, folder, url, storage)


def study_facts(recipe: Recipe, manifest: Manifest) -> dict[str, Any]:
    """Return what must be the same for all workers of a study; folders and the number of trials may differ."""
    section = _section(recipe)
    same = as_trained(recipe).model_copy(update={"data": recipe.data.model_copy(update={"root": ""})})
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
        return as_trained(self.recipe)

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
            try:
                self.study.optimize(self._run_trial, n_trials=1, catch=(UnusableValues,))
            except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
                # This process was silent for so long that another worker was given the trial.
                if isinstance(error, ValueError) and not str(error).startswith("Cannot tell a"):
                    raise

    def _run_trial(self, trial: Trial) -> float:
        trial.set_user_attr("worker", identity())
        if sum(other.number < trial.number for other in counted(self.study)) >= self.section.trials:
            trial.set_user_attr("surplus", True)  # several workers began the last trial at once
            raise UnusableValues
        self.study.sampler = create_sampler(self.section, trial.number)
        values = read_values(self.axes, {axis.key: axis.suggest(trial) for axis in self.axes})
        attempt = Attempt(trial, values, f"dev_{self.section.objective}", self.epochs, len(self.task.folds))
        try:
            value = self._judge(attempt)
        except KeyboardInterrupt:
            give_again(self.study, self.study.trials[trial.number])
            raise
        except optuna.TrialPruned:
            attempt.finish("pruned")
            raise
        except (SerkitError, torch.OutOfMemoryError) as error:
            if attempt.own:
                raise
            trial.set_user_attr("error", str(error))
            attempt.finish(f"failed: {error}")
            raise UnusableValues from error
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise
        attempt.finish(f"dev {self.section.objective} {value:.4f}")
        return value

    def _judge(self, attempt: Attempt) -> float:
        """Return the mean score of a trial; what was kept of it on the way is removed when it comes to an end."""
        plain = self.task.plain
        recipe = plain if attempt.own else change_recipe(plain, attempt.values)
        try:
            self.examiner.judge(recipe, attempt.name, attempt.tell)
        except (optuna.TrialPruned, SerkitError, torch.OutOfMemoryError):
            self.examiner.forget(attempt.name)
            raise
        self.examiner.forget(attempt.name)
        return attempt.value


class Attempt:
    """A trial on its way: its ``values``, and what the folds came to so far, of ``folds`` with ``epochs`` reports."""

    def __init__(self, trial: Trial, values: dict[str, Any], key: str, epochs: int, folds: int) -> None:
        self.trial, self.values, self.key, self.epochs, self.folds = trial, values, key, epochs, folds
        self.own = bool(trial.user_attrs.get("recipe"))
        self.name = f"trial-{trial.user_attrs.get('again', trial.number)}"
        self.results: list[dict[str, Any]] = []
        self.began = time.monotonic()

    @property
    def value(self) -> float:
        """The mean score."""
        return float(np.mean([result[self.key] for result in self.results]))

    def tell(self, done: float, results: list[dict[str, Any]]) -> None:
        """Report the mean over ``results``, ``done`` folds; raises ``TrialPruned`` when it falls behind."""
        self.results = list(results)
        if not math.isfinite(self.value):
            return  # of an epoch: a fold that ends so is an error
        self.trial.report(self.value, round(done * self.epochs))
        if not self.own and done < self.folds and self.trial.should_prune():
            raise optuna.TrialPruned

    def finish(self, end: str) -> None:
        """Record what the trial came to and say so."""
        seconds = time.monotonic() - self.began
        self.trial.set_user_attr("results", self.results)
        self.trial.set_user_attr("seconds", round(seconds, 3))
        shown = ", ".join(f"{key}={_short(value)}" for key, value in self.values.items())
        print(f"trial {self.trial.number}: {end}, {seconds:.0f} s: {shown}", file=sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
