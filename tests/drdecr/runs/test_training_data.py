"""Every row that a set brings is trained on, or counted under the reason for which it is not."""

import json
import logging

import pytest
from datasets import Dataset

from drdecr.data.mixture import split_dev
from drdecr.data.prepare.cleaning import drop_repeated, log_row_counts
from drdecr.data.sources import read_candidates
from drdecr.data.teacher.candidates import given_candidates
from drdecr.data.teacher.mine import MiningSettings, mine
from drdecr.runs.recipe import check_scorer
from drdecr.runs.training_data import prepare_sets


def test_all_rows_that_mining_writes_are_trained_on(recipe_of, data, tmp_path):
    pytest.importorskip("bm25s")
    mine(MiningSettings(questions=[data["train"]], num_negatives=4), tmp_path / "mined")
    entry = {"format": "hub_candidates", "name": str(tmp_path / "mined"), "config": "mined_candidates"}
    mined = read_candidates(entry).rows
    assert len(mined) > 2 * len(set(mined["query"]))  # several rows a question, which differ by their negatives
    sets = prepare_sets(recipe_of("a", stage="relevance", data={"scored_candidates": [entry]}), None, seed=0)
    assert sets.rows["scored_candidates"].select_columns(mined.column_names).to_list() == mined.to_list()
    assert sets.cleaning["scored_candidates"]["kept"] == len(mined)


@pytest.mark.parametrize("column", ["document_ids", "irrelevant_ids"])
def test_rows_of_one_question_with_other_passages_are_no_repetition(column):
    row = {"query": "joki", "english": "river", "document_ids": ["a"], "irrelevant_ids": ["b"]}
    rows = Dataset.from_list([row, {**row, column: ["c"]}, {**row, "query": "JOKI!"}])
    assert drop_repeated(rows, "x").to_list() == rows.to_list()[:2]


@pytest.mark.parametrize(("num_repeated", "level"), [(2, logging.INFO), (3, logging.WARNING)])
def test_a_tenth_of_the_rows_may_go_quietly_and_no_more(num_repeated, level, caplog):
    kept = 20 - num_repeated
    counts = {"read": 20, "repeated": num_repeated, "held_out": 0, "kept": kept}
    with caplog.at_level(logging.INFO):
        log_row_counts("parallel", counts, num_trained_on=kept, num_dev=4)  # four more of them in English
    (record,) = caplog.records
    assert record.levelno == level
    said = (
        f"parallel: 20 rows read, {num_repeated} dropped (repeated), 4 added in English, 4 set apart for evaluation, "
    )
    assert record.getMessage().startswith(f"{said}{kept} trained on.")
    assert ("MORE THAN A TENTH" in record.getMessage()) == (level == logging.WARNING)


