"""How fast do recordings become pooled hidden states, beside transformers, and are they the same?

    python benchmarks/encoders.py [--files 32] [--rounds 3] [--rows hf1,hf8,hf16,fp32,int8]

One random wav2vec 2.0 of base size (94 million weights; speed does not depend on their values) and generated 48 kHz wav
files, lengths lognormal with mean 4.5 s and at most 30 s. Every row goes the whole way: decode, resample to 16 kHz,
encode, pool all 13 hidden states over time.

    hf1    transformers, eager attention, one recording at a time, one process with its default threads
    hf8    the same in batches of 8 in random order, padded by its feature extractor; attention mask only if
           preprocessor_config.json says so, which that of base models does not
    hf16   the same in batches of 16
    fp32   serkit's extraction into the feature cache, one worker process per core
    int8   the same with precision="int8"

All processes start, load their weights and encode the two longest recordings before the clock runs, so start-up counts
for nobody. Rows alternate within each round, in reversed order every other round; ratios are medians of the rounds'
ratios. Correctness is against hf1: largest absolute difference and cosine of the time-averaged hidden states. Ends with
one JSON line. Runs on Linux; 8 GB of memory suffice. Other work on the machine slows the reference more than serkit, as
its threads wait for each other: measure on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from serkit.cores import count_cores
from serkit.data.audio import read_audio
from serkit.data.manifest import Manifest
from serkit.encoders.cache import FeatureCache
from serkit.encoders.extract import EncoderSpec, encode_in_pool, list_jobs, open_pool

RATE, BLOCKS = 48_000, 12
SPREAD = 0.62
"""Of the logarithm of lengths: with a mean of 4.5 s the deviation is 3.1 s, as in IEMOCAP."""
PADDED = {"hf1": 1, "hf8": 8, "hf16": 16}
BARS = {("fp32", "hf1"): 1.4, ("fp32", "hf8"): 2.9, ("int8", "hf1"): 2.2, ("int8", "hf8"): 4.4}


def write_model(folder: Path) -> None:
    """Write a random base model as transformers does, with the preprocessor of facebook/wav2vec2-base."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)


def write_recordings(folder: Path, count: int) -> list[float]:
    """Write ``count`` voice-like wav files (a gliding harmonic tone, syllables, noise); returns seconds."""
    rng = np.random.default_rng(0)
    # Evenly spaced quantiles: a random draw of 32 may have a mean of 3.8 s and nothing above 9 s.
    normal = [statistics.NormalDist(sigma=SPREAD).inv_cdf((number + 0.5) / count) for number in range(count)]
    lengths = rng.permutation(np.clip(4.5 * np.exp(np.array(normal) - SPREAD**2 / 2), 0.8, 30.0))
    for number, seconds in enumerate(lengths):
        time = np.arange(int(seconds * RATE)) / RATE
        pitch = rng.uniform(90, 250) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        tone = sum(np.sin(k * phase) / k for k in range(1, 20))
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(3, 5) * time + rng.uniform(0, 6)), 0, 1)
        samples = 0.1 * tone * syllables + rng.normal(0, 0.003, len(time))
        soundfile.write(folder / f"{number:04d}.wav", samples.clip(-1, 1), RATE, subtype="PCM_16")
    return [round(float(seconds), 3) for seconds in lengths]


def serve_reference(model: Path, pipe: Any) -> None:
    """The process of the reference: takes (batch size, files), answers pooled hidden states (files, 13, D)."""
    import transformers

    encoder = transformers.Wav2Vec2Model.from_pretrained(model, attn_implementation="eager").eval()
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(model)

    @torch.inference_mode()
    def pool(files: list[str]) -> list[np.ndarray]:
        clips = [read_audio(name) for name in files]
        inputs = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
        states = encoder(**inputs, output_hidden_states=True).hidden_states
        counts = encoder._get_feat_extract_output_lengths(torch.tensor([len(clip) for clip in clips])).tolist()
        return [torch.stack([s[row, :n].mean(0) for s in states]).numpy() for row, n in enumerate(counts)]

    pipe.send(torch.get_num_threads())
    while True:
        try:
            size, files = pipe.recv()
        except EOFError:  # the benchmark is over
            return
        pipe.send([pooled for start in range(0, len(files), size) for pooled in pool(files[start : start + size])])


def open_reference(model: Path) -> tuple[Callable[[int, list[str]], list[np.ndarray]], list[int], int]:
    """Start the reference; returns what runs it, its process ids and how many threads it uses."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=serve_reference, args=(model, other), daemon=True)
    process.start()

    def run(size: int, files: list[str]) -> list[np.ndarray]:
        pipe.send((size, files))
        return pipe.recv()

    threads = pipe.recv()
    return run, [process.pid], threads


def open_serkit(model: Path, folder: Path, precision: str) -> tuple[Callable[[list[str]], list[np.ndarray]], list[int]]:
    """Start serkit's extraction; returns what runs it and its process ids."""
    options = {"weights": str(model), "layers": ["input", *range(1, BLOCKS + 1)], "precision": precision}
    spec = EncoderSpec("wav2vec2", options)
    encoder = spec.create()
    cache = FeatureCache(folder, encoder.fingerprint(), encoder.num_layers, encoder.dim)
    pool = open_pool(spec, cache, False, None, count_cores())

    def run(files: list[str]) -> list[np.ndarray]:
        jobs = list_jobs(Manifest.from_rows([{"id": name, "audio": name} for name in files]))
        errors = [error for error in encode_in_pool(pool, sorted(jobs, key=lambda job: -job.size)) if error]
        assert errors == [], errors
        cache.refresh()
        return [cache.pooled(job.key)[0] for job in jobs]

    for _ in range(2 * count_cores()):  # until every process has come up
        pool.submit(time.sleep, 0.5)
    return run, list(pool._processes)


