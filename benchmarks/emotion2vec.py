"""Is serkit's emotion2vec FunASR's, and how fast are recordings its features in either?

    python benchmarks/emotion2vec.py --funasr VENV/bin/python --conf CONF [CONF] [--files 24] [--rounds 3]
                                     [--parts parity,speed,lengths] [--rows funasr-1,serkit-1,...]

Two environments: this runs in serkit's, and FunASR in its own, which it starts with ``--funasr`` and which sees
benchmarks/emotion2vec_funasr.py alone. To make one: ``python -m venv VENV``, then ``pip install torch==2.13.0``,
``pip install --no-deps funasr==1.4.16`` and ``pip install numpy omegaconf soundfile librosa kaldiio tqdm requests
PyYAML setuptools``. ``--conf`` are FunASR's ``model_conf`` as JSON, of base and maybe others. Recordings are those of
RAVDESS and EmoDB under the folder SERKIT_DATA. No weights are needed: FunASR's class is given random ones, all of them,
norms and ALiBi scales too, and saves a folder like the published ones, from which both sides read them.

    parity   for every configuration: features and logits of noise of several lengths, each alone; all as one padded
             batch with ``reference=True`` against FunASR's class given the padding mask
    speed    with the first configuration, features of the last block averaged over time, from files:
             funasr-1, -cores     AutoModel.generate, a call per file; one thread, a thread per core
             funasr-default       the same with the number of threads that it chooses (ncpu=4)
             funasr-list-1, ...   one call with the list of all files and batch_size=8
             serkit-1, -cores     extraction into the feature cache, one single-threaded process, one per core
             serkit-batch-1       one process with one thread, encode_batches with 200 s of padded audio a batch
             int8-...             the same with precision="int8"
    lengths  one recording of 10, 30, ... seconds, a fresh process and one thread each: time and peak memory; FunASR
             until it fails with ``--memory``

Weights are loaded and a file is encoded before the clock runs. Rows alternate within a round, in reversed order every
other round; ratios are medians of the rounds' ratios. Processor time is what counts for rows of one thread: other work
on the machine disturbs it little. Ends with one JSON line. Runs on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from encoders import cpu_seconds

from serkit.cores import count_cores
from serkit.data.audio import read_audio
from serkit.data.manifest import Manifest
from serkit.encoders import create_encoder
from serkit.encoders.batches import encode_batches
from serkit.encoders.cache import FeatureCache
from serkit.encoders.emotion2vec.files import read_emotion2vec
from serkit.encoders.extract import EncoderSpec, encode_in_pool, list_jobs, open_pool

TOKENS = "angry\ndisgusted\nfearful\nhappy\nneutral\nother\nsad\nsurprised\n<unk>\n"
LENGTHS = (400, 719, 8_000, 16_001, 40_000, 66_000)
RATE, BAR = 16_000, 2.0
ROWS = (
    "funasr-1,funasr-list-1,funasr-cores,funasr-list-cores,funasr-default,"
    "serkit-1,serkit-batch-1,serkit-cores,int8-1,int8-batch-1,int8-cores"
)


class Funasr:
    """The process of FunASR."""

    def __init__(self, python: str, memory: float | None = None) -> None:
        """``memory`` in GiB is the most address space it gets, so that it fails before the machine does."""
        limit = None if memory is None else int(memory * 2**30)
        prepare = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        script = Path(__file__).with_name("emotion2vec_funasr.py")
        self.process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=prepare,
        )

    def __call__(self, do: str, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"FunASR's process ended with {self.process.wait()} at {do}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@torch.no_grad()
def measure_parity(python: str, conf: dict[str, Any], folder: Path) -> dict[str, float]:
    """Return the largest absolute differences between the two implementations with the weights of ``folder``."""
    torch.set_num_threads(1)
    funasr, out = Funasr(python), folder / "out.npz"
    funasr("write", folder=str(folder), conf=conf, seed=7, tokens=TOKENS)
    rng = np.random.default_rng(3)
    clips = [(rng.normal(0.01, 0.1, size)).astype(np.float32) for size in LENGTHS]
    np.savez(folder / "clips.npz", *clips)
    funasr("compare", clips=str(folder / "clips.npz"), out=str(out))
    funasr.close()
    theirs, checkpoint = np.load(out), read_emotion2vec(folder)
    assert checkpoint.head is not None
    last = [checkpoint.config.blocks]
    encoder = create_encoder("emotion2vec", weights=checkpoint, layers=last)
    plain = create_encoder("emotion2vec", weights=checkpoint, layers=last, reference=True)
    result = dict.fromkeys(("features", "modules", "logits", "batch_reference", "batch_alone"), 0.0)

    def note(name: str, ours: torch.Tensor, expected: np.ndarray) -> None:
        result[name] = max(result[name], float((ours - torch.from_numpy(expected)).abs().max()))

    for number, clip in enumerate(clips):
        wave, size, expected = torch.from_numpy(clip)[None], torch.tensor([len(clip)]), theirs[f"alone_{number}"]
        features = encoder(wave, size).layers[0, 0]
        note("features", features, expected)
        note("modules", plain(wave, size).layers[0, 0], expected)
        note("logits", torch.nn.functional.linear(features.mean(0), *checkpoint.head), theirs[f"logits_{number}"][0])
    sizes = torch.tensor(LENGTHS)
    batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
    padded, alone = plain(batch, sizes), encoder(batch, sizes)
    for row, count in enumerate(padded.lengths.tolist()):
        note("batch_reference", padded.layers[row, 0, :count], theirs["batch"][row, :count])
        note("batch_alone", alone.layers[row, 0, :count], theirs[f"alone_{row}"])
    result["largest_feature"] = float(abs(theirs["alone_5"]).max())
    return result


def list_recordings(count: int) -> list[str]:
    """Return ``count`` recordings of RAVDESS and EmoDB in turn, evenly spaced among all."""
    root = Path(os.environ.get("SERKIT_DATA", "../shared/data/audio"))
    corpora = [
        sorted(p for p in (root / name).rglob("*") if p.suffix in (".wav", ".flac")) for name in ("ravdess", "emodb")
    ]
    picked = [files[len(files) * number // -(-count // 2)] for number in range(-(-count // 2)) for files in corpora]
    return [str(path.resolve()) for path in picked[:count]]


def open_serkit(folder: Path, cache_folder: Path, precision: str, workers: int) -> Callable:
    """Start an extraction of ``workers`` processes; returns what gives pooled features and processor seconds."""
    spec = EncoderSpec("emotion2vec", {"weights": str(folder), "layers": [12], "precision": precision})
    encoder = spec.create()
    cache = FeatureCache(cache_folder, encoder.fingerprint(), encoder.num_layers, encoder.dim)
    pool = open_pool(spec, cache, False, None, workers)
    for _ in range(2 * workers):
        pool.submit(time.sleep, 0.3)

    def run(files: list[str]) -> tuple[np.ndarray, float]:
        processes = list(pool._processes)
        jobs, busy = list_jobs(Manifest.from_rows([{"id": n, "audio": n} for n in files])), cpu_seconds(processes)
        errors = [error for error in encode_in_pool(pool, sorted(jobs, key=lambda job: -job.size)) if error]
        assert errors == [], errors
        busy = cpu_seconds(processes) - busy
        cache.refresh()
        return np.stack([cache.pooled(job.key)[0, 0] for job in jobs]), busy

    return run


def open_batched(folder: Path, precision: str) -> Callable:
    """Return what encodes in padded batches in this process with one thread."""
    encoder = create_encoder("emotion2vec", weights=str(folder), layers=[12], precision=precision)

    def run(files: list[str]) -> tuple[np.ndarray, float]:
        torch.set_num_threads(1)
        busy = time.process_time()
        pooled: dict[str, np.ndarray] = {}
        jobs = list_jobs(Manifest.from_rows([{"id": n, "audio": n} for n in files]))
        keep = lambda job, states: pooled.update({job.id: states[0].mean(0).numpy()})  # noqa: E731
        assert not any(encode_batches(jobs, encoder, lambda job: read_audio(job.audio), keep, 200.0))
        return np.stack([pooled[name] for name in files]), time.process_time() - busy

    return run


def measure_speed(python: str, folder: Path, files: list[str], rounds: int, names: list[str]) -> dict[str, Any]:
    """Return wall and processor seconds of every row and round, and how far the features are from FunASR's."""
    funasr, cores, out = Funasr(python), count_cores(), str(folder / "feats.npy")
    chosen = funasr("open", folder=str(folder))["threads"]
    rows: dict[str, Callable] = {}
    for name in names:
        side, kind = name.split("-", 1)
        if side == "funasr":
            threads = {"1": 1, "cores": cores, "default": chosen}[kind.removeprefix("list-")]

            def run(recordings: list[str], threads: int = threads, together: bool = "list" in kind) -> Any:
                answer = funasr("run", files=recordings, threads=threads, together=together, out=out)
                return np.load(out), answer["cpu"]

            rows[name] = run
        elif kind == "batch-1":
            rows[name] = open_batched(folder, {"serkit": "fp32"}.get(side, side))
        else:
            workers, precision = {"1": 1, "cores": cores}[kind], {"serkit": "fp32"}.get(side, side)
            rows[name] = open_serkit(folder, folder / f"cache-{name}", precision, workers)
    walls: dict[str, list[float]] = {name: [] for name in rows}
    cpus: dict[str, list[float]] = {name: [] for name in rows}
    features: dict[str, np.ndarray] = {}
    for run in rows.values():
        run(files[: 2 * cores])
    for turn in range(rounds):
        for name in list(rows)[:: 1 if turn % 2 == 0 else -1]:
            began = time.perf_counter()
            features[name], busy = rows[name](files)
            walls[name].append(time.perf_counter() - began)
            cpus[name].append(busy)
            print(f"round {turn + 1} {name}: {walls[name][-1]:.1f} s, {busy:.1f} core s", file=sys.stderr)
    funasr.close()
    expected = features["funasr-1"].astype(np.float64)
    cosine = {name: (values * expected).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(expected, axis=1)
              for name, values in features.items()}  # fmt: skip
    far = {name: {"difference": float(abs(values - expected).max()), "cosine_min": float(cosine[name].min())}
           for name, values in features.items()}  # fmt: skip
    return {"threads_default": chosen, "walls": walls, "cpus": cpus, "far": far}


