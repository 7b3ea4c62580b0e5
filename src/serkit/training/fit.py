"""The training loop. It is given a training part and a dev part; there is no argument for a test part."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from serkit.data.files import replace_atomically
from serkit.errors import InputError
from serkit.models.heads import Ensemble
from serkit.models.model import Model
from serkit.training.features import FeatureSet
from serkit.training.waveforms import WaveformSet


class TrainingOptions(BaseModel):
    """How a head is trained. ``patience`` epochs without a better dev part stop it (0: never).

    ``lbfgs`` minimises the loss over all copies at once, with ``weight_decay / 2`` times the squared norm of the
    matrices added: for a linear head a convex problem with one answer, so seeds do not matter; ``epochs`` then bounds
    its iterations and ``lr``, ``schedule``, ``batch_size`` and ``crop`` do not act.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: Literal["adamw", "adam", "lbfgs"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    encoder_lr: float = Field(3e-5, gt=0, description="learning rate of the encoder when it is trained as well")
    weight_decay: float = Field(0.05, ge=0)
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment by adam and adamw")
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warmup: float = Field(0.15, ge=0, lt=1, description="share of all steps")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    balance: Literal["none", "class", "corpus-class"] = "class"
    crop: float = Field(1.0, gt=0, le=1, description="smallest share of an utterance's frames that a step sees")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm; 0: no limit")
    clip_value: float = Field(0.0, ge=0, description="largest gradient element; 0: no limit")
    patience: int = Field(0, ge=0)
    monitor: Literal["uar", "loss"] = "uar"
    checkpoint_seconds: float = Field(30.0, ge=0, description="least time between two checkpoints")


def balance_weights(targets: Tensor, corpora: list[str], balance: str) -> Tensor:
    """Return what each utterance counts ``(U,)``, with mean one.

    ``class``: every class counts the same. ``corpus-class``: within a class every corpus counts the same as well.
    """
    weights = torch.ones(len(targets))
    cells = list(zip(targets.tolist(), corpora if balance == "corpus-class" else [""] * len(corpora), strict=True))
    if balance != "none":
        counts = {cell: cells.count(cell) for cell in set(cells)}
        inside = {target: sum(cell[0] == target for cell in counts) for target, _ in counts}
        weights = torch.tensor([1 / (counts[cell] * inside[cell[0]]) for cell in cells])
    return weights / weights.mean()


def schedule_factor(options: TrainingOptions, step: int, steps: int) -> float:
    """Return the factor on the learning rate at ``step`` of ``steps``: linear warm-up, then cosine decay or constant.

    ``one-cycle`` warms up along a cosine from 1/25 and ends near zero (Smith 2018, https://arxiv.org/abs/1803.09820).
    """
    warm = options.warmup * steps
    if options.schedule == "one-cycle":
        if step < warm:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * step / warm)) / 2
        return (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm))) / 2
    if step < warm:
        return (step + 1) / warm
    if options.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm))) / 2


Trainable = Ensemble | Model
"""A head, trained from cached features, or an encoder with its head, trained from waveforms."""
Examples = FeatureSet | WaveformSet


