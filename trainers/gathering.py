"""Passages of all processes in one pool, with the gradients that one process with all their rows would have.

Every process calls `gather_passages` once a step, one without passages too: a collective that one leaves out hangs the rest.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional


@dataclass
class PassagePool:
    """Passages that a batch's questions are compared with.

    Args:
        embeddings: `(passages, tokens, dim)`.
        mask: boolean `(passages, tokens)`, the tokens that count.
        keys: int64 `(passages,)`, equal for equal passages.
        own: where this process's passages begin.
    """

    embeddings: Tensor
    mask: Tensor
    keys: Tensor
    own: int = 0


def gather_passages(embeddings: Tensor, mask: Tensor, keys: Tensor) -> PassagePool:
    """Return the passages of all processes, in the order of their ranks.

    Each process differentiates its own loss. The backward pass adds up what every process's loss asks of a passage and
    hands it to the process that encoded it; together with DDP's mean over processes this is the exact gradient of the mean
    loss.

    Args:
        embeddings: `(passages, tokens, dim)` of this process. Numbers of passages and of tokens may differ between
            processes; one without passages gives 0 rows of a tensor that its own model's output made.
        mask: boolean `(passages, tokens)`.
        keys: int64 `(passages,)`.
    """
    shape = torch.tensor([*mask.shape, embeddings.requires_grad], device=mask.device)
    shapes = torch.stack(_all_gather(shape)).tolist()
    rows, tokens = (max(found) for found in list(zip(*shapes, strict=True))[:2])
    missing = rows - len(mask), tokens - mask.shape[1]
    embeddings = functional.pad(embeddings, (0, 0, 0, missing[1], 0, missing[0]))
    if any(found[2] for found in shapes):  # all differentiate, or none
        gathered = _Gathered.apply(embeddings if embeddings.requires_grad else embeddings.requires_grad_())
    else:
        gathered = torch.cat(_all_gather(embeddings))
    mask = torch.cat(_all_gather(functional.pad(mask, (0, missing[1], 0, missing[0])).byte())).bool()
    keys = torch.cat(_all_gather(functional.pad(keys, (0, missing[0]))))
    counts = [found[0] for found in shapes]
    kept = torch.cat([torch.arange(count) + rank * rows for rank, count in enumerate(counts)]).to(mask.device)
    return PassagePool(gathered[kept], mask[kept], keys[kept], own=sum(counts[: distributed.get_rank()]))


class _Gathered(torch.autograd.Function):
    """All processes' rows; the gradient of a process's own rows is the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return torch.cat(_all_gather(rows))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # not every backend can reduce and scatter in one
        return total[distributed.get_rank() * ctx.count :][: ctx.count]


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
    ]
    distributed.all_gather(parts, tensor.contiguous())
    return parts
