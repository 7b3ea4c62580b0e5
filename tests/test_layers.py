"""Imports point one way, and recognition needs none of the heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import serkit

SOURCE = Path(serkit.__file__).parent
GROUND = {"cores", "errors", "processes", "progress"}  # import nothing of serkit, and anyone may import them
ORDER = ["data", "encoders", "models", "training", "evaluation", "inference", "bundling", "export", "serving", "cli"]
ALLOWED = {name: set(ORDER[: number + 1]) for number, name in enumerate(ORDER)}
ALLOWED["evaluation"] = {"data", "evaluation"}
ALLOWED["inference"] = {"data", "inference"}
ALLOWED["serving"] = {"data", "inference", "serving"}
WITHOUT_TORCH = ("data", "evaluation", "inference", "serving")
TORCH = {"torch", "accelerate", "safetensors", "transformers", "onnxscript"}
MODULES = sorted(SOURCE.rglob("*.py"))


def imports(path):
    """Every absolute name that a module imports, at any depth; names after ``from`` may be modules too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "serkit":
                yield from (f"serkit.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def package_of(name):
    return name.split(".")[1] if name.startswith("serkit.") else None


def test_every_module_has_its_place():
    places = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in MODULES}
    assert places == {*ORDER, *GROUND, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_one_way(path):
    place = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    used = {package_of(name) for name in imports(path)} - {None}
    if place == "__init__":
        return  # the front door opens every room, but only when asked: see below
    allowed = set() if place in GROUND else ALLOWED[place] | GROUND
    # The version is the one name that modules may take from serkit itself.
    assert used - allowed - {"__version__"} == set()
    if place in WITHOUT_TORCH:
        assert {name.split(".")[0] for name in imports(path)} & TORCH == set()


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import serkit", ["numpy", "torch", "polars", "scipy", "onnxruntime", "av"]),
        (
            "import serkit, serkit.inference.predictor",
            ["torch", "polars", "scipy", "sklearn", "matplotlib", "pydantic"],
        ),
        ("import serkit.cli", ["torch", "polars", "scipy", "sklearn", "matplotlib", "onnxruntime"]),
        ("import serkit.evaluation.report, serkit.data.protocols, serkit.data.corpora", ["torch", "onnxruntime"]),
    ],
)
def test_light_doors_stay_light(statement, absent):
    code = f"import sys; {statement}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
