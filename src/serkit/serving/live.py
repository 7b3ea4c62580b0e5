"""Live audio over a WebSocket: ``WS /v1/stream``; the protocol is in docs/serving.md.

One task of a stream reads, one judges. Between them is an inbox of bounded size: a client that is faster than the
judging is not read from, so that TCP slows it down, and no sound is dropped. Likewise nothing is judged while a client
does not read its events. A stream never has more than one piece of work in the engine's queue, so all get on alike.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from serkit.data.pcm import SAMPLE_BYTES, PcmDecoder, check_rate
from serkit.errors import InputError, nearest
from serkit.inference.cuts import Cut, TimelineOptions
from serkit.inference.predictor import Predictor, split_labels
from serkit.inference.stream import Stream
from serkit.serving.engine import Place
from serkit.serving.problems import Problem, shutting_down
from serkit.serving.server import Server, thresholds

FRAME_BYTES = 1 << 20
"""A frame has at most so many bytes, and so has the inbox: 32.8 s at 16 kHz."""
WEBSOCKET: dict[str, Any] = {
    "ws_max_size": 2 * FRAME_BYTES,
    "ws_ping_interval": None,
    "ws_per_message_deflate": False,
}
"""Options of uvicorn: messages that are too large are told so before the protocol closes; a client that is slowed down
cannot answer a ping that waits behind its sound, and who says nothing is let go by us; sound is not compressible."""
LAST_SECONDS = 5.0
"""How long a client may take to read why its stream ends."""
PROTOCOL, KEY = "serkit.stream", "serkit.key."
"""WebSocket subprotocols: the one that is spoken, and what an API key in base64url comes behind."""
OPTIONS = ("sampling_rate", "labels", "window", "hop", "model")
CLOSE = {"busy": 1013, "shutting_down": 1001, "internal": 1011}
"""The close codes of problems; that of all others is 1008."""
GONE = Problem("timed_out", "the stream has ended")
FLUSHED = ("too_long", "timed_out", "shutting_down")
"""Problems before which the last events are told."""

router = APIRouter()
access = logging.getLogger("serkit.access")
failures = logging.getLogger("serkit.server")


class Inbox:
    """Sound that came and is not judged yet, at most ``most`` bytes of it; and how it ends."""

    def __init__(self, most: int = FRAME_BYTES) -> None:
        self.most, self.data = most, bytearray()
        self.ended = False
        self.problem: Problem | None = None
        self.change = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Add ``data`` as soon as there is room for it."""
        while self.data and len(self.data) + len(data) > self.most and not self.ended:
            self.change.clear()
            await self.change.wait()
        if not self.ended:
            self.data += data
            self.change.set()

    def end(self, problem: Problem | None = None) -> None:
        """Let nothing more in: the client has finished, or there is a ``problem``."""
        if not self.ended:
            self.ended, self.problem = True, problem
            self.change.set()

    async def take(self) -> bytes | None:
        """Return all that is there as soon as there is something; None at the end."""
        while not self.data and not self.ended:
            self.change.clear()
            await self.change.wait()
        if not self.data:
            return None
        data = bytes(self.data)
        self.data.clear()
        self.change.set()
        return data


