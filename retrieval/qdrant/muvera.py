"""One fixed vector for all tokens of a text, whose inner product follows MaxSim (MUVERA, Dhulipala et al. 2024).

Random hyperplanes cut the sphere into buckets. A query's vector holds, for each bucket, the sum of its tokens there, a
document's the mean of its own; where a document has none, the token that lies fewest hyperplanes away stands in. Each
bucket is projected to fewer numbers, and all is done several times with other hyperplanes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS_PER_BLOCK = 65_536


@dataclass(frozen=True)
class FixedDimensionalEncoding:
    """The draw of hyperplanes and projections; queries and documents need the same.

    Args:
        dim: width of the tokens.
        repetitions: draws, one behind the other (default 20, the paper's).
        hyperplanes: of each draw; 2 to that power buckets (default 4; the paper takes 3 to 6).
        projected_dim: numbers a bucket (default 16).
        seed: of the draws.
    """

    dim: int
    repetitions: int = 20
    hyperplanes: int = 4
    projected_dim: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the sizes."""
        if min(self.dim, self.repetitions, self.projected_dim) < 1 or not 0 <= self.hyperplanes <= 12:
            raise ValueError(
                f"MUVERA: expected sizes of at least 1 and 0 to 12 hyperplanes, got {self}. Leave them out for the defaults."
            )

    @property
    def width(self) -> int:
        """Numbers of a text's vector."""
        return self.repetitions * self.projected_dim * 2**self.hyperplanes

    def queries(self, embeddings: list[Tensor]) -> Tensor:
        """Encode queries, `(tokens, dim)` each, to float32 `(num_queries, width)`; without a token: zeros."""
        return self._encode(embeddings, self._query_repetition)

    def documents(self, embeddings: list[Tensor]) -> Tensor:
        """Encode documents; as `queries`."""
        return self._encode(embeddings, self._document_repetition)

    def _encode(self, embeddings: list[Tensor], repetition: Callable[..., Tensor]) -> Tensor:
        blocks, start = [], 0
        while start < len(embeddings):
            stop, taken = start, 0
            while stop < len(embeddings) and (stop == start or taken + len(embeddings[stop]) <= TOKENS_PER_BLOCK):
                taken += len(embeddings[stop])
                stop += 1
            blocks.append(self._encode_block(embeddings[start:stop], repetition))
            start = stop
        return torch.cat(blocks) if blocks else torch.zeros(0, self.width)

    def _encode_block(self, embeddings: list[Tensor], repetition: Callable[..., Tensor]) -> Tensor:
        tokens = torch.cat(embeddings).float()
        lengths = torch.tensor([len(of_text) for of_text in embeddings])
        owners = torch.repeat_interleave(torch.arange(len(embeddings)), lengths)
        generator = torch.Generator().manual_seed(self.seed)
        parts = []
        for _ in range(self.repetitions):
            planes = torch.randn(self.dim, self.hyperplanes, generator=generator)
            signs = torch.randint(0, 2, (self.dim, self.projected_dim), generator=generator).float() * 2 - 1
            buckets = ((tokens @ planes > 0) << torch.arange(self.hyperplanes)).sum(dim=-1)
            projected = tokens @ (signs / self.projected_dim**0.5)
            parts.append(repetition(projected, buckets, owners, len(embeddings)).flatten(1))
        # One scale for all: the inner product estimates MaxSim itself, not its multiple.
        return torch.cat(parts, dim=1) / self.repetitions**0.5

    def _sums(self, projected: Tensor, buckets: Tensor, owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
        places = owners * 2**self.hyperplanes + buckets
        sums = torch.zeros(count * 2**self.hyperplanes, self.projected_dim).index_add_(0, places, projected)
        filled = torch.bincount(places, minlength=count * 2**self.hyperplanes)
        return sums.view(count, -1, self.projected_dim), filled.view(count, -1)

    def _query_repetition(self, projected: Tensor, buckets: Tensor, owners: Tensor, count: int) -> Tensor:
        return self._sums(projected, buckets, owners, count)[0]

    def _document_repetition(self, projected: Tensor, buckets: Tensor, owners: Tensor, count: int) -> Tensor:
        sums, filled = self._sums(projected, buckets, owners, count)
        means = sums / filled.clamp(min=1)[..., None]
        if not len(projected):
            return means
        nearest = self._nearest_tokens(buckets, owners, count)  # (count, buckets)
        has_token = torch.bincount(owners, minlength=count)[:, None] > 0
        return torch.where(((filled == 0) & has_token)[..., None], projected[nearest], means)

    def _nearest_tokens(self, buckets: Tensor, owners: Tensor, count: int) -> Tensor:
        """Return for each document and bucket the first of its tokens that lies fewest hyperplanes away."""
        every = torch.arange(2**self.hyperplanes)
        crossed = every[:, None] ^ every[None, :]
        distances = ((crossed[..., None] >> torch.arange(max(self.hyperplanes, 1))) & 1).sum(dim=-1)
        keys = distances[buckets] * len(buckets) + torch.arange(len(buckets))[:, None]  # (tokens, buckets)
        lowest = keys.new_full((count, len(every)), torch.iinfo(keys.dtype).max)
        lowest = lowest.scatter_reduce(0, owners[:, None].expand(-1, len(every)), keys, "amin")
        return torch.where(lowest == torch.iinfo(keys.dtype).max, 0, lowest % len(buckets))
