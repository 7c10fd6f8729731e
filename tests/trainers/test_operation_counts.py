"""What a training step costs, counted and not timed: operation_counts.json holds what was counted before.

A step that encodes a token or multiplies a matrix more than it did is slower on every machine. Where a change is meant to
cost more, or saves something, write what the failing test prints into the table, and say so in the change.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from drdecr.data.collators import DistillationCollator
from drdecr.data.token_cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationTrainer

RECORDED = json.loads(Path(__file__).with_name("operation_counts.json").read_text(encoding="utf-8"))
BYTES_TOLERANCE = 0.05  # another version of torch makes other temporary tensors

RELEVANCE, TOKENS = {"relevance_weight": 1.0}, {"token_weight": 0.5, "anchor_weight": 0.5}
STEPS: dict[str, dict[str, Any]] = {
    "contrastive": {"contrastive_weight": 1.0},
    "contrastive over the batch": {"in_batch_weight": 1.0},
    "representation": TOKENS,
    "representation, cached teacher": {"token_weight": 0.5, "cached": "questions"},
    "relevance": RELEVANCE,
    "relevance, cached scores": {**RELEVANCE, "cached": "scores"},
    "relevance, teacher's index": {**RELEVANCE, "cached": "passages"},
    "relevance over the batch, teacher's index": {**RELEVANCE, "relevance_over": "batch", "cached": "passages"},
    "relevance, 4 texts at a time": {**RELEVANCE, "encode_mini_batch_size": 4},
}


class Allocations(TorchDispatchMode):
    """Bytes of all tensors that operations make, views and in-place results left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        made = {leaf.untyped_storage()._cdata: leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)}
        self.bytes += sum(leaf.untyped_storage().nbytes() for key, leaf in made.items() if key not in known)
        return output


def count_reading(model: nn.Module) -> dict[str, int]:
    """Count a model's forward passes and the tokens in them, padding included, from now on."""
    counts = {"passes": 0, "tokens": 0}

    def add(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        counts["passes"] += 1
        counts["tokens"] += kwargs["input_ids"].numel()

    model.register_forward_pre_hook(add, with_kwargs=True)
    return counts


def collator_of(cached: str, collate: DistillationCollator, teacher: DrDecrTeacher, rows: Any) -> DistillationCollator:
    caches = {}
    if cached in ("questions", "passages"):
        caches["query_cache"] = TokenCache.of_queries(teacher, [row["english"] for row in rows])
    if cached == "passages":
        caches["document_cache"] = TokenCache.of_documents(teacher, collate.passages)
    return DistillationCollator(collate.processor, collate.passages, anchor=collate.anchor, **caches)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_costs_what_was_recorded(
    name: str,
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    collate: DistillationCollator,
    build: Callable[..., DistillationTrainer],
    request: pytest.FixtureRequest,
):
    settings = dict(STEPS[name])
    cached = settings.pop("cached", "")
    rows = request.getfixturevalue("parallel_rows" if "token_weight" in settings else "candidate_rows")[:8]
    if cached == "scores":
        rows = [{**row, "teacher_scores": [3.0, 2.0, 1.0]} for row in rows]
        rows = [{name: value for name, value in row.items() if name != "english"} for row in rows]
    batch = collator_of(cached, collate, teacher, rows)(rows)
    trainer = build(DistillationTrainer, still_model, rows, collate, teacher=teacher, **settings)
    student, read = count_reading(still_model), count_reading(teacher)
    with FlopCounterMode(display=False) as multiplied, Allocations() as allocated:
        trainer.compute_loss(still_model, batch).backward()
    found = {
        "student_passes": student["passes"],
        "student_tokens": student["tokens"],
        "teacher_passes": read["passes"],
        "teacher_tokens": read["tokens"],
        "matrix_flops": multiplied.get_total_flops(),
        "bytes": allocated.bytes,
    }
    expected = RECORDED.get(name, {})
    message = f'"{name}": {json.dumps(found)}'
    assert {key: found[key] for key in found if key != "bytes"} == {
        key: expected.get(key) for key in found if key != "bytes"
    }, message
    assert found["bytes"] == pytest.approx(expected["bytes"], rel=BYTES_TOLERANCE), message


def test_the_recorded_costs_say_what_the_modes_save():
    tokens = {name: (row["student_tokens"], row["teacher_tokens"]) for name, row in RECORDED.items()}
    assert set(tokens) == set(STEPS)
    live, index = tokens["relevance"], tokens["relevance, teacher's index"]
    assert tokens["relevance, cached scores"] == (live[0], 0)
    assert index[0] < live[0] / 2
    assert index[1] == 0
    # The backward pass encodes again, but what is encoded has less padding.
    again = tokens["relevance, 4 texts at a time"]
    assert live[0] < again[0] < 2 * live[0]
    assert torch.tensor([row["bytes"] for row in RECORDED.values()]).min() > 0
