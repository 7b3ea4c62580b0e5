"""Inference of the wav2vec 2.0 family on a CPU core: one utterance at a time, the same numbers in less time.

What makes it faster than the module: frames are rows throughout, so that convolutions and linear layers are products
with packed weights (:mod:`serkit.encoders.gemm`); the first normalisation is folded into the first convolution;
convolutions of width 3 and stride 2 save two ninths of their products (Winograd 1980); a wide positional convolution
runs in the frequency domain; queries, keys and values are one product; GELU and residual sums mostly cost no pass of
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.blocks import Block, ConvLayer, PositionLayer, PositionStack, Transformer, attend
from serkit.encoders.gemm import pack, pack_linear, unfold_rows

if TYPE_CHECKING:
    from serkit.encoders.wav2vec2 import Wav2Vec2Encoder

CHUNK_FRAMES = 100
"""Frames that the convolutions compute at a time, 2 s: their memory stays small whatever the length."""
CHUNK_ROWS = 512
"""Rows of attention computed at a time where the bias of all of them would be large."""
Bias = Tensor | Callable[[slice], Tensor] | None
"""What is added to attention scores, ``(heads, T, T)``, or what gives some of its rows, ``(heads, rows, T)``."""


class FirstConv:
    """The first convolution ``(S,)`` to ``(T, C)`` with its normalisation and GELU: one product for all of it.

    Group normalisation needs the mean and the variance of every channel over all frames. Both follow from mean and
    covariance of the ``kernel`` samples under the filters, so they are known before anything is convolved. Layer
    normalisation needs those of every frame over all channels: with the filters' mean taken off the mean is 0, and the
    variance follows from the samples by a matrix of ``kernel`` rows instead of ``C``.
    """

    def __init__(self, layer: ConvLayer, stride: int) -> None:
        self.weight, self.bias, self.norm = layer.conv.weight[:, 0, :], layer.conv.bias, layer.layer_norm
        self.kernel, self.stride = self.weight.shape[1], stride
        self.ones = 0
        if isinstance(self.norm, nn.LayerNorm):
            self.fold_channels(self.norm)

    def fold_channels(self, norm: nn.LayerNorm) -> None:
        """Lay out the layer normalisation: weights without their mean and the root ``(kernel, kernel)`` of variance."""
        weight = self.weight.double()
        if self.bias is not None:
            weight, self.ones = torch.cat([weight, self.bias.double()[:, None]], 1), 1
        weight = weight - weight.mean(0)
        self.root = (torch.linalg.qr(weight, mode="r")[1].T / len(weight) ** 0.5).float()
        self.product = pack((weight * norm.weight.double()[:, None]).float(), norm.bias, "fp32")

    def fold(self, waveform: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight ``(C, kernel)`` and bias ``(C,)`` that normalise all frames of ``waveform (S,)`` too."""
        if not isinstance(self.norm, nn.GroupNorm):
            return self.weight, self.bias
        windows = waveform.unfold(0, self.kernel, self.stride)
        total = torch.zeros(self.kernel, dtype=torch.float64)
        products = torch.zeros(self.kernel, self.kernel, dtype=torch.float64)
        for block in windows.split(1 << 16):
            wide = block.double()
            total += wide.sum(0)
            products += wide.T @ wide
        mean = total / len(windows)
        weight = self.weight.double()
        variance = ((weight @ (products / len(windows) - mean.outer(mean))) * weight).sum(1).clamp(min=0)
        gain = self.norm.weight.double() * (variance + self.norm.eps).rsqrt()
        bias = self.norm.bias.double() - gain * (weight @ mean)
        return (weight * gain[:, None]).float(), bias.float()

    def __call__(self, waveform: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = unfold_rows(waveform[:, None], self.kernel, self.stride)
        if not isinstance(self.norm, nn.LayerNorm):
            return torch.ops.aten.gelu_(F.linear(rows, weight, bias))
        rows = F.pad(rows, (0, self.ones), value=1.0)
        return self.product(rows * ((rows @ self.root).square().sum(1, True) + self.norm.eps).rsqrt(), gelu=True)


class FastConv:
    """Any further convolution ``(S, C)`` to ``(T, C')`` with its normalisation and GELU, as a product of rows."""

    def __init__(self, layer: ConvLayer, stride: int, precision: str) -> None:
        self.norm, self.bias = layer.layer_norm, layer.conv.bias
        self.kernel, self.stride = layer.conv.kernel_size[0], stride
        weight = layer.conv.weight.permute(0, 2, 1).flatten(1)  # (C', kernel * C)
        self.triples = precision == "fp32" and (self.kernel, stride) == (3, 2)
        if self.triples:
            self.weight = weight  # for what is left of a number of frames that 3 does not divide
            first, middle, last = layer.conv.weight.unbind(2)
            self.sum = pack((first + last) / 2, None, precision)
            self.difference = pack((first - last) / 2, None, precision)
            self.outer = [pack(torch.cat([side, middle], 1), self.bias, precision) for side in (first, last)]
            self.inner = pack(middle, self.bias, precision)
        else:
            self.linear = pack(weight, self.bias, precision)

    def __call__(self, x: Tensor) -> Tensor:
        if self.triples:
            return self.convolve_triples(x)
        y = self.linear.windows(x, self.kernel, self.stride, gelu=self.norm is None)
        return y if self.norm is None else self.finish(y)

    def convolve_triples(self, x: Tensor) -> Tensor:
        """Compute three frames at a time: with rows a b c d e f g, ``a A + b B + c C`` and so on.

        ``s = (c + e) (A + C) / 2`` and ``t = (e - c) (A - C) / 2`` give ``(a - e) A + b B + s + t``, ``d B + s - t``
        and ``(g - c) C + f B + s + t``: seven products instead of nine.
        """
        count, width = (len(x) - 3) // 2 + 1, x.shape[1]
        triples = count // 3
        y = x.new_empty(count, len(self.weight))
        if triples:
            a, b, c, d, e, f = x[: 6 * triples].view(triples, 6, width).unbind(1)
            g, frames = x[6 : 6 * triples + 1 : 6], y[: 3 * triples].view(triples, 3, -1)
            total, difference = self.sum(c + e), self.difference(e - c)
            frames[:, 1] = self.finish(self.inner(d.contiguous(), residual=total - difference))
            total += difference
            rows = x.new_empty(triples, 2 * width)
            for side, far, near, middle, product in zip((0, 2), (a, g), (e, c), (b, f), self.outer, strict=True):
                torch.sub(far, near, out=rows[:, :width])
                rows[:, width:] = middle
                frames[:, side] = self.finish(product(rows, residual=total))
        if count % 3:
            rest = unfold_rows(x[6 * triples : 2 * count + 1], 3, 2)
            y[3 * triples :] = self.finish(F.linear(rest, self.weight, self.bias))
        return y

    def finish(self, x: Tensor) -> Tensor:
        """Return GELU of the normalised ``x``, which may be overwritten."""
        return torch.ops.aten.gelu_(x if self.norm is None else self.norm(x))


class FastPosition:
    """The positional convolution ``(T, D)`` with GELU in the frequency domain, in overlapping pieces.

    2.5 kernels a piece was the fastest of 1.5 to 8 between 2 and 30 s, six times as fast as the convolution at 4 s.
    """

    def __init__(self, layer: PositionLayer) -> None:
        self.kernel, self.groups = layer.conv.kernel_size[0], layer.conv.groups
        self.size, self.bias = self.kernel * 5 // 2, layer.conv.bias
        self.step = self.size - self.kernel + 1
        grouped = layer.conv.weight.unflatten(0, (self.groups, -1))  # (groups, out, in, kernel)
        spectrum = torch.fft.rfft(grouped, n=self.size).conj()
        self.spectrum = spectrum.permute(3, 0, 2, 1).flatten(0, 1).resolve_conj().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        pieces, width = -(-len(x) // self.step), x.shape[1]
        padded = x.new_zeros(width, (pieces - 1) * self.step + self.size)
        padded[:, self.kernel // 2 : self.kernel // 2 + len(x)] = x.T
        spectrum = torch.fft.rfft(padded.unfold(1, self.size, self.step))  # (D, pieces, frequencies)
        rows = spectrum.unflatten(0, (self.groups, -1)).permute(3, 0, 2, 1).flatten(0, 1)
        mixed = torch.bmm(rows, self.spectrum).unflatten(0, (-1, self.groups)).permute(1, 3, 2, 0)
        y = torch.fft.irfft(mixed.flatten(0, 1), n=self.size)[:, :, : self.step].flatten(1)[:, : len(x)]
        return torch.ops.aten.gelu_(y.T + self.bias)


class FastPositions:
    """data2vec's stack of positional convolutions ``(T, D)`` to ``(T, D)``.

    As 2-D convolutions they read and write rows, and the normalisation between them needs no transposed copy. oneDNN
    also takes half the time for some numbers of frames (200, 400), for which it chooses badly in one dimension.
    """

    def __init__(self, stack: PositionStack) -> None:
        convs = [cast(PositionLayer, layer).conv for layer in stack.layers]
        self.groups, self.kernel = convs[0].groups, convs[0].kernel_size[0]
        self.layers = [
            (conv.weight[:, :, None].contiguous(memory_format=torch.channels_last), conv.bias) for conv in convs
        ]

    def __call__(self, x: Tensor) -> Tensor:
        count, padding = len(x), (0, self.kernel // 2)
        for weight, bias in self.layers:
            y = F.conv2d(x.T[None, :, None], weight, bias, padding=padding, groups=self.groups)[0, :, 0, :count]
            x = torch.ops.aten.gelu_(F.layer_norm(y.T, x.shape[1:]))
        return x


class FastBlock:
    """A transformer block ``(T, D)`` to ``(T, D)``."""

    def __init__(self, block: Block, precision: str) -> None:
        self.block, attention = block, block.attention
        self.mix = pack_linear(precision, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = pack_linear(precision, attention.out_proj)
        self.widen = pack_linear(precision, block.feed_forward.intermediate_dense)
        self.narrow = pack_linear(precision, block.feed_forward.output_dense)

    def attend(self, x: Tensor, bias: Bias) -> Tensor:
        attention = self.block.attention
        q, k, v = self.mix(x).view(1, len(x), 3, attention.heads, -1).unbind(2)
        if isinstance(bias, Tensor | None):
            return attend(q, k, v, attention.scores(x[None], None, bias)).reshape(x.shape)
        mixed = torch.empty_like(x)
        for start in range(0, len(x), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            mixed[rows] = attend(q[:, rows], k, v, bias(rows)[None])[0].flatten(1)
        return mixed

    def __call__(self, x: Tensor, bias: Bias) -> Tensor:
        first, second = self.block.layer_norm, self.block.final_layer_norm
        if self.block.pre_norm:
            x = self.out(self.attend(first(x), bias), residual=x)
            return self.narrow(self.widen(second(x), gelu=True), residual=x)
        x = first(self.out(self.attend(x, bias), residual=x))
        return second(self.narrow(self.widen(x, gelu=True), residual=x))


class FastEncoder:
    """``encoder`` laid out for inference at ``precision`` ("fp32" or "int8"), as its weights are now.

    :meth:`fits` tells whether they still are. A copy or a pickle of it is None: what holds it prepares its own.
    """

    def __init__(self, encoder: Wav2Vec2Encoder, precision: str) -> None:
        self.version = weight_version(encoder)
        self.weights = list(encoder.parameters())  # held, so that no new weight can lie where one of them lay
        config = encoder.config
        self.hop, self.receptive, self.kept = encoder.hop, encoder.min_samples, encoder.kept
        convs = [cast(ConvLayer, layer) for layer in encoder.feature_extractor.conv_layers]
        self.first = FirstConv(convs[0], config.conv_stride[0])
        self.convs = [
            FastConv(layer, stride, precision) for layer, stride in zip(convs[1:], config.conv_stride[1:], strict=True)
        ]
        self.norm = encoder.feature_projection.layer_norm
        self.projection = pack_linear(precision, encoder.feature_projection.projection)
        self.encoder, self.blocks = encoder, []
        self.position: FastPosition | FastPositions | None = None
        if encoder.encoder is not None:
            embed = encoder.encoder.pos_conv_embed
            self.position = FastPositions(embed) if isinstance(embed, PositionStack) else FastPosition(embed)
            self.blocks = [FastBlock(cast(Block, block), precision) for block in encoder.encoder.layers]

    def fits(self, encoder: Wav2Vec2Encoder) -> bool:
        """Tell whether no weight of ``encoder`` was changed or replaced since."""
        return self.version == weight_version(encoder)

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def __call__(self, waveform: Tensor, out: Tensor) -> None:
        """Write the kept layers of ``waveform (S,)`` to ``out (N, T, D)``."""

        def keep(layer: int | str, state: Tensor) -> None:
            if layer in self.kept:
                out[self.kept.index(layer)] = state

        x = self.projection(self.norm(self.convolve(waveform)))
        keep(0, x)
        transformer = self.encoder.encoder
        if transformer is None:
            return
        x = self.add_positions(x)
        keep("input", x)
        rows = self.encoder.position_bias_rows(len(x))
        bias: Bias = self.encoder.position_bias(len(x)) if rows is None else rows
        config, prefixed = self.encoder.config, self.encoder.prefixed
        x = self.encoder.prefix(x[None])[0]
        for number, block in enumerate(self.blocks, 1):
            x = block(x, bias)
            norm = transformer.layer_norm if config.pre_norm and number == config.blocks else None
            keep(number, (x if norm is None else norm(x))[prefixed:])

    def convolve(self, waveform: Tensor) -> Tensor:
        """Return the front end's output ``(T, C)``, computed in chunks whose samples overlap."""
        waveform = waveform.contiguous()
        if isinstance(self.first.norm, nn.GroupNorm):
            waveform = waveform - waveform.mean()  # changes nothing, but a weak signal on a constant stays exact
        folded = self.first.fold(waveform)
        count = (len(waveform) - self.receptive) // self.hop + 1
        chunks = []
        for start in range(0, count, CHUNK_FRAMES):
            last = min(start + CHUNK_FRAMES, count) - 1
            x = self.first(waveform[start * self.hop : last * self.hop + self.receptive], *folded)
            for conv in self.convs:
                x = conv(x)
            chunks.append(x)
        return torch.cat(chunks)

    def add_positions(self, x: Tensor) -> Tensor:
        """Return the input of the first block from layer 0 ``x (T, D)``."""
        assert self.position is not None
        x = x + self.position(x)
        norm = cast(Transformer, self.encoder.encoder).layer_norm
        return x if norm is None or self.encoder.config.pre_norm else norm(x)


def obstacle(encoder: Wav2Vec2Encoder, waveforms: Tensor) -> str | None:
    """Return why :class:`FastEncoder` cannot stand in for ``encoder`` on ``waveforms (B, S)``, None when it can."""
    if torch.compiler.is_compiling():
        return "it is compiled or exported"
    if torch.is_grad_enabled():
        return "gradients are on"
    if encoder.training and encoder.regularisation.switched_on():
        return "it is regularised in training"
    if encoder.packed:
        return "packed was asked for"
    weight = encoder.feature_projection.projection.weight
    if {waveforms.device.type, weight.device.type} != {"cpu"}:
        return f"it runs on {waveforms.device.type}"
    if {waveforms.dtype, weight.dtype} != {torch.float32} or torch.is_autocast_enabled("cpu"):
        return "it runs in half precision"
    plain = ("serkit.encoders.", "torch.nn.modules.")
    for module in encoder.modules():
        if module._forward_hooks or module._forward_pre_hooks or not type(module).__module__.startswith(plain):
            return f"a {type(module).__name__} in it was hooked or replaced"
    return None


def weight_version(encoder: nn.Module) -> list[tuple[int, int, int]]:
    """Return which weight it is, where it lies and how often it was written to: equal as long as none changes."""
    weights = encoder.parameters()
    return [(id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
