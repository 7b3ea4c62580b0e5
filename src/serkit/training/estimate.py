"""How much work runs are, before they begin: models to train, hours to encode, and the time that a trial run took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from serkit.cores import count_cores
from serkit.data.manifest import Manifest
from serkit.encoders.cache import FeatureCache
from serkit.encoders.extract import list_jobs
from serkit.models.heads import create_head
from serkit.training.augment import Augmentation
from serkit.training.experiment import PlannedRun
from serkit.training.features import FeatureSet, StreamSet
from serkit.training.fit import fit
from serkit.training.given import GIVEN
from serkit.training.material import encoder_spec, list_changes, load_data
from serkit.training.recipe import EncoderSection, Recipe
from serkit.training.run import is_trained, list_work, set_threads
from serkit.training.spoken import Spoken
from serkit.training.transfer import match_labels, read_test
from serkit.training.tuning import prepare_encoder

TRIAL = 64
"""Utterances of the trial run of a head."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes: ``models`` to train of ``all_models``, hours of audio, of which ``encode_hours`` are to encode.

    ``seconds`` extrapolates from a trial of a second or two on this machine; the other corpora that the models are
    tested on are counted in the hours. It may well be wrong by a half.
    """

    models: int
    all_models: int
    utterances: int
    hours: float
    encode_hours: float
    seconds: float


def estimate(run: PlannedRun, cache: str | Path, workers: int | None = None) -> Estimate:
    """Estimate what is left of ``run``; reads headers of recordings, and no audio but for hashing it."""
    recipe, workers = run.recipe, workers or count_cores()
    manifest = load_data(recipe)
    work = list_work(recipe, manifest)
    pending = sum(not is_trained(run.folder, *each) for each in work)
    tests = []
    for name in run.untested:
        other, section = read_test(recipe, name)
        tests.append(match_labels(other, recipe, section.merge)[0])
    hours = sum(each.describe()["hours"] for each in (manifest, *tests))
    utterances = len(manifest) + sum(map(len, tests))
    mean_seconds = 3600 * hours / utterances
    folds = list(dict.fromkeys(fold.name for _, fold in work))
    each_fold = [recipe.of_fold(name) for name in folds] if recipe.by_fold else [recipe]
    recipe = each_fold[0]  # the encoders of other folds are as large
    train_utterances = sum(len(fold.train) for _, fold in work) / len(work)
    with set_threads(1):
        if recipe.finetune is not None:
            rate = _finetune_rate(recipe, mean_seconds)  # seconds of work per second of audio
            copies = 1 + len(list_changes(recipe.augment))  # augmentation itself is not counted
            passes = pending * (recipe.training.epochs * train_utterances * copies + len(manifest) / 5)
            passes += sum(map(len, tests)) * len(work)
            return Estimate(pending, len(work), utterances, hours, 0.0, passes * mean_seconds * rate / workers)
        encode_hours = sum(
            _count_missing(recipe, section, each, Path(cache), changes) * mean_seconds / 3600
            for own in each_fold
            for section in own.encoders
            if section.name != GIVEN
            for each, changes in ((manifest, list_changes(recipe.augment)), *((test, []) for test in tests))
        )
        seconds = 3600 * encode_hours * _encode_rate(recipe) if encode_hours else 0.0
        seconds += pending * train_utterances * _fit_rate(recipe, mean_seconds)
    return Estimate(pending, len(work), utterances, hours, encode_hours, seconds / workers)


def describe_plan(runs: Sequence[PlannedRun], estimates: Sequence[Estimate]) -> list[str]:
    """Return the plan in lines: one for each run, and the sum."""
    lines = []
    for run, each in zip(runs, estimates, strict=True):
        tests = f", then on {', '.join(run.untested)}" if run.untested else ""
        left = f"{each.models} of {each.all_models} models to train" if each.models else "all models trained"
        lines.append(f"{run.recipe.name}: {left}, {len(run.recipe.seeds)} seeds{tests}; {_amount(each)}")
    models, hours = sum(each.models for each in estimates), sum(each.encode_hours for each in estimates)
    seconds = sum(each.seconds for each in estimates)
    lines.append(
        f"plan: {len(runs)} runs, {models} models to train, {hours:.2f} h of audio to encode, about {_clock(seconds)} "
        "on this machine (from a trial of seconds)"
    )
    return lines


def _amount(each: Estimate) -> str:
    encoded = f", {each.encode_hours:.2f} h to encode" if each.encode_hours else ""
    return f"{each.utterances} utterances, {each.hours:.2f} h of audio{encoded}; about {_clock(each.seconds)}"


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count_missing(
    recipe: Recipe, section: EncoderSection, manifest: Manifest, cache: Path, changes: list[tuple[Augmentation, int]]
) -> int:
    """Count recordings and augmented copies that the cache lacks."""
    encoder = encoder_spec(section).create()
    held = FeatureCache(cache, encoder.fingerprint(), encoder.num_layers, encoder.dim, encoder.precision)
    frames = recipe.keeps_frames
    jobs = list_jobs(manifest)
    for augmentation, number in changes:
        jobs += list_jobs(manifest, number, augmentation.description())
    return sum(not held.has(job.key, frames) for job in jobs)


def _encode_rate(recipe: Recipe) -> float:
    """Return processor seconds per second of audio, from three seconds of noise through every encoder."""
    total = 0.0
    for section in recipe.encoders:
        if section.name == GIVEN:
            continue
        encoder = encoder_spec(section).create()
        samples = 3 * encoder.sampling_rate
        noise, lengths = 0.1 * torch.randn(1, samples), torch.tensor([samples])
        for _ in range(2):  # the first pass also allocates
            began = time.perf_counter()
            with torch.inference_mode():
                encoder(noise, lengths)
            took = time.perf_counter() - began
        total += took / 3
    return total


def _fit_rate(recipe: Recipe, mean_seconds: float) -> float:
    """Return the seconds that training takes per training utterance, from a fit to a few utterances of noise."""
    generator, streams, shapes = torch.Generator().manual_seed(0), [], []
    for section in recipe.encoders:
        if section.name == GIVEN:  # how much was given is not known before it is read
            layers, frames, dim, single = 1, 1, 80, True
        else:
            encoder = encoder_spec(section).create()
            layers, dim, single = len(section.chosen(encoder.num_layers)), encoder.dim, encoder.precision == "float32"
            frames = max(1, round(mean_seconds * encoder.frame_rate / section.stride))
        arrays: list[list[torch.Tensor]] = []
        if recipe.keeps_frames:
            one = torch.randn(layers, frames, dim, generator=generator, dtype=torch.float32)
            one = one if single else one.half()
            arrays = [[one] * TRIAL]
        statistics = torch.randn(1, TRIAL, 2, layers, dim, generator=generator).abs()
        lengths = torch.full((1, TRIAL), frames)
        streams.append(StreamSet(statistics, lengths, tuple(tuple(copy) for copy in arrays)))
        shapes.append((layers, dim))
    classes = max(1, len(recipe.classes))
    targets = torch.arange(TRIAL) % classes
    weights = torch.ones(TRIAL)
    if recipe.multi:
        targets, weights = torch.nn.functional.one_hot(targets, classes).float(), torch.ones(TRIAL, classes)
    examples = FeatureSet(tuple(map(str, range(TRIAL))), tuple(streams), targets, weights)
    if recipe.fusion is None:
        head = create_head(recipe.head, shapes, classes)
    else:
        words = tuple((f"word {number}",) * min(12, recipe.text.max_words) for number in range(TRIAL))
        spoken = Spoken(recipe, words, None)
        head = spoken.create(shapes, range(TRIAL))
        examples = spoken.number(examples, head)
    convex = recipe.training.optimizer == "lbfgs"
    epochs = min(recipe.training.epochs, 10 if convex else 2)
    options = recipe.training.model_copy(update={"epochs": epochs, "patience": 0})
    fit(head, examples, None, options.model_copy(update={"epochs": 1}), 0)  # the first fit also allocates
    began = time.perf_counter()
    fit(head, examples, None, options, 0)
    # An epoch draws one copy of each utterance, but for convex heads and unions, which take all of them.
    copies = 1 + len(list_changes(recipe.augment)) if convex or recipe.augment.union else 1
    return (time.perf_counter() - began) / TRIAL / epochs * recipe.training.epochs * copies


def _finetune_rate(recipe: Recipe, mean_seconds: float) -> float:
    """Return the seconds of work per second of audio of a forward and backward pass through the encoder."""
    assert recipe.finetune is not None
    encoder = encoder_spec(recipe.encoder).create()
    prepare_encoder(encoder, recipe.finetune)
    encoder.train()
    size = max(1600, round(16_000 * mean_seconds))
    waveforms = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, size)).astype(np.float32))
    half = torch.autocast("cpu", torch.bfloat16, enabled=recipe.finetune.precision == "bf16")
    for _ in range(2):
        began = time.perf_counter()
        with half:
            layers = encoder(waveforms, torch.tensor([size, size])).layers
        if layers.requires_grad:
            layers.float().square().mean().backward()
        took = time.perf_counter() - began
    return took / (2 * size / 16_000)
