"""Speech emotion recognition: recognise, train, evaluate.

>>> import serkit
>>> serkit.load().predict("clip.wav").label  # doctest: +SKIP
'happy'
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from serkit.data.labels import LabelScheme
    from serkit.data.manifest import Manifest
    from serkit.inference.cuts import TimelineOptions
    from serkit.inference.predictor import Prediction, Predictor
    from serkit.inference.timeline import Timeline
    from serkit.inference.transcribers import Transcriber

__version__ = version("serkit")
__all__ = ["LabelScheme", "Manifest", "Prediction", "Predictor", "Timeline", "TimelineOptions", "load"]

_HOMES = {
    "LabelScheme": "serkit.data.labels",
    "Manifest": "serkit.data.manifest",
    "Prediction": "serkit.inference.predictor",
    "Predictor": "serkit.inference.predictor",
    "Timeline": "serkit.inference.timeline",
    "TimelineOptions": "serkit.inference.cuts",
}


def load(model: str | Path | None = None, transcriber: str | Transcriber | None = None) -> Predictor:
    """Load a bundle, the packaged one when ``model`` is left out; see :meth:`Predictor.predict`.

    For a model that reads, ``transcriber`` writes down recordings that come without a text: a function from a waveform
    at 16 kHz to a text, or a name such as "faster-whisper:small". Raises :class:`~serkit.errors.InputError` when the
    folder is not a bundle.
    """
    from serkit.inference.bundle import DEFAULT
    from serkit.inference.predictor import Predictor

    return Predictor(model or DEFAULT, transcriber)


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``Manifest`` needs packages that recognition does not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'serkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
