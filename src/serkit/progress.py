"""How far long work is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Step = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""

Report = Callable[[dict[str, Any]], None]
"""Called with what an epoch of training came to."""


def no_report(line: dict[str, Any]) -> None:
    """Tell nobody."""


def no_steps(what: str, done: int, total: int) -> None:
    """Show nothing."""


def print_steps(what: str, done: int, total: int) -> None:
    """Print a line on stderr for every tenth of the work."""
    if done * 10 // total > (done - 1) * 10 // total:
        print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)


def print_epoch(name: str, line: dict[str, Any], epochs: int) -> None:
    """Print what an epoch of the training called ``name`` came to, on stderr."""
    facts = ", ".join(f"{key} {value:.4g}" for key, value in line.items() if key != "epoch")
    print(f"{name}: epoch {line['epoch']} of {epochs}, {facts}", file=sys.stderr, flush=True)


@contextmanager
def show_steps() -> Iterator[Step]:
    """Yield what shows progress: bars that vanish when they are full if stderr is a terminal, lines otherwise."""
    if not sys.stderr.isatty():
        yield print_steps
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, visible=done < total)

        yield step
