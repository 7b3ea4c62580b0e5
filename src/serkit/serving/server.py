"""What the routes of one server process share: its models, its engine, its doors."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from serkit.cores import count_cores
from serkit.errors import nearest
from serkit.inference.predictor import Predictor
from serkit.serving.engine import Engine
from serkit.serving.problems import Problem
from serkit.serving.settings import Settings


class Server:
    """The state of one process, ``app.state.server``: ``settings``, ``models`` by name, ``engine``, ``closing``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = {name: Predictor(folder) for name, folder in settings.models}
        self.engine = Engine(settings.concurrency or count_cores())
        self.closing = False

    def choose(self, name: str | None) -> Predictor:
        """Return the model ``name``, the first without; raises ``Problem`` for an unknown one."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Problem("bad_option", f"model: there is no {name!r}{nearest(name, self.models)}")
        return self.models[name]

    def admit(self, headers: Mapping[str, str]) -> None:
        """Raise ``Problem`` unless the ``headers`` hold an API key, or none is needed."""
        keys = self.settings.api_keys
        if not keys:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not any(hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys):
            raise Problem("unauthorized", "give an API key: Authorization: Bearer KEY, or X-API-Key: KEY")


def describe(name: str, predictor: Predictor) -> dict[str, Any]:
    """Return what ``/v1/models`` tells of a model."""
    card = predictor.card
    return {
        "name": name,
        "classes": list(card.classes),
        "sampling_rate": card.sampling_rate,
        "window_seconds": card.window_seconds,
        "min_seconds": card.min_seconds,
        "training_data": card.training_data,
        "licence": card.licence,
        "intended_use": card.intended_use,
        "thresholds": thresholds(predictor),
    }


def thresholds(predictor: Predictor) -> dict[str, float]:
    """Return the probability from which each class counts as present; empty where unknown."""
    return dict(getattr(predictor.card, "named_thresholds", {}))
