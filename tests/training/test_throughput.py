"""What makes fine-tuning fast changes nothing that is learned: the encoder is cut above the layers that heads see."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from serkit.encoders.transformers import TransformersEncoder
from serkit.encoders.wav2vec2 import Wav2Vec2Encoder
from serkit.models.model import Model, Waveforms
from serkit.training.batching import BatchOptions, plan_epoch
from serkit.training.recipe import EncoderSection
from serkit.training.recordings import Recordings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random wav2vec 2.0 of four blocks."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return folder


def cut(name, checkpoint, layers, options=None):
    section = EncoderSection(name=name, layers=layers, options={"weights": str(checkpoint), **(options or {})})
    material = Recordings(SimpleNamespace(encoder=section), None, None)
    return material._encoder(), *material._encoder_for_heads()


@pytest.mark.parametrize(
    ("layers", "options", "blocks"),
    [([2], {}, 2), ([1, 0], {}, 1), ([-1], {}, 4), ([-2], {"layers": ["input", 3, 1]}, 3), ([0, 0], {}, 0)],
)
def test_heads_see_the_same_with_fewer_blocks(checkpoint, layers, options, blocks):
    whole, fewer, places = cut("wav2vec2", checkpoint, layers, options)
    assert isinstance(fewer, Wav2Vec2Encoder)
    assert (len(fewer.encoder.layers) if fewer.encoder else 0) == blocks
    audio = Waveforms.pad([torch.randn(9000), torch.randn(16_000)])
    chosen = EncoderSection(layers=layers).chosen(whole.num_layers)
    views = [Model(whole.train(), [], chosen).view(audio), Model(fewer.train(), [], places).view(audio)]
    torch.testing.assert_close(views[0].frames, views[1].frames)
    torch.testing.assert_close(views[0].batch.streams[0].arrays[0], views[1].batch.streams[0].arrays[0])
    for view in views:
        view.frames.square().sum().backward()
    learned = dict(whole.named_parameters())
    for name, weight in fewer.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, learned[name].grad)


def test_all_layers_keep_the_encoder_as_it_is(checkpoint):
    whole, same, places = cut("wav2vec2", checkpoint, "all")
    assert places == tuple(range(5))
    assert same.fingerprint() == whole.fingerprint()


def test_the_adapter_keeps_fewer_layers(checkpoint):
    _, fewer, places = cut("transformers", checkpoint, [-1])
    assert isinstance(fewer, TransformersEncoder)
    assert (fewer.kept, fewer.num_layers, places) == ((4,), 1, (0,))


def test_an_encoder_that_cannot_be_cut_stays_whole():
    section = EncoderSection(name="whisper", layers=[1])
    encoder, places = Recordings(SimpleNamespace(encoder=section), None, None)._encoder_for_heads()
    assert encoder.num_layers > 1
    assert places == (1,)


def test_steps_of_conversational_lengths_hold_next_to_no_padding():
    seconds = np.random.default_rng(0).lognormal(1.3, 0.64, 2000).clip(0.6, 34).tolist()
    steps = plan_epoch(seconds, 8, BatchOptions(), np.random.default_rng(0))
    padded = sum(max(seconds[row] for row in piece) * len(piece) for step in steps for piece in step)
    assert padded < 1.03 * sum(seconds)
    assert sum(map(len, steps)) < 2000  # yet some utterances share a micro-batch
