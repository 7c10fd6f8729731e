"""Diagnostics: figures computed by hand, and warnings that name the cure."""

import logging
import math

import pytest
import torch
from accelerate import Accelerator

from drdecr.trainers.diagnostics import Records, check_finite, of_alignment, of_scores, warn_if_uninformative


def test_matched_cosine_and_unaligned_share_count_only_tokens_that_count():
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, 5.0]]])
    teacher = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])
    mask = torch.tensor([[True, True, True, False]])
    figures = of_alignment(student, teacher, torch.tensor([[0, 1, -1, -1]]), mask)
    assert figures["mean_matched_cosine"].item() == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert figures["share_unaligned_tokens"].item() == pytest.approx(1 / 3)


def test_a_batch_without_tokens_has_figures_too():
    none = torch.zeros(1, 2, dtype=torch.bool)
    figures = of_alignment(torch.randn(1, 2, 3), torch.randn(1, 2, 3), torch.full((1, 2), -1), none)
    assert all(math.isfinite(value) for value in figures.values())


def test_score_figures_equal_those_by_hand():
    student, teacher = torch.tensor([[1.0, 3.0], [4.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 6.0]])
    figures = of_scores(student, teacher, temperature=2.0)
    entropy = 0.0
    for margin in (1.0, 3.0):
        p = 1 / (1 + math.exp(-margin))
        entropy -= (p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2) / 2
    assert figures["teacher_relative_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    # the sample's standard deviation of two numbers is their distance over the square root of 2
    assert figures["student_score_spread"].item() == pytest.approx((2 + 4) / 2 / math.sqrt(2))
    assert figures["teacher_score_spread"].item() == pytest.approx((2 + 6) / 2 / math.sqrt(2))
    assert figures["top_candidate_agreement"].item() == 0.5


def test_the_relative_entropy_goes_from_saturated_0_to_flat_1():
    flat = of_scores(torch.zeros(1, 5), torch.ones(1, 5), 1.0)["teacher_relative_entropy"].item()
    saturated = of_scores(torch.zeros(1, 5), torch.tensor([[90.0, 0, 0, 0, 0]]), 1.0)["teacher_relative_entropy"].item()
    assert (flat, saturated) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-6))


@pytest.mark.parametrize(
    ("entropy", "words"),
    [
        (0.001, "saturated (relative entropy 0.001)"),
        (0.999, "flat (relative entropy 0.999)"),
        (0.5, None),
        (None, None),
    ],
)
def test_a_warning_comes_only_where_the_teacher_says_little(
    entropy: float | None, words: str | None, caplog: pytest.LogCaptureFixture
):
    means = {} if entropy is None else {"teacher_relative_entropy": entropy}
    warn_if_uninformative(means, logging.getLogger("test"))
    assert (not caplog.messages) if words is None else (words in caplog.text and "`temperature`" in caplog.text)


@pytest.mark.parametrize(("cosine", "warned"), [(0.1, True), (0.8, False)])
def test_tokens_of_another_space_are_warned_of(cosine: float, warned: bool, caplog: pytest.LogCaptureFixture):
    warn_if_uninformative({"mean_matched_cosine": cosine}, logging.getLogger("test"))
    assert ("do not share a space (mean cosine of matched tokens 0.10)" in caplog.text) == warned


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_term_that_is_not_finite_ends_a_run_but_under_a_scaler(value: float):
    with pytest.raises(ValueError, match="relevance_kl: NaN or infinity since the last log line"):
        check_finite({"relevance_kl": value}, ["relevance_kl", "contrastive"], is_scaled=False)
    check_finite({"relevance_kl": value}, ["relevance_kl"], is_scaled=True)
    check_finite({"relevance_kl": 1.0, "student_score_spread": value}, ["relevance_kl"], is_scaled=False)


def test_records_give_each_figures_own_mean_once_and_evaluations_by_rows():
    records, accelerator = Records(), Accelerator(cpu=True)
    records.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)}, training=True, num_rows=8)
    records.add({"a": torch.tensor(2.0)}, training=True, num_rows=2)
    records.add({"a": torch.tensor(7.0)}, training=False, num_rows=3)
    records.add({"a": torch.tensor(3.0)}, training=False, num_rows=1)
    assert records.means(accelerator, training=True) == {"a": 1.5, "b": 10.0}
    assert records.means(accelerator, training=True) == {}
    assert records.means(accelerator, training=False) == {"a": 6.0}
