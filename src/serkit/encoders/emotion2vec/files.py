"""Checkpoints of emotion2vec (Ma et al. 2024, https://aclanthology.org/2024.findings-acl.931): read, written, adapted.

Read are the published files (a fairseq checkpoint, and the ``model.pt`` of the recognisers), folders as ModelScope,
FunASR and Hugging Face lay them out, bare weights, and serkit's own folder, which :func:`write_emotion2vec` writes.
Nothing in a pickle is executed. Every tensor must be there and fit; what is left out is said in ``notes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from serkit.data.files import read_object, replace_atomically, write_json
from serkit.encoders.emotion2vec.encoder import Emotion2vecConfig
from serkit.encoders.emotion2vec.folders import FAMILY, Emotion2vecFiles, find_files, find_model_conf
from serkit.encoders.emotion2vec.sizes import ANCHOR, DECODER, decoder_shapes, encoder_shapes, sizes_of
from serkit.encoders.emotion2vec.state import convert_state, read_model_conf
from serkit.encoders.fairseq import mappings
from serkit.encoders.pickles import load_pickle, plain
from serkit.encoders.weights import check_shapes
from serkit.errors import InputError

SETTINGS = ("cfg", "args")
WRAPPERS = ("state_dict", "model_state_dict", "model")
LEFT_OUT = ("_ema", "teacher.", "recon_proj.", "shared_decoder.", "adversarial")
"""Beginnings of keys that pretraining alone needs and that are not the decoder's."""
HEAD = ("proj.weight", "proj.bias")


@dataclass(frozen=True)
class Emotion2vecCheckpoint:
    """An encoder's tensors in serkit's names, float32 on the CPU, with all that was published beside them.

    ``head`` is weight ``(C, D)`` and bias ``(C,)`` of a linear map of the mean over time, ``tokens`` its ``C`` class
    names as published, ``decoder`` pretraining's decoder (``layers.0.weight`` to ``proj.bias``), ``training`` the
    ``model_conf``; each is None or empty where the source has none. ``notes`` say what was assumed or left out.
    """

    source: str
    config: Emotion2vecConfig
    state: dict[str, Tensor]
    head: tuple[Tensor, Tensor] | None = None
    tokens: tuple[str, ...] | None = None
    decoder: dict[str, Tensor] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Return what was found, a line each: sizes, parameters, classes, notes."""
        config, count = self.config, sum(tensor.numel() for tensor in self.state.values())
        head = sum(tensor.numel() for tensor in self.head or ())
        decoder = sum(tensor.numel() for tensor in (self.decoder or {}).values())
        lines = [
            f"{config.prenet} + {config.blocks - config.prenet} blocks of {config.dim}, {config.heads} heads, "
            f"{config.tokens} utterance tokens",
            f"parameters: encoder {count:,}, head {head:,}, decoder {decoder:,}",
        ]
        if self.head is not None:
            names = "not named" if self.tokens is None else ", ".join(self.tokens)
            lines.append(f"{len(self.head[1])} classes: {names}")
        return [*lines, *self.notes]


def read_emotion2vec(source: str | Path) -> Emotion2vecCheckpoint:
    """Read the checkpoint behind ``source``: folder, ``.pt`` or ``.safetensors`` file, hub name or preset.

    Sizes come from ``model_conf`` in the folder, else from the configuration inside the file, else from the tensors
    (see :func:`~serkit.encoders.emotion2vec.sizes.sizes_of` for what is then assumed). Raises ``InputError`` listing
    every tensor that is missing, unexpected or of another shape, and for class names that do not fit the head.
    """
    files = find_files(source)
    if files.weights.suffix == ".safetensors":
        tensors, own = _read_safetensors(files.weights)
        beside = read_object(files.weights.with_name("config.json"))
        own = own or (beside if beside.get("model_type") == FAMILY and "config" in beside else None)
        if own is not None:
            return _from_own(str(source), tensors, own, files.weights)
        return _from_published(str(source), files, tensors, None, ())
    content = load_pickle(files.weights)
    if not isinstance(content, Mapping):
        raise InputError(f"{files.weights}: holds no tensors by name")
    inner, dropped = _unwrap(content)
    conf = _conf_inside(content)
    notes = (f"left out of the file: {', '.join(dropped)}",) if dropped else ()
    return _from_published(str(source), files, inner, conf, notes)


def _conf_inside(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ``model_conf`` of a fairseq checkpoint; whether waveforms are normalised is its task's setting."""
    tree = plain({key: content[key] for key in SETTINGS if key in content})
    conf = next((found for item in tree.values() if (found := find_model_conf(item))), None)
    switches = (item["normalize"] for item in mappings(tree) if isinstance(item.get("normalize"), bool))
    return None if conf is None else {"normalize": next(switches, True), **conf}


