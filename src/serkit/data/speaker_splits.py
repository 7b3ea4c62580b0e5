"""Splits that draw speakers: a hold-out and k folds stratified by gender, and one that draws class by class.

The shares and the class-wise draw are those of https://github.com/wilke0818/i3_speech_emotion_recognition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.data.folds import Fold, group_of, hold_out_dev, i3_place
from serkit.data.manifest import Manifest
from serkit.errors import InputError, nearest

Options = Mapping[str, Any]
Draw = Callable[[np.random.Generator], list[list[str]]]

KNOWN = ("female", "male")
"""Genders that are strata; speakers of any other, of none, or of both are a third one."""

STRATIFY = ("gender", "corpus-gender")
"""What every part has its share of."""


def holdout(manifest: Manifest, options: Options) -> list[Fold]:
    """Test a share of each gender's speakers, train on others: options test, dev, seed, repeats, draws, stratify.

    ``test`` is the share of a gender's speakers that are tested, ``dev`` the share of the others that is held out:
    .2 and .2 make 64, 16 and 20 %. See :func:`choose` for few speakers. Of ``draws`` draws the one is taken whose parts
    have the classes and the utterances most nearly in proportion. ``repeats`` k gives what k following seeds would.
    ``stratify`` "corpus-gender" takes the shares in every corpus, "gender" in all together.
    """
    groups, counts = group_of(manifest, "speaker"), _class_counts(manifest)
    test, draws = _share(options, "test"), _whole(options, "draws", 20)
    strata = strata_of(manifest, options.get("stratify", "gender"))
    if len(set(groups.values())) < 2:
        raise InputError("protocol speaker-holdout: the manifest has only one speaker: there is nobody to hold out")
    folds = []
    for name, seed in _seeds(options, "holdout"):
        (tested,) = best_of(lambda rng: [choose(strata, test, rng)], counts, draws, [seed, 0])
        rest = without(strata, tested)
        train, dev = _hold_out(manifest, rest, groups, counts, options, [seed, 1])
        folds.append(Fold(name, train, dev, _of(manifest, groups, tested), groups, place=_place(options, seed)))
    return folds


def k_fold(manifest: Manifest, options: Options) -> list[Fold]:
    """Test every speaker in one of k folds, each with its part of every gender.

    Options k, dev, seed, draws and stratify, as in :func:`holdout`.
    """
    groups, counts = group_of(manifest, "speaker"), _class_counts(manifest)
    k, strata = options.get("k", 5), strata_of(manifest, options.get("stratify", "gender"))
    speakers = sum(map(len, strata.values()))
    if not 2 <= k <= speakers:
        raise InputError(f"protocol speaker-k-fold: k is {k}, but there are {speakers} speakers")
    deals = best_of(lambda rng: _deal(strata, k, rng), counts, _whole(options, "draws", 20), [options["seed"], 2])
    folds = []
    for number, tested in enumerate(deals, 1):
        draw = [options["seed"], 2 + number]
        train, dev = _hold_out(manifest, without(strata, tested), groups, counts, options, draw)
        folds.append(Fold(f"fold_{number}", train, dev, _of(manifest, groups, tested), groups))
    return folds


def legacy(manifest: Manifest, options: Options) -> list[Fold]:
    """Split female and male speakers class by class, as the original does: options test, dev, amount, seed, repeats.

    For each gender and each class, scikit-learn's GroupShuffleSplit draws the class's speakers with the same seed; so a
    speaker who lacks a class can be in train with one and in test with another. Speakers of other genders are left out.
    ``amount`` is the share that is used at all. Rows stand as there: male before female, class by class. With ``dev`` 0
    all that is not tested is trained on.
    """
    table = manifest.table.select("id", "emotion", "gender")
    labels = {id: str(label) for id, label, _ in table.iter_rows()}
    groups, amount = group_of(manifest, "speaker"), _share(options, "amount")
    trained, kept = 1 - _share(options, "test"), 1 - _share(options, "dev")
    of = {sex: [id for id, _, gender in table.iter_rows() if (gender or "").lower() == sex] for sex in KNOWN}
    lost = len(manifest) - sum(map(len, of.values()))
    note = "every class is split by itself" + (f", {lost} utterances of other genders are left out" if lost else "")
    if lost == len(manifest):
        raise InputError("protocol i3-legacy: no speaker is female or male: use speaker-holdout, which takes all")
    folds = []
    for name, seed in _seeds(options, "i3_legacy"):

        def divide(ids: Sequence[str], share: float, seed: int = seed) -> tuple[list[str], list[str]]:
            return _divide_classes(ids, labels, groups, round(share, 12), seed)

        train: list[str] = []
        dev: list[str] = []
        test: list[str] = []
        for ids in filter(None, (of["male"], of["female"])):
            rest, tested = divide(divide(ids, amount)[0] if amount < 1 else ids, trained)
            learned, held = divide(rest, kept) if kept < 1 else (rest, [])
            train, dev, test = train + learned, dev + held, test + tested
        parts = tuple(train), tuple(dev), tuple(test)
        place = i3_place(seed, amount, round(trained, 12))
        folds.append(Fold(name, *parts, groups, declares_shared=True, note=note, place=place))
    return folds


def _divide_classes(
    ids: Sequence[str], labels: Mapping[str, str], groups: Mapping[str, str], share: float, seed: int
) -> tuple[list[str], list[str]]:
    """Divide ``ids`` so that ``share`` of each class's speakers are first; classes in the order of the manifest."""
    from sklearn.model_selection import GroupShuffleSplit

    splitter = GroupShuffleSplit(n_splits=1, train_size=share, random_state=seed)
    first: list[str] = []
    second: list[str] = []
    for label in dict.fromkeys(labels.values()):
        same = [id for id in ids if labels[id] == label]
        try:
            one, other = next(splitter.split(same, groups=[groups[id] for id in same]))
        except ValueError as error:
            speakers = len({groups[id] for id in same})
            raise InputError(
                f"protocol i3-legacy: class {label!r} has {speakers} speakers of one gender left, too few to split: "
                "use speaker-holdout, which splits speakers first"
            ) from error
        first += [same[row] for row in one]
        second += [same[row] for row in other]
    return first, second


