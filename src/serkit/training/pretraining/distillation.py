"""emotion2vec's task: tell from half of the frames what a slowly following copy of oneself makes of all of them.

Online distillation as in data2vec 2.0 (Baevski et al. 2022, https://arxiv.org/abs/2212.07525) with an utterance loss
(Ma et al. 2024, https://aclanthology.org/2024.findings-acl.931). Padding changes nothing: each clip has its own masks,
statistics and means, over its own frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.encoders.blocks import Block, Transformer
from serkit.encoders.emotion2vec import Emotion2vecConfig, Emotion2vecEncoder
from serkit.encoders.front import frame_mask
from serkit.training.pretraining.decoder import Decoder
from serkit.training.pretraining.masks import block_masks, span_masks
from serkit.training.pretraining.options import DistillationOptions


@dataclass(frozen=True)
class Losses:
    """What a batch adds to an update: both are to be divided by the masked frames, ``count``, of all its batches.

    ``frame`` is summed over masked frames, ``utterance`` is weighted to stand beside it. ``facts`` are
    "target_variance" and "prediction_variance": roots of the variance over masked frames, a mean over dimensions.
    """

    frame: Tensor
    utterance: Tensor
    count: int
    facts: dict[str, Tensor]


class Distillation(nn.Module):
    """Student, decoder and teacher. The teacher has no front end of its own: both hear the student's."""

    def __init__(self, config: Emotion2vecConfig, options: DistillationOptions) -> None:
        super().__init__()
        self.options = options
        self.student = Emotion2vecEncoder("emotion2vec", config)
        self.decoder = Decoder(
            config.dim, options.decoder_dim, options.decoder_layers, options.decoder_kernel, options.decoder_groups
        )
        initialise(self.student)
        self.student.regularise(options.regularise)
        self.teacher = follow(self.student)

    def train(self, mode: bool = True) -> Distillation:
        """Switch the student's regularisation; the teacher has none."""
        super().train(mode)
        self.teacher.eval()
        return self

    def reset_teacher(self) -> None:
        """Make the teacher equal to the student, whose weights were loaded."""
        self.teacher = follow(self.student)

    def teacher_encoder(self) -> Emotion2vecEncoder:
        """Return a copy of the teacher with the front end that it hears through, the student's."""
        encoder = deepcopy(self.student)
        encoder.load_state_dict(self.teacher.state_dict(), strict=False)
        return encoder.eval()

    def draw_masks(self, lengths: Tensor, rng: np.random.Generator) -> list[Tensor]:
        """Draw what is hidden of clips of ``lengths (B,)`` samples: ``(clones, T)`` booleans for each."""
        chosen = self.options
        sizes = (chosen.clones, chosen.mask_probability, chosen.mask_length)
        drawn = (
            span_masks(frames, *sizes, rng)
            if chosen.mask_generator == "span"
            else block_masks(frames, *sizes, chosen.mask_adjust, rng)
            for frames in self.student.frame_lengths(lengths.cpu()).tolist()
        )
        return [torch.from_numpy(masks) for masks in drawn]

    def forward(self, waveforms: Tensor, lengths: Tensor, masks: Sequence[Tensor]) -> Losses:
        """Return the losses of ``waveforms (B, S)``, of which ``lengths (B,)`` samples are real.

        ``masks`` are the hidden frames of each clip, ``(clones, T)`` booleans.
        """
        local = self.student.project(self.student.front_end(waveforms, lengths))
        frames = self.student.frame_lengths(lengths)
        real = frame_mask(frames, local.shape[1])
        targets, means = self.targets(local.detach(), frames)
        clones = len(masks[0])
        hidden = torch.zeros(len(masks), clones, local.shape[1], dtype=torch.bool)
        for row, mask in zip(hidden, masks, strict=True):
            row[:, : mask.shape[1]] = mask
        hidden = hidden.flatten(0, 1).to(local.device)
        local, real = local.repeat_interleave(clones, 0), real.repeat_interleave(clones, 0)
        tokens, kept, places, seen = self.see(local, hidden, real)
        predicted = self.decoder(self.fill_in(kept, places, seen, local.shape[1]), real)
        predicted, wanted = predicted[hidden].float(), targets.repeat_interleave(clones, 0)[hidden]
        scale = local.shape[2] ** -0.5
        frame = (predicted - wanted).square().sum() * scale
        said = self.summarise(tokens, kept, seen).float()
        utterance = (said - means.repeat_interleave(clones, 0)).square().sum() * scale
        count, rows = len(wanted), len(hidden)
        weight = self.options.utterance_weight * count / (rows if self.options.utterance_scale == "mean" else 1)
        facts = {"target_variance": _variance(wanted), "prediction_variance": _variance(predicted)}
        return Losses(frame, weight * utterance, count, facts)

    @torch.no_grad()
    def targets(self, local: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the teacher makes of ``local (B, T, D)`` features, of which ``frames (B,)`` are real.

        For frames ``(B, T, D)`` the mean of what feed-forward adds in its last blocks, each channel of each brought to
        mean 0 and variance 1 over the clip; float32, zero past a clip's end. For the utterance ``(B, D)`` the mean of
        those over time, which is 0 but for rounding, or of the same without that normalisation.
        """
        mask = frame_mask(frames, local.shape[1])
        blocks, prefixed = [cast(Block, block) for block in _transformer(self.teacher).layers], self.teacher.prefixed
        x = self.teacher.prefix(self.teacher.position(local, mask))
        bias = self.teacher.mask_bias(self.teacher.position_bias(local.shape[1]), mask)
        total = torch.zeros(local.shape, device=local.device)
        means = total.new_zeros(len(local), local.shape[2])
        for number, block in enumerate(blocks):
            x = block.mix(x, None, bias)
            result = block.feed_forward(x)
            x = block.final_layer_norm(x + result)
            if number >= len(blocks) - self.options.top_layers:
                result = result[:, prefixed:].float()
                total += _normalise(result, mask)
                means += F.layer_norm(_mean(result, mask), means.shape[1:])
        total /= self.options.top_layers
        instance = self.options.utterance_target == "instance"
        return total, _mean(total, mask) if instance else means / self.options.top_layers

    def see(self, local: Tensor, hidden: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the student on the frames of ``local (B, T, D)`` that are ``real`` and not ``hidden``, both ``(B, T)``.

        Returns its tokens ``(B, K, D)``, frames ``(B, n, D)``, their places ``(B, n)`` in the clip, in order of time,
        and which of them count ``(B, n)``.
        """
        shown = real & ~hidden
        x = self.student.position(local * ~hidden[:, :, None], real)
        counts = shown.sum(1)
        places = torch.argsort(shown.to(torch.int8), dim=1, descending=True, stable=True)[:, : int(counts.max())]
        seen = frame_mask(counts, places.shape[1])
        x = self.student.prefix(x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2])))
        x = self.student.run_blocks(x, seen, self.student.alibi(places))[self.student.config.blocks]
        return x[:, : self.student.prefixed], x[:, self.student.prefixed :], places, seen

    def fill_in(self, kept: Tensor, places: Tensor, seen: Tensor, size: int) -> Tensor:
        """Put the ``kept (B, n, D)`` frames back to their ``places (B, n)`` among ``size``; the others are noise."""
        kept = F.dropout(kept, self.options.decoder_dropout, self.training)
        whole = torch.randn(len(kept), size, kept.shape[2], device=kept.device, dtype=kept.dtype)
        whole = whole * self.options.mask_noise
        index = places[:, :, None].expand_as(kept)
        return whole.scatter(1, index, torch.where(seen[:, :, None], kept, whole.gather(1, index)))

    def summarise(self, tokens: Tensor, kept: Tensor, seen: Tensor) -> Tensor:
        """Return what the student says of the whole utterance, ``(B, D)``."""
        if self.options.utterance == "chunk":
            return tokens.mean(1)
        if self.options.utterance == "token":
            return tokens[:, -1]
        return _mean(kept, seen)

    def decay(self, update: int) -> float:
        """Return the share of itself that the teacher keeps at the ``update``-th update, counted from 1."""
        chosen = self.options
        left = max(0.0, 1 - update / chosen.ema_anneal_steps)
        return chosen.ema_end - (chosen.ema_end - chosen.ema_start) * left

    @torch.no_grad()
    def update_teacher(self, update: int) -> float:
        """Move the teacher to the student after the ``update``-th update, but not after the first; return its decay."""
        decay = self.decay(update)
        if update > 1:
            ours = dict(self.student.named_parameters())
            pairs = [(weight, ours[name].detach()) for name, weight in self.teacher.named_parameters()]
            torch._foreach_lerp_([theirs for theirs, _ in pairs], [new for _, new in pairs], 1 - decay)
        return decay


