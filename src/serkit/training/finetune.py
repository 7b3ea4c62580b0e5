"""The training loop of encoders with their heads: steps of micro-batches, on one process or several, resumable.

A step adds up the gradients of its micro-batches, each with randomness of its own, and of all processes. So the result
does not depend on how a step was cut, dealt to processes (``accelerate launch``) or interrupted, but for the order in
which numbers are added. What compares utterances with each other, batch normalisation and concordance, is not cut but
as ``finetune.batches.together`` says.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from serkit.models.heads import Ensemble, parameters_behind_pooling
from serkit.models.model import Model, Waveforms
from serkit.models.norms import BatchNorm, settle_norms
from serkit.models.tasks import Task, View
from serkit.training.batching import MicroBatch, cut_step, deal, plan_epoch, read_ahead
from serkit.training.checkpoint import Progress
from serkit.training.fit import TrainingOptions, schedule_factor
from serkit.training.together import add_up, create_accelerator, draw_seed
from serkit.training.tuning import FinetuneOptions, half_precision, load_trained, parameter_groups, trained_state
from serkit.training.waveforms import WaveformSet

Piece = tuple[int, MicroBatch, Waveforms]
"""The number of a micro-batch in its step, its utterances, and their recordings."""


def finetune(
    model: Model,
    train: WaveformSet,
    dev: WaveformSet | None,
    training: TrainingOptions,
    options: FinetuneOptions,
    seed: int,
    folder: Path | None = None,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place; with a ``dev`` part, keep the weights of its best epoch; return the history.

    ``folder`` holds the checkpoint: a run killed at any moment and called again ends with the weights of one that was
    never interrupted. ``device`` is "cpu" or "cuda".
    """
    accelerator = create_accelerator(device)
    model.to(accelerator.device)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    groups = parameter_groups(model, options, training.lr, training.weight_decay)
    optimizer = kind(groups, eps=training.epsilon, fused=True)  # one pass over the weights in place of fifteen
    state = Progress(
        folder,
        lambda: trained_state(model),
        lambda found: load_trained(model, found),
        optimizer,
        training.checkpoint_seconds,
    )
    state.resume()
    while state.epoch < training.epochs and not 0 < training.patience <= state.stale:
        began = time.monotonic()
        _train_epoch(model, train, training, options, seed, state, accelerator)
        line = {"epoch": state.epoch + 1} | {name: value / len(train) for name, value in sorted(state.sums.items())}
        if dev is not None and len(dev):
            line |= evaluate_dev(model, dev, options, accelerator)
            state.keep_best(training.score(line))
        report(line)
        state.finish_epoch({**line, "seconds": round(time.monotonic() - began, 3)})
        if accelerator.is_main_process and state.epoch < training.epochs and state.due():
            state.save()
    state.restore_best()
    return state.history


def _train_epoch(
    model: Model,
    train: WaveformSet,
    training: TrainingOptions,
    options: FinetuneOptions,
    seed: int,
    state: Progress,
    accelerator: Accelerator,
) -> None:
    """Go through the steps of an epoch from ``state.step`` on."""
    learned = [task for task in model.each() if task.weight]
    whole = any(task.whole_steps or _compares(task) for task in learned)
    rng = np.random.default_rng([seed, state.epoch])
    steps = plan_epoch(train.seconds, training.batch_size, options.batches, rng, whole)
    model.train()
    encoder_learns = state.epoch >= options.head_epochs and any(it.requires_grad for it in model.encoder.parameters())
    model.encoder.train(encoder_learns)  # what does not learn sees no dropout
    parts = (model.encoder, model.tasks) if encoder_learns else (model.tasks,)
    weights = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
    ahead = read_ahead(_read_steps(train, steps, state.step, (seed, state.epoch), accelerator))
    for number, pieces in enumerate(ahead, state.step):
        size = sum(map(len, steps[number]))
        factor = schedule_factor(training, state.epoch * len(steps) + number, training.epochs * len(steps))
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        state.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(1 + len(learned), device=accelerator.device)
        counts = train.weights
        if training.balance == "count":
            counts = counts / counts[list(itertools.chain(*steps[number]))].mean()
        for index, rows, audio in pieces:
            torch.manual_seed(draw_seed(seed, state.epoch, number, index))
            with half_precision(options, accelerator.device):
                with torch.set_grad_enabled(encoder_learns):
                    view = model.view(audio.to(accelerator.device))
                losses = task_losses(learned, view, train, rows, counts)
            total = torch.stack([task.weight * loss for task, loss in zip(learned, losses, strict=True)]).sum()
            (total / size).backward()
            sums += torch.stack([total, *losses]).detach()
        add_up(weights, sums, accelerator)
        if training.head_l2 and any(getattr(task, "head", None) is model.head for task in learned):
            sums[0] += size * _shrink(model.head, training.head_l2)
        settle_norms(model.tasks, lambda total: accelerator.reduce(total, "sum"))
        if training.clip_norm:
            nn.utils.clip_grad_norm_(weights, training.clip_norm)
        if training.clip_value:
            nn.utils.clip_grad_value_(weights, training.clip_value)
        state.optimizer.step()
        names = ["loss", *(f"loss_{task.name}" for task in learned)]
        for name, value in zip(names, sums.tolist(), strict=True):
            state.sums[name] = state.sums.get(name, 0.0) + value
        state.step = number + 1
        if accelerator.is_main_process and state.due():
            state.save()


