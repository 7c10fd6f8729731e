"""The phases of mining: which questions are kept, what the teacher reads, what is dealt out, and where a killed call goes on."""

import pytest
from datasets import Dataset

from drdecr.data.passages import PassageStore
from drdecr.data.prepare.leakage import HeldOutPassages
from drdecr.data.schema import QuestionSet
from drdecr.data.step_work import StepWork
from drdecr.data.teacher import mined_rows
from drdecr.data.teacher.mined_rows import (
    DROPPED,
    LEAKS,
    build_candidate_rows,
    passages_in,
    referenced_passages,
    select_questions,
)
from drdecr.data.teacher.negatives import NegativeSettings
from drdecr.data.teacher.rankings import _RANKED, _write_ranked, bm25_rankings

PASSAGES = {f"d{number}": f"passage {number} tells of the town {'abcdefghij'[number]}" for number in range(10)}


@pytest.fixture
def passages() -> PassageStore:
    return PassageStore((("x", line, *pair) for line, pair in enumerate(PASSAGES.items())), "x")


@pytest.fixture
def work(tmp_path) -> StepWork:
    return StepWork(tmp_path / "mined", {}, {})


def row(number: int, query: str, english: str | None = None, **more) -> dict:
    own = {"query_id": f"q{number}", "query": query, "language": "xx", "document_ids": [f"d{number}"]}
    return {**own, **({} if english is None else {"english": english}), **more}


def questions_of(*rows: dict, name: str = "own") -> QuestionSet:
    return QuestionSet(name, Dataset.from_list(list(rows)), PASSAGES)


def asked(work: StepWork, *sets: QuestionSet, held_out: tuple[str, ...] = ()) -> list[dict]:
    return [found for table in select_questions(work, sets, held_out).tables() for found in table.to_pylist()]


def test_questions_that_are_held_out_in_either_language_or_repeated_go_and_are_counted(work):
    rows = [
        row(0, "Kuka?", "Who?"),
        row(1, "Mika on KAUPUNKI?", "What is it?"),  # held out as it stands
        row(2, "Missa?", "Where is  the town?"),  # held out in English
        row(3, "kuka?", "who?"),  # repeats the first
        row(4, "Kuka?", "Whom?"),  # does not
    ]
    again = questions_of(row(5, "KUKA?", "WHO?"), row(6, "Milloin?", "When?"), name="more")
    held_out = ("mika on kaupunki?", "where is the town?")
    assert [one["query_id"] for one in asked(work, questions_of(*rows), again, held_out=held_out)] == ["q0", "q4", "q6"]
    assert work.parts("questions", mined_rows._ASKED).counts() == {DROPPED: 4}


def test_english_questions_are_their_own_translation_and_one_answer_is_a_list_of_one(work):
    english = questions_of(row(0, "Who?", language="en", answer="Ann"), row(1, "Where?", language="en", answer=""))
    several = questions_of(row(2, "Kuka?", "Whom?", answers=["Bo", "Ed"]), name="several")
    found = asked(work, english, several)
    assert [(one["english"], one["answers"]) for one in found] == [
        ("Who?", ["Ann"]),
        ("Where?", []),
        ("Whom?", ["Bo", "Ed"]),
    ]
    with pytest.raises(ValueError, match="own: expected a column `english`, got none"):
        asked(StepWork(work.output.with_name("other"), {}, {}), questions_of(row(0, "Kuka?")))


def test_labelled_passages_stand_behind_a_ranking_that_lacks_them(work):
    pytest.importorskip("bm25s")
    texts = {"d0": "lighthouse keeper", "d1": "lighthouse keeper lamp", "d2": "bread yeast"}
    pool = PassageStore((("x", line, *pair) for line, pair in enumerate(texts.items())), "x")
    rows = [row(0, "lamppu", "keeper lamp"), row(1, "majakka", "lighthouse"), row(2, "majakka?", "keeper")]
    questions = select_questions(work, [QuestionSet("own", Dataset.from_list(rows), texts)], [])
    deep = bm25_rankings(StepWork(work.output.with_name("deep"), {}, {}), questions, pool, 3)
    found = bm25_rankings(work, questions, pool, 1)
    deep, found = (
        [dict(zip(one["rows"], one["scores"], strict=True)) for table in part.tables() for one in table.to_pylist()]
        for part in (deep, found)
    )
    assert [list(one) for one in found] == [[1, 0], [0, 1], [0, 2]]
    assert found == [{row: scores.get(row, 0.0) for row in own} for own, scores in zip(found, deep, strict=True)]
    assert found[2][2] == 0.0 < found[0][0] < found[0][1]


