"""Whether a model serves all: recall by gender and by speaker, the gaps between them, and who is served worst.

Gaps are over shared classes only, means over seeds, with percentile bootstrap intervals over speakers drawn within each
gender. The largest of several gaps is never 0 even where nobody is treated unequally, so each comes with what chance
gives: genders dealt at random to the same speakers (a permutation test, Good 2005, ch. 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import norm

from serkit.evaluation.metrics import Floats, confusion_cells, recalls
from serkit.evaluation.predictions import UNKNOWN, sorted_names
from serkit.evaluation.statistics.bootstrap import CONFIDENCE, RESAMPLES, Figure, mean_over, over_seeds

FEW = 5
"""With fewer speakers a gender, its figures are theirs rather than the gender's."""
FEW_UTTERANCES = 10

ALONE = "fewer than two speakers of a gender"
NAMELESS = "some speakers are unknown"

Numbers = dict[str, Any]


def judge_fairness(
    rows: pl.DataFrame, classes: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return how recall differs by gender and by speaker, ready for JSON.

    ``rows`` are judged test rows, speakers told apart. Figures have ``value, low, high, n, method`` and where there are
    more seeds ``sd_over_seeds``; ``reason`` says why one is null.

    ``gender`` holds ``groups`` {name: ``n``, ``speakers``, ``uar``, ``recall`` {class: figure}} over the ``classes``
    that all of them have; ``uar_gap``: the largest difference of their UAR, ``higher`` and ``lower`` naming them;
    ``opportunity`` {class: figure}: the same for the recall of each class, and ``opportunity_gap``, the largest of
    these with its ``class`` (equal opportunity: Hardt, Price & Srebro, NeurIPS 2016). Intervals of gaps are signed,
    higher minus lower, so one that contains 0 shows none; they take the pair as named beforehand, while ``by_chance``
    (95 % of the random deals stay below it) and ``p`` of both gaps know that they are the largest. ``worst`` is the
    group with the lowest UAR, ``worst_recall`` the class and group with the lowest recall (Sagawa et al., ICLR 2020);
    ``again`` is the share of resamples in which it is the lowest too. With fewer than two known genders only
    ``reason``.

    ``speaker`` holds ``each`` {name: ``n``, ``uar``, ``recall`` {class: figure}}, whose intervals are over the
    speaker's utterances (Wilson's for a recall, combined for the UAR by Zou & Donner, Stat. Med. 27, 2008), ``mean`` of
    the speakers' UAR, ``worst``, and the shares ``below_chance`` (1 / classes) and ``below_half`` (half of the mean)
    with Wilson intervals over speakers, the ``speakers`` concerned and those ``surely`` below: their interval is too.
    It is null where no speaker is known. ``notes`` say where there is too little to go by.
    """
    gender, notes = _judge_genders(rows, classes, resamples, seed)
    speaker, more = _judge_speakers(rows, classes)
    return {"gender": gender, "speaker": speaker, "notes": notes + more}


@dataclass(frozen=True)
class _Units:
    """Confusions (U, S, C, C) of every speaker and seed, and which group (U,) each speaker is of."""

    sums: Floats
    group: np.ndarray
    n: np.ndarray  # (G, 1 + C): utterances of a group, then those of each class

    def of(self, groups: np.ndarray, count: int) -> Floats:
        """Return the sums of every group under other ``groups`` (P, U): (P, G, S, C, C)."""
        flat = self.sums.reshape(len(self.sums), -1)
        made = np.stack([(groups == place).astype(np.float64) @ flat for place in range(count)], axis=1)
        return made.reshape(len(groups), count, *self.sums.shape[1:])

    def draw(self, resamples: int, seed: int) -> Floats:
        """Return sums of every group with its speakers drawn anew: (R, G, S, C, C)."""
        generator = np.random.default_rng(seed)
        flat, drawn = self.sums.reshape(len(self.sums), -1), []
        for place in range(len(self.n)):
            own = flat[self.group == place]
            weights = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
            drawn.append((weights.astype(np.float64) @ own).reshape(resamples, *self.sums.shape[1:]))
        return np.stack(drawn, axis=1)


def _count(rows: pl.DataFrame, classes: Sequence[str], groups: Sequence[str]) -> _Units:
    """Sum up confusions; a speaker that has utterances of two genders is one unit in each."""
    cells = confusion_cells(rows["truth"].to_list(), rows["prediction"].to_list(), classes)
    place = np.array([groups.index(name) for name in rows["gender"].to_list()])
    own = [f"s{who}" if who is not None else f"u{id}" for who, id in rows.select("speaker", "id").iter_rows()]
    _, speaker = np.unique(own, return_inverse=True)
    pairs, unit = np.unique(np.stack([place, speaker], axis=1), axis=0, return_inverse=True)
    _, seed = np.unique(rows["seed"].to_numpy(), return_inverse=True)
    size = len(pairs), int(seed.max()) + 1, len(classes), len(classes)
    at = (unit * size[1] + seed) * len(classes) ** 2 + cells
    sums = np.bincount(at, minlength=int(np.prod(size))).reshape(size).astype(np.float64)
    own_rows = [rows.filter(pl.col("gender") == name).unique("id") for name in groups]
    n = [[part.height, *(int((part["truth"] == label).sum()) for label in classes)] for part in own_rows]
    return _Units(sums, pairs[:, 0], np.array(n))


def _judge_genders(rows: pl.DataFrame, classes: Sequence[str], resamples: int, seed: int) -> tuple[Numbers, list[str]]:
    known = rows.filter(pl.col("gender").is_not_null() & (pl.col("gender") != UNKNOWN))
    groups = sorted_names(known["gender"]) if known.height else []
    if len(groups) < 2:
        found = f"the gender of all known speakers is {groups[0]}" if groups else "no gender is known"
        return {"reason": f"{found}: nothing to compare"}, []
    units = _count(known, classes, groups)
    total = units.of(units.group[None], len(groups))[0]  # (G, S, C, C)
    occurs = total.sum(axis=(1, 3)) > 0  # (G, C)
    shared = np.flatnonzero(occurs.all(axis=0))
    if not len(shared):
        return {"reason": f"no class occurs with all of {', '.join(groups)}: nothing to compare"}, []
    speakers = [int((units.group == place).sum()) for place in range(len(groups))]
    clustered = known["speaker"].null_count() == 0
    enough = clustered and min(speakers) > 1
    draws = _values(units.draw(resamples, seed), shared) if enough else None
    made = _Gaps(
        groups,
        [classes[place] for place in shared.tolist()],
        speakers,
        units.n[:, [0, *(shared + 1)]],
        _values(total[None], shared)[0],
        draws,
        ALONE if clustered else NAMELESS,
    )
    chance = _deal(units, len(groups), shared, resamples, seed) if enough else None
    notes = []
    few = (
        []
        if not clustered
        else [f"{count} {name}" for name, count in zip(groups, speakers, strict=True) if count < FEW]
    )
    if few:
        notes.append(f"{', '.join(few)} known: too few speakers to speak for a gender")
    if len(shared) < len(classes):
        notes.append(f"gaps are over the {len(shared)} of {len(classes)} classes that occur with every gender")
    return made.judge(chance), notes


def _values(sums: Floats, shared: np.ndarray) -> Floats:
    """Return UAR and recalls of sums (..., S, C, C) for every seed: (..., S, 1 + shared)."""
    recall = recalls(sums)[..., shared]
    return np.concatenate([mean_over(recall, axis=-1)[..., None], recall], axis=-1)


def _deal(units: _Units, count: int, shared: np.ndarray, resamples: int, seed: int) -> Floats:
    """Return gaps (R, 1 + shared) after dealing the groups at random to the same speakers."""
    generator = np.random.default_rng(seed + 1)
    dealt = generator.permuted(np.tile(units.group, (resamples, 1)), axis=1)
    means = mean_over(_values(units.of(dealt, count), shared), axis=2)  # (R, G, 1 + shared)
    return np.nanmax(means, axis=1) - np.nanmin(means, axis=1)


@dataclass(frozen=True)
class _Gaps:
    """Values (G, S, 1 + C) of groups and their draws (R, G, S, 1 + C); the first of the last axis is the UAR."""

    groups: list[str]
    classes: list[str]
    speakers: list[int]
    n: np.ndarray  # (G, 1 + C)
    values: Floats
    draws: Floats | None
    reason: str

    def judge(self, chance: Floats | None) -> Numbers:
        means = mean_over(self.values, axis=1)  # (G, 1 + C)
        gaps = {name: self._gap(means, place) for place, name in enumerate(self.classes, 1)}
        widest = max(gaps, key=lambda name: gaps[name]["value"])
        overall = self._gap(means, 0)
        if chance is not None:
            overall |= _against(overall["value"], chance[:, 0])
        largest = {"class": widest, **gaps[widest]}
        if chance is not None:
            largest |= _against(largest["value"], np.nanmax(chance[:, 1:], axis=1))
        return {
            "classes": self.classes,
            "groups": {name: self._group(place) for place, name in enumerate(self.groups)},
            "uar_gap": overall,
            "opportunity": gaps,
            "opportunity_gap": largest,
            "worst": self._worst(means, slice(0, 1)),
            "worst_recall": self._worst(means, slice(1, None)),
        }

    def _group(self, place: int) -> Numbers:
        made = [
            self._figure(self.values[place, :, at], self._drawn(place, at), self.n[place, at])
            for at in range(len(self.classes) + 1)
        ]
        recall = {name: figure.as_dict() for name, figure in zip(self.classes, made[1:], strict=True)}
        return {
            "n": int(self.n[place, 0]),
            "speakers": self.speakers[place],
            "uar": made[0].as_dict(),
            "recall": recall,
        }

    def _drawn(self, place: int, at: int) -> Floats | None:
        return None if self.draws is None else self.draws[:, place, :, at]

    def _gap(self, means: Floats, at: int) -> Numbers:
        high, low = int(np.argmax(means[:, at])), int(np.argmin(means[:, at]))
        if high == low:  # all are equal: any pair says so
            high, low = 0, 1
        drawn = None if self.draws is None else self.draws[:, high, :, at] - self.draws[:, low, :, at]
        made = self._figure(
            self.values[high, :, at] - self.values[low, :, at], drawn, self.n[high, at] + self.n[low, at]
        )
        return {"higher": self.groups[high], "lower": self.groups[low], **made.as_dict()}

    def _worst(self, means: Floats, columns: slice) -> Numbers:
        part = means[:, columns]
        group, column = np.unravel_index(int(np.argmin(part)), part.shape)
        at = int(column) + (columns.start or 0)
        made = self._figure(self.values[group, :, at], self._drawn(int(group), at), self.n[group, at]).as_dict()
        if self.draws is not None:
            drawn = mean_over(self.draws, axis=2)[:, :, columns]
            lowest = np.nanargmin(drawn.reshape(len(drawn), -1), axis=1)
            made["again"] = float((lowest == int(group) * part.shape[1] + int(column)).mean())
        named = {"group": self.groups[int(group)]}
        return named | ({"class": self.classes[at - 1]} if at else {}) | made

    def _figure(self, values: Floats, drawn: Floats | None, utterances: int) -> Figure:
        """Return the mean over seeds of ``values`` (S,) with the interval of ``drawn`` (R, S)."""
        value, sd = over_seeds(values)
        n = int(utterances)
        if drawn is None:
            return Figure(value, None, None, n, "no interval", sd, self.reason)
        means = mean_over(drawn, axis=1)
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.percentile(means[~np.isnan(means)], [tail, 100 - tail])
        counts = " and ".join(map(str, self.speakers))
        method = f"percentile bootstrap over {counts} speakers within their genders, {len(means)} resamples"
        method += f", jointly over {len(values)} seeds" if len(values) > 1 else ""
        return Figure(value, float(low), float(high), n, method, sd)


def _against(value: float, chance: Floats) -> Numbers:
    """Return what chance gives: the 95th percentile of gaps of random deals, and the p-value of this one."""
    known = chance[~np.isnan(chance)]
    above = int((known >= value - 1e-12).sum())
    return {"by_chance": float(np.percentile(known, 95)), "p": (above + 1) / (len(known) + 1)}


def _judge_speakers(rows: pl.DataFrame, classes: Sequence[str]) -> tuple[Numbers | None, list[str]]:
    known = rows.filter(pl.col("speaker").is_not_null()).with_columns(gender=pl.lit("all"))
    if not known.height:
        return None, []
    names = sorted_names(known["speaker"])
    each = {}
    for name in names:
        own = known.filter(pl.col("speaker") == name)
        sums = _count(own, classes, ["all"]).sums[0]  # (S, C, C)
        each[name] = _judge_speaker(sums, own["id"].n_unique(), classes)
    uar = {name: made["uar"]["value"] for name, made in each.items()}
    mean, chance = float(np.mean(list(uar.values()))), 1 / len(classes)
    worst = min(uar, key=lambda name: uar[name])
    notes = []
    typical = float(np.median([made["n"] for made in each.values()]))
    if typical < FEW_UTTERANCES:
        notes.append(f"half of the speakers have {typical:g} utterances or fewer: shares of speakers are mostly luck")
    return {
        "each": each,
        "count": len(each),
        "mean": mean,
        "chance": chance,
        "worst": {"speaker": worst, **each[worst]["uar"]},
        "below_chance": _share(each, chance),
        "below_half": _share(each, mean / 2),
    }, notes


def _judge_speaker(sums: Floats, n: int, classes: Sequence[str]) -> Numbers:
    recall = mean_over(recalls(sums), axis=0)
    # Answers of several seeds to one utterance are no new utterances: counts are means over seeds.
    counts = sums.sum(axis=-1).mean(axis=0)
    has = np.flatnonzero(counts > 0)
    low, high = wilson(recall[has], counts[has])
    value = float(recall[has].mean())
    reach = [float(np.sqrt(((recall[has] - bound) ** 2).sum())) / len(has) for bound in (low, high)]
    method = "intervals over the utterances of the speaker, not over speakers"
    figures = {
        classes[place]: {
            "value": float(recall[place]),
            "low": float(a),
            "high": float(b),
            "n": round(float(counts[place])),
        }
        for place, a, b in zip(has.tolist(), low, high, strict=True)
    }
    uar = Figure(value, max(0.0, value - reach[0]), min(1.0, value + reach[1]), n, method, None)
    return {"n": n, "uar": uar.as_dict(), "recall": figures}


def wilson(share: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Return Wilson's 95 % interval of shares of ``n``, which may be a mean of several (J. Am. Stat. Assoc. 22, 1927).

    >>> [round(float(bound), 4) for bound in wilson(np.array(0.0), np.array(10.0))]
    [0.0, 0.2775]
    """
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    middle = share + z**2 / (2 * n)
    reach = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum((middle - reach) / (1 + z**2 / n), 0.0), np.minimum((middle + reach) / (1 + z**2 / n), 1.0)


def _share(each: dict[str, Numbers], bound: float) -> Numbers:
    below = [name for name, made in each.items() if made["uar"]["value"] < bound]
    surely = [name for name in below if each[name]["uar"]["high"] < bound]
    share, n = len(below) / len(each), len(each)
    low, high = wilson(np.array(share), np.array(float(n)))
    interval = {
        "value": share,
        "low": float(low),
        "high": float(high),
        "n": n,
        "method": "Wilson interval over speakers",
    }
    return {"bound": bound, **interval, "speakers": below, "surely": surely}
