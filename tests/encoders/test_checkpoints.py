"""Checkpoints of every published format give the same encoder; none of them runs code; every key is accounted for."""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from serkit.encoders import create_encoder
from serkit.encoders.pickles import Inert, load_pickle, plain
from serkit.encoders.weights import load_checkpoint
from serkit.errors import InputError

torch.set_num_threads(1)

CONVOLUTIONS = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] * 2"
FAMILIES = ["wav2vec2 group post", "wav2vec2 layer pre", "hubert group post", "data2vec", "wavlm group post"]


def family(variant):
    return "wavlm" if variant.startswith("wavlm") else "wav2vec2"


def layers(encoder):
    clip = torch.randn(1, 7000, generator=torch.Generator().manual_seed(5)) * 0.1
    with torch.no_grad():
        return encoder(clip, torch.tensor([7000])).layers


def old_norm(state):
    """The names that weight normalisation had before PyTorch 2."""
    new = ("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v")
    for name, old in new:
        state = {key.replace(name, old): value for key, value in state.items()}
    return state


def to_fairseq(model, variant):
    """The keys of fairseq and unilm for the tensors of a ``transformers`` model, written out from their modules."""
    norm = ".2.1." if "group" not in variant else ".2."
    names = [
        ("feature_projection.projection.", "post_extract_proj."),
        ("feature_projection.layer_norm.", "layer_norm."),
        ("encoder.pos_conv_embed.conv.", "encoder.pos_conv.0."),
        ("masked_spec_embed", "mask_emb"),
        (".attention.gru_rel_pos_linear.", ".self_attn.grep_linear."),
        (".attention.gru_rel_pos_const", ".self_attn.grep_a"),
        (".attention.rel_attn_embed.", ".self_attn.relative_attention_bias."),
        (".attention.", ".self_attn."),
        (".feed_forward.intermediate_dense.", ".fc1."),
        (".feed_forward.output_dense.", ".fc2."),
    ]
    state = {}
    for key, value in old_norm(model.state_dict()).items():
        parts = key.split(".")
        if key.startswith("feature_extractor"):
            key = (
                f"feature_extractor.conv_layers.{parts[2]}" + (norm if parts[3] == "layer_norm" else ".0.") + parts[-1]
            )
        elif key.startswith("encoder.pos_conv_embed.layers."):
            key = f"encoder.pos_conv.{parts[3]}.0.{parts[-1]}"
        elif key.startswith("encoder.layers.") and parts[3] == "layer_norm":
            key = f"encoder.layers.{parts[2]}.self_attn_layer_norm.{parts[-1]}"
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        state[key] = value.clone()
    return state


def settings(variant, **more):
    sizes = {"layer_norm_first": "pre" in variant, "encoder_attention_heads": 4, "conv_feature_layers": CONVOLUTIONS}
    wavlm = {"num_buckets": 20, "max_distance": 20} if variant.startswith("wavlm") else {}
    return {"encoder_layers": 3, "activation_fn": "gelu", **sizes, **wavlm, **more}


def fairseq_checkpoint(model, variant):
    """What each family's authors published: the older ones with argparse, unilm flat, the others nested."""
    state = to_fairseq(model, variant)
    if variant.startswith("wavlm"):
        return {"cfg": settings(variant, normalize=True), "model": {**state, "label_embs_concat": torch.zeros(2, 3)}}
    if variant == "wav2vec2 group post":
        extra = {
            "quantizer.vars": torch.zeros(1),
            "project_q.weight": torch.zeros(1),
            "final_proj.bias": torch.zeros(1),
        }
        return {"args": argparse.Namespace(**settings(variant, normalize=True)), "model": {**state, **extra}}
    cfg = {"_name": None, "model": {"_name": "x", **settings(variant)}, "task": {"normalize": True, "labels": ["km"]}}
    if variant == "data2vec":
        state["_ema"] = {"encoder.layers.0.fc1.weight": torch.zeros(1)}
    return {"cfg": cfg, "args": None, "model": state, "optimizer_history": [], "extra_state": {"best": 1.5}}


