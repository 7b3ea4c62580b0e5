"""Silero's voice activity detector, run by our own ONNX Runtime (Silero Team, "Silero VAD", 2024, MIT licence).

The network hears 32 ms after 32 ms at 16 kHz and the 4 ms before them, and carries its memory from one to the next.
Its file is Silero's own: ``silero_vad_16k_op15.onnx`` of their package silero-vad 6.2.3, which itself asks for torch.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import onnxruntime

NETWORK = resources.files("serkit") / "pretrained" / "silero-vad-16k.onnx"
RATE = 16_000
"""Hz; what the network hears."""
WINDOW = 512
"""Samples of one window, 32 ms."""
CONTEXT = 64
"""Samples before a window that the network hears again."""


class Silero:
    """Gives the probability of speech in one window after another of one recording."""

    def __init__(self) -> None:
        self._network = _network()
        self._input = np.zeros((1, CONTEXT + WINDOW), np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)
        self._rate = np.array(RATE, np.int64)

    def push(self, window: np.ndarray) -> float:
        """Hear the next ``window (512,)``, float32 in [-1, 1]; return the probability that there is speech in it."""
        self._input[0, :CONTEXT] = self._input[0, -CONTEXT:]
        self._input[0, CONTEXT:] = window
        feeds = {"input": self._input, "state": self._state, "sr": self._rate}
        probability, self._state = self._network.run(None, feeds)
        return float(probability[0, 0])


@cache
def _network() -> onnxruntime.InferenceSession:
    """Load the network once for all detectors: each keeps its own memory, and a session may run in many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(NETWORK), options, providers=["CPUExecutionProvider"])
