"""Scores of classifications, affect ratings and transcripts; classes are explicit and ordered.

Fractions are in [0, 1], the CCC in [-1, 1]; error rates of transcripts start at 0 and may pass 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serkit.errors import InputError, missing_extra

Floats = NDArray[np.float64]


def encode(labels: ArrayLike, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the position of every label among ``classes``: (n,) integers; raises ``InputError`` for another label."""
    index = {name: position for position, name in enumerate(classes)}
    if len(index) != len(classes) or not index:
        raise InputError(f"classes must be different and at least one, got {list(classes)}")
    array = np.asarray(labels)
    if array.ndim != 1:
        raise InputError(f"labels must be one-dimensional, got shape {array.shape}")
    if array.dtype == object:
        array = array.astype(str)
    values, inverse = np.unique(array, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in index]
    if unknown:
        raise InputError(f"label {unknown[0]!r} is not among the classes ({', '.join(map(str, classes))})")
    return np.array([index[value] for value in values.tolist()], dtype=np.int64)[inverse]


def confusion(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> NDArray[np.int64]:
    """Count utterances by true class (rows) and predicted class (columns).

    ``truth`` and ``prediction`` hold n labels each; the result is (C, C) in the order of ``classes``. Raises
    ``InputError`` for no labels, different lengths or a label that is not among the classes.

    >>> confusion(["happy", "sad", "sad"], ["happy", "sad", "happy"], ["happy", "sad"]).tolist()
    [[1, 0], [1, 1]]
    """
    cells, size = confusion_cells(truth, prediction, classes), len(classes)
    if not len(cells):
        raise InputError("truth and prediction are empty: there is nothing to judge")
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def confusion_cells(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return for each utterance (n,) its cell in the flattened confusion: ``C`` times truth plus prediction."""
    true, predicted = encode(truth, classes), encode(prediction, classes)
    if len(true) != len(predicted):
        raise InputError(f"truth has {len(true)} labels and prediction has {len(predicted)}: they must be pairs")
    return true * len(classes) + predicted


def recalls(matrix: ArrayLike) -> Floats:
    """Return the recall of every class of confusions (..., C, C): (..., C), NaN where the class has no utterance."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return ratio(_hits(matrix), matrix.sum(axis=-1))


def precisions(matrix: ArrayLike) -> Floats:
    """Return the precision of every class of confusions (..., C, C): (..., C), NaN where it is never predicted."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return ratio(_hits(matrix), matrix.sum(axis=-2))


def _hits(matrix: Floats) -> Floats:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def ratio(top: Floats, bottom: Floats, otherwise: float = np.nan) -> Floats:
    """Return ``top / bottom``, ``otherwise`` where ``bottom`` is not positive."""
    return np.divide(top, bottom, out=np.full(np.shape(bottom), otherwise), where=bottom > 0)


def _uar(matrix: Floats) -> Floats:
    recall = recalls(matrix)
    occurs = ~np.isnan(recall)
    return ratio(np.where(occurs, recall, 0.0).sum(axis=-1), occurs.sum(axis=-1))


def _accuracy(matrix: Floats) -> Floats:
    return ratio(_hits(matrix).sum(axis=-1), matrix.sum(axis=(-2, -1)))


def _f1(matrix: Floats) -> Floats:
    return ratio(2 * _hits(matrix), matrix.sum(axis=-1) + matrix.sum(axis=-2), otherwise=0.0)


def _f1_macro(matrix: Floats) -> Floats:
    return np.where(matrix.sum(axis=(-2, -1)) > 0, _f1(matrix).mean(axis=-1), np.nan)


def _f1_weighted(matrix: Floats) -> Floats:
    support = matrix.sum(axis=-1)
    return ratio((_f1(matrix) * support).sum(axis=-1), support.sum(axis=-1))


def _precision(matrix: ArrayLike) -> Floats:
    return np.nan_to_num(precisions(matrix))


FROM_CONFUSION: dict[str, Callable[[Floats], Floats]] = {
    "uar": _uar,
    "accuracy": _accuracy,
    "f1_macro": _f1_macro,
    "f1_weighted": _f1_weighted,
}
"""The metrics as functions of confusions (..., C, C) of floats: (...), NaN for a confusion without utterances."""


def _score(name: str, truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    return float(FROM_CONFUSION[name](confusion(truth, prediction, classes).astype(np.float64)))


def recall_per_class(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> dict[str, float | None]:
    """Return the recall of every class, in [0, 1]; None for a class that does not occur in ``truth``.

    Raises ``InputError`` as :func:`confusion` does.
    """
    values = recalls(confusion(truth, prediction, classes)).tolist()
    return {name: None if np.isnan(value) else value for name, value in zip(classes, values, strict=True)}


def uar(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    """Return the unweighted average recall ("UA"): the mean recall over the classes that occur in ``truth``.

    In [0, 1]; chance is 1 / C. Raises ``InputError`` as :func:`confusion` does. Schuller et al., INTERSPEECH 2009.

    >>> uar(["happy", "sad", "sad"], ["happy", "sad", "happy"], ["happy", "sad"])
    0.75
    """
    return _score("uar", truth, prediction, classes)


def accuracy(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    """Return the fraction of utterances that are right ("WA", weighted accuracy), in [0, 1]."""
    return _score("accuracy", truth, prediction, classes)


def f1_macro(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    """Return the unweighted mean of the F1 of all ``classes``, in [0, 1].

    A class that neither occurs nor is predicted counts as 0, as in scikit-learn when ``labels`` are given: leave it out
    of ``classes`` to leave it out of the mean.
    """
    return _score("f1_macro", truth, prediction, classes)


def f1_weighted(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    """Return the mean F1 of the classes weighted by their utterances in ``truth``, in [0, 1]."""
    return _score("f1_weighted", truth, prediction, classes)


def precision_macro(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    """Return the unweighted mean precision of all ``classes``, in [0, 1]; one that is never predicted counts as 0.

    Its partner for recall is :func:`uar`. With one label an utterance, precision, recall and F1 counted over all
    classes at once ("micro") and recall weighted by support are all :func:`accuracy`.
    """
    return float(_precision(confusion(truth, prediction, classes)).mean())


def precision_weighted(truth: ArrayLike, prediction: ArrayLike, classes: Sequence[str]) -> float:
    """Return the mean precision of the classes weighted by their utterances in ``truth``, in [0, 1]."""
    matrix = confusion(truth, prediction, classes)
    return float(np.average(_precision(matrix), weights=matrix.sum(axis=1)))


def ccc(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the concordance correlation coefficient of two (n,) series, in [-1, 1].

    Population variances: 2 cov / (var + var + squared difference of means). It is 0 when either series is constant,
    also when both are the same constant: agreement beyond chance cannot be seen there. Raises ``InputError`` for empty,
    mismatched or non-finite input. Lin, Biometrics 45 (1989).

    >>> round(ccc([0.0, 0.5, 1.0], [0.0, 0.5, 1.0]), 6)
    1.0
    """
    true, predicted = _series(truth, prediction)
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        return 0.0
    covariance = np.mean((true - true.mean()) * (predicted - predicted.mean()))
    return float(2 * covariance / (true.var() + predicted.var() + (true.mean() - predicted.mean()) ** 2))


def mae(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Return the mean absolute error of two (n,) series, in their own unit; bad input is refused as in :func:`ccc`.

    >>> mae([1.0, 2.0], [1.5, 4.0])
    1.25
    """
    true, predicted = _series(truth, prediction)
    return float(np.abs(true - predicted).mean())


def _series(truth: ArrayLike, prediction: ArrayLike) -> tuple[Floats, Floats]:
    true, predicted = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise InputError(f"truth has shape {true.shape} and prediction {predicted.shape}: they must be equal and (n,)")
    if not len(true):
        raise InputError("truth and prediction are empty: there is nothing to judge")
    if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
        raise InputError("truth or prediction holds a value that is not finite")
    return true, predicted


def moments(truth: ArrayLike, prediction: ArrayLike) -> Floats:
    """Return per utterance (n, 7) what :func:`ccc_of_sums` and its like need, summed over any utterances.

    1, both values, their squares, their product, absolute error. Values are taken relative to the first truth: sums of
    squares of far-off values would lose the digits that a variance needs.
    """
    true, predicted = _series(truth, prediction)
    x, y = true - true[0], predicted - true[0]
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, np.abs(x - y)], axis=1)


CONSTANT = 1e-12
"""A variance this far below the mean square is rounding: the series is constant."""


def ccc_of_sums(sums: Floats) -> Floats:
    """Return the :func:`ccc` of summed :func:`moments` (..., 7): (...), NaN without any, 0 where either is constant."""
    n = sums[..., 0]
    x, y, xx, yy, xy = (ratio(sums[..., place], n, 0.0) for place in range(1, 6))
    own, other = xx - x * x, yy - y * y
    varies = (own > CONSTANT * xx) & (other > CONSTANT * yy)
    spread = np.where(varies, own + other + (x - y) ** 2, 1.0)
    return np.where(n > 0, np.where(varies, 2 * (xy - x * y) / spread, 0.0), np.nan)


def mae_of_sums(sums: Floats) -> Floats:
    """Return the :func:`mae` of summed :func:`moments` (..., 7): (...), NaN without any."""
    return ratio(sums[..., 6], sums[..., 0])


def mse_of_sums(sums: Floats) -> Floats:
    """Return the mean square error of summed :func:`moments` (..., 7): (...), NaN without any."""
    xx, yy, xy = (sums[..., place] for place in range(3, 6))
    return ratio(np.maximum(xx + yy - 2 * xy, 0.0), sums[..., 0])


def edit_counts(truth: Sequence[str], prediction: Sequence[str], characters: bool = False) -> NDArray[np.int64]:
    """Count per utterance the edits that turn its reference into the hypothesis, and what the reference holds: (n, 2).

    Edits are the fewest substitutions, deletions and insertions of words, or of ``characters`` with single spaces among
    them; white space at the ends and repeated white space count for nothing. Every word that answers an empty reference
    is an insertion. Raises ``InputError`` for different lengths, and where jiwer is not installed.

    >>> edit_counts(["the cat sat", ""], ["a cat", "hm hm"]).tolist()
    [[2, 3], [2, 0]]
    """
    if len(truth) != len(prediction):
        raise InputError(f"truth has {len(truth)} texts and prediction has {len(prediction)}: they must be pairs")
    try:
        import jiwer
    except ImportError as error:
        raise missing_extra("jiwer", "train") from error

    true, predicted = ([" ".join(text.split()) for text in texts] for texts in (truth, prediction))
    split: Callable[[str], Sequence[str]] = list if characters else str.split
    counts = np.array([(len(split(b)), len(split(a))) for a, b in zip(true, predicted, strict=True)], dtype=np.int64)
    said = [place for place, text in enumerate(true) if text]  # jiwer refuses empty references or not, by its version
    if said:
        align = jiwer.process_characters if characters else jiwer.process_words
        found = align([true[place] for place in said], [predicted[place] for place in said])
        counts[said, 0] = [sum(_edits(chunk) for chunk in chunks) for chunks in found.alignments]
    return counts.reshape(-1, 2)


def _edits(chunk: Any) -> int:
    if chunk.type == "equal":
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def word_error_rate(truth: Sequence[str], prediction: Sequence[str]) -> float:
    """Return the word error rate of n transcripts: all edits over all words of the references, 0 or more.

    Raises ``InputError`` where the references hold no word, and as :func:`edit_counts` does.

    >>> word_error_rate(["one two three", "four"], ["one too three", "four"])
    0.25
    """
    return _error_rate(edit_counts(truth, prediction))


def character_error_rate(truth: Sequence[str], prediction: Sequence[str]) -> float:
    """Return the character error rate of n transcripts, as :func:`word_error_rate` does; a space is a character."""
    return _error_rate(edit_counts(truth, prediction, characters=True))


def _error_rate(counts: NDArray[np.int64]) -> float:
    edits, length = counts.sum(axis=0).tolist()
    if not length:
        raise InputError("all references are empty: an error rate does not exist")
    return edits / length