def triples_of(folder, *rows):
    """Question sets with the negatives that each row brings, over five passages."""
    passages = [
        {"document_id": f"p{n}", "text": f"the {word}"} for n, word in enumerate(["sea", "king", "city", "river", "a"])
    ]
    lines = [{"query_id": f"q{n}", "language": "xx", **row} for n, row in enumerate(rows)]
    for name, content in (("questions", lines), ("passages", passages)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    return {"format": "jsonl", "questions": str(folder / "questions.jsonl"), "passages": str(folder / "passages.jsonl")}


TRIPLES = [
    {"query": "z", "english": "sea", "document_ids": ["p0"], "irrelevant_ids": ["p1"]},
    {"query": "z", "english": "sea", "document_ids": ["p0"], "irrelevant_ids": ["p2"]},
    {
        "query": "z",
        "english": "sea",
        "document_ids": ["p3"],
        "irrelevant_ids": ["p2", "p0"],
    },  # p0 answers it, says the first
]


def test_the_negatives_that_a_set_brings_are_trained_on_and_nothing_is_mined(recipe_of, tmp_path):
    recipe = recipe_of("a", stage="contrastive", teacher=None, data={"questions": [triples_of(tmp_path, *TRIPLES)]})
    sets = prepare_sets(recipe, None, seed=0)  # no model is needed
    rows = sets.rows["questions"].to_list()
    assert [row["document_ids"] for row in rows] == [["p0", "p1"], ["p0", "p2"], ["p3", "p2"]]
    assert all(row["positive_ids"] == ["p0", "p3"] for row in rows)
    assert sets.passage_cache is None
    assert sets.cleaning["questions"]["kept"] == sets.cleaning["questions"]["read"] == 3


def test_rows_without_negatives_are_mined_or_left_out_as_the_recipe_says(recipe_of, tiny_model, tmp_path):
    bare = {"query": "b", "english": "the king", "document_ids": ["p1"]}
    entry = triples_of(tmp_path, *TRIPLES, bare)
    counted = {}
    for negatives, places in (("given", 3), (None, 4), ("mined", 4), ("both", 7)):
        data = {"questions": [entry], "num_candidates": 2, **({"negatives": negatives} if negatives else {})}
        sets = prepare_sets(recipe_of("a", stage="contrastive", teacher=None, data=data), tiny_model, seed=0)
        rows, counted[negatives] = sets.rows["questions"].to_list(), sets.cleaning["questions"]
        assert len(rows) == places
        assert len({len(row["document_ids"]) for row in rows}) == 1
        assert not any(set(row["document_ids"][1:]) & set(row["positive_ids"]) for row in rows)
    assert (counted["given"]["too_few_negatives"], counted["given"]["kept"]) == (1, 3)
    with pytest.raises(ValueError, match="negatives: expected given, mined or both, got 'gven'"):
        recipe_of("a", stage="contrastive", data={"questions": [entry], "negatives": "gven"})


def test_most_rows_set_the_number_of_given_candidates(caplog):
    rows = [
        {"query": f"q{n}", "english": f"q{n}", "document_ids": ["a"], "irrelevant_ids": list("bcdef")}
        for n in range(19)
    ]
    rows.append({"query": "few", "english": "few", "document_ids": ["a"], "irrelevant_ids": ["b"]})
    found, size = given_candidates(Dataset.from_list(rows), num_candidates=16)
    assert (len(found), size) == (19, 6)
    assert {tuple(row) for row in found["document_ids"][:]} == {tuple("abcdef")}
    assert given_candidates(Dataset.from_list(rows), num_candidates=2)[1] == 2
    with pytest.raises(ValueError, match="expected at least 2, an answer and a negative"):
        given_candidates(Dataset.from_list([{**rows[0], "irrelevant_ids": ["a"]}]), 2)


@pytest.mark.parametrize("line", [{}, {"English": "sea"}, {"english": None}, {"english": " "}])
@pytest.mark.parametrize("place", [0, 1])
def test_a_foreign_question_is_never_taken_for_its_own_english(recipe_of, tiny_model, tmp_path, line, place):
    rows = [
        {"query": "z", "english": "sea", "document_ids": ["p0"]},
        {"query": "b", "english": "king", "document_ids": ["p1"]},
    ]
    del rows[place]["english"]
    rows[place] |= line
    entry = triples_of(tmp_path, *rows)
    for stage in ("relevance", "contrastive"):  # the second mines with the English question
        with pytest.raises(
            ValueError, match=rf"questions, row {place + 1}: expected `english` beside a question in 'xx'"
        ):
            prepare_sets(
                recipe_of("a", stage=stage, data={"questions": [entry], "num_candidates": 2}), tiny_model, seed=0
            )
    rows[place] |= {"language": "en-GB", "english": None}  # a question in English is its own
    sets = prepare_sets(
        recipe_of("a", stage="relevance", data={"questions": [triples_of(tmp_path, *rows)], "num_candidates": 2}),
        tiny_model,
        seed=0,
    )
    assert sets.rows["questions"][place]["english"] == rows[place]["query"]


def test_triples_in_a_language_alone_need_no_english(recipe_of, tmp_path):
    rows = [{name: value for name, value in row.items() if name != "english"} for row in TRIPLES[:2]]
    recipe = recipe_of("a", stage="contrastive", teacher=None, data={"questions": [triples_of(tmp_path, *rows)]})
    sets = prepare_sets(recipe, None, seed=0)
    assert len(sets.rows["questions"]) == 2
    parts = split_dev(sets.rows, 1, seed=0)["questions"]
    assert sum(map(len, parts)) == 2


def test_a_student_is_not_its_own_teacher(recipe_of, data):
    with pytest.raises(ValueError, match=r"scores the candidates of questions .* the student would be its own teacher"):
        check_scorer(recipe_of("a", stage="relevance", teacher=None, data={"questions": [data["train"]]}))
    check_scorer(recipe_of("a", stage="contrastive", teacher=None, data={"questions": [data["train"]]}))
