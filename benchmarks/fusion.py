"""One epoch of MAT or MNT on CMU-MOSI: serkit's against the same model made of torch.nn.MultiheadAttention layers.

The other model is what one would write from the paper: padded batches, torch.std, nn.Dropout. It is measured twice,
padded to the published 30 words and 60 frames and padded to the longest utterance of each batch. All three have the
same weights and give the same logits (checked first), see the same batches in the same run, one after the other, on one
thread; times are processor seconds of whole training steps (Adam, dropout on).

    python benchmarks/fusion.py MANIFEST [--kind mat] [--frames 40] [--repeats 3] [--utterances 1284]

MANIFEST is what ``serkit prepare mosi DIR -o MANIFEST`` writes; frames are noise of ``--frames`` per utterance on
average, since the recordings are not at hand everywhere.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from torch import Tensor, nn

from serkit.data.manifest import Manifest
from serkit.data.words import Vocabulary, split_words
from serkit.models.fusion import FusionConfig, FusionHead, create_fusion
from serkit.models.heads import Batch, Stream
from serkit.models.layers import Segments

WORDS, FRAMES, BANDS, BATCH = 30, 60, 80, 32


class Norm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, gain: Tensor | float = 0.0, bias: Tensor | float = 0.0) -> Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6)
        return (self.gain + gain) * scaled + self.bias + bias


def mlp(dim: int, inner: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, out))


class Block(nn.Module):
    def __init__(self, config: FusionConfig, guided: bool) -> None:
        super().__init__()
        dim, heads, rate = config.hidden, config.attention_heads, config.dropout
        self.attention = nn.MultiheadAttention(dim, heads, rate, batch_first=True)
        self.guidance = nn.MultiheadAttention(dim, heads, rate, batch_first=True) if guided else None
        self.feedforward, self.drop = mlp(dim, config.feedforward, dim, rate), nn.Dropout(rate)
        self.norms = nn.ModuleList(Norm(dim) for _ in range(3 if guided else 2))

    def forward(self, x, hidden, guide=None, guide_hidden=None, offsets=(0.0, 0.0, 0.0, 0.0)):
        found = self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        x = self.norms[0](x + self.drop(found), *offsets[:2])
        if self.guidance is not None:
            found = self.guidance(x, guide, guide, key_padding_mask=guide_hidden, need_weights=False)[0]
            x = self.norms[1](x + self.drop(found))
        return self.norms[-1](x + self.drop(self.feedforward(x)), *offsets[2:])


class Reduce(nn.Module):
    def __init__(self, config: FusionConfig, out: int) -> None:
        super().__init__()
        self.score = mlp(config.hidden, config.feedforward, 1, config.dropout)
        self.out = nn.Linear(config.hidden, out)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        weights = self.score(x).masked_fill(hidden[:, :, None], -1e9).softmax(1)
        return self.out((weights * x).sum(1))


class Padded(nn.Module):
    """MAT or MNT as one would write it with PyTorch's layers, over padded batches."""

    def __init__(self, config: FusionConfig, vectors: Tensor, classes: int) -> None:
        super().__init__()
        dim, self.config = config.hidden, config
        width = 2 * dim if config.kind == "mat" else dim
        self.embedding = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)
        self.word_lstm = nn.LSTM(vectors.shape[1], dim, batch_first=True)
        self.audio_lstm = nn.LSTM(BANDS, dim, batch_first=True)
        self.words = nn.ModuleList(Block(config, False) for _ in range(config.layers))
        self.audio = nn.ModuleList(Block(config, config.kind == "mat") for _ in range(config.layers))
        self.reduce_words, self.reduce_audio = Reduce(config, width), Reduce(config, width)
        self.modulate = nn.Linear(dim, 4 * dim * config.layers) if config.kind == "mnt" else None
        self.norm, self.drop = Norm(width), nn.Dropout(config.dropout_output)
        self.decide = nn.Linear(width, classes)

    def forward(self, ids: Tensor, frames: Tensor) -> Tensor:
        no_word, no_frame = ids == 0, frames.abs().sum(2) == 0
        x, y = self.word_lstm(self.embedding(ids))[0], self.audio_lstm(frames)[0]
        for block in self.words:
            x = block(x, no_word)
        vector = self.reduce_words(x, no_word)
        offsets = [(0.0, 0.0, 0.0, 0.0)] * len(self.audio)
        if self.modulate is not None:
            parts = self.modulate(vector).relu()[:, None].chunk(4 * len(self.audio), 2)
            offsets = [parts[4 * i : 4 * i + 4] for i in range(len(self.audio))]
        for block, each in zip(self.audio, offsets, strict=True):
            y = block(y, no_frame, x, no_word, each)
        return self.decide(self.drop(self.norm(vector + self.reduce_audio(y, no_frame))))

    def load(self, head: FusionHead) -> None:
        """Take over the weights of serkit's head."""
        with torch.no_grad():
            for name in ("embedding", "word_lstm", "audio_lstm", "norm", "decide"):
                getattr(self, name).load_state_dict(getattr(head, name).state_dict())
            for name in ("reduce_words", "reduce_audio", *(["modulate"] if self.modulate is not None else [])):
                getattr(self, name).load_state_dict(getattr(head.fusion, name).state_dict())
            for name in ("words", "audio"):
                for ours, block in zip(getattr(self, name), getattr(head.fusion, name), strict=True):
                    norms = [block.norm_attention, block.norm_feedforward]
                    copy_attention(ours.attention, block.attention)
                    if ours.guidance is not None:
                        copy_attention(ours.guidance, block.guidance)
                        norms.insert(1, block.norm_guidance)
                    ours.feedforward.load_state_dict(block.feedforward.state_dict())
                    for norm, source in zip(ours.norms, norms, strict=True):
                        norm.load_state_dict(source.state_dict())


