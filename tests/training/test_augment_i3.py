"""Augmentations of i3 experiments become chain entries: all that its shipped files have."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from serkit.errors import InputError
from serkit.training.augment import Augmentation, from_i3_augmentations, register_transform
from serkit.training.augment import registry as registry_module

EXPECTED = {
    "run_aug.json": [
        "torch_audiomentations.PitchShift", "audiomentations.LoudnessNormalization",
        "torch_audiomentations.AddColoredNoise", "audiomentations.TimeMask", "frequency_mask",
    ],
    **{f"experiments/{name}_aug.json": [
        "torch_audiomentations.PitchShift", "torch_audiomentations.ApplyImpulseResponse",
        "torch_audiomentations.AddBackgroundNoise", "torch_audiomentations.AddColoredNoise",
    ] for name in ("all", "batch_and_dropout", "individual_tests")},
}  # fmt: skip


def mirror(x, rng):
    return x[::-1]


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    root = tmp_path_factory.mktemp("noises")
    for number in range(2):
        wave = np.random.default_rng(number).normal(0, 0.1, 20_000)
        soundfile.write(root / f"{number}.wav", wave * np.exp(-np.arange(20_000) / 2000), 16_000)
    return root


@pytest.mark.parametrize("file", EXPECTED)
def test_shipped_experiments_convert_and_run(file, reference_file, noises):
    given = json.loads(reference_file(f"i3/configs/{file}").read_text())["augmentations"]
    entries = from_i3_augmentations(given)
    assert [entry["name"] for entry in entries] == EXPECTED[file]
    x = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    for entry, options in zip(entries, given.values(), strict=True):
        kept = {key: value for key, value in options.items() if key not in ("module", "class", "tensors")}
        if entry["name"] != "frequency_mask":
            assert entry == {"name": entry["name"], **kept}
        paths = [key for key in entry if key in ("ir_paths", "background_paths")]
        if paths:
            with pytest.raises(InputError, match=f"{entry[paths[0]].rstrip('/')}: no recordings there"):
                Augmentation([entry])
        out = Augmentation([{**entry, **dict.fromkeys(paths, str(noises))}])(x, "1/clip")
        assert len(out) == len(x) and not np.array_equal(out, x)
    assert from_i3_augmentations(given) == entries and "module" in next(iter(given.values()))


def test_the_frequency_mask_is_as_wide_as_the_original_and_rightly_made():
    given = {"M": {"module": "augmentations.custom_augmentations", "class": "FrequencyMask", "freq_mask_param": 80}}
    (entry,) = from_i3_augmentations(given)
    assert entry == {"name": "frequency_mask", "width": [0.0, 3200.0], "probability": 1.0}  # 80 bins of 40 Hz
    given["M"] |= {"freq_mask_param": 900, "p": 0.5, "tensors": False}
    assert from_i3_augmentations(given)[0] == {"name": "frequency_mask", "width": [0.0, 8000.0], "probability": 0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class": "Gain"}, "augmentations.A: has no 'module'"),
        ({"module": "audiomentations"}, "augmentations.A: has no 'class'"),
        ({"module": "torch_audiomentation", "class": "Gain"}, "did you mean 'torch_audiomentations'"),
        ({"module": "mine", "class": "Mirror"}, "mine.Mirror is not known here .* or register_transform it"),
        (
            {"module": "augmentations.custom_augmentations", "class": "FrequencyMask"},
            "freq_mask_param must be a number above 0, not None",
        ),
        (
            {"module": "augmentations.custom_augmentations", "class": "FrequencyMask", "freq_mask": 3},
            "FrequencyMask has no parameter 'freq_mask'",
        ),
    ],
)
def test_what_cannot_be_turned_is_named(options, message):
    with pytest.raises(InputError, match=message):
        from_i3_augmentations({"A": options})


def test_a_registered_class_of_another_module_is_taken(monkeypatch):
    monkeypatch.setattr(registry_module, "_registered", {})
    register_transform("Mirror", mirror)
    (entry,) = from_i3_augmentations({"A": {"module": "mine", "class": "Mirror", "tensors": True}})
    x = np.arange(5, dtype=np.float32)
    assert Augmentation([entry])(x, "s").tolist() == [4, 3, 2, 1, 0]
