"""Linear probes: they read what is linear, for speakers they have not heard, and choose nothing on the test part."""

from __future__ import annotations

import json

import numpy as np
import pytest

from serkit.data.manifest import Manifest
from serkit.data.protocols import create_folds, group_of
from serkit.data.representation import Representation
from serkit.errors import InputError
from serkit.evaluation.layers.probe_targets import create_targets, speaker_folds
from serkit.evaluation.layers.probes import (
    COSTS,
    PENALTIES,
    Target,
    fit_classes,
    fit_numbers,
    inner_splits,
    known_rows,
    probe,
    write_probes,
)

EMOTIONS = ("angry", "happy", "sad")


@pytest.fixture(scope="module")
def corpus():
    """12 speakers x 3 emotions x 2 sentences; layer 0 is noise, layer 1 holds emotion and speaker, linearly."""
    rng, rows, points = np.random.default_rng(0), [], []
    voices = rng.normal(size=(12, 5))
    for speaker in range(12):
        for label in range(3):
            for text in range(2):
                id = f"{speaker}-{label}-{text}"
                gender = ("female", "male")[speaker % 2]
                rows.append(
                    {"id": id, "audio": f"{id}.wav", "speaker": f"s{speaker}", "emotion": EMOTIONS[label],
                     "gender": gender, "text": f"text {text}", "corpus": "made", "arousal": label / 2}
                )  # fmt: skip
                points.append([*(3 * np.eye(3)[label]), 3 * (speaker % 2), *voices[speaker]])
    signal = np.array(points) + 0.3 * rng.normal(size=(72, 9))
    layers = np.stack([rng.normal(size=(72, 9)), signal]).astype(np.float32)
    return Manifest.from_rows(rows), Representation("net", (0, 1), {"": layers})


def judge(corpus, names, acoustic=None, sources=None, trained=False):
    manifest, representation = corpus
    folds = create_folds(manifest, "group-k-fold", k=3, dev=0)
    targets = create_targets(manifest, names, folds, acoustic or {}, trained)
    made = probe(sources or [representation], targets, manifest.ids, group_of(manifest, "speaker"), 200)
    return {(each.layer, each.target): each for each in made}


def test_what_a_layer_holds_is_read_off_it_and_noise_is_chance(corpus):
    found = judge(corpus, ["emotion", "gender", "speaker", "arousal"])
    for target, chance in (("emotion", 1 / 3), ("gender", 1 / 2), ("speaker", 1 / 12)):
        assert found[1, target].figure.value > 0.9 and found[0, target].figure.value < chance + 0.25
        assert found[1, target].chance == pytest.approx(chance) and found[1, target].metric == "uar"
    assert found[1, "arousal"].metric == "r2" and found[1, "arousal"].figure.value > 0.9
    assert found[0, "arousal"].figure.value < 0.2
    figure = found[0, "emotion"].figure
    assert figure.low < figure.value < figure.high and "12 speakers" in figure.method and figure.n == 72


def test_every_number_says_whether_it_shares_speakers(corpus):
    found = judge(corpus, ["emotion", "speaker"])
    assert found[1, "emotion"].stamp == "speakers shared: 0"
    assert found[1, "speaker"].stamp == "speakers shared: 12 (2 parts by sentence)"


def test_no_probe_sees_its_test_part(corpus):
    """Labels of the test part are replaced, one fold at a time: predictions stay as they were."""
    manifest, representation = corpus
    x, labels = representation.of()[1].astype(float), manifest.table["emotion"].to_numpy().astype(str)
    groups = manifest.table["speaker"].to_numpy().astype(str)
    train = groups != "s11"
    said, cost = fit_classes(x[train], labels[train], groups[train], x[~train])
    spoiled = np.concatenate([x[~train][:1], 1e6 * np.ones((1, 9))])
    again, same = fit_classes(x[train], labels[train], groups[train], spoiled)
    assert said[0] == again[0] and cost == same and cost in COSTS


def test_inner_splits_keep_groups_together_where_there_are_enough():
    labels, groups = np.array(["a", "b"] * 12), np.repeat(list("pqrs"), 6)
    for train, test in inner_splits(labels, groups):
        assert not set(groups[train]) & set(groups[test])
    alone = inner_splits(labels, np.repeat(["p", "q"], 12))
    assert len(alone) == 3 and all(len(set(labels[test])) == 2 for _, test in alone)
    assert inner_splits(np.array(["a", "b"]), np.array(["p", "q"])) == []
    assert len(inner_splits(np.arange(9.0), np.arange(9).astype(str))) == 3


def test_ridge_is_that_of_scikit_learn_at_the_chosen_penalty():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(1)
    x, unseen = rng.normal(size=(60, 5)), rng.normal(size=(7, 5))
    truths = np.stack([x @ rng.normal(size=5) + 4, rng.normal(size=60)], axis=1)
    groups = np.repeat([str(n) for n in range(6)], 10)
    found, penalties = fit_numbers(x, truths, groups, unseen)
    for column, penalty in enumerate(penalties):
        expected = Ridge(alpha=penalty).fit(x, truths[:, column]).predict(unseen)
        assert found[:, column] == pytest.approx(expected)
    assert penalties[0] == PENALTIES[0] and penalties[1] > 10  # a linear truth needs no penalty, noise a large one


