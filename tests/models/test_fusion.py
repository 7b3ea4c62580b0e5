from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_reference import compute
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from serkit.data.words import Vocabulary
from serkit.models import fusion
from serkit.models.attention import Attention, Norm, Track
from serkit.models.fusion import FUSIONS, Fusion, FusionConfig, create_fusion, restore_fusion
from serkit.models.heads import Batch, Stream
from serkit.models.layers import Segments

WORDS = Vocabulary(("<pad>", "<unk>", "oh", "no", "yes", "good", "bad"))
SMALL = {"hidden": 8, "feedforward": 12, "attention_heads": 2}


def make(kind="mat", dim=5, layers=1, classes=3, max_words=6, max_frames=7, **options):
    """A head with weights that no generator decides, in float64."""
    config = FusionConfig(kind=kind, **{**SMALL, **options})
    shapes = [(layers, dim)] if config.hears else []
    head = create_fusion(config, shapes, classes, WORDS, 4, max_words, max_frames).heads[0].double().eval()
    with torch.no_grad():
        for place, weight in enumerate(head.parameters()):
            steps = torch.arange(weight.numel(), dtype=torch.float64)
            wave = 0.4 * torch.sin(1.7 * steps + place).view_as(weight)
            weight.copy_(1 + wave if weight.ndim == 1 and (weight == 1).all() else wave)
    return head


def batch_of(head, said, frames):
    """A packed batch of words and of frames ``(T, D)``."""
    words = head.encode_words(said) if said is not None else None
    if frames is None:
        return Batch((), words=words)
    lengths = torch.tensor([len(each) for each in frames])
    packed = torch.cat([torch.as_tensor(each, dtype=torch.float64) for each in frames])
    array = packed[None] if packed.ndim == 2 else packed.transpose(0, 1)
    statistics = torch.zeros(len(lengths), 2, array.shape[0], array.shape[2], dtype=torch.float64)
    return Batch((Stream(statistics, [array]),), Segments.packed(lengths), words)


def frames_of(*lengths, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, dim)) for length in lengths]


SAID = [["oh", "no"], ["yes", "good", "bad", "oh", "what"], ["bad"]]


@pytest.mark.parametrize(("kind", "count"), [("mat", 15_507_462), ("mnt", 14_977_030)])
def test_published_sizes_have_the_published_number_of_parameters(kind, count):
    head = create_fusion(FusionConfig(kind=kind), [(1, 80)], 4, WORDS, 300, 15, 40).heads[0]
    assert sum(weight.numel() for name, weight in head.named_parameters() if not name.startswith("embedding")) == count


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("reference", [False, True])
def test_equals_an_independent_computation(kind, reference):
    head = make(kind, reference=reference, layers=1)
    frames = frames_of(3, 7, 1)
    frames[1][2] = 0  # a frame of zeros is not heard in the reference mode
    weights = {name: weight.detach().numpy() for name, weight in head.state_dict().items()}
    padded = np.zeros((3, 7, 5))
    for row, each in zip(padded, frames, strict=True):
        row[: len(each)] = each
    ours = head(batch_of(head, SAID, frames)).detach().numpy()
    theirs = compute(kind, weights, 2, head.config.layers, head.encode_words(SAID).numpy(), padded)
    same = slice(None) if reference else [0, 2]
    np.testing.assert_allclose(ours[same], theirs[same], atol=1e-12)
    if not reference:  # ours hears it
        assert np.abs(ours[1] - theirs[1]).max() > 1e-6


@pytest.mark.parametrize("kind", FUSIONS)
def test_reference_mode_keeps_what_full_padding_does(kind):
    """Without words, or in silence, all slots weigh the same: the answer depends on how long the padding is."""
    head = make(kind, reference=True)
    weights = {name: weight.detach().numpy() for name, weight in head.state_dict().items()}
    silent = [np.zeros((2, 5)), *frames_of(2)]
    ours = head(batch_of(head, [["oh"], []], silent)).detach().numpy()
    padded = np.zeros((2, 7, 5))
    padded[1, :2] = silent[1]
    theirs = compute(kind, weights, 2, 2, head.encode_words([["oh"], []]).numpy(), padded)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


