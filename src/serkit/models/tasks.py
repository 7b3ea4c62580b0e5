"""What a fine-tuned encoder learns beside emotion: transcription, speaker, gender, affect; and emotion itself.

Every task is a head with a loss per utterance, so that a batch may be cut into pieces of any size without changing what
is learned. CTC and emotion together are those of Cai et al. 2021 (https://doi.org/10.21437/Interspeech.2021-1852).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from serkit.data.labels import LabelScheme
from serkit.data.manifest import Manifest
from serkit.data.text import WAV2VEC2, CharTokenizer, build_tokenizer
from serkit.errors import InputError
from serkit.models.affect import AffectConfig, create_affect
from serkit.models.base import Task, TaskConfig, View
from serkit.models.heads import Ensemble, begin
from serkit.models.losses import reverse_gradient


class EmotionConfig(TaskConfig):
    """``soft`` learns the share of annotators' votes for each class instead of the majority label."""

    soft: bool = False


class CtcConfig(TaskConfig):
    """Transcription by connectionist temporal classification (Graves et al. 2006).

    ``text`` is how transcripts are normalised. ``vocabulary`` is that of wav2vec 2.0 (32 symbols, English), or the
    characters of the training part. An utterance's loss is that of its whole transcript ("sum") or per character
    ("mean"). ``scale`` multiplies it: where the loss is added up over a batch on each device, as ``transformers`` does,
    it is that batch's size. ``zero_infinity`` ignores utterances with more characters than frames.
    """

    weight: float = Field(0.1, ge=0)
    text: Literal["clean", "legacy"] = "clean"
    vocabulary: Literal["wav2vec2", "train"] = "train"
    reduction: Literal["sum", "mean"] = "sum"
    scale: float = Field(1.0, gt=0)
    zero_infinity: bool = True


class ClassConfig(TaskConfig):
    """Recognising who speaks or another ``column``; ``adversarial`` makes the encoder forget it instead.

    The adversarial gradient is reversed between head and encoder (Ganin et al. 2016, https://arxiv.org/abs/1505.07818).
    """

    weight: float = Field(0.1, ge=0)
    column: str = "speaker"
    adversarial: bool = False


class GenderConfig(ClassConfig):
    """The same for gender."""

    column: str = "gender"


