"""Candidates: the teacher's own ranking, read off plain loops over all passages."""

import doctest

import numpy as np
import pytest
import torch
from datasets import Dataset

from drdecr.data.embeddings.cache import TokenCache
from drdecr.data.teacher import candidates
from drdecr.data.teacher.candidates import add_negatives, candidate_ranks, retrieve_candidates
from drdecr.modeling_drdecr import DrDecrModel

WORDS = ["the", "of", "is", "in", "a", "what", "where", "capital", "city", "river", "sea", "king", "paris", "france"]


def sentences(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 9))) for _ in range(count)]


PASSAGES = {f"p{number:02d}": text for number, text in enumerate(sentences(40, seed=1))}
ENGLISH = ["the king of france", "where is the river", "what capital"]


@pytest.fixture
def cache(tiny_model: DrDecrModel) -> TokenCache:
    return TokenCache.of_documents(tiny_model, PASSAGES)


def plain_ranking(model: DrDecrModel, text: str) -> list[tuple[str, float]]:
    query = model.encode_queries([text])[0]
    scores = {}
    for name, passage in PASSAGES.items():
        tokens = model.encode_documents([passage])[0]
        scores[name] = sum(max(float(torch.dot(q, t)) for t in tokens) for q in query)
    return sorted(scores.items(), key=lambda pair: -pair[1])


def unlabelled(*english: str) -> Dataset:
    return Dataset.from_list([{"query": f"q{number}", "english": text} for number, text in enumerate(english)])


def labelled(*rows: tuple[str, list[str]]) -> Dataset:
    return Dataset.from_list([{"query": "b", "english": english, "document_ids": ids} for english, ids in rows])


def test_candidates_are_the_teachers_best_passages_in_its_order(tiny_model: DrDecrModel, cache: TokenCache):
    found = retrieve_candidates(unlabelled(*ENGLISH, ENGLISH[0]), tiny_model, cache, num_candidates=4)
    assert found["query"][:] == ["q0", "q1", "q2", "q3"]
    for row in found:
        expected = plain_ranking(tiny_model, row["english"])
        best = [score for _, score in expected[:4]]
        assert row["teacher_scores"] == pytest.approx(best, abs=5e-3)  # half precision may swap near ties
        assert [dict(expected)[name] for name in row["document_ids"]] == pytest.approx(best, abs=5e-3)
        assert row["teacher_query_tokens"] == len(row["english"].split()) + 3
    assert found[0]["document_ids"] == found[3]["document_ids"]


def test_depth_spreads_the_later_half_over_the_ranking(tiny_model: DrDecrModel, cache: TokenCache):
    shallow = retrieve_candidates(unlabelled(ENGLISH[0]), tiny_model, cache, num_candidates=21)[0]["document_ids"]
    deep = retrieve_candidates(unlabelled(ENGLISH[0]), tiny_model, cache, num_candidates=4, depth=21)[0]["document_ids"]
    assert deep == [shallow[rank] for rank in candidate_ranks(4, 21)]
    assert deep[-1] == shallow[20]


