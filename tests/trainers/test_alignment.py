"""Alignment: the published loop, brute force over permutations, and what masks promise."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from drdecr.trainers import align_tokens, alignment
from drdecr.trainers.alignment import _greedy, _greedy_without_ties, masked_cosine, pair_tokens


def published_loop(student: Tensor, teacher: Tensor) -> list[int]:
    """The paper's algorithm: the smallest cost over unused teacher rows and student columns, strike both, repeat."""
    cost = 1 - (normalize(teacher, dim=-1) @ normalize(student, dim=-1).T).double().numpy()
    pairs = [-1] * len(student)
    for _ in range(min(cost.shape)):
        row, column = np.unravel_index(np.argmin(cost), cost.shape)  # the first of equal ones, row by row
        pairs[column] = int(row)
        cost[row, :] = np.inf
        cost[:, column] = np.inf
    return pairs


def total_similarity(student: Tensor, teacher: Tensor, pairs: list[int]) -> float:
    cosine = normalize(student.double(), dim=-1) @ normalize(teacher.double(), dim=-1).T
    return sum(cosine[column, row].item() for column, row in enumerate(pairs) if row >= 0)


def align_all(student: Tensor, teacher: Tensor, method: str = "greedy") -> list[int]:
    masks = torch.ones(1, len(student), dtype=torch.bool), torch.ones(1, len(teacher), dtype=torch.bool)
    return align_tokens(student[None], teacher[None], *masks, method)[0].tolist()


def random_tokens(generator: torch.Generator, count: int, quantised: bool) -> Tensor:
    if quantised:  # vectors of +-1 in 4 dimensions: few cosines, all exact, so ties are everywhere
        return torch.randint(0, 2, (count, 4), generator=generator).float() * 2 - 1
    return torch.randn(count, 8, generator=generator)


@pytest.mark.parametrize("quantised", [False, True])
def test_greedy_equals_the_published_loop(quantised: bool):
    generator = torch.Generator().manual_seed(1)
    for case in range(150):
        sizes = torch.randint(1, 12, (2,), generator=generator).tolist()
        student, teacher = (random_tokens(generator, size, quantised) for size in sizes)
        assert align_all(student, teacher) == published_loop(student, teacher), (case, sizes)


@pytest.mark.parametrize("rows_a_block", [1, 2, 5])
def test_a_batch_is_aligned_row_by_row(rows_a_block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(alignment.BLOCK_BYTES, "cpu", 4 * 7 * 6 * rows_a_block)
    generator = torch.Generator().manual_seed(2)
    student, teacher = torch.randn(5, 7, 8, generator=generator), torch.randn(5, 6, 8, generator=generator)
    masks = torch.ones(5, 7, dtype=torch.bool), torch.ones(5, 6, dtype=torch.bool)
    for method in ("greedy", "optimal", "argmax"):
        together = align_tokens(student, teacher, *masks, method).tolist()
        alone = [align_all(*row, method) for row in zip(student, teacher, strict=True)]
        assert together == alone


@pytest.mark.parametrize("method", ["greedy", "argmax"])
def test_alignment_does_not_wait_for_the_device(method: str):
    # A tensor on `meta` has no values: to ask for one is an error here, as it is a wait on an accelerator.
    student, teacher = torch.randn(3, 5, 4, device="meta"), torch.randn(3, 7, 4, device="meta")
    masks = (torch.ones(tensor.shape[:2], dtype=torch.bool, device="meta") for tensor in (student, teacher))
    assert align_tokens(student, teacher, *masks, method).shape == (3, 5)


def test_optimal_has_the_best_total_of_all_permutations():
    generator = torch.Generator().manual_seed(3)
    for students, teachers in itertools.product((1, 2, 3, 4), (4, 5)):
        student, teacher = torch.randn(students, 3, generator=generator), torch.randn(teachers, 3, generator=generator)
        choices = itertools.permutations(range(teachers), students)
        best = max(total_similarity(student, teacher, list(choice)) for choice in choices)
        found = align_all(student, teacher, "optimal")
        assert total_similarity(student, teacher, found) == pytest.approx(best, abs=1e-6)


def test_optimal_equals_scipy_on_the_cost_matrix():
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(20, 8, generator=generator), torch.randn(15, 8, generator=generator)
    cost = 1 - normalize(teacher, dim=-1) @ normalize(student, dim=-1).T
    rows, columns = linear_sum_assignment(cost.numpy())
    found = align_all(student, teacher, "optimal")
    assert {(row, column) for column, row in enumerate(found) if row >= 0} == set(zip(rows, columns, strict=True))
    assert found.count(-1) == 5


@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_masked_tokens_are_never_paired_and_do_not_move_the_others(method: str):
    generator = torch.Generator().manual_seed(5)
    for _ in range(30):
        student, teacher = torch.randn(1, 8, 6, generator=generator), torch.randn(1, 9, 6, generator=generator)
        student_mask = torch.rand(1, 8, generator=generator) < 0.6
        teacher_mask = torch.rand(1, 9, generator=generator) < 0.6
        found = align_tokens(student, teacher, student_mask, teacher_mask, method)[0]
        kept_students, kept_teachers = student_mask[0].nonzero()[:, 0], teacher_mask[0].nonzero()[:, 0]
        expected = torch.full((8,), -1)
        if len(kept_students) and len(kept_teachers):
            alone = torch.tensor(align_all(student[0, kept_students], teacher[0, kept_teachers], method))
            expected[kept_students] = torch.where(alone >= 0, kept_teachers[alone.clamp(min=0)], -1)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_the_pairing_is_one_to_one_and_as_large_as_it_can_be(method: str):
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(6))
    student_mask = torch.ones(2, 6, dtype=torch.bool)
    teacher_mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    for row, partners in zip(
        align_tokens(tokens, tokens.flip(0), student_mask, teacher_mask, method), (6, 2), strict=True
    ):
        paired = row[row >= 0].tolist()
        assert len(paired) == len(set(paired)) == partners


