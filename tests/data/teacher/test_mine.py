"""The phases of mining: which questions stay, what the teacher reads, and what is dealt out."""

import pytest
from datasets import Dataset

from drdecr.data.passages import PassageStore
from drdecr.data.prepare.leakage import HeldOutPassages
from drdecr.data.schema import QuestionSet
from drdecr.data.shards import read_shards, sum_counts
from drdecr.data.teacher import mine as mining
from drdecr.data.teacher import rankings
from drdecr.data.teacher.annotate import referenced_passages
from drdecr.data.teacher.bm25 import Bm25Index
from drdecr.data.teacher.mine import LEAKS, choose_candidates, count_leaks, ranked_passages, select_questions
from drdecr.data.teacher.negatives import NegativeSettings
from drdecr.data.teacher.rankings import bm25_ranker, rank_in_shards

PASSAGES = {f"d{number}": f"passage {number} tells of the town {'abcdefghij'[number]}" for number in range(10)}


@pytest.fixture
def passages() -> PassageStore:
    return PassageStore((("x", line, *pair) for line, pair in enumerate(PASSAGES.items())), "x")


def row(number: int, query: str, english: str | None = None, **more) -> dict:
    own = {"query_id": f"q{number}", "query": query, "language": "xx", "document_ids": [f"d{number}"]}
    return {**own, **({} if english is None else {"english": english}), **more}


def questions_of(*rows: dict, name: str = "own") -> QuestionSet:
    return QuestionSet(name, Dataset.from_list(list(rows)), PASSAGES)


def test_questions_that_are_held_out_in_either_language_or_repeated_go_and_are_counted():
    rows = [
        row(0, "Kuka?", "Who?"),
        row(1, "Mika on KAUPUNKI?", "What is it?"),  # held out as it stands
        row(2, "Missa?", "Where is  the town?"),  # held out in English
        row(3, "kuka?", "who?"),  # repeats the first
        row(4, "Kuka?", "Whom?"),  # does not
    ]
    again = questions_of(row(5, "KUKA?", "WHO?"), row(6, "Milloin?", "When?"), name="more")
    held_out = ("mika on kaupunki?", "where is the town?")
    questions, dropped = select_questions([questions_of(*rows), again], held_out)
    assert questions["query_id"][:] == ["q0", "q4", "q6"]
    assert dropped == 4
    # What any of its rows names answers the question, and is no negative of it.
    assert questions["document_ids"][:] == [["d0", "d3", "d5"], ["d4"], ["d6"]]
    with pytest.raises(ValueError, match="all of them stand in a held-out set"):
        select_questions([questions_of(rows[1])], held_out)


def test_english_questions_are_their_own_translation_and_one_answer_is_a_list_of_one():
    english = questions_of(row(0, "Who?", language="en", answer="Ann"), row(1, "Where?", language="en", answer=""))
    several = questions_of(row(2, "Kuka?", "Whom?", answers=["Bo", "Ed"]), name="several")
    questions, _ = select_questions([english, several], [])
    assert [(one["english"], one["answers"]) for one in questions] == [
        ("Who?", ["Ann"]),
        ("Where?", []),
        ("Whom?", ["Bo", "Ed"]),
    ]
    with pytest.raises(ValueError, match="own, row 2: expected `english` beside a question in 'xx', got none"):
        select_questions([questions_of(row(0, "Kuka?", "Who?"), row(1, "Mika?"))], [])


def test_labelled_passages_stand_behind_a_ranking_that_lacks_them():
    pytest.importorskip("bm25s")
    texts = {"d0": "lighthouse keeper", "d1": "lighthouse keeper lamp", "d2": "bread yeast"}
    pool = PassageStore((("x", line, *pair) for line, pair in enumerate(texts.items())), "x")
    rows = [row(0, "lamppu", "keeper lamp"), row(1, "majakka", "lighthouse"), row(2, "majakka?", "keeper")]
    questions, _ = select_questions([QuestionSet("own", Dataset.from_list(rows), texts)], [])
    index = Bm25Index(pool)
    deep, found = (list(bm25_ranker(index, depth)(questions)) for depth in (3, 1))
    assert [list(one) for one in found] == [["d1", "d0"], ["d0", "d1"], ["d0", "d2"]]
    assert found == [{name: scores.get(name, 0.0) for name in own} for own, scores in zip(found, deep, strict=True)]
    assert found[2]["d2"] == 0.0 < found[0]["d0"] < found[0]["d1"]


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
def ranked(tmp_path, passages, monkeypatch):
    """Five questions in shards of two, whose rankings are `d1 d3 d5` each; question n is labelled with passage n."""
    for module in (mining, rankings):
        monkeypatch.setattr(module, "QUESTIONS_PER_SHARD", 2)
    rows = [row(number, f"kysymys {number}", "question" + "!" * number) for number in range(5)]
    questions, _ = select_questions([questions_of(*rows)], [])
    shards = rank_in_shards(
        lambda part: [{"d1": 3.0, "d3": 2.0, "d5": 1.0}] * len(part), questions, passages, tmp_path / "rankings"
    )
    assert len(shards) == 3
    return questions, shards


def test_the_teacher_reads_what_was_found_or_is_labelled_and_nothing_else(ranked, passages):
    assert dict(ranked_passages(*ranked, passages)) == {
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


def rows_of(rows: Dataset) -> list[tuple[str, str, str, int]]:
    return [(one["query_id"], *one["document_ids"], one["teacher_query_tokens"]) for one in rows]


def test_rows_are_each_questions_own_ranking_with_the_teachers_scores(ranked, passages, tmp_path):
    shards = choose_candidates(*ranked, passages, SETTINGS, Letters(), tmp_path / "rows")
    rows = read_shards(shards)
    assert rows_of(rows) == expected_rows()
    assert sum_counts(shards)["questions read"] == 5
    for one in rows:
        assert one["teacher_scores"] == [10.0 - int(name[1:]) for name in one["document_ids"]]


def test_passages_go_along_that_rows_name_and_those_that_answer_tests_are_counted(ranked, passages, tmp_path):
    rows = read_shards(choose_candidates(*ranked, passages, SETTINGS, Letters(), tmp_path / "rows"))
    named = referenced_passages(rows, passages)
    names = sorted({name for number, positive, other, _ in expected_rows() for name in (positive, other)})
    assert dict(named) == {name: PASSAGES[name] for name in names}
    held_out = HeldOutPassages([PASSAGES["d3"].upper(), PASSAGES["d9"]])
    assert count_leaks(named, held_out) == {LEAKS["held_out"]: 1, LEAKS["overlap"]: 0}
    assert count_leaks(named, HeldOutPassages([])) == {LEAKS["held_out"]: 0, LEAKS["overlap"]: 0}
