"""Every recipe of Cai et al. 2021 holds the published settings and runs from recordings to predictions."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

from serkit.data.manifest import Manifest
from serkit.data.published_csv import write_published_csv
from serkit.encoders.presets import PRESETS
from serkit.training.material import load_data
from serkit.training.recipe import list_recipes, load_recipe
from serkit.training.run import train

torch.set_num_threads(1)

NAMES = [name for name in list_recipes() if name.startswith("cai/")]
ALPHAS = {"0": 0.0, "0.001": 0.001, "0.01": 0.01, "0.1": 0.1}


def short(name, weights, *changes):
    """The recipe on a small checkpoint, one epoch of few steps."""
    usual = ["training.epochs=1", "training.batch_size=40", f"encoder.options.weights={weights}"]
    usual += ["protocol.per_speaker=2"] if load_recipe(name).protocol.name == "speaker50" else []
    return load_recipe(name, [*usual, *changes])


def heads(run):
    """The names of the tasks that a run has weights of."""
    with safe_open(next((run / "models").glob("*.safetensors")), "pt") as file:
        return {key.split(".")[1] for key in file.keys() if key.startswith("tasks.")}  # noqa: SIM118


def test_there_is_a_recipe_for_each_experiment():
    wanted = {f"cai/{size}-alpha{alpha}" for size in ("base", "large") for alpha in ALPHAS}
    wanted |= {f"cai/base-alpha0.1-beta{beta}" for beta in ("0", "0.1", "0.15")}
    assert set(NAMES) == wanted | {"cai/base-beta0.1", "cai/base-script", "cai/csv"}


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_the_paper(name):
    recipe = load_recipe(name)
    training, tuning, ctc = recipe.training, recipe.finetune, recipe.tasks.ctc
    alpha = name.split("alpha")[1].split("-")[0] if "alpha" in name else "0" if "beta" in name else "0.1"
    assert ctc.weight == ALPHAS[alpha]
    rate = 1e-5 if name.endswith("-alpha0") else 5e-5
    assert (training.lr, tuning.lr) == (rate, rate)
    script = name == "cai/base-script"
    assert (training.epochs, training.warmup, ctc.scale) == ((200, 0, 2) if script else (100, 0.1, 1))
    assert tuning.padding == ("original" if script else "masked")
    assert (training.batch_size, training.weight_decay, training.clip_norm, recipe.seeds) == (8, 0, 1, (42,))
    assert (training.label_smoothing, training.balance, recipe.protocol.dev) == (0, "none", 0)
    assert recipe.labels.classes == ("neutral", "happy", "angry", "sad"), "class numbers are e0 to e3"
    assert recipe.encoder.name in PRESETS and recipe.encoder.options == {"normalise": True}
    large = recipe.encoder.name == "wav2vec2-large-960h"
    assert large == ("large" in name) and tuning.dropout == (0.1 if large else 0)
    beta = float(name.split("beta")[1]) if "beta" in name else None
    assert (recipe.tasks.speaker.weight if recipe.tasks.speaker else None) == beta


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cai/csv"])
def test_a_recipe_runs(name, iemocap_folder, tiny_wav2vec2, tmp_path, tmp_path_factory):
    published = name == "cai/base-alpha0.1" or "beta" in name
    changes = [] if published else ["protocol.name=group-k-fold", "protocol.k=2"]  # fewer folds
    recipe = short(name, tiny_wav2vec2, f"data.root={iemocap_folder}", *changes)
    cache = tmp_path_factory.getbasetemp() / "cai-cache"
    table = pl.read_parquet(train(recipe, tmp_path, cache, workers=1))
    facts = json.loads((tmp_path / "provenance.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines)
    beta = recipe.tasks.speaker.weight if recipe.tasks.speaker else 0
    learned = {"emotion", *(["ctc"] if recipe.tasks.ctc.weight else []), *(["speaker"] if beta else [])}
    assert heads(tmp_path) == learned
    assert ("text_prediction" in table.columns) == ("ctc" in learned)
    assert ("speaker_prediction" in table.columns) == ("speaker" in learned)
    if recipe.protocol.name == "recording10":
        assert table.height == 80 and table["fold"].n_unique() == 10
        assert table.filter(fold="01F")["id"].str.starts_with("Ses01F").all()
        assert facts["stamp"].startswith("speakers shared: 2")
    elif recipe.protocol.name == "group-k-fold":
        assert table.height == 80 and facts["stamp"] == "speakers shared: 0"
    else:
        assert table.height == 20 and set(table["speaker"].value_counts()["count"]) == {2}
        assert facts["stamp"].startswith("speakers shared: 10")
    if "ctc" in learned:  # the legacy text: letters of tags stay, lower case goes, references end in a space
        assert set(table["text_truth"]) <= {"Y", "LG  NO", "I SEE", "WHAT"} and table["text_truth"].n_unique() > 1
        loss = recipe.tasks.ctc.weight * lines[0]["loss_ctc"] + lines[0]["loss_emotion"]
        assert lines[0]["loss"] == pytest.approx(loss + beta * lines[0].get("loss_speaker", 0), rel=1e-4)


def test_folds_by_talker_share_none(iemocap_folder, tiny_wav2vec2, tmp_path, tmp_path_factory):
    recipe = short("cai/base-alpha0.1", tiny_wav2vec2, f"data.root={iemocap_folder}", "protocol.name=talker10")
    table = pl.read_parquet(train(recipe, tmp_path, tmp_path_factory.getbasetemp() / "cai-cache", workers=1))
    assert table["fold"].n_unique() == 10
    assert json.loads((tmp_path / "provenance.json").read_text())["stamp"] == "speakers shared: 0"


@pytest.fixture(scope="module")
def lists(iemocap_folder, tmp_path_factory):
    """Two published lists with flat names, and the same rows under names that tell nothing of speakers."""
    folder = tmp_path_factory.mktemp("lists")
    manifest = load_data(load_recipe("cai/base-alpha0", [f"data.root={iemocap_folder}"]))
    for part, chosen in (("train", "Ses02"), ("test", "Ses01F")):
        rows = manifest.table.filter(pl.col("id").str.starts_with(chosen))
        write_published_csv(Manifest(rows), folder / f"iemocap_01F.{part}.csv")
        own = [
            "file,emotion,text\n",
            *(f"{row['audio']},{row['emotion']},OH NO\n" for row in rows.iter_rows(named=True)),
        ]
        (folder / f"own.{part}.csv").write_text("".join(own).replace(",happy,", ",glad,").replace(",sad,", ",glum,"))
    return folder


def test_the_published_lists_train(lists, iemocap_folder, tiny_wav2vec2, tmp_path):
    parts = f'data.parts={{ train = "{lists}/iemocap_01F.train.csv", test = "{lists}/iemocap_01F.test.csv" }}'
    recipe = short("cai/csv", tiny_wav2vec2, parts, f"data.root={iemocap_folder}")
    table = pl.read_parquet(train(recipe, tmp_path / "run", tmp_path / "cache", workers=1))
    assert table.height == 8 and set(table["truth"]) == set(recipe.labels.classes)
    assert set(table["speaker"]) == {"01F", "01M"} and "WHAT" in table["text_truth"].to_list()


def test_own_lists_train_on_own_classes(lists, tiny_wav2vec2, tmp_path):
    parts = f'data.parts={{ train = "{lists}/own.train.csv", test = "{lists}/own.test.csv" }}'
    classes = ["neutral", "glad", "angry", "glum"]
    changes = [parts, f"labels.classes={json.dumps(classes)}", "labels.merge={}", "labels.drop=[]"]
    recipe = short("cai/csv", tiny_wav2vec2, *changes)
    table = pl.read_parquet(train(recipe, tmp_path / "run", tmp_path / "cache", workers=1))
    assert set(table["truth"]) == set(classes) and heads(tmp_path / "run") == {"emotion", "ctc"}
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["stamp"] == "speakers unknown"
