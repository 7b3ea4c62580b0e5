"""Files of evaluations as https://github.com/wilke0818/i3_speech_emotion_recognition keeps them, and their statistics.

``<evals>/<model>/<dataset>/<seed>/accuracies.json`` holds the accuracy of one model on one data set; a tab-separated
list names which model is to be judged on which data set.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from serkit.data.files import replace_atomically
from serkit.errors import InputError
from serkit.evaluation.statistics.significance import mann_whitney
from serkit.evaluation.wording import write_columns

OVERALL = "overall"
"""What all test utterances together are called beside the genders."""

FILES = {"accuracy": "accuracies.json", "uar": "uars.json"}
"""Where each seed's values are: the original's file, and ours beside it."""

Accuracies = dict[str, dict[str, dict[str, dict[str, float]]]]
"""model -> data set -> seed -> overall or gender -> a fraction in [0, 1]."""


@dataclass(frozen=True)
class Evaluation:
    """A line of the list: the model in ``model_path`` is judged on ``test.csv`` in ``eval_csv_path``."""

    model_name: str
    dataset_name: str
    model_path: str
    eval_csv_path: str
    eval_out_path: str

    @property
    def seed(self) -> str:
        """The seed, which is the last folder of ``eval_out_path``."""
        return PurePosixPath(self.eval_out_path).name


def read_evaluations(path: str | Path) -> list[Evaluation]:
    """Read a list of evaluations (``;``, ``,`` or TAB between columns), or all lists ``*.csv`` of a folder.

    Raises ``InputError`` naming file and line: columns that are missing, or an ``eval_out_path`` that does not end in
    ``<model>/<dataset>/<seed>``.
    """
    path = Path(path)
    if path.is_dir():
        lists = sorted(path.glob("*.csv"))
        if not lists:
            raise InputError(f"{path}: holds no list of evaluations (*.csv)")
        return [evaluation for each in lists for evaluation in read_evaluations(each)]
    if not path.is_file():
        raise InputError(f"{path}: no such list of evaluations")
    columns = [field.name for field in fields(Evaluation)]
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read()
    head = text.splitlines()[0] if text else ""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max("\t;,", key=head.count))
    missing = [name for name in columns if name not in (rows.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: has no column {missing[0]!r} (needed: {', '.join(columns)})")
    found = []
    for row in rows:
        made = Evaluation(*(row[name] or "" for name in columns))
        place = PurePosixPath(made.eval_out_path)
        if place.parts[-3:-1] != (made.model_name, made.dataset_name):
            expected = f"{made.model_name}/{made.dataset_name}/SEED"
            raise InputError(f"{path}: line {rows.line_num}: eval_out_path {str(place)!r} does not end in {expected}")
        found.append(made)
    return found


def write_evaluations(evaluations: Iterable[Evaluation], path: str | Path) -> None:
    """Write a list of evaluations, tab-separated, as the original does."""
    with replace_atomically(Path(path)) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow([field.name for field in fields(Evaluation)])
        writer.writerows(astuple(evaluation) for evaluation in evaluations)


def summarise_evaluations(evaluations: Iterable[Evaluation]) -> dict[str, dict[str, str]]:
    """Return model -> data set -> seeds in words, such as ``0..109 (110)``."""
    seeds: dict[str, dict[str, list[str]]] = {}
    for each in evaluations:
        seeds.setdefault(each.model_name, {}).setdefault(each.dataset_name, []).append(each.seed)
    return {model: {name: _ranges(each) for name, each in made.items()} for model, made in seeds.items()}


def _ranges(seeds: Sequence[str]) -> str:
    if not all(seed.isdecimal() for seed in seeds):
        return f"{', '.join(sorted(seeds))} ({len(seeds)})"
    numbers = sorted(map(int, seeds))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
    return f"{shown} ({len(numbers)})"


# Quick statistics


def read_accuracies(folder: str | Path, metric: str = "accuracy") -> Accuracies:
    """Read every ``<model>/<dataset>/<seed>/accuracies.json`` below ``folder`` (``uars.json`` for metric "uar").

    Raises ``InputError`` where there is none, or naming the file that does not hold fractions.
    """
    found: Accuracies = {}
    paths = sorted(Path(folder).glob(f"*/*/*/{FILES[metric]}"), key=lambda path: (*path.parts[-4:-2], _order(path)))
    if not paths:
        raise InputError(f"{folder}: holds no MODEL/DATASET/SEED/{FILES[metric]}")
    for path in paths:
        model, dataset, seed = path.parts[-4:-1]
        found.setdefault(model, {}).setdefault(dataset, {})[seed] = _read_fractions(path)
    return found


def _order(path: Path) -> tuple[int, str]:
    seed = path.parts[-2]
    return (int(seed), "") if seed.isdecimal() else (-1, seed)


def _read_fractions(path: Path) -> dict[str, float]:
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON: {str(error).splitlines()[0]}") from error
    sound = isinstance(value, dict) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= 1 for each in value.values()
    )
    if not sound or OVERALL not in value:
        raise InputError(f"{path}: must map overall, and genders, to fractions in [0, 1]")
    return value


def quick_statistics(accuracies: Accuracies) -> list[dict[str, Any]]:
    """Return for each model and data set the mean and spread over seeds, in percent, and a test between the genders.

    Each entry holds ``model``, ``dataset``, ``subsets`` (overall first, then genders: ``mean``, ``sd`` and ``n``) and
    ``genders``. ``sd`` is the population's (ddof 0), as in the original and its paper. Where there are exactly two
    genders with two values or more, ``genders`` is a two-sided Mann-Whitney U test between their per-seed values
    (``first``, ``second``, ``u`` of the first, ``p``), else None.
    """
    results = []
    for model, datasets in accuracies.items():
        for dataset, seeds in datasets.items():
            values: dict[str, list[float]] = {OVERALL: []}
            for each in seeds.values():
                for name in sorted(each):
                    values.setdefault(name, []).append(100 * each[name])
            subsets = {
                name: {"mean": float(np.mean(numbers)), "sd": float(np.std(numbers)), "n": len(numbers)}
                for name, numbers in values.items()
            }
            genders = {name: numbers for name, numbers in values.items() if name != OVERALL}
            results.append({"model": model, "dataset": dataset, "subsets": subsets, "genders": _compare(genders)})
    return results


def _compare(genders: Mapping[str, list[float]]) -> dict[str, Any] | None:
    if len(genders) != 2 or min(map(len, genders.values())) < 2:
        return None
    (first, one), (second, other) = genders.items()
    test = mann_whitney(other, one)  # U counts the wins of its second side
    p = 1.0 if test.p is None or not math.isfinite(test.p) else test.p
    return {"first": first, "second": second, "u": test.statistic, "p": p}


def format_statistics(results: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> str:
    """Return :func:`quick_statistics` as a table for a terminal, the tests below."""
    rows: list[tuple] = [("model", "data", "subset", f"{metric}, %", "n")]
    tests = []
    for made in results:
        for name, figure in made["subsets"].items():
            shown = f"{figure['mean']:.2f} +/- {figure['sd']:.2f}"
            rows.append((made["model"], made["dataset"], name, shown, figure["n"]))
        test = made["genders"]
        if test is not None:
            tests.append(
                f"{made['model']}, {made['dataset']}: {test['first']} and {test['second']} over seeds, "
                f"Mann-Whitney U {test['u']:g}, p {test['p']:.4g} (two-sided)"
            )
    return "\n".join([*write_columns(rows), *tests, "mean +/- population standard deviation over seeds"])
