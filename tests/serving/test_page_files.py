"""The page's files: nothing from elsewhere, nothing inline, the same colours as the figures."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from serkit.inference import palette

WEB = Path(palette.__file__).parents[1] / "serving" / "web"
SCRIPTS = sorted(WEB.glob("*.js"))


def test_the_page_has_the_colours_of_the_figures():
    text = (WEB / "palette.js").read_text(encoding="utf-8")
    named = re.search(r"COLOURS = \{(.*?)\};", text, re.DOTALL)[1]
    assert dict(re.findall(r'(\w+): "(#\w+)"', named)) == palette.COLOURS
    assert tuple(json.loads(re.search(r"FALLBACK = (\[.*?\]);", text)[1])) == palette.FALLBACK


def test_vendored_files_are_unchanged_and_licensed():
    rows = re.findall(
        r"^\| `(\S+?)` \| .*? \| [\d.]+ \| (?:MIT|OFL-1.1) \| `(\w{64})` \|$",
        (WEB / "vendor" / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    sums = dict(rows)
    found = {
        path.relative_to(WEB / "vendor").as_posix(): path for path in (WEB / "vendor").rglob("*") if path.is_file()
    }
    assert set(found) == {"README.md", *sums}
    for name, path in found.items():
        assert name == "README.md" or hashlib.sha256(path.read_bytes()).hexdigest() == sums[name], name
    for folder in (WEB / "vendor").iterdir():
        assert folder.name == "README.md" or (folder / "LICENSE").is_file(), folder


def test_the_page_has_nothing_inline_and_loads_what_is_there():
    text = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text)
    loaded = re.findall(r'(?:src|href)="(?!#)([^"]+)"', text)
    assert "static/app.js" in loaded
    for address in loaded:
        assert address == "." or (WEB / address.removeprefix("static/")).is_file(), address


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_is_there_and_know_no_other_place(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r'from "([^"]+)"', text):
        assert (WEB / name).is_file(), name
    for address in re.findall(r"(?:https?|wss?)://[\w.]+", text):
        assert address == "http://www.w3.org", address  # the name space of SVG
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_every_element_that_a_script_asks_for_is_there():
    known = set(re.findall(r'\sid="([^"]+)"', (WEB / "index.html").read_text(encoding="utf-8")))
    asked = {name for path in SCRIPTS for name in re.findall(r'byId\("([^"]+)"\)', path.read_text(encoding="utf-8"))}
    assert len(asked) > 30
    assert asked <= known
