"""Label schemes: order, merges, drops, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkit.data.corpora.iemocap import EMOTIONS, IEMOCAP4
from serkit.data.labels import LabelScheme
from serkit.errors import InputError

NAMES = st.lists(st.sampled_from("abcdefghij"), min_size=4, max_size=10, unique=True)


def test_a_class_is_kept_a_merged_label_renamed_and_a_dropped_one_none():
    scheme = LabelScheme("s", ("neutral", "happy"), merge={"calm": "neutral"}, drop=("bored",))
    assert [scheme.resolve(raw) for raw in ("happy", "calm", "bored", None)] == ["happy", "neutral", None, None]


def test_the_order_of_classes_is_kept():
    assert LabelScheme("s", ("sad", "angry", "happy")).classes == ("sad", "angry", "happy")


def test_an_unknown_label_is_named_with_the_scheme_and_the_remedy():
    with pytest.raises(InputError, match=r"'bored' is not in the scheme 's': add it to classes, merge or drop"):
        LabelScheme("s", ("happy", "sad")).resolve("bored")


def test_unknown_labels_are_listed_once_and_sorted():
    scheme = LabelScheme("s", ("happy", "sad"), merge={"excited": "happy"}, drop=("other",))
    assert scheme.unknown(["zest", "happy", None, "excited", "other", "bored", "zest"]) == ["bored", "zest"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("happy",)}, "two or more different classes"),
        ({"classes": ("happy", "happy")}, "two or more different classes"),
        ({"classes": ("happy", "sad"), "merge": {"calm": "neutral"}}, "'neutral'.*not among the classes"),
        ({"classes": ("happy", "sad"), "merge": {"sad": "happy"}}, "'sad'.*two of class, merged and dropped"),
        ({"classes": ("happy", "sad"), "drop": ("sad",)}, "'sad'.*two of class, merged and dropped"),
        ({"classes": ("happy", "sad"), "merge": {"x": "sad"}, "drop": ("x",)}, "'x'.*two of class, merged and dropped"),
    ],
)
def test_a_scheme_that_contradicts_itself_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        LabelScheme("s", **settings)


def test_a_scheme_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LabelScheme("s", ("happy", "sad")).name = "other"


@given(NAMES)
def test_every_label_a_scheme_mentions_resolves_to_a_class_or_to_none(names):
    *classes, merged, dropped = names
    scheme = LabelScheme("s", tuple(classes), merge={merged: classes[0]}, drop=(dropped,))
    assert scheme.unknown(names) == []
    assert {scheme.resolve(name) for name in names} == {*classes, None}


def test_iemocap4_has_a_place_for_every_label_of_iemocap():
    assert IEMOCAP4.unknown(EMOTIONS.values()) == []
    assert IEMOCAP4.resolve("excited") == "happy"
    assert IEMOCAP4.resolve("undecided") is None
