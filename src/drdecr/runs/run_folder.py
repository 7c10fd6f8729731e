"""What a run leaves behind beside its model: the resolved recipe, where it ran, its log and its curves."""

import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from drdecr.data.files import digest_of, read_json, write_text
from drdecr.data.provenance import PeakMemory, environment, larger
from drdecr.trainers import DistillationArguments
from drdecr.trainers.checkpoints import checkpoints_of

from .recipe import Recipe, load_recipe

logger = logging.getLogger(__name__)


STATE = ".drdecr-run.json"
"""The mark of a folder in which a run was begun: digest of its recipe's file and, until it is done, what it computes with."""

WRITTEN = ("recipe.yaml", "run.json", "log.jsonl", "curves.png", "model", "adapter", "candidates", "checkpoints")
"""What a run writes. Where one of these stands without the mark, somebody else wrote it."""

PROCESSES = "processes"
"""How many a run is trained in, among its settings."""

OPTIMIZATION = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
    *(
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_grad_norm",
        "weight_decay",
        "label_smoothing_factor",
    ),
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "seed", "data_seed"),
)
"""Settings of `TrainingArguments` that the weights depend on."""


def read_state(folder: Path) -> dict[str, Any]:
    """Return what a begun run keeps beside its files; nothing where no run was begun."""
    file = folder / STATE
    return dict(read_json(file)) if file.exists() else {}


def update_state(folder: Path, **facts: Any) -> None:
    """Write down what a run goes on with; `None` takes a fact out."""
    state = {name: fact for name, fact in {**read_state(folder), **facts}.items() if fact is not None}
    write_text(folder / STATE, json.dumps(state, indent=2) + "\n")


def is_done(recipe: Recipe) -> bool:
    """Tell whether a run with this recipe is already there.

    Raises:
        ValueError: if the folder holds a run of another recipe, or files that no run wrote: nothing is overwritten.
    """
    folder, written = recipe.folder, recipe.folder / "recipe.yaml"
    is_begun = (folder / STATE).exists()
    foreign = [name for name in WRITTEN if not is_begun and os.path.lexists(folder / name)]
    if foreign and not (foreign == ["recipe.yaml"] and same_recipe(written, recipe)):  # the file that was given
        raise ValueError(
            f"{folder} holds {', '.join(foreign)}, which no run wrote. Nothing is overwritten: choose another `--output`."
        )
    differing = _differences(written, recipe) if written.exists() else []
    if differing and (_holds_work(folder) or not _is_as_written(written)):
        raise ValueError(
            f"{folder} holds a run of another recipe (see {written}; what differs: {', '.join(differing[:5])}). "
            "Choose another `--output`, or delete the folder."
        )
    return is_begun and (folder / "run.json").exists()


def same_recipe(written: Path, recipe: Recipe) -> bool:
    """Tell whether a written recipe says the same."""
    return not _differences(written, recipe)


def _differences(written: Path, recipe: Recipe) -> list[str]:
    try:
        return recipe.differences(load_recipe(written))
    except (ValueError, OSError) as error:
        return [str(error)]


def _is_as_written(file: Path) -> bool:
    """Tell whether a run's recipe is what the run wrote: one that was changed by hand is its owner's."""
    return bool(digest_of(file) == read_state(file.parent).get("recipe_sha256"))


def _holds_work(folder: Path) -> bool:
    """Tell whether anything would be lost or mixed up: a run that stopped at a mistake in its recipe leaves nothing."""
    return bool(checkpoints_of(folder / "checkpoints")) or any(
        (folder / name).exists() for name in ("run.json", "model", "candidates")
    )


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints, whose best one is in `model` now, and the folder if nothing else is in it."""
    for path in checkpoints_of(folder):
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def start_run(recipe: Recipe, settings: dict[str, Any] | None = None) -> None:
    """Mark the folder, write the recipe, and what `resolved_settings` says until the run is complete.

    A recipe that says the same and stands there already, perhaps with its owner's comments, is left alone.
    """
    written = recipe.folder / "recipe.yaml"
    if not written.exists() or (_is_as_written(written) and not same_recipe(written, recipe)):
        write_text(written, recipe.as_yaml())
    facts = {} if settings is None else {"settings": settings}
    update_state(recipe.folder, recipe_sha256=digest_of(written), **facts)


def resolved_settings(args: DistillationArguments) -> dict[str, Any]:
    """Return what a training computes with, whether the recipe names it or not: the losses', the optimizer's, the seeds."""
    ours = {field.name for field in fields(args)} - {field.name for field in fields(TrainingArguments)}
    settings = {name: value for name, value in sorted(args.to_dict().items()) if name in ours or name in OPTIMIZATION}
    return {**settings, PROCESSES: args.world_size}


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Check that a run that goes on computes with what it began with: another version may have other defaults.

    Raises:
        ValueError: naming the settings that differ; or if it goes on in another number of processes.
    """
    now = json.loads(json.dumps(settings))
    begun = read_state(folder).get("settings", now)
    num_begun, num_now = begun.get(PROCESSES), now.get(PROCESSES)
    if num_begun != num_now:
        raise ValueError(
            f"{folder} was begun in another number of processes ({num_begun}, now {num_now}), whose steps hold other rows and "
            f"draw other random numbers. Go on with `--nproc_per_node {num_begun}` of torchrun or `--num_processes {num_begun}` "
            "of accelerate, or delete the folder."
        )
    differing = [name for name in sorted({*begun, *now}) if begun.get(name) != now.get(name)]
    if differing:
        values = ", ".join(f"{name}: {begun.get(name)!r}, now {now.get(name)!r}" for name in differing[:5])
        raise ValueError(
            f"{folder} was begun with other settings ({values}). Go on with the version of this package that began it, or "
            "delete the folder."
        )


def finish_run(recipe: Recipe, seconds: float, log: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write the log, the curves and, last, `run.json`: its presence says that the run is complete.

    Args:
        recipe: of the run.
        seconds: that it took, in all its sessions.
        log: lines of the trainer's log.
        facts: what else `run.json` should say.
    """
    from drdecr.evaluation.plots import draw_curves

    write_text(recipe.folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log))
    if log:
        draw_curves(log, recipe.folder / "curves.png", title=recipe.folder.name)
    content = {"stage": recipe.stage, **environment(), "seconds": round(seconds, 1), **facts}
    write_text(recipe.folder / "run.json", json.dumps(content, indent=2) + "\n")
    update_state(recipe.folder, settings=None, clock=None)


class Stopwatch(TrainerCallback):
    """Counts a run's seconds and its peak of memory and writes both down, at every log line and checkpoint.

    So a resumed run goes on with both. What a session did after its last log line is not counted: nothing is written when a
    process is killed.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        before: dict[str, float] = read_state(folder).get("clock", {"seconds": 0.0})
        self._before, self._peaks_before = before["seconds"], larger(before, {})
        self._memory = PeakMemory()
        self._started = monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of this session and of those before it."""
        return self._before + monotonic() - self._started

    @property
    def peaks(self) -> dict[str, float]:
        """The highest peaks of memory of this session and of those before it, as of `PeakMemory`."""
        return larger(self._peaks_before, self._memory.peaks)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write at every log line."""
        if state.is_world_process_zero:
            update_state(self.folder, clock={"seconds": round(self.seconds, 1), **self.peaks})

    on_save = on_log  # and with every checkpoint
