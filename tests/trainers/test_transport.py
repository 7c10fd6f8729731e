"""Soft alignment: what makes a plan the entropic one, its limits, masks, and its loss against a plain loop."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from drdecr.trainers import align_tokens, aligned_token_mse, alignment, transport_weights, transported_token_mse

EVERY_5, EVERY_7 = (torch.ones(2, count, dtype=torch.bool) for count in (5, 7))


def tokens(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_plan_is_the_entropic_one():
    # It is the only one with these margins of the form diag(u) exp(cosine / T) diag(v): its logarithm less cosine / T is a
    # sum of a row's and a column's number, whose double differences vanish.
    student, teacher = tokens(2, 5, 8, seed=1), tokens(2, 7, 8, seed=2)
    plan = transport_weights(student, teacher, EVERY_5, EVERY_7, 0.2, iterations=500).double() / 5
    assert torch.allclose(plan.sum(dim=2), torch.full((2, 5), 1 / 5, dtype=torch.double), atol=1e-6)
    assert torch.allclose(plan.sum(dim=1), torch.full((2, 7), 1 / 7, dtype=torch.double), atol=1e-6)
    cosine = torch.cosine_similarity(student[:, :, None], teacher[:, None], dim=-1)
    rest = plan.log() - cosine / 0.2
    rest = rest - rest[:, :1] - rest[:, :, :1] + rest[:, :1, :1]
    assert rest.abs().max() < 1e-3


@pytest.mark.parametrize("rows_a_block", [1, 2])
def test_a_batch_is_weighed_row_by_row(rows_a_block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(alignment.BLOCK_BYTES, "cpu", 4 * 6 * 4 * rows_a_block)
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 6, 8), torch.randn(5, 4, 8)
    masks = torch.ones(5, 6, dtype=torch.bool), torch.ones(5, 4, dtype=torch.bool)
    alone = [transport_weights(*(tensor[None] for tensor in row)) for row in zip(student, teacher, *masks, strict=True)]
    torch.testing.assert_close(transport_weights(student, teacher, *masks), torch.cat(alone))


def test_transport_does_not_wait_for_the_device():
    # A tensor on `meta` has no values: to ask for one is an error here, as it is a wait on an accelerator.
    student, teacher = torch.randn(3, 5, 4, device="meta"), torch.randn(3, 7, 4, device="meta")
    masks = (torch.ones(tensor.shape[:2], dtype=torch.bool, device="meta") for tensor in (student, teacher))
    assert transport_weights(student, teacher, *masks).shape == (3, 5, 7)


def test_a_cold_plan_is_the_optimal_assignment():
    for seed in range(5):
        student = tokens(2, 5, 32, seed=seed)
        teacher = student.flip(1) + 0.5 * tokens(2, 5, 32, seed=seed + 50)
        weights = transport_weights(student, teacher, EVERY_5, EVERY_5, 0.03)
        for row in range(2):
            cosine = torch.cosine_similarity(student[row, :, None], teacher[row, None], dim=-1)
            best = linear_sum_assignment(cosine.numpy(), maximize=True)[1]
            assert weights[row].argmax(dim=1).tolist() == best.tolist()


def test_a_hot_plan_weighs_all_alike():
    weights = transport_weights(tokens(2, 5, 8, seed=3), tokens(2, 7, 8, seed=4), EVERY_5, EVERY_7, 1000.0)
    assert torch.allclose(weights, torch.full((2, 5, 7), 1 / 7), atol=1e-3)


def test_masked_tokens_weigh_nothing_and_do_not_move_the_others():
    student, teacher = tokens(1, 6, 8, seed=5), tokens(1, 8, 8, seed=6)
    student_mask, teacher_mask = torch.arange(6)[None] % 3 != 1, torch.arange(8)[None] % 4 != 2
    weights = transport_weights(student, teacher, student_mask, teacher_mask)
    alone = transport_weights(
        student[student_mask][None], teacher[teacher_mask][None], *(torch.ones(1, n, dtype=torch.bool) for n in (4, 6))
    )
    assert torch.allclose(weights[:, student_mask[0]][:, :, teacher_mask[0]], alone, atol=1e-6)
    assert weights[:, ~student_mask[0]].abs().sum() == 0
    assert weights[:, :, ~teacher_mask[0]].abs().sum() == 0
    nothing = transport_weights(student, teacher, student_mask, torch.zeros_like(teacher_mask))
    assert nothing.abs().sum() == 0


def test_the_loss_equals_a_plain_loop_and_leaves_out_rows_without_weights():
    student, teacher = tokens(2, 5, 4, seed=7).requires_grad_(), tokens(2, 7, 4, seed=8)
    student_mask = torch.tensor([[True] * 5, [True, False, True, False, False]])
    weights = transport_weights(student, teacher, student_mask, EVERY_7)
    rows = []
    for b in range(2):
        found = [
            sum(weights[b, s, t].item() * (student[b, s] - teacher[b, t]).square().mean().item() for t in range(7))
            for s in range(5)
            if student_mask[b, s]
        ]
        rows.append(sum(found) / len(found))
    loss = transported_token_mse(student, teacher, weights)
    assert loss.item() == pytest.approx(sum(rows) / 2, rel=1e-5)
    loss.backward()
    assert student.grad[1, 1].abs().sum() == 0


def test_the_gradient_pulls_to_the_weighted_mean_of_the_teacher():
    student, teacher = tokens(2, 5, 4, seed=9).requires_grad_(), tokens(2, 7, 4, seed=10)
    weights = transport_weights(student, teacher, EVERY_5, EVERY_7)
    transported_token_mse(student, teacher, weights).backward()
    expected = 2 * (student - weights @ teacher) / (2 * 5 * 4)
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_one_partner_of_weight_one_is_the_published_loss():
    student, teacher = tokens(2, 5, 4, seed=11), tokens(2, 7, 4, seed=12)
    partners = align_tokens(student, teacher, EVERY_5, EVERY_7, "optimal")
    weights = torch.nn.functional.one_hot(partners, 7).float()
    expected = aligned_token_mse(student, teacher, partners)
    assert transported_token_mse(student, teacher, weights).item() == pytest.approx(expected.item(), rel=1e-5)


def test_settings_out_of_range_are_refused_in_words():
    student, teacher = tokens(2, 5, 8, seed=1), tokens(2, 7, 8, seed=2)
    with pytest.raises(ValueError, match=r"at least 0.03, got 0.01.*Use `align_tokens`"):
        transport_weights(student, teacher, EVERY_5, EVERY_7, 0.01)
    with pytest.raises(ValueError, match="iterations: expected at least 1, got 0"):
        transport_weights(student, teacher, EVERY_5, EVERY_7, iterations=0)
