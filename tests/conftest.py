"""Fixtures for every test: generated recordings, and the real corpora where they are at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import settings

DATA = Path(os.environ.get("SERKIT_DATA") or Path(__file__).parents[2] / "shared" / "data" / "audio").resolve()
PEPINO = Path(os.environ.get("SERKIT_PEPINO") or Path(__file__).parents[2] / "shared" / "data" / "pepino").resolve()

for part in ("encoders", "models"):  # weights of emotion2vec and a second fusion, for the tests of all parts
    sys.path.insert(0, str(Path(__file__).parent / part))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # hostile files come from there

settings.register_profile("serkit", deadline=None, max_examples=50)  # a busy machine is no reason to fail
settings.load_profile("serkit")


def _at_hand(path: Path, remedy: str = "set SERKIT_DATA to the folder that holds the corpora") -> Path:
    if not path.exists():
        reason = f"{path} is not at hand: {remedy}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def corpus_root() -> Callable[[str], Path]:
    """``corpus_root("emodb")`` is the folder of a real corpus; absent, the test is skipped (under CI=true it fails)."""
    return lambda name: _at_hand(DATA / name)


@pytest.fixture(scope="session")
def reference_file() -> Callable[[str], Path]:
    """``reference_file("cai/folds.csv")`` is a file beside the corpora, with the same rule as ``corpus_root``."""
    return lambda name: _at_hand(DATA.parent / name)


@pytest.fixture(scope="session")
def pepino_folder() -> Path:
    """The stored results of Pepino et al. 2021 (predictions, metrics, weights); same rule as ``corpus_root``."""
    return _at_hand(PEPINO, "set SERKIT_PEPINO to the folder of stored results")


@pytest.fixture(scope="session")
def make_tone() -> Callable[..., np.ndarray]:
    """``make_tone(seconds, rate, channels, frequency, level, noise, seed)``: float32 ``(S, channels)``.

    A sine of amplitude ``level`` plus white noise of standard deviation ``noise``; the same arguments always give the
    same samples, and channels differ in their noise only.
    """

    def make(
        seconds: float = 1.0,
        rate: int = 16_000,
        channels: int = 1,
        frequency: float = 440.0,
        level: float = 0.5,
        noise: float = 0.01,
        seed: int = 0,
    ) -> np.ndarray:
        time = np.arange(round(seconds * rate))[:, None] / rate
        noises = np.random.default_rng(seed).normal(0, noise, (len(time), channels))
        return (level * np.sin(2 * np.pi * frequency * time) + noises).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def write_wav(make_tone: Callable[..., np.ndarray]) -> Callable[..., Path]:
    """``write_wav(path, subtype="PCM_16", **tone)`` writes ``make_tone(**tone)`` and returns the path.

    The file name ending picks the format (wav, flac, ogg, mp3, ...); missing folders are made.
    """

    def write(path: Path, subtype: str | None = None, rate: int = 16_000, **tone: float) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_tone(rate=rate, **tone), rate, subtype=subtype)
        return path

    return write


IEMOCAP_LABELS = {"neu": "Neutral", "hap": "Happiness", "ang": "Anger", "sad": "Sadness"}
IEMOCAP_TEXTS = ("Yes .", "{LG} oh NO", "I SEE.", "WHAT ?")


@pytest.fixture(scope="session")
def iemocap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated folder in IEMOCAP's layout: 10 recordings, both talkers in each, one clip a class, transcripts."""
    root, rng = tmp_path_factory.mktemp("iemocap"), np.random.default_rng(0)
    for session, markers in ((session, markers) for session in range(1, 6) for markers in "FM"):
        dialogue, place = f"Ses0{session}{markers}_impro01", root / f"Session{session}"
        evaluation, transcripts = [], []
        for talker in "FM":
            for number, (code, word) in enumerate(IEMOCAP_LABELS.items()):
                id = f"{dialogue}_{talker}{number:03d}"
                time = np.arange(int(rng.integers(5_000, 9_000))) / 16_000
                wave = 0.1 * np.sin(2 * np.pi * (150 + 200 * number) * time) + rng.normal(0, 0.003, len(time))
                path = place / "sentences" / "wav" / dialogue / f"{id}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 16_000)
                evaluation.append(f"[0.0 - 1.0]\t{id}\t{code}\t[3.0, 3.0, 3.0]\nC-E1:\t{word};\t()\n")
                transcripts.append(f"{id} [000.0-001.0]: {IEMOCAP_TEXTS[number]}\n")
        for name, lines in (("EmoEvaluation", evaluation), ("transcriptions", transcripts)):
            path = place / "dialog" / name / f"{dialogue}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def tiny_wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wav2vec 2.0 checkpoint of two small blocks with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", reason="writes the small checkpoint")
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wav2vec2")
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_cai_checkpoint(tiny_wav2vec2: Path) -> Callable[..., Path]:
    """``make_cai_checkpoint(folder, speakers, seed)``: a checkpoint as Cai et al. 2021 saved theirs, random heads.

    The heads are those of any recording that is normalised: large enough to tell recordings apart.
    """
    import torch
    from safetensors.torch import load_file, save_file

    def make(folder: Path, speakers: int = 0, seed: int = 0) -> Path:
        state = {f"wav2vec2.{key}": value for key, value in load_file(tiny_wav2vec2 / "model.safetensors").items()}
        generator = torch.Generator().manual_seed(seed)
        for name, size in (("lm_head", 32), ("cls_head", 4), *([("spk_head", speakers)] if speakers else [])):
            state[f"{name}.weight"] = torch.randn(size, 32, generator=generator)
            state[f"{name}.bias"] = torch.randn(size, generator=generator) * 0.1
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text((tiny_wav2vec2 / "config.json").read_text())
        return folder

    return make


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def serkit(monkeypatch, capsys) -> Callable[..., Ran]:
    """``serkit("predict", ...)`` runs the command line here: ``code``, ``out`` and ``err``."""
    from serkit import cli

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["serkit", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return Ran(code, *capsys.readouterr())

    return run
