"""Experiments: several recipes, their seeds and the corpora they are tested on; what is finished is not done again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from serkit.data.files import write_text
from serkit.errors import InputError, SerkitError
from serkit.processes import leads
from serkit.progress import Step, no_steps
from serkit.training.recipe import Recipe, load_variants
from serkit.training.run import holds_predictions, read_provenance, train
from serkit.training.transfer import evaluate_on, read_test


@dataclass(frozen=True)
class PlannedRun:
    """One resolved recipe and the folder of its run; ``levels`` (factor to level) tell it from others."""

    recipe: Recipe
    folder: Path
    levels: dict[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether the folder holds the predictions of just this recipe."""
        return holds_predictions(self.folder, self.recipe)

    @property
    def tests(self) -> list[str]:
        """The other corpora that its models are to be tested on: its own are tested by its folds."""
        own, tests = set(self.recipe.data.corpora), self.recipe.tests or {}
        return [name for name, section in tests.items() if not section.corpora or not set(section.corpora) <= own]

    @property
    def untested(self) -> list[str]:
        """Those of the tests that are not done, or were done with another section of the recipe."""
        tests = self.recipe.tests or {}
        return [
            name
            for name in self.tests
            if read_provenance(self.folder / "on" / name).get("section") != tests[name].model_dump(mode="json")
        ]

    @property
    def folders(self) -> list[Path]:
        """The run's folder and that of each of its tests: all that can be judged."""
        return [self.folder, *(self.folder / "on" / name for name in self.tests)]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained and not self.untested


def plan_experiment(
    name: str | Path, folder: str | Path, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> list[PlannedRun]:
    """Return the runs of an experiment, each in ``folder`` under the name of its levels; a lone recipe is ``folder``.

    ``only`` are patterns of those names, such as ``*plain``. Raises ``InputError`` when they leave none.
    """
    variants = load_variants(name, overrides)
    chosen = [each for each in variants if not only or any(fnmatch(each.name, pattern) for pattern in only)]
    if not chosen:
        raise InputError(f"--only {only[0]}: matches none of {', '.join(each.name for each in variants)}")
    return [PlannedRun(each.recipe, Path(folder) / each.name, each.levels) for each in chosen]


def run_all(
    runs: Sequence[PlannedRun],
    cache: str | Path,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> Iterator[tuple[PlannedRun, SerkitError | None]]:
    """Train and test what is not finished; yield each run with the error that stopped it, or None."""
    for run in runs:
        try:
            if not run.trained:
                train(run.recipe, run.folder, cache, step, workers, device)
            for name in run.untested if leads() else ():
                manifest, section = read_test(run.recipe, name)
                evaluate_on(run.folder, manifest, name, cache, section, step, workers, device)
        except SerkitError as error:
            yield run, error
        else:
            yield run, None


def write_runs(runs: Sequence[PlannedRun], folder: str | Path) -> Path:
    """Write ``runs.csv``: the folder of every judged run, its factors, and what it was tested on; return the file.

    It is what ``serkit anova`` takes. ``test`` names the run's own corpora where its folds test them ("folds" where
    they have no names).
    """
    factors = list(dict.fromkeys(factor for run in runs for factor in run.levels))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", *factors, "test"])
    for run in runs:
        relative = run.folder.relative_to(folder)
        for test in ("", *run.tests):
            place = relative / "on" / test if test else relative
            tested = test or "+".join(run.recipe.data.corpora) or "folds"
            table.writerow([place.as_posix(), *(run.levels.get(factor, "") for factor in factors), tested])
    path = Path(folder) / "runs.csv"
    write_text(path, text.getvalue())
    return path


def seed_range(count: int, low: int | None, high: int | None) -> list[int]:
    """Return ``count`` seeds from ``low`` on, or those that end with ``high``, or all from the one to the other.

    So machines can share an experiment's seeds. Raises ``InputError`` for a range that is empty or begins below 0.
    """
    if low is not None and high is not None:
        if high < low:
            raise InputError(f"--high-seed is {high}, which is below --low-seed, {low}")
        return list(range(low, high + 1))
    if high is not None:
        if high + 1 < count:
            raise InputError(f"--high-seed is {high}, too low for {count} seeds: give --low-seed as well")
        return list(range(high + 1 - count, high + 1))
    return list(range(low or 0, (low or 0) + count))
