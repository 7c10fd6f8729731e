"""MaxSim against plain loops and closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from drdecr.modeling_drdecr import maxsim, maxsim_candidates

QUERIES, DOCUMENTS, QUERY_TOKENS, DOCUMENT_TOKENS, DIM = 4, 5, 6, 7, 8


def loop_score(query: Tensor, document: Tensor, query_mask: Tensor, document_mask: Tensor) -> float:
    """MaxSim of one pair without a single tensor operation."""
    total = 0.0
    for query_token, query_counts in zip(query.tolist(), query_mask.tolist(), strict=True):
        if not query_counts:
            continue
        cosines = [
            sum(a * b for a, b in zip(query_token, document_token, strict=True))
            for document_token, counts in zip(document.tolist(), document_mask.tolist(), strict=True)
            if counts
        ]
        total += max(cosines, default=-1.0)
    return total


def unit_vectors(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs with random masks; the last query and the last document have no token that counts."""
    torch.manual_seed(0)
    query_mask, document_mask = torch.rand(QUERIES, QUERY_TOKENS) > 0.3, torch.rand(DOCUMENTS, DOCUMENT_TOKENS) > 0.3
    query_mask[-1], document_mask[-1] = False, False
    return (
        unit_vectors(QUERIES, QUERY_TOKENS, DIM),
        unit_vectors(DOCUMENTS, DOCUMENT_TOKENS, DIM),
        query_mask,
        document_mask,
    )


