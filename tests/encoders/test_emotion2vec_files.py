"""Every published form of emotion2vec gives the same encoder; none runs code; every tensor is accounted for."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from emotion2vec_reference import states_of
from emotion2vec_weights import AUDIO, original_state, read_shapes, seeded_state
from safetensors.torch import load_file, save_file

from serkit.encoders import create_encoder
from serkit.encoders.emotion2vec import TINY, Emotion2vecConfig, Emotion2vecEncoder, files
from serkit.encoders.emotion2vec.files import (
    Emotion2vecCheckpoint,
    init_from_data2vec2,
    own_shapes,
    read_emotion2vec,
    write_emotion2vec,
)
from serkit.encoders.emotion2vec.folders import find_model_conf, is_emotion2vec
from serkit.encoders.emotion2vec.sizes import decoder_shapes, encoder_shapes, sizes_of
from serkit.encoders.emotion2vec.state import convert_state, read_model_conf
from serkit.encoders.presets import PRESETS
from serkit.errors import InputError

torch.set_num_threads(1)

LARGE = Emotion2vecConfig(dim=1024, heads=16, ffn=4096)
DECODER = {"decoder_dim": 24, "decoder_groups": 4, "decoder_kernel": 7, "decoder_layers": 2}
CLASSES = ["生气/angry", "开心/happy", "<unk>"]
SPEC = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]"


def model_conf(config=TINY, **changes):
    """A ``model_conf`` as published, of the sizes of ``config``."""
    audio = {
        "type": "AUDIO", "prenet_depth": config.prenet, "num_extra_tokens": config.tokens, "mask_prob": 0.5,
        "use_alibi_encoder": True, "learned_alibi_scale": True, "learned_alibi_scale_per_head": True,
        "num_alibi_heads": config.heads, "extractor_mode": "layer_norm", "feature_encoder_spec": SPEC,
        "conv_pos_width": config.position_kernel * config.position_layers, "conv_pos_groups": config.position_groups,
        "conv_pos_depth": config.position_layers, "decoder": DECODER,
    }  # fmt: skip
    depth = config.blocks - config.prenet
    conf = {"depth": depth, "embed_dim": config.dim, "num_heads": config.heads, "mlp_ratio": config.ffn / config.dim}
    more = {
        "norm_eps": 1e-5,
        "layer_norm_first": False,
        "normalize": True,
        "modalities": {"_name": None, "audio": audio},
    }
    return {**conf, **more, **changes}


def tensors(config=TINY, head=True, decoder=True, seed=0):
    """A checkpoint's tensors in the published names."""
    state = original_state(config, seed)
    shapes = decoder_shapes(DECODER, config.dim, "") if decoder else {}
    shapes |= {"proj.weight": (3, config.dim), "proj.bias": (3,)} if head else {}
    generator = torch.Generator().manual_seed(seed + 1)
    return state | {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def prefixed(state):
    """The names inside ``model.pt`` of the recognisers."""
    return {key if key.startswith("proj.") else f"d2v_model.{key}": value for key, value in state.items()}


def foreign(module, name, **state):
    """An instance of a class that exists only while it is saved; its state is its ``__dict__``, as omegaconf's is."""
    for place in (module.split(".")[0], module):
        names = sys.modules.setdefault(place, types.ModuleType(place)).__dict__
    value = names.setdefault(name, type(name, (), {"__module__": module}))()
    value.__dict__.update(state)
    return value


def omega(value):
    if isinstance(value, dict):
        content = {key: omega(item) for key, item in value.items()}
        return foreign("omegaconf.dictconfig", "DictConfig", _content=content, _parent=None)
    return foreign("omegaconf.nodes", "AnyNode", _val=value, _metadata=None)


def fairseq_checkpoint(state, objects=False, normalize=True):
    """What fairseq saves: settings beside the tensors, some left to their defaults, the teacher and the optimizer."""
    conf = {key: value for key, value in model_conf().items() if key not in ("num_heads", "mlp_ratio", "normalize")}
    conf["modalities"]["audio"]["model_depth"] = "${model.depth}"
    cfg = {"model": {"_name": "data2vec_multi", **conf}, "task": {"normalize": normalize}, "common": {"seed": 1}}
    model = {**state, "_ema": {"blocks.0.norm1.weight": torch.zeros(1)}}
    cfg = omega(cfg) if objects else cfg
    return {
        "args": None,
        "cfg": cfg,
        "model": model,
        "last_optimizer_state": {"state": {}},
        "extra_state": {"best": 1.5},
    }


def save(content, path, zipped=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    finally:
        for module in [name for name in sys.modules if name.startswith("omegaconf")]:
            del sys.modules[module]
    return path


def yaml_of(conf, indent="  "):
    """Block style with floats as omegaconf writes them, ``1e-05`` among them."""
    lines = []
    for key, value in conf.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", yaml_of(value, indent + "  ")]
        else:
            shown = value if isinstance(value, float) else json.dumps(value)
            lines.append(f"{indent}{key}: {shown}")
    return "\n".join(lines)


def published_folder(folder, content, name="model.pt", tokens=CLASSES, conf=None):
    """A folder as ModelScope and Hugging Face have it."""
    save(content, folder / name)
    metas = {"init_param": name, "config": "config.yaml"}
    if tokens:
        metas["tokenizer_conf"] = {"token_list": "tokens.txt"}
        (folder / "tokens.txt").write_text("\n".join(tokens), encoding="utf-8")
    text = f"# network architecture\nmodel: Emotion2vec\nmodel_conf:\n{yaml_of(conf or model_conf())}\n"
    (folder / "config.yaml").write_text(text + 'tokenizer: CharTokenizer\nscope_map:\n  - "d2v_model."\n  - none\n')
    configuration = {"framework": "pytorch", "task": "emotion-recognition", "file_path_metas": metas}
    (folder / "configuration.json").write_text(json.dumps(configuration))
    return folder


def same(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].dtype == torch.float32 and torch.equal(found[key], expected[key]), key


def check(found, state, head=True, decoder=True, config=TINY):
    """``found`` holds exactly the tensors of ``state``."""
    ours = convert_state({key: value for key, value in state.items() if not key.startswith("proj.")})
    same(found.state, {key: value for key, value in ours.items() if not key.startswith("decoder.")})
    assert found.config == config
    assert (found.head is not None, found.decoder is not None) == (head, decoder)
    if head:
        assert torch.equal(found.head[0], state["proj.weight"]) and torch.equal(found.head[1], state["proj.bias"])
    if decoder:
        same(found.decoder, {key[8:]: value for key, value in ours.items() if key.startswith("decoder.")})


# Files


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("objects", [True, False])
def test_a_fairseq_checkpoint(objects, zipped, tmp_path):
    state = tensors(head=False)
    found = read_emotion2vec(save(fairseq_checkpoint(state, objects), tmp_path / "emotion2vec_base.pt", zipped))
    check(found, state, head=False)
    assert found.training["depth"] == 1 and found.training["modalities"]["audio"]["mask_prob"] == 0.5
    assert found.training["modalities"]["audio"]["model_depth"] == 1
    assert found.notes == ("left out of the file: last_optimizer_state, extra_state", "left out: _ema")
    assert not any(name.startswith("omegaconf") for name in sys.modules)


def test_whether_waveforms_are_normalised_is_the_tasks_setting(tmp_path):
    content = fairseq_checkpoint(tensors(head=False), normalize=False)
    assert not read_emotion2vec(save(content, tmp_path / "x.pt")).config.normalise


def test_a_recogniser(tmp_path):
    state = tensors(decoder=False)
    found = read_emotion2vec(published_folder(tmp_path / "plus", {"model": prefixed(state)}))
    check(found, state, decoder=False)
    assert found.tokens == tuple(CLASSES) and found.training == model_conf()
    assert found.notes == ("without a decoder, which only pretraining needs",)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"model_state_dict": {"model": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"module.{key}": value for key, value in prefixed(state).items()},
        lambda state: (
            prefixed(state) | {"recon_proj.weight": torch.zeros(1), "_ema.blocks.0.norm1.bias": torch.ones(1)}
        ),
    ],
)
def test_bare_weights_tell_their_sizes(wrap, tmp_path):
    state = tensors()
    found = read_emotion2vec(save(wrap(state), tmp_path / "x.pt"))
    check(found, state)
    assert found.training == {} and "strides 5, 2, 2, 2, 2, 2, 2" in found.notes[-1]
    assert any(note == "left out: recon_proj, _ema" for note in found.notes) == ("recon_proj.weight" in wrap(state))