# Of fusion_reference, recorded once: the two may not change together either.
GOLDEN = {
    "mat": [[-0.051510535893, -0.13761185363, 0.252923248532], [-0.053956217828, -0.12512330662, 0.243471889793]],
    "mnt": [[0.743570255205, 0.362006991491, -0.086366898271], [0.750359579252, 0.372333542351, -0.082587947711]],
}


@pytest.mark.parametrize("kind", FUSIONS)
def test_golden_values(kind):
    head = make(kind)
    steps = np.arange(20).reshape(4, 5)
    logits = head(batch_of(head, [["oh", "no", "what"], ["good"]], [np.cos(steps), np.sin(steps[:2])]))
    np.testing.assert_allclose(logits.detach().numpy(), GOLDEN[kind], atol=1e-10)


@pytest.mark.parametrize("kind", FUSIONS)
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 10)), min_size=2, max_size=5),
    seed=st.integers(0, 99),
)
def test_neighbours_and_padding_change_nothing(kind, lengths, seed):
    head = make(kind)
    rng = np.random.default_rng(seed)
    said = [list(rng.choice(WORDS.words[2:], count)) for count, _ in lengths]
    frames = frames_of(*(count for _, count in lengths), seed=seed)
    together = head(batch_of(head, said, frames))
    for place in range(len(lengths)):
        alone = head(batch_of(head, said[place : place + 1], frames[place : place + 1]))
        torch.testing.assert_close(together[place : place + 1], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", FUSIONS)
def test_padded_and_packed_batches_agree(kind):
    """An exported graph has padded sequences whose padding may hold anything."""
    head, frames = make(kind), frames_of(3, 7, 1)
    packed = batch_of(head, SAID, frames)
    lengths = torch.tensor([3, 7, 1])
    rows = torch.full((3, 9, 5), 3.0, dtype=torch.float64)
    for row, each in zip(rows, frames, strict=True):
        row[: len(each)] = torch.from_numpy(each)
    stream = replace(packed.streams[0], arrays=[rows.flatten(0, 1)[None]])
    padded = Batch((stream,), Segments.padded(lengths, 9), packed.words)
    torch.testing.assert_close(head(padded), head(packed), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", FUSIONS)
def test_words_and_frames_past_the_limits_are_not_seen(kind):
    head, frames = make(kind, max_words=2, max_frames=3), frames_of(5)
    cut = head(batch_of(head, [["oh", "no"]], [frames[0][:3]]))
    torch.testing.assert_close(head(batch_of(head, [["oh", "no", "good"]], frames)), cut)


@pytest.mark.parametrize("kind", FUSIONS)
def test_order_of_words_and_of_frames_matters(kind):
    head, frames = make(kind), frames_of(4)
    base = head(batch_of(head, [["oh", "no", "yes"]], frames))
    for said, heard in ((["no", "oh", "yes"], frames), (["oh", "no", "yes"], [frames[0][::-1].copy()])):
        assert (head(batch_of(head, [said], heard)) - base).abs().max() > 1e-3


@pytest.mark.parametrize("kind", FUSIONS)
def test_one_modality_has_no_part_of_the_other(kind):
    text, audio = make(kind, modalities=["text"]), make(kind, modalities=["audio"])
    assert not [name for name, _ in text.named_parameters() if "audio" in name]
    assert not [name for name, _ in audio.named_parameters() if "word" in name or "embedding" in name]
    assert text(batch_of(text, SAID, None)).shape == (3, 3)
    assert audio(batch_of(audio, None, frames_of(2, 4))).shape == (2, 3)


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("modalities", [["text"], ["audio"], ["text", "audio"]])
def test_every_parameter_gets_a_gradient(kind, modalities):
    head = make(kind, modalities=modalities, layers=2)
    said = SAID[:2] if "text" in modalities else None
    frames = [np.stack([each, 2 * each], 1) for each in frames_of(3, 5)] if "audio" in modalities else None
    head(batch_of(head, said, frames)).square().sum().backward()
    without = [name for name, weight in head.named_parameters() if weight.grad is None]
    assert not without
    still = [name for name, weight in head.named_parameters() if not weight.grad.abs().sum() > 0]
    # A softmax does not see what is added to every score.
    assert all("key.bias" in name or name.endswith("score.3.bias") for name in still), still


def test_modulation_is_never_negative():
    """MNT's offsets go through a ReLU: turned off, its norms are plain ones."""
    head = make("mnt")
    with torch.no_grad():
        head.fusion.modulate.bias.fill_(-100.0)
        head.fusion.modulate.weight.zero_()
    frames = frames_of(4)
    base = head.fusion(*tracks(head, SAID[:1], frames))
    head.fusion._offsets = lambda vector: [None, None]
    torch.testing.assert_close(head.fusion(*tracks(head, SAID[:1], frames)), base)


def tracks(head, said, frames):
    batch = batch_of(head, said, frames)
    return head._read(batch.words), head._hear(batch)


def test_norm_is_not_layer_norm():
    x = torch.randn(4, 6, dtype=torch.float64)
    expected = (x - x.mean(1, keepdim=True)) / (x.std(1, correction=1, keepdim=True) + 1e-6)
    torch.testing.assert_close(Norm(6).double()(x), expected)
    assert not torch.allclose(expected, nn.functional.layer_norm(x, (6,)), atol=1e-3)


def test_attention_equals_pytorch():
    ours = Attention(8, 2, 0.0).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in (ours.query, ours.key, ours.value)]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in (ours.query, ours.key, ours.value)]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    lengths = torch.tensor([3, 5])
    seen = torch.arange(5)[None] < lengths[:, None]
    rows = torch.randn(2, 5, 8, dtype=torch.float64)
    track = Track(rows[seen], Segments.packed(lengths), seen)
    expected, _ = theirs(rows, rows, rows, key_padding_mask=~seen)
    torch.testing.assert_close(ours(track, track), expected[seen])


