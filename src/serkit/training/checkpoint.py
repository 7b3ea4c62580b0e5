"""Where a training is, on disk: one safetensors file, replaced atomically, from which a killed run goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkit.data.files import replace_atomically

SHARE = 20
"""A checkpoint is at least this many times its own writing time after the last one: at most 5 % of the time."""


Moments = dict[int, dict[str, Any]]
"""What an optimiser has gathered for each parameter, by its number."""


class Progress:
    """Epoch and step, history, and the weights of the best epoch; ``read`` and ``write`` are the trained weights.

    ``folder`` None keeps it in memory only. ``seconds`` is the least time between two checkpoints. With
    ``reloadable`` the optimiser's state of the best epoch is kept as well, for :meth:`reload_best`.
    """

    def __init__(
        self,
        folder: Path | None,
        read: Callable[[], dict[str, Tensor]],
        write: Callable[[dict[str, Tensor]], Any],
        optimizer: torch.optim.Optimizer,
        seconds: float,
        reloadable: bool = False,
    ) -> None:
        self.path = None if folder is None else folder / "checkpoint.safetensors"
        self.read, self.write, self.optimizer, self.seconds = read, write, optimizer, seconds
        self.epoch, self.step, self.stale, self.best_score = 0, 0, 0, -math.inf
        self.sums: dict[str, float] = {}
        self.best: dict[str, Tensor] | None = None
        self.history: list[dict[str, Any]] = []
        self.reloadable, self.reloads = reloadable, 0
        self.best_moments: Moments | None = None
        self.saved_at, self.cost = time.monotonic(), 0.0

    def keep_best(self, score: float) -> bool:
        """Keep the weights when ``score`` is the highest so far, and tell whether it is."""
        if score <= self.best_score:
            self.stale += 1
            return False
        self.best_score, self.stale = score, 0
        self.best = {key: value.detach().clone() for key, value in self.read().items()}
        if self.reloadable:
            self.best_moments = {number: _copied(entry) for number, entry in self._moments().items()}
        return True

    def reload_best(self) -> None:
        """Go back to weights and optimiser of the best epoch; what came after it is not counted as stale."""
        assert self.best is not None and self.best_moments is not None
        self.write(self.best)
        self._load_moments({number: _copied(entry) for number, entry in self.best_moments.items()})
        self.reloads, self.stale = self.reloads + 1, 0

    def _moments(self) -> Moments:
        return self.optimizer.state_dict()["state"]

    def _load_moments(self, moments: Moments) -> None:
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def restore_best(self) -> None:
        """Put the best weights back, when some were kept."""
        if self.best is not None:
            self.write(self.best)

    def finish_epoch(self, line: dict[str, Any]) -> None:
        """Note ``line`` in the history; the next epoch begins."""
        self.history.append(line)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}

    def due(self) -> bool:
        """Tell whether it is time for a checkpoint."""
        return self.path is not None and time.monotonic() - self.saved_at >= max(self.seconds, SHARE * self.cost)

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.path is not None
        began = time.monotonic()
        tensors = {f"head.{key}": value for key, value in self.read().items()}
        tensors |= {f"best.{key}": value for key, value in (self.best or {}).items()}
        for prefix, moments in (("optimizer", self._moments()), ("moments", self.best_moments or {})):
            for number, entry in moments.items():
                tensors |= {f"{prefix}.{number}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        facts: dict[str, Any] = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "stale": self.stale}
        facts |= {"reloads": self.reloads}
        facts |= {"history": self.history, "best_score": None if self.best is None else self.best_score}
        # One file holds it all: the JSON rides in the metadata, so tensors and facts cannot disagree after a kill.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(self.path) as part:
            save_file({key: value.contiguous() for key, value in tensors.items()}, part, {"facts": json.dumps(facts)})
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - began

    def resume(self) -> None:
        """Go on from the checkpoint, when there is one; what a kill left of another is removed."""
        if self.path is None:
            return
        for part in self.path.parent.glob(".checkpoint.*.part.safetensors"):
            part.unlink(missing_ok=True)
        if not self.path.exists():
            return
        with safe_open(self.path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        tensors = load_file(self.path)
        self.epoch, self.step, self.sums = facts["epoch"], facts["step"], facts["sums"]
        self.stale, self.history = facts["stale"], facts["history"]
        self.reloads = facts.get("reloads", 0)
        self.write(_strip(tensors, "head."))
        best = _strip(tensors, "best.")
        if best:
            self.best, self.best_score = best, facts["best_score"]
        self._load_moments(_by_number(_strip(tensors, "optimizer.")))
        if self.reloadable and best:
            self.best_moments = _by_number(_strip(tensors, "moments."))


def _by_number(tensors: dict[str, Tensor]) -> Moments:
    moments: Moments = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value
    return moments


def _copied(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: torch.as_tensor(value).detach().clone() for key, value in entry.items()}


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
