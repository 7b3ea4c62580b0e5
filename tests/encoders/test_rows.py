"""The front end that trains on a CPU: the numbers and gradients of the convolutions, alone as in a batch."""

from __future__ import annotations

import pytest
import torch

from serkit.encoders import blocks
from serkit.encoders.blocks import FrontEnd
from serkit.encoders.emotion2vec import Emotion2vecConfig
from serkit.encoders.rows import suits


@pytest.fixture
def front():
    torch.manual_seed(0)
    made = FrontEnd(Emotion2vecConfig(conv_dim=(16,) * 7))
    for weight in made.parameters():
        if weight.ndim == 1:  # neither the gain 1 nor the bias 0 of a new normalisation
            weight.data += 0.1 * torch.randn_like(weight)
    return made


def both(front, waveforms, monkeypatch, half=False):
    """Return output and gradients of convolutions and of rows, for the same output gradient."""
    found = []
    for rows in (False, True):
        with monkeypatch.context() as patch:
            if not rows:
                patch.setattr(blocks, "suits", lambda *_: False)
            front.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                output = front(waveforms, None)
            torch.manual_seed(1)
            output.float().mul(torch.randn(output.shape)).sum().backward()
            found.append((output.detach().float(), [weight.grad.clone() for weight in front.parameters()]))
    return found


@pytest.mark.parametrize("samples", [400, 719, 720, 4001, 16_000])
def test_rows_are_the_convolutions(samples, front, monkeypatch):
    assert suits(front.conv_layers, front.strides, torch.zeros(1, samples))
    (wanted, slopes), (found, ours) = both(front, torch.randn(3, samples), monkeypatch)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours, slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_rows_are_close_in_half_precision(front, monkeypatch):
    (exact, _), _ = both(front, waveforms := torch.randn(2, 8000), monkeypatch)
    (_, slopes), (found, ours) = both(front, waveforms, monkeypatch, half=True)
    assert 0 < float((found - exact).abs().mean()) < 0.02
    for one, other in zip(ours, slopes, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.99


def test_neighbours_across_a_border_do_not_act(front):
    waveforms = torch.randn(2, 5000)
    alone, together = front(waveforms[:1], None), front(waveforms, None)
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_other_front_ends_and_inference_keep_to_convolutions(front):
    zeros = torch.zeros(1, 400)
    group = FrontEnd(blocks.Wav2Vec2Config(conv_dim=(16,) * 7))
    assert not suits(group.conv_layers, group.strides, zeros)
    biased = FrontEnd(Emotion2vecConfig(conv_dim=(16,) * 7, conv_bias=True))
    assert not suits(biased.conv_layers, biased.strides, zeros)
    with torch.no_grad():
        assert not suits(front.conv_layers, front.strides, zeros)
    assert not suits(front.requires_grad_(False).conv_layers, front.strides, zeros)
