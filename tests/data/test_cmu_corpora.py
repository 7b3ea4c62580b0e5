"""CMU-MOSI and CMU-MOSEI: the table at hand, and written folders in the layout of the raw releases."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from serkit.cli import app
from serkit.data.corpora import find_corpus, mosei, prepare_corpus
from serkit.data.corpora.mosi import STANDARD_FOLDS
from serkit.data.manifest import Manifest
from serkit.data.protocols import create_folds, stamp
from serkit.data.sentiment import SENTIMENT7, name_sentiment, name_sentiment7, round_sentiment7
from serkit.errors import InputError


def counts(manifest, *columns):
    return dict(Counter(manifest.table.select(columns).rows() if columns[1:] else manifest.table[columns[0]]))


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# Names of scores


@pytest.mark.parametrize(
    ("score", "place"),
    [
        (-3, 0), (-2.0001, 0), (-2, 1), (-1.0001, 1), (-1, 2), (-0.0001, 2), (0, 3), (-0.0, 3),
        (0.0001, 4), (1, 4), (1.0001, 5), (2, 5), (2.0001, 6), (3, 6),
    ],
)  # fmt: skip
def test_seven_classes_have_their_edges(score, place):
    assert SENTIMENT7.index(name_sentiment7(score)) == place
    assert name_sentiment(score) == ("negative", "neutral", "positive")[(place > 3) - (place < 3) + 1]


def test_mosi_rounds_halves_to_the_even_class():
    places = [SENTIMENT7.index(round_sentiment7(score)) for score in (-3, -2.5, -1.5, -0.5, 0.4, 0.5, 1.5, 2.4, 2.6)]
    assert places == [0, 1, 1, 3, 3, 3, 5, 5, 6]


@pytest.mark.parametrize("score", [-3.1, 3.5, float("nan")])
def test_a_score_outside_the_scale_is_refused(score):
    for name in (name_sentiment, name_sentiment7, round_sentiment7):
        with pytest.raises(InputError, match="outside -3 to 3"):
            name(score)


# MOSI


@pytest.fixture(scope="module")
def table(reference_file):
    return reference_file("mosi/mosi_utterances.csv")


@pytest.fixture(scope="module")
def mosi(table):
    return prepare_corpus("mosi", table.parent)


def test_the_table_of_mosi_has_the_standard_folds(mosi, table):
    corpus = find_corpus("mosi")
    assert (len(mosi), mosi.table["speaker"].n_unique()) == (corpus.utterances, corpus.speakers) == (2199, 93)
    assert counts(mosi, "part") == {"train": 1284, "dev": 229, "test": 686}
    with table.open(encoding="utf-8") as file:
        told = {row["id"]: row["split_cmu"].replace("valid", "dev") for row in csv.DictReader(file)}
    assert dict(mosi.table.select("id", "part").rows()) == told
    assert Counter(STANDARD_FOLDS.values()) == {"train": 52, "dev": 10, "test": 31}
    assert counts(mosi, "part", "sentiment")["test", "negative"] == 379
    assert counts(mosi, "part", "sentiment")["test", "positive"] == 307  # 30 of them are neutral
    (fold,) = create_folds(mosi, "part")
    assert (fold.shared, len(fold.dev)) == (0, 229)


def test_features_of_mosi_are_the_rows_of_the_table(mosi, table):
    with table.open(encoding="utf-8") as file:
        place = {row["id"]: number for number, row in enumerate(csv.DictReader(file))}
    with np.load(table.parent / "mosi_features.npz") as arrays:
        for name, column in (("audio", "audio_features"), ("visual", "visual_features"), ("text_cnn", "text_cnn")):
            for id, told in mosi.table.select("id", column).rows()[::500]:
                file, _, what = told.partition("#")
                assert file == str(table.parent / "mosi_features.npz")
                assert what == f"{name}[{place[id]}]" and place[id] < len(arrays[name])
    row = mosi.select(["03bSnISJMiM_1"]).table.row(0, named=True)
    assert (row["text"], row["audio"], row["split_bclstm"]) == ("ANYHOW IT WAS REALLY GOOD", None, "test")
    assert mosi.validate() == []


def test_mosi_is_prepared_and_checked_without_recordings(table, tmp_path, capsys):
    path = tmp_path / "mosi.parquet"
    app(["prepare", "mosi", str(table.parent), "-o", str(path)], standalone_mode=False)
    app(["check", str(path), "--protocol", "part"], standalone_mode=False)
    out = capsys.readouterr()
    assert "2199 of the 2199 utterances known" in out.out
    assert "part: train 1284, dev 229, test 686" in out.out and "no problems found" in out.out
    assert out.out.count("recording") == 1 and "no utterance has a recording" in out.out
    assert out.err == ""


HEADER = "id,video,segment,split_cmu,split_bclstm,label,speaker_or_video_no,text\n"
VIDEOS = ("2iD-tVS8NPw", "_dI--eQ6qVU", "tmZoasNr4rU")
SCORES = {f"{VIDEOS[0]}_1": 2.4, f"{VIDEOS[0]}_2": 0.0, f"{VIDEOS[1]}_1": -0.6, f"{VIDEOS[2]}_10": -3.0}


def test_the_table_of_mosi_takes_recordings_by_name(tmp_path, write_wav):
    lines = [f"{id},{id.rpartition('_')[0]},1,train,train,{int(score >= 0)},93,WORDS\n" for id, score in SCORES.items()]
    write_text(tmp_path / "mosi_utterances.csv", HEADER + "".join(lines))
    assert counts(prepare_corpus("mosi", tmp_path), "audio") == {None: 4}
    wav = write_wav(tmp_path / "wav" / f"{VIDEOS[1]}_1.wav")
    with pytest.warns(UserWarning, match=rf"3 segments have no recording, the first is {VIDEOS[0]}_1"):
        manifest = prepare_corpus("mosi", tmp_path)
    assert manifest.table.select("id", "audio", "part").rows() == [(f"{VIDEOS[1]}_1", str(wav), "dev")]
    assert "audio_features" not in manifest.table.columns


def test_a_table_of_mosi_and_features_of_another_length_are_refused(tmp_path):
    write_text(tmp_path / "mosi_utterances.csv", f"{HEADER}a_1,a,1,train,train,1,1,A\n")
    np.savez(tmp_path / "mosi_features.npz", audio=np.zeros((2, 73)))
    with pytest.raises(InputError, match=r"mosi_features\.npz: audio has 2 rows, mosi_utterances\.csv has 1"):
        prepare_corpus("mosi", tmp_path)
    write_text(tmp_path / "mosi_utterances.csv", f"{HEADER}b_1,a,1,train,train,1,1,A\n")
    (tmp_path / "mosi_features.npz").unlink()
    with pytest.raises(InputError, match="id 'b_1' is not a segment of the video 'a'"):
        prepare_corpus("mosi", tmp_path)


@pytest.fixture
def raw_mosi(tmp_path):
    lines = [
        f"{i}.5,{i + 1}.25,{id.rpartition('_')[0]},{id.rpartition('_')[2]},{s}"
        for i, (id, s) in enumerate(SCORES.items())
    ]
    write_text(tmp_path / "Raw/Labels/OpinionLevelSentiment.csv", "\n".join(lines) + "\n")
    write_text(tmp_path / f"Raw/Transcript/Segmented/{VIDEOS[0]}.annotprocessed", "1_DELIM_SO GOOD\n2_DELIM_ A FILM \n")
    write_text(tmp_path / f"Raw/Transcript/Segmented/{VIDEOS[2]}.annotprocessed", "10_DELIM_BAD_DELIM_\n")
    return tmp_path


def test_the_raw_release_of_mosi_is_read(raw_mosi, make_files):
    make_files(raw_mosi, [f"Raw/Audio/WAV_16000/Segmented/{id}.wav" for id in SCORES])
    make_files(raw_mosi, [f"Raw/Video/Segmented/{id}.mp4" for id in SCORES])
    manifest = prepare_corpus("mosi", raw_mosi)
    columns = ("id", "speaker", "part", "text", "sentiment", "sentiment_score", "sentiment7", "start")
    assert manifest.table.select(columns).rows() == [
        ("2iD-tVS8NPw_1", VIDEOS[0], "train", "SO GOOD", "positive", 2.4, "positive", None),
        ("2iD-tVS8NPw_2", VIDEOS[0], "train", "A FILM", "neutral", 0.0, "neutral", None),
        ("_dI--eQ6qVU_1", VIDEOS[1], "dev", None, "negative", -0.6, "weakly negative", None),
        ("tmZoasNr4rU_10", VIDEOS[2], "test", "BAD_DELIM_", "negative", -3.0, "strongly negative", None),
    ]
    assert all(name.endswith(".wav") for name in manifest.table["audio"])


def test_segments_of_mosi_may_be_spans_of_the_full_recordings(raw_mosi, write_wav):
    for video in VIDEOS:
        write_wav(raw_mosi / f"Raw/Audio/WAV_16000/Full/{video}.wav", seconds=4.0)
    manifest = prepare_corpus("mosi", raw_mosi)
    assert manifest.table.select("start", "end").rows() == [(0.5, 1.25), (1.5, 2.25), (2.5, 3.25), (3.5, 4.0)]
    assert manifest.validate() == []


def test_the_table_of_mosi_takes_scores_where_they_are(raw_mosi):
    lines = [f"{id},{id.rpartition('_')[0]},1,x,test,{int(score >= 0)},9,WORDS\n" for id, score in SCORES.items()]
    write_text(raw_mosi / "mosi_utterances.csv", HEADER + "".join(lines))
    manifest = prepare_corpus("mosi", raw_mosi)
    assert manifest.table["sentiment"].to_list() == ["positive", "neutral", "negative", "negative"]
    assert manifest.table["text"].to_list() == ["WORDS"] * 4


def test_texts_of_mosi_without_scores_are_refused(raw_mosi):
    (raw_mosi / "Raw/Labels/OpinionLevelSentiment.csv").write_text("0,1,a,1,4\n")
    with pytest.raises(InputError, match=r"OpinionLevelSentiment\.csv: line 1 is not: from, to, video, segment, score"):
        prepare_corpus("mosi", raw_mosi)
    (raw_mosi / "Raw/Labels/OpinionLevelSentiment.csv").unlink()
    with pytest.raises(InputError, match=r"annotprocessed: has no labels: no OpinionLevelSentiment\.csv or CMU_MOSI"):
        prepare_corpus("mosi", raw_mosi)


def test_the_published_test_part_of_mosi_is_without_neutral_segments(table, tmp_path):
    """Scores that agree with the table, of which 30 of the test part are 0, give the supports of the MAT report."""
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    zero = [row["id"] for row in rows if row["split_cmu"] == "test" and row["label"] == "1"][:30]
    scores = {row["id"]: 0.0 if row["id"] in zero else 1.2 if row["label"] == "1" else -0.4 for row in rows}
    lines = [f"0,1,{row['video']},{row['segment']},{scores[row['id']]}" for row in rows]
    write_text(tmp_path / "OpinionLevelSentiment.csv", "\n".join(lines))
    manifest = prepare_corpus("mosi", tmp_path)
    test = manifest.table.filter((manifest.table["part"] == "test") & (manifest.table["sentiment"] != "neutral"))
    assert Counter(test["sentiment"]) == {"negative": 379, "positive": 277}
    (fold,) = create_folds(Manifest(manifest.table), "part", dev_by="test")
    assert (len(fold.train), fold.dev) == (1284 + 229, fold.test)
    assert "chosen on the test part, speakers shared with train: 0" in stamp([fold])


# Computational sequences


def write_hdf5(path, name, videos):
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for video, (intervals, features) in videos.items():
            file[f"{name}/data/{video}/intervals"] = np.array(intervals, np.float64)
            file[f"{name}/data/{video}/features"] = np.array(features, np.float32)
        file.create_group(f"{name}/metadata")


class Stand(SimpleNamespace):
    """What of h5py is used, for a machine without it: a file is a mapping."""

    def __call__(self, path, mode):
        assert mode == "r"
        return self

    def __enter__(self):
        return {self.name: {"data": self.videos, "metadata": {}}}

    def __exit__(self, *_):
        return None


@pytest.fixture(params=["stand-in", "h5py"])
def write_sequence(request, monkeypatch):
    """``write_sequence(path, name, {video: (intervals, features)})`` writes a .csd file, or what reads as one."""

    def write(path, name, videos):
        if request.param == "h5py":
            write_hdf5(path, name, videos)
            return
        write_text(path, "")
        stored = {video: {"intervals": i, "features": np.float32(f)} for video, (i, f) in videos.items()}
        module = SimpleNamespace(File=Stand(name=name, videos=stored), __spec__=SimpleNamespace())
        monkeypatch.setitem(sys.modules, "h5py", module)

    return write


def test_scores_of_mosi_may_be_a_computational_sequence(tmp_path, write_sequence):
    videos = {VIDEOS[0]: ([(0, 1), (1, 2)], [[2.4], [0]]), VIDEOS[2]: ([(0.5, 1)], [[-1.2]])}
    write_sequence(tmp_path / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", videos)
    manifest = prepare_corpus("mosi", tmp_path)
    assert manifest.ids == ["2iD-tVS8NPw_1", "2iD-tVS8NPw_2", "tmZoasNr4rU_1"]
    assert manifest.table["sentiment_score"].to_list() == pytest.approx([2.4, 0, -1.2])


def test_without_h5py_the_remedy_is_said(tmp_path, monkeypatch):
    write_text(tmp_path / "CMU_MOSI_Opinion_Labels.csd", "")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"Labels\.csd: is HDF5, which needs h5py: pip install h5py, or give"):
        prepare_corpus("mosi", tmp_path)


def test_a_file_that_is_no_sequence_is_named(tmp_path):
    if importlib.util.find_spec("h5py") is None:
        pytest.skip("h5py is not installed")
    write_text(tmp_path / "CMU_MOSI_Opinion_Labels.csd", "words")
    with pytest.raises(InputError, match=r"Labels\.csd: is not a computational sequence"):
        prepare_corpus("mosi", tmp_path)


# MOSEI


SEGMENTS = {
    "-3g5yACwYnA": [(0.0, 1.5, "So___ good"), (1.5, 2.0, "unlabelled"), (2.0, 9.0, "the end")],
    "11650": [(0.25, 2.0, "I")],
}
FEATURES = {
    "-3g5yACwYnA": ([(2.0, 9.0), (-0.001, 1.5)], [[-2.5, 0, 1, 0, 0, 0, 0.5], [0.0, 0, 0, 0, 0, 0, 0]]),
    "11650": ([(0.25, 2.0)], [[1.0, 2 / 3, 0, 0, 0, 0, 0]]),
}
FEATURES["-3g5yACwYnA"][0][1] = (0.0, 1.5)


@pytest.fixture
def raw_mosei(tmp_path):
    for video, segments in SEGMENTS.items():
        lines = [f"{video}___{n}___{start}___{end}___{text}" for n, (start, end, text) in enumerate(segments)]
        write_text(tmp_path / f"Raw/Transcript/Segmented/Combined/{video}.txt", "\n".join(lines) + "\n")
    write_text(tmp_path / "Raw/readme.txt", "not a transcript")
    return tmp_path


def read_mosei(root, *warned):
    with pytest.warns(UserWarning) as caught:
        manifest = prepare_corpus("mosei", root)
    assert [str(warning.message).partition(": ")[2] for warning in caught] == list(warned)
    return manifest


BARE = "1 transcribed segments have no labels, the first is -3g5yACwYnA_1"


def check_mosei(manifest):
    columns = ("id", "speaker", "text", "sentiment", "sentiment7", "sad", "fearful")
    assert manifest.table.select(columns).rows() == [
        ("-3g5yACwYnA_0", "-3g5yACwYnA", "So___ good", "neutral", "neutral", 0, 0),
        ("-3g5yACwYnA_2", "-3g5yACwYnA", "the end", "negative", "strongly negative", 1, 0.5),
        ("11650_0", "11650", "I", "positive", "weakly positive", 0, 0),
    ]
    assert manifest.table["happy"].to_list() == pytest.approx([0, 0, 2 / 3])
    assert manifest.table["sentiment_score"].to_list() == pytest.approx([0, -2.5, 1])


def test_the_raw_release_of_mosei_is_spans_of_full_recordings(raw_mosei, write_sequence, write_wav):
    write_sequence(raw_mosei / "CMU_MOSEI_Labels.csd", "All Labels", FEATURES)
    for video in SEGMENTS:
        write_wav(raw_mosei / f"Raw/Audio/Full/WAV_16000/{video}.wav", seconds=4.0)
    manifest = read_mosei(raw_mosei, BARE)
    check_mosei(manifest)
    assert manifest.table.select("start", "end").rows() == [(0.0, 1.5), (2.0, 4.0), (0.25, 2.0)]  # cut to the recording
    assert counts(manifest, "part") == {None: 3}
    assert manifest.validate() == []


def test_mosei_may_be_cut_and_labelled_by_a_table(raw_mosei, make_files):
    header = "video,clip,sentiment,happy,sad,anger,surprise,disgust,fear,split"
    rows = [
        "-3g5yACwYnA,0,0,0,0,0,0,0,0,0",
        "-3g5yACwYnA,2,-2.5,0,1,0,0,0,0.5,0",
        f"11650,0,1.0,{2 / 3},0,0,0,0,0,test",
    ]
    write_text(raw_mosei / "CMU_MOSEI_Labels.csv", "\n".join([header, *rows]))
    make_files(raw_mosei, [f"Segmented/{id}.wav" for id in ("-3g5yACwYnA_0", "-3g5yACwYnA_1", "-3g5yACwYnA_2")])
    manifest = read_mosei(raw_mosei, BARE, "1 segments have no recording, the first is 11650_0")
    assert manifest.table.select("id", "part", "start").rows() == [
        ("-3g5yACwYnA_0", "train", None),
        ("-3g5yACwYnA_2", "train", None),
    ]
    for path in raw_mosei.glob("Segmented/*"):
        path.unlink()
    check_mosei(read_mosei(raw_mosei, BARE))


def test_the_mean_of_mosei_s_annotators_is_taken(raw_mosei):
    names = ("sentiment", "happiness", "sadness", "anger", "surprise", "disgust", "fear")
    answers = {
        ("-3g5yACwYnA", 0): [(1, 0, 0, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0, 0)],
        ("-3g5yACwYnA", 2): [(-3, 0, 1, 0, 0, 0, 1), (-2, 0, 1, 0, 0, 0, 0)],
        ("11650", 0): [(1, 1, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0, "")],
    }
    for number in range(2):  # the batches are several files
        head = ",".join(["HITId", "Input.VIDEO_ID", "Input.CLIP", *(f"Answer.{name}" for name in names)])
        lines = [
            f"h,{video},{clip},{','.join(map(str, a))}"
            for (video, clip), given in answers.items()
            for a in given[number::2]
        ]
        write_text(raw_mosei / f"Raw/Labels/batch{number}.csv", "\n".join([head, *lines]))
    check_mosei(read_mosei(raw_mosei, BARE))


FOLDS = {"standard_train_fold": ["-3g5yACwYnA"], "standard_valid_fold": ["v"], "standard_test_fold": ["11650"]}


@pytest.mark.parametrize("name", ["cmu_mosei_std_folds.py", "standard_folds.json", "folds.json"])
def test_parts_of_mosei_are_those_of_a_list_of_folds(raw_mosei, write_sequence, name):
    write_sequence(raw_mosei / "CMU_MOSEI_Labels.csd", "All Labels", FEATURES)
    lists = dict(zip(("train", "val", "test"), FOLDS.values(), strict=True)) if name == "folds.json" else FOLDS
    text = json.dumps(lists) if name.endswith("json") else "".join(f"{key}={value}\n" for key, value in lists.items())
    write_text(raw_mosei / name, text + ("import os\nos.abort()\n" if name.endswith("py") else ""))
    assert read_mosei(raw_mosei, BARE).table["part"].to_list() == ["train", "train", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["a"], "test": ["b"]}', r"folds\.json: needs a list of videos for each of train, valid and test"),
        ('{"train": ["a"], "valid": ["a"], "test": []}', r"folds\.json: video 'a' is in train and in dev"),
        ("[]", r"folds\.json: cannot be read as lists of videos"),
        ("{", r"folds\.json: cannot be read as lists of videos"),
    ],
)
def test_what_is_wrong_with_a_list_of_folds_is_said(raw_mosei, text, message):
    write_text(raw_mosei / "folds.json", text)
    write_text(raw_mosei / "CMU_MOSEI_Labels.csv", "video,clip,sentiment\n11650,0,1\n")
    with pytest.warns(UserWarning), pytest.raises(InputError, match=message):
        prepare_corpus("mosei", raw_mosei)


def test_labels_of_mosei_alone_are_named_by_their_place(tmp_path, make_files):
    """The table that s3prl makes: classes in place of scores, times, and the parts as numbers."""
    head = ",file,index,start,end,label2a,label2b,label6,label7,split"
    lines = [
        "0,aaa,0,-0.5,3.0,1,1,0,2,0",
        "1,aaa,1,3.0,4.0,0,-1,1,-3,0",
        "2,b_1,0,0,1,1,0,0,0,2",
        "3,c,0,0,1,1,0,0,0,3",
    ]
    write_text(tmp_path / "CMU_MOSEI_Labels.csv", "\n".join([head, *lines]))
    make_files(tmp_path, ["Full/aaa.wav", "Full/b_1.wav", "Full/c.wav"])
    manifest = prepare_corpus("mosei", tmp_path)
    assert manifest.table.select("id", "start", "sentiment", "sentiment7", "part").rows() == [
        ("aaa[0]", 0.0, "positive", "positive", "train"),
        ("aaa[1]", 3.0, "negative", "strongly negative", "train"),
        ("b_1[0]", 0.0, "neutral", "neutral", "test"),
        ("c[0]", 0.0, "neutral", "neutral", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,sentiment\na,1\n", "needs the columns video and clip, or video, start and end"),
        ("video,clip\na,1\n", "needs the column sentiment, or label2b and label7"),
        ("video,clip,sentiment\na,1,4\n", r"Labels\.csv: sentiment is 4\.0, outside -3 to 3"),
        ("video,clip,sentiment\na,1,good\n", r"Labels\.csv: segment of a: could not convert string to float"),
        ("video,clip,sentiment,split\na,1,1,7\n", r"Labels\.csv: unknown part '7'"),
    ],
)
def test_what_is_wrong_with_a_table_of_mosei_is_said(tmp_path, text, message):
    write_text(tmp_path / "CMU_MOSEI_Labels.csv", text)
    with pytest.raises(InputError, match=message):
        prepare_corpus("mosei", tmp_path)


def test_texts_of_mosei_without_labels_are_refused(raw_mosei):
    with pytest.raises(InputError, match="its texts have no labels"):
        prepare_corpus("mosei", raw_mosei)


def test_mosei_s_standard_parts_are_those_of_the_published_reports():
    assert mosei.STANDARD_PARTS == {"train": 16_327, "dev": 1_871, "test": 4_662}
    assert find_corpus("mosei").utterances == 22_860
