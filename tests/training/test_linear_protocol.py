"""emotion2vec's linear protocol: its head, optimiser and schedule against plain PyTorch, its recipes, their stamps."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from serkit.data.corpora import find_corpus
from serkit.data.protocols import create_folds, stamp
from serkit.errors import InputError
from serkit.evaluation.report import write_report
from serkit.models.heads import create_head
from serkit.training import fit as fit_module
from serkit.training.features import FeatureSet, StreamSet
from serkit.training.fit import TrainingOptions, evaluate_dev, fit, schedule_factor
from serkit.training.material import load_data
from serkit.training.recipe import list_recipes, load_recipe
from serkit.training.run import train

torch.set_num_threads(1)

NAMES = [name for name in list_recipes() if name.startswith("emotion2vec/") and name != "emotion2vec/probe"]
WITH_CYCLE = [name for name in NAMES if "iemocap" in name]


def utterances(count, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 4
    arrays = [
        (0.3 * target + torch.randn(1, 3 + row % 5, dim, generator=generator)).half()
        for row, target in enumerate(targets)
    ]
    return FeatureSet(tuple(map(str, range(count))), (StreamSet.of_arrays([arrays]),), targets, torch.ones(count))


class Plain(nn.Module):
    """Written from the paper: linear map of each frame, ReLU, mean over an utterance's frames, linear map."""

    def __init__(self, dim, classes):
        super().__init__()
        self.pre, self.post = nn.Linear(dim, 256), nn.Linear(256, classes)

    def forward(self, arrays):
        return self.post(torch.stack([torch.relu(self.pre(array)).mean(0) for array in arrays]))


def test_the_head_has_the_papers_parameters():
    recipe = load_recipe("emotion2vec/iemocap")
    head = create_head(recipe.head, [(1, 768)], len(recipe.classes))
    assert sum(weight.numel() for weight in head.parameters() if weight.requires_grad) == 197_892


@pytest.mark.parametrize("cycled", [True, False])
def test_training_is_that_of_plain_pytorch(cycled, monkeypatch):
    """RMSprop under CyclicLR, stepped per epoch, on the same batches from the same weights: 25 epochs."""
    recipe = load_recipe("emotion2vec/iemocap", [] if cycled else ["training.cycle_momentum=0.9"])
    options = recipe.training.model_copy(update={"epochs": 25, "batch_size": 8})
    data, dev = utterances(30, 12, 1), utterances(17, 12, 2)
    torch.manual_seed(3)
    # In float64: where gradients are almost zero, RMSprop makes steps of rounding errors.
    head, plain = create_head(recipe.head, [(1, 12)], 4).double(), Plain(12, 4).double()
    with torch.no_grad():
        for ours, other in zip(head.parameters(), plain.parameters(), strict=True):
            other.copy_(ours)
    seen, steps = [], fit_module._create_optimizer

    def watched(*arguments):
        optimizer = steps(*arguments)
        step = optimizer.step

        def record(*given):
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            return step(*given)

        optimizer.step = record
        return optimizer

    monkeypatch.setattr(fit_module, "_create_optimizer", watched)
    history = fit(head, data, dev, options, 7)

    optimizer = torch.optim.RMSprop(plain.parameters(), lr=5e-4, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, 5e-4, 1e-3, step_size_up=10, cycle_momentum=cycled)
    arrays, held = ([array[0].double() for array in part.streams[0].copies[0]] for part in (data, dev))
    rates, best, kept = [], -1.0, None
    for epoch in range(25):
        order = np.random.default_rng([7, epoch]).permutation(30)
        for rows in np.array_split(order, 4):
            optimizer.zero_grad()
            rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            nn.functional.cross_entropy(plain([arrays[row] for row in rows]), data.targets[rows]).backward()
            optimizer.step()
        schedule.step()
        accuracy = float((plain(held).argmax(1) == dev.targets).float().mean())
        assert history[epoch]["dev_accuracy"] == pytest.approx(accuracy)
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(plain.state_dict())
    np.testing.assert_allclose(seen, rates, rtol=1e-9)
    for epoch in (0, 10, 20):  # lowest, highest, lowest
        high = epoch == 10
        assert seen[4 * epoch] == pytest.approx((1e-3 if high else 5e-4, 0.8 if high and cycled else 0.9))
    for ours, other in zip(head.parameters(), kept.values(), strict=True):
        torch.testing.assert_close(ours.detach(), other, atol=1e-6, rtol=0)
    assert best > 0.4 and len({line["dev_accuracy"] for line in history}) > 3  # the choice was one


