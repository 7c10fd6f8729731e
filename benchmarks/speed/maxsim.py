"""MaxSim on a CPU: ours against the usual einsum, and against what the machine's matrix product can do."""

from collections.abc import Iterator

import torch
from timing import interleaved, timing_table
from torch import Tensor

from drdecr.modeling_drdecr import maxsim


def einsum_maxsim(queries: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """Score as most ColBERT code does: every similarity at once, padding multiplied away."""
    similarities = torch.einsum("bqd,mtd->bmqt", queries, documents) * document_mask[None, :, None]
    return similarities.amax(dim=-1).sum(dim=-1)


def report(repeats: int) -> Iterator[str]:
    """Yield the table."""
    generator = torch.Generator().manual_seed(0)
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(*shape, 128, generator=generator), dim=-1)
        for shape in ((16, 32), (512, 180))
    )
    lengths = torch.randint(60, 181, (512,), generator=generator)
    ragged = torch.arange(180) < lengths[:, None]
    whole, query_mask = torch.ones_like(ragged), torch.ones(16, 32, dtype=torch.bool)
    flat_queries, flat_documents = queries.flatten(0, 1), documents.flatten(0, 1)
    half = queries.bfloat16(), documents.bfloat16()
    ways = {
        "einsum, all at once": lambda: einsum_maxsim(queries, documents, ragged),
        "ours, padded documents": lambda: maxsim(queries, documents, query_mask, ragged),
        "ours, documents of one length": lambda: maxsim(queries, documents, query_mask, whole),
        "ours, bfloat16": lambda: maxsim(*half, query_mask, ragged),
        "the matrix product alone": lambda: flat_queries @ flat_documents.T,
        "the matrix product alone, bfloat16": lambda: half[0].flatten(0, 1) @ half[1].flatten(0, 1).T,
    }
    exact = einsum_maxsim(
        queries, documents, ragged
    )  # no best similarity is below 0 here, so that its zeros do no harm
    error = {name: (ways[name]() - exact).abs().max().item() for name in ("ours, padded documents", "ours, bfloat16")}
    yield "### 16 queries of 32 tokens, 512 documents of up to 180, 128 dimensions\n"
    yield timing_table(
        interleaved(ways, repeats),
        "einsum, all at once",
        {name: f"largest error {value:.1e}" for name, value in error.items()},
    )
