"""What the routes of one server process share: its models, its engine, its doors, and how a request is worked on."""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.requests import Request

from serkit.cores import count_cores
from serkit.errors import AudioError, InputError, nearest
from serkit.inference.predictor import Predictor
from serkit.inference.timeline import rounded
from serkit.serving.decoding import Decoder
from serkit.serving.engine import Engine, Place, QueuedBundle
from serkit.serving.metrics import Metrics
from serkit.serving.problems import Problem, shutting_down
from serkit.serving.settings import Settings

T = TypeVar("T")
PATIENCE = 5.0
"""How many seconds an answer waits for its thread to notice that it was stopped."""


class Server:
    """The state of one process, ``app.state.server``: ``settings``, ``models`` by name, ``engine``, ``metrics``.

    ``stopping`` is set when the process is to end: requests under way are finished, new ones are refused, and live
    streams are to close. Raises ``InputError`` for a bundle that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = load_models(settings)
        self.metrics = Metrics()
        threads = settings.concurrency or max(1, count_cores() // settings.workers)
        self.engine = Engine(threads, settings.queue, settings.streams, self.metrics)
        self.stopping = asyncio.Event()

    @property
    def closing(self) -> bool:
        """Whether the process is to end."""
        return self.stopping.is_set()

    def close(self) -> None:
        """End what is left: requests and streams are told, and the judging threads end."""
        self.stopping.set()
        self.engine.close()

    def choose(self, name: str | None) -> Predictor:
        """Return the model ``name``, the first without; raises ``Problem`` for an unknown one."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Problem("bad_option", f"model: there is no {name[:80]!r}{nearest(name, self.models)}")
        return self.models[name]

    def admit(self, headers: Mapping[str, str]) -> None:
        """Raise ``Problem`` unless the ``headers`` hold an API key, or none is needed."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        self.check_key(token if scheme.lower() == "bearer" else headers.get("x-api-key", ""))

    def check_key(self, given: str) -> None:
        """Raise ``Problem`` unless ``given`` is an API key, or none is needed; takes equally long for any wrong key."""
        keys = self.settings.api_keys
        found = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys]
        if keys and not any(found):
            raise Problem("unauthorized", "give an API key: Authorization: Bearer KEY, or X-API-Key: KEY")

    def allows_origin(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a browser's page of that origin may open a stream; programs that are no browsers say none."""
        origin = headers.get("origin")
        known = self.settings.allow_origins
        return origin is None or "*" in known or origin in known or urlsplit(origin).netloc == headers.get("host")

    @contextmanager
    def place(self, live: bool = False) -> Iterator[Place]:
        """Give a request or a live stream a place as long as it lasts; raises ``Problem`` when there is none."""
        if self.closing:
            raise shutting_down()
        place = self.engine.admit(None if live else self.settings.timeout_seconds)
        try:
            yield place
        finally:
            self.engine.leave(place)

    async def work(self, request: Request, place: Place, work: Callable[[], T]) -> T:
        """Return ``work()``, done in a thread of its own, for a request whose body has been read.

        When the time of ``place`` is up, or the client gone, it is stopped. The place is taken until the thread ends.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda each: each.cancelled() or each.exception())
        self.engine.share(place)
        threading.Thread(target=self.carry_out, args=(place, work, done), daemon=True, name="request").start()
        gone = asyncio.ensure_future(until_gone(request))
        try:
            waiting: set[asyncio.Future[Any]] = {done, gone}
            await asyncio.wait(waiting, timeout=place.left, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                self.engine.stop(place, Problem("timed_out", "the client has gone") if gone.done() else place.late())
                await asyncio.wait({done}, timeout=PATIENCE)
            if not done.done():
                place.check()
            found: T = done.result()
            return found
        except asyncio.CancelledError:
            self.engine.stop(place, shutting_down())
            raise
        finally:
            gone.cancel()

    def carry_out(self, place: Place, work: Callable[[], T], done: asyncio.Future[Any]) -> None:
        """Do ``work`` in this thread, give up the place, and tell the loop of ``done``."""
        found: list[T] = []
        failure: BaseException | None = None
        try:
            found.append(work())
        except AudioError as error:
            failure = Problem("bad_audio", str(error))
        except InputError as error:
            failure = Problem("bad_option", str(error))
        except BaseException as error:
            failure = error
        self.engine.leave(place)

        def tell() -> None:
            if done.cancelled():
                return
            if failure is None:
                done.set_result(found[0])
            else:
                done.set_exception(failure)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            done.get_loop().call_soon_threadsafe(tell)

    def predictor(self, model: str | None, place: Place, peaks: int | None = None) -> tuple[Predictor, Decoder]:
        """Return a model that decodes and judges for ``place``, and its decoder."""
        chosen = self.choose(model)
        decoder = Decoder(place, self.metrics, self.settings.max_seconds, peaks)
        return chosen.through(QueuedBundle(chosen.bundle, self.engine, place), decoder), decoder


def load_models(settings: Settings) -> dict[str, Predictor]:
    """Load every model by name; raises ``InputError`` for one that cannot be used, or hears nothing."""
    found = {}
    for name, folder in settings.models:
        if name in found:
            raise InputError(f"--model {name}: is given twice: name the models differently, NAME=FOLDER")
        found[name] = Predictor(folder)
        if not found[name].card.hears:
            raise InputError(f"{folder}: reads words alone, and the server takes recordings: use serkit predict --text")
    return found


async def until_gone(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def describe(name: str, predictor: Predictor) -> dict[str, Any]:
    """Return what ``/v1/models`` tells of a model."""
    card = predictor.card
    return {
        "name": name,
        "classes": list(card.classes),
        "sampling_rate": card.sampling_rate,
        "window_seconds": card.window_seconds,
        "min_seconds": card.min_seconds,
        "training_data": card.training_data,
        "licence": card.licence,
        "intended_use": card.intended_use,
        "thresholds": thresholds(predictor),
    }


def thresholds(predictor: Predictor) -> dict[str, float]:
    """Return the probability from which each class counts as present, with four decimals; empty where unknown."""
    return rounded(predictor.card.named_thresholds)
