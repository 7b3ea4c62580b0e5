"""Bundles: ONNX says what PyTorch says, and what is not a bundle is refused by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from serkit import bundling
from serkit.bundling import TOLERANCE, compare, write_bundle
from serkit.errors import InputError, SerkitError
from serkit.inference.bundle import Bundle, Card, read_card

from .conftest import CARD, CLASSES

LENGTHS = (0.25, 0.26, 0.5, 0.737, 1.0, 1.99, 3.3, 7.77, 15.0)


def run(session, waveforms, lengths):
    return session.run(None, {"waveforms": waveforms, "lengths": np.array(lengths, np.int64)})


@pytest.fixture
def copy(bundle_folder, tmp_path):
    """A bundle of one's own to damage."""
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def exported(bundle_folder, monkeypatch):
    """Exports in no time: the tiny bundle's graph is copied instead of traced again."""
    monkeypatch.setattr(bundling, "export_graph", lambda graph, path: shutil.copy(bundle_folder / "model.onnx", path))


# ONNX and PyTorch


@pytest.mark.parametrize("seconds", LENGTHS)
def test_onnx_says_what_pytorch_says_at_every_length(bundle, graph, make_speech, seconds):
    waveform = make_speech(seconds, seed=2)
    ours = run(bundle.session, waveform[None], [len(waveform)])
    with torch.no_grad():
        theirs = graph(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    for mine, reference in zip(ours[:3], theirs[:3], strict=True):
        assert mine.shape == tuple(reference.shape)
        np.testing.assert_allclose(mine, reference.numpy(), atol=1e-4)
    assert ours[3].tolist() == theirs[3].tolist()
    assert compare(bundle, graph, [waveform]) == {
        "max_probability_difference": pytest.approx(0, abs=1e-4),
        "equal_labels": 1.0,
    }


def test_the_answers_differ_from_sound_to_sound_so_that_agreement_means_something(bundle, make_speech):
    answers = np.array([bundle.run(make_speech(0.5 + seed, seed=seed)).probabilities for seed in range(5)])
    assert (np.ptp(answers, axis=0) > 0.03).any()


def test_padding_and_neighbours_change_nothing(bundle, make_speech):
    waveforms = [make_speech(seconds, seed=n) for n, seconds in enumerate((0.25, 1.237, 3.0, 2.01))]
    lengths = [len(waveform) for waveform in waveforms]
    padded = np.full((4, max(lengths)), 0.7, np.float32)  # what lies past the end must not matter
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    logits, embedding, frames, frame_lengths = run(bundle.session, padded, lengths)
    for n, waveform in enumerate(waveforms):
        alone = run(bundle.session, waveform[None], [len(waveform)])
        count = int(frame_lengths[n])
        assert count == alone[3][0] == alone[2].shape[1]
        np.testing.assert_allclose(logits[n], alone[0][0], atol=1e-4)
        np.testing.assert_allclose(embedding[n], alone[1][0], atol=1e-4)
        np.testing.assert_allclose(frames[n, :count], alone[2][0], atol=1e-4)
        assert not frames[n, count:].any()


@pytest.mark.parametrize("samples", [4000, 4159, 4160, 4320, 16_000, 31_999, 32_000])
def test_there_is_one_row_of_frame_probabilities_per_frame_and_each_adds_up_to_one(bundle, graph, make_speech, samples):
    outputs = bundle.run(make_speech(2.0, seed=1)[:samples])
    assert len(outputs.frame_probabilities) == int(graph.encoder.frame_lengths(torch.tensor(samples)))
    assert outputs.frame_probabilities.shape[1] == len(outputs.probabilities) == len(CLASSES)
    np.testing.assert_allclose(outputs.frame_probabilities.sum(1), 1)
    assert (outputs.frame_probabilities >= 0).all()


def test_frames_follow_the_sound(bundle, make_tone):
    low, high = (make_tone(2.0, frequency=frequency, level=0.3, noise=0.02)[:, 0] for frequency in (150, 2500))
    both = bundle.run(np.concatenate([low, high])).frame_probabilities
    first, second = (bundle.run(half).frame_probabilities[20:40].mean(0) for half in (low, high))
    assert np.abs(both[20:40].mean(0) - first).sum() < np.abs(both[20:40].mean(0) - second).sum()
    assert np.abs(both[160:180].mean(0) - second).sum() < np.abs(both[160:180].mean(0) - first).sum()


def test_the_level_and_silence_at_both_ends_change_little(bundle, make_speech):
    waveform = make_speech(1.0, seed=3)
    quiet = np.concatenate([np.zeros(8000, np.float32), waveform * 0.05, np.zeros(8000, np.float32)])
    np.testing.assert_allclose(bundle.run(quiet).probabilities, bundle.run(waveform).probabilities, atol=0.05)


def test_int8_agrees_within_its_tolerance_and_is_smaller(exported, graph, make_speech, bundle_folder, tmp_path):
    waveforms = [make_speech(0.3 + 0.4 * seed, seed=seed) for seed in range(6)]
    agreement = write_bundle(tmp_path / "int8", graph, CARD, waveforms, int8=True)
    assert 1e-6 < agreement["max_probability_difference"] <= TOLERANCE[True]
    assert agreement["equal_labels"] >= 5 / 6
    assert read_card(tmp_path / "int8").details == {"made": "here", "precision": "int8"}
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == ["model.onnx", "serkit.json"]
    sizes = [(folder / "model.onnx").stat().st_size for folder in (tmp_path / "int8", bundle_folder)]
    assert sizes[0] < 0.7 * sizes[1]
    assert Bundle(tmp_path / "int8").run(waveforms[0]).probabilities.sum() == pytest.approx(1)


# Probabilities


def test_the_temperature_divides_the_logits(bundle, copy, make_speech):
    waveform = make_speech(1.0)
    logits = run(bundle.session, waveform[None], [len(waveform)])[0][0].astype(np.float64)
    for temperature in (0.5, 3.0):
        card = {**json.loads((copy / "serkit.json").read_text()), "temperature": temperature}
        (copy / "serkit.json").write_text(json.dumps(card))
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        np.testing.assert_allclose(Bundle(copy).run(waveform).probabilities, expected, rtol=1e-6)


def test_left_out_classes_get_zero_and_the_others_keep_their_proportions(bundle, make_speech):
    waveform, keep = make_speech(1.0), np.array([True, False, True, False])
    whole, some = bundle.run(waveform), bundle.run(waveform, keep)
    assert some.probabilities[~keep].tolist() == [0, 0]
    np.testing.assert_allclose(some.probabilities[keep], whole.probabilities[keep] / whole.probabilities[keep].sum())
    np.testing.assert_allclose(some.frame_probabilities.sum(1), 1)
    assert not some.frame_probabilities[:, ~keep].any()


# Cards


def test_the_card_survives_writing_and_reading(bundle_folder):
    card = read_card(bundle_folder)
    assert {key: getattr(card, key) for key in CARD if key != "details"} == {
        k: v for k, v in CARD.items() if k != "details"
    }
    assert card.details == {"made": "here", "precision": "float32"}
    assert set(card.versions) == {"serkit", "torch", "onnx", "onnxruntime"}
    assert "expressed" in card.intended_use
    assert Card(**{**json.loads(json.dumps(card.dump())), "classes": tuple(card.dump()["classes"])}) == card


def test_thresholds_are_told_where_they_are_known(copy):
    card = read_card(copy)
    assert (card.thresholds, card.named_thresholds) == ((), {})
    assert "thresholds" not in card.dump()
    values = {**card.dump(), "thresholds": [0.2, 0.3, 0.4, 0.5]}
    (copy / "serkit.json").write_text(json.dumps(values))
    card = read_card(copy)
    assert card.named_thresholds == dict(zip(CLASSES, (0.2, 0.3, 0.4, 0.5), strict=True))
    assert card.dump() == values


def one_line(caught):
    assert "\n" not in str(caught.value)
    assert type(caught.value) is InputError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is of format None, this serkit reads 1"),
        ('{"format": 2}', "is of format 2"),
        ('{"format": 1}', "is damaged: 'classes'"),
        ('{"format": 1, "classes": ["a", "b"]}', "is damaged"),
        ('{"format": 1, "classes": 3}', "is damaged"),
    ],
)
def test_a_damaged_or_foreign_card_is_refused_by_name(copy, text, message):
    (copy / "serkit.json").write_text(text)
    with pytest.raises(InputError, match=f"^{copy / 'serkit.json'}: {message}") as caught:
        Bundle(copy)
    one_line(caught)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0},
        {"temperature": "warm"},
        {"window_seconds": 0.1},
        {"min_seconds": -1},
        {"colour": "red"},
        *({"thresholds": [0.5, 0.5, 0.5, wrong]} for wrong in (0, 1.0, "a", float("nan"))),
        {"thresholds": [0.5, 0.5, 0.5]},
        {"thresholds": 0.5},
    ],
)
def test_a_card_with_impossible_values_is_refused(copy, change):
    card = json.loads((copy / "serkit.json").read_text())
    (copy / "serkit.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(InputError, match="serkit.json: is damaged"):
        read_card(copy)


def test_a_card_that_is_not_text_is_refused(copy):
    (copy / "serkit.json").write_bytes(b"\xff\x00\xfe")
    with pytest.raises(InputError, match="serkit.json: is damaged"):
        read_card(copy)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_that_is_not_a_bundle_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="is not a bundle") as caught:
        Bundle(tmp_path / name)
    one_line(caught)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
