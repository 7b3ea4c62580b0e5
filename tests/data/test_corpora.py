"""Corpora: contracts over the registry, the real corpora where at hand, and generated folders in original layouts."""

from __future__ import annotations

import csv
import itertools
import warnings
from collections import Counter

import numpy as np
import polars as pl
import pytest

from serkit.data.audio import read_audio
from serkit.data.corpora import find_corpus, list_corpora, prepare_corpus, recordings
from serkit.data.corpora.iemocap import IEMOCAP4
from serkit.data.manifest import SCHEMA
from serkit.errors import InputError

CLASSES = frozenset(
    [
        "angry",
        "happy",
        "sad",
        "neutral",
        "fearful",
        "disgusted",
        "surprised",
        "bored",
        "calm",
        "excited",
        "frustrated",
        "other",
        "undecided",
    ]
)
CORPORA = {corpus.name: corpus for corpus in list_corpora()}


def make_files(root, names):
    """Make empty files: corpora are read from file names, never from audio."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def counts(manifest, column="emotion"):
    return dict(Counter(manifest.table[column].to_list()))


def column(manifest, name):
    return dict(manifest.table.select("id", name).rows())


# The registry


def test_the_corpora_are_listed_by_name():
    few = "cremad emodb emovo iemocap ravdess savee tess"
    more = "aesdd cafe emozionalmente esd jl meld mesd mosei mosi msppodcast nemo shemo subesco urdu"
    assert list(CORPORA) == sorted(f"{few} {more}".split())


@pytest.mark.parametrize("corpus", CORPORA.values(), ids=CORPORA)
def test_a_corpus_says_what_it_is(corpus):
    assert find_corpus(corpus.name) is corpus
    assert corpus.name == corpus.name.lower()
    assert corpus.name.isalnum()
    assert len(corpus.language) == 2
    assert all((corpus.title, corpus.licence, corpus.source, corpus.layout, corpus.read.__doc__))
    assert corpus.utterances > corpus.speakers > 1


@pytest.mark.parametrize("name", CORPORA)
def test_a_folder_that_is_missing_or_holds_something_else_is_named_with_the_layout(tmp_path, name):
    make_files(tmp_path / "there", ["music.wav", "._03a01Fa.wav", "notes.txt"])
    for root, reason in ((tmp_path / "gone", "no such folder"), (tmp_path / "there", "holds no utterance")):
        with pytest.raises(InputError) as caught:
            prepare_corpus(name, root)
        assert str(caught.value).startswith(f"{root}: {reason}")
        assert CORPORA[name].layout in str(caught.value)


def test_an_unknown_corpus_gets_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'ravdess'"):
        find_corpus("ravdes")
    with pytest.raises(InputError, match="known: aesdd, cafe, cremad"):
        find_corpus("zzz")


def test_recordings_are_sorted_of_any_ending_and_never_hidden(tmp_path):
    make_files(tmp_path, ["b/2.FLAC", "a.wav", "b/._2.wav", "readme.txt", "c.m4a"])
    assert [path.name for path in recordings(tmp_path)] == ["a.wav", "2.FLAC", "c.m4a"]


# Real recordings


REAL = {
    "ravdess": (
        1440,
        24,
        {"neutral": 96, **dict.fromkeys(["calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised"], 192)},
    ),
    "emodb": (
        535,
        10,
        {"angry": 127, "bored": 81, "disgusted": 46, "fearful": 69, "happy": 71, "neutral": 79, "sad": 62},
    ),
    "emovo": (588, 6, dict.fromkeys(["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"], 84)),
}
METADATA_CLASSES = {
    "anger": "angry",
    "boredom": "bored",
    "disgust": "disgusted",
    "fear": "fearful",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprise": "surprised",
}


@pytest.fixture(scope="module")
def prepared(corpus_root):
    made = {}

    def prepare(name):
        if name not in made:
            made[name] = prepare_corpus(name, corpus_root(name))
        return made[name]

    return prepare


@pytest.mark.parametrize("name", REAL)
def test_a_real_corpus_is_complete(prepared, name):
    manifest, (utterances, speakers, classes) = prepared(name), REAL[name]
    assert len(manifest) == utterances
    assert manifest.table["speaker"].n_unique() == speakers == CORPORA[name].speakers
    assert counts(manifest) == classes
    assert set(manifest.table.group_by("speaker").agg(pl.col("gender").n_unique())["gender"]) == {1}
    assert Counter(manifest.table.unique("speaker")["gender"]) == {"female": speakers // 2, "male": speakers // 2}


@pytest.mark.parametrize("name", REAL)
def test_a_real_corpus_is_sound_and_every_field_is_filled(prepared, name):
    manifest = prepared(name)
    assert manifest.validate() == []
    for filled in ("id", "audio", "corpus", "speaker", "gender", "language", "emotion"):
        assert manifest.table[filled].null_count() == 0
    assert set(manifest.table["emotion"]) <= CLASSES
    assert set(manifest.table["corpus"]) == {name}
    assert set(manifest.table["language"]) == {CORPORA[name].language}


@pytest.mark.parametrize("name", REAL)
def test_a_real_corpus_agrees_with_its_metadata(prepared, corpus_root, name):
    root = corpus_root(name)
    with (root / "metadata.csv").open(encoding="utf-8") as file:
        expected = {
            str((root / row["file"]).resolve()): (
                METADATA_CLASSES.get(row["emotion"], row["emotion"]),
                row["speaker"].removeprefix("Actor_"),
                row["gender"],
            )
            for row in csv.DictReader(file)
        }
    rows = prepared(name).table.select("audio", "emotion", "speaker", "gender").rows()
    assert {audio: tuple(rest) for audio, *rest in rows} == expected


@pytest.mark.parametrize("name", REAL)
def test_a_real_corpus_may_have_another_ending_and_other_folders(prepared, tmp_path, name):
    some = prepared(name).table.gather_every(97)
    for number, audio in enumerate(some["audio"]):
        folder = tmp_path / str(number % 3)
        folder.mkdir(exist_ok=True)
        target = folder / audio.rsplit("/", 1)[1].replace(".flac", ".wav")
        target.symlink_to(audio)
    again = prepare_corpus(name, tmp_path)
    kept = [name for name in some.columns if name != "audio"]
    assert again.table.select(kept).rows() == some.select(kept).rows()
    assert np.array_equal(read_audio(again.table["audio"][0]), read_audio(some["audio"][0]))


# Generated folders in the original layouts


def ravdess_names():
    """Actor 18 did not sing, neutral is never strong, and song has no disgust or surprise."""
    for channel, emotion, intensity, statement, repetition, actor in itertools.product(
        ("01", "02"), range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25)
    ):
        song = channel == "02"
        if (emotion, intensity) == (1, 2) or (song and (emotion > 6 or actor == 18)):
            continue
        folder = f"Audio_{'Song' if song else 'Speech'}_Actors_01-24/Actor_{actor:02}"
        yield f"{folder}/03-{channel}-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}.wav"


def test_ravdess_has_speech_and_song(tmp_path):
    manifest = prepare_corpus("ravdess", make_files(tmp_path, ravdess_names()))
    assert len(manifest) == CORPORA["ravdess"].utterances == 2452
    assert counts(manifest, "channel") == {"speech": 1440, "song": 1012}
    song = manifest.table.filter(pl.col("channel") == "song")
    assert song["speaker"].n_unique() == 23
    assert set(song["emotion"]) == {"neutral", "calm", "happy", "sad", "angry", "fearful"}
    assert counts(manifest) == {
        "neutral": 188,
        **dict.fromkeys(("calm", "happy", "sad", "angry", "fearful"), 376),
        **dict.fromkeys(("disgusted", "surprised"), 192),
    }


TESS_FOLDERS = {
    "angry": ("OAF_angry", "YAF_angry"),
    "disgust": ("OAF_disgust", "YAF_disgust"),
    "fear": ("OAF_Fear", "YAF_fear"),
    "happy": ("OAF_happy", "YAF_happy"),
    "neutral": ("OAF_neutral", "YAF_neutral"),
    "ps": ("OAF_Pleasant_surprise", "YAF_pleasant_surprised"),
    "sad": ("OAF_Sad", "YAF_sad"),
}


def tess_names(words):
    for emotion, folders in TESS_FOLDERS.items():
        for folder, word in itertools.product(folders, words):
            odd = (folder, word) == ("OAF_neutral", "bite")
            yield f"{folder}/{'OA' if odd else folder[:3]}_{word}_{emotion}.wav"


def test_tess_is_read_in_its_folders(tmp_path):
    words = ["bite", "back", *map("".join, itertools.product("bcdfg", "aeiou", "lmnprstz"))][:200]
    manifest = prepare_corpus("tess", make_files(tmp_path / "TESS" / "TESS", tess_names(words)))
    assert len(manifest) == CORPORA["tess"].utterances
    classes = ("angry", "disgusted", "fearful", "happy", "neutral", "surprised", "sad")
    assert counts(manifest) == dict.fromkeys(classes, 400)
    assert counts(manifest, "speaker") == {"OAF": 1400, "YAF": 1400}
    assert set(manifest.table["gender"]) == {"female"}
    assert column(manifest, "text")["YAF_back_ps"] == "Say the word back."
    assert column(manifest, "speaker")["OA_bite_neutral"] == "OAF"


def test_a_second_copy_of_tess_inside_the_first_is_left_out(tmp_path):
    for inner in ("set", "set/set"):
        make_files(tmp_path / inner, tess_names(["back"]))
    assert len(prepare_corpus("tess", tmp_path)) == 14


@pytest.mark.parametrize(
    "name", ["OAF_back_pleasant_surprise", "YAF_back_pleasant_surprised", "yaf_back_PS", "OAF_Back_ps"]
)
def test_tess_file_names_may_spell_surprise_in_several_ways(tmp_path, name):
    table = prepare_corpus("tess", make_files(tmp_path, [f"{name}.flac"])).table
    assert table.select("emotion", "text", "speaker").row(0) == ("surprised", "Say the word back.", name[:3].upper())


SAVEE_NUMBERS = {**dict.fromkeys(("a", "d", "f", "h", "sa", "su"), 15), "n": 30}


@pytest.mark.parametrize("layout", ["AudioData/{speaker}/{clip}.wav", "ALL/{speaker}_{clip}.wav"])
def test_savee_is_the_same_in_folders_and_flat(tmp_path, layout):
    clips = [f"{letter}{number + 1:02}" for letter, total in SAVEE_NUMBERS.items() for number in range(total)]
    speakers = ("DC", "JE", "JK", "KL")
    names = [layout.format(speaker=speaker, clip=clip) for speaker in speakers for clip in clips]
    manifest = prepare_corpus("savee", make_files(tmp_path, [*names, "AudioData/Info/a01.wav"]))
    assert len(manifest) == CORPORA["savee"].utterances
    classes = ("angry", "disgusted", "fearful", "happy", "sad", "surprised")
    assert counts(manifest) == {"neutral": 120, **dict.fromkeys(classes, 60)}
    assert counts(manifest, "speaker") == dict.fromkeys(speakers, 120)
    assert set(manifest.table["gender"]) == {"male"}
    assert column(manifest, "emotion")["JE_su03"] == "surprised"


CREMAD_FILES = ["AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_IEO_FEA_HI.wav", "AudioWAV/1040_ITH_SAD_X.wav"]


def test_cremad_gives_text_and_intensity_and_prefers_wav(tmp_path):
    make_files(tmp_path, [*CREMAD_FILES, "AudioMP3/1001_DFA_ANG_XX.mp3", "AudioMP3/1003_TSI_NEU_XX.mp3"])
    table = prepare_corpus("cremad", tmp_path).table
    assert table.select("id", "speaker", "emotion", "intensity", "text", "gender").rows() == [
        ("1001_DFA_ANG_XX", "1001", "angry", "XX", "Don't forget a jacket.", None),
        ("1002_IEO_FEA_HI", "1002", "fearful", "HI", "It's eleven o'clock.", None),
        ("1003_TSI_NEU_XX", "1003", "neutral", "XX", "The surface is slick.", None),
        ("1040_ITH_SAD_X", "1040", "sad", "XX", "I think I have a doctor's appointment.", None),
    ]
    assert [name.rsplit(".", 1)[1] for name in table["audio"]] == ["wav", "wav", "mp3", "wav"]


def test_cremad_takes_genders_and_voice_only_votes_from_its_tables(tmp_path):
    make_files(tmp_path, CREMAD_FILES)
    (tmp_path / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Not Hispanic\n"
    )
    head = ["localid", "pos", "ans", "ttr", "queryType", "numTries", "clipNum", "questNum", "subType", "clipName"]
    head += ["sessionNums", "respEmo", "respLevel", "dispEmo", "dispVal", "dispLevel"]
    with (tmp_path / "finishedResponses.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["", *head])
        writer.writeheader()
        for kind, clip, answer in [
            (1, 1, "A"),
            (2, 1, "H"),
            (3, 1, "H"),
            (1, 1, "N"),
            (1, 2, "F"),
            (1, 9, "S"),
            (1, 2, ""),
        ]:
            name = f"100{clip}_{'DFA_ANG_XX' if clip == 1 else 'IEO_FEA_HI'}"
            writer.writerow({"queryType": kind, "clipName": name, "respEmo": answer, "ttr": 900, "respLevel": 50})
    manifest = prepare_corpus("cremad", tmp_path)
    assert list(column(manifest, "votes").values()) == [["angry", "neutral"], ["fearful"], None]
    assert list(column(manifest, "gender").values()) == ["male", "female", None]


def test_a_cremad_table_that_was_not_downloaded_is_named(tmp_path):
    make_files(tmp_path, CREMAD_FILES)
    (tmp_path / "finishedResponses.csv").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    )
    with pytest.raises(InputError, match=r"finishedResponses\.csv: is not CREMA-D's table with the columns queryType"):
        prepare_corpus("cremad", tmp_path)


@pytest.mark.parametrize("name", ["tess", "savee", "cremad"])
def test_file_names_as_they_occur_give_the_labels_and_speakers_of_emobox(tmp_path, reference_file, name):
    table = pl.read_csv(reference_file(f"emobox/tsv/{name}.tsv"), separator="\t", infer_schema=False)
    manifest = prepare_corpus(name, make_files(tmp_path, table["wav"]))
    corpus = CORPORA[name]
    assert len(manifest) == corpus.utterances
    assert manifest.table["speaker"].n_unique() == corpus.speakers
    stems = {"Fear": "fear", "Surprise": "surpris", "Disgust": "disgust", "Angry": "angry"}
    expected = {
        wav.rsplit("/", 1)[1]: (emotion, speaker)
        for wav, emotion, speaker in table.select("wav", "emo", "speaker_stm").rows()
    }
    for audio, emotion, speaker in manifest.table.select("audio", "emotion", "speaker").rows():
        theirs, who = expected[audio.rsplit("/", 1)[1]]
        assert emotion.startswith(stems.get(theirs, theirs.lower()))
        assert speaker == who


# IEMOCAP


EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[1.0000 - 2.5000]\tSes02F_impro03_M001\texc\t[4.0000, 3.5000, 3.0000]
C-E2:\tExcited;\t()
C-E3:\tHappiness; Surprise;\t()
C-E4:\tExcited;\t()
C-M1:\tExcited; Other;\t(eager)
A-E3:\tval 4; act 4; dom  3;\t()

[3.0000 - 3.5000]\tSes02F_impro03_F002\txxx\t[1.0000, 5.0000, 5.5000]
C-E2:\tFrustration;\t()
C-E3:\tNeutral;\t()
A-E3:\tval 1; act 5; dom  5;\t()
"""
TRANSCRIPT = """Ses02F_impro03_M001 [001.0000-002.5000]: The kettle sings before breakfast.
Ses02F_impro03_F002 [003.0000-003.5000]: [LAUGHTER] Seven green umbrellas?
Ses02F_impro03_FXX0 [004.0000-004.1000]: Mm.
M: A line without a name.
"""


