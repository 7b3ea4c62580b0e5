"""Bring recordings to one loudness: EBU R128, integrated, -23 LUFS, in a mirrored tree of files.

What is written: every recording under the path it had, at its sampling rate and with its channels. WAV stays WAV and
FLAC stays FLAC, both with 24 bits; recordings in any other container become FLAC. Nothing is clipped and nothing is
limited: where the gain lifts a peak beyond full scale, the recording becomes a WAV of 32-bit floats, which has room
for it, and so keeps its loudness. A recording that is shorter than the 0.4 s over which loudness is measured, or that
is silent (no such stretch is louder than -70 LUFS), is copied bit by bit.

The measurement leaves stretches below -70 LUFS out, and a gain lifts some of them over it: in a quiet recording the
loudness that comes out is then below the target (by up to 1.2 LU in RAVDESS). So the outcome is measured as well, and
the gain corrected until it is right; ``once`` leaves the correction out, as audiomentations does.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import soundfile

from serkit.cores import count_cores
from serkit.data.audio import read_channels
from serkit.data.files import replace_atomically
from serkit.data.manifest import Manifest
from serkit.errors import AudioError, InputError
from serkit.processes import end_with_parent
from serkit.progress import Step, no_steps

TARGET = -23.0
"""LUFS, what EBU R128 asks of a programme."""

BLOCK_SECONDS = 0.4
FULL_SCALE = 1 - 2.0**-23  # the largest sample that 24 bits can hold
LOWEST = -60.0  # lower, stretches that count (not more than 10 LU below the target) would be left out at -70
TOLERANCE = 0.01  # LU
ROUNDS = 8
JOURNAL = "loudness.jsonl"


@dataclass(frozen=True)
class Levelled:
    """What was done with a recording.

    ``target`` and ``once`` are what was asked for, ``loudness`` is what it had in LUFS, ``gain`` what it got in dB,
    ``peak`` the largest sample it has then (1 is full scale); with ``kept``, the reason why it is a copy, there is no
    gain. ``stamp`` is the size and the time of change of the original, by which a later run knows it.
    """

    recording: str
    output: str
    target: float
    once: bool = False
    loudness: float | None = None
    gain: float | None = None
    peak: float | None = None
    kept: str | None = None
    stamp: tuple[int, int] = (0, 0)

    @property
    def beyond_full_scale(self) -> bool:
        """Tell whether it is a WAV of floats because it has samples beyond full scale."""
        return self.peak is not None and self.peak > FULL_SCALE


def measure_loudness(samples: np.ndarray, sampling_rate: int) -> float:
    """Return the integrated loudness of ``(S,)`` or ``(S, channels)`` in LUFS, -inf for silence.

    ITU-R BS.1770-4, as pyloudnorm measures it. Raises ``ValueError`` for less than 0.4 s or more than 5 channels.
    """
    import pyloudnorm

    meter = pyloudnorm.Meter(sampling_rate, block_size=BLOCK_SECONDS)
    return float(meter.integrated_loudness(np.asarray(samples, dtype=np.float64)))


def normalise_loudness(
    manifest: Manifest,
    output: str | Path,
    lufs: float = TARGET,
    base: str | Path | None = None,
    workers: int | None = None,
    step: Step = no_steps,
    once: bool = False,
) -> tuple[Manifest, list[Levelled]]:
    """Write every recording of ``manifest`` below ``output`` at ``lufs``; return a manifest of these and what was done.

    A recording has the path below ``output`` that it has below ``base`` (the deepest folder that holds all of them,
    unless given). One gain is applied to a whole recording, whatever spans utterances have in it; ``once`` takes the
    first measurement for it. ``workers`` processes (one per core unless given) do the work, and
    ``output/loudness.jsonl`` has a line for every recording; a run that was interrupted goes on where it stopped, and
    originals that have changed are done again.

    A recording is held in memory as a whole. Raises ``InputError`` for recordings that lie in ``output`` or two whose
    copies would have the same name, and ``AudioError`` naming the first that cannot be read, when all others are done.
    """
    if not LOWEST <= lufs <= 0:
        raise InputError(f"loudness: {lufs} LUFS is not between {LOWEST} and 0")
    output = Path(output).expanduser().resolve()
    jobs = [replace(job, once=once) for job in _plan(manifest, output, lufs, base)]
    output.mkdir(parents=True, exist_ok=True)
    done = {job.recording: line for job, line in _read_journal(output, jobs)}
    queue = [job for job in jobs if job.recording not in done]
    failed = []
    with (output / JOURNAL).open("a", encoding="utf-8") as journal:
        journal.write("\n")  # the line before may have been cut off
        for number, result in enumerate(_run(queue, output, workers), len(done) + 1):
            step("recordings", number, len(jobs))
            if isinstance(result, AudioError):
                failed.append(str(result))
                continue
            done[result.recording] = result
            journal.write(json.dumps(asdict(result), ensure_ascii=False, allow_nan=False) + "\n")
            journal.flush()
    if failed:
        raise AudioError(f"{min(failed)} ({len(failed)} of {len(jobs)} recordings cannot be normalised)")
    audio = [str(output / done[os.path.abspath(name)].output) for name in manifest.table["audio"]]
    levelled = manifest.table.with_columns(pl.Series("audio", audio, dtype=pl.String))
    return Manifest(levelled), [done[job.recording] for job in jobs]


def _plan(manifest: Manifest, output: Path, lufs: float, base: str | Path | None) -> list[Levelled]:
    """Return one job for each recording, its output still without the ending that only its samples decide."""
    bare = manifest.table.filter(pl.col("audio").is_null())
    if len(bare):
        raise InputError(f"manifest: utterance {bare['id'][0]} has no audio")
    recordings = sorted({os.path.abspath(name) for name in manifest.table["audio"]})
    if not recordings:
        raise InputError("manifest: has no utterances")
    folder = (
        Path(base).expanduser().resolve() if base else Path(os.path.commonpath([*map(os.path.dirname, recordings)]))
    )
    if inside := [name for name in recordings if Path(name).is_relative_to(output)]:
        raise InputError(f"{inside[0]}: lies in {output}, where the copies go: choose another output")
    taken: dict[str, str] = {}
    for name in recordings:
        if not Path(name).is_relative_to(folder):
            raise InputError(f"{name}: is not below {folder}, the folder of the recordings")
        stem = str(Path(name).relative_to(folder).with_suffix(""))
        if stem in taken:
            raise InputError(f"{name} and {taken[stem]}: their copies would have the same name")
        taken[stem] = name
    return [Levelled(name, stem, lufs) for stem, name in taken.items()]


def _read_journal(output: Path, jobs: list[Levelled]) -> Iterator[tuple[Levelled, Levelled]]:
    """Yield the jobs that an earlier run has done, with what it did."""
    path = output / JOURNAL
    lines = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            lines[line["recording"]] = Levelled(**{**line, "stamp": tuple(line["stamp"])})
        except (ValueError, TypeError, KeyError):
            continue  # empty, or cut off when a run was killed
    for job in jobs:
        line = lines.get(job.recording)
        asked = line and (line.target, line.once) == (job.target, job.once)
        if line and asked and (output / line.output).is_file() and line.stamp == _stamp(job):
            yield job, line


def _stamp(job: Levelled) -> tuple[int, int] | None:
    try:
        status = os.stat(job.recording)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _run(queue: list[Levelled], output: Path, workers: int | None) -> Iterable[Levelled | AudioError]:
    processes = min(workers or count_cores(), max(1, len(queue) // 8))
    if processes <= 1:
        yield from (_try_to_level(job, output) for job in queue)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, end_with_parent) as pool:
        for future in as_completed([pool.submit(_try_to_level, job, output) for job in queue]):
            yield future.result()


def _try_to_level(job: Levelled, output: Path) -> Levelled | AudioError:
    try:
        return _level(job, output)
    except AudioError as error:
        return error


def _level(job: Levelled, output: Path) -> Levelled:
    """Write the copy of one recording."""
    source, stamp = Path(job.recording), _stamp(job)
    recorded, rate = read_channels(source)
    samples = recorded.astype(np.float64)
    job = replace(job, stamp=stamp or (0, 0))
    (output / job.output).parent.mkdir(parents=True, exist_ok=True)
    if len(samples) < BLOCK_SECONDS * rate:
        return _copy(replace(job, kept=f"shorter than {BLOCK_SECONDS} s"), source, output)
    try:
        loudness = measure_loudness(samples, rate)
    except ValueError as error:
        raise AudioError(f"{source}: its loudness cannot be measured: {error}") from error
    if loudness == -math.inf:
        return _copy(replace(job, kept="silent"), source, output)
    gain = job.target - loudness
    levelled = samples * 10 ** (gain / 20)
    for _ in range(0 if job.once else ROUNDS):
        lacking = job.target - measure_loudness(levelled, rate)
        if abs(lacking) < TOLERANCE:
            break
        gain += lacking
        levelled = samples * 10 ** (gain / 20)
    job = replace(job, loudness=loudness, gain=gain, peak=float(np.abs(levelled).max()))
    ending = source.suffix if source.suffix.lower() in (".wav", ".flac") else ".flac"
    if job.beyond_full_scale and ending.lower() != ".wav":
        ending = ".wav"
    with _write(job, output, ending) as part:
        try:
            soundfile.write(part, levelled, rate, subtype="FLOAT" if job.beyond_full_scale else "PCM_24")
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{source}: cannot be written as {ending}: {error.error_string}") from error
    return replace(job, output=job.output + ending)


def _copy(job: Levelled, source: Path, output: Path) -> Levelled:
    with _write(job, output, source.suffix) as part:
        shutil.copyfile(source, part)
    return replace(job, output=job.output + source.suffix)


@contextmanager
def _write(job: Levelled, output: Path, ending: str) -> Iterator[Path]:
    """Yield where to write; a copy with another ending, which an earlier run may have made, is removed."""
    with replace_atomically(output / f"{job.output}{ending}") as part:
        yield part
    for other in {".wav", ".flac", Path(job.recording).suffix}:
        if other.lower() != ending.lower():
            (output / f"{job.output}{other}").unlink(missing_ok=True)
