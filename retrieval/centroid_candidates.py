"""Candidates by the centroids of residual codes (PLAID, Santhanam et al. 2022): no token is decoded to find them.

Passages with a token at one of a query token's nearest centroids come into question; they are ordered by MaxSim with
each token replaced by its centroid.
"""

import numpy as np
import torch
from torch import Tensor

from .protocol import Where
from .ragged import best_of_passages, cut_into_blocks, places_of_tokens
from .ranking import Ranking
from .segments import TOKENS_A_BLOCK, Segment
from .stored import StoredIndex


class CentroidCandidates:
    """Inverted lists from centroids to passages, made of an index of residual codes.

    Memory holds 4 bytes for each passage in each list: at most as many as it has tokens.

    Args:
        index: with a residual codec.
        probes: centroids a query token whose passages are looked at (default 4; ColBERTv2 takes 1 to 4).

    Raises:
        ValueError: for another codec or no probe.
    """

    def __init__(self, index: StoredIndex, probes: int = 4) -> None:
        if not index.manifest.codec.startswith("residual"):
            raise ValueError(
                f"Candidates by centroids need residual codes, got an index of {index.manifest.codec}. Make one with "
                "`drdecr index FOLDER NEW_FOLDER --codec residual4`."
            )
        if probes < 1:
            raise ValueError(f"probes: expected at least 1, got {probes}. More find more.")
        self.index, self.probes = index, probes
        self._lists = [_Lists(segment) for segment in index.segments]

    def candidates(self, query: Tensor, count: int, where: Where | None) -> list[Tensor]:
        """Return for each segment the rows among the `count` best by their centroids."""
        ranking = Ranking(1, count)
        for number, (segment, lists) in enumerate(zip(self.index.segments, self._lists, strict=True)):
            similarities = query @ lists.centroids.T  # (query_tokens, centroids)
            rows = lists.rows_near(similarities, self.probes)
            allowed = torch.zeros(segment.record.passages, dtype=torch.bool)
            allowed[segment.rows(where)] = True
            rows = rows[allowed[rows]]
            ranking.add(number, rows, lists.scores(similarities, rows)[None, :])
        places, _ = ranking.best()[0]
        return [
            torch.tensor(sorted(row for number, row in places if number == wanted), dtype=torch.int64)
            for wanted in range(len(self.index.segments))
        ]


class _Lists:
    """One segment's centroids, and for each the rows that have a token there."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.centroids = torch.from_numpy(segment.arrays["centroids"]).float()
        self.ids = segment.arrays["centroid_ids"]  # mapped
        rows = torch.arange(segment.record.passages)
        owners = torch.repeat_interleave(rows, segment.lengths(rows))
        pairs = torch.unique(torch.from_numpy(self.ids.astype(np.int64)) * segment.record.passages + owners)
        self.rows = (pairs % segment.record.passages).int()
        counts = torch.bincount(pairs // segment.record.passages, minlength=len(self.centroids))
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])

    def rows_near(self, similarities: Tensor, probes: int) -> Tensor:
        """Return the rows in the lists of each query token's nearest centroids, ascending."""
        if not len(similarities):
            return torch.empty(0, dtype=torch.int64)
        nearest = similarities.topk(min(probes, len(self.centroids)), dim=1).indices.unique()
        lists = [self.rows[self.starts[number] : self.starts[number + 1]] for number in nearest.tolist()]
        return torch.cat(lists).unique().long()

    def scores(self, similarities: Tensor, rows: Tensor) -> Tensor:
        """Return MaxSim of rows with centroids in the place of tokens: `(rows,)`. Every row has a token."""
        lengths = self.segment.lengths(rows).numpy()
        scores = []
        for start, stop in cut_into_blocks(lengths, TOKENS_A_BLOCK):
            places = places_of_tokens(self.segment.offsets[rows[start:stop]], lengths[start:stop])
            ids = torch.from_numpy(self.ids[places.numpy()].astype(np.int64))
            of_tokens = similarities.index_select(1, ids)  # (query_tokens, tokens)
            scores.append(torch.from_numpy(best_of_passages(of_tokens, lengths[start:stop]).sum(axis=0)))
        return torch.cat(scores) if scores else similarities.new_zeros(0)
