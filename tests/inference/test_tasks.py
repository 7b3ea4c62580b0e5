"""Bundles of models that do more than emotion: text, speakers, gender and affect, without PyTorch; Cai's lines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from serkit.cli import learn
from serkit.data.text import WAV2VEC2
from serkit.errors import InputError
from serkit.export import export_run
from serkit.inference.bundle import Bundle
from serkit.inference.predictor import Predictor
from serkit.inference.transcribers import load_transcriber
from serkit.models.cai import load_cai
from serkit.models.model import Waveforms
from serkit.models.onnx_files import longest_seconds
from serkit.training.recipe import load_recipe
from serkit.training.run import train

torch.set_num_threads(1)

OUTPUTS = ["ctc_logits", "ctc_lengths", "speaker_logits", "gender_logits", "affect"]


@pytest.fixture(scope="module")
def checkpoint(make_cai_checkpoint, tmp_path_factory):
    return make_cai_checkpoint(tmp_path_factory.mktemp("cai") / "01F", speakers=10)


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "bundle"
    learn.convert(checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def clips(make_speech, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wavs")
    for number, seconds in enumerate((0.7, 1.3, 2.1)):
        soundfile.write(folder / f"clip{number}.wav", make_speech(seconds, seed=number), 16_000)
    return sorted(folder.glob("*.wav"))


def originally(checkpoint, waveform):
    """What the model says in PyTorch: probabilities of emotions and speakers, text."""
    model = load_cai(checkpoint)
    with torch.no_grad():
        said = model(Waveforms.pad([torch.from_numpy(waveform)]))
    best = said["ctc"][0].argmax(-1).tolist()
    text = WAV2VEC2.decode(best, merge=True)
    return said["emotion"][0, 0].softmax(0).numpy(), said["speaker"][0].softmax(0).numpy(), text


def test_a_bundle_says_what_the_checkpoint_says(checkpoint, converted, clips):
    predictor = Predictor(converted)
    assert predictor.card.classes == ("neutral", "happy", "angry", "sad") and predictor.card.name == "cai/01F"
    texts = []
    for clip in clips:
        found = predictor.predict(clip)
        emotions, speakers, text = originally(checkpoint, soundfile.read(clip, dtype="float32")[0])
        assert list(found.probabilities.values()) == pytest.approx(emotions, abs=1e-4)
        assert list(found.others["speaker"].values()) == pytest.approx(speakers, abs=1e-4)
        assert found.text == text and found.speaker == str(speakers.argmax()) and found.gender is None
        said = found.as_dict()
        assert said["text"] == text and said["speaker"] == found.speaker and len(said["speaker_probabilities"]) == 10
        texts.append(text)
    assert all(texts) and len(set(texts)) == 3


def test_windows_follow_one_another(converted, clips, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "bundle")
    card = json.loads((folder / "serkit.json").read_text())
    (folder / "serkit.json").write_text(json.dumps({**card, "window_seconds": 1.05}))
    predictor, whole = Predictor(folder), soundfile.read(clips[2], dtype="float32")[0]
    found, half = predictor.predict(clips[2]), len(whole) // 2
    parts = [predictor.predict(whole[:half]), predictor.predict(whole[half:])]
    assert len(found.segments) == 2 and found.text == f"{parts[0].text} {parts[1].text}"
    for name, share in found.others["speaker"].items():
        assert share == pytest.approx(np.mean([part.others["speaker"][name] for part in parts]))


def test_bundles_without_other_tasks_do_not_mention_them(bundle_folder, predictor, make_speech):
    assert "tasks" not in json.loads((bundle_folder / "serkit.json").read_text())
    outputs = {item.name for item in Bundle(bundle_folder).session.get_outputs()}
    assert outputs == {"logits", "embedding", "frame_logits", "frame_lengths"}
    assert not {"text", "speaker"} & set(predictor.predict(make_speech()).as_dict())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"gender": {"classes": ["a", "b"]}}, "has no output gender_logits"),
        ({"speaker": {"classes": ["a", "b"]}}, "knows 10 values in speaker_logits, but serkit.json names 2"),
        ({"age": {"classes": ["a"]}}, "task 'age' is not known"),
        ({"ctc": {"classes": ["a"]}}, "task 'ctc' is not known, or does not name its symbols"),
    ],
)
def test_cards_that_do_not_fit_are_refused(tasks, message, converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "bundle")
    card = json.loads((folder / "serkit.json").read_text())
    (folder / "serkit.json").write_text(json.dumps({**card, "tasks": tasks}))
    with pytest.raises(InputError, match=message):
        Bundle(folder)


def test_a_run_becomes_a_bundle_with_all_its_tasks(iemocap_folder, tiny_wav2vec2, make_speech, tmp_path):
    changes = ["training.epochs=1", "training.batch_size=40", "protocol.per_speaker=2", f"data.root={iemocap_folder}"]
    changes += ["encoder.trim=35", "tasks.speaker.adversarial=true", "tasks.gender.weight=0.1", "tasks.affect.weight=1"]
    recipe = load_recipe("cai/base-alpha0.1-beta0.1", [*changes, f"encoder.options.weights={tiny_wav2vec2}"])
    train(recipe, tmp_path / "run", tmp_path / "cache", workers=1)
    assert export_run(tmp_path / "run", tmp_path / "bundle", tmp_path / "cache")["max_probability_difference"] < 1e-4
    bundle = Bundle(tmp_path / "bundle")
    outputs = {item.name for item in bundle.session.get_outputs()}
    assert outputs == {"logits", "embedding", "frame_logits", "frame_lengths", *OUTPUTS}
    assert bundle.card.tasks["speaker"]["classes"][:3] == ["01F", "01M", "02F"] and bundle.card.window_seconds == 40
    waveform = make_speech(0.9)
    assert bundle.run(waveform).others["ctc"].shape[0] < 44, "silence was trimmed"
    found = Predictor(tmp_path / "bundle").predict(waveform)
    assert set(found.others) == {"speaker", "gender", "affect"} and found.gender in ("female", "male")
    assert sum(found.others["gender"].values()) == pytest.approx(1) and found.text is not None
    assert set(found.as_dict()["affect"]) == {"arousal", "valence", "dominance"}


def test_windows_are_no_longer_than_an_encoder_hears():
    assert longest_seconds(SimpleNamespace(max_samples=None, sampling_rate=16_000)) == 40
    assert longest_seconds(SimpleNamespace(max_samples=480_000, sampling_rate=16_000)) == 30


# The line format, from the base installation: no PyTorch

BLOCKED = "torch polars sklearn scipy matplotlib onnx onnxscript safetensors jinja2 tomli_w accelerate".split()
BASE = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); from serkit.cli import main; main()"


def run_base(*arguments):
    command = [sys.executable, "-c", BASE, "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_lines_are_those_of_the_original(checkpoint, converted, clips, tmp_path):
    rows = [f"/path_to_wavs/{clip.name},e0,OH NO" for clip in clips]
    (tmp_path / "own.csv").write_text("\n".join(["file,emotion,text", *rows]) + "\n")
    options = ["--model", converted, "--format", "cai", "--root", clips[0].parent]
    done = run_base(tmp_path / "own.csv", *options)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("\n")
    for line, clip in zip(done.stdout.splitlines(), clips, strict=True):
        waveform = soundfile.read(clip, dtype="float32")[0]
        emotions, speakers, _ = originally(checkpoint, waveform)
        name, seconds, best, empty, *rest = line.split(" ")
        assert (name, seconds, best, empty) == (clip.name, str(len(waveform) / 16_000), str(emotions.argmax()), "")
        assert [float(value) for value in rest[:4]] == pytest.approx(emotions, abs=1e-4)
        assert (rest[4], rest[5]) == (str(speakers.argmax()), "")
        assert [float(value) for value in rest[6:]] == pytest.approx(speakers, abs=1e-4)
        assert all(value == str(float(value)) for value in (*rest[:4], *rest[6:])), "floats in full"


def test_lines_end_after_the_emotions_where_no_speaker_is_known(bundle_folder, clips):
    done = run_base(clips[0], "--model", bundle_folder, "--format", "cai")
    assert len(done.stdout.splitlines()) == 1 and len(done.stdout.split(" ")) == 8


def test_the_transcript_is_in_json(converted, clips):
    done = run_base(*clips, "--model", converted, "--format", "json")
    texts = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    predictor = Predictor(converted)
    assert texts == [predictor.predict(clip).text for clip in clips]


def test_a_missing_recording_below_the_root_is_named(converted, clips, tmp_path):
    (tmp_path / "own.csv").write_text("file,emotion,text\n/path_to_wavs/lost.wav,e0,A\n")
    done = run_base(tmp_path / "own.csv", "--model", converted, "--root", clips[0].parent)
    assert done.returncode == 2 and "no recording lost.wav below" in done.stderr


def test_a_bundle_that_transcribes_is_a_transcriber(converted, make_speech):
    waveform = make_speech(1.3, seed=1)
    assert load_transcriber(f"bundle:{converted}")(waveform) == Predictor(converted).predict(waveform).text
