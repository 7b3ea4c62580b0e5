"""wav2vec 2.0 (Baevski et al. 2020, https://arxiv.org/abs/2006.11477) and the encoders of the same build.

One module for wav2vec 2.0 base and large, XLSR, HuBERT (Hsu et al. 2021) and data2vec-audio (Baevski et al. 2022);
WavLM builds on it. Equal to ``transformers`` on one utterance at a time, with the same parameter names; in a batch,
padding changes nothing: the first normalisation counts real frames only, and no convolution sees beyond them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from serkit.encoders.base import Encoder, EncoderEntry, FrameFeatures, register
from serkit.encoders.blocks import Attention, FrontEnd, PositionStack, Projection, Transformer, Wav2Vec2Config
from serkit.encoders.fast import FastEncoder, obstacle
from serkit.encoders.front import frame_mask
from serkit.encoders.gemm import check_precision
from serkit.encoders.regularise import SWITCHES, Regularisation
from serkit.encoders.weights import Checkpoint, encoder_state, load_checkpoint
from serkit.errors import InputError

ANCHOR = "feature_extractor.conv_layers.0.conv.weight"
MODEL_TYPES = ("wav2vec2", "hubert", "data2vec-audio")


class Wav2Vec2Encoder(Encoder):
    """Convolutions (50 frames per second), projection, positional convolution and transformer blocks.

    Layer 0 is the output of the projection, layer ``i`` that of block ``i``; the last one of a pre-norm model is after
    the final normalisation. "input" is what enters the first block (``hidden_states[0]`` of ``transformers``; all other
    layers have its numbers). ``layers`` picks some of them, in that order; nothing above the highest is computed or
    kept in memory. ``packed`` runs the blocks on the real frames of all utterances without padding, meant for a GPU.
    Memory alone limits the length; it grows with the square of the frames where no fused attention kernel runs.

    On a CPU without gradients utterances go one by one through :class:`~serkit.encoders.fast.FastEncoder`, which gives
    the same numbers in less time; ``precision`` "int8" rounds its products to 8 bits and works nowhere else.
    """

    attention: type[Attention] = Attention
    sees_padding = False
    """Whether, in ``train()`` mode, padding acts as it did in the first implementations of models without a mask."""
    spared: int = 0
    """How many of the first blocks layer drop never skips."""
    training_only = ("masked_spec_embed",)
    normalise_eps: float = 1e-7
    """What is added to a waveform's variance before it is divided by its root."""
    prefixed: int = 0
    """How many vectors the blocks see before the frames."""

    def __init__(
        self,
        name: str,
        config: Wav2Vec2Config,
        layers: Sequence[int | str] | None = None,
        packed: bool = False,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.name, self.config, self.packed = name, config, packed
        self.arithmetic = check_precision(precision)
        if packed and precision == "int8":
            raise InputError('packed is for a GPU and precision="int8" for a CPU: choose one')
        self.prepared: FastEncoder | None = None
        self.kept = choose_layers(layers, config.blocks)
        self.dim, self.num_layers = config.dim, len(self.kept)
        self.min_samples, self.hop = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            self.min_samples += (kernel - 1) * self.hop
            self.hop *= stride
        self.settings = f"{config}|{self.kept}" + ("|int8" if precision == "int8" else "")
        self.feature_extractor = FrontEnd(config)
        self.feature_projection = Projection(config)
        depth = max(layer for layer in (*self.kept, 0) if layer != "input")
        self.encoder = Transformer(config, int(depth), self.attention) if set(self.kept) != {0} else None
        self.possible = frozenset(SWITCHES)
        if not depth:  # no blocks
            self.possible -= {"attention_dropout", "activation_dropout", "layer_drop"}
        if self.encoder is None:
            self.possible -= {"dropout"}
        self.masked_spec_embed: nn.Parameter | None = None
        self.mask_vector: Tensor | None = None

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        reason = obstacle(self, waveforms)
        if reason is None:
            return self.encode_each(waveforms, lengths)
        if not torch.compiler.is_compiling():
            self.prepared = None  # training goes on: its next weights will be others
        if self.arithmetic == "int8":
            raise InputError(f'{self.name}: precision="int8" is inference on a CPU, and here {reason}: use "fp32"')
        if self.packed and not torch.compiler.is_compiling():
            return self.encode_packed(waveforms, lengths)
        if self.sees_padding and self.training:
            return self.encode_with_padding(waveforms, lengths)
        return self.encode_padded(waveforms, lengths)

    def encode_padded(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        """Encode all utterances at once as ``(B, T, D)``, of whose frames only the real ones count."""
        padded = torch.compiler.is_compiling() or bool((lengths < waveforms.shape[1]).any())
        frames = self.frame_lengths(lengths)
        x = self.front_end(waveforms, lengths, padded)
        mask = frame_mask(frames, x.shape[1]) if padded else None
        states = self.transform(self.hide(self.project(x), frames), mask)
        return FrameFeatures(torch.stack(states, 1), frames, self.frame_rate)

    def encode_with_padding(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        """Encode the zeros after the shorter utterances as if they had been recorded; all frames count as real."""
        waveforms = waveforms.masked_fill(~frame_mask(lengths, waveforms.shape[1]), 0.0)
        if self.config.normalise:
            waveforms = unit_variance(waveforms, lengths, self.normalise_eps)
        frames = self.frame_lengths(torch.full_like(lengths, waveforms.shape[1]))
        x = self.project(self.feature_extractor(waveforms, None))
        states = self.transform(self.hide(x, frames), None)
        return FrameFeatures(torch.stack(states, 1), frames, self.frame_rate)

    def encode_each(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        """Encode as :meth:`encode` does, utterance by utterance with weights laid out for a CPU core.

        They are laid out at the first call and again whenever a weight has changed.
        """
        if self.prepared is None or not self.prepared.fits(self):
            self.prepared = FastEncoder(self, self.arithmetic)
        frames = self.frame_lengths(lengths)
        layers = waveforms.new_zeros(len(lengths), self.num_layers, int(frames.max()), self.dim)
        for row, (samples, count) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
            waveform = waveforms[row : row + 1, :samples]
            if self.config.normalise:
                waveform = unit_variance(waveform, lengths[row : row + 1], self.normalise_eps)
            self.prepared(waveform[0], layers[row, :, :count])
        return FrameFeatures(layers, frames, self.frame_rate)

    def front_end(self, waveforms: Tensor, lengths: Tensor, padded: bool = True) -> Tensor:
        """Return the output ``(B, T, C)`` of the convolutions; frames past an utterance's end are arbitrary."""
        if padded:
            waveforms = waveforms.masked_fill(~frame_mask(lengths, waveforms.shape[1]), 0.0)
        if self.config.normalise:
            waveforms = unit_variance(waveforms, lengths, self.normalise_eps)
        return self.feature_extractor(waveforms, lengths if padded else None)

    def project(self, x: Tensor) -> Tensor:
        """Return layer 0 ``(..., D)`` of front-end frames ``x (..., C)``."""
        return self.feature_projection(x)

    def hide(self, x: Tensor, frames: Tensor) -> Tensor:
        """Mask layer 0 ``x (B, T, D)``, of which ``frames (B,)`` are real: SpecAugment, in training when asked for.

        Masked frames become the learned vector that the model was pretrained with, masked features zero.
        """
        time = self.time_mask(frames, x.shape[1])
        if time is not None:
            assert self.masked_spec_embed is not None
            x = torch.where(time[:, :, None], self.masked_spec_embed.to(x.dtype), x)
        features = self.feature_mask(x.shape[0], x.shape[2], x.device)
        return x if features is None else x.masked_fill(features[:, None, :], 0.0)

    def regularise(self, settings: Regularisation) -> None:
        super().regularise(settings)
        if settings.mask_time > 0 and self.masked_spec_embed is None:
            weight = self.feature_projection.projection.weight
            vector = torch.rand(self.dim) if self.mask_vector is None else self.mask_vector.clone()
            self.masked_spec_embed = nn.Parameter(vector.to(weight))
        elif settings.mask_time == 0 and self.masked_spec_embed is not None:
            self.mask_vector, self.masked_spec_embed = self.masked_spec_embed.detach(), None

    def depth(self, name: str) -> int:
        block = re.match(r"encoder\.layers\.(\d+)\.", name)
        if block:
            return 2 + int(block[1])
        if name.startswith("feature_extractor."):
            return 0
        if self.encoder is not None and self.config.pre_norm and name.startswith("encoder.layer_norm."):
            return 1 + len(self.encoder.layers)
        return 1

    def transform(self, x: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return the kept layers ``(B, T, D)`` that follow from layer 0 ``x``, zero where ``mask (B, T)`` is False."""
        states: dict[int | str, Tensor] = {0: x}
        if self.encoder is not None:
            states["input"] = self.position(x, mask)
            after = self.run_blocks(self.prefix(states["input"]), mask, self.position_bias(x.shape[1]))
            states |= {number: state[:, self.prefixed :] for number, state in after.items()}
        kept = (states[layer].float() for layer in self.kept)
        return [state if mask is None else state * mask[:, :, None] for state in kept]

    def position(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the input ``(B, T, D)`` of the first block: layer 0 ``x`` plus its positional convolution."""
        assert self.encoder is not None
        embed, mask = self.encoder.pos_conv_embed, None if mask is None else mask[:, :, None]
        positions = x
        for layer in embed.layers if isinstance(embed, PositionStack) else [embed]:
            positions = layer((positions if mask is None else positions * mask).transpose(1, 2)).transpose(1, 2)
        x = x + positions
        x = x if self.config.pre_norm or self.encoder.layer_norm is None else self.encoder.layer_norm(x)
        return self.drop(x, self.regularisation.dropout)

    def prefix(self, x: Tensor) -> Tensor:
        """Put before the input ``x (B, T, D)`` of the first block the ``prefixed`` vectors, of which there are none."""
        return x

    def position_bias(self, size: int) -> Tensor | None:
        """Return a bias ``(heads, size, size)`` of the attention scores that depends on positions, None here."""
        return None

    def position_bias_rows(self, size: int) -> Callable[[slice], Tensor] | None:
        """Return what computes some rows ``(heads, rows, size)`` of that bias; None where it is taken as a whole."""
        return None

    def run_blocks(
        self, x: Tensor, mask: Tensor | None, bias: Tensor | None, sizes: list[int] | None = None
    ) -> dict[int | str, Tensor]:
        """Return the output of every block by number; frames are packed ``(F, D)`` when ``sizes`` is given."""
        assert self.encoder is not None
        states: dict[int | str, Tensor] = {}
        for number, block in enumerate(self.encoder.layers, 1):
            x = states[number] = self.run_block(block, x, mask, bias, sizes, droppable=number > self.spared)
        if self.config.pre_norm and self.encoder.layer_norm is not None:
            states[self.config.blocks] = self.encoder.layer_norm(x)
        return states

    def encode_packed(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        """Encode as :meth:`encode` does, with the real frames of all utterances side by side, ``(F, D)``.

        Linear layers and normalisations see no padding, and attention runs inside each utterance: with one kernel for
        all in half precision on a GPU (``torch.autocast``), utterance by utterance elsewhere.
        """
        frames = self.frame_lengths(lengths)
        x = self.front_end(waveforms, lengths)
        mask = frame_mask(frames, x.shape[1])

        def unpack(packed: Tensor) -> Tensor:
            return packed.new_zeros(*mask.shape, packed.shape[1]).masked_scatter(mask[:, :, None], packed)

        x = self.project(x[mask])
        if self.training and self.regularisation.switched_on():
            x = self.hide(unpack(x), frames)[mask]
        states: dict[int | str, Tensor] = {0: x}
        if self.encoder is not None:
            x = states["input"] = self.position(unpack(x), mask)[mask]
            states |= self.run_blocks(x, None, self.position_bias(mask.shape[1]), frames.tolist())
        kept = [unpack(states[layer].float()) for layer in self.kept]
        return FrameFeatures(torch.stack(kept, 1), frames, self.frame_rate)


def choose_layers(layers: Sequence[int | str] | None, blocks: int) -> tuple[int | str, ...]:
    """Return the layers to keep: 0 to ``blocks`` for None; raises ``InputError`` for one that does not exist."""
    known: list[int | str] = [*range(blocks + 1), "input"]
    if layers is None:
        return tuple(known[:-1])
    wrong = [layer for layer in layers if layer not in known or isinstance(layer, bool)]
    if wrong or not layers or len(set(layers)) < len(layers):
        raise InputError(f'layers={list(layers)}: give different ones out of 0 to {blocks} and "input"')
    return tuple(layers)


def unit_variance(waveforms: Tensor, lengths: Tensor, eps: float = 1e-7) -> Tensor:
    """Bring the ``lengths (B,)`` real samples of ``waveforms (B, S)``, zero after, to mean 0 and variance 1."""
    count = lengths[:, None]
    centred = waveforms - waveforms.sum(1, keepdim=True) / count
    centred = centred * frame_mask(lengths, waveforms.shape[1])
    return centred * (centred.square().sum(1, keepdim=True) / count + eps).rsqrt()


def read_config(checkpoint: Checkpoint, model_types: Sequence[str] = MODEL_TYPES) -> Wav2Vec2Config:
    """Turn a checkpoint's ``config.json`` into ours; raises ``InputError`` for what this module does not compute."""
    config, kind = checkpoint.config, checkpoint.config.get("model_type")
    if not config:
        raise InputError(f"{checkpoint.source}: there is no config.json beside the weights: put the model's there")
    if kind not in model_types:
        family = next(
            (name for name in ("wav2vec2", "wavlm", "emotion2vec") if kind == name or kind in MODEL_TYPES),
            "transformers",
        )
        raise InputError(f"{checkpoint.source}: is a {kind} checkpoint: use the encoder {family!r}")
    data2vec = kind == "data2vec-audio"
    unsupported = [key for key in ("hidden_act", "feat_extract_activation") if config.get(key, "gelu") != "gelu"]
    unsupported += [key for key in ("adapter_attn_dim", "conv_pos_batch_norm") if config.get(key)]
    if unsupported:
        raise InputError(
            f"{checkpoint.source}: {unsupported[0]} = {config[unsupported[0]]!r} is not supported: "
            "use the encoder 'transformers'"
        )
    base = Wav2Vec2Config()
    kernel, stack = config.get("num_conv_pos_embeddings", base.position_kernel), 0
    if data2vec:
        kernel, stack = config.get("conv_pos_kernel_size", 19), config.get("num_conv_pos_embeddings", 5)
    front_norm = "layer" if data2vec else config.get("feat_extract_norm", "group")
    return Wav2Vec2Config(
        dim=config.get("hidden_size", base.dim),
        blocks=config.get("num_hidden_layers", base.blocks),
        heads=config.get("num_attention_heads", base.heads),
        ffn=config.get("intermediate_size", base.ffn),
        conv_dim=tuple(config.get("conv_dim", base.conv_dim)),
        conv_kernel=tuple(config.get("conv_kernel", base.conv_kernel)),
        conv_stride=tuple(config.get("conv_stride", base.conv_stride)),
        conv_bias=config.get("conv_bias", False),
        front_norm=front_norm,
        projection_norm=config.get("feat_proj_layer_norm", True),
        pre_norm=not data2vec and config.get("do_stable_layer_norm", False),
        position_kernel=kernel,
        position_groups=config.get("num_conv_pos_embedding_groups", base.position_groups),
        position_layers=stack,
        eps=config.get("layer_norm_eps", base.eps),
        normalise=checkpoint.preprocessor.get("do_normalize", front_norm == "layer"),
        buckets=config.get("num_buckets", base.buckets),
        distance=config.get("max_bucket_distance", base.distance),
    )


def build(
    encoder: type[Wav2Vec2Encoder],
    model_types: Sequence[str],
    weights: str | Checkpoint,
    layers: Sequence[int | str] | None = None,
    normalise: bool | None = None,
    packed: bool = False,
    precision: str = "fp32",
) -> Wav2Vec2Encoder:
    """Load an ``encoder`` from ``weights`` (folder, file, Hugging Face id or read); every tensor must be there and fit.

    ``layers``, ``packed`` and ``precision`` are those of :class:`Wav2Vec2Encoder`. ``normalise`` brings each waveform
    to mean 0 and variance 1; None does what the checkpoint's ``preprocessor_config.json`` or fairseq's
    ``task.normalize`` says, and without either what models with a layer-normalised front end were trained with (True)
    and the others were not (False).
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else load_checkpoint(weights)
    config = read_config(checkpoint, model_types)
    if normalise is not None:
        config = replace(config, normalise=bool(normalise))
    name = model_types[0]
    with torch.device("meta"):  # shapes only: no time for random numbers that are replaced at once
        expected = encoder(name, config).state_dict()
        built = encoder(name, config, layers, packed, precision)
    state = encoder_state(checkpoint, ANCHOR, expected)
    built.load_state_dict({key: state[key] for key in built.state_dict()}, assign=True)
    vectors = [value for key, value in checkpoint.state.items() if key.endswith("masked_spec_embed")]
    built.mask_vector = vectors[0].detach().float().flatten() if vectors else None
    return built.eval()


create = partial(build, Wav2Vec2Encoder, MODEL_TYPES)
"""Load wav2vec 2.0, XLSR, HuBERT or data2vec-audio: see :func:`build`."""

TINY = Wav2Vec2Config(
    dim=32, blocks=2, heads=4, ffn=48, conv_dim=(16,) * 7, position_kernel=16, position_groups=4
)  # fmt: skip


def create_tiny() -> Wav2Vec2Encoder:
    """Return a small base-like encoder with random weights, for tests."""
    return Wav2Vec2Encoder("wav2vec2", TINY).eval()


register(EncoderEntry("wav2vec2", "wav2vec 2.0, XLSR, HuBERT, data2vec-audio from weights=", create, create_tiny))
