"""Decoding: every container, rate and width to the same mono 16 kHz samples; bad input named in one line."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.audio import (
    EXTENSIONS,
    SAMPLING_RATE,
    is_silent,
    read_audio,
    read_channels,
    read_info,
    source_name,
    stream_audio,
    to_mono,
)
from serkit.errors import AudioError, InputError

AV_CODECS = {"m4a": "aac", "mp4": "aac", "webm": "libopus", "mkv": "flac"}


def write_av(path, waveform, rate, codec=None, container=None):
    """Encode float ``(S, channels)`` with PyAV; integer codecs get the 16-bit samples of the waveform."""
    layout = "mono" if waveform.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec or AV_CODECS[path.suffix[1:]], rate=rate, layout=layout)
        pcm = np.ascontiguousarray(np.round(waveform * 32768).astype(np.int16).reshape(1, -1))
        convert = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout=layout)
        frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*convert.resample(frame), *convert.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path


def pcm16(waveform):
    """Round to what 16 bits hold."""
    return (np.round(waveform * 32768) / 32768).astype(np.float32)


def strength(waveform, frequency, rate=SAMPLING_RATE):
    """Amplitude of the sine of this frequency in the middle of the waveform."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    turn = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / rate)
    return 2 * abs(np.mean(middle * turn))


def rms(waveform):
    return float(np.sqrt(np.mean(np.square(waveform))))


def error_of(call, *arguments, **options):
    with pytest.raises(AudioError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [("PCM_U8", 1 / 128), ("PCM_16", 1 / 32768), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 0), ("DOUBLE", 0)],
)
def test_every_wav_width_gives_the_same_samples(tmp_path, write_wav, make_tone, subtype, tolerance):
    waveform = read_audio(write_wav(tmp_path / "a.wav", subtype=subtype))
    assert waveform.dtype == np.float32
    assert waveform.shape == (SAMPLING_RATE,)
    assert np.abs(waveform - make_tone()[:, 0]).max() <= tolerance


@pytest.mark.parametrize(
    ("ending", "subtype"),
    [
        (".flac", None),
        (".ogg", "VORBIS"),
        (".opus", "OPUS"),
        (".mp3", None),
        (".aiff", None),
        (".au", None),
        (".caf", None),
    ],
)
def test_what_libsndfile_reads_keeps_tone_and_duration(tmp_path, write_wav, ending, subtype):
    path = tmp_path / f"a{ending}"
    if ending == ".opus":
        write_wav(tmp_path / "a.ogg", subtype=subtype).rename(path)
    else:
        write_wav(path, subtype=subtype)
    waveform = read_audio(path)
    assert len(waveform) == pytest.approx(SAMPLING_RATE, abs=0.08 * SAMPLING_RATE)
    assert strength(waveform, 440) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("ending", AV_CODECS)
def test_what_libsndfile_cannot_read_keeps_tone_and_duration(tmp_path, make_tone, ending):
    path = write_av(tmp_path / f"a.{ending}", make_tone(rate=48_000, channels=2), 48_000)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(str(path))
    waveform = read_audio(path)
    assert len(waveform) == pytest.approx(SAMPLING_RATE, abs=0.08 * SAMPLING_RATE)
    assert strength(waveform, 440) == pytest.approx(0.5, abs=0.02)
    info = read_info(path)
    assert (info.sampling_rate, info.channels) == (48_000, 2)
    assert info.seconds == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "flac"), ("a.mka", "pcm_s16le"), ("a.m4a", "alac"), ("a.mov", "pcm_s16le")]
)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_a_lossless_recording_is_the_same_in_every_container(tmp_path, make_tone, name, codec, rate, channels):
    samples = pcm16(make_tone(rate=rate, channels=channels))
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", samples, rate, subtype="PCM_16")
    expected = read_audio(tmp_path / "a.wav")
    assert np.array_equal(read_audio(tmp_path / "a.flac"), expected)
    assert np.array_equal(read_audio(write_av(tmp_path / name, samples, rate, codec)), expected)


