"""Clips: what users name on the command line, as single recordings."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import polars as pl
import pytest

from serkit.data.clips import Clip, find_clips
from serkit.data.manifest import Manifest
from serkit.errors import InputError


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(clips, root):
    return [Path(clip.audio).relative_to(root).as_posix() for clip in clips]


# Files, folders, globs


def test_a_file_is_a_clip_under_its_own_name_whatever_its_ending(tmp_path):
    for name in ("a.wav", "b.TXT", "c"):
        path = write(tmp_path / name)
        assert list(find_clips([str(path)])) == [Clip(str(path), str(path))]


def test_a_missing_file_is_a_clip_so_that_it_is_reported_beside_the_others(tmp_path):
    path = str(tmp_path / "none.wav")
    assert list(find_clips([path])) == [Clip(path, path)]


def test_names_keep_their_order_and_may_repeat(tmp_path):
    paths = [write(tmp_path / name) for name in ("b.wav", "a.wav")]
    assert names(find_clips([*paths, paths[0]]), tmp_path) == ["b.wav", "a.wav", "b.wav"]


def test_a_folder_is_searched_to_the_bottom_in_sorted_order_without_hidden_and_other_files(tmp_path):
    for name in ("z.wav", "b/2.flac", "b/10.MP3", "a/x/1.ogg", "b/notes.txt", "._z.wav", "b/.2.wav", "README"):
        write(tmp_path / name)
    (tmp_path / "folder.wav").mkdir()
    assert names(find_clips([tmp_path]), tmp_path) == ["a/x/1.ogg", "b/10.MP3", "b/2.flac", "z.wav"]


def test_a_folder_without_recordings_is_refused(tmp_path):
    write(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=f"^{tmp_path}: holds no recording$"):
        list(find_clips([tmp_path]))


def test_globs_are_sorted_and_reach_down_with_two_stars(tmp_path):
    for name in ("b.wav", "a.wav", "c.txt", "sub/d.wav"):
        write(tmp_path / name)
    assert names(find_clips([f"{tmp_path}/*.wav"]), tmp_path) == ["a.wav", "b.wav"]
    assert names(find_clips([f"{tmp_path}/**/*.wav"]), tmp_path) == ["a.wav", "b.wav", "sub/d.wav"]


def test_a_glob_that_matches_a_folder_and_a_list_opens_both(tmp_path):
    write(tmp_path / "x1" / "a.wav")
    write(tmp_path / "x2.scp", "one b.wav\n")
    assert [clip.id for clip in find_clips([f"{tmp_path}/x*"])] == [f"{tmp_path}/x1/a.wav", "one"]


def test_a_glob_without_match_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\*\.wav: matches no file"):
        list(find_clips([f"{tmp_path}/*.wav"]))


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    path = write(tmp_path / "take[1].wav")
    write(tmp_path / "take1.wav")
    assert names(find_clips([path]), tmp_path) == ["take[1].wav"]


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.wav")
    assert names(find_clips(["~/a.wav", "~/*.wav"]), tmp_path) == ["a.wav", "a.wav"]


def test_names_are_looked_at_one_after_the_other(tmp_path):
    path = str(write(tmp_path / "a.wav"))
    endless = find_clips(itertools.repeat(path))
    assert [clip.audio for clip in itertools.islice(endless, 3)] == [path] * 3


# Lists


def test_wav_scp_gives_ids_and_paths_that_may_hold_spaces(tmp_path):
    path = write(tmp_path / "wav.scp", "one a.wav\n\n  two   sub/b c.wav  \nthree /x/d.wav\n")
    assert list(find_clips([path])) == [
        Clip("one", str(tmp_path / "a.wav")),
        Clip("two", str(tmp_path / "sub" / "b c.wav")),
        Clip("three", "/x/d.wav"),
    ]


SPANS = [Clip("one", "a.wav", 0.5, 1.25), Clip("two", "sub/b.wav", None, 2.0), Clip("/x/c.wav", "/x/c.wav")]
TEXTS = {
    "m.csv": "id,audio,start,end\none,a.wav,0.5,1.25\ntwo,sub/b.wav,,2\n,/x/c.wav,,\n",
    "m.tsv": "end\taudio\tid\tstart\n1.25\ta.wav\tone\t0.5\n2\tsub/b.wav\ttwo\t\n\t/x/c.wav\t\t\n",
    "m.JSONL": '{"id": "one", "audio": "a.wav", "start": 0.5, "end": 1.25}\n\n'
    '{"key": "two", "wav": "sub/b.wav", "end": 2}\n{"file": "/x/c.wav", "start": null}\n',
    "bom.csv": "\ufeffaudio,id,start,end\na.wav,one,0.5,1.25\nsub/b.wav,two,,2\n/x/c.wav,,,\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_manifests_in_text_give_spans_and_paths_from_their_own_folder(tmp_path, monkeypatch, name):
    path = write(tmp_path / "lists" / name, TEXTS[name])
    monkeypatch.chdir(tmp_path)
    expected = [Clip(clip.id, os.path.join(path.parent, clip.audio), clip.start, clip.end) for clip in SPANS]
    assert list(find_clips([path])) == expected


def test_a_parquet_manifest_gives_spans_and_paths_from_its_own_folder(tmp_path):
    rows = [
        {"id": clip.id, "audio": str(tmp_path / clip.audio), "start": clip.start, "end": clip.end} for clip in SPANS
    ]
    Manifest.from_rows(rows).write(tmp_path / "m.parquet")
    assert list(find_clips([tmp_path / "m.parquet"])) == [
        Clip(clip.id, str(tmp_path / clip.audio), clip.start, clip.end) for clip in SPANS
    ]


def test_a_start_of_zero_is_a_start(tmp_path):
    (clip,) = find_clips([write(tmp_path / "m.csv", "audio,start,end\na.wav,0,0.0\n")])
    assert (clip.start, clip.end) == (0.0, 0.0)


def test_a_list_may_say_what_is_spoken_and_then_leave_recordings_out(tmp_path):
    path = write(tmp_path / "m.csv", "id,audio,text\none,a.wav,Oh no\ntwo,a.wav,\nthree,,Yes\n,,See\n")
    found = [(clip.id, clip.audio and Path(clip.audio).name, clip.text) for clip in find_clips([path])]
    heard, read = (
        [("one", "a.wav", "Oh no"), ("two", "a.wav", None)],
        [("three", None, "Yes"), ("m.csv:4", None, "See")],
    )
    assert found == heard + read


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "id,said\n1,hi\n", "row 1 names no recording"),
        ("m.csv", "id,audio\n1,a.wav\n2,\n", "row 2 names no recording"),
        ("m.csv", "audio,start\na.wav,soon\n", "row 1: start and end are seconds"),
        ("m.jsonl", '{"audio": "a.wav"}\n{"audio"\n', "cannot be read"),
        ("m.jsonl", '{"audio": "a.wav", "start": [1]}\n', "row 1: start and end are seconds"),
        ("m.jsonl", '"a.wav"\n', "row 1 names no recording"),
        ("m.scp", "one a.wav\ntwo\n", "row 2 names no recording"),
        ("m.parquet", "not parquet", "cannot be read"),
        ("m.csv", "", "lists no recording"),
        ("m.csv", "id,audio\n", "lists no recording"),
        ("m.scp", "\n", "lists no recording"),
    ],
)
def test_bad_lists_are_refused_by_name_and_row_in_one_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(InputError, match=f"^{path}: {message}") as caught:
        list(find_clips([path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["m.csv", "m.scp", "m.jsonl"])
def test_a_list_that_is_not_text_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00\x80" * 8)
    with pytest.raises(InputError, match=f"^{path}: cannot be read"):
        list(find_clips([path]))


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.scp", "m.parquet"])
def test_a_missing_list_is_refused_instead_of_taken_for_a_recording(tmp_path, name):
    with pytest.raises(InputError, match=f"^{tmp_path / name}: no such file$"):
        list(find_clips([tmp_path / name]))


def test_a_parquet_file_without_recordings_is_refused(tmp_path):
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "m.parquet")
    with pytest.raises(InputError, match="row 1 names no recording"):
        list(find_clips([tmp_path / "m.parquet"]))


def test_parquet_without_polars_says_what_to_install(tmp_path, monkeypatch):
    pl.DataFrame({"audio": ["a"]}).write_parquet(tmp_path / "m.parquet")
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(InputError, match=r"polars is not installed: run pip install 'serkit\[train\]'"):
        list(find_clips([tmp_path / "m.parquet"]))
