"""What a search came to, as files: all trials, the best recipe, and how it was found."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
from optuna.trial import FrozenTrial, TrialState

from serkit.data.files import replace_atomically, write_json, write_text
from serkit.training.recipe import Recipe, change_recipe, dump_recipe
from serkit.training.searching.axes import Axis, read_values
from serkit.training.searching.study import study_trials, was_left, without_password
from serkit.training.searching.trials import DevFold


def write_outcome(
    study: optuna.Study,
    recipe: Recipe,
    axes: Sequence[Axis],
    folds: Sequence[DevFold],
    folder: Path,
    url: str,
    given: str,
) -> dict[str, Any]:
    """Write trials.csv, best.toml and search.json into ``folder``; return what the last one holds.

    ``url`` is the storage, as it was ``given`` on the command line: no password is written.
    """
    assert recipe.search is not None
    trials = study_trials(study)
    with replace_atomically(folder / "trials.csv") as part:
        trials_table(trials, axes, len(folds)).write_csv(part)
    key = f"dev_{recipe.search.objective}"
    best, own = best_trial(study, trials), _own_trial(trials)
    facts: dict[str, Any] = {
        "recipe": recipe.name,
        "fingerprints": {key: study.user_attrs["facts"][key] for key in ("recipe", "data")},
        "search": recipe.search.model_dump(mode="json", exclude={"space"}),
        "objective": key,
        "protocol": {"name": recipe.protocol.name, **recipe.protocol.options(0)},
        "folds": [{"name": it.name, "seed": it.seed, "train": len(it.train), "dev": len(it.dev)} for it in folds],
        "space": {axis.key: axis.dimension.model_dump(mode="json", exclude_none=True) for axis in axes},
        "trials": dict(sorted(Counter(_state(trial) for trial in trials).items())),
        "best": _describe(best, axes),
        "own": _describe(own, axes),
        **_compare(best, own, key),
        "importance": importance(study),
        "storage": without_password(url),
        "encoder": recipe.encoder.model_dump(mode="json"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("serkit", "optuna", "torch", "numpy", "scikit-learn")},
        },
        "command": _command(url, given),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if best is not None:
        write_text(folder / "best.toml", dump_recipe(best_recipe(recipe, axes, best)))
    write_json(folder / "search.json", facts)
    return facts


def best_recipe(recipe: Recipe, axes: Sequence[Axis], trial: FrozenTrial) -> Recipe:
    """Return the recipe with the values of ``trial``, under a name of its own and without the search."""
    plain = recipe.model_copy(update={"search": None, "name": f"{recipe.name}-best"})
    return change_recipe(plain, read_values(axes, trial.params))


def best_trial(study: optuna.Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the finished trial with the best value, the first of equals."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    return max(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)


def importance(study: optuna.Study) -> dict[str, float]:
    """Return the share of the variance between finished trials that each key explains.

    fANOVA on a random forest (Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html); empty when trials
    are fewer than five or do not differ.
    """
    if sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)) < 5:
        return {}
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (ValueError, RuntimeError):
        return {}


def trials_table(trials: Sequence[FrozenTrial], axes: Sequence[Axis], folds: int) -> pl.DataFrame:
    """Return one row per trial: how it ended, mean dev scores over the ``folds`` it finished, seconds, its values."""
    rows = []
    for trial in trials:
        results = trial.user_attrs.get("results", [])
        scores = {key: float(np.mean([it[key] for it in results])) for key in _scored(results)}
        row = {"trial": trial.number, "state": _state(trial), "dev_uar": None, "dev_loss": None, **scores}
        row |= {"folds": min(len(results), folds), "seconds": trial.user_attrs.get("seconds")}
        row |= {axis.key: trial.params.get(axis.key) for axis in axes}
        row |= {"recipe": bool(trial.user_attrs.get("recipe")), "error": trial.user_attrs.get("error")}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _scored(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the dev scores that all ``results`` have; ratings learned alone have no UAR."""
    return [key for key in ("dev_uar", "dev_loss") if results and all(key in result for result in results)]


def _state(trial: FrozenTrial) -> str:
    """Return how a trial ended; ``left`` are those of killed workers, begun again under another number."""
    return "left" if was_left(trial) else "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def _own_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    found = [trial for trial in trials if trial.user_attrs.get("recipe") and trial.state == TrialState.COMPLETE]
    return found[0] if found else None


def _describe(trial: FrozenTrial | None, axes: Sequence[Axis]) -> dict[str, Any] | None:
    if trial is None:
        return None
    results = trial.user_attrs["results"]
    scores = {key: float(np.mean([it[key] for it in results])) for key in _scored(results)}
    return {"trial": trial.number, **scores, "values": read_values(axes, trial.params), "results": results}


def _compare(best: FrozenTrial | None, own: FrozenTrial | None, key: str) -> dict[str, Any]:
    """Return by how much the best trial is better than the recipe itself, and in how many folds."""
    if best is None or own is None:
        return {"difference": None, "better_folds": None}
    pairs = zip(best.user_attrs["results"], own.user_attrs["results"], strict=True)
    gains = [(one[key] - other[key]) * (1 if key == "dev_uar" else -1) for one, other in pairs]
    return {"difference": float(np.mean(gains)), "better_folds": sum(gain > 0 for gain in gains)}


def _command(url: str, given: str) -> str:
    command = " ".join(["serkit", *sys.argv[1:]])
    return command.replace(given, without_password(url)) if given else command
