"""What training needs before it begins: features or recordings in the cache, of every fold where encoders differ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from serkit.data.manifest import Manifest
from serkit.processes import leads, wait_for_all
from serkit.progress import Step, no_steps
from serkit.training.augment import Augmentation
from serkit.training.material import Encoded, Material, encode_all, encoder_spec, load_material
from serkit.training.recipe import Recipe
from serkit.training.recordings import Recordings
from serkit.training.tuning import prepare_encoder
from serkit.training.waveforms import WaveformStore, store_waveforms

Stored = list[Encoded] | WaveformStore
"""Where the features, or for fine-tuning the recordings, of a manifest are; small enough to send to processes."""
StoredFolds = Stored | dict[str, Stored]
"""By fold where every fold has an encoder of its own."""


def store(
    recipe: Recipe,
    manifest: Manifest,
    cache: Path,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> Stored:
    """Put into ``cache`` what training ``recipe`` needs and is not there yet."""
    if recipe.finetune is None:
        return encode_all(recipe, manifest, cache, step, workers, device)
    encoder = encoder_spec(recipe.encoder).create()
    # Both say what they cannot do before recordings are read.
    prepare_encoder(encoder, recipe.finetune)
    for chain in (recipe.augment.chain, *(recipe.augment.union or ())):
        Augmentation(chain)
    if not leads():  # one process reads, the others find it there
        wait_for_all(device)
    stored = store_waveforms(manifest, encoder, cache, step, workers)
    if leads():
        wait_for_all(device)
    return stored


def load(recipe: Recipe, manifest: Manifest, stored: Stored, device: str = "cpu") -> Material | Recordings:
    """Load what :func:`store` left."""
    if isinstance(stored, WaveformStore):
        return Recordings(recipe, manifest, stored, device)
    return load_material(recipe, manifest, stored)


def store_folds(
    recipe: Recipe,
    manifest: Manifest,
    folds: Sequence[str],
    cache: Path,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> StoredFolds:
    """Do what :func:`store` does, for each of ``folds`` where they have encoders of their own."""
    if not recipe.by_fold:
        return store(recipe, manifest, cache, step, workers, device)
    return {
        name: store(recipe.of_fold(name), manifest, cache, partial(_tell, step, name), workers, device)
        for name in folds
    }


def _tell(step: Step, name: str, what: str, done: int, total: int) -> None:
    step(f"{what} ({name})", done, total)


class FoldMaterials:
    """The material of every fold where each has an encoder of its own; only the last one asked for is in memory."""

    def __init__(self, recipe: Recipe, manifest: Manifest, stored: dict[str, Stored], device: str) -> None:
        self.recipe, self.manifest, self.stored, self.device = recipe, manifest, stored, device
        self._last: tuple[str, Material | Recordings] | None = None

    def of_fold(self, name: str) -> Material | Recordings:
        """Return what the fold called ``name`` is trained on."""
        if self._last is None or self._last[0] != name:
            self._last = name, load(self.recipe.of_fold(name), self.manifest, self.stored[name], self.device)
        return self._last[1]

    @property
    def fingerprint(self) -> dict[str, str]:
        """The fingerprint of every fold's encoder."""
        return {name: self.of_fold(name).fingerprint for name in self.stored}


Materials = Material | Recordings | FoldMaterials


def load_folds(recipe: Recipe, manifest: Manifest, stored: StoredFolds, device: str = "cpu") -> Materials:
    """Load what :func:`store_folds` left."""
    if isinstance(stored, dict):
        return FoldMaterials(recipe, manifest, stored, device)
    return load(recipe, manifest, stored, device)
