"""Labelled stretches of time against each other: the pieces in which nothing changes, events, and frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats
from serkit.evaluation.timelines import Stretch


@dataclass(frozen=True)
class Grid:
    """Time cut wherever a label begins or ends: ``widths`` (K,), and which of C labels ``active`` (C, K) there."""

    edges: Floats
    reference: np.ndarray
    hypothesis: np.ndarray

    @property
    def widths(self) -> Floats:
        """Seconds of each of the K pieces."""
        return np.diff(self.edges)


def cut_grid(
    reference: Iterable[Stretch], hypothesis: Iterable[Stretch], seconds: float, classes: Sequence[str]
) -> Grid:
    """Return the pieces of time from 0 to ``seconds`` in which no label of either side begins or ends."""
    sides = [[each for each in side if each.start < seconds] for side in (reference, hypothesis)]
    times = [time for side in sides for each in side for time in (each.start, each.end)]
    edges = np.unique(np.minimum([0.0, seconds, *times], seconds))
    active = []
    for side in sides:
        begun = np.zeros((len(classes), len(edges)), dtype=np.int64)
        for each in side:
            row = classes.index(each.label)
            begun[row, np.searchsorted(edges, each.start)] += 1
            begun[row, np.searchsorted(edges, min(each.end, seconds))] -= 1
        active.append(begun.cumsum(axis=1)[:, :-1] > 0)
    return Grid(edges, *active)


def find_events(active: np.ndarray, edges: Floats) -> Floats:
    """Return the (n, 2) starts and ends of the runs in which a label is ``active`` (K,)."""
    steps = np.diff(np.concatenate([[0], active.astype(np.int8), [0]]))
    return np.stack([edges[np.flatnonzero(steps == 1)], edges[np.flatnonzero(steps == -1)]], axis=1)


def spread_frames(labels: Sequence[str], window: float, stride: float) -> tuple[Stretch, ...]:
    """Return the stretches of frames, the i-th of which begins at ``i * stride`` and lasts ``window`` (seconds).

    Where frames overlap the border is in the middle of what they share; between frames that do not touch is nothing.
    So does SpeechBrain.
    """
    if not labels or window <= 0 or stride <= 0:
        raise InputError("frames: give one label or more, and a window and a stride above 0")
    late = max(0.0, (window - stride) / 2)
    found: list[Stretch] = []
    for index, label in enumerate(labels):
        start = index * stride + (late if index else 0.0)
        end = index * stride + (window if index == len(labels) - 1 or window <= stride else stride + late)
        if found and found[-1].label == label and start <= found[-1].end + 1e-9:
            found[-1] = replace(found[-1], end=end)
        else:
            found.append(Stretch(start, end, label))
    return tuple(found)


def put_to_frames(stretches: Iterable[Stretch], seconds: float, frame: float, neutral: str) -> tuple[Stretch, ...]:
    """Return stretches as frames of ``frame`` seconds would have them: each frame has the label with most of its time.

    Of several speakers at a time one label remains. The frames are those of SpeechBrain's recipe: the last is the one
    that reaches the end.
    """
    labelled = [Stretch(0.0, 0.0, neutral), *stretches]
    classes = list(dict.fromkeys(each.label for each in labelled))
    count = max(1, int(np.ceil(seconds / frame - 1e-9)))
    share = np.zeros((len(classes), count))
    starts = np.arange(count) * frame
    for each in labelled:
        near = slice(max(0, int(each.start / frame) - 1), int(each.end / frame) + 2)
        shared = np.minimum(each.end, starts[near] + frame) - np.maximum(each.start, starts[near])
        share[classes.index(each.label), near] += np.maximum(shared, 0.0)
    others = np.minimum(starts + frame, seconds) - starts - share.sum(axis=0)
    share[0] += np.maximum(others, 0.0)
    return spread_frames([classes[best] for best in share.argmax(axis=0)], frame, frame)
