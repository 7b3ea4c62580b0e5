"""What do words alone tell, without a neural network? TF-IDF of transcripts, and the commonest class.

    python benchmarks/text_baseline.py mosi.parquet --label sentiment -o runs/mosi-words
    python benchmarks/text_baseline.py meld.parquet --strength 3 -o runs/meld-words
    python benchmarks/text_baseline.py mosi.parquet --label sentiment --features audio_features --strength 0.01 -o runs

The manifest (see ``serkit prepare``) has texts and official parts. Writes run folders for ``serkit evaluate`` and
``serkit compare``: ``majority``, the commonest class of the training part; ``tfidf``, logistic regression on words and
pairs of words with sublinear counts, fitted on the training part; ``tfidf-dev``, fitted on the dev part as well. With
``--features`` the regression is on the given features of a column instead (means over time, standardised):
``given`` and ``given-dev``. ``--strength`` is C of the regression (1); of several the best on the dev part. Prints the
accuracy of each on the test part and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from serkit.data.files import replace_atomically, write_json
from serkit.data.folds import Fold, stamp
from serkit.data.labels import LabelScheme
from serkit.data.manifest import Manifest
from serkit.data.protocols import create_folds
from serkit.errors import InputError
from serkit.training.given import read_given
from serkit.training.material import use_column
from serkit.training.sections import EncoderSection


def load(options: argparse.Namespace) -> tuple[Manifest, tuple[str, ...]]:
    """Return the labelled utterances and the classes in order."""
    manifest = use_column(Manifest.read(options.manifest), options.label, str(options.manifest))
    merge = dict(each.split("=", 1) for each in options.merge)
    found = sorted(set(manifest.table["emotion"].drop_nulls()) - set(merge) - set(options.drop))
    classes = tuple(options.classes or found)
    return manifest.with_labels(LabelScheme(options.label, classes, merge, tuple(options.drop))), classes


def read_inputs(manifest: Manifest, column: str | None) -> dict[str, str | np.ndarray]:
    """Return the text or the mean of the given features of every utterance."""
    if column is None:
        return {id: text or "" for id, text in manifest.table.select("id", "text").iter_rows()}
    features = read_given(manifest, EncoderSection(name="given", options={"column": column}))
    return {id: each[0].double().mean(0).numpy() for id, each in zip(manifest.ids, features, strict=True)}


def create_model(strength: float, least: int, given: bool) -> Pipeline:
    first = StandardScaler() if given else TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=least)
    return make_pipeline(first, LogisticRegression(C=strength, max_iter=5000))


def fit_best(inputs: dict, labels: dict, fold: Fold, options: argparse.Namespace, with_dev: bool) -> tuple:
    """Return the model and its strength, which the dev part chose where there are several."""

    def fit(ids: tuple[str, ...], strength: float) -> Pipeline:
        model = create_model(strength, options.least, options.features is not None)
        return model.fit([inputs[id] for id in ids], [labels[id] for id in ids])

    def judge(strength: float) -> float:
        right = fit(fold.train, strength).predict([inputs[id] for id in fold.dev]) == [labels[id] for id in fold.dev]
        return float(np.mean(right))

    several = len(options.strength) > 1
    strength = max(options.strength, key=judge) if several else options.strength[0]  # of equals the first
    return fit((*fold.train, *fold.dev) if with_dev else fold.train, strength), strength


def write_run(
    folder: Path, name: str, manifest: Manifest, fold: Fold, classes: tuple[str, ...], chances: dict, facts: dict
) -> float:
    """Write a run folder of what ``chances`` says {part: (U, C)}; return the accuracy on the test part."""
    tables = []
    for part, made in chances.items():
        ids = getattr(fold, part)
        who = manifest.select(ids).table.select("id", "speaker", "gender", "corpus", truth="emotion")
        columns = {f"p_{label}": made[:, place] for place, label in enumerate(classes)}
        said = pl.Series("prediction", np.array(classes)[made.argmax(axis=1)])
        place = {"fold": pl.lit(fold.name), "seed": pl.lit(0, pl.Int64), "part": pl.lit(part)}
        tables.append(who.with_columns(said, **place, **{key: pl.Series(key, each) for key, each in columns.items()}))
    (folder / name).mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder / name / "predictions.parquet") as part:
        pl.concat(tables).write_parquet(part)
    sizes = {"train": len(fold.train), "dev": len(fold.dev), "test": len(fold.test)}
    provenance = {
        "recipe": f"baseline/{name}",
        "protocol": "part",
        "stamp": stamp([fold]),
        "encoder": {"name": name},
        "corpora": sorted({str(corpus) for corpus in manifest.table["corpus"]}),
        "folds": [{"name": fold.name, **sizes, "shared": fold.shared}],
        "baseline": facts,
        "command": " ".join(sys.argv),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / name / "provenance.json", provenance)
    test = tables[-1]
    return float((test["truth"] == test["prediction"]).mean())


def predict(model: Pipeline, inputs: dict, ids: tuple[str, ...], classes: tuple[str, ...]) -> np.ndarray:
    """Return probabilities (U, C); classes that were not seen in training have none."""
    made = np.zeros((len(ids), len(classes)))
    made[:, [classes.index(label) for label in model.classes_]] = model.predict_proba([inputs[id] for id in ids])
    return made


def run(options: argparse.Namespace) -> dict:
    """Write every baseline's run folder and return their figures."""
    manifest, classes = load(options)
    (fold,) = create_folds(manifest, "part", declares_shared=True)
    labels = dict(manifest.table.select("id", "emotion").iter_rows())
    inputs = read_inputs(manifest, options.features)
    common = Counter(labels[id] for id in fold.train)
    row = np.array([[common[label] for label in classes]]) / len(fold.train)
    parts = ("dev", "test") if fold.dev else ("test",)
    chances = {part: np.repeat(row, len(getattr(fold, part)), axis=0) for part in parts}
    made = {"majority": write_run(options.output, "majority", manifest, fold, classes, chances, {"shares": [*row[0]]})}
    kind = "tfidf" if options.features is None else "given"
    for with_dev in (False, True) if fold.dev else (False,):
        model, strength = fit_best(inputs, labels, fold, options, with_dev)
        chances = {
            part: predict(model, inputs, getattr(fold, part), classes)
            for part in parts
            if not (with_dev and part == "dev")
        }
        facts = {"strength": strength, "least": options.least, "features": options.features, "fitted_on_dev": with_dev}
        name = f"{kind}-dev" if with_dev else kind
        made[name] = write_run(options.output, name, manifest, fold, classes, chances, facts)
    return {"test": len(fold.test), "accuracy": made}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--label", default="emotion", help="column of the labels")
    parser.add_argument("--classes", nargs="+", help="in order; all that occur when left out")
    parser.add_argument("--merge", nargs="+", default=[], metavar="LABEL=CLASS")
    parser.add_argument("--drop", nargs="+", default=[], metavar="LABEL")
    parser.add_argument("--features", help="column of given features, in place of words")
    parser.add_argument("--strength", nargs="+", type=float, default=[1.0])
    parser.add_argument("--least", type=int, default=2, help="texts that a word or a pair must stand in")
    parser.add_argument("--output", "-o", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        results = run(options)
    except InputError as error:
        raise SystemExit(f"{Path(__file__).name}: {error}") from None
    for name, accuracy in results["accuracy"].items():
        print(f"{name:<10} {100 * accuracy:6.2f} % of {results['test']}  {options.output / name}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
