"""The training loop: seeded to the bit, resumable at any point, choosing on the dev part and nothing else."""

from __future__ import annotations

import contextlib
import copy
import inspect
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from serkit.errors import InputError
from serkit.training import checkpoint
from serkit.training import fit as fit_module
from serkit.training.checkpoint import Progress
from serkit.training.finetune import finetune
from serkit.training.fit import (
    TrainingOptions,
    balance_weights,
    evaluate_dev,
    fit,
    listed_weights,
    predict,
    schedule_factor,
)
from serkit.training.material import Material
from serkit.training.recordings import Recordings

torch.set_num_threads(1)

# Kept as text because another process runs it too.
TASK = """
import sys, torch
from pathlib import Path
from serkit.models.heads import HeadConfig, create_head
from serkit.training.features import FeatureSet, StreamSet, fit_standardisation
from serkit.training.checkpoint import Progress
from serkit.training import checkpoint
from serkit.training.fit import TrainingOptions, fit
torch.set_num_threads(1)
checkpoint.SHARE = 0

def part(count, seed, copies=2):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    pairs = list(enumerate(targets))
    arrays = tuple(
        tuple((target + torch.randn(2, 5 + row % 4, 4, generator=generator)).half() for row, target in pairs)
        for _ in range(copies)
    )
    streams = (StreamSet.of_arrays(arrays),)
    return FeatureSet(tuple(f"{seed}-{row}" for row in range(count)), streams, targets, torch.ones(count))

def new_head(seed=0, **config):
    torch.manual_seed(seed)
    head = create_head(HeadConfig(**{"frame_hidden": (6,), "members": 2, **config}), [(2, 4)], 3)
    fit_standardisation(head, part(24, 1))
    return head

OPTIONS = TrainingOptions(epochs=6, batch_size=7, lr=0.01, crop=0.6, checkpoint_seconds=0, clip_norm=1.0)

if __name__ == "__main__":
    fit(new_head(), part(24, 1), part(9, 2), OPTIONS.model_copy(update={"epochs": 100_000}), 5, Path(sys.argv[1]),
        lambda line: print(line["epoch"], flush=True))
"""


@pytest.fixture(autouse=True)
def checkpoints_at_any_price(monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 0)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "task.py"
    path.write_text(TASK, encoding="utf-8")
    names = runpy.run_path(str(path))
    return SimpleNamespace(path=path, part=names["part"], new_head=names["new_head"], OPTIONS=names["OPTIONS"])


def with_(options, **changes):
    return TrainingOptions(**{**options.model_dump(), **changes})


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def trained(task, seed=5, options=None, folder=None, dev=True, report=lambda line: None):
    head = task.new_head()
    history = fit(
        head, task.part(24, 1), task.part(9, 2) if dev else None, options or task.OPTIONS, seed, folder, report
    )
    return head, history


def without_time(history):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in history]


# Weights and schedules by hand


def test_balance_by_hand():
    targets = torch.tensor([0, 0, 0, 1])
    assert balance_weights(targets, ["a"] * 4, "none").tolist() == [1, 1, 1, 1]
    assert balance_weights(targets, ["a"] * 4, "class").tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    targets, corpora = torch.tensor([0, 0, 0, 1, 1]), ["a", "a", "b", "a", "a"]
    by_both = balance_weights(targets, corpora, "corpus-class")
    # Each class has 2.5 of 5; in class 0 corpora a and b have 1.25 each.
    assert by_both.tolist() == pytest.approx([0.625, 0.625, 1.25, 1.25, 1.25])
    assert balance_weights(targets, corpora, "class").tolist() == pytest.approx([5 / 6] * 3 + [1.25] * 2)


