"""Live audio over a WebSocket: a real server on a port of this machine, and clients that behave and that do not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from serkit.data.audio import read_audio
from serkit.data.pcm import PcmDecoder
from serkit.inference.cuts import TimelineOptions
from serkit.inference.predictor import Predictor
from serkit.inference.stream import Stream
from serkit.serving.app import create_app
from serkit.serving.live import FRAME_BYTES, Inbox, read_key
from serkit.serving.problems import Problem
from serkit.serving.processes import Door
from serkit.serving.settings import Settings

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.flac"))
FINISH = '{"type": "finish"}'
LONG = 20.0
"""Seconds after which a test gives up waiting."""


@contextlib.contextmanager
def serving(**chosen):
    """A server in a thread: yields the application and the address of its streams."""
    app = create_app(Settings(port=0, **{"grace_seconds": 5.0, **chosen}))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = app.state.door = Door(app, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield app, f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/stream"
        finally:
            server.should_exit = True
            thread.join(LONG)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def served():
    with serving(streams=4) as found:
        yield found


@pytest.fixture(scope="module")
def address(served):
    return served[1]


@pytest.fixture(scope="module")
def pcm():
    """Two examples of speech with a pause, as 16-bit samples at 16 kHz."""
    pause = np.zeros(14_000, np.float32)
    pieces = [piece for path in EXAMPLES[:2] for piece in (pause, read_audio(path))]
    return (np.concatenate([*pieces, pause]) * 32_767).astype("<i2")


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


def offline(predictor, pcm, rate=16_000, **options):
    """The segments of a timeline, in the form of events."""
    found = predictor.timeline(pcm, sampling_rate=rate, options=TimelineOptions(**options)).segments
    return [
        (each.utterance, round(1000 * each.start), round(1000 * each.end), each.as_dict()["probabilities"])
        for each in found
    ]


def segments(events):
    """The segments among events."""
    return [
        (event["utterance"], event["start_ms"], event["end_ms"], event["probabilities"])
        for event in events
        if event["type"] == "segment"
    ]


def hear(client):
    """Everything a server still says, and the code with which it closes."""
    events = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            events.append(json.loads(client.recv(timeout=LONG)))
    return events, client.close_code


def talk(address, frames, query="", **options):
    """Send ``frames`` and finish: what the server said, and its close code."""
    with connect(address + query, open_timeout=LONG, ping_interval=None, **options) as client:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                client.send(frame)
            client.send(FINISH)
        return hear(client)


def error_of(said):
    """Code, message and close code of what went wrong; it is the last thing said."""
    events, code = said
    assert events and events[-1]["type"] == "error", events
    return events[-1]["error"]["code"], events[-1]["error"]["message"], code


def streams(app):
    """The places of streams that are open."""
    return app.state.server.engine.places[True]


def until(true):
    """Wait until ``true()``."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_stream_has_the_segments_of_the_timeline(address, pcm, predictor):
    data = pcm.tobytes()
    (ready, *events, done), code = talk(address, [data[at : at + 3200] for at in range(0, len(data), 3200)])
    assert code == 1000 and done == {"type": "done", "seconds": round(len(pcm) / 16_000, 3)}
    card = predictor.card
    assert (ready["type"], ready["model"], ready["classes"]) == ("ready", card.name, list(card.classes))
    assert ready["intended_use"] == card.intended_use and (ready["window"], ready["hop"]) == (4.0, 1.0)
    expected = offline(predictor, pcm)
    assert len(expected) >= 2 and segments(events) == expected
    kinds = [event["type"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("start") == kinds.count("end") >= 2
    assert "update" in kinds
    for event in events:
        if event["type"] in ("update", "segment"):
            assert abs(sum(event["probabilities"].values()) - 1) < 1e-3
            assert event["confidence"] == event["probabilities"][event["label"]]


@settings(max_examples=6)
@given(st.lists(st.integers(0, 20_001), min_size=1, max_size=30))
def test_frames_of_any_size_odd_ones_too_change_nothing(served, pcm, predictor, sizes):
    data, frames, at = pcm.tobytes(), [], 0
    for size in [*sizes, len(pcm) * 2]:
        frames.append(data[at : at + size])
        at += size
    events, code = talk(served[1], frames)
    assert code == 1000
    assert segments(events) == offline(predictor, pcm)


def test_options_of_the_query(address, pcm, predictor):
    query = "?window=2&hop=0.5&labels=angry,sad"
    (ready, *events, _), code = talk(address, [pcm.tobytes()], query)
    assert code == 1000 and (ready["window"], ready["hop"]) == (2.0, 0.5)
    found = predictor.timeline(pcm, labels=["angry", "sad"], options=TimelineOptions(2, 0.5)).segments
    assert [event["label"] for event in events if event["type"] == "segment"] == [each.label for each in found]
    assert {event["label"] for event in events if "label" in event} <= {"angry", "sad"}


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_sampling_rates(address, pcm, predictor, rate):
    import soxr

    given = (soxr.resample(pcm.astype(np.float32) / 32_768, 16_000, rate) * 32_767).astype("<i2")
    (_, *events, done), code = talk(address, [given.tobytes()], f"?sampling_rate={rate}")
    assert code == 1000 and done["seconds"] == pytest.approx(len(pcm) / 16_000, abs=0.01)
    stream = predictor.stream(sampling_rate=rate)
    told = [*stream.push(PcmDecoder().push(given.tobytes())), *stream.finish()]
    assert segments(events) == segments([event.as_dict() for event in told]) != []


def test_silence_and_nothing_at_all(address):
    for frames in ([], [b""], [bytes(64_000)], [b"\x01"]):
        events, code = talk(address, frames)
        assert [event["type"] for event in events] == ["ready", "done"] and code == 1000


def test_any_bytes_are_sound(address):
    # 16-bit integers know no NaN and no infinity: noise is the worst there is.
    noise = np.random.default_rng(0).integers(0, 256, 200_001, np.uint8).tobytes()
    events, code = talk(address, [noise])
    assert code == 1000 and events[-1] == {"type": "done", "seconds": 6.25}


@pytest.mark.parametrize(
    "text", ["finish", "", "{}", "[]", '{"type": "stop"}', '{"type": ["finish"]}', "[" * 5000, "\x00", '"finish"']
)
def test_wrong_text(address, text):
    code, message, close = error_of(talk(address, [b"\x00" * 100, text]))
    assert (code, close) == ("bad_option", 1008) and "finish" in message


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("?sampling_rate=7999", "8000"),
        ("?sampling_rate=48001", "48000"),
        ("?sampling_rate=16000.5", "whole"),
        ("?sampling_rate=nan", "whole"),
        ("?sampling_rate=fast", "'fast'"),
        ("?sampling_rate=1e400", "whole"),
        ("?window=0", "window"),
        ("?window=99", "window"),
        ("?hop=-1", "hop"),
        ("?hop=inf", "hop"),
        ("?labels=angy", "angry"),
        ("?labels=,", "labels"),
        ("?model=other", "model"),
        ("?windw=1", "did you mean 'window'"),
        ("?hop=1&hop=1", "twice"),
        ("?api_key=secret", "is no option"),
    ],
)
def test_wrong_options(address, query, hint):
    code, message, close = error_of(talk(address, [], query))
    assert (code, close) == ("bad_option", 1008) and hint in message and "\n" not in message
    assert "secret" not in message


