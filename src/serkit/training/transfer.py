"""Apply the models of a finished run to other utterances: a corpus that they were not trained on.

``RUN/on/NAME`` is then a run folder of its own (predictions.parquet, provenance.json), judged and compared as any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file

from serkit.data.files import replace_atomically, write_json
from serkit.data.manifest import Manifest
from serkit.errors import InputError, nearest
from serkit.progress import Step, no_steps
from serkit.training.material import Material, load_data, read_data
from serkit.training.presence import with_presence
from serkit.training.recipe import CorpusTest, Recipe, load_recipe
from serkit.training.run import list_work, predictions_table, read_provenance, set_threads
from serkit.training.stores import load, store


def evaluate_on(
    run: str | Path,
    manifest: Manifest,
    name: str,
    cache: str | Path,
    section: CorpusTest | None = None,
    step: Step = no_steps,
    workers: int | None = None,
    device: str = "cpu",
) -> Path:
    """Apply every model of ``run`` (folds times seeds) to ``manifest``; write ``run/on/name`` and return that folder.

    Labels are renamed by ``merge`` of ``section``, then as the run's own recipe does. Classes that one of the two lacks
    are left out: utterances where the run lacks it, the models' probabilities (the rest summing to 1) where the
    manifest does. Every model judges all utterances; models are counted as seeds: their spread is that over models.
    Raises ``InputError`` when the run is unfinished, when fewer than two classes are shared, or when a speaker of the
    run's own corpora is among them. Of several labels at once (``labels.multi``) all chances are kept, and classes that
    the manifest has no column of are not judged; there is nothing to merge.
    """
    run = Path(run)
    if not (run / "predictions.parquet").is_file():
        raise InputError(f"{run}: is not a finished run (no predictions.parquet): finish it with serkit train")
    recipe = load_recipe(run / "recipe.toml")
    section = section or CorpusTest()
    if recipe.labels is None:
        raise InputError(f"{run}: learned ratings and no classes: --on tests classes only")
    labelled, left_out = (match_presence if recipe.multi else match_labels)(manifest, recipe, section.merge)
    stamp = _check_speakers(run, recipe, labelled)
    plain = recipe.model_copy(update={"augment": type(recipe.augment)()})
    stored = store(plain, labelled, Path(cache), step, workers, device)
    material = load(plain, labelled, stored, device)
    known = set(labelled.table["emotion"])
    shared = [each for each in recipe.classes if (each in manifest.table.columns if recipe.multi else each in known)]
    models = list(_each_model(run, recipe, material, device))
    tables = []
    with set_threads(1):
        for number, (fold, model) in enumerate(models):
            columns = material.columns(model, labelled.ids)
            columns = columns if recipe.multi else restrict(columns, recipe.classes, shared)
            made = predictions_table(labelled, columns)
            made = made.with_columns(fold=pl.lit(fold), seed=pl.lit(number, pl.Int64), part=pl.lit("test"))
            tables.append(made)
            step(f"testing on {name}", number + 1, len(models))
    folder = run / "on" / name
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder / "predictions.parquet") as part:
        pl.concat(tables, how="diagonal_relaxed").write_parquet(part)
    facts = _provenance(run, name, labelled, shared, left_out, len(models))
    write_json(folder / "provenance.json", {**facts, "stamp": stamp, "section": section.model_dump(mode="json")})
    return folder


def read_test(recipe: Recipe, name: str) -> tuple[Manifest, CorpusTest]:
    """Return the utterances of ``recipe.tests[name]`` with their corpus's labels, and the section."""
    section = (recipe.tests or {})[name]
    rooted = section if section.root else section.model_copy(update={"root": recipe.data.root})
    return read_data(rooted, f"recipe {recipe.name}", f"tests.{name}"), section


def match_labels(manifest: Manifest, recipe: Recipe, merge: Mapping[str, str]) -> tuple[Manifest, dict[str, int]]:
    """Return the utterances whose class the run knows, under that class's name, and how many of others there are."""
    assert recipe.labels is not None
    classes = recipe.labels.classes
    lost = sorted(set(merge.values()) - {*classes, *recipe.labels.merge})
    if lost:
        raise InputError(f"merge leads to {lost[0]!r}, which the run does not know{nearest(lost[0], classes)}")
    raw = [None if label is None else merge.get(label, label) for label in manifest.table["emotion"]]
    named = [None if label is None else recipe.labels.merge.get(label, label) for label in raw]
    table = manifest.table.with_columns(emotion=pl.Series(named, dtype=pl.String))
    known = pl.col("emotion").is_in(classes)
    others = table.filter(~known.fill_null(False))["emotion"].fill_null("no label").value_counts()
    kept = Manifest(table.filter(known.fill_null(False)))
    if kept.table["emotion"].n_unique() < 2:
        has = ", ".join(sorted({str(label) for label in named}))
        raise InputError(f"the run's classes are {', '.join(classes)}, the manifest's {has}: fewer than two are shared")
    return kept, dict(sorted(others.iter_rows()))