def test_safetensors_of_published_names(tmp_path):
    state = tensors()
    save_file(state, tmp_path / "any.safetensors")
    check(read_emotion2vec(tmp_path / "any.safetensors"), state)
    check(read_emotion2vec(tmp_path), state)


def test_half_precision_becomes_float32(tmp_path):
    state = {key: value.half() for key, value in tensors().items()}
    check(read_emotion2vec(save(state, tmp_path / "x.pt")), {key: value.float() for key, value in state.items()})


def test_sizes_that_no_ratio_meets_exactly_are_read():
    for dim in range(12, 400, 12):
        for hidden in (dim + 1, 2 * dim - 1, 3 * dim + 7, 4 * dim):
            config = replace(TINY, dim=dim, ffn=hidden)
            meta = {key: torch.empty(shape, device="meta") for key, shape in encoder_shapes(config).items()}
            conf = sizes_of(meta, "x")
            conf["modalities"]["audio"]["feature_encoder_spec"] = SPEC
            assert read_model_conf(conf) == config


# Published lists


@pytest.mark.parametrize(("name", "config", "wide"), [("", Emotion2vecConfig(), 384), ("_plus_large", LARGE, 768)])
def test_the_published_lists_are_read(name, config, wide, reference_file, tmp_path):
    listed = read_shapes(reference_file(f"emotion2vec/state_dict_keys{name}.txt"))
    listed = {key.removeprefix("d2v_model."): tuple(shape) for key, shape in listed.items()}
    decoder = decoder_shapes(DECODER | {"decoder_dim": wide, "decoder_groups": 16, "decoder_layers": 4}, config.dim, "")
    expected = encoder_shapes(config) | {"proj.weight": (9, config.dim), "proj.bias": (9,)}
    assert listed == expected | ({} if name else decoder)
    state = {key: torch.ones(1).expand(shape) for key, shape in listed.items()}  # one number a tensor, any size
    found = read_emotion2vec(save({"model": prefixed(state)}, tmp_path / "model.pt"))
    assert found.config == config and (found.decoder is None) == bool(name)
    conf = f"emotion2vec/emotion2vec_{'plus_large_model_conf.reconstructed' if name else 'base_model_conf'}.json"
    assert read_model_conf(json.loads(reference_file(conf).read_text())) == config


