"""What test_killed.py starts: a run in two processes over gloo that is killed again and again.

Usage: launched_killing.py RECIPE MOMENT ...; in each session one of two processes is killed with SIGKILL at the moment, and the
other is ended, as torchrun does; the last session is left to end. Prints a line a session: the moment, how both ended, the
checkpoint that it resumed from.

Processes are forked from here, so that torch is imported once, and find each other by the variables that torchrun would set.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import transformers.trainer
from transformers import Trainer

from drdecr.cli.main import leave_process_group
from drdecr.runs import stage
from drdecr.runs.recipe import Recipe, load_recipe
from drdecr.trainers.checkpoints import newest_whole_checkpoint

PROCESSES = 2


def before(owner: Any, name: str, call: int, action: Callable[[], None]) -> None:
    """Do something before the n-th call of a method."""
    method: Callable[..., Any] = getattr(owner, name)
    calls = []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            action()
        return method(*arguments, **keywords)

    setattr(owner, name, counted)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, rank: int) -> None:
    """Prepare a process for what happens to it at a moment."""
    if moment == "fourth step, the other waits for its gradients" and rank == 1:
        before(Trainer, "training_step", 4, die)
    if moment == "checkpoint written but for the other's random state":
        if rank == 0:
            before(transformers.trainer, "rotate_checkpoints", 1, die)  # what comes after the checkpoint's last file
        else:
            before(Trainer, "_save_rng_state", 1, lambda: time.sleep(120))


def session(recipe: Recipe, moment: str) -> str:
    """Run both processes until one dies or both are done; return how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = {}
    for rank in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            number = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            size = {"WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES)}
            os.environ.update({**number, **size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
            arm(moment, rank)
            stage.run_stage(recipe)
            leave_process_group()
            os._exit(0)
        running[pid] = rank
    ended = {}
    while running:
        pid, status = os.wait()
        ended[running.pop(pid)] = os.waitstatus_to_exitcode(status)
        if status != 0:
            for other in running:
                os.kill(other, signal.SIGTERM)
    named = {0: "done", -signal.SIGKILL: "killed"}
    return ", ".join(named.get(ended[rank], "ended") for rank in range(PROCESSES))


def main() -> None:
    path, *moments = sys.argv[1:]
    recipe = load_recipe(path)
    for moment in [*moments, ""]:
        found = newest_whole_checkpoint(recipe.folder / "checkpoints", PROCESSES)
        sys.stdout.flush()  # or both would print what stands in the buffer again
        ends = session(recipe, moment)
        sys.stdout.write(f"{moment}: {ends}, from {os.path.basename(found) if found else 'the start'}\n")


if __name__ == "__main__":
    main()
