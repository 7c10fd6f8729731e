"""The cache of the teacher's tokens: what comes out is what a fresh encoding gives."""

import pytest
import torch

from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor

QUESTIONS = ["where is the king ?", "the sea", "what is the capital city of france ?", "the sea"]
PASSAGES = {"d1": "paris , the capital of france .", "d2": "? !", "d3": "a river in the city of the king"}


def test_padded_queries_equal_a_fresh_encoding(tiny_model: DrDecrModel):
    cache = TokenCache.of_queries(tiny_model, QUESTIONS, batch_size=2)
    wanted = [QUESTIONS[2], QUESTIONS[0], QUESTIONS[2]]
    embeddings, scoring_mask, text_mask = cache.padded(wanted)
    fresh = tiny_model.processor.process_queries(wanted)
    assert torch.equal(scoring_mask, fresh["scoring_mask"])
    assert torch.equal(text_mask, fresh["text_mask"])
    with torch.no_grad():
        expected = tiny_model(**fresh).embeddings
    assert embeddings.dtype == torch.float16
    torch.testing.assert_close(embeddings.float()[scoring_mask], expected[scoring_mask], rtol=0, atol=1e-3)
    assert len(cache) == 3
    assert "the sea" in cache


def test_padded_documents_hold_the_tokens_that_score_and_say_which_are_text(tiny_model: DrDecrModel):
    cache = TokenCache.of_documents(tiny_model, PASSAGES)
    embeddings, scoring_mask, text_mask = cache.padded(list(PASSAGES))
    fresh = tiny_model.processor.process_documents(list(PASSAGES.values()))
    with torch.no_grad():
        output = tiny_model(**fresh).embeddings
    for row in range(3):
        scores = fresh["scoring_mask"][row]
        assert scoring_mask[row].sum() == scores.sum()
        torch.testing.assert_close(embeddings[row][scoring_mask[row]].float(), output[row][scores], rtol=0, atol=1e-3)
        assert text_mask[row][scoring_mask[row]].tolist() == fresh["text_mask"][row][scores].tolist()
    # <s>, [D] and </s> score but stand for no text; the signs of d2 do not score at all
    assert scoring_mask.sum(dim=1).tolist() == [8, 3, 11]
    assert text_mask.sum(dim=1).tolist() == [5, 0, 8]


def test_float32_is_kept_exactly(tiny_model: DrDecrModel):
    tokens = tiny_model.encode_queries(["the king", "paris"])
    flags = [torch.ones(len(row), dtype=torch.bool) for row in tokens]
    cache = TokenCache(["a", "b"], tokens, flags, dtype=torch.float32)
    assert torch.equal(cache.tokens("b"), tokens[1])


def test_padding_that_scores_in_legacy_documents_is_no_text(tiny_model: DrDecrModel):
    tiny_model.processor = DrDecrProcessor(
        tiny_model.processor.tokenizer, 12, 24, query_marker="[Q]", document_marker="[D]", legacy_primeqa=True
    )
    passages = {"long": "a river in the city of the king", "short": "paris", "other": "the sea of france"}
    cache = TokenCache.of_documents(tiny_model, passages, batch_size=2)
    assert cache.padded(["short"])[2].sum() == 1
    assert cache.padded(["long"])[2].sum() == 8


def test_bad_input_is_refused_in_words(tiny_model: DrDecrModel):
    cache = TokenCache.of_queries(tiny_model, QUESTIONS)
    with pytest.raises(ValueError, match=r"cache of 3 texts does not hold 'the king'"):
        cache.padded(["the sea", "the king"])
    tokens, flags = torch.zeros(2, 4), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="Keys must differ, got 2 keys of which 1 differ"):
        TokenCache(["a", "a"], [tokens, tokens], [flags, flags])
    with pytest.raises(ValueError, match="expected one flag for each token of each text"):
        TokenCache(["a"], [tokens], [flags[:1]])
