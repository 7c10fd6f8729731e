"""A run that is killed with SIGKILL, wherever it is, ends bit for bit where an undisturbed one does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drdecr.runs.recipe import load_recipe

SCRIPT, LAUNCHED = (Path(__file__).with_name(name) for name in ("killed_training.py", "launched_killing.py"))
EXPECTED = """\
first step, one of two batches accumulated: killed, from the start
weights of a checkpoint written: killed, from the start
checkpoint written but for its state: killed, from the start
checkpoint written: killed, from the start
third step, both batches accumulated: killed, from checkpoint-2
fourth step, not begun: killed, from checkpoint-2
checkpoint written: killed, from checkpoint-2
model of the run written: killed, from checkpoint-4
run written, checkpoints still there: killed, from checkpoint-6
: exit 0, from checkpoint-6
"""
EXPECTED_OF_TWO = """\
fourth step, the other waits for its gradients: ended, killed, from the start
checkpoint written but for the other's random state: killed, ended, from checkpoint-2
: done, done, from checkpoint-2
"""


@pytest.fixture
def run(run_python: Callable[..., Any]) -> Callable[..., str]:
    """`run(recipe, *moments)` tells what each start of a training came from, and how it ended."""

    def lines(recipe: Path, *moments: str, script: Path = SCRIPT) -> str:
        done = run_python(script, recipe, *moments, env={"TOKENIZERS_PARALLELISM": "false"}, timeout=600)
        return "".join(line for line in done.stdout.splitlines(keepends=True) if ", from " in line)  # not the Trainer's

    return lines


def differing_weights(folder: Path, other: Path) -> list[str]:
    """Return the names of the weights in which the models of two runs differ by a bit."""
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (folder, other))
    assert set(ours) == set(theirs)
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_nine_moments_ends_where_an_undisturbed_one_does(
    write_recipe: Callable[..., Path], start: str, data: dict[str, dict[str, Any]], run: Callable[..., str]
):
    weights = {"relevance_weight": 1.0, "token_weight": 1.0, "in_batch_weight": 0.5, "projection_learning_rate": 2e-3}
    schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "max_steps": 6, "save_steps": 2}
    training = {**weights, **schedule, "save_strategy": "steps", "gradient_accumulation_steps": 2}
    sets = {
        "questions": [data["train"]],
        "parallel": [data["parallel"]],
        "num_candidates": 3,
    }  # two sets, dropout of BERT
    keys = {"stage": "mixed", "model": start, "teacher": start, "data": sets, "training": training}
    undisturbed, killed = write_recipe("undisturbed", **keys), write_recipe("killed", **keys)
    assert run(undisturbed) == ": exit 0, from the start\n"
    moments = [line.partition(":")[0] for line in EXPECTED.splitlines()[:-1]]
    assert run(killed, *moments) == EXPECTED
    folders = [load_recipe(path).folder for path in (undisturbed, killed)]
    assert differing_weights(*folders) == []
    lines, others = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders
    )
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"}
    assert [{k: v for k, v in line.items() if k not in timed} for line in lines] == [
        {k: v for k, v in line.items() if k not in timed} for line in others
    ]


@pytest.mark.processes
def test_two_processes_of_which_one_is_killed_end_where_undisturbed_ones_do(
    write_recipe: Callable[..., Path], start: str, data: dict[str, dict[str, Any]], run: Callable[..., str]
):
    weights = {"relevance_weight": 1.0, "relevance_over": "batch", "in_batch_weight": 0.5, "token_weight": 1.0}
    steps = {"max_steps": 6, "save_steps": 2, "save_strategy": "steps", "per_device_train_batch_size": 2}
    training = {**weights, **steps, "gather_across_devices": True, "use_cpu": True}
    sets = {"questions": [data["train"]], "num_candidates": 3}
    keys = {"stage": "mixed", "model": start, "teacher": start, "data": sets, "training": training}  # dropout of BERT
    undisturbed, killed = write_recipe("undisturbed", **keys), write_recipe("killed", **keys)
    assert run(undisturbed, script=LAUNCHED) == ": done, done, from the start\n"
    moments = [line.partition(":")[0] for line in EXPECTED_OF_TWO.splitlines()[:-1]]
    assert run(killed, *moments, script=LAUNCHED) == EXPECTED_OF_TWO
    folders = [load_recipe(path).folder for path in (undisturbed, killed)]
    assert differing_weights(*folders) == []
    assert "linear.weight" in differing_weights(folders[0], folders[0].with_name("start"))
