"""fairseq's lists, and what is named on a command line as one manifest."""

from __future__ import annotations

import pytest

from serkit.data.clips import find_clips
from serkit.data.inputs import gather
from serkit.data.manifest import Manifest
from serkit.data.recordings import short_names
from serkit.errors import InputError


@pytest.fixture
def recordings(tmp_path, write_wav):
    """Three recordings in two folders, of which two share a stem."""
    return [
        write_wav(tmp_path / "root" / name, seconds=seconds, rate=rate)
        for name, seconds, rate in (("s1/a.wav", 0.1, 16_000), ("s2/a.wav", 0.2, 8_000), ("s2/b.flac", 0.3, 16_000))
    ]


def test_a_list_of_fairseq_is_written_and_read(tmp_path, recordings):
    rows = [{"id": f"u{number}", "audio": str(path)} for number, path in enumerate(recordings)]
    Manifest.from_rows(rows).write(tmp_path / "lists" / "train.tsv")
    text = (tmp_path / "lists" / "train.tsv").read_text()
    assert text == f"{tmp_path / 'root'}\ns1/a.wav\t1600\ns2/a.wav\t1600\ns2/b.flac\t4800\n"
    manifest = Manifest.read(tmp_path / "lists" / "train.tsv")
    assert manifest.table["audio"].to_list() == [str(path) for path in recordings]
    assert manifest.ids == ["s1/a", "s2/a", "b"] and manifest.table["samples"].to_list() == [1600, 1600, 4800]
    assert manifest.validate() == []
    clips = list(find_clips([tmp_path / "lists" / "train.tsv"]))
    assert [(clip.id, clip.audio) for clip in clips] == list(zip(manifest.ids, map(str, recordings), strict=True))


def test_roots_may_be_relative_wrong_or_given(tmp_path, recordings):
    path = tmp_path / "m.tsv"
    path.write_text("root\ns1/a.wav\t1600\n\n")
    assert Manifest.read(path).table["audio"].to_list() == [str(recordings[0])]
    path.write_text("/gone\ns2/a.wav\t1600\n")
    assert Manifest.read(path, tmp_path / "root").table["audio"].to_list() == [str(recordings[1])]
    assert [clip.audio for clip in find_clips([path], tmp_path / "root")] == [str(recordings[1])]


def test_tables_with_tabs_are_still_tables(tmp_path):
    (tmp_path / "m.tsv").write_text("id\taudio\none\ta.wav\n")
    assert Manifest.read(tmp_path / "m.tsv").ids == ["one"]
    (tmp_path / "m.tsv").write_text("/root\na.wav\t12\nb.wav\n")
    with pytest.raises(InputError, match=r"m.tsv: cannot be read as a manifest: line 3: expected 'path<TAB>samples'"):
        Manifest.read(tmp_path / "m.tsv")


def test_a_span_has_no_place_in_a_list_of_fairseq(tmp_path, recordings):
    manifest = Manifest.from_rows([{"id": "u", "audio": str(recordings[0]), "end": 0.05}])
    with pytest.raises(InputError, match="utterance u is no whole recording"):
        manifest.write(tmp_path / "m.tsv")
    assert not (tmp_path / "m.tsv").exists()


def test_short_names_are_as_short_as_they_tell_paths_apart():
    paths = ["x/a/1.wav", "x/b/1.wav", "2.wav", "y/3.wav", "y/3.flac", "1.wav"]
    assert short_names(paths) == ["a/1", "b/1", "2", "3.wav", "3.flac", "1"]
    assert short_names(["a.wav", "a.wav"]) == ["a", "a"]
    assert short_names([]) == []


def test_manifests_recordings_and_folders_are_one_manifest(tmp_path, recordings):
    rows = [{"id": "one", "audio": str(recordings[0]), "end": 0.05, "emotion": "sad"}]
    Manifest.from_rows(rows).write(tmp_path / "m.csv")
    (tmp_path / "wav.scp").write_text(f"utt {recordings[1]}\n")
    found = gather([tmp_path / "m.csv", tmp_path / "root" / "s2", tmp_path / "wav.scp", str(recordings[0])])
    assert found.ids == ["one", "s2/a", "b", "utt", "s1/a"]
    assert found.table["end"].to_list() == [0.05, None, None, None, None]
    assert found.table["emotion"].to_list() == ["sad", None, None, None, None]
    with pytest.raises(InputError, match="none.csv: no such"):
        gather([tmp_path / "none.csv"])
