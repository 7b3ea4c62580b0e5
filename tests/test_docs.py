"""The documentation's Python runs, its commands exist, and its file map is true."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from serkit.cli import app
from serkit.training.recipe import list_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "src/serkit/pretrained/README.md"]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, code) of every fenced block of ``language``."""
    found = []
    for page in PAGES:
        found += [(page.name, code) for code in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]
    return found


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_run(page: str, code: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(compile(code, page, "exec"), {})


def test_commands_in_the_docs_exist_with_their_options():
    verbs = get_command(app).commands
    seen = 0
    for page, code in blocks("sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] != "serkit":
                continue
            seen += 1
            assert words[1] in verbs, f"{page}: {line}"
            known = {"-", *(option for parameter in verbs[words[1]].params for option in parameter.opts)}
            unknown = [word for word in words[2:] if word.startswith("-") and word.split("=")[0] not in known]
            assert not unknown, f"{page}: {line}: {unknown}"
            if words[1] == "train":
                assert words[2] in list_recipes() or words[2].endswith((".toml", ".json")), f"{page}: {line}"
    assert seen


def test_the_demo_prints_what_the_readme_says(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = re.search(r"prints\n\n```text\n.*?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    with pytest.raises(SystemExit) as stop:
        app(["predict", "examples", "--format", "json"], standalone_mode=True)
    assert stop.value.code == 0
    for line, said in zip(capsys.readouterr().out.splitlines(), shown.splitlines(), strict=True):
        found, (name, seconds, label, p, *_) = json.loads(line), said.split()
        assert (found["id"], f"{found['end']:.2f}") == (name, seconds)
        # int8 products round differently from processor to processor: near ties may change places.
        assert abs(found["probabilities"][label] - float(p)) < 0.1
        assert max(found["probabilities"].values()) - found["probabilities"][label] < 0.1


def test_the_file_map_of_the_readme_is_true():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"```text\n(src/serkit/.*?)```", text, re.DOTALL).group(1)
    folder = Path()
    for line in block.splitlines():
        name = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        for part in name.split():
            if not line.startswith(" ") and part.endswith("/"):
                folder = ROOT / part
            path = folder / part if line.startswith(" ") else ROOT / part
            assert path.exists(), f"README names {part}, which is not in {folder}"
