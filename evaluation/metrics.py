"""Ranking metrics of every query, through ir_measures (which calls trec_eval).

One run gives `measure -> query -> score`, the form that `results.summarize` and `results.compare` take.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral

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
    breaks ties by ascending id, and trec_eval compares scores in float32. So the order is settled here, in float64,
    and the providers see ranks without ties.

    Args:
        run: `query_id -> document_id -> score`, any number of documents a query.
        qrels: `query_id -> document_id -> relevance` as whole numbers, 1 and more relevant. nDCG uses them as gains.
        measures: names that ir_measures understands; default RR@10, R@10, R@100, nDCG@10.

    Returns:
        `measure -> query_id -> score` in [0, 1], keys as given in `measures`, queries in the order of `qrels`. A judged
        query that is missing from the run, or has an empty ranking, scores 0 and is kept; so does a query whose
        judgements name no relevant document.

    Raises:
        ValueError: for a query in the run without judgement, a NaN score, a relevance that is no whole number,
            empty qrels, or a measure that ir_measures does not know.
    """
    parsed = {name: _parse(name) for name in measures}
    _check_qrels(qrels)
    unjudged = [query_id for query_id in run if query_id not in qrels]
    if unjudged:
        raise ValueError(
            f"Every query of the run needs a judgement, got {len(unjudged)} without, the first {unjudged[0]!r}. "
            "Take them out of the run or add them to the qrels."
        )
    ranked = {query_id: _scores_without_ties(query_id, scores) for query_id, scores in run.items() if scores}
    result: PerQuery = {name: dict.fromkeys(qrels, 0.0) for name in parsed}
    if not ranked or not parsed:
        return result
    by_measure = {(metric.measure, metric.query_id): metric.value for metric in _calculate(parsed, qrels, ranked)}
    for name, measure in parsed.items():
        for query_id in ranked:
            result[name][query_id] = float(by_measure[measure, query_id])
    return result


def _parse(name: str) -> Measure:
    try:
        return ir_measures.parse_measure(name)
    except (NameError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{name!r} is no measure that ir_measures knows. Write it as RR@10, R@100, nDCG@10."
        ) from error


def _check_qrels(qrels: Qrels) -> None:
    if not qrels:
        raise ValueError("qrels need at least one judged query, got none. Check the file that they were read from.")
    for query_id, judgements in qrels.items():
        if not judgements:
            raise ValueError(
                f"Query {query_id!r} has no judgement. Judge a document of it or take it out of the qrels."
            )
        for document_id, relevance in judgements.items():
            if not isinstance(relevance, Integral):
                raise ValueError(
                    f"Relevance must be a whole number, got {relevance!r} for query {query_id!r}, document "
                    f"{document_id!r}. Use 1 for relevant and 0 for not."
                )


def _scores_without_ties(query_id: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Replace scores by descending ranks: score first, then document id, both descending."""
    for document_id, score in scores.items():
        if math.isnan(score):
            raise ValueError(
                f"Query {query_id!r} has a NaN score for document {document_id!r}; NaN has no rank. "
                "Look for an empty or fully masked text in what was encoded."
            )
    ordered = sorted(scores, key=lambda document_id: (scores[document_id], document_id))
    return {document_id: float(rank) for rank, document_id in enumerate(ordered, start=1)}


def _calculate(parsed: Mapping[str, Measure], qrels: Qrels, ranked: Run) -> list[ir_measures.Metric]:
    """Copy into plain dicts of plain numbers, the only kind that trec_eval's C code takes."""
    plain_qrels = {
        query_id: {document_id: int(relevance) for document_id, relevance in qrels[query_id].items()}
        for query_id in ranked
    }
    return list(ir_measures.iter_calc(set(parsed.values()), plain_qrels, ranked))


MEASURE = "RR@10"
