"""Write the hidden states of one utterance, which come piece by piece, into files of features."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from torch import Tensor

from serkit.data.feature_files import FrameFile
from serkit.data.files import replace_atomically
from serkit.encoders.base import Precision


def write_selected(
    states: Iterable[Tensor], selections: Sequence[Sequence[int]], paths: Sequence[Path], frames: bool
) -> None:
    """Write the mean of each selection of layers of ``states (N, t, D)``, ...: float32 ``(T, D)``.

    Without ``frames`` it is their mean over time ``(D,)``. There is one path per selection. Files appear when the last
    piece has come.
    """
    with ExitStack() as stack:
        parts = [stack.enter_context(replace_atomically(path)) for path in paths]
        files: list[FrameFile] = []
        sums, count = np.zeros((len(paths), 1)), 0
        for piece in states:
            chosen = [piece[list(layers)].mean(0).numpy() for layers in selections]
            if frames:
                files = files or [stack.enter_context(FrameFile(part, piece.shape[2])) for part in parts]
                for file, values in zip(files, chosen, strict=True):
                    file.append(values)
            else:
                sums = sums + np.stack([values.sum(0, dtype=np.float64) for values in chosen])
                count += piece.shape[1]
        if not frames:
            for part, total in zip(parts, sums, strict=True):
                np.save(part, (total / count).astype(np.float32))


def write_layers(states: Iterable[Tensor], path: Path, dtype: Precision = "float16") -> None:
    """Write all of ``states (N, t, D)``, ... as one array ``(N, T, D)``; on the disk they need twice that."""
    with replace_atomically(path) as part, tempfile.TemporaryDirectory(dir=path.parent, prefix=".layers.") as folder:
        with ExitStack() as stack:
            files: list[FrameFile] = []
            for piece in states:
                count, _, dim = piece.shape
                names = [Path(folder, f"{number}.npy") for number in range(count)]
                files = files or [stack.enter_context(FrameFile(name, dim, dtype)) for name in names]
                for file, layer in zip(files, piece.numpy(), strict=True):
                    file.append(layer)
        shape = (len(files), files[0].frames, files[0].dim)
        with part.open("wb") as whole:
            header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(whole, header)
            for number in range(len(files)):
                with Path(folder, f"{number}.npy").open("rb") as layer_file:
                    np.lib.format.read_magic(layer_file)
                    np.lib.format.read_array_header_1_0(layer_file)
                    shutil.copyfileobj(layer_file, whole, 1 << 20)


def write_statistics(states: Iterable[Tensor], path: Path) -> None:
    """Write mean and standard deviation over time of ``states (N, t, D)``, ...: float32 ``(2, N, D)``.

    Pieces are merged as in Chan, Golub & LeVeque (1979), in double precision.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for piece in states:
        number = piece.shape[1]
        total = count + number
        there, spread = zip(*(_moments(layer) for layer in piece.numpy()), strict=True)
        apart = np.stack(there) - mean
        squares = squares + np.stack(spread) + apart**2 * (count * number / total)
        mean = mean + apart * (number / total)
        count = total
    with replace_atomically(path) as part:
        np.save(part, np.stack([mean, np.sqrt(squares / count)]).astype(np.float32))


def _moments(layer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean ``(D,)`` and the sum of squared deviations ``(D,)`` of ``layer (T, D)``."""
    wide = layer.astype(np.float64)
    mean = wide.mean(0)
    wide -= mean
    return mean, np.einsum("td,td->d", wide, wide)
