"""Filters read payloads once for all their keys, and keep no more of them than they say."""

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval.stored import passage_table


@pytest.fixture
def index(tmp_path):
    with StoredIndex.create(tmp_path / "index", dim=8) as index:
        payloads = [{f"k{n % 40}": n, "odd": n % 2, "tags": [n, [n]], "map": {"a": n % 3}} for n in range(80)]
        index.add([f"p{n}" for n in range(80)], [torch.ones(1, 8) for _ in range(80)], payloads)
        index.commit()
    return StoredIndex.open(tmp_path / "index")


@pytest.fixture
def parsed(monkeypatch):
    """Return a list that grows with each payload that is read."""
    payloads, real = [], passage_table.PassageTable._parse
    monkeypatch.setattr(
        passage_table.PassageTable, "_parse", lambda self, cell: payloads.append(cell) or real(self, cell)
    )
    return payloads


def found(index, where):
    hits = index.search([torch.ones(1, 8)], top_k=80, where=where)
    return sorted(int(name[1:]) for name in hits.document_ids[0])


def test_payloads_are_read_once_for_all_keys_and_never_for_unknown_ones(index, parsed):
    assert found(index, {"odd": 1, "k1": [1, 41], "k2": 5}) == []
    assert len(parsed) == 80
    for _ in range(3):
        assert found(index, {"k1": [1, 41]}) == [1, 41]
        assert found(index, {f"nothing{n}": 0 for n in range(32)}) == []
    assert len(parsed) == 80


def test_the_columns_that_stay_are_the_last_ones(index, parsed):
    for n in range(40):
        assert found(index, {f"k{n}": n}) == [n]
    [segment] = index.segments
    assert len(segment.table._columns) == passage_table.MOST_COLUMNS
    assert "k39" in segment.table._columns
    assert "k0" not in segment.table._columns
    assert found(index, {"k0": [0, 40]}) == [0, 40]


def test_lists_and_mappings_are_values_too(index):
    assert found(index, {"tags": [3, 7]}) == [3, 7]
    assert found(index, {"tags": [[3]]}) == [3]
    assert found(index, {"map": {"a": 1}}) == list(range(1, 80, 3))
    assert found(index, {"odd": [True, 1.0]}) == list(range(1, 80, 2))
    assert found(index, {"odd": True}) == []
