"""Experiment and model files of i3 (https://github.com/wilke0818/i3_speech_emotion_recognition), turned into recipes.

Keys are those of its code and of its README, older ones among them. What its code does wrong is not repeated: speakers
are split, not classes (``protocol.name=i3-legacy`` splits as it does); padding is no part of an answer; augmented
copies are added to the recordings instead of taking their place. It validates every 10 steps, serkit after each epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from serkit.data.manifest import Manifest
from serkit.encoders.presets import PRESETS
from serkit.errors import InputError, nearest
from serkit.training.augment.i3 import from_i3_augmentations

ACCUMULATION = 8
"""Steps over which the original adds up gradients: its batches are that many times ``per_device_batch_size``."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Corpus(_File):
    """A corpus by ``name``: ``data_csv`` to train on, or the folder ``eval_csv_path`` with a ``test.csv``."""

    name: str
    data_csv: str = ""
    eval_csv_path: str = ""


EMOZIONALMENTE = Corpus(name="Emozionalmente", data_csv="./data/audio4analysis/metadata.csv")


class ExperimentFile(_File):
    """An experiment file. Where things are written is for the caller to say: those keys are read and not used."""

    experiment_name: str = ""
    model_input_files: str = Field(
        "", validation_alias=AliasChoices("model_input_files", "model_files", "path_to_model_files")
    )
    model_save_folder: str = Field("", validation_alias=AliasChoices("model_save_folder", "output_path"))
    experiment_artifacts_output_path: str = Field(
        "",
        validation_alias=AliasChoices("experiment_artifacts_output_path", "experiment_results_output_path"),
    )
    checkpoint_save_folder: str | None = None
    cross_validation: int | None = Field(None, ge=1)
    augmentations: dict[str, dict[str, Any]] | None = None
    datasets: list[Corpus] = []
    hp_amount_of_training_data: float = Field(0.3, gt=0, le=1)
    hp_num_trials: int = Field(5, ge=1)
    training_dataset: Corpus | list[Corpus] = EMOZIONALMENTE
    training_data_path: str = ""
    save_steps: int | None = None
    save_total_limit: int | None = None
    run_eval: bool = False
    run_grapher: bool = False
    eval_steps: int = 10
    logging_steps: int = 10
    eval_metric: Literal["accuracy", "f1score", "mse"] = "accuracy"

    @property
    def data_csv(self) -> str:
        """The file of the utterances to train on."""
        if self.training_data_path:
            return str(Path(self.training_data_path) / "metadata.csv")
        # The original's own default is a list of one corpus, which its code cannot take.
        corpus = self.training_dataset[0] if isinstance(self.training_dataset, list) else self.training_dataset
        return corpus.data_csv


class ModelFile(_File):
    """A model file; defaults are those of the original's code."""

    model_path_or_name: str
    name: str = ""
    batch_size: int = 8
    per_device_batch_size: int = Field(8, ge=1)
    pooling_mode: Literal["mean", "sum", "max", "ecapa", "epaca", "att_stats"] = "mean"
    model_output_dir: str = ""
    speaker_independent_scenario: bool = True
    input_column: str = "path"
    output_column: str | list[str] = "class_id"
    is_regression: bool = False
    train_test_split: float = Field(0.8, gt=0, lt=1)
    use_batch_norm: bool = False
    use_dropout: bool = False
    dropout_rate: float = Field(0.5, ge=0, lt=1)
    use_l2_reg: bool = False
    weight_decay: float = Field(0.01, ge=0)
    use_weight_encoder_layers: bool = False
    pool_position: Literal["after", "before"] = "after"
    number_of_training_epochs: int = Field(50, ge=1)
    continue_model_training: bool = False
    skip_hp_search: bool = True
    use_relu: bool = True
    seed: int = 0
    eval_steps: int | None = None
    logging_steps: int | None = None


POOLINGS = {"epaca": "ecapa", "att_stats": "attentive-statistics"}
"""Names that differ from ours; "epaca" is how the original's own files misspell it."""


def read_experiment(path: str | Path) -> tuple[ExperimentFile, dict[str, ModelFile]]:
    """Read an experiment file and the model files it names, by name; raises ``InputError`` naming file and key."""
    path = Path(path)
    experiment = _read(path, ExperimentFile)
    if not experiment.model_input_files:
        raise InputError(f"{path}: names no model files: set model_input_files to a file or a folder of them")
    models: dict[str, ModelFile] = {}
    for each in _find_models(path, experiment.model_input_files):
        model = _read(each, ModelFile)
        name = model.name or each.stem
        if name in models:
            raise InputError(f"{each}: another model is called {name!r} too: change one name")
        models[name] = model
    return experiment, models


