"""The report as one HTML page that needs nothing else: style and figures are inside, there is no script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from serkit.errors import missing_extra
from serkit.evaluation.wording import (
    list_methods,
    write_chance,
    write_interval,
    write_number,
    write_p,
    write_remarks,
    write_words,
)

EXPRESSED = (
    "Expressed, not felt: these figures judge how well the emotion expressed in a recording is recognised. "
    "They say nothing about what a person feels."
)

MISSING = "–"

LABELS = {
    "uar": ("UAR", "unweighted average recall: the mean recall of the classes"),
    "accuracy": ("Accuracy", "fraction of utterances that are right"),
    "f1_macro": ("F1, macro", "mean F1 of the classes"),
    "f1_weighted": ("F1, weighted", "mean F1 weighted by utterances"),
}

TASK_LABELS = {
    "wer": "word error rate",
    "cer": "character error rate",
    "accuracy": "accuracy",
    "uar": "UAR",
    "ccc": "CCC",
    "mae": "mean absolute error",
    "mse": "mean square error",
}

LABEL_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "f1_macro": "F1, mean of the classes",
    "f1_weighted": "F1 of present and absent, weighted",
    "exact_match": "all classes of an utterance right",
    "roc_auc": "area under the ROC curve",
    "average_precision": "average precision",
    "prevalence": "share that have it",
    "predicted": "share said to have it",
}


def render_page(report: Mapping[str, Any]) -> str:
    """Return ``report`` (of :func:`~serkit.evaluation.report.create_report`) as self-contained HTML, names escaped."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        from serkit.evaluation import plots
    except ImportError as error:
        raise missing_extra(error.name or "jinja2", "train") from error

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        num=partial(write_number, missing=MISSING),
        span=partial(write_interval, missing=MISSING),
        words=partial(write_words, missing=MISSING),
        remarks=write_remarks,
        chance=write_chance,
        p=write_p,
    )
    drawn = {}
    if report["metrics"]:
        groups = report["groups"]
        drawn = {
            "confusion": plots.draw_confusion(report["confusion"]),
            "reliability": plots.draw_reliability(report["calibration"]),
            "speakers": plots.draw_speakers(groups["speaker"], report["metrics"]["uar"]["value"]),
            "gender": plots.draw_groups(groups["gender"], report["confusion"]["classes"]),
        }
    return environment.get_template("report.html.j2").render(
        report=report,
        figures={name: _inline(svg) for name, svg in drawn.items()},
        labels=LABELS,
        task_labels=TASK_LABELS,
        methods=list_methods(task["metrics"] for task in report["tasks"].values()),
        label_methods=list_methods([report["labels"]["metrics"]] if report["labels"] else []),
        label_names=LABEL_NAMES,
        expressed=EXPRESSED,
        shared=shared_speakers(report["stamp"]),
        title=_title(report),
    )


def shared_speakers(stamp: Any) -> int | None:
    """Return N of the stamp "speakers shared: N", or None when the stamp does not say."""
    found = re.search(r"speakers[ _]shared\D*(\d+)", write_words(stamp, missing=MISSING))
    return int(found.group(1)) if found else None


def _title(report: Mapping[str, Any]) -> str:
    recipe = report["provenance"].get("recipe")
    name = recipe.get("name") if isinstance(recipe, Mapping) else recipe
    return str(name) if name else "Speech emotion recognition"


def _inline(svg: str) -> Any:
    """Mark our own SVG as safe, without the namespaces that HTML does not need; the page's caption describes it."""
    from markupsafe import Markup

    head, rest = svg.split(">", 1)
    head = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", head)
    return Markup(f'{head} aria-hidden="true" focusable="false">{rest}')
