"""Several labels at once: from columns of a manifest through training to what is judged, with every kind of head."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from speech import write_tiny_whisper
from torch import nn
from typer.testing import CliRunner

from serkit.cli import app
from serkit.data.files import read_object
from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.export import check_exportable
from serkit.models.heads import Batch, Ensemble, HeadConfig, Stream, create_head
from serkit.models.losses import presence_losses
from serkit.training.features import FeatureSet, StreamSet
from serkit.training.fit import TrainingOptions, evaluate_dev, fit, predict
from serkit.training.material import encode_all, load_data, load_material
from serkit.training.presence import (
    cell_weights,
    check_presence,
    judge_presence,
    presence_columns,
    presence_targets,
    with_presence,
)
from serkit.training.recipe import load_recipe

torch.set_num_threads(1)

CLASSES = ("happy", "sad", "angry")
PITCH = {"happy": 250, "sad": 700, "angry": 1600}
WORDS = {"happy": "nice", "sad": "sorry", "angry": "damn"}
RECIPE = """
name = "several"
seeds = [0]
[data]
manifest = "{root}/manifest.jsonl"
[labels]
multi = true
classes = ["happy", "sad", "angry"]
[protocol]
name = "leave-one-speaker-out"
dev = 0.34
[encoder]
name = "whisper"
layers = [0, 2]
options = {{ weights = "{root}/tiny.safetensors" }}
stride = 2
[training]
epochs = 30
batch_size = 8
lr = 0.01
"""
HEADS = {
    "pooled": ["head.kind=pooled", "head.dropout=0.1", "training.epochs=60"],
    "frames": [
        "head.kind=frames", "head.frame_hidden=[16]", "head.dropout=0.0", "head.members=2", "training.epochs=60",
        "training.lr=0.02",
    ],
    "mat": [
        "fusion={hidden=16, feedforward=16, attention_heads=2, layers=1, dropout_output=0.1}",
        "text={dim=8, max_words=6}", "training.reduction=sum", "training.lr=0.005", "training.epochs=40",
        "training.clip_norm=1",
    ],
}  # fmt: skip


def create_rows(speaker: str) -> list[dict]:
    """Every set of classes twice; who has a class has more or less of it, and one is not known of some utterances."""
    rows = []
    for number, has in enumerate(itertools.product((0, 1), repeat=3)):
        for turn in range(2):
            amounts = {
                name: None if (number + turn, name) == (3, "sad") else is_ * (0.33 + turn)
                for name, is_ in zip(CLASSES, has, strict=True)
            }
            text = " ".join(["well", *(WORDS[name] for name, is_ in zip(CLASSES, has, strict=True) if is_)])
            rows.append({
                "id": f"{speaker}-{2 * number + turn}", "speaker": speaker, "corpus": "made", "text": text, **amounts,
                "sound": [PITCH[name] for name, is_ in zip(CLASSES, has, strict=True) if is_],
            })  # fmt: skip
    return rows


def write_sounds(folder: Path, rows: list[dict]) -> Manifest:
    """Write a tone for every class that is present; the manifest has a column for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, row in enumerate(rows):
        time = np.arange(4800) / 16_000
        wave = sum((np.sin(2 * np.pi * pitch * time) for pitch in row.pop("sound")), np.zeros(len(time)))
        row["audio"] = str(folder / f"{row['id']}.wav")
        noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
        soundfile.write(row["audio"], 0.15 * wave + noise, 16_000, subtype="FLOAT")
    return Manifest.from_rows(rows)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("several")
    rows = [row for speaker in ("a", "b", "c") for row in create_rows(speaker)]
    rows.append({**rows[0], "id": "nothing", "happy": None, "sad": None, "angry": None})
    write_sounds(root / "sounds", rows).write(root / "manifest.jsonl")
    write_tiny_whisper(root / "tiny.safetensors", 200)
    (root / "several.toml").write_text(RECIPE.format(root=root), encoding="utf-8")
    return root


def run(*words: object):
    made = CliRunner().invoke(app, [str(word) for word in words])
    said = made.output if made.exit_code == 0 else str(made.exception)
    return made, " ".join(said.split())


# From recordings to a report


