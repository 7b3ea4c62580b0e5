"""``serkit serve`` as a process: it stops in order, replaces workers that die, and says in one line why it cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from serkit.cli.serve import read_keys
from serkit.errors import InputError


def ask(running, path, data=None, **headers):
    """Status and body of an answer."""
    request = urllib.request.Request(running.url + path, data, {"Content-Type": "application/octet-stream", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def log_of(running):
    return [json.loads(line) for line in running.log]


def workers_of(running):
    """Process ids of the workers (Linux)."""
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def minutes(make_speech, encode):
    """Four minutes: seconds of work for the tiny bundle."""
    return encode(np.tile(make_speech(2.0), 120))


def test_a_stop_lets_what_is_under_way_end(start, minutes):
    running = start("--concurrency", "1", "--grace", "120", env={"SERKIT_API_KEY": "a-secret"})
    key, found = {"X-API-Key": "a-secret"}, []
    thread = threading.Thread(
        target=lambda: found.append(ask(running, "/v1/timeline?hop=0.5&speech=false", minutes, **key))
    )
    thread.start()
    until(lambda: b"serkit_requests_under_way 1.0" in ask(running, "/metrics", **key)[1])
    running.process.terminate()
    until(lambda: ask(running, "/health")[0] == 503)
    status, told = ask(running, "/v1/predict", b"x", **key)
    assert (status, json.loads(told)["error"]["code"]) == (503, "shutting_down")
    thread.join(60)
    assert found[0][0] == 200 and len(json.loads(found[0][1])["curve"]) == 480
    assert running.stop() == 0
    assert not any("secret" in line for line in running.log)
    assert {"route": "/v1/timeline", "status": 200}.items() <= log_of(running)[-1].items()


def test_a_stop_does_not_wait_for_ever(start, minutes):
    running = start("--concurrency", "1", "--grace", "0.3")
    found = []
    thread = threading.Thread(target=lambda: found.append(ask(running, "/v1/timeline?hop=0.05&speech=false", minutes)))
    thread.start()
    until(lambda: b"serkit_requests_under_way 1.0" in ask(running, "/metrics")[1])
    began = time.monotonic()
    assert running.stop() == 0 and time.monotonic() - began < 15
    thread.join(10)
    status, told = found[0]
    assert status == 503 and json.loads(told)["error"]["code"] == "shutting_down"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_is_killed_is_replaced(start, clip, tmp_path):
    running = start("--workers", "2", env={"TMPDIR": str(tmp_path)})
    before = workers_of(running)
    assert len(before) == 2
    wanted = ask(running, "/v1/predict", clip)
    assert wanted[0] == 200
    answered = 'serkit_requests_total{method="POST",route="/v1/predict",status="200"} '

    def told_by_metrics(line):
        return line in ask(running, "/metrics")[1].decode()

    until(lambda: told_by_metrics(f"{answered}1.0"))  # an answer is counted once it is sent: a moment later
    os.kill(before[0], signal.SIGKILL)
    for _ in range(8):  # the other one goes on
        assert ask(running, "/v1/predict", clip) == wanted
    until(lambda: len(workers_of(running)) == 2 and before[0] not in workers_of(running))
    told = [line["message"] for line in log_of(running) if "message" in line]
    assert told == [f"worker {before[0]} died with status -9: another takes its place"]
    for _ in range(8):
        assert ask(running, "/v1/predict", clip) == wanted
    until(lambda: told_by_metrics(f"{answered}17.0"))
    until(lambda: told_by_metrics("serkit_window_seconds_count 17.0"))
    until(lambda: told_by_metrics("serkit_requests_under_way 0.0"))
    assert len(list(tmp_path.glob("serkit-metrics-*"))) == 1
    assert running.stop() == 0
    assert not list(tmp_path.glob("serkit*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_their_parent(start, tmp_path):
    running = start("--workers", "2", env={"TMPDIR": str(tmp_path)})
    workers = workers_of(running)
    running.process.kill()
    until(lambda: not any(map(is_alive, workers)))
    assert not list(tmp_path.glob("serkit*"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((running.host, running.port), timeout=5)


def test_what_cannot_start_says_why(serkit, bundle_folder, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = serkit("serve", "--model", bundle_folder, "--port", port)
        assert ran.code == 1 and "already in use: choose others with --host and --port" in ran.err
    ran = serkit("serve", "--model", tmp_path, "--port", 0)
    assert ran.code == 2 and "is not a bundle" in ran.err
    ran = serkit("serve", "--model", "a=", "--port", 0)
    assert ran.code == 2 and "NAME=FOLDER" in ran.err
    monkeypatch.setitem(sys.modules, "websockets", None)
    ran = serkit("serve", "--model", tmp_path, "--port", 0)
    assert ran.code == 2 and ran.err == "serkit: websockets is not installed: run pip install 'serkit[serve]'\n"


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text("# first team\none\n\n two \n")
    monkeypatch.delenv("SERKIT_API_KEY", raising=False)
    assert read_keys(None) == ()
    assert read_keys(path) == ("one", "two")
    monkeypatch.setenv("SERKIT_API_KEY", "three")
    assert read_keys(path) == ("one", "two", "three")
    monkeypatch.setenv("SERKIT_API_KEY", "")
    with pytest.raises(InputError, match="is empty"):
        read_keys(None)
    monkeypatch.delenv("SERKIT_API_KEY")
    path.write_text("# none\n")
    with pytest.raises(InputError, match="holds no key"):
        read_keys(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "missing")
