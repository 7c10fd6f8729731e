"""Run one stage from its recipe: build, train, keep the best, write the run's folder."""

import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from drdecr.data.cleaning import drop_leaks
from drdecr.data.offline_backbone import prepare_offline_backbone
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_parallel
from drdecr.evaluation.metrics import per_query_scores
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.modeling_drdecr.configuration_drdecr import encoder_settings
from drdecr.retrieval import ExactIndex
from drdecr.trainers import (
    ContrastiveTrainer,
    DistillationArguments,
    DistillationTrainer,
    RelevanceDistillationTrainer,
    RepresentationDistillationTrainer,
)
from drdecr.trainers.projection import initialise_projection

from .processes import check_processes, is_main_process
from .recipe import ARGUMENTS, EMBEDDING_DIM, OFFLINE, PROJECTION, Recipe
from .run_folder import finish_run, is_done, last_checkpoint, start_run
from .sets import TrainingData, build_training_data, held_out_texts
from .settings import known_keys
from .stopwatch import Stopwatch
from .validation import BEST, build_validation

logger = logging.getLogger(__name__)

TRAINERS: dict[str, type[DistillationTrainer]] = {
    "contrastive": ContrastiveTrainer,
    "representation": RepresentationDistillationTrainer,
    "relevance": RelevanceDistillationTrainer,
    "mixed": DistillationTrainer,
}


