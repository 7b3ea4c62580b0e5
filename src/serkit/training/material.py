"""What the folds of a run share when the encoder is frozen: the labelled manifest, and its cached features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from serkit.data.corpora import prepare_corpus
from serkit.data.manifest import Manifest
from serkit.data.protocols import group_of
from serkit.data.recordings import PLACEHOLDER
from serkit.encoders.base import Precision
from serkit.encoders.cache import FeatureCache
from serkit.encoders.extract import EncoderSpec, extract, list_jobs
from serkit.errors import InputError
from serkit.models.affect import ratings
from serkit.models.heads import Ensemble, Shape, create_head, layer_weights
from serkit.models.tasks import prediction_columns
from serkit.progress import Report, Step, no_report, no_steps
from serkit.training.augment import Augmentation
from serkit.training.features import FeatureSet, StreamSet, fit_standardisation, load_stream, normalise_by_speaker
from serkit.training.fit import balance_weights, fit, listed_weights, predict
from serkit.training.given import GIVEN, mark_given, read_given
from serkit.training.presence import (
    cell_weights,
    check_presence,
    presence_columns,
    presence_targets,
    with_presence,
)
from serkit.training.recipe import AugmentSection, DataSection, EncoderSection, Recipe
from serkit.training.sections import FOLD
from serkit.training.spoken import Spoken, read_words


@dataclass(frozen=True)
class Material:
    """The labelled manifest of ``recipe`` and its features, row by row; heads are trained on them and applied to them.

    :class:`~serkit.training.recordings.Recordings` is the counterpart for fine-tuning, with the same methods.
    """

    recipe: Recipe
    manifest: Manifest
    features: FeatureSet
    fingerprint: str
    shapes: tuple[Shape, ...]
    spoken: Spoken | None = None

    def of_fold(self, name: str) -> Material:
        """Return what a fold is trained on: the same for every fold."""
        return self

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Return the rows of utterances in ``features``."""
        return [self._row[id] for id in ids]

    @cached_property
    def _row(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.features.ids)}

    def fit(
        self,
        train_ids: Sequence[str],
        dev_ids: Sequence[str],
        seed: int,
        folder: Path | None,
        report: Report = no_report,
    ) -> tuple[Ensemble, list[dict[str, Any]]]:
        """Build a head, train it on ``train_ids`` and return it with its history.

        ``dev_ids`` are watched when there are any; ``folder`` holds checkpoints; ``report`` is called after epochs.
        """
        rows, training = self.rows(train_ids), self.recipe.training
        weights = self._weights(rows)
        torch.manual_seed(seed)
        head = self._new_head(train_ids)
        features = self._features_for(head)
        train_set = features.take(rows, weights=weights)
        dev_set = features.take(self.rows(dev_ids), copies=1) if dev_ids else None
        if self.recipe.features.normalise != "none":
            fit_standardisation(head, train_set)
        return head, fit(head, train_set, dev_set, training, seed, folder, report)

    def restore(self, train_ids: Sequence[str], state: dict[str, Tensor]) -> Ensemble:
        """Return the head of a fold trained on ``train_ids`` from what :meth:`state` kept of it."""
        if self.spoken is not None:
            head = self.spoken.restore(self.shapes, state)
        else:
            head = self._new_head(train_ids)
            head.load_state_dict(state)
        head.multi = self.recipe.multi
        return head

    def state(self, model: Ensemble) -> dict[str, Tensor]:
        """Return all that is to be kept of a trained head."""
        return model.state_dict()

    def columns(self, model: Ensemble, ids: Sequence[str]) -> dict[str, list[Any]]:
        """Return what ``model`` says of utterances, as columns of the predictions table."""
        features = self._features_for(model).take(self.rows(ids), 1)
        if self.recipe.multi:
            return presence_columns(predict(model, features), features.targets, self.recipe.classes)
        return prediction_columns(predict(model, features), self.recipe.classes)

    def layer_weights(self, model: Ensemble) -> list[list[float]]:
        """Return what :func:`~serkit.models.heads.layer_weights` does."""
        return layer_weights(model)

    def _weights(self, rows: Sequence[int]) -> Tensor:
        """Return what utterances of a training part count, of several labels at once their cells."""
        recipe, training = self.recipe, self.recipe.training
        targets = self.features.targets[torch.as_tensor(rows)]
        if recipe.multi:
            check_presence(targets, recipe.classes, f"recipe {recipe.name}")
            return cell_weights(targets, recipe.classes, training.balance, training.class_weights)
        if training.class_weights:
            return listed_weights(targets, recipe.classes, training.class_weights)
        corpora = [str(name) for name in self.manifest.table["corpus"]]
        return balance_weights(targets, [corpora[row] for row in rows], training.balance)

    def _features_for(self, head: Ensemble) -> FeatureSet:
        return self.features if self.spoken is None else self.spoken.number(self.features, head)

    def _new_head(self, train_ids: Sequence[str]) -> Ensemble:
        if self.spoken is not None:
            head = self.spoken.create(self.shapes, self.rows(train_ids))
        else:
            head = create_head(self.recipe.head, self.shapes, len(self.recipe.classes))
        head.multi = self.recipe.multi
        return head


