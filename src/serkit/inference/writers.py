"""How predictions are written: for people, for programs, and as a published system wrote them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from serkit.inference.predictor import Prediction


def write_table(predictions: Iterable[Prediction], classes: tuple[str, ...], file: TextIO) -> None:
    """Write a table for people."""
    print(f"{'recording':<40} {'seconds':>8}  {'label':<10} {'p':>5}  runner-up", file=file)
    for prediction in predictions:
        order = sorted(prediction.probabilities, key=prediction.probabilities.__getitem__, reverse=True)
        second = (
            f"{order[1]} {prediction.probabilities[order[1]]:.2f}" if prediction.probabilities[order[1]] > 0 else ""
        )
        name = prediction.id if len(prediction.id) <= 40 else "..." + prediction.id[-37:]
        seconds = prediction.end - prediction.start
        print(
            f"{name:<40} {seconds:>8.2f}  {prediction.label:<10} {prediction.confidence:>5.2f}  {second}",
            file=file,
            flush=True,
        )


def write_json(predictions: Iterable[Prediction], classes: tuple[str, ...], file: TextIO) -> None:
    """Write one JSON object a line."""
    for prediction in predictions:
        print(json.dumps(prediction.as_dict(), ensure_ascii=False), file=file, flush=True)


def write_csv(predictions: Iterable[Prediction], classes: tuple[str, ...], file: TextIO) -> None:
    """Write comma-separated values."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", "start", "end", "label", *(f"p_{name}" for name in classes), "model"])
    for prediction in predictions:
        row = prediction.as_dict()
        writer.writerow(
            [row["id"], row["start"], row["end"], row["label"], *row["probabilities"].values(), row["model"]]
        )


def write_cai(predictions: Iterable[Prediction], classes: tuple[str, ...], file: TextIO) -> None:
    """Write what the original's prediction.sh does; a model that names speakers adds number and probabilities."""
    for prediction in predictions:
        fields = [prediction.id, str(prediction.end - prediction.start)]
        for values in (prediction.probabilities, prediction.others.get("speaker")):
            if values:
                best = list(values).index(max(values, key=values.__getitem__))
                fields += [str(best), "", *map(str, values.values())]
        print(" ".join(fields), file=file, flush=True)


def write_funasr(answers: Iterable[dict[str, Any]], classes: tuple[str, ...], file: TextIO) -> None:
    """Write what ``serkit.inference.funasr`` answers as one JSON object a line, without scores of single frames."""
    for answer in answers:
        found = {name: value for name, value in answer.items() if name not in ("frame_scores", "frame_times")}
        if "feats" in found:
            found["feats"] = [round(float(value), 5) for value in found["feats"]]
        print(json.dumps(found, ensure_ascii=False), file=file, flush=True)


WRITERS: dict[str, Callable[[Iterable[Any], tuple[str, ...], TextIO], None]] = {
    "table": write_table,
    "json": write_json,
    "csv": write_csv,
    "cai": write_cai,
    "funasr": write_funasr,
}
"""By name of the format; each takes predictions (FunASR's form: answers), all classes and where to write."""
