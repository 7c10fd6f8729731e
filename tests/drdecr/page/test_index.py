"""The page encodes a collection once, and again only what has changed; or it searches the index that is named."""

import pytest
import torch

from drdecr.page.answers import Searcher
from drdecr.page.app import PageSources, cached_index, open_index_of
from drdecr.retrieval import build as encode
from drdecr.retrieval.build import build_index, open_or_create_index
from drdecr.retrieval.passages import Document, Splitter

PASSAGES = {f"p-{letter}": f"the city {letter} is in france." for letter in "bcdef"}


@pytest.fixture
def encoded(monkeypatch):
    """The texts that were encoded for an index."""
    texts, real = [], encode.encode_in_turn
    monkeypatch.setattr(
        encode, "encode_in_turn", lambda one, process, given, *a: texts.extend(given) or real(one, process, given, *a)
    )
    return texts


def test_passages_are_encoded_once_and_what_is_found_is_the_same(tiny_model, tmp_path, encoded):
    truth = Searcher.over(tiny_model, PASSAGES).read("the city c", ["p-c"])
    for times in range(2):
        index = cached_index(tiny_model, PASSAGES, "sample", tmp_path)
        assert len(encoded) == 5, times  # nothing the second time
    found = Searcher(tiny_model, index).read("the city c", ["p-c"])
    assert [one.document_id for one in found.passages] == [one.document_id for one in truth.passages]
    assert [one.is_answer for one in found.passages] == [one.is_answer for one in truth.passages]
    assert [one.tokens.text for one in found.passages] == [one.tokens.text for one in truth.passages]
    assert [one.score for one in found.passages] == pytest.approx([one.score for one in truth.passages], abs=0.02)
    encoded.clear()
    changed = {**PASSAGES, "p-b": "the sea"}
    del changed["p-f"]
    kept = cached_index(tiny_model, changed, "sample", tmp_path)
    assert encoded == ["the sea"]
    assert {payload["document_id"] for payload in kept.payloads(kept.passage_ids())} == changed.keys()


def test_another_model_or_collection_has_another_index(tiny_model, tmp_path, encoded):
    cached_index(tiny_model, PASSAGES, "sample", tmp_path)
    cached_index(tiny_model, PASSAGES, "other", tmp_path)
    with torch.no_grad():
        next(tiny_model.parameters()).add_(1)
    cached_index(tiny_model, PASSAGES, "sample", tmp_path)
    assert len(encoded) == 15
    assert len(list((tmp_path / "page").iterdir())) == 3


def test_an_index_of_ones_own_is_searched(tiny_model, tmp_path):
    documents = [Document(name, text) for name, text in PASSAGES.items()]
    with open_or_create_index(tmp_path / "one", 16, {}, "float16", 1) as index:
        build_index(tiny_model, documents, index, Splitter(), show_progress_bar=False)
    truth = Searcher.over(tiny_model, PASSAGES).read("the city c")
    found = Searcher(tiny_model, open_index_of(tiny_model, tmp_path / "one")).read("the city c")
    assert [one.document_id for one in found.passages] == [one.document_id for one in truth.passages]
    with pytest.raises(FileNotFoundError, match="expected an index"):
        open_index_of(tiny_model, tmp_path)
    tiny_model.config.embedding_dim = 8
    with pytest.raises(ValueError, match="of 8 dimensions, as the model makes them, got 16"):
        open_index_of(tiny_model, tmp_path / "one")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"index": "i", "passages": "p"}, "Leave --passages out"),
        ({"index": "i", "model": None}, "expected the model that encoded it"),
        ({"index": "i", "teacher": "t"}, "an index of the teacher's as well"),
        ({"teacher_index": "i", "teacher": "t"}, "Give all three"),
    ],
)
def test_an_index_without_its_model_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PageSources(**{"model": "m", **given})
