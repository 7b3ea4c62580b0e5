"""The comparison with Pepino et al. 2021 as a Markdown page, JSON, figures and text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.data.files import write_json, write_text
from serkit.errors import missing_extra
from serkit.evaluation.pepino import CORPORA, SYSTEM, Key, Numbers, Run, create_comparison, find_runs, read_published
from serkit.evaluation.statistics.bootstrap import RESAMPLES
from serkit.evaluation.wording import write_columns, write_markdown_table, write_words

OTHERS = ("experiment", "corpus", "accuracy", "published", "macro F1", "published", "kept epochs")
HEAD = ("experiment", "corpus", "ours", "95 % interval", "published", "difference", "n", "seeds")


@dataclass(frozen=True)
class _Row:
    """One experiment on one corpus: what :func:`judge` says of our run, if any, and what was published, if anything."""

    label: str
    corpus: str
    ours: Numbers | None
    published: Numbers | None

    def cells(self) -> tuple:
        """Return what stands under :data:`HEAD`."""
        printed = "–" if self.published is None else _points(self.published["uar"])
        if self.ours is None:
            n = self.published["n"] if self.published else "–"
            return self.label, self.corpus, "not run", "–", printed, "–", n, "–"
        uar, difference = self.ours["uar"], self.ours["difference"]
        interval = "–" if uar["low"] is None else f"{100 * uar['low']:.1f} to {100 * uar['high']:.1f}"
        # Adding zero turns -0.0 into 0.0.
        moved = "–" if difference is None else f"{round(100 * difference, 1) + 0.0:+.1f}"
        return self.label, self.corpus, _points(uar), interval, printed, moved, self.ours["n"], len(self.ours["seeds"])

    def others(self) -> tuple:
        """Return what stands under :data:`OTHERS`."""
        cells: list[str] = [self.label, self.corpus]
        for name in ("accuracy", "f1_macro"):
            for side in (self.ours, self.published):
                cells.append("–" if side is None else _points(side[name]))
        kept = self.ours["kept_epochs"] if self.ours else None
        return (*cells, f"{kept['least']} to {kept['most']}" if kept else "–")

    def source(self) -> tuple[str, str]:
        """Return the encoder and the protocol in words."""
        if self.ours is None:
            return (self.published or {}).get("encoder", "–"), "–"
        ours = self.ours
        by = ours["normalise_column"] if ours["normalise"] == "speaker" else ours["normalise"]
        parts = (ours["protocol"], ours["stamp"], f"normalised: {by}" if by else None)
        return ours["encoder"], "; ".join(write_words(part, missing="") for part in parts if part) or "not recorded"

    def folds(self) -> list[tuple]:
        """Return a row for each fold; the k-th published fold stands beside our k-th."""
        each = self.ours["folds"] if self.ours else []
        theirs = (self.published or {}).get("folds", ())
        printed = [f"{100 * value:.1f}" for value in theirs] if len(theirs) == len(each) else ["–"] * len(each)
        return [
            (self.label, self.corpus, fold["fold"], fold["n"], _points(fold), value)
            for fold, value in zip(each, printed, strict=True)
            if len(each) > 1
        ]


def _points(made: Mapping[str, Any]) -> str:
    """Return a figure of ours, a fold or a published one in percent: value ± sd over seeds."""
    value = made["mean"] if "mean" in made else made.get("value", made.get("uar"))
    sd = made.get("sd", made.get("sd_over_seeds"))
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if sd is None else f"{100 * value:.1f} ± {100 * sd:.1f}"


def _listings(comparison: Numbers) -> dict[str, list[_Row]]:
    """Return the rows of every table by its title."""
    listings = {}
    for table in comparison["tables"]:
        cells = [(row["label"], row["corpus"], row["ours"], row["published"]) for row in table["rows"]]
        listings[table["title"]] = [_Row(label, _spell(corpus), *sides) for label, corpus, *sides in cells]
    if comparison["others"]:
        listings["Other runs"] = [_Row(made["id"], _spell(made["corpus"]), made, None) for made in comparison["others"]]
    return listings


def _spell(corpus: str) -> str:
    return CORPORA.get(corpus, corpus)


def _remarks(comparison: Numbers) -> list[str]:
    """Return what has to be said about single runs, each thing once."""
    found: dict[str, list[str]] = {}
    judged = [row.ours for rows in _listings(comparison).values() for row in rows if row.ours is not None]
    for ours in judged:
        name = f"{ours['id']} on {_spell(ours['corpus'])}"
        for note in ours["notes"]:
            if name not in found.setdefault(note, []):
                found[note].append(name)
    remarks = [f"{note}: {', '.join(names)}" for note, names in found.items()]
    return remarks + [f"unfinished, left out: {folder}" for folder in comparison["unfinished"]]


def format_comparison(comparison: Numbers) -> str:
    """Return the tables as plain text for a terminal, about 110 columns wide."""
    lines = [comparison["paper"], comparison["convention"]]
    for title, rows in _listings(comparison).items():
        lines += ["", title, *write_columns([HEAD, *(row.cells() for row in rows)])]
    return "\n".join([*lines, "", *(f"note: {remark}" for remark in _remarks(comparison))]).rstrip()


def render_markdown(comparison: Numbers, drawn: Mapping[str, str] | None = None) -> str:
    """Return the comparison as a Markdown page; ``drawn`` maps captions to the figures' file names."""
    listings = _listings(comparison)
    page = ["# Ours beside the published figures", "", f"{comparison['paper']}. {comparison['convention']}"]
    for title, rows in listings.items():
        wide = [(*row.cells(), *row.source()) for row in rows]
        page += ["", f"## {title}", "", *write_markdown_table([*HEAD, "encoder", "protocol"], wide)]
    ran = _once(row for rows in listings.values() for row in rows)
    if ran:
        page += [
            "",
            "## Accuracy, macro F1 and training",
            "",
            *write_markdown_table(OTHERS, [row.others() for row in ran]),
        ]
    folds = [fold for row in ran for fold in row.folds()]
    if folds:
        text = "Not to be mixed with the tables above: the mean of these is not the UAR of merged folds."
        head = ("experiment", "corpus", "fold", "n", "ours", "published")
        page += ["", "## UAR per fold", "", text, "", *write_markdown_table(head, folds)]
    remarks = _remarks(comparison)
    page += ["", "## Notes", "", *(f"- {remark}" for remark in remarks)] if remarks else []
    page += ["", "## Figures"] if drawn else []
    for caption, name in (drawn or {}).items():
        page += ["", f"![{name}]({name})", "", caption]
    return "\n".join(page) + "\n"


