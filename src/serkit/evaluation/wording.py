"""Figures as words, the same in the terminal and on the page; ``missing`` stands for what is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def write_number(value: float | None, digits: int = 3, *, missing: str) -> str:
    """Return ``value`` with ``digits`` decimals."""
    return missing if value is None else f"{value:.{digits}f}"


def write_interval(made: Mapping[str, Any], *, missing: str) -> str:
    """Return the interval of a figure: ``low to high``."""
    return missing if made["low"] is None else f"{made['low']:.3f} to {made['high']:.3f}"


def write_words(value: Any, *, missing: str) -> str:
    """Return text, numbers, lists and tables of provenance on one line."""
    if value is None:
        return missing
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {write_words(entry, missing=missing)}" for key, entry in value.items())
    return ", ".join(write_words(entry, missing=missing) for entry in value) if isinstance(value, list) else str(value)


def write_columns(rows: Sequence[tuple]) -> list[str]:
    """Return the lines of a table for a terminal: the first row is its head, the first column stands left."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in text) for column in range(len(text[0]))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in text)
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def write_markdown_table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def write_metrics(metrics: Mapping[str, Any], *, missing: str) -> list[str]:
    """Return the lines of a table of figures for a terminal, and the methods behind them, each once."""
    rows: list[tuple] = [("metric", "value", "95 % interval", "n", "sd over seeds")]
    for name, made in metrics.items():
        value, sd = (write_number(made[key], missing=missing) for key in ("value", "sd_over_seeds"))
        rows.append((name, value, write_interval(made, missing=missing), made["n"], sd))
    return [*write_columns(rows), *(f"method: {text}" for text in list_methods([metrics]))]


def list_methods(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the methods behind the figures that exist, each once."""
    made = [figure for metrics in groups for figure in metrics.values()]
    return list(dict.fromkeys(figure["method"] for figure in made if figure["value"] is not None))


LABEL_COLUMNS = {
    "prevalence": "present",
    "predicted": "said",
    "accuracy": "acc",
    "balanced_accuracy": "bal",
    "precision": "prec",
    "recall": "recall",
    "f1": "f1",
    "f1_weighted": "wf1",
    "roc_auc": "auc",
    "average_precision": "ap",
}
"""Figures of one of several labels, and what they are called where space is short."""


def write_labels(labels: Mapping[str, Any], *, missing: str) -> list[str]:
    """Return the lines of several labels at once: all classes, then each (its intervals are in the report)."""
    head = ("class", "n", *LABEL_COLUMNS.values(), "f1: 95 % interval")
    rows = [
        (
            name,
            made["n"],
            *(write_number(made["metrics"][key]["value"], missing=missing) for key in LABEL_COLUMNS),
            write_interval(made["metrics"]["f1"], missing=missing),
        )
        for name, made in labels["each"].items()
    ]
    return [
        f"several labels at once: {len(rows)} classes, each present where its chance is above {labels['threshold']:g}",
        *write_metrics(labels["metrics"], missing=missing),
        f"accuracy of saying that no class is ever present: {labels['always_absent']:.3f}",
        "",
        *write_columns([head, *rows]),
        "present and said: shares of utterances that have the class, and that are said to; bal: balanced accuracy;",
        "wf1: F1 of present and absent weighted by utterances; auc: area under the ROC curve; ap: average precision",
    ]


def note_labels(labels: Mapping[str, Any]) -> list[str]:
    """Return what is to be known of figures of several labels at once."""
    notes = []
    if labels["never_predicted"]:
        never = ", ".join(labels["never_predicted"])
        notes.append(f"never predicted at a chance above {labels['threshold']:g} (fixed, not tuned): {never}")
    if labels["absent"]:
        notes.append(f"no test utterance has {', '.join(labels['absent'])}: f1_macro counts their F1 as 0")
    if labels["without_truth"]:
        notes.append(f"{labels['without_truth']} utterances left out: it is not known which classes they have")
    return notes


def write_task(name: str, task: Mapping[str, Any], *, missing: str) -> str:
    """Return the figures of a task beside emotion on one line, with the reasons for those that do not exist."""
    metrics = task["metrics"]
    shown = [
        f"{metric} {write_number(made['value'], missing=missing)} ({write_interval(made, missing=missing)})"
        for metric, made in metrics.items()
        if made["value"] is not None
    ]
    return f"task {name}: " + "; ".join([", ".join([*shown, f"n {task['n']}"]), *write_remarks(task)])


def write_remarks(task: Mapping[str, Any]) -> list[str]:
    """Return in words why a figure of a task is missing, what figures are counted over, and the mean over folds."""
    remarks = list(dict.fromkeys(made["reason"] for made in task["metrics"].values() if made["value"] is None))
    if "words" in task:
        remarks.append(f"{task['words']} words")
    if "classes" in task:
        offered = "" if task["choices"] is None else f", chosen from {task['choices']}"
        remarks.append(f"{task['classes']} classes{offered}")
    for key, text in (("without_truth", "no known reference"), ("without_prediction", "no prediction")):
        if task[key]:
            remarks.append(f"{task[key]} utterances left out: {text}")
    folds = task.get("folds", {"count": 1})
    if folds["count"] > 1 and folds["mean"]["wer"]["value"] is not None:
        means = ", ".join(f"{name} {made['value']:.3f}" for name, made in folds["mean"].items())
        remarks.append(f"mean of {folds['count']} folds (not pooled): {means}")
    return remarks


def write_p(p: float | None) -> str:
    """Return a p-value for people: three decimals, ``< 0.001`` below, ``-`` where there is none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def write_fairness(fairness: Mapping[str, Any], *, missing: str) -> list[str]:
    """Return lines on gaps between genders, on who is served worst, and on speakers that are hardly served."""

    def show(made: Mapping[str, Any]) -> str:
        return f"{write_number(made['value'], missing=missing)} ({write_interval(made, missing=missing)})"

    gender, speaker = fairness["gender"], fairness["speaker"]
    if "groups" not in gender:
        lines = [f"fairness: {gender['reason']}"]
    else:
        groups, gap, largest = gender["groups"], gender["uar_gap"], gender["opportunity_gap"]
        each = ", ".join(f"{name} {made['uar']['value']:.3f}" for name, made in groups.items())
        recall = ", ".join(f"{name} {made['recall'][largest['class']]['value']:.3f}" for name, made in groups.items())
        lines = [
            f"fairness: uar {each}: gap {show(gap)}{write_chance(gap)}",
            f"largest gap in recall: {largest['class']}, {recall}: {show(largest)}{write_chance(largest)}",
            f"lowest: uar of {gender['worst']['group']} {show(gender['worst'])}; recall of "
            f"{gender['worst_recall']['class']}, {gender['worst_recall']['group']} {show(gender['worst_recall'])}",
        ]
    if speaker is not None:
        shares = [
            f"{len(speaker[key]['speakers'])} of {speaker['count']} below {text} ({speaker[key]['bound']:.3f})"
            for key, text in (("below_chance", "chance"), ("below_half", "half of their mean"))
        ]
        worst = speaker["worst"]
        lines.append(f"speakers: lowest uar {worst['speaker']} {show(worst)}, {', '.join(shares)}")
    return [*lines, *(f"note: {note}" for note in fairness["notes"])]


def write_chance(gap: Mapping[str, Any]) -> str:
    """Return how a gap compares with what dealing the genders at random gives."""
    return f", p {write_p(gap['p'])}, by chance up to {gap['by_chance']:.3f}" if "p" in gap else ""
