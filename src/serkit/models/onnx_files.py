"""Graphs of bundles as ONNX files, in single precision or with 8-bit matrix products."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from serkit.encoders.base import Encoder
from serkit.errors import InputError
from serkit.models.graph import BundleGraph

LONGEST_TEXT = 10_000
"""The most words that a graph can be given; how many of them count is another matter."""
WHOLE_SECONDS = 40.0
"""The window of bundles that write text, which is longer than any utterance of IEMOCAP: a cut may divide a word."""


def longest_seconds(encoder: Encoder) -> float:
    """Return the longest window that a bundle with ``encoder`` may have."""
    return min(WHOLE_SECONDS, (encoder.max_samples or np.inf) / encoder.sampling_rate)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' remarks about themselves; what they raise still comes through."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@_quiet()
def export_graph(graph: BundleGraph, path: Path) -> None:
    """Write ``graph`` as float32 ONNX with batch, time and words dynamic."""
    graph.eval()
    example, shapes = example_of(graph)
    program = torch.onnx.export(
        graph,
        kwargs=example,
        input_names=list(example),
        output_names=graph.outputs,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    given = {id(value) for value in program.model.graph.outputs}
    for value in (value for node in program.model.graph for value in node.outputs):
        if value.name in graph.outputs and id(value) not in given:
            value.name += "_inside"  # the exporter calls what comes of an Embedding "embedding" as well
    program.save(str(path), external_data=False)


def example_of(graph: BundleGraph) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, Any]]]:
    """Return inputs by name to trace ``graph`` with, and which of their axes are dynamic."""
    batch = torch.export.Dim("batch", min=1, max=64)
    example, shapes = {}, {}
    if graph.encoder is not None:
        rate = graph.encoder.sampling_rate
        longest = round(longest_seconds(graph.encoder) * rate)
        size = round(graph.example_seconds * rate)
        example = {"waveforms": torch.randn(2, size) * 0.1, "lengths": torch.tensor([size, 3 * size // 4])}
        samples = torch.export.Dim("samples", min=rate // 10, max=longest)
        shapes = {"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}}
    if "words" in graph.inputs:
        example["words"] = torch.tensor([[1, 1, 1], [1, 1, 0]])
        shapes["words"] = {0: batch, 1: torch.export.Dim("count", min=1, max=LONGEST_TEXT)}
    return example, shapes


@_quiet()
def quantise(source: Path, path: Path, spare: Collection[str] = (), flat: bool = False) -> None:
    """Turn large matrix products into int8 with dynamic activations, per channel; all else stays float32.

    They are those of sequences ``(B, T, D)``, which an encoder's are; with ``flat`` also those of frames ``(F, D)``, of
    which a fusion head consists. ``spare`` names weights that stay as they are: spectra, whose faintest bands decide,
    lose too much. Raises ``InputError`` where a fusion head has nothing to make smaller.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    model.graph.ClearField("value_info")  # shapes noted by the exporter contradict onnx's own inference
    weights = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:  # the quantiser transposes a Gemm's weight in place, so each needs its own copy
        if node.op_type == "Gemm" and node.input[1] in weights:
            copy = model.graph.initializer.add()
            copy.CopyFrom(weights[node.input[1]])
            copy.name = node.input[1] = f"{node.name}.weight"
            weights[copy.name] = copy
    large = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and any(name in weights and np.prod(weights[name].dims) >= 256 * 256 for name in node.input)
        and not set(spare) & set(node.input)
    ]
    if flat and not large:
        raise InputError("int8: the model has no matrix of 256 x 256 or more to make smaller: leave int8 out")
    if flat:
        large += [f"{name}_MatMul" for name in large]  # what the quantiser makes of a Gemm before it looks for names
    quantize_dynamic(
        model, path, nodes_to_quantize=large, per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )  # fmt: skip
