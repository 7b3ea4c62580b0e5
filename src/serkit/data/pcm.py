"""Raw PCM as it comes from a pipe or a socket: in pieces of any length."""

from __future__ import annotations

import numpy as np

from serkit.errors import InputError

SAMPLE_BYTES = 2
SLOWEST, FASTEST = 8_000, 48_000
"""Sampling rates in Hz between which raw sound is taken."""


class PcmDecoder:
    """Turns mono signed 16-bit little-endian PCM into float32 samples in [-1, 1).

    Half a sample at the end of a piece waits for the next piece. Every sequence of bytes is sound of some kind: 16-bit
    integers know no NaN and no infinity, so there is nothing to refuse.

    >>> decoder = PcmDecoder()
    >>> [decoder.push(piece).tolist() for piece in (b"\\x00", b"\\x40\\x00", b"\\x80")]
    [[], [0.5], [-1.0]]
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def waiting(self) -> int:
        """Bytes of a sample that is not complete: 0 or 1."""
        return len(self._rest)

    def push(self, data: bytes) -> np.ndarray:
        """Return the samples ``(S,)`` that ``data`` completes."""
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % SAMPLE_BYTES
        self._rest = bytes(data[whole:])
        return np.frombuffer(data, "<i2", whole // SAMPLE_BYTES).astype(np.float32) / np.float32(32_768)


def check_rate(sampling_rate: int) -> int:
    """Return ``sampling_rate``; raises ``InputError`` unless raw sound is taken at that many Hz."""
    if not SLOWEST <= sampling_rate <= FASTEST:
        raise InputError(f"sampling rate {sampling_rate}: raw sound is taken at {SLOWEST} to {FASTEST} Hz")
    return sampling_rate