def test_a_frame_that_is_too_large(address):
    assert error_of(talk(address, [bytes(FRAME_BYTES + 2)]))[::2] == ("too_large", 1008)
    with connect(address, ping_interval=None) as client:  # the protocol's own limit comes before ours
        with contextlib.suppress(ConnectionClosed):
            client.send(bytes(4 * FRAME_BYTES))
        assert hear(client)[1] in (1009, 1006)  # the second where the answer is lost on its way


def test_too_long_and_too_slow(pcm, predictor):
    with serving(max_seconds=3.0, read_seconds=0.4) as (app, address):
        data = pcm.tobytes()
        frames = [data[at : at + 32_000] for at in range(0, len(data), 32_000)]
        said = talk(address, frames)
        assert error_of(said)[::2] == ("too_long", 1008)
        assert segments(said[0]) == offline(predictor, pcm[:48_000]) != []
        with connect(address, ping_interval=None) as client:
            client.send(frames[0])
            client.send(frames[1])
            said = hear(client)
        assert error_of(said)[::2] == ("timed_out", 1008)
        assert segments(said[0]) == offline(predictor, pcm[:32_000])
        with connect(address, ping_interval=None) as client:  # a byte now and then holds no stream for ever
            began = time.monotonic()
            with contextlib.suppress(ConnectionClosed):
                while time.monotonic() < began + LONG:
                    client.send(b"\x00")
                    time.sleep(0.1)
            assert error_of(hear(client))[::2] == ("too_long", 1008)
            assert time.monotonic() - began < 6
        until(lambda: not streams(app))


