"""The contract every encoder keeps, and the registry through which recipes name encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from serkit.encoders.front import frame_mask, level_gain, trim_silence


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


class Encoder(nn.Module):
    """Waveforms to frames: the same answer for an utterance whatever else is in its batch.

    A subclass sets ``name``, ``hop`` (samples from one frame to the next), ``dim`` (``D``), ``num_layers`` (``N``, the
    hidden states it returns, the front end's output included) and ``min_samples`` and ``max_samples`` per utterance,
    and defines ``frame_lengths`` and ``encode``. With ``trim`` (dB) silence at both ends is cut first, with ``level``
    (dB full scale) the speech is brought to that level; see :mod:`serkit.encoders.front`. ``limit`` (seconds) keeps
    only the beginning of an utterance.
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
    trim: float | None = None
    level: float | None = None
    limit: float | None = None

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
        if self.limit is not None:
            lengths = lengths.clamp(max=round(self.limit * self.sampling_rate))
        if not torch.compiler.is_compiling():
            self.check_lengths(lengths)
        start = None
        if self.trim is not None:
            waveforms, lengths, start = trim_silence(waveforms, lengths, self.trim)
        if not torch.compiler.is_compiling():
            waveforms = waveforms[:, : int(lengths.max())]  # an exported graph keeps its shape and masks instead
        if self.level is not None:
            waveforms = waveforms * level_gain(waveforms, lengths, self.level)
        features = self.encode(waveforms, lengths)
        return features if start is None else replace(features, start=start // self.hop)

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
        facts += [f"limit {self.limit}"] if self.limit is not None else []
        facts += [f"settings {self.settings}"] if self.settings else []
        digest = hashlib.blake2b("|".join(map(str, facts)).encode(), digest_size=8)
        for key, tensor in sorted(self.state_dict().items()):
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
