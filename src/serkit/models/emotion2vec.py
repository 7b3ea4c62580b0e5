"""Checkpoints of emotion2vec and emotion2vec+ as models of serkit: a linear map of the mean over time.

The classes of the published recognisers are Chinese and English ("生气/angry"); serkit takes the English half, and
"unknown" for ``<unk>``. Classes whose name begins with "unuse" were never trained: they are left out, which changes no
score of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from serkit.data.labels import LabelScheme
from serkit.encoders.emotion2vec import Emotion2vecEncoder, create
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint, read_emotion2vec
from serkit.errors import InputError
from serkit.models.cai import linear_head
from serkit.models.graph import MeanGraph
from serkit.models.model import Model
from serkit.models.tasks import EmotionConfig, EmotionTask

UNUSED, UNKNOWN = "unuse", "<unk>"


@dataclass(frozen=True)
class Emotion2vecModel:
    """A checkpoint as a bundle computes it: ``classes`` in English, ``tokens`` the same as published; maybe none."""

    source: str
    graph: MeanGraph
    classes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_model(self) -> Model:
        """Return it as a model to train further; raises ``InputError`` where there is no head."""
        encoder, head = self.graph.encoder, self.graph.head
        if head is None:
            raise InputError(f"{self.source}: has no head: train one with a recipe")
        task = EmotionTask(EmotionConfig(), linear_head(head), LabelScheme("emotion2vec", self.classes))
        return Model(encoder, [task], (0,)).eval()


def load_emotion2vec(source: str | Path | Emotion2vecCheckpoint) -> Emotion2vecModel:
    """Read encoder and head of ``source``; only the last layer is kept, which is all that the head sees.

    Raises ``InputError`` as :func:`~serkit.encoders.emotion2vec.files.read_emotion2vec` does, and for a head whose
    classes nobody names.
    """
    checkpoint = source if isinstance(source, Emotion2vecCheckpoint) else read_emotion2vec(source)
    encoder: Emotion2vecEncoder = create(checkpoint, layers=[checkpoint.config.blocks])
    if checkpoint.head is None:
        return Emotion2vecModel(checkpoint.source, MeanGraph(encoder).eval(), notes=checkpoint.notes)
    if checkpoint.tokens is None:
        raise InputError(f"{checkpoint.source}: does not name the classes of its head: put its tokens.txt beside it")
    used = [number for number, token in enumerate(checkpoint.tokens) if not token.startswith(UNUSED)]
    tokens = tuple(checkpoint.tokens[number] for number in used)
    weight, bias = (tensor[used] for tensor in checkpoint.head)
    with torch.no_grad():
        head = nn.utils.skip_init(nn.Linear, weight.shape[1], len(used))
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    graph = MeanGraph(encoder, head).eval()
    return Emotion2vecModel(
        checkpoint.source, graph, english_names(tokens, checkpoint.source), tokens, checkpoint.notes
    )


def english_names(tokens: Sequence[str], source: str = "tokens") -> tuple[str, ...]:
    """Return serkit's names of published classes, in order.

    >>> english_names(["生气/angry", "<unk>"])
    ('angry', 'unknown')
    """
    names = tuple("unknown" if token == UNKNOWN else token.rpartition("/")[2].strip().lower() for token in tokens)
    if len(set(names)) < len(names) or not all(names):
        raise InputError(f"{source}: its classes have no names of their own: {', '.join(tokens)}")
    return names
