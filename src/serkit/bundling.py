"""A graph as a bundle's folder: exported, quantised where asked for, compared with PyTorch, and only then written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serkit.data.files import write_json
from serkit.errors import SerkitError
from serkit.inference.bundle import Bundle, Card
from serkit.models.fusion_graph import FusionGraph
from serkit.models.graph import TASK_OUTPUTS, BundleGraph
from serkit.models.onnx_files import export_graph, quantise

TOLERANCE = {False: 1e-4, True: 0.15}
"""Largest difference of a probability from PyTorch's that an export accepts, by whether it is int8."""


def write_bundle(
    folder: str | Path,
    graph: BundleGraph,
    card: dict[str, Any],
    waveforms: Sequence[np.ndarray | None],
    int8: bool = False,
    texts: Sequence[str | None] | None = None,
) -> dict[str, float]:
    """Export ``graph`` and its ``card`` to ``folder``, after ONNX and PyTorch agree on ``waveforms`` and ``texts``.

    Returns the largest difference of a probability and the share of equal labels. Raises ``SerkitError``, leaving
    ``folder`` as it was, when the difference exceeds :data:`TOLERANCE`.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        work = Path(name)
        export_graph(graph, work / "float.onnx")
        if int8:
            fused = isinstance(graph, FusionGraph)
            spare = [name for name, _ in graph.named_buffers()] if fused else []
            quantise(work / "float.onnx", work / "model.onnx", spare, fused)
        else:
            (work / "float.onnx").rename(work / "model.onnx")
        packages = ("serkit", "torch", "onnx", "onnxruntime")
        facts = {**card, "versions": {package: version(package) for package in packages}}
        facts["details"] = {**card.get("details", {}), "precision": "int8" if int8 else "float32"}
        write_json(work / "serkit.json", Card(**facts).dump())
        agreement = compare(Bundle(work), graph, waveforms, texts)
        if not agreement["max_probability_difference"] <= TOLERANCE[int8]:  # NaN must not pass
            difference = agreement["max_probability_difference"]
            raise SerkitError(f"{folder}: not written: probabilities of ONNX and PyTorch differ by {difference:.2g}")
        folder.mkdir(exist_ok=True)
        for file in ("model.onnx", "serkit.json"):
            shutil.move(work / file, folder / file)
    return agreement


@torch.no_grad()
def compare(
    bundle: Bundle,
    graph: BundleGraph,
    waveforms: Sequence[np.ndarray | None],
    texts: Sequence[str | None] | None = None,
) -> dict[str, float]:
    """Return how a bundle's probabilities differ from PyTorch's, and the share of equal labels.

    They are compared on ``waveforms``, with their ``texts`` where the model reads.

    The difference is that of any task, the share that of emotion. Of a bundle without classes it is that of the
    embedding, in parts of its largest number.
    """
    differences, equal = [], 0
    for waveform, text in zip(waveforms, texts or [None] * len(waveforms), strict=True):
        words, _ = bundle.number(text)
        outputs = bundle.run(waveform, words=words)
        feed = bundle.feed(waveform, words)
        found = graph(**{name: torch.from_numpy(values) for name, values in feed.items()})
        named = dict(zip(graph.outputs, found, strict=True))
        if not bundle.card.classes:
            embedding = named["embedding"][0].numpy()
            differences.append(np.abs(outputs.embedding - embedding).max() / np.abs(embedding).max())
            continue
        ours = outputs.probabilities
        theirs = (named["logits"][0].double() / bundle.card.temperature).softmax(0).numpy()
        differences.append(np.abs(ours - theirs).max())
        equal += int(ours.argmax() == theirs.argmax())
        for name, values in outputs.others.items():
            wanted = named[TASK_OUTPUTS.get(name, f"{name}_logits")][0].double()
            wanted = wanted if name in TASK_OUTPUTS else wanted.softmax(-1)
            differences.append(np.abs(values - wanted.numpy()[: len(values)]).max())
    share = equal / len(waveforms) if bundle.card.classes else 1.0
    return {"max_probability_difference": float(np.max(differences)), "equal_labels": share}
