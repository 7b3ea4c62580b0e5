"""How a server's processes start, are replaced when they die, and end.

One worker is this process itself. Several are processes that share the listening socket and nothing else: the kernel
hands each connection to one of them. One that dies is replaced while the others go on; when this process dies, they
end too.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any
from weakref import WeakKeyDictionary

import uvicorn
from fastapi import FastAPI

from serkit.errors import SerkitError
from serkit.serving.app import create_app
from serkit.serving.doors import JsonLines
from serkit.serving.live import WEBSOCKET
from serkit.serving.metrics import FOLDER, forget_process
from serkit.serving.server import Server, load_models
from serkit.serving.settings import Settings
from serkit.serving.sockets import Unread, WebSocketDoor

log = logging.getLogger("serkit.server")
LOOPBACK = ("127.", "::1", "localhost")
KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than the 60 of usual proxies, which else meet closed ones."""
AFTER_GRACE = 5
"""Seconds that requests which were stopped have to answer."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way within ``settings.grace_seconds`` and return.

    Raises ``InputError`` for a model that cannot be used, ``SerkitError`` for an address that cannot be listened on,
    and where workers do not start.
    """
    tell_as_json()
    load_models(settings)  # a worker that cannot start could not say why in one line
    listening = listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listening.getsockname()[1]}"
    if not settings.host.startswith(LOOPBACK) and not settings.api_keys:
        log.warning("whoever reaches %s may use it: no API key is set", url)
    names = ", ".join(name for name, _ in settings.models)

    def announce() -> None:
        print(f"serkit serves {names} on {url} (Ctrl-C stops it)", flush=True)

    if settings.workers == 1:
        run(settings, listening, announce)
    else:
        Workers(settings, listening, announce).run()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises ``SerkitError`` when the address is taken or not this machine's."""
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        if found is not None:
            found.close()
        told = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise SerkitError(f"{told}: choose others with --host and --port") from error
    found.set_inheritable(True)
    return found


def tell_as_json() -> None:
    """Write the log to stderr, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    levels = {"serkit": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.ERROR}
    levels["python_multipart"] = logging.ERROR  # it warns of every broken form, whose sender is told
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def run(settings: Settings, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve in this process until it is told to stop; ``ready`` is called once it takes requests."""
    door = Door(create_app(settings), ready)
    door.run([listening])
    door.server.close()
    for thread in door.server.engine.threads:
        thread.join(AFTER_GRACE)


class Door(uvicorn.Server):
    """uvicorn's server, which goes on answering while it finishes what is under way, and waits for no slow clients."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=AFTER_GRACE,
                ws=WebSocketDoor,
                **WEBSOCKET,
            )
        )
        self.server: Server = app.state.server
        self.ready = ready
        self.silent: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self.unread = Unread(self.server.settings.read_seconds)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop; a second SIGINT ends at once. The exit status stays 0."""
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def on_tick(self, counter: int) -> bool:
        """Close connections that send no head or read no answer in time; uvicorn waits for them for ever."""
        if counter % 10 == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if self.unread.stands_still(connection, now):
                    connection.transport.abort()
                elif not awaits_head(connection):
                    self.silent.pop(connection, None)
                elif now - self.silent.setdefault(connection, now) > self.server.settings.read_seconds:
                    connection.transport.close()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests with 503 while those under way end; what takes too long is stopped."""
        self.server.stopping.set()
        end = time.monotonic() + self.server.settings.grace_seconds
        while any(self.server.engine.places.values()) and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.05)
        self.server.close()
        await super().shutdown(sockets)


def awaits_head(connection: Any) -> bool:
    """Tell whether a connection is within the head of a request: none under way, and not idle between two."""
    if not hasattr(connection, "cycle"):
        return False  # a WebSocket
    between = connection.cycle is None or connection.cycle.response_complete
    return between and connection.timeout_keep_alive_task is None


class Workers:
    """Several processes that serve; this one replaces those that die and passes on that it is to stop."""

    def __init__(self, settings: Settings, listening: socket.socket, ready: Callable[[], None]) -> None:
        self.settings, self.listening, self.ready = settings, listening, ready
        self.context = multiprocessing.get_context("spawn")
        self.found: dict[Any, Connection] = {}
        self.started: set[Any] = set()
        self.stop = threading.Event()

    def run(self) -> None:
        """Serve until told to stop. Raises ``SerkitError`` when a worker dies before it served."""
        folder = tempfile.mkdtemp(prefix="serkit-metrics-")
        os.environ[FOLDER] = folder
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        try:
            for _ in range(self.settings.workers):
                self.start()
            announced = False
            while not self.stop.is_set():
                wait([process.sentinel for process in self.found], timeout=0.2)
                self.see_started()
                if not announced and len(self.started) == self.settings.workers:
                    announced = True
                    self.ready()
                self.replace_dead()
        finally:
            self.end()
            shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Start one worker."""
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=work, args=(self.settings, self.listening, theirs), name="serkit-worker")
        process.start()
        theirs.close()
        self.found[process] = ours

    def see_started(self) -> None:
        """Note which workers take requests."""
        for process, told in self.found.items():
            if process not in self.started and told.poll():
                try:
                    told.recv()
                except EOFError:
                    continue
                self.started.add(process)

    def replace_dead(self) -> None:
        """Start a worker for each that has died; one that never served would die again."""
        for process in [each for each in self.found if not each.is_alive()]:
            self.found.pop(process).close()
            forget_process(process.pid)
            if process not in self.started:
                raise SerkitError(f"a worker ended with status {process.exitcode} before it served: see the log above")
            self.started.discard(process)
            log.error("worker %s died with status %s: another takes its place", process.pid, process.exitcode)
            self.start()

    def end(self) -> None:
        """Tell all workers to stop, and wait for them."""
        for process in self.found:
            if process.is_alive():
                process.terminate()
        end = time.monotonic() + self.settings.grace_seconds + 3 * AFTER_GRACE
        for process in self.found:
            process.join(max(0.1, end - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def work(settings: Settings, listening: socket.socket, told: Connection) -> None:
    """Serve in a worker's process, which ends when its parent does."""
    tell_as_json()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        shutil.rmtree(os.environ[FOLDER], ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True, name="follow").start()
    run(settings, listening, lambda: told.send("serves"))
