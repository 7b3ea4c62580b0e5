"""Weights come from a file, a folder, the package or the hub; what cannot be used is refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from serkit.encoders import create_encoder
from serkit.encoders.weights import PACKAGED, load_checkpoint, load_weights
from serkit.encoders.whisper import WhisperConfig, WhisperEncoder
from serkit.errors import InputError

torch.set_num_threads(1)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5])}


def same(state, expected=TENSORS):
    return set(state) == set(expected) and all(torch.equal(state[key], expected[key]) for key in expected)


def refusal(source):
    with pytest.raises(InputError) as caught:
        load_weights(source)
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    return message


@pytest.fixture
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_file_by_path_or_text(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    for source in (tmp_path / "x.safetensors", str(tmp_path / "x.safetensors")):
        state, config = load_weights(source)
        assert same(state) and config == {}


def test_a_folder_with_its_config(tmp_path):
    save_file({"other": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"d_model": 3}')
    state, config = load_weights(tmp_path)
    assert same(state) and config == {"d_model": 3}


def test_a_folder_whose_file_has_another_name(tmp_path):
    save_file(TENSORS, tmp_path / "encoder.safetensors")
    assert same(load_weights(tmp_path)[0])


def test_a_sharded_folder(tmp_path):
    names = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    for key, name in names.items():
        save_file({key: TENSORS[key]}, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert same(load_weights(tmp_path)[0])
    (tmp_path / names["b"]).unlink()
    with pytest.raises(InputError, match=names["b"]):
        load_weights(tmp_path)


def test_packaged_weights_by_name():
    state, _ = load_weights("whisper-base-3blocks")
    assert same(state, load_file(PACKAGED / "whisper-base-3blocks.safetensors"))
    assert state["conv1.weight"].shape == (512, 80, 3)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_are_refused(name, tmp_path):
    torch.save(TENSORS, tmp_path / name)
    assert "safetensors only" in refusal(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_corrupt_file_is_named(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "not a readable safetensors file" in refusal(path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-4])
    assert "not a readable safetensors file" in refusal(path)


def test_an_empty_folder_is_named(tmp_path):
    assert "holds no .safetensors file" in refusal(tmp_path)
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert "holds no .safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["whisper-bass", "missing.safetensors", "folder/missing.safetensors", "a/b/c"])
def test_an_unknown_name_lists_the_packaged_ones(name):
    assert "whisper-base-3blocks" in refusal(name)


def test_a_hub_name_without_a_network_says_what_to_do(offline):
    assert "give a local folder" in refusal("openai/whisper-base")


def test_a_hub_name_is_taken_from_the_local_cache(offline, tmp_path):
    folder = tmp_path / "hub" / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(TENSORS, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text('{"d_model": 3}')
    state, config = load_weights("owner/name")
    assert same(state) and config == {"d_model": 3}


def test_missing_and_foreign_keys_are_listed(tmp_path):
    path = tmp_path / "x.safetensors"
    state = WhisperEncoder("whisper", WhisperConfig(20, 64, 1, 1, 48, 50)).state_dict()
    save_file({**state, "layers.0.extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"x.safetensors: .*layers\.0\.extra"):
        create_encoder("whisper", weights=str(path))
    del state["layers.0.fc2.bias"]
    save_file(state, path)
    with pytest.raises(InputError, match=r"x.safetensors: .*layers\.0\.fc2\.bias") as caught:
        create_encoder("whisper", weights=str(path))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"x.safetensors: .*not a Whisper encoder"):
        create_encoder("whisper", weights=str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("source", ["/nowhere", "./here", "../there", "~/x", "owner/name.pt", "a/b/c", "owner/"])
@pytest.mark.parametrize("load", [load_weights, load_checkpoint])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_name(load, source):
    with pytest.raises(InputError, match="no such|holds no") as caught:
        load(source)
    assert "hub" not in str(caught.value)
