"""Run one stage from its recipe: build, train, keep the best, write the run's folder."""

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import set_seed

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
from drdecr.trainers.checkpoints import newest_whole_checkpoint
from drdecr.trainers.diagnostics import FIGURES
from drdecr.trainers.precision import faster_precision

from .model_card import write_run_card
from .model_loading import load_student, student_revision
from .recipe import ADAPTERS_OFF, ARGUMENTS, Recipe, check_teacher
from .run_folder import (
    PROCESSES,
    Stopwatch,
    check_settings,
    finish_run,
    is_done,
    read_state,
    remove_checkpoints,
    resolved_settings,
    start_run,
    update_state,
)
from .training_data import TrainingData, build_training_data
from .validation import BEST, Validation

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
    elif recipe.stage == "initialise":
        initialise_model(recipe)
    else:
        train_stage(recipe)
    return recipe.model_folder


def initialise_model(recipe: Recipe) -> None:
    """Run the stage that trains nothing: set the projection of a bare encoder."""
    check_processes(None)
    if not is_main_process():
        return
    start_run(recipe)
    stopwatch = Stopwatch(recipe.folder)
    seed = recipe.training.get("seed", DistillationArguments.seed)
    set_seed(seed)
    facts = student_revision(recipe)
    save_model(load_student(recipe), recipe.model_folder)
    finish_run(recipe, stopwatch.seconds, [], {**stopwatch.peaks, **facts, "seed": seed})


def train_stage(recipe: Recipe) -> None:
    """Train a stage's student, or go on where its training was interrupted."""
    args = build_arguments(recipe)  # sets the process group up
    check_processes(args.world_size)
    checkpoint = begin_training(recipe, args)
    recipe = resolve_precision(recipe, args.device)
    args = build_arguments(recipe) if recipe.precision == "bfloat16" else args
    stopwatch = Stopwatch(recipe.folder)
    set_seed(args.seed)
    revision = student_revision(recipe)
    if not recipe.is_evaluated:
        logger.warning(
            "No `validation` set: nothing is evaluated, and the last step's model is kept, not the best one's."
        )
    trainer, data = build_trainer(recipe, args)
    trainer.add_callback(stopwatch)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        log_where_it_stands(recipe, trainer)
        raise
    # What FSDP shares out is put together by all processes.
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        save_trained(trainer.accelerator.unwrap_model(trainer.model), recipe, weights)
        facts = {**stopwatch.peaks, **revision, **training_facts(trainer, data)}
        finish_run(recipe, stopwatch.seconds, trainer.state.log_history, facts)
        remove_checkpoints(recipe.folder / "checkpoints")
        if args.push_to_hub:
            push_run(recipe, trainer)
    trainer.accelerator.wait_for_everyone()


def begin_training(recipe: Recipe, args: DistillationArguments) -> str | None:
    """Mark the run's folder, or check that it goes on as it began; return the checkpoint to go on from."""
    folder = recipe.folder / "checkpoints"
    has_state = not args.save_only_model
    goes_on = newest_whole_checkpoint(folder, has_state=has_state) is not None
    if goes_on:
        check_settings(recipe.folder, resolved_settings(args))
    num_begun = read_state(recipe.folder).get("settings", {}).get(PROCESSES, 0)
    PartialState().wait_for_everyone()  # the others have looked at what the first one writes now
    if is_main_process():
        start_run(recipe, None if goes_on else resolved_settings(args))
    checkpoint = newest_whole_checkpoint(folder, num_begun, has_state) if goes_on else None
    if checkpoint is not None:
        logger.warning("Resuming from %s.", checkpoint)
    return checkpoint


def log_where_it_stands(recipe: Recipe, trainer: DistillationTrainer) -> None:
    """Say what an interrupted training has done, and how to go on."""
    state = trainer.state
    steps = f"{recipe.folder}: stopped after {state.global_step:,} of {state.max_steps:,} steps."
    checkpoint = newest_whole_checkpoint(recipe.folder / "checkpoints", has_state=not trainer.args.save_only_model)
    if checkpoint is None:
        logger.warning("%s No checkpoint was written yet: the same command begins again.", steps)
    else:
        logger.warning("%s Give the same command again to go on from %s.", steps, Path(checkpoint).name)