@pytest.fixture
def candidates() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three candidates a query with random masks; the last candidate of the first query is empty."""
    torch.manual_seed(0)
    document_mask = torch.rand(QUERIES, 3, DOCUMENT_TOKENS) > 0.3
    document_mask[0, -1] = False
    return (
        unit_vectors(QUERIES, QUERY_TOKENS, DIM),
        unit_vectors(QUERIES, 3, DOCUMENT_TOKENS, DIM),
        torch.rand(QUERIES, QUERY_TOKENS) > 0.3,
        document_mask,
    )


def test_all_pairs_equal_loops(pairs):
    queries, documents, query_mask, document_mask = pairs
    expected = [
        [loop_score(queries[b], documents[m], query_mask[b], document_mask[m]) for m in range(DOCUMENTS)]
        for b in range(QUERIES)
    ]
    torch.testing.assert_close(maxsim(*pairs), torch.tensor(expected), atol=1e-6, rtol=0)


def test_candidates_equal_loops(candidates):
    queries, documents, query_mask, document_mask = candidates
    expected = [
        [loop_score(queries[b], documents[b, n], query_mask[b], document_mask[b, n]) for n in range(3)]
        for b in range(QUERIES)
    ]
    torch.testing.assert_close(maxsim_candidates(*candidates), torch.tensor(expected), atol=1e-6, rtol=0)


def test_candidates_equal_all_pairs_of_each_query(candidates):
    rows = [maxsim(q[None], d, q_mask[None], d_mask)[0] for q, d, q_mask, d_mask in zip(*candidates, strict=True)]
    torch.testing.assert_close(maxsim_candidates(*candidates), torch.stack(rows), atol=1e-6, rtol=0)


@pytest.mark.parametrize("padding", [[0.0, 0.0], [1.0, 0.0]], ids=["zeros", "a copy of the query"])
def test_padding_never_wins(padding):
    query = torch.tensor([[[1.0, 0.0]]])
    document = torch.tensor([[[-0.2, math.sqrt(0.96)], [-0.6, 0.8], padding]])
    query_mask, document_mask = torch.tensor([[True]]), torch.tensor([[True, True, False]])
    assert maxsim(query, document, query_mask, document_mask).item() == pytest.approx(-0.2)
    scores = maxsim_candidates(query, document[None], query_mask, document_mask[None])
    assert scores.item() == pytest.approx(-0.2)


def test_padding_added_to_every_text_changes_no_score():
    torch.manual_seed(0)
    queries, documents = unit_vectors(QUERIES, QUERY_TOKENS, DIM), unit_vectors(DOCUMENTS, DOCUMENT_TOKENS, DIM)
    texts = [(queries, torch.ones(queries.shape[:2]).bool()), (documents, torch.ones(documents.shape[:2]).bool())]
    padded = [
        (torch.cat([tokens, unit_vectors(len(tokens), 2, DIM)], dim=1), torch.nn.functional.pad(mask, (0, 2)))
        for tokens, mask in texts
    ]
    scores, with_padding = (maxsim(q, d, q_mask, d_mask) for (q, q_mask), (d, d_mask) in (texts, padded))
    torch.testing.assert_close(scores, with_padding, atol=1e-6, rtol=0)


@pytest.mark.parametrize("tokens", [0, 3])
def test_an_empty_document_gives_each_query_token_minus_one(tokens):
    queries, documents = unit_vectors(2, 3, DIM), unit_vectors(4, tokens, DIM)
    query_mask = torch.tensor([[True, True, True], [True, False, True]])
    document_mask = torch.zeros(4, tokens, dtype=torch.bool)
    expected = torch.tensor([[-3.0], [-2.0]]).expand(2, 4)
    assert torch.equal(maxsim(queries, documents, query_mask, document_mask), expected)
    own = documents.expand(2, 4, tokens, DIM), document_mask.expand(2, 4, tokens)
    assert torch.equal(maxsim_candidates(queries, own[0], query_mask, own[1]), expected)


@pytest.mark.parametrize("tokens", [0, 3])
def test_an_empty_query_scores_zero(tokens):
    queries, documents = unit_vectors(2, tokens, DIM), unit_vectors(4, 3, DIM)
    query_mask, document_mask = torch.zeros(2, tokens, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool)
    assert torch.equal(maxsim(queries, documents, query_mask, document_mask), torch.zeros(2, 4))
    own = documents.expand(2, 4, 3, DIM), document_mask.expand(2, 4, 3)
    assert torch.equal(maxsim_candidates(queries, own[0], query_mask, own[1]), torch.zeros(2, 4))


def test_queries_without_any_token_pass_gradients_of_zero_on():
    queries, documents = unit_vectors(2, 0, DIM).requires_grad_(), unit_vectors(4, 3, DIM).requires_grad_()
    query_mask, document_mask = torch.zeros(2, 0, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool)
    own = documents.expand(2, 4, 3, DIM), document_mask.expand(2, 4, 3)
    scores = [
        maxsim(queries, documents, query_mask, document_mask),
        maxsim_candidates(queries, own[0], query_mask, own[1]),
    ]
    for found in scores:
        assert torch.equal(found, torch.zeros(2, 4))
        found.sum().backward()
    assert queries.grad.shape == queries.shape
    assert torch.equal(documents.grad, torch.zeros_like(documents))


def test_no_queries_or_no_documents_give_an_empty_matrix(pairs, candidates):
    queries, documents, query_mask, document_mask = pairs
    assert maxsim(queries[:0], documents, query_mask[:0], document_mask).shape == (0, DOCUMENTS)
    assert maxsim(queries, documents[:0], query_mask, document_mask[:0]).shape == (QUERIES, 0)
    assert maxsim_candidates(*(tensor[:0] for tensor in candidates)).shape == (0, 3)


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class LargestTensor(TorchDispatchMode):
    """Bytes of every tensor that an operation makes; views and what is written into a given one are none."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    @property
    def bytes(self) -> int:
        return max(self.sizes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {memory_of(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and memory_of(tensor) not in given:
                self.sizes.append(tensor.untyped_storage().nbytes())
        return output


def naive_maxsim(queries: Tensor, documents: Tensor, query_mask: Tensor, document_mask: Tensor) -> Tensor:
    """All similarities at once; one row of documents a query where they have four dimensions."""
    documents = documents if documents.dim() == 4 else documents[None].expand(len(queries), -1, -1, -1)
    counts = document_mask if document_mask.dim() == 3 else document_mask[None]
    similarities = torch.einsum("bqd,bntd->bnqt", queries, documents).masked_fill(~counts[:, :, None], -1e9)
    best = torch.where(counts.any(dim=2)[..., None], similarities.max(dim=-1).values, torch.tensor(-1.0))
    return (best * query_mask[:, None]).sum(dim=-1)


def scores_and_gradients(function: Any, tensors: Any, **options: int) -> tuple[Tensor, Tensor, Tensor]:
    queries, documents, *masks = tensors
    queries, documents = queries.clone().requires_grad_(), documents.clone().requires_grad_()
    scores = function(queries, documents, *masks, **options)
    (scores * torch.arange(scores.numel()).view_as(scores)).sum().backward()
    return scores.detach(), queries.grad, documents.grad


@pytest.mark.parametrize(("function", "shape"), [(maxsim, "pairs"), (maxsim_candidates, "candidates")])
@pytest.mark.parametrize("budget", [1, 700, 2**20])
def test_scores_and_gradients_in_blocks_are_those_of_the_naive_form(function, shape, budget, request):
    tensors = request.getfixturevalue(shape)
    expected = scores_and_gradients(naive_maxsim, tensors)
    found = scores_and_gradients(function, tensors, memory_budget=budget)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("function", [maxsim, maxsim_candidates])
def test_forward_and_backward_keep_to_the_memory_budget(function):
    torch.manual_seed(0)
    count, budget = 32, 2**18
    queries, documents = unit_vectors(count, 8, 4), unit_vectors(count, 40, 4)
    masks = [torch.ones(tensor.shape[:-1], dtype=torch.bool) for tensor in (queries, documents)]
    if function is maxsim_candidates:  # each query has all of them for candidates
        documents, masks[1] = (
            tensor[None].expand(count, *tensor.shape).contiguous() for tensor in (documents[:8], masks[1][:8])
        )
    inputs = documents.untyped_storage().nbytes()
    with LargestTensor() as largest:
        scores_and_gradients(function, (queries, documents, *masks), memory_budget=budget)
    similarities = 4 * count * 8 * documents[..., 0].numel() // (count if documents.dim() == 4 else 1)
    assert largest.bytes <= max(budget, inputs)
    assert similarities > 1.2 * max(budget, inputs)


@pytest.mark.parametrize("function", [maxsim, maxsim_candidates])
def test_the_backward_pass_goes_block_by_block_and_joins_nothing(function):
    """What it takes beside the gradients are numbers and weights of best tokens: far more than the tokens here."""
    torch.manual_seed(0)
    queries, documents, budget = unit_vectors(64, 8, 3), unit_vectors(512, 2, 3), 2**17
    masks = [torch.ones(tensor.shape[:-1], dtype=torch.bool) for tensor in (queries, documents)]
    if function is maxsim_candidates:
        documents, masks[1] = (tensor.expand(64, *tensor.shape).contiguous() for tensor in (documents, masks[1]))
    own = queries.requires_grad_(), documents.requires_grad_(), *masks
    scores = function(*own, memory_budget=budget)
    with LargestTensor() as made:
        (scores.square() / 2).sum().backward()
    gradient, best = 4 * documents.numel(), 2 * scores.numel() * 8
    numbers = 8 * scores.numel() * 8
    assert numbers > 2 * max(gradient, best, budget)
    assert made.bytes <= max(gradient, best, budget)
    assert made.sizes.count(gradient) == 1


@pytest.mark.parametrize("gradient", [True, False])
def test_many_queries_keep_to_the_budget_that_one_document_exceeds(gradient):
    torch.manual_seed(0)
    queries, documents, budget = unit_vectors(2000, 8, 4), unit_vectors(2, 40, 4), 2**18
    masks = [torch.ones(tensor.shape[:-1], dtype=torch.bool) for tensor in (queries, documents)]
    own = queries.requires_grad_(gradient), documents, *masks
    with LargestTensor() as largest:
        scores = maxsim(*own, memory_budget=budget)
    assert largest.bytes <= max(budget, queries.untyped_storage().nbytes())
    torch.testing.assert_close(scores, naive_maxsim(*own))


@pytest.mark.parametrize("gradient", [True, False])
def test_one_query_keeps_to_the_budget_that_all_its_candidates_exceed(gradient):
    torch.manual_seed(0)
    queries, documents = unit_vectors(3, 8, 1).requires_grad_(gradient), unit_vectors(1200, 40, 1).view(3, 400, 40, 1)
    masks = [torch.ones(tensor.shape[:-1], dtype=torch.bool) for tensor in (queries, documents)]
    with LargestTensor() as largest:
        scores = maxsim_candidates(queries, documents, *masks, memory_budget=2**16)
    assert largest.bytes <= documents.untyped_storage().nbytes()  # an eighth of the similarities
    torch.testing.assert_close(scores, naive_maxsim(queries, documents, *masks))


def test_the_gradient_of_a_query_token_is_its_best_document_token():
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], requires_grad=True)
    document = torch.tensor([[[0.8, 0.6], [0.6, -0.8], [1.0, 0.0]]])
    maxsim(query, document, torch.tensor([[True, False]]), torch.tensor([[True, True, False]])).sum().backward()
    assert torch.equal(query.grad, torch.tensor([[[0.8, 0.6], [0.0, 0.0]]]))


def test_empty_documents_leave_gradients_finite(pairs):
    queries, documents, query_mask, document_mask = pairs
    documents.requires_grad_()
    maxsim(queries, documents, query_mask, document_mask).sum().backward()
    assert documents.grad.isfinite().all()
    assert not documents.grad[-1].any()


def test_scores_sum_in_float32_when_embeddings_are_bfloat16():
    cosine = 255 / 256  # exact in bfloat16; 33 of them are not
    queries = torch.ones(1, 33, 1, dtype=torch.bfloat16)
    documents = torch.full((1, 1, 1), cosine, dtype=torch.bfloat16)
    masks = torch.ones(1, 33, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    for scores in (
        maxsim(queries, documents, *masks),
        maxsim_candidates(queries, documents[None], masks[0], masks[1][None]),
    ):
        assert scores.dtype == torch.float32
        assert scores.item() == 33 * cosine


def test_bfloat16_scores_are_those_of_float32_to_its_rounding():
    torch.manual_seed(0)
    queries, documents = unit_vectors(4, 32, 128), unit_vectors(9, 50, 128)
    masks = [torch.ones(tensor.shape[:-1], dtype=torch.bool) for tensor in (queries, documents)]
    exact, found = maxsim(queries, documents, *masks), maxsim(queries.bfloat16(), documents.bfloat16(), *masks)
    # Numbers and cosines keep 8 bits: a cosine is off by some 2^-8 of itself, and 32 of them add up.
    assert (found - exact).abs().max() < 2**-7 * exact.max()


def test_scoring_changes_nothing_it_was_given(pairs, candidates):
    for function, tensors in ((maxsim, pairs), (maxsim_candidates, candidates)):
        before = [tensor.clone() for tensor in tensors]
        function(*tensors)
        assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))


