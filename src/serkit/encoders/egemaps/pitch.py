"""Pitch: candidates by subharmonic summation (Hermes 1988), and a path through them by dynamic programming.

The spectrum of each 60 ms frame is cleaned of what lies between peaks, moved to a logarithmic frequency axis and summed
with copies of itself shifted by the harmonics. The six highest peaks per frame are candidates, each with a voicing
probability; the cheapest path through candidates and the unvoiced state wins (Talkin 1995 uses the same idea).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from serkit.encoders.egemaps.frames import LONG_HERTZ, Frames, in_blocks

CANDIDATES = 6
LOWEST, HIGHEST = 55.0, 1000.0
SCALE_START = 25.0
"""Hz; the logarithmic axis has as many points as the spectrum, from here to half the sampling rate."""
HARMONICS, COMPRESSION = 15, 0.85
VOICED = 0.7
"""Voicing probability above which a candidate counts as voiced."""
QUIET = 1e-3
"""Frames whose windowed root mean square is not above this are unvoiced."""

LOCAL, THRESHOLD = 2.0, 4.0
JUMP, CHANGE, SWITCH, STAY_UNVOICED, EMPTY = 10.0, 10.0, 10.0, 1.0, 999.0
"""Costs as the reference charges them: those of jumps and of changed jumps are equal there, whatever is configured."""
MEMORY = 40
"""Frames after which an undecided path is decided by what is cheapest at that time."""

POINTS = len(LONG_HERTZ)
BLOCK, NEGLIGIBLE = 64, 1e-8
OCTAVES = np.log2(LONG_HERTZ[-1] / SCALE_START)
PER_OCTAVE = POINTS / OCTAVES
FIRST, STEP = np.log2(SCALE_START), OCTAVES / (POINTS - 1)


@cache
def log_scale() -> np.ndarray:
    """Return ``(513, 513)``: a magnitude spectrum times this is the smoothed one on the logarithmic axis.

    Smoothing weighs neighbours 1:2:1; between the bins runs a natural cubic spline over log2 of the frequency.
    """
    smoothing = (2 * np.eye(POINTS) + np.eye(POINTS, k=1) + np.eye(POINTS, k=-1)) / 4
    smoothing[-1] = np.eye(POINTS)[-1]
    knots = np.log2(np.maximum(LONG_HERTZ, 1))
    knots[0] = 2 * knots[1] - knots[2]
    width = np.diff(knots)
    bend, right = np.eye(POINTS), np.zeros((POINTS, POINTS))  # second derivatives: zero at both ends
    for row in range(1, POINTS - 1):
        bend[row, row - 1 : row + 2] = width[row - 1] / 6, (width[row - 1] + width[row]) / 3, width[row] / 6
        right[row, row - 1 : row + 2] = 1 / width[row - 1], -1 / width[row - 1] - 1 / width[row], 1 / width[row]
    second: np.ndarray = np.linalg.solve(bend, right)
    target = FIRST + STEP * np.arange(POINTS)
    left = np.clip(np.searchsorted(knots, target, side="right") - 1, 0, POINTS - 2)
    after = ((target - knots[left]) / width[left]).reshape(-1, 1)
    before, factor = 1 - after, (width[left] ** 2 / 6).reshape(-1, 1)
    straight = before * np.eye(POINTS)[left] + after * np.eye(POINTS)[left + 1]
    curved = (before**3 - before) * second[left] + (after**3 - after) * second[left + 1]
    return ((straight + factor * curved) @ smoothing).T


@cache
def log_scale_blocks() -> list[tuple[slice, slice, np.ndarray]]:
    """Return :func:`log_scale` as blocks of target points (bins, points, weights), without what a spline forgets.

    A knot's influence falls to about a quarter from one knot to the next, so a fifth of the products is enough.
    """
    blocks = []
    for start in range(0, POINTS, BLOCK):
        points = slice(start, min(start + BLOCK, POINTS))
        weights = log_scale()[:, points]
        known = np.flatnonzero(np.abs(weights).max(1) > NEGLIGIBLE)
        bins = slice(int(known[0]), int(known[-1]) + 1)
        blocks.append((bins, points, np.ascontiguousarray(weights[bins], np.float32)))
    return blocks


@cache
def auditory_weights() -> np.ndarray:
    """Return the ear's sensitivity ``(513,)`` along the logarithmic axis, falling below about 65 Hz."""
    position = np.arange(1, POINTS + 1) - (PER_OCTAVE * np.log2(65 / 50) - 1)
    return (0.5 + np.arctan(3 * position / PER_OCTAVE) / np.pi).astype(np.float32)


