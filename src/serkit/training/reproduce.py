"""Reproduce a whole paper: every shipped recipe of its family, one run folder each; finished ones are not run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from serkit.errors import InputError, nearest
from serkit.training.experiment import PlannedRun
from serkit.training.recipe import list_recipes, load_recipe


def plan(
    family: str,
    roots: Mapping[str, str],
    folder: str | Path,
    encoder: str | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[PlannedRun]:
    """Return the experiments of ``family`` on the corpora that ``roots`` has folders for, in the order of their names.

    ``encoder`` takes the place of the encoder that most recipes of the family name; recipes with another one keep it.
    ``only`` and ``skip`` are patterns of names after ``family/``, such as ``*fusion``. Raises ``InputError`` when
    nothing is left, and for a family or corpus that does not exist.
    """
    names = [name for name in list_recipes() if name.startswith(f"{family}/") and load_recipe(name).data.corpora]
    if not names:
        families = sorted({name.split("/")[0] for name in list_recipes()})
        raise InputError(f"no recipes named {family}/...{nearest(family, families)}")
    recipes = {name.removeprefix(f"{family}/"): load_recipe(name) for name in names}
    corpora = {corpus for recipe in recipes.values() for corpus in recipe.data.corpora}
    for corpus in roots:
        if corpus not in corpora:
            raise InputError(
                f"--root {corpus}: {family} uses {' and '.join(sorted(corpora))}{nearest(corpus, corpora)}"
            )
    usual = Counter(recipe.encoder.name for recipe in recipes.values()).most_common(1)[0][0]
    chosen = []
    for name, recipe in recipes.items():
        wanted = not only or any(fnmatch(name, pattern) for pattern in only)
        if not wanted or any(fnmatch(name, pattern) for pattern in skip) or not set(recipe.data.corpora) <= set(roots):
            continue
        (corpus,) = recipe.data.corpora
        changes = [f"data.root={roots[corpus]}", *overrides]
        changes += [f"encoder={encoder}"] if encoder and recipe.encoder.name == usual else []
        chosen.append(PlannedRun(load_recipe(f"{family}/{name}", changes), Path(folder) / name))
    if not chosen:
        names_of_corpora = " or ".join(sorted(corpora))
        raise InputError(
            f"{family}: nothing to run: give --root CORPUS=DIR for {names_of_corpora}, look at --only, --skip"
        )
    return chosen
