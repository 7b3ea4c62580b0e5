"""Windows: the frame grid of the whole recording, the same frames where context is bounded, and bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serkit.encoders import create_encoder, list_encoders
from serkit.encoders.base import Encoder, FrameFeatures
from serkit.encoders.windows import DEFAULT, Windows, encode_stream, plan_windows
from serkit.errors import InputError

torch.set_num_threads(1)
ENTRIES = {entry.name: entry for entry in list_encoders()}


class Boxes(Encoder):
    """Frame ``i`` is the sum of ``width`` samples from ``i * hop``; whole numbers, so that sums are exact."""

    name, num_layers, dim, sampling_rate = "boxes", 1, 1, 100

    def __init__(self, hop, width, max_samples=None):
        super().__init__()
        self.hop, self.width, self.min_samples, self.max_samples, self.seen = hop, width, width, max_samples, []

    def frame_lengths(self, lengths):
        return (lengths - self.width) // self.hop + 1

    def encode(self, waveforms, lengths):
        self.seen.append(int(lengths[0]))
        frames = waveforms.unfold(1, self.width, self.hop).sum(-1)
        return FrameFeatures(frames[:, None, :, None], self.frame_lengths(lengths), self.frame_rate)


def cut(wave, block):
    return (wave[start : start + block] for start in range(0, len(wave), block))


@torch.inference_mode()
def whole(encoder, wave):
    return encoder(torch.from_numpy(wave)[None], torch.tensor([len(wave)])).layers[0]


@given(data=st.data())
def test_windows_of_any_size_give_every_frame_once_and_in_its_place(data):
    hop = data.draw(st.integers(1, 9), "hop")
    encoder = Boxes(hop, data.draw(st.integers(1, 30), "width"))
    least = -(-encoder.width // hop) + 1
    seconds = data.draw(st.integers(least + 2 * encoder.width // hop + 2, 200), "frames per window") * hop / 100
    overlap = data.draw(st.floats(0, 0.999), "overlap") * (seconds - 2 * (encoder.width + 2 * hop) / 100)
    above = data.draw(st.none() | st.floats(0, 3 * seconds), "above")
    wave = np.arange(data.draw(st.integers(encoder.width, 3000), "samples"), dtype=np.float32) % 251
    windows = Windows(seconds, max(0.0, overlap), above)
    pieces = list(encode_stream(encoder, cut(wave, data.draw(st.integers(1, 700), "block")), windows))
    found = torch.cat(pieces, 1)
    assert all(piece.shape[1] > 0 for piece in pieces)
    assert found.shape[1] == int(encoder.frame_lengths(torch.tensor(len(wave))))
    assert torch.equal(found, whole(Boxes(hop, encoder.width), wave))
    plan = plan_windows(encoder, windows)
    if len(wave) > plan.above:
        assert max(encoder.seen) == plan.size * hop and min(encoder.seen) > (plan.size - 1) * hop
    else:
        assert encoder.seen == [len(wave)]


def test_a_rest_shorter_than_a_frame_gives_no_empty_piece():
    wave = np.arange(1265, dtype=np.float32) % 251
    pieces = list(encode_stream(Boxes(2, 4), cut(wave, 100), Windows(0.18, 0.0)))
    assert all(piece.shape[1] for piece in pieces)
    assert torch.equal(torch.cat(pieces, 1), whole(Boxes(2, 4), wave))


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"egemaps-functionals"}))
def test_every_encoder_keeps_its_grid_and_its_first_window(name):
    torch.manual_seed(0)
    encoder = ENTRIES[name].create_tiny()
    rng = np.random.default_rng(0)
    windows = Windows(0.5, 0.2)
    plan = plan_windows(encoder, windows)
    for samples in (8_001, 8_320, 21_234, 32_000):
        wave = rng.normal(0, 0.1, samples).astype(np.float32)
        pieces = list(encode_stream(encoder, cut(wave, 5_000), windows))
        assert sum(piece.shape[1] for piece in pieces) == int(encoder.frame_lengths(torch.tensor(samples)))
        assert len(pieces) == 1 + -(-(samples - plan.size * encoder.hop) // (plan.step * encoder.hop))
        first = whole(encoder, wave[: plan.size * encoder.hop])[:, : pieces[0].shape[1]]
        assert torch.equal(pieces[0], first)
        assert pieces[0].shape[1] == plan.step + plan.half


@pytest.mark.parametrize(
    ("name", "options"),
    [("spectrogram", {"form": "log"}), ("spectrogram", {"n_fft": 400, "hop": 160, "form": "mel"})],
)
def test_frames_of_bounded_context_are_those_of_the_uncut_recording(name, options):
    encoder = create_encoder(name, **options)
    wave = np.random.default_rng(1).normal(0, 0.1, 70_001).astype(np.float32)
    found = torch.cat(list(encode_stream(encoder, cut(wave, 9_999), Windows(1.0, 0.1))), 1)
    expected = whole(encoder, wave)
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-4


def test_a_recording_up_to_the_limit_is_encoded_whole_as_without_windows():
    encoder = ENTRIES["wav2vec2"].create_tiny()
    wave = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    for windows in (None, DEFAULT, Windows(1.0, 0.2), Windows(0.3, 0.1, above=1.0)):
        (found,) = encode_stream(encoder, cut(wave, 3_000), windows)
        assert torch.equal(found, whole(encoder, wave))
    assert len(list(encode_stream(encoder, cut(np.append(wave, wave[:1]), 3_000), Windows(1.0, 0.2)))) == 2


def test_one_frame_per_utterance_is_never_cut():
    encoder = ENTRIES["egemaps-functionals"].create_tiny()
    assert plan_windows(encoder, Windows(0.5, 0.1)) is None
    wave = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    (found,) = encode_stream(encoder, cut(wave, 3_000), Windows(0.5, 0.1))
    assert torch.equal(found, whole(encoder, wave))


def test_no_more_is_read_than_two_windows_and_a_block():
    encoder, read = Boxes(4, 10), []

    def blocks():
        for number in range(1_000):
            read.append(100)
            yield np.full(100, number, np.float32)

    done = 0
    for number, piece in enumerate(encode_stream(encoder, blocks(), Windows(2.0, 0.4))):
        done += piece.shape[1]
        assert sum(read) <= 4 * done + 2 * 200 + 100, number
    assert done == int(encoder.frame_lengths(torch.tensor(100_000)))


def test_limit_trim_and_the_longest_input_of_an_encoder():
    wave = np.arange(1_000, dtype=np.float32)
    limited = Boxes(4, 10)
    limited.limit = 5.0
    found = torch.cat(list(encode_stream(limited, cut(wave, 64), Windows(1.0, 0.2))), 1)
    assert torch.equal(found, whole(Boxes(4, 10), wave[:500]))
    short = Boxes(4, 10, max_samples=102)
    found = torch.cat(list(encode_stream(short, cut(wave, 64), Windows(30.0, 0.2, above=60.0))), 1)
    assert torch.equal(found, whole(Boxes(4, 10), wave)) and max(short.seen) <= 102
    trimming = Boxes(4, 10)
    trimming.level = -23.0
    with pytest.raises(ValueError, match="trim and level need the whole recording"):
        list(encode_stream(trimming, cut(wave, 64), Windows(1.0, 0.2)))


def test_windows_that_cannot_be_are_refused_in_words():
    with pytest.raises(InputError, match="the overlap must be >= 0 and shorter"):
        Windows(2.0, 2.0)
    with pytest.raises(InputError, match="the overlap must be >= 0 and shorter"):
        Windows(float("nan"), 0.0)
    with pytest.raises(InputError, match="windows last at least"):
        plan_windows(ENTRIES["wav2vec2"].create_tiny(), Windows(0.02, 0.0))
    with pytest.raises(InputError, match="cannot share"):
        plan_windows(Boxes(4, 100), Windows(1.08, 0.0))
