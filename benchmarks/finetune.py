"""How many steps of fine-tuning per second, beside the Trainer of transformers?

    python benchmarks/finetune.py [--size base] [--rounds 2] [--steps 1] [--rows hf8,serkit,...] [--device cpu]

The model of Cai et al. 2021: wav2vec 2.0 with all weights trained, CTC on every frame (32 symbols) and emotion (4
classes) on their mean, AdamW, gradients clipped, dropout and time masking as published; random weights, written as a
Hugging Face checkpoint that both sides load. Effective batch 8, one thread.

    hf8        transformers.Trainer, random batches of 8, padded to the longest, no attention mask (base models)
    hf2x4      the same, batches of 2 with gradients accumulated over 4
    published  the same with gradient checkpointing, as in the published script
    hfgroup    batches of 8, train_sampling_strategy="group_by_length"
    serkit     serkit.training.finetune.finetune, float32, default micro-batches
    bf16       the same with precision = "bf16"
    frozen     serkit with freeze = "front-end"
    lora       serkit with LoRA of rank 8 on queries and values
    whole      serkit with all 8 utterances of a step in one padded micro-batch
    packed     the same with packed = true: no padding after the convolutions

A round takes ``8 * steps`` generated utterances, one from each of as many equal shares of a log-normal distribution of
lengths (mean 4.5 s, deviation 3.2 s, within 0.6 to 34 s), other ones in other rounds. All rows of a round train on the
same utterances for the same number of steps. Rows alternate, in reversed order every other round; a ratio is that of
two rows of a round. Loading is off the clock. On a CPU the clock is processor time, which other work on the machine
disturbs little; ``x wall`` says how much longer it took.

How much padding a row computes depends on chance: ``here`` is padded over recorded audio in these rounds, ``epoch``
the same over an epoch of 5531 utterances (IEMOCAP's four classes) batched by the row's own rule. ``x epoch`` is the
ratio to hf8 with each side's time scaled from ``here`` to ``epoch``. Grouping by length needs more utterances than a
short run has: ``--deviation 0.1 --rows hf8,serkit`` compares batches as even as it makes them in the middle.

Work is counted in multiplications and additions of matrix products and convolutions (:func:`count_flops`), of real
frames only and three times those of a forward pass; ``peak`` is its share of what one large product of matrices reaches
in the same process (on a GPU, of ``--peak``).

``--device cuda`` trains in bfloat16 on both sides, with wall time, more utterances and hours for 200 epochs of them.
Ends with one JSON line. Base size needs 16 GB of memory for hf8.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peak import measure_peak
from torch import Tensor, nn

from serkit.data.labels import LabelScheme
from serkit.data.text import WAV2VEC2
from serkit.encoders import create_encoder
from serkit.encoders.regularise import Regularisation
from serkit.models.heads import HeadConfig, create_head
from serkit.models.model import Model
from serkit.models.tasks import CtcConfig, CtcTask, EmotionConfig, EmotionTask
from serkit.training.batching import BatchOptions, plan_epoch
from serkit.training.finetune import finetune
from serkit.training.fit import TrainingOptions
from serkit.training.tuning import FinetuneOptions, LoraOptions, prepare_encoder
from serkit.training.waveforms import WaveformSet, WaveformStore

RATE, BATCH, UTTERANCES, EPOCHS = 16_000, 8, 5531, 200
MEAN, DEVIATION, SHORTEST, LONGEST = 4.5, 3.2, 0.6, 34.0
CHARACTERS = 12.7
"""Symbols per second of a transcript: 57 in 4.5 s."""
SIZES = {"base": {}, "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 1024, "conv_dim": (128,) * 7}}  # fmt: skip
DROPOUT, MASKED, LR = 0.1, 0.05, 5e-5
BAR = 1.8
HF = {"hf8": (8, {}), "hf2x4": (2, {}), "published": (2, {"gradient_checkpointing": True}),
      "hfgroup": (8, {"train_sampling_strategy": "group_by_length"})}  # fmt: skip
WHOLE = BatchOptions(waste=1, micro_seconds=1000)
SERKIT: dict[str, dict[str, Any]] = {
    "serkit": {}, "bf16": {"precision": "bf16"}, "frozen": {"freeze": "front-end"}, "lora": {"lora": LoraOptions()},
    "whole": {"batches": WHOLE}, "packed": {"batches": WHOLE},
}  # fmt: skip
ROWS = {"cpu": "hf8,hf2x4,published,serkit,bf16,frozen,lora", "cuda": "hf8,hfgroup,serkit,whole,packed"}


@dataclass(frozen=True)
class Example:
    """An utterance: its waveform ``(S,)`` of mean 0 and variance 1, symbols ``(L,)`` and class."""

    waveform: np.ndarray
    symbols: Tensor
    emotion: int


def lengths_at(quantiles: Sequence[float], deviation: float) -> np.ndarray:
    """Return the lengths in seconds at ``quantiles`` in (0, 1) of the distribution."""
    variance = math.log(1 + (deviation / MEAN) ** 2)
    normal = statistics.NormalDist(math.log(MEAN) - variance / 2, math.sqrt(variance))
    return np.clip(np.exp([normal.inv_cdf(share) for share in quantiles]), SHORTEST, LONGEST)


def draw_round(number: int, rounds: int, count: int, deviation: float) -> list[Example]:
    """Return ``count`` voice-like utterances in random order: harmonics that glide, syllables, noise."""
    rng = np.random.default_rng(number)
    inside = 0.3 + 0.4 * (number + 0.5) / rounds  # where in its share of the distribution a length lies
    examples = []
    for seconds in rng.permutation(lengths_at([(share + inside) / count for share in range(count)], deviation)):
        moments = np.arange(int(seconds * RATE)) / RATE
        pitch = rng.uniform(90, 250) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * moments))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        syllables = np.clip(np.sin(2 * np.pi * rng.uniform(3, 5) * moments + rng.uniform(0, 6)), 0, 1)
        wave = sum(np.sin(k * phase) / k for k in range(1, 20)) * syllables + rng.normal(0, 0.03, len(moments))
        wave = ((wave - wave.mean()) / wave.std()).astype(np.float32)
        symbols = torch.from_numpy(rng.integers(5, len(WAV2VEC2), max(1, int(seconds * CHARACTERS))))
        examples.append(Example(wave, symbols, int(rng.integers(4))))
    return examples


def write_model(folder: Path, size: str) -> transformers.Wav2Vec2Config:
    """Write a random model as transformers does, with what acts in the training of facebook/wav2vec2-base."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        **SIZES[size], vocab_size=len(WAV2VEC2), hidden_dropout=DROPOUT, attention_dropout=DROPOUT,
        feat_proj_dropout=DROPOUT, activation_dropout=0.0, final_dropout=0.0, layerdrop=0.0, mask_time_prob=MASKED,
        ctc_loss_reduction="sum",
    )  # fmt: skip
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(folder)
    return config


