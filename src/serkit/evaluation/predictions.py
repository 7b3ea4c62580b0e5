"""The predictions table, the only input of evaluation: one row for each utterance, fold and seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from serkit.errors import InputError

COLUMNS = ("id", "fold", "seed", "part", "truth", "prediction", "speaker", "gender", "corpus")
"""Required besides ``p_<class>`` for every class, in class order; speaker, gender and corpus may be null.

Runs that learned more tasks add the columns of :mod:`serkit.evaluation.tasks`. Those that learned no classes have
neither ``p_<class>`` nor ``prediction``, and ``truth`` may be null. Those that learned several labels at once have
``<class>_present`` (Boolean, null where it is not known) and ``<class>_chance`` (in [0, 1]) for every class, and
neither ``truth``, ``prediction`` nor ``p_<class>``.
"""

UNKNOWN = "unknown"

TOLERANCE = 1e-3


def read_predictions(path: str | Path) -> pl.DataFrame:
    """Read a predictions table from Parquet; raises ``InputError`` naming the file. :func:`judged_rows` checks it."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such predictions table: train first, or name the folder of a finished run")
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def classes_of(table: pl.DataFrame) -> tuple[str, ...]:
    """Return the classes, in order, that the columns ``p_<class>`` name."""
    return tuple(name.removeprefix("p_") for name in table.columns if name.startswith("p_"))


def judged_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose part is ``test``, checked, sorted by id and seed.

    Raises ``InputError`` naming the column or the utterance: missing columns, fewer than two classes, no test rows,
    nulls, an utterance twice for one seed, labels that are not classes, probabilities that are NaN, negative or sum
    to other than 1. Dev rows may repeat from fold to fold and are not looked at.
    """
    if labels_of(table) and not has_classes(table):
        raise InputError("predictions: are of several labels at once, which serkit evaluate and serkit compare judge")
    _check_columns(table, COLUMNS)
    classes = classes_of(table)
    if len(classes) < 2:
        raise InputError("predictions: needs a column p_<class> for each of two or more classes")
    rows = _test_rows(table, COLUMNS, classes)
    _check_labels(rows, classes)
    _check_probabilities(rows, classes)
    return rows


def has_classes(table: pl.DataFrame) -> bool:
    """Return whether classes were learned: a run without has ratings in place of ``prediction`` and ``p_<class>``."""
    return bool(classes_of(table)) or "prediction" in table.columns


def labels_of(table: pl.DataFrame) -> tuple[str, ...]:
    """Return the classes, in order, of a run that learned several labels at once; none for any other run."""
    named = [name.rpartition("_") for name in table.columns]
    return tuple(dict.fromkeys(name for name, _, kind in named if name and kind in ("present", "chance")))


def label_columns(classes: Sequence[str]) -> list[str]:
    """Return the columns of several labels at once, class by class."""
    return [f"{name}_{kind}" for name in classes for kind in ("present", "chance")]


def rows_to_judge(table: pl.DataFrame) -> pl.DataFrame:
    """Return :func:`judged_rows`, :func:`labelled_rows` or :func:`rated_rows`, by what the run learned."""
    if has_classes(table):
        return judged_rows(table)
    return labelled_rows(table) if labels_of(table) else rated_rows(table)


def labelled_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Return the test rows of a run that learned several labels at once, checked and sorted as by :func:`judged_rows`.

    Raises ``InputError`` naming the column or the utterance: a class without one of its two columns, columns of another
    type, chances that are null, NaN or outside [0, 1], nothing that is known of any utterance.
    """
    classes, base = labels_of(table), tuple(name for name in COLUMNS if name not in ("truth", "prediction"))
    for name in label_columns(classes):
        if name not in table.columns:
            raise InputError(f"predictions: has no column {name!r} beside the other column of its class")
    _check_columns(table, base)
    for name in classes:
        if table[f"{name}_present"].dtype not in (pl.Boolean, pl.Null):
            kind = table[f"{name}_present"].dtype
            raise InputError(f"predictions: {name}_present is {kind}: true, false or null (not known) is needed")
        if not (kind := table[f"{name}_chance"].dtype).is_numeric():
            raise InputError(f"predictions: {name}_chance is {kind}: a probability is needed")
    rows = _test_rows(table, base, ()).with_columns(
        *(pl.col(f"{name}_present").cast(pl.Boolean) for name in classes),
        *(pl.col(f"{name}_chance").cast(pl.Float64) for name in classes),
    )
    _check_rows(rows, ("id", "fold", "seed"))
    for name in classes:
        sound = pl.col(f"{name}_chance").is_between(0, 1).fill_null(False)  # NaN is not between
        unsound = rows.filter(~sound)
        if unsound.height:
            id, value = unsound.select("id", f"{name}_chance").row(0)
            raise InputError(f"predictions: {name}_chance of utterance {id!r} is {value}, not in [0, 1]")
    if not rows.select(pl.any_horizontal(pl.col(f"{name}_present").is_not_null().any() for name in classes)).item():
        raise InputError("predictions: it is not known of any test utterance which classes are present")
    return rows


