"""The CSV file,emotion,text: what its names tell, where its recordings are, and writing it again."""

from __future__ import annotations

import pytest

from serkit.data.manifest import Manifest
from serkit.data.published_csv import write_published_csv
from serkit.errors import InputError

LINES = [
    "file,emotion,text",
    '/path_to_wavs/Ses01F_impro01_M000.wav,e0,"YES , {LG} MAYBE ."',
    '/path_to_wavs/Ses03M_script01_1b_F012.wav,e1,"IT\'S ""FINE"" ."',
    "/path_to_wavs/other.wav,e2,",
]


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def published(tmp_path):
    return write(tmp_path / "set" / "iemocap_01F.test.csv", *LINES)


# Reading


def test_names_of_iemocap_tell_who_talks_and_others_tell_nothing(published):
    table = Manifest.read(published).table
    columns = ["id", "corpus", "speaker", "session", "gender", "language", "recording", "scenario", "emotion", "text"]
    assert table.select(columns).rows() == [
        (
            *("Ses01F_impro01_M000", "iemocap", "01M", "1", "male", "en", "Ses01F", "impro", "neutral"),
            "YES , {LG} MAYBE .",
        ),
        (
            *("Ses03M_script01_1b_F012", "iemocap", "03F", "3", "female", "en", "Ses03M", "script", "happy"),
            'IT\'S "FINE" .',
        ),
        ("other", None, None, None, None, None, None, None, "angry", None),
    ]
    assert table["audio"][0] == "/path_to_wavs/Ses01F_impro01_M000.wav"