class CtcEmotion(transformers.Wav2Vec2PreTrainedModel):
    """The published model: two linear heads, one per frame and one on the mean of all frames, padding included."""

    def __init__(self, config: transformers.Wav2Vec2Config) -> None:
        super().__init__(config)
        self.wav2vec2 = transformers.Wav2Vec2Model(config)
        self.speak, self.feel = nn.Linear(config.hidden_size, len(WAV2VEC2)), nn.Linear(config.hidden_size, 4)
        self.post_init()

    def forward(self, input_values: Tensor, symbols: Tensor, counts: Tensor, emotions: Tensor) -> dict[str, Tensor]:
        """Return the loss: cross-entropy plus a tenth of CTC, added up over the batch."""
        frames = self.wav2vec2(input_values).last_hidden_state
        scores = self.speak(frames).float().log_softmax(-1).transpose(0, 1)
        sizes = torch.full((len(input_values),), scores.shape[0])
        ctc = nn.functional.ctc_loss(scores, symbols, sizes, counts, blank=0, reduction="sum")
        return {"loss": nn.functional.cross_entropy(self.feel(frames.mean(1)).float(), emotions) + 0.1 * ctc}


class Recordings(torch.utils.data.Dataset):
    """The utterances in memory, and how many samples batches of them had."""

    def __init__(self, examples: list[Example]) -> None:
        self.examples, self.computed = examples, 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = self.examples[row]
        return {"input_values": example.waveform, "symbols": example.symbols, "emotion": example.emotion}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad a batch to its longest with zeros."""
        waves = [torch.from_numpy(row["input_values"]) for row in rows]
        padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        self.computed += padded.numel()
        return {
            "input_values": padded,
            "symbols": torch.cat([row["symbols"] for row in rows]),
            "counts": torch.tensor([len(row["symbols"]) for row in rows]),
            "emotions": torch.tensor([row["emotion"] for row in rows]),
        }


Run = Callable[[], float]
"""What the clock sees; returns padded over recorded audio."""


def prepare_trainer(row: str, model: Path, examples: list[Example], seed: int, device: str) -> Run:
    """Load the reference; returns its training."""
    size, extra = HF[row]
    data, steps = Recordings(examples), len(examples) // BATCH
    arguments = transformers.TrainingArguments(
        output_dir=str(model.parent / "trainer"), per_device_train_batch_size=size,
        gradient_accumulation_steps=BATCH // size, max_steps=steps, learning_rate=LR, weight_decay=0.0,
        max_grad_norm=1.0, lr_scheduler_type="linear", warmup_steps=0, save_strategy="no",
        logging_strategy="no", report_to=[], disable_tqdm=True, seed=seed, use_cpu=device == "cpu",
        bf16=device == "cuda", remove_unused_columns=False, dataloader_num_workers=0, **extra,
    )  # fmt: skip
    loaded = CtcEmotion.from_pretrained(model)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(model)  # tells it where lengths are
    trainer = transformers.Trainer(
        loaded, arguments, train_dataset=data, data_collator=data.collate, processing_class=extractor
    )

    def run() -> float:
        trainer.train()
        return data.computed / sum(len(example.waveform) for example in examples)

    return run


def prepare_serkit(row: str, model: Path, examples: list[Example], seed: int, device: str) -> Run:
    """Load serkit's model; returns its training."""
    settings = {"precision": "bf16"} if device == "cuda" else {}
    options = FinetuneOptions(
        lr=LR, **{**settings, **SERKIT[row]},
        regularise=Regularisation(
            dropout=DROPOUT, attention_dropout=DROPOUT, projection_dropout=DROPOUT, mask_time=MASKED
        ),
    )  # fmt: skip
    training = TrainingOptions(
        epochs=1, batch_size=BATCH, lr=LR, weight_decay=0.0, schedule="linear", warmup=0.0, label_smoothing=0.0,
        clip_norm=1.0,
    )  # fmt: skip
    blocks = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    # Both sides get waveforms that are normalised already.
    encoder = create_encoder("wav2vec2", weights=str(model), layers=[blocks], normalise=False,
                             packed=row == "packed")  # fmt: skip
    head = create_head(HeadConfig(frame_hidden=(), pooling="mean", dropout=0.0), [(1, encoder.dim)], 4)
    tasks = [
        EmotionTask(EmotionConfig(), head, LabelScheme("benchmark", ("neutral", "happy", "angry", "sad"))),
        CtcTask(CtcConfig(vocabulary="wav2vec2"), encoder.dim, WAV2VEC2),
    ]
    prepare_encoder(encoder, options)
    path = model.parent / "samples.f32"
    path.write_bytes(b"".join(example.waveform.tobytes() for example in examples))
    store = WaveformStore(path, tuple(np.cumsum([len(example.waveform) for example in examples]).tolist()))
    targets = {"emotion": [torch.eye(4)[example.emotion] for example in examples],
               "ctc": [example.symbols for example in examples]}  # fmt: skip
    rows = tuple(range(len(examples)))
    train = WaveformSet(tuple(map(str, rows)), store, rows, targets, torch.ones(len(rows)))
    whole = Model(encoder, tasks, (0,))

    def run() -> float:
        finetune(whole, train, None, training, options, seed, device=device)
        plan = plan_epoch(train.seconds, BATCH, options.batches, np.random.default_rng([seed, 0]))
        return padding([piece for step in plan for piece in step], train.seconds)

    return run


