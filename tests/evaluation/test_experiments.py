"""Tables of experiments: runs, values or summaries, and the verbs that judge them."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from serkit.errors import InputError
from serkit.evaluation.metrics import uar
from serkit.evaluation.statistics.anova import analyse, cells_from_values
from serkit.evaluation.statistics.experiments import judge_experiments, read_experiments, seed_values


def write_run(folder, skill: float, seeds: int = 4, start: int = 0):
    """A run on 40 utterances of 8 speakers that is right with the chance ``skill``."""
    generator = np.random.default_rng(start)
    rows = []
    for seed in range(seeds):
        for number in range(40):
            truth = "happy" if number % 2 else "sad"
            good = generator.random() < skill
            guess = truth if good else ("sad" if number % 2 else "happy")
            facts = {"id": str(number), "fold": "1", "seed": seed, "part": "test", "truth": truth, "prediction": guess}
            chance = {f"p_{name}": 0.8 if name == guess else 0.2 for name in ("happy", "sad")}
            rows.append({**facts, **chance, "speaker": f"s{number % 8}", "gender": None, "corpus": "made"})
    folder.mkdir(parents=True)
    pl.DataFrame(rows, schema_overrides={"gender": pl.String}).write_parquet(folder / "predictions.parquet")


@pytest.fixture
def runs(tmp_path):
    """Two encoders by two poolings, and a table that names their folders."""
    lines = ["run,encoder,pooling"]
    for number, (encoder, pooling) in enumerate([("a", "mean"), ("a", "max"), ("b", "mean"), ("b", "max")]):
        write_run(tmp_path / encoder / pooling, 0.6 + 0.25 * (encoder == "b"), start=number)
        lines.append(f"{encoder}/{pooling}, {encoder}, {pooling}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_runs_give_the_values_of_their_seeds(runs):
    table = pl.read_parquet(runs / "a" / "mean" / "predictions.parquet")
    expected = [
        uar(rows["truth"].to_list(), rows["prediction"].to_list(), ["happy", "sad"])
        for _, rows in table.group_by("seed", maintain_order=True)
    ]
    assert seed_values(runs / "a" / "mean") == pytest.approx(expected)
    cells = read_experiments(runs / "table.csv")
    assert cells.factors == ("encoder", "pooling") and cells.levels == (("a", "b"), ("mean", "max"))
    assert cells.mean[0] == pytest.approx(np.mean(expected)) and cells.sd[0] == pytest.approx(np.std(expected, ddof=1))
    assert cells.n.tolist() == [4, 4, 4, 4]


def test_values_and_summaries_say_the_same_as_runs(runs, tmp_path):
    cells = read_experiments(runs / "table.csv")
    lines = ["value,encoder,pooling"]
    for encoder, pooling in (("a", "mean"), ("a", "max"), ("b", "mean"), ("b", "max")):
        lines += [f"{value!r},{encoder},{pooling}" for value in seed_values(runs / encoder / pooling)]
    (tmp_path / "values.csv").write_text("\n".join(lines))
    assert judge_experiments(read_experiments(tmp_path / "values.csv")) == judge_experiments(cells)
    for population in (False, True):
        lines = ["encoder,pooling,mean,std,min,max,n"]
        for row in range(4):
            sd = cells.sd[row] * (np.sqrt(3 / 4) if population else 1)
            lines.append(f"{cells.name(row).replace(' ', '')},{float(cells.mean[row])!r},{float(sd)!r},0,1,4")
        (tmp_path / "summary.csv").write_text("\n".join(lines))
        made = judge_experiments(read_experiments(tmp_path / "summary.csv", population=population))
        for one, two in zip(made["effects"], judge_experiments(cells)["effects"], strict=True):
            assert one["sum_squares"] == pytest.approx(two["sum_squares"]) and one["p"] == pytest.approx(two["p"])


def test_the_verb_prints_and_writes_the_analysis(serkit, runs):
    result = serkit("anova", runs / "table.csv", "--pairs", "cells", "--json", runs / "made.json")
    assert result.code == 0, result.err
    made = json.loads((runs / "made.json").read_text())
    assert made == json.loads(json.dumps(judge_experiments(read_experiments(runs / "table.csv"), pairs="cells")))
    effect = analyse(read_experiments(runs / "table.csv"))[0]
    line = next(line for line in result.out.splitlines() if line.startswith("encoder "))
    assert f"{effect.f:.4f}" in line and f"{effect.omega2:.4f}" in line and len(made["pairs"]) == 6
    accuracy = serkit("anova", runs / "table.csv", "--metric", "f1_macro")
    assert accuracy.code == 0 and accuracy.out != result.out


def test_the_verb_plans_a_comparison(serkit, runs):
    result = serkit(
        "power", runs / "a" / "mean", runs / "b" / "mean", "--difference", "0.1", "--json", runs / "plan.json"
    )
    assert result.code == 0, result.err
    made = json.loads((runs / "plan.json").read_text())
    assert f"power for a difference of 0.1: {made['power']:.1%}" in result.out and made["have"] == 8
    assert serkit("power", runs / "a" / "mean").code == 0
    for arguments, said in ((("--power", "1"), "--power must lie"), (("--metric", "ua"), "did you mean 'uar'")):
        refused = serkit("power", runs / "a" / "mean", *arguments)
        assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1


def test_the_verb_compares_with_all_options(serkit, runs):
    folders = [runs / "a" / "mean", runs / "a" / "max", runs / "b" / "mean"]
    result = serkit(
        "compare", *folders, "--all", "--mixed", "--metric", "uar", "--metric", "accuracy", "--json", runs / "c.json"
    )
    assert result.code == 0, result.err
    made = json.loads((runs / "c.json").read_text())
    assert len(made["pairs"]) == 6 and set(made["mixed"]["systems"]) == {str(folders[1]), str(folders[2])}
    assert "mixed model over 480 answers" in result.out and made["mixed"]["systems"][str(folders[2])]["odds_ratio"] > 1
    assert sum(not line.startswith(" ") for line in result.out.splitlines()) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder\na\n", "needs a column 'run', a column 'value', or the columns mean, std and n"),
        ("run,value,a\nx,1,2\n", "needs a column 'run'"),
        ("mean,n,a\n1,2,x\n", "no column 'std' beside 'mean'"),
        ("value,a\n1,x\nmuch,y\n", "value of line 3 is no number: 'much'"),
        ("value\n1\n2\n", "needs a factor"),
        ("value,a\n1,x\n2,x\n", "factor 'a' has one level only"),
        ("run,a\nnone,x\n", "none/predictions.parquet: no such"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_experiments(tmp_path / "t.csv")
    with pytest.raises(InputError, match="no such table"):
        read_experiments(tmp_path / "other.csv")


def test_one_factor_is_the_t_test():
    values = [1.0, 2.0, 4.0, 3.0, 5.0, 7.0]
    made = judge_experiments(cells_from_values(values, {"a": list("xxxyyy")}), equal=True)
    assert made["effects"][0]["p"] == pytest.approx(made["pairs"][0]["test"]["p"])
    assert made["effects"][0]["f"] == pytest.approx(made["pairs"][0]["test"]["statistic"] ** 2)
    with pytest.raises(InputError, match="those of levels or of cells"):
        judge_experiments(cells_from_values(values, {"a": list("xxxyyy")}), pairs="all")