def keep_peaks(magnitude: np.ndarray) -> np.ndarray:
    """Zero the bins of ``(T, F)`` that lie between two peaks and three or more bins away from any."""
    peak: np.ndarray = np.zeros(magnitude.shape, bool)
    rising = magnitude[:, 1:] > magnitude[:, :-1]
    peak[:, 0] = magnitude[:, 0] > magnitude[:, 1]
    peak[:, 1:-1] = rising[:, :-1] & ~rising[:, 1:]
    peak[:, -1] = rising[:, -1]
    near = peak.copy()
    for shift in (1, 2):
        near[:, shift:] |= peak[:, :-shift]
        near[:, :-shift] |= peak[:, shift:]
    index = np.arange(peak.shape[1])
    first, last = peak.argmax(1), peak.shape[1] - 1 - peak[:, ::-1].argmax(1)
    keep = near | (index < first[:, None]) | (index > last[:, None])
    single = peak.sum(1) == 1  # the reference then keeps the first three bins, wherever the peak is
    keep[single] = index < 3
    keep[~peak.any(1)] = True
    return magnitude * keep


def subharmonic_sums(magnitude: np.ndarray) -> np.ndarray:
    """Return ``(T, 513)``: how well the harmonics of each frequency on the log axis fit spectra ``(T, 513)``."""
    cleaned = keep_peaks(magnitude)
    scaled = np.empty_like(cleaned)
    for bins, points, weights in log_scale_blocks():
        scaled[:, points] = cleaned[:, bins] @ weights
    scaled = np.maximum(scaled, 0) * auditory_weights()
    total = scaled / HARMONICS
    for harmonic in range(2, HARMONICS + 1):
        shift = int(PER_OCTAVE * np.log2(harmonic))
        total[:, : POINTS - shift] += np.float32(COMPRESSION ** (harmonic - 1) / HARMONICS) * scaled[:, shift:]
    return total


def pitch_candidates(sums: np.ndarray) -> np.ndarray:
    """Return frequencies (Hz) and voicing probabilities ``(T, 2, 6)`` of the highest peaks, best first; 0 if none."""
    peak = (sums[:, 1:-1] > sums[:, :-2]) & (sums[:, 1:-1] > sums[:, 2:])
    height = np.where(peak, sums[:, 1:-1], 0.0)
    best = np.argpartition(-height, CANDIDATES, axis=1)[:, :CANDIDATES]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(height, best, 1), axis=1, kind="stable"), 1)
    exists = np.take_along_axis(height, best, 1) > 0
    before, here, after = (np.take_along_axis(sums, best + shift, 1).astype(float) for shift in range(3))
    slope, bend = (after - before) / 2, (before + after) / 2 - here
    shift = np.divide(-slope, 2 * bend, out=np.zeros_like(slope), where=exists)
    score = np.where(exists, here + slope * shift / 2, 0.0)
    frequency = np.where(exists, 2 ** (FIRST + STEP * (best + 1 + shift)), 0.0)
    mean = sums.mean(1, keepdims=True, dtype=float)
    voicing = np.divide(score - mean, score, out=np.zeros_like(score), where=score > mean)
    inside = exists & (frequency >= LOWEST) & (frequency <= HIGHEST)
    order = np.argsort(~inside, axis=1, kind="stable")  # those out of range leave, the others move up
    frequency, voicing, score = (
        np.take_along_axis(np.where(inside, value, 0.0), order, 1) for value in (frequency, voicing, score)
    )
    row, top = np.arange(len(score)), score.argmax(1)
    for value in (frequency, voicing):
        value[row, top], value[:, 0] = value[:, 0].copy(), value[row, top].copy()
    return np.stack([frequency, voicing], 1)


