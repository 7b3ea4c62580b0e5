"""How close is serkit's eGeMAPSv02 to openSMILE's, and how fast?

    OMP_NUM_THREADS=1 python benchmarks/egemaps.py [DATA] [--clips 60] [--seed 0] [--rounds 3]

DATA holds the folders ravdess, emodb and emovo (default: SERKIT_DATA). Takes random recordings of each, gives the same
samples to both, and prints for every descriptor and functional the Pearson correlation, the median relative error where
openSMILE's value is not 0, and the share of values that differ by more than 0.1 %. Speed is audio seconds per second of
CPU time, both in this process, in alternating rounds; the median round counts. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import opensmile

from serkit.data.audio import SAMPLING_RATE, is_silent, read_audio
from serkit.encoders.egemaps import FUNCTIONAL_NAMES, LLD_NAMES, functionals, low_level_descriptors

CORPORA = ("ravdess", "emodb", "emovo")
Extractor = Callable[[np.ndarray], np.ndarray]
"""From a waveform ``(S,)`` to ``(T, D)``."""


def load_clips(data: Path, clips: int, seed: int) -> list[np.ndarray]:
    """Return ``clips`` random recordings of each corpus."""
    waveforms = []
    for corpus in CORPORA:
        paths = sorted(path for path in (data / corpus).rglob("*") if path.suffix in (".flac", ".wav"))
        if not paths:
            raise SystemExit(f"{data / corpus}: no recordings: name the folder that holds {', '.join(CORPORA)}")
        chosen = random.Random(seed).sample(paths, min(clips, len(paths)))
        waveforms += [read_audio(path) for path in chosen]
    return [waveform for waveform in waveforms if not is_silent(waveform)]


def compare(names: tuple[str, ...], ours: np.ndarray, theirs: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the agreement of each column of two ``(n, D)``."""
    table = {}
    for name, a, b in zip(names, ours.T.astype(float), theirs.T.astype(float), strict=True):
        told = b != 0
        error = np.abs(a - b)[told] / np.abs(b[told])
        table[name] = {
            "correlation": float(np.corrcoef(a, b)[0, 1]),
            "median_relative_error": float(np.median(error)),
            "differing": float((error > 1e-3).mean()),
        }
    return table


def measure(extractors: dict[str, Extractor], clips: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Return audio seconds per second of CPU time, side by side."""
    seconds = sum(map(len, clips)) / SAMPLING_RATE
    spent: dict[str, list[float]] = {name: [] for name in extractors}
    for number in range(rounds + 1):
        for name, extract in extractors.items():
            start = time.process_time()
            for clip in clips if number else clips[:1]:  # the first round only builds tables
                extract(clip)
            if number:
                spent[name].append(time.process_time() - start)
    return {name: round(seconds / float(np.median(values)), 1) for name, values in spent.items()}


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("SERKIT_DATA", "../shared/data/audio"))
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    clips = load_clips(Path(options.data), options.clips, options.seed)
    levels = {"lld": "LowLevelDescriptors", "functionals": "Functionals"}
    smiles = {
        key: opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel[level])
        for key, level in levels.items()
    }
    ours: dict[str, Extractor] = {"lld": low_level_descriptors, "functionals": lambda clip: functionals(clip)[None]}
    result: dict[str, object] = {"clips": len(clips), "seconds": round(sum(map(len, clips)) / SAMPLING_RATE, 1)}
    for key, names in (("lld", LLD_NAMES), ("functionals", FUNCTIONAL_NAMES)):
        theirs: Extractor = lambda clip, smile=smiles[key]: smile.process_signal(clip, SAMPLING_RATE).to_numpy()  # noqa: E731
        table = compare(names, np.concatenate([*map(ours[key], clips)]), np.concatenate([*map(theirs, clips)]))
        print(f"\n| {key} | correlation | median relative error | differ by > 0.1 % |\n|---|---|---|---|")
        for name, row in table.items():
            values = f"{row['correlation']:.6f} | {row['median_relative_error']:.1e} | {row['differing']:.1%}"
            print(f"| `{name}` | {values} |")
        correlations = np.array([row["correlation"] for row in table.values()])
        speed = measure({"serkit": ours[key], "opensmile": theirs}, clips, options.rounds)
        result[key] = {
            "lowest_correlation": round(float(correlations.min()), 6),
            "at_least_0.999": int((correlations >= 0.999).sum()),
            "columns": len(names),
            "times_real_time": speed,
            "speed_ratio": round(speed["serkit"] / speed["opensmile"], 2),
        }
    print()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
