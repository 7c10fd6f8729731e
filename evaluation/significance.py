"""How sure a mean or a difference is: bootstrap intervals, a paired randomisation test, Holm's correction.

Pure functions over per-query scores. A "group" is one language's queries; the macro average is the mean of the groups'
means. The languages are fixed and the questions are the sample: a question that is asked in several languages is drawn, or
flipped, once, with all its scores, since these rise and fall together.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_RESAMPLES = 10_000
DEFAULT_CONFIDENCE = 0.95
DRAWS_AT_ONCE = 4_000_000
"""Random numbers drawn in one block: bounds memory to some 64 MB for any number of queries."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean with the ends of its interval, in the unit of the scores."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, resamples: int = DEFAULT_RESAMPLES, seed: int = 0, confidence: float = DEFAULT_CONFIDENCE
) -> Interval:
    """Give the percentile bootstrap interval of a mean (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: `(num_queries,)`, one score a query; at least one. A single query gives an interval of width 0, which
            says nothing: read it with its n.
        resamples: how many samples to draw with replacement; default 10,000.
        seed: of the draws; the same seed and values give the same interval.
        confidence: share of resampled means between the ends; default 0.95.

    Returns:
        The mean of the values, the lower and the upper end.

    Raises:
        ValueError: for no values, more than one dimension, NaN or infinity, or settings out of range.
    """
    return bootstrap_macro_interval([values], resamples, seed, confidence)


def bootstrap_macro_interval(
    groups: Sequence[ArrayLike],
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    confidence: float = DEFAULT_CONFIDENCE,
    questions: Sequence[Sequence[Hashable]] | None = None,
) -> Interval:
    """Give the percentile bootstrap interval of a macro average.

    Questions are drawn among those that are asked in the same languages, so that each language keeps its size: parallel
    questions all together, languages with questions of their own each by itself.

    Args:
        groups: one array `(num_queries of the group,)` a language; the groups weigh the same whatever their size.
        resamples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.
        confidence: as in `bootstrap_interval`.
        questions: for each score which question it is of, as `groups`; the same in two groups where the question is asked
            in both languages. Default: all are different.

    Returns:
        The mean of the groups' means with its interval.

    Raises:
        ValueError: for no groups, questions of another number than scores, and as in `bootstrap_interval`.
    """
    arrays = _check_groups(groups)
    _check_settings(resamples, confidence)
    generator = np.random.default_rng(seed)
    strata = _strata(arrays, questions)
    means = np.sum([len(s) * _resampled_means(s, resamples, generator) for s in strata], axis=0)  # (resamples,)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(_macro_mean(arrays), float(low), float(high))


def paired_bootstrap_interval(
    baseline: ArrayLike,
    system: ArrayLike,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    confidence: float = DEFAULT_CONFIDENCE,
) -> Interval:
    """Give the interval of the mean difference of two runs on the same queries, which are resampled as pairs.

    Args:
        baseline: `(num_queries,)`.
        system: `(num_queries,)`, the same queries in the same order.
        resamples: as in `bootstrap_interval`.
        seed: as in `bootstrap_interval`.
        confidence: as in `bootstrap_interval`.

    Returns:
        Mean of system minus baseline with its interval; one that lies above 0 says that the system is better.

    Raises:
        ValueError: for unequal lengths, and as in `bootstrap_interval`.
    """
    return bootstrap_interval(paired_differences(baseline, system), resamples, seed, confidence)


def paired_differences(baseline: ArrayLike, system: ArrayLike) -> Floats:
    """Subtract the baseline's scores from the system's, query by query.

    Args:
        baseline: `(num_queries,)`.
        system: `(num_queries,)`, the same queries in the same order.

    Returns:
        float64 `(num_queries,)`.

    Raises:
        ValueError: for unequal lengths, no values, NaN or infinity.
    """
    first, second = _check_groups([baseline, system])
    if len(first) != len(second):
        raise ValueError(f"Paired runs need the same queries, got {len(first)} and {len(second)} scores. Align them.")
    return second - first


