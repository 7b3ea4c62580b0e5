"""Searches: judged on dev parts alone, by one worker or several, killed and resumed, in SQLite or elsewhere."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import optuna
import polars as pl
import pytest
import searching
import torch
from optuna.trial import TrialState
from speech import FOUR

from serkit.data.manifest import Manifest
from serkit.errors import InputError, SerkitError
from serkit.training.material import Material, load_data
from serkit.training.recipe import change_recipe, dump_recipe, list_recipes, load_recipe, load_variants
from serkit.training.run import train
from serkit.training.searching import search as search_module
from serkit.training.searching import study as study_module
from serkit.training.searching import trials as trials_module
from serkit.training.searching.search import search
from serkit.training.searching.study import MedianPruner, fail_left, identity, is_gone, storage_url, without_password
from serkit.training.searching.trials import DevFold, Examiner, dev_folds, kept_epoch

torch.set_num_threads(1)
WEIGHT, EPOCHS = "training.weight_decay", "training.epochs"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    searching.write_all(root)
    return root


@pytest.fixture(scope="module")
def load(root):
    return lambda *overrides: load_recipe(root / "small.toml", overrides)


@pytest.fixture(scope="module")
def go(root, load):
    """Search the small recipe with overrides; return search.json and the table of trials."""

    def run(folder, *overrides, **options):
        facts = search(load(*overrides), folder, root / "cache", **options)
        return facts, pl.read_csv(folder / "trials.csv")

    return run


@pytest.fixture
def judged(monkeypatch):
    """What is trained, as (recipe, fold), with made-up scores: the nearer weight_decay is to 1, the better."""
    calls = []

    def made_up(self, recipe, fold, place, results, tell):
        calls.append((recipe, fold))
        score = 1 / (1 + abs(recipe.training.weight_decay - 1)) - 0.01 * len(results)
        return {"fold": fold.name, "seed": fold.seed, "epoch": 1, "dev_uar": score, "dev_loss": 1 - score}

    monkeypatch.setattr(Examiner, "_train", made_up)
    monkeypatch.setattr(Examiner, "prepare", lambda self, recipe: [])
    return calls


# What is searched


def test_keys_may_be_nested_or_quoted_and_overridden(load):
    quoted = load('search.space={"training.weight_decay" = {low=1e-3, high=1.0}}')
    nested = load("search.space={training={weight_decay={low=1e-3, high=1.0}}}")
    assert quoted == nested and list(quoted.search.space) == [WEIGHT]
    more = load("search.space.head.members={low=1, high=3}", "search.space.training.epochs={choices=[10, 20]}")
    assert list(more.search.space) == [WEIGHT, EPOCHS, "head.members"]
    assert more.search.space[EPOCHS].choices == (10, 20)


def test_an_extending_recipe_replaces_the_space_as_a_whole(root):
    path = root / "top.toml"
    path.write_text('extends = "small.toml"\n[search.space]\ntraining.epochs = { low = 1, high = 20 }\n')
    top = load_recipe(path).search
    assert list(top.space) == [EPOCHS] and top.trials == 4


def test_a_search_changes_nothing_of_a_recipe_without_one(load, root):
    plain = load().model_copy(update={"search": None})
    assert "[search" in dump_recipe(load()) and "[search" not in dump_recipe(plain)
    for recipe in (variant.recipe for name in list_recipes() for variant in load_variants(name)):
        assert ("[search" in dump_recipe(recipe)) == (recipe.search is not None)
    assert load_recipe("ravdess/search").search is not None and load_recipe("ravdess/emobox6").search is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.space.training.weight_decy={low=0.1, high=1.0}", "unknown key 'training.weight_decy': did you mean"),
        ("search.space.trainin.epochs={low=1, high=2}", "unknown key 'trainin': did you mean 'training'"),
        ("search.space.training.lr={lo=1e-4, high=1e-2}", "unknown key 'search.space.training.lr.lo': did you mean"),
        ("search.trails=3", "unknown key 'search.trails': did you mean 'trials'"),
        ("search.sampler=tpo", "search.sampler: input should be 'tpe', 'random' or 'grid'"),
        ("search.space.training.lr={low=1e-2}", "write {low = ..., high = ...} or {choices = [...]}"),
        ("search.space.training.lr={low=1e-2, high=1e-3}", "low is 0.01, which is not below high"),
        ("search.space.training.lr={low=0, high=1, log=true}", "log takes a low above 0"),
        ("search.space.training.lr={low=1e-4, high=1e-2, choices=[1]}", "choices stand alone"),
        ("search.space.training.lr={choices=[1e-3]}", "two or more different values"),
        ("search.space.training.lr={choices=[1e-3, 1e-3]}", "two or more different values"),
        ("search.space.training.lr={low=-1.0, high=1e-2}", "training.lr: input should be greater than 0"),
        ("search.space.head.kind={choices=['pooled', 'frame']}", "head.kind: input should be 'pooled' or 'frames'"),
        ("search.space.training.epochs={low=20, high=30}", "own value 10 is not among 20 to 30"),
        ("search.space.training.epochs={choices=[1, 2]}", "own value 10 is not among [1, 2]"),
        ("search.space.training.epochs={low=1, high=30, step=2}", "not among 1 to 30 in steps of 2"),
        ("search.space.encoder.trim={low=20.0, high=40.0}", "says nothing of encoder.trim"),
        ("search.space.protocol.dev={choices=[0.2, 0.34]}", "says what trials are judged on"),
        ("search.space={}", "space names no key"),
        ("search.space.training.lr={choices=[2e-3, 1], also=['training.epsilon']}", "is not that of training.epsilon"),
        ("search.space.training.lr={choices=[2e-3, 1], also=['training.epochs']}", "names 'training.epochs' twice"),
        ("search.space.training.lr={choices=[2e-3, 1], also=['trainin.lr']}", "unknown key 'trainin'"),
        ("search.folds=5", "search.folds is 5, but protocol leave-one-speaker-out has 4"),
        ("protocol.dev=0", "fold f1 has no dev part, and a search never sees test parts: set protocol.dev=0.2"),
        ("search.sampler=grid", "search.space.training.weight_decay: a grid takes step or choices"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_is_trained(override, message, go, tmp_path):
    with pytest.raises(InputError) as caught:
        go(tmp_path / "out", override)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_a_search_says_how_to_write_one(root, tmp_path):
    plain = load_recipe(root / "small.toml").model_copy(update={"search": None})
    with pytest.raises(InputError, match="says nothing of a search: set search.space"):
        search(plain, tmp_path / "out", root / "cache")


def test_whole_numbers_are_drawn_where_the_recipe_takes_them(go, judged, tmp_path):
    space = "search.space={training={epochs={low=5.0, high=40}, label_smoothing={low=0, high=0.9}, "
    space += "weight_decay={low=0.1, high=1.1, step=0.5}}}"
    _, table = go(tmp_path / "out", space, "search.trials=12")
    assert table[EPOCHS].dtype == pl.Int64 and table[EPOCHS].n_unique() > 5
    smoothing = table["training.label_smoothing"]
    assert smoothing.dtype == pl.Float64 and smoothing.n_unique() > 5 and smoothing.max() < 0.9
    assert set(table[WEIGHT].round(6)) <= {0.1, 0.6, 1.1}
    assert [recipe.training.epochs for recipe, _ in judged][::4] == table[EPOCHS].to_list()


def test_keys_may_share_a_value(go, judged, tmp_path):
    space = "search.space={training={weight_decay={choices=[0.1, 0.2, 0.5], also=['training.label_smoothing']}}}"
    facts, _ = go(tmp_path / "out", space, "training.label_smoothing=0.1", "search.sampler=grid", "search.trials=3")
    assert {(it.training.weight_decay, it.training.label_smoothing) for it, _ in judged} == {
        (0.1, 0.1), (0.2, 0.2), (0.5, 0.5),
    }  # fmt: skip
    assert facts["best"]["values"] == {WEIGHT: 0.5, "training.label_smoothing": 0.5}
    assert load_recipe(tmp_path / "out" / "best.toml").training.label_smoothing == 0.5


def test_a_grid_tries_every_combination_once_and_the_recipe_first(go, judged, tmp_path):
    space = "search.space={training={epochs={low=8, high=10}, weight_decay={choices=[0.01, 0.1]}}, "
    space += "encoder={layers={choices=[[1, 2], [2]]}}}"
    facts, table = go(tmp_path / "out", space, "search.sampler=grid", "search.trials=12")
    points = table.select(EPOCHS, WEIGHT, "encoder.layers").rows()
    assert points[0] == (10, 0.1, "[2]") and len(set(points)) == len(points) == 12
    assert facts["trials"] == {"complete": 12} and facts["best"]["values"]["encoder.layers"] in ([1, 2], [2])
    with pytest.raises(InputError, match="the grid has 12 points, search.trials is 5"):
        go(tmp_path / "out", space, "search.sampler=grid", "search.trials=5")


# The dev parts alone judge


def test_the_outcome_is_a_recipe_that_trains(go, root, tmp_path):
    facts, table = go(tmp_path / "out")
    assert table["trial"].to_list() == [0, 1, 2, 3] and set(table["state"]) == {"complete"}
    assert table["recipe"].to_list() == [True, False, False, False]
    assert table.row(0, named=True)[WEIGHT] == 0.1 and table.row(0, named=True)[EPOCHS] == 10
    assert table["dev_uar"].max() == facts["best"]["dev_uar"] >= facts["own"]["dev_uar"] == table["dev_uar"][0]
    assert facts["difference"] == pytest.approx(facts["best"]["dev_uar"] - facts["own"]["dev_uar"])
    assert facts["fingerprints"]["data"] == load_data(load_recipe(root / "small.toml")).fingerprint()
    assert {"serkit", "optuna", "torch", "python"} <= set(facts["versions"]) and len(facts["folds"]) == 4
    best = load_recipe(tmp_path / "out" / "best.toml")
    assert best.name == "small-best" and best.search is None
    assert {WEIGHT: best.training.weight_decay, EPOCHS: best.training.epochs} == facts["best"]["values"]
    predictions = pl.read_parquet(train(best, tmp_path / "run", root / "cache", workers=1))
    dev = predictions.filter(pl.col("part") == "dev")
    for result in facts["best"]["results"]:
        rows = dev.filter(pl.col("fold") == result["fold"])
        recalls = rows.group_by("truth").agg((pl.col("truth") == pl.col("prediction")).mean().alias("recall"))
        assert recalls["recall"].mean() == pytest.approx(result["dev_uar"])


def test_test_rows_are_never_read(go, monkeypatch, tmp_path):
    whole, _ = go(tmp_path / "whole")
    fit, poisoned_rows = Material.fit, []

    def fit_poisoned(self, train_ids, dev_ids, *rest, also=0):
        spared = set(self.rows([*train_ids, *dev_ids][also:]))
        others = [row for row in range(len(self.features)) if row not in spared]
        streams = tuple(replace(it, statistics=it.statistics.clone()) for it in self.features.streams)
        for stream in streams:
            stream.statistics[:, others] = torch.nan
        poisoned_rows.append(len(others))
        return fit(replace(self, features=replace(self.features, streams=streams)), train_ids, dev_ids, *rest)

    monkeypatch.setattr(Material, "fit", fit_poisoned)
    facts, _ = go(tmp_path / "poisoned")
    assert facts["best"] == whole["best"] and facts["own"] == whole["own"] and poisoned_rows == [8] * 16
    # That it is poison shows when one utterance that is used takes it.
    monkeypatch.setattr(Material, "fit", partialmethod(fit_poisoned, also=1))
    with pytest.raises(SerkitError, match="the dev loss of fold f1 is not a number"):
        go(tmp_path / "noticed", "search.objective=loss")


def test_test_recordings_need_not_even_exist(go, load, tmp_path):
    manifest = load_data(load())
    test = manifest.table.filter(pl.col("speaker") == FOUR[0])["id"].to_list()
    moved = manifest.table.with_columns(
        audio=pl.when(pl.col("id").is_in(test)).then(pl.lit("/gone.wav")).otherwise("audio")
    )
    Manifest(moved).write(tmp_path / "manifest.parquet")
    change = f"data.manifest={tmp_path}/manifest.parquet"
    facts, _ = go(tmp_path / "out", change, "search.folds=1")
    assert facts["trials"] == {"complete": 4} and [fold["name"] for fold in facts["folds"]] == [FOUR[0]]
    facts, _ = go(tmp_path / "speaker", change, "search.folds=1", "features.normalise=speaker")
    assert facts["trials"] == {"complete": 4}
    with pytest.raises(InputError, match=r"gone.wav"):
        go(tmp_path / "all", change)


def test_speakers_are_normalised_by_the_utterances_of_the_fold(go, monkeypatch, tmp_path):
    """Where speakers are shared, statistics of a speaker would otherwise know the test part."""
    loaded, load = [], trials_module.load

    def noting(recipe, manifest, *rest):
        loaded.append(manifest.ids)
        return load(recipe, manifest, *rest)

    monkeypatch.setattr(trials_module, "load", noting)
    changes = ["protocol={name='random-k-fold', k=4, dev=0.34}", "features.normalise=speaker", "search.trials=1"]
    facts, _ = go(tmp_path / "out", *changes)
    assert [len(ids) for ids in loaded] == [fold["train"] + fold["dev"] for fold in facts["folds"]] == [24] * 4


def test_folds_have_no_test_part_and_the_amount_is_of_speakers(load):
    recipe = load("protocol.dev=0.2", "seeds=[0, 1]")
    manifest = load_data(recipe)
    folds = dev_folds(recipe, recipe.search, manifest)
    assert not hasattr(DevFold, "test") and len(folds) == 8 and {len(fold.train) for fold in folds} == {16}
    assert {len(set(fold.ids)) for fold in folds} == {24}
    some = load("protocol.dev=0.2", "search.amount=0.5", "search.seeds=[3]", "search.folds=2")
    folds = dev_folds(some, some.search, manifest)
    assert [(fold.seed, len(fold.train), len(fold.dev)) for fold in folds] == [(3, 8, 8)] * 2
    speakers = dict(manifest.table.select("id", "speaker").rows())
    assert all(len({speakers[id] for id in fold.train}) == 1 for fold in folds)


def test_the_kept_epoch_is_the_one_that_training_keeps(load):
    history = [
        {"epoch": 1, "dev_uar": 0.5, "dev_loss": 0.9}, {"epoch": 2, "dev_uar": 0.7, "dev_loss": 0.8},
        {"epoch": 3, "dev_uar": 0.7, "dev_loss": 0.6}, {"epoch": 4, "dev_uar": 0.6, "dev_loss": 0.5},
    ]  # fmt: skip
    assert kept_epoch(history, load())["epoch"] == 2
    assert kept_epoch(history, load("training.monitor=loss")) == history[3]


def test_the_loss_is_minimised(go, judged, tmp_path):
    facts, table = go(tmp_path / "out", "search.objective=loss", "search.trials=8")
    assert facts["best"]["dev_loss"] == table["dev_loss"].min() < facts["own"]["dev_loss"] and facts["difference"] > 0


# Trials


def test_values_that_do_not_go_together_fail_and_the_search_goes_on(go, tmp_path):
    space = "search.space={head={hidden={choices=[[], [8]]}}, training={weight_decay={choices=[0.1, 0.2]}}}"
    facts, table = go(tmp_path / "out", space, "search.sampler=grid")
    assert facts["trials"] == {"complete": 2, "failed": 2} and facts["best"]["values"]["head.hidden"] == []
    failed = table.filter(pl.col("state") == "failed")
    assert all("lbfgs fits linear heads only" in error for error in failed["error"])


def test_a_recipe_that_does_not_train_ends_the_search(go, tmp_path):
    space = "search.space={training={weight_decay={choices=[0.1, 0.2]}}}"
    for _ in range(2):
        with pytest.raises(InputError, match="lbfgs fits linear heads only"):
            go(tmp_path / "out", space, "head.hidden=[8]")


def test_pruning_ends_what_falls_behind_after_a_fold(go, judged, tmp_path):
    facts, table = go(tmp_path / "out", "search.pruner=median", "search.trials=20")
    assert facts["trials"]["pruned"] >= 3 and table["state"][0] == "complete"
    pruned, complete = (table.filter(pl.col("state") == state) for state in ("pruned", "complete"))
    assert set(pruned["folds"]) == {1} and set(complete["folds"]) == {4} and len(complete) >= 5
    assert len(judged) == 4 * len(complete) + len(pruned)
    assert pruned["dev_uar"].max() < complete["dev_uar"].max()


def test_the_median_is_that_of_the_same_step():
    study = optuna.create_study(direction="minimize", pruner=MedianPruner())
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        trial = study.ask()
        trial.report(value, 1)
        trial.report(value + 10, 2)
        study.tell(trial, value)
    good, bad, late = study.ask(), study.ask(), study.ask()
    good.report(2.9, 1)
    bad.report(3.1, 1)
    late.report(2.0, 1)
    late.report(13.5, 2)
    assert (good.should_prune(), bad.should_prune(), late.should_prune()) == (False, True, True)
    study.pruner = MedianPruner(first=2)
    assert (good.should_prune(), bad.should_prune(), late.should_prune()) == (False, False, True)


def test_hyperband_takes_the_steps_of_folds(go, judged, tmp_path):
    facts, table = go(tmp_path / "out", "search.pruner=hyperband", "search.trials=25")
    assert facts["trials"].get("pruned", 0) > 0 and sum(facts["trials"].values()) == 25
    assert table["state"][0] == "complete"


def test_fine_tuning_reports_after_every_epoch(go, root, tmp_path):
    changes = ["training.optimizer=adamw", "training.epochs=2", "finetune.lr=1e-4", "finetune.freeze=encoder"]
    space = "search.space={finetune={lr={low=1e-5, high=1e-3, log=true}}}"
    facts, table = go(tmp_path / "out", *changes, space, "search.folds=2", "search.trials=2")
    assert facts["trials"] == {"complete": 2} and table["finetune.lr"][0] == 1e-4
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path}/out/study.db")
    assert all(sorted(trial.intermediate_values) == [1, 2, 3, 4] for trial in study.trials)
    assert not (tmp_path / "out" / "unfinished").exists()


# One worker and several, killed and resumed


def values(table):
    return table.filter(pl.col("state") == "complete").select(WEIGHT, EPOCHS, "dev_uar", "dev_loss").rows()


def test_one_worker_draws_the_same_values_again_interrupted_or_not(go, judged, tmp_path):
    _, whole = go(tmp_path / "whole", "search.trials=9")
    for trials in (2, 5, 9):
        facts, again = go(tmp_path / "again", f"search.trials={trials}")
        assert facts["trials"] == {"complete": trials}
    # The first trials of a search differ with its length when TPE begins: not here.
    assert values(again) == values(whole)
    _, other = go(tmp_path / "other", "search.trials=9", "search.seed=1")
    assert values(other) != values(whole)
    count = len(judged)
    go(tmp_path / "again", "search.trials=9")
    assert len(judged) == count


def test_no_trial_begins_after_the_time_is_over(go, judged, tmp_path):
    facts, _ = go(tmp_path / "out", "search.seconds=1e-9")
    assert facts["trials"] == {"waiting": 1} and facts["best"] is None
    assert go(tmp_path / "out", "search.seconds=100")[0]["trials"] == {"complete": 4}


def test_another_search_in_the_same_folder_is_refused(go, judged, tmp_path):
    go(tmp_path / "out")
    for change, named in [("training.label_smoothing=0.2", "recipe"), ("search.seed=4", "search")]:
        with pytest.raises(InputError, match=f"study 'small' in sqlite:.*was begun with another {named}: give"):
            go(tmp_path / "out", change)
    facts, _ = go(tmp_path / "out", "name=other", "search.seed=4")
    assert facts["trials"] == {"complete": 4}


def test_a_killed_search_goes_on(go, root, environment, tmp_path):
    whole, table = go(tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "searching", str(root), str(out), "2", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    states = [trial.state for trial in _study(out).trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]
    assert len(json.loads((out / "unfinished" / "trial-2" / "finished.json").read_text())) == 1
    calls, train_fold = [], Examiner._train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Examiner, "_train", lambda *given: calls.append(given) or train_fold(*given))
        facts, again = go(out)
    assert facts["trials"] == {"complete": 4, "left": 1} and facts["best"]["dev_uar"] == whole["best"]["dev_uar"]
    # Two trials were finished, one fold of the third was, and the third has its values again under another number.
    assert len(calls) == 3 + 4 and again["state"].to_list() == ["complete", "complete", "left", "complete", "complete"]
    assert values(again)[:3] == values(table)[:3]
    assert not (out / "unfinished").exists()


def test_two_commands_share_a_study(root, environment, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "serkit.cli", "search", str(root / "small.toml"), "search.trials=12"]
    command += ["-o", str(out), "--cache", str(root / "cache")]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    told = [err.count("\ntrial ") + err.startswith("trial ") for _, err in ended]
    assert sum(told) == 12, ended
    trials = [trial for trial in _study(out).trials if not trial.user_attrs.get("surplus")]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
    assert sum(bool(trial.user_attrs.get("recipe")) for trial in trials) == 1
    assert "difference" in ended[0][0] and "winner's curse" in ended[0][0]
    assert len(pl.read_csv(out / "trials.csv")) == 12


def test_several_workers_of_one_command_write_one_study(go, tmp_path):
    facts, table = go(tmp_path / "out", "search.trials=6", workers=2)
    assert facts["trials"] == {"complete": 6} and table["recipe"].sum() == 1
    workers = {trial.user_attrs["worker"]["process"] for trial in _study(tmp_path / "out").trials}
    assert identity()["process"] not in workers and 1 <= len(workers) <= 2


def _study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="small", storage=f"sqlite:///{folder}/study.db")


def test_only_trials_of_processes_known_to_be_gone_are_given_again(tmp_path):
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="small")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = {**identity(), "process": child.pid, "began": study_module._began(child.pid)}
    here, elsewhere = identity(), {**identity(), "host": "elsewhere", "process": 1}
    for number, worker in enumerate([alive, here, elsewhere, {**here, "began": "before"}]):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("worker", worker)
        trial.set_user_attr("recipe", number == 3)
    fail_left(study)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"] * 3 + ["FAIL", "WAITING"]
    child.kill()
    child.wait()
    assert is_gone(alive) and not is_gone(here) and not is_gone(elsewhere)
    fail_left(study)
    fail_left(study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING", "RUNNING", "FAIL", "WAITING", "WAITING"]
    again = study.ask()
    assert again.user_attrs == {"recipe": True, "again": 3}
    assert again.suggest_float("x", 0, 1) == study.trials[3].params["x"]


def test_a_trial_that_another_worker_was_given_is_dropped(go, load, judged, monkeypatch, tmp_path):
    """A worker that was silent for long, on a suspended machine say, finds its trial failed."""
    made_up, taken = Examiner._train, []

    def slow(self, recipe, fold, *rest):
        if not taken:
            taken.append(True)
            study = _study(tmp_path / "out")
            study.tell(0, state=TrialState.FAIL)
            study_module.give_again(study, study.trials[0])
        return made_up(self, recipe, fold, *rest)

    monkeypatch.setattr(Examiner, "_train", slow)
    facts, table = go(tmp_path / "out")
    assert facts["trials"] == {"complete": 4, "left": 1} and table["recipe"].to_list() == [True, True, *[False] * 3]


# Storage


def test_addresses_of_databases(tmp_path):
    assert storage_url("", tmp_path) == f"sqlite:///{tmp_path}/study.db"
    assert storage_url("sqlite:///x.db", tmp_path) == "sqlite:///x.db"
    pytest.importorskip("psycopg")
    url = storage_url("postgresql://me:secret@host/db?password=other", tmp_path)
    assert url.startswith("postgresql+psycopg://me:secret@host/db")
    assert without_password(url) == "postgresql+psycopg://me:***@host/db"
    for given, message in [
        ("mysql://host/db", "mysql is not supported"),
        ("nonsense", "is no address"),
        ("sqlite://", "cannot be resumed"),
    ]:
        with pytest.raises(InputError, match=message):
            storage_url(given, tmp_path)


def test_postgresql_needs_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"psycopg is not installed: run pip install 'serkit\[postgresql\]'"):
        storage_url("postgresql://host/db", tmp_path)


def test_an_unreachable_database_is_one_line_without_the_password(root, serkit, tmp_path):
    pytest.importorskip("psycopg")
    storage = "postgresql://me:sesame@127.0.0.1:9/db"
    ran = serkit("search", root / "small.toml", "-o", tmp_path / "out", "--storage", storage)
    assert ran.code == 2 and ran.err.count("\n") == 1 and "sesame" not in ran.err + ran.out
    assert "serkit: --storage postgresql+psycopg://me:***@127.0.0.1:9/db: " in ran.err


def test_no_password_is_written(go, judged, monkeypatch, tmp_path):
    given = "postgresql://me:sesame@host/db"
    url = f"sqlite:///{tmp_path}/study.db"
    monkeypatch.setattr(search_module, "storage_url", lambda *_: url)
    shown = {url: "postgresql+psycopg://me:***@host/db"}
    monkeypatch.setattr("serkit.training.searching.outcome.without_password", shown.__getitem__)
    monkeypatch.setattr(sys, "argv", ["serkit", "search", "small", f"--storage={given}"])
    facts, _ = go(tmp_path / "out", storage=given)
    assert facts["command"] == f"serkit search small --storage={shown[url]}"
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 3 and not any(b"sesame" in path.read_bytes() for path in written)


# The command


def test_the_command_summarises_and_draws(root, serkit, tmp_path):
    out = tmp_path / "out"
    ran = serkit("search", root / "small.toml", "search.trials=6", "-o", out, "--cache", root / "cache")
    assert ran.code == 0, ran.err
    facts = json.loads((out / "search.json").read_text())
    assert f"best: dev UAR {facts['best']['dev_uar']:.4f} (trial {facts['best']['trial']})" in ran.out
    assert f"the recipe itself: {facts['own']['dev_uar']:.4f} (trial 0)" in ran.out
    assert f"serkit train {out / 'best.toml'}" in ran.out and "winner's curse" in ran.out
    assert ran.err.count("trial ") == 6 and (out / "history.png").stat().st_size > 5000
    assert "best so far" in (out / "history.svg").read_text()
    if facts["importance"]:
        assert sum(facts["importance"].values()) == pytest.approx(1) and (out / "importance.svg").exists()
    assert serkit("search", root / "small.toml", "protocol.dev=0", "-o", out).code == 2


def test_changed_recipes_are_checked_as_loaded_ones_are(load):
    recipe = load()
    changed = change_recipe(recipe, {"head.members": 3, "encoder.layers": [0, 1]})
    assert changed.head.members == 3 and changed.encoder.layers == (0, 1)
    assert change_recipe(changed, {"head.members": 1, "encoder.layers": [2]}) == recipe
    with pytest.raises(InputError, match="'training' is a section"):
        change_recipe(recipe, {"training": 3})
