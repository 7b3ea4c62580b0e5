"""The contract of every encoder: frame counts, batched = alone, gradients, clear errors, parity with its reference."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from emotion2vec_reference import states_of
from emotion2vec_weights import original_state
from hypothesis import given, settings
from hypothesis import strategies as st
from mel_reference import mel_decibels
from safetensors.torch import load_file, save_file

from serkit.encoders import create_encoder, list_encoders
from serkit.encoders.base import EncoderEntry, register
from serkit.encoders.emotion2vec import TINY as TINY_EMOTION2VEC
from serkit.encoders.emotion2vec import Emotion2vecEncoder
from serkit.encoders.emotion2vec.state import convert_state as convert_emotion2vec
from serkit.encoders.spectrogram import mel_filters
from serkit.encoders.whisper import LogMel, convert_state
from serkit.encoders.whisper import create as create_whisper
from serkit.errors import InputError

torch.set_num_threads(1)

ENTRIES = {entry.name: entry for entry in list_encoders()}
FRONTS = {"plain": (None, None), "trim": (35, None), "level": (None, -23), "trim and level": (35, -23)}
every_encoder = pytest.mark.parametrize("name", list(ENTRIES))
FRAME_SLACK = {"egemaps": 5}
"""Frames that an encoder may be away from its samples over its hop, when more than two: eGeMAPS uses whole 60 ms."""
ONE_FRAME = {"egemaps-functionals"}
FORMANTS = ("F1", "F2", "F3", "A3")
"""In names of descriptors that single precision decides on: see docs/egemaps.md."""
WEIGHTS = Path(
    os.environ.get("SERKIT_WEIGHTS")
    or Path(__file__).parents[3] / "shared" / "weights" / "whisper-base-encoder-fp16.safetensors"
)


def tiny(name, trim=None, level=None):
    torch.manual_seed(0)
    encoder = ENTRIES[name].create_tiny()
    encoder.trim, encoder.level = trim, level
    return encoder


def without_formants(encoder):
    return [not any(formant in feature for formant in FORMANTS) for feature in encoder.feature_names]


def longest(encoder):
    return min(encoder.max_samples or 24_000, 24_000)


def speech(samples, seed, lead=0, tail=0, noise=1e-5):
    """A gliding harmonic tone in weak noise; ``lead`` and ``tail`` are the shares of near silence at the ends."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    phase = 2 * np.pi * np.cumsum(rng.uniform(90, 250) * (1 + 0.1 * np.sin(7 * time))) / 16_000
    tone = sum(np.sin(k * phase) / k for k in range(1, 9)) * 0.1 * rng.uniform(0.1, 1)
    position = np.arange(samples) / samples
    tone[(position < lead) | (position > 1 - tail)] *= 1e-4
    return torch.tensor(tone + rng.normal(0, noise, samples), dtype=torch.float32)


def pad(clips, size=None, garbage=0.0):
    size = size or max(len(clip) for clip in clips)
    noise = torch.randn(len(clips), size, generator=torch.Generator().manual_seed(1)) * garbage
    for row, clip in zip(noise, clips, strict=True):
        row[: len(clip)] = clip
    return noise, torch.tensor([len(clip) for clip in clips])


@torch.no_grad()
def alone(encoder, clip):
    return encoder(clip[None], torch.tensor([len(clip)]))


@every_encoder
def test_frame_counts_are_those_that_frame_lengths_tells(name):
    encoder = tiny(name)
    low, high = encoder.min_samples, longest(encoder)
    lengths = sorted({*range(low, low + 2 * encoder.hop + 2, 53), *range(low, high, 1601), low + encoder.hop, high})
    told = encoder.frame_lengths(torch.tensor(lengths))
    assert told.min() >= 1 and (told.diff() >= 0).all()
    for samples, frames in zip(lengths, told.tolist(), strict=True):
        features = alone(encoder, speech(samples, samples))
        assert features.layers.shape == (1, encoder.num_layers, frames, encoder.dim), samples
        assert features.lengths.tolist() == [frames]
        if name in ONE_FRAME:
            assert frames == 1
        else:
            assert abs(frames - samples / encoder.hop) <= FRAME_SLACK.get(name, 2)
    assert features.frame_rate == encoder.frame_rate == encoder.sampling_rate / encoder.hop


