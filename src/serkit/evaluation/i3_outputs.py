"""What https://github.com/wilke0818/i3_speech_emotion_recognition writes about a test, from a predictions table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from serkit.data.files import replace_atomically, write_text
from serkit.data.i3_csv import word_of
from serkit.errors import InputError
from serkit.evaluation.curves import new_figure
from serkit.evaluation.i3 import FILES, OVERALL, Accuracies, Evaluation, read_evaluations, write_evaluations
from serkit.evaluation.metrics import FROM_CONFUSION, Floats, confusion, ratio
from serkit.evaluation.predictions import classes_of, judged_rows, read_predictions

LEAST = 0.1
"""A gender with a smaller share of the test utterances is not judged by itself."""


@dataclass
class Judged:
    """One model on one data set with one seed: ``words`` are the sorted class names, ``counts`` maps subsets to (C, C).

    ``truth`` and ``prediction`` are positions among ``words``; rows of the counts are the truth.
    """

    words: list[str]
    truth: list[int]
    prediction: list[int]
    counts: dict[str, Floats] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    unknown: int = 0  # utterances without gender
    run: str = ""  # the folder whose models were judged

    def scores(self, metric: str) -> dict[str, float]:
        """Return a metric of each subset, genders first as in the original's file."""
        names = [*(name for name in self.counts if name != OVERALL), OVERALL]
        return {name: float(FROM_CONFUSION[metric](self.counts[name])) for name in names}


Outputs = dict[str, dict[str, dict[str, Judged]]]
"""model -> data set -> seed -> what was judged."""


def judge_table(table: pl.DataFrame, dataset: str | None = None) -> dict[str, dict[str, Judged]]:
    """Judge the test rows of a predictions table by data set and seed, over all folds of the seed.

    Data sets are the table's corpora, or ``dataset`` where it is given. Classes get the original's names. Raises
    ``InputError`` as :func:`~serkit.evaluation.predictions.judged_rows` does, and for rows without a corpus.
    """
    rows = judged_rows(table)
    if dataset is not None:
        rows = rows.with_columns(corpus=pl.lit(dataset))
    elif rows["corpus"].null_count():
        raise InputError("predictions: test rows have no corpus, so the data set has no name: give one (--dataset)")
    words = {name: word_of(name) for name in classes_of(rows)}
    if len(set(words.values())) < len(words):
        raise InputError(f"predictions: two of the classes {', '.join(words)} are one in the original's words")
    rows = rows.with_columns(pl.col("truth", "prediction").replace_strict(words))
    order, found = sorted(words.values()), dict[str, dict[str, Judged]]()
    for corpus in sorted(rows["corpus"].unique()):
        part = rows.filter(pl.col("corpus") == corpus)
        for seed in part["seed"].unique().sort():
            found.setdefault(corpus, {})[str(seed)] = _judge(part.filter(pl.col("seed") == seed), order)
    return found


def _judge(rows: pl.DataFrame, words: list[str]) -> Judged:
    place = {word: number for number, word in enumerate(words)}
    truth, prediction = ([place[word] for word in rows[name]] for name in ("truth", "prediction"))
    judged = Judged(words, truth, prediction, unknown=rows["gender"].null_count())
    for gender in sorted(rows["gender"].drop_nulls().unique()):
        part = rows.filter(pl.col("gender") == gender)
        if part.height < LEAST * rows.height:
            judged.skipped[gender] = part.height
        else:
            judged.counts[gender] = _confusion(part, words)
    judged.counts[OVERALL] = _confusion(rows, words)
    return judged


def _confusion(rows: pl.DataFrame, words: list[str]) -> Floats:
    return confusion(rows["truth"].to_list(), rows["prediction"].to_list(), words).astype(np.float64)


def accuracies_of(outputs: Outputs, metric: str = "accuracy") -> Accuracies:
    """Return the accuracies (or "uar") of what was judged, as :func:`~serkit.evaluation.i3.read_accuracies` does."""
    return {
        model: {
            dataset: {seed: judged.scores(metric) for seed, judged in seeds.items()}
            for dataset, seeds in datasets.items()
        }
        for model, datasets in outputs.items()
    }


