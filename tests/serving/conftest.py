"""A server with the tiny bundle of ``tests/inference``, in this process or in its own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("fastapi", reason="the server needs serkit[serve]")
from starlette.testclient import TestClient

from serkit.serving.app import create_app
from serkit.serving.processes import Door, listen
from serkit.serving.settings import Settings

_place = Path(__file__).parents[1] / "inference" / "conftest.py"
_spec = importlib.util.spec_from_file_location("inference_fixtures", _place)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
graph, make_speech = _fixtures.graph, _fixtures.make_speech
bundle_folder, predictor = _fixtures.bundle_folder, _fixtures.predictor


@pytest.fixture(scope="session")
def encode():
    """``encode(waveform, rate, format)``: the bytes of a recording."""

    def make(waveform, rate=16_000, format="wav", **more):
        file = io.BytesIO()
        soundfile.write(file, waveform, rate, format=format, **more)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def clip(make_speech, encode):
    """A recording of 1.3 s as a wav file."""
    return encode(make_speech(1.3, seed=1))


@pytest.fixture(scope="session")
def make_client(bundle_folder):
    """``with make_client(**settings) as client`` is a client of a server in this process."""

    @contextlib.contextmanager
    def make(**chosen):
        chosen = {"models": (("tiny", str(bundle_folder)),), "concurrency": 2, **chosen}
        with TestClient(create_app(Settings(**chosen)), raise_server_exceptions=False) as client:
            yield client

    return make


@pytest.fixture(scope="session")
def serve_here(bundle_folder):
    """``with serve_here(**settings) as (host, port), server`` listens on a free port, in a thread of this process."""

    @contextlib.contextmanager
    def make(**chosen):
        chosen = {"models": (("tiny", str(bundle_folder)),), "concurrency": 2, "grace_seconds": 2.0, **chosen}
        ready = threading.Event()
        door = Door(create_app(Settings(**chosen)), ready.set)
        listening = listen("127.0.0.1", 0)
        thread = threading.Thread(target=door.run, args=([listening],), daemon=True)
        thread.start()
        try:
            assert ready.wait(20)
            yield listening.getsockname(), door.server
        finally:
            door.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

    return make


@pytest.fixture(scope="module")
def client(make_client):
    """A client of a server with the usual limits."""
    with make_client() as found:
        yield found


class Running:
    """``serkit serve`` as a process of its own, with its address and log."""

    def __init__(self, folder, *options, env=None):
        command = [sys.executable, "-m", "serkit.cli", "serve", "--port", "0", "--model", f"tiny={folder}", *options]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )
        self.log = []
        self.reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self.reader.start()
        said = self.process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", said)
        assert found, (said, self.log)
        self.url, self.host, self.port = found.group(0), found.group(1), int(found.group(2))

    def stop(self):
        """End it whatever it does; returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.reader.join(5)
            self.process.stdout.close()
            self.process.stderr.close()


@pytest.fixture
def start(bundle_folder):
    """``start("--workers", "2")`` starts a process that serves the tiny bundle, and ends it after the test."""
    found = []

    def begin(*options, env=None):
        found.append(Running(bundle_folder, *options, env=env))
        return found[-1]

    yield begin
    for running in found:
        running.stop()