# Drawing speakers


def strata_of(manifest: Manifest, stratify: str = "gender") -> dict[str, list[str]]:
    """Return the sorted speakers of every gender: ``female``, ``male`` and, for all others, ``other``.

    A speaker whose gender is known in some rows only has it in all; one with two genders is with the others. With
    ``stratify`` "corpus-gender" genders are told apart by corpus.
    """
    if stratify not in STRATIFY:
        raise InputError(f"protocol: no way {stratify!r} to stratify{nearest(str(stratify), STRATIFY)}")
    groups = group_of(manifest, "speaker")
    said: dict[str, set[str]] = {speaker: set() for speaker in groups.values()}
    corpora: dict[str, str] = {}
    for id, gender, corpus in manifest.table.select("id", "gender", "corpus").iter_rows():
        if gender is not None:
            said[groups[id]].add(gender.strip().lower())
        corpora[groups[id]] = f"{corpus} " if stratify == "corpus-gender" else ""
    strata: dict[str, list[str]] = {}
    for speaker in sorted(said):
        known = min(said[speaker]) if len(said[speaker]) == 1 else ""
        strata.setdefault(corpora[speaker] + (known if known in KNOWN else "other"), []).append(speaker)
    return {name: strata[name] for name in sorted(strata)}


def choose(strata: Mapping[str, Sequence[str]], share: float, rng: np.random.Generator) -> list[str]:
    """Draw ``share`` of each stratum, rounded; at least one of two speakers or more, never all of them.

    So one speaker stays in training, of two or three one is drawn at a share of .2. Where no stratum has two speakers,
    one is drawn from all together, of two or more.
    """
    chosen = list(chain.from_iterable(_draw(names, share, rng) for names in strata.values()))
    return chosen or _draw(sorted(chain.from_iterable(strata.values())), share, rng)


def _draw(names: Sequence[str], share: float, rng: np.random.Generator) -> list[str]:
    order = rng.permutation(len(names))
    count = min(len(names) - 1, max(1, round(share * len(names)))) if len(names) > 1 else 0
    return [names[index] for index in order[:count]]


def _deal(strata: Mapping[str, Sequence[str]], k: int, rng: np.random.Generator) -> list[list[str]]:
    """Deal the speakers of one stratum after the other to k folds: sizes differ by one, in each stratum too."""
    order = [names[index] for names in strata.values() for index in rng.permutation(len(names))]
    return [order[number::k] for number in range(k)]


