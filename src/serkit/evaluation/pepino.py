"""Our runs judged beside the published figures of Pepino, Riera and Ferrer 2021 (https://arxiv.org/abs/2104.03502).

The paper's convention: the test predictions of all folds are merged and scored once per seed; a figure is the mean and
the sample standard deviation over seeds. Scores are fractions in [0, 1]; only text for people is in percent.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.errors import InputError
from serkit.evaluation.metrics import FROM_CONFUSION
from serkit.evaluation.predictions import classes_of, judged_rows, read_predictions
from serkit.evaluation.report import FEW_SPEAKERS
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Tally, figures, one, over_seeds, tally_confusions

SYSTEM = "pepino"
CORPORA = {"iemocap": "IEMOCAP", "ravdess": "RAVDESS"}
METRICS = ("uar", "accuracy", "f1_macro")
CONVENTION = (
    "UAR in percent: all test folds of a seed merged and scored once, mean ± sample standard deviation over seeds. "
    "Intervals: 95 %, bootstrap over speakers. Published sd and ours are over seeds alone."
)

Numbers = dict[str, Any]
Key = tuple[str, str]
"""An experiment's id and a corpus."""


@dataclass(frozen=True)
class Spread:
    """A metric over seeds: mean, sample standard deviation, and its value for each seed in the order of the seeds."""

    mean: float
    sd: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class PublishedResult:
    """What was published on an experiment and a corpus; ``folds`` is the UAR of each test fold, a mean over seeds."""

    n: int
    encoder: str
    normalise: str
    uar: Spread
    accuracy: Spread
    f1_macro: Spread
    folds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Published:
    """The published figures: results, tables as ``(title, ((id, label), ...))``, mean layer weights of figure 2."""

    paper: str
    seeds: tuple[int, ...]
    experiments: Mapping[Key, PublishedResult]
    tables: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    layer_weights: Mapping[Key, tuple[float, ...]]


def read_published() -> Published:
    """Return the figures shipped in ``published/pepino.toml``.

    >>> round(read_published().experiments["w2v2PT-alllayers", "ravdess"].uar.mean, 3)
    0.843
    """
    text = (resources.files("serkit.evaluation") / "published" / f"{SYSTEM}.toml").read_text(encoding="utf-8")
    facts = tomllib.loads(text)
    experiments = {}
    for name, entry in facts["experiments"].items():
        for corpus in CORPORA:
            if corpus in entry:
                each = entry[corpus]
                spreads = {
                    key: Spread(each[key]["mean"], each[key]["sd"], tuple(each[key]["seeds"])) for key in METRICS
                }
                experiments[name, corpus] = PublishedResult(
                    each["n"], entry["encoder"], entry["normalise"], **spreads, folds=tuple(each.get("folds", ()))
                )
    tables = tuple((t["title"], tuple((row["id"], row["label"]) for row in t["rows"])) for t in facts["tables"])
    weights = {(name, c): tuple(w) for name, entry in facts["layer_weights"].items() for c, w in entry.items()}
    return Published(facts["paper"], tuple(facts["seeds"]), experiments, tables, weights)


@dataclass(frozen=True)
class Run:
    """A finished run folder of one of the paper's experiments on one corpus."""

    id: str
    corpus: str
    folder: Path
    rows: pl.DataFrame
    recipe: Numbers
    provenance: Numbers
    history: tuple[Numbers, ...]

    @property
    def monitor(self) -> str:
        """What told the best epoch: ``uar``, ``accuracy`` or ``loss``."""
        return self.recipe.get("training", {}).get("monitor", "uar")

    def layer_weights(self) -> np.ndarray | None:
        """Return the weights of the first stream with several layers, (runs, N); None where the run has none."""
        kept = []
        for line in self.history:
            mixed = [weights for weights in line.get("layer_weights") or [] if len(weights) > 1]
            kept += mixed[:1]
        return np.array(kept) if kept else None

    def kept_epochs(self) -> dict[tuple[Any, Any], int]:
        """Return the epoch whose weights were kept, by seed and fold, where a dev part was watched."""
        best: dict[tuple[Any, Any], tuple[float, int]] = {}
        for line in self.history:
            value = line.get(f"dev_{self.monitor}")
            if value is not None:
                score = -value if self.monitor == "loss" else value
                key = (line["seed"], line["fold"])
                if key not in best or score > best[key][0]:
                    best[key] = (score, line["epoch"])
        return {key: epoch for key, (_, epoch) in best.items()}


