"""Several labels at once: each class is a column of the manifest and present where that is above 0.

CMU-MOSEI's six emotions are such columns. Truths are ``(U, C)`` of 0 and 1, NaN where it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from serkit.data.manifest import Manifest
from serkit.errors import InputError, nearest
from serkit.models.losses import presence_losses


def with_presence(manifest: Manifest, classes: Sequence[str], whose: str, lacking: bool = False) -> Manifest:
    """Return the utterances of which one of ``classes`` is known; those columns are 1 (present), 0 or null (unknown).

    A column may hold numbers, Booleans or numbers as text, empty where unknown. With ``lacking`` the manifest need not
    have all of them. Raises ``InputError``, which begins with ``whose``, for a column that is not there or no number.
    """
    columns = manifest.table.columns
    absent = [name for name in classes if name not in columns]
    if absent and (not lacking or len(absent) == len(classes)):
        raise InputError(
            f"{whose}: labels.classes names {absent[0]!r}, which the manifest lacks{nearest(absent[0], columns)}"
        )
    values = {name: _presence(manifest.table[name], whose) for name in classes if name not in absent}
    values |= {name: pl.Series(name, [None] * len(manifest), dtype=pl.Float64) for name in absent}
    table = manifest.table.with_columns(**values)
    return Manifest(table.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in classes)))


def _presence(column: pl.Series, whose: str) -> pl.Series:
    known = column.replace("", None) if column.dtype == pl.String else column
    numbers = known.cast(pl.Float64, strict=False)
    lost = known.filter(known.is_not_null() & numbers.is_null())
    if len(lost):
        raise InputError(f"{whose}: {column.name} of an utterance is {lost[0]!r}: a class is a number, present above 0")
    return (numbers.fill_nan(None) > 0).cast(pl.Float64)


def presence_targets(manifest: Manifest, classes: Sequence[str]) -> Tensor:
    """Return the truths ``(U, C)`` of a manifest of :func:`with_presence`."""
    truths = manifest.table.select(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in classes)
    return torch.tensor(truths.to_numpy(), dtype=torch.float32)


def check_presence(targets: Tensor, classes: Sequence[str], whose: str) -> None:
    """Raise ``InputError``, which begins with ``whose``, for a class that no utterance of a training part has."""
    for name, has in zip(classes, (targets > 0).any(0).tolist(), strict=True):
        if not has:
            raise InputError(f"{whose}: no training utterance has {name!r}: leave it out of labels.classes")


def listed_by_class(classes: Sequence[str], listed: Mapping[str, float]) -> Tensor:
    """Return ``training.class_weights`` in the order of the classes ``(C,)``; raises ``InputError`` unless all are."""
    if set(listed) != set(classes):
        odd = min(set(listed) ^ set(classes))
        raise InputError(f"training.class_weights: {odd!r} is not listed or no class: list {', '.join(classes)}")
    return torch.tensor([listed[name] for name in classes])


def cell_weights(targets: Tensor, classes: Sequence[str], balance: str, listed: Mapping[str, float]) -> Tensor:
    """Return what each cell ``(U, C)`` of a training part counts: 1, or where a class is present its weight.

    That is what ``listed`` says, or with ``balance`` "class" the number of utterances without the class over that of
    those with it, of those where it is known: PyTorch's ``pos_weight``. Raises ``InputError`` unless all are listed,
    and for a class that all or none have.
    """
    has = targets > 0
    present, absent = has.sum(0), (targets == 0).sum(0)
    weights = listed_by_class(classes, listed) if listed else torch.ones(len(classes))
    if balance == "class":
        for name, one, other in zip(classes, present.tolist(), absent.tolist(), strict=True):
            if not (one and other):
                said = "has" if other else "lacks"
                raise InputError(f'training.balance: no training utterance {said} {name!r}: set it to "none"')
        weights = absent / present
    return torch.where(has, weights, torch.ones(()))


def judge_presence(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """Return of log-odds ``(U, C)`` the loss and, at chances above 0.5, balanced accuracy and the share of right cells.

    ``dev_uar`` is the mean over classes of the mean recall of what has a class and of what has it not.
    """
    has, lacks, said = targets > 0, targets == 0, scores > 0
    known = has | lacks
    recalls = [torch.where(of.any(0), (right & of).sum(0) / of.sum(0), torch.nan) for of, right in
               ((has, said), (lacks, ~said))]  # fmt: skip
    balanced = torch.stack(recalls).nanmean(0).nanmean()
    accuracy = ((said == has) & known).sum() / known.sum()
    loss = presence_losses(scores, targets).mean()
    return {"dev_loss": float(loss), "dev_uar": float(balanced), "dev_accuracy": float(accuracy)}


def presence_columns(scores: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, list[Any]]:
    """Return truths and chances of log-odds ``(U, C)``, as columns of the predictions table."""
    chances, columns = scores.double().sigmoid(), {}
    for place, name in enumerate(classes):
        truths = targets[:, place].tolist()
        columns[f"{name}_present"] = [None if value != value else value > 0 for value in truths]
        columns[f"{name}_chance"] = chances[:, place].tolist()
    return columns
