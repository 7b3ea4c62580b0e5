"""Fine-tuning as a recipe: from recordings and transcripts to predictions, a report and a bundle."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from speech import FOUR, write_corpus, write_tiny_whisper
from typer.testing import CliRunner

from serkit.cli import app
from serkit.data.audio import read_audio
from serkit.data.corpora import prepare_corpus
from serkit.data.manifest import Manifest
from serkit.errors import InputError
from serkit.evaluation.metrics import ccc
from serkit.evaluation.report import write_report
from serkit.models.model import Waveforms
from serkit.training import recordings as recordings_module
from serkit.training.material import load_data
from serkit.training.recipe import load_recipe
from serkit.training.run import train
from serkit.training.stores import load, store

torch.set_num_threads(1)

RECIPE = """
name = "tuned"
seeds = [0]
[data]
manifest = "{root}/manifest.parquet"
[labels]
classes = ["sad", "happy"]
[protocol]
name = "leave-one-speaker-out"
dev = 0.34
[encoder]
name = "whisper"
layers = [1, 2]
level = -23
options = {{ weights = "{root}/tiny.safetensors" }}
[augment]
chain = [{{ name = "noise", snr = [20, 30] }}]
[head]
frame_hidden = [8]
dropout = 0.1
[tasks]
ctc = {{ weight = 0.1 }}
speaker = {{ weight = 0.2 }}
affect = {{ dimensions = ["arousal", "valence"] }}
[training]
epochs = 2
batch_size = 5
lr = 0.003
[finetune]
lr = 0.002
regularise = {{ dropout = 0.1, mask_time = 0.05, layer_drop = 0.2 }}
batches = {{ micro_seconds = 1.5 }}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tuned")
    write_corpus(root, 2, FOUR).write(root / "manifest.parquet")
    write_tiny_whisper(root / "tiny.safetensors")
    (root / "tuned.toml").write_text(RECIPE.format(root=root), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def go(root):
    def run(folder, *overrides, workers=1):
        return train(load_recipe(root / "tuned.toml", overrides), folder, root / "cache", workers=workers)

    return run


@pytest.fixture(scope="module")
def run(go, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    go(folder)
    return folder


def test_from_recordings_and_texts_to_predictions(run, root):
    table = pl.read_parquet(run / "predictions.parquet")
    manifest = load_data(load_recipe(root / "tuned.toml")).table
    tests = table.filter(pl.col("part") == "test")
    assert sorted(tests["id"]) == sorted(manifest["id"]) and set(table["fold"]) == set(FOUR)
    assert {"text_truth", "text_prediction", "speaker_truth", "speaker_prediction", "arousal_truth", "p_sad"} <= set(
        table.columns
    )
    rows = tests.join(manifest.select("id", "text", "arousal", "emotion"), on="id")
    # A symbol that the training part lacks would be missing; here every part has all of them.
    assert rows["text_truth"].to_list() == [text.lower() for text in rows["text"]]
    assert rows["arousal_truth"].to_list() == pytest.approx(rows["arousal"].to_list())
    assert rows["truth"].to_list() == rows["emotion"].to_list() and tests["text_prediction"].null_count() == 0
    assert tests["speaker_truth"].null_count() == len(tests)  # a test speaker is never among those of its training
    for fold in FOUR:
        part = tests.filter(pl.col("fold") == fold)
        known = {name for name in FOUR if f"speaker_p_{name}" in part and part[f"speaker_p_{name}"].is_not_null().any()}
        dev = set(table.filter((pl.col("fold") == fold) & (pl.col("part") == "dev"))["speaker"])
        assert known == set(FOUR) - {fold, *dev} and len(known) == 2
        assert part.select(pl.sum_horizontal(f"speaker_p_{name}" for name in known)).to_series().to_list() == (
            pytest.approx([1] * len(part))
        )
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert {"loss", "loss_ctc", "loss_speaker", "loss_affect", "dev_loss_ctc", "dev_uar"} <= set(lines[0])
    facts = json.loads((run / "provenance.json").read_text())
    assert facts["stamp"] == "speakers shared: 0" and facts["encoder_fingerprint"]
    assert load_recipe(run / "recipe.toml") == load_recipe(root / "tuned.toml")
    assert not list(run.rglob("checkpoint.safetensors"))


def test_a_run_goes_on_where_files_are_missing(go, run, tmp_path, monkeypatch):
    whole, calls, fit = (run / "predictions.parquet").read_bytes(), [], recordings_module.finetune
    monkeypatch.setattr(recordings_module, "finetune", lambda *rest: calls.append(rest[1].ids) or fit(*rest))
    for file in (run / "models").glob("f2-*"):
        file.unlink()
    (run / "predictions.parquet").unlink()
    assert go(run).read_bytes() == whole and len(calls) == 1
    assert go(run).read_bytes() == whole and len(calls) == 1


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(go, run, tmp_path):
    assert go(tmp_path / "run", workers=2).read_bytes() == (run / "predictions.parquet").read_bytes()


def test_the_report_has_the_tasks(go, tmp_path):
    folder = tmp_path / "run"
    table = pl.read_parquet(go(folder, "protocol={name='random-k-fold', k=3, dev=0}"))
    assert table["speaker_truth"].null_count() == 0 and table.height == 16
    report = write_report(folder)
    assert {"text", "speaker", "arousal", "valence"} == set(report["tasks"])
    assert report["tasks"]["speaker"]["n"] == report["tasks"]["text"]["n"] == 16
    right = (table["speaker_truth"] == table["speaker_prediction"]).mean()
    assert report["tasks"]["speaker"]["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert report["tasks"]["text"]["metrics"]["wer"]["value"] > 0


def test_a_task_unknown_in_one_part_is_no_error(go, root, tmp_path):
    """Affect of one fold and texts of a dev part are null: columns of one run, all the same."""
    manifest = load_data(load_recipe(root / "tuned.toml")).table
    quiet = pl.when(pl.col("speaker") == "m2")
    table = manifest.with_columns(
        text=quiet.then(None).otherwise(pl.col("text")), arousal=quiet.then(None).otherwise(pl.col("arousal"))
    )
    table.write_parquet(tmp_path / "manifest.parquet")
    found = pl.read_parquet(go(tmp_path / "run", f"data.manifest={tmp_path}/manifest.parquet", "training.epochs=1"))
    first = found.filter(pl.col("fold") == found["fold"][0])
    assert first["speaker"][0] == "m2" and first["speaker"][-1] != "m2"  # the column begins with what is unknown
    assert found["text_truth"].dtype == pl.String and found["arousal_truth"].dtype == pl.Float64
    assert found.filter(pl.col("speaker") == "m2")["text_truth"].is_null().all()
    assert found.filter(pl.col("speaker") != "m2")["text_truth"].null_count() == 0


def test_an_export_says_what_the_model_says(run, root, tmp_path):
    pytest.importorskip("onnxruntime")
    bundle, cache = tmp_path / "bundle", root / "cache"
    made = CliRunner().invoke(app, ["export", str(run), "-o", str(bundle), "--cache", str(cache)])
    assert made.exit_code == 0, made.output
    recipe = load_recipe(run / "recipe.toml")
    card = json.loads((bundle / "serkit.json").read_text())
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    best = [
        max((line for line in lines if line["fold"] == fold), key=lambda line: (line["dev_uar"], -line["epoch"]))
        for fold in FOUR
    ]
    epochs = round(float(np.mean([line["epoch"] for line in best])))
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": epochs})})
    manifest = load_data(recipe)
    material = load(recipe, manifest, store(recipe, manifest, cache, workers=1))
    model, _ = material.fit(manifest.ids, (), 0, None)
    clips = manifest.table.filter(pl.col("text").str.len_chars() > 1)["audio"].to_list()[:4]  # a quarter of a second
    said = CliRunner().invoke(app, ["predict", *clips, "--model", str(bundle), "--format", "json"])
    assert said.exit_code == 0, said.output
    found = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
    for clip, prediction in zip(clips, found, strict=True):
        waveform = torch.from_numpy(read_audio(clip))[None]
        with torch.no_grad():
            audio = Waveforms(*model.encoder.prepare(waveform, torch.tensor([waveform.shape[1]]))[:2])
            scores = model.eval()(audio)["emotion"].log_softmax(-1).mean(0)[0] / card["temperature"]
        wanted = scores.double().softmax(-1)
        assert [prediction["probabilities"][name] for name in ("sad", "happy")] == pytest.approx(
            wanted.tolist(), abs=1e-4
        )
    assert len({round(each["probabilities"]["sad"], 4) for each in found}) > 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune.freeze=7"], "finetune.freeze: whisper has 2 blocks, so freeze 0 to that many"),
        (["finetune.freeze=encoders"], "finetune.freeze"),
        (["finetune.padding=original"], "whisper never sees padding"),
        (["finetune.regularise.projection_dropout=0.1"], "has no place for projection_dropout"),
        (["finetune.lr=0"], "finetune.lr"),
        (["finetune.rate=1"], "unknown key 'finetune.rate'"),
        (["tasks.ctc.wait=1"], "unknown key 'tasks.ctc.wait'.*weight"),
        (["augment.copies=1"], "augment.copies are for cached features"),
        (["streams=[{name='spectrogram'}]"], "finetune takes one encoder: leave out streams"),
        (["features.normalise=speaker"], "finetune takes features.normalise none or global"),
        (["training.optimizer=lbfgs"], "lbfgs fits heads on cached features"),
    ],
)
def test_what_does_not_go_together_is_named(overrides, message, go, tmp_path):
    with pytest.raises(InputError, match=message):
        go(tmp_path / "run", *overrides)
    assert not list((tmp_path / "run").glob("models/*"))


def test_tasks_are_for_fine_tuning(root, tmp_path):
    text = RECIPE.format(root=root)
    (tmp_path / "tasks.toml").write_text(text[: text.index("[finetune]")], encoding="utf-8")
    with pytest.raises(InputError, match=r"tasks \(ctc, speaker, affect\) are learned from waveforms: set finetune"):
        load_recipe(tmp_path / "tasks.toml")
    load_recipe(tmp_path / "tasks.toml", ["tasks={}"])
    with pytest.raises(InputError, match=r"tasks \(emotion\) are learned from waveforms"):
        load_recipe(tmp_path / "tasks.toml", ["tasks={ emotion = { soft = true } }"])


def with_manifest(root, tmp_path, change):
    table = load_data(load_recipe(root / "tuned.toml")).table
    change(table).write_parquet(tmp_path / "manifest.parquet")
    return f"data.manifest={tmp_path}/manifest.parquet"


def test_ctc_without_text_is_named(go, root, tmp_path):
    data = with_manifest(root, tmp_path, lambda table: table.with_columns(text=pl.lit(None, pl.String)))
    with pytest.raises(InputError, match=r"tasks\.ctc: the training part has no text: leave the task out, or fill"):
        go(tmp_path / "run", data)


def test_a_recording_that_is_too_short_is_named(go, root, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.full(200, 0.1), 16_000)
    row = pl.DataFrame({"id": ["click"], "audio": [str(tmp_path / "click.wav")], "emotion": ["sad"], "speaker": ["f1"]})
    data = with_manifest(root, tmp_path, lambda table: pl.concat([table, row], how="diagonal_relaxed"))
    with pytest.raises(InputError, match=r"click\.wav: utterance 'click': whisper needs at least 400 samples"):
        go(tmp_path / "run", data)


RATED = [
    "tasks={ affect = { dimensions = ['emo_act', 'emo_val'], loss = 'sample-ccc' } }", "training.monitor=loss",
    "training.epochs=8", "training.batch_size=16", "augment.chain=[]", "finetune.regularise={}",
    "head={ frame_hidden = [], pooling = 'mean', pooled_activation = 'relu', batch_norm = true, dropout = 0.1 }",
]  # fmt: skip


@pytest.fixture
def rated(root, tmp_path):
    """A recipe without labels for a manifest without emotions, rated from 1 to 7 in two columns of its own."""
    table = Manifest.read(root / "manifest.parquet").table
    table = table.with_columns(
        emotion=pl.lit(None, pl.String),
        emo_act=1 + 6 * pl.col("arousal"),
        emo_val=pl.when(pl.col("id") == "u3").then(None).otherwise(pl.Series(np.linspace(1, 7, len(table)))),
    )
    table.with_columns(pl.col("emo_act").cast(pl.String)).write_parquet(tmp_path / "rated.parquet")
    text = RECIPE.format(root=root).replace(f"{root}/manifest.parquet", f"{tmp_path}/rated.parquet")
    (tmp_path / "rated.toml").write_text(text.replace('[labels]\nclasses = ["sad", "happy"]\n', ""), encoding="utf-8")
    return lambda *overrides: load_recipe(tmp_path / "rated.toml", [*RATED, *overrides]), table


@pytest.mark.parametrize("freeze", ["front-end", "encoder"])
def test_ratings_alone_are_learned_and_judged(freeze, rated, root, tmp_path, serkit):
    recipe, table = rated
    folder = tmp_path / "run"
    found = pl.read_parquet(train(recipe(f"finetune.freeze={freeze}"), folder, root / "cache", workers=1))
    tests = found.filter(pl.col("part") == "test").join(table.select("id", "emo_act", "emo_val"), on="id")
    assert tests.height == 16 and not [name for name in found.columns if name.startswith("p_") or name == "prediction"]
    assert tests["emo_act_truth"].to_list() == pytest.approx(tests["emo_act"].to_list(), abs=1e-5)
    assert tests["emo_val_truth"].null_count() == 1 and tests["emo_val_prediction"].is_between(1, 7).all()
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert lines[0]["dev_loss"] == lines[0]["dev_loss_affect"] and "dev_uar" not in lines[0]
    for fold in FOUR:
        losses = [line["loss"] for line in lines if line["fold"] == fold]
        assert losses[-1] < losses[0]
    kept = load_file(next((folder / "models").glob("*.safetensors")))
    assert any(name.startswith("encoder.") for name in kept) == (freeze == "front-end")
    said = serkit("evaluate", folder)
    assert said.code == 0 and "task emo_act: ccc" in said.out and "uar" not in said.out, said.err
    report = json.loads((folder / "report.json").read_text())
    assert list(report["tasks"]) == ["emo_act", "emo_val"] and report["tasks"]["emo_val"]["without_truth"] == 1
    errors = (tests["emo_act"] - tests["emo_act_prediction"]).to_numpy()
    figures = {name: made["value"] for name, made in report["tasks"]["emo_act"]["metrics"].items()}
    assert figures == pytest.approx({
        "ccc": ccc(tests["emo_act"], tests["emo_act_prediction"]), "mae": np.abs(errors).mean(),
        "mse": np.square(errors).mean(),
    })  # fmt: skip
    page = (folder / "report.html").read_text()
    assert "mean square error" in page and "Calibration" not in page and "Confusion" not in page
    same = serkit("compare", folder, folder, "--metric", "emo_act.ccc")
    assert same.code == 0 and "no difference shown" in same.out, same.err
    refused = serkit("compare", folder, folder)
    assert refused.code == 2 and "uar: the run has learned no classes" in refused.err
    refused = serkit("export", folder, "-o", tmp_path / "bundle", "--cache", root / "cache")
    assert refused.code == 2 and "learned ratings alone, and a bundle recognises classes" in refused.err


def test_one_rating_by_its_square_error_in_its_own_unit(rated, root, tmp_path):
    recipe, table = rated
    affect = "tasks.affect={ dimensions = ['emo_act'], loss = 'mse', range = [0, 1], bounded = false }"
    chosen = recipe(
        affect, "training.epochs=60", "training.lr=0.05", "finetune.freeze=encoder", "head.batch_norm=false"
    )
    manifest = load_data(chosen)
    material = load(chosen, manifest, store(chosen, manifest, root / "cache", workers=1))
    model, history = material.fit(manifest.ids, manifest.ids, 0, None)
    columns = material.columns(model, manifest.ids)
    errors = np.array(columns["emo_act_prediction"]) - table["emo_act"].to_numpy()
    assert min(line["dev_loss_affect"] for line in history) == pytest.approx(np.square(errors).mean(), rel=1e-4)
    assert history[0]["dev_loss"] > 5 and np.square(errors).mean() < table["emo_act"].var() * 1.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks={}"], "labels: name the classes, or set tasks.affect"),
        (["training.monitor=uar"], "without labels there is no uar: set it to loss"),
        (["tasks.emotion.soft=true"], "without labels there is no emotion to learn"),
        (["tasks.affect.dimensions=['emo_dom']"], "the manifest has no column 'emo_dom'"),
    ],
)
def test_what_ratings_alone_need_is_named(overrides, message, rated):
    with pytest.raises(InputError, match=message):
        load_data(rated[0](*overrides))


