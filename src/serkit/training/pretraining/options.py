"""What a recipe of ``serkit pretrain`` may say; defaults are the published settings of emotion2vec base.

Ma et al. 2024 (https://aclanthology.org/2024.findings-acl.931), and where that is silent data2vec 2.0 (Baevski et al.
2022, https://arxiv.org/abs/2212.07525), which it builds on.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from serkit.encoders.emotion2vec import Emotion2vecConfig
from serkit.encoders.regularise import Regularisation
from serkit.training.sections import DataSection, Section


class TestFold(Section):
    """A ``fold`` of a ``protocol``, whose test speakers are meant: both as ``serkit list protocols`` has them."""

    __test__ = False  # nothing that pytest collects

    protocol: str
    fold: str


class PretrainData(DataSection):
    """Which recordings are learned from; their labels are not looked at.

    ``exclude_speakers`` lists speakers to leave out as "corpus/speaker", ``exclude_tests`` folds of protocols whose
    test speakers are left out with all that they say: what is learned without labels may still know a voice. Clips
    under ``min_seconds`` are left out; of longer ones than ``max_seconds`` every epoch draws a crop. Where all of it
    has at most ``memory_hours``, it is decoded once and stays in memory, 115 MB an hour.
    """

    exclude_speakers: tuple[str, ...] = ()
    exclude_tests: tuple[TestFold, ...] = ()
    min_seconds: float = Field(2.0, gt=0)
    max_seconds: float = Field(20.0, gt=0)
    memory_hours: float = Field(20.0, ge=0)

    @model_validator(mode="after")
    def _check_seconds(self) -> PretrainData:
        if self.min_seconds > self.max_seconds:
            raise ValueError("min_seconds is more than max_seconds: make it smaller")
        return self


class ModelOptions(Section):
    """The sizes of the encoder: width ``dim``, ``heads``, ``prenet`` and then ``blocks`` blocks, utterance ``tokens``.

    ``conv_dim`` is the width of the seven convolutions, which cost most where the rest is small. ``init`` "cold" starts
    from random weights; anything else is an emotion2vec or data2vec 2.0 checkpoint of the same sizes: a folder, a file
    or a Hugging Face id. The published model began with data2vec 2.0's.
    """

    dim: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    ffn: int = Field(3072, ge=1)
    prenet: int = Field(4, ge=0)
    blocks: int = Field(8, ge=1)
    tokens: int = Field(10, ge=0)
    conv_dim: int = Field(512, ge=1)
    position_kernel: int = Field(19, ge=1)
    position_layers: int = Field(5, ge=1)
    position_groups: int = Field(16, ge=1)
    init: str = "cold"

    @model_validator(mode="after")
    def _check_sizes(self) -> ModelOptions:
        for name in ("heads", "position_groups"):
            if self.dim % getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, which does not divide dim {self.dim}")
        if self.position_kernel % 2 == 0:
            raise ValueError(f"position_kernel is {self.position_kernel}: make it odd")
        return self

    def create(self) -> Emotion2vecConfig:
        """Return the configuration of the encoder."""
        return Emotion2vecConfig(
            dim=self.dim,
            blocks=self.prenet + self.blocks,
            heads=self.heads,
            ffn=self.ffn,
            conv_dim=(self.conv_dim,) * 7,
            front_norm="layer",
            position_kernel=self.position_kernel,
            position_layers=self.position_layers,
            position_groups=self.position_groups,
            normalise=True,
            prenet=self.prenet,
            tokens=self.tokens,
        )


class DistillationOptions(Section):
    """The task: what the student does not see, what the teacher tells it, how fast the teacher follows.

    Every clip is masked ``clones`` times: spans of ``mask_length`` frames until a share of ``mask_probability`` is
    hidden. The generator "block" is data2vec 2.0's for its recipes, with ``mask_adjust`` more spans before frames are
    added or taken until the share is exact; "span" is the one of its model code, which hides about a third at 0.5.
    Hidden frames reach the decoder as noise of deviation ``mask_noise``. The targets are the mean of the teacher's last
    ``top_layers`` blocks.

    ``utterance`` says whose difference from the mean target counts ``utterance_weight`` times beside that of the
    frames: the mean of all tokens ("chunk"), one "token", or without tokens the mean of the frames ("global").
    The ``utterance_target`` that the published settings lead to, "instance", is 0: a mean over the time over which
    each channel was normalised. "layer" takes the mean before that and normalises it over channels, so that it
    differs from utterance to utterance.
    ``utterance_scale`` "sum" adds it up over clips times masked frames as data2vec 2.0 does, "mean" takes a mean over
    clips. The teacher keeps a share of itself that goes from ``ema_start`` to ``ema_end`` in ``ema_anneal_steps``
    updates. ``regularise`` acts on the student alone.
    """

    clones: int = Field(8, ge=1)
    top_layers: int = Field(8, ge=1)
    mask_probability: float = Field(0.5, gt=0, lt=1)
    mask_length: int = Field(5, ge=1)
    mask_adjust: float = Field(0.05, ge=0, lt=1)
    mask_generator: Literal["block", "span"] = "block"
    mask_noise: float = Field(0.01, ge=0)
    utterance: Literal["chunk", "token", "global"] = "chunk"
    utterance_target: Literal["instance", "layer"] = "instance"
    utterance_weight: float = Field(1.0, ge=0)
    utterance_scale: Literal["mean", "sum"] = "mean"
    decoder_dim: int = Field(384, ge=1)
    decoder_layers: int = Field(4, ge=1)
    decoder_kernel: int = Field(7, ge=1)
    decoder_groups: int = Field(16, ge=1)
    decoder_dropout: float = Field(0.1, ge=0, lt=1)
    ema_start: float = Field(0.999, ge=0, le=1)
    ema_end: float = Field(0.99999, ge=0, le=1)
    ema_anneal_steps: int = Field(20_000, ge=1)
    regularise: Regularisation = Regularisation(dropout=0.1, attention_dropout=0.1, layer_drop=0.05)

    @model_validator(mode="after")
    def _check_decoder(self) -> DistillationOptions:
        if self.decoder_dim % self.decoder_groups:
            raise ValueError(f"decoder_groups is {self.decoder_groups}, which does not divide {self.decoder_dim}")
        return self


class PretrainTraining(Section):
    """How long and how fast. Training ends after ``max_updates`` steps of the optimiser or ``epochs``: set one of them.

    An update is ``update_batches`` batches of at most ``batch_samples`` samples, whichever processes compute them: 16
    are the 4 GPUs of the paper times its update_freq of 4. The clips of a batch are of similar length and cropped at
    random to the shortest, as data2vec does; ``padding`` keeps them whole. The learning rate rises to ``lr`` over the
    ``warmup`` share of all updates, then falls along a cosine to 0. A line of history covers ``log_updates`` updates.
    """

    max_updates: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)
    batch_samples: int = Field(1_000_000, ge=1)
    update_batches: int = Field(16, ge=1)
    padding: bool = False
    lr: float = Field(7.5e-5, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float = Field(0.0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    log_updates: int = Field(100, ge=1)
    checkpoint_seconds: float = Field(300.0, ge=0)

    @model_validator(mode="after")
    def _check_end(self) -> PretrainTraining:
        if (self.max_updates is None) == (self.epochs is None):
            raise ValueError("set either max_updates or epochs")
        return self


class GuardOptions(Section):
    """After ``after`` updates training ends where what the teacher says (or the student) varies less than this.

    The variance over frames is a mean over dimensions; a model that gives every frame the same has none.
    """

    after: int = Field(5000, ge=0)
    target_variance: float = Field(0.1, ge=0)
    prediction_variance: float = Field(0.01, ge=0)


class PretrainRecipe(Section):
    """A pretraining: recordings, encoder, task and training; ``seed`` decides everything random."""

    name: str
    summary: str = ""
    seed: int = Field(0, ge=0)
    data: PretrainData = PretrainData()
    model: ModelOptions = ModelOptions()
    distillation: DistillationOptions = DistillationOptions()
    training: PretrainTraining
    guard: GuardOptions = GuardOptions()

    @model_validator(mode="after")
    def _check_targets(self) -> PretrainRecipe:
        if self.distillation.top_layers > self.model.blocks:
            raise ValueError(
                f"distillation.top_layers is {self.distillation.top_layers}, but model.blocks {self.model.blocks}"
            )
        if self.model.tokens == 0 and self.distillation.utterance != "global":
            raise ValueError('model.tokens is 0: set distillation.utterance = "global"')
        if self.model.dim % self.distillation.decoder_groups:
            groups = self.distillation.decoder_groups
            raise ValueError(f"distillation.decoder_groups is {groups}, which does not divide model.dim")
        return self