def test_too_many_streams(served, pcm):
    app, address = served
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(4)]
        assert {json.loads(client.recv(timeout=LONG))["type"] for client in clients} == {"ready"}
        assert error_of(talk(address, []))[::2] == ("busy", 1013)
        clients[0].close()
        until(lambda: len(streams(app)) == 3)
        assert talk(address, [])[1] == 1000


def test_streams_at_a_time_are_those_alone(served, pcm, predictor):
    data, expected = pcm.tobytes(), offline(predictor, pcm)
    found = {}

    def go(number):
        size = 1_111 * (number + 1)
        found[number] = talk(served[1], [data[at : at + size] for at in range(0, len(data), size)])

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert [segments(found[number][0]) for number in range(4)] == [expected] * 4


@pytest.mark.parametrize("moment", ["at once", "after sound", "within a frame", "while judging", "after finish"])
def test_a_client_that_goes_frees_everything(moment, served, pcm, monkeypatch):
    app, address = served
    made, judged = [], threading.Event()
    create, judge = Predictor.stream, Stream.judge

    def remember(self, *arguments, **options):
        stream = create(self, *arguments, **options)
        made.append(weakref.ref(stream))
        return stream

    def slowly(self, cut):
        judged.set()
        time.sleep(0.2)
        return judge(self, cut)

    monkeypatch.setattr(Predictor, "stream", remember)
    monkeypatch.setattr(Stream, "judge", slowly)
    client = connect(address, legacy=True)
    client.recv(timeout=LONG)
    if moment != "at once":
        client.send(pcm[:20_000].tobytes() if moment == "after sound" else pcm.tobytes())
    if moment == "within a frame":  # the head of a masked binary frame of 1000 bytes, and nothing of it
        client.socket.sendall(b"\x82\xfe\x03\xe8\x00\x00\x00\x00" + bytes(10))
    if moment in ("while judging", "after finish"):
        assert judged.wait(LONG)
    if moment == "after finish":
        client.send(FINISH)
    client.socket.shutdown(socket.SHUT_RDWR)
    client.socket.close()
    until(lambda: not streams(app))
    until(lambda: gc.collect() is not None and made and made[0]() is None)
    assert app.state.server.metrics.streams._value.get() == 0
    assert not app.state.server.engine.turn


def test_a_client_faster_than_the_judging_is_slowed_down(served, pcm, monkeypatch):
    app, address = served
    put, held, going = Inbox.put, [], threading.Event()

    def wait(self, cut):
        going.wait(LONG)

    async def counted(self, data):
        await put(self, data)
        held.append(len(self.data))

    monkeypatch.setattr(Stream, "judge", wait)
    monkeypatch.setattr(Inbox, "put", counted)
    data, sent = pcm[:32_000].tobytes() * 200, 0  # 400 s, 12.8 MB, of which some fits the buffers of the system
    with connect(address, ping_interval=None) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client.socket.settimeout(0.5)
        frame = b"\x82\xff" + (64_000).to_bytes(8, "big") + bytes(4)
        with contextlib.suppress(TimeoutError):
            for at in range(0, len(data), 64_000):
                client.socket.sendall(frame + data[at : at + 64_000])
                sent = at
        assert sent < len(data) - 2_000_000
        client.socket.close()
    going.set()
    until(lambda: not streams(app))
    assert 64_000 < max(held) <= FRAME_BYTES


def test_a_client_that_does_not_read_holds_nothing_for_ever(pcm, monkeypatch):
    tell = Stream.tell

    def loudly(self, cut, probabilities):
        """Tell a thousand times as much."""
        events = tell(self, cut, probabilities)
        return events * 2000

    monkeypatch.setattr(Stream, "tell", loudly)
    with serving(read_seconds=1.0) as (app, address), connect(address, ping_interval=None, max_queue=1) as client:
        with contextlib.suppress(ConnectionClosed):
            for at in range(0, len(pcm), 16_000):
                client.send(pcm[at : at + 16_000].tobytes())
        until(lambda: streams(app))
        until(lambda: not streams(app))
        client.socket.close()