def name_run(run: str) -> tuple[str, Path]:
    """Return the name and the folder of a run given as its folder, whose own name it then has, or as NAME=FOLDER."""
    name, equals, place = run.partition("=")
    if name and equals and not Path(run).exists():
        return name, Path(place)
    return Path(run).resolve().name, Path(run)


def judge_runs(runs: Sequence[str], dataset: str | None = None) -> Outputs:
    """Judge runs (see :func:`name_run`), each by its name; those of one name are one model with more seeds or data.

    A run's tests on other corpora, ``RUN/on/NAME``, are data sets of that name; there each model counts as a seed.
    ``dataset`` names what the run itself was tested on. Raises ``InputError`` naming the run's file, and for a seed and
    data set that two runs of one name have.
    """
    outputs: Outputs = {}
    for run in runs:
        model, folder = name_run(run)
        others = [(path, path.parent.name) for path in sorted(folder.glob("on/*/predictions.parquet"))]
        for path, name in [(folder / "predictions.parquet", dataset), *others]:
            table = read_predictions(path)
            try:
                judged = judge_table(table, name)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            for data, seeds in judged.items():
                known = outputs.setdefault(model, {}).setdefault(data, {})
                twice = sorted(known.keys() & seeds.keys())
                if twice:
                    why = f"model {model!r} has seed {twice[0]} of {data} already"
                    raise InputError(f"{path}: {why}: name it NAME=FOLDER")
                known |= seeds
                for each in seeds.values():
                    each.run = str(folder)
    return outputs


def write_outputs(outputs: Outputs, folder: str | Path, figures: bool = True) -> list[str]:
    """Write ``folder``/<model>/<dataset>/<seed> and the means over seeds; return remarks on what was left out.

    A seed gets ``classification_report.json``, ``accuracies.json`` and ``uars.json`` (mean recall over the classes that
    occur) and, with ``figures``, ``confusion_matrix.png`` and ``<gender>_confusion_matrix.png``. A data set gets
    ``<subset>_confusion_matrix.csv``, the mean of the seeds' rates, and a model ``accuracies.json`` and ``uars.json``
    with the means over all seeds. Data sets of the model that are there already stay in its files. The list of all
    evaluations is ``evaluations.csv``. Raises ``InputError`` where a data set's folder holds seeds that are not written
    now.
    """
    folder, remarks = Path(folder), []
    for model, datasets in outputs.items():
        for dataset, seeds in datasets.items():
            place = folder / model / dataset
            _refuse_strangers(place, seeds)
            for seed, judged in seeds.items():
                _write_seed(judged, place / seed, figures)
            remarks += [f"{model}, {dataset}: {remark}" for remark in _write_matrices(list(seeds.values()), place)]
        for metric, name in FILES.items():
            means = {dataset: _means(seeds, metric) for dataset, seeds in datasets.items()}
            path = folder / model / name
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            write_text(path, json.dumps(before | means))
    _add_to_list(outputs, folder)
    return remarks


def _add_to_list(outputs: Outputs, folder: Path) -> None:
    """Write ``evaluations.csv``: models are in run folders here, and so are the utterances that they judged."""
    path = folder / "evaluations.csv"
    listed = {each.eval_out_path: each for each in (read_evaluations(path) if path.exists() else ())}
    for model, datasets in outputs.items():
        for dataset, seeds in datasets.items():
            for seed, judged in seeds.items():
                place = str(folder / model / dataset / seed)
                listed[place] = Evaluation(model, dataset, judged.run, judged.run, place)
    write_evaluations(listed.values(), path)


def _refuse_strangers(place: Path, seeds: Mapping[str, Judged]) -> None:
    there = {path.parent.name for path in place.glob(f"*/{FILES['accuracy']}")}
    if there - seeds.keys():
        raise InputError(f"{place}: holds seed {min(there - seeds.keys())} of another run: choose another folder")


