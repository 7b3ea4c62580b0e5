"""What the folds of a run share when the encoder learns too: the labelled manifest, and its recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serkit.data.manifest import Manifest
from serkit.encoders.base import Encoder
from serkit.models.heads import create_head, layer_weights
from serkit.models.model import Model
from serkit.models.tasks import EmotionTask, create_tasks
from serkit.processes import leads
from serkit.progress import Report, no_report, print_epoch
from serkit.training.augment import Augmentation
from serkit.training.batching import cut_step
from serkit.training.features import FeatureSet, StreamSet, fit_standardisation
from serkit.training.finetune import finetune, predict
from serkit.training.fit import balance_weights
from serkit.training.material import encoder_spec, list_changes
from serkit.training.recipe import Recipe
from serkit.training.together import create_accelerator
from serkit.training.tuning import (
    FinetuneOptions,
    half_precision,
    load_trained,
    merge_lora,
    prepare_encoder,
    trained_state,
)
from serkit.training.waveforms import WaveformSet, WaveformStore


@dataclass(frozen=True)
class Recordings:
    """The labelled manifest of ``recipe`` and its recordings: what :class:`~serkit.training.material.Material` is.

    ``device`` is where models are trained and applied.
    """

    recipe: Recipe
    manifest: Manifest
    store: WaveformStore
    device: str = "cpu"

    def of_fold(self, name: str) -> Recordings:
        """Return what a fold is trained on: the same for every fold."""
        return self

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder before it is trained."""
        return self._encoder().fingerprint()

    def fit(
        self,
        train_ids: Sequence[str],
        dev_ids: Sequence[str],
        seed: int,
        folder: Path | None,
        report: Report = no_report,
    ) -> tuple[Model, list[dict[str, Any]]]:
        """Build a model, train it on ``train_ids`` and return it with its history.

        ``dev_ids`` are watched when there are any; ``folder`` holds checkpoints; ``report`` is called after epochs.
        """
        recipe, options = self.recipe, self._options
        torch.manual_seed(seed)
        model = self._new_model(train_ids)
        augmentation = Augmentation(recipe.augment.chain) if recipe.augment.chain else None
        train = self._set(model, train_ids, augmentation, recipe.training.crop)
        if recipe.augment.union:
            train = train.with_copies(list_changes(recipe.augment))
        dev = self._set(model, dev_ids) if dev_ids else None
        if recipe.features.normalise == "global":
            self._standardise(model, train)

        def tell(line: dict[str, Any]) -> None:
            if folder is not None and leads():  # epochs take minutes
                print_epoch(folder.name, line, recipe.training.epochs)
            report(line)

        return model, finetune(model, train, dev, recipe.training, options, seed, folder, self.device, tell)

    def restore(self, train_ids: Sequence[str], state: dict[str, Tensor]) -> Model:
        """Return the model of a fold trained on ``train_ids`` from what :meth:`state` kept of it, LoRA merged."""
        model = self._new_model(train_ids)
        load_trained(model, state)
        merge_lora(model.encoder)
        return model

    def state(self, model: Model) -> dict[str, Tensor]:
        """Return all that is to be kept of a trained model: what training changed."""
        return {name: value.cpu() for name, value in trained_state(model).items()}

    def columns(self, model: Model, ids: Sequence[str]) -> dict[str, list[Any]]:
        """Return what ``model`` says of utterances, as columns of the predictions table."""
        accelerator = create_accelerator(self.device)
        model.to(accelerator.device)
        return predict(model, self._set(model, ids), self._options, accelerator)[0]

    def layer_weights(self, model: Model) -> list[list[float]]:
        """Return what :func:`~serkit.models.heads.layer_weights` does."""
        return layer_weights(model.head)

    @property
    def _options(self) -> FinetuneOptions:
        assert self.recipe.finetune is not None
        return self.recipe.finetune

    def _encoder(self) -> Encoder:
        return encoder_spec(self.recipe.encoder).create()

    def _encoder_for_heads(self) -> tuple[Encoder, tuple[int, ...]]:
        """Return the encoder, where it can be cut above the highest layer that heads see, and where those layers are.

        Blocks above would be computed, and their gradients of zero as well.
        """
        encoder, section = self._encoder(), self.recipe.encoder
        chosen, kept = section.chosen(encoder.num_layers), getattr(encoder, "kept", None)
        if kept is None or len(set(chosen)) == len(kept):
            return encoder, chosen
        needed = sorted(set(chosen))
        spec = encoder_spec(section)
        fewer = replace(spec, options={**spec.options, "layers": [kept[number] for number in needed]})
        return fewer.create(), tuple(needed.index(number) for number in chosen)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.manifest.ids)}

    def _new_model(self, train_ids: Sequence[str]) -> Model:
        recipe, section = self.recipe, self.recipe.encoder
        encoder, layers = self._encoder_for_heads()
        train, emotion = self.manifest.select(train_ids), None
        affect = () if recipe.tasks.affect is None else recipe.tasks.affect.dimensions
        head = create_head(recipe.head, [(len(layers), encoder.dim)], len(recipe.classes or affect))
        if recipe.labels is not None:
            emotion = EmotionTask(recipe.tasks.emotion, head, recipe.scheme(), recipe.training.label_smoothing)
        own = head if emotion is None else None
        tasks = create_tasks(recipe.tasks, emotion, encoder.dim, train, recipe.head.init, own)
        prepare_encoder(encoder, self._options)
        return Model(encoder, tasks, layers, section.stride, self._options.dropout)

    def _set(
        self, model: Model, ids: Sequence[str], augmentation: Augmentation | None = None, crop: float = 1.0
    ) -> WaveformSet:
        part = self.manifest.select(ids)
        targets = {task.name: task.targets(part) for task in model.each()}
        weights = torch.ones(len(part))
        if self.recipe.labels is not None:
            numbers = torch.tensor([self.recipe.classes.index(label) for label in part.table["emotion"]])
            corpora = [str(name) for name in part.table["corpus"]]
            weights = balance_weights(numbers, corpora, self.recipe.training.balance)
        rows = tuple(self._row[id] for id in ids)
        return WaveformSet(tuple(ids), self.store, rows, targets, weights, augmentation, crop)

    @torch.no_grad()
    def _standardise(self, model: Model, train: WaveformSet) -> None:
        """Set the heads' standardisation from what the encoder says of the training part before it is trained."""
        model.eval()
        accelerator = create_accelerator(self.device)
        model.to(accelerator.device)
        plain, stride = train.plain(), self.recipe.encoder.stride
        parts = []
        for rows in cut_step(range(len(plain)), plain.seconds, self._options.batches):
            with half_precision(self._options, accelerator.device):
                view = model.view(plain.batch(rows).to(accelerator.device))
            frames = torch.div(view.lengths + stride - 1, stride, rounding_mode="floor")
            parts.append((view.batch.streams[0].statistics, frames))
        statistics, lengths = (torch.cat(part)[None] for part in zip(*parts, strict=True))
        none, stream = torch.zeros(len(plain)), StreamSet(statistics, lengths, ())
        fit_standardisation(model.head, FeatureSet(plain.ids, (stream,), none, none))
        mean, sd = stream.moments()
        model.standardise.fit(mean[-1], sd[-1])