def follow(student: Emotion2vecEncoder) -> Emotion2vecEncoder:
    """Return a teacher with the weights of ``student``, without its front end; in evaluation nothing regularises it."""
    teacher = deepcopy(student)
    teacher.feature_extractor, teacher.feature_projection = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return teacher.eval().requires_grad_(False)


def initialise(student: Emotion2vecEncoder) -> None:
    """Draw weights as data2vec 2.0 does: linear layers of the blocks N(0, 0.02), the front end as He et al. 2015."""
    for module in student.feature_extractor.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
    for module in _transformer(student).modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def _transformer(encoder: Emotion2vecEncoder) -> Transformer:
    assert encoder.encoder is not None
    return encoder.encoder


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean ``(B, D)`` of ``x (B, T, D)`` over the frames of ``mask (B, T)``."""
    return (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _normalise(x: Tensor, mask: Tensor) -> Tensor:
    """Bring each channel of ``x (B, T, D)`` to mean 0 and variance 1 over the frames of ``mask (B, T)``."""
    centred = (x - _mean(x, mask)[:, None]) * mask[:, :, None]
    return centred * (_mean(centred.square(), mask)[:, None] + 1e-5).rsqrt()


def _variance(x: Tensor) -> Tensor:
    return (x.detach().var(0) + 1e-6).sqrt().mean()
