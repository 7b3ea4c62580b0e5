"""The course of a pretraining as a figure: its losses, and how much frames differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from serkit.evaluation.curves import new_figure, quiet, read_history, write_figure
from serkit.evaluation.plots import PALETTE

LOSSES = {"loss_frame": "frames", "loss_utterance": "utterance"}
VARIANCES = {"target_variance": "targets", "prediction_variance": "predictions"}


def read_pretraining(folder: Path) -> list[dict[str, Any]]:
    """Return the history of a pretraining; raises ``InputError`` naming the file."""
    return read_history(folder, {"update", "loss", *LOSSES, *VARIANCES})


def draw_run(folder: Path) -> str:
    """Draw the history in ``folder`` as loss.svg and loss.png, finished or not; returns the name of the SVG file."""
    return write_figure(draw_pretraining(read_pretraining(folder), folder.name), folder / "loss")


def draw_pretraining(history: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw losses a masked frame, and deviations over frames of targets and predictions, against updates.

    A model that collapses says the same of every frame: its predictions no longer differ.
    """
    figure = new_figure(8.6, 3.4)
    left, right = figure.subplots(1, 2)
    updates = [line["update"] for line in history]
    for panel, names, label in ((left, LOSSES, "loss a masked frame"), (right, VARIANCES, "deviation over frames")):
        for colour, (key, name) in zip(PALETTE, names.items(), strict=False):
            panel.plot(updates, [line[key] for line in history], color=colour, linewidth=1.6, label=name)
        panel.set(xlabel="update", ylabel=label, ylim=(0, None))
        panel.legend(frameon=False, fontsize=9)
        quiet(panel)
    figure.suptitle(title, fontsize=10)
    return figure
