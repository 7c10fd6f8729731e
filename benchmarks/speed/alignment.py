"""Token alignment: ours against the published loop, and how its time grows with the texts and the batch."""

from collections.abc import Iterator

import numpy as np
import torch
from timing import interleaved, timing_table
from torch import Tensor

from drdecr.trainers import align_tokens, transport_weights

CALLS_BEFORE = 10
"""The one that is timed, where inputs are to be in a cache, as they are behind the forward pass that made them."""


def tokens(batch: int, length: int, dim: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Return a text's tokens, those of a translation (reordered, cosine near .7), and a mask in which every token counts."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, length, dim, generator=generator)
    teacher = student + torch.randn(batch, length, dim, generator=generator)
    return student, teacher[:, torch.randperm(length, generator=generator)], torch.ones(batch, length, dtype=torch.bool)


def published_loop(student: Tensor, teacher: Tensor) -> Tensor:
    """Align as the paper describes it: the best pair of all, strike both, repeat; one text and one token at a time."""
    partners = []
    for own, other in zip(student, teacher, strict=True):
        own, other = (torch.nn.functional.normalize(part, dim=-1) for part in (own, other))
        cost = 1 - (other @ own.T).numpy()
        row_of_column = np.full(len(own), -1)
        for _ in range(len(own)):
            row, column = np.unravel_index(np.argmin(cost), cost.shape)
            row_of_column[column] = row
            cost[row, :] = np.inf
            cost[:, column] = np.inf
        partners.append(row_of_column)
    return torch.from_numpy(np.stack(partners))


def report(repeats: int) -> Iterator[str]:
    """Yield the tables."""
    for title, (student, teacher, mask) in (
        ("a text and its translation", tokens(64, 32)),
        (
            "unrelated tokens, the worst case of the rounds",
            (tokens(64, 32)[0], torch.randn(64, 32, 128), tokens(64, 32)[2]),
        ),
    ):
        ways = {"published loop": lambda s=student, t=teacher: published_loop(s, t)}
        for method in ("greedy", "optimal", "argmax"):
            ways[method] = lambda s=student, t=teacher, m=mask, how=method: align_tokens(s, t, m, m, how)
        ways["sinkhorn"] = lambda s=student, t=teacher, m=mask: transport_weights(s, t, m, m)
        same = torch.equal(published_loop(student, teacher), align_tokens(student, teacher, mask, mask))
        notes = {"greedy": "the loop's pairs, all of them" if same else "NOT THE LOOP'S PAIRS"}
        for how, calls in (("in a cache", CALLS_BEFORE), ("in no cache", 0)):
            yield f"### 64 pairs of 32 x 32 tokens, 128 dimensions: {title}, {how}\n"
            yield timing_table(interleaved(ways, repeats, calls), "published loop", notes) + "\n"
    yield "### How they grow: ms, median, and microseconds a token\n"
    yield "| batch | tokens | greedy | optimal | argmax | sinkhorn |\n|---:|---:|---:|---:|---:|---:|"
    for batch, length in ((1, 32), (64, 32), (1024, 32), (64, 128), (64, 512), (1024, 512)):
        student, teacher, mask = tokens(batch, length)
        ways = {
            method: lambda s=student, t=teacher, m=mask, how=method: align_tokens(s, t, m, m, how)
            for method in ("greedy", "optimal", "argmax")
        }
        ways["sinkhorn"] = lambda s=student, t=teacher, m=mask: transport_weights(s, t, m, m)
        found = interleaved(ways, max(3, repeats // 5))
        cells = [f"{1e3 * time.median:.1f} ({1e6 * time.median / batch / length:.2f})" for time in found.values()]
        yield f"| {batch} | {length} | {' | '.join(cells)} |"
