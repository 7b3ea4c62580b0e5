"""What of an encoder is fine-tuned, and how fast: frozen parts, LoRA, learning rates by depth."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from serkit.encoders.base import Encoder
from serkit.encoders.regularise import Regularisation
from serkit.errors import InputError, missing_extra
from serkit.models.model import Model
from serkit.training.batching import BatchOptions


class LoraOptions(BaseModel):
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685) of the linear layers named ``targets``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "v_proj")


class FinetuneOptions(BaseModel):
    """How the encoder learns beside the heads.

    ``freeze`` keeps nothing as it is, the convolutional "front-end", that and the first n blocks, or the whole
    "encoder". In the first ``head_epochs`` the heads learn alone, so that what they do not know yet spoils no encoder
    (``freeze_finetune_updates`` of fairseq; Kumar et al. 2022, https://arxiv.org/abs/2202.10054). With ``lora`` only
    low-rank additions to the encoder learn. Its learning rate is ``lr``, times ``layer_decay`` for every block further
    down. ``dropout`` acts on what the heads see. ``checkpointing`` computes blocks twice to save memory; ``precision``
    "bf16" multiplies in half precision. ``padding`` "original" lets encoder and heads see zeros after the shorter
    recordings of a training batch, as the first implementations did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(3e-5, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    freeze: Literal["none", "front-end", "encoder"] | int = "none"
    head_epochs: int = Field(0, ge=0)
    lora: LoraOptions | None = None
    dropout: float = Field(0.0, ge=0, lt=1)
    regularise: Regularisation = Regularisation()
    batches: BatchOptions = BatchOptions()
    checkpointing: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    padding: Literal["masked", "original"] = "masked"


def prepare_encoder(encoder: Encoder, options: FinetuneOptions) -> None:
    """Freeze and adapt ``encoder`` in place as ``options`` say, and switch on what regularises it."""
    encoder.regularise(options.regularise)
    encoder.checkpointing = options.checkpointing
    if options.padding == "original":
        if not hasattr(encoder, "sees_padding"):
            raise InputError(f'finetune.padding: {encoder.name} never sees padding: leave it "masked"')
        encoder.sees_padding = True  # type: ignore[assignment]
    frozen = _frozen_depth(encoder, options.freeze)
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(encoder.depth(name) >= frozen and options.lora is None)
    if options.lora is not None:
        _add_lora(encoder, options.lora, frozen)


def _frozen_depth(encoder: Encoder, freeze: str | int) -> int:
    """Return the depth below which nothing learns."""
    if not isinstance(freeze, int):
        return {"none": 0, "front-end": 1, "encoder": encoder.depths}[freeze]
    if not 0 <= freeze <= encoder.depths - 2:
        raise InputError(f"finetune.freeze: {encoder.name} has {encoder.depths - 2} blocks, so freeze 0 to that many")
    return freeze + 2


def _add_lora(encoder: Encoder, options: LoraOptions, frozen: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise missing_extra("peft", "lora") from error
    names = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear)
        and name.split(".")[-1] in options.targets
        and encoder.depth(f"{name}.weight") >= frozen
    ]
    if not names:
        linear = {name.split(".")[-1] for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
        raise InputError(
            f"finetune.lora.targets: {encoder.name} has no such linear layers: choose of {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=names,
    )
    inject_adapter_in_model(config, encoder)


def merge_lora(encoder: nn.Module) -> None:
    """Add what LoRA learned to the weights themselves, in place; without LoRA nothing happens."""
    adapted: list[tuple[nn.Module, str, Any]] = [
        (module, name, child)
        for module in encoder.modules()
        for name, child in module.named_children()
        if type(child).__module__.startswith("peft.tuners.lora.layer")
    ]
    for module, name, child in adapted:
        child.merge()
        setattr(module, name, child.get_base_layer())


def trained_names(model: Model) -> set[str]:
    """Return the names in ``model.state_dict()`` that training changes: heads, and the encoder where not frozen."""
    learned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    return learned | {name for name in model.state_dict() if not name.startswith("encoder.")}


def trained_state(model: Model) -> dict[str, Tensor]:
    """Return the tensors of :func:`trained_names`: all that a run keeps of a model."""
    kept = trained_names(model)
    return {name: value.detach() for name, value in model.state_dict().items() if name in kept}


def load_trained(model: Model, state: dict[str, Tensor]) -> None:
    """Put the tensors of :func:`trained_state` back; raises ``InputError`` when they are of another model."""
    wrong = sorted(trained_names(model) ^ set(state))
    if wrong:
        raise InputError(f"weights of another model: {wrong[0]!r} is missing or unexpected ({len(wrong)} are)")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"weights of another model: {' '.join(str(error).split())}") from error


def parameter_groups(model: Model, options: FinetuneOptions, lr: float, weight_decay: float) -> list[dict]:
    """Return what learns, grouped by learning rate and decay: heads at ``lr``, the encoder's depths at their own.

    Vectors do not decay.
    """
    top = model.encoder.depths - 1
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            inner = name.removeprefix("encoder.")
            rate = lr if inner == name else options.lr * options.layer_decay ** (top - model.encoder.depth(inner))
            groups.setdefault((rate, weight_decay if weight.ndim > 1 else 0.0), []).append(weight)
    return [{"params": part, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), part in groups.items()]


def half_precision(options: FinetuneOptions, device: torch.device) -> torch.autocast:
    """Return a context for matrix products as ``options.precision`` says."""
    return torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")
