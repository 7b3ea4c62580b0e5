"""What an encoder is fine-tuned to do: every loss against numbers made by hand, and what comes of sign and padding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from serkit.data.labels import LabelScheme
from serkit.data.manifest import Manifest
from serkit.data.text import WAV2VEC2, CharTokenizer
from serkit.encoders.base import FrameFeatures
from serkit.encoders.wav2vec2 import create_tiny
from serkit.errors import InputError
from serkit.models.affect import AffectConfig, AffectTask, create_affect
from serkit.models.heads import Batch, HeadConfig, create_head
from serkit.models.layers import Standardise
from serkit.models.losses import concordance_loss
from serkit.models.model import Model, Waveforms
from serkit.models.tasks import (
    ClassConfig,
    ClassTask,
    CtcConfig,
    CtcTask,
    EmotionConfig,
    EmotionTask,
    GenderConfig,
    TasksConfig,
    View,
    create_tasks,
)

torch.set_num_threads(1)

SCHEME = LabelScheme("three", ("sad", "happy", "angry"), merge={"excited": "happy"}, drop=("other",))
ABC = CharTokenizer(("<pad>", "|", "A", "B"))


def view_of(frames, lengths) -> View:
    """A view of ``frames (B, T, D)`` with zeros past ``lengths``."""
    frames = torch.as_tensor(frames, dtype=torch.float32)
    lengths = torch.tensor(lengths)
    real = torch.arange(frames.shape[1])[None] < lengths[:, None]
    features = FrameFeatures((frames * real[:, :, None])[:, None], lengths, 50.0)
    return View.of(Batch.of_frames(features, (0,), 1), features, 0, Standardise(frames.shape[2]))


def random_view(count=3, size=7, dim=4, lengths=(7, 5, 2), seed=0) -> View:
    generator = torch.Generator().manual_seed(seed)
    return view_of(torch.randn(count, size, dim, generator=generator), lengths)


def emotion_task(smoothing=0.0, soft=False, dim=4, **head) -> EmotionTask:
    torch.manual_seed(0)
    config = HeadConfig(**{"frame_hidden": (), "pooling": "mean", "dropout": 0.0, **head})
    return EmotionTask(EmotionConfig(soft=soft), create_head(config, [(1, dim)], 3), SCHEME, smoothing)


def manifest_of(*rows) -> Manifest:
    return Manifest.from_rows(
        [{"id": f"u{i}", "audio": "a.wav", "emotion": "sad", **row} for i, row in enumerate(rows)]
    )


# Transcription


def ctc_by_hand(scores, target, blank=0) -> float:
    """Minus the log of the summed probability of every path of symbols that reads ``target``, in float64."""
    shares = torch.as_tensor(scores).double().softmax(-1)
    total = 0.0
    for path in itertools.product(range(shares.shape[1]), repeat=shares.shape[0]):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol != blank] == list(target):
            total += math.prod(float(shares[time, symbol]) for time, symbol in enumerate(path))
    return -math.log(total) if total else math.inf


def ctc_task(**options) -> CtcTask:
    torch.manual_seed(0)
    return CtcTask(CtcConfig(**options), 4, ABC)


TARGETS = [[2, 3], [2, 2], [3]]


def test_ctc_by_hand():
    task, view = ctc_task(), random_view(size=5, lengths=(5, 4, 2))
    scores = task(view)
    expected = [
        ctc_by_hand(row[:length], target)
        for row, length, target in zip(scores.detach(), (5, 4, 2), TARGETS, strict=True)
    ]
    losses = task.losses(scores, view, [torch.tensor(row) for row in TARGETS])
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert ctc_task(scale=2.5).losses(scores, view, [torch.tensor(row) for row in TARGETS]).tolist() == pytest.approx(
        [2.5 * value for value in expected], rel=1e-5
    )
    each = ctc_task(reduction="mean").losses(scores, view, [torch.tensor(row) for row in TARGETS])
    assert each.tolist() == pytest.approx([expected[0] / 2, expected[1] / 2, expected[2]], rel=1e-5)


@pytest.mark.parametrize("zero_infinity", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_ctc_adds_up_to_what_torch_says_of_a_batch(reduction, zero_infinity):
    task, view = ctc_task(reduction=reduction, zero_infinity=zero_infinity), random_view()
    targets = [torch.tensor(row) for row in ([2, 3, 2], [3], [2])]
    scores = task(view)
    losses = task.losses(scores, view, targets)
    theirs = F.ctc_loss(
        scores.log_softmax(-1).transpose(0, 1), torch.cat(targets), view.lengths, torch.tensor([3, 1, 1]),
        reduction=reduction, zero_infinity=zero_infinity,
    )  # fmt: skip
    ours = losses.sum() if reduction == "sum" else losses.mean()
    torch.testing.assert_close(ours, theirs)


def test_more_characters_than_frames_have_no_alignment():
    view, targets = random_view(), [torch.tensor([2]), torch.tensor([3, 3, 3]), torch.tensor([2, 2])]
    short = view_of(view.frames, (7, 5, 2))  # the third would need three frames: a blank between
    for zero, third in ((True, 0.0), (False, math.inf)):
        task = ctc_task(zero_infinity=zero)
        losses = task.losses(task(short), short, targets)
        assert losses[2].item() == third and losses[:2].isfinite().all() and (losses[:2] > 0).all()
        if zero:
            losses.sum().backward()
            assert all(weight.grad.isfinite().all() for weight in task.parameters())


def test_no_transcript_teaches_nothing_and_an_empty_one_teaches_silence():
    task, view = ctc_task(), random_view(lengths=(7, 7, 7))
    targets = task.targets(manifest_of({"text": "ab"}, {"text": None}, {"text": "..."}))
    assert [None if row is None else row.tolist() for row in targets] == [[2, 3], None, []]
    scores = task(view).detach().requires_grad_()
    losses = task.losses(scores, view, targets)
    losses.sum().backward()
    assert losses[1].item() == 0 and not scores.grad[1].any()
    silence = -scores.detach()[2].double().log_softmax(-1)[:, 0].sum()
    assert losses[2].item() == pytest.approx(float(silence), rel=1e-5) and scores.grad[2].any()
    again = ctc_task(reduction="mean").losses(scores, view, targets)
    assert again[2].item() == pytest.approx(float(silence), rel=1e-5)  # not divided by zero characters


def test_without_transcript_the_legacy_mode_learns_to_spell_null():
    task = CtcTask(CtcConfig(text="legacy", vocabulary="wav2vec2"), 4, WAV2VEC2)
    (target,) = task.targets(manifest_of({"text": None}))
    assert WAV2VEC2.decode(target.tolist(), merge=False) == "NULL"


def test_ctc_does_not_see_padding():
    task = ctc_task()
    frames = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    targets = [torch.tensor([2]), torch.tensor([2, 3])]
    together = task.losses(task(view_of(frames, (3, 6))), view_of(frames, (3, 6)), targets)
    alone = view_of(frames[:1, :3], (3,))
    torch.testing.assert_close(together[:1], task.losses(task(alone), alone, targets[:1]))


def test_texts_are_read_from_real_frames_only():
    task, view = ctc_task(), random_view(count=2, size=6, lengths=(6, 3))
    best = [[2, 2, 0, 2, 1, 3], [3, 0, 3, 2, 2, 2]]
    columns = task.columns(F.one_hot(torch.tensor(best), 4).float(), view, [torch.tensor([2, 2, 1, 3]), None])
    assert columns == {"text_truth": ["AA B", None], "text_prediction": ["AA B", "BB"]}


# Emotion


def test_emotion_by_hand():
    task, view = emotion_task(smoothing=0.2), random_view()
    scores = torch.tensor([[[2.0, 0, 1], [0, 0, 0], [-1, 3, 0]]])
    targets = task.targets(manifest_of({"emotion": "sad"}, {"emotion": "happy"}, {"emotion": "angry"}))
    losses = task.losses(scores, view, targets)
    expected = []
    for row, truth in zip(scores[0].double().numpy(), (0, 1, 2), strict=True):
        logs = row - np.log(np.exp(row).sum())
        expected.append(-(0.8 * logs[truth] + 0.2 * logs.mean()))
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)
    two = task.losses(torch.cat([scores, scores.flip(2)]), view, targets)  # members are averaged
    logs = scores[0].log_softmax(-1).flip(1)[range(3), range(3)]
    mirrored = -(0.8 * logs + 0.2 * scores[0].log_softmax(-1).mean(-1))
    torch.testing.assert_close(two, (losses + mirrored) / 2)


VOTES = [
    {"emotion": "happy", "votes": ["happy", "excited", "sad", "other"]},
    {"emotion": "angry", "votes": ["other", "other"]},
    {"emotion": "angry", "votes": None},
    {"emotion": "sad", "votes": ["angry", "angry", "sad", "angry"]},
]


def test_votes_are_merged_as_labels_are():
    soft = emotion_task(soft=True).targets(manifest_of(*VOTES))
    expected = torch.tensor([[1 / 3, 2 / 3, 0], [0, 0, 1], [0, 0, 1], [1 / 4, 0, 3 / 4]])
    torch.testing.assert_close(torch.stack(soft), expected)
    hard = emotion_task().targets(manifest_of(*VOTES))
    assert torch.stack(hard).argmax(1).tolist() == [1, 2, 2, 0] and torch.stack(hard).max(1).values.eq(1).all()


def test_soft_labels_by_hand():
    task, view = emotion_task(soft=True), random_view(count=1, lengths=(7,))
    scores = torch.tensor([[[1.0, -1.0, 0.5]]])
    logs = scores[0, 0].double().log_softmax(0)
    (loss,) = task.losses(scores, view, task.targets(manifest_of(VOTES[0])))
    assert float(loss) == pytest.approx(-float(logs[0] / 3 + 2 * logs[1] / 3), rel=1e-6)


def test_emotion_columns_average_the_members():
    task, view = emotion_task(), random_view(count=1, lengths=(7,))
    scores = torch.tensor([[[4.0, 0, 0]], [[0.0, 3, 0]]])
    columns = task.columns(scores, view, [])
    mean = scores.double().log_softmax(-1).mean(0).softmax(-1)[0]
    assert list(columns) == ["prediction", "p_sad", "p_happy", "p_angry"] and columns["prediction"] == ["sad"]
    assert [columns[f"p_{name}"][0] for name in SCHEME.classes] == pytest.approx(mean.tolist())


# Pooling


def test_the_mean_is_over_real_frames():
    view = view_of([[[1.0, 2], [3, 6], [90, 90]], [[5, 5], [90, 90], [90, 90]]], (2, 1))
    assert view.mean.tolist() == [[2, 4], [5, 5]]
    assert view.batch.streams[0].statistics[:, 0, 0].tolist() == [[2, 4], [5, 5]]


def test_seen_padding_counts_in_the_mean_as_in_the_first_implementation():
    torch.manual_seed(0)
    encoder = create_tiny()
    emotion = EmotionTask(EmotionConfig(), create_head(HeadConfig(kind="pooled"), [(1, 32)], 3), SCHEME)
    model = Model(encoder, [emotion, ClassTask("speaker", ClassConfig(), 32, "ab")], (2,)).train()
    audio = Waveforms.pad([torch.randn(8000), torch.randn(4000)])
    masked = model.view(audio)
    encoder.sees_padding = True
    seen, tail = model.view(audio), audio.waveforms.clone()
    assert masked.lengths.tolist() == [24, 12] and seen.lengths.tolist() == [24, 24]
    whole = encoder.encode(tail, torch.tensor([8000, 8000])).layers[:, 2]  # zeros as if they had been recorded
    torch.testing.assert_close(seen.mean, whole.mean(1))
    torch.testing.assert_close(seen.batch.streams[0].statistics[:, 0, 0], whole.mean(1))
    assert seen.frames[1, 12:].abs().sum() > 0 and (seen.mean[1] - masked.mean[1]).abs().max() > 1e-3
    model.eval()
    torch.testing.assert_close(model.view(audio).mean, masked.mean, rtol=1e-4, atol=1e-5)  # in training only


def test_the_tasks_beside_emotion_see_the_last_of_the_layers_and_all_frames():
    layers = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    features = FrameFeatures(layers, torch.tensor([6, 6]), 50.0)
    view = View.of(Batch.of_frames(features, (1, 2), 2), features, 2, Standardise(layers.shape[3]))
    assert torch.equal(view.frames, layers[:, 2]) and view.batch.streams[0].statistics.shape == (2, 2, 2, 4)


# Speakers and other classes


def speaker_task(adversarial=False, classes=("a", "b", "c"), **options) -> ClassTask:
    torch.manual_seed(0)
    return ClassTask("speaker", ClassConfig(adversarial=adversarial), 4, classes, **options)


def test_speakers_by_hand_and_unknown_ones_teach_nothing():
    task, view = speaker_task(), random_view()
    targets = task.targets(manifest_of({"speaker": "c"}, {"speaker": "z"}, {"speaker": None}))
    assert targets == [2, -1, -1]
    scores = torch.tensor([[1.0, 2, 0], [5, 0, 0], [0, 0, 9]], requires_grad=True)
    losses = task.losses(scores, view, targets)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([math.log(1 + math.e + math.e**2), 0, 0])
    assert scores.grad[0].any() and not scores.grad[1:].any()


def test_columns_of_speakers():
    task, view = speaker_task(), random_view(count=2, lengths=(7, 7))
    columns = task.columns(torch.tensor([[0.0, 2, 1], [3, 0, 0]]), view, [0, -1])
    assert columns["speaker_truth"] == ["a", None] and columns["speaker_prediction"] == ["b", "a"]
    shares = torch.tensor([[0.0, 2, 1], [3, 0, 0]]).double().softmax(1)
    assert [columns[f"speaker_p_{name}"][0] for name in "abc"] == pytest.approx(shares[0].tolist())
    assert [columns[f"speaker_p_{name}"][1] for name in "abc"] == pytest.approx(shares[1].tolist())


def test_an_adversarial_head_learns_and_the_encoder_unlearns():
    view, targets = random_view(), [0, 1, 2]
    gradients = []
    for adversarial in (False, True):
        task, frames = speaker_task(adversarial), view.frames.clone().requires_grad_()
        seen = View(view.batch, frames, view.lengths)
        scores = task(seen)
        task.losses(scores, seen, targets).sum().backward()
        gradients.append((scores.detach(), task.linear.weight.grad, frames.grad))
    (scores, head, encoder), (same, same_head, reversed_encoder) = gradients
    torch.testing.assert_close(scores, same)
    torch.testing.assert_close(head, same_head)
    torch.testing.assert_close(encoder, -reversed_encoder)
    assert head.abs().sum() > 0 and encoder.abs().sum() > 0


def test_speakers_of_different_corpora_differ_in_every_part():
    rows = [{"speaker": speaker, "corpus": corpus} for corpus in ("x", "y") for speaker in ("01", "02")]
    train = manifest_of(*rows)
    config = TasksConfig(speaker=ClassConfig(), gender=None)
    _, task = create_tasks(config, emotion_task(), 4, train)
    assert task.classes == ("x/01", "x/02", "y/01", "y/02") and task.targets(train) == [0, 1, 2, 3]
    assert task.targets(train.select(["u3", "u2"])) == [3, 2]  # a part of one corpus
    unknown = manifest_of({"speaker": None, "corpus": "y"}, {"speaker": "01", "corpus": "y"})
    assert task.targets(unknown) == [-1, 2]


# Affect


def ccc_by_hand(given, wanted) -> float:
    given, wanted = np.asarray(given, float), np.asarray(wanted, float)
    shared = ((given - given.mean()) * (wanted - wanted.mean())).mean()
    return 2 * shared / (given.var() + wanted.var() + (given.mean() - wanted.mean()) ** 2)


def test_concordance_against_float64():
    generator = torch.Generator().manual_seed(0)
    given, wanted = torch.rand(9, 3, generator=generator), torch.rand(9, 3, generator=generator)
    expected = np.mean([1 - ccc_by_hand(given[:, i], wanted[:, i]) for i in range(3)])
    assert float(concordance_loss(given, wanted)) == pytest.approx(expected, rel=1e-5)
    assert float(concordance_loss(wanted, wanted)) == pytest.approx(0, abs=1e-6)
    assert float(concordance_loss(1 - wanted, wanted)) > 1  # against it is worse than nothing


def test_unknown_affect_does_not_count():
    given = torch.tensor([[0.1, 0.5], [0.9, 0.2], [0.4, 0.7], [0.3, 0.3]], requires_grad=True)
    wanted = torch.tensor([[0.2, math.nan], [0.8, math.nan], [math.nan, 0.6], [0.3, math.nan]])
    loss = concordance_loss(given, wanted)
    loss.backward()
    kept = [0, 1, 3]
    expected = 1 - ccc_by_hand(given.detach()[kept, 0], wanted[kept, 0])
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)  # one known value of the second: nothing to learn
    assert given.grad.isfinite().all() and not given.grad[2, 0] and not given.grad[:, 1].any()


@pytest.mark.parametrize(
    ("given", "wanted", "loss"),
    [
        ([0.3] * 4, [0.1, 0.9, 0.5, 0.5], 1.0),
        ([0.1, 0.9, 0.5, 0.5], [0.3] * 4, 1.0),
        ([0.4] * 4, [0.9] * 4, 0.25),
        ([0.4] * 4, [0.4] * 4, 0.0),
    ],
)
def test_constant_sides_have_a_finite_gradient(given, wanted, loss):
    given = torch.tensor(given)[:, None].requires_grad_()
    found = concordance_loss(given, torch.tensor(wanted)[:, None])
    found.backward()
    assert float(found.detach()) == pytest.approx(loss, abs=1e-4) and given.grad.isfinite().all()


def test_affect_is_a_loss_of_the_step_and_its_columns_know_no_nan():
    torch.manual_seed(0)
    task, view = AffectTask(AffectConfig(dimensions=("valence", "arousal")), 4), random_view()
    targets = task.targets(manifest_of({"valence": 0.5, "arousal": 0.25}, {"valence": 1.0}, {}))
    assert targets[0].tolist() == [0.5, 0.25] and targets[1].isnan().tolist() == [False, True]
    output = task(view)
    losses = task.losses(output, view, targets)
    expected = (1 - ccc_by_hand(output.detach()[:2, 0], [0.5, 1.0])) / 2
    assert losses.tolist() == pytest.approx([expected] * 3, rel=1e-4)
    columns = task.columns(output, view, targets)
    assert columns["valence_truth"] == [0.5, 1.0, None] and columns["arousal_truth"] == [0.25, None, None]
    assert columns["arousal_prediction"] == pytest.approx(output[:, 1].tolist()) and output.min() > 0 > output.max() - 1


def test_the_square_error_is_one_of_utterances_and_of_what_is_known():
    task, view = (
        AffectTask(AffectConfig(dimensions=("valence", "arousal"), loss="mse", bounded=False), 4),
        random_view(),
    )
    targets = task.targets(manifest_of({"valence": 0.5, "arousal": 0.25}, {"valence": 1.0}, {}))
    output = task(view)
    found = output.detach().numpy()
    wanted = [((found[0] - [0.5, 0.25]) ** 2).mean(), (found[1, 0] - 1) ** 2, 0.0]
    assert task.losses(output, view, targets).tolist() == pytest.approx(wanted, rel=1e-5) and not task.whole_steps
    task.losses(output, view, targets).sum().backward()
    assert task.linear.weight.grad.isfinite().all() and task.linear.weight.grad.any()


def test_concordance_by_sample_variances_is_that_of_cov():
    torch.manual_seed(1)
    given, wanted = torch.randn(6, 2), torch.rand(6, 2)
    wanted[4:, 1] = torch.nan
    each = []
    for column, known in ((0, 6), (1, 4)):
        x, y = given[:known, column], wanted[:known, column]
        apart = (x.mean() - y.mean()) ** 2
        each.append(1 - 2 * torch.cov(torch.stack([x, y]))[0, 1] / (x.var() + y.var() + apart))
    found = concordance_loss(given, wanted, sample=True)
    assert float(found) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)
    assert float(found) != pytest.approx(float(concordance_loss(given, wanted)), rel=1e-3)


def test_ratings_of_any_column_are_learned_in_their_range_and_told_in_their_unit():
    train = manifest_of({"emo_act": 2.0, "emo_val": "7"}, {"emo_act": 6.0, "emo_val": "1"}, {"emo_val": "4"})
    for bounds, wanted in (
        (None, [[0, 1], [1, 0], [math.nan, 0.5]]),
        ((1, 7), [[1 / 6, 1], [5 / 6, 0], [math.nan, 0.5]]),
    ):
        task = create_affect(AffectConfig(dimensions=("emo_act", "emo_val"), range=bounds), 4, train)
        targets = task.targets(train)
        assert np.allclose(torch.stack(targets), wanted, equal_nan=True)
        columns = task.columns(torch.stack(targets).nan_to_num(0.25), None, targets)
        assert columns["emo_act_truth"] == pytest.approx([2, 6, None]) and columns["emo_val_truth"] == [7, 1, 4]
        assert columns["emo_val_prediction"] == pytest.approx([7, 1, 4])
    free = create_affect(AffectConfig(dimensions=("emo_act",), bounded=False), 4, train)
    with torch.no_grad():
        free.linear.bias += 9
    assert float(free(random_view()).max()) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": ("emo_dom",)}, "the manifest has no column 'emo_dom'"),
        ({"dimensions": ("same",)}, "all utterances of the training part have the same same"),
        ({"dimensions": ("none",)}, "no utterance of the training part has none"),
        ({"dimensions": ("word",)}, "word must be columns of numbers"),
    ],
)
def test_columns_that_hold_no_ratings_are_named(options, message):
    train = manifest_of({"same": 1.0, "none": None, "word": "a"}, {"same": 1.0, "none": None, "word": "b"})
    with pytest.raises(InputError, match=message):
        create_affect(AffectConfig(**options), 4, train)


@pytest.mark.parametrize(
    "options", [{"dimensions": ()}, {"dimensions": ("speaker",)}, {"dimensions": ("a", "a")}, {"range": (7, 1)}]
)
def test_options_of_affect_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="dimensions names different columns|lowest and the highest"):
        AffectConfig(**options)


# Which tasks there are

TRAIN = manifest_of(
    {"speaker": "b", "gender": "male", "text": "be a", "arousal": 0.5, "valence": 0.5, "dominance": 0.1},
    {"speaker": "a", "gender": "female", "text": "a", "arousal": 0.1, "valence": 0.5},
)


def test_tasks_without_weight_are_neither_built_nor_computed(monkeypatch):
    config = TasksConfig(
        ctc=CtcConfig(weight=0), speaker=ClassConfig(weight=0.3), gender=None, affect=AffectConfig(weight=0)
    )
    assert config.beside_emotion() == ["speaker"]
    calls, forward = [], nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: calls.append(self.out_features) or forward(self, x))
    tasks = create_tasks(config, emotion_task(), 4, TRAIN)
    assert [(task.name, task.weight) for task in tasks] == [("emotion", 1.0), ("speaker", 0.3)]
    assert tasks[1].classes == ("a", "b")
    for task in tasks:
        task(random_view())
    assert calls == [3, 2]


def test_all_tasks_are_built_from_the_training_part():
    config = TasksConfig(ctc=CtcConfig(), speaker=ClassConfig(), gender=GenderConfig(), affect=AffectConfig())
    tasks = {task.name: task for task in create_tasks(config, emotion_task(), 4, TRAIN, "normal")}
    assert list(tasks) == ["emotion", "ctc", "speaker", "gender", "affect"]
    assert tasks["gender"].classes == ("female", "male") and set("abe|") <= set(tasks["ctc"].tokenizer.symbols)
    assert not set("czE") & set(tasks["ctc"].tokenizer.symbols)
    for name in ("ctc", "speaker", "gender", "affect"):
        assert not tasks[name].linear.bias.any() and tasks[name].linear.weight.std() < 0.05
    english = CtcConfig(vocabulary="wav2vec2")
    _, ctc = create_tasks(TasksConfig(ctc=english), emotion_task(), 4, TRAIN)
    assert ctc.tokenizer == WAV2VEC2 and ctc.linear.out_features == 32


@pytest.mark.parametrize(
    ("config", "row", "message"),
    [
        ({"ctc": {}}, {"text": None}, "tasks.ctc: the training part has no text"),
        ({"speaker": {}}, {"speaker": "a"}, "tasks.speaker: the training part has 1 values of speaker, it takes two"),
        ({"speaker": {"column": "town"}}, {}, "tasks: the manifest has no column 'town'"),
        ({"affect": {"dimensions": ["dominance"]}}, {}, "no utterance of the training part has dominance"),
    ],
)
def test_what_the_training_part_lacks_is_named(config, row, message):
    with pytest.raises(InputError, match=message):
        create_tasks(TasksConfig.model_validate(config), emotion_task(), 4, manifest_of(row, row))
