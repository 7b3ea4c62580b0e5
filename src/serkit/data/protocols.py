"""Protocols: from a manifest to folds whose training and test parts share no speaker, or say how many they share."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from serkit.data.folds import Fold, group_of, hold_out_dev, stamp
from serkit.data.manifest import Manifest
from serkit.data.published import PUBLISHED
from serkit.data.speaker_splits import holdout, k_fold, legacy
from serkit.errors import InputError, nearest

__all__ = ["PROTOCOLS", "Fold", "Protocol", "create_folds", "group_of", "hold_out_dev", "stamp"]

Options = Mapping[str, Any]
Splitter = Callable[[Manifest, Options], list[Fold]]


@dataclass(frozen=True)
class Protocol:
    """A named way to split a manifest: ``create`` returns its folds."""

    name: str
    summary: str
    options: tuple[str, ...]
    split: Splitter = field(repr=False)

    def create(self, manifest: Manifest, **options: Any) -> list[Fold]:
        """Split ``manifest``; raises ``InputError`` for unknown options and for splits that leak undeclared."""
        known = (*self.options, "dev", "seed")
        for key in options:
            if key not in known:
                raise InputError(f"protocol {self.name}: no option {key!r}{nearest(key, known)}")
        for key in ("seed", "k"):
            value = options.get(key, 0)
            if not isinstance(value, int) or value < 0:
                raise InputError(f"protocol {self.name}: {key} is a whole number from 0, got {value!r}")
        return self.split(manifest, {"dev": 0.2, "seed": 0, **options})


def create_folds(manifest: Manifest, protocol: str, **options: Any) -> list[Fold]:
    """Split ``manifest`` by the protocol of this name.

    ``dev`` is the share of training speakers held out for early stopping (0: none), drawn with ``seed``; the test part
    never depends on either. Folds by group also take ``dev_by``: "group" (the default), "utterance", a share of the
    training utterances whoever speaks, or "test" to repeat what was chosen on the test part; the stamp tells of both.
    "part" takes the manifest's dev part for "group", where there is one, and trains on it for "test".
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"no protocol named {protocol!r}{nearest(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol].create(manifest, **options)


