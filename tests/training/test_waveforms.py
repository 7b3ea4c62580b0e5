"""Fine-tuning: an encoder and a head learn together from recordings."""

import numpy as np
import pytest
import soundfile
import torch

from serkit.encoders.whisper import create_tiny
from serkit.errors import InputError
from serkit.models.heads import HeadConfig, create_head
from serkit.models.model import Model, Waveforms
from serkit.training.augment import Augmentation
from serkit.training.fit import TrainingOptions, fit, predict
from serkit.training.waveforms import WaveformSet


@pytest.fixture
def recordings(tmp_path) -> WaveformSet:
    """Eight recordings of different lengths; two classes that differ in pitch."""
    spans = []
    for number in range(8):
        time = np.arange(int((0.4 + 0.1 * number) * 16_000)) / 16_000
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 if number % 2 else 1500) * time), 16_000)
        spans.append((str(path), None, None))
    targets = torch.tensor([number % 2 for number in range(8)])
    return WaveformSet(tuple(map(str, range(8))), tuple(spans), targets, torch.ones(8))


def create_model() -> Model:
    torch.manual_seed(0)
    config = HeadConfig(kind="frames", frame_hidden=(16,), dropout=0.0, statistics=True)
    return Model(create_tiny(), create_head(config, [(2, 32)], 2), (1, 2), stride=2)


def test_encoder_and_head_learn_eight_recordings(recordings):
    model = create_model()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    options = TrainingOptions(epochs=20, batch_size=4, lr=1e-2, encoder_lr=1e-3, label_smoothing=0)
    history = fit(model, recordings, recordings, options, seed=0)
    assert (predict(model, recordings).argmax(1) == recordings.targets).all()
    assert history[-1]["loss"] < history[0]["loss"] / 2
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert "encoder.conv1.weight" in moved
    assert "encoder.layers.0.fc1.weight" in moved


def test_a_frozen_encoder_stays_as_it_is(recordings):
    model = create_model()
    for weight in model.encoder.parameters():
        weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    fit(model, recordings, None, TrainingOptions(epochs=2, batch_size=4), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


def test_a_recording_scores_alike_alone_and_beside_longer_ones(recordings):
    model = create_model().eval()
    together = model(recordings.batch(range(8)))
    for row in range(8):
        torch.testing.assert_close(model(recordings.batch([row]))[0], together[row], rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_weights(recordings):
    options = TrainingOptions(epochs=2, batch_size=4, crop=0.5)
    changing = WaveformSet(
        recordings.ids, recordings.spans, recordings.targets, recordings.weights, Augmentation([{"name": "noise"}])
    )
    first, second = create_model(), create_model()
    fit(first, changing, None, options, seed=3)
    fit(second, changing, None, options, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_crops_keep_a_quarter_second_and_the_order(recordings):
    rng = np.random.default_rng(0)
    batch = recordings.augmented_batch([7, 0], rng, 0.01)
    whole = recordings.batch([7, 0])
    assert (batch.lengths >= 4000).all()
    assert (batch.lengths <= whole.lengths).all()


def test_padding_is_zero_and_lengths_are_kept():
    batch = Waveforms.pad([torch.ones(3), torch.ones(5)])
    assert batch.lengths.tolist() == [3, 5]
    assert batch.waveforms[0].tolist() == [1, 1, 1, 0, 0]


def test_lbfgs_refuses_an_encoder(recordings):
    with pytest.raises(InputError, match="lbfgs"):
        fit(create_model(), recordings, None, TrainingOptions(optimizer="lbfgs"), seed=0)
