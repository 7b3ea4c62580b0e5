"""How close is the encoder mat-mel to librosa's computation of the same, and how fast?

    OMP_NUM_THREADS=1 python benchmarks/mel.py [DATA] [--corpus emovo] [--clips 200] [--seed 0] [--rounds 5]

DATA holds the folder of the corpus (default: SERKIT_DATA). librosa computes every frame, in single precision as it
does by itself, and then every 16th is kept, as in the original; serkit computes the 16th ones alone. Both are timed
from the file (decoding, resampling to 22,050 Hz by soxr HQ, features) and from the samples, in this process, on one
core, in alternating rounds; CPU time of the median round, and of the slowest and the fastest. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch

from serkit.data.audio import read_audio
from serkit.encoders import create_encoder

RATE = 22_050


def of_librosa(wave: np.ndarray) -> np.ndarray:
    """Return the frames ``(T, 80)`` of a waveform as librosa and numpy compute them, padded as it once did."""
    power = librosa.feature.rms(y=wave, pad_mode="reflect")[0] ** 2
    loud = np.flatnonzero(librosa.power_to_db(power, ref=np.max, top_db=None) > -60)
    wave = wave[loud[0] * 512 : min(len(wave), (loud[-1] + 1) * 512)]
    sharp = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
    magnitude = np.abs(librosa.stft(sharp, n_fft=2048, hop_length=275, win_length=1102, pad_mode="reflect"))
    bands = np.dot(librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=80), magnitude)
    values = np.clip((20 * np.log10(np.maximum(1e-5, bands)) - 20 + 100) / 100, 1e-8, 1)
    return values.T.astype(np.float32)[::16]


def measure(ways: dict[str, Callable[[Any], Any]], inputs: Sequence[Any], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds that each way takes for all inputs in each round, side by side."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for each in inputs if number else inputs[:2]:  # the first round only builds tables
                way(each)
            if number:
                spent[name].append(time.process_time() - start)
    return spent


def main() -> None:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("SERKIT_DATA", "../shared/data/audio"))
    parser.add_argument("--corpus", default="emovo")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(options.data) / options.corpus
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".wav"))
    if not paths:
        raise SystemExit(f"{folder}: no recordings: name the folder that holds {options.corpus}")
    paths = random.Random(options.seed).sample(paths, min(options.clips, len(paths)))
    encoder = create_encoder("mat-mel")

    @torch.inference_mode()
    def of_serkit(wave: np.ndarray) -> np.ndarray:
        return encoder(torch.from_numpy(wave)[None], torch.tensor([len(wave)])).layers[0, 0].numpy()

    waves = [read_audio(path, sampling_rate=RATE) for path in paths]
    differences = np.concatenate([np.abs(of_serkit(wave) - of_librosa(wave)).ravel() for wave in waves])
    seconds = sum(map(len, waves)) / RATE
    from_samples = measure({"serkit": of_serkit, "librosa": of_librosa}, waves, options.rounds)
    from_files = measure(
        {
            "serkit": lambda path: of_serkit(read_audio(path, sampling_rate=RATE)),
            "librosa": lambda path: of_librosa(librosa.load(path, sr=RATE)[0]),
        },
        paths,
        options.rounds,
    )
    result: dict[str, Any] = {"corpus": options.corpus, "clips": len(waves), "seconds": round(seconds, 1)}
    result["largest_difference"] = float(f"{differences.max():.1e}")
    print(f"{len(waves)} recordings of {options.corpus}, {seconds / 60:.1f} minutes; on one core:\n")
    print("| from | serkit: hours of audio a minute | librosa | ratio |\n|---|---|---|---|")
    for name, spent in (("files", from_files), ("samples", from_samples)):
        # minutes of audio in a second are hours in a minute; the slowest round, the median, the fastest
        rates = {way: seconds / 60 / np.quantile(used, [1, 0.5, 0]) for way, used in spent.items()}
        ratios = np.quantile(np.array(spent["librosa"]) / np.array(spent["serkit"]), [0, 0.5, 1])
        columns = [f"{middle:.1f} ({low:.1f} to {high:.1f})" for low, middle, high in (*rates.values(), ratios)]
        print(f"| {name} | {' | '.join(columns)} |")
        result[name] = {**{way: np.round(rate, 2).tolist() for way, rate in rates.items()}}
        result[name]["ratio"] = np.round(ratios, 2).tolist()
    print(f"\nlargest difference: {differences.max():.1e}\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
