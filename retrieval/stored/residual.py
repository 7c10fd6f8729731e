"""Residual codes (ColBERTv2, Santhanam et al. 2022): a token's nearest centroid, and a bucket for each number of what is left."""

import numpy as np
import torch
from torch import Tensor

CENTROIDS_PER_ROOT = 16
"""Centroids for n tokens: 16 sqrt(n), as in ColBERTv2."""
TOKENS_PER_CENTROID = 16
"""At least: fewer tokens than this a centroid, and the centroids would weigh more than the codes."""
BUCKET_NUMBERS, BUCKET_ROUNDS = 500_000, 100
"""Numbers of residuals that the buckets are made from, and Lloyd's rounds over them."""
MAX_CENTROIDS = 2048
"""More would make an index slow to write: every token is compared with each."""
CODES_PER_GROUP = {4: 2, 3: 8, 2: 4}
"""Codes, by their bits, that fill whole bytes together."""
BITS_PER_WORD = {4: 8, 3: 12, 2: 8}
"""Bits that are looked up at once when codes are read: whole codes, in a table that stays in a cache."""
TOKENS_PER_BLOCK = 65_536


def learn_codes(sample: Tensor, num_tokens: int, bits: int, seed: int) -> tuple[Tensor, Tensor]:
    """Make centroids and buckets.

    Args:
        sample: float32 `(sampled tokens, dim)`.
        num_tokens: of the whole.
        bits: of a code.
        seed: of the tokens that centroids start from.

    Returns:
        Centroids `(centroids, dim)` and bucket values `(2 ** bits,)`, ascending, float32; centroids are half numbers.
    """
    count = min(int(CENTROIDS_PER_ROOT * num_tokens**0.5), num_tokens // TOKENS_PER_CENTROID, MAX_CENTROIDS)
    if not len(sample):
        return sample.new_zeros(1, sample.shape[1]), torch.zeros(2**bits)
    centroids = kmeans(sample, max(1, min(count, len(sample))), seed=seed).half().float()
    residuals = sample - centroids[assign(sample, centroids)]
    return centroids, best_buckets(residuals.flatten(), 2**bits)


def best_buckets(values: Tensor, count: int) -> Tensor:
    """Return the `count` values that stand for all with the least squared error, ascending.

    Lloyd's rounds from the equally filled buckets of ColBERTv2: a cut-off lies half way between two values, a value is the
    mean of its bucket.
    """
    if not len(values):
        return torch.zeros(count)
    ordered = values[:BUCKET_NUMBERS].double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])  # a bucket is a stretch of them, its sum a difference
    middles = ((torch.arange(count) + 0.5) / count * len(ordered)).long()
    buckets = ordered[middles]
    for _ in range(BUCKET_ROUNDS):
        ends = torch.searchsorted(ordered, cutoffs_of(buckets))
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(ordered))])
        sizes = ends.diff()
        buckets = torch.where(sizes > 0, sums[ends].diff() / sizes.clamp(min=1), buckets)
    return buckets.float()


def cutoffs_of(buckets: Tensor) -> Tensor:
    """Return what lies half way between neighbouring values."""
    return (buckets[1:] + buckets[:-1]) / 2


def encode_residuals(tokens: Tensor, centroids: Tensor, buckets: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return codes, uint8 `(tokens, dim * bits / 8)`, and nearest centroids, int64 `(tokens,)`, of float32 `(tokens, dim)`."""
    ids, cutoffs = assign(tokens, centroids), cutoffs_of(buckets)
    parts = zip(tokens.split(TOKENS_PER_BLOCK), ids.split(TOKENS_PER_BLOCK), strict=True)
    codes = [pack(torch.bucketize(part - centroids[nearest], cutoffs), bits) for part, nearest in parts]
    return torch.cat(codes), ids


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes `(tokens, dim)` of `bits` each into bytes `(tokens, dim * bits / 8)`, the first code in the highest bits."""
    group = CODES_PER_GROUP[bits]
    grouped = codes.unflatten(-1, (codes.shape[-1] // group, group))
    words = (grouped << torch.arange(group * bits - bits, -1, -bits)).sum(dim=-1)
    return (words[..., None] >> torch.arange(group * bits - 8, -1, -8) & 255).flatten(1).to(torch.uint8)


def look_up(codes: np.ndarray, buckets: np.ndarray, bits: int, numbers: np.ndarray) -> None:
    """Write what packed codes stand for into `numbers`, float32 `(tokens, dim)`: some are looked up at once."""
    width = BITS_PER_WORD[bits]
    every_word = np.arange(2**width)[:, None] >> np.arange(width - bits, -1, -bits) & (2**bits - 1)
    words = (codes if width == 8 else _words_of_12_bits(codes)).astype(np.intp).ravel()
    # numpy's take: three times as fast as torch's index_select for rows of a few bytes.
    np.take(buckets[every_word], words, axis=0, out=numbers.reshape(len(words), width // bits), mode="clip")


def _words_of_12_bits(codes: np.ndarray) -> np.ndarray:
    """Return the two words of each three bytes: `(tokens, bytes)` uint8 to `(tokens, bytes / 3, 2)` uint16."""
    first, second, third = (codes[:, place::3].astype(np.uint16) for place in range(3))
    return np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], axis=-1)


BLOCK = 8192


def kmeans(tokens: Tensor, num_centroids: int, iterations: int = 4, seed: int = 0) -> Tensor:
    """Find unit centroids by Lloyd's iterations from tokens drawn at random.

    Args:
        tokens: `(tokens, dim)` float32, L2-normalised.
        num_centroids: how many; at most as many as tokens.
        iterations: rounds of assignment and mean (default 4, as ColBERTv2 asks of faiss).
        seed: of the draw.

    Returns:
        `(num_centroids, dim)` float32, L2-normalised. A centroid that nothing is nearest to stays where it was.
    """
    generator = torch.Generator().manual_seed(seed)
    centroids = tokens[torch.randperm(len(tokens), generator=generator)[:num_centroids]].clone()
    for _ in range(iterations):
        nearest = assign(tokens, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, tokens)
        norms = sums.norm(dim=-1, keepdim=True)
        centroids = torch.where(norms > 1e-6, sums / norms.clamp(min=1e-6), centroids)
    return centroids


def assign(tokens: Tensor, centroids: Tensor) -> Tensor:
    """Return the nearest centroid of each token: int64 `(tokens,)`."""
    return torch.cat([(block @ centroids.T).argmax(dim=-1) for block in tokens.split(BLOCK)] or [torch.empty(0).long()])