def _write_seed(judged: Judged, place: Path, figures: bool) -> None:
    from sklearn.metrics import classification_report

    place.mkdir(parents=True, exist_ok=True)
    labels = range(len(judged.words))
    report: dict[str, Any] = classification_report(
        judged.truth,
        judged.prediction,
        labels=labels,
        target_names=judged.words,
        output_dict=True,
        zero_division=0,
    )
    report |= {"y_pred": judged.prediction, "y_true": judged.truth}
    write_text(place / "classification_report.json", json.dumps(report))
    for metric, name in FILES.items():
        write_text(place / name, json.dumps(judged.scores(metric)))
    for subset, counts in judged.counts.items() if figures else ():
        name = "confusion_matrix.png" if subset == OVERALL else f"{subset}_confusion_matrix.png"
        with replace_atomically(place / name) as part:
            draw_matrix(_rates(counts), judged.words).savefig(part)


def _rates(counts: Floats) -> Floats:
    return ratio(counts, np.broadcast_to(counts.sum(axis=-1, keepdims=True), counts.shape))


def _write_matrices(seeds: Sequence[Judged], place: Path) -> list[str]:
    """Write the mean matrix of every subset; return what is not a mean over all seeds, in words."""
    remarks = []
    for gender in sorted({gender for judged in seeds for gender in judged.skipped}):
        count = sum(gender in judged.skipped for judged in seeds)
        remarks.append(
            f"{gender}: less than {LEAST:.0%} of the utterances, left out with {count} of {len(seeds)} seeds"
        )
    unknown = max(judged.unknown for judged in seeds)
    if unknown:
        remarks.append(f"up to {unknown} utterances a seed have no gender and count overall only")
    for subset in sorted({name for judged in seeds for name in judged.counts}):
        rates = np.stack([_rates(judged.counts[subset]) for judged in seeds if subset in judged.counts])
        known = ~np.isnan(rates)
        means = ratio(np.where(known, rates, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
        words = seeds[0].words
        lines = [["", *words], *([word, *map(_cell, row)] for word, row in zip(words, means.tolist(), strict=True))]
        write_text(place / f"{subset}_confusion_matrix.csv", "".join(",".join(line) + "\n" for line in lines))
        for word, seen in zip(words, known[:, :, 0].sum(axis=0).tolist(), strict=True):
            if seen < len(rates):
                remarks.append(f"{subset} has utterances of {word} with {seen} of {len(rates)} seeds")
    return remarks


def _cell(value: float) -> str:
    return "" if np.isnan(value) else repr(value)


def _means(seeds: Mapping[str, Judged], metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {OVERALL: []}
    for judged in seeds.values():
        for name, value in judged.scores(metric).items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(numbers)) for name, numbers in values.items()}


def draw_matrix(rates: Floats, words: Sequence[str]) -> Figure:
    """Draw rates (C, C) as an annotated heat map, rows the expressed emotion; rows without utterances stay grey."""
    figure = new_figure(16, 8)
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["coolwarm"].with_extremes(bad="0.85")
    low, high = float(np.nanmin(rates)), float(np.nanmax(rates))
    image = axes.imshow(np.ma.masked_invalid(rates), cmap=colours, aspect="auto", vmin=low, vmax=high)
    for (row, column), rate in np.ndenumerate(rates):
        far = abs((rate - low) / ((high - low) or 1) - 0.5) > 0.35  # white on the dark ends of the scale
        shown, colour = ("–", "black") if np.isnan(rate) else (f"{rate:.2g}", "white" if far else "black")
        axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=12)
    axes.set_xlabel("Recognized emotion", fontsize=20)
    axes.set_ylabel("Expressed emotion", fontsize=20)
    axes.set_xticks(range(len(words)), words)
    axes.set_yticks(range(len(words)), words)
    axes.tick_params(labelsize=12)
    figure.colorbar(image)
    return figure
