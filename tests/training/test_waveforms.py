"""Recordings for fine-tuning: decoded once, read by row, cut and changed on the fly."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import soundfile
import torch

from serkit.data.manifest import Manifest
from serkit.encoders import create_encoder
from serkit.encoders.whisper import create_tiny
from serkit.errors import InputError
from serkit.models.model import Waveforms
from serkit.training.augment import Augmentation
from serkit.training.waveforms import SHORTEST, WaveformSet, store_waveforms

SECONDS = [0.4 + 0.1 * number for number in range(8)]


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Eight recordings of different lengths and levels; the last row is a span of the file of the first."""
    rows = []
    for number, seconds in enumerate(SECONDS):
        wave = (0.1 + 0.05 * number) * np.sin(2 * np.pi * 300 * np.arange(round(seconds * 16_000)) / 16_000)
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        rows.append({"id": f"u{number}", "audio": str(tmp_path / f"{number}.wav"), "emotion": "sad"})
    rows.append({"id": "span", "audio": rows[0]["audio"], "emotion": "sad", "start": 0.1, "end": 0.35})
    return Manifest.from_rows(rows)


def waveform_set(store, rows, **options) -> WaveformSet:
    return WaveformSet(tuple(f"u{row}" for row in rows), store, tuple(rows), {}, torch.ones(len(rows)), **options)


def test_every_row_is_read_back_as_it_was_recorded(manifest, tmp_path):
    store = store_waveforms(manifest, create_tiny(), tmp_path / "cache", workers=2)
    assert len(store) == 9 and store.seconds() == pytest.approx([*SECONDS, 0.25])
    for row in (8, 0, 5, 7):
        path, span = manifest.table["audio"][row], slice(1600, 5600) if row == 8 else slice(None)
        np.testing.assert_array_equal(store.read(row), soundfile.read(path, dtype="float32")[0][span])
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    np.testing.assert_array_equal(again.read(3), store.read(3))


def test_what_the_encoder_does_to_recordings_first_is_done_once(manifest, tmp_path, monkeypatch):
    encoder = create_tiny()
    encoder.limit, encoder.level = 0.5, -20.0
    store = store_waveforms(manifest, encoder, tmp_path / "cache")
    assert store.seconds() == pytest.approx([min(seconds, 0.5) for seconds in [*SECONDS, 0.25]])
    rms = [float(np.sqrt(np.mean(store.read(row) ** 2))) for row in range(8)]
    assert max(rms) / min(rms) < 1.05 < rms[0] / 0.05
    plain = store_waveforms(manifest, create_tiny(), tmp_path / "cache")
    assert plain.path != store.path
    monkeypatch.setattr("serkit.training.waveforms.read_audio", None)  # nothing is decoded a second time
    assert store_waveforms(manifest, encoder, tmp_path / "cache") == store
    again = store_waveforms(manifest, create_tiny(), tmp_path / "cache")
    np.testing.assert_array_equal(again.read(1), plain.read(1))


def test_a_recording_that_is_too_short_is_named(manifest, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.full(300, 0.1), 16_000)
    rows = [*manifest.table.rows(named=True), {"id": "click", "audio": str(tmp_path / "click.wav")}]
    with pytest.raises(InputError, match=r"click\.wav: utterance 'click': whisper needs at least 400 samples"):
        store_waveforms(Manifest.from_rows(rows), create_tiny(), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.f32")) and not list((tmp_path / "cache").rglob("*.json"))


def test_a_part_reads_its_own_rows(manifest, tmp_path):
    store = store_waveforms(manifest, create_tiny(), tmp_path / "cache")
    part = waveform_set(store, (6, 1, 4))
    assert part.seconds == pytest.approx([1.0, 0.5, 0.8])
    batch = part.batch([2, 0])
    assert batch.lengths.tolist() == [12_800, 16_000]
    np.testing.assert_array_equal(batch.waveforms[0, :12_800], store.read(4))
    np.testing.assert_array_equal(batch.waveforms[1], store.read(6))
    assert not batch.waveforms[0, 12_800:].any()


def test_crops_keep_a_quarter_second_and_the_order(manifest, tmp_path):
    store = store_waveforms(manifest, create_tiny(), tmp_path / "cache")
    part = waveform_set(store, range(8), crop=0.01)
    lengths = np.array([part.batch([7, 0], (seed,)).lengths.tolist() for seed in range(20)])
    assert (lengths >= SHORTEST).all() and (lengths < [round(1.1 * 16_000), 6400]).any(0).all()
    cut = part.batch([7], (3,)).waveforms[0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(store.read(7), len(cut))
    assert (windows == cut).all(1).any()
    assert torch.equal(part.plain().batch([7]).waveforms[0], torch.from_numpy(store.read(7)))


def test_a_recording_is_changed_by_its_seed_and_not_by_its_neighbours(manifest, tmp_path):
    store = store_waveforms(manifest, create_tiny(), tmp_path / "cache")
    part = waveform_set(store, range(8), augmentation=Augmentation([{"name": "noise"}]), crop=0.5)

    def changed(numbers, place, seed):
        batch = part.batch(numbers, seed)
        return batch.waveforms[place, : int(batch.lengths[place])]

    alone = changed([2], 0, (0, 1))
    assert torch.equal(alone, changed([5, 2, 7], 1, (0, 1)))
    assert not torch.equal(alone, changed([2], 0, (0, 2)))
    assert not torch.equal(alone, changed([2], 0, (1, 1)))
    twins = waveform_set(store, (2, 2), augmentation=part.augmentation, crop=0.5).batch([0, 1], (0, 1))
    assert not torch.equal(*(row[:length] for row, length in zip(twins.waveforms, twins.lengths, strict=True)))
    assert part.plain().augmentation is None and part.plain().crop == 1
    assert torch.equal(part.plain().batch([2]).waveforms[0], torch.from_numpy(store.read(2)))


def test_padding_is_zero_and_lengths_are_kept():
    batch = Waveforms.pad([torch.ones(3), torch.ones(5)])
    assert batch.lengths.tolist() == [3, 5]
    assert batch.waveforms[0].tolist() == [1, 1, 1, 0, 0]


def test_an_encoder_at_another_rate_is_not_fine_tuned(manifest, tmp_path):
    with pytest.raises(InputError, match=r"encoder mat-mel: takes 22050 Hz, fine-tuning gives 16 kHz"):
        store_waveforms(manifest, create_encoder("mat-mel"), tmp_path / "cache")
