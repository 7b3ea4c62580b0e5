"""The sections of a recipe that say what is learned from what: data, labels, folds, encoders, features, copies."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serkit.errors import InputError


class Section(BaseModel):
    """A part of a recipe: unknown keys are an error, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
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


class CorpusTest(DataSection):
    """A corpus that the run's models are tested on after training: where its utterances are, and its labels.

    ``root`` is that of the training data where it is left out. ``merge`` renames the corpus's labels beyond what the
    recipe's own ``labels.merge`` does; classes that the run or the corpus lacks are left out of the test.
    """

    merge: dict[str, str] = {}


class LabelsSection(Section):
    """The classes in order, labels merged into them, labels left out; of another ``column`` such as "sentiment".

    With ``multi`` an utterance may have several at once: every class is a column of the manifest, present where that is
    above 0 and not known where it is null; utterances of which nothing is known are left out. What is learned is the
    chance of each class by itself. ``training`` then begins with balance none, label_smoothing 0 and monitor loss.
    """

    classes: tuple[str, ...]
    multi: bool = False
    column: str = "emotion"
    merge: dict[str, str] = {}
    drop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_multi(self) -> LabelsSection:
        if not self.multi:
            return self
        if self.column != "emotion" or self.merge or self.drop:
            raise ValueError("with multi every class is a column of its own: leave out column, merge and drop")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"with multi classes are one or more different columns, got {list(self.classes)}")
        return self


FOLD = "{fold}"
"""In an option of an encoder: the name of the fold that is trained, so that every fold has an encoder of its own."""


class ProtocolSection(BaseModel):
    """A protocol by name with its options; ``dev`` 0 trains on all training speakers, without early stopping.

    ``seed`` "run" draws the folds anew for every seed of the recipe. ``only`` are the folds that are run, all without
    it: a run that is called again with others of them, or with all, keeps what it has trained.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    dev: float = 0.2
    seed: int | Literal["run"] = 0
    only: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_repeats(self) -> ProtocolSection:
        if (self.model_extra or {}).get("repeats", 1) != 1:  # a seed's predictions hold an utterance once
            raise ValueError('protocol.repeats is for serkit split: set protocol.seed = "run" and list the seeds')
        return self

    def options(self, seed: int) -> dict[str, Any]:
        """Return everything but the name and ``only``, for the run's ``seed``."""
        options = {key: value for key, value in self.model_dump().items() if key not in ("name", "only")}
        return {**options, "seed": seed if self.seed == "run" else self.seed}


class EncoderSection(Section):
    """An encoder by name, the ``layers`` the head sees, what is done to waveforms first (see ``create_encoder``).

    ``layers`` are numbers, negative ones counted from the last, or "all". ``stride`` frames are averaged
    (``zero_tail``: see :func:`~serkit.models.layers.stride_mean`). ``scalar`` standardises a layer's dimensions alike.

    Where an option says ``{fold}``, such as ``weights = "runs/tiny-{fold}/encoder"``, every fold has an encoder of its
    own, one that was itself learned without the fold's test speakers: there the fold's name stands, any ``/`` as ``-``.
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

    @property
    def by_fold(self) -> bool:
        """Whether every fold has an encoder of its own."""
        return any(isinstance(value, str) and FOLD in value for value in self.options.values())

    def of_fold(self, name: str) -> EncoderSection:
        """Return the encoder of the fold called ``name``."""
        written = name.replace("/", "-")
        options = {
            key: value.replace(FOLD, written) if isinstance(value, str) else value
            for key, value in self.options.items()
        }
        return self.model_copy(update={"options": options})

    def chosen(self, num_layers: int) -> tuple[int, ...]:
        """Return the numbers of the layers, of ``num_layers``; raises ``InputError`` for those that do not exist."""
        if self.layers == "all":
            return tuple(range(num_layers))
        if not self.layers or not all(-num_layers <= layer < num_layers for layer in self.layers):
            there = f"there are 0 to {num_layers - 1}, or -1 for the last"
            raise InputError(f"encoder {self.name}: layers is {list(self.layers)}, {there}")
        return tuple(layer % num_layers for layer in self.layers)


class TextSection(Section):
    """The words that a fusion head reads: the first ``max_words`` of an utterance, cleaned.

    The embedding begins with ``vectors`` (what :func:`~serkit.data.vectors.load_vectors` takes), zeros for words that
    they lack; without, vectors of width ``dim`` are drawn. ``numbering`` "legacy" cleans and numbers as the published
    code did (:class:`~serkit.data.words.Vocabulary`).
    """

    vectors: str = ""
    dim: int = Field(300, ge=1)
    max_words: int = Field(30, ge=1)
    numbering: Literal["plain", "legacy"] = "plain"

    @property
    def legacy(self) -> bool:
        """Whether words are treated as by the published code."""
        return self.numbering == "legacy"


class FeaturesSection(Section):
    """How frames reach the head.

    ``normalise`` by training statistics, by speaker (transductive; ``speaker`` is the column that tells them apart) or
    not at all. A head sees the first ``max_frames`` frames, strides counted once.
    """

    normalise: Literal["none", "global", "speaker"] = "global"
    speaker: str = "speaker"
    max_frames: int | None = Field(None, ge=1)


class AugmentSection(Section):
    """``copies`` augmented copies of every training recording, each through ``chain`` with a seed of its own.

    An epoch sees one of them, or the recording itself. Fine-tuning takes no copies: a recording goes through ``chain``
    anew every time. In their place, ``union`` is a list of chains, each of which makes one copy that stays: an epoch
    sees every recording and every copy. Dev and test parts are never changed.
    """

    copies: int = Field(0, ge=0)
    chain: tuple[dict[str, Any], ...] = ()
    union: tuple[tuple[dict[str, Any], ...], ...] | None = None

    @model_validator(mode="after")
    def _check_union(self) -> AugmentSection:
        if self.union and (self.copies or self.chain):
            raise ValueError("union is a training part of its own: leave out copies and chain")
        if self.union and not all(self.union):
            raise ValueError("a chain of union is empty: the recordings themselves are in it without")
        return self
