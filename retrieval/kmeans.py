"""Spherical k-means of token embeddings, for the centroids of residual codes."""

import torch
from torch import Tensor

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
