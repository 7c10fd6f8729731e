"""A compiled student learns what an ordinary one does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from drdecr.data.collators import DistillationCollator
from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher
from drdecr.trainers import DistillationTrainer


@pytest.mark.parametrize("size", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_a_compiled_student_learns_what_an_ordinary_one_does(
    still_model: DrDecrModel,
    teacher: DrDecrTeacher,
    candidate_rows: list[dict[str, Any]],
    collate: DistillationCollator,
    build: Callable[..., DistillationTrainer],
    size: int | None,
):
    torch._dynamo.reset()  # what is compiled for the first lengths alone is compiled again at the next ones
    terms = {"relevance_weight": 1.0, "relevance_over": "batch", "token_weight": 1.0, "contrastive_weight": 0.5}
    settings = {
        **terms,
        "encode_mini_batch_size": size,
        "teacher": teacher,
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_steps": 2,
    }
    compiled = copy.deepcopy(still_model)
    build(DistillationTrainer, still_model, candidate_rows, collate, **settings).train()
    # Traced and differentiated ahead, but not made into machine code, for which a compiler is needed.
    settings |= {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    build(DistillationTrainer, compiled, candidate_rows, collate, **settings).train()
    for (name, one), other in zip(still_model.state_dict().items(), compiled.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5, msg=name)