def without(strata: Mapping[str, Sequence[str]], taken: Iterable[str]) -> dict[str, list[str]]:
    """Return the strata less the speakers that are ``taken``."""
    gone = set(taken)
    return {name: [speaker for speaker in names if speaker not in gone] for name, names in strata.items()}


def best_of(draw: Draw, counts: Mapping[str, NDArray[np.float64]], draws: int, seed: list[int]) -> list[list[str]]:
    """Return of ``draws`` results of ``draw`` (lists of speakers) the first with the classes nearest to proportion.

    ``counts`` maps speakers to their utterances of each class (C,). A list's distance is chi-squared: squared
    differences to its share of speakers in each class, over the class's size.
    """
    rng = np.random.default_rng(seed)
    total = np.sum(list(counts.values()), axis=0)
    if draws == 1:
        return draw(rng)

    def distance(lists: list[list[str]]) -> float:
        result = 0.0
        for speakers in lists:
            have = np.sum([counts[speaker] for speaker in speakers], axis=0) if speakers else np.zeros_like(total)
            result += float((np.square(have - total * len(speakers) / len(counts)) / total).sum())
        return result

    return min((draw(rng) for _ in range(draws)), key=distance)


def _class_counts(manifest: Manifest) -> dict[str, NDArray[np.float64]]:
    groups = group_of(manifest, "speaker")
    labels = {id: str(label) for id, label in manifest.table.select("id", "emotion").iter_rows()}
    column = {label: number for number, label in enumerate(sorted(set(labels.values())))}
    counts = {speaker: np.zeros(len(column)) for speaker in sorted(set(groups.values()))}
    for id, label in labels.items():
        counts[groups[id]][column[label]] += 1
    return counts


def _hold_out(
    manifest: Manifest,
    strata: Mapping[str, Sequence[str]],
    groups: Mapping[str, str],
    counts: Mapping[str, NDArray[np.float64]],
    options: Options,
    seed: list[int],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the speakers of ``strata`` into train and dev; a single one's utterances, as every protocol does."""
    share, speakers = _share(options, "dev"), list(chain.from_iterable(strata.values()))
    if share == 0:
        return _of(manifest, groups, speakers), ()
    if len(speakers) < 2:
        labels = dict(manifest.table.select("id", "emotion").iter_rows())
        return hold_out_dev(_of(manifest, groups, speakers), groups, labels, share, np.random.default_rng(seed))
    left = {speaker: counts[speaker] for speaker in speakers}
    occurs = np.sum(list(left.values()), axis=0) > 0
    left = {speaker: count[occurs] for speaker, count in left.items()}
    (dev,) = best_of(lambda rng: [choose(strata, share, rng)], left, _whole(options, "draws", 20), seed)
    return _of(manifest, groups, set(speakers) - set(dev)), _of(manifest, groups, dev)


def _of(manifest: Manifest, groups: Mapping[str, str], speakers: Iterable[str]) -> tuple[str, ...]:
    chosen = set(speakers)
    return tuple(id for id in manifest.ids if groups[id] in chosen)


# Options


def _seeds(options: Options, name: str) -> list[tuple[str, int]]:
    """Return the name and the seed of every fold: one, or ``repeats`` of them with the seeds that follow."""
    repeats, seed = _whole(options, "repeats", 1), options["seed"]
    if repeats == 1:
        return [(name, seed)]
    return [(f"{name}_{number}", number) for number in range(seed, seed + repeats)]


def _place(options: Options, seed: int) -> str:
    return i3_place(seed, 1.0, round(1 - _share(options, "test"), 12))


def _share(options: Options, name: str) -> float:
    """Return the option ``test`` or ``amount``, which are more than 0, or ``dev``, which may be 0."""
    value = options.get(name, 1.0 if name == "amount" else 0.2)
    if isinstance(value, int | float) and not isinstance(value, bool):
        whole = {"dev": 0, "amount": 1}.get(name)
        if 0 < value < 1 or value == whole:
            return float(value)
    bounds = {"test": "between 0 and 1", "dev": "in [0, 1)", "amount": "above 0 and at most 1"}[name]
    raise InputError(f"protocol: {name} is a share {bounds}, got {value!r}")


def _whole(options: Options, name: str, default: int) -> int:
    value = options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"protocol: {name} is a whole number from 1, got {value!r}")
    return value
