"""What does the decoder do with thousands of broken and hostile recordings?

    python benchmarks/fuzz.py [--inputs 10000] [--seconds 1800] [--seed 0] [--only NUMBER] [--save FOLDER]

Every input of ``hostile_files.make_hostile`` is read in another process: one that dies is told with the signal that
ended it, one that takes longer than ``--limit`` seconds is ended, and another takes over. An input is read as a path,
an open file or bytes, as a whole or in part, until a minute of sound has come. What may come of it is samples (finite
float32) or one ``AudioError`` of one line that names the input; everything else is a bug: another exception, a crash,
a hang, more than ``--memory`` MB, a file left open, sound from a playlist. ``--only`` shows one input; ``--save``
writes the inputs behind bugs. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hostile_files import Hostile, make_hostile, make_seeds, write_canary

from serkit.data.audio import Source, read_info, source_name, stream_audio
from serkit.errors import AudioError

ADDRESS_SPACE = 4 * 2**30
MINUTE = 60 * 16_000


def read_status(key: str) -> float:
    """Return a field of this process's status in MB, such as VmHWM, the most memory it has held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def read_all(source: Source, number: int) -> int:
    """Read header and at most a minute of samples; returns their number. Raises on samples that should not be."""
    info = read_info(source)
    assert info.sampling_rate > 0 and info.channels > 0, info
    assert info.seconds is None or 0 <= info.seconds < 1e15, info
    spans: list[tuple[float | None, float | None]] = [(None, None), (None, None), (0.1, 0.2), (0.05, None)]
    total = 0
    blocks = stream_audio(source, *spans[number % 4])
    for block in blocks:
        assert block.dtype == np.float32 and block.ndim == 1 and len(block), (block.dtype, block.shape)
        assert np.isfinite(block).all(), "samples that are not finite"
        total += len(block)
        if total > MINUTE:
            break
    blocks.close()  # type: ignore[attr-defined]
    return total


def judge(hostile: Hostile, number: int, folder: Path) -> dict[str, Any]:
    """Return what came of one input: ``outcome``, ``detail``, and how much time and memory it took."""
    path = folder / f"input{number}{hostile.ending}"
    path.write_bytes(hostile.content)
    files, before = len(os.listdir("/proc/self/fd")), read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    started = time.perf_counter()
    with path.open("rb") as file:
        sources: list[Source] = [path, path, file, io.BytesIO(hostile.content)]
        source = sources[number // 4 % 4]
        name = source_name(source)
        try:
            told = {"outcome": "samples", "detail": read_all(source, number)}
            if hostile.kind == "playlist":
                told["outcome"] = "another file was read"
        except AudioError as error:
            message = str(error)
            good = message.startswith(f"{name}: ") and "\n" not in message
            told = {"outcome": "refused" if good else "message", "detail": message.removeprefix(name)}
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            told = {
                "outcome": "exception",
                "detail": f"{type(error).__name__}: {error} ({last.name}:{last.lineno})"[:200],
            }
            if os.environ.get("SERKIT_FUZZ_TRACE"):
                traceback.print_exc()
    told |= {"seconds": time.perf_counter() - started, "memory": read_status("VmHWM") - before, "kind": hostile.kind}
    if len(os.listdir("/proc/self/fd")) > files:
        told |= {"outcome": "left open"}
    path.unlink()
    return told


def work(seed: int, folder: Path) -> None:
    """Judge the inputs whose numbers come on standard input, one JSON line each."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seeds = make_seeds()
    for line in sys.stdin:
        number = int(line)
        hostile = make_hostile(seeds, seed, number, str(folder / "canary.wav"))
        print(json.dumps(judge(hostile, number, folder)), flush=True)


class Reader:
    """A process that reads inputs; one that dies or hangs is replaced."""

    def __init__(self, seed: int, folder: Path, limit: float) -> None:
        self.command = [sys.executable, __file__, "--seed", str(seed), "--work", str(folder)]
        self.limit = limit
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, number: int) -> dict[str, Any]:
        """Return what came of input ``number``."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"%d\n" % number)
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], self.limit)[0]:
            self.close()
            return {"outcome": "hang", "detail": f"over {self.limit} s", "seconds": self.limit, "memory": 0, "kind": ""}
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.close()
        detail = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return {"outcome": "crash", "detail": detail, "seconds": 0, "memory": 0, "kind": ""}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Tally:
    """What came of all inputs so far; ``bugs`` are the inputs with outcomes that may not be."""

    memory: float
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    bugs: list[tuple[int, str, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[float, int] = (0.0, -1)

    def add(self, number: int, told: dict[str, Any]) -> bool:
        """Count one; tells whether it is a bug."""
        outcome = told["outcome"]
        if outcome in ("samples", "refused") and told["memory"] > self.memory:
            outcome = "memory"
        self.outcomes[outcome] += 1
        self.kinds[told["kind"]] += 1
        if outcome == "refused":
            self.reasons[" ".join(told["detail"].split()[1:5])] += 1
        self.slowest = max(self.slowest, (round(told["seconds"], 3), number))
        self.largest = max(self.largest, (round(told["memory"], 1), number))
        if outcome in ("samples", "refused"):
            return False
        self.bugs.append((number, outcome, str(told["detail"])))
        return True

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "inputs": sum(self.outcomes.values()), "outcomes": dict(self.outcomes.most_common()),
            "kinds": dict(self.kinds.most_common()), "bugs": len(self.bugs),
            "slowest_seconds": self.slowest[0], "slowest": self.slowest[1],
            "most_memory_mb": self.largest[0], "most_memory": self.largest[1],
        }  # fmt: skip


def run(arguments: argparse.Namespace, folder: Path) -> Tally:
    """Read all inputs, bounded in number and time."""
    tally, seeds, started = Tally(arguments.memory), make_seeds(), time.monotonic()
    reader = Reader(arguments.seed, folder, arguments.limit)
    numbers = range(arguments.inputs) if arguments.only is None else [arguments.only]
    for number in numbers:
        if time.monotonic() - started > arguments.seconds:
            print(f"time is over after {number} inputs")
            break
        told = reader.ask(number)
        if arguments.only is not None:
            print(told)
        if tally.add(number, told):
            print(number, *tally.bugs[-1][1:], told["kind"], sep="\t", flush=True)
            if arguments.save is not None:
                hostile = make_hostile(seeds, arguments.seed, number, str(folder / "canary.wav"))
                arguments.save.mkdir(parents=True, exist_ok=True)
                (arguments.save / f"{arguments.seed}-{number}{hostile.ending}").write_bytes(hostile.content)
    reader.close()
    return tally


def main() -> None:
    """Read the arguments, read the inputs, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=1800, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=10, help="seconds that one input may take")
    parser.add_argument("--memory", type=float, default=150, help="MB that one input may take")
    parser.add_argument("--only", type=int)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        return work(arguments.seed, arguments.work)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        write_canary(Path(name))
        tally = run(arguments, Path(name))
    for title, counter in (
        ("outcome", tally.outcomes),
        ("done to it", tally.kinds),
        ("refused because", tally.reasons),
    ):
        print(f"\n{title}")
        for key, count in counter.most_common(20):
            print(f"  {key:40} {count}")
    print(json.dumps(tally.as_dict() | {"seed": arguments.seed, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
