"""FunASR's side of benchmarks/emotion2vec.py, run by the Python of an environment that has funasr and no serkit.

Reads one JSON request a line and answers each with one JSON line; arrays go through .npz and .npy files.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLASSES = 9
model: Any = None


def build(conf: dict[str, Any], seed: int) -> Any:
    """Return the class with every weight drawn anew: no norm, bias or ALiBi scale stays as it is initialised."""
    from funasr.models.emotion2vec.model import Emotion2vec
    from omegaconf import OmegaConf

    built = Emotion2vec(model_conf=OmegaConf.create(conf), vocab_size=CLASSES).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("alibi_scale"):
                weight.copy_((1 + 0.5 * noise).abs())
            elif name.endswith("extra_tokens"):
                weight.copy_(noise)
            elif weight.ndim == 1:
                weight.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
            else:
                weight.copy_(noise * weight[0].numel() ** -0.5)
    return built


def write(folder: str, conf: dict[str, Any], seed: int, tokens: str) -> dict[str, Any]:
    """Write a folder as the published ones are, with random weights; keep the model for :func:`compare`."""
    import yaml

    global model
    model = build(conf, seed)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    names = {key: key if key.startswith("proj.") else f"d2v_model.{key}" for key in model.state_dict()}
    torch.save({"model": {names[key]: value for key, value in model.state_dict().items()}}, path / "model.pt")
    (path / "tokens.txt").write_text(tokens)
    settings = {
        "model": "Emotion2vec",
        "model_conf": conf,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
        "scope_map": ["d2v_model.", "none"],
    }
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    metas = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"token_list": "tokens.txt"}}
    wanted = {"framework": "pytorch", "task": "emotion-recognition", "file_path_metas": metas}
    (path / "configuration.json").write_text(json.dumps(wanted))
    return {"parameters": sum(weight.numel() for weight in model.parameters())}


@torch.no_grad()
def compare(clips: str, out: str) -> dict[str, Any]:
    """Write features and logits of every clip alone, and features of all as one padded batch with its mask."""
    waves = [torch.from_numpy(wave) for wave in np.load(clips).values()]
    waves = [torch.nn.functional.layer_norm(wave, wave.shape) for wave in waves]
    arrays = {}
    for number, wave in enumerate(waves):
        features = model.extract_features(wave[None], padding_mask=None)["x"]
        arrays[f"alone_{number}"], arrays[f"logits_{number}"] = (
            features[0].numpy(),
            model.proj(features.mean(1)).numpy(),
        )
    longest = max(len(wave) for wave in waves)
    batch = torch.stack([torch.nn.functional.pad(wave, (0, longest - len(wave))) for wave in waves])
    mask = torch.arange(longest)[None, :] >= torch.tensor([len(wave) for wave in waves])[:, None]
    arrays["batch"] = model.extract_features(batch, padding_mask=mask)["x"].numpy()
    np.savez(out, **arrays)
    return {}


def open_folder(folder: str) -> dict[str, Any]:
    """Load a folder as a user does; answers how many threads FunASR chooses."""
    from funasr import AutoModel

    global model
    model = AutoModel(model=folder, device="cpu", disable_update=True, disable_pbar=True)
    return {"threads": torch.get_num_threads()}


def run(files: list[str], threads: int, together: bool, out: str = "") -> dict[str, Any]:
    """Recognise ``files`` one call each or in one call, with features; answers seconds, writes the features."""
    torch.set_num_threads(threads)
    wall, busy = time.perf_counter(), time.process_time()
    if together:
        results = model.generate(files, granularity="utterance", extract_embedding=True, batch_size=8)
    else:
        results = [model.generate(name, granularity="utterance", extract_embedding=True)[0] for name in files]
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - busy}
    if out:
        np.save(out, np.stack([result["feats"] for result in results]))
    return {**seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # FunASR prints
    torch.set_num_threads(1)  # AutoModel sets its own
    jobs = {"write": write, "compare": compare, "open": open_folder, "run": run}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(jobs[request.pop("do")](**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
