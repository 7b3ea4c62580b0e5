"""The scripts that judge timelines: compositions are what they say, and what was tuned is what the engine does."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from serkit.data.manifest import Manifest
from serkit.evaluation.timelines import Stretch, Track
from serkit.inference.bundle import DEFAULT
from serkit.inference.cuts import TimelineOptions
from serkit.inference.predictor import Predictor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EMOTIONS = ("angry", "calm", "happy", "sad")


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def compositions(scripts):
    return importlib.import_module("compositions")


@pytest.fixture(scope="module")
def timeline(scripts):
    return importlib.import_module("timeline")


@pytest.fixture(scope="module")
def hour(scripts):
    return importlib.import_module("hour")


def tone(seconds: float, frequency: float) -> np.ndarray:
    time = np.arange(int(seconds * 16_000)) / 16_000
    return 0.1 * np.sin(2 * np.pi * frequency * time) * (1 + 0.5 * np.sin(2 * np.pi * 3 * time))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Twenty clips of two speakers: a tone of 0.4 s or more with 0.2 s of silence before and 0.5 s after it."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for number in range(20):
        waveform = np.concatenate([np.zeros(3200), tone(0.4 + 0.08 * number, 200 + 40 * number), np.zeros(8000)])
        soundfile.write(folder / f"{number}.wav", waveform, 16_000, "FLOAT")
        told = {"emotion": EMOTIONS[number % 4], "speaker": str(number % 2), "corpus": "made"}
        rows.append({"id": str(number), "audio": str(folder / f"{number}.wav"), "start": None, "end": None, **told})
    return pl.DataFrame(rows)


# Compositions


def test_the_active_part_of_a_clip_is_cut_with_margins_that_fade(compositions, clips):
    piece, first, last = compositions.cut_clip(clips["audio"][5], None, None)
    assert (first, last) == (800, 800 + 12_800)
    assert len(piece) == last + 800
    assert piece[0] == piece[-1] == 0
    noisy = np.random.default_rng(0).normal(0, 1e-4, 20_000)
    noisy[6400:9600] += tone(0.2, 300)
    assert compositions.find_active(noisy) == (6400, 9600)


def test_a_composition_is_its_clips_between_pauses(compositions, clips):
    made = [compositions.compose("tune", number, (0.3, 1.0), (10, 12), clips) for number in range(8)]
    assert {each.noise for each in made} >= {"silence"} and len({each.noise for each in made}) > 2
    for each in made:
        spans = np.array([(stretch.start, stretch.end) for stretch in each.stretches])
        gaps = np.append(spans[:, 0], each.seconds) - np.insert(spans[:, 1], 0, 0)
        assert (gaps >= 0.3 - 1e-4).all() and (gaps <= 1.0).all()
        assert 10 <= each.seconds < 14
        labels = [emotion.replace("calm", "neutral") for emotion in clips["emotion"]]
        assert [stretch.label for stretch in each.stretches] == labels[: len(spans)]
        np.testing.assert_allclose(np.ptp(spans, axis=1), 0.4 + 0.08 * np.arange(len(spans)), atol=0.021)
        assert [[turn.start, turn.end] for turn in each.turns] == spans.tolist()
        assert np.abs(each.waveform).max() <= 1
        inside = np.zeros(len(each.waveform), bool)
        for start, end in spans:
            inside[int(start * 16_000) : int(end * 16_000)] = True
        loud, rest = (float(np.sqrt((each.waveform[where].astype(float) ** 2).mean())) for where in (inside, ~inside))
        if each.noise == "silence":
            assert each.snr is None and rest < 1e-4 * loud
        else:
            assert 10 <= each.snr <= 30
            assert 20 * np.log10(loud / rest) == pytest.approx(each.snr, abs=5)
    again = compositions.compose("tune", 3, (0.3, 1.0), (10, 12), clips)
    assert (again.waveform == made[3].waveform).all() and again.stretches == made[3].stretches
    assert len(compositions.compose("test", 3, (0.3, 1.0), (10, 12), clips).waveform) != len(again.waveform)


def test_clips_may_follow_each_other_without_a_pause(compositions, clips):
    made = compositions.compose("tune", 0, (0.0, 0.0), (10, 12), clips)
    assert [each.start for each in made.stretches[1:]] == [each.end for each in made.stretches[:-1]]
    assert made.stretches[0].start == 0


@pytest.mark.parametrize("kind", ["white", "pink", "room"])
def test_noises_are_of_unit_power_and_differ_in_colour(compositions, kind):
    noise = compositions.make_noise(kind, 64_000, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(64_000, 1 / 16_000)
    low, high = (power[(frequency > a) & (frequency < 2 * a)].sum() for a in (400, 3200))
    assert noise.std() == pytest.approx(1)
    octaves = {"white": (8, 0.1), "pink": (1, 0.1), "room": (2**-1.5, 0.25)}
    ratio, tolerance = octaves[kind]
    assert high / low == pytest.approx(ratio, rel=tolerance)


def test_thirds_share_no_speaker_and_hold_all_of_them(compositions, monkeypatch):
    def prepare(name, root):
        count = {"emodb": 10, "emovo": 6, "ravdess": 24}[name]
        rows = [
            {
                "id": f"{name}-{n}-{k}",
                "audio": f"{n}.wav",
                "speaker": f"s{n}",
                "gender": "fm"[n % 2],
                "emotion": "bored" if k == 4 else EMOTIONS[k],
                "corpus": name,
            }
            for n in range(count)
            for k in range(5)
        ]
        return Manifest.from_rows(rows)

    monkeypatch.setattr(compositions, "prepare_corpus", prepare)
    compositions.read_corpora.cache_clear()
    try:
        table = compositions.read_corpora()
        assert len(table) == 5 * 40
        sides = table.group_by("corpus", "speaker").agg(pl.col("third").n_unique())
        assert len(sides) == 40 and (sides["third"] == 1).all()
        counts = table.select("corpus", "speaker", "third").unique().group_by("corpus", "third").len()
        assert dict(counts.filter(corpus="ravdess").select("third", "len").iter_rows()) == dict.fromkeys(
            compositions.THIRDS, 8
        )
        for number in range(12):
            chosen = compositions.choose_clips("test", number, np.random.default_rng(number))
            assert chosen["third"].unique().to_list() == ["test"]
            assert chosen["corpus"].unique().to_list() == [compositions.CORPORA[number % 3]]
            assert "bored" not in chosen["emotion"]
            speakers = chosen["speaker"].n_unique()
            assert speakers == 1 if number // 3 == 3 else 2 <= speakers <= 4
    finally:
        compositions.read_corpora.cache_clear()


# What was tuned


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize(("window", "hop"), [(1.0, 0.5), (2.0, 0.5), (1.5, 1.5)])
def test_the_variants_start_from_what_the_engine_says(compositions, timeline, tmp_path, turns, window, hop):
    paths = sorted(str(path) for path in (BENCHMARKS.parent / "examples").glob("*.flac"))
    told = {"start": None, "end": None, "emotion": "sad", "speaker": "1", "corpus": "made"}
    spoken = pl.DataFrame([{"audio": path, **told} for path in paths])
    made = compositions.compose("tune", 1, (0.3, 1.0), (10, 12), spoken)
    memory = timeline.Memory(DEFAULT, tmp_path / "said.npz")
    system = timeline.System(window, hop, speech=None, turns=turns)
    judge = timeline.Judge(memory, [made])
    ours = judge.follow(made, system)
    line = Predictor(DEFAULT).timeline(
        made.waveform, options=TimelineOptions(window, hop, speech=False), turns=made.turns if turns else None
    )
    assert ours.stretches == tuple(Stretch(each.start, each.end, each.label) for each in line.segments)
    assert len({each.label for each in ours.stretches}) > 1
    memory.save()
    asked, again = memory.asked, timeline.Memory(DEFAULT, tmp_path / "said.npz")
    again.bundle = None  # all of it is known
    assert timeline.Judge(again, [made]).follow(made, system) == ours
    assert again.asked == asked > 0


def test_speech_is_found_once_and_replayed(compositions, timeline, clips, tmp_path, monkeypatch):
    made = compositions.compose("tune", 1, (0.3, 1.0), (10, 12), clips)
    judge = timeline.Judge(timeline.Memory(DEFAULT, tmp_path / "said.npz"), [made])
    edges = [timeline.Edge(16_000, True), timeline.Edge(40_000, False), timeline.Edge(60_000, True)]
    judge.edges[(made.id, timeline.SpeechOptions())] = edges
    monkeypatch.setattr(timeline, "SpeechDetector", None)
    found = judge.hear(made, timeline.System(1.0, 0.5))
    assert [(each.start, each.end) for each in found] == [(16_000, 40_000), (60_000, len(made.waveform))]
    whole = judge.hear(made, timeline.System(0.0))
    assert [each.spans.tolist() for each in whole] == [[[each.start, each.end]] for each in found]


def test_smoothing_by_hand(timeline):
    said = timeline.Said(0, 48_000, np.array([[0, 32_000], [16_000, 48_000]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    uniform = timeline.smooth(said, timeline.System(2.0, 1.0, weights="uniform"))[1]
    np.testing.assert_allclose(uniform, [[1, 0], [0.5, 0.5], [0, 1]])
    edges, cells = timeline.smooth(said, timeline.System(2.0, 1.5))
    assert edges.tolist() == [0, 24_000, 48_000]
    near, far = 1.5 * (1 - 0.25 / 2), 0.5 * (1 - 1.25 / 2)
    np.testing.assert_allclose(cells[0], [near / (near + far), far / (near + far)])


def test_penalty_and_least_join_short_stretches(timeline):
    cells = np.array([[0.9, 0.1]] * 3 + [[0.4, 0.6]] + [[0.9, 0.1]] * 3)
    edges = np.arange(8) * 16_000.0
    system = timeline.System(hop=1.0)
    assert timeline.decode(edges, cells, system) == [(0, 3), (3, 4), (4, 7)]
    gain = np.log(0.6 / 0.4)  # against two changes
    assert timeline.decode(edges, cells, timeline.System(penalty=gain / 2 - 0.01)) == [(0, 3), (3, 4), (4, 7)]
    assert timeline.decode(edges, cells, timeline.System(penalty=gain / 2 + 0.01)) == [(0, 7)]
    assert timeline.decode(edges, cells, timeline.System(least=1.0)) == [(0, 3), (3, 4), (4, 7)]
    assert timeline.decode(edges, cells, timeline.System(least=2.0)) == [(0, 7)]


def test_figures_by_hand(timeline):
    reference = Track("a", (Stretch(1, 2, "angry"), Stretch(3, 5, "neutral"), Stretch(6, 7, "sad")), 10.0)
    said = Track("a", (Stretch(1.05, 2.5, "angry"), Stretch(3, 4, "happy"), Stretch(4, 5, "neutral")), 10.0)
    assert timeline.count_right(reference, said) == pytest.approx((0.95 + 1, 4))
    np.testing.assert_allclose(timeline.distances(reference, said, "start"), [0.05, 0, 2])
    np.testing.assert_allclose(timeline.distances(reference, said, "end"), [0.5, 0, 2])
    assert (timeline.distances(reference, Track("a", ()), "end") == 10).all()
    compositions = importlib.import_module("compositions")
    made = compositions.Composition(
        "a", "emodb", np.zeros(160_000, np.float32), reference.stretches, (), "silence", None
    )
    other = replace(made, id="b")
    found = timeline.measure_tracks([made, other], [said, replace(said, id="b")])
    assert found["each"] == pytest.approx([2.55, 2.55])
    assert found["missed"] == pytest.approx([0.105] * 3)
    assert found["false_alarm"] == pytest.approx([0.15] * 3)
    assert found["confusion"] == [0, 0, 0]
    assert found["eder"] == pytest.approx([0.255] * 3)
    assert found["groups"]["emodb"] == found["groups"]["silence"] == pytest.approx([0.255] * 3 + [2])
    assert set(found["groups"]) == {"emodb", "silence", "several speakers"}
    assert found["right when both"] == [1, 1, 1]
    assert found["right of speech"] == pytest.approx([1.95 / 4] * 3, abs=1e-4)
    assert found["starts"] == pytest.approx([2 / 3] * 3, abs=1e-4)
    assert found["ends"] == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert found["start median"] == [0.05] * 3


# An hour


@pytest.mark.parametrize("kind", ["wav", "mp3", "m4a"])
def test_recordings_are_written_in_every_format_without_a_shift(hour, compositions, clips, tmp_path, kind):
    from serkit.data.audio import read_audio

    made = compositions.compose("tune", 1, (0.3, 1.0), (5, 6), clips)
    heard = read_audio(hour.write_recording(made, tmp_path / f"long.{kind}"))
    assert abs(len(heard) - len(made.waveform)) < 4096
    size = min(len(heard), len(made.waveform))
    assert abs(hour.find_lag(heard[:size], made.waveform[:size])) <= 100


def test_lag_is_positive_where_something_comes_late(hour):
    early = np.random.default_rng(0).normal(size=8000)
    late = np.concatenate([np.zeros(160), early[:-160]])
    assert hour.find_lag(late, early) == 10
    assert hour.find_lag(early, late) == -10


def test_drift_is_signed_and_of_both_ends_of_the_hour(hour, compositions):
    stretches = tuple(Stretch(10.0 * k, 10.0 * k + 4, "sad") for k in range(1, 100))
    made = compositions.Composition("a", "emodb", np.zeros(16_000_000, np.float32), stretches, (), "silence", None)
    said = [{"start": each.start * 1.0001, "end": each.end - 0.02} for each in stretches]
    found = hour.measure_drift(made, said)
    assert found["starts"] == pytest.approx([14.5, 85.0], abs=1)
    assert found["ends"] == pytest.approx([-20, -20])
