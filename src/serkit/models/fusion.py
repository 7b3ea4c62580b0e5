"""Text and audio in one head: what is said together with how it is said.

MAT (modulated attention) and MNT (modulated normalisation) of Delbrouck et al. 2020
(https://aclanthology.org/2020.nlpbt-1.1), over the frames of any encoder and any word vectors. Another way of joining
the two is another subclass of :class:`Fusion` in :data:`FUSIONS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from serkit.data.words import Vocabulary
from serkit.errors import nearest
from serkit.models.attention import AttentionReduce, GuidedBlock, Norm, Offsets, SelfBlock, Track
from serkit.models.heads import Batch, Ensemble, FrameStream, HeadConfig, Shape
from serkit.models.layers import ElementDropout, Segments

Modality = Literal["text", "audio"]


class FusionConfig(BaseModel):
    """How a fusion head is built; the defaults are what was published for IEMOCAP.

    ``kind`` names one of :data:`FUSIONS`. With one of ``modalities`` the other is not read at all. ``dropout_input``
    acts on embedded words and on frames, ``dropout`` inside the blocks, ``dropout_output`` before the last map.
    Several layers of an encoder are mixed by ``mix``.

    What is padding is known from the number of words and frames; an utterance without words has one empty slot. With
    ``reference`` it is told as the published code does, by word id 0 and by frames that are all zero, in sequences of
    full length: a frame of exact zeros then is not heard, and where all is padding, its length acts on the answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = "mat"
    modalities: tuple[Modality, ...] = ("text", "audio")
    hidden: int = Field(512, ge=1)
    feedforward: int = Field(1024, ge=1)
    attention_heads: int = Field(4, ge=1)
    layers: int = Field(2, ge=1)
    dropout_input: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    dropout_output: float = Field(0.5, ge=0, lt=1)
    mix: Literal["softmax", "absolute", "sum"] = "softmax"
    reference: bool = False

    @model_validator(mode="after")
    def _check(self) -> FusionConfig:
        if self.kind not in FUSIONS:
            raise ValueError(f"kind is one of {', '.join(FUSIONS)}, not {self.kind!r}{nearest(self.kind, FUSIONS)}")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError('modalities are "text", "audio" or both')
        if self.hidden % self.attention_heads:
            raise ValueError(f"hidden ({self.hidden}) is a multiple of attention_heads ({self.attention_heads})")
        return self

    @property
    def reads(self) -> bool:
        """Whether words are used."""
        return "text" in self.modalities

    @property
    def hears(self) -> bool:
        """Whether audio is used."""
        return "audio" in self.modalities


class Fusion(nn.Module):
    """What makes one vector ``(B, width)`` of the tracks of an utterance, each of frames ``(F, hidden)``.

    Words go through self blocks and are reduced over time, whatever happens to the audio; so is what a subclass hears,
    and the two are added up. A subclass says what its ``width`` is and how the words modulate the audio.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        sizes = config.hidden, config.feedforward, config.attention_heads, config.dropout
        self.hidden, self.width = config.hidden, self.width_of(config)
        if config.reads:
            self.words = nn.ModuleList(SelfBlock(*sizes) for _ in range(config.layers))
            self.reduce_words = AttentionReduce(config.hidden, config.feedforward, self.width, config.dropout)
        if config.hears:
            self.audio = nn.ModuleList(self.audio_block(config, *sizes) for _ in range(config.layers))
            self.reduce_audio = AttentionReduce(config.hidden, config.feedforward, self.width, config.dropout)

    def width_of(self, config: FusionConfig) -> int:
        """Return the width of what comes out."""
        raise NotImplementedError

    def audio_block(self, config: FusionConfig, dim: int, inner: int, heads: int, dropout: float) -> SelfBlock:
        """Return a block for the audio."""
        return SelfBlock(dim, inner, heads, dropout)

    def forward(self, words: Track | None, audio: Track | None) -> Tensor:
        """Return ``(B, width)``; at least one track is there."""
        read, vector = (None, None) if words is None else self.read(words)
        if audio is None:
            assert vector is not None
            return vector
        heard = self.reduce_audio(self.hear(audio, read, vector))
        return heard if vector is None else vector + heard

    def hear(self, audio: Track, words: Track | None, vector: Tensor | None) -> Track:
        """Return ``audio`` after its blocks; ``words`` and their ``vector`` are what :meth:`read` gave, or None."""
        raise NotImplementedError

    def read(self, words: Track) -> tuple[Track, Tensor]:
        """Return the words after their blocks, and as one vector ``(B, width)``."""
        for block in self.words:
            words = block(words)
        return words, self.reduce_words(words)


class ModulatedAttention(Fusion):
    """MAT: every audio block attends to the final words; both reductions are ``2 * hidden`` wide and added up."""

    def width_of(self, config: FusionConfig) -> int:
        return 2 * config.hidden

    def audio_block(self, config: FusionConfig, *sizes: Any) -> SelfBlock:
        return (GuidedBlock if config.reads else SelfBlock)(*sizes)

    def hear(self, audio: Track, words: Track | None, vector: Tensor | None) -> Track:
        for block in self.audio:
            audio = block(audio) if words is None else block.guide(audio, words)  # type: ignore[operator]
        return audio


class ModulatedNormalisation(Fusion):
    """MNT: a vector of the words offsets gain and bias of every norm of the audio blocks, never below zero."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        if config.reads and config.hears:
            self.modulate = nn.Linear(config.hidden, 4 * config.hidden * config.layers)

    def width_of(self, config: FusionConfig) -> int:
        return config.hidden

    def hear(self, audio: Track, words: Track | None, vector: Tensor | None) -> Track:
        every = [None] * len(self.audio) if vector is None else self._offsets(vector)
        for block, offsets in zip(self.audio, every, strict=True):
            audio = block(audio, offsets)
        return audio

    def _offsets(self, vector: Tensor) -> list[tuple[Offsets, Offsets]]:
        """Return the offsets of both norms of each block."""
        each = self.modulate(vector).relu().split(self.hidden, 1)
        return [((each[i], each[i + 1]), (each[i + 2], each[i + 3])) for i in range(0, len(each), 4)]