@pytest.mark.parametrize("kind", HEADS)
def test_emotions_are_recognised_together(kind, root, tmp_path):
    folder = tmp_path / kind
    made, said = run(
        "train", root / "several.toml", *HEADS[kind], "-o", folder, "--cache", root / "cache", "--workers", 1
    )
    assert made.exit_code == 0, said
    assert "several labels at once: 3 classes" in said and "thresholds" not in said.split("accuracy")[0]
    table = pl.read_parquet(folder / "predictions.parquet")
    assert not {"truth", "prediction"} & set(table.columns)
    assert [name for name in table.columns if name.endswith(("_present", "_chance"))] == [
        f"{name}_{what}" for name in CLASSES for what in ("present", "chance")
    ]
    tested = table.filter(pl.col("part") == "test")
    assert tested.height == 48 and "nothing" not in tested["id"]
    written = {row["id"]: row for row in Manifest.read(root / "manifest.jsonl").table.iter_rows(named=True)}
    for row in tested.iter_rows(named=True):
        amounts = [written[row["id"]][name] for name in CLASSES]
        assert [row[f"{name}_present"] for name in CLASSES] == [a if a is None else a > 0 for a in amounts]
    labels = read_object(folder / "report.json")["labels"]
    for name in CLASSES:
        figures = labels["each"][name]["metrics"]
        assert figures["balanced_accuracy"]["low"] > 0.6 and figures["roc_auc"]["value"] > 0.8, (name, figures)
    assert labels["each"]["sad"]["n"] == 42
    made, again = run("evaluate", folder)
    assert made.exit_code == 0 and f"{labels['metrics']['f1_macro']['value']:.3f}" in again
    history = [line for line in (folder / "history.jsonl").read_text().splitlines() if "dev_uar" in line]
    assert history and all("dev_accuracy" in line and "dev_loss" in line for line in history)


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    made, said = run("train", root / "several.toml", *HEADS["pooled"], "-o", folder, "--cache", root / "cache",
                  "--workers", 1)  # fmt: skip
    assert made.exit_code == 0, said
    return folder


def test_a_finished_run_is_carried_on(root, finished):
    before = (finished / "predictions.parquet").read_bytes()
    made, _ = run("train", root / "several.toml", *HEADS["pooled"], "-o", finished, "--cache", root / "cache")
    assert made.exit_code == 0 and (finished / "predictions.parquet").read_bytes() == before
    recorded = load_recipe(finished / "recipe.toml")
    assert recorded.multi and recorded.training.balance == "none" and recorded.training.monitor == "loss"


def test_models_judge_another_corpus_that_lacks_a_class(root, finished, tmp_path):
    other = write_sounds(tmp_path / "other", [{**row, "corpus": "other"} for row in create_rows("z")])
    other = Manifest(other.table.drop("angry").with_columns(happy=pl.col("happy").fill_null(0).cast(pl.String)))
    other.write(tmp_path / "other.csv")
    made, said = run("evaluate", finished, "--on", tmp_path / "other.csv", "--cache", root / "cache", "--workers", 1)
    assert made.exit_code == 0, said
    report = read_object(finished / "on" / "other" / "report.json")
    assert report["provenance"]["classes"] == ["happy", "sad"] and report["utterances"] == 16
    each = report["labels"]["each"]
    assert each["angry"]["n"] == 0 and "not known of any" in each["angry"]["metrics"]["f1"]["reason"]
    assert each["happy"]["metrics"]["balanced_accuracy"]["value"] > 0.7
    made, said = run("evaluate", finished, "--on", tmp_path / "other.csv", "--merge", "joy=happy")
    assert made.exit_code and "several labels at once are columns" in said
    Manifest(other.table.drop("happy", "sad")).write(tmp_path / "none.csv")
    made, said = run("evaluate", finished, "--on", tmp_path / "none.csv")
    assert made.exit_code and "labels.classes names 'happy', which the manifest lacks" in said


