"""How alike two representations of the same utterances are: CKA and CCA, with intervals over speakers.

A representation is a matrix with a row for each of ``n`` utterances. Linear CKA and its estimator without bias ask
whether the same pairs of utterances are alike in both, CCA whether directions of one can be found in the other.

Kornblith et al. 2019, https://arxiv.org/abs/1905.00414; Song et al. 2012, https://jmlr.org/papers/v13/song12a.html;
Raghu et al. 2017, https://arxiv.org/abs/1706.05806; Morcos et al. 2018, https://arxiv.org/abs/1806.05759; Nguyen et al.
2021, https://arxiv.org/abs/2010.15327.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from serkit.errors import InputError
from serkit.evaluation.metrics import Floats

TINY = 1e-300
"""Columns that vary by less are constant: their mean cannot be subtracted in floating point."""
FEWEST = 4
"""Utterances that CKA needs at least: the unbiased estimator divides by n - 3."""
SHARE = 0.5
"""Bandwidth of the Gaussian kernel in root median squared distances."""
VARIANCE = 0.99


def standardise(features: ArrayLike) -> Floats:
    """Return ``features (n, D)`` with every column at mean 0 and deviation 1; constant columns become 0.

    Linear CKA weighs columns by their variance: in eGeMAPS as it is, a ratio whose denominator came near zero once may
    outweigh everything else.
    """
    centred = centre(features)
    size = np.abs(centred).max(axis=0, initial=0)
    flat = (size <= 1e-12 * np.abs(_matrix(features)).max(axis=0, initial=0)) | (size < TINY)
    scaled = np.divide(centred, size, out=np.zeros_like(centred), where=~flat)  # squares of small numbers are 0
    return np.divide(scaled, scaled.std(axis=0), out=np.zeros_like(centred), where=~flat)


def centre(features: ArrayLike) -> Floats:
    """Return ``features (n, D)`` with every column at mean 0."""
    matrix = _matrix(features)
    return matrix - matrix.mean(axis=0)


def linear_gram(features: ArrayLike) -> Floats:
    """Return the products of the rows of ``features (n, D)``: ``(n, n)``."""
    matrix = _matrix(features)
    return matrix @ matrix.T


def rbf_gram(features: ArrayLike, share: float = SHARE) -> Floats:
    """Return Gaussian kernels ``(n, n)`` of the rows of ``features (n, D)``.

    The bandwidth is ``share`` times the root of the median squared distance, the zeros of rows with themselves counted
    (as in the code of Kornblith et al.).
    """
    if not share > 0:
        raise InputError(f"the bandwidth is a positive share of the median distance, not {share}")
    products = linear_gram(centre(features))  # distances do not change, rounding errors shrink
    norms = np.diag(products)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0)
    median = float(np.median(squared))
    if median == 0:
        raise InputError("more than half of the utterances are represented alike: an RBF kernel has no bandwidth")
    return np.exp(-squared / (2 * share**2 * median))


def hsic(one: ArrayLike, other: ArrayLike, debiased: bool = False) -> float:
    """Return the Hilbert-Schmidt independence criterion of two Gram matrices ``(n, n)``, not divided by ``n``'s.

    Biased: ``tr(KHLH)``. Debiased: ``n (n - 3)`` times the unbiased estimator of Song et al. 2012, which is 0 on
    average for independent representations and may be negative.
    """
    first, second = _grams(one, other, debiased)
    return float(_hsic(first, second, np.ones((1, len(first))), debiased)[0])


def cka(one: ArrayLike, other: ArrayLike, debiased: bool = False) -> float:
    """Return the centred kernel alignment of two Gram matrices ``(n, n)``: 1 for equal ones.

    Biased values are in [0, 1] and grow with width over ``n`` even for independent representations; ``debiased`` ones
    are near 0 for those and in [-1, 1] (NaN when a representation says nothing).
    """
    first, second = _grams(one, other, debiased)
    ones = np.ones((1, len(first)))
    across, own, others = (_hsic(*pair, ones, debiased)[0] for pair in _pairs(first, second))
    return float(align(across, own, others))


def linear_cka(one: ArrayLike, other: ArrayLike, debiased: bool = False) -> float:
    """Return the linear CKA of ``one (n, D)`` and ``other (n, E)``; see :func:`cka`.

    >>> points = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(linear_cka(points, -2 * points[:, ::-1] + 1), 6)
    1.0
    """
    return cka(linear_gram(centre(one)), linear_gram(centre(other)), debiased)


def rbf_cka(one: ArrayLike, other: ArrayLike, share: float = SHARE, debiased: bool = False) -> float:
    """Return the CKA of ``one (n, D)`` and ``other (n, E)`` with Gaussian kernels; see :func:`rbf_gram`."""
    return cka(rbf_gram(one, share), rbf_gram(other, share), debiased)


def linear_cka_of_features(one: ArrayLike, other: ArrayLike, debiased: bool = False) -> float:
    """Return what :func:`linear_cka` does from ``(D, E)`` products: less work where ``n`` exceeds the widths."""
    first, second = centre(one), centre(other)
    _same_rows(first, second)
    _check_count(first)
    return float(align(*(_hsic_of_features(*pair, debiased) for pair in _pairs(first, second))))


def minibatch_cka(batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> float:
    """Return linear CKA from pairs of ``(b, D)`` and ``(b, E)``, batch by batch (Nguyen et al. 2021).

    Averages of the unbiased HSIC over batches estimate the same value as all utterances at once, so that nothing of
    size ``n`` by ``n`` is held.
    """
    sums, count = np.zeros(3), 0
    for one, other in batches:
        first, second = _grams(linear_gram(one), linear_gram(other), True)
        size, ones = len(first), np.ones((1, len(first)))
        sums += [_hsic(*pair, ones, True)[0] / (size * (size - 3)) for pair in _pairs(first, second)]
        count += 1
    if not count:
        raise InputError("there is no batch to compare")
    return float(align(*sums))


def mean_squared_cca(one: ArrayLike, other: ArrayLike, centred: bool = True) -> float:
    """Return the mean squared canonical correlation of ``one (n, D)`` and ``other (n, E)``, in [0, 1].

    The mean is over the smaller rank. ``centred=False`` leaves the means in, as the papers' code does: a mean far from
    zero then counts as a direction that the two share. Independent representations get about the larger rank over
    ``n``, and any two get 1 once a rank reaches ``n``: reduce them first, see :func:`svcca`.
    """
    first, second = (orthonormal(each, centred) for each in (one, other))
    _same_rows(first, second)
    return float(np.sum((first.T @ second) ** 2) / min(first.shape[1], second.shape[1]))


def svcca(one: ArrayLike, other: ArrayLike, variance: float = VARIANCE) -> float:
    """Return the mean canonical correlation after each side is cut to the directions with ``variance`` of its own.

    Raghu et al. 2017. Takes ``(n, D)`` and ``(n, E)``; in [0, 1].
    """
    return float(
        canonical_correlations(principal_directions(one, variance), principal_directions(other, variance)).mean()
    )


def pwcca(one: ArrayLike, other: ArrayLike) -> float:
    """Return canonical correlations of ``one (n, D)`` and ``other (n, E)``, weighted by what they explain of ``one``.

    Morcos et al. 2018; not symmetric.
    """
    first, second = orthonormal(one, True), orthonormal(other, True)
    _same_rows(first, second)
    left, values, _ = np.linalg.svd(first.T @ second, full_matrices=False)
    weights = np.abs((first @ left).T @ centre(one)).sum(axis=1)
    return float(weights @ np.clip(values, 0, 1) / weights.sum())


def principal_directions(features: ArrayLike, variance: float = VARIANCE) -> Floats:
    """Return scores ``(n, d)`` of unit length on the fewest principal directions with ``variance`` of ``(n, D)``."""
    if not 0 < variance <= 1:
        raise InputError(f"the variance to keep is a share up to 1, not {variance}")
    left, values = _decompose(centre(features))
    shares = np.cumsum(values**2) / np.sum(values**2)
    return left[:, : int(np.searchsorted(shares, variance - 1e-12)) + 1]


def canonical_correlations(first: Floats, second: Floats) -> Floats:
    """Return the correlations, highest first, between orthonormal directions ``(n, d)`` and ``(n, e)``."""
    _same_rows(first, second)
    return np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0, 1)


def orthonormal(features: ArrayLike, centred: bool = True) -> Floats:
    """Return orthonormal directions ``(n, r)`` that span the columns of ``features (n, D)``; ``r`` is their rank."""
    matrix = _matrix(features)
    return _decompose(centre(matrix) if centred else matrix)[0]


def _decompose(matrix: Floats) -> tuple[Floats, Floats]:
    """Return left singular vectors ``(n, r)`` and singular values; a QR would invent directions that are not there."""
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(values > values[0] * max(matrix.shape) * np.finfo(np.float64).eps)) if values[0] > 0 else 0
    if not rank:
        raise InputError("a representation is the same for all utterances: there is nothing to correlate")
    return left[:, :rank], values[:rank]


def _hsic(first: Floats, second: Floats, weights: Floats, debiased: bool) -> Floats:
    return weighted_hsic(first * second, weights @ first, weights @ second, weights, debiased)


def weighted_hsic(products: Floats, one: Floats, other: Floats, weights: Floats, debiased: bool) -> Floats:
    """Return HSIC (see :func:`hsic`) for each of ``weights (R, n)`` of utterances: ``(R,)``.

    ``products (n, n)`` are those of the two Gram matrices, ``one`` and ``other (R, n)`` are ``weights`` times them; the
    diagonals of debiased ones must be zero. A weight of 0 leaves an utterance out exactly; fewer than four give NaN.
    """
    count = weights.sum(axis=1)
    crossed = np.einsum("rn,rn->r", weights, one * other)
    totals = np.einsum("rn,rn->r", weights, one) * np.einsum("rn,rn->r", weights, other)
    pairs = np.einsum("rn,rn->r", weights @ products, weights)
    count = np.where(count < FEWEST, np.nan, count)
    if debiased:
        return pairs + totals / ((count - 1) * (count - 2)) - 2 * crossed / (count - 2)
    return pairs + totals / count**2 - 2 * crossed / count


def _hsic_of_features(first: Floats, second: Floats, debiased: bool) -> float:
    """Return HSIC of centred features; Kornblith et al. 2019's code has the debiased form."""
    squared = float(np.sum((first.T @ second) ** 2))
    if not debiased:
        return squared
    size = len(first)
    one, other = (np.einsum("nd,nd->n", each, each) for each in (first, second))
    correction = one.sum() * other.sum() / ((size - 1) * (size - 2))
    return squared - size / (size - 2) * float(one @ other) + float(correction)


