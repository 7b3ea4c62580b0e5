"""How fast is a bundle of emotion2vec beside the PyTorch module it was exported from, on one thread?

    python benchmarks/emotion2vec_bundle.py CHECKPOINT [--seconds 5 15 30]

Exports the checkpoint as float32 and as int8, and computes noise of each length with both bundles, with serkit's own
CPU path and with the plain module, in turn, so that a busy machine slows all alike. Prints processor seconds (least of
``--rounds``), their ratio to the plain module, and how far the embeddings differ from its. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serkit.export import export_emotion2vec
from serkit.inference.bundle import Bundle
from serkit.models.emotion2vec import load_emotion2vec


def main() -> None:
    """Export, compute in turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 15.0, 30.0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    graph = load_emotion2vec(options.checkpoint).graph
    rows = []
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        bundles = {}
        for precision in ("float32", "int8"):
            export_emotion2vec(options.checkpoint, Path(name) / precision, precision == "int8")
            bundles[precision] = Bundle(Path(name) / precision)
        for seconds in options.seconds:
            waveform = np.random.default_rng(0).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
            batch, lengths = torch.from_numpy(waveform)[None], torch.tensor([len(waveform)])
            work: dict[str, Callable[[], Any]] = {
                "module": lambda batch=batch, lengths=lengths: graph.encoder.encode_padded(batch, lengths),
                "own": lambda batch=batch, lengths=lengths: graph(batch, lengths),
            }
            work |= {key: lambda bundle=bundle, x=waveform: bundle.run(x) for key, bundle in bundles.items()}
            times: dict[str, float] = {}
            for _ in range(options.rounds):
                for key, compute in work.items():
                    began = time.process_time()
                    compute()
                    times[key] = min(times.get(key, np.inf), time.process_time() - began)
            row: dict[str, float] = {"seconds": seconds}
            for key, value in times.items():
                row |= {f"cpu_{key}": round(value, 3), f"ratio_{key}": round(value / times["module"], 3)}
            wanted = dict(zip(graph.outputs, graph(batch, lengths), strict=True))["embedding"][0].numpy()
            for key, bundle in bundles.items():
                row[f"difference_{key}"] = float(np.abs(bundle.run(waveform).embedding - wanted).max())
            print("  ".join(f"{key} {value:g}" for key, value in row.items()))
            rows.append(row)
    print(json.dumps({"checkpoint": Path(options.checkpoint).name, "rounds": options.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
