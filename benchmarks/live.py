"""How soon does a live stream say something, how many streams keep up with real time, and what do they cost?

    python benchmarks/live.py [--streams 1 20 40 ...] [--seconds 30] [--chunk 1.0] [--limit 320]

Starts ``serkit serve`` on a free port of this machine and opens N streams at a time. Each sends another composition of
clips of EmoDB, EMOVO and RAVDESS under SERKIT_DATA, in random order with pauses of 0.3 to 2 s, in chunks at the pace of
real time; streams begin at random moments of the first second. Without ``--streams``: 1, 20, and then twice as many
until they do not keep up or the limit is reached.

* "about": from the end of sending a chunk to the first event whose end lies within it, over all chunks about which
  there is an event; detection of speech hears a little ahead, so some of these events wait for the next chunk.
* "answer": from the end of sending a chunk to the first event after it, over the chunks that are answered before the
  next is sent.
* "lag": how much later the server was done than the end of the sound was sent: the median and the largest of all
  streams. They keep up where the median is below one chunk, and answers in the second half of the streams come no more
  than half a second later than in the first half (medians: "growth").
* "cpu": processor seconds of the server, per second of stream.

The final segments of every stream are compared with the timeline of the same audio, which must be identical. The load
of the machine before the run stands beside its numbers; the clients run on the same machine, and their processor time
is told. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

from serkit.data.audio import EXTENSIONS, read_audio
from serkit.inference.predictor import Predictor

DATA = Path(os.environ.get("SERKIT_DATA") or Path(__file__).parents[2] / "shared" / "data" / "audio")
RATE = 16_000
KEEPS_UP = 0.5


def list_clips() -> list[Path]:
    """Return the recordings of all corpora."""
    found = sorted(clip for name in ("emodb", "emovo", "ravdess") for clip in (DATA / name).rglob("*"))
    return [clip for clip in found if clip.suffix in EXTENSIONS]


def compose(clips: list[Path], seconds: float, seed: int) -> np.ndarray:
    """Return ``seconds`` of clips and pauses as 16-bit samples; there is faint noise in the pauses."""
    rng, pieces, left = np.random.default_rng(seed), [], round(seconds * RATE)
    while left > 0:
        pause = rng.normal(0, 1e-4, round(RATE * rng.uniform(0.3, 2.0))).astype(np.float32)
        pieces += [pause, read_audio(clips[rng.integers(len(clips))])]
        left -= len(pieces[-1]) + len(pieces[-2])
    wave = np.concatenate(pieces)[: round(seconds * RATE)]
    return np.clip(np.round(wave * 32_767), -32_768, 32_767).astype("<i2")


@dataclass
class Heard:
    """What one client saw: when each chunk was sent (end of sending), and every event with the time it came."""

    sent: list[float] = field(default_factory=list)
    events: list[tuple[float, dict]] = field(default_factory=list)
    problem: str | None = None


async def follow(address: str, pcm: np.ndarray, chunk: float, begin: float) -> Heard:
    """Send ``pcm`` at the pace of real time from ``begin`` on and listen until the server is done."""
    heard, size = Heard(), round(chunk * RATE)
    try:
        async with connect(address, ping_interval=None, max_queue=None, open_timeout=30, compression=None) as client:

            async def listen() -> None:
                async for message in client:
                    heard.events.append((time.perf_counter(), json.loads(message)))

            listening = asyncio.create_task(listen())
            for number, start in enumerate(range(0, len(pcm), size)):
                due = begin + min(number + 1, len(pcm) / size) * chunk  # a chunk is there when its end has been said
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await client.send(pcm[start : start + size].tobytes())
                heard.sent.append(time.perf_counter())
            await client.send('{"type": "finish"}')
            await asyncio.wait_for(listening, 10 * chunk * len(heard.sent) + 30)
    except Exception as error:
        heard.problem = f"{type(error).__name__}: {error}"
    last = heard.events[-1][1] if heard.events else {"type": "nothing"}
    if last["type"] != "done":
        heard.problem = heard.problem or json.dumps(last)
    return heard


def delays(heard: Heard, chunk: float) -> tuple[list[float], list[tuple[int, float]]]:
    """Return the delays of events about chunks, and of answers to chunks with the number of the chunk."""
    told = [(at, event) for at, event in heard.events if "end_ms" in event]
    about, answers = [], []
    for number, sent in enumerate(heard.sent):
        low, high = 1000 * chunk * number, 1000 * chunk * (number + 1)
        found = [at for at, event in told if low < event["end_ms"] <= high and event["type"] in ("start", "update")]
        about += [min(found) - sent] if found else []
        until = heard.sent[number + 1] if number + 1 < len(heard.sent) else float("inf")
        after = [at for at, _ in told if sent <= at < until]
        answers += [(number, min(after) - sent)] if after else []
    return about, answers


def processor_seconds(number: int) -> float:
    """Return the processor time that process ``number`` has taken."""
    fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(number: int) -> float:
    """Return the most memory that process ``number`` has held, in MB."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def compare(predictor: Predictor, pcm: np.ndarray, heard: Heard) -> bool:
    """Tell whether the final segments are those of the timeline."""
    live = [event for _, event in heard.events if event["type"] == "segment"]
    found = [
        (each["utterance"], each["start_ms"], each["end_ms"], each["label"], each["probabilities"]) for each in live
    ]
    expected = []
    for segment in predictor.timeline(pcm, workers=1).segments:
        each = segment.as_dict()
        span = round(1000 * segment.start), round(1000 * segment.end)
        expected.append((each["utterance"], *span, each["label"], each["probabilities"]))
    return sorted(found, key=lambda item: item[1]) == expected


