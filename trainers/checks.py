"""Whether a training and its launch go together at all: checked once, before anything is trained."""

from typing import Any

from peft import PeftModel
from torch import nn
from transformers.trainer_utils import HubStrategy


def check_pushed_state(hub_strategy: str, fsdp: bool, deepspeed: bool) -> None:
    """Check that what a training resumes from can be pushed with its checkpoints: as safetensors, without pickles.

    Raises:
        ValueError: for a strategy that pushes it under FSDP or DeepSpeed, which write it in forms of their own; what was
            pushed would lack the optimizer.
    """
    library = "FSDP" if fsdp else "DeepSpeed" if deepspeed else None
    if library and hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"{library}: expected hub_strategy end or every_save, got {HubStrategy(hub_strategy).value}, whose pushes would lack "
            "the optimizer. Set `hub_strategy: every_save`, and resume from the checkpoints on disk."
        )


def check_sharding(model: Any, evaluator: Any, dataset: Any) -> None:
    """Check that every process makes the same forward passes: a model that FSDP shares out is put together in each of them.

    Raises:
        ValueError: for a validation, in which processes encode different numbers of texts, or a mixture of sets, of which
            they read different ones in one step; or for an adapter, which one process would save and merge without the
            others' shares.
    """
    if isinstance(model, PeftModel):
        raise ValueError(
            "FSDP: expected a whole model to train, got one with LoRA adapters, which would be saved from one process's "
            "share of the weights. Use DDP, or leave `lora` out."
        )
    if evaluator is not None:
        raise ValueError(
            "FSDP: expected no validation, whose forward passes differ between processes, which would wait for each other. "
            "Set `eval_strategy: no` and measure afterwards, or use DDP."
        )
    if len(getattr(dataset, "sets", [])) > 1:
        raise ValueError(
            f"FSDP: expected rows of one set, got a mixture of {', '.join(dataset.sets)}, of which processes read different "
            "ones in a step and would wait for each other. Train on one set, or use DDP."
        )


def layer_classes(model: Any) -> list[str]:
    """Return the names of the classes whose modules are shared out each by itself: the encoder's layers.

    They are the modules of the encoder's longest lists of equal modules, whatever the encoder itself names: some name none,
    some name parts of their layers.

    Args:
        model: a transformers model.

    Returns:
        Names, sorted; none for an encoder without such a list, which is shared out as a whole, its word embeddings apart.
    """
    lists = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) and any(True for _ in module.parameters())
    ]
    outermost = [layers for layers in lists if not any(_holds(other, layers) for other in lists if other is not layers)]
    return sorted({type(layer).__name__ for layers in outermost for layer in layers})


def _holds(layers: list[nn.Module], inner: list[nn.Module]) -> bool:
    """Whether the modules of one list stand inside those of another."""
    return any(part is inner[0] for layer in layers for part in layer.modules() if part is not layer)