def padding(batches: list[list[int]], seconds: Sequence[float]) -> float:
    """Return padded over recorded audio."""
    padded = sum(max(seconds[row] for row in batch) * len(batch) for batch in batches)
    return padded / sum(seconds[row] for batch in batches for row in batch)


def epoch_padding(row: str, deviation: float) -> float:
    """Return padded over recorded audio for an epoch of :data:`UTTERANCES`, batched by the rule of ``row``."""
    seconds = lengths_at((np.arange(UTTERANCES) + 0.5) / UTTERANCES, deviation).tolist()
    if row in SERKIT:
        steps = plan_epoch(seconds, BATCH, FinetuneOptions(**SERKIT[row]).batches, np.random.default_rng(0))
        return padding([piece for step in steps for piece in step], seconds)
    size, extra = HF[row]
    order = np.random.default_rng(0).permutation(UTTERANCES).tolist()
    if extra.get("train_sampling_strategy"):
        from transformers.trainer_pt_utils import get_length_grouped_indices

        order = get_length_grouped_indices(seconds, size, generator=torch.Generator().manual_seed(0))
    return padding([order[first : first + size] for first in range(0, UTTERANCES, size)], seconds)


def count_flops(config: transformers.Wav2Vec2Config, seconds: float) -> tuple[float, float]:
    """Return operations of a forward pass over ``seconds`` of audio: of the convolutions, and of what follows.

    A product of ``(m, k)`` and ``(k, n)`` counts ``2 m k n``. With T frames, width D and inner width F: a convolution
    of kernel k over C channels ``2 T k C C'``, the positional one ``2 T k D D / groups``, a block ``T (8 D D + 4 D F)``
    for its linear layers and ``4 T T D`` for scores and mixture. Heads, activations and normalisations are left out.
    """
    frames, channels, front = int(seconds * RATE), 1, 0.0
    for kernel, stride, outputs in zip(config.conv_kernel, config.conv_stride, config.conv_dim, strict=True):
        frames = (frames - kernel) // stride + 1
        front += 2 * frames * kernel * channels * outputs
        channels = outputs
    dim, inner = config.hidden_size, config.intermediate_size
    rest = 2 * frames * channels * dim
    rest += 2 * frames * config.num_conv_pos_embeddings * dim * dim / config.num_conv_pos_embedding_groups
    rest += config.num_hidden_layers * (frames * (8 * dim * dim + 4 * dim * inner) + 4 * frames * frames * dim)
    return front, rest


