"""Recordings as fine-tuning sees them: decoded and prepared once into one mapped file, cut and changed on the fly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE, read_audio
from serkit.data.files import replace_atomically, write_json
from serkit.data.manifest import Manifest
from serkit.encoders.base import Encoder
from serkit.encoders.extract import list_jobs
from serkit.errors import AudioError, InputError
from serkit.models.model import Waveforms
from serkit.progress import Step, no_steps
from serkit.training.augment import Augmentation
from serkit.training.features import draw_crop

SHORTEST = SAMPLING_RATE // 4
"""Samples that a crop keeps at least."""


@dataclass(frozen=True)
class WaveformStore:
    """Waveforms one after the other in a file of float32, in the order of a manifest's rows; ``ends`` in samples.

    Small enough to be sent to another process, which maps the same pages.
    """

    path: Path
    ends: tuple[int, ...]

    @cached_property
    def _samples(self) -> np.ndarray:
        return np.memmap(self.path, np.float32, "r")

    def __len__(self) -> int:
        return len(self.ends)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "ends": self.ends}

    def read(self, row: int) -> np.ndarray:
        """Return the waveform ``(S,)`` of a row."""
        start = self.ends[row - 1] if row else 0
        return np.array(self._samples[start : self.ends[row]])

    def seconds(self) -> list[float]:
        """Return the length of every waveform."""
        return (np.diff(self.ends, prepend=0) / SAMPLING_RATE).tolist()


def store_waveforms(
    manifest: Manifest, encoder: Encoder, cache: Path, step: Step = no_steps, workers: int | None = None
) -> WaveformStore:
    """Decode every utterance and prepare it as ``encoder`` does (limit, trim, level); 230 MB an hour.

    What is in ``cache`` already is read from there. Raises ``InputError`` naming the first recording that cannot be
    used.
    """
    if encoder.native_rate:
        raise InputError(f"encoder {encoder.name}: takes recordings at their own rate, fine-tuning gives 16 kHz")
    if encoder.sampling_rate != SAMPLING_RATE:
        raise InputError(f"encoder {encoder.name}: takes {encoder.sampling_rate} Hz, fine-tuning gives 16 kHz")
    keys = [job.key for job in list_jobs(manifest, 0, "")]
    front = (encoder.trim, encoder.level, encoder.limit, encoder.min_samples, encoder.max_samples)
    facts = json.dumps([1, front, keys])
    folder = cache / "waveforms" / hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
    path, index = folder / "samples.f32", folder / "ends.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        ends = _write(manifest, encoder, path, step, workers or count_cores())
        write_json(index, ends)
    return WaveformStore(path, tuple(json.loads(index.read_text(encoding="utf-8"))))


def _write(manifest: Manifest, encoder: Encoder, path: Path, step: Step, workers: int) -> list[int]:
    spans = manifest.table.select("id", "audio", "start", "end").rows()
    ends, end = [], 0
    with replace_atomically(path) as part, part.open("wb") as file, ThreadPoolExecutor(workers) as pool:
        for number, waveform in enumerate(pool.map(partial(_prepare, encoder), spans), 1):
            file.write(waveform.tobytes())
            end += len(waveform)
            ends.append(end)
            step("reading recordings", number, len(spans))
    return ends


@torch.no_grad()
def _prepare(encoder: Encoder, span: tuple[str, str, float | None, float | None]) -> np.ndarray:
    id, audio, start, end = span
    waveform = torch.from_numpy(read_audio(audio, start, end))[None]
    try:
        prepared, lengths, _ = encoder.prepare(waveform, torch.tensor([waveform.shape[1]]))
    except ValueError as error:
        raise InputError(f"{audio}: utterance {id!r}: {error}") from error
    return prepared[0, : int(lengths)].numpy()


@dataclass(frozen=True)
class WaveformSet:
    """``U`` utterances of a store: the counterpart of :class:`~serkit.training.features.FeatureSet` for fine-tuning.

    ``rows`` are their places in the store, ``targets`` one list per task, ``weights (U,)`` what an utterance counts in
    the loss of emotion. ``augmentation`` changes a recording anew every time, ``crop`` is the smallest share of its
    length that a step sees. The last utterances may be copies that :meth:`with_copies` added.
    """

    ids: tuple[str, ...]
    store: WaveformStore = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)
    targets: dict[str, list[Any]] = field(repr=False)
    weights: Tensor = field(repr=False)
    augmentation: Augmentation | None = None
    crop: float = 1.0
    changes: tuple[tuple[Augmentation, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def seconds(self) -> list[float]:
        """The length of every utterance."""
        every = self.store.seconds()
        return [every[row] for row in self.rows]

    def plain(self) -> WaveformSet:
        """Return the recordings themselves, neither changed nor cut, without copies."""
        count = self._originals
        return replace(
            self,
            ids=self.ids[:count],
            rows=self.rows[:count],
            targets={name: values[:count] for name, values in self.targets.items()},
            weights=self.weights[:count],
            augmentation=None,
            crop=1.0,
            changes=(),
        )

    def with_copies(self, changes: Sequence[tuple[Augmentation, int]]) -> WaveformSet:
        """Add a copy of all utterances for every change; its number and the utterance seed it, in every epoch alike."""
        times = 1 + len(changes)
        return replace(
            self,
            ids=self.ids * times,
            rows=self.rows * times,
            targets={name: values * times for name, values in self.targets.items()},
            weights=self.weights.repeat(times),
            changes=tuple(changes),
        )

    @property
    def _originals(self) -> int:
        return len(self) // (1 + len(self.changes))

    def batch(self, numbers: Sequence[int], seed: Sequence[int] = ()) -> Waveforms:
        """Return the utterances ``numbers``; ``seed`` decides, for each of them by itself, how they are changed."""
        return Waveforms.pad([torch.from_numpy(self._change(number, seed)) for number in numbers])

    def _change(self, number: int, seed: Sequence[int]) -> np.ndarray:
        waveform, copy = self.store.read(self.rows[number]), number // self._originals
        if not copy and self.augmentation is None and self.crop == 1:
            return waveform
        rng = np.random.default_rng([*seed, number])
        try:
            if copy:
                change, counter = self.changes[copy - 1]
                waveform = change(waveform, f"{counter}/{self.ids[number]}")
            if self.augmentation is not None:
                waveform = self.augmentation(waveform, str(rng.integers(2**63)))
        except AudioError as error:
            raise AudioError(f"utterance {self.ids[number]!r}: {error}") from error
        return waveform[draw_crop(len(waveform), rng, self.crop, SHORTEST)]
