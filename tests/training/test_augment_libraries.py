"""Classes of audiomentations and torch-audiomentations by name: what comes out, seeded like any other transform."""

from __future__ import annotations

import inspect
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyloudnorm
import pytest
import soundfile

from serkit.errors import InputError
from serkit.training.augment import Augmentation
from serkit.training.augment import audiomentations_classes as ours
from serkit.training.augment import torch_audiomentations_classes as equivalents

RATE = 16_000
GAIN = {"name": "audiomentations.Gain", "p": 1.0}


def tone(seconds=1.0, frequency=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def white(seconds=1.0, level=0.1):
    return np.random.default_rng(0).normal(0, level, round(seconds * RATE)).astype(np.float32)


def apply(x, name, seed="1/clip", **options):
    return Augmentation([{"name": name, "p": 1.0, **options}])(x, seed)


def rms(x):
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def decibels(ratio):
    return 20 * np.log10(ratio)


def peak_frequency(x):
    return np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * RATE / len(x)


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    root = tmp_path_factory.mktemp("noises")
    for frequency in (900, 2100):
        soundfile.write(root / f"{frequency}.wav", tone(0.7, frequency), RATE, subtype="FLOAT")
    return root


# audiomentations

NEEDS = {  # what has no default, and what needs a package more than audiomentations itself
    "AdjustDuration": {"duration_seconds": 0.5},
    "AddBackgroundNoise": {"sounds_path": "FOLDER"},
    "AddShortNoises": {"sounds_path": "FOLDER"},
    "ApplyImpulseResponse": {"ir_path": "FOLDER"},
    "TimeStretch": {"min_rate": 0.3, "max_rate": 3.0},
    "Compose": {"transforms": [GAIN], "shuffle": True},
    "OneOf": {"transforms": [GAIN, {"name": "audiomentations.Reverse", "p": 1.0}]},
    "SomeOf": {"num_transforms": [1, 2], "transforms": [GAIN, {"name": "audiomentations.AddGaussianNoise", "p": 1.0}]},
}
ELSEWHERE = {"Lambda", "Limiter", "Mp3Compression", "RoomSimulator"}


@pytest.mark.parametrize("kind", sorted(set(ours._classes()) - ELSEWHERE))
def test_a_seed_decides_alone_and_the_shared_generators_stay(kind, noises):
    options = {key: str(noises) if value == "FOLDER" else value for key, value in NEEDS.get(kind, {}).items()}
    chain = Augmentation([{"name": f"audiomentations.{kind}", "p": 1.0, **options}])
    x = tone() + white(level=0.03)
    before = x.copy()
    random.seed(1)
    np.random.seed(1)
    draws = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    first = chain(x, "1/a")
    assert (random.random(), np.random.random()) == draws
    for seed in ("2/a", "3/a"):
        chain(x, seed)  # leaves nothing behind
    again = pickle.loads(pickle.dumps(chain))
    assert np.array_equal(chain(x, "1/a"), first) and np.array_equal(again(x, "1/a"), first)
    assert first.dtype == np.float32 and np.array_equal(x, before)


def test_seeds_and_utterances_draw_apart():
    chain = Augmentation([{"name": "audiomentations.Gain", "p": 1.0}])
    factors = [chain(tone(), f"1/{clip}")[100] / tone()[100] for clip in range(20)]
    assert len(set(np.round(factors, 6))) == 20
    half = Augmentation([{"name": "audiomentations.Gain"}])  # p is 0.5 there when left out
    kept = [np.array_equal(half(tone(0.1), f"1/{clip}"), tone(0.1)) for clip in range(200)]
    assert 0.35 < np.mean(kept) < 0.65


def test_threads_do_not_disturb_each_other():
    chain = Augmentation([{"name": "audiomentations.AddGaussianSNR", "p": 1.0}, {"name": "audiomentations.Shift"}])
    alone = [chain(tone(), str(seed)) for seed in range(30)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: chain(tone(), str(seed)), range(30)))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_failure_puts_the_shared_generators_back():
    random.seed(3)
    state = random.getstate()
    with pytest.raises(RuntimeError), ours.seeded_globals(1):
        random.random()
        raise RuntimeError
    assert random.getstate() == state


