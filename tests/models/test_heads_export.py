"""Every head as ONNX says what it says in PyTorch, of utterances of any number and length and of the frames in them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from serkit.encoders.base import FrameFeatures
from serkit.models.heads import Batch, HeadConfig, create_head
from serkit.models.norms import BatchNorm
from serkit.models.poolings import POOLINGS, EcapaPooling

torch.set_num_threads(1)

LAYERS, DIM, CLASSES = 2, 6, 3
I3 = {"frame_hidden": (), "mix": "sum", "pooled_activation": "relu", "batch_norm": True, "channels": 8}
HEADS = {f"frames {name}": HeadConfig(pooling=name, **I3) for name in POOLINGS}
HEADS["frames max, layers apart"] = HeadConfig(pooling="max", mix_position="pooled", **I3)
HEADS |= {f"pooled {name}": HeadConfig(kind="pooled", pooling=name, **I3) for name in ("mean", "mean+std")}


class Heads(nn.Module):
    """Every head on the layers of one encoder, as :class:`~serkit.models.graph.Graph` asks them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(create_head(config, [(LAYERS, DIM)], CLASSES) for config in HEADS.values())
        for ecapa in (head.heads[0] for name, head in zip(HEADS, self.heads, strict=True) if "ecapa" in name):
            ecapa.pool = EcapaPooling(DIM, 8, 5, 4, scale=2)  # eight groups in each block take half a minute to export
        for norm in (module for module in self.modules() if isinstance(module, BatchNorm)):
            for tensor in (norm.weight.data, norm.bias.data, norm.mean, norm.variance):
                tensor.copy_(torch.rand_like(tensor) + 0.5)

    def forward(self, layers, lengths):
        features = FrameFeatures(layers, lengths, 50.0)
        batches = (Batch.of_frames(features, (0, 1), 2), Batch.of_frames(features, (0, 1), 2, 2, 2))
        return tuple(head(batch) for head in self.heads for batch in batches)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    onnxruntime = pytest.importorskip("onnxruntime")
    heads, path = Heads().eval(), tmp_path_factory.mktemp("heads") / "heads.onnx"
    batch, time = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("time", min=5, max=2000)
    program = torch.onnx.export(
        heads, (torch.randn(2, LAYERS, 29, DIM), torch.tensor([29, 13])), input_names=["layers", "lengths"],
        output_names=[f"{name} {what}" for name in HEADS for what in ("whole", "around")],
        dynamic_shapes=({0: batch, 2: time}, {0: batch}), dynamo=True, verbose=False, optimize=False,
    )  # fmt: skip
    program.save(str(path))
    return heads, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("lengths", [[20, 13], [1], [4, 31, 9], [3, 2, 2, 5]])
def test_onnx_says_the_same(exported, lengths):
    heads, session = exported
    layers = torch.zeros(len(lengths), LAYERS, max(5, *lengths), DIM)
    for row, length in zip(layers, lengths, strict=True):
        row[:, :length] = torch.randn(LAYERS, length, DIM, generator=torch.Generator().manual_seed(length))
    counts = torch.tensor(lengths)
    with torch.no_grad():
        wanted = heads(layers, counts)
        alone = [
            heads(row[None, :, :length], torch.tensor([length])) for row, length in zip(layers, lengths, strict=True)
        ]
    found = session.run(None, {"layers": layers.numpy(), "lengths": counts.numpy()})
    for number, (output, values) in enumerate(zip(session.get_outputs(), found, strict=True)):
        assert torch.isfinite(torch.from_numpy(values)).all(), output.name
        # Deviations inside windows are differences of large numbers.
        exact = output.name.endswith("whole") or output.name.split()[1] in ("mean", "sum", "max")
        torch.testing.assert_close(
            torch.from_numpy(values), wanted[number], atol=1e-5 if exact else 1e-3, rtol=1e-4,
            msg=lambda text, o=output: f"{o.name}: {text}",
        )  # fmt: skip
        if output.name.endswith("whole"):
            own = torch.cat([each[number] for each in alone])
            torch.testing.assert_close(torch.from_numpy(values), own, atol=1e-5, rtol=1e-4)
