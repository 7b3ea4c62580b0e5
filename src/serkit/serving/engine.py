"""One judging queue per process, shared fairly by all requests and live streams.

A window is judged on one thread, and as many at a time as there are judging threads: one per core. Windows are not put
together into batches, because that would change answers or gain nothing: the packaged model is int8 with one scale for
all of a batch, so that a batch of two moves a probability by up to 0.06; with float32 weights batches are exact, but on
a processor a window of 5 or 10 s takes no less time in them (``benchmarks/serve.py --batches``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from serkit.inference.bundle import Bundle, Outputs
from serkit.serving.metrics import Metrics
from serkit.serving.problems import Problem, shutting_down

T = TypeVar("T")


class Place:
    """One request or stream among those that are served; whatever works for it calls :meth:`check` now and then.

    ``seconds`` from now it has to be done; None: it is ``live`` and may go on for ever. It is free again when all its
    ``users`` have left: a request, and the thread that works for it.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.work: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.stopped: Problem | None = None
        self.seconds, self.users = seconds, 1

    @property
    def live(self) -> bool:
        """Whether it is that of a live stream."""
        return self.seconds is None

    @property
    def left(self) -> float | None:
        """The seconds that are left of its time; None: no end."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raise the ``Problem`` for which it is not served any more, if there is one."""
        if self.stopped is None and self.left == 0:
            self.stopped = self.late()
        if self.stopped is not None:
            raise self.stopped

    def late(self) -> Problem:
        """Return the problem of having had no more time."""
        return Problem("timed_out", f"not done within {self.seconds:g} s: send a shorter recording, or try later", 10)


class Engine:
    """Admits so many requests and streams at a time, and judges for all of them on ``threads`` threads.

    Requests are ``threads`` + ``queue`` at most, live ones ``streams``. Every place has its turn, one window a turn: a
    short recording is not kept waiting by long ones that came before.
    """

    def __init__(self, threads: int, queue: int = 32, streams: int = 32, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self.most = {False: threads + queue, True: streams}
        self.places: dict[bool, set[Place]] = {False: set(), True: set()}
        self.turn: deque[Place] = deque()
        self.change = threading.Condition()
        self.closed = False
        self.threads = [threading.Thread(target=self._serve, daemon=True, name=f"judge-{n}") for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def admit(self, seconds: float | None = None) -> Place:
        """Return a place, a live one without ``seconds``; raises ``Problem`` when there is none.

        It has to be given back to :meth:`leave`.
        """
        place = Place(seconds)
        with self.change:
            taken = self.places[place.live]
            if len(taken) >= self.most[place.live]:
                what = "live streams are open" if place.live else "requests are under way"
                raise Problem("busy", f"{len(taken)} {what}, and no more are taken: try again later", 1)
            taken.add(place)
        (self.metrics.streams if place.live else self.metrics.under_way).inc()
        return place

    def share(self, place: Place) -> None:
        """Keep ``place`` until one more has left it."""
        with self.change:
            place.users += 1

    def leave(self, place: Place) -> None:
        """Give a place back; the last of its users frees it."""
        with self.change:
            place.users -= 1
            if place.users:
                return
            self.places[place.live].discard(place)
        (self.metrics.streams if place.live else self.metrics.under_way).dec()

    def stop(self, place: Place, why: Problem) -> None:
        """Serve ``place`` no more: what waits for it, and whatever checks it from now on, gets ``why``."""
        with self.change:
            place.stopped = place.stopped or why
            waiting = list(place.work)
            place.work.clear()
            if place in self.turn:
                self.turn.remove(place)
        self.metrics.waiting.dec(len(waiting))
        for future, _, _ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(place.stopped)

    def submit(self, place: Place, work: Callable[..., T], *arguments: Any) -> Future[T]:
        """Queue ``work(*arguments)``, which judges one window, for ``place``; returns at once."""
        future: Future[T] = Future()
        with self.change:
            place.check()
            if self.closed:
                raise shutting_down()
            if not place.work:
                self.turn.append(place)
            place.work.append((future, work, arguments))
            self.change.notify()
        self.metrics.waiting.inc()
        return future

    async def judge(self, place: Place, work: Callable[..., T], *arguments: Any) -> T:
        """Return ``work(*arguments)``, done by a judging thread when it is the turn of ``place``."""
        return await asyncio.wrap_future(self.submit(place, work, *arguments))

    def close(self) -> None:
        """Stop every place, and the threads after the work in their hands."""
        with self.change:
            self.closed = True
            self.change.notify_all()
        for place in [*self.places[False], *self.places[True]]:
            self.stop(place, shutting_down())

    def _serve(self) -> None:
        while self._judge_next():
            pass  # between two windows a thread holds on to nothing: a stream that is gone is let go of

    def _judge_next(self) -> bool:
        """Wait for the next window and judge it; tells whether there may be another."""
        with self.change:
            while not self.turn and not self.closed:
                self.change.wait()
            if not self.turn:
                return False
            place = self.turn.popleft()
            future, work, arguments = place.work.popleft()
            if place.work:
                self.turn.append(place)
        self.metrics.waiting.dec()
        if not future.set_running_or_notify_cancel():
            return True
        began = time.perf_counter()
        try:
            place.check()
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)
        else:
            self.metrics.judged(time.perf_counter() - began)
        return True


class QueuedBundle(Bundle):
    """``bundle`` with its windows judged in the queue, in the turn of ``place``; for the thread of a request."""

    def __init__(self, bundle: Bundle, engine: Engine, place: Place) -> None:
        vars(self).update(vars(bundle))
        self.engine, self.place = engine, place

    def run(
        self,
        waveform: np.ndarray | None,
        keep: np.ndarray | None = None,
        frames: bool = False,
        words: Sequence[int] = (),
    ) -> Outputs:
        """Wait for the turn and judge, as :meth:`Bundle.run` does."""
        return self.engine.submit(self.place, super().run, waveform, keep, frames, words).result()