def make_session(root, evaluation=EVALUATION, wavs=("M001", "F002")):
    session = root / "Session2"
    make_files(session, [f"sentences/wav/Ses02F_impro03/Ses02F_impro03_{wav}.wav" for wav in wavs])
    make_files(session, ["dialog/wav/Ses02F_impro03.wav", "dialog/transcriptions/Ses02F_impro03.txt"])
    (session / "dialog/transcriptions/Ses02F_impro03.txt").write_text(TRANSCRIPT)
    if evaluation:
        make_files(
            session,
            ["dialog/EmoEvaluation/Attribute/Ses02F_impro03_atr.txt", "dialog/EmoEvaluation/._Ses02F_impro03.txt"],
        )
        (session / "dialog/EmoEvaluation/Ses02F_impro03.txt").write_text(evaluation)
    return root


@pytest.mark.parametrize("folder", ["", "IEMOCAP_full_release"])
def test_iemocap_gives_talker_label_affect_votes_and_text(tmp_path, folder):
    make_session(tmp_path / folder)
    shown, undecided = reversed(list(prepare_corpus("iemocap", tmp_path).table.iter_rows(named=True)))
    audio = tmp_path / folder / "Session2/sentences/wav/Ses02F_impro03/Ses02F_impro03_M001.wav"
    assert shown == {
        **dict.fromkeys(SCHEMA),
        "id": "Ses02F_impro03_M001",
        "audio": str(audio),
        "corpus": "iemocap",
        "speaker": "02M",
        "session": "2",
        "gender": "male",
        "language": "en",
        "text": "The kettle sings before breakfast.",
        "emotion": "excited",
        "valence": 0.75,
        "arousal": 0.625,
        "dominance": 0.5,
        "votes": ["excited", "happy", "excited", "excited"],
        "agreement": "partial",
        "recording": "Ses02F",
        "scenario": "impro",
    }
    assert (undecided["emotion"], undecided["votes"]) == ("undecided", ["frustrated", "neutral"])
    assert (undecided["speaker"], undecided["gender"]) == ("02F", "female")
    assert undecided["text"] == "[LAUGHTER] Seven green umbrellas?"
    assert (undecided["valence"], undecided["arousal"]) == (0.0, 1.0)
    assert undecided["dominance"] == 1.0  # a mean above the scale is clipped