def test_weights_by_count_are_those_of_pytorch(task, monkeypatch):
    """Weighted cross-entropy divides by the weights of the batch; the penalty is that of every parameter behind."""
    torch.manual_seed(0)
    data = task.part(10, 4, 1)
    targets = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    data = replace(data, targets=targets, weights=balance_weights(targets, ["a"] * 10, "count"))
    config = {"members": 1, "batch_norm": True, "dropout": 0, "pooling": "mean"}
    head, other = task.new_head(**config), task.new_head(**config)
    gradients = []

    class Watching(torch.optim.AdamW):
        def step(self, closure=None):
            gradients.append([weight.grad.clone() for weight in head.parameters()])

    monkeypatch.setattr(fit_module.torch.optim, "AdamW", Watching)
    options = with_(task.OPTIONS, epochs=1, batch_size=5, label_smoothing=0, balance="count", head_l2=0.03, crop=1,
                    clip_norm=0)  # fmt: skip
    history = fit(head, data, None, options, 1)
    order, losses = np.random.default_rng([1, 0]).permutation(10), []
    for rows, found in zip(np.array_split(order, 2), gradients, strict=True):
        index = torch.from_numpy(rows)
        scores = other.train().each(data.batch(rows.tolist()))[0]
        loss = torch.nn.functional.cross_entropy(scores, targets[index], weight=1 / torch.tensor([5.0, 3, 2]))
        loss = loss + 0.03 * sum(weight.norm() ** 2 for weight in other.heads[0].decide.parameters())
        losses.append(float(loss.detach()))
        for one, two in zip(found, torch.autograd.grad(loss, list(other.parameters())), strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert len(gradients) == 2 and history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(list(other.heads[0].decide.parameters())) == 4  # batch normalisation and the map, biases too


def test_batch_normalisation_is_used_as_it_was_learned_and_travels_with_the_weights(task, tmp_path):
    options = with_(task.OPTIONS, epochs=3)
    head = task.new_head(batch_norm=True)
    fit(head, task.part(24, 1), task.part(9, 2), options, 5, tmp_path)
    state = head.state_dict()
    means = [name for name in state if name.endswith("decide.0.mean")]
    assert len(means) == 2 and all(state[name].any() for name in means)
    again = task.new_head(seed=1, batch_norm=True)
    again.load_state_dict(state)
    part = task.part(9, 2)
    one, two, alone = predict(head, part), predict(again, part, 3), predict(again, part.take([4]))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(alone, one[4:5])


@pytest.mark.parametrize("warmup", [0.0, 0.15, 0.5])
def test_schedules_start_low_peak_at_one_and_end_near_zero(warmup):
    for schedule in ("one-cycle", "cosine", "constant"):
        options = TrainingOptions(schedule=schedule, warmup=warmup)
        factors = np.array([schedule_factor(options, step, 1000) for step in range(1000)])
        peak = int(factors.argmax())
        assert factors.max() == pytest.approx(1, abs=1e-3) and factors.min() >= 0
        assert abs(peak - warmup * 1000) <= 1
        assert factors[0] < 0.05 or warmup == 0
        assert (np.diff(factors[: peak + 1]) > 0).all() and (np.diff(factors[peak:]) <= 0).all()
        assert factors[-1] == 1 if schedule == "constant" else factors[-1] < 1e-4
    options = TrainingOptions(schedule="one-cycle", warmup=0.2)
    assert schedule_factor(options, 0, 100) == pytest.approx(0.04)
    assert schedule_factor(options, 10, 100) == pytest.approx(0.52)
    assert schedule_factor(options, 60, 100) == pytest.approx(0.5)


def test_the_dev_part_is_judged_by_hand(monkeypatch, task):
    scores = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    monkeypatch.setattr(fit_module, "predict", lambda head, dev: scores.log_softmax(1))
    dev = task.part(4, 0)
    object.__setattr__(dev, "targets", torch.tensor([0, 0, 0, 2]))
    line = evaluate_dev(task.new_head(), dev)
    right = -float(scores.log_softmax(1)[0, 0])
    assert line["dev_uar"] == pytest.approx((2 / 3 + 1) / 2)
    assert line["dev_loss"] == pytest.approx((3 * right + right + 2) / 4)


def test_predictions_do_not_depend_on_the_batch_size(task):
    head, features = task.new_head(), task.part(11, 3)
    scores = predict(head, features)
    torch.testing.assert_close(scores, predict(head, features, batch_size=3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(11))
    assert not head.training


# Seeds and interruptions


def test_a_seed_decides_to_the_bit(task):
    (one, first), (two, second), (three, _) = trained(task), trained(task), trained(task, seed=6)
    assert same(one, two) and without_time(first) == without_time(second)
    assert not same(one, three)
    assert first[-1]["loss"] < first[0]["loss"] and [line["epoch"] for line in first] == [1, 2, 3, 4, 5, 6]


def test_what_ran_before_does_not_matter(task):
    one, _ = trained(task)
    torch.rand(100)
    np.random.default_rng().random(10)
    head = task.new_head()
    torch.manual_seed(99)
    fit(head, task.part(24, 1), task.part(9, 2), task.OPTIONS, 5)
    assert same(one, head)


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "patience": 2, "monitor": "loss", "lr": 0.2}])
def test_an_interrupted_training_ends_with_the_same_weights(epoch, changes, task, tmp_path):
    options = with_(task.OPTIONS, **changes)
    whole, history = trained(task, options=options)

    def interrupt(line):
        if line["epoch"] == epoch:
            raise KeyboardInterrupt

    if epoch <= len(history):
        with pytest.raises(KeyboardInterrupt):
            trained(task, options=options, folder=tmp_path, report=interrupt)
    seen = []
    again, resumed = trained(task, options=options, folder=tmp_path, report=lambda line: seen.append(line["epoch"]))
    assert same(whole, again) and without_time(history) == without_time(resumed)
    assert seen == list(range(min(epoch, seen[0]), len(history) + 1))
    assert epoch > len(history) or seen[0] == epoch, "finished epochs were trained again"


