"""Protocols: folds that never leak unseen, and published splits that are those of their papers."""

from __future__ import annotations

import csv
import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serkit.data.corpora.iemocap import read_name
from serkit.data.folds import write_folds
from serkit.data.manifest import Manifest
from serkit.data.protocols import PROTOCOLS, Fold, create_folds, group_of, hold_out_dev, stamp
from serkit.data.published import PUBLISHED
from serkit.errors import InputError
from serkit.evaluation.page import shared_speakers

GROUPS = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c", "c2": "c"}
BUILT_IN = ("leave-one-speaker-out", "leave-one-session-out", "leave-one-corpus-out", "group-k-fold")


def make_fold(train=("a1", "a2"), dev=("b1", "b2"), test=("c1", "c2"), **options):
    return Fold("x", tuple(train), tuple(dev), tuple(test), GROUPS, **options)


def manifest_of(speakers, utterances=3, corpus="made", classes=("happy", "sad")):
    rows = [
        {
            "id": f"{corpus}-{speaker}-{number}",
            "audio": f"/{corpus}/{speaker}/{number}.wav",
            "corpus": corpus,
            "speaker": speaker,
            "session": speaker[:1],
            "emotion": classes[number % len(classes)],
        }
        for speaker in speakers
        for number in range(utterances)
    ]
    return Manifest.from_rows(rows)


def as_sets(folds):
    return [(fold.name, set(fold.train), set(fold.dev), set(fold.test)) for fold in folds]


def speakers_tested(folds):
    return {fold.name: {fold.groups[id] for id in fold.test} for fold in folds}


# Folds


def test_a_fold_of_disjoint_groups_shares_nobody():
    fold = make_fold()
    assert (fold.shared, fold.dev_shared) == (0, 0)


@pytest.mark.parametrize(
    "parts",
    [{"dev": ("a1", "b1")}, {"test": ("a1", "c1")}, {"dev": ("b1", "c1")}, {"train": ("a1", "a1")}],
    ids=["train and dev", "train and test", "dev and test", "twice in train"],
)
@pytest.mark.parametrize("declared", [False, True])
def test_an_utterance_in_two_parts_is_refused_even_when_sharing_is_declared(parts, declared):
    with pytest.raises(InputError, match=r"fold x: utterance '(a1|c1)' stands in more than one part"):
        make_fold(**parts, declares_shared=declared)


@pytest.mark.parametrize("parts", [{"test": ("a2", "c1"), "train": ("a1",)}, {"test": ("b2", "c1"), "dev": ("b1",)}])
def test_a_speaker_of_the_test_part_in_train_or_dev_is_refused_unless_declared(parts):
    with pytest.raises(InputError, match=r"speaker '(a|b)' is in training and test \(1 of them are\)"):
        make_fold(**parts)
    assert make_fold(**parts, declares_shared=True).shared == 1


def test_a_speaker_in_train_and_dev_is_counted_but_not_refused():
    assert make_fold(train=("a1",), dev=("a2", "b1")).dev_shared == 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_empty_training_or_test_part_is_refused(part):
    with pytest.raises(InputError, match=f"the {part} part is empty"):
        make_fold(**{part: ()})


def test_an_empty_dev_part_is_allowed():
    assert make_fold(dev=()).dev == ()


def test_the_error_names_the_kind_of_group():
    with pytest.raises(InputError, match="session 'a' is in training and test.*new sessions"):
        make_fold(train=("a1",), test=("a2",), group="session")


def test_the_stamp_is_the_largest_count_over_the_folds():
    leaking = make_fold(train=("a1", "b1"), dev=(), test=("a2", "b2"), declares_shared=True)
    assert stamp([make_fold()]) == "speakers shared: 0"
    assert stamp([make_fold(), leaking, make_fold()]) == "speakers shared: 2"
    assert stamp(iter([make_fold(group="session")])) == "sessions shared: 0"


# Every protocol that makes its own folds


