"""Settings of the stages: one dataclass a stage, all over the same named loss terms.

A stage is nothing but a set of weights and the paper's numbers. Raise a second weight and one run mixes objectives.
Every default is from Li et al. 2022 or from its authors' code (method notes: docs/method.md), unless it says otherwise.
"""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from .alignment import METHODS
from .transport import LOWEST_TEMPERATURE

logger = logging.getLogger(__name__)

ALIGNMENTS = (*METHODS, "sinkhorn")
"""One partner a token, or weights over all of them (`transport.transport_weights`)."""

TERM_WEIGHTS = {
    "relevance_kl": "relevance_weight",
    "aligned_tokens": "token_weight",
    "english_anchor": "anchor_weight",
    "contrastive": "contrastive_weight",
    "in_batch_contrastive": "in_batch_weight",
}
"""The loss terms by the names they are logged under, and the setting that weighs each."""


def _setting(default: Any, explanation: str) -> Any:
    return field(default=default, metadata={"help": explanation})


def check_sizes(settings: Mapping[str, Any]) -> None:
    """Check how long is trained and how much at once, in settings of which any may be left out.

    Raises:
        ValueError: naming the setting, what it takes and what came.
    """
    steps, epochs = settings.get("max_steps"), settings.get("num_train_epochs")
    if steps is not None and steps < 1 and steps != -1:
        raise ValueError(f"max_steps: expected at least 1, or -1 for as many as the epochs have, got {steps}.")
    if epochs is not None and not 0 < epochs < math.inf:
        raise ValueError(f"num_train_epochs: expected a number above 0, got {epochs}.")
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        size = settings.get(name)
        if size is not None and size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}.")


def warn_of_idle_gpus(args: TrainingArguments) -> None:
    """Say how all GPUs are used, where this process sees several and no launcher started it."""
    num_gpus = torch.cuda.device_count()
    if num_gpus > 1 and not args.use_cpu and "LOCAL_RANK" not in os.environ:
        logger.warning(
            "Training on one of %d GPUs. `accelerate launch -m drdecr train RECIPE.yaml` uses all of them.", num_gpus
        )


