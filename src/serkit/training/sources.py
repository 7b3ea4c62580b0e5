"""What analyses compare, as the command line names it: encoders with their options, and runs that fine-tuned one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from serkit.data.manifest import Manifest
from serkit.data.protocols import Fold, group_of
from serkit.data.representation import ALWAYS, Representation
from serkit.encoders.extract import EncoderSpec
from serkit.errors import InputError, nearest
from serkit.progress import Step, no_steps
from serkit.training.recipe import parse_options
from serkit.training.representations import represent, represent_run, run_folds


@dataclass(frozen=True)
class Source:
    """An encoder ``spec``, or the encoders of a ``run`` folder's folds with ``seed``; called ``name`` in results."""

    name: str
    spec: EncoderSpec | None = None
    run: Path | None = None
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        if self.run is not None:
            return {"name": self.name, "run": str(self.run), "seed": self.seed}
        assert self.spec is not None
        return {"name": self.name, "encoder": self.spec.name, "options": self.spec.options}


def parse_encoder(text: str, level: float | None = None, trim: float | None = None) -> Source:
    """Read ``NAME [key=value ...] [as=LABEL]``; ``level`` and ``trim`` hold where the text does not say them.

    >>> parse_encoder("whisper blocks=2 as=short", level=-23).describe()
    {'name': 'short', 'encoder': 'whisper', 'options': {'level': -23, 'trim': None, 'blocks': 2}}
    """
    name, options = _words(text)
    label = str(options.pop("as", name))
    return Source(label, EncoderSpec(name, {"level": level, "trim": trim, **options}))


def parse_run(text: str) -> Source:
    """Read ``FOLDER [seed=0] [as=LABEL]``."""
    folder, options = _words(text)
    label, seed = str(options.pop("as", Path(folder).name)), options.pop("seed", 0)
    if options:
        raise InputError(f"run {folder}: no option {next(iter(options))!r} (known: seed, as)")
    if not isinstance(seed, int):
        raise InputError(f"run {folder}: seed is a whole number, got {seed!r}")
    return Source(label, run=Path(folder), seed=seed)


def _words(text: str) -> tuple[str, dict[str, Any]]:
    words = shlex.split(text)
    if not words:
        raise InputError("a source is a name, then key=value: got nothing")
    return words[0], parse_options(words[1:])


def choose_utterances(manifest: Manifest, where: Sequence[str] = (), most: int | None = None) -> Manifest:
    """Return the utterances whose columns have the values that ``where`` (``column=value``) says, ``most`` of them.

    More are drawn at random, always the same ones, and keep their order.
    """
    table = manifest.table
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals or column not in table.columns:
            raise InputError(f"--where {condition}: write column=value{nearest(column, table.columns)}")
        table = table.filter(pl.col(column).cast(pl.String) == value)
    if not table.height:
        raise InputError(f"no utterance has {' and '.join(where)}" if where else "the manifest is empty")
    if most is not None and table.height > most:
        rows = np.random.default_rng(0).choice(table.height, most, replace=False)
        table = table[np.sort(rows).tolist()]
    return Manifest(table)


def folds_of_runs(manifest: Manifest, sources: Sequence[Source]) -> tuple[Manifest, list[Fold]]:
    """Return the utterances that the runs among ``sources`` tested, and their folds; without runs, all and none.

    Raises ``InputError`` unless all runs have the same folds: only then their encoders answer the same question.
    """
    runs = [source for source in sources if source.run is not None]
    if not runs:
        return manifest, []
    found = [run_folds(source.run, manifest, source.seed) for source in runs if source.run is not None]
    for source, folds in zip(runs[1:], found[1:], strict=True):
        if [(fold.name, fold.test) for fold in folds] != [(fold.name, fold.test) for fold in found[0]]:
            raise InputError(f"{source.run}: has other folds than {runs[0].run}: analyse them one by one")
    tested = {id for fold in found[0] for id in fold.test}
    return manifest.select([id for id in manifest.ids if id in tested]), found[0]


def represent_all(
    manifest: Manifest,
    sources: Sequence[Source],
    folds: Sequence[Fold],
    cache: Path,
    step: Step = no_steps,
    workers: int | None = None,
) -> list[Representation]:
    """Return the time means of every source's layers for the utterances of ``manifest``, row by row."""
    made = []
    for source in sources:
        if source.run is not None:
            run = represent_run(manifest, source.run, source.seed, folds, source.name, cache, step, workers)
            made.append(run)
        elif source.spec is not None:
            made.append(represent(manifest, source.spec, source.name, cache, step, workers))
    return made


@dataclass(frozen=True)
class Gathered:
    """Sources as matrices, row by row of ``manifest``; ``folds`` are those of trained sources, none without them."""

    manifest: Manifest
    representations: list[Representation]
    folds: list[Fold]
    facts: dict[str, Any]

    @property
    def ids(self) -> list[str]:
        """The utterances, in row order."""
        return self.manifest.ids

    @property
    def speakers(self) -> dict[str, str]:
        """Who speaks, by utterance; raises ``InputError`` where that is not known."""
        return group_of(self.manifest, "speaker")

    def part(self, fold: str | None = None) -> tuple[list[str], str]:
        """Return the test ids of ``fold`` (None: the first) with its name; without folds all ids and no name."""
        if not self.folds:
            if fold is not None:
                raise InputError(f"fold {fold!r}: only runs have folds")
            return self.ids, ALWAYS
        names = [each.name for each in self.folds]
        if fold is not None and fold not in names:
            raise InputError(f"no fold {fold!r}{nearest(fold, names)}")
        chosen = self.folds[0 if fold is None else names.index(fold)]
        return list(chosen.test), chosen.name


def gather(
    manifest: Manifest, sources: Sequence[Source], cache: Path, step: Step = no_steps, workers: int | None = None
) -> Gathered:
    """Encode what is not in ``cache`` yet and return the time means of all layers of ``sources``."""
    if not sources:
        raise InputError("there is nothing to analyse: name an encoder with --encoder or a run with --run")
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two sources are called {twice}: give one another name by adding as=NAME")
    manifest, folds = folds_of_runs(manifest, sources)
    found = represent_all(manifest, sources, folds, cache, step, workers)
    facts = {
        "sources": [source.describe() for source in sources],
        "manifest_fingerprint": manifest.fingerprint(),
        "utterances": len(manifest),
        "versions": {name: version(name) for name in ("serkit", "torch", "numpy", "scikit-learn")},
    }
    return Gathered(manifest, found, folds, facts)
