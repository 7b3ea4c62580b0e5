"""Lists of evaluations, outputs in the original's layout, quick statistics and curves of several runs."""

from __future__ import annotations

import csv
import json

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from scipy.stats import mannwhitneyu
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

from serkit.data.i3_csv import word_of
from serkit.errors import InputError
from serkit.evaluation.curves import draw_run_comparison, read_history
from serkit.evaluation.i3 import (
    Evaluation,
    quick_statistics,
    read_accuracies,
    read_evaluations,
    summarise_evaluations,
    write_evaluations,
)
from serkit.evaluation.i3_outputs import accuracies_of, draw_matrix, judge_runs, judge_table, write_outputs

CLASSES = ("happy", "sad", "angry")
WORDS = ["anger", "joy", "sadness"]  # the same in the original's words, sorted


def make_rows(n=60, seeds=(0, 1, 2), corpus="emovo", genders=("female", "male"), fold=lambda n: "f"):
    rng = np.random.default_rng(len(genders) + n)
    rows = []
    for seed in seeds:
        for number in range(n):
            truth = CLASSES[number % 3 if number % 7 else 0]  # classes are not balanced
            prediction = truth if rng.random() < 0.6 + 0.02 * seed else CLASSES[rng.integers(3)]
            p = {f"p_{name}": 0.8 if name == prediction else 0.1 for name in CLASSES}
            gender = genders[number * len(genders) // n]
            row = {"id": f"u{number}", "fold": fold(number), "seed": seed, "part": "test", "truth": truth}
            rows.append({**row, "prediction": prediction, "speaker": "s", "gender": gender, "corpus": corpus, **p})
    return rows


def table_of(*rows):
    return pl.DataFrame([row for each in rows for row in each], infer_schema_length=None)


def read_matrix(path):
    with path.open(newline="") as file:
        head, *lines = csv.reader(file)
    return (
        head[1:],
        [line[0] for line in lines],
        [[float(cell) if cell else None for cell in line[1:]] for line in lines],
    )


@pytest.fixture
def run(tmp_path):
    """``run(name, table)`` writes a run folder with its predictions."""

    def write(name, table):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        table.write_parquet(folder / "predictions.parquet")
        return folder

    return write


# Lists of evaluations


def test_the_papers_list_is_read_and_written_byte_for_byte(reference_file, tmp_path):
    path = reference_file("i3/eval_manifest_880.tsv")
    found = read_evaluations(path)
    write_evaluations(found, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    summary = summarise_evaluations(found)
    assert len(found) == 880 and len(summary) == 4
    assert list(summary.values()) == [{"emovo": "0..109 (110)", "emozionalmente": "0..109 (110)"}] * 4
    assert {model.removesuffix("__final") for model in summary} == {
        "facebook_hubert-large-ll60k", "facebook_wav2vec2-large-xlsr-53", "jonatasgrosman_exp_w2v2t_it_hubert_s722",
        "jonatasgrosman_wav2vec2_large_xlsr_53_italian",
    }  # fmt: skip


def test_a_folder_of_lists_and_other_delimiters(tmp_path):
    lists = {"b": [Evaluation("m", "d", "p", "c", "e/m/d/3/")], "a": [Evaluation("m", "d", "p", "c", "e/m/d/1")]}
    for name, evaluations in lists.items():
        write_evaluations(evaluations, tmp_path / f"{name}.csv")
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace("\t", ";"))
    assert read_evaluations(tmp_path) == [*lists["a"], *lists["b"]]
    assert summarise_evaluations(read_evaluations(tmp_path)) == {"m": {"d": "1, 3 (2)"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_name\tdataset_name\n", "has no column 'model_path'"),
        ("", "has no column 'model_name'"),
        (
            "model_name,dataset_name,model_path,eval_csv_path,eval_out_path\nm,d,p,c,evals/m/other/0\n",
            "line 2: eval_out_path 'evals/m/other/0' does not end in m/d/SEED",
        ),
    ],
)
def test_unsound_lists_are_named(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=f"l.csv: {message}"):
        read_evaluations(tmp_path / "l.csv")
    with pytest.raises(InputError, match="gone: no such list of evaluations"):
        read_evaluations(tmp_path / "gone")


# Outputs


def test_what_is_written_is_listed_and_the_list_is_added_to(tmp_path):
    for model, seeds in (("a", (4, 5)), ("b", (4,)), ("a", (4, 5))):
        judged = judge_table(table_of(make_rows(seeds=seeds)))
        write_outputs({model: judged}, tmp_path, figures=False)
    listed = read_evaluations(tmp_path / "evaluations.csv")
    assert summarise_evaluations(listed) == {"a": {"emovo": "4..5 (2)"}, "b": {"emovo": "4 (1)"}}
    assert listed[0].eval_out_path == str(tmp_path / "a/emovo/4")


def test_a_seed_has_the_originals_files_and_keys(tmp_path):
    rows = make_rows(seeds=(4,))
    write_outputs({"model": judge_table(table_of(rows))}, tmp_path)
    place = tmp_path / "model" / "emovo" / "4"
    assert {path.name for path in place.iterdir()} == {
        "classification_report.json", "accuracies.json", "uars.json", "confusion_matrix.png",
        "female_confusion_matrix.png", "male_confusion_matrix.png",
    }  # fmt: skip
    report = json.loads((place / "classification_report.json").read_text())
    assert list(report) == [*WORDS, "accuracy", "macro avg", "weighted avg", "y_pred", "y_true"]
    assert set(report["joy"]) == {"precision", "recall", "f1-score", "support"}
    by_id = sorted(rows, key=lambda row: row["id"])
    for key, column in (("y_true", "truth"), ("y_pred", "prediction")):
        assert [WORDS[index] for index in report[key]] == [word_of(row[column]) for row in by_id]
    accuracies, uars = (json.loads((place / f"{name}.json").read_text()) for name in ("accuracies", "uars"))
    assert list(accuracies) == list(uars) == ["female", "male", "overall"]
    for name in accuracies:
        chosen = [(row["truth"], row["prediction"]) for row in rows if name in (row["gender"], "overall")]
        truth, prediction = zip(*chosen, strict=True)
        assert accuracies[name] == pytest.approx(accuracy_score(truth, prediction))
        assert uars[name] == pytest.approx(balanced_accuracy_score(truth, prediction))
    assert accuracies["overall"] == report["accuracy"] != uars["overall"]
    assert imread(place / "confusion_matrix.png").shape[:2] == (800, 1600)


def test_means_are_over_all_seeds_also_of_genders(tmp_path):
    """The original counts the genders of the first seed only."""
    rows = make_rows(seeds=(0, 1, 2))
    assert write_outputs({"m": judge_table(table_of(rows))}, tmp_path, figures=False) == []
    means = json.loads((tmp_path / "m" / "accuracies.json").read_text())
    assert list(means) == ["emovo"] and list(means["emovo"]) == ["overall", "female", "male"]
    each = [json.loads((tmp_path / f"m/emovo/{seed}/accuracies.json").read_text()) for seed in (0, 1, 2)]
    for name, value in means["emovo"].items():
        assert value == pytest.approx(np.mean([seed[name] for seed in each]))
        assert len({seed[name] for seed in each}) > 1
    for name in ("overall", "female", "male"):
        matrices = [
            confusion_matrix(
                *([word_of(row[key]) for row in rows if row["seed"] == seed and name in (row["gender"], "overall")]
                  for key in ("truth", "prediction")), normalize="true",
            )
            for seed in (0, 1, 2)
        ]  # fmt: skip
        columns, labels, values = read_matrix(tmp_path / f"m/emovo/{name}_confusion_matrix.csv")
        assert columns == labels == WORDS
        np.testing.assert_allclose(values, np.mean(matrices, axis=0))
    assert not list(tmp_path.rglob("*.png"))


def test_a_class_that_a_subset_lacks_is_left_empty_and_said(tmp_path):
    rows = [
        row for row in make_rows()
        if not (row["gender"] == "male" and (row["truth"] == "sad" or (row["seed"] == 1 and row["truth"] == "angry")))
    ]  # fmt: skip
    remarks = write_outputs({"m": judge_table(table_of(rows))}, tmp_path, figures=False)
    assert remarks == [
        "m, emovo: male has utterances of anger with 2 of 3 seeds",
        "m, emovo: male has utterances of sadness with 0 of 3 seeds",
    ]
    _, _, values = read_matrix(tmp_path / "m/emovo/male_confusion_matrix.csv")
    assert values[2] == [None, None, None]
    assert sum(values[0]) == pytest.approx(1) and sum(values[1]) == pytest.approx(1)
    report = json.loads((tmp_path / "m/emovo/0/classification_report.json").read_text())
    assert report["sadness"]["support"] > 0 and "NaN" not in json.dumps(report)


def test_a_small_gender_is_left_out_and_said(tmp_path):
    genders = (*["female"] * 10, *["male"] * 9, "other")  # 3 of 60
    judged = judge_table(table_of(make_rows(genders=genders)))
    assert list(judged["emovo"]["0"].scores("accuracy")) == ["female", "male", "overall"]
    assert write_outputs({"m": judged}, tmp_path, figures=False) == [
        "m, emovo: other: less than 10% of the utterances, left out with 3 of 3 seeds"
    ]
    exactly = (*["female"] * 9, "male")  # 6 of 60 are enough
    assert "male" in judge_table(table_of(make_rows(genders=exactly)))["emovo"]["0"].counts


def test_unknown_genders_count_overall_only(tmp_path):
    judged = judge_table(table_of(make_rows(genders=("female", None))))
    assert list(judged["emovo"]["0"].counts) == ["female", "overall"]
    assert write_outputs({"m": judged}, tmp_path, figures=False) == [
        "m, emovo: up to 30 utterances a seed have no gender and count overall only"
    ]


def test_folds_of_a_seed_are_judged_together_and_corpora_apart():
    both = table_of(
        make_rows(fold=lambda n: str(n % 4)), [{**row, "id": f"x{row['id']}"} for row in make_rows(30, corpus="tess")]
    )
    judged = judge_table(both)
    assert {corpus: len(seeds["0"].truth) for corpus, seeds in judged.items()} == {"emovo": 60, "tess": 30}
    assert {corpus: len(seeds["0"].truth) for corpus, seeds in judge_table(both, "all").items()} == {"all": 90}


def test_runs_of_one_name_are_one_model(run, tmp_path):
    first, second = (run(name, table_of(make_rows(seeds=seeds))) for name, seeds in (("a", (0, 1)), ("b", (2, 10))))
    outputs = judge_runs([f"m={first}", f"m={second}"])
    assert list(outputs["m"]["emovo"]) == ["0", "1", "2", "10"]
    assert list(judge_runs([str(first), str(second)])) == ["a", "b"]
    with pytest.raises(InputError, match=r"model 'a' has seed 0 of emovo already: name it NAME=FOLDER"):
        judge_runs([str(first), f"a={first}"])
    write_outputs(outputs, tmp_path, figures=False)
    assert read_accuracies(tmp_path) == accuracies_of(outputs)
    with pytest.raises(InputError, match="holds seed 10 of another run: choose another folder"):
        write_outputs(judge_runs([f"m={first}"]), tmp_path, figures=False)


def test_tests_on_other_corpora_are_data_sets_of_the_model(run):
    folder = run("m", table_of(make_rows()))
    run("m/on/theirs", table_of(make_rows(30, corpus="tess")))
    judged = judge_runs([str(folder)], "ours")["m"]
    assert {name: len(seeds["0"].truth) for name, seeds in judged.items()} == {"ours": 60, "theirs": 30}


def test_another_data_set_joins_the_model(tmp_path):
    for corpus in ("emovo", "tess"):
        write_outputs({"m": judge_table(table_of(make_rows(corpus=corpus)))}, tmp_path, figures=False)
    assert list(json.loads((tmp_path / "m/accuracies.json").read_text())) == ["emovo", "tess"]


def test_rows_without_a_corpus_need_a_name(run):
    path = run("a", table_of(make_rows(corpus=None)))
    with pytest.raises(InputError, match=r"a/predictions\.parquet: predictions: test rows have no corpus.*--dataset"):
        judge_runs([str(path)])
    assert list(judge_runs([str(path)], "x")["a"]) == ["x"]


def test_rates_of_rows_without_utterances_are_drawn_as_missing():
    figure = draw_matrix(np.array([[0.25, 0.75], [np.nan, np.nan]]), ["joy", "fear"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.25", "0.75", "–", "–"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("Recognized emotion", "Expressed emotion")


# Quick statistics


def write_seeds(folder, values, name="accuracies.json"):
    for seed, fractions in enumerate(values):
        (folder / str(seed)).mkdir(parents=True, exist_ok=True)
        (folder / str(seed) / name).write_text(json.dumps(fractions))


def test_statistics_are_in_percent_with_population_deviation_and_a_test(tmp_path, serkit):
    values = [{"male": 0.5 + 0.01 * n, "female": 0.55 + 0.02 * n, "overall": 0.525 + 0.01 * n} for n in range(5)]
    write_seeds(tmp_path / "m" / "emovo", values)
    (made,) = quick_statistics(read_accuracies(tmp_path))
    assert list(made["subsets"]) == ["overall", "female", "male"]
    assert made["subsets"]["female"] == pytest.approx({"mean": 59.0, "sd": 200**0.5 / 5, "n": 5})
    expected = mannwhitneyu([each["female"] for each in values], [each["male"] for each in values])
    assert (made["genders"]["u"], made["genders"]["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert (made["genders"]["first"], made["genders"]["second"]) == ("female", "male")
    done = serkit("quickstats", tmp_path)
    assert done.code == 0 and "59.00 +/- 2.83" in done.out
    assert f"U {expected.statistic:g}, p {expected.pvalue:.4g}" in done.out


@pytest.mark.parametrize("genders", [{}, {"female": 0.5}, {"a": 0.1, "b": 0.2, "c": 0.3}])
def test_only_two_genders_are_compared(tmp_path, genders):
    write_seeds(tmp_path / "m" / "d", [{**genders, "overall": 0.5}] * 3)
    assert quick_statistics(read_accuracies(tmp_path))[0]["genders"] is None


def test_a_gender_that_some_seeds_lack_counts_where_it_is(tmp_path):
    write_seeds(tmp_path / "m" / "d", [{"overall": 0.5, "male": 0.5}, {"overall": 0.7}])
    subsets = quick_statistics(read_accuracies(tmp_path))[0]["subsets"]
    assert [subsets[name]["n"] for name in ("overall", "male")] == [2, 1]


def test_one_seed_is_not_tested(tmp_path):
    write_seeds(tmp_path / "m" / "d", [{"overall": 0.5, "male": 0.5, "female": 0.6}])
    assert quick_statistics(read_accuracies(tmp_path))[0]["genders"] is None


@pytest.mark.parametrize(
    "text", ["[1]", '{"male": 0.5}', '{"overall": 1.5}', '{"overall": "x"}', "{", '{"overall": NaN}']
)
def test_files_that_hold_no_fractions_are_named(tmp_path, text):
    (tmp_path / "m/d/0").mkdir(parents=True)
    (tmp_path / "m/d/0/accuracies.json").write_text(text)
    with pytest.raises(InputError, match=r"m/d/0/accuracies\.json: "):
        read_accuracies(tmp_path)


def test_the_verbs_agree_on_runs_and_on_what_is_written_of_them(run, tmp_path, serkit):
    folder = run("m", table_of(make_rows()))
    written = serkit("outputs", folder, "--no-figures", "-o", tmp_path / "evals")
    assert written.code == 0, written.err
    for metric in ("accuracy", "uar"):
        direct, again = (serkit("quickstats", place, "--metric", metric) for place in (folder, tmp_path / "evals"))
        assert direct.out == again.out and direct.code == again.code == 0
    assert serkit("quickstats", tmp_path / "runs").code == 2


# Curves


def history_of(epochs, seeds=(0,), start=2.0, **other):
    return [
        {"seed": seed, "fold": "f", "epoch": epoch, "loss": start / epoch, "dev_loss": 1.2 * start / epoch + 0.1 * seed,
         "dev_uar": 1 - 0.8 / epoch, **other}
        for seed in seeds for epoch in range(1, epochs + 1)
    ]  # fmt: skip


def test_a_run_has_one_colour_dev_solid_and_train_dashed():
    figure = draw_run_comparison({"one": history_of(5), "two": history_of(3, seeds=(0, 1))})
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["one", "two (mean of 2)"]
    assert len({line.get_color() for line in left.lines}) == 2
    assert [line.get_color() for line in right.lines] == [left.lines[0].get_color()] * 2 + [
        left.lines[1].get_color()
    ] * 2
    assert [line.get_linestyle() for line in right.lines] == ["-", "--", "-", "--"]
    np.testing.assert_allclose(left.lines[0].get_xydata(), [(n, 1 - 0.8 / n) for n in range(1, 6)])
    np.testing.assert_allclose(right.lines[2].get_ydata(), [2.4 / n + 0.05 for n in (1, 2, 3)])
    np.testing.assert_allclose(right.lines[3].get_ydata(), [2.0 / n for n in (1, 2, 3)])


def test_a_mean_goes_as_far_as_half_of_its_seeds():
    history = history_of(6, seeds=(0,)) + history_of(4, seeds=(1,)) + history_of(4, seeds=(2,))
    figure = draw_run_comparison({"m": history})
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    alone = draw_run_comparison({"m": history}, seed=0)
    assert alone.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]


def test_many_runs_have_many_colours():
    figure = draw_run_comparison({str(n): history_of(2) for n in range(9)})
    assert len({tuple(line.get_color()) for line in figure.axes[0].lines}) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "dev_accuracy"}, r"m: has no accuracy of the dev part \(known: loss, uar\)"),
        ({"seed": 5}, r"m: has no seed 5 \(seeds: \[0\]\)"),
    ],
)
def test_what_a_history_lacks_is_named(options, message):
    with pytest.raises(InputError, match=message):
        draw_run_comparison({"m": history_of(3)}, **options)
    undeveloped = [{"seed": 0, "fold": "f", "epoch": 1, "loss": 1.0}]
    with pytest.raises(InputError, match="it was trained without a dev part"):
        draw_run_comparison({"m": undeveloped})