def test_soft_labels_change_what_is_learned(root, tmp_path):
    votes = pl.Series("votes", [["sad", "happy", "happy"]] * 16)
    data = with_manifest(root, tmp_path, lambda table: table.with_columns(votes))
    found = []
    for soft in ("true", "false"):
        recipe = load_recipe(root / "tuned.toml", [
            data, "tasks={}", f"tasks.emotion.soft={soft}", "training.epochs=12", "training.batch_size=4",
            "training.label_smoothing=0", "training.balance=none", "finetune.regularise={}",
        ])  # fmt: skip
        manifest = load_data(recipe)
        material = load(recipe, manifest, store(recipe, manifest, root / "cache", workers=1))
        model, _ = material.fit(manifest.ids, (), 0, None)
        found.append(material.columns(model, manifest.ids)["p_happy"])
    np.testing.assert_allclose(found[0], 2 / 3, atol=0.1)
    assert np.abs(np.array(found[1]) - 2 / 3).min() > 0.15


def test_a_run_keeps_only_what_lora_learned_and_restores_plain_weights(root):
    pytest.importorskip("peft")
    recipe = load_recipe(root / "tuned.toml", ["finetune.lora={rank=2}", "finetune.lr=0.02", "training.epochs=3"])
    manifest = load_data(recipe)
    material = load(recipe, manifest, store(recipe, manifest, root / "cache", workers=1))
    model, _ = material.fit(manifest.ids, (), 0, None)
    state = material.state(model)
    learned = [name for name in state if name.startswith("encoder.")]
    assert len(learned) == 8 and all(".lora_" in name for name in learned)
    restored = material.restore(manifest.ids, state)
    assert not [name for name in restored.state_dict() if "lora" in name or "base_layer" in name]
    one, two = (material.columns(each, manifest.ids) for each in (model, restored))
    assert two["p_sad"] == pytest.approx(one["p_sad"], abs=1e-5) and two["text_prediction"] == one["text_prediction"]
    begun = material.restore(manifest.ids, {name: value * ("lora_B" not in name) for name, value in state.items()})
    assert material.columns(begun, manifest.ids)["p_sad"] != pytest.approx(one["p_sad"], abs=1e-3)


