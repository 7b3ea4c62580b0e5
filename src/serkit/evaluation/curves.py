"""Figures of training: learned weights of layers and learning curves, as files for papers and pages."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from serkit.data.files import replace_atomically
from serkit.errors import InputError
from serkit.evaluation.plots import PALETTE


@dataclass(frozen=True)
class Curve:
    """Weights of ``N`` layers, ``mean`` and ``sd`` (N,), drawn in the ``colour``-th colour; dashed when published."""

    label: str
    colour: int
    mean: ArrayLike
    sd: ArrayLike | None = None
    published: bool = False


def draw_layer_weights(panels: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw the weights of the layers, one panel an experiment; the dotted line is equal weights."""
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(0.6 + 4.4 * columns, 0.5 + 3.2 * rows)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for place, (title, curves) in enumerate(panels.items()):
        panel = axes.flat[place]
        for curve in curves:
            _draw_curve(panel, curve)
        layers = max(len(np.asarray(curve.mean)) for curve in curves)
        panel.axhline(1 / layers, color="0.5", linewidth=0.9, linestyle=":")
        panel.set(title=title, xlabel="layer (0: before the transformer)", xlim=(-0.4, layers - 0.6))
        panel.set_xticks(range(layers))
        panel.legend(frameon=False, fontsize=8, loc="lower center", ncols=1 if len(curves) < 3 else 2)
        quiet(panel)
    for panel in axes.flat[len(panels) :]:
        panel.remove()
    for panel in axes[:, 0]:
        panel.set_ylabel("weight")
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(low - 0.3 * (high - low), high)  # room for the legend
    return figure


def _draw_curve(panel: Any, curve: Curve) -> None:
    mean, colour = np.asarray(curve.mean), PALETTE[curve.colour % len(PALETTE)]
    places = np.arange(len(mean))
    if curve.published:
        look = {"linestyle": "--", "marker": "o", "markersize": 4, "markerfacecolor": "white", "linewidth": 1.2}
    else:
        look = {"linestyle": "-", "marker": "o", "markersize": 4, "linewidth": 1.8}
    panel.plot(places, mean, color=colour, label=curve.label, **look)
    if curve.sd is not None:
        sd = np.asarray(curve.sd)
        panel.fill_between(places, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)


def draw_learning_curves(
    history: Sequence[Mapping[str, Any]], title: str, kept: Mapping[tuple[Any, Any], int] | None = None
) -> Figure:
    """Draw losses and dev UAR against epochs, one line for each seed and fold.

    ``history`` holds a mapping for each epoch with ``seed, fold, epoch, loss`` and, where there is a dev part,
    ``dev_loss`` and ``dev_uar``; ``kept`` marks with a dot the epoch whose weights were kept.
    """
    runs: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for line in history:
        runs.setdefault((line["seed"], line["fold"]), []).append(line)
    watched = any("dev_uar" in line for line in history)
    figure = new_figure(8.6 if watched else 4.8, 3.4)
    panels = figure.subplots(1, 2 if watched else 1, squeeze=False)[0]
    drawn = [(panels[0], "loss", PALETTE[0]), (panels[0], "dev_loss", PALETTE[1])]
    drawn += [(panels[1], "dev_uar", PALETTE[1])] if watched else []
    look = {"linewidth": 1, "alpha": max(0.3, 0.9 - 0.03 * len(runs))}
    for panel, key, colour in drawn:
        for run, lines in runs.items():
            points = {line["epoch"]: line[key] for line in lines if key in line}
            panel.plot(list(points), list(points.values()), color=colour, **look)
            best = (kept or {}).get(run)
            if key != "loss" and best in points:
                panel.plot(best, points[best], "o", color=colour, markersize=4, zorder=3)
    panels[0].set(ylabel="loss", ylim=(0, None))
    names = [("training", PALETTE[0]), ("dev", PALETTE[1])][: 2 if watched else 1]
    handles = [Line2D([], [], color=colour, label=name) for name, colour in names]
    panels[0].legend(handles=handles, frameon=False, fontsize=9)
    if watched:
        panels[1].set(ylabel="UAR of the dev part")
    for panel in panels:
        panel.set(xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        quiet(panel)
    figure.suptitle(title, fontsize=10)
    return figure


def read_history(run_folder: str | Path, keys: Collection[str] = ("seed", "fold", "epoch")) -> list[dict[str, Any]]:
    """Return the lines of ``history.jsonl`` of a run, all with ``keys``; raises ``InputError`` naming the file."""
    path = Path(run_folder) / "history.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: no such history: train first, or name the folder of a finished run")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise InputError(f"{path}: cannot be read as JSON lines: {str(error).splitlines()[0]}") from error
    if not lines or not all(isinstance(line, dict) and set(keys) <= line.keys() for line in lines):
        raise InputError(f"{path}: must hold lines with {', '.join(keys)}")
    return lines


