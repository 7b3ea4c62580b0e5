"""Spectrograms as features: magnitude, log magnitude or log mel bands, at 16 kHz or at each recording's own rate."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.base import Encoder, EncoderEntry, FrameFeatures, register
from serkit.encoders.front import FRAME, frame_mask
from serkit.errors import InputError

Form = Literal["magnitude", "log", "mel"]
FLOOR = 1e-12


def mel_filters(bands: int, sampling_rate: int = 16_000, n_fft: int = 400) -> np.ndarray:
    """Return the Slaney-normalised mel filter bank ``(n_fft // 2 + 1, bands)``, as in librosa and Whisper."""

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))

    top = 15 + 27 * np.log(sampling_rate / 2 / 1000) / np.log(6.4)
    edges = to_hertz(np.linspace(0, top, bands + 2))
    bins = np.linspace(0, sampling_rate / 2, n_fft // 2 + 1)
    rise = (bins[:, None] - edges[None, :-2]) / np.diff(edges)[None, :-1]
    fall = (edges[None, 2:] - bins[:, None]) / np.diff(edges)[None, 1:]
    return np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[None, :]


class PowerSpectrum(nn.Module):
    """Waveforms ``(B, S)`` to power ``(B, 1 + S // hop, n_fft // 2 + 1)`` of centred frames under a Hann window.

    The Fourier transform is a strided convolution with a windowed cosine and sine basis, so the same graph runs in
    PyTorch and in ONNX. Each clip is reflected at its own ends, not at the batch's; it needs ``n_fft // 2 + 1``
    """

    basis: Tensor

    def __init__(self, n_fft: int, window: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        before = (n_fft - window) // 2
        hann = np.pad(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window), (before, n_fft - window - before))
        angle = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft
        basis = np.concatenate([np.cos(angle) * hann, -np.sin(angle) * hann])[:, None, :]
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.float32), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        last, half = (lengths - 1)[:, None], self.n_fft // 2
        index = torch.arange(-half, waveforms.shape[1] + half, device=waveforms.device).abs()[None, :]
        index = torch.where(index > last, 2 * last - index, index).clamp(min=0)
        padded = waveforms.gather(1, index)
        spectrum = F.conv1d(padded[:, None, :], self.basis, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        return (real.square() + imaginary.square()).transpose(1, 2)


class Spectrogram(Encoder):
    """One layer of ``n_fft // 2 + 1`` bins (257) or ``bands`` mel bands per frame.

    ``window`` and ``hop`` are in samples: with ``native``, recordings are not brought to 16 kHz, so they last
    6.7 ms at 48 kHz where they last 20 ms at 16 kHz, as in the baseline of Pepino et al. (2021).
    """

    num_layers = 1

    def __init__(self, form: Form, n_fft: int, window: int, hop: int, bands: int, native: bool) -> None:
        super().__init__()
        self.name, self.form, self.hop, self.native_rate = "spectrogram", form, hop, native
        self.settings = f"{form}|{n_fft}|{window}|{hop}|{bands if form == 'mel' else None}|{native}"
        self.dim = bands if form == "mel" else n_fft // 2 + 1
        self.min_samples = max(n_fft // 2 + 1, FRAME)
        self.power = PowerSpectrum(n_fft, window, hop)
        filters = torch.tensor(mel_filters(bands, n_fft=n_fft), dtype=torch.float32)
        self.register_buffer("filters", filters, persistent=False)

    filters: Tensor

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // self.hop + 1

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        power = self.power(waveforms, lengths)
        if self.form == "mel":
            values = (power @ self.filters + FLOOR).log()
        else:
            values = power.sqrt() if self.form == "magnitude" else (power.sqrt() + FLOOR).log()
        frames = self.frame_lengths(lengths)
        mask = frame_mask(frames, values.shape[1])[:, :, None]
        return FrameFeatures((values * mask)[:, None], frames, self.frame_rate)


def create(
    form: Form = "magnitude", n_fft: int = 512, window: int = 400, hop: int = 320, bands: int = 80, native: bool = False
) -> Spectrogram:
    """Build a spectrogram: ``magnitude``, ``log`` (natural, of the magnitude) or ``mel`` (log of mel-filtered power).

    ``native`` keeps each recording's own sampling rate; mel bands need a known one. Raises ``InputError`` for sizes
    that make no spectrogram.
    """
    if form not in get_args(Form):
        raise InputError(f"encoder spectrogram: form is magnitude, log or mel, not {form!r}")
    if form == "mel" and native:
        raise InputError("encoder spectrogram: mel bands need a fixed rate: leave native out")
    if not (hop > 0 and 0 < window <= n_fft and bands > 0):
        raise InputError(
            f"encoder spectrogram: hop {hop}, window {window}, n_fft {n_fft}: 0 < hop, 0 < window <= n_fft"
        )
    return Spectrogram(form, n_fft, window, hop, bands, native)


def create_tiny() -> Spectrogram:
    """Return a small spectrogram, for tests."""
    return create(n_fft=128, window=100, hop=80)


register(EncoderEntry("spectrogram", "magnitude, log magnitude or log mel bands", create, create_tiny))
