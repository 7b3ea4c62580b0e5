"""The packaged model: what a user gets without choosing anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import serkit
from serkit.inference.bundle import DEFAULT, read_card
from serkit.inference.predictor import Predictor

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.flac"))
CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")


@pytest.fixture(scope="module")
def packaged():
    return serkit.load()


def test_it_knows_seven_classes_in_order(packaged):
    assert isinstance(packaged, Predictor)
    assert packaged.card.classes == CLASSES
    assert packaged.card == read_card(DEFAULT)


def test_its_card_says_what_it_was_made_from_and_for(packaged):
    card = packaged.card
    assert "expressed" in card.intended_use
    assert all(name in card.training_data for name in ("RAVDESS", "EmoDB", "EMOVO"))
    assert card.licence
    assert 0.3 < card.temperature < 5
    assert card.min_seconds == 0.25
    assert tuple(card.named_thresholds) == CLASSES
    assert all(0.2 < threshold < 0.5 for threshold in card.named_thresholds.values())


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_recognises_the_examples(packaged, path):
    found = packaged.predict(path)
    assert tuple(found.probabilities) == CLASSES
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.confidence == max(found.probabilities.values())
    assert 1 / 7 < found.confidence < 1


def test_predict_imports_neither_torch_nor_polars():
    code = (
        "import sys; from serkit.cli import app; "
        f"app(['predict', {str(EXAMPLES[0])!r}, '--format', 'json'], standalone_mode=False); "
        "print(sorted({'torch', 'polars', 'scipy', 'sklearn', 'onnx', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    row, imported = done.stdout.splitlines()
    assert json.loads(row)["label"] in CLASSES
    assert imported == "[]"


def test_it_is_small():
    files = [path for path in DEFAULT.rglob("*") if path.is_file()]
    assert {"model.onnx", "serkit.json"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 30e6


def test_the_model_card_says_what_may_be_done_with_it():
    text = (DEFAULT.parent / "README.md").read_text(encoding="utf-8").lower()
    assert "non-commercial" in text
    assert "expressed" in text
