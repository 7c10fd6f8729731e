"""Negatives: BM25 as its formula says, answers matched by words, and no answer among the negatives."""

import doctest
import math

import pytest
from datasets import Dataset

from drdecr.data.teacher import negatives as answers
from drdecr.data.teacher.negatives import NegativeSettings, has_answer, rows_with_negatives, searchable

PASSAGES = {
    "p1": "The lighthouse was built by Ann Miller in 1880.",
    "p2": "Miller built a lighthouse and a mill.",
    "p3": "A lighthouse keeper lights the lamp.",
    "p4": "Bread rises because of yeast.",
    "p5": "A mill grinds grain.",
    "p6": "Yeast is a fungus.",
}


def question(**more) -> dict:
    row = {"query_id": "1", "query": "z", "english": "who built the lighthouse", "language": "xx"}
    return {**row, "document_ids": [], "answers": [], **more}


def mined(questions: list[dict], ranking: dict[str, float], score=None, **settings):
    chosen = NegativeSettings(**settings)
    return rows_with_negatives(Dataset.from_list(questions), [ranking] * len(questions), PASSAGES, chosen, score, {})


RANKING = {name: 9.0 - place for place, name in enumerate(PASSAGES)}


def test_bm25_is_its_formula():
    bm25 = pytest.importorskip("drdecr.data.teacher.bm25")
    pytest.importorskip("bm25s")
    words = {name: text.lower().replace(".", "").split() for name, text in PASSAGES.items()}
    index = bm25.Bm25Index(PASSAGES, k1=0.9, b=0.4)
    found = list(index.search(["lighthouse miller", "grain", "nothing of this"], depth=2, also=[["p3", "p4"], [], []]))
    stop = {"the", "was", "by", "in", "and", "a", "of", "is", "because"}
    counted = {name: [word for word in own if word not in stop and len(word) > 1] for name, own in words.items()}
    mean = sum(map(len, counted.values())) / len(counted)

    def score(name: str, query: list[str]) -> float:
        total = 0.0
        for word in query:
            holding = sum(word in own for own in counted.values())
            times = counted[name].count(word)
            weight = math.log(1 + (len(counted) - holding + 0.5) / (holding + 0.5))
            total += weight * times / (times + 0.9 * (1 - 0.4 + 0.4 * len(counted[name]) / mean))
        return total

    assert list(found[0]) == ["p2", "p1", "p3", "p4"]
    for name, value in found[0].items():
        assert value == pytest.approx(score(name, ["lighthouse", "miller"]), rel=0.02)
    assert found[1] == {"p5": pytest.approx(score("p5", ["grain"]), rel=0.02)}
    assert found[2] == {}


def test_answers_are_matched_by_whole_words_whatever_their_case_and_accents():
    assert doctest.testmod(answers).failed == 0
    assert has_answer("He was born in Zürich.", ["zu\u0308rich"])
    assert has_answer("It cost $5.50 then", ["$5.50"])
    assert not has_answer("in 18801", ["1880"])
    assert not has_answer("anything", ["", "  "])
    assert searchable(["no", "NO ", "none"]) == ["none"]


def test_positives_hold_an_answer_and_negatives_do_not():
    rows, counts = mined(
        [question(answers=["Miller", "yes"])], RANKING, num_candidates=3, num_positives=2, num_negatives=4
    )
    assert rows["document_ids"][:] == [["p1", "p3", "p4"], ["p1", "p5", "p6"], ["p2", "p3", "p4"], ["p2", "p5", "p6"]]
    assert rows["teacher_scores"][0] == [9.0, 7.0, 6.0]
    assert set(rows["teacher_query_tokens"]) == {0}
    assert counts["candidates that answer"] == 2
    assert counts["rows"] == 4


def test_the_papers_triples_are_three_positives_by_a_hundred_negatives():
    passages = {f"a{number}": "the answer" for number in range(5)} | {f"n{number}": "nothing" for number in range(150)}
    ranking = {name: float(-place) for place, name in enumerate(passages)}
    rows, _ = rows_with_negatives(
        Dataset.from_list([question(answers=["answer"])]), [ranking], passages, NegativeSettings()
    )
    assert len(rows) == 300
    assert {row["document_ids"][0] for row in rows} == {"a0", "a1", "a2"}
    assert {row["document_ids"][1] for row in rows} == {f"n{number}" for number in range(100)}


def test_what_the_teacher_scores_near_the_positive_is_no_negative():
    teacher = {"p1": 10.0, "p2": 9.6, "p3": 9.4, "p4": 3.0, "p5": 9.5, "p6": 1.0}

    def score(rows):
        return [[teacher[name] for name in row["document_ids"]] for row in rows]

    labelled = [question(document_ids=["p1"])]
    rows, counts = mined(labelled, RANKING, score, num_candidates=4, num_negatives=3)
    assert rows["document_ids"][0] == ["p1", "p3", "p4", "p5"]  # 9.5 is 95 % of it
    assert rows["teacher_scores"][0] == pytest.approx([10.0, 9.4, 3.0, 9.5])
    assert counts["candidates too close to the positive"] == 1
    rows, counts = mined(labelled, RANKING, score, num_candidates=3, num_negatives=2, min_margin=5.0)
    assert rows["document_ids"][0] == ["p1", "p4", "p6"]
    # A scorer's logits may be negative: less than the positive is still less.
    below = {name: value - 20 for name, value in teacher.items()}
    rows, _ = mined(
        labelled, RANKING, lambda rows: [[below[n] for n in row["document_ids"]] for row in rows], num_candidates=3
    )
    assert rows["document_ids"][0] == ["p1", "p3", "p4"]  # -10.6 is more than 5 % below -10


def test_questions_without_a_positive_or_enough_negatives_are_counted():
    questions = [question(answers=["nobody"]), question(answers=["yes"]), question(answers=["Miller"])]
    rows, counts = mined(questions, {"p1": 2.0, "p2": 1.0}, num_candidates=2)
    assert len(rows) == 0
    assert counts["questions read"] == 3
    assert counts["questions without a positive"] == 2
    assert counts["questions with too few negatives"] == 1


def test_numbers_that_leave_no_row_are_refused():
    with pytest.raises(ValueError, match="Expected at least two candidates"):
        NegativeSettings(num_candidates=1)
    with pytest.raises(ValueError, match="as many negatives as a row has"):
        NegativeSettings(num_candidates=8, num_negatives=6)
    with pytest.raises(ValueError, match=r"max_share: expected at most 1"):
        NegativeSettings(max_share=1.2)
