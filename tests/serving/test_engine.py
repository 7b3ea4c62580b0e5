"""The judging queue: fair, bounded, and stopped when it should be."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from serkit.serving.engine import Engine
from serkit.serving.problems import Problem


@pytest.fixture
def engine():
    found = Engine(1, queue=2, streams=1)
    yield found
    found.close()
    for thread in found.threads:
        thread.join(5)
        assert not thread.is_alive()


def hold(engine):
    """Keep the one judging thread busy until the event that is returned is set."""
    begun, release = threading.Event(), threading.Event()
    place = engine.admit(None)

    def wait():
        begun.set()
        release.wait(10)

    engine.submit(place, wait)
    assert begun.wait(10)
    engine.leave(place)
    return release


def test_places_take_turns(engine):
    release, order = hold(engine), []
    first, second, third = (engine.admit(60.0) for _ in range(3))
    futures = [engine.submit(first, order.append, f"long {number}") for number in range(4)]
    futures += [engine.submit(second, order.append, f"other {number}") for number in range(2)]
    futures.append(engine.submit(third, order.append, "short"))
    release.set()
    for future in futures:
        future.result(10)
    assert order == ["long 0", "other 0", "short", "long 1", "other 1", "long 2", "long 3"]


def test_requests_and_streams_are_bounded_apart(engine):
    places = [engine.admit(60.0) for _ in range(3)]
    with pytest.raises(Problem, match="3 requests are under way") as caught:
        engine.admit(60.0)
    assert caught.value.code == "busy" and caught.value.headers["Retry-After"]
    stream = engine.admit()
    with pytest.raises(Problem, match="1 live streams"):
        engine.admit()
    engine.share(places[0])
    engine.leave(places[0])
    with pytest.raises(Problem, match="busy|under way"):
        engine.admit(60.0)
    engine.leave(places[0])
    engine.leave(stream)
    engine.admit(60.0)
    engine.admit()


def test_what_is_stopped_is_not_judged(engine):
    release, done = hold(engine), []
    place, other = engine.admit(60.0), engine.admit(60.0)
    futures = [engine.submit(place, done.append, number) for number in range(3)]
    last = engine.submit(other, done.append, "other")
    engine.stop(place, Problem("timed_out", "too late"))
    for future in futures:
        with pytest.raises(Problem, match="too late"):
            future.result(1)
    with pytest.raises(Problem, match="too late"):
        engine.submit(place, done.append, 4)
    release.set()
    last.result(10)
    assert done == ["other"]


def test_time_runs_out_while_waiting(engine):
    release, done = hold(engine), []
    place = engine.admit(0.05)
    future = engine.submit(place, done.append, 1)
    time.sleep(0.1)
    release.set()
    with pytest.raises(Problem, match="not done within 0.05 s"):
        future.result(10)
    assert done == []


def test_judging_from_a_loop_and_its_errors(engine):
    place = engine.admit()

    def fail():
        raise ValueError("no")

    async def use():
        assert await engine.judge(place, lambda a, b: a + b, 1, 2) == 3
        with pytest.raises(ValueError, match="no"):
            await engine.judge(place, fail)
        return await engine.judge(place, str, 4)

    assert asyncio.run(use()) == "4"


def test_a_closed_engine_refuses(engine):
    release = hold(engine)
    place = engine.admit(60.0)
    waiting = engine.submit(place, str, 1)
    engine.close()
    with pytest.raises(Problem, match="shutting down"):
        waiting.result(1)
    with pytest.raises(Problem, match="shutting down"):
        engine.submit(engine.admit(60.0), str, 1)
    release.set()