def load_data(recipe: Recipe) -> Manifest:
    """Return the recipe's utterances with its labels applied; raises ``InputError`` naming what is missing."""
    manifest = read_data(recipe.data, f"recipe {recipe.name}")
    whose = f"recipe {recipe.name}"
    if recipe.labels is None:
        labelled = _rated(recipe, manifest)
    elif recipe.multi:
        labelled = with_presence(manifest, recipe.classes, whose)
    else:
        labelled = use_column(manifest, recipe.labels.column, whose).with_labels(recipe.scheme())
    if not len(labelled):
        raise InputError(f"recipe {recipe.name}: no utterance is left after data.where and labels")
    return labelled


def use_column(manifest: Manifest, column: str, whose: str) -> Manifest:
    """Return ``manifest`` with the labels of ``column`` as its emotion; errors begin with ``whose``."""
    if column not in manifest.table.columns:
        raise InputError(f"{whose}: labels.column names {column!r}, which the manifest lacks")
    return Manifest(manifest.table.with_columns(emotion=pl.col(column).cast(pl.String)))


def _rated(recipe: Recipe, manifest: Manifest) -> Manifest:
    """Return the utterances that have a rating; no emotion is told of what is not judged by it."""
    assert recipe.tasks.affect is not None
    known = ratings(manifest, recipe.tasks.affect.dimensions).select(pl.any_horizontal(pl.all().is_not_null()))
    return Manifest(manifest.table.filter(known.to_series()))


def read_data(data: DataSection, whose: str, key: str = "data") -> Manifest:
    """Return the utterances of a section with the labels of their corpora.

    Errors begin with ``whose`` and call the section ``key``.
    """
    if data.manifest and data.parts:
        raise InputError(f"{whose}: sets both {key}.manifest and {key}.parts: leave one out")
    if data.manifest:
        manifest = _read_manifest(data, data.manifest, whose, key)
    elif data.parts:
        manifest = _read_parts(data, whose, key)
    elif not data.corpora:
        raise InputError(f"{whose}: says no data: set {key}.manifest, {key}.parts, or {key}.corpora and {key}.root")
    elif not data.root:
        raise InputError(f"{whose}: set {key}.root=DIR, the folder of {' and '.join(data.corpora)}")
    else:
        manifest = Manifest.concat(prepare_corpus(name, Path(data.root) / sub) for name, sub in data.corpora.items())
    absent = sorted(set(data.exclude) - set(manifest.ids))
    if absent:
        raise InputError(f"{whose}: {key}.exclude names {absent[0]!r}, which the manifest lacks")
    manifest = Manifest(manifest.table.filter(~pl.col("id").is_in(data.exclude)))
    for column, value in data.where.items():
        if column not in manifest.table.columns:
            raise InputError(f"{whose}: {key}.where names {column!r}, which the manifest lacks")
        manifest = Manifest(manifest.table.filter(pl.col(column) == value))
    return manifest


def _read_manifest(data: DataSection, path: str, whose: str, key: str) -> Manifest:
    """Read a manifest, its recordings below the section's ``root`` where that is set."""
    manifest = Manifest.read(path, data.root or None)
    if any(name and name.startswith(f"{PLACEHOLDER}/") for name in manifest.table["audio"]):
        raise InputError(f"{whose}: {path} says {PLACEHOLDER}: set {key}.root=DIR, where recordings are")
    return manifest


def _read_parts(data: DataSection, whose: str, key: str) -> Manifest:
    """Stack the manifests of ``parts``, each under its part; no id and no recording may be in two of them."""
    parts = {part: _read_manifest(data, path, whose, key) for part, path in data.parts.items()}
    for one, other in combinations(parts, 2):
        for what, columns in (("utterance", ["id"]), ("recording", ["audio", "start", "end"])):
            both = set(parts[one].table.select(columns).rows()) & set(parts[other].table.select(columns).rows())
            if both:
                raise InputError(
                    f"{whose}: {what} {min(both, key=str)[0]!r} is in {key}.parts.{one} and "
                    f"{key}.parts.{other} ({len(both)} are): no utterance may be in two parts"
                )
    return Manifest.concat(Manifest(manifest.table.with_columns(part=pl.lit(part))) for part, manifest in parts.items())


