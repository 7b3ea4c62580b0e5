"""Ensembles of a run's members, from the first one to all: figures, text, and folders that are judged as runs are."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.data.files import read_object, replace_atomically, write_json
from serkit.errors import InputError, nearest
from serkit.evaluation.ensemble import (
    Integers,
    Members,
    Part,
    average,
    choose_k,
    first_members,
    judge_members,
    pool_members,
    rank_members,
)
from serkit.evaluation.metrics import FROM_CONFUSION
from serkit.evaluation.multilabel import OF_ALL, known_rows, label_cells
from serkit.evaluation.predictions import distinguish_speakers, read_predictions
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Metric, Tally, figures, one, tally, tally_confusions
from serkit.evaluation.wording import write_columns, write_interval

METRICS = ("accuracy", "uar", "f1_weighted")
LABEL_METRICS = ("accuracy", "balanced_accuracy", "f1_weighted")  # with several labels at once
ORDERS = ("dev", "seed")
ON_TEST = "k chosen on test"

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Ladder:
    """Members with their ``places`` (M, F) in every fold's order; ``monitor`` is None where the order is of seeds.

    ``facts`` is for JSON: what :func:`create_ensembles` says of itself.
    """

    members: Members
    places: Integers
    way: str
    monitor: str | None
    facts: Numbers

    def ask(self, k: int | Integers, part: Part) -> np.ndarray:
        """Return the probabilities (U, C) that ensemble ``k`` (one number, or one for each fold) gives ``part``."""
        return average(part.probabilities, first_members(self.places, part, k), self.way)

    def table(self, k: int | Integers) -> pl.DataFrame:
        """Return the predictions table of ensemble ``k``: seed 0, the test rows and the dev rows if there are any."""
        tables = []
        for name, part in (("dev", self.members.dev), ("test", self.members.test)):
            if part is not None:
                chances = self.ask(k, part)
                rows = self.members.write_answers(part, chances, chances.argmax(axis=1))
                tables.append(rows.with_columns(seed=pl.lit(0, pl.Int64), part=pl.lit(name)))
        return pl.concat(tables)


def create_ladder(
    runs: Sequence[str | Path], way: str = "logits", order: str = "dev", monitor: str | None = None
) -> Ladder:
    """Read the predictions of run folders and put their members in order.

    ``order`` "dev": in each fold by what ``monitor`` says of the fold's dev part, best first; None is what the runs
    chose their epochs by (``training.monitor`` of their recipes). "seed", or no dev rows: by seed, then by run. Raises
    ``InputError`` naming the run or the key.
    """
    if order not in ORDERS:
        raise InputError(f"no order {order!r}{nearest(order, ORDERS)}")
    tables = {str(folder): read_predictions(Path(folder) / "predictions.parquet") for folder in runs}
    members = pool_members(tables, dev=order == "dev")
    folds = len(members.folds)
    facts: Numbers = {
        "runs": list(tables),
        "members": [{"run": run, "seed": seed} for run, seed in members.names],
        "average": way,
        "order": "seed",
    }
    if members.dev is None:
        why = "as asked" if order == "seed" else "not every fold has dev rows to order by"
        places = np.repeat(np.arange(len(members))[:, None], folds, axis=1)
        return Ladder(members, places, way, None, facts | {"order_because": why, "dev_is_test": None})
    monitor = monitor or _monitor(runs)
    scores = judge_members(members, members.dev, monitor)
    places = rank_members(scores)
    keys = ["fold", "id"]
    shared = members.dev.rows.select(keys).join(members.test.rows.select(keys), on=keys, how="semi").height
    ranks = {
        fold: [
            {**facts["members"][member], monitor: abs(float(scores[member, number]))}
            for member in places[:, number].argsort()
        ]
        for number, fold in enumerate(members.folds)
    }
    said = {"order": "dev", "monitor": monitor, "dev_is_test": shared > 0, "ranks": ranks}
    return Ladder(members, places, way, monitor, facts | said)


def _monitor(runs: Sequence[str | Path]) -> str:
    """Return what the runs chose their epochs by; the default of ``training.monitor`` where a run does not say."""
    found = {}
    for folder in runs:
        file = Path(folder) / "recipe.toml"
        try:
            recipe = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError as error:
            raise InputError(f"{file}: cannot be read as TOML: {error}") from error
        found[recipe.get("training", {}).get("monitor", "uar")] = str(folder)
    if len(found) > 1:
        said = " and ".join(f"{folder} by {name}" for name, folder in found.items())
        raise InputError(f"the runs chose their epochs in different ways ({said}): set --monitor")
    return next(iter(found))


def create_ensembles(ladder: Ladder, index: int | None = None, resamples: int = RESAMPLES) -> Numbers:
    """Judge ensembles 1 to n of a ladder on the test part; ready for JSON.

    ``steps`` has, for every k, the accuracy of the k-th ``member`` alone and the ensemble's ``accuracy``, ``uar``,
    ``f1_weighted``, ``right`` and ``dev_accuracy``; all are pooled over folds. With several labels at once
    ``accuracy`` is the share of right cells (utterances times labels, ``judged`` of them) and ``uar`` is
    ``balanced_accuracy``. ``max`` is the step with the highest
    test accuracy: it is ``chosen`` on test and no estimate. ``members_alone``, ``ensembles.all`` and
    ``ensembles.dev-k`` hold honest figures with intervals (bootstrap over speakers); the k of ``dev-k`` is chosen in
    each fold on its own dev part. ``index`` adds ``ensembles.k<index>``, whose ``stamp`` tells where its k is that of
    ``max`` and of no honest one. Raises ``InputError`` where there are fewer than ``index`` members.
    """
    members, n = ladder.members, len(ladder.members)
    if index is not None and not 1 <= index <= n:
        raise InputError(f"index {index}: the members number {n}: give 1 to {n}, or name more runs")
    steps = [_step(ladder, k) for k in range(1, n + 1)]
    best = max(steps, key=lambda step: step["right"])
    chosen = {"all": np.full(len(members.folds), n)}
    if members.dev is not None:
        chosen["dev-k"] = choose_k(members.dev, ladder.places, ladder.way)
    if index is not None:
        chosen[f"k{index}"] = np.full(len(members.folds), index)
    made: Numbers = {}
    for name, ks in chosen.items():
        k: Any = int(ks[0]) if len(set(ks.tolist())) == 1 else dict(zip(members.folds, ks.tolist(), strict=True))
        on_test = name == "dev-k" and ladder.facts["dev_is_test"]
        if name.startswith("k") and k == best["k"]:  # whoever named it may have looked
            on_test = all(other["k"] != k or other["stamp"] for other in made.values())
        test = ladder.table(ks).filter(pl.col("part") == "test")
        made[name] = {"k": k, "stamp": ON_TEST if on_test else None, **_figures(test, members, resamples)}
    return {
        **ladder.facts,
        "classes": list(members.classes),
        "folds": list(members.folds),
        "several": members.several,
        "n": members.test.rows.height,
        "judged": int((members.test.truth >= 0).sum()),
        "steps": steps,
        "members_alone": _figures(_alone(members), members, resamples),
        "ensembles": made,
        "max": {key: best[key] for key in ("k", "accuracy", "right")} | {"chosen": "on test"},
        "index": index,
    }


def _step(ladder: Ladder, k: int) -> Numbers:
    members, test, dev = ladder.members, ladder.members.test, ladder.members.dev
    chances = ladder.ask(k, test)
    said = chances.argmax(axis=1)
    total = _tally(members.write_answers(test, chances, said), members).total
    member = (ladder.places[:, test.fold] == k - 1).argmax(axis=0)
    return {
        "k": k,
        "member": test.share_right(test.answers[member, np.arange(len(member))]),
        **{name: float(metric(total)[0]) for name, metric in _metrics(members).items()},
        "right": int((said == test.truth).sum()),
        "dev_accuracy": None if dev is None else dev.share_right(ladder.ask(k, dev).argmax(axis=1)),
    }


def _metrics(members: Members) -> dict[str, Metric]:
    return (
        {name: OF_ALL[name] for name in LABEL_METRICS}
        if members.several
        else {name: FROM_CONFUSION[name] for name in METRICS}
    )


def _tally(rows: pl.DataFrame, members: Members) -> Tally:
    """Sum what is judged by speaker; ``rows`` without a column ``seed`` are of one."""
    rows = distinguish_speakers(rows if "seed" in rows.columns else rows.with_columns(seed=pl.lit(0)))
    if members.several:
        rows, size = known_rows(rows, members.classes), len(members.classes)
        ids, speakers, seeds = (rows[name].to_list() for name in ("id", "speaker", "seed"))
        return tally(label_cells(rows, members.classes), ids, speakers, seeds, (size, 2, 2))
    columns = ("truth", "prediction", "id", "speaker", "seed")
    truth, said, ids, speakers, seeds = (rows[name].to_list() for name in columns)
    return tally_confusions(truth, said, members.classes, ids, speakers, seeds)


def _alone(members: Members) -> pl.DataFrame:
    """Return what every member says by itself, the member's number as its seed."""
    test = members.test
    return pl.concat(
        members.write_answers(test, chances, said).with_columns(seed=pl.lit(number, pl.Int64))
        for number, (chances, said) in enumerate(zip(test.probabilities, test.answers, strict=True))
    )


