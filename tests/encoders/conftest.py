"""Small random models of ``transformers``, in every build of the wav2vec 2.0 family."""

from __future__ import annotations

import pytest
import torch

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_buckets": 20, "max_bucket_distance": 20,
    "codevector_dim": 8, "proj_codevector_dim": 8, "num_codevectors_per_group": 4, "vocab_size": 6,
    "classifier_proj_size": 8,
}  # fmt: skip
GROUP_POST = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LAYER_PRE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
VARIANTS = {
    "wav2vec2 group post": ("Wav2Vec2", GROUP_POST),
    "wav2vec2 group pre": ("Wav2Vec2", {**GROUP_POST, "do_stable_layer_norm": True}),
    "wav2vec2 layer post": ("Wav2Vec2", {**LAYER_PRE, "do_stable_layer_norm": False}),
    "wav2vec2 layer pre": ("Wav2Vec2", LAYER_PRE),
    "wav2vec2 odd positions": ("Wav2Vec2", {**GROUP_POST, "num_conv_pos_embeddings": 15, "layer_norm_eps": 1e-3}),
    "hubert group post": ("Hubert", GROUP_POST),
    "hubert layer pre": ("Hubert", LAYER_PRE),
    "hubert without projection norm": ("Hubert", {**GROUP_POST, "feat_proj_layer_norm": False}),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 7}),
    "wavlm group post": ("WavLM", GROUP_POST),
    "wavlm layer pre": ("WavLM", LAYER_PRE),
}


def shake(module, seed):
    """Random weights that matter everywhere, normalisations and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                noise = noise / max(weight[0].numel(), 1) ** 0.5 if "rel" not in key else noise
            elif "norm" in key and key.endswith("weight"):
                noise = 1 + 0.2 * noise
            else:
                noise = 0.2 * noise
            weight.copy_(noise)
    return module.eval()


@pytest.fixture(scope="session")
def reference_model():
    """``reference_model(variant, task="Model", seed=0, **changes)``: a random model of ``transformers``."""
    transformers = pytest.importorskip("transformers", reason="the reference comes with serkit[transformers]")

    def make(variant, task="Model", seed=0, **changes):
        family, options = VARIANTS[variant]
        config = getattr(transformers, f"{family}Config")(**{**SIZES, **options, **changes})
        return shake(getattr(transformers, f"{family}{task}")(config), seed)

    return make


@pytest.fixture(scope="session")
def reference_layers():
    """``reference_layers(model, waveforms)``: its projection, its hidden states, its last hidden state."""

    @torch.no_grad()
    def run(model, waveforms):
        seen = []
        hook = model.feature_projection.register_forward_hook(lambda *call: seen.append(call[2]))
        output = model(waveforms, output_hidden_states=True)
        hook.remove()
        projected = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        return projected, output.hidden_states, output.last_hidden_state

    return run
