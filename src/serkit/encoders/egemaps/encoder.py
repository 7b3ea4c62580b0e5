"""eGeMAPSv02 as encoders: frames of low-level descriptors, or one frame of functionals per utterance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from serkit.encoders.base import Encoder, EncoderEntry, FrameFeatures, register
from serkit.encoders.egemaps.contours import LLD_NAMES, low_level_descriptors
from serkit.encoders.egemaps.frames import HOP, LONG
from serkit.encoders.egemaps.functionals import FUNCTIONAL_NAMES, functionals
from serkit.errors import InputError


class DescriptorEncoder(Encoder):
    """Descriptors of speech as the one layer of an encoder: no weights, no gradients, every utterance on its own."""

    hop = HOP
    num_layers = 1
    min_samples = LONG
    feature_names: tuple[str, ...]
    """What each of the ``dim`` columns is."""

    def describe(self, waveform: np.ndarray) -> np.ndarray:
        """Return the frames ``(T, D)`` of one ``waveform (S,)`` at 16 kHz."""
        raise NotImplementedError

    def prepare(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if torch.compiler.is_compiling():
            raise InputError(
                f"encoder {self.name} is not a graph of tensors: it cannot be compiled or exported to ONNX"
            )
        self.check_lengths(lengths)
        alone = []  # a gain that a batch changes in its last bit would already move formants
        for row, length in zip(waveforms, lengths.tolist(), strict=True):
            alone.append(super().prepare(row[None, :length], torch.tensor([length], device=lengths.device)))
        prepared = pad_sequence([clip[0] for clip, _, _ in alone], batch_first=True)
        starts = [start for _, _, start in alone if start is not None]
        return prepared, torch.cat([samples for _, samples, _ in alone]), torch.cat(starts) if starts else None

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        clips = [row[:samples].detach().cpu().numpy() for row, samples in zip(waveforms, lengths.tolist(), strict=True)]
        described = pad_sequence([torch.from_numpy(self.describe(clip)) for clip in clips], batch_first=True)
        return FrameFeatures(described[:, None].to(waveforms.device), self.frame_lengths(lengths), self.frame_rate)


class LowLevelEncoder(DescriptorEncoder):
    """The 25 low-level descriptors, 100 frames a second; see :func:`serkit.encoders.egemaps.low_level_descriptors`."""

    name = "egemaps"
    feature_names = LLD_NAMES
    dim = len(LLD_NAMES)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths - LONG) // HOP + 2

    def describe(self, waveform: np.ndarray) -> np.ndarray:
        return low_level_descriptors(waveform)


class FunctionalEncoder(DescriptorEncoder):
    """The 88 functionals as the only frame of an utterance; see :func:`serkit.encoders.egemaps.functionals`.

    ``frame_rate`` is that of the descriptors underneath.
    """

    name = "egemaps-functionals"
    feature_names = FUNCTIONAL_NAMES
    dim = len(FUNCTIONAL_NAMES)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        return torch.ones_like(lengths)

    def describe(self, waveform: np.ndarray) -> np.ndarray:
        return functionals(waveform)[None]


def create() -> LowLevelEncoder:
    """Return the encoder of low-level descriptors; it has no options."""
    return LowLevelEncoder().eval()


def create_functionals() -> FunctionalEncoder:
    """Return the encoder of functionals; it has no options."""
    return FunctionalEncoder().eval()


LOW_LEVEL = "eGeMAPSv02: 25 low-level descriptors, 100 frames per second"
FUNCTIONALS = "eGeMAPSv02: 88 functionals, one frame per utterance"
register(EncoderEntry(LowLevelEncoder.name, LOW_LEVEL, create, create))
register(EncoderEntry(FunctionalEncoder.name, FUNCTIONALS, create_functionals, create_functionals))
