"""Recipes: an experiment as data. TOML in, a validated and frozen object out; an unknown key is an error.

A recipe may ``extends`` others by name or path, the later ones winning, and the command line overrides single keys as
``section.key=value``; ``encoder=NAME`` puts another encoder in place, without the options of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError, model_validator

from serkit.data.labels import LabelScheme
from serkit.errors import InputError
from serkit.models.fusion import FusionConfig
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
    TextSection,
)
from serkit.training.trees import (
    dump_recipe,
    explain,
    list_recipes,
    load_tree,
    merge,
    model_at,
    override_key,
    parse_options,
    parse_override,
    set_key,
    tree_of,
)
from serkit.training.tuning import FinetuneOptions

__all__ = [
    "Recipe",
    "Variant",
    "change_recipe",
    "dump_recipe",
    "list_recipes",
    "load_recipe",
    "load_variants",
    "parse_options",
    "read_summary",
    "takes_fractions",
    "value_of",
]


SEVERAL = {"balance": "none", "label_smoothing": 0.0, "monitor": "loss"}
"""Defaults of ``training`` with ``labels.multi``."""


class Recipe(Section):
    """One experiment: data, labels, folds, encoder, head, training, and the seeds it is repeated with.

    ``streams`` are further encoders whose frames the head joins to those of ``encoder``. A ``fusion`` head is in place
    of ``head`` and reads ``text`` as well, or text alone. With ``finetune`` the encoder
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
    fusion: FusionConfig | None = None
    text: TextSection = TextSection()
    tasks: TasksConfig = TasksConfig()
    training: TrainingOptions = TrainingOptions()
    finetune: FinetuneOptions | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    tests: dict[str, CorpusTest] | None = None
    search: SearchSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _suit_several(cls, tree: Any) -> Any:
        """Put the defaults of several labels at once in place of those that are for one."""
        labels = tree.get("labels") if isinstance(tree, dict) else None
        if not isinstance(labels, dict) or labels.get("multi") is not True:
            return tree
        training = tree.get("training", {})
        return {**tree, "training": {**SEVERAL, **training} if isinstance(training, dict) else training}

    @model_validator(mode="after")
    def _check_parts(self) -> Recipe:
        others = self.tasks.beside_emotion()
        if self.labels is None:
            self._check_ratings()
        if self.by_fold and self.protocol.seed == "run":
            raise ValueError(
                "encoder.options: {fold} needs the same folds for every seed: set protocol.seed to a number"
            )
        self._check_fusion()
        self._check_several()
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
        if self.training.schedule == "reload":
            raise ValueError('training.schedule: "reload" is for heads on cached features: set another')
        if self.training.optimizer in ("lbfgs", "rmsprop"):
            fitted = f"{self.training.optimizer} fits heads on cached features"
            raise ValueError(f"training.optimizer: {fitted}, not encoders: use adamw")
        return self

    def _check_fusion(self) -> None:
        if self.fusion is None:
            if self.text != TextSection():
                raise ValueError("text is read by fusion heads alone: set fusion.kind")
            return
        if self.head != HeadConfig():
            raise ValueError("fusion is in place of head: leave out one")
        if self.finetune is not None:
            raise ValueError("fusion is learned on cached features: leave out finetune")
        if not self.fusion.hears and (self.streams or self.augment != AugmentSection()):
            raise ValueError('no audio is read: add "audio" to fusion.modalities, or leave out streams and augment')
        if self.fusion.reference and self.fusion.hears and self.features.max_frames is None:
            raise ValueError("fusion.reference pads to features.max_frames: set it")
        if self.training.optimizer == "lbfgs" or self.training.head_l2:
            raise ValueError("a fusion head takes neither training.optimizer=lbfgs nor head_l2")

    def _check_several(self) -> None:
        if not self.multi:
            return
        if self.finetune is not None:
            raise ValueError("labels.multi: several labels at once are learned on cached features: leave out finetune")
        if self.training.balance not in ("none", "class"):
            raise ValueError(
                f'training.balance: with labels.multi it is "none" or "class", not {self.training.balance}'
            )
        if self.training.label_smoothing:
            raise ValueError("training.label_smoothing is for one label an utterance: set it to 0 with labels.multi")

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
    def multi(self) -> bool:
        """Whether several labels are learned at once."""
        return self.labels is not None and self.labels.multi

    @property
    def encoders(self) -> tuple[EncoderSection, ...]:
        """The encoders whose frames are used: none where text alone is read."""
        return () if self.fusion is not None and not self.fusion.hears else (self.encoder, *self.streams)

    @property
    def keeps_frames(self) -> bool:
        """Whether the head needs frames, and not only statistics over time."""
        return self.fusion is not None or self.head.kind == "frames"

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
        tree, models = read_trees(name, dict(parse_override(each) for each in overrides))
        factors: dict[str, Any] = {"model": models}
    else:
        tree = load_tree(str(name))
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
        made = merge(made, factors[factor][level])
    for override in overrides:
        override_key(made, override)
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
    tree = tree_of(recipe)
    for key, value in values.items():
        set_key(tree, key, value, f"{key}={value}")
    return _validate(tree, recipe.name)


def value_of(recipe: Recipe, key: str) -> Any:
    """Return the value of a key such as ``training.lr``, as TOML has it; None where there is none."""
    found: Any = tree_of(recipe)
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def takes_fractions(key: str) -> bool | None:
    """Tell whether ``key`` of a recipe takes fractions; None where anything goes, as for an encoder's options."""
    *sections, last = key.split(".")
    model = model_at(Recipe, sections)
    if model is None or last not in model.model_fields:
        return None
    kind = model.model_fields[last].annotation
    return float in (kind, *get_args(kind))


def _validate(tree: dict[str, Any], name: str | Path) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {explain(error, Recipe)}") from error
