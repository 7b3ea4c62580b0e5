"""Which emotion appears when: the emotion diarization error rate (EDER) of Wang et al. 2023 (arXiv 2306.12991).

    EDER = (missed emotion + false alarm + confusion) / length of the recordings

Whatever is not said to be an emotion is neutral, on both sides: silence, and speech that is labelled so. Missed is
emotion taken for neutral, a false alarm is neutral taken for emotion, confusion is one emotion taken for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats, ratio
from serkit.evaluation.pieces import Grid, cut_grid, find_events, put_to_frames, spread_frames
from serkit.evaluation.statistics.bootstrap import RESAMPLES, Figure, Tally, figures, one, tally
from serkit.evaluation.timelines import Stretch, Track

SLACK = 0.05
"""Seconds by which a reference may go on beyond its recording, as rounded times do."""

COUNTS = (
    "reference", "hypothesis", "matched", "onset_error", "offset_error",
    "onset_within", "offset_within", "both_within",
)  # fmt: skip
"""What is counted of the boundaries of a recording; the errors are sums of absolute seconds over matched events."""


def count_cells(grid: Grid) -> Floats:
    """Return seconds (C, C), rows = reference, of a grid whose first class is neutral.

    Where speakers overlap a side has several emotions: those of both are right, and of the rest each of one side is
    confused with one of the other while there are some; what remains is missed, or a false alarm, as in speaker
    diarization. Seconds of a piece are shared equally among its rest, so that the cells tell who was taken for whom.
    """
    emotions, widths = slice(1, None), grid.widths
    truth, said = grid.reference[emotions], grid.hypothesis[emotions]
    right, lost, extra = truth & said, truth & ~said, said & ~truth
    few = np.minimum(lost.sum(axis=0), extra.sum(axis=0))
    by_lost, by_extra = (ratio(np.ones(len(few)), rest.sum(axis=0), 0.0) for rest in (lost, extra))
    cells = np.zeros((len(grid.reference),) * 2)
    cells[0, 0] = widths[~(truth.any(axis=0) | said.any(axis=0))].sum()
    cells[emotions, emotions] = np.diag(right @ widths) + (lost * (widths * few * by_lost * by_extra)) @ extra.T
    cells[emotions, 0] = lost @ (widths * (1 - few * by_lost))
    cells[0, emotions] = extra @ (widths * (1 - few * by_extra))
    return cells


def frame_eder(
    labels: Sequence[str],
    window: float,
    stride: float,
    reference: Iterable[Stretch],
    seconds: float,
    neutral: str = "neutral",
) -> float:
    """Return the EDER of frames exactly as SpeechBrain's ``EDER`` (version 1.1) computes it for one recording.

    It is the share of the recording that is not right: unlike elsewhere here, time that no frame covers is an error
    even where the reference is neutral. Unlike SpeechBrain's, the reference may have any number of emotions, and labels
    are compared whole and not by their first letter.

    >>> frame_eder(["neutral"] * 3 + ["angry"] * 3, 0.2, 0.2, [Stretch(0.39, 1.10, "angry")], 1.22)
    0.2704918032786885
    """
    frames, truth = spread_frames(labels, window, stride), list(reference)
    classes = list_classes([Track("", tuple(truth)), Track("", frames)], neutral)
    grid = cut_grid(truth, frames, seconds, classes)
    quiet = ~grid.reference[1:].any(axis=0)
    right = np.where(quiet, grid.hypothesis[0], (grid.reference & grid.hypothesis)[1:].any(axis=0))
    return float(1 - grid.widths[right].sum() / seconds)


def list_classes(tracks: Iterable[Track], neutral: str) -> list[str]:
    """Return ``neutral`` and then all other labels, sorted."""
    return [neutral, *sorted({each.label for track in tracks for each in track.stretches} - {neutral})]


def count_boundaries(grid: Grid, collar: float) -> Floats:
    """Return :data:`COUNTS` of one recording.

    An event is a run of one emotion. Events of one emotion are matched one to one, so that they share the most time.
    """
    counts = dict.fromkeys(COUNTS, 0.0)
    for truth, said in zip(grid.reference[1:], grid.hypothesis[1:], strict=True):
        wanted, found = find_events(truth, grid.edges), find_events(said, grid.edges)
        counts["reference"] += len(wanted)
        counts["hypothesis"] += len(found)
        ends = np.minimum(wanted[:, None, 1], found[None, :, 1])
        shared = np.maximum(ends - np.maximum(wanted[:, None, 0], found[None, :, 0]), 0.0)
        rows, columns = linear_sum_assignment(shared, maximize=True)
        kept = shared[rows, columns] > 0
        errors = np.abs(wanted[rows[kept]] - found[columns[kept]])
        within = errors <= collar + 1e-9
        counts["matched"] += kept.sum()
        for column, name in enumerate(("onset", "offset")):
            counts[f"{name}_error"] += errors[:, column].sum()
            counts[f"{name}_within"] += within[:, column].sum()
        counts["both_within"] += within.all(axis=1).sum()
    return np.array([counts[name] for name in COUNTS])


def judge_tracks(
    pairs: Sequence[tuple[Track, Track]],
    neutral: str | Sequence[str] = "neutral",
    collar: float = 0.25,
    frame: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the EDER of (reference, hypothesis) pairs and what it is made of, ready for JSON.

    ``neutral`` are the labels that are no emotion; the first names them. Times are exact; with ``frame`` (seconds) the
    hypotheses are first put to frames of that length, as SpeechBrain has them (its recipe: 0.02). ``collar``, in
    seconds, is for ``boundaries`` alone.

    ``eder``, ``missed``, ``false_alarm`` and ``confusion`` are shares of the length of all recordings; ``mean_eder`` is
    the mean over recordings, which SpeechBrain reports. Figures have 95 % percentile bootstrap intervals over speakers
    where references name them, else over recordings. ``by_class`` has every class's ``recall``, ``precision`` and
    ``f1`` of seconds; ``cells`` the seconds (C, C), rows = reference, columns = hypothesis. ``boundaries`` are of
    events (runs of one emotion, matched one to one): the share of ``onset`` and ``offset`` that a hypothesis has within
    ``collar``, of both together as ``recall``, ``precision`` and ``f1``, and the mean absolute errors of matched events
    in seconds. A recording whose length neither side tells ends with its last stretch: ``lengths_assumed`` counts them.

    Raises ``InputError`` for no pairs, a recording of no length, and a reference that goes on beyond its recording.
    """
    names = [neutral] if isinstance(neutral, str) else list(neutral)
    if not pairs or not names or (frame is not None and frame <= 0) or collar < 0:
        raise InputError("give one recording or more, the name of neutral, a collar of 0 or more, a frame above 0")
    known = [tuple(_rename(track, names) for track in pair) for pair in pairs]
    classes = list_classes([track for pair in known for track in pair], names[0])
    rows: list[Floats] = []
    by_recording: list[dict[str, Any]] = []
    assumed = 0
    for reference, hypothesis in known:
        seconds, told = _length(reference, hypothesis)
        said = hypothesis.stretches
        said = said if frame is None else put_to_frames(said, seconds, frame, names[0])
        grid = cut_grid(reference.stretches, said, seconds, classes)
        cells, assumed = count_cells(grid), assumed + (not told)
        parts = {name: float(value) for name, value in zip(PARTS, split_errors(cells) / seconds, strict=True)}
        each = {"id": reference.id, "seconds": seconds, "eder": sum(parts.values()), **parts}
        by_recording.append(each)
        rows.append(
            np.concatenate([cells.ravel(), count_boundaries(grid, collar), [sum(parts.values()), 1.0, seconds]])
        )
    of = tally(
        np.array(rows),
        [reference.id for reference, _ in known],
        [reference.speaker for reference, _ in known],
        [0] * len(rows),
        (len(rows[0]),),
    )
    of = replace(of, units=of.units.replace("utterance", "recording"))
    draws = of.resample(resamples, seed) if of.repeats.sum() > 1 else None
    total = of.total[0]
    return {
        "method": "exact times" if frame is None else f"frames of {frame:g} s",
        "neutral": names,
        "classes": classes,
        "recordings": len(rows),
        "seconds": float(total[-1]),
        "lengths_assumed": assumed,
        **{name: _figure(of, draws, metric, len(rows)) for name, metric in _rates(len(classes)).items()},
        "by_class": _judge_classes(of, draws, classes),
        "cells": total[: len(classes) ** 2].reshape(len(classes), -1).tolist(),
        "boundaries": {"collar": collar, **_judge_boundaries(of, draws, len(classes))},
        "by_recording": by_recording,
    }


