"""Heads: sizes by hand, neighbours and padding without influence, gradients everywhere, able to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from serkit.encoders.base import FrameFeatures
from serkit.encoders.cache import FeatureCache
from serkit.models.heads import Batch, HeadConfig, Stream, create_head, layer_weights
from serkit.models.layers import Segments, Standardise
from serkit.models.norms import settle_norms
from serkit.models.poolings import EcapaPooling
from serkit.training.features import FeatureSet, array_statistics, load_stream

torch.set_num_threads(1)

LAYERS, DIM, CLASSES = 3, 4, 3
TABLE = {
    f"{kind} {mix} {pooling}{' +' if more else ''}": HeadConfig(
        kind=kind, mix=mix, pooling=pooling, frame_hidden=(6,), hidden=(5,) if more else (), statistics=more, members=2
    )
    for kind, mixes in (("pooled", ("softmax", "absolute", "concat")), ("frames", ("softmax", "absolute")))
    for mix in mixes
    for pooling in ("mean", "mean+std", *(("attention",) if kind == "frames" else ()))
    for more in (False, True)
}
TABLE["frames lstm"] = HeadConfig(frame_hidden=(6,), lstm=5, pooling="mean", activation="relu", drop="elements")
TABLE["frames glorot"] = HeadConfig(frame_hidden=(6, 6), init="glorot", drop_last=False, drop="elements", members=2)
ORIGINAL = {"frame_hidden": (), "mix": "sum", "pooled_activation": "relu", "batch_norm": True, "dropout": 0.2}
"""The head of the i3 system: pooled, ReLU, batch normalisation, dropout, a linear map."""
for pooling in ("mean", "sum", "max", "attentive-statistics", "ecapa"):
    for position in ("frames", "pooled"):
        name = f"frames i3 {pooling} {position}"
        TABLE[name] = HeadConfig(pooling=pooling, mix_position=position, channels=64, **ORIGINAL)
TABLE["pooled i3"] = HeadConfig(kind="pooled", pooling="mean", **ORIGINAL)
every_head = pytest.mark.parametrize("config", TABLE.values(), ids=list(TABLE))


def utterances(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [torch.randn(LAYERS, size, DIM, generator=generator) for size in sizes]


def batch_of(arrays):
    statistics = torch.stack([array_statistics(array) for array in arrays])
    segments = Segments.packed(torch.tensor([array.shape[1] for array in arrays]))
    return Batch((Stream(statistics, arrays),), segments)


def built(config, seed=0):
    """A head with random weights and random standardisation, so that a wrong sign or order shows."""
    torch.manual_seed(seed)
    head = create_head(config, [(LAYERS, DIM)], CLASSES)
    deep = {parameter for part in head.modules() if isinstance(part, EcapaPooling) for parameter in part.parameters()}
    for parameter in head.parameters():
        if parameter not in deep:  # many maps in a row make large numbers larger
            parameter.data = torch.randn_like(parameter)
    for module in head.modules():
        if isinstance(module, Standardise):
            module.fit(torch.randn_like(module.mean).numpy(), torch.rand_like(module.sd).numpy() + 0.5)
    return head.eval()


def size_of(classes=4, layers=13, dim=768, **options):
    return sum(weight.numel() for weight in create_head(HeadConfig(**options), [(layers, dim)], classes).parameters())


def test_parameter_counts_by_hand():
    pepino = {"mix": "absolute", "kind": "frames", "frame_hidden": (128, 128), "pooling": "mean", "activation": "relu"}
    assert size_of(**pepino) == 13 + (768 * 128 + 128) + (128 * 128 + 128) + (128 * 4 + 4) == 115_473
    assert size_of(**{**pepino, "members": 2}) == 2 * 115_473
    assert size_of(kind="frames", frame_hidden=(), pooling="mean+std") == 13 + 2 * 768 * 4 + 4
    attention = 128 * 64 + 64 + 64 + 1
    assert size_of(kind="frames", pooling="attention") == 13 + 768 * 128 + 128 + attention + 256 * 4 + 4
    assert size_of(kind="frames", frame_hidden=(), pooling="mean", statistics=True) == (
        13 + 768 * 4 + 4 + 2 * 13 * 768 * 4 + 4
    )
    assert size_of(kind="pooled", mix="softmax", pooling="mean") == 13 + 768 * 4 + 4
    assert size_of(kind="pooled", mix="concat") == 2 * 13 * 768 * 4 + 4
    assert size_of(kind="pooled", mix="concat", pooling="mean", hidden=(8,)) == 13 * 768 * 8 + 8 + 8 * 4 + 4


def test_parameter_counts_of_pepino():
    pepino = {"mix": "absolute", "kind": "frames", "frame_hidden": (128, 128), "pooling": "mean", "activation": "relu"}
    assert [size_of(classes, **pepino) for classes in (4, 7, 8)] == [115_473, 115_860, 115_989]
    assert size_of(4, layers=1, **pepino) == 115_473 - 13
    fusion = [create_head(HeadConfig(**pepino), [(13, 768), (1, 25)], classes).parameters() for classes in (4, 7)]
    assert [sum(weight.numel() for weight in weights) for weights in fusion] == [135_185, 135_572]
    lstm = create_head(HeadConfig(**{**pepino, "frame_hidden": (128,), "lstm": 128}), [(13, 768)], 4)
    trained = sum(weight.numel() for weight in lstm.parameters() if weight.requires_grad)
    assert trained == 13 + (768 * 128 + 128) + 4 * (128 * 128 + 128 * 128 + 128) + (128 * 4 + 4)


@every_head
def test_a_head_answers_the_same_in_any_batch_and_order(config):
    head, arrays = built(config), utterances(6)
    with torch.no_grad():
        together = head(batch_of(arrays))
        assert together.shape == (6, CLASSES)
        alone = torch.cat([head(batch_of([array])) for array in arrays])
        backwards = head(batch_of(arrays[::-1])).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, backwards, atol=1e-4, rtol=1e-4)


@every_head
def test_every_parameter_gets_a_gradient(config):
    head = built(config)
    cross_entropy(head(batch_of(utterances(5))), torch.tensor([0, 1, 2, 0, 1])).backward()
    assert [
        name
        for name, weight in head.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.any())
    ] == []


@every_head
def test_every_head_can_learn_eight_utterances_by_heart(config):
    torch.manual_seed(0)
    head = create_head(config.model_copy(update={"dropout": 0.0}), [(LAYERS, DIM)], CLASSES)
    batch, targets = batch_of(utterances(8, seed=3)), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(600):
        scores = head.each(batch)
        loss = torch.stack([cross_entropy(member, targets) for member in scores]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.6:
            break
    easy = config.pooling != "mean" and config.frame_hidden  # four dimensions may not do
    assert (head(batch).argmax(1) == targets).float().mean() >= (1 if easy else 0.75)


def test_a_pooled_head_by_hand():
    config = HeadConfig(kind="pooled", mix="absolute", pooling="mean+std", dropout=0)
    head = create_head(config, [(2, 1)], 2)
    (only,) = head.heads
    only.streams[0].mix.k.data = torch.tensor([-1.0, 3.0])
    only.decide[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    only.decide[1].bias.data = torch.tensor([0.0, 10.0])
    only.streams[0].standardise.fit(
        np.array([[[1.0], [2.0]], [[0.0], [0.0]]]), np.array([[[2.0], [1.0]], [[1.0], [4.0]]])
    )
    statistics = torch.tensor([[[[5.0], [4.0]], [[1.0], [8.0]]]])  # means 5 and 4, deviations 1 and 8
    mean, deviation = 0.25 * (5 - 1) / 2 + 0.75 * (4 - 2), 0.25 * 1 + 0.75 * 8 / 4
    assert head.each(Batch((Stream(statistics),)))[0, 0].tolist() == pytest.approx([mean, deviation + 10])


def test_a_frames_head_by_hand():
    config = HeadConfig(
        kind="frames", mix="softmax", frame_hidden=(1,), pooling="mean+std", activation="relu", dropout=0
    )
    head = create_head(config, [(2, 1)], 2)
    (only,) = head.heads
    only.streams[0].standardise.fit(np.array([[1.0], [0.0]]), np.array([[2.0], [1.0]]))
    only.streams[0].linear.weight.data, only.streams[0].linear.bias.data = torch.tensor([[2.0]]), torch.tensor([-1.0])
    only.decide[1].weight.data, only.decide[1].bias.data = torch.eye(2), torch.zeros(2)
    array = torch.tensor([[[3.0], [1.0]], [[1.0], [-4.0]]])
    mixed = [0.5 * (3 - 1) / 2 + 0.5 * 1, 0.5 * 0 + 0.5 * -4]  # 1 and -2
    hidden = [max(0, 2 * x - 1) for x in mixed]  # 1 and 0
    expected = [np.mean(hidden), np.std(hidden)]
    assert head.each(batch_of([array]))[0, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_order_of_the_i3_head_by_hand():
    """ReLU, batch normalisation, dropout, linear map; layers mixed by weights of any sign, then pooled, or before."""
    torch.manual_seed(0)
    arrays = utterances(5, seed=6)
    for position in ("frames", "pooled"):
        config = HeadConfig(pooling="max", mix_position=position, **ORIGINAL)
        head = create_head(config, [(LAYERS, DIM)], CLASSES)
        (only,) = head.heads
        weights = torch.tensor([0.5, -2.0, 1.0])
        only.streams[0].mix.k.data = weights
        assert [type(part).__name__ for part in only.decide] == ["ReLU", "BatchNorm", "Dropout", "Linear"]
        norm, linear = only.decide[1], only.decide[3]
        if position == "frames":
            pooled = torch.stack([(weights[:, None, None] * array).sum(0).max(0).values for array in arrays])
        else:
            pooled = torch.stack([(weights[:, None] * array.max(1).values).sum(0) for array in arrays])
        found = []
        for mode in (True, False):
            head.train(mode)
            only.decide[2].eval()
            rows = pooled.relu()
            mean, variance = (rows.mean(0), rows.var(0, correction=0)) if mode else (norm.mean, norm.variance)
            expected = linear((rows - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias)
            found.append(head.each(batch_of(arrays))[0])
            torch.testing.assert_close(found[-1], expected, atol=1e-5, rtol=1e-4)
            settle_norms(head)
        assert not torch.allclose(*found, atol=1e-2)
        assert layer_weights(head) == [weights.tolist()]


def test_for_a_linear_pooling_the_position_of_the_mix_does_not_matter_and_for_max_it_does():
    for pooling, equal in (("mean", True), ("sum", True), ("max", False)):
        scores = []
        for position in ("frames", "pooled"):
            config = HeadConfig(pooling=pooling, frame_hidden=(), mix="sum", mix_position=position)
            scores.append(built(config)(batch_of(utterances(4))))
        assert torch.allclose(*scores, atol=1e-4) == equal, pooling


def test_weights_of_a_sum_are_drawn_from_a_normal_distribution():
    torch.manual_seed(0)
    weights = torch.tensor(layer_weights(create_head(HeadConfig(mix="sum"), [(5000, 1)], 2))[0])
    assert abs(float(weights.mean())) < 0.05 and abs(float(weights.std()) - 1) < 0.05


@pytest.mark.parametrize("position", ["frames", "pooled"])
def test_scaling_and_half_precision_reach_layers_pooled_one_by_one(position):
    """Utterances standardised one by one, as by speaker, give what standardised arrays give."""
    head = built(HeadConfig(pooling="max", mix_position=position, **ORIGINAL))
    arrays = [array.half() for array in utterances(4)]
    scaling = torch.rand(4, 2, LAYERS, DIM) + 0.5
    plain = [(a.float() - s[0][:, None]) / s[1][:, None] for a, s in zip(arrays, scaling, strict=True)]
    segments = batch_of(arrays).segments
    statistics = torch.stack([array_statistics(array) for array in plain])
    with torch.no_grad():
        found = head(Batch((Stream(statistics, arrays, scaling),), segments))
        torch.testing.assert_close(found, head(batch_of(plain)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pooled", "pooling": "max"}, 'pooling "max" needs head.kind=frames'),
        ({"kind": "pooled", "pooling": "mean", "lstm": 4}, "head.lstm needs head.kind=frames"),
        ({"mix_position": "pooled"}, r"set head.frame_hidden=\[\]"),
        ({"mix_position": "pooled", "frame_hidden": (), "lstm": 4}, "no lstm"),
        ({"channels": 12}, "multiple of 8"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, message):
    with pytest.raises(ValidationError, match=message):
        HeadConfig(**options)


def test_an_ensemble_averages_log_probabilities():
    head, batch = built(TABLE["frames softmax mean+std"]), batch_of(utterances(4))
    with torch.no_grad():
        members = [member(batch).log_softmax(1) for member in head.heads]
        assert len(members) == 2 and not torch.equal(*members)
        torch.testing.assert_close(head(batch), (members[0] + members[1]) / 2)
        torch.testing.assert_close(head.each(batch).log_softmax(2), torch.stack(members))


@every_head
def test_dropout_acts_in_training_only(config):
    head, batch = built(config.model_copy(update={"dropout": 0.5})), batch_of(utterances(4))
    assert torch.equal(head(batch), head(batch))
    head.train()
    assert not torch.equal(head(batch), head(batch))


def test_a_channel_is_dropped_for_a_whole_utterance():
    head = built(HeadConfig(kind="frames", frame_hidden=(6,), dropout=0.5)).train()
    batch = batch_of([torch.ones(LAYERS, 5, DIM), torch.ones(LAYERS, 7, DIM)])
    dropped = head.heads[0]._drop_channels(torch.ones(12, 50), batch.segments)
    assert (dropped[:5] == dropped[0]).all() and (dropped[5:] == dropped[5]).all()
    assert not torch.equal(dropped[0], dropped[5]) and set(dropped.unique().tolist()) == {0.0, 2.0}


def test_elements_are_dropped_one_by_one():
    head = built(HeadConfig(kind="frames", frame_hidden=(6,), dropout=0.5, drop="elements", drop_last=False)).train()
    batch = batch_of([torch.ones(LAYERS, 50, DIM)])
    (member,) = head.heads
    frames = member._map(torch.nn.Identity(), torch.ones(50, 20) * 3, batch.segments)
    assert 0.3 < float((frames == 0).float().mean()) < 0.7 and len(frames.unique(dim=0)) > 40
    assert len(member.decide) == 1


def test_an_lstm_runs_forward_over_each_utterance_alone():
    head, arrays = built(TABLE["frames lstm"]), utterances(3, seed=4)
    (member,) = head.heads
    captured = []
    member.pool.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    with torch.no_grad():
        for group in ([arrays[0]], arrays, [arrays[0][:, :1]]):
            head(batch_of(group))
    alone, together, first = captured
    torch.testing.assert_close(together[: len(alone)], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(first[0], alone[0], atol=1e-5, rtol=0)
    if len(alone) > 1:
        assert not torch.allclose(alone[0], alone[1])


def streams_of(arrays, others, scaling=None):
    """A batch with a second stream of its own width, the first standardised utterance by utterance."""
    first = batch_of(arrays)
    second = batch_of(others)
    return Batch((Stream(first.streams[0].statistics, arrays, scaling), *second.streams), first.segments)


@pytest.mark.parametrize("kind", ["frames", "pooled"])
def test_two_streams_by_hand(kind):
    torch.manual_seed(0)
    mix = "absolute" if kind == "frames" else "concat"
    config = HeadConfig(kind=kind, mix=mix, frame_hidden=(5, 4), pooling="mean", activation="relu", dropout=0.2)
    head = create_head(config, [(LAYERS, DIM), (1, 2)], CLASSES).eval()
    (member,) = head.heads
    arrays = utterances(3)
    others = [torch.randn(1, array.shape[1], 2) for array in arrays]
    for stream in member.streams:
        stream.standardise.fit(torch.randn_like(stream.standardise.mean), torch.rand_like(stream.standardise.sd) + 0.5)
    if kind == "frames":
        member.streams[0].mix.k.data = torch.tensor([1.0, -2.0, 5.0])
    with torch.no_grad():
        found = head.each(streams_of(arrays, others))[0]
        for row, (array, other) in enumerate(zip(arrays, others, strict=True)):
            one, two = member.streams
            if kind == "frames":
                frames = (array - one.standardise.mean[:, None]) / one.standardise.sd[:, None]
                mixed = (torch.tensor([1, 2, 5.0])[:, None, None] / 8 * frames).sum(0)
                plain = ((other - two.standardise.mean[:, None]) / two.standardise.sd[:, None])[0]
                joined = torch.cat([one.linear(mixed).relu(), two.linear(plain).relu()], 1)
                expected = member.decide(member.per_frame[0](joined).relu().mean(0))
            else:
                means = [
                    ((array.mean(1) - stream.standardise.mean[0]) / stream.standardise.sd[0]).flatten()
                    for stream, array in ((one, array), (two, other))
                ]
                expected = member.decide(torch.cat(means))
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_utterances_may_be_standardised_one_by_one():
    config, arrays = TABLE["frames absolute mean"], utterances(4)
    head, other = built(config), [torch.randn(1, array.shape[1], 2) for array in utterances(4)]
    scaling = torch.stack([torch.randn(4, LAYERS, DIM), torch.rand(4, LAYERS, DIM) + 0.5], 1)
    head = create_head(config, [(LAYERS, DIM), (1, 2)], CLASSES).eval()
    for member in head.heads:
        member.streams[0].standardise.fit(torch.randn(LAYERS, DIM), torch.rand(LAYERS, DIM) + 0.5)
    done = [(array - mean[:, None]) / sd[:, None] for array, (mean, sd) in zip(arrays, scaling, strict=True)]
    with torch.no_grad():
        torch.testing.assert_close(
            head(streams_of(arrays, other, scaling)), head(streams_of(done, other)), atol=1e-5, rtol=1e-4
        )


def test_layer_weights_are_told_per_stream():
    head = create_head(HeadConfig(mix="absolute", members=2), [(3, DIM), (1, 2)], CLASSES)
    for member, k in zip(head.heads, ([1.0, -1.0, 2.0], [0.0, 4.0, 4.0]), strict=True):
        member.streams[0].mix.k.data = torch.tensor(k)
    assert layer_weights(head) == [pytest.approx([0.125, 0.375, 0.5]), []]


def test_glorot_is_that_of_keras():
    torch.manual_seed(0)
    config = HeadConfig(frame_hidden=(128, 128), lstm=64, init="glorot", pooling="mean")
    (member,) = create_head(config, [(1, 768)], 4).heads
    for weight, sizes in ((member.streams[0].linear.weight, 768 + 128), (member.lstm.weight_ih_l0, 128 + 4 * 64)):
        bound = (6 / sizes) ** 0.5
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound
    assert not member.streams[0].linear.bias.any() and not member.decide[-1].bias.any()
    square = member.lstm.weight_hh_l0.T @ member.lstm.weight_hh_l0
    torch.testing.assert_close(square, torch.eye(64), atol=1e-5, rtol=0)
    bias = (member.lstm.bias_ih_l0 + member.lstm.bias_hh_l0).unflatten(0, (4, 64))  # input, forget, cell, output
    assert bias.mean(1).tolist() == [0, 1, 0, 0]


def test_a_frames_head_does_not_concatenate():
    with pytest.raises(ValueError, match="softmax, absolute or sum, not concat"):
        create_head(HeadConfig(kind="frames", mix="concat"), [(LAYERS, DIM)], CLASSES)
    with pytest.raises(ValidationError):
        HeadConfig(droput=0.1)


# The same batch by two ways: from an encoder's output, and from the cache


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 11), min_size=1, max_size=4),
    stride=st.integers(1, 4),
    name=st.sampled_from(list(TABLE)),
)
def test_encoder_output_and_cache_give_the_same_scores(lengths, stride, name, tmp_path_factory):
    config, chosen = TABLE[name], (0, 2, 3)
    stride = stride if config.kind == "frames" else 1
    arrays = [
        torch.randn(5, size, DIM, generator=torch.Generator().manual_seed(size)).half().float() for size in lengths
    ]
    cache = FeatureCache(tmp_path_factory.mktemp("cache"), "print", 5, DIM)
    layers = torch.zeros(len(lengths), 5, max(lengths) + 2, DIM)
    for row, array in enumerate(arrays):
        cache.add(str(row), array.numpy())
        layers[row, :, : array.shape[1]] = array
    ids, targets = [str(row) for row in range(len(lengths))], torch.zeros(len(lengths), dtype=torch.long)
    stream = load_stream(cache, [ids], chosen, stride, config.kind == "frames")
    loaded = FeatureSet(tuple(ids), (stream,), targets, torch.ones(len(ids))).batch(range(len(ids)))
    direct = Batch.of_frames(FrameFeatures(layers, torch.tensor(lengths), 50.0), chosen, stride)
    torch.testing.assert_close(direct.streams[0].statistics, loaded.streams[0].statistics, atol=2e-3, rtol=0)
    head = built(config)
    with torch.no_grad():
        torch.testing.assert_close(head(direct), head(loaded), atol=5e-2, rtol=1e-2)


def test_a_window_over_everything_is_the_whole_utterance():
    lengths = torch.tensor([7, 4])
    layers = torch.zeros(2, 5, 9, DIM)
    for row, length in enumerate(lengths.tolist()):
        layers[row, :, :length] = torch.randn(5, length, DIM, generator=torch.Generator().manual_seed(row))
    features = FrameFeatures(layers, lengths, 50.0)
    for config in TABLE.values():
        head = built(config)
        with torch.no_grad():
            whole = head(Batch.of_frames(features, (0, 2, 3), 2))
            around = head(Batch.of_frames(features, (0, 2, 3), 2, radius=20)).unflatten(0, (2, 5))
        for row, frames in enumerate((4, 2)):
            torch.testing.assert_close(around[row, :frames], whole[row].expand(frames, -1), atol=2e-3, rtol=1e-3)