def test_the_cycle_by_hand():
    options = TrainingOptions(schedule="cyclic", cycle_epochs=2, cycle_peak=3, epochs=7, warmup=0.3)
    factors = [schedule_factor(options, step, 21) for step in range(21)]  # three steps an epoch, all at one rate
    assert factors == [value for value in (1, 2, 3, 2, 1, 2, 3) for _ in range(3)]


def test_momentum_cycles_only_where_it_can():
    for wrong in ({"optimizer": "adam", "schedule": "cyclic"}, {"optimizer": "rmsprop", "schedule": "constant"}):
        with pytest.raises(ValidationError, match="needs optimizer rmsprop and schedule cyclic"):
            TrainingOptions(cycle_momentum=0.8, **wrong)
    with pytest.raises(InputError, match="rmsprop fits heads on cached features, not encoders"):
        load_recipe("emotion2vec/emodb", ["finetune.freeze=encoder"])


def test_rmsprop_goes_on_after_an_interruption_with_the_same_weights(tmp_path, monkeypatch):
    from serkit.training import checkpoint

    monkeypatch.setattr(checkpoint, "SHARE", 0)
    recipe = load_recipe("emotion2vec/iemocap")
    options = recipe.training.model_copy(update={"epochs": 8, "batch_size": 8, "checkpoint_seconds": 0.0})

    def once(folder, report=lambda line: None):
        torch.manual_seed(0)
        head = create_head(recipe.head, [(1, 12)], 4)
        fit(head, utterances(30, 12, 1), None, options, 7, folder, report)
        return head.state_dict()

    def interrupt(line):
        if line["epoch"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path, interrupt)
    whole, resumed = once(None), once(tmp_path)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_accuracy_is_that_of_all_utterances(monkeypatch):
    scores = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    monkeypatch.setattr(fit_module, "predict", lambda head, dev: scores.log_softmax(1))
    dev = replace(utterances(4, 2, 0), targets=torch.tensor([0, 0, 0, 2]))
    line = evaluate_dev(SimpleNamespace(multi=False), dev)
    assert line["dev_accuracy"] == 0.75 and line["dev_uar"] == pytest.approx((2 / 3 + 1) / 2)
    options = TrainingOptions(monitor="accuracy")
    assert options.score(line) == 0.75 and TrainingOptions(monitor="loss").score({"dev_loss": 2.0}) == -2


# Recipes and folds


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_those_of_the_original(name):
    recipe = load_recipe(name)
    training, head = recipe.training, recipe.head
    assert (recipe.encoder.name, recipe.encoder.layers, recipe.features.normalise) == (
        "emotion2vec-base",
        (-1,),
        "none",
    )
    assert (head.frame_hidden, head.hidden, head.activation, head.pooling, head.dropout) == (
        (256,),
        (),
        "relu",
        "mean",
        0,
    )
    assert (training.optimizer, training.lr, training.momentum, training.epochs) == ("rmsprop", 5e-4, 0.9, 100)
    assert (training.schedule, training.cycle_epochs, training.cycle_peak) == ("cyclic", 10, 2)
    assert (training.batch_size, training.weight_decay, training.monitor) == (128, 0, "accuracy")
    assert training.cycle_momentum == (0.8 if name in WITH_CYCLE else None)
    (corpus,) = recipe.data.corpora
    assert find_corpus(corpus).name == corpus and recipe.seeds == (42,)


STAMPS = {
    "iemocap": "speakers shared: 0; dev utterances drawn by chance, speakers shared by train and dev: 7",
    "iemocap-dev-is-test": "speakers shared: 2; chosen on the test part, speakers shared with train: 0",
    "iemocap-speakers": "speakers shared: 0",
    "iemocap-speakers-dev-is-test": "speakers shared: 1; chosen on the test part, speakers shared with train: 0",
}


