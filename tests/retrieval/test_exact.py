"""Exact search against a brute-force loop over pairs."""

import pytest
import torch

from drdecr.retrieval import ExactIndex, Hits, exact

PASSAGES = 30


def ragged(count: int, seed: int) -> list[torch.Tensor]:
    """Unit token vectors of `count` texts, 0 to 6 tokens each."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 7, (count,), generator=generator).tolist()
    return [torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in lengths]


def pair_score(query: torch.Tensor, passage: torch.Tensor) -> float:
    cosines = (query @ passage.T).tolist()
    return sum(max(row, default=-1.0) for row in cosines)


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_search_equals_brute_force(block, batch_size, monkeypatch):
    monkeypatch.setattr(exact, "PASSAGES_PER_BLOCK", block)
    passages, queries = ragged(PASSAGES, seed=0), ragged(5, seed=1)
    queries[3] = queries[3][:0]
    ids = [f"p{index}" for index in range(PASSAGES)]
    hits = ExactIndex(ids, passages).search(queries, top_k=10, batch_size=batch_size)
    for query, found, scores in zip(queries, hits.document_ids, hits.scores, strict=True):
        truth = {name: pair_score(query, passage) for name, passage in zip(ids, passages, strict=True)}
        assert sorted(truth.values(), reverse=True)[:10] == pytest.approx(scores, abs=1e-5)
        assert [truth[name] for name in found] == pytest.approx(scores, abs=1e-5)
        assert len(set(found)) == 10


def test_fewer_passages_than_asked_for_are_all_returned():
    index = ExactIndex(["a", "b", "c"], ragged(3, seed=0))
    hits = index.search(ragged(2, seed=1), top_k=10)
    assert [sorted(found) for found in hits.document_ids] == [["a", "b", "c"]] * 2
    assert all(scores == sorted(scores, reverse=True) for scores in hits.scores)
    assert len(index) == 3


def test_equal_scores_are_ordered_by_length_then_by_addition():
    token = torch.nn.functional.normalize(torch.ones(1, 8), dim=-1)
    passages = [token.repeat(2 if index % 2 else 1, 1) for index in range(40)]
    hits = ExactIndex([str(index) for index in range(40)], passages).search([token], top_k=40)
    assert hits.document_ids == [[str(index) for index in (*range(0, 40, 2), *range(1, 40, 2))]]
    assert len(set(hits.scores[0])) == 1


def test_no_queries_give_no_hits():
    assert ExactIndex(["a"], ragged(1, seed=0)).search([]) == Hits([], [])


def test_scores_are_columns_in_the_order_of_the_index():
    passages, queries = ragged(PASSAGES, seed=0), ragged(4, seed=1)
    index = ExactIndex([str(number) for number in range(PASSAGES)], passages)
    expected = [[pair_score(query, passages[int(name)]) for name in index.document_ids] for query in queries]
    torch.testing.assert_close(index.scores(queries), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_bfloat16_index_scores_like_float32_to_its_precision():
    passages, queries = ragged(PASSAGES, seed=0), ragged(4, seed=1)
    ids = [str(number) for number in range(PASSAGES)]
    half, full = ExactIndex(ids, passages, dtype=torch.bfloat16), ExactIndex(ids, passages)
    torch.testing.assert_close(half.scores(queries), full.scores(queries), atol=0.05, rtol=0)


def test_a_models_passages_are_found_by_their_own_words(tiny_model):
    texts = ["the king of france", "the sea", "a river in a city", "paris"]
    index = ExactIndex(texts, tiny_model.encode_documents(texts))
    queries, documents = (
        tiny_model.encode_queries(["the sea", "paris"]),
        tiny_model.encode_documents(index.document_ids),
    )
    torch.testing.assert_close(index.scores(queries), tiny_model.score(queries, documents), atol=1e-5, rtol=0)


def test_a_run_holds_every_hit_under_its_query():
    hits = Hits([["a", "b"], ["c"]], [[2.0, 1.0], [3.0]])
    assert hits.as_run(["q1", "q2"]) == {"q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 3.0}}
    with pytest.raises(ValueError, match=r"shorter|longer"):
        hits.as_run(["q1"])


@pytest.mark.parametrize(
    ("ids", "passages", "message"),
    [
        ([], 0, "at least one, got 0 ids and 0 passages. Pass the ids"),
        (["a", "b"], 1, "got 2 ids and 1 passages. Pass the ids"),
        (["a", "b", "a", "c"], 4, "Passage ids must differ, got 'a' 2 times. Drop or rename"),
    ],
)
def test_ids_that_do_not_name_the_passages_are_refused(ids, passages, message):
    with pytest.raises(ValueError, match=message):
        ExactIndex(ids, ragged(passages, seed=0))


@pytest.mark.parametrize("option", ["top_k", "batch_size"])
def test_a_search_for_nothing_is_refused(option):
    with pytest.raises(ValueError, match=rf"{option}: expected at least 1, got -1\. Leave it out"):
        ExactIndex(["a"], ragged(1, seed=0)).search(ragged(1, seed=1), **{option: -1})
