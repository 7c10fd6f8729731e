"""What a run leaves behind beside its model: the resolved recipe, where it ran, its log and its curves."""

import json
import logging
import zipfile
from dataclasses import fields
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from drdecr.data.files import write_text
from drdecr.data.provenance import PeakMemory, environment, larger
from drdecr.trainers import DistillationArguments

from .recipe import Recipe, load_recipe

logger = logging.getLogger(__name__)


SETTINGS = "settings.json"
"""What a run that is not complete computes with."""

PROCESSES = "processes"
"""How many it is trained in, among its settings."""

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


def is_done(recipe: Recipe) -> bool:
    """Tell whether a run with this recipe is already there.

    Raises:
        ValueError: if the folder holds a run of another recipe, or a model of no recipe: nothing is overwritten.
    """
    written = recipe.folder / "recipe.yaml"
    if not written.exists():
        if recipe.model_folder.exists():
            raise ValueError(f"{recipe.model_folder} exists and is no run of this recipe. Choose another `--output`.")
        return False
    try:
        others = recipe.differences(load_recipe(written))  # not by its text: it may be older than a setting
    except ValueError as error:
        others = [str(error)]  # a setting that this version does not know
    if others and _holds_work(recipe.folder):
        raise ValueError(
            f"{recipe.folder} holds a run of another recipe (see {written}; what differs: {', '.join(others[:5])}). "
            "Choose another `--output`, or delete the folder."
        )
    return (recipe.folder / "run.json").exists()


def same_recipe(written: Path, recipe: Recipe) -> bool:
    """Tell whether a written recipe says the same, whatever settings there were when it was written."""
    try:
        return not recipe.differences(load_recipe(written))
    except ValueError:
        return False


def _holds_work(folder: Path) -> bool:
    """Tell whether anything would be lost or mixed up: a run that stopped at a mistake in its recipe leaves nothing."""
    return any(
        next(folder.glob(name), None) for name in ("run.json", "model", "candidates", "checkpoints/checkpoint-*")
    )


def last_checkpoint(folder: Path, processes: int = 0) -> str | None:
    """Return the newest whole checkpoint.

    `trainer_state.json` is written last by the first process, so one without it was interrupted; the other processes may
    still have been writing their random states.

    Args:
        folder: of the checkpoints.
        processes: how many wrote their random states; 0 where there are none, or it is not known.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        if _holds_state(path) and _holds_random_states(path, processes):
            return str(path)
        logger.warning("%s was not written to its end and is left out.", path)
    return None


def _holds_state(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return True


def _holds_random_states(checkpoint: Path, processes: int) -> bool:
    """Tell whether each process wrote its own to its end: the directory of a zip file, as torch writes, stands there."""
    names = ["rng_state"] if processes == 1 else [f"rng_state_{number}" for number in range(processes)]
    pushed = (checkpoint / f"{name}.safetensors" for name in names)  # what `trainers.training_state` makes of them
    return all(
        zipfile.is_zipfile(checkpoint / f"{name}.pth") or path.exists()
        for name, path in zip(names, pushed, strict=True)
    )


def start_run(recipe: Recipe, settings: dict[str, Any] | None = None) -> None:
    """Write the recipe, and what `resolved_settings` says until the run is complete and `run.json` says it."""
    write_text(recipe.folder / "recipe.yaml", recipe.as_yaml())
    if settings is not None:
        write_text(recipe.folder / SETTINGS, json.dumps(settings, indent=2) + "\n")


def resolved_settings(args: DistillationArguments) -> dict[str, Any]:
    """Return what a training computes with, whether the recipe names it or not: the losses', the optimizer's, the seeds."""
    own = {field.name for field in fields(args)} - {field.name for field in fields(TrainingArguments)}
    settings = {name: value for name, value in sorted(args.to_dict().items()) if name in own or name in OPTIMIZATION}
    return {**settings, PROCESSES: args.world_size}


def begun_settings(folder: Path) -> dict[str, Any]:
    """Return what a run that is not complete was begun with; nothing where there is none, or one of an early version."""
    file = folder / SETTINGS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Check that a run that goes on computes with what it began with: another version may have other defaults.

    Raises:
        ValueError: naming the settings that differ; or if it goes on in another number of processes.
    """
    now = json.loads(json.dumps(settings))
    begun = begun_settings(folder) or now
    now_in = now.pop(PROCESSES, None)
    begun_in = begun.pop(PROCESSES, now_in)  # early versions did not write it
    if begun_in != now_in:
        raise ValueError(
            f"{folder} was begun in another number of processes ({begun_in}, now {now_in}), whose steps hold other rows and draw "
            f"other random numbers. Go on with `--nproc_per_node {begun_in}` of torchrun or `--num_processes {begun_in}` of "
            "accelerate, or delete the folder."
        )
    differing = [name for name in sorted({*begun, *now}) if begun.get(name) != now.get(name)]
    if differing:
        told = ", ".join(f"{name}: {begun.get(name)!r}, now {now.get(name)!r}" for name in differing[:5])
        raise ValueError(
            f"{folder} was begun with other settings ({told}). Go on with the version of this package that began it, or delete "
            "the folder."
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


class Stopwatch(TrainerCallback):
    """Counts a run's seconds and its peak of memory and keeps them in a file, at every log line and checkpoint.

    So a resumed run goes on with both.

    What a session did after its last log line is not counted: nothing is written when a process is killed.

    Args:
        file: where those of earlier sessions are kept.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        before: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"seconds": 0.0}
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

    def keep(self) -> None:
        """Write both down."""
        write_text(self.file, json.dumps({"seconds": round(self.seconds, 1), **self.peaks}) + "\n")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write at every log line."""
        if state.is_world_process_zero:
            self.keep()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write with every checkpoint."""
        if state.is_world_process_zero:
            self.keep()
