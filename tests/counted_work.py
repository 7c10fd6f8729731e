"""What a piece of work costs, counted and not timed; tables of what was counted before stand beside the tests."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from drdecr.modeling_drdecr import DrDecrTeacher

BYTES_TOLERANCE = 0.05  # another version of torch makes other temporary tensors
READ = ("input_ids", "decoder_input_ids")


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


def role_by_class(model: nn.Module) -> str:
    return "teacher" if isinstance(model, DrDecrTeacher) else "student"


@contextmanager
def reading(role: Callable[[nn.Module], str]) -> Iterator[dict[str, int]]:
    """Count the forward passes of every model, by its role, and the tokens in them, padding included.

    A model that another one calls, as the encoder of a student, is part of that one.
    """
    counts = {f"{name}_{what}": 0 for name in ("student", "teacher") for what in ("passes", "tokens")}
    real, within = nn.Module.__call__, []

    def counted(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not within:
            tokens = sum(kwargs[name].numel() for name in READ if kwargs.get(name) is not None)
            for what, number in (("passes", 1), ("tokens", tokens)):
                counts[f"{role(model)}_{what}"] = counts.get(f"{role(model)}_{what}", 0) + number
        within.append(model)
        try:
            return real(model, *args, **kwargs)
        finally:
            within.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "__call__", counted)
        yield counts


def costs_of(work: Callable[[], Any], role: Callable[[nn.Module], str] = role_by_class) -> dict[str, int]:
    """Do the work on one thread and return what it costs.

    A mode of torch sees the thread that entered it alone, and several threads would share the passes. Of products it sees
    torch's: numpy's, as those of Sinkhorn's rounds on a CPU, scipy's assignment, and what bm25s does are counted nowhere.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reading(role) as counts, FlopCounterMode(display=False) as multiplied, Allocations() as allocated:
            work()
    finally:
        torch.set_num_threads(threads)
    return {**counts, "matrix_flops": multiplied.get_total_flops(), "bytes": allocated.bytes}


def read_recorded(test: str) -> dict[str, dict[str, int]]:
    """Read the table beside a test file."""
    return json.loads(Path(test).with_name("operation_counts.json").read_text(encoding="utf-8"))


def check_costs(name: str, found: dict[str, int], recorded: dict[str, dict[str, int]]) -> None:
    """Fail where a piece of work costs other than was recorded, with the line for the table."""
    expected = recorded.get(name, {})
    message = f'"{name}": {json.dumps(found)}'
    assert {**found, "bytes": 0} == {**expected, "bytes": 0}, message
    assert found["bytes"] == pytest.approx(expected["bytes"], rel=BYTES_TOLERANCE), message
