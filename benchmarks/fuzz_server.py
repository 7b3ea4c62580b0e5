"""What does the server do with thousands of broken and hostile requests and live streams?

    python benchmarks/fuzz_server.py [--inputs 4000] [--seconds 900] [--seed 0] [--workers 1] [--streams 0.25]

Starts ``serkit serve`` with short limits and sends it what ``hostile_requests.py`` makes: broken recordings, odd
options, broken forms and broken HTTP to ``/v1/predict`` and ``/v1/timeline``, and broken streams to ``/v1/stream``,
four at a time. Every answer is to be a whole one with a status that says what is wrong; a connection may be closed
without an answer where what was sent is no request. After every 100 inputs a good recording is sent, whose answer
may not differ from the first one. Bugs are: an internal error, a hang, a wrong answer, a server that is gone, a failure
in its log, files left in its temporary folder. Memory is that of all processes of the server, after 500 inputs, after
1500 and so on, and at the end; so are open files counted. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from hostile_files import make_seeds, make_wave
from hostile_requests import Wire, head, make_request, make_stream

SERVE = "from serkit.cli import main; main()"
LIMITS = "--read-timeout 3 --timeout 30 --max-megabytes 2 --max-seconds 120 --queue 64".split()
CODES = {
    "bad_audio", "bad_option", "unsupported", "too_large", "too_long", "unauthorized", "not_found", "not_allowed",
    "busy",    "timed_out", "shutting_down",
}  # fmt: skip
"""What an error may say; "internal" is not among it."""


class Server:
    """``serkit serve`` in a process of its own, with a temporary folder and a log of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.temporary, self.log = folder / "temporary", folder / "log"
        self.temporary.mkdir()
        command = [sys.executable, "-c", SERVE, "serve", "--port", "0", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[^ ]*:(\d+)", line)
        assert found, line + self.log.read_text()[-2000:]
        self.address = ("127.0.0.1", int(found[1]))
        self.kept = set(self.files())

    def processes(self) -> list[int]:
        """Return its process and those below it."""
        found = [self.process.pid]
        for each in found:
            for path in Path(f"/proc/{each}/task").glob("*/children"):
                found += [int(child) for child in path.read_text().split()]
        return found

    def memory(self) -> float:
        """Return what its processes hold, in MB."""
        fields = (Path(f"/proc/{each}/status").read_text() for each in self.processes())
        return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in fields if "VmRSS" in text) / 1024  # type: ignore[index]

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return sum(len(os.listdir(f"/proc/{each}/fd")) for each in self.processes())

    def files(self) -> list[str]:
        """Return the files in its temporary folder."""
        return sorted(str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*") if path.is_file())

    def left(self) -> list[str]:
        """Return files that were not there at the start, such as uploads, but for the metrics of its processes."""
        return [name for name in self.files() if name not in self.kept and "serkit-metrics" not in name]

    def failures(self) -> list[str]:
        """Return the lines of its log that tell of a failure."""
        text = self.log.read_text(errors="replace")
        return [line[:2000] for line in text.splitlines() if "Traceback" in line or '"level": "error"' in line]

    def stop(self) -> int:
        """Tell it to stop; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def send(address: tuple[str, int], wire: Wire, limit: float) -> tuple[bytes, bool]:
    """Send ``wire``; returns all that came until the server closed, and whether it did within ``limit`` seconds."""
    end, received = time.monotonic() + limit, bytearray()
    with socket.create_connection(address, timeout=limit) as connection:
        try:
            for number, piece in enumerate(wire.pieces):
                connection.sendall(piece)
                if number == 0 and wire.kind.startswith("stream"):  # frames may only follow the answer
                    connection.settimeout(limit / 2)
                    received += connection.recv(65_536)
            if wire.half:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server may close before it has read everything
        try:
            while time.monotonic() < end:
                if wire.kind.startswith("stream") and read_frames(received.partition(b"\r\n\r\n")[2])[1] is not None:
                    return bytes(received), True  # the server says farewell, and waits for ours
                connection.settimeout(max(0.01, end - time.monotonic()))
                piece = connection.recv(65_536)
                if not piece:
                    return bytes(received), True
                received += piece
        except TimeoutError:
            return bytes(received), False
        except OSError:
            return bytes(received), True
    return bytes(received), False


def read_answer(data: bytes) -> tuple[int, bytes]:
    """Return status and body of the last answer in ``data``; raises ``ValueError`` for half of one."""
    status, body = 0, b""
    while data.startswith(b"HTTP/1.1 "):
        status = int(data[9:12])
        start, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            raise ValueError("half a head")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", start)
        size = int(length[1]) if length else 0 if status < 200 else len(rest)
        if len(rest) < size and status != 200:
            raise ValueError("half a body")
        body, data = rest[:size], rest[size:]
    if data:
        raise ValueError(f"no answer: {data[:40]!r}")
    return status, body


def judge_answer(wire: Wire, data: bytes) -> tuple[str, bool]:
    """Return what came of a request, and whether that may be."""
    if not data:  # uvicorn drops connections whose sending side is closed, and what is no HTTP
        return "closed", wire.half or wire.kind not in ("recording", "options", "form")
    try:
        status, body = read_answer(data)
    except ValueError as error:
        return str(error), wire.kind == "method"  # HEAD is answered without a body
    if status == 200 and body.startswith(b"{"):
        json.loads(body, parse_constant=lambda name: 1 / 0)
    if status >= 400 and body.startswith(b"{"):
        code = json.loads(body)["error"]["code"]
        return f"{status} {code}", code in CODES
    return str(status), status < 500


def read_frames(data: bytes) -> tuple[list[dict[str, Any]], int | None]:
    """Return the JSON messages and the close code in a server's frames."""
    messages, place = [], 0
    while place + 2 <= len(data):
        opcode, size = data[place] & 15, data[place + 1] & 127
        place += 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[place : place + width], "big")
            place += width
        payload, place = data[place : place + size], place + size
        if place > len(data):
            break
        if opcode == 1:
            messages.append(json.loads(payload))
        elif opcode == 8:
            return messages, struct.unpack(">H", payload[:2])[0] if len(payload) > 1 else 1005
    return messages, None


