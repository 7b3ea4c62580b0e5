"""Encode utterances into feature files, in the layouts that emotion2vec's users know, whatever their length.

Unlike :mod:`serkit.encoders.extract` nothing goes through the cache: frames are float32 as they were computed, and are
written as they come. What is finished is kept in ``features.jsonl`` beside the files, so that interrupted work goes on.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from serkit.cores import count_cores
from serkit.data.audio import read_info, stream_audio
from serkit.data.feature_files import open_frames, unique_names, write_corpus_features
from serkit.data.files import read_object, write_json, write_text
from serkit.encoders.base import Encoder
from serkit.encoders.extract import EncoderSpec, Job, extract, write_features
from serkit.encoders.feature_writers import write_layers, write_selected, write_statistics
from serkit.encoders.windows import DEFAULT, Windows, encode_stream, plan_windows
from serkit.errors import AudioError, InputError, SerkitError
from serkit.processes import end_with_parent

INDEX = "features.jsonl"
"""First line: what was asked for. Then one line per utterance that is finished."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wanted:
    """What is written of an utterance.

    ``frames``: float32 ``(T, D)`` as they are, otherwise their mean ``(D,)``. ``layers`` are ``-1`` (the last), ``6``
    (counted from 0, the first that the encoder returns), ``mean4`` (the mean of the last four); of several, each has a
    folder of its own. No layers: all in one array, ``(N, T, D)`` in the encoder's ``precision`` or float32 mean
    and standard deviation ``(2, N, D)``, as ``serkit extract`` writes by default.
    """

    frames: bool
    layers: tuple[str, ...] = ("-1",)
    windows: Windows | None = DEFAULT

    def select(self, encoder: Encoder) -> dict[str, list[int]]:
        """Return which of the ``N`` layers each wanted one is the mean of, by the name of its folder."""
        count, found = encoder.num_layers, {}
        for layer in self.layers:
            match = re.fullmatch(r"(mean)?(-?\d{1,4})", layer)
            number = int(match[2]) if match else count
            if match and match[1] and 0 < number <= count:
                found[layer] = list(range(count - number, count))
            elif match and not match[1] and -count <= number < count:
                found[f"layer{number % count}"] = [number % count]
            else:
                raise InputError(
                    f"layer {layer!r}: encoder {encoder.name} has 0 to {count - 1}, or from the last -1 to -{count}, "
                    f"and means of the last, mean1 to mean{count}"
                )
        return found


def extract_clips(
    jobs: Sequence[Job],
    spec: EncoderSpec,
    folder: str | Path,
    wanted: Wanted,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
    device: str = "cpu",
) -> list[str]:
    """Write one ``<id>.npy`` per utterance to ``folder``; what is there of the same recordings is left as it is.

    Returns what went wrong, one line per utterance, which names it; all others are written. On a CPU one process per
    core, ``workers`` at most, takes the longest recordings first; elsewhere there is one, which computes in bfloat16.
    Raises ``InputError`` for ids that share a file, a folder that holds something else, and options that the encoder
    refuses.
    """
    return _extract(jobs, spec, _create(spec, device), Path(folder), wanted, workers, progress, device)


