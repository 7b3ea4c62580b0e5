"""Checkpoints of Cai et al. 2021: read strictly, and equal to the original's computation in logits and loss."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from serkit.data.text import WAV2VEC2
from serkit.errors import InputError
from serkit.models.cai import CLASSES, SPEAKER_HEADS, is_cai_checkpoint, load_cai
from serkit.models.model import Waveforms

torch.set_num_threads(1)
transformers = pytest.importorskip("transformers", reason="computes what the original does")
ALPHA = 0.1


class Reference(transformers.Wav2Vec2PreTrainedModel):
    """The published model on top of today's transformers: linear heads on frames and on their mean, all of them."""

    def __init__(self, config, speakers=0):
        super().__init__(config)
        self.wav2vec2 = transformers.Wav2Vec2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.cls_head = nn.Linear(config.hidden_size, 4)
        if speakers:
            self.spk_head = nn.Linear(config.hidden_size, speakers)
        self.post_init()

    def forward(self, values):
        states = self.wav2vec2(values).last_hidden_state
        pooled = states.mean(1)
        heads = self.lm_head(states), self.cls_head(pooled)
        return (*heads, self.spk_head(pooled)) if hasattr(self, "spk_head") else heads

    def loss(self, values, texts, emotions):
        """Cross-entropy averaged over the batch plus alpha times CTC added up over it, on all frames of the batch."""
        frames, emotion = self(values)[:2]
        lengths = torch.full((len(values),), frames.shape[1])
        counts = torch.tensor([len(text) for text in texts])
        scores = frames.log_softmax(-1).transpose(0, 1)
        ctc = functional.ctc_loss(scores, torch.cat(texts), lengths, counts, blank=0, reduction="sum")
        return functional.cross_entropy(emotion, emotions) + ALPHA * ctc


def write(folder, speakers=0, **options):
    torch.manual_seed(1)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, mask_time_prob=0.0, layerdrop=0.0,
        hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
        **options,
    )  # fmt: skip
    model = Reference(config, speakers).eval()
    with torch.no_grad():  # heads as drawn hardly tell anything apart
        for head in (model.lm_head, model.cls_head):
            head.weight.mul_(20)
            head.bias.normal_()
    model.save_pretrained(folder)
    return SimpleNamespace(folder=folder, model=model)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"))


