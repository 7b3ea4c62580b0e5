"""Figures of training: learned weights of layers and learning curves, as files for papers and pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def write_figure(figure: Figure, path: Path) -> str:
    """Write ``figure`` as ``path`` with ``.svg`` and with ``.png``; returns the name of the SVG file."""
    options: dict[Any, Any] = {"svg.hashsalt": path.name, "svg.fonttype": "none", "text.parse_math": False}
    for ending in (".png", ".svg"):
        with matplotlib.rc_context(options), replace_atomically(path.with_name(path.name + ending)) as part:
            figure.savefig(part, dpi=150, metadata={"Date": None} if ending == ".svg" else None)
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
