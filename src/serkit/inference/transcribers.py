"""What writes down what is said, for models that read: any function, or one of those that have a name here.

``faster-whisper:SIZE_OR_PATH`` is Whisper (Radford et al. 2023, https://arxiv.org/abs/2212.04356) through the package
faster-whisper; ``bundle:FOLDER`` is a bundle that transcribes, such as those of Cai et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE
from serkit.errors import InputError, missing_extra, nearest


class Transcriber(Protocol):
    """A function from a mono float32 waveform ``(S,)`` in [-1, 1] at 16 kHz to what is said in it.

    It is called from several threads at a time.
    """

    def __call__(self, waveform: np.ndarray, /) -> str:
        """Return what is said; empty where nothing is."""
        ...


def load_transcriber(source: str | Transcriber) -> Transcriber:
    """Return the transcriber that ``source`` names as ``KIND:MODEL``; a function is returned as it is.

    Raises ``InputError`` for an unknown kind and a model that cannot be loaded.
    """
    if not isinstance(source, str):
        return source
    kind, _, model = source.partition(":")
    if kind not in TRANSCRIBERS:
        raise InputError(f"transcriber {source!r}: there is no {kind!r}{nearest(kind, TRANSCRIBERS)}")
    if not model:
        raise InputError(f"transcriber {source!r}: names no model: write {TRANSCRIBERS[kind][0]}")
    return TRANSCRIBERS[kind][1](model)


def load_faster_whisper(model: str) -> Transcriber:
    """Load Whisper in CTranslate2's form: a local folder, a size such as "small", or a repository of the hub.

    It searches with five beams and samples nothing, so the same recording gives the same text. The language
    is found by the model. Raises ``InputError`` when the package is not installed or the model cannot be had.
    """
    try:
        package: Any = import_module("faster_whisper")
    except ImportError as error:
        raise missing_extra("faster-whisper", "transcribe") from error
    name = f"transcriber faster-whisper:{model}"
    place = Path(model).expanduser()
    if model.startswith((".", "/", "~")) and not place.is_dir():
        raise InputError(f"{name}: no such folder")
    try:
        whisper = package.WhisperModel(
            str(place) if place.is_dir() else model, device="cpu", cpu_threads=1, num_workers=count_cores()
        )
    except Exception as error:  # the hub's client, CTranslate2 and tokenizers have errors of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "give a folder with a model in CTranslate2's form, or connect to the hub"
        raise InputError(f"{name}: cannot be loaded ({reason}): {remedy}") from error

    def transcribe(waveform: np.ndarray) -> str:
        segments, _ = whisper.transcribe(
            waveform, beam_size=5, temperature=0.0, condition_on_previous_text=False, without_timestamps=True
        )
        return " ".join(text for segment in segments if (text := segment.text.strip()))

    return transcribe


def load_bundle(folder: str) -> Transcriber:
    """Load a bundle that transcribes; raises ``InputError`` for one that does not."""
    from serkit.inference.predictor import Predictor

    predictor = Predictor(folder)
    if predictor.tokenizer is None:
        raise InputError(f"transcriber bundle:{folder}: does not transcribe: it was not trained with tasks.ctc")

    def transcribe(waveform: np.ndarray) -> str:
        return predictor.predict(waveform, sampling_rate=SAMPLING_RATE).text or ""

    return transcribe


TRANSCRIBERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "faster-whisper": ("faster-whisper:SIZE or faster-whisper:FOLDER", load_faster_whisper),
    "bundle": ("bundle:FOLDER", load_bundle),
}
"""By kind: how a name is written, and what loads it."""