@st.composite
def manifests(draw):
    """Corpora of different sizes, speakers named alike, cells missing, one or two speakers to a session."""
    rows = []
    for corpus in draw(st.sampled_from([("x",), ("x", "y"), ("x", "y", "z")])):
        for speaker in range(draw(st.integers(1, 5))):
            for number, emotion in enumerate(draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))):
                id = f"{corpus}{speaker}{number}"
                session = str(speaker // 2)
                rows.append(
                    {
                        "id": id,
                        "audio": id,
                        "corpus": corpus,
                        "speaker": str(speaker),
                        "session": session,
                        "emotion": emotion,
                    }
                )
    return Manifest.from_rows(draw(st.permutations(rows)))


def split(manifest, protocol, **options):
    """Split, or give the example up where the protocol does not apply."""
    try:
        return create_folds(manifest, protocol, **({"k": 2} if protocol == "group-k-fold" else {}), **options)
    except InputError as error:
        assume(not any(reason in str(error) for reason in ("has only the", "k is 2", "no class has")))
        raise


@pytest.mark.parametrize("protocol", BUILT_IN)
@given(manifest=manifests(), dev=st.sampled_from([0, 0.2, 0.5]))
def test_folds_test_every_utterance_once_and_share_no_speaker(protocol, manifest, dev):
    folds = split(manifest, protocol, dev=dev)
    speakers = {row["id"]: (row["corpus"], row["speaker"]) for row in manifest.table.iter_rows(named=True)}
    assert sorted(id for fold in folds for id in fold.test) == sorted(manifest.ids)
    for fold in folds:
        assert sorted(fold.train + fold.dev + fold.test) == sorted(manifest.ids)
        train, held, test = ({speakers[id] for id in part} for part in (fold.train, fold.dev, fold.test))
        assert not (train | held) & test
        assert fold.shared == 0
        assert fold.dev_shared == len(train & held)
        assert not (train & held) or len(train | held) == 1
        assert bool(held) == bool(dev) or len(train | held) == 1
    assert stamp(folds) == "speakers shared: 0"


@pytest.mark.parametrize("protocol", BUILT_IN)
@given(manifest=manifests(), shuffle=st.randoms())
def test_folds_do_not_depend_on_the_order_of_rows(protocol, manifest, shuffle):
    ids = list(manifest.ids)
    shuffle.shuffle(ids)
    assert as_sets(split(manifest, protocol)) == as_sets(split(manifest.select(ids), protocol))


@pytest.mark.parametrize("protocol", BUILT_IN)
@given(manifest=manifests(), dev=st.sampled_from([0, 0.3, 0.6]), seed=st.integers(0, 5))
def test_the_test_part_depends_on_neither_dev_nor_seed(protocol, manifest, dev, seed):
    plain = {} if protocol != "group-k-fold" else {"seed": seed}
    first, second = split(manifest, protocol, **plain), split(manifest, protocol, dev=dev, seed=seed)
    assert [(fold.name, fold.test) for fold in first] == [(fold.name, fold.test) for fold in second]
    assert second == split(manifest, protocol, dev=dev, seed=seed)


@pytest.mark.parametrize(("protocol", "column"), list(zip(BUILT_IN[:3], ("speaker", "session", "corpus"), strict=True)))
@given(manifest=manifests())
def test_leave_one_out_tests_exactly_one_value_per_fold(protocol, column, manifest):
    folds = split(manifest, protocol)
    cells = {row["id"]: (row["corpus"], row[column]) for row in manifest.table.iter_rows(named=True)}
    assert [len({cells[id] for id in fold.test}) for fold in folds] == [1] * len(folds)
    assert len(folds) == len(set(cells.values()))
    assert [fold.name for fold in folds] == sorted(fold.name for fold in folds)


def test_folds_are_named_after_what_they_test():
    folds = create_folds(manifest_of("ba"), "leave-one-speaker-out", dev=0)
    assert speakers_tested(folds) == {"a": {"a"}, "b": {"b"}}


def test_the_seed_changes_who_is_in_dev():
    manifest = manifest_of([f"s{n}" for n in range(10)])
    drawn = {frozenset(create_folds(manifest, "leave-one-speaker-out", seed=seed)[0].dev) for seed in range(8)}
    assert len(drawn) > 3


def test_the_seed_changes_the_folds_of_group_k_fold():
    manifest = manifest_of([f"s{n}" for n in range(10)])
    assert (
        len({tuple(fold.test for fold in create_folds(manifest, "group-k-fold", seed=seed)) for seed in range(5)}) > 1
    )


@pytest.mark.parametrize(("share", "speakers"), [(0.2, 2), (0.25, 2), (0.5, 5), (0.01, 1), (0.99, 9)])
def test_dev_is_that_share_of_the_training_speakers_and_at_least_one(share, speakers):
    manifest = manifest_of("abcdefghijk")
    fold = create_folds(manifest, "leave-one-speaker-out", dev=share)[0]
    assert len({fold.groups[id] for id in fold.dev}) == speakers


def test_a_single_training_speaker_is_divided_by_class_and_the_fold_says_so():
    manifest = manifest_of("ab", utterances=20)
    fold = create_folds(manifest, "leave-one-speaker-out", dev=0.3)[0]
    emotions = dict(manifest.table.select("id", "emotion").iter_rows())
    assert fold.dev_shared == 1
    assert sorted(emotions[id] for id in fold.dev) == ["happy"] * 3 + ["sad"] * 3


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_a_dev_share_outside_zero_to_one_is_refused(share):
    with pytest.raises(InputError, match=r"dev is a share in \[0, 1\)"):
        create_folds(manifest_of("abc"), "leave-one-speaker-out", dev=share)


def test_holding_out_nothing_keeps_all_in_order():
    ids = ["c", "a", "b"]
    assert hold_out_dev(ids, dict.fromkeys(ids, "s"), dict.fromkeys(ids), 0, None) == (("c", "a", "b"), ())


def test_group_k_fold_balances_classes():
    manifest = manifest_of([f"s{n}" for n in range(12)], utterances=4)
    emotions = dict(manifest.table.select("id", "emotion").iter_rows())
    folds = create_folds(manifest, "group-k-fold", k=3)
    assert [fold.name for fold in folds] == ["fold_1", "fold_2", "fold_3"]
    assert [sorted(emotions[id] for id in fold.test) for fold in folds] == [["happy"] * 8 + ["sad"] * 8] * 3


def test_group_k_fold_takes_another_group():
    folds = create_folds(manifest_of(["a1", "a2", "b1", "b2", "c1"]), "group-k-fold", k=3, group="session", dev=0)
    assert sorted(set().union(*values) and "".join(values) for values in speakers_tested(folds).values()) == [
        "a",
        "b",
        "c",
    ]
    assert stamp(folds) == "sessions shared: 0"


def test_the_same_name_in_two_corpora_is_two_speakers():
    both = Manifest.concat([manifest_of(["01", "02"], corpus="x"), manifest_of(["01", "02"], corpus="y")])
    assert set(group_of(both, "speaker").values()) == {"x/01", "x/02", "y/01", "y/02"}
    assert len(create_folds(both, "leave-one-speaker-out")) == 4
    assert create_folds(both, "leave-one-corpus-out")[0].shared == 0


# Parts and lists of speakers


def parted(parts):
    rows = [{**row, "part": parts[row["speaker"]]} for row in manifest_of(list(parts)).table.iter_rows(named=True)]
    return Manifest.from_rows(rows)


def test_the_part_column_is_taken_as_it_is():
    (fold,) = create_folds(parted({"a": "train", "b": "dev", "c": "test", "d": None}), "part")
    assert [{fold.groups[id] for id in part} for part in (fold.train, fold.dev, fold.test)] == [{"a"}, {"b"}, {"c"}]


def test_without_a_dev_part_it_is_drawn_from_train():
    (fold,) = create_folds(parted({"a": "train", "b": "train", "c": "test"}), "part")
    assert {fold.groups[id] for id in fold.test} == {"c"}
    assert len({fold.groups[id] for id in fold.dev}) == 1


def test_parts_that_share_a_speaker_are_refused_unless_declared():
    table = manifest_of("ab").table
    rows = [{**row, "part": "test" if n % 3 == 0 else "train"} for n, row in enumerate(table.iter_rows(named=True))]
    with pytest.raises(InputError, match="'a' is in training and test"):
        create_folds(Manifest.from_rows(rows), "part")
    assert stamp(create_folds(Manifest.from_rows(rows), "part", declares_shared=True)) == "speakers shared: 2"


def test_lists_of_speakers_become_the_parts():
    manifest = manifest_of("abcde")
    (fold,) = create_folds(manifest, "speakers", train=["a"], dev_speakers=["b"], test=["c", "d"])
    assert [{fold.groups[id] for id in part} for part in (fold.train, fold.dev, fold.test)] == [
        {"a"},
        {"b"},
        {"c", "d"},
    ]
    (fold,) = create_folds(manifest, "speakers", test=["c"], dev=0)
    assert {fold.groups[id] for id in fold.train} == set("abde")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "test names no speaker"),
        ({"test": ["z"]}, "test names 'z', who is not in the manifest"),
        ({"test": ["a"], "dev_speakers": ["z"]}, "dev_speakers names 'z'"),
        ({"test": "abc"}, "test is a list of speakers"),
        ({"test": ["a"], "train": ["a", "b"]}, "stands in more than one part"),
        ({"test": ["a", "b", "c"]}, "the train part is empty"),
    ],
)
def test_bad_lists_of_speakers_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        create_folds(manifest_of("abc"), "speakers", **options)


