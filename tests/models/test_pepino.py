"""Released heads: read from either kind of file, equal to the original, refused when they are not one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from serkit.errors import InputError
from serkit.models.heads import Batch, Stream
from serkit.models.layers import Segments
from serkit.models.pepino import CLASSES, load_released, read_head, write_head

torch.set_num_threads(1)

# Outputs of the original architecture on RandomState(0): w = randn(250, 13, 768), o = randn(250, 25), 180 real frames.
CHECKS = {
    "w2v2PT-fusion__3456__Ravdess": [0.080209, 0.181477, 0.130732, 0.274605, 0.108527, 0.092183, 0.132268],
    "w2v2PT-alllayers__2345__Ravdess": [0.115127, 0.105900, 0.343038, 0.123191, 0.143011, 0.071518, 0.098215],
    "w2v2PT-alllayers__4567__IEMOCAP__fold0": [0.126128, 0.282056, 0.395118, 0.196699],
    "issa-setup-ravdess__1234__Ravdess__fold0": [
        0.095960, 0.087101, 0.101506, 0.200391, 0.180288, 0.141467, 0.102624, 0.090663,
    ],
}  # fmt: skip
REAL = 180


def draw(frames=250):
    random = np.random.RandomState(0)
    return random.randn(frames, 13, 768).astype(np.float32), random.randn(frames, 25).astype(np.float32)


def streams_of(shapes, w, o):
    arrays = [torch.from_numpy(w).permute(1, 0, 2).contiguous(), torch.from_numpy(o)[None]]
    return tuple(Stream(torch.zeros(1, 2, *shape), [array]) for shape, array in zip(shapes, arrays, strict=False))


def probabilities(made, w, o, padded=False):
    """Give the real frames alone or, with ``padded``, all of them and which are real."""
    length = torch.tensor([REAL])
    segments = Segments.padded(length, len(w)) if padded else Segments.packed(length)
    streams = streams_of(made.shapes, w, o) if padded else streams_of(made.shapes, w[:REAL], o[:REAL])
    with torch.no_grad():
        return made.head(Batch(streams, segments)).softmax(-1)[0].numpy()


@pytest.mark.parametrize("name", CHECKS)
def test_released_heads_give_the_probabilities_of_the_original(pepino_folder, name):
    made = load_released(pepino_folder / "models_npz" / f"{name}.npz")
    w, o = draw()
    assert made.classes == CLASSES[len(CHECKS[name])]
    assert made.shapes == (((13, 768), (1, 25)) if "fusion" in name else ((13, 768),))
    found = probabilities(made, w, o)
    alone = made.probabilities([w[:REAL], o[:REAL, None]][: len(made.shapes)])
    assert list(alone) == list(made.classes) and np.abs(list(alone.values()) - found).max() < 1e-7
    assert np.abs(found - CHECKS[name]).max() < 1e-6
    assert np.abs(probabilities(made, w, o, padded=True) - found).max() < 1e-6
    w[REAL:], o[REAL:] = 1e3, -1e3
    assert np.abs(probabilities(made, w, o, padded=True) - found).max() < 1e-6


def test_all_released_heads_are_read(pepino_folder):
    facts = json.loads((pepino_folder / "models_catalogue.json").read_text())
    assert len(facts) == 23
    for entry in facts:
        made = load_released(pepino_folder / "models_npz" / f"{entry['name']}.npz")
        assert sum(weight.numel() for weight in made.head.parameters()) == entry["n_params"]
        assert len(made.classes) == entry["output_shapes"][0][0]
        weights = made.head.heads[0].streams[0].mix.weights().detach().numpy()
        assert np.abs(weights - entry["layer_weights_normalised"]).max() < 1e-6


def random_layers(fusion, classes, scale=0.3):
    """Weights by Keras layer, as the original files nest them."""
    random = np.random.default_rng(classes)

    def linear(*shape):
        return [(scale * random.normal(size=size)).astype(np.float32) for size in (shape, shape[-1:])]

    hidden = {"w2v": (1, 6, 128), "os": (1, 4, 128), "merged": (1, 256, 128)} if fusion else {"1": (1, 6, 128)}
    hidden |= {} if fusion else {"2": (1, 128, 128)}
    return {
        "w2v_input": [],
        "activations_wa": [random.normal(size=(1, 1, 1, 3)).astype(np.float32)],
        **{f"hidden_layer_{name}": {"Conv1D": linear(*shape)} for name, shape in hidden.items()},
        "predictions": {"Dense": linear(128, classes)},
    }


def save_npz(path, layers):
    arrays = {}
    for name, entry in layers.items():
        for part, pair in (entry if isinstance(entry, dict) else {"": entry}).items():
            full = f"{name}.{part}".rstrip(".")
            arrays |= {f"{full}.{kind}": array for kind, array in zip(("kernel", "bias"), pair, strict=False)}
    np.savez(path, **arrays)
    return path


def by_hand(layers, w, o):
    """The original's forward pass in numpy: layers mixed by |k|, ReLU maps per frame, mean over time, softmax."""
    k = np.abs(layers["activations_wa"][0].ravel())
    x = np.einsum("n,tnd->td", k / k.sum(), w)

    def dense(x, name):
        kernel, bias = layers[f"hidden_layer_{name}"]["Conv1D"]
        return np.maximum(x @ kernel[0] + bias, 0)

    fusion = "hidden_layer_os" in layers
    first = np.concatenate([dense(x, "w2v"), dense(o, "os")], 1) if fusion else dense(x, "1")
    pooled = dense(first, "merged" if fusion else "2").mean(0)
    kernel, bias = layers["predictions"]["Dense"]
    scores = pooled @ kernel + bias
    raised = np.exp(scores - scores.max())
    return raised / raised.sum()