@dataclass(frozen=True)
class Encoded:
    """Where the features of one encoder are: a cache's folder with its ``shape``, and a list of keys per copy.

    Small enough to be sent to another process, which reads the same mapped files.
    """

    folder: Path
    shape: Shape
    keys: tuple[tuple[str, ...], ...]
    precision: Precision = "float16"

    def take(self, rows: Sequence[int]) -> Encoded:
        """Return where the features of the utterances at ``rows`` are."""
        return replace(self, keys=tuple(tuple(copy[row] for row in rows) for copy in self.keys))

    def open(self) -> FeatureCache:
        """Open the cache."""
        return FeatureCache(self.folder.parent, self.folder.name, *self.shape, self.precision)


def encode_all(
    recipe: Recipe,
    manifest: Manifest,
    cache: Path,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> list[Encoded]:
    """Encode what is not cached yet of ``manifest`` (:func:`load_data`) and its copies, with every encoder.

    ``workers`` and ``device`` are those of :func:`~serkit.encoders.extract.extract`.
    """
    if all(section.name == GIVEN for section in recipe.encoders):
        return []
    changes = list_changes(recipe.augment)
    copies = [list_jobs(manifest)]
    copies += [list_jobs(manifest, number, augmentation.description()) for augmentation, number in changes]
    keys = tuple(tuple(job.key for job in jobs) for jobs in copies)
    encoded = []
    for section in recipe.encoders:
        if section.name == GIVEN:
            continue
        for copy, (jobs, augmentation) in enumerate(zip(copies, [None, *(each for each, _ in changes)], strict=True)):
            what = "recordings" if copy == 0 else f"augmented copy {copy} of {len(copies) - 1}"
            told = partial(step, f"encoding {what}" + (f" ({section.name})" if recipe.streams else ""))
            frames, spec = recipe.keeps_frames, encoder_spec(section)
            found = extract(jobs, spec, cache, frames, augmentation, workers, told, device)
        encoded.append(Encoded(found.folder, found.shape, keys, found.dtype))
    return encoded


def list_changes(section: AugmentSection) -> list[tuple[Augmentation, int]]:
    """Return what makes each copy of the recordings, and the copy's number, which seeds it.

    Equal chains have numbers of their own; other chains do not decide on them, so that copies are found in the cache.
    """
    if not section.union:
        augmentation = Augmentation(section.chain)
        return [(augmentation, copy + 1) for copy in range(section.copies)]
    changes = [Augmentation(chain) for chain in section.union]
    every = [augmentation.description() for augmentation in changes]
    return [(augmentation, every[: place + 1].count(every[place])) for place, augmentation in enumerate(changes)]


def load_material(recipe: Recipe, manifest: Manifest, encoded: Sequence[Encoded]) -> Material:
    """Load what the head needs from the caches of :func:`encode_all`."""
    cached = iter(encoded)
    streams, marks = [], []
    for section in recipe.encoders:
        if section.name == GIVEN:
            arrays = read_given(manifest, section)
            streams.append(StreamSet.of_arrays([arrays], section.scalar))
            marks.append(mark_given(arrays))
        else:
            found = next(cached)
            streams.append(_load_stream(recipe, section, found))
            marks.append(found.folder.name)
    if recipe.features.normalise == "speaker":
        speakers = group_of(manifest, recipe.features.speaker)
        streams = [normalise_by_speaker(stream, [speakers[id] for id in manifest.ids]) for stream in streams]
    classes = recipe.classes
    if recipe.multi:
        targets = presence_targets(manifest, classes)
    else:
        targets = torch.tensor([classes.index(label) for label in manifest.table["emotion"]])
    weights, ids = torch.ones(len(manifest)), tuple(manifest.ids)
    union = bool(recipe.augment.union)
    features = FeatureSet(ids, tuple(streams), targets, weights, recipe.features.max_frames, union)
    shapes = tuple((stream.statistics.shape[3], stream.statistics.shape[4]) for stream in streams)
    spoken = None if recipe.fusion is None else read_words(recipe, manifest)
    if spoken is not None and spoken.table is not None:
        marks.append(spoken.table.fingerprint)
    return Material(recipe, manifest, features, "+".join(marks), shapes, spoken)


def _load_stream(recipe: Recipe, section: EncoderSection, encoded: Encoded) -> StreamSet:
    try:
        layers = section.chosen(encoded.shape[0])
    except InputError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error
    frames = recipe.keeps_frames
    return load_stream(encoded.open(), encoded.keys, layers, section.stride, frames, section.zero_tail, section.scalar)


def encoder_spec(section: EncoderSection) -> EncoderSpec:
    """Return the encoder that a section of a recipe names, with its options.

    Raises ``InputError`` for one that is another in every fold.
    """
    if section.name == GIVEN:
        raise InputError("encoder given: names features that the manifest brings, no encoder: give an encoder")
    if section.by_fold:
        raise InputError(
            f"encoder {section.name}: is another in every fold ({FOLD} in its options), as only serkit train knows: "
            "name one encoder"
        )
    front = {name: value for name in ("trim", "level", "limit") if (value := getattr(section, name)) is not None}
    return EncoderSpec(section.name, {**section.options, **front})
