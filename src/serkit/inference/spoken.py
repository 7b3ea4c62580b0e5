"""An utterance as a whole through a bundle: the beginning of a recording, and the first words of what was said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from serkit.data.audio import SILENCE_PEAK
from serkit.inference.bundle import Bundle
from serkit.inference.windows import Hearing, Window


@dataclass(frozen=True)
class Judgement:
    """What a bundle says of an utterance: ``heard`` as of any recording, and the ``words`` it read (None: none).

    ``cut`` tells that there is more of the recording or of the words than the model judges.
    """

    heard: Hearing
    words: str | None
    cut: bool


def judge(
    bundle: Bundle, blocks: Iterable[np.ndarray] | None, text: str | None = None, keep: np.ndarray | None = None
) -> Judgement:
    """Run ``bundle`` once on a recording that comes in ``blocks (S,)`` at the card's rate, and on its ``text``.

    No more is decoded than is heard. ``keep (C,)`` are the candidate classes. A text without words counts as none. As
    of any recording, nothing is said of one that is silent or too short: then there are no windows.
    """
    card = bundle.card
    numbers, more = bundle.number(text)
    words = text if numbers else None
    if not card.hears or blocks is None:
        window = Window(0, 0, 0, bundle.run(None, keep, words=numbers))
        return Judgement(Hearing(card, (window,), 0, 0.0), words, more)
    most = round(card.window_seconds * card.sampling_rate)
    waveform = beginning(blocks, most + 1)
    longest = most if not card.judged_seconds else round(card.judged_seconds * card.sampling_rate)
    more = more or len(waveform) > longest
    waveform = waveform[:most]
    loudest = float(np.abs(waveform).max(initial=0.0))
    if loudest < SILENCE_PEAK or len(waveform) < card.min_seconds * card.sampling_rate:
        return Judgement(Hearing(card, (), len(waveform), loudest), words, more)
    window = Window(0, len(waveform), 0, bundle.run(waveform, keep, words=numbers))
    return Judgement(Hearing(card, (window,), len(waveform), loudest), words, more)


def beginning(blocks: Iterable[np.ndarray], most: int) -> np.ndarray:
    """Return the first ``most`` samples ``(S,)`` of a recording, decoding no further."""
    found: list[np.ndarray] = []
    count = 0
    for block in blocks:
        found.append(block[: most - count])
        count += len(found[-1])
        if count >= most:
            break
    return np.concatenate(found) if found else np.zeros(0, np.float32)