def read_trees(path: str | Path, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return an experiment as the tree of a recipe, and what each of its models changes in it.

    Classes are those of the utterances to train on: of ``data.manifest`` in ``overrides``, or of the file it names.
    """
    experiment, models = read_experiment(path)
    folder = Path(path).parent
    name = experiment.experiment_name or Path(path).stem
    data_csv = _place(folder, str(overrides.get("data.manifest", experiment.data_csv)))
    tree: dict[str, Any] = {
        "name": name,
        "summary": f"i3: {len(models)} models",
        "data": {"manifest": str(data_csv)},
        "seeds": list(range(experiment.cross_validation or 1)),
        "tests": {
            corpus.name: {"manifest": str(_place(folder, corpus.eval_csv_path) / "test.csv")}
            for corpus in experiment.datasets
            if corpus.eval_csv_path  # without, it is the training corpus, which the folds test
        },
    }
    if experiment.augmentations:
        tree["augment"] = {"union": [[entry] for entry in from_i3_augmentations(experiment.augmentations)]}
    _check_data(data_csv)
    classes = [] if all(map(_rates, models.values())) else _read_classes(data_csv)
    return tree, {label: _model_tree(model, experiment, classes) for label, model in models.items()}


def _model_tree(model: ModelFile, experiment: ExperimentFile, classes: list[str]) -> dict[str, Any]:
    if not model.speaker_independent_scenario:
        raise InputError(
            "speaker_independent_scenario is false, which never ran: set it to true, and protocol.name=random-k-fold "
            "on the command line for speakers that are shared"
        )
    share = round(1 - model.train_test_split, 12)
    weighted = model.use_weight_encoder_layers
    tree: dict[str, Any] = {
        "protocol": {"name": "speaker-holdout", "test": share, "dev": share, "seed": "run"},
        "encoder": {**_encoder(model.model_path_or_name), "layers": "all" if weighted else [-1]},
        "features": {"normalise": "none"},
        "head": {
            "kind": "frames",
            "frame_hidden": [],
            "pooling": POOLINGS.get(model.pooling_mode, model.pooling_mode),
            "mix": "sum",
            "mix_position": "pooled" if weighted and model.pool_position == "before" else "frames",
            "pooled_activation": "relu" if model.use_relu else "none",
            "batch_norm": model.use_batch_norm,
            "dropout": model.dropout_rate if model.use_dropout else 0.0,
        },
        "training": {
            "epochs": model.number_of_training_epochs,
            "batch_size": model.per_device_batch_size * ACCUMULATION,
            "lr": 5e-5,
            "weight_decay": 0.0,
            "schedule": "linear",
            "warmup": 0.0,
            "clip_norm": 1.0,
            "label_smoothing": 0.0,
            "balance": "none" if _rates(model) else "count",
            "head_l2": model.weight_decay if model.use_l2_reg else 0.0,
            "monitor": "loss",
            "patience": 3,
        },
        "finetune": {"lr": 5e-5, "freeze": "front-end"},
    }
    if _rates(model):
        columns = [model.output_column] if isinstance(model.output_column, str) else model.output_column
        loss = "sample-ccc" if len(columns) > 1 else "mse"
        tree["tasks"] = {"affect": {"weight": 1.0, "dimensions": columns, "loss": loss, "bounded": False}}
    else:
        tree["labels"] = {"classes": classes}
    if not model.skip_hp_search:
        tree["search"] = {
            "space": {"finetune.lr": {"low": 5e-5, "high": 1e-3, "log": True, "also": ["training.lr"]}},
            "trials": experiment.hp_num_trials,
            "objective": "loss",
            "amount": experiment.hp_amount_of_training_data,
        }
    return tree


def _encoder(source: str) -> dict[str, Any]:
    """Return the section of an encoder by the name of its repository, or by the folder with its config.json."""
    for preset in PRESETS.values():
        if preset.options.get("weights") == source:
            return {"name": preset.name}
    config = Path(source) / "config.json"
    kind = json.loads(config.read_text(encoding="utf-8")).get("model_type", "") if config.is_file() else source.lower()
    return {"name": "wavlm" if "wavlm" in kind else "wav2vec2", "options": {"weights": source}}


def _rates(model: ModelFile) -> bool:
    """Whether a model learns ratings: of one column, or of several."""
    return model.is_regression or not isinstance(model.output_column, str)


def _check_data(data_csv: Path) -> None:
    if not data_csv.is_file():
        raise InputError(f"{data_csv}: no such file, which the experiment trains on: put it there or change data_csv")


def _read_classes(data_csv: Path) -> list[str]:
    labels = sorted(set(Manifest.read(data_csv).table["emotion"].drop_nulls()))
    if len(labels) < 2:
        raise InputError(f"{data_csv}: names {len(labels)} classes: two or more are to be told apart")
    return labels


def _find_models(path: Path, named: str) -> list[Path]:
    place = _place(path.parent, named)
    found = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not found or not found[0].is_file():
        raise InputError(f"{path}: {named} is no model file and no folder of them")
    return found


def _place(folder: Path, named: str) -> Path:
    """Return a path of the file: relative to where one is, as the original's are, or else to the file's folder."""
    path = Path(named).expanduser()
    return path if path.is_absolute() or path.exists() else folder / path if (folder / path).exists() else path


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"{path}: unknown key {key!r}{nearest(key, kind.model_fields)}") from error
        raise InputError(f"{path}: {key}: {first['msg'].lower()}") from error
