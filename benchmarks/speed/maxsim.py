"""MaxSim on a CPU: ours against the usual einsum, and against what the machine's matrix product can do."""

from collections.abc import Callable, Iterator

import torch
from memory import peak_megabytes
from timing import interleaved, timing_table
from torch import Tensor

from drdecr.modeling_drdecr import maxsim
from drdecr.trainers.precision import faster_precision


def einsum_maxsim(queries: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """Score as most ColBERT code does: every similarity at once, padding multiplied away."""
    similarities = torch.einsum("bqd,mtd->bmqt", queries, documents) * document_mask[None, :, None]
    return similarities.amax(dim=-1).sum(dim=-1)


def in_int8(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens in int8 and a scale each: half the bytes of float16."""
    scales = tokens.abs().amax(dim=-1, keepdim=True).clamp(min=1e-9) / 127
    return (tokens / scales).round().to(torch.int8), scales


def naive_training_scores(queries: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """Score with every similarity kept for the backward pass."""
    similarities = torch.einsum("bqd,mtd->bmqt", queries, documents)
    return similarities.masked_fill(~document_mask[None, :, None], -1e4).max(dim=-1).values.sum(dim=-1)


def training_step(way: str, batch: int, candidates: int, tokens: int = 180) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that scores a batch's questions against all its candidates and differentiates."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 32, 128), (batch * candidates, tokens, 128)
    queries, documents = (
        torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1).requires_grad_()
        for shape in shapes
    )
    query_mask = torch.ones(shapes[0][:2], dtype=torch.bool)
    document_mask = torch.arange(tokens) < torch.randint(
        tokens // 3, tokens + 1, (len(documents), 1), generator=generator
    )

    def step() -> tuple[Tensor, Tensor]:
        queries.grad = documents.grad = None
        if way == "ours":
            scores = maxsim(queries, documents, query_mask, document_mask)
        else:
            scores = naive_training_scores(queries, documents, document_mask)
        scores.square().sum().backward()
        return queries.grad, documents.grad

    return step


def training_report(repeats: int) -> Iterator[str]:
    """Yield the table of forward and backward passes."""
    steps = {way: training_step(way, 16, 8) for way in ("all similarities kept", "ours")}
    (ours, naive) = (steps[way]() for way in ("ours", "all similarities kept"))
    error = max((one - other).abs().max().item() for one, other in zip(ours, naive, strict=True))
    size = max(tensor.abs().max().item() for tensor in naive)
    notes = {"ours": f"gradients differ by {error:.1e} at most, of {size:.1f}"}
    yield "### Forward and backward: 16 questions x 128 candidates of up to 180 tokens, 128 dimensions\n"
    yield timing_table(interleaved(steps, max(3, repeats // 3)), "all similarities kept", notes)
    peaks = ", ".join(f"{way} {peak_megabytes(step)} MB" for way, step in steps.items())
    yield f"\nPeak of a step: {peaks}; all similarities are {4 * 16 * 32 * 128 * 180 // 2**20} MB."
    full = training_step("ours", 64, 16)
    yield f"Ours at 64 questions x 1,024 candidates: {peak_megabytes(full)} MB; all similarities are 1,440 MB.\n"


def report(repeats: int) -> Iterator[str]:
    """Yield the tables."""
    with_bfloat16 = faster_precision("cpu") == "bfloat16"  # emulated, it takes 300 times as long
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
    kept, scales = in_int8(documents)
    ways = {
        "einsum, all at once": lambda: einsum_maxsim(queries, documents, ragged),
        "ours, padded documents": lambda: maxsim(queries, documents, query_mask, ragged),
        "ours, documents of one length": lambda: maxsim(queries, documents, query_mask, whole),
        "ours, bfloat16": lambda: maxsim(*half, query_mask, ragged),
        "ours, int8 tokens with a scale each": lambda: maxsim(queries, kept * scales, query_mask, ragged),
        "the matrix product alone": lambda: flat_queries @ flat_documents.T,
        "the matrix product alone, bfloat16": lambda: half[0].flatten(0, 1) @ half[1].flatten(0, 1).T,
    }
    exact = einsum_maxsim(
        queries, documents, ragged
    )  # no best similarity is below 0 here, so that its zeros do no harm
    compared = ("ours, padded documents", "ours, bfloat16", "ours, int8 tokens with a scale each")
    if not with_bfloat16:
        ways = {name: way for name, way in ways.items() if "bfloat16" not in name}
    error = {name: (ways[name]() - exact).abs().max().item() for name in compared if name in ways}
    yield "### 16 queries of 32 tokens, 512 documents of up to 180, 128 dimensions\n"
    yield timing_table(
        interleaved(ways, repeats),
        "einsum, all at once",
        {name: f"largest error {value:.1e}" for name, value in error.items()},
    )
    yield ""
    yield from training_report(repeats)