def run_stage(recipe: Recipe) -> Path:
    """Run a stage, resume it, or leave it alone if it is done.

    Args:
        recipe: of the stage.

    Returns:
        The folder of its model.

    Raises:
        ValueError: if the folder holds a run of another recipe, or for anything that does not fit.
    """
    if is_done(recipe):
        logger.warning("%s is done already; its model is in %s.", recipe.folder, recipe.model_folder)
        return recipe.model_folder
    args = build_arguments(recipe) if recipe.stage != "initialise" else None  # sets the process group up
    check_processes(args.world_size if args else None)
    if is_main_process():
        start_run(recipe)
    checkpoints = recipe.folder / "checkpoints"
    stopwatch = Stopwatch(checkpoints / "seconds.json")
    set_seed(recipe.training.get("seed", 12345))
    if args is None:
        if is_main_process():
            save_model(load_start(recipe), recipe.model_folder)
            finish_run(recipe, stopwatch.seconds, [], {})
        return recipe.model_folder
    trainer, data = build_trainer(recipe, args)
    trainer.add_callback(stopwatch)
    checkpoint = last_checkpoint(checkpoints)
    if checkpoint is not None:
        logger.warning("Resuming from %s.", checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        save_model(trainer.accelerator.unwrap_model(trainer.model), recipe.model_folder)
        facts = {
            "rows": data.counts,
            "rows_held_out": data.dropped,
            "steps": trainer.state.global_step,
            "batch_rows": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "processes": args.world_size,
            "seed": args.seed,
            "best_checkpoint": trainer.state.best_model_checkpoint and Path(trainer.state.best_model_checkpoint).name,
        }
        finish_run(recipe, stopwatch.seconds, trainer.state.log_history, facts)
        shutil.rmtree(checkpoints, ignore_errors=True)  # the best one is in `model` now
    trainer.accelerator.wait_for_everyone()
    return recipe.model_folder


def build_trainer(recipe: Recipe, args: DistillationArguments) -> tuple[DistillationTrainer, TrainingData]:
    """Build a stage's trainer and its rows."""
    taught = sorted({"relevance_kl", "aligned_tokens", "english_anchor"} & set(args.term_weights))
    if taught and not recipe.teacher:
        raise ValueError(f"teacher: expected one for {', '.join(taught)}, got none. Name a checkpoint or `stage:NAME`.")
    student = load_start(recipe)
    teacher = load_teacher(recipe.resolve(recipe.teacher), recipe.teacher_dtype) if recipe.teacher else None
    batches = max(args.max_steps, 0) * args.gradient_accumulation_steps * args.world_size
    data = build_training_data(recipe, student, teacher, batches, args.train_batch_size, args.seed)
    trainer = TRAINERS[recipe.stage](
        student,
        args,
        teacher=teacher,
        validate=build_validation(recipe, teacher) if recipe.validation else None,
        train_dataset=data.train,
        eval_dataset=data.dev if args.eval_strategy != "no" else None,
        data_collator=data.collator,
    )
    return trainer, data


def build_arguments(recipe: Recipe) -> DistillationArguments:
    """Return the stage's settings, with evaluation and the best checkpoint where there is a validation set."""
    settings: dict[str, Any] = {
        "output_dir": str(recipe.folder / "checkpoints"),
        "report_to": "none",
        "save_total_limit": 2,
        "use_cpu": not torch.accelerator.is_available(),  # the Trainer refuses bf16 on a CPU that it has to find itself
        **recipe.training,
    }
    if recipe.validation and "eval_strategy" not in settings:
        steps = settings.get("eval_steps") or max(1, math.ceil(settings.get("max_steps", 1000) / 5))
        chosen = {"eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps}
        best = {"load_best_model_at_end": True, "metric_for_best_model": BEST, "greater_is_better": True}
        settings = {**chosen, **best, **settings}
    return ARGUMENTS[recipe.stage](**settings)


def load_start(recipe: Recipe) -> DrDecrModel:
    """Load the model that a stage starts from; a bare encoder gets its processor and projection from the recipe."""
    source = recipe.resolve(recipe.start)
    if source == OFFLINE:
        source = str(prepare_offline_backbone())
    hub: dict[str, Any] = {"revision": recipe.revision} if recipe.revision and not os.path.isdir(source) else {}
    found = DrDecrConfig.get_config_dict(source, **hub)[0]
    kind = (found.get("encoder_config") or {}).get("model_type", "xlm-roberta")
    known_keys(recipe.encoder, sorted(encoder_settings(kind)), "encoder")
    if "embedding_dim" in found:
        model = DrDecrModel.from_pretrained(source, **hub, **recipe.encoder)
        check_checkpoint(recipe, model)
        return model
    width = EMBEDDING_DIM if recipe.embedding_dim is None else recipe.embedding_dim
    config = DrDecrConfig.from_pretrained(source, embedding_dim=width, **hub, **recipe.encoder)
    model = DrDecrModel.from_pretrained(source, config=config, **hub)
    model.processor = DrDecrProcessor(model.processor.tokenizer, **recipe.processor)
    texts: dict[str, list[str]] = {}
    if recipe.projection_text:
        rows = drop_leaks(read_parallel(recipe.projection_text), held_out_texts(recipe), "projection_text")
        for code, text in zip(rows["language"], rows["query"], strict=True):
            texts.setdefault(code, []).append(text)
        texts["en"] = list(rows.unique("english"))
        texts = {code: found[: recipe.projection_texts] for code, found in texts.items()}
    initialise_projection(model, model.processor, texts, recipe.projection or PROJECTION)
    return model


def check_checkpoint(recipe: Recipe, model: DrDecrModel) -> None:
    """Check that a recipe does not ask for another processor or projection than the checkpoint that it starts from has.

    Raises:
        ValueError: naming the setting: it would have no effect.
    """
    for key in ("projection", "projection_text"):
        if getattr(recipe, key):
            raise ValueError(
                f"{key}: expected none for the start {recipe.start!r}, which is a checkpoint with a projection of its own. "
                "Leave it out, or start from a bare encoder."
            )
    has = {"embedding_dim": model.config.embedding_dim}
    wants = {"embedding_dim": recipe.embedding_dim} if recipe.embedding_dim is not None else {}
    for key, value in recipe.processor.items():
        wants[f"processor.{key}"], has[f"processor.{key}"] = value, getattr(model.processor, key, None)
    for key, value in wants.items():
        if value != has[key]:
            raise ValueError(
                f"{key}: expected {has[key]!r}, what the start {recipe.start!r} was made with, got {value!r}. Leave it out, "
                "or start from a bare encoder."
            )


def load_teacher(source: str, dtype: str = "float32") -> DrDecrTeacher:
    """Load a frozen teacher."""
    return DrDecrTeacher.from_pretrained(source, dtype=getattr(torch, dtype))


def save_model(model: DrDecrModel, folder: Path) -> None:
    """Save a model whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def build_index(model: DrDecrModel, found: QuestionSet) -> ExactIndex:
    """Encode a set's collection."""
    return ExactIndex(list(found.passages), model.encode_documents(list(found.passages.values())))


def score_questions(
    model: DrDecrModel, found: QuestionSet, index: ExactIndex, reads: str = "query"
) -> dict[str, dict[str, float]]:
    """Search every question and return its scores by measure; `reads` is the column that is asked."""
    texts = found.questions[reads]
    asked = list(dict.fromkeys(texts))
    hits = index.search(model.encode_queries(asked), top_k=min(100, len(index)))
    rows = dict(zip(asked, hits.as_run(asked).values(), strict=True))
    run = {query_id: rows[text] for query_id, text in zip(found.questions["query_id"], texts, strict=True)}
    return per_query_scores(run, found.qrels)