# Published splits


def read_table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def manifest_of_table(rows, corpus):
    """The utterances of an EmoBox table as our corpora name them: by the file's stem."""
    from pathlib import PurePosixPath

    return Manifest.from_rows(
        {
            "id": PurePosixPath(row["wav"]).stem,
            "audio": row["wav"],
            "corpus": corpus,
            "speaker": row["speaker_stm"].removeprefix("Ses") if corpus != "emodb" else row["speaker_stm"][-2:],
            "session": row["speaker_stm"][4:5] if corpus == "iemocap" else None,
            "emotion": row["emo"],
        }
        for row in rows
    )


@pytest.mark.parametrize(("corpus", "folds"), [("ravdess", 6), ("emovo", 6), ("savee", 4), ("iemocap", 5)])
def test_published_folds_test_the_utterances_of_the_emobox_table(reference_file, corpus, folds):
    rows = read_table(reference_file(f"emobox/tsv/{corpus}.tsv"))
    manifest = manifest_of_table(rows, corpus)
    made = create_folds(manifest, f"emobox/{corpus}", dev=0)
    assert [fold.name for fold in made] == [f"fold_{n}" for n in range(1, folds + 1)]
    for fold in made:
        expected = {
            part: {id for id, row in zip(manifest.ids, rows, strict=True) if row[fold.name] == part}
            for part in ("train", "test")
        }
        assert set(fold.test) == expected["test"]
        assert set(fold.train) == expected["train"]
    assert stamp(made) == "speakers shared: 0"


