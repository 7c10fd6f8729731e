"""A run that is killed with SIGKILL, wherever it is, ends bit for bit where an undisturbed one does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from drdecr.recipe import load_recipe

SCRIPT = Path(__file__).with_name("killed_training.py")
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


@pytest.fixture
def run(run_python: Callable[..., Any]) -> Callable[..., str]:
    """`run(recipe, *moments)` tells what each start of a training came from, and how it ended."""

    def lines(recipe: Path, *moments: str) -> str:
        done = run_python(SCRIPT, recipe, *moments, env={"TOKENIZERS_PARALLELISM": "false"}, timeout=600)
        return "".join(line for line in done.stdout.splitlines(keepends=True) if ", from " in line)  # not the Trainer's

    return lines


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
    keys = {"stage": "mixed", "start": start, "teacher": start, "data": sets, "training": training}
    undisturbed, killed = write_recipe("undisturbed", **keys), write_recipe("killed", **keys)
    assert run(undisturbed) == ": exit 0, from the start\n"
    moments = [line.partition(":")[0] for line in EXPECTED.splitlines()[:-1]]
    assert run(killed, *moments) == EXPECTED
    folders = [load_recipe(path).folder for path in (undisturbed, killed)]
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert set(one) == set(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    lines, others = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders
    )
    timed = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss"}
    assert [{k: v for k, v in line.items() if k not in timed} for line in lines] == [
        {k: v for k, v in line.items() if k not in timed} for line in others
    ]