def extract_corpus(
    jobs: Sequence[Job],
    spec: EncoderSpec,
    folder: str | Path,
    wanted: Wanted,
    part: str = "train",
    labels: Sequence[tuple[str, str]] | None = None,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
    device: str = "cpu",
    complete: bool = True,
) -> list[str]:
    """Write the frames of all utterances, in order, as ``part.npy``, ``part.lengths`` and, with ``labels``, ``.emo``.

    Takes, returns and raises what :func:`extract_clips` does. Clips are first written to ``.part.clips``, and stacked
    when none has failed, and none is missing from ``jobs`` already (``complete``): a stack with holes would not fit the
    list that it was made from. ``part.json`` says what the files hold; a ``part.npy`` that holds something else raises
    ``InputError``.
    """
    folder, encoder = Path(folder), _create(spec, device)
    facts = {**_describe(encoder, wanted, device), "utterances": [[job.id, job.key] for job in jobs]}
    facts["labels"] = None if labels is None else [list(pair) for pair in labels]
    known = read_object(folder / f"{part}.json")
    stacks = [folder / place / f"{part}.npy" for place in _places(encoder, wanted)]
    if complete and known == {**facts, "finished": True} and all(path.exists() for path in stacks):
        return []
    foreign = [path for path in stacks if known != {**facts, "finished": False} and path.exists()]
    if foreign:
        raise InputError(f"{foreign[0]}: holds other features: choose another folder or part")
    clips = folder / f".{part}.clips"
    failed = _extract(jobs, spec, encoder, clips, wanted, workers, progress, device)
    if failed or not complete:
        return failed
    write_json(folder / f"{part}.json", {**facts, "finished": False})
    names = unique_names([job.id for job in jobs])
    for path in stacks:
        pieces = (open_frames(clips / path.relative_to(folder).parent / f"{name}.npy") for name in names)
        write_corpus_features(path.parent, part, pieces, labels)
    write_json(folder / f"{part}.json", {**facts, "finished": True})
    shutil.rmtree(clips)
    return []


def extract_all(
    jobs: Sequence[Job],
    spec: EncoderSpec,
    folder: str | Path,
    wanted: Wanted,
    cache_folder: str | Path,
    workers: int | None = None,
    progress: Progress = lambda done, total: None,
    device: str = "cpu",
) -> list[str]:
    """Write all layers of every utterance, ``wanted.layers`` being empty: short recordings come through the cache.

    Those longer than ``wanted.windows.above`` (or of unknown length) are cut, and encoded anew where ``features.jsonl``
    does not know them. Takes, returns and raises what :func:`extract_clips` does.
    """
    encoder = _create(spec, "cpu")
    plan = wanted.windows and plan_windows(encoder, wanted.windows)
    most = plan.above / encoder.sampling_rate if plan else math.inf
    unique_names([job.id for job in jobs])
    failed: list[str] = []
    lengths = [_seconds(job) if plan else 0.0 for job in jobs]
    long = [job for job, seconds in zip(jobs, lengths, strict=True) if seconds > most]
    short = [job for job, seconds in zip(jobs, lengths, strict=True) if seconds <= most]
    if long:
        failed += extract_clips(long, spec, folder, wanted, workers, progress, device)
    cache = extract(short, spec, cache_folder, wanted.frames, None, workers, progress, device, failed=failed)
    write_features([job for job in short if cache.has(job.key, wanted.frames)], cache, folder, wanted.frames)
    return failed


def _seconds(job: Job) -> float:
    """Return how long an utterance is, infinity where its header does not say; 0 where it cannot be read."""
    if job.end is not None:
        return job.end - (job.start or 0.0)
    try:
        seconds = read_info(job.audio).seconds
    except AudioError:
        return 0.0
    return math.inf if seconds is None else seconds - (job.start or 0.0)


def _create(spec: EncoderSpec, device: str) -> Encoder:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f'device="{device}": PyTorch finds no such device here: use "cpu"')
    return spec.create().to(device)


def _places(encoder: Encoder, wanted: Wanted) -> list[str]:
    """Return the folders of the wanted layers, ``""`` where there is one."""
    names = list(wanted.select(encoder))
    return names if len(names) > 1 else [""]


def _describe(encoder: Encoder, wanted: Wanted, device: str) -> dict[str, Any]:
    """Return what decides the content of feature files."""
    return {
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint() + ("" if device == "cpu" else "-bf16"),
        "layers": list(wanted.select(encoder)) or "all",
        "frames": wanted.frames,
        "windows": wanted.windows and dict(vars(wanted.windows)),
    }


@dataclass(frozen=True)
class _Task:
    """A job and the files to write, one per wanted layer."""

    job: Job
    paths: tuple[Path, ...]