def test_audiomentations_does_what_it_says(noises):
    up = apply(tone(2.0), "audiomentations.PitchShift", min_semitones=3, max_semitones=3)
    assert peak_frequency(up) / 440 == pytest.approx(2 ** (3 / 12), rel=0.005) and len(up) == 2 * RATE
    noisy = apply(tone(), "audiomentations.AddColorNoise", min_snr_db=10, max_snr_db=10) - tone()
    assert decibels(rms(tone()) / rms(noisy)) == pytest.approx(10, abs=0.5)
    masked = apply(tone(2.0) + 1, "audiomentations.TimeMask", min_band_part=0.1, max_band_part=0.2)
    assert 0.1 * 2 * RATE - 170 <= (masked == 0).sum() <= 0.2 * 2 * RATE
    options = {"sounds_path": str(noises), "min_snr_db": 6, "max_snr_db": 6}
    reversed_noise = {"name": "audiomentations.PolarityInversion", "p": 1.0}
    added = apply(tone(0.7), "audiomentations.AddBackgroundNoise", **options) - tone(0.7)
    turned = apply(tone(0.7), "audiomentations.AddBackgroundNoise", **options, noise_transform=reversed_noise)
    assert decibels(rms(tone(0.7)) / rms(added)) == pytest.approx(6, abs=0.1)
    assert round(peak_frequency(added), -2) in (900, 2100) and rms(turned - tone(0.7)) == pytest.approx(rms(added))


def test_loudness_normalisation_needs_no_package_more():
    x = white(2.0) * np.linspace(0.2, 1, 2 * RATE, dtype=np.float32)
    out = apply(x, "audiomentations.LoudnessNormalization", min_lufs=-12, max_lufs=-12)
    assert pyloudnorm.Meter(RATE).integrated_loudness(out.astype(float)) == pytest.approx(-12, abs=0.01)
    inside = {"name": "audiomentations.LoudnessNormalization", "min_lufs": -20, "max_lufs": -20, "p": 1.0}
    out = apply(x, "audiomentations.OneOf", transforms=[inside])
    assert pyloudnorm.Meter(RATE).integrated_loudness(out.astype(float)) == pytest.approx(-20, abs=0.01)
    assert not apply(np.zeros(8000, np.float32), "audiomentations.LoudnessNormalization").any()
    assert np.array_equal(apply(x, "audiomentations.LoudnessNormalization", p=0.0), x)


@pytest.mark.parametrize("rate", [0.3, 1.25])
def test_stretching_is_seeded_at_any_rate(rate):
    options = {"min_rate": rate, "max_rate": rate, "leave_length_unchanged": False}
    name, x = "audiomentations.TimeStretch", white(1.5)
    once, again = (apply(x, name, **options) for _ in range(2))
    assert len(once) == pytest.approx(len(x) / rate, abs=2) and np.array_equal(once, again)
    same = apply(x, name, **{**options, "leave_length_unchanged": True})
    assert len(same) == len(x) and same[: min(len(once), len(x))].all() and not same[len(once) :].any()
    if rate > 0.5:  # where nothing is drawn
        np.testing.assert_array_equal(same[: len(once)], once)
        original = ours._package().TimeStretch(rate, rate, False, p=1.0)
        np.testing.assert_allclose(once, original(x, RATE), atol=1e-6)


