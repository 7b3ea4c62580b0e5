"""Recipes: an experiment as data. TOML in, a validated and frozen object out; an unknown key is an error.

A recipe may ``extends`` others by name or path, the later ones winning, and the command line overrides single keys as
``section.key=value``; ``encoder=NAME`` puts another encoder in place, without the options of the first.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serkit.data.labels import LabelScheme
from serkit.errors import InputError, nearest
from serkit.models.heads import HeadConfig
from serkit.models.tasks import EmotionConfig, TasksConfig
from serkit.training.fit import TrainingOptions
from serkit.training.tuning import FinetuneOptions

SHIPPED = Path(str(resources.files("serkit") / "recipes"))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """Where utterances come from: corpora below ``root`` (name to sub-folder), or a ``manifest`` file.

    ``parts`` names several manifests, each the train, dev or test part of protocol "part". With manifests, ``root`` is
    the folder that their recordings are in, where that is not what they say themselves.
    ``where`` keeps the rows whose columns have these values, such as ``{channel = "speech"}``; ``exclude`` lists ids
    of utterances that are left out.
    """

    root: str = ""
    corpora: dict[str, str] = {}
    manifest: str = ""
    parts: dict[Literal["train", "dev", "test"], str] = {}
    where: dict[str, str] = {}
    exclude: tuple[str, ...] = ()


class TestSection(DataSection):
    """A corpus that the run's models are tested on after training: where its utterances are, and its labels.

    ``root`` is that of the training data where it is left out. ``merge`` renames the corpus's labels beyond what the
    recipe's own ``labels.merge`` does; classes that the run or the corpus lacks are left out of the test.
    """

    merge: dict[str, str] = {}


class LabelsSection(_Section):
    """The classes in order, labels merged into them, labels left out."""

    classes: tuple[str, ...]
    merge: dict[str, str] = {}
    drop: tuple[str, ...] = ()


class ProtocolSection(BaseModel):
    """A protocol by name with its options; ``dev`` 0 trains on all training speakers, without early stopping.

    ``seed`` "run" draws the folds anew for every seed of the recipe.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    dev: float = 0.2
    seed: int | Literal["run"] = 0

    @model_validator(mode="after")
    def _check_repeats(self) -> ProtocolSection:
        if (self.model_extra or {}).get("repeats", 1) != 1:  # a seed's predictions hold an utterance once
            raise ValueError('protocol.repeats is for serkit split: set protocol.seed = "run" and list the seeds')
        return self

    def options(self, seed: int) -> dict[str, Any]:
        """Return everything but the name, for the run's ``seed``."""
        options = {key: value for key, value in self.model_dump().items() if key != "name"}
        return {**options, "seed": seed if self.seed == "run" else self.seed}


class EncoderSection(_Section):
    """An encoder by name, the ``layers`` the head sees, what is done to waveforms first (see ``create_encoder``).

    ``layers`` are numbers, negative ones counted from the last, or "all". ``stride`` frames are averaged
    (``zero_tail``: see :func:`~serkit.models.layers.stride_mean`). ``scalar`` standardises a layer's dimensions alike.
    """

    name: str = "whisper"
    layers: tuple[int, ...] | Literal["all"] = "all"
    trim: float | None = None
    level: float | None = None
    limit: float | None = Field(None, gt=0)
    options: dict[str, Any] = {}
    stride: int = Field(1, ge=1)
    zero_tail: bool = False
    scalar: bool = False

    def chosen(self, num_layers: int) -> tuple[int, ...]:
        """Return the numbers of the layers, of ``num_layers``; raises ``InputError`` for those that do not exist."""
        if self.layers == "all":
            return tuple(range(num_layers))
        if not self.layers or not all(-num_layers <= layer < num_layers for layer in self.layers):
            there = f"there are 0 to {num_layers - 1}, or -1 for the last"
            raise InputError(f"encoder {self.name}: layers is {list(self.layers)}, {there}")
        return tuple(layer % num_layers for layer in self.layers)


class FeaturesSection(_Section):
    """How frames reach the head.

    ``normalise`` by training statistics, by speaker (transductive; ``speaker`` is the column that tells them apart) or
    not at all. A head sees the first ``max_frames`` frames, strides counted once.
    """

    normalise: Literal["none", "global", "speaker"] = "global"
    speaker: str = "speaker"
    max_frames: int | None = Field(None, ge=1)


class AugmentSection(_Section):
    """``copies`` augmented copies of every training recording, each through ``chain`` with a seed of its own.

    Fine-tuning takes no copies: a recording goes through ``chain`` anew every time.
    """

    copies: int = Field(0, ge=0)
    chain: tuple[dict[str, Any], ...] = ()


class Recipe(_Section):
    """One experiment: data, labels, folds, encoder, head, training, and the seeds it is repeated with.

    ``streams`` are further encoders whose frames the head joins to those of ``encoder``. With ``finetune`` the encoder
    learns as well, and it may learn other ``tasks`` beside emotion; without, its features are cached. ``tests`` are
    corpora that every trained model is applied to afterwards.
    """

    name: str
    summary: str = ""
    data: DataSection
    labels: LabelsSection
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
    tests: dict[str, TestSection] | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Recipe:
        others = self.tasks.beside_emotion()
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
        if self.training.optimizer == "lbfgs":
            raise ValueError("training.optimizer: lbfgs fits heads on cached features, not encoders: use adamw")
        return self

    def scheme(self) -> LabelScheme:
        """Return the label scheme."""
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
    two factors of two and three levels make six recipes. ``overrides`` win over levels. Raises ``InputError`` as
    :func:`load_recipe` does.
    """
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
    try:
        return Variant(levels, Recipe.model_validate(made))
    except ValidationError as error:
        raise InputError(f"recipe {name}{f' ({variant})' if variant else ''}: {_explain(error)}") from error


def read_summary(name: str | Path) -> str:
    """Return what a recipe or an experiment says of itself, and how many recipes an experiment has."""
    variants = load_variants(name)
    counted = f" ({len(variants)} recipes)" if len(variants) > 1 else ""
    return variants[0].recipe.summary + counted


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(json.loads(recipe.model_dump_json(exclude_none=True)))


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


REPLACED = {"corpora", "parts", "merge", "where", "options"}
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
    key, value = _parse(override, "section.key=value")
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
        model: Any = Recipe
        for part in first["loc"][:-1]:
            if get_origin(model) is dict:
                model = get_args(model)[1]
                continue
            kind = model.model_fields[part].annotation
            model = next((each for each in get_args(kind) if each is not type(None)), kind)
        return f"unknown key {where!r}{nearest(str(first['loc'][-1]), model.model_fields)}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said.lower()}" if where else said
