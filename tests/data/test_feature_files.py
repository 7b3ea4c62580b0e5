"""Feature files: arrays that grow, and the corpus format written, read and refused."""

from __future__ import annotations

import numpy as np
import pytest

from serkit.data.feature_files import (
    FrameFile,
    read_corpus_features,
    read_emotions,
    unique_names,
    write_corpus_features,
)
from serkit.errors import InputError


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("lengths", [(), (0,), (3,), (1, 0, 4_999, 12)])
def test_an_array_that_grew_is_the_array(tmp_path, lengths, dtype):
    rng = np.random.default_rng(0)
    pieces = [rng.normal(size=(length, 7)).astype(dtype) for length in lengths]
    with FrameFile(tmp_path / "a.npy", 7, dtype) as file:
        for piece in pieces:
            file.append(piece)
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == dtype and np.array_equal(found, np.concatenate([np.zeros((0, 7), dtype), *pieces]))


def test_an_array_takes_frames_of_its_width_in_any_memory_order(tmp_path):
    values = np.arange(12.0).reshape(3, 4)
    with FrameFile(tmp_path / "a.npy", 3) as file:
        with pytest.raises(ValueError, match="expected frames of shape"):
            file.append(values)
        file.append(values.T)
    assert np.array_equal(np.load(tmp_path / "a.npy"), values.T)


def write(folder, labels=None, lengths=(3, 5_000, 1)):
    rng = np.random.default_rng(1)
    pieces = [rng.normal(size=(length, 4)).astype(np.float32) for length in lengths]
    write_corpus_features(folder, "train", iter(pieces), labels)
    return pieces


def test_a_corpus_reads_back_as_it_was_written(tmp_path):
    labels = [("Ses01 a", "angry"), ("b", "happy"), ("c", "sad")]
    pieces = write(tmp_path, labels)
    frames, lengths, found = read_corpus_features(tmp_path)
    assert isinstance(frames, np.memmap) and frames.dtype == np.float32
    assert np.array_equal(frames, np.concatenate(pieces))
    assert lengths.tolist() == [3, 5_000, 1] and found == ["angry", "happy", "sad"]
    assert (tmp_path / "train.lengths").read_text() == "3\n5000\n1\n"
    assert (tmp_path / "train.emo").read_text() == "Ses01_a\tangry\nb\thappy\nc\tsad\n"
    assert read_emotions(tmp_path / "train.emo")[0] == ("Ses01_a", "angry")
    write(tmp_path)
    assert read_corpus_features(tmp_path).labels is None


def test_what_the_original_scripts_leave_is_read(tmp_path):
    """Their arrays may be float64, and labels stand behind any white space."""
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(6, 2))
    (tmp_path / "x.lengths").write_text("2\n4")
    (tmp_path / "x.emo").write_text("a ang\nb\tneu \n")
    frames, lengths, labels = read_corpus_features(str(tmp_path), "x")
    assert frames.shape == (6, 2) and lengths.tolist() == [2, 4] and labels == ["ang", "neu"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.npy", None, "train.npy: no such file"),
        ("train.npy", b"rubbish", "train.npy: cannot be read as an array"),
        ("train.npy", np.zeros((5004, 4), object), "train.npy: cannot be read as an array"),
        ("train.npy", np.zeros(5004), "train.npy: holds float64 of shape"),
        ("train.lengths", None, "train.lengths: no such file"),
        ("train.lengths", b"3\n5000\n", "train.lengths: tells 5003 frames, train.npy has 5004"),
        ("train.lengths", b"-1\n5005\n", "train.lengths: tells"),
        ("train.lengths", b"3\nx\n", "train.lengths: a line is no number of frames"),
        ("train.emo", b"a\tsad\n", "train.emo: has 1 labels, train.lengths has 3"),
        ("train.emo", b"a\tsad\nb\n", "train.emo: line 2: expected"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, file, content, message):
    write(tmp_path, [("a", "sad")] * 3)
    (tmp_path / file).unlink()
    if isinstance(content, np.ndarray):
        np.save(tmp_path / file, content)
    elif content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_corpus_features(tmp_path)


def test_a_label_of_two_words_and_a_corpus_of_nothing_are_refused(tmp_path):
    with pytest.raises(InputError, match="label 'very sad': must be one word"):
        write(tmp_path, [("a", "sad"), ("b", "very sad"), ("c", "sad")])
    with pytest.raises(InputError, match="no features to write"):
        write_corpus_features(tmp_path, "train", iter([]))
    with pytest.raises(ValueError, match="1 labels for 3"):
        write(tmp_path, [("a", "sad")])
    assert [path.name for path in tmp_path.iterdir()] == []


def test_names_that_clash_are_refused():
    assert unique_names(["a/b", "a", "b"]) == ["a_b", "a", "b"]
    with pytest.raises(InputError, match="share the file a_b.npy: 'a/b' and 'a_b'"):
        unique_names(["a/b", "c", "a_b"])
    with pytest.raises(InputError, match="share the file c.npy: 'c', twice"):
        unique_names(["c", "c"])