def test_a_new_version_makes_cached_copies_new_but_draws_alike(monkeypatch):
    chain = Augmentation([GAIN])
    assert '{"audiomentations.Gain": "' in chain.description()
    monkeypatch.setattr(ours._package(), "__version__", "99.0")
    newer = Augmentation([GAIN])
    assert newer.description() != chain.description()
    np.testing.assert_array_equal(newer(tone(), "s"), chain(tone(), "s"))


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy_audio_limiter", None)
    with pytest.raises(InputError, match=r"audiomentations\.Limiter needs a package more: run pip install numpy-audio"):
        apply(tone(), "audiomentations.Limiter")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "audiomentations.PitchShfit"}, "did you mean 'audiomentations.PitchShift'"),
        ({"name": "audiomentations.PitchShift", "min_semitone": 1}, "did you mean 'min_semitones'"),
        ({"name": "audiomentations.PitchShift", "min_semitones": 5}, "min_semitones must not be greater than max"),
        ({"name": "audiomentations.TimeMask", "fade": True}, "has no parameter 'fade'|'fade' parameter was removed"),
        ({"name": "audiomentations.Gain", "p": 2}, r"audiomentations\.Gain: a parameter is out of range"),
        ({"name": "audiomentations.AddBackgroundNoise"}, "needs the parameter 'sounds_path'"),
        ({"name": "audiomentations.AddBackgroundNoise", "sounds_path": "/nowhere"}, "/nowhere: no recordings there"),
        ({"name": "audiomentations.Lambda"}, "takes a function: use register_transform"),
        ({"name": "audiomentations.OneOf", "transforms": [{"name": "gain"}]}, "'gain' stands in a class of audiomen"),
        ({"name": "audiomentations.os"}, "no transform named 'audiomentations.os'"),
        ({"name": "scipy.signal"}, "no transform named 'scipy.signal'"),
    ],
)
def test_what_audiomentations_does_not_have_is_named(entry, message):
    with pytest.raises(InputError, match=message) as caught:
        Augmentation([entry])
    assert "\n" not in str(caught.value)


# torch-audiomentations

DEFAULTS = {  # read from its version 0.12
    "AddBackgroundNoise": {"min_snr_in_db": 3.0, "max_snr_in_db": 30.0},
    "AddColoredNoise": {"min_snr_in_db": 3.0, "max_snr_in_db": 30.0, "min_f_decay": -2.0, "max_f_decay": 2.0},
    "ApplyImpulseResponse": {"convolve_mode": "full", "compensate_for_propagation_delay": False},
    "BandPassFilter": {"min_center_frequency": 200, "max_center_frequency": 4000, "min_bandwidth_fraction": 0.5,
                       "max_bandwidth_fraction": 1.99},
    "BandStopFilter": {"min_center_frequency": 200, "max_center_frequency": 4000, "min_bandwidth_fraction": 0.5,
                       "max_bandwidth_fraction": 1.99},
    "Gain": {"min_gain_in_db": -18.0, "max_gain_in_db": 6.0},
    "HighPassFilter": {"min_cutoff_freq": 20.0, "max_cutoff_freq": 2400.0},
    "Identity": {},
    "LowPassFilter": {"min_cutoff_freq": 150.0, "max_cutoff_freq": 7500.0},
    "PeakNormalization": {"apply_to": "all"},
    "PitchShift": {"min_transpose_semitones": -4.0, "max_transpose_semitones": 4.0},
    "PolarityInversion": {},
    "Shift": {"min_shift": -0.5, "max_shift": 0.5, "shift_unit": "fraction", "rollover": True},
    "SpliceOut": {"num_time_intervals": 8, "max_width": 400},
    "TimeInversion": {},
}  # fmt: skip
FOLDERS = {"AddBackgroundNoise": "background_paths", "ApplyImpulseResponse": "ir_paths"}


@pytest.mark.parametrize("kind", sorted(equivalents.CLASSES))
def test_every_equivalent_has_the_defaults_of_the_original(kind, noises):
    parameters = inspect.signature(equivalents.CLASSES[kind]).parameters.values()
    assert {each.name: each.default for each in parameters if each.default is not each.empty} == DEFAULTS[kind]
    folder = {FOLDERS[kind]: str(noises)} if kind in FOLDERS else {}
    ignored = {"mode": "per_example", "p_mode": None, "output_type": "dict", "sample_rate": RATE, "target_rate": 1}
    name, x = f"torch_audiomentations.{kind}", tone(1.5) + white(1.5)
    out = apply(x, name, **folder, **ignored)
    assert len(out) == len(x) and np.array_equal(out, apply(x, name, **folder, **ignored))
    assert kind == "Identity" or not np.array_equal(out, x)
    half = Augmentation([{"name": name, **folder}])
    if kind not in ("Identity", "SpliceOut", "BandPassFilter", "BandStopFilter"):  # p is 0.5 when left out
        kept = [np.array_equal(half(x[:4000], str(seed)), x[:4000]) for seed in range(60)]
        assert 0.25 < np.mean(kept) < 0.75


