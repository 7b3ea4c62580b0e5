"""A real Fourier transform of 512 points in single precision, rounded exactly as the reference's is.

The predictor behind the formants is so ill-conditioned that the last bit of the spectrum decides on it, and in frames
of almost digital silence rounding is all there is above 2 kHz: so the order of operations matters. openSMILE uses
Takuya Ooura's split-radix transform (http://www.kurims.kyoto-u.ac.jp/~ooura/fft.html). This is that algorithm,
decimation in frequency with conjugate pairs, for many frames at once: arrays are complex, ``(blocks, points, T)``, the
last axis being frames. Products of complex numbers are written out: NumPy's own may be fused and round differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

SIZE = 512
"""Real samples: the even ones are the real, the odd ones the imaginary parts of 256 complex points."""
STEPS = 16
"""Steps of the table of weights within an eighth of a turn."""
PLAIN = np.array([True, False, True, True] * 4) & (np.arange(16) != 7)
"""Which of the 16 blocks of the last stage are not turned by half a step."""

Weight = tuple[np.ndarray, np.ndarray]
"""Cosine and sine."""


@dataclass(frozen=True)
class Weights:
    """Cosines and sines: ``one (17, 2)`` of each step, ``three (17, 2)`` of minus three times it.

    ``finer`` are the weights of the first stage, for the angle and for three times it ``(64, 2)``, half of them
    interpolated; ``middle`` those of the second; ``odd`` those of its odd blocks; ``unpack (128,)`` split the spectrum
    of the samples from that of the complex points.
    """

    one: np.ndarray
    three: np.ndarray
    finer: tuple[Weight, Weight]
    middle: tuple[Weight, Weight]
    odd: tuple[Weight, Weight, Weight, Weight]
    unpack: np.ndarray


@cache
def weights() -> Weights:
    """Compute the weights as the reference does: angles in single, cosines in double precision, then rounded."""
    eighth_turn, count = np.float32(np.arctan(1.0)), np.arange(64, dtype=np.float32)
    step = eighth_turn / np.float32(64)
    angle, thrice = count[4::4] * step, count[4::4] * (np.float32(3) * step)
    half = np.float32(np.cos(float(eighth_turn)))
    one, three = (np.full((STEPS + 1, 2), (1, 0), np.float32) for _ in range(2))
    one[1:-1] = np.stack([np.cos(angle, dtype=float), np.sin(angle, dtype=float)], 1)
    three[1:-1] = np.stack([np.cos(thrice, dtype=float), -np.sin(thrice, dtype=float)], 1)
    one[-1], three[-1] = half, -half
    unpack = np.full(128, np.float32(0.5) * half)
    unpack[1:64] = 0.5 * np.cos(count[1:] * step, dtype=float)
    unpack[:64:-1] = 0.5 * np.sin(count[1:] * step, dtype=float)
    finer = []
    for table, factor in ((one, 2), (three, 6)):
        between = np.float32(0.5 / np.cos(float(np.float32(factor) * step))) * (table[:-1] + table[1:])
        finer.append(_mirror(np.stack([table[:-1], between], 1).reshape(-1, 2)))
    middle = _mirror(one[:STEPS:2]), _mirror(three[:STEPS:2])
    odd = _columns(one[:-1]), _columns(three[:-1]), _columns(one[:0:-1, ::-1]), _columns(three[:0:-1, ::-1])
    return Weights(one, three, (finer[0], finer[1]), middle, odd, unpack)


def _mirror(table: np.ndarray) -> Weight:
    """Continue ``table (n, 2)`` over n more points by itself mirrored at 45 degrees, where a dummy stands."""
    return _columns(np.concatenate([table, np.ones((1, 2), np.float32), table[:0:-1, ::-1]]))


def _columns(table: np.ndarray) -> Weight:
    return table[:, :1].copy(), table[:, 1:].copy()


def turn(x: np.ndarray) -> np.ndarray:
    """Return ``x`` turned by 90 degrees."""
    return _complex(-x.imag, x.real)


def rotate(weight: Weight, x: np.ndarray) -> np.ndarray:
    """Return ``x`` turned by the angle of ``weight``."""
    cos, sin = weight
    return _complex(cos * x.real - sin * x.imag, cos * x.imag + sin * x.real)


def rotate_back(weight: Weight, x: np.ndarray) -> np.ndarray:
    """Return ``x`` turned back by the angle of ``weight``."""
    cos, sin = weight
    return _complex(cos * x.real + sin * x.imag, cos * x.imag - sin * x.real)


def eighth(x: np.ndarray) -> np.ndarray:
    """Return ``x`` turned by 45 degrees."""
    half = weights().one[-1, 0]
    return _complex(half * (x.real - x.imag), half * (x.imag + x.real))


def eighth_back(x: np.ndarray) -> np.ndarray:
    """Return ``x`` turned back by 45 degrees."""
    half = weights().one[-1, 0]
    return _complex(half * (x.real + x.imag), half * (x.imag - x.real))


def _complex(real: np.ndarray, imag: np.ndarray) -> np.ndarray:
    joined = np.empty(real.shape, np.complex64)
    joined.real, joined.imag = real, imag
    return joined


def split(x: np.ndarray, one: Weight, three: Weight) -> np.ndarray:
    """Split each block of ``x`` into the sums, which stay together, and two quarters of turned differences."""
    first, second, third, fourth = np.split(x, 4, axis=1)
    even, odd = first + third, second + fourth
    up, down = first - third + turn(second - fourth), first - third - turn(second - fourth)
    middle = up.shape[1] // 2
    up_turned, down_turned = rotate(one, up), rotate_back(three, down)
    up_turned[:, middle], down_turned[:, middle] = eighth(up[:, middle]), -eighth_back(down[:, middle])
    return np.concatenate([even + odd, even - odd, up_turned, down_turned], 1)


def split_odd(x: np.ndarray) -> np.ndarray:
    """Like :func:`split`, for blocks whose points are turned by half a step."""
    one, three, other_one, other_three = weights().odd
    first, second, third, fourth = np.split(x, 4, axis=1)
    a, b, c, d = first + turn(third), first - turn(third), second + turn(fourth), second - turn(fourth)
    upper, lower = rotate(one, a), rotate(other_one, c)
    upper_back, lower_back = rotate_back(three, b), rotate_back(other_three, d)
    upper[:, 0], lower[:, 0] = a[:, 0], eighth(c[:, 0])
    upper_back[:, 0], lower_back[:, 0] = b[:, 0], turn(eighth(d[:, 0]))
    middle, (cos, sin) = a.shape[1] // 2, weights().one[STEPS // 2]
    upper_back[:, middle], lower_back[:, middle] = rotate((sin, cos), b[:, middle]), -rotate((cos, sin), d[:, middle])
    return np.concatenate([upper + lower, upper - lower, upper_back + lower_back, upper_back - lower_back], 1)


def finish(x: np.ndarray) -> np.ndarray:
    """Transform blocks of 16 points."""
    cos, sin = weights().one[STEPS // 2]
    a = [x[:, point] for point in range(16)]
    up, down, y = [], [], [a[0]] * 16
    for k in range(4):
        even, odd, difference, turned = (
            a[k] + a[k + 8],
            a[k + 4] + a[k + 12],
            a[k] - a[k + 8],
            turn(a[k + 4] - a[k + 12]),
        )
        y[k], y[k + 4] = even + odd, even - odd
        up.append(difference + turned)
        down.append(difference - turned)
    y[8:12] = up[0], rotate((cos, sin), up[1]), eighth(up[2]), rotate((sin, cos), up[3])
    y[12:] = down[0], rotate((sin, cos), down[1]), eighth_back(down[2]), rotate((cos, sin), down[3])
    pairs = [(y[0] + y[2], y[1] + y[3]), (y[0] - y[2], turn(y[1] - y[3]))]
    pairs += [(y[4] + turn(y[6]), eighth(y[5] + turn(y[7]))), (y[4] - turn(y[6]), turn(eighth(y[5] - turn(y[7]))))]
    pairs += [(y[8] + y[10], y[9] + y[11]), (y[8] - y[10], turn(y[9] - y[11]))]
    pairs += [(y[12] - y[14], y[13] - y[15]), (y[12] + y[14], turn(y[13] + y[15]))]
    return _sums_and_differences(pairs)


def finish_odd(x: np.ndarray) -> np.ndarray:
    """Transform blocks of 16 points that are turned by half a step."""
    one, two = (tuple(weights().one[step]) for step in (4, 8))
    three = weights().three[4, 0], -weights().three[4, 1]
    plus = [x[:, k] + turn(x[:, k + 8]) for k in range(8)]
    minus = [x[:, k] - turn(x[:, k + 8]) for k in range(8)]
    a, b = plus[0], eighth(plus[4])
    c, d = rotate(one, plus[1]), rotate(three[::-1], plus[5])
    e, f = rotate(two, plus[2]), rotate(two[::-1], plus[6])
    g, h = rotate(three, plus[3]), rotate(one[::-1], plus[7])
    pairs = [(a + b + (e + f), c + d + (g + h)), (a + b - (e + f), turn(c + d - (g + h)))]
    pairs += [
        (a - b + turn(e - f), eighth(c - d + turn(g - h))),
        (a - b - turn(e - f), turn(eighth(c - d - turn(g - h)))),
    ]
    a, b = minus[0], turn(eighth(minus[4]))
    c, d = rotate(three, minus[1]), rotate_back(one, minus[5])
    e, f = rotate(two[::-1], minus[2]), rotate(two, minus[6])
    g, h = rotate_back(one[::-1], minus[3]), rotate(three[::-1], minus[7])
    pairs += [(a + b + (e - f), c - d - (g + h)), (a + b - (e - f), turn(c - d + (g + h)))]
    pairs += [
        (a - b + turn(e + f), eighth(c + d - turn(g - h))),
        (a - b - turn(e + f), turn(eighth(c + d + turn(g - h)))),
    ]
    return _sums_and_differences(pairs)


def _sums_and_differences(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([value for a, b in pairs for value in (a + b, a - b)], 1)


def spectrum(samples: np.ndarray) -> np.ndarray:
    """Return the transform of ``samples (512, T)``, complex64 ``(257, T)``.

    The sign of the angle is positive: it is the conjugate of what NumPy returns.
    """
    points = _complex(samples[::2], samples[1::2])[None]
    quarters = split(points, *weights().finer).reshape(4, 64, -1)
    plain = [0, 2, 3]
    quarters[plain], quarters[1:2] = split(quarters[plain], *weights().middle), split_odd(quarters[1:2])
    blocks = quarters.reshape(16, 16, -1)
    done = np.empty_like(blocks)
    done[PLAIN] = finish(blocks[PLAIN])
    done[~PLAIN] = finish_odd(blocks[~PLAIN])
    reversed_bits = np.array([int(f"{point:08b}"[::-1], 2) for point in range(SIZE // 2)])
    points = done.reshape(SIZE // 2, -1)[reversed_bits]
    low, high = np.arange(1, SIZE // 4), np.arange(SIZE // 2 - 1, SIZE // 4, -1)
    here, there, unpack = points[low], points[high], weights().unpack
    weight = (np.float32(0.5) - unpack[SIZE // 4 - low])[:, None], unpack[low][:, None]
    rest = rotate(weight, _complex(here.real - there.real, here.imag + there.imag))
    ends = points[0].real + points[0].imag, points[0].real - points[0].imag
    bins = np.concatenate([points, points[:1]])
    bins[0], bins[-1] = ends
    bins[low] = _complex(here.real - rest.real, here.imag - rest.imag)
    bins[high] = _complex(there.real + rest.real, there.imag - rest.imag)
    return bins