@every_encoder
@pytest.mark.parametrize("front", list(FRONTS))
@settings(max_examples=12)
@given(data=st.data())
def test_an_utterance_gets_the_same_answer_in_any_batch(name, front, data):
    encoder = tiny(name, *FRONTS[front])
    sizes = data.draw(st.lists(st.integers(encoder.min_samples, longest(encoder)), min_size=1, max_size=4))
    ends = data.draw(st.sampled_from([(0, 0), (0.4, 0), (0, 0.4), (0.3, 0.3)]))
    clips = [speech(samples, seed, *(ends if seed % 2 == 0 else (0, 0))) for seed, samples in enumerate(sizes)]
    size = max(sizes) + data.draw(st.sampled_from([0, 1, 700]))
    with torch.no_grad():
        batch = encoder(*pad(clips, size, garbage=data.draw(st.sampled_from([0.0, 3.0]))))
    assert torch.equal(batch.mask().sum(1), batch.lengths)
    for row, clip in enumerate(clips):
        single, frames = alone(encoder, clip), int(batch.lengths[row])
        assert single.lengths.tolist() == [frames]
        torch.testing.assert_close(batch.layers[row, :, :frames], single.layers[0], atol=1e-5, rtol=0)
        assert not batch.layers[row, :, frames:].any()
        assert batch.start is None or batch.start[row] == single.start[0]


@every_encoder
@pytest.mark.parametrize("front", list(FRONTS))
def test_a_batch_of_one_may_be_padded(name, front):
    encoder, clip = tiny(name, *FRONTS[front]), speech(12_000, 2, 0.3, 0.3)
    with torch.no_grad():
        padded = encoder(*pad([clip], 20_000, garbage=3.0))
    torch.testing.assert_close(padded.layers, alone(encoder, clip).layers, atol=1e-5, rtol=0)
    assert padded.layers.shape[2] == int(padded.lengths)


@every_encoder
@pytest.mark.parametrize("front", list(FRONTS))
def test_not_even_nan_in_the_padding_matters(name, front):
    encoder = tiny(name, *FRONTS[front])
    clips = [speech(9000, 0, 0.3, 0.3), speech(16_000, 1)]
    clean, lengths = pad(clips)
    dirty = clean.clone()
    dirty[0, 9000:] = torch.nan
    with torch.no_grad():
        torch.testing.assert_close(encoder(dirty, lengths).layers, encoder(clean, lengths).layers, atol=1e-6, rtol=0)


@every_encoder
def test_trimming_gives_the_frames_of_the_trimmed_recording(name):
    encoder, plain = tiny(name, trim=35), tiny(name)
    clip = speech(16_000, 3)
    silence = torch.zeros(6400)
    features = alone(encoder, torch.cat([silence, clip, silence]))
    assert int(features.start) == (6400 - 800) // 320 * 320 // encoder.hop
    kept = torch.cat([silence[: 6400 - int(features.start) * encoder.hop], clip, silence[:800]])
    torch.testing.assert_close(features.layers, alone(plain, kept).layers, atol=1e-5, rtol=0)


