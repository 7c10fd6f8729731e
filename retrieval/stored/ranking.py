"""The best of many scores, segment after segment, in an order that does not depend on chance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from drdecr.modeling_drdecr.encoding_drdecr import PackedEmbeddings, map_in_threads

from .segment import Segment

ROWS_PER_PART = 4096
"""Rows of a segment that a thread scores at once: enough to be worth its start."""


class Ranking:
    """The highest scores of some queries so far.

    Args:
        num_queries: how many.
        top_k: scores that are kept a query.
    """

    def __init__(self, num_queries: int, top_k: int) -> None:
        self.top_k = top_k
        self._scores = [torch.empty(0) for _ in range(num_queries)]
        self._segments = [torch.empty(0, dtype=torch.int64) for _ in range(num_queries)]
        self._rows = [torch.empty(0, dtype=torch.int64) for _ in range(num_queries)]

    def add(self, segment: int, rows: Tensor, scores: Tensor) -> None:
        """Take in a segment's scores.

        Args:
            segment: its number.
            rows: int64 `(rows,)`.
            scores: `(num_queries, rows)`.
        """
        for query, new_scores in enumerate(scores):
            best = self._scores[query]
            if not len(new_scores) or (len(best) == self.top_k and new_scores.max() <= best[-1]):
                continue
            columns = best_first(new_scores, self.top_k)
            joined = torch.cat([best, new_scores[columns]])
            segments = torch.cat([self._segments[query], torch.full_like(columns, segment)])
            places = torch.cat([self._rows[query], rows[columns]])
            order = best_first(joined, self.top_k)
            self._scores[query] = joined[order]
            self._segments[query], self._rows[query] = segments[order], places[order]

    def best(self) -> list[tuple[list[tuple[int, int]], list[float]]]:
        """Return for each query the places `(segment, row)` and scores, best first; equal ones in the order of adding."""
        return [
            (list(zip(segments.tolist(), rows.tolist(), strict=True)), scores.tolist())
            for segments, rows, scores in zip(self._segments, self._rows, self._scores, strict=True)
        ]


def rank(queries: PackedEmbeddings, segments: Sequence[Segment], places: Sequence[Tensor], top_k: int) -> Ranking:
    """Score queries against some rows of each segment; of many rows each thread of torch takes a part at a time.

    Args:
        queries: float32 tokens of some queries.
        segments: of an index.
        places: for each segment, ascending rows.
        top_k: scores that are kept a query.
    """
    parts = [
        (number, segment, rows)
        for number, (segment, every) in enumerate(zip(segments, places, strict=True))
        for rows in every.split(ROWS_PER_PART)
    ]
    is_large = sum(len(every) for every in places) >= ROWS_PER_PART
    scored = map_in_threads(
        lambda part: part[1].scores(queries, part[2]), parts, torch.get_num_threads() if is_large else 1
    )
    ranking = Ranking(len(queries), top_k)
    for (number, _, rows), scores in zip(parts, scored, strict=True):
        ranking.add(number, rows, scores)
    return ranking


def best_first(scores: Tensor, top_k: int) -> Tensor:
    """Return the indices of the `top_k` highest scores, best first; equal ones in their order (`topk` leaves it to chance)."""
    if len(scores) > top_k:
        threshold = scores.topk(top_k).values[-1]
        among = (scores >= threshold).nonzero()[:, 0]
    else:
        among = torch.arange(len(scores))
    return among[scores[among].argsort(descending=True, stable=True)[:top_k]]
