"""The parts of a training: student, teacher and collator, loaded by name and fitted to each other before anything is trained."""

import copy
import os
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers.utils import logging

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.retrieval.encoder import load_teacher

from .adapters import AdaptersOffTeacher, default_targets
from .arguments import DistillationArguments
from .projection import map_to_teacher

logger = logging.get_logger(__name__)

PROBE = "In 1969, Neil Armstrong's step: what was the moon's naïve 'first' word? 月, луна."
"""Read by both processors: digits, signs, letters beyond ASCII, and words that vocabularies cut differently."""

TEXTS_FOR_MAP = 1000
"""English texts from which a student is mapped into its teacher's space: some 20,000 tokens for 10^4 to 10^5 weights."""

HALF_PRECISIONS = (torch.float16, torch.bfloat16)


def prepare_parts(
    model: Any,
    args: DistillationArguments,
    teacher: Any,
    collator: Any,
    processor: DrDecrProcessor | None = None,
    peft_config: Any = None,
    passages: Mapping[str, str] | None = None,
    rows: Any = None,
) -> tuple[Any, Any, Any]:
    """Return student, teacher and collator, fitted to each other and checked; see the functions below.

    Args:
        model: see `prepare_student`.
        args: settings.
        teacher: see `prepare_teacher`.
        collator: see `prepare_collator`.
        processor: see `prepare_student`.
        peft_config: see `prepare_student`.
        passages: see `prepare_collator`.
        rows: that are trained on; with `map_to_teacher` the English texts of the first of them are read.

    Raises:
        ValueError: for parts that do not go together.
    """
    student = prepare_student(model, args, processor, peft_config)
    teacher = prepare_teacher(teacher, student, args, with_adapter=peft_config is not None)
    if args.map_to_teacher:
        _map_to_teacher(student, teacher, args, rows)
    collator = prepare_collator(collator, student, teacher, args, passages)
    check_parts(student, teacher, args, collator)
    return student, teacher, collator


def _map_to_teacher(student: Any, teacher: Any, args: DistillationArguments, rows: Any) -> None:
    if not isinstance(student, DrDecrModel) or not isinstance(teacher, DrDecrModel):
        raise ValueError(
            f"map_to_teacher: expected a whole student and a teacher, got {type(student).__name__} and "
            f"{type(teacher).__name__}. Lay an adapter over a student that is mapped already."
        )
    texts = [row["english"] for row in islice(iter(rows or ()), TEXTS_FOR_MAP) if row.get("english")]
    device: Any = args.device
    cosine = map_to_teacher(student.to(device), teacher.eval().to(device), texts)
    logger.info(
        f"The student is mapped into its teacher's space: mean cosine of tokens of {len(texts)} texts {cosine:.2f}."
    )


def prepare_student(
    model: Any, args: DistillationArguments, processor: DrDecrProcessor | None = None, peft_config: Any = None
) -> Any:
    """Return the student that is trained: loaded if it is named, under its adapter, its weights in float32.

    Args:
        model: the student, a `PeftModel` around one, or the name or folder of a checkpoint or encoder.
        args: settings; `model_init_kwargs` go to `DrDecrModel.from_pretrained`.
        processor: takes the place of the student's own and is saved with it; default: its own.
        peft_config: a configuration of peft, laid over the student; default: none.

    Raises:
        ValueError: for `model_init_kwargs` beside a model that is loaded already, or a processor of another class.
    """
    settings: Any = args.model_init_kwargs or {}
    if isinstance(model, str | os.PathLike):
        model = DrDecrModel.from_pretrained(model, **{"dtype": torch.float32, **settings})
    elif settings:
        raise ValueError("model_init_kwargs: expected the name of a model beside them, got a model. Load it with them.")
    if processor is not None:
        if not isinstance(processor, DrDecrProcessor):
            raise ValueError(
                f"processing_class: expected a DrDecrProcessor, got {type(processor).__name__}. Wrap the tokenizer: "
                "`DrDecrProcessor(tokenizer)`."
            )
        (model.get_base_model() if isinstance(model, PeftModel) else model).processor = processor
    if peft_config is not None:
        model = _add_peft(model, peft_config)
    if args.freeze_word_embeddings:
        model.get_input_embeddings().requires_grad_(False)
    _cast_to_float32(model)
    return model