def test_parameters_are_as_many_as_published(reference_file, tmp_path):
    def count(tensors):
        return sum(tensor.numel() for tensor in tensors)

    with torch.device("meta"):
        base, large = (Emotion2vecEncoder("x", config) for config in (Emotion2vecConfig(), LARGE))
    assert count(base.parameters()) == 93_171_212 and count(large.parameters()) == 162_140_185 - 9 * 1025
    parts = [base.feature_extractor, base.feature_projection, base.encoder.pos_conv_embed, base.encoder.layers[:4]]
    prenet = count(base.encoder.layers[:4].parameters()) + count(base.encoder.layer_norm.parameters())
    assert [count(part.parameters()) for part in parts[:3]] == [4_206_592, 395_008, 3_505_920]
    assert (prenet, count(base.encoder.layers[4:].parameters())) == (28_353_024, 56_702_976)
    for config, width, total in ((Emotion2vecConfig(), 384, 93_790_988), (LARGE, 768, 164_048_921 - 9 * 1025)):
        settings = {"decoder_dim": width, "decoder_groups": 16, "decoder_kernel": 7, "decoder_layers": 4}
        shapes = encoder_shapes(config) | decoder_shapes(settings, config.dim, "")
        state = {key: torch.ones(1).expand(shape) for key, shape in shapes.items()}
        lines = read_emotion2vec(save(state, tmp_path / "x.pt")).describe()
        numbers = [int(word.replace(",", "")) for word in lines[1].replace(", ", " ").split() if word[0].isdigit()]
        assert sum(numbers) == total and numbers[1] == 0
        assert lines[0] == f"4 + 8 blocks of {config.dim}, {config.heads} heads, 10 utterance tokens"


