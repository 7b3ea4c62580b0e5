"""Figures of layers: heat maps and curves of similarity, curves of probes, maps of utterances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from serkit.evaluation.curves import new_figure
from serkit.evaluation.layers.arousal import SCALE, is_derived, tones
from serkit.evaluation.layers.layer_similarity import LayerSimilarity, layer_pairs
from serkit.evaluation.layers.probes import Probe
from serkit.evaluation.layers.projection import Map
from serkit.evaluation.metrics import Floats
from serkit.evaluation.predictions import UNKNOWN, sorted_names

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5d4b8c", "#8c8c8c")
"""Okabe & Ito's palette (2008), distinguishable with any colour vision, black and yellow replaced."""
MARKERS = ("o", "^", "s", "X", "D")
MOST_NAMES = len(COLOURS) * len(MARKERS)
TITLES = {
    "cka": "linear CKA, debiased", "cka-biased": "linear CKA, biased", "cka-rbf": "RBF CKA, debiased",
    "cca": "mean squared CCA", "svcca": "SVCCA",
}  # fmt: skip


def draw_similarity(similarity: LayerSimilarity) -> Figure:
    """Draw a heat map for every pair of sources, layer against layer; numbers stand in those with few layers."""
    pairs = layer_pairs(similarity)
    names = list(dict.fromkeys(one for one, _ in pairs))
    sizes = {name: 0.42 * min(16, max(4, len(similarity.layers[name]))) for name in names}
    width, height = sum(sizes.values()), sum(sizes.values())
    figure = new_figure(1.9 + width, 0.9 + height)
    ratios = [sizes[name] for name in names]
    panels = figure.subplots(len(names), len(names), squeeze=False, width_ratios=ratios, height_ratios=ratios)
    shown: Any = None
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            if column > row:
                panels[row, column].remove()
                continue
            shown = _draw_heat(panels[row, column], similarity, one, other)
            if row == len(names) - 1:
                panels[row, column].set_xlabel(f"layer of {other}")
            if column == 0:
                panels[row, column].set_ylabel(f"layer of {one}")
    kept = [panels[row, column] for row in range(len(names)) for column in range(row + 1)]
    bar = figure.colorbar(shown, ax=kept, fraction=0.06, pad=0.03, aspect=24)
    bar.set_label(TITLES[similarity.measure])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5)
    return figure


