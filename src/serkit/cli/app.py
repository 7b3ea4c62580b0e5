"""What the verbs share: the application, how errors are told, where the cache is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from serkit.errors import InputError, SerkitError, missing_extra

app = typer.Typer(
    help="Speech emotion recognition: recognise, train, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Cache = Annotated[Path | None, typer.Option(help="feature cache")]
Workers = Annotated[int | None, typer.Option(min=1, help="processes; one per core when left out")]
Root = Annotated[Path | None, typer.Option(help="folder of the recordings, where the manifest does not say")]


def main() -> None:
    """Run the command line; known errors become one line and an exit status."""
    try:
        app()
    except SerkitError as error:
        typer.echo(f"serkit: {error}", err=True)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # a full disk, or a place that cannot be written
        name = error.filename2 or error.filename
        typer.echo(f"serkit: {f'{name}: {error.strerror}' if name else error}", err=True)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in TRAIN_PACKAGES:
            raise
        typer.echo(f"serkit: {missing_extra(str(error.name), 'train')}", err=True)
        raise SystemExit(2) from None


TRAIN_PACKAGES = {
    "accelerate", "audiomentations", "huggingface_hub", "jinja2", "jiwer", "matplotlib", "onnx", "onnxscript", "optuna",
    "polars", "pydantic", "pyloudnorm", "safetensors", "scipy", "sklearn", "statsmodels", "tomli_w", "torch",
}  # fmt: skip


def split_pair(text: str, option: str, form: str) -> tuple[str, str]:
    """Divide the ``NAME=VALUE`` of an option."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{option} {text!r}: write {form}")
    return name, value


def report_problems(problems: list[Any]) -> None:
    """Write the first problems of a manifest to stderr."""
    for problem in problems[:20]:
        typer.echo(f"{problem.kind}: {problem}", err=True)
    if problems[20:]:
        typer.echo(f"and {len(problems) - 20} more problems", err=True)


def cache_folder() -> Path:
    """Return the feature cache: ``SERKIT_CACHE``, or ``serkit`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SERKIT_CACHE") or Path(home) / "serkit")
