"""The data folders of MAT: words, frames and labels arrive in order, with the names that the labels stand for."""

from __future__ import annotations

import os
import pickle
from collections import Counter

import numpy as np
import pytest

from serkit.cli import app
from serkit.data.manifest import Manifest
from serkit.data.protocols import create_folds, stamp
from serkit.data.sentence_pickles import convert_sentences, is_sentence_folder
from serkit.data.words import clean_words, split_words
from serkit.errors import InputError

WORDS = ["Well-known", "new york", "it's", ".", "  ", "SO"]


def frames(seed, count=5):
    return np.random.default_rng(seed).random((count, 80), np.float32)


def write(root, name, words, mels, protocol=4, **labels):
    root.mkdir(parents=True, exist_ok=True)
    for kind, value in {"sentences": words, "mels": mels, **labels}.items():
        (root / f"{name}_{kind}.p").write_bytes(pickle.dumps(value, protocol))


def write_part(root, name, ids, protocol=4, **labels):
    mels = {id: frames(number) for number, id in enumerate(reversed(ids))}
    write(root, name, {id: [*WORDS, id] for id in reversed(ids)}, mels, protocol, **labels)
    return mels


def array(place):
    file, _, name = place.partition("#")
    with np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_iemocap_has_its_classes_talkers_and_order(tmp_path, protocol):
    train, test = ["Ses02F_impro01_M003", "Ses02F_impro01_F000"], ["Ses01M_script01_1_F002", "Ses01F_impro01_F001"]
    mels = write_part(tmp_path / "d", "traindev", train, protocol, emotions=dict(zip(train, (3, 1), strict=True)))
    labels = dict(zip(test, (np.int64(0), np.array(2)), strict=True))
    write_part(tmp_path / "d", "test", test, protocol, emotions=labels)
    manifest = convert_sentences(tmp_path / "d", tmp_path / "out")
    assert manifest.ids == train + test
    shown = manifest.table.select("emotion", "part", "speaker", "session", "gender", "corpus", "audio").rows()
    assert shown == [
        ("angry", "train", "02M", "2", "male", "iemocap", None),
        ("happy", "train", "02F", "2", "female", "iemocap", None),
        ("neutral", "test", "01F", "1", "female", "iemocap", None),
        ("sad", "test", "01F", "1", "female", "iemocap", None),
    ]
    read = Manifest.read(tmp_path / "out" / "manifest.parquet")
    assert read.table.equals(manifest.table) and read.validate() == []
    for id, place in read.table.select("id", "features").rows()[:2]:
        assert (array(place) == mels[id]).all()
    (fold,) = create_folds(read, "session1", dev_by="test")
    assert (fold.train, fold.dev, fold.test) == (tuple(train), tuple(test), tuple(test))


def test_the_text_gives_the_same_words_again(tmp_path):
    ids = ["Ses02F_impro01_M003", "Ses01F_impro01_F000"]
    for name, id in zip(("traindev", "test"), ids, strict=True):
        write_part(tmp_path, name, [id], emotions={id: 0})
    text = convert_sentences(tmp_path, tmp_path / "out").table["text"][0]
    for legacy in (False, True):
        assert split_words(text, legacy) == clean_words([*WORDS, ids[0]], legacy)
    assert split_words(text)[:3] == ["well known", "new york", "its"]


def test_mosi_has_scores_and_the_video_as_speaker(tmp_path):
    train, test = ["2iD-tVS8NPw_1", "8d-gEyoeBzc_12"], ["tmZoasNr4rU_1", "tmZoasNr4rU_2", "zhpQhgha_KU_10"]
    write_part(tmp_path, "trainval", train, sentiment={train[0]: 2.4, train[1]: -0.2})
    write_part(tmp_path, "test", test, sentiment=dict(zip(test, (0.0, np.float32(-3), [1.6]), strict=True)))
    manifest = convert_sentences(tmp_path, tmp_path / "out")
    assert manifest.table.select("id", "speaker", "part", "sentiment", "sentiment7").rows() == [
        ("2iD-tVS8NPw_1", "2iD-tVS8NPw", "train", "positive", "positive"),
        ("8d-gEyoeBzc_12", "8d-gEyoeBzc", "train", "negative", "neutral"),
        ("tmZoasNr4rU_1", "tmZoasNr4rU", "test", "neutral", "neutral"),
        ("tmZoasNr4rU_2", "tmZoasNr4rU", "test", "negative", "strongly negative"),
        ("zhpQhgha_KU_10", "zhpQhgha_KU", "test", "positive", "positive"),
    ]
    assert manifest.table["sentiment_score"].to_list() == pytest.approx([2.4, -0.2, 0, -3, 1.6])
    assert manifest.table["corpus"][0] == "mosi"
    (fold,) = create_folds(manifest, "part", dev_by="test")
    assert stamp([fold]) == "speakers shared: 2; chosen on the test part, speakers shared with train: 0"


