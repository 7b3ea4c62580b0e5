"""Augmentation: seeded, as strong as asked, and never out of step with the recording."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pyloudnorm
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from serkit.encoders.cache import feature_key
from serkit.errors import AudioError, InputError
from serkit.training.augment import TRANSFORMS, Augmentation, register_transform
from serkit.training.augment import registry as registry_module
from serkit.training.recipe import load_recipe

every_transform = pytest.mark.parametrize("name", list(TRANSFORMS))
FROM_FOLDERS = ("background", "room")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noises: tones of 900 and 2100 Hz, longer and shorter than the recordings, one at 44.1 kHz in stereo."""
    root = tmp_path_factory.mktemp("noises")
    (root / "deep").mkdir()
    soundfile.write(root / "long.wav", tone(3.0, 900), 16_000, subtype="FLOAT")
    stereo = 0.1 * np.sin(2 * np.pi * 2100 * np.arange(17_640) / 44_100)
    soundfile.write(root / "deep" / "short.flac", np.stack([stereo, stereo], 1), 44_100)
    (root / "notes.txt").write_text("no recording")
    return root


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
def test_a_seed_decides_alone(name, folder):
    x = np.concatenate([np.zeros(4000, np.float32), voice(), np.zeros(4000, np.float32)])
    before = x.copy()
    entry = {"name": name} | ({"folder": str(folder)} if name in FROM_FOLDERS else {})
    once, again = (apply(x, "1/a", **entry) for _ in range(2))
    others = [apply(x, f"{copy}/a", **entry) for copy in range(2, 6)]
    assert np.array_equal(once, again) and once.dtype == np.float32 and once.flags.c_contiguous
    assert np.array_equal(x, before), "the recording itself was changed"
    assert name == "trim" or not all(np.array_equal(once, other) for other in others)
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
def test_hard_recordings_stay_finite(name, clip, folder):
    out = apply(clip.astype(np.float32), name=name, **({"folder": str(folder)} if name in FROM_FOLDERS else {}))
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
        ({"name": "gain", "probability": 1.5}, "gain: probability must be between 0 and 1, not 1.5"),
        ({"name": "gain", "decibels": np.ones(2)}, "gain: parameters are numbers, strings, lists and tables"),
        ({"name": "background"}, "background needs the parameter 'folder'"),
        ({"name": "background", "folder": "/nowhere"}, "/nowhere: no recordings there"),
        ({"name": "room", "folder": []}, "an empty list of folders"),
        ({"name": "time_maks"}, "did you mean 'time_mask'"),
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


# What recipes had before must not be encoded again, and must not change


def test_copies_of_shipped_recipes_keep_their_place_in_the_cache():
    keys = {
        "default/speakers": "127093b8452e710756c50be602b5b4a3",
        "emodb/loso": "e947e065c3a409b42282ead96ea3e1be",
    }
    for recipe, key in keys.items():
        chain = Augmentation(load_recipe(recipe).augment.chain)
        assert feature_key(b"audio", None, None, f"{chain.description()}|1/clip") == key
    chain = Augmentation([{"name": "noise", "snr": [10, 20]}, {"name": "gain", "probability": 0.5}])
    assert chain.description() == '[1, [["noise", 1.0, {"snr": [10, 20]}], ["gain", 0.5, {}]]]'


@pytest.mark.parametrize(
    ("chain", "samples"),
    [
        ([{"name": "noise", "snr": [10, 20]}, {"name": "gain"}], [-0.07116010785, -0.00451808050, 0.08570784330]),
        ([{"name": "reverb"}, {"name": "tilt"}], [-0.49677440524, -0.14056701958, 0.44512242079]),
    ],
)
def test_chains_give_what_they_gave(chain, samples):
    np.testing.assert_allclose(Augmentation(chain)(tone(0.5), "1/clip")[[100, 4000, -100]], samples, atol=1e-6)


# Pitch, loudness and masks


@pytest.mark.parametrize("semitones", [-12, -3, 0.5, 3, 7])
def test_pitch_moves_by_semitones_and_leaves_the_length(semitones):
    x = np.concatenate([np.zeros(8000, np.float32), tone(2.0), np.zeros(8000, np.float32)])
    out = apply(x, name="pitch", semitones=[semitones, semitones])
    assert len(out) == len(x)
    assert peak_frequency(out[12_000:36_000]) / 440 == pytest.approx(2 ** (semitones / 12), rel=0.005)
    assert rms(out) == pytest.approx(rms(x), rel=0.1)
    assert rms(out[:7000]) + rms(out[-7000:]) < 0.01 * rms(x)  # it does not move in time


