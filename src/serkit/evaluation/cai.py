"""Our runs beside the published figures of Cai et al. 2021 (https://doi.org/10.21437/Interspeech.2021-1852).

The paper's conventions: accuracy counts the test utterances of all folds together, WER is the mean of the folds' word
error rates. Figures are fractions in [0, 1]; only text for people is in percent.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from serkit.data.files import read_object, write_json, write_text
from serkit.errors import InputError
from serkit.evaluation.metrics import FROM_CONFUSION
from serkit.evaluation.pepino import read_recipe
from serkit.evaluation.predictions import classes_of, judged_rows, read_predictions
from serkit.evaluation.statistics.bootstrap import RESAMPLES, figures, one, tally_confusions
from serkit.evaluation.tasks import judge_tasks
from serkit.evaluation.wording import write_columns, write_markdown_table, write_words

SYSTEM = "cai"
CONVENTION = (
    "Accuracy in percent: test utterances of all folds counted together. WER in percent: mean of the folds' rates. "
    "Intervals: 95 %, bootstrap over speakers."
)
HEAD = ("experiment", "protocol", "accuracy", "95 % interval", "paper", "WER", "paper", "UAR", "n", "seeds")

Numbers = dict[str, Any]


def read_published() -> Numbers:
    """Return the figures shipped in ``published/cai.toml``.

    >>> [row["accuracy"] for row in read_published()["rows"]]
    [0.7166, 0.7397, 0.7634, 0.7815]
    """
    return tomllib.loads(
        (resources.files("serkit.evaluation") / "published" / f"{SYSTEM}.toml").read_text(encoding="utf-8")
    )


def format_result(correct: int, total: int) -> str:
    """Return the line in which the original tells a result.

    >>> format_result(3, 4)
    'correct: 3 , acc: 0.75'
    """
    return f"correct: {correct} , acc: {correct / total}"


def find_runs(root: str | Path) -> tuple[dict[Path, str], list[Path]]:
    """Return the finished runs of the paper's recipes below ``root`` with their ids, and unfinished run folders.

    A run belongs to the paper when the name of its recipe starts with ``cai/``; the rest is the experiment's id. Judged
    checkpoints have no recipe, and their id is "checkpoints". Raises ``InputError`` when there is none.
    """
    found: dict[Path, str] = {}
    unfinished = []
    for recorded in sorted(Path(root).rglob("recipe.toml")):
        system, _, id = str(read_recipe(recorded).get("name", "")).partition("/")
        if system == SYSTEM and (recorded.parent / "predictions.parquet").is_file():
            found[recorded.parent] = id
        elif system == SYSTEM:
            unfinished.append(recorded.parent)
    for path in sorted(Path(root).rglob("provenance.json")):
        if path.parent not in found and read_object(path).get("recipe") == f"{SYSTEM}/checkpoints":
            found[path.parent] = "checkpoints"
    if not found and not unfinished:
        raise InputError(f"{root}: holds no run of a recipe {SYSTEM}/...: name the folder that serkit train wrote into")
    return found, unfinished


def judge(folder: Path, id: str, resamples: int = RESAMPLES) -> Numbers:
    """Return the figures of a run, ready for JSON."""
    path = folder / "predictions.parquet"
    try:
        rows = judged_rows(read_predictions(path))
        tasks = judge_tasks(rows, resamples)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    classes = classes_of(rows)
    columns = (rows[name].to_list() for name in ("id", "speaker", "seed"))
    of = tally_confusions(rows["truth"].to_list(), rows["prediction"].to_list(), classes, *columns)
    draws = of.resample(resamples)
    facts = read_object(folder / "provenance.json")
    made: Numbers = {
        "id": id,
        "run": str(folder),
        "protocol": facts.get("protocol"),
        "stamp": facts.get("stamp"),
        "n": of.n,
        "seeds": rows["seed"].unique().sort().to_list(),
    }
    for name in ("accuracy", "uar"):
        made[name] = figures(of, one(FROM_CONFUSION[name]), [of.n], draws, "pooled; ")[0].as_dict()
    made["wer"] = tasks["text"]["folds"]["mean"]["wer"] if "folds" in tasks.get("text", {}) else None
    made["tasks"] = tasks
    made["results"] = _count(rows)
    return made


def _count(rows: pl.DataFrame) -> list[Numbers]:
    """Return what is right in every fold, and in all of them (fold "all"), for each seed."""
    right = rows.with_columns(right=pl.col("truth") == pl.col("prediction"))
    counted = pl.col("right").sum().alias("correct"), pl.len().alias("total")
    folds = right.group_by("seed", "fold").agg(*counted).sort("seed", "fold")
    whole = right.group_by("seed").agg(*counted).sort("seed").with_columns(fold=pl.lit("all"))
    table = pl.concat([folds, whole.select(folds.columns)])
    return table.sort("seed", maintain_order=True).to_dicts()


def create_comparison(root: str | Path, resamples: int = RESAMPLES) -> Numbers:
    """Return the paper's table with our runs beside it, ready for JSON.

    Each row has ``id, label, published`` and ``ours`` (of :func:`judge`), which is null where nothing was run; a recipe
    that was run on several protocols has several rows. Raises ``InputError`` as :func:`find_runs` does.
    """
    published = read_published()
    found, unfinished = find_runs(root)
    judged = [judge(folder, id, resamples) for folder, id in found.items()]
    printed = {row["id"]: row for row in published["rows"]}
    rows = []
    for id, row in printed.items():
        figures = {"n": published["n"], **{name: row[name] for name in ("accuracy", "wer")}}
        same: list[Numbers | None] = [made for made in judged if made["id"] == id]
        for ours in same or [None]:
            rows.append({"id": id, "label": row["label"], "published": figures, "ours": ours})
    for ours in judged:
        if ours["id"] not in printed:
            rows.append({"id": ours["id"], "label": ours["id"], "published": None, "ours": ours})
    remarks = [remark for row in rows if row["ours"] for remark in _remarks(row, published)]
    remarks += [f"unfinished, left out: {folder}" for folder in unfinished]
    return {"paper": published["paper"], "convention": CONVENTION, "rows": rows, "remarks": remarks}


def _remarks(row: Numbers, published: Numbers) -> list[str]:
    """Return what has to be said of a run."""
    ours = row["ours"]
    name = f"{ours['id']} ({ours['protocol']})"
    remarks = [f"{name}: {ours['stamp']}"]
    if row["published"] and ours["protocol"] != published["protocol"]:
        remarks.append(f"{name}: the paper's folds are {published['protocol']}, this is another test")
    elif row["published"] and ours["n"] != published["n"]:
        remarks.append(f"{name}: judged on {ours['n']} utterances, published on {published['n']}: not the same test")
    return remarks


def _cells(row: Numbers) -> tuple:
    """Return what stands under :data:`HEAD`."""
    ours, printed = row["ours"], row["published"] or {}
    paper = [_points(printed.get(name)) for name in ("accuracy", "wer")]
    if ours is None:
        return row["label"], "not run", "–", "–", paper[0], "–", paper[1], "–", printed["n"], "–"
    low, high = ours["accuracy"]["low"], ours["accuracy"]["high"]
    interval = "–" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
    wer = _points(ours["wer"] and ours["wer"]["value"])
    scores = [_points(ours[name]["value"]) for name in ("accuracy", "uar")]
    protocol = write_words(ours["protocol"], missing="–")
    made = (row["label"], protocol, scores[0], interval, paper[0], wer, paper[1], scores[1], ours["n"])
    return (*made, len(ours["seeds"]))


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def format_comparison(comparison: Numbers) -> str:
    """Return the table as plain text for a terminal, and below it what every run has right in the original's words."""
    lines = [comparison["paper"], comparison["convention"], ""]
    lines += write_columns([HEAD, *(_cells(row) for row in comparison["rows"])])
    for row in comparison["rows"]:
        lines += ["", *_result_lines(row["ours"])] if row["ours"] else []
    return "\n".join([*lines, "", *(f"note: {remark}" for remark in comparison["remarks"])]).rstrip()