@pytest.mark.parametrize("corpus", ["ravdess", "emovo", "savee", "iemocap"])
def test_an_emobox_table_by_path_gives_the_same_folds_as_the_published_ones(reference_file, corpus):
    path = reference_file(f"emobox/tsv/{corpus}.tsv")
    manifest = manifest_of_table(read_table(path), corpus)
    by_path, published = (
        create_folds(manifest, name, dev=0, **options)
        for name, options in (("emobox-table", {"path": path}), (f"emobox/{corpus}", {}))
    )
    assert as_sets(by_path) == as_sets(published)
    assert stamp(by_path) == "speakers shared: 0"


def test_emobox_shares_every_speaker_of_emodb_and_the_stamp_says_so(reference_file):
    path = reference_file("emobox/tsv/emodb.tsv")
    folds = create_folds(manifest_of_table(read_table(path), "emodb"), "emobox-table", path=path, dev=0)
    assert len(folds) == 5
    assert stamp(folds) == "speakers shared: 10"


@pytest.mark.parametrize(("corpus", "version"), [("ravdess", "1.1.0"), ("emodb", "1.2.0")])
def test_audeering_splits_are_those_of_its_datasets(reference_file, corpus, version):
    facts = json.loads(reference_file(f"audeering/{corpus}_{version}_speaker_splits.json").read_text(encoding="utf-8"))
    speakers = [name for part in ("train", "dev", "test") for name in facts.get(part, [])]
    (fold,) = create_folds(manifest_of(speakers, corpus=corpus), f"audeering/{corpus}", dev=0)
    for part in ("train", "dev", "test"):
        assert {fold.groups[id] for id in getattr(fold, part)} == set(facts.get(part, []))