def cpu_seconds(processes: list[int]) -> float:
    """Return the processor time that ``processes`` have used so far."""
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def measure(rows: dict[str, tuple[Callable, list[int]]], files: list[str], rounds: int) -> tuple[dict, dict, dict]:
    """Run all rows ``rounds`` times; returns wall seconds and processor seconds by row, and the last outputs."""
    walls: dict[str, list[float]] = {name: [] for name in rows}
    cpus: dict[str, list[float]] = {name: [] for name in rows}
    outputs = {}
    for turn in range(rounds):
        for name in list(rows)[:: 1 if turn % 2 == 0 else -1]:
            run, processes = rows[name]
            busy, began = cpu_seconds(processes), time.perf_counter()
            outputs[name] = run(files)
            walls[name].append(time.perf_counter() - began)
            cpus[name].append(cpu_seconds(processes) - busy)
            print(f"round {turn + 1} {name}: {walls[name][-1]:.1f} s, {cpus[name][-1]:.1f} core s", file=sys.stderr)
    return walls, cpus, outputs


def compare(outputs: list[np.ndarray], expected: list[np.ndarray]) -> dict[str, float]:
    """Return the largest difference of pooled hidden states, and their cosine: mean and smallest."""
    a, b = np.stack(outputs).astype(np.float64), np.stack(expected).astype(np.float64)
    cosine = (a * b).sum(2) / np.linalg.norm(a, axis=2) / np.linalg.norm(b, axis=2)
    return {
        "difference": float(abs(a - b).max()),
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
    }


def main() -> None:
    """Run the rows and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default="hf1,hf8,hf16,fp32,int8", help="hf1 must be among them")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # the reference runs with its defaults
        os.environ.pop(name, None)
    names = options.rows.split(",")
    load = [round(value, 1) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder:
        model, audio = Path(folder) / "model", Path(folder) / "audio"
        audio.mkdir()
        write_model(model)
        lengths = write_recordings(audio, options.files)
        files = [str(path) for path in sorted(audio.iterdir())]
        reference, reference_processes, threads = open_reference(model)
        rows: dict[str, tuple[Callable, list[int]]] = {}
        for name in names:
            if name in PADDED:
                rows[name] = (lambda files, size=PADDED[name]: reference(size, files)), reference_processes
            else:
                rows[name] = open_serkit(model, Path(folder) / "cache", name)
        longest = [files[number] for number in np.argsort(lengths)[::-1][: 2 * count_cores()]]
        for run, _ in rows.values():
            run(longest)
        walls, cpus, outputs = measure(rows, files, options.rounds)
    padded = {
        f"padding_{size}": sum(
            max(lengths[start : start + size]) * len(lengths[start : start + size])
            for start in range(0, len(lengths), size)
        )
        / sum(lengths)
        for size in (8, 16)
    }
    report(names, sum(lengths), walls, cpus, outputs, {"files": options.files, "rounds": options.rounds,
           "cores": count_cores(), "reference_threads": threads, "load_before": load[0], **padded})  # fmt: skip


def report(names: list[str], seconds: float, walls: dict, cpus: dict, outputs: dict, about: dict[str, Any]) -> None:
    """Print the table for people, the bars, and the JSON line."""
    result: dict[str, Any] = {**about, "audio_seconds": round(seconds, 1), "rows": {}}
    print(
        f"{about['files']} files, {seconds:.0f} s of audio, {about['rounds']} rounds, {about['cores']} cores, ", end=""
    )
    print(f"reference with {about['reference_threads']} threads, load before {about['load_before']}; ", end="")
    print(f"padded batches hold {about['padding_8']:.2f} (8) and {about['padding_16']:.2f} (16) times the audio\n")
    print("row    audio s/s  x hf1 (range)       x hf8  core s per audio s  difference  cosine mean  cosine min")
    for name in names:
        row: dict[str, Any] = {"audio_seconds_per_second": seconds / statistics.median(walls[name])}
        row["core_seconds_per_audio_second"] = statistics.median(cpus[name]) / seconds
        for other in ("hf1", "hf8"):
            if other in walls:
                ratios = [b / a for a, b in zip(walls[name], walls[other], strict=True)]
                row[f"x_{other}"], row[f"x_{other}_range"] = statistics.median(ratios), [min(ratios), max(ratios)]
        row |= compare(outputs[name], outputs["hf1"])
        low, high = row["x_hf1_range"]
        ratio = f"{row['x_hf1']:.2f} ({low:.2f}-{high:.2f})"
        print(
            f"{name:<6} {row['audio_seconds_per_second']:>9.2f}  {ratio:<18}  {row.get('x_hf8', float('nan')):>5.2f}  "
            f"{row['core_seconds_per_audio_second']:>18.3f}  {row['difference']:>10.2g}  {row['cosine_mean']:>11.6f}  "
            f"{row['cosine_min']:>10.6f}"
        )
        result["rows"][name] = row
    checks = [(f"{a} at least {bar} x {b}", result["rows"][a][f"x_{b}"] >= bar)
              for (a, b), bar in BARS.items() if a in names and b in names]  # fmt: skip
    if "fp32" in names:
        checks.append(("fp32 within 1e-4 of hf1", result["rows"]["fp32"]["difference"] <= 1e-4))
    if "int8" in names:
        checks.append(("int8 cosine at least 0.999", result["rows"]["int8"]["cosine_min"] >= 0.999))
    print()
    for said, kept in checks:
        print(f"{'yes' if kept else 'NO ':<4} {said}")
    result["bars"] = {said: bool(kept) for said, kept in checks}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
