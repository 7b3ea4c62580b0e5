"""Where speech begins and ends: Silero's rules, the same however a recording is cut, exact, bounded, and right."""

from __future__ import annotations

import hashlib
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soxr
from hypothesis import example, given
from hypothesis import strategies as st

from serkit.data.audio import read_audio
from serkit.errors import AudioError, InputError
from serkit.inference import silero, speech
from serkit.inference.speech import Edge, SpeechDetector, SpeechOptions

PUBLISHED = SpeechOptions(min_silence=0.1, start_shift=-0.03, end_shift=0.03, level=None)
EXACT = SpeechOptions(min_silence=0.1, start_shift=0, end_shift=0, level=None)


class Plain:
    """A network that takes the last sample of a window for the probability."""

    def push(self, window):
        return float(window[-1])


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(speech, "Silero", Plain)


@pytest.fixture(scope="module")
def clips(corpus_root):
    """Six utterances of five speakers, 1.9 to 4.4 s, at 16 kHz."""
    emodb, ravdess = corpus_root("emodb") / "wav", corpus_root("ravdess")
    names = [emodb / f"{name}.flac" for name in ("03a01Fa", "03a02Nc", "08a01Na", "16a02Ec")]
    names += [ravdess / f"Actor_{name}.flac" for name in ("03/03-01-06-01-02-01-03", "12/03-01-03-01-01-01-12")]
    return [read_audio(name) for name in names]


@pytest.fixture(scope="module")
def recording(clips):
    """Three utterances with 0.8 s of silence around each."""
    gap = np.zeros(12_800, np.float32)
    return np.concatenate([gap, *(part for clip in clips[:3] for part in (clip, gap))])


def hear(samples, rate=16_000, options=None, cuts=()):
    """Push ``samples`` in pieces that end at ``cuts``; every promise about ``known`` is checked on the way."""
    detector = SpeechDetector(rate, options or SpeechOptions())
    found, known = [], 0
    borders = [0, *sorted(cuts), len(samples)]
    for start, end in pairwise(borders):
        edges = detector.push(samples[start:end])
        assert all(known <= edge.position <= detector.known for edge in edges)
        assert known <= detector.known <= end
        known, found = detector.known, found + edges
    last = detector.finish()
    assert all(known <= edge.position for edge in last)
    assert detector.known == len(samples)
    found += last
    assert [edge.speech for edge in found] == [True, False] * (len(found) // 2)
    assert all(a.position <= b.position for a, b in pairwise(found))
    return found


def windows(probabilities):
    """Samples of which :class:`Plain` hears ``probabilities``."""
    return np.repeat(np.array(probabilities, np.float32), silero.WINDOW)


def published(probabilities, length, min_speech=0.25, min_silence=0.1, threshold=0.5, pad=0.03):
    """The stretches of speech by Silero's rules, written for whole recordings."""
    stretches, start, silent = [], None, None
    for number, probability in enumerate(probabilities):
        here = number * 512
        if probability >= threshold:
            start, silent = here if start is None else start, None
        elif start is not None and probability < max(threshold - 0.15, 0.01):
            silent = here if silent is None else silent
            if here - silent >= min_silence * 16_000:
                stretches.append((start, silent))
                start = silent = None
    if start is not None:
        stretches.append((start, length))
    kept = [(first, last) for first, last in stretches if last - first > min_speech * 16_000]
    room = int(pad * 16_000)  # a silence is longer than two of these: no two stretches meet
    return [(max(0, first - room), min(length, last + room)) for first, last in kept]


def pairs(edges):
    return [(first.position, last.position) for first, last in zip(edges[::2], edges[1::2], strict=True)]


RUNS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.34, 0.5, 0.7, 1.0]), st.integers(1, 14)), max_size=30)


def unrolled(runs):
    return [value for value, count in runs for _ in range(count)]


@example([(1.0, 8), (0.0, 5), (1.0, 9), (0.0, 3), (1.0, 9), (0.0, 4), (1.0, 9)], 0, 0.256, 0.096)
@given(RUNS, st.integers(0, 511), st.sampled_from([0.0, 0.25, 0.256]), st.sampled_from([0.096, 0.1]))
def test_stretches_are_those_of_the_published_rules(runs, missing, min_speech, min_silence):
    probabilities = [*unrolled(runs), 0.0, 0.0, 0.0, 0.0, 0.0]  # the recording ends in silence
    samples = windows(probabilities)[: len(probabilities) * 512 - missing]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "Silero", Plain)
        options = replace(PUBLISHED, min_speech=min_speech, min_silence=min_silence)
        assert pairs(hear(samples, options=options)) == published(probabilities, len(samples), min_speech, min_silence)


