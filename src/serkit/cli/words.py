"""The verb that cuts word vectors to the words of a corpus."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serkit.cli.app import app
from serkit.errors import InputError


class Numbering(StrEnum):
    """Which words the texts are made of."""

    plain = "plain"
    legacy = "legacy"


@app.command()
def vectors(
    source: Annotated[str, typer.Argument(help="word vectors: .txt, .txt.gz, .npz, an installed package, spacy:MODEL")],
    manifests: Annotated[list[Path], typer.Argument(help="manifests whose column text holds the words")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".npz file to write")],
    numbering: Annotated[Numbering, typer.Option(help="as text.numbering of the recipe")] = Numbering.plain,
    show: Annotated[int, typer.Option(min=0, help="how many of the most frequent unknown words to name")] = 20,
) -> None:
    """Cut word vectors to the words of corpora; words in other texts are unknown to what is written."""
    from serkit.data.vectors import check_target, load_vectors, save_vectors
    from serkit.data.words import LEGACY_UNKNOWN, UNKNOWN

    check_target(output)
    counts = count_words(manifests, legacy=numbering is Numbering.legacy)
    words = [*counts, UNKNOWN, LEGACY_UNKNOWN]
    found = load_vectors(source)
    matrix, known = found.lookup(words)
    if not known[: len(counts)].any():
        raise InputError(f"{source}: knows none of the {len(counts)} words: is it of another language?")
    save_vectors(output, [word for word, here in zip(words, known, strict=True) if here], matrix[known])
    unknown = {word: counts[word] for word, here in zip(counts, known[: len(counts)], strict=True) if not here}
    types, tokens = len(counts) - len(unknown), counts.total() - sum(unknown.values())
    typer.echo(
        f"{output}: {types} of {len(counts)} words ({types / len(counts):.1%}), which are {tokens} of {counts.total()} "
        f"in the texts ({tokens / counts.total():.1%}), have vectors of {found.dim} numbers from {found.name}"
    )
    most = Counter(unknown).most_common(show)
    if most:
        typer.echo("unknown, the most frequent first: " + ", ".join(f"{word} {count}" for word, count in most))


def count_words(manifests: list[Path], legacy: bool) -> Counter[str]:
    """Return how often every cleaned word stands in the texts of ``manifests``."""
    from serkit.data.manifest import Manifest
    from serkit.data.words import split_words

    texts = [text for path in manifests for text in Manifest.read(path).table["text"]]
    counts = Counter(word for text in texts for word in split_words(text, legacy))
    if not counts:
        raise InputError(f"{', '.join(map(str, manifests))}: the column text holds no words")
    return counts
