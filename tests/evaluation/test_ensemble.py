"""Ensembles against hand-made logits, scikit-learn's report and the published text; what they must not depend on."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, classification_report, f1_score

from serkit.errors import InputError
from serkit.evaluation.compare import compare_folders
from serkit.evaluation.ensemble import average, choose_k, judge_members, pool_members, rank_members
from serkit.evaluation.ensemble_report import create_ensembles, create_ladder, format_classes, write_ensembles
from serkit.evaluation.matrix import find_runs
from serkit.evaluation.report import write_report

CLASSES = ("neg", "neu", "pos")


def rows_of(logits, truth, seed=0, fold="a", part="test", speakers=4):
    """A predictions table of ``logits`` (U, C): what one member says of a part of a fold."""
    chances = softmax(np.asarray(logits, float), axis=1)
    classes = CLASSES[: chances.shape[1]]
    where = fold if part == "test" else f"{fold}-{part}"
    return pl.DataFrame(
        {
            "id": [f"{where}-{number:03d}" for number in range(len(truth))],
            "fold": fold, "seed": seed, "part": part,
            "truth": [classes[label] for label in truth],
            "prediction": [classes[label] for label in chances.argmax(axis=1)],
            "speaker": [f"{where}{number % speakers}" for number in range(len(truth))],
            "gender": "f", "corpus": "made",
            **{f"p_{name}": chances[:, place] for place, name in enumerate(classes)},
        }
    )  # fmt: skip


def random_run(rng, seeds=3, folds=("a", "b"), n=20, dev=12, hard=1.0):
    """Tables of several seeds that are right in part; returns them with the logits {(seed, fold, part): (U, C)}."""
    tables, logits = [], {}
    for fold in folds:
        for part, count in (("test", n), ("dev", dev)):
            truth = rng.integers(3, size=count)
            for seed in range(seeds):
                made = rng.normal(size=(count, 3)) * hard + np.eye(3)[truth]
                logits[seed, fold, part] = made
                if count:
                    tables.append(rows_of(made, truth, seed, fold, part))
    return pl.concat(tables), logits


@pytest.fixture
def write_run(tmp_path):
    """``write_run(table, name, monitor)`` writes a run folder and returns it."""

    def write(table, name="run", monitor="accuracy", **facts):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        table.write_parquet(folder / "predictions.parquet")
        (folder / "recipe.toml").write_text(f'name = "made"\n[training]\nmonitor = "{monitor}"\n')
        facts = {"recipe": "made", "protocol": "part", "stamp": "speakers shared: 0", **facts}
        (folder / "provenance.json").write_text(json.dumps(facts))
        return folder

    return write


def test_probabilities_suffice_for_the_mean_of_logits(write_run):
    table, logits = random_run(np.random.default_rng(1), seeds=4)
    ladder = create_ladder([write_run(table)])
    for k in range(1, 5):
        found = ladder.table(k)
        for part in ("test", "dev"):
            for number, fold in enumerate(("a", "b")):
                first = [seed for seed in range(4) if ladder.places[seed, number] < k]
                expected = softmax(np.mean([logits[seed, fold, part] for seed in first], axis=0), axis=1)
                rows = found.filter((pl.col("part") == part) & (pl.col("fold") == fold)).sort("id")
                assert np.abs(rows.select(f"p_{name}" for name in CLASSES).to_numpy() - expected).max() < 1e-12


def test_the_mean_of_probabilities_is_another(write_run):
    table, logits = random_run(np.random.default_rng(2))
    folder = write_run(table)
    found = create_ladder([folder], "probabilities").table(3).filter(pl.col("fold") == "a", pl.col("part") == "test")
    found = found.sort("id").select(f"p_{name}" for name in CLASSES).to_numpy()
    each = np.stack([softmax(logits[seed, "a", "test"], axis=1) for seed in range(3)])
    assert np.abs(found - each.mean(axis=0)).max() < 1e-12
    geometric = np.exp(np.log(each).mean(axis=0))
    assert np.abs(found - geometric / geometric.sum(axis=1, keepdims=True)).max() > 0.01
    with pytest.raises(InputError, match="no average 'logit': did you mean 'logits'"):
        create_ensembles(create_ladder([folder], "logit"))


def test_a_zero_neither_forbids_nor_becomes_nan():
    sure, other = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    both = np.ones((2, 1), bool)
    split = average(np.array([[sure], [other]]), both)
    assert split == pytest.approx(np.array([[0.5, 0.5, 0.0]]), abs=1e-12) and np.isfinite(split).all()
    # One member says never, which is no less than a float32 can hold: three that are nearly sure overrule it.
    nearly = softmax([0.0, 40.0, 0.0])
    many = average(np.array([[sure], *[[nearly]] * 3]), np.ones((4, 1), bool))
    assert many[0].argmax() == 1


def test_members_are_ordered_in_each_fold_by_its_dev_part_and_equals_by_seed():
    truth, right, wrong = [0, 1, 2, 0], np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[1, 2, 0, 1]]

    def member(seed, a, b):  # so many right answers in the dev parts of folds a and b
        dev = [rows_of(np.where(np.arange(4)[:, None] < hits, right, wrong) * 3, truth, seed, fold, "dev")
               for fold, hits in (("a", a), ("b", b))]  # fmt: skip
        return [*dev, *(rows_of(right, truth, seed, fold) for fold in "ab")]

    members = pool_members({"run": pl.concat([*member(5, 2, 4), *member(7, 3, 4), *member(6, 2, 1)])})
    assert members.names == (("run", 5), ("run", 6), ("run", 7))
    scores = judge_members(members, members.dev, "accuracy")
    assert scores.tolist() == [[0.5, 1.0], [0.5, 0.25], [0.75, 1.0]]
    assert rank_members(scores).tolist() == [[1, 0], [2, 2], [0, 1]]


def test_what_dev_parts_say_is_as_scikit_learn_has_it():
    table, logits = random_run(np.random.default_rng(3))
    members = pool_members({"run": table})
    truth = table.filter((pl.col("part") == "dev") & (pl.col("fold") == "b") & (pl.col("seed") == 1)).sort("id")
    labels = np.array([CLASSES.index(name) for name in truth["truth"]])
    made = logits[1, "b", "dev"]
    expected = {
        "accuracy": accuracy_score(labels, made.argmax(axis=1)),
        "uar": balanced_accuracy_score(labels, made.argmax(axis=1)),
        "loss": log_softmax(made, axis=1)[np.arange(len(labels)), labels].mean(),
    }
    for monitor, value in expected.items():
        assert judge_members(members, members.dev, monitor)[1, 1] == pytest.approx(value, abs=1e-12)
    with pytest.raises(InputError, match="no monitor 'f1'"):
        judge_members(members, members.dev, "f1")


def test_every_step_is_as_scikit_learn_has_it(write_run):
    table, _ = random_run(np.random.default_rng(4), seeds=5)
    ladder = create_ladder([write_run(table, monitor="uar")])
    made = create_ensembles(ladder, 2, resamples=200)
    assert (made["order"], made["monitor"], made["dev_is_test"]) == ("dev", "uar", False)
    for step in made["steps"]:
        rows = ladder.table(step["k"])
        test, dev = (rows.filter(pl.col("part") == part) for part in ("test", "dev"))
        truth, found = test["truth"].to_list(), test["prediction"].to_list()
        assert step["accuracy"] == pytest.approx(accuracy_score(truth, found))
        assert step["uar"] == pytest.approx(balanced_accuracy_score(truth, found))
        assert step["f1_weighted"] == pytest.approx(f1_score(truth, found, average="weighted"))
        assert step["dev_accuracy"] == pytest.approx(accuracy_score(dev["truth"], dev["prediction"]))
        names = [made["ranks"][fold][step["k"] - 1]["seed"] for fold in ("a", "b")]
        picked = pl.concat(
            table.filter((pl.col("fold") == fold) & (pl.col("seed") == seed) & (pl.col("part") == "test"))
            for fold, seed in zip("ab", names, strict=True)
        )
        assert step["member"] == pytest.approx(accuracy_score(picked["truth"], picked["prediction"]))
    numbers = [CLASSES.index(name) for name in ladder.table(2).filter(pl.col("part") == "test")["truth"]]
    found = [CLASSES.index(name) for name in ladder.table(2).filter(pl.col("part") == "test")["prediction"]]
    assert format_classes(ladder, 2) == classification_report(numbers, found)
    assert format_classes(ladder, 2, names=True) == classification_report(numbers, found, target_names=CLASSES)
    best = max(step["accuracy"] for step in made["steps"])
    assert made["max"]["accuracy"] == best and made["max"]["chosen"] == "on test"
    assert made["max"]["k"] == min(step["k"] for step in made["steps"] if step["accuracy"] == best)


MOSI = """\
              precision    recall  f1-score   support

           0       0.77      0.91      0.84       379
           1       0.84      0.63      0.72       277

    accuracy                           0.79       656
   macro avg       0.81      0.77      0.78       656
