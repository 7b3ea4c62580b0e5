"""What happens to a waveform before any encoder: levels are reached, silence is cut where it is and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serkit.encoders.front import FRAME, PAD, frame_mask, frame_powers, level_gain, trim_silence

torch.set_num_threads(1)


def tone(samples, level=0.1):
    return level * torch.sin(torch.arange(samples) * 0.31)


def padded(*clips, size=None):
    size = size or max(FRAME, *(len(clip) for clip in clips))
    rows = torch.full((len(clips), size), 9.0)  # padding that would be seen if it counted
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows, torch.tensor([len(clip) for clip in clips])


def decibels(x):
    return float(10 * x.square().mean().log10())


def test_masks_and_powers_by_hand():
    assert frame_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]
    waveforms, lengths = padded(torch.cat([torch.full((320,), 0.5), torch.full((320,), -0.1)]), torch.ones(500))
    assert torch.allclose(frame_powers(waveforms, lengths), torch.tensor([[0.25, 0.01], [1.0, 0.0]]))


@given(st.floats(-45, 0), st.floats(-35, -10))
def test_speech_is_brought_to_the_level_whatever_its_gain(gain, level):
    clip = tone(8000) * 10 ** (gain / 20)
    waveforms, lengths = padded(clip, size=9000)
    assert decibels(clip * level_gain(waveforms, lengths, level)[0]) == pytest.approx(level, abs=0.1)


@given(st.integers(0, 40), st.integers(0, 40))
def test_pauses_do_not_count_for_the_level(before, inside):
    quiet = torch.zeros(inside * FRAME)
    clip = torch.cat([torch.zeros(before * FRAME), tone(3200), quiet, tone(3200)])
    expected = level_gain(*padded(torch.cat([tone(3200), tone(3200)])), -23)
    torch.testing.assert_close(level_gain(*padded(clip, size=len(clip) + 999), -23), expected, atol=0, rtol=1e-5)


def test_each_utterance_has_a_gain_of_its_own():
    gains = level_gain(*padded(tone(6400, 0.5), tone(3200, 0.05)), -23)
    assert gains.shape == (2, 1)
    assert float(gains[1] / gains[0]) == pytest.approx(10, rel=1e-2)


@pytest.mark.parametrize("clip", [torch.zeros(3200), torch.full((3200,), 1e-9), torch.zeros(300)])
def test_the_gain_is_bounded_on_silence(clip):
    gain = level_gain(*padded(clip), -23)
    assert gain.isfinite().all() and float(gain) == pytest.approx(1000)


@given(
    lead=st.integers(0, 12_000),
    speech=st.integers(640, 8000),
    tail=st.integers(0, 12_000),
    padding=st.integers(0, 3000),
)
def test_known_silence_is_cut_within_a_frame_and_the_pad(lead, speech, tail, padding):
    clip = torch.cat([torch.zeros(lead), tone(speech), torch.zeros(tail)])
    moved, lengths, start = trim_silence(*padded(clip, size=len(clip) + padding), 35)
    begin, length = int(start), int(lengths)
    assert begin % FRAME == 0
    assert max(0, lead - PAD - 2 * FRAME) <= begin <= max(0, lead - PAD + FRAME)
    end = begin + length
    # A last frame that is not whole is not measured: the pad covers it.
    assert min(len(clip), lead + speech + PAD - FRAME) <= end <= min(len(clip), lead + speech + PAD + FRAME)
    assert torch.equal(moved[0, :length], clip[begin:end])
    assert not moved[0, length:].any()


def test_trimming_in_a_batch_is_trimming_alone():
    clips = [
        torch.cat([torch.zeros(5000), tone(4000), torch.zeros(100)]),
        tone(3000),
        torch.cat([tone(2000, 0.01), torch.zeros(9000)]),
        torch.zeros(2000),
        tone(200),
    ]
    moved, lengths, start = trim_silence(*padded(*clips), 35)
    for row, clip in enumerate(clips):
        single, length, begin = trim_silence(*padded(clip), 35)
        assert (int(lengths[row]), int(start[row])) == (int(length), int(begin))
        assert torch.equal(moved[row, : int(length)], single[0, : int(length)])
    assert start.tolist() == [3840, 0, 0, 0, 0]
    assert lengths[1] == 3000 and lengths[3] == 2000 and lengths[4] == 200


@pytest.mark.parametrize("clip", [torch.zeros(3200), tone(319), tone(1), torch.cat([tone(100), torch.zeros(200)])])
def test_silence_and_clips_below_a_frame_stay_whole(clip):
    moved, lengths, start = trim_silence(*padded(clip), 35)
    assert lengths.tolist() == [len(clip)] and start.tolist() == [0] and torch.equal(moved[0, : len(clip)], clip)


def test_the_threshold_says_what_counts_as_silence():
    clip = torch.cat([tone(6400, 0.1 * 10 ** (-30 / 20)), tone(6400, 0.1)])
    assert trim_silence(*padded(clip), 35)[2].item() == 0
    assert trim_silence(*padded(clip), 25)[2].item() == (6400 - PAD) // FRAME * FRAME
