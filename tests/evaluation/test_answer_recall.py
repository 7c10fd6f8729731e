"""Top-k accuracy by hand: words in a row, without case and marks' spelling, and no part of a word."""

import pytest

from drdecr.evaluation.answer_recall import answer_recall_at, words_of


def hit(text: str, *answers: str) -> bool:
    return answer_recall_at({"q": [text]}, {"q": list(answers)}, [1])[1]["q"] == 1.0


def test_ranks_decide_at_which_cutoff_a_question_counts():
    rankings = {"a": ["no", "Paris.", "x"], "b": ["no", "no", "no"], "c": ["in 1900"]}
    answers = {"a": ["paris"], "b": ["paris"], "c": ["1900", "yes"], "d": ["never ranked"], "e": ["yes"]}
    assert answer_recall_at(rankings, answers, [1, 2]) == {
        1: {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0},
        2: {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0},
    }


def test_answers_are_words_in_a_row_in_any_case():
    assert hit("The Eiffel Tower, Paris", "eiffel tower")
    assert not hit("The tower of Eiffel", "eiffel tower")
    assert not hit("we start", "art")  # XOR-Retrieve's raw substring would hit
    assert hit("some 50% of it", "50 %")  # and here it would miss
    assert hit("Zoe\u0308 Smith", "Zo\u00eb")  # one letter or a letter and its mark
    assert not hit("Zoe Smith", "Zo\u00eb")
    assert words_of("a_b—C3\u00a0d\u200be") == ["a", "_", "b", "—", "c3", "d", "e"]


def test_an_answer_does_not_run_over_two_passages_and_nothing_beyond_the_depth_counts():
    assert answer_recall_at({"q": ["New", "York"]}, {"q": ["New York"]}, [2])[2]["q"] == 0.0
    assert answer_recall_at({"q": ["no", "no", "Paris"]}, {"q": ["Paris"]}, [2])[2]["q"] == 0.0


def test_what_cannot_be_looked_for_is_refused():
    with pytest.raises(ValueError, match="An empty answer is found in every text"):
        answer_recall_at({}, {"q": [" "]}, [1])
    with pytest.raises(ValueError, match="at least 1"):
        answer_recall_at({}, {"q": ["x"]}, [0])