@pytest.mark.parametrize("config", [TINY, Emotion2vecConfig(), LARGE, replace(TINY, tokens=0, prenet=2)])
def test_own_names_are_the_encoders(config):
    with torch.device("meta"):
        encoder = Emotion2vecEncoder("emotion2vec", config)
    assert own_shapes(config) == {key: tuple(value.shape) for key, value in encoder.state_dict().items()}


# Folders


def test_the_folder_of_the_pretrained_model(tmp_path):
    state = tensors(head=False)
    content = fairseq_checkpoint(state)
    folder = published_folder(
        tmp_path / "base", content, "emotion2vec_base.pt", tokens=None, conf=model_conf(norm_eps=1e-05)
    )
    assert "norm_eps: 1e-05\n" in (folder / "config.yaml").read_text()  # a text to PyYAML
    found = read_emotion2vec(folder)
    check(found, state, head=False)
    assert found.training == model_conf()
    (folder / "configuration.json").unlink()
    check(read_emotion2vec(folder), state, head=False)


@pytest.mark.parametrize("content", [model_conf(), {"model": "Emotion2vec", "model_conf": model_conf()}])
def test_settings_in_json(content, tmp_path):
    state = tensors()
    save(prefixed(state), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = read_emotion2vec(tmp_path)
    check(found, state)
    assert found.training == model_conf()


def test_another_models_settings_are_not_used_and_it_is_said(tmp_path):
    save(tensors(), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    found = read_emotion2vec(tmp_path)
    assert found.config == TINY and found.notes[0] == "config.json is no configuration of emotion2vec: not used"


def test_strides_and_precision_come_from_the_settings(tmp_path):
    conf = model_conf(norm_eps=1e-06)
    conf["modalities"]["audio"]["feature_encoder_spec"] = SPEC.replace("(16, 10, 5)", "(16, 10, 4)")
    found = read_emotion2vec(published_folder(tmp_path, prefixed(tensors()), conf=conf)).config
    assert (found.conv_stride[0], found.eps) == (4, 1e-6)


def test_classes(tmp_path):
    folder = published_folder(tmp_path / "plus", tensors())
    (folder / "tokens.txt").write_text("生气/angry\nunuse_0\n<unk>\n\n", encoding="utf-8")
    assert read_emotion2vec(folder).tokens == ("生气/angry", "unuse_0", "<unk>")
    (folder / "tokens.txt").write_text("a\nb")
    with pytest.raises(InputError, match=f"{folder}: 2 classes are named and the head has 3: fetch both again"):
        read_emotion2vec(folder)
    (folder / "tokens.txt").unlink()
    found = read_emotion2vec(folder)
    assert found.tokens is None and found.head is not None and "3 classes: not named" in found.describe()
    found = read_emotion2vec(published_folder(tmp_path / "base", tensors(head=False)))
    assert found.tokens is None and "class names are there, but no head: not used" in found.notes


def test_class_names_in_json(tmp_path):
    folder = published_folder(tmp_path, tensors(), tokens=None)
    metas = {"init_param": "model.pt", "tokenizer_conf": {"token_list": "names.json"}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    (folder / "names.json").write_text(json.dumps(CLASSES))
    assert read_emotion2vec(folder).tokens == tuple(CLASSES)
    for wrong in ("{", '{"a": 1}', "[1]"):
        (folder / "names.json").write_text(wrong)
        with pytest.raises(InputError, match="names.json: "):
            read_emotion2vec(folder)


def test_folders_that_leave_a_choice_or_none(tmp_path):
    with pytest.raises(InputError, match="holds no weights"):
        read_emotion2vec(tmp_path)
    for name in ("a.pt", "b.pt"):
        save(tensors(), tmp_path / name)
    with pytest.raises(InputError, match="holds a.pt, b.pt: say which"):
        read_emotion2vec(tmp_path)
    check(read_emotion2vec(tmp_path / "b.pt"), tensors())
    with pytest.raises(InputError, match="missing.pt: no such checkpoint: .* emotion2vec-plus-large"):
        read_emotion2vec(tmp_path / "missing.pt")


@pytest.mark.parametrize("name", ["../secret.pt", "/secret.pt", "", 3, None])
def test_settings_name_no_file_elsewhere(name, tmp_path):
    save(tensors(seed=1), tmp_path / "secret.pt")
    folder = published_folder(tmp_path / "plus", tensors(seed=2))
    name = str(tmp_path / "secret.pt") if name == "/secret.pt" else name
    metas = {"init_param": name, "config": name, "tokenizer_conf": {"token_list": name}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    check(read_emotion2vec(folder), tensors(seed=2))


# Names of hubs


@pytest.fixture
def offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_presets_and_names_of_hugging_face(offline):
    snapshot = offline / "hub" / "models--emotion2vec--emotion2vec_plus_base" / "snapshots" / ("0" * 40)
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.yaml").write_text("model: Emotion2vec")  # begun, without weights
    for name in ("emotion2vec/emotion2vec_plus_base", "emotion2vec-plus-base"):
        with pytest.raises(InputError, match="emotion2vec_plus_base: the local Hugging Face cache holds no weights"):
            read_emotion2vec(name)
    published_folder(snapshot, prefixed(tensors()))
    for name in ("emotion2vec/emotion2vec_plus_base", "emotion2vec-plus-base"):
        assert is_emotion2vec(name)
        check(read_emotion2vec(name), tensors())
    assert create_encoder("emotion2vec-plus-base", layers=[1]).config == TINY


def test_every_published_model_is_a_preset():
    names = [name for name, preset in PRESETS.items() if preset.family == "emotion2vec"]
    assert names == [
        f"emotion2vec-{part}" for part in ("base", "base-finetuned", "plus-seed", "plus-base", "plus-large")
    ]
    assert PRESETS["emotion2vec-base-finetuned"].options == {"weights": "emotion2vec/emotion2vec_base_finetuned"}


@pytest.mark.parametrize("layout", ["hub/models", "hub"])
def test_modelscopes_cache(layout, offline):
    with pytest.raises(
        InputError, match="ModelScope's local cache: .* use emotion2vec/emotion2vec_base of Hugging Face"
    ):
        read_emotion2vec("iic/emotion2vec_base")
    published_folder(offline / "modelscope" / layout / "iic" / "emotion2vec_base", tensors())
    check(read_emotion2vec("iic/emotion2vec_base"), tensors())


# What does not fit, and what would do harm


def test_every_wrong_tensor_is_listed(tmp_path):
    state = tensors()
    del state["blocks.0.mlp.fc2.bias"], state["proj.bias"]
    state[f"{AUDIO}context_encoder.blocks.1.norm1.weight"] = torch.zeros(36)
    state[f"{AUDIO}decoder.proj.weight"] = torch.zeros(36, 25)
    state["blocks.0.attn.qkv.weight"] = torch.zeros(108, 35)
    folder = published_folder(tmp_path / "plus", prefixed(state))
    with pytest.raises(InputError) as caught:
        create_encoder("emotion2vec", weights=str(folder), layers=[0])
    message = str(caught.value)
    assert message.startswith(f"{folder}: does not fit its configuration: ") and "\n" not in message
    for said in (
        "missing blocks.0.mlp.fc2.bias", "missing proj.bias",
        f"unexpected {AUDIO}context_encoder.blocks.1.norm1.weight",
        f"{AUDIO}decoder.proj.weight (36, 25) instead of (36, 24)",
        "blocks.0.attn.qkv.weight (108, 35) instead of (108, 36)",
    ):  # fmt: skip
        assert said in message
    assert message.count(",") == 4 + 4 * 1  # five tensors, and one comma in each shape


def without(part):
    return {key: value for key, value in tensors().items() if part not in key}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no tensors by name"),
        ({"model": {"w": torch.zeros(1)}}, "is not a checkpoint of emotion2vec: no key ends in modality_encoders"),
        (without("alibi"), "lacks 'modality_.*config.yaml beside it"),
        ({**tensors(), f"{AUDIO}alibi_scale": torch.ones(1, 1, 1, 1, 1)}, "is not one number for each head"),
        (without("conv_layers.6."), "6 convolutions instead of 7"),
        ({**tensors(), "optimizer.step": torch.zeros(1)}, "unexpected optimizer.step$"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_words(content, said, tmp_path):
    with pytest.raises(InputError, match=f"x.pt: .*{said}"):
        read_emotion2vec(save(content, tmp_path / "x.pt"))


def test_a_decoder_without_sizes_is_refused(tmp_path):
    state = tensors()
    state[f"{AUDIO}decoder.blocks.0.0.weight"] = torch.zeros(24)
    with pytest.raises(InputError, match="x.pt: "):
        read_emotion2vec(save(state, tmp_path / "x.pt"))


class Harmful:
    """Unpickling an instance the usual way creates ``path``."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


def test_nothing_in_a_pickle_runs(tmp_path):
    mark = tmp_path / "mark"
    attack = Harmful(mark)
    cfg = fairseq_checkpoint({})["cfg"]
    for number, content in enumerate([
        {"model": tensors(), "extra": attack},
        {"model": {**tensors(), "_ema": attack}},
        {"model": tensors(), "cfg": {**cfg, "model": {**cfg["model"], "seed": attack}}},
    ]):  # fmt: skip
        file = save(content, tmp_path / f"{number}.pt")
        check(read_emotion2vec(file), tensors())
        folder = published_folder(tmp_path / f"folder{number}", content)
        create_encoder("emotion2vec", weights=str(folder))
        assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # the attack is real


def test_no_yaml_runs(tmp_path):
    folder, mark = published_folder(tmp_path / "plus", tensors()), tmp_path / "mark"
    (folder / "config.yaml").write_text(f"model_conf: !!python/object/apply:pathlib.Path.touch [{mark}]")
    with pytest.raises(InputError, match="config.yaml: cannot be read as plain YAML"):
        read_emotion2vec(folder)
    assert not mark.exists()


def test_references_in_settings():
    tree = {"model": {**model_conf(), "seed": "${common.seed}", "a": "${no.such}", "b": "${model.b}", "c": "1e-6 s"}}
    tree["common"] = {"seed": "${other}"}
    tree["other"] = 7
    found = find_model_conf(tree)
    assert (found["seed"], found["a"], found["b"], found["c"]) == (7, None, None, "1e-6 s")
    assert find_model_conf({"model": "Emotion2vec"}) is None


# serkit's own folder


def test_what_is_written_is_read_back(tmp_path):
    read = read_emotion2vec(published_folder(tmp_path / "plus", prefixed(tensors())))
    write_emotion2vec(tmp_path / "own", read)
    back = read_emotion2vec(tmp_path / "own")
    check(back, tensors())
    assert (back.tokens, back.training, back.notes) == (read.tokens, read.training, read.notes)
    assert back.describe() == read.describe()
    assert json.loads((tmp_path / "own" / "config.json").read_text())["model_type"] == "emotion2vec"
    assert sorted(file.name for file in (tmp_path / "own").iterdir()) == ["config.json", "model.safetensors"]
    moved = (tmp_path / "own" / "model.safetensors").rename(tmp_path / "alone.safetensors")
    assert is_emotion2vec(moved)
    check(read_emotion2vec(moved), tensors())


def test_a_folder_saved_again_by_others_is_read_by_its_config(tmp_path):
    write_emotion2vec(tmp_path, read_emotion2vec(save(tensors(), tmp_path / "x.pt")))
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")  # without our header
    check(read_emotion2vec(tmp_path / "model.safetensors"), tensors())


def test_parts_that_are_absent_stay_absent(tmp_path):
    state = tensors(head=False, decoder=False)
    write_emotion2vec(tmp_path / "own", read_emotion2vec(save(state, tmp_path / "x.pt")))
    check(read_emotion2vec(tmp_path / "own"), state, head=False, decoder=False)


def test_an_interrupted_write_leaves_the_old_folder(tmp_path, monkeypatch):
    first = read_emotion2vec(save(tensors(seed=1), tmp_path / "x.pt"))
    write_emotion2vec(tmp_path / "own", first)

    def fail(own, part, metadata):
        Path(part).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_emotion2vec(tmp_path / "own", replace(first, head=None))
    assert sorted(file.name for file in (tmp_path / "own").iterdir()) == ["config.json", "model.safetensors"]
    check(read_emotion2vec(tmp_path / "own"), tensors(seed=1))


def test_a_damaged_own_folder_is_named(tmp_path):
    folder = tmp_path / "own"
    write_emotion2vec(folder, read_emotion2vec(save(tensors(), tmp_path / "x.pt")))
    state, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    del state["alibi_scale"], state["head.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match="does not fit its configuration: missing alibi_scale, missing head.bias$"):
        read_emotion2vec(folder)
    config["config"]["rotary"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has the settings rotary: a newer serkit wrote it"):
        read_emotion2vec(folder)
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="model.safetensors: is not a readable safetensors file"):
        read_emotion2vec(folder)


# The encoder


@torch.no_grad()
def test_the_encoder_computes_what_the_published_tensors_say(tmp_path):
    state, clip = tensors(), torch.randn(1, 6000, generator=torch.Generator().manual_seed(3))
    expected = torch.cat(states_of(state, TINY, clip[0]))
    folder = published_folder(tmp_path / "plus", prefixed(state))
    read = read_emotion2vec(folder)
    for weights in (str(folder), read):
        encoder = create_encoder("emotion2vec", weights=weights)
        found = encoder(clip, torch.tensor([6000])).layers[0]
        assert (found[-len(expected) :] - expected).abs().max() < 1e-5
        assert all(weight.requires_grad and not weight.is_meta for weight in encoder.parameters())
        encoder.alibi_scale += 1
    assert torch.equal(read.state["alibi_scale"], state[f"{AUDIO}alibi_scale"].flatten())  # an encoder's own copy
    last = create_encoder("emotion2vec", weights=str(folder), layers=[2], reference=True)
    assert last.reference and (last(clip, torch.tensor([6000])).layers[0, 0] - expected[-1]).abs().max() < 1e-5
    assert create_encoder("emotion2vec", weights=read, precision="int8").arithmetic == "int8"
    with pytest.raises(InputError, match="use the encoder 'emotion2vec'"):
        write_emotion2vec(tmp_path / "own", read)
        create_encoder("wav2vec2", weights=str(tmp_path / "own"))


@pytest.mark.slow
@torch.no_grad()
def test_a_folder_of_full_size_gives_the_numbers_of_funasr(reference_file, serkit, tmp_path):
    conf = json.loads(reference_file("emotion2vec/emotion2vec_base_model_conf.json").read_text())
    state = seeded_state(reference_file("emotion2vec/state_dict_keys.txt"))
    names = reference_file("emotion2vec/tokens.txt").read_text(encoding="utf-8").split()
    folder = published_folder(tmp_path / "plus", {"model": prefixed(state)}, tokens=names, conf=conf)
    done = serkit("convert", folder, "-o", tmp_path / "own")
    assert done.code == 0 and "encoder 93,171,212, head 6,921, decoder 619,776" in done.out
    golden = np.load(reference_file("emotion2vec/golden_base_testwav.npz"))
    wav, _ = soundfile.read(reference_file("emotion2vec/test.wav"), dtype="float32")
    for source in (folder, tmp_path / "own"):
        read = read_emotion2vec(source)
        assert read.tokens == tuple(names)
        encoder = create_encoder("emotion2vec", weights=str(source), layers=[12])
        frames = encoder(torch.from_numpy(wav)[None], torch.tensor([len(wav)])).layers[0, 0]
        assert (frames.mean(0) - torch.from_numpy(golden["x_utt"]).flatten()).abs().max() < 1e-4
        logits = read.head[0] @ frames.mean(0) + read.head[1]
        assert (logits - torch.from_numpy(golden["logits"]).flatten()).abs().max() < 1e-4


# Beginning pretraining


def data2vec2(config):
    """data2vec 2.0's own checkpoints: fewer utterance tokens, or none."""
    return tensors(config, head=False)


@pytest.mark.parametrize("given", [0, 1, 3, 5])
def test_pretraining_begins_with_data2vec(given, tmp_path):
    source = data2vec2(replace(TINY, tokens=max(given, 1)))
    if not given:
        del source[f"{AUDIO}extra_tokens"]
    found = init_from_data2vec2(TINY, save(source, tmp_path / "base_libri.pt"), 4)
    assert {key: tuple(value.shape) for key, value in found.state.items()} == own_shapes(TINY)
    expected = convert_state(source)
    same(found.decoder, {key[8:]: value for key, value in expected.items() if key.startswith("decoder.")})
    rest = {key: value for key, value in found.state.items() if key != "utterance_tokens"}
    same(rest, {key: value for key, value in expected.items() if key != "utterance_tokens" and "decoder" not in key})
    tokens, kept = found.state["utterance_tokens"], min(given, 3)
    if given:
        assert torch.equal(tokens[:kept], expected["utterance_tokens"][:kept])
    else:
        assert not tokens[0].any()
    assert all(token.std() > 0.5 for token in tokens[max(kept, 1) :])
    said = f"utterance tokens: {kept} of 3 copied (the source has {given}), {3 - kept} drawn"
    assert (said in found.notes) == (given != 3)
    again, other = (init_from_data2vec2(TINY, tmp_path / "base_libri.pt", seed) for seed in (4, 5))
    assert torch.equal(again.state["utterance_tokens"], tokens)
    assert torch.equal(other.state["utterance_tokens"], tokens) == (given >= 3)


def test_another_prenet_is_the_same_network(tmp_path):
    state = data2vec2(replace(TINY, prenet=0))
    found = init_from_data2vec2(TINY, save(state, tmp_path / "x.pt"), 0)
    assert "prenet: 1 blocks instead of 0, of 2 in all" in found.notes
    key = "encoder.layers.0.attention.out_proj.weight"
    assert torch.equal(found.state[key], state["blocks.0.attn.proj.weight"])


def test_another_model_is_no_beginning(tmp_path):
    file = save(tensors(replace(TINY, ffn=60, blocks=3), decoder=False), tmp_path / "x.pt")
    with pytest.raises(InputError, match="x.pt: is another model: blocks 3 instead of 2, ffn 60 instead of 48"):
        init_from_data2vec2(TINY, file, 0)
    notes = init_from_data2vec2(TINY, save(tensors(decoder=False), tmp_path / "y.pt"), 0).notes
    assert notes[-2:] == ("decoder: none in the source, to be drawn", "head: left out")


# The command line


def test_convert(serkit, tmp_path):
    folder = published_folder(tmp_path / "plus", {"model": prefixed(tensors(decoder=False)), "optimizer": {}})
    done = serkit("convert", folder, "-o", tmp_path / "own")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{tmp_path / 'own'}: written",
        "  1 + 1 blocks of 36, 6 heads, 3 utterance tokens",
        f"  parameters: encoder {sum(value.numel() for value in original_state(TINY).values()):,}, head 111, decoder 0",
        "  3 classes: 生气/angry, 开心/happy, <unk>",
        "  left out of the file: optimizer",
        "  without a decoder, which only pretraining needs",
    ]
    check(read_emotion2vec(tmp_path / "own"), tensors(decoder=False), decoder=False)
    again = serkit("convert", tmp_path / "own", "-o", tmp_path / "twice")
    assert again.code == 0
    assert (tmp_path / "twice" / "model.safetensors").read_bytes() == (tmp_path / "own/model.safetensors").read_bytes()


def test_convert_refuses_in_one_line(serkit, tmp_path):
    for source in (save({"model": {}}, tmp_path / "x.pt"), tmp_path / "y.pt", "emotion2vec-plus"):
        done = serkit("convert", source, "-o", tmp_path / "own")
        assert done.code and done.err.count("\n") == 1 and str(source) in done.err and not (tmp_path / "own").exists()


def test_what_looks_like_emotion2vec(tmp_path):
    (tmp_path / "cai").mkdir()
    (tmp_path / "cai" / "config.json").write_text('{"model_type": "wav2vec2"}')
    save_file({"wav2vec2.masked_spec_embed": torch.zeros(4)}, tmp_path / "cai" / "model.safetensors")
    assert not is_emotion2vec(tmp_path / "cai")
    assert not is_emotion2vec(tmp_path / "cai" / "model.safetensors")
    assert not is_emotion2vec("facebook/wav2vec2-base") and not is_emotion2vec(tmp_path / "out")
    assert is_emotion2vec(published_folder(tmp_path / "plus", tensors()))
    save_file(tensors(), tmp_path / "plus" / "model.safetensors")
    (tmp_path / "plus" / "model.pt").unlink()
    assert is_emotion2vec(tmp_path / "plus") and is_emotion2vec(tmp_path / "plus" / "model.safetensors")


def test_a_checkpoint_holds_no_more_than_it_says():
    checkpoint = Emotion2vecCheckpoint("x", TINY, {"a": torch.zeros(2, 3)})
    assert checkpoint.describe()[1:] == ["parameters: encoder 6, head 0, decoder 0"]
