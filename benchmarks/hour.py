"""How long does the timeline of an hour take, how much memory, and are its times still right at the end?

    python benchmarks/hour.py [--minutes 60] [--formats wav mp3 m4a] [--folder PATH] [--cpus N] [--options ...]

Composes clips of EmoDB, EMOVO and RAVDESS (see ``compositions.py``; seeded, of all speakers: what is measured here is
not how right the labels are) and runs ``serkit predict --timeline`` on it in a process of its own, for each format.
Wall and processor seconds are of that process from its start, memory is its peak. ``decode`` and ``speech`` are the
processor seconds of decoding and of finding speech alone, in this process with one thread; the model has the rest.
``lag`` is by how many ms what is decoded is behind what was composed, in the first and in the last minute.
``starts`` and ``ends`` are the mean signed distances, in ms, of segments from the nearest beginning and end of a clip
within 0.5 s (positive: late), for the first and the last five minutes: what they differ by is drift. ``--cpus`` keeps
the process on that many processors; what follows ``--options`` goes to ``serkit predict``. The machine's load average
before each run stands beside. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from compositions import Composition, compose, read_corpora

from serkit.data.audio import SAMPLING_RATE, stream_audio
from serkit.inference.speech import SpeechDetector

CHILD = """
import json, sys, time
from pathlib import Path
from serkit.cli import main
sys.argv = ["serkit", *sys.argv[2:]]
try:
    main()
finally:
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    Path({report!r}).write_text(json.dumps({{"cpu": time.process_time(), "peak": peak}}))
"""
FAR = 0.5


def compose_long(minutes: float) -> Composition:
    """Return clips of all corpora and speakers in random order, for so many minutes."""
    table = read_corpora().filter(read_corpora()["emotion"] != "bored")
    table = table[np.random.default_rng(0).permutation(len(table)).tolist()]
    return compose("train", 0, seconds=(60 * minutes, 60 * minutes), clips=table)


def write_recording(composition: Composition, path: Path) -> Path:
    """Write a composition in the format that the name of ``path`` tells."""
    if path.suffix in (".wav", ".flac"):
        soundfile.write(path, composition.waveform, SAMPLING_RATE)
        return path
    with av.open(str(path), "w") as container:
        codec = "libmp3lame" if path.suffix == ".mp3" else "aac"
        stream = container.add_stream(codec, rate=SAMPLING_RATE, layout="mono", bit_rate=64_000)
        for start in range(0, len(composition.waveform), 1024):
            frame = av.AudioFrame.from_ndarray(composition.waveform[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = SAMPLING_RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def run(path: Path, folder: Path, cpus: int | None, given: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return what ``serkit predict --timeline`` took for ``path``, and its answer."""
    output, report = folder / "timeline.json", folder / "report.json"
    command = [sys.executable, "-c", CHILD.format(report=str(report)), "serkit"]
    command += ["predict", str(path), "--timeline", "--format", "json", "-o", str(output), *given]
    chosen = sorted(os.sched_getaffinity(0))[:cpus]
    load, began = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, chosen))
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    told = json.loads(report.read_text())
    return {"load": load, "wall": wall, "cpu": told["cpu"], "peak": told["peak"]}, json.loads(output.read_text())


def measure_parts(path: Path, composition: Composition) -> dict[str, Any]:
    """Return the processor seconds of decoding and of finding speech, and by how many ms what is decoded is late."""
    began = time.process_time()
    blocks = list(stream_audio(path))
    decoded = time.process_time()
    detector = SpeechDetector()
    for block in blocks:
        detector.push(block)
    detector.finish()
    spent = {"decode": decoded - began, "speech": time.process_time() - decoded}
    heard, wanted = np.concatenate(blocks), composition.waveform
    size = min(len(heard), len(wanted), 60 * SAMPLING_RATE)
    pieces = (slice(0, size), slice(len(wanted) - size, len(wanted)))
    return {**spent, "lag": [find_lag(heard[piece], wanted[piece]) for piece in pieces]}


def find_lag(late: np.ndarray, early: np.ndarray) -> float:
    """Return by how many ms ``late`` is behind ``early`` where they are most alike."""
    size = len(late) + len(early)
    alike = np.fft.irfft(np.fft.rfft(late, size) * np.conj(np.fft.rfft(early, size)), size)
    place = int(alike.argmax())
    return 1000 * (place if place < size / 2 else place - size) / SAMPLING_RATE


def measure_drift(composition: Composition, segments: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Return for starts and ends the mean signed distances in ms, in the first and in the last five minutes."""
    found = {}
    for side in ("start", "end"):
        wanted = np.array([getattr(each, side) for each in composition.stretches])
        said = np.array([segment[side] for segment in segments])
        nearest = np.abs(wanted[:, None] - said).argmin(axis=1)
        off = said[nearest] - wanted
        close = np.abs(off) <= FAR
        parts = (wanted < 300, wanted > composition.seconds - 300)
        found[f"{side}s"] = [round(1000 * float(off[close & part].mean()), 1) for part in parts]
    return found


def main() -> None:
    """Compose, run, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--formats", nargs="*", default=["wav", "mp3", "m4a"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--cpus", type=int)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        composition = compose_long(options.minutes)
        print(
            f"{composition.seconds / 60:.1f} minutes, {len(composition.stretches)} clips, "
            f"{composition.noise}, SNR {composition.snr} dB\n"
        )
        print(
            "| format | load before | wall, s | processor, s | decode | speech | peak, MB | lag, ms | "
            "starts | ends | segments |"
        )
        print("|" + "---|" * 11)
        for kind in options.formats:
            path = write_recording(composition, Path(name) / f"hour.{kind}")
            facts, answer = run(path, Path(name), options.cpus, options.options)
            segments = answer["segments"]
            row: dict[str, Any] = {"format": kind, **facts, **measure_parts(path, composition)}
            row |= measure_drift(composition, segments) | {"segments": len(segments), "seconds": answer["seconds"]}
            rows.append(row)
            print(
                f"| {kind} | {row['load']:.1f} | {row['wall']:.1f} | {row['cpu']:.1f} | {row['decode']:.1f} | "
                f"{row['speech']:.1f} | {row['peak']:.0f} | {row['lag']} | {row['starts']} | "
                f"{row['ends']} | {len(segments)} |",
                flush=True,
            )
    print(json.dumps({"minutes": composition.seconds / 60, "cpus": options.cpus, "rows": rows}))


if __name__ == "__main__":
    main()
