"""Small seeded passages and queries, and the score of a pair by a plain loop."""

import pytest
import torch


@pytest.fixture(scope="session")
def ragged():
    """Return unit token vectors of `count` texts, `shortest` to 6 tokens each."""

    def make(count: int, seed: int, dim: int = 8, shortest: int = 0) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(shortest, 7, (count,), generator=generator).tolist()
        return [torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=-1) for n in lengths]

    return make


@pytest.fixture(scope="session")
def pair_score():
    """Return the MaxSim of one query and one passage, by a loop."""

    def score(query: torch.Tensor, passage: torch.Tensor) -> float:
        return sum(max(row, default=-1.0) for row in (query @ passage.T).tolist())

    return score


@pytest.fixture
def ranked(pair_score):
    """Return `[(id, score)]` of `{id: tokens}` for a query, best first."""

    def rank(query: torch.Tensor, passages: dict[str, torch.Tensor], top_k: int) -> list[tuple[str, float]]:
        scored = [(name, pair_score(query, tokens)) for name, tokens in passages.items()]
        return sorted(scored, key=lambda pair: -pair[1])[:top_k]

    return rank
