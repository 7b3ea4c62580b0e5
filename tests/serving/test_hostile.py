"""Uploads, requests and streams made to harm: the server says what is wrong, stays as it was, and answers the next."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import fuzz_server
import numpy as np
import pytest
import soundfile
from fuzz_server import LIMITS, judge_answer, judge_stream, read_answer, read_frames, send
from hostile_files import encode as encode_av
from hostile_files import make_playlists, make_seeds, make_wave
from hostile_requests import Wire, frame, head, make_request, make_stream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def launch(tmp_path):
    """``launch(*options)`` is ``serkit serve`` with the default model, a temporary folder and a log of its own."""
    found = []

    def start(*options):
        folder = tmp_path / f"server{len(found)}"
        folder.mkdir()
        found.append(fuzz_server.Server(folder, *options))
        return found[-1]

    yield start
    for server in found:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def served(serve_here):
    with serve_here(read_seconds=1.0, max_seconds=600.0) as found:
        yield found


def post(address, content, path="/v1/predict"):
    """Status and JSON of the answer to an upload."""
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", content)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def upgrade(query=""):
    """The head of a live stream."""
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    path = "/v1/stream" + query
    return head("GET", path, [*fields, ("Sec-WebSocket-Key", "A" * 22 + "==")]).replace(b"Connection: close\r\n", b"")


# Thousands


def test_a_share_of_the_fuzzer_finds_no_bug(launch):
    server = launch(*LIMITS)
    tally = fuzz_server.run(server, inputs=300, seconds=60, seed=5, streams=0.2)
    assert tally.bugs == []
    assert sum(tally.outcomes.values()) == 300
    assert {"200", "422 bad_audio", "422 bad_option", "stream done 1000"} <= set(tally.outcomes)
    assert server.stop() == 0
    assert server.left() == [] and server.failures() == []


def test_the_fuzzer_knows_what_may_not_be():
    wire = Wire("recording", ())
    answer = b'HTTP/1.1 %d X\r\ncontent-length: 43\r\n\r\n{"error": {"code": "%s", "message": "none."}}'
    assert judge_answer(wire, answer % (422, b"bad_audio"))[1] is False  # half a body
    answer = answer.replace(b"43", b"%d")
    for status, code, good in ((422, b"bad_audio", True), (500, b"internal", False), (503, b"timed_out", True)):
        body = b'{"error": {"code": "%s", "message": ""}}' % code
        told = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
        assert judge_answer(wire, told) == (f"{status} {code.decode()}", good)
    assert judge_answer(wire, b"")[1] is False and judge_answer(Wire("noise", ()), b"")[1] is True
    ready = b"HTTP/1.1 101 X\r\n\r\n" + frame(1, b'{"type": "ready"}', masked=False)
    internal = frame(1, b'{"type": "error", "error": {"code": "internal"}}', masked=False)
    assert judge_stream(wire, ready + frame(8, b"\x03\xe8", masked=False)) == ("stream ready 1000", True)
    assert judge_stream(wire, ready + internal + frame(8, b"\x03\xf3", masked=False))[1] is False


def test_hostile_requests_are_the_same_every_time():
    seeds = make_seeds()
    assert [make_request(seeds, 1, n) for n in range(100)] == [make_request(seeds, 1, n) for n in range(100)]
    assert [make_stream(1, n) for n in range(50)] == [make_stream(1, n) for n in range(50)]


# Uploads by name


def uploads():
    """Name -> bytes, the code of the answer (None: it is judged)."""
    import io

    def wav(samples, rate=16_000, subtype="FLOAT", format="WAV"):
        file = io.BytesIO()
        soundfile.write(file, samples, rate, subtype=subtype, format=format)
        return file.getvalue()

    tone = make_wave(seconds=1.0)
    flac = wav(tone, subtype="PCM_16", format="FLAC")
    slow = bytearray(wav(tone, subtype="PCM_16"))
    slow[24:28] = struct.pack("<I", 1)
    fast = bytearray(slow)
    fast[24:28] = struct.pack("<I", 2**32 - 1)
    hours = bytearray(flac)
    hours[18:26] = ((int.from_bytes(hours[18:26], "big")) | (2**36 - 1)).to_bytes(8, "big")
    return {
        "nothing": (b"", "bad_audio"),
        "text": (b"these are words\n" * 500, "bad_audio"),
        "archive": (b"PK\x03\x04" + bytes(4000), "bad_audio"),
        "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60_000, 60_000) + bytes(4000), "bad_audio"),
        "cut": (flac[: len(flac) // 2], "bad_audio"),
        "not a number": (wav(np.where(np.arange(16_000) == 8000, np.nan, 0.1).astype(np.float32)), "bad_audio"),
        "beyond any scale": (wav(tone * np.float32(1e30)), "bad_audio"),
        "1 Hz": (bytes(slow), "bad_audio"),
        "4 GHz": (bytes(fast), "bad_audio"),
        "a header of days": (bytes(hours), "too_long"),
        "64 channels": (wav(np.repeat(tone, 64, 1), subtype="PCM_16"), None),
        "96 kHz, 8 channels": (wav(np.repeat(make_wave(96_000, seconds=1.0), 8, 1), 96_000), None),
        "a film of large pictures": (encode_av(tone, 16_000, "mp4", "aac", picture=(3000, 3000)), None),
    }


UPLOADS = uploads()


@pytest.mark.parametrize("route", ["/v1/predict", "/v1/timeline"])
@pytest.mark.parametrize("name", UPLOADS)
def test_uploads(served, route, name):
    content, code = UPLOADS[name]
    status, answer = post(served[0], content, route)
    if code is None:
        assert status == 200 and json.dumps(answer, allow_nan=False)
    else:
        assert (status, answer["error"]["code"]) == (413 if code == "too_long" else 422, code)
        assert "\n" not in answer["error"]["message"]


@pytest.mark.parametrize("playlist", tuple(make_playlists("")))
def test_an_upload_cannot_have_a_file_of_the_server_read(served, tmp_path, playlist):
    soundfile.write(tmp_path / "canary.wav", make_wave(seconds=1.0), 16_000)
    (tmp_path / "canary.aac").write_bytes(encode_av(make_wave(seconds=1.0), 16_000, "adts", "aac"))
    for target in ("canary.wav", "canary.aac"):
        status, answer = post(served[0], make_playlists(str(tmp_path / target))[playlist])
        assert (status, answer["error"]["code"]) == (422, "bad_audio")


@pytest.mark.parametrize("turns", ["0,1e308,a", "1e308,1e309,a", "nan,1,a", "-1,2,a", "0,1e12,a"])
def test_turns_beyond_any_recording(served, turns):
    body = b""
    for name, content in (
        ("file", UPLOADS["96 kHz, 8 channels"][0]),
        ("turns", f"start,end,speaker\n{turns}\n".encode()),
    ):
        body += (
            f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode() + content + b"\r\n"
        )
    headers = [("Content-Type", "multipart/form-data; boundary=x"), ("Content-Length", str(len(body) + 7))]
    wire = Wire("form", (head("POST", "/v1/timeline", headers), body + b"--x--\r\n"))
    assert judge_answer(wire, send(served[0], wire, 20)[0]) == ("422 bad_option", True)


def test_hours_in_a_small_file_are_refused_in_little_memory(launch, tmp_path):
    """By the header of a FLAC file, and where no header tells: after what may be decoded."""
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 16_000, 1, "PCM_16") as file:
        for _ in range(180):
            file.write(np.zeros(16_000 * 60, np.int16))
    content = (tmp_path / "a.flac").read_bytes()
    assert len(content) < 600_000
    unknown = bytearray(content)
    unknown[18:26] = (int.from_bytes(content[18:26], "big") & ~(2**36 - 1)).to_bytes(8, "big")
    server = launch("--max-seconds", "600")
    expected, before = fuzz_server.ask(server), server.memory()
    for each in (content, bytes(unknown)):
        for route in ("/v1/predict", "/v1/timeline?peaks=100"):
            status, answer = post(server.address, each, route)
            assert status == 413 and answer["error"]["code"] == "too_long", answer
    assert server.memory() - before < 80
    assert fuzz_server.ask(server) == expected


# Clients


def test_many_slow_clients_do_not_keep_others_out(launch):
    server = launch("--read-timeout", "2")
    expected, idle = fuzz_server.ask(server), server.descriptors()
    length = ("Content-Length", "100000")
    starts = [b"POST /v1/predict HTT", head("POST", "/v1/predict", [("Content-Type", "audio/wav"), length]), upgrade()]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(server.address)) for _ in range(45)]
        for number, client in enumerate(clients):
            client.sendall(starts[number % 3])
        until(lambda: server.descriptors() >= idle + 30)
        for _ in range(3):
            assert fuzz_server.ask(server) == expected
            for number, client in enumerate(clients):  # a byte now and then
                if number % 3 < 2:
                    with contextlib.suppress(OSError):
                        client.sendall(b"x")
        until(lambda: server.descriptors() <= idle)
    assert fuzz_server.ask(server) == expected
    assert server.stop() == 0 and server.failures() == []


def test_who_reads_no_answer_is_dropped(launch):
    server = launch("--read-timeout", "1")
    expected = fuzz_server.ask(server)
    time.sleep(0.5)  # its connection is closed
    idle = server.descriptors()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.5)
        client.connect(server.address)
        with contextlib.suppress(TimeoutError):  # it is not read from either while it waits
            client.sendall(head("GET", "/openapi.json", []).replace(b"Connection: close\r\n", b"") * 2000)
        until(lambda: server.descriptors() > idle)
        until(lambda: server.descriptors() <= idle)
    assert fuzz_server.ask(server) == expected
    assert server.stop() == 0 and server.failures() == []


def test_a_stream_with_a_head_that_is_too_long_is_refused_and_does_not_fail_the_stop(launch):
    server = launch()
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(upgrade("?labels=" + "x" * 20_000))
        assert client.recv(99).startswith(b"HTTP/1.1 400 ")
        assert client.recv(99) == b""
    assert server.stop() == 0 and server.failures() == []


def test_who_floods_a_stream_with_pings_and_reads_nothing_is_dropped(launch):
    server = launch()
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(upgrade())
        assert client.recv(99).startswith(b"HTTP/1.1 101 ")
        before, pings, end = server.memory(), frame(9, b"p" * 125) * 500, time.monotonic() + 20
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                client.sendall(pings)
        assert server.memory() - before < 40
    assert server.stop() == 0 and server.failures() == []


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ((frame(2, b"ab", masked=False),), 1002),
        ((frame(2, b"ab", length=2**62),), 1009),
        ((frame(3, b""),), 1002),
        ((frame(9, b"p" * 200),), 1002),
        ((frame(8, b"\x03\xe8\xff\xfe"),), 1007),
        ((frame(2, b"ab", rsv=4),), 1002),
        ((frame(2, b"ab", final=False), frame(1, b"x")), 1002),
        ((frame(1, b"[" * 100_000),), 1008),
        ((frame(1, b"\xff"),), 1007),
    ],
)
def test_frames_against_the_rules_close_the_stream_and_nothing_else(served, caplog, frames, code):
    data, closed = send(served[0], Wire("stream", (upgrade(), *frames)), 15)
    messages, found = read_frames(data.partition(b"\r\n\r\n")[2])
    assert closed and found == code
    assert messages[0]["type"] == "ready"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    until(lambda: not any(served[1].engine.places.values()))


def test_a_worker_that_is_killed_under_load_fails_its_own_requests_only(launch):
    server = launch("--workers", "2", "--queue", "64")
    children = lambda: Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()  # noqa: E731
    workers = [int(pid) for pid in children() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    expected, wire, told, over = fuzz_server.ask(server), fuzz_server.good_request(), [], threading.Event()

    def load():
        while not over.is_set():
            at = time.monotonic()
            try:
                data, closed = send(server.address, wire, 20)
            except OSError as error:
                data, closed = str(error).encode(), True
            whole = data.startswith(b"HTTP/1.1 200 ") and json.loads(read_answer(data)[1]) == expected
            told.append((at, whole, closed))

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(told) > 60)
    killed, count = time.monotonic(), len(told)
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(told) > count + 60)
    until(lambda: sum(b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children()) == 2)
    until(lambda: "another takes its place" in server.log.read_text())
    time.sleep(1)
    last = time.monotonic()
    until(lambda: sum(at > last for at, _, _ in told) > 30)
    over.set()
    for thread in threads:
        thread.join(20)
    lost = [at - killed for at, whole, _ in told if not whole]
    assert all(closed for _, _, closed in told)
    assert len(lost) <= 6 and all(abs(at) < 1 for at in lost), lost  # what each client had under way at that moment
    assert [server.log.read_text().count(words) for words in ("died with status -9", "Traceback")] == [1, 0]
    assert server.stop() == 0
