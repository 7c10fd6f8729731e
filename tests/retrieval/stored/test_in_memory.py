"""Tokens held in memory: the answers of the files, without reading them."""

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval.stored import in_memory as in_memory
from drdecr.retrieval.stored import segment as segments

NAMES = [f"p{number}" for number in range(40)]


@pytest.fixture
def no_files(monkeypatch):
    """Let nothing be read to score all passages."""
    monkeypatch.setattr(segments, "similarities", lambda *arguments: pytest.fail("read from the files"))


@pytest.fixture
def folder(tmp_path, ragged):
    """An index of two commits, with passages without tokens and a deleted one."""
    passages = ragged(40, seed=0, dim=24)
    with StoredIndex.create(tmp_path / "index", dim=24) as index:
        index.add(NAMES[:25], passages[:25], [{"half": n % 2} for n in range(25)])
        index.commit()
        index.add(NAMES[25:], passages[25:], [{"half": n % 2} for n in range(25, 40)])
        index.delete(["p3"])
        index.commit()
    return tmp_path / "index"


@pytest.mark.parametrize("block", [1, 9, 8192])
@pytest.mark.parametrize("dim", [7, 128, 600])
@pytest.mark.parametrize("codec", in_memory.PACKED_CODECS)
def test_scores_are_those_of_a_loop_over_what_is_kept(
    tmp_path, ragged, ranked, no_files, monkeypatch, codec, dim, block
):
    monkeypatch.setattr(in_memory, "TOKENS_PER_BLOCK", block)
    passages, queries = ragged(40, seed=0, dim=dim), ragged(5, seed=1, dim=dim)
    queries[3] = queries[3][:0]
    with StoredIndex.create(tmp_path / "index", dim=dim, codec=codec) as index:
        index.add(NAMES, passages)
        index.commit()
        kept = dict(zip(NAMES, index.embeddings(NAMES), strict=True))
    hits = StoredIndex.open(tmp_path / "index", in_memory=True).search(queries, top_k=40, batch_size=2)
    for query, found, scores in zip(queries, hits.document_ids, hits.scores, strict=True):
        truth = dict(ranked(query, kept, 40))
        assert [truth[name] for name in found] == pytest.approx(scores, abs=1e-5)
        assert scores == sorted(scores, reverse=True)
        assert set(found) == set(NAMES)


@pytest.mark.parametrize(("where", "halves"), [(None, (0, 1)), ({"half": 1}, (1,)), ({"half": [0, 1]}, (0, 1))])
def test_what_is_deleted_or_filtered_out_is_not_found(folder, ragged, no_files, where, halves):
    hits = StoredIndex.open(folder, in_memory=True).search(ragged(2, seed=1, dim=24), top_k=40, where=where)
    wanted = {name for number, name in enumerate(NAMES) if number != 3 and number % 2 in halves}
    assert [set(found) for found in hits.document_ids] == [wanted] * 2


def test_few_of_many_passages_are_read_from_the_files(tmp_path, ragged, ranked):
    passages, query = ragged(40, seed=0, dim=24, shortest=1), ragged(1, seed=1, dim=24, shortest=1)[0]
    with StoredIndex.create(tmp_path / "index", dim=24) as index:
        index.add(NAMES, passages, [{"few": n in (2, 20, 39)} for n in range(40)])
        index.commit()
        kept = dict(zip(NAMES, index.embeddings(NAMES), strict=True))
    hits = StoredIndex.open(tmp_path / "index", in_memory=True).search([query], where={"few": True})
    truth = ranked(query, {name: kept[name] for name in ("p2", "p20", "p39")}, 3)
    assert hits.document_ids == [[name for name, _ in truth]]
    assert hits.scores[0] == pytest.approx([score for _, score in truth], abs=1e-5)


def test_a_reader_holds_what_was_committed_since(folder, ragged, no_files):
    reader, query = StoredIndex.open(folder, in_memory=True), ragged(1, seed=1, dim=24, shortest=1)[0]
    with StoredIndex.open(folder, writable=True) as writer:
        writer.add(["new"], [query])
        writer.commit()
    assert reader.refresh()
    assert reader.search([query], top_k=1).document_ids == [["new"]]


def test_codes_that_half_precision_would_round_are_refused(tmp_path, ragged):
    with StoredIndex.create(tmp_path / "index", dim=8, codec="residual4") as index:
        index.add(NAMES, ragged(40, seed=0))
        index.commit()
    with pytest.raises(ValueError, match="expected codec float16 or int8, got residual4"):
        StoredIndex.open(tmp_path / "index", writable=True, in_memory=True)
    StoredIndex.open(tmp_path / "index", writable=True).close()  # the refused call holds no lock


def test_a_machine_without_these_products_searches_the_files(folder, ragged, monkeypatch):
    queries = ragged(2, seed=1, dim=24)
    expected = StoredIndex.open(folder).search(queries)
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    monkeypatch.setattr(segments, "pack_tokens", lambda *arguments: pytest.fail("held"))
    assert StoredIndex.open(folder, in_memory=True).search(queries) == expected


def test_memory_is_told_in_whole_rows_of_512():
    assert in_memory.packed_bytes(10, 128) == in_memory.packed_bytes(10, 512) == 10 * 1024
    assert in_memory.packed_bytes(10, 513) == 10 * 2048
