"""Processes that work together: which of several this is, and that none outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading


def count_processes() -> int:
    """Return how many processes train the same model."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def distributed() -> bool:
    """Tell whether other processes train the same model."""
    return count_processes() > 1


def leads() -> bool:
    """Tell whether this process is the one that writes files and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all(device: str) -> None:
    """Return when all processes have come here."""
    if distributed():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu").wait_for_everyone()


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, killed perhaps: nobody waits for what it makes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def _wait_and_end(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
