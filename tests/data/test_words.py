"""Words of transcripts: what cleaning keeps, and numbers that go on meaning the same words."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.words import PAUSES, Vocabulary, clean_word, clean_words, split_words
from serkit.errors import InputError

WORD = st.text(max_size=8).map(clean_word).filter(lambda word: word not in ("", "<pad>", "<unk>"))
UTTERANCES = st.lists(st.lists(WORD, max_size=8), min_size=1, max_size=8).filter(any)
DELETED = ".,'!?\"()*#:;"


# Cleaning


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("Good!", "good"),
        ("don't", "dont"),
        ("well-known", "well known"),  # one word with a space
        ("and/or", "and or"),
        ('("*#:;.")', ""),
        ("--", ""),
        ("-uh--huh-", "uh huh"),
        ("you’ve", "youve"),
        ("‘Cause", "cause"),
        ("“No…”", "no"),
        ("wait—what", "wait what"),
        ("you\x92ve", "youve"),  # cp1252 read as Latin-1
        ("so\u00adft\u200b", "soft"),
        ("Cafe\u0301", "café"),
        ("$5", "$5"),
        ("[laughs]", "[laughs]"),
        ("UNK", "unk"),
    ],
)
def test_a_token_becomes_a_word(token, word):
    assert clean_word(token) == word


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("Don't", "dont"),
        ("you’ve", "you’ve"),
        ("--", "  "),
        ("-uh--huh", " uh  huh"),
        ("“No…”", "“no…”"),
        ("Cafe\u0301", "cafe\u0301"),
        ("?!", ""),
    ],
)
def test_legacy_cleaning_knows_the_originals_characters_only(token, word):
    assert clean_word(token, legacy=True) == word


@given(st.text(max_size=30))
def test_a_clean_word_is_clean_for_good(token):
    word = clean_word(token)
    assert clean_word(word) == word
    assert not set(word) & set(DELETED + "-/’")
    assert word == " ".join(word.split())


@given(st.text(alphabet=DELETED + "-/aB ", max_size=30))
def test_ascii_cleaning_differs_from_legacy_in_spaces_alone(token):
    assert clean_word(token).split() == clean_word(token, legacy=True).split()


def test_text_is_split_at_white_space():
    assert split_words("Oh  my\tGod, he’s\nlost it. -- Well-known!") == [
        "oh", "my", "god", "hes", "lost", "it", "well known"
    ]  # fmt: skip
    assert split_words("No -- no", legacy=True) == ["no", "  ", "no"]
    assert [split_words(text) for text in (None, "", " ", "?!")] == [[], [], [], []]


def test_listed_tokens_stay_whole_and_pauses_go():
    assert clean_words(["sp", "New York", "SP.", "spa", "sp"], drop=PAUSES) == ["new york", "spa"]
    assert clean_words(["sp"]) == ["sp"]
    assert split_words("it sp works", drop=PAUSES) == ["it", "works"]


# Numbers


TRAINING = [["so", "good", "so"], [], ["well known", "good", "bad"]]


def test_plain_numbers_begin_at_two():
    vocabulary = Vocabulary.build(TRAINING)
    assert vocabulary.words == ("<pad>", "<unk>", "so", "good", "well known", "bad")
    assert vocabulary.encode(["bad", "never", "so", "UNK"]) == [5, 1, 2, 1]


def test_legacy_numbers_are_those_of_the_original():
    """The original begins with {"UNK": 1} and numbers every new word with the count of entries so far."""
    vocabulary = Vocabulary.build(TRAINING, legacy=True)
    assert vocabulary.words == ("UNK", "so", "good", "well known", "bad")
    assert vocabulary.encode(["so", "never", "UNK", "good", "bad"]) == [1, 1, 1, 2, 4]
    assert len(vocabulary) == 5


@given(UTTERANCES)
def test_legacy_numbers_follow_the_original_rule(utterances):
    numbers = {"UNK": 1}
    for words in utterances:
        for word in words:
            numbers.setdefault(word, len(numbers))
    vocabulary = Vocabulary.build(utterances, legacy=True)
    assert len(vocabulary) == len(numbers)
    assert all(vocabulary.encode([word, "Never"]) == [number, 1] for word, number in numbers.items())


def test_only_the_first_words_are_encoded():
    vocabulary = Vocabulary.build(TRAINING)
    assert vocabulary.encode(["so", "good", "bad"], most=2) == [2, 3]
    assert vocabulary.encode(["so"], most=30) == [2]
    assert vocabulary.encode([], most=30) == []


@given(UTTERANCES, st.lists(st.text(max_size=8)), st.booleans())
def test_words_turn_to_ids_and_back(utterances, others, legacy):
    vocabulary = Vocabulary.build(utterances, legacy)
    for words in utterances:
        assert vocabulary.decode(vocabulary.encode(words)) == words
    ids = vocabulary.encode(others)
    assert len(ids) == len(others) and all(0 < id < len(vocabulary) for id in ids)
    assert all(id == 1 for word, id in zip(others, ids, strict=True) if word not in vocabulary.words)


@pytest.mark.parametrize("legacy", [False, True])
def test_text_that_spells_the_special_words_is_unknown(legacy):
    vocabulary = Vocabulary.build([["<pad>", "<unk>", "UNK", "so", "good"]], legacy)
    assert vocabulary.encode(["<pad>", "<unk>", "UNK"]) == [1, 1, 1]
    assert vocabulary.words[-2:] == ("so", "good") and len(vocabulary) == 4 - legacy


@given(UTTERANCES, st.booleans())
def test_ids_are_stable_when_built_again_or_with_more_text(utterances, legacy):
    vocabulary = Vocabulary.build(utterances, legacy)
    assert Vocabulary.build(utterances, legacy) == vocabulary
    assert Vocabulary.build(iter([*utterances, ["Later"]]), legacy).words[:-1] == vocabulary.words


@given(UTTERANCES, st.booleans())
def test_ids_are_stable_when_saved(utterances, legacy):
    vocabulary = Vocabulary.build(utterances, legacy)
    written = json.loads(json.dumps(vocabulary.to_dict()))
    assert Vocabulary.from_dict(written) == vocabulary


def test_padding_is_left_out_of_what_ids_say():
    assert Vocabulary.build(TRAINING).decode([5, 1, 0, 0]) == ["bad", "<unk>"]


# Files


def test_a_saved_vocabulary_reads_back(tmp_path):
    vocabulary = Vocabulary.build([["café", "i’m", "  "]], legacy=True)
    vocabulary.save(tmp_path / "v.json")
    assert "café" in (tmp_path / "v.json").read_text(encoding="utf-8")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == ["v.json"]


@pytest.mark.parametrize("utterances", [[], [[]], [["<pad>"]]])
def test_no_words_make_no_vocabulary(utterances):
    with pytest.raises(InputError, match="the training part has no words"):
        Vocabulary.build(utterances)


@pytest.mark.parametrize(
    ("words", "legacy", "said"),
    [
        (("<pad>", "a"), False, "<pad> and <unk> come first"),
        (("UNK", "a"), False, "plain numbering"),
        (("<pad>", "<unk>", "a"), True, "legacy numbering"),
        (("UNK",), True, "then words"),
        (("<pad>", "<unk>", "a", "b", "a"), False, "'a' is empty or stands more than once"),
        (("<pad>", "<unk>", ""), False, "'' is empty"),
    ],
)
def test_a_wrong_order_of_words_is_refused(words, legacy, said):
    with pytest.raises(InputError, match=said):
        Vocabulary(words, legacy)


@pytest.mark.parametrize(
    "content",
    ["", "{oops", "3", "[]", '{"words": "ab"}', '{"words": ["<pad>", "<unk>", 3]}', '{"words": ["UNK", "a"]}',
     '{"words": ["UNK", "a"], "legacy": 1}'],
)  # fmt: skip
def test_a_file_that_is_no_vocabulary_is_named_in_one_line(tmp_path, content):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(InputError, match=r"v\.json: ") as caught:
        Vocabulary.load(tmp_path / "v.json")
    assert "\n" not in str(caught.value)


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json"):
        Vocabulary.load(tmp_path / "gone.json")


def test_words_need_neither_polars_nor_torch():
    code = "import sys, serkit.data.words; print([n for n in ('polars', 'torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# Corpora


def read_texts(path, column):
    with path.open(encoding="utf-8", newline="") as file:
        return [row[column] for row in csv.DictReader(file)]


def test_the_words_of_mosi(reference_file):
    utterances = [split_words(text) for text in read_texts(reference_file("mosi/mosi_utterances.csv"), "text")]
    assert (len(utterances), sum(map(len, utterances))) == (2199, 27540)
    vocabulary = Vocabulary.build(utterances)
    assert len(vocabulary) == 2 + 3107
    assert vocabulary.words[2:6] == ("anyhow", "it", "was", "really")
    assert not any("sp" in words for words in utterances)


def test_apostrophes_of_either_kind_are_one_word_in_meld(reference_file):
    texts = read_texts(reference_file("meld/train_sent_emo.csv"), "Utterance")
    assert any("don’t" in text for text in texts) and any("don't" in text for text in texts)
    plain = {word for text in texts for word in split_words(text)}
    legacy = {word for text in texts for word in split_words(text, legacy=True)}
    assert "dont" in plain and "don’t" not in plain
    assert {"dont", "don’t"} <= legacy
    assert (len(plain), len(legacy)) == (5971, 6210)
