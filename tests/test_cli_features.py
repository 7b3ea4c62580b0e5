"""``serkit extract``: inputs, layouts, layers, windows, and what is said of failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from serkit.cli.features import split_options
from serkit.data.audio import read_audio
from serkit.data.feature_files import read_corpus_features
from serkit.encoders import create_encoder
from serkit.encoders.emotion2vec import TINY, create_tiny
from serkit.encoders.emotion2vec.files import Emotion2vecCheckpoint, write_emotion2vec
from serkit.encoders.whisper import WhisperConfig, WhisperEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_wav):
    """Two clips and a text that calls itself one, with a list of them, and weights of a tiny emotion2vec."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("features")
    for number, name in enumerate(("happy one", "b")):
        write_wav(folder / "clips" / f"{name}.wav", seconds=0.5 + 0.4 * number, seed=number)
    (folder / "bad").mkdir()
    (folder / "bad" / "c.wav").write_text("no recording")
    rows = ["id,audio,emotion", "happy one,clips/happy one.wav,happy", "b,clips/b.wav,sad"]
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    (folder / "half.csv").write_text("\n".join([*rows[:2], "b,clips/b.wav,"]) + "\n")
    (folder / "train.tsv").write_text(f"{folder}\nclips/b.wav\t14400\nclips/happy one.wav\t8000\n")
    (folder / "wav.scp").write_text(f"key {folder}/clips/b.wav\n")
    write_emotion2vec(folder / "weights", Emotion2vecCheckpoint("random", TINY, create_tiny().state_dict()))
    whisper = WhisperEncoder("whisper", WhisperConfig(mels=20, dim=64, heads=1, blocks=1, ffn=48, positions=200))
    save_file(whisper.state_dict(), folder / "whisper.safetensors")
    return folder


@torch.inference_mode()
def last_layer(folder, name):
    wave = torch.from_numpy(read_audio(folder / "clips" / f"{name}.wav"))
    encoder = create_encoder("emotion2vec", weights=str(folder / "weights"))
    return encoder(wave[None], torch.tensor([len(wave)])).layers[0, -1].numpy()


def test_recordings_become_files_as_emotion2vec_leaves_them(serkit, folder, tmp_path):
    command = ["extract", folder / "clips", f"weights={folder / 'weights'}", "--encoder", "emotion2vec"]
    result = serkit(*command, "--layout", "emotion2vec", "-o", tmp_path / "means")
    assert (result.code, result.out) == (0, f"{tmp_path / 'means'}: 2 utterances\n"), result.err
    result = serkit(*command, "--layout", "emotion2vec", "--granularity", "frame", "-o", tmp_path / "frames")
    for name in ("happy one", "b"):
        expected = last_layer(folder, name)
        assert np.array_equal(np.load(tmp_path / "frames" / f"{name}.npy"), expected)
        np.testing.assert_allclose(np.load(tmp_path / "means" / f"{name}.npy"), expected.mean(0), atol=1e-6)
    again = serkit(*command, "--layout", "emotion2vec", "-o", tmp_path / "means")
    assert again.code == 0 and "encoding" not in again.err
    windows = ["--window", 0.4, "--overlap", 0.2, "--granularity", "frame"]
    result = serkit(*command, "--layout", "emotion2vec", *windows, "-o", tmp_path / "cut")
    cut = np.load(tmp_path / "cut" / "b.npy")
    assert (
        result.code == 0
        and cut.shape == last_layer(folder, "b").shape
        and not np.array_equal(cut, last_layer(folder, "b"))
    )