# Several processes

SPREAD = ["training.epochs=2", "training.epsilon=1e-3"]


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Without --multi_gpu accelerate starts one process; on a machine without GPUs the two compute on the CPU.
ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
]  # fmt: skip


@pytest.mark.parametrize(
    ("launcher", "changes"),
    [
        pytest.param(TORCHRUN, [], id="torchrun-all", marks=pytest.mark.slow),
        pytest.param(ACCELERATE, ["finetune.lora={rank=2}"], id="accelerate-lora"),
    ],
)
def test_processes_that_train_together_say_what_one_says(launcher, changes, go, root, tmp_path, environment):
    if changes:
        pytest.importorskip("peft")
    overrides = [*SPREAD, *changes]
    alone = pl.read_parquet(go(tmp_path / "alone", *overrides))
    command = [
        sys.executable, "-m", *launcher, "-m", "serkit.cli", "train", str(root / "tuned.toml"), *overrides,
        "-o", str(tmp_path / "both"), "--cache", str(root / "cache"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "both" / "provenance.json").read_text())["processes"] == 2
    both = pl.read_parquet(tmp_path / "both" / "predictions.parquet")
    assert both.columns == alone.columns and both["id"].to_list() == alone["id"].to_list()
    for name in alone.columns:
        if alone[name].dtype == pl.Float64:
            np.testing.assert_allclose(both[name], alone[name], atol=1e-4, err_msg=name)
        else:
            assert both[name].to_list() == alone[name].to_list(), name
    names = {str(path.relative_to(tmp_path / "both")) for path in (tmp_path / "both").rglob("*") if path.is_file()}
    assert {"recipe.toml", "predictions.parquet", "report.json", "history.jsonl"} <= names
    assert len([name for name in names if name.startswith("models/")]) == 8 and not [n for n in names if "part" in n]
    said = CliRunner().invoke(app, ["evaluate", str(tmp_path / "both")])
    assert done.stdout.strip() == said.stdout.strip(), "the result is told once"


