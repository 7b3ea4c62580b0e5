"""Colours are told apart by everybody, on light and on dark ground."""

from itertools import combinations

import numpy as np
import pytest

from serkit.inference.palette import COLOURS, FALLBACK, class_colours

SEVEN = ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised")
# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour):
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    x = XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    low, high = sorted(float(XYZ[1] @ linear(each)) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
def test_the_seven_classes_are_told_apart(vision):
    seen = {name: lab(VISION[vision] @ linear(COLOURS[name])) for name in SEVEN}
    for one, other in combinations(SEVEN, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 30, (one, other)


@pytest.mark.parametrize("ground", ["#ffffff", "#121519"])
def test_every_colour_stands_out_from_the_ground(ground):
    for name in SEVEN:
        assert contrast(COLOURS[name], ground) >= 1.9, name


def test_unknown_classes_get_colours_in_their_order_and_known_ones_keep_theirs():
    made = class_colours(["x1", "happy", *(f"y{number}" for number in range(8))])
    assert made["happy"] == COLOURS["happy"]
    assert [made["x1"], *(made[f"y{number}"] for number in range(8))] == [*FALLBACK, FALLBACK[0]]
