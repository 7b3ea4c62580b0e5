"""How fast does a head train from the feature cache, beside a DataLoader over one padded .npy per clip?

    python benchmarks/cache.py [--utterances 192] [--rounds 5] [--threads 1]

Both sides train the same model on the same features: a 13-layer mix, a linear map to 128 with ReLU on every frame, mean
pooling, a linear classifier, batches of 32, AdamW. Lengths are lognormal, mean 4.5 s, 50 frames per second. The
reference pads to the longest of the batch and masks. Epochs of the two alternate in one process; the ratio is the
median over rounds. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from serkit.encoders.cache import FeatureCache
from serkit.models.heads import HeadConfig, create_head
from serkit.training.features import FeatureSet, load_stream

LAYERS, DIM, CLASSES, BATCH = 13, 768, 4, 32


def write_features(folder: Path, utterances: int) -> tuple[list[int], FeatureCache]:
    """Write the same random features as a cache and as one .npy per clip."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(4.5) - 0.18, 0.6, utterances)) * 50, 50, 1500).astype(int).tolist()
    cache = FeatureCache(folder / "cache", "random", LAYERS, DIM)
    for number, length in enumerate(lengths):
        frames = rng.standard_normal((LAYERS, length, DIM), np.float32).astype(np.float16)
        cache.add(str(number), frames)
        np.save(folder / f"{number}.npy", frames)
    return lengths, cache


class Clips(Dataset):
    """One .npy per clip, as feature extraction scripts leave them."""

    def __init__(self, folder: Path, lengths: list[int]) -> None:
        self.folder, self.lengths = folder, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(np.load(self.folder / f"{number}.npy")), number % CLASSES


def pad(items: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad to the longest: ``(B, N, T, D)`` float32, mask ``(B, T)``, targets."""
    size = max(item.shape[1] for item, _ in items)
    padded = torch.zeros(len(items), LAYERS, size, DIM)
    mask = torch.zeros(len(items), size)
    for row, (item, _) in enumerate(items):
        padded[row, :, : item.shape[1]] = item
        mask[row, : item.shape[1]] = 1
    return padded, mask, torch.tensor([target for _, target in items])


class PaddedHead(nn.Module):
    """The head as it is written everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.zeros(LAYERS))
        self.dense, self.out = nn.Linear(DIM, 128), nn.Linear(128, CLASSES)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mixed = (self.k.softmax(0)[None, :, None, None] * x).sum(1)
        hidden = torch.relu(self.dense(mixed)) * mask[:, :, None]
        return self.out(hidden.sum(1) / mask.sum(1, keepdim=True))


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", default=None, help="where the features go; a temporary folder when left out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        lengths, cache = write_features(Path(name), options.utterances)
        keys = [str(number) for number in range(len(lengths))]
        targets = torch.tensor([number % CLASSES for number in range(len(lengths))])
        stream = load_stream(cache, [keys], range(LAYERS), 1, True)
        features = FeatureSet(tuple(keys), (stream,), targets, torch.ones(len(keys)))
        config = HeadConfig(kind="frames", frame_hidden=(128,), pooling="mean", activation="relu", dropout=0.0)
        ours, theirs = create_head(config, [(LAYERS, DIM)], CLASSES), PaddedHead()
        loader = DataLoader(Clips(Path(name), lengths), BATCH, shuffle=True, collate_fn=pad)
        times: dict[str, list[float]] = {"serkit": [], "padded": []}
        for turn in range(options.rounds + 1):
            for side in ("serkit", "padded"):
                began = time.perf_counter()
                if side == "serkit":
                    epoch_from_cache(ours, features, turn)
                else:
                    epoch_padded(theirs, loader)
                if turn:  # the first round warms up
                    times[side].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(times["serkit"], times["padded"], strict=True)]
    result = {
        "utterances": options.utterances,
        "frames": sum(lengths),
        "threads": options.threads,
        "serkit_utterances_per_second": options.utterances / statistics.median(times["serkit"]),
        "padded_utterances_per_second": options.utterances / statistics.median(times["padded"]),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    for key, value in result.items():
        print(f"{key:<32} {value:.2f}" if isinstance(value, float) else f"{key:<32} {value}")
    print(json.dumps(result))


def epoch_from_cache(head: nn.Module, features, turn: int) -> None:
    """One epoch on packed batches read from the mapped files."""
    optimizer = torch.optim.AdamW(head.parameters())
    head.train()
    order = np.random.default_rng(turn).permutation(len(features))
    for rows in np.array_split(order, -(-len(order) // BATCH)):
        loss = nn.functional.cross_entropy(head.each(features.batch(rows.tolist()))[0], features.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def epoch_padded(head: nn.Module, loader: DataLoader) -> None:
    """One epoch on padded batches from the DataLoader."""
    optimizer = torch.optim.AdamW(head.parameters())
    for x, mask, targets in loader:
        loss = nn.functional.cross_entropy(head(x, mask), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