async def play(address: str, recordings: list[np.ndarray], chunk: float) -> list[Heard]:
    """Follow all recordings at the same time."""
    offsets = np.random.default_rng(0).uniform(0, chunk, len(recordings))
    begin = time.perf_counter() + 0.5 + 0.01 * len(recordings)
    clients = (follow(address, pcm, chunk, begin + at) for pcm, at in zip(recordings, offsets, strict=True))
    return list(await asyncio.gather(*clients))


def measure(recordings: list[np.ndarray], chunk: float, predictor: Predictor) -> dict:
    """Start a server, let it follow all recordings at the same time, and return what that came to."""
    count, load = len(recordings), os.getloadavg()[0]
    command = [sys.executable, "-m", "serkit.cli", "serve", "--port", "0", "--streams", str(count)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        host = server.stdout.readline().split(" on http://")[1].split()[0]
        address = f"ws://{host}/v1/stream?sampling_rate={RATE}"
        asyncio.run(play(address, [recordings[0][: 3 * RATE]], 0.5))  # the first of everything is slower
        before, own = processor_seconds(server.pid), time.process_time()
        heard = asyncio.run(play(address, recordings, chunk))
        spent, own, peak = processor_seconds(server.pid) - before, time.process_time() - own, peak_memory(server.pid)
    finally:
        server.terminate()
        server.wait(60)
    seconds = sum(len(pcm) for pcm in recordings) / RATE
    found = [delays(each, chunk) for each in heard]
    about = [delay for each, _ in found for delay in each]
    answers = [delay for _, each in found for _, delay in each]
    half = len(heard[0].sent) / 2
    early = [delay for _, each in found for number, delay in each if number < half]
    late = [delay for _, each in found for number, delay in each if number >= half]
    lag = [each.events[-1][0] - each.sent[-1] for each in heard if each.events and each.sent]
    problems = [each.problem for each in heard if each.problem]
    growth = float(np.median(late) - np.median(early)) if early and late else float("nan")
    same = sum(compare(predictor, pcm, each) for pcm, each in zip(recordings, heard, strict=True))
    return {
        "streams": count,
        "chunks": len(answers),
        "about": [round(1000 * value) for value in np.percentile(about or [float("nan")], (50, 95))],
        "answer": [round(1000 * value) for value in np.percentile(answers or [float("nan")], (50, 95))],
        "growth": round(1000 * growth),
        "lag": [round(1000 * value) for value in np.percentile(lag or [float("nan")], (50, 100))],
        "keeps_up": bool(not problems and growth < KEEPS_UP and np.median(lag) < chunk),
        "cpu": round(spent / seconds, 4),
        "clients_cpu": round(own / seconds, 4),
        "peak_mb": round(peak),
        "same": same,
        "problems": problems[:3],
        "load": round(load, 2),
    }


def main() -> None:
    """Print a row for every number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", help="how many at a time; 1, 20, 40, ... when left out")
    parser.add_argument("--seconds", type=float, default=30, help="how long each is")
    parser.add_argument("--chunk", type=float, default=1.0, help="seconds sent at once")
    parser.add_argument("--limit", type=int, default=320, help="no more streams than this")
    options = parser.parse_args()
    clips, predictor = list_clips(), Predictor()
    counts = list(options.streams or [1, 20])
    rows: list[dict] = []
    print(f"{'streams':>7} {'about ms':>12} {'answer ms':>12} {'growth':>7} {'lag ms':>12}  keeps up", end="")
    print(f"  {'cpu/s':>6} {'clients':>8} {'peak MB':>8}  identical  load")
    while counts:
        count = counts.pop(0)
        row = measure([compose(clips, options.seconds, seed) for seed in range(count)], options.chunk, predictor)
        rows.append(row)
        about, answer, lag = (f"{row[name][0]:>6} {row[name][1]:>5}" for name in ("about", "answer", "lag"))
        facts = f"{row['growth']:>7} {lag}  {'yes' if row['keeps_up'] else 'NO':<8}  {row['cpu']:>6.3f} "
        same = f"{row['same']} of {count}"
        print(f"{count:>7} {about} {answer} {facts}{row['clients_cpu']:>8.3f} {row['peak_mb']:>8}  {same:<9}", end="")
        print(f"  {row['load']}", flush=True)
        for problem in row["problems"]:
            print(f"        {problem}")
        if not options.streams and not counts and row["keeps_up"] and 2 * count <= options.limit:
            counts.append(2 * count)
    facts = {"cores": len(os.sched_getaffinity(0)), "seconds": options.seconds, "chunk": options.chunk}
    print(json.dumps({"benchmark": "live", **facts, "rows": rows}))


if __name__ == "__main__":
    main()
