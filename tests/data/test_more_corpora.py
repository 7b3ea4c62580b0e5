"""Corpora whose file names tell everything: complete lists of names as they occur, and generated folders."""

from __future__ import annotations

import itertools
from collections import Counter

import polars as pl
import pytest

from serkit.data.corpora import find_corpus, prepare_corpus
from serkit.data.manifest import EMOBOX_CLASSES
from serkit.errors import InputError


def counts(manifest, column="emotion"):
    return dict(Counter(manifest.table[column].to_list()))


def emobox(reference_file, name):
    return pl.read_csv(reference_file(f"emobox/tsv/{name}.tsv"), separator="\t", infer_schema=False)


# Complete lists of file names. EmoBox's table, how many of the corpus it lists, and how its speakers are called here.
LISTS = {
    "aesdd": ("aesdd", 604, str),
    "cafe": ("cafe", 936, str),
    "esd": ("esd", 35_000, str),
    "jl": ("jlcorpus", 2400, lambda name: name.rsplit("/", 1)[1]),  # EmoBox's speakers are paths
    "mesd": ("mesd", 862, str.lower),
    "shemo": ("shemo", 2838, str),  # of 3000: those of a later, corrected edition of the transcripts
    "subesco": ("subesco", 7000, lambda name: name.replace("Female-", "F").replace("Male-", "M")),
    "urdu": ("urdu", 400, str),
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory, reference_file, make_files):
    """``listed(name)``: EmoBox's table, and the manifest of a folder with its file names."""
    made = {}

    def prepare(name):
        if name not in made:
            table = emobox(reference_file, LISTS[name][0])
            made[name] = table, prepare_corpus(name, make_files(tmp_path_factory.mktemp(name), table["wav"]))
        return made[name]

    return prepare


@pytest.mark.parametrize("name", LISTS)
def test_file_names_as_they_occur_give_the_labels_and_speakers_of_emobox(listed, name):
    table, manifest = listed(name)
    _, utterances, speaker_of = LISTS[name]
    corpus = find_corpus(name)
    assert len(manifest) == utterances == (corpus.utterances if name != "shemo" else 2838)
    assert manifest.table["speaker"].n_unique() == corpus.speakers
    expected = {
        wav.rsplit("/", 1)[1]: (EMOBOX_CLASSES.get(emotion, emotion.lower()), speaker_of(speaker))
        for wav, emotion, speaker in table.select("wav", "emo", "speaker_stm").rows()
    }
    rows = manifest.table.select("audio", "emotion", "speaker").rows()
    assert {audio.rsplit("/", 1)[1]: tuple(rest) for audio, *rest in rows} == expected


@pytest.mark.parametrize("name", LISTS)
def test_the_ids_are_those_of_emobox(listed, name):
    """EmoBox's keys are the corpus and the id, with underscores as dashes: so its tables of folds can be used."""
    table, manifest = listed(name)
    keys = {f"{LISTS[name][0]}-{id}".replace("_", "-") for id in manifest.ids}
    assert keys == {key.replace("_", "-") for key in table["key"]}


GENDERS = {
    "cafe": {"female": 468, "male": 468},
    "esd": {"female": 17_500, "male": 17_500},
    "jl": {"female": 1200, "male": 1200},
    "mesd": {"female": 288, "male": 288, None: 286},
    "shemo": {"female": 1192, "male": 1646},
    "subesco": {"female": 3500, "male": 3500},
    "urdu": {"female": 56, "male": 344},
    "aesdd": {None: 604},
}


@pytest.mark.parametrize("name", GENDERS)
def test_a_speaker_has_one_gender(listed, name):
    table = listed(name)[1].table
    assert dict(Counter(table["gender"].to_list())) == GENDERS[name]
    assert set(table.group_by("speaker").agg(pl.col("gender").n_unique())["gender"]) == {1}


# Generated folders


def test_cafe_gives_text_and_intensity_and_prefers_wav_whatever_the_folders_are_called(tmp_path, make_files):
    make_files(tmp_path, ["CaFE_192k_1/Col\u0160re/Fort/02-C-2-6.aiff", "CaFE_192k_1/Neutre/01-N-1-1.aiff"])
    make_files(tmp_path, ["CaFE_48k/Colère/Fort/02-C-2-6.wav", "CaFE_48k/Readme.txt", "CaFE_48k/13-C-1-1.wav"])
    table = prepare_corpus("cafe", tmp_path).table
    assert table.select("id", "speaker", "gender", "emotion", "intensity", "text").rows() == [
        ("01-N-1-1", "01", "male", "neutral", "mild", "Un cheval fou dans mon jardin"),
        ("02-C-2-6", "02", "female", "angry", "strong", "Six ours aimants domestiqués"),
    ]
    assert [name.rsplit(".", 1)[1] for name in table["audio"]] == ["aiff", "wav"]


def test_subesco_reads_the_name_with_a_bracket(tmp_path, make_files):
    make_files(tmp_path, ["F_02_MONIKA_S_2_SURPRISE_3].wav", "M_10_X_S_10_ANGRY_5.flac", "M_10_X_S_10_ANGRY_9.wav"])
    table = prepare_corpus("subesco", tmp_path).table
    assert table.select("speaker", "gender", "emotion", "sentence", "take").rows() == [
        ("F02", "female", "surprised", "2", "3"),
        ("M10", "male", "angry", "10", "5"),
    ]


