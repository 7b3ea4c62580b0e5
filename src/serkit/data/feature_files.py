"""Features in files: arrays that grow frame by frame, and the corpus format of wav2vec's and emotion2vec's scripts.

That format is three files: ``train.npy`` with the frames of all utterances one after the other, ``train.lengths`` with
the number of frames of each on a line, and ``train.emo`` with ``name<TAB>label`` where labels are known; see
https://github.com/ddlBoJack/emotion2vec/tree/main/iemocap_downstream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np

from serkit.data.files import replace_atomically, write_text
from serkit.errors import InputError

BLOCK_FRAMES = 4096
"""Frames that are copied at a time."""


class FrameFile:
    """A ``.npy`` file of frames ``(F, D)`` that is written piece by piece and never held in memory.

    The header has room for the final number of frames and is written again when the file is closed.

    >>> with FrameFile("frames.npy", 768) as file:  # doctest: +SKIP
    ...     file.append(np.zeros((10, 768)))
    """

    def __init__(self, path: str | Path, dim: int, dtype: str = "float32") -> None:
        self.dim, self.dtype, self.frames = dim, np.dtype(dtype).newbyteorder("<"), 0
        self._file: BinaryIO = Path(path).open("wb")  # noqa: SIM115 - closed by close
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.frames, self.dim)
        facts = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, facts)

    def append(self, frames: np.ndarray) -> None:
        """Write ``frames (T, D)`` behind those that are there."""
        if frames.ndim != 2 or frames.shape[1] != self.dim:
            raise ValueError(f"expected frames of shape (T, {self.dim}), got {frames.shape}")
        self._file.write(np.ascontiguousarray(frames, self.dtype).data)
        self.frames += len(frames)

    def close(self) -> None:
        """Write the number of frames into the header."""
        start = self._file.tell() - self.frames * self.dim * self.dtype.itemsize
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != start:
            raise AssertionError("the header of a .npy file has grown")
        self._file.close()

    def __enter__(self) -> FrameFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


class CorpusFeatures(NamedTuple):
    """``frames (F, D)``, memory-mapped; ``lengths (U,)`` int64, whose sum is ``F``; ``labels`` of ``U`` or None."""

    frames: np.ndarray
    lengths: np.ndarray
    labels: list[str] | None


def read_corpus_features(folder: str | Path, part: str = "train") -> CorpusFeatures:
    """Open ``part.npy``, ``part.lengths`` and, where it is there, ``part.emo`` of ``folder``.

    Utterance ``u`` is ``frames[ends[u] - lengths[u] : ends[u]]`` with ``ends = lengths.cumsum()``. Raises
    ``InputError`` naming the file that is missing or does not fit the others.
    """
    folder = Path(folder)
    frames = open_frames(folder / f"{part}.npy")
    path = folder / f"{part}.lengths"
    try:
        lengths = np.array([int(line) for line in _read_lines(path)], dtype=np.int64)
    except ValueError as error:
        raise InputError(f"{path}: a line is no number of frames: {error}") from error
    if (lengths < 0).any() or lengths.sum() != len(frames):
        raise InputError(f"{path}: tells {lengths.sum()} frames, {part}.npy has {len(frames)}")
    path = folder / f"{part}.emo"
    if not path.exists():
        return CorpusFeatures(frames, lengths, None)
    labels = [label for _, label in read_emotions(path)]
    if len(labels) != len(lengths):
        raise InputError(f"{path}: has {len(labels)} labels, {part}.lengths has {len(lengths)} utterances")
    return CorpusFeatures(frames, lengths, labels)


def open_frames(path: Path) -> np.ndarray:
    """Return the memory-mapped frames ``(F, D)`` of a ``.npy`` file; raises ``InputError`` naming it."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as an array: {str(error).splitlines()[0]}") from error
    if frames.ndim != 2 or frames.dtype.kind != "f":
        raise InputError(f"{path}: holds {frames.dtype} of shape {frames.shape}, not frames of shape (F, D)")
    return frames


def read_emotions(path: str | Path) -> list[tuple[str, str]]:
    """Return the lines ``name<TAB>label`` of an ``.emo`` file; raises ``InputError`` naming file and line."""
    rows = []
    for number, line in enumerate(_read_lines(Path(path)), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) != 2:
            raise InputError(f"{path}: line {number}: expected 'name<TAB>label', got {line!r}")
        rows.append((fields[0], fields[1].strip()))
    return rows


def write_corpus_features(
    folder: str | Path,
    part: str,
    pieces: Iterable[np.ndarray],
    labels: Sequence[tuple[str, str]] | None = None,
) -> None:
    """Write the frames ``(T, D)`` of every utterance, in order, and the ``(name, label)`` of each, atomically.

    White space in a name becomes ``_``: the readers of the format split lines there. A label with white space raises
    ``InputError``. ``pieces`` may be memory maps: at most :data:`BLOCK_FRAMES` frames are held at a time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, label in labels or ():
        if len(label.split()) != 1:
            raise InputError(f"utterance {name}: label {label!r}: must be one word in {part}.emo")
    lengths, stacked = [], None
    with ExitStack() as stack:
        place = stack.enter_context(replace_atomically(folder / f"{part}.npy"))
        for piece in pieces:
            stacked = stacked or stack.enter_context(FrameFile(place, piece.shape[1], str(piece.dtype)))
            for start in range(0, len(piece), BLOCK_FRAMES):
                stacked.append(piece[start : start + BLOCK_FRAMES])
            lengths.append(len(piece))
        if stacked is None:
            raise InputError(f"{folder}: there are no features to write")
        if labels is not None and len(labels) != len(lengths):
            raise ValueError(f"{len(labels)} labels for {len(lengths)} utterances")
        write_text(folder / f"{part}.lengths", "".join(f"{length}\n" for length in lengths))
        emotions = folder / f"{part}.emo"
        if labels is not None:
            write_text(emotions, "".join(f"{'_'.join(name.split())}\t{label}\n" for name, label in labels))
        else:
            emotions.unlink(missing_ok=True)


def unique_names(names: Sequence[str]) -> list[str]:
    """Return ``names`` as file names, ``/`` as ``_``; raises ``InputError`` where two utterances would share one."""
    files = [name.replace("/", "_") for name in names]
    seen: dict[str, str] = {}
    for name, file in zip(names, files, strict=True):
        if file in seen:
            told = f"{name!r}, twice" if seen[file] == name else f"{seen[file]!r} and {name!r}"
            raise InputError(f"utterances would share the file {file}.npy: {told}: give them ids of their own")
        seen[file] = name
    return files


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
