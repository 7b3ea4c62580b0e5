"""The wav2vec 2.0 family: equal to the reference, deaf to padding, computing no more than is asked for."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from serkit.encoders import create_encoder
from serkit.encoders.wav2vec2 import choose_layers
from serkit.errors import InputError

torch.set_num_threads(1)

VARIANTS = [
    "wav2vec2 group post", "wav2vec2 group pre", "wav2vec2 layer post", "wav2vec2 layer pre", "wav2vec2 odd positions",
    "hubert group post", "hubert layer pre", "hubert without projection norm", "data2vec", "wavlm group post",
    "wavlm layer pre",
]  # fmt: skip
every_variant = pytest.mark.parametrize("variant", VARIANTS)
ALL = ["input", 0, 1, 2, 3]


def noise(samples, seed=0, level=0.1):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * level


@torch.no_grad()
def alone(encoder, clip):
    return encoder(clip[None], torch.tensor([len(clip)])).layers[0]


@pytest.fixture
def load(reference_model, tmp_path):
    """``load(variant, **options)``: a random reference model and our encoder of its files."""

    def make(variant, seed=0, **options):
        model = reference_model(variant, seed=seed)
        folder = tmp_path / variant.replace(" ", "-")
        model.save_pretrained(folder)
        family = "wavlm" if variant.startswith("wavlm") else "wav2vec2"
        return model, create_encoder(family, weights=str(folder), **{"normalise": False, **options})

    return make


@every_variant
def test_every_layer_equals_the_reference(variant, load, reference_layers):
    model, encoder = load(variant, layers=ALL)
    clip = noise(9000, 1)
    projected, states, last = reference_layers(model, clip[None])
    layers = alone(encoder, clip)
    assert len(states) == 4 and layers.shape == (5, 27, 32)
    # Since version 5 the reference's last hidden state of a pre-norm model lacks the final normalisation; ours has it.
    for name, ours, theirs in zip(ALL, layers, [states[0], projected, *states[1:-1], last], strict=True):
        assert (ours - theirs[0]).abs().max() < 1e-5, name
        assert theirs.std() > 0.05, name
    assert encoder.config.pre_norm or torch.equal(states[-1], last)
    differences = [(a - b).abs().max() for a, b in itertools.pairwise(layers)]
    assert min(differences) > 1e-2  # no two layers are the same


@every_variant
def test_frame_lengths_are_those_of_the_reference(variant, load):
    model, encoder = load(variant)
    lengths = torch.cat([torch.arange(400, 3000, 7), torch.tensor([16_000, 160_000])])
    assert torch.equal(encoder.frame_lengths(lengths), model._get_feat_extract_output_lengths(lengths))
    assert (encoder.hop, encoder.min_samples, encoder.max_samples) == (320, 400, None)
    assert encoder.frame_lengths(torch.tensor([399, 400])).tolist() == [0, 1]


@every_variant
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_padding_changes_nothing(variant, normalise, packed, load):
    _, encoder = load(variant, layers=ALL, normalise=normalise)
    clips = [
        noise(samples, samples, level) for samples, level in ((401, 0.5), (16_000, 0.01), (7_777, 0.2), (8_100, 1))
    ]
    waveforms = torch.full((len(clips), 20_000), torch.nan)
    waveforms[1, 16_000:] = 50.0
    for row, clip in zip(waveforms, clips, strict=True):
        row[: len(clip)] = clip
    encoder.packed = packed
    with torch.no_grad():
        batch = encoder(waveforms, torch.tensor([len(clip) for clip in clips]))
    encoder.packed = False
    for row, clip in enumerate(clips):
        single, frames = alone(encoder, clip), int(batch.lengths[row])
        torch.testing.assert_close(batch.layers[row, :, :frames], single, atol=1e-5, rtol=0)
        assert not batch.layers[row, :, frames:].any()


@every_variant
def test_packed_and_padded_gradients_agree(variant, load):
    _, encoder = load(variant, layers=ALL)
    waveforms, lengths = torch.stack([noise(6000, 1), noise(6000, 2)]), torch.tensor([6000, 4111])
    factors = torch.randn(2, 5, 18, 32, generator=torch.Generator().manual_seed(3))
    gradients = []
    for encoder.packed in (False, True):
        encoder.zero_grad()
        (encoder(waveforms, lengths).layers * factors).sum().backward()
        gradients.append({key: weight.grad for key, weight in encoder.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient.any(), key
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-3, rtol=1e-3, msg=key)


def test_half_precision_stays_near(load):
    _, encoder = load("wav2vec2 group post")
    waveforms, lengths = torch.stack([noise(8000, 1), noise(8000, 2)]), torch.tensor([8000, 5000])
    with torch.no_grad():
        exact = encoder(waveforms, lengths).layers
        for encoder.packed in (False, True):
            with torch.autocast("cpu", torch.bfloat16):
                rough = encoder(waveforms, lengths).layers
            assert rough.dtype == torch.float32
            assert 1e-4 < (rough - exact).abs().max() < 0.15


@pytest.mark.parametrize("variant", ["wav2vec2 group post", "wav2vec2 layer pre", "data2vec", "wavlm layer pre"])
@pytest.mark.parametrize(
    ("layers", "blocks"), [([0], None), (["input"], 0), ([1], 1), ([2, 0, "input"], 2), ([3, 1], 3), ((1, 2), 2)]
)
def test_nothing_above_the_highest_layer_is_computed(variant, layers, blocks, load):
    _, whole = load(variant, layers=ALL)
    _, encoder = load(variant, layers=layers)
    calls = []
    for name, module in encoder.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    clip = noise(5000)
    expected = alone(whole, clip)[[ALL.index(layer) for layer in layers]]
    torch.testing.assert_close(alone(encoder, clip), expected, atol=0, rtol=0)
    run = [name for name in calls if name.count(".") == 2 and name.startswith("encoder.layers.")]
    assert run == [f"encoder.layers.{number}" for number in range(blocks or 0)]
    assert any("pos_conv" in name for name in calls) == (blocks is not None)
    held = {key.split(".")[2] for key in encoder.state_dict() if key.startswith("encoder.layers.")}
    assert held == {str(number) for number in range(blocks or 0)}
    assert encoder.num_layers == len(layers)
    assert encoder.fingerprint() != whole.fingerprint()


@pytest.mark.parametrize("layers", [[4], [-1], [], ["first"], [1, 1], [True]])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(InputError, match='give different ones out of 0 to 3 and "input"'):
        choose_layers(layers, 3)
    assert choose_layers(None, 3) == (0, 1, 2, 3)


@pytest.mark.parametrize("variant", ["wav2vec2 group post", "wav2vec2 layer pre", "data2vec", "wavlm group post"])
def test_normalisation_follows_the_checkpoint(variant, load, tmp_path):
    make = lambda **options: load(variant, **options)[1]  # noqa: E731
    assert make(normalise=None).config.normalise == (variant in ("wav2vec2 layer pre", "data2vec"))
    file = tmp_path / variant.replace(" ", "-") / "preprocessor_config.json"
    for said in (True, False):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"do_normalize": said, "sampling_rate": 16_000}))
        assert make(normalise=None).config.normalise == said
        assert make(normalise=not said).config.normalise != said
    assert make(normalise=True).fingerprint() != make(normalise=False).fingerprint()


@pytest.mark.parametrize("level", [1e-4, 0.01, 1.0])
def test_normalisation_equals_the_reference(level, load, reference_layers):
    transformers = pytest.importorskip("transformers")
    model, encoder = load("wav2vec2 layer post", normalise=True)
    clip = noise(8000, 4, level) + 0.3 * level
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    values = extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    _, states, _ = reference_layers(model, values)
    assert (alone(encoder, clip)[1:] - torch.cat(states[1:])).abs().max() < 1e-5


class Layers(torch.nn.Module):
    """What an export of serkit contains of an encoder: fixed shape, lengths as an input, no Python branches."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms, lengths):
        features = self.encoder(waveforms, lengths)
        return features.layers, features.lengths


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "variant",
    [
        "wav2vec2 group post",
        "wavlm layer pre",
        *(pytest.param(name, marks=slow) for name in ("wav2vec2 layer pre", "data2vec")),
    ],
)
def test_onnx_equals_pytorch(variant, load, tmp_path):
    import onnxruntime

    _, encoder = load(variant, normalise=True, layers=[0, 2])
    batch, samples = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("samples", min=1600, max=480_000)
    example = (torch.randn(2, 32_000), torch.tensor([32_000, 24_000]))
    shapes = ({0: batch, 1: samples}, {0: batch})
    names = {"input_names": ["waveforms", "lengths"], "output_names": ["layers", "frames"]}
    torch.onnx.export(
        Layers(encoder), example, tmp_path / "model.onnx", dynamic_shapes=shapes, dynamo=True, verbose=False, **names
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for size, lengths in ((24_000, [24_000, 9001, 15_000]), (9000, [9000])):
        waveforms = torch.stack([noise(size, row) for row in range(len(lengths))])
        with torch.no_grad():
            expected = encoder(waveforms, torch.tensor(lengths))
        layers, frames = session.run(None, {"waveforms": waveforms.numpy(), "lengths": np.array(lengths)})
        np.testing.assert_allclose(layers, expected.layers.numpy(), atol=2e-5)
        np.testing.assert_array_equal(frames, expected.lengths.numpy())
