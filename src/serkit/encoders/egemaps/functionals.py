"""The 88 functionals of eGeMAPSv02: statistics of the contours over a whole utterance."""

from __future__ import annotations

import numpy as np

from serkit.encoders.egemaps.contours import PITCH, SPECTRAL, VOICE, trace
from serkit.encoders.egemaps.frames import smooth, smooth_nonzero

SECONDS = 0.01
"""From one frame to the next."""
THRESHOLD = 0.1
"""Share of a contour's range that a rise or fall needs to count."""
SHORTEST_SEGMENT, SHORTEST_PAUSE = 3, 2
MOST_SEGMENTS = 1000
"""The set's own limit: later segments of a long recording do not count."""
POWER_FLOOR = 1e-12

SHAPE = (
    "amean", "stddevNorm", "percentile20.0", "percentile50.0", "percentile80.0", "pctlrange0-2",
    "meanRisingSlope", "stddevRisingSlope", "meanFallingSlope", "stddevFallingSlope",
)  # fmt: skip
BALANCE = SPECTRAL[:4]


def _voiced_names(suffix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Put ``suffix`` behind the measure and before its band: slope0-500 becomes slopeV0-500."""
    return tuple(name.replace("slope", f"slope{suffix}") if "slope" in name else name + suffix for name in names)


FUNCTIONAL_NAMES: tuple[str, ...] = (
    *(f"{PITCH}_sma3nz_{what}" for what in SHAPE),
    *(f"loudness_sma3_{what}" for what in SHAPE),
    *(f"{name}_sma3_{what}" for name in SPECTRAL[4:] for what in SHAPE[:2]),
    *(f"{name}_sma3nz_{what}" for name in VOICE + _voiced_names("V", SPECTRAL) for what in SHAPE[:2]),
    *(f"{name}_sma3nz_amean" for name in _voiced_names("UV", SPECTRAL[:5])),
    "loudnessPeaksPerSec", "VoicedSegmentsPerSec", "MeanVoicedSegmentLengthSec", "StddevVoicedSegmentLengthSec",
    "MeanUnvoicedSegmentLength", "StddevUnvoicedSegmentLength", "equivalentSoundLevel_dBp",
)  # fmt: skip
"""Names of the functionals, in openSMILE's order."""


def functionals(waveform: np.ndarray, sampling_rate: int = 16_000) -> np.ndarray:
    """Return eGeMAPSv02's 88 functionals of ``waveform``, float32 ``(88,)``; columns are :data:`FUNCTIONAL_NAMES`.

    Takes what :func:`~serkit.encoders.egemaps.low_level_descriptors` takes, raises what it raises, and like it brings
    any rate to 16 kHz first. ``stddevNorm`` is the standard deviation over the mean; slopes are per second.

    Eyben et al. 2016, https://doi.org/10.1109/TAFFC.2015.2457417

    >>> functionals(np.sin(np.arange(16_000) * 0.06)).shape
    (88,)
    """
    contours = trace(waveform, sampling_rate, only_voiced_formants=True)
    voiced = contours.voiced
    spectral = contours.spectral[: len(voiced)]
    # The reference computes functionals when the recording ends, from what its smoothers have put out by then: frames
    # whose pitch is decided, or, where none is, one frame of the pitch and all of what waits for the voice.
    decided = contours.decided
    pitch, loudness = smooth_nonzero(contours.pitch[: decided + 1]), smooth(contours.loudness)[:-1, 0]
    unvoiced = smooth_nonzero((spectral[:, :5] * ~voiced)[: decided + 1])[: max(decided, 1)]
    pitch = pitch[: max(decided, 1), 0]
    voice = np.concatenate([smooth_nonzero(contours.voice, decided), smooth_nonzero(spectral * voiced)], 1)
    voice = voice[: decided or len(voiced)]
    values = [
        *describe_shape(pitch[pitch != 0]),
        *describe_shape(loudness),
        *_moments(smooth(contours.spectral[:, 4:])[:-1]).ravel(),
        *_moments(voice, voice != 0).ravel(),
        *_moments(unvoiced, unvoiced != 0)[:, 0],
        sum(high for high, _, _ in find_extremes(loudness)) / (len(loudness) * SECONDS),
        *_describe_segments(pitch != 0),
        *_describe_segments(pitch == 0)[1:],
        10 * np.log10(max(contours.power, POWER_FLOOR)),
    ]
    return np.array(values, np.float32)


def _moments(contours: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Return mean and standard deviation over the mean ``(D, 2)`` of the ``valid`` values of ``(T, D)``; 0 if none."""
    valid = np.ones(contours.shape, bool) if valid is None else valid
    count = np.maximum(valid.sum(0), 1)
    mean = (contours * valid).sum(0) / count
    deviation = np.sqrt(((contours - mean) ** 2 * valid).sum(0) / count)
    return np.stack([mean, deviation / np.where(mean == 0, 1, mean)], 1)


def describe_shape(contour: np.ndarray) -> list[float]:
    """Return mean, normalised deviation, percentiles 20, 50, 80, their range and the slopes of ``(T,)``: 10 values."""
    if not len(contour):
        return [0.0] * len(SHAPE)
    low, middle, high = np.percentile(contour, [20, 50, 80])
    return [*_moments(contour[:, None])[0], low, middle, high, high - low, *_slopes(contour)]


def find_extremes(contour: np.ndarray) -> list[tuple[bool, int, float]]:
    """Return the alternating maxima (True) and minima of ``(T,)`` that stand out, with position and value.

    A rise or fall stands out when it is at least a tenth of the contour's range.
    """
    inner, before, after = contour[2:-2], contour[1:-3], contour[3:-1]
    high, low = (inner > before) & (inner > after), (inner < before) & (inner < after)
    found = [(bool(high[i]), int(i) + 2, float(inner[i])) for i in np.flatnonzero(high | low)]
    least, start = THRESHOLD * float(contour.max() - contour.min()), float(contour[0])
    return _alternate(_drop_shallow_minima(_drop_small_maxima(found, least, start), least, start))


Extremes = list[tuple[bool, int, float]]


def _drop_small_maxima(found: Extremes, least: float, start: float) -> Extremes:
    """Drop maxima that hardly rise over the last deep minimum, or over the last maximum without one between."""
    kept: dict[int, tuple[bool, int, float]] = {}
    last = low = high = start
    highest: int | None = None
    fell = False
    for extreme in found:
        is_high, position, value = extreme
        small = abs(value - last) < least
        last = value
        kept[position] = extreme
        if not is_high:
            if not small:
                fell, low = True, value
            continue
        if small and value - low < least:
            del kept[position]
            continue
        if small and value > 1.05 * high and highest is not None:
            del kept[highest]
        if small and value <= 1.05 * high and not fell:
            del kept[position]
        else:
            high, highest = value, position
        fell = False
    return list(kept.values())


def _drop_shallow_minima(found: Extremes, least: float, start: float) -> Extremes:
    """Drop minima that lie hardly below the maximum before them."""
    kept, high = [], start
    for extreme in found:
        if extreme[0]:
            high = extreme[2]
        elif high - extreme[2] < least:
            continue
        kept.append(extreme)
    return kept


def _alternate(found: Extremes) -> Extremes:
    """Keep the outermost of neighbours of the same kind, the first of equal ones."""
    kept: Extremes = []
    for extreme in found:
        if not kept or kept[-1][0] != extreme[0]:
            kept.append(extreme)
        elif extreme[2] > kept[-1][2] if extreme[0] else extreme[2] < kept[-1][2]:
            kept[-1] = extreme
    return kept


def _slopes(contour: np.ndarray) -> list[float]:
    """Return mean and deviation of the rising, then of the falling slopes between the extremes of ``(T,)``, per second.

    As in the reference, the last slope leads to the last value with its own sign, counts in the mean and only as a
    number in the deviation; a contour without extremes has one slope, per frame.
    """
    extremes, count = find_extremes(contour), len(contour)
    slopes: dict[bool, list[float]] = {True: [], False: []}
    place = {True: (0, float(contour[0])), False: (0, float(contour[0]))}
    last = None
    for is_high, position, value in extremes:
        place[is_high] = position, value
        run = position - place[not is_high][0]
        if run > 0:
            slopes[is_high].append((place[True][1] - place[False][1]) / (run * SECONDS))
            last = is_high
    ends: dict[bool, list[float]] = {True: [], False: []}
    if last is None:
        slope = float(contour[-1] - contour[0]) / count
        ends[slope > 0] = [slope] if slope else []
    elif count - 1 > place[last][0]:
        position, value = place[last]
        ends[not last] = [(float(contour[-1]) - value) / ((count - 1 - position) * SECONDS)]
    described = []
    for rising in (True, False):
        known = np.array(slopes[rising])
        number = max(len(known) + len(ends[rising]), 1)
        mean = (known.sum() + sum(ends[rising])) / number
        described += [mean, np.sqrt(((known - mean) ** 2).sum() / number)]
    return described


def segment_lengths(inside: np.ndarray) -> list[int]:
    """Return the lengths of the segments of ``inside (T,)``: three frames start one, two others end it.

    As in the reference, a segment is one frame shorter than it has frames.
    """
    lengths = []
    start = entered = left = 0
    state = "outside"
    for frame, flag in enumerate(inside.tolist()):
        if flag:
            left = 0
            if state == "outside":
                state, start, entered = "entering", frame, 1
            elif state == "entering":
                entered += 1
                if entered >= SHORTEST_SEGMENT:
                    state = "inside"
        elif state != "outside":
            left += 1
            if left >= SHORTEST_PAUSE:
                if state == "inside":
                    lengths.append(frame - left - start)
                state, left = "outside", 0
    if state == "inside":
        lengths.append(len(inside) - left - 1 - start)
    return lengths


def _describe_segments(inside: np.ndarray) -> tuple[float, float, float]:
    """Return segments per second, and mean and standard deviation of their lengths in seconds."""
    lengths = segment_lengths(inside)[:MOST_SEGMENTS]
    seconds = np.array(lengths or [0]) * SECONDS
    return len(lengths) / (len(inside) * SECONDS), float(seconds.mean()), float(seconds.std())