def find_runs(root: str | Path) -> tuple[dict[Key, Run], list[Path]]:
    """Return the runs of the paper's recipes below ``root``, by experiment and corpus, and unfinished run folders.

    A recipe belongs to the paper when its name starts with ``pepino/``; the rest is the experiment's id, and may name
    the corpus too (``pepino/ravdess/w2v2PT-local``). Raises ``InputError`` when there is none, when
    two runs are of the same experiment and corpus, and for a run that holds several corpora.
    """
    runs: dict[Key, Run] = {}
    unfinished = []
    for recorded in sorted(Path(root).rglob("recipe.toml")):
        recipe = read_recipe(recorded)
        system, _, id = str(recipe.get("name", "")).partition("/")
        if system != SYSTEM:
            continue
        if not (recorded.parent / "predictions.parquet").is_file():
            unfinished.append(recorded.parent)
            continue
        run = _read_run(recorded.parent, id, recipe)
        if (run.id, run.corpus) in runs:
            other = runs[run.id, run.corpus].folder
            raise InputError(f"{other} and {run.folder} are both {run.id} on {run.corpus}: report one at a time")
        runs[run.id, run.corpus] = run
    if not runs and not unfinished:
        raise InputError(f"{root}: holds no run of a recipe {SYSTEM}/...: name the folder that serkit train wrote into")
    return runs, unfinished


def read_recipe(path: Path) -> Numbers:
    """Return the tables of a run's ``recipe.toml``; raises ``InputError`` naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from error


def _read_run(folder: Path, id: str, recipe: Numbers) -> Run:
    path = folder / "predictions.parquet"
    try:
        rows = judged_rows(read_predictions(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    corpora = sorted(rows["corpus"].drop_nulls().unique().to_list())
    if len(corpora) != 1:
        raise InputError(f"{path}: holds the corpora {', '.join(corpora) or 'none'}: the paper's runs hold one each")
    provenance, history = folder / "provenance.json", folder / "history.jsonl"
    try:
        facts = json.loads(provenance.read_text(encoding="utf-8")) if provenance.is_file() else {}
        lines = history.read_text(encoding="utf-8").splitlines() if history.is_file() else []
        epochs = tuple(json.loads(line) for line in lines)
    except ValueError as error:
        raise InputError(f"{folder}: provenance.json or history.jsonl is not JSON: {error}") from error
    return Run(_experiment(id, corpora[0]), corpora[0], folder, rows, recipe, facts, epochs)


def _experiment(id: str, corpus: str) -> str:
    """Return a recipe's id without the corpus, which may stand before or after it."""
    if (id, corpus) in read_published().experiments:
        return id
    return "/".join(part for part in id.split("/") if part != corpus).removesuffix(f"-{corpus}")


def judge(run: Run, published: PublishedResult | None = None, resamples: int = RESAMPLES) -> Numbers:
    """Return the figures of a run, ready for JSON: every metric with interval, spread, n and method; per fold apart."""
    rows, classes = run.rows, classes_of(run.rows)
    of = _tally(rows, classes)
    draws = of.resample(resamples)
    seeds = rows["seed"].unique().sort().to_list()
    made: Numbers = {
        "id": run.id,
        "corpus": run.corpus,
        "run": str(run.folder),
        "encoder": _describe_encoders(run.recipe),
        "normalise": run.provenance.get("normalise"),
        "normalise_column": run.recipe.get("features", {}).get("speaker", "speaker"),
        "protocol": run.provenance.get("protocol"),
        "stamp": run.provenance.get("stamp"),
        "n": of.n,
        "speakers": of.speakers,
        "seeds": seeds,
    }
    for name in METRICS:
        metric = FROM_CONFUSION[name]
        figure = figures(of, one(metric), [of.n], draws, "merged folds; ")[0].as_dict()
        made[name] = {**figure, "seeds": metric(of.total).tolist()}
    made["folds"] = _folds(rows, classes)
    weights, kept = run.layer_weights(), run.kept_epochs().values()
    made["layer_weights"] = None if weights is None else _mean_and_sd(weights)
    made["kept_epochs"] = {"least": min(kept), "most": max(kept), "of": len(kept)} if kept else None
    made["difference"] = None if published is None else made["uar"]["value"] - published.uar.mean
    made["notes"] = _notes(made, rows, published)
    return made


