"""Published encoders by name: the family that computes them and where their weights are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A ``name`` for the encoder ``family`` with ``options`` already given."""

    name: str
    family: str
    options: dict[str, Any]
    summary: str


def _hub(name: str, repository: str, summary: str, family: str = "wav2vec2") -> Preset:
    return Preset(name, family, {"weights": repository}, f"{summary}; {repository}")


def _emotion2vec(name: str, summary: str) -> Preset:
    repository = f"emotion2vec/emotion2vec_{name.replace('-', '_')}"
    return _hub(f"emotion2vec-{name}", repository, summary, "emotion2vec")


_ALL = [
    _hub("wav2vec2-base", "facebook/wav2vec2-base", "wav2vec 2.0, 12 blocks of 768, 960 h of English"),
    _hub("wav2vec2-base-960h", "facebook/wav2vec2-base-960h", "the same, fine-tuned to recognise speech"),
    _hub("wav2vec2-large", "facebook/wav2vec2-large", "wav2vec 2.0, 24 blocks of 1024, 960 h of English"),
    _hub("wav2vec2-large-960h", "facebook/wav2vec2-large-960h", "the same, fine-tuned to recognise speech"),
    _hub("wav2vec2-large-robust", "facebook/wav2vec2-large-robust", "wav2vec 2.0, 24 blocks, telephone speech as well"),
    _hub("xlsr-53", "facebook/wav2vec2-large-xlsr-53", "wav2vec 2.0, 24 blocks, 53 languages"),
    _hub("xlsr-300m", "facebook/wav2vec2-xls-r-300m", "wav2vec 2.0, 24 blocks, 128 languages"),
    _hub("hubert-base", "facebook/hubert-base-ls960", "HuBERT, 12 blocks of 768, 960 h of English"),
    _hub("hubert-large", "facebook/hubert-large-ll60k", "HuBERT, 24 blocks of 1024, 60000 h of English"),
    _hub("wavlm-base", "microsoft/wavlm-base", "WavLM, 12 blocks of 768, 960 h of English", "wavlm"),
    _hub("wavlm-base-plus", "microsoft/wavlm-base-plus", "WavLM, 12 blocks, 94000 h of English", "wavlm"),
    _hub("wavlm-large", "microsoft/wavlm-large", "WavLM, 24 blocks of 1024, 94000 h of English", "wavlm"),
    _hub("data2vec-audio-base", "facebook/data2vec-audio-base", "data2vec, 12 blocks of 768, 960 h of English"),
    _hub("data2vec-audio-large", "facebook/data2vec-audio-large", "data2vec, 24 blocks of 1024, 960 h of English"),
    _emotion2vec("base", "emotion2vec, 4 + 8 blocks of 768, 262 h of emotional English"),
    _emotion2vec("base-finetuned", "the same, fine-tuned to recognise emotion"),
    _emotion2vec("plus-seed", "emotion2vec+, 9 classes, 201 h of labelled speech"),
    _emotion2vec("plus-base", "emotion2vec+, 9 classes, 4788 h"),
    _emotion2vec("plus-large", "emotion2vec+, 9 classes, 4 + 8 blocks of 1024, 42526 h"),
    Preset("whisper-base", "whisper", {"weights": "whisper-base-3blocks"}, "packaged: first 3 of 6 blocks of 512"),
]

PRESETS = {preset.name: preset for preset in _ALL}
