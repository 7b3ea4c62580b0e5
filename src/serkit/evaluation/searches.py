"""What a search came to, for people: a summary in words, the course of its trials and what mattered as figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from serkit.evaluation.curves import new_figure, quiet, write_figure
from serkit.evaluation.plots import PALETTE

NAMES = {"dev_uar": "dev UAR", "dev_loss": "dev loss"}


def write_figures(folder: Path) -> list[str]:
    """Draw history and importance from trials.csv and search.json; return the names of the SVG files."""
    facts = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    trials = pl.read_csv(folder / "trials.csv", infer_schema_length=None)
    if facts["best"] is None:
        return []
    written = [write_figure(draw_history(trials, facts), folder / "history")]
    if facts["importance"]:
        written.append(write_figure(draw_importance(facts["importance"], facts["recipe"]), folder / "importance"))
    return written


def draw_history(trials: pl.DataFrame, facts: Mapping[str, Any]) -> Figure:
    """Draw the dev score of every trial, the best so far, and that of the recipe itself as a dashed line."""
    key = facts["objective"]
    highest = key == "dev_uar"
    scored = trials.filter(pl.col(key).is_not_null()).sort("trial")
    finished, pruned = (scored.filter(pl.col("state") == state) for state in ("complete", "pruned"))
    figure = new_figure(7.2, 3.6)
    panel = figure.subplots()
    values = finished[key].to_list()
    best = list(accumulate(values, max if highest else min))
    last = trials["trial"].max()
    panel.step([*finished["trial"], last], [*best, best[-1]], where="post", color=PALETTE[0], label="best so far")
    panel.plot(finished["trial"], values, "o", color=PALETTE[0], markersize=5, label="trial")
    if len(pruned):  # their means are over other folds: they have no height here
        look: dict[str, Any] = {
            "color": "0.5",
            "markersize": 5,
            "transform": panel.get_xaxis_transform(),
            "linestyle": "",
        }
        panel.plot(pruned["trial"], [0.04] * len(pruned), marker="x", label="pruned", **look)
    if facts["own"] is not None:
        panel.axhline(facts["own"][key], color=PALETTE[1], linestyle="--", linewidth=1.2, label="the recipe itself")
    panel.set(xlabel="trial", ylabel=f"{NAMES[key]}, mean of {len(facts['folds'])} folds", title=facts["recipe"])
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=8.5, ncols=4)
    quiet(panel)
    return figure


def draw_importance(importance: Mapping[str, float], title: str) -> Figure:
    """Draw the share of the variance between trials that each key explains, the largest on top."""
    ranked = sorted(importance.items(), key=lambda item: item[1])
    figure = new_figure(6.0, 0.34 * len(ranked) + 1.1)
    panel = figure.subplots()
    panel.barh(range(len(ranked)), [share for _, share in ranked], height=0.62, color=PALETTE[0], alpha=0.8)
    for place, (_, share) in enumerate(ranked):
        panel.text(share + 0.01, place, f"{share:.2f}", va="center", fontsize=8.5)
    panel.set_yticks(range(len(ranked)), [key for key, _ in ranked])
    panel.set(xlim=(0, 1.08), xlabel="share of the variance between trials (fANOVA)", title=title)
    quiet(panel)
    return figure


def format_search(facts: Mapping[str, Any], folder: Path) -> str:
    """Return the summary of a search: best, the recipe itself, the difference, what mattered, and a warning."""
    key, counts = facts["objective"], facts["trials"]
    shown = ", ".join(f"{count} {state}" for state, count in counts.items())
    lines = [f"{facts['recipe']}: {shown}, of {facts['search']['trials']}; judged on {_judged(facts)}"]
    if facts["best"] is None:
        return "\n".join([*lines, "no trial is finished: call again to go on"])
    best, own = facts["best"], facts["own"]
    lines.append(f"best: {NAMES[key]} {best[key]:.4f} (trial {best['trial']})")
    lines += [f"  {name} = {json.dumps(value)}" for name, value in best["values"].items()]
    if own is None:
        lines.append("the recipe's own values are not finished yet")
    else:
        lines.append(
            f"the recipe itself: {own[key]:.4f} (trial {own['trial']}); difference {facts['difference']:+.4f}, "
            f"better in {facts['better_folds']} of {len(facts['folds'])} folds"
        )
    if facts["importance"]:
        lines.append("importance (share of the variance between trials):")
        lines += [f"  {name} {share:.2f}" for name, share in facts["importance"].items()]
    lines.append(
        f"warning: the best of {counts.get('complete', 0)} trials is chosen by its dev score, which flatters it "
        "(winner's curse): only the test part counts, once:"
    )
    lines.append(f"  serkit train {folder / 'best.toml'}")
    return "\n".join(lines)


def _judged(facts: Mapping[str, Any]) -> str:
    folds, seeds = {fold["name"] for fold in facts["folds"]}, {fold["seed"] for fold in facts["folds"]}
    return f"the dev parts of {len(folds)} folds and {len(seeds)} seeds of {facts['protocol']['name']}"
