"""Run one stage from its recipe: build, train, keep the best, write the run's folder."""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from drdecr.data.hub_errors import HubError, explained
from drdecr.data.offline_backbone import prepare_offline_backbone
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_parallel, read_questions
from drdecr.evaluation.metrics import per_query_scores
from drdecr.modeling_drdecr import DrDecrConfig, DrDecrModel, DrDecrProcessor, DrDecrTeacher
from drdecr.retrieval import ExactIndex
from drdecr.trainers import (
    AdaptersOffTeacher,
    ContrastiveTrainer,
    DistillationArguments,
    DistillationTrainer,
    RelevanceDistillationTrainer,
    RepresentationDistillationTrainer,
    add_adapter,
    load_merged,
)
from drdecr.trainers.projection import initialise_projection

from .hub import push_folder
from .model_card import write_run_card
from .recipe import ADAPTERS_OFF, ARGUMENTS, OFFLINE, Recipe
from .run_folder import finish_run, is_done, start_run
from .sets import build_training_data

logger = logging.getLogger(__name__)

TRAINERS: dict[str, type[DistillationTrainer]] = {
    "contrastive": ContrastiveTrainer,
    "representation": RepresentationDistillationTrainer,
    "relevance": RelevanceDistillationTrainer,
    "mixed": DistillationTrainer,
}

