"""Figures of how even-handedly documents of several languages are ranked: PEER, Kendall's W, Friedman's test."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, friedmanchisquare, kruskal

from drdecr.evaluation.failures import ranked
from drdecr.evaluation.metrics import Qrels, Run
from drdecr.evaluation.significance import Floats, Interval

DRAWS_AT_ONCE = 2_000_000


def peer(
    run: Run,
    qrels: Qrels,
    document_languages: Mapping[str, str],
    weights: Mapping[int, float],
    cutoff: int = 20,
) -> dict[str, float]:
    """Return the probability of equal expected rank of every judged query (Yang, Jänich, Mayfield and Lawrie, SIGIR 2024).

    For each relevance level the ranks of its documents are compared between languages by the Kruskal-Wallis test; PEER is
    the mean of the p-values, weighted by level: near 1 where languages are ranked alike, near 0 where they are not.
    Documents below the cutoff are tied behind it. A level whose documents are all in one language, or all behind the cutoff,
    counts 1: nothing was preferred.

    One document a language gives the same p-value whatever the ranking, so that a parallel collection needs several right
    documents a language, or weight on level 0. The authors' `peer_measure` 0.0.1 takes ranks of the whole ranking where the
    test takes those among the documents compared, and places documents that were not found by their number alone.

    Args:
        run: `query_id -> document_id -> score`.
        qrels: `query_id -> document_id -> relevance`. Retrieved documents without a judgement have level 0.
        document_languages: `document_id -> language`.
        weights: `level -> weight`; they sum to 1.
        cutoff: how many documents of a ranking are looked at.

    Raises:
        ValueError: for weights that do not sum to 1.
    """
    if abs(sum(weights.values()) - 1.0) > 1e-6 or min(weights.values()) < 0:
        raise ValueError(f"PEER: expected weights of levels that sum to 1, got {dict(weights)}.")
    values = {}
    for query_id, judged in qrels.items():
        places = {name: place for place, name in enumerate(ranked(run.get(query_id, {}))[:cutoff], start=1)}
        levels = {**dict.fromkeys(places, 0), **judged}
        values[query_id] = 0.0
        for level, weight in weights.items():
            groups: dict[str, list[int]] = {}
            for name, grade in levels.items():
                if grade == level:
                    groups.setdefault(document_languages[name], []).append(places.get(name, cutoff + 1))
            values[query_id] += weight * _equal_ranks_p_value(list(groups.values()))
    return values


def _equal_ranks_p_value(groups: Sequence[Sequence[int]]) -> float:
    if len(groups) < 2 or len({rank for group in groups for rank in group}) == 1:
        return 1.0
    return float(kruskal(*groups).pvalue)


def kendall_w(orders: Floats) -> float:
    """Return Kendall's coefficient of concordance, corrected for ties.

    Args:
        orders: `(questions, languages)`, ranks 1 to `languages` in each row, ties shared.

    Returns:
        From 0 to 1; 0 where every row is one tie. Chance alone gives some 1 / questions.
    """
    return float(_kendall_w(orders.mean(axis=0), _ties(orders).mean(), orders.shape[1]))


def _kendall_w(mean_ranks: Floats, ties: Floats | float, count: int) -> Floats:
    """Return W of mean ranks `(..., languages)` and the mean of the rows' sums of t^3 - t over their ties `(...)`."""
    spread = 12 * ((mean_ranks - (count + 1) / 2) ** 2).sum(axis=-1)
    room = count**3 - count - np.asarray(ties)
    return np.where(room > 1e-9, spread / np.maximum(room, 1e-9), 0.0)


def _ties(orders: Floats) -> Floats:
    counts = (orders[:, :, None] == orders[:, None, :]).sum(axis=2)  # of each entry's own tie; t entries of a tie of t
    return (counts.astype(np.float64) ** 2 - 1).sum(axis=1)


def kendall_w_interval(orders: Floats, resamples: int, seed: int, questions: Sequence[str] | None = None) -> Interval:
    """Return W with its 95 % percentile bootstrap interval.

    Args:
        orders: as in `kendall_w`.
        resamples: of the bootstrap.
        seed: of the draws.
        questions: which question each row is of: rows of one are drawn together, and weigh as one (default: all differ).
    """
    keys = [str(row) for row in range(len(orders))] if questions is None else questions
    ranks, ties = by_question(orders, keys), by_question(_ties(orders), keys)
    generator = np.random.default_rng(seed)
    size = max(1, DRAWS_AT_ONCE // ranks.size)
    drawn: list[NDArray[np.float64]] = []
    for start in range(0, resamples, size):
        rows = generator.integers(0, len(ranks), (min(size, resamples - start), len(ranks)))
        drawn.append(_kendall_w(ranks[rows].mean(axis=1), ties[rows].mean(axis=1), orders.shape[1]))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    mean = float(_kendall_w(ranks.mean(axis=0), ties.mean(), orders.shape[1]))
    return Interval(mean, float(low), float(high))


def by_question(values: Floats, questions: Sequence[str]) -> Floats:
    """Average the rows of each question, leaving NaN out: a question that is asked in several languages counts once.

    Args:
        values: `(rows, ...)`.
        questions: `(rows,)`.

    Returns:
        `(questions, ...)`, in the order of appearance; NaN where a question has no other value.
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(questions))}
    rows = np.array([places[key] for key in questions])
    known = np.isfinite(values)
    sums, counts = np.zeros((len(places), *values.shape[1:])), np.zeros((len(places), *values.shape[1:]))
    np.add.at(sums, rows, np.where(known, values, 0.0))
    np.add.at(counts, rows, known)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def friedman_p_value(orders: Floats) -> float:
    """Return the p-value of Friedman's test that all columns have one expected rank; of two columns that of the sign test.

    Args:
        orders: `(questions, languages)`.
    """
    count = orders.shape[1]
    if (orders == orders[:, :1]).all():
        return 1.0
    if count > 2:
        return float(friedmanchisquare(*orders.T).pvalue)
    return float(chi2.sf(len(orders) * kendall_w(orders), 1))  # scipy asks for three columns
