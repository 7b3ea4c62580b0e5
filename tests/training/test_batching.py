"""Which utterances a step sees, in which pieces: each once, within the limits, whatever the number of processes."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.training.batching import BatchOptions, cut_step, deal, plan_epoch, read_ahead

SECONDS = st.lists(st.floats(0.1, 30), min_size=1, max_size=60)
OPTIONS = st.builds(
    BatchOptions,
    micro_seconds=st.floats(0.5, 100),
    micro_batch=st.none() | st.integers(1, 9),
    waste=st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]),
    bucket=st.integers(1, 5),
)


def plan(seconds, size, options, seed=0, whole=False):
    return plan_epoch(seconds, size, options, np.random.default_rng(seed), whole)


def flat(step):
    return list(itertools.chain(*step))


@given(SECONDS, st.integers(1, 20), OPTIONS, st.integers(0, 5), st.booleans())
def test_every_utterance_once_in_steps_of_one_size(seconds, size, options, seed, whole):
    steps = plan(seconds, size, options, seed, whole)
    assert sorted(itertools.chain(*map(flat, steps))) == list(range(len(seconds)))
    sizes = [len(flat(step)) for step in steps]
    assert len(steps) == -(-len(seconds) // size) and max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert all(step and all(step) for step in steps) and (not whole or all(len(step) == 1 for step in steps))


@given(SECONDS, OPTIONS)
def test_micro_batches_keep_their_limits(seconds, options):
    for piece in cut_step(range(len(seconds)), seconds, options):
        lengths = [seconds[row] for row in piece]
        padded = max(lengths) * len(lengths)
        assert len(piece) == 1 or padded <= options.micro_seconds
        assert options.micro_batch is None or len(piece) <= options.micro_batch
        assert len(piece) == 1 or padded - sum(lengths) <= options.waste * padded + 1e-9


@given(SECONDS, OPTIONS)
def test_a_micro_batch_ends_only_where_the_next_utterance_would_not_fit(seconds, options):
    pieces = cut_step(range(len(seconds)), seconds, options)
    for piece, following in itertools.pairwise(pieces):
        lengths = [seconds[row] for row in (*piece, following[0])]
        padded = max(lengths) * len(lengths)
        assert (
            padded > options.micro_seconds
            or (options.micro_batch is not None and len(lengths) > options.micro_batch)
            or padded - sum(lengths) > options.waste * padded
        )


def test_a_step_by_hand():
    seconds = [1.0, 4.0, 3.9, 1.05, 4.0]
    assert cut_step(range(5), seconds, BatchOptions(micro_seconds=12)) == [[1, 4, 2], [3, 0]]
    assert cut_step(range(5), seconds, BatchOptions(micro_seconds=8)) == [[1, 4], [2], [3, 0]]
    assert cut_step(range(5), seconds, BatchOptions(micro_batch=1)) == [[1], [4], [2], [3], [0]]
    assert cut_step([3, 1, 0], seconds, BatchOptions(waste=1, micro_seconds=12)) == [[3, 1, 0]]  # as drawn
    assert cut_step([3, 1, 0, 2], seconds, BatchOptions(waste=1, micro_batch=2)) == [[3, 1], [0, 2]]


def test_steps_are_drawn_anew_by_the_seed():
    seconds = np.linspace(1, 9, 40).tolist()
    for options in (BatchOptions(), BatchOptions(bucket=3)):
        steps = [{frozenset(flat(step)) for step in plan(seconds, 8, options, seed)} for seed in (0, 0, 1)]
        assert steps[0] == steps[1] != steps[2]


def test_buckets_make_less_padding():
    seconds = np.random.default_rng(0).gamma(3, 1.5, 400).tolist()

    def padding(bucket):
        steps = [flat(step) for step in plan(seconds, 16, BatchOptions(bucket=bucket))]
        return sum(max(seconds[row] for row in step) * len(step) for step in steps) / sum(seconds) - 1

    shares = [padding(bucket) for bucket in (1, 4, 25)]
    assert shares[0] > 2 * shares[1] > 4 * shares[2]
    means = [np.mean([seconds[row] for row in flat(step)]) for step in plan(seconds, 16, BatchOptions(bucket=25))]
    assert np.abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5  # short and long steps are mixed


@given(SECONDS, OPTIONS, st.integers(1, 5))
def test_every_piece_is_dealt_once_and_work_is_even(seconds, options, processes):
    pieces = cut_step(range(len(seconds)), seconds, options)
    hands = deal(pieces, seconds, processes)
    assert len(hands) == processes and sorted(itertools.chain(*hands)) == list(range(len(pieces)))
    assert all(hand == sorted(hand) for hand in hands)
    cost = [max(seconds[row] for row in piece) * len(piece) for piece in pieces]
    loads = [sum(cost[number] for number in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(cost) + 1e-6


# Reading ahead


def threads():
    return {thread.ident for thread in threading.enumerate()}


def test_items_come_in_order_and_the_thread_ends():
    before = threads()
    assert list(read_ahead(iter(range(50)))) == list(range(50)) and threads() <= before
    assert list(read_ahead([])) == [] and list(read_ahead([None, None])) == [None, None]
    assert threads() <= before


def test_another_thread_is_at_most_so_many_items_ahead():
    made, before = [], threading.get_ident()

    def make():
        for number in range(20):
            made.append((number, threading.get_ident()))
            yield number

    ahead = read_ahead(make(), count=2)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)
    assert len(made) == 4 and all(ident != before for _, ident in made)  # one used, two ready, one in hand
    ahead.close()


def test_groups_that_are_seen_together_differ_by_one_utterance_at_most():
    seconds = np.random.default_rng(0).uniform(1, 9, 37)
    options = BatchOptions(together=4, micro_seconds=1)
    steps = plan_epoch(seconds, 13, options, np.random.default_rng(1), whole=True)
    assert sorted(row for step in steps for piece in step for row in piece) == list(range(37))
    for step in steps:
        sizes = [len(piece) for piece in step]
        assert max(sizes) <= 4 and max(sizes) - min(sizes) <= 1 and len(sizes) == -(-sum(sizes) // 4)
    whole = plan_epoch(seconds, 13, BatchOptions(), np.random.default_rng(1), whole=True)
    assert [len(step) for step in whole] == [1] * 3
    assert [[row for piece in step for row in piece] for step in steps] == [
        step[0] for step in whole
    ]  # as they were drawn


def test_what_fails_there_is_raised_here():
    def make():
        yield 1
        raise ZeroDivisionError("there")

    before, ahead = threads(), read_ahead(make())
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError, match="there"):
        next(ahead)
    assert threads() <= before
    with pytest.raises(StopIteration):
        next(ahead)


def test_who_stops_early_ends_the_thread():
    before, ahead = threads(), read_ahead(itertools.count())
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    assert threads() <= before
