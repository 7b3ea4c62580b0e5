"""Analysis of variance between groups with all interactions, from values or from the means of a published table.

Means, standard deviations and counts of the cells are sufficient for it, so there is one computation for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats
from serkit.evaluation.statistics.significance import Test, holm, t_from_summaries


@dataclass(frozen=True)
class Cells:
    """Summaries of a full factorial design: a row for every combination of levels.

    ``levels`` are the levels of each of the ``factors``, in order; ``index`` (K, F) says which level each of K cells
    has; ``mean``, ``sd`` (sample, ddof 1) and ``n`` are (K,).
    """

    factors: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    index: np.ndarray
    mean: Floats
    sd: Floats
    n: Floats

    def select(self, factor: str, level: str) -> Cells:
        """Return the cells of one level of a factor."""
        place = self.factors.index(factor)
        keep = self.index[:, place] == self.levels[place].index(level)
        return Cells(self.factors, self.levels, self.index[keep], self.mean[keep], self.sd[keep], self.n[keep])

    def merge(self) -> tuple[float, float, int]:
        """Return mean, sample standard deviation and n of all values of all cells together."""
        n = float(self.n.sum())
        mean = float(self.n @ self.mean / n)
        squares = (self.n - 1) @ self.sd**2 + self.n @ (self.mean - mean) ** 2
        return mean, float(np.sqrt(squares / (n - 1))), int(n)

    def name(self, row: int) -> str:
        """Return the levels of a cell in words."""
        return ", ".join(self.levels[place][level] for place, level in enumerate(self.index[row]))


@dataclass(frozen=True)
class Effect:
    """A row of the table: sum of squares, F, p and how much of the variance it is.

    ``eta2`` is its share of all variance, ``partial_eta2`` of what the other effects leave, ``omega2`` the share
    corrected for what chance alone would give (it may be negative). Fisher 1925; Olejnik & Algina, Psychol. Methods 8
    (2003). The row ``residual`` has no F, p and effect sizes.
    """

    name: str
    sum_squares: float
    df: int
    f: float | None = None
    p: float | None = None
    eta2: float | None = None
    partial_eta2: float | None = None
    omega2: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def cells_from_values(values: ArrayLike, factors: Mapping[str, Sequence[Any]]) -> Cells:
    """Summarise ``values`` (n,) by the levels that ``factors`` gives for each of them; raises as :func:`cells_of`."""
    array = np.asarray(values, dtype=np.float64)
    for name, labels in factors.items():
        if len(labels) != len(array):
            raise InputError(f"factor {name!r} has {len(labels)} levels for {len(array)} values")
    if not np.isfinite(array).all():
        raise InputError("a value is not finite")
    groups: dict[tuple[str, ...], list[float]] = {}
    for value, *labels in zip(array.tolist(), *factors.values(), strict=True):
        groups.setdefault(tuple(map(str, labels)), []).append(value)
    means, sds = (
        [float(f(g)) for g in groups.values()] for f in (np.mean, lambda g: np.std(g, ddof=1) if g[1:] else 0)
    )
    columns = {name: [key[place] for key in groups] for place, name in enumerate(factors)}
    return cells_of(columns, means, sds, [len(group) for group in groups.values()])


def cells_of(
    factors: Mapping[str, Sequence[Any]],
    mean: Sequence[float],
    sd: Sequence[float],
    n: Sequence[int],
    population: bool = False,
) -> Cells:
    """Take a table of summaries: a row for every combination of levels of ``factors`` {name: (K,) levels}.

    ``population`` says that the deviations were divided by n instead of n - 1. Raises ``InputError`` for a factor with
    one level, a combination that is missing or stands twice, and for fewer values than an error can be estimated from.
    """
    labels = {name: [str(label) for label in column] for name, column in factors.items()}
    if not labels:
        raise InputError("analysis of variance needs a factor: a column that says how the runs differ")
    levels = {name: tuple(dict.fromkeys(column)) for name, column in labels.items()}
    for name, found in levels.items():
        if len(found) < 2:
            raise InputError(f"factor {name!r} has one level only ({', '.join(found)}): leave it out")
    rows = list(zip(*labels.values(), strict=True))
    if len(set(rows)) < len(rows):
        twice = next(row for row in rows if rows.count(row) > 1)
        raise InputError(f"the combination {', '.join(twice)} stands more than once")
    missing = [way for way in product(*levels.values()) if way not in set(rows)]
    if missing:
        raise InputError(
            f"no value for {', '.join(missing[0])}: every combination of levels is needed (or leave out a factor)"
        )
    counts, spread = np.asarray(n, dtype=np.float64), np.asarray(sd, dtype=np.float64)
    if (counts < 1).any() or counts.sum() <= len(rows) or (spread < 0).any() or not np.isfinite(spread).all():
        raise InputError("every combination needs a value, some need two or more, and deviations are 0 or more")
    if population:
        spread = spread * np.sqrt(counts / np.maximum(counts - 1, 1))
    index = np.array([[levels[name].index(label) for name, label in zip(levels, row, strict=True)] for row in rows])
    return Cells(tuple(levels), tuple(levels.values()), index, np.asarray(mean, dtype=np.float64), spread, counts)


def analyse(cells: Cells, kind: int = 2) -> list[Effect]:
    """Return the n-way table: main effects, all interactions (``a:b``, ``a:b:c``) and ``residual``, which comes last.

    ``kind`` 2 tests each effect after all that do not contain it, 3 after all others with deviation coding; the two
    agree when all cells have the same n. Yates, J. Am. Stat. Assoc. 29 (1934); Langsrud, Stat. Comput. 13 (2003).
    """
    if kind not in (2, 3):
        raise InputError(f"the sums of squares must be of type 2 or 3, not {kind}")
    terms = [
        term for size in range(1, len(cells.factors) + 1) for term in combinations(range(len(cells.factors)), size)
    ]
    columns = {term: _code(cells, term) for term in terms}
    inner = float((cells.n - 1) @ cells.sd**2)
    df_inner = int(cells.n.sum()) - len(cells.n)
    _, sd, n = cells.merge()
    whole, error = sd**2 * (n - 1), inner / df_inner
    effects = []
    for term in terms:
        others = [other for other in terms if other != term and (kind == 3 or not set(term) < set(other))]
        without = _unexplained(cells, [columns[other] for other in others])
        squares = without - _unexplained(cells, [columns[other] for other in [*others, term]])
        squares, df = max(squares, 0.0), columns[term].shape[1]
        f = squares / df / error if error else None
        effects.append(
            Effect(
                ":".join(cells.factors[place] for place in term),
                squares,
                df,
                f,
                None if f is None else float(stats.f.sf(f, df, df_inner)),
                squares / whole if whole else None,
                squares / (squares + inner) if squares + inner else None,
                (squares - df * error) / (whole + error) if whole + error else None,
            )
        )
    return [*effects, Effect("residual", inner, df_inner)]


def _code(cells: Cells, term: tuple[int, ...]) -> Floats:
    """Return the columns of a term in deviation coding (the last level is minus one everywhere): (K, df)."""
    made = np.ones((len(cells.index), 1))
    for place in term:
        size = len(cells.levels[place])
        coding = np.vstack([np.eye(size - 1), -np.ones(size - 1)])[cells.index[:, place]]
        made = (made[:, :, None] * coding[:, None, :]).reshape(len(made), -1)
    return made


def _unexplained(cells: Cells, columns: list[Floats]) -> float:
    """Return the sum of squares between cells that a least squares fit of ``columns`` and a mean leaves."""
    weight = np.sqrt(cells.n)
    # The grand mean is taken off first: squares of the level would cost the digits of small effects.
    target = (cells.mean - cells.merge()[0]) * weight
    design = np.hstack([np.ones((len(weight), 1)), *columns]) * weight[:, None]
    left = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float(left @ left)


@dataclass(frozen=True)
class Pair:
    """A post-hoc t-test of two levels of a factor, or of two cells; ``p_holm`` is adjusted for all pairs made."""

    factor: str
    first: str
    second: str
    means: tuple[float, float]
    sds: tuple[float, float]
    n: tuple[int, int]
    test: Test
    p_holm: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "test": self.test.as_dict()}


def compare_levels(cells: Cells, equal: bool = False) -> list[Pair]:
    """Test every pair of levels of every factor over all values that have them, adjusted by Holm over all pairs.

    The spread of a level includes what the other factors do to it. ``equal`` takes one variance for both (Student's
    test), otherwise Welch's.
    """
    sides = [
        (name, [(level, cells.select(name, level).merge()) for level in levels])
        for name, levels in zip(cells.factors, cells.levels, strict=True)
    ]
    return _pairs(sides, equal)


def compare_cells(cells: Cells, equal: bool = False) -> list[Pair]:
    """Test every pair of cells, adjusted by Holm over all pairs; cells with one value are left out."""
    rows = [row for row in range(len(cells.n)) if cells.n[row] > 1]
    sides = [(cells.name(row), (float(cells.mean[row]), float(cells.sd[row]), int(cells.n[row]))) for row in rows]
    return _pairs([("cell", sides)], equal)


def _pairs(sides: list[tuple[str, list[tuple[str, tuple[float, float, int]]]]], equal: bool) -> list[Pair]:
    found = [
        (name, one, two, t_from_summaries(a, b, equal), tuple(zip(a, b, strict=True)))
        for name, levels in sides
        for (one, a), (two, b) in combinations(levels, 2)
    ]
    adjusted = holm([test.p for *_, test, _ in found])
    return [
        Pair(name, one, two, both[0], both[1], both[2], test, p)  # type: ignore[arg-type]
        for (name, one, two, test, both), p in zip(found, adjusted, strict=True)
    ]
