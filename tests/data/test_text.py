"""Text as a target: what normalising keeps, and ids that turn back into text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.text import WAV2VEC2, CharTokenizer, build_tokenizer, normalise
from serkit.errors import InputError

BLANK, UNKNOWN, SPACE = 0, 3, 4
SAMPLES = {
    "de": ["Der Lappen liegt auf dem Eisschrank.", "Das schwarze Blatt Papier befindet sich da oben – über dem Ofen."],
    "it": ["Perché no? È già sera!", "La casa forte vuole il pane, l'uomo no."],
    "ru": ["Ёлка стоит во дворе.", "Мой дядя самых честных правил…"],
    "ja": ["きょうは、いい天気です。", "ガラスのコップ", "東京へ行きます"],
    "hi": ["नमस्ते दुनिया"],
}


def legacy(text):
    return normalise(text, "legacy")


def written(text, mode="legacy"):
    return "".join(WAV2VEC2.symbols[id] for id in WAV2VEC2.targets(text, mode))


# Normalising as the paper did


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("OH NO .", "OH|NO|"),  # the full stop goes after whitespace was collapsed
        ("OH . I KNOW .", "OH||I|KNOW|"),
        ("  OH \t NO\n", "OH|NO"),
        ("{LG} OH .", "LG|OH|"),
        ("IT'S A {BR}", "IT'S|A|BR"),
        ("Oh no", "O|"),  # case counts
        ("A-B C_D", "AB|CD"),
        ("A|B", "A|B"),  # the delimiter is in the vocabulary
        ("É 3", "|"),
        (".", ""),
    ],
)
def test_legacy_targets_follow_the_original_order_of_operations(text, target):
    assert written(text) == target


@pytest.mark.parametrize("text", [None, float("nan"), 3, ["A"]])
def test_legacy_text_that_is_no_string_is_the_word_null(text):
    assert written(text) == "NULL"


def test_legacy_ids_are_those_of_the_published_vocabulary():
    assert WAV2VEC2.targets("THE QUICK 'JZX .", "legacy") == [
        6, 11, 5, 4, 30, 16, 10, 19, 26, 4, 27, 29, 31, 28, 4
    ]  # fmt: skip
    assert (len(WAV2VEC2), WAV2VEC2.blank) == (32, BLANK)


# Clean text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("OH NO .", "OH NO"),
        ("Oh . I know .", "OH I KNOW"),
        ("[LAUGHTER] Oh{LG}no <breath> [x]", "OH NO"),
        ("{LG}", ""),
        ("{{LG} oh}", "OH"),
        ("well-known -- and/or", "WELL KNOWN AND OR"),
        ("it’s ' mine", "IT'S MINE"),
        ("Café, naïve: ＡＢ", "CAFE NAIVE AB"),
        ("Cafe\u0301", "CAFE"),
        ("a|b", "A B"),
        ("so\u00adft", "SOFT"),
        ("...", ""),
        ("3 x", "X"),
    ],
)
def test_clean_text_is_what_was_said(text, clean):
    assert normalise(text) == clean


@pytest.mark.parametrize("text", [None, "", "  ", float("nan"), 7])
def test_an_utterance_without_text_has_no_clean_target(text):
    assert WAV2VEC2.targets(text, "clean") == []


@given(st.text(max_size=40))
def test_clean_text_is_stable_and_turns_to_ids_and_back(text):
    clean = normalise(text)
    assert normalise(clean) == clean
    assert clean == clean.strip() and "  " not in clean
    ids = WAV2VEC2.encode(clean)
    assert not {BLANK, 1, 2, UNKNOWN} & set(ids)
    assert WAV2VEC2.decode(ids, merge=False) == clean


@given(st.text(alphabet=" .AaB{}'|é\t-", max_size=40))
def test_legacy_text_only_loses_characters(text):
    left = iter(" ".join(text.split()))
    assert all(character in left for character in legacy(text))
    assert UNKNOWN not in WAV2VEC2.targets(text, "legacy")


def test_an_unknown_mode_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="no text mode 'cleen': did you mean 'clean'"):
        normalise("A", "cleen")
    with pytest.raises(InputError, match="no text mode"):
        build_tokenizer(["a"], "raw")


# Ids and back


@pytest.mark.parametrize(
    ("ids", "merged", "plain"),
    [
        ([15, 15], "L", "LL"),
        ([15, 0, 15], "LL", "LL"),
        ([15, 0, 0, 15, 15], "LL", "LLL"),
        ([0, 0], "", ""),
        ([4, 7, 4, 4, 7, 4], "A A", "A  A"),
        ([7, 4, 0, 4, 7], "A  A", "A  A"),
        ([1, 7, 2, 3, 7], "AA", "AA"),  # special symbols part repeats, as blanks do
        ([7, -100, -100], "A", "A"),
        ([], "", ""),
    ],
)
def test_decoding_merges_repeats_that_no_blank_parts(ids, merged, plain):
    assert WAV2VEC2.decode(ids, merge=True) == merged
    assert WAV2VEC2.decode(ids, merge=False) == plain


@given(st.lists(st.integers(-1, 31), max_size=60), st.booleans())
def test_decoded_text_never_holds_blanks_or_special_symbols(ids, merge):
    text = WAV2VEC2.decode(ids, merge)
    assert set(text) <= set("ETAONIHSRDLUMWCFGYPBVK'XJQZ ")
    assert text == text.strip()


@given(st.text(alphabet="AB'L ", max_size=20), st.data())
def test_any_alignment_of_a_text_decodes_to_it(text, data):
    """Repeat ids, and put blanks anywhere, one of them between equal neighbours: the greedy path says the same."""
    text, frames, last = normalise(text), [], None
    for id in WAV2VEC2.encode(text):
        frames += [BLANK] * data.draw(st.integers(int(id == last), 2))
        frames += [id] * data.draw(st.integers(1, 3))
        last = id
    assert WAV2VEC2.decode(frames, merge=True) == text


def test_a_character_outside_the_vocabulary_becomes_unknown():
    assert WAV2VEC2.encode("Aé") == [7, UNKNOWN]
    assert CharTokenizer(("<pad>", "|", "a")).encode("ab a") == [2, 1, 2]  # none to become


# Vocabularies


@pytest.mark.parametrize("language", SAMPLES)
def test_a_vocabulary_of_any_language_writes_its_own_texts(language):
    tokenizer = build_tokenizer(SAMPLES[language])
    assert tokenizer.symbols[:5] == ("<pad>", "<s>", "</s>", "<unk>", "|")
    assert list(tokenizer.symbols[5:]) == sorted(tokenizer.symbols[5:])
    for text in SAMPLES[language]:
        clean = normalise(text, "clean", tokenizer)
        letters = [character for character in text.lower() if character.isalnum()]
        assert [character for character in clean if character.isalnum()] == letters
        ids = tokenizer.encode(clean)
        assert UNKNOWN not in ids
        assert tokenizer.decode(ids, merge=False) == clean


def test_what_the_samples_become():
    texts = {language: normalise(texts[0], "clean", build_tokenizer(texts)) for language, texts in SAMPLES.items()}
    assert texts == {
        "de": "der lappen liegt auf dem eisschrank",
        "it": "perché no è già sera",
        "ru": "ёлка стоит во дворе",
        "ja": "きょうは いい天気です",
        "hi": "नमस्ते दुनिया",
    }


def test_the_order_and_composition_of_texts_do_not_change_a_vocabulary():
    texts = ["Perché", "Über", "no {LG}"]
    decomposed = ["no", None, "U\u0308ber", float("nan"), "Perche\u0301"]
    assert build_tokenizer(texts) == build_tokenizer(decomposed)
    assert build_tokenizer(texts).symbols[5:] == tuple(sorted("perchéübno"))


def test_a_legacy_vocabulary_keeps_every_character_as_it_stands():
    tokenizer = build_tokenizer(["Oh no .", "a|b"], "legacy")
    assert tokenizer.symbols[5:] == tuple(sorted("Ohno.ab"))
    assert tokenizer.decode(tokenizer.targets("Oh no .", "legacy"), merge=False) == "Oh no ."


@pytest.mark.parametrize(("symbols", "said"), [("AB", "AB"), ("ab", "ab"), ("aB", "aB"), ("天", "天")])
def test_text_takes_the_case_of_the_vocabulary(symbols, said):
    tokenizer = CharTokenizer(("<pad>", "|", *symbols))
    assert normalise(said.swapcase() if symbols in ("AB", "ab") else said, "clean", tokenizer) == said


def test_a_letter_that_training_never_saw_becomes_its_plain_form_or_nothing():
    tokenizer = build_tokenizer(["perche no"])
    assert normalise("Perché Ωno", "clean", tokenizer) == "perche no"


@pytest.mark.parametrize("texts", [[], [None], ["..."], ["{LG}"]])
def test_no_text_makes_no_vocabulary(texts):
    with pytest.raises(InputError, match="the training part has no text"):
        build_tokenizer(texts)


@pytest.mark.parametrize("symbols", [("<pad>", "A"), ("|", "A"), ("<pad>", "|", "A", "A"), ("<pad>", "|", "")], ids=str)
def test_a_vocabulary_without_blank_or_delimiter_or_with_doubles_is_refused(symbols):
    with pytest.raises(InputError, match="vocabulary: "):
        CharTokenizer(symbols)


# Files


def test_a_saved_vocabulary_is_a_list_and_reads_back(tmp_path):
    tokenizer = build_tokenizer(SAMPLES["ja"])
    tokenizer.save(tmp_path / "v.json")
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == list(tokenizer.symbols)
    assert CharTokenizer.load(tmp_path / "v.json") == tokenizer


def test_a_hugging_face_vocabulary_keeps_its_ids(tmp_path):
    vocabulary = {"ü": 2, "|": 1, "a": 0, "[UNK]": 3, "[PAD]": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = CharTokenizer.load(tmp_path / "vocab.json")
    assert {symbol: id for id, symbol in enumerate(tokenizer.symbols)} == vocabulary
    assert tokenizer.blank == 4
    assert tokenizer.targets("Üa é") == [2, 0] and tokenizer.encode("a é") == [0, 1, 3]
    assert tokenizer.decode([2, 2, 4, 2, 1, 0, 3], merge=True) == "üü a"


@pytest.mark.parametrize(
    "content", ["", "{oops", "3", "[1, 2]", '{"a": 0, "b": 2}', '{"a": 0, "b": null}', '{"a": "0"}', '["A"]']
)
def test_a_file_that_is_no_vocabulary_is_named_in_one_line(tmp_path, content):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(InputError, match=r"v\.json: ") as caught:
        CharTokenizer.load(tmp_path / "v.json")
    assert "\n" not in str(caught.value)


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json"):
        CharTokenizer.load(tmp_path / "gone.json")


def test_text_needs_neither_polars_nor_torch():
    import subprocess
    import sys

    code = "import sys, serkit.data.text; print([n for n in ('polars', 'torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
