"""The front end of MAT and MNT: librosa's numbers and edges, silence that is not zero, any batch, any rate, ONNX."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from mel_reference import edges_of, librosa, mel_decibels

from serkit.data.audio import read_audio
from serkit.data.manifest import Manifest
from serkit.encoders import create_encoder
from serkit.encoders.extract import EncoderSpec, extract, list_jobs
from serkit.encoders.mel_decibels import MelDecibels
from serkit.encoders.windows import Windows, encode_stream
from serkit.errors import InputError

torch.set_num_threads(1)
RATE = 22_050
LEAST = np.float32(1e-8)


@torch.inference_mode()
def alone(encoder, wave):
    return encoder(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))


def frames_of(wave, **options):
    return alone(create_encoder("mat-mel", **options), wave).layers[0, 0].numpy()


def noise(samples, level=0.1, seed=0):
    return np.random.default_rng(seed).normal(0, level, samples).astype(np.float32)


def sine(frequency, level=0.5, samples=RATE, rate=RATE):
    return (level * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


def surrounded(wave, before, after, level=1e-6, seed=1):
    quiet = noise(before + after, level, seed)
    return np.concatenate([quiet[:before], wave, quiet[before:]])


CLIPS = {
    "noise": noise(30_000),
    "weak noise": noise(30_000, 1e-4),
    "below -100 dB": noise(30_000, 1e-6),
    "tone": sine(1000, 0.9),
    "low tone": sine(60, 0.9),
    "silence": np.zeros(20_000, np.float32),
    "click": np.eye(1, 20_000, 15_000, dtype=np.float32)[0],
    "speech between silences": surrounded(noise(20_000), 9_000, 7_000),
    "0.2 s": noise(4410),
    "shortest": noise(1025),
    "kept part shorter than half a window": surrounded(np.ones(1, np.float32), 40, 1500, 0.0),
}


@pytest.mark.parametrize("clip", list(CLIPS))
@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("reduction", [16, 1])
def test_frames_are_those_of_librosa_in_double_precision(clip, padding, reduction):
    expected = mel_decibels(CLIPS[clip], reduction=reduction, padding=padding)
    found = frames_of(CLIPS[clip], reduction=reduction, padding=padding)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 22_060, 40_979])  # the last two have windows of odd lengths
def test_other_rates_are_as_exact(rate):
    for samples in (rate, rate + 777):
        wave = noise(samples)
        np.testing.assert_allclose(frames_of(wave, rate=rate), mel_decibels(wave, rate), atol=1e-4)


@pytest.mark.parametrize("corpus", ["emodb", "emovo", "ravdess"])
def test_frames_of_real_speech_are_those_of_librosa(corpus, corpus_root):
    paths = sorted(path for path in corpus_root(corpus).rglob("*") if path.suffix in (".wav", ".flac"))
    for path in paths[:: len(paths) // 4]:
        wave = read_audio(path, sampling_rate=RATE)
        np.testing.assert_allclose(frames_of(wave), mel_decibels(wave), atol=1e-4, err_msg=str(path))
        kept = alone_edges(wave, padding="zeros")
        assert kept == tuple(librosa().effects.trim(wave)[1]), path


def alone_edges(wave, **options):
    """The samples that trimming keeps: from, to."""
    encoder = create_encoder("mat-mel", **options)
    _, lengths, start = encoder.prepare(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    return int(start), int(start + lengths)


@pytest.mark.parametrize("before", [0, 300, 5_000, 20_000])
@pytest.mark.parametrize("after", [0, 1, 1_500, 20_000])
def test_trimming_keeps_what_librosa_keeps(before, after):
    wave = surrounded(noise(9_000), before, after)
    assert alone_edges(wave, padding="zeros") == tuple(librosa().effects.trim(wave)[1])
    assert alone_edges(wave) == edges_of(wave)
    assert alone_edges(wave, top_db=20) == edges_of(wave, top_db=20)
    if before == 20_000:
        assert alone_edges(wave)[0] > 18_000 and frames_of(wave, top_db=0).shape[0] > frames_of(wave).shape[0]


def test_nothing_is_trimmed_of_silence():
    for wave in (np.zeros(9_000, np.float32), noise(9_000, 1e-6)):
        assert alone_edges(wave, padding="zeros") == tuple(librosa().effects.trim(wave)[1]) == (0, 9_000)


def test_only_every_16th_frame_is_computed_and_it_is_the_same():
    for clip in ("noise", "speech between silences", "tone"):
        every, kept = frames_of(CLIPS[clip], reduction=1), frames_of(CLIPS[clip])
        np.testing.assert_allclose(kept, every[::16], atol=1e-6, rtol=0)  # sums of other blocks of a matrix product
        assert len(kept) == -(-len(every) // 16)
    encoder = create_encoder("mat-mel")
    seen = []
    encoder.spectrum.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    assert seen == [] and alone(encoder, noise(44_000)).layers.shape[2] == 11 and seen == [11]


def test_the_numbers_of_a_tone():
    frames = frames_of(sine(1000))
    assert frames.shape == (6, 80)
    band = int(frames[2].argmax())
    assert band == 23
    # In the middle the magnitude of bin k is half the level times the window's spectrum at its distance from 1 kHz,
    # times the pre-emphasis of 1 kHz.
    bins = np.arange(1025) * RATE / 2048
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1102) / 1102)
    distance = np.exp(-2j * np.pi * np.outer(bins - 1000, np.arange(1102)) / RATE)
    emphasis = abs(1 - 0.97 * np.exp(-2j * np.pi * 1000 / RATE))
    bands = librosa().filters.mel(sr=RATE, n_fft=2048, n_mels=80) @ (0.25 * emphasis * abs(distance @ window))
    expected = 0.8 + 0.2 * np.log10(bands)
    np.testing.assert_allclose(frames[2, band - 2 : band + 3], expected[band - 2 : band + 3], atol=5e-4)
    np.testing.assert_allclose(frames[2, 22:25], [0.639554, 0.864535, 0.818655], atol=1e-5)


def test_silence_is_least_and_padding_alone_is_zero(tmp_path):
    encoder = create_encoder("mat-mel")
    waves = [np.zeros(30_000, np.float32), noise(12_000), noise(20_000, 1e-6), surrounded(noise(5_000), 9_000, 9_000)]
    batch = np.zeros((4, 30_000), np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    lengths = torch.tensor([len(wave) for wave in waves])
    with torch.inference_mode():
        features = encoder(torch.from_numpy(batch), lengths)
    frames = features.layers[:, 0]
    assert features.lengths.tolist()[:3] == [7, 3, 5] and features.lengths[3] <= 3
    assert torch.equal(frames.abs().sum(-1) == 0, ~features.mask())
    assert frames[features.mask()].min() == LEAST and (frames[0] == LEAST).all()
    paths = []
    for number, wave in enumerate(waves[:2]):
        paths.append(str(tmp_path / f"{number}.wav"))
        soundfile.write(paths[-1], wave, RATE, "FLOAT")
    jobs = list_jobs(Manifest.from_rows([{"id": path, "audio": path} for path in paths]))
    cache = extract(jobs, EncoderSpec("mat-mel"), tmp_path / "cache", frames=True, workers=1)
    kept = cache.frames(jobs[0].key)
    assert kept.dtype == np.float32 and kept.shape == (1, 7, 80) and (kept == LEAST).all()
    np.testing.assert_array_equal(cache.frames(jobs[1].key)[0], alone(encoder, waves[1]).layers[0, 0])


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("front", [{}, {"trim": 35}, {"level": -23}], ids=["own", "trim", "level"])
def test_trimmed_utterances_get_the_same_answer_in_any_batch(padding, front):
    encoder = create_encoder("mat-mel", padding=padding, **front)
    waves = [surrounded(noise(20_000, seed=seed), 3_000 * seed, 9_000 - 2_000 * seed, 1e-5, seed) for seed in range(4)]
    batch = torch.full((4, 33_000), torch.nan)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    with torch.inference_mode():
        together = encoder(batch, torch.tensor([len(wave) for wave in waves]))
    starts = []
    for row, wave in enumerate(waves):
        single, frames = alone(encoder, wave), int(together.lengths[row])
        assert single.lengths.tolist() == [frames] and single.start[0] == together.start[row]
        torch.testing.assert_close(together.layers[row, :, :frames], single.layers[0], atol=1e-5, rtol=0)
        assert not together.layers[row, :, frames:].any()
        starts.append(int(together.start[row]))
    if not front:
        assert starts == [0, 0, 1, 1]


def test_recordings_come_from_their_own_rate(tmp_path):
    """9.5 kHz is in a recording at 44.1 kHz, and would be lost on a way through 16 kHz."""
    tones = {
        "high": (sine(9_500, samples=44_100, rate=44_100), 44_100),
        "low": (sine(3_000, samples=16_000, rate=16_000), 16_000),
    }
    rows = []
    for name, (wave, rate) in tones.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, rate)
        rows.append({"id": name, "audio": str(tmp_path / f"{name}.wav")})
    jobs = list_jobs(Manifest.from_rows(rows))
    for way in ({"workers": 1}, {"batch_seconds": 5}):
        cache = extract(jobs, EncoderSpec("mat-mel"), tmp_path / str(way), frames=True, **way)
        high, low = (cache.frames(job.key)[0, 2] for job in jobs)
        assert cache.lengths([job.key for job in jobs]).tolist() == [6, 6]
        edges = librosa().mel_frequencies(82, fmin=0, fmax=RATE / 2)
        assert edges[high.argmax()] < 9_500 < edges[high.argmax() + 2] and high.max() > 0.5
        assert edges[low.argmax()] < 3_000 < edges[low.argmax() + 2] and (low[edges[:80] > 8_000] < 0.1).all()


def test_augmented_copies_are_changed_at_16_khz_and_then_resampled(tmp_path, write_wav):
    path = str(write_wav(tmp_path / "a.wav", rate=44_100))
    seen = []

    def augment(wave, seed):
        seen.append((len(wave), seed))
        return wave[:8_000]

    jobs = list_jobs(Manifest.from_rows([{"id": "a", "audio": path}]), 1, "half")
    cache = extract(jobs, EncoderSpec("mat-mel", {"top_db": 0}), tmp_path / "cache", True, augment, workers=1)
    assert seen == [(16_000, "1/a")] and cache.frames(jobs[0].key).shape == (1, 11_025 // 4400 + 1, 80)


def test_a_trimming_front_end_never_cuts_long_recordings():
    wave = surrounded(noise(150_000), 30_000, 20_000)
    encoder, windows = create_encoder("mat-mel"), Windows(2.0, 0.5)
    (whole,) = encode_stream(encoder, [wave[:90_000], wave[90_000:]], windows)
    assert torch.equal(whole, alone(encoder, wave).layers[0])
    plain = create_encoder("mat-mel", top_db=0)
    pieces = list(encode_stream(plain, [wave], windows))
    assert len(pieces) > 1
    torch.testing.assert_close(torch.cat(pieces, 1), alone(plain, wave).layers[0], atol=1e-5, rtol=0)


def test_options_are_checked_and_change_the_fingerprint():
    options = [{}, {"rate": 16_000}, {"reduction": 1}, {"bands": 40}, {"top_db": 0}, {"padding": "zeros"}, {"trim": 35}]
    assert len({create_encoder("mat-mel", **chosen).fingerprint() for chosen in options}) == len(options)
    for wrong, said in (
        ({"padding": "edge"}, "padding is reflect or zeros, not 'edge'"),
        ({"rate": 79}, "rate 79: give 80 to 40979 Hz"),
        ({"rate": 40_980}, "rate 40980: give 80 to 40979 Hz"),
        ({"reduction": 0}, "reduction 0, bands 80, top_db 60: at least 1, 1 and 0"),
        ({"top_db": -1}, "top_db -1"),
    ):
        with pytest.raises(InputError, match=said):
            create_encoder("mat-mel", **wrong)


class Frames(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms, lengths):
        features = self.encoder(waveforms, lengths)
        return features.layers[:, 0], features.lengths, features.start


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "mel.onnx"
    sizes = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("samples", min=1600, max=40 * RATE)
    example = torch.randn(2, 32_000) * 0.1, torch.tensor([32_000, 24_000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Frames(create_encoder("mat-mel")).eval(), example, input_names=["waveforms", "lengths"],
            output_names=["frames", "counts", "start"], dynamic_shapes=({0: sizes[0], 1: sizes[1]}, {0: sizes[0]}),
            dynamo=True, verbose=False,
        )  # fmt: skip
    program.save(str(path), external_data=False)
    assert path.stat().st_size < 6e6
    return onnxruntime.InferenceSession(str(path))


@pytest.mark.parametrize(
    "clips",
    [["noise"], ["0.2 s"], ["speech between silences"], ["speech between silences", "silence", "noise", "0.2 s"]],
    ids="+".join,
)
def test_a_graph_trims_and_computes_what_pytorch_does(session, clips):
    waves = [CLIPS[clip] for clip in clips]
    batch = np.full((len(waves), max(map(len, waves))), 0.5, np.float32)
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    lengths = np.array([len(wave) for wave in waves])
    frames, counts, starts = session.run(None, {"waveforms": batch, "lengths": lengths})
    assert frames.shape == (len(waves), batch.shape[1] // 4400 + 1, 80)
    for row, wave in enumerate(waves):
        features = alone(MelDecibels(RATE, 2048, 1102, 275, 16, 80, 60.0, "reflect"), wave)
        assert (counts[row], starts[row]) == (int(features.lengths), int(features.start))
        np.testing.assert_allclose(frames[row, : counts[row]], features.layers[0, 0], atol=1e-5)
        assert not frames[row, counts[row] :].any()