def test_curves_are_written_as_the_name_says(tmp_path, serkit):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = history_of(4, seeds=(0, 1), dev_accuracy=0.5)
        (tmp_path / name / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert serkit("curves", tmp_path / "a", f"x={tmp_path / 'b'}", "-o", tmp_path / "new/c.png").code == 0
    assert imread(tmp_path / "new/c.png").shape[:2] == (630, 1575)
    assert serkit("curves", tmp_path / "a", tmp_path / "b", "--metric", "accuracy", "-o", tmp_path / "c.svg").code == 0
    assert "accuracy of the dev part" in (tmp_path / "c.svg").read_text()
    for arguments, said in (
        ((tmp_path / "a", "-o", tmp_path / "c.pdf"), "a figure is written as .png or .svg"),
        ((tmp_path / "a", tmp_path / "a", "-o", tmp_path / "d.png"), "two runs are called 'a'"),
        ((tmp_path / "gone", "-o", tmp_path / "d.png"), "history.jsonl: no such history"),
    ):
        done = serkit("curves", *arguments)
        assert done.code == 2 and said in done.err


@pytest.mark.parametrize("text", ["", "{", '{"seed": 0}\n'])
def test_unsound_histories_are_named(tmp_path, text):
    (tmp_path / "history.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"history\.jsonl: "):
        read_history(tmp_path)
