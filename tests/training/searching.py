"""A small corpus and a recipe with a search on it: for tests of searches, and for the processes that they start."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import speech
import torch

from serkit.training.recipe import load_recipe
from serkit.training.searching.search import search
from serkit.training.searching.trials import Examiner

RECIPE = """
name = "small"
seeds = [0]
[data]
manifest = "{root}/manifest.parquet"
[labels]
classes = ["sad", "happy"]
[protocol]
name = "leave-one-speaker-out"
dev = 0.34
[encoder]
name = "whisper"
layers = [2]
options = {{ weights = "{root}/tiny.safetensors" }}
[head]
kind = "pooled"
mix = "concat"
dropout = 0.0
[training]
optimizer = "lbfgs"
epochs = 10
weight_decay = 0.1
[search]
trials = 4
pruner = "none"
[search.space]
training.weight_decay = {{ low = 1e-3, high = 10.0, log = true }}
training.epochs = {{ choices = [2, 10] }}
"""


def write_all(root: Path) -> None:
    """Write a corpus of 32 recordings, a tiny encoder and the recipe ``small.toml``."""
    speech.write_corpus(root / "audio", repetitions=4, speakers=speech.FOUR).write(root / "manifest.parquet")
    speech.write_tiny_whisper(root / "tiny.safetensors", 200)
    (root / "small.toml").write_text(RECIPE.format(root=root), encoding="utf-8")


def search_and_die(root: str, folder: str, trial: int, fold: int) -> None:
    """Search ``small.toml`` until ``fold`` of ``trial`` begins, both counted from 0; then the process is killed."""
    torch.set_num_threads(1)
    judge, train = Examiner.judge, Examiner._train
    judged: list[str] = []

    def counting(self, recipe, name, tell):
        judged.append(name)
        return judge(self, recipe, name, tell)

    def dying(self, recipe, at, place, results, tell):
        if len(judged) == trial + 1 and len(results) == fold:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(self, recipe, at, place, results, tell)

    Examiner.judge, Examiner._train = counting, dying
    search(load_recipe(f"{root}/small.toml"), folder, f"{root}/cache")


if __name__ == "__main__":
    search_and_die(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
