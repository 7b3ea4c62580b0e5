"""Foreign encoders through ``transformers``, and published ones by name."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from serkit.encoders import create_encoder, list_encoders, list_presets
from serkit.errors import InputError

torch.set_num_threads(1)

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "codevector_dim": 8, "proj_codevector_dim": 8,
}  # fmt: skip
WAVEFORMS = {**SIZES, "conv_dim": (16,) * 7}
MODELS = {
    "UniSpeech": WAVEFORMS,
    "UniSpeechSat": WAVEFORMS,
    "Wav2Vec2Conformer": {**WAVEFORMS, "conv_depthwise_kernel_size": 5},
    "Wav2Vec2": {**WAVEFORMS, "do_stable_layer_norm": True, "feat_extract_norm": "layer", "adapter_attn_dim": 8},
    "Wav2Vec2Bert": {**SIZES, "conv_depthwise_kernel_size": 5, "feature_projection_input_dim": 160},
}


def noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.fixture
def folder(tmp_path):
    """``folder(family, **changes)``: a random model and where it is written."""
    transformers = pytest.importorskip("transformers")

    def make(family, **changes):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**MODELS.get(family, SIZES), **changes})
        model = getattr(transformers, f"{family}Model")(config).eval()
        model.save_pretrained(tmp_path / family)
        return model, tmp_path / family

    return make


@pytest.mark.parametrize("family", MODELS)
def test_hidden_states_are_those_of_the_model_in_any_batch(family, folder):
    import transformers

    model, path = folder(family)
    encoder = create_encoder("transformers", weights=str(path), normalise=False)
    clips = [noise(9000, 1), noise(16_000, 2), noise(700, 3), noise(9321, 4)]
    waveforms = torch.full((4, 17_000), torch.nan)
    for row, clip in zip(waveforms, clips, strict=True):
        row[: len(clip)] = clip
    with torch.no_grad():
        batch = encoder(waveforms, torch.tensor([len(clip) for clip in clips]))
    assert batch.layers.shape[:2] == (4, 3) and batch.layers.shape[2] == int(batch.lengths.max())
    for row, clip in enumerate(clips):
        inputs = clip[None]
        if family == "Wav2Vec2Bert":
            extract = transformers.SeamlessM4TFeatureExtractor()
            inputs = extract(clip.numpy(), sampling_rate=16_000, return_tensors="pt", padding=False).input_features
        with torch.no_grad():
            output = model(inputs, output_hidden_states=True)
        expected = torch.cat([*output.hidden_states[:-1], output.last_hidden_state])
        frames = int(batch.lengths[row])
        torch.testing.assert_close(batch.layers[row, :, :frames], expected, atol=1e-6, rtol=0)
        assert not batch.layers[row, :, frames:].any()


def test_layers_and_normalisation_are_options(folder):
    _, path = folder("UniSpeech")
    make = lambda **options: create_encoder("transformers", weights=str(path), **options)  # noqa: E731
    whole, some, scaled = make(normalise=False), make(layers=[2, 0], normalise=False), make(normalise=True)
    clip, lengths = noise(8000)[None], torch.tensor([8000])
    with torch.no_grad():
        torch.testing.assert_close(some(clip, lengths).layers, whole(clip, lengths).layers[:, [2, 0]], atol=0, rtol=0)
        torch.testing.assert_close(scaled(clip, lengths).layers, scaled(clip * 5, lengths).layers, atol=1e-4, rtol=0)
        assert (whole(clip, lengths).layers - scaled(clip, lengths).layers).abs().max() > 1e-3
    assert len({encoder.fingerprint() for encoder in (whole, some, scaled)}) == 3
    (path / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": true}'
    )
    assert make().normalise and not whole.normalise and not make(normalise=False).normalise
    for layers in ([3], [], [0, 0], [-1]):
        with pytest.raises(InputError, match="give different ones out of 0 to 2"):
            make(layers=layers)


def test_an_own_module_agrees(folder):
    _, path = folder("Hubert", conv_dim=(16,) * 7)
    clip, lengths = noise(8000)[None], torch.tensor([8000])
    with torch.no_grad():
        ours = create_encoder("wav2vec2", weights=str(path), layers=["input", 1, 2])(clip, lengths).layers
        theirs = create_encoder("transformers", weights=str(path))(clip, lengths).layers
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused(folder, tmp_path, monkeypatch):
    _, path = folder("SEW", conv_dim=(16,) * 13)
    with pytest.raises(InputError, match="a sew model does not give one frame per 20 ms"):
        create_encoder("transformers", weights=str(path))
    _, path = folder("UniSpeech", conv_stride=(5, 2, 2, 2, 2, 2, 1))
    with pytest.raises(InputError, match="unispeech model with 160 samples per frame is not supported"):
        create_encoder("transformers", weights=str(path))
    _, path = folder("UniSpeech")
    state = load_file(path / "model.safetensors")
    del state["encoder.layers.1.final_layer_norm.bias"]
    save_file(state, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks weights that would be random: encoder.layers.1.final_layer_norm.bias"):
        create_encoder("transformers", weights=str(path))
    with pytest.raises(InputError, match="nothing: transformers cannot load it"):
        create_encoder("transformers", weights=str(tmp_path / "nothing"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"transformers is not installed: run pip install 'serkit\[transformers\]'"):
        create_encoder("transformers", weights=str(path))


# Presets


def test_presets_are_encoders_with_options(folder):
    names = {entry.name for entry in list_encoders()}
    presets = {preset.name: preset for preset in list_presets()}
    assert len(presets) == len(list_presets()) >= 14 and not names & set(presets)
    assert {preset.family for preset in presets.values()} <= names
    assert all(preset.options["weights"] for preset in presets.values())
    whisper = create_encoder("whisper-base", level=-23)
    assert (whisper.name, whisper.num_layers, whisper.level) == ("whisper", 4, -23)
    assert create_encoder("whisper-base", blocks=1).num_layers == 2
    _, path = folder("Hubert", conv_dim=(16,) * 7)
    local = create_encoder("hubert-base", weights=str(path), layers=[1])  # a preset's weights may be a local copy
    assert local.fingerprint() == create_encoder("wav2vec2", weights=str(path), layers=[1]).fingerprint()


def test_presets_come_from_the_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for preset in list_presets():
        if preset.family != "whisper":
            with pytest.raises(InputError, match=f"{preset.options['weights']}: not in the local Hugging Face cache"):
                create_encoder(preset.name)


def test_a_misspelt_preset_is_corrected():
    with pytest.raises(InputError, match="no encoder named 'wavlm-lage': did you mean 'wavlm-large'"):
        create_encoder("wavlm-lage")
    with pytest.raises(InputError, match="encoder wav2vec2: .*weights"):
        create_encoder("wav2vec2")


def test_the_command_line_lists_encoders_and_presets():
    from typer.testing import CliRunner

    from serkit.cli import app

    output = CliRunner().invoke(app, ["list", "encoders"]).output
    for name in ("whisper", "wav2vec2", "transformers", "xlsr-300m", "wavlm-base-plus"):
        assert any(line.split()[0] == name for line in output.splitlines() if line.strip()), name
