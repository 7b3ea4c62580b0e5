"""How right is a timeline, and which windows make it right? Judged on compositions of speakers no model has heard.

    python benchmarks/timeline.py tune [--count 36] [--pauses 0.3 3] [--folder PATH] [--only NAME...]
    python benchmarks/timeline.py test [--count 60] [--pauses 0.3 3] [--folder PATH] [--window W --hop H]

``compositions.py`` tells what a composition is and how bundles come about that know none of its speakers (they stay in
``--folder``). ``tune`` compares windows, smoothing and speech detection on the one third of the speakers; ``test``
judges what ``Predictor.timeline`` says, with its defaults unless told, on the other, beside the same with the clips'
spans given as turns, windows without speech detection, all neutral, and one label for each recording.

EDER is the emotion diarization error rate (Wang et al. 2023): missed emotion, false alarms and confusion by the length
of the recordings; what is silent is neutral. ``right when both`` is the share of the time that is an emotion on both
sides where it is the same one; ``right of speech`` the share of the reference's active parts, neutral ones included,
that have their label. ``starts`` and ``ends`` are the shares of active parts of which a segment begins, or ends, within
0.1 s, and the median distance of the nearest one. ``overlap`` is how many seconds are judged for each of the recording,
``windows`` how many windows for an hour. Intervals are 95 % percentile bootstraps over compositions; those share
speakers (13 in either third), so for other speakers they are too narrow. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from compositions import Composition, compose, train_bundle

from serkit.data.audio import SAMPLING_RATE
from serkit.evaluation.diarization import judge_tracks
from serkit.evaluation.timelines import Stretch, Track
from serkit.inference.bundle import Outputs
from serkit.inference.cuts import TimelineOptions
from serkit.inference.predictor import Predictor
from serkit.inference.speech import Edge, SpeechDetector, SpeechOptions
from serkit.inference.stream import Stream

NEAR = 0.1
RESAMPLES = 2000


class Memory:
    """A bundle that remembers what it said of every window, in ``path`` from run to run, and counts questions."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.bundle, self.path = Predictor(folder).bundle, path
        self.card, self.known = self.bundle.card, {}
        self.asked = self.seconds = 0.0
        if path.exists():
            with np.load(path) as file:
                self.known = dict(zip(file["keys"].tolist(), file["values"], strict=True))

    def run(self, waveform: np.ndarray, keep: np.ndarray | None = None) -> Outputs:
        """Return the probabilities of one window."""
        key = hashlib.blake2b(np.ascontiguousarray(waveform).tobytes(), digest_size=12).hexdigest()
        if key not in self.known:
            self.known[key] = self.bundle.run(waveform, keep).probabilities
        self.asked, self.seconds = self.asked + 1, self.seconds + len(waveform) / self.card.sampling_rate
        return Outputs(self.known[key], np.zeros(0), np.zeros((0, len(self.card.classes))))

    def save(self) -> None:
        """Write what is known."""
        np.savez(self.path, keys=np.array(list(self.known)), values=np.array(list(self.known.values())))


