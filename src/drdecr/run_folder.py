"""What a run leaves behind beside its model: the resolved recipe, where it ran, its log and its curves."""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from drdecr.trainers import DistillationArguments

from .published import shown_command
from .recipe import Recipe, load_recipe

logger = logging.getLogger(__name__)

PACKAGES = (
    "drdecr",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "peft",
    "huggingface_hub",
    "tokenizers",
    "numpy",
)


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


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: an interrupted write leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


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


def environment() -> dict[str, Any]:
    """Return versions, git commit, command (without this machine's folders, for it is published) and hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git_commit": _git_commit(),
        "command": shown_command(sys.argv),
        "hardware": device,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the package's own checkout, if it is run from one."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
