"""Recordings of known content, and models that know none of their speakers: what the timeline scripts judge with.

The speakers of RAVDESS, EmoDB and EMOVO are split in thirds, by turns in the order of gender and name in each corpus.
One third is there to tune on, one to test on. For each of the two a bundle is trained on the speakers of the others.

A composition has clips of one corpus in random order, each cut to its active part (from the first to the last 20 ms
frame within 35 dB of the loudest one, as the packaged model trims) with 50 ms on either side that fade in and out.
Between active parts there are pauses of random length. Every speaker is brought to a level of their own, and every clip
up to 3 dB from it. Below all of it is digital silence, or noise: white, pink, or like a room (power falling as
1 / f ** 1.5, mains hum, a slowly changing level). The reference are the active parts with the clip's emotion.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from serkit.data.audio import SAMPLING_RATE, read_audio
from serkit.data.corpora import prepare_corpus
from serkit.data.manifest import Manifest
from serkit.data.turns import Turn
from serkit.evaluation.timelines import Stretch, Track

DATA = Path(os.environ.get("SERKIT_DATA") or Path(__file__).parents[2] / "shared" / "data" / "audio")
CORPORA = ("emodb", "emovo", "ravdess")
THIRDS = ("train", "tune", "test")
NOISES = ("silence", "white", "pink", "room")
FRAME, MARGIN, ACTIVE = 320, 800, 35.0


@dataclass(frozen=True)
class Composition:
    """A recording ``waveform (S,)`` at 16 kHz, and what is expressed when; ``snr`` in dB is None where it is silent."""

    id: str
    corpus: str
    waveform: np.ndarray = field(repr=False)
    stretches: tuple[Stretch, ...]
    speakers: tuple[str, ...]
    noise: str
    snr: float | None

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.waveform) / SAMPLING_RATE

    @property
    def track(self) -> Track:
        """The reference."""
        return Track(self.id, self.stretches, self.seconds)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The clips as turns, each of a speaker of its own."""
        return tuple(Turn(each.start, each.end, str(number)) for number, each in enumerate(self.stretches))


@lru_cache
def read_corpora() -> pl.DataFrame:
    """Return all clips with the third of their speaker, and whether they have one of the packaged model's classes."""
    tables = []
    for name in CORPORA:
        table = prepare_corpus(name, DATA / name).table
        order = table.select("gender", "speaker").unique().sort("gender", "speaker")
        third = pl.Series("third", [THIRDS[place % 3] for place in range(len(order))])
        tables.append(table.join(order.with_columns(third).select("speaker", "third"), on="speaker"))
    return pl.concat(tables, how="diagonal_relaxed").sort("corpus", "id")


