"""Recipes: an experiment as data. TOML in, a validated and frozen object out; an unknown key is an error.

A recipe may ``extends`` others by name or path, the later ones winning, and the command line overrides single keys as
``section.key=value``; ``encoder=NAME`` puts another encoder in place, without the options of the first.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, model_validator

from serkit.data.labels import LabelScheme
from serkit.errors import InputError, nearest
from serkit.models.heads import HeadConfig
from serkit.models.tasks import EmotionConfig, TasksConfig
from serkit.training.fit import TrainingOptions
from serkit.training.i3 import read_trees
from serkit.training.searching.space import SearchSection
from serkit.training.sections import (
    AugmentSection,
    CorpusTest,
    DataSection,
    EncoderSection,
    FeaturesSection,
    LabelsSection,
    ProtocolSection,
    Section,
)
from serkit.training.tuning import FinetuneOptions

SHIPPED = Path(str(resources.files("serkit") / "recipes"))


class Recipe(Section):
    """One experiment: data, labels, folds, encoder, head, training, and the seeds it is repeated with.

    ``streams`` are further encoders whose frames the head joins to those of ``encoder``. With ``finetune`` the encoder
    learns as well, and it may learn other ``tasks`` beside emotion; without, its features are cached. Without
    ``labels`` there is no emotion to learn: ``tasks.affect`` then is learned through ``head``. ``tests`` are corpora
    that every trained model is applied to afterwards, ``search`` says what ``serkit search`` tries; training looks at
    neither.
    """

    name: str
    summary: str = ""
    data: DataSection
    labels: LabelsSection | None = None
    protocol: ProtocolSection
    encoder: EncoderSection = EncoderSection()
    streams: tuple[EncoderSection, ...] = ()
    features: FeaturesSection = FeaturesSection()
    augment: AugmentSection = AugmentSection()
    head: HeadConfig = HeadConfig()
    tasks: TasksConfig = TasksConfig()
    training: TrainingOptions = TrainingOptions()
    finetune: FinetuneOptions | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    tests: dict[str, CorpusTest] | None = None
    search: SearchSection | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Recipe:
        others = self.tasks.beside_emotion()
        if self.labels is None:
            self._check_ratings()
        if self.by_fold and self.protocol.seed == "run":
            raise ValueError(
                "encoder.options: {fold} needs the same folds for every seed: set protocol.seed to a number"
            )
        if self.finetune is None:
            if others or self.tasks.emotion != EmotionConfig():
                named = ", ".join(others) or "emotion"
                raise ValueError(f"tasks ({named}) are learned from waveforms: set finetune.freeze=none or encoder")
            return self
        if self.streams:
            raise ValueError("finetune takes one encoder: leave out streams")
        if self.augment.copies:
            raise ValueError("augment.copies are for cached features: set it to 0, the chain then acts on the fly")
        if self.features.normalise == "speaker" or self.features.max_frames is not None:
            raise ValueError("finetune takes features.normalise none or global, and no features.max_frames")
        if self.training.optimizer in ("lbfgs", "rmsprop"):
            fitted = f"{self.training.optimizer} fits heads on cached features"
            raise ValueError(f"training.optimizer: {fitted}, not encoders: use adamw")
        return self

    def _check_ratings(self) -> None:
        if self.finetune is None or "affect" not in self.tasks.beside_emotion():
            raise ValueError("labels: name the classes, or set tasks.affect and finetune.freeze to learn ratings alone")
        if self.tasks.emotion != EmotionConfig():
            raise ValueError("tasks.emotion: without labels there is no emotion to learn: leave it out")
        if self.training.monitor != "loss":
            raise ValueError(f"training.monitor: without labels there is no {self.training.monitor}: set it to loss")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in order, none where ratings are learned alone."""
        return () if self.labels is None else self.labels.classes

    @property
    def by_fold(self) -> bool:
        """Whether every fold has an encoder of its own: an option of one says ``{fold}``."""
        return any(section.by_fold for section in (self.encoder, *self.streams))

    def of_fold(self, name: str) -> Recipe:
        """Return the recipe of the fold called ``name``, with its encoders in place."""
        streams = tuple(stream.of_fold(name) for stream in self.streams)
        return self.model_copy(update={"encoder": self.encoder.of_fold(name), "streams": streams})

    def scheme(self) -> LabelScheme:
        """Return the label scheme; a recipe of ratings alone has none."""
        assert self.labels is not None
        return LabelScheme(self.name, self.labels.classes, self.labels.merge, self.labels.drop)


