"""Candidates: the encoding against plain loops, and exact results wherever every passage is a candidate."""

import pytest
import torch

from drdecr.retrieval import StoredIndex
from drdecr.retrieval.qdrant.muvera import FixedDimensionalEncoding
from drdecr.retrieval.two_stage import CentroidCandidates, TwoStageIndex


@pytest.fixture
def filled(tmp_path, ragged):
    """An index of 60 passages in two segments, some deleted, of residual codes; and queries."""
    with StoredIndex.create(tmp_path / "index", dim=8, codec="residual4") as index:
        for start in (0, 40):
            ids = [f"p{number}" for number in range(start, start + 40)]
            payloads = [{"third": number % 3} for number in range(start, start + 40)]
            index.add(ids, ragged(40, seed=start, shortest=1), payloads)
            index.commit()
        index.delete([f"p{number}" for number in range(20, 40)])
        index.commit()
    return StoredIndex.open(tmp_path / "index"), ragged(6, seed=9, shortest=1)


def plain_encoding(encoding, tokens, is_query):
    """One text's vector by loops over repetitions, buckets and tokens."""
    generator = torch.Generator().manual_seed(encoding.seed)
    parts = []
    for _ in range(encoding.repetitions):
        planes = torch.randn(encoding.dim, encoding.hyperplanes, generator=generator)
        signs = torch.randint(0, 2, (encoding.dim, encoding.projected_dim), generator=generator).float() * 2 - 1
        sides = [[bool(token @ planes[:, plane] > 0) for plane in range(encoding.hyperplanes)] for token in tokens]
        for bucket in range(2**encoding.hyperplanes):
            bits = [bool(bucket >> plane & 1) for plane in range(encoding.hyperplanes)]
            inside = [token for token, own in zip(tokens, sides, strict=True) if own == bits]
            if is_query or not len(tokens):
                value = sum(inside, torch.zeros(encoding.dim))
            elif inside:
                value = sum(inside) / len(inside)
            else:
                crossed = [sum(a != b for a, b in zip(own, bits, strict=True)) for own in sides]
                value = tokens[crossed.index(min(crossed))]
            parts.append(value @ signs / encoding.projected_dim**0.5)
    return torch.cat(parts) / encoding.repetitions**0.5


def test_the_encoding_is_that_of_plain_loops(ragged):
    encoding = FixedDimensionalEncoding(8, repetitions=3, hyperplanes=2, projected_dim=5, seed=4)
    texts = ragged(7, seed=0)
    assert any(len(tokens) == 0 for tokens in texts)
    for vectors, is_query in ((encoding.queries(texts), True), (encoding.documents(texts), False)):
        assert vectors.shape == (7, encoding.width)
        truth = torch.stack([plain_encoding(encoding, tokens, is_query) for tokens in texts])
        torch.testing.assert_close(vectors, truth, atol=1e-5, rtol=1e-5)


def test_the_inner_product_follows_maxsim(ragged, pair_score):
    encoding = FixedDimensionalEncoding(8, repetitions=200, hyperplanes=5, projected_dim=8)
    queries, documents = ragged(8, seed=0, shortest=3), ragged(40, seed=1, shortest=3)
    estimates = encoding.queries(queries) @ encoding.documents(documents).T
    truth = torch.tensor([[pair_score(query, document) for document in documents] for query in queries])
    assert torch.corrcoef(torch.stack([estimates.flatten(), truth.flatten()]))[0, 1] > 0.9


def test_an_encoding_without_hyperplanes_is_one_bucket(ragged):
    encoding = FixedDimensionalEncoding(8, repetitions=2, hyperplanes=0, projected_dim=4)
    texts = ragged(3, seed=5, shortest=1)
    truth = torch.stack([plain_encoding(encoding, tokens, False) for tokens in texts])
    torch.testing.assert_close(encoding.documents(texts), truth, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="0 to 12 hyperplanes"):
        FixedDimensionalEncoding(8, hyperplanes=13)


def test_with_all_passages_as_candidates_the_result_is_the_exact_one(filled):
    index, queries = filled
    source = CentroidCandidates(index, probes=10_000)
    for where in (None, {"third": 1}, {"third": [0, 2]}, {"third": 7}):
        hits = TwoStageIndex(index, source, num_candidates=60).search(queries, top_k=12, where=where)
        truth = index.search(queries, top_k=12, where=where)
        assert hits.document_ids == truth.document_ids
        assert [score for row in hits.scores for score in row] == pytest.approx(
            [score for row in truth.scores for score in row], abs=1e-5
        )
    assert hits.document_ids == [[]] * 6


def test_few_candidates_hold_the_best_by_their_centroids(filled, pair_score):
    index, queries = filled
    source = CentroidCandidates(index, probes=10_000)
    found = source.candidates(queries[0], 5, None)
    approximate = {}
    for number, segment in enumerate(index.segments):
        centroids, ids = torch.from_numpy(segment.arrays["centroids"]).float(), segment.arrays["centroid_ids"]
        for row in segment.rows().tolist():
            own = ids[int(segment.offsets[row]) : int(segment.offsets[row + 1])].astype("int64")
            approximate[number, row] = pair_score(queries[0], centroids[own])
    lowest = min(approximate[number, int(row)] for number, rows in enumerate(found) for row in rows)
    assert sum(map(len, found)) == 5
    assert sum(score > lowest + 1e-6 for score in approximate.values()) < 5
    assert (
        TwoStageIndex(index, source, num_candidates=1).search([queries[0], queries[0][:0]], top_k=1).document_ids[1]
        == []
    )


def test_candidates_that_cannot_be_are_refused(filled, tmp_path, ragged):
    index, _ = filled
    with pytest.raises(ValueError, match="probes"):
        CentroidCandidates(index, probes=0)
    with pytest.raises(ValueError, match="num_candidates"):
        TwoStageIndex(index, CentroidCandidates(index), num_candidates=0)
    with StoredIndex.create(tmp_path / "half", dim=8) as half, pytest.raises(ValueError, match="residual codes"):
        CentroidCandidates(half)