def _figures(rows: pl.DataFrame, members: Members, resamples: int) -> Numbers:
    of = _tally(rows, members)
    draws = of.resample(resamples)
    made = {
        name: figures(of, one(metric), [of.n], draws, "pooled; ")[0].as_dict()
        for name, metric in _metrics(members).items()
    }
    return {"speakers": of.speakers, **made}


def format_classes(ladder: Ladder, k: int, names: bool = False) -> str:
    """Return scikit-learn's classification report of ensemble ``k``, classes by number or by name, to two decimals.

    With several labels at once it is of the utterances of which all are known.
    """
    from sklearn.metrics import classification_report

    classes, test = ladder.members.classes, ladder.members.test
    labels = list(range(len(classes)))
    shown = list(classes) if names else [str(label) for label in labels]
    truth, said = test.truth, ladder.ask(k, test).argmax(axis=1)
    if ladder.members.several:
        truth, said = (each.reshape(-1, len(classes)) for each in (truth, said))
        known = (truth >= 0).all(axis=1)
        truth, said = truth[known], said[known]
    return classification_report(truth, said, labels=labels, target_names=shown, digits=2, zero_division=0)


def format_ensembles(made: Mapping[str, Any], classes: str | None = None) -> str:
    """Return the ladder as text for a terminal, with the report of :func:`format_classes` if it is given."""
    steps, n, count = made["steps"], made["n"], len(made["members"])
    runs, folds = len(made["runs"]), len(made["folds"])
    metrics = LABEL_METRICS if made["several"] else METRICS
    rows = [("k", "member k alone", *metrics, "dev accuracy")]
    rows += [
        (step["k"], *(_number(step[key]) for key in ("member", *metrics)), _number(step["dev_accuracy"]))
        for step in steps
    ]
    best = made["max"]
    lines = [
        f"{count} members of {runs} run{'s' * (runs > 1)}, mean of {made['average']}, {_order(made)}",
        f"test accuracy of each member and of the first k together, {n} utterances of {folds} fold{'s' * (folds > 1)}:",
        "",
        *write_columns(rows),
        *(["", f"ensemble of the first {made['index']}:", "", classes.rstrip("\n")] if classes is not None else []),
        "",
        f"Max ensemble accuracy (chosen on test): {100 * best['accuracy']} % "
        f"({best['right']} of {made['judged']}, k = {best['k']})",
        "",
        *write_columns([("honest", *(f"{name} (95 %)" for name in metrics)), *_honest(made, metrics)]),
        f"method: {made['ensembles']['all']['accuracy']['method']}, {made['ensembles']['all']['speakers']} speakers",
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _order(made: Mapping[str, Any]) -> str:
    if made["order"] == "seed":
        return f"in the order of seeds ({made['order_because']})"
    said = f"in each fold's order by {made['monitor']} of the dev part"
    return said + (" WHICH IS THE TEST PART" if made["dev_is_test"] else "")


def _honest(made: Mapping[str, Any], metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the rows of what was not chosen on test: members alone, all together, k chosen on dev."""
    sources = {f"one member (mean of {len(made['members'])})": made["members_alone"]}
    for name, each in made["ensembles"].items():
        if each["stamp"] is None and not name.startswith("k"):
            sources["all members" if name == "all" else f"k chosen on dev ({_ks(each['k'])})"] = each
    return [
        (name, *(f"{each[key]['value']:.4f} ({write_interval(each[key], missing='-')})" for key in metrics))
        for name, each in sources.items()
    ]


def _ks(k: int | Mapping[str, int]) -> str:
    return f"k = {k}" if isinstance(k, int) else f"k = {min(k.values())} to {max(k.values())} over folds"


def write_ensembles(ladder: Ladder, made: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write ``ensemble.json`` and, for every one of ``made["ensembles"]``, a folder that is judged as a run is.

    It has ``predictions.parquet`` and ``provenance.json``: what the runs agree on, ``ensemble`` (its members, order and
    k) and a stamp that tells where k was chosen on test. Reports of earlier predictions there are taken away.
    """
    folder, written = Path(folder), []
    for name, each in made["ensembles"].items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        k = each["k"] if isinstance(each["k"], int) else np.array([each["k"][fold] for fold in ladder.members.folds])
        for stale in ("report.json", "report.html"):
            (place / stale).unlink(missing_ok=True)
        with replace_atomically(place / "predictions.parquet") as part:
            ladder.table(k).write_parquet(part)
        write_json(place / "provenance.json", _provenance(made, each))
        written.append(place)
    write_json(folder / "ensemble.json", made)
    return written


def _provenance(made: Mapping[str, Any], each: Mapping[str, Any]) -> Numbers:
    origins = [read_object(Path(run) / "provenance.json") for run in made["runs"]]
    own = {"seeds", "command", "finished", "stamp"}
    shared = {
        key: value
        for key, value in origins[0].items()
        if key not in own and all(key in other and other[key] == value for other in origins[1:])
    }
    stamps = [str(origin["stamp"]) for origin in origins if origin.get("stamp")]
    stamps = [*dict.fromkeys(stamps), *([each["stamp"]] if each["stamp"] else [])]
    keys = ("runs", "members", "average", "order", "monitor", "dev_is_test")
    chosen = {key: made[key] for key in keys if key in made}
    name = f"{shared['recipe']}, ensemble" if "recipe" in shared else "ensemble"  # no run of that recipe
    return {
        **shared,
        "recipe": name,
        "stamp": "; ".join(stamps) or None,
        "ensemble": {"of": len(made["members"]), "k": each["k"], **chosen},
        "seeds": [0],
        "command": " ".join(["serkit", *sys.argv[1:]]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
