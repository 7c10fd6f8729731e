"""Tokens of passages out of an index: found by id, as the index keeps them, and what does not belong together."""

import pytest
import torch

from drdecr.data.embeddings.from_index import IndexTokens, read_index_tokens
from drdecr.retrieval import StoredIndex

PASSAGES = {"a": "the sea", "b": "Paris. a city"}


@pytest.fixture
def index(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(length, 4, generator=generator) for length in (3, 2, 4, 1)]
    payloads = [{"text": "the sea"}, {"text": "a city", "title": "Paris"}, {"text": "one"}, {"text": "two"}]
    with StoredIndex.create(tmp_path / "index", 4) as made:
        made.add(["a#0", "b#0", "long#0", "long#1"], tokens, payloads)
        made.commit()
    return tmp_path / "index", tokens


def test_passages_have_the_tokens_that_were_added_to_the_index(index):
    folder, tokens = index
    found = read_index_tokens(str(folder)).named(PASSAGES)
    assert len(found) == 2
    for name, expected in zip(PASSAGES, tokens, strict=False):
        assert torch.equal(found.tokens(name), expected.half().float())
        assert found.flags(name).tolist() == [True] * len(expected)
    padded, counts, _ = found.padded(["a", "b"])
    assert torch.equal(padded[counts], torch.cat(tokens[:2]).half().float())
    assert found.to_dataset()["text"] == ["a", "b"]
    assert len(read_index_tokens(str(folder)).named({"long#1": "two"})) == 1  # by its own id, too
    with StoredIndex.open(folder, writable=True) as changed:
        changed.add(["long"], [tokens[0]], [{"text": "long"}])
        changed.commit()
    whole = read_index_tokens(str(folder)).named({"long": "long"})  # whatever else begins like it
    assert torch.equal(whole.tokens("long"), tokens[0].half().float())


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ({"c": "the sea"}, "expected the passages that are trained on, got none of the id 'c'"),
        ({"long": "one"}, r"document 'long' was cut into several passages. .* \(long#0 \.\.\.\)"),
        ({"a": "the lake"}, "passage 'a' has another text there than in the data"),
        ({"b": "a town"}, "passage 'b' has another text there than in the data"),
    ],
)
def test_what_does_not_belong_together_is_refused(index, passages, message):
    with pytest.raises(ValueError, match=message):
        IndexTokens(StoredIndex.open(index[0]), passages)
