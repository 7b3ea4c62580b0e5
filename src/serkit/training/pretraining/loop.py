"""The loop of pretraining: updates of batches, on one process or several, resumable, watched for collapse.

An update adds up the gradients of its batches, each with randomness of its own, and divides them by the masked frames
of all. So the result does not depend on how batches were dealt to processes (``accelerate launch``) or on
interruptions, but for the order in which numbers are added.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from serkit.cores import count_cores
from serkit.data.audio import SAMPLING_RATE
from serkit.data.files import write_text
from serkit.errors import SerkitError
from serkit.models.model import Waveforms
from serkit.progress import Report, no_report
from serkit.training.batching import deal, read_ahead
from serkit.training.checkpoint import Progress
from serkit.training.fit import TrainingOptions, schedule_factor
from serkit.training.pretraining.batches import Batch, count_updates, plan_updates
from serkit.training.pretraining.clips import Clips
from serkit.training.pretraining.distillation import Distillation
from serkit.training.pretraining.options import GuardOptions, PretrainRecipe, PretrainTraining
from serkit.training.together import add_up, create_accelerator, draw_seed

FACTS = ("target_variance", "prediction_variance")
"""What the method tells of a batch beside its losses."""

SUMS = ("frame", "utterance", "masked", "frames", "batches", *FACTS)
"""What is added up over batches and processes."""


def count_all_updates(clips: Clips, recipe: PretrainRecipe) -> tuple[int, int]:
    """Return the updates of an epoch, and of the whole training."""
    training = recipe.training
    most = round(recipe.data.max_seconds * SAMPLING_RATE)
    each = count_updates([min(it, most) for it in clips.samples], training.batch_samples, training.update_batches)
    if training.max_updates is not None:
        return each, training.max_updates
    assert training.epochs is not None
    return each, each * training.epochs


def pretrain(
    method: Distillation,
    clips: Clips,
    recipe: PretrainRecipe,
    folder: Path | None = None,
    device: str = "cpu",
    report: Report = no_report,
) -> list[dict[str, Any]]:
    """Train ``method`` in place and return the history, a line for every ``training.log_updates`` updates.

    ``folder`` holds ``history.jsonl`` and the checkpoint: a run killed at any moment and called again ends with the
    weights of one that was never interrupted. ``device`` is "cpu" or "cuda"; ``report`` is called with every line.
    Raises ``SerkitError`` when the guard finds a collapse or gradients are no numbers.
    """
    accelerator = create_accelerator(device)
    method.to(accelerator.device)
    optimizer = create_optimizer(method, recipe.training)
    state = Progress(folder, method.state_dict, method.load_state_dict, optimizer, recipe.training.checkpoint_seconds)
    state.resume()
    written = folder if accelerator.is_main_process else None
    if written is not None:
        _write_history(written, state.history)
    each, updates = count_all_updates(clips, recipe)
    began, before = time.monotonic(), state.sums.get("seconds", 0.0)
    method.train()
    for number, pieces in _read_updates(clips, recipe, state, each, updates, accelerator):
        facts = _update(method, pieces, recipe, number, updates, optimizer, accelerator)
        _count(state.sums, facts, before + time.monotonic() - began)
        state.epoch, state.step = divmod(number, each)
        watch(recipe.guard, number, facts)
        if number % recipe.training.log_updates == 0 or number == updates:
            line = _line(number, number / each, facts, state.sums, method)
            state.history.append(line)
            if written is not None:
                _write_history(written, [line], "a")
            report({**line, "updates": updates})
        if written is not None and (state.due() or number == updates):
            state.save()
    return state.history


def create_optimizer(method: nn.Module, options: PretrainTraining) -> torch.optim.Optimizer:
    """Return Adam with decoupled decay, as fairseq's; vectors, biases and the scale of ALiBi do not decay."""
    groups: dict[float, list[Tensor]] = {options.weight_decay: [], 0.0: []}
    for name, weight in method.named_parameters():
        if weight.requires_grad:
            whole = weight.ndim < 2 or name.endswith((".bias", "alibi_scale"))
            groups[0.0 if whole else options.weight_decay].append(weight)
    return torch.optim.AdamW(
        [{"params": weights, "weight_decay": decay} for decay, weights in groups.items() if weights],
        lr=options.lr,
        betas=options.betas,
        eps=options.epsilon,
        fused=True,
    )


def learning_rate(options: PretrainTraining, number: int, updates: int) -> float:
    """Return the learning rate of update ``number`` (from 1) of ``updates``: linear warm-up, then a cosine to 0."""
    shape = TrainingOptions(schedule="cosine", warmup=options.warmup)
    return options.lr * schedule_factor(shape, number - 1, updates)


Piece = tuple[int, Waveforms]
"""The number of a batch in its update, and its recordings."""


def _read_updates(
    clips: Clips, recipe: PretrainRecipe, state: Progress, each: int, updates: int, accelerator: Accelerator
) -> Iterator[tuple[int, list[Piece]]]:
    """Yield the numbers of the updates that are left, from 1, with this process's batches, decoded ahead."""
    options, most = recipe.training, round(recipe.data.max_seconds * SAMPLING_RATE)
    samples = [min(count, most) for count in clips.samples]
    seconds = [count / SAMPLING_RATE for count in samples]
    first = state.epoch * each + state.step

    def make() -> Iterator[tuple[int, list[Piece]]]:
        planned, plan = -1, list[list[Batch]]()
        with ThreadPoolExecutor(count_cores()) as pool:
            for number in range(first, updates):
                epoch, step = divmod(number, each)
                if epoch != planned:
                    rng = np.random.default_rng([recipe.seed, epoch])
                    planned, plan = epoch, plan_updates(samples, options.batch_samples, options.update_batches, rng)
                mine = deal(plan[step], seconds, accelerator.num_processes)[accelerator.process_index]
                yield (
                    number + 1,
                    [
                        (index, clips.batch(plan[step][index], most, options.padding, (recipe.seed, epoch), pool.map))
                        for index in mine
                    ],
                )

    return read_ahead(make())


