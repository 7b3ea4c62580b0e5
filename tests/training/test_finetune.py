"""Encoders that learn with their heads: the same weights however a step is cut, dealt or interrupted."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from speech import ALL_TASKS, create_model, train_until_killed, waveform_set, write_corpus

from serkit.data.audio import read_audio
from serkit.encoders.regularise import Regularisation
from serkit.errors import InputError
from serkit.evaluation.metrics import word_error_rate
from serkit.models.graph import graph_of
from serkit.models.model import Waveforms
from serkit.training import finetune as finetune_module
from serkit.training.augment import Augmentation
from serkit.training.batching import BatchOptions
from serkit.training.finetune import create_accelerator, evaluate_dev, finetune, predict, task_losses
from serkit.training.fit import TrainingOptions
from serkit.training.tuning import (
    FinetuneOptions,
    LoraOptions,
    load_trained,
    merge_lora,
    parameter_groups,
    trained_state,
)

torch.set_num_threads(1)

WHOLE = BatchOptions(waste=1, micro_seconds=1e6)
# A large epsilon: what has no gradient but rounding must not be moved by it.
SHORT = TrainingOptions(epochs=2, batch_size=8, lr=3e-3, epsilon=1e-3, label_smoothing=0, schedule="constant", warmup=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    manifest = write_corpus(folder)
    manifest.write(folder / "manifest.parquet")
    return folder, manifest


@pytest.fixture
def trained(corpus):
    """``trained(options, training, ...)``: a model after training, its data and its history."""

    def run(options=None, training=SHORT, encoder="wav2vec2", seed=0, tasks=None, dev=False, change=None, **head):
        options = options or FinetuneOptions(lr=3e-3, batches=WHOLE)
        model = create_model(corpus[1], encoder, options, tasks, **head)
        data = waveform_set(model, corpus[1], corpus[0] / "cache")
        data = replace(data, **(change or {}))
        history = finetune(model, data, data.plain() if dev else None, training, options, seed)
        return model, data, history

    return run


def with_(options, **changes):
    return type(options).model_validate({**options.model_dump(), **changes})


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def assert_close(one, two, tolerance=1e-5):
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def columns_of(model, data, options):
    return predict(model, data, options, create_accelerator("cpu"))


# Learning


@pytest.mark.parametrize("encoder", ["wav2vec2", "whisper"])
def test_eight_utterances_are_learned_by_heart_in_all_tasks_at_once(encoder, trained):
    options = FinetuneOptions(lr=3e-3, batches=WHOLE)
    training = TrainingOptions(
        epochs=220, batch_size=8, lr=3e-3, label_smoothing=0, schedule="linear", warmup=0.1, weight_decay=0,
        clip_norm=1.0,
    )  # fmt: skip
    model, data, history = trained(options, training, encoder)
    columns, losses = columns_of(model, data, options)
    assert columns["text_truth"] == ["ab", "ba ca", "cc a", "b", "acb", "cab ab", "bb c", "a"]
    assert word_error_rate(columns["text_truth"], columns["text_prediction"]) == 0
    assert columns["speaker_prediction"] == columns["speaker_truth"] == ["f", "f", "m", "m"] * 2
    assert columns["prediction"] == ["sad", "happy"] * 4
    assert history[-1]["loss"] < 0.05 < 1 < history[0]["loss"] and losses["ctc"] < 0.2


def test_the_loss_is_the_weighted_sum_and_its_gradient_that_of_the_mean(corpus, monkeypatch):
    """Everything once more in plain PyTorch: L = emotion + alpha * ctc + beta * speaker, averaged over a step."""
    manifest, alpha, beta, smoothing = corpus[1], 0.3, 0.7, 0.1
    tasks = {"ctc": {"weight": alpha}, "speaker": {"weight": beta}}
    options = FinetuneOptions(batches=BatchOptions(micro_batch=3))
    model = create_model(manifest, options=options, tasks=tasks, smoothing=smoothing)
    weights = torch.tensor([2.0, 0.5, 1, 1, 1, 0.5, 1.5, 0.5])
    data = waveform_set(model, manifest, corpus[0] / "cache", weights)
    plain, audio = copy.deepcopy(model), data.batch(range(8))
    found = plain.encoder.train()(audio.waveforms, audio.lengths)
    frames, lengths = found.layers[:, -1], found.lengths
    mean = torch.stack([row[:length].mean(0) for row, length in zip(frames, lengths, strict=True)])
    head, ctc, speaker = plain.emotion.head.heads[0].decide[-1], plain.tasks["ctc"], plain.tasks["speaker"]
    emotions = torch.tensor([0, 1] * 4)
    emotion_losses = F.cross_entropy(head(mean), emotions, label_smoothing=smoothing, reduction="none") * weights
    texts = [torch.tensor(ctc.tokenizer.targets(text)) for text in manifest.table["text"]]
    ctc_losses = F.ctc_loss(
        ctc.linear(frames).log_softmax(-1).transpose(0, 1), torch.cat(texts), lengths,
        torch.tensor([len(text) for text in texts]), reduction="none",
    )  # fmt: skip
    speaker_losses = F.cross_entropy(speaker.linear(mean), torch.tensor([0, 0, 1, 1] * 2), reduction="none")
    total = (emotion_losses + alpha * ctc_losses + beta * speaker_losses).mean()
    total.backward()

    gradients = []

    class Watching(torch.optim.AdamW):
        def step(self, closure=None):
            gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})

    monkeypatch.setattr(finetune_module.torch.optim, "AdamW", Watching)
    (line,) = finetune(model, data, None, with_(SHORT, epochs=1), options, 0)
    assert line["loss"] == pytest.approx(float(total.detach()), rel=1e-5)
    assert line["loss_emotion"] == pytest.approx(float(emotion_losses.detach().mean()), rel=1e-5)
    assert line["loss_ctc"] == pytest.approx(float(ctc_losses.detach().mean()), rel=1e-5)
    assert line["loss_speaker"] == pytest.approx(float(speaker_losses.detach().mean()), rel=1e-5)
    assert len(gradients) == 1
    for name, weight in plain.named_parameters():
        wanted = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(gradients[0][name], wanted, rtol=1e-4, atol=2e-5, msg=lambda s, n=name: f"{n}: {s}")


def test_a_task_without_weight_is_left_out_of_loss_and_predictions(trained):
    tasks = {"ctc": {"weight": 0}, "speaker": {"weight": 0.5}, "affect": {"weight": 0}}
    model, data, history = trained(tasks=tasks, training=with_(SHORT, epochs=1))
    assert list(model.tasks) == ["emotion", "speaker"]
    assert {key for key in history[0] if key.startswith("loss")} == {"loss", "loss_emotion", "loss_speaker"}
    assert not [name for name in columns_of(model, data, FinetuneOptions())[0] if name.startswith("text")]


def test_without_emotion_the_others_learn_alone(trained, corpus):
    tasks = {"emotion": {"weight": 0}, "speaker": {"weight": 1}}
    model, _, history = trained(tasks=tasks, training=with_(SHORT, epochs=20, epsilon=1e-8, lr=1e-3))
    begun = create_model(corpus[1], tasks=tasks)
    assert torch.equal(model.emotion.head.heads[0].decide[-1].bias, begun.emotion.head.heads[0].decide[-1].bias)
    assert history[-1]["loss"] == history[-1]["loss_speaker"] < history[0]["loss"]
    assert "loss_emotion" not in history[0]


# However a step is cut


@pytest.mark.parametrize("encoder", ["wav2vec2", "whisper"])
def test_micro_batches_of_any_size_give_the_same_weights(encoder, trained):
    cuts = [WHOLE, BatchOptions(micro_batch=1), BatchOptions(micro_batch=4), BatchOptions(micro_seconds=1.2)]
    models, histories = zip(
        *(trained(FinetuneOptions(lr=3e-3, batches=cut), with_(SHORT, epochs=3), encoder)[::2] for cut in cuts),
        strict=True,
    )
    for model, history in zip(models[1:], histories[1:], strict=True):
        assert_close(models[0], model)
        for one, two in zip(histories[0], history, strict=True):
            assert all(one[key] == pytest.approx(two[key], rel=1e-4) for key in one if key.startswith("loss"))
    assert histories[0][2]["loss"] < histories[0][0]["loss"]


def test_checkpointing_gives_the_same_weights_even_with_dropout(trained):
    options = FinetuneOptions(
        lr=3e-3, batches=WHOLE, regularise=Regularisation(dropout=0.2, attention_dropout=0.1, layer_drop=0.3)
    )
    assert_close(trained(options)[0], trained(with_(options, checkpointing=True))[0], 1e-6)


def test_concordance_sees_a_whole_step_whatever_the_cut(trained, corpus):
    tasks = {"affect": {"weight": 1.0, "dimensions": ["arousal", "valence"]}}
    cuts = [WHOLE, BatchOptions(micro_batch=1), BatchOptions(micro_batch=3)]
    runs = [trained(FinetuneOptions(lr=3e-3, batches=cut), tasks=tasks, dev=True) for cut in cuts]
    for model, data, history in runs:
        assert_close(runs[0][0], model)
        assert history[-1]["dev_loss_affect"] == pytest.approx(runs[0][2][-1]["dev_loss_affect"], rel=1e-4)
        columns, losses = columns_of(model, data, FinetuneOptions(batches=BatchOptions(micro_batch=2)))
        concordances = []
        for name in ("arousal", "valence"):
            truth, found = np.array(columns[f"{name}_truth"]), np.array(columns[f"{name}_prediction"])
            apart = (truth.mean() - found.mean()) ** 2
            concordances.append(2 * np.cov(truth, found, bias=True)[0, 1] / (truth.var() + found.var() + apart))
        assert losses["affect"] == pytest.approx(1 - np.mean(concordances), rel=1e-4)


I3 = {"pooled_activation": "relu", "batch_norm": True, "pooling": "max"}


def test_batch_normalisation_sees_a_whole_step_whatever_the_cut(trained):
    cuts = [WHOLE, BatchOptions(micro_batch=1), BatchOptions(micro_seconds=1.2)]
    runs = [trained(FinetuneOptions(lr=3e-3, batches=cut), with_(SHORT, epochs=3), tasks={}, **I3) for cut in cuts]
    for model, data, _ in runs:
        assert_close(runs[0][0], model)
        norm = model.head.heads[0].decide[1]
        assert norm.mean.any() and not norm.seen
        options = FinetuneOptions(batches=BatchOptions(micro_batch=3))
        assert columns_of(model, data, options)[0]["p_sad"] == pytest.approx(
            columns_of(model, data, FinetuneOptions(batches=WHOLE))[0]["p_sad"], abs=1e-5
        )


def test_batch_normalisation_may_see_groups(trained, corpus, monkeypatch):
    """Groups of four, as where gradients are accumulated: the same in plain PyTorch."""
    found = []

    class Watching(torch.optim.AdamW):
        def step(self, closure=None):
            weights = [weight for group in self.param_groups for weight in group["params"]]
            found.append({id(weight): weight.grad.clone() for weight in weights})

    options = FinetuneOptions(freeze="encoder", batches=BatchOptions(together=4, micro_seconds=1))
    model = create_model(corpus[1], options=options, tasks={}, **I3)
    data = waveform_set(model, corpus[1], corpus[0] / "cache")
    data = replace(data, weights=torch.tensor([1.0, 2, 3, 4, 1, 1, 1, 1]))
    plain = copy.deepcopy(model)
    monkeypatch.setattr(finetune_module.torch.optim, "AdamW", Watching)
    training = with_(SHORT, epochs=1, balance="count", head_l2=0.02)
    (line,) = finetune(model, data, None, training, options, 0)
    (step,) = finetune_module.plan_epoch(data.seconds, 8, options.batches, np.random.default_rng([0, 0]), True)
    assert [len(piece) for piece in step] == [4, 4]
    plain.tasks.train()
    plain.encoder.eval()
    loss = 0.02 * sum(weight.square().sum() for weight in plain.head.heads[0].decide.parameters())
    for rows in step:
        scores = plain.head.each(plain.view(data.batch(rows)).batch)[0]
        each = F.cross_entropy(scores, torch.tensor([0, 1] * 4)[rows], reduction="none")
        loss = loss + (each * data.weights[rows]).sum() / data.weights.sum()
    loss.backward()
    for (name, one), two in zip(model.tasks.named_parameters(), plain.tasks.parameters(), strict=True):
        torch.testing.assert_close(found[0][id(one)], two.grad, atol=1e-5, rtol=1e-4, msg=lambda s, n=name: f"{n}: {s}")
    assert line["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_what_weighs_by_count_and_is_shrunk_does_not_depend_on_the_cut(trained):
    training = with_(SHORT, epochs=3, balance="count", head_l2=0.05)
    change = {"weights": torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])}
    cuts = [WHOLE, BatchOptions(micro_batch=1), BatchOptions(micro_batch=3)]
    runs = [trained(FinetuneOptions(lr=3e-3, batches=cut), training, change=change) for cut in cuts]
    for model, _, history in runs[1:]:
        assert_close(runs[0][0], model)
        assert history[-1]["loss"] == pytest.approx(runs[0][2][-1]["loss"], rel=1e-4)
    free = trained(FinetuneOptions(lr=3e-3, batches=WHOLE), with_(training, head_l2=0), change=change)
    assert history[0]["loss"] > free[2][0]["loss"]
    scaled = {"weights": change["weights"] * 9}
    again = trained(FinetuneOptions(lr=3e-3, batches=WHOLE), training, change=scaled)
    assert_close(runs[0][0], again[0])


def test_a_head_that_is_not_learned_is_not_shrunk(trained, corpus):
    tasks = {"emotion": {"weight": 0}, "speaker": {"weight": 1}}
    model, _, _ = trained(tasks=tasks, training=with_(SHORT, head_l2=1.0, weight_decay=0))
    begun = create_model(corpus[1], tasks=tasks)
    assert torch.equal(model.head.heads[0].decide[-1].weight, begun.head.heads[0].decide[-1].weight)


@pytest.mark.parametrize("pooling", ["sum", "max", "attentive-statistics", "ecapa"])
def test_every_pooling_is_fine_tuned_and_answers_alone_as_in_a_batch(pooling, trained):
    head = {"pooling": pooling, "channels": 16, "pooled_activation": "relu", "batch_norm": True, "members": 1}
    model, data, history = trained(training=with_(SHORT, epochs=4), tasks={}, **head)
    assert history[-1]["loss"] < history[0]["loss"]
    together, alone = (
        columns_of(model, data, FinetuneOptions(batches=cut))[0]["p_sad"]
        for cut in (WHOLE, BatchOptions(micro_batch=1))
    )
    assert together == pytest.approx(alone, abs=1e-5) and len(set(together)) > 1


def test_predictions_are_in_order_and_do_not_depend_on_neighbours(trained):
    model, data, _ = trained(with_(FinetuneOptions(), lr=3e-3))
    cuts = [WHOLE, BatchOptions(micro_batch=1), BatchOptions(micro_batch=3)]
    tables = [columns_of(model, data, FinetuneOptions(batches=cut))[0] for cut in cuts]
    for table in tables[1:]:
        assert list(table) == list(tables[0])
        assert table["text_prediction"] == tables[0]["text_prediction"]
        assert table["p_sad"] == pytest.approx(tables[0]["p_sad"], abs=1e-5)
    alone = replace(
        data, ids=data.ids[5:6], rows=(5,), targets={key: value[5:6] for key, value in data.targets.items()}
    )
    assert columns_of(model, alone, FinetuneOptions())[0]["p_sad"][0] == pytest.approx(tables[0]["p_sad"][5], abs=1e-5)
    assert tables[0]["text_truth"] == ["ab", "ba ca", "cc a", "b", "acb", "cab ab", "bb c", "a"]


def test_the_dev_part_is_judged_by_hand(trained, monkeypatch):
    model, data, _ = trained(training=with_(SHORT, epochs=1))
    columns, losses = columns_of(model, data, FinetuneOptions())
    columns["prediction"] = ["sad", "sad", "sad", "happy", "happy", "happy", "happy", "happy"]
    monkeypatch.setattr(finetune_module, "predict", lambda *_: (columns, {"emotion": 1.0, "ctc": 20.0, "speaker": 4.0}))
    line = evaluate_dev(model, data, FinetuneOptions(), create_accelerator("cpu"))
    assert line["dev_uar"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    weights = {name: task["weight"] for name, task in ALL_TASKS.items()}
    assert line["dev_loss"] == pytest.approx(1 + 20 * weights["ctc"] + 4 * weights["speaker"])
    with torch.no_grad():
        view = model.eval().view(data.batch(range(8)))
        sums = task_losses(model.each(), view, data, range(8), data.weights)
    assert [float(value) / 8 for value in sums] == pytest.approx(list(losses.values()), rel=1e-5)


# Seeds

RANDOM = FinetuneOptions(
    lr=1e-3,
    dropout=0.2,
    batches=BatchOptions(micro_batch=2, bucket=2),
    regularise=Regularisation(dropout=0.2, layer_drop=0.3, mask_time=0.3, mask_time_length=3, mask_features=0.1),
)


@pytest.mark.parametrize("encoder", ["wav2vec2", "whisper"])
def test_a_seed_decides_to_the_bit(encoder, trained):
    change = {"augmentation": Augmentation([{"name": "noise"}]), "crop": 0.7}
    training = with_(SHORT, batch_size=4, label_smoothing=0.1)
    runs = []
    for seed in (3, 3, 4):
        torch.rand(len(runs) * 10)  # what ran before does not matter: the model is made from a seed of its own
        runs.append(trained(RANDOM, training, encoder, seed, change=change, dropout=0.3))
    assert same(runs[0][0], runs[1][0]) and not same(runs[0][0], runs[2][0])
    assert runs[0][2][0]["loss"] == runs[1][2][0]["loss"] != runs[2][2][0]["loss"]


@pytest.mark.parametrize("switch", ["dropout", "regularise", "augmentation", "crop"])
def test_everything_random_does_something(switch, trained):
    plain, training = FinetuneOptions(lr=1e-3, batches=WHOLE), with_(SHORT, epochs=1)
    options, change = plain, {}
    if switch in ("dropout", "regularise"):
        options = with_(plain, **{switch: getattr(RANDOM, switch)})
    else:
        change = {"augmentation": Augmentation([{"name": "noise"}])} if switch == "augmentation" else {"crop": 0.5}
    assert trained(options, training, change=change)[2][0]["loss"] != trained(plain, training)[2][0]["loss"]


# What learns


def moved(options, trained, corpus, encoder, **changes):
    before = create_model(corpus[1], encoder, options).state_dict()
    model, _, _ = trained(options, with_(SHORT, epochs=3, epsilon=1e-8), encoder, **changes)
    return model, {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("encoder", ["wav2vec2", "whisper"])
@pytest.mark.parametrize(("freeze", "depth"), [("none", 0), ("front-end", 1), (0, 2), (1, 3), (2, 4), ("encoder", 4)])
def test_what_is_frozen_stays_and_all_else_moves(freeze, depth, encoder, trained, corpus):
    options = FinetuneOptions(lr=1e-3, batches=WHOLE, freeze=freeze)
    model, names = moved(options, trained, corpus, encoder)
    learned = {f"encoder.{name}" for name, _ in model.encoder.named_parameters() if model.encoder.depth(name) >= depth}
    heads = {name for name, _ in model.named_parameters() if not name.startswith("encoder.")}
    # The softmax of attention does not depend on the bias of keys: its gradient is nothing but rounding.
    assert {name for name in names if "k_proj.bias" not in name} == {
        name for name in learned | heads if "k_proj.bias" not in name
    }
    assert names <= learned | heads
    assert {name for name in trained_state(model) if name.startswith("encoder.")} == learned


def test_depths_that_do_not_exist_are_named(corpus):
    for freeze in (3, -1):
        with pytest.raises(InputError, match=r"finetune.freeze: wav2vec2 has 2 blocks, so freeze 0 to that many"):
            create_model(corpus[1], options=FinetuneOptions(freeze=freeze))


def test_a_frozen_encoder_sees_no_dropout(trained, corpus):
    options = FinetuneOptions(freeze="encoder", batches=WHOLE, regularise=Regularisation(dropout=0.5))
    plain = with_(options, regularise={})
    assert trained(options)[2][0]["loss"] == pytest.approx(trained(plain)[2][0]["loss"], rel=1e-6)


def test_rates_fall_by_depth(corpus):
    options = FinetuneOptions(lr=1e-3, layer_decay=0.5)
    model = create_model(corpus[1], options=options)
    groups = parameter_groups(model, options, 0.1, 0.3)
    rates = {id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        rate, decay = rates[id(weight)]
        assert decay == (0.3 if weight.ndim > 1 else 0)
        part = name.removeprefix("encoder.")
        assert rate == pytest.approx(0.1 if part == name else 1e-3 * 0.5 ** (3 - model.encoder.depth(part)))
    found = {name: rates[id(weight)][0] for name, weight in model.named_parameters()}
    assert found["encoder.encoder.layers.1.feed_forward.output_dense.weight"] == 1e-3
    assert found["encoder.encoder.layers.0.feed_forward.output_dense.weight"] == 5e-4
    assert found["encoder.feature_extractor.conv_layers.0.conv.weight"] == 1.25e-4


def test_rates_follow_the_schedule_of_transformers(corpus, monkeypatch):
    schedule = pytest.importorskip("transformers").get_linear_schedule_with_warmup
    options = FinetuneOptions(lr=1e-3, layer_decay=0.5, batches=WHOLE, freeze=1)
    training = TrainingOptions(epochs=5, batch_size=2, lr=0.02, schedule="linear", warmup=0.1)
    seen = []

    class Watching(torch.optim.AdamW):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])

    monkeypatch.setattr(finetune_module.torch.optim, "AdamW", Watching)
    model = create_model(corpus[1], options=options, tasks={})
    finetune(model, waveform_set(model, corpus[1], corpus[0] / "cache"), None, training, options, 0)
    optimizer = torch.optim.SGD([{"params": [torch.ones(1)], "lr": rate} for rate in (1e-3, 0.02)])
    theirs, expected = schedule(optimizer, 2, 20), []
    for _ in range(20):
        expected.append(theirs.get_last_lr())
        optimizer.step()
        theirs.step()
    found = [[min(rates), max(rates)] for rates in seen]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_half_precision_learns_and_keeps_whole_weights(trained):
    options = FinetuneOptions(lr=3e-3, batches=WHOLE, precision="bf16")
    model, data, history = trained(options, with_(SHORT, epochs=30))
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    _, _, whole = trained(with_(options, precision="fp32"), with_(SHORT, epochs=1))
    assert history[0]["loss"] != whole[0]["loss"] and history[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.02)
    columns, losses = columns_of(model, data, options)
    assert np.isfinite(list(losses.values())).all() and np.isfinite(columns["p_sad"]).all()


# LoRA

LORA = FinetuneOptions(lr=1e-2, batches=WHOLE, lora=LoraOptions(rank=2, alpha=8))


@pytest.mark.parametrize("encoder", ["wav2vec2", "whisper"])
def test_lora_learns_little_and_merges_into_the_same_predictions(encoder, trained, corpus):
    pytest.importorskip("peft")
    model, names = moved(LORA, trained, corpus, encoder)
    learned = {name for name in names if name.startswith("encoder.")}
    assert len(learned) == 2 * 2 * 2 and all(".lora_" in name for name in learned)  # A and B of q and v of two blocks
    assert {name.split(".")[0] for name in names - learned} == {"tasks"}
    state = trained_state(model)
    assert set(state) == learned | {name for name in model.state_dict() if name.startswith(("tasks.", "standardise."))}
    size = sum(value.numel() for name, value in state.items() if name in learned)
    assert size < 0.05 * sum(weight.numel() for weight in model.encoder.parameters())

    data = waveform_set(model, corpus[1], corpus[0] / "cache")
    restored = create_model(corpus[1], encoder, LORA)
    for name, weight in restored.named_parameters():
        if name in state:
            torch.nn.init.normal_(weight)
    load_trained(restored, state)
    before = columns_of(model, data, LORA)[0]
    merge_lora(restored.encoder)
    after = columns_of(restored, data, LORA)[0]
    assert after["p_sad"] == pytest.approx(before["p_sad"], abs=1e-5)
    assert after["text_prediction"] == before["text_prediction"]
    plain = create_model(corpus[1], encoder)
    assert list(restored.state_dict()) == list(plain.state_dict())
    assert columns_of(plain, data, LORA)[0]["p_sad"] != pytest.approx(before["p_sad"], abs=1e-4)
    merge_lora(restored.encoder)  # nothing is left to merge
    assert columns_of(restored, data, LORA)[0] == after


def test_lora_keeps_to_the_blocks_that_are_not_frozen(trained, corpus):
    pytest.importorskip("peft")
    model = create_model(corpus[1], options=with_(LORA, freeze=1))
    names = [name for name, weight in model.encoder.named_parameters() if weight.requires_grad]
    assert names and all("layers.1." in name and ".lora_" in name for name in names)
    with pytest.raises(
        InputError, match=r"finetune.lora.targets: wav2vec2 has no such linear layers: choose of .*q_proj"
    ):
        create_model(corpus[1], options=with_(LORA, lora={"targets": ["query"]}))


def test_ratings_leave_the_graph_in_the_units_of_the_manifest(tmp_path):
    manifest = write_corpus(tmp_path)
    tasks = {"affect": {"weight": 1.0, "dimensions": ["arousal", "valence"], "range": [1, 7]}}
    model = create_model(manifest, tasks=tasks).eval()
    waveform = torch.from_numpy(read_audio(manifest.table["audio"][0]))[None]
    lengths = torch.tensor([waveform.shape[1]])
    (task,) = [each for each in model.each() if each.name == "affect"]
    with torch.no_grad():
        affect = graph_of(model)(waveform, lengths)[-1]
        view = model.view(Waveforms(waveform, lengths))
        said = task.columns(task(view), view, task.targets(manifest)[:1])
    assert affect[0].tolist() == pytest.approx([said["arousal_prediction"][0], said["valence_prediction"][0]], abs=1e-5)
    assert affect.min() > 1 and affect.max() < 7 and said["arousal_truth"] == pytest.approx([0.2])


def test_a_merged_encoder_exports(corpus, tmp_path):
    pytest.importorskip("peft")
    onnxruntime = pytest.importorskip("onnxruntime")
    from serkit.models.graph import Graph
    from serkit.models.onnx_files import export_graph

    model = create_model(corpus[1], options=LORA).eval()
    for name, weight in model.encoder.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.5)
    merge_lora(model.encoder)
    data = waveform_set(model, corpus[1], corpus[0] / "cache")
    wanted = columns_of(model, data, LORA)[0]["p_sad"]
    export_graph(Graph(model.encoder, model.emotion.head, model.layers, 1), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    audio = data.batch(range(8))
    inputs = {"waveforms": audio.waveforms.numpy(), "lengths": audio.lengths.numpy()}
    logits = torch.from_numpy(session.run(["logits"], inputs)[0])
    assert logits.softmax(1)[:, 0].tolist() == pytest.approx(wanted, abs=1e-4)


def test_weights_of_another_model_are_refused(trained, corpus):
    state = trained_state(create_model(corpus[1]))
    with pytest.raises(InputError, match=r"weights of another model: 'encoder\..*' is missing or unexpected"):
        load_trained(create_model(corpus[1], options=FinetuneOptions(freeze=1)), state)
    name = next(iter(state))
    with pytest.raises(InputError, match="weights of another model: .*size mismatch"):
        load_trained(create_model(corpus[1]), {**state, name: torch.zeros(3)})


# Interruptions


def run_killed(context, corpus, work, kill_at=0, way="", delay=None):
    process = context.Process(target=train_until_killed, args=(corpus[0], work, kill_at, way))
    process.start()
    if delay is not None:
        deadline, file = time.monotonic() + 60, work / "run" / "checkpoint.safetensors"
        while not file.exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
    process.join(120)
    return process.exitcode


def read_step(work):
    from safetensors import safe_open

    with safe_open(work / "run" / "checkpoint.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    return facts["epoch"], facts["step"]


def test_a_training_killed_again_and_again_ends_with_the_same_bits(corpus, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["speech"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_killed(context, corpus, whole) == 0
    rng, reached = np.random.default_rng(), []
    for way, kill_at in (("writing", 3), ("renaming", 5)):
        assert run_killed(context, corpus, killed, kill_at, way) == -9
        assert len(list((killed / "run").glob(".*.part.*"))) == 1  # what was being written
        reached.append(read_step(killed))
    assert reached == [(0, 2), (1, 1)]  # four steps an epoch: both in the middle, one checkpoint lost each time
    for _ in range(3):
        if run_killed(context, corpus, killed, delay=rng.uniform(0, 0.15)) == 0:
            break
        reached.append(read_step(killed))
    assert reached == sorted(reached)
    assert run_killed(context, corpus, killed) == 0
    one, two = (load_file(folder / "end.safetensors") for folder in (whole, killed))
    assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert (whole / "end.safetensors").read_bytes() == (killed / "end.safetensors").read_bytes()
    assert not list((killed / "run").glob(".*.part.*")), "what kills left behind is removed"


def test_an_interruption_at_any_step_changes_nothing(corpus, tmp_path, monkeypatch):
    from serkit.training import checkpoint

    monkeypatch.setattr(checkpoint, "SHARE", 0)
    options, training = RANDOM, with_(SHORT, epochs=2, batch_size=3, checkpoint_seconds=0, patience=1)

    def run(folder, stop=None):
        model = create_model(corpus[1], options=options)
        data, steps = waveform_set(model, corpus[1], corpus[0] / "cache"), itertools.count(1)
        data = replace(data, augmentation=Augmentation([{"name": "noise"}]), crop=0.8)

        class Stopping(torch.optim.AdamW):
            def step(self, closure=None):
                if next(steps) == stop:
                    raise KeyboardInterrupt
                super().step(closure)

        with monkeypatch.context() as patch:
            patch.setattr(finetune_module.torch.optim, "AdamW", Stopping)
            try:
                return model, finetune(model, data, data, training, options, 1, folder), next(steps) - 1
            except KeyboardInterrupt:
                return None

    whole, history, _ = run(None)
    for stop in range(1, 7):
        folder = tmp_path / str(stop)
        assert run(folder, stop) is None
        model, resumed, steps = run(folder)
        assert same(whole, model) and steps == 6 - (stop - 1)
        for one, two in zip(history, resumed, strict=True):
            assert {**one, "seconds": 0} == {**two, "seconds": 0}