ONES = torch.ones(2, 3, 4)
MASK = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (maxsim, (ONES[0], ONES, MASK[0], MASK), r"queries \(num_queries, .* batch dimension"),
        (maxsim, (ONES, ONES[None], MASK, MASK[None]), r"documents \(num_documents, .* batch dimension"),
        (maxsim, (ONES, ONES[..., :3], MASK, MASK), "one embedding dimension, got 4 for queries and 3 for documents"),
        (maxsim, (ONES, ONES, MASK.long(), MASK), r"boolean query mask .* got torch.int64.*`scoring_mask`"),
        (maxsim, (ONES, ONES, MASK, MASK[:, :2]), r"boolean document mask of shape \(2, 3\), got .* \(2, 2\)"),
        (maxsim_candidates, (ONES, ONES, MASK, MASK), r"documents \(batch, candidates, .* batch dimension"),
        (
            maxsim_candidates,
            (ONES, ONES[:1, None], MASK, MASK[:1, None]),
            "got 2 queries and 1 rows. Use `maxsim` to score all pairs",
        ),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(("shape", "function"), [("pairs", maxsim), ("candidates", maxsim_candidates)])
def test_scoring_does_not_wait_for_the_device(shape, function, request):
    # A tensor on `meta` has no values: to ask for one is an error here, as it is a wait on an accelerator.
    tensors = [tensor.to("meta") for tensor in request.getfixturevalue(shape)]
    assert function(*tensors).shape == function(*request.getfixturevalue(shape)).shape
    queries, documents = (tensor.requires_grad_() for tensor in tensors[:2])
    function(queries, documents, *tensors[2:]).sum().backward()
    assert queries.grad.shape == queries.shape
    assert documents.grad.shape == documents.shape


@pytest.mark.parametrize(("shape", "function"), [("pairs", maxsim), ("candidates", maxsim_candidates)])
def test_a_mask_that_is_filled_in_and_one_that_is_left_out_give_the_same(shape, function, request):
    queries, documents, query_mask, _ = request.getfixturevalue(shape)
    left_out = function(queries, documents, query_mask, torch.ones(documents.shape[:-1], dtype=torch.bool))
    padded = torch.cat([documents, documents[..., :1, :]], dim=-2)  # one token that does not count: all are filled in
    mask = torch.ones(padded.shape[:-1], dtype=torch.bool)
    mask[..., -1] = False
    assert torch.equal(function(queries, padded, query_mask, mask), left_out)