class Live:
    """One stream: from its acceptance to its end, whichever way it ends."""

    def __init__(self, server: Server, websocket: WebSocket, place: Place, stream: Stream, rate: int) -> None:
        self.server, self.websocket, self.place, self.stream, self.rate = server, websocket, place, stream, rate
        self.inbox, self.decoder = Inbox(), PcmDecoder()

    async def run(self) -> None:
        """Judge until the client has finished; raises ``Problem`` where it is not to go on, whatever the reason.

        Raises ``WebSocketDisconnect`` where the client is gone.
        """
        reading, judging = asyncio.create_task(self.read()), asyncio.create_task(self.judge())
        stopping = asyncio.create_task(self.server.stopping.wait())
        tasks, grace = (reading, judging, stopping), None
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                reading.cancel()
                self.inbox.end(shutting_down())
                grace = self.server.settings.grace_seconds
            elif reading.done():
                reading.result()  # raises where the client is gone: then nothing more is judged
            await asyncio.wait_for(judging, grace)
        except TimeoutError:
            raise shutting_down() from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def read(self) -> None:
        """Put what the client sends in the inbox, until it finishes or does what is not allowed."""
        settings, received = self.server.settings, 0
        most = round(settings.max_seconds * self.rate) * SAMPLE_BYTES
        deadline = time.monotonic() + settings.max_seconds + settings.read_seconds
        while not self.inbox.ended:
            try:
                wait = min(settings.read_seconds, deadline - time.monotonic())
                message = await asyncio.wait_for(self.websocket.receive(), max(0.0, wait))
            except TimeoutError:
                late = time.monotonic() >= deadline
                self.inbox.end(_too_long(settings.max_seconds) if late else _idle(settings.read_seconds))
                return
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            data = message.get("bytes")
            if data is None:
                self.inbox.end(check_finish(message.get("text") or ""))
                return
            received += len(data)
            if len(data) > FRAME_BYTES:
                self.inbox.end(Problem("too_large", f"a frame has at most {FRAME_BYTES} bytes, not {len(data)}"))
            elif received > most:
                self.inbox.end(_too_long(settings.max_seconds))
            else:
                await self.inbox.put(data)

    async def judge(self) -> None:
        """Judge what comes in and tell the events; raises the problem with which the inbox ended."""
        while (data := await self.inbox.take()) is not None:
            samples = self.decoder.push(data)
            for start in range(0, len(samples), self.rate):  # a second at a time: others get their turn
                piece = samples[start : start + self.rate]
                self.server.metrics.audio.inc(len(piece) / self.rate)
                await self.tell(await asyncio.to_thread(self.stream.cut, piece))
        problem = self.inbox.problem
        if problem is None or problem.code in FLUSHED:
            await self.tell(await asyncio.to_thread(self.stream.last_cuts))
        if problem is not None:
            raise problem
        await self.send({"type": "done", "seconds": round(self.stream.seconds, 3)})

    async def tell(self, cuts: list[Cut]) -> None:
        """Send the events of ``cuts``, in order."""
        for cut in cuts:
            probabilities = None
            if cut.waveform is not None:
                probabilities = await self.server.engine.judge(self.place, self.stream.judge, cut)
            for event in self.stream.tell(cut, probabilities):
                await self.send(event.as_dict())

    async def send(self, message: dict[str, object]) -> None:
        """Send ``message``; raises ``WebSocketDisconnect`` where the client does not read for too long."""
        try:
            text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
            await asyncio.wait_for(_or_gone(self.websocket.send_text(text)), self.server.settings.read_seconds)
        except TimeoutError:
            raise WebSocketDisconnect(1006, "does not read") from None


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket) -> None:
    """Follow live audio; a client is always let in far enough to be told why it is not let in."""
    server: Server = websocket.app.state.server
    offered, began = websocket.scope.get("subprotocols", []), time.perf_counter()
    told: dict[str, Any] = {"method": "WEBSOCKET", "route": "/v1/stream", "close": 1006}
    with ExitStack() as stack:  # a stop of the server waits for places: they are given back when all is told
        try:
            await websocket.accept(choose_protocol(offered))
            try:
                await follow(server, websocket, offered, stack)
                close = 1000
            except Problem as problem:
                close, told["code"] = CLOSE.get(problem.code, 1008), problem.code
                await _send_last(websocket, {"type": "error", **problem.as_dict()})
            await asyncio.wait_for(_or_gone(websocket.close(close)), LAST_SECONDS)
            told["close"] = close
        except (WebSocketDisconnect, TimeoutError):
            pass  # the client is gone, or does not read any more: there is nobody to tell
        finally:
            access.info("", extra={"facts": {**told, "seconds": round(time.perf_counter() - began, 4)}})


async def follow(server: Server, websocket: WebSocket, offered: list[str], stack: ExitStack) -> None:
    """Open a stream as the request says and follow it to its end; raises ``Problem`` where that cannot be.

    Its place is given back with the ``stack``.
    """
    if not server.allows_origin(websocket.headers):
        remedy = "allow that origin where the server is started"
        raise Problem("unauthorized", f"pages of {websocket.headers.get('origin')} may not open a stream: {remedy}")
    key = read_key(offered)
    server.admit(websocket.headers) if key is None else server.check_key(key)
    if server.closing:
        raise shutting_down()
    options = read_options(websocket.query_params.multi_items())
    stream, ready, rate = open_stream(server, options)
    place = server.engine.admit()
    stack.callback(server.engine.leave, place)
    stack.callback(server.engine.stop, place, GONE)
    try:
        live = Live(server, websocket, place, stream, rate)
        await live.send(ready)
        await live.run()
    except (Problem, WebSocketDisconnect):
        raise
    except Exception as error:
        failures.exception("a live stream failed")
        raise Problem("internal", "the server failed: its log says why") from error


