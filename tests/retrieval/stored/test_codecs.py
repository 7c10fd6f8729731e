"""Codes come back as tokens: by their closed forms, and no further off than their bits allow."""

import numpy as np
import pytest
import torch

from drdecr.retrieval.stored.codecs import CODECS, check_codec, decode_tokens, encode_tokens, similarities
from drdecr.retrieval.stored.residual import assign, best_buckets, cutoffs_of, kmeans


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(0)
    around = torch.nn.functional.normalize(torch.randn(20, 16, generator=generator), dim=-1)
    noise = torch.randn(900, 16, generator=generator) * 0.12
    return torch.nn.functional.normalize(around.repeat(45, 1) + noise, dim=-1)


def decoded(arrays, codec, count):
    return decode_tokens(arrays, codec, torch.arange(count))


@pytest.mark.parametrize(
    ("codec", "least"),
    [("float16", 0.99999), ("int8", 0.9999), ("residual4", 0.995), ("residual3", 0.985), ("residual2", 0.96)],
)
def test_a_decoded_token_points_where_it_did(tokens, codec, least):
    back = decoded(encode_tokens(tokens, codec), codec, len(tokens))
    assert back.dtype == torch.float32
    assert torch.cosine_similarity(back, tokens).mean() > least


@pytest.mark.parametrize(
    ("codec", "size"), [("float16", 32), ("int8", 18), ("residual4", 10), ("residual3", 8), ("residual2", 6)]
)
def test_a_token_takes_the_bytes_that_are_stated(tokens, codec, size):
    arrays = encode_tokens(tokens, codec)
    assert sum(array.nbytes for array in arrays.values() if len(array) == len(tokens)) == size * len(tokens)


@pytest.mark.parametrize("codec", ["residual4", "residual3", "residual2"])
def test_residual_codes_are_buckets_around_the_nearest_centroid(tokens, codec):
    arrays = encode_tokens(tokens, codec)
    bits = int(codec[-1])
    centroids, buckets = torch.from_numpy(arrays["centroids"]).float(), arrays["buckets"]
    for row in (0, 17, 899):
        distances = [float(((tokens[row] - centroid) ** 2).sum()) for centroid in centroids]
        nearest = int(arrays["centroid_ids"][row])
        assert distances[nearest] == pytest.approx(min(distances), abs=2e-3)
        written = "".join(f"{byte:08b}" for byte in arrays["codes"][row])
        codes = [int(written[start : start + bits], 2) for start in range(0, len(written), bits)]
        plain = centroids[nearest].numpy() + np.array([buckets[code] for code in codes])
        back = decode_tokens(arrays, codec, torch.tensor([row]))[0].numpy()
        np.testing.assert_allclose(back, plain / np.linalg.norm(plain), atol=1e-6)
        residual = (tokens[row] - centroids[nearest]).numpy()
        off = np.abs(buckets[None, :] - residual[:, None])
        assert off[np.arange(16), codes] == pytest.approx(off.min(axis=1), abs=1e-6)  # the nearest bucket


@pytest.mark.parametrize(("codec", "error"), [("residual4", 0.009497), ("residual3", 0.03454), ("residual2", 0.1175)])
def test_buckets_are_the_best_there_are_for_normal_numbers(codec, error):
    """Max (1960) tabulates the least squared error of 4, 8 and 16 levels for numbers of variance 1."""
    values = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    buckets = best_buckets(values, 2 ** int(codec[-1]))
    assert float(((buckets[torch.bucketize(values, cutoffs_of(buckets))] - values) ** 2).mean()) == pytest.approx(
        error, rel=0.05
    )


def test_int8_rounds_to_127_steps_of_the_largest_number(tokens):
    arrays = encode_tokens(tokens, "int8")
    step = tokens.abs().amax(dim=-1, keepdim=True) / 127
    assert ((decoded(arrays, "int8", 900) - tokens).abs() <= step * 0.51 + 1e-4).all()


@pytest.mark.parametrize("codec", CODECS)
def test_no_tokens_and_rows_of_any_shape(tokens, codec):
    nothing = encode_tokens(tokens[:0], codec)
    assert decode_tokens(nothing, codec, torch.zeros(3, 0, dtype=torch.int64)).shape == (3, 0, 16)
    arrays = encode_tokens(tokens[:5], codec)
    rows = torch.tensor([[4, 0], [2, 2]])
    torch.testing.assert_close(decode_tokens(arrays, codec, rows)[1, 0], decode_tokens(arrays, codec, torch.tensor(2)))


@pytest.mark.parametrize(
    ("codec", "dim"), [("float8", 16), ("residual5", 16), ("residual3", 12), ("residual2", 6), ("float16", 0)]
)
def test_codecs_that_cannot_be_are_refused(codec, dim):
    with pytest.raises(ValueError, match=r"codec"):
        check_codec(codec, dim)


@pytest.mark.parametrize("codec", CODECS)
def test_a_slice_and_products_are_those_of_decoded_rows(tokens, codec):
    arrays = encode_tokens(tokens, codec)
    back = decode_tokens(arrays, codec, torch.arange(100, 300))
    torch.testing.assert_close(decode_tokens(arrays, codec, slice(100, 300)), back)
    queries = tokens[:7]
    plain = [[float(query @ token) for token in back] for query in queries]
    for rows in (slice(100, 300), torch.arange(100, 300)):
        torch.testing.assert_close(similarities(queries, arrays, codec, rows), torch.tensor(plain), atol=1e-6, rtol=0)


def test_kmeans_finds_separate_groups_and_assigns_like_a_loop(tokens):
    axes = torch.eye(16)[:4]
    groups = torch.nn.functional.normalize(axes.repeat(50, 1) + torch.randn(200, 16) * 0.01, dim=-1)
    centroids = kmeans(groups, 12, iterations=10)
    assert (groups @ centroids.T).amax(dim=-1).min() > 0.99
    few = kmeans(tokens, 7)
    loop = [max(range(7), key=lambda number: float(token @ few[number])) for token in tokens[:40]]
    assert assign(tokens[:40], few).tolist() == loop