def test_mosei_has_emotions_and_ids_with_brackets(tmp_path, capsys):
    root, ids = tmp_path / "MOSEI", ["-3g5yACwYnA[0]", "-3g5yACwYnA[1]", "zzz[3]"]
    mels = write_part(
        root, "train", ids,
        sentiment=dict(zip(ids, (-1.0, np.array([0.5]), 3.0), strict=True)),
        emotion={ids[0]: np.array([0, 0.5, 1, 0, 2, 0]), ids[2]: np.zeros(6)},
    )  # fmt: skip
    write_part(root, "valid", ["a[0]"], sentiment={"a[0]": 0.0}, emotion={"a[0]": np.ones(6)})
    write_part(root, "test", ["b[0]"], sentiment={"b[0]": 2.5}, emotion={"b[0]": np.ones(6)})
    write_part(root, "private", ["c[0]"])
    with pytest.warns(UserWarning, match="private has no labels and is left out"):
        manifest = convert_sentences(root, tmp_path / "out")
    assert manifest.ids == [*ids, "a[0]", "b[0]"]
    assert manifest.table["part"].to_list() == ["train"] * 3 + ["dev", "test"]
    row = manifest.table.row(0, named=True)
    names = ("happy", "sad", "angry", "surprised", "disgusted", "fearful")
    assert [row[name] for name in names] == [0, 0.5, 1, 0, 2, 0]
    assert manifest.table["sad"].to_list() == [0.5, None, 0, 1, 1]
    seven = ["weakly negative", "weakly positive", "strongly positive", "neutral", "strongly positive"]
    assert manifest.table["sentiment7"].to_list() == seven
    assert row["features"].endswith("mels.npz#-3g5yACwYnA(0)")
    assert (array(row["features"]) == mels[ids[0]]).all()


def test_meld_s_ids_stand_in_every_part(tmp_path):
    ids = ["dia0_utt0", "dia0_utt1"]
    for name, emotions in (("train", (6, 1)), ("valid", (2, 5)), ("test", (0, 4))):
        sentiment = dict(zip(ids, (2, 1), strict=True))
        write_part(tmp_path, name, ids, sentiment=sentiment, emotion=dict(zip(ids, emotions, strict=True)))
    manifest = convert_sentences(tmp_path, tmp_path / "out")
    assert manifest.ids[:4] == ["dia0_utt0-train", "dia0_utt1-train", "dia0_utt0-dev", "dia0_utt1-dev"]
    assert manifest.table["emotion"].to_list() == ["angry", "surprised", "fearful", "disgusted", "neutral", "happy"]
    assert Counter(manifest.table["sentiment"]) == {"negative": 3, "positive": 3}
    assert manifest.table["dialogue"][2] == "dia0-dev"
    assert manifest.validate() == []


def test_only_utterances_with_words_frames_and_a_label_are_there(tmp_path):
    ids = [f"Ses02F_impro01_M00{number}" for number in range(6)]
    words, mels = {id: ["a"] for id in ids}, {id: frames(0) for id in ids}
    for id in ids[1:3]:  # neighbours: the original removes every other of them and fails on the rest
        del words[id]
    del mels[ids[4]]
    write(tmp_path, "traindev", words, mels, emotions=dict.fromkeys([*ids[:5], "Ses03F_impro01_M000"], 1))
    manifest = convert_sentences(tmp_path, tmp_path / "out")
    assert manifest.ids == [ids[0], ids[3]]


ID = "Ses02F_impro01_M000"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotions": {ID: 4}}, rf"traindev_emotions\.p: label of {ID}: class 4 is none of 0 to 3"),
        ({"emotions": {ID: "sad"}}, rf"traindev_emotions\.p: label of {ID}: expected a number"),
        ({"emotions": {ID: float("nan")}}, "class nan is none of"),
        ({"emotions": [1]}, r"traindev_emotions\.p: is not a dict of utterances"),
        ({"emotions": {"5": 1}}, "ids such as '5' are none of IEMOCAP, MOSI, MOSEI or MELD"),
        ({"sentiment": {ID: 1.0}}, r"traindev_sentiment\.p: iemocap has no such labels"),
        ({"sentences": {ID: "words"}}, rf"traindev_sentences\.p: {ID} is no list of words"),
        ({"sentences": {ID: [1]}}, rf"traindev_sentences\.p: {ID} holds int, which is no word"),
        ({"mels": {ID: np.zeros(80)}}, rf"traindev_mels\.p: {ID} has no frames"),
        ({"mels": {}}, "no utterance has words, frames and a label"),
        ({"sentences": os.system}, r"traindev_sentences\.p: names '\w+\.system'"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path, change, message):
    write(tmp_path, "traindev", {ID: ["a"]}, {ID: frames(0)}, emotions={ID: 1})
    for kind, value in change.items():
        (tmp_path / f"traindev_{kind}.p").write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match=message):
        convert_sentences(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_an_unknown_part_is_named(tmp_path):
    write(tmp_path, "holdout", {ID: ["a"]}, {ID: frames(0)}, emotions={ID: 1})
    with pytest.raises(InputError, match="part 'holdout' is none of train, traindev, trainval"):
        convert_sentences(tmp_path, tmp_path / "out")


def test_the_verb_convert_knows_such_a_folder(tmp_path, capsys):
    assert not is_sentence_folder(tmp_path)
    write_part(tmp_path / "IEMOCAP", "traindev", [ID], emotions={ID: 1})
    write_part(tmp_path / "IEMOCAP", "test", ["Ses01F_impro01_M000"], emotions={"Ses01F_impro01_M000": 1})
    app(["convert", str(tmp_path / "IEMOCAP"), "-o", str(tmp_path / "out")], standalone_mode=False)
    assert "manifest.parquet and mels.npz of 2 utterances" in capsys.readouterr().out
    app(["check", str(tmp_path / "out" / "manifest.parquet"), "--protocol", "part"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "no utterance has a recording" in out and "part: train 1, dev 0, test 1" in out
    assert out.endswith("no problems found\n")