MEASURE = "RR@10"
BEST = "mrr@10_avg"


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
    started = time.time()
    start_run(recipe)
    set_seed(recipe.training.get("seed", 12345))
    start = start_facts(recipe)
    if recipe.stage == "initialise":
        model = load_start(recipe)
        save_model(model, recipe.model_folder)
        finish_run(recipe, started, [], start)
        return recipe.model_folder
    trainer, counts = build_trainer(recipe)
    checkpoints = recipe.folder / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    if checkpoint is not None:
        logger.warning("Resuming from %s.", checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.is_world_process_zero():
        save_trained(trainer.accelerator.unwrap_model(trainer.model), recipe)
        facts = {
            **start,
            **counts,
            "steps": trainer.state.global_step,
            "batch_rows": trainer.args.train_batch_size
            * trainer.args.gradient_accumulation_steps
            * trainer.args.world_size,
            "processes": trainer.args.world_size,
            "seed": trainer.args.seed,
            "best_checkpoint": trainer.state.best_model_checkpoint and Path(trainer.state.best_model_checkpoint).name,
        }
        finish_run(recipe, started, trainer.state.log_history, facts)
        shutil.rmtree(checkpoints, ignore_errors=True)  # the best one is in `model` now
        if trainer.args.push_to_hub:
            push_run(recipe, trainer)
    trainer.accelerator.wait_for_everyone()
    return recipe.model_folder


def start_facts(recipe: Recipe) -> dict[str, Any]:
    """Return the commit of a start on the Hub, which a branch or a tag no longer names when it has moved."""
    source = recipe.resolve(recipe.start)
    with explained(source):
        commit = None if source == OFFLINE else commit_of(source, recipe.revision)
    return {"start_commit": commit} if commit else {}


def push_run(recipe: Recipe, trainer: DistillationTrainer) -> None:
    """Push a finished run's model with a card of the run, to where its checkpoints went."""
    write_run_card(recipe)
    repository, revision = str(trainer.hub_model_id), trainer.args.hub_revision
    try:
        private = bool(trainer.args.hub_private_repo)
        url = push_folder(recipe.folder, repository, private, revision, message="End of training")
    except (HubError, ValueError) as error:
        branch = f" --revision {revision}" if revision else ""
        raise HubError(
            f"{error} The training is done and its model is in {recipe.model_folder}: "
            f"push it with `drdecr push {recipe.folder} {repository}{branch}`."
        ) from error
    logger.warning("Pushed to %s.", url)


def build_trainer(recipe: Recipe) -> tuple[DistillationTrainer, dict[str, Any]]:
    """Build a stage's trainer, and count its rows: those of each set, and how many went in cleaning."""
    student: Any = load_start(recipe)
    if recipe.lora is not None:
        student = add_adapter(student, recipe.lora, recipe.revision)
    teacher: Any = None
    if recipe.teacher == ADAPTERS_OFF:
        teacher = AdaptersOffTeacher(student)
    elif recipe.teacher:
        teacher = load_teacher(recipe.resolve(recipe.teacher), recipe.teacher_dtype)
    args = build_arguments(recipe)
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
    return trainer, {"rows": data.counts, "cleaning": data.cleaning}


def build_arguments(recipe: Recipe) -> DistillationArguments:
    """Return the stage's settings, with evaluation and the best checkpoint where there is a validation set."""
    settings: dict[str, Any] = {
        "output_dir": str(recipe.folder / "checkpoints"),
        "report_to": "none",
        "save_total_limit": 2,
        "use_cpu": not torch.accelerator.is_available(),  # the Trainer refuses bf16 on a CPU that it has to find itself
        "hub_model_id": recipe.folder.name,  # the Trainer's own default is the name of the folder of checkpoints
        **recipe.training,
    }
    if recipe.validation and "eval_strategy" not in settings:
        steps = settings.get("eval_steps") or max(1, math.ceil(settings.get("max_steps", 1000) / 5))
        chosen = {"eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps}
        best = {"load_best_model_at_end": True, "metric_for_best_model": BEST, "greater_is_better": True}
        settings = {**chosen, **best, **settings}
    return ARGUMENTS[recipe.stage](**settings)


def load_start(recipe: Recipe) -> DrDecrModel:
    """Load the model that a stage starts from; a bare encoder gets its processor and projection from the recipe.

    An adapter is merged into its base.

    Raises:
        ValueError: with `lora`, for a start that is no checkpoint: an adapter needs a base that can be loaded again.
    """
    source = recipe.resolve(recipe.start)
    if source == OFFLINE:
        source = str(prepare_offline_backbone())
    with explained(source):
        commit = commit_of(source, recipe.revision)
        hub: dict[str, Any] = {"revision": commit} if commit else {}
        is_adapter = find_adapter_config_file(source, **hub) is not None
        is_checkpoint = not is_adapter and "embedding_dim" in DrDecrConfig.get_config_dict(source, **hub)[0]
        if recipe.lora is not None and not is_checkpoint:
            kind = "an adapter" if is_adapter else "an encoder without its projection"
            cure = (
                "Start from the merged `model` of its run"
                if is_adapter
                else "Run a stage `initialise` and start from it"
            )
            raise ValueError(f"lora: expected `start` to be a whole checkpoint, got {kind}, {source}. {cure}.")
        if is_adapter:
            return load_merged(source, **hub)
        if is_checkpoint:
            return DrDecrModel.from_pretrained(source, **hub)
        config = DrDecrConfig.from_pretrained(source, embedding_dim=recipe.embedding_dim, **hub)
        model = DrDecrModel.from_pretrained(source, config=config, **hub)
    model.processor = DrDecrProcessor(model.processor.tokenizer, **recipe.processor)
    texts: dict[str, list[str]] = {}
    if recipe.projection_text:
        rows = read_parallel(recipe.projection_text)
        for code, text in zip(rows["language"], rows["query"], strict=True):
            texts.setdefault(code, []).append(text)
        texts["en"] = list(rows.unique("english"))
        texts = {code: found[: recipe.projection_texts] for code, found in texts.items()}
    initialise_projection(model, model.processor, texts, recipe.projection)
    return model


def commit_of(source: str, revision: str | None = None) -> str | None:
    """Return the commit that a Hub name stands for now, so that all its files are of one state; None for a folder."""
    if os.path.isdir(source):
        return None
    missing: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    found = cached_file(source, "config.json", **missing) or cached_file(source, "adapter_config.json", **missing)
    return extract_commit_hash(found, None)


def load_teacher(source: str, dtype: str = "float32") -> DrDecrTeacher:
    """Load a frozen teacher."""
    with explained(source):
        return DrDecrTeacher.from_pretrained(source, dtype=getattr(torch, dtype))


def save_trained(student: Any, recipe: Recipe) -> None:
    """Save what a run trained: its model, or its adapter and, if the recipe says so, the model with the adapter merged in."""
    if recipe.lora is None:
        save_model(student, recipe.model_folder)
        return
    save_model(student, recipe.adapter_folder)
    if recipe.lora.merge:
        save_model(student.merge_and_unload(), recipe.model_folder)


def save_model(model: Any, folder: Path) -> None:
    """Save a model, or the adapters of one, whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model.save_pretrained(unfinished)
    except BaseException:  # a full disk most of all
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def build_validation(recipe: Recipe, teacher: DrDecrTeacher | None) -> Callable[[DrDecrModel], dict[str, float]]:
    """Return a function that measures a student's MRR@10 on the validation sets, by language and on average.

    A student that learns to search the teacher's index (`data.cache_passages`) is measured on that index.
    """
    sets = [read_validation(entry) for entry in recipe.validation]
    fixed = [build_index(teacher, found) if recipe.data.cache_passages and teacher else None for found in sets]

    def validate(model: DrDecrModel) -> dict[str, float]:
        by_language: dict[str, list[float]] = {}
        for found, kept in zip(sets, fixed, strict=True):
            index = kept or build_index(model, found)
            scores = score_questions(model, found, index)[MEASURE]
            for query_id, score in scores.items():
                by_language.setdefault(found.languages[query_id], []).append(score)
        means = {code: sum(scores) / len(scores) for code, scores in sorted(by_language.items())}
        figures = {f"mrr@10_{code}": mean for code, mean in means.items()}
        return {**figures, BEST: sum(means.values()) / len(means)}

    return validate


def read_validation(entry: dict[str, Any]) -> QuestionSet:
    """Read a validation set; passages of the question sets under `distractors` make its collection larger and harder."""
    found = read_questions({name: value for name, value in entry.items() if name != "distractors"})
    passages = dict(found.passages)
    for other in entry.get("distractors") or []:
        passages = {**read_questions(other).passages, **passages}
    return replace(found, passages=passages)


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
