"""What a run needs to know of the processes that a launcher started, before and after there is a process group."""

import os
import time
from datetime import timedelta

import torch
from accelerate import PartialState

PATIENCE = timedelta(days=7)
"""How long one process waits for another: a share of a large collection takes hours."""


def is_main_process() -> bool:
    """Tell whether this process writes the run's folder; known from the launcher, without a process group."""
    return int(os.environ.get("RANK", "0")) == 0


def num_launched() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> PartialState:
    """Return this process's place among those that `accelerate launch` or torchrun started to share a work.

    Raises:
        ValueError: if they do not work together.
    """
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    check_processes(state.num_processes)
    return state


def check_processes(world_size: int | None) -> None:
    """Check that the processes which a launcher started work together.

    Args:
        world_size: that of the training arguments; None for a stage that trains nothing, which one process does.

    Raises:
        ValueError: if they do not: each would train by itself and write into the same folder.
    """
    started = num_launched()
    if world_size is not None and started != world_size:
        raise ValueError(
            f"Expected {started} processes that work together, as many as the launcher started, got a group of "
            f"{world_size}: each would train by itself. On CPUs add `--training.use_cpu true` after the recipe, or set "
            "ACCELERATE_USE_CPU=true."
        )


def shut_down() -> None:
    """Leave the process group in order.

    With gloo and torch 2.13 the interpreter may hang at exit when the last collective is still being freed
    (pytorch #190489); a short pause before the group is destroyed avoids it. Goes when that issue is closed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
