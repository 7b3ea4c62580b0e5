"""A timeline as a figure: waveform, who expresses what, and the probability of every class, over one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serkit.data.files import replace_atomically
from serkit.errors import InputError, missing_extra
from serkit.inference.palette import class_colours
from serkit.inference.timeline import Timeline, TimelineSegment
from serkit.inference.timeline_writers import clock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

WIDTH = 11.0
"""Inches."""
BINS = 1200
"""Pieces of time that can be told apart on that width."""
LONG, FEWER = 1200.0, 400
"""Curves of recordings of more seconds are means of fewer pieces: seconds of speech are too short to be seen there."""
MARGIN = 1.15
"""Inches for names on the left."""
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
"""Seconds between ticks."""
INK, SOFT = "#1b1f24", "#8a929b"


def plot_timeline(timeline: Timeline, path: str | Path, envelope: ArrayLike | None = None) -> None:
    """Draw ``timeline`` into a file, .png or .svg.

    Rows from above: the ``envelope`` (bins,) of the waveform in [0, 1] where it is given, a lane of segments for every
    speaker, and the probability of every class from 0 to 1, with the time for which it is the label at the right. Where
    segments are too short to be seen, lanes show the label with most time in each of 1200 pieces; beyond 20 minutes
    curves are means of 400 pieces; where speakers overlap, curves are means over them. Raises ``InputError`` without
    matplotlib and for another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"{path}: a figure is written as .png or .svg")
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise missing_extra("matplotlib", "train") from None
    figure = draw_timeline(timeline, envelope)
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[Any, Any] = {"svg.hashsalt": path.stem, "svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(options), replace_atomically(path) as part:
        figure.savefig(part, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def draw_timeline(timeline: Timeline, envelope: ArrayLike | None = None) -> Figure:
    """Return the figure of :func:`plot_timeline`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    span = time_span(timeline)
    speakers = list(dict.fromkeys(segment.speaker for segment in timeline.segments)) or [None]
    lanes, rows = 0.32 * len(speakers), 0.34 * len(timeline.classes)
    heights = [0.8] * (envelope is not None) + [lanes, rows]
    height = sum(heights) + 0.2 * (len(heights) - 1) + 0.95
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(heights),
        1,
        sharex=True,
        squeeze=False,
        height_ratios=heights,
        gridspec_kw={
            "left": MARGIN / WIDTH,
            "right": 1 - 0.8 / WIDTH,
            "bottom": 0.45 / height,
            "top": 1 - 0.5 / height,
            "hspace": 0.2 / (sum(heights) / len(heights)),
        },
    )[:, 0]
    figure.text(MARGIN / WIDTH, 1 - 0.3 / height, timeline.id, fontsize=11, weight="bold", color=INK)
    said = f"emotion expressed, as heard by {timeline.model}"
    figure.text(1 - 0.8 / WIDTH, 1 - 0.3 / height, said, fontsize=8.5, color=SOFT, ha="right")
    if envelope is not None:
        _draw_envelope(panels[0], np.asarray(envelope, dtype=np.float64), span)
    _draw_lanes(panels[-2], timeline, speakers, span)
    _draw_curves(panels[-1], timeline, span)
    for panel in panels:
        _set_time(panel, span, last=panel is panels[-1])
    return figure


def time_span(timeline: Timeline) -> tuple[float, float]:
    """Return where the axis begins and ends; the timeline of a part of a file has times of the file."""
    last = max((segment.end for segment in timeline.segments), default=0.0)
    end = max(timeline.seconds, last, 1e-3)
    return max(0.0, end - timeline.seconds) if last > timeline.seconds + 0.05 else 0.0, end


def time_ticks(span: tuple[float, float]) -> tuple[Floats, list[str]]:
    """Return at most ten ticks of round distance, and their texts."""
    step = next((step for step in STEPS if (span[1] - span[0]) / step <= 9), STEPS[-1])
    ticks = np.arange(np.ceil(span[0] / step - 1e-9), np.floor(span[1] / step + 1e-9) + 1) * step
    return ticks, [clock(tick, 0 if step >= 1 else 1) for tick in ticks]


def bin_shares(
    starts: Sequence[float], ends: Sequence[float], span: tuple[float, float], bins: int = BINS
) -> list[tuple[slice, Floats]]:
    """Return for every stretch which bins of the ``span`` it touches, and which share of each it covers."""
    width = (span[1] - span[0]) / bins
    found = []
    for start, end in zip(starts, ends, strict=True):
        low, high = (np.clip((time - span[0]) / width, 0, bins) for time in (start, end))
        first, last = int(low), max(int(np.ceil(high)), int(low))
        places = np.arange(first, last)
        found.append((slice(first, last), np.minimum(high, places + 1) - np.maximum(low, places)))
    return found


def bin_curve(timeline: Timeline, span: tuple[float, float], bins: int = BINS) -> Floats:
    """Return mean probabilities (C, bins), NaN where nothing was judged."""
    sums, weights = np.zeros((len(timeline.classes), bins)), np.zeros(bins)
    places = bin_shares([each.start for each in timeline.curve], [each.end for each in timeline.curve], span, bins)
    for point, (place, share) in zip(timeline.curve, places, strict=True):
        sums[:, place] += np.outer([point.probabilities.get(name, 0.0) for name in timeline.classes], share)
        weights[place] += share
    return np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 1e-9)


def bin_labels(
    segments: Sequence[TimelineSegment], classes: Sequence[str], span: tuple[float, float], bins: int = BINS
) -> list[tuple[float, float, str]]:
    """Return (start, end, label) of runs of bins in which one label has the most time, silence being one more."""
    shares = np.zeros((len(classes) + 1, bins))
    places = bin_shares([each.start for each in segments], [each.end for each in segments], span, bins)
    for segment, (place, share) in zip(segments, places, strict=True):
        shares[classes.index(segment.label), place] += share
    shares[-1] = np.maximum(1 - shares[:-1].sum(axis=0), 0)
    best = shares.argmax(axis=0)
    borders = np.flatnonzero(np.diff(best)) + 1
    edges = span[0] + np.array([0, *borders, bins]) * (span[1] - span[0]) / bins
    chosen = best[[0, *borders]]
    return [
        (float(start), float(end), classes[label])
        for start, end, label in zip(edges[:-1], edges[1:], chosen, strict=True)
        if label < len(classes)
    ]


def _draw_envelope(panel: Any, envelope: Floats, span: tuple[float, float]) -> None:
    edges = np.linspace(*span, len(envelope) + 1)
    panel.stairs(envelope, edges, baseline=-envelope, fill=True, color="#9aa3ad", linewidth=0)
    top = max(float(envelope.max(initial=0.0)), 1e-3)
    panel.set_ylim(-1.05 * top, 1.05 * top)
    panel.set_yticks([0], ["waveform"])


def _draw_lanes(panel: Any, timeline: Timeline, speakers: Sequence[str | None], span: tuple[float, float]) -> None:
    colours = class_colours(timeline.classes)
    inch = (span[1] - span[0]) / (WIDTH - MARGIN - 0.8)
    for lane, speaker in enumerate(speakers):
        mine = [segment for segment in timeline.segments if segment.speaker == speaker]
        bars = [(segment.start, segment.end, segment.label) for segment in mine]
        narrow = sum(end - start < 1.5 * (span[1] - span[0]) / BINS for start, end, _ in bars)
        bars = bin_labels(mine, timeline.classes, span) if narrow > 0.1 * len(bars) else bars
        panel.broken_barh(
            [(start, end - start) for start, end, _ in bars],
            (lane - 0.42, 0.84),
            facecolors=[colours[label] for *_, label in bars],
            edgecolor="white",
            # Borders between segments are lost on a long axis: there they would be all that is seen.
            linewidth=0.8 if len(bars) < 120 else 0,
        )
        for start, end, label in bars:
            if end - start > (0.058 * len(label) + 0.06) * inch:
                ink = "white" if _is_dark(colours[label]) else INK
                middle = (start + end) / 2
                panel.text(middle, lane, label, ha="center", va="center", fontsize=8.5, color=ink, clip_on=True)
    panel.set_ylim(len(speakers) - 0.5, -0.5)
    panel.set_yticks(range(len(speakers)), [_short(speaker or "expressed") for speaker in speakers])
    if not timeline.segments:
        panel.text(0.5, 0.5, "no speech found", transform=panel.transAxes, ha="center", va="center", color=SOFT)


def _draw_curves(panel: Any, timeline: Timeline, span: tuple[float, float]) -> None:
    colours, classes = class_colours(timeline.classes), timeline.classes
    bins = BINS if span[1] - span[0] <= LONG else FEWER
    values, edges = bin_curve(timeline, span, bins), np.linspace(*span, bins + 1)
    for place, side, text in ((0, 0, "probability from 0 to 1, line at 0.5"), (1, 6, "label for")):
        panel.annotate(
            text, (place, 1), (side, 3), xycoords="axes fraction", textcoords="offset points", fontsize=7.5,
            color=SOFT,
        )  # fmt: skip
    for row, name in enumerate(classes):
        base = float(len(classes) - 1 - row)
        panel.axhline(base, color="0.85", linewidth=0.7, zorder=0)
        panel.axhline(base + 0.45, color="0.93", linewidth=0.7, zorder=0)
        curve = np.nan_to_num(values[row]) * 0.9 + base
        panel.stairs(curve, edges, baseline=base, fill=True, color=colours[name], linewidth=0)
        panel.plot(
            -0.012,
            base + 0.42,
            "s",
            color=colours[name],
            markersize=7,
            transform=panel.get_yaxis_transform(),
            clip_on=False,
        )
        seconds = sum(segment.end - segment.start for segment in timeline.segments if segment.label == name)
        panel.annotate(
            clock(seconds) if seconds else "–",
            (1, base + 0.42),
            (6, 0),
            xycoords=panel.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK if seconds else SOFT,
        )
    panel.set_ylim(-0.05, len(classes) + 0.02)
    panel.set_yticks([len(classes) - 1 - row + 0.42 for row in range(len(classes))], [_short(name) for name in classes])
    panel.tick_params(axis="y", pad=14)


def _set_time(panel: Any, span: tuple[float, float], last: bool) -> None:
    ticks, texts = time_ticks(span)
    panel.set_xlim(*span)
    panel.set_xticks(ticks, texts)
    panel.grid(axis="x", color="0.88", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_visible(last)
    panel.spines["bottom"].set_color("0.6")
    panel.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    panel.tick_params(axis="x", length=3 if last else 0, labelsize=8.5, labelbottom=last, color="0.6", labelcolor=INK)


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
