"""How fast emotion2vec is pretrained: hours of audio an hour, and the share of the device's peak that is used.

    python benchmarks/pretraining.py
    python benchmarks/pretraining.py --recipes emotion2vec/base --device cuda --peak 989 --rounds 5

A round is an update of one batch of noise, forward, backward, optimiser and teacher, with processor time on a CPU
(wall time would count waiting for other programs) and wall time on a GPU. Operations are counted by PyTorch: what the
update asks for, matrix products, convolutions and attention. The peak of a CPU is that of a product of two matrices of
2048 rows on one core, in the recipe's precision, measured beside every round; that of a GPU is --peak, in TFLOP/s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import torch
from peak import measure_peak
from torch.utils.flop_counter import FlopCounterMode

from serkit.data.audio import SAMPLING_RATE
from serkit.models.model import Waveforms
from serkit.training.pretraining.loop import count_gradients, create_optimizer
from serkit.training.pretraining.options import PretrainRecipe
from serkit.training.pretraining.recipe import load_pretraining
from serkit.training.pretraining.run import count_parameters, create_method

HOURS, EPOCHS = 262.0, 100
"""Ma et al. 2024: the corpora of emotion2vec base."""
PAPER = HOURS / (37 / 60)
"""Hours of audio an hour: 37 minutes an epoch on 4 NVIDIA A10."""


def measure(recipe: PretrainRecipe, options: argparse.Namespace) -> dict[str, Any]:
    """Return what was measured of ``recipe``."""
    device = torch.device(options.device)
    method, _ = create_method(recipe)
    method.to(device).train()
    optimizer = create_optimizer(method, recipe.training)
    size = round(options.clip * SAMPLING_RATE)
    count = max(1, int(min(recipe.training.batch_samples, options.most * SAMPLING_RATE) // size))
    audio = Waveforms(0.1 * torch.randn(count, size), torch.full((count,), size))
    clock = time.process_time if options.device == "cpu" else time.perf_counter

    def update(number: int) -> float:
        began = clock()
        count_gradients(method, audio, recipe, number, 0, device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.update_teacher(number)
        if options.device == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    with FlopCounterMode(display=False) as counter:
        update(1)
    seconds, peaks = [], []
    for number in range(2, 2 + options.rounds):
        seconds.append(update(number))
        half = recipe.training.precision == "bf16"
        peaks.append(options.peak * 1e12 or measure_peak(torch.bfloat16 if half else torch.float32))
    heard, flops = count * options.clip, counter.get_total_flops()
    speed = [heard / each for each in seconds]  # hours of audio an hour
    middle = statistics.median(speed)
    return {
        "parameters": count_parameters(method.student),
        "clips": count,
        "gflop_per_second_of_audio": flops / heard / 1e9,
        "hours_per_hour": middle,
        "range": [min(speed), max(speed)],
        "utilisation": statistics.median(flops / each / peak for each, peak in zip(seconds, peaks, strict=True)),
        "peak_gflops": statistics.median(peaks) / 1e9,
        "days_for_the_paper": HOURS * EPOCHS / middle / 24,
    }


def main() -> None:
    """Measure the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default="emotion2vec/tiny,emotion2vec/small")
    parser.add_argument("--clip", type=float, default=3.4, help="length of a clip, seconds")
    parser.add_argument("--most", type=float, default=62.5, help="audio in a batch at most, seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s that the device is said to reach, for cuda")
    parser.add_argument("overrides", nargs="*", help="section.key=value of the recipes")
    options = parser.parse_args()
    if options.device == "cuda" and not options.peak:
        parser.error("--device cuda: say --peak, such as 989 for an H100 in bfloat16")
    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 1)
    rows = {name: measure(load_pretraining(name, options.overrides), options) for name in options.recipes.split(",")}
    print(f"{options.device}, {options.rounds} rounds, clips of {options.clip} s, load before {load}\n")
    print("recipe              parameters  GFLOP/s of audio  h of audio/h (range)    of peak  days for 262 h x 100")
    for name, row in rows.items():
        low, high = row["range"]
        print(
            f"{name:<18}  {row['parameters'] / 1e6:>8.2f} M  {row['gflop_per_second_of_audio']:>16.2f}  "
            f"{row['hours_per_hour']:>6.1f} ({low:.1f}-{high:.1f})".ljust(72)
            + f"  {row['utilisation']:>7.2f}  {row['days_for_the_paper']:>21.1f}"
        )
    print(f"{'the paper, 4 A10':<18}  {'93.79 M':>10}  {'':>16}  {PAPER:>6.1f}".ljust(72), end="")
    print(f"  {'':>7}  {HOURS * EPOCHS / PAPER / 24:>21.1f}")
    print(json.dumps({**vars(options), "load_before": load, "paper_hours_per_hour": PAPER, "rows": rows}))


if __name__ == "__main__":
    main()