@dataclass
class DistillationArguments(TrainingArguments):
    """Settings that every stage has; a run that mixes objectives uses this class itself.

    Raises:
        ValueError: if all weights are 0, a weight is negative, a temperature is not positive, or the alignment is
            unknown.
    """

    _VALID_DICT_FIELDS = [  # noqa: RUF012  # as the class above has it
        *TrainingArguments._VALID_DICT_FIELDS,
        *("model_init_kwargs", "teacher_model_init_kwargs"),
    ]

    relevance_weight: float = _setting(0.0, "Weight of relevance-score distillation (KL over candidates).")
    token_weight: float = _setting(0.0, "Weight of token-representation distillation over the alignment.")
    anchor_weight: float = _setting(0.0, "Weight of the English anchor in the document slot.")
    contrastive_weight: float = _setting(0.0, "Weight of cross-entropy over a row's candidates, the first is positive.")
    in_batch_weight: float = _setting(0.0, "Weight of cross-entropy over all documents of a batch (not in the paper).")

    temperature: float = _setting(
        2.0, "Temperature of relevance_kl on the scale of the scores (paper: 2, on another scale: docs/method.md)."
    )
    relevance_over: str = _setting(
        "row",
        "What the softmax of relevance_kl runs over: a row's own candidates (`row`, the paper), or all passages of the "
        "batch (`batch`), which costs a product and no passage more, and needs the English question or the teacher's "
        "tokens of it.",
    )
    contrastive_temperature: float = _setting(
        1.0, "Temperature of both contrastive terms (paper: 1, on another scale: docs/method.md)."
    )
    score_scale: float | None = _setting(
        None,
        "Divide each score by its number of query tokens and multiply by this, for student and teacher alike, so that "
        "questions of different length, and a question and its translation, have one scale. Default: plain sums "
        "(paper).",
    )
    alignment: str = _setting("greedy", f"Token alignment: {', '.join(ALIGNMENTS)} (paper: greedy).")
    alignment_temperature: float = _setting(
        0.05, "Softness of the alignment `sinkhorn`, on the scale of cosines (this project's)."
    )
    align_special_tokens: bool = _setting(
        False,
        "Let whatever scores be aligned too, so special tokens, markers and prefixes (the authors' code aligns them, and "
        "padding as well).",
    )
    map_to_teacher: bool = _setting(
        False,
        "Before training, turn the student's tokens into the teacher's space and width, from English texts of the rows: an "
        "orthogonal map in closed form that becomes part of the projection. For token terms between two models that share no "
        "space (not in the paper, whose two start from one checkpoint).",
    )
    gather_across_devices: bool = _setting(
        False,
        "Compare questions with the passages of all processes, in `in_batch_contrastive` and in `relevance_kl` over the "
        "batch: N processes then do the step of one with all their rows. Without effect in one process.",
    )
    encode_mini_batch_size: int | None = _setting(
        None,
        "Encode this many texts at a time and keep only their embeddings: any number of candidates at constant memory and "
        "equal gradients, for one more forward pass (gradient caching). Default: what `forward_passes` says.",
    )
    forward_passes: int | None = _setting(
        None,
        "Encode the texts of a batch in up to this many passes, those of like length together, so that less padding is "
        "read; results are equal but for what dropout draws. Default: 4 on a CPU, each cut into passes of 1,024 tokens, "
        "which its cache holds, and 1 elsewhere, where small passes cost more than they save; without effect on what "
        "`encode_mini_batch_size` divides. Always 1 under FSDP and DeepSpeed, whose processes must make equally many, and "
        "under torch.compile.",
    )
    freeze_word_embeddings: bool = _setting(
        False, "Keep the word embeddings as they are: most of a multilingual model's parameters (paper: trained)."
    )
    projection_learning_rate: float | None = _setting(
        None, "Learning rate of the projection; default: the same as the encoder's (paper)."
    )

    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Passed to `DrDecrModel.from_pretrained` where the student is given by name."},
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Passed to `DrDecrTeacher.from_pretrained` where the teacher is given by name."},
    )

    num_train_epochs: float | None = _setting(  # type: ignore[assignment]
        None, "Epochs, in place of `max_steps`; default: as many steps as that says."
    )
    learning_rate: float = _setting(6e-6, "Initial learning rate (paper: 6e-6 for stages B and D).")
    lr_scheduler_type: str = _setting("constant", "Schedule (paper: constant, no warm-up).")
    max_grad_norm: float = _setting(2.0, "Gradient clipping (authors' code: 2).")
    per_device_train_batch_size: int = _setting(32, "Rows a step and device (authors' code: 32).")
    gradient_accumulation_steps: int = _setting(6, "Batches a step (authors' code: 6, so 192 rows).")
    weight_decay: float = _setting(0.0, "AdamW weight decay (authors' code: 0).")
    seed: int = _setting(12345, "Seed (authors' code: 12345).")
    ddp_broadcast_buffers: bool | None = _setting(
        False,
        "An encoder's buffers never change; and a mixed run's processes may differ in forward passes, each a "
        "broadcast.",
    )
    remove_unused_columns: bool = _setting(False, "The collator reads the columns; nothing may be removed before it.")
    logging_steps: float = _setting(10, "Steps between two log lines, each with every loss term by name.")

    def __post_init__(self) -> None:
        """Check the settings that are ours, and let epochs that were named alone stand above the stage's own steps."""
        if self.num_train_epochs is not None and self.max_steps == type(self).max_steps:
            self.max_steps = -1
        self.num_train_epochs = 3.0 if self.num_train_epochs is None else self.num_train_epochs
        check_sizes(vars(self))
        super().__post_init__()
        warn_of_idle_gpus(self)
        weights = {setting: getattr(self, setting) for setting in TERM_WEIGHTS.values()}
        negative = [f"{setting}={weight}" for setting, weight in weights.items() if not weight >= 0]
        if negative:
            raise ValueError(
                f"Weights of loss terms must not be negative, got {', '.join(negative)}. Use 0 to leave one out."
            )
        if not any(weights.values()):
            raise ValueError(
                f"No loss term has a weight, so nothing would be learnt. Set at least one of {', '.join(weights)}."
            )
        for setting in ("temperature", "contrastive_temperature", "score_scale", "projection_learning_rate"):
            value = getattr(self, setting)
            if value is not None and not value > 0:
                raise ValueError(f"{setting}: expected a positive number, got {value}.")
        for setting in ("encode_mini_batch_size", "forward_passes"):
            value = getattr(self, setting)
            if value is not None and not value >= 1:
                raise ValueError(f"{setting}: expected at least 1, got {value}.")
        if self.relevance_over not in ("row", "batch"):
            raise ValueError(f"relevance_over: expected row or batch, got {self.relevance_over!r}.")
        if self.alignment not in ALIGNMENTS:
            raise ValueError(f"alignment: expected one of {', '.join(ALIGNMENTS)}, got {self.alignment!r}.")
        if not self.alignment_temperature >= LOWEST_TEMPERATURE:
            raise ValueError(
                f"alignment_temperature: expected at least {LOWEST_TEMPERATURE}, got {self.alignment_temperature}."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the token out: the Trainer pickles its settings into every checkpoint, and pushes them."""
        return {**self.__dict__, "hub_token": None}

    @property
    def n_gpu(self) -> int:
        """One device a process: `nn.DataParallel`, which the Trainer takes without a launcher, would change what a step is."""
        return min(super().n_gpu, 1)

    @property
    def term_weights(self) -> dict[str, float]:
        """The weights above 0, by the name of their term."""
        return {term: getattr(self, setting) for term, setting in TERM_WEIGHTS.items() if getattr(self, setting) > 0}


@dataclass
class ContrastiveArguments(DistillationArguments):
    """Stages A (English teacher) and B (student start): cross-entropy of a positive against its negatives.

    The learning rate is stage B's; the paper trains stage A with 1.5e-6 for 91,287 steps.
    """

    contrastive_weight: float = _setting(1.0, "Weight of cross-entropy over a row's candidates, the first is positive.")
    max_steps: int = _setting(74_704, "Steps (authors' log of stage B: 74,704).")


@dataclass
class RepresentationDistillationArguments(DistillationArguments):
    """Stage C: the student's tokens for a foreign sentence imitate the teacher's for the English one."""

    token_weight: float = _setting(0.5, "Weight of token-representation distillation over the alignment (paper: 0.5).")
    anchor_weight: float = _setting(0.5, "Weight of the English anchor in the document slot (paper: 0.5).")
    learning_rate: float = _setting(4.8e-5, "Initial learning rate (authors' log of stage C: 4.8e-5).")
    max_steps: int = _setting(84_897, "Steps (authors' log of stage C: 84,897).")


@dataclass
class RelevanceDistillationArguments(DistillationArguments):
    """Stage D: the student's scores for a foreign question imitate the teacher's for the English one."""

    relevance_weight: float = _setting(1.0, "Weight of relevance-score distillation (KL over candidates).")
    max_steps: int = _setting(87_618, "Steps (authors' log of stage D: 87,618).")
