"""Whether student, teacher, data and launch go together at all: checked once, before anything is trained."""

from typing import Any

from peft import PeftModel
from torch import nn
from transformers.trainer_utils import HubStrategy

from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher

from .adapters import AdaptersOffTeacher

PROBE = "In 1969, Neil Armstrong's step: what was the moon's naïve 'first' word? 月, луна."
"""Read by both processors: digits, signs, letters beyond ASCII, and words that vocabularies cut differently."""


def check_dimensions(model: DrDecrModel, teacher: DrDecrTeacher | AdaptersOffTeacher | None) -> None:
    """Check that both embed into one space.

    Raises:
        ValueError: if their embedding dimensions differ.
    """
    if teacher is not None and teacher.config.embedding_dim != model.config.embedding_dim:
        raise ValueError(
            f"Student and teacher must share one space, got embedding_dim {model.config.embedding_dim} and "
            f"{teacher.config.embedding_dim}. Start the student from the teacher's checkpoint, or give both one width."
        )


def check_tokens(model: DrDecrModel, teacher: DrDecrTeacher | AdaptersOffTeacher | None) -> None:
    """Check that both read the anchor's tokens alike: its ids come from the student's processor and go to the teacher too.

    Raises:
        ValueError: if vocabularies, markers or prefixes differ. Models without a processor are not looked at.
    """
    if teacher is None or model.processor is None or teacher.processor is None:
        return
    ours, theirs = (one.processor.tokenizer.get_vocab() for one in (model, teacher))
    if ours != theirs:
        got = (
            f"vocabularies of {len(ours)} and {len(theirs)} tokens, {len(ours.items() & theirs.items())} of them shared"
        )
    else:
        ids = [one.processor.process_documents([PROBE])["input_ids"][0].tolist() for one in (model, teacher)]
        if ids[0] == ids[1]:
            return
        got = f"one vocabulary, but {ids[0][:8]} and {ids[1][:8]} as first ids: another marker, prefix or length"
    raise ValueError(
        f"english_anchor compares token with token, so student and teacher must read English alike, got {got}. Start the "
        "student from the teacher's checkpoint, or set `anchor_weight` to 0."
    )


def check_special_tokens(model: DrDecrModel, align_special_tokens: bool) -> None:
    """Check that special tokens are there to be aligned: caches and masks know those alone that score.

    Raises:
        ValueError: if they are to be aligned, and the student's processor leaves them out of the scores.
    """
    processor = model.processor
    if align_special_tokens and processor is not None and not processor.score_special_tokens:
        raise ValueError(
            "align_special_tokens: expected a student whose special tokens score, got `score_special_tokens: false`. Leave "
            "`align_special_tokens` out, or let them score."
        )


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


def check_sharding(model: Any, validate: Any, dataset: Any) -> None:
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
    if validate is not None:
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

    They are those that the encoder names as to be kept whole, but for the one around its word embeddings: Accelerate
    shares out word embeddings by themselves (since its #4015), and fails where the module around them is shared out
    already, as BERT's and XLM-R's would be. This can go when Accelerate leaves such embeddings alone.

    Args:
        model: a transformers model. One that names no classes is shared out as a whole, its word embeddings apart.
    """
    words: nn.Module = model.get_input_embeddings()
    around = {type(module).__name__ for module in model.modules() if words in set(module.modules())}
    return sorted(set(model._no_split_modules or []) - around)
