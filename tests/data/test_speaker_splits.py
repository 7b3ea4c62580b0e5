"""Splits that draw speakers: nobody is shared, genders keep their shares, and the class-wise draw is the original's."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serkit.data.folds import write_folds
from serkit.data.manifest import Manifest
from serkit.data.protocols import PROTOCOLS, create_folds, stamp
from serkit.data.published import PUBLISHED
from serkit.data.speaker_splits import choose, strata_of
from serkit.errors import InputError

TRUE = ("speaker-holdout", "speaker-k-fold")
DECLARED = {"random-k-fold", "speaker50", "emobox-table", "recording10", "i3-legacy"}


@st.composite
def rows_of(draw, names="012345", corpora=("x", "y", None), column="speaker", whole=False, prefix=""):
    """Rows of speakers named alike in several corpora: cells and genders missing, one clip or many, in any order.

    All ``names`` with ``whole``; of another ``column`` than speaker, who speaks is mostly its own.
    """
    rows = []
    for corpus in draw(st.sets(st.sampled_from(corpora), min_size=1)):
        for name in names if whole else draw(st.sets(st.sampled_from(names), min_size=1)):
            gender = draw(st.sampled_from(["female", "male", "other", None]))
            for emotion in draw(st.lists(st.sampled_from(["sad", "happy", "angry", None]), min_size=1, max_size=4)):
                speaker = name if column == "speaker" else draw(st.sampled_from([*[f"{name}F", f"{name}M"] * 20, "1F"]))
                row = {"corpus": corpus, "session": name[:2], "emotion": emotion, column: name, "speaker": speaker}
                unsure, id = draw(st.integers(0, 4)) == 0, f"{prefix}{len(rows)}"
                rows.append({**row, "id": id, "audio": f"{id}.wav", "gender": None if unsure else gender})
    return draw(st.permutations(rows))


def speakers_of(manifest):
    return {row["id"]: (row["corpus"], row["speaker"]) for row in manifest.table.iter_rows(named=True)}


def parts_of(fold, of):
    return [{of[id] for id in part} for part in (fold.train, fold.dev, fold.test)]


# No protocol shares a speaker without saying so


OPTIONS = {
    "group-k-fold": {"k": 2},
    "speaker-k-fold": {"k": 2},
    "random-k-fold": {"k": 3},
    "speaker50": {"per_speaker": 1},
}


def draw_case(data, protocol, table):
    """Rows and options that the protocol may take: its own corpus, parts, lists or a table."""
    if protocol in PUBLISHED:
        facts = PUBLISHED[protocol]
        names = {*(name for names in facts.tests.values() for name in names), *(facts.dev or ()), *facts.train}
        more = () if len(facts.tests) > 1 or facts.train else ("1", "2")  # some name only who is tested
        return data.draw(rows_of((*sorted(names), *more), (facts.corpus,), facts.column, True)), {}
    if protocol == "leave-one-corpus-out":
        return data.draw(rows_of("0123", ("x", "y"))) + data.draw(rows_of("0123", ("z",), prefix="z")), {}
    rows = data.draw(rows_of())
    if protocol == "part":
        of = {(row["corpus"], row["speaker"]): None for row in rows}
        of = {who: data.draw(st.sampled_from(["train", "train", "dev", "test", None])) for who in of}
        rows = [{**row, "part": of[row["corpus"], row["speaker"]]} for row in rows]
        if data.draw(st.booleans()):  # then a speaker may be in two parts, which is to be refused
            rows[0]["part"] = data.draw(st.sampled_from(["train", "test"]))
        known = {"corpus": rows[0]["corpus"], "emotion": "sad", "gender": None, "audio": "a.wav"}
        rows += [{**known, "id": part, "speaker": f"of {part}", "part": part} for part in ("train", "test")]
    if protocol == "speakers":
        prefix = len({row["corpus"] for row in rows}) > 1
        names = sorted({f"{row['corpus']}/{row['speaker']}" if prefix else row["speaker"] for row in rows})
        return rows, {"test": data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))}
    if protocol == "emobox-table":
        lines = [f"{row['id']}\t{data.draw(st.sampled_from(['train', 'test']))}\n" for row in rows]
        table.write_text("key\tfold_1\n" + "".join(lines))
        return rows, {"path": table}
    if protocol == "speaker50":  # which leaves nobody with a single utterance
        rows += [{**row, "id": f"{row['id']} again"} for row in rows]
    if protocol == "i3-legacy":  # enough speakers of each class for it to apply
        more = [(f"s{n}", emotion) for n in range(9) for emotion in ("sad", "happy", "angry", None)]
        known = {"corpus": None, "gender": "female", "audio": "a.wav"}
        rows += [{**known, "speaker": name, "emotion": emotion, "id": f"{name}{emotion}"} for name, emotion in more]
        rows = [{**row, "gender": row["gender"] if row["gender"] != "male" else None} for row in rows]
    return rows, OPTIONS.get(protocol, {})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_protocol_shares_a_speaker_unless_it_declares_it(protocol, tmp_path):
    made = []

    @given(data=st.data(), dev=st.sampled_from([0, 0.2, 0.6]), seed=st.integers(0, 3))
    @settings(max_examples=25)
    def check(data, dev, seed):
        rows, options = draw_case(data, protocol, tmp_path / "table.tsv")
        manifest = Manifest.from_rows(rows)
        of = speakers_of(manifest)
        try:
            folds = create_folds(manifest, protocol, dev=dev, seed=seed, **options)
        except InputError:
            return  # it does not apply, or it refuses what would leak
        made.append(folds)
        for fold in folds:
            train, held, test = parts_of(fold, of)
            assert fold.declares_shared == (protocol in DECLARED)
            assert fold.shared == len((train | held) & test)
            if not fold.declares_shared:
                assert not (train | held) & test
                assert protocol == "part" or not train & held or len(train | held) == 1

    check()
    assert len(made) >= 3


def test_the_declared_protocols_are_declared():
    assert set(PROTOCOLS) >= DECLARED


# Hold-out and k folds


@pytest.mark.parametrize("protocol", TRUE)
@given(rows=rows_of(), dev=st.sampled_from([0, 0.2, 0.5]), seed=st.integers(0, 5), shuffle=st.randoms())
def test_every_utterance_has_one_part_whatever_the_order_of_rows(protocol, rows, dev, seed, shuffle):
    manifest, options = Manifest.from_rows(rows), {"k": 2} if protocol == "speaker-k-fold" else {}
    options["stratify"] = "corpus-gender" if seed % 2 else "gender"
    of = speakers_of(manifest)
    assume(len(set(of.values())) > 1)
    folds = create_folds(manifest, protocol, dev=dev, seed=seed, **options)
    for fold in folds:
        train, held, test = parts_of(fold, of)
        assert sorted(fold.train + fold.dev + fold.test) == sorted(manifest.ids)
        assert not (train | held) & test
        assert not train & held or len(train | held) == 1
        assert bool(held) == bool(dev) or len(train | held) == 1
    if protocol == "speaker-k-fold":
        assert sorted(id for fold in folds for id in fold.test) == sorted(manifest.ids)
    shuffle.shuffle(rows)
    again = create_folds(Manifest.from_rows(rows), protocol, dev=dev, seed=seed, **options)
    assert [[set(p) for p in (f.train, f.dev, f.test)] for f in again] == [
        [set(p) for p in (f.train, f.dev, f.test)] for f in folds
    ]
    other = create_folds(manifest, protocol, dev=0.4, seed=seed, **options)
    assert [fold.test for fold in other] == [fold.test for fold in folds]
    assert stamp(folds) == "speakers shared: 0"


def people(clips=lambda number: 4, classes=("a", "b", "c", "d"), **genders):
    rows = [
        {"id": f"{gender}{n}-{clip}", "audio": "a.wav", "speaker": f"{gender}{n}", "gender": gender,
         "emotion": classes[clip % len(classes)]}
        for gender, count in genders.items() for n in range(count) for clip in range(clips(n))
    ]  # fmt: skip
    return Manifest.from_rows(rows)


def counts_by_gender(manifest, fold):
    of = {row["id"]: (row["gender"], row["speaker"]) for row in manifest.table.iter_rows(named=True)}
    counted = [Counter(gender for gender, _ in part) for part in parts_of(fold, of)]
    return {gender: tuple(count[gender] for count in counted) for gender in dict.fromkeys(g for g, _ in of.values())}


@given(female=st.integers(3, 120), male=st.integers(3, 120), other=st.integers(0, 5), seed=st.integers(0, 9))
@settings(max_examples=30)
def test_each_gender_is_shared_out_within_one_speaker(female, male, other, seed):
    manifest = people(lambda n: 1, female=female, male=male, other=other)
    (fold,) = create_folds(manifest, "speaker-holdout", seed=seed)
    for gender, counts in counts_by_gender(manifest, fold).items():
        n = sum(counts)
        assert all(abs(count - share * n) < 1 for count, share in zip(counts, (0.64, 0.16, 0.2), strict=True)), gender


@pytest.mark.parametrize(
    ("genders", "expected"),
    [
        ({"female": 3, "male": 3}, {"female": (1, 1, 1), "male": (1, 1, 1)}),
        ({"female": 2, "male": 3}, {"female": (1, 0, 1), "male": (1, 1, 1)}),
        ({"female": 1, "male": 5}, {"female": (1, 0, 0), "male": (3, 1, 1)}),
        ({"female": 2, "male": 1}, {"female": (0, 1, 1), "male": (1, 0, 0)}),
        ({"other": 4}, {"other": (2, 1, 1)}),
    ],
)
def test_few_speakers_follow_the_rule(genders, expected):
    manifest = people(**genders)
    made = [counts_by_gender(manifest, create_folds(manifest, "speaker-holdout", seed=seed)[0]) for seed in range(12)]
    if genders == {"female": 2, "male": 1}:  # dev is one of the two that are left
        assert {tuple(each.values()) for each in made} == {((0, 1, 1), (1, 0, 0)), ((1, 0, 1), (0, 1, 0))}
    else:
        assert made == [expected] * 12


def test_one_speaker_of_each_gender_are_drawn_from_together():
    manifest = people(lambda n: 8, "ab", female=1, male=1)
    folds = [create_folds(manifest, "speaker-holdout", seed=seed)[0] for seed in range(12)]
    assert {fold.test[0].split("-")[0] for fold in folds} == {"female0", "male0"}
    assert all(fold.dev_shared == 1 for fold in folds)  # of one training speaker, dev takes utterances
    with pytest.raises(InputError, match="only one speaker: there is nobody to hold out"):
        create_folds(people(male=1), "speaker-holdout")


def test_gender_is_a_speakers_not_a_rows():
    rows = [("a", "female"), ("a", None), ("b", "female"), ("b", "male"), ("c", " MALE"), ("d", "other"), ("e", None)]
    manifest = Manifest.from_rows(
        {"id": str(n), "audio": "a.wav", "speaker": speaker, "gender": gender}
        for n, (speaker, gender) in enumerate(rows)
    )
    assert strata_of(manifest) == {"female": ["a"], "male": ["c"], "other": ["b", "d", "e"]}


def test_shares_hold_in_every_corpus_where_that_is_asked():
    tables = [people(female=count, male=count).table.with_columns(id=name + pl.col("id"), corpus=pl.lit(name))
              for name, count in (("a", 30), ("b", 3))]  # fmt: skip
    manifest = Manifest(pl.concat(tables))
    tested = {}
    for stratify in ("gender", "corpus-gender"):
        folds = [create_folds(manifest, "speaker-holdout", seed=n, stratify=stratify)[0] for n in range(20)]
        tested[stratify] = {len({fold.groups[id] for id in fold.test if id.startswith("b")}) for fold in folds}
    assert tested["corpus-gender"] == {2} < tested["gender"]
    folds = create_folds(manifest, "speaker-k-fold", k=3, stratify="corpus-gender")
    assert [len({fold.groups[id] for id in fold.test if id.startswith("b")}) for fold in folds] == [2, 2, 2]
    with pytest.raises(InputError, match="no way 'corpora' to stratify .known: gender, corpus-gender"):
        create_folds(manifest, "speaker-holdout", stratify="corpora")


@given(share=st.floats(0.01, 0.99), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_choosing_takes_some_of_every_stratum_of_two_and_never_all(share, sizes):
    strata = {str(n): [f"{n}/{speaker}" for speaker in range(size)] for n, size in enumerate(sizes)}
    chosen = Counter(name.split("/")[0] for name in choose(strata, share, np.random.default_rng(0)))
    if max(sizes) > 1:
        assert all(chosen[str(n)] == 0 if size == 1 else 0 < chosen[str(n)] < size for n, size in enumerate(sizes))
    else:
        assert 0 < sum(chosen.values()) < len(sizes) or len(sizes) == 1


def imbalance(manifest, ids):
    labels = dict(manifest.table.select("id", "emotion").iter_rows())
    whole, part = Counter(labels.values()), Counter(labels[id] for id in ids)
    return sum(abs(part[label] / len(ids) - count / len(manifest)) for label, count in whole.items())


def lopsided():
    rng = np.random.default_rng(0)
    rows = []
    for n in range(60):
        favourite = rng.dirichlet([0.4] * 5)
        for clip in range(int(rng.integers(1, 30))):
            row = {
                "id": f"{n}-{clip}",
                "audio": "a.wav",
                "speaker": f"{n:02d}",
                "gender": "female" if n % 3 else "male",
            }
            rows.append({**row, "emotion": "abcde"[rng.choice(5, p=favourite)]})
    return Manifest.from_rows(rows)


def test_the_best_of_some_draws_is_nearer_to_the_classes_than_one():
    manifest = lopsided()
    mean = {}
    for draws in (1, 20):
        folds = [create_folds(manifest, "speaker-holdout", seed=seed, draws=draws)[0] for seed in range(10)]
        mean[draws] = np.mean([imbalance(manifest, part) for fold in folds for part in (fold.test, fold.dev)])
        assert len({fold.test for fold in folds}) == 10
    assert mean[20] < 0.75 * mean[1]


def test_k_folds_have_their_part_of_every_gender():
    manifest = people(female=11, male=7, other=2)
    folds = create_folds(manifest, "speaker-k-fold", k=4)
    tested = [{gender: counts[2] for gender, counts in counts_by_gender(manifest, fold).items()} for fold in folds]
    assert [fold.name for fold in folds] == ["fold_1", "fold_2", "fold_3", "fold_4"]
    assert sorted(sum(each.values()) for each in tested) == [5, 5, 5, 5]
    for gender, low in (("female", 2), ("male", 1), ("other", 0)):
        assert {each[gender] for each in tested} == {low, low + 1}
    drawn = {tuple(fold.test for fold in create_folds(manifest, "speaker-k-fold", seed=seed)) for seed in range(6)}
    assert len(drawn) == 6


@pytest.mark.parametrize("protocol", ["speaker-holdout", "i3-legacy"])
def test_repeats_are_the_seeds_that_follow(protocol, tmp_path):
    manifest = people(female=9, male=8)
    folds = create_folds(manifest, protocol, repeats=3, seed=4)
    assert [fold.name for fold in folds] == [
        f"{protocol.removeprefix('speaker-').replace('-', '_')}_{n}" for n in (4, 5, 6)
    ]
    for number, fold in enumerate(folds, 4):
        (alone,) = create_folds(manifest, protocol, seed=number)
        assert (alone.train, alone.dev, alone.test) == (fold.train, fold.dev, fold.test)
    assert len({fold.test for fold in folds}) == 3
    assert len(write_folds(manifest, folds, tmp_path, "jsonl")) == 9


@pytest.mark.parametrize(
    ("protocol", "options", "message"),
    [
        ("speaker-holdout", {"test": 0}, "test is a share between 0 and 1, got 0"),
        ("speaker-holdout", {"test": 1.0}, "test is a share between 0 and 1, got 1.0"),
        ("speaker-holdout", {"dev": 1}, r"dev is a share in \[0, 1\), got 1"),
        ("speaker-holdout", {"draws": 0}, "draws is a whole number from 1, got 0"),
        ("speaker-holdout", {"repeats": True}, "repeats is a whole number from 1, got True"),
        ("speaker-holdout", {"amount": 0.3}, "no option 'amount'"),
        ("speaker-k-fold", {"k": 20}, "k is 20, but there are 17 speakers"),
        ("i3-legacy", {"amount": 0}, "amount is a share above 0 and at most 1, got 0"),
        ("i3-legacy", {"test": "x"}, "test is a share between 0 and 1, got 'x'"),
    ],
)
def test_mistakes_are_named(protocol, options, message):
    with pytest.raises(InputError, match=message):
        create_folds(people(female=9, male=8), protocol, **options)


def test_a_recipe_draws_anew_for_every_seed_and_refuses_repeats():
    from serkit.training.recipe import ProtocolSection

    manifest = people(female=9, male=8)
    section = ProtocolSection(name="speaker-holdout", seed="run", test=0.3)
    drawn = {create_folds(manifest, section.name, **section.options(seed))[0].test for seed in range(5)}
    assert len(drawn) == 5
    with pytest.raises(ValueError, match=r"protocol\.repeats is for serkit split: set protocol\.seed"):
        ProtocolSection(name="speaker-holdout", repeats=5)


# The original's split


def golden(reference_file, kind, seed, amount=100):
    folder = reference_file(
        f"i3/golden_splits/{kind}/metadata/train_test_validation/{seed}/speaker_ind_True_{amount}_80"
    )
    return {part: (folder / f"{part}.csv").read_bytes() for part in ("train", "val", "test")}


GOLDEN = [
    (kind, seed, amount) for kind in ("full", "sparse") for seed, amount in ((0, 100), (1, 100), (7, 100), (0, 30))
]


@pytest.mark.parametrize(("kind", "seed", "amount"), GOLDEN)
def test_the_legacy_split_is_the_originals_byte_for_byte(reference_file, tmp_path, kind, seed, amount):
    path = reference_file(f"i3/golden_splits/{kind}/metadata.csv")
    manifest = Manifest.read(path)
    folds = create_folds(manifest, "i3-legacy", seed=seed, amount=amount / 100)
    written = write_folds(manifest, folds, tmp_path, "i3")
    place = tmp_path / f"train_test_validation/{seed}/speaker_ind_True_{amount}_80"
    assert written == [place / "train.csv", place / "val.csv", place / "test.csv"]
    made = {file.stem: file.read_bytes().replace(f"{path.parent}/".encode(), b"") for file in written}
    assert made == golden(reference_file, kind, seed, amount)


@pytest.mark.parametrize(
    ("kind", "seed", "shared", "trained"),
    [("full", 0, 0, 0), ("full", 7, 0, 0), ("sparse", 0, 48, 46), ("sparse", 1, 39, 37), ("sparse", 7, 41, 37)],
)
def test_the_legacy_split_says_how_many_speakers_it_shares(reference_file, kind, seed, shared, trained):
    folds = create_folds(Manifest.read(reference_file(f"i3/golden_splits/{kind}/metadata.csv")), "i3-legacy", seed=seed)
    assert (folds[0].shared, folds[0].train_shared) == (shared, trained)
    said = "every class is split by itself, 13 utterances of other genders are left out"
    expected = f"speakers shared: {shared} ({said}; {trained} of them with train)" if shared else "speakers shared: 0"
    assert stamp(folds) == expected


@pytest.mark.parametrize("kind", ["full", "sparse"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_true_split_of_the_same_table_shares_nobody_and_keeps_the_shares(reference_file, kind, seed):
    manifest = Manifest.read(reference_file(f"i3/golden_splits/{kind}/metadata.csv"))
    (fold,) = create_folds(manifest, "speaker-holdout", seed=seed)
    assert fold.shared == fold.dev_shared == 0
    assert counts_by_gender(manifest, fold) == {"male": (19, 5, 6), "female": (25, 6, 8), None: (1, 0, 0)}
    if kind == "full":  # where every speaker has every class the original's split is a true one of the same structure
        rows = {
            part: list(csv.DictReader(text.decode().splitlines(), delimiter="\t"))
            for part, text in golden(reference_file, kind, seed).items()
        }
        people = {part: {(row["gender"], row["actor"]) for row in each} for part, each in rows.items()}
        assert not people["train"] & people["test"] and not people["val"] & people["test"]
        sizes = [Counter(gender for gender, _ in people[part]) for part in ("train", "val", "test")]
        assert [(size["male"], size["female"]) for size in sizes] == [(19, 24), (5, 7), (6, 8)]


def test_without_a_dev_part_all_that_is_not_tested_is_trained_on():
    manifest = people(female=9, male=8)
    (fold,), (whole,) = (create_folds(manifest, "i3-legacy", dev=dev) for dev in (0.2, 0))
    assert whole.dev == () and whole.test == fold.test
    assert set(whole.train) == {*fold.train, *fold.dev}


def test_what_the_original_cannot_split_is_refused_with_a_remedy():
    with pytest.raises(
        InputError, match="class 'a' has 1 speakers of one gender left, too few to split: use speaker-hold"
    ):
        create_folds(people(female=1, male=8), "i3-legacy")
    with pytest.raises(InputError, match="no speaker is female or male: use speaker-holdout, which takes all"):
        create_folds(people(other=5), "i3-legacy")
