"""Manifests: reading and writing, selecting, judging."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.feature_columns import split_feature
from serkit.data.labels import LabelScheme
from serkit.data.manifest import SCHEMA, Manifest
from serkit.errors import InputError

FULL = {
    "id": "01",
    "audio": "/data/a.wav",
    "start": 0.5,
    "end": 2.25,
    "corpus": "made",
    "speaker": "007",
    "session": "1",
    "gender": "female",
    "language": "it",
    "text": 'Perché "no", disse; più\nvolte',
    "emotion": "happy",
    "arousal": 0.1,
    "valence": 1.0,
    "dominance": 0.0,
    "part": "train",
    "votes": ["happy", "sad", "happy"],
}
SCHEME = LabelScheme("two", ("happy", "sad"), merge={"excited": "happy"}, drop=("other",))
ENDINGS = [".parquet", ".csv", ".jsonl"]


def rows_of(*emotions):
    return [{"id": f"u{n}", "audio": f"/data/{n}.wav", "emotion": emotion} for n, emotion in enumerate(emotions)]


def kinds(manifest, **options):
    return [(problem.kind, problem.id) for problem in manifest.validate(**options)]


@pytest.fixture
def clip(tmp_path, write_wav):
    return str(write_wav(tmp_path / "clip.wav", seconds=1.0))


# Building


def test_every_schema_column_is_there_in_order_and_extra_columns_follow():
    table = Manifest.from_rows([{"id": "a", "audio": "a.wav", "intensity": "strong"}]).table
    assert table.columns == [*SCHEMA, "intensity"]
    assert dict(list(table.schema.items())[: len(SCHEMA)]) == SCHEMA


def test_keys_that_only_some_rows_have_are_null_elsewhere():
    table = Manifest.from_rows([{"id": "a", "audio": "a"}, {"id": "b", "audio": "b", "text": "hi", "x": 1}]).table
    assert table["text"].to_list() == [None, "hi"]
    assert table["x"].to_list() == [None, 1]


def test_no_rows_make_an_empty_manifest():
    manifest = Manifest.from_rows([])
    assert len(manifest) == 0
    assert manifest.validate() == []
    assert manifest.describe()["utterances"] == 0


@pytest.mark.parametrize("column", ["id", "audio"])
def test_a_table_without_id_or_audio_is_refused(column):
    with pytest.raises(InputError, match=f"has no column '{column}'"):
        Manifest(pl.DataFrame({name: ["x"] for name in ("id", "audio") if name != column}))


@pytest.mark.parametrize("row", [{"arousal": "high"}, {"start": [1]}, {"votes": "happy"}, {"votes": 3}])
def test_a_value_of_the_wrong_type_is_an_input_error_of_one_line(row):
    with pytest.raises(InputError) as caught:
        Manifest.from_rows([{"id": "a", "audio": "a.wav", **row}])
    assert "\n" not in str(caught.value)


# Reading and writing


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_read_back(tmp_path, ending):
    rows = [
        FULL,
        {"id": "02", "audio": "/data/b.wav"},
        {"id": "03", "audio": "/data/c.wav", "text": "", "votes": ["sad"]},
        {"id": "04", "audio": "/data/d.wav", "votes": []},
    ]
    manifest = Manifest.from_rows(rows)
    manifest.write(tmp_path / f"m{ending}")
    again = Manifest.read(tmp_path / f"m{ending}")
    assert again.table.rows() == manifest.table.rows()
    assert again.fingerprint() == manifest.fingerprint()


TEXT = st.none() | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@pytest.mark.parametrize("ending", ENDINGS)
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXT, "speaker": TEXT, "start": st.none() | st.floats(0, 1e4)})))
def test_any_text_and_number_survives_a_round_trip(tmp_path_factory, ending, rows):
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    manifest = Manifest.from_rows({"id": str(n), "audio": f"/{n}.wav", **row} for n, row in enumerate(rows))
    manifest.write(path)
    assert Manifest.read(path).table.rows() == manifest.table.rows()


@pytest.mark.parametrize("ending", ENDINGS)
def test_audio_below_the_manifest_is_relative_in_the_file_and_absolute_in_memory(tmp_path, ending):
    inside, outside = str(tmp_path / "set" / "wav" / "a.wav"), str(tmp_path / "other" / "b.wav")
    Manifest.from_rows([{"id": "a", "audio": inside}, {"id": "b", "audio": outside}]).write(
        tmp_path / "set" / f"m{ending}"
    )
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = Manifest.read(tmp_path / "moved" / f"m{ending}")
    assert moved.table["audio"].to_list() == [str(tmp_path / "moved" / "wav" / "a.wav"), outside]


def test_a_relative_path_in_memory_means_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Manifest.from_rows([{"id": "a", "audio": "wav/a.wav"}]).write("lists/m.csv")
    assert Manifest.read("lists/m.csv").table["audio"][0] == str(tmp_path / "wav" / "a.wav")


@pytest.mark.parametrize(("ending", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_ids_and_speakers_like_01_stay_text(tmp_path, ending, separator):
    lines = [["id", "audio", "speaker", "start"], ["01", "a.wav", "007", "1"], ["1e3", "b.wav", "08", "2.5"]]
    (tmp_path / f"m{ending}").write_text("\r\n".join(separator.join(line) for line in lines))
    table = Manifest.read(tmp_path / f"m{ending}").table
    assert table.select("id", "speaker", "start").rows() == [("01", "007", 1.0), ("1e3", "08", 2.5)]


def test_a_csv_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "m.csv").write_text("id,audio\na,a.wav\n", encoding="utf-8-sig")
    assert Manifest.read(tmp_path / "m.csv").ids == ["a"]


def test_wav_scp_gives_ids_and_paths_relative_to_the_file(tmp_path):
    (tmp_path / "wav.scp").write_text("01 wav/one two.wav\n\nb\t/abs/b.flac\n")
    manifest = Manifest.read(tmp_path / "wav.scp")
    assert manifest.table.select("id", "audio").rows() == [
        ("01", str(tmp_path / "wav/one two.wav")),
        ("b", "/abs/b.flac"),
    ]


@pytest.mark.parametrize(
    ("line", "message"), [("lonely", "expected 'id path'"), ("a sph2pipe a.sph |", "pipes are not run")]
)
def test_a_wav_scp_line_that_is_no_file_is_named_and_never_run(tmp_path, line, message):
    (tmp_path / "wav.scp").write_text(f"x x.wav\n{line}\n")
    with pytest.raises(InputError, match=rf"wav\.scp: line 2: .*{message}"):
        Manifest.read(tmp_path / "wav.scp")


def test_emobox_lines_are_translated_and_what_has_no_column_is_kept(tmp_path):
    line = {"key": "k-1", "dataset": "made", "wav": "a.wav", "emo": "Fear", "speaker": "s1", "sample_rate": 16000}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "key": "k-2", "emo": "Awe"}) + "\n")
    table = Manifest.read(tmp_path / "m.jsonl").table
    assert table.select("id", "corpus", "emotion", "speaker", "sample_rate").rows() == [
        ("k-1", "made", "fearful", "s1", 16000),
        ("k-2", "made", "awe", "s1", 16000),
    ]
    assert table["audio"][0] == str(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.yaml", "id: a", "unknown manifest format '.yaml'"),
        ("m.parquet", "not parquet", "cannot be read as a manifest"),
        ("m.csv", "name,path\na,b\n", "has no column 'id'"),
        ("m.csv", "id,audio,start\na,a.wav,soon\n", "wrong type"),
        ("m.jsonl", '{"id": "a", "audio": "a.wav"}\n{oops}\n', "line 2 is not JSON"),
        ("m.jsonl", "3\n", "line 1 is not a JSON object"),
    ],
)
def test_a_file_that_is_no_manifest_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Manifest.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_and_an_unknown_ending_to_write_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: no such manifest"):
        Manifest.read(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"m\.xlsx: unknown manifest format"):
        Manifest.from_rows([FULL]).write(tmp_path / "m.xlsx")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.csv"
    Manifest.from_rows([FULL]).write(path)
    before = path.read_bytes()

    def fail(table, part):
        part.write_text("half a")
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_csv", fail)
    with pytest.raises(OSError, match="disk full"):
        Manifest.from_rows(rows_of("sad")).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Selecting


def test_select_keeps_the_order_of_the_ids():
    manifest = Manifest.from_rows(rows_of("happy", "sad", "happy"))
    assert manifest.select(["u2", "u0"]).ids == ["u2", "u0"]
    assert len(manifest.select([])) == 0


def test_select_names_a_missing_id():
    with pytest.raises(InputError, match=r"has no utterance 'x' \(and 1 more\)"):
        Manifest.from_rows(rows_of("happy")).select(["u0", "x", "y"])


def test_an_utterance_without_audio_can_be_selected():
    assert Manifest.from_rows([{"id": "a", "audio": None, "text": "hi"}]).select(["a"]).table["text"][0] == "hi"


def test_labels_are_merged_and_dropped_and_the_rest_is_kept():
    labelled = Manifest.from_rows(rows_of("excited", "sad", "other", None, "happy")).with_labels(SCHEME)
    assert labelled.table.select("id", "emotion").rows() == [("u0", "happy"), ("u1", "sad"), ("u4", "happy")]


def test_a_label_the_scheme_does_not_know_is_refused():
    with pytest.raises(InputError, match="'bored' is not in the scheme 'two'"):
        Manifest.from_rows(rows_of("happy", "bored")).with_labels(SCHEME)


def test_concat_fills_columns_that_one_manifest_lacks():
    first, second = Manifest.from_rows([{**FULL, "word": "back"}]), Manifest.from_rows(rows_of("sad"))
    both = Manifest.concat([first, second])
    assert both.ids == ["01", "u0"]
    assert both.table["word"].to_list() == ["back", None]


# Given features


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_files_of_feature_columns_move_with_the_manifest(tmp_path, ending):
    here, other = tmp_path / "here", tmp_path / "other"
    row = {
        "id": "a",
        "audio": f"{here}/a.wav",
        "features": f"{here}/f/a.npy",
        "audio_features": f"{here}/all.npz#audio[7]",
        "visual_features": f"{other}/all.npz#v#1",
        "elsewhere": f"{here}/all.npz#x",
    }
    manifest = Manifest.from_rows([row, {"id": "b", "audio": f"{here}/b.wav", "text_cnn": f"{here}/t.npz#b.npy[0]"}])
    manifest.write(here / f"m.{ending}")
    if ending == "jsonl":
        written = json.loads((here / "m.jsonl").read_text().splitlines()[0])
        assert (written["features"], written["audio_features"]) == ("f/a.npy", "all.npz#audio[7]")
        assert written["visual_features"] == f"{other}/all.npz#v#1" and written["elsewhere"] == f"{here}/all.npz#x"
    assert Manifest.read(here / f"m.{ending}").table.equals(manifest.table)
    here.rename(tmp_path / "moved")
    moved = Manifest.read(tmp_path / "moved" / f"m.{ending}")
    assert moved.table["features"][0] == f"{tmp_path}/moved/f/a.npy"
    assert moved.table["text_cnn"].to_list() == [None, f"{tmp_path}/moved/t.npz#b.npy[0]"]
    assert moved.table["visual_features"][0] == f"{other}/all.npz#v#1"
    ours = Manifest(moved.table.drop("elsewhere"))
    assert ours.fingerprint() == Manifest(manifest.table.drop("elsewhere")).fingerprint()
    changed = ours.table.with_columns(features=pl.lit("f/b.npy"))
    assert Manifest(changed).fingerprint() != ours.fingerprint()


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("a/b.npz#name[3]", ("a/b.npz", "#name[3]")),
        ("a#1/b.npz#x#y", ("a#1/b.npz", "#x#y")),
        ("a.npz.d/b.npy", ("a.npz.d/b.npy", "")),
        ("other.h5#x", ("other.h5#x", "")),
    ],
)
def test_a_feature_s_file_ends_before_its_name(value, parts):
    assert split_feature(value) == parts


# Judging


def test_a_sound_manifest_has_no_problems(clip):
    row = {**FULL, "audio": clip, "start": 0.0, "end": 1.0}
    assert Manifest.from_rows([row]).validate(read_audio=True, scheme=SCHEME) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"audio": "/nowhere/a.wav"}, "missing-file"),
        ({"audio": None}, "missing-file"),
        ({"start": 0.5, "end": 0.5}, "span"),
        ({"start": -1.0}, "span"),
        ({"start": 1.0}, "span"),
        ({"end": 1.2}, "span"),
        ({"emotion": "bored"}, "unknown-label"),
        ({"valence": 1.5}, "affect"),
        ({"arousal": math.nan}, "affect"),
        ({"dominance": -0.1}, "affect"),
        ({"part": "val"}, "part"),
    ],
)
def test_each_problem_is_named_with_its_utterance(clip, change, kind):
    manifest = Manifest.from_rows([{"id": "a", "audio": clip, "emotion": "happy", **change}])
    assert kinds(manifest, scheme=SCHEME) == [(kind, "a")]


def test_a_span_that_ends_a_rounding_late_is_fine(clip):
    assert kinds(Manifest.from_rows([{"id": "a", "audio": clip, "end": 1.005}])) == []


def test_duplicates_are_found_by_id_and_by_file_and_span(clip):
    rows = [
        {"id": "a", "audio": clip, "end": 0.5},
        {"id": "a", "audio": clip, "start": 0.5},
        {"id": "b", "audio": clip, "end": 0.5},
    ]
    assert kinds(Manifest.from_rows(rows)) == [("duplicate-id", "a"), ("duplicate-audio", "b")]


def test_a_manifest_without_any_recording_needs_text_or_features(clip, tmp_path):
    (tmp_path / "a.npz").touch()
    rows = [{"id": "a", "text": "so"}, {"id": "b", "text": "so"}, {"id": "c", "audio": None, "text": "good"}]
    assert Manifest.from_rows(rows).without_audio
    assert kinds(Manifest.from_rows(rows)) == []
    featured = Manifest.from_rows([{"id": "a", "audio": None, "features": f"{tmp_path / 'a.npz'}#a"}])
    assert kinds(featured) == []
    assert kinds(Manifest.from_rows([*rows, {"id": "d"}])) == [("missing-file", "d")]
    mixed = Manifest.from_rows([*rows, {"id": "d", "audio": clip}])
    assert not mixed.without_audio
    assert kinds(mixed) == [("missing-file", "a"), ("missing-file", "b"), ("missing-file", "c")]


def test_features_that_are_not_there_are_named(tmp_path):
    rows = [{"id": id, "audio": None, "text": "so", "audio_features": f"{tmp_path}/x.npz#m[{id}]"} for id in "01"]
    first, second = Manifest.from_rows(rows).validate()
    assert (first.kind, first.id, second.id) == ("missing-file", "0", "1")
    assert first.message == f"audio_features: {tmp_path}/x.npz: no such file"


def test_a_file_that_is_no_recording_is_unreadable(tmp_path):
    (tmp_path / "a.wav").write_text("these are words")
    (problem,) = Manifest.from_rows([{"id": "a", "audio": str(tmp_path / "a.wav")}]).validate()
    assert problem.kind == "unreadable"
    assert str(problem).startswith(f"a: {tmp_path / 'a.wav'}: ")


def test_silence_and_truncation_are_found_only_when_the_audio_is_read(tmp_path, write_wav):
    silent = write_wav(tmp_path / "silent.wav", level=0, noise=0)
    cut = write_wav(tmp_path / "cut.flac")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    manifest = Manifest.from_rows([{"id": "s", "audio": str(silent)}, {"id": "c", "audio": str(cut)}])
    assert kinds(manifest) == []
    assert kinds(manifest, read_audio=True) == [("silent", "s"), ("unreadable", "c")]


def test_describe_counts_hours_speakers_and_values(tmp_path, clip):
    rows = [
        {"id": "a", "audio": clip, "corpus": "x", "speaker": "1", "emotion": "happy"},
        {"id": "b", "audio": clip, "corpus": "y", "speaker": "1", "emotion": "happy", "start": 0.25, "end": 0.75},
        {"id": "c", "audio": str(tmp_path / "gone.wav"), "corpus": "y", "speaker": "2", "emotion": "sad"},
        {"id": "d", "audio": None, "corpus": "y"},
    ]
    told = Manifest.from_rows(rows).describe()
    assert (told["utterances"], told["unreadable"], told["speakers"]) == (4, 2, 3)
    assert told["hours"] == pytest.approx(1.5 / 3600)
    assert told["counts"]["emotion"] == {"None": 1, "happy": 2, "sad": 1}
    assert "gender" not in told["counts"]


def test_the_fingerprint_ignores_row_order_column_order_and_folders():
    rows = [{"id": "a", "audio": "/x/a.wav", "word": "back"}, {"id": "a", "audio": "/x/b.wav", "word": "bar"}]
    moved = [
        {"word": row["word"], "audio": row["audio"].replace("/x/", "/y/"), "id": row["id"]} for row in reversed(rows)
    ]
    assert Manifest.from_rows(rows).fingerprint() == Manifest.from_rows(moved).fingerprint()


@pytest.mark.parametrize(
    "change",
    [{"emotion": "sad"}, {"speaker": "8"}, {"votes": ["sad"]}, {"audio": "/data/b.wav"}, {"end": 2.0}, {"new": "x"}],
)
def test_the_fingerprint_changes_with_any_value(change):
    assert Manifest.from_rows([FULL]).fingerprint() != Manifest.from_rows([{**FULL, **change}]).fingerprint()