@pytest.mark.parametrize(
    ("choices", "agreement"),
    [
        ("Sadness; Anger;|Anger; Sadness;|Sadness; Anger;|Neutral state;", "full"),
        ("Sadness;|Sadness;|Sadness; Anger;", "partial"),
        ("Excited;|Happiness;|Excited;", "partial"),
    ],
)
def test_iemocap_agreement_is_that_of_the_first_three_and_of_all_their_choices(tmp_path, choices, agreement):
    head = EVALUATION.split("C-E2")[0]
    lines = [f"C-E{number}:\t{each}\t()" for number, each in enumerate(choices.split("|"), 1)]
    make_session(tmp_path, head + "\n".join(lines) + "\n", wavs=("M001",))
    (row,) = prepare_corpus("iemocap", tmp_path).table.iter_rows(named=True)
    assert row["agreement"] == agreement and len(row["votes"]) == len(lines)


def test_an_iemocap_recording_without_annotation_has_no_emotion(tmp_path):
    make_session(tmp_path, wavs=("M001", "F002", "F003"))
    manifest = prepare_corpus("iemocap", tmp_path)
    assert column(manifest, "emotion")["Ses02F_impro03_F003"] is None
    assert column(manifest, "votes")["Ses02F_impro03_F003"] is None


def test_iemocap_annotations_without_a_recording_are_left_out_with_a_warning(tmp_path):
    make_session(tmp_path, wavs=("M001",))
    with pytest.warns(UserWarning, match="1 annotated utterances have no recording, the first is Ses02F_impro03_F002"):
        assert prepare_corpus("iemocap", tmp_path).ids == ["Ses02F_impro03_M001"]


