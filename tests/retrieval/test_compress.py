"""An index made of another holds the same passages, also after the source has changed."""

from pathlib import Path

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval import build as indexing
from drdecr.retrieval.build import compress_index, is_index, open_or_create_index
from drdecr.retrieval.retriever import open_index


def tokens(seed):
    return torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def source(tmp_path):
    with StoredIndex.create(tmp_path / "source", dim=8, metadata={"model": "m"}) as index:
        index.add([f"p{n}" for n in range(7)], [tokens(n) for n in range(7)], [{"digest": n} for n in range(7)])
        index.commit()
    return tmp_path / "source"


def same(source, folder):
    ours, theirs = StoredIndex.open(source), StoredIndex.open(folder)
    ids = sorted(ours.passage_ids())
    assert sorted(theirs.passage_ids()) == ids
    assert theirs.payloads(ids) == ours.payloads(ids)
    for name in ids:
        torch.testing.assert_close(theirs.embeddings([name]), ours.embeddings([name]), atol=0.02, rtol=0)
    assert theirs.metadata == {"model": "m"}


def test_a_copy_follows_its_source(source, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "PASSAGES_PER_COPY", 3)
    assert compress_index(source, tmp_path / "copy", "int8", 1) == 7
    same(source, tmp_path / "copy")
    assert compress_index(source, tmp_path / "copy", "int8", 1) == 0
    with StoredIndex.open(source, writable=True) as index:
        index.add(["p1", "new"], [tokens(20), tokens(21)], [{"digest": 20}, {"digest": 21}])
        index.delete(["p2"])
        index.commit()
    assert compress_index(source, tmp_path / "copy", "int8", 1) == 2
    same(source, tmp_path / "copy")
    with StoredIndex.open(source, writable=True) as index:
        index.delete(["p3"])
        index.commit()
    assert compress_index(source, tmp_path / "copy", "int8", 1) == 0
    same(source, tmp_path / "copy")


def test_a_copy_that_was_broken_off_goes_on(source, tmp_path, monkeypatch, breaking_off):
    monkeypatch.setattr(indexing, "PASSAGES_PER_COPY", 3)
    with breaking_off(StoredIndex, "commit", 1):
        compress_index(source, tmp_path / "copy", "float16", 1)
    assert compress_index(source, tmp_path / "copy", "float16", 1) == 4
    same(source, tmp_path / "copy")


@pytest.mark.parametrize("commits", [0, 1, 2])
def test_an_update_that_was_broken_off_shows_each_document_as_it_was_or_as_it_is(
    commits, tmp_path, monkeypatch, breaking_off
):
    """Document `a` becomes shorter, `b` longer; whichever commit is the last, neither is there in part."""
    monkeypatch.setattr(indexing, "PASSAGES_PER_COPY", 2)
    before = {"a": [0, 0, 0], "b": [0], "c": [0, 0], "gone": [0, 0]}
    after = {"a": [1], "b": [1, 1, 1], "c": [0, 0], "new": [1, 1]}

    def state(documents):
        return {f"{name}#{n}": digest for name, digests in documents.items() for n, digest in enumerate(digests)}

    def write(documents):
        with open_or_create_index(tmp_path / "source", 8, {"model": "m"}, "float16", 1) as index:
            index.delete(index.passage_ids())
            # Passages of one document lie apart, as segments of passages sorted by length hold them.
            for name, digest in sorted(state(documents).items(), key=lambda pair: pair[0].split("#")[1]):
                index.add([name], [tokens(digest)], [{"digest": digest}])
            index.commit()

    def shown(folder):
        index = StoredIndex.open(folder)
        rows = {}
        for name, payload in zip(ids := index.passage_ids(), index.payloads(ids), strict=True):
            rows.setdefault(name.split("#")[0], []).append(payload["digest"])
        return rows

    write(before)
    compress_index(tmp_path / "source", tmp_path / "copy", "float16", 1)
    write(after)
    with breaking_off(StoredIndex, "commit", commits):
        compress_index(tmp_path / "source", tmp_path / "copy", "float16", 1)
    for name, digests in shown(tmp_path / "copy").items():
        assert digests in (before.get(name), after.get(name)), name
    compress_index(tmp_path / "source", tmp_path / "copy", "float16", 1)
    assert shown(tmp_path / "copy") == after


def test_what_lost_precision_is_no_source(source, tmp_path):
    compress_index(source, tmp_path / "copy", "int8", 1)
    with pytest.raises(ValueError, match="expected all tokens in float16, got int8"):
        compress_index(tmp_path / "copy", tmp_path / "again", "float16", 1)
    with pytest.raises(ValueError, match="made with codec 'int8', asked for 'float16'"):
        compress_index(source, tmp_path / "copy", "float16", 1)
    assert is_index(tmp_path / "copy")
    assert not is_index(tmp_path)
    assert len(open_index(tmp_path / "copy")) == 7


def test_the_call_that_fills_a_cluster_is_as_documented(tmp_path, monkeypatch):
    qdrant_client = pytest.importorskip("qdrant_client")
    client = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda **address: client)
    monkeypatch.chdir(tmp_path)
    passages = {f"p{n}": torch.nn.functional.normalize(torch.randn(4, 128), dim=-1) for n in range(5)}
    with StoredIndex.create("encoded", dim=128) as index:
        index.add(list(passages), list(passages.values()), [{"number": n} for n in range(5)])
        index.commit()
    page = (Path(__file__).parents[2] / "docs" / "qdrant.md").read_text()
    names: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert len(names["index"]) == 5
    assert names["index"].payloads(["p3"]) == [{"number": 3}]
    assert names["index"].search([passages["p2"]], top_k=1).document_ids == [["p2"]]
    client.close()