def test_ranks_start_at_the_top_end_at_the_depth_and_never_repeat():
    for count in range(2, 20):
        for depth in range(count, 60):
            ranks = candidate_ranks(count, depth)
            assert len(ranks) == count
            assert ranks == sorted(set(ranks))
            assert (ranks[0], ranks[-1]) == (0, depth - 1)
            assert ranks[: (count + 1) // 2] == list(range((count + 1) // 2))


def test_the_docstrings_example_is_true():
    assert doctest.testmod(candidates).failed == 0


def test_too_few_candidates_or_passages_are_refused(tiny_model: DrDecrModel, cache: TokenCache):
    with pytest.raises(ValueError, match="at least 2 and a depth of at most the pool's 40 passages, got 1 and 1"):
        retrieve_candidates(unlabelled(*ENGLISH), tiny_model, cache, num_candidates=1)
    with pytest.raises(ValueError, match="got 4 and 41"):
        retrieve_candidates(unlabelled(*ENGLISH), tiny_model, cache, num_candidates=4, depth=41)


def test_negatives_are_high_ranked_passages_that_answer_no_row_of_the_question(
    tiny_model: DrDecrModel, cache: TokenCache
):
    best = [name for name, _ in plain_ranking(tiny_model, ENGLISH[0])]
    # One English question in two languages, each row knowing one answer: neither may be the other's negative.
    ids = sorted([best[0], best[3]], reverse=True)
    rows = labelled((ENGLISH[0], ids), (ENGLISH[0], [best[1]]), (ENGLISH[1], ["p05"]))
    found = add_negatives(rows, tiny_model, cache, num_candidates=5, depth=6)
    assert [row["document_ids"][0] for row in found] == [ids[0], best[1], "p05"]
    answers, allowed = {best[0], best[1], best[3]}, set(best[:11])
    for row in found.select([0, 1]):
        negatives = row["document_ids"][1:]
        assert len(set(negatives)) == 4
        assert not set(negatives) & answers
        assert set(negatives) <= allowed
    for row in found:
        scores = dict(plain_ranking(tiny_model, row["english"]))
        assert row["teacher_scores"] == pytest.approx([scores[name] for name in row["document_ids"]], abs=5e-3)
        assert row["teacher_query_tokens"] == len(row["english"].split()) + 3


def test_rows_of_one_question_draw_their_own_negatives_under_the_seed(tiny_model: DrDecrModel, cache: TokenCache):
    rows = labelled(*[(ENGLISH[0], ["p01"])] * 4)
    drawn = [add_negatives(rows, tiny_model, cache, 3, seed=seed)["document_ids"][:] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert len({tuple(ids) for ids in drawn[0]}) > 1


def test_a_small_collection_gives_what_it_has_and_too_small_a_one_is_refused(tiny_model: DrDecrModel):
    cache = TokenCache.of_documents(tiny_model, {name: PASSAGES[name] for name in ("p00", "p01", "p02", "p03")})
    rows = labelled((ENGLISH[0], ["p02"]))
    assert set(add_negatives(rows, tiny_model, cache, 4)[0]["document_ids"]) == {"p00", "p01", "p02", "p03"}
    for num_candidates in (1, 5):
        with pytest.raises(ValueError, match=rf"expected 2 to \d, .* got {num_candidates}.*has 4 passages"):
            add_negatives(rows, tiny_model, cache, num_candidates)


def test_ranking_by_mean_tokens_gives_exact_scores_of_what_it_chooses(tiny_model: DrDecrModel, cache: TokenCache):
    found = retrieve_candidates(unlabelled(*ENGLISH), tiny_model, cache, num_candidates=4, depth=9, ranked_by="mean")
    means = {name: cache.tokens(name).float().mean(dim=0) for name in PASSAGES}
    for row in found:
        query = tiny_model.encode_queries([row["english"]])[0]
        cosine = {name: float(torch.cosine_similarity(query.mean(dim=0), mean, dim=0)) for name, mean in means.items()}
        ranking = sorted(cosine, key=lambda name: -cosine[name])
        exact = dict(plain_ranking(tiny_model, row["english"]))
        assert set(row["document_ids"]) == {ranking[rank] for rank in candidate_ranks(4, 9)}
        assert row["teacher_scores"] == pytest.approx([exact[name] for name in row["document_ids"]], abs=5e-3)
        assert row["teacher_scores"] == sorted(row["teacher_scores"], reverse=True)
        assert row["teacher_query_tokens"] == len(query)


def test_a_passage_without_a_token_is_ranked_by_a_mean_of_zeros():
    towards = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    tokens = [torch.zeros(0, 2), *towards.unsqueeze(1)]
    flags = [torch.ones(len(found), dtype=torch.bool) for found in tokens]
    cache = TokenCache(["empty", "same", "near", "opposite"], tokens, flags)
    query = TokenCache([ENGLISH[0]], [torch.tensor([[1.0, 0.0]])], [torch.ones(1, dtype=torch.bool)])
    rows = unlabelled(ENGLISH[0])
    found = retrieve_candidates(rows, None, cache, num_candidates=2, ranked_by="mean", query_tokens=query)[0]
    assert found["document_ids"] == ["same", "near"]
    found = retrieve_candidates(rows, None, cache, num_candidates=3, ranked_by="mean", query_tokens=query)[0]
    assert set(found["document_ids"]) == {"same", "near", "empty"}  # 0 is more than the opposite's -1
    assert dict(zip(found["document_ids"], found["teacher_scores"], strict=True))["empty"] == -1  # exact, as anywhere


def test_tokens_that_are_known_are_not_encoded_again(tiny_model: DrDecrModel, cache: TokenCache, monkeypatch):
    expected = retrieve_candidates(unlabelled(*ENGLISH), tiny_model, cache, num_candidates=3)
    known = TokenCache.of_queries(tiny_model, ENGLISH)
    monkeypatch.setattr(DrDecrModel, "encode_queries", None)
    found = retrieve_candidates(unlabelled(*ENGLISH), tiny_model, cache, num_candidates=3, query_tokens=known)
    assert found["teacher_scores"][:] == [pytest.approx(scores, abs=5e-3) for scores in expected["teacher_scores"]]


def test_an_unknown_ranking_is_refused(tiny_model: DrDecrModel, cache: TokenCache):
    with pytest.raises(ValueError, match="candidates_by: expected one of maxsim, mean, got 'bm25'"):
        retrieve_candidates(unlabelled(*ENGLISH), tiny_model, cache, ranked_by="bm25")
