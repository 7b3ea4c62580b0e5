"""Reproducing a paper: which recipes run, with which encoder; finished runs stay, failures do not stop the others."""

from __future__ import annotations

import pytest

from serkit.errors import InputError
from serkit.training import experiment as running
from serkit.training.experiment import run_all
from serkit.training.recipe import dump_recipe, load_recipe
from serkit.training.reproduce import plan

ROOTS = {"ravdess": "/corpora/ravdess", "iemocap": "/corpora/iemocap"}


def names(experiments):
    return [experiment.recipe.name.removeprefix("pepino/") for experiment in experiments]


def test_the_corpora_at_hand_decide_what_runs(tmp_path):
    both, ravdess = plan("pepino", ROOTS, tmp_path), plan("pepino", {"ravdess": "/r"}, tmp_path)
    assert len(both) == 24 and len(ravdess) == 12
    assert all(experiment.recipe.data.root == "/r" for experiment in ravdess)
    assert {experiment.recipe.data.root for experiment in both} == set(ROOTS.values())
    assert both[0].folder == tmp_path / names(both)[0]


def test_patterns_choose_and_leave_out(tmp_path):
    chosen = plan("pepino", ROOTS, tmp_path, only=["none-*", "*fusion"], skip=["iemocap/*"])
    assert names(chosen) == ["none-egemaps", "none-spectrogram", "w2v2PT-fusion"]


def test_another_encoder_replaces_the_usual_one_only(tmp_path):
    found = plan("pepino", {"ravdess": "/r"}, tmp_path, encoder="whisper", overrides=["seeds=[3]"])
    encoders = {name: experiment.recipe.encoder.name for name, experiment in zip(names(found), found, strict=True)}
    assert encoders["w2v2PT-local"] == encoders["issa-setup-ravdess"] == "whisper"
    assert encoders["none-egemaps"] == "egemaps" and encoders["w2v2LS960-local"] == "wav2vec2-base-960h"
    assert all(experiment.recipe.seeds == (3,) for experiment in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "pepno", "roots": ROOTS}, "no recipes named pepno/...: did you mean 'pepino'"),
        ({"family": "pepino", "roots": {"emodb": "x"}}, "--root emodb: pepino uses iemocap and ravdess"),
        ({"family": "pepino", "roots": {}}, "nothing to run: give --root CORPUS=DIR for iemocap or ravdess"),
        ({"family": "pepino", "roots": ROOTS, "only": ["zzz"]}, "look at --only"),
    ],
)
def test_mistakes_are_named(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        plan(**options, folder=tmp_path)


def test_what_is_finished_stays_and_what_fails_stops_nothing(tmp_path, monkeypatch):
    trained = []

    def train(recipe, folder, *rest):
        trained.append(recipe.name)
        if "local" in recipe.name:
            raise InputError("no such weights")
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(dump_recipe(recipe))
        (folder / "predictions.parquet").touch()

    monkeypatch.setattr(running, "train", train)
    experiments = plan("pepino", {"ravdess": "/r"}, tmp_path, only=["none-*", "w2v2PT-local"])
    errors = [error for _, error in run_all(experiments, tmp_path)]
    assert [str(error) for error in errors] == ["None", "None", "no such weights"] and len(trained) == 3
    assert [error is None for _, error in run_all(experiments, tmp_path)] == [True, True, False]
    assert trained[3:] == ["pepino/w2v2PT-local"]
    changed = plan("pepino", {"ravdess": "/other"}, tmp_path, only=["none-*"])
    assert not any(experiment.finished for experiment in changed)
    assert load_recipe("pepino/none-egemaps", ["data.root=/r"]) == experiments[0].recipe
