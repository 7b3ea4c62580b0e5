"""How much does padding change what an encoder says, in transformers and in serkit?

    python benchmarks/padding.py [--blocks 12] [--dim 768] [--folder PATH]

Takes 2 s, 3.7 s and 6 s of speech, encodes each alone and all three in one batch padded to 6 s, and compares the last
hidden state of the two short clips: cosine of their means over the clip's own frames, and largest difference of a
frame. transformers is run as its feature extractors feed it (each clip normalised by itself, zeros after), without and
with an attention mask. Weights are random, drawn by transformers' own initialisation: give ``--folder`` a folder in
Hugging Face's format to measure a published model instead. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from serkit.data.audio import read_audio
from serkit.encoders import create_encoder

EXAMPLES = Path(__file__).parents[1] / "examples"
SECONDS = (2.0, 3.7, 6.0)
GROUP, LAYER = {"feat_extract_norm": "group"}, {"feat_extract_norm": "layer", "conv_bias": True}
BUILDS = {
    "wav2vec 2.0 base": ("Wav2Vec2", GROUP),
    "wav2vec 2.0 large, XLSR": ("Wav2Vec2", {**LAYER, "do_stable_layer_norm": True}),
    "HuBERT base": ("Hubert", GROUP),
    "WavLM base": ("WavLM", GROUP),
    "WavLM large": ("WavLM", {**LAYER, "do_stable_layer_norm": True}),
    "data2vec-audio": ("Data2VecAudio", {}),
}


def read_clips() -> list[torch.Tensor]:
    """Return speech of :data:`SECONDS` out of the example recordings, each with mean 0 and variance 1."""
    speech = np.concatenate([read_audio(str(path)) for path in sorted(EXAMPLES.glob("*.flac"))])
    starts = np.arange(len(SECONDS)) * 6 * 16_000
    clips = [speech[start : start + int(seconds * 16_000)] for start, seconds in zip(starts, SECONDS, strict=True)]
    return [torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)) for clip in clips]


@torch.no_grad()
def compare(name: str, model: torch.nn.Module, folder: Path, clips: list[torch.Tensor]) -> list[dict[str, object]]:
    """Return one row per short clip: cosine and largest difference, batched against alone, for each way to run."""
    family = "wavlm" if model.config.model_type == "wavlm" else "wav2vec2"
    encoder = create_encoder(family, weights=str(folder), normalise=False)
    lengths = torch.tensor([len(clip) for clip in clips])
    frames = encoder.frame_lengths(lengths).tolist()
    waveforms = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    mask = (torch.arange(waveforms.shape[1])[None, :] < lengths[:, None]).long()
    reference = [model(clip[None]).last_hidden_state[0] for clip in clips[:2]]
    ours = [encoder(clip[None], torch.tensor([len(clip)])).layers[0, -1] for clip in clips[:2]]
    ways = {
        "no mask": (reference, model(waveforms).last_hidden_state),
        "mask": (reference, model(waveforms, attention_mask=mask).last_hidden_state),
        "serkit": (ours, encoder(waveforms, lengths).layers[:, -1]),
        "serkit and transformers, alone": (reference, ours),
    }
    rows = []
    for number in range(2):
        row: dict[str, object] = {"model": name, "seconds": SECONDS[number]}
        for way, (alone, batch) in ways.items():
            one, many = alone[number], batch[number][: frames[number]]
            cosine = torch.cosine_similarity(one.double().mean(0), many.double().mean(0), 0)
            row[way] = {"cosine": round(float(cosine), 6), "difference": float(f"{(one - many).abs().max():.2g}")}
        rows.append(row)
    return rows


def show(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    ways = list(rows[0])[2:]
    print(f"| {'model':24} | clip  | " + " | ".join(ways) + " |")
    print("|---|---|" + "---|" * len(ways))
    for row in rows:
        cells = [f"{row[way]['cosine']:.6f}, {row[way]['difference']:.1e}" for way in ways]  # type: ignore[index]
        print(f"| {row['model']:24} | {row['seconds']} s | " + " | ".join(cells) + " |")


def main() -> None:
    """Build, encode, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    clips, rows = read_clips(), []
    if options.folder:
        model = transformers.AutoModel.from_pretrained(options.folder, dtype=torch.float32).eval()
        rows = compare(options.folder.name, model, options.folder, clips)
    for name, (family, build) in {} if options.folder else BUILDS.items():
        torch.manual_seed(0)
        sizes = {"hidden_size": options.dim, "num_hidden_layers": options.blocks, "intermediate_size": 4 * options.dim}
        config = getattr(transformers, f"{family}Config")(**sizes, num_attention_heads=options.dim // 64, **build)
        model = getattr(transformers, f"{family}Model")(config).eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            rows += compare(name, model, Path(folder), clips)
    show(rows)
    print(json.dumps({"weights": str(options.folder or "random"), "versions": transformers.__version__, "rows": rows}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