@pytest.mark.parametrize(
    ("source", "order", "labels"),
    [
        ("m.csv", ["happy one", "b"], ["happy", "sad"]),
        ("train.tsv", ["b", "happy one"], None),
        ("wav.scp", ["b"], None),
        ("clips", ["b", "happy one"], None),
    ],
)
def test_a_corpus_has_the_order_of_its_list(serkit, folder, tmp_path, source, order, labels):
    command = ["extract", folder / source, f"weights={folder / 'weights'}", "--encoder", "emotion2vec"]
    result = serkit(*command, "--layout", "corpus", "--part", "dev", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    frames, lengths, found = read_corpus_features(tmp_path / "out", "dev")
    expected = [last_layer(folder, name) for name in order]
    assert np.array_equal(frames, np.concatenate(expected)) and lengths.tolist() == [len(each) for each in expected]
    assert found == labels
    if labels:
        assert (tmp_path / "out" / "dev.emo").read_text() == "happy_one\thappy\nb\tsad\n"


def test_files_are_named_by_key_or_stem(serkit, folder, tmp_path):
    command = ["extract", folder / "wav.scp", folder / "train.tsv", f"weights={folder / 'weights'}"]
    result = serkit(*command, "--encoder", "emotion2vec", "--layout", "emotion2vec", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "out").glob("*.npy")} == {"key.npy", "b.npy", "happy one.npy"}


@pytest.mark.parametrize("layout", ["serkit", "emotion2vec", "corpus"])
def test_every_failure_is_named_and_the_others_go_on(serkit, folder, tmp_path, layout):
    command = ["extract", folder / "clips", folder / "bad", folder / "none.wav", "--cache", tmp_path / "cache"]
    command += [f"weights={folder / 'whisper.safetensors'}", "--layout", layout, "-o", tmp_path / "out"]
    result = serkit(*command)
    assert result.code == 2 and result.out == ""
    lines = [line for line in result.err.splitlines() if line.startswith("serkit: ")]
    assert lines[0].startswith("serkit: utterance none: ") and lines[1].startswith("serkit: utterance c: ")
    assert len(lines) == (3 if layout == "corpus" else 2)
    written = {path.name for path in (tmp_path / "out").glob("*.npy")}
    assert written == (set() if layout == "corpus" else {"b.npy", "happy one.npy"})


def test_a_corpus_without_a_recording_of_its_list_is_not_stacked(serkit, folder, tmp_path):
    (tmp_path / "m.csv").write_text(f"id,audio,emotion\nb,{folder}/clips/b.wav,sad\ngone,gone.wav,sad\n")
    command = ["extract", tmp_path / "m.csv", f"weights={folder / 'whisper.safetensors'}", "-o", tmp_path / "out"]
    result = serkit(*command, "--layout", "corpus")
    assert result.code == 2 and "serkit: utterance gone: " in result.err and "nothing is stacked" in result.err
    assert not list((tmp_path / "out").glob("train.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/m.csv", "--layer", "3"], "--layer: the layout serkit has all layers"),
        (["{}/m.csv", "--layout", "emotion2vec", "--layer", "9"], "layer '9': encoder whisper has 0 to 1"),
        (["{}/m.csv", "--layout", "corpus", "--granularity", "utterance"], "a corpus has frames"),
        (["{}/half.csv", "--layout", "corpus"], "1 utterances have no emotion, such as b"),
        (["{}/m.csv", "--window", "2", "--overlap", "3"], "windows of 2.0 s that share 3.0 s"),
        (["{}/m.csv", "--layout", "emotion2vec", "--window", "0.01", "--overlap", "0"], "windows last at least"),
        (["{}/m.csv", "{}/m.csv", "--layout", "emotion2vec"], "utterances would share the file happy one.npy"),
        (["layers=[1]"], "name a manifest, a recording or a folder"),
    ],
)
def test_mistakes_are_one_line(serkit, folder, tmp_path, arguments, message):
    named = [text.format(folder) for text in arguments]
    options = [f"weights={folder / 'whisper.safetensors'}", "--cache", tmp_path / "cache", "-o", tmp_path / "out"]
    result = serkit("extract", *named, *options)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1, result.err
    assert not list(tmp_path.glob("out/**/*.npy"))


def test_an_option_is_told_from_a_file_with_an_equals_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").write_text("")
    found = split_options(["a=b", "x/c=d.wav", "weights=x", "layers=[0, 1]"])
    assert found == (["a=b", "x/c=d.wav"], ["weights=x", "layers=[0, 1]"])
