"""Time means of all layers, of encoders as published and as runs have fine-tuned them, from the feature cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file

from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold, group_of
from serkit.data.representation import ALWAYS, Representation
from serkit.encoders.base import Encoder
from serkit.encoders.egemaps import FUNCTIONAL_NAMES
from serkit.encoders.extract import EncoderSpec, extract, list_jobs
from serkit.errors import InputError
from serkit.progress import Step, no_steps
from serkit.training.material import encoder_spec
from serkit.training.recipe import Recipe, load_recipe
from serkit.training.tuning import merge_lora, prepare_encoder

EGEMAPS = "egemaps-functionals"

DESCRIPTORS = {
    "pitch mean": "F0semitoneFrom27.5Hz_sma3nz_amean",
    "pitch deviation": "F0semitoneFrom27.5Hz_sma3nz_stddevNorm",
    "loudness mean": "loudness_sma3_amean",
    "loudness deviation": "loudness_sma3_stddevNorm",
    "sound level": "equivalentSoundLevel_dBp",
    "loudness peaks a second": "loudnessPeaksPerSec",
    "voiced segments a second": "VoicedSegmentsPerSec",
    "jitter": "jitterLocal_sma3nz_amean",
    "shimmer": "shimmerLocaldB_sma3nz_amean",
    "harmonics to noise": "HNRdBACF_sma3nz_amean",
    "first formant": "F1frequency_sma3nz_amean",
    "second formant": "F2frequency_sma3nz_amean",
    "third formant": "F3frequency_sma3nz_amean",
    "slope below 500 Hz": "slopeV0-500_sma3nz_amean",
    "slope above 500 Hz": "slopeV500-1500_sma3nz_amean",
    "alpha ratio": "alphaRatioV_sma3nz_amean",
}
"""What acoustic probes look for: in words, and the functional of eGeMAPS."""


@dataclass(frozen=True)
class TrainedSpec(EncoderSpec):
    """The encoder of a run folder as the model ``weights`` (its safetensors file) has left it, LoRA merged."""

    run: Path = Path()
    weights: Path = Path()

    def create(self) -> Encoder:
        """Build the encoder; raises ``InputError`` when the file is not of this run or holds no encoder."""
        return load_trained_encoder(self.run, self.weights)


def load_trained_encoder(run: Path, weights: Path) -> Encoder:
    """Return the encoder of ``run`` with what its training put into ``weights``, all of its layers.

    Neither the run's data nor its heads are needed. Blocks above the highest layer that the heads saw were not trained.
    """
    recipe = read_run(run)
    assert recipe.finetune is not None
    encoder = _whole_encoder(recipe).create()
    prepare_encoder(encoder, recipe.finetune)
    state = load_file(weights)
    state = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    if not state:
        raise InputError(f'{weights}: holds no encoder (finetune.freeze="encoder"?): name the encoder itself')
    learned = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    top = max((encoder.depth(name) for name in state if name in learned), default=0)
    wrong = set(state) - learned | {name for name in learned - set(state) if encoder.depth(name) <= top}
    if wrong:
        raise InputError(f"{weights}: weights of another model: {min(wrong)!r} is missing or unexpected")
    try:
        encoder.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{weights}: weights of another model: {' '.join(str(error).split())}") from error
    merge_lora(encoder)
    return encoder.eval().requires_grad_(False)


def read_run(run: Path) -> Recipe:
    """Return the recipe of a run folder that fine-tuned; raises ``InputError`` for any other folder."""
    recipe = load_recipe(run / "recipe.toml")
    if recipe.finetune is None:
        raise InputError(f"{run}: its encoder {recipe.encoder.name} stayed as it was: name that in place of the run")
    return recipe


def _whole_encoder(recipe: Recipe) -> EncoderSpec:
    """Return the encoder of a recipe with every layer up to the highest it lists, not only the listed ones."""
    spec = encoder_spec(recipe.encoder)
    if spec.options.get("layers") is None:
        return spec
    highest = max(0 if layer == "input" else int(layer) for layer in spec.options["layers"])
    return EncoderSpec(spec.name, {**spec.options, "layers": list(range(highest + 1))})


def _highest_seen(recipe: Recipe, count: int) -> int:
    """Return the highest of ``count`` layers of the whole encoder that the heads of ``recipe`` see."""
    listed = recipe.encoder.options.get("layers")
    if listed is None:
        return max(recipe.encoder.chosen(count))
    seen = [listed[place] for place in recipe.encoder.chosen(len(listed))]
    return max(0 if layer == "input" else int(layer) for layer in seen)


def run_folds(run: Path, manifest: Manifest, seed: int) -> list[Fold]:
    """Return the folds of a run's ``seed`` for the utterances of ``manifest``: tested ones, and all others to train.

    Raises ``InputError`` when a speaker of the others is in the test part: the encoder may have been trained on them.
    """
    path = run / "predictions.parquet"
    if not path.is_file():
        raise InputError(f"{path}: no such table: finish the run first")
    table = pl.read_parquet(path).filter((pl.col("seed") == seed) & (pl.col("part") == "test"))
    if not table.height:
        raise InputError(f"{run}: has no seed {seed}")
    groups, tested = group_of(manifest, "speaker"), set(table["id"])
    known = [id for id in manifest.ids if id in tested]
    folds = []
    for (name,), rows in table.group_by("fold", maintain_order=True):
        test = set(rows["id"])
        parts = ([id for id in known if id not in test], [id for id in known if id in test])
        folds.append(Fold(str(name), tuple(parts[0]), (), tuple(parts[1]), groups))
    return folds


def represent(
    manifest: Manifest, spec: EncoderSpec, name: str, cache: Path, step: Step = no_steps, workers: int | None = None
) -> Representation:
    """Return the time means of every layer of an encoder; what is not in ``cache`` yet is encoded, and can go on."""
    layers, values, seconds, width = _means(manifest, spec, cache, partial(step, f"encoding ({name})"), workers)
    columns = FUNCTIONAL_NAMES if spec.name == EGEMAPS else tuple(str(column) for column in range(width))
    return Representation(name, layers, {ALWAYS: values}, columns, seconds)


def represent_run(
    manifest: Manifest,
    run: Path,
    seed: int,
    folds: Sequence[Fold],
    name: str,
    cache: Path,
    step: Step = no_steps,
    workers: int | None = None,
) -> Representation:
    """Return what :func:`represent` does of the encoders that a run's folds fine-tuned, up to the layer heads saw."""
    recipe = read_run(run)
    values: dict[str, np.ndarray] = {}
    layers: tuple[int, ...] = ()
    seconds, width = None, 0
    for number, fold in enumerate(folds, 1):
        weights = run / "models" / f"{fold.name.replace('/', '-')}-seed{seed}.safetensors"
        if not weights.is_file():
            raise InputError(f"{weights}: no such model: finish the run first")
        spec = TrainedSpec(recipe.encoder.name, run=run, weights=weights)
        told = partial(step, f"encoding ({name}, fold {number} of {len(folds)})")
        layers, found, seconds, width = _means(manifest, spec, cache, told, workers)
        layers = layers[: 1 + _highest_seen(recipe, len(layers))]
        values[fold.name] = found[: len(layers)]
    return Representation(name, layers, values, tuple(str(column) for column in range(width)), seconds)


def _means(
    manifest: Manifest, spec: EncoderSpec, cache: Path, told: partial[None], workers: int | None
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray | None, int]:
    jobs = list_jobs(manifest)
    found = extract(jobs, spec, cache, frames=False, workers=workers, progress=told)
    values = np.stack([found.pooled(job.key)[0] for job in jobs], 1)
    frames = found.lengths([job.key for job in jobs])
    seconds = None if (frames == 1).all() else frames / spec.create().frame_rate
    return tuple(range(len(values))), values, seconds, values.shape[2]


def acoustic_targets(descriptors: Representation, seconds: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the columns ``(U,)`` of eGeMAPS functionals that probes look for, and the duration where it is known."""
    values = descriptors.of()[0]
    targets = {name: values[:, descriptors.columns.index(name)].astype(np.float64) for name in DESCRIPTORS.values()}
    return targets if seconds is None else {**targets, "duration": seconds}
