"""Maps of utterances, and figures of layers: what they show is what was given."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_rgb
from sklearn.decomposition import PCA

from serkit.data.representation import Representation
from serkit.errors import InputError
from serkit.evaluation.layers.arousal import derive_arousal, is_derived
from serkit.evaluation.layers.layer_plots import COLOURS, MOST_NAMES, draw_maps, draw_probes, draw_similarity
from serkit.evaluation.layers.layer_similarity import compare_layers
from serkit.evaluation.layers.probes import Probe
from serkit.evaluation.layers.projection import Map, check_columns, map_layers, project
from serkit.evaluation.layers.similarity import standardise
from serkit.evaluation.statistics.bootstrap import Figure


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def test_principal_components_are_those_of_scikit_learn():
    x = normal(40, 6) @ np.diag([5, 3, 1, 1, 1, 1]) + 7
    points, names = project(x)
    model = PCA(2).fit(standardise(x))
    assert np.abs(points) == pytest.approx(np.abs(model.transform(standardise(x))))
    assert names[0] == f"component 1 ({model.explained_variance_ratio_[0]:.0%})"
    assert project(x[:, :1])[0][:, 1] == pytest.approx(0)
    for features, said in ((x[:3], "too few"), (np.ones((9, 2)), "same for all")):
        with pytest.raises(InputError, match=said):
            project(features)


def test_umap_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"umap-learn is not installed: run pip install 'serkit\[umap\]'"):
        project(normal(20, 3), "umap")


@pytest.mark.slow
def test_umap_keeps_groups_apart():
    pytest.importorskip("umap")
    x = np.concatenate([normal(30, 5), normal(30, 5) + 8])
    points, names = project(x, "umap")
    first, second = points[:30], points[30:]
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * max(first.std(), second.std()) / 2
    assert names == ("UMAP 1", "UMAP 2") and np.array_equal(points, project(x, "umap")[0])


def test_a_map_has_the_layer_that_was_asked_for():
    sources = [
        Representation("net", (0, 1, 2), {"": normal(3, 12, 4)}),
        Representation("one", (0,), {"": normal(1, 12, 3)}),
    ]
    maps = map_layers(sources, -1, "pca", range(2, 12))
    assert [(each.source, each.layer, each.of_many) for each in maps] == [("net", 2, True), ("one", 0, False)]
    assert maps[0].points == pytest.approx(project(sources[0].of()[2][2:])[0])
    with pytest.raises(InputError, match="net: has no layer 3"):
        map_layers(sources, 3, "pca", range(12))


def test_many_names_are_told_apart_by_colour_and_shape():
    names = [f"s{number:02d}" for number in range(60)]
    maps = [Map("net", 1, normal(120, 2), ("x", "y"))]
    figure = draw_maps(maps, pl.DataFrame({"speaker": names * 2, "age": np.arange(120.0)}))
    legend = figure.axes[2].get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == MOST_NAMES + 1 and labels[-1] == "others"
    looks = {(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles}
    assert len(looks) == len(labels) and len(set(COLOURS)) == len(COLOURS)
    assert figure.axes[0].get_ylabel() == "net, layer 1\ny"


def test_arousal_is_rated_or_else_told_by_the_class():
    emotions = ["angry", "sad", "neutral", None, "proud", "calm"]
    table = pl.DataFrame(
        {"emotion": emotions, "arousal": [None] * 6}, schema={"emotion": pl.String, "arousal": pl.Float64}
    )
    (derived,) = check_columns(table, ["arousal"]).iter_columns()
    expected = ["high (angry)", "low (sad)", "middle (neutral)", None, "unknown (proud)", "low (calm)"]
    assert derived.to_list() == expected and is_derived(derived)
    rated = table.with_columns(arousal=pl.Series([0.1, 0.9, None, 0.5, 0.5, 0.2]))
    (kept,) = check_columns(rated, ["arousal"]).iter_columns()
    assert kept.to_list() == rated["arousal"].to_list() and not is_derived(kept)
    with pytest.raises(InputError, match="no column 'arousal' with values"):
        check_columns(pl.DataFrame({"speaker": ["a"]}), ["arousal"])


def test_low_arousal_is_red_and_high_arousal_blue():
    emotions = pl.Series("emotion", ["sad", "bored", "angry", "happy", "fearful", "neutral"] * 4)
    columns = pl.DataFrame({"arousal": derive_arousal(emotions)})
    figure = draw_maps([Map("net", 1, normal(24, 2), ("x", "y"))], columns)
    handles = figure.axes[1].get_legend().legend_handles
    colours = {handle.get_label(): to_rgb(handle.get_color()) for handle in handles}
    assert list(colours)[:2] == ["low (bored)", "low (sad)"] and len(set(colours.values())) == 6
    for label, (red, _, blue) in colours.items():
        assert (red > blue + 0.2) if label.startswith("low") else True
        assert (blue > red + 0.2) if label.startswith("high") else True
        assert (red == blue) if label.startswith("middle") else True
    points = {tuple(np.round(each.get_facecolor()[0][:3], 4)) for each in figure.axes[0].collections}
    assert points == {tuple(np.round(colour, 4)) for colour in colours.values()}
    rated = draw_maps([Map("net", 1, normal(24, 2), ("x", "y"))], pl.DataFrame({"arousal": np.linspace(0, 1, 24)}))
    (scatter,) = rated.axes[0].collections
    low, high = scatter.cmap(0.0), scatter.cmap(1.0)
    assert low[0] > low[2] and high[2] > high[0] and rated.axes[0].get_title() == "arousal (red: low, blue: high)"


def test_heat_maps_show_every_pair_of_sources_once_with_numbers():
    ids = [str(number) for number in range(20)]
    sources = [Representation(name, (0, 1), {"": normal(2, 20, 3)}) for name in "ab"]
    figure = draw_similarity(compare_layers(sources, ids, {id: id for id in ids}))
    panels = [axes for axes in figure.axes if axes.images]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in panels] == [
        ("", "layer of a"), ("layer of a", "layer of b"), ("layer of b", ""),
    ]  # fmt: skip
    assert [len(axes.texts) for axes in panels] == [4, 4, 4]


def test_probe_curves_have_bands_chance_and_lines_for_sources_of_one_layer():
    def made(source, layer, value, low, high):
        return Probe(source, layer, "emotion", "uar", Figure(value, low, high, 9, "m"), 0.25, "", ())

    probes = [made("net", 0, 0.4, 0.3, 0.5), made("net", 1, 0.6, 0.5, 0.7), made("ref", 0, 0.5, None, None)]
    figure = draw_probes(probes, {"emotion": "which emotion"})
    panel = figure.axes[0]
    curve, line, chance = panel.lines
    assert curve.get_ydata() == pytest.approx([0.4, 0.6]) and set(line.get_ydata()) == {0.5}
    assert set(chance.get_ydata()) == {0.25} and panel.get_title() == "which emotion" and panel.get_ylabel() == "UAR"
    band = panel.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.3) and band[:, 1].max() == pytest.approx(0.7)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["net", "ref"]
