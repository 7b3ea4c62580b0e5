"""Files as the authors of a paper saved their models: joblib dumps of classes that are not installed here."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def dump_model(monkeypatch) -> Callable[..., Path]:
    """``dump_model(path, weights, **more)`` writes an uncompressed joblib file that names exactly the known globals.

    The classes exist only while the file is written. ``aligned=False`` writes arrays as joblib before 1.2 did.
    """
    joblib = pytest.importorskip("joblib")
    from joblib.numpy_pickle import NumpyArrayWrapper

    def build(name: str, qualified: str, base: type = object) -> type:
        module = types.ModuleType(name)
        made = type(qualified, (base,), {"__module__": name})
        setattr(module, qualified, made)
        patch.setitem(sys.modules, name, module)
        return made

    def dump(path: Path, weights: dict, aligned: bool = True, **more: object) -> Path:
        nonlocal patch
        with monkeypatch.context() as patch:
            for package in ("dienen", "dienen.core"):
                patch.setitem(sys.modules, package, types.ModuleType(package))
            model, config = build("dienen.core.model", "Model")(), build("kahnfigh", "Config")()
            config.__dict__.update(store={"Model": {"name": "mlp", "rate": 0.2, "sizes": (13, 768)}}, yaml_path=None)
            model.__dict__.update(weights=weights, original_config=config, optimizer_state=None, **more)
            if not aligned:
                begin = NumpyArrayWrapper.__init__

                def plain(self, *arguments, **options):
                    begin(self, *arguments, **options)
                    del self.numpy_array_alignment_bytes

                patch.setattr(NumpyArrayWrapper, "__init__", plain)
            joblib.dump(model, path, compress=0, protocol=4)
        return path

    patch = monkeypatch
    return dump


class OldScalar:
    """A number that pickles under the name that numpy gave its scalars before numpy 2."""

    def __init__(self, value: np.generic) -> None:
        self.value = value

    def __reduce__(self) -> tuple:
        return sys.modules["numpy.core.multiarray"].scalar, self.value.__reduce__()[1]


@pytest.fixture
def old_scalar(monkeypatch) -> Callable[[np.generic], OldScalar]:
    """``old_scalar(np.float32(2))`` pickles as ``numpy.core.multiarray.scalar``."""

    def scalar() -> None: ...

    scalar.__module__, scalar.__qualname__ = "numpy.core.multiarray", "scalar"
    module = types.ModuleType("numpy.core.multiarray")
    module.scalar = scalar
    monkeypatch.setitem(sys.modules, "numpy.core.multiarray", module)
    return OldScalar