def draw_run_comparison(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], metric: str = "dev_uar", seed: int | None = None
) -> Figure:
    """Draw the learning curves of several runs: left the dev ``metric``, right the losses, dev solid and train dashed.

    ``histories`` maps what a run is called to its lines (:func:`read_history`). A run has one colour; its line is the
    mean over seeds and folds, as far as half of them train, and the band their standard deviation (ddof 0). With
    ``seed`` only that one counts. Raises ``InputError`` naming the run that lacks the metric or the seed.
    """
    colours = _colours(len(histories))
    figure = new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2, sharex=True)
    for (name, history), colour in zip(histories.items(), colours, strict=True):
        lines = [line for line in history if seed is None or line["seed"] == seed]
        if not lines:
            raise InputError(f"{name}: has no seed {seed} (seeds: {sorted({line['seed'] for line in history})})")
        if not any(metric in line for line in lines):
            known = sorted({key.removeprefix("dev_") for line in lines for key in line if key.startswith("dev_")})
            remedy = f"known: {', '.join(known)}" if known else "it was trained without a dev part"
            raise InputError(f"{name}: has no {metric.removeprefix('dev_')} of the dev part ({remedy})")
        trained = len({(line["seed"], line["fold"]) for line in lines})
        label = name if trained == 1 else f"{name} (mean of {trained})"
        _draw_means(left, lines, metric, colour, "-", label)
        _draw_means(right, lines, "dev_loss", colour, "-")
        _draw_means(right, lines, "loss", colour, "--")
    left.set(title=f"{_in_words(metric)} of the dev part", xlabel="epoch")
    right.set(title="loss", xlabel="epoch")
    solid, dashed = Line2D([], [], color="0.35", label="dev"), Line2D([], [], color="0.35", label="train")
    dashed.set_linestyle("--")
    right.legend(handles=[solid, dashed], frameon=False, fontsize=9)
    for panel in (left, right):
        panel.xaxis.get_major_locator().set_params(integer=True)
        quiet(panel)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_means(
    panel: Any, lines: Sequence[Mapping[str, Any]], key: str, colour: Any, look: str, label: str | None = None
) -> None:
    """Draw the mean of ``key`` over seeds and folds at each epoch that at least half of them reached."""
    values: dict[float, list[float]] = {}
    for line in lines:
        if key in line:
            values.setdefault(line["epoch"], []).append(line[key])
    most = max(map(len, values.values()), default=0)
    epochs = sorted(epoch for epoch, seen in values.items() if 2 * len(seen) >= most)
    mean, sd = (np.array([made(values[epoch]) for epoch in epochs]) for made in (np.mean, np.std))
    marker = "o" if len(epochs) == 1 else None
    panel.plot(epochs, mean, color=colour, linestyle=look, linewidth=1.8, marker=marker, label=label)
    if most > 1:
        panel.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.12, linewidth=0)


def _colours(count: int) -> list[Any]:
    """Return ``count`` colours to tell apart: ours, or as many as there are of a rainbow."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def _in_words(metric: str) -> str:
    name = metric.removeprefix("dev_")
    return "UAR" if name == "uar" else name.replace("_", " ")


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``figure`` as the name of the file says, .png or .svg; raises ``InputError`` for another ending."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{path}: a figure is written as .png or .svg")
    options: dict[Any, Any] = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "text.parse_math": False}
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(options), replace_atomically(path) as part:
        figure.savefig(part, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def write_figure(figure: Figure, path: Path) -> str:
    """Write ``figure`` as ``path`` with ``.svg`` and with ``.png``; returns the name of the SVG file."""
    for ending in (".png", ".svg"):
        save_figure(figure, path.with_name(path.name + ending))
    return path.name + ".svg"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size, inches, for a white page."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def quiet(panel: Any) -> None:
    """Leave of the axes what is needed to read them."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.title.set_fontsize(10)
    panel.tick_params(length=0, labelsize=8.5)