@pytest.fixture
def published(reference_model, tmp_path):
    """``published(variant)``: a random model and the folder that ``transformers`` writes of it."""

    def make(variant, task="Model", **changes):
        model = reference_model(variant, task, **changes)
        folder = tmp_path / f"{variant}-{task}".replace(" ", "-")
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text('{"do_normalize": true}')
        return model, folder

    return make


def write_shards(folder):
    state, names = load_file(folder / "model.safetensors"), {}
    for number, key in enumerate(state):
        names[key] = f"model-0000{number % 2 + 1}-of-00002.safetensors"
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "model.safetensors").unlink()


def write_bin(folder, name="pytorch_model.bin"):
    torch.save(old_norm(load_file(folder / "model.safetensors")), folder / name)
    (folder / "model.safetensors").unlink()


def write_bin_shards(folder):
    state = load_file(folder / "model.safetensors")
    names = {key: f"pytorch_model-{number % 2}.bin" for number, key in enumerate(state)}
    for name in set(names.values()):
        torch.save({key: state[key] for key in state if names[key] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("variant", FAMILIES)
def test_every_format_gives_the_same_encoder(variant, published, tmp_path):
    model, folder = published(variant)
    expected = layers(create_encoder(family(variant), weights=str(folder)))
    assert expected.shape == (1, 4, 21, 32) and expected.std() > 0.1
    sources = {"one file": folder / "model.safetensors"}
    for number, write in enumerate((write_shards, write_bin, write_bin_shards)):
        sources[write.__name__] = copy = tmp_path / f"copy{number}"
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        write(copy)
    sources["one pickle"] = tmp_path / "copy1" / "pytorch_model.bin"
    for zipped in (True, False):
        sources[f"fairseq, zip {zipped}"] = file = tmp_path / f"{zipped}.pt"
        torch.save(fairseq_checkpoint(model, variant), file, _use_new_zipfile_serialization=zipped)
    for name, source in sources.items():
        found = layers(create_encoder(family(variant), weights=str(source)))
        assert (found - expected).abs().max() < 1e-6, name


def test_half_precision_checkpoints_become_float32(published):
    _, folder = published("wavlm group post")
    exact = layers(create_encoder("wavlm", weights=str(folder)))
    halved = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(halved, folder / "model.safetensors")
    encoder = create_encoder("wavlm", weights=str(folder))
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in encoder.parameters())
    assert 0 < (layers(encoder) - exact).abs().max() < 0.05


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_fairseq_configuration_equals_the_converted_one(variant, published, tmp_path):
    model, folder = published(variant)
    torch.save(fairseq_checkpoint(model, variant), tmp_path / "x.pt")
    ours, theirs = (create_encoder(family(variant), weights=str(p)).config for p in (tmp_path / "x.pt", folder))
    if not variant.startswith("wavlm"):  # the configurations of the others hold no buckets
        assert (ours.buckets, theirs.buckets) == (320, 20)
        return
    assert ours == theirs and ours.normalise


@pytest.mark.parametrize("variant", FAMILIES[:3])
@pytest.mark.parametrize("prefix", ["w2v_encoder.w2v_model.", "w2v_model.", "encoder."])
def test_a_fine_tuned_fairseq_checkpoint(variant, prefix, published, tmp_path):
    model, folder = published(variant)
    inner = fairseq_checkpoint(model, variant)
    state = {f"{prefix}{key}": value for key, value in inner["model"].items()}
    state |= {"w2v_encoder.proj.weight": torch.zeros(6, 32), "w2v_encoder.proj.bias": torch.zeros(6)}
    pretrained = inner.get("cfg") or inner["args"]
    outer = argparse.Namespace(normalize=False, layer_norm_first=None, w2v_args=pretrained)
    torch.save({"args": outer, "model": state}, tmp_path / "x.pt")
    encoder = create_encoder("wav2vec2", weights=str(tmp_path / "x.pt"))
    assert not encoder.config.normalise  # the outer setting is that of the last training
    expected = layers(create_encoder("wav2vec2", weights=str(folder), normalise=False))
    assert (layers(encoder) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("variant", "task"),
    [
        ("wav2vec2 group post", "ForPreTraining"),
        ("wav2vec2 layer pre", "ForCTC"),
        ("wav2vec2 group post", "ForXVector"),
        ("hubert group post", "ForSequenceClassification"),
        ("data2vec", "ForAudioFrameClassification"),
        ("wavlm layer pre", "ForSequenceClassification"),
    ],
)
def test_heads_are_left_out(variant, task, published):
    model, folder = published(variant, task, use_weighted_layer_sum=True)
    encoder = create_encoder(family(variant), weights=str(folder), normalise=False)
    clip = torch.randn(1, 7000, generator=torch.Generator().manual_seed(5)) * 0.1
    with torch.no_grad():
        expected = getattr(model, model.base_model_prefix)(clip).last_hidden_state
    assert (layers(encoder)[:, -1] - expected).abs().max() < 1e-5


def test_every_other_key_is_listed(published):
    _, folder = published("wav2vec2 group post")
    file = folder / "model.safetensors"
    state = load_file(file)
    del state["encoder.layers.2.feed_forward.output_dense.bias"]
    state["encoder.layers.3.attention.q_proj.weight"] = torch.zeros(32, 32)
    state["feature_projection.layer_norm.weight"] = torch.zeros(17)
    save_file(state, file)
    for options in ({}, {"layers": [0]}):  # strict for the whole model, however little of it is used
        with pytest.raises(InputError) as caught:
            create_encoder("wav2vec2", weights=str(folder), **options)
        message = str(caught.value)
        assert message.startswith(f"{folder}: does not fit its configuration: ") and "\n" not in message
        assert "missing encoder.layers.2.feed_forward.output_dense.bias" in message
        assert "unexpected encoder.layers.3.attention.q_proj.weight" in message
        assert "feature_projection.layer_norm.weight (17,) instead of (16,)" in message


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("wav2vec2", {"model_type": "wavlm"}, "is a wavlm checkpoint: use the encoder 'wavlm'"),
        ("wavlm", {"model_type": "hubert"}, "is a hubert checkpoint: use the encoder 'wav2vec2'"),
        ("wav2vec2", {"model_type": "sew"}, "is a sew checkpoint: use the encoder 'transformers'"),
        ("wav2vec2", {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported: use the encoder 'transformers'"),
        ("wav2vec2", {"adapter_attn_dim": 16}, "adapter_attn_dim = 16 is not supported"),
    ],
)
def test_what_is_not_computed_here_is_refused(name, change, said, published):
    _, folder = published("wav2vec2 group post")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=said):
        create_encoder(name, weights=str(folder))