def test_the_facts_are_those_of_the_corpus_folder(tmp_path, published):
    """The same utterance read from the corpus's own layout has the same speaker, recording and scenario."""
    from serkit.data.corpora.iemocap import read

    touch(tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav")
    write(tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "")
    (row,) = read(tmp_path)
    table = Manifest.read(published).table
    for name in ("speaker", "session", "gender", "recording", "scenario"):
        assert table[name][0] == row[name], name


def test_codes_become_names_and_names_stay(tmp_path):
    lines = ["file,emotion", "a.wav,e3", "b.wav,excited", "c.wav,", "d.wav,e9"]
    table = Manifest.read(write(tmp_path / "m.csv", *lines)).table
    assert table["emotion"].to_list() == ["sad", "excited", None, "e9"]
    assert table["text"].null_count() == 4
    assert table["audio"][0] == str(tmp_path / "a.wav")  # relative to the manifest, as everywhere


def test_further_columns_are_kept_and_win(tmp_path):
    lines = [
        "file,emotion,text,speaker,id,votes",
        "x/Ses01F_impro01_F000.wav,e0,A,anna,u1,sad;sad",
        "y/b.wav,e0,B,,u2,",
    ]
    table = Manifest.read(write(tmp_path / "m.csv", *lines)).table
    assert table.select("id", "speaker").rows() == [("u1", "anna"), ("u2", None)]
    assert table["votes"][0].to_list() == ["sad", "sad"]


def test_a_manifest_of_ours_with_a_column_file_stays_ours(tmp_path):
    table = Manifest.read(write(tmp_path / "m.csv", "id,audio,file,emotion", "a,a.wav,x.wav,e0")).table
    assert table.select("id", "file", "emotion").row(0) == ("a", "x.wav", "e0")


def test_two_files_of_one_name_need_ids(tmp_path):
    path = write(tmp_path / "m.csv", "file,emotion", "anna/1.wav,e0", "bert/1.wav,e1")
    with pytest.raises(InputError, match=r"m\.csv: anna/1\.wav and bert/1\.wav have one name: add a column id"):
        Manifest.read(path)


# Where recordings are


def test_recordings_are_found_flat_or_nested_or_with_another_ending(tmp_path, published):
    flat = tmp_path / "wavs" / "Ses01F_impro01_M000.wav"
    nested = tmp_path / "wavs/Session3/sentences/wav/Ses03M_script01_1b/Ses03M_script01_1b_F012.wav"
    other = tmp_path / "wavs" / "more" / "other.flac"
    touch(flat, nested, other, nested.with_name("._" + nested.name), other.with_suffix(".txt"))
    assert Manifest.read(published, root=tmp_path / "wavs").table["audio"].to_list() == list(
        map(str, (flat, nested, other))
    )


def test_the_tree_is_walked_once_and_not_at_all_when_all_lies_flat(tmp_path, published, monkeypatch):
    import os

    walks, walk = [], os.walk
    monkeypatch.setattr("serkit.data.recordings.os.walk", lambda root: walks.append(root) or walk(root))
    names = ("Ses01F_impro01_M000.wav", "Ses03M_script01_1b_F012.wav", "other.wav")
    touch(*(tmp_path / "flat" / name for name in names), *(tmp_path / "nested" / name[:5] / name for name in names))
    Manifest.read(published, root=tmp_path / "flat")
    assert walks == []
    Manifest.read(published, root=tmp_path / "nested")
    assert walks == [tmp_path / "nested"]


def test_the_first_missing_recording_is_named(tmp_path, published):
    touch(tmp_path / "wavs" / "Ses01F_impro01_M000.wav")
    with pytest.raises(
        InputError, match=r"01F\.test\.csv: no recording Ses03M_script01_1b_F012\.wav below .*wavs \(and 1"
    ):
        Manifest.read(published, root=tmp_path / "wavs")
    with pytest.raises(InputError, match=r"gone: no such folder: the recordings of .*01F\.test\.csv"):
        Manifest.read(published, root=tmp_path / "gone")


def test_a_recording_in_two_places_is_not_guessed(tmp_path, published):
    names = ("Ses01F_impro01_M000.wav", "Ses03M_script01_1b_F012.wav")
    touch(*(tmp_path / "wavs" / name for name in names), *(tmp_path / "wavs" / place / "other.wav" for place in "ab"))
    with pytest.raises(InputError, match=r"other\.wav is both .*a/other\.wav and .*b/other\.wav"):
        Manifest.read(published, root=tmp_path / "wavs")


def test_root_serves_every_format_and_leaves_what_is_there(tmp_path):
    here, moved = tmp_path / "here.wav", tmp_path / "new" / "deep" / "moved.wav"
    touch(here, moved, tmp_path / "new" / "sub" / "same.wav")
    rows = [{"id": "a", "audio": str(here)}, {"id": "b", "audio": "/old/moved.wav"}, {"id": "c"}]
    manifest = Manifest.from_rows([{"audio": None, **row} for row in rows])
    manifest.write(tmp_path / "lists" / "m.parquet")
    again = Manifest.read(tmp_path / "lists" / "m.parquet", root=tmp_path / "new")
    assert again.table["audio"].to_list() == [str(here), str(moved), None]
    path = write(tmp_path / "lists" / "wav.scp", "x sub/same.wav")
    assert Manifest.read(path, root=tmp_path / "new").table["audio"][0] == str(tmp_path / "new/sub/same.wav")


# Writing


def test_what_is_read_is_written_again_byte_for_byte(tmp_path, published):
    write_published_csv(Manifest.read(published), tmp_path / "out" / "again.csv")
    assert (tmp_path / "out" / "again.csv").read_bytes() == published.read_bytes()


def test_any_text_and_class_survives(tmp_path):
    texts = ["", None, 'a "b", c', "line\nbreak", "Perché", " spaces "]
    rows = [
        {"id": f"u{n}", "audio": f"/x/u{n}.wav", "text": text, "emotion": emotion}
        for n, (text, emotion) in enumerate(zip(texts, ["sad", None, "bored", "e9", "happy", "a,b"], strict=True))
    ]
    write_published_csv(Manifest.from_rows(rows), tmp_path / "m.csv", prefix="/data/wav")
    table = Manifest.read(tmp_path / "m.csv").table
    assert table.select("id", "text", "emotion").rows() == [(row["id"], row["text"], row["emotion"]) for row in rows]
    assert table["audio"][0] == "/data/wav/u0.wav"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "audio": None}], "utterance 'a' has no recording"),
        ([{"id": "a", "audio": "a.wav", "end": 1.0}], "utterance 'a' is a part of a recording"),
        ([{"id": "a", "audio": "/x/1.wav"}, {"id": "b", "audio": "/y/1.wav"}], "/x/1.wav and /y/1.wav have one name"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        write_published_csv(Manifest.from_rows(rows), tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()