def measure_length(folder: Path, file: Path, python: str | None, memory: float) -> dict[str, float] | str:
    """Encode ``file`` in a fresh process, of FunASR (its ``python``) or serkit's; returns seconds and peak memory."""
    if python is not None:
        funasr = Funasr(python, memory)
        try:
            funasr("open", folder=str(folder))
            funasr("run", files=[str(folder / "warm.wav")], threads=1, together=False)
            return funasr("run", files=[str(file)], threads=1, together=False)
        except RuntimeError as error:
            return str(error)
        finally:
            funasr.close()
    code = f"from emotion2vec import encode_alone; encode_alone({str(folder)!r}, {str(file)!r})"
    process = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    return json.loads(process.stdout) if process.returncode == 0 else f"ended with {process.returncode}"


@torch.inference_mode()
def encode_alone(folder: str, file: str) -> None:
    """Print what :func:`measure_length` returns."""
    torch.set_num_threads(1)
    encoder = create_encoder("emotion2vec", weights=folder, layers=[12])
    encoder(torch.zeros(1, RATE), torch.tensor([RATE]))
    wall, busy = time.perf_counter(), time.process_time()
    wave = torch.from_numpy(read_audio(file))[None]
    encoder(wave, torch.tensor([wave.shape[1]])).layers.mean(2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - busy, "peak_gib": peak}))


