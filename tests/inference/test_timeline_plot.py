"""Figures of timelines: what stands in them, and that they stay small and legible however long the recording is."""

import re
import struct
import sys

import numpy as np
import pytest

from serkit.errors import InputError
from serkit.inference.palette import COLOURS
from serkit.inference.timeline import CurvePoint, Timeline, TimelineSegment
from serkit.inference.timeline_plot import (
    BINS,
    bin_curve,
    bin_labels,
    draw_timeline,
    plot_timeline,
    time_span,
    time_ticks,
)

CLASSES = ("neutral", "angry", "sad")


def segment(start, end, label, speaker=None):
    return TimelineSegment(1, start, end, label, {name: float(name == label) for name in CLASSES}, speaker)


def made(seconds, pieces, curve=True):
    """Pieces are (start, end, label[, speaker])."""
    segments = tuple(segment(*piece) for piece in pieces)
    points = tuple(CurvePoint(each.start, each.end, each.probabilities, each.speaker) for each in segments)
    return Timeline("talk.wav", seconds, "model-1", CLASSES, segments, points if curve else ())


@pytest.fixture(scope="module")
def hours():
    pieces = [(at, at + 2.0, CLASSES[number % 3]) for number, at in enumerate(np.arange(0, 10_800, 3.0).tolist())]
    return made(10_800.0, pieces)


def test_a_png_has_the_size_of_its_rows(tmp_path):
    plot_timeline(made(60, [(1, 9, "angry"), (10, 50, "sad")]), tmp_path / "new" / "x.PNG", np.linspace(0, 1, 500))
    head = (tmp_path / "new" / "x.PNG").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and width == 1650 and 400 < height < 700


def test_an_svg_says_who_what_and_when(tmp_path):
    timeline = made(60, [(0, 20, "angry", "Ann $1 & $2"), (20, 40, "sad", "bert"), (15, 60, "neutral", "bert")])
    plot_timeline(timeline, tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    for word in ("talk.wav", "model-1", "Ann $1 &amp; $2", "bert", "0:00:10", "0:01:00", "probability", "0:00:45"):
        assert word in text, word
    assert len(re.findall(r">angry<", text)) == 2  # on its segment and at its curve
    for name in CLASSES:
        assert COLOURS[name] in text
    assert "waveform" not in text
    plot_timeline(timeline, tmp_path / "again" / "x.svg")
    assert (tmp_path / "again" / "x.svg").read_text() == text


def test_nothing_found_is_said(tmp_path):
    plot_timeline(made(12, []), tmp_path / "x.svg", np.zeros(10))
    assert "no speech found" in (tmp_path / "x.svg").read_text()


def test_hours_are_drawn_in_as_many_pieces_as_can_be_seen(hours, tmp_path):
    plot_timeline(hours, tmp_path / "x.svg", np.ones(1200))
    text = (tmp_path / "x.svg").read_text()
    assert len(text) < 1_500_000
    assert "3:00:00" in text and "0:30:00" in text
    lane = draw_timeline(hours).axes[0]
    assert len(lane.collections[0].get_paths()) <= BINS and not lane.texts


def test_names_stand_where_there_is_room():
    lane = draw_timeline(made(60, [(0, 1, "angry"), (2, 20, "sad")])).axes[0]
    assert [text.get_text() for text in lane.texts] == ["sad"]


def test_curves_are_means_over_time_and_speakers():
    timeline = made(8, [(0, 3, "angry", "a"), (2, 4, "sad", "b"), (6, 6.5, "neutral", "a")])
    curve = bin_curve(timeline, (0.0, 8.0), 4)  # two seconds each
    # From 2 to 4: one second of angry, two of sad.
    assert curve[:, :2] == pytest.approx(np.array([[0, 0], [1, 1 / 3], [0, 2 / 3]]))
    assert np.isnan(curve[:, 2]).all() and curve[:, 3].tolist() == [1, 0, 0]


def test_lanes_show_the_label_with_most_time():
    pieces = [segment(0, 1.5, "angry"), segment(1.5, 2, "sad"), segment(2, 4.4, "sad"), segment(6.9, 7, "angry")]
    # 0-2 angry, 2-4 sad, 4-6 mostly nothing, 6-8 mostly nothing.
    assert bin_labels(pieces, CLASSES, (0.0, 8.0), 4) == [(0.0, 2.0, "angry"), (2.0, 4.0, "sad")]
    assert bin_labels([], CLASSES, (0.0, 8.0), 4) == []


def test_many_bins_keep_exact_borders():
    assert bin_labels([segment(1, 3, "sad")], CLASSES, (0.0, 4.0), 400) == [(1.0, 3.0, "sad")]


@pytest.mark.parametrize(
    ("span", "ticks"),
    [
        ((0, 0.8), ["0:00:00.0", "0:00:00.1", "0:00:00.8"]),
        ((0, 60), ["0:00:00", "0:00:10", "0:01:00"]),
        ((0, 10_800), ["0:00:00", "0:30:00", "3:00:00"]),
        ((3601, 3660), ["1:00:10", "1:00:20", "1:01:00"]),
        ((0, 400_000), ["0:00:00", "24:00:00", "96:00:00"]),
    ],
)
def test_ticks_are_round_and_few(span, ticks):
    places, texts = time_ticks(span)
    assert [*texts[:2], texts[-1]] == ticks and 2 <= len(places) <= 10
    assert all(span[0] <= place <= span[1] + 1e-6 for place in places)


def test_the_axis_of_a_part_of_a_file_begins_where_it_does():
    assert time_span(made(60, [(1, 9, "sad")])) == (0.0, 60)
    assert time_span(made(60, [(3601, 3650, "sad")])) == (3590.0, 3650)


def test_errors_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"x.gif: a figure is written as .png or .svg"):
        plot_timeline(made(1, []), tmp_path / "x.gif")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"matplotlib is not installed: run pip install 'serkit\[train\]'"):
        plot_timeline(made(1, []), tmp_path / "x.png")