def test_what_takes_one_label_says_so(root, finished, tmp_path):
    made, said = run("export", finished, "-o", tmp_path / "bundle")
    assert made.exit_code and "learned several labels at once, and a bundle recognises one" in said
    with pytest.raises(InputError, match="several labels at once"):
        check_exportable(finished, load_recipe(finished / "recipe.toml"))
    made, said = run("matrix", finished, "-o", tmp_path / "matrix")
    assert made.exit_code and "several labels at once, which serkit evaluate and serkit compare judge" in said
    made, said = run("compare", finished, finished)
    assert made.exit_code and "uar: the run has learned no classes" in said
    made, said = run("compare", finished, finished, "--metric", "labels.accuracy")
    assert made.exit_code == 0 and "labels.accuracy differs by +0.000" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['labels.classes=["happy","glad"]'], "labels.classes names 'glad', which the manifest lacks"),
        (['labels.classes=["happy","happy"]'], "one or more different columns"),
        (['labels.classes=["happy","text"]'], "text of an utterance is 'well': a class is a number"),
        (['labels.column="sentiment"'], "leave out column, merge and drop"),
        (['labels.merge={joy="happy"}'], "leave out column, merge and drop"),
        (["training.balance=count"], 'with labels.multi it is "none" or "class", not count'),
        (["training.label_smoothing=0.1"], "set it to 0 with labels.multi"),
        (["training.class_weights={happy=2.0}"], "class_weights: 'angry' is not listed"),
        (["finetune.freeze=none"], "learned on cached features: leave out finetune"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_named(overrides, message, root, tmp_path):
    made, said = run(
        "train", root / "several.toml", *overrides, "-o", tmp_path / "run", "--cache", root / "cache", "--workers", 1
    )
    assert made.exit_code and message in said, said


def test_a_class_that_no_training_utterance_has_is_named_before_anything_is_encoded(root, tmp_path):
    manifest = Manifest.read(root / "manifest.jsonl")
    rare = pl.when(pl.col("speaker") == "a").then("angry").otherwise(pl.col("angry") * 0)
    Manifest(manifest.table.with_columns(angry=rare)).write(tmp_path / "rare.jsonl")
    words = ["train", root / "several.toml", f"data.manifest={tmp_path / 'rare.jsonl'}", "-o", tmp_path / "run"]
    made, said = run(*words, "--cache", tmp_path / "cache")
    assert made.exit_code and "no training utterance has 'angry': leave it out of labels.classes" in said
    assert not (tmp_path / "cache").exists()


def test_a_plan_knows_how_long_it_takes(root, tmp_path):
    for kind in HEADS:
        made, said = run(
            "train", root / "several.toml", *HEADS[kind], "--plan", "--cache", root / "cache", "-o", tmp_path
        )
        assert made.exit_code == 0 and "several" in said, said


def test_truths_line_up_with_utterances_and_classes(root):
    """Whatever the order of the classes in the recipe, each head output is that of its own class."""
    recipe = load_recipe(root / "several.toml", ['labels.classes=["angry","happy","sad"]'])
    manifest = load_data(recipe)
    material = load_material(recipe, manifest, encode_all(recipe, manifest, root / "cache", workers=1))
    wanted = manifest.table.select("angry", "happy", "sad").cast(pl.Float64).to_numpy()
    np.testing.assert_array_equal(material.features.targets.numpy(), wanted.astype(np.float32))
    assert len(manifest) == 48 and set(np.unique(wanted[~np.isnan(wanted)])) == {0, 1}
    ids = manifest.ids[::-1][:5]
    head = create_head(recipe.head, material.shapes, 3)
    head.multi = True
    columns = material.columns(head, ids)
    rows = manifest.select(ids).table
    assert columns["happy_present"] == [None if v is None else v > 0 for v in rows["happy"]]
    chances = predict(head, material.features.take(material.rows(ids))).sigmoid()
    assert columns["sad_chance"] == pytest.approx(chances[:, 2].tolist())


# Manifests


def manifest_of(**columns) -> Manifest:
    count = len(next(iter(columns.values())))
    return Manifest(
        pl.DataFrame({"id": [f"u{n}" for n in range(count)], "audio": ["x.wav"] * count, **columns}, strict=False)
    )


@pytest.mark.parametrize(
    "happy",
    [[0.33, -1.0, 0.0, None, None], ["0.33", "-1", "0", "", None], [True, False, False, None, None],
     [3, 0, 0, None, None], [0.33, 0.0, -0.0, float("nan"), None]],
)  # fmt: skip
def test_a_class_is_present_above_zero(happy):
    made = with_presence(manifest_of(happy=happy, sad=[1, 0, None, None, 1]), ("sad", "happy"), "here")
    assert made.ids == ["u0", "u1", "u2", "u4"]
    np.testing.assert_array_equal(presence_targets(made, ("sad", "happy")), [[1, 1], [0, 0], [np.nan, 0], [1, np.nan]])


def test_columns_that_are_lacking_or_no_numbers():
    manifest = manifest_of(happy=[1, 0], sad=["0.5", "much"])
    with pytest.raises(InputError, match="here: labels.classes names 'sat', which the manifest lacks.*sad"):
        with_presence(manifest, ("happy", "sat"), "here")
    with pytest.raises(InputError, match="here: sad of an utterance is 'much'"):
        with_presence(manifest, ("happy", "sad"), "here")
    made = with_presence(manifest, ("happy", "fear"), "here", lacking=True)
    np.testing.assert_array_equal(presence_targets(made, ("fear", "happy")), [[np.nan, 1], [np.nan, 0]])
    with pytest.raises(InputError, match="names 'fear'"):
        with_presence(manifest, ("fear",), "here", lacking=True)


# The loss


def bce(scores, targets, weight=None):
    return nn.BCEWithLogitsLoss(reduction="none", pos_weight=weight)(scores, targets)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 10**6))
