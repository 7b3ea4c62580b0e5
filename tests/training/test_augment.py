"""Augmentation: seeded, as strong as asked, and never out of step with the recording."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.errors import InputError
from serkit.training.augment import TRANSFORMS, Augmentation

every_transform = pytest.mark.parametrize("name", list(TRANSFORMS))


def tone(seconds=1.0, frequency=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


def voice(seconds=1.0):
    """A gliding voice: harmonics in a little noise, for speech codecs fail on pure tones."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * (140 * time + 40 * time**2)
    tone = sum(np.sin(k * phase) / k for k in range(1, 15)) * (1.2 - np.cos(12 * time)) / 8
    return (tone + np.random.default_rng(0).normal(0, 1e-3, len(time))).astype(np.float32)


def apply(x, seed="1/clip", **entry):
    return Augmentation([entry])(x, seed)


def rms(x):
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def peak_frequency(x):
    return np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * 16_000 / len(x)


@every_transform
def test_a_seed_decides_alone(name):
    x = np.concatenate([np.zeros(4000, np.float32), voice(), np.zeros(4000, np.float32)])
    before = x.copy()
    once, again, other = (apply(x, seed, name=name) for seed in ("1/a", "1/a", "2/a"))
    assert np.array_equal(once, again) and once.dtype == np.float32 and once.flags.c_contiguous
    assert np.array_equal(x, before), "the recording itself was changed"
    assert name == "trim" or len(other) != len(once) or not np.array_equal(once, other)
    assert len(once) != len(x) or not np.array_equal(once, x)


def test_utterances_copies_and_chains_are_seeded_apart():
    x = tone()
    noises = [apply(x, seed, name="noise") - x for seed in ("1/a", "1/b", "2/a")]
    noises.append(apply(x, "1/a", name="noise", snr=[5, 31]) - x)
    for number, noise in enumerate(noises):
        for other in noises[:number]:
            assert abs(np.corrcoef(noise, other)[0, 1]) < 0.5


@every_transform
@pytest.mark.parametrize("clip", [np.zeros(3200), np.full(500, 1e-9), tone(0.03)], ids=["silent", "faint", "short"])
def test_hard_recordings_stay_finite(name, clip):
    out = apply(clip.astype(np.float32), name=name)
    assert len(out) > 0 and np.isfinite(out).all()


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_gain_keeps_to_its_range(seed):
    change = 20 * np.log10(rms(apply(tone(0.1), str(seed), name="gain", decibels=[-6, 3])) / rms(tone(0.1)))
    assert -6.01 <= change <= 3.01


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_changes_length_and_pitch_alike(factor):
    out = apply(tone(), name="speed", factor=[factor, factor])
    assert len(out) == pytest.approx(16_000 / factor, abs=2)
    assert peak_frequency(out) == pytest.approx(440 * factor, abs=2)
    assert rms(out) == pytest.approx(rms(tone()), rel=0.02)


@pytest.mark.parametrize("snr", [0, 10, 25])
def test_noise_has_the_ratio_to_the_speech_and_not_to_the_pauses(snr):
    x = np.concatenate([np.zeros(16_000, np.float32), tone(), np.zeros(8000, np.float32)])
    added = apply(x, name="noise", snr=[snr, snr]) - x
    assert 20 * np.log10(rms(tone()) / rms(added)) == pytest.approx(snr, abs=0.1)


@pytest.mark.parametrize("slope", [0, 1, 2])
def test_noise_falls_with_its_slope(slope):
    x = tone(4.0, level=1e-3)
    power = np.abs(np.fft.rfft(apply(x, name="noise", snr=[-40, -40], slope=[slope, slope]) - x)) ** 2
    low, high = power[4 * 900 : 4 * 1100].mean(), power[4 * 3600 : 4 * 4400].mean()
    assert 10 * np.log10(low / high) == pytest.approx(slope * 20 * np.log10(2), abs=1)


@pytest.mark.parametrize("slope", [-4, 4])
def test_tilt_is_in_decibels_per_octave_about_one_kilohertz(slope):
    for frequency in (500, 1000, 2000):
        out = apply(tone(frequency=frequency), name="tilt", slope=[slope, slope], bumps=0)
        change = 20 * np.log10(rms(out) / rms(tone(frequency=frequency)))
        assert change == pytest.approx(slope * np.log2(frequency / 1000), abs=0.1)