def judge_stream(wire: Wire, data: bytes) -> tuple[str, bool]:
    """Return what came of a stream, and whether that may be."""
    start, found, rest = data.partition(b"\r\n\r\n")
    status = int(start[9:12]) if start.startswith(b"HTTP/1.1 ") else 0
    if status != 101 or not found:
        return f"stream {status}", 400 <= status < 500 or (status == 0 and wire.half)
    messages, code = read_frames(rest)
    errors = [each["error"]["code"] for each in messages if each["type"] == "error"]
    if errors:
        return f"stream {errors[0]} {code}", errors[0] in CODES and code != 1011
    last = messages[-1]["type"] if messages else "nothing"
    return f"stream {last} {code}", code != 1011


@dataclass
class Tally:
    """What came of all inputs so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    bugs: list[tuple[int, str, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, number: int, kind: str, outcome: str, good: bool, seconds: float) -> None:
        """Count one."""
        self.outcomes[outcome] += 1
        self.kinds[kind] += 1
        self.slowest = max(self.slowest, (round(seconds, 2), number))
        if not good:
            self.bugs.append((number, kind, outcome))
            print(number, kind, outcome, sep="\t", flush=True)


def attack(server: Server, seeds: dict[str, tuple[str, bytes]], seed: int, number: int, streams: float) -> tuple:
    """Send input ``number``; returns it with its kind, its outcome, whether that may be, and its time in seconds."""
    live = number % 100 < 100 * streams
    wire = make_stream(seed, number) if live else make_request(seeds, seed, number)
    began = time.monotonic()
    try:
        data, closed = send(server.address, wire, 20.0)
        outcome, good = judge_stream(wire, data) if live else judge_answer(wire, data)
        if not closed:
            outcome, good = f"hang after {outcome}", False
    except Exception as error:
        outcome, good = f"{type(error).__name__}: {error}"[:100], False
    return number, wire.kind, outcome, good, time.monotonic() - began


def good_request() -> Wire:
    """Return a request that is right in all respects."""
    file = io.BytesIO()
    soundfile.write(file, make_wave(seconds=1.5), 16_000, format="WAV")
    content = file.getvalue()
    headers = [("Content-Type", "audio/wav"), ("Content-Length", str(len(content)))]
    return Wire("good", (head("POST", "/v1/predict", headers), content))


def ask(server: Server) -> dict[str, Any]:
    """Return the answer to the good request."""
    data, closed = send(server.address, good_request(), 20.0)
    status, body = read_answer(data)
    assert closed and status == 200, (closed, data[:300])
    return json.loads(body)


def run(server: Server, inputs: int, seconds: float, seed: int, streams: float, only: int | None = None) -> Tally:
    """Send all inputs, bounded in number and time, four at a time."""
    tally, seeds, started, first = Tally(), make_seeds(), time.monotonic(), ask(server)
    numbers = list(range(inputs)) if only is None else [only]
    with ThreadPoolExecutor(4) as pool:
        for at in range(0, len(numbers), 100):
            if time.monotonic() - started > seconds:
                print(f"time is over after {at} inputs")
                break
            for told in pool.map(lambda n: attack(server, seeds, seed, n, streams), numbers[at : at + 100]):
                tally.add(*told)
            if ask(server) != first:
                tally.bugs.append((at, "good", "another answer than at first"))
            if at % 1000 == 500:
                tally.notes.setdefault("memory_mb_on_the_way", []).append(round(server.memory()))
    time.sleep(1.5)  # the last connections are closed
    tally.notes |= {"memory_mb": round(server.memory()), "files": server.descriptors(), "left": server.left()}
    tally.bugs += [(-1, "left behind", name) for name in server.left()]
    tally.bugs += [(-1, "log", line) for line in server.failures()]
    return tally


def main() -> None:
    """Read the arguments, attack, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=900, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--streams", type=float, default=0.25, help="share of the inputs that are live streams")
    parser.add_argument("--only", type=int)
    parser.add_argument("--log", type=Path, help="write the server's log here")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), "--workers", str(arguments.workers), *LIMITS)
        try:
            tally = run(server, arguments.inputs, arguments.seconds, arguments.seed, arguments.streams, arguments.only)
        finally:
            status = server.stop()
        if arguments.log is not None:
            arguments.log.write_bytes(server.log.read_bytes())
        if status != 0:
            tally.bugs.append((-1, "exit", str(status)))
        for number, kind, outcome in tally.bugs:
            print("BUG", number, kind, outcome, sep="\t")
    for title, counter in (("what came of it", tally.outcomes), ("what was sent", tally.kinds)):
        print(f"\n{title}")
        for key, count in counter.most_common(40):
            print(f"  {key:40} {count}")
    told = {"inputs": sum(tally.outcomes.values()), "bugs": len(tally.bugs), "slowest_seconds": tally.slowest[0]}
    told |= {"slowest": tally.slowest[1], **tally.notes, "seed": arguments.seed, "workers": arguments.workers}
    print(json.dumps(told | {"outcomes": dict(tally.outcomes), "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
