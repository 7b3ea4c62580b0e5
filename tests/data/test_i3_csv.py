"""The CSV path,class_id,actor,gender: read with any delimiter, written as its authors do, found where they look."""

from __future__ import annotations

import csv

import pytest

from serkit.data.i3_csv import WORDS, is_i3, write_i3_csv
from serkit.data.manifest import Manifest
from serkit.data.protocols import create_folds
from serkit.errors import InputError

ROWS = [
    ("path", "class_id", "actor", "gender", "age"),
    ("audio/f1.wav", "joy", "7", "Female", "30"),
    ("audio/m1.wav", "tristezza", "8", "male", ""),
    ("/x/o1.wav", "Boredom", "9", "Other", "41"),
]


def write(path, delimiter, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Reading


@pytest.mark.parametrize("delimiter", [";", ",", "\t"], ids=["semicolon", "comma", "tab"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
def test_any_delimiter_is_read(tmp_path, delimiter, name):
    table = Manifest.read(write(tmp_path / name, delimiter)).table
    assert table.select("id", "audio", "emotion", "speaker", "gender", "age").rows() == [
        ("f1", str(tmp_path / "audio/f1.wav"), "happy", "7", "female", "30"),
        ("m1", str(tmp_path / "audio/m1.wav"), "sad", "8", "male", None),
        ("o1", "/x/o1.wav", "Boredom", "9", None, "41"),
    ]
    assert table["corpus"].null_count() == 3


def test_all_words_of_the_format_and_of_italian_are_known(tmp_path):
    words = [*WORDS, "rabbia", "disgusto", "paura", "gioia", "neutralità", "tristezza", "sorpresa", "ANGER", ""]
    rows = [ROWS[0][:4], *((f"{n}.wav", word, "1", "male") for n, word in enumerate(words))]
    ours = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    assert Manifest.read(write(tmp_path / "m.csv", ";", rows)).table["emotion"].to_list() == [
        *ours,
        *ours,
        "angry",
        None,
    ]


def test_emovo_as_the_original_prepares_it(tmp_path):
    rows = [("gender", "emotion", "actor", "path"), ("male", "neutrality", "4", "neu-m1-b1.wav")]
    table = Manifest.read(write(tmp_path / "m.csv", "\t", rows)).table
    assert table.select("id", "emotion", "speaker", "gender").rows() == [("neu-m1-b1", "neutral", "4", "male")]


def test_further_columns_stay_and_say_what_the_format_does_not(tmp_path):
    rows = [
        ("path", "class_id", "actor", "gender", "corpus", "id", "emotion"),
        ("a.wav", "joy", "1", "male", "x", "u", "q"),
    ]
    table = Manifest.read(write(tmp_path / "m.csv", ",", rows)).table
    assert table.select("id", "corpus", "emotion", "emotion_given").rows() == [("u", "x", "happy", "q")]


def test_other_tables_are_not_taken_for_it(tmp_path):
    assert not is_i3(["id", "audio", "path", "class_id", "actor", "gender"])
    assert not is_i3(["path", "class_id", "actor"])
    ours = write(tmp_path / "m.csv", ",", [("id", "audio", "gender"), ("a", "a;b.wav", "male")])
    assert Manifest.read(ours).table["audio"][0] == str(tmp_path / "a;b.wav")


def test_two_files_of_one_name_need_ids(tmp_path):
    rows = [ROWS[0][:4], ("x/a.wav", "joy", "1", "male"), ("y/a.wav", "joy", "1", "male")]
    with pytest.raises(InputError, match=r"m\.csv: x/a\.wav and y/a\.wav have one name: add a column id"):
        Manifest.read(write(tmp_path / "m.csv", "\t", rows))


def test_recordings_are_found_below_root(tmp_path):
    for name in ("deep/f1.wav", "m1.flac", "o1.wav"):
        (tmp_path / "wavs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "wavs" / name).touch()
    found = Manifest.read(write(tmp_path / "m.csv", ";"), root=tmp_path / "wavs").table["audio"].to_list()
    assert found == [str(tmp_path / "wavs" / name) for name in ("deep/f1.wav", "m1.flac", "o1.wav")]


# Writing


@pytest.mark.parametrize("delimiter", [";", ",", "\t"], ids=["semicolon", "comma", "tab"])
def test_what_is_written_is_read_again(tmp_path, delimiter):
    before = Manifest.read(write(tmp_path / "m.csv", "\t"))
    write_i3_csv(before, tmp_path / "again.csv", delimiter)
    assert Manifest.read(tmp_path / "again.csv").table.equals(before.table)
    assert (tmp_path / "again.csv").read_text().startswith(delimiter.join(ROWS[0]) + "\n")


def test_what_the_manifest_knows_beside_the_four_columns_is_kept(tmp_path):
    rows = [
        {"id": "u1", "audio": "/x/a.wav", "corpus": "emovo", "emotion": "sad", "text": "uno; due", "votes": ["a", "b"]},
        {"id": "u2", "audio": "/x/b.wav", "corpus": "emovo", "emotion": None, "text": 'a "b"\tc', "part": "train"},
    ]
    before = Manifest.from_rows(rows)
    write_i3_csv(before, tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file, delimiter="\t"))
    assert list(read[0]) == ["path", "class_id", "actor", "gender", "id", "corpus", "text", "votes"]
    after = Manifest.read(tmp_path / "m.csv").table
    assert after.drop("part").equals(before.table.drop("part"))


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"audio": None}, {}, "utterance 'a' has no recording"),
        ({"audio": "a.wav", "start": 1.0}, {}, "utterance 'a' is a part of a recording"),
        ({"audio": "a.wav"}, {"delimiter": "|"}, "the delimiter is one of ; , TAB, got '|'"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path, row, options, message):
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        write_i3_csv(Manifest.from_rows([{"id": "a", **row}]), tmp_path / "m.csv", **options)
    assert not (tmp_path / "m.csv").exists()


# The original's files


@pytest.mark.parametrize("kind", ["full", "sparse"])
def test_the_originals_metadata_survive_but_for_genders_that_it_drops(reference_file, tmp_path, kind):
    path = reference_file(f"i3/golden_splits/{kind}/metadata.csv")
    manifest = Manifest.read(path)
    assert set(manifest.table["emotion"]) == set(WORDS.values())
    write_i3_csv(manifest, tmp_path / "again.csv", base=path.parent)
    lines = path.read_text().splitlines()
    nameless = [line.removesuffix("other") if line.endswith("\tother") else line for line in lines]
    assert (tmp_path / "again.csv").read_text().splitlines() == nameless != lines


def test_split_writes_where_the_original_looks(tmp_path, reference_file, serkit):
    path = reference_file("i3/golden_splits/sparse/metadata.csv")
    options = ("--protocol", "speaker-holdout", "--format", "i3", "-o", tmp_path / "metadata")
    done = serkit("split", path, "repeats=2", "seed=5", "dev=0", *options)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "protocol speaker-holdout: 2 folds, speakers shared: 0"
    (fold,) = create_folds(Manifest.read(path), "speaker-holdout", seed=6, dev=0)
    folder = tmp_path / "metadata/train_test_validation/6/speaker_ind_True_100_80"
    assert [str(folder / name) for name in ("train.csv", "val.csv", "test.csv")] == done.out.splitlines()[3:6]
    assert (folder / "val.csv").read_text() == "path\tclass_id\tactor\tgender\n"
    assert Manifest.read(folder / "test.csv").ids == list(fold.test)
    assert serkit("split", path, "test=0.3", *options).code == 0
    assert (tmp_path / "metadata/train_test_validation/0/speaker_ind_True_100_70/test.csv").is_file()


def test_folds_that_no_seed_drew_are_numbered(tmp_path, serkit):
    rows = [ROWS[0][:4], *((f"{n}.wav", "joy", str(n), "male") for n in range(3))]
    path = write(tmp_path / "m.csv", "\t", rows)
    assert (
        serkit("split", path, "--protocol", "leave-one-speaker-out", "--format", "i3", "-o", tmp_path / "m").code == 0
    )
    for number in range(3):
        folder = tmp_path / f"m/train_test_validation/{number}/speaker_ind_True_100_80"
        assert Manifest.read(folder / "test.csv").ids == [str(number)]