def test_the_content_counts_and_not_the_file_name(tmp_path, write_wav):
    flac = write_wav(tmp_path / "a.flac")
    expected = read_audio(flac)
    assert np.array_equal(read_audio(flac.rename(tmp_path / "a.wav")), expected)


def test_open_files_are_read_from_their_beginning(tmp_path, write_wav, make_tone):
    wav = write_wav(tmp_path / "a.wav")
    m4a = write_av(tmp_path / "a.m4a", make_tone(), 16_000)
    for path in (wav, m4a):
        stream = io.BytesIO(path.read_bytes())
        stream.read(100)
        assert np.array_equal(read_audio(stream), read_audio(path))
        assert read_info(stream) == read_info(path)


def test_paths_may_be_text_and_streams_are_called_by_name(tmp_path, write_wav):
    path = write_wav(tmp_path / "a.wav")
    assert np.array_equal(read_audio(str(path)), read_audio(path))
    assert source_name(io.BytesIO()) == "stream"
    with path.open("rb") as file:
        assert source_name(file) == str(path)


def test_the_usual_endings_count_as_recordings():
    assert {".wav", ".flac", ".mp3", ".m4a", ".opus", ".webm"} <= EXTENSIONS


# Rates and channels


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_414, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_tone_keeps_frequency_and_level_at_any_rate(tmp_path, write_wav, rate, channels):
    path = write_wav(tmp_path / "a.wav", rate=rate, channels=channels, frequency=1000.0, noise=0)
    waveform = read_audio(path)
    assert len(waveform) == pytest.approx(SAMPLING_RATE, abs=1)
    assert strength(waveform, 1000) == pytest.approx(0.5, rel=2e-3)
    info = read_info(path)
    assert (info.seconds, info.sampling_rate, info.channels) == (1.0, rate, channels)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_tone_above_the_new_band_vanishes_instead_of_folding_back(tmp_path, write_wav, rate):
    waveform = read_audio(write_wav(tmp_path / "a.wav", rate=rate, frequency=12_000.0, noise=0, subtype="FLOAT"))
    assert rms(waveform[1600:-1600]) < 1e-4  # below -70 dB of a tone at 0.35


def test_channels_are_averaged(tmp_path):
    left, right = np.full(1600, 0.5, np.float32), np.full(1600, -0.25, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), np.full(1600, 0.125, np.float32))


# Spans and streams


@pytest.fixture(scope="module")
def long_files(tmp_path_factory, make_tone):
    """25 s of the same samples at 16 kHz as wav, flac and alac: more than two blocks."""
    root, samples = tmp_path_factory.mktemp("long"), pcm16(make_tone(25.0, noise=0.1))
    for ending in ("wav", "flac"):
        soundfile.write(root / f"a.{ending}", samples, 16_000, subtype="PCM_16")
    write_av(root / "a.m4a", samples, 16_000, "alac")
    return root, samples[:, 0]


@pytest.mark.parametrize("ending", ["wav", "flac", "m4a"])
@given(ends=st.lists(st.integers(0, 400_000), min_size=2, max_size=2, unique=True).map(sorted))
def test_a_span_is_the_slice_of_the_whole(long_files, ending, ends):
    root, samples = long_files
    first, last = ends
    span = read_audio(root / f"a.{ending}", first / SAMPLING_RATE, last / SAMPLING_RATE)
    assert np.array_equal(span, samples[first:last])


def test_a_span_may_be_open_on_either_side(long_files):
    root, samples = long_files
    assert np.array_equal(read_audio(root / "a.wav", start=24.5), samples[-8000:])
    assert np.array_equal(read_audio(root / "a.m4a", start=24.5), samples[-8000:])
    assert np.array_equal(read_audio(root / "a.wav", end=0.5), samples[:8000])
    assert len(read_audio(root / "a.wav", start=24.5, end=25.005)) == 8000  # an end rounded up is cut


def test_a_span_at_another_rate_has_its_duration_and_agrees_inside(tmp_path, write_wav):
    path = write_wav(tmp_path / "a.wav", rate=44_100, seconds=3.0)
    span, whole = read_audio(path, 1.0, 2.0), read_audio(path)
    assert len(span) == SAMPLING_RATE
    assert np.abs(span - whole[16_000:32_000])[400:-400].max() < 1e-4


