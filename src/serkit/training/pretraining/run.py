"""Run a recipe of pretraining into a folder that can be resumed, and whose encoders every other verb takes.

recipe.toml  provenance.json  history.jsonl  checkpoint.safetensors  encoder/ (the student)  teacher/
"""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from serkit.cores import count_cores
from serkit.data.files import write_json, write_text
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint, init_from_data2vec2, write_emotion2vec
from serkit.errors import InputError
from serkit.processes import count_processes, distributed, leads, wait_for_all
from serkit.progress import Report, no_report
from serkit.training.pretraining.clips import Clips, load_clips
from serkit.training.pretraining.distillation import Distillation
from serkit.training.pretraining.loop import pretrain
from serkit.training.pretraining.options import PretrainRecipe
from serkit.training.pretraining.recipe import load_pretraining
from serkit.training.run import set_threads
from serkit.training.trees import dump_recipe


def run_pretraining(
    recipe: PretrainRecipe,
    folder: str | Path,
    device: str = "cpu",
    threads: int | None = None,
    report: Report = no_report,
) -> Path:
    """Pretrain ``recipe`` into ``folder`` and return it; what is done is kept when it is called again.

    ``threads`` compute on a CPU (None: one per core, one where a launcher started several processes); the bits of the
    weights depend on their number. All processes of a launcher call this, one writes. Raises ``InputError`` when
    ``folder`` holds a pretraining of another recipe.
    """
    folder = Path(folder)
    if (folder / "recipe.toml").exists() and not holds_pretraining(folder, recipe):
        raise InputError(f"{folder}: holds a pretraining of another recipe or other overrides: choose another folder")
    if is_pretrained(folder):
        return folder
    clips = load_clips(recipe)
    with set_threads(threads or (1 if distributed() else count_cores())):
        method, notes = create_method(recipe)
        if leads():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "recipe.toml", dump_recipe(recipe))
            write_json(folder / "provenance.json", _provenance(recipe, clips, method, notes))
        pretrain(method, clips, recipe, folder, device, report)
    if leads():
        write_encoders(method, recipe, folder)
    wait_for_all(device)
    return folder


def is_pretrained(folder: Path) -> bool:
    """Tell whether the pretraining in ``folder`` has come to its end."""
    return all((folder / name / "config.json").is_file() for name in ("teacher", "encoder"))


def holds_pretraining(folder: Path, recipe: PretrainRecipe) -> bool:
    """Tell whether ``folder`` was made by ``recipe``; options that did not exist then have their defaults."""
    try:
        return load_pretraining(folder / "recipe.toml") == recipe
    except InputError:
        return False


def create_method(recipe: PretrainRecipe) -> tuple[Distillation, tuple[str, ...]]:
    """Return student, decoder and teacher as they begin, and what is to be said of the weights they begin with."""
    config = recipe.model.create()
    torch.manual_seed(recipe.seed)
    method = Distillation(config, recipe.distillation)
    if recipe.model.init == "cold":
        return method, ()
    found = init_from_data2vec2(config, recipe.model.init, recipe.seed)
    method.student.load_state_dict(found.state)
    notes = [*found.notes]
    if found.decoder is not None:
        shapes = {name: value.shape for name, value in method.decoder.state_dict().items()}
        if shapes == {name: value.shape for name, value in found.decoder.items()}:
            method.decoder.load_state_dict(found.decoder)
        else:
            notes.append("decoder: of other sizes in the source, drawn")
    method.reset_teacher()
    return method, tuple(notes)


def write_encoders(method: Distillation, recipe: PretrainRecipe, folder: Path) -> None:
    """Write the student with the decoder as ``encoder/``, the teacher with the student's front end as ``teacher/``."""
    notes = (f"pretrained by serkit {version('serkit')}, recipe {recipe.name}",)
    decoder = {name: value.detach() for name, value in method.decoder.state_dict().items()}
    for name, encoder, beside in (("teacher", method.teacher_encoder(), None), ("encoder", method.student, decoder)):
        state = {name: value.detach() for name, value in encoder.state_dict().items()}
        made = Emotion2vecCheckpoint(recipe.name, encoder.config, state, decoder=beside, notes=notes)
        write_emotion2vec(folder / name, made)


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers ``module`` has to learn."""
    return sum(weight.numel() for weight in module.parameters())


def _provenance(recipe: PretrainRecipe, clips: Clips, method: Distillation, notes: tuple[str, ...]) -> dict[str, Any]:
    packages = ("serkit", "torch", "numpy", "polars", "soundfile", "soxr")
    speakers = clips.manifest.table.select("corpus", "speaker").unique()
    return {
        "recipe": recipe.name,
        "utterances": len(clips),
        "hours": round(clips.hours, 4),
        "corpora": sorted({str(name) for name in clips.manifest.table["corpus"]}),
        "speakers": len(speakers.drop_nulls()),
        "excluded_speakers": list(clips.excluded),
        "too_short": clips.short,
        "manifest_fingerprint": clips.manifest.fingerprint(),
        "parameters": {"encoder": count_parameters(method.student), "decoder": count_parameters(method.decoder)},
        "init": recipe.model.init,
        "notes": list(notes),
        "seed": recipe.seed,
        "processes": count_processes(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "command": " ".join(["serkit", *sys.argv[1:]]),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }
