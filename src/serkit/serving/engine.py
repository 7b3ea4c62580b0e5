"""One judging queue per process, shared fairly by all requests and live streams."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from serkit.serving.problems import Problem

T = TypeVar("T")


class Place:
    """What one request or stream has in the queue; ``stop`` tells why nothing of it is judged any more."""

    def __init__(self) -> None:
        self.work: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.stopped: Problem | None = None

    def stop(self, why: Problem) -> None:
        """Judge nothing more of it: who waits or comes is told ``why``."""
        self.stopped = self.stopped or why

    def check(self) -> None:
        """Raise the problem for which it was stopped, if it was."""
        if self.stopped is not None:
            raise self.stopped


class Engine:
    """Judges on ``threads`` threads, one piece of work of every place in turn, so nobody waits for a long recording."""

    def __init__(self, threads: int) -> None:
        self.turn: deque[Place] = deque()
        self.change = threading.Condition()
        self.closed = False
        self.threads = [threading.Thread(target=self._serve, daemon=True, name=f"judge-{n}") for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def submit(self, place: Place, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Queue ``work(*arguments)`` for ``place``; returns at once."""
        future: Future[T] = Future()
        with self.change:
            if not place.work:
                self.turn.append(place)
            place.work.append((future, work, arguments))
            self.change.notify()
        return future

    async def judge(self, place: Place, work: Callable[..., T], *arguments: Any) -> T:
        """Return ``work(*arguments)``, done by a judging thread when it is the turn of ``place``."""
        return await asyncio.wrap_future(self.submit(place, work, *arguments))

    def judge_here(self, place: Place, work: Callable[..., T], *arguments: Any) -> T:
        """The same from a thread, which waits."""
        return self.submit(place, work, *arguments).result()

    def close(self) -> None:
        """Stop the threads after the work in their hands."""
        with self.change:
            self.closed = True
            self.change.notify_all()

    def _serve(self) -> None:
        while True:
            with self.change:
                while not self.turn and not self.closed:
                    self.change.wait()
                if not self.turn:
                    return
                place = self.turn.popleft()
                future, work, arguments = place.work.popleft()
                if place.work:
                    self.turn.append(place)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                place.check()
                future.set_result(work(*arguments))
            except BaseException as error:
                future.set_exception(error)