@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_loudness_is_that_of_the_standard(seconds):
    out = apply(voice(seconds) * 0.05, name="loudness", lufs=[-12, -12])
    meter = pyloudnorm.Meter(16_000, block_size=min(0.4, seconds))
    assert meter.integrated_loudness(out.astype(np.float64)) == pytest.approx(-12, abs=0.01)
    np.testing.assert_allclose(out / out[100], voice(seconds) / voice(seconds)[100], rtol=1e-3, atol=1e-3)
    assert not apply(np.zeros(8000, np.float32), name="loudness").any()


def test_full_scale_at_one_kilohertz_is_minus_three_lufs():
    """BS.1770: a sine of 997 Hz at full scale in one channel is -3.01 LUFS, but for what 16 kHz do to the filter."""
    quiet = tone(2.0, 997, 1.0)
    np.testing.assert_allclose(apply(quiet, name="loudness", lufs=[-3.01, -3.01]), quiet, rtol=0.02, atol=1e-3)


def test_time_masks_silence_a_share_and_leave_the_rest():
    x = tone(2.0) + 0.5
    out = apply(x, name="time_mask", share=[0.2, 0.2], fade=0.01)
    silent = out == 0
    assert silent.sum() == pytest.approx(0.2 * 32_000 - 2 * 160, abs=4)
    assert np.ptp(np.flatnonzero(silent)) == silent.sum() - 1  # one stretch
    assert (out != x).sum() == pytest.approx(0.2 * 32_000, abs=4)
    assert np.abs(np.diff(out)).max() < 1.1 * np.abs(np.diff(x)).max()  # no click
    several = apply(x, name="time_mask", share=[0.05, 0.05], count=3)
    assert (several != x).sum() <= 0.15 * 32_000 + 3 < (apply(x, name="time_mask", share=[1, 1]) != x).sum()


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_frequency_masks_silence_one_band_and_keep_phases_and_length(seed):
    x = np.random.default_rng(0).normal(0, 0.1, 50_001).astype(np.float32)
    out = apply(x, seed, name="frequency_mask", width=[1500, 1500])
    assert len(out) == len(x)
    before, after = (np.fft.rfft(each)[: 80 * 312].reshape(80, 312) for each in (x, out))  # bands of 100 Hz
    share = (np.abs(after) ** 2).sum(1) / (np.abs(before) ** 2).sum(1)
    silent = np.flatnonzero(share < 1e-4)
    assert 12 <= len(silent) <= 15 and np.ptp(silent) == len(silent) - 1
    away = np.ones(80, bool)
    away[max(0, silent[0] - 3) : silent[-1] + 4] = False
    np.testing.assert_allclose(share[away], 1, atol=0.02)
    match = (after * before.conj()).sum(1) / (np.abs(before) ** 2).sum(1)
    np.testing.assert_allclose(match[away], 1, atol=0.02)  # a complex number: phases are kept
    np.testing.assert_allclose(apply(x, seed, name="frequency_mask", width=[0, 0]), x, atol=1e-6)
    assert rms(apply(x, seed, name="frequency_mask", width=[8001, 8001])) < 1e-3 * rms(x)


# Recorded noise and rooms


@pytest.mark.parametrize("snr", [0, 15])
def test_background_has_the_ratio_to_the_speech(snr, folder):
    x = np.concatenate([np.zeros(16_000, np.float32), voice(), np.zeros(8000, np.float32)])
    active = rms(x[16_320:31_680])
    heard = set()
    for seed in "abcdefgh":
        added = apply(x, seed, name="background", folder=str(folder), snr=[snr, snr]) - x
        assert 20 * np.log10(active / rms(added)) == pytest.approx(snr, abs=0.5)
        heard.add(round(peak_frequency(added[:4000]), -2))
    assert heard == {900, 2100}


def test_a_folder_counts_by_what_is_in_it(folder, tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", tone(1.5, 700), 16_000)
    here, there = (Augmentation([{"name": "background", "folder": tmp_path / name}]) for name in ("here", "there"))
    assert here.description() == there.description()
    np.testing.assert_array_equal(here(voice(), "s"), there(voice(), "s"))
    soundfile.write(tmp_path / "there" / "b.wav", tone(1.0), 16_000)
    more = Augmentation([{"name": "background", "folder": str(tmp_path / "there")}])
    assert more.description() != here.description()
    assert str(tmp_path) not in more.description()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(more))(voice(), "s"), more(voice(), "s"))