@pytest.mark.parametrize("short", STAMPS)
def test_an_iemocap_recipe_runs_and_is_stamped(short, iemocap_folder, tiny_wav2vec2, tmp_path, tmp_path_factory):
    encoder = ["encoder=wav2vec2", f"encoder.options.weights={tiny_wav2vec2}"]
    changes = [f"data.root={iemocap_folder}", *encoder, "training.epochs=3"]
    recipe = load_recipe(f"emotion2vec/{short}", changes)
    cache = tmp_path_factory.getbasetemp() / "linear-cache"
    table = pl.read_parquet(train(recipe, tmp_path, cache, workers=1))
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["stamp"] == STAMPS[short]
    test, dev = (table.filter(pl.col("part") == part) for part in ("test", "dev"))
    assert test.height == test["id"].n_unique() == 80 and table["fold"].n_unique() == (10 if "speak" in short else 5)
    report = write_report(tmp_path)
    leaks = [note for note in report["notes"] if note.startswith("LEAK")]
    assert report["stamp"] == STAMPS[short] and bool(leaks) == ("dev-is-test" in short)
    same = set(map(tuple, test.select("fold", "id").rows())) == set(map(tuple, dev.select("fold", "id").rows()))
    assert same == ("dev-is-test" in short)
    if short == "iemocap":
        sizes = {(fold["train"], fold["dev"], fold["test"]) for fold in facts["folds"]}
        assert sizes == {(51, 13, 16)}  # int(.8 * 64) and the rest, as random_split is asked there
    if short == "iemocap-speakers":
        assert dev.group_by("fold").agg(pl.col("speaker").n_unique())["speaker"].to_list() == [1] * 10


def test_dev_utterances_depend_on_the_seed_and_not_on_the_order_of_rows(iemocap_folder):
    manifest = load_data(load_recipe("emotion2vec/iemocap", [f"data.root={iemocap_folder}"]))
    shuffled = manifest.select(manifest.ids[::-1])
    parts = [
        [set(fold.dev) for fold in create_folds(each, "session5", dev=0.2, dev_by="utterance", seed=seed)]
        for each, seed in ((manifest, 0), (shuffled, 0), (manifest, 1))
    ]
    assert parts[0] == parts[1] != parts[2]
    plain = create_folds(manifest, "session5", dev=0.2)
    assert stamp(plain) == "speakers shared: 0" and all(fold.dev_shared == 0 for fold in plain)
    whole = create_folds(manifest, "session5", dev=0, dev_by="utterance")
    assert stamp(whole) == "speakers shared: 0" and not any(fold.dev for fold in whole)
    with pytest.raises(InputError, match='dev_by is "group", "utterance" or "test", got \'chance\''):
        create_folds(manifest, "session5", dev_by="chance")
    with pytest.raises(InputError, match="dev is a share"):
        create_folds(manifest, "session5", dev_by="utterance", dev=1.5)
    with pytest.raises(InputError, match="no option 'dev_by'"):
        create_folds(manifest, "pepino/iemocap", dev_by="test")


def test_choosing_on_the_test_part_is_never_by_accident(iemocap_folder):
    manifest = load_data(load_recipe("emotion2vec/iemocap", [f"data.root={iemocap_folder}"]))
    (fold, *_) = create_folds(manifest, "session5", dev_by="test")
    assert fold.dev == fold.test and fold.train_shared == 0 and not fold.declares_shared
    with pytest.raises(InputError, match="stands in more than one part"):
        replace(fold, dev_is_test=False)
    with pytest.raises(InputError, match="dev_is_test, but the dev part is another"):
        replace(fold, dev=fold.dev[1:])
    with pytest.raises(InputError, match="is in training and test"):
        moved = fold.test[-1]
        kept = fold.test[:-1]
        replace(fold, train=(*fold.train, moved), dev=kept, test=kept)


def test_a_search_refuses_it(iemocap_folder):
    from serkit.training.searching.trials import dev_folds

    changes = [f"data.root={iemocap_folder}", "search.trials=1", "search.space={'training.lr'={low=1e-4, high=1e-3}}"]
    recipe = load_recipe("emotion2vec/iemocap-dev-is-test", changes)
    with pytest.raises(InputError, match="is its test part, and a search never sees those"):
        dev_folds(recipe, recipe.search, load_data(recipe))