@every_encoder
def test_levelling_makes_the_gain_irrelevant(name):
    encoder, clip = tiny(name, level=-23), speech(12_000, 4)
    loud, quiet = alone(encoder, clip).layers, alone(encoder, clip * 0.05).layers
    if not hasattr(encoder, "feature_names"):
        torch.testing.assert_close(loud, quiet, atol=2e-5, rtol=0)
    else:  # in Hz and dB, not normalised
        sure = without_formants(encoder)
        torch.testing.assert_close(loud[..., sure], quiet[..., sure], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(loud.median(dim=2).values, quiet.median(dim=2).values, atol=0.01, rtol=0.01)


@every_encoder
def test_the_order_of_a_batch_is_kept(name):
    encoder = tiny(name)
    waveforms, lengths = pad([speech(8000, 1), speech(14_000, 2), speech(11_000, 3)])
    with torch.no_grad():
        there, back = encoder(waveforms, lengths), encoder(waveforms.flip(0), lengths.flip(0))
    torch.testing.assert_close(there.layers, back.layers.flip(0), atol=1e-5, rtol=0)
    assert (there.layers[0] - there.layers[2]).abs().max() > 1e-2


@every_encoder
def test_every_parameter_gets_a_gradient(name):
    encoder = tiny(name)
    if not list(encoder.parameters()):
        pytest.skip(f"{name} has no parameters")
    features = encoder(*pad([speech(9000, 1), speech(16_000, 2)]))
    # Random factors: the plain sum over the width of a normalised layer is constant.
    (features.layers * torch.randn(features.layers.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    without = [key for key, weight in encoder.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []
    if hasattr(encoder, "embed_positions"):
        used = encoder.embed_positions.weight.grad.abs().sum(1) > 0
        assert used.sum() == features.layers.shape[2] and used[: features.layers.shape[2]].all()


@every_encoder
def test_input_of_the_wrong_length_is_refused_in_words(name):
    encoder = tiny(name)
    short = encoder.min_samples - 1
    with pytest.raises(ValueError, match=rf"{name} needs at least {short + 1} samples \(.* s\), got {short}"):
        encoder(torch.zeros(2, 16_000), torch.tensor([16_000, short]))
    alone(encoder, speech(encoder.min_samples, 0))
    if encoder.max_samples is not None:
        size = encoder.max_samples + 1
        with pytest.raises(ValueError, match=rf"{name} takes at most .* s at a time, got .*: cut the recording"):
            encoder(torch.zeros(2, size), torch.tensor([16_000, size]))


@every_encoder
def test_the_fingerprint_follows_weights_and_front_end(name):
    encoder = tiny(name)
    first = encoder.fingerprint()
    assert first == encoder.fingerprint() == tiny(name).fingerprint()
    seen = {first, tiny(name, trim=35).fingerprint(), tiny(name, trim=30).fingerprint()}
    seen |= {tiny(name, level=-23).fingerprint(), tiny(name, level=35).fingerprint()}
    for _, weight in encoder.named_parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3
        seen.add(encoder.fingerprint())
    assert len(seen) == 5 + len(list(encoder.parameters()))


def test_every_option_of_a_spectrogram_is_in_its_fingerprint():
    options = [{}, {"form": "log"}, {"form": "mel"}, {"form": "mel", "bands": 40}, {"native": True}, {"hop": 160}]
    options += [{"window": 300}, {"n_fft": 1024}, {"limit": 3}]
    assert len({create_encoder("spectrogram", **chosen).fingerprint() for chosen in options}) == len(options)
    for wrong, said in (
        ({"form": "power"}, "form is magnitude, log or mel"),
        ({"form": "mel", "native": True}, "fixed rate"),
        ({"window": 600}, "window <= n_fft"),
    ):
        with pytest.raises(InputError, match=said):
            create_encoder("spectrogram", **wrong)


@every_encoder
def test_a_limit_keeps_the_beginning_only(name):
    encoder, clip = tiny(name), speech(16_000, 3)
    encoder.limit = 0.7
    waveforms, lengths = pad([clip, clip[:9000]], garbage=1.0)
    with torch.no_grad():
        limited = encoder(waveforms, lengths)
    encoder.limit = None
    expected = alone(encoder, clip[:11_200]).layers
    torch.testing.assert_close(limited.layers[:1, :, : expected.shape[2]], expected, atol=1e-5, rtol=0)
    assert limited.layers.shape[2] == expected.shape[2]


def test_spectrograms_may_be_padded_too():
    encoder = tiny("whisper")
    mels = torch.randn(1, 20, 60, generator=torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(mels, (0, 40))
    with torch.no_grad():
        alone, long = (encoder.encode_mels(x, torch.tensor([60])).layers for x in (mels, padded))
    torch.testing.assert_close(long[:, :, :30], alone, atol=1e-5, rtol=0)
    assert not long[:, :, 30:].any()


def test_encoders_are_found_by_name():
    with pytest.raises(InputError, match="no encoder named 'wisper': did you mean 'whisper'"):
        create_encoder("wisper")
    with pytest.raises(InputError, match="encoder whisper: .*'blocs'"):
        create_encoder("whisper", blocs=3)
    with pytest.raises(ValueError, match="already registered"):
        register(EncoderEntry("whisper", "", lambda: None, lambda: None))


# Parity with reference implementations


def transformers_whisper():
    pytest.importorskip("transformers", reason="the reference implementation comes with serkit[transformers]")
    from transformers import WhisperConfig
    from transformers.models.whisper import modeling_whisper

    return WhisperConfig, modeling_whisper


def shake(module, seed=0):
    """Small random weights everywhere, normalisations and positions included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1 + (weight.ndim == 1))
    return module.eval()


@torch.no_grad()
def reference_states(encoder, mels):
    """Every hidden state of a transformers encoder: the input of each block, and what follows the last."""
    states = []
    first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
    hooks = [encoder.layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0].clone()))]
    hooks += [
        layer.register_forward_hook(lambda *call: states.append(first(call[2]).clone())) for layer in encoder.layers
    ]
    last = encoder(mels).last_hidden_state
    for hook in hooks:
        hook.remove()
    return states, last


def features_of(clip, mels, samples):
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=mels, chunk_length=samples // 16_000)
    return extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_features


def whisper_on_random_weights(tmp_path, reference_model, reference_layers):
    make_config, whisper = transformers_whisper()
    config = make_config(
        vocab_size=60, num_mel_bins=20, d_model=128, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=96,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, max_source_positions=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    clip = torch.cat([speech(20_000, 5, noise=1e-3), torch.zeros(12_000)])
    for number, kind in enumerate(("WhisperEncoder", "WhisperModel", "WhisperForConditionalGeneration")):
        model = shake(getattr(whisper, kind)(config), number)
        path = tmp_path / f"{kind}.safetensors"
        save_file({key: value.clone().contiguous() for key, value in model.state_dict().items()}, path)
        inner = model if kind == "WhisperEncoder" else model.get_encoder()
        states, last = reference_states(inner, features_of(clip, 20, 32_000))
        yield kind, [*states[:-1], last], alone(create_whisper(str(path)), clip).layers
        cut = create_whisper(str(path), blocks=1)
        assert cut.num_layers == 2 and cut.layer_norm is None
        yield f"{kind}, first block", states[:2], alone(cut, clip).layers


def opensmile_on_tones(level, name):
    """What openSMILE finds in gliding tones, column by column over its range."""

    def cases(tmp_path, reference_model, reference_layers):
        opensmile = pytest.importorskip("opensmile", reason="the reference implementation comes with serkit[opensmile]")
        smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel[level])
        encoder = create_encoder(name)
        assert list(encoder.feature_names) == smile.feature_names
        for seed in range(3):
            clip = (speech(24_000, seed, noise=1e-3) * 32768).trunc() / 32768  # openSMILE takes 16 bits
            expected = torch.tensor(smile.process_signal(clip.numpy(), 16_000).to_numpy())
            scale = 10 * expected.abs().amax(dim=0).clamp(min=1e-3)  # so that 1e-4 is a thousandth of the largest value
            yield f"seed {seed}", [expected / scale], alone(encoder, clip).layers / scale

    return cases


def spectrograms_of_torch(tmp_path, *_):
    clip = speech(20_000, 5, noise=1e-3)
    for n_fft, window, hop in ((512, 400, 320), (256, 256, 100), (127, 60, 40)):
        frames = torch.stft(
            clip, n_fft, hop, window, torch.hann_window(window), center=True, pad_mode="reflect", return_complex=True
        ).abs().T[None]  # fmt: skip
        sizes = {"n_fft": n_fft, "window": window, "hop": hop}
        yield f"magnitude {sizes}", [frames], alone(create_encoder("spectrogram", **sizes), clip).layers
        logarithm = alone(create_encoder("spectrogram", form="log", native=True, **sizes), clip).layers
        yield f"log {sizes}", [frames + 1e-12], logarithm.exp()
    bands = torch.tensor(mel_filters(40, n_fft=512), dtype=torch.float32)
    expected = torch.stft(clip, 512, 320, 512, torch.hann_window(512), return_complex=True).abs().T.square() @ bands
    found = alone(create_encoder("spectrogram", form="mel", bands=40, window=512), clip).layers
    yield "mel", [(expected + 1e-12).log()[None]], found


def mel_decibels_of_librosa(tmp_path, *_):
    for seed, rate in enumerate((22_050, 16_000)):
        clip = speech(24_000, seed, 0.3, 0.2)
        expected = torch.tensor(mel_decibels(clip.numpy(), rate), dtype=torch.float32)[None]
        yield f"{rate} Hz", [expected], alone(create_encoder("mat-mel", rate=rate), clip).layers


def of_a_folder(name, *variants):
    """Models that ``transformers`` wrote to a folder; ``test_wav2vec2.py`` goes through every build and layer."""

    def cases(tmp_path, reference_model, reference_layers):
        clip = speech(9000, 5, noise=1e-3)
        for variant in variants:
            model = reference_model(variant)
            model.save_pretrained(tmp_path / variant)
            projected, states, last = reference_layers(model, clip[None])
            encoder = create_encoder(name, weights=str(tmp_path / variant), normalise=False)
            first = states[0] if name == "transformers" else projected
            yield variant, [first, *states[1:-1], last], alone(encoder, clip).layers

    return cases


def emotion2vec_written_out(tmp_path, *_):
    for seed, config in enumerate((TINY_EMOTION2VEC, replace(TINY_EMOTION2VEC, heads=4, blocks=4, prenet=2, tokens=1))):
        state = original_state(config, seed)
        encoder = Emotion2vecEncoder("emotion2vec", config).eval()
        encoder.load_state_dict(convert_emotion2vec(state))
        clip = speech(9000, 5, noise=1e-3)
        yield f"{config}", states_of(state, config, clip), alone(encoder, clip).layers


REFERENCES = {
    "emotion2vec": emotion2vec_written_out,
    "whisper": whisper_on_random_weights,
    "egemaps": opensmile_on_tones("LowLevelDescriptors", "egemaps"),
    "egemaps-functionals": opensmile_on_tones("Functionals", "egemaps-functionals"),
    "mat-mel": mel_decibels_of_librosa,
    "spectrogram": spectrograms_of_torch,
    "wav2vec2": of_a_folder("wav2vec2", "wav2vec2 group post", "hubert layer pre", "data2vec"),
    "wavlm": of_a_folder("wavlm", "wavlm group post", "wavlm layer pre"),
    "transformers": of_a_folder("transformers", "hubert group post", "wav2vec2 layer pre", "wavlm layer pre"),
}


@every_encoder
def test_hidden_states_equal_the_reference_on_random_weights(name, tmp_path, reference_model, reference_layers):
    for case, expected, layers in REFERENCES[name](tmp_path, reference_model, reference_layers):
        assert layers.shape[1] == len(expected), case
        for number, state in enumerate(expected):
            difference = (layers[:, number] - state).abs().max()
            assert difference < 1e-4, f"{case}: layer {number} differs by {difference}"


def real_whisper(state):
    make_config, whisper = transformers_whisper()
    config, converted = convert_state(state)
    reference = whisper.WhisperEncoder(
        make_config(
            num_mel_bins=config.mels, d_model=config.dim, encoder_layers=config.blocks,
            encoder_attention_heads=config.heads, encoder_ffn_dim=config.ffn,
        )
    )  # fmt: skip
    missing, unexpected = reference.load_state_dict(converted, strict=False)
    assert unexpected == [] and set(missing) <= {"layer_norm.weight", "layer_norm.bias"}
    clip = torch.cat([speech(160_000, 6, noise=1e-3), torch.zeros(320_000)])
    states, last = reference_states(reference.eval(), features_of(clip, config.mels, 480_000))
    return clip, [*states[:-1], last] if config.final_norm else states


def test_the_packaged_blocks_equal_the_reference():
    from serkit.encoders.weights import PACKAGED

    clip, expected = real_whisper(load_file(PACKAGED / "whisper-base-3blocks.safetensors"))
    layers = alone(create_encoder("whisper"), clip).layers
    assert layers.shape == (1, 4, 1500, 512)
    for number, state in enumerate(expected):
        assert (layers[:, number] - state).abs().max() < 1e-4, f"layer {number}"


@pytest.mark.parametrize("half", [0, 3])
def test_the_complete_base_encoder_equals_the_reference(half):
    if not WEIGHTS.exists():
        reason = f"{WEIGHTS} is not at hand: set SERKIT_WEIGHTS to the file with the complete encoder"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    clip, expected = real_whisper(load_file(WEIGHTS))
    layers = alone(create_encoder("whisper", weights=str(WEIGHTS), blocks=half or None), clip).layers[0]
    assert len(layers) == (half or 6) + 1
    for number, (layer, state) in enumerate(zip(layers, expected, strict=False)):
        difference, largest = float((layer - state).abs().max()), float(state.abs().max())
        said = f"layer {number}: differs by {difference:.2g} of at most {largest:.4g}"
        # Layers 4 and 5 have a few dimensions of about 500; the final normalisation scales the small others up.
        assert difference / largest < (1e-5 if number < 6 else 5e-5), said
        assert number > 3 or difference < 1e-4, said


@pytest.mark.parametrize("samples", [400, 16_000, 16_159, 20_000])
@pytest.mark.parametrize("gain", [0.0, 1e-3, 1.0])
def test_log_mel_equals_the_reference(samples, gain):
    transformers = pytest.importorskip("transformers")
    clip = speech(samples, 7, noise=1e-3) * gain
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    expected = extractor(clip.numpy(), sampling_rate=16_000, padding=False, truncation=False, return_tensors="pt")
    mels = LogMel(80)(clip[None], torch.tensor([samples]))
    assert mels.shape == expected.input_features.shape == (1, 80, samples // 160)
    assert (mels - expected.input_features).abs().max() < 1e-4


@pytest.mark.parametrize("bands", [20, 80, 128])
def test_mel_filters_equal_the_reference(bands):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    expected = audio_utils.mel_filter_bank(201, bands, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(bands), expected, atol=1e-10)


def test_foreign_checkpoints_are_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="not a Whisper encoder"):
        convert_state({"weight": torch.zeros(1)})
    encoder = tiny("whisper")
    config, state = convert_state(encoder.state_dict())
    assert replace(config, heads=4) == encoder.config and set(state) == set(encoder.state_dict())
