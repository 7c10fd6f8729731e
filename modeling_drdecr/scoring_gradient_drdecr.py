"""MaxSim with gradients at bounded memory: what is kept for the backward pass is which token was best, not the similarities.

A document token gets a gradient from the query tokens that it was best for and from no others, so the backward pass needs no
similarity at all: for each query token and document one weighted row of the other side (two embedding bags).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

EMPTY_DOCUMENT_SIMILARITY = -1.0
"""What a query token scores against a document without a scoring token: the lowest cosine there is."""

BYTES_OF_A_BEST = 64
"""Bytes that the backward pass takes for one query token and document: its token's number, its weight and their order."""


class GroupedMaxSim(torch.autograd.Function):
    """Scores of each group's queries against each group's documents.

    Arguments of `apply`, einsum letters g groups, b queries, m documents: `(g, b, query_tokens, dim)`,
    `(g, m, document_tokens, dim)`, their boolean masks, bytes that one block of similarities may take, and bytes that one
    block of the backward pass may take. Returns float32 `(g, b, m)`. Where two document tokens are equally similar the first
    gets the gradient, as `torch.max` does.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        documents: Tensor,
        query_mask: Tensor,
        document_mask: Tensor,
        memory_budget: int,
        backward_budget: int,
    ) -> Tensor:
        """Score in blocks, and keep each query token's best document token."""
        (groups, num_queries, query_tokens, _), (num_documents, tokens) = queries.shape, document_mask.shape[1:]
        size = max(1, num_queries * query_tokens * max(tokens, 1) * queries.element_size())
        documents_per_block = min(max(1, memory_budget // size), num_documents)
        groups_per_block = max(1, memory_budget // (size * documents_per_block))
        scores = queries.new_empty((groups, num_queries, num_documents), dtype=torch.float32)
        number = torch.int16 if tokens < 2**15 else torch.int32
        best = torch.empty((groups, num_queries, query_tokens, num_documents), dtype=number, device=queries.device)
        for some in torch.arange(groups).split(groups_per_block):
            for few in torch.arange(num_documents).split(documents_per_block):
                part = slice(int(some[0]), int(some[-1]) + 1), slice(int(few[0]), int(few[-1]) + 1)
                cosines, tokens_of_best = _best_of_block(queries[part[0]], documents[part], document_mask[part])
                sums = cosines.float().masked_fill_(~query_mask[part[0]][..., None], 0.0).sum(dim=2)
                scores[part[0], :, part[1]], best[part[0], :, :, part[1]] = sums, tokens_of_best
        ctx.save_for_backward(queries, documents, query_mask, document_mask, best)
        ctx.backward_budget = backward_budget
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        """Give each query token its best tokens, and each document token the query tokens that it was best for."""
        queries, documents, query_mask, document_mask, best = ctx.saved_tensors
        # Without document gradients, as of cached passages, half of it and the sort are saved.
        wants_documents = ctx.needs_input_grad[1]
        query_gradient = torch.zeros_like(queries)
        block = max(1, ctx.backward_budget // (BYTES_OF_A_BEST * max(1, query_mask.numel())))
        starts = range(0, documents.shape[1], block)
        # Blocks are written where they belong: to join them would take as much again.
        document_gradient = torch.empty_like(documents) if wants_documents and len(starts) > 1 else None
        for few in (slice(start, start + block) for start in starts):
            weights = (gradient[:, :, None, few] * query_mask[..., None]).to(queries.dtype)
            weights *= document_mask[:, few].any(dim=2)[:, None, None, :]
            target = _rows_of_best(best[..., few], documents.shape[2])
            if documents.shape[2]:
                query_gradient += _of_queries(queries, documents[:, few], target, weights)
            if document_gradient is not None:
                document_gradient[:, few] = _of_documents(queries, documents[:, few], target, weights)
            elif wants_documents:
                document_gradient = _of_documents(queries, documents, target, weights)
        return query_gradient, document_gradient, None, None, None, None


def _best_of_block(queries: Tensor, documents: Tensor, document_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return each query token's highest similarity in each document, and which token has it: `(g, b, query_tokens, m)`."""
    (groups, num_queries, query_tokens, _), (num_documents, tokens) = queries.shape, document_mask.shape[1:]
    shape = (groups, num_queries, query_tokens, num_documents, tokens)
    if tokens == 0:
        return queries.new_full(shape[:-1], EMPTY_DOCUMENT_SIMILARITY), torch.zeros(shape[:-1], device=queries.device)
    similarities = (queries.flatten(1, 2) @ documents.flatten(1, 2).transpose(1, 2)).view(shape)
    # On a CPU the mask is looked at, because filling costs time; an accelerator would have to wait for the answer.
    if document_mask.device.type != "cpu" or not document_mask.all():
        lowest = torch.finfo(similarities.dtype).min
        similarities.masked_fill_(~document_mask[:, None, None], lowest)
    best, index = similarities.max(dim=-1)
    counts = document_mask.any(dim=-1)[:, None, None]
    return torch.where(counts, best, EMPTY_DOCUMENT_SIMILARITY), index


def _rows_of_best(best: Tensor, tokens: int) -> Tensor:
    """Number the best tokens among those of all groups' documents: `(query tokens of all groups, documents)`."""
    groups, _, _, num_documents = best.shape
    firsts = torch.arange(groups * num_documents, device=best.device).view(groups, 1, 1, num_documents) * tokens
    return (best + firsts).flatten(0, 2)


def _of_queries(queries: Tensor, documents: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    rows = documents.reshape(-1, documents.shape[-1])
    weights = weights.flatten(0, 2)
    return embedding_bag(target, rows, per_sample_weights=weights, mode="sum").view_as(queries)


def _of_documents(queries: Tensor, documents: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    if documents.numel() == 0:
        return torch.zeros_like(documents)
    num_documents = target.shape[1]
    sorted_target, order = target.flatten().sort(stable=True)
    every_token = torch.arange(documents[..., 0].numel(), device=target.device)
    bags = torch.searchsorted(sorted_target, every_token)
    rows, weights = queries.reshape(-1, queries.shape[-1]), weights.flatten()[order]
    gradient = embedding_bag(order // num_documents, rows, bags, per_sample_weights=weights, mode="sum")
    return gradient.view_as(documents)