FUSIONS: dict[str, type[Fusion]] = {"mat": ModulatedAttention, "mnt": ModulatedNormalisation}
"""By the ``kind`` of a recipe."""


class FusionHead(nn.Module):
    """Embedded words and mixed frames, an LSTM over each, a :class:`Fusion` of both, and a linear map to the classes.

    ``vectors (V, E)`` begin the embedding, which is learned. The ``vocabulary`` is part of the state as bytes, so that
    a state alone makes the head again (:func:`restore_fusion`). A head reads ``max_words`` and hears ``max_frames``.
    """

    needs_frames = True

    def __init__(
        self,
        config: FusionConfig,
        shapes: Sequence[Shape],
        classes: int,
        vocabulary: Vocabulary | None,
        vectors: Tensor | None,
        max_words: int,
        max_frames: int | None,
    ) -> None:
        super().__init__()
        self.config, self.vocabulary, self.max_words, self.max_frames = config, vocabulary, max_words, max_frames
        streams = HeadConfig(mix=config.mix, frame_hidden=())
        self.streams = nn.ModuleList(FrameStream(streams, shape, place) for place, shape in enumerate(shapes))
        self.drop_input = ElementDropout(config.dropout_input)
        if config.reads:
            assert vocabulary is not None and vectors is not None
            self.register_buffer("vocabulary_bytes", _to_bytes(vocabulary))
            self.embedding = nn.Embedding.from_pretrained(vectors, freeze=False)
            self.word_lstm = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        if config.hears:
            self.audio_lstm = nn.LSTM(sum(dim for _, dim in shapes), config.hidden, batch_first=True)
        self.fusion = FUSIONS[config.kind](config)
        self.norm, self.drop_output = Norm(self.fusion.width), nn.Dropout(config.dropout_output)
        self.decide = nn.Linear(self.fusion.width, classes)

    def forward(self, batch: Batch) -> Tensor:
        """Return the scores of the classes ``(B, C)``."""
        return self.judge(self.embed(batch))

    def embed(self, batch: Batch) -> Tensor:
        """Return what words and audio are together: ``(B, width)``, before it is normalised."""
        words = self._read(batch.words) if self.config.reads else None
        return self.fusion(words, self._hear(batch) if self.config.hears else None)

    def judge(self, embedding: Tensor) -> Tensor:
        """Return the scores of the classes ``(B, C)`` of what :meth:`embed` gave."""
        return self.decide(self.drop_output(self.norm(embedding)))

    def encode_words(self, utterances: Sequence[Sequence[str]]) -> Tensor:
        """Return word ids ``(B, max_words)``, 0 past an utterance's end."""
        assert self.vocabulary is not None
        ids = torch.zeros(len(utterances), self.max_words, dtype=torch.long)
        for row, words in zip(ids, utterances, strict=True):
            numbers = self.vocabulary.encode(words, self.max_words)
            row[: len(numbers)] = torch.tensor(numbers, dtype=torch.long)
        return ids

    def _read(self, ids: Tensor | None) -> Track:
        assert ids is not None, "a fusion head that reads needs words"
        if self.config.reference:
            segments, seen = _full(ids), ids != 0
        else:
            segments, seen = _places((ids != 0).sum(1).clamp(min=1), ids.shape[1])
        rows = ids[:, : seen.shape[1]]
        chosen = segments.frames(rows[:, :, None])[:, 0]
        return self._along_time(self.embedding(chosen), segments, seen, self.word_lstm)

    def _hear(self, batch: Batch) -> Track:
        segments = batch.segments
        assert isinstance(segments, Segments), "a fusion head that hears needs the frames of whole utterances"
        parts = [part(stream, segments) for part, stream in zip(self.streams, batch.streams, strict=True)]
        rows, lengths = segments.rows(torch.cat(parts, 1)), segments.lengths
        if self.max_frames is not None:
            rows, lengths = rows[:, : self.max_frames], lengths.clamp(max=self.max_frames)
        if self.config.reference:
            real = torch.arange(rows.shape[1], device=rows.device)[None] < lengths[:, None]
            short = 0 if self.max_frames is None else self.max_frames - rows.shape[1]
            rows = nn.functional.pad(rows * real[:, :, None], (0, 0, 0, short))
            segments, seen = _full(rows), rows.abs().sum(2) != 0
        else:
            segments, seen = _places(lengths, rows.shape[1])
        return self._along_time(segments.frames(rows), segments, seen, self.audio_lstm)

    def _along_time(self, x: Tensor, segments: Segments, seen: Tensor, lstm: nn.LSTM) -> Track:
        states = segments.along_time(self.drop_input(x), lambda rows: lstm(rows)[0])
        return Track(states, segments, seen)


