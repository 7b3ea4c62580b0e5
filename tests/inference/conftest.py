"""A tiny bundle for every test here: random weights, but written by the route that real ones take."""

from __future__ import annotations

import pytest
import torch

from serkit.bundling import write_bundle
from serkit.encoders.whisper import WhisperConfig, WhisperEncoder
from serkit.inference.bundle import Bundle
from serkit.inference.predictor import Predictor
from serkit.models.graph import Graph
from serkit.models.heads import Batch, HeadConfig, create_head

CLASSES = ("angry", "happy", "neutral", "sad")
CARD = {
    "name": "tiny",
    "classes": CLASSES,
    "temperature": 1.5,
    "min_seconds": 0.25,
    "window_seconds": 2.0,
    "frame_rate": 50.0,
    "training_data": "made up",
    "licence": "none",
    "details": {"made": "here"},
}


def make_graph(trim=35.0, level=-23.0, dim=256, seed=0, **head):
    """Random weights, standardised on noise and scaled so that different sounds get clearly different answers."""
    torch.manual_seed(seed)
    encoder = WhisperEncoder("whisper", WhisperConfig(mels=20, dim=dim, heads=4, blocks=2, ffn=dim)).eval()
    encoder.trim, encoder.level = trim, level
    config = HeadConfig(frame_hidden=(16,), statistics=True, members=2, **head)
    layers, stride = (1, 2), 4
    ensemble = create_head(config, [(len(layers), dim)], len(CLASSES)).eval()
    noise = torch.randn(4, 32_000) * torch.linspace(0.01, 0.3, 4)[:, None]
    with torch.no_grad():
        statistics = Batch.of_frames(encoder(noise, torch.full((4,), 32_000)), layers, stride).streams[0].statistics
        mean, sd = statistics.mean(0), statistics.std(0) + 0.1
        for member in ensemble.heads:
            member.streams[0].standardise.fit(mean[0].numpy(), sd[0].numpy())
            member.linear.streams[0].standardise.fit(mean.numpy(), sd.numpy())
            member.decide[-1].weight *= 4
    return Graph(encoder, ensemble.eval(), layers, stride).eval()


@pytest.fixture(scope="session")
def graph():
    """What the tiny bundle computes, in PyTorch."""
    return make_graph()


@pytest.fixture(scope="session")
def make_speech(make_tone):
    """``make_speech(seconds, seed)``: a tone that comes and goes, with silence at both ends; float32 ``(S,)``."""

    def make(seconds=1.0, seed=0):
        waveform = make_tone(seconds, frequency=150 + 170 * seed, level=0.2 + 0.03 * seed, noise=0.05, seed=seed)[:, 0]
        waveform[: len(waveform) // 10] *= 1e-4
        waveform[len(waveform) - len(waveform) // 8 :] *= 1e-4
        return waveform

    return make


@pytest.fixture(scope="session")
def bundle_folder(graph, make_speech, tmp_path_factory):
    """The folder of the tiny bundle; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(folder, graph, CARD, [make_speech(0.5), make_speech(1.3, seed=1)])
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_folder):
    """The tiny bundle, loaded."""
    return Bundle(bundle_folder)


@pytest.fixture(scope="session")
def predictor(bundle_folder):
    """A predictor with the tiny bundle: four classes, windows of two seconds."""
    return Predictor(bundle_folder)
