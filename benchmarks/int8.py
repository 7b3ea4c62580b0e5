"""What does int8 cost on speakers or corpora that a model has not seen?

    python benchmarks/int8.py RUN [--fold NAME]

Takes the heads of a finished run, exports each fold's model as float32 and as int8, and recognises the fold's test
part with both from the recordings. Prints UAR of both beside the run's own (from cached features, PyTorch), the share
of equal labels, and the accuracy difference with a 95 % interval (bootstrap over speakers). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file

from serkit.data.audio import read_audio
from serkit.evaluation.metrics import uar
from serkit.inference.bundle import Bundle, Card
from serkit.models.graph import Graph
from serkit.models.heads import create_head
from serkit.models.onnx_files import export_graph, quantise
from serkit.training.material import encoder_spec, load_data
from serkit.training.recipe import load_recipe


def recognise(folder: Path, rows: pl.DataFrame) -> list[str]:
    """Return the labels that the bundle in ``folder`` gives the recordings of ``rows``."""
    bundle = Bundle(folder)
    spans = rows.select("audio", "start", "end").iter_rows()
    return [bundle.card.classes[bundle.run(read_audio(*span)).probabilities.argmax()] for span in spans]


def main() -> None:
    """Export, recognise, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--fold", default=None)
    options = parser.parse_args()
    recipe = load_recipe(options.run / "recipe.toml")
    manifest, classes = load_data(recipe), recipe.labels.classes
    table = pl.read_parquet(options.run / "predictions.parquet")
    table = table.filter(pl.col("part") == "test", pl.col("seed") == recipe.seeds[0])
    encoder = encoder_spec(recipe.encoder).create()
    layers = recipe.encoder.chosen(encoder.num_layers)
    parts = []
    for fold in table["fold"].unique().sort() if options.fold is None else [options.fold]:
        rows = table.filter(pl.col("fold") == fold)
        head = create_head(recipe.head, [(len(layers), encoder.dim)], len(classes))
        head.load_state_dict(
            load_file(options.run / "models" / f"{fold.replace('/', '-')}-seed{recipe.seeds[0]}.safetensors")
        )
        graph = Graph(encoder, head.eval(), layers, recipe.encoder.stride)
        card = Card(fold, classes, 1.0, 0.25, 15.0, encoder.frame_rate).dump()
        with tempfile.TemporaryDirectory() as name:
            found = {}
            for precision in ("float32", "int8"):
                folder = Path(name) / precision
                folder.mkdir()
                (folder / "serkit.json").write_text(json.dumps(card))
                export_graph(graph, Path(name) / "graph.onnx")
                if precision == "int8":
                    quantise(Path(name) / "graph.onnx", folder / "model.onnx")
                else:
                    (Path(name) / "graph.onnx").rename(folder / "model.onnx")
                found[precision] = recognise(folder, manifest.select(rows["id"]).table)
        parts.append(rows.with_columns(pl.Series(key, value) for key, value in found.items()))
    judged = pl.concat(parts)
    truth = judged["truth"].to_list()
    names = ("prediction", "float32", "int8")
    result: dict[str, object] = {"run": recipe.name, "n": judged.height}
    result |= {f"uar_{name}": round(uar(truth, judged[name].to_list(), classes), 4) for name in names}
    result["float32_equals_pytorch"] = round(float((judged["float32"] == judged["prediction"]).mean()), 4)
    result["int8_equals_float32"] = round(float((judged["int8"] == judged["float32"]).mean()), 4)
    difference = (judged["int8"] == judged["truth"]).cast(int) - (judged["float32"] == judged["truth"]).cast(int)
    by_speaker = (
        judged.with_columns(d=difference).group_by("corpus", "speaker").agg(pl.col("d").sum(), pl.len().alias("n"))
    )
    draws = np.random.default_rng(0).integers(by_speaker.height, size=(2000, by_speaker.height))
    spread = by_speaker["d"].to_numpy()[draws].sum(1) / by_speaker["n"].to_numpy()[draws].sum(1)
    result["accuracy_difference"] = round(float(difference.mean()), 4)
    result["accuracy_difference_95"] = [round(float(value), 4) for value in np.quantile(spread, [0.025, 0.975])]
    for key, value in result.items():
        print(f"{key:<28} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