def test_pepino_tests_the_last_two_actors_of_ravdess():
    actors = [f"{n:02d}" for n in range(1, 25)]
    (fold,) = create_folds(manifest_of(actors, corpus="ravdess"), "pepino/ravdess", dev=0.5, seed=3)
    parts = [sorted({fold.groups[id] for id in part}) for part in (fold.train, fold.dev, fold.test)]
    assert parts == [actors[:20], ["21", "22"], ["23", "24"]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_folds_name_nobody_twice(name):
    facts = PUBLISHED[name]
    named = [speaker for speakers in facts.tests.values() for speaker in speakers]
    named += [*facts.train, *(facts.dev or ())]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_split_of_another_corpus_is_refused(name):
    with pytest.raises(
        InputError, match=f"protocol {name}: is for {PUBLISHED[name].corpus}, the manifest holds \\['made'\\]"
    ):
        create_folds(manifest_of("abc"), name)


def test_a_published_split_without_its_speakers_is_refused():
    with pytest.raises(InputError, match="'01', who is not in the manifest"):
        create_folds(manifest_of(["23", "24"], corpus="ravdess"), "pepino/ravdess")
    with pytest.raises(InputError, match="fold fold_2: the test part is empty"):
        create_folds(manifest_of(["01", "11", "08"], corpus="ravdess"), "emobox/ravdess")


# EmoBox tables by path


def write_table(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_dev_part_of_an_emobox_table_is_kept(tmp_path):
    path = write_table(tmp_path / "t.tsv", "key\tfold_1", "made-a-0\ttest", "made-b-0\tvalid", "made-c-0\ttrain")
    (fold,) = create_folds(manifest_of("abc", utterances=1), "emobox-table", path=path)
    assert (fold.train, fold.dev, fold.test) == (("made-c-0",), ("made-b-0",), ("made-a-0",))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["key\tfold_1", "made-a-0\ttest", "made-z-0\ttrain"], "lists 2 utterances, the manifest has 1 of them"),
        (["key\tother", "made-a-0\ttest"], "has no fold_ column"),
        (["id\tfold_1", "made-a-0\ttest"], "has no column key"),
        ([""], "has no"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(tmp_path, lines, message):
    path = write_table(tmp_path / "t.tsv", *lines)
    with pytest.raises(InputError, match=f"t.tsv: {message}"):
        create_folds(manifest_of("abc", utterances=1), "emobox-table", path=path)


def test_a_missing_table_is_refused():
    with pytest.raises(InputError, match="is not a file: give an EmoBox .tsv table"):
        create_folds(manifest_of("abc"), "emobox-table")


# Mistakes


@pytest.mark.parametrize(
    ("protocol", "options", "message"),
    [
        ("leave-one-speaker-in", {}, "no protocol named 'leave-one-speaker-in': did you mean 'leave-one-speaker-out'"),
        ("xyz", {}, r"no protocol named 'xyz' \(known: .*group-k-fold"),
        ("leave-one-speaker-out", {"sead": 1}, "no option 'sead': did you mean 'seed'"),
        ("leave-one-speaker-out", {"k": 3}, r"no option 'k' \(known: dev_by, dev, seed\)"),
        ("leave-one-speaker-out", {"seed": -1}, "seed is a whole number"),
        ("leave-one-speaker-out", {"dev": "much"}, "dev is a share"),
        ("leave-one-corpus-out", {}, r"has only the corpus \['made'\]"),
        ("group-k-fold", {"k": 4}, "k is 4, but there are 3 groups"),
        ("group-k-fold", {"k": 1}, "k is 1, but"),
        ("group-k-fold", {"k": "many"}, "k is a whole number"),
        ("group-k-fold", {"group": "town"}, "has no column 'town'"),
        ("part", {}, "the train part is empty"),
    ],
)
def test_mistakes_are_one_line_that_says_what_is_wrong(protocol, options, message):
    with pytest.raises(InputError, match=message) as caught:
        create_folds(manifest_of("abc"), protocol, **options)
    assert "\n" not in str(caught.value)


def test_k_fold_on_classes_of_one_utterance_each_is_refused():
    rows = [{"id": name, "audio": name, "corpus": "x", "speaker": name, "emotion": name} for name in "abc"]
    with pytest.raises(InputError, match="k is 2, but no class has that many utterances"):
        create_folds(Manifest.from_rows(rows), "group-k-fold", k=2)


@pytest.mark.parametrize("protocol", ["leave-one-speaker-out", "group-k-fold", "part", "speakers"])
def test_a_missing_speaker_is_named(protocol):
    rows = [
        *manifest_of("abcdef").table.iter_rows(named=True),
        {"id": "lost", "audio": "x", "corpus": "made", "emotion": "sad"},
    ]
    with pytest.raises(InputError, match=r"utterance 'lost' has no speaker \(1 lack it\)"):
        create_folds(Manifest.from_rows(rows), protocol)


def test_an_id_that_stands_twice_is_refused():
    rows = list(manifest_of("ab").table.iter_rows(named=True))
    with pytest.raises(InputError, match="the id 'made-a-0' stands more than once"):
        create_folds(Manifest.from_rows([*rows, rows[0]]), "leave-one-speaker-out")


def test_every_protocol_has_a_name_and_a_summary():
    assert all(name == protocol.name and protocol.summary for name, protocol in PROTOCOLS.items())


def test_pepino_takes_a_whole_session_of_iemocap_for_development():
    rows = [
        {"id": f"{session}{who}{number}", "audio": "a.wav", "corpus": "iemocap", "speaker": f"0{session}{who}",
         "session": str(session), "emotion": "sad"}
        for session in range(1, 6) for who in "FM" for number in range(2)
    ]  # fmt: skip
    folds = create_folds(Manifest.from_rows(rows), "pepino/iemocap", dev=0.5, seed=7)
    sessions = [[{id[0] for id in part} for part in (fold.train, fold.dev, fold.test)] for fold in folds]
    assert sessions == [
        [{"2", "3", "4"}, {"5"}, {"1"}],
        [{"1", "3", "4"}, {"5"}, {"2"}],
        [{"1", "2", "4"}, {"5"}, {"3"}],
        [{"1", "2", "3"}, {"5"}, {"4"}],
        [{"1", "2", "3"}, {"4"}, {"5"}],
    ]
    assert stamp(folds) == "speakers shared: 0" and all(len(fold.test) == 4 for fold in folds)


@given(count=st.integers(10, 40), k=st.integers(3, 6), seed=st.integers(0, 99), dev=st.sampled_from([0, 0.2]))
def test_random_folds_test_every_utterance_once_and_say_that_speakers_are_shared(count, k, seed, dev):
    manifest = manifest_of("ab", count)
    folds = create_folds(manifest, "random-k-fold", k=k, seed=seed, dev=dev)
    assert sorted(id for fold in folds for id in fold.test) == sorted(manifest.ids)
    assert [len(fold.test) for fold in folds[:-1]] == [2 * count // k] * (k - 1)
    for fold in folds:
        assert {*fold.train, *fold.dev, *fold.test} == set(manifest.ids)
        assert bool(fold.dev) == bool(dev) and (not dev or set(fold.dev) in [set(other.test) for other in folds])
    backwards = create_folds(Manifest(manifest.table.reverse()), "random-k-fold", k=k, seed=seed, dev=dev)
    assert as_sets(backwards) == as_sets(folds)
    assert as_sets(create_folds(manifest, "random-k-fold", k=k, seed=seed + 1, dev=dev)) != as_sets(folds)
    assert stamp(folds) == "speakers shared: 2"


def test_random_folds_need_a_training_a_dev_and_a_test_fold():
    with pytest.raises(InputError, match="k is 2, it is 3 to the number of utterances"):
        create_folds(manifest_of("ab"), "random-k-fold", k=2)


# Groups that nobody knows


def without_speakers(parts=("train", "train", "train", "dev", "test", "test")):
    return Manifest.from_rows(
        {"id": f"u{n}", "audio": f"{n}.wav", "emotion": "ab"[n % 2], "part": part} for n, part in enumerate(parts)
    )


def test_parts_without_speakers_are_split_and_the_stamp_claims_nothing():
    (fold,) = create_folds(without_speakers(), "part", group="none")
    assert (fold.train, fold.dev, fold.test) == (("u0", "u1", "u2"), ("u3",), ("u4", "u5"))
    assert fold.shared is None
    assert stamp([fold]) == "speakers unknown"
    assert shared_speakers(stamp([fold])) is None


@pytest.mark.parametrize(("protocol", "k"), [("group-k-fold", 2), ("random-k-fold", 3)])
def test_folds_by_chance_need_no_speakers(protocol, k):
    folds = create_folds(without_speakers(), protocol, k=k, group="none", dev=0)
    assert sorted(id for fold in folds for id in fold.test) == [f"u{n}" for n in range(6)]
    assert stamp(folds) == "speakers unknown"


def test_without_speakers_the_remedy_is_named():
    with pytest.raises(InputError, match='has no speaker \\(6 lack it\\): name it, or .* group="none"'):
        create_folds(without_speakers(), "part")


def test_an_utterance_in_two_parts_is_refused_without_speakers_too():
    table = without_speakers().table
    with pytest.raises(InputError, match="the id 'u0' stands more than once"):
        create_folds(Manifest(table.vstack(table.head(1))), "part", group="none")


# Cai et al. 2021

TESTED = {"01F": 507, "01M": 578, "02F": 505, "02M": 518, "03F": 536,
          "03M": 615, "04F": 553, "04M": 478, "05F": 644, "05M": 597}  # fmt: skip
TALKERS = {"01F": 528, "01M": 557, "02F": 481, "02M": 542, "03F": 522,
           "03M": 629, "04F": 528, "04M": 503, "05F": 590, "05M": 651}  # fmt: skip


@pytest.fixture(scope="module")
def iemocap(reference_file):
    """The 5531 utterances, by their published names alone, and the fold that the paper tests each in."""
    with reference_file("cai/iemocap_folds_labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    made = [
        {
            "id": row["utterance_id"],
            "audio": f"{row['utterance_id']}.wav",
            "corpus": "iemocap",
            **read_name(row["utterance_id"]),
            "emotion": row["emotion_code"],
        }
        for row in rows
    ]
    for row, known in zip(made, rows, strict=True):
        found = (row["speaker"], row["recording"], row["scenario"])
        assert found == (known["talker"], known["recording"], known["scenario"])
    return Manifest.from_rows(made), {row["utterance_id"]: row["fold"] for row in rows}


def test_recording10_is_the_papers_folds_and_says_that_talkers_are_shared(iemocap):
    manifest, published = iemocap
    folds = create_folds(manifest, "recording10", dev=0)
    assert {fold.name: len(fold.test) for fold in folds} == TESTED
    for fold in folds:
        assert {published[id] for id in fold.test} == {fold.name}
        assert sorted(fold.train + fold.test) == sorted(manifest.ids)
        talkers = {f"{fold.name[:2]}F", f"{fold.name[:2]}M"}
        assert {fold.groups[id] for id in fold.test} == talkers
        assert talkers <= {fold.groups[id] for id in fold.train}
        assert fold.shared == 2
    codes = dict(manifest.table.select("id", "emotion").iter_rows())
    assert Counter(codes[id] for fold in folds for id in fold.test) == {"e0": 1708, "e1": 1636, "e2": 1103, "e3": 1084}
    assert stamp(folds) == "speakers shared: 2 (the talkers of a test fold are also in training)"
    assert shared_speakers(stamp(folds)) == 2


def test_session1_has_the_supports_that_were_published_for_mat(iemocap):
    manifest, _ = iemocap
    (fold,) = create_folds(manifest, "session1", dev=0)
    label = dict(manifest.table.select("id", "emotion").rows())
    tested, trained = (Counter(label[id] for id in part) for part in (fold.test, fold.train))
    codes = ("e0", "e1", "e3", "e2")  # neutral, happy, sad, angry
    assert [tested[code] for code in codes] == [384, 278, 194, 229]
    assert [trained[code] for code in codes] == [1324, 1358, 890, 874]
    assert (len(fold.test), len(fold.train), fold.shared) == (1085, 4446, 0)
    (own,) = create_folds(manifest, "session1")
    assert set(own.train) | set(own.dev) == set(fold.train) and own.shared == 0 and own.dev_shared == 0
    (published,) = create_folds(manifest, "session1", dev_by="test")
    assert published.dev == published.test == fold.test and published.train == fold.train
    assert stamp([published]).endswith("; chosen on the test part, speakers shared with train: 0")


def test_part_may_be_chosen_on_the_test_part_and_says_so():
    parts = {"a": "train", "b": "train", "c": "dev", "d": "test"}
    manifest = parted(parts)
    (fold,) = create_folds(manifest, "part", dev_by="test")
    assert {fold.groups[id] for id in fold.train} == {"a", "b", "c"} and len(fold.train) == 9
    assert {fold.groups[id] for id in fold.test} == {"d"} and fold.dev == fold.test
    assert stamp([fold]).endswith("; chosen on the test part, speakers shared with train: 0")
    (without,) = create_folds(parted({**parts, "c": "train"}), "part", dev_by="test")
    assert (set(without.train), without.dev) == (set(fold.train), fold.test)
    assert create_folds(manifest, "part", dev_by="group") == create_folds(manifest, "part")
    shared = manifest.table.with_columns(speaker=pl.lit("x"))
    with pytest.raises(InputError, match="speaker 'x' is in training and test"):
        create_folds(Manifest(shared), "part", dev_by="test")
    with pytest.raises(InputError, match='dev_by is "group" or "test", got \'chance\''):
        create_folds(manifest, "part", dev_by="chance")


def test_talker10_and_session5_share_nobody(iemocap):
    manifest, _ = iemocap
    talkers, sessions = (create_folds(manifest, name, dev=0) for name in ("talker10", "session5"))
    assert {fold.name: len(fold.test) for fold in talkers} == TALKERS
    assert speakers_tested(talkers) == {name: {name} for name in TALKERS}
    assert speakers_tested(sessions) == {str(number): {f"0{number}F", f"0{number}M"} for number in range(1, 6)}
    for folds in (talkers, sessions):
        assert sorted(id for fold in folds for id in fold.test) == sorted(manifest.ids)
        assert stamp(folds) == "speakers shared: 0"


@pytest.mark.parametrize("column", ["speaker", "recording"])
def test_speaker50_tests_fifty_of_each_and_keeps_the_shares_of_classes(iemocap, column):
    manifest, _ = iemocap
    (fold,) = create_folds(manifest, "speaker50", column=column, dev=0.1)
    cells = dict(manifest.table.select("id", column).iter_rows())
    codes = dict(manifest.table.select("id", "emotion").iter_rows())
    assert Counter(cells[id] for id in fold.test) == dict.fromkeys(set(cells.values()), 50)
    assert sorted(fold.train + fold.dev + fold.test) == sorted(manifest.ids)
    assert {cells[id] for id in fold.train} == {cells[id] for id in fold.dev} == set(cells.values())
    for name in set(cells.values()):
        own = [id for id in manifest.ids if cells[id] == name]
        drawn = Counter(codes[id] for id in fold.test if cells[id] == name)
        for code, count in Counter(codes[id] for id in own).items():
            assert abs(drawn[code] - 50 * count / len(own)) < 1
    assert stamp([fold]) == "speakers shared: 10 (every test speaker is also in training, as naming speakers needs)"


@given(shuffle=st.randoms(), count=st.integers(1, 5), seed=st.integers(0, 3))
def test_speaker50_depends_on_its_seed_and_not_on_rows_or_dev(shuffle, count, seed):
    manifest = manifest_of("abc", utterances=6)
    ids = list(manifest.ids)
    shuffle.shuffle(ids)
    options = {"per_speaker": count, "seed": seed}
    first, second = (create_folds(each, "speaker50", **options) for each in (manifest, manifest.select(ids)))
    assert as_sets(first) == as_sets(second)
    assert first[0].test == create_folds(manifest, "speaker50", **options, dev=0)[0].test
    assert Counter(id.split("-")[1] for id in first[0].test) == dict.fromkeys("abc", count)


def test_the_seed_changes_what_speaker50_tests():
    manifest = manifest_of("abc", utterances=20)
    tests = {create_folds(manifest, "speaker50", per_speaker=5, seed=seed)[0].test for seed in range(5)}
    assert len(tests) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "speaker 'a' has 3 utterances, which leaves none to train on: make per_speaker \\(50\\) smaller"),
        ({"per_speaker": 3}, "leaves none to train on"),
        ({"per_speaker": 0}, "per_speaker is a whole number from 1, got 0"),
        ({"per_speaker": 1, "column": "recordin"}, "has no column 'recordin'"),
    ],
)
def test_speaker50_refuses_what_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        create_folds(manifest_of("ab"), "speaker50", **options)