def test_a_missing_or_damaged_model_is_refused_by_name(copy, damage):
    path = copy / "model.onnx"
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "text": b"no model", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(InputError, match=f"^{path}: ") as caught:
        Bundle(copy)
    one_line(caught)


def test_a_foreign_onnx_model_is_refused_by_name(copy):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, copy / "model.onnx")
    with pytest.raises(InputError, match=f"^{copy / 'model.onnx'}: is not a model of a serkit bundle") as caught:
        Bundle(copy)
    one_line(caught)


def test_a_card_with_other_classes_than_the_model_is_refused(copy):
    card = json.loads((copy / "serkit.json").read_text())
    (copy / "serkit.json").write_text(json.dumps({**card, "classes": ["angry", "happy", "sad"]}))
    with pytest.raises(InputError, match=r"model.onnx: knows 4 classes, but serkit.json names 3"):
        Bundle(copy)


# Writing


@pytest.mark.parametrize("difference", [0.01, float("nan")])
def test_an_export_that_disagrees_leaves_the_old_bundle_untouched(
    exported, graph, make_speech, copy, monkeypatch, difference
):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(bundling, "compare", lambda *_: {"max_probability_difference": difference, "equal_labels": 1.0})
    with pytest.raises(SerkitError, match="copy: not written: probabilities of ONNX and PyTorch differ"):
        write_bundle(copy, graph, {**CARD, "name": "new"}, [make_speech()])
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_bundle_is_replaced_by_one_that_agrees(exported, graph, make_speech, copy):
    write_bundle(copy, graph, {**CARD, "name": "new"}, [make_speech()])
    assert Bundle(copy).card.name == "new"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_compare_sees_other_weights_and_nan(bundle, make_speech):
    from .conftest import make_graph

    other = make_graph(seed=1)
    assert compare(bundle, other, [make_speech(), make_speech(seed=1)])["max_probability_difference"] > TOLERANCE[False]
    with torch.no_grad():
        other.head.heads[0].decide[-1].bias[0] = float("nan")
    assert np.isnan(compare(bundle, other, [make_speech()])["max_probability_difference"])
