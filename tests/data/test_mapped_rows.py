"""Rows that lie on disk are the rows that memory would hold, whatever stands in which batch."""

import json
import pickle

import pytest
from datasets import Dataset

from drdecr.data import passages as module
from drdecr.data.passages import mapped_rows
from drdecr.data.readers.jsonl import read_jsonl


@pytest.mark.parametrize("size", [1, 2, 100])
def test_rows_are_those_of_memory_whatever_the_batches(monkeypatch, size):
    monkeypatch.setattr(module, "BATCH", size)
    rows = [
        {"query": "a", "ids": [], "answers": None, "score": 1, "about": {"x": 1}},
        {"query": "b", "ids": ["d1", "d2"], "answers": ["yes"], "score": 2.5, "about": {"x": None}},
        {"query": "ü €", "ids": ["d3"], "score": None, "about": {"x": 3}, "more": "left out"},
    ]
    found = mapped_rows(lambda: iter(rows), list(rows[0]), "own.jsonl")
    expected = Dataset.from_list(rows)
    assert found.features == expected.features
    assert found.to_list() == expected.to_list()
    again = pickle.loads(pickle.dumps(found))
    assert again.to_list() == expected.to_list()
    same, other = (mapped_rows(lambda own=own: own, ["query"], "x")._fingerprint for own in (rows, rows[:2]))
    assert same == mapped_rows(lambda: rows, ["query"], "x")._fingerprint != other


def test_two_kinds_in_a_column_are_refused(monkeypatch):
    for size in (1, 10):
        monkeypatch.setattr(module, "BATCH", size)
        with pytest.raises(ValueError, match=r"own.jsonl: expected values of one kind in each column .*Mend the rows"):
            mapped_rows(lambda: [{"x": ["a"]}, {"x": 3}], ["x"], "own.jsonl")


def test_own_questions_may_be_judged_in_some_lines_only(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    base = {"query": "z", "language": "xx", "document_ids": ["d1"]}
    lines = [
        {"query_id": 1, **base},
        {"query_id": 2, **base, "answers": ["a"], "irrelevant_ids": [2]},
        {"query_id": 3, **base, "document_ids": [], "answers": ["b"], "note": "of this line alone"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [{"document_id": name, "text": f"text {name}"} for name in ("d1", "2")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    found = read_jsonl(str(tmp_path / "q.jsonl"), str(tmp_path / "p.jsonl"))
    assert found.questions.to_list() == [
        {"answers": None, "irrelevant_ids": None, "query_id": "1", **base},
        {"answers": ["a"], "irrelevant_ids": ["2"], "query_id": "2", **base},
        {"answers": ["b"], "irrelevant_ids": None, "query_id": "3", **base, "document_ids": []},
    ]
    assert found.questions.column_names[:3] == ["answers", "irrelevant_ids", "query_id"]