PARTS = ("missed", "false_alarm", "confusion")


def split_errors(cells: Floats) -> Floats:
    """Return the seconds of missed emotion, false alarm and confusion (..., 3) of cells (..., C, C)."""
    emotions = cells[..., 1:, 1:]
    confused = emotions.sum(axis=(-2, -1)) - np.trace(emotions, axis1=-2, axis2=-1)
    return np.stack([cells[..., 1:, 0].sum(axis=-1), cells[..., 0, 1:].sum(axis=-1), confused], axis=-1)


def _rename(track: Track, names: Sequence[str]) -> Track:
    return replace(
        track,
        stretches=tuple(replace(each, label=names[0]) if each.label in names else each for each in track.stretches),
    )


def _length(reference: Track, hypothesis: Track) -> tuple[float, bool]:
    """Return the seconds of a recording, and whether somebody told them."""
    told = reference.seconds if reference.seconds is not None else hypothesis.seconds
    last = max((each.end for each in reference.stretches), default=0.0)
    seconds = max([last, *(each.end for each in hypothesis.stretches)]) if told is None else told
    if told is not None and last > told + SLACK:
        raise InputError(
            f"{reference.id}: the reference goes on until {last:g} s, but the recording ends at {told:g} s: correct one"
        )
    if seconds <= 0:
        raise InputError(f"{reference.id}: has no length: give its duration")
    return seconds, told is not None


