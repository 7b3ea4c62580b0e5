"""emotion2vec's encoder equals FunASR's numbers, and padding changes nothing but in the mode that asks for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from emotion2vec_reference import slopes_of, states_of
from emotion2vec_weights import create_seeded, read_shapes, seeded_state, shapes_of

from serkit.encoders.emotion2vec import Emotion2vecConfig, alibi_slopes, create_tiny
from serkit.encoders.emotion2vec.state import read_model_conf
from serkit.errors import InputError


@pytest.fixture(scope="module")
def golden(reference_file):
    return {
        name: torch.from_numpy(value) for name, value in np.load(reference_file("emotion2vec/golden_tiny.npz")).items()
    }


@pytest.fixture(scope="module")
def tiny_conf(reference_file):
    return json.loads(reference_file("emotion2vec/tiny_model_conf.json").read_text())


def tiny(reference_file, conf, **options):
    return create_seeded(reference_file("emotion2vec/tiny_state_dict_keys.txt"), read_model_conf(conf), **options)


def close(found, expected, tolerance=1e-4):
    difference = float((found - expected).abs().max())
    assert found.shape == expected.shape and difference < tolerance, difference


@pytest.mark.parametrize("plain", [False, True])
@torch.no_grad()
def test_every_stage_equals_funasr(reference_file, tiny_conf, golden, plain):
    encoder, state = tiny(reference_file, tiny_conf, layers=[0, "input", 1, 2, 3, 4])
    wav, lengths = golden["wav"][None], torch.tensor([8000])
    front = encoder.front_end(wav, lengths)
    close(front[0].T, golden["local_encoder"])
    projected = encoder.project(front)
    close(projected[0], golden["project_features"])
    embed, x = encoder.encoder.pos_conv_embed, projected
    for layer in embed.layers:
        x = layer(x.transpose(1, 2)).transpose(1, 2)
    close(x[0], golden["relative_positional_encoder"])
    close(encoder.position_bias(24), golden["alibi_bias"])
    features = encoder.encode_padded(wav, lengths) if plain else encoder(wav, lengths)
    close(features.layers[0, 3], golden["prenet_x"][3:])
    close(features.layers[0, -1], golden["x"])
    x = encoder.run_blocks(encoder.prefix(encoder.position(projected, None)), None, encoder.position_bias(24))
    close(x[4][0], golden["x_with_extra"])
    close(x[2][0], golden["prenet_x"])
    logits = F.linear(features.layers[0, -1].mean(0), state["proj.weight"], state["proj.bias"])
    close(logits, golden["logits"])
    close(logits.softmax(0), golden["probs"])


@torch.no_grad()
def test_batched_as_funasr_does_and_as_alone(reference_file, tiny_conf, golden):
    short = golden["wav"][:5000]
    batch = torch.stack([golden["wav"], F.pad(short, (0, 3000), value=9.0)])
    lengths = torch.tensor([8000, 5000])
    encoder, _ = tiny(reference_file, tiny_conf, layers=[4])
    for features in (encoder(batch, lengths), encoder.encode_padded(batch, lengths)):
        assert features.lengths.tolist() == [24, 15]
        close(features.layers[0, 0], golden["x"])
        close(features.layers[1, 0, :15], golden["single_short_x"])
        assert not features.layers[1, 0, 15:].any()
    leaking, _ = tiny(reference_file, tiny_conf, layers=[4], reference=True)
    features = leaking(batch, lengths)
    for row, frames in enumerate((~golden["batch_padding_mask"]).sum(1).tolist()):
        close(features.layers[row, 0, :frames], golden["batch_x"][row, :frames])
    leak = (features.layers[1, 0, :15] - golden["single_short_x"]).abs().max()
    assert leak > 0.01, "then the reference mode would not be needed"
    assert leaking.fingerprint() != encoder.fingerprint()


@torch.no_grad()
def test_the_base_model_equals_funasr_on_a_recording(reference_file):
    conf = json.loads(reference_file("emotion2vec/emotion2vec_base_model_conf.json").read_text())
    golden = np.load(reference_file("emotion2vec/golden_base_testwav.npz"))
    config = read_model_conf(conf)
    assert config == Emotion2vecConfig()
    encoder, state = create_seeded(reference_file("emotion2vec/state_dict_keys.txt"), config, layers=[12])
    wav, rate = soundfile.read(reference_file("emotion2vec/test.wav"), dtype="float32")
    assert rate == 16_000
    frames = encoder(torch.from_numpy(wav)[None], torch.tensor([len(wav)])).layers[0, 0]
    assert len(frames) == golden["n_frames"]
    close(frames.mean(0), torch.from_numpy(golden["x_utt"]))
    close(frames[:8], torch.from_numpy(golden["x_first8"]))
    close(frames[-8:], torch.from_numpy(golden["x_last8"]))
    close(frames.norm(dim=1), torch.from_numpy(golden["frame_norms"]))
    logits = F.linear(frames.mean(0), state["proj.weight"], state["proj.bias"])
    close(logits, torch.from_numpy(golden["logits"]))
    close(logits.softmax(0), torch.from_numpy(golden["probs"]))


@pytest.mark.parametrize("name", ["", "_plus_large"])
def test_the_published_names_are_known(reference_file, name):
    listed = read_shapes(reference_file(f"emotion2vec/state_dict_keys{name}.txt"))
    config = Emotion2vecConfig(dim=1024, heads=16, ffn=4096) if name else Emotion2vecConfig()
    encoder = {key: shape for key, shape in listed.items() if not key.startswith("proj.") and "decoder" not in key}
    encoder = {key.removeprefix("d2v_model."): shape for key, shape in encoder.items()}
    assert encoder == shapes_of(config)


def test_slopes_are_those_of_the_paper():
    for heads in (1, 2, 3, 4, 6, 8, 12, 16, 20):
        np.testing.assert_allclose(alibi_slopes(heads), slopes_of(heads), rtol=1e-6)
    assert alibi_slopes(12)[:2].tolist() == [0.5, 0.25]


def test_a_negative_scale_counts_as_zero():
    encoder = create_tiny()
    with torch.no_grad():
        encoder.alibi_scale[:] = torch.tensor([-1.0, 0, 1, 2, 3, 4])
    bias = encoder.position_bias(5)
    assert bias.shape == (6, 8, 8) and not bias[:2].any() and not bias[:, :3].any() and not bias[:, :, :3].any()
    assert bias[3, 3, 7] == -4 * 2 * alibi_slopes(6)[3]


def test_other_networks_are_refused_in_words(tiny_conf):
    for name, value in (("layer_norm_first", True), ("extractor_mode", "default"), ("learned_alibi_scale", False)):
        with pytest.raises(InputError, match=f"config.yaml: {name} = {value!r} is not supported"):
            read_model_conf({**tiny_conf, name: value}, "config.yaml")
    with pytest.raises(InputError, match="config.yaml: lacks 'embed_dim'"):
        read_model_conf({key: value for key, value in tiny_conf.items() if key != "embed_dim"}, "config.yaml")


@torch.no_grad()
def test_the_plain_computation_and_ours_agree_on_the_weights_of_the_reference(reference_file, tiny_conf, golden):
    state = seeded_state(reference_file("emotion2vec/tiny_state_dict_keys.txt"))
    close(states_of(state, read_model_conf(tiny_conf), golden["wav"])[-1][0], golden["x"])
