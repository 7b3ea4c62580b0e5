"""Clients that are slow, go away, or send what is no HTTP; on real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import numpy as np
import pytest

from serkit.inference.bundle import Bundle

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def served(serve_here):
    with serve_here(read_seconds=0.6, queue=0, concurrency=1, max_bytes=3_000_000) as found:
        yield found


@pytest.fixture
def place_of(served):
    """``place_of(number)`` waits until so many requests have a place."""

    def wait(number):
        places = served[1].engine.places[False]
        end = time.monotonic() + 10
        while len(places) != number:
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait


@contextlib.contextmanager
def connected(served):
    with socket.create_connection(served[0], timeout=15) as client:
        yield client


def answer(client):
    """Status, headers and JSON of an answer, and what came after it until the server closed or was silent."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65_536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    while len(body) < int(headers["content-length"]):
        body += client.recv(65_536)
    return int(lines[0].split()[1]), headers, json.loads(body)


def is_closed(client):
    with contextlib.suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


def test_a_body_that_comes_too_slowly_is_given_up(served, place_of):
    with connected(served) as client:
        client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        place_of(1)
        began = time.monotonic()
        for _ in range(3):  # a trickle is no progress
            client.sendall(b"x")
            time.sleep(0.15)
        status, headers, told = answer(client)
        assert (status, told["error"]["code"]) == (503, "timed_out") and "too slowly" in told["error"]["message"]
        assert headers["connection"] == "close" and time.monotonic() - began < 10
        place_of(0)
        client.close()


def test_a_head_that_never_ends_is_given_up(served):
    with connected(served) as silent, connected(served) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert is_closed(silent) and is_closed(slow)


def test_an_idle_connection_may_stay(served):
    with connected(served) as client:
        for _ in range(2):
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer(client)[0] == 200
            time.sleep(1.8)


def test_a_client_that_leaves_while_it_sends_frees_its_place(served, place_of):
    with connected(served) as client:
        client.sendall(HEAD + b"Content-Length: 100000\r\n\r\nabc")
        place_of(1)
    place_of(0)


def test_a_client_that_leaves_while_it_is_served_frees_its_place(served, place_of, make_speech, encode, monkeypatch):
    windows, run = [], Bundle.run
    monkeypatch.setattr(Bundle, "run", lambda *given: windows.append(time.sleep(0.1)) or run(*given))
    data = encode(np.tile(make_speech(2.0), 40))
    with connected(served) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        place_of(1)
        while not windows:
            time.sleep(0.01)
    place_of(0)
    told = len(windows)
    assert told < 30
    time.sleep(0.3)
    assert len(windows) == told


def test_who_is_refused_early_still_sees_why(served, place_of):
    """The answer comes before the body ends, and arrives although the client goes on sending."""
    with connected(served) as first:
        first.sendall(HEAD + b"Content-Length: 100000\r\n\r\nabc")
        place_of(1)
        with connected(served) as client:
            client.sendall(HEAD + b"Content-Length: 2000000\r\n\r\n")
            time.sleep(0.05)
            client.sendall(b"x" * 2_000_000)
            status, headers, told = answer(client)
            assert (status, told["error"]["code"]) == (429, "busy") and headers["retry-after"] == "1"
    place_of(0)
    with connected(served) as client:
        client.sendall(HEAD + b"Content-Length: 9000000\r\n\r\n")
        client.sendall(b"x" * 9_000_000)
        assert answer(client)[0] == 413
        assert is_closed(client)
    with connected(served) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            client.sendall(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")
        assert answer(client)[0] == 413


def test_what_is_no_http_is_refused(served):
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
    ):
        with connected(served) as client:
            client.sendall(data)
            assert client.recv(100).startswith(b"HTTP/1.1 400")
    with connected(served) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(client)[0] == 200
