"""How fast, how large and how quick to start is recognition with a bundle?

    python benchmarks/predict.py [--model BUNDLE] [--seconds 3600]

Each measured in processes of its own: wall time of ``serkit predict`` on one clip (cold start, median of 5); seconds of
audio per second of processor time on many short clips with one worker, decoding included; peak memory on a long file.
Audio is generated: speech-like bursts with pauses. Prints a table and ends with one JSON line. Needs the base package.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile


def write_speechlike(path: Path, seconds: float, seed: int = 0) -> None:
    """Write harmonic bursts with pauses: 16 kHz mono FLAC."""
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", 16_000, 1, format="FLAC") as file:
        done = 0.0
        while done < seconds:
            part = min(rng.uniform(0.3, 1.2), seconds - done)
            time_axis = np.arange(int(part * 16_000)) / 16_000
            pitch = rng.uniform(100, 300) * (1 + 0.05 * np.sin(2 * np.pi * 3 * time_axis))
            phase = 2 * np.pi * np.cumsum(pitch) / 16_000
            tone = (
                sum(np.sin(k * phase) / k for k in range(1, 12)) * np.hanning(len(time_axis)) * rng.uniform(0.05, 0.3)
            )
            file.write((tone + rng.normal(0, 1e-3, len(time_axis))).astype(np.float32))
            done += part


def run_cli(arguments: list[str]) -> tuple[float, float, float]:
    """Run ``serkit predict`` and return wall seconds, processor seconds and peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "serkit.cli", "predict", *arguments], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--seconds", type=float, default=3600, help="length of the long file")
    parser.add_argument("--clips", type=int, default=100)
    options = parser.parse_args()
    model = ["--model", options.model] if options.model else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        lengths = np.clip(np.exp(rng.normal(np.log(4.5) - 0.18, 0.6, options.clips)), 1, 15)
        for number, seconds in enumerate(lengths):
            write_speechlike(folder / f"{number}.flac", float(seconds), number)
        clip = str(folder / "0.flac")
        run_cli([clip, *model])
        cold = [run_cli([clip, *model])[0] for _ in range(5)]
        startup = run_cli([clip, *model])[1]
        wall, cpu, _ = run_cli([str(folder), "--workers", "1", *model])
        long_file = Path(name) / "long" / "hour.flac"
        long_file.parent.mkdir()
        write_speechlike(long_file, options.seconds)
        long_wall, long_cpu, memory = run_cli([str(long_file), *model])
    result = {
        "cold_start_seconds_median": statistics.median(cold),
        "short_clips": options.clips,
        "short_audio_seconds_per_cpu_second": float(lengths.sum()) / (cpu - startup),
        "short_audio_seconds_per_wall_second_1_worker": float(lengths.sum()) / wall,
        "long_file_seconds": options.seconds,
        "long_audio_seconds_per_cpu_second": options.seconds / long_cpu,
        "long_audio_seconds_per_wall_second": options.seconds / long_wall,
        "peak_memory_mb": memory,
    }
    for key, value in result.items():
        print(f"{key:<46} {value:.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