def _add_peft(model: DrDecrModel, config: Any) -> PeftModel:
    config = copy.deepcopy(config)
    if getattr(config, "target_modules", "none of its settings") is None:  # peft knows no layers of this model's type
        config.target_modules = default_targets(model)
    config.task_type = config.task_type or "FEATURE_EXTRACTION"
    return get_peft_model(model, config)


def _cast_to_float32(model: Any) -> None:
    """Cast what is trained from half precision, in which the steps of AdamW are lost to rounding."""
    halves = [weight for weight in model.parameters() if weight.requires_grad and weight.dtype in HALF_PRECISIONS]
    if not halves:
        return
    logger.warning(
        f"The student's weights came in {str(halves[0].dtype).removeprefix('torch.')}, in which small steps are lost to "
        "rounding: they are trained in float32. `bf16=True` or `fp16=True` computes in half precision beside them."
    )
    if not isinstance(model, PeftModel):
        model.float()
        return
    for weight in halves:  # what lies frozen below an adapter may stay small
        weight.data = weight.data.float()


def prepare_teacher(teacher: Any, model: Any, args: DistillationArguments, with_adapter: bool) -> Any:
    """Return the teacher: loaded if it is named; the backbone below an adapter that the trainer added, if there is none.

    Args:
        teacher: a frozen model, `AdaptersOffTeacher`, the name or folder of a checkpoint, or None.
        model: the student.
        args: settings; `teacher_model_init_kwargs` go to `DrDecrTeacher.from_pretrained`.
        with_adapter: whether the trainer itself has laid an adapter over the student.

    Raises:
        ValueError: for a teacher that is the student, or `teacher_model_init_kwargs` beside one that is loaded already.
    """
    settings: Any = args.teacher_model_init_kwargs or {}
    if isinstance(teacher, str | os.PathLike):
        return load_teacher(str(teacher), **settings)
    if settings:
        raise ValueError(
            "teacher_model_init_kwargs: expected the name of a teacher beside them, got "
            f"{'none' if teacher is None else 'a model'}. Name a checkpoint, or load it with them."
        )
    if teacher is None and with_adapter:
        return AdaptersOffTeacher(model)
    if isinstance(teacher, nn.Module):
        students = {id(weight) for weight in model.parameters()}
        if any(id(weight) in students for weight in teacher.parameters()):
            raise ValueError(
                "teacher: expected another model than the student, got one that shares its weights: it would be frozen, or "
                "follow the student. Load the checkpoint a second time, or train an adapter against `AdaptersOffTeacher`."
            )
    return teacher


def prepare_collator(
    collator: Any,
    model: Any,
    teacher: Any,
    args: DistillationArguments,
    passages: Mapping[str, str] | None = None,
) -> Any:
    """Return the collator: made if there is none, and reading as the teacher does for the teacher.

    Args:
        collator: a `DistillationCollator`, which stays as it is, anything else that makes batches, or None.
        model: the student, with its processor.
        teacher: or None.
        args: settings.
        passages: `{document_id: text}` for rows that name passages; for a collator that is made here.

    Raises:
        ValueError: for a student without processor, passages beside a collator, or a collator whose `teacher_processor`
            reads otherwise than the teacher's.
    """
    theirs: DrDecrProcessor | None = getattr(teacher, "processor", None)
    anchor = "english_anchor" in args.term_weights
    if collator is None:
        if model.processor is None:
            raise ValueError("processing_class: expected one for a student without a processor, got none. Pass one.")
        is_other = theirs is not None and not read_alike(model.processor, theirs)
        return DistillationCollator(
            model.processor,
            dict(passages or {}),
            teacher_processor=theirs if is_other else None,
            anchor=anchor,
            scores_suffice=args.relevance_over == "row",
        )
    if passages is not None:
        raise ValueError(
            "passages: expected none beside a collator. Pass them to `DistillationCollator(passages=...)`."
        )
    if not isinstance(collator, DistillationCollator):
        return collator
    fitted = copy.copy(collator)
    fitted.anchor = collator.anchor or anchor
    if theirs is not None and not read_alike(fitted.teacher_processor, theirs):
        if fitted.teacher_processor is not fitted.processor:
            raise ValueError(
                "data_collator: expected a `teacher_processor` that reads as the teacher's own does, got one with other "
                "tokens, markers or lengths. Pass `teacher_processor=teacher.processor`, or leave it out."
            )
        logger.info("The teacher reads with its own processor, which is another one than the student's.")
        fitted.teacher_processor = theirs
    return fitted


