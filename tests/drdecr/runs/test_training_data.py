"""Every row that a set brings is trained on, or counted under the reason for which it is not."""

import logging

import pytest
from datasets import Dataset

from drdecr.data.prepare.cleaning import drop_repeated
from drdecr.data.sources import read_candidates
from drdecr.data.teacher.mine import MiningSettings, mine
from drdecr.runs.training_data import log_row_counts, prepare_sets


def test_all_rows_that_mining_writes_are_trained_on(recipe_of, data, tmp_path):
    pytest.importorskip("bm25s")
    mine(MiningSettings(questions=[data["train"]], num_negatives=4), tmp_path / "mined")
    entry = {"format": "hub_candidates", "name": str(tmp_path / "mined"), "config": "mined_candidates"}
    mined = read_candidates(entry).rows
    assert len(mined) > 2 * len(set(mined["query"]))  # several rows a question, which differ by their negatives
    sets = prepare_sets(recipe_of("a", stage="relevance", data={"scored_candidates": [entry]}), None, seed=0)
    assert sets.rows["scored_candidates"].to_list() == mined.to_list()
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