def open_stream(server: Server, options: Mapping[str, str]) -> tuple[Stream, dict[str, Any], int]:
    """Return the stream that ``options`` ask for, what its client is told at first, and the rate of its sound in Hz.

    Raises ``Problem`` for options that cannot be.
    """
    predictor: Predictor = server.choose(options.get("model"))
    rate = int(_number(options, "sampling_rate", 16_000))
    window, hop = _number(options, "window", None), _number(options, "hop", None)
    labels = split_labels(options.get("labels") or None)
    try:
        chosen = TimelineOptions(window, hop)
        stream = predictor.stream(chosen, labels=labels, sampling_rate=check_rate(rate))
        sizes = chosen.sizes(predictor.card)
    except InputError as error:
        raise Problem("bad_option", str(error)) from error
    card = predictor.card
    ready = {
        "type": "ready",
        "model": card.name,
        "classes": list(card.classes),
        "thresholds": thresholds(predictor),
        "intended_use": card.intended_use,
        "sampling_rate": rate,
        "window": round(sizes[0] / card.sampling_rate, 3),
        "hop": round(sizes[1] / card.sampling_rate, 3),
        "max_seconds": server.settings.max_seconds,
        "max_frame_bytes": FRAME_BYTES,
    }
    return stream, ready, rate


def read_options(given: list[tuple[str, str]]) -> dict[str, str]:
    """Return the options of a stream; raises ``Problem`` for one that is not known or comes twice."""
    options: dict[str, str] = {}
    for name, value in given:
        if name not in OPTIONS:
            raise Problem("bad_option", f"{name}: is no option{nearest(name, OPTIONS)}")
        if name in options:
            raise Problem("bad_option", f"{name}: is given twice")
        options[name] = value
    return options


def _number(options: Mapping[str, str], name: str, default: float | None) -> Any:
    text = options.get(name) or ""
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise Problem("bad_option", f"{name}: {text!r} is no number") from None
    if not abs(value) < 1e9 or (name == "sampling_rate" and value % 1):
        raise Problem("bad_option", f"{name}: {text!r} is no {'whole number' if name == 'sampling_rate' else 'time'}")
    return value


def check_finish(text: str) -> Problem | None:
    """Return what is wrong with a text message: the only one there is says ``{"type": "finish"}``."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and said.get("type") == "finish":
        return None
    return Problem("bad_option", 'message: send sound in binary frames, and {"type": "finish"} as the only text')


def choose_protocol(offered: list[str]) -> str | None:
    """Return the subprotocol to answer with: browsers want one of those they offered."""
    return PROTOCOL if PROTOCOL in offered else next(iter(offered), None)


def read_key(offered: list[str]) -> str | None:
    """Return the API key among the subprotocols, where browsers, which cannot set headers here, put it."""
    for name in offered:
        if name.startswith(KEY):
            text = name.removeprefix(KEY)
            try:
                return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode()
            except ValueError:
                raise Problem("unauthorized", f"the key behind {KEY} is not in base64url") from None
    return None


async def _send_last(websocket: WebSocket, message: dict[str, Any]) -> None:
    """Send ``message`` to a client that may not read any more."""
    await asyncio.wait_for(_or_gone(websocket.send_text(json.dumps(message, ensure_ascii=False))), LAST_SECONDS)


async def _or_gone(sending: Coroutine[Any, Any, None]) -> None:
    """Wait for it; raises ``WebSocketDisconnect`` where the connection was closed, as for a frame against the rules."""
    try:
        await sending
    except RuntimeError as error:  # uvicorn's, until the disconnection has been received
        raise WebSocketDisconnect(1006, str(error)) from None


def _too_long(seconds: float) -> Problem:
    return Problem("too_long", f"a stream has at most {seconds:g} s: open another")


def _idle(seconds: float) -> Problem:
    return Problem("timed_out", f"nothing came for {seconds:g} s: send sound, of silence too, and finish at the end")