def test_only_the_span_is_decoded(long_files, monkeypatch):
    root, _ = long_files
    read, frames = soundfile.SoundFile.read, []

    def count(file, *arguments, **options):
        block = read(file, *arguments, **options)
        frames.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    read_audio(root / "a.flac", 20.0, 20.5)
    assert sum(frames) == 8000


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("span", [(None, None), (3.0, 24.0)])
def test_the_stream_is_the_same_samples_in_bounded_blocks(tmp_path, write_wav, rate, span):
    path = write_wav(tmp_path / "a.wav", rate=rate, seconds=25.0, channels=2)
    blocks = list(stream_audio(path, *span))
    assert len(blocks) >= 3
    assert max(map(len, blocks)) <= 11 * SAMPLING_RATE
    assert np.array_equal(np.concatenate(blocks), read_audio(path, *span))


# Bad input


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"these are words\n" * 99, "not a recording"), (bytes(5000), "not a recording")],
)
def test_a_file_that_is_no_recording_is_named(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    for call in (read_audio, read_info):
        message = error_of(call, path)
        assert message.startswith(f"{path}: ")
        assert reason in message


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    assert error_of(read_audio, tmp_path) == f"{tmp_path}: is a folder, not a recording"
    assert error_of(read_info, tmp_path / "gone.wav") == f"{tmp_path / 'gone.wav'}: no such file"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_non_finite_samples_are_refused(tmp_path, value, rate):
    samples = np.zeros((1000, 2), np.float32)
    samples[500, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    assert error_of(read_audio, tmp_path / "a.wav") == f"{tmp_path / 'a.wav'}: holds NaN or infinite samples"


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_recording_of_no_samples_is_refused(tmp_path, write_wav, rate):
    assert "holds no audio" in error_of(read_audio, write_wav(tmp_path / "a.wav", seconds=0, rate=rate))


@pytest.mark.parametrize("ending", [".flac", ".mp3"])
def test_a_recording_that_ends_early_is_refused(tmp_path, write_wav, ending):
    path = write_wav(tmp_path / f"a{ending}", seconds=20.0, noise=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert error_of(read_audio, path).startswith(f"{path}: ")


def test_an_mp4_that_ends_early_is_refused(tmp_path, make_tone):
    path = write_av(tmp_path / "a.m4a", make_tone(), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert error_of(read_audio, path).startswith(f"{path}: ")


@pytest.mark.parametrize("ending", [".ogg", ".mkv"])
def test_a_container_that_does_not_know_its_end_gives_the_samples_it_has(tmp_path, write_wav, make_tone, ending):
    whole = tmp_path / f"a{ending}"
    write_wav(whole, seconds=20.0) if ending == ".ogg" else write_av(whole, make_tone(20.0), 16_000)
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    waveform = read_audio(cut)
    assert 5 < len(waveform) / SAMPLING_RATE < 15
    assert np.abs(waveform - read_audio(whole)[: len(waveform)]).max() < 1e-6


def test_a_wav_that_ends_early_gives_the_samples_it_has(tmp_path, write_wav, make_tone):
    path = write_wav(tmp_path / "a.wav", subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:-32_000])
    assert np.array_equal(read_audio(path), make_tone()[:-8000, 0])


@pytest.mark.parametrize("ending", ["wav", "flac", "m4a"])
@pytest.mark.parametrize("span", [(25.5, 26.0), (24.0, 26.0), (30.0, None)])
def test_a_span_outside_the_file_is_named(long_files, ending, span):
    path = long_files[0] / f"a.{ending}"
    message = error_of(read_audio, path, *span)
    assert message.startswith(f"{path}: ")
    assert str(span[0]) in message


@pytest.mark.parametrize("span", [(-1.0, None), (-1.0, 2.0), (2.0, 1.0), (1.0, 1.0), (None, 0.0), (float("nan"), None)])
@pytest.mark.parametrize("ending", ["wav", "m4a"])
def test_a_span_that_is_no_span_is_refused(long_files, ending, span):
    assert "is not a span" in error_of(read_audio, long_files[0] / f"a.{ending}", *span)


def test_a_video_without_sound_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        out.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        out.mux(stream.encode(None))
    assert error_of(read_audio, path) == f"{path}: has no audio track"


def test_an_audio_error_is_an_input_error():
    assert issubclass(AudioError, InputError)


# Arrays and silence


@pytest.mark.parametrize(("dtype", "full"), [(np.int8, 128), (np.int16, 32768), (np.int32, 2**31), (np.int64, 2**63)])
def test_integers_are_scaled_by_the_range_of_their_type(dtype, full):
    waveform = to_mono(np.array([0, full // 2, -(full // 2), -full], dtype), 16_000)
    assert waveform.dtype == np.float32
    assert waveform.tolist() == [0.0, 0.5, -0.5, -1.0]


def test_unsigned_bytes_are_centred():
    assert to_mono(np.array([0, 64, 128, 192], np.uint8), 16_000).tolist() == [-1.0, -0.5, 0.0, 0.5]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_kept_and_stereo_is_averaged(dtype):
    assert to_mono(np.array([[0.5, 0.25], [1.0, -1.0]], dtype), 16_000).tolist() == [0.375, 0.0]


def test_an_array_gives_what_its_file_gives(tmp_path, write_wav):
    path = write_wav(tmp_path / "a.wav", rate=44_100, channels=2)
    samples, rate = soundfile.read(path, dtype="int16")
    assert np.abs(to_mono(samples, rate) - read_audio(path)).max() < 1e-6


@given(st.integers(4_000, 96_000), st.integers(1, 3), st.integers(200, 5_000))
def test_an_array_at_any_rate_keeps_its_duration(rate, channels, length):
    waveform = to_mono(np.zeros((length, channels), np.int16), rate)
    assert len(waveform) == pytest.approx(length / rate * SAMPLING_RATE, abs=1)


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros(0), "shape"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.float32(1), "shape"),
        (np.zeros((2, 16_000)), "transpose"),
        (np.zeros(9, complex), "integers or floats"),
        (np.array(["a"]), "integers or floats"),
        (np.array([True, False]), "integers or floats"),
        (np.array([0.0, np.nan]), "NaN or infinite"),
        (np.array([1e300]), "NaN or infinite"),
    ],
)
def test_an_array_that_is_no_waveform_is_refused(waveform, reason):
    assert reason in error_of(to_mono, waveform, 16_000)


@pytest.mark.parametrize("rate", [0, -16_000, float("nan")])
def test_a_sampling_rate_that_is_none_is_refused(rate):
    assert "sampling rate" in error_of(to_mono, np.zeros(100), rate)


@pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (0.99e-4, True), (1.01e-4, False), (-0.5, False)])
def test_silence_is_a_peak_below_minus_80_db(peak, silent):
    assert is_silent(np.array([0.0, peak], np.float32)) is silent


# Recordings as they are


@pytest.mark.parametrize(("name", "codec"), [("a.wav", None), ("a.flac", None), ("a.m4a", "alac"), ("a.mkv", "flac")])
def test_channels_and_rate_can_be_kept(tmp_path, make_tone, name, codec):
    tone, path = make_tone(channels=2, rate=44_100), tmp_path / name
    if codec:
        write_av(path, tone, 44_100, codec)
    else:
        soundfile.write(path, tone, 44_100, subtype="PCM_16")
    samples, rate = read_channels(path)
    assert (samples.dtype, samples.shape, rate) == (np.float32, tone.shape, 44_100)
    np.testing.assert_allclose(samples, tone, atol=1e-4)
    np.testing.assert_array_equal(read_audio(path, native=True), samples.mean(axis=1))


def test_recordings_that_cannot_be_kept_are_named(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full((100, 2), np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for name, message in (("none", "holds no audio"), ("nan", "holds NaN or infinite"), ("bad", "known format")):
        with pytest.raises(AudioError, match=rf"{name}\.wav: .*{message}"):
            read_channels(tmp_path / f"{name}.wav")
