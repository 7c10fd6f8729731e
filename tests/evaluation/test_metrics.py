"""Ranking metrics: hand-computed examples, plain loops, and the traps of ties and missing queries."""

import math
import random

import numpy as np
import pytest

from drdecr.evaluation.metrics import DEFAULT_MEASURES, display_name, per_query_scores

ALL = (*DEFAULT_MEASURES, "R@1", "R@2", "RR@2")


def by_hand(ranking: list[str], relevance: dict[str, int], measure: str) -> float:
    """The formulas, in plain loops over one ranking."""
    name, cutoff = measure.split("@")
    top = ranking[: int(cutoff)]
    if name == "RR":
        return next((1 / rank for rank, document in enumerate(top, 1) if relevance.get(document, 0) > 0), 0.0)
    if name == "R":
        relevant = {document for document, gain in relevance.items() if gain > 0}
        return len(relevant & set(top)) / len(relevant)
    gains = [relevance.get(document, 0) for document in top]
    ideal = sorted(relevance.values(), reverse=True)[: int(cutoff)]
    return dcg(gains) / dcg(ideal)


def dcg(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def test_one_ranking_scores_as_computed_by_hand():
    run = {"q": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}}
    qrels = {"q": {"b": 1, "d": 1, "z": 1}}
    scores = per_query_scores(run, qrels, ALL)
    assert scores["RR@10"]["q"] == pytest.approx(1 / 2)
    assert scores["R@1"]["q"] == 0.0
    assert scores["R@2"]["q"] == pytest.approx(1 / 3)
    assert scores["R@100"]["q"] == pytest.approx(2 / 3)
    expected = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    assert scores["nDCG@10"]["q"] == pytest.approx(expected)


def test_random_runs_agree_with_plain_loops():
    generator = np.random.default_rng(7)
    documents = [f"d{i:02d}" for i in range(40)]
    run, qrels = {}, {}
    for query in range(30):
        # few distinct scores, so that ties are everywhere
        run[f"q{query}"] = {document: float(generator.integers(0, 6)) for document in documents}
        chosen = generator.choice(documents, size=4, replace=False)
        qrels[f"q{query}"] = {document: int(generator.integers(1, 4)) for document in chosen}
    scores = per_query_scores(run, qrels, ALL)
    for query_id, its_scores in run.items():
        ranking = sorted(sorted(documents, reverse=True), key=lambda document: -its_scores[document])
        for measure in ALL:
            assert scores[measure][query_id] == pytest.approx(by_hand(ranking, qrels[query_id], measure)), measure


def test_ties_go_to_the_higher_document_id_in_every_measure():
    run = {"q": {"d1": 1.0, "d3": 1.0, "d2": 1.0}}
    scores = per_query_scores(run, {"q": {"d2": 1}}, ("RR@10", "RR", "R@1", "R@2", "nDCG@10"))
    assert scores["RR@10"]["q"] == scores["RR"]["q"] == pytest.approx(1 / 2)  # d3, d2, d1
    assert scores["R@1"]["q"] == 0.0
    assert scores["R@2"]["q"] == 1.0
    assert scores["nDCG@10"]["q"] == pytest.approx(1 / math.log2(3))


def test_scores_that_are_equal_in_float32_only_are_no_tie():
    close = {"d1": 20.0 + 1e-9, "d2": 20.0}
    assert np.float32(close["d1"]) == np.float32(close["d2"])
    scores = per_query_scores({"q": close}, {"q": {"d1": 1}}, ("RR@10", "R@1", "nDCG@10"))
    assert [scores[measure]["q"] for measure in scores] == [1.0, 1.0, 1.0]


def test_queries_missing_from_the_run_score_zero_and_are_kept():
    qrels = {"missing": {"a": 1}, "empty": {"a": 1}, "found": {"a": 1}}
    scores = per_query_scores({"found": {"a": 1.0}, "empty": {}}, qrels)
    assert list(scores) == list(DEFAULT_MEASURES)
    for by_query in scores.values():
        assert by_query == {"missing": 0.0, "empty": 0.0, "found": 1.0}


def test_a_run_without_any_ranking_scores_zero_everywhere():
    assert per_query_scores({}, {"q": {"a": 1}}, ("RR@10",)) == {"RR@10": {"q": 0.0}}


def test_a_query_without_relevant_document_scores_zero():
    scores = per_query_scores({"q": {"a": 1.0}, "p": {"a": 1.0}}, {"q": {"a": 0}, "p": {"a": 1}})
    for by_query in scores.values():
        assert by_query == {"q": 0.0, "p": 1.0}


