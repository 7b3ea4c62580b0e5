"""Recipes before they are validated: tables of TOML files that extend each other, and keys set by the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from serkit.errors import InputError, nearest

SHIPPED = Path(str(resources.files("serkit") / "recipes"))
PRETRAINING = SHIPPED / "pretrain"
"""Recipes of ``serkit pretrain``; all others are of ``serkit train``."""


def list_recipes(verb: str = "train") -> dict[str, Path]:
    """Return the shipped recipes of a verb, "train" or "pretrain": name to file.

    Files whose names begin with ``_`` are parts that others extend.
    """
    root = PRETRAINING if verb == "pretrain" else SHIPPED
    files = [path for path in sorted(root.rglob("*.toml")) if not path.name.startswith("_")]
    files = [path for path in files if root == PRETRAINING or PRETRAINING not in path.parents]
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def load_tree(name: str, verb: str = "train", seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a recipe of ``verb`` by shipped name or by path, and what it extends; raises ``InputError`` naming it."""
    if name in seen:
        raise InputError(f"recipe {name}: extends itself ({' -> '.join((*seen, name))})")
    shipped, path, other = list_recipes(verb), Path(name), "train" if verb == "pretrain" else "pretrain"
    if name in shipped:
        path = shipped[name]
    elif name in list_recipes(other):
        raise InputError(f"recipe {name}: is one of serkit {other}: use that verb")
    elif path.suffix != ".toml":
        raise InputError(f"no recipe named {name!r}{nearest(name, shipped)}")
    elif not path.is_file():
        raise InputError(f"{path}: no such recipe file")
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: is not TOML: {error}") from error
    bases = tree.pop("extends", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        relative = path.parent / str(base)
        merged = merge(merged, load_tree(str(relative) if relative.is_file() else str(base), verb, (*seen, name)))
    return merge(merged, tree)


REPLACED = {"corpora", "parts", "merge", "where", "options", "space"}
"""Tables that an extending recipe replaces as a whole instead of adding to."""


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what ``top`` says on top of it, table by table."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and key not in REPLACED
        merged[key] = merge(base[key], value) if both else value
    # Another protocol or encoder takes other options: those of the base would only be in its way.
    if "name" in top.get("protocol", {}):
        merged["protocol"] = top["protocol"]
    if "name" in top.get("encoder", {}) and "options" not in top["encoder"]:
        merged["encoder"].pop("options", None)
    return merged


def parse_options(options: list[str]) -> dict[str, Any]:
    """Turn ``key=value`` into a dictionary; values are TOML, and what is not TOML is a string."""
    return dict(parse_override(option, "key=value") for option in options)


def parse_override(override: str, form: str = "section.key=value") -> tuple[str, Any]:
    """Return key and value of ``override``, written as ``form``."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: write {form}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def override_key(tree: dict[str, Any], override: str) -> None:
    """Put what ``section.key=value`` says into ``tree``."""
    set_key(tree, *parse_override(override), override)


def set_key(tree: dict[str, Any], key: str, value: Any, override: str) -> None:
    """Set ``section.key`` of ``tree``; errors quote ``override``. ``encoder`` alone is the name of another one."""
    if key == "encoder" and isinstance(value, str):
        kept = {name: old for name, old in tree.get("encoder", {}).items() if name != "options"}
        tree["encoder"] = {**kept, "name": value}
        return
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {override!r}: {section!r} is not a section")
    if last == "options" or not isinstance(tree.get(last), dict) or isinstance(value, dict):
        tree[last] = value
    else:
        raise InputError(f"override {override!r}: {last!r} is a section: name a key in it")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first mistake in a recipe of type ``model`` in words, with the nearest known key."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = model_at(model, first["loc"][:-1])
        return f"unknown key {where!r}{nearest(str(first['loc'][-1]), section.model_fields if section else ())}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {said.lower()}" if where else said


def model_at(recipe: type[BaseModel], parts: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the section at ``parts``; None where the recipe is open, as below an encoder's options."""
    model: type[BaseModel] | None = recipe
    for part in parts:
        if model is not None and part not in model.model_fields:
            continue  # a place in a list, or a key of a table, of sections
        kind = None if model is None else model.model_fields[str(part)].annotation
        inner = [each for outer in (kind, *get_args(kind)) for each in (outer, *get_args(outer))]
        models = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
        model = models[0] if models else None
    return model


def tree_of(recipe: BaseModel) -> dict[str, Any]:
    """Return the resolved recipe as a table, without what is not set."""
    return json.loads(recipe.model_dump_json(exclude_none=True))


def dump_recipe(recipe: BaseModel) -> str:
    """Return the resolved recipe as TOML."""
    import tomli_w

    return tomli_w.dumps(tree_of(recipe))
