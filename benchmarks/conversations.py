"""Conversations with known emotions: RAVDESS's actors in pairs, to look at timelines and to measure them.

    python benchmarks/conversations.py RAVDESS FOLDER [--turns 10]

Writes for every two neighbouring actors a recording of so many clips that they say in turn, with half a second between
them and their silent ends cut off (below -35 dB of the clip's peak); to ``turns.rttm`` who speaks when, and to
``reference.csv`` what is expressed when. Emotions are drawn at random (seed 0), half of them neutral; calm is left out.
Then: serkit predict FOLDER --timeline --format json -o heard.json; serkit eder FOLDER/reference.csv heard.json.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from serkit.data.audio import read_audio
from serkit.data.corpora.ravdess import read

RATE = 16_000
PAUSE = 0.5
QUIET = 10 ** (-35 / 20)


def cut_ends(samples: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def converse(clips: dict[str, dict[str, list[str]]], actors: tuple[str, str], turns: int, rng: np.random.Generator):
    """Return the samples, and (start, end, actor, emotion) of every turn."""
    parts, said, at = [np.zeros(int(PAUSE * RATE), dtype=np.float32)], [], PAUSE
    for number in range(turns):
        actor = actors[number % 2]
        emotions = sorted(set(clips[actor]) - {"neutral"})
        emotion = "neutral" if rng.random() < 0.5 else emotions[rng.integers(len(emotions))]
        choice = clips[actor][emotion]
        samples = cut_ends(read_audio(choice[rng.integers(len(choice))]))
        said.append((at, at + len(samples) / RATE, actor, emotion))
        parts += [samples, np.zeros(int(PAUSE * RATE), dtype=np.float32)]
        at += len(samples) / RATE + PAUSE
    return np.concatenate(parts), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    clips: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in read(given.root):
        if row["channel"] == "speech" and row["emotion"] != "calm":
            clips[row["speaker"]][row["emotion"]].append(row["audio"])
    actors, rng = sorted(clips), np.random.default_rng(0)
    given.folder.mkdir(parents=True, exist_ok=True)
    with (
        (given.folder / "turns.rttm").open("w", encoding="utf-8") as rttm,
        (given.folder / "reference.csv").open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "start", "end", "label", "seconds"])
        for pair in zip(actors[::2], actors[1::2], strict=True):
            samples, said = converse(clips, pair, given.turns, rng)
            name = "-".join(pair)
            soundfile.write(given.folder / f"{name}.flac", samples, RATE)
            for start, end, actor, emotion in said:
                rttm.write(f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> actor{actor} <NA> <NA>\n")
                table.writerow([name, f"{start:.3f}", f"{end:.3f}", emotion, f"{len(samples) / RATE:.3f}"])


if __name__ == "__main__":
    main()