def normalised(waveform):
    return (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()


def speech(*sizes):
    torch.manual_seed(5)
    return [torch.randn(size) * 0.1 + 0.01 for size in sizes]


@torch.no_grad()
@pytest.mark.parametrize("pre_norm", [False, True])
def test_logits_are_those_of_the_original(pre_norm, tmp_path):
    options = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True} if pre_norm else {}
    made = write(tmp_path, speakers=3, **options)
    model = load_cai(tmp_path)
    for waveform in speech(16_000, 7_311):
        ours = model(Waveforms.pad([waveform]))
        theirs = made.model(normalised(waveform)[None])
        assert list(ours) == ["emotion", "ctc", "speaker"]
        assert theirs[0].std() > 0.1 and theirs[1].std() > 0.1
        torch.testing.assert_close(ours["ctc"], theirs[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours["emotion"][0], theirs[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours["speaker"], theirs[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(9_000, 9_000), (9_000, 5_000)], ids=["equal", "padded"])
def test_the_loss_is_that_of_the_original(sizes, made):
    waveforms, emotions = speech(*sizes), torch.tensor([2, 0])
    texts = [torch.tensor(WAV2VEC2.targets(text, "legacy")) for text in ("YES .", "OH NO .")]
    values = nn.utils.rnn.pad_sequence([normalised(each) for each in waveforms], batch_first=True)
    theirs = made.model.train().loss(values, texts, emotions)

    model = load_cai(made.folder).train()
    model.encoder.sees_padding = True
    model.tasks["ctc"].config = model.tasks["ctc"].config.model_copy(update={"scale": len(sizes)})
    view = model.view(Waveforms.pad(waveforms))
    emotion, ctc = model.emotion, model.tasks["ctc"]
    one_hot = list(functional.one_hot(emotions, 4).float())
    losses = emotion.losses(emotion(view), view, one_hot) + ALPHA * ctc.losses(ctc(view), view, texts)
    ours = losses.sum() / len(sizes)
    assert theirs > 5
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    theirs.backward()
    ours.backward()
    names = {"cls_head.weight": emotion.head.heads[0].decide[0].weight, "lm_head.weight": ctc.linear.weight}
    for name, weight in names.items():
        expected = made.model.get_parameter(name).grad
        torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    made.model.zero_grad()


def test_padding_matters_to_the_original(made):
    """Otherwise the parity above would say nothing of it."""
    long, short = speech(9_000, 5_000)
    model = load_cai(made.folder).train()
    masked = model.view(Waveforms.pad([long, short])).mean[1]
    model.encoder.sees_padding = True
    assert (model.view(Waveforms.pad([long, short])).mean[1] - masked).abs().max() > 1e-3


def test_pickles_and_old_weight_names_are_read(made, tmp_path):
    state = load_file(made.folder / "model.safetensors")
    stem = "wav2vec2.encoder.pos_conv_embed.conv."
    old = {key.replace(f"{stem}parametrizations.weight.original0", f"{stem}weight_g"): v for key, v in state.items()}
    old = {key.replace(f"{stem}parametrizations.weight.original1", f"{stem}weight_v"): v for key, v in old.items()}
    assert {f"{stem}weight_g", f"{stem}weight_v"} <= set(old)
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((made.folder / "config.json").read_text())
    new, again = load_cai(made.folder).state_dict(), load_cai(tmp_path).state_dict()
    assert set(new) == set(again) and all(torch.equal(new[key], again[key]) for key in new)
    assert is_cai_checkpoint(tmp_path) and not is_cai_checkpoint(tmp_path / "missing")


def changed(made, folder, change, config=None):
    state = load_file(made.folder / "model.safetensors")
    change(state)
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    settings = json.loads((made.folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("name", SPEAKER_HEADS)
def test_a_third_head_is_found_by_its_names(name, made, tmp_path):
    def add(state):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(10, 32), torch.zeros(10)

    task = load_cai(changed(made, tmp_path, add)).tasks["speaker"]
    assert task.classes == tuple("0123456789") and bool((task.linear.weight == 1).all())
    with pytest.raises(InputError, match="10 speakers, but 1 are named"):
        load_cai(tmp_path, speakers=["a"])


def test_without_a_transcription_head_there_is_no_such_task(made, tmp_path):
    model = load_cai(
        changed(made, tmp_path, lambda state: [state.pop(f"lm_head.{part}") for part in ("weight", "bias")])
    )
    assert [task.name for task in model.each()] == ["emotion"] and model.emotion.classes == CLASSES


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda state: state.pop("cls_head.bias"), {}, "missing cls_head.bias$"),
        (lambda state: state.update(extra=torch.ones(1)), {}, "unexpected extra$"),
        (lambda state: state.pop("wav2vec2.encoder.layer_norm.bias"), {}, "missing encoder.layer_norm.bias"),
        (lambda state: state.update({"wav2vec2.more.bias": torch.ones(1)}), {}, "unexpected more.bias"),
        (lambda state: state.update({"cls_head.weight": torch.ones(4, 31)}), {}, r"cls_head is \(4, 31\)"),
        (
            lambda state: state.update({"cls_head.weight": torch.ones(5, 32), "cls_head.bias": torch.ones(5)}),
            {},
            "knows 5 classes: name as many",
        ),
        (
            lambda state: state.update({"lm_head.weight": torch.ones(31, 32), "lm_head.bias": torch.ones(31)}),
            {},
            "31 symbols, the vocabulary 32: put the model's vocab.json",
        ),
        (lambda state: None, {"pad_token_id": 3}, "pad_token_id is 3, in the vocabulary it is 0"),
        (lambda state: None, {"model_type": "bert"}, "is a bert checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(change, config, message, made, tmp_path):
    with pytest.raises(InputError, match=message):
        load_cai(changed(made, tmp_path, change, config))


def test_the_vocabulary_beside_it_is_used(made, tmp_path):
    folder = changed(made, tmp_path, lambda state: None)
    symbols = [*WAV2VEC2.symbols[:5], *reversed(WAV2VEC2.symbols[5:])]
    (folder / "vocab.json").write_text(json.dumps({symbol: id for id, symbol in enumerate(symbols)}))
    assert load_cai(folder).tasks["ctc"].tokenizer.symbols == tuple(symbols)
