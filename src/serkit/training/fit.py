"""The training loop of heads. It is given a training part and a dev part; there is no argument for a test part."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from serkit.errors import InputError
from serkit.models.heads import Ensemble, parameters_behind_pooling
from serkit.models.losses import presence_losses
from serkit.models.norms import BatchNorm, settle_norms
from serkit.training.checkpoint import Progress
from serkit.training.features import FeatureSet
from serkit.training.presence import judge_presence, listed_by_class


class TrainingOptions(BaseModel):
    """How a head is trained. ``patience`` epochs without a better dev part stop it (0: never).

    ``lbfgs`` minimises the loss over all copies at once, with ``weight_decay / 2`` times the squared norm of the
    matrices added: for a linear head a convex problem with one answer, so seeds do not matter; ``epochs`` then bounds
    its iterations and ``lr``, ``schedule``, ``batch_size`` and ``crop`` do not act.

    ``balance`` says what utterances count: all the same, every class the same in the training part, or every corpus in
    every class. "count" divides by the size of the class as well, and by the sum of what the utterances of a step
    count: PyTorch's weighted cross-entropy. ``head_l2`` times the squared norm of all parameters behind the pooling
    (biases and batch normalisation too) is added to the loss of a step.

    With several labels at once (``labels.multi``) "class" weighs what has a class by the number of those without over
    those with it, and ``class_weights`` are those of what has a class.

    ``class_weights`` says it class by class, as it stands. "majority" weighs a class by the size of the largest over
    its own. With ``reduction`` "sum" the loss of a step is a sum over its utterances, not a mean.

    ``schedule`` "reload" keeps ``lr``, and goes back to the weights and the optimiser's state of the best epoch where
    one is no better: ``decays`` times, each with ``decay`` times the rate, and only then counts for ``patience``.
    "cyclic" raises the rate along a line from ``lr`` to ``cycle_peak`` times it and back, ``cycle_epochs``
    epochs each way (Smith 2017, https://arxiv.org/abs/1506.01186), the same rate for a whole epoch; with
    ``cycle_momentum`` the ``momentum`` of rmsprop goes down to that and up again meanwhile, which is what PyTorch's
    CyclicLR does unasked. What ``monitor`` names decides which epoch's weights are kept: the first of the best ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adamw", "adam", "rmsprop", "lbfgs"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment, not by lbfgs")
    momentum: float = Field(0.9, ge=0, lt=1, description="of rmsprop")
    schedule: Literal["one-cycle", "cosine", "linear", "constant", "cyclic", "reload"] = "one-cycle"
    cycle_epochs: int = Field(10, ge=1)
    cycle_peak: float = Field(2.0, ge=1)
    cycle_momentum: float | None = Field(None, ge=0, lt=1)
    decay: float = Field(0.2, gt=0, lt=1)
    decays: int = Field(2, ge=0)
    warmup: float = Field(0.15, ge=0, lt=1, description="share of all steps")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    balance: Literal["none", "class", "count", "corpus-class", "majority"] = "class"
    class_weights: dict[str, float] = {}
    reduction: Literal["mean", "sum"] = "mean"
    head_l2: float = Field(0.0, ge=0)
    crop: float = Field(1.0, gt=0, le=1, description="smallest share of an utterance's frames that a step sees")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm; 0: no limit")
    clip_value: float = Field(0.0, ge=0, description="largest gradient element; 0: no limit")
    patience: int = Field(0, ge=0)
    monitor: Literal["uar", "accuracy", "loss"] = "uar"
    checkpoint_seconds: float = Field(30.0, ge=0, description="least time between two checkpoints")

    @model_validator(mode="after")
    def _check_cycles(self) -> TrainingOptions:
        if self.cycle_momentum is not None and (self.optimizer, self.schedule) != ("rmsprop", "cyclic"):
            raise ValueError("cycle_momentum needs optimizer rmsprop and schedule cyclic")
        if self.class_weights and self.balance != "none":
            raise ValueError('class_weights are in place of balance: set it to "none"')
        if self.optimizer == "lbfgs" and (self.schedule == "reload" or self.reduction == "sum"):
            raise ValueError("lbfgs takes neither schedule reload nor reduction sum")
        return self

    def score(self, line: Mapping[str, Any]) -> float:
        """Return what ``monitor`` says of an epoch's ``line`` of the history: higher is better."""
        return -line["dev_loss"] if self.monitor == "loss" else line[f"dev_{self.monitor}"]


def balance_weights(targets: Tensor, corpora: list[str], balance: str) -> Tensor:
    """Return what each utterance counts ``(U,)``, with mean one, but for ``majority``: one in the largest class.

    ``class`` and ``count``: every class counts the same. ``corpus-class``: within a class every corpus does as well.
    """
    weights = torch.ones(len(targets))
    cells = list(zip(targets.tolist(), corpora if balance == "corpus-class" else [""] * len(corpora), strict=True))
    if balance != "none":
        counts = {cell: cells.count(cell) for cell in set(cells)}
        inside = {target: sum(cell[0] == target for cell in counts) for target, _ in counts}
        weights = torch.tensor([1 / (counts[cell] * inside[cell[0]]) for cell in cells])
        if balance == "majority":
            return weights * max(counts.values())
    return weights / weights.mean()


def listed_weights(targets: Tensor, classes: Sequence[str], listed: Mapping[str, float]) -> Tensor:
    """Return what each utterance counts ``(U,)`` by its class; raises ``InputError`` unless all are ``listed``."""
    return listed_by_class(classes, listed)[targets]


def schedule_factor(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the factor on the learning rate at ``step`` of ``steps``: linear warm-up, then decay.

    ``one-cycle`` warms up along a cosine from 1/25 and ends near zero (Smith 2018, https://arxiv.org/abs/1803.09820);
    ``cyclic`` and ``reload`` have no warm-up.
    """
    if options.schedule == "reload":
        return 1.0
    if options.schedule == "cyclic":
        return 1 + (options.cycle_peak - 1) * cycle_height(options, step * options.epochs // steps)
    warm = options.warmup * steps
    if options.schedule == "one-cycle":
        if step < warm:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * step / warm)) / 2
        return (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm))) / 2
    if options.schedule == "linear":  # as transformers counts: from 0 in the first step
        return step / warm if step < warm else (steps - step) / max(1.0, steps - warm)
    if step < warm:
        return (step + 1) / warm
    if options.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm))) / 2


def cycle_height(options: TrainingOptions, epoch: int) -> float:
    """Return how far up its cycle ``epoch`` is, from 0 to 1 and back."""
    return 1 - abs(epoch % (2 * options.cycle_epochs) / options.cycle_epochs - 1)


def fit(
    head: Ensemble,
    train: FeatureSet,
    dev: FeatureSet | None,
    options: TrainingOptions,
    seed: int,
    folder: Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train ``head`` on ``train``; with a ``dev`` part, keep the weights of its best epoch; return the history.

    ``folder`` holds checkpoints: a killed run called again goes on after its last one and gives the same weights as a
    run that was never interrupted, because every epoch draws its randomness from ``seed`` and its own number.
    """
    if options.optimizer == "lbfgs":
        return _fit_convex(head, train, dev, options)
    optimizer = _create_optimizer(head, options)
    steps_per_epoch = math.ceil(train.examples / options.batch_size)
    reloads = options.schedule == "reload"
    state = Progress(folder, head.state_dict, head.load_state_dict, optimizer, options.checkpoint_seconds, reloads)
    state.resume()
    while state.epoch < options.epochs and not (0 < options.patience <= state.stale):
        began, epoch = time.monotonic(), state.epoch
        rng = np.random.default_rng([seed, epoch])
        torch.manual_seed(seed * 100_003 + epoch)
        head.train()
        losses = []
        for number, part in enumerate(np.array_split(rng.permutation(train.examples), steps_per_epoch)):
            factor = schedule_factor(options, epoch * steps_per_epoch + number, options.epochs * steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor * options.decay**state.reloads
                if options.cycle_momentum is not None:
                    fall = options.momentum - options.cycle_momentum
                    group["momentum"] = options.momentum - fall * cycle_height(options, epoch)
            scores = head.each(train.augmented_batch(part.tolist(), rng, options.crop))
            index = torch.tensor(train.rows(part.tolist()))
            counts = train.weights[index]
            counts = counts / counts.mean() if options.balance == "count" else counts
            loss = _loss(scores, train.targets[index], counts, options.label_smoothing, options.reduction)
            loss = loss + _penalty(head, options)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if options.clip_norm:
                nn.utils.clip_grad_norm_(head.parameters(), options.clip_norm)
            if options.clip_value:
                nn.utils.clip_grad_value_(head.parameters(), options.clip_value)
            optimizer.step()
            settle_norms(head)
            losses.append(float(loss.detach()) / len(head.heads))
        total = np.sum(losses) / train.examples if options.reduction == "sum" else np.mean(losses)
        line: dict[str, Any] = {"epoch": epoch + 1, "loss": float(total)}
        if dev is not None and len(dev):
            line |= evaluate_dev(head, dev)
            if not state.keep_best(options.score(line)) and reloads and state.reloads < options.decays:
                state.reload_best()
        report(line)
        state.finish_epoch({**line, "seconds": round(time.monotonic() - began, 3)})
        if state.epoch < options.epochs and state.due():
            state.save()
    state.restore_best()
    return state.history


def _fit_convex(
    head: Ensemble, train: FeatureSet, dev: FeatureSet | None, options: TrainingOptions
) -> list[dict[str, Any]]:
    """Fit on all copies with L-BFGS; starts from zero, so the result depends on the data alone."""
    head.eval()  # no dropout: the objective must not change between evaluations
    matrices = [weight for weight in head.parameters() if weight.ndim > 1]
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if head.needs_frames or len(linear) > len(head.heads):
        raise InputError("training.optimizer: lbfgs fits linear heads only: set head.kind=pooled and head.hidden=[]")
    if any(isinstance(module, BatchNorm) for module in head.modules()):
        raise InputError("training.optimizer: lbfgs sees no batches: set head.batch_norm=false")
    for module in linear:
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    batch = train.all_copies()
    copies = train.copies
    targets, weights = torch.cat([train.targets] * copies), torch.cat([train.weights] * copies)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=options.epochs, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum(weight.square().sum() for weight in matrices)
        loss = _loss(head.each(batch), targets, weights, options.label_smoothing) + options.weight_decay / 2 * penalty
        loss = loss + _penalty(head, options)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    line = {"epoch": 1, "first_loss": float(loss.detach()), "loss": float(closure().detach())}
    return [line | (evaluate_dev(head, dev) if dev is not None and len(dev) else {})]


@torch.no_grad()
def predict(head: Ensemble, examples: FeatureSet, batch_size: int = 64) -> Tensor:
    """Return log-probabilities ``(U, C)`` of the recordings themselves, log-odds of several labels at once."""
    head.eval()
    rows = range(len(examples))
    parts = [head(examples.batch(rows[i : i + batch_size])) for i in range(0, len(examples), batch_size)]
    scores = torch.cat(parts)
    return scores if head.multi else scores.log_softmax(-1)


def evaluate_dev(head: Ensemble, dev: FeatureSet) -> dict[str, float]:
    """Return loss, mean recall over the classes that the dev part has, and accuracy."""
    scores = predict(head, dev)
    if head.multi:
        return judge_presence(scores, dev.targets)
    hits = scores.argmax(1) == dev.targets
    recalls = [hits[dev.targets == target].float().mean() for target in dev.targets.unique()]
    loss = nn.functional.cross_entropy(scores, dev.targets)
    uar, accuracy = float(torch.stack(recalls).mean()), float(hits.float().mean())
    return {"dev_loss": float(loss), "dev_uar": uar, "dev_accuracy": accuracy}


def _loss(scores: Tensor, targets: Tensor, weights: Tensor, smoothing: float, reduction: str = "mean") -> Tensor:
    """Sum over members of the weighted cross-entropy, a mean or a sum over ``B``; ``scores (members, B, C)``.

    Of several labels at once ``targets`` and ``weights`` are ``(B, C)``.
    """
    if targets.ndim == 2:
        weighted = presence_losses(scores, targets, weights)
    else:
        flat = nn.functional.cross_entropy(
            scores.flatten(0, 1), targets.repeat(len(scores)), reduction="none", label_smoothing=smoothing
        )
        weighted = flat.view(len(scores), -1) * weights
    return (weighted.sum(1) if reduction == "sum" else weighted.mean(1)).sum()


def _penalty(head: Ensemble, options: TrainingOptions) -> Tensor | float:
    if not options.head_l2:
        return 0.0
    return options.head_l2 * torch.stack([weight.square().sum() for weight in parameters_behind_pooling(head)]).sum()


def _create_optimizer(head: Ensemble, options: TrainingOptions) -> torch.optim.Optimizer:
    """Group parameters by decay: vectors do not decay, and the schedule scales ``peak``."""
    groups: dict[float, list[Tensor]] = {}
    for weight in head.parameters():
        if weight.requires_grad:
            groups.setdefault(options.weight_decay if weight.ndim > 1 else 0.0, []).append(weight)
    parts = [
        {"params": part, "lr": options.lr, "peak": options.lr, "weight_decay": decay} for decay, part in groups.items()
    ]
    if options.optimizer == "rmsprop":
        return torch.optim.RMSprop(parts, eps=options.epsilon, momentum=options.momentum)
    return (torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam)(parts, eps=options.epsilon)