def test_a_state_alone_makes_the_head_again():
    head = create_fusion(FusionConfig(**SMALL), [(2, 5)], 3, WORDS, np.ones((7, 4), np.float32), 6, 7)
    again = restore_fusion(FusionConfig(**SMALL), [(2, 5)], 3, head.state_dict(), 6, 7)
    assert again.heads[0].vocabulary == WORDS
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in head.state_dict().items())


def test_vectors_begin_the_embedding_and_are_learned():
    vectors = np.arange(28, dtype=np.float32).reshape(7, 4)
    head = create_fusion(FusionConfig(**SMALL), [(1, 5)], 3, WORDS, vectors, 6, 7).heads[0]
    np.testing.assert_array_equal(head.embedding.weight.detach().numpy(), vectors)
    assert head.embedding.weight.requires_grad and head.embedding.padding_idx is None
    vectors[:] = 0  # the embedding has its own memory
    assert head.embedding.weight.abs().sum() > 0


def test_another_fusion_is_another_class(monkeypatch):
    class Sum(Fusion):
        def width_of(self, config):
            return config.hidden

        def forward(self, words, audio):
            return self.read(words)[1] + self.reduce_audio(audio)

    monkeypatch.setitem(fusion.FUSIONS, "sum", Sum)
    head = make("sum")
    assert head(batch_of(head, SAID, frames_of(3, 2, 1))).shape == (3, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mta"}, "did you mean"),
        ({"hidden": 10}, "multiple"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["text", "text"]}, "modalities"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValidationError, match=message):
        FusionConfig(**options)
