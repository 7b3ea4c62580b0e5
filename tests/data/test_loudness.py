"""Loudness: what is measured, what is written, what is left as it is, and runs that are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from serkit.data.audio import read_channels
from serkit.data.loudness import JOURNAL, measure_loudness, normalise_loudness
from serkit.data.manifest import Manifest
from serkit.errors import AudioError, InputError


def manifest_of(*paths):
    return Manifest.from_rows([{"id": path.stem, "audio": str(path)} for path in paths])


@pytest.fixture
def speechlike(tmp_path):
    """``speechlike(name, rate, channels, level, seed, subtype)`` writes 1.5 s of noise in syllables below in/."""

    def write(name, rate=16_000, channels=1, level=0.05, seed=0, subtype=None, seconds=1.5):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        syllables = np.abs(np.sin(np.arange(round(seconds * rate)) / rate * 9))[:, None]
        samples = np.clip(level * syllables * rng.normal(size=(len(syllables), channels)), -1, 1)
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def quiet(speechlike):
    """A recording whose softer half is below -70 LUFS, and counts when a gain has lifted it."""
    path = speechlike("quiet.wav", level=5e-4, subtype="FLOAT", seconds=4)
    samples, rate = read_channels(path)
    samples[: 2 * rate] *= 0.35
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def test_a_full_scale_sine_of_997_hz_has_the_loudness_of_the_standard():
    """-3.01 LUFS in one channel and 0 in two; EBU Tech 3341 allows 0.1."""
    sine = np.sin(2 * np.pi * 997 * np.arange(4 * 48_000) / 48_000)
    assert measure_loudness(sine, 48_000) == pytest.approx(-3.01, abs=0.1)
    assert measure_loudness(np.stack([sine, sine], 1), 48_000) == pytest.approx(0.0, abs=0.1)
    assert measure_loudness(np.zeros(48_000), 48_000) == -np.inf


FORMS = [
    ("mono.wav", {}, ".wav", "PCM_24"),
    ("deep/stereo.WAV", {"channels": 2, "rate": 44_100, "seed": 1}, ".WAV", "PCM_24"),
    ("deep/down/float.wav", {"subtype": "FLOAT", "rate": 8000, "level": 0.4}, ".wav", "PCM_24"),
    ("a.b (1).flac", {"rate": 48_000, "level": 0.002}, ".flac", "PCM_24"),
    ("small.ogg", {"rate": 22_050, "seed": 3}, ".flac", "PCM_24"),
    ("chirp.aiff", {"seconds": 0.45}, ".flac", "PCM_24"),
]


@pytest.mark.parametrize("lufs", [-23.0, -30.0])
def test_copies_have_the_loudness_the_path_the_rate_and_the_channels(tmp_path, speechlike, lufs):
    paths = [speechlike(name, **form) for name, form, *_ in FORMS]
    levelled, lines = normalise_loudness(manifest_of(*paths), tmp_path / "out", lufs, workers=1)
    by_name = {os.path.basename(line.recording): line for line in lines}
    for (name, _, ending, subtype), path, audio in zip(FORMS, paths, levelled.table["audio"], strict=True):
        assert audio == str((tmp_path / "out" / name).with_suffix(ending))
        before, after = soundfile.info(path), soundfile.info(audio)
        assert (after.samplerate, after.channels, after.frames) == (before.samplerate, before.channels, before.frames)
        assert after.subtype == subtype
        line, (samples, rate) = by_name[path.name], read_channels(audio)
        assert measure_loudness(samples, rate) == pytest.approx(lufs, abs=0.1)
        assert line.loudness + line.gain == pytest.approx(lufs, abs=0.01)
        assert np.abs(samples).max() == pytest.approx(line.peak, abs=1e-6)
    assert levelled.ids == [path.stem for path in paths]


def test_the_gain_is_that_of_audiomentations(tmp_path, speechlike, quiet, monkeypatch):
    """Its LoudnessNormalization measured with pyloudnorm when Wilke et al. normalised recordings with it."""
    augment, pyloudnorm = pytest.importorskip("audiomentations"), pytest.importorskip("pyloudnorm")
    meter = SimpleNamespace(integrated_loudness=lambda x, rate: pyloudnorm.Meter(rate).integrated_loudness(x))
    monkeypatch.setitem(sys.modules, "loudness", meter)
    transform = augment.LoudnessNormalization(min_lufs=-23, max_lufs=-23, p=1)
    paths = [speechlike("a.wav"), speechlike("b.flac", channels=2, rate=44_100, level=0.01)]
    paths.append(quiet)
    levelled, _ = normalise_loudness(manifest_of(*paths), tmp_path / "out", once=True)
    usual, _ = normalise_loudness(manifest_of(*paths), tmp_path / "usual")
    for path, audio, other in zip(paths, levelled.table["audio"], usual.table["audio"], strict=True):
        assert (read_channels(audio)[0] == read_channels(other)[0]).all() == (path != quiet)
        samples, rate = read_channels(path)
        theirs = transform(np.ascontiguousarray(samples.T), rate)
        np.testing.assert_allclose(read_channels(audio)[0].T, theirs, rtol=1e-5, atol=3e-7)


def test_the_gain_of_a_quiet_recording_is_corrected(tmp_path, quiet):
    measured = {}
    for once in (True, False):
        levelled, (line,) = normalise_loudness(manifest_of(quiet), tmp_path / "out", once=once)
        measured[once] = measure_loudness(*read_channels(levelled.table["audio"][0]))
        assert line.once is once
    assert measured[True] < -23.5
    assert measured[False] == pytest.approx(-23, abs=0.01)


@pytest.mark.parametrize("name", ["click.wav", "click.flac", "click.aiff"])
def test_a_peak_beyond_full_scale_is_neither_clipped_nor_limited(tmp_path, speechlike, name):
    path = speechlike(name, level=0.01, subtype="PCM_24")
    samples, rate = read_channels(path)
    samples[8000] = 0.9
    soundfile.write(path, samples, rate, subtype="PCM_24")
    (audio,), (line,) = normalise_loudness(manifest_of(path), tmp_path / "out", -20)[0].table["audio"], _lines(tmp_path)
    assert audio == str(tmp_path / "out/click.wav") and line["peak"] > 1.5
    assert soundfile.info(audio).subtype == "FLOAT"
    copy, _ = read_channels(audio)
    np.testing.assert_allclose(copy, read_channels(path)[0] * 10 ** (line["gain"] / 20), rtol=1e-6)
    assert measure_loudness(copy, rate) == pytest.approx(-20, abs=0.1)
    # done again for another loudness, nothing of the first is left
    normalise_loudness(manifest_of(path), tmp_path / "out", -60)
    assert [file.name for file in (tmp_path / "out").glob("click.*")] == [name.replace("aiff", "flac")]


def _lines(tmp_path):
    return [json.loads(text) for text in (tmp_path / "out" / JOURNAL).read_text().split("\n") if text]


def test_short_and_silent_recordings_are_copied_bit_by_bit(tmp_path, speechlike):
    paths = [
        speechlike("short.wav", seconds=0.39),
        speechlike("empty.flac", level=0.0),
        speechlike("faint.ogg", level=1e-5),
    ]
    levelled, lines = normalise_loudness(manifest_of(*paths), tmp_path / "out", workers=1)
    kept = {os.path.basename(line.recording): (line.kept, line.gain) for line in lines}
    assert kept == {"short.wav": ("shorter than 0.4 s", None)} | dict.fromkeys(
        ("empty.flac", "faint.ogg"), ("silent", None)
    )
    for path, audio in zip(paths, levelled.table["audio"], strict=True):
        assert audio == str(tmp_path / "out" / path.name)
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_a_recording_of_several_utterances_is_done_once_and_other_columns_stay(tmp_path, speechlike):
    path = speechlike("talk/long.wav")
    rows = [{"id": f"u{n}", "audio": str(path), "start": n / 2, "end": n / 2 + 0.5, "take": "x"} for n in range(3)]
    levelled, lines = normalise_loudness(Manifest.from_rows(rows), tmp_path / "out", base=tmp_path / "in")
    assert len(lines) == 1
    assert levelled.table["audio"].to_list() == [str(tmp_path / "out/talk/long.wav")] * 3
    assert levelled.table.drop("audio").equals(Manifest.from_rows(rows).table.drop("audio"))
    assert levelled.validate() == []


def test_processes_do_the_same_as_one(tmp_path, speechlike):
    paths = [speechlike(f"{n}.wav", seed=n, level=0.01 + n / 100) for n in range(16)]
    _, alone = normalise_loudness(manifest_of(*paths), tmp_path / "one", workers=1)
    _, together = normalise_loudness(manifest_of(*paths), tmp_path / "out", workers=2)
    assert alone == together
    for path in paths:
        assert (tmp_path / "one" / path.name).read_bytes() == (tmp_path / "out" / path.name).read_bytes()


# Mistakes


def test_a_broken_recording_is_named_when_the_others_are_done(tmp_path, speechlike):
    good, bad = speechlike("good.wav"), tmp_path / "in/bad.wav"
    bad.write_bytes(b"RIFF....")
    with pytest.raises(AudioError, match=r"bad\.wav: .* \(1 of 2 recordings cannot be normalised\)"):
        normalise_loudness(manifest_of(bad, good), tmp_path / "out", workers=1)
    assert (tmp_path / "out/good.wav").is_file() and not (tmp_path / "out/bad.wav").exists()


def test_more_channels_than_the_standard_knows_are_refused(tmp_path, speechlike):
    with pytest.raises(AudioError, match=r"six\.wav: its loudness cannot be measured"):
        normalise_loudness(manifest_of(speechlike("six.wav", channels=6)), tmp_path / "out")


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, speechlike):
    wav, flac, out = speechlike("a.wav"), speechlike("a.flac"), tmp_path / "out"
    for manifest, settings, message in [
        (manifest_of(wav, flac), {}, r"a\.wav and .*a\.flac: their copies would have the same name"),
        (manifest_of(wav), {"lufs": 3.0}, "3.0 LUFS is not between -60.0 and 0"),
        (manifest_of(wav), {"lufs": float("nan")}, "nan LUFS is not between"),
        (manifest_of(wav), {"output": tmp_path / "in"}, r"a\.wav: lies in .*in, where the copies go"),
        (manifest_of(wav), {"base": tmp_path / "other"}, r"a\.wav: is not below .*other"),
        (Manifest.from_rows([{"id": "x"}, {"id": "y", "audio": str(wav)}]), {}, "utterance x has no audio"),
        (Manifest.from_rows([]), {}, "has no utterances"),
    ]:
        with pytest.raises(InputError, match=message):
            normalise_loudness(manifest, **{"output": out, **settings})
    assert not out.exists() and sorted(path.name for path in tmp_path.rglob("*.*")) == ["a.flac", "a.wav"]


# Going on


def test_a_second_run_does_only_what_has_changed(tmp_path, speechlike):
    paths = [speechlike(f"{n}.wav", seed=n) for n in range(4)]
    _, first = normalise_loudness(manifest_of(*paths), tmp_path / "out")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.wav")}
    speechlike("1.wav", seed=9)
    os.utime(paths[1], ns=(1, 1))
    (tmp_path / "out/2.wav").unlink()
    with (tmp_path / "out" / JOURNAL).open("a") as file:
        file.write('{"recording": "cut o')
    steps = []
    _, second = normalise_loudness(manifest_of(*paths), tmp_path / "out", step=lambda *step: steps.append(step))
    assert steps == [("recordings", 3, 4), ("recordings", 4, 4)]
    same = [path.name for path in paths if (tmp_path / "out" / path.name).stat().st_mtime_ns == times[path.name]]
    assert same == ["0.wav", "3.wav"]
    assert second[0] == first[0] and second[1].loudness != first[1].loudness
    steps.clear()
    assert normalise_loudness(manifest_of(*paths), tmp_path / "out", step=lambda *step: steps.append(step))[1] == second
    assert steps == []


def test_a_run_that_was_killed_goes_on(tmp_path, speechlike):
    paths = [speechlike(f"{n:03}.wav", seed=n, seconds=4, rate=48_000) for n in range(40)]
    out, command = tmp_path / "out", [sys.executable, "-m", "serkit.cli", "normalise", str(tmp_path / "in")]
    process = subprocess.Popen([*command, "-o", str(out), "--workers", "1"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / JOURNAL).is_file() or len(_lines(tmp_path)) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.parquet").exists()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.wav")}
    done = len([text for text in (out / JOURNAL).read_text().split("\n") if text.endswith("}")])
    assert 3 <= done <= len(before) < 40
    steps = []
    levelled, lines = normalise_loudness(manifest_of(*paths), out, workers=1, step=lambda *step: steps.append(step))
    assert len(steps) == 40 - done and len(lines) == 40
    again = [name for name, when in before.items() if (out / name).stat().st_mtime_ns != when]
    assert len(again) <= 1  # written, but not yet in the journal
    for audio in levelled.table["audio"]:
        assert measure_loudness(*read_channels(audio)) == pytest.approx(-23, abs=0.1)


# The verb


def test_normalise_takes_a_folder(tmp_path, speechlike, serkit):
    speechlike("x/loud.wav", level=0.3), speechlike("x/soft.wav", level=0.001), speechlike("y/tiny.wav", seconds=0.1)
    ran = serkit("normalise", tmp_path / "in", "-o", tmp_path / "out", "--lufs", "-25", "--workers", "1")
    assert ran.code == 0
    kept, summary, gains = ran.out.splitlines()
    assert kept == f"kept as it is, shorter than 0.4 s: {tmp_path}/in/y/tiny.wav"
    assert summary == f"{tmp_path}/out/manifest.parquet: 2 of 3 recordings brought to -25 LUFS"
    assert gains.startswith("largest gain +") and "(soft.wav), smallest -" in gains
    manifest = Manifest.read(tmp_path / "out/manifest.parquet")
    assert manifest.ids == ["x/loud", "x/soft", "y/tiny"]
    assert manifest.table["audio"][0] == str(tmp_path / "out/x/loud.wav")
    assert measure_loudness(*read_channels(manifest.table["audio"][1])) == pytest.approx(-25, abs=0.1)


def test_normalise_takes_a_manifest_or_a_corpus(tmp_path, speechlike, serkit):
    speechlike("f1/dis-f1-b1.wav"), speechlike("m2/gio-m2-n5.wav", channels=2)
    assert serkit("normalise", tmp_path / "in", "-o", tmp_path / "corpus", "--corpus", "emovo").code == 0
    assert serkit("prepare", "emovo", tmp_path / "in", "-o", tmp_path / "m.csv").code == 0
    assert serkit("normalise", tmp_path / "m.csv", "-o", tmp_path / "table").code == 0
    corpus, table = (Manifest.read(tmp_path / name / "manifest.parquet") for name in ("corpus", "table"))
    assert corpus.table["emotion"].to_list() == table.table["emotion"].to_list() == ["disgusted", "happy"]
    assert corpus.table["audio"][0] == str(tmp_path / "corpus/f1/dis-f1-b1.wav")
    assert table.table["audio"][0] == str(tmp_path / "table/in/f1/dis-f1-b1.wav")  # below the manifest's folder
    assert serkit("prepare", "emovo", tmp_path / "corpus", "-o", tmp_path / "n.csv").code == 0  # it is a corpus still


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "-o", "in/out"], "lies in the folder of the recordings"),
        (["in", "-o", "out", "--root", "in"], "is a folder, --root is for manifests"),
        (["in/a.wav", "-o", "out", "--corpus", "emovo"], "is not a folder, which --corpus is for"),
        (["none", "-o", "out"], "no such manifest"),
        (["bare", "-o", "out"], "holds no recordings"),
    ],
)
def test_mistakes_are_one_line(tmp_path, speechlike, serkit, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    speechlike("a.wav")
    (tmp_path / "bare").mkdir()
    ran = serkit("normalise", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err