def match_presence(manifest: Manifest, recipe: Recipe, merge: Mapping[str, str]) -> tuple[Manifest, dict[str, int]]:
    """Return the utterances of which one of the run's several classes is known, and how many there are of others."""
    if merge:
        raise InputError("merge renames labels, and several labels at once are columns: rename those of the manifest")
    kept = with_presence(manifest, recipe.classes, "manifest", lacking=True)
    if not len(kept):
        raise InputError(f"it is known of no utterance which of {', '.join(recipe.classes)} it has")
    lost = len(manifest) - len(kept)
    return kept, {"nothing known": lost} if lost else {}


def restrict(columns: dict[str, list[Any]], classes: Sequence[str], shared: Sequence[str]) -> dict[str, list[Any]]:
    """Leave out the probabilities of classes that are not ``shared``; the others are made to sum to 1 again."""
    table = pl.DataFrame({name: columns[f"p_{name}"] for name in shared})
    # Where the shared classes have no probability left, they are taken as equally likely.
    total = table.sum_horizontal()
    even = 1 / len(shared)
    table = table.select(pl.when(total > 0).then(pl.col(name) / total).otherwise(even).alias(name) for name in shared)
    chosen = table.select(pl.concat_list(shared).list.arg_max()).to_series()
    rest = {name: values for name, values in columns.items() if name not in {f"p_{label}" for label in classes}}
    predicted = [shared[number] for number in chosen]
    return rest | {"prediction": predicted} | {f"p_{name}": table[name].to_list() for name in shared}


def _each_model(run: Path, recipe: Recipe, material: Any, device: str) -> Iterator[tuple[str, Any]]:
    """Yield fold and model for every seed and fold of a run, by seed."""
    found = []
    for history in sorted((run / "models").glob("*.json")):
        line = json.loads(history.read_text(encoding="utf-8"))[0]
        found.append((line["seed"], line["fold"], history.with_suffix(".safetensors")))
    if not found:
        raise InputError(f"{run}: holds no models: train it again")
    if isinstance(material, Material):
        for _, fold, path in sorted(found):
            yield fold, material.restore((), load_file(path))
        return
    # What a fine-tuned model recognises beside emotion depends on its training part.
    own = load_data(recipe)
    trained = load(recipe, own, material.store, device)
    parts = {(seed, fold.name): fold.train for seed, fold in list_work(recipe, own)}
    for seed, fold, path in sorted(found):
        yield fold, trained.restore(parts[seed, fold], load_file(path))


def _check_speakers(run: Path, recipe: Recipe, labelled: Manifest) -> str:
    """Return the stamp; raise when the run was trained on a speaker of ``labelled``: its own folds test those."""
    recorded = read_provenance(run).get("corpora")
    if recorded is not None and not {str(name) for name in labelled.table["corpus"]} & set(recorded):
        return "speakers shared: 0"
    own, other = (set(each.table.select("corpus", "speaker").rows()) for each in (load_data(recipe), labelled))
    both = sorted({str(speaker) for _, speaker in own & other if speaker is not None})
    if both:
        raise InputError(
            f"{run}: was trained on speaker {both[0]!r} ({len(both)} are in both): its own folds test them, or leave "
            "them out of the manifest"
        )
    return "speakers unknown" if any(speaker is None for _, speaker in own | other) else "speakers shared: 0"


def _provenance(
    run: Path, name: str, labelled: Manifest, shared: Sequence[str], left_out: dict[str, int], models: int
) -> dict[str, Any]:
    own = read_provenance(run)
    return {
        "recipe": own.get("recipe"),
        "protocol": f"trained on {', '.join(own.get('corpora', []))} ({own.get('protocol')}), tested on {name}",
        "trained_on": own.get("corpora"),
        "tested_on": name,
        "classes": list(shared),
        "left_out": left_out,
        "models": models,
        "seeds_are": "models: every fold and seed of the run judges all utterances",
        "encoder": own.get("encoder"),
        "manifest_fingerprint": labelled.fingerprint(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