def test_shemo_takes_text_from_the_transcripts(tmp_path, make_files):
    make_files(
        tmp_path, ["female/F03S02.wav", "male/M02F01.wav", "male/M02X01.wav", "transcript/final text/F03S02.ort"]
    )
    (tmp_path / "transcript/final text/F03S02.ort").write_bytes("\ufeff\u200fسلام\u200e\n".encode())
    table = prepare_corpus("shemo", tmp_path).table
    assert table.select("id", "speaker", "gender", "emotion", "text").rows() == [
        ("F03S02", "F03", "female", "sad", "سلام"),
        ("M02F01", "M02", "male", "fearful", None),
    ]


def test_aesdd_reads_takes_and_leaves_the_broken_file_out(tmp_path, make_files):
    names = ["a06 (5)b", "s05 (3)", "f10 (01)", "d11 (2)", "a06"]
    table = prepare_corpus("aesdd", make_files(tmp_path / "anger", [f"{name}.wav" for name in names]).parent).table
    assert table.select("id", "speaker", "emotion", "sentence", "gender").rows() == [
        ("a06-5b", "5", "angry", "06", None),
        ("d11-2", "2", "disgusted", "11", None),
        ("f10-01", "1", "fearful", "10", None),
    ]


def test_mesd_words_lose_their_underscores(tmp_path, make_files):
    table = prepare_corpus("mesd", make_files(tmp_path, ["Fear_M_A_por_favor.wav", "Neutral_C_B_lápiz.flac"])).table
    assert table.select("speaker", "gender", "voice", "words", "text").rows() == [
        ("male", "male", "male", "A", "por favor"),
        ("child", None, "child", "B", "lápiz"),
    ]


def test_jl_takes_text_from_beside_the_recording_and_a_recording_once(tmp_path, make_files):
    stems = [
        f"{speaker}_{emotion}_{sentence}{letter}_{number}"
        for speaker, emotion, sentence, letter, number in itertools.product(
            ("male1", "female2"), ("concerned", "sad"), range(1, 16), "ab", (1, 2)
        )
    ]
    make_files(tmp_path, [f"Raw/JL(wav+txt)/{stem}.{ending}" for stem in stems for ending in ("wav", "txt")])
    make_files(tmp_path, [f"Checked/{stems[0]}.wav"])
    (tmp_path / f"Raw/JL(wav+txt)/{stems[3]}.txt").write_text("Carl leaps into a jeep.\n")
    manifest = prepare_corpus("jl", tmp_path)
    assert counts(manifest) == {"concerned": 120, "sad": 120}
    row = manifest.select([stems[3]]).table.row(0, named=True)
    assert (row["text"], row["sentence"], row["take"]) == ("Carl leaps into a jeep.", "1", "b_2")
    assert (row["speaker"], row["gender"], row["session"]) == ("male1", "male", None)


def test_urdu_keeps_a_speaker_over_the_emotions(tmp_path, make_files):
    table = prepare_corpus("urdu", make_files(tmp_path, ["Angry/SM1_F10_A010.wav", "Sad/SM1_F2_S2.mp3"])).table
    assert table.select("speaker", "gender", "emotion").rows() == [("SM1", "male", "angry"), ("SM1", "male", "sad")]


# ESD


ESD = ["0001/Angry/train/0001_000351.wav", "0011/Sad/evaluation/0011_001051.wav", "0020/Surprise/test/0020_001750.wav"]


def test_esd_gives_language_part_and_sentence(tmp_path, make_files):
    table = prepare_corpus("esd", make_files(tmp_path, [*ESD, "0001/Angry/0001_001751.wav", "0021_000001.wav"])).table
    assert table.select("speaker", "gender", "language", "emotion", "part", "sentence").rows() == [
        ("0001", "female", "zh", "angry", "train", "1"),
        ("0011", "male", "en", "sad", "dev", "1"),
        ("0020", "male", "en", "surprised", "test", "350"),
    ]


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("gb18030", "0001_000351\t打远一看\t生气"),
        ("utf-16", "0001_000351\t打远一看\t生气"),
        ("utf-8", "0001_000351\t打远一看\t生气"),
        ("utf-8-sig", "0001_000351\t打远一看\t生气"),
    ],
)
def test_esd_transcripts_come_in_several_encodings(tmp_path, make_files, encoding, line):
    make_files(tmp_path, ESD)
    (tmp_path / "0001/0001.txt").write_bytes(f"{line}\r\n0001_000352 no tabs\n".encode(encoding))
    (tmp_path / "0011/0011.txt").write_bytes("0011_001051\tIt’s late.\tSad\n".encode("cp1252"))
    texts = prepare_corpus("esd", tmp_path).table["text"].to_list()
    assert texts == ["打远一看", "It’s late.", None]


def test_an_esd_file_in_the_folder_of_another_emotion_is_named(tmp_path, make_files):
    make_files(tmp_path, ["0001/Happy/0001_000351.wav"])
    with pytest.raises(InputError, match=r"0001_000351\.wav: lies in Happy, but by its number it is Angry"):
        prepare_corpus("esd", tmp_path)