def list_recipes() -> dict[str, Path]:
    """Return the shipped recipes: name to file. Files whose names begin with ``_`` are parts that others extend."""
    files = [path for path in sorted(SHIPPED.rglob("*.toml")) if not path.name.startswith("_")]
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in files}


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by shipped name or by path, apply ``overrides`` (``section.key=value``) and validate it.

    Values are TOML (``training.lr=1e-3``, ``seeds=[0,1]``); what is not TOML is a string. Raises ``InputError`` naming
    the key and the nearest known one, and for a file of several recipes (:func:`load_variants`).
    """
    variants = load_variants(name, overrides)
    if len(variants) > 1:
        named = ", ".join("+".join(variant.levels.values()) for variant in variants[:4])
        raise InputError(f"recipe {name}: is an experiment of {len(variants)} recipes ({named}, ...): name one recipe")
    return variants[0].recipe


@dataclass(frozen=True)
class Variant:
    """One recipe of an experiment: the ``levels`` (factor to level) that tell it from the others."""

    levels: dict[str, str]
    recipe: Recipe

    @property
    def name(self) -> str:
        """The levels, joined; empty for a recipe without factors."""
        return "+".join(self.levels.values())


def load_variants(name: str | Path, overrides: Sequence[str] = ()) -> list[Variant]:
    """Load every recipe of a file with ``factors``; a file without them is one recipe.

    ``[factors.FACTOR.LEVEL]`` holds what a level changes in the recipe; levels of different factors are crossed:
    two factors of two and three levels make six recipes. ``overrides`` win over levels. A ``.json`` file is an
    experiment of :mod:`~serkit.training.i3`, its models the levels. Raises ``InputError`` as :func:`load_recipe` does.
    """
    if str(name).endswith(".json"):
        tree, models = read_trees(name, dict(_parse(each, "section.key=value") for each in overrides))
        factors: dict[str, Any] = {"model": models}
    else:
        tree = _load_tree(str(name), ())
        factors = tree.pop("factors", {})
    for factor, levels in factors.items():
        if not isinstance(levels, dict) or not levels or not all(isinstance(level, dict) for level in levels.values()):
            raise InputError(f"recipe {name}: factors.{factor} holds tables, one for each level, of what it changes")
    return [
        _create_variant(str(name), tree, dict(zip(factors, chosen, strict=True)), factors, overrides)
        for chosen in product(*factors.values())
    ]


def _create_variant(
    name: str, tree: dict[str, Any], levels: dict[str, str], factors: dict[str, Any], overrides: Sequence[str]
) -> Variant:
    made = deepcopy(tree)
    for factor, level in levels.items():
        made = _merge(made, factors[factor][level])
    for override in overrides:
        _apply(made, override)
    variant = "+".join(levels.values())
    if variant:
        made["name"] = f"{made.get('name', name)}/{variant}"
    return Variant(levels, _validate(made, f"{name} ({variant})" if variant else name))


def read_summary(name: str | Path) -> str:
    """Return what a recipe or an experiment says of itself, and how many recipes an experiment has."""
    variants = load_variants(name)
    counted = f" ({len(variants)} recipes)" if len(variants) > 1 else ""
    return variants[0].recipe.summary + counted


def change_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return ``recipe`` with other ``values`` of keys such as ``training.lr``; raises as :func:`load_recipe` does."""
    tree = _tree(recipe)
    for key, value in values.items():
        _set(tree, key, value, f"{key}={value}")
    return _validate(tree, recipe.name)


def value_of(recipe: Recipe, key: str) -> Any:
    """Return the value of a key such as ``training.lr``, as TOML has it; None where there is none."""
    found: Any = _tree(recipe)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def takes_fractions(key: str) -> bool | None:
    """Tell whether ``key`` of a recipe takes fractions; None where anything goes, as for an encoder's options."""
    *sections, last = key.split(".")
    model = _model_at(sections)
    if model is None or last not in model.model_fields:
        return None
    kind = model.model_fields[last].annotation
    return float in (kind, *get_args(kind))


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(_tree(recipe))


def _tree(recipe: Recipe) -> dict[str, Any]:
    return json.loads(recipe.model_dump_json(exclude_none=True))


def _validate(tree: dict[str, Any], name: str | Path) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_explain(error)}") from error


def _load_tree(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise InputError(f"recipe {name}: extends itself ({' -> '.join((*seen, name))})")
    shipped, path = list_recipes(), Path(name)
    if name in shipped:
        path = shipped[name]
    elif path.suffix != ".toml":
        raise InputError(f"no recipe named {name!r}{nearest(name, shipped)}")
    elif not path.is_file():
        raise InputError(f"{path}: no such recipe file")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not TOML: {error}") from error
    bases = tree.pop("extends", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        relative = path.parent / str(base)
        merged = _merge(merged, _load_tree(str(relative) if relative.is_file() else str(base), (*seen, name)))
    return _merge(merged, tree)


REPLACED = {"corpora", "parts", "merge", "where", "options", "space"}
"""Tables that an extending recipe replaces as a whole instead of adding to."""


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key not in REPLACED
        merged[key] = _merge(base[key], value) if both else value
    # Another protocol or encoder takes other options: those of the base would only be in its way.
    if "name" in top.get("protocol", {}):
        merged["protocol"] = top["protocol"]
    if "name" in top.get("encoder", {}) and "options" not in top["encoder"]:
        merged["encoder"].pop("options", None)
    return merged


def parse_options(options: list[str]) -> dict[str, Any]:
    """Turn ``key=value`` into a dictionary; values are TOML, and what is not TOML is a string."""
    return dict(_parse(option, "key=value") for option in options)


def _parse(override: str, form: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: write {form}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _apply(tree: dict[str, Any], override: str) -> None:
    _set(tree, *_parse(override, "section.key=value"), override)


def _set(tree: dict[str, Any], key: str, value: Any, override: str) -> None:
    if key == "encoder" and isinstance(value, str):
        kept = {name: old for name, old in tree.get("encoder", {}).items() if name != "options"}
        tree["encoder"] = {**kept, "name": value}
        return
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {override!r}: {section!r} is not a section")
    if last == "options" or not isinstance(tree.get(last), dict) or isinstance(value, dict):
        tree[last] = value
    else:
        raise InputError(f"override {override!r}: {last!r} is a section: name a key in it")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model = _model_at(first["loc"][:-1])
        return f"unknown key {where!r}{nearest(str(first['loc'][-1]), model.model_fields if model else ())}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said.lower()}" if where else said


def _model_at(parts: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the section at ``parts``; None where the recipe is open, as below an encoder's options."""
    model: type[BaseModel] | None = Recipe
    for part in parts:
        if model is not None and part not in model.model_fields:
            continue  # a place in a list, or a key of a table, of sections
        kind = None if model is None else model.model_fields[str(part)].annotation
        inner = [each for outer in (kind, *get_args(kind)) for each in (outer, *get_args(outer))]
        models = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
        model = models[0] if models else None
    return model
