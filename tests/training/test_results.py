"""What the shipped recipes reach on the real corpora."""

import json

import pytest

from serkit.evaluation.report import write_report
from serkit.training.recipe import load_recipe
from serkit.training.run import train


@pytest.mark.slow
def test_emodb_reaches_its_published_figure(corpus_root, tmp_path):
    recipe = load_recipe("emodb/loso", [f"data.root={corpus_root('emodb')}"])
    train(recipe, tmp_path / "run", tmp_path / "cache")
    write_report(tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stamp"] == "speakers shared: 0"
    assert report["utterances"] == 535
    assert report["metrics"]["uar"]["value"] > 0.93