def test_a_checkpoint_without_its_configuration_is_refused(published, tmp_path):
    model, folder = published("wav2vec2 group post")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="no config.json"):
        create_encoder("wav2vec2", weights=str(folder / "model.safetensors"))
    content = fairseq_checkpoint(model, "wav2vec2 group post")
    for lacking in ("encoder_attention_heads", "conv_feature_layers", "layer_norm_first"):
        kept = {key: value for key, value in vars(content["args"]).items() if key != lacking}
        torch.save({"args": argparse.Namespace(**kept), "model": content["model"]}, tmp_path / "x.pt")
        with pytest.raises(InputError, match="x.pt: lacks '.*': convert it"):
            create_encoder("wav2vec2", weights=str(tmp_path / "x.pt"))
    torch.save({"args": content["args"], "model": {"w": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="x.pt: is not a checkpoint of the wav2vec 2.0 family"):
        create_encoder("wav2vec2", weights=str(tmp_path / "x.pt"))


def test_a_damaged_configuration_is_named(published):
    _, folder = published("wav2vec2 group post")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: is not valid JSON"):
        create_encoder("wav2vec2", weights=str(folder))


def test_sources_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(InputError, match="holds neither .safetensors nor pytorch_model.bin"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match="missing.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "missing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="list.pt: holds no tensors by name"):
        load_checkpoint(tmp_path / "list.pt")
    for content in (b"", b"nothing of the kind", pickle.dumps({"a": 1}, protocol=2), b"PK\x03\x04" + b"\0" * 40):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(InputError, match="x.pt: cannot be read safely .*: convert it to safetensors"):
            load_checkpoint(tmp_path / "x.pt")


# Pickles


def foreign(module, name, **state):
    """An instance of a class that exists only while it is saved; its state is its ``__dict__``, as omegaconf's is."""
    for place in (module.split(".")[0], module):
        names = sys.modules.setdefault(place, types.ModuleType(place)).__dict__
    value = names.setdefault(name, type(name, (), {"__module__": module}))()
    value.__dict__.update(state)
    return value


@pytest.mark.parametrize("zipped", [True, False])
def test_configurations_of_absent_packages_are_read(zipped, published, tmp_path):
    model, folder = published("wav2vec2 layer pre")
    node = lambda value: foreign("omegaconf.nodes", "AnyNode", _val=value, _metadata=None)  # noqa: E731
    container = lambda value: foreign("omegaconf.dictconfig", "DictConfig", _content=value, _parent=None)  # noqa: E731
    names = settings("wav2vec2 layer pre")
    cfg = container(
        {
            "model": container({key: node(value) for key, value in names.items()}),
            "task": container({"normalize": node(True)}),
        }
    )
    task = {"dictionary": foreign("fairseq.dictionary", "Dictionary", symbols=["a"], indices={"a": 0})}
    try:
        content = {"cfg": cfg, "model": to_fairseq(model, "wav2vec2 layer pre"), "task_state": task}
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    finally:
        for module in [name for name in sys.modules if name.startswith(("omegaconf", "fairseq"))]:
            del sys.modules[module]
    found = layers(create_encoder("wav2vec2", weights=str(tmp_path / "x.pt")))
    assert (found - layers(create_encoder("wav2vec2", weights=str(folder)))).abs().max() < 1e-6
    assert not any(name.startswith(("omegaconf", "fairseq")) for name in sys.modules)


class Harmful:
    """Unpickling an instance the usual way calls ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(path):
    Path(path).touch()


@pytest.mark.parametrize("zipped", [True, False])
def test_no_pickle_runs_code(zipped, published, tmp_path):
    import os
    import subprocess

    model, _ = published("wav2vec2 group post")
    mark = tmp_path / "mark"
    attacks = {
        "function": Harmful(touch, str(mark)),
        "eval": Harmful(eval, f"open({str(mark)!r}, 'w')"),
        "getattr": Harmful(getattr, "text", "upper"),
        "process": Harmful(subprocess.check_call, ["touch", str(mark)]),
        "system": Harmful(os.system, f"touch {mark}"),
    }
    for name, attack in attacks.items():
        content = {**fairseq_checkpoint(model, "wav2vec2 group post"), "extra": attack}
        file = tmp_path / f"{name}.pt"
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        if name == "system":
            with pytest.raises(InputError, match="system.pt: cannot be read safely .*it names .*.system"):
                load_pickle(file)
        else:
            read = load_pickle(file)["extra"]
            assert isinstance(read, Inert) and read.state is None and plain(read) != "TEXT"
            create_encoder("wav2vec2", weights=str(file))
        assert not mark.exists(), name
    torch.load(tmp_path / "function.pt", weights_only=False)
    assert mark.exists()  # the attack is real


def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match="x.pt: cannot be read safely"):
        load_checkpoint(tmp_path / "x.pt")


def test_settings_become_plain_values():
    assert plain(Inert("layer_norm")) == "layer_norm"
    assert plain({"a": (1, None, Inert()), 2: torch.zeros(1)}) == {"a": [1, None, None], "2": None}


def test_a_pickle_on_the_hub_is_taken_from_the_local_cache(published, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    _, folder = published("hubert group post")
    expected = layers(create_encoder("wav2vec2", weights=str(folder)))
    write_bin(folder)
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    with pytest.raises(InputError, match="owner/name: not in the local Hugging Face cache"):
        create_encoder("wav2vec2", weights="owner/name")
    folder.rename(snapshot)
    assert (layers(create_encoder("wav2vec2", weights="owner/name")) - expected).abs().max() < 1e-6
