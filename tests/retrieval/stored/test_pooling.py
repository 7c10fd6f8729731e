"""Pooled tokens against clusters made by a plain loop of Ward's merges."""

import pytest
import torch

from drdecr.retrieval import pool_tokens


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_near_copies_become_their_mean_and_the_first_stays():
    centres = torch.eye(8)[:3]
    tokens = torch.cat([unit(1, 8), centres.repeat_interleave(4, 0) + 0.01 * unit(12, 8, seed=1)])
    tokens = torch.nn.functional.normalize(tokens, dim=-1)
    pooled = pool_tokens(tokens, 4)
    assert pooled.shape == (4, 8)
    torch.testing.assert_close(pooled[0], tokens[0])
    for number in range(3):
        mean = tokens[1 + 4 * number : 5 + 4 * number].mean(dim=0)
        torch.testing.assert_close(pooled[1 + number], mean / mean.norm())


def test_clusters_are_those_of_wards_merges():
    tokens = unit(9, 8)
    pooled = pool_tokens(tokens, 2, protected=0)
    distance = {
        (a, b): float((1 - tokens[a] @ tokens[b]).clamp(min=0)) ** 2 for a in range(9) for b in range(9) if a != b
    }
    clusters = {number: [number] for number in range(9)}
    while len(clusters) > 4:  # Lance and Williams' recurrence on squared distances
        a, b = min(((a, b) for a in clusters for b in clusters if a < b), key=distance.__getitem__)
        na, nb = len(clusters[a]), len(clusters[b])
        for c in clusters.keys() - {a, b}:
            nc = len(clusters[c])
            merged = (na + nc) * distance[a, c] + (nb + nc) * distance[b, c] - nc * distance[a, b]
            distance[a, c] = distance[c, a] = merged / (na + nb + nc)
        clusters[a] += clusters.pop(b)
    means = [tokens[sorted(members)].mean(dim=0) for members in sorted(clusters.values(), key=min)]
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(torch.stack(means), dim=-1))


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_short_passages_lose_no_more_than_they_have(length):
    tokens = unit(length, 8)
    assert len(pool_tokens(tokens, 3)) == min(length, 2)
    torch.testing.assert_close(pool_tokens(tokens, 1), tokens)


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        pool_tokens(unit(3, 8), 0)
