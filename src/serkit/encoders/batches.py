"""Encode utterances in batches of similar length, where one process feeds a device that likes batches: a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from serkit.cores import count_cores
from serkit.encoders.base import Encoder
from serkit.errors import AudioError

BLOCK = 256
"""Utterances that are decoded and sorted together; the next block is decoded while one is encoded."""


class Named(Protocol):
    """A job: what errors call it by."""

    @property
    def id(self) -> str:
        """The utterance."""


J = TypeVar("J", bound=Named)


def encode_batches(
    queue: Sequence[J],
    encoder: Encoder,
    load: Callable[[J], np.ndarray],
    keep: Callable[[J, Tensor], None],
    seconds: float,
) -> Iterator[str | None]:
    """Encode ``queue`` on the device of ``encoder``; yields None or what went wrong, job by job.

    ``load`` gives a job's waveform ``(S,)`` and runs in threads, ``keep`` takes its hidden states ``(N, T, D)`` on the
    CPU. A batch holds at most ``seconds`` of audio, padding included, or one utterance. Away from the CPU products are
    computed in bfloat16.
    """
    with ThreadPoolExecutor(count_cores()) as pool:
        waiting: list[tuple[J, Future[np.ndarray]]] = []
        for start in range(0, len(queue) + BLOCK, BLOCK):  # one round more, for the last block
            decoding = [(job, pool.submit(load, job)) for job in queue[start : start + BLOCK]]
            yield from _encode_block(waiting, encoder, keep, seconds)
            waiting = decoding


def plan_batches(sizes: Sequence[int], most: float) -> Iterator[list[int]]:
    """Yield positions in ``sizes``, longest first, such that count times the longest stays within ``most``."""
    batch: list[int] = []
    for position in sorted(range(len(sizes)), key=lambda position: -sizes[position]):
        if batch and (len(batch) + 1) * sizes[batch[0]] > most:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def _encode_block(
    block: list[tuple[J, Future[np.ndarray]]], encoder: Encoder, keep: Callable[[J, Tensor], None], seconds: float
) -> Iterator[str | None]:
    jobs: list[J] = []
    waveforms: list[Tensor] = []
    for job, future in block:
        try:
            waveform = torch.from_numpy(future.result())
            encoder.check_lengths(encoder.limited(torch.tensor([len(waveform)])))
        except (AudioError, ValueError) as error:
            yield f"utterance {job.id}: {error}"
        else:
            jobs.append(job)
            waveforms.append(waveform)
    for batch in plan_batches([len(waveform) for waveform in waveforms], seconds * encoder.sampling_rate):
        for position, states in zip(batch, _encode_batch([waveforms[p] for p in batch], encoder), strict=True):
            keep(jobs[position], states)
            yield None


@torch.inference_mode()
def _encode_batch(waveforms: list[Tensor], encoder: Encoder) -> list[Tensor]:
    device = next(iter((*encoder.parameters(), *encoder.buffers(), torch.empty(0)))).device
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    half = device.type != "cpu" and encoder.precision == "float16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        features = encoder(pad_sequence(waveforms, batch_first=True).to(device), lengths.to(device))
    layers = features.layers.float().cpu()
    return [states[:, :count] for states, count in zip(layers, features.lengths.tolist(), strict=True)]
