"""Encode the utterances of a manifest into the feature cache: one single-threaded worker per core, longest first.

On a CPU neither batching nor more threads per process help an encoder, and padding costs; see ``docs/log.md``.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serkit.cores import count_cores
from serkit.data.audio import read_audio
from serkit.data.files import replace_atomically
from serkit.data.manifest import Manifest
from serkit.encoders import create_encoder
from serkit.encoders.base import Encoder
from serkit.encoders.cache import FeatureCache, feature_key
from serkit.errors import AudioError, InputError

Augment = Callable[[np.ndarray, str], np.ndarray]
"""Changes a waveform ``(S,)``; the string seeds it, so that the same utterance always changes alike."""


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder by name with its options, so that worker processes can build it."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def create(self) -> Encoder:
        """Build the encoder."""
        return create_encoder(self.name, **self.options)


@dataclass(frozen=True)
class Job:
    """One utterance to encode: its cache key, where it is, and the seed of its augmentation (None: as recorded)."""

    key: str
    id: str
    audio: str
    start: float | None
    end: float | None
    seed: str | None
    size: int


def list_jobs(manifest: Manifest, copy: int = 0, augmentation: str = "") -> list[Job]:
    """Return one job per utterance, in row order; ``copy`` 0 is the recording itself, others are augmented."""
    hashed: dict[str, bytes] = {}
    jobs = []
    for row in manifest.table.select("id", "audio", "start", "end").iter_rows(named=True):
        name = row["audio"]
        if name not in hashed:
            hashed = {name: _read_bytes(name)}  # rows of one recording stand together: keep only the last file
        seed = f"{copy}/{row['id']}" if copy else None
        key = feature_key(hashed[name], row["start"], row["end"], f"{augmentation}|{seed}" if copy else "")
        jobs.append(Job(key, row["id"], name, row["start"], row["end"], seed, len(hashed[name])))
    return jobs


def extract(
    jobs: list[Job],
    spec: EncoderSpec,
    cache_folder: str | Path,
    frames: bool,
    augment: Augment | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureCache:
    """Encode what is not cached yet and return the cache; interrupted work goes on where it stopped.

    ``frames`` keeps the hidden states themselves, otherwise only their statistics are stored. Raises ``InputError``
    naming the utterance that cannot be encoded, after the others are done.
    """
    encoder = spec.create()
    if encoder.native_rate and any(job.seed is not None for job in jobs):
        raise InputError(f"encoder {spec.name}: augmentation works at 16 kHz: set augment.copies=0 or a fixed rate")
    cache = FeatureCache(cache_folder, encoder.fingerprint(), encoder.num_layers, encoder.dim)
    todo = {job.key: job for job in jobs if not cache.has(job.key, frames)}
    queue = sorted(todo.values(), key=lambda job: -job.size)
    workers = min(workers or count_cores(), max(1, len(queue) // 8))
    failed: list[str] = []
    if workers == 1:
        results: Iterable[str | None] = (_encode_job(job, encoder, cache, frames, augment) for job in queue)
        for done, error in enumerate(results, 1):
            failed += [error] if error else []
            progress(done, len(queue))
    else:
        for done, error in enumerate(_in_processes(queue, spec, cache_folder, frames, augment, workers), 1):
            failed += [error] if error else []
            progress(done, len(queue))
        cache.refresh()
    if failed:
        more = f" (and {len(failed) - 1} more)" if failed[1:] else ""
        raise InputError(f"{failed[0]}{more}: remove it from the manifest or repair it")
    return cache


def write_features(jobs: list[Job], cache: FeatureCache, folder: str | Path, frames: bool) -> None:
    """Write one ``<id>.npy`` per utterance to ``folder``: float16 ``(N, T, D)`` or float32 statistics ``(2, N, D)``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        path = folder / f"{job.id.replace('/', '_')}.npy"
        with replace_atomically(path) as part:
            np.save(part, cache.frames(job.key) if frames else cache.pooled(job.key))


def _read_bytes(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror}") from error


def _encode_job(job: Job, encoder: Encoder, cache: FeatureCache, frames: bool, augment: Augment | None) -> str | None:
    try:
        waveform = read_audio(job.audio, job.start, job.end, encoder.native_rate)
        if job.seed is not None and augment is not None:
            waveform = augment(waveform, job.seed)
        with torch.inference_mode():
            features = encoder(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    except (AudioError, ValueError) as error:
        return f"utterance {job.id}: {error}"
    states = features.layers[0, :, : int(features.lengths[0])]  # trimming may have left padding at the end
    cache.add(job.key, states.numpy(), frames)
    return None


_worker: dict[str, Any] = {}


def _start_worker(spec: EncoderSpec, folder: str | Path, frames: bool, augment: Augment | None) -> None:
    torch.set_num_threads(1)
    encoder = spec.create()
    cache = FeatureCache(folder, encoder.fingerprint(), encoder.num_layers, encoder.dim)
    _worker.update(encoder=encoder, cache=cache, frames=frames, augment=augment)


def _run_job(job: Job) -> str | None:
    return _encode_job(job, _worker["encoder"], _worker["cache"], _worker["frames"], _worker["augment"])


def _in_processes(
    queue: list[Job], spec: EncoderSpec, folder: str | Path, frames: bool, augment: Augment | None, workers: int
) -> Iterator[str | None]:
    context = multiprocessing.get_context("spawn")
    arguments = (spec, folder, frames, augment)
    with ProcessPoolExecutor(workers, context, _start_worker, arguments) as pool:
        for future in as_completed([pool.submit(_run_job, job) for job in queue]):
            yield future.result()