def test_published_rules_on_the_probabilities_of_real_speech(recording):
    network = silero.Silero()
    samples = recording[: len(recording) // 512 * 512]
    probabilities = [network.push(window) for window in samples.reshape(-1, 512)]
    expected = published(probabilities, len(samples))
    assert len(expected) >= 3
    assert pairs(hear(samples, options=PUBLISHED)) == expected


ANY = st.lists(st.floats(0, 1, width=32), max_size=60)


@given(ANY, st.lists(st.integers(0, 60 * 512), max_size=12), st.sampled_from([PUBLISHED, SpeechOptions()]))
def test_cuts_change_nothing_by_rules(probabilities, cuts, options):
    samples = windows(probabilities)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "Silero", Plain)
        cuts = [min(cut, len(samples)) for cut in cuts]
        assert hear(samples, options=options, cuts=cuts) == hear(samples, options=options)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_cuts_change_nothing_in_real_speech(recording, rate):
    samples = recording if rate == 16_000 else soxr.resample(recording, 16_000, rate)
    whole = hear(samples, rate)
    assert len(whole) >= 6
    rng = np.random.default_rng(rate)
    for count in (3, 40, 400):
        assert hear(samples, rate, cuts=rng.integers(0, len(samples), count)) == whole


def test_network_hears_what_was_before(recording):
    """Silero's own wrapper puts 64 samples before each window and passes the state on; a new detector has neither."""
    path = Path(str(silero.NETWORK))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    padded = np.concatenate([np.zeros(64, np.float32), recording])
    state, expected = np.zeros((2, 1, 128), np.float32), []
    for start in range(0, 60 * 512, 512):
        feeds = {"input": padded[None, start : start + 576], "state": state, "sr": np.array(16_000, np.int64)}
        probability, state = session.run(None, feeds)
        expected.append(probability.item())
    for _ in range(2):
        network = silero.Silero()
        heard = [network.push(window) for window in recording[: 60 * 512].reshape(-1, 512)]
        np.testing.assert_allclose(heard, expected, atol=1e-5)
    assert max(expected) > 0.9 > 0.1 > min(expected)


@pytest.mark.parametrize("sound", ["silence", "faint", "noise", "loud noise", "tone", "clicks", "constant"])
def test_what_is_no_speech(sound, make_tone):
    rng, size = np.random.default_rng(0), 160_000
    samples = {
        "silence": np.zeros(size),
        "faint": 1e-4 * rng.standard_normal(size),
        "noise": 0.05 * rng.standard_normal(size),
        "loud noise": rng.uniform(-1, 1, size),
        "tone": make_tone(10.0, frequency=440)[:, 0],
        "clicks": (np.arange(size) % 8000 == 0).astype(float),
        "constant": np.ones(size),
    }[sound]
    assert hear(samples.astype(np.float32)) == []