def test_grades_below_zero_count_as_zero_also_where_a_query_has_no_other():
    """TREC's junk pages have -2; with such grades alone trec_eval writes in front of its table of counts."""
    chance = random.Random(1)
    run, qrels = {}, {}
    for query in map(str, range(50)):
        junk = int(query) % 10 == 3
        qrels[query] = {f"d{n}": -2 if junk else chance.choice([-2, 0, 0, 1, 2, 3.0]) for n in range(12)}
        run[query] = {f"d{n}": float(10 - place) for place, n in enumerate(chance.sample(range(20), 10))}
    plain = {query: {name: int(max(grade, 0)) for name, grade in row.items()} for query, row in qrels.items()}
    measures = ["RR@10", "nDCG@10", "R@10", "AP"]
    scores = per_query_scores(run, qrels, measures)
    assert scores == per_query_scores(run, plain, measures)
    assert {scores[measure]["3"] for measure in measures} == {0.0}


def test_any_text_is_an_id():
    ids = ["a\0x", "a\0y", "b c", "\ud83d", "名 前"]
    run = {query: {name: float(place) for place, name in enumerate(ids)} for query in ids}
    scores = per_query_scores(run, {query: {ids[3]: 1} for query in ids}, ("RR@10", "R@1", "R@2"))
    assert scores == {
        measure: dict.fromkeys(ids, value) for measure, value in {"RR@10": 0.5, "R@1": 0.0, "R@2": 1.0}.items()
    }


def test_measures_are_those_of_the_library_by_name():
    scores = per_query_scores({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 2, "c": 1}}, ("P@2", "AP(rel=2)", "Success@1"))
    assert scores == {"P@2": {"q": 0.5}, "AP(rel=2)": {"q": 0.5}, "Success@1": {"q": 0.0}}


def test_numpy_numbers_are_taken():
    scores = per_query_scores({"q": {"a": np.float32(1.5)}}, {"q": {"a": np.int64(1)}}, ("RR@10",))
    assert scores == {"RR@10": {"q": 1.0}}
    assert type(scores["RR@10"]["q"]) is float


def test_input_is_not_changed():
    run, qrels = {"q": {"b": 1.0, "a": 1.0}}, {"q": {"a": 1}}
    per_query_scores(run, qrels)
    assert list(run["q"].items()) == [("b", 1.0), ("a", 1.0)]
    assert qrels == {"q": {"a": 1}}


@pytest.mark.parametrize(
    ("run", "qrels", "measures", "message"),
    [
        ({"q": {"a": 1.0}, "odd": {"a": 1.0}}, {"q": {"a": 1}}, ("RR@10",), "odd"),
        (
            {"q": {"a": 1.0}, "bad": {"a": math.nan}},
            {"q": {"a": 1}, "bad": {"a": 1}},
            ("RR@10",),
            "'bad' has the score nan",
        ),
        ({"q": {"a": math.inf}}, {"q": {"a": 1}}, ("RR@10",), "'q' has the score inf for document 'a'"),
        ({"q": {"a": "high"}}, {"q": {"a": 1}}, ("RR@10",), "the score 'high'"),
        ({"q": {1: 1.0}}, {"q": {"a": 1}}, ("RR@10",), "expected ids that are text, got 1. Write '1'"),
        ({"q": {"a": 1.0}}, {"q": {1: 1}}, ("RR@10",), "expected ids that are text, got 1. Write '1'"),
        ({"q": {"a": 1.0}}, {"q": {"a": 0.5}}, ("RR@10",), "'q', document 'a': expected a whole number"),
        ({"q": {"a": 1.0}}, {"q": {"a": math.nan}}, ("RR@10",), "whole number"),
        ({"q": {"a": 1.0}}, {"q": {"a": 10**400}}, ("RR@10",), "relevance of at most 1,000,000"),
        ({"q": {"a": 1.0}}, {"q": {}}, ("RR@10",), "no judgement"),
        ({}, {}, ("RR@10",), "at least one judged query"),
        *(
            ({"q": {"a": 1.0}}, {"q": {"a": 1}}, (name,), "is no measure known here")
            for name in (
                "Sharpness@10",
                "RR@",
                "RR@0",
                "R@0",
                "R@-1",
                "nDCG@1.5",
                "R",
                "R@99999999999",
                "ERR@10",
                "RR@１",
            )
        ),
    ],
)
def test_bad_input_is_refused_with_its_name(run, qrels, measures, message):
    with pytest.raises(ValueError, match=message):
        per_query_scores(run, qrels, measures)


def test_people_read_mrr_and_files_say_rr():
    assert display_name("RR@10") == "MRR@10"
    assert display_name("RR") == "MRR"
    assert display_name("R@2kt") == "R@2kt"
    assert display_name("nDCG@10") == "nDCG@10"