def _result_lines(ours: Numbers) -> list[str]:
    lines = []
    for seed in ours["seeds"]:
        lines.append(f"{ours['id']} ({write_words(ours['protocol'], missing='–')}), seed {seed}")
        same = [made for made in ours["results"] if made["seed"] == seed]
        lines += [f"{made['fold']}  {format_result(made['correct'], made['total'])}" for made in same]
    return lines


def render_markdown(comparison: Numbers) -> str:
    """Return the comparison as a Markdown page."""
    page = ["# Ours beside the published figures", "", f"{comparison['paper']}. {comparison['convention']}", ""]
    page += write_markdown_table(HEAD, [_cells(row) for row in comparison["rows"]])
    ran: list[Mapping[str, Any]] = [row["ours"] for row in comparison["rows"] if row["ours"]]
    for ours in ran:
        page += ["", f"## {ours['id']}, {write_words(ours['protocol'], missing='–')}", "", "```text"]
        page += [*_result_lines(dict(ours)), "```"]
    if comparison["remarks"]:
        page += ["", "## Notes", "", *(f"- {remark}" for remark in comparison["remarks"])]
    return "\n".join(page) + "\n"


def write_comparison(root: str | Path, output: str | Path, resamples: int = RESAMPLES) -> Numbers:
    """Judge the runs below ``root`` and write ``cai.md`` and ``cai.json`` into ``output``; returns the latter."""
    comparison = create_comparison(root, resamples)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{SYSTEM}.json", comparison)
    write_text(folder / f"{SYSTEM}.md", render_markdown(comparison))
    return comparison
