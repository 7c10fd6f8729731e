"""Ranking metrics of every query, through ir_measures (which calls trec_eval).

One run gives `measure -> query -> score`, the form that `results.summarize` and `results.compare` take.
"""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import ir_measures
from ir_measures.measures import Measure

Run = Mapping[str, Mapping[str, float]]
"""`query_id -> document_id -> score`; a higher score is a better rank."""

Qrels = Mapping[str, Mapping[str, int]]
"""`query_id -> document_id -> relevance`; 1 and more is relevant."""

PerQuery = dict[str, dict[str, float]]
"""`measure -> query_id -> score`."""

DEFAULT_MEASURES = ("RR@10", "R@10", "R@100", "nDCG@10")
"""What is reported where nothing else is asked for, in the spelling of ir_measures."""

HIGHEST_GRADE = 1_000_000
"""trec_eval counts documents by grade, in a table as long as the highest: without a limit one line of a file takes all memory."""

MEASURE_FORM = re.compile(
    r"(RR|AP)(\(rel=[1-9]\d{0,6}\))?(@[1-9]\d{0,6})?|nDCG(@[1-9]\d{0,6})?|Judged(@[1-9]\d{0,6})?|Rprec|Bpref"
    r"|(R|P|Success)(\(rel=[1-9]\d{0,6}\))?@[1-9]\d{0,6}",
    re.ASCII,
)
"""What ir_measures computes without another program; a cutoff of 0 or below ends the process there."""

DISPLAY_NAMES = {"RR": "MRR", "AP": "MAP"}
"""The one place that renames: a query has a reciprocal rank (RR), what people read is its mean (MRR)."""


def display_name(measure: str) -> str:
    """Name a measure as people know its mean.

    Args:
        measure: name as ir_measures writes it, such as `RR@10`; data and JSON files keep that name.

    Returns:
        The name for tables and charts, such as `MRR@10`; a measure without another name keeps its own.
    """
    name, at, cutoff = measure.partition("@")
    return DISPLAY_NAMES.get(name, name) + at + cutoff


