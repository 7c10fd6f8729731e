"""Losses: closed forms and plain loops."""

import math

import pytest
import torch

from drdecr.trainers import (
    aligned_token_mse,
    candidate_cross_entropy,
    english_anchor_mse,
    in_batch_cross_entropy,
    relevance_kl,
)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_two_candidates_give_a_binary_kl_of_the_margins(temperature: float):
    student, teacher = normal(6, 2, seed=1) * 3, normal(6, 2, seed=2) * 3
    expected = 0.0
    for (a, b), (c, d) in zip(student.tolist(), teacher.tolist(), strict=True):
        ours, theirs = sigmoid((a - b) / temperature), sigmoid((c - d) / temperature)
        expected += theirs * math.log(theirs / ours) + (1 - theirs) * math.log((1 - theirs) / (1 - ours))
    loss = relevance_kl(student, teacher, temperature).item()
    assert loss == pytest.approx(temperature**2 * expected / 6, rel=1e-4)


def test_a_uniform_teacher_gives_the_negative_mean_log_probability_less_the_entropy():
    student = normal(3, 5, seed=3)
    expected = sum(-math.log(5) - sum(math.log(p) for p in row) / 5 for row in student.softmax(dim=-1).tolist())
    assert relevance_kl(student, torch.full((3, 5), 7.0), 1.0).item() == pytest.approx(expected / 3, rel=1e-5)