PASSES = {"frozen": (1, 3), "lora": (1, 2)}
"""Forward passes' worth of work in convolutions and the rest: without a gradient of weights, or none at all."""


def needed_flops(row: str, config: transformers.Wav2Vec2Config, examples: list[Example]) -> float:
    """Return the operations that training on ``examples`` once takes, without padding."""
    parts = np.sum([count_flops(config, len(example.waveform) / RATE) for example in examples], axis=0)
    return float(parts @ PASSES.get(row, (3, 3)))


def clock(run: Run, device: str) -> tuple[float, float, float]:
    """Return seconds on the clock, wall seconds, and what ``run`` returns."""
    gc.collect()
    wall, busy = time.perf_counter(), time.process_time()
    padded = run()
    if device == "cuda":
        torch.cuda.synchronize()
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    return (busy if device == "cpu" else wall), wall, padded


Round = dict[str, dict[str, float]]
"""What was measured of every row."""


def measure(rows: list[str], model: Path, config: Any, options: argparse.Namespace) -> list[Round]:
    """Run all rows in every round; returns what was measured of each row, round by round."""
    found = []
    for number in range(options.rounds):
        examples = draw_round(number, options.rounds, BATCH * options.steps, options.deviation)
        seconds = sum(len(example.waveform) for example in examples) / RATE
        results: Round = {}
        for row in rows[:: 1 if number % 2 == 0 else -1]:
            prepare = prepare_serkit if row in SERKIT else prepare_trainer
            if options.device == "cuda" and number == 0:
                prepare(row, model, examples, number, options.device)()  # kernels are chosen and loaded
            half = options.device == "cuda" or row == "bf16"
            peak = options.peak * 1e12 or measure_peak(torch.bfloat16 if half else torch.float32)
            spent, wall, padded = clock(prepare(row, model, examples, number, options.device), options.device)
            share = needed_flops(row, config, examples) / spent / peak
            results[row] = {"seconds": spent, "wall": wall, "padding": padded, "audio": seconds, "share": share,
                            "peak": peak}  # fmt: skip
            print(f"round {number + 1} {row}: {spent:.1f} s for {seconds:.1f} s of audio", file=sys.stderr)
        found.append(results)
    return found


