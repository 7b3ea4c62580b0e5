"""An emotion diarization error rate as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serkit.evaluation.wording import list_methods, write_columns, write_interval, write_number

NAMES = {
    "eder": "EDER",
    "missed": "  missed emotion",
    "false_alarm": "  false alarm",
    "confusion": "  confusion",
    "mean_eder": "EDER, mean over recordings",
}
EDGES = {
    "onset": "onset within",
    "offset": "offset within",
    "recall": "both within, recall",
    "precision": "both within, precision",
    "f1": "both within, f1",
    "onset_error": "onset error, mean (s)",
    "offset_error": "offset error, mean (s)",
}


def format_diarization(made: Mapping[str, Any]) -> str:
    """Return lines on what :func:`~serkit.evaluation.diarization.judge_tracks` made."""

    def row(name: str, figure: Mapping[str, Any]) -> tuple:
        return name, write_number(figure["value"], missing="-"), write_interval(figure, missing="-"), figure["n"]

    neutral = ", ".join(made["neutral"])
    said = f"{made['recordings']} recordings, {made['seconds']:.1f} s; {made['method']}; neutral: {neutral}"
    lines = [said, *write_columns([("of all time", "value", "95 % interval", "n")] + [
        row(title, made[name]) for name, title in NAMES.items()
    ]), ""]  # fmt: skip
    head = ("class", "reference s", "hypothesis s", "correct s", "recall", "precision", "f1")
    lines += write_columns(
        [head]
        + [
            (
                each["class"],
                *(f"{each[f'{side}_seconds']:.1f}" for side in ("reference", "hypothesis", "correct")),
                *(write_number(each[name]["value"], missing="-") for name in ("recall", "precision", "f1")),
            )
            for each in made["by_class"]
        ]
    )
    edges = made["boundaries"]
    title = f"boundaries, {edges['collar']:g} s collar"
    lines += ["", *write_columns([(title, "value", "95 % interval", "n")] + [
        row(name, edges[key]) for key, name in EDGES.items()
    ])]  # fmt: skip
    events = (
        "{reference_events} events of the reference, {hypothesis_events} of the hypothesis, {matched_events} matched"
    )
    lines += [events.format(**edges), *(f"method: {text}" for text in list_methods([{"": made["eder"]}]))]
    if made["lengths_assumed"]:
        lines.append(f"{made['lengths_assumed']} recordings are taken to end with their last stretch: give a duration")
    return "\n".join(lines)
