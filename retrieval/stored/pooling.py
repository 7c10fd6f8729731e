"""Fewer tokens a passage: tokens that say nearly the same become one (Clavié et al. 2024, hierarchical pooling)."""

import torch
from torch import Tensor

from drdecr.retrieval.protocol import check_count


def pool_tokens(tokens: Tensor, factor: int, protected: int = 1) -> Tensor:
    """Cluster a passage's tokens and keep each cluster's mean.

    Clusters are made by Ward's linkage of cosine distances, as PyLate and colpali-engine make them.

    Args:
        tokens: `(tokens, dim)`, L2-normalised.
        factor: tokens that become one on average; 1 leaves all.
        protected: first tokens that stay as they are (default 1: the marker, which stands for the whole passage).

    Returns:
        `(about tokens / factor, dim)`, L2-normalised, in the order of each cluster's first token.

    Raises:
        ValueError: for a factor that is no whole number of at least 1, or a number of tokens below 0.
    """
    check_count("pool_tokens: factor", factor)
    check_count("pool_tokens: protected", protected, 0)
    first, rest = tokens[:protected], tokens[protected:]
    clusters = max(len(rest) // factor, 1)
    if factor == 1 or clusters >= len(rest):
        return tokens
    # Here, because importing it would cost everyone who searches a part of a second.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distances = (1 - rest.double() @ rest.double().T).clamp(min=0)
    distances.fill_diagonal_(0)
    tree = linkage(squareform(distances.numpy(), checks=False), method="ward")
    labels = torch.from_numpy(fcluster(tree, clusters, criterion="maxclust").astype("int64"))
    members = torch.nn.functional.one_hot(labels - 1).to(rest.dtype)  # (tokens, clusters)
    order = members.argmax(dim=0).argsort()
    means = torch.nn.functional.normalize((members.T @ rest)[order], dim=-1)
    return torch.cat([first, means])
