"""Published checkpoints of Cai et al. 2021 are judged on their folds, from the corpus or from the published lists."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch

from serkit.data.folds import write_folds
from serkit.data.protocols import create_folds
from serkit.errors import InputError
from serkit.evaluation.cai import create_comparison, format_comparison, format_result, write_comparison
from serkit.evaluation.report import write_report
from serkit.models.cai import load_cai
from serkit.models.model import Waveforms
from serkit.training.cai import judge_checkpoints
from serkit.training.material import load_data
from serkit.training.recipe import load_recipe

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoints(make_cai_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, fold in enumerate(("03M", "01F")):
        make_cai_checkpoint(folder / fold, seed=seed)
    return folder


@pytest.fixture(scope="module")
def manifest(iemocap_folder):
    return load_data(load_recipe("cai/base-alpha0.1", [f"data.root={iemocap_folder}"]))


@pytest.fixture(scope="module")
def judged(checkpoints, iemocap_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("judged") / "run"
    results = list(judge_checkpoints(checkpoints, iemocap_folder, run, run.parent / "cache"))
    return run, results, pl.read_parquet(run / "predictions.parquet")


def test_every_fold_is_judged_by_its_own_checkpoint(judged, checkpoints, manifest):
    from serkit.data.audio import read_audio

    _, results, table = judged
    assert [(result.fold, result.total) for result in results] == [("01F", 8), ("03M", 8)]
    audio = dict(manifest.table.select("id", "audio").iter_rows())
    for result in results:
        rows = table.filter(fold=result.fold)
        assert rows["id"].str.starts_with(f"Ses{result.fold}").all()
        assert result.correct == (rows["truth"] == rows["prediction"]).sum()
        model = load_cai(checkpoints / result.fold)
        for row in rows.iter_rows(named=True):
            with torch.no_grad():
                outputs = model(Waveforms.pad([torch.from_numpy(read_audio(audio[row["id"]]))]))
            shares = outputs["emotion"][0, 0].softmax(0).tolist()
            assert [row[f"p_{name}"] for name in ("neutral", "happy", "angry", "sad")] == pytest.approx(
                shares, abs=1e-5
            )
            heard = model.tasks["ctc"].tokenizer.decode(outputs["ctc"][0].argmax(-1).tolist(), merge=True)
            assert row["text_prediction"] == heard
    assert table["prediction"].n_unique() > 1 and set(table["text_truth"]) == {"Y", "LG  NO", "I SEE", "WHAT"}


def test_the_run_is_judged_and_stamped(judged):
    run, results, _ = judged
    report = write_report(run)
    assert report["stamp"] == "speakers shared: 2 (the talkers of a test fold are also in training)"
    right = sum(result.correct for result in results)
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(right / 16)
    assert report["tasks"]["text"]["folds"]["count"] == 2


def test_published_lists_say_the_same(judged, checkpoints, manifest, iemocap_folder, tmp_path):
    folds = create_folds(manifest, "recording10", dev=0)
    write_folds(manifest, folds, tmp_path / "lists", "cai")
    list(judge_checkpoints(checkpoints, iemocap_folder, tmp_path / "run", tmp_path / "cache", tmp_path / "lists"))
    again = pl.read_parquet(tmp_path / "run" / "predictions.parquet")
    keys = ["id", "fold", "truth", "prediction", "text_truth", "text_prediction", "speaker"]
    assert again.select(keys).sort("id").equals(judged[2].select(keys).sort("id"))
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["stamp"].startswith("speakers shared: 2")
    for path in (tmp_path / "lists").glob("*.train.csv"):
        path.unlink()
    list(judge_checkpoints(checkpoints, iemocap_folder, tmp_path / "run", tmp_path / "cache", tmp_path / "lists"))
    stamp = json.loads((tmp_path / "run" / "provenance.json").read_text())["stamp"]
    assert stamp == "speakers unknown (no training list)"


def test_mistakes_are_named(checkpoints, iemocap_folder, tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint: they are folders named 01F"):
        list(judge_checkpoints(iemocap_folder, iemocap_folder, tmp_path, tmp_path))
    with pytest.raises(InputError, match=r"iemocap_01F\.test\.csv: no such manifest"):
        list(judge_checkpoints(checkpoints, iemocap_folder, tmp_path, tmp_path, tmp_path))
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(InputError, match="holds a run of a recipe: choose another folder"):
        list(judge_checkpoints(checkpoints, iemocap_folder, tmp_path, tmp_path))


def test_results_are_told_as_the_original_does():
    assert format_result(2, 3) == "correct: 2 , acc: 0.6666666666666666"
    assert format_result(3, 3) == "correct: 3 , acc: 1.0"


def test_the_report_shows_runs_beside_the_paper(judged, tmp_path):
    _, results, table = judged
    trained = tmp_path / "runs" / "one"
    trained.mkdir(parents=True)
    (trained / "recipe.toml").write_text('name = "cai/base-alpha0.01"\n')
    (trained / "provenance.json").write_text('{"protocol": "talker10", "stamp": "speakers shared: 0"}')
    table.with_columns(seed=pl.lit(42)).write_parquet(trained / "predictions.parquet")
    (tmp_path / "runs" / "two").mkdir()
    (tmp_path / "runs" / "two" / "recipe.toml").write_text('name = "cai/base-alpha0"\n')
    comparison = write_comparison(tmp_path / "runs", tmp_path / "out", resamples=50)
    rows = {row["id"]: row for row in comparison["rows"]}
    assert set(rows) >= {"base-alpha0", "base-alpha0.001", "base-alpha0.01", "base-alpha0.1"}
    ours = rows["base-alpha0.01"]["ours"]
    right = sum(result.correct for result in results)
    assert ours["accuracy"]["value"] == pytest.approx(right / 16) and ours["n"] == 16
    assert ours["results"][-1] == {"seed": 42, "fold": "all", "correct": right, "total": 16}
    per_fold = [made["wer"] for made in ours["tasks"]["text"]["folds"]["each"].values()]
    assert ours["wer"]["value"] == pytest.approx(sum(per_fold) / 2)
    text = format_comparison(comparison)
    missing = next(line for line in text.splitlines() if line.startswith("alpha 0.1 "))
    assert "not run" in missing and " 78.15 " in missing and " 19.29 " in missing and " 5531 " in missing
    assert f"all  correct: {right} , acc: {right / 16}" in text.splitlines()
    assert f"01F  correct: {results[0].correct} , acc: {results[0].correct / 8}" in text
    assert "base-alpha0.01 (talker10): the paper's folds are recording10, this is another test" in text
    assert f"unfinished, left out: {tmp_path / 'runs' / 'two'}" in text
    assert "not run" in (tmp_path / "out" / "cai.md").read_text() and (tmp_path / "out" / "cai.json").is_file()


def test_judged_checkpoints_are_reported_too(judged):
    rows = create_comparison(judged[0].parent, resamples=20)["rows"]
    assert rows[-1]["id"] == "checkpoints" and rows[-1]["published"] is None


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run of a recipe cai/"):
        create_comparison(tmp_path)