def test_keys():
    with serving(api_keys=("sésame", "other")) as (_, address):
        hidden = base64.urlsafe_b64encode("sésame".encode()).decode().rstrip("=")
        for options in (
            {"subprotocols": ["serkit.stream", f"serkit.key.{hidden}"]},
            {"subprotocols": [f"serkit.key.{hidden}"]},
            {"additional_headers": {"Authorization": "Bearer other"}},
            {"additional_headers": {"X-API-Key": "other"}},
        ):
            assert talk(address, [], **options)[1] == 1000
        with connect(address, subprotocols=["serkit.stream", f"serkit.key.{hidden}"]) as client:
            assert client.subprotocol == "serkit.stream"  # and not the key
        for options in (
            {},
            {"subprotocols": ["serkit.stream"]},
            {"subprotocols": ["serkit.stream", "serkit.key.b3RoZXJz"]},
            {"subprotocols": ["serkit.stream", "serkit.key.!"]},
            {"additional_headers": {"Authorization": "Bearer wrong"}},
        ):
            code, message, close = error_of(talk(address, [], **options))
            assert (code, close) == ("unauthorized", 1008) and "other" not in message
        assert error_of(talk(address, [], "?key=other"))[::2] == ("unauthorized", 1008)


def test_keys_in_base64url():
    assert read_key(["a", "serkit.key.w6k_Pz4-"]) == "é??>>"
    assert read_key(["a"]) is None
    with pytest.raises(Problem, match="base64url"):
        read_key(["serkit.key.é"])


def test_pages_of_other_servers_are_refused(address):
    own = address.replace("ws://", "http://").rsplit("/v1")[0]
    assert talk(address, [], origin=own)[1] == 1000
    assert error_of(talk(address, [], origin="https://elsewhere.example"))[::2] == ("unauthorized", 1008)
    with serving(allow_origins=("https://elsewhere.example",)) as (_, other):
        assert talk(other, [], origin="https://elsewhere.example")[1] == 1000


def test_what_fails_is_told_without_its_inside(served, pcm, monkeypatch, caplog):
    def fail(self, cut):
        raise RuntimeError("inside")

    monkeypatch.setattr(Stream, "judge", fail)
    code, message, close = error_of(talk(served[1], [pcm.tobytes()]))
    assert (code, close) == ("internal", 1011) and "inside" not in message
    assert "inside" in caplog.text
    monkeypatch.undo()
    assert talk(served[1], [pcm.tobytes()])[1] == 1000


def test_a_server_that_ends_tells_the_last_events(pcm, predictor):
    with serving() as (app, address), connect(address, ping_interval=None) as client:
        client.send(pcm[:40_000].tobytes())
        while json.loads(client.recv(timeout=LONG))["type"] != "update":
            pass
        app.state.door.should_exit = True
        said = hear(client)
        assert error_of(said)[::2] == ("shutting_down", 1001)
        assert segments(said[0]) == offline(predictor, pcm[:40_000]) != []


def test_sigterm_during_a_stream(pcm, predictor):
    command = [sys.executable, "-m", "serkit.cli", "serve", "--port", "0", "--grace", "5"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = child.stdout.readline().split(" on http://")[1].split()[0]
        with connect(f"ws://{address}/v1/stream", ping_interval=None) as client:
            client.send(pcm[:40_000].tobytes())
            while json.loads(client.recv(timeout=LONG))["type"] != "update":
                pass
            child.terminate()
            said = hear(client)
        _, err = child.communicate(timeout=LONG)
    finally:
        child.kill()
    assert error_of(said)[::2] == ("shutting_down", 1001)
    assert segments(said[0]) == offline(predictor, pcm[:40_000]) != []
    told = [json.loads(line) for line in err.splitlines()]
    streams = [line for line in told if line.get("route") == "/v1/stream"]
    assert [(line["method"], line["close"], line["code"]) for line in streams] == [("WEBSOCKET", 1001, "shutting_down")]
    assert child.returncode == 0 and "Traceback" not in err and "Cancel" not in err


def test_the_inbox_is_bounded_and_keeps_order():
    async def play():
        inbox, taken = Inbox(10), []

        async def fill():
            for number in range(50):
                await inbox.put(bytes([number]) * (number % 7))
                assert len(inbox.data) <= 10
            await inbox.put(b"x" * 25)  # alone, it may be larger than the bound
            inbox.end()
            await inbox.put(b"late")

        async def empty():
            while (data := await inbox.take()) is not None:
                taken.append(data)
                await asyncio.sleep(0)

        await asyncio.gather(fill(), empty())
        return b"".join(taken)

    assert asyncio.run(play()) == b"".join(bytes([n]) * (n % 7) for n in range(50)) + b"x" * 25
