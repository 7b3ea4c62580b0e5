"""Any other speech encoder of Hugging Face's ``transformers`` behind serkit's contract, one utterance at a time.

For models that serkit has no module of its own for, and as a second opinion on those it has. No batch is ever padded,
so nothing that these models do to padding can act; for the same reason it is slower than an own module on a GPU.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from serkit.encoders.base import Encoder, EncoderEntry, FrameFeatures, register
from serkit.encoders.regularise import SWITCHES, Regularisation
from serkit.encoders.wav2vec2 import unit_variance
from serkit.errors import InputError, missing_extra

WAVEFORM_MODELS = ("wav2vec2", "wav2vec2-conformer", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
FILTERBANK_MODELS = ("wav2vec2-bert",)


class TransformersEncoder(Encoder):
    """A ``transformers`` model; layer ``i`` is its ``hidden_states[i]``: the input of the blocks, then each block.

    The last layer is the model's ``last_hidden_state``, after the final normalisation where the model has one (versions
    before 5 have the same in ``hidden_states``, later ones do not). ``extractor`` turns waveforms into filter bank
    features; None means that the model takes waveforms, of mean 0 and variance 1 if ``normalise``.

    In training it does what :meth:`regularise` was told and not what its configuration says. ``checkpointing`` computes
    each utterance again as a whole.
    """

    hop = 320
    possible = frozenset(SWITCHES) - {"layer_drop"}  # the model would return fewer hidden states

    def __init__(self, model: Any, extractor: Any, normalise: bool, layers: Sequence[int] | None = None) -> None:
        super().__init__()
        config = model.config
        self.name, self.model, self.extractor, self.normalise = "transformers", model, extractor, normalise
        config.layerdrop = 0.0  # a dropped block would shift the layers
        known = range(config.num_hidden_layers + 1)
        self.kept = tuple(known if layers is None else layers)
        if not self.kept or not set(self.kept) <= set(known) or len(set(self.kept)) < len(self.kept):
            raise InputError(f"layers={list(self.kept)}: give different ones out of 0 to {known[-1]}")
        self.dim, self.num_layers = config.hidden_size, len(self.kept)
        self.min_samples = 560 if extractor else _receptive_field(config)
        facts = {key: value for key, value in config.to_dict().items() if key != "transformers_version"}
        self.settings = json.dumps([facts, self.kept, normalise], sort_keys=True, default=str)
        config.apply_spec_augment = False  # it would draw from NumPy's generator
        set_dropout(model, self.regularisation)
        model.feature_projection.register_forward_hook(self.hide)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        if self.extractor is not None:
            return ((lengths - 400) // 160 + 1) // 2
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        frames = self.frame_lengths(lengths)
        size = int(frames.max())
        clips = [row[:samples] for row, samples in zip(waveforms, lengths.tolist(), strict=True)]
        if self.checkpointing and torch.is_grad_enabled():
            states = [checkpoint(self.encode_one, clip, use_reentrant=False) for clip in clips]
        else:
            states = [self.encode_one(clip) for clip in clips]
        padded = [F.pad(state, (0, 0, 0, size - state.shape[1])) for state in states]
        return FrameFeatures(torch.stack(padded), frames, self.frame_rate)

    def encode_one(self, waveform: Tensor) -> Tensor:
        """Return the layers ``(N, T, D)`` of one ``waveform (S,)``."""
        output = self.model(self.inputs(waveform), output_hidden_states=True)
        states = list(output.hidden_states)
        if output.last_hidden_state.shape == states[-1].shape:  # an adapter after the blocks changes it
            states[-1] = output.last_hidden_state
        return torch.cat([states[layer] for layer in self.kept]).float()

    def hide(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Mask frames and features of what a model projects, ``(1, T, D)``, before its blocks: SpecAugment."""
        x = output[0] if isinstance(output, tuple) else output
        time = self.time_mask(torch.tensor([x.shape[1]]), x.shape[1])
        if time is not None:
            x = torch.where(time.to(x.device)[:, :, None], self.model.masked_spec_embed.to(x.dtype), x)
        features = self.feature_mask(1, x.shape[2], x.device)
        if features is not None:
            x = x.masked_fill(features[:, None, :], 0.0)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    def regularise(self, settings: Regularisation) -> None:
        super().regularise(settings)
        set_dropout(self.model, settings)
        if settings.mask_time > 0 and not hasattr(self.model, "masked_spec_embed"):
            vector = torch.rand(self.dim).to(next(self.model.parameters()))
            self.model.masked_spec_embed = nn.Parameter(vector)
            self.training_only = ("model.masked_spec_embed",)

    def depth(self, name: str) -> int:
        config = self.model.config
        block = re.match(r"model\.encoder\.layers\.(\d+)\.", name)
        if block:
            return 2 + int(block[1])
        if name.startswith("model.feature_extractor."):
            return 0
        last = getattr(config, "do_stable_layer_norm", config.model_type == "wav2vec2-conformer")
        above = ("model.adapter.", "model.intermediate_ffn.", *(["model.encoder.layer_norm."] if last else []))
        return 1 + config.num_hidden_layers if name.startswith(above) else 1

    def inputs(self, waveform: Tensor) -> Tensor:
        """Return what the model takes for one ``waveform (S,)``: samples ``(1, S)`` or features ``(1, T, bands)``."""
        if self.extractor is not None:
            samples = waveform.detach().cpu().numpy()
            features = self.extractor(samples, sampling_rate=self.sampling_rate, padding=False, return_tensors="pt")
            return features.input_features.to(waveform.device)
        if self.normalise:
            return unit_variance(waveform[None], torch.tensor([len(waveform)], device=waveform.device))
        return waveform[None]


