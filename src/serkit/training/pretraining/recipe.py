"""Recipes of pretraining: TOML in, a validated and frozen object out, as those of ``serkit train``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from serkit.errors import InputError
from serkit.training.pretraining.options import PretrainRecipe
from serkit.training.trees import explain, load_tree, override_key


def load_pretraining(name: str | Path, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Load a recipe by shipped name or by path, apply ``overrides`` (``section.key=value``) and validate it.

    ``training.max_updates`` and ``training.epochs`` exclude each other: to override one drops the other. Raises
    ``InputError`` naming the key and the nearest known one.
    """
    tree = load_tree(str(name), "pretrain")
    ends = {"training.max_updates": "epochs", "training.epochs": "max_updates"}
    for override in overrides:
        if override.partition("=")[0] in ends and isinstance(tree.get("training"), dict):
            tree["training"].pop(ends[override.partition("=")[0]], None)
        override_key(tree, override)
    try:
        return PretrainRecipe.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {explain(error, PretrainRecipe)}") from error


def read_summary(name: str) -> str:
    """Return what a recipe says of itself."""
    return load_pretraining(name).summary
