"""The contract every encoder keeps, and the registry through which recipes name encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from serkit.encoders.front import frame_mask, level_gain, trim_silence
from serkit.encoders.regularise import Regularisation, Regularised
from serkit.errors import InputError

Precision = Literal["float16", "float32"]


@dataclass(frozen=True)
class FrameFeatures:
    """Hidden states of a batch of utterances.

    ``layers`` is ``(B, N, T, D)``: batch, layers, frames, width. ``lengths`` ``(B,)`` counts the real frames of each
    utterance; frames past it are zero. ``frame_rate`` is in frames per second. ``start (B,)`` counts the frames that
    were trimmed before the first one (None: nothing was trimmed).
    """

    layers: Tensor
    lengths: Tensor
    frame_rate: float
    start: Tensor | None = None

    def mask(self) -> Tensor:
        """Return ``(B, T)`` booleans, True on real frames."""
        return frame_mask(self.lengths, self.layers.shape[2])


class Encoder(Regularised):
    """Waveforms to frames: the same answer for an utterance whatever else is in its batch.

    A subclass sets ``name``, ``hop`` (samples from one frame to the next), ``dim`` (``D``), ``num_layers`` (``N``, the
    hidden states it returns, the front end's output included) and ``min_samples`` and ``max_samples`` per utterance,
    and defines ``frame_lengths`` and ``encode``. With ``trim`` (dB) silence at both ends is cut first, with ``level``
    (dB full scale) the speech is brought to that level; see :mod:`serkit.encoders.front`. ``limit`` (seconds) keeps
    only the beginning of an utterance.

    An encoder that can be trained tells the ``depth`` of its parameters and what of a
    :class:`~serkit.encoders.regularise.Regularisation` it can do; its blocks run through ``run_block``.
    """

    name: str
    sampling_rate: int = 16_000
    hop: int
    dim: int
    num_layers: int
    min_samples: int
    max_samples: int | None = None
    revision: int = 1
    """Raised when the code changes what an encoder returns: then cached features are computed again."""
    settings: str = ""
    """Options that change what an encoder returns and that its weights do not show; part of the fingerprint."""
    native_rate: bool = False
    """Whether recordings come at their own sampling rate; ``sampling_rate`` is then only nominal."""
    whole: bool = False
    """Whether an utterance is never cut into windows, because what is done to it is defined on all of it."""
    precision: Precision = "float16"
    """How the feature cache keeps frames: float32 where half precision would change what they say."""
    trim: float | None = None
    level: float | None = None
    limit: float | None = None
    checkpointing: bool = False
    """Whether the blocks' activations are computed again for the gradients instead of kept (Chen et al. 2016,
    https://arxiv.org/abs/1604.06174): the same gradients with less memory, in about a third more time."""
    possible: frozenset[str] = frozenset()
    """The settings of a ``Regularisation`` that this encoder has a place for."""
    training_only: tuple[str, ...] = ()
    """Keys of the state that act in training alone, so that features do not depend on them."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.hop

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of frames ``(B,)`` that waveforms of ``lengths`` samples give."""
        raise NotImplementedError

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        """Encode checked ``waveforms (B, S)``; frames past an utterance's end must be zero."""
        raise NotImplementedError

    def forward(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        """Encode ``waveforms (B, S)`` in [-1, 1] at ``sampling_rate``, of which ``lengths (B,)`` samples are real.

        Raises ``ValueError`` when an utterance is shorter than ``min_samples`` or longer than ``max_samples``.
        """
        waveforms, lengths, start = self.prepare(waveforms, lengths)
        features = self.encode(waveforms, lengths)
        return features if start is None else replace(features, start=start // self.hop)

    def prepare(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what :meth:`encode` takes, which no weight changes: it may be kept and encoded many times.

        Waveforms ``(B, S)`` limited, trimmed, cut to the longest and levelled, their ``lengths (B,)`` and the samples
        trimmed at the start ``(B,)`` (None: not trimmed). Takes and raises what :meth:`forward` does.
        """
        lengths = self.limited(lengths)
        if not torch.compiler.is_compiling():
            self.check_lengths(lengths)
        start = None
        if self.trim is not None:
            waveforms, lengths, start = trim_silence(waveforms, lengths, self.trim)
        if not torch.compiler.is_compiling():
            waveforms = waveforms[:, : int(lengths.max())]  # an exported graph keeps its shape and masks instead
        if self.level is not None:
            waveforms = waveforms * level_gain(waveforms, lengths, self.level)
        return waveforms, lengths, start

    def regularise(self, settings: Regularisation) -> None:
        """Do what ``settings`` say whenever the encoder is in ``train()`` mode, from now on.

        Call it before an optimiser is given the parameters: masking of frames may come with one. Raises ``InputError``
        for a setting that is on and that the encoder has no place for.
        """
        wrong = [name for name in settings.switched_on() if name not in self.possible]
        if wrong:
            known = ", ".join(sorted(self.possible)) or "nothing"
            raise InputError(f"encoder {self.name}: has no place for {', '.join(wrong)}: set 0 (it can do {known})")
        for module in self.modules():
            if isinstance(module, Regularised):
                module.regularisation = settings

    def depth(self, name: str) -> int:
        """Return how deep the parameter called ``name`` lies, for freezing and for learning rates by depth.

        0 is the convolutional front end, 1 what lies between it and the blocks, ``1 + i`` block ``i`` (from 1); what
        follows the last block is as deep as that.
        """
        raise NotImplementedError

    @property
    def depths(self) -> int:
        """The greatest depth of a parameter plus one; 0 without parameters."""
        return 1 + max((self.depth(name) for name, _ in self.named_parameters()), default=-1)

    def run_block(self, block: nn.Module, x: Tensor, *context: Any, droppable: bool = True) -> Tensor:
        """Return ``block(x, *context)``, or ``x`` when layer drop skips the block; checkpointed where asked for."""
        rate = self.regularisation.layer_drop
        if droppable and self.training and rate > 0 and float(torch.rand([])) < rate:
            return x
        if self.checkpointing and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, x, *context, use_reentrant=False)
            return result
        output: Tensor = block(x, *context)
        return output

    def limited(self, lengths: Tensor) -> Tensor:
        """Return how many of ``lengths (B,)`` samples are encoded: all, or the first ``limit`` seconds."""
        return lengths if self.limit is None else lengths.clamp(max=round(self.limit * self.sampling_rate))

    def check_lengths(self, lengths: Tensor) -> None:
        """Raise ``ValueError`` unless every length fits the encoder."""
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < self.min_samples:
            raise ValueError(
                f"{self.name} needs at least {self.min_samples} samples "
                f"({self.min_samples / self.sampling_rate:.3f} s), got {shortest}"
            )
        if self.max_samples is not None and longest > self.max_samples:
            raise ValueError(
                f"{self.name} takes at most {self.max_samples / self.sampling_rate:.0f} s at a time, "
                f"got {longest / self.sampling_rate:.1f} s: cut the recording into spans"
            )

    def fingerprint(self) -> str:
        """Return a short hash of the name, the options and every weight: it keys the feature cache."""
        facts = [self.name, self.revision, self.trim, self.level]
        facts += [f"precision {self.precision}"] if self.precision != "float16" else []
        facts += [f"limit {self.limit}"] if self.limit is not None else []
        facts += [f"settings {self.settings}"] if self.settings else []
        digest = hashlib.blake2b("|".join(map(str, facts)).encode(), digest_size=8)
        for key, tensor in sorted(self.state_dict().items()):
            if key in self.training_only:
                continue
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class EncoderEntry:
    """One line of the registry: how to build an encoder, and a tiny random one for the contract tests."""

    name: str
    summary: str
    create: Callable[..., Encoder]
    create_tiny: Callable[[], Encoder]


ENCODERS: dict[str, EncoderEntry] = {}


def register(entry: EncoderEntry) -> None:
    """Add ``entry`` to the registry; a name is taken once."""
    if entry.name in ENCODERS:
        raise ValueError(f"an encoder named {entry.name!r} is already registered")
    ENCODERS[entry.name] = entry
