"""The CPU inference path of the wav2vec 2.0 family: the numbers of the module, its conditions, and int8."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from serkit.encoders import create_encoder, gemm
from serkit.encoders.blocks import ConvLayer, PositionLayer, Wav2Vec2Config
from serkit.encoders.emotion2vec import Emotion2vecConfig, Emotion2vecEncoder
from serkit.encoders.fast import CHUNK_FRAMES, FastConv, FastEncoder, FastPosition, FirstConv, obstacle
from serkit.encoders.gemm import LEVELS, Int8Linear, PackedLinear, PlainLinear, quantise
from serkit.encoders.wav2vec2 import TINY, Wav2Vec2Encoder
from serkit.encoders.wavlm import WavLMEncoder
from serkit.errors import InputError

torch.set_num_threads(1)

PRE = {"front_norm": "layer", "conv_bias": True, "pre_norm": True}
VARIANTS = {
    "base": (Wav2Vec2Encoder, {}),
    "group norm, pre-norm": (Wav2Vec2Encoder, {"pre_norm": True, "conv_bias": True}),
    "large": (Wav2Vec2Encoder, PRE),
    "layer norm, post-norm": (Wav2Vec2Encoder, {"front_norm": "layer"}),
    "odd positions, no projection norm": (Wav2Vec2Encoder, {"position_kernel": 15, "projection_norm": False}),
    "data2vec": (Wav2Vec2Encoder, {"front_norm": "layer", "position_layers": 3, "position_kernel": 7}),
    "even positions in a stack": (Wav2Vec2Encoder, {"front_norm": "layer", "position_layers": 2, "position_kernel": 4}),
    "emotion2vec": (
        Emotion2vecEncoder, {"front_norm": "layer", "position_layers": 3, "position_kernel": 7, "tokens": 3},
    ),
    "other convolutions": (
        Wav2Vec2Encoder, {"conv_kernel": (8, 3, 4, 3, 3, 2, 1), "conv_stride": (4, 2, 3, 1, 2, 2, 1)},
    ),
    "wavlm": (WavLMEncoder, {"buckets": 32, "distance": 60}),
    "wavlm large": (WavLMEncoder, {"buckets": 32, "distance": 60, **PRE}),
}  # fmt: skip
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))
ALL = (0, "input", 1, 2)


def make(variant="base", precision="fp32", layers=ALL, **changes):
    kind, options = VARIANTS[variant]
    torch.manual_seed(0)
    config = Emotion2vecConfig if kind is Emotion2vecEncoder else Wav2Vec2Config
    encoder = kind("x", config(**vars(TINY) | options | changes), layers, precision=precision).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in encoder.parameters():
            size = 0.2 if weight.ndim == 1 else weight[0].numel() ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * size + (weight.ndim == 1))
    return encoder


def noise(samples, seed=0, level=0.1):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * level


def encode(encoder, clip, monkeypatch=None):
    """Encode one clip; with ``monkeypatch`` by the modules."""
    if monkeypatch is not None:
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr("serkit.encoders.wav2vec2.obstacle", lambda *_: "of the test")
            return encoder(clip[None], torch.tensor([len(clip)])).layers[0]
    with torch.no_grad():
        assert obstacle(encoder, clip) is None
        layers = encoder(clip[None], torch.tensor([len(clip)])).layers[0]
        assert encoder.prepared is not None
        return layers


@every_variant
@pytest.mark.parametrize("normalise", [False, True])
def test_both_ways_give_the_same_numbers(variant, normalise, monkeypatch):
    encoder = make(variant, normalise=normalise)
    shortest, hop = encoder.min_samples, encoder.hop
    lengths = [shortest, shortest + 1, shortest + hop - 1, shortest + hop, shortest + 2 * hop, 7777, 16_001]
    lengths += [shortest + hop * (CHUNK_FRAMES + extra) for extra in (-2, -1, 0, 1)]
    for samples in lengths:
        clip = noise(samples, samples) + 0.02
        ours, expected = encode(encoder, clip), encode(encoder, clip, monkeypatch)
        assert ours.shape == expected.shape
        assert (ours - expected).abs().max() < 1e-5, samples
    assert expected.std() > 0.1


@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_silent_quiet_and_offset_recordings_too(level, offset, monkeypatch):
    encoder, clip = make(), noise(9000, 3, level) + offset
    # In double precision: a weak signal on a constant is lost in the module's own normalisation.
    expected = encode(copy.deepcopy(encoder).double(), clip.double(), monkeypatch)
    assert (encode(encoder, clip) - expected).abs().max() < 1e-5


@every_variant
@pytest.mark.parametrize("layers", [(0,), ("input",), (1,), (2, 0), (1, "input")])
def test_a_choice_of_layers(variant, layers, monkeypatch):
    encoder, clip = make(variant, layers=layers), noise(6000)
    ours = encode(encoder, clip)
    assert ours.shape[0] == len(layers)
    torch.testing.assert_close(ours, encode(encoder, clip, monkeypatch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_rows_of_a_bias_give_what_the_whole_gives(rows, monkeypatch):
    encoder, clip = make("emotion2vec"), noise(9000)
    whole = encode(encoder, clip)
    monkeypatch.setattr("serkit.encoders.fast.CHUNK_ROWS", rows)
    monkeypatch.setattr("serkit.encoders.emotion2vec.encoder.WHOLE_BIAS", 27)
    assert encoder.position_bias_rows(27) is None  # frames of the clip
    monkeypatch.setattr("serkit.encoders.emotion2vec.encoder.WHOLE_BIAS", 26)
    some = encoder.position_bias_rows(27)
    assert torch.equal(torch.cat([some(slice(0, 4)), some(slice(4, 30))], 1), encoder.position_bias(27))
    monkeypatch.setattr(encoder, "position_bias", None)  # is not asked
    torch.testing.assert_close(encode(encoder, clip), whole, atol=1e-5, rtol=0)


def test_base_size_is_within_1e_4(monkeypatch):
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder("x", replace(Wav2Vec2Config(), blocks=2), (0, "input", 1, 2)).eval()
    for seconds in (0.4, 2.3):
        clip = noise(int(16_000 * seconds), 1)
        assert (encode(encoder, clip) - encode(encoder, clip, monkeypatch)).abs().max() < 1e-4


def test_plain_products_are_used_where_onednn_is_missing(monkeypatch):
    packed = make()
    assert isinstance(gemm.pack(torch.randn(4, 4), None, "fp32"), PackedLinear)
    expected = encode(packed, noise(7000))
    monkeypatch.setattr(gemm, "has_onednn", lambda: False)
    plain = make()
    torch.testing.assert_close(encode(plain, noise(7000)), expected, atol=1e-5, rtol=0)
    assert type(plain.prepared.projection) is PlainLinear
    with pytest.raises(InputError, match=r'precision="int8": this build of PyTorch has no oneDNN'):
        make(precision="int8")


# When it stands in for the module


def test_weights_are_laid_out_once_and_again_when_one_changes():
    encoder, clip = make(), noise(5000)
    first, prepared = encode(encoder, clip), encoder.prepared
    assert torch.equal(encode(encoder, clip), first) and encoder.prepared is prepared
    changes = [
        lambda: encoder.encoder.layers[1].feed_forward.output_dense.weight.mul_(1.5),
        lambda: encoder.load_state_dict({key: value * 1.1 for key, value in encoder.state_dict().items()}),
        lambda: setattr(encoder.feature_projection, "projection", nn.Linear(16, 32)),
        lambda: torch.optim.SGD(encoder.parameters(), lr=0.1).step(),
    ]
    for change in changes:
        for weight in encoder.parameters():
            weight.grad = torch.ones_like(weight)
        with torch.no_grad():
            change()
        again = encode(encoder, clip)
        assert encoder.prepared is not prepared and (again - first).abs().max() > 1e-3
        first, prepared = again, encoder.prepared


def test_copies_and_pickles_lay_out_their_own(monkeypatch):
    encoder, clip = make(), noise(5000)
    expected = encode(encoder, clip)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert isinstance(encoder.prepared, FastEncoder) and other.prepared is None
        assert torch.equal(encode(other, clip), expected)


def test_it_works_in_inference_mode():
    encoder, clip = make(), noise(5000)
    with torch.inference_mode():
        assert torch.equal(encode(encoder, clip), encode(make(), clip))


def test_the_modules_run_where_it_cannot():
    encoder, clip = make(), noise(5000)[None]
    assert obstacle(encoder, clip) == "gradients are on"
    with torch.no_grad():
        assert obstacle(encoder, clip) is None
        assert obstacle(encoder, clip.double()) == "it runs in half precision"
        assert obstacle(encoder, clip.to("meta")) == "it runs on meta"
        with torch.autocast("cpu", torch.bfloat16):
            assert obstacle(encoder, clip) == "it runs in half precision"
        hook = encoder.encoder.layers[0].register_forward_hook(lambda *_: None)
        assert "a Block in it was hooked" in obstacle(encoder, clip)
        hook.remove()
        torch.nn.utils.parametrizations.weight_norm(encoder.encoder.pos_conv_embed.conv)
        assert "ParametrizedConv1d" in obstacle(encoder, clip)
    encoder = make()
    encode(encoder, clip[0])
    features = encoder(clip, torch.tensor([5000]))
    assert features.layers.requires_grad and encoder.prepared is None  # and gives its memory back


# int8


@every_variant
def test_int8_points_the_same_way(variant):
    exact, rough, clip = make(variant, ffn=128), make(variant, "int8", ffn=128), noise(16_000, 2)
    clip[3000:11_000] *= 1e-3  # a pause: its frames are small until a normalisation brings them back
    expected, layers = encode(exact, clip), encode(rough, clip)
    cosine = nn.functional.cosine_similarity(layers.mean(1), expected.mean(1), dim=-1)
    assert cosine.min() > 0.999
    assert (layers - expected).abs().max() > 1e-3  # it is not the same thing
    torch.testing.assert_close(layers, encode(rough, clip), atol=0, rtol=0)


def test_int8_is_a_fingerprint_of_its_own():
    assert make().fingerprint() != make(precision="int8").fingerprint()


def test_int8_is_refused_where_it_cannot_be():
    encoder, clip = make(precision="int8"), noise(5000)[None]
    with pytest.raises(InputError, match=r'precision="int8" is inference on a CPU, and here gradients are on'):
        encoder(clip, torch.tensor([5000]))
    with pytest.raises(InputError, match='packed is for a GPU and precision="int8" for a CPU'):
        Wav2Vec2Encoder("x", TINY, packed=True, precision="int8")
    with pytest.raises(InputError, match="precision='int4': give one of fp32, int8"):
        make(precision="int4")


def test_precision_is_an_option_of_create(reference_model, tmp_path):
    for variant, family in (("hubert group post", "wav2vec2"), ("wavlm layer pre", "wavlm")):
        reference_model(variant).save_pretrained(tmp_path / family)
        encoders = [create_encoder(family, weights=str(tmp_path / family), precision=p) for p in ("fp32", "int8")]
        exact, rough = (encode(encoder, noise(9000)).mean(1) for encoder in encoders)
        assert 0.999 < nn.functional.cosine_similarity(exact, rough, dim=-1).min() < 1 - 1e-8
        assert encoders[0].fingerprint() != encoders[1].fingerprint()


# Parts


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (2, 2)])
def test_rounding_to_8_bits_is_within_half_a_step(kernel, stride):
    rng = np.random.default_rng(0)
    for low, high in ((-1, 1), (0, 5), (-3, 0), (-1e-3, 400), (2, 3), (-7, -6), (0, 0)):
        x = torch.tensor(rng.uniform(low, high, (101, 5)) * 10.0 ** rng.integers(-6, 3, (101, 1)), dtype=torch.float32)
        rows, rounded = gemm.unfold_rows(x, kernel, stride), quantise(x, kernel, stride)
        assert rounded.values.dtype == torch.uint8 and rounded.values.max() <= LEVELS + 1
        assert rounded.values.shape == rows.shape
        back = (rounded.values.float() - rounded.zero) * rounded.scale
        assert ((back - rows).abs() <= rounded.scale * 0.5001).all()  # in each row of its own size
        spread = rows.amax(1).clamp(min=0) - rows.amin(1).clamp(max=0)
        assert (rounded.scale[:, 0] <= spread / LEVELS * 1.001 + 1e-29).all()


@pytest.mark.parametrize("make_linear", [PlainLinear, PackedLinear, Int8Linear])
@pytest.mark.parametrize("bias", [True, False])
def test_products_with_gelu_residuals_and_windows(make_linear, bias):
    layer = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    linear, x, residual = make_linear(layer.weight, layer.bias), torch.randn(9, 24), torch.randn(9, 40)
    tolerance = 0.03 if make_linear is Int8Linear else 1e-5
    near = lambda a, b: torch.testing.assert_close(a, b, atol=tolerance, rtol=0)  # noqa: E731
    kept = residual.clone(), x.clone()
    near(linear(x), layer(x))
    near(linear(x, gelu=True), nn.functional.gelu(layer(x)))
    near(linear(x, residual=residual), layer(x) + residual)
    assert torch.equal(kept[0], residual) and torch.equal(kept[1], x)
    rows = torch.randn(20, 8)
    expected = layer(torch.stack([rows[start : start + 3].flatten() for start in range(0, 18, 2)]))
    near(linear.windows(rows, 3, 2, gelu=False), expected)
    near(linear.windows(rows, 3, 2, gelu=True), nn.functional.gelu(expected))


@pytest.mark.parametrize("rows", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 40, 41, 42, 43])
@pytest.mark.parametrize("norm", [None, "layer"])
@torch.no_grad()
def test_triples_of_frames_equal_the_convolution(rows, norm):
    layer, x = ConvLayer(8, 12, 3, 2, True, norm), torch.randn(rows, 8)
    fast = FastConv(layer, 2, "fp32")
    assert fast.triples
    torch.testing.assert_close(fast(x), layer(x.T[None], None)[0].T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("level", [0.0, 1e-3, 1.0])
@torch.no_grad()
def test_a_layer_normalisation_is_folded_into_the_first_convolution(bias, level):
    layer = ConvLayer(1, 24, 10, 5, bias, "layer")
    nn.init.normal_(layer.layer_norm.weight)
    nn.init.normal_(layer.layer_norm.bias)
    first, waveform = FirstConv(layer, 5), noise(2000, level=level) + 3 * level
    expected = copy.deepcopy(layer).double()(waveform[None, None].double(), None)[0].T.float()
    torch.testing.assert_close(first(waveform, *first.fold(waveform)), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_first_normalisation_is_folded_into_its_convolution():
    layer = ConvLayer(1, 6, 10, 5, True, "group")
    nn.init.normal_(layer.layer_norm.weight)
    nn.init.normal_(layer.layer_norm.bias)
    first, waveform = FirstConv(layer, 5), noise(400_000) + 0.3  # more frames than one block of the sums
    torch.testing.assert_close(
        first(waveform, *first.fold(waveform)), layer(waveform[None, None], None)[0].T, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kernel", [2, 15, 16])
@pytest.mark.parametrize("frames", [1, 2, 24, 25, 26, 60])
@torch.no_grad()
def test_the_positional_convolution_in_the_frequency_domain(kernel, frames):
    layer = PositionLayer(replace(TINY, position_kernel=kernel))
    nn.init.normal_(layer.conv.bias)
    x = torch.randn(frames, 32)
    torch.testing.assert_close(FastPosition(layer)(x), layer(x.T[None])[0].T, atol=1e-5, rtol=0)