def _tally(rows: pl.DataFrame, classes: tuple[str, ...]) -> Tally:
    columns = (rows[name].to_list() for name in ("id", "speaker", "seed"))
    return tally_confusions(rows["truth"].to_list(), rows["prediction"].to_list(), classes, *columns)


def _mean_and_sd(weights: np.ndarray) -> Numbers:
    sd = weights.std(axis=0, ddof=1).tolist() if len(weights) > 1 else None
    return {"mean": weights.mean(axis=0).tolist(), "sd": sd, "of": len(weights)}


def _folds(rows: pl.DataFrame, classes: tuple[str, ...]) -> list[Numbers]:
    """Return UAR per fold: mean and sd over seeds; ``n`` is per seed, since random folds differ from seed to seed."""
    result = []
    for (name,), part in sorted(rows.group_by("fold"), key=lambda item: _natural(item[0][0])):
        total = _tally(part, classes).total
        value, sd = over_seeds(FROM_CONFUSION["uar"](total))
        result.append({"fold": name, "n": round(float(total.sum(axis=(-2, -1)).mean())), "uar": value, "sd": sd})
    return result


def _natural(name: Any) -> tuple[int, str]:
    digits = "".join(letter for letter in str(name) if letter.isdigit())
    return int(digits or 0), str(name)


def _notes(made: Numbers, rows: pl.DataFrame, published: PublishedResult | None) -> list[str]:
    notes = []
    if made["speakers"] < FEW_SPEAKERS:
        notes.append(f"{made['speakers']} test speakers are few: the interval is likely too narrow")
    if rows["seed"].n_unique() > 1 and rows.group_by("id").len()["len"].n_unique() > 1:
        notes.append("the seeds do not judge the same utterances")
    if published is None:
        notes.append("not an experiment of the paper")
    elif made["n"] != published.n:
        notes.append(f"judged on {made['n']} utterances, published on {published.n}: not the same test")
    if published is not None and made["normalise"] not in (None, published.normalise):
        notes.append(f"normalise is {made['normalise']}, published with {published.normalise}")
    if published is not None and published.folds and len(made["folds"]) != len(published.folds):
        notes.append(f"{len(made['folds'])} folds, published with {len(published.folds)}")
    return notes


def _describe_encoders(recipe: Numbers) -> str:
    """Return the encoders of a recipe, their weights and layers in words."""
    shown = []
    for section in [recipe.get("encoder", {}), *recipe.get("streams", [])]:
        weights, layers = section.get("options", {}).get("weights"), section.get("layers", "all")
        name = f"{section.get('name', 'not recorded')}" + (f" ({weights})" if weights else "")
        shown.append(f"{name}, {_describe_layers(layers)}")
    return "; ".join(shown)


def _describe_layers(layers: str | list[int]) -> str:
    if isinstance(layers, str):
        return f"{layers} layers"
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]}-{layers[-1]}"
    return f"layer{'s' * (len(layers) != 1)} {', '.join(map(str, layers))}"


def create_comparison(runs: Mapping[Key, Run], unfinished: Iterable[Path] = (), resamples: int = RESAMPLES) -> Numbers:
    """Return the paper's tables with our figures beside the published ones, ready for JSON.

    Each row has ``id, label, corpus, published`` and ``ours`` (of :func:`judge`), which is null where nothing was run.
    """
    published = read_published()
    judged = {key: judge(run, published.experiments.get(key), resamples) for key, run in runs.items()}
    tables = []
    for title, labels in published.tables:
        rows = [
            {
                "id": id,
                "label": label,
                "corpus": corpus,
                "published": _published_cell(published.experiments[id, corpus]),
                "ours": judged.get((id, corpus)),
            }
            for id, label in labels
            for corpus in CORPORA
            if (id, corpus) in published.experiments
        ]
        tables.append({"title": title, "rows": rows})
    return {
        "paper": published.paper,
        "convention": CONVENTION,
        "tables": tables,
        "others": [made for key, made in judged.items() if key not in published.experiments],
        "unfinished": [str(folder) for folder in unfinished],
    }


def _published_cell(result: PublishedResult) -> Numbers:
    metrics = {name: {"mean": getattr(result, name).mean, "sd": getattr(result, name).sd} for name in METRICS}
    return {"n": result.n, "encoder": result.encoder, "normalise": result.normalise, **metrics, "folds": result.folds}
