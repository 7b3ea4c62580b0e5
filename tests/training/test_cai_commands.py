"""The verbs of Cai et al. 2021 on the command line: judge checkpoints, run recipes, report."""

from __future__ import annotations

import re

import pytest
import torch

torch.set_num_threads(1)


def test_checkpoints_are_judged_in_the_lines_of_the_original(serkit, make_cai_checkpoint, iemocap_folder, tmp_path):
    for seed, fold in enumerate(("01F", "02M")):
        make_cai_checkpoint(tmp_path / "ckpts" / fold, seed=seed)
    options = ["--root", f"iemocap={iemocap_folder}", "-o", tmp_path / "run", "--cache", tmp_path / "cache"]
    code, out, err = serkit("reproduce", "cai", "--checkpoints", tmp_path / "ckpts", *options)
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 3 and all(re.fullmatch(r"correct: \d+ , acc: \d\.\d+", line) for line in lines)
    right = [int(line.split()[1]) for line in lines]
    assert right[2] == right[0] + right[1]
    assert lines[2] == f"correct: {right[2]} , acc: {right[2] / 16}"
    code, out, err = serkit("evaluate", tmp_path / "run")
    assert code == 0 and "stamp: speakers shared: 2" in out and "task text: wer" in out
    code, out, _ = serkit("report", "cai", tmp_path / "run", "-o", tmp_path / "out")
    assert code == 0 and f"02M  {lines[1]}" in out and out.splitlines()[-1] == str(tmp_path / "out" / "cai.md")


def test_recipes_are_run_and_reported(serkit, iemocap_folder, tiny_wav2vec2, tmp_path):
    changes = ["training.epochs=1", "training.batch_size=80", f"encoder.options.weights={tiny_wav2vec2}"]
    options = ["--root", f"iemocap={iemocap_folder}", "--only", "base-alpha0", "-o", tmp_path, "--workers", "1"]
    code, out, err = serkit("reproduce", "cai", *changes, *options, "--cache", tmp_path / "cache")
    assert code == 0, err
    row = next(line for line in out.splitlines() if line.startswith("alpha 0 (emotion alone)"))
    assert "recording10" in row and " 71.66 " in row and " 99.81 " in row
    assert (tmp_path / "base-alpha0" / "report.html").is_file() and (tmp_path / "cai.md").is_file()


@pytest.mark.parametrize(
    "arguments",
    [["pepino", "--checkpoints", "x", "--root", "iemocap=y"], ["cai", "--checkpoints", "x"]],
)
def test_checkpoints_need_the_system_and_the_corpus(serkit, arguments):
    code, out, err = serkit("reproduce", *arguments)
    assert (code, out) == (2, "") and "--checkpoints judges those of cai: give --root iemocap=DIR" in err
