"""Matrix products of encoder inference on a CPU: weights packed once, GELU and residual sums done in the same pass.

oneDNN's packed products are about 1.15 times as fast as the plain ones on the shapes of wav2vec 2.0 base, and in int8
4 times where the processor has VNNI instructions; see ``docs/encoders-speed.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.errors import InputError

PRECISIONS = ("fp32", "int8")
LEVELS = 126
"""Steps that activations are rounded to: processors without VNNI add two 8-bit products in 16 bits, which overflow when
both factors use all of their bits. 254 steps gain next to nothing (cosine 0.99983 against 0.99980, random weights,
real speech), because the weights are rounded as well.
"""
ROUNDING = 1.5 * 2.0**23
"""A float32 this large has no fraction bits: adding it rounds, and leaves the integer in the lowest bits."""


class Linear(Protocol):
    """A linear layer ``(T, K)`` to ``(T, M)`` with its weights packed."""

    def __call__(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Return ``x W' + b``, through GELU or plus ``residual (T, M)`` (not both)."""

    def windows(self, x: Tensor, kernel: int, stride: int, gelu: bool) -> Tensor:
        """Return the same of ``kernel`` neighbouring rows of ``x (S, C)``, every ``stride`` rows: a convolution."""


def has_onednn() -> bool:
    """Tell whether this build of PyTorch has the packed products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def check_precision(precision: str) -> str:
    """Return ``precision``; raises ``InputError`` unless it is one of :data:`PRECISIONS` and can run here."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}: give one of {', '.join(PRECISIONS)}")
    if precision == "int8" and not has_onednn():
        raise InputError('precision="int8": this build of PyTorch has no oneDNN: use "fp32"')
    return precision


def pack(weight: Tensor, bias: Tensor | None, precision: str) -> Linear:
    """Pack ``weight (M, K)`` and ``bias (M,)`` for ``precision``."""
    if precision == "int8":
        return Int8Linear(weight, bias)
    return PackedLinear(weight, bias) if has_onednn() else PlainLinear(weight, bias)


def pack_linear(precision: str, *layers: nn.Linear) -> Linear:
    """Pack ``layers`` of the same input as one, their outputs side by side."""
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return pack(torch.cat([layer.weight for layer in layers]), bias, precision)


def unfold_rows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Return ``kernel`` neighbouring rows of ``x (S, C)`` side by side, every ``stride`` rows: ``(T, kernel * C)``."""
    count, width = (len(x) - kernel) // stride + 1, x.shape[1]
    return x.as_strided((count, kernel * width), (stride * width, 1)).contiguous()


class PlainLinear:
    """PyTorch's own product, where oneDNN is missing."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if residual is not None:
            return y.add_(residual)
        return torch.ops.aten.gelu_(y) if gelu else y

    def windows(self, x: Tensor, kernel: int, stride: int, gelu: bool) -> Tensor:
        return self(unfold_rows(x, kernel, stride), gelu)


class PackedLinear(PlainLinear):
    """oneDNN's float32 product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()), bias)

    def __call__(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        if residual is not None:
            return product.binary(x, residual, self.weight, self.bias, "add")
        return product(x, self.weight, self.bias, "gelu" if gelu else "none", [], "none")


@dataclass(frozen=True)
class Int8:
    """Rows ``values (T, K)`` (uint8) whose floats are ``(value - zero) * scale``, with ``(T, 1)`` of either."""

    values: Tensor
    scale: Tensor
    zero: Tensor


def quantise(x: Tensor, kernel: int = 1, stride: int = 1) -> Int8:
    """Round every ``kernel`` neighbouring rows of ``x (S, C)``, every ``stride`` rows, to 8 bits side by side.

    Each row of the result has its own scale, between its own smallest and largest value: quiet frames are a thousandth
    of loud ones in the front end, and the normalisation after it brings them back to the same size.
    """
    low, high = x.amin(1), x.amax(1)  # aminmax takes seven times as long
    if kernel > 1:
        low, high = low.unfold(0, kernel, stride).amin(1), high.unfold(0, kernel, stride).amax(1)
    low, high = low.clamp(max=0.0)[:, None], high.clamp(min=0.0)[:, None]
    scale = ((high - low) / LEVELS).clamp(min=1e-30)
    zero = (-low / scale).floor() + 1  # one step of room at either end, for what rounding does there
    rows = x.as_strided((len(low), kernel * x.shape[1]), (stride * x.stride(0), 1))
    shifted = torch.addcmul(zero + ROUNDING, rows, scale.reciprocal())
    return Int8(shifted.view(torch.int32).to(torch.uint8), scale, zero)


class Int8Linear:
    """oneDNN's int8 product: a scale for each output of the weights, and one for each row of the input as it comes."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        rounded = (weight / self.scale[:, None]).round()
        self.sums = rounded.sum(1) * self.scale  # what each step of a row's zero adds to the products
        self.bias = weight.new_zeros(()) if bias is None else bias
        self.zero = torch.zeros(len(weight), dtype=torch.long)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)

    def product(self, x: Int8, gelu: bool) -> Tensor:
        """Return the float32 product with rounded input ``(T, K)``."""
        weights, output = (self.weight, self.scale, self.zero, None), (1.0, 0, torch.float32)
        y = torch.ops.onednn.qlinear_pointwise(x.values, 1.0, 0, *weights, *output, "none", [], "none")
        y = torch.addcmul(self.bias, y, x.scale).addcmul_(x.zero * x.scale, self.sums, value=-1)
        return torch.ops.aten.gelu_(y) if gelu else y

    def __call__(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        y = self.product(quantise(x), gelu)
        return y if residual is None else y.add_(residual)

    def windows(self, x: Tensor, kernel: int, stride: int, gelu: bool) -> Tensor:
        return self.product(quantise(x, kernel, stride), gelu)
