"""Many recordings at a time, on all cores, with the answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serkit.cores import count_cores

T = TypeVar("T")
R = TypeVar("R")


def each_in_order(work: Callable[[T], R], items: Iterable[T], workers: int | None) -> Iterator[tuple[T, R]]:
    """Yield every item with ``work(item)``, in the order given; ``workers`` None is one for each core.

    At most a few items per worker are under way at once, so a million of them need no more memory than ten.
    """
    workers = workers or count_cores()
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) >= 4 * workers:
                first, future = pending.popleft()
                yield first, future.result()
        for item, future in pending:
            yield item, future.result()
