"""Every recipe of MAT and MNT on a generated folder in the layout of its corpus: recordings and texts to figures."""

from __future__ import annotations

import csv
import json
from itertools import chain

import numpy as np
import polars as pl
import pytest

from serkit.data.corpora.meld import EMOTIONS
from serkit.data.corpora.mosi import STANDARD_FOLDS
from serkit.training.recipe import list_recipes, load_variants
from serkit.training.run import read_provenance, train

SMALL = ("hidden=8", "feedforward=12", "attention_heads=2", "layers=1")
GIVEN = ("mat/mosi-given", "mat/meld-words")  # need no recordings
RECIPES = [name for name in list_recipes() if name.startswith("mat/") and name not in GIVEN]
SCORES = (-3.0, -1.5, -0.4, 0.0, 0.6, 1.5, 2.8)
WORDS = "so good and bad that one film was the end of it".split()


def say(number: int) -> str:
    return " ".join(WORDS[(number + step) % len(WORDS)] for step in range(1 + number % 5))


def videos(count: int) -> dict[str, list[str]]:
    """Videos of MOSI's standard folds, by part."""
    return {
        part: [name for name, own in STANDARD_FOLDS.items() if own == part][:count] for part in ("train", "dev", "test")
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory, iemocap_folder, write_wav):
    """The folder of each corpus."""
    root = tmp_path_factory.mktemp("corpora")
    return {
        "iemocap": iemocap_folder,
        "mosi": write_mosi(root / "mosi", write_wav),
        "mosei": write_mosei(root / "mosei", write_wav),
        "meld": write_meld(root / "meld", write_wav),
    }


def write_mosi(root, write_wav):
    lines = []
    for video in chain(*videos(2).values()):
        texts = []
        for number, score in enumerate(SCORES, 1):
            lines.append(f"0,1,{video},{number},{score}")
            texts.append(f"{number}_DELIM_{say(number).upper()}")
            tone = {"seconds": 0.2 + 0.05 * number, "frequency": 200.0 + 90 * number}
            write_wav(root / f"Raw/Audio/WAV_16000/Segmented/{video}_{number}.wav", **tone)
        write(root / f"Raw/Transcript/Segmented/{video}.annotprocessed", texts)
    write(root / "Raw/Labels/OpinionLevelSentiment.csv", lines)
    return root


def write_mosei(root, write_wav):
    folds = {part: [f"{part}{number}" for number in range(2)] for part in ("train", "valid", "test")}
    rows = ["video,clip,sentiment,happy,sad,anger,surprise,disgust,fear"]
    for video in chain(*folds.values()):
        segments = []
        for number, score in enumerate(SCORES):
            segments.append(f"{video}___{number}___{number}.0___{number}.6___{say(number)}")
            present = ",".join(str(float((number + place) % 3 == 0)) for place in range(6))
            rows.append(f"{video},{number},{score},{present}")
        write(root / f"Raw/Transcript/Segmented/Combined/{video}.txt", segments)
        write_wav(root / f"Raw/Audio/Full/WAV_16000/{video}.wav", seconds=7.0)
    write(root / "CMU_MOSEI_Labels.csv", rows)
    write(root / "folds.json", [json.dumps(folds)])
    return root


def write_meld(root, write_wav):
    header = ["Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID"]
    feelings = ("neutral", "positive", "negative")
    for part in ("train", "dev", "test"):
        rows = [header]
        for number, emotion in enumerate([*EMOTIONS] * 2):
            speaker, feeling = ("Ross", "Monica")[number % 2], feelings[number % 3]
            rows.append([str(number), say(number), speaker, emotion, feeling, "0", str(number)])
            write_wav(root / f"{part}_splits/dia0_utt{number}.wav", seconds=0.5, frequency=200.0 + 50 * number)
        with (root / f"{part}_sent_emo.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_run_on_their_corpora(name, folders, tmp_path):
    corpus = name.removeprefix("mat/").partition("-")[0]
    changes = [f"data.root={folders[corpus]}", "seeds=[0]", "training.epochs=1", "text.vectors=", "text.dim=6"]
    for variant in load_variants(name, [*changes, *(f"fusion.{each}" for each in SMALL)]):
        table = pl.read_parquet(train(variant.recipe, tmp_path / variant.name, tmp_path.parent / "cache", workers=1))
        stamp = read_provenance(tmp_path / variant.name)["stamp"]
        if "dev-is-test" in name:
            assert stamp.endswith("chosen on the test part, speakers shared with train: 0")
        else:
            assert stamp == ("speakers shared: 2" if corpus == "meld" else "speakers shared: 0")
        truths = [column for column in table.columns if column == "truth" or column.endswith("_present")]
        assert len(truths) == (6 if variant.recipe.multi else 1)
        test = table.filter(part="test")
        assert test.height == {"iemocap": 80 if "5fold" in name else 16, "mosi": 12, "mosei": 14, "meld": 14}[corpus]
        assert np.isfinite(test.select(pl.selectors.float()).to_numpy()).all()