def fit(
    head: Trainable,
    train: Examples,
    dev: Examples | None,
    options: TrainingOptions,
    seed: int,
    folder: Path | None = None,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Train ``head`` on ``train``; with a ``dev`` part, keep the weights of its best epoch; return the history.

    A head learns from a ``FeatureSet`` of cached features, a :class:`Model` with its encoder from a ``WaveformSet``.

    ``folder`` holds checkpoints: a killed run called again goes on after its last one and gives the same weights as a
    run that was never interrupted, because every epoch draws its randomness from ``seed`` and its own number.
    """
    if options.optimizer == "lbfgs":
        if not (isinstance(head, Ensemble) and isinstance(train, FeatureSet)):
            raise InputError("training.optimizer: lbfgs fits heads on cached features, not encoders")
        return _fit_convex(head, train, dev, options)
    accelerator = Accelerator()
    optimizer = _create_optimizer(head, options)
    model, optimizer = accelerator.prepare(head, optimizer)
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    state = _Progress(folder)
    state.resume(head, optimizer)
    while state.epoch < options.epochs and not (0 < options.patience <= state.stale):
        began, epoch = time.monotonic(), state.epoch
        rng = np.random.default_rng([seed, epoch])
        torch.manual_seed(seed * 100_003 + epoch)
        model.train()
        losses = []
        for number, rows in enumerate(np.array_split(rng.permutation(len(train)), steps_per_epoch)):
            factor = schedule_factor(options, epoch * steps_per_epoch + number, options.epochs * steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            batch: Any = train.augmented_batch(rows.tolist(), rng, options.crop)
            index = torch.from_numpy(rows)
            scores = accelerator.unwrap_model(model).each(batch)
            loss = _loss(scores, train.targets[index], train.weights[index], options.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            if options.clip_norm:
                accelerator.clip_grad_norm_(model.parameters(), options.clip_norm)
            if options.clip_value:
                accelerator.clip_grad_value_(model.parameters(), options.clip_value)
            optimizer.step()
            losses.append(float(loss.detach()) / len(head.heads))
        line: dict[str, Any] = {"epoch": epoch + 1, "loss": float(np.mean(losses))}
        if dev is not None and len(dev):
            line |= evaluate_dev(head, dev)
            state.keep_best(head, line["dev_uar"] if options.monitor == "uar" else -line["dev_loss"])
        report(line)
        state.finish_epoch(line, head, optimizer, time.monotonic() - began, options)
    state.restore_best(head)
    return state.history


def _fit_convex(
    head: Ensemble, train: FeatureSet, dev: Examples | None, options: TrainingOptions
) -> list[dict[str, Any]]:
    """Fit on all copies with L-BFGS; starts from zero, so the result depends on the data alone."""
    head.eval()  # no dropout: the objective must not change between evaluations
    matrices = [weight for weight in head.parameters() if weight.ndim > 1]
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if head.needs_frames or len(linear) > len(head.heads):
        raise InputError("training.optimizer: lbfgs fits linear heads only: set head.kind=pooled and head.hidden=[]")
    for module in linear:
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    batch = train.all_copies()
    copies = train.copies
    targets, weights = train.targets.repeat(copies), train.weights.repeat(copies)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=options.epochs, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = sum(weight.square().sum() for weight in matrices)
        loss = _loss(head.each(batch), targets, weights, options.label_smoothing) + options.weight_decay / 2 * penalty
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    line = {"epoch": 1, "first_loss": float(loss.detach()), "loss": float(closure().detach())}
    return [line | (evaluate_dev(head, dev) if dev is not None and len(dev) else {})]


@torch.no_grad()
def predict(head: Trainable, examples: Examples, batch_size: int = 64) -> Tensor:
    """Return log-probabilities ``(U, C)`` of the recordings themselves."""
    head.eval()
    rows = range(len(examples))
    parts = [head(examples.batch(rows[i : i + batch_size])) for i in range(0, len(examples), batch_size)]
    return torch.cat(parts).log_softmax(-1)


def evaluate_dev(head: Trainable, dev: Examples) -> dict[str, float]:
    """Return loss and mean recall over the classes that the dev part has."""
    scores = predict(head, dev)
    hits = scores.argmax(1) == dev.targets
    recalls = [hits[dev.targets == target].float().mean() for target in dev.targets.unique()]
    loss = nn.functional.cross_entropy(scores, dev.targets)
    return {"dev_loss": float(loss), "dev_uar": float(torch.stack(recalls).mean())}


def _loss(scores: Tensor, targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Sum over members of the weighted mean cross-entropy; ``scores (members, B, C)``."""
    flat = nn.functional.cross_entropy(
        scores.flatten(0, 1), targets.repeat(len(scores)), reduction="none", label_smoothing=smoothing
    )
    return (flat.view(len(scores), -1) * weights).mean(1).sum()


def _create_optimizer(head: Trainable, options: TrainingOptions) -> torch.optim.Optimizer:
    """Group parameters by learning rate and decay: vectors do not decay, and the schedule scales ``peak``."""
    encoder = {id(weight) for weight in head.encoder.parameters()} if isinstance(head, Model) else set()
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for weight in head.parameters():
        if weight.requires_grad:
            peak = options.encoder_lr if id(weight) in encoder else options.lr
            groups.setdefault((peak, options.weight_decay if weight.ndim > 1 else 0.0), []).append(weight)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(
        [{"params": part, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), part in groups.items()],
        eps=options.epsilon,
    )


class _Progress:
    """Where a training is: epoch, history, best weights; saved as safetensors and JSON."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.epoch, self.stale, self.best_score = 0, 0, -math.inf
        self.best: dict[str, Tensor] | None = None
        self.history: list[dict[str, Any]] = []
        self.saved_at = time.monotonic()

    def keep_best(self, head: nn.Module, score: float) -> None:
        if score > self.best_score:
            self.best_score, self.stale = score, 0
            self.best = copy.deepcopy(head.state_dict())
        else:
            self.stale += 1

    def restore_best(self, head: nn.Module) -> None:
        if self.best is not None:
            head.load_state_dict(self.best)

    def finish_epoch(
        self, line: dict[str, Any], head: nn.Module, optimizer: Any, seconds: float, options: TrainingOptions
    ) -> None:
        self.history.append({**line, "seconds": round(seconds, 3)})
        self.epoch += 1
        due = time.monotonic() - self.saved_at >= options.checkpoint_seconds
        if self.folder is not None and due and self.epoch < options.epochs:
            self.save(self.folder, head, optimizer)
            self.saved_at = time.monotonic()

    def save(self, folder: Path, head: nn.Module, optimizer: Any) -> None:
        tensors = {f"head.{key}": value for key, value in head.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in (self.best or {}).items()}
        for number, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        facts = {"epoch": self.epoch, "stale": self.stale, "history": self.history}
        facts["best_score"] = None if self.best is None else self.best_score
        # One file holds it all: the JSON rides in the metadata, so tensors and facts cannot disagree after a kill.
        folder.mkdir(parents=True, exist_ok=True)
        with replace_atomically(folder / "checkpoint.safetensors") as part:
            save_file({key: value.contiguous() for key, value in tensors.items()}, part, {"facts": json.dumps(facts)})

    def resume(self, head: nn.Module, optimizer: Any) -> None:
        path = self.folder / "checkpoint.safetensors" if self.folder else None
        if path is None or not path.exists():
            return
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        tensors = load_file(path)
        self.epoch, self.stale, self.history = facts["epoch"], facts["stale"], facts["history"]
        head.load_state_dict(_strip(tensors, "head."))
        best = _strip(tensors, "best.")
        if best:
            self.best, self.best_score = best, facts["best_score"]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _strip(tensors, "optimizer.").items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
