"""Texts of a batch to token embeddings: each different text once and, on request, a few at a time at constant memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Texts = dict[str, Tensor]
"""`input_ids`, `attention_mask`, `scoring_mask`, `text_mask`, each `(..., tokens)`."""


def encode_once(
    model: Any, texts: Texts, mini_batch_size: int | None = None, inner: Any = None, distinct: bool = True
) -> Tensor:
    """Encode every different text of a batch once.

    With `mini_batch_size` the texts are encoded that many at a time, those of like length together, and only their
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

    Returns:
        `(..., tokens, dim)`; padding is 0 or the model's own output.
    """
    ids = texts["input_ids"]
    flat = {name: tensor.flatten(0, -2) for name, tensor in texts.items()}
    count = len(flat["input_ids"])
    first, place = distinct_rows(flat) if distinct else (torch.arange(count),) * 2
    if len(first) < len(place):
        flat = {name: tensor[first] for name, tensor in flat.items()}
    if mini_batch_size is None or len(first) <= mini_batch_size:
        embeddings = model(**flat).embeddings
    else:
        embeddings = _in_mini_batches(model, inner or model, flat, mini_batch_size)
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


def _in_mini_batches(model: Any, inner: Any, texts: Texts, size: int) -> Tensor:
    tokens = texts["input_ids"].shape[1]
    positions = torch.arange(1, tokens + 1, device=texts["input_ids"].device)
    counts = torch.stack([texts[name].bool() for name in texts if name != "input_ids"]).any(dim=0)
    lengths = (counts * positions).amax(dim=1)  # up to the last token that anything looks at
    order = lengths.argsort(stable=True)
    parts: list[Tensor] = []
    for rows in order.split(size):
        longest = int(lengths[rows].max())
        part = {name: tensor[rows, :longest] for name, tensor in texts.items()}
        # The first one goes through the wrapper, which waits for it to prepare the backward pass; it is the shortest, and the
        # only one whose activations stay.
        found = _kept(model, part) if not parts else _made_again(inner, part)
        parts.append(torch.nn.functional.pad(found, (0, 0, 0, tokens - longest)))
    return torch.cat(parts)[order.argsort()]


def _kept(model: Callable[..., Any], texts: Texts) -> Tensor:
    return model(**texts).embeddings


def _made_again(model: Callable[..., Any], texts: Texts) -> Tensor:
    if not torch.is_grad_enabled():
        return _kept(model, texts)
    return checkpoint(_kept, model, texts, use_reentrant=False)
