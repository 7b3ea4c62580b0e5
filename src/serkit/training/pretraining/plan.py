"""How much work a pretraining is, before it begins: hours, updates, and the time that a trial took."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE
from serkit.models.model import Waveforms
from serkit.training.pretraining.clips import Clips, load_clips
from serkit.training.pretraining.loop import count_all_updates, count_gradients, create_optimizer
from serkit.training.pretraining.options import PretrainRecipe
from serkit.training.pretraining.run import count_parameters, create_method
from serkit.training.run import set_threads

TRIAL_SECONDS = 30.0
"""Audio that the trial goes through at most; every batch costs the same for each second."""


@dataclass(frozen=True)
class Plan:
    """A pretraining: its ``clips``, ``updates`` in ``epochs``, ``hours`` of audio to go through, ``seconds`` it takes.

    ``parameters`` are those of the encoder. ``seconds`` extrapolates from a trial on this machine.
    """

    clips: Clips
    updates: int
    epochs: float
    hours: float
    parameters: int
    seconds: float


def plan_pretraining(recipe: PretrainRecipe, threads: int | None = None, device: str = "cpu") -> Plan:
    """Return the plan of ``recipe``; reads headers of recordings, and trains on noise for some seconds."""
    clips = load_clips(recipe)
    each, updates = count_all_updates(clips, recipe)
    most = recipe.data.max_seconds * SAMPLING_RATE
    samples = [min(count, most) for count in clips.samples]
    hours = updates / each * sum(samples) / SAMPLING_RATE / 3600
    with set_threads(threads or count_cores()):
        rate, parameters = time_update(recipe, float(np.mean(samples)) / SAMPLING_RATE, device)
    return Plan(clips, updates, updates / each, hours, parameters, hours * 3600 * rate)


def time_update(recipe: PretrainRecipe, seconds: float, device: str = "cpu") -> tuple[float, int]:
    """Return the seconds that an update takes per second of audio in clips of ``seconds``, and the parameters."""
    method, _ = create_method(recipe.model_copy(update={"model": recipe.model.model_copy(update={"init": "cold"})}))
    method.to(device).train()
    optimizer = create_optimizer(method, recipe.training)
    size = round(seconds * SAMPLING_RATE)
    count = max(1, int(min(recipe.training.batch_samples, TRIAL_SECONDS * SAMPLING_RATE) // size))
    waveforms = 0.1 * torch.randn(count, size, generator=torch.Generator().manual_seed(0))
    audio = Waveforms(waveforms, torch.full((count,), size))
    times = []
    for number in range(1, 4):  # the first also allocates
        began = time.perf_counter()
        count_gradients(method, audio, recipe, number, 0, torch.device(device))
        middle = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.update_teacher(number)
        if device == "cuda":
            torch.cuda.synchronize()
        # What is done once an update weighs less, the more batches an update has.
        share = recipe.training.batch_samples * recipe.training.update_batches / (count * size)
        times.append(middle - began + (time.perf_counter() - middle) / max(1.0, share))
    return min(times[1:]) / (count * size / SAMPLING_RATE), count_parameters(method.student)


def describe_plan(recipe: PretrainRecipe, threads: int | None = None, device: str = "cpu") -> list[str]:
    """Return the plan of ``recipe`` in lines."""
    plan = plan_pretraining(recipe, threads, device)
    left_out = [f"{plan.clips.short} too short"] if plan.clips.short else []
    left_out += [f"{len(plan.clips.excluded)} speakers excluded"] if plan.clips.excluded else []
    days = plan.seconds / 86_400
    clock = f"{plan.seconds / 3600:.2f} h" if days < 3 else f"{days:.1f} days"
    return [
        f"{recipe.name}: {len(plan.clips)} clips, {plan.clips.hours:.2f} h" + "".join(f"; {it}" for it in left_out),
        f"encoder of {plan.parameters / 1e6:.2f} M parameters; {plan.updates} updates, {plan.epochs:.1f} epochs, "
        f"{plan.hours:.1f} h of audio",
        f"about {clock} on this machine, {plan.hours / max(plan.seconds, 1e-9) * 3600:.1f} h of audio an hour (from a "
        "trial of seconds)",
    ]