def randomisation_p_value(
    difference_groups: Sequence[ArrayLike],
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    questions: Sequence[Sequence[Hashable]] | None = None,
) -> float:
    """Test by random sign flips whether a mean difference is other than zero (two-sided; Fisher's randomisation).

    Were both runs alike, each query's difference could as well have the other sign. The p-value is the share of sign
    flips whose macro mean is at least as far from zero as the one seen; the seen one counts as one of them, so p is
    never 0 (Phipson and Smyth 2010).

    Args:
        difference_groups: one array of `paired_differences` a language; a list with one array tests a plain mean.
        resamples: how many random flips of all signs; default 10,000, so p is at least about 0.0001.
        seed: of the flips.
        questions: as in `bootstrap_macro_interval`; the differences of one question are flipped together.

    Returns:
        p in (0, 1]; 1 where all differences are 0.

    Raises:
        ValueError: as in `bootstrap_macro_interval`.
    """
    arrays = _check_groups(difference_groups)
    _check_settings(resamples, DEFAULT_CONFIDENCE)
    shares = np.concatenate(_strata(arrays, questions))
    shares = shares[shares != 0.0]  # zeros keep their sign whatever the coin says, so they need none
    seen = abs(shares.sum())
    threshold = seen - 1e-9 * np.abs(shares).sum()  # sums in another order differ in the last bits: still as far
    generator = np.random.default_rng(seed)
    as_far = 0
    for block in _blocks(resamples, len(shares)):
        flips = generator.integers(0, 2, size=(block, len(shares)), dtype=np.int8)  # (block, num_queries) of 0, 1
        sums = shares.sum() - 2.0 * (flips @ shares)  # a flip takes a share away twice
        as_far += int(np.count_nonzero(np.abs(sums) >= threshold))
    return (as_far + 1) / (resamples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for the number of tests made (Holm 1979): the smallest times k, the next times k - 1, ...

    Args:
        p_values: `name -> p`, one test a language.

    Returns:
        Adjusted p-values under the same names and in the same order, at most 1, never in another order of size than
        given. Reject where the adjusted value is at most the level, and the chance of any false rejection stays there.

    Raises:
        ValueError: for a value outside [0, 1].
    """
    for name, value in p_values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"p-values lie between 0 and 1, got {value} for {name!r}. Pass p-values, not statistics.")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[name] * (len(p_values) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _macro_mean(arrays: Sequence[Floats]) -> float:
    return float(np.mean([values.mean() for values in arrays]))


def _strata(arrays: Sequence[Floats], questions: Sequence[Sequence[Hashable]] | None) -> list[Floats]:
    """Return what each question adds to the macro mean, by the languages in which it is asked, in order of appearance.

    Returns:
        Arrays `(num_questions asked in the same languages,)`; all together sum to the macro mean.
    """
    if questions is None:
        return [values / (len(values) * len(arrays)) for values in arrays]
    if [len(keys) for keys in questions] != [len(values) for values in arrays]:
        raise ValueError(
            f"Needs a question for each score, got {[len(keys) for keys in questions]} for "
            f"{[len(values) for values in arrays]} scores. Pass one a score."
        )
    shares: dict[Hashable, float] = defaultdict(float)
    asked: dict[Hashable, list[int]] = {}
    for group, (values, keys) in enumerate(zip(arrays, questions, strict=True)):
        for value, key in zip(values / (len(values) * len(arrays)), keys, strict=True):
            shares[key] += value
            asked.setdefault(key, []).append(group)
    strata: dict[tuple[int, ...], list[float]] = {}
    for key, languages in asked.items():
        strata.setdefault(tuple(languages), []).append(shares[key])
    return [np.array(found) for found in strata.values()]


def _resampled_means(values: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    means = []
    for block in _blocks(resamples, len(values)):
        drawn = generator.integers(0, len(values), size=(block, len(values)), dtype=np.int32)
        means.append(values[drawn].mean(axis=1))  # (block, num_queries) -> (block,)
    return np.concatenate(means)


def _blocks(resamples: int, num_queries: int) -> list[int]:
    size = max(1, DRAWS_AT_ONCE // max(1, num_queries))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _check_groups(groups: Sequence[ArrayLike]) -> list[Floats]:
    arrays = [np.asarray(values, dtype=np.float64) for values in groups]
    if not arrays:
        raise ValueError("Needs the scores of at least one group, got none. Pass one array a language.")
    for values in arrays:
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"Scores must be (num_queries,) with at least one, got {values.shape}. Pass one a query.")
        if not np.isfinite(values).all():
            raise ValueError("Scores must be finite, got NaN or infinity. Find the query that gave it.")
    return arrays


def _check_settings(resamples: int, confidence: float) -> None:
    if resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"Needs resamples >= 1 and 0 < confidence < 1, got {resamples} and {confidence}. Defaults: 10000 and 0.95."
        )
