"""How far a figure can be trusted: bootstrap intervals clustered by speaker, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from serkit.errors import InputError
from serkit.evaluation.metrics import FROM_CONFUSION, Floats, confusion_cells, ratio

RESAMPLES = 2000
CONFIDENCE = 0.95

Metric = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Figure:
    """A number with what is needed to trust it.

    ``value`` is the mean over seeds and ``low``, ``high`` its 95 % interval; ``n`` counts utterances, not utterances
    times seeds. What is unknown is None, never NaN, and ``reason`` then says why.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    sd_over_seeds: float | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; ``reason`` only where there is one."""
        fields = asdict(self)
        return fields if self.reason else {name: value for name, value in fields.items() if name != "reason"}


@dataclass(frozen=True)
class Tally:
    """Sums of additive statistics, such as confusions, for every unit that is resampled and every seed.

    ``sums`` is (U, S, ...): units, seeds, then the statistic's own axes; ``repeats`` (U,) says how many units have
    exactly these sums. ``n`` counts utterances, ``speakers`` the known speakers; ``clustered`` is False where whole
    speakers cannot be resampled and utterances are. ``units`` describes them in words.
    """

    sums: Floats
    repeats: NDArray[np.int64]
    n: int
    speakers: int
    clustered: bool
    units: str

    @property
    def total(self) -> Floats:
        """The statistic of every seed over all units: (S, ...)."""
        return np.tensordot(self.repeats.astype(np.float64), self.sums, axes=1)

    def resample(self, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
        """Draw units with replacement, the same for all seeds, and return their sums: (R, S, ...)."""
        generator = np.random.default_rng(seed)
        flat = self.sums.reshape(len(self.sums), -1)
        count = int(self.repeats.sum())
        owner = np.repeat(np.arange(len(flat), dtype=np.int32), self.repeats)
        block = max(1, 2_000_000 // count)
        drawn = []
        for start in range(0, resamples, block):
            rows = min(block, resamples - start)
            chosen = generator.integers(count, size=(rows, count), dtype=np.int32)
            picked = owner[chosen] + np.arange(rows, dtype=np.int32)[:, None] * len(flat)
            weights = np.bincount(picked.ravel(), minlength=rows * len(flat)).reshape(rows, len(flat))
            drawn.append(weights.astype(np.float64) @ flat)
        return np.concatenate(drawn).reshape(resamples, *self.sums.shape[1:])


def tally(
    statistics: Floats | sparse.csr_array,
    ids: Sequence[str],
    speakers: Sequence[str | None],
    seeds: Sequence[Any],
    shape: tuple[int, ...],
) -> Tally:
    """Sum rows of additive statistics by speaker and seed.

    ``statistics`` is (n, M), dense or sparse, a row for each utterance and seed; ``shape`` is what M unfolds to. An
    utterance whose speaker is None is a unit of its own; with one speaker and nothing else every utterance is.
    """
    rows = statistics.shape[0]
    if not rows or not rows == len(ids) == len(speakers) == len(seeds):
        raise InputError(f"got {rows} rows, {len(ids)} ids, {len(speakers)} speakers and {len(seeds)} seeds")
    units, known, clustered, text = list_units(ids, speakers)
    _, unit = np.unique(units, return_inverse=True)
    values, seed = np.unique(np.asarray(seeds), return_inverse=True)
    groups = (unit.max() + 1) * len(values)
    member = sparse.csr_array((np.ones(rows), (unit * len(values) + seed, np.arange(rows))), shape=(groups, rows))
    sums = member @ statistics
    dense = sums.toarray() if sparse.issparse(sums) else np.asarray(sums)
    # Equal units are drawn as one with a weight: thousands of single utterances become a few dozen patterns.
    patterns, repeats = np.unique(dense.reshape(unit.max() + 1, -1), axis=0, return_counts=True)
    return Tally(patterns.reshape(-1, len(values), *shape), repeats, len(set(ids)), known, clustered, text)


def list_units(ids: Sequence[str], speakers: Sequence[str | None]) -> tuple[list[str], int, bool, str]:
    """Return of every row the unit that is resampled with it, and the last three fields of a :class:`Tally`."""
    known = {speaker for speaker in speakers if speaker is not None}
    lost = len({id for id, speaker in zip(ids, speakers, strict=True) if speaker is None})
    if len(known) + lost < 2 or not known:
        why = "one speaker" if known else "speakers unknown"
        count = len(set(ids))
        text = f"{count} utterance{'s' * (count != 1)} ({why}: taken as independent, so the interval is too narrow)"
        return list(ids), len(known), False, text
    units = [f"s{speaker}" if speaker is not None else f"u{id}" for id, speaker in zip(ids, speakers, strict=True)]
    text = f"{len(known)} speaker{'s' * (len(known) != 1)}"
    text += f" and {lost} utterance{'s' * (lost != 1)} without one" if lost else ""
    return units, len(known), True, text


def tally_confusions(
    truth: ArrayLike,
    prediction: ArrayLike,
    classes: Sequence[str],
    ids: Sequence[str],
    speakers: Sequence[str | None],
    seeds: Sequence[Any],
) -> Tally:
    """Sum confusions (rows = truth) by speaker and seed: a :class:`Tally` of (C, C), from n rows each."""
    cells, size = confusion_cells(truth, prediction, classes), len(classes)
    counts = sparse.csr_array((np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=(len(cells), size * size))
    return tally(counts, ids, speakers, seeds, (size, size))


def over_seeds(values: ArrayLike) -> tuple[float | None, float | None]:
    """Return the mean of one value a seed and their sample (ddof 1) standard deviation; None where undefined."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if not len(array):
        return None, None
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def figures(
    of: Tally,
    metric: Metric,
    n: Sequence[int],
    draws: Floats | None,
    prefix: str = "",
    reason: str = "no utterance to judge",
) -> list[Figure]:
    """Return a figure for each of the M values that ``metric`` makes of sums (..., *shape): (..., M).

    ``n`` are the M counts of utterances. ``draws`` comes from :meth:`Tally.resample`; None leaves the intervals out.
    Values are means over seeds; intervals are percentiles of the means over seeds, the same units drawn for each seed
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). Resamples in which the value is undefined are
    left out and counted in ``method``; ``reason`` is given for a value that does not exist at all.
    """
    points = metric(of.total)
    replicates = None if draws is None else mean_over(metric(draws), axis=1)
    return [
        create_figure(
            points[:, column], None if replicates is None else replicates[:, column], count, of.units, prefix, reason
        )
        for column, count in enumerate(n)
    ]