def test_equal_scores_up_to_a_shift_lose_nothing():
    scores = normal(4, 6, seed=4)
    assert relevance_kl(scores + 3, scores, 2.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_temperature_times_the_difference_of_probabilities(temperature: float):
    student, teacher = normal(3, 4, seed=5).requires_grad_(), normal(3, 4, seed=6)
    relevance_kl(student, teacher, temperature).backward()
    difference = (student / temperature).softmax(dim=-1) - (teacher / temperature).softmax(dim=-1)
    torch.testing.assert_close(student.grad, temperature * difference.detach() / 3)


def test_the_squared_temperature_keeps_the_size_of_the_gradient():
    """Hinton et al. 2015: for large T the gradient tends to (s - t) / n, whatever T is; without T^2 it falls as 1 / T^2."""
    student, teacher = normal(1, 4, seed=7).double(), normal(1, 4, seed=8).double()
    limit = ((student - student.mean()) - (teacher - teacher.mean())) / 4
    for temperature in (200.0, 400.0):
        leaf = student.clone().requires_grad_()
        relevance_kl(leaf, teacher, temperature).backward()
        torch.testing.assert_close(leaf.grad, limit, rtol=0.02, atol=1e-3)


def test_no_gradient_reaches_the_teacher():
    teacher_scores, teacher_tokens = normal(2, 3).requires_grad_(), normal(2, 3, 4).requires_grad_()
    relevance_kl(normal(2, 3, seed=1).requires_grad_(), teacher_scores).backward()
    pairs = torch.zeros(2, 3, dtype=torch.int64)
    aligned_token_mse(normal(2, 3, 4, seed=1).requires_grad_(), teacher_tokens, pairs).backward()
    mask = torch.ones(2, 3, dtype=torch.bool)
    english_anchor_mse(normal(2, 3, 4, seed=1).requires_grad_(), teacher_tokens, mask).backward()
    assert teacher_scores.grad is None
    assert teacher_tokens.grad is None


def test_aligned_token_mse_equals_plain_loops():
    student, teacher = normal(3, 4, 5, seed=9), normal(3, 6, 5, seed=10)
    alignment = torch.tensor([[2, -1, 0, 5], [-1, -1, 3, -1], [-1, -1, -1, -1]])
    rows = []
    for b in range(3):
        squares = [
            (student[b, s, d] - teacher[b, alignment[b, s], d]).item() ** 2
            for s in range(4)
            if alignment[b, s] >= 0
            for d in range(5)
        ]
        rows.append(sum(squares) / len(squares) if squares else 0.0)
    assert aligned_token_mse(student, teacher, alignment).item() == pytest.approx(sum(rows) / 3, rel=1e-5)


def test_english_anchor_mse_equals_plain_loops():
    student, teacher = normal(2, 3, 4, seed=11), normal(2, 3, 4, seed=12)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    first = sum((student[0, t] - teacher[0, t]).square().sum().item() for t in (0, 2)) / 8
    second = (student[1, 1] - teacher[1, 1]).square().sum().item() / 4
    assert english_anchor_mse(student, teacher, mask).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_padding_does_not_move_a_token_loss():
    student, teacher = normal(2, 3, 4, seed=13), normal(2, 3, 4, seed=14)
    padded_student = torch.cat([student, torch.full((2, 2, 4), 9.0)], dim=1).requires_grad_()
    padded_teacher = torch.cat([teacher, torch.full((2, 2, 4), -9.0)], dim=1)
    alignment = torch.tensor([[1, 0, 2], [2, -1, 1]])
    padded_alignment = torch.nn.functional.pad(alignment, (0, 2), value=-1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    padded_mask = torch.nn.functional.pad(mask, (0, 2))
    tokens = aligned_token_mse(padded_student, padded_teacher, padded_alignment)
    anchor = english_anchor_mse(padded_student, padded_teacher, padded_mask)
    torch.testing.assert_close(tokens, aligned_token_mse(student, teacher, alignment))
    torch.testing.assert_close(anchor, english_anchor_mse(student, teacher, mask))
    (tokens + anchor).backward()
    assert (padded_student.grad[:, 3:] == 0).all()


def test_a_batch_without_an_aligned_token_loses_nothing_and_has_a_zero_gradient():
    student = normal(2, 3, 4).requires_grad_()
    loss = aligned_token_mse(student, normal(2, 5, 4, seed=1), torch.full((2, 3), -1))
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()


def test_the_mean_of_two_halves_is_the_loss_of_the_whole():
    """Each row has one voice, however many tokens it has: what makes accumulation and processes exact."""
    student, teacher = normal(4, 3, 5, seed=15), normal(4, 3, 5, seed=16)
    alignment = torch.tensor([[0, 1, 2], [1, -1, -1], [-1, 0, 2], [-1, -1, -1]])
    halves = [aligned_token_mse(student[h], teacher[h], alignment[h]) for h in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(halves) / 2, aligned_token_mse(student, teacher, alignment))


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_candidate_cross_entropy_is_minus_the_log_share_of_the_first(temperature: float):
    scores = normal(4, 3, seed=17)
    expected = 0.0
    for row in scores.tolist():
        exponentials = [math.exp(score / temperature) for score in row]
        expected -= math.log(exponentials[0] / sum(exponentials)) / 4
    assert candidate_cross_entropy(scores, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_with_two_candidates_it_is_the_pairwise_logistic_loss():
    loss = candidate_cross_entropy(torch.tensor([[3.0, 1.0]])).item()
    assert loss == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


def test_in_batch_cross_entropy_leaves_out_what_does_not_count():
    scores, positives = normal(3, 5, seed=18), torch.tensor([0, 2, 4])
    counts = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
    counted = [{0, 1, 3, 4}, {0, 2, 3, 4}, {4}]  # a query's own positive always counts
    expected = 0.0
    for b in range(3):
        exponentials = {m: math.exp(scores[b, m] / 0.5) for m in counted[b]}
        expected -= math.log(exponentials[positives[b].item()] / sum(exponentials.values())) / 3
    assert in_batch_cross_entropy(scores, positives, counts, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_bad_scores_are_refused_in_words():
    good, one = normal(2, 3), normal(2, 1)
    with pytest.raises(ValueError, match="relevance_kl: a softmax over one candidate teaches nothing, got 1"):
        relevance_kl(one, one)
    with pytest.raises(ValueError, match="candidate_cross_entropy: a softmax over one candidate"):
        candidate_cross_entropy(one)
    with pytest.raises(ValueError, match="in_batch_cross_entropy: a softmax over one candidate"):
        in_batch_cross_entropy(one, torch.zeros(2, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"one shape \(batch, candidates\), got \(2, 3\) and \(2, 1\)"):
        relevance_kl(good, one)
    with pytest.raises(ValueError, match="student scores hold NaN or infinity"):
        relevance_kl(good * torch.nan, good)
    with pytest.raises(ValueError, match="teacher scores hold NaN or infinity"):
        relevance_kl(good, good / 0)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature: expected a positive number"):
            relevance_kl(good, good, temperature)
        with pytest.raises(ValueError, match="temperature: expected a positive number"):
            candidate_cross_entropy(good, temperature)
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="student and teacher need one tokenizer"):
        english_anchor_mse(normal(1, 2, 4), normal(1, 3, 4), mask)