def _places(lengths: Tensor, size: int) -> tuple[Segments, Tensor]:
    """Return whose the frames are, packed unless a graph is exported, and which are real ``(B, T)``."""
    if torch.compiler.is_compiling():
        segments = Segments.padded(lengths, size)
    else:
        segments, size = Segments.packed(lengths), int(lengths.max())
    return segments, torch.arange(size, device=lengths.device)[None] < lengths[:, None]


def _full(rows: Tensor) -> Segments:
    """Return the places of ``rows (B, T, ...)`` where padding counts as well."""
    return Segments.padded(rows.new_full(rows.shape[:1], rows.shape[1], dtype=torch.long), rows.shape[1])


def create_fusion(
    config: FusionConfig,
    shapes: Sequence[Shape],
    classes: int,
    vocabulary: Vocabulary | None,
    vectors: np.ndarray | int,
    max_words: int,
    max_frames: int | None,
) -> Ensemble:
    """Build a fusion head for streams of ``shapes``.

    ``vectors (V, E)`` float32 begin the embedding, or where it is a number, vectors of that width are drawn as PyTorch
    does.
    """
    table = None
    if config.reads:
        assert vocabulary is not None
        table = torch.randn(len(vocabulary), vectors) if isinstance(vectors, int) else torch.from_numpy(vectors).clone()
    return Ensemble([FusionHead(config, shapes, classes, vocabulary, table, max_words, max_frames)])


def restore_fusion(
    config: FusionConfig,
    shapes: Sequence[Shape],
    classes: int,
    state: Mapping[str, Tensor],
    max_words: int,
    max_frames: int | None,
) -> Ensemble:
    """Build the head that a ``state`` of :func:`create_fusion`'s is of, with its vocabulary and its weights."""
    vocabulary, dim = None, 0
    if config.reads:
        vocabulary = _from_bytes(state["heads.0.vocabulary_bytes"])
        dim = state["heads.0.embedding.weight"].shape[1]
    head = create_fusion(config, shapes, classes, vocabulary, dim, max_words, max_frames)
    head.load_state_dict(dict(state))
    return head


def _to_bytes(vocabulary: Vocabulary) -> Tensor:
    return torch.tensor(list(json.dumps(vocabulary.to_dict(), ensure_ascii=False).encode()), dtype=torch.uint8)


def _from_bytes(values: Tensor) -> Vocabulary:
    return Vocabulary.from_dict(json.loads(bytes(values.tolist()).decode()))