def energy_edges(wave, below=35.0):
    """First and last 20 ms within ``below`` dB of the loudest, in samples."""
    sums = np.concatenate([[0], np.cumsum(np.square(wave, dtype=np.float64))])
    starts = np.arange(0, len(wave) - 320, 80)
    power = sums[starts + 320] - sums[starts]
    loud = np.flatnonzero(power > power.max() * 10 ** (-below / 10)) * 80 + 160
    return loud[0], loud[-1]


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_edges_of_known_clips(clips, noise):
    """To 0.1 s for all but two of twelve edges, half of them to 0.02 s in silence, to 0.07 s in noise 20 dB below."""
    rng, off = np.random.default_rng(1), []
    for clip in clips:
        clip = 0.3 * clip / np.abs(clip).max()
        gap, (first, last) = np.zeros(20_000, np.float32), energy_edges(clip)
        samples = np.concatenate([gap, clip, gap])
        edges = hear((samples + noise * rng.standard_normal(len(samples))).astype(np.float32))
        assert edges[0].speech and not edges[-1].speech
        off += [edges[0].position - 20_000 - first, edges[-1].position - 20_000 - last]
    assert sum(abs(each) > 1_600 for each in off) <= 2, off
    assert np.median(np.abs(off)) <= (320 if noise == 0 else 1_120), off


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_have_the_same_edges(recording, rate):
    expected = hear(recording)
    found = hear(soxr.resample(recording, 16_000, rate), rate)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.speech == theirs.speech
        assert abs(ours.position / rate - theirs.position / 16_000) <= (0.05 if rate < 16_000 else 0.035)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_speech_that_goes_on_ends_with_the_recording(clips, rate):
    cut = clips[0][: len(clips[0]) // 2 + 77]
    samples = cut if rate == 16_000 else soxr.resample(cut, 16_000, rate)
    found = hear(samples, rate)
    assert found[-1] == Edge(len(samples), False)


def test_speech_that_has_fallen_silent_ends_there(plain):
    assert hear(windows([1] * 20 + [0] * 2), options=EXACT) == [Edge(0, True), Edge(20 * 512, False)]
    assert hear(windows([1] * 20 + [0])[:-300], options=EXACT) == [Edge(0, True), Edge(20 * 512, False)]


def test_speech_too_short_is_dropped_at_the_end_as_well(plain):
    assert hear(windows([0, 1, 1, 1, 1, 1, 1, 1]), options=EXACT) == []
    assert hear(windows([0, 1, 1, 1, 1, 1, 1, 1, 1]), options=EXACT) == [Edge(512, True), Edge(9 * 512, False)]


def test_probabilities_between_the_thresholds_do_not_put_off_the_end(plain):
    detector = SpeechDetector(options=EXACT)
    assert detector.push(windows([1] * 20)) == [Edge(0, True)]
    assert detector.push(windows([0.4] * 40)) == []
    assert detector.push(windows([0.3] + [0.4] * 5)) == [Edge(60 * 512, False)]


@given(st.lists(st.sampled_from([0.0, 0.3, 0.4, 0.6, 1.0]), max_size=100), st.sampled_from([16_000, 44_100, 8_000]))
def test_delay_is_bounded(probabilities, rate):
    """Whatever is heard, what is known is never further behind than the class says."""
    options = SpeechOptions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "Silero", Plain)
        detector = SpeechDetector(rate, options)
        samples = soxr.resample(windows(probabilities), 16_000, rate) if rate != 16_000 else windows(probabilities)
        bound = speech.BEFORE + options.min_speech + options.min_silence + 0.1 + (0 if rate == 16_000 else 0.12)
        for start in range(0, len(samples), rate // 100):
            piece = samples[start : start + rate // 100]
            detector.push(piece)
            assert (start + len(piece) - detector.known) / rate <= bound


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_nothing_drifts(plain, rate):
    """Bursts in every second minute of 20 are found where they are, the last as the first, in pieces of odd length."""
    detector, found, places = SpeechDetector(rate, EXACT), [], [(60 + 120 * n) * rate + 12_345 for n in range(10)]
    piece = 7 * rate + 13
    for start in range(0, 20 * 60 * rate, piece):
        samples = np.zeros(piece, np.float32)
        for place in places:
            low, high = np.clip([place - start, place + rate - start], 0, piece)
            samples[low:high] = 0.9
        found += detector.push(samples)
    found += detector.finish()
    window = 512 * rate / 16_000
    assert len(found) == 20
    for place, (first, last) in zip(places, pairs(found), strict=True):
        assert -window - 2 <= first - place <= window and -window - 2 <= last - place - rate <= window


def test_positions_are_whole_samples_however_far(plain):
    """After 40 years the third of a sample still counts."""
    detector = SpeechDetector(44_100, EXACT)
    far = 40 * 365 * 24 * 3600 * 16_000 + 512
    assert detector._position(far) == 40 * 365 * 24 * 3600 * 44_100 + 1411  # 512 samples are 1411.2
    assert detector._position(far + 1) - detector._position(far) in (2, 3)


def answer_with(monkeypatch, probabilities):
    """Let the network give these probabilities, whatever it hears."""
    left = iter(probabilities)
    monkeypatch.setattr(speech, "Silero", Plain)
    monkeypatch.setattr(Plain, "push", lambda self, window: next(left))


def burst(background, rng):
    """Half a second of noise, 1 s into 2.5 s of ``background``; the network's edges are 50 ms early and 60 ms late."""
    samples = background * rng.standard_normal(40_000)
    samples[16_000:24_000] += 0.1 * rng.standard_normal(8_000)
    numbers = np.arange(40_000 // 512 + 1) * 512
    return samples.astype(np.float32), ((numbers >= 15_200) & (numbers < 24_900)).astype(float)


def test_edges_go_where_loudness_rises_and_falls_if_it_is_quiet(monkeypatch):
    samples, probabilities = burst(1e-4, np.random.default_rng(0))
    answer_with(monkeypatch, probabilities)
    first, last = hear(samples)
    assert abs(first.position - 16_000) <= 320 and abs(last.position - 24_000) <= 320


@pytest.mark.parametrize("background", [0.002, 0.01])
def test_edges_are_only_moved_by_a_fixed_time_in_noise(monkeypatch, background):
    samples, probabilities = burst(background, np.random.default_rng(0))
    answer_with(monkeypatch, probabilities)
    first, last = hear(samples)
    options = SpeechOptions()
    assert first.position == 30 * 512 + int(options.start_shift * 16_000)
    assert last.position == 49 * 512 + int(options.end_shift * 16_000)


def test_loudness_is_that_of_each_stretch(monkeypatch):
    """What is 36 dB below an earlier stretch still has its edges found."""
    (loud, first), (faint, second) = (burst(1e-6, np.random.default_rng(seed)) for seed in range(2))
    size = len(first) * 512
    samples = np.concatenate([np.pad(loud, (0, size - len(loud))), 10**-1.8 * faint])
    answer_with(monkeypatch, [*first, *second])
    edges = hear(samples.astype(np.float32))
    expected = [16_000, 24_000, size + 16_000, size + 24_000]
    assert np.abs(np.array([edge.position for edge in edges]) - expected).max() <= 320


def test_memory_does_not_grow(plain):
    detector, piece, sizes = SpeechDetector(44_100), np.full(44_100, 0.9, np.float32), []
    tracemalloc.start()
    for second in range(60):
        detector.push(piece)
        if second % 20 == 19:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert max(sizes) - sizes[0] < 20_000, sizes


def test_threads_do_not_mix(clips):
    alone = [hear(clip, cuts=range(0, len(clip), 1600)) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda clip: hear(clip, cuts=range(0, len(clip), 1600)), clips)) == alone


def test_nothing_pushed_is_nothing_known():
    for rate in (16_000, 44_100):
        detector = SpeechDetector(rate)
        assert detector.push(np.zeros(0, np.float32)) == [] and detector.known == 0
        assert detector.finish() == [] and detector.known == 0
        assert detector.finish() == []


def test_empty_pushes_change_nothing(recording):
    cuts = np.repeat(np.arange(0, len(recording), 8_000), 2)
    assert hear(recording, cuts=cuts) == hear(recording)


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        (np.zeros((2, 8), np.float32), InputError, "mono"),
        (np.zeros(8, np.int16), InputError, "floats"),
        (np.array([0, np.nan], np.float32), AudioError, "NaN"),
    ],
)
def test_bad_samples_are_refused_and_change_nothing(samples, error, words, recording):
    detector = SpeechDetector()
    detector.push(recording[:9_000])
    with pytest.raises(error, match=words):
        detector.push(samples)
    found = detector.push(recording[9_000:]) + detector.finish()
    assert found == hear(recording)


def test_a_finished_recording_takes_no_more():
    detector = SpeechDetector()
    detector.finish()
    with pytest.raises(InputError, match="new detector"):
        detector.push(np.zeros(16, np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.0}, {"threshold": 1.5}, {"hysteresis": -0.1}, {"min_speech": -1}, {"min_silence": float("nan")},
        {"start_shift": 0.1}, {"end_shift": 2.0}, {"level": 0.0}, {"min_silence": 0.05, "end_shift": 0.0},
    ],
)  # fmt: skip
def test_options_out_of_range(options):
    with pytest.raises(InputError, match="speech: "):
        SpeechOptions(**options)


@pytest.mark.parametrize("rate", [0, 999, 16_000.5, 2_000_000, float("nan")])
def test_rates_out_of_range(rate):
    with pytest.raises(InputError, match="sampling rate"):
        SpeechDetector(rate)


def test_the_network_is_that_of_silero():
    digest = hashlib.sha256(Path(str(silero.NETWORK)).read_bytes()).hexdigest()
    assert digest == "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
