"""Texts of a batch to token embeddings: each different text once, in groups of like length, or few at constant memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Texts = dict[str, Tensor]
"""`input_ids`, `attention_mask`, `scoring_mask`, `text_mask`, each `(..., tokens)`."""

PASSES_ON_CPU, TOKENS_PER_PASS_ON_CPU = 4, 1024
"""Groups of a batch's texts that a CPU encodes one behind the other, and the tokens, padding too, beyond which a group is cut:
what the layers make of more leaves the cache, and takes half as long again (docs/performance.md)."""

PASS_COST = 35
"""Tokens that an encoder of 12 layers of 384 reads in the time that a pass costs beside them, backwards too, on a CPU."""


def encode_once(
    model: Any,
    texts: Texts,
    mini_batch_size: int | None = None,
    inner: Any = None,
    distinct: bool = True,
    passes: int = 1,
    tokens_a_pass: int | None = None,
) -> Tensor:
    """Encode every different text of a batch once.

    With `passes` above 1 texts of like length are encoded together, in up to that many forward passes, so that less padding
    is read. With `mini_batch_size` the texts are encoded that many at a time, those of like length together, and only their
    embeddings are kept: the backward pass encodes each mini-batch again. Memory then does not grow with the number of
    texts, apart from the embeddings themselves; values and gradients are those of one pass, dropout's draws included in the
    sense that the second pass repeats the first one's (gradient caching, Gao et al. 2021).

    Args:
        model: what is called first, as the launcher wrapped it.
        texts: of a processor or collator, any leading dimensions.
        mini_batch_size: texts at a time; None (default) for all at once.
        inner: what later mini-batches are encoded with: `model` without its distributed wrapper, which must not be called
            in the backward pass. Default: `model`.
        distinct: whether repeated texts are found (default True). False where processes must make equally many forward
            passes, as those of FSDP.
        passes: groups at most, without `mini_batch_size` (default 1), each a forward pass.
        tokens_a_pass: with several groups, cut those that have more tokens than this, padding too; None (default): none.

    Returns:
        `(..., tokens, dim)`; padding is 0 or the model's own output.
    """
    ids = texts["input_ids"]
    flat = {name: tensor.flatten(0, -2) for name, tensor in texts.items()}
    count = len(flat["input_ids"])
    inner = model if inner is None else inner  # a compiled module has no truth value
    first, place = distinct_rows(flat) if distinct else (torch.arange(count),) * 2
    if len(first) < len(place):
        flat = {name: tensor[first] for name, tensor in flat.items()}
    if mini_batch_size is not None and len(first) > mini_batch_size:
        lengths = _lengths(flat)
        groups = list(lengths.argsort(stable=True).split(mini_batch_size))
        embeddings = _in_groups(model, inner, flat, lengths, groups, _encode_again)
    elif passes > 1 and len(first) > 1:
        lengths = _lengths(flat)
        groups = groups_of_like_length(lengths, passes)
        if tokens_a_pass is not None:
            groups = [
                part for group in groups for part in group.split(max(1, tokens_a_pass // int(lengths[group].max())))
            ]
        embeddings = _in_groups(model, inner, flat, lengths, groups, _encode)
    else:
        embeddings = model(**flat).embeddings
    if len(first) < len(place):
        embeddings = embeddings[place]
    return embeddings.unflatten(0, ids.shape[:-1])


def distinct_rows(texts: Texts) -> tuple[Tensor, Tensor]:
    """Find the texts that differ.

    Args:
        texts: `(texts, tokens)` each.

    Returns:
        int64 `(different,)`: where each different text stands first, ascending; and int64 `(texts,)`: for each text, which
        of these it equals.
    """
    read = 2 * texts["input_ids"] + texts["attention_mask"].bool()
    _, group = torch.unique(read, dim=0, return_inverse=True)
    place = first_of_group(group)
    is_first = place == torch.arange(len(group), device=group.device)
    return is_first.nonzero()[:, 0], (is_first.cumsum(0) - 1)[place]


def first_of_group(group: Tensor) -> Tensor:
    """Return for each entry of int64 `(entries,)` where its number stands first."""
    entries = torch.arange(len(group), device=group.device)
    first = group.new_full((int(group.max()) + 1,), len(group)).scatter_reduce_(0, group, entries, "amin")
    return first[group]


def groups_of_like_length(lengths: Tensor, most: int) -> list[Tensor]:
    """Divide texts into groups so that as few tokens as can be are read, padding and `PASS_COST` a group counted.

    Args:
        lengths: int64 `(texts,)`, in tokens.
        most: groups.

    Returns:
        The places of each group's texts, the shortest first: of all divisions of the sorted texts the cheapest.
    """
    order = lengths.argsort(stable=True)
    # Texts of one length stay together: to part them saves nothing. So it is as many places as there are lengths.
    longest, counts = np.unique(lengths.cpu().numpy(), return_counts=True)
    before = np.concatenate([[0], counts.cumsum()])
    places = np.arange(len(before))
    # cost[start, end]: of one group of the lengths from start to end; infinite where that is none.
    cost = np.where(
        places[:, None] < places, (before - before[:, None]) * np.concatenate([[0], longest]) + PASS_COST, np.inf
    )
    cheapest, starts = cost[0], []
    for _ in range(most - 1):  # with one group more: where the last one starts, and what all then cost
        options = cheapest[:, None] + cost
        options[0] = cost[0]
        starts.append(options.argmin(axis=0))
        cheapest = options.min(axis=0)
    groups, end = [], len(longest)
    for start in reversed(starts):
        groups.append(order[before[start[end]] : before[end]])
        end = start[end]
    groups.append(order[: before[end]])
    return [group for group in reversed(groups) if len(group)]


def _lengths(texts: Texts) -> Tensor:
    """Count the tokens of each text up to the last one that anything looks at."""
    ids = texts["input_ids"]
    positions = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    looked_at = torch.stack([texts[name].bool() for name in texts if name != "input_ids"]).any(dim=0)
    return (looked_at * positions).amax(dim=1).clamp(min=1)  # no encoder reads texts of no token


def _in_groups(
    model: Any,
    inner: Any,
    texts: Texts,
    lengths: Tensor,
    groups: Sequence[Tensor],
    encode: Callable[[Any, Texts], Tensor],
) -> Tensor:
    tokens = texts["input_ids"].shape[1]
    parts: list[Tensor] = []
    for rows in groups:
        longest = int(lengths[rows].max())
        part = {name: tensor[rows, :longest] for name, tensor in texts.items()}
        # The first one goes through the wrapper, which waits for it to prepare the backward pass; it is the shortest, and the
        # only one whose activations stay where the others are made again.
        embeddings = encode(inner, part) if parts else _encode(model, part)
        parts.append(torch.nn.functional.pad(embeddings, (0, 0, 0, tokens - longest)))
    return torch.cat(parts)[torch.cat(list(groups)).argsort()]


def _encode(model: Callable[..., Any], texts: Texts) -> Tensor:
    return model(**texts).embeddings


def _encode_again(model: Callable[..., Any], texts: Texts) -> Tensor:
    if not torch.is_grad_enabled():
        return _encode(model, texts)
    return checkpoint(_encode, model, texts, use_reentrant=False)


@dataclass
class PassagePool:
    """Passages that a batch's questions are compared with.

    Args:
        embeddings: `(passages, tokens, dim)`.
        mask: boolean `(passages, tokens)`, the tokens that count.
        keys: int64 `(passages, 2)`: equal for equal passages; and the key of the question whose positive it is, else 0.
        offset: where this process's passages begin.
    """

    embeddings: Tensor
    mask: Tensor
    keys: Tensor
    offset: int = 0

    def first_places(self) -> Tensor:
        """Return int64 `(passages,)`: for each passage where it stands first. Nothing waits for the device."""
        return self._equal().byte().argmax(dim=1)

    def distinct_places(self) -> Tensor:
        """Return where each different passage stands first, in order of appearance."""
        _, group = torch.unique(self.keys[:, 0], return_inverse=True)
        return (first_of_group(group) == torch.arange(len(group), device=group.device)).nonzero()[:, 0]

    def answers_of(self, question_keys: Tensor, answer_keys: Tensor | None = None) -> Tensor:
        """Tell which passages answer which questions, as far as the rows say.

        Args:
            question_keys: int64 `(questions,)`.
            answer_keys: int64 `(questions, answers)`, keys of further passages that answer; None (default): none are known.

        Returns:
            boolean `(questions, passages)`.
        """
        is_positive = question_keys[:, None] == self.keys[None, :, 1]
        is_answer = (is_positive.float() @ self._equal().float()) > 0
        if answer_keys is not None:
            is_answer |= (answer_keys[:, :, None] == self.keys[None, None, :, 0]).any(dim=1)
        return is_answer

    def _equal(self) -> Tensor:
        return self.keys[:, None, 0] == self.keys[None, :, 0]


def gather_passages(embeddings: Tensor, mask: Tensor, keys: Tensor) -> PassagePool:
    """Return the passages of all processes, in the order of their ranks.

    Each process differentiates its own loss. The backward pass adds up what every process's loss asks of a passage and
    hands it to the process that encoded it; together with DDP's mean over processes this is the exact gradient of the mean
    loss.

    Args:
        embeddings: `(passages, tokens, dim)` of this process. Numbers of passages and of tokens may differ between
            processes; one without passages gives 0 rows of a tensor that its own model's output made.
        mask: boolean `(passages, tokens)`.
        keys: int64 `(passages, 2)`, as in `PassagePool`.
    """
    shape = torch.tensor([*mask.shape, embeddings.requires_grad], device=mask.device)
    shapes = torch.stack(_all_gather(shape)).tolist()
    rows, tokens = (max(sizes) for sizes in list(zip(*shapes, strict=True))[:2])
    missing = rows - len(mask), tokens - mask.shape[1]
    embeddings = functional.pad(embeddings, (0, 0, 0, missing[1], 0, missing[0]))
    if any(shape[2] for shape in shapes):  # all differentiate, or none
        gathered = _Gathered.apply(embeddings if embeddings.requires_grad else embeddings.requires_grad_())
    else:
        gathered = torch.cat(_all_gather(embeddings))
    mask = torch.cat(_all_gather(functional.pad(mask, (0, missing[1], 0, missing[0])).byte())).bool()
    keys = torch.cat(_all_gather(functional.pad(keys, (0, 0, 0, missing[0]))))
    counts = [shape[0] for shape in shapes]
    places = torch.cat([torch.arange(count) + rank * rows for rank, count in enumerate(counts)]).to(mask.device)
    return PassagePool(gathered[places], mask[places], keys[places], offset=sum(counts[: distributed.get_rank()]))


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