weighted avg       0.80      0.79      0.79       656
"""


def test_the_published_report_letter_by_letter(write_run, serkit):
    """The published figures on MOSI: 520 of 656 are right, and 346 and 174 of the classes give all its precisions."""
    truth = np.repeat([0, 1], (379, 277))
    found = np.concatenate([np.repeat([0, 1], (346, 33)), np.repeat([0, 1], (103, 174))])
    folder = write_run(pl.concat([rows_of(np.eye(2)[found] * (seed + 1), truth, seed) for seed in range(2)]))
    ran = serkit("ensemble", folder, "--index", 2)
    assert ran.code == 0 and MOSI in ran.out
    assert "Max ensemble accuracy (chosen on test): 79.26829268292683 % (520 of 656, k = 1)" in ran.out
    assert "in the order of seeds (not every fold has dev rows to order by)" in ran.out
    assert "k chosen on dev" not in ran.out and not (folder / "ensemble" / "dev-k").exists()


def test_k_is_chosen_in_each_fold_on_its_own_dev_part_and_the_smallest_of_equals():
    truth = [0, 1, 2]
    right, wrong = np.eye(3) * 2, np.eye(3)[[1, 2, 0]] * 2

    def member(seed, dev_a, dev_b):
        parts = [rows_of(logits, truth, seed, fold, "dev") for fold, logits in (("a", dev_a), ("b", dev_b))]
        return [*parts, *(rows_of(right, truth, seed, fold) for fold in "ab")]

    # Fold a is right from the first member on; in fold b only the second pulls the first over.
    table = pl.concat([*member(0, right, wrong), *member(1, right, right * 3), *member(2, right, wrong * 9)])
    members = pool_members({"run": table})
    places = np.array([[0, 0], [1, 1], [2, 2]])
    assert choose_k(members.dev, places).tolist() == [1, 2]


def test_folders_are_judged_and_compared_as_runs_are(write_run, serkit):
    table, _ = random_run(np.random.default_rng(26), seeds=4, n=30, hard=1.6)
    folder = write_run(table, manifest_fingerprint="f", command="serkit train made")
    made = json.loads((write_all(folder) / "ensemble.json").read_text())
    best = made["max"]["k"]
    for name, each in made["ensembles"].items():
        place = folder / "ensemble" / name
        report = write_report(place)
        assert report["metrics"]["accuracy"]["value"] == each["accuracy"]["value"]
        assert [report["metrics"]["uar"][key] for key in ("low", "high")] == [each["uar"]["low"], each["uar"]["high"]]
        facts = json.loads((place / "provenance.json").read_text())
        assert facts["ensemble"]["of"] == 4 and facts["ensemble"]["average"] == "logits" and facts["seeds"] == [0]
        assert facts["manifest_fingerprint"] == "f" and facts["command"] != "serkit train made"
        assert facts["stamp"].startswith("speakers shared: 0")
        assert not any("more than once" in note or "LEAK" in note for note in report["notes"])
        (pair,) = compare_folders([folder, place], "accuracy", resamples=100)
        assert pair["difference"] == pytest.approx(
            each["accuracy"]["value"] - made["members_alone"]["accuracy"]["value"]
        )
        assert bool(pair["protocol_differences"]) == facts["stamp"].endswith("k chosen on test")
    assert serkit("evaluate", folder / "ensemble" / "all").code == 0
    assert find_runs([folder.parent]) == [folder]  # its ensembles are no runs beside it
    serkit("ensemble", folder, "--index", best)
    assert not (folder / "ensemble" / "all" / "report.html").exists()  # it was of earlier predictions
    stamp = json.loads((folder / "ensemble" / f"k{best}" / "provenance.json").read_text())["stamp"]
    assert best < 4 and stamp == "speakers shared: 0; k chosen on test"


def write_all(folder):
    ladder = create_ladder([folder])
    write_ensembles(ladder, create_ensembles(ladder, 1, resamples=2000), folder / "ensemble")
    return folder / "ensemble"


def test_several_runs_are_pooled(write_run, serkit, tmp_path):
    one, _ = random_run(np.random.default_rng(6))
    rng = np.random.default_rng(7)
    other = one.with_columns(pl.Series(f"p_{name}", rng.random(one.height)) for name in CLASSES)
    total = pl.sum_horizontal(f"p_{name}" for name in CLASSES)
    other = other.with_columns(pl.col(f"p_{name}") / total for name in CLASSES).select(
        *other.columns[:9],
        "p_pos",
        "p_neg",
        "p_neu",  # a run may have its classes in another order
    )
    place = pl.concat_list("p_neg", "p_neu", "p_pos").list.arg_max()
    other = other.with_columns(prediction=place.replace_strict({0: "neg", 1: "neu", 2: "pos"}))
    a, b = write_run(one, "a", recipe="r", encoder="x"), write_run(other.sample(fraction=1, shuffle=True, seed=0), "b",
                                                                   recipe="r", encoder="y")  # fmt: skip
    assert "name its folder with --output" in serkit("ensemble", a, b).err
    ran = serkit("ensemble", a, b, "-o", tmp_path / "both", "--average", "probabilities", "--order", "seed")
    assert ran.code == 0 and "in the order of seeds (as asked)" in ran.out
    made = json.loads((tmp_path / "both" / "ensemble.json").read_text())
    assert [member["seed"] for member in made["members"]] == [0, 0, 1, 1, 2, 2] and made["runs"] == [str(a), str(b)]
    facts = json.loads((tmp_path / "both" / "all" / "provenance.json").read_text())
    assert facts["recipe"] == "r, ensemble" and "encoder" not in facts
    found = pl.read_parquet(tmp_path / "both" / "all" / "predictions.parquet").sort("id")
    assert set(found["part"]) == {"test"}  # dev parts were not looked at
    both = pl.concat([one, other.select(one.columns)]).filter(pl.col("part") == "test")
    expected = both.group_by("id").agg(pl.col([f"p_{name}" for name in CLASSES]).mean()).sort("id")
    for name in CLASSES:
        assert np.abs(found[f"p_{name}"].to_numpy() - expected[f"p_{name}"].to_numpy()).max() < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.with_columns(fold=pl.lit("z")), "only one has utterance 'a-000' in part 'test' of fold 'a'"),
        (lambda t: t.filter(pl.col("id") != "b-003"), "only one has utterance 'b-003' in part 'test' of fold 'b'"),
        (lambda t: t.filter(pl.col("id") != "b-dev-003"), "utterance 'b-dev-003' in part 'dev'.*--order seed"),
        (lambda t: t.filter(pl.col("part") == "test"), "in part 'dev' of fold 'a'.*--order seed"),
        (lambda t: t.with_columns(speaker=pl.lit("me")), "differ in the speaker of utterance 'a-000'"),
        (lambda t: t.with_columns(truth=pl.lit("neg")), "differ in the truth of utterance"),
        (lambda t: t.rename({"p_neu": "p_calm"}).with_columns(pl.col("truth", "prediction").replace("neu", "calm")),
         "different classes: neg, neu, pos and neg, calm, pos"),
        (lambda t: t.drop("p_neg", "p_neu", "p_pos", "prediction"), "learned no classes"),
        (lambda t: t.with_columns(p_neg=pl.lit(float("nan"))), "NaN"),
        (lambda t: t.with_columns(p_neg=pl.when(pl.col("part") == "dev").then(2.0).otherwise("p_neg")), "sum to 1"),
        (lambda t: pl.concat([t, t.filter(pl.col("id") == "a-dev-001")]), "'a-dev-001' stands more than once"),
    ],
)  # fmt: skip
def test_what_cannot_be_pooled_is_told(change, message):
    table, _ = random_run(np.random.default_rng(8), seeds=2)
    with pytest.raises(InputError, match=message):
        pool_members({"one": table, "two": change(table)})
    if "--order seed" in message:
        assert len(pool_members({"one": table, "two": change(table)}, dev=False)) == 4


def test_errors_of_the_verb_are_one_line(write_run, serkit, tmp_path):
    table, _ = random_run(np.random.default_rng(9))
    a, b = write_run(table, "a", "loss"), write_run(table, "b", "uar")
    for arguments, message in (
        ((a, "--index", 4), "index 4: the members number 3: give 1 to 3"),
        ((tmp_path / "none",), "no such predictions table"),
        ((a, b, "-o", tmp_path / "c"), "chose their epochs in different ways .*set --monitor"),
    ):
        ran = serkit("ensemble", *arguments)
        assert ran.code == 2 and ran.err.count("\n") == 1
        assert re.search(message, ran.err), ran.err
    assert serkit("ensemble", a, b, "-o", tmp_path / "c", "--monitor", "accuracy").code == 0


def test_a_dev_part_that_is_the_test_part_is_told(write_run, serkit):
    table, _ = random_run(np.random.default_rng(10), dev=0)
    folder = write_run(pl.concat([table, table.with_columns(part=pl.lit("dev"))]))
    ran = serkit("ensemble", folder)
    assert "WHICH IS THE TEST PART" in ran.out and "k chosen on dev" not in ran.out
    stamp = json.loads((folder / "ensemble" / "dev-k" / "provenance.json").read_text())["stamp"]
    assert stamp.endswith("; k chosen on test")


def test_a_fold_without_dev_rows_leaves_the_order_of_seeds(write_run):
    table, _ = random_run(np.random.default_rng(11))
    ladder = create_ladder([write_run(table.filter((pl.col("part") == "test") | (pl.col("fold") == "a")))])
    assert ladder.facts["order"] == "seed" and ladder.members.dev is None
    assert ladder.places.tolist() == [[0, 0], [1, 1], [2, 2]]


@given(st.integers(0, 10_000), st.permutations(range(4)))
def test_neither_the_order_of_members_nor_of_rows_changes_the_whole(seed, order):
    table, _ = random_run(np.random.default_rng(seed), seeds=4, n=5, dev=4)
    members = pool_members({"run": table})
    renamed = table.with_columns(seed=pl.col("seed").replace_strict(dict(enumerate(order))))
    other = pool_members({"run": renamed.sample(fraction=1, shuffle=True, seed=seed)})
    everyone = np.ones(members.test.probabilities.shape[:2], bool)
    for way in ("logits", "probabilities"):
        a, b = (average(each.test.probabilities, everyone, way) for each in (members, other))
        assert np.abs(a - b).max() < 1e-12 and np.abs(a.sum(axis=1) - 1).max() < 1e-12
    assert members.test.rows.equals(other.test.rows)


@given(st.integers(0, 10_000), st.sampled_from(["uar", "accuracy", "loss"]))
def test_the_first_ensemble_is_the_best_member_of_every_fold(seed, monitor):
    table, _ = random_run(np.random.default_rng(seed), seeds=3, n=5, dev=6)
    members = pool_members({"run": table})
    scores = judge_members(members, members.dev, monitor)
    first = rank_members(scores) < 1
    assert first.sum(axis=0).tolist() == [1, 1]
    assert (np.where(first, scores, -np.inf).max(axis=0) == scores.max(axis=0)).all()
    part = members.test
    alone = part.probabilities[first[:, part.fold].argmax(axis=0), np.arange(len(part.truth))]
    assert np.abs(average(part.probabilities, first[:, part.fold]) - alone).max() < 1e-12


def labelled_run(rng, seeds=3, folds=("a", "b"), n=15, unknown=0.2):
    """Tables of runs with two labels at once, some not known, and their log-odds {(seed, fold, part): (U, 2)}."""
    tables, odds = [], {}
    for fold, part in ((fold, part) for fold in folds for part in ("test", "dev")):
        truth, known = rng.integers(2, size=(n, 2)), rng.random((n, 2)) > unknown
        for seed in range(seeds):
            odds[seed, fold, part] = made = rng.normal(size=(n, 2)) * 2 + 2 * truth - 1
            rows = rows_of(np.zeros((n, 3)), [0] * n, seed, fold, part).drop("truth", "prediction")
            tables.append(
                rows.select("id", "fold", "seed", "part", "speaker", "gender", "corpus").with_columns(
                    pl.Series(f"{name}_{kind}", values)
                    for place, name in enumerate(("joy", "fear"))
                    for kind, values in (
                        (
                            "present",
                            [bool(t) if k else None for t, k in zip(truth[:, place], known[:, place], strict=True)],
                        ),
                        ("chance", expit(made[:, place])),
                    )
                )
            )
    return pl.concat(tables), odds


def test_several_labels_at_once_are_averaged_as_log_odds_class_by_class(write_run, serkit):
    table, odds = labelled_run(np.random.default_rng(12))
    folder = write_run(table, monitor="loss")
    ladder = create_ladder([folder])
    for k in (1, 2, 3):
        for number, fold in enumerate(("a", "b")):
            first = [seed for seed in range(3) if ladder.places[seed, number] < k]
            expected = expit(np.mean([odds[seed, fold, "test"] for seed in first], axis=0))
            rows = ladder.table(k).filter((pl.col("part") == "test") & (pl.col("fold") == fold)).sort("id")
            assert np.abs(rows.select("joy_chance", "fear_chance").to_numpy() - expected).max() < 1e-12
    made = create_ensembles(ladder, 2, resamples=100)
    for step in made["steps"]:
        rows = ladder.table(step["k"])
        test, dev = (rows.filter(pl.col("part") == part) for part in ("test", "dev"))
        cells = [(test[f"{name}_present"], test[f"{name}_chance"] > 0.5) for name in ("joy", "fear")]
        right = sum(int((a == b).sum()) for a, b in cells)
        known = sum(len(a) - a.null_count() for a, _ in cells)
        assert (step["right"], made["judged"]) == (right, known) and step["accuracy"] == pytest.approx(right / known)
        recalls = [balanced_accuracy_score(a.drop_nulls(), b.filter(a.is_not_null())) for a, b in cells]
        assert step["balanced_accuracy"] == pytest.approx(np.mean(recalls))
        others = [(dev[f"{name}_present"] == (dev[f"{name}_chance"] > 0.5)).drop_nulls() for name in ("joy", "fear")]
        assert step["dev_accuracy"] == pytest.approx(pl.concat(others).mean())
    ran = serkit("ensemble", folder, "--index", 2, "--names")
    assert ran.code == 0 and "samples avg" in ran.out and "joy" in ran.out
    assert f"({made['max']['right']} of {made['judged']}, k = {made['max']['k']})" in ran.out
    for name in ("all", "dev-k", "k2"):
        report = write_report(folder / "ensemble" / name)
        figure = report["labels"]["metrics"]["balanced_accuracy"]
        assert {key: figure[key] for key in ("value", "low", "high")} == pytest.approx(
            {key: json.loads((folder / "ensemble" / "ensemble.json").read_text())["ensembles"][name]
             ["balanced_accuracy"][key] for key in ("value", "low", "high")}
        )  # fmt: skip
    assert compare_folders([folder, folder / "ensemble" / "all"], "labels.f1_macro", resamples=100)


@pytest.mark.parametrize("monitor", ["uar", "accuracy", "loss"])
def test_what_dev_parts_of_several_labels_say_is_what_training_chose_by(monitor):
    torch = pytest.importorskip("torch")
    from serkit.training.presence import judge_presence

    table, odds = labelled_run(np.random.default_rng(13))
    members = pool_members({"run": table})
    rows = table.filter((pl.col("part") == "dev") & (pl.col("fold") == "b") & (pl.col("seed") == 1)).sort("id")
    truth = rows.select(pl.col("joy_present", "fear_present").cast(pl.Float64).fill_null(float("nan"))).to_numpy()
    expected = judge_presence(torch.tensor(odds[1, "b", "dev"]), torch.tensor(truth))[f"dev_{monitor}"]
    found = judge_members(members, members.dev, monitor)[1, 1]
    assert (-found if monitor == "loss" else found) == pytest.approx(expected, rel=1e-6)


def test_classes_and_several_labels_are_not_pooled():
    table, _ = random_run(np.random.default_rng(14), seeds=2)
    with pytest.raises(InputError, match="different classes: neg, neu, pos and joy, fear .several at once."):
        pool_members({"one": table, "two": labelled_run(np.random.default_rng(12))[0]})