def _unwrap(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return the innermost tensors by name and what stood beside them and is no setting."""
    dropped: list[str] = []
    while True:
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            return content, dropped
        dropped += [str(key) for key, value in content.items() if key not in (wrapper, *SETTINGS) and value is not None]
        content = content[wrapper]


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors and, in a file that serkit has written, its settings."""
    try:
        with safe_open(file, "pt") as opened:
            own = (opened.metadata() or {}).get(FAMILY)
            return {key: opened.get_tensor(key) for key in opened.keys()}, own and json.loads(own)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: is not a readable safetensors file ({error})") from error


def _from_published(
    source: str,
    files: Emotion2vecFiles,
    content: Mapping[str, Any],
    inside: dict[str, Any] | None,
    notes: tuple[str, ...],
) -> Emotion2vecCheckpoint:
    """Turn ``content``, a file of published names, into a checkpoint; ``inside`` is the file's own ``model_conf``."""
    state, dropped = _published_names(content, source)
    said = [*files.notes, *notes]
    if dropped:
        said.append(f"left out: {', '.join(dropped)}")
    training = files.conf or inside or {}
    if not training:
        said.append("no configuration: sizes read off the tensors, strides 5, 2, 2, 2, 2, 2, 2 and the rest assumed")
    conf = _complete(training, state, source)
    config = read_model_conf(conf, source)
    expected = encoder_shapes(config) | _head_shapes(state, config.dim)
    if any(key.startswith(DECODER) for key in state):
        expected |= decoder_shapes(conf["modalities"]["audio"].get("decoder", {}), config.dim, source)
    else:
        said.append("without a decoder, which only pretraining needs")
    check_shapes(source, state, expected)
    head = (state.pop(HEAD[0]), state.pop(HEAD[1])) if HEAD[0] in state else None
    tokens = _class_names(source, files.tokens, head, said)
    ours, decoder = _split(convert_state(state), "decoder.")
    if not config.tokens:
        ours["utterance_tokens"] = torch.zeros(0, config.dim)
    return Emotion2vecCheckpoint(source, config, ours, head, tokens, decoder or None, training, tuple(said))


def _complete(conf: dict[str, Any], state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return ``conf`` with what it leaves to its defaults, as fairseq's do, taken from the tensors where they tell."""
    try:
        sizes = sizes_of(state, source)
    except InputError:
        if not conf:
            raise
        return conf
    given = conf.get("modalities", {}).get("audio", {})
    return {**sizes, **conf, "modalities": {"audio": {**sizes["modalities"]["audio"], **given}}}


def _class_names(
    source: str, names: tuple[str, ...] | None, head: tuple[Tensor, Tensor] | None, said: list[str]
) -> tuple[str, ...] | None:
    if names is None:
        return None
    if head is None:
        said.append("class names are there, but no head: not used")
        return None
    if len(names) != len(head[1]):
        raise InputError(f"{source}: {len(names)} classes are named and the head has {len(head[1])}: fetch both again")
    return names


def _split(state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what does not begin with ``prefix`` and what does, the latter without it."""
    rest = {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}
    return rest, {key.removeprefix(prefix): tensor for key, tensor in state.items() if key not in rest}


def _published_names(content: Mapping[str, Any], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors, prefixes cut off and float32, and what was left out, by the beginnings of its names."""
    prefix = next((str(key).removesuffix(ANCHOR) for key in content if str(key).endswith(ANCHOR)), None)
    if prefix is None:
        raise InputError(f"{source}: is not a checkpoint of emotion2vec: no key ends in {ANCHOR}")
    state, dropped = {}, []
    for key, value in content.items():
        name = str(key).removeprefix(prefix).removeprefix("module.").removeprefix("d2v_model.")
        group = next((group for group in LEFT_OUT if name.startswith(group)), None)
        if group is None and isinstance(value, Tensor):
            state[name] = value.detach().float()
        else:
            dropped.append((group or name).rstrip("."))
    return state, list(dict.fromkeys(dropped))


def _head_shapes(state: Mapping[str, Tensor], dim: int) -> dict[str, tuple[int, ...]]:
    sizes = [len(state[key]) for key in HEAD if key in state and state[key].ndim]
    return {HEAD[0]: (sizes[0], dim), HEAD[1]: (sizes[0],)} if sizes else {}


# serkit's own folder


def write_emotion2vec(folder: str | Path, checkpoint: Emotion2vecCheckpoint) -> None:
    """Write ``model.safetensors`` and ``config.json`` (``model_type`` "emotion2vec"), each replaced as a whole.

    The weights' file carries the same settings and is complete by itself; ``config.json`` is for other readers.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(checkpoint.state)
    if checkpoint.head is not None:
        tensors |= {"head.weight": checkpoint.head[0], "head.bias": checkpoint.head[1]}
    tensors |= {f"decoder.{key}": tensor for key, tensor in (checkpoint.decoder or {}).items()}
    settings = {
        "model_type": FAMILY,
        "config": asdict(checkpoint.config),
        "tokens": checkpoint.tokens,
        "training": checkpoint.training,
        "notes": checkpoint.notes,
    }
    own = {key: tensor.detach().float().cpu().clone().contiguous() for key, tensor in tensors.items()}
    with replace_atomically(folder / "model.safetensors") as part:
        save_file(own, part, {FAMILY: json.dumps(settings, ensure_ascii=False)})
    write_json(folder / "config.json", settings)


def _from_own(source: str, tensors: dict[str, Tensor], settings: dict[str, Any], file: Path) -> Emotion2vecCheckpoint:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings["config"].items()
    }
    unknown = set(given) - {item.name for item in fields(Emotion2vecConfig)}
    if unknown:
        raise InputError(f"{file}: has the settings {', '.join(sorted(unknown))}: a newer serkit wrote it; use that")
    config = Emotion2vecConfig(**given)
    state, decoder = _split({key: tensor.float() for key, tensor in tensors.items()}, "decoder.")
    names = {"head.weight": HEAD[0], "head.bias": HEAD[1]}
    heads = {names[key]: tensor for key, tensor in state.items() if key in names}
    expected = dict(zip(names, _head_shapes(heads, config.dim).values(), strict=False))
    check_shapes(source, state, own_shapes(config) | expected)
    state, head = _split(state, "head.")
    return Emotion2vecCheckpoint(
        source,
        config,
        state,
        (head["weight"], head["bias"]) if head else None,
        None if settings.get("tokens") is None else tuple(settings["tokens"]),
        decoder or None,
        settings.get("training", {}),
        tuple(settings.get("notes", ())),
    )


def own_shapes(config: Emotion2vecConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of the encoder in serkit's names."""
    published = {key: torch.empty(shape, device="meta") for key, shape in encoder_shapes(config).items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in convert_state(published).items()}
    return {"utterance_tokens": (0, config.dim), **shapes}


# Beginning pretraining with the weights of another


@dataclass(frozen=True)
class Initialisation:
    """Weights to begin with: the encoder's ``state``, the ``decoder`` (None: draw one), and what is not copied."""

    state: dict[str, Tensor]
    decoder: dict[str, Tensor] | None
    notes: tuple[str, ...]


def init_from_data2vec2(config: Emotion2vecConfig, source: str | Path, seed: int) -> Initialisation:
    """Return the weights of data2vec 2.0 (or emotion2vec) in ``source`` as the beginning of a model of ``config``.

    Of utterance tokens, as many as there are in both are copied, the others are drawn with ``seed`` as a new model's
    are (the first zero, the others from N(0, 1)); all else is copied. Where the prenet ends does not matter: its blocks
    are like the others. ``notes`` tell what was not copied. Raises ``InputError`` when any other size differs.
    """
    found = read_emotion2vec(source)
    notes, state = list(found.notes), dict(found.state)
    if found.config.tokens != config.tokens:
        kept = min(found.config.tokens, config.tokens)
        drawn = torch.randn(config.tokens, found.config.dim, generator=torch.Generator().manual_seed(seed))
        drawn[:1] = 0
        drawn[:kept] = state["utterance_tokens"][:kept]
        state["utterance_tokens"] = drawn
        notes.append(
            f"utterance tokens: {kept} of {config.tokens} copied (the source has {found.config.tokens}), "
            f"{config.tokens - kept} drawn"
        )
    if found.config.prenet != config.prenet:
        notes.append(f"prenet: {config.prenet} blocks instead of {found.config.prenet}, of {config.blocks} in all")
    sizes = replace(found.config, tokens=config.tokens, prenet=config.prenet)
    different = [item.name for item in fields(config) if getattr(sizes, item.name) != getattr(config, item.name)]
    if different:
        names = ", ".join(f"{name} {getattr(sizes, name)} instead of {getattr(config, name)}" for name in different)
        raise InputError(f"{source}: is another model: {names}")
    if found.decoder is None:
        notes.append("decoder: none in the source, to be drawn")
    if found.head is not None:
        notes.append("head: left out")
    return Initialisation(state, found.decoder, tuple(notes))