# Real recordings


def test_the_packaged_encoder_learns_from_real_speech(corpus_root, tmp_path):
    manifest = prepare_corpus("emodb", corpus_root("emodb"))
    table = manifest.table.filter(pl.col("emotion").is_in(["angry", "sad"]))
    chosen = table.filter(pl.int_range(pl.len()).over("emotion", "speaker") < 1).head(8)
    chosen.write_parquet(tmp_path / "manifest.parquet")
    (tmp_path / "real.toml").write_text(
        f"""
name = "real"
seeds = [0]
data = {{ manifest = "{tmp_path}/manifest.parquet" }}
labels = {{ classes = ["angry", "sad"] }}
protocol = {{ name = "random-k-fold", k = 3, dev = 0 }}
encoder = {{ name = "whisper", layers = [-1], limit = 1.5 }}
features = {{ normalise = "none" }}
training = {{ epochs = 4, batch_size = 2, schedule = "constant", warmup = 0, lr = 1e-3, label_smoothing = 0 }}
finetune = {{ lr = 3e-4, freeze = 2 }}
""",
        encoding="utf-8",
    )
    train(load_recipe(tmp_path / "real.toml"), tmp_path / "run", tmp_path / "cache", workers=1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(chosen) == 8 and len(lines) == 12
    for fold in {line["fold"] for line in lines}:
        losses = [line["loss"] for line in lines if line["fold"] == fold]
        assert losses[-1] < 0.6 * losses[0]
    kept = load_file(next((tmp_path / "run" / "models").glob("*.safetensors")))
    assert {name.split(".")[2] for name in kept if name.startswith("encoder.layers")} == {"2"}