def train_bundle(folder: Path, held_out: str) -> Path:
    """Return the bundle of recipe default/speakers trained without the speakers of a third; made if need be."""
    bundle, run, manifest = folder / f"without-{held_out}", folder / f"run-{held_out}", folder / f"{held_out}.parquet"
    if (bundle / "serkit.json").exists():
        return bundle
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(read_corpora().filter(pl.col("third") != held_out).drop("third")).write(manifest)
    serkit = [sys.executable, "-m", "serkit.cli"]
    for command in (
        [*serkit, "train", "default/speakers", f"data.manifest={manifest}", "-o", str(run)],
        [*serkit, "export", str(run), "-o", str(bundle), "--int8"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
    return bundle


def find_active(waveform: np.ndarray) -> tuple[int, int]:
    """Return the samples from the first to the last 20 ms frame within 35 dB of the loudest one."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    powers = (frames.astype(np.float64) ** 2).mean(axis=1)
    active = np.flatnonzero(powers > powers.max() * 10 ** (-ACTIVE / 10))
    return int(active[0]) * FRAME, (int(active[-1]) + 1) * FRAME


def active_level(waveform: np.ndarray) -> float:
    """Return the root mean square over the 20 ms frames within 30 dB of the loudest one."""
    powers = (waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64) ** 2).mean(axis=1)
    return float(np.sqrt(powers[powers > powers.max() * 1e-3].mean()))


def cut_clip(path: str, start: float | None, end: float | None) -> tuple[np.ndarray, int, int]:
    """Return a clip's active part with its margins, faded, and where in it that part begins and ends."""
    waveform = read_audio(path, start, end)
    first, last = find_active(waveform)
    begin, stop = max(0, first - MARGIN), min(len(waveform), last + MARGIN)
    piece = waveform[begin:stop].astype(np.float64)
    for fade in (slice(None, first - begin), slice(len(piece), last - begin - len(piece) - 1, -1)):
        piece[fade] *= np.linspace(0, 1, len(piece[fade]), endpoint=False)
    return piece, first - begin, last - begin


def make_noise(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``size`` samples of noise with a root mean square of 1."""
    slope = {"white": 0.0, "pink": 1.0, "room": 1.5}[kind]
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLING_RATE)
    spectrum /= np.maximum(frequency, 20) ** (slope / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, size)
    noise /= noise.std()
    if kind == "room":
        time = np.arange(size) / SAMPLING_RATE
        hum = sum(np.sin(2 * np.pi * (50 * k * time + rng.random())) / k for k in range(1, 6))
        knots = rng.uniform(-3, 3, int(time[-1]) + 2)
        noise = (noise + 0.3 * hum) * 10 ** (np.interp(time, np.arange(len(knots)), knots) / 20)
    return noise / noise.std()


def choose_clips(third: str, number: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return clips in random order: of one corpus, by turns, and of 2 to 4 speakers, or every fourth time of one."""
    table = read_corpora().filter(
        pl.col("third") == third, pl.col("corpus") == CORPORA[number % 3], pl.col("emotion") != "bored"
    )
    known = sorted(table["speaker"].unique())
    count = 1 if number // 3 % 4 == 3 else int(rng.integers(2, min(4, len(known)) + 1))
    chosen = rng.choice(known, count, replace=False).tolist()
    table = table.filter(pl.col("speaker").is_in(chosen))
    return table[rng.permutation(len(table)).tolist()]


def compose(
    third: str,
    number: int,
    pauses: Sequence[float] = (0.3, 3.0),
    seconds: Sequence[float] = (60.0, 120.0),
    clips: pl.DataFrame | None = None,
) -> Composition:
    """Return composition ``number`` of a third; the same every time."""
    rng = np.random.default_rng([THIRDS.index(third), number])
    clips = choose_clips(third, number, rng) if clips is None else clips
    target, levels = rng.uniform(*seconds) * SAMPLING_RATE, {}
    pieces, stretches = [], []
    end = int(rng.uniform(*pauses) * SAMPLING_RATE)
    for row in clips.iter_rows(named=True):
        piece, first, last = cut_clip(row["audio"], row["start"], row["end"])
        level = levels.setdefault(row["speaker"], 10 ** (rng.uniform(-32, -18) / 20) / active_level(piece))
        pieces.append((end - first, piece * level * 10 ** (rng.uniform(-3, 3) / 20)))
        emotion = "neutral" if row["emotion"] == "calm" else row["emotion"]
        stretches.append(Stretch(end / SAMPLING_RATE, (end + last - first) / SAMPLING_RATE, emotion))
        end += last - first + int(rng.uniform(*pauses) * SAMPLING_RATE)
        if end >= target:
            break
    waveform = np.zeros(end)
    for start, piece in pieces:  # where a pause is shorter than two margins these overlap
        begin = max(start, 0)
        stop = min(start + len(piece), end)
        waveform[begin:stop] += piece[begin - start : stop - start]
    noise, snr = NOISES[int(rng.integers(len(NOISES)))], None
    if noise != "silence":
        snr = float(rng.uniform(10, 30))
        level = float(np.median([active_level(piece) for _, piece in pieces]))
        waveform += make_noise(noise, end, rng) * level * 10 ** (-snr / 20)
    waveform *= min(1.0, 0.99 / np.abs(waveform).max())
    name = f"{third}-{number:03d}"
    corpus, speakers = clips["corpus"][0], tuple(sorted(levels))
    return Composition(name, corpus, waveform.astype(np.float32), tuple(stretches), speakers, noise, snr)