def _rates(size: int) -> Mapping[str, Any]:
    """Return the metrics of sums (..., M) by name."""

    def part(index: int | None) -> Any:
        def rate(sums: Floats) -> Floats:
            errors = split_errors(sums[..., : size**2].reshape(*sums.shape[:-1], size, size))
            return ratio(errors.sum(axis=-1) if index is None else errors[..., index], sums[..., -1])

        return rate

    rates = {"eder": part(None)} | {name: part(index) for index, name in enumerate(PARTS)}
    return rates | {"mean_eder": lambda sums: ratio(sums[..., -3], sums[..., -2])}


def _figure(of: Tally, draws: Floats | None, metric: Any, n: int) -> dict[str, Any]:
    found: Figure = figures(of, one(metric), [n], draws, reason="nothing to judge")[0]
    if draws is None and found.value is not None:
        found = replace(found, reason="one speaker or recording: nothing to resample")
    return found.as_dict()


def _judge_classes(of: Tally, draws: Floats | None, classes: Sequence[str]) -> list[dict[str, Any]]:
    size = len(classes)
    cells = of.total[0, : size**2].reshape(size, size)
    found = []
    for row, name in enumerate(classes):
        truth = slice(row * size, (row + 1) * size)
        said = slice(row, size**2, size)
        hit = row * size + row

        def recall(sums: Floats, truth: slice = truth, hit: int = hit) -> Floats:
            return ratio(sums[..., hit], sums[..., truth].sum(axis=-1))

        def precision(sums: Floats, said: slice = said, hit: int = hit) -> Floats:
            return ratio(sums[..., hit], sums[..., said].sum(axis=-1))

        def f1(sums: Floats, truth: slice = truth, said: slice = said, hit: int = hit) -> Floats:
            return ratio(2 * sums[..., hit], sums[..., truth].sum(axis=-1) + sums[..., said].sum(axis=-1))

        found.append(
            {
                "class": name,
                "reference_seconds": float(cells[row].sum()),
                "hypothesis_seconds": float(cells[:, row].sum()),
                "correct_seconds": float(cells[row, row]),
                **{
                    key: _figure(of, draws, metric, of.n)
                    for key, metric in (("recall", recall), ("precision", precision), ("f1", f1))
                },
            }
        )
    return found


def _judge_boundaries(of: Tally, draws: Floats | None, size: int) -> dict[str, Any]:
    at = {name: size**2 + index for index, name in enumerate(COUNTS)}
    total = of.total[0]

    def share(top: str, *bottom: str, times: int = 1) -> dict[str, Any]:
        def metric(sums: Floats) -> Floats:
            return ratio(times * sums[..., at[top]], sums[..., [at[name] for name in bottom]].sum(axis=-1))

        return _figure(of, draws, metric, int(sum(total[at[name]] for name in bottom)))

    return {
        **{f"{name}_events": int(total[at[name]]) for name in ("reference", "hypothesis", "matched")},
        "onset": share("onset_within", "reference"),
        "offset": share("offset_within", "reference"),
        "recall": share("both_within", "reference"),
        "precision": share("both_within", "hypothesis"),
        "f1": share("both_within", "reference", "hypothesis", times=2),
        "onset_error": share("onset_error", "matched"),
        "offset_error": share("offset_error", "matched"),
    }