def test_acoustic_numbers_come_with_r2_and_a_source_is_not_asked_for_its_own(corpus):
    manifest, net = corpus
    tones = np.concatenate([net.of()[1][:, :1] * 2 + 1, np.ones((72, 1))], axis=1)
    own = Representation("own", (0,), {"": tones[None]}, ("pitch", "flat"))
    made = create_targets(manifest, ["acoustic"], create_folds(manifest, "group-k-fold", k=3, dev=0),
                          {"pitch": tones[:, 0], "flat": tones[:, 1]})  # fmt: skip
    found = probe([net, own], made, manifest.ids, group_of(manifest, "speaker"), 100)
    assert {(each.source, each.target) for each in found} == {("net", "pitch"), ("net", "flat")}
    by_name = {(each.layer, each.target): each for each in found}
    assert by_name[1, "pitch"].figure.value > 0.99 > 0.3 > by_name[0, "pitch"].figure.value
    assert by_name[1, "flat"].figure.value is None and by_name[1, "flat"].figure.reason == "all values are the same"


def test_r2_is_that_of_scikit_learn_over_all_folds(corpus):
    from sklearn.metrics import r2_score

    manifest, net = corpus
    folds = create_folds(manifest, "group-k-fold", k=3, dev=0)
    groups = manifest.table["speaker"].to_numpy().astype(str)
    values, x = np.random.default_rng(5).normal(size=72), net.of()[1].astype(float)
    truth, said = [], []
    for fold in folds:
        train, test = (np.array([manifest.ids.index(id) for id in part]) for part in (fold.train, fold.test))
        mean, scale = x[train].mean(0), x[train].std(0)
        truth += values[test].tolist()
        inner = fit_numbers((x[train] - mean) / scale, values[train][:, None], groups[train], (x[test] - mean) / scale)
        said += inner[0][:, 0].tolist()
    found = probe([net], [Target("noise", values.tolist(), folds, groups.tolist())], manifest.ids,
                  group_of(manifest, "speaker"), 50)  # fmt: skip
    assert found[1].figure.value == pytest.approx(r2_score(truth, said))


def test_trained_sources_speak_with_the_model_of_each_fold(corpus):
    manifest, net = corpus
    folds = create_folds(manifest, "group-k-fold", k=3, dev=0)
    values = {fold.name: net.of() for fold in folds} | {folds[0].name: net.of()[::-1]}
    tuned = Representation("tuned", (0, 1), values)
    found = judge(corpus, ["emotion", "speaker"], sources=[tuned], trained=True)
    assert 0.3 < found[0, "emotion"].figure.value < found[1, "emotion"].figure.value < 0.9
    assert found[1, "speaker"].chance == pytest.approx(1 / 4)  # each fold tests four speakers
    with pytest.raises(InputError, match="no model of fold 'x'"):
        tuned.of("x")


def test_unknown_values_are_left_out(corpus):
    assert known_rows(["a", None, "b"]) == [0, 2] and known_rows([1.0, float("nan")]) == [0]
    manifest, net = corpus
    truth = [None if number % 2 else label for number, label in enumerate(manifest.table["emotion"])]
    folds = create_folds(manifest, "group-k-fold", k=3, dev=0)
    target = Target("half", truth, folds, manifest.table["speaker"].to_list())
    assert probe([net], [target], manifest.ids, group_of(manifest, "speaker"), 50)[1].figure.n == 36


def test_speakers_are_told_apart_by_sentences_or_at_random(corpus):
    manifest, _ = corpus
    folds = speaker_folds(manifest, {"all": manifest.ids})
    texts = dict(manifest.table.select("id", "text").iter_rows())
    for fold in folds:
        assert not {texts[id] for id in fold.train} & {texts[id] for id in fold.test} and fold.shared == 12
    mute = Manifest(manifest.table.with_columns(text=None))
    again = speaker_folds(mute, {"all": mute.ids})
    assert again[0].note == "5 parts at random" and all(fold.shared == 12 for fold in again)
    assert sorted(id for fold in again for id in fold.test) == sorted(mute.ids)
    with pytest.raises(InputError, match="single speaker"):
        speaker_folds(manifest, {"one": manifest.ids[:6]})
    with pytest.raises(InputError, match="single utterance"):
        speaker_folds(mute, {"all": mute.ids[:7]})


def test_targets_that_are_not_there_are_said(corpus):
    manifest, _ = corpus
    folds = create_folds(manifest, "group-k-fold", k=3, dev=0)
    with pytest.raises(InputError, match="did you mean 'emotion'"):
        create_targets(manifest, ["emotions"], folds, {})
    with pytest.raises(InputError, match="fewer than two values"):
        create_targets(manifest, ["language"], folds, {})


def test_tables_hold_every_probe(corpus, tmp_path):
    made = list(judge(corpus, ["gender"]).values())
    write_probes(made, {"protocol": "p"}, tmp_path)
    table = json.loads((tmp_path / "probes.json").read_text())
    assert table["protocol"] == "p" and table["probes"][1]["value"] == made[1].figure.value
    assert len(table["probes"][0]["regularisation"]) == 3 and "bootstrap" in table["probes"][0]["method"]
    lines = (tmp_path / "probes.csv").read_text().splitlines()
    assert lines[0].startswith("source,layer,target,metric,value,low,high") and len(lines) == 3