def rated_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Return the test rows of a run without classes, checked and sorted as :func:`judged_rows` does."""
    columns = tuple(name for name in COLUMNS if name not in ("truth", "prediction"))
    _check_columns(table, columns)
    rows = _test_rows(table, columns, ())
    _check_rows(rows, ("id", "fold", "seed"))
    return rows


def _check_columns(table: pl.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"predictions: has no column {missing[0]!r} (needed: {', '.join(COLUMNS)} and p_<class>)")


def _test_rows(table: pl.DataFrame, columns: tuple[str, ...], classes: tuple[str, ...]) -> pl.DataFrame:
    text = [name for name in columns if name != "seed"]
    try:
        numbers = pl.col([f"p_{name}" for name in classes]).cast(pl.Float64)
        table = table.with_columns(pl.col(text).cast(pl.String), numbers)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"predictions: a column has the wrong type: {str(error).splitlines()[0]}") from error
    rows = table.filter(pl.col("part") == "test").sort("id", "seed", "fold")
    if not rows.height:
        parts = ", ".join(sorted(map(str, table["part"].unique()))) or "none"
        raise InputError(f"predictions: no row has the part 'test', so there is nothing to judge (parts: {parts})")
    return rows


def probabilities_of(rows: pl.DataFrame) -> np.ndarray:
    """Return the columns ``p_<class>`` as (n, C)."""
    return rows.select(f"p_{name}" for name in classes_of(rows)).to_numpy()


def distinguish_speakers(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of several corpora with speakers named ``corpus/speaker``: equal names there are not one person."""
    if rows["corpus"].n_unique() < 2:
        return rows
    names = pl.concat_str("corpus", "speaker", separator="/", ignore_nulls=False)
    return rows.with_columns(pl.when(pl.col("corpus").is_null()).then("speaker").otherwise(names).alias("speaker"))


def sorted_names(column: pl.Series) -> list[str]:
    """Return the different names so that 2 comes before 10 and unknown last."""

    def key(name: str) -> tuple:
        pieces = re.split(r"(\d+)", name)
        return name == UNKNOWN, [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces], name

    return sorted(column.unique().to_list(), key=key)


def _check_rows(rows: pl.DataFrame, columns: tuple[str, ...]) -> None:
    for name in columns:
        if rows[name].null_count():
            where = rows.filter(pl.col(name).is_null())["id"][0]
            raise InputError(f"predictions: utterance {where!r} has no {name}")
    twice = rows.filter(pl.struct("id", "seed").is_duplicated())
    if twice.height:
        id, seed = twice.select("id", "seed").row(0)
        raise InputError(f"predictions: utterance {id!r} stands more than once in part 'test' for seed {seed}")


def _check_labels(rows: pl.DataFrame, classes: tuple[str, ...]) -> None:
    _check_rows(rows, ("id", "fold", "seed", "truth", "prediction"))
    for name in ("truth", "prediction"):
        strange = rows.filter(~pl.col(name).is_in(classes))
        if strange.height:
            id, label = strange.select("id", name).row(0)
            raise InputError(f"predictions: {name} {label!r} of utterance {id!r} is not a class ({', '.join(classes)})")


def _check_probabilities(rows: pl.DataFrame, classes: tuple[str, ...]) -> None:
    values = probabilities_of(rows)
    checks = (
        (~np.isfinite(values).all(axis=1), "has a probability that is NaN or infinite"),
        ((values < 0).any(axis=1), "has a negative probability"),
        (np.abs(values.sum(axis=1) - 1) > TOLERANCE, "has probabilities that do not sum to 1"),
    )
    for wrong, message in checks:
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(classes, values[first], strict=True))
            raise InputError(f"predictions: utterance {rows['id'][first]!r} {message} ({shown})")