def _extract(
    jobs: Sequence[Job],
    spec: EncoderSpec,
    encoder: Encoder,
    folder: Path,
    wanted: Wanted,
    workers: int | None,
    progress: Progress,
    device: str,
) -> list[str]:
    if wanted.windows is not None:
        plan_windows(encoder, wanted.windows)  # one error, not one per utterance
    places = _places(encoder, wanted)
    names = unique_names([job.id for job in jobs])
    tasks = [
        _Task(job, tuple(folder / place / f"{name}.npy" for place in places))
        for job, name in zip(jobs, names, strict=True)
    ]
    index = _Index(folder, _describe(encoder, wanted, device))
    todo = sorted((task for task in tasks if not index.has(task)), key=lambda task: -task.job.size)
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
    index.begin(todo)
    workers = min(workers or count_cores(), max(1, len(todo) // 8, _long(todo))) if device == "cpu" else 1
    failed: list[str] = []
    if workers == 1:
        results: Iterator[tuple[_Task, str | None]] = ((task, _write_task(task, encoder, wanted)) for task in todo)
    else:
        del encoder  # each process loads its own
        results = _in_processes(todo, spec, wanted, workers)
    for done, (task, error) in enumerate(results, 1):
        if error is None:
            index.add(task)
        else:
            failed.append(f"utterance {task.job.id}: {error}")
        progress(done, len(todo))
    return failed


LONG_FILE = 1_000_000
"""Bytes from which a recording is worth a process of its own: half a minute of WAV."""


def _long(tasks: list[_Task]) -> int:
    return sum(task.job.size > LONG_FILE for task in tasks)


def _write_task(task: _Task, encoder: Encoder, wanted: Wanted) -> str | None:
    """Encode and write one utterance; return what went wrong."""
    job = task.job
    try:
        states = encode_stream(
            encoder,
            stream_audio(job.audio, job.start, job.end, encoder.native_rate, encoder.sampling_rate),
            wanted.windows,
        )
        if wanted.layers:
            write_selected(states, list(wanted.select(encoder).values()), task.paths, wanted.frames)
        elif wanted.frames:
            write_layers(states, task.paths[0], encoder.precision)
        else:
            write_statistics(states, task.paths[0])
    except (
        SerkitError,
        ValueError,
        RuntimeError,
        MemoryError,
    ) as error:  # too short, undecodable, no memory: the others go on
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


_worker: dict[str, Any] = {}


def _start_worker(spec: EncoderSpec, wanted: Wanted) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    _worker.update(encoder=spec.create(), wanted=wanted)


def _run_task(task: _Task) -> str | None:
    return _write_task(task, _worker["encoder"], _worker["wanted"])


def _in_processes(
    tasks: list[_Task], spec: EncoderSpec, wanted: Wanted, workers: int
) -> Iterator[tuple[_Task, str | None]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (spec, wanted)) as pool:
        futures = {pool.submit(_run_task, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise SerkitError(
                    "a process was ended from outside, perhaps for lack of memory: take fewer workers or shorter "
                    "windows, and call it again to go on"
                ) from error


class _Index:
    """Which utterances are finished, by the first of their files."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.path, self.facts = folder, folder / INDEX, facts
        self.done: dict[str, str] = {}
        self.known = self.path.exists()
        first, *lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] if self.known else ["{}"]
        try:
            said, rows = json.loads(first), [json.loads(line) for line in lines]
            self.done = {row["file"]: row["key"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: is damaged: delete it with the features beside it") from error
        if self.known and said != facts:
            wrong = ", ".join(name for name in facts if said.get(name) != facts[name])
            raise InputError(f"{folder}: holds features of other settings ({wrong}): choose another folder")

    def _name(self, task: _Task) -> str:
        return task.paths[0].relative_to(self.folder).as_posix()

    def has(self, task: _Task) -> bool:
        return self.done.get(self._name(task)) == task.job.key and all(path.exists() for path in task.paths)

    def begin(self, todo: list[_Task]) -> None:
        """Write the index as it is; refuse to replace files that are not of this extraction."""
        foreign = [path for task in todo for path in task.paths if not self.known and path.exists()]
        if foreign:
            raise InputError(f"{foreign[0]}: is there and no work of this extraction: choose another folder")
        lines = [self.facts, *({"file": name, "key": key} for name, key in self.done.items())]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def add(self, task: _Task) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"file": self._name(task), "key": task.job.key}) + "\n")