def test_an_iemocap_session_without_annotations_is_named(tmp_path):
    make_session(tmp_path, evaluation=None)
    with pytest.raises(
        InputError, match=r"Ses02F_impro03: no dialog/EmoEvaluation/Ses02\*\.txt .*session 2 has no labels"
    ):
        prepare_corpus("iemocap", tmp_path)


def test_an_unknown_iemocap_label_is_named_with_its_file(tmp_path):
    make_session(tmp_path, evaluation=EVALUATION.replace("\texc\t", "\tjoy\t"))
    with pytest.raises(InputError, match=r"Ses02F_impro03\.txt: unknown label 'joy' \(known: ang, dis"):
        prepare_corpus("iemocap", tmp_path)


@pytest.fixture(scope="module")
def iemocap_published(tmp_path_factory, reference_file):
    """The 5531 published utterances in the original layout, some happy ones as excited, with other labels between."""
    root, dialogues = tmp_path_factory.mktemp("iemocap"), {}
    codes = {"anger": ["ang"], "happiness": ["hap", "exc"], "neutral": ["neu"], "sadness": ["sad"]}
    with reference_file("cai/iemocap_folds_labels.csv").open(encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            code = codes[row["emotion"]][number % len(codes[row["emotion"]])]
            dialogues.setdefault(row["utterance_id"].rsplit("_", 1)[0], []).append((row["utterance_id"], code))
    for number, (dialogue, turns) in enumerate(dialogues.items()):
        turns.append((f"{dialogue}_F999", ("fru", "sur", "fea", "dis", "oth", "xxx")[number % 6]))
        session = root / f"Session{dialogue[4]}"
        make_files(session, [f"sentences/wav/{dialogue}/{id}.wav" for id, _ in turns])
        lines = [
            f"[0.0000 - 1.0000]\t{id}\t{code}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tOther;\t()\n" for id, code in turns
        ]
        (session / "dialog/EmoEvaluation").mkdir(parents=True, exist_ok=True)
        (session / f"dialog/EmoEvaluation/{dialogue}.txt").write_text("\n".join(lines))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return prepare_corpus("iemocap", root), len(dialogues)


def test_iemocap4_is_the_published_subset(iemocap_published):
    everything, others = iemocap_published
    assert len(everything) == 5531 + others
    manifest = everything.with_labels(IEMOCAP4)
    assert counts(manifest) == {"neutral": 1708, "happy": 1636, "angry": 1103, "sad": 1084}
    assert counts(manifest, "session") == {"1": 1085, "2": 1023, "3": 1151, "4": 1031, "5": 1241}
    assert counts(manifest, "scenario") == {"impro": 2943, "script": 2588}
    assert counts(manifest, "speaker") == {
        "01F": 528,
        "01M": 557,
        "02F": 481,
        "02M": 542,
        "03F": 522,
        "03M": 629,
        "04F": 528,
        "04M": 503,
        "05F": 590,
        "05M": 651,
    }


def test_both_talkers_are_heard_in_every_iemocap_recording(iemocap_published):
    table = iemocap_published[0].table
    assert table.group_by("recording").agg(pl.col("speaker").n_unique())["speaker"].to_list() == [2] * 10


def test_iemocap_labels_agree_with_the_published_talkers_and_recordings(iemocap_published, reference_file):
    expected = pl.read_csv(reference_file("cai/iemocap_folds_labels.csv"))
    table = iemocap_published[0].select(expected["utterance_id"]).table
    assert table["speaker"].to_list() == expected["talker"].to_list()
    assert table["recording"].to_list() == expected["recording"].to_list()
    assert table["scenario"].to_list() == expected["scenario"].to_list()