def _once(rows: Iterable[_Row]) -> list[_Row]:
    """Return the rows without a second one of the same run: one stands in both tables."""
    found: dict[Any, _Row] = {}
    for row in rows:
        if row.ours is not None:
            found.setdefault((row.ours["id"], row.corpus), row)
    return list(found.values())


def write_comparison(root: str | Path, output: str | Path, resamples: int = RESAMPLES) -> Numbers:
    """Judge the runs below ``root``; write ``pepino.md``, ``pepino.json`` and figures into ``output``.

    Returns what ``pepino.json`` holds (:func:`create_comparison`). Raises ``InputError`` as :func:`find_runs` does.
    """
    runs, unfinished = find_runs(root)
    comparison = create_comparison(runs, unfinished, resamples)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _draw(runs, folder)
    write_json(folder / f"{SYSTEM}.json", comparison)
    write_text(folder / f"{SYSTEM}.md", render_markdown(comparison, drawn))
    return comparison


def _draw(runs: Mapping[Key, Run], folder: Path) -> dict[str, str]:
    """Write figures as SVG and PNG; returns caption to file name."""
    try:
        from serkit.evaluation import curves
    except ImportError as error:
        raise missing_extra(error.name or "matplotlib", "train") from error

    published = read_published()
    labels = {id: label for _, rows in reversed(published.tables) for id, label in rows}
    runs = {key: runs[key] for key in [*published.experiments, *runs] if key in runs}  # in the paper's order
    own = {key: weights for key, run in runs.items() if (weights := run.layer_weights()) is not None}
    first = list(dict.fromkeys(id for id, _ in published.layer_weights))
    rest = [id for id in dict.fromkeys(id for id, _ in own) if id not in first]
    drawn = {}
    for ids, name, caption in (
        (first, "layer-weights", "Weights of the layers, figure 2 of the paper. Solid: ours, mean ± sd over runs."),
        (rest, "layer-weights-others", "Weights of the layers in the other runs, mean ± sd over seeds and folds."),
    ):
        panels = {labels.get(id, id): _curves(id, own, published.layer_weights) for id in ids}
        if panels:
            drawn[caption] = curves.write_figure(curves.draw_layer_weights(panels), folder / name)
    for (id, corpus), run in runs.items():
        epochs = [line for line in run.history if "loss" in line]
        if len({line["epoch"] for line in epochs}) > 1:
            title = f"{labels.get(id, id)}: {_spell(corpus)}"
            figure = curves.draw_learning_curves(epochs, title, run.kept_epochs())
            caption = f"Learning curves, {title}. One line a seed and fold; dots: the epoch that was kept."
            drawn[caption] = curves.write_figure(figure, folder / f"learning-{id.replace('/', '-')}-{corpus}")
    return drawn


def _curves(id: str, own: Mapping[Key, Any], published: Mapping[Key, Sequence[float]]) -> list[Any]:
    from serkit.evaluation.curves import Curve

    made = []
    for place, (corpus, name) in enumerate(CORPORA.items()):
        if (id, corpus) in published:
            made.append(Curve(f"{name}, published", place, published[id, corpus], published=True))
        if (id, corpus) in own:
            weights = own[id, corpus]
            sd = weights.std(axis=0, ddof=1) if len(weights) > 1 else None
            made.append(Curve(f"{name}, ours ({len(weights)} runs)", place, weights.mean(axis=0), sd))
    return made
