"""Ranks and failures of a set of four questions, read off by eye."""

import pytest
from datasets import Dataset

from drdecr.data.schema import QuestionSet
from drdecr.evaluation.report import failures as module
from drdecr.evaluation.report.failures import collect_failures, first_ranks, worst_of_each_language

PASSAGES = {"p1": "Alpha. Ann built it.", "p2": "Beta. " + "word " * 200, "p3": "Gamma. In 1900."}
RUN = {
    "q1": {"p1": 3.0, "p2": 2.0},
    "q2": {"p1": 3.0, "p2": 2.0, "p3": 1.0},
    "q3": {"p1": 2.0, "p2": 2.0},
    "q4": {"p1": 1.0},
}


@pytest.fixture
def labelled() -> QuestionSet:
    rows = [
        {"query_id": "q1", "query": "من بناه؟", "english": "who built it", "language": "ar", "document_ids": ["p1"]},
        {"query_id": "q2", "query": "milloin", "english": "when", "language": "fi", "document_ids": ["p3"]},
        {"query_id": "q3", "query": "mitä", "english": "what", "language": "fi", "document_ids": ["p1"]},
        {"query_id": "q4", "query": "what", "english": "what", "language": "en", "document_ids": ["p2"]},
    ]
    return QuestionSet("test", Dataset.from_list(rows), PASSAGES)


def test_ranks_are_those_of_the_first_right_passage(labelled):
    # q3: equal scores, and the higher id goes first, as in the metrics.
    assert first_ranks(labelled, RUN, depth=10) == {"q1": 1, "q2": 3, "q3": 2, "q4": None}
    assert first_ranks(labelled, RUN, depth=2)["q2"] is None
    assert first_ranks(labelled, {}, depth=2) == dict.fromkeys(RUN)


def test_a_passage_with_an_answer_is_right_where_none_is_labelled():
    rows = [
        {"query_id": "a", "query": "wer", "language": "de", "document_ids": [], "answers": ["Ann"]},
        {"query_id": "b", "query": "ob", "language": "de", "document_ids": [], "answers": ["yes"]},
    ]
    found = QuestionSet("answers", Dataset.from_list(rows), PASSAGES)
    run = {"a": {"p2": 2.0, "p1": 1.0}, "b": {"p1": 1.0}}
    assert first_ranks(found, run, depth=10) == {"a": 2}  # nothing can be right for yes and no
    (failure,) = collect_failures(found, run, {"a": 2})
    assert [shown.text for shown in failure.gold] == ["Ann"]
    assert [shown.is_right for shown in failure.retrieved] == [False, True]


def test_a_failure_holds_what_is_right_and_what_was_found(labelled):
    ranks = first_ranks(labelled, RUN, depth=10)
    found = {one.query_id: one for one in collect_failures(labelled, RUN, ranks, {"q2": 1, "q3": None, "q4": 2})}
    assert list(found) == ["q2", "q3", "q4"]
    assert (found["q2"].rank, found["q2"].baseline_rank) == (3, 1)
    assert [(one.document_id, one.is_right, one.score) for one in found["q2"].gold] == [("p3", True, 1.0)]
    assert [(one.document_id, one.is_right) for one in found["q2"].retrieved] == [
        ("p1", False),
        ("p2", False),
        ("p3", True),
    ]
    assert found["q4"].gold[0].score is None  # it was not found
    assert found["q4"].english is None  # the question is English itself
    assert found["q4"].gold[0].text.endswith("word …")
    assert len(found["q4"].gold[0].text) <= module.SHOWN_CHARACTERS + 2


def test_failures_are_chosen_evenly_over_languages_and_lost_ones_first(labelled):
    ranks = first_ranks(labelled, RUN, depth=10)
    found = collect_failures(labelled, RUN, ranks, {"q2": 5, "q3": 1, "q4": 2})
    assert [one.query_id for one in worst_of_each_language(found)] == ["q4", "q3", "q2"]  # en, fi, fi
    assert [one.query_id for one in worst_of_each_language(found, limit=2)] == ["q4", "q3"]
