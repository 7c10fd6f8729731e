"""Intervals and tests against closed forms, scipy and full enumeration."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from drdecr.evaluation import significance
from drdecr.evaluation.significance import (
    bootstrap_interval,
    bootstrap_macro_interval,
    holm,
    paired_bootstrap_interval,
    paired_differences,
    randomisation_p_value,
)


@pytest.fixture
def scores():
    return np.random.default_rng(0).beta(0.5, 0.7, size=150)


def test_interval_agrees_with_scipys_percentile_bootstrap(scores):
    ours = bootstrap_interval(scores, seed=1)
    theirs = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(scores.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_interval_of_a_hit_rate_has_the_binomial_ends():
    hits = np.array([1.0] * 30 + [0.0] * 70)
    # The resampled mean of n hits and misses is binomial(n, p) / n. Its steps are wide beside the noise of 10,000
    # resamples at n = 100: the ends are exact.
    expected = scipy.stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100
    for seed in range(5):
        interval = bootstrap_interval(hits, seed=seed)
        assert [interval.low, interval.high] == pytest.approx(expected)


def test_confidence_widens_the_interval_as_the_normal_does(scores):
    error = scores.std() / math.sqrt(len(scores))
    for confidence in (0.5, 0.9, 0.99):
        interval = bootstrap_interval(scores, confidence=confidence)
        half = scipy.stats.norm.ppf(0.5 + confidence / 2) * error
        assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.06)


def test_same_seed_same_interval_other_seed_another(scores):
    assert bootstrap_interval(scores, seed=3) == bootstrap_interval(scores, seed=3)
    assert bootstrap_interval(scores, seed=3) != bootstrap_interval(scores, seed=4)


def test_constant_scores_have_an_interval_of_width_zero():
    assert bootstrap_interval([0.25] * 9, resamples=50) == (0.25, 0.25, 0.25)
    assert bootstrap_interval([1.0], resamples=50) == (1.0, 1.0, 1.0)


def test_interval_does_not_depend_on_the_block_size(scores, monkeypatch):
    whole = bootstrap_interval(scores, resamples=500)
    monkeypatch.setattr(significance, "DRAWS_AT_ONCE", 1000)  # 6 resamples a block, the last smaller
    assert bootstrap_interval(scores, resamples=500) == pytest.approx(whole, abs=0.02)
    assert significance._blocks(500, 150) == [6] * 83 + [2]


def test_macro_interval_resamples_within_languages():
    # Languages that differ widely, queries within one that do not: pooled resampling would give a wide interval.
    groups = [np.array([0.1] * 5), np.array([0.9] * 50), np.array([0.5] * 20)]
    interval = bootstrap_macro_interval(groups, resamples=200)
    assert interval == pytest.approx((0.5, 0.5, 0.5))


def test_macro_interval_has_the_width_of_independent_languages(scores):
    groups = [scores[:20], scores[20:70], scores[70:]]
    interval = bootstrap_macro_interval(groups)
    error = math.sqrt(sum(group.var() / len(group) for group in groups)) / 3
    assert interval.mean == pytest.approx(sum(group.mean() for group in groups) / 3)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_a_question_asked_in_seven_languages_is_one_question(scores):
    values, keys = scores[:80], list(range(80))
    one = bootstrap_interval(values)
    copies = bootstrap_macro_interval([values] * 7, questions=[keys] * 7)
    assert copies == pytest.approx(one)  # seven copies say no more than one
    apart = bootstrap_macro_interval([values] * 7)
    assert apart.high - apart.low == pytest.approx((one.high - one.low) / math.sqrt(7), rel=0.06)
    differences = values - values.mean() + 0.06
    assert randomisation_p_value([differences] * 7, questions=[keys] * 7) == randomisation_p_value([differences])
    assert randomisation_p_value([differences] * 7) < randomisation_p_value([differences])


def test_questions_that_are_partly_shared_have_the_interval_of_their_own_sums(scores):
    # Two languages of unequal size that share 30 questions: the variance of independent sums, one stratum each.
    first, second = scores[:50], scores[50:130]
    questions = [[f"q{i}" for i in range(50)], [f"q{i}" for i in range(20, 100)]]
    shared = first[20:] / 100 + second[:30] / 160
    parts = (first[:20] / 100, shared, second[30:] / 160)
    error = math.sqrt(sum(len(part) * part.var() for part in parts))
    interval = bootstrap_macro_interval([first, second], questions=questions)
    assert interval.mean == pytest.approx((first.mean() + second.mean()) / 2)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    with pytest.raises(ValueError, match="a question for each score"):
        bootstrap_macro_interval([first, second], questions=[questions[0], questions[1][1:]])


def test_paired_interval_is_that_of_the_differences_not_of_two_samples(scores):
    system = scores + 0.01  # a constant gain: paired width 0, unpaired width much larger
    interval = paired_bootstrap_interval(scores, system, resamples=200)
    assert interval == pytest.approx((0.01, 0.01, 0.01))
    assert paired_differences([0.0, 1.0], [1.0, 0.5]).tolist() == [1.0, -0.5]


def exact_p_value(groups: list[list[float]]) -> float:
    """All sign flips, one by one."""
    sizes = [len(group) for group in groups]
    seen = abs(sum(sum(group) / len(group) for group in groups))
    far = total = 0
    for signs in itertools.product((1, -1), repeat=sum(sizes)):
        at, macro = 0, 0.0
        for group in groups:
            macro += sum(s * v for s, v in zip(signs[at : at + len(group)], group, strict=True)) / len(group)
            at += len(group)
        far += abs(macro) >= seen - 1e-12
        total += 1
    return far / total


@pytest.mark.parametrize(
    "groups",
    [
        [[0.3, -0.1, 0.2, 0.4, 0.1, 0.0, 0.25, -0.05, 0.3, 0.1]],
        [[0.3, -0.1, 0.2, 0.2], [0.5, 0.5, -0.5, 0.1, 0.4, 0.3, 0.2]],
        [[0.1, 0.1, 0.1, -0.1, 0.1, 0.1]],  # many equal sums: rounding must not lose the ties
    ],
)
def test_p_value_agrees_with_all_sign_flips(groups):
    exact = exact_p_value(groups)
    error = math.sqrt(exact * (1 - exact) / 20_000)
    assert randomisation_p_value(groups, resamples=20_000, seed=1) == pytest.approx(exact, abs=4 * error + 1e-4)


def test_p_value_agrees_with_scipys_permutation_test(scores):
    differences = scores[:60] - 0.4
    theirs = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    ).pvalue
    assert 0.01 < theirs < 0.99
    assert randomisation_p_value([differences], resamples=20_000) == pytest.approx(theirs, abs=0.015)


def test_p_value_of_no_difference_is_one_and_never_zero():
    assert randomisation_p_value([[0.0, 0.0]], resamples=100) == 1.0
    assert randomisation_p_value([[0.5] * 40], resamples=999) == pytest.approx(1 / 1000)


def test_p_value_is_uniform_when_both_runs_are_alike():
    generator = np.random.default_rng(8)
    p_values = [randomisation_p_value([generator.normal(size=30)], 400, seed) for seed in range(400)]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.001


def test_holm_agrees_with_its_definition_worked_by_hand():
    adjusted = holm({"ru": 0.03, "ar": 0.01, "fi": 0.04, "te": 0.9})
    assert adjusted == pytest.approx({"ru": 0.09, "ar": 0.04, "fi": 0.09, "te": 0.9})
    assert list(adjusted) == ["ru", "ar", "fi", "te"]
    assert holm({"ar": 0.6, "ru": 0.7}) == {"ar": 1.0, "ru": 1.0}
    assert holm({}) == {}


def test_holm_rejects_what_the_step_down_procedure_rejects():
    generator = np.random.default_rng(4)
    for _ in range(200):
        p_values = {str(name): float(p) for name, p in enumerate(generator.uniform(size=6) ** 3)}
        rejected = set()
        for step, name in enumerate(sorted(p_values, key=p_values.get)):
            if p_values[name] > 0.05 / (6 - step):
                break
            rejected.add(name)
        assert {name for name, p in holm(p_values).items() if p <= 0.05} == rejected


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="at least one group"):
        bootstrap_macro_interval([])
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([0.1, math.nan])
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        bootstrap_interval(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_bootstrap_interval([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([0.1], resamples=0)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([0.1], confidence=95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm({"ar": 1.5})