class Letters:
    """Scores a passage by the number in its id, and remembers what it was asked."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def score(self, rows) -> list[list[float]]:
        self.read += [list(one["document_ids"]) for one in rows]
        return [[10.0 - int(name[1:]) for name in one["document_ids"]] for one in rows]

    def query_tokens(self, rows) -> list[int]:
        return [len(one["english"]) for one in rows]


@pytest.fixture
def ranked(work, passages, monkeypatch):
    """Five questions in parts of two, whose rankings are `d1 d3 d5` each; question n is labelled with passage n."""
    monkeypatch.setattr(mined_rows, "QUESTIONS_PER_PART", 2)
    rows = [row(number, f"kysymys {number}", "question" + "!" * number) for number in range(5)]
    questions = select_questions(work, [questions_of(*rows)], [])
    rankings = work.parts("rankings", _RANKED)
    for batch in mined_rows.questions_by_part(questions):
        _write_ranked(rankings, [{"d1": 3.0, "d3": 2.0, "d5": 1.0}] * len(batch), passages)
    rankings.complete()
    return questions, rankings


def test_the_teacher_reads_what_was_found_or_is_labelled_and_nothing_else(ranked, passages):
    assert dict(passages_in(*ranked, passages)) == {
        f"d{number}": PASSAGES[f"d{number}"] for number in (0, 1, 2, 3, 4, 5)
    }


SETTINGS = NegativeSettings(num_candidates=2, num_negatives=2, max_share=1.0)


def expected_rows() -> list[tuple[str, str, str, int]]:
    """Each positive with each ranked passage of a higher number, which the teacher scores lower."""
    tokens = {number: len("question") + number for number in range(5)}
    pairs = [(number, other) for number in range(5) for other in (1, 3, 5) if other > number]
    kept = [
        (number, other) for number, other in pairs if [p for p in pairs if p[0] == number].index((number, other)) < 2
    ]
    return [(f"q{number}", f"d{number}", f"d{other}", tokens[number]) for number, other in kept]


def rows_of(parts) -> list[tuple[str, str, str, int]]:
    rows = [one for table in parts.tables() for one in table.to_pylist()]
    return [(one["query_id"], *one["document_ids"], one["teacher_query_tokens"]) for one in rows]


def test_rows_are_each_questions_own_ranking_with_the_teachers_scores(work, ranked, passages):
    rows = build_candidate_rows(work, *ranked, passages, SETTINGS, Letters())
    assert rows_of(rows) == expected_rows()
    assert rows.counts()["questions read"] == 5
    for table in rows.tables():
        for one in table.to_pylist():
            assert one["teacher_scores"] == [10.0 - int(name[1:]) for name in one["document_ids"]]


def test_a_killed_choice_goes_on_behind_its_last_part(work, ranked, passages, monkeypatch):
    teacher = Letters()
    score = teacher.score

    def dying(rows):
        if rows[0]["query_id"] == "q3":
            raise KeyboardInterrupt
        return score(rows)

    monkeypatch.setattr(teacher, "score", dying)
    with pytest.raises(KeyboardInterrupt):
        build_candidate_rows(work, *ranked, passages, SETTINGS, teacher)
    again = Letters()
    assert rows_of(build_candidate_rows(work, *ranked, passages, SETTINGS, again)) == expected_rows()
    assert [names[0] for names in again.read] == ["d2", "d3", "d4"]  # the first part was whole, the second begun


def test_passages_go_along_that_rows_name_and_those_that_answer_tests_are_counted(work, ranked, passages):
    rows = build_candidate_rows(work, *ranked, passages, SETTINGS, Letters())
    held_out = HeldOutPassages([PASSAGES["d3"].upper(), PASSAGES["d9"]])
    documents, counts = referenced_passages(work, rows, passages, held_out)
    found = [one for table in documents.tables() for one in table.to_pylist()]
    named = {name for number, positive, other, _ in expected_rows() for name in (positive, other)}
    assert [one["document_id"] for one in found] == sorted(named)
    assert all(one["text"] == PASSAGES[one["document_id"]] for one in found)
    assert counts == {LEAKS["held_out"]: 1, LEAKS["overlap"]: 0}
    assert referenced_passages(work, rows, passages, HeldOutPassages([]))[1] == {
        LEAKS["held_out"]: 0,
        LEAKS["overlap"]: 0,
    }