def _compares(task: Task) -> bool:
    return any(isinstance(module, BatchNorm) for module in task.modules())


@torch.no_grad()
def _shrink(head: Ensemble, factor: float) -> Tensor:
    """Add the gradient of ``factor`` times the squared norm behind the pooling, a mean over members; return that."""
    weights, factor = parameters_behind_pooling(head), factor / len(head.heads)
    for weight in weights:
        assert weight.grad is not None
        weight.grad.add_(weight, alpha=2 * factor)
    return factor * torch.stack([weight.square().sum() for weight in weights]).sum()


def task_losses(
    tasks: Sequence[Task], view: View, examples: WaveformSet, rows: Sequence[int], counts: Tensor
) -> list[Tensor]:
    """Return each task's loss, added up over the utterances ``rows`` that ``view`` shows.

    ``counts (U,)`` are what utterances count in the loss of emotion.
    """
    losses = []
    for task in tasks:
        each = task.losses(task(view), view, [examples.targets[task.name][row] for row in rows])
        shares = counts[list(rows)].to(each.device) if task.name == "emotion" else 1.0
        losses.append((each * shares).sum())
    return losses


def _read_steps(
    train: WaveformSet, steps: list[list[MicroBatch]], first: int, seed: Sequence[int], accelerator: Accelerator
) -> Iterator[list[Piece]]:
    """Yield this process's micro-batches of every step from ``first`` on."""
    for number, pieces in enumerate(steps[first:], first):
        mine = deal(pieces, train.seconds, accelerator.num_processes)[accelerator.process_index]
        yield [(index, pieces[index], train.batch(pieces[index], (*seed, number))) for index in mine]


@torch.no_grad()
def predict(
    model: Model, examples: WaveformSet, options: FinetuneOptions, accelerator: Accelerator
) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Return columns of the predictions table, and every learned task's mean loss; all processes get all of both.

    In single precision always: so does an exported model.
    """
    model.eval()
    examples = examples.plain()
    pieces = cut_step(range(len(examples)), examples.seconds, options.batches)
    found: list[tuple[list[int], dict[str, list[Any]], dict[str, Tensor]]] = []
    for index in deal(pieces, examples.seconds, accelerator.num_processes)[accelerator.process_index]:
        rows, losses = pieces[index], {}
        columns: dict[str, list[Any]] = {}
        view = model.view(examples.batch(rows).to(accelerator.device))
        for task in model.each():
            targets = [examples.targets[task.name][row] for row in rows]
            output = task(view)
            columns |= task.columns(output, view, targets)
            # What needs all utterances is judged below, from the outputs.
            losses[task.name] = (output if task.whole_steps else task.losses(output, view, targets)).cpu()
        found.append((rows, columns, losses))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    order = np.argsort(list(itertools.chain(*(rows for rows, _, _ in found))))
    every = {name: list(itertools.chain(*(columns[name] for _, columns, _ in found))) for name in found[0][1]}
    means = {}
    for task in model.each():
        each = torch.cat([losses[task.name] for _, _, losses in found])[order]
        means[task.name] = float(
            (task.losses(each, None, examples.targets[task.name]) if task.whole_steps else each).mean()
        )
    return {name: [values[index] for index in order] for name, values in every.items()}, means


def evaluate_dev(
    model: Model, dev: WaveformSet, options: FinetuneOptions, accelerator: Accelerator
) -> dict[str, float]:
    """Return the weighted loss, each task's own, accuracy and mean recall over the classes that the dev part has."""
    columns, losses = predict(model, dev, options, accelerator)
    total = sum(task.weight * losses[task.name] for task in model.each())
    line = {"dev_loss": total} | {f"dev_loss_{name}": value for name, value in losses.items()}
    if "emotion" not in losses:
        return line
    truths = [model.emotion.classes[int(target.argmax())] for target in dev.targets["emotion"]]
    hits = [truth == found for truth, found in zip(truths, columns["prediction"], strict=True)]
    recalls = [
        float(np.mean([hit for hit, truth in zip(hits, truths, strict=True) if truth == name])) for name in set(truths)
    ]
    return line | {"dev_uar": float(np.mean(recalls)), "dev_accuracy": float(np.mean(hits))}
