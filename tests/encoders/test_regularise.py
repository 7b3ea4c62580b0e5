"""Encoders in training: dropout, layer drop, SpecAugment and checkpointing as in the reference, and off otherwise."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from serkit.encoders import create_encoder, list_encoders
from serkit.encoders import regularise as module
from serkit.encoders.regularise import SWITCHES, Regularisation, span_mask
from serkit.encoders.whisper import convert_state
from serkit.encoders.whisper import create_tiny as tiny_whisper
from serkit.errors import InputError

torch.set_num_threads(1)

ENTRIES = {entry.name: entry for entry in list_encoders()}
every_encoder = pytest.mark.parametrize("name", list(ENTRIES))
OWN = ["wav2vec2", "wavlm", "whisper"]
FAMILY = ["wav2vec2 group post", "wav2vec2 layer pre", "hubert group post", "hubert layer pre", "data2vec",
          "wavlm group post", "wavlm layer pre"]  # fmt: skip
every_variant = pytest.mark.parametrize("variant", FAMILY)
STRONG = Regularisation(
    dropout=0.3, attention_dropout=0.2, activation_dropout=0.25, projection_dropout=0.15, layer_drop=0.4
)
RATES = {"hidden_dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.25, "feat_proj_dropout": 0.15}
OFF = {**dict.fromkeys(RATES, 0.0), "layerdrop": 0.0, "mask_time_prob": 0.0}


def noise(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def batch(*sizes):
    waveforms = torch.zeros(len(sizes), max(sizes))
    for row, size in zip(waveforms, sizes, strict=True):
        row[:size] = noise(size, size)
    return waveforms, torch.tensor(sizes)


def tiny(name):
    torch.manual_seed(0)
    return ENTRIES[name].create_tiny()


def everything(encoder, **changes):
    """Settings with everything on that the encoder can do."""
    chosen = dict.fromkeys(SWITCHES, 0.3) | {"mask_time_length": 3, "mask_features_length": 4} | changes
    return Regularisation(**{key: value for key, value in chosen.items() if key in encoder.possible or "_len" in key})


def seeded(run, seed=1):
    torch.manual_seed(seed)
    return run()


def gradients(encoder, layers):
    """Gradients of a random combination of ``layers`` by parameter."""
    factors = torch.randn(layers.shape, generator=torch.Generator().manual_seed(2))
    encoder.zero_grad()
    (layers * factors).sum().backward()
    return {key: weight.grad.clone() for key, weight in encoder.named_parameters() if weight.grad is not None}


# Against transformers


@pytest.fixture
def pair(reference_model, tmp_path):
    """``pair(variant, **config)``: a random reference model and our encoder of its files, both in training."""

    def make(variant, **config):
        model = reference_model(variant, **{**OFF, "mask_time_prob": 0.05, **config})
        model.save_pretrained(tmp_path / "model")
        model.config.mask_time_prob = 0.0  # it was there for the mask's vector
        name = "wavlm" if variant.startswith("wavlm") else "wav2vec2"
        encoder = create_encoder(name, weights=str(tmp_path / "model"), normalise=False, layers=["input", 1, 2, 3])
        return model.train(), encoder.train()

    return make


def compare(model, encoder, clip, theirs, ours):
    """Assert that layers and the gradients of all parameters agree; returns how many were compared."""
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        torch.testing.assert_close(b, a, atol=2e-5, rtol=1e-4, msg=lambda m, n=number: f"layer {n}: {m}")
    expected, found = gradients(model, theirs), gradients(encoder, ours)
    compared = 0
    for key, gradient in found.items():
        if key in expected:  # the positional convolution is factored there
            torch.testing.assert_close(gradient, expected[key], atol=1e-3, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}")
            compared += bool(gradient.any())
    return compared


def states_of(model, clip, **more):
    """``(4, T, D)``: what enters the first block and what leaves each, as ours after the last."""
    output = model(clip[None], output_hidden_states=True, **more)
    return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


@every_variant
def test_masked_frames_and_gradients_equal_the_reference(variant, pair, monkeypatch):
    model, encoder = pair(variant)
    encoder.regularise(Regularisation(mask_time=0.5))
    mask = torch.zeros(1, 27, dtype=torch.bool)
    mask[0, 3:9] = mask[0, 20:] = True
    monkeypatch.setattr(module, "span_mask", lambda *arguments: mask)
    clip = noise(9000, 1)
    theirs = states_of(model, clip, mask_time_indices=mask)
    ours = encoder(clip[None], torch.tensor([9000])).layers[0]
    assert torch.equal(encoder.masked_spec_embed, model.masked_spec_embed)
    assert compare(model, encoder, clip, theirs, ours) >= 40
    assert encoder.masked_spec_embed.grad.any()
    assert (encoder.eval()(clip[None], torch.tensor([9000])).layers[0] - theirs).abs().max() > 0.1


@every_variant
def test_masked_features_equal_the_reference(variant, pair, monkeypatch):
    import importlib

    model, encoder = pair(variant)
    encoder.regularise(Regularisation(mask_features=0.5))
    mask = torch.arange(32)[None] % 5 == 0
    monkeypatch.setattr(module, "span_mask", lambda *arguments: mask)
    monkeypatch.setattr(
        importlib.import_module(type(model).__module__), "_compute_mask_indices", lambda *_, **__: mask.numpy()
    )
    model.config.mask_feature_prob = 0.5
    model.config.mask_feature_min_masks = 0  # which WavLM's configuration lacks
    clip = noise(9000, 1)
    ours = encoder(clip[None], torch.tensor([9000])).layers[0]
    assert compare(model, encoder, clip, states_of(model, clip), ours) >= 39


@every_variant
def test_dropout_acts_where_the_reference_has_it(variant, pair):
    """The same random numbers in the same places in the same order: all layers and gradients agree."""
    model, encoder = pair(variant, **RATES, layerdrop=0.0)
    encoder.regularise(STRONG.model_copy(update={"layer_drop": 0.0}))
    clip = noise(9000, 1)
    run = lambda: encoder(clip[None], torch.tensor([9000])).layers[0]  # noqa: E731
    theirs, ours = seeded(lambda: states_of(model, clip)), seeded(run)
    assert compare(model, encoder, clip, theirs, ours) >= 39
    assert (seeded(run, 2) - ours).abs().max() > 0.1


@every_variant
def test_layer_drop_skips_the_blocks_that_the_reference_skips(variant, pair):
    model, encoder = pair(variant, **RATES, layerdrop=0.4)
    encoder.regularise(STRONG)
    clip, skipped = noise(9000, 1), 0
    for seed in range(6):
        with torch.no_grad():
            theirs = seeded(lambda: model(clip[None]).last_hidden_state, seed)[0]
            layers = seeded(lambda: encoder(clip[None], torch.tensor([9000])).layers[0], seed)
        torch.testing.assert_close(layers[3], theirs, atol=2e-5, rtol=1e-4)
        skipped += sum(torch.equal(a, b) for a, b in itertools.pairwise(layers))
    assert 1 <= skipped <= 12


@pytest.fixture
def whispers():
    """A random Whisper of ``transformers`` and ours, both in training; the reference takes 2 s at a time."""
    transformers = pytest.importorskip("transformers", reason="the reference comes with serkit[transformers]")
    config = transformers.WhisperConfig(
        vocab_size=60, num_mel_bins=20, d_model=128, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=96,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, max_source_positions=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        dropout=0.3, attention_dropout=0.2, activation_dropout=0.25, encoder_layerdrop=0.4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperModel(config)
    ours, state = convert_state(model.encoder.state_dict())
    encoder = type(tiny_whisper())("whisper", replace(ours, heads=2))
    encoder.load_state_dict(state)
    return model.train(), encoder.train()


def test_whisper_is_regularised_as_the_reference(whispers):
    model, encoder = whispers
    encoder.regularise(Regularisation(dropout=0.3, attention_dropout=0.2, activation_dropout=0.25, layer_drop=0.4))
    mels = torch.randn(1, 20, 200, generator=torch.Generator().manual_seed(3))
    found = []
    for seed in range(5):
        theirs = seeded(lambda: model.encoder(mels).last_hidden_state, seed)
        ours = seeded(lambda: encoder.encode_mels(mels, torch.tensor([200])).layers[:, -1], seed)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
        expected = gradients(model.encoder, theirs)
        for key, gradient in gradients(encoder, ours).items():
            if key != "embed_positions.weight":  # frozen there
                torch.testing.assert_close(gradient, expected[key], atol=1e-3, rtol=1e-3, msg=key)
        found.append(float(ours[0, 0, 0].detach()))
    assert len(set(found)) == 5


def test_whisper_masks_the_spectrogram_as_the_reference(whispers, monkeypatch):
    from transformers.models.whisper import modeling_whisper

    model, encoder = whispers
    encoder.regularise(Regularisation(mask_time=0.1, mask_features=0.1))
    masks = {200: torch.arange(200)[None] % 7 < 2, 20: torch.arange(20)[None] % 6 == 1}
    monkeypatch.setattr(module, "span_mask", lambda lengths, size, *how: masks[size])
    monkeypatch.setattr(modeling_whisper, "_compute_mask_indices", lambda shape, **how: masks[shape[1]].numpy())
    model.config.mask_time_prob = model.config.mask_feature_prob = 0.1
    model.config.apply_spec_augment = True
    mels = torch.randn(1, 20, 200, generator=torch.Generator().manual_seed(3))
    masked = model._mask_input_features(mels.clone())
    assert torch.equal(encoder.hide(mels, torch.tensor([200])), masked) and not torch.equal(masked, mels)
    clean = Regularisation()
    ours = encoder.encode_mels(mels, torch.tensor([200])).layers
    encoder.regularise(clean)
    torch.testing.assert_close(ours, encoder.encode_mels(masked, torch.tensor([200])).layers, atol=0, rtol=0)


# Masks


def lengths_of_spans(row):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


@pytest.mark.parametrize(
    "size, probability, length, least", [(99, 0.05, 10, 2), (200, 0.3, 10, 0), (60, 0.65, 7, 0), (25, 0.02, 10, 2)]
)
def test_masks_are_distributed_as_the_reference(size, probability, length, least):
    reference = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    np.random.seed(0)
    torch.manual_seed(0)
    draws = 3000
    how = {"mask_prob": probability, "mask_length": length, "min_masks": least}
    theirs = np.concatenate([reference._compute_mask_indices((1, size), **how) for _ in range(draws)])
    ours = span_mask(torch.full((draws,), size), size, probability, length, least).numpy()
    assert ours.dtype == bool and ours.shape == (draws, size)
    error = 5 * (theirs.mean(1).std() ** 2 / draws * 2) ** 0.5 + 1e-9
    assert abs(ours.mean() - theirs.mean()) < error
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 5 * (0.5 / draws) ** 0.5
    spans = [np.concatenate([lengths_of_spans(row) for row in masks]) for masks in (ours, theirs)]
    assert min(spans[0]) == min(spans[1]) == length
    assert abs(spans[0].mean() - spans[1].mean()) < 5 * (2 * spans[1].var() / len(spans[1])) ** 0.5 + 1e-9
    assert abs(len(spans[0]) - len(spans[1])) < 0.03 * len(spans[1])


def test_masks_do_not_see_padding_or_neighbours():
    draw = lambda sizes, size: seeded(lambda: span_mask(torch.tensor(sizes), size, 0.3, 5, 1), 4)  # noqa: E731
    first = draw([80, 60, 70], 80)
    second = draw([200, 60, 9], 200)
    assert torch.equal(first[1], second[1, :80]) and first[1].any()
    assert not second[1, 60:].any() and not second[2, 9:].any()
    assert not torch.equal(first[0, :60], first[1, :60])
    for size in (1, 4, 5, 6):
        mask = seeded(lambda size=size: span_mask(torch.tensor([size]), 8, 1.0, 5, 3))
        assert mask.sum() == (5 if size >= 5 else 0) and not mask[0, size:].any()
    assert not span_mask(torch.tensor([50]), 50, 0.0, 5, 0).any()
    assert seeded(lambda: span_mask(torch.tensor([50] * 40), 50, 1.0, 5, 0)).float().mean() > 0.6


@pytest.mark.parametrize("name", OWN)
def test_masks_in_a_batch_are_those_of_the_utterance(name):
    """Nothing but SpecAugment: an utterance in a batch, padded or packed, gets what it gets alone."""
    encoder = tiny(name).train()
    encoder.regularise(Regularisation(mask_time=0.5, mask_time_length=4, mask_features=0.3, mask_features_length=4))
    waveforms, lengths = batch(16_000, 9000)
    alone = seeded(lambda: encoder(waveforms[:1], lengths[:1])).layers[0]
    for encoder.packed in (False, True) if name != "whisper" else (None,):
        # The features' seeds follow those of the frames, which are as many as utterances.
        with pytest.MonkeyPatch.context() as patch:
            drawn = seeded(lambda: torch.randint(2**32, (2,)).tolist())
            seeds = iter([torch.tensor([seed, 1]) for seed in drawn])
            patch.setattr(torch, "randint", lambda *_, seeds=seeds: next(seeds))
            together = encoder(waveforms, lengths).layers[0]
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert (encoder.eval()(waveforms[:1], lengths[:1]).layers[0] - alone).abs().max() > 0.1


# The contract of every encoder


def test_settings_are_checked():
    assert Regularisation().switched_on() == [] and STRONG.switched_on() == list(SWITCHES[:5])
    for wrong in ({"dropout": 1.0}, {"mask_time": 1.1}, {"mask_time_length": 0}, {"layer_drop": -0.1}, {"drop": 0.1}):
        with pytest.raises(ValidationError):
            Regularisation(**wrong)


@every_encoder
def test_what_an_encoder_cannot_do_is_refused(name):
    encoder = tiny(name)
    encoder.regularise(Regularisation())
    for switch in set(SWITCHES) - encoder.possible:
        with pytest.raises(InputError, match=f"encoder {name}: has no place for {switch}: set 0"):
            encoder.regularise(Regularisation(**{switch: 0.1}))
    assert bool(encoder.possible) == bool(list(encoder.parameters()))


def test_an_encoder_without_blocks_has_nothing_to_drop():
    encoder = type(tiny("wav2vec2"))("wav2vec2", tiny("wav2vec2").config, layers=[0])
    assert encoder.depths == 2 and encoder.possible == {"projection_dropout", "mask_time", "mask_features"}


@every_encoder
def test_each_setting_acts_in_training_alone(name):
    encoder = tiny(name)
    inputs = batch(16_000, 9000)
    with torch.no_grad():
        plain, state, fingerprint = encoder(*inputs).layers, list(encoder.state_dict()), encoder.fingerprint()
        training = encoder.train()(*inputs).layers
        torch.testing.assert_close(training, plain, atol=1e-5, rtol=0)
        for switch in sorted(encoder.possible):
            encoder.regularise(Regularisation(**{switch: 0.5}, mask_time_length=3, mask_features_length=4))
            drawn = [seeded(lambda: encoder.train()(*inputs), seed) for seed in (1, 2, 3, 4, 5, 6, 7, 8)]
            assert len({float(features.layers.sum()) for features in drawn}) > 1, switch
            padding = ~drawn[0].mask()[:, None, :, None].expand_as(drawn[0].layers)
            assert not any(features.layers[padding].any() for features in drawn), switch
            assert torch.equal(encoder.eval()(*inputs).layers, plain), switch
            assert encoder.fingerprint() == fingerprint, switch
        encoder.regularise(Regularisation())
        assert torch.equal(encoder.train()(*inputs).layers, training)
    if name in OWN:
        assert list(encoder.state_dict()) == state


@every_encoder
def test_gradients_in_evaluation_do_not_know_of_it(name):
    encoder = tiny(name)
    if not encoder.possible:
        pytest.skip(f"{name} is not trained")
    inputs = batch(16_000, 9000)
    plain = gradients(encoder, encoder(*inputs).layers)
    encoder.regularise(everything(encoder))
    found = gradients(encoder, encoder(*inputs).layers)
    assert found.keys() == plain.keys() and all(torch.equal(found[key], plain[key]) for key in plain)


@every_encoder
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_checkpointing_gives_the_same_gradients_with_less_memory(name, rate, packed):
    encoder = tiny(name)
    if not encoder.possible or (packed and name not in ("wav2vec2", "wavlm")):
        pytest.skip(f"{name} is not trained, or not packed")
    if packed:
        encoder.packed = True
    encoder.regularise(everything(encoder, layer_drop=rate))
    inputs, results = batch(16_000, 9000), []
    for encoder.checkpointing in (False, True):
        kept = {}

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        encoder.train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layers = seeded(lambda: encoder(*inputs).layers)
        amount = sum(kept.values())
        results.append((layers.detach(), gradients(encoder, layers), amount))
    (layers, expected, plain), (again, found, less) = results
    assert torch.equal(layers, again) and found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-6, rtol=1e-6, msg=key)
    assert rate or less < 0.9 * plain, (less, plain)


@every_encoder
def test_every_parameter_has_a_depth(name):
    encoder = tiny(name)
    if encoder.possible:
        encoder.regularise(everything(encoder))
    depths = {key: encoder.depth(key) for key, _ in encoder.named_parameters()}
    blocks = 2 if depths else -2
    assert encoder.depths == blocks + 2
    assert set(depths.values()) == set(range(blocks + 2)) - ({1} if name == "whisper" else set())
    for key, depth in depths.items():
        number = next((int(part) for part in key.partition("layers.")[2].split(".")[:1] if part.isdigit()), None)
        if "pos_conv_embed" in key:
            assert depth == 1, key
        elif "conv_layers" in key or key.startswith(("conv", "embed_positions")):
            assert depth == 0, key
        elif number is not None:
            assert depth == number + 2, key
        else:
            assert depth == (blocks + 1 if key.startswith("layer_norm") else 1), key


@every_variant
def test_depth_follows_the_place_of_the_last_normalisation(variant, pair, tmp_path):
    _, encoder = pair(variant)
    adapter = create_encoder("transformers", weights=str(tmp_path / "model"))
    for model, start in ((encoder, ""), (adapter, "model.")):
        assert model.depth(f"{start}encoder.layer_norm.weight") == (4 if encoder.config.pre_norm else 1)
        assert model.depth(f"{start}masked_spec_embed") == model.depth(f"{start}encoder.pos_conv_embed.conv.bias") == 1
        assert model.depths == 5


@every_encoder
@pytest.mark.parametrize("front", [(None, None, None), (35, -23, 0.8)])
def test_prepared_utterances_are_encoded_as_before(name, front):
    encoder = tiny(name)
    encoder.trim, encoder.level, encoder.limit = front
    waveforms, lengths = batch(16_000, 9000)
    waveforms[:, :4000] *= 1e-4
    with torch.no_grad():
        whole = encoder(waveforms, lengths)
        prepared, samples, start = encoder.prepare(waveforms, lengths)
        features = encoder.encode(prepared, samples)
    assert torch.equal(features.layers, whole.layers) and torch.equal(features.lengths, whole.lengths)
    assert prepared.shape == (2, samples.max())
    if start is None:
        assert whole.start is None and front[0] is None
    else:
        assert torch.equal(start // encoder.hop, whole.start) and start.min() > 0
    with pytest.raises(ValueError, match="needs at least"):
        encoder.prepare(waveforms, torch.tensor([16_000, 3]))


# Own modules


@pytest.mark.parametrize("name", OWN)
def test_layer_drop_has_its_rate(name):
    encoder = tiny(name).train()
    encoder.regularise(Regularisation(layer_drop=0.3))
    calls = []
    for number, block in enumerate(encoder.layers if name == "whisper" else encoder.encoder.layers):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(400):
            encoder(*batch(800))
    rates = [1 - calls.count(number) / 400 for number in (0, 1)]
    assert abs(rates[1] - 0.3) < 0.1  # four standard errors
    assert rates[0] == 0 if name == "wavlm" else abs(rates[0] - 0.3) < 0.1


def test_the_masks_vector_comes_from_the_checkpoint_and_only_with_masks(pair):
    model, encoder = pair("hubert group post")
    expected = model.masked_spec_embed.detach()
    assert "masked_spec_embed" not in encoder.state_dict()
    encoder.regularise(STRONG)
    assert "masked_spec_embed" not in encoder.state_dict()
    for _ in range(2):
        encoder.regularise(Regularisation(mask_time=0.1))
        assert torch.equal(dict(encoder.named_parameters())["masked_spec_embed"], expected)
        assert torch.equal(copy.deepcopy(encoder).masked_spec_embed, expected)
        encoder.regularise(Regularisation())
        assert "masked_spec_embed" not in encoder.state_dict()
    fresh = tiny("wav2vec2")
    fresh.regularise(Regularisation(mask_time=0.1))
    vector = fresh.masked_spec_embed
    assert vector.shape == (32,) and 0 <= vector.min() < 0.3 < 0.7 < vector.max() <= 1 and vector.requires_grad


def test_the_fast_path_does_not_stand_in_for_regularised_training():
    encoder = tiny("wav2vec2")
    with torch.no_grad():
        encoder.train()(*batch(8000))
        assert encoder.prepared is not None
        encoder.regularise(STRONG)
        encoder(*batch(8000))
        assert encoder.prepared is None
        encoder.eval()(*batch(8000))
        assert encoder.prepared is not None


def test_a_checkpointed_block_keeps_its_input_alone():
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    amounts = {}
    for blocks, checkpointing in ((2, False), (6, False), (2, True), (6, True)):
        encoder = type(tiny("wav2vec2"))("wav2vec2", replace(tiny("wav2vec2").config, blocks=blocks), layers=[blocks])
        encoder.checkpointing = checkpointing
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = encoder(*batch(16_000))
        amounts[blocks, checkpointing] = sum(kept.values())
    frames = features.layers[0, 0].nbytes
    assert amounts[6, True] - amounts[2, True] <= 4 * frames < 0.1 * (amounts[6, False] - amounts[2, False])


def test_packed_training_is_regularised_too():
    encoder = tiny("wav2vec2").train()
    encoder.packed = True
    for switch in sorted(encoder.possible):
        encoder.regularise(Regularisation(**{switch: 0.5}, mask_time_length=3))
        first, *others = (seeded(lambda: encoder(*batch(8000, 5000)).layers, seed) for seed in (1, 1, 2, 3, 4, 5, 6))
        assert torch.equal(first, others[0]) and not all(torch.equal(first, other) for other in others), switch


@pytest.mark.parametrize("family", ["UniSpeechSat", "Wav2Vec2Conformer", "Wav2Vec2Bert"])
def test_foreign_models_take_rates_for_those_of_their_configuration(family):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "conv_depthwise_kernel_size": 5,
        "conformer_conv_dropout": 0.1,
    }  # fmt: skip
    if family != "Wav2Vec2Bert":
        sizes["conv_dim"] = (16,) * 7
    make = getattr(transformers, f"{family}Config")
    from serkit.encoders.transformers import TransformersEncoder

    extractor = transformers.SeamlessM4TFeatureExtractor() if family == "Wav2Vec2Bert" else None
    encoder = TransformersEncoder(getattr(transformers, f"{family}Model")(make(**sizes)), extractor, False).train()

    def rates(model):
        modules = model.named_modules()
        return {n: m.p for n, m in modules if isinstance(m, torch.nn.Dropout)} | {
            n: m.dropout for n, m in model.named_modules() if isinstance(getattr(m, "dropout", None), float)
        }

    assert set(rates(encoder.model).values()) == {0.0}
    encoder.regularise(everything(encoder, dropout=0.3, attention_dropout=0.2, activation_dropout=0.25))
    told = {**sizes, **RATES, "feat_proj_dropout": 0.3, "conformer_conv_dropout": 0.3}
    assert rates(encoder.model) == rates(getattr(transformers, f"{family}Model")(make(**told)))
    assert {0.2, 0.25, 0.3} <= set(rates(encoder.model).values())
    assert {encoder.depth(key) for key, _ in encoder.named_parameters()} >= {1, 2, 3}
    layers = seeded(lambda: encoder(*batch(9000)).layers)
    assert (seeded(lambda: encoder(*batch(9000)).layers, 2) - layers).abs().max() > 0.01
    assert gradients(encoder, layers)["model.masked_spec_embed"].any()
