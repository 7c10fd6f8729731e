"""Run one stage from its recipe: build, train, keep the best, write the run's folder."""

import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import set_seed

from drdecr.data.files import write_text
from drdecr.data.shards import check_processes, is_main_process
from drdecr.hub.push import push_folder
from drdecr.modeling_drdecr.hub_drdecr import HubError
from drdecr.retrieval.encoder import load_teacher
from drdecr.trainers import (
    AdaptersOffTeacher,
    ContrastiveTrainer,
    DistillationArguments,
    DistillationTrainer,
    RelevanceDistillationTrainer,
    RepresentationDistillationTrainer,
    add_adapter,
)
from drdecr.trainers.adapters import check_base
from drdecr.trainers.precision import faster_precision

from .model_card import write_run_card
from .model_loading import load_student, student_revision
from .recipe import ADAPTERS_OFF, ARGUMENTS, Recipe
from .run_folder import (
    PROCESSES,
    SETTINGS,
    Stopwatch,
    begun_settings,
    check_settings,
    finish_run,
    is_done,
    last_checkpoint,
    resolved_settings,
    start_run,
)
from .training_data import TrainingData, build_training_data, check_teacher
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
    checkpoints = recipe.folder / "checkpoints"
    goes_on = args is not None and last_checkpoint(checkpoints) is not None
    if args is not None and goes_on:
        check_settings(recipe.folder, resolved_settings(args))
    if is_main_process():
        start_run(recipe, resolved_settings(args) if args is not None and not goes_on else None)
    if args is not None:
        recipe = resolve_precision(recipe, args.device)
        args = build_arguments(recipe) if recipe.precision == "bfloat16" else args
    stopwatch = Stopwatch(recipe.folder / "seconds.json")
    seed = args.seed if args is not None else recipe.training.get("seed", DistillationArguments.seed)
    set_seed(seed)
    facts = student_revision(recipe)
    if args is None:
        if is_main_process():
            save_model(load_student(recipe), recipe.model_folder)
            finish_run(recipe, stopwatch.seconds, [], {**stopwatch.peaks, **facts, "seed": seed})
        return recipe.model_folder
    if not recipe.is_evaluated:
        logger.warning(
            "No `validation` set: nothing is evaluated, and the last step's model is kept, not the best one's."
        )
    trainer, data = build_trainer(recipe, args)
    trainer.add_callback(stopwatch)
    written_by = 0 if args.save_only_model else begun_settings(recipe.folder).get(PROCESSES, 0)
    checkpoint = last_checkpoint(checkpoints, written_by)
    if checkpoint is not None:
        logger.warning("Resuming from %s.", checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    # What FSDP shares out is put together by all processes.
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        save_trained(trainer.accelerator.unwrap_model(trainer.model), recipe, weights)
        facts = {
            **stopwatch.peaks,
            **facts,
            "rows": data.counts,
            "cleaning": data.cleaning,
            "languages": data.languages,
            "steps": trainer.state.global_step,
            "last_loss": next((line["loss"] for line in reversed(trainer.state.log_history) if "loss" in line), None),
            "batch_rows": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "processes": args.world_size,
            "seed": args.seed,
            "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
            "best_checkpoint": trainer.state.best_model_checkpoint and Path(trainer.state.best_model_checkpoint).name,
            "settings": resolved_settings(args),
        }
        finish_run(recipe, stopwatch.seconds, trainer.state.log_history, facts)
        for name in (stopwatch.file.name, SETTINGS):
            (recipe.folder / name).unlink(missing_ok=True)
        shutil.rmtree(checkpoints, ignore_errors=True)  # the best one is in `model` now
        if trainer.args.push_to_hub:
            push_run(recipe, trainer)
    trainer.accelerator.wait_for_everyone()
    return recipe.model_folder


def build_trainer(recipe: Recipe, args: DistillationArguments) -> tuple[DistillationTrainer, TrainingData]:
    """Build a stage's trainer and its rows."""
    check_teacher(recipe)
    labelled = sorted({"contrastive", "in_batch_contrastive"} & set(args.term_weights))
    if labelled and recipe.data.unlabelled_queries:
        raise ValueError(
            f"data.unlabelled_queries: expected none for {', '.join(labelled)}, which would take the teacher's first guess for "
            "the answer. Set their weights to 0, or name passages in `questions`."
        )
    student: Any = load_student(recipe)
    student.to(args.device)  # here already: caches and candidates are encoded before training
    if recipe.lora is not None:
        if args.push_to_hub:  # every save of the training pushes the adapter alone
            check_base(recipe.resolve(recipe.model))
        commit = student_revision(recipe).get(
            "start_commit"
        )  # a branch may move, and the adapter fits these weights only
        student = add_adapter(student, recipe.lora, commit or recipe.revision)
    teacher: Any = None
    if recipe.teacher == ADAPTERS_OFF:
        teacher = AdaptersOffTeacher(student)
    elif recipe.teacher:
        teacher = load_teacher(recipe.resolve(recipe.teacher), recipe.teacher_dtype)
        teacher.to(args.device)
    step = args.gradient_accumulation_steps * args.world_size
    steps = max(args.max_steps, 0)
    data = build_training_data(recipe, student, teacher, steps, args.train_batch_size, args.seed, batches_a_step=step)
    trainer = TRAINERS[recipe.stage](
        student,
        args,
        teacher=teacher,
        evaluator=build_validation(recipe, teacher) if recipe.validation and recipe.is_evaluated else None,
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
        **({"bf16": True} if recipe.precision == "bfloat16" else {}),
        **recipe.training,
    }
    if recipe.validation and recipe.is_evaluated:
        settings = {**_evaluation(settings, ARGUMENTS[recipe.stage].max_steps), **settings}
    return ARGUMENTS[recipe.stage](**settings)


def _evaluation(settings: dict[str, Any], default_steps: int) -> dict[str, Any]:
    """Return when a stage evaluates and saves, five times or once an epoch, and that its best checkpoint is kept."""
    max_steps = settings.get("max_steps", default_steps)
    steps = settings.get("eval_steps") or (math.ceil(max_steps / 5) if max_steps > 0 else None)
    strategy = settings.get("eval_strategy") or ("steps" if steps else "epoch")
    chosen = {"eval_strategy": strategy, "save_strategy": strategy, "load_best_model_at_end": True}
    if strategy == "steps" and steps:
        chosen |= {"eval_steps": steps, "save_steps": steps}
    if "metric_for_best_model" not in settings:  # the Trainer knows of its own which way a loss is better
        chosen |= {"metric_for_best_model": BEST, "greater_is_better": True}
    return chosen


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


def save_trained(student: Any, recipe: Recipe, weights: dict[str, Any] | None = None) -> None:
    """Save what a run trained: its model, or its adapter and, if the recipe says so, the model with the adapter merged in.

    Args:
        student: the model.
        recipe: of the run.
        weights: of a model whose own are shared out over processes.
    """
    if recipe.lora is None:
        save_model(student, recipe.model_folder, **({} if weights is None else {"state_dict": weights}))
        return
    save_model(student, recipe.adapter_folder)
    if recipe.lora.merge:
        save_model(student.merge_and_unload(), recipe.model_folder)


def save_model(model: Any, folder: Path, **kwargs: Any) -> None:
    """Save a model, or the adapters of one, whole or not at all; `kwargs` go to `save_pretrained`."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model.save_pretrained(unfinished, **kwargs)
    except BaseException:  # a full disk most of all
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


PRECISION_FILE = "precision.json"
"""In the run's folder: what was measured when it began, by the kind of device: `{"cpu": "float32"}`."""


def resolve_precision(recipe: Recipe, device: torch.device | str = "cpu") -> Recipe:
    """Return the recipe with what `auto` means on this machine in its place; every process must call it.

    Args:
        recipe: of the run. Its folder keeps the answer: a resumed run goes on in the precision that it began with on this
            kind of device; what an export measured on the CPU says nothing of a GPU.
        device: on which the run computes.
    """
    asked = {"precision": recipe.precision, "teacher_dtype": recipe.teacher_dtype}
    if "auto" not in asked.values():
        return recipe
    state = PartialState()
    found = [_measured(recipe, device) if state.is_main_process else None]
    broadcast_object_list(found)
    chosen: dict[str, Any] = {key: found[0] if value == "auto" else value for key, value in asked.items()}
    return replace(recipe, **chosen)


def _measured(recipe: Recipe, device: torch.device | str) -> str:
    file = recipe.folder / PRECISION_FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kind = torch.device(device).type
    if kind in known:
        return str(known[kind])
    found = faster_precision(device)
    logger.info("Computing in %s, the faster one on this machine.", found)
    write_text(file, json.dumps({**known, kind: found}) + "\n")
    return found