def summarise(row: str, found: list[Round], options: argparse.Namespace) -> dict[str, Any]:
    """Return a line of the table."""
    mine = [results[row] for results in found]
    line: dict[str, Any] = {
        "steps_per_second": options.steps * len(mine) / sum(each["seconds"] for each in mine),
        "audio_per_second": sum(each["audio"] for each in mine) / sum(each["seconds"] for each in mine),
        "wall": statistics.median(each["wall"] / each["seconds"] for each in mine),
        "padding_here": sum(each["padding"] * each["audio"] for each in mine) / sum(each["audio"] for each in mine),
        "padding_epoch": epoch_padding(row, options.deviation),
        "share_of_peak": statistics.median(each["share"] for each in mine),
        "peak_gflops": statistics.median(each["peak"] for each in mine) / 1e9,
    }
    if "hf8" in found[0]:
        ratios = [results["hf8"]["seconds"] / results[row]["seconds"] for results in found]
        scale = [epoch_padding("hf8", options.deviation) / results["hf8"]["padding"] for results in found]
        scale = [up * results[row]["padding"] / line["padding_epoch"] for up, results in zip(scale, found, strict=True)]
        line["x_hf8"], line["x_hf8_range"] = statistics.median(ratios), [min(ratios), max(ratios)]
        line["x_hf8_epoch"] = statistics.median(ratio * up for ratio, up in zip(ratios, scale, strict=True))
    return line


def report(lines: dict[str, dict[str, Any]], about: dict[str, Any]) -> None:
    """Print the table for people, the bar, and the JSON line."""
    print("row        steps/s  audio s/s  x hf8 (range)       x epoch  padding here  epoch  of peak  x wall")
    for row, line in lines.items():
        ratio = "-"
        if "x_hf8" in line:
            low, high = line["x_hf8_range"]
            ratio = f"{line['x_hf8']:.2f} ({low:.2f}-{high:.2f})"
        print(
            f"{row:<10} {line['steps_per_second']:>7.4f}  {line['audio_per_second']:>9.2f}  {ratio:<18}  "
            f"{line.get('x_hf8_epoch', math.nan):>7.2f}  {line['padding_here']:>12.2f}  {line['padding_epoch']:>5.2f}  "
            f"{line['share_of_peak']:>7.2f}  {line['wall']:>6.2f}"
        )
        if about["device"] == "cuda":
            epoch = UTTERANCES * MEAN * line["padding_epoch"] / line["padding_here"]
            line["hours_for_200_epochs"] = EPOCHS * epoch / line["audio_per_second"] / 3600
            print(f"{'':<10} {line['hours_for_200_epochs']:.1f} h for {EPOCHS} epochs of {UTTERANCES} utterances")
    bars = {}
    if {"hf8", "serkit"} <= set(lines):
        bars[f"serkit at least {BAR} x hf8"] = bool(lines["serkit"]["x_hf8"] >= BAR)
    for said, kept in bars.items():
        print(f"\n{'yes' if kept else 'NO ':<4} {said}")
    print(json.dumps({**about, "rows": lines, "bars": bars}))


def main() -> None:
    """Run the rows and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--deviation", type=float, default=DEVIATION, help="of lengths, in seconds")
    parser.add_argument("--steps", type=int, help="of every row in a round; 1 on a CPU, 50 on a GPU when left out")
    parser.add_argument("--rows", help=f"of {', '.join([*HF, *SERKIT])}; a choice of them when left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s that the device is said to reach, for cuda")
    options = parser.parse_args()
    options.steps = options.steps or (1 if options.device == "cpu" else 50)
    if options.device == "cuda" and not options.peak:
        parser.error("--device cuda: say --peak, such as 989 for an H100 in bfloat16")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = (options.rows or ROWS[options.device]).split(",")
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        config = write_model(Path(folder) / "model", options.size)
        found = measure(rows, Path(folder) / "model", config, options)
    lengths = lengths_at((np.arange(UTTERANCES) + 0.5) / UTTERANCES, options.deviation)
    shown = {f"{share:.0%}": round(float(np.quantile(lengths, share)), 2) for share in (0, 0.1, 0.5, 0.9, 0.99, 1)}
    per_second = 3 * sum(count_flops(config, MEAN)) / MEAN / 1e9
    about = {**vars(options), "load_before": load, "lengths": shown, "gflops_per_audio_second": round(per_second, 1)}
    print(
        f"{options.size}, {options.rounds} rounds of {options.steps} x {BATCH} utterances, load before {load}; ", end=""
    )
    print(f"lengths {shown}; training takes {per_second:.1f} GFLOP per second of audio\n")
    report({row: summarise(row, found, options) for row in rows}, about)


if __name__ == "__main__":
    main()
