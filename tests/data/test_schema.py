"""The schema: what a set must hold, and errors that say where it does not."""

from typing import Any

import pytest
from datasets import Dataset

from drdecr.data.schema import QuestionSet, check_rows, parallel_set, qualified

ROW = {"query_id": "q1", "query": "Missä?", "language": "fi", "document_ids": ["d1"]}
PASSAGES = {"d1": "A bridge.", "d2": "A tower."}


def questions(*changes: dict[str, Any]) -> Dataset:
    columns = dict.fromkeys([*ROW, *(name for change in changes for name in change)])  # from_list takes the first row's
    return Dataset.from_list([{**columns, **ROW, **change} for change in changes])


def test_a_set_gives_relevance_judgements_and_languages_by_question():
    rows = questions({}, {"query_id": "q2", "language": "ko", "document_ids": ["d2", "d1"]})
    found = QuestionSet("set", rows, PASSAGES)
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1, "d1": 1}}
    assert found.languages == {"q1": "fi", "q2": "ko"}
    assert "A bridge." not in repr(found)


def test_grades_and_answers_stand_beside_plain_labels():
    graded = {"query_id": "q2", "document_ids": ["d2"], "relevance": [3], "irrelevant_ids": ["d1"]}
    answered = {"query_id": "q3", "document_ids": [], "answers": ["Rome", "no"]}
    found = QuestionSet("set", questions({"answer": "Paris"}, graded, answered), PASSAGES)
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d2": 3, "d1": 0}}
    assert found.answers == {"q1": ["Paris"], "q3": ["Rome", "no"]}
    assert set(found.languages) == {"q1", "q2", "q3"}


def test_grades_and_answers_survive_a_parquet_file(tmp_path):
    graded = {"relevance": [2], "irrelevant_ids": ["d2"], "answers": ["Rome"]}
    found = QuestionSet("set", questions(graded), PASSAGES)
    found.questions.to_parquet(tmp_path / "questions.parquet")
    again = QuestionSet("set", Dataset.from_parquet(str(tmp_path / "questions.parquet"), cache_dir=tmp_path), PASSAGES)
    assert (again.qrels, again.answers) == ({"q1": {"d1": 2, "d2": 0}}, {"q1": ["Rome"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": " "}, r"set, row 2: expected a text in 'query', got ' '"),
        ({"query": None}, r"set, row 2: expected a text in 'query', got None"),
        ({"language": ""}, r"set, row 2: expected a text in 'language'"),
        ({"query_id": "q1"}, r"set: query_id 'q1' stands twice"),
        ({"document_ids": ["d9"]}, r"set: question 'q2' names passage 'd9', which is not among the 2"),
        ({"document_ids": []}, r"set: question 'q2' names no passage"),
        ({"document_ids": None}, r"set: question 'q2' names no passage"),
        ({"document_ids": [], "answers": []}, r"set: question 'q2' names no passage"),
        ({"answers": "Paris"}, r"set: question 'q2': expected a list of `answers`, got 'Paris'"),
        ({"relevance": [1, 2]}, r"set: question 'q2' needs a relevance from 1 up for each of 1 passages, got \[1, 2\]"),
        ({"relevance": [0]}, r"set: question 'q2' needs a relevance from 1 up .* got \[0\]"),
        ({"irrelevant_ids": ["d9"]}, r"set: question 'q2' names passage 'd9', which is not among the 2"),
        ({"irrelevant_ids": ["d1"]}, r"set: question 'q2' has passage 'd1' as relevant and irrelevant"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        QuestionSet("set", questions({}, {"query_id": "q2", **changes}), PASSAGES)


@pytest.mark.parametrize("text", ["", " \n", None])
def test_an_empty_passage_is_named(text: str | None):
    with pytest.raises(ValueError, match="set: passage 'd3' is empty"):
        QuestionSet("set", questions({}), {**PASSAGES, "d3": text})


def test_a_missing_column_is_named_with_those_that_are_there():
    with pytest.raises(
        ValueError, match=r"set: expected the columns query_id, .* got query_id, query, language; missing document_ids"
    ):
        QuestionSet("set", questions({}).remove_columns("document_ids"), PASSAGES)


def test_a_parallel_set_keeps_its_three_columns_and_order():
    rows = [{"query": "yksi", "english": "one", "language": "fi", "more": 1}]
    rows.append({"language": "ko", "english": "two", "query": "둘"})
    found = parallel_set(rows, "pairs")
    assert found.column_names == ["query", "english", "language"]
    assert found["query"][:] == ["yksi", "둘"]


def test_a_bad_parallel_set_is_named():
    good = {"query": "yksi", "english": "one", "language": "fi"}
    with pytest.raises(ValueError, match="pairs: expected rows, got none"):
        parallel_set([], "pairs")
    with pytest.raises(ValueError, match="pairs: expected the columns query, english, language; missing english"):
        parallel_set([{"query": "yksi", "en": "one", "language": "fi"}], "pairs")
    with pytest.raises(ValueError, match="pairs, row 2: expected a text in 'english', got ''"):
        parallel_set([good, {**good, "english": ""}], "pairs")


def test_only_asked_columns_are_checked():
    check_rows(questions({"english": ""}), ("query", "language"), "set")
    with pytest.raises(ValueError, match="'english'"):
        check_rows(questions({"english": ""}), ("query", "english"), "set")


def test_qualified_ids_differ_across_sets():
    assert qualified("a", 1) != qualified("b", 1)