def local_costs(frequency: np.ndarray, voicing: np.ndarray) -> np.ndarray:
    """Return ``(T, 7)``: what it costs to be on each candidate, and last on none of them."""
    weight = np.select(
        [frequency <= 0, frequency < 100, frequency < 350, frequency < 600],
        [2.0, 1 - frequency / 100, 0.0, (frequency - 350) / 250],
        1.2,
    )
    cost = LOCAL * (THRESHOLD * (voicing < VOICED) - np.log(np.clip(voicing, 0.01, 1))) + weight
    unvoiced = LOCAL * THRESHOLD * (voicing >= VOICED).any(1, keepdims=True)
    return np.concatenate([cost, unvoiced], 1)


def transition_costs(frequency: np.ndarray) -> np.ndarray:
    """Return ``(T - 1, 7, 7)``: cost of reaching each state (second axis) from each state of the frame before (third).

    A jump is charged by its size in octaves and by how much it differs from the jump that was looked at just before,
    which in the reference is that from the next better candidate of the frame before (none: no jump).
    """
    steps = max(len(frequency) - 1, 0)
    costs = np.full((steps, CANDIDATES + 1, CANDIDATES + 1), SWITCH)
    costs[:, -1, -1] = STAY_UNVOICED
    known = frequency > 0
    logarithm = np.log(np.where(known, frequency, 1.0))
    jump = logarithm[1:, :, None] - logarithm[:-1, None, :]
    previous = np.concatenate([np.zeros((steps, CANDIDATES, 1)), jump[:, :, :-1]], 2)
    if steps:
        previous[0, 0, 0] = 1.0  # where the reference starts
    both = known[1:, :, None] & known[:-1, None, :]
    costs[:, :-1, :-1] = np.where(both, JUMP * np.abs(jump) + CHANGE * np.abs(jump - previous), EMPTY)
    return costs


def best_path(local: np.ndarray, transition: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the state ``(T,)`` of each frame on the cheapest path, decided at most 40 frames late.

    Also returned is how many of them are decided before the recording's end is known.
    """
    count, states = local.shape
    row = np.arange(states)
    cost = local[0]
    costs, back = np.empty_like(local), np.empty((count, states), np.intp)
    costs[0] = cost
    for frame in range(1, count):
        total = transition[frame - 1] + cost
        back[frame] = total.argmin(1)
        cost = total[row, back[frame]] + local[frame]
        costs[frame] = cost
    path = np.empty(count, np.intp)
    path[-1] = cost.argmin()
    for frame in range(count - 1, 0, -1):
        path[frame - 1] = back[frame, path[frame]]
    late = _first_late_frame(back)
    for frame in range(late, count - MEMORY + 1):
        state = costs[frame + MEMORY - 1].argmin()
        for later in range(frame + MEMORY - 1, frame, -1):
            state = back[later, state]
        path[frame] = state
    if late < count - MEMORY + 1:
        return path, count - MEMORY + 1
    ancestors, decided = set(range(states)), count
    while decided and len(ancestors) > 1:
        decided -= 1
        ancestors = set(back[decided, list(ancestors)].tolist()) if decided else ancestors
    return path, decided


def _first_late_frame(back: np.ndarray) -> int:
    """Return the first frame that paths 38 frames later still reach by different states; all are forced from there."""
    count, states = back.shape
    late = np.arange(count - MEMORY + 1)
    ancestor = np.tile(np.arange(states), (len(late), 1))
    for step in range(MEMORY - 2, 0, -1):
        ancestor = back[late + step][np.arange(len(late))[:, None], ancestor]
        together = (ancestor == ancestor[:, :1]).all(1)
        late, ancestor = late[~together], ancestor[~together]
        if not len(late):
            return count
    return int(late[0])


def pitch(frames: Frames) -> tuple[np.ndarray, int]:
    """Return the fundamental frequency ``(T,)`` in Hz of each long frame, 0 where it is unvoiced or quiet.

    Also returned is how many frames are decided before the recording's end is known.
    """
    candidates = in_blocks(lambda rows: pitch_candidates(subharmonic_sums(rows)), frames.long_magnitude)
    frequency, voicing = candidates[:, 0], candidates[:, 1]
    path, decided = best_path(local_costs(frequency, voicing), transition_costs(frequency))
    chosen = np.concatenate([frequency, np.zeros((len(frequency), 1))], 1)[np.arange(len(path)), path]
    return np.where(frames.rms > QUIET, chosen, 0.0), decided
