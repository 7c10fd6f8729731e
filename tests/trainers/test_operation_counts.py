"""What a training step costs, counted and not timed: operation_counts.json holds what was counted before.

A step that encodes a token or multiplies a matrix more than it did is slower on every machine. Where a change is meant to
cost more, or saves something, write what the failing test prints into the table, and say so in the change.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationTrainer

from ..counted_work import check_costs, costs_of, read_recorded  # noqa: TID252

RECORDED = read_recorded(__file__)

RELEVANCE, TOKENS = {"relevance_weight": 1.0}, {"token_weight": 0.5, "anchor_weight": 0.5}
STEPS: dict[str, dict[str, Any]] = {
    "contrastive": {"contrastive_weight": 1.0},
    "contrastive over the batch": {"in_batch_weight": 1.0},
    "representation": TOKENS,
    "representation, optimal alignment": {**TOKENS, "alignment": "optimal"},
    "representation, sinkhorn": {**TOKENS, "alignment": "sinkhorn"},
    "representation, cached teacher": {"token_weight": 0.5, "cached": "questions"},
    "relevance": RELEVANCE,
    "relevance, cached scores": {**RELEVANCE, "cached": "scores"},
    "relevance, teacher's index": {**RELEVANCE, "cached": "passages"},
    "relevance over the batch, teacher's index": {**RELEVANCE, "relevance_over": "batch", "cached": "passages"},
    "relevance, 4 texts at a time": {**RELEVANCE, "encode_mini_batch_size": 4},
}


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
    found = costs_of(lambda: trainer.compute_loss(still_model, batch).backward())
    check_costs(name, found, RECORDED)


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
