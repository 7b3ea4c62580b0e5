"""Recordings made to harm: samples or one line come of each, never a crash, another file, or much memory."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
from argparse import Namespace
from pathlib import Path

import fuzz
import numpy as np
import pytest
import soundfile
from hostile_files import encode, make_hostile, make_playlists, make_seeds, make_wave, mend_ogg

from serkit.data.audio import RATES, read_audio, read_channels, read_info, stream_audio
from serkit.errors import AudioError

READ = """
import sys
from serkit.data.audio import read_audio, read_info
from serkit.errors import AudioError
try:
    read_info(sys.argv[1])
    print(len(read_audio(sys.argv[1], *map(float, sys.argv[2:]))))
except AudioError as error:
    print("refused:", error)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def read_elsewhere(path, *span):
    """Read in another process, which may die of it; returns what it says and the most memory it held, in MB."""
    done = subprocess.run([sys.executable, "-c", READ, str(path), *map(str, span)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    said, memory = done.stdout.splitlines()
    return said, int(memory) / 1024


def refusal(call, *arguments):
    with pytest.raises(AudioError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def seeds():
    return make_seeds()


def wav(rate=16_000, channels=1, frames=1600, claim=None, bits=16):
    """A WAV file of silence whose header says what it is told to, as far as its fields hold it."""
    data = bytes(frames * min(channels, 1024) * bits // 8)
    size = min(len(data) if claim is None else claim, 2**32 - 1)
    width = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    return b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + b"WAVEfmt \x10\0\0\0" + fmt + b"data" + struct.pack(
        "<I", size
    ) + data  # fmt: skip


# Thousands


def test_a_share_of_the_fuzzer_finds_no_bug(tmp_path):
    wanted = Namespace(inputs=400, seed=7, seconds=60, limit=20, memory=150, only=None, save=None)
    (tmp_path / "canary.wav").write_bytes(wav())
    tally = fuzz.run(wanted, tmp_path)
    assert tally.bugs == []
    assert sum(tally.outcomes.values()) == 400
    assert min(tally.outcomes["samples"], tally.outcomes["refused"]) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.wav"]


def test_the_fuzzer_tells_crash_hang_and_exception(tmp_path, monkeypatch):
    code = "import os, sys, time\nfor line in sys.stdin: os.kill(os.getpid(), 11) if int(line) == 0 else time.sleep(60)"
    reader = fuzz.Reader(0, tmp_path, limit=0.5)
    reader.command = [sys.executable, "-c", code]
    assert (told := reader.ask(0))["outcome"] == "crash" and told["detail"] == "SIGSEGV"
    assert reader.ask(1)["outcome"] == "hang"
    monkeypatch.setattr(fuzz, "read_info", lambda source: 1 / 0)
    hostile = make_hostile(make_seeds(), 0, 0)
    assert fuzz.judge(hostile, 0, tmp_path)["outcome"] == "exception"


def test_hostile_files_are_the_same_every_time(seeds):
    again = make_seeds()
    assert [make_hostile(seeds, 3, n) for n in range(200)] == [make_hostile(again, 3, n) for n in range(200)]
    assert len({make_hostile(seeds, 3, n).content for n in range(200)}) > 190


def test_every_seed_is_a_recording(seeds):
    for name, (_, content) in seeds.items():
        waveform = read_audio(io.BytesIO(content))
        assert 0.3 < len(waveform) / 16_000 < 0.5, name
        assert np.sqrt(np.mean(waveform**2)) > 0.1, name


# Other files and the network


@pytest.fixture
def listener():
    """A port on which nobody should call, and how many did."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)

        def calls():
            try:
                server.accept()[0].close()
            except BlockingIOError:
                return 0
            return 1

        yield server.getsockname()[1], calls


PLAYLISTS = tuple(make_playlists(""))


@pytest.mark.parametrize("playlist", PLAYLISTS)
@pytest.mark.parametrize("canary", ["canary.wav", "canary.aac"])
def test_an_upload_cannot_make_another_file_be_read(tmp_path, monkeypatch, playlist, canary):
    monkeypatch.chdir(tmp_path)  # FFmpeg's playlists take names without a folder
    if canary.endswith("wav"):
        soundfile.write(canary, make_wave(), 16_000)
    else:
        Path(canary).write_bytes(encode(make_wave(), 16_000, "adts", "aac"))
    assert len(read_audio(canary)) > 5000
    for target in (canary, str(tmp_path / canary)):
        content = make_playlists(target)[playlist]
        for ending in (playlist, ".wav"):
            path = Path(f"upload{ending}")
            path.write_bytes(content)
            with path.open("rb") as file:
                for source in (path, str(path.absolute()), file, io.BytesIO(content)):
                    for call in (read_info, read_audio):
                        assert "not a recording" in refusal(call, source)


@pytest.mark.parametrize("playlist", PLAYLISTS)
def test_an_upload_cannot_make_the_network_be_called(tmp_path, listener, playlist):
    port, calls = listener
    for scheme in ("http", "tcp", "rtmp", "rtsp"):
        path = tmp_path / f"upload{playlist}"
        path.write_bytes(make_playlists(f"{scheme}://127.0.0.1:{port}/a.aac")[playlist])
        for source in (path, io.BytesIO(path.read_bytes())):
            assert "not a recording" in refusal(read_audio, source)
    assert calls() == 0


@pytest.mark.parametrize("name", ["concat:a.wav", "http:a.m4a", "cache:a.m4a", "file:a.m4a", "a%20b.m4a", "data:a.m4a"])
def test_a_file_name_is_no_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(encode(make_wave(), 16_000, "ipod", "alac"))
    assert len(read_audio(name)) == 5600
    assert read_info(name).seconds == pytest.approx(0.35)


def test_a_film_that_names_another_file_gives_its_own_sound(tmp_path):
    """QuickTime may keep its samples in another file; the reference is not followed."""
    content = bytearray(encode(make_wave(), 16_000, "mov", "pcm_s16le"))
    place = content.find(b"url \0\0\0\1")
    assert place > 0
    content[place + 4 : place + 8] = bytes(4)  # not in this file
    (tmp_path / "a.mov").write_bytes(content)
    try:
        waveform = read_audio(tmp_path / "a.mov")
    except AudioError:
        return
    assert np.abs(waveform - make_wave()[:, 0]).max() < 1e-4


# Headers that lie


@pytest.mark.parametrize("rate", [0, 1, RATES[0] - 1, RATES[-1] + 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_rate_that_no_recording_has_is_refused(tmp_path, rate):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(rate))
    for call in (read_info, read_audio, read_channels):
        assert refusal(call, path).startswith(f"{path}: ")


@pytest.mark.parametrize("rate", [RATES[0], RATES[-1]])
def test_the_slowest_and_the_fastest_rates_are_read(tmp_path, rate):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(rate, frames=rate))
    assert len(read_audio(path)) == pytest.approx(16_000, abs=2)


@pytest.mark.parametrize("rate", [1.0, 999.0, 1e6, 2e9])
def test_a_rate_that_ffmpeg_reads_is_checked_too(tmp_path, rate):
    content = encode(make_wave(), 16_000, "matroska", "pcm_s16le")
    assert content.count(struct.pack(">d", 16_000)) == 1
    path = tmp_path / "a.mka"
    path.write_bytes(content.replace(struct.pack(">d", 16_000), struct.pack(">d", rate)))
    for call in (read_info, read_audio):
        assert " Hz, but recordings have " in refusal(call, path)


@pytest.mark.parametrize("claim", [0, 2**31, 2**32 - 1])
def test_a_length_that_lies_takes_no_memory(tmp_path, claim):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(48_000, channels=8, claim=claim))
    tracemalloc.start()
    try:
        total = sum(map(len, stream_audio(path)))
    except AudioError as error:
        total = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total in (533, 534) if claim else "holds no audio" in str(total)
    assert peak < 40e6


def test_a_flac_of_few_bytes_that_claims_hours_takes_one_block(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, make_wave(48_000, 8), 48_000, format="FLAC")
    content = bytearray(file.getvalue())
    fields = int.from_bytes(content[18:26], "big")
    fields = (655_350 << 44) | (fields & (2**44 - 1)) | (2**36 - 1)  # rate (20 bits), then samples (36 bits)
    content[18:26] = fields.to_bytes(8, "big")
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert read_info(path).sampling_rate == 655_350
    tracemalloc.start()
    refusal(read_audio, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # ten seconds of it would be 210 MB


@pytest.mark.parametrize("channels", [17, 255, 1000])
def test_many_channels_are_averaged(tmp_path, channels):
    path = tmp_path / "a.wav"
    samples = np.zeros((1600, channels), np.float32)
    samples[:, 0] = 0.5
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    assert np.allclose(read_audio(path), 0.5 / channels, atol=1e-7)


def test_more_than_eight_channels_by_ffmpeg_are_averaged(tmp_path):
    """Arrays of that many planes read memory that is not theirs."""
    path = tmp_path / "a.mka"
    samples = np.zeros((1600, 17), np.float32)
    samples[:, 0] = 0.5
    path.write_bytes(_pcm_matroska(samples))
    assert read_elsewhere(path)[0] == "1600"
    assert np.allclose(read_audio(path), 0.5 / 17, atol=1e-6)


def _pcm_matroska(samples):
    import av

    file, layout = io.BytesIO(), f"{samples.shape[1]} channels"
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("pcm_f32le", rate=16_000, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.rate, frame.pts = 16_000, 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


def test_a_vorbis_file_without_a_good_setup_is_refused_and_ends_no_process(tmp_path, seeds):
    content = bytearray(seeds["ogg-vorbis-1"][1])
    place = content.find(b"\x05vorbis") + 20
    content[place : place + 8] = b"\xff" * 8
    mend_ogg(content)
    path = tmp_path / "a.ogg"
    path.write_bytes(content)
    for span in ((), (0.05, 0.2)):  # a seek is what libsndfile 1.2.2 dies of
        assert read_elsewhere(path, *span)[0].startswith(f"refused: {path}: ends early")


def test_a_track_without_a_decoder_is_refused(tmp_path, seeds):
    path = tmp_path / "a.webm"
    path.write_bytes(seeds["webm-libopus"][1].replace(b"A_OPUS", b"A_OPUX"))
    for call in (read_info, read_audio):
        assert "a codec that is not read" in refusal(call, path)


@pytest.mark.parametrize("name", ["a.raw", "a.RAW"])
def test_the_ending_raw_does_not_mean_that_there_is_no_header(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, make_wave(), 16_000, format="WAV")
    assert len(read_audio(path)) == 5600
    with path.open("rb") as file:
        assert read_info(file).sampling_rate == 16_000
    path.write_bytes(b"\1\2\3" * 999)
    assert "not a recording" in refusal(read_audio, path)


@pytest.mark.parametrize("ending", [".au", ".gsm", ".vox", ".snd", ".AU"])
def test_words_do_not_become_sound_by_the_name_of_their_file(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("these are words\n" * 99)
    for call in (read_info, read_audio):
        assert "not a recording" in refusal(call, path)


def test_pictures_are_not_decoded(tmp_path):
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    small.write_bytes(encode(make_wave(), 16_000, "mp4", "aac", picture=(64, 48)))
    large.write_bytes(encode(make_wave(), 16_000, "mp4", "aac", picture=(4500, 4500)))
    (said, memory), (expected, before) = read_elsewhere(large), read_elsewhere(small)
    assert said == expected
    assert memory - before < 10  # one picture has 30 MB


# Contents


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_samples_that_are_no_numbers_are_refused_in_any_container(tmp_path, value, codec):
    content = bytearray(encode(make_wave(), 16_000, "matroska", codec))
    width = 4 if codec == "pcm_f32le" else 8
    place = len(content) // 2
    content[place : place + 4 * width] = np.full(5, value, f"<f{width}").tobytes()[: 4 * width]
    for shift in range(1, width):  # whichever byte a sample begins at
        content[place + shift * 100 : place + shift * 100 + 4 * width + shift] = (
            bytes(shift) + np.full(4, value, f"<f{width}").tobytes()
        )
    path = tmp_path / "a.mka"
    path.write_bytes(content)
    assert "NaN or infinite" in refusal(read_audio, path)


@pytest.mark.parametrize("ending", [".flac", ".mp3", ".m4a"])
@pytest.mark.parametrize("seed", range(3))
def test_a_file_that_was_cut_anywhere_gives_samples_or_one_line(tmp_path, seeds, ending, seed):
    content = next(content for suffix, content in seeds.values() if suffix == ending)
    for length in np.random.default_rng(seed).integers(1, len(content), 10):
        path = tmp_path / f"a{ending}"
        path.write_bytes(content[:length])
        try:
            assert np.isfinite(read_audio(path)).all()
        except AudioError as error:
            assert str(error).startswith(f"{path}: ")


@pytest.fixture(scope="module")
def three_hours(tmp_path_factory):
    path = tmp_path_factory.mktemp("bombs") / "three-hours.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(180):
            file.write(np.zeros(16_000 * 60, np.int16))
    return path


def test_hours_in_a_small_file_are_streamed_in_little_memory(three_hours):
    assert three_hours.stat().st_size < 600_000
    tracemalloc.start()
    assert sum(map(len, stream_audio(three_hours))) == 3 * 3600 * 16_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize("ending", [".flac", ".m4a"])
def test_who_stops_asking_closes_the_file(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    wave = make_wave(seconds=25.0)
    soundfile.write(path, wave, 16_000) if ending == ".flac" else path.write_bytes(encode(wave, 16_000, "ipod", "aac"))
    before = len(os.listdir("/proc/self/fd"))
    blocks = stream_audio(path)
    next(blocks)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    blocks.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("broken", ["rate", "span", "samples"])
def test_a_refused_file_is_closed_while_its_error_is_still_held(tmp_path, broken):
    path, span = tmp_path / "a.wav", (5.0, None) if broken == "span" else (None, None)
    path.write_bytes(wav(1 if broken == "rate" else 16_000))
    if broken == "samples":
        soundfile.write(path, np.array([0.0, np.nan] * 200_000, np.float32), 16_000, subtype="FLOAT")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(AudioError) as held:
        list(stream_audio(path, *span))
    assert len(os.listdir("/proc/self/fd")) == before, held.value