def create_figure(
    points: Floats,
    replicates: Floats | None,
    n: int,
    units: str,
    prefix: str = "",
    reason: str = "no utterance to judge",
) -> Figure:
    """Return the figure of one value a seed (S,) and of their means in every resample (R,), as :func:`figures` does."""
    value, sd = over_seeds(points)
    if value is None:
        return Figure(None, None, None, n, f"{prefix}not computed", reason=reason)
    if replicates is None:
        return Figure(value, None, None, n, f"{prefix}no interval", sd, reason="fewer than two speakers to resample")
    drawn = replicates[~np.isnan(replicates)]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail]) if len(drawn) else (value, value)
    method = f"{prefix}percentile bootstrap over {units}, {len(replicates)} resamples"
    method += f", jointly over {len(points)} seeds" if len(points) > 1 else ""
    undefined = len(replicates) - len(drawn)
    method += f" ({undefined} undefined and left out)" if undefined else ""
    return Figure(value, float(low), float(high), n, method, sd)


def mean_over(values: Floats, axis: int) -> Floats:
    """Return the mean of the defined (not NaN) ``values`` along ``axis``, NaN where there is none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


def one(metric: Metric) -> Metric:
    """Turn a metric with results (...) into one with results (..., 1), as :func:`figures` takes."""
    return lambda sums: np.asarray(metric(sums))[..., None]


def bootstrap(
    truth: ArrayLike,
    prediction: ArrayLike,
    classes: Sequence[str],
    speakers: Sequence[str | None],
    ids: Sequence[str] | None = None,
    seeds: Sequence[Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Figure]:
    """Return uar, accuracy, f1_macro and f1_weighted with 95 % percentile bootstrap intervals clustered by speaker.

    All sequences have n entries, one for each utterance and training seed. ``ids`` name the utterances (default: all
    different), ``seeds`` the training seeds (default: one); ``seed`` starts the random generator: the same input in any
    row order gives the same result. With one speaker, utterances are resampled and ``method`` says so.

    >>> made = bootstrap(["happy", "sad"] * 4, ["happy", "sad", "sad", "sad"] * 2, ["happy", "sad"], list("aabbccdd"))
    >>> made["uar"].value, made["uar"].method
    (0.75, 'percentile bootstrap over 4 speakers, 2000 resamples')
    """
    rows = len(speakers)
    ids = [str(row) for row in range(rows)] if ids is None else ids
    of = tally_confusions(truth, prediction, classes, ids, speakers, [0] * rows if seeds is None else seeds)
    draws = of.resample(resamples, seed)
    return {name: figures(of, one(metric), [of.n], draws)[0] for name, metric in FROM_CONFUSION.items()}