def test_losses_are_those_of_pytorch_over_known_cells(count, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, count, classes, generator=generator) * 5
    targets = (torch.rand(count, classes, generator=generator) < 0.5).float()
    torch.testing.assert_close(presence_losses(scores, targets), torch.stack([bce(s, targets).sum(1) for s in scores]))
    lost = torch.rand(count, classes, generator=generator) < 0.3
    known = targets.masked_fill(lost, torch.nan)
    leaf = scores.clone().requires_grad_()
    made = presence_losses(leaf, known)
    torch.testing.assert_close(made, torch.stack([(bce(s, targets) * ~lost).sum(1) for s in scores]))
    made.sum().backward()
    assert not leaf.grad[:, lost].any() and leaf.grad.isfinite().all()


def test_weights_of_cells_are_pos_weights():
    targets = torch.tensor([[1, 0, torch.nan], [0, 0, 1], [0, 1, 1], [0, torch.nan, 0.0]])
    wanted = torch.tensor([3.0, 2.0, 0.5])
    for weights in (cell_weights(targets, CLASSES, "class", {}),
                    cell_weights(targets, CLASSES, "none", {"angry": 0.5, "happy": 3, "sad": 2})):  # fmt: skip
        scores, filled = torch.randn(4, 3), targets.nan_to_num()
        known = ~targets.isnan()
        torch.testing.assert_close(
            presence_losses(scores, targets, weights), (bce(scores, filled, wanted) * known).sum(1)
        )
    assert (cell_weights(targets, CLASSES, "none", {}) == 1).all()
    with pytest.raises(InputError, match="'sad' is not listed"):
        cell_weights(targets, CLASSES, "none", {"happy": 1.0, "angry": 1.0})
    with pytest.raises(InputError, match="no training utterance lacks 'sad'"):
        cell_weights(torch.tensor([[1, 1, 0], [0, 1, 1.0]]), CLASSES, "class", {})
    with pytest.raises(InputError, match="no training utterance has 'angry'"):
        check_presence(torch.tensor([[1, 1, 0], [0, 1, torch.nan]]), CLASSES, "here")