def align(across: ArrayLike, own: ArrayLike, others: ArrayLike) -> Floats:
    """Return ``across`` over the root of the product of the others, NaN where one of those is not positive."""
    own, others = np.asarray(own, np.float64), np.asarray(others, np.float64)
    sound = (own > 0) & (others > 0)
    norm = np.sqrt(np.where(sound, own, 1)) * np.sqrt(np.where(sound, others, 1))
    return np.where(sound, np.asarray(across) / norm, np.nan)


def _pairs(first: Floats, second: Floats) -> Sequence[tuple[Floats, Floats]]:
    return (first, second), (first, first), (second, second)


def _grams(one: ArrayLike, other: ArrayLike, debiased: bool) -> tuple[Floats, Floats]:
    first, second = _matrix(one), _matrix(other)
    _same_rows(first, second)
    if first.shape[0] != first.shape[1] or second.shape[0] != second.shape[1]:
        raise InputError(f"Gram matrices are square, got {first.shape} and {second.shape}")
    _check_count(first)
    return (without_diagonal(first), without_diagonal(second)) if debiased else (first, second)


def _check_count(matrix: Floats) -> None:
    if len(matrix) < FEWEST:
        raise InputError(f"CKA needs at least {FEWEST} utterances, got {len(matrix)}")


def without_diagonal(gram: Floats) -> Floats:
    """Return a copy of ``gram (n, n)`` whose diagonal is zero."""
    copy = gram.copy()
    np.fill_diagonal(copy, 0)
    return copy


def _matrix(values: ArrayLike) -> Floats:
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise InputError(f"a representation is a matrix, a row for each utterance: got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise InputError("a representation holds numbers that are not finite")
    return matrix


def _same_rows(first: Floats, second: Floats) -> None:
    if len(first) != len(second):
        raise InputError(f"representations of {len(first)} and {len(second)} utterances: they must be the same ones")
