"""What does the server do under load, to long recordings, and what would batches change?

    python benchmarks/serve.py [--clients 64] [--rounds 3] [--model BUNDLE]
    python benchmarks/serve.py --long 3
    python benchmarks/serve.py --batches [--float BUNDLE]

The first starts ``serkit serve`` and lets that many clients at a time upload real clips (the corpora under SERKIT_DATA,
else the examples) as soon as their last answer is there, each clip once a round. A client that is told 429 or 503 comes
again after as many seconds as it is told. Every answer is compared with what ``Predictor.predict`` says offline. Beside
throughput stands that of ``Predictor.predict_many`` in one process on the same clips, before and after.

``--long`` sends one recording of so many hours to ``/v1/timeline``: 96 kHz, 8 channels, FLAC, speech from the examples
on the first channel and nothing on the others. It tells the server's peak memory before and after.

``--batches`` judges windows of equal length one by one and in batches, on one thread: processor time per window (median
of 7, in turns), and the largest difference of a probability from the window alone. The float32 bundle is the packaged
encoder with a head of random weights, unless one is given. It needs serkit[train] and the encoder's weights.

Each ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import soundfile
import soxr

from serkit.data.audio import read_audio
from serkit.data.clips import Clip
from serkit.inference.bundle import DEFAULT, Bundle
from serkit.inference.predictor import Predictor

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SERKIT_DATA") or ROOT.parent / "shared" / "data" / "audio")
EXAMPLES = sorted((ROOT / "examples").glob("*.flac"))
TRIES = 200


@contextmanager
def serving(*options: str):
    """Start ``serkit serve``; yields its address and process."""
    command = [sys.executable, "-m", "serkit.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield re.search(r"http://\S+", process.stdout.readline()).group(0), process
    finally:
        process.terminate()
        assert process.wait(60) == 0


def peak_memory(pid: int) -> float:
    """Megabytes that a process had at most (Linux)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def find_clips(number: int) -> list[Path]:
    """Return so many recordings, evenly from all that are at hand."""
    found = sorted(path for path in DATA.rglob("*") if path.suffix in (".wav", ".flac")) or EXAMPLES
    return [found[len(found) * k // number] for k in range(number)]


def upload(client: httpx.Client, path: Path) -> tuple[dict, float, Counter]:
    """Return the answer for a clip, how long it took once it was taken, and the statuses on the way."""
    seen: Counter = Counter()
    data = path.read_bytes()
    for _ in range(TRIES):
        began = time.perf_counter()
        answer = client.post("/v1/predict", files={"file": (path.name, data)})
        seconds = time.perf_counter() - began
        seen[answer.status_code] += 1
        if answer.status_code not in (429, 503):
            answer.raise_for_status()
            return answer.json(), seconds, seen
        time.sleep(float(answer.headers["retry-after"]))
    raise SystemExit(f"{path}: not taken in {TRIES} tries")


def measure_load(options: argparse.Namespace) -> dict:
    """Upload, compare and time."""
    clips = find_clips(options.clients)
    predictor = Predictor(options.model)
    audio = sum(soundfile.info(path).duration for path in clips) * options.rounds

    def offline() -> float:
        began = time.perf_counter()
        for _ in range(options.rounds):
            for _, found in predictor.predict_many(Clip(str(path), str(path)) for path in clips):
                assert not isinstance(found, Exception), found
        return audio / (time.perf_counter() - began)

    wanted = {path: predictor.predict(path, id=path.name).as_dict() for path in clips}
    before = offline()
    with serving("--model", str(options.model), "--queue", str(options.queue)) as (url, process):
        limits = httpx.Limits(max_connections=options.clients)
        with (
            httpx.Client(base_url=url, timeout=600, limits=limits) as client,
            ThreadPoolExecutor(options.clients) as pool,
        ):
            began = time.perf_counter()
            answers = list(pool.map(lambda path: upload(client, path), clips * options.rounds))
            wall = time.perf_counter() - began
        memory = peak_memory(process.pid)
    after = offline()
    worst, statuses, equal = 0.0, Counter(), 0
    for path, (answer, _, seen) in zip(clips * options.rounds, answers, strict=True):
        statuses += seen
        assert answer.pop("thresholds") is not None
        equal += answer == wanted[path]
        pairs = zip(answer["probabilities"].values(), wanted[path]["probabilities"].values(), strict=True)
        worst = max([worst, *(abs(one - other) for one, other in pairs)])
    seconds = sorted(seconds for _, seconds, _ in answers)
    return {
        "clients": options.clients,
        "requests": len(answers),
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "equal_answers": equal,
        "max_probability_difference": worst,
        "requests_per_second": round(len(answers) / wall, 2),
        "audio_seconds_per_second": round(audio / wall, 1),
        "offline_audio_seconds_per_second": [round(before, 1), round(after, 1)],
        "of_offline": round(audio / wall / statistics.mean([before, after]), 3),
        "latency_median": round(statistics.median(seconds), 3),
        "latency_95": round(seconds[int(0.95 * len(seconds))], 3),
        "peak_megabytes": round(memory),
    }


def measure_long(options: argparse.Namespace) -> dict:
    """Send a long recording with many channels at a high rate."""
    speech = np.concatenate([soxr.resample(read_audio(path), 16_000, 96_000) for path in EXAMPLES])
    block = np.zeros((len(speech), 8), np.float32)
    block[:, 0] = speech
    with tempfile.TemporaryDirectory() as folder:
        path, left = Path(folder) / "long.flac", round(options.long * 3600 * 96_000)
        with soundfile.SoundFile(path, "w", 96_000, 8, "PCM_16", format="FLAC", compression_level=0) as file:
            while left > 0:
                file.write(block[:left])
                left -= len(block)
        with serving("--max-megabytes", "20000", "--timeout", "3600") as (url, process):
            httpx.post(f"{url}/v1/timeline", content=EXAMPLES[0].read_bytes(), timeout=60).raise_for_status()
            memory, began = peak_memory(process.pid), time.perf_counter()
            with path.open("rb") as file:
                answer = httpx.post(f"{url}/v1/timeline?hop=4&peaks=1000", content=file, timeout=3600)
            wall = time.perf_counter() - began
            answer.raise_for_status()
            later = peak_memory(process.pid)
        found = answer.json()
        return {
            "hours": options.long,
            "upload_megabytes": round(path.stat().st_size / 1e6),
            "seconds": found["seconds"],
            "segments": len(found["segments"]),
            "curve": len(found["curve"]),
            "wall_seconds": round(wall, 1),
            "answer_megabytes": round(len(answer.content) / 1e6, 2),
            "peak_megabytes_before": round(memory),
            "peak_megabytes_after": round(later),
        }


def write_float32(folder: Path) -> Path:
    """Write the packaged encoder in float32 with a head of random weights that tells recordings apart."""
    import torch

    from serkit.bundling import write_bundle
    from serkit.encoders import create_encoder
    from serkit.models.graph import Graph
    from serkit.models.heads import Batch, HeadConfig, create_head

    torch.manual_seed(0)
    torch.set_num_threads(1)
    encoder = create_encoder("whisper", trim=35.0, level=-23.0).eval()
    head = create_head(HeadConfig(frame_hidden=(16,), statistics=True, members=2), [(2, encoder.dim)], 7).eval()
    clips = [read_audio(path) for path in EXAMPLES]
    with torch.no_grad():
        rows = [
            Batch.of_frames(encoder(torch.tensor(clip)[None], torch.tensor([len(clip)])), (2, 3), 2) for clip in clips
        ]
        seen = torch.cat([row.streams[0].statistics for row in rows])
        mean, sd = seen.mean(0), seen.std(0) + 0.1
        for member in head.heads:
            member.streams[0].standardise.fit(mean[0].numpy(), sd[0].numpy())
            member.linear.streams[0].standardise.fit(mean.numpy(), sd.numpy())
            member.decide[-1].weight *= 4
    card = {"name": "float32", "classes": tuple("abcdefg"), "temperature": 1.0, "min_seconds": 0.25}
    card |= {"window_seconds": 15.0, "frame_rate": 50.0}
    write_bundle(folder, Graph(encoder, head.eval(), (2, 3), 2).eval(), card, clips)
    return folder


def measure_batches(options: argparse.Namespace) -> dict:
    """Judge windows alone and together."""
    speech = np.concatenate([read_audio(path) for path in EXAMPLES] * 4)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        given = options.float or write_float32(Path(folder) / "float32")
        for name, bundle in (("packaged, int8", Bundle(DEFAULT)), ("float32", Bundle(given))):
            for seconds in (2, 5, 10):
                size = seconds * 16_000
                windows = np.stack([speech[k * size // 2 :][:size] for k in range(8)])
                found += compare_batches(name, bundle, seconds, windows)
    return {"batches": found}


def compare_batches(name: str, bundle: Bundle, seconds: int, windows: np.ndarray) -> list[dict]:
    """Return time and difference for every size of batch."""

    def run(batch: int) -> np.ndarray:
        parts = []
        for start in range(0, len(windows), batch):
            part = windows[start : start + batch]
            given = {"waveforms": part, "lengths": np.full(len(part), part.shape[1])}
            logits, _ = bundle.session.run(["logits", "frame_logits"], given)
            parts += [bundle._calibrate(row, None) for row in logits]
        return np.array(parts)

    alone, times = run(1), {batch: [] for batch in (1, 2, 4, 8)}
    for _ in range(7):
        for batch, taken in times.items():
            began = time.process_time()
            run(batch)
            taken.append(1000 * (time.process_time() - began) / len(windows))
    rows = []
    for batch, taken in times.items():
        row = {"bundle": name, "seconds": seconds, "batch": batch, "ms_a_window": round(statistics.median(taken), 1)}
        row["of_alone"] = round(statistics.median(taken) / statistics.median(times[1]), 3)
        rows.append(row | {"max_difference": float(f"{np.abs(run(batch) - alone).max():.2g}")})
        print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEFAULT)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--long", type=float, default=None, help="hours")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--float", type=Path, default=None)
    options = parser.parse_args()
    if options.batches:
        found = measure_batches(options)
    elif options.long:
        found = measure_long(options)
    else:
        found = measure_load(options)
    for name, value in found.items():
        if name != "batches":
            print(f"{name:<34} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
