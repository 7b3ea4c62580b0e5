"""Pretraining without labels: what is heard, in which batches, the same weights however it is dealt or interrupted."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import math
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrained import pretrain_until_killed, write_recipe
from pydantic import BaseModel
from safetensors.torch import load_file

from serkit.encoders import create_encoder
from serkit.errors import InputError, SerkitError
from serkit.training import pretraining as package
from serkit.training.pretraining import loop, options
from serkit.training.pretraining.batches import STEP, count_updates, plan_batches, plan_updates
from serkit.training.pretraining.clips import load_clips
from serkit.training.pretraining.loop import create_optimizer, learning_rate, pretrain, watch
from serkit.training.pretraining.options import GuardOptions, PretrainRecipe, PretrainTraining
from serkit.training.pretraining.recipe import load_pretraining
from serkit.training.pretraining.run import create_method, is_pretrained, run_pretraining
from serkit.training.recipe import load_recipe
from serkit.training.trees import dump_recipe, list_recipes

torch.set_num_threads(1)

ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("pretraining"))


@pytest.fixture
def recipe(path):
    """``recipe("training.lr=1", ...)``: the small recipe with these overrides."""
    return lambda *overrides: load_pretraining(path, overrides)


def learn(recipe, folder=None):
    """Return the method after training, and its history."""
    method, _ = create_method(recipe)
    return method, pretrain(method, load_clips(recipe), recipe, folder)


def timeless(history):
    return [{key: line[key] for key in line if key not in ("seconds", "hours_per_hour")} for line in history]


def assert_close(one, two, tolerance):
    assert list(one) == list(two)
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


# Learning


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("training.precision=bf16", "training.padding=true"),
        ("distillation.utterance=global", "model.tokens=0", "distillation.mask_generator=span"),
    ],
)
def test_the_loss_falls_and_what_is_told_is_plausible(changes, recipe):
    chosen = recipe("training.max_updates=40", "training.log_updates=10", *changes)
    method, history = learn(chosen)
    assert [line["update"] for line in history] == [10, 20, 30, 40]
    assert history[-1]["loss_frame"] < 0.9 * history[0]["loss_frame"]
    for line in history:
        assert line["loss"] == pytest.approx(line["loss_frame"] + line["loss_utterance"])
        assert 0.2 < line["masked_share"] <= 0.5 and 0.1 < line["target_variance"] < 1.2
        assert line["prediction_variance"] > 0 and line["gradient_norm"] > 0
    clips = load_clips(chosen)
    capped = [min(count, 8000) for count in clips.samples]
    each = math.ceil(len(plan_batches(capped, 20_000, np.random.default_rng(0))) / 2)
    assert history[-1]["epoch"] == pytest.approx(40 / each, abs=1e-3)
    heard = history[-1]["hours"] / history[-1]["epoch"]
    assert 0.7 * sum(capped) < heard * 3600 * 16_000 < 1.05 * sum(capped), (
        "a crop to the shortest of a batch loses little"
    )
    assert all(weight.requires_grad is False for weight in method.teacher.parameters())


def test_an_update_divides_by_the_masked_frames_of_all_its_batches(recipe, monkeypatch):
    """Once more in plain PyTorch: the batches of the first update, their losses added up, one gradient."""
    chosen = recipe("training.max_updates=1", "training.clip_norm=0", "distillation.regularise={}")
    found = {}

    class Watching(torch.optim.AdamW):
        def step(self, closure=None):
            found.update({id(weight): weight.grad.clone() for group in self.param_groups for weight in group["params"]})

    plain, clips = create_method(chosen)[0].train(), load_clips(chosen)
    monkeypatch.setattr(loop.torch.optim, "AdamW", Watching)
    method, (line,) = learn(chosen)
    samples = [min(count, 8000) for count in clips.samples]
    (batches, *_) = plan_updates(samples, 20_000, 2, np.random.default_rng([0, 0]))
    assert len(batches) == 2
    total, count = 0.0, 0
    for index, rows in enumerate(batches):
        audio = clips.batch(rows, 8000, False, (0, 0))
        torch.manual_seed(loop.draw_seed(0, 1, index))
        masks = plain.draw_masks(audio.lengths, np.random.default_rng([0, 1, index, 1]))
        losses = plain(audio.waveforms, audio.lengths, masks)
        total, count = total + losses.frame + losses.utterance, count + sum(int(mask.sum()) for mask in masks)
    (total / count).backward()
    assert line["loss"] == pytest.approx(float(total.detach() / count), rel=1e-5)
    for (name, weight), mine in zip(plain.named_parameters(), method.parameters(), strict=True):
        if weight.requires_grad:
            torch.testing.assert_close(
                found[id(mine)], weight.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_rates_of_learning_and_of_the_teacher(recipe):
    training = PretrainTraining(max_updates=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(training, number, 100) for number in range(1, 101)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10:] == pytest.approx([(1 + math.cos(math.pi * step / 90)) / 2 for step in range(90)])
    _, history = learn(recipe("training.max_updates=12", "training.log_updates=1"))
    assert [line["lr"] for line in history] == pytest.approx(
        [learning_rate(recipe().training, number, 12) for number in range(1, 13)]
    )
    assert [line["decay"] for line in history] == pytest.approx([min(0.9 + 0.009 * n, 0.99) for n in range(1, 13)])


def test_vectors_biases_and_alibi_do_not_decay(recipe):
    method, _ = create_method(recipe())
    names = {id(weight): name for name, weight in method.named_parameters()}
    groups = create_optimizer(method, recipe().training).param_groups
    decays = {names[id(weight)]: group["weight_decay"] for group in groups for weight in group["params"]}
    learned = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert set(decays) == learned and not [name for name in learned if name.startswith("teacher")]
    assert decays["student.alibi_scale"] == 0 and decays["student.encoder.layer_norm.weight"] == 0
    assert decays["student.encoder.pos_conv_embed.layers.0.conv.bias"] == decays["decoder.proj.bias"] == 0
    assert decays["student.utterance_tokens"] == decays["decoder.proj.weight"] == 0.01
    assert decays["student.feature_extractor.conv_layers.0.conv.weight"] == 0.01


# The guard


def test_a_collapsed_model_ends_the_training(recipe):
    chosen = recipe("guard.after=3", "training.lr=1e-9")
    method, _ = create_method(chosen)
    for weight in method.decoder.parameters():
        torch.nn.init.zeros_(weight)  # every frame is told alike
    with pytest.raises(SerkitError, match=r"update 4: collapse: prediction_variance is 0.001, less than guard\."):
        pretrain(method, load_clips(chosen), chosen)
    assert len(learn(recipe("guard.after=3", "guard.target_variance=0", "guard.prediction_variance=0"))[1]) == 5


def test_the_guard_waits_and_knows_what_is_no_number():
    guard, good = GuardOptions(after=5), {"target_variance": 0.5, "prediction_variance": 0.5}
    watch(guard, 6, good)
    watch(guard, 5, {**good, "target_variance": 0.0})
    for name, value in (("target_variance", 0.09), ("prediction_variance", 0.009), ("prediction_variance", math.nan)):
        with pytest.raises(SerkitError, match=f"update 6: collapse: {name}"):
            watch(guard, 6, {**good, name: value})


def test_a_gradient_that_is_no_number_ends_the_training(recipe, monkeypatch):
    method, _ = create_method(recipe())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.decoder.proj.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(SerkitError, match=r"update 1: the gradient is not a number: lower training\.lr"):
        pretrain(method, load_clips(recipe()), recipe())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


# Batches

samples = st.lists(st.integers(400, 320_000), min_size=1, max_size=80)


@given(samples, st.integers(1, 2_000_000), st.integers(1, 5), st.integers(0, 3))
def test_every_clip_is_in_one_batch_within_the_limit(samples, limit, together, seed):
    updates = plan_updates(samples, limit, together, np.random.default_rng(seed))
    batches = list(itertools.chain(*updates))
    assert sorted(itertools.chain(*batches)) == list(range(len(samples)))
    assert len(updates) == count_updates(samples, limit, together) == math.ceil(len(batches) / together)
    assert all(len(update) == together for update in updates[:-1]) and 0 < len(updates[-1]) <= together
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(samples[row] for row in batch) <= limit
        between = [count for row, count in enumerate(samples) if row not in batch]
        low, high = (made(samples[row] for row in batch) for made in (min, max))
        assert not [count for count in between if low + STEP < count < high - STEP], "similar lengths stay together"


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(8000, 80_000, 200).tolist()
    plans = [plan_updates(lengths, 400_000, 2, np.random.default_rng([0, epoch])) for epoch in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    composed = [{tuple(sorted(batch)) for batch in itertools.chain(*plan)} for plan in plans]
    assert composed[0] != composed[2], "not only the order of batches changes"


def test_crops(recipe):
    clips, most = load_clips(recipe("data.max_seconds=5")), 6000
    rows = [int(np.argmax(clips.samples)), int(np.argmin(clips.samples))]
    whole = [clips.read(row).float() for row in rows]
    shortest = len(whole[1])
    assert clips.samples[rows[0]] == len(whole[0]) > most > shortest
    batch, again, other = (clips.batch(rows, most, False, (0, epoch)) for epoch in (0, 0, 1))
    assert batch.waveforms.shape == (2, shortest) and batch.lengths.tolist() == [shortest] * 2
    assert torch.equal(batch.waveforms, again.waveforms) and not torch.equal(batch.waveforms, other.waveforms)
    windows = whole[0].unfold(0, shortest, 1)
    assert (windows == batch.waveforms[0]).all(1).sum() == 1 and torch.equal(batch.waveforms[1], whole[1])
    padded = clips.batch(rows, most, True, (0, 0))
    assert padded.lengths.tolist() == [most, shortest] and not padded.waveforms[1, shortest:].any()
    decoded_anew = load_clips(recipe("data.max_seconds=5", "data.memory_hours=0"))
    assert torch.equal(decoded_anew.batch(rows, most, True, (0, 0)).waveforms, padded.waveforms)
    assert len(clips.held) == 2 and not decoded_anew.held


# Which recordings


def names(clips):
    return set(clips.manifest.table.select(pl.concat_str("corpus", "speaker", separator="/")).to_series())


def test_short_clips_and_speakers_are_left_out(recipe):
    clips = load_clips(recipe())
    assert clips.short > 0 and len(clips) + clips.short == 16 and min(clips.samples) >= 4800
    assert names(clips) == {f"generated/{name}" for name in ("f1", "f2", "m1", "m2")} and not clips.excluded
    assert len(load_clips(recipe("data.min_seconds=0.1"))) == 16
    fewer = load_clips(recipe("data.exclude_speakers=['generated/f1']"))
    assert names(fewer) == {"generated/f2", "generated/m1", "generated/m2"} and fewer.excluded == ("generated/f1",)
    fold = "data.exclude_tests=[{protocol='leave-one-speaker-out', fold='m2'}]"
    fewer = load_clips(recipe("data.exclude_speakers=['generated/f1']", fold))
    assert names(fewer) == {"generated/f2", "generated/m1"} and fewer.excluded == ("generated/f1", "generated/m2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.exclude_speakers=['generated/f3']", "names 'generated/f3': did you mean 'generated/f"),
        ("data.exclude_tests=[{protocol='emobox/ravdes', fold='fold_1'}]", "did you mean 'emobox/ravdess'"),
        ("data.exclude_tests=[{protocol='emobox/ravdess', fold='fold_1'}]", "is of ravdess, which the data lack"),
        ("data.exclude_tests=[{protocol='leave-one-speaker-out', fold='m9'}]", "has no fold 'm9'"),
        ("data.min_seconds=0.5", "no recording is left"),
        ("data.where={channel='x'}", "data.where names 'channel'"),
    ],
)
def test_what_does_not_exist_is_named(override, message, recipe):
    with pytest.raises(InputError, match=r"^recipe small: ") as error:
        load_clips(recipe(override, "data.max_seconds=1") if "min" not in override else recipe("data.min_seconds=0.5",
                   "data.where={speaker='f1'}", "data.exclude_speakers=['generated/f1']"))  # fmt: skip
    assert message in str(error.value)


def test_test_speakers_of_a_published_fold_are_not_heard(corpus_root):
    chosen = load_pretraining(
        "emotion2vec/tiny",
        [
            f"data.root={corpus_root('ravdess').parent}", "data.corpora={ravdess='ravdess', emovo='emovo'}",
            "data.exclude_tests=[{protocol='emobox/ravdess', fold='fold_2'}]",
        ],
    )  # fmt: skip
    clips = load_clips(chosen)
    assert clips.excluded == tuple(f"ravdess/{actor}" for actor in ("04", "10", "12", "14"))
    assert not names(clips) & set(clips.excluded) and {"ravdess/01", "emovo/f1"} <= names(clips)
    assert len({name for name in names(clips) if name.startswith("ravdess/")}) == 20


# Interruptions


def test_an_interruption_at_any_update_changes_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("serkit.training.checkpoint.SHARE", 0)
    chosen = recipe("training.max_updates=6")
    whole, history = learn(chosen)

    class Stopping(torch.optim.AdamW):
        def step(self, closure=None):
            if next(steps) == stop:
                raise KeyboardInterrupt
            super().step(closure)

    for stop in (1, 3, 6):
        folder = tmp_path / str(stop)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            steps = itertools.count(1)
            patch.setattr(loop.torch.optim, "AdamW", Stopping)
            learn(chosen, folder)
        method, resumed = learn(chosen, folder)
        assert timeless(resumed) == timeless(history)
        written = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert written == resumed
        for one, two in zip(method.state_dict().values(), whole.state_dict().values(), strict=True):
            assert torch.equal(one, two)


def test_a_pretraining_killed_again_and_again_ends_with_the_same_bits(path, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pretrained"])
    codes = []
    for folder, kill_at, way in (
        ("whole", 0, ""), ("killed", 4, "writing"), ("killed", 3, "renaming"), ("killed", 0, "")
    ):  # fmt: skip
        process = context.Process(target=pretrain_until_killed, args=(path, tmp_path / folder, kill_at, way))
        process.start()
        process.join(120)
        codes.append(process.exitcode)
    assert codes == [0, -9, -9, 0] and is_pretrained(tmp_path / "killed")
    for name in ("encoder/model.safetensors", "teacher/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    one, two = ([json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
                for name in ("whole", "killed"))  # fmt: skip
    assert timeless(one) == timeless(two) and one[-1]["update"] == 10
    assert not list((tmp_path / "killed").glob(".*.part*")), "what kills left behind is removed"


def test_two_processes_do_what_one_does(path, recipe, tmp_path, environment):
    chosen = ["training.epsilon=1e-2", "training.max_updates=5", "training.update_batches=3"]
    run_pretraining(recipe(*chosen), tmp_path / "alone", threads=1)
    command = [
        sys.executable, "-m", *ACCELERATE, "-m", "serkit.cli", "pretrain", str(path), *chosen,
        "-o", str(tmp_path / "both"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "both" / "provenance.json").read_text())["processes"] == 2
    assert done.stdout.count("5 updates") == 1, "the result is told once"
    for name in ("encoder", "teacher"):
        one, two = (load_file(tmp_path / each / name / "model.safetensors") for each in ("alone", "both"))
        assert_close(one, two, 2e-5)
    alone, both = ([json.loads(line) for line in (tmp_path / each / "history.jsonl").read_text().splitlines()]
                   for each in ("alone", "both"))  # fmt: skip
    for mine, theirs in zip(timeless(alone), timeless(both), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


# The run and what uses it


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    return run_pretraining(load_pretraining(path), tmp_path_factory.mktemp("run") / "run", threads=1)


def test_a_finished_run_is_kept_and_another_recipe_refused(run, recipe, path, serkit):
    before = (run / "encoder" / "model.safetensors").stat().st_mtime_ns
    said = serkit("pretrain", path, "-o", run)
    assert said.code == 0 and "10 updates" in said.out and "encoder.options.weights=" in said.out
    assert (run / "encoder" / "model.safetensors").stat().st_mtime_ns == before
    assert (run / "loss.png").stat().st_size > 5000 and (run / "loss.svg").exists()
    with pytest.raises(InputError, match="holds a pretraining of another recipe"):
        run_pretraining(recipe("training.lr=1e-3"), run)
    facts = json.loads((run / "provenance.json").read_text())
    assert facts["utterances"] == len(load_clips(recipe())) and facts["corpora"] == ["generated"]
    assert load_pretraining(run / "recipe.toml") == recipe()


def test_the_curves_of_a_run_are_drawn_at_any_time(run, path, serkit):
    (run / "loss.svg").unlink(missing_ok=True)
    assert serkit("pretrain", path, "-o", run, "--draw").code == 0
    text = (run / "loss.svg").read_text()
    assert all(word in text for word in ("frames", "utterance", "targets", "predictions"))
    assert serkit("pretrain", path, "-o", run / "absent", "--draw").code == 2


def test_the_encoders_are_student_and_teacher(run, recipe):
    student, teacher = (create_encoder("emotion2vec", weights=str(run / name)) for name in ("encoder", "teacher"))
    state = load_file(run / "checkpoint.safetensors")
    for name, value in student.state_dict().items():
        assert torch.equal(value, state[f"head.student.{name}"])
    for name, value in teacher.state_dict().items():
        own = state.get(f"head.teacher.{name}")
        assert torch.equal(value, state[f"head.student.{name}"] if own is None else own)
    assert not torch.equal(student.encoder.layers[0].attention.q_proj.weight,
                           teacher.encoder.layers[0].attention.q_proj.weight)  # fmt: skip
    clip = load_clips(recipe()).read(0).float()[None]
    frames = student(clip, torch.tensor([clip.shape[1]]))
    assert frames.layers.shape[1:] == (4, int(student.frame_lengths(torch.tensor(clip.shape[1]))), 24)


def test_fine_tuning_goes_on_from_it(run, path, tmp_path):
    from serkit.training.run import train

    text = f"""
    name = "tuned"
    seeds = [0]
    data.manifest = "{path.parent}/manifest.parquet"
    labels.classes = ["sad", "happy"]
    protocol = {{ name = "leave-one-speaker-out", dev = 0 }}
    encoder = {{ name = "emotion2vec", layers = [-1], options = {{ weights = "{run}/encoder" }} }}
    head = {{ frame_hidden = [8] }}
    training = {{ epochs = 1, batch_size = 8 }}
    finetune = {{ lr = 1e-3 }}
    """
    (tmp_path / "tuned.toml").write_text(inspect.cleandoc(text))
    predictions = pl.read_parquet(
        train(load_recipe(tmp_path / "tuned.toml"), tmp_path / "run", tmp_path / "cache", workers=1)
    )
    assert len(predictions) == 16 and predictions["p_sad"].is_between(0, 1).all()
    begun = load_file(run / "encoder" / "model.safetensors")
    tuned = load_file(next((tmp_path / "run" / "models").glob("*.safetensors")))
    key = "encoder.layers.2.attention.q_proj.weight"
    assert 0 < float((tuned[f"encoder.{key}"] - begun[key]).abs().max()) < 0.1


def test_pretraining_may_begin_with_another_encoder(run, recipe):
    method, notes = create_method(recipe(f"model.init={run}/encoder"))
    begun = load_file(run / "encoder" / "model.safetensors")
    for name, value in method.student.state_dict().items():
        assert torch.equal(value, begun[name])
    for name, value in method.teacher.state_dict().items():
        assert torch.equal(value, begun[name]), "the teacher begins as the student"
    for name, value in method.decoder.state_dict().items():
        assert torch.equal(value, begun[f"decoder.{name}"])
    assert not [note for note in notes if note.startswith("decoder")]
    _, notes = create_method(recipe(f"model.init={run}/encoder", "distillation.decoder_layers=1"))
    assert "decoder: of other sizes in the source, drawn" in notes
    with pytest.raises(InputError, match="is another model: ffn 32 instead of 64"):
        create_method(recipe(f"model.init={run}/encoder", "model.ffn=64"))


# Recipes


@pytest.mark.parametrize(("name", "million"), [("tiny", 1.36), ("small", 19.78), ("base", 93.17)])
def test_shipped_recipes(name, million):
    chosen = load_pretraining(f"emotion2vec/{name}")
    with torch.device("meta"):
        from serkit.encoders.emotion2vec import Emotion2vecEncoder

        encoder = Emotion2vecEncoder("emotion2vec", chosen.model.create())
    assert sum(weight.numel() for weight in encoder.parameters()) / 1e6 == pytest.approx(million, abs=0.01)
    assert chosen.name == f"emotion2vec/{name}" and f"emotion2vec/{name}" in list_recipes("pretrain")
    assert f"emotion2vec/{name}" not in list_recipes()


def test_the_published_recipe_says_what_the_paper_says():
    base = load_pretraining("emotion2vec/base")
    assert (base.model.dim, base.model.heads, base.model.prenet, base.model.blocks, base.model.tokens) == (
        768, 12, 4, 8, 10,
    )  # fmt: skip
    assert (base.training.lr, base.training.weight_decay, base.training.epochs) == (7.5e-5, 0.01, 100)
    assert base.training.update_batches == 16 and base.training.batch_samples == 1_000_000
    chosen = base.distillation
    assert (chosen.mask_probability, chosen.mask_length, chosen.clones, chosen.top_layers) == (0.5, 5, 8, 8)
    assert (chosen.ema_start, chosen.ema_end, chosen.utterance_weight) == (0.999, 0.99999, 1.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_update=3", "unknown key 'training.max_update': did you mean 'max_updates'"),
        ("distillation.clone=3", "unknown key 'distillation.clone': did you mean 'clones'"),
        ("distillation.regularise.layerdrop=0.1", "did you mean 'layer_drop'"),
        ("model.heads=5", "heads is 5, which does not divide dim 24"),
        ("distillation.top_layers=3", "top_layers is 3, but model.blocks 2"),
        ("training={lr=1}", "set either max_updates or epochs"),
        ("data.max_seconds=0.1", "min_seconds is more than max_seconds"),
        ("distillation.decoder_groups=3", "decoder_groups is 3, which does not divide 16"),
        ("distillation.decoder_groups=16", "decoder_groups is 16, which does not divide model.dim"),
        ("model.tokens=0", 'model.tokens is 0: set distillation.utterance = "global"'),
    ],
)
def test_mistakes_are_named(override, message, recipe):
    with pytest.raises(InputError) as error:
        recipe(override)
    assert message in str(error.value)


def test_epochs_take_the_place_of_updates(recipe):
    chosen = recipe("training.epochs=3")
    assert chosen.training.max_updates is None and chosen.training.epochs == 3
    assert load_pretraining("emotion2vec/tiny", ["training.max_updates=7"]).training.epochs is None
    _, history = learn(recipe("training.epochs=2", "training.log_updates=100"))
    assert history[-1]["epoch"] == 2


def test_a_recipe_is_known_to_its_verb_alone(path, serkit, tmp_path):
    assert "is one of serkit pretrain" in serkit("train", "emotion2vec/tiny", "-o", tmp_path).err
    assert "is one of serkit train" in serkit("pretrain", "ravdess/finetune", "-o", tmp_path).err
    assert "emotion2vec/base" in serkit("list", "recipes").out
    said = serkit("pretrain", path, "--plan")
    assert said.code == 0 and "10 updates" in said.out and "on this machine" in said.out
    assert not list(tmp_path.iterdir())


def test_dumped_recipes_are_read_again(recipe, tmp_path):
    chosen = recipe("data.exclude_tests=[{protocol='leave-one-speaker-out', fold='m2'}]")
    (tmp_path / "again.toml").write_text(dump_recipe(chosen))
    assert load_pretraining(tmp_path / "again.toml") == chosen


def sections(model):
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation)


def test_nothing_can_be_set_that_nothing_reads():
    files = list(Path(package.__path__[0]).glob("*.py"))
    trees = {path.name: ast.parse(path.read_text()) for path in files}
    read = {node.attr for name, tree in trees.items() if name != "options.py" for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)}  # fmt: skip
    (create,) = (node for node in ast.walk(trees["options.py"]) if getattr(node, "name", "") == "create")
    read |= {node.attr for node in ast.walk(create) if isinstance(node, ast.Attribute)}
    read |= set(loop.FACTS)  # the guard's, by the names of what it watches
    own = [each for each in sections(PretrainRecipe) if each.__module__ == options.__name__]
    assert len(own) == 6
    said = {name for each in own for name in each.__annotations__}
    assert len(said) > 40 and not said - read