class Replay:
    """A detector that has heard the whole recording already."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.edges, self.known = list(edges), 0

    def push(self, samples: np.ndarray) -> list[Edge]:
        """Return all edges."""
        self.known += len(samples)
        found, self.edges = self.edges, []
        return found

    def finish(self) -> list[Edge]:
        """Return nothing: all is told."""
        return []


@dataclass
class Said:
    """An utterance in samples, and what was said of its windows: ``spans (W, 2)`` and ``probabilities (W, C)``."""

    start: int
    end: int
    spans: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class System:
    """A way to make a timeline: ``window`` and ``hop`` in seconds (window 0: every utterance whole, in equal parts).

    ``turns`` gives the clips' spans. Cells of one hop are averaged over windows by ``weights`` ("triangle", "uniform"),
    their logarithms with ``logs``. ``penalty`` is what a change of label costs (natural logarithms, for every second of
    a cell's log probabilities); stretches of an utterance shorter than ``least`` seconds join the likelier neighbour.
    """

    window: float = 4.0
    hop: float = 1.0
    speech: SpeechOptions | None = field(default_factory=SpeechOptions)
    turns: bool = False
    weights: str = "triangle"
    logs: bool = False
    penalty: float = 0.0
    least: float = 0.0


class Judge:
    """Judges systems on ``compositions`` with one bundle; speech is looked for only once with the same options."""

    def __init__(self, memory: Memory, compositions: Sequence[Composition]) -> None:
        self.memory, self.compositions = memory, compositions
        self.edges: dict[tuple[str, SpeechOptions], list[Edge]] = {}

    def find_speech(self, composition: Composition, options: SpeechOptions) -> list[Edge]:
        """Return where speech begins and ends."""
        if (key := (composition.id, options)) not in self.edges:
            detector = SpeechDetector(SAMPLING_RATE, options)
            self.edges[key] = [*detector.push(composition.waveform), *detector.finish()]
        return self.edges[key]

    def hear(self, composition: Composition, system: System) -> list[Said]:
        """Return the utterances of a composition with their judged windows."""
        options = TimelineOptions(system.window or None, system.hop, speech=system.speech is not None)
        stream = Stream(self.memory, options, turns=composition.turns if system.turns else None, live=False)
        if system.speech is not None:
            stream.cutter.detector = Replay(self.find_speech(composition, system.speech))
        found, windows = [], defaultdict(list)
        for cut in [*stream.cut(composition.waveform), *stream.last_cuts()]:
            if cut.kind == "window" and system.window:
                said = stream.judge(cut)
                windows[cut.utterance] += [] if said is None else [(cut.start, cut.end, said)]
            elif cut.kind == "end":
                rows = windows.pop(cut.utterance, []) if system.window else self._hear_whole(composition, cut)
                spans = np.array([row[:2] for row in rows]).reshape(-1, 2)
                found.append(Said(cut.start, cut.end, spans, np.array([row[2] for row in rows])))
        return [each for each in found if len(each.spans)]

    def _hear_whole(self, composition: Composition, cut: Any) -> list[tuple[int, int, np.ndarray]]:
        most = self.memory.card.window_seconds * SAMPLING_RATE
        marks = np.linspace(cut.start, cut.end, int(np.ceil((cut.end - cut.start) / most)) + 1).round().astype(int)
        spans = zip(marks[:-1].tolist(), marks[1:].tolist(), strict=True)
        return [(a, b, self.memory.run(composition.waveform[a:b]).probabilities) for a, b in spans]

    def follow(self, composition: Composition, system: System) -> Track:
        """Return the timeline of a composition."""
        classes, stretches = self.memory.card.classes, []
        for said in self.hear(composition, system):
            edges, cells = smooth(said, system)
            for first, last in decode(edges, cells, system):
                label = classes[int(weigh(edges, cells, first, last).argmax())]
                stretches.append(Stretch(edges[first] / SAMPLING_RATE, edges[last] / SAMPLING_RATE, label))
        return Track(composition.id, tuple(sorted(stretches)), composition.seconds)

    def measure(self, system: System | Callable[[Composition], Track]) -> dict[str, Any]:
        """Return the figures of a system, or of anything else that makes tracks."""
        self.memory.asked = self.memory.seconds = 0
        tracks = [system(each) if callable(system) else self.follow(each, system) for each in self.compositions]
        hours = sum(each.seconds for each in self.compositions) / 3600
        cost = {"windows": round(self.memory.asked / hours), "overlap": round(self.memory.seconds / hours / 3600, 3)}
        return {**measure_tracks(self.compositions, tracks), **cost}


def smooth(said: Said, system: System) -> tuple[np.ndarray, np.ndarray]:
    """Return the borders ``(K + 1,)`` of an utterance's cells in samples, and their probabilities ``(K, C)``."""
    hop = round(system.hop * SAMPLING_RATE)
    count = max(1, int((said.end - said.start) / hop + 0.5))
    edges = np.append(said.start + hop * np.arange(count), said.end).astype(float)
    starts, ends = edges[:-1, None], edges[1:, None]
    first, last = said.spans.T.astype(float)
    shared = np.maximum(np.minimum(ends, last) - np.maximum(starts, first), 0)
    if system.weights == "triangle":
        apart = np.abs((starts + ends) - (first + last)) / 2
        shared = shared * np.maximum(1 - apart / round((system.window or 15) * SAMPLING_RATE), 1e-6)
    heard = shared.sum(axis=1) > 0
    shares = shared / np.maximum(shared.sum(axis=1, keepdims=True), 1e-12)
    shares[~heard] = 1 / len(first)
    if not system.logs:
        return edges, shares @ said.probabilities
    cells = np.exp(shares @ np.log(np.maximum(said.probabilities, 1e-12)))
    return edges, cells / cells.sum(axis=1, keepdims=True)


def weigh(edges: np.ndarray, cells: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return the mean probabilities of cells ``first`` to ``last`` by their length."""
    return np.diff(edges[first : last + 1]) @ cells[first:last]


def decode(edges: np.ndarray, cells: np.ndarray, system: System) -> list[tuple[int, int]]:
    """Return the runs of cells with one label, as (first, last) with ``last`` excluded."""
    labels = cells.argmax(axis=1)
    if system.penalty:
        scores = np.log(np.maximum(cells, 1e-12)) * (np.diff(edges) / SAMPLING_RATE)[:, None]
        best, back = scores[0], []
        for row in scores[1:]:
            jump = best.max() - system.penalty
            back.append(np.where(best >= jump, np.arange(len(best)), best.argmax()))
            best = np.maximum(best, jump) + row
        path = [int(best.argmax())]
        for step in reversed(back):
            path.append(int(step[path[-1]]))
        labels = np.array(path[::-1])
    marks = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    while system.least and len(marks) > 2:
        lengths = [edges[b] - edges[a] for a, b in pairwise(marks)]
        short = int(np.argmin(lengths))
        if lengths[short] >= system.least * SAMPLING_RATE - 1:
            break
        mean = weigh(edges, cells, marks[short], marks[short + 1])
        sides = [side for side in (short - 1, short + 1) if 0 <= side < len(lengths)]
        joined = max(sides, key=lambda side: mean[labels[marks[side]]])
        keep = labels[marks[joined]]
        labels[marks[short] : marks[short + 1]] = keep
        marks = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return list(pairwise(marks))


def count_right(reference: Track, said: Track) -> tuple[float, float]:
    """Return the seconds of the reference's stretches that have their label, and the seconds of all of them."""
    right = sum(
        max(0.0, min(one.end, other.end) - max(one.start, other.start))
        for one in reference.stretches
        for other in said.stretches
        if one.label == other.label
    )
    return right, sum(each.end - each.start for each in reference.stretches)


def distances(reference: Track, said: Track, side: str) -> np.ndarray:
    """Return how far from each reference stretch's ``side`` ("start", "end") the nearest segment's is, in seconds."""
    wanted, found = ([getattr(each, side) for each in track.stretches] for track in (reference, said))
    return np.abs(np.subtract.outer(wanted, found)).min(axis=1) if found else np.full(len(wanted), reference.seconds)


def measure_tracks(compositions: Sequence[Composition], tracks: Sequence[Track]) -> dict[str, Any]:
    """Return all figures with their intervals, as [value, low, high]."""
    pairs = list(zip([each.track for each in compositions], tracks, strict=True))
    judged = judge_tracks(pairs, collar=NEAR, resamples=RESAMPLES)
    found: dict[str, Any] = {name: spread(judged[name]) for name in ("eder", "missed", "false_alarm", "confusion")}
    parts = np.array(
        [[each[name] * each["seconds"] for name in ("missed", "confusion")] for each in judged["by_recording"]]
    )
    emotional = np.array([sum(s.end - s.start for s in c.stretches if s.label != "neutral") for c in compositions])
    both = emotional - parts[:, 0]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(pairs), (RESAMPLES, len(pairs)))
    speech = np.array([count_right(*pair) for pair in pairs])
    found["right when both"] = interval(np.stack([both - parts[:, 1], both], axis=1), draws)
    found["right of speech"] = interval(speech, draws)
    for side in ("start", "end"):
        far = [distances(*pair, side) for pair in pairs]
        near = np.array([[(row <= NEAR + 1e-9).sum(), len(row)] for row in far], float)
        medians = [float(np.median(np.concatenate([far[place] for place in draw]))) for draw in draws[:500]]
        median = [float(np.median(np.concatenate(far))), *np.percentile(medians, [2.5, 97.5]).tolist()]
        found |= {f"{side}s": interval(near, draws), f"{side} median": [round(value, 3) for value in median]}
    found["onset"], found["offset"] = (spread(judged["boundaries"][name]) for name in ("onset", "offset"))
    found["each"] = [each["eder"] * each["seconds"] for each in judged["by_recording"]]
    found["segments"] = sum(len(track.stretches) for track in tracks)
    groups: dict[str, list[Any]] = defaultdict(list)
    for pair, each in zip(pairs, compositions, strict=True):
        for name in (each.corpus, each.noise, "one speaker" if len(each.speakers) == 1 else "several speakers"):
            groups[name].append(pair)
    found["groups"] = {
        name: [*spread(judge_tracks(groups[name], resamples=RESAMPLES)["eder"]), len(groups[name])]
        for name in sorted(groups)
    }
    return found


def spread(figure: dict[str, Any]) -> list[float]:
    """Return a figure of serkit's reports as [value, low, high]."""
    return [None if figure[name] is None else round(figure[name], 4) for name in ("value", "low", "high")]


def interval(pairs: np.ndarray, draws: np.ndarray) -> list[float | None]:
    """Return [value, low, high] of a share whose parts and wholes are ``pairs (n, 2)``."""
    whole = pairs[:, 1].sum()
    if whole < 1e-6:
        return [None, None, None]
    sums = pairs[draws].sum(axis=1)
    shares = sums[:, 0] / np.maximum(sums[:, 1], 1e-6)
    return [round(float(each), 4) for each in (pairs[:, 0].sum() / whole, *np.percentile(shares, [2.5, 97.5]))]


def list_systems() -> dict[str, System]:
    """Return what ``tune`` compares, by name."""
    found = {}
    for window in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        found |= {f"window {window:g} hop {hop:g}": System(window, hop) for hop in (0.5, 1.0, 2.0) if hop <= window}
    found["whole utterances"] = System(0.0)
    for silence in (0.16, 0.2, 0.5, 0.8):
        found[f"silence {silence:g}"] = System(2.0, 1.0, SpeechOptions(min_silence=silence))
    found["silence 0.8, whole"] = System(0.0, speech=SpeechOptions(min_silence=0.8))
    found["edges of the network alone"] = System(2.0, 1.0, SpeechOptions(level=None))
    for base in ({"window": 2.0, "hop": 0.5}, {"window": 2.0, "hop": 1.0}, {"window": 4.0, "hop": 1.0}):
        called = f"window {base['window']:g} hop {base['hop']:g}"
        found[f"{called} uniform"] = System(**base, weights="uniform")
        found[f"{called} logs"] = System(**base, logs=True)
        found |= {f"{called} penalty {cost:g}": System(**base, penalty=cost) for cost in (0.25, 0.5, 1.0, 2.0)}
        found |= {f"{called} least {least:g}": System(**base, least=least) for least in (1.0, 2.0)}
    found["turns, 2 s"] = System(2.0, 1.0, None, turns=True)
    found["turns, 4 s"] = System(speech=None, turns=True)
    found["turns, whole"] = System(0.0, speech=None, turns=True)
    found["no speech detection, 2 s"] = System(2.0, 2.0, speech=None)
    return found


def list_baselines(predictor: Predictor) -> dict[str, Callable[[Composition], Track]]:
    """Return what needs no timeline: everything is neutral, and one label for the whole recording."""

    def one_label(composition: Composition) -> Track:
        label = predictor.predict(composition.waveform).label
        return Track(composition.id, (Stretch(0.0, composition.seconds, label),), composition.seconds)

    return {"all neutral": lambda each: Track(each.id, (), each.seconds), "one label": one_label}


def list_tested(
    predictor: Predictor, window: float | None, hop: float | None
) -> dict[str, Callable[[Composition], Track]]:
    """Return what ``test`` judges: what ``Predictor.timeline`` says, asked in three ways; None: its own default."""

    def ask(composition: Composition, turns: bool = False, **options: Any) -> Track:
        given = composition.turns if turns else None
        line = predictor.timeline(
            composition.waveform, options=TimelineOptions(window, hop, **options), turns=given, workers=1
        )
        stretches = tuple(Stretch(each.start, each.end, each.label) for each in line.segments)
        return Track(composition.id, stretches, composition.seconds)

    return {
        "timeline": ask,
        "clips' spans as turns": lambda each: ask(each, True, speech=False),
        "no speech detection": lambda each: ask(each, speech=False),
    }


COLUMNS = ("eder", "missed", "false_alarm", "confusion", "right when both", "right of speech", "starts", "start median")
COLUMNS += ("ends", "end median", "overlap", "windows", "segments")


def show(name: str, row: dict[str, Any], whole: bool) -> str:
    """Return a line of the table, with intervals if ``whole``."""

    def tell(value: Any) -> str:
        if not isinstance(value, list) or value[0] is None:
            return "-" if isinstance(value, list) else f"{value}"
        return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})" if whole else f"{value[0]:.3f}"

    return f"| {name} | " + " | ".join(tell(row[column]) for column in COLUMNS) + " |"


