"""Data entries that name a dataset on the Hub read what was pushed there, at the revision that they name."""

import pytest
from datasets import Dataset

from drdecr.data.sources import read_parallel, read_questions

PAIRS = [{"foreign": "joki", "english": "river"}, {"foreign": "meri", "english": "sea"}]


def test_parallel_text_is_read_by_name_and_revision(hub):
    Dataset.from_list(PAIRS).push_to_hub("alice/pairs", private=True)
    hub.api().create_tag("alice/pairs", tag="v1", repo_type="dataset")
    Dataset.from_list(PAIRS[:1]).push_to_hub("alice/pairs")
    entry = {"format": "hub", "name": "alice/pairs", "columns": {"foreign": "query"}, "language": "fi"}
    rows = read_parallel([{**entry, "revision": "v1"}])
    assert list(rows) == [{"query": row["foreign"], "english": row["english"], "language": "fi"} for row in PAIRS]
    assert list(read_parallel([entry])["query"]) == ["joki"]


def test_questions_and_their_passages_are_read_by_name(hub):
    question = {"query_id": "1", "query": "mikä joki", "language": "fi", "document_ids": ["p"], "english": "what river"}
    Dataset.from_list([question]).push_to_hub("alice/questions", "questions", split="test")
    Dataset.from_list([{"document_id": "p", "text": "a river"}]).push_to_hub("alice/questions", "passages")
    found = read_questions({"format": "hub_questions", "name": "alice/questions", "split": "test"})
    assert found.qrels == {"1": {"p": 1}}
    assert dict(found.passages) == {"p": "a river"}
    assert list(found.questions["english"]) == ["what river"]


def test_a_dataset_that_is_not_there_is_named(hub):
    with pytest.raises(FileNotFoundError, match="alice/nothing"):
        read_parallel([{"format": "hub", "name": "alice/nothing", "language": "fi"}])
