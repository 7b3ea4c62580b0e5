"""The outline of a waveform: its largest samples, from a stream, for figures and pages."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from serkit.errors import InputError

FINENESS = 16
"""Cells that are kept for every bin that is asked for, at least, once there are as many samples."""


class Envelope:
    """Follows a recording of unknown length in ``2 * FINENESS * bins`` numbers, whatever its length.

    Cells have one sample each until they are full; then two neighbours become one, and so on.
    """

    def __init__(self, bins: int) -> None:
        if bins < 1:
            raise InputError(f"an envelope has one bin or more, not {bins}")
        self.bins, self.samples, self.width, self.used = bins, 0, 1, 0
        self.cells = np.zeros(2 * FINENESS * bins, dtype=np.float32)

    def push(self, samples: NDArray[np.float32]) -> None:
        """Follow the next samples (S,)."""
        loud = np.abs(np.asarray(samples, dtype=np.float32).ravel())
        while len(loud):
            room = len(self.cells) * self.width - self.samples
            if not room:
                self._halve()
                continue
            part, loud = loud[:room], loud[room:]
            first = self.samples % self.width  # of the cell that the last call began
            starts = np.maximum(np.arange(-first, len(part), self.width), 0)
            peaks = np.maximum.reduceat(part, starts)
            at = self.samples // self.width
            np.maximum(self.cells[at : at + len(peaks)], peaks, out=self.cells[at : at + len(peaks)])
            self.samples += len(part)
            self.used = at + len(peaks)

    def _halve(self) -> None:
        half = len(self.cells) // 2
        self.cells[:half] = self.cells.reshape(half, 2).max(axis=1)
        self.cells[half:] = 0
        self.width, self.used = 2 * self.width, half

    def peaks(self) -> NDArray[np.float32]:
        """Return the largest absolute sample of each bin (bins,), in [0, 1]; zeros where nothing was pushed.

        Bin i lies between samples ``i * S / bins`` and ``(i + 1) * S / bins``. Up to ``2 * FINENESS * bins`` samples
        that is exact; beyond, a cell on a border counts for both of its bins, so that a peak is never lost and may
        appear at most 1/16 of a bin too early or too late.
        """
        found = np.zeros(self.bins, dtype=np.float32)
        if not self.samples:
            return found
        edges = np.arange(self.bins + 1) * self.samples
        first = edges[:-1] // (self.bins * self.width)
        last = np.maximum(-(-edges[1:] // (self.bins * self.width)), first + 1)
        for index, (low, high) in enumerate(zip(first, last, strict=True)):
            found[index] = self.cells[low:high].max()
        return np.minimum(found, 1.0)


def envelope(blocks: Iterable[NDArray[np.float32]], bins: int) -> NDArray[np.float32]:
    """Return the largest absolute sample of each of ``bins`` equal parts of a stream of blocks (S,), in [0, 1].

    Memory does not grow with the recording. Exactness as :meth:`Envelope.peaks`; raises ``InputError`` for no bin.

    >>> envelope([np.float32([0.1, -0.5]), np.float32([0.2, 0.0])], 2).tolist()
    [0.5, 0.20000000298023224]
    """
    following = Envelope(bins)
    for block in blocks:
        following.push(block)
    return following.peaks()
