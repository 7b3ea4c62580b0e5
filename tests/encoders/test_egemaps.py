"""eGeMAPSv02 against openSMILE on real speech, and against what is known of synthetic signals."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch
from scipy.signal import lfilter

from serkit.data.audio import read_audio
from serkit.encoders import create_encoder
from serkit.encoders.egemaps import FUNCTIONAL_NAMES, LLD_NAMES, functionals, low_level_descriptors
from serkit.encoders.egemaps.formants import RATE, formants, predictors
from serkit.encoders.egemaps.frames import cut_frames, smooth_nonzero
from serkit.encoders.egemaps.functionals import find_extremes, segment_lengths
from serkit.encoders.egemaps.pitch import MEMORY, best_path
from serkit.encoders.egemaps.single import spectrum
from serkit.errors import AudioError

CORPORA = ("ravdess", "emodb", "emovo")
CLIPS = 4
LEVELS = {"LowLevelDescriptors": LLD_NAMES, "Functionals": FUNCTIONAL_NAMES}


@pytest.fixture(scope="module")
def smile():
    opensmile = pytest.importorskip("opensmile", reason="the reference implementation comes with serkit[opensmile]")
    extractors = {
        level: opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel[level]) for level in LEVELS
    }
    return lambda level, waveform: extractors[level].process_signal(waveform, 16_000)


@pytest.fixture(scope="module")
def clips(corpus_root):
    """A few recordings of each corpus, the odd ones cut off in the middle: there pitch is undecided at the end."""
    found = []
    for corpus in CORPORA:
        paths = sorted(path for path in corpus_root(corpus).rglob("*") if path.suffix in (".flac", ".wav"))
        for number, path in enumerate(paths[:: len(paths) // CLIPS][:CLIPS]):
            waveform = read_audio(path)
            found.append(waveform[: len(waveform) * 3 // 5] if number % 2 else waveform)
    return found


def column(descriptors, name):
    return descriptors[:, [full.split("_sma")[0] for full in LLD_NAMES].index(name)]


def vowel(seconds=1.0, period=100, resonances=((700, 80), (1220, 90), (2600, 120))):
    """Glottal pulses every ``period`` samples through resonances of (Hz, bandwidth), with a little breath."""
    source = np.random.default_rng(0).normal(0, 0.003, round(seconds * 16_000))
    source[::period] += 1
    for hertz, bandwidth in resonances:
        radius = np.exp(-np.pi * bandwidth / 16_000)
        source = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * hertz / 16_000), radius**2], source)
    lips = lfilter([1, -0.9], [1], source)
    return (0.5 * lips / np.abs(lips).max()).astype(np.float32)


@pytest.mark.parametrize("level", LEVELS)
def test_names_and_their_order_are_those_of_opensmile(smile, level, make_tone):
    assert tuple(smile(level, make_tone(0.2)[:, 0]).columns) == LEVELS[level]


def test_descriptors_equal_opensmile_frame_by_frame_on_speech(smile, clips):
    theirs = [smile("LowLevelDescriptors", clip).to_numpy() for clip in clips]
    ours = [low_level_descriptors(clip) for clip in clips]
    assert [len(frames) for frames in ours] == [len(frames) for frames in theirs]
    for name, a, b in zip(LLD_NAMES, np.concatenate(ours).T, np.concatenate(theirs).T, strict=True):
        correlation, error = np.corrcoef(a, b)[0, 1], np.abs(a - b) / (np.abs(b) + 1e-3)
        off = (error > 1e-3).mean()
        said = f"{name}: correlation {correlation:.6f}, {off:.2%} differ, median {np.median(error):.2g}"
        assert correlation > 0.9999 and off < 0.01 and np.median(error) < 1e-5, said


def test_functionals_equal_opensmile_on_speech(smile, clips):
    ours = np.array([functionals(clip) for clip in clips])
    theirs = np.concatenate([smile("Functionals", clip).to_numpy() for clip in clips])
    for name, a, b in zip(FUNCTIONAL_NAMES, ours.T, theirs.T, strict=True):
        error = np.abs(a - b) / (np.abs(b) + 1e-3)
        correlation = np.corrcoef(a, b)[0, 1]
        said = f"{name}: correlation {correlation:.6f}, differs by up to {error.max():.2g} of the value"
        assert correlation > 0.9999 and np.median(error) < 1e-5, said


@pytest.mark.parametrize("samples", [960, 1000, 1119, 1120, 2000, 16_000])
def test_any_length_gives_the_frames_of_opensmile(smile, samples):
    noise = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    theirs = smile("LowLevelDescriptors", noise).to_numpy()
    ours = low_level_descriptors(noise)
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    np.testing.assert_allclose(ours[:, :10], theirs[:, :10], rtol=2e-2, atol=5e-3)  # openSMILE rounds to 16 bits


def test_silence_has_no_voice_and_equals_opensmile(smile):
    silence = np.zeros(16_000, np.float32)
    descriptors, summary = low_level_descriptors(silence), functionals(silence)
    assert not column(descriptors, "F0semitoneFrom27.5Hz").any() and np.isfinite(descriptors).all()
    np.testing.assert_allclose(descriptors, smile("LowLevelDescriptors", silence).to_numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(summary, smile("Functionals", silence).to_numpy()[0], rtol=1e-4, atol=1e-6)
    assert summary[-1] == -120


@pytest.mark.parametrize("hertz", [82.4, 110, 220, 440])
def test_the_pitch_of_a_tone_is_found(make_tone, hertz):
    tone = sum(make_tone(1.0, frequency=hertz * k, level=0.3 / k, noise=1e-3)[:, 0] for k in range(1, 6))
    pitch = column(low_level_descriptors(tone), "F0semitoneFrom27.5Hz")
    assert (pitch > 0).mean() > 0.95
    assert abs(np.median(pitch[pitch > 0]) - 12 * np.log2(hertz / 27.5)) < 0.1


def test_a_step_in_amplitude_is_a_step_in_loudness_and_nothing_in_the_rest():
    speech = vowel(2.0)
    gain = np.where(np.arange(len(speech)) < 16_000, 0.05, 0.5).astype(np.float32)
    steady, stepped = low_level_descriptors(speech), low_level_descriptors(speech * gain)
    before, after = slice(20, 80), slice(120, 180)
    loudness = column(stepped, "Loudness")
    # Loudness compresses power with exponent 0.33.
    np.testing.assert_allclose(np.median(loudness[after]) / np.median(loudness[before]), 10**0.66, rtol=0.02)
    for name in ("alphaRatio", "mfcc2", "F0semitoneFrom27.5Hz", "HNRdBACF", "jitterLocal"):
        for part in (before, after):
            np.testing.assert_allclose(column(stepped, name)[part], column(steady, name)[part], rtol=1e-3, atol=1e-3)
    quiet, loud = functionals(speech * 0.05), functionals(speech * 0.5)
    np.testing.assert_allclose(loud[-1] - quiet[-1], 20, atol=1e-3)  # equivalent sound level, dB


def test_the_voice_of_a_vowel_is_measured(smile):
    speech = vowel()
    descriptors, regular = low_level_descriptors(speech), slice(10, 80)
    assert abs(np.median(column(descriptors, "F0semitoneFrom27.5Hz")) - 12 * np.log2(160 / 27.5)) < 0.1
    assert np.median(column(descriptors, "jitterLocal")) < 0.01
    theirs = smile("LowLevelDescriptors", speech).to_numpy()
    for name in ("F1frequency", "F2frequency", "F3frequency"):
        np.testing.assert_allclose(
            np.median(column(descriptors, name)[regular]), np.median(column(theirs, name)[regular]), rtol=0.01
        )


def test_the_predictor_knows_the_formants_of_a_vowel_and_opensmile_reads_it_with_the_wrong_sign():
    frames = cut_frames(vowel(), 16_000).short_spectrum[20:70]
    narrow, mirrored = [], []
    for polynomial in predictors(frames).T.astype(float):
        roots = np.roots([1, *polynomial])
        sharp = np.angle(roots)[(np.angle(roots) > 0) & (np.abs(roots) > 0.92)] * RATE / (2 * np.pi)
        narrow.append(sorted(sharp)[:3])
        roots = np.roots([1, *-polynomial])
        hertz = np.angle(roots) * RATE / (2 * np.pi)
        kept = np.argsort(np.where((hertz > 50) & (hertz < 5450), hertz, np.inf))[:3]
        mirrored.append(np.stack([hertz[kept], -np.log(np.abs(roots[kept])) * RATE / np.pi], 1).ravel())
    np.testing.assert_allclose(np.median(narrow, axis=0), [700, 1220, 2600], rtol=0.05)
    np.testing.assert_allclose(formants(frames), mirrored, rtol=1e-6)


def test_the_predictor_equals_opensmile_in_every_bit(clips):
    opensmile = pytest.importorskip("opensmile", reason="the reference implementation comes with serkit[opensmile]")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, "gemapsv01b_lpc")
    for clip in clips[::CLIPS]:
        theirs = smile.process_signal(clip, 16_000).to_numpy()
        ours = predictors(cut_frames(clip, 16_000).short_spectrum).T
        sound = np.isfinite(theirs).all(1)
        assert sound.mean() > 0.5
        np.testing.assert_array_equal(ours[sound], theirs[sound])


def test_a_spectrum_in_single_precision_is_that_of_numpy():
    samples = np.random.default_rng(0).normal(0, 1, (512, 5)).astype(np.float32)
    expected = np.fft.rfft(samples.T.astype(float)).conj().T
    np.testing.assert_allclose(spectrum(samples), expected, atol=2e-5)
    np.testing.assert_array_equal(spectrum(samples)[:, 3], spectrum(samples[:, 3:4])[:, 0])


def test_values_do_not_depend_on_the_sampling_rate():
    speech = vowel(1.5)
    fast = soxr.resample(speech, 16_000, 48_000, "VHQ")
    slow, again = low_level_descriptors(speech), low_level_descriptors(fast, 48_000)
    assert slow.shape == again.shape
    for name, a, b in zip(LLD_NAMES, slow[5:-5].T, again[5:-5].T, strict=True):
        assert np.median(np.abs(a - b)) <= 0.02 * np.abs(a).max() + 1e-4, name
    a, b = functionals(speech), functionals(fast, 48_000)
    means = [number for number, name in enumerate(FUNCTIONAL_NAMES) if "amean" in name and "UV" not in name]
    np.testing.assert_allclose(a[means], b[means], rtol=0.05, atol=0.05)


def test_channels_are_averaged_and_short_recordings_refused(make_tone):
    stereo = make_tone(0.5, channels=2)
    np.testing.assert_array_equal(low_level_descriptors(stereo), low_level_descriptors(stereo.mean(1)))
    for extract in (low_level_descriptors, functionals):
        with pytest.raises(AudioError, match=r"needs at least 960 samples at 16 kHz \(0\.060 s\), got 959"):
            extract(np.zeros(959, np.float32))
        with pytest.raises(AudioError, match="NaN or infinite"):
            extract(np.full(2000, np.nan, np.float32))


def test_encoders_say_what_their_columns_are():
    frames, summary = create_encoder("egemaps"), create_encoder("egemaps-functionals")
    assert (frames.dim, frames.feature_names) == (25, LLD_NAMES)
    assert (summary.dim, summary.feature_names) == (88, FUNCTIONAL_NAMES)
    assert frames.fingerprint() != summary.fingerprint()
    first = frames.fingerprint()
    frames.revision += 1
    assert frames.fingerprint() != first


def test_an_encoder_without_a_graph_says_so_when_it_is_exported():
    with pytest.raises(Exception, match="egemaps is not a graph of tensors: it cannot be compiled or exported"):
        torch.export.export(create_encoder("egemaps"), (torch.zeros(1, 2000), torch.tensor([2000])))


def test_extremes_stand_out_by_a_tenth_of_the_range():
    contour = np.array([0, 0, 1, 5, 10, 9.5, 9.7, 4, 3, 0, 2, 6, 2, 1, 1.0])
    assert find_extremes(contour) == [(True, 4, 10.0), (False, 9, 0.0), (True, 11, 6.0)]
    assert find_extremes(np.arange(9.0)) == []


@pytest.mark.parametrize(
    ("flags", "lengths"),
    [("", []), ("110011", []), ("0111100", [3]), ("11101110", [6]), ("1110011100", [2, 2]), ("0111", [2])],
)
def test_segments_need_three_frames_end_with_two_others_and_count_one_less(flags, lengths):
    assert segment_lengths(np.array([flag == "1" for flag in flags])) == lengths


def test_smoothing_leaves_zeros_alone_and_repeats_the_last_frame():
    contour = np.array([[0], [3], [6], [0], [9.0]])
    assert smooth_nonzero(contour)[:, 0].tolist() == [0, 4.5, 4.5, 0, 9, 9]
    assert smooth_nonzero(contour, paused=2)[:, 0].tolist() == [0, 3, 3, 0, 9, 9]


def test_the_path_is_the_cheapest_one():
    rng = np.random.default_rng(0)
    local, transition = rng.uniform(0, 3, (6, 3)), rng.uniform(0, 3, (5, 3, 3))
    path, decided = best_path(local, transition)
    paths = np.stack(np.meshgrid(*[np.arange(3)] * 6, indexing="ij"), -1).reshape(-1, 6)
    costs = sum(local[step, paths[:, step]] for step in range(6))
    costs = costs + sum(transition[step, paths[:, step + 1], paths[:, step]] for step in range(5))
    assert path.tolist() == paths[costs.argmin()].tolist()
    assert 0 <= decided < 6


def test_paths_that_stay_apart_are_decided_after_forty_frames():
    count = 100
    stay = np.where(np.eye(2, dtype=bool), 0.0, 1e6) * np.ones((count - 1, 1, 1))
    local = np.zeros((count, 2))
    local[:50, 1], local[50:, 0] = 1.0, 5.0  # the first state looks better for long, the second in the end
    path, decided = best_path(local, stay)
    turn = int(path.argmax())
    assert decided == count - MEMORY + 1
    assert path.tolist() == [0] * turn + [1] * (count - turn) and 0 < turn < 30
