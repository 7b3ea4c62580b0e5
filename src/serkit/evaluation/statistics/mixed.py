"""Which of several systems is right more often, as a logistic model with random effects of utterances and speakers.

log odds of being right = system + gender + corpus + utterance + speaker + what a speaker does to a system (+ seed).
Some utterances and speakers are hard for every system: left out, these make observations look independent that are not.

The likelihood integrates the utterances' effects by quadrature, because one utterance has only
as many answers as there are systems and seeds, where Laplace's approximation is poor, and those of speakers, which have
many answers, by Laplace's approximation. Without an effect to integrate it is Laplace's alone, as lme4's ``glmer`` has
it. Pinheiro & Chao, J. Comput. Graph. Stat. 15 (2006); Jaeger, J. Mem. Lang. 59 (2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, gammaln, logsumexp
from scipy.stats import norm

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats

CONFIDENCE = 0.95
REACH = 8.0
TINY = 1e-3
"""Standard deviations below this are taken as 0."""

WIDEST = 25.0
"""Log odds and deviations beyond this are those of answers that never vary."""
OPTIONS = {"gtol": 1e-3, "ftol": 1e-11, "eps": 1e-6, "maxfun": 5000}

Numbers = dict[str, Any]


@dataclass(frozen=True)
class MixedFit:
    """A fitted model: log odds ``coefficient`` with standard ``error`` by name, and what is random.

    ``deviations`` are the standard deviations of the random effects on the scale of log odds, ``levels`` how many
    utterances, speakers, ... there are. ``error`` and ``log_likelihood`` (the maximum) belong to the approximation that
    ``method`` names.
    """

    coefficient: dict[str, float]
    error: dict[str, float]
    deviations: dict[str, float]
    levels: dict[str, int]
    log_likelihood: float
    answers: int
    method: str

    def odds(self, name: str) -> Numbers:
        """Return ``odds_ratio`` with its 95 % Wald interval ``low`` to ``high``, ``p``, ``log_odds`` and ``error``."""
        value, error = self.coefficient[name], self.error[name]
        reach = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
        low, high = float(np.exp(value - reach)), float(np.exp(value + reach))
        p = float(2 * norm.sf(abs(value) / error))
        return {"odds_ratio": float(np.exp(value)), "low": low, "high": high, "p": p, "log_odds": value, "error": error}


@dataclass(frozen=True)
class _Block:
    """Clusters (utterances) of R rows each, those that look alike once: I patterns."""

    design: Floats  # (I, R, P)
    place: NDArray[np.int64]  # (I, R, G): which of the K random effects of the other groups
    right: Floats  # (I, R)
    trials: Floats  # (I, R)
    weight: Floats  # (I,): how many clusters look so


def fit_mixed(
    right: ArrayLike,
    trials: ArrayLike,
    design: Mapping[str, ArrayLike],
    groups: Mapping[str, Sequence[Any]],
    integrate: str | None = None,
) -> MixedFit:
    """Fit log odds of ``right`` (n,) of ``trials`` (n,) by maximum likelihood.

    ``design`` are the columns {name: (n,)} of the fixed part, an intercept among them; ``groups`` {name: (n,) labels}
    each give every level a normal random intercept, nested or crossed. The group named ``integrate`` is integrated by
    quadrature, the others by Laplace's approximation; it should be the one with most levels. Raises
    ``InputError`` for columns that explain each other or answers that are all alike.
    """
    hits, tries = (np.asarray(values, dtype=np.float64) for values in (right, trials))
    columns = np.stack([np.asarray(column, dtype=np.float64) for column in design.values()], axis=1)
    if not 0 < hits.sum() < tries.sum():
        raise InputError("a logistic model needs right and wrong answers")
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise InputError(f"the columns {', '.join(design)} explain each other: leave one out")
    names = [name for name in groups if name != integrate]
    codes = {name: np.unique(np.asarray(labels).astype(str), return_inverse=True)[1] for name, labels in groups.items()}
    cluster = codes[integrate] if integrate else np.arange(len(hits))
    sizes = [int(codes[name].max()) + 1 for name in names]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    places = (
        np.stack([codes[name] + offset for name, offset in zip(names, offsets, strict=False)], axis=1)
        if names
        else None
    )
    blocks = _collect(cluster, columns, places, hits, tries)
    constant = float((gammaln(tries + 1) - gammaln(hits + 1) - gammaln(tries - hits + 1)).sum())
    model = _Model(blocks, int(offsets[-1]), integrate is not None, constant)
    levels = {name: int(code.max()) + 1 for name, code in codes.items()}
    return model.fit(list(design), names, integrate, levels, int(tries.sum()))


def _collect(
    cluster: NDArray[np.int64], columns: Floats, places: NDArray[np.int64] | None, hits: Floats, tries: Floats
) -> list[_Block]:
    """Add up rows that only differ in their answers, lay clusters side by side and keep one of those that are alike."""
    places = np.zeros((len(hits), 0), dtype=np.int64) if places is None else places
    keys = np.column_stack([cluster, columns, places])
    keys, row = np.unique(keys, axis=0, return_inverse=True)
    rows = np.column_stack([keys[:, 1:], np.bincount(row, hits), np.bincount(row, tries)])
    _, start, size = np.unique(keys[:, 0], return_index=True, return_counts=True)
    blocks, width = [], columns.shape[1]
    for count in np.unique(size):
        made = rows[start[size == count][:, None] + np.arange(count)]  # (I, R, P + G + 2)
        kinds, weight = np.unique(made.reshape(len(made), -1), axis=0, return_counts=True)
        made = kinds.reshape(-1, *made.shape[1:])
        place = made[..., width:-2].astype(np.int64)
        blocks.append(_Block(made[..., :width], place, made[..., -2], made[..., -1], weight.astype(np.float64)))
    return blocks


class _Model:
    """The approximate log likelihood of parameters: coefficients (P), deviations of groups (G), of clusters (1)."""

    def __init__(self, blocks: list[_Block], effects: int, integrates: bool, constant: float) -> None:
        self.blocks, self.integrates, self.constant = blocks, integrates, constant
        self.width, self.groups = blocks[0].design.shape[-1], blocks[0].place.shape[-1]
        self.effects = np.zeros(effects)  # where the search for the mode starts: the last one
        self.most = max(float(block.trials.sum(axis=1).max()) for block in blocks)

    def grid(self, spread: float) -> tuple[Floats, Floats]:
        """Return points over +-8 standard deviations and the logs of their normal weights: the trapezoidal rule.

        For smooth functions that vanish at both ends its error falls exponentially in the spacing, and points that do
        not follow the mode keep derivatives consistent where adaptive ones, for large deviations, do not. In log odds
        the spacing is at most 1 (a third of the logistic function's distance to its pole) and no more than the width of
        what many answers leave of a cluster.
        """
        if not self.integrates:
            return np.zeros(1), np.zeros(1)
        spacing = 0.4 / max(1.0, 0.4 * spread * max(1.0, np.sqrt(self.most) / 2))
        points = np.arange(-REACH, REACH + spacing / 2, spacing)
        return points, norm.logpdf(points) + np.log(spacing)

    def log_likelihood(self, parameters: Floats) -> float:
        """Return Laplace's approximation around the mode of the random effects, found by Newton steps."""
        value = -np.inf
        step: Floats = np.zeros(len(self.effects))
        effects: Floats = self.effects.copy()
        for _ in range(100):
            joint, gradient, curvature = self._joint(parameters, effects)
            if joint < value - 1e-9:  # a step too far: go back half of it
                step = step / 2
                effects = effects - step
                continue
            # Steps shrink quadratically: after one this small the mode is exact, as differences of values need it.
            if value > -np.inf and np.abs(step).max(initial=0.0) < 1e-6:
                break
            value, step = joint, np.asarray(np.linalg.solve(curvature, gradient), dtype=np.float64)
            effects = effects + step
        self.effects = effects
        return joint - 0.5 * float(np.linalg.slogdet(curvature)[1]) + self.constant

    def _joint(self, parameters: Floats, effects: Floats) -> tuple[float, Floats, Floats]:
        """Return the joint log density of answers and effects, its gradient (K,) and negative curvature (K, K)."""
        spread = np.abs(parameters[self.width : self.width + self.groups])
        own = abs(float(parameters[-1])) if self.integrates else 0.0
        grid = self.grid(own)
        value, gradient = -float(effects @ effects) / 2, -effects
        matrix = np.zeros(len(effects) ** 2)
        for block in self.blocks:
            base = block.design @ parameters[: self.width]
            if self.groups:
                base = base + effects[block.place] @ spread
            each, score, curvature = _integrate(block, base, own * grid[0], grid[1])
            value += float(block.weight @ each)
            score, curvature = score * block.weight[:, None], curvature * block.weight[:, None, None]
            for one, place in enumerate(np.moveaxis(block.place, -1, 0)):
                gradient = gradient + spread[one] * np.bincount(place.ravel(), score.ravel(), len(effects))
                for two, other in enumerate(np.moveaxis(block.place, -1, 0)):
                    at = place[:, :, None] * len(effects) + other[:, None, :]
                    matrix += spread[one] * spread[two] * np.bincount(at.ravel(), curvature.ravel(), len(matrix))
        return value, gradient, matrix.reshape(len(effects), len(effects)) + np.eye(len(effects))

    def fit(
        self, columns: list[str], groups: list[str], integrate: str | None, levels: dict[str, int], answers: int
    ) -> MixedFit:
        """Maximise the likelihood; errors come from its curvature in all parameters."""
        spreads = [*groups, *([integrate] if integrate else [])]
        start = np.concatenate([self._plain(), np.full(len(spreads), 0.7)])
        bounds = [(-WIDEST, WIDEST)] * self.width + [(0.0, WIDEST)] * len(spreads)
        found = minimize(lambda at: -self.log_likelihood(at), start, method="L-BFGS-B", bounds=bounds, options=OPTIONS)
        best = found.x.copy()
        if np.abs(best).max() > 0.99 * WIDEST:
            name = [*columns, *spreads][int(np.abs(best).argmax())]
            raise InputError(
                f"the mixed model has no maximum: answers hardly vary within {name!r} (all right or all wrong)"
            )
        best[self.width :] = np.where(best[self.width :] < TINY, 0.0, best[self.width :])
        error = self._errors(best, spreads)
        where = f"{integrate} by quadrature ({len(self.grid(best[-1])[0])} points)" if integrate else ""
        laplace = f"{', '.join(groups)} by Laplace" if groups else ""
        return MixedFit(
            dict(zip(columns, best[: self.width].tolist(), strict=True)),
            dict(zip(columns, error.tolist(), strict=True)),
            dict(zip(spreads, best[self.width :].tolist(), strict=True)),
            levels,
            self.log_likelihood(best),
            answers,
            "logistic mixed model, maximum likelihood: " + "; ".join(text for text in (where, laplace) if text),
        )

    def _plain(self) -> Floats:
        """Return the coefficients of the model without random effects."""
        design = np.concatenate([block.design.reshape(-1, self.width) for block in self.blocks])
        weight = np.concatenate([np.repeat(block.weight, block.trials.shape[1]) for block in self.blocks])
        right, trials = (
            np.concatenate([getattr(block, name).ravel() for block in self.blocks]) for name in ("right", "trials")
        )
        at = np.zeros(self.width)
        for _ in range(50):
            chance = expit(design @ at)
            bend = weight * trials * chance * (1 - chance)
            # A little ridge keeps separated answers (a system that is always right) from running away.
            matrix = (design * bend[:, None]).T @ design + 1e-4 * np.eye(self.width)
            step = np.linalg.solve(matrix, design.T @ (weight * (right - trials * chance)) - 1e-4 * at)
            at = at + np.clip(step, -2.0, 2.0)
            if np.abs(step).max() < 1e-8:
                break
        return at

    def _errors(self, best: Floats, spreads: list[str]) -> Floats:
        """Return standard errors of the coefficients from central differences; a deviation of 0 stays where it is."""
        free = [place for place in range(len(best)) if place < self.width or best[place] > 0]
        step = 1e-3
        size, centre = len(free), self.log_likelihood(best)
        moves = np.eye(len(best))[free] * step
        curvature = np.empty((size, size))
        for one in range(size):
            up, down = (self.log_likelihood(best + sign * moves[one]) for sign in (1, -1))
            curvature[one, one] = (up - 2 * centre + down) / step**2
            for two in range(one):
                both = sum(self.log_likelihood(best + sign * (moves[one] + moves[two])) for sign in (1, -1))
                alone = step**2 * (curvature[one, one] + curvature[two, two])
                curvature[one, two] = curvature[two, one] = (both - 2 * centre - alone) / (2 * step**2)
        bends, directions = np.linalg.eigh(-curvature)
        if bends[0] <= 1e-9 * bends[-1]:
            widest = max(zip(best[self.width :], spreads, strict=True))
            raise InputError(
                f"the mixed model is not determined by these answers: each {widest[1]} is nearly always right or "
                f"always wrong, whatever the system (deviation {widest[0]:.1f}), so errors cannot be told"
            )
        return np.sqrt(np.square(directions[: self.width]) @ (1 / bends))


def _integrate(block: _Block, base: Floats, shifts: Floats, prior: Floats) -> tuple[Floats, Floats, Floats]:
    """Integrate clusters over shifts (Q,) of their log odds ``base`` (I, R), with log weights ``prior``.

    Returns each log likelihood (I,), its gradient (I, R) and negative curvature (I, R, R) in ``base``.
    """
    log_odds = base[..., None] + shifts  # (I, R, Q)
    small = np.exp(-np.abs(log_odds))
    chance = np.where(log_odds >= 0, 1.0, small) / (1 + small)
    trials, right = block.trials[..., None], block.right[..., None]
    terms = right * log_odds - trials * (np.maximum(log_odds, 0.0) + np.log1p(small))
    each = terms.sum(axis=1) + prior
    value = logsumexp(each, axis=1)
    posterior = np.exp(each - value[:, None])[:, None, :]
    surprise = right - trials * chance
    weighed = posterior * surprise
    score = weighed.sum(axis=-1)
    curvature = score[:, :, None] * score[:, None, :] - weighed @ surprise.transpose(0, 2, 1)
    rows = np.arange(base.shape[1])
    curvature[:, rows, rows] += trials[..., 0] * (posterior * chance * (1 - chance)).sum(axis=-1)
    return value, score, curvature