def create_set(count=40, seed=0, unknown=0.1) -> FeatureSet:
    """Statistics that tell which of three classes are present."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(count, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.2])).float()
    statistics = 0.5 * torch.randn(1, count, 2, 1, 4, generator=generator)
    statistics[0, :, 0, 0, :3] += targets
    targets[torch.rand(count, 3, generator=generator) < unknown] = torch.nan
    stream = StreamSet(statistics, torch.full((1, count), 9), ())
    return FeatureSet(tuple(map(str, range(count))), (stream,), targets, torch.ones(count, 3))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("balance", ["none", "class"])
def test_training_is_that_of_plain_pytorch(balance, reduction):
    data = create_set()
    data = replace(data, weights=cell_weights(data.targets, CLASSES, balance, {}))
    torch.manual_seed(0)
    head = create_head(HeadConfig(kind="pooled", dropout=0.0), [(1, 4)], 3)
    linear = nn.Linear(8, 3)
    linear.load_state_dict(head.heads[0].decide[-1].state_dict())
    options = TrainingOptions(
        epochs=6, batch_size=100, optimizer="adam", lr=0.05, weight_decay=0, schedule="constant", warmup=0,
        label_smoothing=0, balance=balance, reduction=reduction,
    )  # fmt: skip
    history = fit(head, data, None, options, 0)
    known, targets = ~data.targets.isnan(), data.targets.nan_to_num()
    weight = (targets == 0).logical_and(known).sum(0) / targets.sum(0) if balance == "class" else None
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.05)
    for line in history:
        each = (bce(linear(data.streams[0].statistics[0].flatten(1)), targets, weight) * known).sum(1)
        optimizer.zero_grad()
        (each.sum() if reduction == "sum" else each.mean()).backward()
        optimizer.step()
        assert line["loss"] == pytest.approx(float(each.detach().mean()), rel=1e-5)
    for name, value in linear.state_dict().items():
        torch.testing.assert_close(head.heads[0].decide[-1].state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_convex_fit_of_the_classes_is_one_of_each():
    """Classes share nothing in a linear head, so learning them together is learning each alone."""
    data = create_set(80, unknown=0)
    options = TrainingOptions(optimizer="lbfgs", epochs=200, weight_decay=0.02, label_smoothing=0, balance="none")
    config = HeadConfig(kind="pooled", dropout=0.0)
    head = create_head(config, [(1, 4)], 3)
    head.multi = True
    fit(head, data, None, options, 0)
    together = predict(head, data)
    for place in range(3):
        one = create_head(config, [(1, 4)], 1)
        one.multi = True
        alone = replace(data, targets=data.targets[:, [place]], weights=data.weights[:, [place]])
        fit(one, alone, None, options, 0)
        torch.testing.assert_close(together[:, place], predict(one, alone)[:, 0], rtol=1e-2, atol=1e-2)


# What a dev part says, and what several members say


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_dev_figures_are_those_of_the_known_cells(count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, 3, generator=generator)
    targets = (torch.rand(count, 3, generator=generator) < 0.4).float()
    lost = torch.rand(count, 3, generator=generator) < 0.2
    lost[0] = False
    made = judge_presence(scores, targets.masked_fill(lost, torch.nan))
    balanced, right = [], []
    for place in range(3):
        known = ~lost[:, place]
        truth, said = targets[known, place].numpy() > 0, scores[known, place].numpy() > 0
        right += (truth == said).tolist()
        balanced.append(
            balanced_accuracy_score(truth, said) if len(set(truth.tolist())) > 1 else np.mean(truth == said)
        )
    assert made["dev_accuracy"] == pytest.approx(np.mean(right))
    assert made["dev_uar"] == pytest.approx(np.mean(balanced))
    assert made["dev_loss"] == pytest.approx(float((bce(scores, targets) * ~lost).sum(1).mean()), rel=1e-5)


class Says(nn.Module):
    """A member that always gives the same scores."""

    needs_frames = False

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, batch):
        return self.scores.expand(len(batch.streams[0].statistics), -1)


def test_members_are_averaged_as_log_odds():
    head = Ensemble([Says([2.0, -1.0, 0.0]), Says([0.0, -3.0, 4.0])])
    head.multi = True
    torch.testing.assert_close(head(Batch((Stream(torch.zeros(2, 2, 1, 4)),))), torch.tensor([[1.0, -2.0, 2.0]] * 2))
    data = create_set(2)
    columns = presence_columns(predict(head, data), torch.tensor([[1, 0, torch.nan], [0, 1, 0]]), CLASSES)
    assert columns["happy_present"] == [True, False] and columns["angry_present"] == [None, False]
    assert columns["sad_chance"] == pytest.approx([1 / (1 + np.exp(2))] * 2)
    one_label = replace(data, targets=torch.tensor([0, 2]), weights=torch.ones(2))
    head.multi = False
    assert predict(head, one_label).exp().sum(1).tolist() == pytest.approx([1, 1])
    assert evaluate_dev(head, one_label)["dev_accuracy"] == 0.5
