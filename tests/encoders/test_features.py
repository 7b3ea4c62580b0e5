"""Feature files of encoders: every layout holds what the encoder says, goes on where it stopped, names what failed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from serkit.data.audio import read_audio
from serkit.data.feature_files import read_corpus_features
from serkit.data.manifest import Manifest
from serkit.encoders import features as module
from serkit.encoders.base import Encoder
from serkit.encoders.extract import EncoderSpec, extract, list_jobs
from serkit.encoders.features import Wanted, extract_all, extract_clips, extract_corpus
from serkit.encoders.whisper import WhisperConfig, WhisperEncoder
from serkit.encoders.windows import Windows, encode_stream
from serkit.errors import InputError

torch.set_num_threads(1)
FRAMES = Wanted(frames=True)
MEAN = Wanted(frames=False)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    torch.manual_seed(0)
    encoder = WhisperEncoder("whisper", WhisperConfig(mels=20, dim=64, heads=1, blocks=3, ffn=48, positions=200))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(encoder.state_dict(), path)
    return EncoderSpec("whisper", {"weights": str(path)})


@pytest.fixture
def jobs(tmp_path, write_wav):
    rows = [
        {"id": name, "audio": str(write_wav(tmp_path / f"{name}.wav", seconds=0.3 + 0.1 * number, seed=number))}
        for number, name in enumerate(("c", "a", "b"))
    ]
    rows.append({"id": "x/part", "audio": rows[2]["audio"], "start": 0.1, "end": 0.4})
    return list_jobs(Manifest.from_rows(rows))


def states_of(spec, job):
    wave = torch.from_numpy(read_audio(job.audio, job.start, job.end))
    with torch.inference_mode():
        return spec.create()(wave[None], torch.tensor([len(wave)])).layers[0].numpy()


@pytest.fixture
def calls(monkeypatch):
    """The lengths of what was encoded in this process."""
    seen, forward = [], Encoder.forward

    def counting(self, waveforms, lengths):
        seen.extend(lengths.tolist())
        return forward(self, waveforms, lengths)

    monkeypatch.setattr(Encoder, "forward", counting)
    return seen


def test_one_file_per_utterance_holds_the_last_layer_or_its_mean(tmp_path, spec, jobs):
    assert extract_clips(jobs, spec, tmp_path / "frames", FRAMES) == []
    assert extract_clips(jobs, spec, tmp_path / "means", MEAN) == []
    assert {path.name for path in (tmp_path / "frames").glob("*.npy")} == {"a.npy", "b.npy", "c.npy", "x_part.npy"}
    for job in jobs:
        last, name = states_of(spec, job)[-1], job.id.replace("/", "_")
        frames = np.load(tmp_path / "frames" / f"{name}.npy")
        assert frames.dtype == np.float32 and np.array_equal(frames, last)
        mean = np.load(tmp_path / "means" / f"{name}.npy")
        assert mean.dtype == np.float32 and mean.shape == (64,)
        np.testing.assert_allclose(mean, last.mean(0), atol=1e-6)


def test_several_layers_have_folders_of_their_own(tmp_path, spec, jobs):
    wanted = Wanted(frames=True, layers=("0", "-2", "mean4"))
    assert extract_clips(jobs[:1], spec, tmp_path / "out", wanted) == []
    states = states_of(spec, jobs[0])
    for place, expected in (("layer0", states[0]), ("layer2", states[2]), ("mean4", states.mean(0))):
        np.testing.assert_allclose(np.load(tmp_path / "out" / place / "c.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("layer", ["4", "-5", "mean5", "mean0", "mean-1", "last", "", "1.5"])
def test_layers_that_are_not_there_are_refused(tmp_path, spec, jobs, layer):
    with pytest.raises(InputError, match=r"has 0 to 3, or from the last -1 to -4, and means"):
        extract_clips(jobs, spec, tmp_path / "out", Wanted(True, (layer,)))
    assert not (tmp_path / "out").exists()


def test_a_corpus_is_stacked_in_the_order_of_the_manifest(tmp_path, spec, jobs, calls):
    labels = [(job.id, word) for job, word in zip(jobs, ("sad", "angry", "sad", "happy"), strict=True)]
    assert extract_corpus(jobs, spec, tmp_path / "out", FRAMES, "dev", labels) == []
    frames, lengths, words = read_corpus_features(tmp_path / "out", "dev")
    expected = [states_of(spec, job)[-1] for job in jobs]
    assert np.array_equal(frames, np.concatenate(expected)) and lengths.tolist() == [len(each) for each in expected]
    assert words == ["sad", "angry", "sad", "happy"]
    assert (tmp_path / "out" / "dev.emo").read_text().splitlines()[3] == "x/part\thappy"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dev.emo", "dev.json", "dev.lengths", "dev.npy",
    ]  # fmt: skip
    count = len(calls)
    assert extract_corpus(jobs, spec, tmp_path / "out", FRAMES, "dev", labels) == [] and len(calls) == count
    with pytest.raises(InputError, match=r"dev.npy: holds other features: choose another folder or part"):
        extract_corpus(jobs[:2], spec, tmp_path / "out", FRAMES, "dev", labels[:2])
    assert extract_corpus(jobs[:2], spec, tmp_path / "out", replace(FRAMES, layers=("0", "1"))) == []
    assert len(read_corpus_features(tmp_path / "out" / "layer1").lengths) == 2


def test_a_corpus_goes_on_when_it_was_stopped_while_stacking(tmp_path, spec, jobs, calls, monkeypatch):
    write = module.write_corpus_features

    def stopped(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_corpus_features", stopped)
    with pytest.raises(KeyboardInterrupt):
        extract_corpus(jobs, spec, tmp_path / "out", FRAMES)
    assert (tmp_path / "out" / "train.npy").exists()
    monkeypatch.setattr(module, "write_corpus_features", write)
    assert extract_corpus(jobs, spec, tmp_path / "out", FRAMES) == [] and len(calls) == 4
    assert len(read_corpus_features(tmp_path / "out").lengths) == 4
    assert not (tmp_path / "out" / ".train.clips").exists()


def test_a_corpus_with_an_utterance_missing_is_not_stacked(tmp_path, spec, jobs, calls):
    assert extract_corpus(jobs[1:], spec, tmp_path / "out", FRAMES, complete=False) == []
    assert not list((tmp_path / "out").glob("train.*")) and len(calls) == 3
    assert extract_corpus(jobs, spec, tmp_path / "out", FRAMES) == [] and len(calls) == 4


def test_failures_are_named_and_the_others_go_on(tmp_path, spec, jobs, write_wav, calls):
    (tmp_path / "bad.wav").write_bytes(b"no recording")
    short = write_wav(tmp_path / "short.wav", seconds=0.001)
    rows = [{"id": "bad", "audio": str(tmp_path / "bad.wav")}, {"id": "short", "audio": str(short)}]
    broken = list_jobs(Manifest.from_rows(rows))
    failed = extract_clips([*broken, *jobs], spec, tmp_path / "out", FRAMES)
    assert sorted(line[:16] for line in failed) == ["utterance bad: /", "utterance short:"]
    assert len(list((tmp_path / "out").glob("*.npy"))) == 4
    count = len(calls)
    failed = extract_corpus([*jobs, *broken], spec, tmp_path / "corpus", FRAMES)
    assert len(failed) == 2 and not list((tmp_path / "corpus").glob("*.npy"))
    assert len(calls) == count + 5  # the short one is encoded in vain
    assert extract_corpus(jobs, spec, tmp_path / "corpus", FRAMES) == [] and len(calls) == count + 5


def test_what_is_there_is_not_computed_again_and_never_silently_replaced(tmp_path, spec, jobs, calls, write_wav):
    out = tmp_path / "out"
    extract_clips(jobs[:2], spec, out, FRAMES)
    extract_clips(jobs, spec, out, FRAMES)
    assert len(calls) == 4
    (out / "a.npy").unlink()
    with (out / "features.jsonl").open("a") as file:
        file.write('{"file": "b.npy", "ke')  # killed while writing
    extract_clips(jobs, spec, out, FRAMES)
    assert len(calls) == 5 and len((out / "features.jsonl").read_text().splitlines()) >= 5
    write_wav(tmp_path / "c.wav", seconds=0.7)
    changed = [replace(jobs[0], key="another recording"), *jobs[1:]]
    extract_clips(changed, spec, out, FRAMES)
    assert len(calls) == 6 and len(np.load(out / "c.npy")) == 35
    for other in (MEAN, replace(FRAMES, layers=("1",)), replace(FRAMES, windows=None)):
        with pytest.raises(InputError, match="out: holds features of other settings"):
            extract_clips(jobs, spec, out, other)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"a.npy: is there and no work of this extraction"):
        extract_clips(jobs, spec, tmp_path, FRAMES)
    with pytest.raises(InputError, match="'a', twice"):
        extract_clips([jobs[1], jobs[1]], spec, tmp_path / "twice", FRAMES)
    (out / "features.jsonl").write_text("{}\nrubbish\n")
    with pytest.raises(InputError, match=r"features.jsonl: is damaged"):
        extract_clips(jobs, spec, out, FRAMES)


def test_processes_write_what_one_does(tmp_path, spec, jobs):
    many = [replace(job, id=f"{job.id}{copy}") for copy in range(5) for job in jobs]
    done = []
    extract_clips(many, spec, tmp_path / "one", FRAMES, workers=1)
    extract_clips(many, spec, tmp_path / "two", FRAMES, workers=2, progress=lambda *now: done.append(now))
    assert done == [(number, 20) for number in range(1, 21)]
    for path in (tmp_path / "one").glob("*.npy"):
        assert np.array_equal(np.load(path), np.load(tmp_path / "two" / path.name))


def test_windows_are_those_of_the_stream(tmp_path, spec, jobs):
    windows = Windows(0.25, 0.1)
    wanted = Wanted(frames=True, windows=windows)
    assert extract_clips(jobs, spec, tmp_path / "out", wanted) == []
    for job in jobs:
        pieces = list(encode_stream(spec.create(), iter([read_audio(job.audio, job.start, job.end)]), windows))
        expected = torch.cat(pieces, 1)[-1].numpy()
        assert len(pieces) > 1
        assert np.array_equal(np.load(tmp_path / "out" / f"{job.id.replace('/', '_')}.npy"), expected)
    extract_clips(jobs, spec, tmp_path / "means", replace(wanted, frames=False))
    found, frames = np.load(tmp_path / "means" / "b.npy"), np.load(tmp_path / "out" / "b.npy")
    np.testing.assert_allclose(found, frames.mean(0), atol=1e-6)


@pytest.mark.parametrize("frames", [True, False])
def test_all_layers_come_through_the_cache_or_if_long_in_windows(tmp_path, spec, jobs, calls, frames, monkeypatch):
    wanted = Wanted(frames, (), Windows(0.3, 0.1, above=0.35))
    assert extract_all(jobs, spec, tmp_path / "out", wanted, tmp_path / "cache") == []
    cache = extract(jobs[:1] + jobs[3:], spec, tmp_path / "cache", frames)  # the short ones, cached already
    count = len(calls)
    assert extract_all(jobs, spec, tmp_path / "out", wanted, tmp_path / "cache") == [] and len(calls) == count
    for job in jobs:
        found = np.load(tmp_path / "out" / f"{job.id.replace('/', '_')}.npy")
        if job.id in ("c", "x/part"):
            expected = cache.frames(job.key) if frames else cache.pooled(job.key)
            assert found.dtype == expected.dtype and np.array_equal(found, expected)
            continue
        waves = iter([read_audio(job.audio, job.start, job.end)])
        states = torch.cat(list(encode_stream(spec.create(), waves, wanted.windows)), 1).numpy()
        if frames:
            assert found.dtype == np.float16 and np.array_equal(found, states.astype(np.float16))
        else:
            np.testing.assert_allclose(found, np.stack([states.mean(1), states.std(1)]), atol=1e-5)


def test_a_process_that_is_killed_is_told_in_words(tmp_path, spec, jobs, monkeypatch):
    monkeypatch.setattr(module, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(module, "as_completed", list)
    with pytest.raises(module.SerkitError, match="ended from outside, perhaps for lack of memory"):
        extract_clips([replace(job, size=10**7) for job in jobs], spec, tmp_path / "out", FRAMES, workers=2)
    lines = (tmp_path / "out" / "features.jsonl").read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["encoder"] == "whisper"


class FakePool:
    """A pool whose processes are gone."""

    def __init__(self, *arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, run, task):
        from concurrent.futures import Future
        from concurrent.futures.process import BrokenProcessPool

        future = Future()
        future.set_exception(BrokenProcessPool())
        return future
