"""Tokens on disk: what comes back is what is encoded, once for each teacher and text, in no more memory than is read."""

import copy
from pathlib import Path

import pytest
import torch

from drdecr.data import files as digests
from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings import store as token_store
from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.embeddings.store import open_tokens, stored_documents, stored_queries, write_tokens
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.encoder import model_digest

QUESTIONS = ["where is the king ?", "the sea", "what is the capital city of france ?", "the sea", "a river", "paris"]
PASSAGES = {"d1": "paris , the capital of france .", "d2": "? !", "d3": "a river in the city of the king", "d4": "? !"}


@pytest.fixture
def encoded(tiny_model: DrDecrModel, monkeypatch) -> list[str]:
    """Every text that is encoded from now on."""
    seen: list[str] = []
    for name in ("encode_queries", "encode_documents"):
        encode = getattr(DrDecrModel, name)

        def counted(self, texts, *args, _encode=encode, **kwargs):
            seen.extend(texts)
            return _encode(self, texts, *args, **kwargs)

        monkeypatch.setattr(DrDecrModel, name, counted)
    return seen


def test_stored_tokens_are_those_of_the_cache_in_memory(tiny_model: DrDecrModel, tmp_path):
    stored = stored_queries(tiny_model, QUESTIONS, tmp_path, rows_per_shard=2, batch_size=2)
    cache = TokenCache.of_queries(tiny_model, QUESTIONS)
    for found, expected in zip(stored.padded(QUESTIONS), cache.padded(QUESTIONS), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert len(stored) == len(cache) == 5
    assert "the sea" in stored
    assert "the" not in stored
    documents = stored_documents(tiny_model, PASSAGES, tmp_path, rows_per_shard=2)
    assert list(documents.rows) == list(PASSAGES)
    cache = TokenCache.of_documents(tiny_model, PASSAGES)
    for found, expected in zip(documents.padded(["d4", "d1"]), cache.padded(["d4", "d1"]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    rows = documents.to_dataset()
    assert rows["text"][:] == list(PASSAGES)
    with pytest.raises(ValueError, match="cache of 4 texts does not hold 'd9'"):
        documents.tokens("d9")
    with pytest.raises(ValueError, match="does not hold 'never read'"):
        stored.named({"x": "never read"})


def test_a_second_call_encodes_only_what_is_new(tiny_model: DrDecrModel, tmp_path, encoded):
    stored_queries(tiny_model, QUESTIONS[:3], tmp_path)
    assert encoded == QUESTIONS[:3]
    encoded.clear()
    stored = stored_queries(tiny_model, reversed(QUESTIONS), tmp_path)
    assert sorted(encoded) == ["a river", "paris"]
    encoded.clear()
    # Another copy of the same teacher, after it has read (which sets its tokenizer's padding).
    again = stored_queries(copy.deepcopy(tiny_model), QUESTIONS, tmp_path)
    assert not encoded
    for text in QUESTIONS:
        assert torch.equal(again.tokens(text), stored.tokens(text))


def test_another_teacher_precision_or_slot_has_tokens_of_its_own(tiny_model: DrDecrModel, tmp_path, encoded):
    stored_queries(tiny_model, ["paris"], tmp_path)
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.linear.weight[0, 0] += 1e-3
    shorter = copy.deepcopy(tiny_model)
    shorter.processor.query_length = 10
    stored_queries(other, ["paris"], tmp_path)
    stored_queries(shorter, ["paris"], tmp_path)
    stored_queries(tiny_model, ["paris"], tmp_path, dtype=torch.float32)
    stored_documents(tiny_model, {"d": "paris"}, tmp_path)
    assert encoded == ["paris"] * 5
    assert len(list(tmp_path.iterdir())) == 5
    assert len({model_digest(model) for model in (tiny_model, other, shorter)}) == 3


def test_a_damaged_shard_is_named_when_a_run_reads_it(tiny_model: DrDecrModel, tmp_path):
    stored_queries(tiny_model, QUESTIONS, tmp_path, rows_per_shard=2)
    file = next(tmp_path.rglob("00001-of-00003.safetensors"))
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00001-of-00003.safetensors: this shard is not as it was written"):
        stored_queries(tiny_model, QUESTIONS, tmp_path, rows_per_shard=2)


def test_texts_whose_keys_begin_alike_are_told_apart(tiny_model: DrDecrModel, tmp_path, monkeypatch):
    for module in (token_store, digests):
        monkeypatch.setattr(module, "text_key", lambda text: b"12345678" + text.encode().ljust(8)[:8])
    stored = stored_queries(tiny_model, ["the sea", "paris", "a river"], tmp_path)
    fresh = TokenCache.of_queries(tiny_model, ["the sea", "paris", "a river"])
    for text in ("a river", "the sea", "paris"):
        assert len(stored.tokens(text)) == len(fresh.tokens(text))
        torch.testing.assert_close(stored.tokens(text), fresh.tokens(text), rtol=0, atol=1e-3)
    assert "b" not in stored


def test_only_the_texts_that_are_asked_for_are_written(tiny_model: DrDecrModel, tmp_path):
    stored = stored_queries(tiny_model, QUESTIONS, tmp_path / "all")
    write_tokens(stored, ["paris", "the sea", "paris"], tmp_path / "some", rows_per_shard=1)
    some = open_tokens(tmp_path / "some")
    assert len(some) == 2
    assert torch.equal(some.tokens("the sea"), stored.tokens("the sea"))
    assert "a river" not in some
    with pytest.raises(ValueError, match="expected complete tokens of a teacher, got none"):
        open_tokens(tmp_path / "none")


def test_tokens_are_mapped_from_the_files(tiny_model: DrDecrModel, tmp_path):
    texts = [f"{a} {b} {c}" for a in "bcdefghijk" for b in "bcdefghijk" for c in "bcdefghijk"]
    stored = stored_queries(tiny_model, texts, tmp_path, batch_size=500)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert mapped
    assert stored.tokens("c d e").shape == (6, 16)


def test_a_batch_from_the_store_is_the_batch_from_memory(tiny_model: DrDecrModel, tmp_path):
    rows = [{"query": "z", "english": "the sea", "document_ids": ["d1", "d3"]}]
    settings = {"query_cache": stored_queries(tiny_model, QUESTIONS, tmp_path, dtype=torch.float32)}
    settings["document_cache"] = stored_documents(tiny_model, PASSAGES, tmp_path, dtype=torch.float32)
    stored = DistillationCollator(tiny_model.processor, PASSAGES, **settings)(rows)
    live = DistillationCollator(tiny_model.processor, PASSAGES)(rows)
    with torch.no_grad():
        query = tiny_model(**live["teacher_query"]).embeddings
    mask = live["teacher_query"]["scoring_mask"]
    assert torch.equal(stored["teacher_query_scoring_mask"], mask)
    torch.testing.assert_close(stored["teacher_query_embeddings"][mask], query[mask], rtol=0, atol=1e-6)