def _update(
    method: Distillation,
    pieces: Sequence[Piece],
    recipe: PretrainRecipe,
    number: int,
    updates: int,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> dict[str, float]:
    """Do one update and return what it came to: losses a masked frame, variances, rates."""
    training, device = recipe.training, accelerator.device
    rate = learning_rate(training, number, updates)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(1 + len(SUMS), device=device)
    for index, audio in pieces:
        sums += count_gradients(method, audio, recipe, number, index, device)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    add_up(weights, sums, accelerator)
    gradients = [weight.grad for weight in weights]
    torch._foreach_div_(gradients, sums[1 + SUMS.index("masked")].clamp(min=1))
    norm = nn.utils.get_total_norm(gradients)
    found = dict(zip(("seconds", *SUMS), sums.tolist(), strict=True))
    if not torch.isfinite(norm):
        raise SerkitError(f"update {number}: the gradient is not a number: lower training.lr or set training.clip_norm")
    if training.clip_norm:
        nn.utils.clip_grads_with_norm_(weights, training.clip_norm, norm)
    optimizer.step()
    masked, batches = max(1.0, found["masked"]), max(1.0, found["batches"])
    return {
        "loss_frame": found["frame"] / masked,
        "loss_utterance": found["utterance"] / masked,
        **{name: found[name] / batches for name in FACTS},
        "masked_share": found["masked"] / max(1.0, found["frames"]),
        "lr": rate,
        "decay": method.update_teacher(number),
        "gradient_norm": float(norm),
        "hours": found["seconds"] / 3600,
    }


def count_gradients(
    method: Distillation, audio: Waveforms, recipe: PretrainRecipe, number: int, index: int, device: torch.device
) -> Tensor:
    """Add the gradients of a batch; return seconds of audio and :data:`SUMS`."""
    seed = (recipe.seed, number, index)
    torch.manual_seed(draw_seed(*seed))
    masks = method.draw_masks(audio.lengths, np.random.default_rng([*seed, 1]))
    audio = audio.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision == "bf16"):
        losses = method(audio.waveforms, audio.lengths, [mask.to(device) for mask in masks])
    (losses.frame + losses.utterance).backward()
    counts = [audio.lengths.sum() / SAMPLING_RATE, losses.frame, losses.utterance, losses.count]
    counts += [sum(mask.numel() for mask in masks), 1.0, *(losses.facts[name] for name in FACTS)]
    return torch.stack([torch.as_tensor(each, dtype=torch.float32, device=device).detach() for each in counts])


def watch(guard: GuardOptions, number: int, facts: Mapping[str, float]) -> None:
    """Raise ``SerkitError`` when, after the first updates, frames hardly differ any more."""
    if number <= guard.after:
        return
    for name in FACTS:
        least = getattr(guard, name)
        if not facts[name] >= least:
            raise SerkitError(
                f"update {number}: collapse: {name} is {facts[name]:.3g}, less than guard.{name} = {least:g}: every "
                "frame gets nearly the same; lower training.lr, or raise distillation.ema_start"
            )


def _count(sums: dict[str, float], facts: Mapping[str, float], seconds: float) -> None:
    """Add what an update came to to what has been counted since the last line of history."""
    sums["all_hours"] = sums.get("all_hours", 0.0) + facts["hours"]
    sums["updates"] = sums.get("updates", 0.0) + 1
    sums["seconds"] = seconds
    for name in ("loss_frame", "loss_utterance", "masked_share", "gradient_norm", *FACTS):
        sums[name] = sums.get(name, 0.0) + facts[name]


def _line(
    number: int, epochs: float, facts: Mapping[str, float], sums: dict[str, float], method: Distillation
) -> dict[str, Any]:
    """Return a line of history, means since the last one; the counting begins anew."""
    count = sums.pop("updates")
    means = {name: sums.pop(name) / count for name in tuple(sums) if name in facts}
    hours, seconds = sums["all_hours"], sums["seconds"]
    since_hours = hours - sums.get("last_hours", 0.0)
    since = seconds - sums.get("last_seconds", 0.0)
    sums |= {"last_hours": hours, "last_seconds": seconds}
    return {
        "update": number,
        "epoch": round(epochs, 4),
        "loss": means["loss_frame"] + means["loss_utterance"],
        **means,
        "lr": facts["lr"],
        "decay": facts["decay"],
        "hours": hours,
        "seconds": round(seconds, 3),
        "hours_per_hour": round(3600 * since_hours / max(since, 1e-9), 3),
    }


def _write_history(folder: Path, lines: Sequence[Mapping[str, Any]], mode: str = "w") -> None:
    """Write ``history.jsonl`` anew, or add lines; what a killed run wrote beyond its checkpoint is gone thereby."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if mode == "w":
        write_text(folder / "history.jsonl", text)
        return
    with (folder / "history.jsonl").open(mode, encoding="utf-8") as file:
        file.write(text)