@pytest.mark.parametrize("kind", sorted(equivalents.CLASSES))
@pytest.mark.parametrize("clip", [np.zeros(3200), tone(0.03)], ids=["silent", "short"])
def test_hard_recordings_stay_finite(kind, clip, noises):
    folder = {FOLDERS[kind]: str(noises)} if kind in FOLDERS else {}
    out = apply(clip.astype(np.float32), f"torch_audiomentations.{kind}", **folder)
    assert len(out) == len(clip) and np.isfinite(out).all()


@pytest.mark.parametrize("snr", [4.771, 19.956])
def test_ratios_are_to_the_whole_recording(snr, noises):
    x = np.concatenate([np.zeros(RATE, np.float32), tone()])
    ratio = {"min_snr_in_db": snr, "max_snr_in_db": snr}
    for name, more in [("AddColoredNoise", {}), ("AddBackgroundNoise", {"background_paths": [str(noises)]})]:
        added = apply(x, f"torch_audiomentations.{name}", **ratio, **more) - x
        assert decibels(rms(x) / rms(added)) == pytest.approx(snr, abs=0.01)
        assert rms(added[:RATE]) == pytest.approx(rms(added[RATE:]), rel=0.1)
    assert round(peak_frequency(added[:8000]), -2) in (900, 2100)


@pytest.mark.parametrize("decay", [-2, 0, 1, 2])
def test_colour_is_that_of_the_original(decay):
    """Its ramp is on amplitudes: 1 + (sqrt(8000) - 1) f / 8000, to the power of the decay."""
    options = {"min_f_decay": decay, "max_f_decay": decay, "min_snr_in_db": -40, "max_snr_in_db": -40}
    power = np.abs(np.fft.rfft(apply(tone(4.0, level=1e-3), "torch_audiomentations.AddColoredNoise", **options))) ** 2
    for pair in [(250, 1000), (1000, 4000)]:
        low, high = (power[4 * int(f * 0.9) : 4 * int(f * 1.1)].mean() for f in pair)
        ramp = [1 + (np.sqrt(8000) - 1) * f / 8000 for f in pair]
        assert 10 * np.log10(low / high) == pytest.approx(decay * decibels(ramp[1] / ramp[0]), abs=0.8)


def julius_lowpass(x, cutoff):
    """The original's filter, written out: eight zeros of the sinc a side, Hann window, sum one, edges repeated."""
    half = int(8 / (cutoff / RATE) / 2)
    time = np.arange(-half, half + 1)
    kernel = 2 * cutoff / RATE * np.sinc(2 * cutoff / RATE * time) * np.hanning(2 * half + 1)
    return np.convolve(np.pad(x.astype(np.float64), half, mode="edge"), kernel / kernel.sum(), "valid")


def test_filters_are_those_of_the_original():
    x = white(0.5)
    low = apply(x, "torch_audiomentations.LowPassFilter", min_cutoff_freq=1000, max_cutoff_freq=1000)
    np.testing.assert_allclose(low, julius_lowpass(x, 1000), atol=1e-6)
    high = apply(x, "torch_audiomentations.HighPassFilter", min_cutoff_freq=1000, max_cutoff_freq=1000)
    np.testing.assert_allclose(low + high, x, atol=1e-6)
    band = {"min_center_frequency": 2000, "max_center_frequency": 2000, "min_bandwidth_fraction": 0.5,
            "max_bandwidth_fraction": 0.5}  # fmt: skip
    kept = apply(x, "torch_audiomentations.BandPassFilter", **band)
    stopped = apply(x, "torch_audiomentations.BandStopFilter", **band)
    np.testing.assert_allclose(kept + stopped, x, atol=1e-6)
    ratio = np.abs(np.fft.rfft(kept)) ** 2 / np.abs(np.fft.rfft(x)) ** 2
    shares = [np.median(ratio[int(f * 0.5) - 50 : int(f * 0.5) + 50]) for f in (600, 2000, 4000)]
    assert shares[1] == pytest.approx(1, abs=0.01) and max(shares[0], shares[2]) < 1e-4


def test_cutoffs_are_drawn_evenly_in_mel():
    draw = [equivalents._draw_frequency(np.random.default_rng(seed), 150, 7500) for seed in range(400)]
    middle = 700 * (((1 + 150 / 700) * (1 + 7500 / 700)) ** 0.5 - 1)
    assert min(draw) >= 150 and max(draw) <= 7500 and np.mean(np.array(draw) < middle) == pytest.approx(0.5, abs=0.08)


