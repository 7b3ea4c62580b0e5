"""A small pretraining on generated speech: for its tests, and for the processes that they start and kill."""

from __future__ import annotations

from pathlib import Path

from speech import FOUR, die_while_saving, write_corpus

from serkit.training.pretraining.recipe import load_pretraining
from serkit.training.pretraining.run import run_pretraining

RECIPE = """
name = "small"
[data]
manifest = "{root}/manifest.parquet"
min_seconds = 0.3
max_seconds = 0.5
[model]
dim = 24
heads = 4
ffn = 32
prenet = 1
blocks = 2
tokens = 3
conv_dim = 8
position_kernel = 5
position_layers = 2
position_groups = 4
[distillation]
clones = 2
top_layers = 2
mask_length = 2
decoder_dim = 16
decoder_groups = 4
decoder_layers = 2
ema_start = 0.9
ema_end = 0.99
ema_anneal_steps = 10
[training]
max_updates = 10
batch_samples = 20_000
update_batches = 2
lr = 2e-3
clip_norm = 1.0
epsilon = 1e-4
log_updates = 2
checkpoint_seconds = 0
[guard]
after = 1000
"""


def write_recipe(root: Path) -> Path:
    """Write 16 utterances of four speakers, and a recipe that learns from them."""
    write_corpus(root, 2, FOUR).write(root / "manifest.parquet")
    (root / "small.toml").write_text(RECIPE.format(root=root), encoding="utf-8")
    return root / "small.toml"


def pretrain_until_killed(recipe: Path, folder: Path, kill_at: int = 0, way: str = "") -> None:
    """Pretrain with a checkpoint after every update; die as :func:`die_while_saving` says."""
    die_while_saving(kill_at, way)
    run_pretraining(load_pretraining(recipe), folder, threads=1)
