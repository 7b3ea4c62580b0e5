"""The study that workers of a search share: an Optuna database, who works on which trial, and trials of dead workers.

A trial that its worker left, killed perhaps, is given to the next worker with the same values, and does not count.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url

from serkit.errors import InputError, SerkitError, missing_extra
from serkit.training.searching.space import SearchSection

HEARTBEAT, GRACE = 30, 300
"""Seconds between signs of life of a worker, and without one until its trial is given to another."""

STARTUP = 5
"""Finished trials before which none is pruned."""

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"uar": "maximize", "loss": "minimize"}


def storage_url(given: str, folder: Path) -> str:
    """Return the database's address for SQLAlchemy: ``given``, or a file in ``folder``.

    Raises ``InputError`` for other kinds of databases and when the driver is missing.
    """
    if not given:
        return f"sqlite:///{(folder / 'study.db').resolve()}"
    try:
        url = make_url(given)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise InputError("--storage: is no address: write sqlite:///FILE or postgresql://USER@HOST/DATABASE") from None
    kind = url.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise InputError(f"--storage: {kind} is not supported: use sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    if kind == "postgresql":
        try:
            import psycopg  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra("psycopg", "postgresql") from error
        url = url.set(drivername="postgresql+psycopg")
    elif not url.database:
        raise InputError("--storage: a database in memory cannot be resumed: write sqlite:///FILE")
    return url.render_as_string(hide_password=False)


def without_password(url: str) -> str:
    """Return the address as it may be shown."""
    shown = make_url(url)
    return shown.set(query={}).render_as_string(hide_password=True) if shown.query else str(shown)


@contextmanager
def readable_errors(url: str) -> Iterator[None]:
    """Turn what the database says into one line without the password."""
    try:
        yield
    except sqlalchemy.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        secret = make_url(url).password
        if secret:
            said = said.replace(str(secret), "***")
        raise InputError(f"--storage {without_password(url)}: {said}") from None
    except optuna.exceptions.StorageInternalError as error:
        said = str(error.__cause__ or error).strip().split("\n")[0]
        raise SerkitError(f"--storage {without_password(url)}: {said}") from None


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open the database, and create its tables where there are none."""
    # SQLite waits for other writers only when it knows from the start that a transaction will write.
    local = {"connect_args": {"timeout": 60, "isolation_level": "IMMEDIATE"}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for attempt in itertools.count(1):
            try:
                return optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=local or {"pool_pre_ping": True},
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=give_again,
                )
            except sqlalchemy.exc.SQLAlchemyError as error:
                # Two workers that begin together both find no tables and create them; one is told that they exist.
                together = any(word in str(error).lower() for word in ("already exists", "locked", "unique"))
                if not together or attempt == 10:
                    raise
                time.sleep(0.1 * attempt)
    raise AssertionError


def open_study(
    url: str, name: str, section: SearchSection, facts: Mapping[str, Any], first: Sequence[dict[str, Any]]
) -> tuple[optuna.Study, bool]:
    """Create the study, its ``first`` trials waiting, or join the one there is; tell whether it was there.

    The very first are the recipe's own values. ``facts`` are the study's attributes. Raises ``InputError`` when the one
    there is was begun with other facts.
    """
    storage = open_storage(url)
    direction = DIRECTIONS[section.objective]
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        found = False
    except optuna.exceptions.DuplicatedStudyError:
        study, found = optuna.load_study(study_name=name, storage=storage), True
    began = time.monotonic()
    while found and "facts" not in study.user_attrs and time.monotonic() - began < 10:
        time.sleep(0.1)  # another worker is creating it
    recorded = study.user_attrs.get("facts")
    own = any(trial.user_attrs.get("recipe") for trial in counted(study))
    if recorded is None or not own:
        for number, values in enumerate(first if recorded is None else first[:1]):
            study.enqueue_trial(values, {"recipe": True} if number == 0 else None)
    if recorded is None:
        study.set_user_attr("facts", dict(facts))
    elif recorded != dict(facts):
        changed = sorted(key for key in facts if recorded.get(key) != facts[key])
        raise InputError(
            f"study {name!r} in {without_password(url)} was begun with another {' and '.join(changed)}: give this "
            "search a name of its own (name=NAME) or another folder"
        )
    return study, found


def create_sampler(section: SearchSection, number: int) -> optuna.samplers.BaseSampler:
    """Return what draws the values of trial ``number``: the same ones after the same trials, whoever draws."""
    seed = (section.seed * 1_000_003 + number) % 2**32
    if section.sampler == "tpe":
        return optuna.samplers.TPESampler(n_startup_trials=min(10, max(2, section.trials // 4)), seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def create_pruner(section: SearchSection, steps: int) -> optuna.pruners.BasePruner:
    """Return what ends trials that fall behind, for trials of at most ``steps`` reports."""
    if section.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=steps, reduction_factor=3)
    return MedianPruner(max(1, steps // 3)) if section.pruner == "median" else optuna.pruners.NopPruner()


class MedianPruner(optuna.pruners.BasePruner):
    """Ends a trial whose last report, at step ``first`` or later, is below the median of finished trials at that step.

    Reports are means over the folds so far. Optuna's own pruner of this name takes a trial's best report of all: after
    an easy first fold nothing would ever end.
    """

    def __init__(self, first: int = 1) -> None:
        self.first = first

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether to end ``trial``."""
        step = trial.last_step
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = [other.intermediate_values[step] for other in finished if step in other.intermediate_values]
        if step is None or step < self.first or len(others) < STARTUP:
            return False
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return sign * trial.intermediate_values[step] < sign * statistics.median(others)


def identity() -> dict[str, Any]:
    """Return who this process is, among all processes of all machines that may share a study."""
    return {"host": _host(), "process": os.getpid(), "began": _began(os.getpid())}


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Tell whether a worker is known to have ended: of another machine nothing is known."""
    return worker["host"] == _host() and _began(worker["process"]) != worker["began"]


def _host() -> str:
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"  # numbers of processes hold in one namespace
    except OSError:
        return platform.node()


def _began(process: int) -> str | None:
    """Return when a process began, so that another one with its number is not taken for it; None when it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def give_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let the next worker try the values of a trial that was left."""
    kept = {"recipe": True} if trial.user_attrs.get("recipe") else {}
    study.enqueue_trial(trial.params, {**kept, "again": trial.user_attrs.get("again", trial.number)})


def fail_left(study: optuna.Study) -> None:
    """Fail the trials of workers that have ended, and let others try their values."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get("worker")
        begun = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
        if not (is_gone(worker) if worker else time.time() - begun > GRACE):
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            continue  # another worker was faster
        give_again(study, trial)


def was_left(trial: FrozenTrial) -> bool:
    """Tell whether a trial ended with its worker: what fails by itself says why."""
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def study_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return all trials but those begun when there were enough."""
    return [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get("surplus")]


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: all but those that were left."""
    return [trial for trial in study_trials(study) if not was_left(trial)]


def wants_more(study: optuna.Study, trials: int) -> bool:
    """Tell whether there is a trial to begin; without the recipe's own values, which were refused, there is none."""
    found = counted(study)
    if not any(trial.user_attrs.get("recipe") for trial in found):
        return False
    return len(found) < trials or any(trial.state == TrialState.WAITING for trial in found)