def read_alike(one: DrDecrProcessor, other: DrDecrProcessor) -> bool:
    """Return whether two processors make the same tensors: of one vocabulary, template, markers, prefixes and lengths."""
    if one is other:
        return True
    if any(getattr(one, name) != getattr(other, name) for name in ("query_length", "document_length")):
        return False
    texts = [PROBE, 40 * f"{PROBE} "]
    for process in ("process_queries", "process_documents"):
        ours, theirs = (getattr(processor, process)(texts) for processor in (one, other))
        if any(not torch.equal(ours[name], theirs[name]) for name in ours):
            return False
    return bool(one.tokenizer.get_vocab() == other.tokenizer.get_vocab())


def check_parts(
    model: DrDecrModel,
    teacher: DrDecrTeacher | AdaptersOffTeacher | None,
    args: DistillationArguments,
    collator: Any,
) -> None:
    """Check that student and teacher have in common what the loss terms compare.

    Raises:
        ValueError: for a teacher of another width where tokens are compared, one that reads other tokens where the English
            anchor compares them one by one, or special tokens that are to be aligned and do not score.
    """
    compared = sorted({"aligned_tokens", "english_anchor"} & set(args.term_weights))
    if getattr(collator, "document_cache", None) is not None:
        compared.append("the teacher's cached passages")
    widths = model.config.embedding_dim, teacher.config.embedding_dim if teacher is not None else None
    if teacher is not None and compared and widths[0] != widths[1]:
        raise ValueError(
            f"{', '.join(compared)}: expected a student and a teacher of one space, whose tokens are compared, got "
            f"embedding_dim {widths[0]} and {widths[1]}. Map the student "
            "into the teacher's space (`map_to_teacher=True`), or learn from scores alone, which any two widths can."
        )
    processor = model.processor
    if "english_anchor" in compared and teacher is not None:
        _check_anchor(processor, teacher.processor)
    aligns_special = args.align_special_tokens and "aligned_tokens" in compared
    if aligns_special and processor is not None and not processor.score_special_tokens:
        raise ValueError(
            "align_special_tokens: expected a student whose special tokens score, got `score_special_tokens: false`. Leave "
            "`align_special_tokens` out, or let them score."
        )


def _check_anchor(ours: DrDecrProcessor | None, theirs: DrDecrProcessor | None) -> None:
    """Refuse other tokens for the anchor, whose ids come from the student's processor and go to the teacher too."""
    if ours is None or theirs is None or ours is theirs:
        return
    vocabularies = [processor.tokenizer.get_vocab() for processor in (ours, theirs)]
    ids = [processor.process_documents([PROBE])["input_ids"][0].tolist() for processor in (ours, theirs)]
    if vocabularies[0] != vocabularies[1]:
        shared = len(vocabularies[0].items() & vocabularies[1].items())
        sizes = " and ".join(str(len(vocabulary)) for vocabulary in vocabularies)
        got = f"vocabularies of {sizes} tokens, {shared} of them shared"
    elif ids[0] != ids[1]:
        got = f"one vocabulary, but {ids[0][:8]} and {ids[1][:8]} as first ids: another marker, prefix or length"
    else:
        return
    raise ValueError(
        f"english_anchor compares token with token, so student and teacher must read English alike, got {got}. Start the "
        "student from the teacher's checkpoint, or set `anchor_weight` to 0."
    )


def separate_projection(optimizer: torch.optim.Optimizer, student: Any, learning_rate: float) -> None:
    """Give the projection a group of parameters, and so a learning rate, of its own.

    Raises:
        ValueError: if the projection is frozen.
    """
    if any(group.get("name") == "projection" for group in optimizer.param_groups):
        return
    # Not by name: under an adapter the projection that is trained is a copy with another one.
    projection = [parameter for parameter in student.linear.parameters() if parameter.requires_grad]
    if not projection:
        raise ValueError(
            "projection_learning_rate: the projection is frozen. Leave the setting out, or train the projection too "
            "(`modules_to_save=['linear']` of an adapter)."
        )
    projection_ids = {id(parameter) for parameter in projection}
    decay = 0.0
    for group in optimizer.param_groups:
        if any(id(parameter) in projection_ids for parameter in group["params"]):
            decay = group["weight_decay"]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in projection_ids]
    optimizer.add_param_group({"params": projection, "lr": learning_rate, "weight_decay": decay, "name": "projection"})
