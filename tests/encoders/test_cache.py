"""The feature cache: what goes in comes out, several writers and killed ones do no harm, damage is noticed."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from serkit.data.manifest import Manifest
from serkit.encoders import batches
from serkit.encoders import cache as cache_module
from serkit.encoders.cache import FeatureCache, feature_key
from serkit.encoders.extract import EncoderSpec, extract, list_jobs, write_features
from serkit.encoders.whisper import WhisperConfig, WhisperEncoder
from serkit.errors import InputError, SerkitError

torch.set_num_threads(1)

LAYERS, DIM = 2, 3


def frames_of(seed, length=None):
    rng = np.random.default_rng(seed)
    return rng.normal(seed, 1, (LAYERS, length or 2 + seed % 5, DIM)).astype(np.float32)


def opened(folder):
    return FeatureCache(folder, "print", LAYERS, DIM)


def filled(folder, count=4, keep_frames=True):
    cache = opened(folder)
    for seed in range(count):
        cache.add(f"k{seed}", frames_of(seed), keep_frames)
    return cache


def only(cache, suffix):
    (path,) = cache.folder.glob(f"*{suffix}")
    return path


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)


def check(cache, seeds):
    for seed in seeds:
        frames = frames_of(seed)
        assert np.array_equal(cache.frames(f"k{seed}"), frames.astype(np.float16))
        expected = np.stack([frames.mean(1, dtype=np.float64), frames.std(1, dtype=np.float64)]).astype(np.float32)
        assert np.array_equal(cache.pooled(f"k{seed}"), expected)


def test_what_goes_in_comes_out_at_once_and_later(tmp_path):
    cache = filled(tmp_path)
    for reader in (cache, opened(tmp_path)):
        check(reader, range(4))
        assert reader.lengths(["k3", "k0"]).tolist() == [5, 2]
    assert cache.frames("k0").dtype == np.float16 and cache.pooled("k0").dtype == np.float32
    cache.add("late", frames_of(9))
    assert cache.frames("late").shape == (LAYERS, 6, DIM)
    cache.frames("k0")[:] = 1
    check(opened(tmp_path), range(4))


def wide(folder):
    return FeatureCache(folder, "wide", LAYERS, DIM, "float32")


def test_frames_of_single_precision_keep_every_bit(tmp_path):
    floor = np.full((LAYERS, 4, DIM), 1e-8, np.float32)
    cache = wide(tmp_path)
    cache.add("k", frames_of(3))
    cache.add("floor", floor)
    for reader in (cache, wide(tmp_path)):
        assert reader.frames("k").dtype == np.float32 and np.array_equal(reader.frames("k"), frames_of(3))
        assert np.array_equal(reader.frames("floor"), floor)
    half = filled(tmp_path)
    half.add("floor", floor)
    assert not half.frames("floor").any()


def test_the_index_tells_single_precision_alone(tmp_path):
    cache = wide(tmp_path)
    cache.add("k", frames_of(0))
    assert '"dtype": "float32"' in only(cache, ".index").read_text()
    assert "dtype" not in only(filled(tmp_path), ".index").read_text()
    with pytest.raises(SerkitError, match=r"holds frames of float32, not float16: delete .*\.\* to recompute"):
        FeatureCache(tmp_path, "wide", LAYERS, DIM)


def test_a_cut_file_of_single_precision_is_noticed(tmp_path):
    cache = wide(tmp_path)
    cache.add("k", frames_of(0))
    path = only(cache, ".frames")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SerkitError, match="shorter than it says"):
        wide(tmp_path)


def test_the_precision_of_an_encoder_reaches_its_frames(tmp_path, write_wav, spec, monkeypatch):
    jobs = list_jobs(manifest_of(tmp_path, write_wav, 2))
    half = extract(jobs, spec, tmp_path / "cache", frames=True, workers=1)
    monkeypatch.setattr(WhisperEncoder, "precision", "float32")
    single = extract(jobs, spec, tmp_path / "cache", frames=True, workers=1)
    assert single.folder.name == spec.create().fingerprint() != half.folder.name
    for job in jobs:
        frames = single.frames(job.key)
        assert frames.dtype == np.float32 and np.array_equal(frames.astype(np.float16), half.frames(job.key))
    write_features(jobs, single, tmp_path / "files", frames=True)
    assert np.array_equal(np.load(tmp_path / "files" / "u0.npy"), single.frames(jobs[0].key))


def test_statistics_by_hand(tmp_path):
    cache = FeatureCache(tmp_path, "print", 1, 2)
    cache.add("k", np.array([[[1, 10], [3, 10], [5, 40]]], np.float32), keep_frames=False)
    np.testing.assert_allclose(cache.pooled("k"), [[[3, 20]], [[(8 / 3) ** 0.5, 200**0.5]]], rtol=1e-6)
    assert cache.has("k") and not cache.has("k", frames=True)
    with pytest.raises(KeyError, match="only pooled statistics"):
        cache.frames("k")


def test_statistics_keep_their_digits_far_from_zero(tmp_path):
    cache = FeatureCache(tmp_path, "print", 1, 1)
    values = (1e4 + np.tile([0.0, 1.0], 5000)).astype(np.float32)
    cache.add("k", values[None, :, None])
    np.testing.assert_allclose(cache.pooled("k")[:, 0, 0], [1e4 + 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("shape", [(LAYERS, 4), (LAYERS + 1, 4, DIM), (LAYERS, 4, DIM + 1), (LAYERS, 0, DIM)])
def test_other_shapes_are_refused(shape, tmp_path):
    with pytest.raises(ValueError, match=r"expected frames of shape \(2, T, 3\)"):
        opened(tmp_path).add("k", np.zeros(shape, np.float32))


def test_unknown_keys_and_other_encoders_find_nothing(tmp_path):
    filled(tmp_path)
    with pytest.raises(KeyError, match="nobody"):
        opened(tmp_path).pooled("nobody")
    assert FeatureCache(tmp_path, "other", LAYERS, DIM).records == {}


def test_the_key_is_the_content_not_the_path(tmp_path, write_wav):
    base = feature_key(b"audio", None, None)
    others = [
        feature_key(b"audiO", None, None),
        feature_key(b"audio", 0.5, None),
        feature_key(b"audio", None, 0.5),
        feature_key(b"audio", None, None, "augmented"),
    ]
    assert base == feature_key(b"audio", None, None) and len({base, *others}) == 5
    one, two = write_wav(tmp_path / "a" / "x.wav"), write_wav(tmp_path / "b" / "y.wav")
    jobs = list_jobs(Manifest.from_rows([{"id": "one", "audio": str(one)}, {"id": "two", "audio": str(two)}]))
    assert jobs[0].key == jobs[1].key
    copies = [list_jobs(Manifest.from_rows([{"id": "one", "audio": str(one)}]), copy, "chain") for copy in (0, 1, 2)]
    assert len({jobs[0].key for jobs in copies}) == 3 and copies[0][0].key == jobs[0].key


# Several writers, killed writers, damage


def test_two_processes_write_at_once(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from serkit.encoders.cache import FeatureCache\n"
        "cache = FeatureCache(sys.argv[1], 'print', 2, 3)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(300):\n"
        "    cache.add(f'{sys.argv[2]}{n}', np.full((2, 4, 3), n, np.float32))\n"
        "    if n % 50 == 0: cache.refresh()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name], **pipes) for name in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    cache = opened(tmp_path)
    assert len(cache.records) == 600
    for name in "ab":
        for n in (0, 7, 299):
            assert (cache.frames(f"{name}{n}") == n).all() and (cache.pooled(f"{name}{n}")[0] == n).all()


def test_a_reader_that_comes_while_another_writes_sees_no_damage(tmp_path, monkeypatch):
    writer, size = filled(tmp_path), cache_module._size

    def write_meanwhile(path):
        before = size(path)
        writer.add(f"new{len(writer.records)}", frames_of(1))
        return before

    monkeypatch.setattr(cache_module, "_size", write_meanwhile)
    check(opened(tmp_path), range(4))


def test_a_killed_writer_loses_only_its_last_record(tmp_path):
    cache = filled(tmp_path)
    index = only(cache, ".index")
    index.write_bytes(index.read_bytes()[:-9])
    again = opened(tmp_path)
    assert sorted(again.records) == ["k0", "k1", "k2"]
    check(again, range(3))
    again.add("k3", frames_of(3))
    check(opened(tmp_path), range(4))


def test_data_without_an_index_line_is_ignored(tmp_path):
    cache = filled(tmp_path)
    for suffix in (".pooled", ".frames"):
        with only(cache, suffix).open("ab") as file:
            file.write(b"half a record")
    check(opened(tmp_path), range(4))


def test_a_writer_killed_for_real_can_be_followed(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from serkit.encoders.cache import FeatureCache\n"
        "cache = FeatureCache(sys.argv[1], 'print', 2, 3)\n"
        "for n in range(10**9):\n"
        "    cache.add(f'n{n}', np.full((2, 4, 3), n % 100, np.float32))\n"
        "    print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    seen = [int(writer.stdout.readline()) for _ in range(50)][-1]
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    writer.stdout.close()
    cache = opened(tmp_path)
    assert len(cache.records) > seen
    for n in range(seen + 1):
        assert (cache.frames(f"n{n}") == n % 100).all()


@pytest.mark.parametrize("suffix", [".pooled", ".frames"])
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_bit_is_noticed_and_the_file_named(suffix, position, tmp_path):
    path = only(filled(tmp_path), suffix)
    flip(path, position)
    cache = opened(tmp_path)
    hit, spared = ("k0", "k3") if position == 0 else ("k3", "k0")
    read = cache.pooled if suffix == ".pooled" else cache.frames
    read(spared)
    with pytest.raises(SerkitError, match=rf"{path.name}: is damaged \(.*{hit}\)"):
        read(hit)


@pytest.mark.parametrize("suffix", [".pooled", ".frames"])
def test_a_shortened_file_is_noticed(suffix, tmp_path):
    path = only(filled(tmp_path), suffix)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SerkitError, match=rf"{path.stem}.index: its data files are shorter"):
        opened(tmp_path)
    path.unlink()
    with pytest.raises(SerkitError, match="shorter"):
        opened(tmp_path)


def test_a_damaged_index_is_named(tmp_path):
    index = only(filled(tmp_path), ".index")
    index.write_bytes(b"{" + index.read_bytes())
    with pytest.raises(SerkitError, match=rf"{index.name}: is damaged"):
        opened(tmp_path)


def test_a_record_written_again_is_verified_again(tmp_path):
    first = filled(tmp_path, keep_frames=False)
    reader = opened(tmp_path)
    reader.pooled("k0")
    second = opened(tmp_path)
    second.add("k0", frames_of(0))
    flip(second.folder / f"{second.records['k0'].shard}.pooled", 0)
    reader.refresh()
    assert reader.has("k0", frames=True) and not first.has("k0", frames=True)
    with pytest.raises(SerkitError, match="is damaged"):
        reader.pooled("k0")


# Extraction


@pytest.fixture
def spec(tmp_path):
    torch.manual_seed(0)
    encoder = WhisperEncoder("whisper", WhisperConfig(mels=20, dim=64, heads=1, blocks=1, ffn=48, positions=200))
    save_file(encoder.state_dict(), tmp_path / "tiny.safetensors")
    return EncoderSpec("whisper", {"weights": str(tmp_path / "tiny.safetensors"), "trim": 35, "level": -23})


@pytest.fixture
def encoded(monkeypatch):
    """The lengths in samples of every utterance that was encoded in this process."""
    calls, forward = [], WhisperEncoder.forward

    def counting(self, waveforms, lengths):
        calls.extend(lengths.tolist())
        return forward(self, waveforms, lengths)

    monkeypatch.setattr(WhisperEncoder, "forward", counting)
    return calls


def manifest_of(tmp_path, write_wav, count):
    rows = []
    for number in range(count):
        seconds = 0.2 + 0.03 * number
        path = write_wav(tmp_path / f"{number}.wav", seconds=seconds, frequency=200 + 20 * number, seed=number)
        rows.append({"id": f"u{number}", "audio": str(path)})
    return Manifest.from_rows(rows)


def test_extraction_resumes_and_frames_follow_on_demand(tmp_path, write_wav, spec, encoded):
    jobs = list_jobs(manifest_of(tmp_path, write_wav, 5))
    extract(jobs[:2], spec, tmp_path / "cache", frames=False, workers=1)
    assert len(encoded) == 2
    cache = extract(jobs, spec, tmp_path / "cache", frames=False, workers=1)
    assert len(encoded) == 5 and encoded == sorted(encoded[:2])[::-1] + sorted(encoded[2:])[::-1]
    pooled = [cache.pooled(job.key) for job in jobs]
    extract(jobs, spec, tmp_path / "cache", frames=False, workers=1)
    assert len(encoded) == 5
    cache = extract(jobs, spec, tmp_path / "cache", frames=True, workers=1)
    assert len(encoded) == 10
    for job, before in zip(jobs, pooled, strict=True):
        assert np.array_equal(cache.pooled(job.key), before)
        frames = cache.frames(job.key).astype(np.float64)
        np.testing.assert_allclose(cache.pooled(job.key)[0], frames.mean(1), atol=2e-3)
        np.testing.assert_allclose(cache.pooled(job.key)[1], frames.std(1), atol=2e-3)
    extract(jobs, spec, tmp_path / "cache", frames=False, workers=1)
    assert len(encoded) == 10
    write_features(jobs, cache, tmp_path / "out", frames=True)
    assert np.load(tmp_path / "out" / "u3.npy").shape == cache.frames(jobs[3].key).shape
    other = replace(spec, options={**spec.options, "level": -30})
    extract(jobs, other, tmp_path / "cache", frames=False, workers=1)
    assert len(encoded) == 15


def test_the_number_of_workers_changes_nothing(tmp_path, write_wav, spec):
    jobs = list_jobs(manifest_of(tmp_path, write_wav, 17))
    done = []
    one = extract(jobs, spec, tmp_path / "one", frames=True, workers=1)
    two = extract(jobs[::-1], spec, tmp_path / "two", frames=True, workers=2, progress=lambda *now: done.append(now))
    assert done == [(number, 17) for number in range(1, 18)]
    assert 1 <= len(list(two.folder.glob("*.index"))) <= 2
    for job in jobs:
        assert np.array_equal(one.pooled(job.key), two.pooled(job.key))
        assert np.array_equal(one.frames(job.key), two.frames(job.key))


@pytest.mark.parametrize("seconds", [0.1, 1.0, 100.0])
def test_batches_give_what_single_utterances_give(seconds, tmp_path, write_wav, spec, encoded, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 4)
    jobs, done = list_jobs(manifest_of(tmp_path, write_wav, 9)), []
    one = extract(jobs, spec, tmp_path / "one", frames=True, workers=1)
    calls = len(encoded)
    many = extract(jobs, spec, tmp_path / "many", True, progress=lambda *now: done.append(now), batch_seconds=seconds)
    assert done == [(number, 9) for number in range(1, 10)] and len(encoded) == calls + 9
    for job in jobs:
        np.testing.assert_allclose(many.pooled(job.key), one.pooled(job.key), atol=1e-5)
        np.testing.assert_allclose(many.frames(job.key), one.frames(job.key), atol=5e-3)
    assert many.folder.name == one.folder.name


def test_batches_stay_within_their_size():
    sizes = [5, 90, 40, 41, 7, 300, 38]
    planned = list(batches.plan_batches(sizes, 130))
    assert planned == [[5], [1], [3, 2, 6], [4, 0]]
    assert list(batches.plan_batches([], 130)) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_missing_device_is_refused(tmp_path, spec):
    with pytest.raises(InputError, match='device="cuda": PyTorch finds no such device here'):
        extract([], spec, tmp_path, frames=False, device="cuda")


@pytest.mark.parametrize("way", [{"workers": 1}, {"batch_seconds": 5}], ids=["one by one", "in batches"])
def test_a_corrupt_recording_is_named_after_the_others_are_done(tmp_path, write_wav, spec, way):
    manifest = manifest_of(tmp_path, write_wav, 4)
    (tmp_path / "1.wav").write_bytes(b"RIFF nothing")
    write_wav(tmp_path / "2.wav", seconds=0.01)
    jobs = list_jobs(manifest)
    with pytest.raises(InputError, match=r"utterance u[12]: .*\(and 1 more\): remove it from the manifest"):
        extract(jobs, spec, tmp_path / "cache", frames=False, **way)
    encoder = spec.create()
    cache = FeatureCache(tmp_path / "cache", encoder.fingerprint(), encoder.num_layers, encoder.dim)
    assert [cache.has(job.key) for job in jobs] == [True, False, False, True]


def test_augmented_copies_are_seeded_by_utterance_and_copy(tmp_path, write_wav, spec):
    manifest = manifest_of(tmp_path, write_wav, 2)
    seeds: list[str] = []

    def augment(waveform, seed):
        seeds.append(seed)
        return waveform * 0.5

    plain = list_jobs(manifest)
    extract(plain, spec, tmp_path / "cache", False, augment, workers=1)
    assert seeds == []
    extract(list_jobs(manifest, 2, "chain"), spec, tmp_path / "cache", False, augment, workers=1)
    assert sorted(seeds) == ["2/u0", "2/u1"]


def test_the_same_recording_twice_is_encoded_once(tmp_path, write_wav, spec, encoded):
    path = str(write_wav(tmp_path / "a.wav"))
    rows = [
        {"id": "a", "audio": path},
        {"id": "b", "audio": path},
        {"id": "c", "audio": path, "start": 0.2, "end": 0.7},
    ]
    jobs = list_jobs(Manifest.from_rows(rows))
    extract(jobs, spec, tmp_path / "cache", frames=False, workers=1)
    assert encoded == [16_000, 8000]


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.wav: cannot be read"):
        list_jobs(Manifest.from_rows([{"id": "a", "audio": str(tmp_path / "gone.wav")}]))
