"""Poolings: every utterance by itself however it is batched, and SpeechBrain's figures for those that it has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from serkit.models.layers import EPSILON, Segments, Windows
from serkit.models.norms import BatchNorm, settle_norms
from serkit.models.poolings import POOLINGS, AttentiveStatisticsPooling, EcapaPooling

torch.set_num_threads(1)

DIM = 3
SMALL = POOLINGS | {"ecapa": lambda dim: EcapaPooling(dim, 8, 5, 4)}
lengths_lists = st.lists(st.integers(1, 9), min_size=1, max_size=5)
every_pooling = pytest.mark.parametrize("name", list(POOLINGS))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


def built(name, dim=DIM, kinds=SMALL):
    """A pooling whose normalisations have moved from where they begin."""
    torch.manual_seed(1)
    pool = kinds[name](dim)
    for norm in (module for module in pool.modules() if isinstance(module, BatchNorm)):
        for tensor in (norm.weight.data, norm.bias.data, norm.mean, norm.variance):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return pool.eval()


def padded(utterances, size, filling=99.0):
    rows = torch.full((len(utterances), size, utterances[0].shape[1]), filling)
    for row, x in zip(rows, utterances, strict=True):
        row[: len(x)] = x
    return rows.flatten(0, 1)


def naive_pooling(name, pool, utterances):
    """Every utterance by itself, with torch's own reductions."""
    rows = []
    for x in utterances:
        if name in ("sum", "max"):
            rows.append(x.sum(0) if name == "sum" else x.max(0).values)
            continue
        weights = pool.score(x).softmax(0) if name == "attention" else torch.full((len(x), 1), 1 / len(x))
        mean = (weights * x).sum(0)
        sd = ((weights * (x - mean).square()).sum(0) + EPSILON**2).sqrt()
        rows.append(mean if name == "mean" else torch.cat([mean, sd]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["mean", "sum", "max", "mean+std", "attention"])
@settings(max_examples=25)
@given(lengths=lengths_lists, extra=st.integers(0, 4), offset=st.sampled_from([0.0, 50.0]))
def test_packed_is_padded_is_every_utterance_by_itself(name, lengths, extra, offset):
    pool = built(name)
    utterances = [random(size, DIM, seed=row) + offset * row for row, size in enumerate(lengths)]
    expected, counts, size = naive_pooling(name, pool, utterances), torch.tensor(lengths), max(lengths) + extra
    assert expected.shape == (len(lengths), pool.dim)
    close(pool(torch.cat(utterances), Segments.packed(counts)), expected, atol=1e-4)
    close(pool(padded(utterances, size), Segments.padded(counts, size)), expected, atol=1e-4)


@every_pooling
@settings(max_examples=15)
@given(lengths=lengths_lists, extra=st.integers(0, 4))
def test_batched_is_alone(name, lengths, extra):
    """The contract of the registry, at its own sizes."""
    pool = built(name, kinds=POOLINGS)
    utterances, counts, size = [random(n, DIM, seed=row) for row, n in enumerate(lengths)], torch.tensor(lengths), 0
    with torch.no_grad():
        alone = torch.cat([pool(x, Segments.packed(torch.tensor([len(x)]))) for x in utterances])
        assert alone.shape == (len(lengths), pool.dim) and alone.isfinite().all()
        close(pool(torch.cat(utterances), Segments.packed(counts)), alone)
        backwards = pool(torch.cat(utterances[::-1]), Segments.packed(counts.flip(0)))
        close(backwards.flip(0), alone)
        size = max(lengths) + extra
        close(pool(padded(utterances, size), Segments.padded(counts, size)), alone)


@every_pooling
def test_in_training_padding_changes_neither_result_nor_gradient_nor_statistics(name):
    lengths, size, found = [5, 2, 7], 9, []
    utterances, counts = [random(n, DIM, seed=row) for row, n in enumerate(lengths)], torch.tensor(lengths)
    for frames, segments in (
        (torch.cat(utterances), Segments.packed(counts)),
        (padded(utterances, size), Segments.padded(counts, size)),
        (padded(utterances, size, -5.0), Segments.padded(counts, size)),
    ):
        pool, frames = built(name).train(), frames.requires_grad_()
        out = pool(frames, segments)
        out.square().sum().backward()
        settle_norms(pool)
        gradients = {key: weight.grad for key, weight in pool.named_parameters()}
        found.append((out.detach(), gradients, dict(pool.named_buffers())))
    for other in found[1:]:
        close(other[0], found[0][0], atol=1e-4)
        for one, two in zip(other[1:], found[0][1:], strict=True):
            for key, value in two.items():
                torch.testing.assert_close(
                    one[key], value, atol=1e-3, rtol=1e-3, msg=lambda text, k=key: f"{k}: {text}"
                )


@every_pooling
def test_every_parameter_gets_a_gradient(name):
    pool = built(name, kinds=POOLINGS).train()  # a channel of the small ones may be dead
    frames = random(24, DIM).requires_grad_()
    pool(frames, Segments.packed(torch.tensor([7, 8, 9]))).square().sum().backward()
    silent = [key for key, weight in pool.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == [] and frames.grad.any()


@every_pooling
@settings(max_examples=10)
@given(lengths=lengths_lists, extra=st.integers(0, 3), group=st.integers(1, 3))
def test_a_window_over_everything_is_the_whole_utterance(name, lengths, extra, group):
    pool, size = built(name), max(lengths) + extra
    counts, frames = (
        torch.tensor(lengths),
        padded([random(n, DIM, seed=row) for row, n in enumerate(lengths)], size, 9.0),
    )
    with torch.no_grad():
        whole = pool(frames, Segments.padded(counts, size))
        around = pool(frames, Windows(counts, size, 12, group)).unflatten(0, (len(lengths), -1))
    assert around.shape[1] == -(-size // group) and around.isfinite().all()
    torch.testing.assert_close(around, whole[:, None].expand_as(around), atol=3e-3, rtol=1e-3)


@settings(max_examples=25)
@given(lengths=lengths_lists, extra=st.integers(0, 3), radius=st.integers(0, 4), group=st.integers(1, 3))
def test_sums_and_maxima_around_every_group(lengths, extra, radius, group):
    size = max(lengths) + extra
    x = random(len(lengths), size, 2, seed=3)
    windows = Windows(torch.tensor(lengths), size, radius, group)
    sums, best = (reduce(x.flatten(0, 1)).unflatten(0, (len(lengths), -1)) for reduce in (windows.sum, windows.max))
    for row, length in enumerate(lengths):
        for number in range(-(-length // group)):
            inside = x[row, max(0, (number - radius) * group) : min(length, (number + radius + 1) * group)]
            close(sums[row, number], inside.sum(0))
            close(best[row, number], inside.amax(0))


def test_frames_that_nothing_attends_to_still_have_probabilities():
    """Far from what an utterance attends to, weights are tiny; their window is a mean of them all the same."""
    frames = torch.cat([torch.zeros(30, 1), torch.ones(30, 1)])
    weights = torch.cat([torch.full((30, 1), 1e-20), torch.ones(30, 1)])
    mean, _ = Windows(torch.tensor([60]), 60, 2).moments(frames + 3, weights)
    close(mean[:25, 0], torch.full((25,), 3.0))
    close(mean[35:, 0], torch.full((25,), 4.0))


def test_padding_that_scores_high_does_no_harm():
    pool = built("attentive-statistics")
    pool.attend.score.weight.data.fill_(1e4)
    utterances, counts = [random(3, DIM), random(2, DIM, seed=1)], torch.tensor([3, 2])
    alone = pool(torch.cat(utterances), Segments.packed(counts))
    assert alone.isfinite().all()
    close(pool(padded(utterances, 6, 1e3), Segments.padded(counts, 6)), alone, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
def test_time_reflects_at_the_ends(length):
    lengths = torch.tensor([4, length])
    for segments, first in ((Segments.packed(lengths), 4), (Segments.padded(lengths, 8), 8)):
        for offset in (-4, -2, 0, 1, 3):
            if length > 1:
                around = np.pad(np.arange(length), 4, mode="reflect")
                wanted = around[4 + offset : 4 + offset + length]
            else:
                wanted = np.zeros(1)
            found = segments.neighbours(offset)[first : first + length] - first
            assert found.tolist() == wanted.tolist(), (length, offset)


# SpeechBrain

REFERENCE = json.loads((Path(__file__).parent / "speechbrain.json").read_text())
"""What SpeechBrain 0.5.15 says (``ECAPA_TDNN``; ``AttentiveStatisticsPooling``, ``BatchNorm1d`` and ``Conv1d``).

Weights are those of :func:`load_reference`, in double precision: ``alone`` are single clips of ``lengths`` frames,
``training`` a batch of four clips of 7 frames in training mode, ``after`` the same batch in evaluation mode afterwards.
``parameters`` are those of the default sizes for 1024 channels.
"""
MADE = {
    "ecapa": lambda dim, **sizes: EcapaPooling(dim, **sizes),
    "attentive-statistics": lambda dim, **sizes: AttentiveStatisticsPooling(dim),
}
SIZES = {"channels": 16, "squeezed": 5}


def parts_of(pool):
    """Our modules by the names that SpeechBrain's have."""
    named = {"asp.tdnn.conv": pool.attend.hidden, "asp.tdnn.norm": pool.attend.norm, "asp.conv": pool.attend.score}
    named |= {"asp_bn": pool.norm, "fc": pool.map}
    tdnns = {}
    if isinstance(pool, EcapaPooling):
        tdnns = {"blocks.0": pool.enter, "mfa": pool.join}
        for number, block in enumerate(pool.blocks, 1):
            at = f"blocks.{number}"
            tdnns |= {f"{at}.tdnn1": block.enter, f"{at}.tdnn2": block.leave}
            tdnns |= {f"{at}.res2net_block.blocks.{n}": group for n, group in enumerate(block.groups)}
            named |= {f"{at}.se_block.conv1": block.weigh.squeeze, f"{at}.se_block.conv2": block.weigh.excite}
    return named | {f"{at}.{what}": part for at, tdnn in tdnns.items() for what, part in tdnn_parts(tdnn).items()}


def tdnn_parts(tdnn):
    return {"conv": tdnn.linear, "norm": tdnn.norm}


def load_reference(pool, kernels):
    """Draw SpeechBrain's weights, by name, and load them; a bias before the softmax over time has no part of ours."""
    shapes = {}
    for at, part in parts_of(pool).items():
        if isinstance(part, BatchNorm):
            names = {"weight": part.weight, "bias": part.bias, "running_mean": part.mean, "running_var": part.variance}
            shapes |= {f"{at}.norm.{name}": (tensor, tuple(tensor.shape)) for name, tensor in names.items()}
        else:
            kernel = kernels(at)
            shape = (part.out_features, part.in_features // kernel, kernel)
            shapes[f"{at}.conv.weight"] = part.weight, shape
            shapes[f"{at}.conv.bias"] = part.bias, (part.out_features,)
    source = np.random.RandomState(0)  # its numbers never change
    for name in sorted(shapes):
        tensor, shape = shapes[name]
        values = source.standard_normal(shape)
        if name.endswith("running_var"):
            values = np.abs(values) + 0.5
        elif len(shape) == 3:
            values = (values / np.sqrt(shape[1] * shape[2])).transpose(0, 2, 1).reshape(shape[0], -1)
        if tensor is not None:
            tensor.data.copy_(torch.from_numpy(values))


@pytest.mark.parametrize("name", list(MADE))
def test_speechbrain_says_the_same(name):
    pool, wanted = MADE[name](6, **SIZES).double(), REFERENCE[name]
    load_reference(pool, lambda at: 5 if at == "blocks.0.conv" else 3 if "res2net" in at else 1)
    source = np.random.RandomState(1)
    pool.eval()
    for length, figures in zip(wanted["lengths"], wanted["alone"], strict=True):
        x = torch.from_numpy(source.standard_normal((1, length, 6)))[0]
        found = pool(x, Segments.packed(torch.tensor([length])))
        torch.testing.assert_close(found[0], torch.tensor(figures).double(), atol=1e-7, rtol=1e-6)
    x = torch.from_numpy(source.standard_normal((4, 7, 6))).flatten(0, 1)
    segments = Segments.packed(torch.full((4,), 7))
    found = pool.train()(x, segments)
    torch.testing.assert_close(found, torch.tensor(wanted["training"]).double(), atol=1e-6, rtol=1e-6)
    settle_norms(pool)
    found = pool.eval()(x, segments)
    torch.testing.assert_close(found, torch.tensor(wanted["after"]).double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", list(MADE))
def test_the_sizes_are_those_of_speechbrain(name):
    pool = POOLINGS[name](1024)
    unused = pool.attend.score.out_features  # biases before the softmax
    assert sum(weight.numel() for weight in pool.parameters()) + unused == REFERENCE[name]["parameters"]


# Batch normalisation


def test_batch_normalisation_is_that_of_pytorch():
    ours, theirs = BatchNorm(4), nn.BatchNorm1d(4)
    for step in range(3):
        x = random(5, 4, seed=step) * 3 + 1
        close(ours(x), theirs(x))
        settle_norms(ours)
    close(ours.mean, theirs.running_mean)
    close(ours.variance, theirs.running_var)
    close(ours.eval()(x), theirs.eval()(x))


def test_running_statistics_move_once_a_step_in_any_order_and_anywhere():
    """Two passes of one process, in either order, or one of each of two: the same."""
    batches, found = [random(5, 4), random(3, 4, seed=1) + 2], []
    for order in (batches, batches[::-1]):
        norm = BatchNorm(4)
        for x in order:
            norm(x)
        settle_norms(norm)
        found.append(norm)
    apart = [BatchNorm(4), BatchNorm(4)]
    sums = []
    for norm, x in zip(apart, batches, strict=True):
        norm(x)
        settle_norms(norm, lambda total: sums.append(total) or total)
    far = BatchNorm(4)
    settle_norms(far, lambda total: sum(sums))
    for norm in (found[1], far):
        close(norm.mean, found[0].mean)
        close(norm.variance, found[0].variance)
    close(found[0].mean, 0.19 * (batches[0].mean(0) + batches[1].mean(0)) / 2)


def test_a_single_row_is_normalised_by_running_statistics():
    norm = BatchNorm(4)
    before = norm.mean.clone()
    x = random(1, 4)
    close(norm(x), x, atol=1e-4)
    settle_norms(norm)
    assert torch.equal(norm.mean, before)
