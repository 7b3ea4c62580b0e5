"""Checkpoints of Cai et al. 2021 (https://doi.org/10.21437/Interspeech.2021-1852) as models of serkit.

Their authors saved wav2vec 2.0 with two linear heads in the format of ``transformers``: ``lm_head`` on every frame, for
CTC, and ``cls_head`` on the mean over time, for emotion; forks add a head for speakers beside it. Nothing in a
checkpoint is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serkit.data.labels import LabelScheme
from serkit.data.text import WAV2VEC2, CharTokenizer
from serkit.encoders.wav2vec2 import MODEL_TYPES, Wav2Vec2Encoder, build
from serkit.encoders.weights import Checkpoint, load_checkpoint
from serkit.errors import InputError
from serkit.models.heads import Ensemble, HeadConfig, create_head
from serkit.models.model import Model
from serkit.models.tasks import ClassConfig, ClassTask, CtcConfig, CtcTask, EmotionConfig, EmotionTask, Task

CLASSES = ("neutral", "happy", "angry", "sad")
"""What e0 to e3 mean; happy takes excited in."""
SPEAKER_HEADS = ("spk_head", "speaker_head", "sid_head", "spk_cls_head", "speaker_cls_head", "cls_spk_head")
"""Names under which the third head of a fork is looked for."""
HEAD = HeadConfig(kind="frames", frame_hidden=(), pooling="mean", dropout=0, drop_last=False, init="normal")
"""A linear map of the mean over time."""
BACKBONE, CTC, EMOTION = "wav2vec2.", "lm_head", "cls_head"


def is_cai_checkpoint(source: str | Path) -> bool:
    """Tell whether ``source`` looks like such a checkpoint: a folder with ``config.json``, or a file beside one."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    return (folder / "config.json").is_file() and (path.is_dir() or path.suffix in (".bin", ".safetensors"))


def load_cai(source: str | Path, classes: Sequence[str] = CLASSES, speakers: Sequence[str] | None = None) -> Model:
    """Read the checkpoint in the folder ``source`` (``config.json`` and safetensors or ``pytorch_model.bin``).

    The model has the task "emotion", "ctc" when there is an ``lm_head``, and "speaker" when there is a head of one of
    the names :data:`SPEAKER_HEADS`; ``speakers`` are its classes in order, numbers when left out. Symbols are those of
    ``vocab.json`` in the folder, or the 32 of wav2vec 2.0. Waveforms are normalised unless
    ``preprocessor_config.json`` says otherwise. Raises ``InputError`` listing every tensor that is missing, unexpected
    or of another shape, and for numbers of classes or symbols that do not fit.
    """
    checkpoint = load_checkpoint(source)
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    third = next((name for name in SPEAKER_HEADS if f"{name}.weight" in checkpoint.state), None)
    present = [name for name in (EMOTION, CTC, third) if name and (name == EMOTION or _has(checkpoint, name))]
    _check_names(checkpoint, present)
    encoder = _build_encoder(checkpoint)
    heads = {name: _linear(checkpoint, name, encoder.dim) for name in present}
    tasks: list[Task] = [_emotion(checkpoint, heads[EMOTION], classes)]
    if CTC in heads:
        tasks.append(_ctc(checkpoint, folder / "vocab.json", heads[CTC]))
    if third:
        count = heads[third].out_features
        names = tuple(map(str, range(count))) if speakers is None else tuple(speakers)
        if len(names) != count:
            raise InputError(f"{source}: {third} knows {count} speakers, but {len(names)} are named")
        speaker = ClassTask("speaker", ClassConfig(), encoder.dim, names)
        speaker.linear = heads[third]
        tasks.append(speaker)
    return Model(encoder, tasks, (0,), dropout=float(checkpoint.config.get("final_dropout", 0.1))).eval()


def _has(checkpoint: Checkpoint, name: str) -> bool:
    return any(key.startswith(f"{name}.") for key in checkpoint.state)


def _check_names(checkpoint: Checkpoint, heads: Sequence[str]) -> None:
    wanted = [f"{name}.{part}" for name in heads for part in ("weight", "bias")]
    wrong = [f"missing {key}" for key in wanted if key not in checkpoint.state]
    wrong += [f"unexpected {key}" for key in checkpoint.state if not key.startswith(BACKBONE) and key not in wanted]
    if wrong:
        raise InputError(f"{checkpoint.source}: is not a checkpoint of Cai et al. 2021: {', '.join(wrong)}")


def _build_encoder(checkpoint: Checkpoint) -> Wav2Vec2Encoder:
    """Build the encoder; only its last layer is kept, which is all that the heads see."""
    state = {key: value for key, value in checkpoint.state.items() if key.startswith(BACKBONE)}
    blocks = checkpoint.config.get("num_hidden_layers", 12)
    normalise = checkpoint.preprocessor.get("do_normalize", True)
    return build(Wav2Vec2Encoder, MODEL_TYPES, replace(checkpoint, state=state), [blocks], normalise)


def _linear(checkpoint: Checkpoint, name: str, dim: int) -> nn.Linear:
    weight, bias = (checkpoint.state[f"{name}.{part}"].detach().float() for part in ("weight", "bias"))
    if weight.ndim != 2 or weight.shape[1] != dim or bias.shape != weight.shape[:1]:
        shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        raise InputError(f"{checkpoint.source}: {name} is {shapes}, which is no linear map of {dim} numbers")
    return _filled(nn.Linear(dim, len(weight)), weight, bias)


@torch.no_grad()
def _filled(linear: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear


def linear_head(linear: nn.Linear) -> Ensemble:
    """Return a head that maps the mean over time as ``linear`` does."""
    head = create_head(HEAD, [(1, linear.in_features)], linear.out_features)
    member: Any = head.heads[0]
    _filled(member.decide[-1], linear.weight, linear.bias)
    return head


def _emotion(checkpoint: Checkpoint, linear: nn.Linear, classes: Sequence[str]) -> EmotionTask:
    if len(classes) != linear.out_features:
        raise InputError(
            f"{checkpoint.source}: cls_head knows {linear.out_features} classes: name as many, not {', '.join(classes)}"
        )
    merge = {"excited": "happy"} if "happy" in classes else {}
    return EmotionTask(EmotionConfig(), linear_head(linear), LabelScheme("cai", tuple(classes), merge))


def _ctc(checkpoint: Checkpoint, vocabulary: Path, linear: nn.Linear) -> CtcTask:
    tokenizer = CharTokenizer.load(vocabulary) if vocabulary.is_file() else WAV2VEC2
    if len(tokenizer) != linear.out_features:
        raise InputError(
            f"{checkpoint.source}: lm_head knows {linear.out_features} symbols, the vocabulary {len(tokenizer)}: "
            "put the model's vocab.json beside it"
        )
    settings = checkpoint.config
    blank = settings.get("pad_token_id", 0)
    if blank != tokenizer.blank:
        raise InputError(f"{checkpoint.source}: pad_token_id is {blank}, in the vocabulary it is {tokenizer.blank}")
    config = CtcConfig(
        text="legacy",
        vocabulary="wav2vec2",
        reduction=settings.get("ctc_loss_reduction", "sum"),
        zero_infinity=settings.get("ctc_zero_infinity", False),
    )
    task = CtcTask(config, linear.in_features, tokenizer)
    task.linear = linear
    return task
