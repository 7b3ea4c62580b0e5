"""Corpora whose labels are in tables: Emozionalmente, MELD, MSP-Podcast and nEMO."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter

import polars as pl
import pytest

from serkit.cli import app
from serkit.data.corpora import find_corpus, prepare_corpus, read_rows
from serkit.data.manifest import EMOBOX_CLASSES
from serkit.data.protocols import create_folds
from serkit.errors import InputError


def counts(manifest, column="emotion"):
    return dict(Counter(manifest.table[column].to_list()))


def column(manifest, name):
    return dict(manifest.table.select("id", name).rows())


def emobox(reference_file, name):
    return pl.read_csv(reference_file(f"emobox/tsv/{name}.tsv"), separator="\t", infer_schema=False)


def write_table(path, rows, separator=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


# Reading tables


def test_a_table_may_have_a_byte_order_mark_blanks_and_the_bytes_of_windows(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffname, text\n x ,It\u2019s\n".encode())
    (tmp_path / "b.csv").write_bytes("name,text\nx,It\u2019s\n".encode("cp1252"))
    (tmp_path / "c.csv").write_bytes('name,text\r\nx,"It\u2019s"\r\n'.encode("utf-16"))
    for name in "abc":
        assert read_rows(tmp_path / f"{name}.csv", "name", "text") == [{"name": "x", "text": "It\u2019s"}]
    with pytest.raises(InputError, match=r"a\.csv: has no column 'emotion' \(columns: name, text\)"):
        read_rows(tmp_path / "a.csv", "emotion")


# Emozionalmente


ANNA, BRUNO, CHRIS = "a" * 64, "b" * 64, "c" * 64
SAMPLES = [
    {"file_name": f"161287102634{digit}.wav", "sentence": sentence, "sentence_language": "italian", "actor": actor}
    | {"emotion_expressed": emotion}
    for digit, sentence, actor, emotion in [
        (0, "Vado in biblioteca", ANNA, "joy"),
        (1, "E’ andato a scuola dopo pranzo", BRUNO, "neutrality"),
        (2, "Vado in biblioteca", CHRIS, "surprise"),
        (3, "Vado in biblioteca", BRUNO, "anger"),
    ]
]
USERS = [
    {"username": actor, "gender": gender, "age": age, "mother_tongue": "italian"}
    for actor, gender, age in [(ANNA, "female", 30), (BRUNO, "male", 26), (CHRIS, "other", 41)]
]
HEARD = [
    {"file_name": "1612871026340.wav", "evaluator": "e", "audio_quality": "good", "emotion_recognized": emotion}
    for emotion in ("joy", "surprise", "joy")
]


@pytest.fixture
def emozionalmente(tmp_path, make_files):
    write_table(tmp_path / "metadata/samples.csv", SAMPLES)
    write_table(tmp_path / "metadata/users.csv", USERS)
    write_table(tmp_path / "metadata/evaluations.csv", HEARD)
    return make_files(tmp_path, [f"audio/{row['file_name']}" for row in SAMPLES])


def test_emozionalmente_joins_recordings_actors_and_listeners(emozionalmente):
    manifest = prepare_corpus("emozionalmente", emozionalmente)
    first, second, third, _ = manifest.table.iter_rows(named=True)
    assert (first["id"], first["speaker"], first["gender"], first["emotion"]) == (
        "1612871026340", ANNA, "female", "happy",
    )  # fmt: skip
    assert first["votes"] == ["happy", "surprised", "happy"] and first["age"] == "30"
    assert (second["text"], second["emotion"], second["votes"]) == ("E’ andato a scuola dopo pranzo", "neutral", None)
    assert third["gender"] is None  # neither female nor male
    assert counts(manifest, "part") == {None: 4}
    assert manifest.table.columns[-3:] == ["sentence_language", "age", "mother_tongue"]


PARTED = {"1612871026340": "train", "1612871026341": "test", "1612871026342": "dev", "1612871026343": "test"}


@pytest.mark.parametrize("way", ["files", "actors", "column", "user column", "one table"])
def test_emozionalmente_takes_its_split_from_tables_or_columns(emozionalmente, way):
    metadata, names = emozionalmente / "metadata", {"train": "train", "dev": "validation", "test": "TEST"}
    split = {actor: names[PARTED[f"161287102634{digit}"]] for digit, actor in enumerate((ANNA, BRUNO, CHRIS))}
    if way == "files":
        for part, name in names.items():
            rows = [row for row in SAMPLES if PARTED[row["file_name"][:-4]] == part]
            write_table(metadata / f"{name}_set.csv", [{"emotion": "-", "file": row["file_name"]} for row in rows])
    elif way == "actors":
        for actor, name in split.items():
            write_table(emozionalmente / f"splits/{name}.csv", [{"": 0, "speaker": actor}])
    elif way == "column":
        write_table(metadata / "samples.csv", [{**row, "split": split[row["actor"]]} for row in SAMPLES])
    elif way == "user column":
        write_table(metadata / "users.csv", [{**row, "set": split[row["username"]]} for row in USERS])
    else:
        rows = [{"username": actor, "split": name} for actor, name in split.items()]
        write_table(metadata / "train_dev_test_split.csv", rows)
    manifest = prepare_corpus("emozionalmente", emozionalmente)
    assert column(manifest, "part") == PARTED
    (fold,) = create_folds(manifest, "part")
    assert fold.test == ("1612871026341", "1612871026343")


def test_splits_of_the_code_of_wilke_et_al_are_not_the_corpus_s(emozionalmente):
    for seed in "01":
        rows = [{"path": "1612871026340.wav", "class_id": "joy"}]
        write_table(emozionalmente / f"metadata/train_test_validation/{seed}/speaker_ind/train.csv", rows, "\t")
    assert counts(prepare_corpus("emozionalmente", emozionalmente), "part") == {None: 4}


@pytest.mark.parametrize("table", [True, False])
def test_emozionalmente_may_be_flattened(tmp_path, make_files, table):
    users, rows = {row["username"]: row for row in USERS}, []
    for row in SAMPLES:
        gender = users[row["actor"]]["gender"]
        name = "____".join((gender, row["actor"], row["emotion_expressed"], row["file_name"]))
        made = {"new_file_name": name, "path": f"data/audio4analysis/{name}", "class_id": row["emotion_expressed"]}
        rows.append({**row, "gender": gender, "age": users[row["actor"]]["age"], **made})
    make_files(tmp_path, [row["new_file_name"] for row in rows])
    if table:
        write_table(tmp_path / "metadata.csv", rows, "\t")
    manifest = prepare_corpus("emozionalmente", tmp_path)
    assert manifest.table.select("id", "speaker", "gender", "emotion", "text").rows()[1] == (
        "1612871026341", BRUNO, "male", "neutral", "E’ andato a scuola dopo pranzo" if table else None,
    )  # fmt: skip
    assert counts(manifest) == {"happy": 1, "neutral": 1, "surprised": 1, "angry": 1}
    assert set(manifest.table.columns[16:]) == ({"sentence_language", "age"} if table else set())


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("samples", ("joy", "bliss"), r"samples\.csv: unknown label 'bliss' \(known: anger, disgust"),
        ("samples", ("1612871026342", "1612871026349"), r"1612871026342\.wav: not in .*samples\.csv: it has no label"),
        ("samples", ("emotion_expressed", "emotion"), r"samples\.csv: has no column 'emotion_expressed'"),
        ("users", (CHRIS, "d" * 64), r"users\.csv: has no actor 'ccc.*who speaks 1612871026342\.wav"),
        ("evaluations", ("surprise", "awe"), r"evaluations\.csv: unknown label 'awe'"),
    ],
)
def test_what_is_wrong_with_a_table_of_emozionalmente_is_said(emozionalmente, table, change, message):
    path = emozionalmente / f"metadata/{table}.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        prepare_corpus("emozionalmente", emozionalmente)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("test", [{"file_name": "1612871026340.wav"}], "1612871026340 is in the part test, but elsewhere in train"),
        ("test", [{"file_name": "music.wav"}], r"test\.csv: no column names the recordings or the actors"),
        ("more", [{"file_name": "1612871026341", "set": "eval"}], r"more\.csv: unknown part 'eval' \(known: train,"),
    ],
)
def test_a_split_of_emozionalmente_that_cannot_be_is_named(emozionalmente, name, rows, message):
    write_table(emozionalmente / "metadata/dev.csv", [{"file_name": "1612871026342.wav"}])
    write_table(emozionalmente / "metadata/a_train.csv", [{"file_name": "1612871026340.wav"}])
    write_table(emozionalmente / f"metadata/{name}.csv", rows)
    with pytest.raises(InputError, match=message):
        prepare_corpus("emozionalmente", emozionalmente)


def test_emozionalmente_without_its_tables_is_refused(emozionalmente):
    shutil.rmtree(emozionalmente / "metadata")
    with pytest.raises(InputError, match=r"no metadata/samples\.csv below .*: it has no label"):
        prepare_corpus("emozionalmente", emozionalmente)


def test_emozionalmente_as_it_occurs_agrees_with_emobox(tmp_path, make_files, reference_file):
    table = emobox(reference_file, "emozionalmente")
    rows = table.select("wav", "emo_raw", "speaker_stm").rows()
    samples = [{"file_name": wav[-17:], "actor": who, "emotion_expressed": emotion} for wav, emotion, who in rows]
    write_table(tmp_path / "metadata/samples.csv", samples)
    manifest = prepare_corpus("emozionalmente", make_files(tmp_path, [wav for wav, *_ in rows]))
    corpus = find_corpus("emozionalmente")
    assert (len(manifest), manifest.table["speaker"].n_unique()) == (corpus.utterances, corpus.speakers)
    expected = {key.partition("-")[2]: EMOBOX_CLASSES[emotion] for key, emotion in table.select("key", "emo").rows()}
    assert column(manifest, "emotion") == expected


# MELD


@pytest.fixture(scope="module")
def meld(tmp_path_factory, reference_file, make_files):
    """EmoBox's table, and MELD's own tables in a folder with the clips that EmoBox could read, and a broken one."""
    root, table = tmp_path_factory.mktemp("meld"), emobox(reference_file, "meld")
    make_files(root, [*table["wav"], "downloads/meld/train/train_splits/dia125_utt3.mp4"])
    make_files(root, ["downloads/meld/output_repeated_splits_test/final_videos_testdia0_utt0.mp4"])
    for part, folder in (("train", "train"), ("dev", ""), ("test", "")):
        source = reference_file(f"meld/{part}_sent_emo.csv")
        shutil.copy(source, root / "downloads/meld" / folder / source.name)
    with pytest.warns(UserWarning, match="2 utterances have no clip that can be read") as caught:
        manifest = prepare_corpus("meld", root)
    assert str(caught[0].message).endswith(": train dia125_utt3, dev dia110_utt7")
    return table, manifest


def test_meld_as_it_occurs_agrees_with_emobox(meld):
    table, manifest = meld
    corpus = find_corpus("meld")
    assert (len(manifest), manifest.table["speaker"].n_unique()) == (corpus.utterances - 2, corpus.speakers)
    expected = {key.partition("-")[2]: EMOBOX_CLASSES[emotion] for key, emotion in table.select("key", "emo").rows()}
    assert column(manifest, "emotion") == expected
    parts = {key.partition("-")[2]: part.replace("valid", "dev") for key, part in table.select("key", "fold_1").rows()}
    assert column(manifest, "part") == parts
    speakers = column(manifest, "speaker")
    told = {key.partition("-")[2]: who for key, who in table.select("key", "speaker_stm").drop_nulls().rows()}
    assert len(told) == 1597
    # EmoBox has Ross where the tables that MELD publishes today have Joey.
    assert [id for id, who in told.items() if speakers[id].replace(" ", "-") != who] == ["dia556_utt6-train"]


def test_meld_has_text_sentiment_dialogues_and_the_friends_genders(meld):
    row = meld[1].select(["dia0_utt0-dev"]).table.row(0, named=True)
    assert row["text"] == "Oh my God, he’s lost it. He’s totally lost it."
    shown = ("speaker", "gender", "emotion", "sentiment", "dialogue", "turn", "season", "episode")
    assert [row[name] for name in shown] == ["Phoebe", "female", "sad", "negative", "dia0-dev", "0", "4", "7"]
    assert counts(meld[1], "sentiment") == {"neutral": 6434, "negative": 4184, "positive": 3088}


def test_the_split_of_meld_shares_speakers_and_says_so(meld):
    with pytest.raises(InputError, match="speaker"):
        create_folds(meld[1], "part")
    (fold,) = create_folds(meld[1], "part", declares_shared=True)
    assert (len(fold.train), len(fold.dev), len(fold.test)) == (9988, 1108, 2610)


@pytest.fixture(scope="module")
def meld_tables(reference_file):
    root = reference_file("meld/train_sent_emo.csv").parent
    with pytest.warns(UserWarning) as caught:
        manifest = prepare_corpus("meld", root)
    assert [str(one.message) for one in caught] == [f"{root}: holds no clip: audio is empty, the texts are there"]
    return manifest


def test_meld_s_tables_alone_are_all_its_texts(meld_tables):
    assert (len(meld_tables), counts(meld_tables, "audio")) == (find_corpus("meld").utterances, {None: 13_708})
    assert counts(meld_tables, "part") == {"train": 9989, "dev": 1109, "test": 2610}
    assert meld_tables.table["text"].null_count() == 0
    assert meld_tables.validate() == []
    test = meld_tables.table.filter(pl.col("part") == "test")
    assert Counter(test["emotion"]) == {
        "neutral": 1256, "surprised": 281, "fearful": 50, "sad": 208, "happy": 402, "disgusted": 68, "angry": 345,
    }  # fmt: skip
    assert Counter(test["sentiment"]) == {"neutral": 1256, "positive": 521, "negative": 833}


def test_meld_s_tables_are_prepared_and_checked(reference_file, tmp_path, capsys):
    path = tmp_path / "meld.parquet"
    with pytest.warns(UserWarning, match="holds no clip"):
        folder = reference_file("meld/train_sent_emo.csv").parent
        app(["prepare", "meld", str(folder), "-o", str(path)], standalone_mode=False)
    app(["check", str(path)], standalone_mode=False)
    out = capsys.readouterr()
    assert "13708 of the 13708 utterances known" in out.out and "no problems found" in out.out
    assert out.out.count("no utterance has a recording") == 1 and out.err == ""


MELD_ROW = {"Sr No.": 1, "Utterance": "I\x92m \x85 here", "Speaker": "Richard\x92s Date", "Emotion": "joy"}
MELD_ROW |= {"Sentiment": "positive", "Dialogue_ID": 0, "Utterance_ID": 1}


def test_meld_repairs_punctuation_and_prefers_the_sound_track(tmp_path, make_files):
    write_table(tmp_path / "test_sent_emo.csv", [MELD_ROW])
    make_files(tmp_path, ["output_repeated_splits_test/dia0_utt1.mp4", "audio/test/dia0_utt1.wav", "dia0_utt1.wav"])
    (row,) = prepare_corpus("meld", tmp_path).table.iter_rows(named=True)
    assert (row["text"], row["speaker"], row["season"]) == ("I’m … here", "Richard’s Date", None)
    assert row["audio"] == str(tmp_path / "audio/test/dia0_utt1.wav")


def test_a_clip_of_meld_that_was_repaired_is_taken(tmp_path, make_files, write_wav):
    write_table(tmp_path / "train_sent_emo.csv", [{**MELD_ROW, "Dialogue_ID": 125, "Utterance_ID": 3}])
    write_wav(tmp_path / "train_splits/dia125_utt3.wav")
    assert prepare_corpus("meld", tmp_path).ids == ["dia125_utt3-train"]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("dev_sent_emo.csv", MELD_ROW, r"train_splits: no train_sent_emo\.csv below .*: its clips have no labels"),
        ("train_sent_emo.csv", {**MELD_ROW, "Emotion": "awe"}, r"train_sent_emo\.csv: unknown label 'awe'"),
        ("train_sent_emo.csv", {"Emotion": "joy"}, r"train_sent_emo\.csv: has no column 'Utterance'"),
    ],
)
def test_what_is_wrong_with_a_table_of_meld_is_said(tmp_path, make_files, name, row, message):
    write_table(tmp_path / name, [row])
    make_files(tmp_path, ["train_splits/dia0_utt1.mp4"])
    with pytest.raises(InputError, match=message):
        prepare_corpus("meld", tmp_path)


# MSP-Podcast


TURNS = {
    "MSP-PODCAST_0001_0008": ("N", 4.0, 7.0, 1.0, "127", "Male", "Test1"),
    "MSP-PODCAST_0001_0009": ("X", 2.5, 4.6, 3.25, "Unknown", "Unknown", "Train"),
    "MSP-PODCAST_0736_0395_0001": ("C", 7.2, 0.5, 4.0, "9", "Female", "Development"),
    "MSP-PODCAST_2347_0202": ("U", 1.0, 4.0, 4.0, "127", "Male", "Test2"),
}
KEYS = ("EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def write_msp(root, form="csv", spelling="consensus", turns=TURNS):
    path = root / f"Labels/labels_{spelling}.{form}"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {f"{id}.wav": dict(zip(KEYS, values, strict=True)) for id, values in turns.items()}
    if form == "csv":
        write_table(path, [{"FileName": name, **row} for name, row in rows.items()])
    else:
        path.write_text(json.dumps({name: {**row, "EmoVal": str(row["EmoVal"])} for name, row in rows.items()}))
    return path


@pytest.mark.parametrize("form", ["csv", "json"])
@pytest.mark.parametrize("spelling", ["consensus", "concensus"])
def test_msp_podcast_scales_affect_and_keeps_the_partition(tmp_path, make_files, form, spelling):
    make_files(tmp_path, [f"Audios/{id}.wav" for id in TURNS])
    write_msp(tmp_path, form, spelling)
    (tmp_path / "Transcripts").mkdir()
    (tmp_path / "Transcripts/MSP-PODCAST_0001_0009.txt").write_text("And so it goes.\n")
    old = {id: ("A", *values[1:]) for id, values in TURNS.items()}
    write_msp(tmp_path / "Previous_releases_information/1.8", form, spelling, old)
    columns = "emotion arousal valence dominance speaker gender part partition text".split()
    first, second, third, fourth = prepare_corpus("msppodcast", tmp_path).table.select(columns).rows()
    assert first == ("neutral", 0.5, 1.0, 0.0, "127", "male", "test", "Test1", None)
    assert second == ("undecided", 0.25, pytest.approx(0.6), 0.375, None, None, "train", "Train", "And so it goes.")
    assert third == ("contempt", 1.0, 0.0, 0.5, "9", "female", "dev", "Development", None)  # beyond the scale: clipped
    assert fourth[:1] + fourth[6:8] == ("surprised", "test", "Test2")


def test_msp_podcast_knows_test_3_from_the_list_of_partitions(tmp_path, make_files):
    write_msp(tmp_path)
    make_files(tmp_path, ["Audios/MSP-PODCAST_0001_0008.wav", "Audios/MSP-PODCAST_0002_0001.wav"])
    make_files(tmp_path, ["files_removed_from_prev_versions/MSP-PODCAST_0003_0001.wav"])
    (tmp_path / "Partitions.txt").write_text("Test1; MSP-PODCAST_0001_0008.wav\nTest3; MSP-PODCAST_0002_0001.wav\n")
    with pytest.warns(UserWarning) as caught:
        manifest = prepare_corpus("msppodcast", tmp_path)
    assert column(manifest, "partition") == {"MSP-PODCAST_0001_0008": "Test1", "MSP-PODCAST_0002_0001": "Test3"}
    assert column(manifest, "emotion")["MSP-PODCAST_0002_0001"] is None
    assert column(manifest, "part")["MSP-PODCAST_0002_0001"] == "test"
    said = sorted(re.sub(r"^.*?: ", "", str(warning.message)) for warning in caught)
    assert said == [
        "1 recordings are not in labels_consensus.csv, the first is MSP-PODCAST_0003_0001",
        "3 labelled turns have no recording, the first is MSP-PODCAST_0001_0009",
    ]


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, "Q", "unknown label 'Q' .known: A, S, H, U"),
        (6, "Test4", "unknown partition 'Test4'"),
        (1, "high", "turn MSP-PODCAST_0001_0008 has EmoAct 'high', not a number"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_what_is_wrong_with_a_label_of_msp_podcast_is_said(tmp_path, make_files, form, index, value, message):
    values = list(TURNS["MSP-PODCAST_0001_0008"])
    values[index] = value
    write_msp(tmp_path, form, turns={"MSP-PODCAST_0001_0008": values})
    make_files(tmp_path, ["Audios/MSP-PODCAST_0001_0008.wav"])
    with pytest.raises(InputError, match=rf"labels_consensus\.{form}: {message}"):
        prepare_corpus("msppodcast", tmp_path)


def test_msp_podcast_without_labels_or_with_others_is_refused(tmp_path, make_files):
    make_files(tmp_path, [f"Audios/{id}.wav" for id in TURNS])
    with pytest.raises(InputError, match=r"no Labels/labels_consensus\.csv or \.json below: 4 turns have no labels"):
        prepare_corpus("msppodcast", tmp_path)
    path = make_files(tmp_path, ["Labels/labels_consensus.json"]) / "Labels/labels_consensus.json"
    for text, message in (("[1]", "is not a JSON object of turns"), ('{"a.wav": {}}', "turn a has no 'EmoClass'")):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"labels_consensus\.json: {message}"):
            prepare_corpus("msppodcast", tmp_path)


def test_labels_of_msp_podcast_as_they_occur_agree_with_emobox(tmp_path, make_files, reference_file):
    """EmoBox's list is the Test1 of an early release: names and letters only."""
    table = emobox(reference_file, "msppodcast")
    rows = table.select("key", "emo_raw", "emo", "wav").rows()
    turns = {key.partition("-")[2]: (letter, 4, 4, 4, "1", "Male", "Test1") for key, letter, *_ in rows}
    write_msp(tmp_path, "json", turns=turns)
    manifest = prepare_corpus("msppodcast", make_files(tmp_path, table["wav"]))
    names = {**EMOBOX_CLASSES, "Contempt": "contempt", "No-agreement": "undecided"}
    assert len(manifest) == 23_126
    assert column(manifest, "emotion") == {key.partition("-")[2]: names[emotion] for key, _, emotion, _ in rows}


# nEMO


def test_nemo_takes_text_and_age_from_its_table(tmp_path, make_files):
    make_files(tmp_path, ["samples/EB0_anger_1.wav", "samples/WR0_surprised_64.flac", "samples/XX0_anger_1.wav"])
    columns = ("speaker", "gender", "emotion", "sentence", "text", "age")
    bare = prepare_corpus("nemo", tmp_path).table.select(columns).rows()
    assert bare == [
        ("EB0", "female", "angry", "1", None, None),
        ("WR0", "male", "surprised", "64", None, None),
    ]
    row = {"file_id": "EB0_anger_1.wav", "emotion": "anger", "raw_text": "Lubię czytać.", "normalized_text": "lubię"}
    write_table(tmp_path / "data.tsv", [{**row, "speaker_id": "  EB0", "gender": "female", "age": 27}], "\t")
    table = prepare_corpus("nemo", tmp_path).table
    assert table.select(columns).row(0) == ("EB0", "female", "angry", "1", "Lubię czytać.", "27")
    (tmp_path / "data.tsv").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"data\.tsv: has no column 'file_id'"):
        prepare_corpus("nemo", tmp_path)