def _draw_heat(panel: Any, similarity: LayerSimilarity, one: str, other: str) -> Any:
    values = similarity.matrix(one, other)
    shown = panel.imshow(values, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
    if max(values.shape) <= 13:
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > 0.55 else "white"
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    for axis, name in ((panel.xaxis, other), (panel.yaxis, one)):
        layers = similarity.layers[name]
        every = math.ceil(len(layers) / 13)
        axis.set_ticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    panel.tick_params(length=0, labelsize=8.5)
    panel.spines[:].set_visible(False)
    return shown


def draw_reference(similarity: LayerSimilarity, reference: str) -> Figure:
    """Draw how alike every layer of the other sources is to the only layer of ``reference``, with 95 % intervals."""
    layer = similarity.layers[reference][0]
    curves = {}
    for name, layers in similarity.layers.items():
        if name != reference and len(layers) > 1:
            curves[name] = [(each, similarity.figure((name, each), (reference, layer))) for each in layers]
    figure, panel = _panel()
    for number, (name, points) in enumerate(curves.items()):
        _draw_curve(panel, name, number, points)
    _finish(panel, f"{TITLES[similarity.measure]}, with {reference}", bool(len(curves) > 1))
    return figure


def draw_drift(similarity: LayerSimilarity, first: str) -> Figure:
    """Draw how alike every layer of the other sources is to the same layer of ``first``, with 95 % intervals."""
    figure, panel = _panel()
    for number, name in enumerate(drifted(similarity, first)):
        both = [layer for layer in similarity.layers[name] if layer in similarity.layers[first]]
        points = [(layer, similarity.figure((first, layer), (name, layer))) for layer in both]
        _draw_curve(panel, name, number + 1, points)
    _finish(panel, f"{TITLES[similarity.measure]}, with that layer of {first}", True)
    return figure


def drifted(similarity: LayerSimilarity, first: str) -> list[str]:
    """Return the other sources that have two or more layers in common with ``first``."""
    own = set(similarity.layers[first])
    return [name for name, layers in similarity.layers.items() if name != first and len(own & set(layers)) > 1]


def draw_probes(probes: Sequence[Probe], titles: Mapping[str, str] | None = None) -> Figure:
    """Draw the scores of every target against the layer, a panel each; dotted: chance; sources of one layer are lines.

    ``titles`` are what targets are called above their panels.
    """
    targets = list(dict.fromkeys(each.target for each in probes))
    sources = list(dict.fromkeys(each.source for each in probes))
    metric = {each.target: each.metric for each in probes}
    columns = min(4 if len(targets) < 9 else 5, len(targets))
    rows = math.ceil(len(targets) / columns)
    figure = new_figure(0.6 + 2.4 * columns, 0.8 + 1.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for place, (panel, target) in enumerate(zip(panels.flat, targets, strict=False)):
        asked = [each for each in probes if each.target == target]
        for number, source in enumerate(sources):
            points = [(each.layer, each.figure) for each in asked if each.source == source]
            if points:
                _draw_curve(panel, source, number, points)
        uar = asked[0].metric == "uar"
        if uar:
            panel.axhline(asked[0].chance, color="0.45", linewidth=1, linestyle=":")
        panel.set_title((titles or {}).get(target, target), fontsize=10)
        values = [each.figure.low or each.figure.value or 0 for each in asked]
        panel.set(ylim=(0 if uar else min(0, min(values)) - 0.02, 1.02))
        panel.margins(x=0.06)
        panel.xaxis.get_major_locator().set_params(integer=True)
        if place % columns == 0 or uar != (metric[targets[place - 1]] == "uar"):
            panel.set_ylabel("UAR" if uar else "R²")
        if place + columns >= len(targets):
            panel.set_xlabel("layer")
        _quiet(panel)
    for panel in panels.flat[len(targets) :]:
        panel.remove()
    if len(sources) > 1:
        handles = [_handle(name, number) for number, name in enumerate(sources)]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def draw_maps(maps: Sequence[Map], columns: pl.DataFrame) -> Figure:
    """Draw utterances, a row of panels for each of ``maps``, a column for each of ``columns``.

    Text gets colours, then shapes; of many values the most frequent are told apart. Numbers get a scale. Low arousal is
    red and high arousal blue, rated or told by the class.
    """
    lines = [min(MOST_NAMES + 1, column.n_unique()) / _across(column) for column in columns.iter_columns()]
    below = 0.22 + 0.175 * math.ceil(max(lines))
    figure = new_figure(0.4 + 3.5 * columns.width, 0.4 + 3.1 * len(maps) + below)
    ratios = [3.1] * len(maps) + [below]
    shared: Any = {"squeeze": False, "sharex": "row", "sharey": "row", "height_ratios": ratios}
    panels = figure.subplots(len(ratios), columns.width, **shared)
    for place, column in enumerate(columns.iter_columns()):
        shown: Any = None
        handles: list[Any] = []
        for panel, made in zip(panels[:, place], maps, strict=False):
            if column.dtype.is_numeric():
                cmap: Any = (
                    LinearSegmentedColormap.from_list("arousal", SCALE) if column.name == "arousal" else "cividis"
                )
                shown = panel.scatter(*made.points.T, c=column.to_numpy(), s=9, cmap=cmap, linewidths=0)
            else:
                handles = _scatter(panel, made.points, column)
            panel.set(xlabel=made.axes[0], xticks=[], yticks=[])
            panel.spines[["top", "right"]].set_visible(False)
        title = f"{column.name} (red: low, blue: high)" if column.name == "arousal" else column.name
        panels[0, place].set_title(title, fontsize=11)
        legend = panels[-1, place]
        legend.axis("off")
        if shown is not None:
            bar = figure.colorbar(shown, ax=legend, location="bottom", fraction=0.3, aspect=30)
            bar.outline.set_visible(False)
        else:
            legend.legend(handles=handles, loc="upper center", ncols=_across(column), frameon=False, fontsize=8,
                          columnspacing=1, handletextpad=0.1, borderpad=0)  # fmt: skip
    for panel, made in zip(panels[:, 0], maps, strict=False):
        layer = f", layer {made.layer}" if made.of_many else ""
        panel.set_ylabel(f"{made.source}{layer}\n{made.axes[1]}")
    return figure


def _across(column: pl.Series) -> int:
    """Return how many names stand side by side in a legend."""
    return 3 if is_derived(column) else 4


def _scatter(panel: Any, points: Floats, column: pl.Series) -> list[Any]:
    labels = column.cast(pl.String).fill_null(UNKNOWN)
    names = labels.value_counts(sort=True)[column.name].to_list()[:MOST_NAMES]
    names = [name for name in sorted_names(labels) if name in names]
    looks: dict[str, dict[str, Any]] = {
        name: {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number // len(COLOURS)]}
        for number, name in enumerate(names)
    }
    if is_derived(column):
        looks = {
            name: {"color": colour, "marker": MARKERS[place % len(MARKERS)]}
            for name, (colour, place) in tones(names).items()
        }
    handles = []
    for name, look in looks.items():
        rows = (labels == name).to_numpy()
        panel.scatter(*points[rows].T, s=11, alpha=0.75, linewidths=0, **look)
        handles.append(Line2D([], [], linestyle="", markersize=5, markeredgewidth=0, label=name, **look))
    rest = ~labels.is_in(names).to_numpy()
    if rest.any():
        panel.scatter(*points[rest].T, s=6, color="0.8", linewidths=0, zorder=0)
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=4, color="0.8", label="others"))
    return handles


def _draw_curve(panel: Any, name: str, number: int, points: Sequence[tuple[int, Any]]) -> None:
    colour = COLOURS[number % len(COLOURS)]
    known = [(layer, made) for layer, made in points if made.value is not None]
    layers, values = [layer for layer, _ in known], [made.value for _, made in known]
    lows = [made.value if made.low is None else made.low for _, made in known]
    highs = [made.value if made.high is None else made.high for _, made in known]
    if len(points) == 1 and known:
        panel.axhline(values[0], color=colour, linewidth=1.4, linestyle="--")
        panel.axhspan(lows[0], highs[0], color=colour, alpha=0.13, linewidth=0)
        return
    panel.fill_between(layers, lows, highs, color=colour, alpha=0.18, linewidth=0)
    marker = MARKERS[number % len(MARKERS)]
    look: dict[str, Any] = {"marker": marker, "markersize": 4.5, "linewidth": 1.6, "clip_on": False}
    panel.plot(layers, values, color=colour, label=name, zorder=3, **look)


def _handle(name: str, number: int) -> Line2D:
    return Line2D([], [], color=COLOURS[number % len(COLOURS)], linewidth=1.8, label=name)


def _finish(panel: Any, title: str, legend: bool) -> None:
    low, high = panel.get_ylim()
    panel.set(ylim=(min(0, low), min(high, 1.0) if high > 0.9 else high), xlabel="layer")
    panel.set_title(title, fontsize=10)
    panel.xaxis.get_major_locator().set_params(integer=True)
    if legend:
        panel.legend(frameon=False, fontsize=8.5)
    _quiet(panel)


def _panel() -> tuple[Figure, Any]:
    figure = new_figure(5.0, 3.4)
    return figure, figure.add_subplot()


def _quiet(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="0.9", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=8.5)
    panel.xaxis.label.set_fontsize(9.5)
    panel.yaxis.label.set_fontsize(9.5)
