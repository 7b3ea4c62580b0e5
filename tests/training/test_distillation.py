"""The task of emotion2vec's pretraining: the values of fairseq's implementation, and what must not change them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from emotion2vec_weights import read_shapes, seeded, seeded_state, weight_of
from hypothesis import given
from hypothesis import strategies as st

from serkit.encoders.emotion2vec import TINY
from serkit.encoders.emotion2vec.state import convert_state, read_model_conf
from serkit.encoders.regularise import Regularisation
from serkit.training.pretraining.distillation import Distillation
from serkit.training.pretraining.masks import block_masks, span_masks
from serkit.training.pretraining.options import DistillationOptions

SMALL = {"decoder_dim": 32, "decoder_groups": 8, "decoder_dropout": 0.0, "mask_noise": 0.0}
QUIET = {**SMALL, "regularise": Regularisation()}
"""Options under which nothing is random but the masks."""


def load(distillation, state):
    """Put the tensors of a published checkpoint into student and decoder."""
    ours = convert_state(state)
    student, decoder = distillation.student, distillation.decoder
    student.load_state_dict({key: ours[key] for key in student.state_dict()})
    decoder.load_state_dict({key: ours[f"decoder.{key}"] for key in decoder.state_dict()})
    distillation.reset_teacher()
    return distillation.eval()


@pytest.fixture(scope="module")
def golden(reference_file):
    return dict(np.load(reference_file("emotion2vec/golden_tiny_pretrain.npz")))


@pytest.fixture
def distillation(reference_file):
    """The model of the reference values; the teacher differs from the student by noise."""
    conf = json.loads(reference_file("emotion2vec/tiny_pretrain_model_conf.json").read_text())
    made = Distillation(
        read_model_conf(conf),
        DistillationOptions(
            **QUIET, clones=2, top_layers=3, utterance="token", utterance_scale="sum",
            ema_start=0.9, ema_end=0.99, ema_anneal_steps=10,
        ),
    )  # fmt: skip
    names = reference_file("emotion2vec/tiny_pretrain_state_dict_keys.txt")
    shapes = read_shapes(names)
    load(made, {key: weight_of(key, shape) for key, shape in shapes.items()})
    noise = {key: torch.tensor(0.01 * seeded(f"T:{key}", shape), dtype=torch.float32) for key, shape in shapes.items()}
    theirs = convert_state({key: weight_of(key, shape) + noise[key] for key, shape in shapes.items()})
    made.teacher.load_state_dict({key: theirs[key] for key in made.teacher.state_dict()})
    return made


def masks_of(golden):
    return list(torch.from_numpy(golden["mask"]).unflatten(0, (2, 2)))


def test_targets_and_losses_equal_fairseq(distillation, golden):
    source, lengths = torch.from_numpy(golden["source"]), torch.tensor([8000, 8000])
    student = distillation.student
    local = student.project(student.front_end(source, lengths))
    targets, means = distillation.targets(local, student.frame_lengths(lengths))
    assert means.abs().max() < 1e-6, "normalised over time, so there is no mean left"
    assert np.abs(targets.numpy() - golden["targets"]).max() < 1e-4
    losses = distillation(source, lengths, masks_of(golden))
    assert losses.count == golden["sample_size"] == 40
    assert losses.frame.item() == pytest.approx(golden["loss_regression_elementwise"].sum(), rel=1e-6)
    assert losses.utterance.item() == pytest.approx(golden["loss_cls_elementwise"].sum(), rel=1e-6)
    assert (losses.frame + losses.utterance).item() == pytest.approx(golden["loss_total_sum"], rel=1e-6)
    assert losses.facts["target_variance"].item() == pytest.approx(golden["target_var"], rel=1e-5)
    assert losses.facts["prediction_variance"].item() == pytest.approx(golden["pred_var"], rel=1e-5)


def test_gradients_equal_fairseq(distillation, golden, reference_file):
    source, lengths = torch.from_numpy(golden["source"]), torch.tensor([8000, 8000])
    losses = distillation(source, lengths, masks_of(golden))
    (losses.frame + losses.utterance).backward()
    ours = {name: weight.grad for name, weight in distillation.student.named_parameters()}
    ours |= {f"decoder.{name}": weight.grad for name, weight in distillation.decoder.named_parameters()}
    assert all(grad is not None for grad in ours.values())
    shapes = read_shapes(reference_file("emotion2vec/tiny_pretrain_state_dict_keys.txt"))
    keys = golden["grad_norm_keys"].tolist()
    marked = convert_state({key: torch.full(shapes[key], float(number)) for number, key in enumerate(keys)})
    assert set(marked) == set(ours)
    squares = np.zeros(len(keys))
    for name, mark in marked.items():
        squares[int(mark.flatten()[0])] += float(ours[name].square().sum())
    np.testing.assert_allclose(np.sqrt(squares), golden["grad_norms"], rtol=1e-3, atol=1e-4)


def test_the_teacher_follows_as_in_fairseq(distillation, golden):
    with torch.no_grad():
        for weight in distillation.student.parameters():
            weight += 0.001
    before = {name: value.clone() for name, value in distillation.teacher.state_dict().items()}
    assert distillation.update_teacher(1) == pytest.approx(0.909)
    assert all(torch.equal(before[name], value) for name, value in distillation.teacher.state_dict().items())
    assert distillation.update_teacher(2) == pytest.approx(float(golden["ema_decay_step2"]))
    attention = distillation.teacher.encoder.layers[2].attention  # of the first block after a prenet of two
    found = torch.cat([getattr(attention, f"{part}_proj").weight for part in "qkv"])
    np.testing.assert_allclose(found.numpy(), golden["ema_after_blocks.0.attn.qkv.weight"], atol=1e-6)


def test_the_decay_is_annealed_as_in_fairseq(golden):
    made = create()
    found = [made.decay(int(step)) for step in golden["anneal_steps"]]
    np.testing.assert_allclose(found, golden["anneal_vals"], rtol=1e-9)


@torch.no_grad()
def test_the_student_and_the_decoder_equal_funasr(reference_file):
    golden = np.load(reference_file("emotion2vec/golden_tiny.npz"))
    conf = json.loads(reference_file("emotion2vec/tiny_model_conf.json").read_text())
    made = Distillation(read_model_conf(conf), DistillationOptions(**QUIET, clones=1, top_layers=2))
    load(made, seeded_state(reference_file("emotion2vec/tiny_state_dict_keys.txt")))
    wav, lengths = torch.from_numpy(golden["wav"])[None], torch.tensor([8000])
    local = made.student.project(made.student.front_end(wav, lengths))
    hidden, real = torch.from_numpy(golden["mask"])[None], torch.ones(1, 24, dtype=torch.bool)
    tokens, kept, places, seen = made.see(local, hidden, real)
    assert seen.all() and places[0].tolist() == sorted(golden["ids_keep"].tolist())
    np.testing.assert_allclose(kept[0], golden["masked_student_x_time_order"], atol=1e-4)
    order = np.argsort(golden["ids_keep"])
    np.testing.assert_allclose(kept[0], golden["masked_student_x"][order], atol=1e-4)
    np.testing.assert_allclose(tokens[0], golden["masked_student_x_with_extra"][:3], atol=1e-4)
    whole = made.fill_in(kept, places, seen, 24)
    np.testing.assert_allclose(whole[0], golden["decoder_input"], atol=1e-4)
    np.testing.assert_allclose(made.decoder(whole, real)[0], golden["decoder_out"], atol=1e-4)


def create(**options):
    torch.manual_seed(3)
    chosen = {**QUIET, "decoder_groups": 4, "clones": 3, "top_layers": 1, **options}
    return Distillation(TINY, DistillationOptions(**chosen)).eval()


@pytest.mark.parametrize("utterance", ["chunk", "token", "global"])
@pytest.mark.parametrize("generator", ["block", "span"])
def test_padding_and_neighbours_change_no_loss(utterance, generator):
    made = create(utterance=utterance, mask_generator=generator)
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.05 * torch.randn(weight.shape)
    lengths, rng = torch.tensor([16_000, 9_000, 5_500]), np.random.default_rng(0)
    waves = torch.randn(3, 18_000, generator=torch.Generator().manual_seed(1))
    masks = made.draw_masks(lengths, rng)
    with torch.no_grad():
        together = made(waves, lengths, masks)
        alone = [made(waves[[row], : lengths[row]], lengths[[row]], [masks[row]]) for row in range(3)]
    assert together.count == sum(each.count for each in alone)
    assert together.frame.item() == pytest.approx(sum(each.frame.item() for each in alone), rel=1e-5)
    means = [each.utterance.item() / each.count for each in alone]  # over the clones of a clip
    assert together.utterance.item() / together.count == pytest.approx(np.mean(means), rel=1e-5)


@torch.no_grad()
def test_the_target_of_the_utterance_may_be_taken_before_it_is_normalised():
    made, local = create(utterance_target="layer", top_layers=2), torch.randn(2, 20, 36)
    _, means = made.targets(local, torch.tensor([20, 12]))
    results = []
    for block in made.teacher.encoder.layers:
        block.feed_forward.register_forward_hook(lambda *call: results.append(call[2][0, 3:].mean(0)))
    made.teacher.run_blocks(
        made.teacher.prefix(made.teacher.position(local[1:, :12], None)), None, made.teacher.position_bias(12)
    )
    expected = sum(torch.nn.functional.layer_norm(each, (36,)) for each in results) / 2
    torch.testing.assert_close(means[1], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_utterance_weighs_as_told():
    lengths, waves = torch.tensor([9000, 9000]), torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    found = []
    for chosen in ({}, {"utterance_weight": 0.5}, {"utterance_scale": "sum"}):
        made = create(**chosen)
        losses = made(waves, lengths, made.draw_masks(lengths, np.random.default_rng(0)))
        found.append(losses.utterance.item() / losses.count)
    assert found[1:] == pytest.approx([0.5 * found[0], 6 * found[0]], rel=1e-6)


def test_what_is_hidden_is_not_seen():
    made = create()
    local = torch.randn(1, 20, 36)
    hidden, real = torch.zeros(1, 20, dtype=torch.bool), torch.ones(1, 20, dtype=torch.bool)
    hidden[0, 4:9] = True
    changed = local.clone()
    changed[0, 4:9] += 3
    with torch.no_grad():
        first, second = made.see(local, hidden, real), made.see(changed, hidden, real)
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        changed[0, 10] += 3
        assert not torch.allclose(first[0], made.see(changed, hidden, real)[0])


def test_every_weight_learns_and_the_teacher_does_not():
    made = create(regularise=Regularisation(dropout=0.1)).train()
    lengths, waves = torch.tensor([9000]), torch.randn(1, 9000)
    losses = made(waves, lengths, made.draw_masks(lengths, np.random.default_rng(0)))
    (losses.frame + losses.utterance).backward()
    for name, weight in made.named_parameters():
        learns = not name.startswith("teacher.")
        assert (weight.grad is not None) is learns and weight.requires_grad is learns, name
    assert not made.teacher.training and made.student.training


def test_the_teacher_hears_through_the_students_front_end():
    made = create()
    with torch.no_grad():
        made.teacher.utterance_tokens += 1
        made.student.feature_projection.projection.weight += 1
    found = made.teacher_encoder().state_dict()
    assert torch.equal(found["utterance_tokens"], made.student.utterance_tokens + 1)
    assert torch.equal(found["feature_projection.projection.weight"], made.student.feature_projection.projection.weight)
    assert not found["utterance_tokens"].requires_grad


def test_an_update_after_the_annealing_keeps_the_last_decay():
    made = create(ema_anneal_steps=5)
    assert made.decay(5) == made.decay(500) == 0.99999


@given(st.integers(3, 400), st.integers(1, 4), st.floats(0.1, 0.9), st.integers(1, 12), st.integers(0, 99))
def test_block_masks_hide_exactly_the_share(frames, count, probability, length, seed):
    masks = block_masks(frames, count, probability, length, 0.05, np.random.default_rng(seed))
    assert masks.shape == (count, frames) and masks.dtype == bool
    assert (masks.sum(1) == int(frames * probability)).all()
    again = block_masks(frames, count, probability, length, 0.05, np.random.default_rng(seed))
    assert (masks == again).all()


@given(st.integers(2, 400), st.integers(1, 4), st.floats(0.1, 0.9), st.integers(1, 12), st.integers(0, 99))
def test_span_masks_hide_equally_many(frames, count, probability, length, seed):
    masks = span_masks(frames, count, probability, length, np.random.default_rng(seed))
    assert masks.shape == (count, frames)
    assert len(set(masks.sum(1).tolist())) == 1 and masks.sum(1)[0] <= probability * frames + length


def test_spans_are_spans_and_hide_about_what_was_measured():
    rng = np.random.default_rng(0)
    masks = block_masks(1000, 50, 0.5, 5, 0.05, rng)
    runs = np.diff(np.flatnonzero(np.diff(masks[0].astype(int)))).mean()
    assert runs > 3, "frames drawn one by one would give runs of 2"
    shares = [span_masks(500, 4, 0.5, 5, rng).mean() for _ in range(20)]
    assert 0.34 < np.mean(shares) < 0.40