# Folds as files


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_written_folds_are_read_as_parts(tmp_path, format):
    manifest = manifest_of(["a/1", "b", "c", "d"])
    folds = create_folds(manifest, "leave-one-speaker-out")
    written = write_folds(manifest, folds, tmp_path, format)
    assert written[0] == tmp_path / f"a-1.train.{format}" and len(written) == 12
    parts = Manifest.concat(Manifest.read(path) for path in written[:3])
    (again,) = create_folds(parts, "part")
    assert as_sets([again])[0][1:] == as_sets(folds)[0][1:]


def test_folds_as_the_paper_names_them(tmp_path, iemocap):
    manifest, published = iemocap
    small = manifest.select([id for id in manifest.ids if id.endswith("1")])
    small = Manifest(small.table.with_columns(pl.col("emotion").replace({"e0": "neutral", "e1": "happy"})))
    write_folds(small, create_folds(small, "recording10", dev=0), tmp_path, "cai")
    assert len(list(tmp_path.iterdir())) == 20
    test = Manifest.read(tmp_path / "iemocap_03F.test.csv")
    assert {published[id] for id in test.ids} == {"03F"}
    assert (tmp_path / "iemocap_03F.test.csv").read_text().startswith("file,emotion,text\n/path_to_wavs/Ses03F_")


def test_an_unknown_format_of_folds_is_refused(tmp_path):
    with pytest.raises(InputError, match="no format 'cia' of folds: did you mean 'cai'"):
        write_folds(manifest_of("ab"), [], tmp_path, "cia")