def test_simple_ones_do_what_they_say():
    x = tone() * np.linspace(0.1, 1, RATE, dtype=np.float32)
    name = "torch_audiomentations."
    factor = apply(x, name + "Gain", min_gain_in_db=-6, max_gain_in_db=-6)[5] / x[5]
    assert decibels(factor) == pytest.approx(-6, abs=1e-3)
    assert np.abs(apply(x, name + "PeakNormalization")).max() == pytest.approx(1)
    assert np.array_equal(apply(x, name + "PeakNormalization", apply_to="only_too_loud_sounds"), x)
    assert np.abs(apply(9 * x, name + "PeakNormalization", apply_to="only_too_loud_sounds")).max() == pytest.approx(1)
    assert np.array_equal(apply(x, name + "PolarityInversion"), -x)
    assert np.array_equal(apply(x, name + "TimeInversion"), x[::-1])
    quarter = {"min_shift": 0.25, "max_shift": 0.25}
    assert np.array_equal(apply(x, name + "Shift", **quarter), np.roll(x, 4000))
    cut = apply(x, name + "Shift", min_shift=-0.5, max_shift=-0.5, shift_unit="seconds", rollover=False)
    assert np.array_equal(cut[:8000], x[8000:]) and not cut[8000:].any()
    up = apply(tone(2.0), name + "PitchShift", min_transpose_semitones=-3, max_transpose_semitones=-3)
    assert peak_frequency(up) / 440 == pytest.approx(2 ** (-3 / 12), rel=0.005)


def test_splicing_out_shortens_and_fills_with_silence():
    x = np.ones(4 * RATE, np.float32)
    out = apply(x, "torch_audiomentations.SpliceOut", num_time_intervals=3, max_width=200)
    sound = np.flatnonzero(out)[-1] + 1
    assert len(out) == len(x) and 4 * RATE - 3 * 1600 <= sound < 4 * RATE
    np.testing.assert_allclose(out[:sound], 1, atol=1e-6)  # the fades of equal stretches add up to one


def test_impulse_responses_keep_their_delay_unless_told(tmp_path):
    response = np.zeros(2000, np.float32)
    response[[200, 1200]] = 0.5, 0.25
    soundfile.write(tmp_path / "room.wav", response, RATE, subtype="FLOAT")
    x, name = white(), "torch_audiomentations.ApplyImpulseResponse"
    wanted = np.convolve(x, response)
    np.testing.assert_allclose(apply(x, name, ir_paths=str(tmp_path)), wanted[:RATE], atol=1e-6)
    direct = apply(x, name, ir_paths=[str(tmp_path / "room.wav")], compensate_for_propagation_delay=True)
    np.testing.assert_allclose(direct, wanted[200 : RATE + 200], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("PichShift", {}, "did you mean 'torch_audiomentations.PitchShift'"),
        ("PitchShift", {"min_semitones": -3}, "has no parameter 'min_semitones': did you mean"),
        ("Gain", {"sample_rate": 8000}, "sample_rate is 8000: recordings are at 16000 Hz here"),
        ("Gain", {"p": 2}, "p must be between 0 and 1"),
        ("Gain", {"min_gain_in_db": 3, "max_gain_in_db": 1}, "min_gain_in_db must not be above max_gain_in_db"),
        ("Mix", {}, "has no equivalent here: it mixes utterances and their labels"),
        ("ShuffleChannels", {}, "has no equivalent here: there is one channel"),
        ("OneOf", {}, "has no equivalent here: use audiomentations.OneOf"),
        ("ApplyImpulseResponse", {}, "needs the parameter 'ir_paths'"),
        ("ApplyImpulseResponse", {"ir_paths": "/nowhere"}, "/nowhere: no recordings there"),
        ("ApplyImpulseResponse", {"ir_paths": "FOLDER", "convolve_mode": "same"}, "convolve_mode 'same' has no equiv"),
    ],
)
def test_what_has_no_equivalent_is_named(kind, options, message, noises):
    options = {key: str(noises) if value == "FOLDER" else value for key, value in options.items()}
    with pytest.raises(InputError, match=message) as caught:
        Augmentation([{"name": f"torch_audiomentations.{kind}", **options}])
    assert "\n" not in str(caught.value)
