"""The small convolutional network that fills in what the student did not see."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Decoder(nn.Module):
    """data2vec 2.0's decoder (https://arxiv.org/abs/2212.07525): grouped convolutions over time and a projection.

    Every layer but the first adds its input. Frames past a clip's end are zero before every convolution.
    """

    def __init__(self, dim: int, inner: int, layers: int, kernel: int, groups: int) -> None:
        super().__init__()
        widths = [dim, *[inner] * layers]
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, kernel, padding=kernel // 2, groups=groups) for before, after in pairwise(widths)
        )
        self.proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return predictions ``(B, T, D)`` for frames ``x (B, T, D)``, real where ``mask (B, T)`` (None: all)."""
        for layer in self.layers:
            seen = x if mask is None else x * mask[:, :, None]
            y = layer(seen.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2)
            y = F.gelu(F.layer_norm(y, y.shape[2:]))
            x = x + y if x.shape == y.shape else y
        return self.proj(x)
