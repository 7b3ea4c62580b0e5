"""What a fusion head needs beside frames: the words of utterances, and vectors that their embedding begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from serkit.data.manifest import Manifest
from serkit.data.vectors import load_vectors
from serkit.data.words import Vocabulary, split_words
from serkit.errors import InputError
from serkit.models.fusion import FusionConfig, create_fusion, restore_fusion
from serkit.models.heads import Ensemble, Shape
from serkit.training.features import FeatureSet
from serkit.training.recipe import Recipe


@dataclass(frozen=True)
class WordTable:
    """The vectors ``(V, E)`` of the words of a manifest; ``fingerprint`` names where they come from."""

    rows: dict[str, int]
    vectors: np.ndarray
    fingerprint: str

    def of(self, vocabulary: Vocabulary) -> np.ndarray:
        """Return the vectors in the order of ``vocabulary``, zeros for words that have none."""
        found = np.zeros((len(vocabulary), self.vectors.shape[1]), np.float32)
        for place, word in enumerate(vocabulary.words):
            if word in self.rows:
                found[place] = self.vectors[self.rows[word]]
        return found


@dataclass(frozen=True)
class Spoken:
    """The cleaned ``words`` of ``U`` utterances, row by row, for the fusion head of ``recipe``; empty if it only hears.

    Without ``table`` the embedding is drawn.
    """

    recipe: Recipe
    words: tuple[tuple[str, ...], ...]
    table: WordTable | None

    @property
    def config(self) -> FusionConfig:
        """How the head is built."""
        assert self.recipe.fusion is not None
        return self.recipe.fusion

    def create(self, shapes: Sequence[Shape], rows: Sequence[int]) -> Ensemble:
        """Return a new head whose vocabulary is that of ``rows``, the training part."""
        text, vocabulary = self.recipe.text, None
        if self.config.reads:
            vocabulary = Vocabulary.build((self.words[row] for row in rows), text.legacy)
        vectors = text.dim if self.table is None or vocabulary is None else self.table.of(vocabulary)
        limits = text.max_words, self.recipe.features.max_frames
        return create_fusion(self.config, shapes, len(self.recipe.classes), vocabulary, vectors, *limits)

    def restore(self, shapes: Sequence[Shape], state: dict[str, Tensor]) -> Ensemble:
        """Return the head of a ``state``, with the vocabulary that it was trained with."""
        limits = self.recipe.text.max_words, self.recipe.features.max_frames
        return restore_fusion(self.config, shapes, len(self.recipe.classes), state, *limits)

    def number(self, features: FeatureSet, head: Ensemble) -> FeatureSet:
        """Return ``features`` with the words in the numbers of ``head``."""
        if not self.config.reads:
            return features
        return replace(features, words=head.heads[0].encode_words(self.words))  # type: ignore[operator]


def read_words(recipe: Recipe, manifest: Manifest) -> Spoken:
    """Return the words of ``manifest``, whose rows are those of the features.

    Raises ``InputError`` where the head of ``recipe`` reads and no utterance has text.
    """
    text = recipe.text
    if recipe.fusion is None or not recipe.fusion.reads:
        return Spoken(recipe, (), None)
    words = tuple(tuple(split_words(each, text.legacy)) for each in manifest.table["text"])
    if not any(words):
        raise InputError(
            f"recipe {recipe.name}: no utterance has text: fill the manifest's column text, or set "
            'fusion.modalities=["audio"]'
        )
    return Spoken(recipe, words, _look_up(text.vectors, words, text.legacy) if text.vectors else None)


def _look_up(source: str, words: Sequence[Sequence[str]], legacy: bool) -> WordTable:
    every = [*(["UNK"] if legacy else []), *dict.fromkeys(word for each in words for word in each)]
    found = load_vectors(source)
    matrix, known = found.lookup(every)
    rows = {word: row for row, word in enumerate(every) if known[row]}
    return WordTable(rows, np.ascontiguousarray(matrix, np.float32), found.fingerprint)