def _with_dev(
    manifest: Manifest, ids: Sequence[str], groups: Mapping[str, str], options: Options, fold: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide training ``ids`` into train and dev as ``options`` say; every fold number draws anew."""
    labels = dict(manifest.table.select("id", "emotion").iter_rows())
    return hold_out_dev(ids, groups, labels, options["dev"], np.random.default_rng([options["seed"], fold]))


def _by_test_groups(
    manifest: Manifest,
    options: Options,
    tests: Mapping[str, set[str]],
    column: str = "speaker",
    group: str = "speaker",
    devs: Mapping[str, tuple[str, ...]] | None = None,
    shared: str = "",
) -> list[Fold]:
    """One fold per entry of ``tests`` (fold name: values of ``column`` that are tested).

    The dev part comes from the rest: the values that ``devs`` names for the fold, or groups drawn as ``options`` say.
    ``shared`` declares that test groups are in training, and why.
    """
    cells, groups = group_of(manifest, column), group_of(manifest, group)
    folds = []
    for index, (name, tested) in enumerate(tests.items()):
        test = tuple(id for id in manifest.ids if cells[id] in tested)
        rest = [id for id in manifest.ids if cells[id] not in tested]
        if devs is None:
            folds.append(_fold(name, manifest, rest, test, groups, group, options, index, shared))
            continue
        train = tuple(id for id in rest if cells[id] not in devs[name])
        dev = tuple(id for id in rest if cells[id] in devs[name])
        folds.append(Fold(name, train, dev, test, groups, group, bool(shared), shared))
    return folds


def _fold(
    name: str,
    manifest: Manifest,
    rest: Sequence[str],
    test: tuple[str, ...],
    groups: Mapping[str, str],
    group: str,
    options: Options,
    index: int,
    shared: str = "",
) -> Fold:
    """Return the fold that tests ``test``, its dev part taken as the option ``dev_by`` says."""
    way = options.get("dev_by", "group")
    if way not in ("group", "utterance", "test"):
        raise InputError(f'protocol: dev_by is "group", "utterance" or "test", got {way!r}')
    if way == "test":
        return Fold(name, tuple(rest), test, test, groups, group, bool(shared), shared, dev_is_test=True)
    if way == "group":
        train, dev = _with_dev(manifest, rest, groups, options, index)
        return Fold(name, train, dev, test, groups, group, bool(shared), shared)
    hold_out_dev((), groups, {}, options["dev"], np.random.default_rng(0))  # checks the share
    ids = sorted(rest)  # not by the order of rows
    order = np.random.default_rng([options["seed"], index]).permutation(len(ids))
    drawn = {ids[place] for place in order[int((1 - options["dev"]) * len(ids)) :]}
    train, dev = tuple(id for id in rest if id not in drawn), tuple(id for id in rest if id in drawn)
    return Fold(name, train, dev, test, groups, group, bool(shared), shared, dev_by_chance=True)


def _leave_one_out(column: str, group: str) -> Splitter:
    def split(manifest: Manifest, options: Options) -> list[Fold]:
        values = sorted(set(group_of(manifest, column).values()))
        if len(values) < 2:
            raise InputError(f"protocol leave-one-{column}-out: the manifest has only the {column} {values}")
        return _by_test_groups(manifest, options, {value: {value} for value in values}, column, group)

    return split


def _group_k_fold(manifest: Manifest, options: Options) -> list[Fold]:
    from sklearn.model_selection import StratifiedGroupKFold

    group, k = options.get("group", "speaker"), options.get("k", 5)
    groups = group_of(manifest, group)
    if not 2 <= k <= len(set(groups.values())):
        raise InputError(f"protocol group-k-fold: k is {k}, but there are {len(set(groups.values()))} groups")
    # Sorted, so that the folds do not depend on the order of rows.
    ids = sorted(manifest.ids)
    labels = {id: str(label) for id, label in manifest.table.select("id", "emotion").iter_rows()}
    if k > max(Counter(labels.values()).values()):
        raise InputError(f"protocol group-k-fold: k is {k}, but no class has that many utterances")
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=options["seed"])
    cells = [groups[id] for id in ids]
    with warnings.catch_warnings():  # a rare class cannot be in every fold, and need not be
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(splitter.split(ids, [labels[id] for id in ids], cells))
    tests = {f"fold_{number}": {cells[row] for row in rows} for number, (_, rows) in enumerate(parts, 1)}
    return _by_test_groups(manifest, options, tests, group, group)


def _part(manifest: Manifest, options: Options) -> list[Fold]:
    parts = dict(manifest.table.select("id", "part").iter_rows())
    group = options.get("group", "speaker")
    groups = group_of(manifest, group)
    declared = bool(options.get("declares_shared", False))
    train, dev, test = (tuple(id for id in manifest.ids if parts[id] == part) for part in ("train", "dev", "test"))
    way = options.get("dev_by", "group")
    if way not in ("group", "test"):
        raise InputError(f'protocol part: dev_by is "group" or "test", got {way!r}')
    if way == "test":
        train = tuple(id for id in manifest.ids if parts[id] in ("train", "dev"))
        return [Fold("part", train, test, test, groups, group, declared, dev_is_test=True)]
    if not dev:
        train, dev = _with_dev(manifest, train, groups, options)
    return [Fold("part", train, dev, test, groups, group, declared)]


def _speakers(manifest: Manifest, options: Options) -> list[Fold]:
    groups = group_of(manifest, "speaker")
    for part in ("train", "dev_speakers", "test"):
        if isinstance(options.get(part, ()), str):
            raise InputError(f"protocol speakers: {part} is a list of speakers, got {options[part]!r}")
    lists = {part: {str(name) for name in options.get(part, ())} for part in ("train", "dev_speakers", "test")}
    present = set(groups.values())
    for part, names in lists.items():
        absent = sorted(names - present)
        if absent:
            raise InputError(f"protocol speakers: {part} names {absent[0]!r}, who is not in the manifest")
    if not lists["test"]:
        raise InputError("protocol speakers: test names no speaker")
    train_names = lists["train"] or present - lists["test"] - lists["dev_speakers"]
    train, dev, test = (
        tuple(id for id in manifest.ids if groups[id] in names)
        for names in (train_names, lists["dev_speakers"], lists["test"])
    )
    if not dev:
        train, dev = _with_dev(manifest, train, groups, options)
    return [Fold("speakers", train, dev, test, groups)]


def _published(name: str) -> Splitter:
    def split(manifest: Manifest, options: Options) -> list[Fold]:
        facts = PUBLISHED[name]
        if facts.dev is None:
            tests = {fold: set(speakers) for fold, speakers in facts.tests.items()}
            made = _only(manifest, name), options, tests, facts.column, "speaker", facts.devs, facts.shared
            return _by_test_groups(*made)
        (test,) = facts.tests.values()
        return _speakers(
            _only(manifest, name), {**options, "test": test, "dev_speakers": facts.dev, "train": facts.train}
        )

    return split


def _random_k_fold(manifest: Manifest, options: Options) -> list[Fold]:
    """Deal utterances into k folds by chance; the last of the others is the dev part, unless ``dev`` is 0."""
    group, k = options.get("group", "speaker"), options.get("k", 5)
    groups = group_of(manifest, group)
    if not 3 <= k <= len(manifest):
        raise InputError(f"protocol random-k-fold: k is {k}, it is 3 to the number of utterances ({len(manifest)})")
    ids = sorted(manifest.ids)  # so that the folds do not depend on the order of rows
    order = np.random.default_rng(options["seed"]).permutation(len(ids))
    ends = [part * (len(ids) // k) for part in range(k)] + [len(ids)]  # the last fold takes what remains
    parts = [tuple(ids[row] for row in order[start:end]) for start, end in pairwise(ends)]
    folds = []
    for number, test in enumerate(parts):
        others = [part for part in parts if part is not test]
        dev = others.pop() if options["dev"] else ()
        folds.append(Fold(f"fold_{number + 1}", tuple(chain(*others)), dev, test, groups, group, declares_shared=True))
    return folds


def _seen_speakers(manifest: Manifest, options: Options) -> list[Fold]:
    """Test N utterances of each speaker and train on the others, as a head that names known speakers needs.

    Classes keep their shares (largest remainders); the dev part is taken from every speaker in the same way.
    """
    column, count = options.get("column", "speaker"), options.get("per_speaker", 50)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"protocol speaker50: per_speaker is a whole number from 1, got {count!r}")
    cells, speakers = group_of(manifest, column), group_of(manifest, "speaker")
    labels = {id: str(label) for id, label in manifest.table.select("id", "emotion").iter_rows()}
    tested: set[str] = set()
    dev: set[str] = set()
    for number, name in enumerate(sorted(set(cells.values()))):
        ids = sorted(id for id in manifest.ids if cells[id] == name)  # not by the order of rows
        if len(ids) <= count:
            raise InputError(
                f"protocol speaker50: {column} {name!r} has {len(ids)} utterances, which leaves none to train on: "
                f"make per_speaker ({count}) smaller"
            )
        chosen = _stratified(ids, labels, count, np.random.default_rng([options["seed"], number]))
        _, held = _with_dev(manifest, [id for id in ids if id not in chosen], cells, options, number)
        tested |= chosen
        dev |= set(held)
    train = tuple(id for id in manifest.ids if id not in tested | dev)
    held_out, test = (tuple(id for id in manifest.ids if id in part) for part in (dev, tested))
    note = "every test speaker is also in training, as naming speakers needs"
    return [Fold("speakers_seen", train, held_out, test, speakers, declares_shared=True, note=note)]


def _stratified(ids: Sequence[str], labels: Mapping[str, str], count: int, rng: np.random.Generator) -> set[str]:
    """Draw ``count`` of ``ids``, of every label its share, rounded by largest remainders."""
    of = {label: [id for id in ids if labels[id] == label] for label in sorted({labels[id] for id in ids})}
    quota = {label: divmod(count * len(same), len(ids)) for label, same in of.items()}
    left = count - sum(whole for whole, _ in quota.values())
    raised = set(sorted(quota, key=lambda label: -quota[label][1])[:left])
    sizes = {label: whole + (label in raised) for label, (whole, _) in quota.items()}
    return {same[index] for label, same in of.items() for index in rng.permutation(len(same))[: sizes[label]]}


def _only(manifest: Manifest, name: str) -> Manifest:
    """Check that a published protocol is applied to its own corpus: its speaker names would mean others elsewhere."""
    corpora = set(manifest.table["corpus"].unique())
    if corpora != {PUBLISHED[name].corpus}:
        raise InputError(
            f"protocol {name}: is for {PUBLISHED[name].corpus}, the manifest holds {sorted(map(str, corpora))}"
        )
    return manifest


def _emobox_table(manifest: Manifest, options: Options) -> list[Fold]:
    """Read an EmoBox table (key, ..., fold_1, ...); its folds count the speakers that they share instead of failing."""
    path = Path(str(options.get("path", "")))
    if not path.is_file():
        raise InputError(f"protocol emobox-table: path {str(path)!r} is not a file: give an EmoBox .tsv table")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    if lines and "key" not in lines[0]:
        raise InputError(f"{path}: has no column key")
    # EmoBox keys are the corpus, a dash and the file name, in most corpora with every underscore turned into a dash.
    rows = {row["key"].replace("_", "-"): row for row in lines}
    columns = [name for name in next(iter(rows.values()), {}) if name.startswith("fold_")]
    if not columns:
        raise InputError(f"{path}: has no fold_ column")
    groups = group_of(manifest, "speaker")
    corpora = dict(manifest.table.select("id", "corpus").iter_rows())
    names = {id: (id.replace("_", "-"), f"{corpora[id]}-{id}".replace("_", "-")) for id in manifest.ids}
    found = {id: rows.get(whole) or rows.get(prefixed) for id, (whole, prefixed) in names.items()}
    row_of = {id: row for id, row in found.items() if row is not None}
    known = list(row_of)
    if len(known) < len(rows):
        raise InputError(f"{path}: lists {len(rows)} utterances, the manifest has {len(known)} of them")
    folds = []
    for index, column in enumerate(columns):
        parts = {id: row_of[id][column] for id in known}
        train, dev, test = (
            tuple(id for id in known if parts[id] in names) for names in (("train",), ("valid", "dev"), ("test",))
        )
        if not dev:
            train, dev = _with_dev(manifest, train, groups, options, index)
        folds.append(Fold(column, train, dev, test, groups, declares_shared=True))
    return folds


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("leave-one-speaker-out", "one fold per speaker", ("dev_by",), _leave_one_out("speaker", "speaker")),
        Protocol("leave-one-session-out", "one fold per session", ("dev_by",), _leave_one_out("session", "speaker")),
        Protocol("leave-one-corpus-out", "one fold per corpus", ("dev_by",), _leave_one_out("corpus", "speaker")),
        Protocol("group-k-fold", "k folds by speaker, classes balanced", ("k", "group", "dev_by"), _group_k_fold),
        Protocol(
            "speaker-holdout",
            "64, 16 and 20 % of each gender's speakers",
            ("test", "repeats", "draws", "stratify"),
            holdout,
        ),
        Protocol(
            "speaker-k-fold", "k folds by speaker, genders and classes balanced", ("k", "draws", "stratify"), k_fold
        ),
        Protocol(
            "i3-legacy",
            "64, 16 and 20 % of each gender's speakers class by class: speakers are shared",
            ("test", "amount", "repeats"),
            legacy,
        ),
        Protocol(
            "random-k-fold", "k folds of utterances by chance: speakers are shared", ("k", "group"), _random_k_fold
        ),
        Protocol("speaker50", "50 utterances of each speaker are tested", ("per_speaker", "column"), _seen_speakers),
        Protocol("part", "the manifest's part column", ("group", "declares_shared", "dev_by"), _part),
        Protocol("speakers", "lists of speakers", ("train", "dev_speakers", "test"), _speakers),
        Protocol("emobox-table", "an EmoBox table with fold_ columns, by path", ("path",), _emobox_table),
        *(
            Protocol(name, facts.summary, ("dev_by",) if facts.takes_dev else (), _published(name))
            for name, facts in PUBLISHED.items()
        ),
    )
}
