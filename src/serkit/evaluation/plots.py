"""Figures of a report as SVG text: matplotlib without pyplot, transparent, with text that takes the page's colour."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#0a0b0d"
"""Drawn wherever the page's text colour shall stand: it leaves here as ``currentColor``."""

PALETTE = ("#3b82c4", "#e08e1b", "#2a9d7f", "#a06cc8")
"""After Okabe and Ito: distinguishable with any colour vision, and of middling lightness for light and dark pages."""

MOST_SPEAKERS = 40

Numbers = Mapping[str, Any]


def draw_confusion(confusion: Numbers) -> str:
    """Draw counts (C, C), rows = truth, shaded and labelled by the fraction of the row, with the counts below."""
    classes, counts = confusion["classes"], np.array(confusion["counts"], dtype=float)
    support = counts.sum(axis=1, keepdims=True)
    rates = np.divide(counts, support, out=np.zeros_like(counts), where=support > 0)
    size = len(classes)
    figure, axes = _panel(5.9, 0.56 * size + 1.1)
    for row in range(size):
        for column in range(size):
            rate, count = rates[row, column], int(counts[row, column])
            axes.add_patch(
                matplotlib.patches.Rectangle(
                    (column - 0.48, row - 0.48), 0.96, 0.96, facecolor=PALETTE[0], alpha=0.05 + 0.8 * rate, linewidth=0
                )
            )
            shown = f"{rate:.2f}" if support[row, 0] else "–"
            weight = "bold" if row == column else "normal"
            axes.text(column, row - 0.1, shown, ha="center", va="center", fontsize=9, color=INK, weight=weight)
            axes.text(column, row + 0.26, f"{count}", ha="center", va="center", fontsize=6.5, color=INK, alpha=0.85)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="prediction", ylabel="truth")
    axes.set_xticks(range(size), classes, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _svg(figure, "confusion")


def draw_reliability(calibration: Numbers) -> str:
    """Draw accuracy against top probability for the bins that hold utterances, their share below, and the ECE."""
    bins = [made for made in calibration["bins"] if made["n"]]
    total = sum(made["n"] for made in bins)
    figure = _figure(4.8, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color=INK, alpha=0.45, linestyle="--", linewidth=1)
    upper.text(0.97, 0.05, f"ECE {calibration['ece']['value']:.3f}", color=INK, fontsize=11, weight="bold", ha="right")
    confidences = [made["confidence"] for made in bins]
    accuracies = [made["accuracy"] for made in bins]
    # A bin of two utterances says little: the area of a dot is its share.
    areas = [8 + 400 * made["n"] / total for made in bins]
    upper.plot(confidences, accuracies, color=PALETTE[0], alpha=0.4)
    upper.scatter(confidences, accuracies, s=areas, color=PALETTE[0], zorder=3, clip_on=False, linewidths=0)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.bar(
        [(made["low"] + made["high"]) / 2 for made in bins],
        [made["n"] / total for made in bins],
        width=[0.9 * (made["high"] - made["low"]) for made in bins],
        color=PALETTE[0],
        alpha=0.7,
    )
    lower.set(xlabel="top probability (confidence)", ylabel="share")
    for axes in (upper, lower):
        _quiet(axes)
    return _svg(figure, "reliability")


def draw_speakers(speakers: Mapping[str, Numbers], pooled: float | None) -> str:
    """Draw the UAR of every speaker with n, lowest first; of many speakers the lowest and highest twenty."""
    ranked = sorted(
        ((made["uar"]["value"], name, made["n"]) for name, made in speakers.items() if made["uar"]["value"] is not None)
    )
    half = MOST_SPEAKERS // 2
    left_out = max(0, len(ranked) - MOST_SPEAKERS)
    shown = ranked[:half] + ranked[-half:] if left_out else ranked
    figure, axes = _panel(4.8, 0.19 * len(shown) + 1.0)
    places = np.arange(len(shown))
    values = [value for value, _, _ in shown]
    axes.hlines(places, 0, values, color=PALETTE[0], alpha=0.35, linewidth=1)
    axes.plot(values, places, "o", color=PALETTE[0], markersize=5)
    axes.set_yticks(places, [f"{_short(name)}  (n={n})" for _, name, n in shown])
    if pooled is not None:
        axes.axvline(pooled, color=PALETTE[1], linestyle="--", linewidth=1.2)
        axes.text(pooled, len(shown) - 0.3, f"pooled {pooled:.3f}", color=INK, fontsize=8, ha="center", va="bottom")
    if left_out:
        axes.axhline(half - 0.5, color=INK, alpha=0.4, linewidth=1, linestyle=":")
        axes.text(0.99, half - 0.5, f"{left_out} more", color=INK, fontsize=8, ha="right", va="center")
    axes.set(xlim=(0, 1), ylim=(-0.7, len(shown) - 0.3), xlabel="UAR")
    _quiet(axes, "x")
    return _svg(figure, "speakers")


def draw_groups(groups: Mapping[str, Numbers], classes: Sequence[str]) -> str:
    """Draw UAR and the recall of every class as bars for each group, such as gender, with 95 % intervals."""
    labels = ["UAR", *classes]
    figure, axes = _panel(4.8, 0.3 * len(labels) * max(1, len(groups)) * 0.75 + 1.0)
    height = 0.8 / max(1, len(groups))
    for place, made in enumerate(groups.values()):
        for row, figures in enumerate([made["uar"], *(made["recall"][label] for label in classes)]):
            if figures["value"] is None:
                continue
            at = row - 0.4 + height * (place + 0.5)
            axes.barh(at, figures["value"], height * 0.9, color=PALETTE[place % len(PALETTE)], alpha=0.75)
            if figures["low"] is not None:
                axes.plot([figures["low"], figures["high"]], [at, at], color=INK, linewidth=1.2, solid_capstyle="butt")
    labels_of = [f"{_short(name)} (n={made['n']})" for name, made in groups.items()]
    handles = [
        matplotlib.patches.Patch(color=PALETTE[place % len(PALETTE)], alpha=0.75, label=label)
        for place, label in enumerate(labels_of)
    ]
    axes.axhline(0.5, color=INK, alpha=0.4, linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(len(labels) - 0.45, -0.55), xlabel="UAR, or recall of the class")
    axes.set_yticks(range(len(labels)), labels)
    _quiet(axes, "x")
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)
    return _svg(figure, "groups")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    return figure


def _panel(width: float, height: float) -> tuple[Figure, Any]:
    figure = _figure(width, height)
    axes = figure.add_subplot()
    _ink(axes)
    return figure, axes


def _ink(axes: Any) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8.5)
    axes.spines[:].set_color(INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _quiet(axes: Any, grid: str = "both") -> None:
    _ink(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an ``<svg>`` element: ids start with ``name``, no metadata or size, the page's font."""
    options: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}
    buffer = io.StringIO()
    with matplotlib.rc_context(options), warnings.catch_warnings():
        # The reader's fonts draw the text, so what matplotlib's own lack does not matter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return re.sub(r"<[^>]*>", lambda tag: _adapt(tag.group(), name), text[text.index("<svg") :]).strip()


def _adapt(tag: str, name: str) -> str:
    tag = tag.replace(INK, "currentColor")
    tag = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", tag)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    if tag.startswith("<svg"):
        tag = re.sub(r'\s(width|height)="[^"]*"', "", tag)
    return tag
