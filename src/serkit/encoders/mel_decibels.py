"""The audio front end of MAT and MNT: mel bands in decibels at 22,050 Hz, one frame per 0.2 s.

Delbrouck, Tits & Dupont 2020 (https://aclanthology.org/2020.nlpbt-1.1) took it from Kyubyong Park's DC-TTS: silence at
both ends trimmed, pre-emphasis, magnitudes in 80 Slaney mel bands, brought from decibels to [1e-8, 1], and of one
frame per 12.5 ms every 16th. All of it is plain tensor operations per utterance, so it runs inside exported graphs.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.base import Encoder, EncoderEntry, FrameFeatures, register
from serkit.encoders.front import FRAME, frame_mask
from serkit.encoders.spectrogram import mel_filters
from serkit.errors import InputError

Padding = Literal["reflect", "zeros"]
RATE, N_FFT = 22_050, 2048
PRE_EMPHASIS = 0.97
FLOOR, REFERENCE_DB, RANGE_DB = 1e-5, 20.0, 100.0
LEAST = 1e-8
"""The smallest value of a band: silence is not zero, which is what padding is."""
TRIM_FRAME, TRIM_HOP, TRIM_FLOOR = 2048, 512, 1e-10
"""Samples of a frame and from one to the next, and the least mean square, of ``librosa.effects.trim``."""


def surroundings(index: Tensor, lengths: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
    """Return where samples of utterances that go on past their ends are: ``(B, T, W)`` for ``index (T, W)`` or of each.

    Utterances of ``lengths (B,)`` go on as their own mirror image, again and again, or as zeros; the booleans
    ``(B, T, W)`` say of each sample whether it counts.
    """
    last = (lengths - 1)[:, None, None]
    if padding == "zeros":
        inside = (index >= 0) & (index <= last)
        return torch.minimum(index.clamp(min=0), last), inside
    period = (2 * last).clamp(min=1)
    folded = index.abs() % period
    return torch.minimum(folded, period - folded), torch.ones_like(folded, dtype=torch.bool)


def cut_frames(waveforms: Tensor, lengths: Tensor, index: Tensor, padding: Padding) -> Tensor:
    """Return the samples ``index`` of ``waveforms (B, S)``: ``(B, T, W)``; see :func:`surroundings`."""
    places, counts = surroundings(index, lengths, padding)
    samples = waveforms.gather(1, places.flatten(1)).unflatten(1, (index.shape[-2], index.shape[-1]))
    return samples * counts if padding == "zeros" else samples


def trim_powers(waveforms: Tensor, lengths: Tensor, padding: Padding) -> Tensor:
    """Return the mean squares ``(B, 1 + S // 512)`` of 2048 samples around every 512th one; 0 past the end."""
    size, half = waveforms.shape[1], TRIM_FRAME // 2
    squares = torch.where(frame_mask(lengths, size), waveforms, 0.0).square()
    blocks = F.avg_pool1d(F.pad(squares, (half, half))[:, None], TRIM_HOP)
    powers = F.avg_pool1d(blocks, TRIM_FRAME // TRIM_HOP, 1)[:, 0]
    counts = lengths // TRIM_HOP + 1
    if padding == "reflect":  # only two frames at either end look past it
        ends = torch.stack([counts * 0, counts * 0 + 1, counts - 2, counts - 1], 1).clamp(min=0)
        around = torch.arange(-half, half, device=waveforms.device)
        frames = cut_frames(waveforms, lengths, (ends * TRIM_HOP)[:, :, None] + around, padding)
        powers = powers.scatter(1, ends, frames.square().mean(2))
    return powers.masked_fill(~frame_mask(counts, powers.shape[1]), 0.0)


def trim_edges(waveforms: Tensor, lengths: Tensor, top_db: float, padding: Padding) -> tuple[Tensor, Tensor, Tensor]:
    """Cut what lies before the first and after the last frame within ``top_db`` dB of the loudest one.

    Frames are those of ``librosa.effects.trim``: 2048 samples around every 512th one. Returns waveforms ``(B, S)``
    moved to the front, their ``lengths (B,)`` and the number of samples cut at the start ``(B,)``. Below -100 dB full
    scale all is equally silent: an utterance without anything louder stays whole.
    """
    size = waveforms.shape[1]
    powers = trim_powers(waveforms, lengths, padding).clamp(min=TRIM_FLOOR)
    real = frame_mask(lengths // TRIM_HOP + 1, powers.shape[1])
    loud = ((powers > powers.amax(1, keepdim=True) * 10 ** (-top_db / 10)) & real).long()
    start = torch.minimum(loud.argmax(1) * TRIM_HOP, lengths - 1)
    end = torch.minimum((loud.shape[1] - loud.flip(1).argmax(1)) * TRIM_HOP, lengths)
    index = torch.arange(size, device=waveforms.device)[None, :] + start[:, None]
    moved = waveforms.gather(1, index.clamp(max=size - 1))
    return torch.where(frame_mask(end - start, size), moved, 0.0), end - start, start


class FoldedSpectrum(nn.Module):
    """Magnitudes ``(B, T, n_fft // 2 + 1)`` of frames ``(B, T, window - 1)``, whose first sample a Hann window drops.

    Without their phase, spectra are the same wherever time begins. From the middle of the window, which is its own
    mirror image, cosines need the sum of both halves of a frame alone and sines their difference: a quarter of the
    products and of the weights of a transform over ``n_fft`` zero-padded samples.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, n_fft: int, window: int) -> None:
        super().__init__()
        self.first = (window + 1) // 2 - 1
        number = np.arange(self.first + 1, window)
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * number / window)
        angle = 2 * np.pi * np.outer(number - window / 2, np.arange(n_fft // 2 + 1)) / n_fft
        both = np.where(number == window / 2, 0.5, 1.0)  # the middle is in both halves
        for name, basis in (("cosines", np.cos(angle) * both[:, None]), ("sines", np.sin(angle))):
            self.register_buffer(name, torch.tensor(basis * hann[:, None], dtype=torch.float32), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        right, left = frames[..., self.first :], frames.flip(-1)[..., self.first :]
        real, imaginary = (right + left) @ self.cosines, (right - left) @ self.sines
        return (real.square() + imaginary.square()).sqrt()


class MelDecibels(Encoder):
    """One layer of ``bands`` mel bands in [1e-8, 1]: 1 is 20 dB, 1e-8 is -80 dB or less, of magnitudes.

    ``window`` and ``step`` are in samples at ``rate`` Hz; every ``reduction``-th frame is computed, from the first on.
    ``top_db`` (0: off) is what lies that many dB below the loudest frame and is trimmed at both ends; ``padding`` says
    how an utterance goes on past its ends, where frames at the edge and the trimming look.
    """

    name = "mat-mel"
    num_layers = 1
    precision = "float32"  # half precision makes the smallest value zero

    def __init__(
        self, rate: int, n_fft: int, window: int, step: int, reduction: int, bands: int, top_db: float, padding: Padding
    ) -> None:
        super().__init__()
        self.sampling_rate, self.hop, self.dim = rate, step * reduction, bands
        self.top_db, self.padding, self.window = top_db, padding, window
        self.settings = f"{rate}|{n_fft}|{window}|{step}|{reduction}|{bands}|{top_db:g}|{padding}"
        self.min_samples = max(n_fft // 2 + 1, FRAME)
        self.whole = top_db > 0
        self.spectrum = FoldedSpectrum(n_fft, window)
        filters = torch.tensor(mel_filters(bands, rate, n_fft), dtype=torch.float32)
        self.register_buffer("filters", filters, persistent=False)

    filters: Tensor

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // self.hop + 1

    def prepare(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        waveforms, lengths, start = super().prepare(waveforms, lengths)
        if self.top_db == 0:
            return waveforms, lengths, start
        waveforms, lengths, cut = trim_edges(waveforms, lengths, self.top_db, self.padding)
        if not torch.compiler.is_compiling():
            waveforms = waveforms[:, : int(lengths.max())]
        return waveforms, lengths, cut if start is None else start + cut

    def encode(self, waveforms: Tensor, lengths: Tensor) -> FrameFeatures:
        sharp = torch.cat([waveforms[:, :1], waveforms[:, 1:] - PRE_EMPHASIS * waveforms[:, :-1]], 1)
        size: Any = self.frame_lengths(waveforms.shape[1])  # type: ignore[arg-type]  # a number does as well
        centres = torch.arange(size, device=waveforms.device) * self.hop
        around = torch.arange(1, self.window, device=waveforms.device) - (self.window + 1) // 2
        frames = cut_frames(sharp, lengths, centres[:, None] + around[None, :], self.padding)
        bands = self.spectrum(frames) @ self.filters
        decibels = 20 * bands.clamp(min=FLOOR).log10()
        values = ((decibels - REFERENCE_DB + RANGE_DB) / RANGE_DB).clamp(LEAST, 1.0)
        counts = self.frame_lengths(lengths)
        values = values * frame_mask(counts, values.shape[1])[:, :, None]
        return FrameFeatures(values[:, None], counts, self.frame_rate)


def create(
    rate: int = RATE, reduction: int = 16, bands: int = 80, top_db: float = 60.0, padding: Padding = "reflect"
) -> MelDecibels:
    """Build the front end; recordings come at ``rate`` Hz from their own rate.

    Frames last 50 ms and begin every 12.5 ms, of which every ``reduction``-th is kept. ``top_db`` is the silence that
    is trimmed, 0 for none. ``padding`` "reflect" is what librosa did when the paper was written, "zeros" what it does
    since version 0.10. Raises ``InputError`` for sizes that make no spectrum.
    """
    if padding not in get_args(Padding):
        raise InputError(f"encoder mat-mel: padding is reflect or zeros, not {padding!r}")
    step, window = int(rate * 0.0125), int(rate * 0.05)
    if not (step > 0 and window <= N_FFT):
        raise InputError(f"encoder mat-mel: rate {rate}: give 80 to {(N_FFT + 1) * 20 - 1} Hz")
    if reduction < 1 or bands < 1 or top_db < 0:
        raise InputError(
            f"encoder mat-mel: reduction {reduction}, bands {bands}, top_db {top_db:g}: at least 1, 1 and 0 (off)"
        )
    return MelDecibels(rate, N_FFT, window, step, reduction, bands, float(top_db), padding).eval()


def create_tiny() -> MelDecibels:
    """Return a small front end at 16 kHz that does not trim by itself, for tests."""
    return MelDecibels(16_000, 128, 100, 20, 4, 20, 0.0, "reflect").eval()


SUMMARY = "mel bands in decibels at 22,050 Hz, 5 frames per second, of MAT and MNT"
register(EncoderEntry(MelDecibels.name, SUMMARY, create, create_tiny))