def main() -> None:
    """Compose, judge, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("third", choices=["tune", "test"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--pauses", type=float, nargs=2, default=[0.3, 3.0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "serkit-timeline")
    parser.add_argument("--window", type=float)
    parser.add_argument("--hop", type=float)
    parser.add_argument("--only", nargs="*", default=[], help="names of systems, or how they begin")
    options = parser.parse_args()
    count = options.count or {"tune": 36, "test": 60}[options.third]
    bundle = train_bundle(options.folder, options.third)
    compositions = [compose(options.third, number, options.pauses) for number in range(count)]
    memory, predictor = Memory(bundle, options.folder / f"said-{options.third}.npz"), Predictor(bundle)
    judge = Judge(memory, compositions)
    predictor.bundle = memory
    systems: dict[str, Any] = list_baselines(predictor)
    systems |= list_systems() if options.third == "tune" else list_tested(predictor, options.window, options.hop)
    hours = sum(each.seconds for each in compositions) / 3600
    emotional = sum(s.end - s.start for each in compositions for s in each.stretches if s.label != "neutral")
    print(f"{count} compositions, {hours:.3f} hours, {sum(len(each.stretches) for each in compositions)} clips,")
    print(f"{emotional / hours / 36:.1f} % of the time emotional\n")
    print("| system | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    rows = {}
    for name, system in systems.items():
        if options.only and not any(name.startswith(part) for part in options.only):
            continue
        rows[name] = judge.measure(system)
        print(show(name, rows[name], options.third == "test"), flush=True)
        memory.save()
    if options.third == "test":
        print("\n| EDER of the timeline | value | 95 % interval | compositions |\n" + "|---" * 4 + "|")
        for name, (value, low, high, n) in rows["timeline"]["groups"].items():
            print(f"| {name} | {value} | {low} to {high} | {n} |")
    print(json.dumps({"third": options.third, "count": count, "pauses": options.pauses, "rows": rows}))


if __name__ == "__main__":
    main()