def measure_lengths(python: str, folder: Path, seconds: list[int], memory: float) -> dict[int, dict[str, Any]]:
    """Return time and memory of either side for recordings of so many ``seconds``; FunASR stops where it fails."""
    results: dict[int, dict[str, Any]] = {}
    failed = ""
    soundfile.write(folder / "warm.wav", np.zeros(RATE), RATE, subtype="PCM_16")
    for length in seconds:
        file = folder / f"{length}.wav"
        soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, length * RATE), RATE, subtype="PCM_16")
        theirs = failed or measure_length(folder, file, python, memory)
        failed = theirs if isinstance(theirs, str) else ""
        results[length] = {"funasr": theirs, "serkit": measure_length(folder, file, None, memory)}
        print(length, results[length], file=sys.stderr)
    return results


def report_speed(result: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Print the table of speed; returns it with the ratios to compare."""
    walls, cpus, table = result["walls"], result["cpus"], {}
    print(f"\nFunASR chooses {result['threads_default']} threads; {count_cores()} cores\n")
    print(
        "row                core s / audio s  wall s / audio s   x processor time (range)   x wall (range)         "
        "difference"
    )
    for name in walls:
        other = ("funasr-list-" if "batch" in name else "funasr-") + ("cores" if name.endswith("cores") else "1")
        ratios = [[a / b for a, b in zip(times[other], times[name], strict=True)] for times in (cpus, walls)]
        said = [f"{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})" for r in ratios]
        core, wall = (statistics.median(times[name]) / seconds for times in (cpus, walls))
        far = result["far"][name]
        print(f"{name:<18} {core:>16.4f}  {wall:>16.4f}   {said[0]:<25}  {said[1]:<20}   {far['difference']:.2g} "
              f"(cosine {far['cosine_min']:.6f}) to {other}")  # fmt: skip
        table[name] = {"core_s": core, "wall_s": wall, "against": other, "x_cpu": ratios[0], "x_wall": ratios[1], **far}
    for said, name in (("single", "serkit-1"), ("batched", "serkit-batch-1")):
        ratio = statistics.median(table[name]["x_cpu"]) if name in table else float("nan")
        print(f"{'yes' if ratio >= BAR else 'NO ':<4} fp32 {said}, one thread: at least {BAR} x FunASR ({ratio:.2f})")
    return table


def main() -> None:
    """Run the parts and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--funasr", required=True, help="the Python of the environment with funasr")
    parser.add_argument("--conf", nargs="+", type=Path, required=True)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", default="10,30,60,120,180,240,300")
    parser.add_argument("--rows", default=ROWS, help="funasr-1 must be among them, and what others are compared with")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of address space that FunASR gets in lengths")
    parser.add_argument("--parts", default="parity,speed,lengths")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # every row sets its own
        os.environ.pop(name, None)
    parts, result = options.parts.split(","), {"load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as temporary:
        for number, file in enumerate(options.conf):
            folder, conf = Path(temporary) / str(number), json.loads(file.read_text())
            if "parity" in parts:
                result[f"parity {file.name}"] = found = measure_parity(options.funasr, conf, folder)
                print(file.name, ", ".join(f"{name} {value:.2g}" for name, value in found.items()))
                worst = max(value for name, value in found.items() if name != "largest_feature")
                print(f"{'yes' if worst < 1e-4 else 'NO ':<4} within 1e-4 of FunASR's class")
            elif number == 0:
                funasr = Funasr(options.funasr)
                funasr("write", folder=str(folder), conf=conf, seed=7, tokens=TOKENS)
                funasr.close()
        folder = Path(temporary) / "0"
        if "speed" in parts:
            files = list_recordings(options.files)
            seconds = sum(soundfile.info(file).duration for file in files)
            print(
                f"{len(files)} files, {seconds:.1f} s, {options.rounds} rounds, load before {result['load_before']:.1f}"
            )
            names = options.rows.split(",")
            found = measure_speed(options.funasr, folder, files, options.rounds, names)
            result["speed"] = report_speed(found, seconds)
        if "lengths" in parts:
            result["lengths"] = measure_lengths(
                options.funasr, folder, [int(n) for n in options.lengths.split(",")], options.memory
            )
            for length, sides in result["lengths"].items():
                said = {side: f"{v['cpu']:.1f} core s, {v['peak_gib']:.2f} GiB" if isinstance(v, dict) else v
                        for side, v in sides.items()}  # fmt: skip
                print(f"{length:>4} s  FunASR {said['funasr']:<32} serkit {said['serkit']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