def per_query_scores(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> PerQuery:
    """Score every judged query.

    Ties are broken by document id, descending, as trec_eval does: of two documents with one score, "d2" ranks before
    "d1". ir_measures alone would not hold to that: it takes RR@k from another provider than R@k and nDCG@k, which
    breaks ties by ascending id, and trec_eval compares scores in float32. So the order is settled here, in float64.

    trec_eval is C code that ends the process on what it does not expect. It sees ranks, checked grades and numbers in
    place of ids, never a value of the caller.

    Args:
        run: `query_id -> document_id -> score`, any number of documents a query.
        qrels: `query_id -> document_id -> relevance` as whole numbers, 1 and more relevant. nDCG uses them as gains.
            A grade below 0 (such as -2 for junk pages) counts as 0.
        measures: RR, AP and nDCG with or without a cutoff, R, P and Success with one, Rprec, Bpref, Judged; default
            RR@10, R@10, R@100, nDCG@10.

    Returns:
        `measure -> query_id -> score` in [0, 1], keys as given in `measures`, queries in the order of `qrels`. A judged
        query that is missing from the run, or has an empty ranking, scores 0 and is kept; so does a query whose
        judgements name no relevant document.

    Raises:
        ValueError: for a query in the run without judgement, a score that is not finite, a relevance that is no whole
            number or above `HIGHEST_GRADE`, an id that is no text, empty qrels, or an unknown measure.
    """
    parsed = {name: parse_measure(name) for name in measures}
    grades = _check_qrels(qrels)
    unjudged = [query_id for query_id in run if query_id not in qrels]
    if unjudged:
        raise ValueError(
            f"Every query of the run needs a judgement, got {len(unjudged)} without, the first {unjudged[0]!r}. "
            "Take them out of the run or add them to the qrels."
        )
    rankings = {query_id: _rank_scores(query_id, scores) for query_id, scores in run.items() if scores}
    result: PerQuery = {name: dict.fromkeys(qrels, 0.0) for name in parsed}
    if not rankings or not parsed:
        return result
    plain_run: dict[str, dict[str, float]] = {}
    plain_qrels: dict[str, dict[str, int]] = {}
    for number, (query_id, ranks) in enumerate(rankings.items()):
        names = {document_id: str(place) for place, document_id in enumerate({**ranks, **grades[query_id]})}
        plain_run[str(number)] = {names[document_id]: rank for document_id, rank in ranks.items()}
        plain_qrels[str(number)] = {names[document_id]: grade for document_id, grade in grades[query_id].items()}
    query_ids = list(rankings)
    for metric in ir_measures.iter_calc(set(parsed.values()), plain_qrels, plain_run):
        for name, measure in parsed.items():
            if measure == metric.measure:
                result[name][query_ids[int(metric.query_id)]] = float(metric.value)
    return result


def parse_measure(name: str) -> Measure:
    """Read the name of a measure.

    Raises:
        ValueError: for an unknown one, or a cutoff that is no whole number from 1 up.
    """
    if not MEASURE_FORM.fullmatch(name):
        raise ValueError(
            f"{name!r} is no measure known here. Write it as RR@10, nDCG@10, R@100, P@5, Success@1 or AP; a cutoff is a "
            "whole number from 1 up."
        )
    return ir_measures.parse_measure(name)


def plain_grade(relevance: Any) -> int:
    """Return a grade of relevance as trec_eval may see it: below 0 is 0.

    Raises:
        ValueError: for what is no whole number, or above `HIGHEST_GRADE`.
    """
    number: Any = relevance if isinstance(relevance, Real) else math.nan
    if number % 1 != 0:  # so too for NaN and infinity
        raise ValueError(f"expected a whole number as relevance, got {relevance!r}. Use 1 for relevant and 0 for not.")
    if number > HIGHEST_GRADE:
        raise ValueError(f"expected a relevance of at most {HIGHEST_GRADE:,}, got {relevance}. Is it another field?")
    return max(int(number), 0)


def _check_qrels(qrels: Qrels) -> dict[str, dict[str, int]]:
    """Return the judgements with plain grades."""
    if not qrels:
        raise ValueError("qrels need at least one judged query, got none. Check the file that they were read from.")
    plain: dict[str, dict[str, int]] = {}
    for query_id, judgements in qrels.items():
        if not judgements:
            raise ValueError(
                f"Query {query_id!r} has no judgement. Judge a document of it or take it out of the qrels."
            )
        _check_ids(query_id, judgements)
        plain[query_id] = {}
        for document_id, relevance in judgements.items():
            try:
                plain[query_id][document_id] = plain_grade(relevance)
            except ValueError as error:
                raise ValueError(f"Query {query_id!r}, document {document_id!r}: {error}") from error
    return plain


def _check_ids(query_id: str, documents: Mapping[str, Any]) -> None:
    odd = next((name for name in (query_id, *documents) if not isinstance(name, str)), None)
    if odd is not None:
        raise ValueError(f"Query {query_id!r}: expected ids that are text, got {odd!r}. Write {str(odd)!r}.")


def _rank_scores(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Replace scores by descending ranks: score first, then document id, both descending."""
    _check_ids(query_id, scores)
    for document_id, score in scores.items():
        if not isinstance(score, Real) or not abs(score) < math.inf:
            raise ValueError(
                f"Query {query_id!r} has the score {score!r} for document {document_id!r}; only a finite number has a rank. "
                "Look for an empty or fully masked text in what was encoded."
            )
    return {document_id: float(rank) for rank, document_id in enumerate(reversed(ranked(scores)), start=1)}


MEASURE = "RR@10"


def ranked(hits: Mapping[str, float]) -> list[str]:
    """Return document ids, best first; of equal scores the higher id first, as metrics and run files have it."""
    return sorted(hits, key=lambda name: (hits[name], name), reverse=True)
