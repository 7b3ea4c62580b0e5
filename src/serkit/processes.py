"""Which of several processes that ``accelerate launch`` or ``torchrun`` started this one is."""

from __future__ import annotations

import os


def distributed() -> bool:
    """Tell whether other processes train the same model."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads() -> bool:
    """Tell whether this process is the one that writes files and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all(device: str) -> None:
    """Return when all processes have come here."""
    if distributed():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu").wait_for_everyone()