def set_dropout(model: Any, settings: Regularisation) -> None:
    """Give every dropout of ``model`` the rate that it has when its configuration is as ``settings``."""
    config = copy.deepcopy(model.config)
    config.hidden_dropout = config.conformer_conv_dropout = settings.dropout
    config.attention_dropout, config.activation_dropout = settings.attention_dropout, settings.activation_dropout
    config.feat_proj_dropout = settings.projection_dropout
    with torch.device("meta"):
        rates = dict(type(model)(config).named_modules())
    for name, module in model.named_modules():
        for key in [key for key, value in vars(module).items() if isinstance(value, float)]:
            if "dropout" in key or (key == "p" and isinstance(module, nn.Dropout)):
                setattr(module, key, getattr(rates[name], key))


def _receptive_field(config: Any) -> int:
    samples, hop = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples += (kernel - 1) * hop
        hop *= stride
    if hop != TransformersEncoder.hop:
        raise InputError(f"a {config.model_type} model with {hop} samples per frame is not supported: it must be 320")
    return samples


def create(weights: str, layers: Sequence[int] | None = None, normalise: bool | None = None) -> TransformersEncoder:
    """Load the model behind ``weights``, a folder in Hugging Face's format or a Hugging Face id.

    ``layers`` picks and orders hidden states. ``normalise`` overrides ``do_normalize`` of the feature extractor (models
    that take waveforms). Raises ``InputError`` when ``transformers`` is not installed, the model is of a kind that this
    contract does not fit, or weights are missing in the checkpoint.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise missing_extra("transformers", "transformers") from error
    source = str(Path(weights).expanduser()) if Path(weights).expanduser().exists() else weights
    try:
        kind = transformers.AutoConfig.from_pretrained(source).model_type
        if kind not in (*WAVEFORM_MODELS, *FILTERBANK_MODELS):
            known = ", ".join((*WAVEFORM_MODELS, *FILTERBANK_MODELS))
            raise InputError(f"{weights}: a {kind} model does not give one frame per 20 ms (known: {known})")
        model, info = transformers.AutoModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{weights}: transformers cannot load it: {' '.join(str(error).split())[:200]}") from error
    missing = sorted(set(info["missing_keys"]) - {"masked_spec_embed"})
    if missing:
        raise InputError(f"{weights}: lacks weights that would be random: {', '.join(missing)}")
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(source)
    except (OSError, ValueError):
        extractor = transformers.SeamlessM4TFeatureExtractor() if kind in FILTERBANK_MODELS else None
    if normalise is None:
        layered = getattr(model.config, "feat_extract_norm", "layer") == "layer"
        normalise = bool(getattr(extractor, "do_normalize", layered))
    return TransformersEncoder(model, extractor if kind in FILTERBANK_MODELS else None, normalise, layers).eval()


def create_tiny() -> TransformersEncoder:
    """Return a small HuBERT with random weights, for tests."""
    import transformers

    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0, mask_feature_prob=0.0,
    )  # fmt: skip
    return TransformersEncoder(transformers.HubertModel(config), None, normalise=True).eval()


register(EncoderEntry("transformers", "other Hugging Face speech encoders from weights=", create, create_tiny))
