"""Parts of heads: mixes by hand, reductions equal to a loop over utterances, gradients equal to the plain formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.models.layers import (
    ElementDropout,
    LayerMix,
    Segments,
    Standardise,
    Windows,
    scaled_layer_sum,
    stride_mean,
)

torch.set_num_threads(1)

lengths_lists = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


def test_softmax_weights_by_hand():
    mix = LayerMix(3)
    close(mix.weights(), torch.full((3,), 1 / 3))
    mix.k.data = torch.tensor([1.0, 2.0, 5.0]).log()
    close(mix.weights(), torch.tensor([1 / 8, 2 / 8, 5 / 8]))


def test_absolute_weights_by_hand():
    mix = LayerMix(4, "absolute")
    close(mix.weights(), torch.full((4,), 0.25))
    mix.k.data = torch.tensor([1.0, -2.0, 0.0, 5.0])
    close(mix.weights(), torch.tensor([1 / 8, 2 / 8, 0.0, 5 / 8]))


@pytest.mark.parametrize("form", ["softmax", "absolute"])
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=8).filter(lambda k: sum(map(abs, k)) > 0.1))
def test_weights_are_a_convex_combination(form, values):
    mix = LayerMix(len(values), form)
    mix.k.data = torch.tensor(values)
    assert (mix.weights() >= 0).all() and float(mix.weights().detach().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", ["packed", "apart", "scaled one by one"])
def test_the_sum_of_layers_and_its_gradient_are_those_of_einsum(dtype, form):
    arrays = [random(3, size, 4, seed=size, dtype=dtype) for size in (5, 1, 7)]
    whole, upstream = torch.cat(arrays, 1), random(13, 4, seed=8)
    count = 3 if form == "scaled one by one" else 1
    scale, reference = (random(count, 3, 4, seed=9).requires_grad_() for _ in range(2))
    out = scaled_layer_sum(scale, [whole] if form == "packed" else arrays)
    factors = reference.repeat_interleave(torch.tensor([5, 1, 7]), 0) if count > 1 else reference.expand(13, -1, -1)
    expected = torch.einsum("fnd,nfd->fd", factors, whole.float())
    assert out.dtype == torch.float32
    close(out, expected)
    out.backward(upstream)
    expected.backward(upstream)
    close(scale.grad, reference.grad)


def test_the_gradient_reaches_the_layers_when_they_are_trained():
    scale = random(1, 2, 3).requires_grad_()
    arrays = [random(2, 4, 3, seed=1).requires_grad_(), random(2, 2, 3, seed=2)]
    scaled_layer_sum(scale, arrays).square().sum().backward()
    again = [array.detach().clone().requires_grad_() for array in arrays]
    other = scale.detach().clone().requires_grad_()
    torch.einsum("nd,nfd->fd", other[0], torch.cat(again, 1)).square().sum().backward()
    close(arrays[0].grad, again[0].grad)
    close(scale.grad, other.grad)


def test_segments_by_hand():
    lengths = torch.tensor([2, 1])
    assert Segments.packed(lengths).index.tolist() == [0, 0, 1]
    assert Segments.padded(lengths, 3).index.tolist() == [0, 0, 2, 1, 2, 2]
    assert Segments.padded(lengths, 3).sum(torch.arange(6.0)[:, None]).tolist() == [[1.0], [3.0]]
    mean, variance = Segments.packed(lengths).moments(
        torch.tensor([[1.0], [4.0], [7.0]]), torch.tensor([[2.0], [1], [5]])
    )
    close(mean, torch.tensor([[2.0], [7.0]]))
    close(variance, torch.tensor([[2.0], [0.0]]))


def test_moments_keep_their_digits_far_from_zero():
    x = (10_000 + torch.tensor([0.0, 1.0]).repeat(500))[:, None]
    mean, variance = Segments.packed(torch.tensor([1000])).moments(x, torch.ones(1000, 1))
    assert float(mean) == pytest.approx(10_000.5) and float(variance) == pytest.approx(0.25, rel=1e-2)


@settings(max_examples=25)
@given(lengths=lengths_lists, extra=st.integers(0, 3), radius=st.integers(0, 6))
def test_windows_are_the_frames_around_each_frame(lengths, extra, radius):
    size = max(lengths) + extra
    x = random(len(lengths), size, 2, seed=3)
    weights = random(len(lengths), size, 1, seed=4).exp()
    mean, variance = Windows(torch.tensor(lengths), size, radius).moments(x.flatten(0, 1), weights.flatten(0, 1))
    mean, variance = mean.unflatten(0, (-1, size)), variance.unflatten(0, (-1, size))
    for row, length in enumerate(lengths):
        for frame in range(length):
            around = slice(max(0, frame - radius), min(length, frame + radius + 1))
            share = weights[row, around] / weights[row, around].sum()
            centre = (share * x[row, around]).sum(0)
            close(mean[row, frame], centre, atol=1e-4)
            close(variance[row, frame], (share * (x[row, around] - centre).square()).sum(0), atol=1e-4)


@settings(max_examples=25)
@given(lengths=lengths_lists, extra=st.integers(0, 3), stride=st.integers(1, 5))
def test_strides_are_averaged_and_the_last_may_be_short(lengths, extra, stride):
    layers = torch.zeros(len(lengths), 2, max(lengths) + extra, 3)
    for row, length in enumerate(lengths):
        layers[row, :, :length] = random(2, length, 3, seed=row)
    means, counts = stride_mean(layers, torch.tensor(lengths), stride)
    assert counts.tolist() == [-(-length // stride) for length in lengths]
    for row, length in enumerate(lengths):
        groups = [layers[row, :, start : min(start + stride, length)].mean(1) for start in range(0, length, stride)]
        close(means[row, :, : len(groups)], torch.stack(groups, 1))
        assert not means[row, :, len(groups) :].any()


def test_standardise_centres_what_does_not_vary():
    layer = Standardise(2, 2)
    x = random(3, 2, 2)
    close(layer(x), x)
    layer.fit(np.array([[1.0, 2], [3, 4]]), np.array([[2.0, 0.0], [0.5, 1e-7]]))
    close(layer(torch.tensor([[5.0, 5.0], [5.0, 5.0]])), torch.tensor([[2.0, 3.0], [4.0, 1.0]]))
    assert set(layer.state_dict()) == {"mean", "sd"} and not list(layer.parameters())


def test_grouped_windows_are_those_around_every_group():
    torch.manual_seed(0)
    lengths, size, group, radius = torch.tensor([11, 7]), 11, 3, 1
    x = torch.randn(2, size, 4)
    mean, variance = Windows(lengths, size, radius, group).moments(x.flatten(0, 1), torch.ones(2 * size, 1))
    mean, variance = mean.unflatten(0, (2, 4)), variance.unflatten(0, (2, 4))
    for row, length in enumerate(lengths.tolist()):
        for number in range((length + group - 1) // group):
            inside = x[row, max(0, (number - radius) * group) : min(length, (number + radius + 1) * group)]
            close(mean[row, number], inside.mean(0), atol=1e-5)
            close(variance[row, number], inside.var(0, correction=0), atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
def test_elements_are_dropped_with_their_probability_and_the_mean_stays(p):
    torch.manual_seed(0)
    drop, x = ElementDropout(p), torch.ones(401, 251, requires_grad=True)
    out = drop(x)
    share = float((out == 0).float().mean())
    assert share == pytest.approx(p, abs=5e-3) and set(out.detach().unique().tolist()) <= {
        0.0,
        float(torch.tensor(1 / (1 - p))),
    }
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    if p:
        assert not torch.equal(drop(x), out)
        rows = (out == 0).float().detach()
        assert abs(float(torch.corrcoef(torch.stack([rows[:, :-1].flatten(), rows[:, 1:].flatten()]))[0, 1])) < 0.02
        assert float((out[:200] == out[200:400]).float().mean()) == pytest.approx(p * p + (1 - p) ** 2, abs=0.02)
    assert torch.equal(drop.eval()(x), x)