def test_reverb_keeps_the_direct_sound_and_adds_the_ratio():
    click = np.zeros(16_000, np.float32)
    click[1000] = 1
    out = apply(click, name="reverb", seconds=[0.3, 0.3], ratio=[6, 6])
    assert len(out) == len(click) and np.abs(out[:1000]).max() < 1e-6 and out[1000] == pytest.approx(1, abs=1e-3)
    assert 10 * np.log10((out[1001:] ** 2).sum()) == pytest.approx(-6, abs=0.1)
    early, late = out[1032 : 1032 + 480], out[1032 + 2400 : 1032 + 2880]
    assert 20 * np.log10(rms(early) / rms(late)) == pytest.approx(60 * 2400 / 4800, abs=3)


def test_trim_cuts_the_silence_and_leaves_the_speech():
    x = np.concatenate([np.zeros(8000, np.float32), tone(), np.zeros(12_000, np.float32)])
    out = apply(x, name="trim")
    assert 16_000 <= len(out) <= 16_000 + 2 * (800 + 320)
    assert float(np.square(out).sum()) == pytest.approx(float(np.square(x).sum()), rel=1e-6)
    assert np.array_equal(apply(np.zeros(5000, np.float32), name="trim"), np.zeros(5000))


@pytest.mark.parametrize("kind", ["opus", "mp3", "mulaw"])
@pytest.mark.parametrize("samples", [16_000, 23_456])
def test_a_codec_stays_in_step_and_keeps_the_level(kind, samples):
    x = voice(samples / 16_000) * 0.2
    out = apply(x, name="codec", kinds=[kind], kilobits=[32, 32])
    assert len(out) == len(x) and not np.array_equal(out, x)
    lags = range(-200, 201)
    middle = slice(2000, 14_000)
    match = [float(np.dot(x[middle], out[2000 + lag : 14_000 + lag])) for lag in lags]
    assert abs(lags[int(np.argmax(match))]) <= 16
    assert rms(out) == pytest.approx(rms(x), rel=0.15)
    assert np.corrcoef(x[middle], out[middle])[0, 1] > 0.9


def test_probability_says_how_often():
    chain = Augmentation([{"name": "gain", "decibels": [6, 6], "probability": 0.3}])
    changed = [float(chain(tone(0.05), str(seed))[1]) != float(tone(0.05)[1]) for seed in range(300)]
    assert 0.2 < np.mean(changed) < 0.4
    assert np.array_equal(apply(tone(), name="gain", probability=0), tone())


def test_a_chain_runs_in_order():
    x = np.concatenate([np.zeros(8000, np.float32), tone()])
    trimmed_first = Augmentation([{"name": "trim"}, {"name": "noise", "snr": [10, 10]}])(x, "s")
    noise_first = Augmentation([{"name": "noise", "snr": [10, 10]}, {"name": "trim"}])(x, "s")
    assert len(trimmed_first) < len(noise_first) == len(x)


def test_the_description_is_canonical():
    one = Augmentation([{"name": "gain", "decibels": [-1, 1], "probability": 0.5}])
    two = Augmentation([{"probability": 0.5, "decibels": [-1, 1], "name": "gain"}])
    assert one.description() == two.description() != Augmentation([{"name": "gain"}]).description()
    assert np.array_equal(one(tone(), "s"), two(tone(), "s"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "nois"}, "no transform named 'nois': did you mean 'noise'"),
        ({}, "no transform named ''"),
        ({"name": "noise", "snrs": [1, 2]}, "noise has no parameter 'snrs': did you mean 'snr'"),
        ({"name": "gain", "rng": 1}, "gain has no parameter 'rng'"),
    ],
)
def test_unknown_names_are_refused(entry, message):
    with pytest.raises(InputError, match=message):
        Augmentation([entry])


def test_lowpass_removes_what_is_above_and_keeps_what_is_below():
    time = np.arange(16_000) / 16_000
    low, high = np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 6000 * time)
    out = apply(low + high, name="lowpass", cutoff=[4000, 4000])
    np.testing.assert_allclose(out, low, atol=1e-6)