def copy_attention(ours: nn.MultiheadAttention, source: nn.Module) -> None:
    parts = [source.query, source.key, source.value]
    ours.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    ours.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    ours.out_proj.load_state_dict(source.out.state_dict())


def read(manifest: str, count: int, mean_frames: int, rng: np.random.Generator):
    table = Manifest.read(manifest).table
    table = table.filter(part="train") if "train" in table["part"] else table
    said = [split_words(text)[:WORDS] for text in table["text"]][:count]
    lengths = np.clip(rng.poisson(mean_frames, len(said)), 1, FRAMES)
    frames = [torch.from_numpy(rng.random((length, BANDS), np.float32) + 1e-3) for length in lengths]
    return said, frames, torch.from_numpy(rng.integers(2, size=len(said)))


def packed(head: FusionHead, ids: Tensor, frames: list[Tensor]) -> Batch:
    lengths = torch.tensor([len(each) for each in frames])
    statistics = torch.zeros(len(frames), 2, 1, BANDS)
    return Batch((Stream(statistics, [torch.cat(frames)[None]]),), Segments.packed(lengths), ids)


def pad(ids: Tensor, frames: list[Tensor], full: bool) -> tuple[Tensor, Tensor]:
    rows = nn.utils.rnn.pad_sequence(frames, batch_first=True)
    if not full:
        return ids[:, : int((ids != 0).sum(1).max())], rows
    return ids, nn.functional.pad(rows, (0, 0, 0, FRAMES - rows.shape[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--kind", choices=["mat", "mnt"], default="mat")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--utterances", type=int, default=1284)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    said, frames, targets = read(options.manifest, options.utterances, options.frames, rng)
    vocabulary = Vocabulary.build(said)
    config = FusionConfig(kind=options.kind)
    vectors = rng.normal(size=(len(vocabulary), 300)).astype(np.float32)
    head = create_fusion(config, [(1, BANDS)], 2, vocabulary, vectors, WORDS, FRAMES).heads[0]
    other = Padded(config, torch.from_numpy(vectors), 2)
    other.load(head)
    ids = head.encode_words(said)
    ways = {
        "serkit": (head, lambda rows: head(packed(head, ids[rows], [frames[row] for row in rows]))),
        "padded to 30 words, 60 frames": (
            other,
            lambda rows: other(*pad(ids[rows], [frames[row] for row in rows], True)),
        ),
        "padded to the longest": (other, lambda rows: other(*pad(ids[rows], [frames[row] for row in rows], False))),
    }
    chosen = [row for row in range(len(said)) if said[row]][:BATCH]
    head.eval(), other.eval()
    with torch.no_grad():
        logits = [run(chosen) for _, run in ways.values()]
    apart = max(float((each - logits[0]).abs().max()) for each in logits)
    assert apart < 1e-4, f"the models differ by {apart}"
    optimisers = {id(model): torch.optim.Adam(model.parameters(), 1e-4) for model, _ in ways.values()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        order = rng.permutation(len(said)).tolist()
        for name, (model, run) in ways.items():
            model.train()
            began = time.process_time()
            for first in range(0, len(order), BATCH):
                rows = order[first : first + BATCH]
                loss = nn.functional.cross_entropy(run(rows), targets[rows], reduction="sum")
                optimisers[id(model)].zero_grad()
                loss.backward()
                optimisers[id(model)].step()
            seconds[name].append(time.process_time() - began)
    print(f"{options.kind}, {len(said)} utterances, {np.mean([len(each) for each in said]):.1f} words and "
          f"{np.mean([len(each) for each in frames]):.1f} frames on average; logits differ by {apart:.1e}")  # fmt: skip
    print(f"{'an epoch':32s} {'cpu seconds':>12s} {'times serkit':>13s}")
    ratios = {}
    for name, each in seconds.items():
        pairs = np.array(each) / np.array(seconds["serkit"])
        ratios[name] = [float(np.median(pairs)), float(pairs.min()), float(pairs.max())]
        print(f"{name:32s} {np.median(each):12.2f} {ratios[name][0]:13.2f} ({pairs.min():.2f}-{pairs.max():.2f})")
    facts = {"kind": options.kind, "utterances": len(said), "repeats": options.repeats, "logits_differ": apart}
    print(json.dumps({**facts, "seconds": seconds, "times_serkit": ratios}))


if __name__ == "__main__":
    main()
