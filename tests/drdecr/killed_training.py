"""What test_killed.py starts: a run that is killed again and again, each session a process of its own.

Usage: killed_training.py RECIPE MOMENT ...; each session runs the recipe and is killed with SIGKILL at its moment; the last one
is left to end. Prints a line a session: the moment, how it ended, the step that it resumed from.

Sessions are forked from here, so that torch is imported once. Nothing is computed before: torch's threads do not survive.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs import stage
from drdecr.runs.recipe import load_recipe
from drdecr.trainers.checkpoints import newest_whole_checkpoint


def kill_at(owner: Any, name: str, call: int, before: bool = True) -> None:
    """Kill this process at the n-th call of a method, before it or after it."""
    method: Callable[..., Any] = getattr(owner, name)
    calls = []

    def counted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        if before and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*arguments, **keywords)
        if not before and len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


MOMENTS: dict[str, Callable[[], None]] = {
    "first step, one of two batches accumulated": lambda: kill_at(Trainer, "training_step", 1, before=False),
    "weights of a checkpoint written": lambda: kill_at(DrDecrModel, "save_pretrained", 1, before=False),
    "checkpoint written but for its state": lambda: kill_at(TrainerState, "save_to_json", 1),
    "checkpoint written": lambda: kill_at(TrainerState, "save_to_json", 1, before=False),
    "third step, both batches accumulated": lambda: kill_at(Trainer, "training_step", 2, before=False),
    "fourth step, not begun": lambda: kill_at(Trainer, "training_step", 3),
    "model of the run written": lambda: kill_at(stage, "save_trained", 1, before=False),
    "run written, checkpoints still there": lambda: kill_at(stage, "finish_run", 1, before=False),
}


def main() -> None:
    path, *moments = sys.argv[1:]
    recipe = load_recipe(path)
    for moment in [*moments, ""]:
        found = newest_whole_checkpoint(recipe.folder / "checkpoints")
        sys.stdout.flush()  # or a session would print what stands in the buffer again
        session = os.fork()
        if session == 0:
            if moment:
                MOMENTS[moment]()
            stage.run_stage(recipe)
            os._exit(0)
        _, status = os.waitpid(session, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        ended = "killed" if killed else f"exit {os.WEXITSTATUS(status)}"
        sys.stdout.write(f"{moment}: {ended}, from {Path(found).name if found else 'the start'}\n")


if __name__ == "__main__":
    main()