def training_facts(trainer: DistillationTrainer, data: TrainingData) -> dict[str, Any]:
    """Return what `run.json` says of a training: its rows, its steps and what it computed with."""
    args, state = trainer.args, trainer.state
    return {
        "rows": data.counts,
        "cleaning": data.cleaning,
        "languages": data.languages,
        "steps": state.global_step,
        "last_loss": next((line["loss"] for line in reversed(state.log_history) if "loss" in line), None),
        "batch_rows": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "processes": args.world_size,
        "seed": args.seed,
        "precision": "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        "best_checkpoint": state.best_model_checkpoint and Path(state.best_model_checkpoint).name,
        "settings": resolved_settings(args),
    }


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
    log_step_size(sum(data.counts.values()), args.train_batch_size * step)
    validate = Validation(recipe, teacher) if recipe.validation and recipe.is_evaluated else None
    if recipe.is_evaluated:
        check_best_metric(args, [*(validate.figures if validate else ()), *dev_figures(args, data.dev or {})])
    trainer = TRAINERS[recipe.stage](
        student,
        args,
        teacher=teacher,
        evaluator=validate,
        train_dataset=data.train,
        eval_dataset=data.dev if args.eval_strategy != "no" else None,
        data_collator=data.collator,
    )
    return trainer, data


def log_step_size(num_rows: int, rows_per_step: int) -> None:
    """Say so where one step holds more rows than there are: the paper's 192 are many for a few."""
    if num_rows < rows_per_step:
        logger.warning(
            "%d rows, %d a step: every step holds each row %.1f times. Lower `per_device_train_batch_size` or "
            "`gradient_accumulation_steps`.",
            num_rows,
            rows_per_step,
            rows_per_step / num_rows,
        )


def dev_figures(args: DistillationArguments, sets: Iterable[str]) -> list[str]:
    """Return the names of what is measured on the rows that were set apart."""
    return [f"{name}_{figure}" for name in sets for figure in ("loss", *args.term_weights, *FIGURES)]


def check_best_metric(args: DistillationArguments, measured: list[str]) -> None:
    """Check before the training that what chooses the best checkpoint will be measured.

    Raises:
        ValueError: naming what is measured.
    """
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if metric and metric not in measured:
        raise ValueError(
            f"metric_for_best_model: expected one of {', '.join(measured)}, got {metric!r}, which nothing measures."
        )


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
    max_steps = settings.get("max_steps", -1 if "num_train_epochs" in settings else default_steps)
    steps = settings.get("eval_steps") or (math.ceil(max_steps / 5) if max_steps > 0 else None)
    strategy = settings.get("eval_strategy") or ("steps" if steps else "epoch")
    evaluation = {"eval_strategy": strategy, "save_strategy": strategy, "load_best_model_at_end": True}
    if strategy == "steps" and steps:
        evaluation |= {"eval_steps": steps, "save_steps": steps}
    if "metric_for_best_model" not in settings:  # the Trainer knows of its own which way a loss is better
        evaluation |= {"metric_for_best_model": BEST, "greater_is_better": True}
    return evaluation


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


def resolve_precision(recipe: Recipe, device: torch.device | str = "cpu") -> Recipe:
    """Return the recipe with what `auto` means on this machine in its place; every process must call it.

    Args:
        recipe: of the run. Its folder keeps the answer: a resumed run goes on in the precision that it began with on this
            kind of device; what an export measured on the CPU says nothing of a GPU.
        device: on which the run computes.
    """
    settings = {"precision": recipe.precision, "teacher_dtype": recipe.teacher_dtype}
    if "auto" not in settings.values():
        return recipe
    state = PartialState()
    answers = [_faster_precision(recipe, device) if state.is_main_process else None]
    broadcast_object_list(answers)
    resolved: dict[str, Any] = {key: answers[0] if value == "auto" else value for key, value in settings.items()}
    return replace(recipe, **resolved)


def _faster_precision(recipe: Recipe, device: torch.device | str) -> str:
    known = read_state(recipe.folder).get("precision", {})
    kind = torch.device(device).type
    if kind not in known:
        known = {**known, kind: faster_precision(device)}
        logger.info("Computing in %s, the faster one on this machine.", known[kind])
        update_state(recipe.folder, precision=known)
    return str(known[kind])
