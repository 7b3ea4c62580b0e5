"""Experiment and model files of i3: they load as they are, become recipes, and run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
import soundfile

from serkit.data.protocols import create_folds
from serkit.errors import InputError
from serkit.training.experiment import seed_range
from serkit.training.i3 import read_experiment
from serkit.training.material import load_data
from serkit.training.recipe import load_recipe, load_variants

SEVEN = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")


@pytest.fixture
def published(reference_file, tmp_path, monkeypatch):
    """The released files where they expect each other to be; returns the folder of the experiments."""
    configs = reference_file("i3/configs")
    for folder in ("all_new_additions", "21082023", "batch_and_dropout_tests", "individual_tests", "07262023",
                   "crema_d_experiments/default"):  # fmt: skip
        shutil.copytree(configs / "models", tmp_path / "model/inputs" / folder, copy_function=shutil.copyfile)
    table = reference_file("i3/golden_splits/full/metadata.csv")
    for folder in ("data/audio4analysis", "data/audio4analysis_norm_synt"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copyfile(table, tmp_path / folder / "metadata.csv")
    monkeypatch.chdir(tmp_path)
    return configs


EXPERIMENTS = ["all", "all_aug", "anon", "batch_and_dropout", "batch_and_dropout_aug", "individual_tests",
               "individual_tests_aug"]  # fmt: skip


@pytest.mark.parametrize("name", [f"experiments/{name}" for name in EXPERIMENTS] + ["run_aug"])
def test_released_experiments_load_unchanged(published, name):
    variants = load_variants(published / f"{name}.json")
    assert len(variants) == 11 and {tuple(variant.levels) for variant in variants} == {("model",)}
    for variant in variants:
        recipe = variant.recipe
        assert recipe.labels.classes == SEVEN and recipe.finetune is not None
        assert recipe.finetune.freeze == "front-end" and recipe.finetune.lr == 5e-5
        assert recipe.encoder.options == {"weights": "jonatasgrosman/wav2vec2-large-xlsr-53-italian"}
        assert recipe.seeds in ((0, 1, 2), (0, 1, 2, 3, 4)) and set(recipe.tests or {}) == {"emovo"}
        assert (recipe.tests or {})["emovo"].manifest.endswith("data/emovo/test.csv")
        assert bool(recipe.augment.union) == ("aug" in name)
    assert len(variants[0].recipe.augment.union or ()) == {"run_aug": 5}.get(name, 4 if "aug" in name else 0)


def test_the_newest_experiment_trains_on_another_corpus(published, tmp_path):
    path = published / "experiments/example_run.json"
    experiment, models = read_experiment(path)
    assert experiment.data_csv == "/om2/user/wilke18/CREMA-D/metadata_norm.csv" and len(models) == 11
    with pytest.raises(InputError, match=r"metadata_norm\.csv: no such file, which the experiment trains on"):
        load_variants(path)
    table = tmp_path / "data/audio4analysis/metadata.csv"
    variants = load_variants(path, [f"data.manifest={table}"])
    assert variants[0].recipe.data.manifest == str(table) and set(variants[0].recipe.tests or {}) == {
        "emovo",
        "emotionalmente",
    }


def test_fields_of_a_model_become_keys_of_a_recipe(published):
    recipes = {each.levels["model"]: each.recipe for each in load_variants(published / "experiments/all.json")}
    plain = recipes["wav2vec2-xlsr"]
    assert (plain.head.pooling, plain.head.pooled_activation, plain.head.batch_norm) == ("mean", "relu", False)
    assert (plain.head.kind, plain.head.frame_hidden, plain.head.hidden, plain.head.dropout) == ("frames", (), (), 0)
    assert (plain.training.epochs, plain.training.batch_size, plain.training.head_l2) == (50, 32 * 8, 0)
    assert (plain.training.schedule, plain.training.warmup, plain.training.weight_decay) == ("linear", 0, 0)
    assert (plain.training.balance, plain.training.clip_norm, plain.training.label_smoothing) == ("count", 1, 0)
    assert (plain.features.normalise, plain.encoder.layers) == ("none", (-1,)) and plain.search is None
    prefix = "jonatasgrosman_wav2vec2_large_xlsr_53_italian"
    everything = recipes[f"{prefix}_batch_drop_80_l2reg_epaca"]
    assert (everything.head.pooling, everything.head.batch_norm, everything.head.dropout) == ("ecapa", True, 0.8)
    assert everything.training.head_l2 == 0.01 and everything.training.batch_size == 128
    assert recipes[f"{prefix}_batch"].head.dropout == 0


def write(folder, experiment, **models):
    (folder / "models").mkdir(exist_ok=True)
    for name, model in models.items():
        (folder / "models" / f"{name}.json").write_text(json.dumps(model))
    path = folder / "run.json"
    path.write_text(json.dumps(experiment))
    return path


@pytest.mark.parametrize(
    ("experiment", "model", "message"),
    [
        ({"experiment_nam": "x"}, {}, r"run\.json: unknown key 'experiment_nam': did you mean 'experiment_name'"),
        ({}, {"poling_mode": "max"}, r"one\.json: unknown key 'poling_mode': did you mean 'pooling_mode'"),
        ({}, {"pooling_mode": "median"}, r"one\.json: pooling_mode: input should be 'mean', 'sum'"),
        ({"model_input_files": "nowhere"}, {}, r"run\.json: nowhere is no model file and no folder of them"),
        ({"model_input_files": ""}, {}, r"run\.json: names no model files"),
        ({}, {"speaker_independent_scenario": False}, "set it to true, and protocol.name=random-k-fold"),
    ],
)
def test_mistakes_are_named_with_their_file(tmp_path, reference_file, experiment, model, message):
    given = {"model_path_or_name": "facebook/hubert-large-ll60k", **model}
    table = str(reference_file("i3/golden_splits/full/metadata.csv"))
    facts = {"model_input_files": "models", "training_dataset": {"name": "x", "data_csv": table}, **experiment}
    with pytest.raises(InputError, match=message) as caught:
        load_variants(write(tmp_path, facts, one=given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("facebook/wav2vec2-large-xlsr-53", "xlsr-53"), ("facebook/hubert-large-ll60k", "hubert-large"),
        ("microsoft/wavlm-large", "wavlm-large"), ("someone/wavlm-thing", "wavlm"),
        ("jonatasgrosman/exp_w2v2t_it_hubert_s722", "wav2vec2"),
    ],
)  # fmt: skip
def test_backbones_are_named(tmp_path, reference_file, source, name):
    table = str(reference_file("i3/golden_splits/full/metadata.csv"))
    given = {"model_input_files": "models/one.json", "training_dataset": [{"name": "x", "data_csv": table}]}
    recipe = load_recipe(write(tmp_path, given, one={"model_path_or_name": source}))
    assert recipe.encoder.name == name and recipe.name == "run/one"


def test_layer_weights_and_search(tmp_path, reference_file):
    table = str(reference_file("i3/golden_splits/full/metadata.csv"))
    given = {
        "experiment_name": "w", "model_files": "models", "training_dataset": {"name": "x", "data_csv": table},
        "hp_num_trials": 7, "hp_amount_of_training_data": 0.5, "cross_validation": 4,
    }  # fmt: skip
    backbone = {"model_path_or_name": "facebook/hubert-large-ll60k", "use_weight_encoder_layers": True}
    before = {**backbone, "pool_position": "before", "skip_hp_search": False, "train_test_split": 0.7}
    recipes = {
        each.levels["model"]: each.recipe
        for each in load_variants(write(tmp_path, given, after=backbone, before=before))
    }
    assert {(each.encoder.layers, each.head.mix) for each in recipes.values()} == {("all", "sum")}
    assert (recipes["after"].head.mix_position, recipes["before"].head.mix_position) == ("frames", "pooled")
    search = recipes["before"].search
    assert search is not None and (search.trials, search.amount, search.objective) == (7, 0.5, "loss")
    assert set(search.space) == {"finetune.lr"} and recipes["after"].search is None
    assert recipes["before"].protocol.options(3) == {"test": 0.3, "dev": 0.3, "seed": 3}
    assert recipes["before"].seeds == (0, 1, 2, 3)


def test_ratings_are_learned_from_the_columns_that_are_named(tmp_path):
    table = tmp_path / "ratings.csv"
    table.write_text("path,class_id,actor,gender,emo_act,emo_val\na.wav,joy,1,male,2.5,6\nb.wav,anger,2,female,5,1.5\n")
    backbone = {"model_path_or_name": "facebook/hubert-large-ll60k"}
    path = write(
        tmp_path,
        {"model_input_files": "models", "training_dataset": {"name": "x", "data_csv": str(table)}},
        one={**backbone, "is_regression": True, "output_column": "emo_act"},
        several={**backbone, "output_column": ["emo_act", "emo_val"]},
        classes=backbone,
    )
    recipes = {each.levels["model"]: each.recipe for each in load_variants(path)}
    found = {name: recipe.tasks.affect for name, recipe in recipes.items()}
    assert found["one"].dimensions == ("emo_act",) and found["one"].loss == "mse" and recipes["one"].labels is None
    assert found["several"].dimensions == ("emo_act", "emo_val") and found["several"].loss == "sample-ccc"
    assert found["classes"] is None and recipes["classes"].classes == ("angry", "happy")
    assert len(load_data(recipes["several"])) == 2


def test_the_original_split_is_one_override_away(published, reference_file):
    changes = ["protocol.name=i3-legacy"]
    recipe = next(each.recipe for each in load_variants(published / "experiments/all.json", changes))
    (fold,) = create_folds(load_data(recipe), recipe.protocol.name, **recipe.protocol.options(7))
    golden = reference_file("i3/golden_splits/full/metadata/train_test_validation/7/speaker_ind_True_100_80/test.csv")
    assert len(fold.test) == len(pl.read_csv(golden, separator="\t"))


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        ((5, None, None), [0, 1, 2, 3, 4]), ((5, 3, None), [3, 4, 5, 6, 7]), ((5, None, 9), [5, 6, 7, 8, 9]),
        ((5, 2, 3), [2, 3]), ((5, 0, 0), [0]), ((2, None, 1), [0, 1]),
    ],
)  # fmt: skip
def test_seeds_are_a_range(arguments, seeds):
    assert seed_range(*arguments) == seeds


@pytest.mark.parametrize(("arguments", "message"), [((5, 3, 2), "below --low-seed"), ((5, None, 2), "too low for 5")])
def test_seeds_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        seed_range(*arguments)


def test_an_experiment_file_runs_from_the_command_line(tmp_path, tiny_wav2vec2, serkit):
    rng = np.random.default_rng(0)
    for place, speakers in (("train", "abcdef"), ("other", "xy")):
        lines = ["path,class_id,actor,gender"]
        for number, speaker in enumerate(speakers):
            for label, pitch in (("joy", 200), ("anger", 400)):
                path = tmp_path / f"{speaker}-{label}.wav"
                time = np.arange(6400) / 16_000
                soundfile.write(path, 0.1 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.01, 6400), 16_000)
                lines.append(f"{path},{label},{speaker},{'male' if number % 2 else 'female'}")
        (tmp_path / place).mkdir()
        (tmp_path / place / "test.csv").write_text("\n".join(lines) + "\n")
    given = {
        "experiment_name": "small", "model_input_files": "models", "cross_validation": 2,
        "training_dataset": {"name": "train", "data_csv": "train/test.csv"},
        "datasets": [{"name": "other", "eval_csv_path": "other"}, {"name": "train"}],
        "augmentations": {"louder": {"module": "audiomentations", "class": "Gain", "p": 1.0, "tensors": False}},
    }  # fmt: skip
    model = {"model_path_or_name": str(tiny_wav2vec2), "number_of_training_epochs": 1, "use_batch_norm": True}
    path = write(tmp_path, given, mean={**model, "use_l2_reg": True}, ecapa={**model, "pooling_mode": "ecapa"})
    options = ["--workers", "1", "--cache", tmp_path / "cache", "-o", tmp_path / "runs"]
    done = serkit("train", path, "head.channels=16", "--low-seed", "3", *options)
    assert done.code == 0, done.err
    for name in ("mean", "ecapa"):
        table = pl.read_parquet(tmp_path / "runs" / name / "predictions.parquet")
        assert set(table["seed"]) == {3, 4} and set(table["truth"]) == {"happy", "angry"}
        other = pl.read_parquet(tmp_path / "runs" / name / "on/other/predictions.parquet")
        assert other.n_unique("id") == 4 and (tmp_path / "runs" / name / "on/other/report.html").is_file()
