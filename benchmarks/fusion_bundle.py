"""How large and how fast is a bundle of MAT or MNT in the published size, beside PyTorch, on one thread?

    python benchmarks/fusion_bundle.py [--seconds 1 3 8] [--rounds 15]

Random weights, the encoder mat-mel, 3,000 words of 300 dimensions. Noise and ten words are judged by the float32 and
the int8 bundle and by PyTorch in turn, so that a busy machine slows all alike. Prints processor milliseconds (median,
least and most of ``--rounds``), megabytes, and how far probabilities differ from PyTorch's. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serkit.bundling import write_bundle
from serkit.data.words import Vocabulary
from serkit.encoders import create_encoder
from serkit.export import fused_fields
from serkit.inference.bundle import Bundle
from serkit.models.fusion import FusionConfig, create_fusion
from serkit.models.fusion_graph import FusionGraph

WORDS = [f"word{number}" for number in range(3000)]


def create_graph(kind: str) -> FusionGraph:
    """Build a model of the published size for IEMOCAP: 15 words, 40 frames, 4 classes."""
    torch.manual_seed(0)
    config, vocabulary = FusionConfig(kind=kind), Vocabulary.build([WORDS])
    head = create_fusion(config, [(1, 80)], 4, vocabulary, 300, 15, 40).heads[0]
    return FusionGraph(head, create_encoder("mat-mel"), (0,)).eval()  # type: ignore[arg-type]


def main() -> None:
    """Export, compute in turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, text, rows = np.random.default_rng(0), " ".join(WORDS[:10]), []
    waveforms = [rng.normal(0, 0.1, round(seconds * 22_050)).astype(np.float32) for seconds in options.seconds]
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        for kind in ("mat", "mnt"):
            graph = create_graph(kind)
            card = {"name": kind, "classes": tuple("abcd"), "temperature": 1.0} | fused_fields(graph)
            bundles, made = {}, {}
            for precision in ("float32", "int8"):
                folder, texts = Path(name) / f"{kind}-{precision}", [text] * len(waveforms)
                made[precision] = write_bundle(folder, graph, card, waveforms, precision == "int8", texts)
                made[precision]["megabytes"] = round((folder / "model.onnx").stat().st_size / 1e6, 1)
                bundles[precision] = Bundle(folder)
            for seconds, waveform in zip(options.seconds, waveforms, strict=True):
                words, _ = bundles["int8"].number(text)
                feed = {key: torch.from_numpy(each) for key, each in bundles["int8"].feed(waveform, words).items()}
                work: dict[str, Any] = {"pytorch": lambda graph=graph, feed=feed: graph(**feed)}
                for key, bundle in bundles.items():
                    work[key] = lambda bundle=bundle, x=waveform, words=words: bundle.run(x, words=words)
                times: dict[str, list[float]] = {key: [] for key in work}
                for _ in range(options.rounds):
                    for key, compute in work.items():
                        began = time.process_time()
                        compute()
                        times[key].append(1000 * (time.process_time() - began))
                row: dict[str, Any] = {"kind": kind, "seconds": seconds}
                for key, found in times.items():
                    row[key] = [round(float(value), 1) for value in (np.median(found), min(found), max(found))]
                print("  ".join(f"{key} {value}" for key, value in row.items()))
                rows.append(row)
            for precision, facts in made.items():
                print(kind, precision, f"{facts['megabytes']} MB", f"{facts['max_probability_difference']:.2g}")
                rows.append({"kind": kind, "precision": precision, **facts})
    print(json.dumps({"rounds": options.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
