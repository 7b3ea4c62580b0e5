"""Encode the utterances of a manifest into the feature cache: one single-threaded worker per core, longest first.

On a CPU neither batching nor more threads per process help an encoder, and padding costs; see
``docs/encoders-speed.md``. Elsewhere one process encodes batches of similar length; see :mod:`serkit.encoders.batches`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE, read_audio
from serkit.data.feature_files import unique_names
from serkit.data.files import replace_atomically
from serkit.data.manifest import Manifest
from serkit.encoders import create_encoder
from serkit.encoders.base import Encoder
from serkit.encoders.batches import encode_batches
from serkit.encoders.cache import FeatureCache, feature_key, start_key
from serkit.errors import AudioError, InputError
from serkit.processes import end_with_parent

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


def list_jobs(manifest: Manifest, copy: int = 0, augmentation: str = "", failed: list[str] | None = None) -> list[Job]:
    """Return one job per utterance, in row order; ``copy`` 0 is the recording itself, others are augmented.

    Raises ``AudioError`` for a recording that cannot be read; with a list ``failed`` it is told there and left out.
    """
    hashed: dict[str, tuple[Any, int]] = {}
    jobs = []
    for row in manifest.table.select("id", "audio", "start", "end").iter_rows(named=True):
        name = row["audio"]
        try:
            if name not in hashed:
                hashed = {name: _hash_file(name)}  # rows of one recording stand together: keep only the last file
        except AudioError as error:
            told = f"utterance {row['id']}: {error}"
            if failed is None:
                raise AudioError(told) from error
            failed.append(told)
            continue
        digest, size = hashed[name]
        seed = f"{copy}/{row['id']}" if copy else None
        key = feature_key(digest, row["start"], row["end"], f"{augmentation}|{seed}" if copy else "")
        jobs.append(Job(key, row["id"], name, row["start"], row["end"], seed, size))
    return jobs


def extract(
    jobs: list[Job],
    spec: EncoderSpec,
    cache_folder: str | Path,
    frames: bool,
    augment: Augment | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    device: str = "cpu",
    batch_seconds: float | None = None,
    failed: list[str] | None = None,
) -> FeatureCache:
    """Encode what is not cached yet and return the cache; interrupted work goes on where it stopped.

    ``frames`` keeps the hidden states themselves, otherwise only their statistics are stored. On another ``device``
    than the CPU, or when ``batch_seconds`` is given, one process encodes padded batches of at most that many seconds
    (None: 200); away from the CPU in bfloat16, which has features of its own in the cache. Raises ``InputError`` naming
    the utterance that cannot be encoded, after the others are done; with a list ``failed`` all are told there instead.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f'device="{device}": PyTorch finds no such device here: use "cpu"')
    encoder = spec.create()
    if encoder.native_rate and any(job.seed is not None for job in jobs):
        raise InputError(
            f"encoder {spec.name}: augmentation works at 16 kHz: leave out its copies, or set a fixed rate"
        )
    fingerprint = encoder.fingerprint() + ("" if device == "cpu" else "-bf16")
    cache = FeatureCache(cache_folder, fingerprint, encoder.num_layers, encoder.dim, encoder.precision)
    todo = {job.key: job for job in jobs if not cache.has(job.key, frames)}
    queue = sorted(todo.values(), key=lambda job: -job.size)
    workers = min(workers or count_cores(), max(1, len(queue) // 8))
    results: Iterable[str | None]
    if device != "cpu" or batch_seconds is not None:
        loaded = partial(_load, augment=augment, native=encoder.native_rate, rate=encoder.sampling_rate)
        keep = partial(_keep, cache=cache, frames=frames)
        results = encode_batches(queue, encoder.to(device), loaded, keep, batch_seconds or 200.0)
    elif workers == 1:
        results = (_encode_job(job, encoder, cache, frames, augment) for job in queue)
    else:
        del encoder  # each process loads its own
        results = _in_processes(queue, spec, cache, frames, augment, workers)
    errors: list[str] = []
    for done, error in enumerate(results, 1):
        errors += [error] if error else []
        progress(done, len(queue))
    cache.refresh()
    if failed is not None:
        failed += errors
    elif errors:
        more = f" (and {len(errors) - 1} more)" if errors[1:] else ""
        raise InputError(f"{errors[0]}{more}: remove it from the manifest or repair it")
    return cache


def write_features(jobs: list[Job], cache: FeatureCache, folder: str | Path, frames: bool) -> None:
    """Write one ``<id>.npy`` per utterance to ``folder``: its frames ``(N, T, D)``, or statistics ``(2, N, D)``.

    Raises ``InputError`` before anything is written when two ids share a file name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for job, name in zip(jobs, unique_names([job.id for job in jobs]), strict=True):
        with replace_atomically(folder / f"{name}.npy") as part:
            np.save(part, cache.frames(job.key) if frames else cache.pooled(job.key))


def _hash_file(name: str | None) -> tuple[Any, int]:
    """Return the hash of a recording's bytes, to be gone on with, and their number."""
    if name is None:
        raise AudioError("has no recording: fill the manifest's column audio")
    try:
        with Path(name).open("rb") as file:
            digest = hashlib.file_digest(file, start_key)
            return digest, file.tell()
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror}") from error


def _load(job: Job, augment: Augment | None, native: bool, rate: int) -> np.ndarray:
    if job.seed is None or augment is None:
        return read_audio(job.audio, job.start, job.end, native, rate)
    changed = augment(read_audio(job.audio, job.start, job.end), job.seed)
    return changed if rate == SAMPLING_RATE else soxr.resample(changed, SAMPLING_RATE, rate, "HQ")


def _keep(job: Job, states: torch.Tensor, cache: FeatureCache, frames: bool) -> None:
    cache.add(job.key, states.numpy(), frames)


def _encode_job(job: Job, encoder: Encoder, cache: FeatureCache, frames: bool, augment: Augment | None) -> str | None:
    try:
        waveform = _load(job, augment, encoder.native_rate, encoder.sampling_rate)
        with torch.inference_mode():
            features = encoder(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    except (AudioError, ValueError) as error:
        return f"utterance {job.id}: {error}"
    # trimming may have left padding at the end
    _keep(job, features.layers[0, :, : int(features.lengths[0])], cache, frames)
    return None


_worker: dict[str, Any] = {}


def _start_worker(spec: EncoderSpec, folder: Path, frames: bool, augment: Augment | None) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    encoder = spec.create()
    # The folder's name is the fingerprint: hashing the weights takes longer than half a minute of speech.
    cache = FeatureCache(folder.parent, folder.name, encoder.num_layers, encoder.dim, encoder.precision)
    _worker.update(encoder=encoder, cache=cache, frames=frames, augment=augment)


def _run_job(job: Job) -> str | None:
    return _encode_job(job, _worker["encoder"], _worker["cache"], _worker["frames"], _worker["augment"])


def open_pool(
    spec: EncoderSpec, cache: FeatureCache, frames: bool, augment: Augment | None, workers: int
) -> ProcessPoolExecutor:
    """Start ``workers`` processes of one thread each, which load the encoder once and write to ``cache``."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _start_worker, (spec, cache.folder, frames, augment))


def encode_in_pool(pool: ProcessPoolExecutor, queue: list[Job]) -> Iterator[str | None]:
    """Encode ``queue``, its first jobs first; yields None or what went wrong with a job, as they are done."""
    for future in as_completed([pool.submit(_run_job, job) for job in queue]):
        yield future.result()


def _in_processes(
    queue: list[Job], spec: EncoderSpec, cache: FeatureCache, frames: bool, augment: Augment | None, workers: int
) -> Iterator[str | None]:
    with open_pool(spec, cache, frames, augment, workers) as pool:
        yield from encode_in_pool(pool, queue)
