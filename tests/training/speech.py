"""Generated "speech" that a small encoder can learn by heart, and models to learn it: for tests of fine-tuning."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from serkit.data.labels import LabelScheme
from serkit.data.manifest import Manifest
from serkit.encoders import wav2vec2, whisper
from serkit.encoders.regularise import Regularisation
from serkit.models.heads import HeadConfig, create_head
from serkit.models.model import Model
from serkit.models.tasks import EmotionTask, TasksConfig, create_tasks
from serkit.training import checkpoint
from serkit.training.augment import Augmentation
from serkit.training.batching import BatchOptions
from serkit.training.finetune import finetune
from serkit.training.fit import TrainingOptions
from serkit.training.tuning import FinetuneOptions, prepare_encoder, trained_state
from serkit.training.waveforms import WaveformSet, store_waveforms

TEXTS = ["AB", "BA CA", "CC A", "B", "ACB", "CAB AB", "BB C", "A"]
PITCH = {"A": 300, "B": 700, "C": 1500, " ": 0}
EMOTIONS, SPEAKERS, FOUR = ("sad", "happy"), ("f", "m"), ("f1", "f2", "m1", "m2")
SCHEME = LabelScheme("two", EMOTIONS)
TINY = {"wav2vec2": wav2vec2.create_tiny, "whisper": whisper.create_tiny}
ALL_TASKS = {"ctc": {"weight": 0.2}, "speaker": {"weight": 0.5}}


def speak(text: str, emotion: str, speaker: str, seed: int = 0) -> np.ndarray:
    """A tone of 0.12 s for each letter; the happy vibrate, and speakers differ in their second harmonic."""
    sounds = []
    for letter in text:
        time = np.arange(1920) / 16_000
        phase = 2 * np.pi * PITCH[letter] * time + (3 * np.sin(2 * np.pi * 40 * time) if emotion == "happy" else 0)
        wave = np.sin(phase) + (0.7 * np.sin(2 * phase) if speaker == "f" else 0)
        sounds.append(0.2 * wave * np.hanning(1920) ** 0.3)
    silence = np.zeros(800)
    sound = np.concatenate([silence, *sounds, silence])
    return sound + np.random.default_rng(seed).normal(0, 0.003, len(sound))


def write_corpus(folder: Path, repetitions: int = 1, speakers: tuple[str, ...] = SPEAKERS) -> Manifest:
    """Write every text in turn, with each emotion and speaker as often; return the manifest."""
    rows, turns = [], itertools.product(speakers, EMOTIONS)
    pairs = list(itertools.islice(itertools.cycle(turns), len(TEXTS) * repetitions))
    folder.mkdir(parents=True, exist_ok=True)
    for number, (speaker, emotion) in enumerate(pairs):
        text, path = TEXTS[number % len(TEXTS)], folder / f"u{number}.wav"
        soundfile.write(path, speak(text, emotion, speaker[0], number), 16_000, subtype="FLOAT")
        rows.append({
            "id": f"u{number}", "audio": str(path), "emotion": emotion, "speaker": speaker, "text": text,
            "corpus": "generated", "arousal": 0.2 + 0.6 * (emotion == "happy"), "valence": number / len(pairs),
        })  # fmt: skip
    return Manifest.from_rows(rows)


def write_tiny_whisper(path: Path, positions: int = 400) -> None:
    """Write the weights of a Whisper encoder of two small blocks, always the same random ones."""
    torch.manual_seed(0)
    config = whisper.WhisperConfig(mels=20, dim=64, heads=1, blocks=2, ffn=48, positions=positions)
    save_file(whisper.WhisperEncoder("whisper", config).state_dict(), path)


def create_model(
    manifest: Manifest, encoder: str = "wav2vec2", options: FinetuneOptions | None = None, tasks: dict | None = None,
    seed: int = 0, smoothing: float = 0.0, **head: object,
) -> Model:  # fmt: skip
    """A tiny encoder with random weights, prepared as ``options`` say, and the heads of ``tasks`` beside emotion."""
    torch.manual_seed(seed)
    options, made = options or FinetuneOptions(), TINY[encoder]()
    config = HeadConfig(**{"frame_hidden": (), "pooling": "mean", "dropout": 0.0, **head})
    chosen = TasksConfig.model_validate(ALL_TASKS if tasks is None else tasks)
    emotion = EmotionTask(chosen.emotion, create_head(config, [(1, made.dim)], len(EMOTIONS)), SCHEME, smoothing)
    learned = create_tasks(chosen, emotion, made.dim, manifest)
    prepare_encoder(made, options)
    return Model(made, learned, (made.num_layers - 1,), 1, options.dropout)


def waveform_set(model: Model, manifest: Manifest, cache: Path, weights: torch.Tensor | None = None) -> WaveformSet:
    """All utterances of ``manifest`` with the targets of ``model``."""
    store = store_waveforms(manifest, model.encoder, cache, workers=1)
    targets = {task.name: task.targets(manifest) for task in model.each()}
    count = len(manifest)
    return WaveformSet(
        tuple(manifest.ids), store, tuple(range(count)), targets, torch.ones(count) if weights is None else weights
    )


def die_while_saving(kill_at: int, way: str) -> None:
    """Write a checkpoint after every step from now on, with one thread; die while the ``kill_at``-th is being written.

    ``way`` "writing" kills when half of it is on disk, "renaming" before it takes the place of the last one.
    """
    torch.set_num_threads(1)
    checkpoint.SHARE = 0
    save, written = checkpoint.save_file, itertools.count(1)

    def save_and_die(tensors: dict, path: Path, facts: dict) -> None:
        save(tensors, path, facts)
        if next(written) == kill_at:
            if way == "writing":
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = save_and_die


def train_until_killed(corpus: Path, work: Path, kill_at: int = 0, way: str = "") -> None:
    """Train with a checkpoint after every step; die as :func:`die_while_saving` says."""
    die_while_saving(kill_at, way)
    manifest = Manifest.read(corpus / "manifest.parquet")
    options = FinetuneOptions(
        lr=1e-3, dropout=0.1, batches=BatchOptions(micro_batch=1),
        regularise=Regularisation(dropout=0.1, layer_drop=0.3, mask_time=0.2, mask_time_length=3),
    )  # fmt: skip
    model = create_model(manifest, options=options, dropout=0.2)
    data = replace(waveform_set(model, manifest, work / "cache"), augmentation=Augmentation([{"name": "noise"}]))
    data = replace(data, crop=0.8)
    training = TrainingOptions(epochs=4, batch_size=2, lr=1e-3, checkpoint_seconds=0, clip_norm=1.0)
    history = finetune(model, data, data.plain(), training, options, 7, work / "run")
    facts = json.dumps([{key: value for key, value in line.items() if key != "seconds"} for line in history])
    save_file(trained_state(model), work / "end.safetensors", {"history": facts})