class TasksConfig(BaseModel):
    """The tasks of a recipe; what is not named is not learned, but for emotion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    emotion: EmotionConfig = EmotionConfig()
    ctc: CtcConfig | None = None
    speaker: ClassConfig | None = None
    gender: GenderConfig | None = None
    affect: AffectConfig | None = None

    def beside_emotion(self) -> list[str]:
        """Return the names of the other tasks that are learned."""
        return [name for name in ("ctc", "speaker", "gender", "affect") if (it := getattr(self, name)) and it.weight]


class EmotionTask(Task):
    """Emotion by any head of :mod:`serkit.models.heads`; targets are distributions over the classes ``(C,)``."""

    name = "emotion"

    def __init__(self, config: EmotionConfig, head: Ensemble, scheme: LabelScheme, smoothing: float = 0.0) -> None:
        super().__init__()
        self.weight, self.soft, self.smoothing = config.weight, config.soft, smoothing
        self.head, self.scheme, self.classes = head, scheme, scheme.classes

    def targets(self, manifest: Manifest) -> list[Tensor]:
        rows = manifest.table.select("emotion", "votes").iter_rows()
        return [self._distribution(emotion, (votes or ()) if self.soft else ()) for emotion, votes in rows]

    def _distribution(self, emotion: str, votes: Sequence[str]) -> Tensor:
        counts = torch.zeros(len(self.classes))
        for vote in votes:
            if (name := self.scheme.merge.get(vote, vote)) in self.classes:
                counts[self.classes.index(name)] += 1
        if not counts.any():
            counts[self.classes.index(emotion)] = 1
        return counts / counts.sum()

    def forward(self, view: View) -> Tensor:
        """Return the scores of every member ``(members, B, C)``."""
        return self.head.each(view.batch)

    def losses(self, output: Tensor, view: View | None, targets: Sequence[Tensor]) -> Tensor:
        wanted = torch.stack(list(targets)).to(output.device)
        each = [
            F.cross_entropy(scores.float(), wanted, reduction="none", label_smoothing=self.smoothing)
            for scores in output
        ]
        return torch.stack(each).mean(0)

    def columns(self, output: Tensor, view: View, targets: Sequence[Tensor]) -> dict[str, list[Any]]:
        return prediction_columns(output.float().log_softmax(-1).mean(0), self.classes)


def prediction_columns(scores: Tensor, classes: Sequence[str]) -> dict[str, list[Any]]:
    """Return the best class and the probability of each class from ``scores (U, C)``."""
    probabilities = scores.double().softmax(1)
    best = probabilities.argmax(1).tolist() if len(scores) else []
    shares = probabilities.T.tolist()
    columns: dict[str, list[Any]] = {"prediction": [classes[index] for index in best]}
    return columns | {f"p_{name}": shares[index] for index, name in enumerate(classes)}


class CtcTask(Task):
    """Characters per frame; targets are symbol numbers ``(L,)``, None for an utterance without a transcript."""

    name = "ctc"

    def __init__(self, config: CtcConfig, dim: int, tokenizer: CharTokenizer) -> None:
        super().__init__()
        self.config, self.weight, self.tokenizer = config, config.weight, tokenizer
        self.linear = nn.Linear(dim, len(tokenizer))

    def targets(self, manifest: Manifest) -> list[Tensor | None]:
        mode, texts = self.config.text, manifest.table["text"]
        known = [text is not None or mode == "legacy" for text in texts]  # the original learns to spell NULL
        ids = [self.tokenizer.targets(text, mode) if there else None for text, there in zip(texts, known, strict=True)]
        return [None if row is None else torch.tensor(row, dtype=torch.long) for row in ids]

    def forward(self, view: View) -> Tensor:
        """Return the scores of the symbols ``(B, T, V)``."""
        return self.linear(view.frames)

    def losses(self, output: Tensor, view: View | None, targets: Sequence[Tensor | None]) -> Tensor:
        assert view is not None
        known = torch.tensor([target is not None for target in targets], device=output.device)
        rows = [torch.zeros(0, dtype=torch.long) if target is None else target.long() for target in targets]
        counts = torch.tensor([len(row) for row in rows])
        log_probabilities = output.float().log_softmax(-1).transpose(0, 1)
        wanted = torch.cat(rows).to(output.device)
        losses = F.ctc_loss(
            log_probabilities, wanted, view.lengths.cpu(), counts,
            blank=self.tokenizer.blank, reduction="none", zero_infinity=self.config.zero_infinity,
        )  # fmt: skip
        if self.config.reduction == "mean":
            losses = losses / counts.clamp(min=1).to(losses.device)
        return torch.where(known, losses, 0.0) * self.config.scale

    def columns(self, output: Tensor, view: View, targets: Sequence[Tensor | None]) -> dict[str, list[Any]]:
        best = output.argmax(-1).tolist()
        spoken = [
            self.tokenizer.decode(row[:length], merge=True)
            for row, length in zip(best, view.lengths.tolist(), strict=True)
        ]
        truths = [None if row is None else self.tokenizer.decode(row.tolist(), merge=False) for row in targets]
        return {"text_truth": truths, "text_prediction": spoken}


class ClassTask(Task):
    """Classes of a manifest's column from the mean over time; targets are numbers, -1 where the class is unknown.

    ``by_corpus``: classes are named after their corpus too.
    """

    def __init__(
        self, name: str, config: ClassConfig, dim: int, classes: Sequence[str], by_corpus: bool = False
    ) -> None:
        super().__init__()
        self.name, self.config, self.weight, self.classes = name, config, config.weight, tuple(classes)
        self.by_corpus = by_corpus
        self.linear = nn.Linear(dim, len(classes))

    def targets(self, manifest: Manifest) -> list[int]:
        values = _values(manifest, self.config.column, self.by_corpus)
        return [self.classes.index(value) if value in self.classes else -1 for value in values]

    def forward(self, view: View) -> Tensor:
        """Return the scores ``(B, K)``."""
        return self.linear(reverse_gradient(view.mean) if self.config.adversarial else view.mean)

    def losses(self, output: Tensor, view: View | None, targets: Sequence[int]) -> Tensor:
        wanted = torch.tensor(targets, device=output.device)
        return F.cross_entropy(output.float(), wanted, reduction="none", ignore_index=-1)

    def columns(self, output: Tensor, view: View, targets: Sequence[int]) -> dict[str, list[Any]]:
        probabilities = output.double().softmax(-1)
        found = [self.classes[best] for best in probabilities.argmax(1).tolist()]
        truths = [None if target < 0 else self.classes[target] for target in targets]
        columns: dict[str, list[Any]] = {f"{self.name}_truth": truths, f"{self.name}_prediction": found}
        shares = probabilities.T.tolist()
        return columns | {f"{self.name}_p_{name}": shares[index] for index, name in enumerate(self.classes)}


def create_tasks(
    config: TasksConfig,
    emotion: EmotionTask | None,
    dim: int,
    train: Manifest,
    init: str = "default",
    head: Ensemble | None = None,
) -> list[Task]:
    """Build ``emotion`` and the other tasks that ``config`` turns on, for frames of width ``dim``.

    Vocabulary and classes come from ``train``, the training part. ``init`` is that of ``HeadConfig``. Where there is no
    emotion to learn, ``head`` is that of affect. Raises ``InputError`` when ``train`` lacks what a task learns from.
    """
    tasks: list[Task] = [] if emotion is None else [emotion]
    for name in config.beside_emotion():
        task = _create(name, getattr(config, name), dim, train, head)
        if name != "affect" or head is None:  # a head has begun already
            begin(task, init)
        tasks.append(task)
    return tasks


def _create(name: str, config: Any, dim: int, train: Manifest, head: Ensemble | None) -> Task:
    if name == "ctc":
        texts = [text for text in train.table["text"] if text is not None]
        if not texts:
            raise InputError("tasks.ctc: the training part has no text: leave the task out, or fill the text column")
        return CtcTask(
            config, dim, WAV2VEC2 if config.vocabulary == "wav2vec2" else build_tokenizer(texts, config.text)
        )
    if name == "affect":
        return create_affect(config, dim, train, head)
    by_corpus = config.column == "speaker" and train.table["corpus"].n_unique() > 1
    classes = sorted({value for value in _values(train, config.column, by_corpus) if value is not None})
    if len(classes) < 2:
        raise InputError(f"tasks.{name}: the training part has {len(classes)} values of {config.column}, it takes two")
    return ClassTask(name, config, dim, classes, by_corpus)


def _values(manifest: Manifest, column: str, by_corpus: bool) -> list[str | None]:
    """Return a column's values, with the corpus before them where speakers of several may be named alike."""
    if column not in manifest.table.columns:
        raise InputError(f"tasks: the manifest has no column {column!r}")
    rows = manifest.table.select("corpus", value=column).iter_rows()
    return [f"{corpus}/{value}" if by_corpus and value is not None else value for corpus, value in rows]
