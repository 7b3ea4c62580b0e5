"""What every request passes: keys, counts, the log, headers for browsers, and errors that nobody expected."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serkit.serving.problems import Problem, shutting_down
from serkit.serving.server import Server

access = logging.getLogger("serkit.access")
failures = logging.getLogger("serkit.server")

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
LINGER_SECONDS, LINGER_BYTES = 2.0, 64_000_000
"""How long, and for how much of it, the body of a refused request is read on, so that its sender sees the answer."""


class Doors:
    """Wraps an application: ``/v1`` and ``/metrics`` ask for a key, everything else is open."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; what is no HTTP passes as it is."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        visit = Visit(scope, receive, send)
        try:
            self.check(scope)
            await self.app(scope, visit.receive, visit.send)
        except Problem as problem:
            await visit.refuse(problem)
        except ClientDisconnect:  # is no failure: who asked has gone
            visit.status = visit.status or 499
        except asyncio.CancelledError:
            visit.status = visit.status or 499
            raise
        except Exception:
            failures.exception("a request failed")
            await visit.refuse(Problem("internal", "the server failed: its log says why"))
        finally:
            self.tell(scope, visit)

    def check(self, scope: Scope) -> None:
        """Raise ``Problem`` for a request that has no key, or comes too late."""
        path = scope["path"]
        if path.startswith("/v1/") or path == "/metrics":
            self.server.admit(Headers(scope=scope))
        if path.startswith("/v1/") and self.server.closing:
            raise shutting_down()

    def tell(self, scope: Scope, visit: Visit) -> None:
        """Count a request and log it; nothing that a client wrote is told."""
        seconds = time.perf_counter() - visit.began
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        self.server.metrics.answered(method, route, visit.status, seconds)
        facts = {"method": method, "route": route, "status": visit.status, "seconds": round(seconds, 4)}
        facts |= {"bytes": visit.bytes} if visit.bytes else {}
        facts |= {"code": visit.code} if visit.code else {}
        access.info("", extra={"facts": facts})


class Visit:
    """One request on its way through: what came and went."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inner_receive, self.inner_send = receive, send
        self.began = time.perf_counter()
        self.status = self.bytes = 0
        self.code = ""
        self.complete = Headers(scope=scope).get("content-length", "") in ("", "0") and not is_chunked(scope)
        scope.setdefault("state", {})["visit"] = self

    async def receive(self) -> Message:
        """Pass on what arrives, counted."""
        message = await self.inner_receive()
        if message["type"] == "http.request":
            self.bytes += len(message.get("body", b""))
            self.complete = self.complete or not message.get("more_body", False)
        else:
            self.complete = True
        return message

    async def send(self, message: Message) -> None:
        """Pass on what is answered, with headers for browsers; an answer before the end of a body closes."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=as_scope(message))
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if not self.complete:
                headers["Connection"] = "close"
        elif message["type"] == "http.response.body" and not message.get("more_body") and not self.complete:
            await self.inner_send({**message, "more_body": True})
            await self.linger()
            message = {"type": "http.response.body", "body": b""}
        await self.inner_send(message)

    async def linger(self) -> None:
        """Read on for a while: a connection that is closed with unread bytes loses the answer on its way."""
        read, limit = self.bytes, self.bytes + LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self.complete and self.bytes < limit:
                    await self.receive()
        except TimeoutError:
            pass
        self.bytes = read

    async def refuse(self, problem: Problem) -> None:
        """Answer with ``problem``, unless an answer has begun."""
        self.code = problem.code
        if self.status:
            return
        content = json.dumps(problem.as_dict(), ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **problem.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": content})


def is_chunked(scope: Scope) -> bool:
    """Tell whether a body of unknown length follows."""
    return "chunked" in Headers(scope=scope).get("transfer-encoding", "").lower()


def as_scope(message: Message) -> MutableMapping[str, Any]:
    """Return the start of an answer in the form in which headers are changed in place."""
    message.setdefault("headers", [])
    return message


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        told = {"time": at, "process": record.process, "level": record.levelname.lower()}
        if message := record.getMessage():
            told["message"] = message
        told |= getattr(record, "facts", {})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