@pytest.mark.parametrize("fusion", [False, True], ids=["dense", "fusion"])
@pytest.mark.parametrize("classes", [4, 7, 8])
def test_both_kinds_of_file_give_the_head_computed_by_hand(dump_model, tmp_path, fusion, classes):
    layers = random_layers(fusion, classes, scale=0.1)
    random = np.random.default_rng(1)
    w, o = random.normal(size=(9, 3, 6)).astype(np.float32), random.normal(size=(9, 4)).astype(np.float32)
    for path in (dump_model(tmp_path / "out", layers), save_npz(tmp_path / "head.npz", layers)):
        made = load_released(path)
        assert made.shapes == (((3, 6), (1, 4)) if fusion else ((3, 6),)) and made.classes == CLASSES[classes]
        batch = Batch(streams_of(made.shapes, w, o), Segments.packed(torch.tensor([9])))
        found = made.head(batch).softmax(-1)[0].detach().numpy()
        assert np.abs(found - by_hand(layers, w, o)).max() < 1e-5
        again = read_head(write_head(made, tmp_path / f"written-{path.name}", path.name))
        assert (again.classes, again.shapes, again.config) == (made.classes, made.shapes, made.config)
        for name, tensor in made.head.state_dict().items():
            assert torch.equal(again.head.state_dict()[name], tensor)


def recordings_of(count, seed=0):
    random = np.random.default_rng(seed)
    shift, scale = random.normal(size=(3, 6)) * 5, random.uniform(0.5, 4, size=(3, 6))
    return [
        (shift + scale * random.normal(size=(4 + n, 3, 6)), 100 + random.normal(size=(4 + n - n % 2, 1, 4)))
        for n in range(count)
    ]


