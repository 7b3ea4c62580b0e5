"""How much memory and time do the features of a long recording take, and how far is cutting it from not cutting it?

    python benchmarks/long_files.py [--minutes 1 10 60] [--drift 0] [--dim 768] [--weights FOLDER] [--folder PATH]

Recordings are made of the clips of EmoDB, EMOVO and RAVDESS under SERKIT_DATA, in random order, one after the other.
For each length a process of one thread writes the last layer of emotion2vec's base size, float32 frames, as
``serkit extract --layout emotion2vec --granularity frame`` does, and tells its peak memory and processor time. With
``--drift N``, frames of N compositions of 60 s in windows are compared with the uncut ones: by relative distance (over
the standard deviation of uncut frames around their mean) and by cosine, of frames in the middle of windows (their own
quarter of the window around its centre) and of the 0.2 s on either side of a border. Weights are random (normal,
variance one over the inputs) unless ``--weights`` names a checkpoint. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from serkit.data.audio import read_audio
from serkit.data.manifest import Manifest
from serkit.encoders.emotion2vec import Emotion2vecConfig, Emotion2vecEncoder, create
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint, write_emotion2vec
from serkit.encoders.extract import EncoderSpec, list_jobs
from serkit.encoders.features import Wanted, extract_clips
from serkit.encoders.windows import Windows, encode_stream, plan_windows

DATA = Path(os.environ.get("SERKIT_DATA") or Path(__file__).parents[2] / "shared" / "data" / "audio")
SETTINGS = (Windows(30, 0), Windows(30, 4), Windows(30, 8), Windows(10, 2))


def write_random_weights(folder: Path, dim: int) -> Path:
    """Write a checkpoint in which every tensor matters: base size for 768, otherwise as deep and ``dim`` wide."""
    config = Emotion2vecConfig(dim=dim, ffn=4 * dim, conv_dim=(dim * 2 // 3,) * 7)
    encoder = Emotion2vecEncoder("emotion2vec", config)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in encoder.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if key == "alibi_scale":
            noise = torch.ones_like(tensor)
        elif tensor.ndim == 1:
            noise = 1 + 0.1 * noise if key.endswith("weight") else 0.05 * noise
        elif key != "utterance_tokens":
            noise = noise / tensor[0].numel() ** 0.5
        state[key] = noise
    write_emotion2vec(folder, Emotion2vecCheckpoint("random", encoder.config, state))
    return folder


def compose(path: Path, seconds: int, seed: int) -> Path:
    """Write ``seconds`` of clips in random order, one after the other."""
    clips = sorted(clip for name in ("emodb", "emovo", "ravdess") for clip in (DATA / name).rglob("*.*"))
    clips = [clip for clip in clips if clip.suffix in (".wav", ".flac", ".ogg", ".mp3", ".opus")]
    rng, left = np.random.default_rng(seed), seconds * 16_000
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        while left > 0:
            wave = read_audio(clips[rng.integers(len(clips))])[:left]
            file.write(wave)
            left -= len(wave)
    return path


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage also knows the memory of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(weights: Path, recording: Path, output: Path) -> None:
    """Extract and print this process's peak memory in MB, its processor time and what it wrote."""
    torch.set_num_threads(1)
    jobs = list_jobs(Manifest.from_rows([{"id": "long", "audio": str(recording)}]))
    loaded = EncoderSpec("emotion2vec", {"weights": str(weights)})
    start, before = time.process_time(), peak_memory()
    failed = extract_clips(jobs, loaded, output, Wanted(frames=True), workers=1)
    if failed:
        raise SystemExit(failed[0])
    frames = np.load(output / "long.npy", mmap_mode="r")
    facts = {
        "before": round(before),
        "peak": round(peak_memory()),
        "seconds": round(time.process_time() - start, 1),
        "frames": len(frames),
        "file": round((output / "long.npy").stat().st_size / 1e6),
    }
    print(json.dumps(facts))


@torch.inference_mode()
def drift(weights: Path, folder: Path, count: int) -> list[dict[str, object]]:
    """Return one row per setting: distances and cosines to uncut frames, the mean over ``count`` compositions."""
    torch.set_num_threads(1)
    encoder = create(str(weights), layers=[12])
    found: dict[Windows, list[list[float]]] = {windows: [] for windows in SETTINGS}
    for number in range(count):
        wave = read_audio(compose(folder / "drift.wav", 60, 1000 + number))
        (uncut,) = encode_stream(encoder, [wave], None)
        uncut = uncut[0].double()
        spread = (uncut - uncut.mean(0)).square().sum(1).mean().sqrt()
        for windows in SETTINGS:
            pieces = [piece[0].double() for piece in encode_stream(encoder, [wave], windows)]
            cut, plan = torch.cat(pieces), plan_windows(encoder, windows)
            distance = (cut - uncut).norm(dim=1) / spread
            cosine = torch.cosine_similarity(cut, uncut, dim=1)
            assert plan is not None and cut.shape == uncut.shape
            position, middle, border = 0, torch.zeros(len(cut), dtype=bool), torch.zeros(len(cut), dtype=bool)
            for piece in pieces:
                quarter = len(piece) // 8
                centre = position + len(piece) // 2
                middle[centre - quarter : centre + quarter] = True
                position += len(piece)
                border[max(0, position - 10) : position + 10] = position < len(cut)
            means = (cut.mean(0) - uncut.mean(0)).norm() / spread
            found[windows].append(
                [
                    *(float(distance[where].mean()) for where in (middle, border)),
                    *(float(cosine[where].mean()) for where in (middle, border)),
                    float(means),
                ]
            )
    names = ("middle", "border", "cosine middle", "cosine border", "mean of all frames")
    rows = []
    for windows, values in found.items():
        array = np.array(values)
        row: dict[str, object] = {"window": windows.seconds, "overlap": windows.overlap, "n": count}
        for name, column in zip(names, array.T, strict=True):
            row[name] = [round(float(column.mean()), 4), round(float(column.min()), 4), round(float(column.max()), 4)]
        rows.append(row)
    return rows


def main() -> None:
    """Write weights and recordings, run a process for each, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, nargs="*", default=[1, 10, 60])
    parser.add_argument("--drift", type=int, default=0)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", type=Path, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    rows, drifts = [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        weights = options.weights or write_random_weights(folder / "weights", options.dim)
        if options.minutes:
            print("| minutes | memory before, MB | peak, MB | processor, s | s per minute | frames | file, MB |")
            print("|---|---|---|---|---|---|---|")
        for minutes in options.minutes:
            recording = compose(folder / "long.wav", 60 * minutes, minutes)
            command = [sys.executable, __file__, "--measure", str(weights), str(recording), str(folder / f"{minutes}")]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            facts = {"minutes": minutes, **json.loads(done.stdout)}
            print(
                f"| {minutes} | {facts['before']} | {facts['peak']} | {facts['seconds']} | "
                f"{facts['seconds'] / minutes:.1f} | {facts['frames']} | {facts['file']} |",
                flush=True,
            )
            rows.append(facts)
        if options.drift:
            drifts = drift(weights, folder, options.drift)
            print("| " + " | ".join(drifts[0]) + " |\n" + "|---" * len(drifts[0]) + "|")
            for row in drifts:
                print("| " + " | ".join(str(value) for value in row.values()) + " |")
    name = str(options.weights or f"random, {options.dim} wide")
    facts = {"weights": name, "torch": torch.__version__, "rows": rows, "drift": drifts}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