@pytest.mark.parametrize("method", ["greedy", "optimal", "argmax"])
def test_rows_with_nothing_to_pair_are_left_unaligned(method: str):
    tokens = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(7))
    every, none = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    assert (align_tokens(tokens, tokens, every, none, method) == -1).all()
    assert (align_tokens(tokens, tokens, none, every, method) == -1).all()
    assert align_tokens(tokens, tokens[:, :0], every, every[:, :0], method).tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize("method", ["greedy", "optimal", "argmax"])
def test_inputs_are_left_as_they_were_and_no_gradient_is_recorded(method: str):
    generator = torch.Generator().manual_seed(8)
    student, teacher = (torch.randn(2, 5, 4, generator=generator, requires_grad=True) for _ in range(2))
    masks = torch.rand(2, 5, generator=generator) < 0.7, torch.rand(2, 5, generator=generator) < 0.7
    before = [tensor.clone() for tensor in (student, teacher, *masks)]
    found = align_tokens(student, teacher, *masks, method)
    after = (student, teacher, *masks)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert found.dtype == torch.int64
    assert not found.requires_grad


@pytest.mark.parametrize("method", ["greedy", "optimal", "argmax"])
def test_the_length_of_a_vector_does_not_matter_and_bfloat16_is_taken(method: str):
    generator = torch.Generator().manual_seed(9)
    for _ in range(20):
        student, teacher = torch.randn(2, 6, 4, generator=generator)
        lengths = 0.1 + 5 * torch.rand(2, 6, 1, generator=generator)
        expected = align_all(student, teacher, method)
        assert align_all(student * lengths[0], teacher * lengths[1], method) == expected
        rounded = student.bfloat16(), teacher.bfloat16()
        assert align_all(*rounded, method) == align_all(*(tokens.float() for tokens in rounded), method)


def test_both_routes_of_greedy_agree_and_only_ties_need_the_second():
    generator = torch.Generator().manual_seed(10)
    for quantised in (False, True):
        tokens = [torch.stack([random_tokens(generator, 9, quantised) for _ in range(20)]) for _ in range(2)]
        masks = [torch.rand(20, 9, generator=generator) < 0.8 for _ in range(2)]
        similarity = masked_cosine(*tokens, *masks)
        fast, sure = _greedy_without_ties(similarity, *masks), _greedy(similarity)
        assert (fast is None) == quantised
        assert quantised or torch.equal(fast, sure)
        assert torch.equal(align_tokens(*tokens, *masks), sure)


def test_argmax_gives_each_token_its_nearest_also_where_that_is_taken():
    generator = torch.Generator().manual_seed(11)
    student, teacher = torch.randn(3, 7, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    student_mask, teacher_mask = (torch.rand(3, count, generator=generator) < 0.7 for count in (7, 4))
    found = align_tokens(student, teacher, student_mask, teacher_mask, "argmax")
    for row, column in itertools.product(range(3), range(7)):
        cosines = {
            index: torch.cosine_similarity(student[row, column], teacher[row, index], dim=0).item()
            for index in range(4)
            if teacher_mask[row, index] and student_mask[row, column]
        }
        assert found[row, column] == (max(cosines, key=cosines.get) if cosines else -1)
    assert len(set(found[0].tolist()) - {-1}) < (found[0] >= 0).sum()  # 7 tokens share 4


def test_bad_input_is_refused_in_words():
    tokens, mask = torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected one of greedy, optimal, argmax, got 'sinkhorn'"):
        align_tokens(tokens, tokens, mask, mask, "sinkhorn")
    with pytest.raises(ValueError, match="share one space, got 4 and 3"):
        align_tokens(tokens, tokens[..., :3], mask, mask)
    with pytest.raises(ValueError, match=r"one batch size, got \(1, 2, 4\) and \(2, 2, 4\)"):
        align_tokens(tokens, tokens.expand(2, -1, -1), mask, mask)
    with pytest.raises(ValueError, match=r"boolean teacher mask of shape \(1, 2\), got torch.int64"):
        align_tokens(tokens, tokens, mask, mask.long())


@pytest.mark.parametrize("method", ["greedy", "optimal", "argmax"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_embeddings_that_are_not_finite_are_refused(method: str, number: float):
    tokens, mask = torch.ones(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)
    broken = tokens.clone()
    broken[0, 1, 2] = number
    with pytest.raises(ValueError, match="student embeddings are not finite"):
        align_tokens(broken, tokens, mask, mask, method)
    with pytest.raises(ValueError, match="teacher embeddings are not finite"):
        align_tokens(tokens, broken, mask, mask, method)


def test_the_pairs_of_one_question_come_with_their_cosines():
    generator = torch.Generator().manual_seed(5)
    student, teacher = torch.randn(4, 8, generator=generator), torch.randn(3, 8, generator=generator)
    cosines, partners = pair_tokens(student, teacher)
    assert partners.tolist() == published_loop(student, teacher)
    for row, own in enumerate(student.tolist()):
        for column, other in enumerate(teacher.tolist()):
            product = sum(a * b for a, b in zip(own, other, strict=True))
            lengths = sum(a * a for a in own) ** 0.5 * sum(b * b for b in other) ** 0.5
            assert cosines[row, column].item() == pytest.approx(product / lengths, abs=1e-6)
    assert pair_tokens(student, teacher[:0])[1].tolist() == [-1] * 4