def test_statistics_of_own_recordings_standardise(dump_model, tmp_path):
    layers = random_layers(True, 4, scale=0.1)
    made = load_released(dump_model(tmp_path / "out", layers))
    assert not made.standardises()
    recordings = recordings_of(5)
    made.fit_statistics(recordings)
    means = [np.concatenate([r[n] for r in recordings]).mean(0) for n in (0, 1)]
    deviations = [np.concatenate([r[n] for r in recordings]).std(0) for n in (0, 1)]
    w, o = ((x - mean) / sd for x, mean, sd in zip(recordings[3], means, deviations, strict=True))
    found = made.probabilities(recordings[3])
    assert list(found) == list(CLASSES[4])
    shortest = min(len(w), len(o))
    assert shortest < len(w)
    assert list(found.values()) == pytest.approx(by_hand(layers, w[:shortest], o[:shortest, 0]).tolist(), abs=1e-4)
    again = read_head(write_head(made, tmp_path / "head"))
    assert again.probabilities(recordings[3]) == pytest.approx(found, abs=1e-7) and again.standardises()
    assert json.loads((tmp_path / "head" / "head.json").read_text())["normalisation"] == "stored"


def test_other_frames_are_refused(dump_model, tmp_path):
    made = load_released(dump_model(tmp_path / "out", random_layers(False, 4)))
    for wrong in ([np.zeros((5, 3, 5))], [np.zeros((0, 3, 6))], [np.zeros((5, 3, 6))] * 2, []):
        with pytest.raises(InputError, match=r"takes frames \(T, 3, 6\)"):
            made.probabilities(wrong)
    with pytest.raises(InputError, match="no recording"):
        made.fit_statistics([])


def edit(layers, **changes):
    for name, value in changes.items():
        layers[name] = value
    return {name: value for name, value in layers.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_layer_2": None}, "neither a dense nor a fusion head"),
        ({"lstm": [np.zeros((128, 512), np.float32)]}, "neither a dense nor a fusion head"),
        ({"predictions": {"Dense": [np.zeros((128, 5), np.float32), np.zeros(5, np.float32)]}}, "has 5 classes"),
        ({"predictions": {"Dense": [np.zeros((64, 4), np.float32), np.zeros(4, np.float32)]}}, r"\(4, 64\)"),
        ({"predictions": {"Dense": [np.zeros((128, 4), np.float32)]}}, "no linear map"),
        ({"predictions": {"Dense": [np.full((128, 4), np.nan, np.float32), np.zeros(4, np.float32)]}}, "not finite"),
        ({"activations_wa": [np.ones(3, np.float32)] * 2}, "activations_wa must be one array"),
    ],
)
def test_what_is_no_released_head_is_refused(dump_model, tmp_path, changes, message):
    path = dump_model(tmp_path / "out", edit(random_layers(False, 4), **changes))
    with pytest.raises(InputError, match=message) as caught:
        load_released(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_other_files_are_refused(dump_model, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_released(tmp_path / "absent")
    np.savez(tmp_path / "objects.npz", **{"a.kernel": np.array([print], object)})
    with pytest.raises(InputError, match=r"objects\.npz: cannot be read as arrays"):
        load_released(tmp_path / "objects.npz")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not an uncompressed joblib file"):
        load_released(tmp_path / "text")
    with pytest.raises(InputError, match="holds no list of arrays"):
        load_released(dump_model(tmp_path / "out", {"layer": "text"}))
    with pytest.raises(InputError, match="holds no dienen"):
        load_released(dump_model(tmp_path / "out", None))


def test_folders_that_are_no_converted_head(dump_model, tmp_path):
    with pytest.raises(InputError, match="give a folder made by serkit convert"):
        read_head(tmp_path)
    folder = write_head(load_released(dump_model(tmp_path / "out", random_layers(False, 4))), tmp_path / "head")
    facts = json.loads((folder / "head.json").read_text())
    assert facts["classes"] == list(CLASSES[4]) and "none stored" in facts["normalisation"]
    (folder / "head.json").write_text(json.dumps({**facts, "classes": facts["classes"][:3]}))
    with pytest.raises(InputError, match="is damaged"):
        read_head(folder)
    (folder / "head.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(InputError, match="is of format 2"):
        read_head(folder)