def test_a_killed_training_ends_with_the_same_weights(task, tmp_path):
    process = subprocess.Popen([sys.executable, str(task.path), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 8:
            break
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    process.stdout.close()
    head = task.new_head()
    optimizer = fit_module._create_optimizer(head, task.OPTIONS)
    state = Progress(tmp_path, head.state_dict, head.load_state_dict, optimizer, 0)
    state.resume()
    assert state.epoch >= 7
    # One-cycle depends on how many epochs there are: the task's own number, cut short by an interruption.
    last, options = state.epoch + 2, with_(task.OPTIONS, epochs=100_000)

    def weights_at(folder):
        head, kept = task.new_head(), []

        def stop(line):
            if line["epoch"] == last:
                kept.append(copy.deepcopy(head))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(head, task.part(24, 1), task.part(9, 2), options, 5, folder, stop)
        return kept[0]

    assert same(weights_at(tmp_path), weights_at(None))


def test_checkpoints_are_not_written_more_often_than_asked(task, tmp_path):
    trained(task, folder=tmp_path, options=with_(task.OPTIONS, checkpoint_seconds=60))
    assert not list(tmp_path.iterdir())
    trained(task, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_checkpoints_that_are_slow_to_write_are_few(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 2))  # every look at the clock takes two seconds
    monkeypatch.setattr(checkpoint, "SHARE", 5)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    weights = {"a": torch.ones(2)}
    state = Progress(tmp_path, lambda: weights, weights.update, torch.optim.Adam([torch.ones(2)]), 3)
    assert [state.due(), state.due()] == [False, True]
    state.save()
    assert state.cost == 2 and [state.due() for _ in range(5)] == [False] * 4 + [True]


# Choosing


@pytest.mark.parametrize("monitor", ["uar", "loss"])
def test_the_best_epoch_is_kept_and_patience_ends(monitor, task, monkeypatch):
    uars = iter([0.1, 0.5, 0.4, 0.5, 0.9, 0.9])
    monkeypatch.setattr(
        fit_module, "evaluate_dev", lambda *_: {"dev_uar": (value := next(uars)), "dev_loss": 1 - value}
    )
    head, weights = task.new_head(), []
    options = with_(task.OPTIONS, patience=2, monitor=monitor)
    keep = lambda line: weights.append(copy.deepcopy(head))  # noqa: E731
    history = fit(head, task.part(24, 1), task.part(9, 2), options, 5, None, keep)
    assert len(history) == 4
    assert same(head, weights[1]) and not same(head, weights[3])


def test_patience_survives_an_interruption(task, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_module, "evaluate_dev", lambda *_: {"dev_uar": 0.5, "dev_loss": 1.0})
    options = with_(task.OPTIONS, patience=2)

    def interrupt(line):
        if line["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(task, options=options, folder=tmp_path, report=interrupt)
    assert len(trained(task, options=options, folder=tmp_path)[1]) == len(trained(task, options=options)[1]) == 3


# Epochs no better than the best: 2 and 4 reload it, 5 counts for patience until 6 is better, 7 to 9 end it.
RELOADED = [0.5, 0.4, 0.6, 0.6, 0.5, 0.7, 0.7, 0.6, 0.7, 0.9]
RELOADING = {"schedule": "reload", "patience": 3, "decays": 2, "decay": 0.2, "epochs": 20, "monitor": "accuracy"}


@pytest.fixture
def reloading(monkeypatch):
    """Fit by the rule of MAT and MNT; returns lr, weights and moments as each epoch left them."""

    def run(task, folder=None, stop=None, **options):
        epochs, seen = iter(RELOADED), []
        kept: list[torch.optim.Optimizer] = []
        create = fit_module._create_optimizer
        monkeypatch.setattr(fit_module, "_create_optimizer", lambda *given: kept.append(create(*given)) or kept[-1])
        for _ in range(len(finished_epochs(folder))):
            next(epochs)
        told = lambda *_: {"dev_accuracy": next(epochs), "dev_uar": 0.0, "dev_loss": 0.0}  # noqa: E731
        monkeypatch.setattr(fit_module, "evaluate_dev", told)

        def report(line):
            group = kept[-1].param_groups[0]
            steps = int(kept[-1].state_dict()["state"][0]["step"])
            seen.append((group["lr"], steps, copy.deepcopy(head)))
            if line["epoch"] == stop:
                raise KeyboardInterrupt

        head = task.new_head()
        options = with_(task.OPTIONS, **{**RELOADING, **options})
        with contextlib.suppress(KeyboardInterrupt):
            fit(head, task.part(24, 1), task.part(9, 2), options, 5, folder, report)
        monkeypatch.setattr(fit_module, "_create_optimizer", create)
        return head, seen

    return run


def finished_epochs(folder):
    if folder is None or not (folder / "checkpoint.safetensors").exists():
        return []
    state = Progress(folder, dict, lambda state: None, torch.optim.SGD([torch.zeros(1)]), 0)
    state._load_moments = lambda moments: None
    state.resume()
    return state.history


def test_reloading_goes_back_twice_and_then_loses_patience(task, reloading):
    head, seen = reloading(task)
    rates, steps, heads = zip(*seen, strict=True)
    assert len(seen) == 9
    np.testing.assert_allclose(rates, [0.01] * 2 + [0.002] * 2 + [0.0004] * 5)
    each = steps[0]  # of an epoch
    assert [step / each for step in steps] == [1, 1, 2, 2, 3, 4, 5, 6, 7]  # moments go back as well
    assert same(heads[1], heads[0]) and same(heads[3], heads[2]) and not same(heads[4], heads[2])
    assert same(head, heads[5])


def test_reloading_survives_an_interruption(task, reloading, tmp_path):
    whole, seen = reloading(task)
    for stop in (3, 5, 8):
        folder = tmp_path / str(stop)
        reloading(task, folder, stop)
        again, rest = reloading(task, folder)
        assert same(whole, again) and len(rest) == 10 - stop
        np.testing.assert_allclose([rate for rate, *_ in rest], [rate for rate, *_ in seen[stop - 1 :]])


def test_the_loss_may_be_a_sum(task):
    """The sum over a step is the mean times its size: with Adam's scale-free steps only epsilon tells them apart."""
    options = with_(task.OPTIONS, clip_norm=0, epsilon=1e-30, weight_decay=0, batch_size=8)
    mean, history = trained(task, options=options, dev=False)
    total, summed = trained(task, options=with_(options, reduction="sum"), dev=False)
    for name, weight in mean.state_dict().items():
        torch.testing.assert_close(total.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose([line["loss"] for line in summed], [line["loss"] for line in history], rtol=1e-3)


def test_weights_of_classes_may_be_listed():
    targets = torch.tensor([2, 0, 0, 0, 1, 1])
    assert balance_weights(targets, [""] * 6, "majority").tolist() == [3, 1, 1, 1, 1.5, 1.5]
    listed = listed_weights(targets, "abc", {"c": 5.0, "a": 1.0, "b": 2.0})
    assert listed.tolist() == [5, 1, 1, 1, 2, 2]
    with pytest.raises(InputError, match="'b'"):
        listed_weights(targets, "abc", {"c": 5.0, "a": 1.0})


def test_without_a_dev_part_the_last_epoch_is_kept(task):
    head, weights = task.new_head(), []
    fit(head, task.part(24, 1), None, task.OPTIONS, 5, None, lambda line: weights.append(copy.deepcopy(head)))
    assert len(weights) == 6 and same(head, weights[-1])


def test_weights_of_utterances_count(task):
    features = task.part(24, 1)
    none, _ = trained(task)
    head = task.new_head()
    ignored = features.take(range(24), weights=(features.targets != 2) * 1.5)
    fit(head, ignored, None, with_(task.OPTIONS, epochs=30, label_smoothing=0), 5)
    assert (predict(head, features).argmax(1) != 2).all() and (predict(none, features).argmax(1) == 2).any()


def test_there_is_no_way_in_for_a_test_part():
    for function in (fit, finetune, Material.fit, Recordings.fit):
        names = list(inspect.signature(function).parameters)
        assert not [name for name in names if "test" in name or "eval" in name or name in ("args", "kwargs")]
    assert list(inspect.signature(fit).parameters) == ["head", "train", "dev", "options", "seed", "folder", "report"]
    for function in (Material.fit, Recordings.fit):
        names = list(inspect.signature(function).parameters)
        assert names == ["self", "train_ids", "dev_ids", "seed", "folder", "report"]


# The convex fit

CONVEX = {"kind": "pooled", "mix": "concat", "members": 1}


def test_the_convex_fit_has_one_answer(task):
    options = TrainingOptions(optimizer="lbfgs", epochs=200, weight_decay=0.05)
    heads = [task.new_head(seed, **CONVEX) for seed in (0, 1)]
    assert not same(*heads)
    histories = [fit(head, task.part(24, 1), task.part(9, 2), options, seed) for seed, head in enumerate(heads)]
    assert same(*heads)
    assert histories[0][0]["loss"] < histories[0][0]["first_loss"] and "dev_uar" in histories[0][0]
    (head,) = heads[0].heads
    train = task.part(24, 1)
    heads[0].zero_grad()
    scores, targets = head(train.all_copies()), train.targets.repeat(2)
    loss = torch.nn.functional.cross_entropy(scores, targets, label_smoothing=options.label_smoothing)
    (loss + 0.025 * head.decide[-1].weight.square().sum()).backward()
    gradients = torch.cat([weight.grad.flatten() for weight in head.parameters()])
    assert float(gradients.norm()) < 1e-3


def test_the_convex_fit_starts_alike_even_when_it_is_cut_short(task):
    options = TrainingOptions(optimizer="lbfgs", epochs=2)
    heads = [task.new_head(seed, **CONVEX) for seed in (0, 1)]
    for head in heads:
        fit(head, task.part(24, 1), None, options, 0)
    assert same(*heads)


@pytest.mark.parametrize("config", [{"kind": "frames"}, {**CONVEX, "hidden": (4,)}])
def test_the_convex_fit_refuses_heads_that_are_not_linear(config, task):
    with pytest.raises(InputError, match="lbfgs sees no batches"):
        fit(task.new_head(**CONVEX, batch_norm=True), task.part(24, 1), None, TrainingOptions(optimizer="lbfgs"), 0)
    with pytest.raises(InputError, match="lbfgs fits linear heads only"):
        fit(task.new_head(**config), task.part(24, 1), None, TrainingOptions(optimizer="lbfgs"), 0)


def test_parameters_that_are_not_matrices_do_not_decay(task):
    optimizer = fit_module._create_optimizer(task.new_head(), with_(task.OPTIONS, weight_decay=0.3))
    for group in optimizer.param_groups:
        assert {weight.ndim > 1 for weight in group["params"]} == {group["weight_decay"] == 0.3}
