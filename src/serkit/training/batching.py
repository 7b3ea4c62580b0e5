"""Which utterances a step of fine-tuning sees, in which pieces they go through the encoder, and on which process.

A step's utterances are drawn by chance. Its pieces, the micro-batches, hold recordings of similar length, so that
little of what is computed is padding. Both are drawn before the pieces are dealt to processes: the result does not
depend on how many there are.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
MicroBatch = list[int]


class BatchOptions(BaseModel):
    """How a step of ``training.batch_size`` utterances is made.

    A micro-batch has at most ``micro_seconds`` of audio, padding included, ``micro_batch`` utterances (None: no limit)
    and a share ``waste`` of padding; ``waste`` 1 leaves the utterances of a step in random order, as drawn. With
    ``bucket`` n, the utterances of n steps at a time are sorted by length before steps are cut from them.

    Batch normalisation and concordance compare utterances with each other: the pieces of a step then are groups of
    ``together`` utterances as they were drawn, or the whole step (None), whatever the other limits.

    The defaults suit a CPU, where larger micro-batches only cost fresh memory; a GPU wants ``micro_seconds`` of 100.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    micro_seconds: float = Field(10.0, gt=0)
    micro_batch: int | None = Field(None, ge=1)
    waste: float = Field(0.05, ge=0, le=1)
    bucket: int = Field(1, ge=1)
    together: int | None = Field(None, ge=2)


def plan_epoch(
    seconds: Sequence[float], batch_size: int, options: BatchOptions, rng: np.random.Generator, whole: bool = False
) -> list[list[MicroBatch]]:
    """Return the steps of an epoch over all of ``seconds``: each a list of micro-batches of row numbers.

    ``whole`` keeps ``options.together`` utterances of a step in one micro-batch, or all.
    """
    order = rng.permutation(len(seconds))
    count = -(-len(order) // batch_size)
    steps = [part.tolist() for part in np.array_split(order, count)]
    if options.bucket > 1:
        pools = [steps[first : first + options.bucket] for first in range(0, count, options.bucket)]
        steps = []
        for pooled in pools:
            pool = sorted(itertools.chain(*pooled), key=lambda row: seconds[row])
            steps += [part.tolist() for part in np.array_split(pool, -(-len(pool) // batch_size))]
        steps = [steps[index] for index in rng.permutation(len(steps))]
    return [_split(step, options.together) if whole else cut_step(step, seconds, options) for step in steps]


def _split(step: list[int], size: int | None) -> list[MicroBatch]:
    """Cut a step into groups of about ``size`` that differ by one utterance at most."""
    return [part.tolist() for part in np.array_split(step, 1 if size is None else -(-len(step) // size))]


def cut_step(rows: Sequence[int], seconds: Sequence[float], options: BatchOptions) -> list[MicroBatch]:
    """Cut ``rows`` into micro-batches, longest first unless ``waste`` is 1."""
    if options.waste < 1:
        rows = sorted(rows, key=lambda row: -seconds[row])
    pieces: list[MicroBatch] = []
    for row in rows:
        if pieces and _fits(pieces[-1], row, seconds, options):
            pieces[-1].append(row)
        else:
            pieces.append([row])
    return pieces


def _fits(piece: MicroBatch, row: int, seconds: Sequence[float], options: BatchOptions) -> bool:
    lengths = [seconds[each] for each in (*piece, row)]
    padded = max(lengths) * len(lengths)
    few = options.micro_batch is None or len(lengths) <= options.micro_batch
    return few and padded <= options.micro_seconds and padded - sum(lengths) <= options.waste * padded


def deal(pieces: Sequence[MicroBatch], seconds: Sequence[float], processes: int) -> list[list[int]]:
    """Return the numbers of the ``pieces`` that each process computes: longest first, to the one with least to do."""
    load = [0.0] * processes
    hands: list[list[int]] = [[] for _ in range(processes)]
    cost = [max(seconds[row] for row in piece) * len(piece) for piece in pieces]
    for number in sorted(range(len(pieces)), key=lambda number: -cost[number]):
        least = load.index(min(load))
        hands[least].append(number)
        load[least] += cost[number]
    return [sorted(hand) for hand in hands]


def read_ahead(items: Iterable[T], count: int = 2) -> Iterator[T]:
    """Yield ``items``, made by another thread up to ``count`` ahead; what fails there is raised here."""
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(count)
    stopped = threading.Event()

    def make() -> None:
        try:
            for item in items:
                _put(ready, (True, item), stopped)
                if stopped.is_set():
                    return
            _put(ready, (False, None), stopped)
        except BaseException as error:
            _put(ready, (False, error), stopped)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            good, item = ready.get()
            if good:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        stopped.set()
        thread.join()


def _put(ready: queue.Queue, item: object, stopped: threading.Event) -> None:
    while not stopped.is_set():
        try:
            return ready.put(item, timeout=0.1)
        except queue.Full:
            continue