def test_a_room_keeps_the_direct_sound_where_it_is(tmp_path):
    response = np.zeros(4000, np.float32)
    response[[300, 1900]] = -0.25, -0.125
    soundfile.write(tmp_path / "room.wav", response, 16_000, subtype="FLOAT")
    out = apply(voice(), name="room", folder=str(tmp_path))
    wanted = voice()
    wanted[1600:] += 0.5 * voice()[:-1600]
    np.testing.assert_allclose(out, wanted, atol=1e-6)


# Transforms of others


def echo(x, rng, delay=0.1):
    """A registered function."""
    samples = round(delay * 16_000)
    return x + rng.uniform(0.2, 0.5) * np.concatenate([np.zeros(samples), x[:-samples]])


class Louder:
    """A registered class."""

    def __init__(self, factor):
        if factor <= 0:
            raise ValueError("factor must be above 0")
        self.factor = factor

    def __call__(self, x, rng):
        return x * self.factor


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", {})
    register_transform("echo", echo)
    register_transform("louder", Louder)


def test_registered_transforms_are_like_any_other(registered):
    chain = Augmentation([{"name": "echo", "delay": 0.2}, {"name": "louder", "factor": 2, "probability": 1}])
    out = chain(voice(), "s")
    assert np.array_equal(out[:3200], 2 * voice()[:3200]) and not np.array_equal(out[3200:], 2 * voice()[3200:])
    assert np.array_equal(chain(voice(), "s"), out) and not np.array_equal(chain(voice(), "t"), out)
    for entry, message in [
        ({"name": "ecco"}, "did you mean 'echo'"),
        ({"name": "echo", "dellay": 1}, "echo has no parameter 'dellay': did you mean 'delay'"),
        ({"name": "louder"}, "louder needs the parameter 'factor'"),
        ({"name": "louder", "factor": 0}, "louder: factor must be above 0"),
    ]:
        with pytest.raises(InputError, match=message):
            Augmentation([entry])


def test_a_revision_makes_cached_copies_new(registered):
    before = Augmentation([{"name": "echo"}])
    register_transform("echo", echo, revision=2)
    after = Augmentation([{"name": "echo"}])
    assert before.description() != after.description()
    np.testing.assert_array_equal(before(voice(), "s"), after(voice(), "s"))


def test_what_cannot_be_registered_is_refused():
    with pytest.raises(InputError, match="'gain' is taken, empty or has a dot"):
        register_transform("gain", echo)
    with pytest.raises(InputError, match="mine must be defined at the top of a module"):
        register_transform("mine", lambda x, rng: x)


@pytest.mark.parametrize("bad", [partial(np.full, 4), lambda shape, value: np.zeros((2, 2)), lambda *rest: np.zeros(0)])
def test_a_transform_that_gives_no_waveform_is_named(registered, monkeypatch, bad):
    monkeypatch.setitem(registry_module._registered, "bad", (lambda x, rng: bad(np.nan), 1))
    with pytest.raises((AudioError, TypeError), match="bad gives no finite waveform|missing"):
        Augmentation([{"name": "bad"}])(voice(), "s")


def test_installed_packages_add_transforms(tmp_path, monkeypatch):
    (tmp_path / "whispering.py").write_text("def hush(x, rng, by=0.5):\n    return x * by\n")
    facts = tmp_path / "whispering-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: whispering\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(
        "[serkit.transforms]\nhush = whispering:hush\nlost = whispering:not_there\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    chain = Augmentation([{"name": "hush", "by": 0.25}])
    np.testing.assert_array_equal(chain(voice(), "s"), (voice() * 0.25).astype(np.float32))
    assert '{"hush": "1.2"}' in chain.description()
    with pytest.raises(InputError, match="lost: entry point 'whispering:not_there' cannot be loaded"):
        Augmentation([{"name": "lost"}])
    with pytest.raises(InputError, match="did you mean 'hush'"):
        Augmentation([{"name": "husch"}])
    sys.modules.pop("whispering", None)


def test_a_worker_process_gives_the_same(folder):
    """Of every kind that a process must build anew: from folders, from audiomentations, nested, and its equivalents."""
    chain = Augmentation([
        {"name": "background", "folder": str(folder)},
        {"name": "audiomentations.OneOf", "transforms": [
            {"name": "audiomentations.AddGaussianSNR", "p": 1.0}, {"name": "audiomentations.PitchShift", "p": 1.0},
        ]},
        {"name": "audiomentations.LoudnessNormalization", "p": 1.0},
        {"name": "torch_audiomentations.AddColoredNoise", "p": 1.0},
        {"name": "pitch"},
    ])  # fmt: skip
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for seed in ("1/a", "1/b"):
            np.testing.assert_array_equal(pool.submit(chain, voice(), seed).result(), chain(voice(), seed))
